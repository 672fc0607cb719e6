//! What a function's PCI configuration space holds at power-on, and which of its bits can be written.
//!
//! Status bits that are cleared by writing ones are never set here (no error is ever reported), so they
//! are simply read-only zeros.

use super::description::VIRTIO_VENDOR;
use super::layout::{Block, Layout, NOTIFY_STRIDE, Region};
use super::{BarKind, Description, DescriptionFault, Interface, SrIov, Vendor};

/// Bytes of configuration space: PCI Express.
pub(super) const CONFIG_SPACE_LEN: usize = 4096;
/// The first byte behind the header, and the first of extended configuration space.
const CAPABILITIES: usize = 0x40;
const EXTENDED: usize = 0x100;

/// `Status`: there is a capability list.
const STATUS_CAP_LIST: u16 = 1 << 4;
/// `Command`: I/O space, memory space, bus master, parity and SERR reporting, INTx disable.
const COMMAND_IO: u16 = 1;
const COMMAND_WRITABLE: u16 = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 8 | 1 << 10;

/// Power-on contents, which bits can be written, and where the registers that do something are.
#[derive(Clone, Debug)]
pub(super) struct Blueprint {
    pub(super) bytes: Vec<u8>,
    pub(super) writable: Vec<u8>,
    /// The MSI-X capability.
    pub(super) msix: Option<usize>,
    /// The PCI Express capability.
    pub(super) express: usize,
    /// The power management capability.
    pub(super) power: usize,
    /// The `PCI_CFG` capability.
    pub(super) pci_cfg: Option<usize>,
    /// The SR-IOV extended capability.
    pub(super) sr_iov: Option<usize>,
    /// Where the next capability goes, and the byte or word that will point to it.
    free: usize,
    link: usize,
    extended_free: usize,
}

impl Blueprint {
    pub(super) fn new(description: &Description, layout: &Layout) -> Result<Self, DescriptionFault> {
        let mut space = Self {
            bytes: vec![0; CONFIG_SPACE_LEN],
            writable: vec![0; CONFIG_SPACE_LEN],
            msix: None,
            express: 0,
            power: 0,
            pci_cfg: None,
            sr_iov: None,
            free: CAPABILITIES,
            link: 0x34,
            extended_free: EXTENDED,
        };
        space.header(description, layout)?;
        for region in layout.regions() {
            space.virtio_structure(region);
        }
        if description.interface != Interface::Legacy {
            space.pci_cfg();
        }
        if let Some(vendor) = &description.vendor {
            space.vendor(vendor);
        }
        if description.msix {
            space.msix(description.vectors(), layout);
        }
        space.power_management();
        space.express();
        if space.free > EXTENDED {
            return Err(DescriptionFault::CapabilitiesFull { missing: space.free - EXTENDED });
        }
        space.advanced_error_reporting();
        if let Some(sr_iov) = description.sr_iov {
            space.sr_iov(sr_iov, description);
        }
        space.bytes.truncate(CONFIG_SPACE_LEN);
        space.writable.truncate(CONFIG_SPACE_LEN);
        Ok(space)
    }

    /// The type 0 header (PCI 3.0 §6.1).
    fn header(&mut self, description: &Description, layout: &Layout) -> Result<(), DescriptionFault> {
        let modern = description.interface == Interface::Modern;
        let device_type = description.device_type;
        self.u16(0x00, VIRTIO_VENDOR);
        self.u16(0x02, description.device_id()?);
        let io = (0..6).any(|index| layout.bar(index).is_some_and(|bar| bar.kind == BarKind::Io));
        self.writable_u16(0x04, COMMAND_WRITABLE | if io { COMMAND_IO } else { 0 });
        self.u16(0x06, STATUS_CAP_LIST);
        self.u32(0x08, description.class << 8 | u32::from(modern));
        self.writable[0x0c] = 0xff; // cache line size
        for index in 0..6 {
            self.base_address(index, layout);
        }
        self.u16(0x2c, VIRTIO_VENDOR);
        // A legacy driver knows the device by its subsystem id; a modern one must be none of those.
        self.u16(0x2e, if modern { 0x40 + device_type } else { device_type });
        self.writable[0x3c] = 0xff; // interrupt line
        self.bytes[0x3d] = 1; // interrupt pin A
        Ok(())
    }

    fn base_address(&mut self, index: u8, layout: &Layout) {
        let Some(bar) = layout.bar(index) else { return };
        let at = 0x10 + 4 * usize::from(index);
        let (kind, kind_bits) = match bar.kind {
            BarKind::Io => (0b01, 0b11),
            BarKind::Memory32 => (0b0000, 0b1111),
            BarKind::Memory64 => (0b0100, 0b1111),
        };
        let address = !(bar.len - 1);
        self.u32(at, kind);
        self.writable_u32(at, address as u32 & !kind_bits);
        if bar.kind == BarKind::Memory64 {
            self.writable_u32(at + 4, (address >> 32) as u32);
        }
    }

    /// Appends a capability of `len` bytes and gives its place. What does not fit goes past the end; that is
    /// found when all are placed.
    fn capability(&mut self, id: u8, len: usize) -> usize {
        let at = self.free;
        self.free = at + len.next_multiple_of(4);
        let needed = self.bytes.len().max(self.free);
        self.bytes.resize(needed, 0);
        self.writable.resize(needed, 0);
        let link = self.link;
        self.bytes[link] = at as u8;
        self.bytes[at] = id;
        self.link = at + 1;
        at
    }

    /// `struct virtio_pci_cap` (virtio 1.4 §4.1.4), and what follows it for some types.
    fn virtio_structure(&mut self, region: &Region) {
        let Some(cfg_type) = region.block.cfg_type() else { return };
        let len = match region.block {
            Block::NotifyPio | Block::NotifyMmio => 20,
            Block::SharedMemory { .. } => 24,
            _ => 16,
        };
        let at = self.capability(0x09, len);
        self.bytes[at + 2] = len as u8;
        self.bytes[at + 3] = cfg_type;
        self.bytes[at + 4] = region.bar;
        self.u32(at + 8, region.offset as u32);
        self.u32(at + 12, region.len as u32);
        match region.block {
            // One port for all queues has multiplier 0.
            Block::NotifyMmio => self.u32(at + 16, NOTIFY_STRIDE as u32),
            Block::SharedMemory { id } => {
                self.bytes[at + 5] = id;
                self.u32(at + 16, (region.offset >> 32) as u32);
                self.u32(at + 20, (region.len >> 32) as u32);
            }
            _ => {}
        }
    }

    /// `struct virtio_pci_cfg_cap` (virtio 1.4 §4.1.4.9): bar, offset, length and data can be written.
    fn pci_cfg(&mut self) {
        let at = self.capability(0x09, 20);
        self.bytes[at + 2] = 20;
        self.bytes[at + 3] = 5;
        self.writable[at + 4] = 0xff;
        self.writable[at + 8..at + 20].fill(0xff);
        self.pci_cfg = Some(at);
    }

    /// `struct virtio_pci_vndr_data` (virtio 1.4 §4.1.4.8).
    fn vendor(&mut self, vendor: &Vendor) {
        let len = (6 + vendor.data.len()).next_multiple_of(4);
        let at = self.capability(0x09, len);
        self.bytes[at + 2] = len as u8;
        self.bytes[at + 3] = 9;
        self.u16(at + 4, vendor.id);
        self.bytes[at + 6..at + 6 + vendor.data.len()].copy_from_slice(&vendor.data);
    }

    /// MSI-X (PCI 3.0 §6.8.2): enable and function mask can be written.
    fn msix(&mut self, vectors: u16, layout: &Layout) {
        let at = self.capability(0x11, 12);
        self.u16(at + 2, vectors - 1);
        self.writable_u16(at + 2, 0xc000);
        for region in layout.regions() {
            let place = region.offset as u32 | u32::from(region.bar);
            match region.block {
                Block::MsixTable => self.u32(at + 4, place),
                Block::MsixPba => self.u32(at + 8, place),
                _ => {}
            }
        }
        self.msix = Some(at);
    }

    /// Power management, version 3 (PCI PM 1.2 §3.2): D0 and D3hot, which keeps all registers
    /// (`No_Soft_Reset`); no PME.
    fn power_management(&mut self) {
        let at = self.capability(0x01, 8);
        self.u16(at + 2, 3);
        self.u16(at + 4, 1 << 3);
        self.writable_u16(at + 4, 3);
        self.power = at;
    }

    /// PCI Express, version 2, an endpoint on a link of 2.5 GT/s and one lane (PCIe 4.0 §7.5.3), with
    /// function level reset.
    fn express(&mut self) {
        let at = self.capability(0x10, 60);
        self.u16(at + 0x02, 2);
        self.u32(at + 0x04, 1 << 15 | 1 << 28); // role-based error reporting, function level reset
        // Relaxed ordering and no snoop allowed, reads of 512 bytes; error reporting can be switched on.
        self.u16(at + 0x08, 0x2810);
        self.writable_u16(at + 0x08, 0x781f);
        self.u32(at + 0x0c, 1 << 22 | 1 << 4 | 1); // ASPM optionality, x1, 2.5 GT/s
        self.writable_u16(at + 0x10, 0x00cb); // ASPM, RCB, common clock, extended synch
        self.u16(at + 0x12, 1 << 4 | 1);
        self.u32(at + 0x2c, 1 << 1);
        self.u16(at + 0x30, 1);
        self.express = at;
    }

    fn extended(&mut self, id: u16, version: u32, len: usize) -> usize {
        let at = self.extended_free;
        self.extended_free += len;
        self.u32(at, version << 16 | u32::from(id));
        at
    }

    /// Advanced error reporting, version 2 (PCIe 4.0 §7.8.4): masks and severities can be written, nothing
    /// is ever reported.
    fn advanced_error_reporting(&mut self) {
        let at = self.extended(0x0001, 2, 0x48);
        let uncorrectable = 0x0057_f010;
        self.writable_u32(at + 0x08, uncorrectable);
        self.u32(at + 0x0c, 0x0046_2010);
        self.writable_u32(at + 0x0c, uncorrectable);
        self.u32(at + 0x14, 1 << 13);
        self.writable_u32(at + 0x14, 0x0000_31c1);
    }

    /// Single root I/O virtualisation (PCIe 4.0 §9.3.3); the virtual functions have no memory.
    fn sr_iov(&mut self, SrIov { total_vfs }: SrIov, description: &Description) {
        let before = self.extended_free - 0x48;
        let at = self.extended(0x0010, 1, 0x40);
        self.u16(before + 2, (at as u16) << 4 | 2);
        self.writable_u16(at + 0x08, 1 | 1 << 3); // VF Enable, VF MSE
        self.u16(at + 0x0c, total_vfs);
        self.u16(at + 0x0e, total_vfs);
        self.writable_u16(at + 0x10, u16::MAX); // NumVFs
        self.u16(at + 0x14, 1);
        self.u16(at + 0x16, 1);
        self.u16(at + 0x1a, 0x1040 + description.device_type);
        self.u32(at + 0x1c, 0x553);
        self.u32(at + 0x20, 1);
        self.writable_u32(at + 0x20, 0x553);
        self.sr_iov = Some(at);
    }

    fn u16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn writable_u16(&mut self, at: usize, mask: u16) {
        self.writable[at..at + 2].copy_from_slice(&mask.to_le_bytes());
    }

    fn writable_u32(&mut self, at: usize, mask: u32) {
        self.writable[at..at + 4].copy_from_slice(&mask.to_le_bytes());
    }
}
