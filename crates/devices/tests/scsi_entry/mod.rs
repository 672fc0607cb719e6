//! What the fuzz targets `scsi_cdb` and `scsi_request` run, so that tests can run it too.
#![allow(dead_code, reason = "each fuzz target uses one entry")]

#[path = "../scsi_rig/mod.rs"]
pub(crate) mod scsi_rig;

use devices::scsi::virtio::{Acknowledged, Features, Format, Offered, ScsiConfig, control, request};
use devices::scsi::{Bytes, Cdb, Status, missing_unit};
use devices::storage::{Failure, IoFault};
use guestmem::MemSlice;
use scsi_rig::{Rig, disk};
use virtqueue::Endian;

const BLOCKS: u64 = 128;
const ROOM: [usize; 8] = [0, 8, 36, 255, 512, 4096, 20_000, 1 << 16];

/// Bytes in front of each command: initiator and room, data length, what fails.
pub(crate) const COMMAND_LEN: usize = 4 + 16;

/// `bytes` is a list of commands, each of them a word on how, a CDB, and data.
///
/// Whatever comes ends with a status or an overrun, moves no more than there is room for, asks the disk only for what
/// is on it (the rig sees to that), and leaves reservations that hold together.
pub(crate) fn scsi_cdb(bytes: &[u8]) {
    let mut rig = Rig::of(disk(BLOCKS));
    let mut rest = bytes;
    while let Some((command, tail)) = rest.split_first_chunk::<COMMAND_LEN>() {
        let [how, len_low, len_high, fails, cdb @ ..] = *command;
        let len = usize::from(u16::from_le_bytes([len_low, len_high]));
        let (data, tail) = tail.split_at(len.min(tail.len()));
        rest = tail;
        // Long data without long inputs.
        let mut sent = data.to_vec();
        if how & 0x10 != 0 {
            sent.resize(1 << 16, *data.last().unwrap_or(&0));
        }
        let room = ROOM[usize::from(how >> 1 & 7)];
        let fault = [IoFault::Medium, IoFault::NoSpace, IoFault::OutOfRange, IoFault::Aborted]
            [usize::from(fails & 3)];
        let failure = Failure { fault, done: u64::from(fails) * 100 };
        rig.fails = (fails & 0x80 != 0).then_some((rig.works.len() + usize::from(fails >> 2 & 7), failure));
        let (reply, received) = rig.run_from(usize::from(how & 1), &cdb, &sent, room);
        assert_eq!(received.len() as u64, reply.data_in);
        assert_eq!(reply.status == Some(Status::CheckCondition), reply.sense.is_some());
        assert!(reply.sense_bytes().1 <= 28);
        let reservations = rig.unit.reservations();
        if let Some(reservation) = reservations.reservation {
            assert!(!reservations.registrations.is_empty());
            assert!(reservation.kind as u8 > 6 || reservations.holds(reservation.holder));
        }
        rig.works.clear();
        rig.fails = None;
        let placed = missing_unit(&Cdb::new(&cdb), room as u64, &[0, 3], &mut Vec::new());
        assert!(placed.data_in as usize <= room);
    }
}

/// Bytes in front of a chain: features, sizes, cut, room.
pub(crate) const REQUEST_PREFIX_LEN: usize = 6;

/// `bytes` is a prefix and the readable part of a chain, for the request queue and for the control queue.
///
/// Whatever comes is refused, or has its parts inside the chain; an answer is never longer than the chain, and never writes
/// behind its used length.
pub(crate) fn scsi_request(bytes: &[u8]) {
    let Some((prefix, chain)) = bytes.split_first_chunk::<REQUEST_PREFIX_LEN>() else { return };
    let [flags, sense_size, cdb_size, cut, room_low, room_high] = *prefix;
    let acknowledged =
        Acknowledged::new(Offered::new(Features::all()), u64::from(flags & 0x0F)).unwrap_or_default();
    let size = |byte: u8| if byte == 0xFF { u32::MAX } else { u32::from(byte) };
    let config =
        ScsiConfig { sense_size: size(sense_size), cdb_size: size(cdb_size), ..ScsiConfig::new(1, 1) };
    let endian = if flags & 0x10 == 0 { Endian::Little } else { Endian::Big };
    let format = Format::new(acknowledged, endian, &config);
    let mut memory = chain.to_vec();
    let mut room = vec![0xEE; usize::from(u16::from_le_bytes([room_low, room_high]))];
    let (readable_len, writable_len) = (memory.len() as u32, room.len() as u32);
    let cut = usize::from(cut).max(1);
    let readable: Vec<MemSlice<'_>> = memory.chunks_mut(cut).map(MemSlice::from_mut).collect();
    let _ = control::open(Bytes::Slices(&readable), endian);
    let writable: Vec<MemSlice<'_>> = room.chunks_mut(cut).map(MemSlice::from_mut).collect();
    let place = Bytes::Slices(&writable);
    let written = match request::open_parts(format, Bytes::Slices(&readable), readable_len, writable_len) {
        Err(fault) => fault.respond(format, place),
        Ok(request) => {
            let end = |run: request::Run| run.offset.checked_add(run.len).unwrap();
            assert_eq!((end(request.data_out), end(request.data_in)), (readable_len, writable_len));
            assert_eq!(
                (end(request.pi_out), end(request.pi_in)),
                (request.data_out.offset, request.data_in.offset)
            );
            let mut answer = Vec::new();
            let reply = missing_unit(&request.cdb, request.data_in.len.into(), &[1], &mut answer);
            let written = request.respond(place, &reply, &answer);
            assert_eq!(
                u64::from(written),
                u64::from(request.pi_in.offset)
                    + if reply.data_in > 0 { u64::from(request.pi_in.len) + reply.data_in } else { 0 }
            );
            written
        }
    };
    assert!(written <= writable_len);
    assert!(room[written as usize..].iter().all(|&byte| byte == 0xEE));
}
