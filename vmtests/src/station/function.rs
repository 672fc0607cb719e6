//! The VMM of a station at a vfio-user port: the client of the `vfio_user` crate, and the steps by which a driver brings a
//! modern function up through its registers (virtio 1.4 §3.1.1, §4.1.4).

use super::ram::Ram;
use super::rings::{Doorbell, Ring};
use crate::process::wait_until;
use anyhow::{Context, bail, ensure};
use devices::net::Features;
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, Region};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vfio_user::Client;

/// How long a server may take to listen.
const LIMIT: Duration = Duration::from_secs(20);
/// The region of the configuration space, and its bytes that hold capabilities.
const CONFIG: u32 = 7;
/// Bytes of the configuration space that one read takes.
pub const CONFIG_LEN: usize = 256;
/// Where the list of capabilities begins, and the kinds of those that are used (PCI 3.0 §6.7, §6.8).
const CAPABILITIES: usize = 0x34;
const VENDOR: u8 = 0x09;
const MSIX: u8 = 0x11;
/// MSI-X Enable in the high byte of the message control.
const MSIX_ENABLE: u8 = 0x80;
/// MSI-X among VFIO's kinds of interrupts; eventfds, triggered by the device.
const MSIX_INDEX: u32 = 2;
const EVENTFDS: u32 = 0x24;
/// `cfg_type` of common configuration and doorbells (virtio 1.4 §4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const PAGE: u64 = 4096;

/// Status up to FEATURES_OK, and with DRIVER_OK (virtio 1.4 §2.1).
const FEATURES_OK: u8 = 1 | 2 | 8;
const DRIVER_OK: u8 = FEATURES_OK | 4;

/// Fields of the common configuration (virtio 1.4 §4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(super) const DEVICE_FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_DESC: u64 = 0x20;
}

/// A place in a region.
#[derive(Clone, Copy, Debug)]
struct Place {
    region: u32,
    offset: u64,
}

/// A function whose features are agreed.
pub struct Function {
    client: Arc<Mutex<Client>>,
    /// Features that both sides have.
    pub(super) features: Features,
    common: Place,
    notify: Place,
    /// Bytes from one doorbell to the next.
    multiplier: u64,
}

/// Another's hold of a function: its registers are read and one doorbell is rung while frames pass.
#[derive(Clone)]
pub struct Registers {
    client: Arc<Mutex<Client>>,
    doorbell: Place,
    queue: u16,
}

impl Function {
    /// Agrees on what the function offers of `wanted`, and on all of `needed`.
    ///
    /// Errors: no server, a broken answer, or a needed feature that is not offered, by name.
    pub fn open(socket: &Path, wanted: Features, needed: Features) -> anyhow::Result<Self> {
        // A server that has just started may not listen yet.
        let mut client = Client::new(socket);
        let connected = wait_until("a server's socket", LIMIT, || {
            if client.is_err() {
                client = Client::new(socket);
            }
            client.is_ok()
        });
        let client = connected.and_then(|()| client.map_err(Into::into));
        let mut client = client.with_context(|| socket.display().to_string())?;
        let config = config_space(&mut client)?;
        let virtio = |cfg_type| {
            let at = find(&config, |at| config[at] == VENDOR && config.get(at + 3) == Some(&cfg_type))?;
            let place = Place { region: config[at + 4].into(), offset: word(&config, at + 8)?.into() };
            anyhow::Ok((at, place))
        };
        let (_, common) = virtio(COMMON).context("the common configuration")?;
        let (at, notify) = virtio(NOTIFY).context("the doorbells")?;
        let multiplier = word(&config, at + 16)?.into();
        let msix = find(&config, |at| config[at] == MSIX).context("MSI-X")? as u64;
        // The high byte of its message control.
        client.region_write(CONFIG, msix + 3, &[MSIX_ENABLE]).context("enable MSI-X")?;
        let client = Arc::new(Mutex::new(client));
        let mut function = Self { client, features: Features::empty(), common, notify, multiplier };
        function.agree(wanted, needed | Features::VERSION_1)?;
        Ok(function)
    }

    fn agree(&mut self, wanted: Features, needed: Features) -> anyhow::Result<()> {
        for status in [0u8, 1, 3] {
            self.write(common::STATUS, &[status])?;
        }
        let mut offered = 0;
        for select in [0u32, 1] {
            self.write(common::DEVICE_FEATURE_SELECT, &select.to_le_bytes())?;
            let word = u32::from_le_bytes(self.read(common::DEVICE_FEATURE)?);
            offered |= u64::from(word) << (32 * select);
        }
        let offered = Features::from_bits_retain(offered);
        let missing = needed - offered;
        ensure!(missing.is_empty(), "the function does not offer {missing:?}");
        self.features = offered & (wanted | needed);
        for select in [0u32, 1] {
            let word = (self.features.bits() >> (32 * select)) as u32;
            self.write(common::DRIVER_FEATURE_SELECT, &select.to_le_bytes())?;
            self.write(common::DRIVER_FEATURE, &word.to_le_bytes())?;
        }
        self.write(common::STATUS, &[FEATURES_OK])?;
        let status = self.read::<1>(common::STATUS)?;
        ensure!(status == [FEATURES_OK], "the function refuses {:?}: status {status:?}", self.features);
        Ok(())
    }

    /// Hands over the memory, calls by MSI-X and starts the rings, whose doorbells are those of the mapped page if there is
    /// one, and messages otherwise.
    ///
    /// Errors: a function that refuses.
    pub(super) fn start(&mut self, ram: &Ram, rings: [&mut Ring; 2]) -> anyhow::Result<()> {
        let (file, base, len) = ram.shared();
        self.client().dma_map(0, base.0, len, file.as_raw_fd()).context("DMA_MAP")?;
        let calls = [rings[0].call.as_raw_fd(), rings[1].call.as_raw_fd()];
        self.client().set_irqs(MSIX_INDEX, EVENTFDS, 0, 2, &calls).context("SET_IRQS")?;
        let page = self.page().context("the page of doorbells")?;
        for (index, ring) in (0u16..).zip(rings) {
            let offset = self.start_ring(index, ring).with_context(|| format!("start ring {index}"))?;
            let area = page.as_ref().and_then(|page| page.area(GuestAddr(PAGE), PAGE as usize));
            ring.doorbell = match area {
                Some(area) => Doorbell::Mapped { area, offset: offset as usize, queue: index },
                None => Doorbell::Message(self.registers_at(offset, index)),
            };
        }
        self.write(common::STATUS, &[DRIVER_OK])?;
        let status = self.read::<1>(common::STATUS)?;
        ensure!(status == [DRIVER_OK], "the function is not ready: status {status:?}");
        Ok(())
    }

    /// Starts a ring; where its doorbell lies, in bytes from the first.
    fn start_ring(&self, index: u16, ring: &Ring) -> anyhow::Result<u64> {
        let setup = &ring.setup;
        self.write(common::QUEUE_SELECT, &index.to_le_bytes())?;
        self.write(common::QUEUE_SIZE, &setup.size.get().to_le_bytes())?;
        self.write(common::QUEUE_MSIX_VECTOR, &index.to_le_bytes())?;
        ensure!(self.read(common::QUEUE_MSIX_VECTOR)? == index.to_le_bytes(), "no vector {index}");
        for (area, address) in (0..).zip([setup.desc, setup.driver, setup.device]) {
            let field = common::QUEUE_DESC + 8 * area;
            self.write(field, &(address.0 as u32).to_le_bytes())?;
            self.write(field + 4, &((address.0 >> 32) as u32).to_le_bytes())?;
        }
        self.write(common::QUEUE_ENABLE, &1u16.to_le_bytes())?;
        let enabled = u16::from_le_bytes(self.read(common::QUEUE_ENABLE)?);
        ensure!(enabled == 1, "the function does not enable it");
        let off = u16::from_le_bytes(self.read(common::QUEUE_NOTIFY_OFF)?);
        Ok(u64::from(off) * self.multiplier)
    }

    /// The page of doorbells, mapped; `None`: the function wants messages.
    fn page(&self) -> anyhow::Result<Option<Arc<GuestMemory>>> {
        let client = self.client();
        let region = client.region(self.notify.region).context("no such region")?;
        let Some(file) = &region.file_offset else { return Ok(None) };
        let is_inside = |offset: u64, size: u64| (offset..offset + size).contains(&self.notify.offset);
        ensure!(region.sparse_areas.iter().any(|area| is_inside(area.offset, area.size)), "another page");
        let mapping =
            Mapping::file(file.file(), file.start() + self.notify.offset, PAGE).context("map it")?;
        let region = Region::new(GuestAddr(PAGE), FrontendAddr(PAGE), PAGE, Arc::new(mapping))?;
        Ok(Some(Arc::new(GuestMemory::new(vec![region])?)))
    }

    fn registers_at(&self, offset: u64, queue: u16) -> Registers {
        let doorbell = Place { offset: self.notify.offset + offset, ..self.notify };
        Registers { client: Arc::clone(&self.client), doorbell, queue }
    }

    /// A hold of the registers, whose doorbell is that of the transmit queue.
    pub fn registers(&self) -> Registers {
        self.registers_at(self.multiplier, 1)
    }

    fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<const LEN: usize>(&self, field: u64) -> anyhow::Result<[u8; LEN]> {
        let mut data = [0; LEN];
        let Place { region, offset } = self.common;
        self.client().region_read(region, offset + field, &mut data).context("read a register")?;
        Ok(data)
    }

    fn write(&self, field: u64, data: &[u8]) -> anyhow::Result<()> {
        let Place { region, offset } = self.common;
        self.client().region_write(region, offset + field, data).context("write a register")
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // A server that is gone already needs no reset.
        let _ = self.write(common::STATUS, &[0]);
        let _ = self.client().shutdown();
    }
}

impl Registers {
    /// Reads the configuration space once.
    pub fn read(&self) -> anyhow::Result<()> {
        config_space(&mut self.client.lock().unwrap_or_else(PoisonError::into_inner)).map(drop)
    }

    /// Rings the queue by a message, and waits for its reply.
    pub fn ring(&self) -> anyhow::Result<()> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let Place { region, offset } = self.doorbell;
        client.region_write(region, offset, &self.queue.to_le_bytes()).context("ring a doorbell")
    }
}

fn config_space(client: &mut Client) -> anyhow::Result<[u8; CONFIG_LEN]> {
    let mut config = [0; CONFIG_LEN];
    client.region_read(CONFIG, 0, &mut config).context("read the configuration space")?;
    Ok(config)
}

/// Where the first capability begins that is the one.
fn find(config: &[u8; CONFIG_LEN], is_it: impl Fn(usize) -> bool) -> anyhow::Result<usize> {
    let mut at = usize::from(config[CAPABILITIES]);
    // Each takes four bytes at least.
    for _ in 0..CONFIG_LEN / 4 {
        if at == 0 || at + 20 > CONFIG_LEN {
            break;
        }
        if is_it(at) {
            return Ok(at);
        }
        at = usize::from(config[at + 1]);
    }
    bail!("no such capability")
}

fn word(config: &[u8; CONFIG_LEN], at: usize) -> anyhow::Result<u32> {
    let bytes = config.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
    Ok(u32::from_le_bytes(*bytes.context("a capability beyond the configuration space")?))
}
