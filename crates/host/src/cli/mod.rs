//! The command line: arguments, and one function for each command.
//!
//! Facts go to standard output, as a table or with `--json` as the API's JSON. Mistakes and the log go to standard error.
//! Exit codes: 0 done, 1 failed, 2 wrong usage.

mod bench;
mod capture;
mod change;
mod disk;
mod pairs;
mod run;
mod sheet;
mod show;
pub(crate) mod table;
mod top;
mod trace;
pub mod vmm_args;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::api::Plane;
use crate::config::{self, Config};
use crate::demo::{self, DemoOptions};

/// Starts the data plane: `crate::plane::start`, or a stand-in in tests.
pub type StartPlane = fn(&Config) -> anyhow::Result<Arc<dyn Plane>>;

/// The virtio I/O plane for KVM virtual machines.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, arg_required_else_help = true)]
struct Arguments {
    /// Control socket of the running ringway
    /// [default: /run/ringway/control.sock for root, else $XDG_RUNTIME_DIR/ringway/control.sock]
    #[arg(long, global = true, env = "RINGWAY_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve in the foreground until SIGTERM or SIGINT
    Run {
        /// The configuration file
        config: PathBuf,
        /// Form of the log on standard error; its level comes from RINGWAY_LOG (such as "debug")
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
    },
    /// Show it all at work: embedded guests resolve, ping and send through a switch; nothing to install
    Demo {
        /// Boot two QEMU guests instead, made from Debian's packages
        #[arg(long)]
        vm: bool,
        /// Where those packages are kept [default: ringway in $XDG_CACHE_HOME or ~/.cache]
        #[arg(long, value_name = "PATH", requires = "vm")]
        cache: Option<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// Measure the talk's charts on this host with embedded guests, nothing to install; or with real ones
    Bench(bench::BenchArguments),
    /// Report every mistake of a configuration file, and what it needs that this machine lacks
    Check {
        /// The configuration file
        config: PathBuf,
        /// Look at the text only, not at this machine
        #[arg(long)]
        text_only: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show workers, switches, ports and disks on one screen
    Status(#[command(flatten)] Output),
    /// Show ports and disks with their rates and drops live
    Top(top::TopArguments),
    /// Ports and their counters
    #[command(subcommand)]
    Port(PortCommand),
    /// Switches
    #[command(subcommand)]
    Switch(SwitchCommand),
    /// Disks and their counters
    #[command(subcommand)]
    Disk(DiskCommand),
    /// MAC tables of the switches
    #[command(subcommand)]
    Fdb(FdbCommand),
    /// Multicast groups with listeners
    #[command(subcommand)]
    Group(GroupCommand),
    /// The configuration that runs
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Read the configuration file again and go over to what it says; ports and disks that did not change do not notice
    Reload(#[command(flatten)] Output),
    /// Say step by step what the switch would do with a frame; changes nothing
    Trace(trace::TraceArguments),
    /// Show or write (pcapng) frames as they pass ports, with direction and drop reason
    Capture(capture::CaptureArguments),
    /// Print the arguments that attach a guest to a port or a disk
    VmmArgs(vmm_args::VmmArguments),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of ringway, or write the pages of all commands
    Man {
        /// Write ringway.1, ringway-run.1, ... into this directory
        #[arg(long, value_name = "PATH")]
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum PortCommand {
    /// List all ports
    List(#[command(flatten)] Output),
    /// Show one port with its settings, features, queues and counters
    Show {
        /// Name of the port
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Add a port, until ringway ends or reads its file again
    Add(change::Described),
    /// Change keys of a port; its traffic goes on where the key allows it
    Set(change::Changed),
    /// Remove a port
    Remove(change::Named),
    /// Open a port that its guard has shut
    Reopen(change::Named),
}

#[derive(Debug, Subcommand)]
enum SwitchCommand {
    /// List all switches
    List(#[command(flatten)] Output),
    /// Add a switch, until ringway ends or reads its file again
    Add(change::Described),
    /// Change keys of a switch
    Set(change::Changed),
    /// Remove a switch that has no ports
    Remove(change::Named),
}

#[derive(Debug, Subcommand)]
enum DiskCommand {
    /// List all disks
    List(#[command(flatten)] Output),
    /// Show one disk with its image, features, latencies, queues and counters
    Show {
        /// Name of the disk
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Add a disk, until ringway ends or reads its file again
    Add(change::Described),
    /// Change keys of a disk; its requests go on where the key allows it
    Set(change::Changed),
    /// Remove a disk; its image stays
    Remove(change::Named),
    /// Give a disk another size, or the one that its file has now, and tell the guest
    Resize(disk::Resized),
}

#[derive(Debug, Subcommand)]
enum FdbCommand {
    /// List MAC addresses, the ports they live behind, and why they are known
    List {
        #[command(flatten)]
        which: change::Selection,
        #[command(flatten)]
        output: Output,
    },
    /// Add an entry, until ringway ends
    Add(change::NewEntry),
    /// Remove the entries of an address
    Remove(change::OldEntry),
    /// Forget what was learned, or every entry of an address or kind
    Flush(change::Flush),
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// List multicast groups and the ports with listeners
    List {
        /// Only this switch
        #[arg(long, value_name = "NAME")]
        switch: Option<String>,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the configuration that runs, as TOML
    Show(#[command(flatten)] Output),
    /// Say what a file would change in the running ringway, or what is wrong with it; changes nothing
    Check(change::Compared),
}

/// How facts are printed.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// The whole program: reads the process's arguments, does what they say, and answers with the exit code. `start`
/// is what `run` starts the data plane with.
pub fn main(start: StartPlane) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Prints help and version to standard output and exits 0; usage errors to standard error and exits 2.
        Err(error) => error.exit(),
    };
    match obey(arguments, start) {
        Ok(answer) => print(&answer),
        Err(error) => {
            eprintln!("{}", described(&error));
            ExitCode::FAILURE
        }
    }
}

/// A configuration error speaks for itself, line by line; others get the program's name in front.
fn described(error: &anyhow::Error) -> String {
    match error.downcast_ref::<config::ConfigError>() {
        Some(mistakes) => mistakes.to_string(),
        None => format!("ringway: {error:#}"),
    }
}

/// What a command prints to standard output, and its exit code.
pub(crate) struct Answer {
    text: String,
    code: ExitCode,
}

impl From<String> for Answer {
    fn from(text: String) -> Answer {
        Answer { text, code: ExitCode::SUCCESS }
    }
}

fn print(answer: &Answer) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(answer.text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => answer.code,
        // The reader has seen enough, as in `ringway fdb list | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => answer.code,
        Err(error) => {
            eprintln!("ringway: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

fn obey(arguments: Arguments, start: StartPlane) -> anyhow::Result<Answer> {
    let socket = arguments.socket.unwrap_or_else(config::default_control_socket);
    let text = match arguments.command {
        Command::Check { config, text_only, output } => return show::check(&config, text_only, output),
        Command::Run { config, log_format } => run::run(&config, log_format, start).map(|()| String::new()),
        Command::Demo { vm, cache, output } => {
            demo::run(&DemoOptions { vm, json: output.json, cache }).map(|()| String::new())
        }
        Command::Bench(what) => bench::run(what).map(|()| String::new()),
        Command::Status(output) => show::status(&socket, output),
        Command::Port(command) => port(&socket, &command),
        Command::Switch(command) => switch(&socket, &command),
        Command::Disk(command) => disk(&socket, &command),
        Command::Fdb(command) => fdb(&socket, &command),
        Command::Group(GroupCommand::List { switch, output }) => {
            show::groups(&socket, switch.as_deref(), output)
        }
        Command::Config(ConfigCommand::Show(output)) => change::config_show(&socket, output),
        Command::Config(ConfigCommand::Check(what)) => change::config_check(&socket, &what.file, what.output),
        Command::Reload(output) => change::reload(&socket, output),
        Command::Top(arguments) => top::top(&socket, &arguments),
        Command::Trace(arguments) => trace::trace(&socket, &arguments),
        Command::Capture(arguments) => capture::capture(&socket, &arguments).map(|()| String::new()),
        Command::VmmArgs(arguments) => vmm_args::vmm_args(&socket, &arguments),
        Command::Completions { shell } => completions(shell),
        Command::Man { directory } => man(directory.as_deref()),
    };
    text.map(Answer::from)
}

fn port(socket: &Path, command: &PortCommand) -> anyhow::Result<String> {
    match command {
        PortCommand::List(output) => show::port_list(socket, *output),
        PortCommand::Show { name, output } => show::port(socket, name, *output),
        PortCommand::Add(what) => change::port_add(socket, what),
        PortCommand::Set(what) => change::port_set(socket, what),
        PortCommand::Remove(what) => change::port_remove(socket, what),
        PortCommand::Reopen(what) => change::reopen(socket, what),
    }
}

fn switch(socket: &Path, command: &SwitchCommand) -> anyhow::Result<String> {
    match command {
        SwitchCommand::List(output) => show::switch_list(socket, *output),
        SwitchCommand::Add(what) => change::switch_add(socket, what),
        SwitchCommand::Set(what) => change::switch_set(socket, what),
        SwitchCommand::Remove(what) => change::switch_remove(socket, what),
    }
}

fn disk(socket: &Path, command: &DiskCommand) -> anyhow::Result<String> {
    match command {
        DiskCommand::List(output) => disk::list(socket, *output),
        DiskCommand::Show { name, output } => disk::show(socket, name, *output),
        DiskCommand::Add(what) => change::disk_add(socket, what),
        DiskCommand::Set(what) => change::disk_set(socket, what),
        DiskCommand::Remove(what) => change::disk_remove(socket, what),
        DiskCommand::Resize(what) => disk::resize(socket, what),
    }
}

fn fdb(socket: &Path, command: &FdbCommand) -> anyhow::Result<String> {
    match command {
        FdbCommand::List { which, output } => show::fdb(socket, which, *output),
        FdbCommand::Add(entry) => change::fdb_add(socket, entry),
        FdbCommand::Remove(entry) => change::fdb_remove(socket, entry),
        FdbCommand::Flush(what) => change::fdb_flush(socket, what),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ringway", &mut script);
    Ok(String::from_utf8(script)?)
}

fn man(directory: Option<&Path>) -> anyhow::Result<String> {
    let mut page = Vec::new();
    match directory {
        Some(directory) => clap_mangen::generate_to(Arguments::command(), directory)
            .with_context(|| format!("manual pages in {}", directory.display()))?,
        None => clap_mangen::Man::new(Arguments::command()).render(&mut page)?,
    }
    Ok(String::from_utf8(page)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
