//! One connection of one front-end, whatever device it is for: messages in, events carried out by the device, answers out.
//!
//! The device turns events into starting, stopping and changing queues, and nothing else: this thread never touches a frame or
//! a disk's bytes. A message is answered only after it has been carried out.

use super::notify::{Wake, accept_eventfd};
use super::protocol::{FunctionFault, Protocol, ProtocolFault};
use super::{Stopping, socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use thiserror::Error;
use transport::event::{Channel, Event, Outcome, Outgoing};

/// Pause after a connection that we made has ended, so that a front-end that hangs up at once is not called at once.
pub(super) const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How often something is looked at that nobody wakes us for.
const LOOK_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// Bytes taken from the socket at once.
const RECEIVE_LEN: usize = 8192;

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum End {
    #[error("the front-end closed the connection")]
    Closed,
    #[error("ringway stops")]
    Stopping,
    #[error("the front-end broke the protocol: {0}")]
    Fault(#[from] ProtocolFault),
    #[error("cannot be served: {0}")]
    Function(#[from] FunctionFault),
    #[error("the front-end truncated the memory that it shares")]
    MemoryDied,
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
}

impl End {
    /// Whether somebody wanted it to end.
    pub(super) fn is_usual(&self) -> bool {
        matches!(self, Self::Closed | Self::Stopping)
    }
}

/// What a device does with its connection.
pub(super) trait Device {
    /// Carries an event out.
    fn handle(&mut self, protocol: &mut Protocol, event: Event) -> Outcome;

    /// Somebody asked for attention: a queue was retired, memory died, the operator changed something.
    fn attend(&mut self, protocol: &mut Protocol) -> Result<(), End>;

    /// What wakes [`Self::serve`] and [`Self::administer`].
    fn kicks(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Whether these are to be called from time to time: nobody writes the kick.
    fn is_polled(&self) -> bool {
        false
    }

    /// Serves the queue of its own that no worker serves, if it has one.
    fn serve(&mut self, _protocol: &mut Protocol) {}

    /// Carries out the next command of the function's administration queue, the `turn`th of this visit. True: there was one; when what
    /// it brought about is carried out, [`Self::administered`] is called.
    fn administer(&mut self, _protocol: &mut Protocol, _turn: usize) -> bool {
        false
    }

    /// The driver may see the answer to the command.
    fn administered(&mut self) {}
}

/// One connection.
pub(super) struct Conversation<'s> {
    stream: UnixStream,
    protocol: Protocol,
    backend_channel: Option<OwnedFd>,
    stopping: &'s Stopping,
    /// Wakes us for [`Device::attend`].
    attention: &'s Wake,
}

impl<'s> Conversation<'s> {
    pub(super) fn new(
        stream: UnixStream,
        protocol: Protocol,
        stopping: &'s Stopping,
        attention: &'s Wake,
    ) -> Self {
        Self { stream, protocol, backend_channel: None, stopping, attention }
    }

    /// Serves until the connection ends; says why.
    pub(super) fn serve(&mut self, device: &mut impl Device) -> End {
        self.converse(device).unwrap_or_else(|end| end)
    }

    fn converse(&mut self, device: &mut impl Device) -> Result<End, End> {
        self.stream.set_nonblocking(true)?;
        let mut buffer = vec![0; RECEIVE_LEN];
        loop {
            // Before every message: a front-end that never stops talking cannot keep us from the rest.
            self.wait(device)?;
            let wanted = self.protocol.wanted().min(buffer.len());
            match socket::receive(&self.stream, &mut buffer[..wanted]) {
                Ok((0, _)) => return Ok(End::Closed),
                Ok((len, fds)) => {
                    self.protocol.receive(&buffer[..len], fds)?;
                    if self.carry_out(device)? {
                        self.serve_commands(device)?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(End::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sleeps until the front-end speaks, a queue wants attention or the plane stops.
    fn wait(&mut self, device: &mut impl Device) -> Result<(), End> {
        let mut wait = vec![
            PollFd::new(&self.stream, PollFlags::IN),
            PollFd::new(&self.stopping.wake, PollFlags::IN),
            PollFd::new(self.attention, PollFlags::IN),
        ];
        let kicks = device.kicks();
        wait.extend(kicks.iter().map(|kick| PollFd::new(kick, PollFlags::IN)));
        let calls: Vec<_> = self.protocol.descriptors().collect();
        wait.extend(calls.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let timeout = (device.is_polled() || self.protocol.is_polled()).then_some(LOOK_INTERVAL);
        match poll(&mut wait, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let fired = |at: usize| wait.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let behind = 3 + kicks.len();
        let (attention, kicked, called) = (fired(2), (3..behind).any(fired), (behind..wait.len()).any(fired));
        if self.stopping.is_set() {
            return Err(End::Stopping);
        }
        if attention {
            self.attention.clear();
            device.attend(&mut self.protocol)?;
            self.send()?;
        }
        if called || self.protocol.is_polled() {
            self.protocol.attend();
            self.carry_out(device)?;
        }
        if kicked || device.is_polled() {
            self.serve_commands(device)?;
        }
        Ok(())
    }

    /// Serves the device's queues of commands. What a command of the administration queue brings about is done when its driver sees the
    /// answer.
    fn serve_commands(&mut self, device: &mut impl Device) -> Result<(), End> {
        device.serve(&mut self.protocol);
        let mut turn = 0;
        while device.administer(&mut self.protocol, turn) {
            if self.carry_out(device)? {
                device.serve(&mut self.protocol);
            }
            device.administered();
            turn += 1;
        }
        Ok(())
    }

    /// Carries out what the session made of the bytes so far, and sends the answers. True: something was carried out; doorbells,
    /// for one, are not.
    fn carry_out(&mut self, device: &mut impl Device) -> Result<bool, End> {
        let mut worked = false;
        loop {
            while let Some(event) = self.protocol.next_event()? {
                let outcome = match event {
                    Event::BackendChannel(channel) => {
                        self.backend_channel = Some(channel);
                        Outcome::Done
                    }
                    event => device.handle(&mut self.protocol, event),
                };
                self.protocol.finish(outcome);
                worked = true;
            }
            if !self.send()? {
                return Ok(worked);
            }
        }
    }

    /// Sends what the session has to say. Whether that was something.
    fn send(&mut self) -> Result<bool, End> {
        let mut sent = false;
        let stop = &self.stopping.wake;
        while let Some(Outgoing { channel, bytes, fds }) = self.protocol.next_outgoing() {
            sent = true;
            match (channel, &self.backend_channel) {
                (Channel::Main, _) => socket::send(&self.stream, &bytes, &fds, stop)?,
                (Channel::Backend, Some(backend)) => socket::send(backend, &bytes, &fds, stop)?,
                (Channel::Backend, None) => {}
            }
        }
        Ok(sent)
    }
}

/// A descriptor that may be used for notifications: an eventfd, or none.
pub(super) fn usable(fd: Option<OwnedFd>) -> Result<Option<OwnedFd>, Outcome> {
    match fd {
        Some(fd) if !accept_eventfd(&fd) => Err(Outcome::Failed),
        fd => Ok(fd),
    }
}
