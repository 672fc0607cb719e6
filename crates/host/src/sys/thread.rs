//! What the kernel counts of a thread.

use std::mem::MaybeUninit;

/// How often the kernel has taken the CPU away from the calling thread, to give it to another one.
pub(crate) fn preemptions() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure is as large as the kernel's, and all zeroes are a value of it.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_nivcsw as u64
}

#[cfg(test)]
mod tests {
    /// Threads that never sleep, more of them than CPUs, are taken off.
    #[test]
    fn who_shares_a_cpu_is_preempted() {
        let threads = 2 * std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let work = || {
            while super::preemptions() == 0 && std::time::Instant::now() < end {}
            super::preemptions()
        };
        let counts: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(counts.iter().any(|count| *count > 0), "{counts:?}");
    }
}
