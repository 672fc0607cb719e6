//! What a queue is made of before it runs: size, areas, features, position.

use crate::descriptor::DESCRIPTOR_SIZE;
use crate::in_flight::{InFlightFault, InFlightLog};
use guestmem::{DirtyLog, Entries, GuestAddr, GuestMemory, MemArea, MemTable};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thiserror::Error;

/// Entries of a ring: 1 to 32768 (virtio 1.3 §2.7, §2.8). The split ring asks for a power of two as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueSize(u16);

impl QueueSize {
    /// The largest ring of both forms.
    pub const MAX: Self = Self(32768);

    /// The number of entries.
    #[inline]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for QueueSize {
    type Error = SetupFault;

    fn try_from(entries: u16) -> Result<Self, SetupFault> {
        match entries {
            1..=32768 => Ok(Self(entries)),
            _ => Err(SetupFault::Size { entries }),
        }
    }
}

/// Byte order of the ring's words. Only a legacy guest may use its own (virtio 1.3 §2.7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endian {
    /// Little endian: everything since virtio 1.0, and most legacy guests.
    #[default]
    Little,
    /// Big endian: a legacy guest on a big-endian processor.
    Big,
}

/// What was negotiated about the ring. The default is a split little-endian ring with nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// `VIRTIO_F_RING_PACKED` (34).
    pub packed: bool,
    /// `VIRTIO_F_INDIRECT_DESC` (28).
    pub indirect: bool,
    /// `VIRTIO_F_EVENT_IDX` (29).
    pub event_idx: bool,
    /// `VIRTIO_F_IN_ORDER` (35): chains completed out of order are held back until their turn comes.
    pub in_order: bool,
    /// Byte order of the ring's words; the packed ring is always little endian.
    pub endian: Endian,
}

/// Where the ring's own writes are logged during live migration.
#[derive(Clone, Debug)]
pub struct RingLog {
    /// The dirty bitmap.
    pub log: DirtyLog,
    /// Guest address under which writes to the used ring are logged (`VHOST_VRING_F_LOG`); `None` logs
    /// buffers only. The packed ring logs its own guest addresses instead of this one.
    pub used_ring: Option<GuestAddr>,
}

/// Everything needed to start a queue, apart from its position.
#[derive(Clone, Debug)]
pub struct QueueSetup {
    /// Entries.
    pub size: QueueSize,
    /// Descriptor table, or the packed descriptor ring. 16-aligned.
    pub desc: GuestAddr,
    /// Available ring (2-aligned), or the packed ring's driver event suppression (4-aligned).
    pub driver: GuestAddr,
    /// Used ring, or the packed ring's device event suppression. 4-aligned.
    pub device: GuestAddr,
    /// What was negotiated.
    pub features: RingFeatures,
    /// Dirty logging, while a migration runs.
    pub log: Option<RingLog>,
    /// Where the chains in flight are recorded, for a device that completes out of order and is to survive a kill.
    pub in_flight: Option<InFlightLog>,
}

/// One of the three parts of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingArea {
    /// Descriptor table, or packed descriptor ring.
    Descriptor,
    /// Available ring, or driver event suppression.
    Driver,
    /// Used ring, or device event suppression.
    Device,
}

impl fmt::Display for RingArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptor => "descriptor area",
            Self::Driver => "driver area",
            Self::Device => "device area",
        })
    }
}

/// Why a queue cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SetupFault {
    /// Zero entries or more than 32768.
    #[error("queue size {entries}: accepted are 1 to 32768")]
    Size {
        /// Entries asked for.
        entries: u16,
    },
    /// A split ring whose size is no power of two (virtio 1.3 §2.7).
    #[error("queue size {entries}: a split ring needs a power of two")]
    SizeNotPowerOfTwo {
        /// Entries asked for.
        entries: u16,
    },
    /// An area's address is not aligned as virtio 1.3 §2.7 and §2.8.10 demand.
    #[error("{area} at {addr}: must be a multiple of {align}")]
    Misaligned {
        /// Which part.
        area: RingArea,
        /// Its address.
        addr: GuestAddr,
        /// Alignment needed, in bytes.
        align: u8,
    },
    /// An area is not inside the guest's memory, or not in such pieces that it can be had in one.
    #[error(
        "{area} at {addr} of {len} bytes: not inside the guest's memory, or in pieces that cannot be mapped as one"
    )]
    OutsideMemory {
        /// Which part.
        area: RingArea,
        /// Its address.
        addr: GuestAddr,
        /// Its length, in bytes.
        len: u32,
    },
    /// An area wraps around the address space.
    #[error("the ring at {addr} goes past the end of the address space")]
    AddressOverflow {
        /// Where the ring begins.
        addr: GuestAddr,
    },
    /// The legacy layout's alignment is no power of two.
    #[error("legacy alignment {align}: accepted are powers of two")]
    LegacyAlign {
        /// Alignment asked for, in bytes.
        align: u32,
    },
    /// A packed ring in big endian: there is none.
    #[error("a packed ring is always little endian")]
    PackedBigEndian,
    /// A start position outside the packed ring.
    #[error("ring index {index} of a packed ring with {size} entries")]
    StateIndex {
        /// The index given.
        index: u16,
        /// Entries.
        size: u16,
    },
    /// The record of the chains in flight.
    #[error("the record of chains in flight: {0}")]
    InFlight(#[from] InFlightFault),
}

/// Lengths of the three areas, in bytes.
pub(crate) fn area_lens(size: QueueSize, features: RingFeatures) -> (usize, usize, usize) {
    let entries = usize::from(size.get());
    if features.packed {
        return (16 * entries, 4, 4);
    }
    // The event words come after the rings, and only with EVENT_IDX (virtio 1.3 §2.7.6, §2.7.8).
    let event = if features.event_idx { 2 } else { 0 };
    (16 * entries, 4 + 2 * entries + event, 4 + 8 * entries + event)
}

/// Descriptors of either form.
pub(crate) type Descriptors = MemTable<DESCRIPTOR_SIZE, 8>;
/// The same, for a loop over many of them.
pub(crate) type DescriptorEntries<'t> = Entries<'t, DESCRIPTOR_SIZE, 8>;
/// Entries of a split ring's available ring: the head's index.
pub(crate) type AvailEntries = MemTable<2, 2>;
/// Entries of a split ring's used ring: id and length, 32 bits each.
pub(crate) type UsedEntries = MemTable<8, 4>;

/// The three areas, mapped.
pub(crate) struct Areas {
    pub(crate) desc: Descriptors,
    pub(crate) driver: MemArea,
    pub(crate) device: MemArea,
}

impl QueueSetup {
    /// The 0.9 layout: descriptor table, available ring, and at the next multiple of `align` the used ring,
    /// all in one piece from `base` on (virtio 1.3 §2.7.2).
    pub fn contiguous_legacy(
        size: QueueSize,
        base: GuestAddr,
        align: u32,
        features: RingFeatures,
    ) -> Result<Self, SetupFault> {
        if !align.is_power_of_two() {
            return Err(SetupFault::LegacyAlign { align });
        }
        let overflow = SetupFault::AddressOverflow { addr: base };
        let entries = u64::from(size.get());
        let driver = base.checked_add(16 * entries).ok_or(overflow)?;
        // Flags, index, entries and the used_event word, which the formula counts with or without EVENT_IDX.
        let end = driver.checked_add(2 * (3 + entries)).ok_or(overflow)?;
        // Relative to the base: the layout is counted in pages from there.
        let used = (end.0 - base.0).next_multiple_of(u64::from(align));
        let device = base.checked_add(used).ok_or(overflow)?;
        Ok(Self { size, desc: base, driver, device, features, log: None, in_flight: None })
    }

    /// Whether a queue of this setup can run on `memory`: sizes, alignments, and every area inside the memory, as [`GuestMemory::area`] has it.
    pub fn check(&self, memory: &Arc<GuestMemory>) -> Result<(), SetupFault> {
        let areas = self.areas(memory)?;
        if !self.features.packed {
            self.split_entries(&areas)?;
        }
        Ok(())
    }

    pub(crate) fn areas(&self, memory: &Arc<GuestMemory>) -> Result<Areas, SetupFault> {
        let entries = self.size.get();
        if self.features.packed && self.features.endian == Endian::Big {
            return Err(SetupFault::PackedBigEndian);
        }
        if !self.features.packed && !entries.is_power_of_two() {
            return Err(SetupFault::SizeNotPowerOfTwo { entries });
        }
        let (desc_len, driver_len, device_len) = area_lens(self.size, self.features);
        let driver_align = if self.features.packed { 4 } else { 2 };
        let desc = map(memory, RingArea::Descriptor, self.desc, desc_len, 16)?;
        Ok(Areas {
            desc: self.entries(&desc, 0, RingArea::Descriptor)?,
            driver: map(memory, RingArea::Driver, self.driver, driver_len, driver_align)?,
            device: map(memory, RingArea::Device, self.device, device_len, 4)?,
        })
    }

    /// The entries of a split ring's available and used rings, behind flags and index (virtio 1.3 §2.7.6,
    /// §2.7.8).
    pub(crate) fn split_entries(&self, areas: &Areas) -> Result<(AvailEntries, UsedEntries), SetupFault> {
        Ok((
            self.entries(&areas.driver, 4, RingArea::Driver)?,
            self.entries(&areas.device, 4, RingArea::Device)?,
        ))
    }

    /// One entry for each of the ring, from byte `offset` of a mapped area on.
    fn entries<const STRIDE: usize, const ALIGN: usize>(
        &self,
        mapped: &MemArea,
        offset: usize,
        area: RingArea,
    ) -> Result<MemTable<STRIDE, ALIGN>, SetupFault> {
        let addr = match area {
            RingArea::Descriptor => self.desc,
            RingArea::Driver => self.driver,
            RingArea::Device => self.device,
        };
        MemTable::new(mapped, offset, usize::from(self.size.get())).ok_or(SetupFault::OutsideMemory {
            area,
            addr,
            len: mapped.len() as u32,
        })
    }
}

fn map(
    memory: &Arc<GuestMemory>,
    area: RingArea,
    addr: GuestAddr,
    len: usize,
    align: u8,
) -> Result<MemArea, SetupFault> {
    let misaligned = SetupFault::Misaligned { area, addr, align };
    if !addr.is_aligned(u64::from(align)) {
        return Err(misaligned);
    }
    addr.checked_add(len as u64).ok_or(SetupFault::AddressOverflow { addr })?;
    let outside = SetupFault::OutsideMemory { area, addr, len: len as u32 };
    let mapped = memory.area(addr, len).ok_or(outside)?;
    // A region may be mapped at an odd file offset; then even an aligned guest address is not aligned here.
    if mapped.is_aligned(usize::from(align)) { Ok(mapped) } else { Err(misaligned) }
}

/// Where a ring stands: what is taken over when a queue is stopped and started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingState {
    /// Split: the free-running available index. Packed: the next descriptor to pop.
    pub avail: u16,
    /// Packed: the wrap counter that goes with it.
    pub avail_wrap: bool,
    /// Split: the free-running used index. Packed: where the next used descriptor goes.
    pub used: u16,
    /// Packed: the wrap counter that goes with it.
    pub used_wrap: bool,
}

impl Default for RingState {
    /// A new ring: all zero, wrap counters set (virtio 1.3 §2.8.1).
    fn default() -> Self {
        Self { avail: 0, avail_wrap: true, used: 0, used_wrap: true }
    }
}

impl RingState {
    /// From the value of `VHOST_USER_SET_VRING_BASE`.
    pub fn from_vring_base(base: u32, packed: bool) -> Self {
        let (low, high) = (base as u16, (base >> 16) as u16);
        if packed {
            let wrap = |half: u16| half & 0x8000 != 0;
            return Self {
                avail: low & 0x7fff,
                avail_wrap: wrap(low),
                used: high & 0x7fff,
                used_wrap: wrap(high),
            };
        }
        Self { avail: low, used: low, ..Self::default() }
    }

    /// The value of `VHOST_USER_GET_VRING_BASE`.
    pub fn to_vring_base(self, packed: bool) -> u32 {
        if !packed {
            return u32::from(self.avail);
        }
        let half = |index: u16, wrap: bool| u32::from(index & 0x7fff) | u32::from(wrap) << 15;
        half(self.avail, self.avail_wrap) | half(self.used, self.used_wrap) << 16
    }

    /// The state of a split ring whose device vanished without `GET_VRING_BASE`: goes on at the used index
    /// found in the ring, so chains that were popped and never completed are popped again. Those that were completed out of
    /// order are left out if the setup has a record of what is in flight ([`QueueSetup::in_flight`]).
    pub fn resume_split(memory: &Arc<GuestMemory>, setup: &QueueSetup) -> Result<Self, SetupFault> {
        let word = setup.areas(memory)?.device.load_u16(2, Ordering::Acquire);
        let used = host_u16(word, setup.features.endian == Endian::Big);
        Ok(Self { avail: used, used, ..Self::default() })
    }
}

/// A ring word as a number, and the other way round.
#[inline(always)]
pub(crate) fn host_u16(word: u16, big: bool) -> u16 {
    if big { u16::from_be(word) } else { u16::from_le(word) }
}

/// As [`host_u16`].
#[inline(always)]
pub(crate) fn host_u32(word: u32, big: bool) -> u32 {
    if big { u32::from_be(word) } else { u32::from_le(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(entries: u16) -> QueueSize {
        QueueSize::try_from(entries).unwrap()
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(QueueSize::try_from(0), Err(SetupFault::Size { entries: 0 }));
        assert_eq!(QueueSize::try_from(32769), Err(SetupFault::Size { entries: 32769 }));
        assert_eq!(size(32768), QueueSize::MAX);
    }

    #[test]
    fn vring_base_survives_the_round_trip() {
        let packed = RingState::from_vring_base(0x8000_8000, true);
        assert_eq!(packed, RingState::default());
        for base in [0u32, 0x8000_8000, 0x0003_8005, 0x8005_0003] {
            assert_eq!(RingState::from_vring_base(base, true).to_vring_base(true), base);
        }
        assert_eq!(RingState::from_vring_base(0xfffe, false).to_vring_base(false), 0xfffe);
        assert_eq!(RingState::from_vring_base(77, false).used, 77);
    }

    #[test]
    fn the_legacy_layout_is_the_known_one() {
        let setup =
            QueueSetup::contiguous_legacy(size(256), GuestAddr(0x10_0000), 4096, RingFeatures::default())
                .unwrap();
        // 4096 bytes of descriptors, 518 of the available ring, the used ring on the next page.
        assert_eq!((setup.driver, setup.device), (GuestAddr(0x10_1000), GuestAddr(0x10_2000)));
        let bad = QueueSetup::contiguous_legacy(size(1), GuestAddr(0), 3, RingFeatures::default());
        assert_eq!(bad.err(), Some(SetupFault::LegacyAlign { align: 3 }));
        let far =
            QueueSetup::contiguous_legacy(size(256), GuestAddr(u64::MAX - 15), 4096, RingFeatures::default());
        assert!(matches!(far, Err(SetupFault::AddressOverflow { .. })));
    }

    #[test]
    fn areas_are_checked() {
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0x1000), 0x4000).unwrap());
        let good = QueueSetup {
            size: size(16),
            desc: GuestAddr(0x1000),
            driver: GuestAddr(0x2000),
            device: GuestAddr(0x3000),
            features: RingFeatures::default(),
            log: None,
            in_flight: None,
        };
        assert!(good.areas(&memory).is_ok());
        let fault = |change: &dyn Fn(&mut QueueSetup)| {
            let mut setup = good.clone();
            change(&mut setup);
            setup.areas(&memory).err()
        };
        assert_eq!(fault(&|s| s.size = size(12)), Some(SetupFault::SizeNotPowerOfTwo { entries: 12 }));
        assert!(matches!(fault(&|s| s.desc.0 += 8), Some(SetupFault::Misaligned { align: 16, .. })));
        assert!(matches!(fault(&|s| s.driver.0 += 1), Some(SetupFault::Misaligned { align: 2, .. })));
        assert!(matches!(fault(&|s| s.device.0 += 2), Some(SetupFault::Misaligned { align: 4, .. })));
        assert!(matches!(fault(&|s| s.desc = GuestAddr(0x4f10)), Some(SetupFault::OutsideMemory { .. })));
        let last = GuestAddr(0u64.wrapping_sub(16));
        assert!(matches!(fault(&|s| s.desc = last), Some(SetupFault::AddressOverflow { .. })));
        let big = |s: &mut QueueSetup| {
            (s.features.packed, s.features.endian) = (true, Endian::Big);
        };
        assert_eq!(fault(&big), Some(SetupFault::PackedBigEndian));
    }
}
