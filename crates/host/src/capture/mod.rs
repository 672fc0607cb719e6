//! Captures: copies of frames as they pass a port, for pcapng.
//!
//! ```text
//!   worker threads                                   control thread
//!   CapturePoint::offer ──filter──> bounded queue ──> PcapngStream ──> HTTP ──> `ringway capture`
//! ```
//!
//! A port has one [`CapturePoint`]. As long as nothing is captured there, it costs the data path one relaxed load a
//! burst ([`CapturePoint::is_on`]). A capture hangs a sink into the points of its ports; [`CapturePoint::offer`] gives each
//! sink the frame. A sink filters on the private head, then copies the frame into a queue that is bounded in records and
//! in bytes. It never waits: what does not fit is counted as missed.
//!
//! The control thread sleeps until there is something, gathers for a few hundredths of a second, so that a worker wakes
//! it some dozens of times a second at most, and writes pcapng: an interface for each port, an enhanced packet block for
//! each frame with its direction and, for a dropped frame, the comment `drop: REASON`, and statistics with what was
//! missed. A capture ends when its [`CaptureStream`] is dropped, which is when the client goes.
//!
//! Filters are written in the words of pcap-filter(7), of which [`Filter`] knows the usual ones.

mod expression;
mod filter;
mod pcapng;
mod queue;
mod reader;
mod stream;
#[cfg(test)]
mod tests;

pub use expression::FilterError;
pub use filter::Filter;
pub use pcapng::{PcapngStream, SOURCE_NAME};
pub use queue::{QUEUE_BYTES_MAX, QUEUE_RECORDS_MAX, Record};
pub use reader::{PcapngReader, PcapngReaderError, Seen};
pub use stream::{
    CAPTURES_MAX, CaptureError, CapturePoint, CaptureRequest, CaptureStream, Captures, Direction, Sighting,
};
