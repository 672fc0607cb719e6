//! A tap interface of the host as a port: frames with virtio-net headers, one system call each way and frame.

use super::port::QueueStats;
use crate::config::resolved::PortConfig;
use crate::sys;
use devices::net::{Accepts, Frame, HeadBuffer, HeaderFormat, TransmitRules};
use guestmem::{MemSlice, vectored};
use std::fs::File;
use std::io;

/// Bytes of a frame's private head that are written without another run.
const HEAD_MAX: usize = size_of::<HeadBuffer>();

/// A tap and its queues.
pub(super) struct TapPort {
    pub(super) queues: Box<[TapQueue]>,
    /// What the kernel may leave to us in the frames that it sends.
    pub(super) rules: TransmitRules,
}

/// One queue of a tap.
pub(super) struct TapQueue {
    pub(super) file: File,
    /// Counters of frames that the kernel sends into the switch.
    pub(super) from_kernel: QueueStats,
    /// Counters of frames that the switch hands to the kernel. Several workers may deliver at once, so these
    /// are written with [`QueueStats`]'s single-writer rule only under `writing`.
    pub(super) to_kernel: QueueStats,
    pub(super) writing: parking_lot::Mutex<()>,
}

impl TapPort {
    /// Opens (and makes, where it is new) the interface `name`, sets its MTU and address and brings it up.
    pub(super) fn open(name: &str, queues: u16, config: &PortConfig) -> io::Result<Self> {
        let mut accepts = Accepts::empty();
        let mut opened = Vec::new();
        for _ in 0..queues {
            let file = sys::open_tap_queue(name, queues > 1)?;
            if config.offloads {
                accepts = Accepts::CSUM | Accepts::TSO4 | Accepts::TSO6 | Accepts::ECN | Accepts::DATA_VALID;
                if sys::set_tap_offloads(&file)?.uso {
                    accepts |= Accepts::USO4 | Accepts::USO6;
                }
            }
            opened.push(TapQueue {
                file,
                from_kernel: QueueStats::default(),
                to_kernel: QueueStats::default(),
                writing: parking_lot::Mutex::new(()),
            });
        }
        sys::bring_up(name, config.mtu, config.mac)?;
        Ok(Self { queues: opened.into(), rules: TransmitRules { format: HeaderFormat::MODERN, accepts } })
    }
}

impl TapQueue {
    /// Reads one frame into `buffer`, header included; `None` when there is none now.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        rustix::io::read(&self.file, buffer).ok().filter(|&len| len > sys::TAP_HEADER_LEN)
    }

    /// Writes one frame; the kernel copies straight from the sender's memory. `false`: the kernel did not take it. A
    /// kernel finishes every offload that a tap can be handed.
    pub(super) fn write(&self, frame: &Frame<'_>) -> bool {
        let mut front = [0u8; sys::TAP_HEADER_LEN + HEAD_MAX];
        let head = frame.head();
        front[..sys::TAP_HEADER_LEN].copy_from_slice(&HeaderFormat::MODERN.emit(&frame.offload().header()));
        let (private, mut skip) = (head.len().min(HEAD_MAX), frame.rest().1);
        front[sys::TAP_HEADER_LEN..][..private].copy_from_slice(&head[..private]);
        let mut runs = [MemSlice::empty(); vectored::RUNS_MAX - 1];
        let mut count = 0;
        for run in frame.rest().0 {
            let (skipped, rest) = run.split_at(skip);
            skip -= skipped.len();
            if !rest.is_empty() {
                let Some(place) = runs.get_mut(count) else { return false };
                *place = rest;
                count += 1;
            }
        }
        if private < head.len() {
            // A frame of our own making, longer than any head: it is private as a whole.
            let mut whole = head.to_vec();
            let runs = [MemSlice::from_mut(&mut whole[private..])];
            return vectored::write(&self.file, &front, &runs).is_ok();
        }
        vectored::write(&self.file, &front[..sys::TAP_HEADER_LEN + private], &runs[..count]).is_ok()
    }
}
