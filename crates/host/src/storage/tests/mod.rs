//! Engines on real files: against a model, with faults, and with what happens to a file from outside.

mod faults;
mod files;
mod model;
mod power;
mod qcow2;

use super::{Engine, EngineKind, Image, Options};
use devices::storage::{Extent, Outcome, Work};
use guestmem::{GuestAddr, GuestMemory, KeptRuns, MemSlice, Part};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Long enough for everything that is not stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Memory of a guest, with a pattern to be told from what a disk writes there.
struct Guest(Arc<GuestMemory>);

impl Guest {
    fn new() -> Self {
        Self(Arc::new(GuestMemory::anonymous(GuestAddr(0), 4 << 20).unwrap()))
    }

    fn slice(&self, at: usize, len: usize) -> MemSlice<'_> {
        self.0.slice(GuestAddr(at as u64), len).unwrap()
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        assert_eq!(self.slice(at, bytes.len()).write(bytes), bytes.len());
    }

    fn get(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.slice(at, len).read(&mut bytes);
        bytes
    }

    /// `len` bytes from `at` on as a request's data, in runs that end at each of `cuts`.
    fn data(&self, at: usize, len: usize, cuts: &[usize]) -> (KeptRuns, Part) {
        let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut % (len + 1)).chain([0, len]).collect();
        bounds.sort_unstable();
        let slices: Vec<_> =
            bounds.windows(2).map(|pair| self.slice(at + pair[0], pair[1] - pair[0])).collect();
        let mut kept = KeptRuns::new();
        let part = kept.keep(&self.0, &slices, 0, len).unwrap();
        (kept, part)
    }
}

fn extent(offset: u64, len: u64) -> Extent {
    Extent { offset, len }
}

fn write_to(extent: Extent) -> Work {
    Work::Write { extent, through: false }
}

/// A file of `bytes` in a directory of its own.
fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("disk");
    std::fs::write(&path, bytes).unwrap();
    (place, path)
}

fn open(path: &Path, options: &Options) -> Arc<Image> {
    Arc::new(Image::open(path, options).unwrap())
}

fn engine(image: &Arc<Image>, kind: EngineKind) -> Engine {
    Engine::new(Arc::clone(image), kind, 64).unwrap()
}

/// Both engines for files.
const KINDS: [EngineKind; 2] = [EngineKind::Uring, EngineKind::Threads];

/// Whether the descriptor becomes readable within `time`.
fn signalled(engine: &Engine, time: Duration) -> bool {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    poll(&mut [PollFd::new(&engine.fd(), PollFlags::IN)], Some(&time)).unwrap() == 1
}

/// Takes the signals back, so that the next one is seen.
fn quiet(engine: &Engine) {
    let _none = rustix::io::read(engine.fd(), &mut [0u8; 8]);
}

/// Reaps until `count` outcomes were told, sleeping in between as a worker does.
fn wait(engine: &mut Engine, count: usize) -> Vec<(u64, Outcome)> {
    let (end, mut outcomes) = (Instant::now() + PATIENCE, Vec::new());
    while outcomes.len() < count {
        assert!(Instant::now() < end, "{} of {count} outcomes: {outcomes:?}", outcomes.len());
        engine.tick(Instant::now());
        engine.reap(|tag, outcome| outcomes.push((tag, outcome)));
        if outcomes.len() < count && engine.rest() {
            signalled(engine, PATIENCE);
            quiet(engine);
        }
    }
    outcomes
}

/// Does one piece of work.
fn run(engine: &mut Engine, work: Work, data: &(KeptRuns, Part)) -> Outcome {
    engine.submit(99, work, &data.0, data.1).unwrap();
    let outcomes = wait(engine, 1);
    assert_eq!(outcomes[0].0, 99);
    outcomes[0].1
}

/// Does work without data.
fn run_bare(engine: &mut Engine, work: Work) -> Outcome {
    run(engine, work, &(KeptRuns::new(), Part::default()))
}
