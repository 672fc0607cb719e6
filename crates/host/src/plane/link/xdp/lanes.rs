//! The lanes of an uplink: which of the interface's queues are taken, who has none and why, and what is counted.

use super::Layout;
use super::lane::{Lane, Unbound};
use super::queue::bind;
use crate::api::view::{LaneView, ZeroCopyView};
use crate::config::resolved::ZeroCopy;
use crate::plane::link::interface::Interface;
use crate::sys;
use crate::sys::xdp::bpf::Place;
use guestmem::GuestMemory;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags, XdpOptionsFlags};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Why a frame was copied although its queue has a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plane) enum Copied {
    /// It is shorter than `zero-copy-min`.
    Short,
    /// It has several receivers.
    Group,
    /// It is cut into segments by us.
    Segmentation,
    /// As many are pending as may be.
    Pending,
    /// It lies in more pieces than one frame may have.
    Scattered,
    /// The rings or our own frames are full.
    Room,
}

impl Copied {
    const NAMES: [&str; 6] = ["short", "group", "segmentation", "pending", "scattered", "room"];
}

/// The lanes of one uplink.
pub(in crate::plane) struct Lanes {
    interface: String,
    ifindex: u32,
    place: Place,
    layout: Layout,
    /// The longest frame that the interface takes, in bytes.
    pub(super) len_max: u32,
    pub(super) wanted: ZeroCopy,
    /// Whether frames can go without a copy in the kernel.
    pub(super) without_copy: bool,
    /// The first queue that the uplink itself does not use, and how many there are where the driver does not say.
    first: u32,
    queues_made: u32,
    open: Mutex<BTreeMap<u32, Arc<Facts>>>,
    /// Who has no lane and why.
    refused: Mutex<BTreeMap<(String, u16), Refused>>,
    pub(super) counts: Counts,
}

/// What people see of a lane.
pub(super) struct Facts {
    pub(super) guest: String,
    pub(super) pair: u16,
    /// What the kernel does, once the lane is used.
    pub(super) kernel: OnceLock<&'static str>,
    pub(super) pending: AtomicU32,
}

/// What is counted of all lanes; written by many.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) frames: AtomicU64,
    /// Of these frames, without their heads.
    pub(super) bytes: AtomicU64,
    pub(super) copied: [AtomicU64; Copied::NAMES.len()],
    pub(super) abandoned: AtomicU64,
}

/// Why there is no lane, and whether that may change by itself.
#[derive(Clone, Debug)]
pub(in crate::plane) struct Refused {
    text: String,
    passes: bool,
}

impl Refused {
    /// For as long as memory and configuration stay as they are.
    pub(in crate::plane) fn lasting(text: impl Into<String>) -> Self {
        Self { text: text.into(), passes: false }
    }

    fn passing(text: impl Into<String>) -> Self {
        Self { text: text.into(), passes: true }
    }
}

impl Lanes {
    pub(super) fn new(
        name: &str,
        interface: &Interface,
        place: Place,
        first: u16,
        wanted: ZeroCopy,
        without_copy: bool,
    ) -> Self {
        let layout = Layout::of_mtu(interface.mtu);
        Self {
            interface: name.into(),
            ifindex: interface.index,
            place,
            layout,
            len_max: interface.mtu.saturating_add(super::ETHERNET_LEN_MAX),
            wanted,
            without_copy,
            first: first.into(),
            queues_made: interface.transmit_queues,
            open: Mutex::default(),
            refused: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// Opens a lane for the transmit queue of pair `pair` of the port `guest`, whose ring has `ring` entries. `None`: what
    /// stands against it is noted for people. Takes as long as pinning the memory does; not for workers.
    pub(in crate::plane) fn open(
        self: &Arc<Self>,
        guest: &str,
        pair: u16,
        memory: &Arc<GuestMemory>,
        ring: u16,
    ) -> Option<Lane> {
        match self.try_open(guest, pair, memory, ring) {
            Ok(lane) => {
                let (queue, kernel) = (lane.queue(), lane.kernel());
                tracing::info!(
                    port = guest,
                    pair,
                    interface = self.interface,
                    queue,
                    kernel,
                    "zero-copy lane"
                );
                self.refused.lock().remove(&(guest.into(), pair));
                Some(lane)
            }
            Err(refused) => {
                self.refuse(guest, pair, refused);
                None
            }
        }
    }

    /// Notes why a queue has no lane.
    pub(in crate::plane) fn refuse(&self, guest: &str, pair: u16, refused: Refused) {
        let text = refused.text.clone();
        let before = self.refused.lock().insert((guest.into(), pair), refused);
        if before.is_none_or(|before| before.text != text) {
            tracing::info!(port = guest, pair, interface = self.interface, "frames are copied: {text}");
        }
    }

    /// Whether it is of use to try to open a lane (again) while the guest's memory is the same.
    pub(in crate::plane) fn may_open(&self, guest: &str, pair: u16) -> bool {
        self.refused.lock().get(&(guest.into(), pair)).is_none_or(|refused| refused.passes)
    }

    /// The queue is gone: nothing is to be said of it any more.
    pub(in crate::plane) fn forget(&self, guest: &str, pair: u16) {
        self.refused.lock().remove(&(guest.into(), pair));
    }

    /// Whether someone waits for a lane that may open by itself.
    pub(in crate::plane) fn is_wanted(&self) -> bool {
        self.refused.lock().values().any(|refused| refused.passes)
    }

    fn try_open(
        self: &Arc<Self>,
        guest: &str,
        pair: u16,
        memory: &Arc<GuestMemory>,
        ring: u16,
    ) -> Result<Lane, Refused> {
        if !self.without_copy && !self.wanted.always {
            let interface = &self.interface;
            return Err(Refused::lasting(format!(
                "the driver of {interface} has the kernel copy every frame, which costs more for one in pieces than our copy \
                 does; zero-copy = \"always\" has it done all the same"
            )));
        }
        let count = sys::xdp::transmit_queue_count(&self.interface).filter(|&count| count != 0);
        let count = count.unwrap_or(self.queues_made);
        let facts = Arc::new(Facts {
            guest: guest.into(),
            pair,
            kernel: OnceLock::new(),
            pending: AtomicU32::new(0),
        });
        let mut place = self.reserve(self.first..count, &facts).ok_or_else(|| self.no_queue(count))?;
        let failed = |error: io::Error| self.explain(&error);
        let unbound = Unbound::new(memory, self.layout.pieces).map_err(failed)?;
        let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP | SocketAddrXdpFlags::XDP_USE_SG;
        flags.set(SocketAddrXdpFlags::XDP_COPY, self.place == Place::Generic);
        loop {
            let address = SocketAddrXdp::new(flags, self.ifindex, place.index);
            match bind(&unbound.socket, &address) {
                Ok(()) => break,
                // It belongs to another program.
                Err(error) if super::is(&error, Errno::BUSY) => {
                    let next = self.reserve(place.index + 1..count, &facts);
                    place = next.ok_or_else(|| self.no_queue(count))?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let options = sockopt::xdp_options(&unbound.socket).map_err(|error| failed(error.into()))?;
        let zero_copy = options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
        Ok(Lane::new(self, place, facts, unbound, zero_copy, ring))
    }

    /// Takes a queue of the interface in `queues` that no lane has.
    fn reserve(self: &Arc<Self>, queues: std::ops::Range<u32>, facts: &Arc<Facts>) -> Option<QueuePlace> {
        let mut open = self.open.lock();
        let index = queues.into_iter().find(|index| !open.contains_key(index))?;
        open.insert(index, Arc::clone(facts));
        Some(QueuePlace { lanes: Arc::clone(self), index })
    }

    fn no_queue(&self, count: u32) -> Refused {
        let (interface, first) = (&self.interface, self.first);
        Refused::passing(format!(
            "{interface} has {count} transmit queues, and each guest's needs one beyond the {first} of the uplink: give \
             it more (ethtool -L {interface} combined N), and keep its receive side to the first {first} (ethtool -X \
             {interface} equal {first})"
        ))
    }

    fn explain(&self, error: &io::Error) -> Refused {
        let interface = &self.interface;
        if super::is(error, Errno::NETDOWN) {
            return Refused::passing(format!("{interface} is down"));
        }
        let text = if super::is(error, Errno::NOBUFS) || super::is(error, Errno::NOMEM) {
            "the guest's memory may not be locked: raise RLIMIT_MEMLOCK (LimitMEMLOCK=infinity), or give CAP_IPC_LOCK"
        } else if super::is(error, Errno::INVAL) {
            "the guest's memory cannot be had in one run (private or huge pages), or the kernel has no frames in pieces \
             (Linux 6.6)"
        } else if super::is(error, Errno::FAULT) || super::is(error, Errno::OPNOTSUPP) {
            "the guest's memory cannot be pinned: its file has to be in memory (memfd, tmpfs)"
        } else {
            "no socket on the guest's memory"
        };
        Refused::lasting(format!("{text}: {error}"))
    }

    /// What people see.
    pub(in crate::plane) fn view(&self) -> ZeroCopyView {
        let open = self.open.lock();
        let lanes = open.iter().filter_map(|(queue, facts)| {
            Some(LaneView {
                queue: *queue,
                port: facts.guest.clone(),
                pair: facts.pair,
                kernel: (*facts.kernel.get()?).into(),
                pending: facts.pending.load(Relaxed),
            })
        });
        let lanes: Vec<_> = lanes.collect();
        let copied = Copied::NAMES.iter().zip(&self.counts.copied);
        let copied = copied.map(|(name, count)| ((*name).into(), count.load(Relaxed)));
        let refused = self.refused.lock();
        let refused =
            refused.iter().map(|((guest, pair), refused)| (format!("{guest}/{pair}"), refused.text.clone()));
        ZeroCopyView {
            min: self.wanted.min,
            frames: self.counts.frames.load(Relaxed),
            bytes: self.counts.bytes.load(Relaxed),
            pending: lanes.iter().map(|lane| lane.pending).sum(),
            abandoned: self.counts.abandoned.load(Relaxed),
            copied: copied.filter(|(_, count)| *count != 0).collect(),
            refused: refused.collect(),
            lanes,
        }
    }
}

/// A queue of the interface that a lane has; free again when dropped.
pub(super) struct QueuePlace {
    lanes: Arc<Lanes>,
    pub(super) index: u32,
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.lanes.open.lock().remove(&self.index);
    }
}
