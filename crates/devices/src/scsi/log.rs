//! Log pages: what a unit counted since it was made (SPC-4 §6.8 and §7.3).

use super::opcode::Cdb;
use super::reply::Reply;
use super::sense::{Asc, Sense, SenseKey};

const SUPPORTED: u8 = 0x00;
const WRITE_ERRORS: u8 = 0x02;
const READ_ERRORS: u8 = 0x03;
const STATISTICS: u8 = 0x19;
const INFORMATIONAL: u8 = 0x2F;
const PAGES: [u8; 5] = [SUPPORTED, WRITE_ERRORS, READ_ERRORS, STATISTICS, INFORMATIONAL];
/// The subpage code that asks for pages and subpages.
const SUBPAGES: u8 = 0xFF;

/// Parameter code: total uncorrected errors.
const UNCORRECTED: u16 = 0x0006;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// READ commands begun.
    pub reads: u64,
    /// Commands begun that write blocks.
    pub writes: u64,
    /// Blocks that these asked for.
    pub blocks_read: u64,
    /// Blocks that these asked for.
    pub blocks_written: u64,
    /// Commands that failed on reading the medium.
    pub read_errors: u64,
    /// Commands that failed on writing it.
    pub write_errors: u64,
}

impl Counters {
    pub(super) fn count_read(&mut self, blocks: u32) {
        self.reads += 1;
        self.blocks_read = self.blocks_read.wrapping_add(blocks.into());
    }

    pub(super) fn count_write(&mut self, blocks: u32) {
        self.writes += 1;
        self.blocks_written = self.blocks_written.wrapping_add(blocks.into());
    }

    pub(super) fn count_failure(&mut self, reply: &Reply) {
        match reply.sense {
            Some(Sense { key: SenseKey::MediumError, asc: Asc::WRITE_ERROR, .. }) => self.write_errors += 1,
            Some(Sense { key: SenseKey::MediumError, .. }) => self.read_errors += 1,
            _ => {}
        }
    }

    /// Answers LOG SENSE with cumulative values.
    ///
    /// # Errors
    /// A page, subpage, page control or parameter that there is not.
    pub(super) fn log_sense(&self, cdb: &Cdb, answer: &mut Vec<u8>) -> Result<(), Sense> {
        let (control, page, subpage) = (cdb.u8(2) >> 6, cdb.u8(2) & 0x3F, cdb.u8(3));
        // Thresholds and their defaults are not kept.
        if control != 1 {
            return Err(Sense::cdb(2, 7));
        }
        if !PAGES.contains(&page) {
            return Err(Sense::cdb(2, 5));
        }
        if subpage != 0 && !(page == SUPPORTED && subpage == SUBPAGES) {
            return Err(Sense::cdb(3, 7));
        }
        let has_subpage = subpage == SUBPAGES;
        answer.extend_from_slice(&[page | if has_subpage { 0x40 } else { 0 }, subpage, 0, 0]);
        match page {
            SUPPORTED if has_subpage => {
                answer.extend_from_slice(&[SUPPORTED, 0, SUPPORTED, SUBPAGES]);
                PAGES[1..].iter().for_each(|&page| answer.extend_from_slice(&[page, 0]));
            }
            SUPPORTED => answer.extend_from_slice(&PAGES),
            WRITE_ERRORS => parameter(UNCORRECTED, &self.write_errors.to_be_bytes(), answer),
            READ_ERRORS => parameter(UNCORRECTED, &self.read_errors.to_be_bytes(), answer),
            STATISTICS => self.statistics(answer),
            // No exception; no temperature is known.
            _ => parameter(0, &[0, 0, 0xFF, 0xFF], answer),
        }
        cut_to_parameter(cdb.u16(5), page, answer)?;
        let len = answer.len() as u16 - 4;
        answer[2..4].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }

    /// General statistics and performance (SPC-4 §7.3.8): counts; times are not kept.
    fn statistics(&self, answer: &mut Vec<u8>) {
        let mut bytes = [0; 64];
        let values = [self.reads, self.writes, self.blocks_written, self.blocks_read];
        for (place, value) in bytes.chunks_exact_mut(8).zip(values) {
            place.copy_from_slice(&value.to_be_bytes());
        }
        parameter(1, &bytes, answer);
    }
}

/// Leaves only parameters from PARAMETER POINTER on; one beyond the last is refused.
fn cut_to_parameter(pointer: u16, page: u8, answer: &mut Vec<u8>) -> Result<(), Sense> {
    if pointer == 0 {
        return Ok(());
    }
    let mut at = 4;
    while page != SUPPORTED && at + 4 <= answer.len() {
        if u16::from_be_bytes([answer[at], answer[at + 1]]) >= pointer {
            answer.drain(4..at);
            return Ok(());
        }
        at += 4 + usize::from(answer[at + 3]);
    }
    Err(Sense::cdb(5, 7))
}

/// One log parameter: a binary list, not saved.
fn parameter(code: u16, value: &[u8], answer: &mut Vec<u8>) {
    answer.extend_from_slice(&code.to_be_bytes());
    answer.extend_from_slice(&[0x03, value.len() as u8]);
    answer.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(counters: &Counters, cdb: [u8; 4]) -> Result<Vec<u8>, Sense> {
        let mut answer = Vec::new();
        let [code, subpage, high, low] = cdb;
        counters.log_sense(&Cdb::new(&[0x4D, 0, code, subpage, 0, high, low]), &mut answer).map(|()| answer)
    }

    #[test]
    fn pages() {
        let mut counters = Counters::default();
        counters.count_read(8);
        counters.count_write(3);
        counters.count_write(3);
        let lists = page(&counters, [0x40, 0, 0, 0]).unwrap();
        assert_eq!(lists, [0, 0, 0, 5, 0, 2, 3, 0x19, 0x2F]);
        let lists = page(&counters, [0x40, 0xFF, 0, 0]).unwrap();
        assert_eq!(lists, [0x40, 0xFF, 0, 12, 0, 0, 0, 0xFF, 2, 0, 3, 0, 0x19, 0, 0x2F, 0]);
        let statistics = page(&counters, [0x59, 0, 0, 0]).unwrap();
        assert_eq!(statistics[..8], [0x19, 0, 0, 68, 0, 1, 3, 64]);
        let value = |at: usize| u64::from_be_bytes(*statistics[8 + at..].first_chunk().unwrap());
        assert_eq!([value(0), value(8), value(16), value(24)], [1, 2, 6, 8]);
        assert_eq!(page(&counters, [0x6F, 0, 0, 0]).unwrap()[4..], [0, 0, 3, 4, 0, 0, 0xFF, 0xFF]);
    }

    #[test]
    fn failures_are_counted_by_kind() {
        let mut counters = Counters::default();
        for asc in [Asc::WRITE_ERROR, Asc::UNRECOVERED_READ_ERROR, Asc::UNRECOVERED_READ_ERROR] {
            counters.count_failure(&Reply::good(false).refused(Sense::new(SenseKey::MediumError, asc)));
        }
        counters.count_failure(&Reply::good(false));
        assert_eq!((counters.write_errors, counters.read_errors), (1, 2));
        assert_eq!(page(&counters, [0x43, 0, 0, 0]).unwrap()[4..], [0, 6, 3, 8, 0, 0, 0, 0, 0, 0, 0, 2]);
    }

    #[test]
    fn what_log_sense_refuses() {
        let counters = Counters::default();
        assert_eq!(page(&counters, [0x00, 0, 0, 0]), Err(Sense::cdb(2, 7)));
        assert_eq!(page(&counters, [0x7E, 0, 0, 0]), Err(Sense::cdb(2, 5)));
        assert_eq!(page(&counters, [0x42, 0xFF, 0, 0]), Err(Sense::cdb(3, 7)));
        assert_eq!(page(&counters, [0x42, 0, 0, 7]), Err(Sense::cdb(5, 7)));
        assert_eq!(page(&counters, [0x42, 0, 0, 6]).unwrap().len(), 16);
        assert_eq!(page(&counters, [0x40, 0, 0, 1]), Err(Sense::cdb(5, 7)));
    }
}
