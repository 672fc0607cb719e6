//! virtio-scsi (virtio 1.3 §5.6): how requests, task management and events travel in virtqueues.
//!
//! Queue 0 is the control queue, queue 1 the event queue, all others are request queues.

pub mod address;
pub mod config;
pub mod control;
pub mod event;
pub mod features;
pub mod request;

pub use address::Address;
pub use config::ScsiConfig;
pub use control::ControlRequest;
pub use event::{Event, Events};
pub use features::{Acknowledged, Features, NotOffered, Offered};
pub use request::{Format, Parts, Request, RequestFault, ServiceResponse};
