//! Huge pages for the benches: reserved while the value lives, given back after.

use anyhow::{Context, ensure};
use std::fs;

const COUNT: &str = "/proc/sys/vm/nr_hugepages";
/// Writing here moves pages together, so that free memory is in larger pieces.
const COMPACT: &str = "/proc/sys/vm/compact_memory";
/// Times that the machine is asked: memory full of cached files is freed and moved together a part at a time.
const TRIES: usize = 5;

/// A reservation of 2 MiB pages, in addition to what the machine had.
#[derive(Debug)]
pub struct Reserved {
    before: u64,
}

impl Reserved {
    /// Reserves `count` more pages. Errors if the machine has not so much free memory.
    pub fn new(count: u64) -> anyhow::Result<Self> {
        let before = current()?;
        let wanted = before + count;
        let reserved = Self { before };
        let mut got = before;
        for _ in 0..TRIES {
            fs::write(COUNT, wanted.to_string()).context("reserve huge pages")?;
            got = current()?;
            if got >= wanted {
                break;
            }
            let _ = fs::write(COMPACT, "1");
        }
        ensure!(
            got >= wanted,
            "the machine gave {} of {count} huge pages of 2 MiB",
            got.saturating_sub(before)
        );
        Ok(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Pages that a dying process still holds go back to the machine when it lets go.
        let _ = fs::write(COUNT, self.before.to_string());
    }
}

fn current() -> anyhow::Result<u64> {
    fs::read_to_string(COUNT).context(COUNT)?.trim().parse().context(COUNT)
}
