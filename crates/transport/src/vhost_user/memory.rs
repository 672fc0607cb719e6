//! The region table: `SET_MEM_TABLE`, `ADD_MEM_REG`, `REM_MEM_REG`.
//!
//! Every change makes a new immutable [`GuestMemory`] that shares the mappings of untouched regions. What a
//! session has mapped is counted by what somebody still holds ([`Mapped`]), not by the table: earlier tables
//! live on while the host moves rings, and for as long as a suspended ring stands in them.

use super::message::{Fields, Message, REGION_SIZE, RegionMessage, TABLE_REGIONS_MAX};
use super::{FrontendFault, Request};
use guestmem::{DirtyLog, FrontendAddr, GuestAddr, GuestMemory, MapError, Mapping, Region};
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

/// Regions that `ADD_MEM_REG` may build up: what QEMU asks for on x86.
pub const MEM_SLOTS_MAX: usize = 509;

/// Bytes that one session may have mapped at once: regions, those of earlier tables that are still held, dirty
/// logs and records of what is in flight. All sessions share 128 TiB of addresses, and a sparse file costs a front-end nothing.
pub const MAPPED_MAX: u64 = 4 << 40;

/// Mappings that one session may hold at once: a table, its successor, and two of dirty logs or
/// of records of what is in flight. All sessions share what
/// the kernel allows (`vm.max_map_count`, by default 65,530).
pub const MAPPINGS_MAX: usize = 2 * (MEM_SLOTS_MAX + 1);

/// Bytes that a dirty log may be longer than the highest guest address needs: front-ends enlarge it before
/// they add memory, and more than [`MAPPED_MAX`] can never be added.
const LOG_SLACK: u64 = log_size(MAPPED_MAX);

/// Bytes of a log for guest addresses below `end`: one bit for each 4 KiB.
const fn log_size(end: u64) -> u64 {
    end.div_ceil(4096).div_ceil(8)
}

/// Every mapping of the session that somebody still holds.
#[derive(Debug, Default)]
struct Mapped(Vec<Weak<Mapping>>);

impl Mapped {
    fn map(
        &mut self,
        request: Request,
        fd: impl AsFd,
        offset: u64,
        len: u64,
    ) -> Result<Arc<Mapping>, FrontendFault> {
        self.0.retain(|mapping| mapping.strong_count() > 0);
        if self.0.len() >= MAPPINGS_MAX {
            return Err(FrontendFault::SessionMappings { request, most: MAPPINGS_MAX });
        }
        let mapped: u64 = self.0.iter().filter_map(Weak::upgrade).map(|mapping| mapping.len() as u64).sum();
        if len > MAPPED_MAX.saturating_sub(mapped) {
            return Err(FrontendFault::SessionMemory { request, len, mapped, most: MAPPED_MAX });
        }
        let mapping = Mapping::file(fd, offset, len).map_err(|error| match error {
            MapError::Length { len, offset } => FrontendFault::MapLength { request, len, offset },
            MapError::FileKind => FrontendFault::MapFileKind { request },
            MapError::FileSystem { magic } => FrontendFault::MapFileSystem { request, magic },
            MapError::FileTooSmall { need, size } => FrontendFault::MapFileTooSmall { request, need, size },
            MapError::Kernel(errno) => FrontendFault::MapRefused { request, errno: errno.raw_os_error() },
        })?;
        let mapping = Arc::new(mapping);
        self.0.push(Arc::downgrade(&mapping));
        Ok(mapping)
    }

    fn region(
        &mut self,
        request: Request,
        region: &RegionMessage,
        fd: impl AsFd,
    ) -> Result<Region, FrontendFault> {
        let mapping = self.map(request, fd, region.offset, region.size)?;
        let (guest, user) = (GuestAddr(region.guest), FrontendAddr(region.user));
        Region::new(guest, user, region.size, mapping)
            .map_err(|fault| FrontendFault::Memory { request, fault })
    }
}

/// The regions known now.
#[derive(Debug, Default)]
pub(super) struct RegionTable {
    regions: Vec<Region>,
    mapped: Mapped,
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
            .map(|fd| self.mapped.region(request, &RegionMessage::parse(&mut fields), fd))
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
            regions.push(self.mapped.region(request, &described, fd)?);
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

    /// Maps bytes of a file, which count as the session's.
    pub(super) fn map(
        &mut self,
        request: Request,
        fd: impl AsFd,
        offset: u64,
        len: u64,
    ) -> Result<Arc<Mapping>, FrontendFault> {
        self.mapped.map(request, fd, offset, len)
    }

    /// `SET_LOG_BASE`: maps the dirty bitmap.
    pub(super) fn map_log(&mut self, message: &Message) -> Result<Option<DirtyLog>, FrontendFault> {
        let mut fields = Fields(&message.payload);
        let (size, offset) = (fields.u64(), fields.u64());
        let Some(fd) = message.fds.first() else { return Ok(None) };
        let end = self.memory.regions().last().map_or(0, |region| region.guest().0 + region.len());
        let most = log_size(end) + LOG_SLACK;
        if size > most {
            return Err(FrontendFault::LogSize { size, most });
        }
        Ok(Some(DirtyLog::new(self.mapped.map(Request::SetLogBase, fd, offset, size)?)))
    }

    fn adopt(&mut self, request: Request, regions: Vec<Region>) -> Result<(), FrontendFault> {
        let memory = GuestMemory::new(regions.clone());
        self.memory = Arc::new(memory.map_err(|fault| FrontendFault::Memory { request, fault })?);
        self.regions = regions;
        Ok(())
    }
}

fn single_region(message: &Message) -> RegionMessage {
    let mut fields = Fields(&message.payload);
    let _padding = fields.u64();
    RegionMessage::parse(&mut fields)
}
