//! Tests of links on real interfaces: veth pairs and macvtaps in network namespaces of the test's own. Needs root.

mod filter;
mod macvtap;
mod model;
mod packet;
mod relay;
mod xdp;

use super::LinkPort;
use crate::config::resolved::{Attach, MacChange, PortConfig, Profile};
use devices::net::{Accepts, Frame, HeaderFormat, Offload, Software, TransmitRules, transmit};
use guestmem::MemSlice;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use switch::DropReason;

/// How long anything may take.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// An EtherType that the kernel's own chatter never has (IEEE 802, local experiments).
const OURS: u16 = 0x88b5;
const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Runs `body` on a thread with network and mount namespaces of its own, in which /sys shows the former.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let inside = move || {
        use rustix::thread::UnshareFlags;
        let flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
        #[expect(deprecated, reason = "the safe form: only network and mounts are left")]
        rustix::thread::unshare(flags).expect("namespaces of its own need root");
        run("mount --make-rprivate /");
        run("mount -t sysfs sysfs /sys");
        // The kernel's own frames would come between.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        body();
    };
    std::thread::spawn(inside).join().expect("see above");
}

/// Runs a program in the namespaces of this thread; what it prints.
fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let mut program = Command::new(words.next().unwrap());
    // Not /dev/null: some tests have another /dev.
    let output = program.args(words).stdin(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Two ends of one wire, `near` and `far`, both up.
fn wire() {
    run("ip link add near type veth peer name far");
    run("ip link set near up");
    run("ip link set far up");
    started(&["near", "far"]);
}

/// Waits until the kernel has started the transmit queues of interfaces with a link; it does that a while after, and loses
/// frames silently until then.
fn started(interfaces: &[&str]) {
    until(|| interfaces.iter().all(|name| run(&format!("ip link show {name}")).contains("state UP")));
}

/// Waits for what the kernel, or another test's child that is just being made, does a little later.
fn until(mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !reached() {
        assert!(Instant::now() < end, "it does not come to that");
    }
}

fn config(attach: &Attach) -> PortConfig {
    PortConfig {
        name: "uplink".into(),
        switch: "lan".into(),
        attach: attach.clone(),
        mac: None,
        mtu: None,
        profile: Profile::Open,
        offloads: true,
        settings: switch::PortSettings::default(),
        macs: Vec::new(),
        fdb: Vec::new(),
        mac_change: MacChange::Allow,
        qmp: None,
        workers: None,
        call_interval: Duration::ZERO,
    }
}

fn open(attach: Attach) -> LinkPort {
    LinkPort::open(&attach, &config(&attach)).unwrap()
}

/// The words with which `attach` is refused.
fn refusal(attach: Attach) -> String {
    LinkPort::open(&attach, &config(&attach)).err().expect("is refused").to_string()
}

fn packet_port(interface: &str) -> LinkPort {
    open(Attach::Packet { interface: interface.into() })
}

/// A frame of `len` bytes; `number` stands behind the EtherType.
fn frame(dst: [u8; 6], number: u16, len: usize) -> Vec<u8> {
    let mut bytes = [&dst[..], &[2, 0, 0, 0, 0, 0xff], &OURS.to_be_bytes(), &number.to_be_bytes()].concat();
    bytes.extend((bytes.len()..len).map(|at| (at * 7) as u8));
    bytes
}

/// `frame` with a tag behind its addresses.
fn tagged(frame: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    [&frame[..12], &tpid.to_be_bytes(), &tci.to_be_bytes(), &frame[12..]].concat()
}

/// An unsegmented TCP packet with `payload` bytes, and the header that asks for segments of 1000.
fn large_tcp(payload: usize) -> ([u8; 12], Vec<u8>) {
    let mut bytes = [&STATION[..], &OTHER, &[8, 0]].concat();
    let total = (40 + payload) as u16;
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    bytes.extend(ip);
    let mut tcp = [0; 20];
    tcp[..4].copy_from_slice(&[0x1f, 0x90, 0x1f, 0x91]);
    tcp[12..16].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]);
    bytes.extend(tcp);
    bytes.extend((0..payload).map(|at| (at % 251) as u8));
    ([1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0], bytes)
}

/// Sends a frame that lies in three pieces, as a guest's may; whether it was taken.
fn send_with(port: &LinkPort, header: [u8; 12], bytes: &[u8]) -> bool {
    let mut whole = [&header[..], bytes].concat();
    let third = whole.len().div_ceil(3);
    let segments: Vec<MemSlice<'_>> = whole.chunks_mut(third).map(MemSlice::from_mut).collect();
    let rules = TransmitRules { format: HeaderFormat::MODERN, accepts: Accepts::all() };
    let len = (header.len() + bytes.len()) as u32;
    let mut head = [0; 256];
    let frame = transmit::open_segments(&rules, &segments, len, &mut head).unwrap();
    write(port, &frame)
}

fn write(port: &LinkPort, frame: &Frame<'_>) -> bool {
    let queue = &port.queues[0];
    let _one_writer = queue.writing.lock();
    let taken = port.write(queue, frame, &mut Software::new());
    port.flush(queue);
    taken
}

fn send(port: &LinkPort, bytes: &[u8]) -> bool {
    send_with(port, [0; 12], bytes)
}

/// What is there now on any queue, header first.
fn poll_once(port: &LinkPort, buffer: &mut [u8]) -> Option<usize> {
    port.queues.iter().find_map(|queue| queue.read(buffer))
}

/// The next frame on any queue, with its virtio-net header; waits for it.
fn receive_with(port: &LinkPort) -> ([u8; 12], Vec<u8>) {
    let mut buffer = vec![0xee; 70_000];
    loop {
        if let Some(len) = poll_once(port, &mut buffer) {
            return (*buffer.first_chunk().unwrap(), buffer[12..len].to_vec());
        }
        let mut fds: Vec<PollFd<'_>> =
            port.queues.iter().map(|queue| PollFd::from_borrowed_fd(queue.fd(), PollFlags::IN)).collect();
        assert_ne!(poll(&mut fds, Some(&PATIENCE)).unwrap(), 0, "no frame came");
    }
}

fn receive(port: &LinkPort) -> Vec<u8> {
    receive_with(port).1
}

/// What the port makes of a frame it has read: the offload that the switch believes.
fn accepted(port: &LinkPort, header: [u8; 12], bytes: &[u8]) -> Offload {
    let mut whole = [&header[..], bytes].concat();
    let len = whole.len() as u32;
    let segments = [MemSlice::from_mut(&mut whole)];
    let mut head = [0; 256];
    transmit::open_segments(&port.rules, &segments, len, &mut head).unwrap().offload()
}

fn dropped(port: &LinkPort, reason: DropReason) -> u64 {
    port.queues.iter().map(|queue| queue.from_kernel.drops[reason.as_usize()].load(Relaxed)).sum()
}
