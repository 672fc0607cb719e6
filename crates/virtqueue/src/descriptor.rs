//! A descriptor as a private copy, and the bits of its flags.

use crate::setup::{DescriptorEntries, Descriptors};
use guestmem::GuestAddr;
use std::sync::atomic::Ordering;

/// `VIRTQ_DESC_F_NEXT`: the buffer goes on in another descriptor.
pub const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`: for the device to write.
pub const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`: the buffer holds a table of descriptors.
pub const INDIRECT: u16 = 4;
/// `VIRTQ_DESC_F_AVAIL`, packed ring only (virtio 1.3 §2.8.1).
pub const AVAIL: u16 = 1 << 7;
/// `VIRTQ_DESC_F_USED`, packed ring only.
pub const USED: u16 = 1 << 15;

/// Bytes of a descriptor of either form.
pub const DESCRIPTOR_SIZE: usize = 16;

/// A descriptor of either form, in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The buffer, or the table of an indirect one.
    pub addr: GuestAddr,
    /// Its bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`]; in a packed ring also [`AVAIL`] and [`USED`].
    pub flags: u16,
    /// Split: the next descriptor's index. Packed: the buffer id.
    pub link: u16,
}

impl Descriptor {
    /// Whether any bit of `flag` is set.
    #[inline(always)]
    pub fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// From the two 64-bit words of a split descriptor: addr; len, flags, next (virtio 1.3 §2.7.5).
    #[inline(always)]
    pub fn from_split(words: [u64; 2], big: bool) -> Self {
        let (addr, rest) = (u64::from_le(words[0]), u64::from_le(words[1]));
        let (len, flags, next) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16);
        if big {
            return Self {
                addr: GuestAddr(addr.swap_bytes()),
                len: len.swap_bytes(),
                flags: flags.swap_bytes(),
                link: next.swap_bytes(),
            };
        }
        Self { addr: GuestAddr(addr), len, flags, link: next }
    }

    /// The reverse of [`Self::from_split`].
    #[inline(always)]
    pub fn to_split(self, big: bool) -> [u64; 2] {
        let Self { addr: GuestAddr(addr), len, flags, link } = self;
        let (addr, len, flags, link) = if big {
            (addr.swap_bytes(), len.swap_bytes(), flags.swap_bytes(), link.swap_bytes())
        } else {
            (addr, len, flags, link)
        };
        [addr.to_le(), (u64::from(len) | u64::from(flags) << 32 | u64::from(link) << 48).to_le()]
    }

    /// From the two words of a packed descriptor: addr; len, id, flags (virtio 1.3 §2.8.13).
    #[inline(always)]
    pub fn from_packed(words: [u64; 2]) -> Self {
        let rest = u64::from_le(words[1]);
        Self {
            addr: GuestAddr(u64::from_le(words[0])),
            len: rest as u32,
            flags: (rest >> 48) as u16,
            link: (rest >> 32) as u16,
        }
    }

    /// The reverse of [`Self::from_packed`].
    #[inline(always)]
    pub fn to_packed(self) -> [u64; 2] {
        let rest = u64::from(self.len) | u64::from(self.link) << 32 | u64::from(self.flags) << 48;
        [self.addr.0.to_le(), rest.to_le()]
    }
}

/// The two words of descriptor `index` of a table, each loaded once.
#[inline(always)]
pub(crate) fn load(table: DescriptorEntries<'_>, index: u16) -> [u64; 2] {
    let index = usize::from(index);
    [table.load_u64(index, 0, Ordering::Relaxed), table.load_u64(index, 8, Ordering::Relaxed)]
}

/// Stores both words of descriptor `index`.
#[inline(always)]
pub(crate) fn store(table: &Descriptors, index: u16, words: [u64; 2]) {
    let index = usize::from(index);
    table.store_u64(index, 0, words[0], Ordering::Relaxed);
    table.store_u64(index, 8, words[1], Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_and_orders_survive_the_round_trip() {
        let descriptor =
            Descriptor { addr: GuestAddr(0x1122_3344_5566_7788), len: 0xaabb_ccdd, flags: 5, link: 0x1234 };
        for big in [false, true] {
            assert_eq!(Descriptor::from_split(descriptor.to_split(big), big), descriptor);
        }
        assert_eq!(Descriptor::from_packed(descriptor.to_packed()), descriptor);
    }

    #[test]
    fn big_endian_bytes_lie_as_the_guest_wrote_them() {
        let descriptor = Descriptor { addr: GuestAddr(1), len: 2, flags: 3, link: 4 };
        let [addr, rest] = descriptor.to_split(true);
        assert_eq!(addr.to_ne_bytes(), 1u64.to_be_bytes());
        assert_eq!(rest.to_ne_bytes(), [0, 0, 0, 2, 0, 3, 0, 4]);
    }
}
