//! One QEMU guest: its process, and the lines of its serial console.

use super::packages::Packages;
use crate::embedded::interrupt;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const MEMORY_MB: u32 = 192;
/// Longest console line kept, in bytes.
const LINE_MAX: u64 = 4096;
/// Console lines kept to show when something goes wrong.
const TAIL_LEN: usize = 12;

/// What runs the guests' code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The processor's own virtualisation.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

impl Accelerator {
    /// What to try, best first. /dev/kvm can be there and yet run no guest: that is found out by trying, and
    /// remembered in `memo` until the machine boots again.
    pub(super) fn candidates(memo: &Path) -> &'static [Self] {
        let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        let failed_before = std::fs::read_to_string(memo).is_ok_and(|text| text == boot_id());
        if kvm.is_ok() && !failed_before { &[Self::Kvm, Self::Tcg] } else { &[Self::Tcg] }
    }

    /// Remembers that KVM runs no guest.
    pub(super) fn remember_failure(memo: &Path) {
        // Without the memo the next demo tries again.
        let _ = std::fs::write(memo, boot_id());
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (software emulation)",
        }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "qemu64"],
        }
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// What makes one guest.
#[derive(Clone, Debug)]
pub(crate) struct GuestSpec {
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) address: String,
    pub(crate) peer: String,
    /// What it does, in the words of init.sh: `client`, `server`, `ask` or `answer`.
    pub(crate) role: &'static str,
    /// How long `ask` asks.
    pub(crate) seconds: u64,
    pub(crate) socket: PathBuf,
}

/// A running guest. Its process ends when this is dropped.
pub(crate) struct QemuGuest {
    pub(crate) name: String,
    process: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    tail: Vec<String>,
}

impl QemuGuest {
    /// Starts QEMU. Nothing has booted yet when this returns.
    pub(super) fn start(
        packages: &Packages,
        accelerator: Accelerator,
        spec: &GuestSpec,
        kernel: &Path,
        initramfs: &Path,
    ) -> Result<Self> {
        let mut command = command(packages, accelerator, spec, kernel, initramfs)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("starting QEMU for {}", spec.name))?;
        interrupt::add_child(process.id());
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = process.stdout.take() {
            read_lines(stdout, sender.clone());
        }
        if let Some(stderr) = process.stderr.take() {
            read_lines(stderr, sender);
        }
        let input = process.stdin.take();
        Ok(Self { name: spec.name.clone(), process, input, lines, tail: Vec::new() })
    }

    /// Types a line on the console.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the console has no input")?;
        writeln!(input, "{line}").with_context(|| format!("typing on the console of {}", self.name))
    }

    /// The next console line, or an error when none came until `deadline` or the guest has ended.
    pub(super) fn next_line(&mut self, deadline: Instant) -> Result<String> {
        let patience = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                if self.tail.len() == TAIL_LEN {
                    self.tail.remove(0);
                }
                self.tail.push(line.clone());
                Ok(line)
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("{} fell silent; last lines:{}", self.name, self.tail())
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status =
                    self.process.wait().map_or_else(|fault| fault.to_string(), |status| status.to_string());
                bail!("QEMU of {} ended ({status}); last lines:{}", self.name, self.tail())
            }
        }
    }

    /// The rest of the next line that begins with `@`, and the lines before it.
    pub(crate) fn next_mark(&mut self, deadline: Instant) -> Result<(Vec<String>, String)> {
        let mut before = Vec::new();
        loop {
            let line = self.next_line(deadline)?;
            match line.strip_prefix("@ ") {
                Some(mark) if mark.starts_with("failed") => bail!("{}: {mark}{}", self.name, self.tail()),
                Some(mark) => return Ok((before, mark.to_owned())),
                None if before.len() < 200 => before.push(line),
                None => {}
            }
        }
    }

    fn tail(&self) -> String {
        self.tail.iter().map(|line| format!("\n    {line}")).collect()
    }
}

impl Drop for QemuGuest {
    fn drop(&mut self) {
        interrupt::forget_child(self.process.id());
        // Its own process, by its handle; one that has ended already needs nothing.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(
    packages: &Packages,
    accelerator: Accelerator,
    spec: &GuestSpec,
    kernel: &Path,
    initramfs: &Path,
) -> Result<Command> {
    let qemu = packages.find(&["usr/bin/qemu-system-x86_64"])?;
    let mut command = packages.program(&qemu)?;
    if let Some(modules) = packages.dirs(&["usr/lib/x86_64-linux-gnu/qemu"]).next() {
        command.env("QEMU_MODULE_DIR", modules);
    }
    for firmware in packages.dirs(&["usr/share/qemu", "usr/share/seabios"]) {
        command.arg("-L").arg(firmware);
    }
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.args(accelerator.arguments());
    command.args(["-smp", "1", "-m", &MEMORY_MB.to_string(), "-machine", "q35,memory-backend=mem0"]);
    command.arg("-object").arg(format!("memory-backend-memfd,id=mem0,share=on,size={MEMORY_MB}M"));
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    let GuestSpec { mac, address, peer, role, seconds, socket, .. } = spec;
    command.arg("-append").arg(format!(
        "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off \
         demo.role={role} demo.address={address} demo.peer={peer} demo.seconds={seconds}"
    ));
    command.arg("-chardev").arg(format!("socket,id=char0,path={}", socket.display()));
    command.args(["-netdev", "vhost-user,id=net0,chardev=char0", "-device"]);
    // QEMU 7.2 (Debian 12) under TCG takes its KVM way when a vhost-user device has MSI-X, and dies of it.
    let vectors = if accelerator == Accelerator::Tcg { ",vectors=0" } else { "" };
    command.arg(format!("virtio-net-pci,netdev=net0,mac={mac},romfile={vectors}"));
    Ok(command)
}

/// Sends the lines of a stream until it ends or nobody listens.
fn read_lines(stream: impl Read + Send + 'static, sender: mpsc::Sender<String>) {
    let read = move || {
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = Vec::new();
            match stream.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if sender.send(readable(&line)).is_err() => return,
                Ok(_) => {}
            }
        }
    };
    // Without the thread the guest is silent, which its reader reports.
    let _ = std::thread::Builder::new().name("demo-console".into()).spawn(read);
}

/// A console line without its end and without control characters.
fn readable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let marked =
        text.find("@ ").filter(|at| text[..*at].chars().all(|c| c.is_control() || c == '[' || c == 'c'));
    text[marked.unwrap_or(0)..].chars().filter(|c| !c.is_control()).collect::<String>().trim_end().to_owned()
}

/// Longest time without a line while a guest boots.
pub(super) fn boot_limit(accelerator: Accelerator) -> Duration {
    match accelerator {
        Accelerator::Kvm => Duration::from_secs(15),
        Accelerator::Tcg => Duration::from_secs(120),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_lines_are_cleaned() {
        assert_eq!(readable(b"\x1bc@ up 52:54\r\n"), "@ up 52:54");
        assert_eq!(readable(b"64 bytes from 10.0.0.2\r\n"), "64 bytes from 10.0.0.2");
        assert_eq!(readable(b"mail a@ b\n"), "mail a@ b");
    }
}
