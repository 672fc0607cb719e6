//! Answers that tell what there is: units, capacity, commands, task management functions.

use super::disk::Disk;
use super::opcode::{Cdb, OPCODES, Opcode, rows};
use super::sense::Sense;

/// Bytes of a command timeouts descriptor (SPC-4 §6.35.4).
const TIMEOUTS_LEN: usize = 12;

/// The 8 bytes of a logical unit number: peripheral device addressing below 256, flat space addressing above (SAM-5 §4.7.7).
pub(super) fn lun_bytes(lun: u16) -> [u8; 8] {
    let [high, low] = lun.to_be_bytes();
    [if lun < 256 { 0 } else { 0x40 | high }, low, 0, 0, 0, 0, 0, 0]
}

/// Whether SELECT REPORT asks for the units of the target, the well known ones, or both (SPC-4 §6.33).
///
/// # Errors
/// A value with no meaning here.
pub(super) fn select(cdb: &Cdb) -> Result<(bool, bool), Sense> {
    match cdb.u8(2) {
        0x00 => Ok((true, false)),
        0x01 => Ok((false, true)),
        0x02 => Ok((true, true)),
        // Administrative, subsidiary: there are none.
        0x10..=0x12 => Ok((false, false)),
        _ => Err(Sense::cdb(2, 7)),
    }
}

/// REPORT LUNS, the entries given.
pub(super) fn lun_list(entries: impl Iterator<Item = [u8; 8]>, answer: &mut Vec<u8>) {
    answer.extend_from_slice(&[0; 8]);
    entries.for_each(|entry| answer.extend_from_slice(&entry));
    let len = answer.len() as u32 - 8;
    answer[..4].copy_from_slice(&len.to_be_bytes());
}

/// REPORT LUNS of one target.
pub(super) fn luns(cdb: &Cdb, luns: &[u16], answer: &mut Vec<u8>) -> Result<(), Sense> {
    let (units, well_known) = select(cdb)?;
    let units = luns.iter().filter(|_| units).map(|&lun| lun_bytes(lun));
    let well_known = well_known.then_some([0xC1, 0x01, 0, 0, 0, 0, 0, 0]);
    lun_list(units.chain(well_known), answer);
    Ok(())
}

/// READ CAPACITY (10): the last block, or FFFFFFFFh where that needs more bits.
pub(super) fn capacity_10(disk: &Disk, answer: &mut Vec<u8>) {
    let last = disk.blocks().saturating_sub(1);
    answer.extend_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_be_bytes());
    answer.extend_from_slice(&disk.block().to_be_bytes());
}

/// READ CAPACITY (16).
pub(super) fn capacity_16(disk: &Disk, answer: &mut Vec<u8>) {
    answer.extend_from_slice(&disk.blocks().saturating_sub(1).to_be_bytes());
    answer.extend_from_slice(&disk.block().to_be_bytes());
    let mut alignment = disk.lowest_aligned();
    if disk.unmap().is_some() {
        alignment |= 0x8000;
    }
    if disk.unmap_zeroes() {
        alignment |= 0x4000;
    }
    answer.extend_from_slice(&[0, disk.physical_exponent()]);
    answer.extend_from_slice(&alignment.to_be_bytes());
    answer.resize(32, 0);
}

/// REPORT SUPPORTED OPERATION CODES (SPC-4 §6.35).
pub(super) fn supported_operation_codes(
    cdb: &Cdb,
    supports: impl Fn(&Opcode) -> bool,
    answer: &mut Vec<u8>,
) -> Result<(), Sense> {
    let (options, timeouts) = (cdb.u8(2) & 0x07, cdb.has(2, 0x80));
    let (code, action) = (cdb.u8(3), cdb.u16(4));
    let known = rows(code);
    let has_actions = known.iter().any(|row| row.action.is_some());
    let with_action = |row: &&Opcode| row.action.map(u16::from) == Some(action);
    let found = match options {
        0 => {
            all_codes(&supports, timeouts, answer);
            return Ok(());
        }
        // A code that has service actions cannot be asked for without, nor the other way round.
        1 if has_actions => return Err(Sense::cdb(3, 7)),
        1 => known.first(),
        2 if !known.is_empty() && !has_actions => return Err(Sense::cdb(4, 7)),
        2 => known.iter().find(with_action),
        3 if has_actions => known.iter().find(with_action),
        3 => known.first().filter(|_| action == 0),
        _ => return Err(Sense::cdb(2, 2)),
    };
    one_code(found.filter(|row| supports(row)), timeouts, answer);
    Ok(())
}

fn all_codes(supports: &impl Fn(&Opcode) -> bool, timeouts: bool, answer: &mut Vec<u8>) {
    answer.extend_from_slice(&[0; 4]);
    for row in OPCODES.iter().filter(|row| supports(row)) {
        let action = u16::from(row.action.unwrap_or(0)).to_be_bytes();
        let flags = u8::from(row.action.is_some()) | if timeouts { 2 } else { 0 };
        answer.extend_from_slice(&[row.code, 0, action[0], action[1], 0, flags, 0, row.usage.len() as u8]);
        put_timeouts(timeouts, answer);
    }
    let len = answer.len() as u32 - 4;
    answer[..4].copy_from_slice(&len.to_be_bytes());
}

fn one_code(row: Option<&Opcode>, timeouts: bool, answer: &mut Vec<u8>) {
    let Some(row) = row else { return answer.extend_from_slice(&[0, 1, 0, 0]) };
    // SUPPORT 3: as a standard says.
    let support = 3 | if timeouts { 0x80 } else { 0 };
    answer.extend_from_slice(&[0, support, 0, row.usage.len() as u8]);
    answer.extend_from_slice(row.usage);
    put_timeouts(timeouts, answer);
}

/// No timeouts are recommended.
fn put_timeouts(wanted: bool, answer: &mut Vec<u8>) {
    if wanted {
        answer.extend_from_slice(&[0, TIMEOUTS_LEN as u8 - 2]);
        answer.extend_from_slice(&[0; TIMEOUTS_LEN - 2]);
    }
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 §6.36): all eight of SAM-5.
pub(super) fn supported_task_management_functions(cdb: &Cdb, answer: &mut Vec<u8>) -> Result<(), Sense> {
    // ATS ATSS CACAS CTSS LURS QTS; QTSS ITNRS.
    answer.extend_from_slice(&[0xFC, 0x03, 0, 0]);
    if cdb.has(2, 0x80) {
        answer[3] = 12;
        answer.resize(16, 0);
    }
    Ok(())
}
