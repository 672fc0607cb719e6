//! What the front-end said about each ring, and whether the ring runs.

use super::features::{F_PROTOCOL_FEATURES, ring_features};
use super::in_flight::InFlightMemory;
use super::message::{Fields, VringState};
use super::{FrontendFault, Request};
use crate::event::{QueueRestart, QueueStart};
use guestmem::{DirtyLog, FrontendAddr, GuestAddr, GuestMemory};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use virtqueue::{QueueSetup, QueueSize, RingArea, RingLog, RingState};

/// Rings of one device at most: `SET_VRING_KICK` numbers them with 8 bits.
pub const QUEUES_MAX: u16 = 256;

/// `SET_VRING_ADDR`, `VHOST_VRING_F_LOG`: writes to the used ring are logged.
const ADDR_FLAG_LOG: u32 = 1;

/// `SET_VRING_KICK` and its like: the ring's number, and that no descriptor comes with it.
const FD_INDEX_MASK: u64 = 0xff;
const FD_NONE: u64 = 0x100;

/// Where the front-end put a ring, in its own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingAddresses {
    desc: FrontendAddr,
    device: FrontendAddr,
    driver: FrontendAddr,
    log_used: Option<GuestAddr>,
}

impl RingAddresses {
    /// The ring's number and its addresses.
    pub(super) fn parse(payload: &[u8]) -> Result<(u32, Self), FrontendFault> {
        let mut fields = Fields(payload);
        let (index, flags) = (fields.u32(), fields.u32());
        if flags & !ADDR_FLAG_LOG != 0 {
            return Err(FrontendFault::ReservedBits { request: Request::SetVringAddr, value: flags.into() });
        }
        let (desc, device, driver) =
            (FrontendAddr(fields.u64()), FrontendAddr(fields.u64()), FrontendAddr(fields.u64()));
        let log_used = GuestAddr(fields.u64());
        let log_used = (flags & ADDR_FLAG_LOG != 0).then_some(log_used);
        Ok((index, Self { desc, device, driver, log_used }))
    }
}

/// What a ring's setup depends on besides the ring itself.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) memory: &'a Arc<GuestMemory>,
    /// Acknowledged feature bits.
    pub(super) features: u64,
    /// The dirty log while `LOG_ALL` is acknowledged.
    pub(super) log: Option<&'a DirtyLog>,
    /// Where rings record what is in flight.
    pub(super) in_flight: Option<&'a InFlightMemory>,
}

/// ```text
///              all known                memory gone
///   Stopped ---------------> Running ---------------> Suspended
///      ^                      |   ^                    |   |
///      |     GET_VRING_BASE   |   +--------------------+   |
///      +----------------------+        memory back         |
///      +----------------------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Stopped,
    Running,
    Suspended,
}

/// The kick of a stopped ring.
#[derive(Debug, Default)]
enum Kick {
    #[default]
    Unknown,
    Polled,
    Fd(OwnedFd),
}

/// One ring. The fds of a ring that is not stopped are with the host.
#[derive(Debug, Default)]
pub(super) struct Ring {
    size: Option<QueueSize>,
    addresses: Option<RingAddresses>,
    base: Option<u32>,
    kick: Kick,
    pub(super) call: Option<OwnedFd>,
    pub(super) err: Option<OwnedFd>,
    pub(super) enabled: bool,
    pub(super) phase: Phase,
}

impl Ring {
    pub(super) fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    pub(super) fn set_size(&mut self, size: QueueSize) {
        self.size = Some(size);
    }

    /// Whether these addresses are others than before.
    pub(super) fn set_addresses(&mut self, addresses: RingAddresses) -> bool {
        self.addresses.replace(addresses) != Some(addresses)
    }

    pub(super) fn set_base(&mut self, base: u32) {
        self.base = Some(base);
    }

    pub(super) fn set_kick(&mut self, kick: Option<OwnedFd>) {
        self.kick = kick.map_or(Kick::Polled, Kick::Fd);
    }

    fn base(&self) -> u32 {
        self.base.unwrap_or(0)
    }

    /// The ring ended at `base`.
    pub(super) fn stop(&mut self, base: Option<u32>) {
        self.phase = Phase::Stopped;
        self.base = base.or(self.base);
        self.kick = Kick::Unknown;
    }

    /// Everything said about the ring is forgotten, apart from call and err fds that the host never had.
    pub(super) fn reset(&mut self) {
        *self = Self { call: self.call.take(), err: self.err.take(), ..Self::default() };
    }

    /// Starts the ring if it is stopped and all is known.
    fn start(&mut self, index: u16, around: Surroundings<'_>) -> Result<Option<QueueStart>, FrontendFault> {
        let known = self.size.is_some() && self.addresses.is_some() && !around.memory.regions().is_empty();
        let (Phase::Stopped, true, Some(base)) = (self.phase, known, self.base) else { return Ok(None) };
        if matches!(self.kick, Kick::Unknown) {
            return Ok(None);
        }
        let Some(setup) = self.setup(index, around)? else { return Ok(None) };
        let state = ring_state(index, base, &setup)?;
        self.phase = Phase::Running;
        // Without PROTOCOL_FEATURES there is no SET_VRING_ENABLE.
        self.enabled |= around.features & F_PROTOCOL_FEATURES == 0;
        let kick = match std::mem::take(&mut self.kick) {
            Kick::Fd(fd) => Some(fd),
            Kick::Polled | Kick::Unknown => None,
        };
        let (call, err, enabled) = (self.call.take(), self.err.take(), self.enabled);
        Ok(Some(QueueStart { index, setup, state, kick, call, err, enabled, memory: None }))
    }

    /// The new setup of a ring that is not stopped, or `None` if its memory is gone.
    fn restart(&mut self, index: u16, around: Surroundings<'_>) -> Result<Option<QueueSetup>, FrontendFault> {
        let setup = match self.setup(index, around) {
            Err(FrontendFault::QueueOutsideMemory { .. }) => None,
            other => other?,
        };
        self.phase = if setup.is_some() { Phase::Running } else { Phase::Suspended };
        Ok(setup)
    }

    /// The ring in guest addresses, checked; `None` while size or addresses are unknown.
    fn setup(&self, index: u16, around: Surroundings<'_>) -> Result<Option<QueueSetup>, FrontendFault> {
        let (Some(size), Some(at)) = (self.size, self.addresses) else { return Ok(None) };
        let features = ring_features(around.features);
        let entries = usize::from(size.get());
        if !features.packed && !entries.is_power_of_two() {
            let (size, most) = (entries as u32, QueueSize::MAX.get());
            return Err(FrontendFault::QueueSize { index, size, most });
        }
        let place = Place { index, memory: around.memory };
        // Lengths and alignments of virtio 1.3 §2.7 and §2.8; the event words exist with EVENT_IDX only.
        let event = if features.event_idx { 2 } else { 0 };
        let (driver_len, driver_align, device_len) =
            if features.packed { (4, 4, 4) } else { (4 + 2 * entries + event, 2, 4 + 8 * entries + event) };
        let log = around.log.map(|log| RingLog { log: log.clone(), used_ring: at.log_used });
        let in_flight = match around.in_flight {
            Some(memory) => memory.log(index, size, features.packed)?,
            None => None,
        };
        Ok(Some(QueueSetup {
            size,
            desc: place.guest(RingArea::Descriptor, at.desc, 16 * entries, 16)?,
            driver: place.guest(RingArea::Driver, at.driver, driver_len, driver_align)?,
            device: place.guest(RingArea::Device, at.device, device_len, 4)?,
            features,
            log,
            in_flight,
        }))
    }
}

/// Translates the areas of one ring.
struct Place<'a> {
    index: u16,
    memory: &'a Arc<GuestMemory>,
}

impl Place<'_> {
    fn guest(
        &self,
        area: RingArea,
        address: FrontendAddr,
        len: usize,
        align: usize,
    ) -> Result<GuestAddr, FrontendFault> {
        let index = self.index;
        let outside = FrontendFault::QueueOutsideMemory { index, area, address, len };
        let guest = self.memory.guest_of_frontend(address).ok_or(outside)?;
        let mapped = self.memory.area(guest, len).ok_or(outside)?;
        if !guest.is_aligned(align as u64) || !mapped.is_aligned(align) {
            return Err(FrontendFault::QueueMisaligned { index, area, address, align });
        }
        Ok(guest)
    }
}

/// Where the ring goes on. A packed base has the available position in its low half and the used position in
/// its high half; DPDK knows the low half only and leaves the other zero, which stands for the same position.
fn ring_state(index: u16, base: u32, setup: &QueueSetup) -> Result<RingState, FrontendFault> {
    let low_half_only = setup.features.packed && base >> 16 == 0;
    let full = if low_half_only { base | base << 16 } else { base };
    let state = RingState::from_vring_base(full, setup.features.packed);
    let inside = match setup.features.packed {
        true => state.avail.max(state.used) < setup.size.get(),
        false => base <= u32::from(u16::MAX),
    };
    if inside { Ok(state) } else { Err(FrontendFault::QueueBase { index, base }) }
}

/// All rings of the device.
#[derive(Debug)]
pub(super) struct Rings(Vec<Ring>);

impl Rings {
    /// `count` stopped rings, at most [`QUEUES_MAX`].
    pub(super) fn new(count: u16) -> Self {
        Self((0..count.min(QUEUES_MAX)).map(|_| Ring::default()).collect())
    }

    /// The ring that `request` names.
    pub(super) fn at(&mut self, request: Request, index: u32) -> Result<(u16, &mut Ring), FrontendFault> {
        let last = (self.0.len() as u32).saturating_sub(1);
        let ring =
            self.0.get_mut(index as usize).ok_or(FrontendFault::QueueIndex { request, index, last })?;
        Ok((index as u16, ring))
    }

    /// As [`Rings::at`], for requests that only a stopped ring takes.
    pub(super) fn stopped(
        &mut self,
        request: Request,
        state: VringState,
    ) -> Result<&mut Ring, FrontendFault> {
        let (index, ring) = self.at(request, state.index)?;
        if ring.is_stopped() { Ok(ring) } else { Err(FrontendFault::QueueRunning { request, index }) }
    }

    /// The ring and the descriptor of a `SET_VRING_KICK`, `_CALL` or `_ERR`.
    pub(super) fn with_fd(
        &mut self,
        request: Request,
        payload: &[u8],
        mut fds: Vec<OwnedFd>,
    ) -> Result<(u16, &mut Ring, Option<OwnedFd>), FrontendFault> {
        let value = Fields(payload).u64();
        if value & !(FD_INDEX_MASK | FD_NONE) != 0 {
            return Err(FrontendFault::ReservedBits { request, value });
        }
        let wanted = usize::from(value & FD_NONE == 0);
        if fds.len() != wanted {
            return Err(FrontendFault::FdCount { request, count: fds.len(), least: wanted, most: wanted });
        }
        let (index, ring) = self.at(request, (value & FD_INDEX_MASK) as u32)?;
        Ok((index, ring, fds.pop()))
    }

    /// Whether any ring is not stopped.
    pub(super) fn any_running(&self) -> bool {
        self.0.iter().any(|ring| !ring.is_stopped())
    }

    /// Starts ring `index` if all is known.
    pub(super) fn start(
        &mut self,
        index: u16,
        around: Surroundings<'_>,
    ) -> Result<Option<QueueStart>, FrontendFault> {
        self.0.get_mut(usize::from(index)).map_or(Ok(None), |ring| ring.start(index, around))
    }

    /// Starts every ring that only waited for memory.
    pub(super) fn start_all(&mut self, around: Surroundings<'_>) -> Result<Vec<QueueStart>, FrontendFault> {
        let rings = self.0.iter_mut().zip(0..);
        rings.filter_map(|(ring, index)| ring.start(index, around).transpose()).collect()
    }

    /// New setups for all rings that are not stopped; a ring that was and stays suspended is left out.
    pub(super) fn restart_all(
        &mut self,
        around: Surroundings<'_>,
    ) -> Result<Vec<QueueRestart>, FrontendFault> {
        let mut restarts = Vec::new();
        for (ring, index) in self.0.iter_mut().zip(0..).filter(|(ring, _)| !ring.is_stopped()) {
            let before = ring.phase;
            let setup = ring.restart(index, around)?;
            if setup.is_some() || before == Phase::Running {
                restarts.push(QueueRestart { index, setup });
            }
        }
        Ok(restarts)
    }

    /// The new setup of ring `index` after its addresses changed while it ran; nothing for a stopped ring.
    pub(super) fn readdress(
        &mut self,
        index: u16,
        around: Surroundings<'_>,
    ) -> Result<Option<QueueRestart>, FrontendFault> {
        let Some(ring) = self.0.get_mut(usize::from(index)).filter(|ring| !ring.is_stopped()) else {
            return Ok(None);
        };
        let setup = ring.setup(index, around)?;
        ring.phase = if setup.is_some() { Phase::Running } else { Phase::Suspended };
        Ok(Some(QueueRestart { index, setup }))
    }

    /// Ring `index` ended, at `base` if that is known.
    pub(super) fn stop(&mut self, index: u16, base: Option<u32>) {
        if let Some(ring) = self.0.get_mut(usize::from(index)) {
            ring.stop(base);
        }
    }

    /// The base of ring `index`; 0 if none was ever set.
    pub(super) fn base(&self, index: u16) -> u32 {
        self.0.get(usize::from(index)).map_or(0, Ring::base)
    }

    /// `RESET_DEVICE`.
    pub(super) fn reset_all(&mut self) {
        self.0.iter_mut().for_each(Ring::reset);
    }
}
