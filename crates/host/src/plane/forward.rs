//! A frame's way, top to bottom: pop a burst, open the headers, decide, deliver grouped by destination, complete.
//!
//! One copy: the sender's buffers are read once, straight into the receiver's buffers (or by the kernel, for a tap).
//! Only a frame whose offload its receiver did not negotiate is copied into private memory, finished there, and
//! delivered from there. Order: a group keeps the order of the burst, a destination has one group a burst, and a flow
//! keeps to one receive queue, so frames of one queue never overtake each other.

use super::Origin;
use super::port::{Attachment, GuestPort, Live, Port, ReceiveQueue, Source, call};
use super::stats::QueueStats;
use super::tap::TapPort;
use devices::net::receive::deliver_burst;
use devices::net::{Delivered, Frame, HeadBuffer, HeaderFault, Offload, Software, transmit};
use guestmem::{MemSlice, sigbus};
use std::sync::atomic::Ordering::Relaxed;
use switch::{DropReason, EthernetHead, Now, PortId, Verdict, Vlan, flow_hash};
use virtqueue::Burst;

/// Frames handled together. A set of them is a `u32`.
pub(super) const BURST: usize = 32;

/// Frames of a burst, as a set: bit i stands for frame i.
type Set = u32;

/// The longest frame taken from a tap, header included, in bytes.
const TAP_FRAME_MAX: usize = 65_536 + 64;

/// What one thread needs to forward: memory that is used again for every burst.
pub(super) struct Forwarder {
    now: Now,
    seed: u64,
    deaths: u64,
    popped: Burst<'static>,
    heads: Box<[HeadBuffer; BURST]>,
    frames: Vec<Frame<'static>>,
    tap_frames: Vec<Box<[u8]>>,
    out: Deliverer,
}

/// The delivering half: separate, so that frames may borrow the other one.
struct Deliverer {
    ethernet: Vec<EthernetHead>,
    verdicts: [Verdict; BURST],
    buffers: Burst<'static>,
    /// A group that is not the whole burst.
    group: Vec<Frame<'static>>,
    software: Software,
}

impl Forwarder {
    pub(super) fn new(origin: Origin) -> Self {
        Self {
            now: origin.now(),
            seed: origin.seed,
            deaths: sigbus::deaths(),
            popped: Burst::new(),
            heads: Box::new([[0; 256]; BURST]),
            frames: Vec::with_capacity(BURST),
            tap_frames: Vec::new(),
            out: Deliverer {
                ethernet: Vec::with_capacity(BURST),
                verdicts: [Verdict::Drop(DropReason::NoReceiver); BURST],
                buffers: Burst::new(),
                group: Vec::with_capacity(BURST),
                software: Software::new(),
            },
        }
    }

    /// Tells what time it is; once a round.
    pub(super) fn set_time(&mut self, now: Now) {
        self.now = now;
    }

    /// Serves a source once; returns how many frames or chains were handled.
    pub(super) fn serve(&mut self, source: &Source) -> usize {
        match &source.port.attachment {
            Attachment::Guest(guest) => self.forward_burst(&source.port, guest, source.index),
            Attachment::Tap(tap) => self.forward_from_tap(&source.port, tap, source.index),
        }
    }

    /// One burst of a guest's transmit queue.
    fn forward_burst(&mut self, port: &Port, guest: &GuestPort, pair: u16) -> usize {
        let transmit_queue = &guest.transmit[usize::from(pair)];
        let stats = &transmit_queue.stats;
        let mut guard = transmit_queue.live.lock();
        let Some(live) = guard.as_mut().filter(|live| live.queue.fault().is_none()) else { return 0 };
        let Live { queue, memory, rules, enabled, .. } = live;

        let mut popped = std::mem::take(&mut self.popped).recycle();
        let count = queue.pop(memory, &mut popped, BURST).unwrap_or(0);
        // A fault behind good chains shows at once too; the queue is not looked at again.
        if let Some(fault) = queue.fault() {
            stats.faulted(fault);
            guest.attention.wake();
        }
        if count == 0 {
            self.popped = popped.recycle();
            return 0;
        }
        queue.disable_notify();

        let mut frames = recycle(std::mem::take(&mut self.frames));
        // A disabled transmit queue is emptied and its frames thrown away (vhost-user, "ring states").
        let opened = if *enabled { popped.chains() } else { &[] };
        stats.dropped(DropReason::SenderDisabled, (count - opened.len()) as u64);
        for (chain, head) in opened.iter().zip(self.heads.iter_mut()) {
            match transmit::open(&rules.transmit, &popped, chain, head) {
                Ok(frame) => frames.push(frame),
                Err(fault) => stats.dropped(drop_reason(fault), 1),
            }
        }
        let steering = (guest.transmit.len() > 1).then_some((guest, pair));
        self.out.switch(port, stats, &frames, self.now, self.seed, steering);
        self.frames = recycle(frames);

        while let Some(chain) = popped.take() {
            queue.complete(&popped, chain, 0);
        }
        self.popped = popped.recycle();
        let due = live.flush(stats);
        drop(guard);
        call(due);
        count
    }

    /// Up to a burst of frames that the kernel sends through a tap.
    fn forward_from_tap(&mut self, port: &Port, tap: &TapPort, index: u16) -> usize {
        let queue = &tap.queues[usize::from(index)];
        if self.tap_frames.is_empty() {
            self.tap_frames.resize_with(BURST, || vec![0; TAP_FRAME_MAX].into());
        }
        let mut bodies: [MemSlice<'_>; BURST] = [MemSlice::empty(); BURST];
        let mut count = 0;
        for (buffer, body) in self.tap_frames.iter_mut().zip(&mut bodies) {
            let Some(len) = queue.read(buffer) else { break };
            *body = MemSlice::from_mut(&mut buffer[..len]);
            count += 1;
        }
        let mut frames = recycle(std::mem::take(&mut self.frames));
        for (body, head) in bodies[..count].iter().zip(self.heads.iter_mut()) {
            match transmit::open_segments(&tap.rules, std::slice::from_ref(body), body.len() as u32, head) {
                Ok(frame) => frames.push(frame),
                Err(fault) => queue.from_kernel.dropped(drop_reason(fault), 1),
            }
        }
        self.out.switch(port, &queue.from_kernel, &frames, self.now, self.seed, None);
        self.frames = recycle(frames);
        count
    }

    /// Sends one private frame into the switch as if `port` had sent it; for announcements.
    pub(super) fn forward_private(&mut self, port: &Port, stats: &QueueStats, frame: &[u8]) {
        self.out.switch(port, stats, &[Frame::private(frame, Offload::None)], self.now, self.seed, None);
    }

    /// If any mapping died since the last look, wakes the sessions: the one that owns it closes.
    pub(super) fn check_deaths(&mut self, sources: &[Option<Source>]) {
        let deaths = sigbus::deaths();
        if deaths == self.deaths {
            return;
        }
        self.deaths = deaths;
        for source in sources.iter().flatten() {
            for port in source.port.switch.ports.load().iter().flatten() {
                if let Attachment::Guest(guest) = &port.attachment {
                    guest.attention.wake();
                }
            }
        }
    }
}

impl Deliverer {
    /// Asks the bridge for the burst's verdicts and delivers each destination's frames together.
    fn switch(
        &mut self,
        port: &Port,
        stats: &QueueStats,
        frames: &[Frame<'_>],
        now: Now,
        seed: u64,
        steering: Option<(&GuestPort, u16)>,
    ) {
        self.ethernet.clear();
        let mut bytes = 0;
        for frame in frames {
            // `open` has refused runts, so the head always parses.
            let Ok(head) = EthernetHead::parse(frame.head()) else { continue };
            self.ethernet.push(head);
            bytes += u64::from(frame.len());
            if let Some((guest, pair)) = steering {
                guest.steer(flow_hash(frame.head(), seed), pair);
            }
        }
        stats.forwarded(frames.len() as u64, bytes);
        port.switch.bridge.decide_burst(port.id, &self.ethernet, now, &mut self.verdicts);

        let (mut single, mut flooded): (Set, Set) = (0, 0);
        for (index, (verdict, head)) in self.verdicts.iter_mut().zip(&self.ethernet).enumerate() {
            if port.locked_to.is_some_and(|mac| head.src != mac.into()) {
                *verdict = Verdict::Drop(DropReason::SourceTaken);
            }
            match verdict {
                Verdict::Unicast(_) => single |= 1 << index,
                Verdict::Flood => flooded |= 1 << index,
                Verdict::Drop(reason) => stats.dropped(*reason, 1),
            }
        }
        let ports = port.switch.ports.load();
        if flooded != 0 {
            for target in ports.iter().flatten().filter(|target| target.id != port.id) {
                let group = self.bound_for(target.id, single) | self.reaching(target, flooded);
                single &= !group;
                self.deliver(target, frames, group, seed);
            }
        }
        while single != 0 {
            let Verdict::Unicast(out_port) = self.verdicts[single.trailing_zeros() as usize] else { break };
            let group = self.bound_for(out_port, single);
            single &= !group;
            match ports.get(out_port.as_usize()) {
                Some(Some(target)) => self.deliver(target, frames, group, seed),
                _ => stats.dropped(DropReason::ReceiverDown, group.count_ones().into()),
            }
        }
    }

    /// Those of `set` that go to `out_port` alone.
    fn bound_for(&self, out_port: PortId, set: Set) -> Set {
        members(set)
            .filter(|&i| self.verdicts[i] == Verdict::Unicast(out_port))
            .fold(0, |group, i| group | 1 << i)
    }

    /// Those of `flooded` that `target` takes.
    fn reaching(&self, target: &Port, flooded: Set) -> Set {
        let takes = |i: &usize| target.switch.bridge.flood_reaches(target.id, &self.ethernet[*i]);
        members(flooded).filter(takes).fold(0, |group, i| group | 1 << i)
    }

    /// Gives a port its frames.
    fn deliver(&mut self, target: &Port, frames: &[Frame<'_>], group: Set, seed: u64) {
        if group == 0 {
            return;
        }
        match &target.attachment {
            Attachment::Tap(tap) => self.deliver_to_tap(tap, frames, group, seed),
            Attachment::Guest(guest) => {
                let group = self.wanted(guest, group);
                match guest.ready.load(Relaxed) {
                    0 => guest.receive[0]
                        .stats
                        .dropped_unheld(DropReason::ReceiverDown, group.count_ones().into()),
                    1 => self.deliver_to_queue(guest, &guest.receive[0], frames, group),
                    ready => self.deliver_by_flow(guest, ready, frames, group, seed),
                }
            }
        }
    }

    /// Those of `group` that pass the driver's own filter.
    fn wanted(&self, guest: &GuestPort, group: Set) -> Set {
        let Some(filter) = &*guest.filter.load() else { return group };
        let passes = |&i: &usize| {
            let head = &self.ethernet[i];
            filter.accepts_frame(head.dst.0, head.vlan.map(Vlan::get))
        };
        let wanted = members(group).filter(passes).fold(0, |set, i| set | 1 << i);
        if wanted != group {
            let unwanted = (group & !wanted).count_ones();
            guest.receive[0].stats.dropped_unheld(DropReason::ReceiverFilter, unwanted.into());
        }
        wanted
    }

    /// Spreads frames over a guest's receive queues: a flow keeps to one.
    fn deliver_by_flow(
        &mut self,
        guest: &GuestPort,
        ready: u16,
        frames: &[Frame<'_>],
        group: Set,
        seed: u64,
    ) {
        let mut queues = [0u16; BURST];
        for i in members(group) {
            queues[i] = guest.receive_index(flow_hash(frames[i].head(), seed), ready);
        }
        let mut rest = group;
        while rest != 0 {
            let queue = queues[rest.trailing_zeros() as usize];
            let same = members(rest).filter(|&i| queues[i] == queue).fold(0, |set, i| set | 1 << i);
            rest &= !same;
            self.deliver_to_queue(guest, &guest.receive[usize::from(queue)], frames, same);
        }
    }

    /// Gives a receive queue its frames: one lock, one look for buffers, one call for the whole group.
    fn deliver_to_queue(
        &mut self,
        guest: &GuestPort,
        target: &ReceiveQueue,
        frames: &[Frame<'_>],
        group: Set,
    ) {
        let stats = &target.stats;
        let mut guard = target.live.lock();
        let Some(live) = guard.as_mut().filter(|live| live.enabled && live.queue.fault().is_none()) else {
            // Counted like the port that has no queue at all: that count has many writers.
            stats.dropped_unheld(DropReason::ReceiverDown, group.count_ones().into());
            return;
        };
        let Live { queue, memory, rules, .. } = live;
        let mut buffers = std::mem::take(&mut self.buffers).recycle();
        let mut chosen = recycle(std::mem::take(&mut self.group));
        // The common group is the whole burst; another one is gathered first.
        let group = if group.count_ones() as usize == frames.len() {
            frames
        } else {
            chosen.extend(members(group).map(|i| frames[i]));
            &chosen
        };
        match deliver_burst(queue, memory, &mut buffers, &rules.receive, &mut self.software, group) {
            Ok(delivered) => count_delivered(stats, &delivered),
            Err(_) => stats.dropped(DropReason::ReceiverFault, group.len() as u64),
        }
        if let Some(fault) = queue.fault() {
            stats.faulted(fault);
            guest.attention.wake();
        }
        self.group = recycle(chosen);
        self.buffers = buffers.recycle();
        let due = live.flush(stats);
        drop(guard);
        call(due);
    }

    /// Hands frames to the kernel, one system call each.
    fn deliver_to_tap(&mut self, tap: &TapPort, frames: &[Frame<'_>], group: Set, seed: u64) {
        for i in members(group) {
            let frame = &frames[i];
            let index = if tap.queues.len() == 1 {
                0
            } else {
                flow_hash(frame.head(), seed) as usize % tap.queues.len()
            };
            let queue = &tap.queues[index];
            let _one_writer = queue.writing.lock();
            if tap.write(queue, frame, &mut self.software) {
                queue.to_kernel.forwarded(1, frame.len().into());
            } else {
                queue.to_kernel.dropped(DropReason::HostError, 1);
            }
        }
    }
}

fn count_delivered(stats: &QueueStats, delivered: &Delivered) {
    stats.forwarded(delivered.frames.into(), delivered.bytes);
    if delivered.no_buffers != 0 {
        stats.dropped(DropReason::ReceiverFull, delivered.no_buffers.into());
    }
    if delivered.too_long != 0 {
        stats.dropped(DropReason::ReceiverTooSmall, delivered.too_long.into());
    }
}

fn drop_reason(fault: HeaderFault) -> DropReason {
    match fault {
        HeaderFault::Runt => DropReason::Runt,
        HeaderFault::Oversize => DropReason::Oversize,
        _ => DropReason::BadOffload,
    }
}

/// The members of a set, lowest first.
#[inline]
fn members(set: Set) -> impl Iterator<Item = usize> {
    let mut rest = set;
    std::iter::from_fn(move || {
        let index = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (index < Set::BITS).then_some(index as usize)
    })
}

/// The same allocation for another burst's lifetimes: empties it; the collection happens in place.
fn recycle<'b>(mut frames: Vec<Frame<'_>>) -> Vec<Frame<'b>> {
    frames.clear();
    frames.into_iter().map(|_| Frame::private(&[], Offload::None)).collect()
}
