//! What a frame takes, in instructions: one process, one thread, rings in private memory, the drivers' part outside the count.
//!
//! A case runs the same few bursts again and again. [`Meter::count`] is what is counted of them: `cargo xtask budget` runs
//! each case under Callgrind, which counts inside of [`counted_part`] alone, and holds the result against `bench/budget.toml`.
//! The tests here run the same cases and assert what is not a matter of degree: no allocation, and each byte of a frame read once
//! from its sender's memory and written once into each receiver's.

mod guest;
mod pieces;
mod way;

use anyhow::{Context, ensure};
use guestmem::tally::{self, Tally};
use way::{Target, Way};

/// Frames of a burst.
pub(crate) const BURST: usize = 32;
/// Bursts before the count begins: by then every list has the size it needs.
const WARM_BURSTS: usize = 64;
/// Bursts that are counted.
const BURSTS: usize = 64;

/// One case, over and over.
struct Case {
    name: &'static str,
    work: Work,
}

enum Work {
    /// A frame's whole way.
    Way(Way),
    /// A part of it.
    Piece(fn(&mut Meter) -> anyhow::Result<()>),
}

const CASES: &[Case] = &[
    Case { name: "64 B, split", work: Work::Way(way::SMALL) },
    Case { name: "64 B, packed", work: Work::Way(Way { packed: true, ..way::SMALL }) },
    Case { name: "64 B, split, not in order", work: Work::Way(way::ANY_ORDER) },
    Case {
        name: "64 B, split, to 4 ports in turn",
        work: Work::Way(Way { target: Target::Turns(4), ..way::SMALL }),
    },
    Case {
        name: "64 B, split, flooded to 4 ports",
        work: Work::Way(Way { target: Target::All(4), ..way::SMALL }),
    },
    Case { name: "64 B, split, from private memory", work: Work::Way(Way { private: true, ..way::SMALL }) },
    Case { name: "1500 B, split", work: Work::Way(Way { len: 1500, ..way::SMALL }) },
    Case {
        name: "64 KiB TSO, split, mergeable buffers",
        work: Work::Way(Way { tso: true, len: 65_536, ..way::ANY_ORDER }),
    },
    Case {
        name: "pop and complete, split",
        work: Work::Piece(|meter| pieces::pop_and_complete(meter, false)),
    },
    Case {
        name: "pop and complete, packed",
        work: Work::Piece(|meter| pieces::pop_and_complete(meter, true)),
    },
    Case { name: "transmit::open", work: Work::Piece(pieces::open) },
    Case { name: "decide_burst", work: Work::Piece(pieces::decide) },
    Case { name: "deliver_burst, split", work: Work::Piece(|meter| pieces::deliver(meter, false)) },
    Case { name: "deliver_burst, packed", work: Work::Piece(|meter| pieces::deliver(meter, true)) },
];

/// Prints the names of all cases.
pub(crate) fn list() {
    CASES.iter().for_each(|case| println!("{}", case.name));
}

/// Runs one case and prints how many frames were counted.
pub(crate) fn run(name: &str) -> anyhow::Result<()> {
    let case = CASES.iter().find(|case| case.name == name).with_context(|| format!("no case {name:?}"))?;
    println!("{}", measured(case)?.frames);
    Ok(())
}

fn measured(case: &Case) -> anyhow::Result<Meter> {
    let mut meter = Meter::default();
    match &case.work {
        Work::Way(way) => way::run(&mut meter, way),
        Work::Piece(run) => run(&mut meter),
    }
    .context(case.name)?;
    ensure!(meter.frames > 0, "{}: nothing was counted", case.name);
    Ok(meter)
}

/// What was counted.
#[derive(Default)]
struct Meter {
    bursts: usize,
    frames: u64,
    allocations: u64,
    /// Bytes copied from and to guests' memory; only with debug assertions.
    copied: Tally,
}

impl Meter {
    /// Counts the work on `frames` frames, once the first bursts are over.
    fn count(&mut self, frames: usize, mut work: impl FnMut()) {
        self.bursts += 1;
        if self.bursts <= WARM_BURSTS {
            return work();
        }
        tally::take();
        self.allocations += allocation_counter::measure(|| counted_part(&mut work)).count_total;
        let copied = tally::take();
        self.copied.read += copied.read;
        self.copied.written += copied.written;
        self.frames += frames as u64;
    }

    /// Whether there is more to be done.
    fn goes_on(&self) -> bool {
        self.bursts < WARM_BURSTS + BURSTS
    }
}

/// What Callgrind counts: it knows the function by its name.
#[inline(never)]
fn counted_part(work: &mut dyn FnMut()) {
    work();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_case_allocates_once_it_is_warm() {
        for case in CASES {
            let meter = measured(case).unwrap();
            assert_eq!(meter.allocations, 0, "{}", case.name);
        }
    }

    #[test]
    #[cfg(debug_assertions)]
    fn a_frame_is_read_once_and_written_once_for_each_receiver() {
        for case in CASES {
            let Work::Way(way) = &case.work else { continue };
            let meter = measured(case).unwrap();
            let each = u64::from(way.len) + guest::HEADER_LEN as u64;
            let copies = if let Target::All(receivers) = way.target { receivers as u64 } else { 1 };
            // The entries of an indirect table are copied too, before they are judged.
            let read = each + guest::table_size(way.len);
            let expected = Tally { read: meter.frames * read, written: meter.frames * each * copies };
            assert_eq!(meter.copied, expected, "{}", case.name);
        }
    }
}
