//! A guest of our own in this process: memory, a receive and a transmit ring, a front-end.
//!
//! What the benches send through it is decided frame by frame, so they can use what testpmd cannot: whole TSO frames whose
//! arrival is checked, and one frame at a time with a driver that sleeps. The rings are those of the crate `virtqueue`; the
//! session is spoken by the crate `vhost`, or by `vfio_user` where the port is a whole function. A station is made for one device and given to it by [`Station::attach`], or
//! served in this process ([`Station::receive_ring`], [`Station::transmit_ring`]).
//!
//! A frame is sent from one slot of fixed size, given back when the device has used it. Receive buffers are posted again as
//! soon as they were looked at. As a Linux guest does, a station asks for no calls while it works, and for none at all about
//! what it has sent.

mod function;
mod ram;
mod rings;
mod session;

pub use function::{CONFIG_LEN, Function, Registers};
pub use ram::{Pages, Ram};
pub use rings::Ring;
pub(crate) use rings::eventfd;
pub use session::{Session, Socket};

use anyhow::{Context, ensure};
use devices::net::Features;
use guestmem::{GuestAddr, GuestMemory, MemSlice};
use std::path::Path;
use std::sync::Arc;

/// Bytes of a virtio-net header with the number of buffers (virtio 1.3 §5.1.6).
pub const HEADER: usize = 12;
/// Bytes of a frame that a station looks at, at its beginning.
pub const HEAD: usize = 66;
/// Bytes of a frame that a station looks at, at its end.
pub const TAIL: usize = 8;
/// Bytes of a frame in one descriptor of a chain, at most: how Linux gives a socket's bytes to a device.
const PIECE: u32 = 32 << 10;
/// Where the bytes behind the head lie in the slot of a longer frame. They are not aligned as the receiver's are, as a
/// socket's bytes are not.
const REST: u64 = 128;

/// How large a station is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Entries of each ring.
    pub ring: u16,
    /// Bytes of a receive buffer, and there are as many as entries.
    pub buffer: u32,
    /// Frames that can be on their way from here.
    pub slots: u16,
    /// Bytes of the longest frame, without the virtio-net header.
    pub frame: u32,
    /// What backs its memory.
    pub pages: Pages,
}

/// A received frame, as far as a station looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The virtio-net header.
    pub header: [u8; HEADER],
    /// Its first bytes; what lies behind its end is 0.
    pub head: [u8; HEAD],
    /// Its last bytes.
    pub tail: [u8; TAIL],
    /// Its length in bytes, the header left out.
    pub len: u32,
}

/// A guest of our own.
pub struct Station {
    // First, so that the rings are stopped before their memory goes.
    session: Option<Session>,
    function: Option<Function>,
    ram: Ram,
    memory: Arc<GuestMemory>,
    receive: Ring,
    transmit: Ring,
    shape: Shape,
    buffers: GuestAddr,
    slots: GuestAddr,
    free: Vec<u16>,
}

impl Station {
    /// A station of this shape for a device with these features, its receive buffers posted.
    ///
    /// Errors: no memory, or a shape that no ring can have.
    pub fn new(shape: Shape, features: Features) -> anyhow::Result<Self> {
        let slot = Self::slot_len(shape);
        let buffers_len = u64::from(shape.ring) * u64::from(shape.buffer);
        let rings = 2 * (32 * u64::from(shape.ring) + (64 << 10));
        let mut ram = Ram::new(rings + buffers_len + u64::from(shape.slots) * slot + 16384, shape.pages)?;
        let receive = Ring::new(&mut ram, shape.ring, features)?;
        let transmit = Ring::new(&mut ram, shape.ring, features)?;
        let buffers = ram.take(buffers_len, 4096)?;
        let slots = ram.take(u64::from(shape.slots) * slot, 4096)?;
        let memory = Arc::clone(ram.memory());
        let free = (0..shape.slots).rev().collect();
        let mut station = Self {
            session: None,
            function: None,
            ram,
            memory,
            receive,
            transmit,
            shape,
            buffers,
            slots,
            free,
        };
        for buffer in 0..shape.ring {
            station.post(u64::from(buffer))?;
        }
        station.receive.publish()?;
        Ok(station)
    }

    /// A station at the port behind `socket`, with the features of `wanted` that the device has and all of `needed`.
    ///
    /// Errors: as [`Session::open`] and [`Station::new`]; a session that the back-end breaks.
    pub fn attach(socket: &Socket, shape: Shape, wanted: Features, needed: Features) -> anyhow::Result<Self> {
        let mut session = Session::open(socket, wanted, needed)?;
        let mut station = Self::new(shape, session.features)?;
        session.start(&station.ram, &[&station.receive, &station.transmit])?;
        station.session = Some(session);
        Ok(station)
    }

    /// A station at the vfio-user port behind `socket`, whose doorbells are a mapped page where there is one; else as [`Station::attach`].
    ///
    /// Errors: as [`Function::open`] and [`Station::new`]; a function that refuses.
    pub fn attach_function(
        socket: &Path,
        shape: Shape,
        wanted: Features,
        needed: Features,
    ) -> anyhow::Result<Self> {
        let mut function = Function::open(socket, wanted, needed)?;
        let mut station = Self::new(shape, function.features)?;
        function.start(&station.ram, [&mut station.receive, &mut station.transmit])?;
        station.function = Some(function);
        Ok(station)
    }

    /// The features of its session or function; none of a station for a device in this process.
    pub fn features(&self) -> Features {
        let session = self.session.as_ref().map(|session| session.features);
        let function = self.function.as_ref().map(|function| function.features);
        session.or(function).unwrap_or(Features::empty())
    }

    /// The registers of its function, if it has one.
    pub fn registers(&self) -> Option<Registers> {
        self.function.as_ref().map(Function::registers)
    }

    /// The memory, for a device in this process.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The ring that frames come by.
    pub fn receive_ring(&mut self) -> &mut Ring {
        &mut self.receive
    }

    /// The ring that frames go by.
    pub fn transmit_ring(&mut self) -> &mut Ring {
        &mut self.transmit
    }

    /// A slot that is free, if the device has left one. It stays taken until it was sent and used.
    pub fn slot(&mut self) -> anyhow::Result<Option<u16>> {
        if self.free.is_empty() {
            while let Some((slot, _)) = self.transmit.queue.pop_used()? {
                self.free.push(slot as u16);
            }
        }
        Ok(self.free.pop())
    }

    /// Bytes of a slot from its beginning on: the virtio-net header, then the frame or, of one that goes in pieces, its first
    /// [`HEAD`] bytes.
    pub fn slot_bytes(&self, slot: u16) -> anyhow::Result<MemSlice<'_>> {
        let len = Self::slot_len(self.shape) as usize;
        self.memory.slice(self.slot_addr(slot), len).context("a slot")
    }

    /// The last [`TAIL`] bytes of the frame of `len` bytes in a slot.
    pub fn slot_tail(&self, slot: u16, len: u32) -> anyhow::Result<MemSlice<'_>> {
        let start = if is_cut(len) { REST as usize - HEAD } else { HEADER };
        self.slot_bytes(slot)?.sub(start + len as usize - TAIL, TAIL).context("a frame's end")
    }

    /// Sends what stands in a slot: header and `len` bytes. The device sees it after [`Ring::publish`].
    ///
    /// A frame longer than a piece goes as its head and pieces.
    pub fn send(&mut self, slot: u16, len: u32) -> anyhow::Result<()> {
        let start = self.slot_addr(slot);
        let mut pieces = [(start, HEADER as u32 + len); 4];
        let mut count = 1;
        if is_cut(len) {
            pieces[0].1 = (HEADER + HEAD) as u32;
            let (mut at, mut left) = (start.0 + REST, len - HEAD as u32);
            while left > 0 {
                let now = left.min(PIECE);
                *pieces.get_mut(count).context("a frame of too many pieces")? = (GuestAddr(at), now);
                (at, left, count) = (at + u64::from(now), left - now, count + 1);
            }
        }
        self.transmit
            .queue
            .add(&pieces[..count], &[], u64::from(slot))
            .context("more slots than the ring takes")
    }

    /// The next frame that came. Its buffers are posted again; the device sees them after [`Ring::publish`].
    ///
    /// Errors: a device that breaks the rules of virtio-net, or an end of a frame that lies in two buffers.
    pub fn receive(&mut self) -> anyhow::Result<Option<Received>> {
        let Some((first, written)) = self.receive.queue.pop_used()? else { return Ok(None) };
        let mut bytes = [0; HEADER + HEAD];
        let got = self.buffer_bytes(first, written)?.read(&mut bytes);
        ensure!(got >= HEADER, "a used length of {written} bytes");
        let (header, head) = bytes.split_at(HEADER);
        let (header, head): ([u8; HEADER], [u8; HEAD]) = (header.try_into()?, head.try_into()?);
        let (mut last, mut last_len, mut len) = (first, written, written - HEADER as u32);
        for _ in 1..u16::from_le_bytes([header[10], header[11]]) {
            self.post(last)?;
            let next = self.receive.queue.pop_used()?;
            (last, last_len) = next.context("fewer buffers than the header says")?;
            len += last_len;
        }
        let end = self.buffer_bytes(last, last_len)?;
        let from = end.len().checked_sub(TAIL).context("a frame's end in two buffers")?;
        let mut tail = [0; TAIL];
        end.split_at(from).1.read(&mut tail);
        self.post(last)?;
        Ok(Some(Received { header, head, tail, len }))
    }

    fn post(&mut self, buffer: u64) -> anyhow::Result<()> {
        let room = (self.buffer_addr(buffer), self.shape.buffer);
        self.receive.queue.add(&[], &[room], buffer).context("post a receive buffer")
    }

    fn buffer_bytes(&self, buffer: u64, len: u32) -> anyhow::Result<MemSlice<'_>> {
        self.memory.slice(self.buffer_addr(buffer), len as usize).context("a receive buffer")
    }

    fn slot_len(shape: Shape) -> u64 {
        (REST + u64::from(shape.frame)).next_multiple_of(64)
    }

    fn slot_addr(&self, slot: u16) -> GuestAddr {
        GuestAddr(self.slots.0 + u64::from(slot) * Self::slot_len(self.shape))
    }

    fn buffer_addr(&self, buffer: u64) -> GuestAddr {
        GuestAddr(self.buffers.0 + buffer * u64::from(self.shape.buffer))
    }
}

/// Whether a frame of `len` bytes goes in pieces.
fn is_cut(len: u32) -> bool {
    len > PIECE
}
