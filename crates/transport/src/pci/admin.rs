//! Group administration commands for the self group: bytes in, bytes out (virtio 1.4 §2.13).
//!
//! The one capability is that of device parts (`parts.rs`), which are used through resource objects. The
//! group has one member, the device itself, so a driver that stops it could never resume it if that held
//! for the administration queue too: here this queue goes on.

use super::registers::Registers;
use super::steps::Step;

/// Bytes of the device-readable part of a command that count; a host copies no more.
pub const ADMIN_READABLE_MAX: usize = 16384;

/// Resource objects for getting device parts, and for setting them, at most.
const PARTS_OBJECTS_MAX: u8 = 4;
/// `VIRTIO_DEV_PARTS_CAP`, and `VIRTIO_RESOURCE_OBJ_DEV_PARTS`: the only ones there are.
const DEV_PARTS_CAP: u16 = 0;
const DEV_PARTS_OBJECT: u16 = 0;
/// `struct virtio_admin_cmd` up to `command_specific_data`, and from `status` up to the result.
const COMMAND_LEN: usize = 24;
const STATUS_LEN: usize = 8;

const LIST_QUERY: u16 = 0x0;
const LIST_USE: u16 = 0x1;
const CAP_ID_LIST_QUERY: u16 = 0x7;
const DEVICE_CAP_GET: u16 = 0x8;
const DRIVER_CAP_SET: u16 = 0x9;
const RESOURCE_OBJ_CREATE: u16 = 0xa;
const RESOURCE_OBJ_MODIFY: u16 = 0xb;
const RESOURCE_OBJ_QUERY: u16 = 0xc;
const RESOURCE_OBJ_DESTROY: u16 = 0xd;
const DEV_PARTS_METADATA_GET: u16 = 0xe;
const DEV_PARTS_GET: u16 = 0xf;
const DEV_PARTS_SET: u16 = 0x10;
const DEV_MODE_SET: u16 = 0x11;

/// A bit for each command.
const SUPPORTED: u64 = 0x3_ff83;
/// The commands of a fresh device.
const INITIAL: u64 = 1 << LIST_QUERY | 1 << LIST_USE;
/// `VIRTIO_ADMIN_CMD_DEV_MODE_F_STOPPED`.
const MODE_STOPPED: u8 = 1;

/// Why a command fails: `status`, named after Linux's errors, and `status_qualifier`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    InvalidCommand,
    InvalidOpcode,
    InvalidField,
    InvalidGroup,
    InvalidMember,
    /// No such capability or object.
    Enxio,
    Enomem,
    Ebusy,
    Eexist,
    Enospc,
}

impl Refusal {
    fn status(self) -> (u16, u16) {
        match self {
            Self::InvalidCommand => (22, 1),
            Self::InvalidOpcode => (22, 2),
            Self::InvalidField => (22, 3),
            Self::InvalidGroup => (22, 4),
            Self::InvalidMember => (22, 5),
            Self::Enxio => (6, 3),
            Self::Enomem => (12, 1),
            Self::Ebusy => (16, 1),
            Self::Eexist => (17, 3),
            Self::Enospc => (28, 6),
        }
    }
}

/// What a device parts object is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Get,
    Set,
}

/// What the driver said by commands; a reset forgets it.
#[derive(Debug)]
pub(super) struct Admin {
    /// A bit for each command that the driver said it uses.
    used: u64,
    /// Limits that the driver set: objects for getting, for setting.
    limits: [u8; 2],
    objects: Vec<(u32, Purpose)>,
    /// Whether the device is stopped (`DEV_MODE_SET`).
    pub(super) stopped: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Self { used: INITIAL, limits: [0; 2], objects: Vec::new(), stopped: false }
    }
}

/// `command_specific_data`: what a driver left out reads as zeros (virtio 1.4 §2.14).
#[derive(Clone, Copy)]
pub(super) struct Data<'a>(pub(super) &'a [u8]);

impl<'a> Data<'a> {
    pub(super) fn array<const N: usize>(self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        for (to, from) in bytes.iter_mut().zip(self.after(at).0) {
            *to = *from;
        }
        bytes
    }

    pub(super) fn u8(self, at: usize) -> u8 {
        u8::from_le_bytes(self.array(at))
    }

    pub(super) fn u16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(super) fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(super) fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    pub(super) fn after(self, at: usize) -> Self {
        Self(self.0.get(at..).unwrap_or_default())
    }
}

impl Registers {
    /// Carries out the command in `readable` and gives what to write, at most `writable` bytes.
    pub(super) fn admin_command(&mut self, readable: &[u8], writable: usize) -> Vec<u8> {
        let command = Data(&readable[..readable.len().min(ADMIN_READABLE_MAX)]);
        let room = writable.saturating_sub(STATUS_LEN);
        let (status, qualifier, result) = match self.admin_result(command, room) {
            Ok(result) => (0, 0, result),
            Err(refusal) => {
                let (status, qualifier) = refusal.status();
                (status, qualifier, Vec::new())
            }
        };
        let mut answer = [status.to_le_bytes(), qualifier.to_le_bytes(), [0; 2], [0; 2]].concat();
        answer.extend_from_slice(&result);
        answer.truncate(writable);
        answer
    }

    fn admin_result(&mut self, command: Data<'_>, room: usize) -> Result<Vec<u8>, Refusal> {
        let (opcode, group_type, member) = (command.u16(0), command.u16(2), command.u64(16));
        // The group of virtual functions does not exist: there are none.
        if group_type != 0 {
            return Err(Refusal::InvalidGroup);
        }
        if opcode >= 64 || self.admin.used & SUPPORTED & 1 << opcode == 0 {
            return Err(Refusal::InvalidOpcode);
        }
        if member != 0 && !matches!(opcode, LIST_QUERY | LIST_USE) {
            return Err(Refusal::InvalidMember);
        }
        let data = command.after(COMMAND_LEN);
        match opcode {
            LIST_QUERY => Ok(SUPPORTED.to_le_bytes().to_vec()),
            LIST_USE => done(self.admin.list_use(data)),
            CAP_ID_LIST_QUERY => Ok((1u64 << DEV_PARTS_CAP).to_le_bytes().to_vec()),
            DEVICE_CAP_GET => match data.u16(0) {
                DEV_PARTS_CAP => Ok(vec![PARTS_OBJECTS_MAX; 2]),
                _ => Err(Refusal::Enxio),
            },
            DRIVER_CAP_SET => done(self.admin.driver_cap_set(data)),
            RESOURCE_OBJ_CREATE => done(self.admin.resource_obj_create(data)),
            RESOURCE_OBJ_MODIFY => done(self.admin.resource_obj_modify(data)),
            RESOURCE_OBJ_QUERY => self.admin.resource_obj_query(data),
            RESOURCE_OBJ_DESTROY => done(self.admin.resource_obj_destroy(data)),
            DEV_PARTS_METADATA_GET => self.dev_parts_metadata_get(data, room),
            DEV_PARTS_GET => self.dev_parts_get(data),
            DEV_PARTS_SET => done(self.dev_parts_set(data)),
            DEV_MODE_SET => done(self.dev_mode_set(data.u8(0))),
            _ => Err(Refusal::InvalidOpcode),
        }
    }

    /// Stops or resumes the device. Rings that were set up meanwhile start when it resumes.
    fn dev_mode_set(&mut self, flags: u8) -> Result<(), Refusal> {
        if flags & !MODE_STOPPED != 0 {
            return Err(Refusal::InvalidField);
        }
        let stopped = flags & MODE_STOPPED != 0;
        if stopped == self.admin.stopped {
            return Ok(());
        }
        self.admin.stopped = stopped;
        self.steps.push(Step::DeviceMode);
        if !stopped {
            for (index, queue) in (0..).zip(&self.queues) {
                if queue.is_wanted() && !queue.running {
                    self.steps.push(Step::Queue(index));
                }
            }
        }
        Ok(())
    }
}

/// The result of a command that has none.
fn done(result: Result<(), Refusal>) -> Result<Vec<u8>, Refusal> {
    result.map(|()| Vec::new())
}

impl Admin {
    /// The commands that the driver will use: any of those supported.
    fn list_use(&mut self, list: Data<'_>) -> Result<(), Refusal> {
        let (used, rest) = (list.u64(0), list.after(8).0);
        if used & !SUPPORTED != 0 || rest.iter().any(|byte| *byte != 0) {
            return Err(Refusal::InvalidField);
        }
        self.used = used;
        Ok(())
    }

    /// `struct virtio_dev_parts_cap`: up to what the device has, while there are no objects.
    fn driver_cap_set(&mut self, data: Data<'_>) -> Result<(), Refusal> {
        if data.u16(0) != DEV_PARTS_CAP {
            return Err(Refusal::Enxio);
        }
        let limits = data.array::<2>(8);
        if limits.iter().any(|limit| *limit > PARTS_OBJECTS_MAX) {
            return Err(Refusal::InvalidField);
        }
        if !self.objects.is_empty() {
            return Err(Refusal::Ebusy);
        }
        self.limits = limits;
        Ok(())
    }

    /// Ids of both purposes share one range.
    fn resource_obj_create(&mut self, data: Data<'_>) -> Result<(), Refusal> {
        let id = data.u32(4);
        let purpose = purpose(data)?;
        if id >= self.limits.iter().map(|limit| u32::from(*limit)).sum() {
            return Err(Refusal::InvalidField);
        }
        if self.objects.iter().any(|(other, _)| *other == id) {
            return Err(Refusal::Eexist);
        }
        self.has_room(purpose)?;
        self.objects.push((id, purpose));
        Ok(())
    }

    fn resource_obj_modify(&mut self, data: Data<'_>) -> Result<(), Refusal> {
        let purpose = purpose(data)?;
        let place = self.place(data)?;
        if self.objects[place].1 != purpose {
            self.has_room(purpose)?;
            self.objects[place].1 = purpose;
        }
        Ok(())
    }

    fn resource_obj_query(&self, data: Data<'_>) -> Result<Vec<u8>, Refusal> {
        let (_, purpose) = self.objects[self.place(data)?];
        Ok([purpose as u8, 0, 0, 0, 0, 0, 0, 0].to_vec())
    }

    fn resource_obj_destroy(&mut self, data: Data<'_>) -> Result<(), Refusal> {
        let place = self.place(data)?;
        self.objects.remove(place);
        Ok(())
    }

    /// What the object that a `struct virtio_admin_cmd_resource_obj_cmd_hdr` names is for.
    pub(super) fn object(&self, data: Data<'_>) -> Result<Purpose, Refusal> {
        self.place(data).map(|place| self.objects[place].1)
    }

    fn place(&self, data: Data<'_>) -> Result<usize, Refusal> {
        let known = data.u16(0) == DEV_PARTS_OBJECT;
        let mut ids = self.objects.iter().map(|(id, _)| *id);
        ids.position(|id| known && id == data.u32(4)).ok_or(Refusal::Enxio)
    }

    fn has_room(&self, purpose: Purpose) -> Result<(), Refusal> {
        let count = self.objects.iter().filter(|(_, other)| *other == purpose).count();
        if count < usize::from(self.limits[purpose as usize]) { Ok(()) } else { Err(Refusal::Enospc) }
    }
}

/// `struct virtio_resource_obj_dev_parts` behind header and flags.
fn purpose(data: Data<'_>) -> Result<Purpose, Refusal> {
    let (object, flags) = (data.u16(0), data.u64(8));
    match data.u8(16) {
        0 if object == DEV_PARTS_OBJECT && flags == 0 => Ok(Purpose::Get),
        1 if object == DEV_PARTS_OBJECT && flags == 0 => Ok(Purpose::Set),
        _ => Err(Refusal::InvalidField),
    }
}
