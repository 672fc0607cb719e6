//! Open vSwitch with DPDK: the userspace switch that Ringway is measured against.
//!
//! It runs as its package does: `ovsdb-server` with a fresh database, `ovs-vswitchd` with the userspace data path polling on
//! one processor. Its two ports are vhost-user clients: the drivers on the other side listen.

use crate::process::{Peer, wait_until};
use crate::sysroot::Sysroot;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// A running Open vSwitch with one bridge `br0` whose one flow is NORMAL: learning, as a switch does.
#[derive(Debug)]
pub struct OpenVswitch {
    sysroot: Sysroot,
    directory: PathBuf,
    daemon: Peer,
    database: Peer,
}

impl OpenVswitch {
    /// Starts it with its polling thread on `cpu` and one client port for each of `sockets`. Needs huge pages.
    /// `settings` is further words of its `other_config`, such as `userspace-tso-enable=true`.
    pub fn start(
        sysroot: &Sysroot,
        directory: &Path,
        cpu: u32,
        sockets: &[PathBuf],
        settings: &[&str],
    ) -> anyhow::Result<Self> {
        let place = directory.display();
        sysroot.output(
            "ovsdb-tool",
            &["create", &format!("{place}/conf.db"), "/usr/share/openvswitch/vswitch.ovsschema"],
        )?;
        let mut command = in_directory(sysroot, directory, "ovsdb-server");
        command.args([&format!("--remote=punix:{place}/db.sock"), "--no-chdir", &format!("{place}/conf.db")]);
        let database = Peer::start("ovsdb", directory, &mut command)?;
        wait_until("ovsdb-server", LIMIT, || directory.join("db.sock").exists())
            .with_context(|| database.log())?;
        let mask = format!("{:#x}", 1u64 << cpu);
        configure(sysroot, directory, &["--no-wait", "init"])?;
        let extra = format!(
            "--no-pci --no-telemetry --iova-mode=va --file-prefix=ovs{} --single-file-segments",
            std::process::id()
        );
        configure(
            sysroot,
            directory,
            &[
                "--no-wait",
                "set",
                "Open_vSwitch",
                ".",
                "other_config:dpdk-init=true",
                &format!("other_config:dpdk-lcore-mask={mask}"),
                &format!("other_config:pmd-cpu-mask={mask}"),
                "other_config:dpdk-socket-mem=512",
                "other_config:dpdk-hugepage-dir=/hugepages",
                &format!("other_config:dpdk-extra={extra:?}"),
            ],
        )?;
        for setting in settings {
            let word = format!("other_config:{setting}");
            configure(sysroot, directory, &["--no-wait", "set", "Open_vSwitch", ".", &word])?;
        }
        let mut command =
            in_directory(sysroot, directory, "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk");
        command.args([&format!("unix:{place}/db.sock"), "--no-chdir"]);
        let daemon = Peer::start("ovs-vswitchd", directory, &mut command)?;
        let ovs = Self { sysroot: sysroot.clone(), directory: directory.to_owned(), daemon, database };
        ovs.add_ports(sockets).with_context(|| crate::process::tail(&ovs.daemon.log(), 15))?;
        Ok(ovs)
    }

    fn add_ports(&self, sockets: &[PathBuf]) -> anyhow::Result<()> {
        let set = |arguments: &[&str]| configure(&self.sysroot, &self.directory, arguments);
        set(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
        for (index, socket) in sockets.iter().enumerate() {
            let (name, path) =
                (format!("vh{index}"), format!("options:vhost-server-path={}", socket.display()));
            set(&[
                "add-port",
                "br0",
                &name,
                "--",
                "set",
                "Interface",
                &name,
                "type=dpdkvhostuserclient",
                &path,
            ])?;
        }
        Ok(())
    }

    /// Nanoseconds that its polling thread has run, by the kernel's account.
    pub fn forwarding_ns(&self) -> anyhow::Result<u64> {
        crate::process::thread_ns(self.daemon.pid(), "pmd-")
    }

    /// Process ids of its daemons.
    pub fn pids(&self) -> [u32; 2] {
        [self.daemon.pid(), self.database.pid()]
    }

    /// What its switching daemon has said so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Its version, in its own words.
    pub fn version(sysroot: &Sysroot) -> anyhow::Result<String> {
        let text = sysroot.output("ovs-vswitchd", &["--version"])?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

fn in_directory(sysroot: &Sysroot, directory: &Path, program: &str) -> Command {
    let mut command = sysroot.command(program);
    for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
        command.env(name, directory);
    }
    command
}

fn configure(sysroot: &Sysroot, directory: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = in_directory(sysroot, directory, "ovs-vsctl");
    command.arg(format!("--db=unix:{}/db.sock", directory.display())).arg("--timeout=30").args(arguments);
    crate::process::output(&mut command).map(drop)
}
