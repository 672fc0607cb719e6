//! A plain virtio-net device on a tap: what a VMM without vhost gives its guest, and what the kernel's vhost-net does.
//!
//! A thread for each device sleeps on the driver's kick and on the tap. Kicked, it asks for no more kicks, writes what was
//! sent to the tap frame by frame until the ring is empty, and asks again. When the tap has frames it reads them one by one
//! into the driver's buffers and calls, if the driver wants that, for each. QEMU's event loop does these steps in this order,
//! and so does a vhost-net thread, which saves the system calls.

use super::ends::pin;
use crate::station::{HEADER, Station, eventfd};
use anyhow::{Context, bail, ensure};
use guestmem::{GuestMemory, read_segments, total_len, write_segments};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use virtqueue::{Burst, DeviceQueue, RingState};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// The longest frame, in bytes.
const FRAME_MAX: usize = 2048;
/// Frames handled together.
const BURST: usize = 32;
const KICK: u64 = 0;
const TAP: u64 = 1;
const STOP: u64 = 2;

/// A running device. Its thread ends with this value.
pub(super) struct Device {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    /// Serves a station from a thread on `cpu`.
    pub(super) fn start(station: &mut Station, tap: File, cpu: u32) -> anyhow::Result<Self> {
        let memory = Arc::clone(station.memory());
        let receive = DeviceQueue::new(&memory, &station.receive_ring().setup, RingState::default())?;
        let transmit = DeviceQueue::new(&memory, &station.transmit_ring().setup, RingState::default())?;
        let served = Served {
            receive,
            transmit,
            kick: station.transmit_ring().kick.try_clone()?,
            calls: [station.receive_ring().call.try_clone()?, station.transmit_ring().call.try_clone()?],
            tap,
            memory: Arc::clone(&memory),
        };
        let stop = eventfd()?;
        let stopped = stop.try_clone()?;
        let body = move || {
            if let Err(error) = pin(cpu).and_then(|()| served.run(&stopped)) {
                eprintln!("a device on a tap has ended: {error:#}");
            }
        };
        let thread = std::thread::Builder::new().name("rw-tap-device".to_owned()).spawn(body)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Served {
    receive: DeviceQueue,
    transmit: DeviceQueue,
    kick: EventFd,
    /// Of receive and transmit.
    calls: [EventFd; 2],
    tap: File,
    memory: Arc<GuestMemory>,
}

impl Served {
    fn run(mut self, stop: &EventFd) -> anyhow::Result<()> {
        let bed = Epoll::new()?;
        let watched = [(self.kick.as_raw_fd(), KICK), (self.tap.as_raw_fd(), TAP), (stop.as_raw_fd(), STOP)];
        for (fd, number) in watched {
            bed.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, number))?;
        }
        self.receive.disable_notify();
        let mut events = [EpollEvent::default(); 3];
        loop {
            while self.transmit.enable_notify() {
                self.send()?;
            }
            let count = bed.wait(-1, &mut events)?;
            for event in &events[..count] {
                match event.data() {
                    KICK => {
                        self.kick.read()?;
                        self.send()?;
                    }
                    TAP => self.take()?,
                    _ => return Ok(()),
                }
            }
        }
    }

    /// Writes what the driver has sent to the tap, until there is no more.
    fn send(&mut self) -> anyhow::Result<()> {
        self.transmit.disable_notify();
        let memory = Arc::clone(&self.memory);
        let (mut burst, mut bytes) = (Burst::new(), [0; FRAME_MAX]);
        while self.transmit.pop(&memory, &mut burst, BURST)? > 0 {
            while let Some(chain) = burst.take() {
                let segments = burst.readable(&chain);
                let len = total_len(segments).checked_sub(HEADER).context("a frame without a header")?;
                let frame = bytes.get_mut(..len).context("a frame too long for this device")?;
                read_segments(segments, HEADER, frame);
                rustix::io::write(&self.tap, frame).context("write to a tap")?;
                self.transmit.complete(&burst, chain, 0);
            }
            burst = burst.recycle();
            if self.transmit.flush() {
                self.calls[1].write(1)?;
            }
        }
        Ok(())
    }

    /// Reads what the tap has into the driver's buffers.
    fn take(&mut self) -> anyhow::Result<()> {
        let memory = Arc::clone(&self.memory);
        let mut bytes = [0; HEADER + FRAME_MAX];
        // One buffer is enough for every frame.
        bytes[10] = 1;
        loop {
            let len = match rustix::io::read(&self.tap, &mut bytes[HEADER..]) {
                Ok(len) => HEADER + len,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => bail!("read from a tap: {error}"),
            };
            let mut burst = Burst::new();
            self.receive.pop(&memory, &mut burst, 1)?;
            let chain = burst.take().context("the driver has posted no buffer")?;
            let written = write_segments(burst.writable(&chain), 0, &bytes[..len]);
            ensure!(written == len, "a receive buffer of {written} bytes for {len}");
            self.receive.complete(&burst, chain, len as u32);
            if self.receive.flush() {
                self.calls[0].write(1)?;
            }
        }
    }
}
