//! IN_ORDER on the device side: chains completed early wait until those before them are completed
//! (virtio 1.3 §2.7.9, §2.8.20).

/// A used entry to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) id: u16,
    pub(crate) slots: u16,
    pub(crate) written: u32,
}

/// Completions that wait for their turn, by the sequence number of their chain.
pub(crate) struct InOrder {
    waiting: Box<[Option<Used>]>,
    /// How many wait.
    count: u16,
    /// Sequence number of the chain to be written next.
    next: u16,
}

impl InOrder {
    /// For a ring of `size` entries whose next popped chain has sequence number `next`.
    pub(crate) fn new(size: u16, next: u16) -> Self {
        Self { waiting: vec![None; usize::from(size).next_power_of_two()].into(), count: 0, next }
    }

    /// Whether the chain with number `sequence` is completed just in time: then its entry is to be written at once.
    #[inline(always)]
    pub(crate) fn passes(&mut self, sequence: u16) -> bool {
        let is_next = self.is_next(sequence);
        self.skip(u16::from(is_next));
        is_next
    }

    /// Whether the chain with number `sequence` would pass.
    #[inline(always)]
    pub(crate) fn is_next(&self, sequence: u16) -> bool {
        self.count == 0 && sequence == self.next
    }

    /// Notes that `count` chains passed, of which the first was next.
    #[inline(always)]
    pub(crate) fn skip(&mut self, count: u16) {
        self.next = self.next.wrapping_add(count);
    }

    /// As [`Self::passes`], for `count` chains at once, of which the first and the last are given.
    pub(crate) fn passes_all(&mut self, first: u16, last: u16, count: usize) -> bool {
        let are_in_line = usize::from(last.wrapping_sub(first)) + 1 == count;
        if !self.is_next(first) || !are_in_line {
            return false;
        }
        self.skip(count as u16);
        true
    }

    /// Notes that the chain with number `sequence` is completed.
    pub(crate) fn insert(&mut self, sequence: u16, used: Used) {
        let place = self.place(sequence);
        self.count += u16::from(self.waiting[place].is_none());
        self.waiting[place] = Some(used);
    }

    /// The next entry to be written, if it is completed.
    pub(crate) fn take(&mut self) -> Option<Used> {
        let used = self.waiting[self.place(self.next)].take()?;
        self.count -= 1;
        self.next = self.next.wrapping_add(1);
        Some(used)
    }

    /// The next entry that is completed, whether it is its turn or not; ends the order.
    pub(crate) fn take_any(&mut self) -> Option<Used> {
        while self.count != 0 {
            let used = self.waiting[self.place(self.next)].take();
            self.next = self.next.wrapping_add(1);
            if used.is_some() {
                self.count -= 1;
                return used;
            }
        }
        None
    }

    /// The chain that the completed ones wait for.
    pub(crate) fn waits_for(&self) -> Option<u16> {
        (self.count != 0).then_some(self.next)
    }

    fn place(&self, sequence: u16) -> usize {
        usize::from(sequence) & (self.waiting.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_ones_wait_for_their_turn() {
        let mut order = InOrder::new(3, 65535);
        let used = |id| Used { id, slots: 1, written: 0 };
        order.insert(1, used(12));
        order.insert(0, used(11));
        assert_eq!(order.take(), None);
        order.insert(65535, used(10));
        let taken: Vec<u16> = std::iter::from_fn(|| order.take()).map(|used| used.id).collect();
        assert_eq!(taken, [10, 11, 12]);
        assert!(order.passes(2) && !order.passes(2) && !order.passes(4));
        order.insert(4, used(14));
        assert!(!order.passes(3), "behind it another one waits");
        order.insert(3, used(13));
        let taken: Vec<u16> = std::iter::from_fn(|| order.take()).map(|used| used.id).collect();
        assert_eq!(taken, [13, 14]);
        assert!(order.passes(5));
        assert!(!order.passes_all(7, 8, 2) && !order.passes_all(6, 8, 2));
        assert!(order.passes_all(6, 8, 3) && order.passes(9));
        order.insert(11, used(19));
        assert!(!order.passes_all(10, 11, 2), "one of them is completed already");
    }

    #[test]
    fn an_order_can_be_ended() {
        let mut order = InOrder::new(8, 65534);
        let used = |id| Used { id, slots: 1, written: 0 };
        assert_eq!(order.waits_for(), None);
        order.insert(1, used(3));
        order.insert(65535, used(1));
        assert_eq!(order.waits_for(), Some(65534));
        assert_eq!(
            (order.take_any(), order.take_any(), order.take_any()),
            (Some(used(1)), Some(used(3)), None)
        );
        assert_eq!(order.waits_for(), None);
    }
}
