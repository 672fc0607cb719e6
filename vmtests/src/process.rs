//! Processes that a test starts: their output goes to a file, and they end with the value that stands for them.

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running process, leader of its own process group, whose output lies in a log file.
///
/// Dropping it kills the whole group.
#[derive(Debug)]
pub struct Peer {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Peer {
    /// Starts `command` with its output appended to `directory/NAME.log`. Standard input is as the command has it.
    pub fn start(name: &str, directory: &Path, command: &mut Command) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| log.display().to_string())?;
        let errors = file.try_clone()?;
        command.stdout(Stdio::from(file)).stderr(Stdio::from(errors)).process_group(0);
        let child = command.spawn().with_context(|| format!("start {name} ({:?})", command.get_program()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// The process id; programs of the peers' root keep it through `unshare` and `chroot`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's standard input, if the command piped it.
    pub fn stdin(&mut self) -> Option<&mut std::process::ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// Where the output lies.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The output so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to the process itself.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = pid_of(&self.child).context("process id")?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Kills the whole group at once.
    pub fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None))
            && let Some(pid) = pid_of(&self.child)
        {
            // The group may be gone already; then there is nothing left to end.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// Waits for the end, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{} still runs after {limit:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

/// Waits until `condition` answers true, at most `limit`; the error names `what`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() > end {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Nanoseconds that a thread of process `pid` has run, by the kernel's account: the busiest of the threads whose name begins
/// with `prefix`.
pub fn thread_ns(pid: u32, prefix: &str) -> anyhow::Result<u64> {
    threads_ns(pid, prefix)?
        .into_iter()
        .max()
        .with_context(|| format!("process {pid} has no thread {prefix}*"))
}

/// Nanoseconds that each thread of process `pid` has run whose name begins with `prefix`, in the order of their numbers.
pub fn threads_ns(pid: u32, prefix: &str) -> anyhow::Result<Vec<u64>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).context("threads")? {
        let task = entry?.path();
        let (Ok(name), Ok(account)) =
            (std::fs::read_to_string(task.join("comm")), std::fs::read_to_string(task.join("schedstat")))
        else {
            continue;
        };
        if name.starts_with(prefix) {
            let number: u32 =
                task.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(u32::MAX);
            all.push((number, ran_ns(&account)));
        }
    }
    all.sort_unstable();
    Ok(all.into_iter().map(|(_, ns)| ns).collect())
}

/// Nanoseconds that the calling thread has run, by the kernel's account.
pub fn own_ns() -> anyhow::Result<u64> {
    Ok(ran_ns(&std::fs::read_to_string("/proc/thread-self/schedstat").context("schedstat")?))
}

fn ran_ns(schedstat: &str) -> u64 {
    schedstat.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Processor time of a process since it began, all its threads and the kernel's work for them, to a hundredth of a second.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name stands in parentheses and may hold spaces; utime and stime are fields 14 and 15, counted from 1 (proc(5)).
    let rest = stat.rsplit_once(')').with_context(|| path.clone())?.1;
    let fields: Vec<u64> =
        rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
    let [user, system] = fields[..] else { bail!("{path}: {stat}") };
    Ok(Duration::from_millis((user + system) * 1000 / rustix::param::clock_ticks_per_second()))
}

/// Runs a short command to its end and gives its output; a failure is an error with what it printed.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{:?} {}: {}{}", command.get_program(), output.status, text, errors.trim_end());
    }
    Ok(text)
}

/// The last `count` lines of a text.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_dropped_peer_is_ended_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo child=$!; wait"]);
        let peer = Peer::start("sleeper", directory.path(), &mut command).unwrap();
        wait_until("the child", Duration::from_secs(5), || peer.log().contains("child=")).unwrap();
        let child = peer.log().trim().trim_start_matches("child=").to_owned();
        drop(peer);
        let stat = Path::new("/proc").join(&child).join("stat");
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        wait_until("the end of the child", Duration::from_secs(5), gone).unwrap();
    }

    #[test]
    fn output_of_a_failing_command_is_in_the_error() {
        let error = output(Command::new("sh").args(["-c", "echo reason >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("reason"), "{error}");
    }

    #[test]
    fn a_process_that_works_has_used_processor_time() {
        let (before, end) = (own_ns().unwrap(), Instant::now() + Duration::from_millis(50));
        while Instant::now() < end {}
        assert!(own_ns().unwrap() > before);
        assert!(processor_time(std::process::id()).unwrap() >= Duration::from_millis(10));
        assert!(!threads_ns(std::process::id(), "").unwrap().is_empty());
    }

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
    }
}
