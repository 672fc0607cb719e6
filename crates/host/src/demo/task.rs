//! What embedded guests do: ping, send and receive a stream, shout and listen for it.
//!
//! A task is stepped after every turn of its guest's stack and never blocks. It reports through a channel, whose
//! listener may be gone: then the report is dropped.

use super::guest::Stack;
use super::pattern;
use anyhow::{Result, anyhow};
use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpEndpoint};
use std::net::Ipv4Addr;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// How far a step brought a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing to do until something arrives.
    Waiting,
    /// Something was done and more may follow at once.
    Moved,
    /// The task is over and has reported.
    Done,
}

/// Something a guest does, a step at a time.
pub(super) trait Task: Send {
    /// Does what can be done now.
    fn step(&mut self, stack: &mut Stack) -> Step;
}

/// How long a stream may stand still, and a broadcast may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one echo reply may take.
const ECHO_PATIENCE: Duration = Duration::from_millis(500);
/// Send buffer of a stream, in bytes: the most that is on its way.
const SEND_BUFFER: usize = 512 << 10;
/// Receive buffer of a stream, in bytes. Twice what can be on its way: the window never closes, since smoltcp can
/// lose a second or more over a window that opens again.
const RECEIVE_BUFFER: usize = 2 * SEND_BUFFER;

/// Sends echo requests, each when the one before was answered.
pub(super) struct Ping {
    target: Ipv4Addr,
    count: u16,
    report: Sender<PingReport>,
    socket: Option<SocketHandle>,
    sequence: u16,
    sent_at: Option<Instant>,
    result: PingReport,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub(super) struct PingReport {
    pub(super) round_trips: Vec<Duration>,
    pub(super) lost: u16,
}

impl Ping {
    pub(super) fn new(target: Ipv4Addr, count: u16, report: Sender<PingReport>) -> Self {
        Self {
            target,
            count,
            report,
            socket: None,
            sequence: 0,
            sent_at: None,
            result: PingReport::default(),
        }
    }

    /// The sequence number of an echo reply that is waiting.
    fn reply(socket: &mut icmp::Socket<'_>) -> Option<u16> {
        let (bytes, _) = socket.recv().ok()?;
        let packet = Icmpv4Packet::new_checked(bytes).ok()?;
        match Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok()? {
            Icmpv4Repr::EchoReply { seq_no, .. } => Some(seq_no),
            _ => None,
        }
    }

    fn request(&self, socket: &mut icmp::Socket<'_>, ident: u16) -> bool {
        let request = Icmpv4Repr::EchoRequest { ident, seq_no: self.sequence, data: &[0x5a; 56] };
        let Ok(bytes) = socket.send(request.buffer_len(), self.target.into()) else { return false };
        request.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::default());
        true
    }
}

impl Task for Ping {
    fn step(&mut self, stack: &mut Stack) -> Step {
        let ident = u16::from_be_bytes([0x72, self.target.octets()[3]]);
        let handle = *self.socket.get_or_insert_with(|| stack.sockets.add(icmp_socket(ident)));
        let socket = stack.sockets.get_mut::<icmp::Socket<'_>>(handle);
        let now = Instant::now();
        if let Some(sent_at) = self.sent_at {
            let answered = Self::reply(socket) == Some(self.sequence);
            if answered {
                self.result.round_trips.push(now - sent_at);
            } else if now < sent_at + ECHO_PATIENCE {
                return Step::Waiting;
            } else {
                self.result.lost += 1;
            }
            self.sent_at = None;
            self.sequence += 1;
        }
        if self.sequence == self.count {
            stack.sockets.remove(handle);
            let _ = self.report.send(std::mem::take(&mut self.result));
            return Step::Done;
        }
        if self.request(stack.sockets.get_mut(handle), ident) {
            self.sent_at = Some(Instant::now());
        }
        Step::Moved
    }
}

/// One end of a stream, reported when it is over.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamReport {
    pub(super) bytes: u64,
    /// Bytes that were not what the stream holds at their place.
    pub(super) mismatches: u64,
    /// From the first byte to the end of the stream.
    pub(super) elapsed: Duration,
}

/// Listens for one connection and checks every byte that comes.
pub(super) struct ReceiveStream {
    port: u16,
    listening: Sender<()>,
    report: Sender<Result<StreamReport>>,
    socket: Option<SocketHandle>,
    begun: Option<Instant>,
    last_moved: Instant,
    result: StreamReport,
}

impl ReceiveStream {
    /// `listening` hears when a sender may begin.
    pub(super) fn new(port: u16, listening: Sender<()>, report: Sender<Result<StreamReport>>) -> Self {
        let result = StreamReport::default();
        Self { port, listening, report, socket: None, begun: None, last_moved: Instant::now(), result }
    }

    fn listen(&mut self, stack: &mut Stack) -> Result<SocketHandle> {
        let mut socket = tcp_socket();
        socket.listen(self.port).map_err(|fault| anyhow!("listening: {fault:?}"))?;
        let handle = stack.sockets.add(socket);
        self.socket = Some(handle);
        let _ = self.listening.send(());
        Ok(handle)
    }

    fn check(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        let mut moved = false;
        while socket.can_recv() {
            let place = self.result.bytes;
            let taken = socket.recv(|bytes| (bytes.len(), (bytes.len(), pattern::mismatches(place, bytes))));
            let Ok((len, mismatches)) = taken else { break };
            self.begun.get_or_insert_with(Instant::now);
            self.result.bytes += len as u64;
            self.result.mismatches += mismatches;
            moved |= len > 0;
        }
        moved
    }
}

impl Task for ReceiveStream {
    fn step(&mut self, stack: &mut Stack) -> Step {
        let handle = match self.socket.map_or_else(|| self.listen(stack), Ok) {
            Ok(handle) => handle,
            Err(fault) => {
                let _ = self.report.send(Err(fault));
                return Step::Done;
            }
        };
        let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
        if self.check(socket) {
            self.last_moved = Instant::now();
            return Step::Moved;
        }
        let begun = self.begun.unwrap_or(self.last_moved);
        if socket.state() == tcp::State::CloseWait {
            self.result.elapsed = begun.elapsed();
            socket.close();
            let _ = self.report.send(Ok(std::mem::take(&mut self.result)));
            return Step::Done;
        }
        let broken = self.begun.is_some() && !socket.is_active();
        if broken || self.last_moved.elapsed() > PATIENCE {
            let bytes = self.result.bytes;
            let _ = self.report.send(Err(anyhow!("the stream stopped after {bytes} bytes")));
            return Step::Done;
        }
        Step::Waiting
    }
}

/// Connects and sends the stream for a time, or up to a number of bytes.
pub(super) struct SendStream {
    target: IpEndpoint,
    local_port: u16,
    bytes_max: u64,
    duration_max: Duration,
    report: Sender<Result<u64>>,
    socket: Option<SocketHandle>,
    sent: u64,
    begun: Option<Instant>,
    last_moved: Instant,
}

impl SendStream {
    /// Reports the number of bytes sent.
    pub(super) fn new(
        target: (Ipv4Addr, u16),
        local_port: u16,
        (bytes_max, duration_max): (u64, Duration),
        report: Sender<Result<u64>>,
    ) -> Self {
        let target = IpEndpoint::new(target.0.into(), target.1);
        let last_moved = Instant::now();
        Self {
            target,
            local_port,
            bytes_max,
            duration_max,
            report,
            socket: None,
            sent: 0,
            begun: None,
            last_moved,
        }
    }

    fn connect(&mut self, stack: &mut Stack) -> Result<SocketHandle> {
        let mut socket = tcp_socket();
        socket
            .connect(stack.interface.context(), self.target, self.local_port)
            .map_err(|fault| anyhow!("connecting: {fault:?}"))?;
        let handle = stack.sockets.add(socket);
        self.socket = Some(handle);
        Ok(handle)
    }

    fn push(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if self.sent >= self.bytes_max || begun.elapsed() >= self.duration_max {
            socket.close();
            return true;
        }
        let (place, room) = (self.sent, self.bytes_max - self.sent);
        let pushed = socket.send(|bytes| {
            let len = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            pattern::fill(place, &mut bytes[..len]);
            (len, len)
        });
        let len = pushed.unwrap_or_default();
        self.sent += len as u64;
        len > 0
    }
}

impl Task for SendStream {
    fn step(&mut self, stack: &mut Stack) -> Step {
        let handle = match self.socket.map_or_else(|| self.connect(stack), Ok) {
            Ok(handle) => handle,
            Err(fault) => {
                let _ = self.report.send(Err(fault));
                return Step::Done;
            }
        };
        let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
        if socket.may_send() && self.push(socket) {
            self.last_moved = Instant::now();
            return Step::Moved;
        }
        if matches!(socket.state(), tcp::State::TimeWait | tcp::State::Closed) && self.begun.is_some() {
            let _ = self.report.send(Ok(self.sent));
            stack.sockets.remove(handle);
            return Step::Done;
        }
        if self.last_moved.elapsed() > PATIENCE {
            let (state, sent) = (socket.state(), self.sent);
            let _ = self.report.send(Err(anyhow!("no progress after {sent} bytes (TCP state {state})")));
            return Step::Done;
        }
        Step::Waiting
    }
}

/// Sends one UDP datagram to every guest.
pub(super) struct Shout {
    pub(super) port: u16,
    pub(super) text: &'static str,
}

impl Task for Shout {
    fn step(&mut self, stack: &mut Stack) -> Step {
        let mut socket = udp_socket();
        let target = IpEndpoint::new(Ipv4Addr::BROADCAST.into(), self.port);
        if socket.bind(self.port).is_ok() {
            // A full buffer cannot be: the socket is new.
            let _ = socket.send_slice(self.text.as_bytes(), target);
            stack.sockets.add(socket);
        }
        Step::Done
    }
}

/// Waits for one UDP datagram and reports who sent it, if the text is right.
pub(super) struct Listen {
    pub(super) port: u16,
    pub(super) text: &'static str,
    pub(super) listening: Sender<()>,
    pub(super) report: Sender<Option<Ipv4Addr>>,
    pub(super) socket: Option<SocketHandle>,
    pub(super) deadline: Instant,
}

impl Listen {
    pub(super) fn new(
        port: u16,
        text: &'static str,
        listening: Sender<()>,
        report: Sender<Option<Ipv4Addr>>,
    ) -> Self {
        Self { port, text, listening, report, socket: None, deadline: Instant::now() + PATIENCE }
    }

    fn bind(&mut self, stack: &mut Stack) -> SocketHandle {
        let mut socket = udp_socket();
        // Cannot fail: the port is not zero and the socket is new.
        let _ = socket.bind(self.port);
        let handle = stack.sockets.add(socket);
        self.socket = Some(handle);
        let _ = self.listening.send(());
        handle
    }
}

impl Task for Listen {
    fn step(&mut self, stack: &mut Stack) -> Step {
        let handle = match self.socket {
            Some(handle) => handle,
            None => self.bind(stack),
        };
        let socket = stack.sockets.get_mut::<udp::Socket<'_>>(handle);
        let heard = match socket.recv() {
            Ok((bytes, meta)) if bytes == self.text.as_bytes() => match meta.endpoint.addr {
                smoltcp::wire::IpAddress::Ipv4(sender) => Some(sender),
                smoltcp::wire::IpAddress::Ipv6(_) => None,
            },
            _ if Instant::now() < self.deadline => return Step::Waiting,
            _ => None,
        };
        stack.sockets.remove(handle);
        let _ = self.report.send(heard);
        Step::Done
    }
}

fn icmp_socket(ident: u16) -> icmp::Socket<'static> {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    // Cannot fail: the socket is new and the identifier is one.
    let _ = socket.bind(icmp::Endpoint::Ident(ident));
    socket
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = |len| tcp::SocketBuffer::new(vec![0; len]);
    let mut socket = tcp::Socket::new(buffer(RECEIVE_BUFFER), buffer(SEND_BUFFER));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

fn udp_socket() -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
    udp::Socket::new(buffer(), buffer())
}
