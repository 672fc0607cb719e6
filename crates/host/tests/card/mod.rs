//! A driver of a whole function, behind the client of the `vfio_user` crate: it finds the registers, agrees on features and
//! brings queues up one by one (virtio 1.4 §3.1.1, §4.1.4).
#![allow(unreachable_pub, reason = "a module of tests")]

use crate::station::{MAC_A, PATIENCE, eventfd, frame};
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, Region};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use vfio_user::Client;
use virtqueue::{DriverQueue, QueueSize, RingFeatures};
use vmm_sys_util::eventfd::EventFd;

pub const VERSION_1: u128 = 1 << 32;
pub const NOTIFICATION_DATA: u128 = 1 << 38;
pub const NOTIF_CONFIG_DATA: u128 = 1 << 39;
pub const ADMIN_VQ: u128 = 1 << 41;

pub const NEEDS_RESET: u8 = 64;

/// Registers of `struct virtio_pci_common_cfg` (virtio 1.4 §4.1.4.3).
pub mod common {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const STATUS: u64 = 0x14;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_NOTIF_CONFIG_DATA: u64 = 0x38;
    pub const ADMIN_QUEUE_INDEX: u64 = 0x3c;
    pub const ADMIN_QUEUE_NUM: u64 = 0x3e;
}

const CONFIG: u32 = 7;
const MSIX: u32 = 2;
const RAM: u64 = 32 << 20;
/// Each queue has its ring and its buffers in a part of the memory of its own.
const PART: u64 = 2 << 20;
const BUFFERS: u64 = 0x10_0000;
const BUFFER: u64 = 4096;
const RING: u16 = 64;
const HEADER: usize = 12;

#[derive(Clone, Copy)]
struct Place {
    region: u32,
    offset: u64,
}

/// A function and its guest.
pub struct Card {
    client: Client,
    pub memory: Arc<GuestMemory>,
    _file: OwnedFd,
    common: Place,
    notify: Place,
    multiplier: u64,
    vectors: Vec<EventFd>,
    pub features: u128,
}

/// A queue of the function.
pub struct Queue {
    index: u16,
    ring: DriverQueue,
    /// What its doorbell is told, and where that is.
    name: u16,
    doorbell: u64,
    base: u64,
    added: u16,
}

impl Card {
    pub fn connect(socket: &Path) -> Self {
        let end = Instant::now() + PATIENCE;
        let mut client = loop {
            match Client::new(socket) {
                Ok(client) => break client,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
        };
        let mut config = [0; 256];
        client.region_read(CONFIG, 0, &mut config).unwrap();
        let find = |is_it: &dyn Fn(usize) -> bool| {
            let next = |at: &usize| Some(usize::from(config[at + 1])).filter(|at| *at != 0);
            std::iter::successors(Some(usize::from(config[0x34])), next).find(|at| is_it(*at)).unwrap()
        };
        let word = |at: usize| u32::from_le_bytes(*config[at..].first_chunk().unwrap());
        let virtio = |kind: u8| find(&|at| config[at] == 9 && config[at + 3] == kind);
        let place = |at: usize| Place { region: config[at + 4].into(), offset: word(at + 8).into() };
        let (common, notify) = (place(virtio(1)), virtio(2));
        // MSI-X: a table of so many, and it is on.
        let msix = find(&|at| config[at] == 0x11);
        let count = (word(msix) >> 16 & 0x7ff) + 1;
        client.region_write(CONFIG, msix as u64 + 3, &[0x80]).unwrap();
        let vectors: Vec<EventFd> = (0..count).map(|_| eventfd()).collect();
        for (index, vector) in (0..).zip(&vectors) {
            client.set_irqs(MSIX, 0x24, index, 1, &[vector.as_raw_fd()]).unwrap();
        }
        let file = memfd_create("card", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, RAM).unwrap();
        client.dma_map(0, 0, RAM, file.as_raw_fd()).unwrap();
        let mapping = Arc::new(Mapping::file(&file, 0, RAM).unwrap());
        let region = Region::new(GuestAddr(0), FrontendAddr(0), RAM, mapping).unwrap();
        let memory = Arc::new(GuestMemory::new(vec![region]).unwrap());
        let multiplier = word(notify + 16).into();
        let notify = place(notify);
        Self { client, memory, _file: file, common, notify, multiplier, vectors, features: 0 }
    }

    pub fn vectors(&self) -> usize {
        self.vectors.len()
    }

    pub fn read<const LEN: usize>(&mut self, field: u64) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        self.client.region_read(self.common.region, self.common.offset + field, &mut bytes).unwrap();
        bytes
    }

    pub fn read16(&mut self, field: u64) -> u16 {
        u16::from_le_bytes(self.read(field))
    }

    pub fn write(&mut self, field: u64, bytes: &[u8]) {
        self.client.region_write(self.common.region, self.common.offset + field, bytes).unwrap();
    }

    pub fn status(&mut self) -> u8 {
        self.read::<1>(common::STATUS)[0]
    }

    pub fn offered(&mut self) -> u128 {
        let mut offered = 0;
        for select in 0..4u32 {
            self.write(common::DEVICE_FEATURE_SELECT, &select.to_le_bytes());
            offered |= u128::from(u32::from_le_bytes(self.read(common::DEVICE_FEATURE))) << (32 * select);
        }
        offered
    }

    /// Begins anew and agrees on exactly these features.
    pub fn negotiate(&mut self, features: u128) {
        for status in [0, 1, 3] {
            self.write(common::STATUS, &[status]);
        }
        for select in 0..4u32 {
            self.write(common::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
            self.write(common::DRIVER_FEATURE, &((features >> (32 * select)) as u32).to_le_bytes());
        }
        self.write(common::STATUS, &[11]);
        assert_eq!(self.status(), 11, "features {features:#x}");
        self.features = features;
    }

    /// Starts a queue of split layout, whose vector has its number.
    pub fn start(&mut self, index: u16) -> Queue {
        let base = PART * u64::from(index);
        self.write(common::QUEUE_SELECT, &index.to_le_bytes());
        let size = self.read16(common::QUEUE_SIZE).min(RING);
        let ring = RingFeatures::default();
        let size = QueueSize::try_from(size).unwrap();
        let (ring, setup) = DriverQueue::setup(&self.memory, GuestAddr(base), size, ring, None).unwrap();
        self.write(common::QUEUE_SIZE, &size.get().to_le_bytes());
        self.write(common::QUEUE_VECTOR, &index.to_le_bytes());
        for (area, address) in (0..).zip([setup.desc, setup.driver, setup.device]) {
            self.write(common::QUEUE_DESC + 8 * area, &(address.0 as u32).to_le_bytes());
            self.write(common::QUEUE_DESC + 8 * area + 4, &((address.0 >> 32) as u32).to_le_bytes());
        }
        let off = u64::from(self.read16(common::QUEUE_NOTIFY_OFF));
        let named = self.features & NOTIF_CONFIG_DATA != 0;
        let name = if named { self.read16(common::QUEUE_NOTIF_CONFIG_DATA) } else { index };
        self.write(common::QUEUE_ENABLE, &1u16.to_le_bytes());
        Queue { index, ring, name, doorbell: off * self.multiplier, base, added: 0 }
    }

    /// Sets `DRIVER_OK`; the status then.
    pub fn ready(&mut self) -> u8 {
        self.write(common::STATUS, &[15]);
        self.status()
    }

    /// Makes what was added available, and rings if the device wants that.
    pub fn publish(&mut self, queue: &mut Queue) {
        if !queue.ring.publish() {
            return;
        }
        let Place { region, offset } = self.notify;
        let word = u32::from(queue.added) << 16 | u32::from(queue.name);
        let len = if self.features & NOTIFICATION_DATA != 0 { 4 } else { 2 };
        self.client.region_write(region, offset + queue.doorbell, &word.to_le_bytes()[..len]).unwrap();
    }

    /// Sends a request and waits for the answer, of at most `room` bytes.
    pub fn ask(&mut self, queue: &mut Queue, request: &[u8], room: u32) -> Vec<u8> {
        let (bytes, answer) = (GuestAddr(queue.base + BUFFERS), GuestAddr(queue.base + BUFFERS + 0x8000));
        self.memory.slice(bytes, request.len()).unwrap().write(request);
        queue.add(&[(bytes, request.len() as u32)], &[(answer, room)], 0);
        self.publish(queue);
        let (_, written) = queue.wait();
        let mut bytes = vec![0; written as usize];
        self.memory.slice(answer, bytes.len()).unwrap().read(&mut bytes);
        bytes
    }

    /// Fills a receive queue.
    pub fn fill(&mut self, queue: &mut Queue) {
        for slot in 0..u64::from(RING) {
            queue.add(&[], &[(queue.buffer(slot), BUFFER as u32)], slot);
        }
        self.publish(queue);
    }

    /// Sends a frame without waiting for anything.
    pub fn send(&mut self, queue: &mut Queue, frame: &[u8]) {
        while queue.ring.pop_used().unwrap().is_some() {}
        let at = queue.buffer(u64::from(queue.added % RING));
        let room = self.memory.slice(at, HEADER + frame.len()).unwrap();
        room.write(&[&[0; HEADER], frame].concat());
        queue.add(&[(at, (HEADER + frame.len()) as u32)], &[], 0);
        self.publish(queue);
    }

    /// The next frame that came; waits for it.
    pub fn receive(&mut self, queue: &mut Queue) -> Vec<u8> {
        let (slot, written) = queue.wait();
        let mut bytes = vec![0; written as usize];
        self.memory.slice(queue.buffer(slot), bytes.len()).unwrap().read(&mut bytes);
        queue.add(&[], &[(queue.buffer(slot), BUFFER as u32)], slot);
        self.publish(queue);
        bytes.split_off(HEADER)
    }

    /// Waits until the queue's driver is called, which may be a moment after it finds a chain used.
    pub fn await_call(&self, queue: &Queue) {
        let end = Instant::now() + PATIENCE;
        while self.vectors[usize::from(queue.index)].read().is_err() {
            assert!(Instant::now() < end, "queue {}: its driver is not called", queue.index);
            std::thread::yield_now();
        }
    }
}

impl Queue {
    fn buffer(&self, slot: u64) -> GuestAddr {
        GuestAddr(self.base + BUFFERS + slot * BUFFER)
    }

    fn add(&mut self, readable: &[(GuestAddr, u32)], writable: &[(GuestAddr, u32)], token: u64) {
        self.ring.add(readable, writable, token).unwrap();
        self.added = self.added.wrapping_add(1);
    }

    /// What the device has used next: token and bytes written; `None`: nothing yet.
    pub fn used(&mut self) -> Option<(u64, u32)> {
        self.ring.pop_used().unwrap()
    }

    fn wait(&mut self) -> (u64, u32) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = self.used() {
                return used;
            }
            assert!(Instant::now() < end, "queue {}: the device uses nothing", self.index);
            std::thread::yield_now();
        }
    }
}

/// A frame of the card's.
pub fn card_frame(dst: [u8; 6], payload: &[u8]) -> Vec<u8> {
    frame(dst, MAC_A, payload, 64)
}
