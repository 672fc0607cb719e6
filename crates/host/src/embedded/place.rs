//! A directory of our own for sockets, gone when its user is.

use super::interrupt;
use anyhow::{Context, Result};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Directories made by this process, so that a name is never used twice.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A new directory that only this user can enter; removed when dropped.
pub(crate) struct Place(PathBuf);

impl Place {
    /// Makes it under the system's directory for temporary files.
    pub(crate) fn new() -> Result<Self> {
        let parent = std::env::temp_dir();
        let pid = std::process::id();
        for _ in 0..100 {
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("ringway-{pid}-{number}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    interrupt::add_dir(&path);
                    return Ok(Self(path));
                }
                Err(fault) if fault.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(fault) => return Err(fault).with_context(|| format!("making {}", path.display())),
            }
        }
        anyhow::bail!("{} is full of directories of ours", parent.display())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Left behind at worst: a few sockets in the directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
        interrupt::forget_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_goes_away() {
        use std::os::unix::fs::PermissionsExt;
        let (first, second) = (Place::new().unwrap(), Place::new().unwrap());
        assert_ne!(first.path(), second.path());
        assert_eq!(first.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists());
    }
}
