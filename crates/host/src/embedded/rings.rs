//! The embedded guest's driver: frames through a receive and a transmit virtqueue of one virtio-net device.
//!
//! Receive buffers are posted once and posted again as soon as their bytes are copied out. A frame is sent from
//! one slot of fixed size, given back when the device has used it. Kicks are collected and sent by
//! [`Rings::flush`]; calls are asked for only while the guest sleeps. The driver trusts nothing of the device:
//! a used length past the buffer, a buffer count past the ring or a used index out of range stops it.

use super::ram::Ram;
use super::session::Session;
use super::wire::{self, ETHERNET_LEN, HEADER_LEN, Received, Request, feature};
use anyhow::{Context, Result, anyhow};
use guestmem::{GuestAddr, GuestMemory};
use std::path::Path;
use std::sync::Arc;
use virtqueue::{DriverQueue, Endian, QueueSetup, QueueSize, RingFeatures};
use vmm_sys_util::eventfd::EventFd;

/// Largest frame in bytes when segmentation is left to the device: a full IPv4 packet.
pub(crate) const FRAME_MAX: usize = ETHERNET_LEN + 65_535;
/// Room for both rings and the rounding of their places, in bytes.
const RINGS_LEN: u64 = 256 << 10;
/// Frames after which the other side is told, though more may follow.
const FLUSH_EVERY: usize = 32;

/// Where a frame's virtio-net header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderPlace {
    /// In front of the frame, in the same buffer: any driver since virtio 1.0.
    WithData,
    /// In a buffer of its own, and so in a descriptor of its own: what virtio 0.9 demanded.
    Alone,
}

/// How a driver lays out its rings, and what it asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Feature bits that the driver uses if the device offers them.
    pub(crate) wanted: u64,
    /// Receive buffers: a power of two.
    pub(crate) receive_count: u16,
    /// Bytes of a receive buffer.
    pub(crate) receive_size: u32,
    /// Transmit slots: a power of two.
    pub(crate) transmit_count: u16,
    /// Bytes of the longest frame that is sent.
    pub(crate) frame_max: usize,
    /// In both directions.
    pub(crate) header: HeaderPlace,
}

impl Shape {
    /// For a TCP/IP stack: every offload, and room for a whole TCP window in single segments.
    pub(crate) const STACK: Self = Self {
        wanted: feature::CSUM
            | feature::GUEST_CSUM
            | feature::HOST_TSO4
            | feature::GUEST_TSO4
            | feature::MRG_RXBUF
            | feature::RING_INDIRECT_DESC
            | feature::RING_EVENT_IDX,
        receive_count: 1024,
        receive_size: 4096,
        transmit_count: 128,
        frame_max: FRAME_MAX,
        header: HeaderPlace::WithData,
    };

    /// Descriptors that one buffer takes.
    fn descriptors(&self) -> u16 {
        match self.header {
            HeaderPlace::WithData => 1,
            HeaderPlace::Alone => 2,
        }
    }

    /// Bytes of a transmit slot.
    fn transmit_size(&self) -> u64 {
        slot_size(HEADER_LEN + self.frame_max)
    }

    /// Bytes from one receive buffer to the next.
    fn receive_stride(&self) -> u64 {
        match self.header {
            HeaderPlace::WithData => u64::from(self.receive_size),
            HeaderPlace::Alone => slot_size(HEADER_LEN) + u64::from(self.receive_size),
        }
    }
}

/// Cache lines are not shared between slots.
fn slot_size(len: usize) -> u64 {
    len.next_multiple_of(64) as u64
}

/// Counts of what passed, in frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RingCounters {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Sent with the checksum left to the device.
    pub(crate) checksums_left: u64,
    /// Sent larger than the MTU, to be segmented by the device or taken whole by the receiver.
    pub(crate) segments_left: u64,
    /// Received with a wrong checksum that the device did not mark as unfinished.
    pub(crate) bad_checksums: u64,
    /// Descriptors of the frames sent.
    pub(crate) descriptors_sent: u64,
}

/// The driver's whole state.
pub(crate) struct Rings {
    shape: Shape,
    session: Session,
    memory: Arc<GuestMemory>,
    receive: DriverQueue,
    transmit: DriverQueue,
    receive_kick: EventFd,
    transmit_kick: EventFd,
    receive_buffers: GuestAddr,
    transmit_slots: GuestAddr,
    free_slots: Vec<u16>,
    unflushed: usize,
    fault: Option<String>,
    pub(crate) counters: RingCounters,
}

impl Rings {
    /// Attaches to the port behind `socket`. `call` is written by the device when the driver should look.
    pub(crate) fn attach(socket: &Path, call: &EventFd, shape: Shape) -> Result<Self> {
        let mut session = Session::open(socket, shape.wanted)?;
        let receive_len = u64::from(shape.receive_count) * shape.receive_stride();
        let transmit_len = u64::from(shape.transmit_count) * shape.transmit_size();
        let mut ram = Ram::new((receive_len + transmit_len + RINGS_LEN).next_multiple_of(4096))?;
        let features = session.features;
        let (receive, receive_setup) = ring(&mut ram, shape.receive_count * shape.descriptors(), features)?;
        let (transmit, transmit_setup) =
            ring(&mut ram, shape.transmit_count * shape.descriptors(), features)?;
        let receive_buffers = ram.take(receive_len, 4096)?;
        let transmit_slots = ram.take(transmit_len, 4096)?;
        let (receive_kick, transmit_kick) = (eventfd()?, eventfd()?);
        let starts = [(&receive_setup, &receive_kick, call), (&transmit_setup, &transmit_kick, call)];
        session.start(&ram, &starts)?;

        let mut rings = Self {
            shape,
            session,
            memory: Arc::clone(ram.memory()),
            receive,
            transmit,
            receive_kick,
            transmit_kick,
            receive_buffers,
            transmit_slots,
            free_slots: (0..shape.transmit_count).rev().collect(),
            unflushed: 0,
            fault: None,
            counters: RingCounters::default(),
        };
        for index in 0..shape.receive_count {
            rings.post(u64::from(index))?;
        }
        rings.flush();
        rings.end_sleep();
        Ok(rings)
    }

    /// Whether a feature was agreed with the device.
    pub(crate) fn has(&self, feature: u64) -> bool {
        self.session.features & feature != 0
    }

    /// What the device did wrong, if anything. The driver has stopped then.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Publishes everything posted since the last time and kicks where the device asks for it.
    pub(crate) fn flush(&mut self) {
        self.unflushed = 0;
        for (queue, kick) in
            [(&mut self.receive, &self.receive_kick), (&mut self.transmit, &self.transmit_kick)]
        {
            if queue.publish() && kick.write(1).is_err() {
                self.fault = Some("the kick eventfd cannot be written".into());
            }
        }
    }

    /// Asks for calls before a sleep. False: something came meanwhile, do not sleep.
    pub(crate) fn begin_sleep(&mut self) -> bool {
        let frames_came = self.receive.enable_call();
        let slots_came = self.free_slots.is_empty() && self.transmit.enable_call();
        !frames_came && !slots_came
    }

    /// After a sleep: no more calls.
    pub(crate) fn end_sleep(&mut self) {
        self.receive.disable_call();
        self.transmit.disable_call();
    }

    /// Whether a frame can be sent now; takes back what the device has used.
    pub(crate) fn has_slot(&mut self) -> bool {
        while self.fault.is_none() {
            match self.transmit.pop_used() {
                Ok(Some((slot, _))) => self.free_slots.push(slot as u16),
                Ok(None) => return !self.free_slots.is_empty(),
                Err(fault) => self.fault = Some(format!("transmit ring: {fault}")),
            }
        }
        false
    }

    /// Frames that the device has not given back, as of the last [`Self::has_slot`].
    pub(crate) fn in_flight(&self) -> usize {
        usize::from(self.shape.transmit_count) - self.free_slots.len()
    }

    /// Stops the rings.
    pub(crate) fn detach(&mut self) {
        self.session.stop();
    }

    /// Copies the next frame into `frame` and posts its buffers again; false when there is none.
    pub(crate) fn take_frame(&mut self, frame: &mut Vec<u8>) -> bool {
        match self.try_take_frame(frame) {
            Ok(taken) => taken,
            Err(fault) => {
                self.fault = Some(format!("receive ring: {fault:#}"));
                false
            }
        }
    }

    fn try_take_frame(&mut self, frame: &mut Vec<u8>) -> Result<bool> {
        let mut header = [0; HEADER_LEN];
        frame.clear();
        if !self.take_buffer(&mut header, frame)? {
            return Ok(false);
        }
        let received = Received::parse(&header);
        for _ in 1..received.buffers {
            let more = self.take_buffer(&mut [], frame)?;
            more.then_some(()).context("fewer buffers than the header says")?;
        }
        self.counters.received += 1;
        self.flush_now_and_then();
        if !received.checksum_done && !wire::checksum_is_right(frame) {
            self.counters.bad_checksums += 1;
            // The stack ignores an empty frame.
            frame.clear();
        }
        Ok(true)
    }

    /// Reads `header` and appends the rest of one used buffer to `frame`, then posts the buffer again.
    fn take_buffer(&mut self, header: &mut [u8], frame: &mut Vec<u8>) -> Result<bool> {
        let used = self.receive.pop_used().map_err(|fault| anyhow!("{fault}"))?;
        let Some((index, written)) = used else { return Ok(false) };
        let written = written as usize;
        let buffer = self.receive_buffer(index);
        let (head, body) = match self.shape.header {
            HeaderPlace::WithData => {
                (written <= self.shape.receive_size as usize)
                    .then_some(())
                    .context("used length past the buffer")?;
                let buffer = self.memory.slice(buffer, written).context("unknown buffer")?;
                (written >= header.len()).then_some(()).context("used length shorter than a header")?;
                buffer.split_at(header.len())
            }
            HeaderPlace::Alone => {
                // Without mergeable buffers every buffer begins with a header.
                let body_len =
                    written.checked_sub(HEADER_LEN).context("used length shorter than a header")?;
                (body_len <= self.shape.receive_size as usize)
                    .then_some(())
                    .context("used length past the buffer")?;
                let head = self.memory.slice(buffer, header.len()).context("unknown buffer")?;
                (head, self.memory.slice(body_of(buffer), body_len).context("unknown buffer")?)
            }
        };
        let at = frame.len();
        (at + body.len() <= FRAME_MAX).then_some(()).context("frame longer than any can be")?;
        head.read(header);
        frame.resize(at + body.len(), 0);
        body.read(&mut frame[at..]);
        self.post(index)?;
        Ok(true)
    }

    /// Sends `frame`, leaving to the device what it offered to do; `segment` is the payload size to cut at.
    /// Dropped when there is no slot: the caller looks first.
    pub(crate) fn send(&mut self, frame: &mut [u8], segment: Option<u16>) {
        let leave = self.has(feature::CSUM);
        let request = if leave { wire::leave_checksum(frame, segment) } else { Request::default() };
        if frame.len() > self.shape.frame_max {
            self.fault = Some(format!("a frame of {} bytes does not fit a slot", frame.len()));
            return;
        }
        let Some(slot) = self.free_slots.pop() else { return };
        let start = GuestAddr(self.transmit_slots.0 + u64::from(slot) * self.shape.transmit_size());
        let len = HEADER_LEN + frame.len();
        let Some(room) = self.memory.slice(start, len) else { return };
        let (head, body) = room.split_at(HEADER_LEN);
        head.write(&request.emit());
        body.write(frame);
        let whole = [(start, len as u32)];
        let parts =
            [(start, HEADER_LEN as u32), (GuestAddr(start.0 + HEADER_LEN as u64), frame.len() as u32)];
        let buffers = match self.shape.header {
            HeaderPlace::WithData => &whole[..],
            HeaderPlace::Alone => &parts[..],
        };
        if self.transmit.add(buffers, &[], u64::from(slot)).is_err() {
            self.fault = Some("transmit ring: full although a slot was free".into());
            return;
        }
        self.counters.descriptors_sent += buffers.len() as u64;
        self.counters.sent += 1;
        self.counters.checksums_left += u64::from(request.checksum.is_some());
        self.counters.segments_left += u64::from(request.segment.is_some());
        self.flush_now_and_then();
    }

    fn flush_now_and_then(&mut self) {
        self.unflushed += 1;
        if self.unflushed >= FLUSH_EVERY {
            self.flush();
        }
    }

    fn receive_buffer(&self, index: u64) -> GuestAddr {
        GuestAddr(self.receive_buffers.0 + index * self.shape.receive_stride())
    }

    fn post(&mut self, index: u64) -> Result<()> {
        let (buffer, size) = (self.receive_buffer(index), self.shape.receive_size);
        let whole = [(buffer, size)];
        let parts = [(buffer, HEADER_LEN as u32), (body_of(buffer), size)];
        let buffers = match self.shape.header {
            HeaderPlace::WithData => &whole[..],
            HeaderPlace::Alone => &parts[..],
        };
        self.receive.add(&[], buffers, index).map_err(|_| anyhow!("no room to post a buffer"))
    }
}

/// Where the frame of a receive buffer with a header of its own begins.
fn body_of(buffer: GuestAddr) -> GuestAddr {
    GuestAddr(buffer.0 + slot_size(HEADER_LEN))
}

/// A split ring in the guest's memory with the agreed features.
pub(crate) fn ring(ram: &mut Ram, size: u16, features: u64) -> Result<(DriverQueue, QueueSetup)> {
    let size = QueueSize::try_from(size).map_err(|_| anyhow!("queue size {size}"))?;
    let ring = RingFeatures {
        packed: false,
        indirect: features & feature::RING_INDIRECT_DESC != 0,
        event_idx: features & feature::RING_EVENT_IDX != 0,
        in_order: false,
        endian: Endian::Little,
    };
    let (desc, driver, device) = DriverQueue::layout(size, ring);
    let base = ram.take((desc + driver + device) as u64 + 3 * 4096, 4096)?;
    DriverQueue::setup(ram.memory(), base, size, ring, None).context("setting up a ring")
}

fn eventfd() -> Result<EventFd> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).context("making an eventfd")
}
