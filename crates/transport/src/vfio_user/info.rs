//! What the device is: `DEVICE_GET_INFO`, `DEVICE_GET_REGION_INFO`, `DEVICE_GET_REGION_IO_FDS`.

use super::irqs::IRQS;
use super::message::{DEVICE_INFO_SIZE, Fields, IO_FDS_SIZE, Payload, REGION_INFO_SIZE};
use super::session::{Reply, Session};
use super::{Command, Refusal};
use crate::pci::{BarKind, Space};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Regions of a PCI device, by VFIO's numbers: 0 to 5 the BARs, 6 the ROM, 7 the configuration space, 8 VGA.
pub(super) const REGIONS: u32 = 9;
const CONFIG_REGION: u32 = 7;

const DEVICE_RESET: u32 = 1;
const DEVICE_PCI: u32 = 2;

const REGION_READ: u32 = 1;
const REGION_WRITE: u32 = 2;
const REGION_MMAP: u32 = 4;
const REGION_CAPS: u32 = 8;

/// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`, and its version.
const CAP_SPARSE_MMAP: u16 = 1;
const CAP_VERSION: u16 = 1;
/// One area of the sparse mmap capability with its heads: id, version, next; areas, reserved; offset, size.
const SPARSE_SIZE: usize = 8 + 8 + 16;

/// Bytes of a sub-region in `DEVICE_GET_REGION_IO_FDS`.
const IO_FD_SIZE: usize = 40;
const IO_FD_IOEVENTFD: u32 = 0;
/// `KVM_IOEVENTFD_FLAG_DATAMATCH`, `KVM_IOEVENTFD_FLAG_PIO`.
const IOEVENTFD_DATAMATCH: u32 = 1;
const IOEVENTFD_PIO: u32 = 2;

impl Session {
    /// `DEVICE_GET_INFO`.
    pub(super) fn device_get_info(&self, payload: &[u8]) -> Result<Reply, Refusal> {
        argsz(Command::DeviceGetInfo, payload, DEVICE_INFO_SIZE)?;
        let info = Payload::default().u32(DEVICE_INFO_SIZE as u32).u32(DEVICE_RESET | DEVICE_PCI);
        Ok(Reply::of(info.u32(REGIONS).u32(IRQS).0))
    }

    /// `DEVICE_GET_REGION_INFO`. A client whose room does not suffice for the capabilities learns how much they need, and
    /// that there are some; the file comes with the whole answer only.
    pub(super) fn device_get_region_info(&self, payload: &[u8]) -> Result<Reply, Refusal> {
        let command = Command::DeviceGetRegionInfo;
        let room = argsz(command, payload, REGION_INFO_SIZE)?;
        let index = region_index(command, payload)?;
        let len = self.region_len(index);
        let mut flags = if len == 0 { 0 } else { REGION_READ | REGION_WRITE };
        let area = self.mapped_area(index);
        let (mut size, mut capability) = (REGION_INFO_SIZE, 0);
        if area.is_some() {
            flags |= REGION_MMAP | REGION_CAPS;
            size += SPARSE_SIZE;
            // Past the fixed part also where the capability itself is left out.
            capability = REGION_INFO_SIZE as u32;
        }
        let info = Payload::default().u32(size as u32).u32(flags).u32(index).u32(capability);
        // Offset 0: the file's bytes are the region's.
        let info = info.u64(len).u64(0);
        match area {
            Some((area, file)) if room >= size => {
                let sparse = info.u16(CAP_SPARSE_MMAP).u16(CAP_VERSION).u32(0).u32(1).u32(0);
                let payload = sparse.u64(area.start).u64(area.end - area.start).0;
                Ok(Reply { payload, fds: vec![file] })
            }
            _ => Ok(Reply::of(info.0)),
        }
    }

    /// `DEVICE_GET_REGION_IO_FDS`: an ioeventfd for each doorbell, as many as the client takes descriptors; other queues'
    /// doorbells come as writes. None where the doorbells are mapped.
    pub(super) fn device_get_region_io_fds(&self, payload: &[u8]) -> Result<Reply, Refusal> {
        let command = Command::DeviceGetRegionIoFds;
        let room = argsz(command, payload, IO_FDS_SIZE)?;
        let index = region_index(command, payload)?;
        let mut fields = Fields(payload);
        let (_argsz, flags) = (fields.u32(), fields.u32());
        if flags != 0 {
            return Err(Refusal::Flags { command, flags, accepted: 0 });
        }
        let doorbells = self.doorbells(index);
        let size = IO_FDS_SIZE + doorbells.len() * IO_FD_SIZE;
        let whole = room >= size;
        let mut info = Payload::default().u32(size as u32).u32(0).u32(index).u32(doorbells.len() as u32);
        if !whole {
            return Ok(Reply::of(info.0));
        }
        let mut fds: Vec<Arc<OwnedFd>> = Vec::new();
        for Doorbell { offset, len, port, datamatch, kick } in doorbells {
            let known = fds.iter().position(|fd| Arc::ptr_eq(fd, &kick));
            let fd_index = known.unwrap_or(fds.len()) as u32;
            if known.is_none() {
                fds.push(kick);
            }
            let mut flags = if port { IOEVENTFD_PIO } else { 0 };
            if datamatch.is_some() {
                flags |= IOEVENTFD_DATAMATCH;
            }
            info = info.u64(offset).u64(len).u32(fd_index).u32(IO_FD_IOEVENTFD).u32(flags).u32(0);
            info = info.u64(datamatch.unwrap_or(0));
        }
        Ok(Reply { payload: info.0, fds })
    }

    /// Bytes of a region; 0: there is none.
    pub(super) fn region_len(&self, region: u32) -> u64 {
        match space(region) {
            Some(Space::Bar(bar)) => self.function.bar(bar).map_or(0, |bar| bar.len),
            Some(Space::Config) => self.function.config_len(),
            None => 0,
        }
    }

    /// The part of a region that the client may map, with the file it maps.
    fn mapped_area(&self, region: u32) -> Option<(std::ops::Range<u64>, Arc<OwnedFd>)> {
        let file = self.region_file.as_ref()?;
        let Some(Space::Bar(index)) = space(region) else { return None };
        let area = self.function.bar(index).and_then(|bar| bar.mappable)?;
        Some((area, Arc::clone(file)))
    }

    /// The doorbells in a region that an ioeventfd can stand for, at most as many as the client takes.
    fn doorbells(&self, region: u32) -> Vec<Doorbell> {
        let Some(Space::Bar(index)) = space(region) else { return Vec::new() };
        let Some(bar) = self.function.bar(index).filter(|_| self.region_file.is_none()) else {
            return Vec::new();
        };
        let most = self.client.map_or(0, |client| client.max_msg_fds);
        let bells = self.function.doorbells(index);
        let bells = bells.into_iter().filter(|bell| usize::from(bell.queue) < most);
        bells
            .filter_map(|bell| {
                let kick = Arc::clone(self.kicks.get(usize::from(bell.queue))?);
                let (offset, len, datamatch) = (bell.offset, bell.len, bell.datamatch);
                Some(Doorbell { offset, len, port: bar.kind == BarKind::Io, datamatch, kick })
            })
            .collect()
    }
}

/// What a region is; `None`: nothing.
pub(super) fn space(region: u32) -> Option<Space> {
    match region {
        0..=5 => Some(Space::Bar(region as u8)),
        CONFIG_REGION => Some(Space::Config),
        _ => None,
    }
}

/// A place that a driver writes to ring for a queue.
struct Doorbell {
    offset: u64,
    /// Bytes of the write; 0: any.
    len: u64,
    port: bool,
    /// What is written for this queue, where others have the same place.
    datamatch: Option<u64>,
    kick: Arc<OwnedFd>,
}

/// The room that the client has for the answer, in bytes.
fn argsz(command: Command, payload: &[u8], least: usize) -> Result<usize, Refusal> {
    let argsz = Fields(payload).u32();
    if (argsz as usize) < least {
        return Err(Refusal::Argsz { command, argsz, least });
    }
    Ok(argsz as usize)
}

fn region_index(command: Command, payload: &[u8]) -> Result<u32, Refusal> {
    let mut fields = Fields(payload);
    let (_argsz, _flags, index) = (fields.u32(), fields.u32(), fields.u32());
    if index < REGIONS { Ok(index) } else { Err(Refusal::RegionIndex { command, index }) }
}
