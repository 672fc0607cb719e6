//! A guest in this process: memory, two rings, and the driver's side of them.

use super::BURST;
use anyhow::{Context, ensure};
use devices::net::{Acknowledged, Features, Offered};
use guestmem::{GuestAddr, GuestMemory};
use std::sync::Arc;
use virtqueue::{DeviceQueue, DriverQueue, IndirectArea, QueueSetup, RingFeatures, RingState};

/// Bytes of the virtio header.
pub(super) const HEADER_LEN: usize = 12;
/// Entries of a ring.
const RING_SIZE: u16 = 1024;
/// Bytes of a receive buffer.
const BUFFER_LEN: u32 = 4096;
/// Descriptors of an indirect table: headers, and 64 KiB in pages.
const TABLE_LEN: u16 = 18;
/// Bytes of a piece of a frame in an indirect table.
const PIECE_LEN: u32 = 4096;

const RECEIVE_RING: GuestAddr = GuestAddr(0);
const TRANSMIT_RING: GuestAddr = GuestAddr(1 << 20);
const TABLES: GuestAddr = GuestAddr(2 << 20);
const RECEIVE_BUFFERS: GuestAddr = GuestAddr(4 << 20);
const TRANSMIT_BUFFERS: GuestAddr = GuestAddr(16 << 20);
const MEMORY_LEN: usize = 24 << 20;

/// What a driver chose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) packed: bool,
    pub(super) in_order: bool,
    /// Segmentation, and several buffers for a frame.
    pub(super) tso: bool,
}

impl Choice {
    pub(super) fn acknowledged(self) -> anyhow::Result<Acknowledged> {
        let tso = Features::MRG_RXBUF
            | Features::CSUM
            | Features::HOST_TSO4
            | Features::GUEST_CSUM
            | Features::GUEST_TSO4;
        let features = if self.tso { Features::VERSION_1 | tso } else { Features::VERSION_1 };
        Ok(Acknowledged::new(Offered::new(Features::all()), features.bits())?)
    }

    fn ring(self) -> RingFeatures {
        let Self { packed, in_order, .. } = self;
        RingFeatures { packed, in_order, indirect: true, event_idx: !in_order, ..RingFeatures::default() }
    }
}

/// The driver's side of a guest with one queue pair.
pub(super) struct Guest {
    pub(super) memory: Arc<GuestMemory>,
    receive: (DriverQueue, QueueSetup),
    transmit: (DriverQueue, QueueSetup),
}

impl Guest {
    /// A guest whose receive ring is full of buffers.
    pub(super) fn new(choice: Choice) -> anyhow::Result<Self> {
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), MEMORY_LEN)?);
        let ring =
            |base, tables| DriverQueue::setup(&memory, base, RING_SIZE.try_into()?, choice.ring(), tables);
        let tables = IndirectArea { base: TABLES, entries: TABLE_LEN };
        let mut guest = Self {
            receive: ring(RECEIVE_RING, None)?,
            transmit: ring(TRANSMIT_RING, Some(tables))?,
            memory: Arc::clone(&memory),
        };
        (0..u64::from(RING_SIZE)).try_for_each(|index| guest.add_buffer(index))?;
        guest.receive.0.publish();
        Ok(guest)
    }

    /// The device's side of the receive queue.
    pub(super) fn receive_queue(&self) -> anyhow::Result<DeviceQueue> {
        Ok(DeviceQueue::new(&self.memory, &self.receive.1, start())?)
    }

    /// The device's side of the transmit queue.
    pub(super) fn transmit_queue(&self) -> anyhow::Result<DeviceQueue> {
        Ok(DeviceQueue::new(&self.memory, &self.transmit.1, start())?)
    }

    /// Writes what is to be sent from transmit buffer `index`: virtio header and frame, buffers `apart` bytes from one another.
    pub(super) fn write(&self, index: usize, apart: usize, bytes: &[u8]) -> anyhow::Result<GuestAddr> {
        let addr = GuestAddr(TRANSMIT_BUFFERS.0 + (index * apart) as u64);
        self.memory.slice(addr, bytes.len()).context("no room for a frame")?.write(bytes);
        Ok(addr)
    }

    /// Makes a burst of frames available to the device, each in one descriptor or, where it is longer than a page, in a table.
    pub(super) fn send(&mut self, frames: &[(GuestAddr, u32)]) -> anyhow::Result<()> {
        let queue = &mut self.transmit.0;
        for &(addr, len) in frames {
            if len <= PIECE_LEN {
                queue.add(&[(addr, len)], &[], 0)?;
                continue;
            }
            let piece = |at: u32| (GuestAddr(addr.0 + u64::from(at)), PIECE_LEN.min(len - at));
            let pieces: Vec<_> = (0..len).step_by(PIECE_LEN as usize).map(piece).collect();
            queue.add_indirect(&pieces, &[], 0)?;
        }
        queue.publish();
        Ok(())
    }

    /// Takes the burst back that was sent.
    pub(super) fn finish_sent(&mut self, frames: usize) -> anyhow::Result<()> {
        for _ in 0..frames {
            self.transmit.0.pop_used()?.context("a frame was not completed")?;
        }
        ensure!(self.transmit.0.pop_used()?.is_none(), "more was completed than sent");
        Ok(())
    }

    /// Takes what was received and gives the buffers back to the device; how many bytes there were, virtio headers included.
    pub(super) fn receive(&mut self) -> anyhow::Result<u64> {
        let mut bytes = 0;
        while let Some((index, written)) = self.receive.0.pop_used()? {
            bytes += u64::from(written);
            self.add_buffer(index)?;
        }
        self.receive.0.publish();
        Ok(bytes)
    }

    fn add_buffer(&mut self, index: u64) -> anyhow::Result<()> {
        let addr = GuestAddr(RECEIVE_BUFFERS.0 + index * u64::from(BUFFER_LEN));
        Ok(self.receive.0.add(&[], &[(addr, BUFFER_LEN)], index)?)
    }
}

fn start() -> RingState {
    RingState { avail_wrap: true, used_wrap: true, ..RingState::default() }
}

/// A frame of `len` bytes from station `from` to station `to` behind a virtio header without a wish.
pub(super) fn frame(to: [u8; 6], from: [u8; 6], len: u32) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    bytes.extend(to);
    bytes.extend(from);
    // IPv4, UDP.
    bytes.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend([0, 9, 0, 9, 0, 26, 0, 0]);
    bytes.resize(HEADER_LEN + len as usize, 0x5a);
    bytes
}

/// As [`frame`], TCP that is to be segmented by 1448 bytes.
pub(super) fn large_frame(to: [u8; 6], from: [u8; 6], len: u32) -> Vec<u8> {
    let mut bytes = frame(to, from, len);
    // NEEDS_CSUM, TCPV4; header of 54 bytes; size 1448; checksum 16 bytes into the transport header at 34.
    bytes[..HEADER_LEN].copy_from_slice(&[1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
    bytes[HEADER_LEN + 23] = 6;
    bytes[HEADER_LEN + 46] = 0x50;
    bytes
}

/// The address of station `index`.
pub(super) fn station(index: usize) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, index as u8]
}

/// Frames of `len` bytes that are sent in one burst.
pub(super) fn burst_len(len: u32) -> usize {
    if len > PIECE_LEN { BURST / 4 } else { BURST }
}

/// Bytes of the indirect table that a frame of `len` bytes is sent with.
#[cfg(test)]
pub(super) fn table_size(len: u32) -> u64 {
    const DESCRIPTOR_SIZE: u64 = 16;
    let len = u64::from(len) + HEADER_LEN as u64;
    if len <= u64::from(PIECE_LEN) { 0 } else { len.div_ceil(PIECE_LEN.into()) * DESCRIPTOR_SIZE }
}
