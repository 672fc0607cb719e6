//! What the fuzz targets `net_header`, `net_control` and `blk_request` run, so that tests can run it too.
#![allow(dead_code, unused_imports, reason = "each fuzz target uses one entry")]

mod blk;

pub(crate) use blk::{BLK_PREFIX_LEN, blk_request};
use devices::net::control::{Ack, ControlState, REQUEST_LEN_MAX};
use devices::net::offload::validate;
use devices::net::packet::Packet;
use devices::net::{
    Accepts, Acknowledged, FRAME_LEN_MAX, Features, Offered, Software, TransmitRules, transmit,
};
use guestmem::MemSlice;
use std::ops::ControlFlow;
use virtqueue::Endian;

/// Bytes in front of the chain: features of the sender, offloads of the receiver, cut, byte order, padding.
pub(crate) const PREFIX_LEN: usize = 8;

fn acknowledged(bits: u64) -> Acknowledged {
    let offered = Offered::new(Features::all());
    Acknowledged::new(offered, bits & Features::all().bits()).unwrap_or_default()
}

/// `bytes` is a prefix and the bytes of a transmit chain.
///
/// Whatever is opened converts, for any receiver, into frames that carry true offloads and are no longer than
/// their packet and a fragment header.
pub(crate) fn net_header(bytes: &[u8]) {
    let Some((prefix, chain)) = bytes.split_first_chunk::<PREFIX_LEN>() else { return };
    let [low, middle, high, takes_low, takes_high, cut, flags, pad] = *prefix;
    let mut features = u64::from(low) & 1 | u64::from(middle) << 8 | u64::from(high & 1) << 32;
    if flags & 2 != 0 {
        features |= Features::HOST_USO.bits();
    }
    let endian = if flags & 1 == 0 { Endian::Little } else { Endian::Big };
    let rules = TransmitRules::new(acknowledged(features), endian);
    let receiver = Accepts::from_bits_truncate(u16::from_le_bytes([takes_low, takes_high]));

    let mut memory = chain.to_vec();
    // Long packets without long inputs.
    memory.resize(chain.len() + usize::from(pad) * 258, pad);
    let len = memory.len() as u32;
    let segments: Vec<MemSlice<'_>> =
        memory.chunks_mut(usize::from(cut).max(1)).map(MemSlice::from_mut).collect();
    let mut head = [0; 256];
    let Ok(frame) = transmit::open_segments(&rules, &segments, len, &mut head) else { return };
    assert!(frame.len() <= FRAME_LEN_MAX && frame.head().len() <= frame.len() as usize);
    assert!(Packet::parse(frame.head()).is_some());
    assert!(rules.accepts.takes(&frame.offload()));
    let frame_len = frame.len();
    Software::new().convert(&frame, receiver, |part| {
        assert!(receiver.takes(&part.offload()));
        assert!(part.len() <= frame_len + 8 && part.len() as usize == part.head().len());
        let again = validate(&part.offload().header(), part.head(), part.len(), Accepts::all());
        assert!(again.is_ok(), "{again:?}");
        ControlFlow::Continue(())
    });
}

/// `bytes` is a prefix and a list of requests, each behind a 16-bit length.
pub(crate) fn net_control(bytes: &[u8]) {
    let Some((prefix, mut requests)) = bytes.split_first_chunk::<PREFIX_LEN>() else { return };
    let endian = if prefix[0] & 1 == 0 { Endian::Little } else { Endian::Big };
    let features = acknowledged(u64::from_le_bytes(*prefix) | Features::CTRL_VQ.bits());
    let mut state = ControlState::new(features, endian, [2, 0, 0, 0, 0, 1], u16::from(prefix[7]).max(1));
    while let Some((len, rest)) = requests.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len)).min(rest.len()).min(REQUEST_LEN_MAX);
        let (request, rest) = rest.split_at(len);
        requests = rest;
        let (ack, change) = state.handle(request, &mut |_| true);
        assert_eq!(ack == Ack::Ok, change.is_some());
        assert!(state.queue_pairs() >= 1 && state.queue_pairs() <= u16::from(prefix[7]).max(1));
        assert!(features.receive_accepts().contains(state.accepts()));
        assert_eq!(state.mac()[0] & 1, 0);
        let destination = request.first_chunk::<6>().copied().unwrap_or([0xFF; 6]);
        let _ = state.accepts_frame(destination, request.last().map(|&byte| u16::from(byte) << 4));
    }
}
