//! Messages on the wire: header, commands with their accepted shapes, payload fields.
//!
//! A message is a header of 16 bytes (id `u16`, command `u16`, size of the whole message `u32`, flags `u32`, error `u32`) and
//! a payload; everything is little endian. What each command may carry stands in one table, [`Command::shape`].

use super::ClientFault;
use crate::framing;
use std::fmt;

/// Bytes of the header.
pub(super) const HEADER_SIZE: usize = 16;
/// Bytes of data in one message at most (`max_data_xfer_size`), ours and the client's.
pub const DATA_MAX: usize = 1 << 20;
/// The largest payload, in bytes: data behind the 16 bytes that say where it belongs.
pub(super) const PAYLOAD_MAX: usize = ACCESS_SIZE + DATA_MAX;
/// File descriptors that one message may carry (`max_msg_fds`); a client of QEMU's accepts no larger answer.
pub const FDS_MAX: usize = 16;

/// `offset`, `region`, `count` of a region access; `address`, `count` of a DMA message.
pub(super) const ACCESS_SIZE: usize = 16;
/// A write of `REGION_WRITE_MULTI`: as a region access, and 8 bytes of data.
pub(super) const MULTI_WRITE_SIZE: usize = 24;
/// `argsz` to `size` of `DMA_MAP`.
pub(super) const DMA_MAP_SIZE: usize = 32;
/// `argsz` to `size` of `DMA_UNMAP`.
pub(super) const DMA_UNMAP_SIZE: usize = 24;
/// `argsz` to `num_irqs` of `DEVICE_GET_INFO`.
pub(super) const DEVICE_INFO_SIZE: usize = 16;
/// `argsz` to `offset` of `DEVICE_GET_REGION_INFO`.
pub(super) const REGION_INFO_SIZE: usize = 32;
/// `argsz` to `count` of `DEVICE_GET_REGION_IO_FDS`.
pub(super) const IO_FDS_SIZE: usize = 16;
/// `argsz` to `count` of `DEVICE_GET_IRQ_INFO`.
pub(super) const IRQ_INFO_SIZE: usize = 16;
/// `argsz` to `count` of `DEVICE_SET_IRQS`.
pub(super) const IRQ_SET_SIZE: usize = 20;

const FLAG_TYPE: u32 = 0xf;
const TYPE_COMMAND: u32 = 0;
const TYPE_REPLY: u32 = 1;
const FLAG_NO_REPLY: u32 = 0x10;
const FLAG_ERROR: u32 = 0x20;

macro_rules! commands {
    ($($name:ident = $id:literal $text:literal, payload $payload:expr, fds $fds:expr;)*) => {
        /// A command of the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Command { $(
            #[doc = concat!("`", $text, "`")]
            $name = $id,
        )* }

        impl Command {
            /// Every command, by number.
            pub const ALL: &[Command] = &[$(Command::$name),*];

            /// The specification's name, without its prefix.
            pub const fn name(self) -> &'static str {
                match self { $(Command::$name => $text,)* }
            }

            pub(super) const fn shape(self) -> Shape {
                match self { $(
                    Command::$name => {
                        let (payload, fds): ((usize, usize), (usize, usize)) = ($payload, $fds);
                        Shape { payload, fds }
                    }
                )* }
            }
        }
    };
}

/// What a command may carry: payload bytes and fds (least, most).
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) payload: (usize, usize),
    pub(super) fds: (usize, usize),
}

const NONE: (usize, usize) = (0, 0);
const ANY: (usize, usize) = (0, PAYLOAD_MAX);
const FD_OR_NOT: (usize, usize) = (0, 1);
const FDS: (usize, usize) = (0, FDS_MAX);
/// Version numbers, and text for which the client may take its time; nobody needs more.
const VERSION: (usize, usize) = (4, 16 * 1024);
/// A question may come in the room that the client has for the answer; what follows its fields is not looked at.
const ROOM: usize = 64 * 1024;
const ACCESS: (usize, usize) = (ACCESS_SIZE, ACCESS_SIZE);
const DATA: (usize, usize) = (ACCESS_SIZE, PAYLOAD_MAX);

const fn exactly(size: usize) -> (usize, usize) {
    (size, size)
}

commands! {
    Version = 1 "VERSION", payload VERSION, fds NONE;
    DmaMap = 2 "DMA_MAP", payload exactly(DMA_MAP_SIZE), fds FD_OR_NOT;
    DmaUnmap = 3 "DMA_UNMAP", payload (DMA_UNMAP_SIZE, DMA_UNMAP_SIZE + 24), fds NONE;
    DeviceGetInfo = 4 "DEVICE_GET_INFO", payload (DEVICE_INFO_SIZE, ROOM), fds NONE;
    DeviceGetRegionInfo = 5 "DEVICE_GET_REGION_INFO", payload (REGION_INFO_SIZE, ROOM), fds NONE;
    DeviceGetRegionIoFds = 6 "DEVICE_GET_REGION_IO_FDS", payload (IO_FDS_SIZE, ROOM), fds NONE;
    DeviceGetIrqInfo = 7 "DEVICE_GET_IRQ_INFO", payload (IRQ_INFO_SIZE, ROOM), fds NONE;
    DeviceSetIrqs = 8 "DEVICE_SET_IRQS", payload (IRQ_SET_SIZE, IRQ_SET_SIZE + 4096), fds FDS;
    RegionRead = 9 "REGION_READ", payload ACCESS, fds NONE;
    RegionWrite = 10 "REGION_WRITE", payload DATA, fds NONE;
    DmaRead = 11 "DMA_READ", payload ANY, fds FDS;
    DmaWrite = 12 "DMA_WRITE", payload ANY, fds FDS;
    DeviceReset = 13 "DEVICE_RESET", payload NONE, fds NONE;
    DirtyPages = 14 "DIRTY_PAGES", payload ANY, fds FDS;
    RegionWriteMulti = 15 "REGION_WRITE_MULTI", payload (8, PAYLOAD_MAX), fds NONE;
    DeviceFeature = 16 "DEVICE_FEATURE", payload ANY, fds FDS;
    MigDataRead = 17 "MIG_DATA_READ", payload ANY, fds FDS;
    MigDataWrite = 18 "MIG_DATA_WRITE", payload ANY, fds FDS;
}

impl Command {
    /// The command with this number; `None`: there is none.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|command| *command as u16 == id)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which way a message goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Command {
        no_reply: bool,
        /// Flags that no command has.
        wrong_flags: u32,
    },
    /// Of a command of ours, with the client's errno if it failed.
    Reply { error: Option<u32> },
}

/// A header with which the stream can go on: its size is one that a message can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u16,
    /// The number as sent; it need not be a [`Command`].
    pub(super) command: u16,
    pub(super) kind: Kind,
    /// Bytes of payload that follow.
    pub(super) size: usize,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Self, ClientFault> {
        let mut fields = Fields(bytes);
        let (id, command) = (fields.u16(), fields.u16());
        let (size, flags, error) = (fields.u32(), fields.u32(), fields.u32());
        let payload = (size as usize).checked_sub(HEADER_SIZE).filter(|payload| *payload <= PAYLOAD_MAX);
        let payload = payload.ok_or(ClientFault::MessageSize { command, size })?;
        let kind = match flags & FLAG_TYPE {
            TYPE_COMMAND => Kind::Command {
                no_reply: flags & FLAG_NO_REPLY != 0,
                wrong_flags: flags & !(FLAG_TYPE | FLAG_NO_REPLY),
            },
            TYPE_REPLY => Kind::Reply { error: (flags & FLAG_ERROR != 0).then_some(error) },
            _ => return Err(ClientFault::MessageType { command, flags }),
        };
        Ok(Self { id, command, kind, size: payload })
    }
}

/// A whole message.
pub(super) type Message = framing::Message<Header>;

impl framing::Header for Header {
    const SIZE: usize = HEADER_SIZE;
    /// The longest message and what may follow it.
    const BUFFERED_MAX: usize = HEADER_SIZE + PAYLOAD_MAX + 64 * 1024;
    const FDS_MAX: usize = FDS_MAX;
    type Fault = ClientFault;

    fn parse_first(bytes: &[u8]) -> Option<Result<Self, ClientFault>> {
        bytes.first_chunk().map(Self::parse)
    }

    fn payload_size(&self) -> usize {
        self.size
    }

    fn flood(count: usize) -> ClientFault {
        ClientFault::Flood { count, most: Self::BUFFERED_MAX }
    }

    fn too_many_fds(count: usize) -> ClientFault {
        ClientFault::TooManyFds { count }
    }
}

/// The reply to the command of `header`, with this payload, header included.
pub(super) fn emit_reply(header: &Header, payload: &[u8]) -> Vec<u8> {
    emit(header.id, header.command, TYPE_REPLY, 0, &[payload])
}

/// The reply to a command that was refused: a header only.
pub(super) fn emit_error(header: &Header, errno: u32) -> Vec<u8> {
    emit(header.id, header.command, TYPE_REPLY | FLAG_ERROR, errno, &[])
}

/// A command of ours that wants a reply.
pub(super) fn emit_command(id: u16, command: Command, payload: &[&[u8]]) -> Vec<u8> {
    emit(id, command as u16, TYPE_COMMAND, 0, payload)
}

fn emit(id: u16, command: u16, flags: u32, error: u32, payload: &[&[u8]]) -> Vec<u8> {
    let size = HEADER_SIZE + payload.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&command.to_le_bytes());
    for word in [size as u32, flags, error] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    payload.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// Reads payload fields in order. The payload's size was checked: past its end there are only zeros.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
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

/// Writes payload fields in order.
#[derive(Default)]
pub(super) struct Payload(pub(super) Vec<u8>);

impl Payload {
    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u16, size: u32, flags: u32, error: u32) -> Result<Header, ClientFault> {
        let mut bytes = [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&command.to_le_bytes());
        for (place, word) in bytes[4..].chunks_mut(4).zip([size, flags, error]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Header::parse(&bytes)
    }

    #[test]
    fn sizes_that_no_message_has_are_named() {
        let most = (HEADER_SIZE + PAYLOAD_MAX) as u32;
        assert_eq!(header(9, 16, 0, 0).unwrap().size, 0);
        assert_eq!(header(9, most, 0, 0).unwrap().size, PAYLOAD_MAX);
        for size in [0, 15, most + 1, u32::MAX] {
            assert_eq!(header(9, size, 0, 0).unwrap_err(), ClientFault::MessageSize { command: 9, size });
        }
    }

    #[test]
    fn commands_and_replies_are_told_apart() {
        let kind = |flags| header(10, 16, flags, 95).unwrap().kind;
        assert_eq!(kind(0), Kind::Command { no_reply: false, wrong_flags: 0 });
        assert_eq!(kind(0x10), Kind::Command { no_reply: true, wrong_flags: 0 });
        assert_eq!(kind(0x8060), Kind::Command { no_reply: false, wrong_flags: 0x8060 });
        assert_eq!(kind(1), Kind::Reply { error: None });
        assert_eq!(kind(0x21), Kind::Reply { error: Some(95) });
        for flags in [2, 3, 0xf] {
            let fault = header(10, 16, flags, 0).unwrap_err();
            assert_eq!(fault, ClientFault::MessageType { command: 10, flags });
        }
    }

    #[test]
    fn every_command_fits_a_message() {
        for &command in Command::ALL {
            let Shape { payload, fds } = command.shape();
            assert!(payload.0 <= payload.1 && payload.1 <= PAYLOAD_MAX, "{command}");
            assert!(fds.0 <= fds.1 && fds.1 <= FDS_MAX, "{command}");
            assert_eq!(Command::from_id(command as u16), Some(command));
        }
        assert_eq!(Command::from_id(0), None);
        assert_eq!(Command::from_id(19), None);
    }

    #[test]
    fn what_is_emitted_parses() {
        let asked = header(9, 32, 0, 0).unwrap();
        let reply = emit_reply(&asked, &[1, 2, 3]);
        let parsed = Header::parse(reply.first_chunk().unwrap()).unwrap();
        assert_eq!((parsed.id, parsed.command, parsed.size), (7, 9, 3));
        assert_eq!(parsed.kind, Kind::Reply { error: None });
        let error = emit_error(&asked, 22);
        let parsed = Header::parse(error.first_chunk().unwrap()).unwrap();
        assert_eq!((error.len(), parsed.kind), (16, Kind::Reply { error: Some(22) }));
    }
}
