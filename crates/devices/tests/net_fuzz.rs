//! The fuzz targets' entries over kept inputs (among them all that ever crashed one), and over random and shaped inputs.

mod fuzz_entry;

use fuzz_entry::{PREFIX_LEN, net_control, net_header};
use proptest::prelude::*;
use std::path::Path;

fn replay(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions").join(target);
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        entry(&std::fs::read(&path).unwrap());
    }
}

#[test]
fn known_inputs() {
    replay("net_header", net_header);
    replay("net_control", net_control);
}

/// A chain with a sound packet, all offloads negotiated, to be damaged.
fn sound(ipv6: bool, tcp: bool, gso_type: u8, gso_size: u16) -> Vec<u8> {
    let start: u16 = if ipv6 { 54 } else { 34 };
    let mut bytes = vec![1, 0x78, 1, 0, 0, 50, 2, 20];
    assert_eq!(bytes.len(), PREFIX_LEN);
    bytes.extend_from_slice(&[1, gso_type, 0, 0]);
    bytes.extend_from_slice(&gso_size.to_le_bytes());
    bytes.extend_from_slice(&start.to_le_bytes());
    bytes.extend_from_slice(&[if tcp { 16 } else { 6 }, 0, 0, 0]);
    bytes.extend_from_slice(&[2; 12]);
    let protocol = if tcp { 6 } else { 17 };
    if ipv6 {
        bytes.extend_from_slice(&[0x86, 0xDD, 0x60, 0, 0, 0, 0, 0, protocol, 64]);
        bytes.extend_from_slice(&[0xFD; 32]);
    } else {
        bytes.extend_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
        bytes.extend_from_slice(&[10; 8]);
    }
    let mut transport = [0; 60];
    transport[12] = 0x50;
    bytes.extend_from_slice(&transport);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_chains(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        net_header(&bytes);
    }

    #[test]
    fn damaged_chains(
        (ipv6, tcp, kind, gso_size) in (any::<bool>(), any::<bool>(), 0usize..5, 0u16..3000),
        damage in prop::collection::vec((0usize..128, any::<u8>()), 0..10),
        receiver in any::<u16>(),
    ) {
        let mut bytes = sound(ipv6, tcp, [0, 1, 3, 4, 5][kind], gso_size);
        bytes[3..5].copy_from_slice(&receiver.to_le_bytes());
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        net_header(&bytes);
    }

    #[test]
    fn random_requests(
        prefix in any::<[u8; PREFIX_LEN]>(),
        requests in prop::collection::vec((0u8..7, 0u8..7, prop::collection::vec(any::<u8>(), 0..60)), 0..20),
    ) {
        let mut bytes = prefix.to_vec();
        for (class, command, data) in requests {
            bytes.extend_from_slice(&(data.len() as u16 + 2).to_le_bytes());
            bytes.extend_from_slice(&[class, command]);
            bytes.extend_from_slice(&data);
        }
        net_control(&bytes);
    }
}
