//! Listening sockets that whoever started the program made for it: systemd's socket activation (sd_listen_fds(3)).
//!
//! Each descriptor has a name (`FileDescriptorName=` of the socket unit): `control` for the control socket, `http` for the
//! TCP address, `port.NAME` and `disk.NAME` for the socket of a port or a disk in server mode. [`receive`] looks at each of them once, at
//! the start, and refuses what is no listening stream socket of the right family; [`take`] hands out a descriptor of one,
//! again and again, so that a port can be made anew. The sockets stay open, and their files belong to who made them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::sys;

/// Most descriptors that are accepted.
const DESCRIPTORS_MAX: usize = 8192;

static RECEIVED: OnceLock<BTreeMap<String, OwnedFd>> = OnceLock::new();

/// Takes over the descriptors that were passed, if any. The second time, there is nothing to take.
///
/// # Errors
/// Descriptors without names or with unknown ones, and what is no listening socket: in words, with the name.
pub fn receive() -> anyhow::Result<()> {
    let mut received = BTreeMap::new();
    if RECEIVED.get().is_some() {
        return Ok(());
    }
    let passed = sd_notify::listen_fds_with_names()?;
    anyhow::ensure!(
        passed.len() <= DESCRIPTORS_MAX,
        "{} descriptors were passed; accepted: {DESCRIPTORS_MAX}",
        passed.len()
    );
    for (number, name) in passed {
        let socket = sys::passed(number)?;
        let family = family(&name).ok_or_else(|| {
            anyhow::anyhow!(
                "a socket named {name:?} was passed; accepted names: control, http, port.NAME and disk.NAME"
            )
        })?;
        check(&socket, family).map_err(|what| anyhow::anyhow!("the passed socket {name:?} {what}"))?;
        anyhow::ensure!(
            received.insert(name.clone(), socket).is_none(),
            "two sockets named {name:?} were passed"
        );
    }
    // Nobody else sets it: this is called once, by `run`.
    let _kept = RECEIVED.set(received);
    Ok(())
}

/// The socket passed under `name` (such as `port.web`), if there is one.
pub fn take(name: &str) -> Option<OwnedFd> {
    let received = RECEIVED.get()?;
    // It fails only when descriptors run out; the caller then makes a socket of its own, and that fails with the reason.
    received.get(name)?.try_clone().ok()
}

/// Names of the sockets that were passed.
pub fn names() -> Vec<String> {
    RECEIVED.get().map(|received| received.keys().cloned().collect()).unwrap_or_default()
}

/// What kind of socket belongs to a name.
fn family(name: &str) -> Option<&'static [AddressFamily]> {
    match name.strip_prefix("port.").or_else(|| name.strip_prefix("disk.")) {
        Some(thing) => crate::config::check_name(thing).is_ok().then_some(&[AddressFamily::UNIX]),
        None if name == "control" => Some(&[AddressFamily::UNIX]),
        None if name == "http" => Some(&[AddressFamily::INET, AddressFamily::INET6]),
        None => None,
    }
}

/// What is wrong with a socket, if it is no listening stream socket of one of the families.
fn check(socket: &OwnedFd, families: &[AddressFamily]) -> Result<(), String> {
    let family = sockopt::socket_domain(socket).map_err(|_| "is no socket".to_owned())?;
    if !families.contains(&family) {
        let accepted = if families.contains(&AddressFamily::UNIX) { "a unix socket" } else { "a TCP socket" };
        return Err(format!("is of the wrong family; accepted: {accepted}"));
    }
    if sockopt::socket_type(socket) != Ok(SocketType::STREAM) {
        return Err("is no stream socket".into());
    }
    if sockopt::socket_acceptconn(socket) != Ok(true) {
        return Err("does not listen; accepted: Accept=no in the socket unit".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    #[test]
    fn names_say_what_a_socket_is() {
        assert_eq!(family("control"), Some(&[AddressFamily::UNIX][..]));
        assert_eq!(family("port.web"), Some(&[AddressFamily::UNIX][..]));
        assert_eq!(family("disk.root"), Some(&[AddressFamily::UNIX][..]));
        assert_eq!(family("http"), Some(&[AddressFamily::INET, AddressFamily::INET6][..]));
        for name in ["", "unknown", "port.", "port.a/b", "ports.web", "disk.", "disk", "control2"] {
            assert_eq!(family(name), None, "{name}");
        }
    }

    #[test]
    fn only_listening_stream_sockets_are_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let unix = &[AddressFamily::UNIX][..];
        let inet = &[AddressFamily::INET, AddressFamily::INET6][..];
        let listener = OwnedFd::from(UnixListener::bind(directory.path().join("a")).expect("bound"));
        let tcp = OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").expect("bound"));
        assert_eq!(check(&listener, unix), Ok(()));
        assert_eq!(check(&tcp, inet), Ok(()));
        let refused = |socket: OwnedFd, families| check(&socket, families).expect_err("refused");
        assert!(refused(tcp, unix).contains("wrong family"));
        assert!(refused(listener, inet).contains("wrong family"));
        let (stream, _other) = UnixStream::pair().expect("a pair");
        assert!(refused(stream.into(), unix).contains("does not listen"));
        assert!(refused(UnixDatagram::unbound().expect("made").into(), unix).contains("no stream"));
        let file = std::fs::File::open("/dev/null").expect("opened");
        assert_eq!(refused(file.into(), unix), "is no socket");
    }
}
