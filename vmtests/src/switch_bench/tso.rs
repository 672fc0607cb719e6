//! Whole TSO frames of nearly 64 KiB from station to station, next to Open vSwitch with userspace TSO and to a memcpy.
//!
//! One station keeps [`IN_FLIGHT`] frames on their way to the other: as soon as one has arrived, and was looked at, the next is
//! sent. So nothing is lost, and the rate is the switch's. Both stations are driven by one thread that never sleeps. Each
//! frame is TCP over IPv4 as a Linux guest sends it with TSO: its checksum begun, `gso_size` of a usual link, its bytes in
//! pieces of 32 KiB; the receiver's buffers have 4 KiB and a frame takes sixteen of them. Of a frame that arrived its length,
//! its headers, what the virtio-net header says of it, its number and a word at its end are compared. The payload is not
//! written anew for each frame: what is measured is the switch's copy, not the guests' work.
//!
//! A memcpy is that of the same bytes alone, on the switch's processor, from as many places to as many as the frames have:
//! once in the same huge pages with the copy that Ringway uses, once between private buffers with that of the C library;
//! the faster one counts. A third copy, into pieces as the receiver's buffers are and not aligned as they are, shows how much
//! of the difference is what virtio asks for.

use super::ends::{Stage, address, introduce, on_generator, on_processor, window};
use super::{Bench, Cell, Effort, Running, SWITCH_CPU};
use crate::process::own_ns;
use crate::row::{Row, Target};
use crate::station::{HEADER, Pages, Ram, Received, Shape, Station, TAIL};
use anyhow::{Context, ensure};
use devices::net::Features;
use devices::net::header::GSO_TCPV4;
use guestmem::MemSlice;
use std::hint::black_box;
use std::time::{Duration, Instant};

const CASE: &str = "64 KiB TSO";
/// Payload of one segment with time stamps on a link of 1500 bytes.
const SEGMENT: u16 = 1448;
/// Segments of a frame: as many as an IPv4 packet holds.
const SEGMENTS: u32 = 45;
/// Ethernet, IPv4, TCP with time stamps.
const HEADERS: usize = 14 + 20 + 32;
/// Bytes of a frame.
const FRAME: u32 = HEADERS as u32 + SEGMENTS * SEGMENT as u32;
/// Frames on their way: nearly as many as the receiver has buffers for, and more than a switch takes at once, so that it need
/// not wait for the stations.
const IN_FLIGHT: u32 = 60;
/// Frames looked at before as many are sent again.
const TURN: u32 = 8;
const SHAPE: Shape = Shape { ring: 1024, buffer: 4096, slots: 64, frame: FRAME, pages: Pages::Huge };
/// `flags`: the checksum is to be finished (virtio 1.3 §5.1.6).
const NEEDS_CSUM: u8 = 1;
/// Where the TCP header begins, and in it number and checksum.
const TCP: usize = 34;
const NUMBER: usize = TCP + 4;
const CHECKSUM: usize = TCP + 16;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Ringway,
    OpenVswitch,
    Memcpy,
    Pieces,
}

impl System {
    const ALL: [Self; 4] = [Self::Ringway, Self::OpenVswitch, Self::Memcpy, Self::Pieces];

    fn name(self) -> &'static str {
        match self {
            Self::Ringway => "Ringway",
            Self::OpenVswitch => "OVS-DPDK NORMAL with userspace TSO",
            Self::Memcpy => "memcpy on the same core",
            Self::Pieces => "memcpy in the receiver's pieces",
        }
    }

    /// What Ringway must reach of it.
    fn target(self) -> Option<Target> {
        match self {
            Self::Ringway | Self::Pieces => None,
            Self::OpenVswitch => Some(Target::AtLeast(2.0)),
            Self::Memcpy => Some(Target::AtLeast(0.7)),
        }
    }
}

/// Whether the case is among those wanted.
pub(super) fn wanted(effort: &Effort) -> bool {
    effort.wants(CASE)
}

pub(super) fn measure(bench: &Bench<'_>) -> anyhow::Result<Vec<Row>> {
    let effort = bench.effort;
    let mut cells = <[Cell; System::ALL.len()]>::default();
    let rounds = if wanted(effort) { effort.rounds } else { 0 };
    for round in 1..=rounds {
        for (system, cell) in System::ALL.into_iter().zip(&mut cells) {
            if !system.name().contains(&effort.system) {
                continue;
            }
            let what = format!("round {round} of {rounds}: {}, {CASE}", system.name());
            match system {
                System::Memcpy => memcpy(effort, cell),
                System::Pieces => pieces(effort, cell),
                system => frames(bench, system, cell),
            }
            .with_context(|| what.clone())?;
            bench.say(&format!("{what}: {}", cell.so_far(1e9, "GB/s")));
        }
    }
    let mut rows = Vec::new();
    for (system, cell) in System::ALL.into_iter().zip(&cells).skip(1) {
        let (Some((ours, _)), Some((peer, _))) = (cells[0].figure(), cell.figure()) else { continue };
        let case = format!("{CASE}, against {}", system.name());
        rows.push(Row::new(case, ours / 1e9, peer / 1e9, "GB/s", system.target()));
    }
    Ok(rows)
}

/// Starts a switch and adds windows of frames to the cell.
fn frames(bench: &Bench<'_>, system: System, cell: &mut Cell) -> anyhow::Result<()> {
    let wanted = Features::EVENT_IDX | Features::INDIRECT_DESC;
    // As a Linux guest has them. Open vSwitch sends whole frames only to a guest that takes those of IPv6 too.
    let needed = Features::CSUM
        | Features::HOST_TSO4
        | Features::HOST_TSO6
        | Features::GUEST_CSUM
        | Features::GUEST_TSO4
        | Features::GUEST_TSO6
        | Features::MRG_RXBUF;
    let mut stage = match system {
        System::OpenVswitch => {
            let settings = ["userspace-tso-enable=true"];
            let stage = Stage::open_vswitch(&bench.sysroot, &settings, SHAPE, wanted, needed)?;
            if let Running::OpenVswitch(ovs) = &stage.switch {
                let is_on = ovs.log().contains("Userspace TCP Segmentation Offloading support enabled");
                ensure!(is_on, "Open vSwitch does not say that userspace TSO is on:\n{}", ovs.log());
            }
            stage
        }
        _ => Stage::ringway(SHAPE, wanted, needed)?,
    };
    let Stage { stations, switch, .. } = &mut stage;
    on_generator(|| {
        introduce(stations)?;
        let mut flow = Flow::new(stations)?;
        let switch_ns = || switch.forwarding_ns();
        window(switch_ns, Duration::from_millis(300), || flow.turn())?;
        let counted = cell.clean.len() + bench.effort.windows;
        for _ in 0..bench.effort.windows * 4 {
            let (rate, share) = window(switch_ns, bench.effort.window, || flow.turn())?;
            cell.push(share, rate);
            if cell.clean.len() >= counted {
                break;
            }
        }
        Ok(())
    })
}

/// Frames from the first station to the second.
struct Flow<'s> {
    from: &'s mut Station,
    to: &'s mut Station,
    headers: [u8; HEADERS],
    sent: u32,
    arrived: u32,
    last: Instant,
}

impl<'s> Flow<'s> {
    fn new(stations: &'s mut [Station; 2]) -> anyhow::Result<Self> {
        let [from, to] = stations;
        let headers = headers();
        let mut first = [0; HEADER + HEADERS];
        let (virtio, frame) = first.split_at_mut(HEADER);
        virtio.copy_from_slice(&virtio_header());
        frame.copy_from_slice(&headers);
        // Once a frame stands in a slot, only number and last word change.
        for slot in 0..SHAPE.slots {
            from.slot_bytes(slot)?.write(&first);
        }
        Ok(Self { from, to, headers, sent: 0, arrived: 0, last: Instant::now() })
    }

    /// Takes what has arrived and sends as much again; how many bytes of frames arrived.
    fn turn(&mut self) -> anyhow::Result<u64> {
        let before = self.arrived;
        while self.arrived.wrapping_sub(before) < TURN {
            let Some(frame) = self.to.receive()? else { break };
            self.check(&frame).with_context(|| format!("frame {}", self.arrived))?;
            self.arrived = self.arrived.wrapping_add(1);
        }
        let count = self.arrived.wrapping_sub(before);
        if count > 0 {
            self.to.receive_ring().publish()?;
            self.last = Instant::now();
        } else {
            ensure!(self.last.elapsed() < super::ends::PATIENCE, "frame {} never arrived", self.arrived);
        }
        let mut fresh = false;
        while self.sent.wrapping_sub(self.arrived) < IN_FLIGHT {
            let Some(slot) = self.from.slot()? else { break };
            let frame = self.from.slot_bytes(slot)?.split_at(HEADER).1;
            frame.split_at(NUMBER).1.write(&self.sent.to_be_bytes());
            self.from.slot_tail(slot, FRAME)?.write(&check_word(self.sent));
            self.from.send(slot, FRAME)?;
            self.sent = self.sent.wrapping_add(1);
            fresh = true;
        }
        if fresh {
            self.from.transmit_ring().publish()?;
        }
        Ok(u64::from(count) * u64::from(FRAME))
    }

    fn check(&self, frame: &Received) -> anyhow::Result<()> {
        let (mut headers, header) = (self.headers, frame.header);
        headers[NUMBER..NUMBER + 4].copy_from_slice(&self.arrived.to_be_bytes());
        // Whoever takes an unfinished checksum does not look at what it holds. DPDK leaves the length out of it.
        headers[CHECKSUM..CHECKSUM + 2].copy_from_slice(&frame.head[CHECKSUM..CHECKSUM + 2]);
        ensure!(frame.len == FRAME, "{} bytes instead of {FRAME}", frame.len);
        ensure!(frame.head == headers, "headers {:02x?} instead of {headers:02x?}", frame.head);
        ensure!(frame.tail == check_word(self.arrived), "its last word is {:02x?}", frame.tail);
        // Flags, type, size of a segment, where the checksum begins and stands.
        let sent = virtio_header();
        let whole =
            header[0] & NEEDS_CSUM == NEEDS_CSUM && header[1] == sent[1] && header[4..10] == sent[4..10];
        ensure!(whole, "virtio-net header {header:02x?} instead of {sent:02x?}");
        Ok(())
    }
}

/// The word at the end of frame `number`.
fn check_word(number: u32) -> [u8; TAIL] {
    (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

/// What a driver says of such a frame (virtio 1.3 §5.1.6.2).
fn virtio_header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = NEEDS_CSUM;
    header[1] = GSO_TCPV4;
    header[2..4].copy_from_slice(&(HEADERS as u16).to_le_bytes());
    header[4..6].copy_from_slice(&SEGMENT.to_le_bytes());
    header[6..8].copy_from_slice(&(TCP as u16).to_le_bytes());
    header[8..10].copy_from_slice(&((CHECKSUM - TCP) as u16).to_le_bytes());
    header
}

/// Headers of a frame from the first station to the second, number 0; the TCP checksum holds the pseudo header's sum.
fn headers() -> [u8; HEADERS] {
    let mut bytes = [0; HEADERS];
    bytes[..6].copy_from_slice(&address(1));
    bytes[6..12].copy_from_slice(&address(0));
    bytes[12..14].copy_from_slice(&[8, 0]);
    let total = FRAME as u16 - 14;
    bytes[14..16].copy_from_slice(&[0x45, 0]);
    bytes[16..18].copy_from_slice(&total.to_be_bytes());
    bytes[20..24].copy_from_slice(&[0x40, 0, 64, 6]);
    bytes[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let checksum = !sum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    // Ports, number, acknowledgement, length of 8 words, ACK, window; then two no-operations and the time stamps.
    bytes[TCP..TCP + 4].copy_from_slice(&[0x13, 0x88, 0x13, 0x89]);
    bytes[TCP + 8..TCP + 16].copy_from_slice(&[0, 0, 0, 1, 0x80, 0x10, 0xff, 0xff]);
    bytes[TCP + 20..TCP + 32].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    let [high, low] = (total - 20).to_be_bytes();
    let pseudo = [10, 0, 0, 1, 10, 0, 0, 2, 0, 6, high, low];
    bytes[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum(&pseudo).to_be_bytes());
    bytes
}

/// The one's complement sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// Room of one frame where only copying is measured, in bytes.
const PLACE: usize = 64 << 10;
/// Places that frames come from, and places that they go to: as many as the stations' slots and buffers make.
const SOURCES: usize = SHAPE.slots as usize;
const TARGETS: usize = SHAPE.ring as usize * SHAPE.buffer as usize / PLACE;

/// Adds windows of plain copies: of the kind that is faster.
fn memcpy(effort: &Effort, cell: &mut Cell) -> anyhow::Result<()> {
    let len = FRAME as usize;
    let mut shared = Cell::default();
    in_huge_pages(effort, &mut shared, |from, to| {
        from.split_at(len).0.copy_to(to);
    })?;
    let mut private = Cell::default();
    let (from, mut to) = (vec![0x5au8; SOURCES * PLACE], vec![0u8; TARGETS * PLACE]);
    copies(effort, &mut private, |source, target| {
        to[target..target + len].copy_from_slice(&from[source..source + len]);
        black_box(&mut to);
    })?;
    let rate = |kind: &Cell| kind.figure().map_or(0.0, |(rate, _)| rate);
    let kinds = [rate(&shared), rate(&private)].map(|rate| rate / 1e9);
    eprintln!(
        "    memcpy: {:.2} GB/s by string move in huge pages, {:.2} GB/s by the C library in private memory",
        kinds[0], kinds[1]
    );
    let faster = if kinds[0] >= kinds[1] { shared } else { private };
    cell.clean.extend(faster.clean);
    cell.disturbed.extend(faster.disturbed);
    Ok(())
}

/// Adds windows of the copies alone that a frame needs: from behind its head, into buffers that begin with a virtio-net header.
fn pieces(effort: &Effort, cell: &mut Cell) -> anyhow::Result<()> {
    let (start, end, buffer) = (HEADER + HEADERS, HEADER + FRAME as usize, SHAPE.buffer as usize);
    in_huge_pages(effort, cell, |from, to| {
        let mut at = start;
        while at < end {
            let next = ((at / buffer + 1) * buffer).min(end);
            from.split_at(at - start).1.split_at(next - at).0.copy_to(to.split_at(at).1);
            at = next;
        }
    })
}

fn in_huge_pages(
    effort: &Effort,
    cell: &mut Cell,
    mut copy: impl FnMut(MemSlice<'_>, MemSlice<'_>) + Send,
) -> anyhow::Result<()> {
    let mut ram = Ram::new(((SOURCES + TARGETS) * PLACE) as u64, Pages::Huge)?;
    let (from, to) = (ram.take((SOURCES * PLACE) as u64, 64)?, ram.take((TARGETS * PLACE) as u64, 64)?);
    let from = ram.memory().slice(from, SOURCES * PLACE).context("sources")?;
    let to = ram.memory().slice(to, TARGETS * PLACE).context("targets")?;
    copies(effort, cell, |source, target| copy(from.split_at(source).1, to.split_at(target).1))
}

/// Adds windows of `copy`, frame by frame from one place to another, on the switch's processor.
fn copies(effort: &Effort, cell: &mut Cell, mut copy: impl FnMut(usize, usize) + Send) -> anyhow::Result<()> {
    on_processor(SWITCH_CPU, || {
        let mut count = 0;
        for _ in 0..effort.windows {
            let (rate, share) = window(own_ns, effort.window, || {
                count += 1;
                copy(count % SOURCES * PLACE, count % TARGETS * PLACE);
                Ok(u64::from(FRAME))
            })?;
            cell.push(share, rate);
        }
        Ok(())
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_frame_is_a_valid_packet_whose_checksum_is_begun() {
        let bytes = headers();
        assert_eq!(sum(&bytes[14..34]), 0xffff);
        assert_eq!(u16::from_be_bytes([bytes[16], bytes[17]]) as u32 + 14, FRAME);
        assert_eq!(bytes[TCP + 12] >> 4, 8);
        // The sum of 10.0.0.1, 10.0.0.2, 6 and the length, not inverted.
        let length = FRAME - 34;
        let pseudo = 0x0a00 + 1 + 0x0a00 + 2 + 6 + length;
        let folded = ((pseudo & 0xffff) + (pseudo >> 16)) as u16;
        assert_eq!(bytes[CHECKSUM..CHECKSUM + 2], folded.to_be_bytes());
    }

    #[test]
    fn check_words_differ() {
        assert_ne!(check_word(0), check_word(1));
        assert_ne!(check_word(0), [0; TAIL]);
    }
}
