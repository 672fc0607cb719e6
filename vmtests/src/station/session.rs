//! The front-end of a station: a vhost-user session spoken by the `vhost` crate, on a socket of either side.

use super::ram::Ram;
use super::rings::Ring;
use crate::process::wait_until;
use anyhow::{Context, ensure};
use devices::net::Features;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};

/// How long a back-end may take to listen or to connect.
const LIMIT: Duration = Duration::from_secs(20);
/// Receive and transmit: no session here has more rings.
const RINGS: u64 = 2;

/// Which side of a port's socket listens.
#[derive(Debug)]
pub enum Socket {
    /// The back-end.
    Theirs(PathBuf),
    /// We do: the back-end connects.
    Ours(UnixListener),
}

impl Socket {
    /// Listens at `path` for a back-end that connects.
    ///
    /// Errors: the path exists, or is too long.
    pub fn listen(path: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
        listener.set_nonblocking(true)?;
        Ok(Self::Ours(listener))
    }

    fn open(&self) -> anyhow::Result<UnixStream> {
        let mut stream = None;
        wait_until("the back-end's side of a socket", LIMIT, || {
            stream = match self {
                Self::Theirs(path) => UnixStream::connect(path).ok(),
                Self::Ours(listener) => listener.accept().ok().map(|(stream, _)| stream),
            };
            stream.is_some()
        })?;
        let stream = stream.context("no connection")?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

/// A session whose features are agreed and whose rings are not set up yet.
pub struct Session {
    frontend: Frontend,
    /// Features that both sides have.
    pub(crate) features: Features,
    /// How many rings were started.
    rings: usize,
}

impl Session {
    /// Agrees on what the device offers of `wanted`, and on all of `needed`.
    ///
    /// Errors: no back-end in 20 s, a broken answer, or a needed feature that is not offered, by name.
    pub fn open(socket: &Socket, wanted: Features, needed: Features) -> anyhow::Result<Self> {
        let mut frontend = Frontend::from_stream(socket.open()?, RINGS);
        frontend.set_owner().context("SET_OWNER")?;
        let offered = Features::from_bits_retain(frontend.get_features().context("GET_FEATURES")?);
        let needed = needed | Features::VERSION_1 | Features::PROTOCOL_FEATURES;
        let missing = needed - offered;
        ensure!(missing.is_empty(), "the device does not offer {missing:?}");
        let features = offered & (wanted | needed);
        let offered = frontend.get_protocol_features().context("GET_PROTOCOL_FEATURES")?;
        // One queue pair needs no MQ, and every message that can be answered shall be.
        let protocol = offered & VhostUserProtocolFeatures::REPLY_ACK;
        frontend.set_protocol_features(protocol).context("SET_PROTOCOL_FEATURES")?;
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        frontend.set_features(features.bits()).context("SET_FEATURES")?;
        Ok(Self { frontend, features, rings: 0 })
    }

    /// Hands over the memory and starts the rings, in their order; two at most.
    pub(crate) fn start(&mut self, ram: &Ram, rings: &[&Ring]) -> anyhow::Result<()> {
        self.frontend.set_mem_table(&[ram.table()]).context("SET_MEM_TABLE")?;
        for (index, ring) in rings.iter().enumerate() {
            self.start_ring(ram, index, ring).with_context(|| format!("start ring {index}"))?;
            self.rings = index + 1;
        }
        for index in 0..rings.len() {
            self.frontend.set_vring_enable(index, true).context("SET_VRING_ENABLE")?;
        }
        Ok(())
    }

    fn start_ring(&self, ram: &Ram, index: usize, ring: &Ring) -> anyhow::Result<()> {
        let (setup, size) = (&ring.setup, ring.setup.size.get());
        self.frontend.set_vring_num(index, size).context("SET_VRING_NUM")?;
        self.frontend.set_vring_base(index, 0).context("SET_VRING_BASE")?;
        let addresses = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: ram.frontend_addr(setup.desc),
            avail_ring_addr: ram.frontend_addr(setup.driver),
            used_ring_addr: ram.frontend_addr(setup.device),
            log_addr: None,
        };
        self.frontend.set_vring_addr(index, &addresses).context("SET_VRING_ADDR")?;
        self.frontend.set_vring_call(index, &ring.call).context("SET_VRING_CALL")?;
        self.frontend.set_vring_kick(index, &ring.kick).context("SET_VRING_KICK")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for index in 0..self.rings {
            // A back-end that is gone already needs no stopping.
            let _ = self.frontend.set_vring_enable(index, false);
            let _ = self.frontend.get_vring_base(index);
        }
    }
}
