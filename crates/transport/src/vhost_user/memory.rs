//! The region table: `SET_MEM_TABLE`, `ADD_MEM_REG`, `REM_MEM_REG`.
//!
//! Every change makes a new immutable [`GuestMemory`] that shares the mappings of untouched regions.

use super::framing::Message;
use super::message::{Fields, REGION_SIZE, RegionMessage, TABLE_REGIONS_MAX};
use super::{FrontendFault, Request};
use guestmem::{DirtyLog, FrontendAddr, GuestAddr, GuestMemory, MapError, Mapping, Region};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Regions that `ADD_MEM_REG` may build up: what QEMU asks for on x86.
pub const MEM_SLOTS_MAX: usize = 509;

/// The regions known now.
#[derive(Debug, Default)]
pub(super) struct RegionTable {
    regions: Vec<Region>,
    memory: Arc<GuestMemory>,
}

impl RegionTable {
    pub(super) fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// `SET_MEM_TABLE`: the whole table anew.
    pub(super) fn replace(&mut self, message: Message) -> Result<(), FrontendFault> {
        let request = Request::SetMemTable;
        let mut fields = Fields(&message.payload);
        let (count, _padding) = (fields.u32(), fields.u32());
        let size = message.payload.len();
        if count as usize > TABLE_REGIONS_MAX || size != 8 + count as usize * REGION_SIZE {
            return Err(FrontendFault::RegionCount { count, size });
        }
        let count = count as usize;
        if message.fds.len() != count {
            let given = message.fds.len();
            return Err(FrontendFault::FdCount { request, count: given, least: count, most: count });
        }
        let regions = message
            .fds
            .iter()
            .map(|fd| map_region(request, &RegionMessage::parse(&mut fields), fd))
            .collect::<Result<Vec<_>, _>>()?;
        self.adopt(request, regions)
    }

    /// `ADD_MEM_REG`: one region more.
    pub(super) fn add(&mut self, message: &Message) -> Result<(), FrontendFault> {
        if self.regions.len() >= MEM_SLOTS_MAX {
            return Err(FrontendFault::RegionSlots { most: MEM_SLOTS_MAX });
        }
        let request = Request::AddMemReg;
        let described = single_region(message);
        let mut regions = self.regions.clone();
        for fd in &message.fds {
            regions.push(map_region(request, &described, fd)?);
        }
        self.adopt(request, regions)
    }

    /// `REM_MEM_REG`: the region with the same guest address, front-end address and size goes. The file
    /// offset is not compared, and a descriptor that came along is only closed.
    pub(super) fn remove(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let described = single_region(message);
        let RegionMessage { guest, size, user, .. } = described;
        let same = |r: &Region| (r.guest().0, r.len(), r.frontend().0) == (guest, size, user);
        let unknown = FrontendFault::RegionUnknown { guest, user, size };
        let at = self.regions.iter().position(same).ok_or(unknown)?;
        let mut regions = self.regions.clone();
        regions.remove(at);
        self.adopt(Request::RemMemReg, regions)
    }

    fn adopt(&mut self, request: Request, regions: Vec<Region>) -> Result<(), FrontendFault> {
        let memory = GuestMemory::new(regions.clone());
        self.memory = Arc::new(memory.map_err(|fault| FrontendFault::Memory { request, fault })?);
        self.regions = regions;
        Ok(())
    }
}

/// `SET_LOG_BASE`: maps the dirty bitmap.
pub(super) fn map_log(message: &Message) -> Result<Option<DirtyLog>, FrontendFault> {
    let mut fields = Fields(&message.payload);
    let (len, offset) = (fields.u64(), fields.u64());
    let Some(fd) = message.fds.first() else { return Ok(None) };
    let mapping = map(Request::SetLogBase, fd, offset, len)?;
    Ok(Some(DirtyLog::new(Arc::new(mapping))))
}

fn single_region(message: &Message) -> RegionMessage {
    let mut fields = Fields(&message.payload);
    let _padding = fields.u64();
    RegionMessage::parse(&mut fields)
}

fn map_region(request: Request, region: &RegionMessage, fd: &OwnedFd) -> Result<Region, FrontendFault> {
    let mapping = map(request, fd, region.offset, region.size)?;
    let (guest, user) = (GuestAddr(region.guest), FrontendAddr(region.user));
    Region::new(guest, user, region.size, Arc::new(mapping))
        .map_err(|fault| FrontendFault::Memory { request, fault })
}

fn map(request: Request, fd: impl AsFd, offset: u64, len: u64) -> Result<Mapping, FrontendFault> {
    Mapping::file(fd, offset, len).map_err(|error| match error {
        MapError::Length { len, offset } => FrontendFault::MapLength { request, len, offset },
        MapError::FileTooSmall { need, size } => FrontendFault::MapFileTooSmall { request, need, size },
        MapError::Kernel(errno) => FrontendFault::MapRefused { request, errno: errno.raw_os_error() },
    })
}
