//! The `vfio_user` crate's client, the one of Cloud Hypervisor, as an independent peer over a real socket.

use crate::wire::*;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{JoinHandle, spawn};
use transport::pci::{Description, Interface};
use transport::vfio_user::{ClientFault, Event, Outcome, Outgoing, Session};
use vfio_user::Client;
use virtqueue::{DeviceQueue, RingState};

fn receive(socket: &UnixStream, wanted: usize) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; wanted];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(17))];
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

fn send(socket: &UnixStream, outgoing: &Outgoing) {
    let fds: Vec<_> = outgoing.fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(17))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&outgoing.bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    assert_eq!(sent, outgoing.bytes.len());
}

/// What the host was told, and how its session ended.
type Served = (Vec<String>, Result<(), ClientFault>);

/// A host that makes the queues it is told of, and signals what it is told to.
fn serve(mut session: Session, listener: UnixListener) -> JoinHandle<Served> {
    spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut told = Vec::new();
        let served = serve_session(&mut session, &socket, &mut told);
        (told, served)
    })
}

fn serve_session(
    session: &mut Session,
    socket: &UnixStream,
    told: &mut Vec<String>,
) -> Result<(), ClientFault> {
    loop {
        let (bytes, fds) = receive(socket, session.wanted());
        if bytes.is_empty() {
            return Ok(());
        }
        session.receive(&bytes, fds)?;
        while let Some(event) = session.next_event()? {
            told.push(name(&event));
            let outcome = match event {
                Event::QueueStart(start) => {
                    DeviceQueue::new(session.memory(), &start.setup, start.state).unwrap();
                    // As a worker does that used a chain.
                    signal(start.call.unwrap());
                    Outcome::Done
                }
                Event::QueueStop { .. } => Outcome::Stopped(RingState::default()),
                Event::Interrupt(eventfd) => {
                    signal(eventfd);
                    Outcome::Done
                }
                _ => Outcome::Done,
            };
            session.finish(outcome);
        }
        while let Some(outgoing) = session.next_outgoing() {
            send(socket, &outgoing);
        }
    }
}

fn connect(function: Description) -> (Client, JoinHandle<Served>, HostEnd) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (offer, host_end) = offer(function);
    let host = serve(Session::new(offer).unwrap(), listener);
    (Client::new(&path).unwrap(), host, host_end)
}

fn write(client: &mut Client, offset: u64, data: &[u8]) {
    client.region_write(common::BAR, offset, data).unwrap();
}

#[test]
fn a_whole_life_with_cloud_hypervisors_client() {
    use common::*;
    let (mut client, host, _host_end) = connect(description(Interface::Modern));
    // Its sense of what can be reset is the other way round: it resets devices that do not say so.
    assert!(!client.resettable());
    let lens: Vec<u64> = (0..9).map(|index| client.region(index).unwrap().size).collect();
    assert_eq!(lens, [0, 4096, 0, 0, 16384, 0, 0, 4096, 0]);
    assert!((0..9).all(|index| client.region(index).unwrap().file_offset.is_none()));
    let mut ids = [0; 4];
    client.region_read(7, 0, &mut ids).unwrap();
    assert_eq!(ids, [0xf4, 0x1a, 0x41, 0x10]);

    let (low, high) = (memfd(16 * MIB), memfd(MIB));
    client.dma_map(0, 0, 16 * MIB, low.as_raw_fd()).unwrap();
    client.dma_map(0, 1 << 32, MIB, high.as_raw_fd()).unwrap();
    let info = client.get_irq_info(2).unwrap();
    assert_eq!((info.index, info.count), (2, 4));
    let vectors: Vec<OwnedFd> = (0..4).map(|_| eventfd()).collect();
    let raw: Vec<_> = vectors.iter().map(|vector| vector.as_raw_fd()).collect();
    client.set_irqs(2, 0x24, 0, 4, &raw).unwrap();
    let mut capability = [0; 256];
    client.region_read(7, 0, &mut capability).unwrap();
    let mut at = usize::from(capability[0x34]);
    while capability[at] != 0x11 {
        at = usize::from(capability[at + 1]);
    }
    client.region_write(7, at as u64 + 2, &[0, 0x80]).unwrap();

    for status in [0u8, 1, 3] {
        write(&mut client, STATUS, &[status]);
    }
    write(&mut client, DRIVER_FEATURE_SELECT, &1u32.to_le_bytes());
    write(&mut client, DRIVER_FEATURE, &1u32.to_le_bytes());
    write(&mut client, STATUS, &[11]);
    let mut status = [0];
    client.region_read(BAR, STATUS, &mut status).unwrap();
    assert_eq!(status, [11]);
    write(&mut client, QUEUE_SELECT, &0u16.to_le_bytes());
    write(&mut client, QUEUE_VECTOR, &2u16.to_le_bytes());
    for (area, address) in (0..).zip(ring_at(0)) {
        write(&mut client, QUEUE_DESC + 8 * area, &(address as u32).to_le_bytes());
    }
    write(&mut client, QUEUE_ENABLE, &1u16.to_le_bytes());
    write(&mut client, STATUS, &[15]);
    assert_eq!(signals(&vectors[2]), 1, "the worker called");
    write(&mut client, NOTIFY, &0u16.to_le_bytes());

    client.dma_unmap(1 << 32, MIB).unwrap();
    client.reset().unwrap();
    client.shutdown().unwrap();
    let (told, served) = host.join().unwrap();
    assert_eq!(served, Ok(()));
    let expected = [
        "Memory",
        "Memory",
        "ResetDevice",
        "Features",
        "QueueStart 0",
        "QueueEnable 0",
        "QueueKicked 0",
        "Memory",
        "QueueStop 0",
        "ResetDevice",
    ];
    assert_eq!(told, expected);
}

#[test]
fn cloud_hypervisors_client_finds_the_mapped_page() {
    let mut function = description(Interface::Modern);
    function.mapped = true;
    let (client, host, _host_end) = connect(function);
    let region = client.region(common::BAR).unwrap();
    let [area] = &region.sparse_areas[..] else { panic!("one area") };
    assert_eq!((area.offset, area.size), (0x3000, 0x1000));
    let file = region.file_offset.as_ref().unwrap();
    assert_eq!(file.start(), 0);
    assert!(file.file().metadata().unwrap().len() >= 0x4000);
    client.shutdown().unwrap();
    assert_eq!(host.join().unwrap().1, Ok(()));
}
