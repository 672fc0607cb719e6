//! The attacker: a testpmd that sends what comes out of a pipe.
//!
//! Theory of operation. DPDK's `net_pcap` reads frames from a file; here the file is a named pipe, and a thread writes frames
//! into it, each one new, at the rate that is wanted. testpmd passes them on to its virtio-user port (or packet socket).
//! While no frame is due it sleeps in `read`, so that it takes no more of the victims' processor than its frames need.

use crate::dpdk::{self, Forward, Memory, Testpmd};
use crate::sysroot::Sysroot;
use anyhow::Context;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The attacker's own address.
pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// A station that is known, behind a port where nobody listens.
pub(super) const SINK: [u8; 6] = [2, 0, 0, 0, 0, 4];
/// Size of every frame of the attacker, in bytes.
pub(super) const FRAME_SIZE: usize = 128;
/// Frames written at once: what testpmd reads at once.
const CHUNK: usize = 32;
const RECORD_SIZE: usize = 16 + FRAME_SIZE;

/// What the attacker sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Idle,
    /// From its own address to the sink.
    Harmless,
    /// From random sources to random stations.
    RandomSources,
    /// From its own address to random stations.
    UnknownStations,
    /// From its own address to everyone.
    Broadcasts,
    /// From so many sources in turn to the sink: a switch learns them.
    Sources(u32),
}

/// What to send, and how many frames a second; `None` is as fast as it goes.
pub(super) type Order = (Kind, Option<u32>);

#[derive(Debug)]
struct Shared {
    order: Mutex<Order>,
    ended: AtomicBool,
}

/// The running attacker.
#[derive(Debug)]
pub(super) struct Storm {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    testpmd: Testpmd,
}

impl Storm {
    /// Starts it, silent, on processor `cpu`; `device` is the one that frames leave by.
    pub(super) fn start(sysroot: &Sysroot, place: &Path, device: String, cpu: u32) -> anyhow::Result<Self> {
        let path = place.join("storm.pipe");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .context("the attacker's pipe")?;
        // Open for reading too, so that it opens without a reader and has no end.
        let pipe = rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .context("the attacker's pipe")?;
        // More room than the usual 64 KiB spares turns; without it the rate is only less.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, 1 << 20);
        let shared =
            Arc::new(Shared { order: Mutex::new((Kind::Idle, None)), ended: AtomicBool::new(false) });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || write(&mut File::from(pipe), &shared)
        });
        let devices = vec![format!("net_pcap0,rx_pcap={}", path.display()), device];
        let mut config = dpdk::Config::new("attacker", Forward::Io, devices);
        config.cpu = cpu;
        config.memory = Memory::Huge;
        // Without flushing, which would wait for frames before it starts.
        config.options = vec!["--total-num-mbufs=32768".to_owned(), "--no-flush-rx".to_owned()];
        let testpmd = Testpmd::start(sysroot, place, &config);
        if testpmd.is_err() {
            shared.ended.store(true, Ordering::Relaxed);
        }
        let mut storm = Self { shared, thread: Some(thread), testpmd: testpmd? };
        storm.testpmd.command("start")?;
        Ok(storm)
    }

    /// Changes what it sends.
    pub(super) fn send(&self, order: Order) {
        *self.shared.order.lock().unwrap_or_else(PoisonError::into_inner) = order;
    }

    /// Frames that the switch took of it since it started.
    pub(super) fn sent(&mut self) -> anyhow::Result<u64> {
        Ok(self.testpmd.counters()?.iter().map(|port| port.sent).max().unwrap_or(0))
    }

    /// Nanoseconds that its forwarding thread has run.
    pub(super) fn running_ns(&self) -> anyhow::Result<u64> {
        self.testpmd.forwarding_ns()
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// The head of a pcap file of Ethernet frames.
pub(super) fn pcap_header() -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(0xa1b2_c3d4u32.to_le_bytes());
    header.extend([2, 0, 4, 0]);
    header.extend([0; 8]);
    header.extend(65535u32.to_le_bytes());
    header.extend(1u32.to_le_bytes());
    header
}

/// What stands before a frame of `size` bytes in a pcap file.
pub(super) fn record_head(size: usize) -> [u8; 16] {
    let mut head = [0; 16];
    head[8..12].copy_from_slice(&(size as u32).to_le_bytes());
    head[12..16].copy_from_slice(&(size as u32).to_le_bytes());
    head
}

/// The thread that writes. It ends when told to, or when the pipe fails.
fn write(pipe: &mut File, shared: &Shared) {
    if !put(pipe, &pcap_header(), shared) {
        return;
    }
    let mut chunk = vec![0; CHUNK * RECORD_SIZE];
    let (mut random, mut number) = (0x9e37_79b9_7f4a_7c15, 0);
    let mut due = Instant::now();
    while !shared.ended.load(Ordering::Relaxed) {
        let (kind, rate) = *shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        if kind == Kind::Idle {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        if let Some(rate) = rate {
            let now = Instant::now();
            if due > now {
                std::thread::sleep(due - now);
            }
            // What was missed for longer than this is not made up for.
            due = due.max(now - Duration::from_millis(20)) + Duration::from_secs(CHUNK as u64) / rate.max(1);
        }
        for record in chunk.chunks_exact_mut(RECORD_SIZE) {
            fill(record, kind, &mut random, number);
            number = number.wrapping_add(1);
        }
        if !put(pipe, &chunk, shared) {
            return;
        }
    }
}

/// Writes all of `bytes`; false at the end.
fn put(pipe: &mut File, mut bytes: &[u8], shared: &Shared) -> bool {
    while !bytes.is_empty() && !shared.ended.load(Ordering::Relaxed) {
        match pipe.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_micros(200))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    bytes.is_empty()
}

/// One record of the pcap format with one frame.
fn fill(record: &mut [u8], kind: Kind, random: &mut u64, number: u32) {
    let (head, frame) = record.split_at_mut(16);
    head.copy_from_slice(&record_head(FRAME_SIZE));
    let mut any = || {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let [.., a, b, c, d] = (*random >> 8).to_be_bytes();
        [6, a, b, c, d, *random as u8]
    };
    let (dst, src) = match kind {
        Kind::Idle | Kind::Harmless => (SINK, MAC),
        Kind::RandomSources => (any(), any()),
        Kind::UnknownStations => (any(), MAC),
        Kind::Broadcasts => ([0xff; 6], MAC),
        Kind::Sources(count) => {
            let [a, b, c, d] = (number % count.max(1)).to_be_bytes();
            (SINK, [6, 6, a, b, c, d])
        }
    };
    frame[..6].copy_from_slice(&dst);
    frame[6..12].copy_from_slice(&src);
    // An EtherType for experiments (IEEE 802).
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
}

#[cfg(test)]
mod test {
    use super::*;
    use std::collections::HashSet;

    fn sources(kind: Kind, count: u32) -> HashSet<Vec<u8>> {
        let mut random = 7;
        let frames = (0..count).map(|number| {
            let mut record = vec![0; RECORD_SIZE];
            fill(&mut record, kind, &mut random, number);
            record[22..28].to_vec()
        });
        frames.collect()
    }

    #[test]
    fn sources_are_as_many_as_asked_for() {
        assert_eq!(sources(Kind::Sources(10), 1000).len(), 10);
        assert_eq!(sources(Kind::Broadcasts, 1000).len(), 1);
        assert!(sources(Kind::RandomSources, 1000).len() > 990);
        assert!(sources(Kind::RandomSources, 1000).iter().all(|mac| mac[0] & 1 == 0));
    }
}
