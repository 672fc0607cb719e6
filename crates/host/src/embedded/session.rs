//! The front-end of an embedded guest: one vhost-user session spoken by the `vhost` crate, not by our own code.
//!
//! In the order that a VMM uses: owner, features, protocol features, memory, then each ring's size, base,
//! addresses, call, kick and enable.

use super::ram::Ram;
use super::wire::feature;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use virtqueue::QueueSetup;
use vmm_sys_util::eventfd::EventFd;

/// How long the back-end may take to listen.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Receive and transmit.
const RINGS: u64 = 2;

/// A session whose features are agreed and whose rings are not set up yet.
pub(crate) struct Session {
    frontend: Frontend,
    /// Feature bits that both sides have.
    pub(crate) features: u64,
}

impl Session {
    /// Connects to the socket and agrees on what both the device offers and `wanted` holds.
    pub(crate) fn open(socket: &Path, wanted: u64) -> Result<Self> {
        let mut frontend = connect(socket)?;
        frontend.set_owner().context("SET_OWNER")?;
        let offered = frontend.get_features().context("GET_FEATURES")?;
        let needed = feature::VERSION_1 | feature::PROTOCOL_FEATURES;
        ensure!(
            offered & needed == needed,
            "the device offers {offered:#x}, without VERSION_1 or protocol features"
        );
        let features = offered & (wanted | needed);

        let offered_protocol = frontend.get_protocol_features().context("GET_PROTOCOL_FEATURES")?;
        // One queue pair needs no MQ, and every message that can be answered shall be.
        let protocol = offered_protocol & VhostUserProtocolFeatures::REPLY_ACK;
        frontend.set_protocol_features(protocol).context("SET_PROTOCOL_FEATURES")?;
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        frontend.set_features(features).context("SET_FEATURES")?;
        Ok(Self { frontend, features })
    }

    /// Hands over the memory and starts the rings. `rings` are the setup, kick and call of each, in order.
    pub(crate) fn start(&mut self, ram: &Ram, rings: &[(&QueueSetup, &EventFd, &EventFd)]) -> Result<()> {
        self.frontend.set_mem_table(&[ram.table()]).context("SET_MEM_TABLE")?;
        for (index, (setup, kick, call)) in rings.iter().enumerate() {
            self.start_ring(ram, index, setup, kick, call)
                .with_context(|| format!("starting ring {index}"))?;
        }
        for index in 0..rings.len() {
            self.frontend.set_vring_enable(index, true).context("SET_VRING_ENABLE")?;
        }
        Ok(())
    }

    /// Stops the rings, so that the back-end lets go of the memory in good order.
    pub(crate) fn stop(&mut self) {
        for index in 0..RINGS as usize {
            // A back-end that is gone already needs no stopping.
            let _ = self.frontend.set_vring_enable(index, false);
            let _ = self.frontend.get_vring_base(index);
        }
    }

    fn start_ring(
        &self,
        ram: &Ram,
        index: usize,
        setup: &QueueSetup,
        kick: &EventFd,
        call: &EventFd,
    ) -> Result<()> {
        let size = setup.size.get();
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
        self.frontend.set_vring_call(index, call).context("SET_VRING_CALL")?;
        self.frontend.set_vring_kick(index, kick).context("SET_VRING_KICK")?;
        Ok(())
    }
}

/// Connects, waiting for a back-end that does not listen yet.
fn connect(socket: &Path) -> Result<Frontend> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match Frontend::connect(socket, RINGS) {
            Ok(frontend) => return Ok(frontend),
            Err(fault) if Instant::now() >= deadline => {
                return Err(fault).with_context(|| format!("connecting to {}", socket.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
