//! Numbers from many numbers: median, percentile, fairness.

/// The middle of the values, or the mean of the two in the middle; 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (len, half) if len % 2 == 1 => sorted[half],
        (_, half) => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// The smallest value that at least `share` (0 to 1) of all do not exceed; 0 of none. Orders `values`.
pub(super) fn percentile(values: &mut [u32], share: f64) -> u32 {
    values.sort_unstable();
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(0)
}

/// Jain's index of fairness (Jain, Chiu, Hawe 1984): 1 when all have the same, 1/n when one has everything; 1 of none.
pub(super) fn fairness(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

/// `part` of `whole`; 0 of nothing.
pub(super) fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(
            [median(&[]), median(&[3.0]), median(&[9.0, 1.0, 2.0]), median(&[1.0, 2.0])],
            [0.0, 3.0, 2.0, 1.5]
        );
        let mut values: Vec<u32> = (1..=200).rev().collect();
        assert_eq!((percentile(&mut values, 0.5), percentile(&mut values, 0.99)), (100, 198));
        assert_eq!((percentile(&mut values, 1.0), percentile(&mut values, 0.0)), (200, 1));
        assert_eq!(percentile(&mut [], 0.99), 0);
    }

    #[test]
    fn fairness_is_between_its_ends() {
        assert_eq!((fairness(&[5.0; 4]), fairness(&[1.0, 0.0, 0.0, 0.0]), fairness(&[])), (1.0, 0.25, 1.0));
        assert_eq!((ratio(1.0, 4.0), ratio(1.0, 0.0)), (0.25, 0.0));
    }
}
