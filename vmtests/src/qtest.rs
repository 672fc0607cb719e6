//! QEMU without a guest: its qtest accelerator runs no code, and what a driver would do is said line by line over a socket.
//!
//! Theory of operation. Each line is an access to a port or to memory, answered by `OK` and what was read
//! (QEMU's `docs/devel/testing/qtest.rst`). One takes some tens of microseconds, so thousands fit into a second. PCI
//! configuration space is reached by the two ports of mechanism #1 (PCI 3.0 §3.2.2.3.2), which both machines have.

use crate::guest::Lab;
use crate::process::{Peer, tail};
use anyhow::{Context, bail};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Time in which QEMU listens, and in which it answers a line.
const LIMIT: Duration = Duration::from_secs(20);
/// Memory of the machine in MiB, from address 0 on.
pub const MEMORY_MB: u64 = 64;

const CONFIG_ADDRESS: u64 = 0xcf8;
const CONFIG_DATA: u64 = 0xcfc;

/// What an address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Port I/O.
    Port,
    /// Memory.
    Memory,
}

/// A machine whose processor is the test. Dropping it kills its QEMU.
#[derive(Debug)]
pub struct Qtest {
    peer: Peer,
    stream: BufReader<UnixStream>,
}

impl Qtest {
    /// Starts QEMU with `machine` and further arguments.
    ///
    /// # Errors
    /// QEMU ended, or does not listen; with what it printed.
    pub fn start(lab: &Lab, name: &str, machine: &str, arguments: &[String]) -> anyhow::Result<Self> {
        let socket = lab.directory.join(format!("{name}.qtest"));
        let mut command = lab.sysroot.command("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"]);
        command.args(["-accel", "qtest", "-m", &MEMORY_MB.to_string()]);
        command.args(["-machine", &format!("{machine},memory-backend=mem")]);
        command.args(["-object", &format!("memory-backend-memfd,id=mem,share=on,size={MEMORY_MB}M")]);
        command.args(["-qtest", &format!("unix:{},server=on,wait=off", socket.display())]);
        command.args(["-qtest-log", "none"]).args(arguments);
        let mut peer = Peer::start(name, &lab.directory, &mut command)?;
        let end = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(_) if !peer.is_running() => bail!("QEMU ended: {}", tail(&peer.log(), 5)),
                Err(error) if Instant::now() > end => return Err(error).context("QEMU's test socket"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Self { peer, stream: BufReader::new(stream) })
    }

    /// Says one line; what stands behind `OK` in the answer.
    ///
    /// # Errors
    /// QEMU refused the line, or is gone.
    pub fn say(&mut self, line: &str) -> anyhow::Result<String> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        let count = self.stream.read_line(&mut answer).with_context(|| line.to_owned())?;
        match answer.trim_end().strip_prefix("OK") {
            Some(rest) => Ok(rest.trim_start().to_owned()),
            None if count == 0 => bail!("{line}: QEMU ended: {}", tail(&self.peer.log(), 5)),
            None => bail!("{line}: {answer}"),
        }
    }

    /// Reads `width` bytes: 1, 2 or 4, of memory also 8.
    pub fn read(&mut self, space: Space, address: u64, width: usize) -> anyhow::Result<u64> {
        let word = word(space, width, ["inb", "inw", "inl"], ["readb", "readw", "readl", "readq"])?;
        let answer = self.say(&format!("{word} {address:#x}"))?;
        let digits = answer.trim_start_matches("0x");
        u64::from_str_radix(digits, 16).with_context(|| format!("{word}: {answer}"))
    }

    /// Writes the lower `width` bytes of `value`: 1, 2 or 4, to memory also 8.
    pub fn write(&mut self, space: Space, address: u64, width: usize, value: u64) -> anyhow::Result<()> {
        let words = ["writeb", "writew", "writel", "writeq"];
        let word = word(space, width, ["outb", "outw", "outl"], words)?;
        let value = if width >= 8 { value } else { value & ((1 << (8 * width)) - 1) };
        self.say(&format!("{word} {address:#x} {value:#x}")).map(drop)
    }

    /// Writes a run of bytes to memory.
    pub fn fill(&mut self, address: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.say(&format!("write {address:#x} {:#x} 0x{digits}", bytes.len())).map(drop)
    }

    /// Reads from the configuration space of the function at `devfn` of bus 0.
    pub fn config_read(&mut self, devfn: u8, offset: u8, width: usize) -> anyhow::Result<u64> {
        self.config_select(devfn, offset)?;
        self.read(Space::Port, CONFIG_DATA + u64::from(offset % 4), width)
    }

    /// Writes to the configuration space of the function at `devfn` of bus 0.
    pub fn config_write(&mut self, devfn: u8, offset: u8, width: usize, value: u64) -> anyhow::Result<()> {
        self.config_select(devfn, offset)?;
        self.write(Space::Port, CONFIG_DATA + u64::from(offset % 4), width, value)
    }

    fn config_select(&mut self, devfn: u8, offset: u8) -> anyhow::Result<()> {
        let address = 1 << 31 | u64::from(devfn) << 8 | u64::from(offset & !3);
        self.write(Space::Port, CONFIG_ADDRESS, 4, address)
    }
}

fn word(
    space: Space,
    width: usize,
    ports: [&'static str; 3],
    memory: [&'static str; 4],
) -> anyhow::Result<&'static str> {
    let words: &[&'static str] = if space == Space::Port { &ports } else { &memory };
    let at = if width.is_power_of_two() { width.trailing_zeros() as usize } else { usize::MAX };
    words.get(at).copied().with_context(|| format!("no access of {width} bytes to {space:?}"))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn words_follow_the_width() {
        let (ports, memory) = (["inb", "inw", "inl"], ["readb", "readw", "readl", "readq"]);
        assert_eq!(word(Space::Port, 4, ports, memory).ok(), Some("inl"));
        assert_eq!(word(Space::Memory, 8, ports, memory).ok(), Some("readq"));
        assert!(word(Space::Port, 8, ports, memory).is_err());
        assert!(word(Space::Memory, 3, ports, memory).is_err());
    }
}
