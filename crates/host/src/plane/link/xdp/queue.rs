//! One queue of an AF_XDP uplink: a socket, its frames and its four rings.

use super::Layout;
use super::outgoing::Outgoing;
use crate::sys::TAP_HEADER_LEN;
use crate::sys::xdp::bpf::Place;
use crate::sys::xdp::memory::{self, ReceiveFrames};
use crate::sys::xdp::ring::{CONTINUED, Consumer, Desc, Producer, Which};
use devices::net::Frame;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags, XdpOptionsFlags, XdpUmemReg, XdpUmemRegFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Frames of each direction, and entries of each ring.
const FRAMES: u32 = 2048;

/// Frames read before the kernel gets them back.
const GIVE_BACK: u32 = 32;

/// How long the kernel may take to free a queue whose socket was closed, and how often one looks.
const UNBIND_MAX: Duration = Duration::from_secs(1);
const UNBIND_STEP: Duration = Duration::from_millis(5);

/// Bytes that may wait in the kernel below the socket: all frames of a queue, with what the kernel adds to each.
const SEND_BUFFER_LEN: usize = FRAMES as usize * 8192;

/// One queue. Reading and writing take turns among themselves, not with each other.
pub(in super::super) struct XdpQueue {
    socket: OwnedFd,
    zero_copy: bool,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
    /// Frames are in the transmit ring that the kernel did not take when it was asked.
    unsent: AtomicBool,
    /// Frames that were not whole: the kernel named bytes that are in no frame.
    broken: AtomicU64,
}

/// The receiving half.
struct Incoming {
    receive: Consumer<Desc>,
    fill: Producer<u64>,
    frames: ReceiveFrames,
    /// Frames that the kernel does not have back yet.
    kept: u32,
}

impl XdpQueue {
    /// Takes over queue `index` of an interface that is up.
    ///
    /// # Errors
    /// The kernel's. EINVAL: there is no such queue; EBUSY: another socket has it; ENOBUFS: memory may not be locked.
    pub(super) fn open(ifindex: u32, index: u32, layout: Layout, place: Place) -> io::Result<Self> {
        let socket =
            rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let (receive_frames, send_frames, extent) = memory::frames(FRAMES, FRAMES, layout.frame_len)?;
        sockopt::set_xdp_umem_reg(
            &socket,
            XdpUmemReg {
                addr: extent.start,
                len: extent.len,
                chunk_size: layout.frame_len,
                headroom: 0,
                flags: XdpUmemRegFlags::empty(),
                tx_metadata_len: 0,
            },
        )?;
        sockopt::set_xdp_umem_fill_ring_size(&socket, FRAMES)?;
        sockopt::set_xdp_umem_completion_ring_size(&socket, FRAMES)?;
        sockopt::set_xdp_rx_ring_size(&socket, FRAMES)?;
        sockopt::set_xdp_tx_ring_size(&socket, FRAMES)?;
        // Refused without CAP_NET_ADMIN; then a burst may need a second call to be sent.
        let _ = sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER_LEN);

        let offsets = sockopt::xdp_mmap_offsets(&socket)?;
        let fd = socket.as_fd();
        let mut incoming = Incoming {
            receive: Consumer::map(fd, Which::Receive, &offsets.rx, FRAMES)?,
            fill: Producer::map(fd, Which::Fill, &offsets.fr, FRAMES)?,
            frames: receive_frames,
            kept: 0,
        };
        let outgoing = Outgoing::new(
            Producer::map(fd, Which::Transmit, &offsets.tx, FRAMES)?,
            Consumer::map(fd, Which::Completion, &offsets.cr, FRAMES)?,
            send_frames,
            FRAMES,
            layout.pieces,
        );
        for addr in incoming.frames.addrs() {
            incoming.fill.push(addr);
        }
        incoming.fill.publish();

        let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        flags.set(SocketAddrXdpFlags::XDP_USE_SG, layout.pieces);
        // Behind the generic program there is no driver to write into our frames.
        flags.set(SocketAddrXdpFlags::XDP_COPY, place == Place::Generic);
        bind(&socket, &SocketAddrXdp::new(flags, ifindex, index))?;
        let zero_copy = sockopt::xdp_options(&socket)?.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
        Ok(Self {
            socket,
            zero_copy,
            incoming: Mutex::new(incoming),
            outgoing: Mutex::new(outgoing),
            unsent: AtomicBool::new(false),
            broken: AtomicU64::new(0),
        })
    }

    /// What becomes readable when a frame comes.
    pub(in super::super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the driver uses our frames without a copy.
    pub(super) fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Frames that arrived and did not reach us: no room in the rings or frames, too long, or not whole.
    ///
    /// # Errors
    /// The kernel's.
    pub(in super::super) fn missed(&self) -> io::Result<u64> {
        let statistics = sockopt::xdp_statistics(&self.socket)?;
        Ok(statistics.rx_dropped + statistics.rx_ring_full.unwrap_or(0) + self.broken.load(Relaxed))
    }

    /// Reads one frame into `buffer`, behind a zeroed virtio-net header of [`TAP_HEADER_LEN`] bytes; how many bytes
    /// that is. `None`: nothing is there now. A frame that does not fit is passed over and counted in [`Self::missed`].
    pub(in super::super) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        let (header, body) = buffer.split_at_mut_checked(TAP_HEADER_LEN)?;
        let mut incoming = self.incoming.lock();
        for _ in 0..incoming.receive.len() {
            let Some((pieces, len)) = incoming.gather(body) else {
                incoming.give_back(&self.socket);
                break;
            };
            incoming.pass(pieces, &self.socket);
            if let Some(len) = len {
                header.fill(0);
                return Some(TAP_HEADER_LEN + len);
            }
            self.broken.fetch_add(1, Relaxed);
        }
        drop(incoming);
        if self.unsent.load(Relaxed) {
            self.flush();
        }
        None
    }

    /// Puts one frame into the transmit ring; [`Self::flush`] has it sent. `false`: not taken, since the ring is full even after
    /// what was sent is taken out of it, or the frame is longer than the interface's MTU has room for.
    pub(in super::super) fn write(&self, frame: &Frame<'_>) -> bool {
        let mut outgoing = self.outgoing.lock();
        if outgoing.put(frame) {
            return true;
        }
        self.send(&mut outgoing);
        outgoing.put(frame)
    }

    /// Has everything sent that was written.
    pub(in super::super) fn flush(&self) {
        self.send(&mut self.outgoing.lock());
    }

    fn send(&self, outgoing: &mut Outgoing) {
        let wanted = outgoing.publish();
        let sent = if self.zero_copy {
            if wanted {
                let _ = rustix::net::send(&self.socket, &[], SendFlags::DONTWAIT);
            }
            true
        } else {
            // An interface that is down or gone: what is in the ring goes when it is back.
            outgoing.send_copied(&self.socket).unwrap_or(true)
        };
        outgoing.reap();
        if self.unsent.load(Relaxed) == sent {
            self.unsent.store(!sent, Relaxed);
        }
    }
}

/// Binds the socket to its queue. The kernel takes a closed socket off its queue a little later, from a work queue: a
/// queue that is taken may be free in a moment.
pub(super) fn bind(socket: &OwnedFd, address: &SocketAddrXdp) -> io::Result<()> {
    let end = Instant::now() + UNBIND_MAX;
    loop {
        match rustix::net::bind(socket, address) {
            Err(Errno::BUSY) if Instant::now() < end => std::thread::sleep(UNBIND_STEP),
            other => return Ok(other?),
        }
    }
}

impl Incoming {
    /// Copies the next frame into `body`. How many pieces it has, and its length unless it is not whole or does not fit;
    /// `None` when there is none, or not all of it.
    fn gather(&mut self, body: &mut [u8]) -> Option<(u32, Option<usize>)> {
        let (mut pieces, mut end) = (0, Some(0));
        // More pieces than the ring has entries: no frame, whatever comes.
        while pieces < self.receive.len() {
            let desc = self.receive.peek(pieces)?;
            pieces += 1;
            end = end
                .and_then(|at: usize| Some(at + self.frames.read(desc.addr, desc.len, body.get_mut(at..)?)?));
            if desc.options & CONTINUED == 0 {
                return Some((pieces, end.filter(|&len| len != 0)));
            }
        }
        Some((pieces, None))
    }

    /// Goes over `pieces` entries; the kernel gets the frames back in groups.
    fn pass(&mut self, pieces: u32, socket: &OwnedFd) {
        for _ in 0..pieces {
            if let Some(base) = self.receive.pop().and_then(|desc| self.frames.base(desc.addr)) {
                self.fill.push(base);
            }
        }
        self.kept += pieces;
        if self.kept >= GIVE_BACK {
            self.give_back(socket);
        }
    }

    fn give_back(&mut self, socket: &OwnedFd) {
        self.kept = 0;
        self.receive.release();
        if self.fill.publish() {
            // The driver had run out of frames and stopped.
            let _ = rustix::net::recv(socket, &mut [0u8; 1][..], RecvFlags::DONTWAIT);
        }
    }
}
