//! `vmtests setup` makes the peers' root; `vmtests guests` joins two guests without Ringway; `vmtests bench` measures.

use clap::{Parser, Subcommand};
use std::path::Path;
use std::time::{Duration, Instant};
use vmtests::bridge_bench;
use vmtests::disk_bench;
use vmtests::guest::{Guest, GuestConfig, Lab};
use vmtests::row::Row;
use vmtests::switch_bench::{self, Effort};
use vmtests::sysroot::{Sysroot, temporary_directory};

#[derive(Parser)]
#[command(
    name = "vmtests",
    about = "Real peers of Ringway's tests and benches",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make the peers' root: QEMU, DPDK, Open vSwitch and a kernel, in a Debian tree under target/sysroot
    Setup,
    /// Join two guests by QEMU's own stream network, ping and measure: tells a fault of the peers from one of Ringway
    Guests,
    /// Measure next to peers
    Bench {
        #[command(subcommand)]
        which: Bench,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Rates and latencies from driver to driver, next to OVS-DPDK, testpmd's own forwarding and the kernel's bridge
    Switch {
        /// One JSON object a row
        #[arg(long)]
        json: bool,
        /// Only systems whose name contains this, such as Ringway, OVS or kernel
        #[arg(long, default_value = "")]
        system: String,
        /// Only cases whose name contains this, such as "64 B", packed, TSO, request, idle, vfio-user or workers
        #[arg(long, default_value = "")]
        case: String,
        /// Rounds over all systems and cases
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Length of each of the three windows of a cell, in milliseconds
        #[arg(long, default_value_t = 1000)]
        window_ms: u64,
        /// Try, without a figure, what this machine has not enough processors for
        #[arg(long)]
        overcommit: bool,
    },
    /// Many ports and entries, attacks and observers, next to OVS-DPDK and the kernel's bridge
    Bridge {
        /// One JSON object a row
        #[arg(long)]
        json: bool,
        /// Fresh starts of every system
        #[arg(long, default_value_t = 2)]
        rounds: usize,
        /// Passes over all conditions in each
        #[arg(long, default_value_t = 3)]
        passes: usize,
        /// Length of a window, in milliseconds
        #[arg(long, default_value_t = 600)]
        window_ms: u64,
        /// Only parts whose name contains this: attack, eyes, scale
        #[arg(long, default_value = "")]
        part: String,
    },
    /// Disks over vhost-user, next to qemu-storage-daemon
    Disk {
        /// One JSON object a row
        #[arg(long)]
        json: bool,
        /// Only media whose name contains this: null, RAM, tmpfs, file
        #[arg(long, default_value = "")]
        medium: String,
        /// Only loads whose name contains this, such as read, "depth 64", sleeps or sequential
        #[arg(long, default_value = "")]
        case: String,
        /// Fresh starts of every server
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Length of a window, in milliseconds
        #[arg(long, default_value_t = 500)]
        window_ms: u64,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Task::Setup => Sysroot::ensure().map(|root| println!("peers' root: {}", root.path().display())),
        Task::Guests => guests(),
        Task::Bench { which: Bench::Switch { json, system, case, rounds, window_ms, overcommit } } => {
            let window = Duration::from_millis(window_ms);
            let effort = Effort { system, case, rounds, window, overcommit, ..Effort::default() };
            switch_bench::run(&effort, |rows| show(rows, json))
        }
        Task::Bench { which: Bench::Bridge { json, rounds, passes, window_ms, part } } => {
            let effort = bridge_bench::Effort { rounds, passes, window: Duration::from_millis(window_ms) };
            bridge_bench::run(effort, &part, |rows| show(rows, json))
        }
        Task::Bench { which: Bench::Disk { json, medium, case, rounds, window_ms } } => {
            let window = Duration::from_millis(window_ms);
            disk_bench::run(&disk_bench::Effort { medium, case, rounds, window }, |rows| show(rows, json))
        }
    }
}

fn show(rows: &[Row], json: bool) -> anyhow::Result<()> {
    for row in rows {
        if json {
            println!("{}", serde_json::to_string(row)?);
        } else {
            println!("{row}");
        }
    }
    Ok(())
}

fn guests() -> anyhow::Result<()> {
    let directory = tempfile::Builder::new().prefix("rw-").tempdir_in(temporary_directory())?;
    let start = Instant::now();
    let say = |what: &str| println!("[{:6.1} s] {what}", start.elapsed().as_secs_f64());
    let lab = Lab::prepare(directory.path())?;
    say(&format!("guests run with {}", lab.accelerator.name()));
    let link = directory.path().join("link.sock");
    let [mut a, mut b] = Guest::boot_all(&lab, [joined("a", &link, true), joined("b", &link, false)])?;
    say("both guests answer");
    a.must("ip addr add 10.0.0.1/24 dev eth0 && ip link set eth0 up")?;
    b.must("ip addr add 10.0.0.2/24 dev eth0 && ip link set eth0 up")?;
    say(&a.must("uname -r; ping -c 3 -i 0.2 -w 10 10.0.0.2")?);
    b.must("iperf3 -s -D")?;
    say(&a.must_within("iperf3 -c 10.0.0.2 -t 3", Duration::from_secs(30))?);
    a.reboot()?;
    say("guest a answers again after a reboot");
    Ok(())
}

fn joined(name: &str, link: &Path, server: bool) -> GuestConfig {
    let mut config = GuestConfig::new(name);
    let role = if server { "on" } else { "off" };
    config.arguments =
        ["-netdev", &format!("stream,id=net0,server={role},addr.type=unix,addr.path={}", link.display())]
            .map(str::to_owned)
            .to_vec();
    config.arguments.extend([
        "-device".to_owned(),
        format!("virtio-net-pci,netdev=net0,mac=52:54:00:00:00:0{}", 1 + u8::from(!server)),
    ]);
    config
}
