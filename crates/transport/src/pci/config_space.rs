//! PCI configuration space: bytes with masks, and the few registers behind which something happens.

use super::capabilities::{Blueprint, CONFIG_SPACE_LEN};

/// `Status`: an interrupt is pending.
const STATUS_INTERRUPT: u8 = 1 << 3;
/// `Command`, upper byte: INTx is switched off.
const INTX_DISABLE: u8 = 1 << 2;
/// MSI-X `Message Control`, upper byte: MSI-X is switched on.
const MSIX_ENABLE: u8 = 1 << 7;
/// PCI Express `Device Control`, upper byte: begin a function level reset.
const FUNCTION_LEVEL_RESET: u8 = 1 << 7;

/// What a write to configuration space brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Consequences {
    /// MSI-X or INTx was switched on or off.
    pub(super) interrupts: bool,
    /// A function level reset was asked for.
    pub(super) reset: bool,
    /// `pci_cfg_data` was written.
    pub(super) window: bool,
}

/// Where the `PCI_CFG` capability points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) bar: u8,
    pub(super) offset: u64,
    /// Bytes: 1, 2 or 4.
    pub(super) len: usize,
    /// `pci_cfg_data`.
    pub(super) data: [u8; 4],
}

#[derive(Debug)]
pub(super) struct ConfigSpace {
    bytes: Vec<u8>,
    blueprint: Blueprint,
}

impl ConfigSpace {
    pub(super) fn new(blueprint: Blueprint) -> Self {
        Self { bytes: blueprint.bytes.clone(), blueprint }
    }

    /// Back to power-on.
    pub(super) fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.blueprint.bytes);
    }

    /// Reads any run of bytes; `interrupt` is the interrupt status bit. Zeros past the end.
    pub(super) fn read(&self, offset: u64, out: &mut [u8], interrupt: bool) {
        out.fill(0);
        let Some(begin) = usize::try_from(offset).ok().filter(|begin| *begin < CONFIG_SPACE_LEN) else {
            return;
        };
        let len = out.len().min(CONFIG_SPACE_LEN - begin);
        out[..len].copy_from_slice(&self.bytes[begin..begin + len]);
        if let (true, Some(status)) = (interrupt && begin <= 0x06, out[..len].get_mut(0x06 - begin.min(0x06)))
        {
            *status |= STATUS_INTERRUPT;
        }
    }

    /// Writes any run of bytes through the masks. What goes past the end is ignored.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Consequences {
        let Some(begin) = usize::try_from(offset).ok().filter(|begin| *begin < CONFIG_SPACE_LEN) else {
            return Consequences::default();
        };
        let before = (self.is_msix_enabled(), self.is_intx_disabled());
        let held = self.held();
        for (at, new) in (begin..CONFIG_SPACE_LEN).zip(data) {
            let mask = self.blueprint.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | new & mask;
        }
        self.restore(held);
        let flr = self.blueprint.express + 0x09;
        Consequences {
            interrupts: before != (self.is_msix_enabled(), self.is_intx_disabled()),
            reset: flr >= begin && data.get(flr - begin).is_some_and(|byte| byte & FUNCTION_LEVEL_RESET != 0),
            window: self.is_window(offset, data.len()),
        }
    }

    /// Registers whose new value may not be an accepted one: power state, and `NumVFs`.
    fn held(&self) -> (u8, [u8; 2], bool) {
        let num_vfs =
            self.blueprint.sr_iov.map_or([0; 2], |at| [self.bytes[at + 0x10], self.bytes[at + 0x11]]);
        let enabled = self.blueprint.sr_iov.is_some_and(|at| self.bytes[at + 0x08] & 1 != 0);
        (self.bytes[self.blueprint.power + 4], num_vfs, enabled)
    }

    /// D1 and D2 do not exist; `NumVFs` is at most `TotalVFs`, and fixed while `VF Enable` is set.
    fn restore(&mut self, (power, num_vfs, enabled): (u8, [u8; 2], bool)) {
        let at = self.blueprint.power + 4;
        if matches!(self.bytes[at] & 3, 1 | 2) {
            self.bytes[at] = power;
        }
        if let Some(at) = self.blueprint.sr_iov {
            let word = |at: usize| u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]);
            if enabled || word(at + 0x10) > word(at + 0x0e) {
                self.bytes[at + 0x10..at + 0x12].copy_from_slice(&num_vfs);
            }
        }
    }

    pub(super) fn is_msix_enabled(&self) -> bool {
        self.blueprint.msix.is_some_and(|at| self.bytes[at + 3] & MSIX_ENABLE != 0)
    }

    pub(super) fn is_intx_disabled(&self) -> bool {
        self.bytes[0x05] & INTX_DISABLE != 0
    }

    /// Whether an access lies within `pci_cfg_data`, and so goes through the window.
    pub(super) fn is_window(&self, offset: u64, len: usize) -> bool {
        self.blueprint.pci_cfg.is_some_and(|at| {
            let data = at as u64 + 16;
            len > 0 && offset >= data && offset.saturating_add(len as u64) <= data + 4
        })
    }

    /// Where the window is; `None`: at no access that is allowed.
    pub(super) fn window(&self) -> Option<Window> {
        let at = self.blueprint.pci_cfg?;
        let four = |at: usize| self.bytes[at..at + 4].first_chunk::<4>().copied().unwrap_or_default();
        let len = u32::from_le_bytes(four(at + 12));
        matches!(len, 1 | 2 | 4).then(|| Window {
            bar: self.bytes[at + 4],
            offset: u64::from(u32::from_le_bytes(four(at + 8))),
            len: len as usize,
            data: four(at + 16),
        })
    }

    /// Puts what was read through the window into `pci_cfg_data`.
    pub(super) fn set_window_data(&mut self, data: &[u8]) {
        if let Some(at) = self.blueprint.pci_cfg {
            let len = data.len().min(4);
            self.bytes[at + 16..at + 16 + len].copy_from_slice(&data[..len]);
        }
    }
}
