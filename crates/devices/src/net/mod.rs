//! virtio-net (virtio 1.3 §5.1): frames, offloads, the control queue and the configuration space.
//!
//! **A frame's way.** [`transmit::open`] copies the virtio header and the frame's first bytes out of the
//! sender's chain, once, and validates what the header asks for. The result is a [`Frame`]: a private head, the
//! rest still in the sender's memory, and an [`Offload`] that is true of exactly these bytes.
//! [`receive::deliver_burst`] writes the receiver's header and the head, and copies the rest straight from the
//! sender's memory into the receiver's. What the receiver did not negotiate is done by [`Software`] before.
//!
//! **Why the head is private.** The sender can change its memory at any moment. Everything that a decision was
//! based on (addresses, ports, header lengths) is therefore delivered from the copy that was looked at, not
//! read again.
//!
//! Directions are the guest's: *transmit* is what the driver sends, *receive* is what it gets.

pub mod checksum;
pub mod config;
pub mod control;
pub mod features;
mod frame;
mod head;
pub mod header;
pub mod offload;
pub mod packet;
pub mod rarp;
pub mod receive;
pub mod software;
mod tag;
pub mod transmit;

pub use config::{Duplex, NetConfig};
pub use control::{Ack, Change, ControlState};
pub use features::{Acknowledged, FeatureFault, Features, Offered};
pub use frame::{FRAME_LEN_MAX, FRAME_LEN_MIN, Frame};
pub use header::{HeaderFormat, NetHeader};
pub use offload::{Accepts, HeaderFault, Offload, SegmentKind, Segmentation};
pub use receive::{Delivered, ReceiveRules};
pub use software::Software;
pub use tag::TagEdit;
pub use transmit::{HeadBuffer, TransmitRules};
