//! The fuzz targets' entries over kept inputs (among them all that ever crashed one), and over random and shaped inputs.

mod fuzz_entry;

use fuzz_entry::{SENDER, group_messages, headers};
use proptest::prelude::*;
use std::path::Path;

fn replay(target: &str, entry: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions").join(target);
    let files = std::fs::read_dir(folder).unwrap();
    files.map(|file| entry(&std::fs::read(file.unwrap().path()).unwrap())).count()
}

#[test]
fn known_inputs() {
    assert_ne!(replay("headers", headers), 0);
    assert_ne!(replay("group_messages", group_messages), 0);
}

/// A frame of ARP, IPv4 or IPv6 that is nearly right, behind up to three tags.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let ethertype = prop::sample::select(vec![[8, 0], [8, 6], [0x80, 0x35], [0x86, 0xdd], [0, 60]]);
    let rest = prop::collection::vec(any::<u8>(), 0..160);
    (0usize..4, ethertype, rest, 0u8..=255).prop_map(|(tags, ethertype, rest, cut)| {
        let mut frame = vec![cut, 0x33, 0x33, 0xff, 0, 0, 9];
        frame.extend(SENDER);
        frame.extend([0x81, 0, 0, 7].repeat(tags));
        frame.extend(ethertype);
        let start: &[u8] = match ethertype {
            [8, 6] | [0x80, 0x35] => &[0, 1, 8, 0, 6, 4, 0, 1],
            [8, 0] => &[0x45],
            _ => &[0x60, 0, 0, 0, 0, 32, 58, 255],
        };
        frame.extend(start);
        frame.extend(rest);
        frame
    })
}

/// Pieces as [`group_messages`] takes them, most of them reports, leaves and queries.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![0x11u8, 0x12, 0x16, 0x17, 0x22, 0x30, 130, 131, 132, 143, 151]);
    let piece = (
        any::<u8>(),
        any::<u8>(),
        prop::sample::select(vec![0u8, 0, 2, 100]),
        kind,
        prop::collection::vec(0u8..9, 7..40),
    );
    prop::collection::vec(piece, 0..40).prop_map(|pieces| {
        let one = |(who, to, seconds, kind, rest): (u8, u8, u8, u8, Vec<u8>)| {
            let piece = [vec![who, to, seconds, kind], rest].concat();
            [vec![piece.len() as u8], piece].concat()
        };
        pieces.into_iter().flat_map(one).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        headers(&bytes);
        group_messages(&bytes);
    }

    #[test]
    fn shaped_frames(frame in frame()) {
        headers(&frame);
    }

    #[test]
    fn shaped_messages(pieces in pieces()) {
        group_messages(&pieces);
    }
}
