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
pub(super) const FRAME_MAX: usize = ETHERNET_LEN + 65_535;
/// Receive buffers, and bytes in each. A whole TCP window in single segments finds room.
const RECEIVE_COUNT: u16 = 1024;
const RECEIVE_SIZE: u32 = 4096;
/// Transmit slots, and bytes in each.
const TRANSMIT_COUNT: u16 = 128;
const TRANSMIT_SIZE: u64 = (HEADER_LEN + FRAME_MAX).next_multiple_of(64) as u64;
/// Frames after which the other side is told, though more may follow.
const FLUSH_EVERY: usize = 32;
const RAM_LEN: u64 = 16 << 20;

/// What the driver would use if the device offers it.
const WANTED: u64 = feature::CSUM
    | feature::GUEST_CSUM
    | feature::HOST_TSO4
    | feature::GUEST_TSO4
    | feature::MRG_RXBUF
    | feature::RING_INDIRECT_DESC
    | feature::RING_EVENT_IDX;

/// Counts of what passed, in frames.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RingCounters {
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Sent with the checksum left to the device.
    pub(super) checksums_left: u64,
    /// Sent larger than the MTU, to be segmented by the device or taken whole by the receiver.
    pub(super) segments_left: u64,
    /// Received with a wrong checksum that the device did not mark as unfinished.
    pub(super) bad_checksums: u64,
}

/// The driver's whole state.
pub(super) struct Rings {
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
    pub(super) counters: RingCounters,
}

impl Rings {
    /// Attaches to the port behind `socket`. `call` is written by the device when the driver should look.
    pub(super) fn attach(socket: &Path, call: &EventFd) -> Result<Self> {
        let mut session = Session::open(socket, WANTED)?;
        let mut ram = Ram::new(RAM_LEN)?;
        let (receive, receive_setup) = ring(&mut ram, RECEIVE_COUNT, session.features)?;
        let (transmit, transmit_setup) = ring(&mut ram, TRANSMIT_COUNT, session.features)?;
        let receive_buffers = ram.take(u64::from(RECEIVE_COUNT) * u64::from(RECEIVE_SIZE), 4096)?;
        let transmit_slots = ram.take(u64::from(TRANSMIT_COUNT) * TRANSMIT_SIZE, 4096)?;
        let (receive_kick, transmit_kick) = (eventfd()?, eventfd()?);
        let starts = [(&receive_setup, &receive_kick, call), (&transmit_setup, &transmit_kick, call)];
        session.start(&ram, &starts)?;

        let mut rings = Self {
            session,
            memory: Arc::clone(ram.memory()),
            receive,
            transmit,
            receive_kick,
            transmit_kick,
            receive_buffers,
            transmit_slots,
            free_slots: (0..TRANSMIT_COUNT).rev().collect(),
            unflushed: 0,
            fault: None,
            counters: RingCounters::default(),
        };
        for index in 0..RECEIVE_COUNT {
            rings.post(u64::from(index))?;
        }
        rings.flush();
        rings.end_sleep();
        Ok(rings)
    }

    /// Whether a feature was agreed with the device.
    pub(super) fn has(&self, feature: u64) -> bool {
        self.session.features & feature != 0
    }

    /// What the device did wrong, if anything. The driver has stopped then.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Publishes everything posted since the last time and kicks where the device asks for it.
    pub(super) fn flush(&mut self) {
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
    pub(super) fn begin_sleep(&mut self) -> bool {
        let frames_came = self.receive.enable_call();
        let slots_came = self.free_slots.is_empty() && self.transmit.enable_call();
        !frames_came && !slots_came
    }

    /// After a sleep: no more calls.
    pub(super) fn end_sleep(&mut self) {
        self.receive.disable_call();
        self.transmit.disable_call();
    }

    /// Whether a frame can be sent now; takes back what the device has used.
    pub(super) fn has_slot(&mut self) -> bool {
        while self.fault.is_none() {
            match self.transmit.pop_used() {
                Ok(Some((slot, _))) => self.free_slots.push(slot as u16),
                Ok(None) => return !self.free_slots.is_empty(),
                Err(fault) => self.fault = Some(format!("transmit ring: {fault}")),
            }
        }
        false
    }

    /// Stops the rings.
    pub(super) fn detach(&mut self) {
        self.session.stop();
    }

    /// Copies the next frame into `frame` and posts its buffers again; false when there is none.
    pub(super) fn take_frame(&mut self, frame: &mut Vec<u8>) -> bool {
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
        let buffer = self.memory.slice(self.buffer_addr(index), written).context("unknown buffer")?;
        let body_len = written.checked_sub(header.len()).context("used length shorter than a header")?;
        (written <= RECEIVE_SIZE as usize).then_some(()).context("used length past the buffer")?;
        let at = frame.len();
        (at + body_len <= FRAME_MAX).then_some(()).context("frame longer than any can be")?;
        let (head, body) = buffer.split_at(header.len());
        head.read(header);
        frame.resize(at + body_len, 0);
        body.read(&mut frame[at..]);
        self.post(index)?;
        Ok(true)
    }

    /// Sends `frame`, leaving to the device what it offered to do; `segment` is the payload size to cut at.
    /// Dropped when there is no slot: the caller looks first.
    pub(super) fn send(&mut self, frame: &mut [u8], segment: Option<u16>) {
        let leave = self.has(feature::CSUM);
        let request = if leave { wire::leave_checksum(frame, segment) } else { Request::default() };
        let Some(slot) = self.free_slots.pop() else { return };
        let start = GuestAddr(self.transmit_slots.0 + u64::from(slot) * TRANSMIT_SIZE);
        let len = HEADER_LEN + frame.len();
        let Some(room) = self.memory.slice(start, len) else { return };
        let (head, body) = room.split_at(HEADER_LEN);
        head.write(&request.emit());
        body.write(frame);
        if self.transmit.add(&[(start, len as u32)], &[], u64::from(slot)).is_err() {
            self.fault = Some("transmit ring: full although a slot was free".into());
            return;
        }
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

    fn buffer_addr(&self, index: u64) -> GuestAddr {
        GuestAddr(self.receive_buffers.0 + index * u64::from(RECEIVE_SIZE))
    }

    fn post(&mut self, index: u64) -> Result<()> {
        let buffer = self.buffer_addr(index);
        self.receive
            .add(&[], &[(buffer, RECEIVE_SIZE)], index)
            .map_err(|_| anyhow!("no room to post a buffer"))
    }
}

/// A split ring in the guest's memory with the agreed features.
fn ring(ram: &mut Ram, size: u16, features: u64) -> Result<(DriverQueue, QueueSetup)> {
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
