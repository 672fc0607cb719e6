//! Each sentence about zones by itself, and random operations against a slow model.

use super::super::record::{RECORD_LEN, RecordFault};
use super::*;
use ZoneState::{Closed, Empty, ExplicitlyOpen, Full, ImplicitlyOpen, NotWp, Offline, ReadOnly};

/// Two conventional zones of 16 sectors, six sequential ones that take 12, and the last one takes 8 of its 8; at most 2 open and 3 active.
const SHAPE: ZoneShape = ZoneShape {
    capacity_sectors: 8 * 16 + 8,
    zone_sectors: 16,
    zone_capacity_sectors: 12,
    conventional_zones: 2,
    max_open_zones: 2,
    max_active_zones: 3,
    max_append_sectors: 8,
    write_granularity: 1024,
};

fn zones() -> Zones {
    Zones::new(SHAPE).unwrap()
}

/// First sector of a zone.
fn at(index: u64) -> u64 {
    index * 16
}

fn states(zones: &Zones) -> Vec<ZoneState> {
    (0..zones.len()).map(|index| zones.state(index).unwrap()).collect()
}

fn extent(index: u64, sectors: u64) -> Extent {
    Extent { offset: at(index) * 512, len: sectors * 512 }
}

fn reset(zones: &mut Zones, index: u64) -> Result<(), Status> {
    let extents = zones.reset_work(at(index))?;
    zones.reset(&extents);
    Ok(())
}

#[test]
fn impossible_divisions_are_named() {
    let fault = |shape: ZoneShape| Zones::new(shape).unwrap_err();
    assert_eq!(fault(ZoneShape { zone_sectors: 0, ..SHAPE }), ZoneShapeFault::ZoneSectors(0));
    assert_eq!(fault(ZoneShape { zone_sectors: 24, ..SHAPE }), ZoneShapeFault::ZoneSectors(24));
    assert_eq!(fault(ZoneShape { capacity_sectors: 0, ..SHAPE }), ZoneShapeFault::ZoneSectors(16));
    let many = ZoneShape { capacity_sectors: 16 * (ZONES_MAX + 1), ..SHAPE };
    assert_eq!(fault(many), ZoneShapeFault::ZoneSectors(16));
    for sectors in [17, 11] {
        let shape = ZoneShape { zone_capacity_sectors: sectors, ..SHAPE };
        assert_eq!(fault(shape), ZoneShapeFault::ZoneCapacity(sectors));
    }
    for bytes in [0, 256, 1536, 16 * 512] {
        assert_eq!(
            fault(ZoneShape { write_granularity: bytes, ..SHAPE }),
            ZoneShapeFault::Granularity(bytes)
        );
    }
    let odd = ZoneShape { capacity_sectors: 8 * 16 + 7, ..SHAPE };
    assert_eq!(fault(odd), ZoneShapeFault::Granularity(1024));
    assert_eq!(fault(ZoneShape { conventional_zones: 9, ..SHAPE }), ZoneShapeFault::Conventional(9));
    assert_eq!(fault(ZoneShape { max_open_zones: 4, ..SHAPE }), ZoneShapeFault::Limit(4));
    let most = ZONE_LIMIT_MAX + 1;
    assert_eq!(fault(ZoneShape { max_active_zones: most, ..SHAPE }), ZoneShapeFault::Limit(most));
    assert!(Zones::new(ZoneShape { max_active_zones: 0, max_open_zones: 0, ..SHAPE }).is_ok());
    assert!(ZoneShapeFault::Limit(4).to_string().contains("accepted are 0 (none) to 4096"));
}

#[test]
fn a_new_disk_is_empty() {
    let zones = zones();
    assert_eq!(states(&zones), [NotWp, NotWp, Empty, Empty, Empty, Empty, Empty, Empty, Empty]);
    assert_eq!(
        (zones.in_use(), zones.capacity(0), zones.capacity(2), zones.capacity(8)),
        ((0, 0), 16, 12, 8)
    );
}

#[test]
fn conventional_zones_are_written_anywhere() {
    let mut zones = zones();
    assert_eq!(zones.write(at(0) + 5, 3), Ok(None));
    // Over their boundary, too, but not out of them.
    assert_eq!(zones.write(at(1) - 1, 2), Ok(None));
    assert_eq!(zones.write(at(2) - 1, 2), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.check_read(at(2) - 1, 2), Err(Status::ZoneInvalidCmd));
    for index in [0, 1] {
        let invalid = Err(Status::ZoneInvalidCmd);
        assert_eq!([zones.open(at(index)), zones.close(at(index)), zones.finish(at(index))], [invalid; 3]);
        assert_eq!(
            (reset(&mut zones, index), zones.append(at(index), 2)),
            (invalid, Err(Status::ZoneInvalidCmd))
        );
    }
    assert_eq!((zones.in_use(), zones.take_changed()), ((0, 0), 0..0));
}

#[test]
fn a_zone_is_written_at_its_pointer_until_it_is_full() {
    let mut zones = zones();
    assert_eq!(zones.write(at(2) + 2, 2), Err(Status::ZoneUnalignedWp));
    assert_eq!(zones.state(2), Some(Empty));
    assert!(zones.write(at(2), 4).is_ok());
    assert_eq!((zones.state(2), zones.in_use()), (Some(ImplicitlyOpen), (1, 1)));
    assert_eq!(zones.write(at(2), 2), Err(Status::ZoneUnalignedWp));
    // Its end is no multiple of the granularity; it is longer than what is left; it leads out of the zone.
    assert_eq!(zones.write(at(2) + 4, 1), Err(Status::ZoneUnalignedWp));
    assert_eq!(zones.write(at(2) + 4, 10), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.write(at(2) + 4, 14), Err(Status::ZoneInvalidCmd));
    assert!(zones.write(at(2) + 4, 8).is_ok());
    assert_eq!((zones.state(2), zones.in_use()), (Some(Full), (0, 0)));
    assert_eq!(zones.write(at(2) + 12, 2), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.append(at(2), 2), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.take_changed(), 2..3);
    // The last zone is shorter.
    assert!(zones.write(at(8), 8).is_ok());
    assert_eq!((zones.state(8), zones.write(at(9), 2)), (Some(Full), Err(Status::IoErr)));
}

#[test]
fn an_append_is_told_where_it_goes() {
    let mut zones = zones();
    assert_eq!(zones.append(at(3), 4).unwrap().0, at(3));
    assert_eq!(zones.append(at(3), 2).unwrap().0, at(3) + 4);
    assert_eq!(zones.append(at(3) + 6, 2), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.append(at(3), 3), Err(Status::ZoneUnalignedWp));
    assert_eq!(zones.append(at(3), 8), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.append(at(4), 10), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.append(at(4), 0), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.append(at(9), 2), Err(Status::ZoneInvalidCmd));
    let mut without = Zones::new(ZoneShape { max_append_sectors: 0, ..SHAPE }).unwrap();
    assert_eq!(without.append(at(3), 2), Err(Status::Unsupp));
}

#[test]
fn opening_and_closing() {
    let mut zones = zones();
    assert_eq!(zones.open(at(2) + 1), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.open(at(9)), Err(Status::ZoneInvalidCmd));
    for _ in 0..2 {
        assert_eq!(
            (zones.open(at(2)), zones.state(2), zones.in_use()),
            (Ok(()), Some(ExplicitlyOpen), (1, 1))
        );
    }
    assert_eq!((zones.close(at(2)), zones.state(2), zones.in_use()), (Ok(()), Some(Empty), (0, 0)));
    assert_eq!(zones.close(at(2)), Err(Status::ZoneInvalidCmd));
    zones.write(at(2), 2).unwrap();
    assert_eq!((zones.open(at(2)), zones.state(2)), (Ok(()), Some(ExplicitlyOpen)));
    for _ in 0..2 {
        assert_eq!((zones.close(at(2)), zones.state(2), zones.in_use()), (Ok(()), Some(Closed), (0, 1)));
    }
    zones.write(at(2) + 2, 2).unwrap();
    assert_eq!((zones.state(2), zones.in_use()), (Some(ImplicitlyOpen), (1, 1)));
    assert_eq!((zones.close(at(2)), zones.state(2)), (Ok(()), Some(Closed)));
}

#[test]
fn finishing_and_resetting() {
    let mut zones = zones();
    zones.write(at(3), 2).unwrap();
    zones.open(at(4)).unwrap();
    zones.write(at(5), 2).unwrap();
    zones.close(at(5)).unwrap();
    for index in [2, 3, 4, 5, 5] {
        assert_eq!((zones.finish(at(index)), zones.state(index as usize)), (Ok(()), Some(Full)));
    }
    assert_eq!(zones.in_use(), (0, 0));
    assert_eq!(zones.close(at(3)), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.open(at(3)), Err(Status::ZoneInvalidCmd));
    // The whole zone is zeroed, the gap at its end as well; it is empty only then.
    assert_eq!(zones.reset_work(at(3)), Ok(extent(3, 16).into()));
    assert_eq!(zones.state(3), Some(Full));
    assert_eq!((reset(&mut zones, 3), zones.state(3)), (Ok(()), Some(Empty)));
    assert!(zones.reset_work(at(3)).unwrap().is_empty());
    assert!(zones.write(at(3), 2).is_ok());
    assert_eq!(zones.reset_work(at(3) + 1), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.reset_work(at(8)), Ok(Extents::new()));
}

#[test]
fn all_zones_are_reset_but_those_that_failed() {
    let mut zones = zones();
    assert!(zones.reset_all_work().unwrap().is_empty());
    for index in [3, 5, 7] {
        zones.write(at(index), 2).unwrap();
        zones.finish(at(index)).unwrap();
    }
    zones.write(at(8), 2).unwrap();
    zones.fail(6, false);
    let work = zones.reset_all_work().unwrap();
    assert_eq!(work.as_slice(), [extent(3, 3 * 16), extent(7, 16 + 8)]);
    zones.reset(&work);
    assert_eq!(states(&zones), [NotWp, NotWp, Empty, Empty, Empty, Empty, ReadOnly, Empty, Empty]);
    assert_eq!(zones.in_use(), (0, 0));

    // More pieces than a list holds.
    let shape = ZoneShape { capacity_sectors: 16 * 600, max_active_zones: 0, max_open_zones: 0, ..SHAPE };
    let mut zones = Zones::new(shape).unwrap();
    for index in (3..600).step_by(2) {
        zones.write(at(index), 2).unwrap();
        zones.fail(index as usize - 1, true);
    }
    assert_eq!(zones.reset_all_work(), Err(Status::IoErr));
}

#[test]
fn limits_hold_and_zones_opened_by_writes_make_room() {
    let mut zones = zones();
    zones.write(at(2), 2).unwrap();
    zones.write(at(3), 2).unwrap();
    zones.write(at(4), 2).unwrap();
    // The oldest one was closed.
    assert_eq!(
        (states(&zones)[2..5].to_vec(), zones.in_use()),
        (vec![Closed, ImplicitlyOpen, ImplicitlyOpen], (2, 3))
    );
    assert_eq!(zones.write(at(5), 2), Err(Status::ZoneActiveResource));
    assert_eq!(zones.open(at(5)), Err(Status::ZoneActiveResource));
    zones.open(at(2)).unwrap();
    assert_eq!(states(&zones)[2..5], [ExplicitlyOpen, Closed, ImplicitlyOpen]);
    zones.open(at(4)).unwrap();
    // None is left that could be closed.
    assert_eq!(zones.open(at(3)), Err(Status::ZoneOpenResource));
    assert_eq!(zones.write(at(3) + 2, 2), Err(Status::ZoneOpenResource));
    assert_eq!(zones.append(at(3), 2), Err(Status::ZoneOpenResource));
    assert_eq!(states(&zones)[2..5], [ExplicitlyOpen, Closed, ExplicitlyOpen]);
    zones.finish(at(4)).unwrap();
    assert!(zones.write(at(3) + 2, 2).is_ok());
    // A full zone frees both.
    zones.write(at(2) + 2, 10).unwrap();
    assert_eq!(zones.in_use(), (1, 1));
}

#[test]
fn a_failed_write_gives_its_place_back_if_it_is_the_last() {
    let mut zones = zones();
    let first = zones.write(at(2), 2).unwrap().unwrap();
    let (_, second) = zones.append(at(2), 4).unwrap();
    zones.give_back(first);
    assert_eq!(zones.zones[2].written, 6, "another one stands behind it");
    zones.give_back(second);
    assert_eq!(zones.zones[2].written, 2);
    zones.give_back(second);
    zones.give_back(first);
    assert_eq!((zones.zones[2].written, zones.state(2)), (0, Some(ImplicitlyOpen)));
    assert_eq!((zones.close(at(2)), zones.state(2), zones.in_use()), (Ok(()), Some(Empty), (0, 0)));
    // A zone that it filled stays full.
    let last = zones.write(at(3), 12).unwrap().unwrap();
    zones.give_back(last);
    assert_eq!((zones.zones[3].written, zones.state(3)), (12, Some(Full)));
}

#[test]
fn a_failed_write_of_before_a_reset_has_no_say() {
    let mut zones = zones();
    let before = zones.write(at(2), 4).unwrap().unwrap();
    reset(&mut zones, 2).unwrap();
    zones.write(at(2), 4).unwrap();
    zones.give_back(before);
    assert_eq!(zones.zones[2].written, 4);
    let before = zones.write(at(3), 4).unwrap().unwrap();
    zones.finish(at(3)).unwrap();
    reset(&mut zones, 3).unwrap();
    zones.write(at(3), 4).unwrap();
    zones.give_back(before);
    assert_eq!(zones.zones[3].written, 4);
}

#[test]
fn failed_zones() {
    let mut zones = zones();
    zones.write(at(2), 2).unwrap();
    zones.write(at(3), 2).unwrap();
    zones.fail(2, false);
    zones.fail(3, true);
    zones.fail(3, false);
    zones.fail(0, true);
    zones.fail(99, true);
    assert_eq!(
        (states(&zones)[..4].to_vec(), zones.in_use()),
        (vec![NotWp, NotWp, ReadOnly, Offline], (0, 0))
    );
    let invalid = Err(Status::ZoneInvalidCmd);
    for index in [2, 3] {
        assert_eq!(zones.write(at(index) + 2, 2).map(|_| ()), invalid);
        assert_eq!(zones.append(at(index), 2).map(|_| ()), invalid);
        assert_eq!([zones.open(at(index)), zones.close(at(index)), zones.finish(at(index))], [invalid; 3]);
        assert_eq!(reset(&mut zones, index), invalid);
    }
    assert_eq!((zones.check_read(at(2), 16), zones.check_read(at(3), 1)), (Ok(()), invalid));
    // What failed is not emptied by an erase of everything either.
    zones.reset(&extent(0, SHAPE.capacity_sectors).into());
    assert_eq!(states(&zones)[..4], [NotWp, NotWp, ReadOnly, Offline]);
}

#[test]
fn reads_stay_in_one_zone() {
    let zones = zones();
    assert_eq!(zones.check_read(at(2), 16), Ok(()));
    assert_eq!(zones.check_read(at(2) + 15, 2), Err(Status::ZoneInvalidCmd));
    assert_eq!(zones.check_read(0, 32), Ok(()));
    assert_eq!(zones.check_read(at(9), 1), Err(Status::IoErr));
    assert_eq!(zones.check_read(u64::MAX, 2), Err(Status::IoErr));
}

#[test]
fn whole_zones_are_told_from_pieces() {
    let zones = zones();
    assert!(zones.are_whole(&extent(2, 32).into()) && zones.are_whole(&extent(8, 8).into()));
    assert!(!zones.are_whole(&extent(2, 15).into()));
    let shifted = Extent { offset: (at(2) + 1) * 512, len: 15 * 512 };
    assert!(!zones.are_whole(&shifted.into()));
}

fn records(zones: &Zones) -> Vec<u8> {
    (0..zones.len()).flat_map(|index| zones.record(index).unwrap()).collect()
}

#[test]
fn zones_go_on_from_their_records() {
    let mut zones = zones();
    zones.write(at(2), 4).unwrap();
    zones.open(at(3)).unwrap();
    zones.finish(at(4)).unwrap();
    zones.fail(5, false);
    let mut restored = Zones::restore(SHAPE, &records(&zones)).unwrap();
    assert_eq!((states(&restored), restored.in_use()), (states(&zones), (2, 2)));
    assert!(restored.write(at(2) + 4, 2).is_ok());
    // Zone 2 was opened by a write: room can be made.
    assert_eq!((restored.open(at(6)), restored.state(2)), (Ok(()), Some(Closed)));
    assert_eq!((zones.record(2), zones.record(99)), (Some([4, 0, 0, 0, 2, 0, 0, 0]), None));
}

#[test]
fn records_that_cannot_be_are_refused() {
    let good = records(&zones());
    let fault = |bytes: &[u8]| Zones::restore(SHAPE, bytes).unwrap_err();
    assert_eq!(fault(&good[1..]), RecordFault::Len { len: 71, needed: 72 });
    let of = |zone: usize, record: [u8; RECORD_LEN]| {
        let mut bytes = good.clone();
        bytes[zone * RECORD_LEN..][..RECORD_LEN].copy_from_slice(&record);
        bytes
    };
    for (zone, record) in [
        (2, [0, 0, 0, 0, 0, 0, 0, 0]),
        (0, [0, 0, 0, 0, 1, 0, 0, 0]),
        (0, [1, 0, 0, 0, 0, 0, 0, 0]),
        (2, [1, 0, 0, 0, 1, 0, 0, 0]),
        (2, [12, 0, 0, 0, 2, 0, 0, 0]),
        (8, [8, 0, 0, 0, 4, 0, 0, 0]),
        (2, [13, 0, 0, 0, 14, 0, 0, 0]),
        (2, [0, 0, 0, 0, 5, 0, 0, 0]),
        (2, [0, 0, 0, 0, 1, 0, 0, 1]),
    ] {
        let written = u32::from(record[0]);
        assert_eq!(fault(&of(zone, record)), RecordFault::Zone { zone, state: record[4], written });
    }
    let mut many = good.clone();
    (2..5).for_each(|zone| many[zone * RECORD_LEN + 4] = 3);
    assert_eq!(fault(&many), RecordFault::Limits { open: 3, active: 3 });
    let mut active = good.clone();
    (2..6).for_each(|zone| active[zone * RECORD_LEN..][..5].copy_from_slice(&[2, 0, 0, 0, 4]));
    assert_eq!(fault(&active), RecordFault::Limits { open: 0, active: 4 });
    let shape = ZoneShape { zone_sectors: 3, ..SHAPE };
    assert_eq!(Zones::restore(shape, &good).unwrap_err(), RecordFault::Shape(ZoneShapeFault::ZoneSectors(3)));
    assert!(Zones::restore(SHAPE, &good).is_ok());
}

/// The model: states and pointers, everything counted anew, sentence by sentence.
#[derive(Clone)]
struct Model {
    zones: Vec<(ZoneState, u64)>,
    /// Zones opened by a write, the oldest first.
    implicit: Vec<usize>,
}

impl Model {
    fn new() -> Self {
        let zones = zones();
        Self { zones: states(&zones).into_iter().map(|state| (state, 0)).collect(), implicit: Vec::new() }
    }

    fn count(&self, of: &[ZoneState]) -> u32 {
        self.zones.iter().filter(|(state, _)| of.contains(state)).count() as u32
    }

    fn set(&mut self, index: usize, state: ZoneState) {
        self.zones[index].0 = state;
        self.implicit.retain(|other| *other != index);
        if state == ImplicitlyOpen {
            self.implicit.push(index);
        }
    }

    fn open_as(&mut self, index: usize, state: ZoneState) -> Result<(), Status> {
        let open = self.count(&[ImplicitlyOpen, ExplicitlyOpen]);
        let active = open + self.count(&[Closed]);
        let before = self.zones[index].0;
        if before == Empty && active == 3 {
            return Err(Status::ZoneActiveResource);
        }
        if matches!(before, Empty | Closed) && open == 2 {
            let Some(&oldest) = self.implicit.first() else { return Err(Status::ZoneOpenResource) };
            let state = if self.zones[oldest].1 == 0 { Empty } else { Closed };
            self.set(oldest, state);
        }
        self.set(index, state);
        Ok(())
    }

    fn write(&mut self, sector: u64, sectors: u64, is_append: bool) -> Result<u64, Status> {
        let index = (sector / 16) as usize;
        let (state, written) = self.zones[index];
        let last = ((sector + sectors - 1) / 16) as usize;
        if is_append && (!sector.is_multiple_of(16) || sectors > 8 || state == NotWp) {
            return Err(Status::ZoneInvalidCmd);
        }
        if !is_append && state == NotWp && last < 2 {
            return Ok(sector);
        }
        if (!is_append && last != index) || matches!(state, Full | ReadOnly | Offline) {
            return Err(Status::ZoneInvalidCmd);
        }
        let begin = if is_append { sector + written } else { sector };
        if begin != index as u64 * 16 + written || !(written + sectors).is_multiple_of(2) {
            return Err(Status::ZoneUnalignedWp);
        }
        let capacity = if index == 8 { 8 } else { 12 };
        if written + sectors > capacity {
            return Err(Status::ZoneInvalidCmd);
        }
        if matches!(state, Empty | Closed) {
            self.open_as(index, ImplicitlyOpen)?;
        }
        self.zones[index].1 += sectors;
        if written + sectors == capacity {
            self.set(index, Full);
        }
        Ok(begin)
    }

    fn manage(&mut self, operation: usize, index: usize) -> Result<(), Status> {
        let (state, written) = self.zones[index];
        match (operation, state) {
            (_, NotWp | ReadOnly | Offline) => return Err(Status::ZoneInvalidCmd),
            (0, Full) | (1, Empty | Full) => return Err(Status::ZoneInvalidCmd),
            (0, ExplicitlyOpen) | (1, Closed) | (2, Full) => {}
            (0, _) => self.open_as(index, ExplicitlyOpen)?,
            (1, _) => self.set(index, if written == 0 { Empty } else { Closed }),
            (2, _) => self.set(index, Full),
            _ => {
                self.set(index, Empty);
                self.zones[index].1 = 0;
            }
        }
        Ok(())
    }
}

#[test]
fn random_operations_do_what_the_model_does() {
    let mut seed = 1u64;
    let mut below = |limit: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % limit
    };
    let mut met = std::collections::HashSet::new();
    for _ in 0..if cfg!(miri) { 2 } else { 300 } {
        let (mut zones, mut model) = (zones(), Model::new());
        if below(4) == 0 {
            zones.fail(6, true);
            model.zones[6].0 = Offline;
        }
        for _ in 0..120 {
            let index = below(9);
            let sectors = 1 + below(9);
            let start = at(index);
            let result = match below(7) {
                0..2 => {
                    let pointer = start + u64::from(zones.zones[index as usize].written);
                    let sector = (if below(5) == 0 { start + below(16) } else { pointer }).min(135);
                    let sectors = sectors.min(SHAPE.capacity_sectors - sector);
                    let mine = zones.write(sector, sectors).map(|_| sector);
                    (mine, model.write(sector, sectors, false))
                }
                2 => {
                    let sector = if below(8) == 0 { start + 1 } else { start };
                    (zones.append(sector, sectors).map(|(at, _)| at), model.write(sector, sectors, true))
                }
                3 => (zones.open(start).map(|()| 0), model.manage(0, index as usize).map(|()| 0)),
                4 => (zones.close(start).map(|()| 0), model.manage(1, index as usize).map(|()| 0)),
                5 if below(3) == 0 => {
                    (zones.finish(start).map(|()| 0), model.manage(2, index as usize).map(|()| 0))
                }
                _ => (reset(&mut zones, index).map(|()| 0), model.manage(3, index as usize).map(|()| 0)),
            };
            assert_eq!(result.0, result.1);
            met.insert(result.0.map(|_| ()));
            let mine: Vec<_> = zones.zones.iter().map(|zone| (zone.state, u64::from(zone.written))).collect();
            assert_eq!(mine, model.zones);
            let open = model.count(&[ImplicitlyOpen, ExplicitlyOpen]);
            assert_eq!(zones.in_use(), (open, open + model.count(&[Closed])));
            assert!(Zones::restore(SHAPE, &records(&zones)).is_ok());
        }
    }
    // Done, and each of the four refusals.
    assert!(met.len() >= 5, "{met:?}");
}
