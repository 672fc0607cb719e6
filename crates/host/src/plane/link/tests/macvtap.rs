//! Macvtaps on a veth: opened in each way, and what their filter does.

use super::*;
use crate::plane::link::filter::Wanted;
use std::os::fd::AsRawFd;

const GROUP: [u8; 6] = [1, 0, 0x5e, 1, 2, 3];
const OTHER_GROUP: [u8; 6] = [1, 0, 0x5e, 4, 5, 6];
const THIRD_GROUP: [u8; 6] = [1, 0, 0x5e, 7, 8, 9];

/// A macvtap `mv0` on `near`, up; its number.
fn macvtap(mode: &str) -> u32 {
    wire();
    run(&format!("ip link add link near name mv0 type macvtap mode {mode}"));
    run("ip link set mv0 up");
    started(&["mv0"]);
    let index = run("cat /sys/class/net/mv0/ifindex");
    index.trim().parse().unwrap()
}

fn attach(queues: u16, fds: Vec<i32>) -> Attach {
    Attach::Macvtap { interface: "mv0".into(), fds, queues }
}

fn both_ways(port: &LinkPort, far: &LinkPort) {
    for len in [60, 128, 245, 1514] {
        let sent = frame(STATION, len as u16, len);
        assert!(send(port, &sent));
        assert_eq!(receive(far), sent);
        let back = frame(OTHER, len as u16, len);
        assert!(send(far, &back));
        assert_eq!(receive(port), back);
    }
    let tag = tagged(&frame(STATION, 1, 100), 0x8100, 0x6007);
    assert!(send(far, &tag));
    assert_eq!(receive(port), tag);
    assert!(send(port, &tag));
    assert_eq!(receive(far), tag);
    let (header, large) = large_tcp(30_000);
    assert!(send_with(port, header, &large));
    assert_eq!(receive(far), large);
    assert!(send_with(far, header, &large));
    let (received, bytes) = receive_with(port);
    assert_eq!(bytes, large);
    assert!(matches!(accepted(port, received, &bytes), Offload::Segment(asked) if asked.size == 1000));
}

#[test]
fn frames_pass_both_ways_on_one_queue_and_on_several() {
    in_namespace(|| {
        macvtap("passthru");
        let far = packet_port("far");
        for queues in [1, 2, 8] {
            let port = open(attach(queues, Vec::new()));
            assert_eq!(port.queues.len(), usize::from(queues));
            both_ways(&port, &far);
        }
    });
}

#[test]
fn a_device_node_that_is_missing_or_stands_for_something_else_is_no_obstacle() {
    in_namespace(|| {
        let index = macvtap("passthru");
        let far = packet_port("far");
        run("mount -t tmpfs tmpfs /dev");
        both_ways(&open(attach(1, Vec::new())), &far);
        run(&format!("mknod /dev/tap{index} c 1 3"));
        both_ways(&open(attach(2, Vec::new())), &far);
        let left: Vec<_> =
            std::fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [format!("tap{index}").as_str()], "nodes of our own are removed");
        // Where sysfs shows another namespace, only the node is left to believe, and it is looked at closely.
        run("umount /sys");
        assert!(refusal(attach(1, Vec::new())).starts_with(&format!("/dev/tap{index}: ")));
    });
}

#[test]
fn descriptors_may_be_passed() {
    in_namespace(|| {
        let index = macvtap("passthru");
        let far = packet_port("far");
        // Tests beside this one have interfaces of the same number: a node of our own.
        run("mount -t tmpfs tmpfs /dev/shm");
        let numbers = run(&format!("cat /sys/class/net/mv0/tap{index}/dev"));
        run(&format!("mknod /dev/shm/tap c {}", numbers.trim().replace(':', " ")));
        let device = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/shm/tap").unwrap();
        let passed = [device(), device()];
        let numbers: Vec<i32> = passed.iter().map(AsRawFd::as_raw_fd).collect();
        // Made twice: those that were passed stay open.
        for _ in 0..2 {
            let port = open(attach(2, numbers.clone()));
            assert_eq!(port.queues.len(), 2);
            both_ways(&port, &far);
        }
        let null = std::fs::File::open("/dev/null").unwrap();
        let wrong = null.as_raw_fd();
        assert_eq!(
            refusal(attach(1, vec![wrong])),
            format!("inherited descriptor {wrong}: is no macvtap queue")
        );
        assert!(refusal(attach(1, vec![1])).contains("standard streams"));
        assert!(refusal(attach(1, vec![i32::MAX])).contains("Bad file descriptor"));
        run("ip link add one type veth peer name two");
        run("ip link add link one name mv1 type macvtap mode passthru");
        let other = Attach::Macvtap { interface: "mv1".into(), fds: numbers.clone(), queues: 1 };
        assert!(refusal(other).contains("is a queue of mv0, not of mv1"));
        // The same name somewhere else, as in another network namespace.
        run("ip link set mv0 name mv2");
        run("ip link set mv1 name mv0");
        run("ip link set mv2 name mv1");
        let other = Attach::Macvtap { interface: "mv1".into(), fds: numbers, queues: 1 };
        both_ways(&open(other), &far);
        assert!(refusal(attach(1, vec![passed[0].as_raw_fd()])).contains("is a queue of mv1, not of mv0"));
    });
}

#[test]
fn groups_that_nobody_has_joined_do_not_arrive() {
    in_namespace(|| {
        macvtap("passthru");
        let (port, far) = (open(attach(1, Vec::new())), packet_port("far"));
        let filter = port.filter().unwrap();
        let groups = |groups: &[[u8; 6]]| Wanted {
            multicast: Some(groups.iter().copied().collect()),
            ..Wanted::default()
        };
        // Sends to both groups; which arrive. A broadcast goes the same way and comes last.
        let mut number = 0;
        let mut arriving = || {
            number += 1;
            for dst in [GROUP, OTHER_GROUP, [0xff; 6]] {
                assert!(send(&far, &frame(dst, number, 60)));
            }
            let mut seen = Vec::new();
            loop {
                let dst: [u8; 6] = *receive(&port).first_chunk().unwrap();
                if dst == [0xff; 6] {
                    return seen;
                }
                seen.push(dst);
            }
        };
        assert_eq!(arriving(), [GROUP, OTHER_GROUP], "everything first");
        filter.lock().apply(&groups(&[]));
        assert_eq!(arriving(), [[0; 6]; 0]);
        filter.lock().apply(&groups(&[GROUP]));
        assert_eq!(arriving(), [GROUP]);
        filter.lock().apply(&groups(&[GROUP, OTHER_GROUP]));
        assert_eq!(arriving(), [GROUP, OTHER_GROUP]);
        // A macvlan computes its filter before it forgets what was taken out: a group goes with the next change
        // (`macvlan_set_mac_lists`, drivers/net/macvlan.c).
        filter.lock().apply(&groups(&[OTHER_GROUP]));
        filter.lock().apply(&groups(&[OTHER_GROUP, THIRD_GROUP]));
        assert_eq!(arriving(), [OTHER_GROUP]);
        filter.lock().apply(&Wanted { multicast: None, ..groups(&[]) });
        assert_eq!(arriving(), [GROUP, OTHER_GROUP]);
        filter.lock().apply(&groups(&[]));
        filter.lock().apply(&Wanted::everything("port vm3 learns"));
        assert_eq!(arriving(), [GROUP, OTHER_GROUP]);
    });
}

#[test]
fn what_a_macvtap_cannot_take_is_said() {
    in_namespace(|| {
        macvtap("bridge");
        let (port, far) = (open(attach(1, Vec::new())), packet_port("far"));
        let mut filter = port.filter().unwrap().lock();
        let own = port.interface().unwrap().address.unwrap();
        let applied = filter.apply(&Wanted { unicast: [own].into(), ..Wanted::default() });
        assert_eq!((applied.exact, applied.unicast), (true, 0), "{}", applied.reason);
        let applied = filter.apply(&Wanted { unicast: [own, STATION].into(), ..Wanted::default() });
        assert_eq!((applied.exact, applied.mode, applied.unicast), (false, "own-address", 1));
        assert_eq!(
            applied.reason,
            "mv0 takes frames to its own address only: its mode would have to be passthru"
        );
        // That is so: programmed or not, only its own address arrives.
        assert!(send(&far, &frame(STATION, 1, 60)));
        assert!(send(&far, &frame(own, 2, 60)));
        assert_eq!(receive(&port), frame(own, 2, 60));
    });
}

#[test]
fn the_interface_below_counts() {
    in_namespace(|| {
        macvtap("passthru");
        let port = open(attach(1, Vec::new()));
        let applied =
            port.filter().unwrap().lock().apply(&Wanted { unicast: [STATION].into(), ..Wanted::default() });
        assert_eq!((applied.exact, applied.reason.as_str()), (false, "near, below mv0, is promiscuous"));
        assert_eq!(port.interface().unwrap().promiscuity, 0);
    });
    in_namespace(|| {
        macvtap("passthru nopromisc");
        let port = open(attach(1, Vec::new()));
        let mut filter = port.filter().unwrap().lock();
        let applied = filter.apply(&Wanted::default());
        assert_eq!((applied.exact, applied.reason.as_str()), (true, "only known addresses are taken"));
        // A veth cannot filter, and says so when it is given the first address from above.
        let applied = filter.apply(&Wanted { unicast: [STATION].into(), ..Wanted::default() });
        assert_eq!((applied.exact, applied.reason.as_str()), (false, "near, below mv0, is promiscuous"));
    });
}
