//! A pcapng stream as it arrives in pieces: whole blocks, and what `ringway capture` tells about them.

use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block, PcapNgParseError, PcapNgParser};

use super::pcapng::{DROP_COMMENT, FLAGS_INBOUND, FLAGS_OUTBOUND};
use super::stream::Direction;

/// The longest block that is waited for: a frame of [`super::Sighting`]'s greatest length with its options fits.
const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Why a stream cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum PcapngReaderError {
    /// It is no pcapng, or a broken one.
    #[error("this is no pcapng: {0}")]
    Garbled(String),
    /// A block is longer than any that Ringway writes.
    #[error("a block is longer than {BLOCK_BYTES_MAX} bytes")]
    TooLong,
}

/// What a block tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A frame.
    Frame {
        /// Since 1970-01-01 00:00 UTC.
        at: Duration,
        /// Name of the port.
        port: &'a str,
        /// Which way it went, if that is said.
        direction: Option<Direction>,
        /// Why it was dropped, if it was.
        reason: Option<&'a str>,
        /// Its length in bytes, of which `data` may be the beginning only.
        frame_len: u32,
        /// The bytes kept.
        data: &'a [u8],
    },
    /// Statistics, or a frame's drop count, said more about what was missed.
    Missed,
    /// Something else, such as an interface's description.
    Other,
}

/// Reads a stream in pieces.
#[derive(Debug, Default)]
pub struct PcapngReader {
    parser: Option<PcapNgParser>,
    buffer: Vec<u8>,
    /// Bytes at the beginning of `buffer` that have been read.
    read: usize,
    /// For each interface: missed frames by the drop counts of its frames, and by its statistics.
    missed: Vec<(u64, u64)>,
}

impl PcapngReader {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole block: its bytes, and what it tells. `None`: more is needed.
    pub fn next_block(&mut self) -> Result<Option<(&[u8], Seen<'_>)>, PcapngReaderError> {
        let waiting = self.buffer.get(self.read..).unwrap_or_default();
        let parser = match &mut self.parser {
            Some(parser) => parser,
            none => match PcapNgParser::new(waiting) {
                Ok((rest, parser)) => {
                    *none = Some(parser);
                    let len = waiting.len() - rest.len();
                    self.read += len;
                    return Ok(Some((&waiting[..len], Seen::Other)));
                }
                Err(error) => return incomplete(waiting, &error).map(|()| None),
            },
        };
        let (rest, block) = match parser.next_block(waiting) {
            Ok(next) => next,
            Err(error) => return incomplete(waiting, &error).map(|()| None),
        };
        let len = waiting.len() - rest.len();
        self.read += len;
        let bytes = &waiting[..len];
        let missed = &mut self.missed;
        let seen = match block {
            Block::EnhancedPacket(frame) => {
                note_drop_count(missed, &frame);
                let interface = parser.interfaces().get(frame.interface_id as usize);
                about_frame(frame, interface)
            }
            Block::InterfaceStatistics(statistics) => {
                note_statistics(missed, &statistics);
                Seen::Missed
            }
            Block::SectionHeader(_) => {
                missed.clear();
                Seen::Other
            }
            _ => Seen::Other,
        };
        Ok(Some((bytes, seen)))
    }

    /// Frames that were missed, as far as the blocks so far tell.
    pub fn missed(&self) -> u64 {
        self.missed
            .iter()
            .fold(0, |sum, (by_frames, by_statistics)| sum.saturating_add(*by_frames.max(by_statistics)))
    }
}

/// Whether the parser only needs more.
fn incomplete(waiting: &[u8], error: &PcapNgParseError) -> Result<(), PcapngReaderError> {
    match error {
        PcapNgParseError::IncompleteBuffer(..) if waiting.len() <= BLOCK_BYTES_MAX => Ok(()),
        PcapNgParseError::IncompleteBuffer(..) => Err(PcapngReaderError::TooLong),
        other => Err(PcapngReaderError::Garbled(other.to_string())),
    }
}

fn about_frame<'a>(
    frame: EnhancedPacketBlock<'a>,
    interface: Option<&'a InterfaceDescriptionBlock<'static>>,
) -> Seen<'a> {
    let port = interface.and_then(|interface| {
        interface.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfName(name) => Some(name.as_ref()),
            _ => None,
        })
    });
    let mut direction = None;
    let mut reason = None;
    for option in frame.options {
        match option {
            EnhancedPacketOption::Flags(flags) => {
                direction = match flags & 3 {
                    FLAGS_INBOUND => Some(Direction::Ingress),
                    FLAGS_OUTBOUND => Some(Direction::Egress),
                    _ => None,
                }
            }
            EnhancedPacketOption::Common(CommonOption::Comment(std::borrow::Cow::Borrowed(comment))) => {
                reason = comment.strip_prefix(DROP_COMMENT).or(reason);
            }
            _ => {}
        }
    }
    let std::borrow::Cow::Borrowed(data) = frame.data else { return Seen::Other };
    Seen::Frame {
        at: frame.timestamp,
        port: port.unwrap_or("?"),
        direction,
        reason,
        frame_len: frame.original_len,
        data,
    }
}

fn entry(missed: &mut Vec<(u64, u64)>, interface: u32) -> &mut (u64, u64) {
    let index = interface as usize;
    if missed.len() <= index {
        missed.resize(index + 1, (0, 0));
    }
    &mut missed[index]
}

fn note_drop_count(missed: &mut Vec<(u64, u64)>, frame: &EnhancedPacketBlock<'_>) {
    for option in &frame.options {
        if let EnhancedPacketOption::DropCount(count) = option {
            let (by_frames, _) = entry(missed, frame.interface_id);
            *by_frames = by_frames.saturating_add(*count);
        }
    }
}

fn note_statistics(missed: &mut Vec<(u64, u64)>, statistics: &InterfaceStatisticsBlock<'_>) {
    for option in &statistics.options {
        if let InterfaceStatisticsOption::IsbIfDrop(count) = option {
            let (_, by_statistics) = entry(missed, statistics.interface_id);
            *by_statistics = *count;
        }
    }
}
