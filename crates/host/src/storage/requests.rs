//! The requests that an engine has in flight: a slot for each, reused.

use super::job::Job;
use devices::storage::Outcome;
use std::time::{Duration, Instant};

/// A slot.
#[derive(Debug)]
pub(super) struct Request {
    /// The caller's name for it.
    pub(super) tag: u64,
    started: Instant,
    state: State,
    /// The work; taken out while a thread has it.
    pub(super) job: Option<Box<Job>>,
    /// It waits to be tried again.
    pub(super) is_deferred: bool,
    /// It was asked to be given up.
    pub(super) is_aborted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Running,
    /// Its caller has its outcome already; the slot is taken until the disk gives it back.
    Abandoned,
}

/// As many slots as an engine was made with.
#[derive(Debug)]
pub(super) struct Requests {
    slots: Vec<Request>,
    free: Vec<u32>,
}

impl Requests {
    pub(super) fn new(count: u32, now: Instant) -> Self {
        let slot = || Request {
            tag: 0,
            started: now,
            state: State::Free,
            job: Some(Box::default()),
            is_deferred: false,
            is_aborted: false,
        };
        Self { slots: (0..count).map(|_| slot()).collect(), free: (0..count).rev().collect() }
    }

    /// A slot for `tag`; `None`: all are taken.
    pub(super) fn take(&mut self, tag: u64, now: Instant) -> Option<u32> {
        let slot = self.free.pop()?;
        let request = &mut self.slots[slot as usize];
        (request.tag, request.started, request.state) = (tag, now, State::Running);
        (request.is_deferred, request.is_aborted) = (false, false);
        Some(slot)
    }

    /// The request of `slot` has ended with `outcome`, and has its job back; tells what its caller has to be told.
    pub(super) fn release(&mut self, slot: u32, outcome: Outcome) -> Option<(u64, Outcome)> {
        let request = &mut self.slots[slot as usize];
        assert!(request.state != State::Free, "a request ends once");
        request.job.get_or_insert_default().end();
        let is_awaited = request.state == State::Running;
        request.state = State::Free;
        self.free.push(slot);
        is_awaited.then_some((request.tag, outcome))
    }

    pub(super) fn get(&mut self, slot: u32) -> &mut Request {
        &mut self.slots[slot as usize]
    }

    /// The slot of a request that its caller waits for.
    pub(super) fn find(&self, tag: u64) -> Option<u32> {
        let is_it = |request: &Request| request.state == State::Running && request.tag == tag;
        self.slots.iter().position(is_it).map(|index| index as u32)
    }

    /// Its caller waits no longer.
    pub(super) fn abandon(&mut self, slot: u32) {
        self.get(slot).state = State::Abandoned;
    }

    /// Whether a slot is free.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Requests that their callers wait for, by tag, with the time they have taken so far.
    pub(super) fn waiting(&self, now: Instant) -> impl Iterator<Item = (u64, Duration)> {
        let running = self.slots.iter().filter(|request| request.state == State::Running);
        running.map(move |request| (request.tag, now.saturating_duration_since(request.started)))
    }

    /// Requests that the disk has not given back.
    pub(super) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_request_keeps_its_slot_and_tells_nobody() {
        let now = Instant::now();
        let mut requests = Requests::new(2, now);
        let (first, second) = (requests.take(7, now).unwrap(), requests.take(8, now).unwrap());
        assert!(requests.take(9, now).is_none() && !requests.has_room());
        requests.abandon(first);
        assert_eq!((requests.find(7), requests.find(8), requests.count()), (None, Some(second), 2));
        assert!(requests.waiting(now + Duration::from_secs(1)).eq([(8, Duration::from_secs(1))]));
        assert!(requests.take(9, now).is_none());
        assert_eq!(requests.release(first, Ok(())), None);
        assert_eq!(requests.take(9, now), Some(first));
        assert_eq!(requests.release(second, Ok(())), Some((8, Ok(()))));
        assert_eq!(requests.release(first, Ok(())), Some((9, Ok(()))));
    }
}
