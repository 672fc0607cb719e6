//! Register accesses: `REGION_READ`, `REGION_WRITE`, `REGION_WRITE_MULTI`.

use super::info::space;
use super::message::{ACCESS_SIZE, DATA_MAX, Fields, MULTI_WRITE_SIZE, Payload};
use super::session::{Reply, Session};
use super::{Command, Refusal};
use crate::pci::Space;

/// Data of one write in `REGION_WRITE_MULTI` at most, in bytes.
const MULTI_DATA_MAX: u32 = 8;

/// The writes of a `REGION_WRITE_MULTI` that were not carried out yet: each is one register access, and its effects are
/// finished before the next.
#[derive(Debug)]
pub(super) struct Writes {
    payload: Vec<u8>,
    at: usize,
    left: usize,
}

/// Where an access goes.
#[derive(Clone, Copy, Debug)]
struct Access {
    offset: u64,
    region: u32,
    count: u32,
}

impl Access {
    fn parse(payload: &[u8]) -> Self {
        let mut fields = Fields(payload);
        Self { offset: fields.u64(), region: fields.u32(), count: fields.u32() }
    }

    fn emit(self) -> Payload {
        Payload::default().u64(self.offset).u32(self.region).u32(self.count)
    }
}

impl Session {
    /// `REGION_READ`.
    pub(super) fn region_read(&mut self, payload: &[u8]) -> Result<Reply, Refusal> {
        let access = Access::parse(payload);
        let space = self.inside(Command::RegionRead, access)?;
        let mut reply = access.emit().0;
        // Bounded by the region's length, and that by the largest message.
        reply.resize(ACCESS_SIZE + access.count as usize, 0);
        self.function.read(space, access.offset, &mut reply[ACCESS_SIZE..]);
        Ok(Reply::of(reply))
    }

    /// `REGION_WRITE`.
    pub(super) fn region_write(&mut self, payload: &[u8]) -> Result<Reply, Refusal> {
        let access = Access::parse(payload);
        let data = payload.get(ACCESS_SIZE..).unwrap_or(&[]);
        self.write(Command::RegionWrite, access, data)?;
        Ok(Reply::of(access.emit().0))
    }

    /// `REGION_WRITE_MULTI`: what has to be written.
    pub(super) fn region_write_multi(&self, payload: Vec<u8>) -> Result<Writes, Refusal> {
        let command = Command::RegionWriteMulti;
        let count = Fields(&payload).u64();
        let size = payload.len() - 8;
        if count > (size / MULTI_WRITE_SIZE) as u64 {
            return Err(Refusal::DataSize { command, count, size });
        }
        Ok(Writes { payload, at: 8, left: count as usize })
    }

    /// Carries out the next of several writes; `None`: there is none.
    pub(super) fn next_write(&mut self, writes: &mut Writes) -> Option<Result<(), Refusal>> {
        writes.left = writes.left.checked_sub(1)?;
        let write = writes.payload.get(writes.at..)?.get(..MULTI_WRITE_SIZE)?;
        writes.at += MULTI_WRITE_SIZE;
        let access = Access::parse(write);
        let command = Command::RegionWriteMulti;
        let data = &write[ACCESS_SIZE..];
        let Some(data) = data.get(..access.count.min(MULTI_DATA_MAX + 1) as usize) else {
            let (count, size) = (access.count.into(), data.len());
            return Some(Err(Refusal::DataSize { command, count, size }));
        };
        Some(self.write(command, access, data))
    }

    fn write(&mut self, command: Command, access: Access, data: &[u8]) -> Result<(), Refusal> {
        let space = self.inside(command, access)?;
        if data.len() != access.count as usize {
            let (count, size) = (access.count.into(), data.len());
            return Err(Refusal::DataSize { command, count, size });
        }
        self.function.write(space, access.offset, data);
        Ok(())
    }

    /// What is accessed, if all of it lies inside a region.
    fn inside(&self, command: Command, access: Access) -> Result<Space, Refusal> {
        let Access { offset, region, count } = access;
        let len = self.region_len(region);
        let inside = offset.checked_add(count.into()).is_some_and(|end| end <= len);
        match space(region) {
            Some(space) if inside && count > 0 && count as usize <= DATA_MAX => Ok(space),
            _ => Err(Refusal::RegionRange { command, region, offset, count, len }),
        }
    }
}
