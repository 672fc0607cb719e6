//! A frame's whole way: pop, open, decide, deliver, complete, by the program's own forwarder.

use super::Meter;
use super::guest::{Choice, Guest, HEADER_LEN, burst_len, frame, large_frame, station};
use anyhow::ensure;
use guestmem::MemSlice;
use ringway::plane::rig::{Rig, RigGuest};

/// Where the frames of a burst go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    One,
    /// To each of so many ports in turn.
    Turns(usize),
    /// Broadcasts, to so many ports.
    All(usize),
}

/// A way: from port 0 to others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) packed: bool,
    pub(super) in_order: bool,
    pub(super) tso: bool,
    /// The sender is private memory, as of an interface of the host.
    pub(super) private: bool,
    pub(super) target: Target,
    /// Bytes of a frame.
    pub(super) len: u32,
}

/// What DPDK's driver chooses.
pub(super) const SMALL: Way =
    Way { packed: false, in_order: true, tso: false, private: false, target: Target::One, len: 64 };
/// What Linux' driver chooses.
pub(super) const ANY_ORDER: Way = Way { in_order: false, ..SMALL };

/// Sends bursts from port 0 and counts the device's part.
pub(super) fn run(meter: &mut Meter, way: &Way) -> anyhow::Result<()> {
    let receivers = match way.target {
        Target::One => 1,
        Target::Turns(count) | Target::All(count) => count,
    };
    let choice = Choice { packed: way.packed, in_order: way.in_order, tso: way.tso };
    let guests = (0..=receivers).map(|_| Guest::new(choice)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut stage = Stage::new(guests, choice)?;
    let mut burst: Vec<Vec<u8>> = (0..burst_len(way.len)).map(|index| way.frame(index)).collect();
    let apart = burst[0].len().next_multiple_of(2048) + 128;
    let mut frames = Vec::new();
    for (index, bytes) in burst.iter().enumerate() {
        frames.push((stage.guests[0].write(index, apart, bytes)?, bytes.len() as u32));
    }
    let bodies: Vec<MemSlice<'_>> = burst.iter_mut().map(|bytes| MemSlice::from_mut(bytes)).collect();
    while meter.goes_on() {
        if !way.private {
            stage.guests[0].send(&frames)?;
        }
        let mut served = 0;
        let rig = &mut stage.rig;
        meter.count(frames.len(), || {
            if way.private {
                rig.serve_private(0, &bodies);
                served = bodies.len();
            } else {
                served = rig.serve(0);
            }
        });
        ensure!(served == frames.len(), "{served} of {} frames were served", frames.len());
        stage.take(if way.private { 0 } else { frames.len() }, way)?;
    }
    Ok(())
}

impl Way {
    /// Frame `index` of a burst, behind its virtio header.
    fn frame(&self, index: usize) -> Vec<u8> {
        let to = match self.target {
            Target::One => station(1),
            Target::Turns(count) => station(1 + index % count),
            Target::All(_) => [0xff; 6],
        };
        if self.tso { large_frame(to, station(0), self.len) } else { frame(to, station(0), self.len) }
    }

    /// Frames of a burst of `count` that one receiver gets.
    fn share(&self, count: usize) -> usize {
        if let Target::Turns(receivers) = self.target { count / receivers } else { count }
    }
}

/// Guests on a switch that knows where each of them is.
struct Stage {
    guests: Vec<Guest>,
    rig: Rig,
}

impl Stage {
    fn new(guests: Vec<Guest>, choice: Choice) -> anyhow::Result<Self> {
        let mut devices = Vec::new();
        for guest in &guests {
            devices.push(RigGuest {
                acknowledged: choice.acknowledged()?,
                memory: guest.memory.clone(),
                receive: guest.receive_queue()?,
                transmit: guest.transmit_queue()?,
            });
        }
        let mut stage = Self { guests, rig: Rig::new(devices)? };
        for index in 0..stage.guests.len() {
            let hello = frame([0xff; 6], station(index), 64);
            let addr = stage.guests[index].write(0, 0, &hello)?;
            stage.guests[index].send(&[(addr, hello.len() as u32)])?;
            ensure!(stage.rig.serve(index) == 1, "the first frame of port {index} was not served");
            stage.guests[index].finish_sent(1)?;
        }
        stage.guests.iter_mut().try_for_each(|guest| guest.receive().map(drop))?;
        Ok(stage)
    }

    /// The drivers' part after a burst: everything that was due has come, and the buffers go back.
    fn take(&mut self, sent: usize, way: &Way) -> anyhow::Result<()> {
        self.guests[0].finish_sent(sent)?;
        let each = u64::from(way.len) + HEADER_LEN as u64;
        for (port, guest) in self.guests.iter_mut().enumerate() {
            let expected = if port == 0 { 0 } else { way.share(burst_len(way.len)) as u64 * each };
            let bytes = guest.receive()?;
            ensure!(bytes == expected, "port {port} received {bytes} bytes, not {expected}");
        }
        Ok(())
    }
}
