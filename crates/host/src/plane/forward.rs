//! A frame's way, top to bottom: pop a burst, open the headers, then [`Deliverer::switch`] decides and delivers, complete.
//!
//! One copy: the sender's buffers are read once, straight into the receiver's buffers (or by the kernel, for an
//! interface of the host). Only a frame whose offload its receiver did not negotiate is copied into private memory,
//! finished there, and delivered from there.

use super::Origin;
use super::calls::Calls;
use super::deliver::{BURST, Deliverer, Set, recycle_frames};
use super::link::LinkPort;
use super::port::{Attachment, GuestPort, Live, Port, call};
use super::source::Source;
use super::stats::{QueueStats, add};
use devices::net::{Frame, HeadBuffer, HeaderFault, Offload, TransmitRules, transmit};
use guestmem::{MemSlice, sigbus};
use std::time::Instant;
use switch::{DropReason, Now};
use virtqueue::Burst;

/// The longest frame taken from an interface of the host, header included, in bytes.
const LINK_FRAME_MAX: usize = 65_536 + 64;

/// What one thread needs to forward: memory that is used again for every burst.
pub(super) struct Forwarder {
    now: Now,
    deaths: u64,
    popped: Burst<'static>,
    heads: Box<[HeadBuffer; BURST]>,
    frames: Vec<Frame<'static>>,
    link_frames: Vec<Box<[u8]>>,
    out: Deliverer,
}

impl Forwarder {
    /// For a worker, which makes the calls that are put off.
    pub(super) fn for_worker(origin: Origin) -> Self {
        Self::new(origin, Deliverer::new(origin, Calls::new(true)))
    }

    /// For who forwards a frame now and then.
    pub(super) fn for_session(origin: Origin) -> Self {
        Self::new(origin, Deliverer::new(origin, Calls::new(false)))
    }

    fn new(origin: Origin, out: Deliverer) -> Self {
        Self {
            now: origin.now(),
            deaths: sigbus::deaths(),
            popped: Burst::new(),
            heads: Box::new([[0; 256]; BURST]),
            frames: Vec::with_capacity(BURST),
            link_frames: Vec::new(),
            out,
        }
    }

    /// Tells what time it is, as the switch counts it.
    pub(super) fn set_time(&mut self, now: Now) {
        self.now = now;
    }

    /// What time it was when the round began.
    pub(super) fn time(&self) -> Now {
        self.now
    }

    /// A worker's round begins at `moment`: what was put off until now is done.
    #[inline]
    pub(super) fn begin_round(&mut self, now: Now, moment: Instant) {
        self.now = now;
        if self.out.calls.next_due().is_some() {
            self.out.calls.make_due(Some(moment));
        }
    }

    /// When something is due that was put off.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.out.calls.next_due()
    }

    /// The last round is over: nothing stays put off.
    pub(super) fn end(&mut self) {
        self.out.calls.make_due(None);
    }

    /// Serves a source once, with `frames` frames at most; returns how many frames or chains were handled.
    pub(super) fn serve(&mut self, port: &Port, index: u16, frames: usize) -> usize {
        match &port.attachment {
            Attachment::Guest(guest) => {
                let receive = &guest.receive[usize::from(index)];
                let more = !receive.backlog.is_empty() && self.out.serve_backlog(port, guest, receive);
                self.forward_burst(port, guest, index, frames) + usize::from(more)
            }
            Attachment::Link(link) => self.forward_from_link(port, link, index, frames),
        }
    }

    /// One burst of a guest's transmit queue.
    fn forward_burst(&mut self, port: &Port, guest: &GuestPort, pair: u16, frames_max: usize) -> usize {
        let transmit_queue = &guest.transmit[usize::from(pair)];
        let stats = &transmit_queue.stats;
        let mut guard = transmit_queue.live.lock();
        let Some(live) = guard.as_mut().filter(|live| live.is_touched()) else { return 0 };
        let settled = live.settle(self.now);
        let Live { queue, memory, rules, enabled, lanes, .. } = live;

        let mut popped = std::mem::take(&mut self.popped).recycle();
        let count = queue.pop(memory, &mut popped, frames_max).unwrap_or(0);
        // A fault behind good chains shows at once too; the queue is not looked at again.
        if let Some(fault) = queue.fault() {
            stats.faulted(fault);
            guest.attention.wake();
        }
        if count == 0 {
            self.popped = popped.recycle();
            let due = if settled { live.flush() } else { None };
            add(&stats.calls, u64::from(due.is_some()));
            drop(guard);
            call(due);
            return 0;
        }
        queue.disable_notify();

        let mut frames = recycle_frames(std::mem::take(&mut self.frames));
        // A front-end's disabled transmit queue is emptied and its frames thrown away (vhost-user, "ring states").
        let opened = if *enabled { popped.chains() } else { &[] };
        stats.dropped(DropReason::SenderDisabled, (count - opened.len()) as u64);
        // Chains that bear no frame.
        let mut broken: Set = 0;
        for (index, (chain, head)) in opened.iter().zip(self.heads.iter_mut()).enumerate() {
            match transmit::open(&rules.transmit, &popped, chain, head) {
                Ok(frame) => frames.push(frame),
                Err(fault) => {
                    broken |= 1 << index;
                    stats.dropped(drop_reason(fault), 1);
                }
            }
        }
        let steering = (guest.transmit.len() > 1).then_some((guest, pair));
        std::mem::swap(&mut self.out.lanes, lanes);
        self.out.switch(port, stats, &frames, self.now, steering);
        std::mem::swap(&mut self.out.lanes, lanes);
        self.frames = recycle_frames(frames);

        if self.out.lent.is_empty() {
            queue.complete_rest(&mut popped);
        } else {
            let mut lent = self.out.lent.drain(..).peekable();
            let mut frame = 0;
            for index in 0..count {
                let Some(chain) = popped.take() else { break };
                let is_frame = broken >> index & 1 == 0;
                match lent.next_if(|lent| is_frame && lent.frame == frame) {
                    Some(lent) => lanes[lent.lane].hold(lent.number, queue.detach(chain), self.now),
                    None => queue.complete(&popped, chain, 0),
                }
                frame += usize::from(is_frame);
            }
        }
        self.popped = popped.recycle();
        live.settle(self.now);
        let due = live.flush();
        add(&stats.calls, u64::from(due.is_some()));
        drop(guard);
        call(due);
        count
    }

    /// Up to a burst of frames from an interface of the host.
    fn forward_from_link(&mut self, port: &Port, link: &LinkPort, index: u16, frames_max: usize) -> usize {
        let queue = &link.queues[usize::from(index)];
        let _one_reader = queue.reading.lock();
        let mut buffers = std::mem::take(&mut self.link_frames);
        if buffers.is_empty() {
            buffers.resize_with(BURST, || vec![0; LINK_FRAME_MAX].into());
        }
        let mut bodies: [MemSlice<'_>; BURST] = [MemSlice::empty(); BURST];
        let mut count = 0;
        for (buffer, body) in buffers.iter_mut().zip(&mut bodies).take(frames_max) {
            let Some(len) = queue.read(buffer) else { break };
            *body = MemSlice::from_mut(&mut buffer[..len]);
            count += 1;
        }
        self.forward_bodies(port, &link.rules, &queue.from_kernel, &bodies[..count]);
        self.link_frames = buffers;
        count
    }

    /// A burst of frames in private memory, each behind a virtio header.
    pub(super) fn forward_bodies(
        &mut self,
        port: &Port,
        rules: &TransmitRules,
        stats: &QueueStats,
        bodies: &[MemSlice<'_>],
    ) {
        let mut frames = recycle_frames(std::mem::take(&mut self.frames));
        for (body, head) in bodies.iter().zip(self.heads.iter_mut()) {
            match transmit::open_segments(rules, std::slice::from_ref(body), body.len() as u32, head) {
                Ok(frame) => frames.push(frame),
                Err(fault) => stats.dropped(drop_reason(fault), 1),
            }
        }
        self.out.switch(port, stats, &frames, self.now, None);
        self.frames = recycle_frames(frames);
    }

    /// Sends one private frame into the switch as if `port` had sent it; for announcements.
    pub(super) fn forward_private(&mut self, port: &Port, stats: &QueueStats, frame: &[u8]) {
        self.out.switch(port, stats, &[Frame::private(frame, Offload::None)], self.now, None);
    }

    /// If any mapping died since the last look, wakes the sessions: the one that owns it closes.
    pub(super) fn check_deaths(&mut self, sources: &[Option<Source>]) {
        let deaths = sigbus::deaths();
        if deaths == self.deaths {
            return;
        }
        self.deaths = deaths;
        for source in sources.iter().flatten() {
            match source {
                Source::Disk(disk, _) => disk.attention.wake(),
                Source::Port(port, _) => port.switch.wake_sessions(),
            }
        }
    }
}

fn drop_reason(fault: HeaderFault) -> DropReason {
    match fault {
        HeaderFault::Runt => DropReason::Runt,
        HeaderFault::Oversize => DropReason::Oversize,
        _ => DropReason::BadOffload,
    }
}
