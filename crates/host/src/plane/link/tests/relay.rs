//! Two kernels talk TCP through two packet ports: what real stacks leave unfinished comes through whole.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::channel;

const BYTES: usize = 8 << 20;

fn pattern(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

/// A thread with a network namespace of its own that gets `interface`; then `body` runs there.
fn elsewhere(
    interface: &str,
    address: &str,
    body: impl FnOnce() + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let (here, there) = (channel(), channel());
    let setup = [format!("ip addr add {address}/24 dev {interface}"), format!("ip link set {interface} up")];
    let thread = std::thread::spawn(move || {
        #[expect(deprecated, reason = "the safe form: only the network is left")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        here.0.send(rustix::thread::gettid()).unwrap();
        there.1.recv().unwrap();
        setup.iter().for_each(|command| drop(run(command)));
        body();
    });
    let tid = here.1.recv().unwrap().as_raw_nonzero();
    run(&format!("ip link set {interface} netns {tid}"));
    there.0.send(()).unwrap();
    thread
}

/// Moves frames between two ports until `done`; counts those longer than the MTU allows.
fn relay(ports: [&LinkPort; 2], done: &AtomicBool, large: &AtomicUsize) {
    let end = Instant::now() + Duration::from_secs(60);
    let mut buffer = vec![0; 70_000];
    while !done.load(Relaxed) {
        assert!(Instant::now() < end, "the transfer does not end");
        let mut idle = true;
        for (from, to) in [(ports[0], ports[1]), (ports[1], ports[0])] {
            let Some(len) = poll_once(from, &mut buffer) else { continue };
            idle = false;
            large.fetch_add(usize::from(len > 12 + 1518), Relaxed);
            let segments = [MemSlice::from_mut(&mut buffer[..len])];
            let mut head = [0; 256];
            let frame = transmit::open_segments(&from.rules, &segments, len as u32, &mut head).unwrap();
            write(to, &frame);
        }
        if idle {
            std::thread::yield_now();
        }
    }
}

/// One TCP stream from `left`'s other end to `right`'s, byte for byte; how many large frames passed.
fn stream_passes(left: &LinkPort, right: &LinkPort, far: [&str; 2]) -> usize {
    let done = Arc::new(AtomicBool::new(false));
    let (ready, listening) = channel();
    let finished = Arc::clone(&done);
    let server = elsewhere(far[0], "10.7.0.1", move || {
        let listener = TcpListener::bind("10.7.0.1:7000").unwrap();
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::with_capacity(BYTES);
        stream.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), BYTES);
        assert!(received.iter().enumerate().all(|(at, &byte)| byte == pattern(at)), "bytes changed");
        finished.store(true, Relaxed);
    });
    listening.recv().unwrap();
    let client = elsewhere(far[1], "10.7.0.2", || {
        let mut stream = TcpStream::connect("10.7.0.1:7000").unwrap();
        let bytes: Vec<u8> = (0..BYTES).map(pattern).collect();
        stream.write_all(&bytes).unwrap();
    });
    let large = AtomicUsize::new(0);
    relay([left, right], &done, &large);
    client.join().unwrap();
    server.join().unwrap();
    large.into_inner()
}

#[test]
fn tcp_passes_two_packet_ports() {
    in_namespace(|| {
        for number in 1..=2 {
            run(&format!("ip link add near{number} type veth peer name far{number}"));
            run(&format!("ip link set near{number} up"));
        }
        let (left, right) = (packet_port("near1"), packet_port("near2"));
        let large = stream_passes(&left, &right, ["far1", "far2"]);
        assert!(large > 100, "{large} unsegmented frames");
    });
}

#[test]
fn tcp_passes_a_macvtap_and_a_packet_port() {
    in_namespace(|| {
        for number in 1..=2 {
            run(&format!("ip link add near{number} type veth peer name far{number}"));
            run(&format!("ip link set near{number} up"));
        }
        run("ip link add link near1 name mv0 type macvtap mode passthru");
        run("ip link set mv0 up");
        let left = open(Attach::Macvtap { interface: "mv0".into(), fds: Vec::new(), queues: 2 });
        let right = packet_port("near2");
        let large = stream_passes(&left, &right, ["far1", "far2"]);
        assert!(large > 100, "{large} unsegmented frames");
    });
}

#[test]
fn without_offloads_a_macvtap_gives_only_frames_of_the_wire() {
    in_namespace(|| {
        for number in 1..=2 {
            run(&format!("ip link add near{number} type veth peer name far{number}"));
            run(&format!("ip link set near{number} up"));
        }
        run("ip link add link near1 name mv0 type macvtap mode passthru");
        run("ip link set mv0 up");
        let attach = Attach::Macvtap { interface: "mv0".into(), fds: Vec::new(), queues: 1 };
        let left = LinkPort::open(&attach, &PortConfig { offloads: false, ..config(&attach) }).unwrap();
        let right = packet_port("near2");
        // The stream runs from the packet port's side to the macvtap's and its acknowledgements back.
        stream_passes(&right, &left, ["far2", "far1"]);
    });
}
