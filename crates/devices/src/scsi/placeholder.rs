//! Commands to an address behind which there is no disk: a logical unit number that no unit has, or the well known logical unit
//! that lists all others (SPC-4 §5.8, §8.3).

use super::inquiry::{self, Placeholder};
use super::opcode::{Cdb, Op};
use super::reply::Reply;
use super::report;
use super::sense::{Asc, Sense};
use super::status::Refusal;

/// Answers a command to a logical unit number of an existing target that no unit has. `luns` are those that there are.
///
/// INQUIRY says that nothing is here, REPORT LUNS says what is elsewhere, REQUEST SENSE and every other command that LOGICAL UNIT NOT
/// SUPPORTED.
pub fn missing_unit(cdb: &Cdb, data_in_len: u64, luns: &[u16], answer: &mut Vec<u8>) -> Reply {
    reply(cdb, data_in_len, answer, |op, answer| match op {
        Some(Op::Inquiry) => {
            inquiry::placeholder(cdb, Placeholder::Nothing, answer).map(|()| cdb.u16(3).into())
        }
        Some(Op::ReportLuns) => report::luns(cdb, luns, answer).map(|()| cdb.u32(6).into()),
        Some(Op::RequestSense) => Ok(put_sense(cdb, Sense::illegal(Asc::LOGICAL_UNIT_NOT_SUPPORTED), answer)),
        _ => Err(Sense::illegal(Asc::LOGICAL_UNIT_NOT_SUPPORTED)),
    })
}

/// Answers a command to the REPORT LUNS well known logical unit. `entries` are the units that it lists, each by eight bytes that
/// address it.
pub fn report_luns_unit(
    cdb: &Cdb,
    data_in_len: u64,
    entries: impl Iterator<Item = [u8; 8]>,
    answer: &mut Vec<u8>,
) -> Reply {
    reply(cdb, data_in_len, answer, |op, answer| match op {
        Some(Op::Inquiry) => {
            inquiry::placeholder(cdb, Placeholder::ReportLuns, answer).map(|()| cdb.u16(3).into())
        }
        Some(Op::ReportLuns) => {
            let (units, _) = report::select(cdb)?;
            report::lun_list(entries.filter(|_| units), answer);
            Ok(cdb.u32(6).into())
        }
        Some(Op::RequestSense) => Ok(put_sense(cdb, Sense::NONE, answer)),
        Some(Op::TestUnitReady) => Ok(0),
        _ => Err(Sense::illegal(Asc::INVALID_OPERATION_CODE)),
    })
}

fn put_sense(cdb: &Cdb, sense: Sense, answer: &mut Vec<u8>) -> u64 {
    let (bytes, len) = sense.bytes(cdb.has(1, 0x01));
    answer.extend_from_slice(&bytes[..len]);
    cdb.u8(4).into()
}

/// Decodes, answers, and cuts to the allocation length that `handle` returns.
fn reply(
    cdb: &Cdb,
    data_in_len: u64,
    answer: &mut Vec<u8>,
    handle: impl FnOnce(Option<Op>, &mut Vec<u8>) -> Result<u64, Sense>,
) -> Reply {
    answer.clear();
    let allocation = match cdb.decode() {
        Ok(opcode) => handle(Some(opcode.op), answer),
        // Of a command that would be answered, the field at fault is named; else that there is no unit.
        Err(sense) if matches!(cdb.u8(0), 0x03 | 0x12 | 0xA0) => Err(sense),
        Err(_) => handle(None, answer),
    };
    let refusal = match allocation {
        Ok(allocation) if allocation <= data_in_len => {
            answer.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
            return Reply { data_in: answer.len() as u64, ..Reply::good(false) };
        }
        Ok(_) => Refusal::Overrun,
        Err(sense) => Refusal::Sense(sense),
    };
    answer.clear();
    Reply::of_refusal(refusal, false)
}

#[cfg(test)]
mod tests {
    use super::super::status::Status;
    use super::*;

    #[test]
    fn a_number_without_a_unit() {
        let mut answer = Vec::new();
        let reply = missing_unit(&Cdb::new(&[0x12, 0, 0, 0, 36]), 36, &[], &mut answer);
        assert_eq!(
            (reply.status, reply.data_in, answer.len(), answer[0]),
            (Some(Status::Good), 36, 36, 0x7F)
        );
        let reply = missing_unit(&Cdb::new(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64]), 64, &[0, 300], &mut answer);
        assert_eq!(reply.data_in, 24);
        assert_eq!(answer[..8], [0, 0, 0, 16, 0, 0, 0, 0]);
        assert_eq!(answer[16..], [0x41, 0x2C, 0, 0, 0, 0, 0, 0]);
        let not_supported = Sense::illegal(Asc::LOGICAL_UNIT_NOT_SUPPORTED);
        for cdb in [&[0x00][..], &[0x28], &[0xFF]] {
            let reply = missing_unit(&Cdb::new(cdb), 0, &[], &mut answer);
            assert_eq!((reply.sense, answer.len()), (Some(not_supported), 0));
        }
        let reply = missing_unit(&Cdb::new(&[0x03, 0, 0, 0, 252]), 252, &[], &mut answer);
        assert_eq!((reply.sense, answer.len(), answer[2], answer[12]), (None, 18, 5, 0x25));
        let reply = missing_unit(&Cdb::new(&[0x12, 0, 0, 0, 36]), 35, &[], &mut answer);
        assert_eq!((reply.status, answer.len()), (None, 0));
    }

    #[test]
    fn the_well_known_unit_lists_what_it_is_given() {
        let mut answer = Vec::new();
        let entries = [[1, 7, 0x40, 2, 0, 0, 0, 0], [1, 8, 0x40, 0, 0, 0, 0, 0]];
        let list = |select, answer: &mut Vec<u8>| {
            let cdb = Cdb::new(&[0xA0, 0, select, 0, 0, 0, 0, 0, 0, 64]);
            report_luns_unit(&cdb, 64, entries.into_iter(), answer)
        };
        assert_eq!(list(0, &mut answer).data_in, 24);
        assert_eq!(answer[8..16], entries[0]);
        assert_eq!(list(0x10, &mut answer).data_in, 8);
        assert_eq!(list(0x20, &mut answer).sense, Some(Sense::cdb(2, 7)));
        let reply = report_luns_unit(&Cdb::new(&[0x28]), 0, entries.into_iter(), &mut answer);
        assert_eq!(reply.sense, Some(Sense::illegal(Asc::INVALID_OPERATION_CODE)));
        let reply = report_luns_unit(&Cdb::new(&[0]), 0, entries.into_iter(), &mut answer);
        assert_eq!(reply.status, Some(Status::Good));
    }
}
