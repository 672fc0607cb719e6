//! A guest made of nothing but a front-end (the `vhost` crate's) and our driver side: what the tests of the data plane
//! attach to its sockets.
#![allow(unreachable_pub, reason = "a module of tests")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use devices::net::Features;
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, Region};
use ringway::config;
use ringway::plane::{self, Plane};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtqueue::{DriverQueue, QueueSetup, QueueSize, RingFeatures};
use vmm_sys_util::eventfd::EventFd;

/// How long anything in a test may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
const HEADER: usize = 12;
const RAM: u64 = 8 << 20;
const BUFFER: u64 = 4096;
pub const RING: u16 = 64;
const USER: u64 = 0x7000_0000_0000;

/// A data plane with its sockets in a directory of its own.
pub struct Lab {
    pub plane: Arc<Plane>,
    directory: tempfile::TempDir,
}

impl Lab {
    /// A plane with one switch `lan` and a port of profile `open` for each name; `workers` is the `[workers]` table's body.
    pub fn new(workers: &str, ports: &[&str]) -> Self {
        let ports: String = ports.iter().map(|name| Self::port(name, "")).collect();
        Self::with(workers, &ports)
    }

    /// The text of one port; `DIR` stands for the directory.
    pub fn port(name: &str, more: &str) -> String {
        format!(
            "[port.{name}]\nswitch = \"lan\"\nprofile = \"open\"\nvhost-user = {{ socket = \"DIR/{name}.sock\", queue-pairs = 2 }}\n{more}\n"
        )
    }

    /// A plane with one switch `lan`. `ports` may begin with more keys of the switch; `DIR` stands for the directory.
    pub fn with(workers: &str, ports: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = Self::config(directory.path(), workers, ports);
        Self { plane: plane::start(&config).unwrap(), directory }
    }

    fn config(directory: &Path, workers: &str, ports: &str) -> config::Config {
        let text =
            format!("[control]\nsocket = \"DIR/control.sock\"\n[workers]\n{workers}\n[switch.lan]\n{ports}");
        let text = text.replace("DIR", directory.to_str().unwrap());
        config::parse(&text, &directory.join("ringway.toml")).unwrap_or_else(|error| panic!("{error}")).config
    }

    /// Goes over to other ports, as [`Self::with`] would have them.
    pub fn apply(
        &self,
        workers: &str,
        ports: &str,
    ) -> Result<ringway::api::view::ChangeView, ringway::api::Refusal> {
        ringway::api::Plane::apply(&*self.plane, Self::config(self.directory.path(), workers, ports))
    }

    pub fn fdb(&self) -> Vec<ringway::api::view::FdbView> {
        ringway::api::Plane::fdb(&*self.plane, &ringway::api::view::FdbFilter::default()).unwrap()
    }

    pub fn socket(&self, port: &str) -> PathBuf {
        self.directory.path().join(format!("{port}.sock"))
    }

    pub fn view(&self, port: &str) -> ringway::api::view::PortView {
        ringway::api::Plane::port(&*self.plane, port).unwrap()
    }

    /// Waits until the port's view satisfies `wanted`.
    pub fn until(&self, port: &str, wanted: impl Fn(&ringway::api::view::PortView) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !wanted(&self.view(port)) {
            assert!(Instant::now() < end, "port {port} never got there: {:?}", self.view(port));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// One guest with one queue pair.
pub struct Station {
    pub frontend: Frontend,
    pub file: OwnedFd,
    pub memory: Arc<GuestMemory>,
    pub receive: DriverQueue,
    pub transmit: DriverQueue,
    transmit_setup: QueueSetup,
    kicks: [EventFd; 2],
    pub call: EventFd,
    pub features: u64,
    sent: u64,
}

/// What an ordinary Linux guest asks for, without offloads.
pub fn plain() -> Features {
    Features::VERSION_1 | Features::EVENT_IDX | Features::MRG_RXBUF | Features::INDIRECT_DESC
}

impl Station {
    pub fn connect(socket: &Path, wanted: Features) -> Self {
        let mut frontend = connect(socket);
        let features = negotiate(&mut frontend, wanted);
        Self::start(frontend, features)
    }

    /// A station on a connection that the back-end made.
    pub fn over(stream: UnixStream, wanted: Features) -> Self {
        let mut frontend = Frontend::from_stream(stream, 4);
        let features = negotiate(&mut frontend, wanted);
        Self::start(frontend, features)
    }

    fn start(frontend: Frontend, features: u64) -> Self {
        let file = memfd_create("station", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, RAM).unwrap();
        let mapping = Arc::new(Mapping::file(&file, 0, RAM).unwrap());
        let region = Region::new(GuestAddr(0), FrontendAddr(USER), RAM, mapping).unwrap();
        let memory = Arc::new(GuestMemory::new(vec![region]).unwrap());
        frontend.set_mem_table(&[table(&file, 0, RAM)]).unwrap();

        let acknowledged = Features::from_bits_retain(features);
        let ring = RingFeatures {
            packed: acknowledged.contains(Features::RING_PACKED),
            indirect: acknowledged.contains(Features::INDIRECT_DESC),
            event_idx: acknowledged.contains(Features::EVENT_IDX),
            in_order: acknowledged.contains(Features::IN_ORDER),
            ..RingFeatures::default()
        };
        let size = QueueSize::try_from(RING).unwrap();
        let (receive, receive_setup) = DriverQueue::setup(&memory, GuestAddr(0), size, ring, None).unwrap();
        let (transmit, transmit_setup) =
            DriverQueue::setup(&memory, GuestAddr(0x8000), size, ring, None).unwrap();
        let kicks = [eventfd(), eventfd()];
        let call = eventfd();
        let mut station = Self {
            frontend,
            file,
            memory,
            receive,
            transmit,
            transmit_setup: transmit_setup.clone(),
            kicks,
            call,
            features,
            sent: 0,
        };
        for (index, setup) in [&receive_setup, &transmit_setup].into_iter().enumerate() {
            station.start_ring(index, setup);
        }
        for slot in 0..RING {
            station.post(u64::from(slot));
        }
        station.receive.publish();
        for index in 0..2 {
            station.frontend.set_vring_enable(index, true).unwrap();
        }
        station
    }

    fn start_ring(&mut self, index: usize, setup: &QueueSetup) {
        let kick = self.kicks[index].try_clone().unwrap();
        self.start_ring_with(index, setup, &kick);
    }

    fn start_ring_with(&mut self, index: usize, setup: &QueueSetup, kick: &EventFd) {
        let packed = self.features & Features::RING_PACKED.bits() != 0;
        // The `vhost` crate passes the low half of a packed ring's base only; the wrap bits of a fresh ring go in it.
        self.set_up_ring(index, setup, if packed { 0x8000 } else { 0 });
        self.frontend.set_vring_kick(index, kick).unwrap();
    }

    /// Starts the transmit ring again where it was stopped (GET_VRING_BASE said `base`); without a kick descriptor, so that the
    /// device is to look by itself, if the connection is given to say so.
    pub fn restart_transmit(&mut self, base: u32, no_kick: Option<&UnixStream>) {
        self.set_up_ring(1, &self.transmit_setup, base as u16);
        match no_kick {
            // SET_VRING_KICK, ring 1, no descriptor
            Some(stream) => raw_message(stream, 12, &0x101u64.to_le_bytes(), &[]),
            None => self.frontend.set_vring_kick(1, &self.kicks[1]).unwrap(),
        }
        self.frontend.set_vring_enable(1, true).unwrap();
    }

    fn set_up_ring(&self, index: usize, setup: &QueueSetup, base: u16) {
        let frontend = &self.frontend;
        frontend.set_vring_num(index, RING).unwrap();
        frontend.set_vring_base(index, base).unwrap();
        let addresses = VringConfigData {
            queue_max_size: RING,
            queue_size: RING,
            flags: 0,
            desc_table_addr: USER + setup.desc.0,
            avail_ring_addr: USER + setup.driver.0,
            used_ring_addr: USER + setup.device.0,
            log_addr: None,
        };
        frontend.set_vring_addr(index, &addresses).unwrap();
        frontend.set_vring_call(index, &self.call).unwrap();
    }

    fn buffer(slot: u64) -> GuestAddr {
        GuestAddr(0x10_0000 + slot * BUFFER)
    }

    fn post(&mut self, slot: u64) {
        self.receive.add(&[], &[(Self::buffer(slot), BUFFER as u32)], slot).unwrap();
    }

    /// Sends one frame with an all-zero header.
    pub fn send(&mut self, frame: &[u8]) {
        self.send_with(&[0; HEADER], frame);
    }

    /// Sends one frame; waits for room.
    pub fn send_with(&mut self, header: &[u8; HEADER], frame: &[u8]) {
        let end = Instant::now() + PATIENCE;
        loop {
            while self.transmit.pop_used().unwrap().is_some() {}
            if self.transmit.free_descriptors() > 0 {
                break;
            }
            assert!(Instant::now() < end, "the device does not complete what was sent");
            std::thread::yield_now();
        }
        let slot = self.write_slot(header, frame);
        self.transmit.add(&[slot], &[], 0).unwrap();
        if self.transmit.publish() {
            self.kicks[1].write(1).unwrap();
        }
    }

    /// Sends frames that the device sees all at once; waits for room. Whether the device wanted a kick, and got one.
    pub fn send_burst(&mut self, frames: &[Vec<u8>]) -> bool {
        let end = Instant::now() + PATIENCE;
        while usize::from(self.transmit.free_descriptors()) < frames.len() {
            assert!(Instant::now() < end, "the device does not complete what was sent");
            if self.transmit.pop_used().unwrap().is_none() {
                std::thread::yield_now();
            }
        }
        for frame in frames {
            let slot = self.write_slot(&[0; HEADER], frame);
            self.transmit.add(&[slot], &[], 0).unwrap();
        }
        let wanted = self.transmit.publish();
        if wanted {
            self.kicks[1].write(1).unwrap();
        }
        wanted
    }

    /// Writes header and frame to the next slot; where they lie. A frame may be longer than a slot: it takes the slots
    /// after it, which are free by then.
    pub fn write_slot(&mut self, header: &[u8; HEADER], frame: &[u8]) -> (GuestAddr, u32) {
        let slot = GuestAddr(0x40_0000 + (self.sent % u64::from(RING)) * 0x4000);
        self.sent += 1;
        let room = self.memory.slice(slot, HEADER + frame.len()).unwrap();
        room.write(header);
        room.sub(HEADER, frame.len()).unwrap().write(frame);
        (slot, (HEADER + frame.len()) as u32)
    }

    /// Makes every receive buffer of the (split) ring point outside memory.
    pub fn spoil_receive_buffers(&mut self) {
        for slot in 0..u64::from(RING) {
            self.memory.slice(GuestAddr(slot * 16), 8).unwrap().write(&0x7fff_0000_0000u64.to_le_bytes());
        }
    }

    /// Starts virtqueue `index` as the control queue.
    pub fn start_control(&mut self, index: usize) -> ControlQueue {
        let size = QueueSize::try_from(RING).unwrap();
        let ring = RingFeatures { indirect: true, event_idx: true, ..RingFeatures::default() };
        let (queue, setup) = DriverQueue::setup(&self.memory, GuestAddr(0x10000), size, ring, None).unwrap();
        let kick = eventfd();
        self.start_ring_with(index, &setup, &kick);
        self.frontend.set_vring_enable(index, true).unwrap();
        ControlQueue { queue, kick }
    }

    /// Kicks the transmit queue whether the device wants it or not.
    pub fn kick(&self) {
        self.kicks[1].write(1).unwrap();
    }

    /// The next frame that was received, header first; `None` if there is none now.
    pub fn poll(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        let (slot, written) = self.receive.pop_used().unwrap()?;
        let mut bytes = vec![0; written as usize];
        self.memory.slice(Self::buffer(slot), written as usize).unwrap().read(&mut bytes);
        let more = u16::from_le_bytes([bytes[10], bytes[11]]).saturating_sub(1);
        self.post(slot);
        for _ in 0..more {
            let (slot, written) =
                self.receive.pop_used().unwrap().expect("all buffers of a frame come together");
            let mut part = vec![0; written as usize];
            self.memory.slice(Self::buffer(slot), written as usize).unwrap().read(&mut part);
            bytes.extend(part);
            self.post(slot);
        }
        if self.receive.publish() {
            self.kicks[0].write(1).unwrap();
        }
        let frame = bytes.split_off(HEADER);
        Some((bytes, frame))
    }

    /// The next frame with this source address; others are passed over.
    pub fn receive_from(&mut self, mac: [u8; 6]) -> Vec<u8> {
        loop {
            let (_, frame) = self.receive();
            if frame[6..12] == mac {
                return frame;
            }
        }
    }

    /// The next frame; waits for it.
    pub fn receive(&mut self) -> (Vec<u8>, Vec<u8>) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(frame) = self.poll() {
                return frame;
            }
            assert!(Instant::now() < end, "no frame came");
            std::thread::yield_now();
        }
    }
}

/// A control queue with one command outstanding at most, as Linux has it; the buffers lie behind the rings.
pub struct ControlQueue {
    queue: DriverQueue,
    kick: EventFd,
}

impl ControlQueue {
    /// Sends a command and waits for its answer. Kicks only when the device asks for it.
    pub fn command(&mut self, station: &Station, request: &[u8]) -> u8 {
        let (bytes, answer) = (GuestAddr(0x20000), GuestAddr(0x21000));
        station.memory.slice(bytes, request.len()).unwrap().write(request);
        station.memory.slice(answer, 1).unwrap().write(&[0xff]);
        self.queue.add(&[(bytes, request.len() as u32)], &[(answer, 1)], 0).unwrap();
        if self.queue.publish() {
            self.kick.write(1).unwrap();
        }
        let end = Instant::now() + PATIENCE;
        while self.queue.pop_used().unwrap().is_none() {
            assert!(Instant::now() < end, "the device does not answer {request:?}");
            std::thread::yield_now();
        }
        let mut status = [0];
        station.memory.slice(answer, 1).unwrap().read(&mut status);
        status[0]
    }
}

/// Sends from `a` to `b` and back until both have learned, and checks what arrives.
pub fn exchange(a: &mut Station, b: &mut Station, count: u32) {
    for round in 0..count {
        let there = frame(MAC_B, MAC_A, &round.to_be_bytes(), 60);
        a.send(&there);
        assert_eq!(b.receive_from(MAC_A), there, "round {round}");
        let back = frame(MAC_A, MAC_B, &round.to_be_bytes(), 1500);
        b.send(&back);
        assert_eq!(a.receive_from(MAC_B), back, "round {round}");
    }
}

pub const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
pub const MAC_C: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A frame of `len` bytes with `payload` at its beginning.
pub fn frame(dst: [u8; 6], src: [u8; 6], payload: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = [&dst[..], &src, &[0x88, 0xb5], payload].concat();
    bytes.resize(len, 0x5a);
    bytes
}

pub fn table(file: &OwnedFd, guest: u64, len: u64) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: guest,
        memory_size: len,
        userspace_addr: USER + guest,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    }
}

pub fn connect(socket: &Path) -> Frontend {
    let end = Instant::now() + PATIENCE;
    loop {
        match Frontend::connect(socket, 16) {
            Ok(frontend) => return frontend,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
}

pub fn negotiate(frontend: &mut Frontend, wanted: Features) -> u64 {
    frontend.set_owner().unwrap();
    let offered = frontend.get_features().unwrap();
    let features = offered & (wanted | Features::PROTOCOL_FEATURES).bits();
    let protocol = frontend.get_protocol_features().unwrap() & VhostUserProtocolFeatures::REPLY_ACK;
    frontend.set_protocol_features(protocol).unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend.set_features(features).unwrap();
    features
}

pub fn eventfd() -> EventFd {
    EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK | vmm_sys_util::eventfd::EFD_CLOEXEC).unwrap()
}

/// One message with file descriptors, byte by byte as the protocol has it.
pub fn raw_message(stream: &UnixStream, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let len = payload.len() as u32;
    let bytes = [&request.to_le_bytes()[..], &1u32.to_le_bytes(), &len.to_le_bytes(), payload].concat();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    sendmsg(stream, &[std::io::IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
}

/// Starts ring 0 of a fresh connection with `kick` as its kick descriptor.
pub fn start_ring_with(stream: &UnixStream, kick: BorrowedFd<'_>) {
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let state = |index: u32, value: u32| [index.to_le_bytes(), value.to_le_bytes()].concat();
    let memory = memfd_create("m", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memory, RAM).unwrap();
    raw_message(stream, 3, &[], &[]); // SET_OWNER
    raw_message(stream, 2, &words(&[Features::VERSION_1.bits()]), &[]); // SET_FEATURES
    raw_message(stream, 5, &words(&[1, 0, RAM, USER, 0]), &[memory.as_fd()]); // SET_MEM_TABLE
    raw_message(stream, 8, &state(0, RING.into()), &[]); // SET_VRING_NUM
    raw_message(stream, 10, &state(0, 0), &[]); // SET_VRING_BASE
    raw_message(stream, 9, &words(&[0, USER, USER + 0x8000, USER + 0x4000, 0]), &[]); // SET_VRING_ADDR
    raw_message(stream, 12, &words(&[0]), &[kick]); // SET_VRING_KICK
}

/// What is behind the wire in tests of uplinks.
pub const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// A UDP packet of the guest at 10.9.0.2, whose checksum is left to others where `unfinished`.
pub fn udp_packet(dst: [u8; 6], payload: &[u8], unfinished: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ethernet2(MAC_A, dst)
        .ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64)
        .udp(7001, 7000)
        .write(&mut bytes, payload)
        .unwrap();
    if unfinished {
        let words = bytes[26..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum = words.sum::<u32>() + 17 + 8 + payload.len() as u32;
        bytes[40..42].copy_from_slice(&(((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    }
    bytes
}
