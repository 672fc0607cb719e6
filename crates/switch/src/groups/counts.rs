//! How many groups each port has, for writers to keep and for everyone to read without a lock.

use crate::types::PortId;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// Ports of one page.
const PAGE: usize = 256;

type Page = Box<[AtomicU32]>;

/// Numbers by port. A page of them is made when one of its ports has its first group.
#[derive(Debug)]
pub(super) struct Counts {
    pages: Box<[OnceLock<Page>]>,
}

impl Counts {
    /// Every port has none.
    pub(super) fn new() -> Self {
        let count = (usize::from(u16::MAX) + 1) / PAGE;
        Self { pages: (0..count).map(|_| OnceLock::new()).collect() }
    }

    /// Groups of a port.
    pub(super) fn of(&self, port: PortId) -> u32 {
        let page = self.pages.get(port.as_usize() / PAGE).and_then(OnceLock::get);
        page.and_then(|page| page.get(port.as_usize() % PAGE)).map_or(0, |count| count.load(Relaxed))
    }

    /// One more group. Only for who holds the writer's lock.
    pub(super) fn add(&self, port: PortId) {
        let page = self.pages.get(port.as_usize() / PAGE);
        let page = page.map(|page| page.get_or_init(|| (0..PAGE).map(|_| AtomicU32::new(0)).collect()));
        if let Some(count) = page.and_then(|page| page.get(port.as_usize() % PAGE)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// One group less. Only for who holds the writer's lock.
    pub(super) fn remove(&self, port: PortId) {
        let page = self.pages.get(port.as_usize() / PAGE).and_then(OnceLock::get);
        if let Some(count) = page.and_then(|page| page.get(port.as_usize() % PAGE)) {
            count.store(count.load(Relaxed).saturating_sub(1), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_its_own() {
        let counts = Counts::new();
        let ports = [0, 255, 256, u16::MAX].map(PortId);
        for (index, port) in ports.into_iter().enumerate() {
            (0..=index).for_each(|_| counts.add(port));
        }
        assert_eq!(ports.map(|port| counts.of(port)), [1, 2, 3, 4]);
        assert_eq!((counts.of(PortId(1)), counts.of(PortId(1000))), (0, 0));
        (0..2).for_each(|_| ports.into_iter().for_each(|port| counts.remove(port)));
        counts.remove(PortId(1000));
        assert_eq!(ports.map(|port| counts.of(port)), [0, 0, 1, 2]);
    }
}
