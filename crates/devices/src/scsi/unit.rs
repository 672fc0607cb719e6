//! A logical unit: its state, and the one way in for a command.
//!
//! [`LogicalUnit::begin`] decodes a CDB, checks it in the order that SAM and SPC give (unit attention, reservation, readiness,
//! write protection) and either answers at once or returns a [`Task`] for the disk. What a command may do with a unit of its
//! class is in the [opcode table](super::opcode::OPCODES); what it means, in the module of its kind.

use super::data::DataOut;
use super::disk::Disk;
use super::log::Counters;
use super::mode::{MODE_LIST_LEN_MAX, Medium, Mode, mode_select, mode_sense};
use super::nexus::{InitiatorId, Nexus, NexusSet, NexusState};
use super::opcode::{Access, Cdb, Op, Opcode};
use super::persistent::{self, reserve_in, reserve_out};
use super::reply::Reply;
use super::report;
use super::reservation::Reservations;
use super::sense::{Asc, Sense, SenseKey};
use super::status::Refusal;
use super::task::{Stage, Task};
use super::{block, inquiry};
use crate::storage::{Extent, Work};

/// Bytes of the longest parameter list that is read: UNMAP with all the extents that it can name.
pub(super) const PARAMETERS_LEN_MAX: usize = 8 + 16 * crate::storage::EXTENTS_MAX;

/// One command as it comes in.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// From whom.
    pub nexus: Nexus,
    /// What.
    pub cdb: Cdb,
    /// Bytes that the initiator sends with it.
    pub data_out: DataOut<'a>,
    /// Bytes that the initiator has room for.
    pub data_in_len: u64,
    /// The logical unit numbers of the target, in ascending order.
    pub luns: &'a [u16],
}

/// What a command begins as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Begun {
    /// It is done.
    Done(Reply),
    /// It needs the disk.
    Task(Task),
}

/// A logical unit. All of its initiators share it.
#[derive(Clone, Debug)]
pub struct LogicalUnit {
    pub(super) disk: Disk,
    pub(super) mode: Mode,
    pub(super) counters: Counters,
    /// START STOP UNIT has stopped it.
    is_stopped: bool,
    nexuses: Vec<NexusState>,
    reservations: Reservations,
    /// Who holds a RESERVE.
    reserved_by: Option<Nexus>,
}

/// A command on its way through a unit.
pub(super) struct Call<'a> {
    pub(super) command: &'a Command<'a>,
    pub(super) opcode: &'static Opcode,
    pub(super) descriptor_sense: bool,
}

impl Call<'_> {
    pub(super) fn cdb(&self) -> &Cdb {
        &self.command.cdb
    }

    pub(super) fn good(&self) -> Reply {
        Reply::good(self.descriptor_sense)
    }

    /// GOOD, with so many bytes of the data-out buffer used.
    pub(super) fn sent(&self, data_out: u64) -> Reply {
        Reply { data_out, ..self.good() }
    }

    /// GOOD, with so many bytes in the data-in buffer.
    pub(super) fn received(&self, data_in: u64) -> Reply {
        Reply { data_in, ..self.good() }
    }

    /// Reads a parameter list of `len` bytes, once, into `room`.
    pub(super) fn parameters<'b>(&self, len: usize, room: &'b mut [u8]) -> Result<&'b [u8], Refusal> {
        if len as u64 > self.command.data_out.len() {
            return Err(Refusal::Overrun);
        }
        let list = room.get_mut(..len).ok_or(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR))?;
        let read = self.command.data_out.read(0, list);
        Ok(&list[..read])
    }

    /// Cuts an answer to the allocation length of the CDB.
    pub(super) fn answered(&self, allocation: u64, answer: &mut Vec<u8>) -> Result<Begun, Refusal> {
        if allocation > self.command.data_in_len {
            answer.clear();
            return Err(Refusal::Overrun);
        }
        answer.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
        Ok(Begun::Done(self.received(answer.len() as u64)))
    }
}

impl LogicalUnit {
    /// A unit that was just switched on, with what is left of its persistent reservations.
    ///
    /// # Errors
    /// The disk's shape cannot be shown.
    pub fn new(disk: Disk, reservations: &Reservations) -> Result<Self, super::disk::ShapeFault> {
        disk.check()?;
        Ok(Self {
            mode: Mode::new(disk.write_cache),
            disk,
            counters: Counters::default(),
            is_stopped: false,
            nexuses: Vec::new(),
            reservations: reservations.after_power_loss(),
            reserved_by: None,
        })
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The mode parameters as they are now.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// The persistent reservations, to be kept when a [`Reply`] says `save`.
    pub fn reservations(&self) -> &Reservations {
        &self.reservations
    }

    /// Whether an initiator prevents that the medium is taken away.
    pub fn is_removal_prevented(&self) -> bool {
        self.nexuses.iter().any(|one| one.prevents)
    }

    /// Makes a nexus known; what was kept of an earlier one of this index is gone. Commands of unknown nexuses are refused.
    pub fn attach(&mut self, nexus: Nexus, initiator: InitiatorId) {
        self.detach(nexus);
        self.nexuses.push(NexusState::new(nexus, initiator));
    }

    /// Forgets a nexus: what it holds by RESERVE and PREVENT is released, persistent reservations stay.
    pub fn detach(&mut self, nexus: Nexus) {
        self.nexuses.retain(|one| one.nexus != nexus);
        self.reserved_by = self.reserved_by.filter(|&holder| holder != nexus);
    }

    /// Puts a unit attention in line for every nexus but `except`.
    pub fn attend(&mut self, asc: Asc, except: Option<Nexus>) {
        self.nexuses.iter_mut().filter(|one| Some(one.nexus) != except).for_each(|one| one.attend(asc));
    }

    /// Puts a unit attention in line for one nexus.
    pub fn attend_one(&mut self, nexus: Nexus, asc: Asc) {
        if let Some(one) = self.nexus_mut(nexus) {
            one.attend(asc);
        }
    }

    /// Takes the oldest unit attention of a nexus, as a command would: for a transport that reports it by itself.
    pub fn take_attention(&mut self, nexus: Nexus) -> Option<Asc> {
        self.nexus_mut(nexus).and_then(NexusState::take_attention)
    }

    /// The disk has another shape from now on: initiators learn of a new capacity, or that INQUIRY says something else.
    /// Returns what they are told, for the transport to tell it too.
    ///
    /// # Errors
    /// As [`Self::new`]; the unit stays as it is then.
    pub fn reshape(&mut self, disk: Disk) -> Result<Option<Asc>, super::disk::ShapeFault> {
        disk.check()?;
        let asc = if disk.blocks() != self.disk.blocks() || disk.block() != self.disk.block() {
            Some(Asc::CAPACITY_CHANGED)
        } else if disk != self.disk {
            Some(Asc::INQUIRY_CHANGED)
        } else {
            None
        };
        self.disk = disk;
        if let Some(asc) = asc {
            self.attend(asc, None);
        }
        Ok(asc)
    }

    /// LOGICAL UNIT RESET, or a reset of everything: mode parameters as the operator set them, no RESERVE, no PREVENT, started;
    /// persistent reservations stay (SAM-5 §6.3.3). True: the write cache was on and is off now, so a flush is due.
    pub fn reset(&mut self) -> bool {
        let cached = self.mode.write_cache;
        self.mode = Mode::new(self.disk.write_cache);
        self.is_stopped = false;
        self.reserved_by = None;
        self.nexuses.iter_mut().for_each(|one| {
            one.prevents = false;
            one.attend(Asc::DEVICE_RESET);
        });
        cached && !self.mode.write_cache
    }

    /// I_T NEXUS RESET: what the nexus holds is released (SAM-5 §6.3.4).
    pub fn reset_nexus(&mut self, nexus: Nexus) {
        self.reserved_by = self.reserved_by.filter(|&holder| holder != nexus);
        if let Some(one) = self.nexus_mut(nexus) {
            one.prevents = false;
            one.attend(Asc::NEXUS_LOSS);
        }
    }

    /// A task of this unit failed on the disk; LOG SENSE counts it.
    pub fn count_failure(&mut self, reply: &Reply) {
        self.counters.count_failure(reply);
    }

    /// Whether this unit has the command: two depend on what its disk can do.
    pub(super) fn supports(&self, opcode: &Opcode) -> bool {
        match opcode.op {
            Op::Unmap => self.disk.unmap().is_some(),
            Op::WriteAtomic => self.disk.atomic_max() > 0,
            _ => true,
        }
    }

    fn nexus_mut(&mut self, nexus: Nexus) -> Option<&mut NexusState> {
        self.nexuses.iter_mut().find(|one| one.nexus == nexus)
    }

    /// Begins a command. `answer` is emptied, and holds what goes into the data-in buffer when the command is done without the
    /// disk; it never grows beyond what the unit itself has to say.
    pub fn begin(&mut self, command: &Command<'_>, answer: &mut Vec<u8>) -> Begun {
        answer.clear();
        let descriptor_sense = self.mode.descriptor_sense;
        match self.checked(command, descriptor_sense).and_then(|call| self.dispatch(&call, answer)) {
            Ok(begun) => begun,
            Err(refusal) => {
                answer.clear();
                Begun::Done(Reply::of_refusal(refusal, descriptor_sense))
            }
        }
    }

    /// All that can stop a command before its own fields are looked at, in the order that counts.
    fn checked<'a>(&mut self, command: &'a Command<'a>, descriptor_sense: bool) -> Result<Call<'a>, Refusal> {
        let decoded = command.cdb.decode().and_then(|opcode| {
            let missing = Sense::illegal(Asc::INVALID_OPERATION_CODE);
            if self.supports(opcode) { Ok(opcode) } else { Err(missing) }
        });
        let Some(one) = self.nexuses.iter_mut().find(|one| one.nexus == command.nexus) else {
            return Err(Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE).into());
        };
        let initiator = one.initiator;
        let op = decoded.as_ref().map(|opcode| opcode.op);
        let hides_attention = matches!(op, Ok(Op::Inquiry | Op::ReportLuns | Op::RequestSense));
        if !hides_attention && let Some(asc) = one.take_attention() {
            return Err(Sense::attention(asc).into());
        }
        let opcode = decoded?;
        let access = match opcode.access {
            Access::Prevent if !command.cdb.has(4, 0x01) => Access::Always,
            Access::StartStop if command.cdb.has(4, 0x01) => Access::Query,
            access => access,
        };
        if self.reserved_by.is_some_and(|holder| holder != command.nexus)
            && !matches!(access, Access::Always | Access::Own)
            || !self.reservations.allows(initiator, access)
        {
            return Err(Refusal::Conflict);
        }
        if opcode.needs_medium && self.is_stopped {
            return Err(Sense::new(SenseKey::NotReady, Asc::INITIALIZING_COMMAND_REQUIRED).into());
        }
        if opcode.writes && self.disk.shape.read_only {
            return Err(Sense::new(SenseKey::DataProtect, Asc::WRITE_PROTECTED).into());
        }
        if opcode.writes && self.mode.write_protect {
            return Err(Sense::new(SenseKey::DataProtect, Asc::SOFTWARE_WRITE_PROTECTED).into());
        }
        Ok(Call { command, opcode, descriptor_sense })
    }

    fn dispatch(&mut self, call: &Call<'_>, answer: &mut Vec<u8>) -> Result<Begun, Refusal> {
        let cdb = call.cdb();
        match call.opcode.op {
            Op::TestUnitReady => Ok(Begun::Done(call.good())),
            Op::RequestSense => self.request_sense(call, answer),
            Op::Inquiry => {
                inquiry::inquiry(cdb, &self.disk, answer)?;
                call.answered(u64::from(cdb.u16(3)), answer)
            }
            Op::ModeSense => self.mode_sense(call, answer),
            Op::ModeSelect => self.mode_select(call),
            Op::Reserve => self.reserve(call),
            Op::Release => self.release(call),
            Op::StartStopUnit => Ok(self.start_stop_unit(call)),
            Op::PreventAllow => self.prevent_allow(call),
            Op::PersistentReserveIn => self.persistent_reserve_in(call, answer),
            Op::PersistentReserveOut => self.persistent_reserve_out(call),
            Op::ReportLuns => {
                report::luns(cdb, call.command.luns, answer)?;
                if let Some(one) = self.nexus_mut(call.command.nexus) {
                    one.forget(Asc::LUNS_CHANGED);
                }
                call.answered(u64::from(cdb.u32(6)), answer)
            }
            Op::ReadCapacity10 => {
                report::capacity_10(&self.disk, answer);
                call.answered(8, answer)
            }
            Op::ReadCapacity16 => {
                report::capacity_16(&self.disk, answer);
                call.answered(u64::from(cdb.u32(10)), answer)
            }
            Op::LogSense => {
                self.counters.log_sense(cdb, answer)?;
                call.answered(u64::from(cdb.u16(7)), answer)
            }
            Op::ReportSupportedOperationCodes => {
                report::supported_operation_codes(cdb, |row| self.supports(row), answer)?;
                call.answered(u64::from(cdb.u32(6)), answer)
            }
            Op::ReportSupportedTaskManagementFunctions => {
                report::supported_task_management_functions(cdb, answer)?;
                call.answered(u64::from(cdb.u32(6)), answer)
            }
            _ => block::begin(self, call, answer),
        }
    }

    /// REQUEST SENSE: a unit attention as data, else that the unit is stopped, else nothing (SPC-4 §6.39).
    fn request_sense(&mut self, call: &Call<'_>, answer: &mut Vec<u8>) -> Result<Begun, Refusal> {
        let allocation = u64::from(call.cdb().u8(4));
        if allocation > call.command.data_in_len {
            // Before anything is taken that could not be told.
            return Err(Refusal::Overrun);
        }
        let attention = self.nexus_mut(call.command.nexus).and_then(NexusState::take_attention);
        let sense = match attention {
            Some(asc) => Sense::attention(asc),
            None if self.is_stopped => Sense::new(SenseKey::NotReady, Asc::INITIALIZING_COMMAND_REQUIRED),
            None => Sense::NONE,
        };
        let (bytes, len) = sense.bytes(call.cdb().has(1, 0x01));
        answer.extend_from_slice(&bytes[..len]);
        call.answered(allocation, answer)
    }

    fn medium(&self) -> Medium {
        let is_protected = self.disk.shape.read_only || self.mode.write_protect;
        Medium { blocks: self.disk.blocks(), block: self.disk.block(), is_protected }
    }

    fn mode_sense(&self, call: &Call<'_>, answer: &mut Vec<u8>) -> Result<Begun, Refusal> {
        let cdb = call.cdb();
        mode_sense(cdb, &self.mode, &Mode::new(self.disk.write_cache), self.medium(), answer)?;
        let is_long = call.opcode.usage.len() == 10;
        call.answered(u64::from(if is_long { cdb.u16(7) } else { cdb.u8(4).into() }), answer)
    }

    /// MODE SELECT: all or nothing. Switching the write cache off flushes it before the command is done.
    fn mode_select(&mut self, call: &Call<'_>) -> Result<Begun, Refusal> {
        let cdb = call.cdb();
        let is_long = call.opcode.usage.len() == 10;
        let len = usize::from(if is_long { cdb.u16(7) } else { cdb.u8(4).into() });
        let mut room = [0; MODE_LIST_LEN_MAX];
        let list = call.parameters(len, &mut room)?;
        let after = mode_select(cdb, list, &self.mode, self.medium())?;
        let before = std::mem::replace(&mut self.mode, after);
        let changed = (before != after).then_some(Asc::MODE_PARAMETERS_CHANGED);
        if let Some(asc) = changed {
            self.attend(asc, Some(call.command.nexus));
        }
        let good = Reply { changed, ..call.sent(len as u64) };
        if before.write_cache && !after.write_cache {
            return Ok(Begun::Task(self.flush(good)));
        }
        Ok(Begun::Done(good))
    }

    pub(super) fn flush(&self, good: Reply) -> Task {
        Task::new(Extent::default(), self.disk.block(), good, [Some(Stage::Once(Some(Work::Flush))), None])
    }

    /// RESERVE beside persistent reservations (SPC-4 §5.12.3, CRH): an initiator that is registered gets GOOD and nothing
    /// happens, if nobody else holds a reservation; others conflict as soon as anybody is registered.
    fn legacy_reservation(&self, call: &Call<'_>) -> Result<bool, Refusal> {
        if self.reservations.registrations.is_empty() {
            return Ok(true);
        }
        let initiator = self.initiator(call);
        let is_free = self.reservations.reservation.is_none() || self.reservations.holds(initiator);
        if self.reservations.key(initiator).is_some() && is_free { Ok(false) } else { Err(Refusal::Conflict) }
    }

    fn reserve(&mut self, call: &Call<'_>) -> Result<Begun, Refusal> {
        if self.legacy_reservation(call)? {
            if self.reserved_by.is_some_and(|holder| holder != call.command.nexus) {
                return Err(Refusal::Conflict);
            }
            self.reserved_by = Some(call.command.nexus);
        }
        Ok(Begun::Done(call.good()))
    }

    /// RELEASE of one who holds nothing is GOOD and changes nothing.
    fn release(&mut self, call: &Call<'_>) -> Result<Begun, Refusal> {
        if self.legacy_reservation(call)? {
            self.reserved_by = self.reserved_by.filter(|&holder| holder != call.command.nexus);
        }
        Ok(Begun::Done(call.good()))
    }

    /// START STOP UNIT. Stopping flushes the write cache, unless NO_FLUSH says not to.
    fn start_stop_unit(&mut self, call: &Call<'_>) -> Begun {
        let cdb = call.cdb();
        self.is_stopped = !cdb.has(4, 0x01);
        if self.is_stopped && !cdb.has(4, 0x04) && self.mode.write_cache {
            return Begun::Task(self.flush(call.good()));
        }
        Begun::Done(call.good())
    }

    fn prevent_allow(&mut self, call: &Call<'_>) -> Result<Begun, Refusal> {
        let prevents = call.cdb().has(4, 0x01);
        if let Some(one) = self.nexus_mut(call.command.nexus) {
            one.prevents = prevents;
        }
        Ok(Begun::Done(call.good()))
    }

    fn initiator(&self, call: &Call<'_>) -> InitiatorId {
        let one = self.nexuses.iter().find(|one| one.nexus == call.command.nexus);
        // `checked` has found the nexus.
        one.map_or(InitiatorId(0), |one| one.initiator)
    }

    fn persistent_reserve_in(&self, call: &Call<'_>, answer: &mut Vec<u8>) -> Result<Begun, Refusal> {
        if self.reserved_by.is_some() {
            return Err(Refusal::Conflict);
        }
        reserve_in(call.cdb(), &self.reservations, answer);
        call.answered(u64::from(call.cdb().u16(7)), answer)
    }

    fn persistent_reserve_out(&mut self, call: &Call<'_>) -> Result<Begun, Refusal> {
        if self.reserved_by.is_some() {
            return Err(Refusal::Conflict);
        }
        let cdb = call.cdb();
        let len = cdb.u32(5) as usize;
        let mut room = [0; persistent::LIST_LEN_MAX];
        let list = call.parameters(len, &mut room)?;
        let initiator = self.initiator(call);
        let before = self.reservations.clone();
        let done = match reserve_out(cdb, list, initiator, &mut self.reservations) {
            Ok(done) => done,
            Err(refusal) => {
                self.reservations = before;
                return Err(refusal);
            }
        };
        let mut aborts = NexusSet::EMPTY;
        for one in self.nexuses.iter_mut().filter(|one| one.initiator != initiator) {
            let whom = one.initiator;
            let told = done.consequences.attentions.iter().filter(|(told, _)| *told == whom);
            told.for_each(|&(_, asc)| one.attend(asc));
            if done.aborts && done.consequences.preempted.contains(&one.initiator) {
                aborts.insert(one.nexus);
            }
        }
        let save = before != self.reservations && (before.aptpl || self.reservations.aptpl);
        Ok(Begun::Done(Reply { save, aborts, ..call.sent(len as u64) }))
    }
}
