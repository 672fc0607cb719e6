//! Queues that stop, start, move and change hands while frames wait in them: each frame that was sent is delivered without another
//! one being sent or another kick given, so no wake-up is lost on the way.

mod station;

use devices::net::Features;
use station::{Lab, MAC_A, MAC_B, PATIENCE, Station, exchange, frame, plain, table};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use vhost::VhostBackend as _;

const RAM: u64 = 8 << 20;

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// Busy for a random part of the time in which a worker falls asleep.
    fn pause(&mut self) {
        let end = Instant::now() + Duration::from_micros(self.below(300));
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    }
}

/// What happens to the sender's queue while frames wait.
fn disturb(lab: &Lab, sender: &mut Station, stream: &UnixStream, random: &mut Random) {
    match random.below(5) {
        // Stops, and goes on where it stood, with a kick descriptor or without.
        which @ (0 | 1) => {
            let base = sender.frontend.get_vring_base(1).unwrap();
            random.pause();
            sender.restart_transmit(base, (which == 1).then_some(stream));
        }
        // Moves to other addresses of ours.
        2 => {
            let table = table(&sender.file, 0, RAM);
            sender.frontend.set_mem_table(&[table]).unwrap();
        }
        // Moves to another worker.
        3 => lab.plane.balance(Duration::from_nanos(1)),
        // Is looked at.
        _ => drop(lab.view("a")),
    }
}

fn frames_survive(workers: &str, features: Features) {
    const ROUNDS: u64 = 400;
    let lab = Lab::new(workers, &["a", "b"]);
    let stream = UnixStream::connect(lab.socket("a")).unwrap();
    let raw = stream.try_clone().unwrap();
    let mut a = Station::over(stream, features);
    let mut b = Station::connect(&lab.socket("b"), features);
    exchange(&mut a, &mut b, 2);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut sent, mut received) = (0u64, 0u64);
    for round in 0..ROUNDS {
        for _ in 0..2 {
            let count = 1 + random.below(8);
            let numbered = |number: u64| frame(MAC_B, MAC_A, &number.to_be_bytes(), 60);
            let frames: Vec<Vec<u8>> = (sent..sent + count).map(numbered).collect();
            a.send_burst(&frames);
            sent += count;
            if random.below(2) == 0 {
                random.pause();
            }
            disturb(&lab, &mut a, &raw, &mut random);
        }
        let end = Instant::now() + PATIENCE;
        while received < sent {
            if let Some((_, got)) = b.poll() {
                assert_eq!(got[14..22], received.to_be_bytes(), "round {round}");
                received += 1;
            }
            assert!(
                Instant::now() < end,
                "round {round}: {received} of {sent} came, {workers:?} {features:?}: {:?} {:?}",
                lab.view("a"),
                lab.view("b")
            );
        }
    }
}

#[test]
fn a_queue_that_stops_starts_and_moves_forgets_no_frame() {
    for workers in
        ["mode = \"pool\"\nthreads = 2", "mode = \"sidecore\"\nthreads = 1", "mode = \"per-device\""]
    {
        for features in [plain(), plain() - Features::EVENT_IDX] {
            frames_survive(workers, features);
        }
    }
}

/// Frames wait for a receiver that has given no buffers: when it has some they come, whether it can kick or not, and whatever has
/// happened to the queue meanwhile.
#[test]
fn frames_that_wait_for_buffers_come_when_there_are_some() {
    let lab = Lab::new("mode = \"pool\"\nthreads = 2", &["a", "b"]);
    let mut a = Station::connect(&lab.socket("a"), plain());
    let mut b = Station::connect(&lab.socket("b"), plain());
    exchange(&mut a, &mut b, 2);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut received = 0u64;
    for round in 0..60 {
        // As many as the ring has buffers, and some more that wait.
        let sent = received + u64::from(station::RING) + 1 + random.below(100);
        for number in received..sent {
            a.send(&frame(MAC_B, MAC_A, &number.to_be_bytes(), 60));
        }
        random.pause();
        match random.below(3) {
            0 => {
                let table = table(&b.file, 0, RAM);
                b.frontend.set_mem_table(&[table]).unwrap();
            }
            1 => lab.plane.balance(Duration::from_nanos(1)),
            _ => {}
        }
        let end = Instant::now() + PATIENCE;
        while received < sent {
            if let Some((_, got)) = b.poll() {
                assert_eq!(got[14..22], received.to_be_bytes(), "round {round}");
                received += 1;
            }
            assert!(Instant::now() < end, "round {round}: {received} of {sent} came: {:?}", lab.view("b"));
        }
    }
}
