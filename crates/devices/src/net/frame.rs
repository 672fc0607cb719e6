//! A frame on its way: a private head, the rest wherever it lies, and the offload that is true of them.

use super::offload::Offload;
use guestmem::{MemSlice, read_segments};

/// The shortest frame carried, in bytes: an Ethernet header.
pub const FRAME_LEN_MIN: u32 = 14;

/// The longest frame carried, in bytes: an Ethernet header, two VLAN tags and the longest IPv6 packet that
/// is no jumbogram.
pub const FRAME_LEN_MAX: u32 = 14 + 2 * 4 + 40 + 65_535;

/// One Ethernet frame. Its bytes are `head`, then those of `rest` from position `skip` on, `len` in all.
///
/// `head` is private: what decisions are based on, and what is delivered. `rest` may lie in a sender's memory
/// and change at any time. Copying a `Frame` copies no bytes of it.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub(super) head: &'a [u8],
    pub(super) rest: &'a [MemSlice<'a>],
    pub(super) skip: u32,
    pub(super) len: u32,
    pub(super) offload: Offload,
}

impl<'a> Frame<'a> {
    /// A frame that lies in private memory as a whole. It must be true of `offload` (validated, or made by us).
    ///
    /// Frames longer than [`FRAME_LEN_MAX`] are not carried: such bytes are cut off.
    pub fn private(bytes: &'a [u8], offload: Offload) -> Self {
        let len = bytes.len().min(FRAME_LEN_MAX as usize);
        Self { head: &bytes[..len], rest: &[], skip: 0, len: len as u32, offload }
    }

    /// The private copy of the first bytes: at least 14, and all headers that `offload` speaks of.
    #[inline]
    pub fn head(&self) -> &'a [u8] {
        self.head
    }

    /// What is still to be done to the frame.
    #[inline]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Bytes of the frame.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Frames that it becomes where a receiver does not take its segmentation; 1 for a frame without.
    #[inline]
    pub fn segments(&self) -> u32 {
        match self.offload {
            Offload::Segment(segmentation) => {
                let payload = self.len.saturating_sub(segmentation.header_len.into());
                payload.div_ceil(segmentation.size.max(1).into()).max(1)
            }
            _ => 1,
        }
    }

    /// What is not in [`head`](Self::head): a list of runs, and how many of its first bytes are not part of the
    /// frame's rest. For a caller that hands the frame to the kernel without a copy.
    #[inline]
    pub fn rest(&self) -> (&'a [MemSlice<'a>], usize) {
        (self.rest, self.skip as usize)
    }

    /// Copies the frame into private memory; returns how many bytes found room.
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.len as usize);
        let (head, rest) = out[..len].split_at_mut(self.head.len().min(len));
        head.copy_from_slice(&self.head[..head.len()]);
        head.len() + read_segments(self.rest, self.skip as usize, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_rest_are_one_frame() {
        let (mut a, mut b) = ([9u8, 9, 9, 4, 5], [6u8, 7]);
        let rest = [MemSlice::from_mut(&mut a), MemSlice::from_mut(&mut b)];
        let frame = Frame { head: &[1, 2, 3], rest: &rest, skip: 3, len: 7, offload: Offload::None };
        let mut out = [0; 10];
        assert_eq!(frame.copy_to(&mut out), 7);
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 0, 0, 0]);
        assert_eq!(frame.copy_to(&mut out[..2]), 2);
    }

    #[test]
    fn a_segmentation_tells_how_many_frames_it_becomes() {
        use super::super::offload::{SegmentKind, Segmentation};
        let bytes = [0; 54 + 2001];
        let of = |size| {
            let segmentation =
                Segmentation { kind: SegmentKind::Tcp4, ecn: false, size, header_len: 54, transport_at: 34 };
            Frame::private(&bytes, Offload::Segment(segmentation)).segments()
        };
        assert_eq!((of(1000), of(2001), of(48)), (3, 1, 42));
        assert_eq!(Frame::private(&bytes, Offload::None).segments(), 1);
    }

    #[test]
    fn a_private_frame_is_all_head() {
        let bytes = vec![3; FRAME_LEN_MAX as usize + 5];
        let frame = Frame::private(&bytes, Offload::None);
        assert_eq!((frame.len(), frame.head().len()), (FRAME_LEN_MAX, FRAME_LEN_MAX as usize));
    }
}
