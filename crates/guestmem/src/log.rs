//! The dirty-page bitmap of a live migration (vhost-user `SET_LOG_BASE`, `VHOST_F_LOG_ALL`).

use crate::{GuestAddr, Mapping};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes that one bit stands for (`VHOST_LOG_PAGE`).
const PAGE: u64 = 4096;

/// One bit for each 4 KiB page of guest memory, shared with the front-end.
#[derive(Clone, Debug)]
pub struct DirtyLog {
    mapping: Arc<Mapping>,
}

impl DirtyLog {
    /// The mapping's bytes are the bitmap, lowest page in bit 0 of byte 0.
    pub fn new(mapping: Arc<Mapping>) -> Self {
        Self { mapping }
    }

    /// Marks the pages of `len` bytes at `addr` as written. Pages past the bitmap's end are not marked: the
    /// front-end made it too small.
    pub fn mark(&self, addr: GuestAddr, len: u64) {
        let Some(last) = len.checked_sub(1).and_then(|len| addr.0.checked_add(len)) else { return };
        for page in addr.0 / PAGE..=last / PAGE {
            if page / 8 >= self.mapping.len() as u64 {
                return;
            }
            // SAFETY: the byte lies inside the mapping, which `self` keeps alive; access is atomic.
            let byte = unsafe { AtomicU8::from_ptr(self.mapping.start().add((page / 8) as usize)) };
            byte.fetch_or(1 << (page % 8), Ordering::Relaxed);
        }
    }

    /// Whether the page of `addr` is marked.
    pub fn is_marked(&self, addr: GuestAddr) -> bool {
        let page = addr.0 / PAGE;
        if page / 8 >= self.mapping.len() as u64 {
            return false;
        }
        // SAFETY: as in `mark`.
        let byte = unsafe { AtomicU8::from_ptr(self.mapping.start().add((page / 8) as usize)) };
        byte.load(Ordering::Relaxed) & (1 << (page % 8)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_over_a_page_boundary_marks_both_pages() {
        let log = DirtyLog::new(Arc::new(Mapping::anonymous(2).unwrap()));
        log.mark(GuestAddr(0x8fff), 2);
        assert!(log.is_marked(GuestAddr(0x8000)) && log.is_marked(GuestAddr(0x9000)));
        assert!(!log.is_marked(GuestAddr(0x7000)) && !log.is_marked(GuestAddr(0xa000)));
        log.mark(GuestAddr(0), 0);
        log.mark(GuestAddr(u64::MAX), 9);
        assert!(!log.is_marked(GuestAddr(0)));
    }
}
