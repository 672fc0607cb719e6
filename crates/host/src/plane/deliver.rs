//! From opened frames to their receivers: decide for the burst, group by destination, deliver each group at once.
//!
//! Order: a group keeps the order of the burst, a destination has one group a burst, and a flow keeps to one receive queue,
//! so frames of one queue never overtake each other.

use super::Origin;
use super::backlog::FRAMES_MAX;
use super::calls::Calls;
use super::lanes::Lent;
use super::link::{Lane, LinkPort};
use super::port::{Attachment, GuestPort, Live, Port, ReceiveQueue, call};
use super::stats::{QueueStats, add};
use crate::capture::Direction;
use arrayvec::ArrayVec;
use devices::net::receive::deliver_burst;
use devices::net::{Delivered, Frame, HeadBuffer, Offload, Software, TagEdit};
use parking_lot::MutexGuard;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use switch::{
    ANSWER_MAX, Decision, DropReason, EthernetHead, Form, Head, Now, PortId, Reach, Tagging, Verdict, View,
    Vlan, flow_hash,
};
use virtqueue::Burst;

/// Frames handled together. A set of them is a `u32`.
pub(super) const BURST: usize = 32;

/// Frames of a burst, as a set: bit i stands for frame i.
pub(super) type Set = u32;

/// What one thread needs to deliver: memory that is used again for every burst.
pub(super) struct Deliverer {
    direct: bool,
    seed: u64,
    heads: Vec<Head<'static>>,
    buffers: Burst<'static>,
    /// A group that is not the whole burst.
    group: Vec<Frame<'static>>,
    /// Frames as they leave where the tag is another than the sender's, and their heads.
    retagged: Vec<Frame<'static>>,
    retagged_heads: Vec<HeadBuffer>,
    pub(super) software: Software,
    pub(super) calls: Calls,
    /// Ways to uplinks that bear frames without a copy, of the queue that is served; lent by it for a burst.
    pub(super) lanes: Vec<Lane>,
    /// Frames of the burst that have one receiver.
    pub(super) single: Set,
    /// Frames of the burst that the kernel reads on, lowest first when [`Self::switch`] returns.
    pub(super) lent: ArrayVec<Lent, BURST>,
}

/// A burst and what was decided for it.
#[derive(Clone, Copy)]
struct Decided<'b> {
    frames: &'b [Frame<'b>],
    heads: &'b [Head<'b>],
    decisions: &'b [Decision],
    view: &'b View<'b>,
    /// Whose tags the switch changes, if it does.
    tagging: Option<Tagging>,
    /// Counters of the queue that the burst came from.
    sender: &'b QueueStats,
}

impl Deliverer {
    pub(super) fn new(origin: Origin, calls: Calls) -> Self {
        Self {
            direct: origin.ways.direct,
            seed: origin.seed,
            heads: Vec::with_capacity(BURST),
            buffers: Burst::new(),
            group: Vec::with_capacity(BURST),
            retagged: Vec::with_capacity(BURST),
            retagged_heads: Vec::new(),
            software: Software::new(),
            lanes: Vec::new(),
            single: 0,
            lent: ArrayVec::new(),
            calls,
        }
    }

    /// Asks the bridge for the burst's verdicts and delivers each destination's frames together. `steering` names the
    /// queue pair that the burst was sent on, where receive follows transmit.
    pub(super) fn switch(
        &mut self,
        port: &Port,
        stats: &QueueStats,
        frames: &[Frame<'_>],
        now: Now,
        steering: Option<(&GuestPort, u16)>,
    ) {
        let mut heads = recycle_heads(std::mem::take(&mut self.heads));
        let mut bytes = 0;
        for frame in frames {
            // `open` has refused runts, so the head always parses.
            let Ok(head) = Head::parse(frame.head()) else { continue };
            heads.push(Head { units: frame.segments(), ..head });
            bytes += u64::from(frame.len());
            if let Some((guest, pair)) = steering {
                guest.steer(flow_hash(frame.head(), self.seed), pair);
            }
        }
        stats.forwarded(frames.len() as u64, bytes);
        let mut decisions = [Decision::drop(DropReason::NoReceiver); BURST];
        let view = port.switch.bridge.view();
        view.decide_burst(port.id, &heads, now, &mut decisions);
        let tagging = port.switch.bridge.config().tagging;
        let decisions = &decisions[..heads.len()];
        let burst = Decided { frames, heads: &heads, decisions, view: &view, tagging, sender: stats };

        let (mut single, mut flooded): (Set, Set) = (0, 0);
        for (index, decision) in decisions.iter().enumerate() {
            match decision.verdict {
                Verdict::Unicast(_) => single |= 1 << index,
                Verdict::Flood => flooded |= 1 << index,
                Verdict::Answer => self.answer(port, &burst, index),
                Verdict::Drop(reason) => stats.dropped(reason, 1),
            }
        }
        self.single = single;
        if port.capture.is_on() {
            port.capture_burst(frames, Direction::Ingress, |index| match decisions[index].verdict {
                Verdict::Drop(reason) => Some(reason),
                _ => None,
            });
        }
        let ports = port.switch.ports.load();
        if flooded != 0 {
            let reaches = reaches(port.id, &burst, flooded, now);
            if !self.lanes.is_empty() {
                self.single |= taken_once(&reaches, ports.iter().flatten().map(|target| target.id));
            }
            for target in ports.iter().flatten() {
                let takes = reaches.iter().filter(|(_, reach)| reach.takes(target.id));
                let group = takes.fold(bound_for(target.id, single, decisions), |set, (i, _)| set | 1 << i);
                single &= !group;
                self.deliver(&burst, target, group);
            }
        }
        while single != 0 {
            let Verdict::Unicast(out_port) = decisions[single.trailing_zeros() as usize].verdict else {
                break;
            };
            let group = bound_for(out_port, single, decisions);
            single &= !group;
            match ports.get(out_port.as_usize()) {
                Some(Some(target)) => self.deliver(&burst, target, group),
                _ => stats.dropped(DropReason::ReceiverDown, group.count_ones().into()),
            }
        }
        drop(view);
        self.lent.sort_unstable_by_key(|lent| lent.frame);
        self.heads = recycle_heads(heads);
    }

    /// Sends the switch's own answer to a question back to the port that asked.
    #[cold]
    fn answer(&mut self, port: &Port, burst: &Decided<'_>, index: usize) {
        let mut answer = [0; ANSWER_MAX];
        if let Some(len) = burst.view.answer(&burst.heads[index], &burst.decisions[index], &mut answer)
            && let Some(bytes) = answer.get(..len)
        {
            self.deliver_as_is(port, &[Frame::private(bytes, Offload::None)], 1);
        }
    }

    /// Gives a port its frames, each with the tag that it leaves with there.
    fn deliver(&mut self, burst: &Decided<'_>, target: &Port, group: Set) {
        if group == 0 {
            return;
        }
        let Some(tagging) = burst.tagging else { return self.deliver_as_is(target, burst.frames, group) };
        let mut buffers = std::mem::take(&mut self.retagged_heads);
        buffers.resize(BURST, [0; 256]);
        let mut frames = recycle_frames(std::mem::take(&mut self.retagged));
        let mut kept = group;
        for ((i, frame), buffer) in burst.frames.iter().enumerate().zip(&mut buffers) {
            let is_member = group >> i & 1 != 0;
            let edit = if is_member { tag_edit(burst, i, target.id, tagging) } else { None };
            frames.push(match edit.map(|edit| frame.retagged(edit, buffer)) {
                None => *frame,
                Some(Some(retagged)) => retagged,
                Some(None) => {
                    kept &= !(1 << i);
                    *frame
                }
            });
        }
        burst.sender.dropped(DropReason::BadOffload, (group & !kept).count_ones().into());
        self.deliver_as_is(target, &frames, kept);
        self.retagged = recycle_frames(frames);
        self.retagged_heads = buffers;
    }

    /// Gives a port those of `frames` that are in `group`.
    fn deliver_as_is(&mut self, target: &Port, frames: &[Frame<'_>], group: Set) {
        match &target.attachment {
            Attachment::Link(link) => self.deliver_to_link(target, link, frames, group),
            Attachment::Guest(guest) => {
                let wanted = wanted(guest, frames, group);
                drop_unheld(target, &guest.receive[0], DropReason::ReceiverFilter, frames, group & !wanted);
                match guest.ready.load(Relaxed) {
                    0 => drop_unheld(target, &guest.receive[0], DropReason::ReceiverDown, frames, wanted),
                    1 => self.deliver_to_queue(target, guest, &guest.receive[0], frames, wanted),
                    ready => self.deliver_by_flow(target, guest, ready, frames, wanted),
                }
            }
        }
    }

    /// Spreads frames over a guest's receive queues: a flow keeps to one.
    fn deliver_by_flow(
        &mut self,
        port: &Port,
        guest: &GuestPort,
        ready: u16,
        frames: &[Frame<'_>],
        group: Set,
    ) {
        let mut queues = [0u16; BURST];
        for i in members(group) {
            queues[i] = guest.receive_index(flow_hash(frames[i].head(), self.seed), ready);
        }
        let mut rest = group;
        while rest != 0 {
            let queue = queues[rest.trailing_zeros() as usize];
            let same = members(rest).filter(|&i| queues[i] == queue).fold(0, |set, i| set | 1 << i);
            rest &= !same;
            self.deliver_to_queue(port, guest, &guest.receive[usize::from(queue)], frames, same);
        }
    }

    /// Gives a receive queue its frames: straight into the guest's buffers, or behind what waits already.
    fn deliver_to_queue(
        &mut self,
        port: &Port,
        guest: &GuestPort,
        target: &ReceiveQueue,
        frames: &[Frame<'_>],
        group: Set,
    ) {
        let mut chosen = recycle_frames(std::mem::take(&mut self.group));
        // The common group is the whole burst; another one is gathered first.
        let group = if group.count_ones() as usize == frames.len() {
            frames
        } else {
            chosen.extend(members(group).map(|i| frames[i]));
            &chosen
        };
        let done = if self.direct { self.deliver_at_once(port, guest, target, group) } else { 0 };
        if done < group.len() {
            put_off(port, target, &group[done..]);
        }
        // Frames that others put off while we were in the queue are ours to deliver.
        if !self.direct {
            port.poke(target.pair);
        } else if !target.backlog.is_empty_after_all() {
            // Whoever is inside may be no worker, and then does not look here when he leaves.
            let guard = target.live.try_lock();
            if guard.is_none_or(|guard| self.drain(port, guest, target, guard)) {
                port.poke(target.pair);
            }
        }
        self.group = recycle_frames(chosen);
    }

    /// The fast way: nobody is in the queue, and nothing waits. One lock, one look for buffers, one call for the whole group.
    /// Returns how many frames are dealt with, the first ones.
    fn deliver_at_once(
        &mut self,
        port: &Port,
        guest: &GuestPort,
        target: &ReceiveQueue,
        group: &[Frame<'_>],
    ) -> usize {
        let Some(mut guard) = target.live.try_lock() else { return 0 };
        let Some(live) = running(&mut guard) else {
            // Counted like the port that has no queue at all: that count has many writers.
            drop_unheld(port, target, DropReason::ReceiverDown, group, all(group));
            return group.len();
        };
        if !target.backlog.is_empty() {
            return 0;
        }
        let left = self.fill(port, guest, target, live, group).left;
        let due = self.flush(guest, target, live);
        drop(guard);
        call(due);
        group.len() - left as usize
    }

    /// Delivers what waits for one of the guest's receive queues. For the worker that owns the pair. True: there is more.
    #[cold]
    pub(super) fn serve_backlog(&mut self, port: &Port, guest: &GuestPort, target: &ReceiveQueue) -> bool {
        self.drain(port, guest, target, target.live.lock()) && !target.wants_looks()
    }

    /// Delivers what waits for a receive queue, in order, as far as the driver has buffers. True: frames wait, and
    /// no kick will tell when to go on.
    #[cold]
    fn drain(
        &mut self,
        port: &Port,
        guest: &GuestPort,
        target: &ReceiveQueue,
        mut guard: MutexGuard<'_, Option<Live>>,
    ) -> bool {
        let Some(live) = running(&mut guard) else {
            drop_waiting(target, guard.as_mut());
            return false;
        };
        let waits_for_kick = self.drain_into(port, guest, target, live);
        if live.queue.fault().is_some() {
            drop_waiting(target, Some(live));
        }
        let due = self.flush(guest, target, live);
        drop(guard);
        call(due);
        !waits_for_kick && !target.backlog.is_empty_after_all()
    }

    /// The part of [`Self::drain`] in the queue. True: frames wait for buffers, and the driver will kick when it has some.
    fn drain_into(&mut self, port: &Port, guest: &GuestPort, target: &ReceiveQueue, live: &mut Live) -> bool {
        // So many bursts empty a full line.
        for _ in 0..FRAMES_MAX.div_ceil(BURST) {
            let taken = target.backlog.take::<BURST>();
            let frames = taken.frames();
            let delivered = self.fill(port, guest, target, live, &frames);
            let mut done = frames.len() - delivered.left as usize;
            add(&target.stats.misses, delivered.frames.into());
            if delivered.short {
                // Buffers, but too few for the next frame. No kick would tell of more: it goes, and the rest of the burst, as
                // a look at all these buffers costs too much to be done for each frame.
                let lost = &frames[done..];
                drop_unheld(port, target, DropReason::ReceiverFull, lost, all(lost));
                done = frames.len();
            }
            let is_stuck = done < frames.len();
            drop(frames);
            let waits = taken.finish(done);
            if live.queue.fault().is_some() {
                return false;
            }
            if !waits {
                live.queue.disable_notify();
                return false;
            }
            if is_stuck && !live.queue.enable_notify() {
                return !live.polled;
            }
        }
        false
    }

    /// Writes frames into a guest's buffers, and counts those that are lost. Only those that it says are left are still to be
    /// dealt with.
    fn fill(
        &mut self,
        port: &Port,
        guest: &GuestPort,
        target: &ReceiveQueue,
        live: &mut Live,
        group: &[Frame<'_>],
    ) -> Delivered {
        let stats = &target.stats;
        let Live { queue, memory, rules, .. } = live;
        let mut buffers = std::mem::take(&mut self.buffers).recycle();
        let filled = deliver_burst(queue, memory, &mut buffers, &rules.receive, &mut self.software, group);
        self.buffers = buffers.recycle();
        let (delivered, lost, reason) = match filled {
            Ok(delivered) => {
                count_delivered(stats, &delivered);
                (delivered, delivered.lost() as usize, DropReason::ReceiverFull)
            }
            Err(_) => {
                stats.dropped(DropReason::ReceiverFault, group.len() as u64);
                (Delivered::default(), group.len(), DropReason::ReceiverFault)
            }
        };
        if let Some(fault) = queue.fault() {
            stats.faulted(fault);
            guest.attention.wake();
        }
        if port.capture.is_on() {
            let done = &group[..group.len() - delivered.left as usize];
            let first_lost = done.len().saturating_sub(lost);
            port.capture_burst(done, Direction::Egress, |index| (index >= first_lost).then_some(reason));
        }
        delivered
    }

    /// Publishes what was filled; what to call for it now.
    #[inline]
    fn flush(&mut self, guest: &GuestPort, target: &ReceiveQueue, live: &mut Live) -> Option<Arc<OwnedFd>> {
        let fd = live.flush();
        self.calls.admit(fd, guest.call_interval(), &mut live.moderation, &target.stats)
    }

    /// Hands frames to an interface of the host.
    fn deliver_to_link(&mut self, port: &Port, link: &LinkPort, frames: &[Frame<'_>], group: Set) {
        if let Some(lanes) = link.lanes()
            && let Some(lane) = self.lanes.iter().position(|lane| lane.is_of(lanes))
        {
            return self.deliver_to_lane(port, link, lane, frames, group);
        }
        let count = link.queues.len();
        let mut queues = [0u16; BURST];
        if count > 1 {
            for i in members(group) {
                queues[i] = (flow_hash(frames[i].head(), self.seed) as usize % count) as u16;
            }
        }
        let mut rest = group;
        while rest != 0 {
            let index = queues[rest.trailing_zeros() as usize];
            let same = members(rest).filter(|&i| queues[i] == index).fold(0, |set, i| set | 1 << i);
            rest &= !same;
            let queue = &link.queues[usize::from(index)];
            let _one_writer = queue.writing.lock();
            for frame in members(same).map(|i| &frames[i]) {
                let taken = link.write(queue, frame, &mut self.software);
                if taken {
                    queue.to_kernel.forwarded(1, frame.len().into());
                } else {
                    queue.to_kernel.dropped(DropReason::HostError, 1);
                }
                if port.capture.is_on() {
                    let reason = (!taken).then_some(DropReason::HostError);
                    port.capture_burst(std::slice::from_ref(frame), Direction::Egress, |_| reason);
                }
            }
            link.flush(queue);
        }
    }
}

/// Where the flooded frames of a burst go.
fn reaches<'b>(
    in_port: PortId,
    burst: &Decided<'b>,
    flooded: Set,
    now: Now,
) -> ArrayVec<(usize, Reach<'b>), BURST> {
    let reach = |i| (i, burst.view.reach(in_port, &burst.heads[i], &burst.decisions[i], now));
    members(flooded).map(reach).collect()
}

/// Those flooded frames that one port alone takes.
fn taken_once(reaches: &[(usize, Reach<'_>)], ports: impl Iterator<Item = PortId>) -> Set {
    let (mut once, mut again) = (0, 0);
    for port in ports {
        let takes = reaches.iter().filter(|(_, reach)| reach.takes(port)).fold(0, |set, (i, _)| set | 1 << i);
        again |= once & takes;
        once |= takes;
    }
    once & !again
}

/// Those of `set` that go to `out_port` alone.
fn bound_for(out_port: PortId, set: Set, decisions: &[Decision]) -> Set {
    let is_bound = |decision: &Decision| Set::from(decision.verdict == Verdict::Unicast(out_port));
    decisions.iter().enumerate().fold(0, |group, (i, decision)| group | is_bound(decision) << i) & set
}

/// How the tag of a frame changes on its way out of a port.
fn tag_edit(burst: &Decided<'_>, index: usize, out_port: PortId, tagging: Tagging) -> Option<TagEdit> {
    let decision = &burst.decisions[index];
    let tag = burst.heads[index].ethernet.tag.filter(|tag| tag.tagging == tagging);
    match (burst.view.form(out_port, decision), tag) {
        (Form::AsIs, _) | (Form::Untagged, None) => None,
        (Form::Untagged, Some(_)) => Some(TagEdit::Pop),
        (Form::Tagged, tag) => {
            let vlan = decision.vlan?.get();
            match tag {
                None => Some(TagEdit::Push { tpid: tagging.tpid(), tci: vlan }),
                Some(tag) if tag.vid() == vlan => None,
                Some(tag) => Some(TagEdit::Rewrite { tci: tag.tci & !0xfff | vlan }),
            }
        }
    }
}

/// Those of `group` that pass the driver's own filter.
fn wanted(guest: &GuestPort, frames: &[Frame<'_>], group: Set) -> Set {
    let Some(filter) = &*guest.filter.load() else { return group };
    let passes = |&i: &usize| {
        EthernetHead::parse(frames[i].head())
            .is_ok_and(|head| filter.accepts_frame(head.dst.0, head.vlan().map(Vlan::get)))
    };
    members(group).filter(passes).fold(0, |set, i| set | 1 << i)
}

/// Drops frames at a receive queue that is not held.
fn drop_unheld(port: &Port, queue: &ReceiveQueue, reason: DropReason, frames: &[Frame<'_>], group: Set) {
    if group == 0 {
        return;
    }
    queue.stats.dropped_unheld(reason, group.count_ones().into());
    if port.capture.is_on() {
        let lost: ArrayVec<Frame<'_>, BURST> = members(group).map(|i| frames[i]).collect();
        port.capture_burst(&lost, Direction::Egress, |_| Some(reason));
    }
}

/// Has frames wait for a receive queue, or drops those for which there is no room to wait.
#[cold]
fn put_off(port: &Port, target: &ReceiveQueue, frames: &[Frame<'_>]) {
    let kept = target.backlog.put(frames);
    let lost = &frames[kept..];
    drop_unheld(port, target, DropReason::ReceiverFull, lost, all(lost));
}

/// Drops what waits for a receive queue that does not run; for who is inside.
fn drop_waiting(target: &ReceiveQueue, live: Option<&mut Live>) {
    if let Some(live) = live {
        live.queue.disable_notify();
    }
    target.drop_waiting();
}

/// What runs in a receive queue, if frames can be put into it.
fn running(live: &mut Option<Live>) -> Option<&mut Live> {
    live.as_mut().filter(|live| live.enabled && live.queue.fault().is_none())
}

/// All frames of a list, which is no longer than a burst.
fn all(frames: &[Frame<'_>]) -> Set {
    members(Set::MAX).take(frames.len()).fold(0, |set, i| set | 1 << i)
}

fn count_delivered(stats: &QueueStats, delivered: &Delivered) {
    stats.forwarded(delivered.frames.into(), delivered.bytes);
    if delivered.lost() != 0 {
        // What is dropped at a full backlog is counted here as well, by many.
        stats.dropped_unheld(DropReason::ReceiverFull, delivered.lost().into());
    }
    if delivered.too_long != 0 {
        stats.dropped(DropReason::ReceiverTooSmall, delivered.too_long.into());
    }
}

/// The members of a set, lowest first.
#[inline]
pub(super) fn members(set: Set) -> impl Iterator<Item = usize> {
    let mut rest = set;
    std::iter::from_fn(move || {
        let index = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (index < Set::BITS).then_some(index as usize)
    })
}

/// The same allocation for another burst's lifetimes: empties it; the collection happens in place.
pub(super) fn recycle_frames<'b>(mut frames: Vec<Frame<'_>>) -> Vec<Frame<'b>> {
    frames.clear();
    frames.into_iter().map(|_| Frame::private(&[], Offload::None)).collect()
}

/// As [`recycle_frames`].
fn recycle_heads<'b>(mut heads: Vec<Head<'_>>) -> Vec<Head<'b>> {
    heads.clear();
    heads.into_iter().map(|head| Head { ethernet: head.ethernet, bytes: &[], units: head.units }).collect()
}
