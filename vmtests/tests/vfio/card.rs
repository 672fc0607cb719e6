//! A function as a driver without a guest finds it: its capabilities, its windows placed, its registers by name.

use anyhow::{Context, ensure};
use std::time::{Duration, Instant};
use vmtests::qtest::{Qtest, Space};

/// Time in which a device does what it was asked for.
const LIMIT: Duration = Duration::from_secs(5);

/// Registers of `struct virtio_pci_common_cfg` (virtio 1.4 §4.1.4.3) that are used by name.
pub(crate) mod common {
    pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(crate) const DEVICE_FEATURE: u64 = 0x04;
    pub(crate) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(crate) const DRIVER_FEATURE: u64 = 0x0c;
    pub(crate) const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub(crate) const DEVICE_STATUS: u64 = 0x14;
    pub(crate) const QUEUE_SELECT: u64 = 0x16;
    pub(crate) const QUEUE_SIZE: u64 = 0x18;
    pub(crate) const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub(crate) const QUEUE_ENABLE: u64 = 0x1c;
    pub(crate) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(crate) const QUEUE_DESC: u64 = 0x20;
    pub(crate) const QUEUE_NOTIF_CONFIG_DATA: u64 = 0x38;
    pub(crate) const QUEUE_RESET: u64 = 0x3a;
    pub(crate) const LEN: u64 = 0x40;
}

/// Device status bits (virtio 1.4 §2.1).
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u8 = 1;
    pub(crate) const DRIVER: u8 = 2;
    pub(crate) const DRIVER_OK: u8 = 4;
    pub(crate) const FEATURES_OK: u8 = 8;
    pub(crate) const NEEDS_RESET: u8 = 64;
    pub(crate) const FAILED: u8 = 128;
}

pub(crate) const COMMON: u8 = 1;
pub(crate) const NOTIFY: u8 = 2;
pub(crate) const ISR: u8 = 3;
pub(crate) const DEVICE: u8 = 4;
pub(crate) const PCI_CFG: u8 = 5;
pub(crate) const NO_VECTOR: u16 = 0xffff;

/// A window that was placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) space: Space,
    pub(crate) address: u64,
    pub(crate) len: u64,
}

/// A virtio capability (virtio 1.4 §4.1.4).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Structure {
    pub(crate) at: u8,
    pub(crate) kind: u8,
    pub(crate) bar: u8,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) multiplier: u64,
}

/// One function on bus 0.
pub(crate) struct Card<'q> {
    pub(crate) qtest: &'q mut Qtest,
    pub(crate) devfn: u8,
    pub(crate) windows: [Option<Window>; 6],
    pub(crate) structures: Vec<Structure>,
    /// Id and place of every capability.
    pub(crate) capabilities: Vec<(u8, u8)>,
}

impl<'q> Card<'q> {
    /// Looks at the function in `slot`, places its windows and switches it on.
    pub(crate) fn find(qtest: &'q mut Qtest, slot: u8) -> anyhow::Result<Self> {
        let mut card = Self {
            qtest,
            devfn: slot << 3,
            windows: [None; 6],
            structures: Vec::new(),
            capabilities: Vec::new(),
        };
        ensure!(card.config(0, 2)? == 0x1af4, "no virtio function in slot {slot}");
        card.place_windows(u64::from(slot))?;
        card.read_capabilities()?;
        // Port I/O can be switched on where there is some (PCI 3.0 §6.2.2).
        let ports = card.windows.iter().flatten().any(|window| window.space == Space::Port);
        card.set_config(0x04, 2, 0x0107)?;
        let (wanted, read) = (0x0106 | u64::from(ports), card.config(0x04, 2)?);
        ensure!(read == wanted, "command reads back as {read:#x}, not {wanted:#x}");
        Ok(card)
    }

    pub(crate) fn config(&mut self, offset: u8, width: usize) -> anyhow::Result<u64> {
        self.qtest.config_read(self.devfn, offset, width)
    }

    pub(crate) fn set_config(&mut self, offset: u8, width: usize, value: u64) -> anyhow::Result<()> {
        self.qtest.config_write(self.devfn, offset, width, value)
    }

    /// Sizes every base address register and gives it an address, each as PCI 3.0 §6.2.5.1 has it.
    fn place_windows(&mut self, slot: u64) -> anyhow::Result<()> {
        let mut index = 0;
        while index < 6 {
            let at = 0x10 + 4 * index;
            self.set_config(at, 4, 0xffff_ffff)?;
            let mask = self.config(at, 4)?;
            let wide = mask & 0b111 == 0b100;
            if mask != 0 {
                let (space, bits, base) = match mask & 1 {
                    1 => (Space::Port, 0b11, 0xc000 + 0x800 * (slot % 8) + 0x100 * u64::from(index)),
                    _ => (
                        Space::Memory,
                        0b1111,
                        0xc000_0000 + 0x100_0000 * slot + 0x10_0000 * u64::from(index),
                    ),
                };
                let len = u64::from(!(mask as u32 & !bits)) + 1;
                ensure!(len.is_power_of_two(), "BAR {index}: a mask of {mask:#x}");
                // A window in the upper memory, where there is one of 64 bits.
                let high = if wide { 4 } else { 0 };
                self.set_config(at, 4, base)?;
                if wide {
                    self.set_config(at + 4, 4, 0xffff_ffff)?;
                    ensure!(
                        self.config(at + 4, 4)? == 0xffff_ffff,
                        "BAR {index}: its upper half is not whole"
                    );
                    self.set_config(at + 4, 4, high)?;
                    ensure!(self.config(at + 4, 4)? == high, "BAR {index}: its upper half");
                }
                let read = self.config(at, 4)?;
                ensure!(
                    read == base | mask & u64::from(bits),
                    "BAR {index}: {base:#x} reads back as {read:#x}"
                );
                let address = base + (high << 32);
                self.windows[usize::from(index)] = Some(Window { space, address, len });
            }
            index += if wide { 2 } else { 1 };
        }
        Ok(())
    }

    fn read_capabilities(&mut self) -> anyhow::Result<()> {
        ensure!(self.config(0x06, 2)? & 0x10 != 0, "no capability list");
        let mut at = self.config(0x34, 1)? as u8;
        while at != 0 {
            ensure!(self.capabilities.len() < 48, "a capability list without end");
            let id = self.config(at, 1)? as u8;
            self.capabilities.push((id, at));
            if id == 0x09 {
                let multiplier = if self.config(at + 3, 1)? == 2 { self.config(at + 16, 4)? } else { 0 };
                let structure = Structure {
                    at,
                    kind: self.config(at + 3, 1)? as u8,
                    bar: self.config(at + 4, 1)? as u8,
                    offset: self.config(at + 8, 4)?,
                    len: self.config(at + 12, 4)?,
                    multiplier,
                };
                self.structures.push(structure);
            }
            at = self.config(at + 1, 1)? as u8;
        }
        Ok(())
    }

    /// Place of the capability `id`.
    pub(crate) fn capability(&self, id: u8) -> anyhow::Result<u8> {
        let found = self.capabilities.iter().find(|(known, _)| *known == id);
        found.map(|(_, at)| *at).with_context(|| format!("no capability {id:#x}"))
    }

    /// Vectors of the MSI-X table (PCI 3.0 §6.8.2.3).
    pub(crate) fn vectors(&mut self) -> anyhow::Result<u16> {
        let at = self.capability(0x11)?;
        Ok((self.config(at + 2, 2)? & 0x7ff) as u16 + 1)
    }

    /// The first virtio capability of this type.
    pub(crate) fn structure(&self, kind: u8) -> anyhow::Result<Structure> {
        let found = self.structures.iter().find(|structure| structure.kind == kind);
        found.copied().with_context(|| format!("no virtio capability of type {kind}"))
    }

    pub(crate) fn window(&self, bar: u8) -> anyhow::Result<Window> {
        let window = self.windows.get(usize::from(bar)).copied().flatten();
        window.with_context(|| format!("no BAR {bar}"))
    }

    pub(crate) fn read_bar(&mut self, bar: u8, offset: u64, width: usize) -> anyhow::Result<u64> {
        let Window { space, address, .. } = self.window(bar)?;
        self.qtest.read(space, address + offset, width)
    }

    pub(crate) fn write_bar(&mut self, bar: u8, offset: u64, width: usize, value: u64) -> anyhow::Result<()> {
        let Window { space, address, .. } = self.window(bar)?;
        self.qtest.write(space, address + offset, width, value)
    }

    /// Reads in the structure of this type.
    pub(crate) fn read(&mut self, kind: u8, offset: u64, width: usize) -> anyhow::Result<u64> {
        let structure = self.structure(kind)?;
        self.read_bar(structure.bar, structure.offset + offset, width)
    }

    pub(crate) fn write(&mut self, kind: u8, offset: u64, width: usize, value: u64) -> anyhow::Result<()> {
        let structure = self.structure(kind)?;
        self.write_bar(structure.bar, structure.offset + offset, width, value)
    }

    /// `count` bytes of a window, read by aligned words.
    pub(crate) fn bytes(&mut self, bar: u8, offset: u64, count: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            let word = self.read_bar(bar, offset + bytes.len() as u64, 4)?;
            bytes.extend_from_slice(&(word as u32).to_le_bytes());
        }
        bytes.truncate(count);
        Ok(bytes)
    }

    pub(crate) fn device_status(&mut self) -> anyhow::Result<u8> {
        Ok(self.read(COMMON, common::DEVICE_STATUS, 1)? as u8)
    }

    pub(crate) fn set_status(&mut self, value: u8) -> anyhow::Result<()> {
        self.write(COMMON, common::DEVICE_STATUS, 1, value.into())
    }

    /// Writes 0 to the status and waits until it reads so.
    pub(crate) fn reset(&mut self) -> anyhow::Result<()> {
        self.set_status(0)?;
        self.wait("the end of a reset", |card| Ok(card.device_status()? == 0))
    }

    /// All that the device offers.
    pub(crate) fn offered(&mut self) -> anyhow::Result<u128> {
        let mut offered = 0;
        for select in 0..4 {
            self.write(COMMON, common::DEVICE_FEATURE_SELECT, 4, select)?;
            offered |= u128::from(self.read(COMMON, common::DEVICE_FEATURE, 4)?) << (32 * select);
        }
        Ok(offered)
    }

    /// Writes a set of features and asks for `FEATURES_OK`; whether it was granted.
    pub(crate) fn negotiate(&mut self, features: u128) -> anyhow::Result<bool> {
        self.set_status(status::ACKNOWLEDGE | status::DRIVER)?;
        for select in 0..4 {
            self.write(COMMON, common::DRIVER_FEATURE_SELECT, 4, select)?;
            self.write(COMMON, common::DRIVER_FEATURE, 4, (features >> (32 * select)) as u32 as u64)?;
        }
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK)?;
        Ok(self.device_status()? & status::FEATURES_OK != 0)
    }

    /// Waits until `condition` holds.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + LIMIT;
        while !condition(self)? {
            ensure!(Instant::now() < end, "{what}: not within {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
