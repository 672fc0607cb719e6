//! INQUIRY: the standard data and the vital product data pages (SPC-4 §6.6 and §7.8, SBC-3 §6.6, SBC-4 §6.6.4).

use super::disk::Disk;
use super::opcode::Cdb;
use super::sense::Sense;

/// The pages that there are, in ascending order.
const PAGES: [u8; 7] = [0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2];

/// Peripheral device type of a disk.
const DISK: u8 = 0x00;
/// Peripheral device type of a well known logical unit.
const WELL_KNOWN: u8 = 0x1E;
/// Peripheral qualifier 3 and device type 1Fh: there is no unit here.
const NOTHING: u8 = 0x7F;

/// Version descriptors: SAM-5, SPC-4, SBC-3 (SPC-4 table 148).
const VERSIONS: [u16; 3] = [0x00A0, 0x0460, 0x04C0];

/// What answers an INQUIRY where there is no disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Placeholder {
    /// A logical unit number that no unit has.
    Nothing,
    /// The REPORT LUNS well known logical unit.
    ReportLuns,
}

/// Answers INQUIRY for a disk.
///
/// # Errors
/// A page code without EVPD, or a page that there is not: the field pointer names it.
pub(super) fn inquiry(cdb: &Cdb, disk: &Disk, answer: &mut Vec<u8>) -> Result<(), Sense> {
    let page = cdb.u8(2);
    if !cdb.has(1, 0x01) {
        if page != 0 {
            return Err(Sense::cdb(2, 7));
        }
        let identity = &disk.identity;
        standard(DISK, identity.vendor(), identity.product(), identity.revision(), answer);
        return Ok(());
    }
    answer.extend_from_slice(&[DISK, page, 0, 0]);
    match page {
        0x00 => answer.extend_from_slice(&PAGES),
        0x80 => answer.extend_from_slice(disk.identity.serial()),
        0x83 => designators(disk, answer),
        0x86 => extended(answer),
        0xB0 => block_limits(disk, answer),
        0xB1 => characteristics(disk, answer),
        0xB2 => provisioning(disk, answer),
        _ => {
            answer.clear();
            return Err(Sense::cdb(2, 7));
        }
    }
    let len = answer.len() as u16 - 4;
    answer[2..4].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

/// Answers INQUIRY where there is no disk; no pages but the list of pages.
pub(super) fn placeholder(cdb: &Cdb, kind: Placeholder, answer: &mut Vec<u8>) -> Result<(), Sense> {
    let device = if kind == Placeholder::Nothing { NOTHING } else { WELL_KNOWN };
    match (cdb.has(1, 0x01), cdb.u8(2)) {
        (false, 0) => standard(device, b"RINGWAY ", b"                ", b"0001", answer),
        (true, 0) => answer.extend_from_slice(&[device, 0, 0, 1, 0]),
        _ => return Err(Sense::cdb(2, 7)),
    }
    Ok(())
}

/// Standard INQUIRY data, 74 bytes: SPC-4, hierarchical LUNs, command queueing.
fn standard(device: u8, vendor: &[u8; 8], product: &[u8; 16], revision: &[u8; 4], answer: &mut Vec<u8>) {
    answer.extend_from_slice(&[device, 0, 6, 0x12, 74 - 5, 0, 0, 0x02]);
    answer.extend_from_slice(vendor);
    answer.extend_from_slice(product);
    answer.extend_from_slice(revision);
    answer.resize(58, 0);
    VERSIONS.iter().for_each(|version| answer.extend_from_slice(&version.to_be_bytes()));
    answer.resize(74, 0);
}

/// Device identification: the unit by T10 vendor id and by NAA name, its port by number.
fn designators(disk: &Disk, answer: &mut Vec<u8>) {
    let serial = disk.identity.serial();
    // Code set ASCII, association logical unit, type T10 vendor id.
    answer.extend_from_slice(&[0x02, 0x01, 0, 8 + serial.len() as u8]);
    answer.extend_from_slice(disk.identity.vendor());
    answer.extend_from_slice(serial);
    // Code set binary, association logical unit, type NAA.
    answer.extend_from_slice(&[0x01, 0x03, 0, 8]);
    answer.extend_from_slice(&disk.identity.naa().to_be_bytes());
    // Association target port: relative port 1.
    answer.extend_from_slice(&[0x01, 0x14, 0, 4, 0, 0, 0, 1]);
}

/// Extended INQUIRY data: simple tasks (all others count as such), volatile caches (V_SUP).
fn extended(answer: &mut Vec<u8>) {
    answer.extend_from_slice(&[0, 0x01, 0x01]);
    answer.resize(64, 0);
}

fn block_limits(disk: &Disk, answer: &mut Vec<u8>) {
    let block = disk.block();
    let in_blocks = |bytes: u32| bytes / block;
    let unmap = disk.unmap();
    let granularity = unmap.map_or(0, |limits| in_blocks(limits.alignment));
    let atomic = disk.atomic_max();
    // WSNZ: WRITE SAME of zero blocks is refused.
    answer.extend_from_slice(&[0x01, disk.compare_max()]);
    let minimum = u16::try_from(in_blocks(disk.shape.minimum_io)).unwrap_or(0);
    answer.extend_from_slice(&minimum.to_be_bytes());
    for value in [
        disk.transfer_max(),
        in_blocks(disk.shape.optimal_io).min(disk.transfer_max()),
        0,
        disk.unmap_max(),
        unmap.map_or(0, |limits| u32::from(limits.extents_max)),
        granularity,
        // The alignment is that of the physical blocks; UGAVALID says that it is known.
        if granularity > 0 { (1 << 31) | (u32::from(disk.lowest_aligned()) % granularity) } else { 0 },
    ] {
        answer.extend_from_slice(&value.to_be_bytes());
    }
    answer.extend_from_slice(&disk.write_same_max().to_be_bytes());
    // Atomic writes: at most so long, of any alignment and length, without boundaries inside.
    for value in [atomic, 0, 0, 0, 0] {
        answer.extend_from_slice(&value.to_be_bytes());
    }
}

fn characteristics(disk: &Disk, answer: &mut Vec<u8>) {
    // Rotation rate: not reported for a disk that turns, else 1, "non-rotating".
    answer.extend_from_slice(&[0, u8::from(!disk.is_rotating)]);
    answer.resize(64, 0);
}

/// Logical block provisioning: which commands unmap, and whether zeros are read there afterwards.
fn provisioning(disk: &Disk, answer: &mut Vec<u8>) {
    let unmaps = disk.unmap().is_some();
    let mut flags = 0;
    if unmaps {
        flags |= 0x80;
    }
    if disk.unmap_zeroes() {
        flags |= 0x40 | 0x20 | 0x04;
    }
    // Provisioning type: thin, where anything can be unmapped.
    answer.extend_from_slice(&[0, flags, if unmaps { 2 } else { 0 }, 0]);
}

#[cfg(test)]
mod tests {
    use super::super::disk::tests::full;
    use super::*;
    use crate::storage::Shape;

    fn page(disk: &Disk, code: u8) -> Vec<u8> {
        let mut answer = Vec::new();
        inquiry(&Cdb::new(&[0x12, 1, code]), disk, &mut answer).unwrap();
        assert_eq!((answer[0], answer[1]), (0, code));
        assert_eq!(usize::from(u16::from_be_bytes([answer[2], answer[3]])), answer.len() - 4);
        answer
    }

    #[test]
    fn standard_data() {
        let mut answer = Vec::new();
        inquiry(&Cdb::new(&[0x12]), &full(8), &mut answer).unwrap();
        assert_eq!((answer.len(), usize::from(answer[4])), (74, 74 - 5));
        assert_eq!(answer[..8], [0, 0, 6, 0x12, 69, 0, 0, 2]);
        assert_eq!(&answer[8..36], b"RINGWAY VIRTUAL DISK    0001");
        assert_eq!(answer[58..64], [0, 0xA0, 4, 0x60, 4, 0xC0]);
    }

    #[test]
    fn every_listed_page_is_there_and_no_other() {
        let disk = full(8);
        let listed = page(&disk, 0)[4..].to_vec();
        for code in 0..=255 {
            let mut answer = Vec::new();
            let there = inquiry(&Cdb::new(&[0x12, 1, code]), &disk, &mut answer);
            assert_eq!(there.is_ok(), listed.contains(&code), "page {code:#x}");
            if let Err(sense) = there {
                assert_eq!((sense, answer.len()), (Sense::cdb(2, 7), 0));
            }
        }
        let refused = inquiry(&Cdb::new(&[0x12, 0, 0x80]), &disk, &mut Vec::new());
        assert_eq!(refused, Err(Sense::cdb(2, 7)));
    }

    #[test]
    fn names() {
        let disk = full(8);
        assert_eq!(&page(&disk, 0x80)[4..], b"store/0");
        let page = page(&disk, 0x83);
        assert_eq!(&page[4..23], b"\x02\x01\x00\x0FRINGWAY store/0");
        assert_eq!(page[23..27], [1, 3, 0, 8]);
        assert_eq!(page[27..35], disk.identity.naa().to_be_bytes());
        assert_eq!(page[35..43], [1, 0x14, 0, 4, 0, 0, 0, 1]);
        assert_eq!(page.len(), 43);
    }

    #[test]
    fn limits_of_a_disk_that_can_do_everything() {
        let page = page(&full(8), 0xB0);
        assert_eq!(page.len(), 64);
        assert_eq!(page[4..8], [1, 255, 0, 8]);
        assert_eq!(page[8..16], [0, 2, 0, 0, 0, 0, 0, 128]);
        assert_eq!(page[20..36], [0, 0, 0, 128, 0, 0, 0, 4, 0, 0, 0, 8, 0x80, 0, 0, 1]);
        assert_eq!(page[36..44], 524_288u64.to_be_bytes());
        assert_eq!(page[44..64], [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_plain_disk_promises_nothing() {
        let disk = Disk { shape: Shape::plain(4096), is_rotating: true, atomic_len_max: 0, ..full(8) };
        let limits = page(&disk, 0xB0);
        assert!(limits[16..36].iter().chain(&limits[44..64]).all(|&byte| byte == 0));
        assert_eq!(page(&disk, 0xB2)[4..], [0, 0, 0, 0]);
        assert_eq!(page(&disk, 0xB1)[4..6], [0, 0]);
        assert_eq!(page(&full(8), 0xB1)[4..6], [0, 1]);
        assert_eq!(page(&full(8), 0xB2)[4..], [0, 0xE4, 2, 0]);
    }

    #[test]
    fn where_there_is_no_disk() {
        let mut answer = Vec::new();
        placeholder(&Cdb::new(&[0x12]), Placeholder::Nothing, &mut answer).unwrap();
        assert_eq!((answer[0], answer.len()), (0x7F, 74));
        answer.clear();
        placeholder(&Cdb::new(&[0x12, 1]), Placeholder::ReportLuns, &mut answer).unwrap();
        assert_eq!(answer, [0x1E, 0, 0, 1, 0]);
        let page = placeholder(&Cdb::new(&[0x12, 1, 0x83]), Placeholder::Nothing, &mut answer);
        assert_eq!(page, Err(Sense::cdb(2, 7)));
    }
}
