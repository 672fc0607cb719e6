//! The tiny guest: a loop that writes to one place, and where that goes.

use super::Sample;
use crate::sys::kvm::{DoorbellPlace, Match, Ran, Registers, TinyVm};
use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::OwnedFd;

/// Three loops, each ended by `hlt`.
const PROGRAM: [u8; 14] = [
    0x49, 0x75, 0xfd, 0xf4, // dec ecx; jnz; hlt
    0xef, 0x49, 0x75, 0xfc, 0xf4, // out dx, eax; dec ecx; jnz; hlt
    0x89, 0x03, 0x49, 0x75, 0xfb, // mov [ebx], eax; dec ecx; jnz (hlt follows)
];
const HALT: u8 = 0xf4;
/// Where they begin.
const EMPTY: usize = 0;
const OUT: usize = 4;
const MOV: usize = 9;
/// Accesses of one run: the exit at its end is nothing next to them, and it takes milliseconds at most.
pub(super) const ACCESSES: u64 = 500;
/// What is written: a queue's number.
const DATA: u32 = 1;

/// The first port and the first address of doorbells, and from one to the next.
const PORT: u16 = 0x5000;
const MEMORY: u32 = 0xd000_0000;
const STRIDE: u16 = 0x10;

/// One thing that the guest does in a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) way: &'static str,
    /// The name in the picture.
    pub(super) short: &'static str,
    pub(super) what: &'static str,
    /// By port I/O; otherwise by MMIO.
    pub(super) is_port: bool,
    /// The eventfd that takes it; `None`: user space does.
    pub(super) event: Option<Match>,
}

const fn access(
    way: &'static str,
    short: &'static str,
    what: &'static str,
    is_port: bool,
    event: Option<Match>,
) -> Access {
    Access { way, short, what, is_port, event }
}

/// Every doorbell, in the order of the table.
pub(super) const DOORBELLS: [Access; 8] = [
    access("port-exit", "port I/O", "port I/O, exit to user space", true, None),
    access("mmio-exit", "MMIO", "MMIO, exit to user space", false, None),
    access("port-any", "port, any", "port I/O, ioeventfd, any value", true, Some(Match::Any)),
    access("port-match", "match", "port I/O, ioeventfd, data match", true, Some(Match::Data(DATA))),
    access("port-zero", "length 0", "port I/O, ioeventfd, zero length", true, Some(Match::NoLength)),
    access("mmio-any", "MMIO, any", "MMIO, ioeventfd, any value", false, Some(Match::Any)),
    access("mmio-match", "match", "MMIO, ioeventfd, data match", false, Some(Match::Data(DATA))),
    access("mmio-zero", "length 0", "MMIO, ioeventfd, zero length (fast MMIO)", false, Some(Match::NoLength)),
];

/// A machine with a doorbell of each kind.
pub(super) struct Guest {
    machine: TinyVm,
    eventfd: OwnedFd,
}

impl Guest {
    /// Makes it.
    ///
    /// # Errors
    /// The kernel's: there is no KVM for this process, or it lacks ioeventfds.
    pub(super) fn new() -> std::io::Result<Self> {
        let machine = TinyVm::new(&[&PROGRAM[..], &[HALT]].concat())?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        for (number, doorbell) in DOORBELLS.iter().enumerate() {
            if let Some(matching) = doorbell.event {
                machine.signal_by(place(number), matching, &eventfd)?;
            }
        }
        Ok(Self { machine, eventfd })
    }

    /// The loop without an access.
    pub(super) fn run_empty(&mut self) -> Result<Sample> {
        let ran = self.run(EMPTY, place(0))?;
        ensure!(ran.exits == 0, "the empty loop made {} exits", ran.exits);
        Ok(Sample { cycles: ran.cycles, accesses: ACCESSES, exits: 0, events: 0 })
    }

    /// The loop with doorbell `number`. Every access is an exit or an event, and none is both.
    ///
    /// # Errors
    /// KVM's; a count that is another.
    pub(super) fn run_doorbell(&mut self, number: usize) -> Result<Sample> {
        let doorbell = DOORBELLS.get(number).context("a doorbell")?;
        let ran = self.run(if doorbell.is_port { OUT } else { MOV }, place(number))?;
        let events = super::taken(&self.eventfd);
        let expected = if doorbell.event.is_some() { (0, ACCESSES) } else { (ACCESSES, 0) };
        ensure!(
            (ran.exits, events) == expected,
            "{}: {ACCESSES} accesses made {} exits and {events} events",
            doorbell.what,
            ran.exits
        );
        Ok(Sample { cycles: ran.cycles, accesses: ACCESSES, exits: ran.exits, events })
    }

    fn run(&mut self, entry: usize, place: DoorbellPlace) -> Result<Ran> {
        let (ebx, edx) = match place {
            DoorbellPlace::Port(port) => (0, u32::from(port)),
            DoorbellPlace::Memory(addr) => (addr, 0),
        };
        let registers = Registers { entry, eax: DATA, ebx, ecx: ACCESSES as u32, edx };
        self.machine.run(registers, place, ACCESSES).context("the guest")
    }
}

/// Each doorbell has a place of its own, so that none meets another's eventfd.
fn place(number: usize) -> DoorbellPlace {
    let offset = number as u16 * STRIDE;
    if DOORBELLS[number].is_port {
        DoorbellPlace::Port(PORT + offset)
    } else {
        DoorbellPlace::Memory(MEMORY + u32::from(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_begin_where_the_program_says() {
        assert_eq!((PROGRAM[EMPTY], PROGRAM[OUT], PROGRAM[MOV]), (0x49, 0xef, 0x89));
        // Each jump goes back to its loop's first instruction, which is a byte's distance from the jump's end.
        for (start, jump) in [(EMPTY, 1), (OUT, 6), (MOV, 12)] {
            assert_eq!(PROGRAM[jump], 0x75);
            let back = usize::from(PROGRAM[jump + 1].wrapping_neg());
            assert_eq!(jump + 2 - back, start);
        }
    }

    #[test]
    fn doorbells_do_not_share_a_place() {
        for number in 1..DOORBELLS.len() {
            assert!((0..number).all(|other| place(other) != place(number)));
        }
    }
}
