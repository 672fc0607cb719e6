//! Messages on the wire: header, requests with their accepted shapes, payload fields.
//!
//! A message is a header of 12 bytes (request, flags, payload size; each a `u32` in this machine's byte order)
//! and a payload. What each request may carry stands in one table, [`SHAPES`].

use super::in_flight::{DESCRIPTION_SIZE, DESCRIPTION_SIZE_PADDED};
use super::{FrontendFault, ProtocolFeatures};
use crate::framing;
use std::fmt;

/// Bytes of the header.
pub(super) const HEADER_SIZE: usize = 12;
/// Regions accepted in one `SET_MEM_TABLE`. The specification says 8; the `vhost` crate's front-end sends up
/// to 32.
pub(super) const TABLE_REGIONS_MAX: usize = 32;
/// File descriptors that one message may carry.
pub(super) const FDS_MAX: usize = TABLE_REGIONS_MAX;
/// Bytes of a region in `SET_MEM_TABLE`.
pub(super) const REGION_SIZE: usize = 32;
/// Bytes of the configuration space that a message can carry (`VHOST_USER_MAX_CONFIG_SIZE`).
pub const CONFIG_SIZE_MAX: usize = 256;
/// Bytes before the configuration in `GET_CONFIG` and `SET_CONFIG`.
pub(super) const CONFIG_HEADER_SIZE: usize = 12;
/// The largest payload that any request may have, in bytes.
pub(super) const PAYLOAD_MAX: usize = 8 + TABLE_REGIONS_MAX * REGION_SIZE;

/// `CONFIG_CHANGE`, a request of the back-end.
pub(super) const BACKEND_CONFIG_CHANGE: u32 = 2;

const VERSION_MASK: u32 = 0x3;
const VERSION: u32 = 0x1;
const FLAG_REPLY: u32 = 0x4;
const FLAG_NEED_REPLY: u32 = 0x8;

macro_rules! requests {
    ($($name:ident = $id:literal $text:literal, payload $payload:expr, fds $fds:expr, needs $needs:ident;)*) => {
        /// A request of the front-end that this back-end understands.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Request { $(
            #[doc = concat!("`", $text, "`")]
            $name = $id,
        )* }

        impl Request {
            /// Every request, by number.
            pub const ALL: &[Request] = &[$(Request::$name),*];

            /// The specification's name, without its prefix.
            pub const fn name(self) -> &'static str {
                match self { $(Request::$name => $text,)* }
            }

            pub(super) const fn shape(self) -> Shape {
                match self { $(
                    Request::$name => {
                        let (payload, fds): ((usize, usize), (usize, usize)) = ($payload, $fds);
                        Shape { payload, fds, needs: ProtocolFeatures::$needs }
                    }
                )* }
            }
        }
    };
}

/// What a request may carry: payload bytes and fds (least, most), and the protocol feature it needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) payload: (usize, usize),
    pub(super) fds: (usize, usize),
    pub(super) needs: ProtocolFeatures,
}

const NOTHING: (usize, usize) = (0, 0);
const ONE_FD: (usize, usize) = (1, 1);
const FD_OR_NOT: (usize, usize) = (0, 1);
const EMPTY: (usize, usize) = (0, 0);
const U64: (usize, usize) = (8, 8);
const VRING_STATE: (usize, usize) = (8, 8);
const VRING_ADDR: (usize, usize) = (40, 40);
const LOG: (usize, usize) = (16, 16);
const MEM_TABLE: (usize, usize) = (8, PAYLOAD_MAX);
const MEM_REGION: (usize, usize) = (8 + REGION_SIZE, 8 + REGION_SIZE);
const INFLIGHT: (usize, usize) = (DESCRIPTION_SIZE, DESCRIPTION_SIZE_PADDED);
const CONFIG: (usize, usize) = (CONFIG_HEADER_SIZE, CONFIG_HEADER_SIZE + CONFIG_SIZE_MAX);

impl ProtocolFeatures {
    /// No feature needed.
    const NONE: Self = Self::empty();
}

requests! {
    GetFeatures = 1 "GET_FEATURES", payload EMPTY, fds NOTHING, needs NONE;
    SetFeatures = 2 "SET_FEATURES", payload U64, fds NOTHING, needs NONE;
    SetOwner = 3 "SET_OWNER", payload EMPTY, fds NOTHING, needs NONE;
    ResetOwner = 4 "RESET_OWNER", payload EMPTY, fds NOTHING, needs NONE;
    SetMemTable = 5 "SET_MEM_TABLE", payload MEM_TABLE, fds (0, TABLE_REGIONS_MAX), needs NONE;
    SetLogBase = 6 "SET_LOG_BASE", payload LOG, fds ONE_FD, needs LOG_SHMFD;
    SetLogFd = 7 "SET_LOG_FD", payload EMPTY, fds ONE_FD, needs NONE;
    SetVringNum = 8 "SET_VRING_NUM", payload VRING_STATE, fds NOTHING, needs NONE;
    SetVringAddr = 9 "SET_VRING_ADDR", payload VRING_ADDR, fds NOTHING, needs NONE;
    SetVringBase = 10 "SET_VRING_BASE", payload VRING_STATE, fds NOTHING, needs NONE;
    GetVringBase = 11 "GET_VRING_BASE", payload VRING_STATE, fds NOTHING, needs NONE;
    SetVringKick = 12 "SET_VRING_KICK", payload U64, fds FD_OR_NOT, needs NONE;
    SetVringCall = 13 "SET_VRING_CALL", payload U64, fds FD_OR_NOT, needs NONE;
    SetVringErr = 14 "SET_VRING_ERR", payload U64, fds FD_OR_NOT, needs NONE;
    GetProtocolFeatures = 15 "GET_PROTOCOL_FEATURES", payload EMPTY, fds NOTHING, needs NONE;
    SetProtocolFeatures = 16 "SET_PROTOCOL_FEATURES", payload U64, fds NOTHING, needs NONE;
    GetQueueNum = 17 "GET_QUEUE_NUM", payload EMPTY, fds NOTHING, needs MQ;
    SetVringEnable = 18 "SET_VRING_ENABLE", payload VRING_STATE, fds NOTHING, needs NONE;
    SendRarp = 19 "SEND_RARP", payload U64, fds NOTHING, needs RARP;
    NetSetMtu = 20 "NET_SET_MTU", payload U64, fds NOTHING, needs MTU;
    SetBackendReqFd = 21 "SET_BACKEND_REQ_FD", payload EMPTY, fds ONE_FD, needs BACKEND_REQ;
    GetConfig = 24 "GET_CONFIG", payload CONFIG, fds NOTHING, needs CONFIG;
    SetConfig = 25 "SET_CONFIG", payload CONFIG, fds NOTHING, needs CONFIG;
    GetInflightFd = 31 "GET_INFLIGHT_FD", payload INFLIGHT, fds NOTHING, needs INFLIGHT_SHMFD;
    SetInflightFd = 32 "SET_INFLIGHT_FD", payload INFLIGHT, fds ONE_FD, needs INFLIGHT_SHMFD;
    ResetDevice = 34 "RESET_DEVICE", payload EMPTY, fds NOTHING, needs RESET_DEVICE;
    GetMaxMemSlots = 36 "GET_MAX_MEM_SLOTS", payload EMPTY, fds NOTHING, needs CONFIGURE_MEM_SLOTS;
    AddMemReg = 37 "ADD_MEM_REG", payload MEM_REGION, fds ONE_FD, needs CONFIGURE_MEM_SLOTS;
    RemMemReg = 38 "REM_MEM_REG", payload MEM_REGION, fds FD_OR_NOT, needs CONFIGURE_MEM_SLOTS;
    SetStatus = 39 "SET_STATUS", payload U64, fds NOTHING, needs STATUS;
    GetStatus = 40 "GET_STATUS", payload EMPTY, fds NOTHING, needs STATUS;
}

impl Request {
    /// Whether the request has an answer of its own, so that it is never acknowledged besides.
    pub(super) fn has_reply(self) -> bool {
        use Request::*;
        matches!(
            self,
            GetFeatures
                | GetProtocolFeatures
                | GetQueueNum
                | GetVringBase
                | SetLogBase
                | GetConfig
                | GetInflightFd
                | GetMaxMemSlots
                | GetStatus
        )
    }

    fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|request| *request as u32 == id)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A header that was checked against its request's shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) request: Request,
    pub(super) need_reply: bool,
    /// Bytes of payload that follow.
    pub(super) size: usize,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Self, FrontendFault> {
        let mut fields = Fields(bytes);
        let (id, flags, size) = (fields.u32(), fields.u32(), fields.u32());
        if flags & VERSION_MASK != VERSION || flags & FLAG_REPLY != 0 {
            return Err(FrontendFault::HeaderFlags { id, flags });
        }
        let request = Request::from_id(id).ok_or(FrontendFault::UnknownRequest { id })?;
        let (least, most) = request.shape().payload;
        if (size as usize) < least || size as usize > most {
            return Err(FrontendFault::PayloadSize { request, size, least, most });
        }
        Ok(Self { request, need_reply: flags & FLAG_NEED_REPLY != 0, size: size as usize })
    }
}

/// A whole request.
pub(super) type Message = framing::Message<Header>;

impl Message {
    /// The request has as many descriptors as it can.
    pub(super) fn check_fds(&self) -> Result<(), FrontendFault> {
        let (request, count) = (self.header.request, self.fds.len());
        let (least, most) = request.shape().fds;
        if count < least || count > most {
            return Err(FrontendFault::FdCount { request, count, least, most });
        }
        Ok(())
    }
}

impl framing::Header for Header {
    const SIZE: usize = HEADER_SIZE;
    const BUFFERED_MAX: usize = 64 * 1024;
    const FDS_MAX: usize = FDS_MAX;
    type Fault = FrontendFault;

    fn parse_first(bytes: &[u8]) -> Option<Result<Self, FrontendFault>> {
        bytes.first_chunk().map(Self::parse)
    }

    fn payload_size(&self) -> usize {
        self.size
    }

    fn flood(count: usize) -> FrontendFault {
        FrontendFault::Flood { count, most: Self::BUFFERED_MAX }
    }

    fn too_many_fds(count: usize) -> FrontendFault {
        FrontendFault::TooManyFds { count }
    }
}

/// A reply to `request` with this payload, header included.
pub(super) fn emit_reply(request: Request, payload: &[u8]) -> Vec<u8> {
    emit(request as u32, VERSION | FLAG_REPLY, payload)
}

/// A request of the back-end that asks for no reply.
pub(super) fn emit_backend_request(id: u32) -> Vec<u8> {
    emit(id, VERSION, &[])
}

fn emit(id: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_SIZE + payload.len());
    for word in [id, flags, payload.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads payload fields in order. The payload's size was checked: past its end there are only zeros.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }

    /// What was not read yet.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else { return [0; N] };
        self.0 = rest;
        *field
    }
}

/// `index` and `num` of a vring message.
#[derive(Clone, Copy, Debug)]
pub(super) struct VringState {
    pub(super) index: u32,
    pub(super) num: u32,
}

impl VringState {
    pub(super) fn parse(payload: &[u8]) -> Self {
        let mut fields = Fields(payload);
        Self { index: fields.u32(), num: fields.u32() }
    }

    pub(super) fn emit(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.index.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.num.to_ne_bytes());
        bytes
    }
}

/// A region as a message describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RegionMessage {
    pub(super) guest: u64,
    pub(super) size: u64,
    pub(super) user: u64,
    /// Where the region begins in its file, in bytes.
    pub(super) offset: u64,
}

impl RegionMessage {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Self {
        Self { guest: fields.u64(), size: fields.u64(), user: fields.u64(), offset: fields.u64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(id: u32, flags: u32, size: u32) -> Result<Header, FrontendFault> {
        let mut bytes = [0; HEADER_SIZE];
        for (place, word) in bytes.chunks_mut(4).zip([id, flags, size]) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        Header::parse(&bytes)
    }

    #[test]
    fn every_request_accepts_its_least_and_most_and_nothing_outside() {
        for &request in Request::ALL {
            let (least, most) = request.shape().payload;
            assert!(most <= PAYLOAD_MAX, "{request}");
            for size in [least, most] {
                let parsed = header(request as u32, 0x1, size as u32).unwrap();
                assert_eq!((parsed.request, parsed.need_reply, parsed.size), (request, false, size));
            }
            for size in [most as u32 + 1, u32::MAX].into_iter().chain(least.checked_sub(1).map(|s| s as u32))
            {
                let refused = header(request as u32, 0x9, size).unwrap_err();
                assert_eq!(refused, FrontendFault::PayloadSize { request, size, least, most });
            }
        }
    }

    #[test]
    fn a_descriptor_too_many_or_too_few_is_named() {
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        for &request in Request::ALL {
            let (least, most) = request.shape().fds;
            for count in 0..most + 2 {
                let header = Header { request, need_reply: false, size: 0 };
                let fds = (0..count).map(|_| null()).collect();
                let checked = Message { header, payload: Vec::new(), fds }.check_fds();
                let named = FrontendFault::FdCount { request, count, least, most };
                let expected = if (least..=most).contains(&count) { Ok(()) } else { Err(named) };
                assert_eq!(checked, expected);
            }
        }
    }

    #[test]
    fn header_flags_and_unknown_requests_are_named() {
        assert!(header(1, 0x9, 0).unwrap().need_reply);
        for flags in [0x0, 0x2, 0x3, 0x5] {
            assert_eq!(header(1, flags, 0).unwrap_err(), FrontendFault::HeaderFlags { id: 1, flags });
        }
        // Among them everything whose protocol feature is never offered: IOTLB, endianness, crypto, postcopy,
        // GPU socket, in-band kick, shared objects, device state.
        for id in [0, 22, 23, 26, 27, 28, 29, 30, 33, 35, 41, 42, 43, 44, 45, u32::MAX] {
            assert_eq!(header(id, 0x1, 0).unwrap_err(), FrontendFault::UnknownRequest { id });
        }
    }

    #[test]
    fn fields_past_the_end_are_zero() {
        let mut fields = Fields(&[1, 0, 0, 0, 9]);
        assert_eq!(fields.u32(), u32::from_ne_bytes([1, 0, 0, 0]));
        assert_eq!(fields.u64(), 0);
        assert_eq!(fields.rest(), [9]);
    }
}
