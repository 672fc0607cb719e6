//! The outermost VLAN tag of a frame, put on, taken off or changed on the way from sender to receiver.
//!
//! Only the private head changes; the rest of the frame stays where it lies. What the offload says about places in the
//! frame moves with the bytes.

use super::frame::{FRAME_LEN_MAX, FRAME_LEN_MIN, Frame};
use super::offload::{HEADERS_LEN_MAX, Offload};
use super::packet::Packet;
use super::transmit::HeadBuffer;

/// Where the tag stands: behind the two addresses.
const TAG_AT: usize = 12;
/// Bytes of a tag.
const TAG_LEN: usize = 4;

/// A change of the outermost tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TagEdit {
    /// A tag in front of what there is: its type (0x8100 or 0x88a8), and priority with VLAN.
    Push {
        /// Tag protocol identifier.
        tpid: u16,
        /// Tag control information.
        tci: u16,
    },
    /// The tag goes.
    Pop,
    /// The tag gets another priority and VLAN.
    Rewrite {
        /// Tag control information.
        tci: u16,
    },
}

impl<'a> Frame<'a> {
    /// The frame with another outermost tag; its head is in `buffer` then. `Pop` and `Rewrite` are for frames that have a
    /// tag.
    ///
    /// `None` where that cannot be: the frame would be too long or too short, its head does not fit the buffer, or an
    /// offload would not be true of it any more.
    pub fn retagged(&self, edit: TagEdit, buffer: &'a mut HeadBuffer) -> Option<Frame<'a>> {
        let (addresses, behind) = self.head.split_at_checked(TAG_AT)?;
        let (tag, behind): (&[u8], &[u8]) = match edit {
            TagEdit::Push { tpid, tci } => (&tag_bytes(tpid, tci), behind),
            TagEdit::Pop => (&[], behind.get(TAG_LEN..)?),
            TagEdit::Rewrite { tci } => {
                let (tpid, _) = behind.split_first_chunk::<2>()?;
                (&tag_bytes(u16::from_be_bytes(*tpid), tci), behind.get(TAG_LEN..)?)
            }
        };
        let head_len = TAG_AT + tag.len() + behind.len();
        let head = buffer.get_mut(..head_len)?;
        head[..TAG_AT].copy_from_slice(addresses);
        head[TAG_AT..][..tag.len()].copy_from_slice(tag);
        head[TAG_AT + tag.len()..].copy_from_slice(behind);
        let len = self.len + head_len as u32 - self.head.len() as u32;
        if !(FRAME_LEN_MIN..=FRAME_LEN_MAX).contains(&len) || head_len < FRAME_LEN_MIN as usize {
            return None;
        }
        let offload = moved(self.offload, head_len as i32 - self.head.len() as i32, head)?;
        Some(Frame { head, rest: self.rest, skip: self.skip, len, offload })
    }
}

fn tag_bytes(tpid: u16, tci: u16) -> [u8; TAG_LEN] {
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
    [a, b, c, d]
}

/// The offload of a frame whose headers behind the tag moved by `by` bytes.
fn moved(offload: Offload, by: i32, head: &[u8]) -> Option<Offload> {
    let shift = |at: u16| u16::try_from(i32::from(at) + by).ok();
    match offload {
        Offload::None | Offload::Verified => Some(offload),
        Offload::Checksum { start, offset } => Some(Offload::Checksum { start: shift(start)?, offset }),
        Offload::Segment(mut segmentation) => {
            segmentation.header_len = shift(segmentation.header_len)?;
            segmentation.transport_at = shift(segmentation.transport_at)?;
            // Software has to find the headers again; behind a third tag it would not.
            let packet = Packet::parse(head)?;
            let is_found = packet.transport_at == segmentation.transport_at;
            let fits = usize::from(segmentation.header_len) <= HEADERS_LEN_MAX.min(head.len());
            (is_found && fits).then_some(Offload::Segment(segmentation))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::offload::{SegmentKind, Segmentation};
    use super::*;
    use guestmem::MemSlice;

    const ADDRESSES: [u8; 12] = [0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1];

    fn tcp4(tags: &[u8]) -> Vec<u8> {
        let mut ip = [0; 20];
        (ip[0], ip[9]) = (0x45, 6);
        let mut tcp = [0; 20];
        tcp[12] = 0x50;
        [&ADDRESSES, tags, &[8, 0], &ip, &tcp, &[7; 60]].concat()
    }

    fn bytes(frame: &Frame<'_>) -> Vec<u8> {
        let mut out = vec![0; frame.len() as usize];
        assert_eq!(frame.copy_to(&mut out), out.len());
        out
    }

    #[test]
    fn push_rewrite_and_pop_come_back_to_the_frame() {
        let plain = tcp4(&[]);
        let frame = Frame::private(&plain, Offload::Checksum { start: 34, offset: 16 });
        let (mut one, mut two, mut three) = ([0; 256], [0; 256], [0; 256]);
        let pushed = frame.retagged(TagEdit::Push { tpid: 0x8100, tci: 0xa00a }, &mut one).unwrap();
        assert_eq!(bytes(&pushed), tcp4(&[0x81, 0, 0xa0, 0x0a]));
        assert_eq!(pushed.offload(), Offload::Checksum { start: 38, offset: 16 });
        let rewritten = pushed.retagged(TagEdit::Rewrite { tci: 0x0014 }, &mut two).unwrap();
        assert_eq!(bytes(&rewritten), tcp4(&[0x81, 0, 0, 0x14]));
        let popped = rewritten.retagged(TagEdit::Pop, &mut three).unwrap();
        assert_eq!((bytes(&popped), popped.offload()), (tcp4(&[]), frame.offload()));
    }

    #[test]
    fn what_is_not_in_the_head_stays_where_it_is() {
        let plain = tcp4(&[]);
        let (head, rest) = plain.split_at(30);
        let mut memory = [&[9, 9][..], rest].concat();
        let runs = [MemSlice::from_mut(&mut memory)];
        let frame = Frame { head, rest: &runs, skip: 2, len: plain.len() as u32, offload: Offload::None };
        let mut buffer = [0; 256];
        let pushed = frame.retagged(TagEdit::Push { tpid: 0x88a8, tci: 5 }, &mut buffer).unwrap();
        assert_eq!(bytes(&pushed), tcp4(&[0x88, 0xa8, 0, 5]));
    }

    #[test]
    fn a_segmentation_moves_with_its_headers_or_is_refused() {
        let segmentation = |at| Segmentation {
            kind: SegmentKind::Tcp4,
            ecn: false,
            size: 1000,
            header_len: at + 20,
            transport_at: at,
        };
        let plain = tcp4(&[]);
        let mut buffer = [0; 256];
        let frame = Frame::private(&plain, Offload::Segment(segmentation(34)));
        let pushed = frame.retagged(TagEdit::Push { tpid: 0x8100, tci: 5 }, &mut buffer).unwrap();
        assert_eq!(pushed.offload(), Offload::Segment(segmentation(38)));
        let double = tcp4(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]);
        let frame = Frame::private(&double, Offload::Segment(segmentation(42)));
        let mut buffer = [0; 256];
        assert!(frame.retagged(TagEdit::Push { tpid: 0x8100, tci: 5 }, &mut buffer).is_none());
        let mut buffer = [0; 256];
        assert!(frame.retagged(TagEdit::Pop, &mut buffer).is_some());
    }

    #[test]
    fn lengths_have_bounds() {
        let mut buffer = [0; 256];
        let longest = vec![1; FRAME_LEN_MAX as usize];
        assert!(
            Frame::private(&longest, Offload::None).retagged(TagEdit::Pop, &mut buffer).is_none(),
            "head"
        );
        let shortest = [1; 14];
        let frame = Frame::private(&shortest, Offload::None);
        assert!(frame.retagged(TagEdit::Pop, &mut buffer).is_none(), "no Ethernet header would be left");
        assert!(frame.retagged(TagEdit::Rewrite { tci: 1 }, &mut buffer).is_none(), "no tag to rewrite");
    }
}
