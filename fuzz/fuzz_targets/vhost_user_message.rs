//! Any bytes and file descriptors from a front-end: a session ends with a named fault or goes on, and a ring that starts can
//! be worked, whatever its memory and its record of what is in flight hold.
//!
//! The input is a list of pieces: a byte for the descriptors (low four bits: how many; bits 4-5: which file),
//! a byte for the piece's length, the piece. Every event is finished at once, by the piece's bits 6-7.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use transport::vhost_user::{Event, Offer, Outcome, ProtocolFeatures, QueueStart, Session};
use virtqueue::{Burst, DeviceQueue, QueueSize, RingState};

/// No memory, a file of a file system that is not accepted, 2 MiB of memory.
static FILES: LazyLock<[File; 3]> = LazyLock::new(|| {
    let open = |path| File::options().read(true).write(true).open(path).expect("a device file");
    let path = format!("/dev/shm/vhost-user-message-{}", std::process::id());
    let memory = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    memory.set_len(2 << 20).expect("2 MiB");
    std::fs::remove_file(path).expect("just made");
    [open("/dev/null"), open("/proc/self/comm"), memory]
});

fn session() -> Session {
    Session::new(Offer {
        features: 0x0000_0005_3000_0000,
        protocol: ProtocolFeatures::all(),
        queues_max: 4,
        queue_num: 2,
        queue_size_max: QueueSize::MAX,
        config: vec![0xc0; 64],
    })
}

/// Pops what there is, gives it back, and is gone.
fn work(session: &Session, start: &QueueStart) {
    let memory = session.memory();
    let Ok(mut queue) = DeviceQueue::new(memory, &start.setup, start.state) else { return };
    let mut burst = Burst::new();
    if queue.pop(memory, &mut burst, 8).is_ok() {
        while let Some(chain) = burst.take() {
            queue.complete(&burst, chain, 0);
        }
        queue.flush();
    }
}

fn outcome(kind: u8) -> Outcome {
    match kind >> 6 {
        0 | 1 => Outcome::Done,
        2 => Outcome::Stopped(RingState::default()),
        _ => Outcome::Failed,
    }
}

fuzz_target!(|input: &[u8]| {
    let (mut session, mut rest) = (session(), input);
    while let [kind, len, tail @ ..] = rest {
        let (piece, after) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = after;
        let file = &FILES[usize::from(kind >> 4 & 3).min(2)];
        let fds = (0..kind & 15).filter_map(|_| file.try_clone().ok()).map(OwnedFd::from).collect();
        if session.receive(piece, fds).is_err() {
            return;
        }
        loop {
            match session.next_event() {
                Ok(Some(event)) => {
                    if let Event::QueueStart(start) = &event {
                        work(&session, start);
                    }
                    session.finish(outcome(*kind));
                }
                Ok(None) => break,
                Err(fault) => {
                    assert!(!fault.to_string().is_empty());
                    return;
                }
            }
        }
        assert!(session.wanted() <= 12 + 8 + 32 * 32);
        session.send_config_change();
        // A front-end that reads replies only now and then.
        if kind & 3 == 0 {
            while session.next_outgoing().is_some() {}
        }
    }
});
