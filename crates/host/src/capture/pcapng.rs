//! A capture as pcapng (draft-ietf-opsawg-pcapng), block by block, as the records come.
//!
//! One section. Each port is an interface, described before its first frame; a port that comes later gets its interface
//! then. Time is in nanoseconds. `epb_flags` says which way a frame went: inbound is from the port into the switch.
//! `epb_dropcount` is what the port missed since its frame before. Interface statistics say what was written and missed
//! altogether: at once where more was missed, else about once a second. The last ones of a file count.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgWriteError, PcapNgWriter};
use pcap_file::{DataLink, Endianness};
use tokio::time::Instant;

use super::queue::{Interface, Record};
use super::stream::{CaptureStream, Direction};

/// What the section's `shb_userappl` says.
pub const SOURCE_NAME: &str = concat!("ringway ", env!("CARGO_PKG_VERSION"));
/// A dropped frame's comment is this and the reason.
pub(super) const DROP_COMMENT: &str = "drop: ";
/// Bits 0 and 1 of `epb_flags`.
pub(super) const FLAGS_INBOUND: u32 = 1;
pub(super) const FLAGS_OUTBOUND: u32 = 2;
/// About how many bytes are written at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Shortest time from one set of statistics to the next.
const STATISTICS_TIME: Duration = Duration::from_secs(1);

/// A running capture as a stream of pcapng blocks. Dropping it ends the capture.
#[derive(Debug)]
pub struct PcapngStream {
    stream: Arc<CaptureStream>,
    blocks: Blocks,
    statistics_at: Instant,
    /// When the next frames may be taken.
    resume_at: Instant,
}

impl PcapngStream {
    /// The section header and the interfaces that there are now come first.
    pub fn new(stream: Arc<CaptureStream>) -> Result<Self, PcapNgWriteError> {
        let mut blocks = Blocks::new(stream.snap_len(), stream.filter().as_str())?;
        blocks.add_interfaces(&stream)?;
        let now = Instant::now();
        Ok(Self { stream, blocks, statistics_at: now + STATISTICS_TIME, resume_at: now })
    }

    /// The next blocks, whole ones, never none; waits until there are some. For a tokio runtime with time enabled.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Bytes, PcapNgWriteError> {
        loop {
            if self.blocks.len() > 0 {
                return Ok(self.blocks.take());
            }
            if self.blocks.has_news() {
                tokio::select! {
                    () = self.stream.ready() => {}
                    () = tokio::time::sleep_until(self.statistics_at) => {}
                }
            } else {
                self.stream.ready().await;
            }
            tokio::time::sleep_until(self.resume_at).await;
            let mut taken = 0;
            while self.blocks.len() < CHUNK_BYTES
                && let Some(record) = self.stream.take()
            {
                if record.interface as usize >= self.blocks.interfaces.len() {
                    self.blocks.add_interfaces(&self.stream)?;
                }
                self.blocks.add_frame(&record)?;
                self.stream.recycle(record.data);
                taken += 1;
            }
            self.resume_at = Instant::now() + self.stream.time_of(taken);
            let due = self.statistics_at <= Instant::now() && self.blocks.has_news();
            if due || self.blocks.has_missed() {
                self.blocks.add_statistics(SystemTime::now())?;
                self.statistics_at = Instant::now() + STATISTICS_TIME;
            }
        }
    }
}

/// Blocks on their way out.
struct Blocks {
    writer: PcapNgWriter<Vec<u8>>,
    snap_len: u32,
    filter: String,
    interfaces: Vec<Written>,
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("interfaces", &self.interfaces).finish_non_exhaustive()
    }
}

/// An interface and what has been written about it.
#[derive(Debug)]
struct Written {
    interface: Arc<Interface>,
    frames: u64,
    /// Missed frames that a frame's drop count has told of.
    missed: u64,
    /// Frames and missed frames of the last statistics.
    statistics: (u64, u64),
}

impl Written {
    fn counts(&self) -> (u64, u64) {
        (self.frames, self.interface.missed())
    }
}

impl Blocks {
    fn new(snap_len: u32, filter: &str) -> Result<Self, PcapNgWriteError> {
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            options: vec![
                SectionHeaderOption::OS(std::env::consts::OS.into()),
                SectionHeaderOption::UserApplication(SOURCE_NAME.into()),
            ],
            ..Default::default()
        };
        let writer = PcapNgWriter::with_section_header(Vec::new(), section)?;
        Ok(Self { writer, snap_len, filter: filter.into(), interfaces: Vec::new() })
    }

    fn len(&self) -> usize {
        self.writer.get_ref().len()
    }

    fn take(&mut self) -> Bytes {
        std::mem::take(self.writer.get_mut()).into()
    }

    /// Describes the interfaces of the capture that are new.
    fn add_interfaces(&mut self, stream: &CaptureStream) -> Result<(), PcapNgWriteError> {
        for interface in stream.interfaces_from(self.interfaces.len()) {
            let mut options = vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(&interface.name)),
                InterfaceDescriptionOption::IfDescription(Cow::Borrowed(&interface.description)),
                InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            ];
            if !self.filter.is_empty() {
                // The first byte says that the rest is an expression in words.
                let filter = [b"\0", self.filter.as_bytes()].concat();
                options.push(InterfaceDescriptionOption::IfFilter(filter.into()));
            }
            let block =
                InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: self.snap_len, options };
            self.writer.write_pcapng_block(block)?;
            self.interfaces.push(Written { interface, frames: 0, missed: 0, statistics: (0, 0) });
        }
        Ok(())
    }

    fn add_frame(&mut self, record: &Record) -> Result<(), PcapNgWriteError> {
        let Some(written) = self.interfaces.get_mut(record.interface as usize) else { return Ok(()) };
        let direction = match record.direction {
            Direction::Ingress => FLAGS_INBOUND,
            Direction::Egress => FLAGS_OUTBOUND,
        };
        let mut options = vec![EnhancedPacketOption::Flags(direction)];
        if let Some(reason) = record.reason {
            let comment = format!("{DROP_COMMENT}{reason}");
            options.push(EnhancedPacketOption::Common(CommonOption::Comment(comment.into())));
        }
        // Workers count at the same time, so a later record may know of fewer.
        if record.missed > written.missed {
            options.push(EnhancedPacketOption::DropCount(record.missed - written.missed));
            written.missed = record.missed;
        }
        let block = EnhancedPacketBlock {
            interface_id: record.interface,
            timestamp: Duration::from_nanos(record.at_ns),
            original_len: record.frame_len,
            data: Cow::Borrowed(&record.data),
            options,
        };
        self.writer.write_pcapng_block(block)?;
        written.frames += 1;
        Ok(())
    }

    /// Whether there is anything that the last statistics did not tell.
    fn has_news(&self) -> bool {
        self.interfaces.iter().any(|written| written.counts() != written.statistics)
    }

    /// Whether more was missed than the last statistics told.
    fn has_missed(&self) -> bool {
        self.interfaces.iter().any(|written| written.interface.missed() != written.statistics.1)
    }

    fn add_statistics(&mut self, now: SystemTime) -> Result<(), PcapNgWriteError> {
        let timestamp = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for (index, written) in self.interfaces.iter_mut().enumerate() {
            let counts = written.counts();
            if counts == written.statistics {
                continue;
            }
            written.statistics = counts;
            let (frames, missed) = counts;
            let options = vec![
                InterfaceStatisticsOption::IsbIfRecv(frames.saturating_add(missed)),
                InterfaceStatisticsOption::IsbIfDrop(missed),
                InterfaceStatisticsOption::IsbUsrDeliv(frames),
            ];
            let block = InterfaceStatisticsBlock { interface_id: index as u32, timestamp, options };
            self.writer.write_pcapng_block(block)?;
        }
        Ok(())
    }
}
