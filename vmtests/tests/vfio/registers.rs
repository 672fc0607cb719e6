//! Every register of the function, through QEMU without a guest: thousands of accesses, legal and illegal, against models.

use crate::card::{COMMON, Card, DEVICE, ISR, NO_VECTOR, NOTIFY, PCI_CFG, common};
use crate::model::{Facts, Legacy, Modern, NEEDS, TRANSPORT, VERSION_1, is_legal};
use crate::place::{device, port};
use anyhow::{Context, ensure};
use serde_json::json;
use vmtests::harness::Scene;
use vmtests::qtest::{Qtest, Space};
use vmtests::ringway::{Config, Ringway};

pub(crate) const MACHINES: [&str; 2] = ["q35", "pc"];
/// Values that are tried in every register, beside those that its width cuts off.
const VALUES: [u64; 10] = [0, 1, 2, 3, 4, 0x40, 0x8f, 0x100, 0x1_0001, 0xffff_ffff];
/// Those of a function that only differs from another one in its doorbells or its machine.
const FEW_VALUES: [u64; 3] = [1, 0x100, 0xffff_ffff];
/// Entries of a queue unless the configuration says otherwise, those of the administration queue, and the queues of one pair
/// without that: receive, transmit, control.
const QUEUE_SIZE: u16 = 256;
const ADMIN_SIZE: u16 = 64;
const QUEUES: u16 = 3;

/// A function: its name, interface, further configuration, kinds of doorbells (`true`: a port) in order.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) interface: &'static str,
    more: &'static str,
    pub(crate) bells: &'static [bool],
}

pub(crate) const KINDS: &[Kind] = &[
    Kind { name: "modern", interface: "modern", more: "", bells: &[false] },
    Kind { name: "transitional", interface: "transitional", more: "", bells: &[false] },
    Kind { name: "legacy", interface: "legacy", more: "", bells: &[] },
    Kind { name: "pio", interface: "modern", more: ", notify = [\"pio\"]", bells: &[true] },
    Kind { name: "both", interface: "modern", more: ", notify = [\"pio\", \"mmio\"]", bells: &[true, false] },
    Kind {
        name: "bothold",
        interface: "transitional",
        more: ", notify = [\"pio\", \"mmio\"]",
        bells: &[true, false],
    },
];

/// Slot of the first function.
pub(crate) const FIRST_SLOT: u8 = 4;

/// Ringway with a port for each kind, and a machine with all of them.
pub(crate) fn machine(scene: &Scene, machine: &str) -> anyhow::Result<(Ringway, Qtest)> {
    let directory = scene.directory();
    let mut sections = String::new();
    let mut arguments = Vec::new();
    for (at, kind) in (0..).zip(KINDS) {
        // All that there can be, so that all of it is looked at.
        let admin = if kind.interface == "legacy" { "" } else { ", admin-queue = true" };
        let more = format!(", interface = \"{}\"{}{admin}", kind.interface, kind.more);
        let lines = "mac-change = \"allow\"";
        sections.push_str(&port(directory, kind.name, &mac_of(at), &more, lines));
        let address = format!("{:#x}.0", FIRST_SLOT + at);
        arguments.extend(["-device".into(), device(directory, kind.name, json!({ "addr": address }))]);
    }
    let config = Config::new(directory, "mode = \"pool\"\nthreads = 1").section(&sections);
    let ringway = Ringway::start(config)?;
    let qtest = Qtest::start(scene.lab(), machine, machine, &arguments)?;
    Ok((ringway, qtest))
}

fn mac_of(at: u8) -> String {
    format!("52:54:00:00:03:{at:02x}")
}

pub(crate) fn registers(scene: &Scene) -> anyhow::Result<()> {
    for machine_name in MACHINES {
        let (mut ringway, mut qtest) = machine(scene, machine_name)?;
        let first = machine_name == MACHINES[0];
        // The machine's bus makes no difference to what only differs in its doorbells.
        for (at, kind) in (0..).zip(KINDS).filter(|(_, kind)| first || kind.more.is_empty()) {
            let mut card = Card::find(&mut qtest, FIRST_SLOT + at)?;
            let values: &[u64] = if first && kind.more.is_empty() { &VALUES } else { &FEW_VALUES };
            let mut step = |what: &str, body: &mut dyn FnMut(&mut Card<'_>) -> anyhow::Result<u32>| {
                let mut count = 0;
                let label = format!("{} on {machine_name}: {what}", kind.name);
                scene.check(&label, || body(&mut card).map(|cases| count = cases))?;
                scene.note(&format!("{label}: {count} cases"));
                anyhow::Ok(())
            };
            step("identity, windows, capabilities", &mut |card| identity(card, kind))?;
            if kind.interface != "legacy" {
                step("common configuration", &mut |card| common_config(card, values))?;
            }
            // What only differs in its doorbells has no other registers than these.
            if kind.interface != "legacy" && kind.more.is_empty() {
                step("features", &mut features)?;
                step("device configuration", &mut |card| device_config(card, at))?;
                step("the window in configuration space", &mut pci_cfg)?;
            }
            if kind.interface != "modern" {
                step("legacy header", &mut |card| legacy_header(card, values))?;
                step("legacy configuration", &mut |card| legacy_config(card, at))?;
            }
        }
        scene.check("SIGTERM ends ringway cleanly", || ringway.terminate())?;
    }
    Ok(())
}

/// Ids, the windows' sizes, which capabilities there are.
fn identity(card: &mut Card<'_>, kind: &Kind) -> anyhow::Result<u32> {
    let modern = kind.interface == "modern";
    let is = |got: u64, want: u64, what: &str| {
        ensure!(got == want, "{what} {got:#x}, not {want:#x}");
        anyhow::Ok(())
    };
    is(card.config(0x02, 2)?, if modern { 0x1041 } else { 0x1000 }, "device id")?;
    is(card.config(0x08, 1)?, modern.into(), "revision")?;
    is(card.config(0x09, 1)? | card.config(0x0a, 2)? << 8, 0x02_0000, "class")?;
    is(card.config(0x2e, 2)?, if modern { 0x41 } else { 1 }, "subsystem id")?;
    let io = |card: &Card<'_>, bar: u8| card.window(bar).is_ok_and(|window| window.space == Space::Port);
    ensure!(io(card, 0) != modern || kind.bells.contains(&true), "port I/O in BAR 0 on {}", kind.interface);
    let ids: Vec<u8> = card.capabilities.iter().map(|(id, _)| *id).collect();
    ensure!(ids.contains(&0x11) && ids.contains(&0x01), "capabilities {ids:x?}");
    // One for each queue, and one for the configuration; only a legacy function has no administration queue.
    let queues = if kind.interface == "legacy" { QUEUES } else { QUEUES + 1 };
    is(card.vectors()?.into(), u64::from(queues) + 1, "MSI-X vectors")?;
    if kind.interface == "legacy" {
        ensure!(card.structures.is_empty(), "virtio capabilities on a legacy function");
        return Ok(8);
    }
    let kinds: Vec<u8> = card.structures.iter().map(|structure| structure.kind).collect();
    for wanted in [COMMON, NOTIFY, ISR, DEVICE, PCI_CFG] {
        ensure!(kinds.contains(&wanted), "virtio capabilities {kinds:?}");
    }
    // Capabilities of one type stand in the order of preference (virtio 1.4 §4.1.4.1).
    let notify = card.structures.iter().filter(|structure| structure.kind == NOTIFY);
    let found: Vec<bool> = notify.map(|structure| io(card, structure.bar)).collect();
    ensure!(found == kind.bells, "doorbells {found:?}");
    for structure in card.structures.clone().iter().filter(|structure| structure.kind != PCI_CFG) {
        let window = card.window(structure.bar)?;
        ensure!(structure.offset + structure.len <= window.len, "{structure:?} leaves {window:?}");
        ensure!(structure.kind != COMMON || structure.len >= common::LEN, "{structure:?}");
    }
    Ok(16)
}

fn facts(card: &mut Card<'_>) -> anyhow::Result<Facts> {
    let offered = card.offered()?;
    let generation = card.read(COMMON, 0x15, 1)? as u8;
    let vectors = card.vectors()?;
    Ok(Facts { offered, queues: QUEUES, size_max: QUEUE_SIZE, admin_size: ADMIN_SIZE, vectors, generation })
}

fn image(card: &mut Card<'_>) -> anyhow::Result<Vec<u8>> {
    let structure = card.structure(COMMON)?;
    card.bytes(structure.bar, structure.offset, common::LEN as usize)
}

/// Every offset, width and value; from a reset, and with features granted. Then a long random walk.
fn common_config(card: &mut Card<'_>, values: &[u64]) -> anyhow::Result<u32> {
    card.reset()?;
    let facts = facts(card)?;
    let mut cases = 0;
    for granted in [false, true] {
        for width in [1usize, 2, 4] {
            for offset in (0..common::LEN).step_by(width) {
                for value in values.iter().filter(|value| **value >> (8 * width) == 0) {
                    card.reset()?;
                    let mut model = Modern::new(facts);
                    if granted {
                        // What the transport itself has, and no ring feature.
                        let features = facts.offered & TRANSPORT;
                        ensure!(card.negotiate(features)?, "no FEATURES_OK");
                        for select in 0..4 {
                            model.write(common::DRIVER_FEATURE_SELECT, 4, select);
                            let word = features >> (32 * select);
                            model.write(common::DRIVER_FEATURE, 4, u64::from(word as u32));
                        }
                        model.write(common::DEVICE_STATUS, 1, 0xb);
                    }
                    card.write(COMMON, offset, width, *value)?;
                    model.write(offset, width, *value);
                    let (got, want) = (image(card)?, model.image());
                    let what = format!("granted {granted}: {value:#x} in {width} bytes at {offset:#x}");
                    ensure!(got == want, "{what}:\n got {got:02x?}\nwant {want:02x?}");
                    cases += 1;
                }
            }
        }
    }
    Ok(cases + walk(card, facts)?)
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize]
    }
}

/// Steps of a random walk.
const WALK: u32 = 500;

fn walk(card: &mut Card<'_>, facts: Facts) -> anyhow::Result<u32> {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut model = Modern::new(facts);
    card.reset()?;
    for step in 0..WALK {
        // Areas keep apart from each other: what the device writes into one must not be another's ring.
        let areas = [[0x10_0000, 0x14_0000], [0x18_0000, 0x1c_0000], [0x20_0000, 0x24_0000]];
        let offered = facts.offered as u64;
        let (offset, width, value) = match dice.roll(12) {
            0 => (common::DEVICE_FEATURE_SELECT, 4, dice.one(&[0, 1, 2, 4, 0xffff_ffff])),
            1 => (common::DRIVER_FEATURE_SELECT, 4, dice.one(&[0, 1, 2, 3, 4, 0xffff_ffff])),
            2 => {
                (common::DRIVER_FEATURE, 4, dice.one(&[0, 1, 0x101, 3, offered & 0xffff_ffff, offered >> 32]))
            }
            3 => (common::CONFIG_MSIX_VECTOR, 2, dice.roll(6)),
            4 => (common::DEVICE_STATUS, 1, dice.one(&[1, 3, 0xb, 0xb, 0xf, 4, 0x80, 0x20])),
            5 if dice.roll(4) == 0 => (common::DEVICE_STATUS, 1, 0),
            5 | 6 => (common::QUEUE_SELECT, 2, dice.one(&[0, 1, 2, 3, 0xffff])),
            7 => (common::QUEUE_SIZE, 2, dice.one(&[0, 1, 3, 16, 128, 256, 512, 0xffff])),
            8 => (common::QUEUE_MSIX_VECTOR, 2, dice.roll(6)),
            9 => (common::QUEUE_ENABLE, 2, dice.one(&[0, 1, 1, 1, 2])),
            10 => {
                let area = dice.roll(3);
                let high = dice.roll(20) == 0;
                let value = if high { 1 } else { dice.one(&areas[area as usize]) };
                (common::QUEUE_DESC + 8 * area + if high { 4 } else { 0 }, 4, value)
            }
            _ => (common::QUEUE_RESET, 2, dice.one(&[0, 1, 1, 2])),
        };
        card.write(COMMON, offset, width, value)?;
        model.write(offset, width, value);
        if (offset, value) == (common::DEVICE_STATUS, 0) {
            card.wait("the end of a reset", |card| Ok(card.device_status()? == 0))?;
        }
        if offset == common::QUEUE_RESET {
            card.wait("the end of a queue's reset", |card| Ok(card.read(COMMON, offset, 2)? == 0))?;
        }
        let (got, want) = (image(card)?, model.image());
        ensure!(got == want, "step {step}, {value:#x} at {offset:#x}:\n got {got:02x?}\nwant {want:02x?}");
    }
    card.reset()?;
    Ok(WALK)
}

/// Every select, every bit alone, every dependency of a network device's features.
fn features(card: &mut Card<'_>) -> anyhow::Result<u32> {
    card.reset()?;
    let mut cases = 0;
    for select in (0..=40).chain([0x8000_0000, 0xffff_fffe, 0xffff_ffff]) {
        card.write(COMMON, common::DEVICE_FEATURE_SELECT, 4, select)?;
        let word = card.read(COMMON, common::DEVICE_FEATURE, 4)?;
        ensure!((word != 0) == (select < 2), "device_feature is {word:#x} at select {select:#x}");
        card.write(COMMON, common::DRIVER_FEATURE_SELECT, 4, select)?;
        card.write(COMMON, common::DRIVER_FEATURE, 4, 0x5a5a_0101)?;
        let word = card.read(COMMON, common::DRIVER_FEATURE, 4)?;
        ensure!((word == 0x5a5a_0101) == (select < 4), "driver_feature is {word:#x} at select {select:#x}");
        cases += 2;
    }
    let offered = card.offered()?;
    for (bit, needs) in NEEDS {
        ensure!(offered >> bit & 1 == 1, "feature {bit} is not offered");
        let mut sets = vec![VERSION_1 | 1 << bit];
        sets.extend(needs.iter().map(|needed| VERSION_1 | 1 << bit | 1 << needed | 0b11));
        cases += sets.len() as u32;
        for set in sets {
            try_features(card, set, offered)?;
        }
    }
    for bit in 0..128 {
        try_features(card, VERSION_1 | 1 << bit, offered)?;
        try_features(card, VERSION_1 | 0b11 | 1 << bit, offered)?;
        try_features(card, (offered | 1 << bit) & !VERSION_1, offered)?;
        cases += 3;
    }
    try_features(card, offered, offered)?;
    // A set that was refused can be followed by another one, without a reset.
    card.reset()?;
    ensure!(!card.negotiate(VERSION_1 | 1 << 7)?, "GUEST_TSO4 without GUEST_CSUM was granted");
    ensure!(card.negotiate(VERSION_1 | 1 << 7 | 1 << 1)?, "the legal set after an illegal one was refused");
    card.reset()?;
    Ok(cases + 2)
}

fn try_features(card: &mut Card<'_>, set: u128, offered: u128) -> anyhow::Result<()> {
    card.reset()?;
    let legal = is_legal(set, offered) && set & VERSION_1 != 0;
    let granted = card.negotiate(set)?;
    ensure!(granted == legal, "features {set:#x}: FEATURES_OK is {granted}");
    Ok(())
}

/// The address, status and what follows, by every width; a modern driver writes nothing.
fn device_config(card: &mut Card<'_>, at: u8) -> anyhow::Result<u32> {
    card.reset()?;
    ensure!(card.negotiate(VERSION_1 | 1 << 5 | 1 << 16)?, "no FEATURES_OK");
    let structure = card.structure(DEVICE)?;
    let whole = card.bytes(structure.bar, structure.offset, structure.len as usize)?;
    // The link is up, one queue pair, 1500 bytes, speed and duplex unknown (virtio 1.4 §5.1.4).
    let want = [0x52, 0x54, 0, 0, 3, at, 1, 0, 1, 0, 0xdc, 5, 0xff, 0xff, 0xff, 0xff, 0xff];
    ensure!(whole.starts_with(&want), "device configuration {whole:02x?}");
    let mut cases = 0;
    for width in [1usize, 2, 4] {
        for offset in (0..structure.len).step_by(width) {
            let value = card.read(DEVICE, offset, width)?;
            let begin = offset as usize;
            let mut bytes = [0; 8];
            bytes[..width].copy_from_slice(&whole[begin..begin + width]);
            ensure!(value == u64::from_le_bytes(bytes), "{width} bytes at {offset:#x}: {value:#x}");
            card.write(DEVICE, offset, width, 0xa5a5_a5a5)?;
            cases += 2;
        }
    }
    let after = card.bytes(structure.bar, structure.offset, structure.len as usize)?;
    ensure!(after == whole, "a modern driver wrote {after:02x?}");
    card.reset()?;
    Ok(cases)
}

/// `struct virtio_pci_cfg_cap` (virtio 1.4 §4.1.4.9): the same registers as in memory, and nothing through an illegal window.
fn pci_cfg(card: &mut Card<'_>) -> anyhow::Result<u32> {
    card.reset()?;
    card.write(COMMON, common::QUEUE_SELECT, 2, 1)?;
    let at = card.structure(PCI_CFG)?.at;
    let common_structure = card.structure(COMMON)?;
    let aim = |card: &mut Card<'_>, bar: u8, offset: u64, len: u64| {
        card.set_config(at + 4, 1, bar.into())?;
        card.set_config(at + 8, 4, offset)?;
        card.set_config(at + 12, 4, len)?;
        let read = (card.config(at + 4, 1)?, card.config(at + 8, 4)?, card.config(at + 12, 4)?);
        ensure!(read == (bar.into(), offset, len), "the window reads back as {read:x?}");
        Ok(())
    };
    let mut cases = 0;
    for structure in card.structures.clone().iter().filter(|it| matches!(it.kind, COMMON | DEVICE)) {
        for width in [1usize, 2, 4] {
            for offset in (structure.offset..structure.offset + structure.len).step_by(width) {
                aim(card, structure.bar, offset, width as u64)?;
                let (through, direct) =
                    (card.config(at + 16, width)?, card.read_bar(structure.bar, offset, width)?);
                ensure!(through == direct, "{width} bytes at {offset:#x}: {through:#x}, not {direct:#x}");
                cases += 1;
            }
        }
    }
    let vectors = card.vectors()?;
    for vector in [0, 4, 5, 2] {
        aim(card, common_structure.bar, common_structure.offset + common::QUEUE_MSIX_VECTOR, 2)?;
        card.set_config(at + 16, 2, vector)?;
        let want = if vector < vectors.into() { vector } else { NO_VECTOR.into() };
        let got = card.read(COMMON, common::QUEUE_MSIX_VECTOR, 2)?;
        ensure!(got == want, "{vector} through the window: {got:#x}");
        cases += 1;
    }
    let status_at = common_structure.offset + common::DEVICE_STATUS;
    let before = image(card)?;
    for (bar, offset, len) in [
        (common_structure.bar, status_at, 0),
        (common_structure.bar, status_at, 3),
        (common_structure.bar, status_at, 8),
        (common_structure.bar, status_at, 0xffff_ffff),
        (common_structure.bar, 0xffff_fffc, 4),
        (1, 0, 4),
        (6, 0, 4),
        (0xff, 0x14, 1),
    ] {
        aim(card, bar, offset, len)?;
        card.set_config(at + 16, 4, 0xffff_ffff)?;
        card.config(at + 16, 4)?;
        let after = image(card)?;
        ensure!(after == before, "a window of {len} bytes at {offset:#x} of BAR {bar}: {after:02x?}");
        cases += 1;
    }
    card.reset()?;
    Ok(cases)
}

/// Where the device configuration begins: MSI-X moves it (virtio 1.4 §4.1.4.10).
pub(crate) fn switch_msix(card: &mut Card<'_>, on: bool) -> anyhow::Result<u64> {
    let at = card.capability(0x11)?;
    card.set_config(at + 2, 2, if on { 0x8000 } else { 0 })?;
    ensure!((card.config(at + 2, 2)? & 0x8000 != 0) == on, "MSI-X does not switch");
    Ok(if on { 24 } else { 20 })
}

pub(crate) fn legacy_reset(card: &mut Card<'_>) -> anyhow::Result<()> {
    card.write_bar(0, 0x12, 1, 0)?;
    ensure!(card.read_bar(0, 0x12, 1)? == 0, "the status after a reset is not 0");
    Ok(())
}

/// The legacy header against its model, with MSI-X and without.
fn legacy_header(card: &mut Card<'_>, values: &[u64]) -> anyhow::Result<u32> {
    let mut cases = 0;
    for msix in [false, true] {
        let len = switch_msix(card, msix)? as usize;
        legacy_reset(card)?;
        let offered = u128::from(card.read_bar(0, 0, 4)?);
        let (size_max, admin_size, vectors) = (QUEUE_SIZE, ADMIN_SIZE, card.vectors()?);
        let facts = Facts { offered, queues: QUEUES, size_max, admin_size, vectors, generation: 0 };
        for width in [1usize, 2, 4] {
            for offset in (0..len as u64).step_by(width) {
                for value in values.iter().filter(|value| **value >> (8 * width) == 0) {
                    legacy_reset(card)?;
                    let mut model = Legacy::new(facts);
                    card.write_bar(0, offset, width, *value)?;
                    model.write(offset, width, *value);
                    let what = format!("MSI-X {msix}: {value:#x} in {width} bytes at {offset:#x}");
                    compare_legacy(card, &model, len).context(what)?;
                    cases += 1;
                }
            }
        }
        legacy_reset(card)?;
        let (mut dice, mut model) = (Dice(0x1234_5678_9abc_def1), Legacy::new(facts));
        for step in 0..WALK {
            let (offset, width, value) = match dice.roll(10) {
                0 => (0x04, 4, dice.one(&[0, 1, 0x101, 3, offered as u64, 0xffff_ffff])),
                1 | 2 => (0x08, 4, dice.one(&[0, 0x100, 0x140, 0x180, 0xf_ffff])),
                3 | 4 => (0x0e, 2, dice.one(&[0, 1, 2, 3, 0xffff])),
                5 => (0x10, 2, dice.roll(5)),
                6 => (0x12, 1, dice.one(&[1, 3, 7, 4, 0x80, 0x40])),
                7 if dice.roll(2) == 0 => (0x12, 1, 0),
                8 if msix => (0x14, 2, dice.roll(6)),
                9 if msix => (0x16, 2, dice.roll(6)),
                _ => (0x0c, 2, dice.roll(300)),
            };
            card.write_bar(0, offset, width, value)?;
            model.write(offset, width, value);
            let what = format!("MSI-X {msix}, step {step}: {value:#x} at {offset:#x}");
            compare_legacy(card, &model, len).context(what)?;
            cases += 1;
        }
        legacy_reset(card)?;
    }
    switch_msix(card, false)?;
    Ok(cases)
}

fn compare_legacy(card: &mut Card<'_>, model: &Legacy, len: usize) -> anyhow::Result<()> {
    let mut got = card.bytes(0, 0, len)?;
    got[0x13] = 0; // the ISR status, which is not the model's
    let want = &model.image()[..len];
    ensure!(got == want, "\n got {got:02x?}\nwant {want:02x?}");
    Ok(())
}

/// The configuration behind the header: it moves with MSI-X, and a driver can write its address.
fn legacy_config(card: &mut Card<'_>, at: u8) -> anyhow::Result<u32> {
    let want = [0x52, 0x54, 0, 0, 3, at, 1, 0, 1, 0, 0xdc, 5];
    let mut cases = 0;
    for msix in [false, true, false] {
        let begin = switch_msix(card, msix)?;
        legacy_reset(card)?;
        for width in [1usize, 2, 4] {
            // QEMU passes on what is aligned, nothing else.
            for offset in (0..want.len()).step_by(width) {
                let got = card.read_bar(0, begin + offset as u64, width)?;
                let mut bytes = [0; 8];
                bytes[..width].copy_from_slice(&want[offset..offset + width]);
                ensure!(
                    got == u64::from_le_bytes(bytes),
                    "MSI-X {msix}: {width} bytes at {offset}: {got:#x}"
                );
                cases += 1;
            }
        }
        let new = [0x52, 0x54, 0, 0x77, 3, at];
        for (offset, byte) in (0..).zip(new) {
            card.write_bar(0, begin + offset, 1, byte.into())?;
        }
        for (offset, byte) in (0..).zip(new) {
            ensure!(card.read_bar(0, begin + offset, 1)? == u64::from(byte), "byte {offset} of the address");
        }
        card.write_bar(0, begin + 6, 2, 0)?;
        ensure!(card.read_bar(0, begin + 6, 2)? == 1, "the status of the link was written");
        cases += 7;
    }
    legacy_reset(card)?;
    Ok(cases)
}
