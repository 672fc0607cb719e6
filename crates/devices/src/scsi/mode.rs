//! Mode parameters: what MODE SENSE shows and MODE SELECT changes (SPC-4 §6.13, §7.5; SBC-3 §6.5).
//!
//! Four values of a unit can be changed: the write cache, the format of sense data, a write protection in software, and
//! whether tasks that another initiator aborts end with TASK ABORTED. They are one set for all initiators, and not saved.

use super::opcode::Cdb;
use super::sense::{Asc, Sense};

/// Bytes of the longest parameter list that MODE SELECT takes.
pub const MODE_LIST_LEN_MAX: usize = 256;

const RECOVERY: u8 = 0x01;
const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0A;
const INFORMATIONAL: u8 = 0x1C;
const PAGES: [u8; 4] = [RECOVERY, CACHING, CONTROL, INFORMATIONAL];
const ALL_PAGES: u8 = 0x3F;
const ALL_SUBPAGES: u8 = 0xFF;

const WCE: u8 = 0x04;
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;
const TAS: u8 = 0x40;

/// The mode parameters that can be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// WCE of the caching page: what is written may be lost until a flush.
    pub write_cache: bool,
    /// D_SENSE of the control page: sense data in descriptor format.
    pub descriptor_sense: bool,
    /// SWP of the control page: writes are refused.
    pub write_protect: bool,
    /// TAS of the control page: tasks aborted by another initiator end with TASK ABORTED.
    pub task_aborted_status: bool,
}

impl Mode {
    /// As a unit begins.
    pub fn new(write_cache: bool) -> Self {
        Self { write_cache, descriptor_sense: false, write_protect: false, task_aborted_status: false }
    }

    /// A page of current values; its second byte says how many follow.
    fn page(&self, code: u8) -> [u8; 20] {
        let bit = |on: bool, mask: u8| if on { mask } else { 0 };
        let mut page = [0; 20];
        page[0] = code;
        page[1] = page_len(code) as u8 - 2;
        match code {
            // AWRE and ARRE: bad blocks are the host's affair, and seen to.
            RECOVERY => page[2] = 0xC0,
            CACHING => page[2] = bit(self.write_cache, WCE),
            CONTROL => {
                // GLTSD; unrestricted reordering; no limit to being busy.
                page[2] = 0x02 | bit(self.descriptor_sense, D_SENSE);
                page[3] = 0x10;
                page[4] = bit(self.write_protect, SWP);
                page[5] = bit(self.task_aborted_status, TAS);
                page[8..10].fill(0xFF);
            }
            _ => {}
        }
        page
    }

    /// The bits of a page that MODE SELECT can change.
    fn changeable(code: u8) -> [u8; 20] {
        let mut page = [0; 20];
        page[0] = code;
        page[1] = page_len(code) as u8 - 2;
        match code {
            CACHING => page[2] = WCE,
            CONTROL => (page[2], page[4], page[5]) = (D_SENSE, SWP, TAS),
            _ => {}
        }
        page
    }

    fn set(&mut self, page: &[u8]) {
        match page[0] {
            CACHING => self.write_cache = page[2] & WCE != 0,
            CONTROL => {
                self.descriptor_sense = page[2] & D_SENSE != 0;
                self.write_protect = page[4] & SWP != 0;
                self.task_aborted_status = page[5] & TAS != 0;
            }
            _ => {}
        }
    }
}

fn page_len(code: u8) -> usize {
    if code == CACHING { 20 } else { 12 }
}

/// What the header and the block descriptor say of a unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Medium {
    /// Logical blocks.
    pub(super) blocks: u64,
    /// Bytes of each.
    pub(super) block: u32,
    /// It cannot be written, by its nature or by SWP.
    pub(super) is_protected: bool,
}

impl Medium {
    fn short_descriptor(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&u32::try_from(self.blocks).unwrap_or(u32::MAX).to_be_bytes());
        bytes[4..].copy_from_slice(&self.block.to_be_bytes());
        bytes
    }

    fn long_descriptor(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.blocks.to_be_bytes());
        bytes[12..].copy_from_slice(&self.block.to_be_bytes());
        bytes
    }
}

/// Answers MODE SENSE (6) and (10). `default` are the values after a reset.
pub(super) fn mode_sense(
    cdb: &Cdb,
    mode: &Mode,
    default: &Mode,
    medium: Medium,
    answer: &mut Vec<u8>,
) -> Result<(), Sense> {
    let is_long = cdb.u8(0) == 0x5A;
    let (control, code, subpage) = (cdb.u8(2) >> 6, cdb.u8(2) & 0x3F, cdb.u8(3));
    if control == 3 {
        return Err(Sense::illegal(Asc::SAVING_NOT_SUPPORTED));
    }
    if code != ALL_PAGES && !PAGES.contains(&code) {
        return Err(Sense::cdb(2, 5));
    }
    if subpage != 0 && !(subpage == ALL_SUBPAGES && code == ALL_PAGES) {
        return Err(Sense::cdb(3, 7));
    }
    // WP, and DPO and FUA are understood.
    let specific = 0x10 | if medium.is_protected { 0x80 } else { 0 };
    let without_descriptor = cdb.has(1, 0x08);
    let long_lba = is_long && cdb.has(1, 0x10);
    let (short, long) = (medium.short_descriptor(), medium.long_descriptor());
    let descriptor: &[u8] = match (without_descriptor, long_lba) {
        (true, _) => &[],
        (false, true) => &long,
        (false, false) => &short,
    };
    if is_long {
        answer.extend_from_slice(&[0, 0, 0, specific, u8::from(long_lba), 0, 0, descriptor.len() as u8]);
    } else {
        answer.extend_from_slice(&[0, 0, specific, descriptor.len() as u8]);
    }
    answer.extend_from_slice(descriptor);
    for &page in PAGES.iter().filter(|&&page| code == ALL_PAGES || page == code) {
        let bytes = match control {
            0 => mode.page(page),
            1 => Mode::changeable(page),
            _ => default.page(page),
        };
        answer.extend_from_slice(&bytes[..page_len(page)]);
    }
    let len = answer.len();
    if is_long {
        answer[..2].copy_from_slice(&(len as u16 - 2).to_be_bytes());
    } else {
        answer[0] = len as u8 - 1;
    }
    Ok(())
}

/// The mode after MODE SELECT (6) or (10) with this parameter list: all of it is taken or nothing.
///
/// # Errors
/// PF is not set; the list ends in the middle of something; a field has another value than the current one and cannot be
/// changed. The field pointer names it.
pub(super) fn mode_select(cdb: &Cdb, list: &[u8], mode: &Mode, medium: Medium) -> Result<Mode, Sense> {
    if !cdb.has(1, 0x10) {
        return Err(Sense::cdb(1, 4));
    }
    if list.is_empty() {
        return Ok(*mode);
    }
    let mut at = after_descriptors(list, cdb.u8(0) == 0x55, medium)?;
    let mut after = *mode;
    while at < list.len() {
        let page = &list[at..];
        let code = page[0] & 0x3F;
        if page[0] & 0xC0 != 0 {
            // PS is reserved here; pages with subpages there are none.
            return Err(Sense::parameter_bit(at as u16, 7 - page[0].leading_zeros() as u8));
        }
        if !PAGES.contains(&code) {
            return Err(Sense::parameter_bit(at as u16, 5));
        }
        let page = page.get(..page_len(code)).ok_or(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR))?;
        let (now, changeable) = (after.page(code), Mode::changeable(code));
        for (index, &byte) in page.iter().enumerate().skip(1) {
            let mask = if index == 1 { 0 } else { changeable[index] };
            let differs = (byte ^ now[index]) & !mask;
            if differs != 0 {
                let bit = 7 - differs.leading_zeros() as u8;
                return Err(Sense::parameter_bit((at + index) as u16, bit));
            }
        }
        after.set(page);
        at += page.len();
    }
    Ok(after)
}

/// Checks header and block descriptors; returns where the pages begin.
fn after_descriptors(list: &[u8], is_long: bool, medium: Medium) -> Result<usize, Sense> {
    const TOO_SHORT: Sense = Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR);
    let header = list.get(..if is_long { 8 } else { 4 }).ok_or(TOO_SHORT)?;
    let medium_type = if is_long { 2 } else { 1 };
    if header[medium_type] != 0 {
        return Err(Sense::parameter(medium_type as u16));
    }
    let (long_lba, len, len_at) = if is_long {
        (header[4] & 1 != 0, usize::from(u16::from_be_bytes([header[6], header[7]])), 6)
    } else {
        (false, usize::from(header[3]), 3)
    };
    let (short, long) = (medium.short_descriptor(), medium.long_descriptor());
    let current: &[u8] = if long_lba { &long } else { &short };
    if len == 0 {
        return Ok(header.len());
    }
    if len != current.len() {
        return Err(Sense::parameter(len_at));
    }
    let descriptor = list.get(header.len()..header.len() + len).ok_or(TOO_SHORT)?;
    // The number of blocks: as it is, or zero for "as it is" (SPC-4 §7.5.6.1).
    let count = if long_lba { 8 } else { 4 };
    if descriptor[..count] != current[..count] && descriptor[..count].iter().any(|&byte| byte != 0) {
        return Err(Sense::parameter(header.len() as u16));
    }
    if descriptor[count..] != current[count..] {
        return Err(Sense::parameter((header.len() + count) as u16));
    }
    Ok(header.len() + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEDIUM: Medium = Medium { blocks: 0x1_0000_0000, block: 512, is_protected: false };

    fn sense(cdb: &[u8], mode: &Mode) -> Result<Vec<u8>, Sense> {
        let mut answer = Vec::new();
        mode_sense(&Cdb::new(cdb), mode, &Mode::new(false), MEDIUM, &mut answer).map(|()| answer)
    }

    #[test]
    fn the_caching_page_in_both_forms() {
        let mode = Mode::new(true);
        let six = sense(&[0x1A, 0, 0x08, 0, 255], &mode).unwrap();
        let page = [8, 18, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(six[..12], [31, 0, 0x10, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 2, 0]);
        assert_eq!(six[12..], page);
        let ten = sense(&[0x5A, 0x10, 0x48, 0], &mode).unwrap();
        assert_eq!(ten[..8], [0, 42, 0, 0x10, 1, 0, 0, 16]);
        assert_eq!(ten[8..24], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        assert_eq!(ten[24..27], [8, 18, 4]);
        // Default values: without the cache.
        assert_eq!(sense(&[0x1A, 8, 0x88], &mode).unwrap()[4..7], [8, 18, 0]);
    }

    #[test]
    fn all_pages_are_in_ascending_order() {
        let all = sense(&[0x1A, 8, 0x3F, 0xFF], &Mode::new(false)).unwrap();
        let mut at = 4;
        let mut codes = Vec::new();
        while at < all.len() {
            codes.push(all[at]);
            at += usize::from(all[at + 1]) + 2;
        }
        assert_eq!((codes.as_slice(), at, usize::from(all[0]) + 1), (&PAGES[..], all.len(), all.len()));
    }

    #[test]
    fn what_mode_sense_refuses() {
        let mode = Mode::new(false);
        assert_eq!(sense(&[0x1A, 0, 0xC8], &mode), Err(Sense::illegal(Asc::SAVING_NOT_SUPPORTED)));
        assert_eq!(sense(&[0x1A, 0, 0x02], &mode), Err(Sense::cdb(2, 5)));
        assert_eq!(sense(&[0x1A, 0, 0x0A, 1], &mode), Err(Sense::cdb(3, 7)));
        assert_eq!(sense(&[0x1A, 0, 0x0A, 0xFF], &mode), Err(Sense::cdb(3, 7)));
    }

    fn select(list: &[u8], long: bool) -> Result<Mode, Sense> {
        let cdb = Cdb::new(&[if long { 0x55 } else { 0x15 }, 0x10]);
        mode_select(&cdb, list, &Mode::new(true), MEDIUM)
    }

    #[test]
    fn what_was_sensed_can_be_selected() {
        let mode = Mode { descriptor_sense: true, write_protect: true, ..Mode::new(false) };
        let mut list = sense(&[0x1A, 0, 0x3F], &mode).unwrap();
        list[0] = 0;
        assert_eq!(select(&list, false), Ok(mode));
        let mut list = sense(&[0x5A, 0x10, 0x3F], &mode).unwrap();
        assert_eq!(select(&list, true), Ok(mode));
        // The number of blocks may be left to the unit.
        list[8..16].fill(0);
        assert_eq!(select(&list, true), Ok(mode));
        assert_eq!(select(&[], false), Ok(Mode::new(true)));
    }

    #[test]
    fn what_mode_select_refuses_is_pointed_at() {
        let list = sense(&[0x1A, 0, 0x0A], &Mode::new(false)).unwrap();
        let damaged = |at: usize, value: u8| {
            let mut list = list.clone();
            list[at] = value;
            select(&list, false)
        };
        assert_eq!(damaged(1, 1), Err(Sense::parameter(1)));
        assert_eq!(damaged(3, 7), Err(Sense::parameter(3)));
        assert_eq!(damaged(7, 0), Err(Sense::parameter(4)));
        assert_eq!(damaged(10, 4), Err(Sense::parameter(8)));
        assert_eq!(damaged(12, 0x8A), Err(Sense::parameter_bit(12, 7)));
        assert_eq!(damaged(12, 0x4A), Err(Sense::parameter_bit(12, 6)));
        assert_eq!(damaged(12, 0x02), Err(Sense::parameter_bit(12, 5)));
        assert_eq!(damaged(13, 11), Err(Sense::parameter_bit(13, 0)));
        assert_eq!(damaged(15, 0x11), Err(Sense::parameter_bit(15, 0)));
        for short in [1, 3, 11, 13, 23] {
            let sense = Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR);
            assert_eq!(select(&list[..short], false), Err(sense), "{short} bytes");
        }
        let cdb = Cdb::new(&[0x15, 0]);
        assert_eq!(mode_select(&cdb, &list, &Mode::new(true), MEDIUM), Err(Sense::cdb(1, 4)));
    }
}
