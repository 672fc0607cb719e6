//! Memory of our own that is handed to another process.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::io;
use std::os::fd::OwnedFd;

/// A file of `len` zero bytes that lies in memory and lives as long as anybody holds or maps it. Its length is sealed: whoever
/// gets the descriptor can write into it, and neither cut nor lengthen it. `name` is what `/proc` shows.
///
/// # Errors
/// What the kernel says: no descriptors or memory left, a length that it does not take.
pub fn shared_file(name: &str, len: u64) -> io::Result<OwnedFd> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, len)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MapError, Mapping};

    #[test]
    fn the_file_keeps_its_length() {
        let file = shared_file("ringway-test", 5000).unwrap();
        assert!(ftruncate(&file, 100).is_err() && ftruncate(&file, 10_000).is_err());
        assert_eq!(Mapping::file(&file, 0, 5000).unwrap().len(), 8192);
        assert!(matches!(Mapping::file(&file, 0, 5001), Err(MapError::FileTooSmall { .. })));
        assert!(shared_file("ringway-test", u64::MAX).is_err());
    }
}
