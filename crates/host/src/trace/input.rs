//! What an operator gives for a frame: hexadecimal bytes, words, or the contents of a file.

use pcap_file::DataLink;
use pcap_file::pcap::PcapParser;
use pcap_file::pcapng::{Block, PcapNgParser};
use switch::MacAddr;

use super::words;

/// Most bytes of a frame: the longest IP packet behind an Ethernet header and two tags.
pub const FRAME_BYTES_MAX: usize = 65_535 + 14 + 8;
/// Most blocks of a file that are looked at for a frame.
const BLOCKS_MAX: usize = 10_000;

/// Why there is no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found}; accepted: {accepted}")]
pub struct FrameError {
    /// What is wrong.
    pub found: String,
    /// What would do.
    pub accepted: &'static str,
}

impl FrameError {
    pub(super) fn new(found: impl Into<String>, accepted: &'static str) -> Self {
        Self { found: found.into(), accepted }
    }
}

const HEX_ACCEPTED: &str = "pairs of hexadecimal digits, with blanks or colons between them, or words such as \
     src=52:54:00:00:00:01 dst=52:54:00:00:00:02 ip=10.0.0.1,10.0.0.2 udp=1000,53";

/// The frame that `text` gives: words if there is a `=` in it, else hexadecimal bytes. `source` is the address that words
/// without `src` mean.
///
/// Words, in any order: `src=MAC`, `dst=MAC`, `svlan=N` (outer tag, 802.1ad), `vlan=N` (802.1Q), then `arp=IP,IP`
/// (question) or `arp-reply=IP,IP` or `ip=IP,IP` or `ip6=IP,IP` or `type=0x..`; with ip and ip6 `udp=PORT,PORT`, `tcp=PORT,PORT`
/// (a SYN) or `icmp` (an echo request); and `len=N` in bytes. Pairs may have `>` instead of the comma. Without `dst`, a
/// question goes to everybody and a packet for a group goes to its group address. Frames are padded to 60 bytes
/// (IEEE 802.3-2022 §4.2.3.3, without the check sequence).
pub fn frame_of(text: &str, source: Option<MacAddr>) -> Result<Vec<u8>, FrameError> {
    if text.contains('=') { words::build(text, source) } else { hexadecimal(text) }
}

fn hexadecimal(text: &str) -> Result<Vec<u8>, FrameError> {
    let mut frame = Vec::new();
    let mut high = None;
    for (index, c) in text.char_indices() {
        let Some(digit) = c.to_digit(16) else {
            if high.is_none() && (c.is_whitespace() || c == ':') {
                continue;
            }
            let column = text.get(..index).unwrap_or_default().chars().count() + 1;
            return Err(FrameError::new(
                format!("{c:?} in column {column} of the frame does not fit"),
                HEX_ACCEPTED,
            ));
        };
        match high.take() {
            None => high = Some(digit),
            Some(_) if frame.len() == FRAME_BYTES_MAX => {
                return Err(FrameError::new(
                    format!("the frame is longer than {FRAME_BYTES_MAX} bytes"),
                    "a shorter one",
                ));
            }
            Some(high) => frame.push((high << 4 | digit) as u8),
        }
    }
    if high.is_some() {
        return Err(FrameError::new("the last byte of the frame has one digit only", HEX_ACCEPTED));
    }
    if frame.is_empty() {
        return Err(FrameError::new("the frame is empty", HEX_ACCEPTED));
    }
    Ok(frame)
}

/// The first frame of a file's contents: of pcap and pcapng the first packet, else the bytes themselves.
pub fn first_frame(contents: &[u8]) -> Result<Vec<u8>, FrameError> {
    let frame = match contents.first_chunk() {
        Some([0x0a, 0x0d, 0x0d, 0x0a]) => first_of_pcapng(contents)?,
        Some(
            [0xa1, 0xb2, 0xc3, 0xd4]
            | [0xd4, 0xc3, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d]
            | [0x4d, 0x3c, 0xb2, 0xa1],
        ) => first_of_pcap(contents)?,
        _ => contents.to_vec(),
    };
    match frame.len() {
        0 => Err(FrameError::new("the frame in the file is empty", FILE_ACCEPTED)),
        1..=FRAME_BYTES_MAX => Ok(frame),
        _ => Err(FrameError::new(
            format!("the frame in the file is longer than {FRAME_BYTES_MAX} bytes"),
            FILE_ACCEPTED,
        )),
    }
}

const FILE_ACCEPTED: &str =
    "a pcap or pcapng file whose first packet is an Ethernet frame, or a frame's bytes";

fn no_packet() -> FrameError {
    FrameError::new("there is no packet at the beginning of the file", FILE_ACCEPTED)
}

fn ethernet(link: DataLink) -> Result<(), FrameError> {
    match link {
        DataLink::ETHERNET => Ok(()),
        other => Err(FrameError::new(format!("the file's link type is {other:?}"), FILE_ACCEPTED)),
    }
}

fn first_of_pcap(contents: &[u8]) -> Result<Vec<u8>, FrameError> {
    let broken = |error: &dyn std::fmt::Display| FrameError::new(format!("pcap: {error}"), FILE_ACCEPTED);
    let (rest, parser) = PcapParser::new(contents).map_err(|error| broken(&error))?;
    ethernet(parser.header().datalink)?;
    if rest.is_empty() {
        return Err(no_packet());
    }
    let (_, packet) = parser.next_packet(rest).map_err(|error| broken(&error))?;
    Ok(packet.data().to_vec())
}

fn first_of_pcapng(contents: &[u8]) -> Result<Vec<u8>, FrameError> {
    let broken = |error: &dyn std::fmt::Display| FrameError::new(format!("pcapng: {error}"), FILE_ACCEPTED);
    let (mut rest, mut parser) = PcapNgParser::new(contents).map_err(|error| broken(&error))?;
    for _ in 0..BLOCKS_MAX {
        if rest.is_empty() {
            break;
        }
        let (after, block) = parser.next_block(rest).map_err(|error| broken(&error))?;
        rest = after;
        let (interface, data) = match block {
            Block::EnhancedPacket(packet) => (packet.interface_id as usize, packet.data),
            Block::SimplePacket(packet) => (0, packet.data),
            _ => continue,
        };
        if let Some(interface) = parser.interfaces().get(interface) {
            ethernet(interface.linktype)?;
        }
        return Ok(data.into_owned());
    }
    Err(no_packet())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hexadecimal_digits_go_in_pairs() {
        assert_eq!(frame_of("ff:00 0a\n1B", None), Ok(vec![0xff, 0, 10, 0x1b]));
        for (text, found) in [
            ("", "the frame is empty"),
            ("ff0", "the last byte of the frame has one digit only"),
            ("f f", "' ' in column 2 of the frame does not fit"),
            ("éx", "'é' in column 1 of the frame does not fit"),
        ] {
            assert_eq!(frame_of(text, None).map_err(|error| error.found), Err(found.into()), "{text:?}");
        }
        let longest = "00".repeat(FRAME_BYTES_MAX);
        assert_eq!(frame_of(&longest, None).map(|frame| frame.len()), Ok(FRAME_BYTES_MAX));
        assert!(frame_of(&(longest + "00"), None).is_err());
    }

    #[test]
    fn the_first_packet_of_a_file_is_taken() {
        use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
        let write = |datalink| {
            let header = PcapHeader { datalink, ..PcapHeader::default() };
            let mut writer = PcapWriter::with_header(Vec::new(), header).expect("written");
            for byte in [7, 8] {
                let packet = PcapPacket::new(std::time::Duration::ZERO, 20, vec![byte; 20]).expect("fits");
                writer.write_packet(&packet).expect("written");
            }
            writer.into_inner()
        };
        assert_eq!(first_frame(&write(DataLink::ETHERNET)), Ok(vec![7; 20]));
        assert!(first_frame(&write(DataLink::RAW)).is_err());
        assert_eq!(first_frame(b"raw bytes are a frame"), Ok(b"raw bytes are a frame".to_vec()));
        assert!(first_frame(b"").is_err());
    }

    proptest! {
        #[test]
        fn no_file_and_no_text_brings_it_down(
            magic in prop::sample::select(vec![0x0a0d_0d0au32, 0xa1b2_c3d4, 0xd4c3_b2a1, 0xa1b2_3c4d, 0x4d3c_b2a1]),
            mut contents in prop::collection::vec(any::<u8>(), 0..256),
            order in any::<bool>(),
            text in ".{0,60}",
        ) {
            contents.splice(0..0, magic.to_be_bytes());
            if let Some(place) = contents.get_mut(8..12).filter(|_| order) {
                place.copy_from_slice(&0x1a2b_3c4du32.to_be_bytes());
            }
            drop(first_frame(&contents));
            drop(frame_of(&text, None));
            drop(frame_of(&format!("src={text}"), None));
        }
    }
}
