//! A client of vfio-user for one function of our own: as much of a VMM as a driver in this process needs.
//!
//! It has one command on its way at a time and waits for the reply, but for posted writes, which never get one. What the
//! server says is taken as it is: both ends are this program.

use super::ram::Ram;
use anyhow::{Context, Result, bail, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use virtqueue::QueueSetup;

/// How long the server may take to listen.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of a message's header: id, command, size, flags, error.
const HEADER_LEN: usize = 16;
const NO_REPLY: u32 = 0x10;
const REPLY: u32 = 1;

const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DEVICE_GET_REGION_INFO: u16 = 5;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;

/// The region of the configuration space, and its bytes that hold capabilities.
const CONFIG: u32 = 7;
const CONFIG_LEN: usize = 256;
/// Where the list of capabilities begins (PCI 3.0 §6.7), and the vendor's kind of capability.
const CAPABILITIES: usize = 0x34;
const VENDOR: u8 = 9;
/// `cfg_type` of common configuration and doorbells (virtio 1.4 §4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;

/// Fields of the common configuration (virtio 1.4 §4.1.4.3).
mod common {
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_DESC: u64 = 0x20;
}

/// Status up to FEATURES_OK, and with DRIVER_OK (virtio 1.4 §2.1).
const FEATURES_OK: u8 = 1 | 2 | 8;
const DRIVER_OK: u8 = FEATURES_OK | 4;

/// A place in one of the function's regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    pub(crate) region: u32,
    /// In bytes.
    pub(crate) offset: u64,
}

impl Register {
    fn at(self, more: u64) -> Self {
        Self { offset: self.offset + more, ..self }
    }
}

/// A connection whose version is agreed.
pub(crate) struct Client {
    stream: UnixStream,
    next_id: u16,
}

impl Client {
    /// Connects to the function behind `socket`, waiting for a server that does not listen yet.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(fault) if Instant::now() >= deadline => {
                    return Err(fault).with_context(|| format!("connecting to {}", socket.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut client = Self { stream, next_id: 0 };
        let version = [&[0; 4][..], br#"{"capabilities":{"max_msg_fds":16}}"#, &[0]].concat();
        client.ask(VERSION, &version, None).context("VERSION")?;
        Ok(client)
    }

    /// Brings the function up with one queue, `index`, and VERSION_1 alone: its doorbell.
    ///
    /// # Errors
    /// A function that refuses: no such queue, no features, no memory.
    pub(crate) fn bring_up(&mut self, ram: &Ram, index: u16, setup: &QueueSetup) -> Result<Register> {
        let (file, base, len) = ram.shared();
        let map = [&[32, 0, 0, 0, 3, 0, 0, 0][..], &u64s(&[0, base.0, len])].concat();
        self.ask(DMA_MAP, &map, Some(file)).context("DMA_MAP")?;
        let (common, _) = self.capability(COMMON)?;
        let status = common.at(common::STATUS);
        for step in [0, 1, 3] {
            self.write(status, &[step])?;
        }
        // VERSION_1 is bit 32, the first one of the second word.
        for (select, word) in [(0u32, 0u32), (1, 1)] {
            self.write(common.at(common::DRIVER_FEATURE_SELECT), &select.to_le_bytes())?;
            self.write(common.at(common::DRIVER_FEATURE), &word.to_le_bytes())?;
        }
        self.write(status, &[FEATURES_OK])?;
        ensure!(self.read::<1>(status)? == [FEATURES_OK], "the function refuses FEATURES_OK");
        self.write(common.at(common::QUEUE_SELECT), &index.to_le_bytes())?;
        self.write(common.at(common::QUEUE_SIZE), &setup.size.get().to_le_bytes())?;
        for (area, address) in (0..).zip([setup.desc, setup.driver, setup.device]) {
            let low = common.at(common::QUEUE_DESC + 8 * area);
            self.write(low, &(address.0 as u32).to_le_bytes())?;
            self.write(low.at(4), &((address.0 >> 32) as u32).to_le_bytes())?;
        }
        self.write(common.at(common::QUEUE_ENABLE), &1u16.to_le_bytes())?;
        self.write(status, &[DRIVER_OK])?;
        let ready = self.read::<1>(status)?;
        ensure!(ready == [DRIVER_OK], "status {ready:?} after DRIVER_OK");
        let off = u16::from_le_bytes(self.read(common.at(common::QUEUE_NOTIFY_OFF))?);
        let (notify, capability) = self.capability(NOTIFY)?;
        // notify_off_multiplier (virtio 1.4 §4.1.4.4).
        let multiplier = capability.get(16..20).and_then(|word| word.first_chunk::<4>());
        let multiplier = u32::from_le_bytes(*multiplier.context("no notify_off_multiplier")?);
        Ok(notify.at(u64::from(off) * u64::from(multiplier)))
    }

    /// The descriptor behind the region of all doorbells and where in it they begin, if the server lets them be mapped.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn doorbell_file(&mut self) -> Result<(OwnedFd, u64)> {
        let (notify, _) = self.capability(NOTIFY)?;
        let mut question = [0; 32];
        question[..4].copy_from_slice(&4096u32.to_le_bytes());
        question[8..12].copy_from_slice(&notify.region.to_le_bytes());
        let (info, fds) =
            self.ask(DEVICE_GET_REGION_INFO, &question, None).context("DEVICE_GET_REGION_INFO")?;
        let start = info.get(24..32).and_then(|word| word.first_chunk::<8>());
        let start = u64::from_le_bytes(*start.context("a short region info")?);
        let file = fds.into_iter().next().context("the doorbells cannot be mapped")?;
        Ok((file, start + notify.offset))
    }

    /// The place of one `cfg_type`, and the capability itself.
    fn capability(&mut self, cfg_type: u8) -> Result<(Register, Vec<u8>)> {
        let config = self.read::<CONFIG_LEN>(Register { region: CONFIG, offset: 0 })?;
        let mut at = usize::from(config[CAPABILITIES]);
        // Each takes four bytes at least.
        for _ in 0..CONFIG_LEN / 4 {
            let Some(capability) = config.get(at..at + 16).filter(|_| at != 0) else { break };
            if (capability[0], capability[3]) == (VENDOR, cfg_type) {
                let offset =
                    u32::from_le_bytes([capability[8], capability[9], capability[10], capability[11]]);
                let place = Register { region: u32::from(capability[4]), offset: u64::from(offset) };
                return Ok((place, config[at..].to_vec()));
            }
            at = usize::from(capability[1]);
        }
        bail!("no virtio capability of type {cfg_type}")
    }

    /// Reads a register.
    pub(crate) fn read<const LEN: usize>(&mut self, register: Register) -> Result<[u8; LEN]> {
        let (reply, _) = self.ask(REGION_READ, &access(register, LEN), None).context("REGION_READ")?;
        let data = reply.get(HEADER_LEN..).and_then(|data| data.first_chunk::<LEN>());
        data.copied().context("a short read")
    }

    /// Writes a register and waits until that is carried out.
    pub(crate) fn write(&mut self, register: Register, data: &[u8]) -> Result<()> {
        let payload = [&access(register, data.len())[..], data].concat();
        self.ask(REGION_WRITE, &payload, None).context("REGION_WRITE").map(drop)
    }

    /// The message of a posted write, to be sent with [`Self::post`].
    pub(crate) fn posted(register: Register, data: &[u8]) -> Vec<u8> {
        let payload = [&access(register, data.len())[..], data].concat();
        [&header(0, REGION_WRITE, NO_REPLY, payload.len())[..], &payload].concat()
    }

    /// Sends a posted write: one `sendmsg`, nothing else.
    pub(crate) fn post(&mut self, message: &[u8]) -> Result<()> {
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(message)],
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL,
        )?;
        ensure!(sent == message.len(), "{sent} bytes of a message sent");
        Ok(())
    }

    /// Sends a command and waits for its reply: payload and descriptors.
    fn ask(
        &mut self,
        command: u16,
        payload: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        self.next_id = self.next_id.wrapping_add(1);
        let message = [&header(self.next_id, command, 0, payload.len())[..], payload].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() {
            ensure!(control.push(SendAncillaryMessage::ScmRights(&fds)), "no room for a descriptor");
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
        self.stream.write_all(&message[sent..])?;
        self.reply(command)
    }

    fn reply(&mut self, command: u16) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut head = [0; HEADER_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
        let got = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut head)], &mut control, flags)?;
        ensure!(got.bytes == HEADER_LEN, "the server closed the connection");
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (size, flags, error) = (word(4) as usize, word(8), word(12));
        ensure!(u16::from_le_bytes([head[0], head[1]]) == self.next_id, "the reply to another command");
        ensure!(flags == REPLY, "command {command} is refused with errno {error}");
        let len = size.checked_sub(HEADER_LEN).filter(|len| *len <= 1 << 16).context("size of a reply")?;
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload)?;
        Ok((payload, fds))
    }
}

fn header(id: u16, command: u16, flags: u32, payload: usize) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..2].copy_from_slice(&id.to_le_bytes());
    header[2..4].copy_from_slice(&command.to_le_bytes());
    header[4..8].copy_from_slice(&((HEADER_LEN + payload) as u32).to_le_bytes());
    header[8..12].copy_from_slice(&flags.to_le_bytes());
    header
}

fn access(register: Register, len: usize) -> Vec<u8> {
    let Register { region, offset } = register;
    [&offset.to_le_bytes()[..], &region.to_le_bytes(), &(len as u32).to_le_bytes()].concat()
}

fn u64s(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_posted_write_is_the_message_of_the_specification() {
        let doorbell = Register { region: 4, offset: 0x3004 };
        let expected = [
            0, 0, 10, 0, 34, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, // header
            4, 0x30, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, // offset, region, count
            1, 0, // data
        ];
        assert_eq!(Client::posted(doorbell, &1u16.to_le_bytes()), expected);
    }
}
