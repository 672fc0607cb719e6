//! The device configuration space of a block device.

use super::zone::ZoneShape;
use crate::storage::{EXTENTS_MAX, Limits, Shape};
use virtqueue::Endian;

/// Bytes of the space (virtio 1.3 §5.2.4, up to and with the zoned characteristics).
pub const CONFIG_LEN: usize = 96;

/// Bytes that the protocol calls a sector, whatever the disk's blocks are (virtio 1.3 §5.2.4).
pub const SECTOR: u64 = 512;

/// Where `writeback` stands.
const WRITEBACK_AT: usize = 32;
/// `model` of a host-managed disk.
const MODEL_HOST_MANAGED: u8 = 1;

/// What the device's queues take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLimits {
    /// Queues.
    pub queues: u16,
    /// Segments of data in one request at most; 0: no word of it.
    pub seg_max: u32,
    /// Bytes of one segment at most; 0: no word of it.
    pub size_max: u32,
}

/// What the configuration space says, but for `writeback`, which the [`WriteCache`](super::WriteCache) knows. Fields of features that
/// were not offered are there all the same; a driver does not look at them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlkConfig {
    /// The disk.
    pub shape: Shape,
    /// Its queues.
    pub queues: QueueLimits,
    /// Its zones.
    pub zones: Option<ZoneShape>,
}

impl BlkConfig {
    /// The whole space. `endian` is big only for a legacy big-endian driver.
    pub fn bytes(&self, endian: Endian, writeback: u8) -> [u8; CONFIG_LEN] {
        let Self { shape, queues, zones } = self;
        let mut fields = Fields { bytes: [0; CONFIG_LEN], endian };
        let sectors = shape.capacity / SECTOR;
        fields.put_u64(0, sectors);
        fields.put_u32(8, queues.size_max);
        fields.put_u32(12, queues.seg_max);
        let (cylinders, heads, per_track) = geometry(sectors);
        fields.put_u16(16, cylinders);
        fields.bytes[18] = heads;
        fields.bytes[19] = per_track;
        fields.put_u32(20, shape.logical_block);
        let block = shape.logical_block.max(1);
        fields.bytes[24] = (shape.physical_block.max(block) / block).ilog2() as u8;
        fields.bytes[25] = u8::try_from(shape.alignment_offset / block).unwrap_or(0);
        fields.put_u16(26, (shape.minimum_io / block).min(u16::MAX.into()) as u16);
        fields.put_u32(28, shape.optimal_io / block);
        fields.bytes[WRITEBACK_AT] = writeback;
        fields.put_u16(34, queues.queues);
        fields.put_limits(36, shape.discard, true);
        fields.put_limits(48, shape.zero, false);
        fields.bytes[56] = u8::from(shape.zero.is_some() && shape.zero_unmaps);
        fields.put_limits(60, shape.secure_erase, true);
        if let Some(zones) = zones {
            if let Some(limits) = shape.secure_erase {
                // Whole zones at once (virtio 1.3 §5.2.6.2).
                let alignment = (limits.alignment / SECTOR as u32).max(1);
                fields.put_u32(68, alignment.next_multiple_of(zones.zone_sectors.max(1)));
            }
            fields.put_zones(72, zones, queues);
        }
        fields.bytes
    }

    /// Reads `out.len()` bytes at `offset`; past the end there are zeros.
    pub fn read(&self, endian: Endian, writeback: u8, offset: u32, out: &mut [u8]) {
        let bytes = self.bytes(endian, writeback);
        let there = bytes.get(offset as usize..).unwrap_or_default();
        let (now, past) = out.split_at_mut(there.len().min(out.len()));
        now.copy_from_slice(&there[..now.len()]);
        past.fill(0);
    }
}

/// A driver's write of `data` at `offset` into the configuration space: the byte meant for `writeback`, if the write covers it. No
/// other field can be written; bytes for those are ignored, since front-ends exist that write the whole space.
pub fn write(offset: u32, data: &[u8]) -> Option<u8> {
    data.get(WRITEBACK_AT.checked_sub(offset as usize)?).copied()
}

/// Cylinders, heads and sectors of a track for a disk of so many sectors. No driver depends on it any more but old boot loaders, and
/// those know the disks of ATA: 16 heads, 63 sectors, and cylinders for what these can address.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    const HEADS: u8 = 16;
    const PER_TRACK: u8 = 63;
    const CYLINDERS_MAX: u64 = 16_383;
    let cylinders = sectors / (u64::from(HEADS) * u64::from(PER_TRACK));
    (cylinders.min(CYLINDERS_MAX) as u16, HEADS, PER_TRACK)
}

/// The space while it is written.
struct Fields {
    bytes: [u8; CONFIG_LEN],
    endian: Endian,
}

impl Fields {
    fn put(&mut self, at: usize, mut little: [u8; 8], len: usize) {
        let value = &mut little[..len];
        if self.endian == Endian::Big {
            value.reverse();
        }
        self.bytes[at..at + len].copy_from_slice(value);
    }

    fn put_u16(&mut self, at: usize, value: u16) {
        self.put(at, u64::from(value).to_le_bytes(), 2);
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, u64::from(value).to_le_bytes(), 4);
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, value.to_le_bytes(), 8);
    }

    /// `max_*_sectors`, `max_*_seg` and, where there is such a field, `*_sector_alignment`.
    fn put_limits(&mut self, at: usize, limits: Option<Limits>, has_alignment: bool) {
        let Some(limits) = limits else { return };
        self.put_u32(at, sectors_max(&limits));
        self.put_u32(at + 4, extents_max(&limits));
        if has_alignment {
            self.put_u32(at + 8, limits.alignment / SECTOR as u32);
        }
    }

    fn put_zones(&mut self, at: usize, zones: &ZoneShape, queues: &QueueLimits) {
        self.put_u32(at, zones.zone_sectors);
        self.put_u32(at + 4, zones.max_open_zones);
        self.put_u32(at + 8, zones.max_active_zones);
        self.put_u32(at + 12, max_append_sectors(zones, queues));
        self.put_u32(at + 16, zones.write_granularity);
        self.bytes[at + 20] = MODEL_HOST_MANAGED;
    }
}

/// Sectors of one extent at most.
pub(super) fn sectors_max(limits: &Limits) -> u32 {
    (limits.len_max / SECTOR).min(u32::MAX.into()) as u32
}

/// Extents of one request at most.
pub(super) fn extents_max(limits: &Limits) -> u32 {
    u32::from(limits.extents_max).min(EXTENTS_MAX as u32)
}

/// `max_append_sectors`: never more than a request can hold (virtio 1.3 §5.2.5.2).
fn max_append_sectors(zones: &ZoneShape, queues: &QueueLimits) -> u32 {
    let QueueLimits { seg_max, size_max, .. } = *queues;
    let request = u64::from(seg_max) * u64::from(size_max) / SECTOR;
    let is_limited = seg_max != 0 && size_max != 0 && request < u64::from(zones.max_append_sectors);
    if is_limited { request as u32 } else { zones.max_append_sectors }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> BlkConfig {
        let limits = |len_max, extents_max, alignment| Some(Limits { len_max, extents_max, alignment });
        BlkConfig {
            shape: Shape {
                logical_block: 4096,
                physical_block: 16_384,
                alignment_offset: 8192,
                minimum_io: 16_384,
                optimal_io: 1 << 20,
                discard: limits(1 << 20, 3, 4096),
                zero: limits(u64::MAX, 999, 512),
                zero_unmaps: true,
                secure_erase: limits(512, 1, 1024),
                ..Shape::plain((1 << 30) + 511)
            },
            queues: QueueLimits { queues: 0x102, seg_max: 254, size_max: 0x10000 },
            zones: Some(ZoneShape {
                capacity_sectors: 1 << 21,
                zone_sectors: 0x1000,
                zone_capacity_sectors: 0x1000,
                conventional_zones: 0,
                max_open_zones: 5,
                max_active_zones: 6,
                max_append_sectors: 0x800,
                write_granularity: 4096,
            }),
        }
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn fields_stand_where_the_specification_puts_them() {
        let bytes = config().bytes(Endian::Little, 1);
        assert_eq!(bytes[..8], (1u64 << 21).to_le_bytes());
        assert_eq!((u32_at(&bytes, 8), u32_at(&bytes, 12)), (0x10000, 254));
        // Geometry: 2097152 / (16 * 63) = 2080 cylinders.
        assert_eq!(bytes[16..20], [0x20, 8, 16, 63]);
        assert_eq!(u32_at(&bytes, 20), 4096);
        assert_eq!(bytes[24..32], [2, 2, 4, 0, 0, 1, 0, 0]);
        assert_eq!(bytes[32..36], [1, 0, 2, 1]);
        assert_eq!([36, 40, 44].map(|at| u32_at(&bytes, at)), [2048, 3, 8]);
        assert_eq!([48, 52].map(|at| u32_at(&bytes, at)), [u32::MAX, 256]);
        assert_eq!(bytes[56..60], [1, 0, 0, 0]);
        assert_eq!([60, 64, 68].map(|at| u32_at(&bytes, at)), [1, 1, 0x1000]);
        let unzoned = BlkConfig { zones: None, ..config() }.bytes(Endian::Little, 1);
        assert_eq!(u32_at(&unzoned, 68), 2);
        assert_eq!([72, 76, 80, 84, 88].map(|at| u32_at(&bytes, at)), [0x1000, 5, 6, 0x800, 4096]);
        assert_eq!(bytes[92..96], [1, 0, 0, 0]);
    }

    #[test]
    fn a_legacy_guest_reads_its_own_byte_order() {
        let (big, little) = (config().bytes(Endian::Big, 0), config().bytes(Endian::Little, 0));
        assert_eq!(big[..8], (1u64 << 21).to_be_bytes());
        assert_eq!((&big[34..36], &big[20..24]), (&[1, 2][..], &4096u32.to_be_bytes()[..]));
        assert_eq!(big[24..26], little[24..26]);
    }

    #[test]
    fn what_is_not_there_is_zero() {
        let shape = Shape::plain(1 << 20);
        let plain =
            BlkConfig { shape, queues: QueueLimits { queues: 1, seg_max: 0, size_max: 0 }, zones: None };
        let bytes = plain.bytes(Endian::Little, 0);
        assert_eq!(bytes[24..34], [0; 10]);
        assert_eq!(bytes[36..], [0; 60]);
        // The largest number of cylinders that anyone understands.
        let huge = BlkConfig { shape: Shape::plain(u64::MAX), ..plain };
        assert_eq!(huge.bytes(Endian::Little, 0)[16..20], [0xFF, 0x3F, 16, 63]);
    }

    #[test]
    fn an_append_is_never_longer_than_a_request() {
        let mut config = config();
        let read = |config: &BlkConfig| u32_at(&config.bytes(Endian::Little, 0), 84);
        config.queues = QueueLimits { queues: 1, seg_max: 2, size_max: 4096 };
        assert_eq!(read(&config), 16);
        config.queues.seg_max = 0;
        assert_eq!(read(&config), 0x800);
    }

    #[test]
    fn reads_past_the_end_are_zeros() {
        let mut out = [0xEE; 8];
        config().read(Endian::Little, 0, 92, &mut out);
        assert_eq!(out, [1, 0, 0, 0, 0, 0, 0, 0]);
        config().read(Endian::Little, 0, u32::MAX, &mut out);
        assert_eq!(out, [0; 8]);
    }

    #[test]
    fn only_writeback_is_written() {
        assert_eq!(write(32, &[1]), Some(1));
        assert_eq!(write(30, &[9, 9, 0]), Some(0));
        assert_eq!(write(0, &config().bytes(Endian::Little, 1)), Some(1));
        for (offset, len) in [(31, 1), (33, 1), (0, 32), (u32::MAX, 1), (32, 0)] {
            assert_eq!(write(offset, &vec![1; len]), None);
        }
    }
}
