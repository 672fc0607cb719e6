//! Uplinks over veth pairs in network namespaces of the tests' own; a packet socket is the other end. Needs root.

mod lane;

use super::{Attached, Layout, XdpQueue, open};
use crate::config::resolved::XdpMode;
use crate::plane::link::interface::Reader;
use crate::sys::TAP_HEADER_LEN;
use devices::net::{Frame, Offload};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything here may take.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// An Ethernet type for local experiments (IEEE 802): the kernel's own chatter has others.
const EXPERIMENT: [u8; 2] = [0x88, 0xB5];
/// Says that the process is the one to be killed, and which mode it uses.
const VICTIM: &str = "RINGWAY_TEST_XDP_VICTIM";

/// Runs `body` in a network namespace that goes with its thread.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        #[expect(deprecated, reason = "the safe form: only the network is left")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("root");
        // The kernel's own frames would come between.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        body();
    });
    thread.join().unwrap();
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A veth pair `up0`, `far0`, switched on.
fn pair(more: &str) {
    ip(&format!("link add up0{more} type veth peer name far0{more}"));
    ip("link set far0 up");
    ip("link set up0 up");
    // Until the kernel has started the queues, a little later, it loses frames silently.
    let end = Instant::now() + Duration::from_secs(10);
    while !["up0", "far0"].iter().all(|name| ip(&format!("link show {name}")).contains("state UP")) {
        assert!(Instant::now() < end, "no link");
    }
}

fn uplink(queues: u16, mode: XdpMode) -> io::Result<(Attached, Vec<XdpQueue>)> {
    open("up0", &Reader::open()?.read("up0")?, queues, mode)
}

fn refusal(queues: u16, mode: XdpMode) -> (ErrorKind, String) {
    let Err(error) = uplink(queues, mode) else { panic!("it opened") };
    (error.kind(), error.to_string())
}

/// A packet socket on the other end.
fn far_end() -> OwnedFd {
    let all = rustix::net::Protocol::from_raw(u32::from(3u16.to_be()).try_into().unwrap());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(all)).unwrap();
    crate::sys::bind(&socket, Reader::open().unwrap().read("far0").unwrap().index).unwrap();
    socket
}

/// `len` bytes of a frame that `seed` is known by.
fn frame(len: usize, seed: u32) -> Vec<u8> {
    let mut bytes = [&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8], &EXPERIMENT[..], &seed.to_be_bytes()].concat();
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    while bytes.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.push((state >> 24) as u8);
    }
    bytes.truncate(len);
    bytes
}

fn is_ours(bytes: &[u8]) -> bool {
    bytes.get(12..14) == Some(&EXPERIMENT[..]) || bytes.get(16..18) == Some(&EXPERIMENT[..])
}

#[track_caller]
fn await_readable(fd: BorrowedFd<'_>) {
    let ready = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&PATIENCE)).unwrap();
    assert_eq!(ready, 1, "nothing came");
}

/// The next frame of ours that the queue gives.
#[track_caller]
fn next(queue: &XdpQueue) -> Vec<u8> {
    let mut buffer = vec![0xAA; 65_600];
    loop {
        while let Some(len) = queue.read(&mut buffer) {
            assert_eq!(buffer[..TAP_HEADER_LEN], [0; TAP_HEADER_LEN]);
            if is_ours(&buffer[TAP_HEADER_LEN..len]) {
                return buffer[TAP_HEADER_LEN..len].to_vec();
            }
        }
        await_readable(queue.fd());
    }
}

/// The next frame of ours at the other end.
#[track_caller]
fn next_far(socket: &OwnedFd) -> Vec<u8> {
    let mut buffer = vec![0; 65_600];
    loop {
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((len, _)) if is_ours(&buffer[..len]) => return buffer[..len].to_vec(),
            Ok(_) => {}
            Err(_) => await_readable(socket.as_fd()),
        }
    }
}

fn put(queue: &XdpQueue, bytes: &[u8]) -> bool {
    queue.write(&Frame::private(bytes, Offload::None))
}

fn has_program() -> bool {
    ip("-d link show dev up0").contains("prog/xdp")
}

fn frames_cross_unchanged(mode: XdpMode, mtu: usize, described: &str) {
    let (attached, queues) = uplink(1, mode).unwrap();
    assert_eq!(attached.describe(), described);
    assert!(has_program());
    let (queue, far) = (&queues[0], far_end());
    for (seed, len) in [18, 60, 61, 64, 127, 1024, mtu + 13, mtu + 14].into_iter().enumerate() {
        let bytes = frame(len, seed as u32);
        assert_eq!(send(&far, &bytes, SendFlags::empty()), Ok(len));
        assert_eq!(next(queue), bytes, "inwards, {len} bytes");
        assert!(put(queue, &bytes));
        queue.flush();
        assert_eq!(next_far(&far), bytes, "outwards, {len} bytes");
    }
    assert_eq!(queue.missed().unwrap(), 0);
    drop((attached, queues));
    assert!(!has_program());
}

#[test]
fn frames_cross_unchanged_in_both_modes() {
    in_namespace(|| {
        pair("");
        frames_cross_unchanged(XdpMode::Generic, 1500, "generic, copy");
        frames_cross_unchanged(XdpMode::Native, 1500, "native, copy");
        frames_cross_unchanged(XdpMode::Auto, 1500, "native, copy");
    });
}

#[test]
fn vlan_tags_stay_in_frames() {
    in_namespace(|| {
        pair("");
        for mode in [XdpMode::Generic, XdpMode::Native] {
            // A packet socket takes tags out, so both ends are AF_XDP.
            let far0 = Reader::open().unwrap().read("far0").unwrap();
            let (near, far) = (uplink(1, mode).unwrap(), open("far0", &far0, 1, mode).unwrap());
            let mut tagged = frame(200, 77);
            tagged.splice(12..12, [0x81, 0x00, 0x20, 0x64]);
            for (from, to) in [(&near, &far), (&far, &near)] {
                assert!(put(&from.1[0], &tagged));
                from.1[0].flush();
                assert_eq!(next(&to.1[0]), tagged, "{mode:?}");
            }
        }
    });
}

#[test]
fn jumbo_frames_travel_in_pieces() {
    assert_eq!(Layout::of_mtu(1500), Layout { frame_len: 2048, pieces: false });
    assert_eq!(Layout::of_mtu(3800), Layout { frame_len: 4096, pieces: false });
    assert_eq!(Layout::of_mtu(3820), Layout { frame_len: 4096, pieces: true });
    assert_eq!(Layout::of_mtu(u32::MAX), Layout { frame_len: 4096, pieces: true });
    in_namespace(|| {
        pair("");
        for mtu in [3500, 9000] {
            ip(&format!("link set far0 mtu {mtu}"));
            ip(&format!("link set up0 mtu {mtu}"));
            frames_cross_unchanged(XdpMode::Native, mtu, "native, copy");
        }
        frames_cross_unchanged(XdpMode::Generic, 9000, "generic, copy");
    });
}

#[test]
fn ten_thousand_frames_arrive_in_order_both_ways() {
    const ALL: u32 = 10_000;
    /// What the packet socket's buffer holds.
    const GROUP: u32 = 100;
    in_namespace(|| {
        pair("");
        for mode in [XdpMode::Native, XdpMode::Generic] {
            let (_attached, queues) = uplink(1, mode).unwrap();
            let (queue, far) = (&queues[0], far_end());
            for first in (0..ALL).step_by(GROUP as usize) {
                for seed in first..first + GROUP {
                    send(&far, &frame(60, seed), SendFlags::empty()).unwrap();
                    assert!(put(queue, &frame(60, !seed)));
                }
                queue.flush();
                for seed in first..first + GROUP {
                    assert_eq!(next(queue), frame(60, seed));
                    assert_eq!(next_far(&far), frame(60, !seed));
                }
            }
            assert_eq!(queue.missed().unwrap(), 0);
        }
    });
}

#[test]
fn a_reader_that_was_late_loses_frames_and_goes_on() {
    in_namespace(|| {
        pair("");
        let (_attached, queues) = uplink(1, XdpMode::Native).unwrap();
        let (queue, far) = (&queues[0], far_end());
        for round in 0..2 {
            for seed in 0..5000 {
                send(&far, &frame(60, seed), SendFlags::empty()).unwrap();
            }
            for seed in 0..2000 {
                assert_eq!(next(queue), frame(60, seed), "round {round}");
            }
            while queue.read(&mut [0; 4096]).is_some() {}
        }
        assert!((5000..=6000).contains(&queue.missed().unwrap()), "{:?}", queue.missed());
    });
}

#[test]
fn a_full_ring_refuses_and_a_link_that_comes_back_goes_on() {
    in_namespace(|| {
        pair("");
        let (_attached, queues) = uplink(1, XdpMode::Generic).unwrap();
        let (queue, far) = (&queues[0], far_end());
        assert!(!put(queue, &frame(2049, 1)), "longer than a frame of the UMEM");
        // More than the ring holds, sent by the writes themselves.
        assert!((0..5000).all(|seed| put(queue, &frame(60, seed))));
        ip("link set up0 down");
        let taken = (0..5000).take_while(|&seed| put(queue, &frame(60, seed))).count();
        assert!(taken <= 2048, "{taken}");
        queue.flush();
        ip("link set up0 up");
        queue.flush();
        // What had waited comes now, more than the other end's buffer holds: the last one may need to be sent again.
        let last = frame(60, 1 << 20);
        let mut buffer = [0; 64];
        let arrived = (0..100).any(|_| {
            assert!(put(queue, &last));
            queue.flush();
            let _ = poll(&mut [PollFd::new(&far, PollFlags::IN)], Some(&PATIENCE)).unwrap();
            std::iter::from_fn(|| {
                recv(&far, &mut buffer[..], RecvFlags::empty()).ok().map(|_| buffer[..60] == last)
            })
            .fold(false, |arrived, is_last| arrived | is_last)
        });
        assert!(arrived);
        // The other end sends once it has noticed that its carrier is back.
        let mut buffer = [0; 4096];
        let arrived = (0..100).any(|_| {
            send(&far, &last, SendFlags::empty()).unwrap();
            let step = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let _ = poll(&mut [PollFd::from_borrowed_fd(queue.fd(), PollFlags::IN)], Some(&step)).unwrap();
            std::iter::from_fn(|| queue.read(&mut buffer).map(|len| buffer[TAP_HEADER_LEN..len] == last))
                .fold(false, |arrived, is_last| arrived | is_last)
        });
        assert!(arrived);
    });
}

#[test]
fn a_queue_can_be_had_again_at_once() {
    in_namespace(|| {
        pair("");
        for round in 0..20 {
            let mode = if round % 2 == 0 { XdpMode::Native } else { XdpMode::Generic };
            let (_attached, queues) =
                uplink(1, mode).unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert!((0..100).all(|seed| put(&queues[0], &frame(1000, seed))));
            queues[0].flush();
        }
    });
}

#[test]
fn an_interface_that_goes_away_takes_nothing_more() {
    in_namespace(|| {
        pair("");
        let (_attached, queues) = uplink(1, XdpMode::Auto).unwrap();
        ip("link del up0");
        let queue = &queues[0];
        let refused = (0..5000).find(|&seed| !put(queue, &frame(60, seed)));
        assert!(refused.is_some_and(|count| count <= 2048), "{refused:?}");
        queue.flush();
        assert_eq!(queue.read(&mut [0; 4096]), None);
        assert_eq!(queue.missed().unwrap(), 0);
    });
}

#[test]
fn each_queue_has_a_socket() {
    in_namespace(|| {
        pair(" numrxqueues 2 numtxqueues 2");
        let (_attached, queues) = uplink(2, XdpMode::Native).unwrap();
        let far = far_end();
        for (index, queue) in queues.iter().enumerate() {
            let bytes = frame(100, index as u32);
            assert!(put(queue, &bytes));
            queue.flush();
            assert_eq!(next_far(&far), bytes);
        }
        let bytes = frame(100, 7);
        send(&far, &bytes, SendFlags::empty()).unwrap();
        let mut buffer = [0; 4096];
        let deadline = Instant::now() + Duration::from_secs(10);
        let len = loop {
            if let Some(len) = queues.iter().find_map(|queue| queue.read(&mut buffer))
                && is_ours(&buffer[TAP_HEADER_LEN..len])
            {
                break len;
            }
            assert!(Instant::now() < deadline);
        };
        assert_eq!(buffer[TAP_HEADER_LEN..len], bytes);
    });
}

#[test]
fn refusals_say_what_to_do() {
    in_namespace(|| {
        pair("");
        let (kind, text) = refusal(4, XdpMode::Auto);
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(
            text.contains("has 1 receive queues, not 4") && text.contains("ethtool -L up0 combined 4"),
            "{text}"
        );
        assert!(!has_program());

        let first = uplink(1, XdpMode::Auto).unwrap();
        for mode in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
            let (kind, text) = refusal(1, mode);
            assert_eq!(kind, ErrorKind::ResourceBusy, "{text}");
            assert!(text.contains("has an XDP program already"), "{text}");
        }
        drop(first);

        ip("link set up0 down");
        let (kind, text) = refusal(1, XdpMode::Auto);
        assert_eq!(kind, ErrorKind::NetworkDown);
        assert!(text.contains("ip link set up0 up"), "{text}");

        // The loopback interface's driver knows no XDP.
        ip("link set lo up");
        let lo = Reader::open().unwrap().read("lo").unwrap();
        let Err(error) = open("lo", &lo, 1, XdpMode::Native) else { panic!("native on lo") };
        assert!(error.to_string().contains("mode = \"auto\" or \"generic\""), "{error}");
        assert_eq!(open("lo", &lo, 1, XdpMode::Auto).unwrap().0.describe(), "generic, copy");
    });
}

#[test]
fn vlan_tags_are_taken_off_again_afterwards() {
    in_namespace(|| {
        pair("");
        assert!(crate::sys::xdp::strips_vlan_tags("up0").unwrap(), "veth says so");
        let opened = uplink(1, XdpMode::Auto).unwrap();
        assert!(!crate::sys::xdp::strips_vlan_tags("up0").unwrap());
        drop(opened);
        assert!(crate::sys::xdp::strips_vlan_tags("up0").unwrap());
    });
}

/// Not a test by itself: the process that [`a_kill_leaves_nothing_behind`] kills.
#[test]
fn victim() {
    let mode = match std::env::var(VICTIM).as_deref() {
        Ok("native") => XdpMode::Native,
        Ok("generic") => XdpMode::Generic,
        _ => return,
    };
    let (_attached, queues) = uplink(1, mode).unwrap();
    eprintln!("attached");
    let mut buffer = [0; 4096];
    loop {
        if queues[0].read(&mut buffer).is_none() {
            await_readable(queues[0].fd());
        }
    }
}

#[test]
fn a_kill_leaves_nothing_behind() {
    in_namespace(|| {
        pair("");
        ip("address add 10.77.0.1/24 dev up0");
        for mode in ["native", "generic"] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--nocapture",
                    "--exact",
                    &format!("{}::victim", module_path!().split_once("::").unwrap().1),
                ])
                .env(VICTIM, mode)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap().contains("attached")), "it never attached");
            assert!(has_program());
            let far = far_end();
            let question = arp_question();
            send(&far, &question, SendFlags::empty()).unwrap();

            kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
            child.wait().unwrap();
            assert!(!has_program(), "{mode}");
            // The kernel has its interface back: it answers.
            send(&far, &question, SendFlags::empty()).unwrap();
            let mut buffer = [0; 2048];
            let answer = loop {
                match recv(&far, &mut buffer[..], RecvFlags::empty()) {
                    Ok((len, _)) if len >= 42 && buffer[12..14] == [8, 6] && buffer[21] == 2 => {
                        break &buffer[..len];
                    }
                    Ok(_) => {}
                    Err(_) => await_readable(far.as_fd()),
                }
            };
            assert_eq!(answer[28..32], [10, 77, 0, 1]);
            // And the uplink can be had again.
            drop(uplink(1, XdpMode::Auto).unwrap());
        }
    });
}

/// Who has 10.77.0.1?
fn arp_question() -> Vec<u8> {
    let station = [2, 0, 0, 0, 0, 8];
    let fixed = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xFF; 6][..], &station, &fixed, &station, &[10, 77, 0, 2], &[0; 6], &[10, 77, 0, 1], &[0; 18]].concat()
}
