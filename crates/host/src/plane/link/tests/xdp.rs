//! An AF_XDP uplink as a port: what its frames lack is done before they leave, what the kernel loses is counted.

use super::*;
use crate::config::resolved::XdpMode;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use std::time::{Duration, Instant};

fn xdp_port(mode: XdpMode) -> LinkPort {
    open(Attach::AfXdp { interface: "near".into(), queues: 1, mode, zero_copy: None })
}

#[test]
fn unsegmented_frames_leave_as_finished_segments() {
    in_namespace(|| {
        wire();
        let far = packet_port("far");
        for (mode, described) in [(XdpMode::Native, "native, copy"), (XdpMode::Generic, "generic, copy")] {
            let near = xdp_port(mode);
            assert_eq!(near.mode(), Some(described));
            assert!(near.rules.accepts.is_empty());
            let (header, large) = large_tcp(4500);
            assert!(send_with(&near, header, &large));
            let mut payload = Vec::new();
            for index in 0..5 {
                let segment = receive(&far);
                let sliced = SlicedPacket::from_ethernet(&segment).unwrap();
                let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
                    (sliced.net, sliced.transport)
                else {
                    panic!("segment {index} is no TCP packet")
                };
                assert_eq!(tcp.sequence_number(), index * 1000);
                let (ip, head) = (ip.header().to_header(), tcp.to_header());
                assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
                assert_eq!(head.calc_checksum_ipv4(&ip, tcp.payload()).unwrap(), head.checksum);
                payload.extend_from_slice(tcp.payload());
            }
            assert_eq!(payload, large[54..]);
        }
    });
}

#[test]
fn frames_pass_both_ways_and_losses_are_counted() {
    in_namespace(|| {
        wire();
        let (near, far) = (xdp_port(XdpMode::Auto), packet_port("far"));
        for number in 0..100 {
            let bytes = frame(STATION, number, 60 + 13 * usize::from(number));
            assert!(send(&near, &bytes));
            assert_eq!(receive(&far), bytes);
            assert!(send(&far, &bytes));
            assert_eq!(receive_with(&near), ([0; 12], bytes));
        }
        near.tend();
        assert_eq!(dropped(&near, DropReason::HostError), 0);
        // Twice what the rings hold, and nobody reads.
        assert!((0..4096).all(|number| send(&far, &frame(STATION, number, 60))));
        let end = Instant::now() + Duration::from_secs(10);
        let mut buffer = [0; 2048];
        let mut read = 0;
        // The kernel may still be at it.
        while read + dropped(&near, DropReason::HostError) < 4096 {
            assert!(Instant::now() < end, "{read} frames of 4096");
            read += std::iter::from_fn(|| poll_once(&near, &mut buffer)).count() as u64;
            near.tend();
        }
        assert_eq!(read + dropped(&near, DropReason::HostError), 4096);
        // Some frames were still ours.
        assert!(read > 2000, "{read}");
        near.tend();
        assert_eq!(read + dropped(&near, DropReason::HostError), 4096, "counted once");
    });
}

#[test]
fn its_receive_filter_is_the_interfaces() {
    in_namespace(|| {
        wire();
        let near = xdp_port(XdpMode::Auto);
        assert!(near.filter().is_some());
        assert_eq!(near.interface().unwrap().promiscuity, 1);
        drop(near);
        assert!(!run("ip -d link show dev near").contains("xdp"));
        assert!(run("ip -d link show dev near").contains("promiscuity 0"));
    });
}

#[test]
fn what_is_wrong_is_said() {
    in_namespace(|| {
        wire();
        let attach = |interface: &str, queues| Attach::AfXdp {
            interface: interface.into(),
            queues,
            mode: XdpMode::Auto,
            zero_copy: None,
        };
        assert!(refusal(attach("nowhere", 1)).contains("there is no interface nowhere"));
        assert!(refusal(attach("near", 9)).contains("has 1 receive queues, not 9"));
        run("ip link set near down");
        assert!(refusal(attach("near", 1)).contains("ip link set near up"));
    });
}
