//! Keyed mixing of small integers.
//!
//! Guests choose the addresses that are hashed here, so every use starts from a seed that they do not know.

/// Multiplies to 128 bits and folds the halves: every output bit depends on every input bit of both factors.
#[inline]
pub(crate) fn folded_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Spreads a seed over 64 bits (the finaliser of SplitMix64). `stream` numbers the independent keys of one seed.
pub(crate) fn derive_key(seed: u64, stream: u64) -> u64 {
    let mut key = seed.wrapping_add(stream.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ (key >> 31)
}
