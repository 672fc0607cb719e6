//! `ringway demo`: the whole of Ringway at work, with nothing to install.
//!
//! The embedded demo runs a real data plane in this process and attaches guests to it over real vhost-user sockets.
//! A guest ([`guest`]) is an embedded one ([`crate::embedded`]) with a TCP/IP stack from smoltcp ([`nic`]); it is given
//! tasks ([`task`]).
//! [`scenario`] says what happens in which order and collects [`facts`].
//!
//! `ringway demo --vm` ([`vm`]) does the same with two QEMU guests.

mod facts;
mod guest;
pub(crate) mod narrate;
mod nic;
mod pattern;
mod scenario;
mod task;
pub(crate) mod vm;

use crate::embedded::interrupt;
use std::path::PathBuf;

/// How to run the demo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DemoOptions {
    /// Boot two QEMU guests instead of the embedded ones.
    pub vm: bool,
    /// Print the facts as one JSON object, and nothing else, on standard output.
    pub json: bool,
    /// Where packages for `vm` are kept; `None`: `ringway` in the user's cache directory.
    pub cache: Option<PathBuf>,
}

/// Runs the demo and prints what happens.
///
/// # Errors
/// Anything that did not go as it should, after everything that could be found out has been printed.
pub fn run(options: &DemoOptions) -> anyhow::Result<()> {
    interrupt::watch()?;
    if options.vm { vm::run(options) } else { scenario::run(options) }
}
