//! `ringway capture` and `ringway trace` from end to end: guests on a real plane, the API on its socket, the program's output.

mod station;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pcap_parser::PcapBlockOwned;
use pcap_parser::pcapng::{Block, OptionCode, PcapNGSlice};
use pcap_parser::traits::PcapNGPacketBlock as _;
use ringway::api::change::Desired;
use ringway::api::server::{self, Listeners};
use ringway::api::view::TraceView;
use ringway::api::{Api, Plane};
use ringway::config::document::Document;
use ringway::config::resolved::ControlConfig;
use station::{Lab, MAC_A, MAC_B, PATIENCE, Station, frame, plain};

const POOL: &str = "mode = \"pool\"\nthreads = 1";
const GROUP_SOURCE: [u8; 6] = [3, 0, 0, 0, 0, 1];

/// A plane with ports a and b, and its API on a socket.
struct Host {
    lab: Lab,
    directory: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    fn start() -> Host {
        let lab = Lab::new(POOL, &["a", "b"]);
        let directory = tempfile::tempdir().expect("a directory");
        let control =
            ControlConfig { socket: directory.path().join("control.sock"), http: None, token_file: None };
        let file = directory.path().join("ringway.toml");
        std::fs::write(&file, "[switch.lan]\n").expect("written");
        let document = Document::load(&file).expect("no mistakes");
        let desired = Desired::new(document, file, &control).expect("no token is named");
        let api = Api::new(Arc::clone(&lab.plane) as Arc<dyn Plane>, Arc::new(desired));
        let listeners = Listeners::bind(&control).expect("bound");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let stop = async { drop(stopped.await) };
            runtime.block_on(server::serve(&listeners, &api, stop)).expect("served");
        });
        Host { lab, directory, stop: Some(stop), thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn ringway(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command.arg("--socket").arg(self.socket()).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a capture, and waits until it runs.
    fn capturing(&self, words: &[&str]) -> Capturing {
        let mut child = self.ringway(&[&["capture"], words].concat()).spawn().expect("started");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        log.read_line(&mut line).expect("a line");
        assert!(line.starts_with("capturing on "), "{line:?}");
        Capturing { child, log }
    }

    /// How many captures run: as many as are missing until the plane refuses one more.
    fn captures(&self) -> usize {
        let mut held = Vec::new();
        while let Ok(capture) = self.lab.plane.capture(&Default::default()) {
            held.push(capture);
        }
        ringway::capture::CAPTURES_MAX - held.len()
    }

    fn until_no_capture_runs(&self) {
        let late = Instant::now() + PATIENCE;
        while self.captures() > 0 {
            assert!(Instant::now() < late, "a capture outlives its client");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A capture that runs.
struct Capturing {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Capturing {
    /// Its exit code, and what else it printed, when it has ended.
    fn ended(mut self) -> (Option<i32>, String, String) {
        let mut log = String::new();
        self.log.read_to_string(&mut log).expect("text");
        let (code, out, _) = ended(self.child);
        (code, out, log)
    }
}

/// What a program that has ended printed.
fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().expect("ended");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Name of the port, `epb_flags`, comment and bytes of each frame, as another crate reads them.
fn frames(file: &Path) -> Vec<(String, u32, Option<String>, Vec<u8>)> {
    let bytes = std::fs::read(file).expect("a file");
    let mut ports = Vec::new();
    let mut frames = Vec::new();
    for block in PcapNGSlice::from_slice(&bytes).expect("a section") {
        match block.expect("a whole block") {
            PcapBlockOwned::NG(Block::InterfaceDescription(block)) => {
                ports.push(block.if_name().expect("a name").expect("text").to_owned());
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                let option = |code| block.options.iter().find(|option| option.code == OptionCode(code));
                let flags = option(2).expect("flags").as_u32_le().expect("four bytes");
                let comment = option(1).map(|comment| comment.as_str().expect("text").to_owned());
                frames.push((
                    ports[block.if_id as usize].clone(),
                    flags,
                    comment,
                    block.packet_data().to_vec(),
                ));
            }
            _ => {}
        }
    }
    frames
}

#[test]
fn a_file_has_every_frame_with_port_direction_and_reason() {
    let host = Host::start();
    let mut a = Station::connect(&host.lab.socket("a"), plain());
    let mut b = Station::connect(&host.lab.socket("b"), plain());
    let file = host.directory.path().join("out.pcapng");
    let capturing = host.capturing(&["a", "b", "-w", file.to_str().expect("text"), "--count", "3"]);
    let good = frame(MAC_B, MAC_A, b"hello", 1400);
    let bad = frame(MAC_B, GROUP_SOURCE, b"from a group", 60);
    a.send(&good);
    assert_eq!(b.receive().1, good);
    a.send(&bad);
    let (code, out, log) = capturing.ended();
    assert_eq!((code, out.as_str()), (Some(0), ""), "{log}");
    assert_eq!(log, "3 frames, 0 missed\n");
    let told = frames(&file);
    let frame = |port: &str, flags, comment: Option<&str>, bytes: &[u8]| {
        (port.to_owned(), flags, comment.map(str::to_owned), bytes.to_vec())
    };
    assert_eq!(
        told,
        [
            frame("a", 1, None, &good),
            frame("b", 2, None, &good),
            frame("a", 1, Some("drop: invalid-source"), &bad)
        ]
    );
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o077, 0);
    host.until_no_capture_runs();
}

#[test]
fn without_a_file_each_frame_is_a_line_and_ctrl_c_ends_it() {
    let host = Host::start();
    let mut a = Station::connect(&host.lab.socket("a"), plain());
    let mut capturing =
        host.capturing(&["a", "--drops", "--filter", "ether proto 0x88b5 or greater 60", "--snap-len", "20"]);
    a.send(&frame(MAC_B, GROUP_SOURCE, b"", 60));
    let mut lines = BufReader::new(capturing.child.stdout.take().expect("piped"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line");
    let (time, rest) = line.split_once(' ').expect("words");
    assert_eq!(time.len(), "01:02:03.000000".len());
    assert!(rest.starts_with("a in  03:00:00:00:00:01 > 02:00:00:00:00:0b "), "{line:?}");
    assert!(rest.ends_with(" (60 B) drop: invalid-source\n"), "{line:?}");
    let pid = rustix::process::Pid::from_child(&capturing.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
    let (code, _, log) = capturing.ended();
    assert_eq!((code, log.as_str()), (Some(0), "1 frames, 0 missed\n"));
    lines.read_to_string(&mut line).expect("the rest");
    assert_eq!(line.lines().count(), 1);
    host.until_no_capture_runs();
}

#[test]
fn a_capture_ends_with_its_client_and_after_its_time() {
    let host = Host::start();
    let mut capturing = host.capturing(&["-w", "-"]);
    capturing.child.kill().expect("killed");
    capturing.child.wait().expect("ended");
    host.until_no_capture_runs();
    let begun = Instant::now();
    let (code, bytes, log) = {
        let output = host.ringway(&["capture", "-w", "-", "--duration", "1"]).output().expect("ended");
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).expect("text"))
    };
    assert_eq!((code, log.as_str()), (Some(0), "capturing on all ports\n0 frames, 0 missed\n"));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let blocks: Vec<_> = PcapNGSlice::from_slice(&bytes).expect("a section").collect();
    assert_eq!(blocks.len(), 3, "the section and two interfaces");
    host.until_no_capture_runs();
}

#[test]
fn what_cannot_be_captured_is_said_and_no_file_is_touched() {
    let host = Host::start();
    let file = host.directory.path().join("old.pcapng");
    std::fs::write(&file, "old").expect("written");
    let fails = |words: &[&str]| {
        let words = [&["capture", "-w", file.to_str().expect("text")], words].concat();
        let (code, _, log) = ended(host.ringway(&words).spawn().expect("started"));
        assert_eq!(code, Some(1), "{log}");
        log
    };
    assert_eq!(fails(&["nobody"]), "ringway: there is no port \"nobody\"\n");
    let log = fails(&["--filter", "tcp port http"]);
    assert!(
        log.starts_with("ringway: filter, column 10: \"http\" does not fit; accepted: a port number"),
        "{log}"
    );
    assert!(fails(&["a&b"]).contains("a&b"));
    assert_eq!(std::fs::read(&file).expect("a file"), b"old");
}

#[test]
fn a_trace_tells_the_decision() {
    let host = Host::start();
    let traced =
        |words: &[&str]| ended(host.ringway(&[&["trace"], words].concat()).spawn().expect("started"));
    let (code, out, log) = traced(&["a", "src=02:00:00:00:00:0a", "arp=10.0.0.1,10.0.0.2"]);
    assert_eq!(code, Some(0), "{log}");
    let first = "a on lan: 02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff ARP who-has 10.0.0.2 tell 10.0.0.1 (60 B)\n";
    assert!(out.starts_with(first), "{out}");
    assert!(out.contains("└─ flood\n   ├─ → b  as-is\n"), "{out}");

    let (_, out, _) = traced(&["a", "--json", "src=03:00:00:00:00:01", "dst=02:00:00:00:00:0b"]);
    let view: TraceView = serde_json::from_str(&out).expect("JSON");
    assert_eq!((view.verdict.as_str(), view.drop.as_deref()), ("drop", Some("invalid-source")));
    assert!(view.steps.last().is_some_and(|step| !step.passed), "{view:?}");

    // What has been captured can be traced.
    let file = host.directory.path().join("frame");
    std::fs::write(&file, frame(MAC_B, MAC_A, b"bytes", 60)).expect("written");
    let (_, out, _) = traced(&["b", &format!("@{}", file.display())]);
    assert!(out.starts_with("b on lan: 02:00:00:00:00:0a > 02:00:00:00:00:0b "), "{out}");

    for (words, said) in [
        (&["nobody", "00"][..], "ringway: there is no port \"nobody\"\n"),
        (&["a", "0g"], "ringway: 'g' in column 2 of the frame does not fit; accepted: pairs of"),
        (&["a", "colour=red"], "ringway: \"colour=red\" is no part of a frame; accepted: src=MAC"),
        (&["a", "@/nonexistent"], "ringway: /nonexistent: No such file"),
    ] {
        let (code, _, log) = traced(words);
        assert_eq!(code, Some(1), "{log}");
        assert!(log.starts_with(said), "{log}");
    }
}
