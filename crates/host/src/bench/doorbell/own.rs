//! Doorbells without a guest: what a front-end, a client or a driver in this process pays for one.
//!
//! The functions are real ones, served by a data plane over their sockets. One has a running transmit queue and doorbells
//! that are events, the other a page of doorbells that is mapped.

use super::{Sample, taken};
use crate::bench::lab::Lab;
use crate::embedded::client::{Client, Register};
use crate::embedded::place::Place;
use crate::embedded::ram::Ram;
use crate::embedded::rings::ring;
use crate::plane::Ways;
use crate::sys::kvm::cycles;
use anyhow::{Context, Result, ensure};
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, MemArea, Region};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The transmit queue of the only pair, and its entries.
const QUEUE: u16 = 1;
const QUEUE_SIZE: u16 = 64;
const RAM_LEN: u64 = 64 << 10;
/// Where the mapped page lies for this process's own books.
const PAGE: GuestAddr = GuestAddr(0x1000);
const PAGE_LEN: usize = 4096;

/// Posted writes on their way at once: fewer than a socket holds, so that sending never waits for the server.
const POSTED: u64 = 100;
/// Writes with a reply, and of what takes next to no time, in one run.
const ANSWERED: u64 = 50;
const CHEAP: u64 = 5000;

/// How long a worker may take to look at a queue that was kicked.
const KICK_TIMEOUT: Duration = Duration::from_secs(5);

/// One way to ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Eventfd,
    PostedSent,
    PostedKicked,
    Answered,
    Mapped,
}

impl Way {
    /// In the order of the table.
    pub(super) const ALL: [Self; 5] =
        [Self::Eventfd, Self::PostedSent, Self::PostedKicked, Self::Answered, Self::Mapped];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Eventfd => "eventfd",
            Self::PostedSent => "posted-sent",
            Self::PostedKicked => "posted-kicked",
            Self::Answered => "answered",
            Self::Mapped => "mapped",
        }
    }

    /// The name in the picture.
    pub(super) fn short(self) -> &'static str {
        match self {
            Self::Eventfd => "eventfd",
            Self::PostedSent => "posted",
            Self::PostedKicked => "and kicked",
            Self::Answered => "answered",
            Self::Mapped => "mapped",
        }
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Eventfd => "no guest: eventfd write (vhost-user kick)",
            Self::PostedSent => "no guest: posted vfio-user write, sent",
            Self::PostedKicked => "no guest: posted vfio-user write, until the queue is kicked",
            Self::Answered => "no guest: vfio-user write with a reply",
            Self::Mapped => "no guest: store to a mapped doorbell",
        }
    }
}

/// Everything that can be rung.
pub(super) struct Own {
    client: Client,
    doorbell: Register,
    message: Vec<u8>,
    page: MemArea,
    eventfd: OwnedFd,
    // What the function with events uses.
    _ram: Ram,
    // The other one's client: its function lives as long.
    _mapped: Client,
    lab: Lab,
    _place: Place,
}

impl Own {
    /// Starts the data plane and brings its functions up.
    pub(super) fn new() -> Result<Self> {
        let place = Place::new()?;
        let socket = |name: &str| place.path().join(format!("{name}.sock"));
        let port = |name: &str| {
            format!(
                "[port.{name}]\nswitch = \"lan\"\nvfio-user = {{ socket = {:?}, doorbells = \"{name}\" }}\n",
                socket(name)
            )
        };
        let lab =
            Lab::with("mode = \"pool\"\nthreads = 1", 0, &(port("event") + &port("mapped")), Ways::ALL)?;
        let mut client = Client::connect(&socket("event"))?;
        let mut ram = Ram::new(RAM_LEN)?;
        let (_, setup) = ring(&mut ram, QUEUE_SIZE, 0)?;
        let doorbell = client.bring_up(&ram, QUEUE, &setup).context("the function with events")?;
        let message = Client::posted(doorbell, &QUEUE.to_le_bytes());
        let mut mapped = Client::connect(&socket("mapped"))?;
        let page = page(&mut mapped).context("the function with a mapped page")?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { client, doorbell, message, page, eventfd, _ram: ram, _mapped: mapped, lab, _place: place })
    }

    /// Rings some times.
    ///
    /// # Errors
    /// The socket's; a count that is not the number of writes.
    pub(super) fn run(&mut self, way: Way) -> Result<Sample> {
        match way {
            Way::Eventfd => self.run_eventfd(),
            Way::PostedSent => self.run_posted(false),
            Way::PostedKicked => self.run_posted(true),
            Way::Answered => self.run_answered(),
            Way::Mapped => Ok(self.run_mapped()),
        }
    }

    fn run_eventfd(&mut self) -> Result<Sample> {
        let start = cycles();
        for _ in 0..CHEAP {
            rustix::io::write(&self.eventfd, &1u64.to_ne_bytes())?;
        }
        let passed = cycles().wrapping_sub(start);
        let events = taken(&self.eventfd);
        ensure!(events == CHEAP, "{CHEAP} writes made {events} events");
        Ok(Sample { cycles: passed, accesses: CHEAP, exits: 0, events })
    }

    /// Posted writes, and a read behind them, whose reply says that all of them are carried out: the commands of a
    /// connection are, in their order. `kicked`: until then; otherwise until they are sent.
    fn run_posted(&mut self, kicked: bool) -> Result<Sample> {
        let before = self.kicks();
        let start = cycles();
        for _ in 0..POSTED {
            self.client.post(&self.message)?;
        }
        let sent = cycles().wrapping_sub(start);
        self.client.read::<2>(self.doorbell)?;
        let carried_out = cycles().wrapping_sub(start);
        let events = self.kicked_since(before)?;
        let passed = if kicked { carried_out } else { sent };
        Ok(Sample { cycles: passed, accesses: POSTED, exits: 0, events })
    }

    fn run_answered(&mut self) -> Result<Sample> {
        let before = self.kicks();
        let start = cycles();
        for _ in 0..ANSWERED {
            self.client.write(self.doorbell, &QUEUE.to_le_bytes())?;
        }
        let passed = cycles().wrapping_sub(start);
        let events = self.kicked_since(before)?;
        Ok(Sample { cycles: passed, accesses: ANSWERED, exits: 0, events })
    }

    fn run_mapped(&self) -> Sample {
        let at = 4 * usize::from(QUEUE);
        let start = cycles();
        for _ in 0..CHEAP {
            self.page.store_u16(at, QUEUE, Ordering::Relaxed);
        }
        Sample { cycles: cycles().wrapping_sub(start), accesses: CHEAP, exits: 0, events: 0 }
    }

    /// Kicks that the worker has seen.
    fn kicks(&self) -> u64 {
        self.lab.look().1.kicks
    }

    /// How often the worker was woken for the queue since then: at least once, as soon as it gets its turn.
    fn kicked_since(&self, before: u64) -> Result<u64> {
        let end = Instant::now() + KICK_TIMEOUT;
        loop {
            let kicks = self.kicks() - before;
            if kicks > 0 {
                return Ok(kicks);
            }
            ensure!(Instant::now() < end, "the worker saw no kick in {KICK_TIMEOUT:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The page of doorbells, mapped as a driver's VMM maps it.
fn page(client: &mut Client) -> Result<MemArea> {
    let (file, start) = client.doorbell_file()?;
    let mapping = Arc::new(Mapping::file(&file, start, PAGE_LEN as u64).context("mapping the page")?);
    let region = Region::new(PAGE, FrontendAddr(PAGE.0), PAGE_LEN as u64, mapping)?;
    let memory = Arc::new(GuestMemory::new(vec![region])?);
    memory.area(PAGE, PAGE_LEN).context("the page")
}
