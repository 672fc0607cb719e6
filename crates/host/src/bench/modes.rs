//! The arrangements of workers that charts compare.

use rustix::thread::CpuSet;

/// One arrangement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    pub(super) name: &'static str,
    /// The body of `[workers]`.
    pub(super) body: String,
    /// CPUs that are left to the guests' threads; empty: they run where the kernel puts them, as these workers do.
    pub(super) guest_cpus: Vec<usize>,
}

/// One thread a device.
pub(super) fn per_device() -> Mode {
    Mode { name: "per-device", body: "mode = \"per-device\"".into(), guest_cpus: Vec::new() }
}

/// A pool with half as many threads as there are CPUs, so that guests have the others.
pub(super) fn pool() -> Mode {
    let threads = worker_cpus().len();
    Mode { name: "pool", body: format!("mode = \"pool\"\nthreads = {threads}"), guest_cpus: Vec::new() }
}

/// Sidecores on half of the CPUs; guests have the others. `polling`: as in the configuration.
pub(super) fn sidecore(polling: &str) -> Mode {
    let cpus = worker_cpus();
    let body =
        format!("mode = \"sidecore\"\nthreads = {}\ncpus = {cpus:?}\npolling = \"{polling}\"", cpus.len());
    Mode { name: "sidecore", body, guest_cpus: others(&cpus) }
}

/// One sidecore that never sleeps.
pub(super) fn one_polling() -> Mode {
    let cpu = worker_cpus().pop().unwrap_or(0);
    let body = format!("mode = \"sidecore\"\nthreads = 1\ncpus = [{cpu}]\npolling = \"always\"");
    Mode { name: "polling", body, guest_cpus: others(&[cpu]) }
}

/// One thread on a CPU of its own that sleeps when it has no work.
pub(super) fn one_of_its_own() -> Mode {
    let cpu = worker_cpus().pop().unwrap_or(0);
    let body = format!("mode = \"pool\"\nthreads = 1\ncpus = [{cpu}]");
    Mode { name: "pool", body, guest_cpus: others(&[cpu]) }
}

/// CPUs that this process may use and a configuration can name.
fn all_cpus() -> Vec<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU.min(1024)).filter(|cpu| allowed.is_set(*cpu)).collect()
}

/// The last half of the CPUs, one at least.
pub(super) fn worker_cpus() -> Vec<usize> {
    let all = all_cpus();
    let first = all.len().saturating_sub((all.len() / 2).max(1));
    if all.is_empty() { vec![0] } else { all[first..].to_vec() }
}

/// All CPUs but these.
fn others(cpus: &[usize]) -> Vec<usize> {
    all_cpus().into_iter().filter(|cpu| !cpus.contains(cpu)).collect()
}

/// Keeps this thread to some CPUs, if any are named.
pub(super) fn pin(cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    if !cpus.is_empty() {
        // If it cannot be the figures are worse, and nothing else.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arrangement_is_accepted() {
        let polling = [sidecore("adaptive"), sidecore("always"), one_polling()];
        for mode in [per_device(), pool(), one_of_its_own()].into_iter().chain(polling) {
            let text =
                format!("[control]\nsocket = \"/nowhere/c.sock\"\n[workers]\n{}\n[switch.lan]\n", mode.body);
            let parsed = crate::config::parse(&text, std::path::Path::new("bench.toml"));
            let config = parsed.unwrap_or_else(|error| panic!("{error}")).config;
            let taken = config.workers.cpus.iter().any(|cpu| mode.guest_cpus.contains(cpu));
            assert!(!taken, "guests keep away from {:?}", config.workers.cpus);
        }
        assert!(!worker_cpus().is_empty());
    }
}
