//! Steps of a command: a line with the elapsed time before each, a count of what passed, one summary line at the end.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

/// Which lines of a test run are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// All of them.
    All,
    /// All but those that say that a test passed.
    Failures,
}

/// What has run so far.
pub(crate) struct Steps {
    start: Instant,
    on_stderr: bool,
    passed: u64,
    failed: u64,
    failures: Vec<String>,
}

/// A step that runs beside others.
pub(crate) struct Background {
    what: String,
    child: std::io::Result<Child>,
}

impl Steps {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), on_stderr: false, passed: 0, failed: 0, failures: Vec::new() }
    }

    /// As [`start`](Self::start), with progress on standard error: for commands whose standard output is data.
    pub(crate) fn start_on_stderr() -> Self {
        Self { on_stderr: true, ..Self::start() }
    }

    /// Prints a progress line with the elapsed time.
    pub(crate) fn say(&self, what: &str) {
        let line = format!("[{:7.1} s] {what}", self.start.elapsed().as_secs_f64());
        if self.on_stderr { eprintln!("{line}") } else { println!("{line}") }
    }

    /// Counts a failure.
    pub(crate) fn fail(&mut self, what: &str, why: &str) {
        self.failed += 1;
        self.say(&format!("FAILED {what}: {why}"));
        self.failures.push(what.to_owned());
    }

    /// Runs a command as one step; its output goes straight through. Says whether it succeeded.
    pub(crate) fn run(&mut self, what: &str, command: &mut Command) -> bool {
        self.say(what);
        if self.on_stderr {
            command.stdout(std::io::stderr());
        }
        match command.status() {
            Ok(status) if status.success() => {
                self.passed += 1;
                return true;
            }
            Ok(status) => self.fail(what, &status.to_string()),
            Err(error) => self.fail(what, &format!("{:?}: {error}", command.get_program())),
        }
        false
    }

    /// Starts a command as one step that runs beside the next ones; [`join`](Self::join) counts it.
    pub(crate) fn begin(&mut self, what: &str, command: &mut Command) -> Background {
        self.say(&format!("{what} (in the background)"));
        Background { what: what.to_owned(), child: command.spawn() }
    }

    /// Waits for a step that was begun. Says whether it succeeded.
    pub(crate) fn join(&mut self, background: Background) -> bool {
        match background.child.and_then(|mut child| child.wait()) {
            Ok(status) if status.success() => {
                self.passed += 1;
                return true;
            }
            Ok(status) => self.fail(&background.what, &status.to_string()),
            Err(error) => self.fail(&background.what, &error.to_string()),
        }
        false
    }

    /// Runs a function as one step. Says whether it succeeded.
    pub(crate) fn check(&mut self, what: &str, function: impl FnOnce() -> anyhow::Result<()>) -> bool {
        self.say(what);
        match function() {
            Ok(()) => {
                self.passed += 1;
                true
            }
            Err(error) => {
                self.fail(what, &format!("{error:#}"));
                false
            }
        }
    }

    /// Runs a command that prints results as Rust's test harness does, and counts its tests.
    pub(crate) fn run_tests(&mut self, what: &str, show: Show, command: &mut Command) -> bool {
        self.say(what);
        let mut child = match command.stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => {
                self.fail(what, &format!("{:?}: {error}", command.get_program()));
                return false;
            }
        };
        let failed_before = self.failed;
        let mut names = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                self.test_line(what, show, &String::from_utf8_lossy(&line), &mut names);
            }
        }
        let success = child.wait().is_ok_and(|status| status.success());
        self.failures.append(&mut names);
        if !success && self.failed == failed_before {
            self.fail(what, "did not finish");
        }
        success
    }

    fn test_line(&mut self, what: &str, show: Show, line: &str, names: &mut Vec<String>) {
        if let Some((passed, failed)) = test_result(line) {
            self.passed += passed;
            self.failed += failed;
            if passed + failed > 0 {
                self.say(&format!("{what}: {passed} passed, {failed} failed"));
            }
            return;
        }
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            names.push(format!("{what}: {name}"));
        }
        let quiet = line.is_empty()
            || line.starts_with("running ")
            || (line.starts_with("test ") && line.trim_end().ends_with("... ok"));
        if show == Show::All || !quiet {
            println!("{line}");
        }
    }

    /// Prints what failed and the summary line; the exit status of the command.
    pub(crate) fn finish(self) -> ExitCode {
        self.say("done");
        for name in &self.failures {
            println!("failed: {name}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The two counts of a harness's `test result:` line.
fn test_result(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let count = |word: &str| {
        let end = rest.find(&format!(" {word}"))?;
        let digits = rest[..end].rsplit(' ').next()?;
        digits.parse().ok()
    };
    Some((count("passed")?, count("failed")?))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn reads_the_harness_result_line() {
        let line =
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(test_result(line), Some((12, 0)));
        assert_eq!(test_result("test result: FAILED. 2 passed; 1 failed; 0 ignored"), Some((2, 1)));
        assert_eq!(test_result("test a ... ok"), None);
    }

    #[test]
    fn counts_tests_and_remembers_the_failed_ones() {
        let mut steps = Steps::start();
        let script = "echo 'test a ... ok'; echo 'test b ... FAILED'; \
                      echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'; exit 1";
        assert!(!steps.run_tests("unit", Show::Failures, Command::new("sh").args(["-c", script])));
        assert_eq!((steps.passed, steps.failed), (1, 1));
        assert_eq!(steps.failures, ["unit: b"]);
    }

    #[test]
    fn a_background_step_is_counted_when_it_is_joined() {
        let mut steps = Steps::start();
        let good = steps.begin("good", &mut Command::new("true"));
        let bad = steps.begin("bad", &mut Command::new("false"));
        let absent = steps.begin("absent", &mut Command::new("/nonexistent"));
        assert_eq!((steps.passed, steps.failed), (0, 0));
        assert!(steps.join(good) && !steps.join(bad) && !steps.join(absent));
        assert_eq!((steps.passed, steps.failed), (1, 2));
    }

    #[test]
    fn a_run_that_dies_before_any_result_is_a_failure() {
        let mut steps = Steps::start();
        assert!(!steps.run_tests("unit", Show::All, Command::new("sh").args(["-c", "exit 101"])));
        assert_eq!((steps.passed, steps.failed), (0, 1));
    }
}
