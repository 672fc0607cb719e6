//! The driver of one virtio-blk queue: keeps so many requests under way, and notes when they are answered.
//!
//! A request is a chain of three descriptors: header, data, status (virtio 1.3 §5.2.6). Each of the slots that requests are made in has its
//! own data, so a server copies from and to memory that moves through the caches as a guest's does. FLUSH is acknowledged, so the
//! server need not write through; it keeps no record of what is in flight, which the front-end does not ask for.

use super::{Load, Wait};
use crate::station::{Pages, Ram, Ring, Session, Socket};
use anyhow::{Context, ensure};
use devices::{blk, net::Features};
use guestmem::{GuestAddr, GuestMemory};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entries of the ring.
const RING: u16 = 256;
const HEADER: u32 = 16;
/// Each slot's header and status have a cache line of their own.
const LINE: u64 = 64;
const SECTOR: u64 = 512;
/// A request's type, and its status if all is well (virtio 1.3 §5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const OK: u8 = 0;
/// What stands in a status that nobody wrote.
const UNWRITTEN: u8 = 0xff;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a window gave.
#[derive(Debug)]
pub(super) struct Window {
    requests: u64,
    passed: Duration,
    server_ns: u64,
    /// Nanoseconds of each request, where there is one at a time.
    times: Vec<u32>,
}

impl Window {
    /// Requests a second.
    pub(super) fn rate(&self) -> f64 {
        self.requests as f64 / self.passed.as_secs_f64()
    }

    /// Requests for each second of the server's processor time.
    pub(super) fn per_core(&self) -> f64 {
        self.requests as f64 * 1e9 / self.server_ns.max(1) as f64
    }

    /// The time below which this share of requests lies, in nanoseconds.
    pub(super) fn percentile(&mut self, share: f64) -> Option<f64> {
        self.times.sort_unstable();
        self.times.get((self.times.len() as f64 * share) as usize).map(|&ns| f64::from(ns))
    }
}

/// A driver at a disk.
pub(super) struct Driver {
    // First, so that the ring is stopped before its memory goes.
    _session: Session,
    ring: Ring,
    memory: Arc<GuestMemory>,
    lines: GuestAddr,
    data: GuestAddr,
    slot_len: u32,
    disk_len: u64,
    free: Vec<u16>,
    slots: u16,
    random: u64,
    next: u64,
}

impl Driver {
    /// A driver with `slots` requests of `slot_len` bytes of data at most, at the disk of `disk_len` bytes behind `socket`.
    ///
    /// Errors: as [`Session::open`]; no memory; a session that the server breaks.
    pub(super) fn attach(socket: &Path, disk_len: u64, slots: u16, slot_len: u32) -> anyhow::Result<Self> {
        // A session's type names the bits of a NIC; those from 24 on are the same for all devices.
        let wanted = Features::EVENT_IDX | Features::from_bits_retain(blk::features::Features::FLUSH.bits());
        let mut session = Session::open(&Socket::Theirs(socket.to_owned()), wanted, Features::empty())?;
        let count = u64::from(slots);
        let mut ram = Ram::new(count * (2 * LINE + u64::from(slot_len)) + (64 << 10), Pages::Ordinary)?;
        let ring = Ring::new(&mut ram, RING, session.features)?;
        let lines = ram.take(count * 2 * LINE, LINE)?;
        let data = ram.take(count * u64::from(slot_len), 4096)?;
        session.start(&ram, &[&ring])?;
        let memory = Arc::clone(ram.memory());
        let free = (0..slots).collect();
        let random = 0x9e37_79b9_7f4a_7c15;
        Ok(Self {
            _session: session,
            ring,
            memory,
            lines,
            data,
            slot_len,
            disk_len,
            free,
            slots,
            random,
            next: 0,
        })
    }

    /// Writes a block and reads it into other memory: the server does what it says.
    pub(super) fn write_and_read_back(&mut self) -> anyhow::Result<()> {
        let (mut written, mut read) = ([0; 4096], [0; 4096]);
        (0u32..)
            .zip(&mut written)
            .for_each(|(index, byte)| *byte = (index.wrapping_mul(0x9e37_79b9) >> 24) as u8);
        let offset = self.disk_len / 2;
        let slot = self.take()?;
        self.data(slot)?.write(&written);
        self.submit(slot, OUT, offset, 4096)?;
        self.drain()?;
        let slot = self.take()?;
        self.data(slot)?.fill(0);
        self.submit(slot, IN, offset, 4096)?;
        self.drain()?;
        self.data(slot)?.read(&mut read);
        ensure!(read == written, "what was read is not what was written");
        Ok(())
    }

    /// Keeps a load up for `length`; `server_ns` is the server's processor time until now. What is under way at the end is waited for and
    /// not counted.
    ///
    /// Errors: a request that fails, or is not answered in 20 s.
    pub(super) fn window(
        &mut self,
        load: Load,
        length: Duration,
        server_ns: impl Fn() -> anyhow::Result<u64>,
    ) -> anyhow::Result<Window> {
        ensure!(load.bytes <= self.slot_len && load.depth <= self.slots, "{load:?} is too large");
        let kind = if load.write { OUT } else { IN };
        let mut times = Vec::with_capacity(if load.depth == 1 { 1 << 20 } else { 0 });
        let (server_before, start) = (server_ns()?, Instant::now());
        let (mut requests, mut under_way, mut now) = (0, 0, start);
        while now - start < length {
            while under_way < load.depth {
                let (slot, offset) = (self.take()?, self.place(load));
                self.submit(slot, kind, offset, load.bytes)?;
                under_way += 1;
            }
            self.ring.publish()?;
            let answered = self.wait(load.wait)?;
            let end = Instant::now();
            if load.depth == 1 {
                times.push(u32::try_from((end - now).as_nanos()).unwrap_or(u32::MAX));
            }
            (requests, under_way, now) = (requests + u64::from(answered), under_way - answered, end);
        }
        let window = Window { requests, passed: now - start, server_ns: server_ns()? - server_before, times };
        self.drain()?;
        Ok(window)
    }

    /// Where the next request goes: a multiple of its length.
    fn place(&mut self, load: Load) -> u64 {
        let bytes = u64::from(load.bytes);
        let step = if load.random {
            // Xorshift: every number but 0 comes once in 2^64 steps.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random
        } else {
            self.next += 1;
            self.next
        };
        step % (self.disk_len / bytes) * bytes
    }

    fn take(&mut self) -> anyhow::Result<u16> {
        self.free.pop().context("no slot is free")
    }

    /// Makes a request; the server sees it when the ring is published.
    fn submit(&mut self, slot: u16, kind: u32, offset: u64, len: u32) -> anyhow::Result<()> {
        let mut header = [0; HEADER as usize];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&(offset / SECTOR).to_le_bytes());
        let (head, status) = (self.header(slot), self.status(slot));
        self.memory.slice(head, HEADER as usize).context("a header")?.write(&header);
        self.memory.slice(status, 1).context("a status")?.write(&[UNWRITTEN]);
        let (head, data, status) = ((head, HEADER), (self.data_addr(slot), len), (status, 1));
        let token = u64::from(slot);
        let added = if kind == OUT {
            self.ring.queue.add(&[head, data], &[status], token)
        } else {
            self.ring.queue.add(&[head], &[data, status], token)
        };
        added.context("more requests than the ring takes")
    }

    /// Waits until something is answered, and takes all that is.
    fn wait(&mut self, wait: Wait) -> anyhow::Result<u16> {
        let answered = self.reap()?;
        if answered > 0 {
            return Ok(answered);
        }
        let start = Instant::now();
        loop {
            if wait == Wait::Sleep {
                self.ring.sleep(PATIENCE)?;
            }
            // Looking at the clock takes longer than looking at the ring.
            for _ in 0..64 {
                let answered = self.reap()?;
                if answered > 0 {
                    return Ok(answered);
                }
                std::hint::spin_loop();
            }
            ensure!(start.elapsed() < PATIENCE, "no answer in {PATIENCE:?}");
        }
    }

    /// Takes what is answered.
    fn reap(&mut self) -> anyhow::Result<u16> {
        let mut count = 0;
        while let Some((slot, _)) = self.ring.queue.pop_used()? {
            let (slot, mut status) = (slot as u16, [0]);
            self.memory.slice(self.status(slot), 1).context("a status")?.read(&mut status);
            ensure!(status == [OK], "a request failed with status {}", status[0]);
            self.free.push(slot);
            count += 1;
        }
        Ok(count)
    }

    /// Shows the server what it was not shown yet, and waits for all that is under way.
    fn drain(&mut self) -> anyhow::Result<()> {
        self.ring.publish()?;
        while self.free.len() < usize::from(self.slots) {
            self.wait(Wait::Poll)?;
        }
        Ok(())
    }

    fn header(&self, slot: u16) -> GuestAddr {
        GuestAddr(self.lines.0 + u64::from(slot) * 2 * LINE)
    }

    fn status(&self, slot: u16) -> GuestAddr {
        GuestAddr(self.header(slot).0 + LINE)
    }

    fn data_addr(&self, slot: u16) -> GuestAddr {
        GuestAddr(self.data.0 + u64::from(slot) * u64::from(self.slot_len))
    }

    /// A slot's data, its first block.
    fn data(&self, slot: u16) -> anyhow::Result<guestmem::MemSlice<'_>> {
        self.memory.slice(self.data_addr(slot), 4096).context("a slot's data")
    }
}
