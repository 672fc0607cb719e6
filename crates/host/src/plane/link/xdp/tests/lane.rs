//! What is on the wire is what was decided on, whatever the guest writes meanwhile.

use super::*;
use crate::config::resolved::ZeroCopy;
use crate::plane::link::xdp::{Copied, Lane, Lanes};
use devices::net::{Accepts, HeaderFormat, TransmitRules, transmit};
use guestmem::{FrontendAddr, GuestAddr, GuestMemory, Mapping, MemSlice, Region};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::sync::Arc;

const RULES: TransmitRules = TransmitRules { format: HeaderFormat::MODERN, accepts: Accepts::empty() };
const HEADER: usize = 12;

fn memory() -> Arc<GuestMemory> {
    let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 1 << 20).unwrap();
    let mapping = Arc::new(Mapping::file(&file, 0, 1 << 20).unwrap());
    let region = Region::new(GuestAddr(0), FrontendAddr(0), 1 << 20, mapping).unwrap();
    Arc::new(GuestMemory::new(vec![region]).unwrap())
}

/// A lane for the queue of `memory`'s guest to `up0`, which stays open with it.
fn lane(memory: &Arc<GuestMemory>) -> (Lane, (Attached, Vec<XdpQueue>)) {
    let uplink = uplink(1, XdpMode::Native).unwrap();
    let interface = Reader::open().unwrap().read("up0").unwrap();
    let lanes: Arc<Lanes> = Arc::new(uplink.0.lanes(&interface, 1, ZeroCopy { min: 256, always: true }));
    (lanes.open("a", 0, memory, 256).unwrap(), uplink)
}

/// Lends the frame in `segments`, after `meanwhile` was done.
fn lend(lane: &mut Lane, segments: &[MemSlice<'_>], meanwhile: impl FnOnce()) -> Result<u32, Copied> {
    let mut head = [0; 256];
    let len = segments.iter().map(MemSlice::len).sum::<usize>() as u32;
    let frame = transmit::open_segments(&RULES, segments, len, &mut head).unwrap();
    meanwhile();
    let lent = lane.lend(&frame, 0);
    lane.flush();
    lent
}

#[test]
fn a_head_is_sent_as_it_was_and_the_rest_as_it_is() {
    in_namespace(|| {
        pair(" numtxqueues 2 numrxqueues 2");
        let (memory, far) = (memory(), far_end());
        let (mut lane, _uplink) = lane(&memory);
        for (at, len) in [(0x1000, 1514), (0x1fff, 1514), (0x0f80, 256), (0x2ff4, 1000)] {
            let bytes = frame(len, at as u32);
            let whole = memory.slice(GuestAddr(at), HEADER + len).unwrap();
            whole.fill(0);
            whole.sub(HEADER, len).unwrap().write(&bytes);
            // The guest puts other addresses, and everything else, into its buffer once the switch has decided.
            lend(&mut lane, &[whole], || whole.fill(0xEE)).unwrap();
            let sent = next_far(&far);
            let seen = 128 - HEADER;
            assert_eq!(sent[..seen], bytes[..seen]);
            assert_eq!(sent[seen..], vec![0xEE; len - seen], "these bytes were in no copy of ours");
        }
    });
}

#[test]
fn frames_that_cannot_be_lent_are_named() {
    in_namespace(|| {
        pair(" numtxqueues 2 numrxqueues 2");
        let (memory, far) = (memory(), far_end());
        let (mut lane, _uplink) = lane(&memory);
        let mut run = |segments: &[MemSlice<'_>]| lend(&mut lane, segments, || {});
        let slice = |at, len| memory.slice(GuestAddr(at), len).unwrap();
        assert_eq!(run(&[slice(0, HEADER + 255)]), Err(Copied::Short));
        assert_eq!(run(&[slice(0, HEADER + 1600)]), Err(Copied::Room), "longer than the MTU has room for");
        let pieces: Vec<_> = (0..18).map(|i| slice(0x1000 + i * 0x1000, 60)).collect();
        assert_eq!(run(&[&[slice(0, 128)], &pieces[..]].concat()[..]), Err(Copied::Scattered));
        assert!(run(&[&[slice(0, 128)], &pieces[..12]].concat()[..]).is_ok());
        let mut private = [0; 1000];
        assert_eq!(run(&[slice(0, 128), MemSlice::from_mut(&mut private)]), Err(Copied::Scattered));
        drop(far);
    });
}
