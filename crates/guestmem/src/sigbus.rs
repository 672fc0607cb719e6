//! A file that shrinks under a mapping costs its owner, not the process.
//!
//! Touching a page beyond the end of a mapped file raises SIGBUS in the touching thread. The handler looks
//! the address up among the watched mappings, puts anonymous zero pages over that whole mapping, marks it
//! dead and returns: the interrupted access is repeated and finds zeros. The session that owns the memory
//! sees [`deaths`] move and closes. An address that is not watched goes to whoever handled SIGBUS before
//! (by default: the process dies, as it should for a fault of our own).
//!
//! The handler is async-signal-safe: it reads atomics and makes one system call. The table only grows, in
//! chunks that are never freed, so the handler may walk it at any time. Places are reused while it walks:
//! each carries a sequence number that is odd while its range changes, and the handler acts on a range only
//! if the number was even and the same before and after it was read. The entry of the address that faulted
//! is never passed over by that: whoever touches a mapping keeps it, so its entry is not changing.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, Once};

const CHUNK: usize = 256;
const CHUNKS: usize = 256;

/// One watched range: `start == 0` means free. Written by the one [`Slot`] that holds it.
#[derive(Default)]
struct Entry {
    /// Odd while `start` and `len` change.
    sequence: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
    dead: AtomicBool,
}

impl Entry {
    /// Makes the range another one.
    fn set(&self, start: usize, len: usize) {
        let before = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(before.wrapping_add(1), Ordering::Relaxed);
        // Whoever reads one of the new words below also sees the odd number.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.sequence.store(before.wrapping_add(2), Ordering::Release);
    }

    /// Start and length that belong together; `None` while they change. Async-signal-safe.
    fn range(&self) -> Option<(usize, usize)> {
        let before = self.sequence.load(Ordering::Acquire);
        let range = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let after = self.sequence.load(Ordering::Relaxed);
        (before.is_multiple_of(2) && before == after).then_some(range)
    }
}

static TABLE: [AtomicPtr<[Entry; CHUNK]>; CHUNKS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS];
static FREE: Mutex<Vec<&'static Entry>> = Mutex::new(Vec::new());
static DEATHS: AtomicU64 = AtomicU64::new(0);
static INSTALL: Once = Once::new();

/// How many mappings have died since the program started. Cheap; look at it once a burst.
#[inline]
pub fn deaths() -> u64 {
    DEATHS.load(Ordering::Relaxed)
}

/// A mapping's place in the table.
#[derive(Debug)]
pub(crate) struct Slot(Option<&'static Entry>);

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.range() {
            Some((start, len)) => write!(f, "{start:#x}+{len:#x}"),
            None => f.write_str("changing"),
        }
    }
}

impl Slot {
    /// Begins to watch a range. With 65,536 mappings watched at once, further ones are not: their
    /// truncation would end the process.
    pub(crate) fn watch(start: usize, len: usize) -> Self {
        INSTALL.call_once(install);
        let entry = {
            let mut free = FREE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if free.is_empty() {
                grow(&mut free);
            }
            free.pop()
        };
        if let Some(entry) = entry {
            entry.dead.store(false, Ordering::Relaxed);
            entry.set(start, len);
        }
        Self(entry)
    }

    #[inline]
    pub(crate) fn is_dead(&self) -> bool {
        self.0.is_some_and(|entry| entry.dead.load(Ordering::Relaxed))
    }

    /// Ends the watch; to be called before the range is unmapped.
    pub(crate) fn forget(&mut self) {
        if let Some(entry) = self.0.take() {
            entry.set(0, 0);
            FREE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(entry);
        }
    }
}

fn grow(free: &mut Vec<&'static Entry>) {
    let Some(place) = TABLE.iter().find(|chunk| chunk.load(Ordering::Relaxed).is_null()) else { return };
    let chunk: &'static [Entry; CHUNK] = Box::leak(Box::new(std::array::from_fn(|_| Entry::default())));
    place.store(std::ptr::from_ref(chunk).cast_mut(), Ordering::Release);
    free.extend(chunk.iter());
}

#[cfg(miri)]
fn install() {}

#[cfg(not(miri))]
static PREVIOUS: std::sync::OnceLock<libc::sigaction> = std::sync::OnceLock::new();

#[cfg(not(miri))]
fn install() {
    // SAFETY: plain system calls with valid, zero-initialised structures; the handler below is
    // async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
        let mut previous: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut previous);
        let _ = PREVIOUS.set(previous);
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

#[cfg(not(miri))]
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let at = unsafe { (*info).si_addr() }.addr();
    for chunk in &TABLE {
        let chunk = chunk.load(Ordering::Acquire);
        if chunk.is_null() {
            break;
        }
        // SAFETY: chunks are leaked boxes, valid forever.
        for entry in unsafe { &*chunk } {
            let Some((start, len)) = entry.range() else { continue };
            if start != 0 && at >= start && at - start < len && bury(start, len) {
                entry.dead.store(true, Ordering::Release);
                DEATHS.fetch_add(1, Ordering::Release);
                return;
            }
        }
    }
    pass_on(signal, info, context);
}

/// Puts zero pages over a dead mapping.
#[cfg(not(miri))]
fn bury(start: usize, len: usize) -> bool {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the range is one of our own live mappings (an entry is cleared before its range is unmapped),
    // and stays mapped: only what backs it changes. errno is restored for the interrupted code.
    unsafe {
        let errno = *libc::__errno_location();
        let address = std::ptr::without_provenance_mut(start);
        let placed = libc::mmap(address, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        *libc::__errno_location() = errno;
        placed != libc::MAP_FAILED
    }
}

/// A fault that is none of ours: give it to the handler that was there before, or die of it.
#[cfg(not(miri))]
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get();
    match previous.map_or(libc::SIG_DFL, |action| action.sa_sigaction) {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: restoring the default action; the access is repeated and ends the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        handler if previous.is_some_and(|action| action.sa_flags & libc::SA_SIGINFO != 0) => {
            // SAFETY: the value was installed as an SA_SIGINFO handler by someone else in this process.
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: the value was installed as a plain handler by someone else in this process.
            let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_whole_or_not_at_all() {
        let (entry, done) = (Entry::default(), AtomicBool::new(false));
        let rounds = if cfg!(miri) { 200 } else { 200_000 };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut seen = 0;
                        while !done.load(Ordering::Relaxed) || seen == 0 {
                            if let Some((start, len)) = entry.range() {
                                assert_eq!(start, len * 3, "a start and a length of different ranges");
                                seen += 1;
                            }
                            std::thread::yield_now();
                        }
                        seen
                    })
                })
                .collect();
            for round in 1..=rounds {
                entry.set(round * 3, round);
                entry.set(0, 0);
            }
            done.store(true, Ordering::Relaxed);
            assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
        });
        assert_eq!(entry.range(), Some((0, 0)));
    }

    #[test]
    fn a_range_that_changes_is_not_read() {
        let entry = Entry::default();
        entry.set(4096, 8192);
        assert_eq!(entry.range(), Some((4096, 8192)));
        entry.sequence.fetch_add(1, Ordering::Relaxed);
        assert_eq!(entry.range(), None);
    }
}
