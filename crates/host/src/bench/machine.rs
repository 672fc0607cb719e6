//! What a chart was measured on.

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The machine, the program and the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Machine {
    /// Model of the CPU as the kernel names it, or the architecture.
    pub(super) cpu: String,
    /// CPUs that this process may use.
    pub(super) cpus: usize,
    /// Name and release of the kernel.
    pub(super) kernel: String,
    /// Version of the program.
    pub(super) ringway: &'static str,
    /// Whether the compiler was asked for speed.
    pub(super) optimised: bool,
    /// Universal time, RFC 3339.
    pub(super) date: String,
}

impl Machine {
    /// This one, now.
    pub(super) fn here() -> Self {
        let system = rustix::system::uname();
        let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self {
            cpu: model(&cpuinfo).unwrap_or_else(|| text(system.machine())),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("{} {}", text(system.sysname()), text(system.release())),
            ringway: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
            date: now.format(&Rfc3339).unwrap_or_default(),
        }
    }

    /// All of it in a line.
    pub(super) fn line(&self) -> String {
        let Self { cpu, cpus, kernel, ringway, .. } = self;
        let build = if self.optimised { "" } else { ", not optimised" };
        let day = self.date.split('T').next().unwrap_or_default();
        format!("{cpus} × {cpu}, {kernel}, ringway {ringway}{build}, {day}")
    }
}

fn model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    let words: Vec<&str> = line.split_once(':')?.1.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_read_and_the_line_is_whole() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some  CPU @ 2 GHz\nmodel name\t: other\n";
        assert_eq!(model(cpuinfo).as_deref(), Some("Some CPU @ 2 GHz"));
        assert_eq!(model("processor\t: 0\n"), None);
        let machine = Machine {
            cpu: "Some CPU".into(),
            cpus: 2,
            kernel: "Linux 6.18".into(),
            ringway: "0.1.0",
            optimised: true,
            date: "2026-11-23T08:00:00Z".into(),
        };
        assert_eq!(machine.line(), "2 × Some CPU, Linux 6.18, ringway 0.1.0, 2026-11-23");
        let here = Machine::here();
        assert!(here.cpus >= 1 && here.kernel.starts_with("Linux ") && here.date.ends_with('Z'));
    }
}
