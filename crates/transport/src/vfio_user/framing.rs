//! Whole messages out of pieces of a stream, each with the file descriptors that came with it.
//!
//! The kernel glues messages without descriptors in front of one with some, and ends a `recvmsg` behind the piece that
//! carried them: descriptors belong to the message that holds the last byte of the piece they arrived with. A reader that
//! asks for exactly [`Inbox::wanted`] bytes (the header alone, then its payload) never has two messages in one piece, and
//! the question does not come up.

use super::ClientFault;
use super::message::{FDS_MAX, HEADER_SIZE, Header, PAYLOAD_MAX};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;

/// Bytes kept at most while the host does not take messages out: the longest message and what may follow it.
pub(super) const BUFFERED_MAX: usize = HEADER_SIZE + PAYLOAD_MAX + 64 * 1024;

/// Descriptors kept at most for messages not taken yet.
const FDS_HELD_MAX: usize = 4 * FDS_MAX;

/// Room that an empty inbox keeps, in bytes: what messages other than bulk data need.
const ROOM_KEPT: usize = 8 * 1024;

/// A whole message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// What was received and not yet taken.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Descriptors, each with how many of `bytes` were there once its piece had arrived.
    fds: VecDeque<(usize, OwnedFd)>,
}

impl Inbox {
    pub(super) fn receive(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), ClientFault> {
        let count = self.bytes.len() + bytes.len();
        if count > BUFFERED_MAX {
            return Err(ClientFault::Flood { count, most: BUFFERED_MAX });
        }
        self.bytes.extend_from_slice(bytes);
        let held = self.fds.len() + fds.len();
        if fds.len() > FDS_MAX || held > FDS_HELD_MAX {
            return Err(ClientFault::TooManyFds { count: held });
        }
        self.fds.extend(fds.into_iter().map(|fd| (count, fd)));
        Ok(())
    }

    /// Bytes that are missing from the message that is arriving: first its header, then its payload. Zero: a whole message
    /// (or a wrong header) waits to be taken.
    pub(super) fn wanted(&self) -> usize {
        match self.bytes.first_chunk::<HEADER_SIZE>().map(Header::parse) {
            None => HEADER_SIZE - self.bytes.len(),
            Some(Ok(header)) => (HEADER_SIZE + header.size).saturating_sub(self.bytes.len()),
            Some(Err(_)) => 0,
        }
    }

    /// The next whole message; `None`: more bytes are needed.
    pub(super) fn take(&mut self) -> Result<Option<Message>, ClientFault> {
        let Some(header) = self.bytes.first_chunk::<HEADER_SIZE>() else { return Ok(None) };
        let header = Header::parse(header)?;
        let len = HEADER_SIZE + header.size;
        let Some(payload) = self.bytes.get(HEADER_SIZE..len) else { return Ok(None) };
        let payload = payload.to_vec();
        self.bytes.drain(..len);
        if self.bytes.is_empty() {
            self.bytes.shrink_to(ROOM_KEPT);
        }
        let mut fds = Vec::new();
        while let Some((_, fd)) = self.fds.pop_front_if(|(arrived, _)| *arrived <= len) {
            fds.push(fd);
        }
        self.fds.iter_mut().for_each(|(arrived, _)| *arrived -= len);
        Ok(Some(Message { header, payload, fds }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfio_user::Command;
    use crate::vfio_user::message::emit_command;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn pieces_of_one_byte_make_whole_messages_with_their_descriptors() {
        let mut inbox = Inbox::default();
        let map = emit_command(3, Command::DmaMap, &[&[5; 32]]);
        for (at, byte) in map.iter().enumerate() {
            assert!(inbox.take().unwrap().is_none());
            assert_eq!(inbox.wanted(), if at < 16 { 16 - at } else { 48 - at });
            inbox.receive(&[*byte], if at == 0 { vec![null()] } else { vec![] }).unwrap();
        }
        assert_eq!(inbox.wanted(), 0);
        let message = inbox.take().unwrap().unwrap();
        assert_eq!((message.header.id, message.header.command, message.fds.len()), (3, 2, 1));
        assert_eq!(message.payload, [5; 32]);
        assert_eq!(inbox.wanted(), 16);
    }

    #[test]
    fn descriptors_belong_to_the_message_that_ends_their_piece() {
        let mut inbox = Inbox::default();
        // What the kernel makes of two sends, the second with a descriptor: one piece.
        let mut both = emit_command(0, Command::DeviceReset, &[]);
        both.extend(emit_command(1, Command::DmaMap, &[&[0; 32]]));
        inbox.receive(&both, vec![null()]).unwrap();
        inbox.receive(&emit_command(2, Command::DeviceReset, &[]), vec![]).unwrap();
        let counts: Vec<_> = std::iter::from_fn(|| inbox.take().unwrap()).map(|m| m.fds.len()).collect();
        assert_eq!(counts, [0, 1, 0]);
    }

    #[test]
    fn floods_of_bytes_and_descriptors_are_refused() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.receive(&vec![0; BUFFERED_MAX + 1], vec![]).unwrap_err().name(), "flood");
        let many = (0..FDS_MAX + 1).map(|_| null()).collect();
        assert_eq!(inbox.receive(&[0; 8], many).unwrap_err().name(), "too-many-fds");
        let mut inbox = Inbox::default();
        let fault = (0..200).find_map(|_| inbox.receive(&[], vec![null()]).err()).unwrap();
        assert_eq!(fault, ClientFault::TooManyFds { count: FDS_HELD_MAX + 1 });
    }

    #[test]
    fn room_for_bulk_data_is_given_back() {
        let mut inbox = Inbox::default();
        inbox.receive(&emit_command(0, Command::RegionWrite, &[&vec![0; PAYLOAD_MAX]]), vec![]).unwrap();
        assert_eq!(inbox.take().unwrap().unwrap().payload.len(), PAYLOAD_MAX);
        assert!(inbox.bytes.capacity() <= ROOM_KEPT);
    }
}
