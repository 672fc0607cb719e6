//! The dashboard in headless Chromium: against a stand-in for the API, and against a real Ringway with taps.
//!
//! Run by `cargo xtask test eyes`. Needs root. Browser and server sit in a network namespace without any way out. Pictures of
//! what was seen are left under `target/eyes`.

mod browser;
mod fake;
mod page;
mod place;
mod real;

use std::process::ExitCode;
use vmtests::harness::{Test, main as run};
use vmtests::sysroot::Sysroot;

/// What the group needs beside the common root.
const PACKAGES: &[&str] = &["chromium", "fonts-dejavu-core", "fonts-inter", "python3-prometheus-client"];

const TESTS: &[Test] = &[
    Test { name: "the_page_shows_what_the_api_says", body: page::shows, long: false },
    Test { name: "hostile_texts_stay_texts", body: page::hostile, long: false },
    Test { name: "a_server_that_goes_is_noticed", body: page::outage, long: false },
    Test { name: "the_token_is_asked_for", body: page::token, long: false },
    Test { name: "a_thousand_ports", body: page::thousand, long: false },
    Test { name: "a_real_switch_is_seen_at_work", body: real::shows, long: false },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return match fake::Fake::serve(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let listing = arguments.iter().any(|argument| argument == "--list");
    if !listing && let Err(error) = Sysroot::ensure().and_then(|root| root.add_packages("eyes", PACKAGES)) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    run(TESTS)
}
