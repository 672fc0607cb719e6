//! Requests to a disk of zones: reports, appends, what the disk is asked to do, and what stays after failures.

mod blk_rig;

use blk_rig::{Back, Disk, Guest, Layout, range, request, rules};
use devices::blk::{Features, ZoneShape, ZoneState, Zones};
use devices::storage::{Extent, Failure, IoFault, Limits, Shape, Work};

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const INVALID_CMD: u8 = 3;
const UNALIGNED_WP: u8 = 4;
const OPEN_RESOURCE: u8 = 5;
const ACTIVE_RESOURCE: u8 = 6;

const OUT: u32 = 1;
const SECURE_ERASE: u32 = 14;
const APPEND: u32 = 15;
const REPORT: u32 = 16;
const OPEN: u32 = 18;
const CLOSE: u32 = 20;
const FINISH: u32 = 22;
const RESET: u32 = 24;
const RESET_ALL: u32 = 26;

/// One conventional zone and four sequential ones of 16 sectors, of which 14 are written; the last zone has 8.
const ZONES: ZoneShape = ZoneShape {
    capacity_sectors: 4 * 16 + 8,
    zone_sectors: 16,
    zone_capacity_sectors: 14,
    conventional_zones: 1,
    max_open_zones: 2,
    max_active_zones: 3,
    max_append_sectors: 4,
    write_granularity: 512,
};

fn shape() -> Shape {
    let limits = Some(Limits { len_max: 1 << 20, extents_max: 4, alignment: 512 });
    Shape {
        discard: limits,
        zero: limits,
        secure_erase: limits,
        ..Shape::plain(ZONES.capacity_sectors * 512)
    }
}

fn guest() -> Guest {
    let mut guest = Guest::plain(rules(Features::all().difference(Features::RO), &shape(), true));
    guest.zones = Some(Zones::new(ZONES).unwrap());
    guest
}

fn zeroed(sector: u64, sectors: u64) -> Work {
    let extent = Extent { offset: sector * 512, len: sectors * 512 };
    Work::Zero { extents: extent.into(), unmap: true, through: true }
}

fn states(guest: &Guest) -> Vec<ZoneState> {
    let zones = guest.zones.as_ref().unwrap();
    (0..zones.len()).map(|index| zones.state(index).unwrap()).collect()
}

/// A request without data that needs no disk.
#[track_caller]
fn manage(guest: &mut Guest, number: u32, sector: u64, status: u8) {
    let (work, back) = guest.simple(&request(number, sector, &[]), 1);
    assert_eq!((work, back.status(), back.written), (None, status, 1));
}

fn append(guest: &mut Guest, disk: &mut Disk, sector: u64, data: &[u8]) -> (Option<Work>, Back) {
    let mut layout = Layout::Cut(&[16, 100]);
    guest.ask(&request(APPEND, sector, data), 9, &mut layout, |request| disk.carry_out(request, 99))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn a_report_tells_of_as_many_zones_as_there_is_room_for() {
    let mut guest = guest();
    guest.simple(&request(OUT, 16, &[0; 1024]), 1);
    manage(&mut guest, FINISH, 32, OK);
    let report = |guest: &mut Guest, sector, room| guest.simple(&request(REPORT, sector, &[]), room);
    let (work, back) = report(&mut guest, 0, 6 * 64 + 1);
    assert_eq!((work, back.status(), back.written), (None, OK, 6 * 64 + 1));
    let data = back.data();
    assert_eq!(u64_at(data, 0), 5);
    assert!(data[8..64].iter().all(|byte| *byte == 0));
    let zones: Vec<_> = data[64..]
        .chunks(64)
        .map(|zone| {
            assert!(zone[26..].iter().all(|byte| *byte == 0));
            (u64_at(zone, 0), u64_at(zone, 8), u64_at(zone, 16), zone[24], zone[25])
        })
        .collect();
    assert_eq!(
        zones,
        [(16, 0, 16, 1, 0), (14, 16, 18, 2, 2), (14, 32, 46, 2, 14), (14, 48, 48, 2, 1), (8, 64, 64, 2, 1)]
    );
    // From a sector inside of a zone on; with room that is no multiple; for none at all.
    let (_, back) = report(&mut guest, 35, 64 + 2 * 64 + 30 + 1);
    assert_eq!((u64_at(back.data(), 0), u64_at(back.data(), 64 + 8), back.written), (2, 32, 192));
    let (_, back) = report(&mut guest, 71, 65);
    assert_eq!((back.status(), u64_at(back.data(), 0), back.written), (OK, 0, 65));
    for (sector, room) in [(0, 64), (0, 1), (72, 500), (u64::MAX, 500)] {
        let (_, back) = report(&mut guest, sector, room);
        assert_eq!((back.status(), back.is_untouched()), (IOERR, true));
    }
}

#[test]
fn a_long_report_is_written_whole_over_any_buffers() {
    let shape = ZoneShape { capacity_sectors: 16 * 700, conventional_zones: 3, ..ZONES };
    let mut guest = guest();
    guest.zones = Some(Zones::new(shape).unwrap());
    let mut layout = Layout::Cut(&[16, 63, 65, 1, 4096, 7]);
    let (_, back) = guest.ask(&request(REPORT, 16, &[]), 64 + 300 * 64 + 1, &mut layout, |_| Ok(()));
    assert_eq!((u64_at(back.data(), 0), back.written as usize), (300, back.bytes.len()));
    let starts = back.data()[64..].chunks(64).map(|zone| u64_at(zone, 8));
    assert!(starts.eq((1..301).map(|index| index * 16)));
}

#[test]
fn a_report_has_an_end() {
    let mut guest = guest();
    guest.zones = Some(Zones::new(ZoneShape { capacity_sectors: 16 * 5000, ..ZONES }).unwrap());
    let (_, back) = guest.simple(&request(REPORT, 0, &[]), 64 + 5000 * 64 + 1);
    assert_eq!((back.status(), u64_at(back.data(), 0), back.written), (OK, 4096, 64 + 4096 * 64));
    assert!(back.data()[64 + 4096 * 64..].iter().all(|byte| *byte == 0xEE));
    // The driver goes on behind it.
    let (_, back) = guest.simple(&request(REPORT, 4096 * 16, &[]), 64 + 5000 * 64 + 1);
    assert_eq!((u64_at(back.data(), 0), u64_at(back.data(), 64 + 8)), (904, 4096 * 16));
}

#[test]
fn an_append_goes_to_the_write_pointer_and_says_so() {
    let (mut guest, mut disk) = (guest(), Disk(vec![0; 72 * 512]));
    for (count, at) in [(2, 16), (1, 18), (4, 19)] {
        let data = vec![at as u8; count * 512];
        let (work, back) = append(&mut guest, &mut disk, 16, &data);
        let extent = Extent { offset: at * 512, len: data.len() as u64 };
        assert_eq!(work, Some(Work::Write { extent, through: true }));
        assert_eq!((back.status(), back.written, u64_at(back.data(), 0)), (OK, 9, at));
        assert_eq!(disk.0[at as usize * 512..][..data.len()], data);
    }
    // A gap in front of the answer: it stands right before the status all the same.
    let (_, back) = guest.simple(&request(APPEND, 16, &[0; 512]), 12);
    assert_eq!((back.status(), u64_at(back.data(), 3), back.written), (OK, 23, 0));
    // No room for the answer; too much data; no whole sectors; not the beginning of a zone; no zone for it.
    for (sector, len, room, status) in [
        (16, 512, 8, IOERR),
        (16, 512, 1, IOERR),
        (16, 5 * 512, 9, INVALID_CMD),
        (16, 0, 9, INVALID_CMD),
        (16, 100, 9, IOERR),
        (17, 512, 9, INVALID_CMD),
        (0, 512, 9, INVALID_CMD),
        (72, 512, 9, INVALID_CMD),
    ] {
        let (work, back) = guest.simple(&request(APPEND, sector, &vec![0; len]), room);
        assert_eq!((work, back.status(), back.is_untouched()), (None, status, true), "{sector} {len} {room}");
    }
}

#[test]
fn appends_in_flight_have_their_places_whatever_comes_back_first() {
    let mut guest = guest();
    let begin = |guest: &mut Guest| {
        let sent = guest.send(&request(APPEND, 16, &[0; 1024]), 9, &mut Layout::Whole);
        let (request, chain) = guest.begin().unwrap();
        (sent, request, chain)
    };
    let (first, second, third) = (begin(&mut guest), begin(&mut guest), begin(&mut guest));
    let end = |guest: &mut Guest, (sent, request, chain), outcome| {
        guest.end(request, chain, outcome);
        let (_, written) = guest.driver.pop_used().unwrap().unwrap();
        let back: Back = guest.back(sent, written);
        (back.status(), u64_at(back.data(), 0), back.written)
    };
    assert_eq!(end(&mut guest, second, Ok(())), (OK, 18, 9));
    // The last one failed: its place is free again. The first one failed: others are behind it.
    let failure = Failure { fault: IoFault::NoSpace, done: 512 };
    let (status, _, written) = end(&mut guest, third, Err(failure));
    assert_eq!((status, written), (IOERR, 0));
    assert_eq!(end(&mut guest, first, Err(failure)).0, IOERR);
    assert_eq!(u64_at(guest.simple(&request(APPEND, 16, &[0; 512]), 9).1.data(), 0), 20);
}

#[test]
fn writes_keep_to_the_write_pointer() {
    let mut guest = guest();
    let mut write =
        |sector, sectors: usize| guest.simple(&request(OUT, sector, &vec![1; sectors * 512]), 1).1.status();
    assert_eq!([write(0, 3), write(9, 1), write(16, 2), write(18, 1)], [OK; 4]);
    assert_eq!([write(18, 1), write(20, 1)], [UNALIGNED_WP; 2]);
    // Over the end of the zone's capacity, of the zone, and of the conventional ones.
    assert_eq!([write(19, 12), write(19, 14), write(15, 2)], [INVALID_CMD; 3]);
    assert_eq!([write(19, 11), write(30, 1)], [OK, INVALID_CMD]);
    assert_eq!([write(71, 2), write(72, 1)], [IOERR; 2]);
    // Nothing to write is nothing, wherever.
    assert_eq!(write(50, 0), OK);
    assert_eq!(states(&guest)[..3], [ZoneState::NotWp, ZoneState::Full, ZoneState::Empty]);
    let (work, back) = guest.simple(&request(0, 20, &[]), 20 * 512 + 1);
    assert_eq!((work, back.status(), back.is_untouched()), (None, INVALID_CMD, true));
    assert_eq!(guest.simple(&request(0, 16, &[]), 16 * 512 + 1).1.status(), OK);
}

#[test]
fn zones_are_managed() {
    let mut guest = guest();
    manage(&mut guest, OPEN, 16, OK);
    manage(&mut guest, OPEN, 32, OK);
    manage(&mut guest, OPEN, 48, OPEN_RESOURCE);
    manage(&mut guest, OPEN, 17, INVALID_CMD);
    manage(&mut guest, OPEN, 0, INVALID_CMD);
    manage(&mut guest, CLOSE, 32, OK);
    manage(&mut guest, CLOSE, 32, INVALID_CMD);
    for sector in [16, 32, 48] {
        assert_eq!(guest.simple(&request(OUT, sector, &[0; 512]), 1).1.status(), OK);
    }
    manage(&mut guest, OPEN, 64, ACTIVE_RESOURCE);
    manage(&mut guest, FINISH, 16, OK);
    manage(&mut guest, FINISH, 0, INVALID_CMD);
    use ZoneState::{Closed, Empty, Full, ImplicitlyOpen, NotWp};
    // The second zone, opened by a write, made room for the third.
    assert_eq!(states(&guest), [NotWp, Full, Closed, ImplicitlyOpen, Empty]);
    // One sector more for a status is a byte that nobody wrote.
    let (_, back) = guest.simple(&request(FINISH, 16, &[]), 2);
    assert_eq!((back.status(), back.written), (OK, 0));
    assert_eq!(guest.zones.as_mut().unwrap().take_changed(), 1..4);
}

#[test]
fn a_reset_is_done_when_the_zone_is_zeroed() {
    let (mut guest, mut disk) = (guest(), Disk(vec![7; 72 * 512]));
    guest.simple(&request(OUT, 16, &[1; 512]), 1);
    manage(&mut guest, RESET, 32, OK);
    let bytes = request(RESET, 16, &[]);
    let failed = guest.ask(&bytes, 1, &mut Layout::Whole, |_| Err(IoFault::Medium.into()));
    assert_eq!((failed.0, failed.1.status()), (Some(zeroed(16, 16)), IOERR));
    assert_eq!(states(&guest)[1], ZoneState::ImplicitlyOpen);
    let (work, back) = guest.ask(&bytes, 1, &mut Layout::Whole, |request| disk.carry_out(request, 1));
    assert_eq!((work, back.status(), back.written), (Some(zeroed(16, 16)), OK, 1));
    assert_eq!(states(&guest)[1], ZoneState::Empty);
    assert!(disk.0[16 * 512..32 * 512].iter().all(|byte| *byte == 0));
    assert!(disk.0[..16 * 512].iter().chain(&disk.0[32 * 512..]).all(|byte| *byte == 7));

    manage(&mut guest, RESET_ALL, 0, OK);
    manage(&mut guest, FINISH, 16, OK);
    manage(&mut guest, FINISH, 48, OK);
    // What is empty between two others is zeroed with them.
    let (work, back) = guest.simple(&request(RESET_ALL, 5, &[]), 1);
    assert_eq!((work, back.status()), (Some(zeroed(16, 4 * 16 + 8 - 16)), OK));
    assert!(states(&guest)[1..].iter().all(|state| *state == ZoneState::Empty));
    manage(&mut guest, RESET, 0, INVALID_CMD);
    manage(&mut guest, RESET, 33, INVALID_CMD);
}

#[test]
fn a_secure_erase_takes_whole_zones_and_resets_them() {
    let mut guest = guest();
    manage(&mut guest, FINISH, 32, OK);
    let mut ask = |sector, sectors| guest.simple(&request(SECURE_ERASE, 0, &range(sector, sectors, 0)), 1);
    for (sector, sectors) in [(16, 15), (17, 16), (16, 17), (64, 7)] {
        let (work, back) = ask(sector, sectors);
        assert_eq!((work, back.status()), (None, IOERR));
    }
    assert_eq!(ask(64, 8).1.status(), OK);
    let (work, back) = ask(0, 48);
    let extent = Extent { offset: 0, len: 48 * 512 };
    assert_eq!((work, back.status()), (Some(Work::SecureErase(extent.into())), OK));
    assert_eq!(states(&guest)[2], ZoneState::Empty);
}

#[test]
fn what_writes_anywhere_is_not_for_zones() {
    let mut guest = guest();
    for number in [11, 13] {
        let (work, back) = guest.simple(&request(number, 0, &range(0, 1, 0)), 1);
        assert_eq!((work, back.status()), (None, UNSUPP));
    }
}

#[test]
fn a_read_only_disk_keeps_its_zones() {
    let shape = Shape { read_only: true, ..shape() };
    let mut guest = guest();
    guest.rules = rules(Features::all(), &shape, true);
    for number in [OUT, APPEND, OPEN, CLOSE, FINISH, RESET, RESET_ALL, SECURE_ERASE] {
        let (work, back) = guest.simple(&request(number, 16, &[0; 512]), 9);
        assert_eq!((work, back.status()), (None, IOERR));
    }
    assert_eq!(guest.simple(&request(REPORT, 0, &[]), 65).1.status(), OK);
}
