//! How much of the CPUs other programs had while something was measured: what a chart may be wrong about.

use super::statistics::ratio;

/// CPU time up to a moment, in the kernel's ticks (proc(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuTimes {
    /// Of all CPUs: all time, and what was not idle, time that a hypervisor took included.
    all: u64,
    busy: u64,
    /// Of this process.
    own: u64,
}

impl CpuTimes {
    /// Now; zeros where the kernel does not tell.
    pub(super) fn now() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/stat"), &read("/proc/self/stat")).unwrap_or_default()
    }

    fn parse(system: &str, process: &str) -> Option<Self> {
        // user nice system idle iowait irq softirq steal; what follows is part of the first two.
        let fields = system.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let times: Vec<u64> = fields.take(8).map_while(|field| field.parse().ok()).collect();
        let all: u64 = times.iter().sum();
        let idle: u64 = times.iter().skip(3).take(2).sum();
        // The name may hold anything but ends with the last bracket; user and system time are fields 14 and 15.
        let after_name = process.rsplit_once(')')?.1;
        let own =
            after_name.split_whitespace().skip(11).take(2).map_while(|field| field.parse::<u64>().ok()).sum();
        Some(Self { all, busy: all - idle, own })
    }

    /// Share of all CPUs' time since `earlier` that others had, 0 to 1.
    pub(super) fn others_since(&self, earlier: &Self) -> f64 {
        let own = self.own.saturating_sub(earlier.own);
        let others = self.busy.saturating_sub(earlier.busy).saturating_sub(own);
        ratio(others as f64, self.all.saturating_sub(earlier.all) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_had_is_what_is_busy_and_not_ours() {
        let system = |busy: u64, idle: u64| format!("cpu  {busy} 0 10 {idle} 0 0 0 5 7 0\ncpu0 1 2 3\n");
        let process =
            |user: u64| format!("42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 {user} 20 0 0 20 0 9");
        let early = CpuTimes::parse(&system(100, 1000), &process(30)).unwrap();
        assert_eq!(early, CpuTimes { all: 1115, busy: 115, own: 50 });
        let late = CpuTimes::parse(&system(180, 1020), &process(90)).unwrap();
        assert_eq!(late.others_since(&early), 0.2);
        assert_eq!(CpuTimes::parse("", "").unwrap_or_default(), CpuTimes::default());
        assert_eq!(early.others_since(&early), 0.0);
        let now = CpuTimes::now();
        assert!(now.busy > 0 && now.all >= now.busy, "{now:?}");
    }
}
