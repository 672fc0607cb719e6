//! Random requests of random layout, several in flight and ended in any order, against a `Vec` and a slow reading of the specification.

mod blk_rig;

use blk_rig::{Disk, Guest, Layout, Random, Sent, range, request, rules};
use devices::blk::{Features, Request, Rules};
use devices::storage::{IoFault, Limits, Serial, Shape};
use std::collections::HashMap;
use virtqueue::{Detached, RingFeatures};

const SECTORS: u64 = 200;
const SERIAL: &str = "oracle";

fn limits(len_max: u64, extents_max: u16) -> Option<Limits> {
    Some(Limits { len_max, extents_max, alignment: 512 })
}

fn shape(read_only: bool) -> Shape {
    Shape {
        discard: limits(20 * 512, 3),
        zero: limits(30 * 512, 4),
        secure_erase: limits(10 * 512, 2),
        serial: Serial::new(SERIAL).unwrap(),
        read_only,
        ..Shape::plain(SECTORS * 512)
    }
}

fn device(read_only: bool) -> Rules {
    let features = Features::all().difference(Features::ZONED | Features::RO | Features::LIFETIME);
    rules(features, &shape(read_only), false)
}

/// What is to come of a request, said as the specification says it.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    status: u8,
    /// What the driver finds in front of the status.
    data: Option<Vec<u8>>,
    written: u32,
}

/// Carries the request out on `disk` in the order of the specification's sentences.
fn oracle(
    disk: &mut [u8],
    out: &[u8],
    room: usize,
    read_only: bool,
    failed_after: Option<usize>,
) -> Expected {
    let only = |status| Expected { status, data: None, written: u32::from(room == 1) };
    let (Some(header), Some(data)) = (out.get(..16), out.get(16..)) else { return only(1) };
    let number = u32::from_le_bytes(header[..4].try_into().unwrap());
    let sector = u64::from_le_bytes(header[8..].try_into().unwrap());
    let on_disk = |sector: u64, len: u64| {
        let end = u128::from(sector) * 512 + u128::from(len);
        end <= u128::from(SECTORS) * 512
    };
    match number {
        0 => {
            let len = room - 1;
            if !len.is_multiple_of(512) || !on_disk(sector, len as u64) {
                return only(1);
            }
            let bytes = disk[sector as usize * 512..][..len].to_vec();
            match failed_after.map(|good| good.min(len)) {
                Some(good) if len != 0 => {
                    let data = bytes[..good].to_vec();
                    let written = if good == len { room } else { good };
                    Expected { status: 1, data: Some(data), written: written as u32 }
                }
                _ => Expected { status: 0, data: Some(bytes), written: room as u32 },
            }
        }
        1 if read_only => only(1),
        1 => {
            if !data.len().is_multiple_of(512) || !on_disk(sector, data.len() as u64) {
                return only(1);
            }
            let good = failed_after.unwrap_or(usize::MAX).min(data.len());
            disk[sector as usize * 512..][..good].copy_from_slice(&data[..good]);
            only(u8::from(failed_after.is_some() && !data.is_empty()))
        }
        4 | 5 => only(u8::from(failed_after.is_some())),
        8 if room == 21 => {
            let mut id = SERIAL.as_bytes().to_vec();
            id.resize(20, 0);
            Expected { status: 0, data: Some(id), written: 21 }
        }
        8 => only(1),
        11 | 13 | 14 if read_only => only(1),
        11 | 13 | 14 => {
            let (sectors_max, ranges_max) =
                [(20, 3), (30, 4), (10, 2)][[11, 13, 14].iter().position(|n| *n == number).unwrap()];
            if data.is_empty() || !data.len().is_multiple_of(16) || data.len() / 16 > ranges_max {
                return only(1);
            }
            let ranges: Vec<(u64, u32, u32)> = data
                .chunks(16)
                .map(|range| {
                    let sector = u64::from_le_bytes(range[..8].try_into().unwrap());
                    let word = |at: usize| u32::from_le_bytes(range[at..at + 4].try_into().unwrap());
                    (sector, word(8), word(12))
                })
                .collect();
            let known = u32::from(number == 13);
            if ranges.iter().any(|(_, _, flags)| flags & !known != 0) {
                return only(2);
            }
            if ranges
                .iter()
                .any(|&(at, sectors, _)| sectors > sectors_max || !on_disk(at, u64::from(sectors) * 512))
            {
                return only(1);
            }
            let has_work = ranges.iter().any(|(_, sectors, _)| *sectors != 0);
            if failed_after.is_some() && has_work {
                return only(1);
            }
            // A discard may leave what is there: the disk of these tests does.
            for (at, sectors, _) in ranges.into_iter().filter(|_| number != 11) {
                disk[at as usize * 512..][..sectors as usize * 512].fill(0);
            }
            only(0)
        }
        _ => only(2),
    }
}

/// A random request; mostly one that can be carried out.
fn make(random: &mut Random) -> (Vec<u8>, usize) {
    let sector = match random.below(12) {
        0 => random.next(),
        1 => SECTORS,
        _ => random.below(SECTORS as usize) as u64,
    };
    let len = match random.below(8) {
        0 => random.below(2000),
        1 => 0,
        _ => 512 * (1 + random.below(8)),
    };
    let odd_room = |random: &mut Random, usual| if random.once_in(8) { 1 + random.below(40) } else { usual };
    let (mut out, room) = match random.below(12) {
        0..4 => (request(0, sector, &[]), len + 1),
        4..8 => {
            let data: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            (request(1, sector, &data), odd_room(random, 1))
        }
        8 => (request(4 + random.below(2) as u32, sector, &[]), odd_room(random, 1)),
        9 => (request(8, sector, &[]), odd_room(random, 21)),
        10 => {
            let mut data = Vec::new();
            for _ in 0..random.below(6) {
                let flags = if random.once_in(10) { random.next() as u32 } else { random.below(2) as u32 };
                let sector =
                    if random.once_in(10) { random.next() } else { random.below(SECTORS as usize) as u64 };
                data.extend_from_slice(&range(sector, random.below(24) as u32, flags));
            }
            if random.once_in(10) {
                data.push(0);
            }
            (request([11, 13, 14][random.below(3)], 0, &data), odd_room(random, 1))
        }
        _ => (request(random.next() as u32 >> random.below(32), sector, &vec![0; len]), odd_room(random, 1)),
    };
    if random.once_in(30) {
        out.truncate(random.below(out.len()));
    }
    (out, room)
}

struct InFlight {
    sent: Sent,
    expected: Option<Expected>,
}

struct Run {
    guest: Guest,
    disk: Disk,
    model: Vec<u8>,
    read_only: bool,
    in_flight: HashMap<u64, InFlight>,
    at_disk: Vec<(u64, Request, Detached, Vec<u8>, usize)>,
    failed: usize,
    back: usize,
}

impl Run {
    fn new(ring: RingFeatures, read_only: bool) -> Self {
        let disk: Vec<u8> = (0..SECTORS * 512).map(|at| (at % 253) as u8).collect();
        Self {
            guest: Guest::new(ring, device(read_only)),
            model: disk.clone(),
            disk: Disk(disk),
            read_only,
            in_flight: HashMap::new(),
            at_disk: Vec::new(),
            failed: 0,
            back: 0,
        }
    }

    fn send(&mut self, random: &mut Random) {
        let (out, room) = make(random);
        let sent = self.guest.send(&out, room, &mut Layout::Random(random));
        let token = sent.token;
        let expected = match self.guest.begin() {
            Ok((request, chain)) => {
                self.at_disk.push((token, request, chain, out, room));
                None
            }
            // What is answered at once does not depend on the disk.
            Err(_) => Some(oracle(&mut self.model, &out, room, self.read_only, None)),
        };
        self.in_flight.insert(token, InFlight { sent, expected });
    }

    /// The disk does what one of the requests asks for, or fails on the way.
    fn end_one(&mut self, random: &mut Random) {
        if self.at_disk.is_empty() {
            return;
        }
        let (token, mut request, chain, out, room) =
            self.at_disk.swap_remove(random.below(self.at_disk.len()));
        let step = 1 + random.below(2000);
        let good = random.once_in(6).then(|| random.below(5000));
        let outcome = match good {
            Some(good) => self.disk.fail(&mut request, step, good as u64, IoFault::Medium),
            None => self.disk.carry_out(&mut request, step),
        };
        self.failed += usize::from(outcome.is_err());
        let expected = oracle(&mut self.model, &out, room, self.read_only, good);
        self.guest.end(request, chain, outcome);
        self.in_flight.get_mut(&token).unwrap().expected = Some(expected);
    }

    /// Looks at all that came back.
    fn collect(&mut self) {
        while let Some((token, written)) = self.guest.driver.pop_used().unwrap() {
            let InFlight { sent, expected } = self.in_flight.remove(&token).expect("once");
            let expected = expected.expect("nothing comes back that was not ended");
            let back = self.guest.back(sent, written);
            assert_eq!((back.status(), back.written), (expected.status, expected.written), "{expected:?}");
            let data = expected.data.unwrap_or_default();
            assert_eq!(back.data()[..data.len()], data);
            assert!(back.data()[data.len()..].iter().all(|byte| *byte == 0xEE), "no byte more is written");
            self.back += 1;
        }
    }
}

#[test]
fn every_request_does_what_the_specification_says() {
    for bits in 0..32u32 {
        let bit = |index: u32| bits & (1 << index) != 0;
        let ring = RingFeatures {
            packed: bit(0),
            indirect: bit(1),
            event_idx: bit(2),
            in_order: bit(3),
            ..RingFeatures::default()
        };
        let (mut run, mut random) = (Run::new(ring, bit(4)), Random::new(u64::from(bits)));
        for _ in 0..400 {
            if run.guest.has_room() && run.guest.driver.free_descriptors() > 16 && !random.once_in(3) {
                run.send(&mut random);
            } else {
                run.end_one(&mut random);
            }
            run.collect();
        }
        while !run.at_disk.is_empty() {
            run.end_one(&mut random);
        }
        run.collect();
        assert!(run.in_flight.is_empty() && run.guest.device.detached() == 0);
        assert!(run.disk.0 == run.model, "disk and model went apart");
        assert!(run.back > 150 && run.failed > 5, "{} requests, {} failed", run.back, run.failed);
        assert!(run.guest.device.fault().is_none());
    }
}
