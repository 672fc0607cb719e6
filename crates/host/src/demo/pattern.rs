//! The bytes that streams carry: every 8-byte word depends on its place, so loss, repetition and reordering show.

/// An odd constant: multiplication by it is a bijection on words.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Writes the stream's bytes from position `at` on.
pub(super) fn fill(at: u64, bytes: &mut [u8]) {
    let (head, rest) = bytes.split_at_mut(to_next_word(at).min(bytes.len()));
    let (words, tail) = rest.as_chunks_mut::<8>();
    let first = (at + head.len() as u64) / 8;
    copy_part(at, head);
    for (index, chunk) in (first..).zip(words.iter_mut()) {
        *chunk = word(index);
    }
    copy_part((first + words.len() as u64) * 8, tail);
}

/// How many of `bytes` differ from the stream at position `at`.
pub(super) fn mismatches(at: u64, bytes: &[u8]) -> u64 {
    let (head, rest) = bytes.split_at(to_next_word(at).min(bytes.len()));
    let (words, tail) = rest.as_chunks::<8>();
    let first = (at + head.len() as u64) / 8;
    let body: u64 = (first..).zip(words).map(|(index, chunk)| differing(chunk, &word(index))).sum();
    body + differing_part(at, head) + differing_part((first + words.len() as u64) * 8, tail)
}

/// The word with this index.
fn word(index: u64) -> [u8; 8] {
    (index + 1).wrapping_mul(FACTOR).to_le_bytes()
}

/// Bytes from `at` to the next word's begin.
fn to_next_word(at: u64) -> usize {
    (at.next_multiple_of(8) - at) as usize
}

/// Writes a run that lies in one word.
fn copy_part(at: u64, bytes: &mut [u8]) {
    let skip = (at % 8) as usize;
    bytes.copy_from_slice(&word(at / 8)[skip..skip + bytes.len()]);
}

/// Compares a run that lies in one word.
fn differing_part(at: u64, bytes: &[u8]) -> u64 {
    let skip = (at % 8) as usize;
    differing(bytes, &word(at / 8)[skip..skip + bytes.len()])
}

fn differing(seen: &[u8], right: &[u8]) -> u64 {
    if seen == right { 0 } else { seen.iter().zip(right).filter(|(a, b)| a != b).count() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_cut() {
        let mut whole = vec![0; 1000];
        fill(5, &mut whole);
        for cut in [0, 1, 3, 4, 8, 499, 998, 1000] {
            let mut parts = vec![0; 1000];
            fill(5, &mut parts[..cut]);
            fill(5 + cut as u64, &mut parts[cut..]);
            assert_eq!(parts, whole);
            assert_eq!(mismatches(5 + cut as u64, &whole[cut..]), 0);
        }
        // A run inside one word.
        assert_eq!(mismatches(9, &whole[4..6]), 0);
    }

    #[test]
    fn a_changed_byte_and_a_shift_are_seen() {
        let mut bytes = vec![0; 4096];
        fill(0, &mut bytes);
        bytes[77] ^= 1;
        assert_eq!(mismatches(0, &bytes), 1);
        bytes[77] ^= 1;
        assert!(mismatches(251 * 8, &bytes) > 4000);
    }
}
