//! One disk: how a guest gets at it, where its bytes are, and what it promises.

use std::path::PathBuf;

use super::attach::{function, guest_socket};
use super::claims::Claims;
use super::{Surroundings, port};
use crate::config::keys;
use crate::config::raw::{Reader, Section};
use crate::config::resolved::{
    BLOCK_SIZE_MAX, BURST_BYTES_MIN, CacheMode, DISK_BYTES_MAX, DISK_QUEUES_MAX, DiskAttach, DiskConfig,
    DiskRates, ImageConfig, ImageFormat, Rate, SECTOR_BYTES, SERIAL_BYTES_MAX, SocketRole, WorkerGroupConfig,
};
use crate::config::values;

const ATTACH_ACCEPTED: &str = r#"one of vhost-user or vfio-user = { socket = "PATH" }"#;
const IMAGE_ACCEPTED: &str = r#"one of file = "PATH", ram = "SIZE" or null = "SIZE""#;
const SERIAL_ACCEPTED: &str = "up to 20 printable ASCII characters";
/// Largest rates.
const RATE_MAX: u64 = 1 << 50;

/// `None` if what the disk cannot do without is missing or wrong; that was noted.
pub(super) fn disk(
    reader: &mut Reader,
    name: &str,
    section: &Section<'_, '_>,
    around: &Surroundings<'_>,
    groups: &[WorkerGroupConfig],
    claims: &mut Claims,
) -> Option<DiskConfig> {
    if let Err(what) = values::name(name) {
        reader.refuse(&section.place, what, values::NAME_ACCEPTED);
    }
    reader.unknown_keys(section, keys::DISK, &[]);
    let attach = attach(reader, section, around, claims);
    let read_only = reader.boolean(section, "read-only").unwrap_or(false);
    let image = image(reader, section, around, read_only, claims);
    let modes = [("write-back", CacheMode::WriteBack), ("write-through", CacheMode::WriteThrough)];
    let cache = reader.word(section, "cache", &modes);
    let discard = reader.boolean(section, "discard");
    let block_size = block_size(reader, section);
    let serial = reader.parsed(section, "serial", SERIAL_ACCEPTED, serial);
    let rates = rates(reader, section);
    let workers = port::workers(reader, section, groups);
    Some(DiskConfig {
        name: name.to_owned(),
        attach: attach?,
        image: image?,
        read_only,
        cache: cache.map_or(CacheMode::WriteBack, |(mode, _)| mode),
        discard: discard.unwrap_or(true),
        block_size,
        serial: serial.map(|(serial, _)| serial).unwrap_or_default(),
        rates,
        workers,
    })
}

fn attach(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    around: &Surroundings<'_>,
    claims: &mut Claims,
) -> Option<DiskAttach> {
    let over_vhost = reader.table(section, "vhost-user", ATTACH_ACCEPTED);
    let over_vfio = reader.table(section, "vfio-user", ATTACH_ACCEPTED);
    if let (Some(vhost), Some(vfio)) = (&over_vhost, &over_vfio) {
        let later = if vhost.place.line > vfio.place.line { vhost } else { vfio };
        reader.refuse(&later.place, "the disk is attached already", format!("exactly {ATTACH_ACCEPTED}"));
    }
    if !keys::ATTACH_GUEST.iter().any(|kind| section.has(kind)) {
        reader.refuse_if_whole(&section.place, "is attached to nothing", ATTACH_ACCEPTED);
    }
    let queues = |reader: &mut Reader, table: &Section<'_, '_>| {
        let queues = reader.integer(table, "queues", 1..=usize::from(DISK_QUEUES_MAX));
        queues.and_then(|(queues, _)| u16::try_from(queues).ok()).unwrap_or(1)
    };
    let vhost = over_vhost.and_then(|table| {
        reader.unknown_keys(&table, keys::DISK_VHOST_USER, &[]);
        let socket = guest_socket(reader, &table, around, claims);
        let queues = queues(reader, &table);
        let words = [("server", SocketRole::Server), ("client", SocketRole::Client)];
        let role = reader.word(&table, "mode", &words).map_or(SocketRole::Server, |(role, _)| role);
        Some(DiskAttach { socket: socket?, role, queues, function: None })
    });
    let vfio = over_vfio.and_then(|table| {
        reader.unknown_keys(&table, keys::DISK_VFIO_USER, &[]);
        let socket = guest_socket(reader, &table, around, claims);
        let queues = queues(reader, &table);
        let function = Some(function(reader, &table)?);
        Some(DiskAttach { socket: socket?, role: SocketRole::Server, queues, function })
    });
    vhost.or(vfio)
}

fn image(
    reader: &mut Reader,
    section: &Section<'_, '_>,
    around: &Surroundings<'_>,
    read_only: bool,
    claims: &mut Claims,
) -> Option<ImageConfig> {
    let written: Vec<&str> = keys::IMAGE.iter().copied().filter(|kind| section.has(kind)).collect();
    if written.is_empty() {
        reader.refuse_if_whole(&section.place, "has no bytes", IMAGE_ACCEPTED);
    }
    for second in written.iter().skip(1) {
        let place = reader.place_of(section, second);
        reader.refuse(
            &place,
            format!("the disk has {} already", written[0]),
            format!("exactly {IMAGE_ACCEPTED}"),
        );
    }
    let file =
        reader.parsed(section, "file", values::FILE_ACCEPTED, |text| values::file_path(text, around.base));
    if let Some((path, place)) = &file {
        match claims.images.get(path) {
            Some((first, is_shared)) if !(read_only && *is_shared) => {
                let what = format!(
                    "{:?} is used already by {}",
                    path.display().to_string(),
                    reader.whereabouts(first)
                );
                reader.refuse(place, what, "a file of its own for each disk that is written");
            }
            _ => drop(claims.images.insert(path.clone(), (place.clone(), read_only))),
        }
    }
    let format = format(reader, section, file.as_ref().map(|(path, _)| path));
    let direct = reader.boolean(section, "direct");
    if file.is_none() && !section.has("file") {
        for key in ["format", "backing-file", "direct"].into_iter().filter(|key| section.has(key)) {
            reader.refuse(
                &reader.place_of(section, key),
                "the disk is no file",
                format!("{key} with file only"),
            );
        }
    }
    let ram = size(reader, section, "ram");
    let null = size(reader, section, "null");
    let file = file.map(|(path, _)| ImageConfig::File { path, format, direct });
    file.or(ram.map(|bytes| ImageConfig::Ram { bytes })).or(null.map(|bytes| ImageConfig::Null { bytes }))
}

/// What `format` says, or else the end of the file's name. Never the file's bytes: those are its guest's.
fn format(reader: &mut Reader, section: &Section<'_, '_>, path: Option<&PathBuf>) -> ImageFormat {
    let by_name = path.and_then(|path| path.extension()).is_some_and(|end| end == "qcow2");
    let word = reader.word(section, "format", &[("raw", false), ("qcow2", true)]);
    let is_qcow2 = word.map_or(by_name, |(is_qcow2, _)| is_qcow2);
    let backing_file = reader.boolean(section, "backing-file");
    if !is_qcow2 && backing_file.is_some() {
        let accepted = "backing-file with format = \"qcow2\" only";
        reader.refuse(&reader.place_of(section, "backing-file"), "a raw file is based on nothing", accepted);
    }
    if is_qcow2 {
        ImageFormat::Qcow2 { backing_file: backing_file.unwrap_or(false) }
    } else {
        ImageFormat::Raw
    }
}

/// The size of a disk that is made of memory.
fn size(reader: &mut Reader, section: &Section<'_, '_>, key: &str) -> Option<u64> {
    let accepted = "a multiple of 512 bytes, with K, M, G or T for powers of 1024, such as \"64M\"";
    let size = reader.parsed(section, key, accepted, |text| {
        let bytes = values::bytes(text)?;
        let fits = bytes != 0 && bytes.is_multiple_of(SECTOR_BYTES) && bytes <= DISK_BYTES_MAX;
        if fits { Ok(bytes) } else { Err(format!("{text:?} is no size of a disk")) }
    });
    size.map(|(bytes, _)| bytes)
}

fn block_size(reader: &mut Reader, section: &Section<'_, '_>) -> Option<u32> {
    let (size, place) = reader.integer(section, "block-size", 512..=BLOCK_SIZE_MAX as usize)?;
    if !size.is_power_of_two() {
        reader.refuse(&place, format!("{size} is no power of two"), "a power of two from 512 to 65536");
    }
    u32::try_from(size).ok()
}

fn serial(text: &str) -> Result<String, String> {
    let is_printable = text.bytes().all(|c| c.is_ascii_graphic() || c == b' ');
    if is_printable && text.len() <= SERIAL_BYTES_MAX {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no serial number"))
    }
}

fn rates(reader: &mut Reader, section: &Section<'_, '_>) -> DiskRates {
    let Some(table) = reader.table(section, "rate-limit", "a table such as { iops = 1000 }") else {
        return DiskRates::default();
    };
    reader.unknown_keys(&table, keys::DISK_RATE_LIMIT, &[]);
    let number = |reader: &mut Reader, key: &str| {
        reader.integer(&table, key, 1..=RATE_MAX as usize).map(|(number, place)| (number as u64, place))
    };
    let requests = (number(reader, "iops"), number(reader, "iops-burst"));
    let bytes = |reader: &mut Reader, key: &str| {
        reader.parsed(&table, key, values::BYTES_ACCEPTED, |text| {
            let bytes = values::bytes(text)?;
            if (1..=RATE_MAX).contains(&bytes) { Ok(bytes) } else { Err(format!("{text:?} is out of range")) }
        })
    };
    let bytes = (bytes(reader, "bytes"), bytes(reader, "bytes-burst"));
    let mut rate = |(rate, burst): (Option<(u64, _)>, Option<(u64, _)>), key: &str, least: u64| {
        if let (None, Some((_, place))) = (&rate, &burst) {
            reader.refuse_if_whole(place, "there is no rate", format!("{key}-burst with {key} only"));
        }
        let (per_second, _) = rate?;
        // Without a word about it, what comes in a tenth of a second may come at once.
        let burst = burst.map_or(per_second / 10, |(burst, _)| burst);
        Some(Rate { per_second, burst: burst.max(least) })
    };
    DiskRates { requests: rate(requests, "iops", 1), bytes: rate(bytes, "bytes", BURST_BYTES_MIN) }
}
