//! What registers bring about, through QEMU without a guest: rings in memory, doorbells by port and by memory, interrupts by
//! MSI-X and by pin, rings that are shrunk, stopped and started again.

use crate::card::{COMMON, Card, ISR, NO_VECTOR, NOTIFY, Structure, common, status};
use crate::model::{NOTIF_CONFIG_DATA, NOTIFICATION_DATA, RING_RESET, VERSION_1};
use crate::registers::{FIRST_SLOT, KINDS, MACHINES, legacy_reset, machine, switch_msix};
use anyhow::ensure;
use vmtests::harness::Scene;
use vmtests::qtest::Space;

/// The transmit queue of a device of one pair, and its control queue.
const TRANSMIT: u16 = 1;
const CONTROL: u16 = 2;
/// Bytes of the header before a frame with VERSION_1, and of one without MRG_RXBUF in the legacy interface (virtio 1.4 §5.1.6).
const MODERN_HEADER: u32 = 12;
const LEGACY_HEADER: u32 = 10;
/// Where the rings lie, the frame that they send, and where messages of interrupts go.
const RING: u64 = 0x20_0000;
const OTHER_RING: u64 = 0x24_0000;
const FRAME: u64 = 0x30_0000;
const MESSAGE: u64 = 0x31_0000;
/// Control register of the device: INTx disable, and the status bit of a pending interrupt (PCI 3.0 §6.2.2, §6.2.3).
const INTX_DISABLE: u64 = 0x0400;
const INTERRUPT_STATUS: u64 = 0x08;

pub(crate) fn doorbells(scene: &Scene) -> anyhow::Result<()> {
    for machine_name in MACHINES {
        let (mut ringway, mut qtest) = machine(scene, machine_name)?;
        for (at, kind) in (0..).zip(KINDS) {
            let mut card = Card::find(&mut qtest, FIRST_SLOT + at)?;
            let mut step = |what: &str, body: fn(&mut Card<'_>) -> anyhow::Result<()>| {
                scene.check(&format!("{} on {machine_name}: {what}", kind.name), || body(&mut card))
            };
            if kind.interface != "legacy" {
                step("every doorbell serves its queue", each_doorbell)?;
                // A port's doorbells carry none: the kernel could not listen for them.
                if kind.bells == [false] {
                    step("doorbells that carry data", with_data)?;
                }
                step("MSI-X: any vector, and none", vectors)?;
                step("INTx and the ISR status", pin)?;
                step("rings of every size", sizes)?;
                step("a ring that is reset and starts again", queue_reset)?;
            }
            if kind.interface != "modern" {
                step("a legacy ring, with MSI-X and without", legacy_ring)?;
            }
        }
        scene.check("SIGTERM ends ringway cleanly", || ringway.terminate())?;
    }
    Ok(())
}

/// A split ring of the driver (virtio 1.4 §2.7), which sends one frame again and again.
struct Ring {
    size: u16,
    desc: u64,
    avail: u64,
    used: u64,
    added: u16,
}

impl Ring {
    /// An empty ring at `base`; a contiguous one as the legacy interface has it (virtio 1.4 §2.7.2).
    fn new(card: &mut Card<'_>, base: u64, size: u16, header: u32) -> anyhow::Result<Self> {
        let avail = base + 16 * u64::from(size);
        let used = (avail + 6 + 2 * u64::from(size)).next_multiple_of(4096);
        card.qtest.say(&format!("memset {base:#x} {:#x} 0", used + 0x1000 - base))?;
        let mut frame = vec![0; header as usize];
        frame.extend([0xff; 6]);
        frame.extend([0x52, 0x54, 0, 0, 3, 0, 0x88, 0xb5]);
        frame.resize(header as usize + 60, 0);
        card.qtest.fill(FRAME, &frame)?;
        let mut descriptor = FRAME.to_le_bytes().to_vec();
        descriptor.extend((frame.len() as u32).to_le_bytes());
        descriptor.extend([0; 4]);
        for index in 0..u64::from(size) {
            card.qtest.fill(base + 16 * index, &descriptor)?;
        }
        Ok(Self { size, desc: base, avail, used, added: 0 })
    }

    /// Makes one more frame available.
    fn add(&mut self, card: &mut Card<'_>) -> anyhow::Result<()> {
        let at = self.added % self.size;
        card.qtest.write(Space::Memory, self.avail + 4 + 2 * u64::from(at), 2, at.into())?;
        self.added = self.added.wrapping_add(1);
        card.qtest.write(Space::Memory, self.avail + 2, 2, self.added.into())
    }

    /// Waits until all of them are used.
    fn wait(&self, card: &mut Card<'_>) -> anyhow::Result<()> {
        let (at, all) = (self.used + 2, u64::from(self.added));
        card.wait("frames to be used", |card| Ok(card.qtest.read(Space::Memory, at, 2)? == all))
    }

    /// Places the ring in the registers of the modern interface and enables it.
    fn enable(&self, card: &mut Card<'_>, queue: u16) -> anyhow::Result<()> {
        card.write(COMMON, common::QUEUE_SELECT, 2, queue.into())?;
        card.write(COMMON, common::QUEUE_SIZE, 2, self.size.into())?;
        for (at, area) in (0..).zip([self.desc, self.avail, self.used]) {
            card.write(COMMON, common::QUEUE_DESC + 8 * at, 4, area & 0xffff_ffff)?;
            card.write(COMMON, common::QUEUE_DESC + 8 * at + 4, 4, area >> 32)?;
        }
        card.write(COMMON, common::QUEUE_ENABLE, 2, 1)?;
        ensure!(card.read(COMMON, common::QUEUE_ENABLE, 2)? == 1, "queue {queue} is not enabled");
        Ok(())
    }
}

/// A modern device that is ready, with a transmit ring of `size` entries and without vectors.
fn ready(card: &mut Card<'_>, size: u16) -> anyhow::Result<Ring> {
    ready_with(card, size, NO_VECTOR.into())
}

/// The same with a vector for the transmit queue. A vector that changes under a ring that runs may bring a call too many.
fn ready_with(card: &mut Card<'_>, size: u16, vector: u64) -> anyhow::Result<Ring> {
    agreed(card, VERSION_1 | RING_RESET, size, vector)
}

/// The same by these features.
fn agreed(card: &mut Card<'_>, features: u128, size: u16, vector: u64) -> anyhow::Result<Ring> {
    card.reset()?;
    ensure!(card.negotiate(features)?, "no FEATURES_OK");
    let ring = Ring::new(card, RING, size, MODERN_HEADER)?;
    card.write(COMMON, common::QUEUE_SELECT, 2, TRANSMIT.into())?;
    card.write(COMMON, common::QUEUE_MSIX_VECTOR, 2, vector)?;
    ring.enable(card, TRANSMIT)?;
    card.set_status(0xf)?;
    Ok(ring)
}

/// Rings for a queue by one of the doorbells.
fn ring_bell(card: &mut Card<'_>, bell: Structure, queue: u16) -> anyhow::Result<()> {
    card.write(COMMON, common::QUEUE_SELECT, 2, queue.into())?;
    let off = card.read(COMMON, common::QUEUE_NOTIFY_OFF, 2)?;
    card.write_bar(bell.bar, bell.offset + off * bell.multiplier, 2, queue.into())
}

fn first_bell(card: &mut Card<'_>, queue: u16) -> anyhow::Result<()> {
    let bell = card.structure(NOTIFY)?;
    ring_bell(card, bell, queue)
}

/// Port I/O and memory, each many times; in no case is a queue served that was not rung for.
fn each_doorbell(card: &mut Card<'_>) -> anyhow::Result<()> {
    let bells: Vec<Structure> = card.structures.iter().filter(|it| it.kind == NOTIFY).copied().collect();
    let mut ring = ready(card, 256)?;
    for _ in 0..50 {
        for bell in &bells {
            ring.add(card)?;
            ring_bell(card, *bell, TRANSMIT)?;
            ring.wait(card)?;
        }
    }
    // Queues that are not there, or not enabled, cannot be rung for.
    for bell in bells {
        for queue in [0, CONTROL, 3, 0xffff] {
            let off = u64::from(queue) * bell.multiplier;
            if off < 4 * 1024 {
                card.write_bar(bell.bar, bell.offset + off, 2, queue.into())?;
            }
        }
    }
    ensure!(card.device_status()? == 0xf, "status {:#x}", card.device_status()?);
    card.reset()
}

/// Doorbells of 32 bits: which queue, by the number that the device gave it, and where its driver is (virtio 1.4 §2.9,
/// §4.1.5.2).
fn with_data(card: &mut Card<'_>) -> anyhow::Result<()> {
    let features = VERSION_1 | NOTIFICATION_DATA | NOTIF_CONFIG_DATA;
    let mut ring = agreed(card, features, 16, NO_VECTOR.into())?;
    let bell = card.structure(NOTIFY)?;
    let off = card.read(COMMON, common::QUEUE_NOTIFY_OFF, 2)?;
    let named = card.read(COMMON, common::QUEUE_NOTIF_CONFIG_DATA, 2)?;
    for _ in 0..40 {
        ring.add(card)?;
        let value = u64::from(ring.added) << 16 | named;
        card.write_bar(bell.bar, bell.offset + off * bell.multiplier, 4, value)?;
        ring.wait(card)?;
    }
    card.reset()
}

/// Gives the MSI-X vector `vector` an address and a message of its own, and lets it through (PCI 3.0 §6.8.2).
fn arm(card: &mut Card<'_>, vector: u64) -> anyhow::Result<()> {
    let at = card.capability(0x11)?;
    let place = card.config(at + 4, 4)?;
    let (bar, begin) = ((place & 7) as u8, (place & !7) + 16 * vector);
    let values = [MESSAGE + 4 * vector, 0, 0xabc0 + vector, 0];
    for (word, value) in (0..).zip(values) {
        card.write_bar(bar, begin + 4 * word, 4, value)?;
    }
    card.qtest.write(Space::Memory, MESSAGE + 4 * vector, 4, 0)
}

/// Which messages have come.
fn messages(card: &mut Card<'_>) -> anyhow::Result<Vec<u64>> {
    let mut come = Vec::new();
    for vector in 0..5 {
        let at = MESSAGE + 4 * vector;
        if card.qtest.read(Space::Memory, at, 4)? == 0xabc0 + vector {
            come.push(vector);
        }
        card.qtest.write(Space::Memory, at, 4, 0)?;
    }
    Ok(come)
}

/// Waits until message `vector` has come; no other one has.
fn one_message(card: &mut Card<'_>, vector: u64) -> anyhow::Result<()> {
    let at = MESSAGE + 4 * vector;
    card.wait("a message", |card| Ok(card.qtest.read(Space::Memory, at, 4)? == 0xabc0 + vector))?;
    let come = messages(card)?;
    ensure!(come == [vector], "messages of vectors {come:?}, not {vector}");
    Ok(())
}

/// Queue and configuration by each vector; without one there is silence.
fn vectors(card: &mut Card<'_>) -> anyhow::Result<()> {
    switch_msix(card, true)?;
    card.reset()?;
    (0..5).try_for_each(|vector| arm(card, vector))?;
    for vector in 0..5 {
        let mut ring = ready_with(card, 16, vector)?;
        for _ in 0..3 {
            ring.add(card)?;
            first_bell(card, TRANSMIT)?;
            one_message(card, vector)?;
        }
        ring.wait(card)?;
        card.write(COMMON, common::CONFIG_MSIX_VECTOR, 2, (vector + 1) % 5)?;
        lose(card)?;
        one_message(card, (vector + 1) % 5)?;
    }
    let mut ring = ready(card, 16)?;
    for vector in [NO_VECTOR.into(), 5] {
        card.write(COMMON, common::QUEUE_SELECT, 2, TRANSMIT.into())?;
        card.write(COMMON, common::QUEUE_MSIX_VECTOR, 2, vector)?;
        ensure!(card.read(COMMON, common::QUEUE_MSIX_VECTOR, 2)? == u64::from(NO_VECTOR), "vector {vector}");
        ring.add(card)?;
        first_bell(card, TRANSMIT)?;
        ring.wait(card)?;
    }
    lose(card)?;
    let (come, isr) = (messages(card)?, card.read(ISR, 0, 1)?);
    ensure!(come.is_empty() && isr & 1 == 0, "messages of vectors {come:?}, ISR status {isr}");
    card.reset()?;
    switch_msix(card, false).map(drop)
}

/// Enables a ring where there is no memory: the device says that it needs a reset.
fn lose(card: &mut Card<'_>) -> anyhow::Result<()> {
    card.write(COMMON, common::QUEUE_SELECT, 2, 0)?;
    card.write(COMMON, common::QUEUE_DESC + 4, 4, 0x1234)?;
    card.write(COMMON, common::QUEUE_ENABLE, 2, 1)?;
    let status = card.device_status()?;
    ensure!(status & status::NEEDS_RESET != 0, "status {status:#x} after a ring outside memory");
    Ok(())
}

/// Without MSI-X: bit 0 for a queue, bit 1 for the configuration, in the ISR status until it is read and in the status of
/// configuration space as long (virtio 1.4 §4.1.4.5).
fn pin(card: &mut Card<'_>) -> anyhow::Result<()> {
    for disabled in [0, INTX_DISABLE] {
        let command = card.config(0x04, 2)? & !INTX_DISABLE | disabled;
        card.set_config(0x04, 2, command)?;
        let mut ring = ready(card, 16)?;
        ensure!(card.read(ISR, 0, 1)? == 0, "an ISR status after a reset");
        for _ in 0..3 {
            ring.add(card)?;
            first_bell(card, TRANSMIT)?;
            ring.wait(card)?;
            card.wait("an interrupt", |card| Ok(card.config(0x06, 1)? & INTERRUPT_STATUS != 0))?;
            ensure!(card.read(ISR, 0, 1)? == 1, "no ISR status for a queue");
            ensure!(card.read(ISR, 0, 1)? == 0, "reading the ISR status does not clear it");
            ensure!(card.config(0x06, 1)? & INTERRUPT_STATUS == 0, "an interrupt that was read is pending");
        }
        lose(card)?;
        ensure!(card.read(ISR, 0, 1)? == 2, "no ISR status for the configuration");
    }
    let command = card.config(0x04, 2)?;
    card.set_config(0x04, 2, command & !INTX_DISABLE)?;
    card.reset()
}

/// Twice round each ring that a driver may ask for.
fn sizes(card: &mut Card<'_>) -> anyhow::Result<()> {
    for size in [1, 2, 4, 8, 16, 32, 64, 128, 256] {
        let mut ring = ready(card, size)?;
        ensure!(card.read(COMMON, common::QUEUE_SIZE, 2)? == u64::from(size), "not {size} entries");
        for _ in 0..2 * size.min(16) + 1 {
            ring.add(card)?;
            first_bell(card, TRANSMIT)?;
            ring.wait(card)?;
        }
    }
    card.reset()
}

/// `queue_reset` (virtio 1.4 §2.6.1): the ring ends, everything of the queue is as after a reset, another ring may follow.
fn queue_reset(card: &mut Card<'_>) -> anyhow::Result<()> {
    let mut ring = ready(card, 64)?;
    ring.add(card)?;
    first_bell(card, TRANSMIT)?;
    ring.wait(card)?;
    for base in [OTHER_RING, RING, OTHER_RING] {
        card.write(COMMON, common::QUEUE_SELECT, 2, TRANSMIT.into())?;
        card.write(COMMON, common::QUEUE_RESET, 2, 1)?;
        card.wait("the end of a queue's reset", |card| Ok(card.read(COMMON, common::QUEUE_RESET, 2)? == 0))?;
        let read = (card.read(COMMON, common::QUEUE_ENABLE, 2)?, card.read(COMMON, common::QUEUE_SIZE, 2)?);
        ensure!(read == (0, 256), "enabled and size after a queue's reset: {read:?}");
        // What is made available in the old ring is nobody's business now.
        ring.add(card)?;
        first_bell(card, TRANSMIT)?;
        let used = card.qtest.read(Space::Memory, ring.used + 2, 2)?;
        ensure!(used + 1 == u64::from(ring.added), "a ring that was reset is served");
        ring = Ring::new(card, base, 32, MODERN_HEADER)?;
        ring.enable(card, TRANSMIT)?;
        for _ in 0..40 {
            ring.add(card)?;
            first_bell(card, TRANSMIT)?;
            ring.wait(card)?;
        }
        ensure!(card.device_status()? == 0xf, "status {:#x}", card.device_status()?);
    }
    card.reset()
}

/// A contiguous ring by its page (virtio 1.4 §4.1.5.1.3); interrupts by pin and by MSI-X, whose registers come and go.
fn legacy_ring(card: &mut Card<'_>) -> anyhow::Result<()> {
    for msix in [false, true, false] {
        switch_msix(card, msix)?;
        legacy_reset(card)?;
        if msix {
            arm(card, 2)?;
        }
        for bits in [status::ACKNOWLEDGE, status::DRIVER] {
            card.write_bar(0, 0x12, 1, bits.into())?;
        }
        card.write_bar(0, 0x04, 4, 0)?;
        card.write_bar(0, 0x0e, 2, TRANSMIT.into())?;
        let size = card.read_bar(0, 0x0c, 2)? as u16;
        let mut ring = Ring::new(card, RING, size, LEGACY_HEADER)?;
        card.write_bar(0, 0x08, 4, RING >> 12)?;
        if msix {
            card.write_bar(0, 0x16, 2, 2)?;
            ensure!(card.read_bar(0, 0x16, 2)? == 2, "no vector of the queue");
        }
        card.write_bar(0, 0x12, 1, (status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK).into())?;
        for _ in 0..20 {
            ring.add(card)?;
            card.write_bar(0, 0x10, 2, TRANSMIT.into())?;
            ring.wait(card)?;
            if msix {
                one_message(card, 2)?;
            } else {
                card.wait("an interrupt", |card| Ok(card.config(0x06, 1)? & INTERRUPT_STATUS != 0))?;
                ensure!(card.read_bar(0, 0x13, 1)? == 1, "no ISR status for a queue");
            }
            ensure!(card.read_bar(0, 0x13, 1)? == 0, "reading the ISR status does not clear it");
        }
        // Page 0 takes the ring away.
        card.write_bar(0, 0x08, 4, 0)?;
        ring.add(card)?;
        card.write_bar(0, 0x10, 2, TRANSMIT.into())?;
        let used = card.qtest.read(Space::Memory, ring.used + 2, 2)?;
        ensure!(used + 1 == u64::from(ring.added), "a ring that was taken away is served");
        legacy_reset(card)?;
    }
    Ok(())
}
