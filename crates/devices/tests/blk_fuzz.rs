//! The fuzz target's entry over kept inputs (among them all that ever crashed it), and over random and shaped requests.

mod fuzz_entry;

use fuzz_entry::{BLK_PREFIX_LEN, blk_request};
use proptest::prelude::*;
use std::path::Path;

#[test]
fn known_inputs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions/blk_request");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        blk_request(&std::fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 3);
}

/// A request's type, sector, data and room as a guest might mean them.
fn shaped() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        3 => Just(0u32),
        4 => Just(1),
        2 => Just(15),
        6 => prop::sample::select(vec![4u32, 8, 10, 11, 13, 14, 16, 18, 20, 22, 24, 26]),
        1 => any::<u32>(),
    ];
    let sector = prop_oneof![
        4 => (0u64..8).prop_map(|zone| zone * 16),
        4 => 0u64..130,
        1 => any::<u64>(),
    ];
    let ranges = prop::collection::vec((0u64..130, 0u32..50, 0u32..3), 0..4).prop_map(|ranges| {
        let bytes = |(sector, sectors, flags): (u64, u32, u32)| {
            [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
        };
        ranges.into_iter().flat_map(bytes).collect::<Vec<u8>>()
    });
    let data = prop_oneof![
        4 => (0usize..6).prop_map(|sectors| vec![0x5A; sectors * 512]),
        3 => ranges,
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    let room = prop_oneof![
        4 => Just(1u16),
        2 => (0u16..5).prop_map(|sectors| sectors * 512 + 1),
        2 => prop::sample::select(vec![0u16, 2, 7, 9, 21, 65, 193, 400]),
    ];
    (number, sector, data, room, any::<u8>()).prop_map(|(number, sector, data, room, cut)| {
        let mut bytes = (16 + data.len() as u16).to_le_bytes().to_vec();
        bytes.extend_from_slice(&room.to_le_bytes());
        bytes.push(cut.saturating_mul(3));
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&sector.to_le_bytes());
        bytes.extend_from_slice(&data);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        blk_request(&bytes);
    }

    #[test]
    fn shaped_requests(
        (prefix, zoned) in (any::<[u8; BLK_PREFIX_LEN]>(), any::<bool>()),
        requests in prop::collection::vec(shaped(), 1..20),
    ) {
        let mut bytes = prefix.to_vec();
        if zoned {
            bytes[2] |= 2;
            bytes[3] |= 1;
            // Read-only seldom; on a disk that has zones.
            bytes[3] &= !2;
            bytes[7] |= 64;
        } else {
            bytes[2] &= !2;
        }
        bytes.extend(requests.concat());
        blk_request(&bytes);
    }
}
