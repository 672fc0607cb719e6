//! Each request of a block device, as it should be and as it should not: what the disk is asked to do, the status, the length that the
//! driver is told, and the bytes that it finds.

mod blk_rig;

use blk_rig::{Back, Disk, Guest, Layout, acknowledge, range, request, rules};
use devices::blk::{Acknowledged, Features, Lifetime, Offered, PreEol, Rules, Wear};
use devices::storage::{Extent, Extents, Failure, IoFault, Limits, Serial, Shape, Work};
use virtqueue::{Endian, RingFeatures};

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const CAPACITY: u64 = 64 * 512;

const LIMITS: Option<Limits> = Some(Limits { len_max: 16 * 512, extents_max: 4, alignment: 512 });

fn shape() -> Shape {
    Shape {
        discard: LIMITS,
        zero: LIMITS,
        secure_erase: LIMITS,
        serial: Serial::new("ringway-0123456789abcdef").unwrap(),
        // The last 100 bytes are no sector.
        ..Shape::plain(CAPACITY + 100)
    }
}

fn all() -> Features {
    Features::all().difference(Features::ZONED | Features::RO)
}

fn guest() -> Guest {
    Guest::plain(rules(all(), &shape(), false))
}

fn extent(sector: u64, sectors: u64) -> Extent {
    Extent { offset: sector * 512, len: sectors * 512 }
}

/// A refusal: the disk is not asked, and nothing but the status is written.
#[track_caller]
fn refused((work, back): (Option<Work>, Back), status: u8) {
    assert_eq!(work, None);
    assert_eq!(back.status(), status);
    assert!(back.is_untouched());
    assert_eq!(back.written, u32::from(back.bytes.len() == 1));
}

/// Done by the disk, with a chain that has room for the status alone.
#[track_caller]
fn done((work, back): (Option<Work>, Back), expected: Work) {
    assert_eq!(work, Some(expected));
    assert_eq!((back.status(), back.written), (OK, 1));
}

#[test]
fn a_read_brings_the_disk_s_bytes() {
    let mut disk = Disk((0..CAPACITY).map(|at| (at / 7) as u8).collect());
    for layout in [&[][..], &[1], &[3, 5, 7, 100], &[16, 512], &[16, 1023, 1]] {
        let mut guest = guest();
        let ask = request(0, 5, &[]);
        let (work, back) = guest.ask(&ask, 1025, &mut Layout::Cut(layout), |r| disk.carry_out(r, 100));
        assert_eq!(work, Some(Work::Read(extent(5, 2))));
        assert_eq!((back.status(), back.written), (OK, 1025), "{layout:?}");
        assert_eq!(back.data(), &disk.0[5 * 512..7 * 512]);
    }
}

#[test]
fn a_write_brings_the_guest_s_bytes() {
    for layout in [&[][..], &[1], &[3, 5, 7, 1], &[16, 512], &[15, 2, 1000]] {
        let mut disk = Disk(vec![0; CAPACITY as usize]);
        let data: Vec<u8> = (0..1024).map(|at| (at % 251) as u8).collect();
        let (work, back) = guest()
            .ask(&request(1, 62, &data), 1, &mut Layout::Cut(layout), |request| disk.carry_out(request, 77));
        done((work, back), Work::Write { extent: extent(62, 2), through: false });
        assert_eq!(&disk.0[62 * 512..], data, "{layout:?}");
        assert!(disk.0[..62 * 512].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn whole_sectors_of_the_disk_alone_are_read_and_written() {
    let mut guest = guest();
    for (sector, len) in [
        (0, 511),
        (0, 513),
        (64, 512),
        (63, 1024),
        (65, 0),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (u64::MAX / 512 + 1, 0),
        (1 << 63, 512),
    ] {
        refused(guest.simple(&request(0, sector, &[]), len + 1), IOERR);
        refused(guest.simple(&request(1, sector, &vec![0; len]), 1), IOERR);
    }
    let (work, _) = guest.simple(&request(0, 0, &[]), CAPACITY as usize + 1);
    assert_eq!(work, Some(Work::Read(extent(0, 64))));
}

#[test]
fn nothing_to_do_is_done_at_once() {
    let mut guest = guest();
    for number in [0, 1] {
        let (work, back) = guest.simple(&request(number, 64, &[]), 1);
        assert_eq!((work, back.status(), back.written), (None, OK, 1));
    }
    for number in [11, 13, 14] {
        let (work, back) = guest.simple(&request(number, 0, &range(64, 0, 0)), 1);
        assert_eq!((work, back.status(), back.written), (None, OK, 1));
    }
}

#[test]
fn a_request_is_what_its_chain_has_whatever_else_is_in_it() {
    let mut guest = guest();
    // Bytes to read behind the header of a read, and room in front of the status of a write, mean nothing.
    let (work, back) = guest.simple(&request(0, 1, &[9; 40]), 513);
    assert_eq!((work, back.status(), back.written), (Some(Work::Read(extent(1, 1))), OK, 513));
    let (work, back) = guest.simple(&request(1, 1, &[9; 512]), 8);
    assert_eq!(work, Some(Work::Write { extent: extent(1, 1), through: false }));
    // The status stands behind bytes that nobody wrote: none are claimed.
    assert_eq!((back.status(), back.written, back.is_untouched()), (OK, 0, true));
    let (work, back) = guest.simple(&request(4, 77, &[9; 512]), 1);
    assert_eq!((work, back.status(), back.written), (Some(Work::Flush), OK, 1));
}

#[test]
fn a_chain_without_a_status_is_given_back_and_not_carried_out() {
    let mut guest = guest();
    for bytes in [request(1, 0, &[1; 512]), request(4, 0, &[]), request(0, 0, &[]), vec![1]] {
        let (work, back) = guest.simple(&bytes, 0);
        assert_eq!((work, back.written), (None, 0));
    }
}

#[test]
fn a_short_header_is_an_error() {
    let mut guest = guest();
    for len in 0..16 {
        refused(guest.simple(&request(4, 0, &[])[..len], 1), IOERR);
        refused(guest.simple(&request(0, 0, &[])[..len], 513), IOERR);
    }
}

#[test]
fn unknown_requests_are_not_supported() {
    let mut guest = guest();
    // SCSI commands, barriers, and requests for zones without ZONED.
    for number in [2, 3, 6, 7, 9, 12, 15, 16, 17, 18, 20, 22, 24, 26, 0x8000_0000, 0x8000_0001, u32::MAX] {
        refused(guest.simple(&request(number, 0, &[0; 512]), 513), UNSUPP);
    }
}

#[test]
fn what_was_not_acknowledged_is_not_supported() {
    let bare = rules(Features::FLUSH, &shape(), true);
    let mut guest = Guest::plain(bare);
    for number in [10, 11, 13, 14] {
        refused(guest.simple(&request(number, 0, &range(0, 1, 0)), 7), UNSUPP);
    }
    // The disk cannot do it, although it was offered.
    let mut guest = Guest::plain(rules(all(), &Shape::plain(CAPACITY), true));
    for number in [11, 13, 14] {
        refused(guest.simple(&request(number, 0, &range(0, 1, 0)), 1), UNSUPP);
    }
}

#[test]
fn a_flush_is_taken_where_it_was_offered() {
    let offered = Offered::new(Features::FLUSH);
    let legacy = Acknowledged::new(offered, 0).unwrap();
    let mut guest = Guest::plain(Rules::new(offered, legacy, Endian::Little, &shape(), true));
    // Under its old name, too.
    for number in [4, 5] {
        done(guest.simple(&request(number, 0, &[]), 1), Work::Flush);
    }
    let mut guest = Guest::plain(rules(Features::BLK_SIZE, &shape(), true));
    refused(guest.simple(&request(4, 0, &[]), 1), UNSUPP);
}

#[test]
fn writes_go_through_the_cache_if_they_have_to() {
    let mut guest = Guest::plain(rules(all(), &shape(), true));
    let write = Work::Write { extent: extent(0, 1), through: true };
    done(guest.simple(&request(1, 0, &[0; 512]), 1), write);
    let zero = Work::Zero { extents: extent(2, 1).into(), unmap: false, through: true };
    done(guest.simple(&request(13, 0, &range(2, 1, 0)), 1), zero);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let offered = Offered::new(all() | Features::RO);
    let made = [
        Rules::new(offered, acknowledge(offered), Endian::Little, &shape(), false),
        rules(all(), &Shape { read_only: true, ..shape() }, false),
    ];
    for rules in made {
        let mut guest = Guest::plain(rules);
        refused(guest.simple(&request(1, 0, &[0; 512]), 1), IOERR);
        refused(guest.simple(&request(1, 0, &[]), 1), IOERR);
        for number in [11, 13, 14] {
            refused(guest.simple(&request(number, 0, &range(0, 1, 0)), 1), IOERR);
        }
        assert_eq!(guest.simple(&request(0, 0, &[]), 513).0, Some(Work::Read(extent(0, 1))));
        done(guest.simple(&request(4, 0, &[]), 1), Work::Flush);
        assert_eq!(guest.simple(&request(8, 0, &[]), 21).1.status(), OK);
        refused(guest.simple(&request(99, 0, &[]), 1), UNSUPP);
    }
}

fn list(ranges: &[(u64, u32, u32)]) -> Vec<u8> {
    ranges.iter().flat_map(|&(sector, sectors, flags)| range(sector, sectors, flags)).collect()
}

fn extents(list: &[Extent]) -> Extents {
    let mut extents = Extents::new();
    assert!(list.iter().all(|extent| extents.push(*extent)));
    extents
}

#[test]
fn ranges_are_given_up_zeroed_and_erased() {
    let mut guest = guest();
    let ranges = list(&[(0, 16, 0), (63, 1, 0), (9, 0, 0), (64, 0, 0)]);
    let expected = extents(&[extent(0, 16), extent(63, 1)]);
    done(guest.simple(&request(11, 7, &ranges), 1), Work::Discard(expected.clone()));
    done(guest.simple(&request(14, 7, &ranges), 1), Work::SecureErase(expected.clone()));
    let zero = |unmap| Work::Zero { extents: expected.clone(), unmap, through: false };
    done(guest.simple(&request(13, 7, &ranges), 1), zero(false));
    let unmapped = list(&[(0, 16, 1), (63, 1, 1)]);
    done(guest.simple(&request(13, 7, &unmapped), 1), zero(true));
    // Unmapping is allowed for all of them or not done.
    let mixed = list(&[(0, 16, 1), (63, 1, 0)]);
    done(guest.simple(&request(13, 7, &mixed), 1), zero(false));
    // Split over buffers in any way.
    for layout in [&[1][..], &[15, 17, 1, 1], &[16, 8, 4, 4]] {
        let (work, back) = guest.ask(&request(11, 0, &ranges), 1, &mut Layout::Cut(layout), |_| Ok(()));
        done((work, back), Work::Discard(expected.clone()));
    }
}

#[test]
fn ranges_that_cannot_be_are_refused() {
    let mut guest = guest();
    for number in [11, 13, 14] {
        let mut ask = |ranges: &[u8], status| refused(guest.simple(&request(number, 0, ranges), 1), status);
        ask(&[], IOERR);
        ask(&range(0, 1, 0)[..15], IOERR);
        ask(&[list(&[(0, 1, 0)]), vec![0]].concat(), IOERR);
        ask(&list(&[(0, 1, 0); 5]), IOERR);
        for bad in [(0, 17, 0), (64, 1, 0), (63, 2, 0), (65, 0, 0), (u64::MAX, 1, 0), (1 << 55, 1, 0)] {
            ask(&list(&[bad]), IOERR);
            ask(&list(&[(0, 1, 0), bad]), IOERR);
        }
        // A flag that nobody knows comes before all else that may be wrong.
        let first_unknown = if number == 13 { 2 } else { 1 };
        for flags in [first_unknown, 2, 1 << 31, u32::MAX] {
            ask(&list(&[(0, 1, flags)]), UNSUPP);
            ask(&list(&[(64, 1, 0), (0, 1, flags)]), UNSUPP);
        }
    }
}

#[test]
fn a_guest_learns_its_disk_s_name() {
    let mut guest = guest();
    let (work, back) = guest.ask(&request(8, 3, &[]), 21, &mut Layout::Cut(&[16, 7, 6]), |_| Ok(()));
    assert_eq!((work, back.status(), back.written), (None, OK, 21));
    assert_eq!(back.data(), b"ringway-0123456789ab");
    for room in [1, 20, 22, 513] {
        refused(guest.simple(&request(8, 0, &[]), room), IOERR);
    }
    let short = Shape { serial: Serial::new("vd-a").unwrap(), ..shape() };
    let (_, back) = Guest::plain(rules(all(), &short, false)).simple(&request(8, 0, &[]), 21);
    assert_eq!(back.data(), b"vd-a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn a_guest_learns_how_worn_its_disk_is() {
    let lifetime =
        Lifetime { pre_eol: PreEol::Warning, type_a: Wear::percent(5), type_b: Wear::percent(120) };
    let mut guest = Guest::plain(rules(all(), &shape(), false).with_lifetime(lifetime));
    let (work, back) = guest.simple(&request(10, 0, &[]), 7);
    assert_eq!((work, back.status(), back.written), (None, OK, 7));
    assert_eq!(back.data(), [2, 0, 1, 0, 11, 0]);
    let (_, back) = guest.simple(&request(10, 0, &[]), 9);
    assert_eq!((back.status(), back.written), (OK, 6));
    refused(guest.simple(&request(10, 0, &[]), 6), IOERR);
}

#[test]
fn a_legacy_guest_speaks_its_own_byte_order() {
    let offered = Offered::new(all().difference(Features::VERSION_1));
    let rules = Rules::new(offered, acknowledge(offered), Endian::Big, &shape(), false);
    let ring = RingFeatures { endian: Endian::Big, ..RingFeatures::default() };
    let mut guest = Guest::new(ring, rules);
    let header =
        |number: u32, sector: u64| [&number.to_be_bytes()[..], &[0; 4], &sector.to_be_bytes()].concat();
    let (work, back) = guest.simple(&header(0, 3), 513);
    assert_eq!((work, back.written), (Some(Work::Read(extent(3, 1))), 513));
    let range = [&5u64.to_be_bytes()[..], &2u32.to_be_bytes(), &1u32.to_be_bytes()].concat();
    let zero = Work::Zero { extents: extent(5, 2).into(), unmap: true, through: false };
    done(guest.simple(&[header(13, 0), range].concat(), 1), zero);
    assert_eq!(guest.simple(&header(10, 0), 7).1.data(), [0; 6]);
}

#[test]
fn every_failure_has_its_status_and_its_length() {
    let faults = [
        (IoFault::Medium, IOERR),
        (IoFault::NoSpace, IOERR),
        (IoFault::ReadOnly, IOERR),
        (IoFault::OutOfRange, IOERR),
        (IoFault::Unsupported, UNSUPP),
        (IoFault::Aborted, IOERR),
    ];
    let mut disk = Disk(vec![0x11; CAPACITY as usize]);
    for (fault, status) in faults {
        let mut guest = guest();
        for good in [0, 1, 511, 512, 1000] {
            let (_, back) = guest.ask(&request(0, 0, &[]), 1025, &mut Layout::Cut(&[16, 100]), |request| {
                disk.fail(request, 64, good, fault)
            });
            // What came is there, and no more is claimed; the status stands behind bytes that nobody wrote.
            assert_eq!((back.status(), u64::from(back.written)), (status, good), "{fault:?}");
            assert!(back.data()[..good as usize].iter().all(|byte| *byte == 0x11));
            assert!(back.data()[good as usize..].iter().all(|byte| *byte != 0x11));
        }
        // All of the data came, and it failed all the same; a disk that claims more than there is.
        for claimed in [1024, 5000] {
            let failure = Failure { fault, done: claimed };
            let (_, back) = guest.ask(&request(0, 0, &[]), 1025, &mut Layout::Whole, |_| Err(failure));
            assert_eq!((back.status(), back.written), (status, 1025));
        }
        let requests = [
            request(1, 0, &[0; 512]),
            request(4, 0, &[]),
            request(11, 0, &range(0, 1, 0)),
            request(13, 0, &range(0, 1, 0)),
            request(14, 0, &range(0, 1, 0)),
        ];
        for bytes in requests {
            let failure = Failure { fault, done: 512 };
            for (room, written) in [(1, 1), (9, 0)] {
                let (work, back) = guest.ask(&bytes, room, &mut Layout::Whole, |_| Err(failure));
                assert!(work.is_some());
                assert_eq!((back.status(), back.written, back.is_untouched()), (status, written, true));
            }
        }
    }
}
