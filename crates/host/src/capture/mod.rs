//! Captures: copies of frames as they pass a port, for pcapng.

mod stream;

pub use stream::{CaptureRequest, CaptureStream, Direction};
