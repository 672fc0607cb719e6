//! The function as a whole: which block an access meets, and what interrupts are.

use super::capabilities::{Blueprint, CONFIG_SPACE_LEN};
use super::config_space::{ConfigSpace, Window};
use super::features::F_NOTIF_CONFIG_DATA;
use super::layout::{Block, Layout, NOTIFY_STRIDE, Region};
use super::legacy_header::QUEUE_NOTIFY as LEGACY_QUEUE_NOTIFY;
use super::msix::MsixTable;
use super::registers::{NO_VECTOR, Registers, status};
use super::steps::Step;
use super::{Bar, Cause, Description, DescriptionFault, Doorbell, Effect, Line, Space};

/// A virtio-PCI function. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct Function {
    layout: Layout,
    vectors: u16,
    config_space: ConfigSpace,
    msix_table: MsixTable,
    registers: Registers,
}

impl Function {
    /// A function at power-on. Faults name the field of the description.
    pub fn new(description: Description) -> Result<Self, DescriptionFault> {
        description.check()?;
        let layout = Layout::new(&description)?;
        let blueprint = Blueprint::new(&description, &layout)?;
        Ok(Self {
            layout,
            vectors: description.vectors(),
            config_space: ConfigSpace::new(blueprint),
            msix_table: MsixTable::new(description.vectors()),
            registers: Registers::new(&description),
        })
    }

    /// The window of base address register `index`; `None` where there is none, or where it is the upper
    /// half of the one before.
    pub fn bar(&self, index: u8) -> Option<Bar> {
        self.layout.bar(index).cloned()
    }

    /// The doorbells in window `index`. Left out are those whose meaning changes with what is negotiated: a port with
    /// `NOTIF_CONFIG_DATA` on offer.
    pub fn doorbells(&self, index: u8) -> Vec<Doorbell> {
        let queues = self.registers.queues.len() as u16;
        let port = |queue, offset| Doorbell { queue, offset, len: 2, datamatch: Some(queue.into()) };
        let mut bells = Vec::new();
        for Region { block, offset, .. } in self.layout.regions().iter().filter(|region| region.bar == index)
        {
            match block {
                Block::Legacy => {
                    let at = offset + LEGACY_QUEUE_NOTIFY;
                    bells.extend((0..self.registers.num_queues).map(|queue| port(queue, at)));
                }
                Block::NotifyPio if self.registers.offered & F_NOTIF_CONFIG_DATA == 0 => {
                    bells.extend((0..queues).map(|queue| port(queue, *offset)));
                }
                Block::NotifyMmio => bells.extend((0..queues).map(|queue| {
                    let offset = offset + NOTIFY_STRIDE * u64::from(queue);
                    Doorbell { queue, offset, len: 0, datamatch: None }
                })),
                _ => {}
            }
        }
        bells
    }

    /// Bytes of PCI configuration space.
    pub fn config_len(&self) -> u64 {
        CONFIG_SPACE_LEN as u64
    }

    /// Where the shared memory region `id` is: base address register, and which part of its window.
    pub fn shared_memory(&self, id: u8) -> Option<(u8, std::ops::Range<u64>)> {
        let mut regions = self.layout.regions().iter();
        let region = regions.find(|region| region.block == Block::SharedMemory { id })?;
        Some((region.bar, region.offset..region.offset + region.len))
    }

    /// Vectors of the MSI-X table; 0: no MSI-X.
    pub fn msix_vectors(&self) -> u16 {
        self.vectors
    }

    /// The client reads `out.len()` bytes at `offset`. Configuration space takes any length; a window takes
    /// 1, 2 and 4 bytes, naturally aligned (the legacy device configuration at any offset, the MSI-X table
    /// 4 and 8). What is no register reads as zeros.
    pub fn read(&mut self, space: Space, offset: u64, out: &mut [u8]) {
        out.fill(0);
        match space {
            Space::Config => self.read_config_space(offset, out),
            Space::Bar(bar) => self.read_bar(bar, offset, out),
        }
    }

    /// The client writes `data` at `offset`, as for [`Function::read`]. What is no register ignores it.
    pub fn write(&mut self, space: Space, offset: u64, data: &[u8]) {
        match space {
            Space::Config => self.write_config_space(offset, data),
            Space::Bar(bar) => self.write_bar(bar, offset, data),
        }
    }

    /// The next thing for the host to do. `None`: nothing, or an effect is still unfinished.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.registers.next_effect()
    }

    /// Reports that the effect taken last is carried out, or refused (see [`Effect`] for what can be).
    /// Without one in hand: ignored.
    pub fn finish(&mut self, accepted: bool) {
        self.registers.finish(accepted);
    }

    /// Where the driver's calls for `cause` go; `None`: it wants none. For [`Line::Intx`] each call must go
    /// through [`Function::interrupt`], which keeps the ISR status.
    pub fn call_line(&self, cause: Cause) -> Option<Line> {
        if !self.config_space.is_msix_enabled() {
            return Some(Line::Intx);
        }
        let vector = self.registers.vector(cause);
        (vector != NO_VECTOR).then_some(Line::Msix(vector))
    }

    /// Calls the driver: sets the ISR status where it counts, and gives the line to signal. `None`: the
    /// driver is not to be called (no vector, INTx disabled, not ready, or being reset).
    pub fn interrupt(&mut self, cause: Cause) -> Option<Line> {
        if !self.registers.may_call(cause) {
            return None;
        }
        self.registers.set_isr(cause, self.config_space.is_msix_enabled());
        let line = self.call_line(cause)?;
        (line != Line::Intx || !self.config_space.is_intx_disabled()).then_some(line)
    }

    /// Whether the interrupt pin is asserted: a client that unmasked it must be signalled again.
    pub fn intx_pending(&self) -> bool {
        self.interrupt_status() && !self.config_space.is_intx_disabled()
    }

    /// Replaces the device configuration, cut or filled with zeros to the length it began with. Telling the
    /// driver is a matter of [`Function::interrupt`] with [`Cause::Config`].
    pub fn set_config(&mut self, bytes: &[u8]) {
        self.registers.set_config(bytes);
    }

    /// The device cannot go on: sets `DEVICE_NEEDS_RESET` and gives the line to signal, if any.
    pub fn needs_reset(&mut self) -> Option<Line> {
        self.registers.set_needs_reset();
        self.interrupt(Cause::Config)
    }

    /// Whether the driver has said that it is ready (`DRIVER_OK`) and has not reset the device since.
    pub fn is_driver_ok(&self) -> bool {
        !self.registers.resetting && self.registers.status & status::DRIVER_OK != 0
    }

    /// Carries out an administration command: `readable` is the device-readable part of a chain of the
    /// administration queue (what is beyond [`ADMIN_READABLE_MAX`](super::ADMIN_READABLE_MAX) bytes does not
    /// count), `writable` the length of its writable part. Gives what to write there, no longer than that.
    /// Take the effects that it left before completing the chain.
    pub fn admin_command(&mut self, readable: &[u8], writable: usize) -> Vec<u8> {
        self.registers.admin_command(readable, writable)
    }

    /// Resets the whole function, as a client's `DEVICE_RESET` or a function level reset does: PCI
    /// configuration space, base addresses, MSI-X table and device. Effects that were not taken yet are
    /// dropped; rings that run stop.
    pub fn reset(&mut self) {
        self.config_space.reset();
        self.msix_table.reset();
        self.registers.begin_reset();
    }

    /// The interrupt status bit: the logical OR of the ISR status, without MSI-X (virtio 1.4 §4.1.4.5.1).
    fn interrupt_status(&self) -> bool {
        self.registers.isr() != 0 && !self.config_space.is_msix_enabled()
    }

    fn read_config_space(&mut self, offset: u64, out: &mut [u8]) {
        if self.config_space.is_window(offset, out.len())
            && let Some(Window { bar, offset, len, .. }) = self.window()
        {
            let mut data = [0; 4];
            self.read_bar(bar, offset, &mut data[..len]);
            self.config_space.set_window_data(&data[..len]);
        }
        self.config_space.read(offset, out, self.interrupt_status());
    }

    fn write_config_space(&mut self, offset: u64, data: &[u8]) {
        let consequences = self.config_space.write(offset, data);
        if consequences.reset {
            return self.reset();
        }
        if consequences.interrupts && self.registers.any_enabled() {
            self.registers.steps.push(Step::CallsChanged);
        }
        if consequences.window
            && let Some(Window { bar, offset, len, data }) = self.window()
        {
            self.write_bar(bar, offset, &data[..len]);
        }
    }

    /// Where the `PCI_CFG` window is, if that is in a structure of another virtio capability
    /// (virtio 1.4 §4.1.4.9.2).
    fn window(&self) -> Option<Window> {
        let window = self.config_space.window()?;
        let (block, _) = self.layout.find(window.bar, window.offset, window.len)?;
        block.cfg_type().map(|_| window)
    }

    fn read_bar(&mut self, bar: u8, offset: u64, out: &mut [u8]) {
        let Some((block, offset)) = self.layout.find(bar, offset, out.len()) else { return };
        match (block, out.len()) {
            (Block::MsixTable, _) => self.msix_table.read(offset, out),
            (Block::Legacy, 1 | 2 | 4) => {
                let msix = self.config_space.is_msix_enabled();
                self.registers.read_legacy(offset, out, msix);
            }
            (block, len @ (1 | 2 | 4)) if offset.is_multiple_of(len as u64) => match block {
                Block::CommonConfig => self.registers.read_common(offset, out),
                Block::Isr if offset == 0 => out[0] = self.registers.read_isr(),
                Block::DeviceConfig => self.registers.read_config(offset, out),
                _ => {}
            },
            _ => {}
        }
    }

    fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]) {
        let Some((block, offset)) = self.layout.find(bar, offset, data.len()) else { return };
        if block == Block::MsixTable {
            return self.msix_table.write(offset, data);
        }
        let Some(value) = value(data) else { return };
        if block == Block::Legacy {
            let msix = self.config_space.is_msix_enabled();
            return self.registers.write_legacy(offset, data, value, msix);
        }
        if !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        match block {
            Block::CommonConfig => self.registers.write_common(offset, data.len(), value),
            Block::DeviceConfig => self.registers.write_config(offset, data),
            Block::NotifyPio if offset == 0 => self.notify(None, data.len(), value),
            Block::NotifyMmio if offset.is_multiple_of(NOTIFY_STRIDE) => {
                self.notify(Some((offset / NOTIFY_STRIDE) as u16), data.len(), value);
            }
            _ => {}
        }
    }

    /// A doorbell is 16 bits, or 32 with `NOTIFICATION_DATA` (virtio 1.4 §4.1.5.2).
    fn notify(&mut self, place: Option<u16>, len: usize, value: u32) {
        if len >= 2 {
            self.registers.notify(place, value, len == 4);
        }
    }
}

/// 1, 2 or 4 bytes as a number.
fn value(data: &[u8]) -> Option<u32> {
    let mut bytes = [0; 4];
    matches!(data.len(), 1 | 2 | 4).then(|| {
        bytes[..data.len()].copy_from_slice(data);
        u32::from_le_bytes(bytes)
    })
}
