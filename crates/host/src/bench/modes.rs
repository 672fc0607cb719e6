//! The arrangements of workers that charts compare.

/// One arrangement.
pub(super) struct Mode {
    pub(super) name: &'static str,
    /// The body of `[workers]`.
    pub(super) workers: String,
}

/// All of them. A pool has half as many threads as there are CPUs, so that guests have the others.
pub(super) fn modes() -> Vec<Mode> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cpus / 2).max(1);
    vec![
        Mode { name: "per-device", workers: "mode = \"per-device\"".into() },
        Mode { name: "pool", workers: format!("mode = \"pool\"\nthreads = {threads}") },
    ]
}
