//! Where the register blocks lie: which base address register, at which offset.
//!
//! ```text
//! BAR 0     port I/O   legacy header (transitional, legacy), or the doorbell port (modern)
//! BAR 1     memory     MSI-X: table in the first half, pending bits in the second
//! BAR 2     port I/O   the doorbell port (transitional), or
//! BAR 2, 3  memory     shared memory regions
//! BAR 4, 5  memory     a page each: common configuration, ISR status, device configuration, doorbells
//! ```

use super::{Bar, BarKind, Description, DescriptionFault, Interface, NotifyKind};

/// The unit in which blocks of memory are laid out, so that each can be mapped alone.
pub(super) const PAGE: u64 = 4096;
/// Bytes from one queue's doorbell in memory to the next: `notify_off_multiplier` (virtio 1.4 §4.1.4.4).
pub(super) const NOTIFY_STRIDE: u64 = 4;
/// Bytes of the legacy header with its MSI-X part (virtio 1.4 §4.1.4.10).
pub(super) const LEGACY_HEADER_LEN: usize = 24;
/// Bytes of port I/O in one base address register at most (PCI 3.0 §6.2.5.1).
pub(super) const IO_LEN_MAX: usize = 256;
/// `struct virtio_pci_common_cfg` (virtio 1.4 §4.1.4.3).
pub(super) const COMMON_CONFIG_LEN: u64 = 0x40;

/// A run of registers with one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    Legacy,
    MsixTable,
    MsixPba,
    CommonConfig,
    NotifyPio,
    NotifyMmio,
    Isr,
    DeviceConfig,
    SharedMemory { id: u8 },
}

impl Block {
    /// `cfg_type` of the capability that leads to the block; `None`: a virtio capability does not.
    pub(super) fn cfg_type(self) -> Option<u8> {
        match self {
            Self::Legacy | Self::MsixTable | Self::MsixPba => None,
            Self::CommonConfig => Some(1),
            Self::NotifyPio | Self::NotifyMmio => Some(2),
            Self::Isr => Some(3),
            Self::DeviceConfig => Some(4),
            Self::SharedMemory { .. } => Some(8),
        }
    }
}

/// A block and its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) block: Block,
    pub(super) bar: u8,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// All blocks, those of virtio capabilities in order of preference.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    bars: [Option<Bar>; 6],
    regions: Vec<Region>,
}

impl Layout {
    /// The layout of a description that was checked.
    pub(super) fn new(description: &Description) -> Result<Self, DescriptionFault> {
        let mut layout = Self::default();
        if description.interface != Interface::Modern {
            layout.legacy(description);
        }
        if description.msix {
            layout.msix(description.vectors());
        }
        if description.interface != Interface::Legacy {
            layout.modern(description);
            layout.shared_memory(description)?;
        }
        Ok(layout)
    }

    pub(super) fn bar(&self, index: u8) -> Option<&Bar> {
        self.bars.get(usize::from(index))?.as_ref()
    }

    pub(super) fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The block that holds all of an access, and where in the block it begins.
    pub(super) fn find(&self, bar: u8, offset: u64, len: usize) -> Option<(Block, u64)> {
        let end = offset.checked_add(len as u64)?;
        let holds = |region: &&Region| {
            region.bar == bar && offset >= region.offset && end <= region.offset + region.len
        };
        let region = self.regions.iter().find(holds)?;
        Some((region.block, offset - region.offset))
    }

    fn place(&mut self, block: Block, bar: u8, offset: u64, len: u64) {
        self.regions.push(Region { block, bar, offset, len });
    }

    fn window(&mut self, index: u8, len: u64, kind: BarKind) {
        self.bars[usize::from(index)] = Some(Bar { len, kind, mappable: None });
    }

    fn legacy(&mut self, description: &Description) {
        let len = (LEGACY_HEADER_LEN + description.config.len()).next_power_of_two() as u64;
        self.window(0, len, BarKind::Io);
        self.place(Block::Legacy, 0, 0, len);
    }

    fn msix(&mut self, vectors: u16) {
        let half = (16 * u64::from(vectors)).next_power_of_two().max(PAGE / 2);
        self.window(1, 2 * half, BarKind::Memory32);
        self.place(Block::MsixTable, 1, 0, 16 * u64::from(vectors));
        self.place(Block::MsixPba, 1, half, 8 * u64::from(vectors).div_ceil(64));
    }

    fn modern(&mut self, description: &Description) {
        self.window(4, 4 * PAGE, BarKind::Memory64);
        self.place(Block::CommonConfig, 4, 0, COMMON_CONFIG_LEN);
        for kind in &description.notify {
            match kind {
                NotifyKind::Pio => {
                    let bar = if description.interface == Interface::Modern { 0 } else { 2 };
                    self.window(bar, 4, BarKind::Io);
                    self.place(Block::NotifyPio, bar, 0, 4);
                }
                NotifyKind::Mmio => {
                    let len = NOTIFY_STRIDE * u64::from(description.queues());
                    self.place(Block::NotifyMmio, 4, 3 * PAGE, len);
                }
            }
        }
        self.place(Block::Isr, 4, PAGE, 4);
        if !description.config.is_empty() {
            let len = (description.config.len() as u64).next_multiple_of(4);
            self.place(Block::DeviceConfig, 4, 2 * PAGE, len);
        }
        if let (true, Some(bar)) = (description.mapped, &mut self.bars[4]) {
            bar.mappable = Some(3 * PAGE..4 * PAGE);
        }
    }

    fn shared_memory(&mut self, description: &Description) -> Result<(), DescriptionFault> {
        if description.shared_memory.is_empty() {
            return Ok(());
        }
        if self.bars[2].is_some() {
            return Err(DescriptionFault::BarsFull);
        }
        let mut end = 0u64;
        for region in &description.shared_memory {
            let offset = end;
            end = end.checked_add(region.len).ok_or(DescriptionFault::SharedMemoryTotal)?;
            self.place(Block::SharedMemory { id: region.id }, 2, offset, region.len);
        }
        let len = end.checked_next_power_of_two().ok_or(DescriptionFault::SharedMemoryTotal)?;
        self.window(2, len, BarKind::Memory64);
        Ok(())
    }
}
