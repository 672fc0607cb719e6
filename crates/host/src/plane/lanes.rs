//! Frames that go to an uplink straight from their guest's memory, seen from the plane: who has a lane, what is lent to it,
//! and how lent frames come back. The lanes themselves: `link/xdp/lane.rs`; why it is so: docs/adr/0017.
//!
//! A lane belongs to a transmit queue and is used under that queue's lock. The session opens and closes it, since both take
//! time; the worker that serves the queue lends frames and takes them back.

use super::deliver::{Deliverer, Set, members};
use super::link::{Copied, Lane, Lanes, LinkPort, Refused};
use super::port::{Attachment, GuestPort, Live, Port};
use crate::capture::Direction;
use devices::net::{Acknowledged, Features, Frame};
use guestmem::GuestMemory;
use parking_lot::Mutex;
use std::sync::Arc;
use switch::{DropReason, Now};

/// How long completions wait for the frame of a lane that is older than they are. Then each is given back as it comes, so
/// that a frame that sticks in the host's network holds up nothing.
const BLOCKED_MAX_MS: u64 = 20;

/// A frame that was put into a lane and stays where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lent {
    /// Its place in the burst.
    pub(super) frame: usize,
    /// Which of the queue's lanes.
    pub(super) lane: usize,
    /// The lane's number for it.
    pub(super) number: u32,
}

impl Deliverer {
    /// Hands frames to an uplink by the lane of the queue that they came from: all of them, so that they keep their order.
    pub(super) fn deliver_to_lane(
        &mut self,
        port: &Port,
        link: &LinkPort,
        lane_index: usize,
        frames: &[Frame<'_>],
        group: Set,
    ) {
        let Self { lanes, software, single, lent, .. } = self;
        let lane = &mut lanes[lane_index];
        let (mut count, mut bytes, mut lost) = (0, 0, 0);
        for i in members(group) {
            let frame = &frames[i];
            let has_one_receiver = *single >> i & 1 != 0;
            let number =
                if has_one_receiver { lane.lend(frame, lent.len() as u16) } else { Err(Copied::Group) };
            let taken = match number {
                Ok(number) => lent.try_push(Lent { frame: i, lane: lane_index, number }).is_ok(),
                Err(why) => {
                    lane.count_copied(why);
                    link.finish(frame, software, |part| lane.put(part))
                }
            };
            if taken {
                (count, bytes) = (count + 1, bytes + u64::from(frame.len()));
            } else {
                lost += 1;
            }
            if port.capture.is_on() {
                let reason = (!taken).then_some(DropReason::HostError);
                port.capture_burst(std::slice::from_ref(frame), Direction::Egress, |_| reason);
            }
        }
        lane.flush();
        // The uplink's counters have one writer at a time.
        let queue = &link.queues[0];
        let _one_writer = queue.writing.lock();
        queue.to_kernel.forwarded(count, bytes);
        queue.to_kernel.dropped(DropReason::HostError, lost);
    }
}

impl Live {
    /// Completes what the kernel has sent of the frames lent to it; whether there is something to flush. While no frame
    /// sticks, the order of the ring is kept: docs/adr/0017.
    pub(super) fn settle(&mut self, now: Now) -> bool {
        if self.lanes.is_empty() {
            return false;
        }
        let mut count: usize = self.lanes.iter_mut().map(|lane| lane.settle(&mut self.queue, now)).sum();
        let Some(waited_for) = self.queue.waits_for() else {
            self.blocked = None;
            self.queue.keep_order();
            return count != 0;
        };
        match self.blocked {
            Some((sequence, since)) if sequence == waited_for => {
                if now.as_millis().saturating_sub(since.as_millis()) >= BLOCKED_MAX_MS {
                    self.queue.release_order();
                    count += 1;
                }
            }
            _ => self.blocked = Some((waited_for, now)),
        }
        count != 0
    }

    /// Whether it has lanes that are to be looked at again soon.
    pub(super) fn wants_looks(&self, now: Now) -> bool {
        self.lanes.iter().any(|lane| lane.wants_looks(now))
    }

    /// Closes those lanes that `stays` does not keep; their frames are completed, after a wait. Not for workers.
    pub(super) fn close_lanes(&mut self, now: Now, stays: impl Fn(&Lane) -> bool) {
        let (stay, go) = std::mem::take(&mut self.lanes).into_iter().partition(stays);
        self.lanes = stay;
        let go: Vec<Lane> = go;
        if go.is_empty() {
            return;
        }
        go.into_iter().for_each(|lane| lane.close(&mut self.queue, now));
        if self.lanes.is_empty() {
            self.queue.release_order();
        }
        if self.queue.flush() {
            self.call_once();
        }
    }
}

impl GuestPort {
    /// Has frames that stick in the kernel looked after, and lanes that lead nowhere.
    pub(super) fn tend_lanes(&self, port: &Port) {
        for (pair, queue) in self.transmit.iter().enumerate() {
            let Some(guard) = queue.live.try_lock() else { continue };
            let lanes = guard.as_ref().map(|live| live.lanes.as_slice()).unwrap_or_default();
            let is_waiting = lanes.iter().any(Lane::is_waiting);
            let broken = lanes.iter().any(Lane::is_broken);
            drop(guard);
            if is_waiting {
                port.poke(pair as u16);
            }
            if broken {
                self.attention.wake();
            }
        }
    }

    /// Opens the lanes that the transmit queue of virtqueue `index` can have and has not; closes those that lead nowhere any
    /// more. For the session.
    pub(super) fn open_lanes(
        &self,
        port: &Port,
        index: u16,
        memory: &Arc<GuestMemory>,
        acknowledged: Option<Acknowledged>,
        now: Now,
    ) {
        let Some((pair, slot)) = self.transmit_slot(index) else { return };
        let uplinks = uplinks(port);
        let leads_somewhere =
            |lane: &Lane| !lane.is_broken() && uplinks.iter().any(|lanes| lane.is_of(lanes));
        self.close_lanes(port, index, now, leads_somewhere);
        for lanes in &uplinks {
            let missing = |live: &Live| !live.lanes.iter().any(|lane| lane.is_of(lanes));
            let ring = slot.lock().as_ref().filter(|live| missing(live)).map(|live| {
                let is_guests = Arc::ptr_eq(&live.memory, memory);
                (live.queue.size().get(), is_guests)
            });
            let ring = ring.filter(|_| lanes.may_open(&port.name, pair));
            let Some((ring, is_guests)) = ring else { continue };
            if !is_guests {
                // There is nothing to lend: a frame was copied already.
                let why = "the guest's memory is reached by messages";
                lanes.refuse(&port.name, pair, Refused::lasting(why));
                continue;
            }
            if acknowledged.is_some_and(|acknowledged| acknowledged.has(Features::IN_ORDER)) {
                // One frame that sticks would hold up the ring: its completions have to be in order.
                let why = "the driver uses its ring in order (VIRTIO_F_IN_ORDER)";
                lanes.refuse(&port.name, pair, Refused::lasting(why));
                continue;
            }
            if let Some(lane) = lanes.open(&port.name, pair, memory, ring)
                && let Some(live) = slot.lock().as_mut()
            {
                lane.opened();
                live.lanes.push(lane);
            }
        }
    }

    /// Closes the lanes of a transmit queue that `stays` does not keep, and completes their frames. The queue stands still
    /// meanwhile. For the session.
    pub(super) fn close_lanes(&self, port: &Port, index: u16, now: Now, stays: impl Fn(&Lane) -> bool) {
        let Some((pair, slot)) = self.transmit_slot(index) else { return };
        let mut guard = slot.lock();
        if !guard.as_ref().is_some_and(|live| live.lanes.iter().any(|lane| !stays(lane))) {
            return;
        }
        // Workers do not wait for the lock while we wait for the kernel.
        let taken = guard.take();
        drop(guard);
        if let Some(mut live) = taken {
            live.close_lanes(now, stays);
            *slot.lock() = Some(live);
            // A worker may have looked meanwhile, found nothing and let the queue rest without asking for kicks.
            port.poke(pair);
        }
    }

    /// The memory or the queue is gone: what stood against lanes stands no more.
    pub(super) fn forget_lanes(&self, port: &Port, index: u16) {
        if let Some((pair, _)) = self.transmit_slot(index) {
            uplinks(port).iter().for_each(|lanes| lanes.forget(&port.name, pair));
        }
    }

    fn transmit_slot(&self, index: u16) -> Option<(u16, &Mutex<Option<Live>>)> {
        Some((index / 2, self.slot(index).filter(|_| !index.is_multiple_of(2))?))
    }
}

/// The uplinks beside a port that have lanes.
fn uplinks(port: &Port) -> Vec<Arc<Lanes>> {
    let ports = port.switch.ports.load();
    let lanes = |port: &Arc<Port>| match &port.attachment {
        Attachment::Link(link) => link.lanes().cloned(),
        Attachment::Guest(_) => None,
    };
    ports.iter().flatten().filter_map(lanes).collect()
}
