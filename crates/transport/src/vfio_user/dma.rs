//! Memory that is reached by messages: `DMA_READ`, `DMA_WRITE`, commands of the server's.
//!
//! A client carries them out under a lock that it also holds while it waits for a reply of ours. So none is sent while a
//! command is in hand: they go out behind its reply.

use super::ClientFault;
use super::message::{ACCESS_SIZE, Command, Header, Payload, emit_command};
use super::relay::{Move, Way};
use guestmem::GuestAddr;
use std::collections::VecDeque;
use thiserror::Error;

/// Accesses under way at most, those counted whose result was not taken yet.
pub const DMA_MAX: usize = 16;

/// An access that is finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DmaDone {
    /// What the access was called when it began.
    pub id: u16,
    /// The bytes read (none of a write), or the errno by which the client refused.
    pub result: Result<Vec<u8>, u32>,
}

/// Why an access does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs)] // the fields are named after what the message prints
pub enum DmaFault {
    #[error("{DMA_MAX} accesses by messages are under way")]
    Busy,
    #[error("{len} bytes in one access; accepted are 1 to {most}")]
    Len { len: usize, most: usize },
    #[error("{len} bytes at {address}: not inside one map of the client's that allows it")]
    Range { address: GuestAddr, len: usize },
}

/// What a relay's access is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    /// The ring.
    pub(super) index: u16,
    /// Which of those that the ring was.
    pub(super) serial: u64,
    pub(super) way: Way,
    pub(super) part: Move,
    /// How often the client's maps had changed when it began.
    pub(super) maps_before: u64,
}

/// An access whose reply is awaited.
#[derive(Debug)]
struct Awaited {
    id: u16,
    command: Command,
    len: usize,
    /// `None`: the host.
    owner: Option<Owner>,
}

/// The accesses of one session.
#[derive(Debug, Default)]
pub(super) struct Accesses {
    next_id: u16,
    /// Messages that wait until no command is in hand.
    held: VecDeque<Vec<u8>>,
    awaited: Vec<Awaited>,
    done: VecDeque<DmaDone>,
}

impl Accesses {
    /// Whether one more may begin.
    pub(super) fn has_room(&self) -> bool {
        self.awaited.len() + self.done.len() < DMA_MAX
    }

    pub(super) fn read(&mut self, address: GuestAddr, len: usize) -> u16 {
        self.begin(Command::DmaRead, address, len, &[], None)
    }

    pub(super) fn write(&mut self, address: GuestAddr, bytes: &[u8]) -> u16 {
        self.begin(Command::DmaWrite, address, bytes.len(), bytes, None)
    }

    /// A relay's access: writes `data`, or reads.
    pub(super) fn relay(&mut self, owner: Owner, data: Option<&[u8]>) {
        let command = if data.is_some() { Command::DmaWrite } else { Command::DmaRead };
        self.begin(command, owner.part.remote, owner.part.len, data.unwrap_or(&[]), Some(owner));
    }

    fn begin(
        &mut self,
        command: Command,
        address: GuestAddr,
        len: usize,
        data: &[u8],
        owner: Option<Owner>,
    ) -> u16 {
        while self.awaited.iter().any(|access| access.id == self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let place = Payload::default().u64(address.0).u64(len as u64).0;
        self.held.push_back(emit_command(id, command, &[&place, data]));
        self.awaited.push(Awaited { id, command, len, owner });
        id
    }

    /// The next message that may be sent now.
    pub(super) fn next_message(&mut self) -> Option<Vec<u8>> {
        self.held.pop_front()
    }

    /// The client's reply to one of them; that to a relay's is returned.
    pub(super) fn reply(
        &mut self,
        header: &Header,
        error: Option<u32>,
        payload: &[u8],
    ) -> Result<Option<(Owner, DmaDone)>, ClientFault> {
        let Header { id, command, .. } = *header;
        let unexpected = ClientFault::UnexpectedReply { id, command };
        let matches = |access: &Awaited| access.id == id && access.command as u16 == command;
        let at = self.awaited.iter().position(matches).ok_or(unexpected)?;
        let Awaited { command, len, owner, .. } = self.awaited.remove(at);
        let most = if command == Command::DmaRead { ACCESS_SIZE + len } else { ACCESS_SIZE };
        let wrong = ClientFault::ReplySize { command, size: payload.len(), most };
        let result = match (error, command) {
            (Some(errno), _) => Err(errno),
            (None, Command::DmaRead) if payload.len() == most => Ok(payload[ACCESS_SIZE..].to_vec()),
            // Some repeat where it was written, some do not.
            (None, Command::DmaWrite) if payload.len() <= most => Ok(Vec::new()),
            (None, _) => return Err(wrong),
        };
        let done = DmaDone { id, result };
        match owner {
            Some(owner) => Ok(Some((owner, done))),
            None => {
                self.done.push_back(done);
                Ok(None)
            }
        }
    }

    pub(super) fn next_done(&mut self) -> Option<DmaDone> {
        self.done.pop_front()
    }
}
