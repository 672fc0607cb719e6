//! Ringway as a whole PCI function, served to QEMU over vfio-user.
//!
//! Run by `cargo xtask test vfio`. Needs root.

mod card;
mod doorbells;
mod firmware;
mod hotplug;
mod linux;
mod matrix;
mod memory;
mod model;
mod place;
mod registers;
mod softmac;

use std::process::ExitCode;
use vmtests::harness::{Test, main as run};
use vmtests::sysroot::Sysroot;

/// What the group needs beside the common root.
const PACKAGES: &[&str] = &["ovmf"];

const TESTS: &[Test] = &[
    Test { name: "registers", body: registers::registers, long: false },
    Test { name: "rings_and_interrupts", body: doorbells::doorbells, long: false },
    Test { name: "interfaces_and_machines", body: matrix::interfaces_and_machines, long: false },
    Test { name: "mapped_doorbells", body: matrix::mapped_doorbells, long: false },
    Test { name: "several_queue_pairs", body: matrix::several_queue_pairs, long: true },
    Test { name: "virtual_iommu", body: matrix::virtual_iommu, long: false },
    Test { name: "private_memory", body: memory::private_memory, long: true },
    Test {
        name: "private_memory_behind_an_iommu",
        body: memory::private_memory_behind_an_iommu,
        long: false,
    },
    Test { name: "large_rings_behind_an_iommu", body: memory::large_rings_behind_an_iommu, long: true },
    Test { name: "added_while_it_runs", body: matrix::added_while_it_runs, long: false },
    Test { name: "offloads_and_addresses", body: softmac::offloads_and_addresses, long: false },
    Test { name: "legacy_driver_by_choice", body: linux::legacy_driver_by_choice, long: false },
    Test { name: "functions_and_roots", body: linux::functions_and_roots, long: false },
    Test { name: "plugged_and_unplugged", body: hotplug::added_and_removed, long: false },
    Test { name: "functions_plugged_and_unplugged", body: hotplug::functions_added_and_removed, long: true },
    Test { name: "virtual_functions", body: hotplug::virtual_functions, long: false },
    Test { name: "network_boot", body: firmware::network_boot, long: false },
    Test { name: "network_boot_uefi", body: firmware::network_boot_uefi, long: false },
];

fn main() -> ExitCode {
    let listing = std::env::args().any(|argument| argument == "--list");
    if !listing && let Err(error) = Sysroot::ensure().and_then(|root| root.add_packages("vfio", PACKAGES)) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    run(TESTS)
}
