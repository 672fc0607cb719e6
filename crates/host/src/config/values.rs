//! Values as the operator writes them: MAC addresses, durations, names, socket paths. Each function takes the text and
//! answers with the value or with what is wrong about it; the caller adds the place and what is accepted.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use switch::{UnicastMac, Vlan};

/// What is accepted as a MAC address.
pub(crate) const MAC_ACCEPTED: &str = "a unicast address such as 52:54:00:00:00:01";
/// What is accepted as the name of a port, switch or disk.
pub(crate) const NAME_ACCEPTED: &str =
    "1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit";
/// What is accepted as the name of an interface of the host.
pub(crate) const INTERFACE_ACCEPTED: &str =
    "an interface name of 1 to 15 characters without '/', ':', '%' or blanks";
/// What is accepted as a duration.
pub(crate) const AGEING_ACCEPTED: &str =
    r#"a duration from "1s" to "1000000s" in s, m, h or d, such as "5m""#;
/// What is accepted as a size or a rate in bytes.
pub(crate) const BYTES_ACCEPTED: &str = r#"bytes, with K, M, G or T for powers of 1024, such as "10G""#;
/// What is accepted as a socket path.
pub(crate) const SOCKET_ACCEPTED: &str = "a path of 1 to 107 bytes, such as \"/run/ringway/web.sock\"";

/// What is accepted as the path of a file.
pub(crate) const FILE_ACCEPTED: &str = "a path of 1 to 4095 bytes, such as \"/etc/ringway/token\"";
/// What is accepted as an address or network.
pub(crate) const NETWORK_ACCEPTED: &str =
    r#"an address or a network such as "10.0.0.5", "10.0.0.0/24" or "fd00::/64""#;
/// What is accepted as the name of a NIC in QEMU.
pub(crate) const NIC_ACCEPTED: &str = "the NIC's name in QEMU, 1 to 127 characters, such as \"net0\"";

/// Bytes that `sockaddr_un.sun_path` holds beside its final NUL: unix(7).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// `IFNAMSIZ` less its final NUL: netdevice(7).
const INTERFACE_NAME_BYTES_MAX: usize = 15;
const NAME_BYTES_MAX: usize = 63;
/// `PATH_MAX` less its final NUL: limits.h.
const FILE_PATH_BYTES_MAX: usize = 4095;
const NIC_BYTES_MAX: usize = 127;

/// Six bytes in hexadecimal, with colons; unicast and not all zero.
pub(crate) fn unicast_mac(text: &str) -> Result<[u8; 6], String> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().unwrap_or("");
        let hexadecimal = part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit());
        *byte = match u8::from_str_radix(part, 16) {
            Ok(value) if hexadecimal => value,
            _ => return Err(format!("{text:?} is not six hexadecimal bytes with colons between them")),
        };
    }
    if parts.next().is_some() {
        return Err(format!("{text:?} has more than six bytes"));
    }
    if mac == [0xff; 6] {
        return Err(format!("{text:?} is the broadcast address"));
    }
    if mac[0] & 1 == 1 {
        return Err(format!("{text:?} is a multicast address"));
    }
    if mac == [0; 6] {
        return Err(format!("{text:?} is the zero address"));
    }
    Ok(mac)
}

/// As [`unicast_mac`], in the switch's type.
pub(crate) fn station(text: &str) -> Result<UnicastMac, String> {
    UnicastMac::new(unicast_mac(text)?).ok_or_else(|| format!("{text:?} is no unicast address"))
}

/// The usual way to write a MAC address.
pub fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// A whole number with a unit of seconds, minutes, hours or days.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} is not a whole number with a unit");
    let unit = text.bytes().last().ok_or_else(malformed)?;
    let seconds_each = match unit {
        b's' => 1,
        b'm' => 60,
        b'h' => 3600,
        b'd' => 86400,
        _ => return Err(malformed()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Err(malformed());
    }
    let seconds = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(seconds_each));
    seconds.map(Duration::from_secs).ok_or_else(|| format!("{text:?} is too long"))
}

/// A number of bytes: a whole number, with K, M, G or T for powers of 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let malformed = || format!("{text:?} is not a whole number with K, M, G or T behind it");
    let shift = match text.bytes().last().ok_or_else(malformed)? {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        c if c.is_ascii_digit() => 0,
        _ => return Err(malformed()),
    };
    let digits = if shift == 0 { text } else { &text[..text.len() - 1] };
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Err(malformed());
    }
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| format!("{text:?} is too large"))
}

/// Whether `text` can be the name of a port or switch: 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a letter
/// or digit, because names appear in URLs, in identifiers of the VMM and on terminals.
pub fn name(text: &str) -> Result<(), String> {
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
    let letters = text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    let begins = text.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if fits && letters && begins { Ok(()) } else { Err(format!("{text:?} is no name")) }
}

/// The name of a network interface, as the kernel's `dev_valid_name` accepts it, less the `%` of name patterns.
pub(crate) fn interface_name(text: &str) -> Result<(), String> {
    let fits = (1..=INTERFACE_NAME_BYTES_MAX).contains(&text.len());
    let letters = text.bytes().all(|c| c.is_ascii_graphic() && !b"/:%".contains(&c));
    if fits && letters && text != "." && text != ".." {
        Ok(())
    } else {
        Err(format!("{text:?} is no interface name"))
    }
}

/// A socket path; a relative one is taken from `base`, the directory of the configuration file.
pub(crate) fn socket_path(text: &str, base: &Path) -> Result<PathBuf, String> {
    path(text, base, SOCKET_PATH_BYTES_MAX)
}

/// The path of a file; a relative one is taken from `base`, the directory of the configuration file.
pub(crate) fn file_path(text: &str, base: &Path) -> Result<PathBuf, String> {
    path(text, base, FILE_PATH_BYTES_MAX)
}

fn path(text: &str, base: &Path, bytes_max: usize) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty".into());
    }
    if text.contains('\0') {
        return Err(format!("{text:?} contains a NUL"));
    }
    // Components drop "." and doubled slashes, so that one path has one spelling.
    let path: PathBuf = base.join(text).components().collect();
    let bytes = path.as_os_str().len();
    if bytes > bytes_max {
        return Err(format!("the path has {bytes} bytes"));
    }
    Ok(path)
}

/// An address, or a network whose host bits are zero; not of groups.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| format!("{text:?} is no address and no network"))?,
    };
    if network.addr() != network.network() {
        return Err(format!("{text:?} has host bits set, did you mean {:?}?", network.trunc().to_string()));
    }
    if network.addr().is_multicast() {
        return Err(format!("{text:?} is a multicast address, which nobody sends from"));
    }
    Ok(network)
}

/// A range of VLANs such as `20-30`, or one of them.
pub(crate) fn vlans(text: &str) -> Result<Vec<Vlan>, String> {
    let vlan = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
        let id = digits.parse::<u16>().ok().filter(|_| plain);
        id.and_then(Vlan::new).ok_or_else(|| format!("{text:?} is no range of VLANs"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (vlan(first)?, vlan(last)?);
    if first > last {
        return Err(format!("{text:?} ends before it begins"));
    }
    Ok((first.get()..=last.get()).filter_map(Vlan::new).collect())
}

/// The name of a NIC in QEMU: printable, because it is shown.
pub(crate) fn nic(text: &str) -> Result<String, String> {
    let fits = (1..=NIC_BYTES_MAX).contains(&text.len());
    if fits && text.bytes().all(|c| c.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no name of a NIC"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        assert_eq!(unicast_mac("52:54:00:aB:00:01"), Ok([0x52, 0x54, 0, 0xab, 0, 1]));
        let wrong = [
            ("", "not six"),
            ("52:54:00:00:00", "not six"),
            ("52:54:00:00:00:00:01", "more than six"),
            ("52:54:00:00:00:+1", "not six"),
            ("52:54:00:00:00:1", "not six"),
            ("52-54-00-00-00-01", "not six"),
            ("01:00:5e:00:00:01", "multicast"),
            ("ff:ff:ff:ff:ff:ff", "broadcast"),
            ("00:00:00:00:00:00", "zero"),
        ];
        for (text, says) in wrong {
            let what = unicast_mac(text).expect_err(text);
            assert!(what.contains(says), "{text}: {what}");
        }
        assert_eq!(mac_text([0x52, 0x54, 0, 0xab, 0, 1]), "52:54:00:ab:00:01");
    }

    #[test]
    fn durations() {
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86400)));
        for text in
            ["", "5", "m", "-5m", "+5m", "5 m", "1.5h", "5é", "99999999999999999999s", "300000000000000d"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_of_bytes() {
        for (text, means) in
            [("0", 0), ("512", 512), ("4K", 4096), ("3M", 3 << 20), ("1G", 1 << 30), ("2T", 2 << 40)]
        {
            assert_eq!(bytes(text), Ok(means));
        }
        for text in
            ["", "K", "-1", "+1", "1.5G", "1 G", "1k", "1GiB", "1é", "99999999999999999999", "16777216T"]
        {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names() {
        for text in ["web", "web-1.lan_0", "0", &"n".repeat(63)] {
            assert_eq!(name(text), Ok(()), "{text}");
        }
        for text in ["", "-web", "a b", "a/b", "é", &"n".repeat(64)] {
            assert!(name(text).is_err(), "{text}");
        }
        assert_eq!(interface_name("rw0"), Ok(()));
        for text in ["", ".", "..", "a/b", "rw%d", "tap interface", "sixteen-letters-", "eth0:1"] {
            assert!(interface_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks() {
        let good = [
            ("10.0.0.5", "10.0.0.5/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::/64", "fd00::/64"),
            ("fe80::1", "fe80::1/128"),
        ];
        for (text, means) in good {
            assert_eq!(network(text).map(|network| network.to_string()).as_deref(), Ok(means));
        }
        let wrong = [
            ("", "no address"),
            ("10.0.0", "no address"),
            ("10.0.0.0/33", "no address"),
            ("10.0.0.0/", "no address"),
            ("10.0.0.5/24", "host bits set, did you mean \"10.0.0.0/24\""),
            ("fd00::1/64", "did you mean \"fd00::/64\""),
            ("224.0.0.0/4", "multicast"),
            ("ff02::1", "multicast"),
        ];
        for (text, says) in wrong {
            let what = network(text).expect_err(text);
            assert!(what.contains(says), "{text}: {what}");
        }
    }

    #[test]
    fn ranges_of_vlans() {
        let ids = |text| vlans(text).map(|vlans| vlans.iter().map(|vlan| vlan.get()).collect::<Vec<_>>());
        assert_eq!(ids("20-23"), Ok(vec![20, 21, 22, 23]));
        assert_eq!(ids("7"), Ok(vec![7]));
        assert_eq!(ids("1-4094").map(|ids| ids.len()), Ok(4094));
        for text in ["", "-", "0-3", "1-4095", "+1-3", "3-2", "1-2-3", "1 - 2", "99999", "a-b"] {
            assert!(vlans(text).is_err(), "{text}");
        }
    }

    #[test]
    fn socket_paths() {
        let base = Path::new("/etc/ringway");
        assert_eq!(socket_path("/run//a/./b.sock", base), Ok("/run/a/b.sock".into()));
        assert_eq!(socket_path("b.sock", base), Ok("/etc/ringway/b.sock".into()));
        assert!(socket_path("", base).is_err());
        assert!(socket_path("a\0b", base).is_err());
        assert!(socket_path(&format!("/{}", "x".repeat(106)), base).is_ok());
        assert!(socket_path(&format!("/{}", "x".repeat(107)), base).is_err());
    }
}
