//! What a hog leaves to the others on its worker: a victim keeps its half of the time, and its requests wait for a turn of the
//! hog, not for what the hog has to send.
//!
//! Both send to one receiver, whose used ring is a record of whom the worker served in which order; senders and receiver are
//! told apart by the lengths of their frames. Rings are so long that nothing has to be filled while it is counted, so what else
//! runs on this machine changes how long a test takes, not what it counts. Time is what the plane has accounted to the queues;
//! a frame's is the least that it took, because a worker that loses its CPU charges the queue it was serving.

mod station;

use devices::net::Features;
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, Region};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use station::{Lab, PATIENCE, connect, frame, negotiate, plain};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtqueue::{DriverQueue, QueueSetup, QueueSize, RingFeatures};
use vmm_sys_util::eventfd::EventFd;

/// One worker on the first CPU; the guests are on the last one.
const MODES: [&str; 2] =
    ["mode = \"pool\"\nthreads = 1\ncpus = [0]", "mode = \"sidecore\"\nthreads = 1\ncpus = [0]"];
/// Queues of the hog.
const QUEUES: usize = 4;
const HEADER: u32 = 12;
/// Bytes of a victim's frame and of a hog's short and long one. No two are the same.
const VICTIM: u32 = 64;
const SHORT: u32 = 60;
const LONG: u32 = 65_000;
/// What the plane promises (`plane/share.rs`, `plane/polling.rs`), in microseconds: what a port gets in a round, and how long a
/// kick may lie beside somebody who has work.
const QUANTUM_US: f64 = 20.0;
const LOOK_US: f64 = 100.0;

const RAM: u64 = 8 << 20;
const USER: u64 = 0x7000_0000_0000;
/// Where the one buffer is that all descriptors of a guest name: what is in it matters to nobody.
const BUFFER: u64 = RAM - (1 << 17);

/// A guest that sends one frame again and again, on several queues, and receives on the first pair.
struct Guest {
    frontend: Frontend,
    _file: OwnedFd,
    memory: Arc<GuestMemory>,
    receive: Option<(DriverQueue, QueueSetup)>,
    transmit: Vec<(DriverQueue, EventFd)>,
    /// Bytes of its frame and the header.
    len: u32,
    used: u64,
}

impl Guest {
    /// A guest whose frames have so many bytes and go to [`receiver`](mac).
    fn connect(lab: &Lab, name: &str, frame_len: u32) -> Self {
        let mut frontend = connect(&lab.socket(name));
        negotiate(&mut frontend, plain() - Features::MRG_RXBUF);
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, RAM).unwrap();
        let mapping = Arc::new(Mapping::file(&file, 0, RAM).unwrap());
        let region = Region::new(GuestAddr(0), FrontendAddr(USER), RAM, mapping).unwrap();
        let memory = Arc::new(GuestMemory::new(vec![region]).unwrap());
        let table = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: RAM,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        frontend.set_mem_table(&[table]).unwrap();
        let bytes = frame(mac("receiver"), mac(name), b"", frame_len as usize);
        let room = memory.slice(GuestAddr(BUFFER), 1 << 17).unwrap();
        room.fill(0);
        room.sub(HEADER as usize, bytes.len()).unwrap().write(&bytes);
        let (len, used) = (HEADER + frame_len, 0);
        Self { frontend, _file: file, memory, receive: None, transmit: Vec::new(), len, used }
    }

    /// Starts virtqueue `index` of so many entries.
    fn ring(&mut self, index: usize, entries: u16) -> (DriverQueue, QueueSetup, EventFd) {
        let size = QueueSize::try_from(entries).unwrap();
        let features = RingFeatures { indirect: true, event_idx: true, ..RingFeatures::default() };
        let base = GuestAddr(self.used.next_multiple_of(4096));
        self.used = base.0 + DriverQueue::footprint(size, features) as u64;
        assert!(self.used <= BUFFER);
        let (queue, setup) = DriverQueue::setup(&self.memory, base, size, features, None).unwrap();
        let [kick, call] = [(); 2].map(|()| EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap());
        self.frontend.set_vring_num(index, entries).unwrap();
        self.frontend.set_vring_base(index, 0).unwrap();
        let addresses = VringConfigData {
            queue_max_size: entries,
            queue_size: entries,
            flags: 0,
            desc_table_addr: USER + setup.desc.0,
            avail_ring_addr: USER + setup.driver.0,
            used_ring_addr: USER + setup.device.0,
            log_addr: None,
        };
        self.frontend.set_vring_addr(index, &addresses).unwrap();
        self.frontend.set_vring_call(index, &call).unwrap();
        self.frontend.set_vring_kick(index, &kick).unwrap();
        self.frontend.set_vring_enable(index, true).unwrap();
        (queue, setup, kick)
    }

    fn sending(mut self, queues: usize, entries: u16) -> Self {
        for pair in 0..queues {
            let (queue, _, kick) = self.ring(2 * pair + 1, entries);
            self.transmit.push((queue, kick));
        }
        self
    }

    fn receiving(mut self, entries: u16) -> Self {
        let (queue, setup, _) = self.ring(0, entries);
        self.receive = Some((queue, setup));
        self.post();
        self
    }

    /// Gives the device all receive buffers that it does not have.
    fn post(&mut self) {
        let (queue, _) = self.receive.as_mut().unwrap();
        while queue.free_descriptors() > 0 {
            queue.add(&[], &[(GuestAddr(BUFFER), HEADER + LONG)], 0).unwrap();
        }
        queue.publish();
    }

    /// Takes back what was sent, and puts frames into its queues, `count` in all at most; the device does not see them yet.
    fn fill(&mut self, count: usize) {
        let mut left = count;
        for (queue, _) in &mut self.transmit {
            while queue.pop_used().unwrap().is_some() {}
            while left > 0 && queue.free_descriptors() > 0 {
                queue.add(&[(GuestAddr(BUFFER), self.len)], &[], 0).unwrap();
                left -= 1;
            }
        }
    }

    /// Frames that its queues hold.
    fn slots(&self) -> usize {
        self.transmit.iter().map(|(queue, _)| usize::from(queue.size().get())).sum()
    }

    /// Shows the device what was added.
    fn publish(&mut self) {
        // All queues first: a kick may cost us the CPU.
        let wanted: Vec<bool> = self.transmit.iter_mut().map(|(queue, _)| queue.publish()).collect();
        for ((_, kick), _) in self.transmit.iter().zip(wanted).filter(|(_, wanted)| *wanted) {
            kick.write(1).unwrap();
        }
    }

    /// The next frame that came: its length with the header.
    fn received(&mut self) -> Option<u32> {
        let (queue, _) = self.receive.as_mut().unwrap();
        queue.pop_used().unwrap().map(|(_, written)| written)
    }

    /// How many frames came in all, modulo 2^16.
    fn came(&self) -> u16 {
        let (_, setup) = self.receive.as_ref().unwrap();
        let mut index = [0; 2];
        self.memory.slice(GuestAddr(setup.device.0 + 2), 2).unwrap().read(&mut index);
        u16::from_le_bytes(index)
    }
}

/// Has this thread run on the last CPU that it may use.
fn leave_the_first_cpu() {
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    let mut last = rustix::thread::CpuSet::new();
    last.set((0..rustix::thread::CpuSet::MAX_CPU).rfind(|cpu| all.is_set(*cpu)).unwrap());
    rustix::thread::sched_setaffinity(None, &last).unwrap();
}

fn mac(name: &str) -> [u8; 6] {
    [2, 0, 0, 0, 0, name.as_bytes()[0]]
}

/// A hog, a victim and the receiver of both.
struct Scene {
    hog: Guest,
    victim: Guest,
    receiver: Guest,
    lab: Lab,
}

impl Scene {
    /// Rings of a victim and of each queue of a hog, whose frames have so many bytes.
    fn new(mode: &str, victim: u16, hog: u16, frame_len: u32) -> Self {
        let port = |name: &str, pairs: usize| {
            format!(
                "[port.{name}]\nswitch = \"lan\"\nprofile = \"open\"\n\
                 vhost-user = {{ socket = \"DIR/{name}.sock\", queue-pairs = {pairs} }}\n"
            )
        };
        leave_the_first_cpu();
        let lab = Lab::with(mode, &(port("hog", QUEUES) + &port("victim", 1) + &port("receiver", 1)));
        let mut scene = Self {
            hog: Guest::connect(&lab, "hog", frame_len).sending(QUEUES, hog),
            victim: Guest::connect(&lab, "victim", VICTIM).sending(1, victim),
            receiver: Guest::connect(&lab, "receiver", VICTIM).receiving(32768).sending(1, 64),
            lab,
        };
        // The switch learns where everybody is.
        for guest in [&mut scene.receiver, &mut scene.hog, &mut scene.victim] {
            guest.fill(1);
            guest.publish();
        }
        scene.lab.until("receiver", |view| {
            (view.counters.to_guest.frames, view.counters.from_guest.frames) == (2, 1)
        });
        while scene.receiver.received().is_some() {}
        scene.receiver.post();
        scene
    }

    /// Microseconds that the plane has accounted to a guest.
    fn served_us(&self, name: &str) -> f64 {
        self.lab.plane.served(name).iter().sum::<Duration>().as_secs_f64() * 1e6
    }

    /// Takes so many frames from the receiver; true: the victim's. Its buffers are posted again after the last.
    fn take(&mut self, count: usize) -> Vec<bool> {
        let mut order = Vec::with_capacity(count);
        let end = Instant::now() + PATIENCE;
        while order.len() < count {
            match self.receiver.received() {
                Some(len) => order.push(len == HEADER + VICTIM),
                None => {
                    assert!(Instant::now() < end, "{} of {count} came", order.len());
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
        }
        self.receiver.post();
        order
    }

    /// Microseconds that a guest was served, once its last burst is accounted, which is after its frames have come.
    fn settled_us(&self, name: &str) -> f64 {
        let mut before = self.served_us(name);
        loop {
            std::thread::sleep(Duration::from_micros(500));
            let now = self.served_us(name);
            if now == before {
                return now;
            }
            before = now;
        }
    }

    /// Both have rings full of frames at once. Whom the worker served, in order; true: the victim. And what a frame of the
    /// victim and of the hog took, in microseconds.
    fn batch(&mut self) -> (Vec<bool>, [f64; 2]) {
        let before = ["victim", "hog"].map(|name| self.settled_us(name));
        self.hog.fill(usize::MAX);
        self.victim.fill(usize::MAX);
        self.hog.publish();
        self.victim.publish();
        let counts = [self.victim.slots(), self.hog.slots()];
        let order = self.take(counts.iter().sum());
        let after = ["victim", "hog"].map(|name| self.settled_us(name));
        (order, [0, 1].map(|who: usize| (after[who] - before[who]) / counts[who] as f64))
    }
}

/// Frames of the victim and of the hog while both had some left.
fn both(order: &[bool]) -> [usize; 2] {
    let first = |who: bool| order.iter().position(|victim| *victim == who).unwrap();
    let last = |who: bool| order.iter().rposition(|victim| *victim == who).unwrap();
    let part = &order[first(true).max(first(false))..=last(true).min(last(false))];
    let victim = part.iter().filter(|victim| **victim).count();
    [victim, part.len() - victim]
}

/// The victim's share of the time in which both had work: the median of many batches, each so short that the worker mostly keeps
/// its CPU.
fn share(mode: &str, victim: u16, hog: u16, frame_len: u32) -> f64 {
    const BATCHES: usize = 41;
    let mut scene = Scene::new(mode, victim, hog, frame_len);
    let (mut counts, mut least_us) = (Vec::new(), [f64::MAX; 2]);
    for _ in 0..2 * BATCHES {
        let (order, costs) = scene.batch();
        least_us = [0, 1].map(|who: usize| least_us[who].min(costs[who]));
        let both = both(&order);
        // A start may be so late that the hog is done before the victim begins.
        if both[0] >= usize::from(victim) / 2 {
            counts.push(both);
        }
        if counts.len() == BATCHES {
            break;
        }
    }
    assert!(counts.len() >= BATCHES / 4, "in {} batches only both had work together", counts.len());
    let part = |counts: &[usize; 2]| {
        let [victim, hog] = [0, 1].map(|who: usize| counts[who] as f64 * least_us[who]);
        victim / (victim + hog)
    };
    let mut shares: Vec<f64> = counts.iter().map(part).collect();
    shares.sort_by(f64::total_cmp);
    let share = shares[shares.len() / 2];
    println!("{mode:?}, {frame_len} B: {share:.3} of the time, {least_us:.2?} us a frame");
    share
}

#[test]
fn a_victim_keeps_its_half_beside_many_queues_of_tiny_frames() {
    for mode in MODES {
        let share = share(mode, 8192, 2048, SHORT);
        assert!(share >= 0.45, "{share} of the time with {mode}, which is less than 90 % of one half");
    }
}

#[test]
fn a_victim_keeps_its_half_beside_long_frames() {
    for mode in MODES {
        let share = share(mode, 8192, 256, LONG);
        assert!(share >= 0.45, "{share} of the time with {mode}, which is less than 90 % of one half");
    }
}

/// How long requests of the victim waited while the hog was served, in microseconds and sorted: of each batch of the hog the first,
/// for which the victim's queue has to be woken, and the others, which follow each other. And what a frame of the hog takes.
fn waits(mode: &str, hog: u16, frame_len: u32) -> (Vec<f64>, Vec<f64>, f64) {
    const BATCHES: usize = 60;
    let mut scene = Scene::new(mode, 64, hog, frame_len);
    let (mut first, mut others, mut hog_us) = (Vec::new(), Vec::new(), f64::MAX);
    for _ in 0..BATCHES {
        let (order, requests, cost) = scene.batch_with_requests();
        hog_us = hog_us.min(cost);
        let last = order.iter().rposition(|victim| !victim).unwrap();
        let places = order.iter().enumerate().filter(|(_, victim)| **victim).map(|(place, _)| place);
        for (number, (place, sent_at)) in places.zip(requests).enumerate() {
            // The hog still had something to send.
            if place < last {
                let waits = if number == 0 { &mut first } else { &mut others };
                waits.push(order[sent_at.min(place)..place].len() as f64);
            }
        }
    }
    for waits in [&mut first, &mut others] {
        waits.iter_mut().for_each(|frames| *frames *= hog_us);
        waits.sort_by(f64::total_cmp);
    }
    assert!(first.len() >= BATCHES / 4 && others.len() >= BATCHES, "{} and {}", first.len(), others.len());
    (first, others, hog_us)
}

impl Scene {
    /// The rings of the hog are full, and the victim sends one frame after the other meanwhile. Whom the worker served, in order;
    /// how many had been served when each request was sent; and what a frame of the hog took, in microseconds.
    fn batch_with_requests(&mut self) -> (Vec<bool>, Vec<usize>, f64) {
        // Everything comes to rest.
        std::thread::sleep(Duration::from_millis(5));
        let before = self.settled_us("hog");
        let (base, hog) = (self.receiver.came(), self.hog.slots());
        self.hog.fill(usize::MAX);
        self.hog.publish();
        let mut requests = Vec::new();
        let end = Instant::now() + PATIENCE;
        let came = |scene: &Self| usize::from(scene.receiver.came().wrapping_sub(base));
        while came(self) < hog / 50 {
            assert!(Instant::now() < end, "the hog is not served");
        }
        while came(self) < hog {
            self.victim.fill(1);
            self.victim.publish();
            requests.push(came(self));
            let queue = &mut self.victim.transmit[0].0;
            while queue.pop_used().unwrap().is_none() {
                assert!(Instant::now() < end, "a request is not served");
            }
        }
        let order = self.take(hog + requests.len());
        let cost = (self.settled_us("hog") - before) / hog as f64;
        (order, requests, cost)
    }
}

/// A request of a victim that is looked at anyway waits for one turn of the hog. One whose queue rests waits until kicks are looked
/// for, and for the turn in which that is noticed. If the one that sends does not get a CPU its queue rests as well.
fn requests_wait_for_a_turn(hog: u16, frame_len: u32) {
    for mode in MODES {
        let (first, others, hog_us) = waits(mode, hog, frame_len);
        let part = |waits: &[f64], percent: usize| waits[waits.len() * percent / 100];
        let figures = [part(&first, 98), part(&others, 50), part(&others, 99)];
        println!("{mode:?}, {frame_len} B, {hog_us:.2} us each: {figures:.1?} us of {}", others.len());
        // A turn: what the port gets, once more as much for bursts that end late, and a frame that is longer than either.
        let turn_us = 2.0 * QUANTUM_US + hog_us;
        let woken_us = LOOK_US + 2.0 * turn_us;
        let bounds = [woken_us, turn_us, woken_us];
        let is_kept = figures.iter().zip(bounds).all(|(us, bound)| *us <= bound);
        assert!(is_kept, "{figures:.1?} us are not within {bounds:.1?} with {mode}");
    }
}

#[test]
fn requests_beside_many_queues_of_tiny_frames_wait_for_a_turn() {
    requests_wait_for_a_turn(4096, SHORT);
}

#[test]
fn requests_beside_long_frames_wait_for_a_turn() {
    requests_wait_for_a_turn(1024, LONG);
}
