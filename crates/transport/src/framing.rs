//! Whole messages out of pieces of a stream, each with the file descriptors that came with it.
//!
//! The kernel glues messages without descriptors in front of one with some, and ends a `recvmsg` behind the piece that
//! carried them: descriptors belong to the message that holds the last byte of the piece they arrived with. A reader that
//! asks for exactly [`Inbox::wanted`] bytes (the header alone, then its payload) never has two messages in one piece, and
//! the question does not come up.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

/// Room that an empty inbox keeps, in bytes: what messages other than bulk data need.
const ROOM_KEPT: usize = 8 * 1024;

/// A protocol's header, which says how long the message behind it is.
pub(crate) trait Header: Copy {
    /// Bytes of the header.
    const SIZE: usize;
    /// Bytes kept at most while the host does not take messages out: at least the longest message.
    const BUFFERED_MAX: usize;
    /// Descriptors with one message at most.
    const FDS_MAX: usize;
    /// What the sender broke.
    type Fault;

    /// The header at the beginning of `bytes`; `None`: there are fewer than [`Self::SIZE`].
    fn parse_first(bytes: &[u8]) -> Option<Result<Self, Self::Fault>>;

    /// Bytes of the payload; bounded by the protocol.
    fn payload_size(&self) -> usize;

    /// The fault of sending `count` bytes ahead, more than [`Self::BUFFERED_MAX`].
    fn flood(count: usize) -> Self::Fault;

    /// The fault of `count` descriptors that wait.
    fn too_many_fds(count: usize) -> Self::Fault;
}

/// A whole message.
#[derive(Debug)]
pub(crate) struct Message<H> {
    pub(crate) header: H,
    pub(crate) payload: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// What was received and not yet taken.
#[derive(Debug)]
pub(crate) struct Inbox<H> {
    bytes: Vec<u8>,
    /// Descriptors, each with how many of `bytes` were there once its piece had arrived.
    fds: VecDeque<(usize, OwnedFd)>,
    header: std::marker::PhantomData<H>,
}

impl<H> Default for Inbox<H> {
    fn default() -> Self {
        Self { bytes: Vec::new(), fds: VecDeque::new(), header: std::marker::PhantomData }
    }
}

impl<H: Header> Inbox<H> {
    /// Descriptors kept at most for messages not taken yet.
    const FDS_HELD_MAX: usize = 4 * H::FDS_MAX;

    pub(crate) fn receive(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), H::Fault> {
        let count = self.bytes.len() + bytes.len();
        if count > H::BUFFERED_MAX {
            return Err(H::flood(count));
        }
        self.bytes.extend_from_slice(bytes);
        let held = self.fds.len() + fds.len();
        if fds.len() > H::FDS_MAX || held > Self::FDS_HELD_MAX {
            return Err(H::too_many_fds(held));
        }
        self.fds.extend(fds.into_iter().map(|fd| (count, fd)));
        Ok(())
    }

    /// Bytes that are missing from the message that is arriving: first its header, then its payload. Zero: a whole message
    /// (or a wrong header) waits to be taken.
    pub(crate) fn wanted(&self) -> usize {
        match H::parse_first(&self.bytes) {
            None => H::SIZE - self.bytes.len(),
            Some(Ok(header)) => (H::SIZE + header.payload_size()).saturating_sub(self.bytes.len()),
            Some(Err(_)) => 0,
        }
    }

    /// The next whole message; `None`: more bytes are needed.
    pub(crate) fn take(&mut self) -> Result<Option<Message<H>>, H::Fault> {
        let Some(header) = H::parse_first(&self.bytes) else { return Ok(None) };
        let header = header?;
        let len = H::SIZE + header.payload_size();
        let Some(payload) = self.bytes.get(H::SIZE..len) else { return Ok(None) };
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

    /// Two bytes: a mark, and the length of the payload.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Short(u8);

    #[derive(Debug, PartialEq, Eq)]
    enum Wrong {
        Mark(u8),
        Flood(usize),
        Fds(usize),
    }

    impl Header for Short {
        const SIZE: usize = 2;
        const BUFFERED_MAX: usize = 64 * 1024;
        const FDS_MAX: usize = 3;
        type Fault = Wrong;

        fn parse_first(bytes: &[u8]) -> Option<Result<Self, Wrong>> {
            let [mark, len] = *bytes.first_chunk()?;
            Some(if mark == b'm' { Ok(Self(len)) } else { Err(Wrong::Mark(mark)) })
        }

        fn payload_size(&self) -> usize {
            // So that some are bulk data.
            if self.0 == 255 { 32 * 1024 } else { self.0.into() }
        }

        fn flood(count: usize) -> Wrong {
            Wrong::Flood(count)
        }

        fn too_many_fds(count: usize) -> Wrong {
            Wrong::Fds(count)
        }
    }

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn inbox() -> Inbox<Short> {
        Inbox::default()
    }

    #[test]
    fn pieces_of_one_byte_make_whole_messages_with_their_descriptors() {
        let mut inbox = inbox();
        for (at, byte) in b"m\x04abcd".iter().enumerate() {
            assert!(inbox.take().unwrap().is_none());
            assert_eq!(inbox.wanted(), if at < 2 { 2 - at } else { 6 - at });
            inbox.receive(&[*byte], if at == 0 { vec![null()] } else { vec![] }).unwrap();
        }
        assert_eq!(inbox.wanted(), 0);
        let message = inbox.take().unwrap().unwrap();
        assert_eq!((message.header, message.fds.len()), (Short(4), 1));
        assert_eq!(message.payload, b"abcd");
        assert_eq!(inbox.wanted(), 2);
    }

    #[test]
    fn descriptors_belong_to_the_message_that_ends_their_piece() {
        let mut inbox = inbox();
        // What the kernel makes of two sends, the second with a descriptor: one piece.
        inbox.receive(b"m\x00m\x02ab", vec![null()]).unwrap();
        inbox.receive(b"m\x00", vec![]).unwrap();
        let counts: Vec<_> = std::iter::from_fn(|| inbox.take().unwrap()).map(|m| m.fds.len()).collect();
        assert_eq!(counts, [0, 1, 0]);
    }

    #[test]
    fn a_wrong_header_is_named_and_no_more_is_asked_for() {
        let mut inbox = inbox();
        inbox.receive(b"m\x00x\x00", vec![]).unwrap();
        assert!(inbox.take().unwrap().is_some());
        assert_eq!(inbox.wanted(), 0);
        assert_eq!(inbox.take().unwrap_err(), Wrong::Mark(b'x'));
    }

    #[test]
    fn floods_of_bytes_and_descriptors_are_refused() {
        let most = Short::BUFFERED_MAX;
        assert_eq!(inbox().receive(&vec![0; most + 1], vec![]), Err(Wrong::Flood(most + 1)));
        let many = (0..Short::FDS_MAX + 1).map(|_| null()).collect();
        assert_eq!(inbox().receive(b"m", many), Err(Wrong::Fds(4)));
        let mut inbox = inbox();
        let fault = (0..200).find_map(|_| inbox.receive(&[], vec![null()]).err());
        assert_eq!(fault, Some(Wrong::Fds(13)));
    }

    #[test]
    fn room_for_bulk_data_is_given_back() {
        let mut inbox = inbox();
        inbox.receive(b"m\xff", vec![]).unwrap();
        inbox.receive(&vec![0; 32 * 1024], vec![]).unwrap();
        assert_eq!(inbox.take().unwrap().unwrap().payload.len(), 32 * 1024);
        assert!(inbox.bytes.capacity() <= ROOM_KEPT);
    }
}
