//! A request queue's requests: header, data, answer (virtio 1.3 §5.6.6.1).
//!
//! A chain's readable part is header, CDB, protection information and data-out, its writable part header, sense data, protection
//! information and data-in, each right behind the other and cut into descriptors in any way.

use super::address::Address;
use super::config::ScsiConfig;
use super::features::{Acknowledged, Features};
use crate::scsi::data::{Bytes, DataOut};
use crate::scsi::opcode::{CDB_LEN_MAX, Cdb};
use crate::scsi::reply::Reply;
use crate::scsi::sense::SENSE_LEN_MAX;
use crate::scsi::status::Status;
use crate::scsi::task_set::Ending;
use guestmem::{GuestMemory, KeptRuns, Part};
use std::sync::Arc;
use virtqueue::{Burst, Chain, Endian};

/// `lun`, `id`, `task_attr`, `prio`, `crn`.
const HEADER_LEN: usize = 19;
/// With `pi_bytesout` and `pi_bytesin`.
const PI_HEADER_LEN: usize = 27;
/// `sense_len` to `response`.
const RESPONSE_LEN: usize = 12;

/// The `response` byte of a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ServiceResponse {
    /// There is a status.
    Ok = 0,
    /// The CDB asks to move more than there are buffers for.
    Overrun = 1,
    /// A task management function has aborted it.
    Aborted = 2,
    /// There is no such target.
    BadTarget = 3,
    /// A reset has ended it.
    Reset = 4,
    /// Trying again is likely to work.
    Busy = 5,
    /// The way to the target is broken.
    TransportFailure = 6,
    /// The target fails, on every path.
    TargetFailure = 7,
    /// The target fails, on this path.
    NexusFailure = 8,
    /// The request is not one.
    Failure = 9,
}

/// How one driver's requests are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    endian: Endian,
    cdb_size: u32,
    sense_size: u32,
    has_pi: bool,
    both_directions: bool,
}

impl Format {
    /// The layout that features and configuration say. `endian` is the byte order of a legacy driver; one with VERSION_1 is
    /// little-endian.
    ///
    /// With T10_PI the two lengths stand before the CDB, where Linux (driver and vhost-scsi) has them; the text of the
    /// specification has them behind it, and no driver does.
    pub fn new(acknowledged: Acknowledged, endian: Endian, config: &ScsiConfig) -> Self {
        Self {
            endian: if acknowledged.has(Features::VERSION_1) { Endian::Little } else { endian },
            cdb_size: config.cdb_size,
            sense_size: config.sense_size,
            has_pi: acknowledged.has(Features::T10_PI),
            both_directions: acknowledged.has(Features::INOUT),
        }
    }

    fn word(self, bytes: [u8; 4]) -> u32 {
        match self.endian {
            Endian::Little => u32::from_le_bytes(bytes),
            Endian::Big => u32::from_be_bytes(bytes),
        }
    }

    fn emit(self, word: u32) -> [u8; 4] {
        match self.endian {
            Endian::Little => word.to_le_bytes(),
            Endian::Big => word.to_be_bytes(),
        }
    }

    /// Bytes before protection information and data in the writable part.
    fn response_len(self) -> u64 {
        RESPONSE_LEN as u64 + u64::from(self.sense_size)
    }
}

/// Why a chain is no request.
///
/// It is completed all the same, with what [`RequestFault::respond`] wrote: a driver that erred in one request has not broken the
/// ring, and a device that stopped there would take every disk away from the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestFault {
    /// The readable part ends before the CDB does, or before the protection information that it claims.
    #[error("the device-readable part ends inside of the request's header")]
    Readable,
    /// The writable part ends before the sense data does, or before the protection information that it claims.
    #[error("the device-writable part ends before the data")]
    Writable,
    /// There is data in both directions, and INOUT was not negotiated.
    #[error("data in both directions; accepted with INOUT")]
    BothDirections,
}

impl RequestFault {
    /// Writes VIRTIO_SCSI_S_FAILURE into the chain; returns the bytes written: none where there is no room for the `response` byte.
    pub fn respond(self, format: Format, writable: Bytes<'_>) -> u32 {
        if writable.len() < RESPONSE_LEN {
            return 0;
        }
        put_response(format, writable, 0, 0, ServiceResponse::Failure, &[])
    }
}

/// A run of bytes in one part of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// First byte.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// A request, in private memory but for its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whom it addresses; `None`: nobody that there can be, so [`ServiceResponse::BadTarget`].
    pub address: Option<Address>,
    /// `id`: the driver's name for it, for task management.
    pub tag: u64,
    /// `task_attr`, `prio` and `crn`, as they came. All tasks count as SIMPLE, which the specification allows.
    pub attributes: [u8; 3],
    /// The CDB.
    pub cdb: Cdb,
    /// Protection information for data-out, in the readable part.
    pub pi_out: Run,
    /// Data-out, in the readable part.
    pub data_out: Run,
    /// Room for protection information of data-in, in the writable part.
    pub pi_in: Run,
    /// Room for data-in, in the writable part.
    pub data_in: Run,
    format: Format,
}

/// Reads a request out of its chain, once.
///
/// # Errors
/// The chain is no request.
#[inline]
pub fn open(format: Format, burst: &Burst<'_>, chain: &Chain) -> Result<Request, RequestFault> {
    open_parts(format, burst.readable(chain).into(), chain.readable_len(), chain.writable_len())
}

/// As [`open`], of a chain with this readable part and so many bytes in each of its parts.
pub fn open_parts(
    format: Format,
    readable: Bytes<'_>,
    readable_len: u32,
    writable_len: u32,
) -> Result<Request, RequestFault> {
    let header_len = if format.has_pi { PI_HEADER_LEN } else { HEADER_LEN };
    let mut bytes = [0; PI_HEADER_LEN + CDB_LEN_MAX];
    let wanted = header_len + CDB_LEN_MAX.min(format.cdb_size as usize);
    let read = readable.read(0, &mut bytes[..wanted]);
    let (header, cdb) = bytes.split_at(header_len);
    let (pi_out_len, pi_in_len) = match header[HEADER_LEN..] {
        [a, b, c, d, e, f, g, h] => (format.word([a, b, c, d]), format.word([e, f, g, h])),
        _ => (0, 0),
    };
    let after_cdb = header_len as u64 + u64::from(format.cdb_size);
    let (pi_out, data_out) = runs(after_cdb, pi_out_len, readable_len).ok_or(RequestFault::Readable)?;
    let (pi_in, data_in) =
        runs(format.response_len(), pi_in_len, writable_len).ok_or(RequestFault::Writable)?;
    if read < wanted {
        return Err(RequestFault::Readable);
    }
    if data_out.len > 0 && data_in.len > 0 && !format.both_directions {
        return Err(RequestFault::BothDirections);
    }
    let mut tag = [0; 8];
    tag.copy_from_slice(&header[8..16]);
    let tag = match format.endian {
        Endian::Little => u64::from_le_bytes(tag),
        Endian::Big => u64::from_be_bytes(tag),
    };
    Ok(Request {
        address: header.first_chunk().and_then(Address::parse),
        tag,
        attributes: [header[16], header[17], header[18]],
        cdb: Cdb::new(&cdb[..wanted - header_len]),
        pi_out,
        data_out,
        pi_in,
        data_in,
        format,
    })
}

/// Protection information and data behind the first `before` bytes of a part; `None` when it ends earlier.
fn runs(before: u64, pi_len: u32, part_len: u32) -> Option<(Run, Run)> {
    let pi = Run { offset: u32::try_from(before).ok()?, len: pi_len };
    let offset = pi.offset.checked_add(pi_len)?;
    Some((pi, Run { offset, len: part_len.checked_sub(offset)? }))
}

/// Where the parts of a request are in a list of kept runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts {
    /// Everything that the device reads.
    pub readable: Part,
    /// Everything that the device writes: for [`Request::respond`].
    pub writable: Part,
    /// Data-out alone, for a disk that reads it.
    pub data_out: Part,
    /// Data-in alone, for a disk that writes it.
    pub data_in: Part,
}

impl Request {
    /// Keeps the buffers of the request for longer than its chain is at hand; `None` where they are not of `memory`.
    pub fn keep(
        &self,
        memory: &Arc<GuestMemory>,
        burst: &Burst<'_>,
        chain: &Chain,
        runs: &mut KeptRuns,
    ) -> Option<Parts> {
        let (readable, writable) = (burst.readable(chain), burst.writable(chain));
        let (data_out, data_in) = (self.data_out, self.data_in);
        Some(Parts {
            readable: runs.keep(memory, readable, 0, usize::MAX)?,
            writable: runs.keep(memory, writable, 0, usize::MAX)?,
            data_out: runs.keep(memory, readable, data_out.offset as usize, data_out.len as usize)?,
            data_in: runs.keep(memory, writable, data_in.offset as usize, data_in.len as usize)?,
        })
    }

    /// The data-out buffer, in the readable part of the request's chain.
    pub fn data_out<'a>(&self, readable: Bytes<'a>) -> DataOut<'a> {
        DataOut::new(readable, self.data_out.offset as usize, self.data_out.len.into())
    }

    /// Writes the answer to a command into the writable part of its chain; returns the bytes written, for completing it.
    ///
    /// `answer` is what the unit made for the data-in buffer; of a command that read blocks the buffer holds them already, and
    /// `answer` is empty. Protection information of data that was read is made of ones: a unit has none, and drivers do not check
    /// what is marked so (SBC-3 §4.22.2.2, application tag FFFFh).
    pub fn respond(&self, writable: Bytes<'_>, reply: &Reply, answer: &[u8]) -> u32 {
        let Some(status) = reply.status else { return self.fail(writable, ServiceResponse::Overrun) };
        let (sense, sense_len) = reply.sense_bytes();
        let data_in = reply.data_in.min(self.data_in.len.into()) as u32;
        let moved = reply.data_out.min(self.data_out.len.into()) + u64::from(data_in);
        let head = (status as u8, ServiceResponse::Ok);
        let written =
            put_response(self.format, writable, self.residual(moved), head.0, head.1, &sense[..sense_len]);
        if data_in == 0 {
            return written;
        }
        writable.write(self.data_in.offset as usize, &answer[..answer.len().min(data_in as usize)]);
        writable.fill(self.pi_in.offset as usize, self.pi_in.len as usize, 0xFF);
        self.data_in.offset + data_in
    }

    /// Writes the answer to a command that a task management function has ended; returns the bytes written.
    pub fn respond_ended(&self, writable: Bytes<'_>, ending: Ending) -> u32 {
        let (status, response) = match ending {
            Ending::Aborted => (0, ServiceResponse::Aborted),
            Ending::TaskAborted => (Status::TaskAborted as u8, ServiceResponse::Ok),
            Ending::Reset => (0, ServiceResponse::Reset),
        };
        put_response(self.format, writable, self.residual(0), status, response, &[])
    }

    /// Writes that the command was not carried out at all; returns the bytes written.
    pub fn fail(&self, writable: Bytes<'_>, response: ServiceResponse) -> u32 {
        put_response(self.format, writable, self.residual(0), 0, response, &[])
    }

    /// What is left of the data, of both directions together.
    fn residual(&self, moved: u64) -> u32 {
        let all = u64::from(self.data_out.len) + u64::from(self.data_in.len);
        u32::try_from(all.saturating_sub(moved)).unwrap_or(u32::MAX)
    }
}

/// Writes header and sense data, and zeros up to `sense_size`; returns the bytes written.
fn put_response(
    format: Format,
    writable: Bytes<'_>,
    residual: u32,
    status: u8,
    response: ServiceResponse,
    sense: &[u8],
) -> u32 {
    let mut bytes = [0; RESPONSE_LEN + SENSE_LEN_MAX];
    let sense = &sense[..sense.len().min(format.sense_size as usize)];
    bytes[..4].copy_from_slice(&format.emit(sense.len() as u32));
    bytes[4..8].copy_from_slice(&format.emit(residual));
    bytes[10] = status;
    bytes[11] = response as u8;
    bytes[RESPONSE_LEN..RESPONSE_LEN + sense.len()].copy_from_slice(sense);
    let len = RESPONSE_LEN + SENSE_LEN_MAX.min(format.sense_size as usize);
    let written = writable.write(0, &bytes[..len]) as u32;
    // A driver may ask for more room than any sense data takes; the chain bounds it.
    let rest = format.sense_size.saturating_sub(SENSE_LEN_MAX as u32);
    written + writable.fill(len, rest as usize, 0) as u32
}
