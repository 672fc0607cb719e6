//! Interfaces of the host as ports: tap, macvtap, packet sockets, AF_XDP.
//!
//! All of them are queues that carry Ethernet frames with a virtio-net header of [`HEADER_LEN`] bytes in front, which
//! says what is left to do (checksum, segmentation). What the kernel may leave to us is [`LinkPort::rules`]; what we
//! may leave to the kernel is `takes`, and the rest is done in software before the write. Nothing that comes from an
//! interface is believed: a frame goes through `devices::net::transmit` as a guest's does.
//!
//! Packet sockets, AF_XDP and macvtap are *uplinks*: behind their interface there are other machines, and its receive
//! filter can be narrowed to the stations behind the switch ([`filter`]). They start promiscuous. A tap has no such
//! filter: what the host sends comes.
//!
//! MTU, address and state of an uplink's interface belong to the operator; they are read, never set. A tap that we made
//! is set up as the configuration says.

pub(super) mod filter;
pub(super) mod interface;
mod macvtap;
mod packet;
mod tap;
#[cfg(test)]
mod tests;
mod xdp;

pub(super) use xdp::{Copied, Lane, Lanes, Refused};

use super::stats::QueueStats;
use crate::config::resolved::{Attach, PortConfig};
use crate::sys;
use devices::net::{Accepts, Frame, HeadBuffer, HeaderFormat, Software, TransmitRules};
use filter::{InterfaceFilter, Wanted};
use guestmem::{MemSlice, vectored};
use interface::{Interface, Reader};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use switch::DropReason;

/// Bytes of the virtio-net header in front of each frame that [`LinkQueue::read`] gives.
pub(super) const HEADER_LEN: usize = sys::TAP_HEADER_LEN;

/// Bytes of a frame's private head that are written without another run.
const HEAD_MAX: usize = size_of::<HeadBuffer>();

/// An interface of the host and its queues.
pub(super) struct LinkPort {
    /// An XDP program; goes before its queues do.
    attached: Option<xdp::Attached>,
    /// Ways of guests' queues to the interface that bear frames without a copy.
    lanes: Option<Arc<Lanes>>,
    pub(super) queues: Box<[LinkQueue]>,
    /// What the kernel may leave to us in the frames that it sends.
    pub(super) rules: TransmitRules,
    /// What we may leave to the kernel in the frames that it gets.
    takes: Accepts,
    interface: String,
    reader: Reader,
    filter: Option<Mutex<InterfaceFilter>>,
}

/// One queue of an interface.
pub(super) struct LinkQueue {
    way: Way,
    /// Counters of frames that the kernel sends into the switch. Written by the worker that reads.
    pub(super) from_kernel: QueueStats,
    /// Counters of frames that the switch hands to the kernel. Several workers may deliver at once, so these
    /// are written with [`QueueStats`]'s single-writer rule only under `writing`.
    pub(super) to_kernel: QueueStats,
    pub(super) writing: Mutex<()>,
    /// Held from reading frames until they are delivered: two workers may serve the queue while it moves.
    pub(super) reading: Mutex<()>,
    /// Frames that the kernel had no room for, as counted by AF_XDP when [`LinkPort::tend`] looked last.
    missed: AtomicU64,
}

/// How a queue's frames reach the kernel.
enum Way {
    /// A tap's or macvtap's character device.
    Device(File),
    Packet(packet::PacketSocket),
    Xdp(Box<xdp::XdpQueue>),
}

/// Offloads that we may leave to a kernel, or it to us, before UDP segmentation came (Linux 6.2).
const CLASSIC: Accepts =
    Accepts::CSUM.union(Accepts::TSO4).union(Accepts::TSO6).union(Accepts::ECN).union(Accepts::UFO);
/// UDP segmentation.
const USO: Accepts = Accepts::USO4.union(Accepts::USO6);

impl LinkPort {
    /// Opens the interface that `attach` names. An uplink's filter is promiscuous then.
    ///
    /// # Errors
    /// The kernel's, in words that name the interface and what to do; `InvalidInput` for an `attach` that is no
    /// interface.
    pub(super) fn open(attach: &Attach, config: &PortConfig) -> io::Result<Self> {
        match attach {
            Attach::Tap { name, queues } => tap::open(name, *queues, config),
            Attach::Macvtap { interface, fds, queues } => macvtap::open(interface, fds, *queues, config),
            Attach::Packet { interface } => packet::open(interface, config),
            Attach::AfXdp { interface: name, queues, mode, zero_copy } => {
                let interface = Reader::open()?.read(name)?;
                let (attached, opened) = xdp::open(name, &interface, *queues, *mode)?;
                let ways = opened.into_iter().map(|queue| Way::Xdp(Box::new(queue))).collect();
                // AF_XDP carries bytes and nothing else: every offload is done here.
                let mut port = Self::uplink(name, config, ways, Accepts::empty(), Accepts::empty())?;
                port.lanes = zero_copy.map(|wanted| Arc::new(attached.lanes(&interface, *queues, wanted)));
                port.attached = Some(attached);
                Ok(port)
            }
            Attach::VhostUser { .. } | Attach::VfioUser { .. } => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "a guest's port is no interface"))
            }
        }
    }

    /// An uplink: its interface exists, and the filter takes everything until [`Self::filter`] is told more.
    fn uplink(
        name: &str,
        config: &PortConfig,
        ways: Vec<Way>,
        accepts: Accepts,
        takes: Accepts,
    ) -> io::Result<Self> {
        let reader = Reader::open()?;
        accept_mtu(&reader.read(name)?, config.mtu)?;
        let mut filter = InterfaceFilter::open(name)?;
        filter.apply(&Wanted::everything("nobody has said which addresses are behind the switch"));
        Ok(Self::new(name, ways, accepts, takes, reader, Some(filter)))
    }

    fn new(
        name: &str,
        ways: Vec<Way>,
        accepts: Accepts,
        takes: Accepts,
        reader: Reader,
        filter: Option<InterfaceFilter>,
    ) -> Self {
        let queue = |way| LinkQueue {
            way,
            from_kernel: QueueStats::default(),
            to_kernel: QueueStats::default(),
            writing: Mutex::new(()),
            reading: Mutex::new(()),
            missed: AtomicU64::new(0),
        };
        Self {
            attached: None,
            lanes: None,
            queues: ways.into_iter().map(queue).collect(),
            rules: TransmitRules { format: HeaderFormat::MODERN, accepts },
            takes,
            interface: name.into(),
            reader,
            filter: filter.map(Mutex::new),
        }
    }

    /// The receive filter of an uplink's interface; a tap has none.
    pub(super) fn filter(&self) -> Option<&Mutex<InterfaceFilter>> {
        self.filter.as_ref()
    }

    /// The lanes of guests' queues, where there may be any.
    pub(super) fn lanes(&self) -> Option<&Arc<Lanes>> {
        self.lanes.as_ref()
    }

    /// How frames come, in words, where that can differ: AF_XDP.
    pub(super) fn mode(&self) -> Option<&'static str> {
        self.attached.as_ref().map(xdp::Attached::describe)
    }

    /// What the kernel says of the interface now.
    ///
    /// # Errors
    /// The kernel's: the interface is gone.
    pub(super) fn interface(&self) -> io::Result<Interface> {
        self.reader.read(&self.interface)
    }

    /// To be called about once a second: a packet socket follows an interface that was removed and made anew under the
    /// same name, and so does the filter; frames that the kernel could not queue for us are counted.
    pub(super) fn tend(&self) {
        for queue in &self.queues {
            let missed = match &queue.way {
                Way::Device(_) => 0,
                Way::Packet(socket) => socket.tend(self.interface().ok().as_ref()),
                Way::Xdp(socket) => {
                    let all = socket.missed().unwrap_or(0);
                    all.saturating_sub(queue.missed.fetch_max(all, Relaxed))
                }
            };
            if missed != 0 {
                queue.from_kernel.dropped_unheld(DropReason::HostError, missed);
            }
        }
        if let Some(filter) = &self.filter {
            filter.lock().tend();
        }
    }

    /// Hands one frame to the kernel, finished first as far as the kernel would not do it (USO before Linux 6.2). The
    /// caller holds `queue.writing`. `false`: the kernel did not take it, or not all of its segments.
    pub(super) fn write(&self, queue: &LinkQueue, frame: &Frame<'_>, software: &mut Software) -> bool {
        self.finish(frame, software, |part| queue.write(part))
    }

    /// Finishes a frame as far as the kernel would not do it, and hands each part to `put`, until that is `false`; whether it
    /// never was.
    pub(super) fn finish(
        &self,
        frame: &Frame<'_>,
        software: &mut Software,
        mut put: impl FnMut(&Frame<'_>) -> bool,
    ) -> bool {
        if self.takes.takes(&frame.offload()) {
            return put(frame);
        }
        let mut taken = true;
        software.convert(frame, self.takes, |part| {
            taken = put(part);
            if taken { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        taken
    }

    /// To be called once after a group of writes to `queue`, with `queue.writing` held.
    pub(super) fn flush(&self, queue: &LinkQueue) {
        match &queue.way {
            // Each write was a system call of its own.
            Way::Device(_) | Way::Packet(_) => {}
            Way::Xdp(socket) => socket.flush(),
        }
    }
}

impl LinkQueue {
    /// What becomes readable when a frame is there.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Device(file) => file.as_fd(),
            Way::Packet(socket) => socket.fd(),
            Way::Xdp(socket) => socket.fd(),
        }
    }

    /// Reads one frame into `buffer`, header included; `None` when there is none now. To be called by one thread
    /// at a time.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        match &self.way {
            Way::Device(file) => rustix::io::read(file, buffer).ok().filter(|&len| len > HEADER_LEN),
            Way::Packet(socket) => socket.read(buffer, &self.from_kernel),
            Way::Xdp(socket) => socket.read(buffer),
        }
    }

    fn write(&self, frame: &Frame<'_>) -> bool {
        match &self.way {
            Way::Device(file) => write_frame(file, HEADER_LEN, frame).is_ok(),
            Way::Packet(socket) => socket.write(frame),
            Way::Xdp(socket) => socket.write(frame),
        }
    }
}

/// Refuses an MTU that the interface cannot carry.
fn accept_mtu(interface: &Interface, wanted: Option<u16>) -> io::Result<()> {
    match wanted {
        Some(mtu) if u32::from(mtu) > interface.mtu => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "its MTU is {} bytes and the port's is {mtu}: raise the first or lower the second",
                interface.mtu
            ),
        )),
        _ => Ok(()),
    }
}

/// Writes one frame behind the first `header_len` bytes (10 or 12) of its virtio-net header; the kernel copies straight
/// from the sender's memory.
fn write_frame(file: impl AsFd, header_len: usize, frame: &Frame<'_>) -> io::Result<usize> {
    let mut front = [0u8; HEADER_LEN + HEAD_MAX];
    let head = frame.head();
    front[..HEADER_LEN].copy_from_slice(&HeaderFormat::MODERN.emit(&frame.offload().header()));
    if head.len() > HEAD_MAX {
        // A frame of our own making, longer than any head: it is private as a whole.
        let mut whole = head.to_vec();
        let runs = [MemSlice::from_mut(&mut whole)];
        return vectored::write(file, &front[..header_len], &runs);
    }
    front[header_len..][..head.len()].copy_from_slice(head);
    let front = &front[..header_len + head.len()];
    let (rest, mut skip) = frame.rest();
    let mut runs = [MemSlice::empty(); vectored::RUNS_MAX - 1];
    let mut count = 0;
    for run in rest {
        let (skipped, run) = run.split_at(skip);
        skip -= skipped.len();
        if run.is_empty() {
            continue;
        }
        let Some(place) = runs.get_mut(count) else { return write_scattered(file, front, frame) };
        *place = run;
        count += 1;
    }
    vectored::write(file, front, &runs[..count])
}

/// A frame in more pieces than anyone sends on purpose: gathered first.
#[cold]
fn write_scattered(file: impl AsFd, front: &[u8], frame: &Frame<'_>) -> io::Result<usize> {
    let mut whole = vec![0; frame.len() as usize];
    frame.copy_to(&mut whole);
    let rest = &mut whole[frame.head().len()..];
    vectored::write(file, front, &[MemSlice::from_mut(rest)])
}
