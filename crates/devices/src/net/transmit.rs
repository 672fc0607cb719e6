//! A frame that a driver sends: from its chain to a validated [`Frame`].

use super::features::Acknowledged;
use super::frame::{FRAME_LEN_MAX, FRAME_LEN_MIN, Frame};
use super::header::{GSO_NONE, HeaderFormat};
use super::offload::{Accepts, HeaderFault, Offload, validate};
use guestmem::{MemSlice, read_segments};
use virtqueue::{Burst, Chain, Endian};

/// Where the private copy of a chain's first bytes goes: the virtio header and the frame's head.
pub type HeadBuffer = [u8; 256];

/// Bytes copied of every frame, virtio header included: the headers of all but exotic packets.
const HEAD_COPY: usize = 128;

/// What was agreed with a driver about the frames that it sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransmitRules {
    /// Its headers.
    pub format: HeaderFormat,
    /// What it may ask for.
    pub accepts: Accepts,
}

impl TransmitRules {
    /// The rules that follow from the features; `endian` is the byte order of a legacy driver.
    pub fn new(acknowledged: Acknowledged, endian: Endian) -> Self {
        Self { format: HeaderFormat::new(acknowledged, endian), accepts: acknowledged.transmit_accepts() }
    }
}

/// Opens the frame in `chain`. The caller completes the chain in any case, with zero bytes written: after the
/// frame was delivered, or at once when this fails.
#[inline(always)]
pub fn open<'a>(
    rules: &TransmitRules,
    burst: &'a Burst<'_>,
    chain: &Chain,
    head: &'a mut HeadBuffer,
) -> Result<Frame<'a>, HeaderFault> {
    open_segments(rules, burst.readable(chain), chain.readable_len(), head)
}

/// Opens the frame in a list of `len` bytes: virtio header, then frame, split over segments in any way.
#[inline(always)]
pub fn open_segments<'a>(
    rules: &TransmitRules,
    segments: &'a [MemSlice<'a>],
    len: u32,
    head: &'a mut HeadBuffer,
) -> Result<Frame<'a>, HeaderFault> {
    let header_len = rules.format.len();
    let frame_len = len.saturating_sub(header_len as u32);
    if !(FRAME_LEN_MIN..=FRAME_LEN_MAX).contains(&frame_len) {
        return Err(if frame_len < FRAME_LEN_MIN { HeaderFault::Runt } else { HeaderFault::Oversize });
    }
    let wanted = &mut head[..HEAD_COPY.min(len as usize)];
    let copied = match segments.first() {
        // The usual sender has header and head in one piece.
        Some(first) if first.len() >= wanted.len() => first.read(wanted),
        _ => read_segments(segments, 0, wanted),
    };
    // Flags and kind of segmentation are the first two bytes in either byte order; what goes to a group has the first bit set.
    if (head[0] | head[1]) != 0 || head[header_len] & 1 != 0 {
        return open_unusual(rules, segments, len, head, copied);
    }
    let head = head.get(header_len..copied).ok_or(HeaderFault::Runt)?;
    Ok(Frame { head, rest: segments, skip: copied as u32, len: frame_len, offload: Offload::None })
}

/// The rest of [`open_segments`] for a frame that something is asked for, of which all headers are needed, and for one to a group,
/// which may be a report of many groups that a switch reads to its end. `copied` bytes are in `head`.
#[inline(never)]
fn open_unusual<'a>(
    rules: &TransmitRules,
    segments: &'a [MemSlice<'a>],
    len: u32,
    head: &'a mut HeadBuffer,
    copied: usize,
) -> Result<Frame<'a>, HeaderFault> {
    let header_len = rules.format.len();
    let frame_len = len - header_len as u32;
    let end = head.len().min(len as usize);
    let copied = copied + read_segments(segments, copied, &mut head[copied.min(end)..end]);
    let Some((bytes, _)) = head.split_first_chunk() else { return Err(HeaderFault::Runt) };
    let header = rules.format.parse(bytes);
    let head = head.get(header_len..copied).ok_or(HeaderFault::Runt)?;
    let offload = match (header.flags, header.gso_type) {
        (0, GSO_NONE) => Offload::None,
        _ => validate(&header, head, frame_len, rules.accepts)?,
    };
    Ok(Frame { head, rest: segments, skip: copied as u32, len: frame_len, offload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Features, Offered};

    fn rules(features: Features, endian: Endian) -> TransmitRules {
        let acknowledged = Acknowledged::new(Offered::new(Features::all()), features.bits()).unwrap();
        TransmitRules::new(acknowledged, endian)
    }

    fn tcp4(payload: usize) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let mut tcp = [0; 20];
        tcp[12] = 0x50;
        frame.extend_from_slice(&tcp);
        frame.extend((0..payload).map(|i| i as u8));
        frame
    }

    /// Opens `bytes` cut into segments of `cut` bytes.
    fn opened<T>(
        rules: &TransmitRules,
        bytes: &[u8],
        cut: usize,
        look: impl FnOnce(Result<Frame<'_>, HeaderFault>) -> T,
    ) -> T {
        let mut memory = bytes.to_vec();
        let segments: Vec<MemSlice<'_>> = memory.chunks_mut(cut).map(MemSlice::from_mut).collect();
        look(open_segments(rules, &segments, bytes.len() as u32, &mut [0; 256]))
    }

    fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
        let mut out = vec![0; frame.len() as usize];
        assert_eq!(frame.copy_to(&mut out), out.len());
        out
    }

    #[test]
    fn headers_may_be_split_in_any_way() {
        let rules = rules(Features::VERSION_1 | Features::CSUM | Features::HOST_TSO4, Endian::Little);
        for payload in [0, 60, 70, 130, 5000] {
            let packet = tcp4(payload);
            for cut in [1, 7, 12, 100, 10_000] {
                let plain = [&[0; 12][..], &packet].concat();
                opened(&rules, &plain, cut, |frame| {
                    let frame = frame.unwrap();
                    assert_eq!((frame.offload(), bytes_of(&frame)), (Offload::None, packet.clone()));
                });
                let tso = [&[1, 1, 0, 0, 200, 0, 34, 0, 16, 0, 0, 0][..], &packet].concat();
                opened(&rules, &tso, cut, |frame| {
                    let frame = frame.unwrap();
                    assert_eq!(matches!(frame.offload(), Offload::Segment(_)), payload > 200);
                    assert_eq!(bytes_of(&frame), packet);
                });
            }
        }
    }

    #[test]
    fn legacy_headers_are_ten_bytes_in_the_guests_order() {
        let rules = rules(Features::CSUM, Endian::Big);
        let bytes = [&[1, 0, 0, 0, 0, 0, 0, 34, 0, 16][..], &tcp4(10)].concat();
        opened(&rules, &bytes, 1, |frame| {
            let frame = frame.unwrap();
            assert_eq!(frame.offload(), Offload::Checksum { start: 34, offset: 16 });
            assert_eq!(bytes_of(&frame), tcp4(10));
        });
    }

    #[test]
    fn lengths_are_bounded() {
        let rules = rules(Features::VERSION_1, Endian::Little);
        for (len, fault) in [
            (0, HeaderFault::Runt),
            (25, HeaderFault::Runt),
            (FRAME_LEN_MAX as usize + 13, HeaderFault::Oversize),
        ] {
            opened(&rules, &vec![0; len], 4096, |frame| assert_eq!(frame.unwrap_err(), fault));
        }
        opened(&rules, &[0; 26], 4096, |frame| assert_eq!(frame.unwrap().len(), 14));
        opened(&rules, &vec![0; FRAME_LEN_MAX as usize + 12], 4096, |frame| assert!(frame.is_ok()));
        let mut asks = [0; 60];
        asks[0] = 1;
        opened(&rules, &asks, 60, |frame| {
            assert_eq!(frame.unwrap_err(), HeaderFault::ChecksumNotNegotiated);
        });
    }

    #[test]
    fn long_headers_are_copied_when_they_are_needed() {
        let rules = rules(Features::VERSION_1 | Features::CSUM | Features::HOST_USO, Endian::Little);
        let mut packet = vec![2; 12];
        packet.extend_from_slice(&[0x86, 0xDD, 0x60, 0, 0, 0, 0, 0, 60, 64]);
        packet.extend_from_slice(&[1; 32]);
        // One destination-options header of 128 bytes in front of UDP.
        let mut options = [0; 128];
        (options[0], options[1]) = (17, 15);
        packet.extend_from_slice(&options);
        packet.extend_from_slice(&[0; 408]);
        let header = [1, 5, 0, 0, 100, 0, 182, 0, 6, 0, 0, 0];
        opened(&rules, &[&header[..], &packet].concat(), 50, |frame| {
            let Offload::Segment(segmentation) = frame.unwrap().offload() else { panic!() };
            assert_eq!((segmentation.header_len, segmentation.transport_at), (190, 182));
        });
    }

    #[test]
    fn the_head_does_not_change_after_it_was_looked_at() {
        let rules = rules(Features::VERSION_1, Endian::Little);
        let mut memory = [&[0; 12][..], &tcp4(500)].concat();
        let segments = [MemSlice::from_mut(&mut memory)];
        let mut head = [0; 256];
        let frame = open_segments(&rules, &segments, segments[0].len() as u32, &mut head).unwrap();
        segments[0].fill(0xEE);
        assert_eq!(bytes_of(&frame)[..116], tcp4(500)[..116]);
        assert_eq!(bytes_of(&frame)[116], 0xEE);
    }

    #[test]
    fn a_frame_to_a_group_is_seen_further() {
        let rules = rules(Features::VERSION_1, Endian::Little);
        for (first, seen) in [(0x52, 128 - 12), (0x33, 256 - 12)] {
            let bytes: Vec<u8> = (0..12 + 300).map(|i| if i == 12 { first } else { i as u8 }).collect();
            let bytes = [&[0; 12], &bytes[12..]].concat();
            opened(&rules, &bytes, 50, |frame| {
                let frame = frame.unwrap();
                let mut whole = vec![0; frame.len() as usize];
                frame.copy_to(&mut whole);
                assert_eq!((frame.head().len(), &whole[..]), (seen, &bytes[12..]));
            });
        }
    }
}
