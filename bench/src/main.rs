//! Measures of single crates, each next to a peer in the same run: `bench NAME [--json] [CASE]`; and what
//! `cargo xtask budget` counts: `bench budget [CASE]`.

mod bridge;
mod budget;
mod report;
mod virtqueue;

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let names: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| *argument != "--json").collect();
    let rows = match names[..] {
        ["bridge"] => {
            bridge::measure(json)?;
            return Ok(ExitCode::SUCCESS);
        }
        ["budget"] => {
            budget::list();
            return Ok(ExitCode::SUCCESS);
        }
        ["budget", case] => {
            budget::run(case)?;
            return Ok(ExitCode::SUCCESS);
        }
        ["virtqueue"] => virtqueue::measure("")?,
        ["virtqueue", part] => virtqueue::measure(part)?,
        _ => {
            eprintln!(
                "usage: bench virtqueue [--json] [PART OF A CASE'S NAME] | bench bridge [--json] | bench budget [CASE]"
            );
            return Ok(ExitCode::from(2));
        }
    };
    report::print(&rows, json);
    Ok(ExitCode::SUCCESS)
}
