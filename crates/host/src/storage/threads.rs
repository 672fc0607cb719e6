//! The engine of threads that may block: where io_uring is forbidden, and for images that a library reads.

use super::bell::Bell;
use super::buffers::{Buffers, Data, Op};
use super::image::{Image, Kind};
use super::job::{Job, Step};
use super::raw::RawFile;
use super::requests::Requests;
use super::uring::Told;
use devices::storage::{IoFault, Outcome, Work};
use guestmem::{KeptRuns, Part, vectored};
use parking_lot::{Condvar, Mutex};
use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads of one engine.
const THREADS: usize = 4;
/// How long the end of an engine waits for what its threads have begun.
const END_WAIT: Duration = Duration::from_secs(3);

pub(super) struct Threads {
    pool: Arc<Pool>,
    pub(super) requests: Requests,
    /// Slots that wait for others to have written.
    deferred: Vec<u32>,
    finished: Vec<Finished>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads and the engine have in common.
struct Pool {
    image: Arc<Image>,
    queue: Mutex<Queue>,
    more: Condvar,
    ended: Condvar,
    finished: Mutex<Vec<Finished>>,
    bell: Arc<Bell>,
    /// Whether the engine's owner sleeps, or is about to.
    rests: AtomicBool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(u32, Box<Job>)>,
    is_closed: bool,
    /// Threads that have not ended.
    threads: usize,
}

/// A job that comes back; `None`: it has to wait.
struct Finished {
    slot: u32,
    job: Box<Job>,
    outcome: Option<Outcome>,
}

impl Threads {
    pub(super) fn new(image: Arc<Image>, depth: u32, bell: Arc<Bell>, now: Instant) -> io::Result<Self> {
        let pool = Arc::new(Pool {
            image,
            queue: Mutex::default(),
            more: Condvar::new(),
            ended: Condvar::new(),
            finished: Mutex::default(),
            bell,
            rests: AtomicBool::new(true),
        });
        let (requests, threads) = (Requests::new(depth, now), Vec::with_capacity(THREADS));
        let mut this = Self { pool, requests, deferred: Vec::new(), finished: Vec::new(), threads };
        for _ in 0..THREADS {
            let pool = Arc::clone(&this.pool);
            this.threads.push(std::thread::Builder::new().name("disk".into()).spawn(move || pool.run())?);
            this.pool.queue.lock().threads += 1;
        }
        Ok(this)
    }

    pub(super) fn submit(&mut self, slot: u32, work: Work, runs: &KeptRuns, part: Part, len: usize) {
        self.requests.get(slot).job.get_or_insert_default().begin(work, runs, part, len);
        self.hand_over(slot);
    }

    fn hand_over(&mut self, slot: u32) {
        if let Some(job) = self.requests.get(slot).job.take() {
            self.pool.queue.lock().jobs.push_back((slot, job));
            self.pool.more.notify_one();
        }
    }

    pub(super) fn reap(&mut self, told: &mut Told) {
        for slot in std::mem::take(&mut self.deferred) {
            self.requests.get(slot).is_deferred = false;
            self.hand_over(slot);
        }
        std::mem::swap(&mut self.finished, &mut self.pool.finished.lock());
        for Finished { slot, job, outcome } in self.finished.drain(..) {
            let request = self.requests.get(slot);
            request.job = Some(job);
            match outcome {
                None if request.is_aborted => {
                    told.extend(self.requests.release(slot, Err(IoFault::Aborted.into())));
                }
                None => {
                    request.is_deferred = true;
                    self.deferred.push(slot);
                }
                Some(outcome) => told.extend(self.requests.release(slot, outcome)),
            }
        }
    }

    pub(super) fn notify(&mut self, on: bool) {
        self.pool.rests.store(on, Ordering::SeqCst);
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.pool.finished.lock().is_empty()
    }

    /// Gives `slot` up if no thread has begun with it. True: it has ended.
    pub(super) fn abort(&mut self, slot: u32, told: &mut Told) -> bool {
        let request = self.requests.get(slot);
        request.is_aborted = true;
        if request.is_deferred {
            self.deferred.retain(|deferred| *deferred != slot);
        } else {
            let mut queue = self.pool.queue.lock();
            let Some(index) = queue.jobs.iter().position(|(waiting, _)| *waiting == slot) else {
                return false;
            };
            request.job = queue.jobs.remove(index).map(|(_, job)| job);
        }
        told.extend(self.requests.release(slot, Err(IoFault::Aborted.into())));
        true
    }
}

impl Drop for Threads {
    /// Lets the threads end when they are done with what they have begun, and waits for that a little: a disk that hangs keeps them, and
    /// they own all that they use.
    fn drop(&mut self) {
        let mut queue = self.pool.queue.lock();
        queue.is_closed = true;
        queue.jobs.clear();
        self.pool.more.notify_all();
        let end = Instant::now() + END_WAIT;
        while queue.threads > 0 && !self.pool.ended.wait_until(&mut queue, end).timed_out() {}
        let is_over = queue.threads == 0;
        drop(queue);
        for thread in self.threads.drain(..).filter(|_| is_over) {
            let _ended = thread.join();
        }
    }
}

impl Pool {
    fn run(&self) {
        while let Some((slot, mut job)) = self.take() {
            // Images are written by strangers, and a library reads them: its panic is one request's failure.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.carry_out(&mut job)));
            let outcome = outcome.unwrap_or_else(|_| Some(Err(IoFault::Medium.into())));
            if outcome.is_some() {
                job.end();
            }
            self.finished.lock().push(Finished { slot, job, outcome });
            if self.rests.load(Ordering::SeqCst) {
                self.bell.ring();
            }
        }
        self.queue.lock().threads -= 1;
        self.ended.notify_one();
    }

    fn take(&self) -> Option<(u32, Box<Job>)> {
        let mut queue = self.queue.lock();
        loop {
            if queue.is_closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            self.more.wait(&mut queue);
        }
    }

    fn carry_out(&self, job: &mut Job) -> Option<Outcome> {
        match &self.image.kind {
            Kind::File(file) => self.walk(file, job),
            Kind::Qcow2(image) => Some(image.carry_out(job.work(), &job.buffers.runs, job.buffers.part)),
            _ => Some(super::inline::carry_out(&self.image, job.work(), &job.buffers.runs, job.buffers.part)),
        }
    }

    fn walk(&self, file: &RawFile, job: &mut Job) -> Option<Outcome> {
        loop {
            match job.next(file, &self.bell) {
                Step::Done(outcome) => return Some(outcome),
                Step::Wait => return None,
                Step::Io(op) => {
                    let result = call(file, op, &mut job.buffers);
                    job.result(file, result);
                }
            }
        }
    }
}

/// Carries one operation out.
fn call(file: &RawFile, op: Op, buffers: &mut Buffers) -> io::Result<usize> {
    let Buffers { runs, part, bounce } = buffers;
    match op {
        Op::Read { offset, data: Data::Guest } => vectored::read_at(file, offset, runs, *part),
        Op::Write { offset, data: Data::Guest, through } => {
            vectored::write_at(file, offset, runs, *part, through)
        }
        Op::Read { offset, data: Data::Bounce { first, len } } => {
            file.read_at(&mut bounce.bytes_mut()[first..first + len], offset)
        }
        Op::Write { offset, data: Data::Bounce { first, len }, through } => {
            let bytes = io::IoSlice::new(&bounce.bytes()[first..first + len]);
            let flags = if through { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
            Ok(rustix::io::pwritev2(file, &[bytes], offset, flags)?)
        }
        Op::Sync => Ok(rustix::fs::fdatasync(file).map(|()| 0)?),
        Op::Allocate { offset, len, hole } => {
            let what = if hole { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
            Ok(rustix::fs::fallocate(file, what | FallocateFlags::KEEP_SIZE, offset, len).map(|()| 0)?)
        }
    }
}
