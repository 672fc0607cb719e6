//! The device configuration space.

use virtqueue::Endian;

/// Bytes of the space (virtio 1.3 §5.6.4).
pub const CONFIG_LEN: usize = 36;
/// `sense_size` after a reset (virtio 1.3 §5.6.4.2).
pub const SENSE_SIZE_DEFAULT: u32 = 96;
/// `cdb_size` after a reset (virtio 1.3 §5.6.4.2).
pub const CDB_SIZE_DEFAULT: u32 = 32;
/// The largest `max_target`.
pub const TARGET_MAX: u16 = 255;
/// The largest `max_lun`.
pub const LUN_MAX: u32 = 16383;

const SENSE_SIZE_AT: usize = 20;
const CDB_SIZE_AT: usize = 24;

/// What the configuration space says. `max_channel` is always zero, `event_info_size` the size of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScsiConfig {
    /// Request queues.
    pub num_queues: u32,
    /// Segments of data in one request at most, in each direction.
    pub seg_max: u32,
    /// The best longest transfer, in sectors of 512 bytes.
    pub max_sectors: u32,
    /// Requests in flight for one unit at most.
    pub cmd_per_lun: u32,
    /// Bytes of sense data in a request. The driver may change it.
    pub sense_size: u32,
    /// Bytes of a CDB in a request. The driver may change it.
    pub cdb_size: u32,
    /// The last target that there may be.
    pub max_target: u16,
    /// The last unit that a target may have.
    pub max_lun: u32,
}

impl ScsiConfig {
    /// The space of a device with so many request queues, which can address everything.
    pub fn new(num_queues: u32, seg_max: u32) -> Self {
        Self {
            num_queues,
            seg_max,
            max_sectors: super::super::disk::TRANSFER_LEN_MAX / 512,
            cmd_per_lun: 128,
            sense_size: SENSE_SIZE_DEFAULT,
            cdb_size: CDB_SIZE_DEFAULT,
            max_target: TARGET_MAX,
            max_lun: LUN_MAX,
        }
    }

    /// What a reset of the device does.
    pub fn reset(&mut self) {
        (self.sense_size, self.cdb_size) = (SENSE_SIZE_DEFAULT, CDB_SIZE_DEFAULT);
    }

    /// The whole space. `endian` is big only for a legacy big-endian driver.
    pub fn bytes(&self, endian: Endian) -> [u8; CONFIG_LEN] {
        let mut bytes = [0; CONFIG_LEN];
        let event_info_size = super::event::EVENT_LEN as u32;
        let words = [
            self.num_queues,
            self.seg_max,
            self.max_sectors,
            self.cmd_per_lun,
            event_info_size,
            self.sense_size,
            self.cdb_size,
        ];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&emit(endian, word));
        }
        let target = match endian {
            Endian::Little => self.max_target.to_le_bytes(),
            Endian::Big => self.max_target.to_be_bytes(),
        };
        bytes[30..32].copy_from_slice(&target);
        bytes[32..].copy_from_slice(&emit(endian, self.max_lun));
        bytes
    }

    /// Reads `out.len()` bytes at `offset`; past the end there are zeros.
    pub fn read(&self, endian: Endian, offset: u32, out: &mut [u8]) {
        let bytes = self.bytes(endian);
        let there = bytes.get(offset as usize..).unwrap_or_default();
        let (now, past) = out.split_at_mut(there.len().min(out.len()));
        now.copy_from_slice(&there[..now.len()]);
        past.fill(0);
    }

    /// A driver's write, of any part of the space: what falls on `sense_size` and `cdb_size` is taken, all else is as if it had not been
    /// written. True: one of the two is another now. Any value is accepted: a request that has no room for it is answered as
    /// broken.
    pub fn write(&mut self, endian: Endian, offset: u32, data: &[u8]) -> bool {
        let before = *self;
        let mut bytes = self.bytes(endian);
        for (at, &byte) in (offset as usize..).zip(data).take_while(|(at, _)| *at < CONFIG_LEN) {
            if (SENSE_SIZE_AT..CDB_SIZE_AT + 4).contains(&at) {
                bytes[at] = byte;
            }
        }
        self.sense_size = parse(endian, &bytes, SENSE_SIZE_AT);
        self.cdb_size = parse(endian, &bytes, CDB_SIZE_AT);
        *self != before
    }
}

fn emit(endian: Endian, word: u32) -> [u8; 4] {
    match endian {
        Endian::Little => word.to_le_bytes(),
        Endian::Big => word.to_be_bytes(),
    }
}

fn parse(endian: Endian, bytes: &[u8; CONFIG_LEN], at: usize) -> u32 {
    let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    match endian {
        Endian::Little => u32::from_le_bytes(word),
        Endian::Big => u32::from_be_bytes(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_specification_puts_them() {
        let bytes = ScsiConfig::new(3, 254).bytes(Endian::Little);
        let expected = [
            [3, 0, 0, 0],
            [254, 0, 0, 0],
            [0, 0, 2, 0],
            [128, 0, 0, 0],
            [16, 0, 0, 0],
            [96, 0, 0, 0],
            [32, 0, 0, 0],
            [0, 0, 255, 0],
            [0xFF, 0x3F, 0, 0],
        ];
        assert_eq!(bytes, *expected.as_flattened());
        let big = ScsiConfig::new(3, 254).bytes(Endian::Big);
        assert_eq!(
            (&big[..4], &big[28..32], &big[32..]),
            (&[0, 0, 0, 3][..], &[0, 0, 0, 255][..], &[0, 0, 0x3F, 0xFF][..])
        );
    }

    #[test]
    fn only_two_fields_can_be_written() {
        let mut config = ScsiConfig::new(1, 1);
        assert!(!config.write(Endian::Little, 0, &[0xEE; 20]));
        assert!(config.write(Endian::Little, 20, &[252, 0, 0, 0, 16, 0, 0, 0]));
        assert_eq!((config.sense_size, config.cdb_size), (252, 16));
        assert!(config.write(Endian::Big, 27, &[7, 9, 9]));
        assert_eq!((config.cdb_size, config.max_target), (7, 255));
        assert!(!config.write(Endian::Little, u32::MAX, &[1, 2]));
        assert!(config.write(Endian::Little, 0, &[0xFF; 300]));
        assert_eq!((config.sense_size, config.num_queues), (u32::MAX, 1));
        config.reset();
        assert_eq!(config, ScsiConfig::new(1, 1));
    }

    #[test]
    fn reads_past_the_end_are_zeros() {
        let config = ScsiConfig::new(1, 1);
        let mut out = [0xEE; 8];
        config.read(Endian::Little, 32, &mut out);
        assert_eq!(out, [0xFF, 0x3F, 0, 0, 0, 0, 0, 0]);
        config.read(Endian::Little, u32::MAX, &mut out);
        assert_eq!(out, [0; 8]);
    }
}
