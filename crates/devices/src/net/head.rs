//! The head of a frame by itself, for a way that leaves the rest where it lies.

use super::checksum::Sum;
use super::frame::Frame;
use super::offload::Offload;
use guestmem::read_segments;

/// Bytes of the rest that are summed at a time.
const CHUNK: usize = 1024;

impl Frame<'_> {
    /// Writes the head into `out`, finished as far as it can be: an unfinished checksum is summed over the whole frame and
    /// stored, with the rest only read. How many bytes that is.
    ///
    /// `None`: the frame is to be segmented, the head does not fit, or the checksum's field is not in it. A sender that changes
    /// the rest meanwhile sends a wrong checksum, and no more.
    pub fn write_head(&self, out: &mut [u8]) -> Option<usize> {
        let head = out.get_mut(..self.head.len())?;
        head.copy_from_slice(self.head);
        match self.offload {
            Offload::None | Offload::Verified => {}
            Offload::Checksum { start, offset } => {
                let start = usize::from(start);
                let at = start + usize::from(offset);
                let sum = self.sum_from(start)?.finish_nonzero();
                head.get_mut(at..at + 2)?.copy_from_slice(&sum.to_be_bytes());
            }
            Offload::Segment(_) => return None,
        }
        Some(head.len())
    }

    /// The sum of all bytes from `start` on, which is in the head.
    fn sum_from(&self, start: usize) -> Option<Sum> {
        let covered = self.head.get(start..)?;
        // Runs of even length, but for the last one: the head's odd byte goes with what follows.
        let (even, odd) = covered.split_at(covered.len() & !1);
        let mut sum = Sum::new().bytes(even);
        let mut chunk = [0; CHUNK];
        chunk[..odd.len()].copy_from_slice(odd);
        let mut held = odd.len();
        let (mut from, mut left) = (self.skip as usize, self.len as usize - self.head.len());
        while left != 0 || held != 0 {
            let now = left.min(CHUNK - held);
            let read = read_segments(self.rest, from, &mut chunk[held..held + now]);
            if read != now {
                return None;
            }
            sum = sum.bytes(&chunk[..held + now]);
            (from, left, held) = (from + now, left - now, 0);
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::super::offload::{SegmentKind, Segmentation};
    use super::super::{Accepts, Software};
    use super::*;
    use guestmem::MemSlice;
    use std::ops::ControlFlow;

    /// The bytes that go out when the head is written and the rest stays; and those that [`Software`] makes of the frame.
    fn both(frame: &Frame<'_>) -> (Vec<u8>, Vec<u8>) {
        let mut out = vec![0; frame.len() as usize];
        frame.copy_to(&mut out);
        let len = frame.write_head(&mut out).unwrap();
        assert_eq!(len, frame.head().len());
        let mut whole = Vec::new();
        Software::new().convert(frame, Accepts::empty(), |part| {
            whole.resize(part.len() as usize, 0);
            part.copy_to(&mut whole);
            ControlFlow::Continue(())
        });
        (out, whole)
    }

    #[test]
    fn a_checksum_is_finished_wherever_head_and_rest_meet() {
        let lens = if cfg!(miri) { vec![60, 61] } else { vec![54, 55, 60, 61, 1077, 1078, 1079, 3001] };
        for len in lens {
            let bytes: Vec<u8> = (0..len).map(|i: usize| (i * 37 + 11) as u8).collect();
            for head_len in [36 + 18, 40 + 13].map(|at: usize| at.min(len)) {
                let mut rest = bytes[head_len..].to_vec();
                let cut = rest.len() / 3;
                let (a, b) = rest.split_at_mut(cut);
                let rest = [MemSlice::from_mut(a), MemSlice::from_mut(b)];
                for (start, offset) in [(34, 16), (35, 6)] {
                    let offload = Offload::Checksum { start, offset };
                    let frame =
                        Frame { head: &bytes[..head_len], rest: &rest, skip: 0, len: len as u32, offload };
                    let (lent, copied) = both(&frame);
                    assert_eq!(lent, copied, "{len} bytes, head of {head_len}, from {start}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_finished_is_not_written() {
        let bytes = [7; 200];
        let mut out = [0; 256];
        let frame = |offload| Frame { head: &bytes[..60], rest: &[], skip: 0, len: 60, offload };
        assert_eq!(frame(Offload::None).write_head(&mut out), Some(60));
        assert_eq!(frame(Offload::Verified).write_head(&mut out), Some(60));
        assert_eq!(frame(Offload::None).write_head(&mut out[..59]), None);
        assert_eq!(frame(Offload::Checksum { start: 34, offset: 26 }).write_head(&mut out), None);
        assert_eq!(frame(Offload::Checksum { start: 61, offset: 0 }).write_head(&mut out), None);
        let segmentation =
            Segmentation { kind: SegmentKind::Tcp4, ecn: false, size: 100, header_len: 54, transport_at: 34 };
        assert_eq!(frame(Offload::Segment(segmentation)).write_head(&mut out), None);
    }
}
