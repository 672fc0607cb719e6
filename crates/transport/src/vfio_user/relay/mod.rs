//! A ring in memory that is reached by messages, carried to a ring of our own and back.
//!
//! ```text
//!   driver's ring                    copies   own ring               worker
//!   and buffers  -- DMA_READ  -->   feed ---> chains, their bytes -->
//!                <-- DMA_WRITE --   back <--- used, what was written <--
//! ```
//!
//! The worker sees an ordinary split ring in ordinary private memory, of which the client knows nothing: every chain has at most one
//! readable and one writable buffer there, and everything about it was checked before. A relay is pure: it names [`Move`]s, the
//! session makes messages of them and reports their ends.
//!
//! * **Feed.** Index, then entries and descriptors, then indirect tables, then the bytes to be read, each step begun when the
//!   one before was answered, as the order of the driver's own writes demands; then the chains are added to our ring. The driver
//!   is never told not to notify.
//! * **Back.** Bytes written, then used entries, then what shows them, then what the driver wants of interrupts.
//! * **Bounds.** A chain has at most [`CHAIN_LEN_MAX`] bytes, those under way share [`ARENA_LEN`]; the rest stays in the driver's ring
//!   until there is room. A step walks [`BATCH`] chains at most.

/// What either form of ring does.
macro_rules! theirs {
    ($self:expr, $ring:ident => $call:expr) => {
        match $self {
            Theirs::Split($ring) => $call,
            Theirs::Packed($ring) => $call,
        }
    };
}

mod arena;
mod back;
mod chain;
mod fault;
mod feed;
mod packed;
mod split;
#[cfg(test)]
mod tests;

pub use fault::RelayFault;

use super::Command;
use arena::{Arena, Block};
use back::Back;
use chain::{Buffer, Chain, Rules};
use feed::Feed;
use guestmem::{GuestAddr, GuestMemory, MapError, MemSlice};
use packed::Packed;
use split::Split;
use std::collections::VecDeque;
use std::sync::Arc;
use virtqueue::{DriverQueue, Endian, QueueSetup, QueueSize, RingFeatures};

/// Bytes of one chain at most, readable and writable ones together. The largest that drivers of network devices make has 64 KiB and a few
/// headers.
pub const CHAIN_LEN_MAX: u64 = 256 << 10;

/// Bytes of the chains under way in one relayed ring at most.
pub const ARENA_LEN: usize = 4 << 20;

/// Chains of one step.
const BATCH: usize = 64;
/// Bytes of the indirect tables of one step: four of the longest.
const TABLES_LEN: usize = 64 << 10;
/// Entries of our own ring: enough for 512 chains under way.
const OWN_SIZE: u16 = 1024;
/// Buffers to be written back that are kept for chains under way, unless one chain alone has more.
const BUFFERS_MAX: usize = 4096;

/// A run of bytes that are carried from the client's memory to the store, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) remote: GuestAddr,
    pub(super) local: usize,
    pub(super) len: usize,
}

/// Which of the two ways a move belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Feed,
    Back,
}

/// A move that is to become a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) way: Way,
    pub(super) part: Move,
    /// What is to be written; `None`: it is to be read.
    pub(super) data: Option<Vec<u8>>,
}

/// A chain that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Used {
    id: u16,
    slots: u16,
    written: u32,
}

/// Private memory: our ring, copies of the driver's, tables, and the bytes of chains.
#[derive(Debug)]
struct Store(Arc<GuestMemory>);

impl Store {
    fn slice(&self, at: usize, len: usize) -> Option<MemSlice<'_>> {
        self.0.slice(GuestAddr(at as u64), len)
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.slice(at, N).into_iter().for_each(|slice| _ = slice.read(&mut bytes));
        bytes
    }

    /// A descriptor's two words as they lie there.
    fn words(&self, at: usize) -> [u64; 2] {
        [u64::from_ne_bytes(self.bytes(at)), u64::from_ne_bytes(self.bytes(at + 8))]
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        self.slice(at, bytes.len()).into_iter().for_each(|slice| _ = slice.write(bytes));
    }

    fn copy(&self, part: Move) -> Vec<u8> {
        let mut bytes = vec![0; part.len];
        self.slice(part.local, part.len).into_iter().for_each(|slice| _ = slice.read(&mut bytes));
        bytes
    }
}

/// The moves of one step.
#[derive(Debug, Default)]
struct Volley {
    is_write: bool,
    waiting: VecDeque<Move>,
    /// Under way.
    out: usize,
}

impl Volley {
    fn reads(moves: Vec<Move>) -> Self {
        Self { is_write: false, waiting: moves.into(), out: 0 }
    }

    fn writes(moves: Vec<Move>) -> Self {
        Self { is_write: true, waiting: moves.into(), out: 0 }
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.out == 0
    }
}

/// The driver's ring.
#[derive(Debug)]
enum Theirs {
    Split(Split),
    Packed(Packed),
}

/// A chain that the worker has, or will have.
#[derive(Debug)]
struct Flight {
    id: u16,
    slots: u16,
    block: Block,
    readable_len: u32,
    writable: Vec<Buffer>,
    writable_len: u32,
    /// Bytes written, once it was used.
    written: Option<u32>,
}

/// What a relay wants of its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// Chains were added to our ring: the worker's kick.
    pub(super) kick: bool,
    /// Chains were used: the driver's interrupt.
    pub(super) interrupt: bool,
}

/// One ring's relay.
pub(super) struct Relay {
    store: Store,
    theirs: Theirs,
    rules: Rules,
    in_order: bool,
    own: DriverQueue,
    own_setup: QueueSetup,
    arena: Arena,
    tables_at: usize,
    feed: Feed,
    feed_moves: Volley,
    back: Back,
    back_moves: Volley,
    /// Whether chains are to be carried.
    is_on: bool,
    was_armed: bool,
    /// The driver notified, the worker called: there may be something new.
    kicked: bool,
    called: bool,
    /// Chains whose descriptors were read, without room yet; those at the front have bytes on the way.
    chains: VecDeque<Chain>,
    placed: Vec<usize>,
    /// Chains under way, by the token that our ring has for them.
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// With IN_ORDER: the chains under way in the order in which they were made available.
    order: VecDeque<usize>,
    buffers: usize,
    /// Those used whose entries are being written.
    ending: Vec<usize>,
    wants: Wants,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { theirs, feed, back, is_on, .. } = self;
        f.debug_struct("Relay")
            .field("theirs", theirs)
            .field("at", &(feed, back, is_on))
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// A relay for the driver's ring at its beginning; `readable_only`: the device never writes. Sizes and alignments of the
    /// setup must have been checked.
    ///
    /// # Errors
    /// No memory for it.
    pub(super) fn new(setup: &QueueSetup, readable_only: bool) -> Result<Self, MapError> {
        let size = usize::from(setup.size.get());
        // A chain takes two entries.
        let own_size = (2 * setup.size.get().min(OWN_SIZE / 2)).next_power_of_two();
        let features = RingFeatures { event_idx: true, ..RingFeatures::default() };
        let own_size = QueueSize::try_from(own_size).unwrap_or(setup.size);
        let copies_at = DriverQueue::footprint(own_size, features).next_multiple_of(64);
        let packed = setup.features.packed;
        let footprint = if packed { Packed::footprint(size) } else { Split::footprint(size) };
        let tables_at = (copies_at + footprint).next_multiple_of(64);
        let arena_at = tables_at + TABLES_LEN;
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), arena_at + ARENA_LEN)?);
        let no_room = |_| MapError::Length { len: (arena_at + ARENA_LEN) as u64, offset: 0 };
        let (own, own_setup) =
            DriverQueue::setup(&memory, GuestAddr(0), own_size, features, None).map_err(no_room)?;
        let theirs = match packed {
            true => Theirs::Packed(Packed::new(setup, copies_at)),
            false => Theirs::Split(Split::new(setup, copies_at)),
        };
        let rules = Rules {
            packed,
            indirect: setup.features.indirect,
            big: setup.features.endian == Endian::Big,
            readable_only,
        };
        Ok(Self {
            store: Store(memory),
            theirs,
            rules,
            in_order: setup.features.in_order,
            own,
            own_setup,
            arena: Arena::new(arena_at, ARENA_LEN),
            tables_at,
            feed: Feed::Rest,
            feed_moves: Volley::default(),
            back: Back::Rest,
            back_moves: Volley::default(),
            is_on: false,
            was_armed: false,
            kicked: false,
            called: false,
            chains: VecDeque::new(),
            placed: Vec::new(),
            flights: Vec::new(),
            free: Vec::new(),
            order: VecDeque::new(),
            buffers: 0,
            ending: Vec::new(),
            wants: Wants::default(),
        })
    }

    /// Our ring, for the worker.
    pub(super) fn own_setup(&self) -> &QueueSetup {
        &self.own_setup
    }

    /// The memory that it lies in.
    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.store.0
    }

    /// The driver may use the ring: begins to carry, if it did not yet.
    pub(super) fn start(&mut self) {
        self.kicked |= !std::mem::replace(&mut self.is_on, true);
    }

    /// The driver notified.
    pub(super) fn kick(&mut self) {
        self.kicked = true;
    }

    /// The worker used chains.
    pub(super) fn call(&mut self) {
        self.called = true;
    }

    /// Begins nothing any more; what is under way will still be answered.
    pub(super) fn stop(&mut self) {
        self.is_on = false;
        self.feed_moves.waiting.clear();
        self.back_moves.waiting.clear();
    }

    /// Writes of ours that were not answered yet.
    pub(super) fn writes_out(&self) -> usize {
        let out = |volley: &Volley| if volley.is_write { volley.out } else { 0 };
        out(&self.feed_moves) + out(&self.back_moves)
    }

    /// The next message that it needs; `most` says how many of the bytes at an address one message may have. Zero: none.
    ///
    /// # Errors
    /// A buffer of the driver's is not where the device may reach it.
    pub(super) fn begin(
        &mut self,
        most: impl Fn(GuestAddr, bool) -> usize,
    ) -> Result<Option<Begun>, RelayFault> {
        // What goes back makes room.
        for way in [Way::Back, Way::Feed] {
            let volley = match way {
                Way::Feed => &mut self.feed_moves,
                Way::Back => &mut self.back_moves,
            };
            let Some(whole) = volley.waiting.front_mut() else { continue };
            let len = whole.len.min(most(whole.remote, volley.is_write));
            let part = Move { len, ..*whole };
            if len == 0 {
                let Move { remote: address, len, .. } = *whole;
                return Err(RelayFault::Range { address, len, write: volley.is_write });
            }
            whole.len -= len;
            whole.local += len;
            whole.remote = GuestAddr(whole.remote.0.wrapping_add(len as u64));
            if whole.len == 0 {
                volley.waiting.pop_front();
            }
            volley.out += 1;
            let data = volley.is_write.then(|| self.store.copy(part));
            return Ok(Some(Begun { way, part, data }));
        }
        Ok(None)
    }

    /// The end of a move: the bytes read (none of a write), or the client's errno. `again`: the client's memory changed
    /// meanwhile, so that what it refused is to be tried once more.
    pub(super) fn end(
        &mut self,
        way: Way,
        part: Move,
        result: Result<&[u8], u32>,
        again: bool,
    ) -> Result<(), RelayFault> {
        let volley = match way {
            Way::Feed => &mut self.feed_moves,
            Way::Back => &mut self.back_moves,
        };
        volley.out = volley.out.saturating_sub(1);
        match result {
            _ if !self.is_on => Ok(()),
            Ok(bytes) if !volley.is_write => {
                self.store.put(part.local, bytes);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(_) if again => {
                volley.waiting.push_front(part);
                Ok(())
            }
            Err(errno) => {
                let command = if volley.is_write { Command::DmaWrite } else { Command::DmaRead };
                Err(RelayFault::Refused { command, address: part.remote, len: part.len, errno })
            }
        }
    }

    /// Goes on as far as it can without an answer.
    ///
    /// # Errors
    /// The driver broke a rule: nothing of this ring may be carried any more.
    pub(super) fn advance(&mut self) -> Result<Wants, RelayFault> {
        if self.is_on {
            self.advance_back()?;
            self.advance_feed()?;
        }
        Ok(std::mem::take(&mut self.wants))
    }
}

/// The moves of up to `most` bytes between buffers and the store from `at` on.
fn gather(buffers: &[Buffer], mut at: usize, mut most: usize) -> Vec<Move> {
    let mut moves = Vec::with_capacity(buffers.len());
    for &Buffer { addr, len } in buffers {
        let len = most.min(len as usize);
        if len == 0 {
            break;
        }
        moves.push(Move { remote: addr, local: at, len });
        (at, most) = (at + len, most - len);
    }
    moves
}
