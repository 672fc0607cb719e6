//! One measuring guest: sends to its neighbour in a closed loop, answers its other neighbour, and checks everything.
//!
//! A client has a bounded number of frames on their way and sends the next when an answer has come. An answer that is not
//! the one that is due is an error, and so is one that does not come: nothing is sent again.

use super::frames::{Kind, PAYLOAD_MIN, Received, SEGMENT, STREAM_PAYLOAD, Template};
use crate::embedded::rings::{RingCounters, Rings};
use anyhow::{Result, bail, ensure};
use std::time::{Duration, Instant};

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// One request with so many payload bytes, the next when its response is there.
    RequestResponse { payload: usize },
    /// Frames of 64 KiB that the device may cut, as a TCP stream sends them; so many on their way at most.
    Stream { window: u64 },
}

impl Load {
    /// Bytes of a frame's payload.
    pub(super) fn payload(self) -> usize {
        match self {
            Self::RequestResponse { payload } => payload,
            Self::Stream { .. } => STREAM_PAYLOAD,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::RequestResponse { .. } => Kind::Request,
            Self::Stream { .. } => Kind::Data,
        }
    }

    fn window(self) -> u64 {
        match self {
            Self::RequestResponse { .. } => 1,
            Self::Stream { window } => window,
        }
    }
}

/// Frames of a stream for which one acknowledgement comes, as TCP does.
const FRAMES_PER_ACK: u64 = 2;
/// Frames of a stream of which one is looked at byte by byte; of the others both ends.
const WHOLE_EVERY: u64 = 16;

/// Where a measurement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Warm,
    Measure,
    Stop,
}

/// What a client counted between the first look at [`Phase::Measure`] and the first at [`Phase::Stop`].
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    /// Answered requests, or acknowledged frames.
    pub(super) transactions: u64,
    pub(super) elapsed: Duration,
    /// Of each transaction of request and response, in nanoseconds.
    pub(super) round_trips_ns: Vec<u32>,
}

/// One guest with its rings.
pub(super) struct Guest {
    pub(super) rings: Rings,
    client: Option<Client>,
    response: Template,
    ack: Template,
    /// Frames of a stream that came.
    received: u64,
    frame: Vec<u8>,
}

/// The half that begins.
struct Client {
    load: Load,
    template: Template,
    sent: u64,
    answered: u64,
    sent_at: Instant,
    begun: Option<Instant>,
    counted: Counted,
    is_done: bool,
}

impl Guest {
    /// Guest `number` of a circle of `guests`; as a client it sends to the next, and all answer the one before.
    pub(super) fn new(rings: Rings, number: usize, guests: usize, is_client: bool, load: Load) -> Self {
        let (next, previous) = ((number + 1) % guests, (number + guests - 1) % guests);
        let client = is_client.then(|| Client {
            load,
            template: Template::new(load.kind(), number, next, load.payload()),
            sent: 0,
            answered: 0,
            sent_at: Instant::now(),
            begun: None,
            counted: Counted::default(),
            is_done: false,
        });
        Self {
            rings,
            client,
            response: Template::new(Kind::Response, number, previous, load.payload()),
            ack: Template::new(Kind::Ack, number, previous, PAYLOAD_MIN),
            received: 0,
            frame: Vec::new(),
        }
    }

    /// Whether it has nothing more to send and nothing of its own on the way.
    pub(super) fn is_done(&self) -> bool {
        self.client.as_ref().is_none_or(|client| client.is_done)
    }

    /// Whether a transaction of the window is counted.
    pub(super) fn has_counted(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.counted.transactions > 0)
    }

    /// Detaches; what the driver counted, and the client.
    pub(super) fn finish(mut self) -> (RingCounters, Option<Counted>) {
        self.rings.detach();
        (self.rings.counters, self.client.map(|client| client.counted))
    }

    /// Does what can be done now; whether that was anything.
    pub(super) fn step(&mut self, phase: Phase) -> Result<bool> {
        let mut frame = std::mem::take(&mut self.frame);
        let mut moved = false;
        while self.rings.take_frame(&mut frame) {
            moved = true;
            self.take(&frame)?;
        }
        self.frame = frame;
        if let Some(client) = &mut self.client {
            moved |= client.send(&mut self.rings, phase)?;
        }
        if moved {
            self.rings.flush();
        }
        match self.rings.fault() {
            Some(fault) => bail!("the driver stopped: {fault}"),
            None => Ok(moved),
        }
    }

    fn take(&mut self, frame: &[u8]) -> Result<()> {
        let Some(received) = Received::parse(frame) else {
            bail!("a frame of {} bytes came damaged", frame.len());
        };
        match (received.kind, &mut self.client) {
            (Kind::Request, _) => {
                let Some(response) = self.response.carrying(received.payload) else {
                    bail!("a request of {} payload bytes came", received.payload.len());
                };
                send(&mut self.rings, response, None)
            }
            (Kind::Data, _) => {
                self.received += 1;
                ensure!(
                    received.number == self.received,
                    "frame {} of a stream came when {} was due",
                    received.number,
                    self.received
                );
                let is_looked_at = self.received.is_multiple_of(WHOLE_EVERY);
                ensure!(
                    received.payload.len() == STREAM_PAYLOAD && (!is_looked_at || received.is_whole()),
                    "frame {} of a stream came damaged",
                    received.number
                );
                if self.received.is_multiple_of(FRAMES_PER_ACK) {
                    return send(&mut self.rings, self.ack.numbered(self.received), None);
                }
                Ok(())
            }
            (Kind::Response | Kind::Ack, Some(client)) => client.take(received),
            (kind, None) => bail!("a {kind:?} came to a guest that asked nothing"),
        }
    }
}

impl Client {
    /// Takes an answer.
    fn take(&mut self, answer: Received<'_>) -> Result<()> {
        let number = answer.number;
        match self.load {
            Load::RequestResponse { .. } => {
                ensure!(
                    answer.kind == Kind::Response && number == self.sent && number == self.answered + 1,
                    "{:?} {number} came when {} was due",
                    answer.kind,
                    self.answered + 1
                );
                let is_right = self.template.numbered(number).ends_with(answer.payload);
                ensure!(
                    is_right && answer.payload.len() == self.load.payload(),
                    "response {number} is not its request's"
                );
                if self.begun.is_some() {
                    let round_trip = self.sent_at.elapsed().as_nanos();
                    self.counted.round_trips_ns.push(u32::try_from(round_trip).unwrap_or(u32::MAX));
                }
            }
            Load::Stream { .. } => {
                let is_next = number == self.answered + FRAMES_PER_ACK && number <= self.sent;
                ensure!(
                    answer.kind == Kind::Ack && is_next,
                    "{:?} {number} came after {}",
                    answer.kind,
                    self.answered
                );
            }
        }
        if self.begun.is_some() && self.counted.elapsed == Duration::ZERO {
            self.counted.transactions += number - self.answered;
        }
        self.answered = number;
        Ok(())
    }

    /// Sends what may be on the way; whether anything was sent.
    fn send(&mut self, rings: &mut Rings, phase: Phase) -> Result<bool> {
        let mut moved = false;
        while !self.is_done && self.sent - self.answered < self.load.window() {
            // Nothing is left behind without an acknowledgement.
            let may_stop = self.sent.is_multiple_of(FRAMES_PER_ACK) || self.load.window() == 1;
            self.follow(phase);
            if phase == Phase::Stop && may_stop {
                self.is_done = self.sent == self.answered;
                return Ok(moved || self.is_done);
            }
            self.sent += 1;
            self.sent_at = Instant::now();
            let segment = matches!(self.load, Load::Stream { .. }).then_some(SEGMENT);
            send(rings, self.template.numbered(self.sent), segment)?;
            moved = true;
        }
        Ok(moved)
    }

    /// Begins and ends to count as the measurement says.
    fn follow(&mut self, phase: Phase) {
        match (phase, self.begun) {
            (Phase::Measure, None) => self.begun = Some(Instant::now()),
            (Phase::Stop, Some(begun)) if self.counted.elapsed == Duration::ZERO => {
                self.counted.elapsed = begun.elapsed();
            }
            _ => {}
        }
    }
}

fn send(rings: &mut Rings, frame: &mut [u8], segment: Option<u16>) -> Result<()> {
    // There are far more slots than frames that can be on their way.
    ensure!(rings.has_slot(), "no transmit slot is free");
    rings.send(frame, segment);
    Ok(())
}
