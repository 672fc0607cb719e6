//! `ringway top` on a terminal, against a real `ringway run`: it draws, notices a restart, and puts the terminal back in order
//! at every way out. The terminal is one of `script` (util-linux).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// Switches to the second screen of a terminal and back (xterm's private mode 1049).
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const LIMIT: Duration = Duration::from_secs(20);

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ringway"))
}

/// `ringway run` with one port that waits for its guest.
fn serve(directory: &Path) -> Running {
    let file = directory.join("ringway.toml");
    let (control, guest) = (directory.join("control.sock"), directory.join("web.sock"));
    let text = format!(
        "[control]\nsocket = {control:?}\n[workers]\nmode = \"pool\"\nthreads = 1\n[switch.lan]\n\
         [port.web]\nswitch = \"lan\"\nvhost-user = {{ socket = {guest:?} }}\nmac = \"52:54:00:00:00:01\"\n"
    );
    fs::write(&file, text).expect("written");
    let child = Command::new(binary()).arg("run").arg(&file).stderr(Stdio::null()).spawn().expect("started");
    let served = Running(child);
    wait("the control socket", || std::os::unix::net::UnixStream::connect(&control).is_ok());
    served
}

/// `ringway top` on a terminal of its own, whose output goes to a file.
struct Top {
    script: Running,
    keys: ChildStdin,
    output: PathBuf,
}

impl Top {
    fn start(directory: &Path) -> Top {
        let output = directory.join("screen");
        let control = directory.join("control.sock");
        let line = format!(
            "stty rows 30 cols 120; exec {} --socket {} top --interval 0.2",
            binary().display(),
            control.display()
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--flush", "--return", "--command", &line]).arg(&output);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).env("TERM", "xterm").env("SHELL", "/bin/sh");
        let mut script = Running(command.spawn().expect("script, of util-linux"));
        let keys = script.0.stdin.take().expect("a pipe");
        let top = Top { script, keys, output };
        wait("the first screen", || top.screen().contains("process"));
        top
    }

    /// All that was written to the terminal so far.
    fn screen(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("typed");
        self.keys.flush().expect("typed");
    }

    /// The process of `ringway top` itself.
    fn pid(&self) -> u32 {
        let id = self.script.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("children");
        children.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a child")
    }

    /// Waits for the end; the exit status is that of `ringway top`.
    fn end(mut self) -> (i32, String) {
        let mut status = None;
        wait("the end", || {
            status = self.script.0.try_wait().expect("a child");
            status.is_some()
        });
        (status.and_then(|status| status.code()).unwrap_or(-1), self.screen())
    }
}

fn in_order(screen: &str) {
    assert_eq!(screen.matches(ENTER).count(), 1, "{screen:?}");
    let (before, after) = screen.rsplit_once(LEAVE).unwrap_or_else(|| panic!("{screen:?}"));
    assert!(before.contains(ENTER) && !after.contains("\x1b[?1049h"), "{screen:?}");
    assert!(screen.contains("\x1b[?25h"), "the cursor stays hidden: {screen:?}");
}

#[test]
fn q_and_control_c_leave_a_terminal_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let _served = serve(directory.path());
    for key in ["q", "\x03"] {
        let mut top = Top::start(directory.path());
        wait("the port", || top.screen().contains("waiting"));
        top.press(key);
        let (status, screen) = top.end();
        assert_eq!(status, 0, "{screen:?}");
        in_order(&screen);
        fs::remove_file(directory.path().join("screen")).expect("removed");
    }
}

#[test]
fn a_signal_leaves_a_terminal_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let _served = serve(directory.path());
    let top = Top::start(directory.path());
    let killed = Command::new("kill").arg("-TERM").arg(top.pid().to_string()).status().expect("kill");
    assert!(killed.success());
    in_order(&top.end().1);
}

#[test]
fn a_restart_is_told_and_survived() {
    let directory = tempfile::tempdir().expect("a directory");
    let served = serve(directory.path());
    let mut top = Top::start(directory.path());
    drop(served);
    wait("the silence", || top.screen().contains("ANSWER"));
    let _served = serve(directory.path());
    wait("the restart", || top.screen().contains("restarted"));
    top.press("q");
    let (status, screen) = top.end();
    assert_eq!(status, 0);
    in_order(&screen);
}

#[test]
fn once_is_plain_text_and_nobody_to_ask_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let served = serve(directory.path());
    let control = directory.path().join("control.sock");
    let top = |more: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("--socket").arg(&control).arg("top").args(more);
        command.stdin(Stdio::null()).output().expect("run")
    };
    let output = top(&["--once", "--interval", "0.2"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success());
    assert!(!text.contains('\x1b'), "{text:?}");
    let row = text.lines().find(|line| line.starts_with("web")).unwrap_or_else(|| panic!("{text}"));
    assert!(row.contains("lan") && row.contains("waiting") && row.contains("0 b/s"), "{text}");
    let output = top(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--once"), "{output:?}");
    drop(served);
    let output = top(&["--once"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no ringway answers"), "{output:?}");
}
