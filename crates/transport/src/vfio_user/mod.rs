//! The server's half of vfio-user: one [`Session`] for each connection of a client, serving one
//! [virtio-PCI function](crate::pci).
//!
//! # Theory of operation
//!
//! A session is a pure state machine between a socket, the function's registers and a device:
//!
//! ```text
//!           bytes + fds                          Event
//!  client ------------> receive/next_event ----------------> host (queues, workers, device)
//!         <------------ next_outgoing      <---------------- finish(Outcome)
//!            replies          |                    done
//!                             v
//!                      pci::Function (reads, writes, effects)
//! ```
//!
//! * **Framing.** [`Session::wanted`] says how many bytes the next `recvmsg` should ask for: a header alone, then its payload.
//!   That keeps every file descriptor with its message, also where the kernel glued messages together, and stops reading
//!   while a command is in the host's hands or the client does not take its replies.
//! * **Commands.** One command is decoded, checked against the table in `message.rs`, carried out on the session's books and
//!   the function's registers, and becomes zero or more events: each effect of a register access is one or none. The next
//!   command is looked at only after the host has finished them all.
//! * **Replies.** A command is answered when its events are finished, so whoever reads a status back, or takes memory away,
//!   finds it done. One that wants no reply (a posted write) never gets any, not even an error. A command that the session
//!   cannot follow is a [`Refusal`], answered with an errno; the session goes on.
//! * **Memory.** Guest addresses are the client's DMA addresses. Rings that run move to each new memory with the event that
//!   brings it; one whose memory went away is suspended (setup `None`) until it is mapped again. Memory that comes without a
//!   descriptor is reached by messages ([`Session::dma_read`], [`Session::dma_write`]), which go out only when no command
//!   waits for its reply: a client holds its locks until then. A ring there is *relayed*: the host is given a ring and memory of
//!   our own ([`QueueStart::memory`]) with a kick and a call that it makes itself, and says when the call is written
//!   ([`Session::queue_called`]); what goes between the two rings is in `relay/`.
//! * **Interrupts.** A queue with an MSI-X vector gets the client's own eventfd as its call. With INTx it gets the host's
//!   ([`Offer::interrupt`]); when that is signalled, [`Session::queue_interrupt`] keeps the ISR status and says whether the
//!   client's eventfd is to be signalled.
//! * **Doorbells.** As [`Event::QueueKicked`], through the kick descriptor (a client that asked for ioeventfds), or not at
//!   all (a client that mapped the notify page of [`Offer::region_file`]: the host polls).
//!
//! What makes the stream unintelligible is a [`ClientFault`]; after the first one the session only repeats it, and the host
//! closes the connection. Clients do not connect again.
//!
//! # The host's loop
//!
//! ```no_run
//! # use transport::vfio_user::{Session, Event, Outcome, ClientFault};
//! # struct Socket;
//! # impl Socket { fn recvmsg(&self, _: usize) -> (Vec<u8>, Vec<std::os::fd::OwnedFd>) { (vec![], vec![]) }
//! #   fn send(&self, _: &transport::vfio_user::Outgoing) {} }
//! # fn carry_out(_: Event) -> Outcome { Outcome::Done }
//! fn serve(session: &mut Session, socket: &Socket) -> Result<(), ClientFault> {
//!     loop {
//!         let (bytes, fds) = socket.recvmsg(session.wanted());
//!         if bytes.is_empty() {
//!             return Ok(()); // the client closed the connection
//!         }
//!         session.receive(&bytes, fds)?;
//!         while let Some(event) = session.next_event()? {
//!             let outcome = carry_out(event);
//!             session.finish(outcome);
//!         }
//!         while let Some(outgoing) = session.next_outgoing() {
//!             socket.send(&outgoing); // with its descriptors
//!         }
//!     }
//! }
//! ```
//!
//! A host that polls also calls `next_event` again after it has taken outgoing messages: a session with too many of them
//! unsent decodes nothing further. QEMU gives a reply 5 seconds, and its guest stands still meanwhile.

mod access;
mod dma;
mod fault;
mod info;
mod irqs;
mod memory;
mod message;
mod offer;
mod queues;
mod relay;
mod relays;
mod session;
mod version;

pub use crate::event::{Channel, Event, Outcome, Outgoing, QueueFault, QueueRestart, QueueStart};
pub use dma::{DMA_MAX, DmaDone, DmaFault};
pub use fault::{ClientFault, Refusal};
pub use memory::{DMA_MAPS_MAX, MAPPED_MAX, MAPPINGS_MAX};
pub use message::{Command, DATA_MAX, FDS_MAX};
pub use offer::{Offer, OfferFault};
pub use relay::{ARENA_LEN, CHAIN_LEN_MAX, RelayFault};
pub use session::Session;

use info::REGIONS;

/// The granularity of the client's memory that is announced, in bytes (`pgsizes`). Maps of any other size are taken as well.
const PAGE_SIZE: u64 = 4096;
