//! The Internet checksum (RFC 1071), summed four bytes at a time.

/// A running one's complement sum of 16-bit big-endian words.
///
/// Words are summed in memory order and swapped once at the end: the sum does not depend on byte order
/// (RFC 1071 §2 B). Lanes of 32-bit words in 64-bit sums cannot overflow before 2^32 words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds `bytes`; an odd last byte is padded with zero, so only the last run may have an odd length.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut lanes = [0u64; 4];
        let mut blocks = bytes.chunks_exact(16);
        for block in &mut blocks {
            for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
                *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
            }
        }
        let mut sum = lanes.iter().map(|lane| (lane & 0xFFFF_FFFF) + (lane >> 32)).sum::<u64>();
        let mut pairs = blocks.remainder().chunks_exact(2);
        for pair in &mut pairs {
            sum += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
        }
        if let [last] = pairs.remainder() {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(fold(self.0) + sum)
    }

    /// Adds one number.
    #[inline]
    #[must_use]
    pub fn word(self, value: u16) -> Self {
        Self(fold(self.0) + u64::from(value.to_be()))
    }

    /// The folded sum, not complemented: what a sender leaves in the checksum field of an unfinished packet
    /// when the sum covers the pseudo-header.
    #[inline]
    pub fn partial(self) -> u16 {
        u16::from_be(fold(self.0) as u16)
    }

    /// The checksum to put into a header.
    #[inline]
    pub fn finish(self) -> u16 {
        !self.partial()
    }

    /// The checksum to put into a TCP or UDP header: zero means "none" to UDP, and its other form is as good
    /// to both.
    #[inline]
    pub fn finish_nonzero(self) -> u16 {
        match self.finish() {
            0 => 0xFFFF,
            sum => sum,
        }
    }
}

#[inline]
fn fold(sum: u64) -> u64 {
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    (sum & 0xFFFF) + (sum >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::new().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!((sum.partial(), sum.finish()), (0xddf2, 0x220d));
    }

    #[test]
    fn the_longest_run_of_ones_does_not_overflow() {
        assert_eq!(Sum::new().bytes(&[0xFF; 65_536]).finish(), 0);
        assert_eq!(Sum::new().bytes(&[0xFF; 65_536]).finish_nonzero(), 0xFFFF);
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..2000), cut in 0usize..1000) {
            prop_assert_eq!(Sum::new().bytes(&bytes).finish(), slow(&bytes));
            let (a, b) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            prop_assert_eq!(Sum::new().bytes(a).bytes(b).finish(), slow(&bytes));
            let word = [0x12, 0x34];
            let sum = Sum::new().word(0x1234).bytes(&bytes).finish();
            prop_assert_eq!(sum, slow(&[&word[..], &bytes].concat()));
        }
    }
}
