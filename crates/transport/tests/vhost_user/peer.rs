//! The `vhost` crate's front-end as an independent peer, over a real socket.

use crate::wire::{LOG_ALL, MIB, PROTOCOL, USER, VERSION_1, eventfd, memfd, offer};
use guestmem::GuestAddr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::{JoinHandle, spawn};
use transport::vhost_user::{Channel, Event, FrontendFault, Outcome, Outgoing, Session};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures as Protocol,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use virtqueue::{DeviceQueue, RingState};
use vmm_sys_util::eventfd::EventFd;

fn receive(socket: &UnixStream, wanted: usize) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; wanted];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(33))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    bytes.truncate(got.map_or(0, |got| got.bytes));
    (bytes, fds)
}

fn send(socket: &UnixStream, Outgoing { bytes, fds, .. }: &Outgoing) {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
}

/// What a host was told, and how its session ended.
type Served = (Vec<String>, Result<(), FrontendFault>);

/// What a host does, for queues that nobody serves.
fn serve(socket: UnixStream) -> JoinHandle<Served> {
    spawn(move || {
        let mut session = Session::new(offer());
        let mut told = Vec::new();
        let served = serve_session(&mut session, &socket, &mut told);
        (told, served)
    })
}

fn serve_session(
    session: &mut Session,
    socket: &UnixStream,
    told: &mut Vec<String>,
) -> Result<(), FrontendFault> {
    let mut queues: Vec<Option<DeviceQueue>> = (0..4).map(|_| None).collect();
    let mut channel = None;
    loop {
        let (bytes, fds) = receive(socket, session.wanted());
        if bytes.is_empty() {
            return Ok(());
        }
        session.receive(&bytes, fds)?;
        while let Some(event) = session.next_event()? {
            let outcome = carry_out(session, event, &mut queues, &mut channel, told);
            session.finish(outcome);
        }
        while let Some(outgoing) = session.next_outgoing() {
            match (outgoing.channel, &channel) {
                (Channel::Main, _) => send(socket, &outgoing),
                (Channel::Backend, Some(channel)) => {
                    rustix::io::write(channel, &outgoing.bytes).unwrap();
                }
                (Channel::Backend, None) => panic!("no channel"),
            }
        }
    }
}

fn carry_out(
    session: &mut Session,
    event: Event,
    queues: &mut [Option<DeviceQueue>],
    channel: &mut Option<OwnedFd>,
    told: &mut Vec<String>,
) -> Outcome {
    let name = format!("{event:?}");
    told.push(name.split([' ', '(']).next().unwrap().to_string());
    match event {
        Event::QueueStart(start) => {
            let queue = DeviceQueue::new(session.memory(), &start.setup, start.state).unwrap();
            queues[usize::from(start.index)] = Some(queue);
        }
        Event::QueueStop { index, .. } => {
            return Outcome::Stopped(queues[usize::from(index)].take().unwrap().state());
        }
        Event::Memory { restart, .. } | Event::Features { restart, .. } | Event::QueuesRestart(restart) => {
            for ring in restart {
                let queue = &mut queues[usize::from(ring.index)];
                let state: RingState = queue.take().unwrap().state();
                *queue = ring.setup.map(|setup| DeviceQueue::new(session.memory(), &setup, state).unwrap());
                told.push(format!("restarted {}", ring.index));
            }
        }
        Event::BackendChannel(socket) => {
            *channel = Some(socket);
        }
        Event::ConfigWrite { offset, bytes, .. } => {
            let mut config: Vec<u8> = (1..=60).collect();
            config[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            session.set_config(config);
            assert!(session.send_config_change());
        }
        _ => {}
    }
    Outcome::Done
}

fn connect() -> (Frontend, JoinHandle<Served>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Frontend::from_stream(theirs, 4), serve(ours))
}

fn memory_region(guest: u64, len: u64, file: &OwnedFd) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: guest,
        memory_size: len,
        userspace_addr: USER + guest,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    }
}

fn addresses(log: Option<u64>) -> VringConfigData {
    VringConfigData {
        queue_max_size: 256,
        queue_size: 128,
        flags: log.is_some().into(),
        desc_table_addr: USER,
        avail_ring_addr: USER + 0x1000,
        used_ring_addr: USER + 0x2000,
        log_addr: log,
    }
}

#[test]
fn a_whole_life_with_the_vhost_crates_front_end() {
    let (mut front, host) = connect();
    let features = front.get_features().unwrap();
    assert_eq!(features & (PROTOCOL | LOG_ALL | VERSION_1), PROTOCOL | LOG_ALL | VERSION_1);
    let protocol = front.get_protocol_features().unwrap();
    assert_eq!(protocol.bits() & !(1 << 20), 0x1_b23f);
    front.set_protocol_features(protocol).unwrap();
    // From here on every message asks for an acknowledgement, so every one is checked.
    front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    front.set_owner().unwrap();
    assert_eq!(front.get_queue_num().unwrap(), 2);
    assert_eq!(front.get_max_mem_slots().unwrap(), 509);
    let (ours, theirs) = UnixStream::pair().unwrap();
    front.set_backend_request_fd(&theirs).unwrap();
    drop(theirs);
    let (_, config) = front.get_config(4, 8, VhostUserConfigFlags::empty(), &[0; 8]).unwrap();
    assert_eq!(config, [5, 6, 7, 8, 9, 10, 11, 12]);
    front.set_features(VERSION_1 | PROTOCOL).unwrap();
    let (in_flight, file) = front.get_inflight_fd(&VhostUserInflight::new(0, 0, 2, 256)).unwrap();
    assert_eq!(file.metadata().unwrap().len(), in_flight.mmap_size);
    front.set_inflight_fd(&in_flight, file.as_raw_fd()).unwrap();

    let (low, high) = (memfd(MIB), memfd(MIB));
    // A ring that records what is in flight goes on at its used index.
    rustix::io::pwrite(&low, &7u16.to_le_bytes(), 0x2002).unwrap();
    front.set_mem_table(&[memory_region(0, MIB, &low)]).unwrap();
    front.add_mem_region(&memory_region(4 * MIB, MIB, &high)).unwrap();
    let (call, kick, err) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
    front.set_vring_num(0, 128).unwrap();
    front.set_vring_addr(0, &addresses(None)).unwrap();
    front.set_vring_base(0, 7).unwrap();
    front.set_vring_call(0, &call).unwrap();
    front.set_vring_err(0, &err).unwrap();
    front.set_vring_kick(0, &kick).unwrap();
    front.set_vring_enable(0, true).unwrap();
    // Memory and log change while the ring runs.
    front.remove_mem_region(&memory_region(4 * MIB, MIB, &high)).unwrap();
    let log = memfd(4096);
    let region = VhostUserDirtyLogRegion { mmap_size: 4096, mmap_offset: 0, mmap_handle: log.as_raw_fd() };
    front.set_log_base(0, Some(region)).unwrap();
    front.set_features(VERSION_1 | PROTOCOL | LOG_ALL).unwrap();
    front.set_vring_addr(0, &addresses(Some(0x2000))).unwrap();
    // A write to the configuration comes back as CONFIG_CHANGE on the other channel.
    front.set_config(2, VhostUserConfigFlags::WRITABLE, &[0x55]).unwrap();
    assert_eq!(receive(&ours, 12).0, crate::wire::message(2, 1, &[]));
    let (_, config) = front.get_config(2, 1, VhostUserConfigFlags::empty(), &[0]).unwrap();
    assert_eq!(config, [0x55]);
    assert_eq!(front.get_vring_base(0).unwrap(), 7, "nothing was popped, nothing was lost");
    front.reset_device().unwrap();
    drop(front);

    let (told, served) = host.join().unwrap();
    assert_eq!(served, Ok(()));
    let expected = [
        "BackendChannel",
        "Features",
        "Memory",
        "Memory",
        "QueueStart",
        "QueueEnable",
        "Memory",
        "restarted 0",
        "Features",
        "restarted 0",
        "QueuesRestart",
        "restarted 0",
        "ConfigWrite",
        "QueueStop",
        "ResetDevice",
    ];
    assert_eq!(told, expected);
}

#[test]
fn memory_written_by_the_front_end_is_what_the_session_maps() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let front = Frontend::from_stream(theirs, 4);
    front.set_owner().unwrap();
    let file = memfd(MIB);
    rustix::io::pwrite(&file, b"guest", 0x3000).unwrap();
    front.set_mem_table(&[memory_region(2 * MIB, MIB, &file)]).unwrap();
    drop(front);
    let mut session = Session::new(offer());
    serve_session(&mut session, &ours, &mut Vec::new()).unwrap();
    let mut bytes = [0; 5];
    session.memory().slice(GuestAddr(2 * MIB + 0x3000), 5).unwrap().read(&mut bytes);
    assert_eq!(&bytes, b"guest");
}

#[test]
fn a_refusal_reaches_the_front_end_as_a_closed_connection() {
    let (mut front, host) = connect();
    front.get_features().unwrap();
    let protocol = front.get_protocol_features().unwrap();
    front.set_protocol_features(protocol & (Protocol::REPLY_ACK | Protocol::CONFIGURE_MEM_SLOTS)).unwrap();
    front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    // An eventfd is no memory.
    assert!(front.add_mem_region(&memory_region(0, MIB, &eventfd())).is_err());
    let (_, served) = host.join().unwrap();
    assert_eq!(served.unwrap_err().name(), "map-file-kind");
}

#[test]
fn a_front_end_that_goes_away_in_mid_message_is_gone() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let host = serve(ours);
    theirs.write_all(&crate::wire::message(12, 1, &[0; 8])[..17]).unwrap();
    drop(theirs);
    assert_eq!(host.join().unwrap(), (vec![], Ok(())));
}
