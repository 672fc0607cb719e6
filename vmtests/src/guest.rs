//! QEMU guests: Debian's cloud kernel with a small initramfs, driven over a serial line.
//!
//! Theory of operation. [`initramfs`] packs busybox, iperf3, ethtool, lspci and the virtio network modules. Its init script answers
//! commands that come over a second serial line ([`console`]); the first one carries the kernel's messages into a log. A
//! guest's memory is a shared memfd, so that a vhost-user back-end can map it. QEMU runs with KVM where KVM works and with
//! TCG otherwise ([`accelerator`]).

mod accelerator;
pub mod console;
pub mod initramfs;

pub use accelerator::Accelerator;

use crate::process::{Peer, tail};
use crate::sysroot::Sysroot;
use anyhow::Context;
use console::{Console, Output};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time in which a guest answers after its start; software emulation on a busy machine is slow.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// Time for a command that says nothing else.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// What every guest of a run shares: the root, the initramfs, the accelerator, the directory for sockets and logs.
#[derive(Clone, Debug)]
pub struct Lab {
    /// Root that QEMU runs in.
    pub sysroot: Sysroot,
    /// Sockets and logs of this run.
    pub directory: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    /// What runs the guests' code.
    pub accelerator: Accelerator,
}

impl Lab {
    /// Prepares the root, the initramfs and the accelerator. `directory` must lie under [`temporary_directory`].
    ///
    /// [`temporary_directory`]: crate::sysroot::temporary_directory
    pub fn prepare(directory: &Path) -> anyhow::Result<Self> {
        let sysroot = Sysroot::ensure()?;
        let initramfs = directory.join("initramfs.cpio");
        initramfs::build(&sysroot, &initramfs).context("initramfs")?;
        let kernel = sysroot.kernel().context("kernel")?;
        let mut lab = Self {
            sysroot,
            directory: directory.to_owned(),
            kernel,
            initramfs,
            accelerator: Accelerator::Tcg,
        };
        lab.accelerator = Accelerator::detect(&lab);
        Ok(lab)
    }

    /// The same with another directory for sockets and logs.
    pub fn in_directory(&self, directory: &Path) -> Self {
        Self { directory: directory.to_owned(), ..self.clone() }
    }
}

/// One network card of a guest, on a vhost-user socket that QEMU connects to.
#[derive(Clone, Debug)]
pub struct Nic {
    /// The back-end's socket.
    pub socket: PathBuf,
    /// Address, as `52:54:00:00:00:01`.
    pub mac: String,
    /// Queue pairs; more than one turns `mq` on.
    pub queue_pairs: u16,
    /// Further properties of `virtio-net-pci`, such as `packed=on`.
    pub properties: Vec<String>,
}

impl Nic {
    fn arguments(&self, index: usize) -> Vec<String> {
        let mut device = format!("virtio-net-pci,netdev=net{index},mac={}", self.mac);
        if self.queue_pairs > 1 {
            device.push_str(&format!(",mq=on,vectors={}", 2 * self.queue_pairs + 2));
        }
        for property in &self.properties {
            device.push_str(&format!(",{property}"));
        }
        vec![
            "-chardev".into(),
            format!("socket,id=chr{index},path={},reconnect-ms=200", self.socket.display()),
            "-netdev".into(),
            format!("vhost-user,id=net{index},chardev=chr{index},queues={}", self.queue_pairs),
            "-device".into(),
            device,
        ]
    }
}

/// What makes one guest.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Names the guest's files.
    pub name: String,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// QEMU's machine.
    pub machine: String,
    /// Whether its memory is QEMU's own, which nobody can map; cards on vhost-user sockets need it shared.
    pub private_memory: bool,
    /// Cards on vhost-user sockets.
    pub nics: Vec<Nic>,
    /// Further arguments of QEMU.
    pub arguments: Vec<String>,
    /// Further arguments of the kernel.
    pub kernel_arguments: String,
}

impl GuestConfig {
    /// A guest with one processor, 256 MiB and no card.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            memory_mb: 256,
            cpus: 1,
            machine: "q35".to_owned(),
            private_memory: false,
            nics: Vec::new(),
            arguments: Vec::new(),
            kernel_arguments: String::new(),
        }
    }
}

/// A running guest. Dropping it kills its QEMU.
#[derive(Debug)]
pub struct Guest {
    config: GuestConfig,
    peer: Peer,
    console: Console,
    kernel_log: PathBuf,
}

impl Guest {
    /// Starts QEMU and waits until the guest answers.
    pub fn boot(lab: &Lab, config: GuestConfig) -> anyhow::Result<Self> {
        let mut guest = Self::start(lab, config)?;
        guest.wait_ready()?;
        Ok(guest)
    }

    /// Starts several guests at once and waits until all answer: on two processors that is faster than one by one.
    pub fn boot_all<const N: usize>(lab: &Lab, configs: [GuestConfig; N]) -> anyhow::Result<[Self; N]> {
        let mut guests = Vec::with_capacity(N);
        for config in configs {
            guests.push(Self::start(lab, config)?);
        }
        for guest in &mut guests {
            guest.wait_ready()?;
        }
        guests.try_into().map_err(|_| anyhow::anyhow!("the guests are not as many as their configurations"))
    }

    /// Starts QEMU without waiting for the guest.
    pub fn start(lab: &Lab, config: GuestConfig) -> anyhow::Result<Self> {
        let (control, kernel_log) = (
            lab.directory.join(format!("{}.ctl", config.name)),
            lab.directory.join(format!("{}.kernel", config.name)),
        );
        let _ = std::fs::remove_file(&control);
        let mut command = lab.sysroot.command("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"]);
        command.args(lab.accelerator.arguments(config.cpus));
        command.args(["-m", &config.memory_mb.to_string()]);
        if config.private_memory {
            command.args(["-machine", &config.machine]);
        } else {
            command.args(["-machine", &format!("{},memory-backend=mem", config.machine)]);
            let memory = format!("memory-backend-memfd,id=mem,share=on,size={}M", config.memory_mb);
            command.args(["-object", &memory]);
        }
        command.args(["-serial", &format!("file:{}", kernel_log.display())]);
        command.args(["-serial", &format!("unix:{},server=on,wait=on", control.display())]);
        command.arg("-kernel").arg(&lab.kernel).arg("-initrd").arg(&lab.initramfs);
        let kernel_arguments = format!(
            "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off {}",
            config.kernel_arguments
        );
        command.args(["-append", &kernel_arguments]);
        for (index, nic) in config.nics.iter().enumerate() {
            command.args(nic.arguments(index));
        }
        command.args(&config.arguments);
        let mut peer = Peer::start(&config.name, &lab.directory, &mut command)?;
        let console = Console::connect(&control, || peer.is_running())
            .with_context(|| format!("{}: {}", config.name, tail(&peer.log(), 5)))?;
        Ok(Self { config, peer, console, kernel_log })
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        self.console.wait_ready(BOOT_LIMIT).with_context(|| self.whereabouts("did not boot"))
    }

    /// Runs a shell command in the guest.
    pub fn run(&mut self, command: &str) -> anyhow::Result<Output> {
        self.run_within(command, RUN_LIMIT)
    }

    /// Runs a shell command in the guest, waiting at most `limit` for its end.
    pub fn run_within(&mut self, command: &str, limit: Duration) -> anyhow::Result<Output> {
        let outcome = self.console.run(command, limit);
        outcome.with_context(|| self.whereabouts(&format!("`{command}`")))
    }

    /// Runs a shell command that must succeed; its output.
    pub fn must(&mut self, command: &str) -> anyhow::Result<String> {
        self.must_within(command, RUN_LIMIT)
    }

    /// As [`must`](Self::must), waiting at most `limit`.
    pub fn must_within(&mut self, command: &str, limit: Duration) -> anyhow::Result<String> {
        let output = self.run_within(command, limit)?;
        if output.status != 0 {
            anyhow::bail!(
                "{}: `{command}` ended with {}:\n{}",
                self.config.name,
                output.status,
                output.text.trim_end()
            );
        }
        Ok(output.text)
    }

    /// Starts a shell command without waiting for its end.
    pub fn begin(&mut self, command: &str) -> anyhow::Result<()> {
        self.console.begin(command)
    }

    /// Waits for the end of what [`begin`](Self::begin) started.
    pub fn finish(&mut self, limit: Duration) -> anyhow::Result<Output> {
        let outcome = self.console.finish(limit);
        outcome.with_context(|| self.whereabouts("a command in the background"))
    }

    /// Reboots the guest as its own kernel does it, and waits until it answers again. QEMU keeps running.
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        self.console.begin("reboot -f")?;
        self.wait_ready()
    }

    /// Kills QEMU at once, as a crash would.
    pub fn kill(&mut self) {
        self.peer.kill();
    }

    /// Starts a killed guest again with the same configuration, and waits until it answers.
    pub fn restart(mut self, lab: &Lab) -> anyhow::Result<Self> {
        self.peer.kill();
        Self::boot(lab, self.config.clone())
    }

    /// Process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.peer.pid()
    }

    /// What QEMU itself printed.
    pub fn qemu_log(&self) -> String {
        self.peer.log()
    }

    /// The kernel's messages so far.
    pub fn kernel_log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.kernel_log).unwrap_or_default()).into_owned()
    }

    fn whereabouts(&self, what: &str) -> String {
        let (qemu, kernel) = (tail(&self.peer.log(), 5), tail(&self.kernel_log(), 8));
        format!("{}: {what}\nQEMU: {qemu}\nkernel: {kernel}", self.config.name)
    }
}

/// Boots a guest without cards, for [`Accelerator::detect`] and to see how long it takes.
pub fn boot_time(lab: &Lab, name: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    Guest::boot(lab, GuestConfig::new(name))?;
    Ok(start.elapsed())
}
