//! The `ringway` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringway::cli::main(|_config| anyhow::bail!("this build has no data plane"))
}
