//! Memory that is reached by messages.

use crate::wire::*;
use guestmem::GuestAddr;
use transport::pci::Interface;
use transport::vfio_user::{DMA_MAX, DmaDone, DmaFault, Event};

const DMA_READ: u16 = 11;
const DMA_WRITE: u16 = 12;

/// A client with a mebibyte that may be read and written, and one that may be read; neither has a descriptor.
fn client() -> Wire {
    let mut wire = Wire::greeted(description(Interface::Modern));
    wire.ask(DMA_MAP, &dma_map(3, 0, 0, MIB));
    wire.ask(DMA_MAP, &dma_map(1, 0, MIB, MIB));
    assert!(wire.told.is_empty(), "no memory that could be mapped");
    wire
}

fn place(address: u64, len: u64) -> Vec<u8> {
    u64s(&[address, len])
}

#[test]
fn bytes_are_read_and_written() {
    let mut wire = client();
    let read = wire.session.dma_read(GuestAddr(0x1000), 5).unwrap();
    let write = wire.session.dma_write(GuestAddr(0x2000), b"data").unwrap();
    let sent: Vec<_> =
        std::iter::from_fn(|| wire.session.next_outgoing()).map(|outgoing| outgoing.bytes).collect();
    let written = [place(0x2000, 4), b"data".to_vec()].concat();
    assert_eq!(sent, [message(read, DMA_READ, 0, &place(0x1000, 5)), message(write, DMA_WRITE, 0, &written)]);
    assert_eq!(wire.session.next_dma(), None);
    // Replies in any order, between commands.
    wire.session.receive(&message(write, DMA_WRITE, 1, &place(0x2000, 4)), vec![]).unwrap();
    wire.session.receive(&message(9, GET_INFO, 0, &u32s(&[16, 0, 0, 0])), vec![]).unwrap();
    wire.session
        .receive(&message(read, DMA_READ, 1, &[place(0x1000, 5), b"hello".to_vec()].concat()), vec![])
        .unwrap();
    wire.run().unwrap();
    assert_eq!(wire.session.next_outgoing().unwrap().bytes.len(), 32);
    assert_eq!(wire.session.next_dma(), Some(DmaDone { id: write, result: Ok(vec![]) }));
    assert_eq!(wire.session.next_dma(), Some(DmaDone { id: read, result: Ok(b"hello".to_vec()) }));
    // Refused by the client; and a client that says no more than that it is done.
    let ids = [
        wire.session.dma_read(GuestAddr(0), 1).unwrap(),
        wire.session.dma_write(GuestAddr(0), b"x").unwrap(),
    ];
    let mut refusal = message(ids[0], DMA_READ, 0x21, &[]);
    refusal[12..16].copy_from_slice(&14u32.to_le_bytes());
    wire.session.receive(&refusal, vec![]).unwrap();
    wire.session.receive(&message(ids[1], DMA_WRITE, 1, &[]), vec![]).unwrap();
    wire.run().unwrap();
    assert_eq!(wire.session.next_dma(), Some(DmaDone { id: ids[0], result: Err(14) }));
    assert_eq!(wire.session.next_dma(), Some(DmaDone { id: ids[1], result: Ok(vec![]) }));
}

/// The client holds a lock until its write is answered, and needs the lock for our access.
#[test]
fn the_reply_goes_first() {
    let (mut wire, file) = Wire::mapped(description(Interface::Legacy));
    drop(file);
    wire.ask(DMA_MAP, &dma_map(3, 0, 32 * MIB, MIB));
    wire.write(0, 0x0e, &0u16.to_le_bytes());
    wire.write(0, 0x08, &0x40u32.to_le_bytes());
    wire.write(0, 0x12, &[7]);
    // A doorbell in port I/O, which waits for its reply.
    let kick = [access(0, 0x10, 2), vec![0, 0]].concat();
    wire.session.receive(&message(5, REGION_WRITE, 0, &kick), vec![]).unwrap();
    let event = wire.session.next_event().unwrap();
    assert!(matches!(event, Some(Event::QueueKicked { index: 0 })));
    let id = wire.session.dma_read(GuestAddr(32 * MIB), 8).unwrap();
    assert!(wire.session.next_outgoing().is_none());
    wire.session.finish(transport::vfio_user::Outcome::Done);
    assert!(wire.session.next_event().unwrap().is_none());
    let sent: Vec<_> =
        std::iter::from_fn(|| wire.session.next_outgoing()).map(|outgoing| outgoing.bytes).collect();
    assert_eq!(
        sent,
        [message(5, REGION_WRITE, 1, &access(0, 0x10, 2)), message(id, DMA_READ, 0, &place(32 * MIB, 8))]
    );
}

#[test]
fn accesses_that_cannot_be_do_not_begin() {
    let mut wire = client();
    let session = &mut wire.session;
    let outside = |address, len| DmaFault::Range { address: GuestAddr(address), len };
    assert_eq!(session.dma_read(GuestAddr(2 * MIB), 1), Err(outside(2 * MIB, 1)));
    assert_eq!(session.dma_read(GuestAddr(MIB - 1), 2), Err(outside(MIB - 1, 2)));
    assert_eq!(session.dma_read(GuestAddr(u64::MAX), 2), Err(outside(u64::MAX, 2)));
    assert_eq!(session.dma_write(GuestAddr(MIB), b"x"), Err(outside(MIB, 1)));
    let len = |len| DmaFault::Len { len, most: 1 << 20 };
    assert_eq!(session.dma_read(GuestAddr(0), 0), Err(len(0)));
    assert_eq!(session.dma_read(GuestAddr(0), (1 << 20) + 1), Err(len((1 << 20) + 1)));
    let ids: Vec<u16> = (0..DMA_MAX).map(|_| session.dma_read(GuestAddr(MIB), 1).unwrap()).collect();
    assert_eq!(session.dma_read(GuestAddr(0), 1), Err(DmaFault::Busy));
    // Room comes with a result that is taken, not with one that waits.
    let reply = message(ids[3], DMA_READ, 1, &[place(MIB, 1), vec![7]].concat());
    session.receive(&reply, vec![]).unwrap();
    while session.next_outgoing().is_some() {}
    wire.run().unwrap();
    assert_eq!(wire.session.dma_read(GuestAddr(0), 1), Err(DmaFault::Busy));
    assert_eq!(wire.session.next_dma(), Some(DmaDone { id: ids[3], result: Ok(vec![7]) }));
    wire.session.dma_read(GuestAddr(0), 1).unwrap();
}

#[test]
fn replies_that_nobody_waits_for_end_the_session() {
    let begun = || {
        let mut wire = client();
        let id = wire.session.dma_read(GuestAddr(0), 4).unwrap();
        while wire.session.next_outgoing().is_some() {}
        (wire, id)
    };
    let right = [place(0, 4), vec![0; 4]].concat();
    let (mut wire, id) = begun();
    assert_eq!(wire.fault(&message(id + 1, DMA_READ, 1, &right)), "unexpected-reply");
    let (mut wire, id) = begun();
    assert_eq!(wire.fault(&message(id, DMA_WRITE, 1, &right)), "unexpected-reply");
    for size in [0, 19, 21] {
        let (mut wire, id) = begun();
        assert_eq!(wire.fault(&message(id, DMA_READ, 1, &vec![0; size])), "reply-size");
    }
    let (mut wire, id) = begun();
    wire.session.receive(&message(id, DMA_READ, 1, &right), vec![]).unwrap();
    wire.run().unwrap();
    assert_eq!(wire.fault(&message(id, DMA_READ, 1, &right)), "unexpected-reply", "once is enough");
}
