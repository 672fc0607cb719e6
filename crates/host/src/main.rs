//! The `ringway` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringway::cli::main(|config| Ok(ringway::plane::start(config)?))
}
