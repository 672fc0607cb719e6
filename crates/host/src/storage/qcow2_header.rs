//! What is looked at in the header of a QCOW2 image before anything else reads it (docs/interop/qcow2.rst of QEMU).
//!
//! The header is a stranger's. What it says of encryption, features and sizes is checked here, where a wrong answer is an error with a
//! name, rather than wherever the library would notice, or would not: it opens encrypted images as if they were not.

use std::io;
use thiserror::Error;

/// Bytes of the header that are read here: version 3 with its fixed fields.
pub(super) const HEADER_LEN: usize = 112;
/// The first four bytes.
const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a first-level table, and of a table of reference counts at most (as QEMU has it).
const L1_SIZE_MAX: u64 = 32 << 20;
const REFCOUNT_SIZE_MAX: u64 = 8 << 20;
/// Bytes of the backing file's name at most.
const NAME_MAX: u32 = 1023;
/// Extensions of the header: the end of their list, and the format of the backing file.
const EXTENSION_END: u32 = 0;
const EXTENSION_FORMAT: u32 = 0xe279_2aca;
/// Extensions that are looked at.
const EXTENSIONS_MAX: usize = 64;

/// Why an image is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[allow(missing_docs)]
pub enum HeaderFault {
    #[error("not a QCOW2 image: it does not begin with \"QFI\\xfb\", or ends within its header")]
    Magic,
    #[error("version {0}: accepted are 2 and 3")]
    Version(u32),
    #[error("crypt_method {0}: accepted are images without encryption (0)")]
    Encrypted(u32),
    #[error("cluster_bits {0}: accepted are 9 to 21")]
    ClusterBits(u32),
    #[error(
        "incompatible_features {0:#x}: accepted are images that were closed cleanly, are not marked as corrupt, and have no external data file, extended entries or compression but zlib (0)"
    )]
    Features(u64),
    #[error(
        "{0}: the table is too large, too small for the disk, or does not lie in whole clusters of the file"
    )]
    Table(&'static str),
    #[error("size {0}: accepted are multiples of 512, less than 2^56")]
    Size(u64),
    #[error("refcount_order {0}: accepted are 0 to 6")]
    RefcountOrder(u32),
    #[error("header_length {0}: accepted are multiples of 8, from 104 to the end of the first cluster")]
    HeaderLength(u32),
    #[error("nb_snapshots {0}: an image with snapshots is accepted read-only")]
    Snapshots(u32),
    #[error(
        "backing_file_offset: accepted is a name of 1 to 1023 bytes of UTF-8 in the first cluster, and its format, raw or qcow2, in a header extension"
    )]
    BackingName,
}

/// What is used of a header that was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    /// The image that this one builds on: its name, and whether it is QCOW2 (otherwise raw).
    pub(super) backing: Option<(String, bool)>,
}

/// Reads bytes of the image's file from a position on, all that are asked for.
pub(super) type Read<'a> = &'a dyn Fn(&mut [u8], u64) -> io::Result<()>;

/// Checks the header of an image in a file of `file_len` bytes.
///
/// # Errors
/// The first thing that is not accepted.
pub(super) fn check(read: Read<'_>, file_len: u64, read_only: bool) -> Result<Header, HeaderFault> {
    let mut bytes = [0; HEADER_LEN];
    let present = (file_len.min(HEADER_LEN as u64)) as usize;
    read(&mut bytes[..present], 0).map_err(|_| HeaderFault::Magic)?;
    if u32_at(&bytes, 0) != MAGIC || present < 104 {
        return Err(HeaderFault::Magic);
    }
    let version = u32_at(&bytes, 4);
    if !(2..=3).contains(&version) {
        return Err(HeaderFault::Version(version));
    }
    if u32_at(&bytes, 32) != 0 {
        return Err(HeaderFault::Encrypted(u32_at(&bytes, 32)));
    }
    let cluster_bits = u32_at(&bytes, 20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(HeaderFault::ClusterBits(cluster_bits));
    }
    let cluster = 1u64 << cluster_bits;
    let header_len = if version == 3 { check_version_3(&bytes, cluster)? } else { 72 };
    check_tables(&bytes, cluster, file_len)?;
    let snapshots = u32_at(&bytes, 60);
    if snapshots != 0 && !read_only {
        return Err(HeaderFault::Snapshots(snapshots));
    }
    let size = u64_at(&bytes, 24);
    let backing = backing(read, &bytes, u64::from(header_len), cluster.min(file_len))?;
    Ok(Header { size, cluster, backing })
}

/// What version 3 has more; returns the header's length.
fn check_version_3(bytes: &[u8; HEADER_LEN], cluster: u64) -> Result<u32, HeaderFault> {
    let features = u64_at(bytes, 72);
    if features != 0 {
        return Err(HeaderFault::Features(features));
    }
    let refcount_order = u32_at(bytes, 96);
    if refcount_order > 6 {
        return Err(HeaderFault::RefcountOrder(refcount_order));
    }
    let len = u32_at(bytes, 100);
    if len < 104 || !len.is_multiple_of(8) || u64::from(len) > cluster {
        return Err(HeaderFault::HeaderLength(len));
    }
    Ok(len)
}

fn check_tables(bytes: &[u8; HEADER_LEN], cluster: u64, file_len: u64) -> Result<(), HeaderFault> {
    let size = u64_at(bytes, 24);
    if size >= 1 << 56 || !size.is_multiple_of(512) {
        return Err(HeaderFault::Size(size));
    }
    let entries = u64::from(u32_at(bytes, 36));
    // One entry is a second-level table: a cluster of entries of 8 bytes, each a cluster of the disk.
    let is_enough = entries >= size.div_ceil(cluster * (cluster / 8));
    let lies_in_file = |offset: u64, len: u64| {
        let end = offset.checked_add(len);
        offset.is_multiple_of(cluster) && offset >= cluster && end.is_some_and(|end| end <= file_len)
    };
    let l1_len = entries * 8;
    if !is_enough || l1_len > L1_SIZE_MAX || (entries > 0 && !lies_in_file(u64_at(bytes, 40), l1_len)) {
        return Err(HeaderFault::Table("l1_table_offset, l1_size"));
    }
    let refcount_len = u64::from(u32_at(bytes, 56)) * cluster;
    let is_right = refcount_len > 0 && refcount_len <= REFCOUNT_SIZE_MAX;
    if !is_right || !lies_in_file(u64_at(bytes, 48), refcount_len) {
        return Err(HeaderFault::Table("refcount_table_offset, refcount_table_clusters"));
    }
    Ok(())
}

/// The image's backing file and its format. `limit`: where the first cluster ends.
fn backing(
    read: Read<'_>,
    bytes: &[u8; HEADER_LEN],
    header_len: u64,
    limit: u64,
) -> Result<Option<(String, bool)>, HeaderFault> {
    let (offset, len) = (u64_at(bytes, 8), u32_at(bytes, 16));
    if offset == 0 {
        return Ok(None);
    }
    let is_inside =
        offset >= header_len && offset.checked_add(u64::from(len)).is_some_and(|end| end <= limit);
    if !is_inside || !(1..=NAME_MAX).contains(&len) {
        return Err(HeaderFault::BackingName);
    }
    let text = |offset: u64, len: u32| {
        let mut name = vec![0; len as usize];
        read(&mut name, offset).ok()?;
        String::from_utf8(name).ok()
    };
    let name = text(offset, len).ok_or(HeaderFault::BackingName)?;
    let mut at = header_len;
    for _ in 0..EXTENSIONS_MAX {
        let mut head = [0; 8];
        if at + 8 > offset || read(&mut head, at).is_err() {
            break;
        }
        let (kind, len) = (u32_at(&head, 0), u32_at(&head, 4));
        match kind {
            EXTENSION_END => break,
            EXTENSION_FORMAT if len <= 16 => {
                return match text(at + 8, len).as_deref() {
                    Some("raw") => Ok(Some((name, false))),
                    Some("qcow2") => Ok(Some((name, true))),
                    _ => Err(HeaderFault::BackingName),
                };
            }
            _ => at += 8 + u64::from(len).next_multiple_of(8),
        }
    }
    Err(HeaderFault::BackingName)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}
