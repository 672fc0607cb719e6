//! A client made of bytes, and a host that carries out what it is told and remembers it.

use guestmem::GuestAddr;
use rustix::event::{EventfdFlags, eventfd as new_eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use transport::pci::{Description, Interface, NotifyKind};
use transport::vfio_user::{Channel, ClientFault, Event, Offer, Outcome, Outgoing, Session};
use virtqueue::{Endian, QueueSize, RingState};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const MAC: u64 = 1 << 5;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const RING_RESET: u64 = 1 << 40;

pub(crate) const VERSION: u16 = 1;
pub(crate) const DMA_MAP: u16 = 2;
pub(crate) const DMA_UNMAP: u16 = 3;
pub(crate) const GET_INFO: u16 = 4;
pub(crate) const GET_REGION_INFO: u16 = 5;
pub(crate) const GET_REGION_IO_FDS: u16 = 6;
pub(crate) const GET_IRQ_INFO: u16 = 7;
pub(crate) const SET_IRQS: u16 = 8;
pub(crate) const REGION_READ: u16 = 9;
pub(crate) const REGION_WRITE: u16 = 10;
pub(crate) const RESET: u16 = 13;
pub(crate) const WRITE_MULTI: u16 = 15;

pub(crate) const NO_REPLY: u32 = 0x10;
pub(crate) const EEXIST: u32 = 17;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const ENOTSUP: u32 = 95;

/// What QEMU 11.1 says of itself.
pub(crate) const QEMU_CAPABILITIES: &str = r#"{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,"max_data_xfer_size":1048576,"migration":{"max_bitmap_size":268435456,"pgsize":4096},"write_multiple":true}}"#;

pub(crate) fn memfd(len: u64) -> OwnedFd {
    let file = memfd_create("transport-test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

pub(crate) fn eventfd() -> OwnedFd {
    new_eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// How often an eventfd was signalled since this was last asked.
pub(crate) fn signals(fd: impl AsFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}

pub(crate) fn signal(fd: impl AsFd) {
    rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
}

/// A network device with one pair of queues and a control queue.
pub(crate) fn description(interface: Interface) -> Description {
    Description {
        device_type: 1,
        class: 0x02_0000,
        interface,
        notify: if interface == Interface::Legacy { vec![] } else { vec![NotifyKind::Mmio] },
        mapped: false,
        notification_data: false,
        msix: true,
        features: u128::from(MAC | EVENT_IDX),
        queue_size_max: vec![QueueSize::try_from(256).unwrap(); 3],
        admin_queue: None,
        config: (1..=60).collect(),
        endian: Endian::Little,
        shared_memory: vec![],
        vendor: None,
        sr_iov: None,
    }
}

/// What the host keeps of what it offered.
pub(crate) struct HostEnd {
    pub(crate) kicks: Vec<OwnedFd>,
    pub(crate) interrupt: OwnedFd,
}

pub(crate) fn offer(function: Description) -> (Offer, HostEnd) {
    let queues = function.queue_size_max.len() + usize::from(function.admin_queue.is_some());
    let kicks: Vec<OwnedFd> = (0..queues).map(|_| eventfd()).collect();
    let interrupt = eventfd();
    let host = HostEnd {
        kicks: kicks.iter().map(|kick| kick.try_clone().unwrap()).collect(),
        interrupt: interrupt.try_clone().unwrap(),
    };
    let region_file = function.mapped.then(|| memfd(4 * 4096));
    (Offer { function, kicks, interrupt, region_file, readable_only: vec![1] }, host)
}

pub(crate) fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [id.to_le_bytes(), command.to_le_bytes()].concat();
    bytes.extend(u32s(&[16 + payload.len() as u32, flags, 0]));
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn u64s(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn u32s(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

pub(crate) fn version(text: &str) -> Vec<u8> {
    [&[0; 4], text.as_bytes(), &[0]].concat()
}

pub(crate) fn dma_map(flags: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    [u32s(&[32, flags]), u64s(&[offset, address, size])].concat()
}

pub(crate) fn dma_unmap(flags: u32, address: u64, size: u64) -> Vec<u8> {
    [u32s(&[24, flags]), u64s(&[address, size])].concat()
}

pub(crate) fn access(region: u32, offset: u64, count: u32) -> Vec<u8> {
    [u64s(&[offset]), u32s(&[region, count])].concat()
}

pub(crate) fn region_info(argsz: u32, index: u32) -> Vec<u8> {
    u32s(&[argsz, 0, index, 0, 0, 0, 0, 0])
}

pub(crate) fn set_irqs(flags: u32, index: u32, start: u32, count: u32) -> Vec<u8> {
    u32s(&[20, flags, index, start, count])
}

/// A session, the client's side of it, and what its host was told.
pub(crate) struct Wire {
    pub(crate) session: Session,
    pub(crate) host: HostEnd,
    pub(crate) told: Vec<Event>,
    /// Whether the host does not carry out an event.
    pub(crate) fails: fn(&Event) -> bool,
    /// Whether replies to earlier commands may be waiting.
    pub(crate) pipelines: bool,
    next_id: u16,
}

impl Wire {
    /// A connection just made.
    pub(crate) fn fresh(function: Description) -> Self {
        let (offer, host) = offer(function);
        let session = Session::new(offer).unwrap();
        Self { session, host, told: vec![], fails: |_| false, pipelines: false, next_id: 100 }
    }

    /// A connection that knows its version.
    pub(crate) fn greeted(function: Description) -> Self {
        let mut wire = Self::fresh(function);
        wire.ask(VERSION, &version(QEMU_CAPABILITIES));
        wire
    }

    /// A connection with 16 MiB of memory at 0, and the file of that.
    pub(crate) fn mapped(function: Description) -> (Self, OwnedFd) {
        let mut wire = Self::greeted(function);
        let file = memfd(16 * MIB);
        wire.map(&file, 0, 0, 16 * MIB);
        wire.told.clear();
        (wire, file)
    }

    pub(crate) fn map(&mut self, file: &OwnedFd, offset: u64, address: u64, size: u64) {
        let payload = dma_map(3, offset, address, size);
        self.ask_with(DMA_MAP, &payload, vec![file.try_clone().unwrap()]).unwrap();
    }

    /// Carries out everything that the bytes so far ask for. No reply is due before that.
    pub(crate) fn run(&mut self) -> Result<(), ClientFault> {
        while let Some(event) = self.session.next_event()? {
            assert!(self.session.next_event()?.is_none(), "two events in hand");
            assert_eq!(self.session.wanted(), 0, "reads on while an event is in hand");
            assert!(
                self.pipelines || self.session.next_outgoing().is_none(),
                "answered before the host had finished"
            );
            let outcome = match &event {
                event if (self.fails)(event) => Outcome::Failed,
                Event::QueueStop { .. } => Outcome::Stopped(RingState::default()),
                _ => Outcome::Done,
            };
            self.told.push(event);
            self.session.finish(outcome);
        }
        Ok(())
    }

    /// Sends a command; the reply's payload, or its errno.
    pub(crate) fn ask_with(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<Vec<u8>, u32> {
        self.ask_whole(command, payload, fds).map(|reply| reply.bytes[16..].to_vec())
    }

    /// As [`Wire::ask_with`], with the reply's descriptors.
    pub(crate) fn ask_whole(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<Outgoing, u32> {
        self.next_id = self.next_id.wrapping_add(1);
        self.session.receive(&message(self.next_id, command, 0, payload), fds).unwrap();
        self.run().unwrap();
        let outgoing = self.session.next_outgoing().expect("a reply");
        assert!(self.session.next_outgoing().is_none(), "one reply");
        assert_eq!(outgoing.channel, Channel::Main);
        let (header, payload) = outgoing.bytes.split_at(16);
        if header[8..12] == 0x21u32.to_le_bytes() {
            assert!(payload.is_empty() && outgoing.fds.is_empty());
            let mut expected = message(self.next_id, command, 0x21, &[]);
            expected[12..].copy_from_slice(&header[12..]);
            assert_eq!(header, expected);
            return Err(u32::from_le_bytes(header[12..].try_into().unwrap()));
        }
        assert_eq!(header, &message(self.next_id, command, 1, payload)[..16]);
        Ok(outgoing)
    }

    pub(crate) fn ask(&mut self, command: u16, payload: &[u8]) -> Vec<u8> {
        self.ask_with(command, payload, vec![]).unwrap()
    }

    /// Sends a command that must be refused.
    pub(crate) fn refused(&mut self, command: u16, payload: &[u8]) -> u32 {
        self.refused_with(command, payload, vec![])
    }

    pub(crate) fn refused_with(&mut self, command: u16, payload: &[u8], fds: Vec<OwnedFd>) -> u32 {
        let errno = self.ask_with(command, payload, fds).unwrap_err();
        let refusal = self.session.take_refusal().unwrap();
        assert_eq!(refusal.errno(), errno, "{refusal}");
        errno
    }

    /// Sends a command that wants no reply, and must get none.
    pub(crate) fn post(&mut self, command: u16, payload: &[u8]) {
        self.session.receive(&message(7, command, NO_REPLY, payload), vec![]).unwrap();
        self.run().unwrap();
        assert!(self.session.next_outgoing().is_none(), "a posted command was answered");
    }

    /// Bytes that end the session, with the fault's name.
    pub(crate) fn fault(&mut self, bytes: &[u8]) -> &'static str {
        let received = self.session.receive(bytes, vec![]);
        let fault = received.and_then(|()| self.run()).unwrap_err();
        // Whatever comes afterwards, the session only repeats it.
        assert_eq!(self.session.next_event().unwrap_err(), fault);
        assert_eq!(self.session.receive(&[0], vec![]).unwrap_err(), fault);
        assert_eq!(self.session.wanted(), 0);
        assert!(!fault.to_string().is_empty());
        fault.name()
    }

    pub(crate) fn read<const N: usize>(&mut self, region: u32, offset: u64) -> [u8; N] {
        let asked = access(region, offset, N as u32);
        let reply = self.ask(REGION_READ, &asked);
        assert_eq!(reply[..16], asked);
        reply[16..].try_into().unwrap()
    }

    /// A write that waits for its reply.
    pub(crate) fn write(&mut self, region: u32, offset: u64, data: &[u8]) {
        let asked = access(region, offset, data.len() as u32);
        let reply = self.ask(REGION_WRITE, &[&asked[..], data].concat());
        assert_eq!(reply, asked);
    }

    /// A posted write.
    pub(crate) fn post_write(&mut self, region: u32, offset: u64, data: &[u8]) {
        let asked = access(region, offset, data.len() as u32);
        self.post(REGION_WRITE, &[&asked[..], data].concat());
    }

    /// What the host was told since this was last asked, by name.
    pub(crate) fn names(&mut self) -> Vec<String> {
        self.told.drain(..).map(|event| name(&event)).collect()
    }
}

pub(crate) fn name(event: &Event) -> String {
    let text = format!("{event:?}");
    let name = text.split([' ', '(', '{']).next().unwrap().to_string();
    match event {
        Event::QueueStart(start) => format!("{name} {}", start.index),
        Event::QueueStop { index, .. }
        | Event::QueueEnable { index, .. }
        | Event::QueueCall { index, .. }
        | Event::QueueKicked { index }
        | Event::QueueRefused { index, .. }
        | Event::QueueFailed { index, .. } => format!("{name} {index}"),
        _ => name,
    }
}

/// Whether two descriptors are of one eventfd.
pub(crate) fn is_same_eventfd(one: impl AsFd, other: impl AsFd) -> bool {
    signals(&other);
    signal(one);
    signals(other) == 1
}

/// Where a queue's three areas lie when queue `index` has the 64 KiB from `0x10000 * (index + 1)` on.
pub(crate) fn ring_at(index: u16) -> [u64; 3] {
    let base = 0x1_0000 * (u64::from(index) + 1);
    [base, base + 0x2000, base + 0x4000]
}

/// The modern driver's registers in BAR 4.
pub(crate) mod common {
    pub(crate) const BAR: u32 = 4;
    pub(crate) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(crate) const DRIVER_FEATURE: u64 = 0x0c;
    pub(crate) const CONFIG_VECTOR: u64 = 0x10;
    pub(crate) const STATUS: u64 = 0x14;
    pub(crate) const QUEUE_SELECT: u64 = 0x16;
    pub(crate) const QUEUE_SIZE: u64 = 0x18;
    pub(crate) const QUEUE_VECTOR: u64 = 0x1a;
    pub(crate) const QUEUE_ENABLE: u64 = 0x1c;
    pub(crate) const QUEUE_DESC: u64 = 0x20;
    pub(crate) const QUEUE_RESET: u64 = 0x3a;
    pub(crate) const ISR: u64 = 0x1000;
    pub(crate) const NOTIFY: u64 = 0x3000;
}

/// What a modern driver does, in posted writes and reads.
impl Wire {
    pub(crate) fn negotiate(&mut self, features: u64) -> u8 {
        use common::*;
        self.post_write(BAR, STATUS, &[0]);
        self.post_write(BAR, STATUS, &[1]);
        self.post_write(BAR, STATUS, &[3]);
        for half in 0..2u32 {
            self.post_write(BAR, DRIVER_FEATURE_SELECT, &half.to_le_bytes());
            self.post_write(BAR, DRIVER_FEATURE, &((features >> (32 * half)) as u32).to_le_bytes());
        }
        self.post_write(BAR, STATUS, &[11]);
        self.read::<1>(BAR, STATUS)[0]
    }

    pub(crate) fn set_queue(&mut self, index: u16, vector: u16, areas: [u64; 3]) {
        use common::*;
        self.post_write(BAR, QUEUE_SELECT, &index.to_le_bytes());
        self.post_write(BAR, QUEUE_SIZE, &64u16.to_le_bytes());
        self.post_write(BAR, QUEUE_VECTOR, &vector.to_le_bytes());
        for (at, area) in areas.iter().enumerate() {
            for half in 0..2u64 {
                let word = (area >> (32 * half)) as u32;
                self.post_write(BAR, QUEUE_DESC + 8 * at as u64 + 4 * half, &word.to_le_bytes());
            }
        }
        self.post_write(BAR, QUEUE_ENABLE, &1u16.to_le_bytes());
    }

    pub(crate) fn driver_ok(&mut self) {
        self.post_write(common::BAR, common::STATUS, &[15]);
    }

    /// Where the MSI-X capability's control word is.
    pub(crate) fn msix_control(&mut self) -> u64 {
        let [mut at] = self.read::<1>(7, 0x34);
        for _ in 0..48 {
            let [id, next] = self.read::<2>(7, at.into());
            if id == 0x11 {
                return u64::from(at) + 2;
            }
            at = next;
        }
        panic!("no MSI-X capability");
    }

    pub(crate) fn enable_msix(&mut self, on: bool) {
        let at = self.msix_control();
        self.write(7, at, &[0, if on { 0x80 } else { 0 }]);
    }

    /// A modern driver with all three queues running, with MSI-X vectors (queue `n` at `n + 1`) or INTx.
    pub(crate) fn running(msix: bool) -> (Self, Vec<Arc<OwnedFd>>, OwnedFd) {
        let (mut wire, file) = Self::mapped(description(Interface::Modern));
        let vectors: Vec<Arc<OwnedFd>> = (0..4).map(|_| Arc::new(eventfd())).collect();
        let fds = vectors.iter().map(|fd| fd.try_clone().unwrap()).collect();
        if msix {
            wire.ask_with(SET_IRQS, &set_irqs(0x24, 2, 0, 4), fds).unwrap();
            wire.enable_msix(true);
        } else {
            wire.ask_with(SET_IRQS, &set_irqs(0x24, 0, 0, 1), fds.into_iter().take(1).collect()).unwrap();
        }
        assert_eq!(wire.negotiate(VERSION_1 | MAC | RING_RESET), 11);
        wire.post_write(common::BAR, common::CONFIG_VECTOR, &0u16.to_le_bytes());
        for index in 0..3 {
            wire.set_queue(index, index + 1, ring_at(index));
        }
        wire.driver_ok();
        (wire, vectors, file)
    }

    /// What stands in the guest's memory.
    pub(crate) fn guest(&self, address: u64) -> Option<u8> {
        let mut byte = [0];
        let (memory, at) = (self.session.memory(), GuestAddr(address));
        memory.slice(at, 1).or_else(|| memory.run_read_only(at, 1))?.read(&mut byte);
        Some(byte[0])
    }
}
