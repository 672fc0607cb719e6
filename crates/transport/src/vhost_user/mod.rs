//! The back-end half of vhost-user: one [`Session`] for each connection of a front-end.
//!
//! # Theory of operation
//!
//! A session is a pure state machine between a socket and a device:
//!
//! ```text
//!             bytes + fds                     Event
//!  front-end ------------> receive/next_event ------> host (queues, workers, device)
//!            <------------ next_outgoing  <---------- finish(Outcome)
//!               replies                       done
//! ```
//!
//! * **Framing.** [`Session::wanted`] says how many bytes the next `recvmsg` should ask for. Reading exactly
//!   that much keeps every file descriptor with its message and stops reading while a request is in the
//!   host's hands or the front-end does not take its replies: that is the whole flow control.
//! * **Requests.** One request is decoded, checked against the table in `message.rs` (payload size, number of
//!   fds, the protocol feature it needs), applied to the session's own books, and becomes zero or more
//!   events. The next request is looked at only after the host has finished them all.
//! * **Replies.** A request that has an answer of its own gets exactly that. Any other gets an
//!   acknowledgement if it asked for one and `REPLY_ACK` was negotiated, after the host has finished.
//! * **Rings.** A ring starts when its size, addresses, base and kick are all known and lie in known
//!   memory, and stops with `GET_VRING_BASE`. If memory, log or addresses change under a running ring, the
//!   same event that brings the change lists the new [`QueueSetup`](virtqueue::QueueSetup) of each such ring:
//!   the host takes the ring's state, makes the queue anew with it, and nothing is lost. A ring whose memory
//!   went away is suspended (setup `None`) until a later memory map covers it again.
//!
//! * **What is in flight.** With `INFLIGHT_SHMFD` the front-end gets memory for the records of all rings and brings
//!   it back before it starts them, after our end too; each ring's setup names its own record then.
//!
//! Whatever the front-end sends wrongly is a [`FrontendFault`]; after the first one the session only repeats
//! it, and the host closes the connection.
//!
//! # The host's loop
//!
//! ```no_run
//! # use transport::vhost_user::{Session, Event, Outcome, FrontendFault};
//! # struct Socket;
//! # impl Socket { fn recvmsg(&self, _: usize) -> (Vec<u8>, Vec<std::os::fd::OwnedFd>) { (vec![], vec![]) }
//! #   fn send(&self, _: &transport::vhost_user::Outgoing) {} }
//! # fn carry_out(_: Event) -> Outcome { Outcome::Done }
//! fn serve(session: &mut Session, socket: &Socket) -> Result<(), FrontendFault> {
//!     loop {
//!         let (bytes, fds) = socket.recvmsg(session.wanted());
//!         if bytes.is_empty() {
//!             return Ok(()); // the front-end closed the connection
//!         }
//!         session.receive(&bytes, fds)?;
//!         while let Some(event) = session.next_event()? {
//!             let outcome = carry_out(event);
//!             session.finish(outcome);
//!         }
//!         while let Some(outgoing) = session.next_outgoing() {
//!             socket.send(&outgoing);
//!         }
//!     }
//! }
//! ```
//!
//! A host that polls also calls `next_event` again after it has taken outgoing messages: a session with too
//! many of them unsent decodes nothing further.

mod fault;
pub mod features;
mod in_flight;
mod memory;
mod message;
mod negotiation;
mod rings;
mod session;

pub use crate::event::{Channel, Event, Outcome, Outgoing, QueueRestart, QueueStart};
pub use fault::FrontendFault;
pub use features::ProtocolFeatures;
pub use memory::{MAPPED_MAX, MAPPINGS_MAX, MEM_SLOTS_MAX};
pub use message::{CONFIG_SIZE_MAX, Request};
pub use rings::QUEUES_MAX;
pub use session::{Offer, Session};
