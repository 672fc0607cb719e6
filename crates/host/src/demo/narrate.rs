//! Telling the user what happens, a line at a time with the time since the start.

use std::io::Write as _;
use std::time::Instant;

/// Prints steps as they happen, or nothing when the facts are wanted as JSON.
pub(crate) struct Narrator {
    begun: Instant,
    silent: bool,
}

impl Narrator {
    pub(crate) fn new(silent: bool) -> Self {
        Self { begun: Instant::now(), silent }
    }

    /// Milliseconds since the start.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Whether nothing is printed.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// One thing that happened, under a short word for it.
    pub(crate) fn step(&self, what: &str, text: impl std::fmt::Display) {
        if !self.silent {
            self.text(format_args!("{:>8.3} s  {what:<10} {text}", self.begun.elapsed().as_secs_f64()));
        }
    }

    /// Text as it is: a heading, a drawing, a table.
    pub(crate) fn text(&self, text: impl std::fmt::Display) {
        if !self.silent {
            // Whoever reads may have gone away; the demo's outcome does not depend on that.
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }
}
