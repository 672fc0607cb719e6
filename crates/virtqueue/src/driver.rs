//! The driver's side of a virtqueue: guests of our own, tests, benches. It trusts the device no more than the
//! device trusts it.

use crate::descriptor::{self, DESCRIPTOR_SIZE, Descriptor, INDIRECT, NEXT, WRITE};
use crate::fault::DeviceFault;
use crate::packed_driver::PackedDriver;
use crate::setup::{Endian, QueueSetup, QueueSize, RingArea, RingFeatures, SetupFault, area_lens};
use crate::split_driver::SplitDriver;
use guestmem::{GuestAddr, GuestMemory, MemArea};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thiserror::Error;

/// There is no room for the buffers: too few free descriptors, too few entries in an indirect table, or no
/// buffer given at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no room in the queue for these buffers")]
pub struct QueueFull;

/// Where the driver keeps its indirect tables: one of `entries` descriptors for every entry of the ring, in
/// one region, `size * entries * 16` bytes, 16-aligned.
#[derive(Clone, Copy, Debug)]
pub struct IndirectArea {
    /// First byte.
    pub base: GuestAddr,
    /// Descriptors of each table.
    pub entries: u16,
}

/// Buffers in flight, by the id that the device will name.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    token: u64,
    slots: u16,
    writable_len: u32,
}

struct Tables {
    area: MemArea,
    base: GuestAddr,
    entries: u16,
}

enum Ring {
    Split(SplitDriver),
    Packed(PackedDriver),
}

/// The driver's side of one virtqueue.
pub struct DriverQueue {
    ring: Ring,
    size: QueueSize,
    big: bool,
    tables: Option<Tables>,
    in_flight: Box<[Option<InFlight>]>,
    /// With IN_ORDER: the ids in the order in which they were made available.
    order: Option<VecDeque<u16>>,
    /// With IN_ORDER: the last id of a batch of used buffers, and what was written into that one.
    batch: Option<(u16, u32)>,
}

impl DriverQueue {
    /// Bytes of the descriptor area, the driver area and the device area.
    pub fn layout(size: QueueSize, features: RingFeatures) -> (usize, usize, usize) {
        area_lens(size, features)
    }

    /// Bytes that [`Self::setup`] takes up from its base on.
    pub fn footprint(size: QueueSize, features: RingFeatures) -> usize {
        let (desc, driver, device) = area_lens(size, features);
        (desc + driver).next_multiple_of(4) + device
    }

    /// Lays a ring out from `base` on (16-aligned), zeroes it, and describes it for the device. Areas that
    /// do not fit the memory, and an indirect area without the feature, are refused.
    pub fn setup(
        memory: &Arc<GuestMemory>,
        base: GuestAddr,
        size: QueueSize,
        features: RingFeatures,
        indirect: Option<IndirectArea>,
    ) -> Result<(Self, QueueSetup), SetupFault> {
        let (desc_len, driver_len, _) = area_lens(size, features);
        let at =
            |offset: usize| base.checked_add(offset as u64).ok_or(SetupFault::AddressOverflow { addr: base });
        let (driver, device) = (at(desc_len)?, at((desc_len + driver_len).next_multiple_of(4))?);
        let setup = QueueSetup { size, desc: base, driver, device, features, log: None, in_flight: None };
        Ok((Self::attach(memory, &setup, indirect)?, setup))
    }

    /// Takes over a ring laid out elsewhere, and zeroes it.
    pub fn attach(
        memory: &Arc<GuestMemory>,
        setup: &QueueSetup,
        indirect: Option<IndirectArea>,
    ) -> Result<Self, SetupFault> {
        let areas = setup.areas(memory)?;
        for index in 0..setup.size.get() {
            descriptor::store(&areas.desc, index, [0; 2]);
        }
        areas.driver.as_slice().fill(0);
        areas.device.as_slice().fill(0);
        let tables = indirect.map(|indirect| map_tables(memory, setup.size, indirect)).transpose()?;
        let entries = usize::from(setup.size.get());
        let ring = if setup.features.packed {
            Ring::Packed(PackedDriver::new(areas, setup))
        } else {
            Ring::Split(SplitDriver::new(areas, setup)?)
        };
        Ok(Self {
            ring,
            size: setup.size,
            big: setup.features.endian == Endian::Big,
            tables,
            in_flight: vec![None; entries].into(),
            order: setup.features.in_order.then(|| VecDeque::with_capacity(entries)),
            batch: None,
        })
    }

    /// Adds one chain, each buffer in a descriptor of its own; the device sees it after [`Self::publish`].
    /// `token` comes back when the chain was used. Addresses are not checked: that is the device's task.
    pub fn add(
        &mut self,
        readable: &[(GuestAddr, u32)],
        writable: &[(GuestAddr, u32)],
        token: u64,
    ) -> Result<(), QueueFull> {
        let buffers = readable.len() + writable.len();
        if buffers == 0 || buffers > usize::from(self.free_descriptors()) {
            return Err(QueueFull);
        }
        let chain = descriptors(readable, writable);
        let id = match &mut self.ring {
            Ring::Split(ring) => ring.add(chain),
            Ring::Packed(ring) => ring.add(chain, buffers as u16),
        };
        self.note(id, InFlight { token, slots: buffers as u16, writable_len: sum(writable) })
    }

    /// As [`Self::add`], with the buffers in an indirect table.
    pub fn add_indirect(
        &mut self,
        readable: &[(GuestAddr, u32)],
        writable: &[(GuestAddr, u32)],
        token: u64,
    ) -> Result<(), QueueFull> {
        let buffers = readable.len() + writable.len();
        let Some(tables) = self.tables.as_ref().filter(|tables| buffers <= usize::from(tables.entries))
        else {
            return Err(QueueFull);
        };
        if buffers == 0 || self.free_descriptors() == 0 {
            return Err(QueueFull);
        }
        let slot = match &self.ring {
            Ring::Split(ring) => ring.next_id(),
            Ring::Packed(ring) => ring.next_id(),
        };
        let first = usize::from(slot) * usize::from(tables.entries) * DESCRIPTOR_SIZE;
        for (index, mut entry) in descriptors(readable, writable).enumerate() {
            let words = match &self.ring {
                Ring::Split(_) => {
                    entry.link = if entry.is(NEXT) { index as u16 + 1 } else { 0 };
                    entry.to_split(self.big)
                }
                Ring::Packed(_) => Descriptor { flags: entry.flags & WRITE, ..entry }.to_packed(),
            };
            let offset = first + index * DESCRIPTOR_SIZE;
            tables.area.store_u64(offset, words[0], Ordering::Relaxed);
            tables.area.store_u64(offset + 8, words[1], Ordering::Relaxed);
        }
        let table = Descriptor {
            addr: GuestAddr(tables.base.0 + first as u64),
            len: (buffers * DESCRIPTOR_SIZE) as u32,
            flags: INDIRECT,
            link: 0,
        };
        let id = match &mut self.ring {
            Ring::Split(ring) => ring.add(std::iter::once(table)),
            Ring::Packed(ring) => ring.add(std::iter::once(table), 1),
        };
        self.note(id, InFlight { token, slots: 1, writable_len: sum(writable) })
    }

    fn note(&mut self, id: Option<u16>, buffers: InFlight) -> Result<(), QueueFull> {
        let id = id.ok_or(QueueFull)?;
        self.in_flight[usize::from(id)] = Some(buffers);
        if let Some(order) = &mut self.order {
            order.push_back(id);
        }
        Ok(())
    }

    /// Makes everything added visible to the device. True: the device wants a kick.
    pub fn publish(&mut self) -> bool {
        match &mut self.ring {
            Ring::Split(ring) => ring.publish(),
            Ring::Packed(ring) => ring.publish(),
        }
    }

    /// The next chain that the device has used: its token, and the bytes written into it.
    pub fn pop_used(&mut self) -> Result<Option<(u64, u32)>, DeviceFault> {
        if self.order.is_some() {
            return self.pop_used_in_order();
        }
        let Some((id, written)) = self.peek_used()? else { return Ok(None) };
        self.finish(id, Some(written)).map(Some)
    }

    /// With IN_ORDER one used entry may stand for a whole batch: it names the last chain, and those before
    /// it were used completely (virtio 1.3 §2.7.9).
    fn pop_used_in_order(&mut self) -> Result<Option<(u64, u32)>, DeviceFault> {
        let fresh = self.peek_used()?;
        let Some((last, written)) = self.batch.or(fresh) else { return Ok(None) };
        if self.batch.is_none() && self.in_flight.get(usize::from(last)).is_none_or(Option::is_none) {
            return Err(DeviceFault::UsedId);
        }
        if matches!(self.ring, Ring::Split(_)) && fresh.is_none() {
            return Err(DeviceFault::Order);
        }
        let front = self.order.as_mut().and_then(VecDeque::pop_front).ok_or(DeviceFault::Order)?;
        let is_last = front == last;
        self.batch = (!is_last).then_some((last, written));
        self.finish(front, is_last.then_some(written)).map(Some)
    }

    fn peek_used(&self) -> Result<Option<(u16, u32)>, DeviceFault> {
        match &self.ring {
            Ring::Split(ring) => ring.peek_used(),
            Ring::Packed(ring) => Ok(ring.peek_used()),
        }
    }

    /// Takes a chain out of flight; without `written` it was used completely.
    fn finish(&mut self, id: u16, written: Option<u32>) -> Result<(u64, u32), DeviceFault> {
        let buffers =
            self.in_flight.get_mut(usize::from(id)).and_then(Option::take).ok_or(DeviceFault::UsedId)?;
        match &mut self.ring {
            Ring::Split(ring) => ring.release(id),
            Ring::Packed(ring) => ring.release(id, buffers.slots),
        }
        let written = written.unwrap_or(buffers.writable_len);
        if written > buffers.writable_len {
            return Err(DeviceFault::WrittenLength);
        }
        Ok((buffers.token, written))
    }

    /// Asks the device not to call. A hint: calls may still come.
    pub fn disable_call(&mut self) {
        match &mut self.ring {
            Ring::Split(ring) => ring.disable_call(),
            Ring::Packed(ring) => ring.disable_call(),
        }
    }

    /// Asks the device to call for the next used chain. True: some were used meanwhile, and for those no
    /// call may come.
    #[must_use = "if chains were used meanwhile no call will come for them"]
    pub fn enable_call(&mut self) -> bool {
        match &mut self.ring {
            Ring::Split(ring) => ring.enable_call(),
            Ring::Packed(ring) => ring.enable_call(),
        }
    }

    /// Ring descriptors that are free.
    pub fn free_descriptors(&self) -> u16 {
        match &self.ring {
            Ring::Split(ring) => ring.free_descriptors(),
            Ring::Packed(ring) => ring.free_descriptors(),
        }
    }

    /// Entries.
    pub fn size(&self) -> QueueSize {
        self.size
    }
}

/// One descriptor for each buffer, flags set, links left to the ring.
fn descriptors<'b>(
    readable: &'b [(GuestAddr, u32)],
    writable: &'b [(GuestAddr, u32)],
) -> impl Iterator<Item = Descriptor> + 'b {
    let last = readable.len() + writable.len() - 1;
    let both = readable.iter().map(|buffer| (buffer, 0)).chain(writable.iter().map(|buffer| (buffer, WRITE)));
    both.enumerate().map(move |(index, (&(addr, len), write))| {
        let next = if index < last { NEXT } else { 0 };
        Descriptor { addr, len, flags: write | next, link: 0 }
    })
}

fn sum(buffers: &[(GuestAddr, u32)]) -> u32 {
    buffers.iter().fold(0, |sum: u32, &(_, len)| sum.saturating_add(len))
}

fn map_tables(
    memory: &Arc<GuestMemory>,
    size: QueueSize,
    indirect: IndirectArea,
) -> Result<Tables, SetupFault> {
    let IndirectArea { base, entries } = indirect;
    let len = usize::from(size.get()) * usize::from(entries) * DESCRIPTOR_SIZE;
    let area = memory.area(base, len).filter(|area| area.is_aligned(DESCRIPTOR_SIZE));
    let outside = SetupFault::OutsideMemory { area: RingArea::Descriptor, addr: base, len: len as u32 };
    Ok(Tables { area: area.ok_or(outside)?, base, entries })
}
