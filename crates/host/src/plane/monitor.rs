//! Follows the QMP socket of a port's guest: one thread, asleep until QEMU speaks.

use super::addresses::{self, Report, ReportSource};
use super::notify::Wake;
use super::port::Port;
use super::uplinks::Uplinks;
use super::{Origin, Stopping, listen, socket};
use crate::config::resolved::QmpConfig;
use crate::qmp::{Conversation, LINE_LEN_MAX, RxFilter};
use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;
use switch::UnicastMac;

/// Time between two attempts to connect.
const RETRY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long a monitor may take until it is ready for commands.
const GREETING_TIME: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// Shortest time between two queries: what a guest's changes can cost.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// A port whose guest's monitor is followed.
pub(super) struct Monitor {
    pub(super) port: Arc<Port>,
    pub(super) qmp: QmpConfig,
    pub(super) stopping: Arc<Stopping>,
    /// Somebody suspects that the filter has changed.
    pub(super) suspicion: Arc<Wake>,
    pub(super) origin: Origin,
    pub(super) uplinks: Arc<Uplinks>,
}

impl Monitor {
    /// The thread's body.
    pub(super) fn run(self) {
        let name = &self.port.name;
        let mut told = String::new();
        while !self.stopping.is_set() {
            // Without waiting: a monitor that serves somebody else would keep us here.
            if let Ok(stream) = listen::connect(&self.qmp.socket) {
                let end = match self.follow(stream) {
                    Ok(()) => "QEMU closed the connection".into(),
                    Err(error) => format!("{error:#}"),
                };
                addresses::forget(&self.port, ReportSource::Qmp, self.origin.now());
                self.uplinks.changed();
                // The same complaint each second would help nobody.
                if end != told && !self.stopping.is_set() {
                    tracing::warn!(port = name, socket = %self.qmp.socket.display(), "QMP: {end}");
                    told = end;
                }
            }
            self.stopping.sleep(RETRY);
        }
    }

    fn follow(&self, mut stream: UnixStream) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut talk = Conversation::new(self.qmp.nic.clone());
        let mut received = Vec::new();
        let mut chunk = [0; 8192];
        loop {
            socket::send(&stream, &talk.take_outgoing(), &[], &self.stopping.wake)?;
            let mut wait = [
                PollFd::new(&stream, PollFlags::IN),
                PollFd::new(&self.stopping.wake, PollFlags::IN),
                PollFd::new(&*self.suspicion, PollFlags::IN),
            ];
            let _ = poll(&mut wait, (!talk.is_ready()).then_some(&GREETING_TIME));
            if !talk.is_ready() && began.elapsed().as_secs() > GREETING_TIME.tv_sec.unsigned_abs() {
                bail!("no greeting: QEMU serves one connection at a time");
            }
            let suspected = !wait[2].revents().is_empty();
            if self.stopping.is_set() {
                return Ok(());
            }
            if suspected {
                self.suspicion.clear();
                talk.suspect();
            }
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(len) => received.extend_from_slice(&chunk[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("reading"),
            }
            while let Some(end) = received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = received.drain(..=end).collect();
                let mac = self.port.config.load().mac;
                if let Some(filter) = talk.receive(&line, mac)? {
                    self.report(filter);
                }
            }
            if received.len() > LINE_LEN_MAX {
                bail!("a line is longer than {LINE_LEN_MAX} bytes");
            }
            if talk.wants_query() {
                talk.query();
                socket::send(&stream, &talk.take_outgoing(), &[], &self.stopping.wake)?;
                self.stopping.sleep(PAUSE);
            }
        }
    }

    fn report(&self, filter: RxFilter) {
        let Some(mac) = UnicastMac::new(filter.mac) else { return };
        let report = Report {
            source: ReportSource::Qmp,
            mac,
            unicast: filter.unicast.into_iter().filter_map(UnicastMac::new).collect(),
            multicast: filter.multicast,
            promiscuous: filter.promiscuous,
        };
        // A refusal is noted with the port, for people.
        let _ = addresses::report(&self.port, report, self.origin.now());
        self.uplinks.changed();
    }
}
