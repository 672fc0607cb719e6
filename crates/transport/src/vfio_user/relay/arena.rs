//! Room for the bytes of chains under way, in one run of bytes: taken in order, given back in any.
//!
//! Chains are mostly used in the order in which they were made available, so the oldest block goes first nearly always. One that
//! stays keeps those behind it; there is less room then, and nothing worse.

use std::collections::VecDeque;

/// Blocks begin at multiples of this many bytes.
const ALIGN: usize = 64;

/// A block that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Its first byte.
    pub(super) at: usize,
    number: u64,
}

/// What is known of a block.
#[derive(Debug)]
struct Taken {
    at: usize,
    is_free: bool,
}

/// The run of bytes.
#[derive(Debug)]
pub(super) struct Arena {
    base: usize,
    len: usize,
    /// Where the next block begins, if it fits there.
    head: usize,
    /// The oldest first.
    blocks: VecDeque<Taken>,
    /// The number of the oldest.
    oldest: u64,
}

impl Arena {
    /// `len` bytes from `base` on, both multiples of [`ALIGN`].
    pub(super) fn new(base: usize, len: usize) -> Self {
        Self { base, len, head: base, blocks: VecDeque::new(), oldest: 0 }
    }

    /// A block of `len` bytes; `None`: no room now.
    pub(super) fn take(&mut self, len: usize) -> Option<Block> {
        let len = len.checked_next_multiple_of(ALIGN)?;
        let end = self.base + self.len;
        let at = match self.blocks.front().map(|oldest| oldest.at) {
            None => (len <= self.len).then_some(self.base)?,
            // Behind the newest, or from the beginning up to the oldest.
            Some(tail) if self.head > tail => match len {
                len if len <= end - self.head => self.head,
                len => (len <= tail - self.base).then_some(self.base)?,
            },
            Some(tail) => (len <= tail - self.head).then_some(self.head)?,
        };
        self.head = at + len;
        self.blocks.push_back(Taken { at, is_free: false });
        Some(Block { at, number: self.oldest + self.blocks.len() as u64 - 1 })
    }

    /// Gives a block back.
    pub(super) fn give(&mut self, block: Block) {
        let index = block.number.wrapping_sub(self.oldest) as usize;
        self.blocks.get_mut(index).into_iter().for_each(|taken| taken.is_free = true);
        while self.blocks.pop_front_if(|oldest| oldest.is_free).is_some() {
            self.oldest += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_never_share_a_byte() {
        let mut arena = Arena::new(128, 1024);
        let mut held: VecDeque<(Block, usize)> = VecDeque::new();
        let (mut seed, mut taken, mut refused) = (1u64, 0, 0);
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let dice = (seed >> 33) as usize;
            if dice & 1 == 0 {
                let len = 1 + dice / 2 % 400;
                let Some(block) = arena.take(len) else {
                    refused += 1;
                    continue;
                };
                taken += 1;
                assert!(block.at >= 128 && block.at + len <= 128 + 1024, "{block:?} {len}");
                for &(other, other_len) in &held {
                    let apart = block.at + len <= other.at || other.at + other_len <= block.at;
                    assert!(apart, "{block:?} {len} and {other:?} {other_len}");
                }
                held.push_back((block, len));
            } else if !held.is_empty() {
                let (block, _) = held.remove(dice / 2 % held.len().min(3)).unwrap();
                arena.give(block);
            }
        }
        assert!(taken > 1000 && refused > 10, "{taken} {refused}");
        held.drain(..).for_each(|(block, _)| arena.give(block));
        assert_eq!(arena.take(1024).unwrap().at, 128, "all of it is there again");
        assert_eq!(arena.take(1), None);
    }

    #[test]
    fn more_than_there_is_cannot_be_had() {
        let mut arena = Arena::new(0, 256);
        assert_eq!(arena.take(257), None);
        assert_eq!(arena.take(usize::MAX), None);
        let block = arena.take(256).unwrap();
        arena.give(block);
        arena.give(block);
        assert!(arena.take(256).is_some(), "given back twice is given back once");
    }
}
