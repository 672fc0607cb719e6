//! What runs the guests' code: KVM where a guest really boots with it, TCG otherwise.

use super::{Guest, GuestConfig, Lab};
use std::path::PathBuf;
use std::time::Duration;

/// A way to run guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor's own virtualisation.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

impl Accelerator {
    /// Arguments of QEMU.
    pub(super) fn arguments(self, cpus: u32) -> [String; 6] {
        let smp = cpus.to_string();
        let words = match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host", "-smp", &smp],
            // A guest that can have one processor only gets code without memory barriers, as if nobody shared its memory: about one
            // wake-up in a thousand was lost. So there is room for a second one.
            Self::Tcg if cpus == 1 => ["-accel", "tcg,thread=multi", "-cpu", "qemu64", "-smp", "1,maxcpus=2"],
            // One thread for all processors of a guest: with one for each, one boot in ten of two processors ended in both spinning
            // before the kernel had looked at any card.
            Self::Tcg => ["-accel", "tcg,thread=single", "-cpu", "qemu64", "-smp", &smp],
        };
        words.map(str::to_owned)
    }

    /// The word for a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (software emulation)",
        }
    }

    /// Boots a guest with KVM if the machine offers it, since some machines offer it and run no guest. The answer is kept
    /// until the machine's next boot. `RINGWAY_ACCEL=kvm|tcg` decides without a trial.
    pub(super) fn detect(lab: &Lab) -> Self {
        match std::env::var("RINGWAY_ACCEL").as_deref() {
            Ok("kvm") => return Self::Kvm,
            Ok("tcg") => return Self::Tcg,
            _ => {}
        }
        if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Self::Tcg;
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let memo = memo_path();
        if let Ok(kept) = std::fs::read_to_string(&memo)
            && let Some((kept_boot, answer)) = kept.split_once('=')
            && kept_boot == boot.trim()
        {
            return if answer == "kvm" { Self::Kvm } else { Self::Tcg };
        }
        let answer = if Self::kvm_boots(lab) { Self::Kvm } else { Self::Tcg };
        let word = if answer == Self::Kvm { "kvm" } else { "tcg" };
        // Without the memo the next run tries again; nothing else depends on it.
        let _ = std::fs::write(memo, format!("{}={word}", boot.trim()));
        answer
    }

    fn kvm_boots(lab: &Lab) -> bool {
        let trial = Lab { accelerator: Self::Kvm, ..lab.clone() };
        let Ok(mut guest) = Guest::start(&trial, GuestConfig::new("kvm-trial")) else { return false };
        guest.console.wait_ready(Duration::from_secs(10)).is_ok()
    }
}

fn memo_path() -> PathBuf {
    crate::sysroot::target_directory().join("accelerator")
}
