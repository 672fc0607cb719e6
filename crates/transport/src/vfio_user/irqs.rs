//! Where interrupts go: `DEVICE_GET_IRQ_INFO`, `DEVICE_SET_IRQS`.
//!
//! The client gives an eventfd for INTx and for each vector of MSI-X, in one message or in many, takes them back, masks INTx
//! and unmasks it. INTx is level-triggered: its eventfd is signalled once when it is asserted, and again whenever the client
//! says that the guest had its turn (unmask, or the resample eventfd) while it still is.

use super::message::{Fields, IRQ_INFO_SIZE, Payload};
use super::{Command, Refusal};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Kinds of interrupts of a PCI device, by VFIO's numbers.
pub(super) const IRQS: u32 = 5;
pub(super) const INTX: u32 = 0;
pub(super) const MSIX: u32 = 2;
const ERROR: u32 = 3;

const INFO_EVENTFD: u32 = 1;
const INFO_MASKABLE: u32 = 2;
const INFO_AUTOMASKED: u32 = 4;
const INFO_NORESIZE: u32 = 8;

const DATA_NONE: u32 = 0x1;
const DATA_BOOL: u32 = 0x2;
const DATA_EVENTFD: u32 = 0x4;
const ACTION_MASK: u32 = 0x8;
const ACTION_UNMASK: u32 = 0x10;
const ACTION_TRIGGER: u32 = 0x20;
const DATA: u32 = DATA_NONE | DATA_BOOL | DATA_EVENTFD;
const ACTIONS: u32 = ACTION_MASK | ACTION_UNMASK | ACTION_TRIGGER;

/// What a change of the interrupts asks of the session.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// To be signalled now.
    pub(super) signal: Vec<Arc<OwnedFd>>,
    /// Vectors or INTx have other eventfds: queues may call elsewhere.
    pub(super) calls: bool,
    /// INTx is to be signalled if it is asserted.
    pub(super) intx: bool,
    /// Another resample eventfd is to be watched.
    pub(super) resample: bool,
}

/// A vector of MSI-X.
#[derive(Clone, Debug, Default)]
struct Vector {
    eventfd: Option<Arc<OwnedFd>>,
    /// An interrupt of ours found no eventfd.
    pending: bool,
}

/// A `DEVICE_SET_IRQS` that was checked.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    index: u32,
    flags: u32,
    start: usize,
    count: usize,
    /// One byte for each interrupt, if the client sent some.
    bools: &'a [u8],
}

impl Asked<'_> {
    /// The interrupts that the action is for.
    fn chosen(&self) -> impl Iterator<Item = usize> {
        let all = self.flags & DATA_BOOL == 0;
        let bools = self.bools;
        (0..self.count)
            .filter(move |at| all || bools.get(*at).is_some_and(|chosen| *chosen != 0))
            .map(|at| self.start + at)
    }
}

/// The interrupts of one client.
#[derive(Debug)]
pub(super) struct Irqs {
    intx: Option<Arc<OwnedFd>>,
    masked: bool,
    resample: Option<Arc<OwnedFd>>,
    vectors: Vec<Vector>,
    /// Kept, so that clients which insist on giving one are content. Nothing here has errors to report by it.
    _error: Option<OwnedFd>,
}

impl Irqs {
    pub(super) fn new(vectors: u16) -> Self {
        let vectors = vec![Vector::default(); usize::from(vectors)];
        Self { intx: None, masked: false, resample: None, vectors, _error: None }
    }

    /// How many interrupts there are of one kind.
    fn count(&self, index: u32) -> u32 {
        match index {
            INTX | ERROR => 1,
            MSIX => self.vectors.len() as u32,
            _ => 0,
        }
    }

    /// `DEVICE_GET_IRQ_INFO`.
    pub(super) fn info(&self, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let command = Command::DeviceGetIrqInfo;
        let mut fields = Fields(payload);
        let (_argsz, _flags, index) = (fields.u32(), fields.u32(), fields.u32());
        if index >= IRQS {
            return Err(Refusal::IrqIndex { command, index, last: IRQS - 1 });
        }
        let flags = match index {
            INTX => INFO_EVENTFD | INFO_MASKABLE | INFO_AUTOMASKED,
            MSIX | ERROR => INFO_EVENTFD | INFO_NORESIZE,
            _ => 0,
        };
        Ok(Payload::default().u32(IRQ_INFO_SIZE as u32).u32(flags).u32(index).u32(self.count(index)).0)
    }

    /// `DEVICE_SET_IRQS`.
    pub(super) fn set(&mut self, payload: &[u8], fds: Vec<OwnedFd>) -> Result<Change, Refusal> {
        let asked = self.check(payload, fds.len())?;
        let (data, action) = (asked.flags & DATA, asked.flags & ACTIONS);
        match (asked.index, data, action) {
            (_, DATA_NONE, ACTION_TRIGGER) if asked.count == 0 => Ok(self.disable(asked.index)),
            (_, DATA_EVENTFD, ACTION_TRIGGER) => Ok(self.assign(&asked, fds)),
            (_, DATA_NONE | DATA_BOOL, ACTION_TRIGGER) => Ok(self.trigger(&asked)),
            (INTX, DATA_NONE | DATA_BOOL, ACTION_MASK) => {
                self.masked |= asked.chosen().next().is_some();
                Ok(Change::default())
            }
            (INTX, DATA_NONE | DATA_BOOL, ACTION_UNMASK) => {
                let unmasked = asked.chosen().next().is_some();
                self.masked &= !unmasked;
                Ok(Change { intx: unmasked, ..Change::default() })
            }
            (INTX, DATA_EVENTFD, ACTION_UNMASK) => {
                self.resample = fds.into_iter().next().map(Arc::new);
                Ok(Change { resample: true, ..Change::default() })
            }
            (index, ..) => Err(Refusal::IrqAction { index, flags: asked.flags }),
        }
    }

    fn check<'a>(&self, payload: &'a [u8], fds: usize) -> Result<Asked<'a>, Refusal> {
        let command = Command::DeviceSetIrqs;
        let mut fields = Fields(payload);
        let (_argsz, flags, index) = (fields.u32(), fields.u32(), fields.u32());
        let (start, count) = (fields.u32(), fields.u32());
        let bools = fields.rest();
        if index >= IRQS {
            return Err(Refusal::IrqIndex { command, index, last: IRQS - 1 });
        }
        let (data, action) = (flags & DATA, flags & ACTIONS);
        if flags & !(DATA | ACTIONS) != 0 || !data.is_power_of_two() || !action.is_power_of_two() {
            return Err(Refusal::IrqAction { index, flags });
        }
        let most = self.count(index);
        let disables = data == DATA_NONE && action == ACTION_TRIGGER && (start, count) == (0, 0);
        let inside = start.checked_add(count).is_some_and(|end| end <= most) && count > 0;
        if !inside && !disables {
            return Err(Refusal::IrqRange { index, start, count, most });
        }
        // No descriptor at all takes the eventfds back.
        let wanted = if data == DATA_EVENTFD && fds > 0 { count as usize } else { 0 };
        if fds != wanted {
            return Err(Refusal::FdCount { command, count: fds, least: wanted, most: wanted });
        }
        if data == DATA_BOOL && bools.len() < count as usize {
            return Err(Refusal::DataSize { command, count: count.into(), size: bools.len() });
        }
        Ok(Asked { index, flags, start: start as usize, count: count as usize, bools })
    }

    /// Everything of one kind is taken back. INTx is unmasked then, as it was before the client set it up.
    fn disable(&mut self, index: u32) -> Change {
        match index {
            INTX => {
                self.intx = None;
                self.masked = false;
                let resample = self.resample.take().is_some();
                Change { resample, ..Change::default() }
            }
            MSIX => {
                self.vectors.iter_mut().for_each(|vector| vector.eventfd = None);
                Change { calls: true, ..Change::default() }
            }
            _ => {
                self._error = None;
                Change::default()
            }
        }
    }

    fn assign(&mut self, asked: &Asked<'_>, fds: Vec<OwnedFd>) -> Change {
        match asked.index {
            INTX => {
                self.intx = fds.into_iter().next().map(Arc::new);
                Change { intx: true, ..Change::default() }
            }
            MSIX => {
                let mut change = Change { calls: true, ..Change::default() };
                let mut fds = fds.into_iter();
                for vector in self.vectors.iter_mut().skip(asked.start).take(asked.count) {
                    vector.eventfd = fds.next().map(Arc::new);
                    if vector.pending && vector.eventfd.is_some() {
                        vector.pending = false;
                        change.signal.extend(vector.eventfd.clone());
                    }
                }
                change
            }
            _ => {
                self._error = fds.into_iter().next();
                Change::default()
            }
        }
    }

    /// The client tries its eventfds.
    fn trigger(&self, asked: &Asked<'_>) -> Change {
        let eventfd = |at| match asked.index {
            INTX => self.intx.clone(),
            MSIX => self.vector(at as u16),
            _ => None,
        };
        Change { signal: asked.chosen().filter_map(eventfd).collect(), ..Change::default() }
    }

    /// The eventfd of a vector, if the client gave one.
    pub(super) fn vector(&self, vector: u16) -> Option<Arc<OwnedFd>> {
        self.vectors.get(usize::from(vector))?.eventfd.clone()
    }

    /// The eventfd of a vector that is due; without one the interrupt is kept until the client gives it.
    pub(super) fn raise_vector(&mut self, vector: u16) -> Option<Arc<OwnedFd>> {
        let vector = self.vectors.get_mut(usize::from(vector))?;
        vector.pending |= vector.eventfd.is_none();
        vector.eventfd.clone()
    }

    /// The eventfd of INTx, to be signalled while that is asserted; `None`: masked, or the client has none.
    pub(super) fn raise_intx(&self) -> Option<Arc<OwnedFd>> {
        if self.masked { None } else { self.intx.clone() }
    }

    /// The eventfd by which the client asks to look at INTx again.
    pub(super) fn resample(&self) -> Option<Arc<OwnedFd>> {
        self.resample.clone()
    }

    /// Interrupts that wait for an eventfd belong to a device that was reset.
    pub(super) fn forget_pending(&mut self) {
        self.vectors.iter_mut().for_each(|vector| vector.pending = false);
    }
}
