//! What the fuzz target `vfio_user_message` runs, so that tests can run it too.
#![allow(dead_code, reason = "the fuzz target and the tests each use some")]

use guestmem::GuestAddr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use transport::pci::{Description, Interface, NotifyKind};
use transport::vfio_user::{DATA_MAX, Offer, Outcome, Session};
use virtqueue::{Endian, QueueSize, RingState};

/// Bytes in front of each piece: kind, length.
const HEAD_LEN: usize = 2;

/// No memory, a file of a file system that is not accepted, 2 MiB of memory.
static FILES: LazyLock<[File; 3]> = LazyLock::new(|| {
    let open = |path| File::options().read(true).write(true).open(path).expect("a device file");
    let path = format!("/dev/shm/vfio-user-message-{}", std::process::id());
    let memory = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    memory.set_len(2 << 20).expect("2 MiB");
    std::fs::remove_file(path).expect("just made");
    [open("/dev/null"), open("/proc/self/comm"), memory]
});

fn file(number: u8) -> OwnedFd {
    FILES[usize::from(number).min(2)].try_clone().expect("a descriptor").into()
}

fn session(kind: u8) -> Session {
    let interface = match kind & 3 {
        0 => Interface::Legacy,
        1 | 2 => Interface::Transitional,
        _ => Interface::Modern,
    };
    let legacy = interface == Interface::Legacy;
    let mapped = kind & 4 != 0 && !legacy;
    let function = Description {
        device_type: 1,
        class: 0x02_0000,
        interface,
        notify: if legacy { vec![] } else { vec![NotifyKind::Pio, NotifyKind::Mmio] },
        mapped,
        notification_data: kind & 8 != 0 && !legacy,
        msix: kind & 16 == 0,
        features: 0x0c_3000_0020,
        queue_size_max: vec![QueueSize::try_from(256).expect("a size"); 3],
        admin_queue: (kind & 32 != 0 && !legacy).then(|| QueueSize::try_from(16).expect("a size")),
        config: vec![0xc0; 60],
        endian: Endian::Little,
        shared_memory: vec![],
        vendor: None,
        sr_iov: None,
    };
    let queues = function.queue_size_max.len() + usize::from(function.admin_queue.is_some());
    let kicks = (0..queues).map(|_| file(0)).collect();
    let region_file = mapped.then(|| file(2));
    let readable_only = vec![1];
    Session::new(Offer { function, kicks, interrupt: file(0), region_file, readable_only })
        .expect("a sound offer")
}

fn outcome(kind: u8) -> Outcome {
    match kind >> 6 {
        0 | 1 => Outcome::Done,
        2 => Outcome::Stopped(RingState::default()),
        _ => Outcome::Failed,
    }
}

/// The message of the first bytes of a piece, with a size that fits: so that fuzzing need not find it.
fn sized(piece: &[u8]) -> Vec<u8> {
    let mut bytes = piece.to_vec();
    let size = (bytes.len() as u32).to_le_bytes();
    if let Some(place) = bytes.get_mut(4..8) {
        place.copy_from_slice(&size);
    }
    bytes
}

/// Bytes of the client's memory that is reached by messages; every address leads into it.
const FAR_LEN: usize = 64 * 1024;

/// The client's answer to a message of the session's own; `None`: it is a reply.
fn far_reply(outgoing: &[u8], memory: &mut [u8]) -> Option<Vec<u8>> {
    let word = |at: usize| u64::from_le_bytes(outgoing[at..at + 8].try_into().expect("a word"));
    if outgoing[8] & 1 != 0 {
        return None;
    }
    let (is_read, address, len) = (outgoing[2] == 11, word(16) as usize, word(24) as usize);
    let mut reply = outgoing[..32].to_vec();
    for step in 0..len {
        let place = &mut memory[address.wrapping_add(step) % FAR_LEN];
        if is_read {
            reply.push(*place);
        } else {
            *place = outgoing[32 + step];
        }
    }
    reply[8] = 1;
    let size = reply.len() as u32;
    reply[4..8].copy_from_slice(&size.to_le_bytes());
    Some(reply)
}

/// The input is a byte for the function, and a list of pieces: a byte for the descriptors (low three bits: how many; bits
/// 4-5: which file; bit 3: whether the piece is a message whose size is put right), a byte for the piece's length, the
/// piece. Every event is finished at once, by the piece's bits 6-7. With seven descriptors the piece is no message: its first two
/// bytes are an address of the memory that is reached by messages, and the rest is written there.
pub(crate) fn vfio_user_message(input: &[u8]) {
    let Some((&first, mut rest)) = input.split_first() else { return };
    let mut session = session(first);
    let mut memory = vec![0; FAR_LEN];
    while let Some(([kind, len], tail)) = rest.split_first_chunk::<HEAD_LEN>() {
        let (piece, after) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = after;
        if let ([low, high, data @ ..], 7) = (piece, kind & 7) {
            let address = usize::from(u16::from_le_bytes([*low, *high]));
            memory.iter_mut().skip(address).zip(data).for_each(|(place, byte)| *place = *byte);
            continue;
        }
        let fds = (0..kind & 7).map(|_| file(kind >> 4 & 3)).collect();
        let bytes = if kind & 8 != 0 { sized(piece) } else { piece.to_vec() };
        if session.receive(&bytes, fds).is_err() {
            return;
        }
        loop {
            match session.next_event() {
                Ok(Some(_)) => session.finish(outcome(*kind)),
                Ok(None) => break,
                Err(fault) => {
                    assert!(!fault.to_string().is_empty());
                    return;
                }
            }
        }
        if let Some(refusal) = session.take_refusal() {
            assert!(!refusal.to_string().is_empty() && refusal.errno() != 0);
        }
        assert!(session.wanted() <= 16 + 16 + DATA_MAX);
        host_acts(&mut session, *kind);
        // A client that reads replies only now and then.
        if kind & 3 == 0 {
            for _ in 0..64 {
                let Some(outgoing) = session.next_outgoing() else { break };
                assert!(outgoing.bytes.len() <= 16 + 16 + DATA_MAX && outgoing.fds.len() <= 16);
                let Some(reply) = far_reply(&outgoing.bytes, &mut memory) else { continue };
                if session.receive(&reply, vec![]).is_err() {
                    return;
                }
                while let Ok(Some(_)) = session.next_event() {
                    session.finish(outcome(*kind));
                }
            }
        }
    }
}

/// What a host does by itself.
fn host_acts(session: &mut Session, kind: u8) {
    session.queue_interrupt();
    session.queue_called(u16::from(kind >> 4));
    session.queue_notified(u16::from(kind >> 4 & 3));
    session.resampled();
    session.send_config_change();
    if kind & 0x40 != 0 {
        let _ = session.dma_read(GuestAddr(0x1000), 64);
        let _ = session.dma_write(GuestAddr(0x2000), &[kind; 8]);
    }
    if kind & 0x10 != 0 {
        let opcode = [0, 1, 0x11][usize::from(kind >> 6) % 3];
        session.admin_command(&[&[opcode][..], &[0; 23], &[kind & 1, 0, 2, 0, 0, 0, 0, 0]].concat(), 64);
    }
    if kind & 0x20 != 0 {
        session.set_config(&[kind; 80]);
        session.needs_reset();
        while session.next_dma().is_some() {}
    }
}
