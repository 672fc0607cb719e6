//! What is on the other side of a port: a front-end's socket, or an interface of the host.

use super::Surroundings;
use super::claims::{Claims, take};
use super::socket;
use crate::config::keys;
use crate::config::raw::{Reader, Section};
use crate::config::resolved::{
    Attach, FunctionConfig, QUEUE_PAIRS_MAX, SocketRole, XdpMode, ZERO_COPY_MIN, ZERO_COPY_MIN_DEFAULT,
    ZeroCopy,
};
use crate::config::values;
use std::path::PathBuf;
use transport::pci::{Interface, NotifyKind};
use virtqueue::QueueSize;

const ATTACH_ACCEPTED: &str = r#"one of vhost-user or vfio-user = { socket = "PATH" }, tap = { name = "INTERFACE" }, or macvtap, packet or af-xdp = { interface = "INTERFACE" }"#;
/// Entries of a function's queues. With more than 256 a descriptor table takes several pages, which a guest behind a virtual IOMMU
/// may not have in one piece.
const QUEUE_SIZES: std::ops::RangeInclusive<usize> = 16..=1024;
const QUEUE_SIZE_DEFAULT: u16 = 256;
const NOTIFY_KINDS: [(&str, NotifyKind); 2] = [("pio", NotifyKind::Pio), ("mmio", NotifyKind::Mmio)];
const NOTIFY_ACCEPTED: &str = "\"pio\" and \"mmio\", at least one and each once, the preferred one first";
/// Descriptors that can be inherited; those below are standard input, output and error.
const DESCRIPTORS: std::ops::RangeInclusive<usize> = 3..=65535;

/// What the port is attached to by its keys, whether that is right or not: the first kind in the order of the keys.
pub(super) fn written(section: &Section<'_, '_>) -> Option<&'static str> {
    keys::ATTACH.iter().copied().find(|kind| section.has(kind))
}

/// Whether a guest is behind the port, as far as its keys say.
pub(super) fn may_be_guest(section: &Section<'_, '_>) -> bool {
    written(section).is_none_or(|kind| keys::ATTACH_GUEST.contains(&kind))
}

/// What the port is attached to. `None` if that is missing or wrong; that was noted.
pub(super) fn attach(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    around: &Surroundings<'_>,
    claims: &mut Claims,
) -> Option<Attach> {
    let mut found = Vec::new();
    for &kind in keys::ATTACH {
        if let Some(table) = reader.table(section, kind, ATTACH_ACCEPTED) {
            found.push((kind, table));
        }
    }
    found.sort_by_key(|(_, table)| table.place.line);
    let mut attach = None;
    let mut first = None;
    for (kind, table) in &found {
        let read = match *kind {
            "vhost-user" => vhost_user(reader, table, around, claims),
            "tap" => tap(reader, table, claims),
            "macvtap" => macvtap(reader, table, claims),
            "packet" => packet(reader, table, claims),
            "vfio-user" => vfio_user(reader, table, around, claims),
            _ => af_xdp(reader, table, claims),
        };
        match first {
            None => (attach, first) = (read, Some(kind)),
            Some(first) => {
                let what = format!("the port has {first} already");
                reader.refuse(&table.place, what, format!("exactly {ATTACH_ACCEPTED}"));
            }
        }
    }
    if written(section).is_none() {
        reader.refuse_if_whole(&section.place, "is attached to nothing", ATTACH_ACCEPTED);
    }
    attach
}

fn vhost_user(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    around: &Surroundings<'_>,
    claims: &mut Claims,
) -> Option<Attach> {
    reader.unknown_keys(section, keys::VHOST_USER, &[]);
    let socket = guest_socket(reader, section, around, claims);
    let queue_pairs = queues(reader, section, "queue-pairs");
    let words = [("server", SocketRole::Server), ("client", SocketRole::Client)];
    let role = reader.word(section, "mode", &words);
    Some(Attach::VhostUser {
        socket: socket?,
        role: role.map_or(SocketRole::Server, |(role, _)| role),
        queue_pairs: queue_pairs.unwrap_or(1),
    })
}

fn vfio_user(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    around: &Surroundings<'_>,
    claims: &mut Claims,
) -> Option<Attach> {
    reader.unknown_keys(section, keys::VFIO_USER, &[]);
    let socket = guest_socket(reader, section, around, claims);
    let queue_pairs = queues(reader, section, "queue-pairs");
    let function = function(reader, section);
    Some(Attach::VfioUser { socket: socket?, queue_pairs: queue_pairs.unwrap_or(1), function: function? })
}

/// What the driver of a function finds.
pub(super) fn function(reader: &mut Reader, section: &Section<'_, '_>) -> Option<FunctionConfig> {
    let size = reader.integer(section, "queue-size", QUEUE_SIZES);
    if let Some((size, place)) = size.as_ref().filter(|(size, _)| !size.is_power_of_two()) {
        reader.refuse(place, format!("{size} is no power of two"), "16, 32, 64, 128, 256, 512 or 1024");
    }
    let size = size.and_then(|(size, _)| u16::try_from(size).ok()).unwrap_or(QUEUE_SIZE_DEFAULT);
    let words = [
        ("modern", Interface::Modern),
        ("transitional", Interface::Transitional),
        ("legacy", Interface::Legacy),
    ];
    let interface = reader.word(section, "interface", &words);
    let interface = interface.map_or(Interface::Modern, |(interface, _)| interface);
    let listed =
        reader.distinct(section, "notify", NOTIFY_KINDS.len(), NOTIFY_ACCEPTED, |reader, element| {
            reader.element_parsed(element, NOTIFY_ACCEPTED, |text| {
                let known = NOTIFY_KINDS.iter().map(|(word, _)| *word).find(|word| *word == text);
                known.ok_or_else(|| format!("unknown value {text:?}"))
            })
        });
    if let Some((listed, place)) = &listed
        && listed.is_empty()
    {
        reader.refuse(place, "is empty", NOTIFY_ACCEPTED);
    }
    let listed =
        listed.map_or_else(|| vec!["mmio"], |(words, _)| words.into_iter().map(|(word, _)| word).collect());
    let kind_of = |word| NOTIFY_KINDS.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind);
    let notify: Vec<NotifyKind> = listed.into_iter().filter_map(kind_of).collect();
    let doorbells = reader.word(section, "doorbells", &[("event", false), ("mapped", true)]);
    if let Some((true, place)) = &doorbells
        && (interface == Interface::Legacy || !notify.contains(&NotifyKind::Mmio))
    {
        let accepted = "\"mapped\" with the modern or transitional interface and \"mmio\" in notify";
        reader.refuse(place, "there is no page of doorbells to map", accepted);
    }
    let mapped = doorbells.is_some_and(|(mapped, _)| mapped);
    let msix = reader.word(section, "interrupts", &[("msix", true), ("intx", false)]);
    let msix = msix.is_none_or(|(msix, _)| msix);
    let admin_queue = reader.boolean(section, "admin-queue").unwrap_or(false);
    if admin_queue && interface == Interface::Legacy {
        let place = reader.place_of(section, "admin-queue");
        let accepted = "true with the modern or transitional interface";
        reader.refuse(&place, "no driver could find it", accepted);
    }
    let queue_size = QueueSize::try_from(size).ok()?;
    Some(FunctionConfig { interface, notify, queue_size, mapped, msix, admin_queue })
}

/// The socket of a guest's device, which has to be there.
pub(super) fn guest_socket(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    around: &Surroundings<'_>,
    claims: &mut Claims,
) -> Option<PathBuf> {
    if !section.has("socket") {
        let accepted = format!("socket = {}", values::SOCKET_ACCEPTED);
        reader.refuse_if_whole(&section.place, "has no socket", accepted);
    }
    socket(reader, section, "socket", around, claims)
}

fn tap(reader: &mut Reader, section: &Section<'_, '_>, claims: &mut Claims) -> Option<Attach> {
    reader.unknown_keys(section, keys::TAP, &[]);
    let name = interface(reader, section, "name", claims);
    let queues = queues(reader, section, "queues");
    Some(Attach::Tap { name: name?, queues: queues.unwrap_or(1) })
}

fn macvtap(reader: &mut Reader, section: &Section<'_, '_>, claims: &mut Claims) -> Option<Attach> {
    reader.unknown_keys(section, keys::MACVTAP, &[]);
    let interface = interface(reader, section, "interface", claims);
    let queues = queues(reader, section, "queues");
    let accepted = "different descriptors that were passed to the program, from 3 on, one a queue";
    let len_max = usize::from(QUEUE_PAIRS_MAX);
    let listed = reader.distinct(section, "fds", len_max, accepted, |reader, element| {
        reader.element_number(element, &DESCRIPTORS, accepted)
    });
    let mut fds = Vec::new();
    if let Some((listed, place)) = listed {
        let descriptors = &mut claims.descriptors;
        for (fd, place) in &listed {
            take(reader, descriptors, *fd, fd, place, "descriptors of its own for each port");
            fds.extend(i32::try_from(*fd));
        }
        if let Some(queues) = queues.filter(|queues| usize::from(*queues) != fds.len() && !fds.is_empty()) {
            let what = format!("{} descriptors for {queues} queues", fds.len());
            reader.refuse(&place, what, "as many descriptors as queues, or queues left out");
        }
    }
    let queues = match fds.len() {
        0 => queues.unwrap_or(1),
        count => u16::try_from(count).unwrap_or(QUEUE_PAIRS_MAX),
    };
    Some(Attach::Macvtap { interface: interface?, fds, queues })
}

fn packet(reader: &mut Reader, section: &Section<'_, '_>, claims: &mut Claims) -> Option<Attach> {
    reader.unknown_keys(section, keys::PACKET, &[]);
    Some(Attach::Packet { interface: interface(reader, section, "interface", claims)? })
}

fn af_xdp(reader: &mut Reader, section: &Section<'_, '_>, claims: &mut Claims) -> Option<Attach> {
    reader.unknown_keys(section, keys::AF_XDP, &[]);
    let interface = interface(reader, section, "interface", claims);
    let queues = queues(reader, section, "queues");
    let words = [("auto", XdpMode::Auto), ("generic", XdpMode::Generic), ("native", XdpMode::Native)];
    let mode = reader.word(section, "mode", &words);
    let zero_copy =
        reader.word(section, "zero-copy", &[("auto", Some(false)), ("always", Some(true)), ("off", None)]);
    let zero_copy_min = reader.integer(section, "zero-copy-min", ZERO_COPY_MIN);
    let zero_copy_min = zero_copy_min.and_then(|(min, _)| u32::try_from(min).ok());
    Some(Attach::AfXdp {
        interface: interface?,
        queues: queues.unwrap_or(1),
        mode: mode.map_or(XdpMode::Auto, |(mode, _)| mode),
        zero_copy: zero_copy
            .and_then(|(always, _)| always)
            .map(|always| ZeroCopy { min: zero_copy_min.unwrap_or(ZERO_COPY_MIN_DEFAULT), always }),
    })
}

fn queues(reader: &mut Reader, section: &Section<'_, '_>, key: &str) -> Option<u16> {
    let (queues, _) = reader.integer(section, key, 1..=usize::from(QUEUE_PAIRS_MAX))?;
    u16::try_from(queues).ok()
}

/// The interface named under `key`, which no other port may use.
fn interface(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    key: &str,
    claims: &mut Claims,
) -> Option<String> {
    let accepted = values::INTERFACE_ACCEPTED;
    if !section.has(key) {
        reader.refuse_if_whole(&section.place, format!("has no {key}"), format!("{key} = {accepted}"));
    }
    let name = |text: &str| values::interface_name(text).map(|()| text.to_owned());
    let (name, place) = reader.parsed(section, key, accepted, name)?;
    let shown = format!("{name:?}");
    take(
        reader,
        &mut claims.interfaces,
        name.clone(),
        shown,
        &place,
        "an interface of its own for each port",
    );
    Some(name)
}
