//! From the driver's ring to ours.

use super::chain::Chain;
use super::{
    BATCH, BUFFERS_MAX, Buffer, Flight, Move, Relay, RelayFault, TABLES_LEN, Theirs, Volley, gather,
};
use guestmem::GuestAddr;

/// How far the feed is: which step's moves are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// Waits for a notification.
    Rest,
    /// The driver is told to notify.
    Arm,
    Index,
    Chains,
    Tables,
    /// Waits for room.
    Place,
    Bytes,
}

impl Relay {
    pub(super) fn advance_feed(&mut self) -> Result<(), RelayFault> {
        while self.feed_moves.is_done() {
            let next = match self.feed {
                Feed::Rest if !self.kicked => None,
                Feed::Rest if self.was_armed => Some(self.read_index()),
                Feed::Rest | Feed::Bytes => Some(self.publish_own()),
                Feed::Arm => Some(self.read_index()),
                Feed::Index if theirs!(&mut self.theirs, ring => ring.look(&self.store))? => {
                    Some((Feed::Chains, Volley::reads(theirs!(&self.theirs, ring => ring.chain_reads()))))
                }
                Feed::Index => Some((Feed::Rest, Volley::default())),
                Feed::Chains => Some((Feed::Tables, self.take_chains()?)),
                Feed::Tables => {
                    self.take_tables()?;
                    Some((Feed::Place, Volley::default()))
                }
                Feed::Place => self.place(),
            };
            let Some((feed, moves)) = next else { break };
            (self.feed, self.feed_moves) = (feed, moves);
        }
        Ok(())
    }

    fn read_index(&mut self) -> (Feed, Volley) {
        self.kicked = false;
        (Feed::Index, Volley::reads(theirs!(&self.theirs, ring => ring.index_reads())))
    }

    /// Takes as many of the chains that were read as fit one step; what their tables are to be read by.
    fn take_chains(&mut self) -> Result<Volley, RelayFault> {
        let (mut moves, mut len_all) = (Vec::new(), 0);
        // The longest table fits behind what is there already.
        while self.chains.len() < BATCH && len_all <= TABLES_LEN * 3 / 4 {
            let next = theirs!(&mut self.theirs, ring => ring.next_chain(&self.store, self.rules))?;
            let Some(chain) = next else { break };
            if let Some(Buffer { addr, len }) = chain.table {
                moves.push(Move { remote: addr, local: self.tables_at + len_all, len: len as usize });
                len_all += len as usize;
            }
            self.chains.push_back(chain);
        }
        Ok(Volley::reads(moves))
    }

    fn take_tables(&mut self) -> Result<(), RelayFault> {
        let mut at = self.tables_at;
        for chain in &mut self.chains {
            let len = chain.table.map_or(0, |table| table.len as usize);
            chain.add_table(&self.store, at, self.rules)?;
            at += len;
        }
        Ok(())
    }

    /// Makes room for as many chains as there is for, and has their bytes read. `None`: for none; something is under way whose
    /// end makes some.
    fn place(&mut self) -> Option<(Feed, Volley)> {
        let mut moves = Vec::new();
        while let Some(chain) = self.chains.pop_front() {
            let entries = usize::from(self.own.free_descriptors()).saturating_sub(2 * self.placed.len());
            let fits = self.buffers == 0 || self.buffers + chain.writable.len() <= BUFFERS_MAX;
            let len = (chain.readable_len + chain.writable_len) as usize;
            let block = if entries >= 2 && fits { self.arena.take(len) } else { None };
            let Some(block) = block else {
                self.chains.push_front(chain);
                break;
            };
            moves.extend(gather(&chain.readable, block.at, len));
            self.buffers += chain.writable.len();
            let Chain { id, slots, writable, readable_len, writable_len, .. } = chain;
            let flight = Flight { id, slots, block, readable_len, writable, writable_len, written: None };
            let token = self.free.pop().unwrap_or_else(|| {
                self.flights.push(None);
                self.flights.len() - 1
            });
            self.flights[token] = Some(flight);
            self.placed.push(token);
        }
        let is_stuck = self.placed.is_empty() && !self.chains.is_empty();
        (!is_stuck).then(|| (Feed::Bytes, Volley::reads(moves)))
    }

    /// Adds the chains whose bytes are there to our ring, then tells the driver to notify of the next one.
    fn publish_own(&mut self) -> (Feed, Volley) {
        for token in self.placed.drain(..) {
            let Some(flight) = &self.flights[token] else { continue };
            let at = flight.block.at as u64;
            let readable = (GuestAddr(at), flight.readable_len);
            let writable = (GuestAddr(at + u64::from(flight.readable_len)), flight.writable_len);
            let some = |buffer: (GuestAddr, u32)| if buffer.1 > 0 { vec![buffer] } else { Vec::new() };
            let added = self.own.add(&some(readable), &some(writable), token as u64);
            assert!(added.is_ok(), "a chain without room in our own ring");
            if self.in_order {
                self.order.push_back(token);
            }
        }
        self.wants.kick |= self.own.publish();
        if !self.chains.is_empty() {
            return (Feed::Place, Volley::default());
        }
        let is_first = !std::mem::replace(&mut self.was_armed, true);
        (Feed::Arm, Volley::writes(theirs!(&self.theirs, ring => ring.arm(&self.store, is_first))))
    }
}
