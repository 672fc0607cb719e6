//! The device configuration space of a network device.

use virtqueue::Endian;

/// Bytes of the space (virtio 1.3 §5.1.4, up to and with `supported_hash_types`).
pub const CONFIG_LEN: usize = 24;

/// `speed` when it is not known.
pub const SPEED_UNKNOWN: u32 = u32::MAX;

const STATUS_LINK_UP: u16 = 1;
const STATUS_ANNOUNCE: u16 = 2;

/// Whether both ends can send at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Duplex {
    /// One at a time.
    Half = 0,
    /// Both.
    Full = 1,
    /// Not known.
    #[default]
    Unknown = 0xFF,
}

/// What the configuration space says. Fields of features that were not offered are there all the same; a
/// driver does not look at them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetConfig {
    /// The device's address.
    pub mac: [u8; 6],
    /// The link is up.
    pub link_up: bool,
    /// The driver is asked to announce itself.
    pub announce: bool,
    /// Queue pairs that the device has.
    pub queue_pairs_max: u16,
    /// The longest packet that the network carries, in bytes without Ethernet header.
    pub mtu: u16,
    /// Mb/s, or [`SPEED_UNKNOWN`].
    pub speed: u32,
    /// Duplex.
    pub duplex: Duplex,
}

impl NetConfig {
    /// The whole space; what we do not implement is zero. `endian` is big only for a legacy big-endian driver.
    pub fn bytes(&self, endian: Endian) -> [u8; CONFIG_LEN] {
        let short = |value: u16| match endian {
            Endian::Little => value.to_le_bytes(),
            Endian::Big => value.to_be_bytes(),
        };
        let speed = match endian {
            Endian::Little => self.speed.to_le_bytes(),
            Endian::Big => self.speed.to_be_bytes(),
        };
        let mut status = 0;
        if self.link_up {
            status |= STATUS_LINK_UP;
        }
        if self.announce {
            status |= STATUS_ANNOUNCE;
        }
        let mut bytes = [0; CONFIG_LEN];
        bytes[0..6].copy_from_slice(&self.mac);
        bytes[6..8].copy_from_slice(&short(status));
        bytes[8..10].copy_from_slice(&short(self.queue_pairs_max));
        bytes[10..12].copy_from_slice(&short(self.mtu));
        bytes[12..16].copy_from_slice(&speed);
        bytes[16] = self.duplex as u8;
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

    /// A driver's write. Only the address can be written, and only by a legacy driver without CTRL_MAC_ADDR
    /// (virtio 1.3 §5.1.4.3); the new one is returned, and may be a half-written one.
    pub fn write(&mut self, offset: u32, data: &[u8]) -> Option<[u8; 6]> {
        let end = (offset as usize).checked_add(data.len())?;
        self.mac.get_mut(offset as usize..end)?.copy_from_slice(data);
        Some(self.mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: NetConfig = NetConfig {
        mac: [2, 3, 4, 5, 6, 7],
        link_up: true,
        announce: true,
        queue_pairs_max: 0x102,
        mtu: 0x2328,
        speed: 0x0001_86A0,
        duplex: Duplex::Full,
    };

    #[test]
    fn fields_stand_where_the_specification_puts_them() {
        let little = [2, 3, 4, 5, 6, 7, 3, 0, 2, 1, 0x28, 0x23, 0xA0, 0x86, 1, 0, 1];
        assert_eq!(CONFIG.bytes(Endian::Little)[..17], little);
        let big = [2, 3, 4, 5, 6, 7, 0, 3, 1, 2, 0x23, 0x28, 0, 1, 0x86, 0xA0, 1];
        assert_eq!(CONFIG.bytes(Endian::Big)[..17], big);
    }

    #[test]
    fn reads_past_the_end_are_zeros() {
        let mut out = [0xEE; 12];
        CONFIG.read(Endian::Little, 16, &mut out);
        assert_eq!(out, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut out = [0xEE; 3];
        CONFIG.read(Endian::Little, u32::MAX, &mut out);
        assert_eq!(out, [0; 3]);
        let mut out = [0xEE; 256];
        CONFIG.read(Endian::Little, 0, &mut out);
        assert_eq!((out[0], &out[17..]), (2, &[0; 239][..]));
    }

    #[test]
    fn only_the_address_is_written() {
        let mut config = CONFIG;
        assert_eq!(config.write(4, &[9, 9]), Some([2, 3, 4, 5, 9, 9]));
        assert_eq!(config.write(4, &[8, 8, 8]), None);
        assert_eq!(config.write(u32::MAX, &[1]), None);
        assert_eq!(config.mac, [2, 3, 4, 5, 9, 9]);
    }
}
