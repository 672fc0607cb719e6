//! The MSI-X table (PCI 3.0 §6.8.2.6), kept for a client that reads and writes it here.
//!
//! Masking is the client's: QEMU keeps a table of its own and never writes this one, in which every vector
//! then stays masked. So no vector is held back here, and no pending bit is ever set.

/// Bytes of an entry: message address, message data, vector control.
const ENTRY_LEN: usize = 16;
/// What can be written in one: the address is a multiple of 4, and vector control has its mask bit only.
const WRITABLE: [u8; ENTRY_LEN] =
    [0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0, 0];

#[derive(Debug)]
pub(super) struct MsixTable(Vec<u8>);

impl MsixTable {
    pub(super) fn new(vectors: u16) -> Self {
        let mut table = Self(vec![0; ENTRY_LEN * usize::from(vectors)]);
        table.reset();
        table
    }

    /// Every vector masked, all else zero.
    pub(super) fn reset(&mut self) {
        for entry in self.0.chunks_mut(ENTRY_LEN) {
            entry.fill(0);
            entry[12] = 1;
        }
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        if let Some(bytes) = range(offset, out.len()).and_then(|range| self.0.get(range)) {
            out.copy_from_slice(bytes);
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(bytes) = range(offset, data.len()).and_then(|range| self.0.get_mut(range)) else { return };
        let masks = WRITABLE.iter().cycle().skip(offset as usize % ENTRY_LEN);
        for ((byte, new), mask) in bytes.iter_mut().zip(data).zip(masks) {
            *byte = *byte & !mask | new & mask;
        }
    }
}

/// Accesses of 4 and 8 bytes, aligned.
fn range(offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
    let begin = usize::try_from(offset).ok()?;
    (matches!(len, 4 | 8) && begin.is_multiple_of(len)).then(|| begin..begin.saturating_add(len))
}
