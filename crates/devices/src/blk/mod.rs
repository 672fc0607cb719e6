//! virtio-blk (virtio 1.3 §5.2): requests, features, the configuration space, the write cache and zones.
//!
//! **A request's way.** [`begin()`] copies the header out of the driver's chain, once, and validates it against [`Rules`]. What needs no disk
//! (an identification, a report, a mistake) is answered at once. The rest becomes a [`Request`]: [`Work`](crate::storage::Work) in bytes,
//! and the guest's memory that its data and its status lie in, kept beyond the burst. The caller detaches the chain, carries the work
//! out, and [`finish()`] writes the status and says what the chain is completed with:
//!
//! ```text
//! pop -> begin -> Answered ------------------------------------> complete_scattered
//!             \-> Work, detach -> the disk -> finish -> complete_written, recycle
//! ```
//!
//! **Layout.** A request is a run of bytes to read and a run of bytes to write, whatever descriptors they lie in: the header is the
//! first 16 bytes to read, the status the last byte to write, the data what is between (virtio 1.3 §2.7.4, §5.2.6).
//!
//! **Whose fault.** What a driver does wrong fails its request and nothing else: `VIRTIO_BLK_S_UNSUPP` for what was not negotiated or
//! does not exist, `VIRTIO_BLK_S_IOERR` for the rest. What the disk does wrong is told by [`Status::of`].
//!
//! Sectors are of 512 bytes here and in the protocol, whatever the disk's blocks are; all else is in bytes.

mod begin;
pub mod cache;
pub mod config;
pub mod features;
mod finish;
pub mod record;
pub mod request;
mod rules;
mod segments;
mod status;
pub mod zone;

pub use begin::{Begun, begin};
pub use cache::{CacheMode, WriteCache};
pub use config::{BlkConfig, QueueLimits, SECTOR};
pub use features::{Acknowledged, FeatureFault, Features, Offered};
pub use finish::{Answer, Finished, Request, Spare, finish, used_len};
pub use request::{Lifetime, PreEol, RequestType, Wear};
pub use rules::Rules;
pub use status::Status;
pub use zone::{ZoneShape, ZoneShapeFault, ZoneState, Zones};
