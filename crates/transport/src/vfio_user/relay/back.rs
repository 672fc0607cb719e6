//! From our ring to the driver's.

use super::{BATCH, Flight, Relay, RelayFault, Theirs, Used, Volley, gather};

/// How far the way back is: which step's moves are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// Waits for a call of the worker's.
    Rest,
    Bytes,
    Entries,
    Publish,
    Wish,
}

impl Relay {
    pub(super) fn advance_back(&mut self) -> Result<(), RelayFault> {
        while self.back_moves.is_done() {
            let (back, moves) = match self.back {
                Back::Rest if !self.called => break,
                Back::Rest => {
                    self.called = false;
                    self.collect()?;
                    if self.ending.is_empty() {
                        // Those used meanwhile may come without a call.
                        self.called = self.own.enable_call();
                        continue;
                    }
                    (Back::Bytes, self.write_bytes())
                }
                Back::Bytes => (Back::Entries, self.put_used()),
                Back::Entries => {
                    (Back::Publish, Volley::writes(theirs!(&self.theirs, ring => ring.publish(&self.store))))
                }
                Back::Publish => {
                    (Back::Wish, Volley::reads(theirs!(&self.theirs, ring => ring.wish_reads())))
                }
                Back::Wish => {
                    self.end_flights();
                    (Back::Rest, Volley::default())
                }
            };
            (self.back, self.back_moves) = (back, moves);
        }
        Ok(())
    }

    /// What the worker has used, as much as one step takes.
    fn collect(&mut self) -> Result<(), RelayFault> {
        while self.ending.len() < BATCH {
            let Some((token, written)) = self.own.pop_used()? else { break };
            let token = token as usize;
            let Some(flight) = self.flights.get_mut(token).and_then(Option::as_mut) else { continue };
            flight.written = Some(written.min(flight.writable_len));
            if !self.in_order {
                self.ending.push(token);
            }
        }
        // With IN_ORDER the driver must find them used in the order in which it made them available.
        while self.ending.len() < BATCH
            && let Some(&token) = self.order.front()
            && self.flights[token].as_ref().is_some_and(|flight| flight.written.is_some())
        {
            self.ending.push(token);
            self.order.pop_front();
        }
        Ok(())
    }

    fn ended(&self) -> impl Iterator<Item = &Flight> {
        self.ending.iter().filter_map(|token| self.flights[*token].as_ref())
    }

    fn write_bytes(&self) -> Volley {
        let bytes = |flight: &Flight| {
            let at = flight.block.at + flight.readable_len as usize;
            gather(&flight.writable, at, flight.written.unwrap_or(0) as usize)
        };
        Volley::writes(self.ended().flat_map(bytes).collect())
    }

    fn put_used(&mut self) -> Volley {
        let entry = |flight: &Flight| {
            let &Flight { id, slots, written, .. } = flight;
            Used { id, slots, written: written.unwrap_or(0) }
        };
        let used: Vec<Used> = self.ended().map(entry).collect();
        Volley::writes(theirs!(&mut self.theirs, ring => ring.put_used(&self.store, &used)))
    }

    /// The driver has them: what they took is free again.
    fn end_flights(&mut self) {
        self.wants.interrupt |= theirs!(&mut self.theirs, ring => ring.wants_interrupt(&self.store));
        for token in self.ending.drain(..) {
            let Some(flight) = self.flights[token].take() else { continue };
            self.arena.give(flight.block);
            self.buffers -= flight.writable.len();
            self.free.push(token);
        }
        self.called = true;
    }
}
