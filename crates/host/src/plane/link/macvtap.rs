//! A macvtap interface: its character device speaks as a tap's does.
//!
//! The interface exists already; its mode (bridge, passthru, ...) and what it stands on are the operator's business. The
//! device is `/dev/tapN`, N the interface's number, made by udev or devtmpfs. Where neither makes it (containers), or
//! where it stands for an interface of another network namespace, sysfs tells its numbers and a node is made for
//! the moment of opening. A supervisor may also pass open descriptors.

use super::interface::{Interface, Reader};
use super::{LinkPort, Way, tap};
use crate::config::resolved::PortConfig;
use crate::sys::{self, Access};
use rustix::fs::{AtFlags, CWD, FileType, Mode, makedev, mkdirat, mknodat, unlinkat};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Opens the queues of the macvtap interface `name`: those under the inherited descriptors `fds`, or `queues` new ones.
pub(super) fn open(name: &str, fds: &[i32], queues: u16, config: &PortConfig) -> io::Result<LinkPort> {
    let interface = Reader::open()?.read(name)?;
    let multi_queue = queues > 1 || fds.len() > 1;
    let access = Access { interface: name, address: interface.address, multi_queue };
    let mut opened = Vec::new();
    for &fd in fds {
        let queue = sys::inherited(fd, access);
        opened.push(queue.map_err(|error| about(&error, &format!("inherited descriptor {fd}")))?);
    }
    if fds.is_empty() {
        for _ in 0..queues {
            opened.push(open_queue(&interface, access)?);
        }
    }
    let (accepts, takes) = tap::offloads(&opened, config.offloads)?;
    LinkPort::uplink(name, config, opened.into_iter().map(Way::Device).collect(), accepts, takes)
}

/// Opens one queue by `/dev/tapN`, or by a node of our own where that is missing or is another interface's.
fn open_queue(interface: &Interface, access: Access<'_>) -> io::Result<File> {
    let usual = PathBuf::from(format!("/dev/tap{}", interface.index));
    let numbers = device_numbers(access.interface, interface.index);
    if numbers.is_none_or(|numbers| is_device(&usual, numbers)) {
        let queue = sys::open_macvtap_queue(&usual, access);
        if queue.is_ok() || numbers.is_none() {
            return queue.map_err(|error| about(&error, &usual.display().to_string()));
        }
    }
    let Some(numbers) = numbers else { return Err(io::ErrorKind::NotFound.into()) };
    open_by_numbers(numbers, access).map_err(|error| {
        let what = format!(
            "{} cannot be opened, and a node of our own for device {}:{} neither (run udev, or pass `fds`)",
            usual.display(),
            numbers.0,
            numbers.1
        );
        about(&error, &what)
    })
}

fn about(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Major and minor number of the interface's character device, where sysfs shows our network namespace.
fn device_numbers(name: &str, index: u32) -> Option<(u32, u32)> {
    let interface = Path::new("/sys/class/net").join(name);
    let shown = std::fs::read_to_string(interface.join("ifindex")).ok()?;
    if shown.trim().parse() != Ok(index) {
        return None;
    }
    let device = std::fs::read_to_string(interface.join(format!("tap{index}/dev"))).ok()?;
    let (major, minor) = device.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn is_device(path: &Path, (major, minor): (u32, u32)) -> bool {
    rustix::fs::stat(path).is_ok_and(|found| {
        FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice
            && found.st_rdev == makedev(major, minor)
    })
}

/// Opens a character device through a node in a directory that only we can enter, and removes both.
fn open_by_numbers((major, minor): (u32, u32), access: Access<'_>) -> io::Result<File> {
    let mut result = Err(io::ErrorKind::NotFound.into());
    // Most file systems but /dev are mounted without devices.
    for parent in [PathBuf::from("/dev"), std::env::temp_dir()] {
        let directory = parent.join(format!(".ringway-{}-{major}-{minor}", std::process::id()));
        if let Err(error) = mkdirat(CWD, &directory, Mode::RWXU) {
            result = Err(error.into());
            continue;
        }
        let node = directory.join("tap");
        let made =
            mknodat(CWD, &node, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(major, minor));
        result = made.map_err(io::Error::from).and_then(|()| sys::open_macvtap_queue(&node, access));
        let _ = unlinkat(CWD, &node, AtFlags::empty());
        let _ = unlinkat(CWD, &directory, AtFlags::REMOVEDIR);
        if result.is_ok() {
            break;
        }
    }
    result
}
