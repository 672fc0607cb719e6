//! The pieces of a frame's way by themselves: 64-byte frames, as DPDK's driver sends them.

use super::guest::{Choice, Guest, frame, station};
use super::{BURST, Meter};
use anyhow::ensure;
use devices::net::receive::deliver_burst;
use devices::net::{Frame, Offload, ReceiveRules, Software, TransmitRules, transmit};
use guestmem::{GuestAddr, GuestMemory};
use std::hint::black_box;
use std::sync::Arc;
use switch::{Bridge, BridgeConfig, Decision, DropReason, Head, Now, PortId, PortSettings, Verdict};
use virtqueue::{Burst, DeviceQueue, Endian};

const LEN: u32 = 64;

fn choice(packed: bool) -> Choice {
    Choice { packed, in_order: true, tso: false }
}

/// A guest that sends, its transmit queue, and its frames.
struct Sender {
    guest: Guest,
    queue: DeviceQueue,
    frames: Vec<(GuestAddr, u32)>,
}

impl Sender {
    fn new(packed: bool) -> anyhow::Result<Self> {
        let guest = Guest::new(choice(packed))?;
        let queue = guest.transmit_queue()?;
        let bytes = frame(station(1), station(0), LEN);
        let frames: anyhow::Result<Vec<_>> =
            (0..BURST).map(|index| Ok((guest.write(index, 2176, &bytes)?, bytes.len() as u32))).collect();
        Ok(Self { guest, queue, frames: frames? })
    }

    fn memory(&self) -> Arc<GuestMemory> {
        Arc::clone(&self.guest.memory)
    }
}

/// A chain from the ring and back to it.
pub(super) fn pop_and_complete(meter: &mut Meter, packed: bool) -> anyhow::Result<()> {
    let mut sender = Sender::new(packed)?;
    let memory = sender.memory();
    let mut burst = Burst::new();
    while meter.goes_on() {
        sender.guest.send(&sender.frames)?;
        let (queue, mut popped) = (&mut sender.queue, Ok(0));
        meter.count(BURST, || {
            popped = queue.pop(&memory, &mut burst, BURST);
            queue.complete_rest(&mut burst);
            black_box(queue.flush());
        });
        ensure!(popped? == BURST, "not all was popped");
        burst = burst.recycle();
        sender.guest.finish_sent(BURST)?;
    }
    Ok(())
}

/// From a chain to a validated frame.
pub(super) fn open(meter: &mut Meter) -> anyhow::Result<()> {
    let mut sender = Sender::new(false)?;
    let memory = sender.memory();
    let rules = TransmitRules::new(choice(false).acknowledged()?, Endian::Little);
    let mut heads = [[0; 256]; BURST];
    let mut burst = Burst::new();
    while meter.goes_on() {
        sender.guest.send(&sender.frames)?;
        let popped = sender.queue.pop(&memory, &mut burst, BURST)?;
        ensure!(popped == BURST, "not all was popped");
        let mut bytes = 0;
        meter.count(BURST, || {
            for (chain, head) in burst.chains().iter().zip(&mut heads) {
                if let Ok(frame) = transmit::open(&rules, &burst, chain, head) {
                    bytes += black_box(&frame).len();
                }
            }
        });
        ensure!(bytes == BURST as u32 * LEN, "not all was opened");
        while let Some(chain) = burst.take() {
            sender.queue.complete(&burst, chain, 0);
        }
        burst = burst.recycle();
        sender.queue.flush();
        sender.guest.finish_sent(BURST)?;
    }
    Ok(())
}

/// The switch's verdicts on a burst, heads parsed.
pub(super) fn decide(meter: &mut Meter) -> anyhow::Result<()> {
    let bridge = Bridge::new(BridgeConfig::new(1));
    for port in [0, 1] {
        bridge.add_port(PortId(port), PortSettings::default())?;
    }
    let bytes = [0, 1].map(|from| frame(station(1 - from), station(from), LEN).split_off(12));
    let now = Now::from_millis(0);
    let known = Head::parse(&bytes[1]).map_err(|reason| anyhow::anyhow!("{}", reason.name()))?;
    let _ = bridge.view().decide(PortId(1), &known, now);
    let mut heads = Vec::with_capacity(BURST);
    let mut decisions = [Decision::drop(DropReason::NoReceiver); BURST];
    while meter.goes_on() {
        meter.count(BURST, || {
            heads.clear();
            heads.extend((0..BURST).flat_map(|_| Head::parse(black_box(&bytes[0]))));
            bridge.view().decide_burst(PortId(0), &heads, now, &mut decisions);
        });
        let verdicts = decisions.iter().map(|decision| decision.verdict);
        ensure!(verdicts.clone().all(|verdict| verdict == Verdict::Unicast(PortId(1))), "{verdicts:?}");
    }
    Ok(())
}

/// Frames into the receiver's buffers.
pub(super) fn deliver(meter: &mut Meter, packed: bool) -> anyhow::Result<()> {
    let mut receiver = Guest::new(choice(packed))?;
    let mut queue = receiver.receive_queue()?;
    let memory = Arc::clone(&receiver.memory);
    let rules = ReceiveRules::new(choice(packed).acknowledged()?, Endian::Little);
    let bytes = frame(station(1), station(0), LEN).split_off(12);
    let frames = [Frame::private(&bytes, Offload::None); BURST];
    let mut software = Software::new();
    let mut burst = Burst::new();
    while meter.goes_on() {
        let mut delivered = 0;
        meter.count(BURST, || {
            let done = deliver_burst(&mut queue, &memory, &mut burst, &rules, &mut software, &frames);
            delivered = done.map_or(0, |delivered| delivered.frames as usize);
            black_box(queue.flush());
        });
        burst = burst.recycle();
        ensure!(delivered == BURST, "not all was delivered");
        receiver.receive()?;
    }
    Ok(())
}
