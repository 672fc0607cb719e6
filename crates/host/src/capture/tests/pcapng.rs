//! What is written, read back by another crate's reader and by our own.

use super::*;
use pcap_parser::PcapBlockOwned;
use pcap_parser::pcapng::{Block, OptionCode, PcapNGOption, PcapNGSlice};
use pcap_parser::traits::PcapNGPacketBlock as _;
use proptest::prelude::*;
use std::sync::Arc;

/// Everything that a capture writes about what has been offered so far; `blocks` goes on after it.
fn all_of(stream: &CaptureStream, blocks: &mut PcapngStream) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut bytes = blocks.next().await.expect("blocks").to_vec();
        while stream.load().1 > 0 {
            bytes.extend_from_slice(&blocks.next().await.expect("blocks"));
        }
        bytes
    })
}

fn option<'a>(options: &'a [PcapNGOption<'_>], code: u16) -> Option<&'a PcapNGOption<'a>> {
    options.iter().find(|option| option.code == OptionCode(code))
}

#[test]
fn frames_are_taken_at_the_rate_that_was_asked_for() {
    let captures = Captures::default();
    let web = captures.point("web", "");
    let wish = CaptureRequest { rate_max: 1000, ..request(&[]) };
    let stream = Arc::new(captures.start(&wish).expect("started"));
    let mut blocks = PcapngStream::new(Arc::clone(&stream)).expect("begun");
    (0..100).for_each(|mark| offer(&web, &marked(mark), None));
    all_of(&stream, &mut blocks);
    let begun = std::time::Instant::now();
    offer(&web, &marked(100), None);
    all_of(&stream, &mut blocks);
    let waited = begun.elapsed().as_millis();
    assert!((80..5000).contains(&waited), "100 frames are worth 100 ms, but the next came after {waited} ms");
}

#[test]
fn another_reader_finds_ports_directions_reasons_and_times() {
    let captures = Captures::default();
    let web = captures.point("web", "vhost-user /run/web.sock");
    let db = captures.point("db", "tap rw0");
    let wish = CaptureRequest { snap_len: 50, filter: "not arp".into(), ..request(&[]) };
    let stream = Arc::new(captures.start(&wish).expect("started"));
    let mut blocks = PcapngStream::new(Arc::clone(&stream)).expect("begun");
    offer(&web, &marked(1), Some("locked"));
    offer(&db, &marked(2), None);
    let mut bytes = all_of(&stream, &mut blocks);
    offer(&web, &marked(3), None);
    // The section and the interfaces may come before the frames.
    while !matches!(read(&bytes).last(), Some(Told::Frame { mark: 3, .. })) {
        bytes.extend_from_slice(&all_of(&stream, &mut blocks));
    }
    let frame = |interface, mark, flags, comment: Option<&str>| Told::Frame {
        interface,
        mark,
        flags,
        comment: comment.map(str::to_owned),
        missed: None,
        at_ns: 1_700_000_000_123_456_789,
        lens: (50, 60),
    };
    let interface = |name: &str, description: &str| Told::Interface {
        name: name.into(),
        description: description.into(),
        resolution: 9,
        filter: b"\0not arp".to_vec(),
        snap_len: 50,
        link: 1,
    };
    assert_eq!(
        read(&bytes),
        [
            Told::Section,
            interface("web", "vhost-user /run/web.sock"),
            interface("db", "tap rw0"),
            frame(0, 1, 1, Some("drop: locked")),
            frame(1, 2, 2, None),
            frame(0, 3, 2, None),
        ]
    );
}

/// A block as the other reader tells it.
#[derive(Debug, PartialEq)]
enum Told {
    Section,
    Interface {
        name: String,
        description: String,
        resolution: u8,
        filter: Vec<u8>,
        snap_len: u32,
        link: i32,
    },
    Frame {
        interface: u32,
        mark: u32,
        flags: u32,
        comment: Option<String>,
        missed: Option<u64>,
        at_ns: u64,
        lens: (u32, u32),
    },
    Statistics {
        interface: u32,
        received: u64,
        missed: u64,
        delivered: u64,
    },
}

fn read(bytes: &[u8]) -> Vec<Told> {
    let slice = PcapNGSlice::from_slice(bytes).expect("a section");
    let told = |block: PcapBlockOwned<'_>| match block {
        PcapBlockOwned::NG(Block::SectionHeader(_)) => Told::Section,
        PcapBlockOwned::NG(Block::InterfaceDescription(block)) => Told::Interface {
            name: block.if_name().expect("a name").expect("text").into(),
            description: block.if_description().expect("a description").expect("text").into(),
            resolution: block.if_tsresol,
            filter: option(&block.options, 11)
                .map_or(Vec::new(), |filter| filter.as_bytes().expect("bytes").into()),
            snap_len: block.snaplen,
            link: block.linktype.0,
        },
        PcapBlockOwned::NG(Block::EnhancedPacket(block)) => Told::Frame {
            interface: block.if_id,
            mark: u32::from_be_bytes(block.packet_data()[14..18].try_into().expect("four bytes")),
            flags: option(&block.options, 2).expect("flags").as_u32_le().expect("four bytes"),
            comment: option(&block.options, 1).map(|comment| comment.as_str().expect("text").into()),
            missed: option(&block.options, 4).map(|count| count.as_u64_le().expect("eight bytes")),
            at_ns: u64::from(block.ts_high) << 32 | u64::from(block.ts_low),
            lens: (block.caplen, block.origlen),
        },
        PcapBlockOwned::NG(Block::InterfaceStatistics(block)) => Told::Statistics {
            interface: block.if_id,
            received: block.isb_ifrecv().expect("received").expect("eight bytes"),
            missed: block.isb_ifdrop().expect("missed").expect("eight bytes"),
            delivered: block.isb_usrdeliv().expect("delivered").expect("eight bytes"),
        },
        _ => panic!("a block of another kind"),
    };
    slice.map(|block| told(block.expect("a block"))).collect()
}

#[test]
fn what_was_missed_is_told_with_frames_and_statistics() {
    let captures = Captures::default();
    let web = captures.point("web", "");
    let stream = Arc::new(captures.start(&request(&[])).expect("started"));
    let mut blocks = PcapngStream::new(Arc::clone(&stream)).expect("begun");
    let frames = QUEUE_RECORDS_MAX as u32 + 100;
    for mark in 0..frames {
        offer(&web, &marked(mark), None);
    }
    let mut bytes = all_of(&stream, &mut blocks);
    while stream.load().1 > 0 || !matches!(read(&bytes).last(), Some(Told::Statistics { .. })) {
        bytes.extend_from_slice(&all_of(&stream, &mut blocks));
    }
    let delivered = QUEUE_RECORDS_MAX as u64;
    let told = read(&bytes);
    let last = Told::Statistics { interface: 0, received: delivered + 100, missed: 100, delivered };
    // A chunk tells of what was missed at once; the count of frames may be of a chunk before the last.
    let Some(Told::Statistics { missed: 100, .. }) = told.last() else { panic!("{:?}", told.last()) };
    offer(&web, &marked(frames), None);
    let after = all_of(&stream, &mut blocks);
    bytes.extend_from_slice(&after);
    let told = read(&bytes);
    let drop_counts: Vec<u64> = told
        .iter()
        .filter_map(|told| if let Told::Frame { missed, .. } = told { *missed } else { None })
        .collect();
    assert_eq!(drop_counts, [100]);
    let frames_told = told.iter().filter(|told| matches!(told, Told::Frame { .. })).count() as u64;
    assert_eq!(frames_told, delivered + 1);
    assert!(
        told.iter().all(|told| !matches!(told, Told::Statistics { missed, .. } if *missed != 100)),
        "{last:?}"
    );

    let mut reader = PcapngReader::default();
    reader.push(&bytes);
    let mut seen = 0;
    while let Some((_, block)) = reader.next_block().expect("whole blocks") {
        seen += u64::from(matches!(block, Seen::Frame { .. }));
    }
    assert_eq!((seen, reader.missed()), (delivered + 1, 100));
}

/// What our own reader tells of `bytes` in pieces cut at `cuts`: the bytes of all blocks, and a line for each frame.
fn followed(bytes: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Vec<String>), PcapngReaderError> {
    let mut reader = PcapngReader::default();
    let (mut raw, mut lines) = (Vec::new(), Vec::new());
    let mut from = 0;
    for to in cuts.iter().copied().chain([bytes.len()]) {
        reader.push(&bytes[from..to]);
        from = to;
        while let Some((block, seen)) = reader.next_block()? {
            raw.extend_from_slice(block);
            if matches!(seen, Seen::Frame { .. }) {
                lines.push(format!("{seen:?}"));
            }
        }
    }
    Ok((raw, lines))
}

fn small_capture() -> Vec<u8> {
    let captures = Captures::default();
    let point = captures.point("web", "");
    let stream = Arc::new(captures.start(&request(&[])).expect("started"));
    offer(&point, &marked(1), Some("vlan"));
    offer(&point, &marked(2), None);
    let mut blocks = PcapngStream::new(Arc::clone(&stream)).expect("begun");
    let mut bytes = all_of(&stream, &mut blocks);
    while stream.load().1 > 0 {
        bytes.extend_from_slice(&all_of(&stream, &mut blocks));
    }
    bytes
}

proptest! {
    #[test]
    fn our_reader_takes_pieces_of_any_size(mut cuts in prop::collection::vec(0usize..400, 0..20)) {
        let bytes = small_capture();
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(bytes.len()));
        cuts.sort_unstable();
        let (raw, lines) = followed(&bytes, &cuts).expect("a good stream");
        prop_assert_eq!(&raw, &bytes);
        prop_assert_eq!(lines.len(), 2);
        prop_assert!(lines[0].contains("reason: Some(\"vlan\")") && lines[0].contains("port: \"web\""));
        prop_assert!(lines[1].contains("reason: None"));
    }

    #[test]
    fn a_spoiled_stream_is_an_error_or_ends(spoil in prop::collection::vec((0usize..400, any::<u8>()), 1..4)) {
        let mut bytes = small_capture();
        for (at, byte) in spoil {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        drop(followed(&bytes, &[]));
    }
}

#[test]
fn a_block_without_end_is_not_waited_for() {
    let mut bytes = small_capture();
    bytes.extend_from_slice(&6u32.to_le_bytes());
    bytes.extend_from_slice(&0x4000_0000u32.to_le_bytes());
    bytes.resize(bytes.len() + (2 << 20), 0);
    assert!(matches!(followed(&bytes, &[]), Err(PcapngReaderError::TooLong)));
}
