//! The arrangements of workers that charts compare, as bodies of `[workers]`.

/// One arrangement.
pub(super) struct Mode {
    pub(super) name: &'static str,
    pub(super) workers: String,
}

/// One thread a device.
pub(super) const PER_DEVICE: &str = "mode = \"per-device\"";

/// One thread that never sleeps.
pub(super) const POLLING: &str = "mode = \"pool\"\nthreads = 1\npolling = \"always\"";

/// All of them. A pool has half as many threads as there are CPUs, so that guests have the others; so have sidecores, pinned.
pub(super) fn modes() -> [Mode; 3] {
    let threads = worker_cpus().len();
    [
        Mode { name: "per-device", workers: PER_DEVICE.into() },
        Mode { name: "pool", workers: format!("mode = \"pool\"\nthreads = {threads}") },
        Mode { name: "sidecore", workers: sidecore("adaptive") },
    ]
}

/// Sidecores on the CPUs that are theirs.
pub(super) fn sidecore(polling: &str) -> String {
    let cpus = worker_cpus();
    format!("mode = \"sidecore\"\nthreads = {}\ncpus = {cpus:?}\npolling = \"{polling}\"", cpus.len())
}

/// The last half of the CPUs that this process may use, one at least.
fn worker_cpus() -> Vec<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    // A configuration names CPUs below 1024 (`config::resolve`).
    let all: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU.min(1024)).filter(|cpu| allowed.is_set(*cpu)).collect();
    let first = all.len() - (all.len() / 2).max(1).min(all.len());
    if all.is_empty() { vec![0] } else { all[first..].to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arrangement_is_accepted() {
        let bodies = modes().map(|mode| mode.workers).into_iter().chain([POLLING.into(), sidecore("always")]);
        for body in bodies {
            let text = format!("[control]\nsocket = \"/nowhere/c.sock\"\n[workers]\n{body}\n[switch.lan]\n");
            crate::config::parse(&text, std::path::Path::new("bench.toml"))
                .unwrap_or_else(|error| panic!("{error}"));
        }
        assert!(!worker_cpus().is_empty());
    }
}
