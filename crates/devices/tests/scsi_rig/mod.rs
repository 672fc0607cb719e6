//! A logical unit with a disk that is a `Vec`, and the host's part in driving it.
#![allow(dead_code, reason = "each test uses its own part")]

use devices::scsi::{
    Asc, Begun, Buffers, Cdb, Command, Data, DataOut, Disk, Identity, InitiatorId, LogicalUnit, Nexus,
    Provisioning, Reply, Reservations, SCRATCH_LEN, Sense, Status, Step, Task,
};
use devices::storage::{Extent, Failure, Limits, Outcome, Shape, Work};
use guestmem::MemSlice;

/// Bytes that the disk takes at once when it zeroes or unmaps.
pub(crate) const LIMIT: u64 = 16 << 10;

/// A disk of 512-byte blocks that can do everything.
pub(crate) fn disk(blocks: u64) -> Disk {
    let limits = Limits { len_max: LIMIT, extents_max: 4, alignment: 4096 };
    let shape = Shape {
        physical_block: 4096,
        discard: Some(limits),
        zero: Some(limits),
        zero_unmaps: true,
        ..Shape::plain(blocks * 512)
    };
    let identity = Identity::new("store/0", "");
    Disk { shape, identity, write_cache: true, is_rotating: false, atomic_len_max: 8192 }
}

/// The nexus of this index.
pub(crate) fn nexus(index: usize) -> Nexus {
    Nexus::new(index).unwrap()
}

/// A unit, its disk, and what was asked of that.
pub(crate) struct Rig {
    pub(crate) unit: LogicalUnit,
    pub(crate) bytes: Vec<u8>,
    /// Which blocks have a place on the disk.
    pub(crate) mapped: Vec<bool>,
    /// All work done, in order.
    pub(crate) works: Vec<Work>,
    /// Work number so many fails.
    pub(crate) fails: Option<(usize, Failure)>,
    pub(crate) luns: Vec<u16>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) answer: Vec<u8>,
}

impl Rig {
    /// A unit of so many blocks, with initiators 0 and 1 that have no unit attention left.
    pub(crate) fn new(blocks: u64) -> Self {
        Self::of(disk(blocks))
    }

    pub(crate) fn of(disk: Disk) -> Self {
        let len = disk.shape.capacity as usize;
        let blocks = disk.blocks() as usize;
        let mut unit = LogicalUnit::new(disk, &Reservations::default()).unwrap();
        for index in 0..2 {
            unit.attach(nexus(index), InitiatorId(0x100 + index as u64));
            assert_eq!(unit.take_attention(nexus(index)), Some(Asc::POWER_ON));
        }
        Self {
            unit,
            bytes: vec![0; len],
            mapped: vec![false; blocks],
            works: Vec::new(),
            fails: None,
            luns: vec![0],
            scratch: vec![0xEE; SCRATCH_LEN],
            answer: Vec::new(),
        }
    }

    /// Begins a command of initiator 0 and drives it to its end.
    pub(crate) fn run(&mut self, cdb: &[u8], data_out: &[u8], data_in_len: usize) -> (Reply, Vec<u8>) {
        self.run_from(0, cdb, data_out, data_in_len)
    }

    /// As [`Self::run`], of any initiator.
    pub(crate) fn run_from(
        &mut self,
        from: usize,
        cdb: &[u8],
        data_out: &[u8],
        data_in_len: usize,
    ) -> (Reply, Vec<u8>) {
        let mut sent = data_out.to_vec();
        // Buffers in odd pieces.
        let pieces: Vec<MemSlice<'_>> = sent.chunks_mut(777).map(MemSlice::from_mut).collect();
        let mut received = vec![0xEE; data_in_len];
        let luns = self.luns.clone();
        let command = Command {
            nexus: nexus(from),
            cdb: Cdb::new(cdb),
            data_out: DataOut::whole(&pieces),
            data_in_len: data_in_len as u64,
            luns: &luns,
        };
        let mut answer = std::mem::take(&mut self.answer);
        let reply = match self.unit.begin(&command, &mut answer) {
            Begun::Done(reply) => reply,
            Begun::Task(task) => self.drive(task, &command, &mut answer, &mut received),
        };
        received[..answer.len()].copy_from_slice(&answer);
        assert!(reply.data_in as usize <= data_in_len && reply.data_out as usize <= data_out.len());
        received.truncate(reply.data_in as usize);
        self.answer = answer;
        (reply, received)
    }

    fn drive(
        &mut self,
        mut task: Task,
        command: &Command<'_>,
        answer: &mut Vec<u8>,
        received: &mut [u8],
    ) -> Reply {
        let mut scratch = std::mem::take(&mut self.scratch);
        assert!(task.scratch_len() <= scratch.len());
        let mut buffers = Buffers { data_out: command.data_out, scratch: &mut scratch, answer };
        let mut step = task.start(&mut buffers);
        let reply = loop {
            step = match step {
                Step::Done(reply) => break reply,
                Step::Provisioning(extent) => {
                    let found = self.provisioning(extent);
                    task.resume_provisioning(Ok(found), &mut buffers)
                }
                Step::Work { work, data } => {
                    let outcome = self.work(&work, data, command, received, buffers.scratch);
                    self.works.push(work);
                    task.resume(outcome, &mut buffers)
                }
            };
        };
        self.unit.count_failure(&reply);
        self.scratch = scratch;
        reply
    }

    fn work(
        &mut self,
        work: &Work,
        data: Data,
        command: &Command<'_>,
        received: &mut [u8],
        scratch: &mut [u8],
    ) -> Outcome {
        if let Some((number, failure)) = self.fails
            && number == self.works.len()
        {
            return Err(failure);
        }
        let capacity = self.bytes.len() as u64;
        let range = |extent: &Extent| {
            assert!(extent.is_within(capacity) && extent.len > 0, "{work:?}");
            extent.offset as usize..extent.end() as usize
        };
        match work {
            Work::Read(extent) => {
                let bytes = &self.bytes[range(extent)];
                match data {
                    Data::In => received[..bytes.len()].copy_from_slice(bytes),
                    Data::Scratch => scratch[..bytes.len()].copy_from_slice(bytes),
                    _ => panic!("a read into {data:?}"),
                }
            }
            Work::Write { extent, .. } => {
                let range = range(extent);
                self.map(extent, true);
                let bytes = &mut self.bytes[range];
                match data {
                    Data::Out { offset } => assert_eq!(command.data_out.read(offset, bytes), bytes.len()),
                    Data::Scratch => bytes.copy_from_slice(&scratch[..bytes.len()]),
                    _ => panic!("a write from {data:?}"),
                }
            }
            Work::Flush => assert_eq!(data, Data::Nothing),
            Work::Zero { extents, unmap, .. } => {
                for extent in extents.as_slice() {
                    assert!(extent.len <= LIMIT);
                    let range = range(extent);
                    self.bytes[range].fill(0);
                    self.map(extent, !unmap);
                }
            }
            Work::Discard(extents) => {
                extents.as_slice().iter().for_each(|extent| self.map(extent, false));
            }
            _ => panic!("{work:?}: not a work of SCSI"),
        }
        Ok(())
    }

    fn map(&mut self, extent: &Extent, to: bool) {
        let block = u64::from(self.unit.disk().block());
        self.mapped[(extent.offset / block) as usize..(extent.end() / block) as usize].fill(to);
    }

    fn provisioning(&self, extent: Extent) -> Provisioning {
        let block = u64::from(self.unit.disk().block());
        let rest = &self.mapped[(extent.offset / block) as usize..(extent.end() / block) as usize];
        let alike = rest.iter().take_while(|one| **one == rest[0]).count();
        Provisioning { len: alike as u64 * block, is_mapped: rest[0] }
    }

    /// The command ends with GOOD; returns what came in.
    #[track_caller]
    pub(crate) fn good(&mut self, cdb: &[u8], data_out: &[u8], data_in_len: usize) -> Vec<u8> {
        let (reply, received) = self.run(cdb, data_out, data_in_len);
        assert_eq!((reply.status, reply.sense), (Some(Status::Good), None), "{cdb:02x?}");
        received
    }

    /// The command is refused with this sense data, and nothing was asked of the disk but what `works` says.
    #[track_caller]
    pub(crate) fn refused(&mut self, cdb: &[u8], data_out: &[u8], data_in_len: usize, sense: Sense) {
        let works = self.works.len();
        let (reply, received) = self.run(cdb, data_out, data_in_len);
        assert_eq!((reply.status, reply.sense), (Some(Status::CheckCondition), Some(sense)), "{cdb:02x?}");
        assert_eq!((reply.data_in, reply.data_out, received.len()), (0, 0, 0));
        assert_eq!(self.works.len(), works, "{cdb:02x?}: refused after work");
    }

    /// The buffers are too short for what the CDB asks to move.
    #[track_caller]
    pub(crate) fn overrun(&mut self, cdb: &[u8], data_out: &[u8], data_in_len: usize) {
        let works = self.works.len();
        let (reply, _) = self.run(cdb, data_out, data_in_len);
        assert_eq!((reply.status, self.works.len()), (None, works), "{cdb:02x?}");
    }

    #[track_caller]
    pub(crate) fn conflicts(&mut self, from: usize, cdb: &[u8], data_out: &[u8], data_in_len: usize) {
        let works = self.works.len();
        let (reply, _) = self.run_from(from, cdb, data_out, data_in_len);
        assert_eq!(
            (reply.status, self.works.len()),
            (Some(Status::ReservationConflict), works),
            "{cdb:02x?}"
        );
    }
}

/// A CDB of sixteen bytes with a block address and a length in blocks.
pub(crate) fn cdb16(code: u8, flags: u8, lba: u64, count: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (code, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&count.to_be_bytes());
    cdb
}

/// A CDB of ten bytes with a block address and a length in blocks.
pub(crate) fn cdb10(code: u8, flags: u8, lba: u32, count: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    (cdb[0], cdb[1]) = (code, flags);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&count.to_be_bytes());
    cdb
}

/// Bytes that differ from block to block and from one another.
pub(crate) fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512) as u8 ^ (at as u8).wrapping_mul(31) ^ seed).collect()
}
