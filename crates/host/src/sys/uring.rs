//! A ring of io_uring for one file. Who starts an operation hands its buffers over, and has them back with the completion: so the
//! kernel never uses memory that someone else has, or that is mapped no more.

use crate::storage::buffers::{Buffers, Data, Op};
use io_uring::types::{CancelBuilder, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use std::any::Any;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// Runs that one operation takes (`IOV_MAX`); what is longer comes back short.
const RUNS_MAX: usize = 1024;
/// The number of a cancellation, which is no slot's.
const CANCEL: u64 = u64::MAX;
/// How long the end of a ring waits for operations that are still in flight.
const END_WAIT: Duration = Duration::from_secs(3);

/// An operation that ended.
pub(crate) struct Completion {
    /// What it was started as.
    pub(crate) slot: u32,
    /// Bytes, or the kernel's error.
    pub(crate) result: io::Result<usize>,
    /// What was handed over for it.
    pub(crate) buffers: Buffers,
}

/// What must not end before the operations on it: the lock of a file.
pub(crate) type Owner = Arc<dyn Any + Send + Sync>;

/// See the module.
pub(crate) struct Ring {
    ring: IoUring,
    /// What operations in flight use, by slot.
    held: ManuallyDrop<Box<[Option<Buffers>]>>,
    /// Whose file it is.
    owner: ManuallyDrop<Owner>,
    in_flight: u32,
    /// Entries that the kernel has not been told of.
    unsent: bool,
}

impl Ring {
    /// A ring for up to `slots` operations at once on `file`, which is `owner`'s, each by a slot below that number; `bell` is an eventfd
    /// that completions signal.
    ///
    /// # Errors
    /// The kernel has no io_uring (5.6 or later is asked for), forbids it, or has no memory for it.
    pub(crate) fn new(slots: u32, file: impl AsFd, owner: Owner, bell: impl AsFd) -> io::Result<Self> {
        // Work of the kernel's on behalf of this thread waits until the thread enters the kernel by itself.
        let polite = IoUring::builder()
            .setup_clamp()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .dontfork()
            .build(slots);
        let ring = match polite {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                IoUring::builder().setup_clamp().dontfork().build(slots)?
            }
            ring => ring?,
        };
        if !ring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        ring.submitter().register_files(&[file.as_fd().as_raw_fd()])?;
        ring.submitter().register_eventfd(bell.as_fd().as_raw_fd())?;
        let held = ManuallyDrop::new((0..slots).map(|_| None).collect());
        Ok(Self { ring, held, owner: ManuallyDrop::new(owner), in_flight: 0, unsent: false })
    }

    /// Starts `op` as `slot`, which must have none in flight; the kernel learns of it with [`Self::send`].
    ///
    /// # Errors
    /// The kernel takes no more at the moment: the buffers come back.
    pub(crate) fn start(&mut self, slot: u32, op: Op, buffers: Buffers) -> Result<(), Buffers> {
        let place = &mut self.held[slot as usize];
        assert!(place.is_none(), "one operation a slot");
        let buffers = place.insert(buffers);
        let entry = entry(op, buffers).user_data(u64::from(slot));
        if self.push(&entry) {
            self.in_flight += 1;
            return Ok(());
        }
        Err(self.held[slot as usize].take().unwrap_or_default())
    }

    fn push(&mut self, entry: &squeue::Entry) -> bool {
        for _ in 0..2 {
            // SAFETY: what the entry points to is in `held` until the operation's completion was seen, and if it never is, for ever.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.unsent = true;
                return true;
            }
            self.send();
        }
        false
    }

    /// Tells the kernel what was started. What it does not take now it is told of again the next time.
    pub(crate) fn send(&mut self) {
        if self.unsent {
            let _taken = self.ring.submit();
            self.unsent = !self.ring.submission().is_empty();
        }
    }

    /// Whether something that was started is not known to the kernel.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent
    }

    /// An operation that ended, if there is one.
    pub(crate) fn next(&mut self) -> Option<Completion> {
        loop {
            let seen = self.ring.completion().next();
            if seen.is_none() && self.is_behind() {
                let _entered = self.ring.submit();
            }
            let entry = seen.or_else(|| self.ring.completion().next())?;
            let slot = entry.user_data();
            let Some(buffers) = usize::try_from(slot).ok().and_then(|slot| self.held.get_mut(slot)?.take())
            else {
                continue;
            };
            self.in_flight -= 1;
            let result = match usize::try_from(entry.result()) {
                Ok(len) => Ok(len),
                Err(_) => Err(io::Error::from_raw_os_error(entry.result().saturating_neg())),
            };
            return Some(Completion { slot: slot as u32, result, buffers });
        }
    }

    /// Whether the kernel has completions that it shows only when it is entered.
    fn is_behind(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Whether there is something for [`Self::next`].
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.is_behind()
    }

    /// Asks the kernel to give the operation of `slot` up. It completes in any case: as cancelled, or as if nothing had been asked.
    pub(crate) fn cancel(&mut self, slot: u32) {
        let entry = opcode::AsyncCancel::new(u64::from(slot)).build().user_data(CANCEL);
        let _room = self.push(&entry);
        self.send();
    }

    /// Whether completions signal the eventfd. What completes before this takes effect may not.
    pub(crate) fn notify(&mut self, on: bool) {
        let mut queue = self.ring.completion();
        if on {
            queue.enable_eventfd();
        } else {
            queue.disable_eventfd();
        }
        queue.sync();
        // What is looked at after this is not older than this.
        fence(Ordering::SeqCst);
    }

    /// Waits for what is in flight until `end`, after having asked for it to be given up.
    fn drain(&mut self, end: Instant) {
        self.send();
        let _cancelled =
            self.ring.submitter().register_sync_cancel(Some(Timespec::new()), CancelBuilder::any());
        while self.in_flight > 0 {
            while self.next().is_some() {}
            let left = end.saturating_duration_since(Instant::now());
            if self.in_flight == 0 || left.is_zero() {
                return;
            }
            let time = Timespec::from(left.min(Duration::from_millis(100)));
            let _waited = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time));
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            self.drain(Instant::now() + END_WAIT);
        }
        if self.in_flight == 0 {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe {
                ManuallyDrop::drop(&mut self.held);
                ManuallyDrop::drop(&mut self.owner);
            }
        } else {
            // The kernel may still use it: it stays mapped until the process ends.
            tracing::error!(
                operations = self.in_flight,
                "a disk does not give its operations back; their memory is given up"
            );
        }
    }
}

/// The entry for `op` on the registered file. It points into `buffers`.
fn entry(op: Op, buffers: &mut Buffers) -> squeue::Entry {
    const FILE: Fixed = Fixed(0);
    match op {
        Op::Read { offset, data } => match memory(data, buffers) {
            Memory::One(start, len) => opcode::Read::new(FILE, start, len).offset(offset).build(),
            Memory::Many(runs, count) => opcode::Readv::new(FILE, runs, count).offset(offset).build(),
        },
        Op::Write { offset, data, through } => {
            let flags = if through { libc::RWF_DSYNC } else { 0 };
            match memory(data, buffers) {
                Memory::One(start, len) => {
                    opcode::Write::new(FILE, start, len).offset(offset).rw_flags(flags).build()
                }
                Memory::Many(runs, count) => {
                    opcode::Writev::new(FILE, runs, count).offset(offset).rw_flags(flags).build()
                }
            }
        }
        Op::Sync => opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build(),
        Op::Allocate { offset, len, hole } => {
            let what = if hole { libc::FALLOC_FL_PUNCH_HOLE } else { libc::FALLOC_FL_ZERO_RANGE };
            opcode::Fallocate::new(FILE, len).offset(offset).mode(what | libc::FALLOC_FL_KEEP_SIZE).build()
        }
    }
}

enum Memory {
    One(*mut u8, u32),
    Many(*const libc::iovec, u32),
}

fn memory(data: Data, buffers: &mut Buffers) -> Memory {
    match data {
        Data::Guest => match buffers.runs.iovecs(buffers.part) {
            [run] => Memory::One(run.iov_base.cast(), u32::try_from(run.iov_len).unwrap_or(1 << 30)),
            runs => Memory::Many(runs.as_ptr(), runs.len().min(RUNS_MAX) as u32),
        },
        Data::Bounce { first, len } => {
            let bytes = &mut buffers.bounce.bytes_mut()[first..first + len];
            Memory::One(bytes.as_mut_ptr(), len as u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guestmem::{GuestAddr, GuestMemory};
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::OwnedFd;

    fn bell() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    /// Buffers for `len` bytes of a guest's memory, and the memory.
    fn buffers(len: usize) -> (Buffers, Arc<GuestMemory>) {
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), 4096).unwrap());
        let mut buffers = Buffers::default();
        let slice = memory.slice(GuestAddr(0), len).unwrap();
        buffers.part = buffers.runs.keep(&memory, &[slice], 0, len).unwrap();
        (buffers, memory)
    }

    fn wait(ring: &mut Ring) -> Completion {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(completion) = ring.next() {
                return completion;
            }
            assert!(Instant::now() < end, "nothing completes");
            std::thread::yield_now();
        }
    }

    const READ: Op = Op::Read { offset: 0, data: Data::Guest };

    #[test]
    fn an_operation_has_its_buffers_until_it_completes() {
        let (from, to) = rustix::pipe::pipe().unwrap();
        let (buffers, memory) = buffers(16);
        let mut ring = Ring::new(4, &from, Arc::new(()), bell()).unwrap();
        ring.start(2, READ, buffers).unwrap();
        ring.send();
        assert!(ring.next().is_none());
        rustix::io::write(&to, b"hello").unwrap();
        let completion = wait(&mut ring);
        assert_eq!((completion.slot, completion.result.unwrap()), (2, 5));
        let mut bytes = [0; 6];
        memory.slice(GuestAddr(0), 6).unwrap().read(&mut bytes);
        assert_eq!(&bytes, b"hello\0");
        assert_eq!((completion.buffers.runs.len(completion.buffers.part), ring.in_flight), (16, 0));
    }

    /// A read that would wait for ever, as on a disk that hangs.
    #[test]
    fn what_hangs_is_cancelled() {
        let (from, _to) = rustix::pipe::pipe().unwrap();
        let mut ring = Ring::new(4, &from, Arc::new(()), bell()).unwrap();
        for slot in 0..4 {
            ring.start(slot, READ, buffers(16).0).unwrap();
        }
        ring.cancel(1);
        let completion = wait(&mut ring);
        assert_eq!(
            (completion.slot, completion.result.unwrap_err().raw_os_error()),
            (1, Some(libc::ECANCELED))
        );
        // The slot can be used again, and what has completed cannot be cancelled.
        ring.cancel(1);
        ring.start(1, READ, completion.buffers).unwrap();
        ring.send();
        assert!(ring.next().is_none() && ring.in_flight == 4);
    }

    #[test]
    fn the_end_of_a_ring_gives_memory_back_after_the_kernel_did() {
        let (from, _to) = rustix::pipe::pipe().unwrap();
        let mut ring = Ring::new(4, &from, Arc::new(()), bell()).unwrap();
        let (buffers, memory) = buffers(16);
        ring.start(0, READ, buffers).unwrap();
        ring.send();
        let gone = Arc::downgrade(&memory);
        drop(memory);
        assert!(gone.upgrade().is_some());
        let start = Instant::now();
        drop(ring);
        assert!(gone.upgrade().is_none() && start.elapsed() < END_WAIT);
    }

    #[test]
    fn a_bounce_buffer_and_many_runs_are_read_into() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("disk");
        std::fs::write(&path, [1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let mut ring = Ring::new(4, &file, Arc::new(()), bell()).unwrap();
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), 4096).unwrap());
        let mut many = Buffers::default();
        let slice = |at, len| memory.slice(GuestAddr(at), len).unwrap();
        many.part = many.runs.keep(&memory, &[slice(0, 2), slice(100, 3)], 0, 5).unwrap();
        many.bounce.fit(8, 512);
        ring.start(0, Op::Read { offset: 2, data: Data::Guest }, many).unwrap();
        ring.send();
        let completion = wait(&mut ring);
        assert_eq!(completion.result.unwrap(), 5);
        let mut bytes = [0; 3];
        slice(100, 3).read(&mut bytes);
        assert_eq!(bytes, [5, 6, 7]);
        let read = Op::Read { offset: 0, data: Data::Bounce { first: 2, len: 4 } };
        ring.start(0, read, completion.buffers).unwrap();
        ring.send();
        let completion = wait(&mut ring);
        assert_eq!(
            (completion.result.unwrap(), &completion.buffers.bounce.bytes()[1..7]),
            (4, &[0, 1, 2, 3, 4, 0][..])
        );
        let write = Op::Write { offset: 0, data: Data::Guest, through: true };
        ring.start(3, write, completion.buffers).unwrap();
        ring.send();
        assert_eq!(
            wait(&mut ring).result.unwrap_err().raw_os_error(),
            Some(libc::EBADF),
            "opened for reading"
        );
    }
}
