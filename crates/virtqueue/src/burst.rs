//! Chains popped together: their buffers in one flat list, reused from burst to burst.

use guestmem::MemSlice;
use std::ops::Range;

/// One validated descriptor chain, to be given back through `DeviceQueue::complete` exactly once.
///
/// The buffers are found in the [`Burst`] that it was popped into. A chain that outlives its burst (an
/// unfinished disk request) can still be completed; its buffers are then no longer listed.
#[must_use = "a chain that is dropped is lost to the driver: complete or unpop it"]
#[derive(Debug, PartialEq, Eq)]
pub struct Chain {
    /// Split: index of the head descriptor. Packed: buffer id.
    pub(crate) id: u16,
    /// Ring descriptors it takes up (an indirect one counts once).
    pub(crate) slots: u16,
    /// How many chains were popped before it, free-running.
    pub(crate) sequence: u16,
    /// Where its segments begin in the burst's list; readable ones first.
    pub(crate) first: u32,
    pub(crate) readable: u16,
    pub(crate) writable: u16,
    pub(crate) readable_len: u32,
    pub(crate) writable_len: u32,
}

impl Chain {
    /// Index of the head descriptor (split) or buffer id (packed): the driver's name for the chain.
    #[inline]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Ring descriptors it takes up; an indirect table counts as one.
    #[inline]
    pub fn descriptors(&self) -> u16 {
        self.slots
    }

    /// Bytes for the device to read.
    #[inline]
    pub fn readable_len(&self) -> u32 {
        self.readable_len
    }

    /// Bytes for the device to write.
    #[inline]
    pub fn writable_len(&self) -> u32 {
        self.writable_len
    }

    /// Segments for the device to read.
    #[inline]
    pub fn readable_segments(&self) -> usize {
        usize::from(self.readable)
    }

    /// Segments for the device to write.
    #[inline]
    pub fn writable_segments(&self) -> usize {
        usize::from(self.writable)
    }

    fn readable_range(&self) -> Range<usize> {
        let first = self.first as usize;
        first..first + usize::from(self.readable)
    }

    fn writable_range(&self) -> Range<usize> {
        let first = self.first as usize + usize::from(self.readable);
        first..first + usize::from(self.writable)
    }

    /// Moves a chain out of a list that is not shifted for it: only one of the two is ever handed out.
    #[inline(always)]
    fn lift(&self) -> Self {
        Self { ..*self }
    }
}

/// Chains popped together and their segments in one flat list: no allocation once warm.
///
/// Chains are taken in the order of popping with [`Self::take`], or newest first with [`Self::take_last`].
/// Dropping a burst loses the chains still in it; that is for queues that are going away.
#[derive(Debug, Default)]
pub struct Burst<'m> {
    pub(crate) chains: Vec<Chain>,
    /// Chains before this one are taken.
    pub(crate) taken: usize,
    pub(crate) segments: Vec<MemSlice<'m>>,
}

impl<'m> Burst<'m> {
    /// An empty burst; it grows to what is popped.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty burst with room for `chains` chains of together `segments` segments.
    pub fn with_capacity(chains: usize, segments: usize) -> Self {
        Self { chains: Vec::with_capacity(chains), taken: 0, segments: Vec::with_capacity(segments) }
    }

    /// Chains not taken yet.
    #[inline]
    pub fn len(&self) -> usize {
        self.chains.len() - self.taken
    }

    /// Whether every chain is taken.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The chains not taken yet, oldest first.
    #[inline]
    pub fn chains(&self) -> &[Chain] {
        &self.chains[self.taken..]
    }

    /// What the device may read, in order; empty for a chain of another burst.
    #[inline]
    pub fn readable(&self, chain: &Chain) -> &[MemSlice<'m>] {
        self.segments.get(chain.readable_range()).unwrap_or(&[])
    }

    /// What the device may write, in order; empty for a chain of another burst.
    #[inline]
    pub fn writable(&self, chain: &Chain) -> &[MemSlice<'m>] {
        self.segments.get(chain.writable_range()).unwrap_or(&[])
    }

    /// The bytes for the device to write of the oldest chain not taken yet, and what it may write; nothing where there is no
    /// chain.
    #[inline]
    pub fn next_writable(&self) -> (u32, &[MemSlice<'m>]) {
        self.chains.get(self.taken).map_or((0, &[]), |chain| (chain.writable_len, self.writable(chain)))
    }

    /// Takes the oldest chain.
    #[inline]
    pub fn take(&mut self) -> Option<Chain> {
        let chain = self.chains.get(self.taken)?.lift();
        self.taken += 1;
        Some(chain)
    }

    /// Takes the newest chain, to be given back with `DeviceQueue::unpop`.
    #[inline]
    pub fn take_last(&mut self) -> Option<Chain> {
        if self.is_empty() { None } else { self.chains.pop() }
    }

    /// Forgets everything, keeps the allocations, and may borrow from other memory from then on.
    pub fn recycle<'n>(self) -> Burst<'n> {
        let Self { mut chains, mut segments, .. } = self;
        chains.clear();
        segments.clear();
        // The list is empty; collecting it in place is how its allocation changes its lifetime.
        let segments = segments.into_iter().map(|_| MemSlice::empty()).collect();
        Burst { chains, taken: 0, segments }
    }

    pub(crate) fn reserve(&mut self, chains: usize) {
        self.chains.reserve(chains);
        self.segments.reserve(chains);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(id: u16) -> Chain {
        Chain {
            id,
            slots: 1,
            sequence: id,
            first: 0,
            readable: 1,
            writable: 1,
            readable_len: 3,
            writable_len: 4,
        }
    }

    #[test]
    fn both_ends_are_taken_once() {
        let mut burst = Burst::new();
        (0..4).for_each(|id| burst.chains.push(chain(id)));
        assert_eq!(burst.take().unwrap().id(), 0);
        assert_eq!(burst.take_last().unwrap().id(), 3);
        assert_eq!(burst.chains().iter().map(Chain::id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((burst.take().unwrap().id(), burst.take_last().unwrap().id()), (1, 2));
        assert!(burst.take().is_none() && burst.take_last().is_none() && burst.is_empty());
        let mut burst = burst.recycle();
        assert!(burst.take_last().is_none());
        burst.chains.push(chain(9));
        assert_eq!(burst.take().unwrap().id(), 9);
    }

    #[test]
    fn recycling_keeps_the_allocation() {
        let mut bytes = [0u8; 4];
        let mut burst = Burst::with_capacity(4, 4);
        burst.segments.push(MemSlice::from_mut(&mut bytes));
        let (place, capacity) = (burst.segments.as_ptr().addr(), burst.segments.capacity());
        let burst: Burst<'static> = burst.recycle();
        assert_eq!((burst.segments.as_ptr().addr(), burst.segments.capacity()), (place, capacity));
        assert!(burst.segments.is_empty());
    }

    #[test]
    fn a_chain_of_another_burst_has_no_segments() {
        let burst = Burst::new();
        let stray = chain(1);
        assert!(burst.readable(&stray).is_empty() && burst.writable(&stray).is_empty());
    }
}
