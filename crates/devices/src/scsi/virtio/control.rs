//! The control queue: task management functions and subscriptions to notifications (virtio 1.3 §5.6.6.2).

use super::address::Address;
use crate::scsi::data::Bytes;
use crate::scsi::task_set::{Function, Response};
use virtqueue::Endian;

const TMF: u32 = 0;
const AN_QUERY: u32 = 1;
const AN_SUBSCRIBE: u32 = 2;

const TMF_LEN: usize = 24;
const AN_LEN: usize = 16;

/// The `response` byte of a control request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ControlResponse {
    /// Done; of a function: FUNCTION COMPLETE.
    Ok = 0,
    /// There is no such target.
    BadTarget = 3,
    /// The request is none that there is.
    Failure = 9,
    /// FUNCTION SUCCEEDED.
    FunctionSucceeded = 10,
    /// There is no such function.
    FunctionRejected = 11,
    /// The target has no such unit.
    IncorrectLun = 12,
}

impl From<Response> for ControlResponse {
    fn from(response: Response) -> Self {
        match response {
            Response::Complete => Self::Ok,
            Response::Succeeded => Self::FunctionSucceeded,
        }
    }
}

/// A request on the control queue. Whether there is a unit at its address is for the device to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlRequest {
    /// A task management function. Answered with [`respond_function`].
    Function {
        /// Which.
        function: Function,
        /// About whom; of I_T NEXUS RESET only the target counts.
        address: Address,
    },
    /// Which of these events the unit can report. Answered with [`respond_notifications`].
    AnQuery {
        /// The unit.
        address: Address,
        /// Events, one bit each.
        requested: u32,
    },
    /// The driver wants to be told of these events. Answered with [`respond_notifications`].
    AnSubscribe {
        /// The unit.
        address: Address,
        /// Events, one bit each.
        requested: u32,
    },
    /// One that is answered at once: with [`respond_function`] where `len` is 1, else with [`respond_notifications`].
    Refused {
        /// The answer.
        response: ControlResponse,
        /// Bytes of the device-writable part.
        len: u8,
    },
}

/// Reads a request, once. `endian` is big only for a legacy big-endian driver.
pub fn open(readable: Bytes<'_>, endian: Endian) -> ControlRequest {
    let mut bytes = [0; TMF_LEN];
    let len = readable.read(0, &mut bytes);
    let word = |at: usize| {
        let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        match endian {
            Endian::Little => u32::from_le_bytes(word),
            Endian::Big => u32::from_be_bytes(word),
        }
    };
    let lun = |at: usize| bytes[at..].first_chunk().and_then(Address::parse);
    match word(0) {
        TMF if len >= TMF_LEN => {
            let tag = match endian {
                Endian::Little => u64::from(word(20)) << 32 | u64::from(word(16)),
                Endian::Big => u64::from(word(16)) << 32 | u64::from(word(20)),
            };
            match (function(word(4), tag), lun(8)) {
                (None, _) => refused(ControlResponse::FunctionRejected, 1),
                (_, None) => refused(ControlResponse::BadTarget, 1),
                (Some(function), Some(address)) => ControlRequest::Function { function, address },
            }
        }
        kind @ (AN_QUERY | AN_SUBSCRIBE) if len >= AN_LEN => match lun(4) {
            None => refused(ControlResponse::BadTarget, 5),
            Some(address) if kind == AN_QUERY => ControlRequest::AnQuery { address, requested: word(12) },
            Some(address) => ControlRequest::AnSubscribe { address, requested: word(12) },
        },
        AN_QUERY | AN_SUBSCRIBE => refused(ControlResponse::Failure, 5),
        _ => refused(ControlResponse::Failure, 1),
    }
}

fn refused(response: ControlResponse, len: u8) -> ControlRequest {
    ControlRequest::Refused { response, len }
}

fn function(subtype: u32, tag: u64) -> Option<Function> {
    Some(match subtype {
        0 => Function::AbortTask { tag },
        1 => Function::AbortTaskSet,
        2 => Function::ClearAca,
        3 => Function::ClearTaskSet,
        4 => Function::NexusReset,
        5 => Function::UnitReset,
        6 => Function::QueryTask { tag },
        7 => Function::QueryTaskSet,
        _ => return None,
    })
}

/// Writes the answer to a function; returns the bytes written: none where there is no room.
pub fn respond_function(writable: Bytes<'_>, response: ControlResponse) -> u32 {
    writable.write(0, &[response as u8]) as u32
}

/// Writes the answer to a query or a subscription, `actual` being the events that the unit can report; returns the bytes
/// written: none where there is no room for all.
pub fn respond_notifications(
    writable: Bytes<'_>,
    endian: Endian,
    actual: u32,
    response: ControlResponse,
) -> u32 {
    let [a, b, c, d] = match endian {
        Endian::Little => actual.to_le_bytes(),
        Endian::Big => actual.to_be_bytes(),
    };
    if writable.len() < 5 {
        return 0;
    }
    writable.write(0, &[a, b, c, d, response as u8]) as u32
}

/// Events of which a driver is told because it asked to be, by unit (virtio 1.3 §5.6.6.2, `VIRTIO_SCSI_T_AN_SUBSCRIBE`).
#[derive(Clone, Debug, Default)]
pub struct Subscriptions {
    units: Vec<(Address, u32)>,
}

/// Units that one driver can subscribe to at most.
pub const SUBSCRIPTIONS_MAX: usize = 256;

impl Subscriptions {
    /// The driver wants these events of a unit that can report `supported`; returns those that it will be told: none if there are
    /// [`SUBSCRIPTIONS_MAX`] other units already. They take the place of those it wanted before.
    pub fn subscribe(&mut self, address: Address, requested: u32, supported: u32) -> u32 {
        let actual = requested & supported;
        self.units.retain(|(unit, _)| *unit != address);
        if actual == 0 || self.units.len() == SUBSCRIPTIONS_MAX {
            return 0;
        }
        self.units.push((address, actual));
        actual
    }

    /// Which of these events of a unit the driver wants to be told.
    pub fn wanted(&self, address: Address, events: u32) -> u32 {
        self.units.iter().find(|(unit, _)| *unit == address).map_or(0, |(_, wanted)| wanted & events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guestmem::MemSlice;

    const UNIT: Address = Address::Unit { target: 4, lun: 5 };

    fn opened(bytes: &[u8], endian: Endian) -> ControlRequest {
        let mut bytes = bytes.to_vec();
        let pieces: Vec<MemSlice<'_>> = bytes.chunks_mut(3).map(MemSlice::from_mut).collect();
        open(Bytes::Slices(&pieces), endian)
    }

    fn tmf(subtype: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, subtype, 0, 0, 0];
        bytes.extend_from_slice(&UNIT.bytes());
        bytes.extend_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
        bytes
    }

    #[test]
    fn all_eight_functions() {
        let tag = 0x0102_0304_0506_0708;
        let functions = [
            Function::AbortTask { tag },
            Function::AbortTaskSet,
            Function::ClearAca,
            Function::ClearTaskSet,
            Function::NexusReset,
            Function::UnitReset,
            Function::QueryTask { tag },
            Function::QueryTaskSet,
        ];
        for (subtype, function) in functions.into_iter().enumerate() {
            let request = opened(&tmf(subtype as u8), Endian::Little);
            assert_eq!(request, ControlRequest::Function { function, address: UNIT });
        }
        let rejected = ControlRequest::Refused { response: ControlResponse::FunctionRejected, len: 1 };
        assert_eq!(opened(&tmf(8), Endian::Little), rejected);
        let mut big = tmf(0);
        big[4..8].copy_from_slice(&[0, 0, 0, 6]);
        let function = Function::QueryTask { tag: tag.swap_bytes() };
        assert_eq!(opened(&big, Endian::Big), ControlRequest::Function { function, address: UNIT });
    }

    #[test]
    fn notifications() {
        let mut bytes = vec![1, 0, 0, 0];
        bytes.extend_from_slice(&UNIT.bytes());
        bytes.extend_from_slice(&[0x10, 0, 0, 0]);
        let (address, requested) = (UNIT, 0x10);
        assert_eq!(opened(&bytes, Endian::Little), ControlRequest::AnQuery { address, requested });
        bytes[0] = 2;
        assert_eq!(opened(&bytes, Endian::Little), ControlRequest::AnSubscribe { address, requested });
        let refused = |response, len| ControlRequest::Refused { response, len };
        assert_eq!(opened(&bytes[..15], Endian::Little), refused(ControlResponse::Failure, 5));
        bytes[4] = 9;
        assert_eq!(opened(&bytes, Endian::Little), refused(ControlResponse::BadTarget, 5));
        bytes[0] = 3;
        assert_eq!(opened(&bytes, Endian::Little), refused(ControlResponse::Failure, 1));
        assert_eq!(opened(&tmf(0)[..23], Endian::Little), refused(ControlResponse::Failure, 1));
        assert_eq!(opened(&[], Endian::Little), refused(ControlResponse::Failure, 1));
    }

    #[test]
    fn answers_need_room() {
        let mut room = [0xEE; 6];
        let mut write = |len: usize, actual| {
            let slice = [MemSlice::from_mut(&mut room[..len])];
            respond_notifications(Bytes::Slices(&slice), Endian::Little, actual, ControlResponse::Ok)
        };
        assert_eq!((write(4, 1), write(6, 0x10)), (0, 5));
        assert_eq!(room, [0x10, 0, 0, 0, 0, 0xEE]);
        assert_eq!(respond_function(Bytes::EMPTY, ControlResponse::Ok), 0);
        assert_eq!(
            respond_function(Bytes::Slices(&[MemSlice::from_mut(&mut room)]), Response::Succeeded.into()),
            1
        );
        assert_eq!(room[0], 10);
    }

    #[test]
    fn subscriptions() {
        let mut subscriptions = Subscriptions::default();
        assert_eq!(subscriptions.subscribe(UNIT, 0x1C, 0x14), 0x14);
        assert_eq!(
            (subscriptions.wanted(UNIT, 0xFF), subscriptions.wanted(Address::ReportLuns, 0xFF)),
            (0x14, 0)
        );
        assert_eq!(subscriptions.subscribe(UNIT, 0x08, 0x14), 0);
        assert_eq!(subscriptions.wanted(UNIT, 0xFF), 0);
        for lun in 0..SUBSCRIPTIONS_MAX as u16 {
            assert_eq!(subscriptions.subscribe(Address::Unit { target: 0, lun }, 4, 4), 4);
        }
        assert_eq!(subscriptions.subscribe(UNIT, 4, 4), 0);
    }
}
