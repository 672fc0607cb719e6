//! What workers serve: a queue pair of a guest's NIC, a queue of an interface of the host, a queue of a disk.
//!
//! A worker knows nothing else of devices: it has a source looked at, and asks how it stands when there was nothing to do.

use super::disk::Disk;
use super::disk::queue::Rest;
use super::forward::Forwarder;
use super::kicks::Cause;
use super::port::{Attachment, Port};
use super::seat::Seat;
use super::stats::add;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

/// Something that a worker serves.
#[derive(Clone)]
pub(super) enum Source {
    /// A queue pair of a guest's NIC, or a queue of an interface.
    Port(Arc<Port>, u16),
    /// A queue of a disk.
    Disk(Arc<Disk>, u16),
}

/// What becomes of a source after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Look again at once.
    Busy,
    /// Look again after a while: nobody wakes us.
    Doze,
    /// Wait for a kick.
    Rest,
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Port(one, index), Self::Port(other, at)) => index == at && Arc::ptr_eq(one, other),
            (Self::Disk(one, index), Self::Disk(other, at)) => index == at && Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Source {
    /// Where it is served.
    #[inline]
    pub(super) fn seat(&self) -> &Seat {
        match self {
            Self::Port(port, index) => &port.service.seats[usize::from(*index)],
            Self::Disk(disk, index) => &disk.service.seats[usize::from(*index)],
        }
    }

    /// Whose share of its worker's time it has: its device's, or its own if it is a queue of an interface, which brings what many have
    /// sent.
    pub(super) fn owner(&self) -> (usize, u16) {
        match self {
            Self::Port(port, index) => match port.attachment {
                Attachment::Guest(_) => (Arc::as_ptr(port).addr(), 0),
                Attachment::Link(_) => (Arc::as_ptr(port).addr(), *index),
            },
            Self::Disk(disk, _) => (Arc::as_ptr(disk).addr(), 0),
        }
    }

    /// The name of its device.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Port(port, _) => &port.name,
            Self::Disk(disk, _) => &disk.name,
        }
    }

    /// What wakes its worker beside kicks: an interface's queue.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Port(port, index) => match &port.attachment {
                Attachment::Guest(_) => None,
                Attachment::Link(link) => Some(link.queues[usize::from(*index)].fd()),
            },
            Self::Disk(..) => None,
        }
    }

    /// Counts a kick that reached us.
    pub(super) fn count_kick(&self, cause: Cause) {
        match self {
            Self::Port(port, index) => port.count_kick(*index, cause),
            Self::Disk(disk, index) if cause == Cause::Transmit => {
                add(&disk.queues[usize::from(*index)].stats.kicks, 1);
            }
            Self::Disk(..) => {}
        }
    }

    /// Serves it once, with a burst of `count` frames or requests at most; returns how many were handled.
    #[inline]
    pub(super) fn serve(&self, forwarder: &mut Forwarder, moment: Instant, count: usize) -> usize {
        match self {
            Self::Port(port, index) => forwarder.serve(port, *index, count),
            Self::Disk(disk, index) => disk.queues[usize::from(*index)].serve(disk, moment, count),
        }
    }

    /// Asks to be woken for what comes next; where nobody can, it is looked at again, at once if it `lingers`.
    pub(super) fn rest(&self, forwarder: &Forwarder, moment: Instant, lingers: bool) -> Step {
        match self {
            Self::Port(port, index) => port.rest(*index, forwarder.time(), lingers),
            Self::Disk(disk, index) => match disk.queues[usize::from(*index)].rest(moment) {
                Rest::Unheard if lingers => Step::Busy,
                Rest::Busy => Step::Busy,
                Rest::Unheard | Rest::Later => Step::Doze,
                Rest::Asleep => Step::Rest,
            },
        }
    }
}
