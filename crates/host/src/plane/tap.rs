//! A tap interface of the host as a port: frames with virtio-net headers, one system call each way and frame.

use super::stats::QueueStats;
use crate::config::resolved::PortConfig;
use crate::sys;
use devices::net::{Accepts, Frame, HeadBuffer, HeaderFormat, Software, TransmitRules};
use guestmem::{MemSlice, vectored};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;

/// Bytes of a frame's private head that are written without another run.
const HEAD_MAX: usize = size_of::<HeadBuffer>();

/// A tap and its queues.
pub(super) struct TapPort {
    pub(super) queues: Box<[TapQueue]>,
    /// What the kernel may leave to us in the frames that it sends.
    pub(super) rules: TransmitRules,
    /// What we may leave to the kernel in the frames that it gets.
    takes: Accepts,
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
        let mut takes = Accepts::all() - Accepts::USO4 - Accepts::USO6;
        let mut opened = Vec::new();
        for _ in 0..queues {
            let file = sys::open_tap_queue(name, queues > 1)?;
            if config.offloads {
                accepts = Accepts::CSUM | Accepts::TSO4 | Accepts::TSO6 | Accepts::ECN | Accepts::DATA_VALID;
                if sys::set_tap_offloads(&file)?.uso {
                    accepts |= Accepts::USO4 | Accepts::USO6;
                    takes = Accepts::all();
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
        Ok(Self {
            queues: opened.into(),
            rules: TransmitRules { format: HeaderFormat::MODERN, accepts },
            takes,
        })
    }
}

impl TapPort {
    /// Hands one frame to the kernel, cut into datagrams first where the kernel cannot do that (USO before Linux 6.2).
    pub(super) fn write(&self, queue: &TapQueue, frame: &Frame<'_>, software: &mut Software) -> bool {
        if self.takes.takes(&frame.offload()) {
            return queue.write(frame);
        }
        let mut taken = true;
        software.convert(frame, self.takes, |part| {
            taken = queue.write(part);
            if taken { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        taken
    }
}

impl TapQueue {
    /// Reads one frame into `buffer`, header included; `None` when there is none now.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        rustix::io::read(&self.file, buffer).ok().filter(|&len| len > sys::TAP_HEADER_LEN)
    }

    /// Writes one frame; the kernel copies straight from the sender's memory. `false`: the kernel did not take it.
    fn write(&self, frame: &Frame<'_>) -> bool {
        let mut front = [0u8; sys::TAP_HEADER_LEN + HEAD_MAX];
        let head = frame.head();
        front[..sys::TAP_HEADER_LEN].copy_from_slice(&HeaderFormat::MODERN.emit(&frame.offload().header()));
        if head.len() > HEAD_MAX {
            // A frame of our own making, longer than any head: it is private as a whole.
            let mut whole = head.to_vec();
            let runs = [MemSlice::from_mut(&mut whole)];
            return vectored::write(&self.file, &front[..sys::TAP_HEADER_LEN], &runs).is_ok();
        }
        front[sys::TAP_HEADER_LEN..][..head.len()].copy_from_slice(head);
        let front = &front[..sys::TAP_HEADER_LEN + head.len()];
        let (rest, mut skip) = frame.rest();
        let mut runs = [MemSlice::empty(); vectored::RUNS_MAX - 1];
        let mut count = 0;
        for run in rest {
            let (skipped, run) = run.split_at(skip);
            skip -= skipped.len();
            if run.is_empty() {
                continue;
            }
            let Some(place) = runs.get_mut(count) else { return self.write_scattered(front, frame) };
            *place = run;
            count += 1;
        }
        vectored::write(&self.file, front, &runs[..count]).is_ok()
    }

    /// A frame in more pieces than anyone sends on purpose: gathered first.
    #[cold]
    fn write_scattered(&self, front: &[u8], frame: &Frame<'_>) -> bool {
        let mut whole = vec![0; frame.len() as usize];
        frame.copy_to(&mut whole);
        let rest = &mut whole[frame.head().len()..];
        vectored::write(&self.file, front, &[MemSlice::from_mut(rest)]).is_ok()
    }
}
