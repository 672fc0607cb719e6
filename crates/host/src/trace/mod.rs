//! Frames in words, both ways: what an operator writes becomes a frame ([`frame_of`], [`first_frame`]), and a frame
//! becomes one line ([`summary`]).

mod input;
mod summary;
mod words;

pub use input::{FRAME_BYTES_MAX, FrameError, first_frame, frame_of};
pub use summary::summary;
