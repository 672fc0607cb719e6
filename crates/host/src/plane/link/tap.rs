//! A tap interface: made where it is new, and set up as the configuration says.

use super::interface::Reader;
use super::{CLASSIC, LinkPort, USO, Way};
use crate::config::resolved::PortConfig;
use crate::sys;
use devices::net::Accepts;
use std::fs::File;
use std::io;

/// Opens (and makes, where it is new) the interface `name`, sets its MTU and address and brings it up.
pub(super) fn open(name: &str, queues: u16, config: &PortConfig) -> io::Result<LinkPort> {
    let mut opened = Vec::new();
    for _ in 0..queues {
        opened.push(sys::open_tap_queue(name, queues > 1)?);
    }
    let (accepts, takes) = offloads(&opened, config.offloads)?;
    sys::bring_up(name, config.mtu, config.mac)?;
    let ways = opened.into_iter().map(Way::Device).collect();
    Ok(LinkPort::new(name, ways, accepts, takes, Reader::open()?, None))
}

/// Tells the kernel what it may leave to us on these queues (nothing, unless `offered`); what it may, and what we may
/// leave to it: a kernel with USO has it in both directions.
pub(super) fn offloads(queues: &[File], offered: bool) -> io::Result<(Accepts, Accepts)> {
    if !offered {
        queues.iter().try_for_each(sys::clear_tap_offloads)?;
        return Ok((Accepts::empty(), CLASSIC));
    }
    let mut uso = USO;
    for queue in queues {
        if !sys::set_tap_offloads(queue)?.uso {
            uso = Accepts::empty();
        }
    }
    let accepts = (CLASSIC - Accepts::UFO) | Accepts::DATA_VALID | uso;
    Ok((accepts, CLASSIC | uso))
}
