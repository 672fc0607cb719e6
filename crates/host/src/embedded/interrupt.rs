//! Leaving nothing behind when the program is interrupted: guests' processes are ended and directories removed.
//!
//! A thread waits for SIGINT and SIGTERM. What must go is kept in one list, which those who make and end it keep right.

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};

static OPEN: Mutex<Open> = Mutex::new(Open { children: Vec::new(), dirs: Vec::new() });

/// What an interrupted command would leave behind.
struct Open {
    children: Vec<Pid>,
    dirs: Vec<PathBuf>,
}

/// Begins to wait for signals.
pub(crate) fn watch() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => Signal::INT.as_raw(),
                _ = terminate.recv() => Signal::TERM.as_raw(),
            }
        });
        clear();
        std::process::exit(128 + number);
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}

fn clear() {
    // The lock stays held: whoever would add something waits until the process ends.
    let open = Mutex::lock(&OPEN);
    for child in &open.children {
        // Only children that nobody has waited for are in the list, so the number is still theirs.
        let _ = kill_process(*child, Signal::KILL);
    }
    for dir in &open.dirs {
        let _ = std::fs::remove_dir_all(dir);
    }
    std::mem::forget(open);
}

/// A child that must not outlive the program.
pub(crate) fn add_child(number: u32) {
    OPEN.lock().children.extend(Pid::from_raw(number as i32));
}

/// A child that will be waited for now.
pub(crate) fn forget_child(number: u32) {
    OPEN.lock().children.retain(|child| child.as_raw_nonzero().get() as u32 != number);
}

/// A directory that must not stay.
pub(crate) fn add_dir(path: &Path) {
    OPEN.lock().dirs.push(path.to_owned());
}

/// A directory that is gone.
pub(crate) fn forget_dir(path: &Path) {
    OPEN.lock().dirs.retain(|dir| dir != path);
}
