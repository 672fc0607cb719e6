//! Packet sockets on a veth pair: what goes in at one end comes out at the other.

use super::*;
use crate::plane::link::filter::Wanted;

#[test]
fn frames_pass_both_ways_byte_for_byte() {
    in_namespace(|| {
        wire();
        let (near, far) = (packet_port("near"), packet_port("far"));
        let mut number = 0;
        for len in [16, 60, 64, 127, 128, 129, 243, 244, 245, 1000, 1514] {
            for (from, to) in [(&near, &far), (&far, &near)] {
                number += 1;
                let sent = frame(STATION, number, len);
                assert!(send(from, &sent));
                let (header, received) = receive_with(to);
                assert_eq!((header, &received), ([0; 12], &sent), "{len} bytes");
                assert_eq!(accepted(to, header, &received), Offload::None);
            }
        }
        // One of our own making, as announcements are: all of it is head.
        let own = frame(STATION, 999, 1200);
        assert!(write(&near, &Frame::private(&own, Offload::None)));
        assert_eq!(receive(&far), own);
        // Longer than the MTU and not to be segmented: the kernel refuses it, and the next one goes.
        assert!(!send(&near, &frame(STATION, 0, 1600)));
        assert!(send(&near, &frame(STATION, 1000, 60)));
        assert_eq!(receive(&far), frame(STATION, 1000, 60));
    });
}

#[test]
fn tags_that_the_kernel_takes_out_are_put_back() {
    in_namespace(|| {
        wire();
        let (near, far) = (packet_port("near"), packet_port("far"));
        for len in [60, 1514] {
            let plain = frame(STATION, 7, len);
            let customer = tagged(&plain, 0x8100, 0x2005);
            let priority = tagged(&plain, 0x8100, 0xe000);
            // One tag of this type is no part of the MTU; for others and a second one the kernel wants room.
            let plain = frame(STATION, 7, len.min(1510));
            let service = tagged(&plain, 0x88a8, 0x0fff);
            let plain = frame(STATION, 7, len.min(1506));
            let double = tagged(&tagged(&plain, 0x8100, 0x2005), 0x88a8, 100);
            for sent in [&customer, &priority, &service, &double, &plain] {
                assert!(send(&far, sent));
                assert_eq!(&receive(&near), sent);
            }
        }
    });
}

#[test]
fn unsegmented_frames_stay_whole_and_their_places_stay_true() {
    in_namespace(|| {
        wire();
        let (near, far) = (packet_port("near"), packet_port("far"));
        let (header, large) = large_tcp(20_000);
        assert!(send_with(&near, header, &large));
        let (received, bytes) = receive_with(&far);
        assert_eq!(bytes, large);
        let Offload::Segment(asked) = accepted(&far, received, &bytes) else { panic!("{received:?}") };
        assert_eq!((asked.size, asked.header_len, asked.transport_at), (1000, 54, 34));

        // With a tag, every place is four bytes further on.
        let mut shifted = header;
        (shifted[2], shifted[6]) = (58, 38);
        let tagged = tagged(&large, 0x8100, 5);
        assert!(send_with(&near, shifted, &tagged));
        let (received, bytes) = receive_with(&far);
        assert_eq!(bytes, tagged);
        let Offload::Segment(asked) = accepted(&far, received, &bytes) else { panic!("{received:?}") };
        assert_eq!((asked.size, asked.header_len, asked.transport_at), (1000, 58, 38));

        // Only the checksum is left to do.
        let (_, small) = large_tcp(100);
        assert!(send_with(&near, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], &small));
        let (received, bytes) = receive_with(&far);
        assert_eq!(bytes, small);
        assert_eq!(accepted(&far, received, &bytes), Offload::Checksum { start: 34, offset: 16 });
    });
}

#[test]
fn a_link_may_go_down_and_come_back() {
    in_namespace(|| {
        wire();
        let (near, far) = (packet_port("near"), packet_port("far"));
        for (number, end) in ["near", "far", "near"].into_iter().enumerate() {
            run(&format!("ip link set {end} down"));
            let down = if end == "near" { &near } else { &far };
            assert!(!send(down, &frame(STATION, 1, 60)), "{end} is down");
            for port in [&near, &far] {
                while poll_once(port, &mut [0; 2048]).is_some() {}
                // Nothing that would have a worker look again and again.
                let mut fds = [PollFd::from_borrowed_fd(port.queues[0].fd(), PollFlags::IN)];
                assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap(), 0);
            }
            assert!(!near.interface().unwrap().running);
            until(|| !run("ip link").contains("state UP"));
            run(&format!("ip link set {end} up"));
            assert!(near.interface().unwrap().running);
            started(&["near", "far"]);
            for (from, to) in [(&near, &far), (&far, &near)] {
                let sent = frame(STATION, 100 + number as u16, 60);
                assert!(send(from, &sent));
                assert_eq!(receive(to), sent);
            }
        }
    });
}

#[test]
fn an_interface_may_vanish_and_be_made_anew() {
    in_namespace(|| {
        wire();
        let near = packet_port("near");
        let before = near.interface().unwrap();
        assert_eq!(before.promiscuity, 1, "an uplink takes every frame first");
        run("ip link del near");
        assert!(!send(&near, &frame(STATION, 1, 60)));
        assert_eq!(poll_once(&near, &mut [0; 2048]), None);
        let mut fds = [PollFd::from_borrowed_fd(near.queues[0].fd(), PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap(), 0);
        near.tend();
        let applied = near.filter().unwrap().lock().observe();
        assert_eq!((applied.exact, applied.reason.as_str()), (false, "there is no interface near"));
        assert!(near.interface().is_err());

        wire();
        let far = packet_port("far");
        near.tend();
        let after = near.interface().unwrap();
        assert_ne!(after.index, before.index);
        assert_eq!(after.promiscuity, 1);
        assert!(send(&near, &frame(STATION, 2, 60)));
        assert_eq!(receive(&far), frame(STATION, 2, 60));
        assert!(send(&far, &frame(STATION, 3, 60)));
        assert_eq!(receive(&near), frame(STATION, 3, 60));
    });
}

#[test]
fn frames_of_the_host_itself_are_not_the_wires() {
    in_namespace(|| {
        wire();
        let near = packet_port("near");
        let (host, far) = (packet_port("near"), packet_port("far"));
        assert!(send(&host, &frame(STATION, 1, 60)));
        assert!(send(&far, &frame(STATION, 2, 60)));
        assert_eq!(receive(&near), frame(STATION, 2, 60));
    });
}

#[test]
fn frames_that_the_socket_had_no_room_for_are_counted() {
    in_namespace(|| {
        wire();
        let (near, far) = (packet_port("near"), packet_port("far"));
        let (header, large) = large_tcp(60_000);
        let sent = (0..400).filter(|_| send_with(&far, header, &large)).count() as u64;
        let mut received = 0;
        let mut buffer = vec![0; 70_000];
        while poll_once(&near, &mut buffer).is_some() {
            received += 1;
        }
        near.tend();
        let lost = dropped(&near, DropReason::HostError);
        assert!(lost > 0, "24 MB found room");
        assert_eq!(received + lost, sent);
        near.tend();
        assert_eq!(dropped(&near, DropReason::HostError), lost, "counted twice");
    });
}

#[test]
fn a_frame_that_does_not_fit_is_counted_and_passed_over() {
    in_namespace(|| {
        wire();
        let (near, far) = (packet_port("near"), packet_port("far"));
        assert!(send(&far, &frame(STATION, 1, 1000)));
        assert!(send(&far, &frame(STATION, 2, 100)));
        let mut small = [0; 12 + 200];
        let queue = &near.queues[0];
        let mut fds = [PollFd::from_borrowed_fd(queue.fd(), PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&PATIENCE)).unwrap(), 1);
        assert_eq!(queue.read(&mut small), Some(112));
        assert_eq!(small[12..112], frame(STATION, 2, 100));
        assert_eq!(dropped(&near, DropReason::Oversize), 1);
        assert_eq!(queue.read(&mut [0; 5]), None);
    });
}

#[test]
fn what_is_wrong_is_said() {
    in_namespace(|| {
        wire();
        let missing = refusal(Attach::Packet { interface: "eth7".into() });
        assert_eq!(missing, "there is no interface eth7");
        for name in ["", "a-name-that-is-longer-than-any", "a\0b"] {
            assert!(refusal(Attach::Packet { interface: name.into() }).contains("there is no interface"));
        }
        assert_eq!(refusal(Attach::Packet { interface: "lo".into() }), "it carries no Ethernet frames");
        let attach = Attach::Packet { interface: "near".into() };
        let long = PortConfig { mtu: Some(9000), ..config(&attach) };
        let error = LinkPort::open(&attach, &long).err().unwrap().to_string();
        assert_eq!(
            error,
            "its MTU is 1500 bytes and the port's is 9000: raise the first or lower the second"
        );
        let short = PortConfig { mtu: Some(1400), ..config(&attach) };
        assert_eq!(LinkPort::open(&attach, &short).unwrap().interface().unwrap().mtu, 1500, "nothing is set");
    });
}

#[test]
fn a_station_that_is_not_wanted_does_not_disturb_one_that_is() {
    in_namespace(|| {
        wire();
        let (near, far) = (packet_port("near"), packet_port("far"));
        let wanted = Wanted { unicast: [STATION].into(), ..Wanted::default() };
        near.filter().unwrap().lock().apply(&wanted);
        // A veth takes everything: the switch still has to look.
        for number in 0..50 {
            let dst = if number % 2 == 0 { STATION } else { OTHER };
            assert!(send(&far, &frame(dst, number, 60)));
            assert_eq!(receive(&near), frame(dst, number, 60));
        }
    });
}
