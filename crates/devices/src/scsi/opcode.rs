//! The one table of commands: what is dispatched, what REPORT SUPPORTED OPERATION CODES lists, and which bits of a CDB
//! may be set.

use super::sense::{Asc, Sense};

/// Bytes of the longest CDB that is accepted.
pub const CDB_LEN_MAX: usize = 16;

/// A command by name (SPC-4, SBC-3, SBC-4). Forms of different length that mean the same are one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "each is the standard's name of the command")]
pub enum Op {
    TestUnitReady,
    RequestSense,
    Inquiry,
    ModeSelect,
    ModeSense,
    Reserve,
    Release,
    StartStopUnit,
    PreventAllow,
    ReadCapacity10,
    ReadCapacity16,
    Read,
    Write,
    WriteAndVerify,
    Verify,
    SynchronizeCache,
    WriteSame,
    Unmap,
    LogSense,
    PersistentReserveIn,
    PersistentReserveOut,
    ReportLuns,
    ReportSupportedOperationCodes,
    ReportSupportedTaskManagementFunctions,
    CompareAndWrite,
    WriteAtomic,
    GetLbaStatus,
}

/// What a reservation of another initiator means for a command (SPC-4 §5.12.1 table 66, SBC-3 §4.17 table 13).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Allowed whatever is reserved.
    Always,
    /// Allowed under any persistent reservation, not under RESERVE.
    Query,
    /// Conflicts with the exclusive access types.
    Read,
    /// Conflicts with every type.
    Write,
    /// Allowed where it allows removal, else [`Access::Write`].
    Prevent,
    /// Allowed where it starts the unit, else [`Access::Write`].
    StartStop,
    /// Its own rules decide.
    Own,
}

/// One row: a command in one of its forms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opcode {
    /// What it means.
    pub op: Op,
    /// OPERATION CODE.
    pub code: u8,
    /// SERVICE ACTION, in the low bits of byte 1, for a code that has them.
    pub action: Option<u8>,
    /// CDB usage data (SPC-4 §6.35.3): as long as the CDB, a bit set where the device looks at it. Operation code and service
    /// action stand in it as they are.
    pub usage: &'static [u8],
    /// What reservations do to it.
    pub access: Access,
    /// It needs a unit that is started.
    pub needs_medium: bool,
    /// It changes the medium.
    pub writes: bool,
}

const fn row(op: Op, usage: &'static [u8], access: Access) -> Opcode {
    Opcode { op, code: usage[0], action: None, usage, access, needs_medium: false, writes: false }
}

const fn action(op: Op, usage: &'static [u8], access: Access) -> Opcode {
    Opcode { action: Some(usage[1] & 0x1F), ..row(op, usage, access) }
}

const fn medium(row: Opcode) -> Opcode {
    Opcode { needs_medium: true, ..row }
}

const fn writing(op: Op, usage: &'static [u8]) -> Opcode {
    Opcode { needs_medium: true, writes: true, ..row(op, usage, Access::Write) }
}

const F: u8 = 0xFF;
/// DPO and FUA.
const DF: u8 = 0x18;
/// DPO and BYTCHK.
const DB: u8 = 0x16;
/// GROUP NUMBER: accepted and without meaning.
const G: u8 = 0x3F;

/// Every command, in the order of operation codes and service actions.
pub const OPCODES: &[Opcode] = &[
    medium(row(Op::TestUnitReady, &[0x00, 0, 0, 0, 0, 0], Access::Query)),
    row(Op::RequestSense, &[0x03, 0x01, 0, 0, F, 0], Access::Always),
    medium(row(Op::Read, &[0x08, 0x1F, F, F, F, 0], Access::Read)),
    writing(Op::Write, &[0x0A, 0x1F, F, F, F, 0]),
    row(Op::Inquiry, &[0x12, 0x01, F, F, F, 0], Access::Always),
    row(Op::ModeSelect, &[0x15, 0x10, 0, 0, F, 0], Access::Write),
    row(Op::Reserve, &[0x16, 0, 0, 0, 0, 0], Access::Own),
    row(Op::Release, &[0x17, 0, 0, 0, 0, 0], Access::Own),
    row(Op::ModeSense, &[0x1A, 0x08, F, F, F, 0], Access::Read),
    row(Op::StartStopUnit, &[0x1B, 0x01, 0, 0, 0x05, 0], Access::StartStop),
    row(Op::PreventAllow, &[0x1E, 0, 0, 0, 0x01, 0], Access::Prevent),
    medium(row(Op::ReadCapacity10, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Access::Query)),
    medium(row(Op::Read, &[0x28, DF, F, F, F, F, G, F, F, 0], Access::Read)),
    writing(Op::Write, &[0x2A, DF, F, F, F, F, G, F, F, 0]),
    writing(Op::WriteAndVerify, &[0x2E, DB, F, F, F, F, G, F, F, 0]),
    medium(row(Op::Verify, &[0x2F, DB, F, F, F, F, G, F, F, 0], Access::Read)),
    medium(row(Op::SynchronizeCache, &[0x35, 0x02, F, F, F, F, G, F, F, 0], Access::Write)),
    writing(Op::WriteSame, &[0x41, 0x08, F, F, F, F, G, F, F, 0]),
    writing(Op::Unmap, &[0x42, 0, 0, 0, 0, 0, G, F, F, 0]),
    row(Op::LogSense, &[0x4D, 0, F, F, 0, F, F, F, F, 0], Access::Always),
    row(Op::ModeSelect, &[0x55, 0x10, 0, 0, 0, 0, 0, F, F, 0], Access::Write),
    row(Op::Reserve, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], Access::Own),
    row(Op::Release, &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0], Access::Own),
    row(Op::ModeSense, &[0x5A, 0x18, F, F, 0, 0, 0, F, F, 0], Access::Read),
    action(Op::PersistentReserveIn, &[0x5E, 0x00, 0, 0, 0, 0, 0, F, F, 0], Access::Own),
    action(Op::PersistentReserveIn, &[0x5E, 0x01, 0, 0, 0, 0, 0, F, F, 0], Access::Own),
    action(Op::PersistentReserveIn, &[0x5E, 0x02, 0, 0, 0, 0, 0, F, F, 0], Access::Own),
    action(Op::PersistentReserveIn, &[0x5E, 0x03, 0, 0, 0, 0, 0, F, F, 0], Access::Own),
    action(Op::PersistentReserveOut, &[0x5F, 0x00, F, 0, 0, F, F, F, F, 0], Access::Own),
    action(Op::PersistentReserveOut, &[0x5F, 0x01, F, 0, 0, F, F, F, F, 0], Access::Own),
    action(Op::PersistentReserveOut, &[0x5F, 0x02, F, 0, 0, F, F, F, F, 0], Access::Own),
    action(Op::PersistentReserveOut, &[0x5F, 0x03, F, 0, 0, F, F, F, F, 0], Access::Own),
    action(Op::PersistentReserveOut, &[0x5F, 0x04, F, 0, 0, F, F, F, F, 0], Access::Own),
    action(Op::PersistentReserveOut, &[0x5F, 0x05, F, 0, 0, F, F, F, F, 0], Access::Own),
    action(Op::PersistentReserveOut, &[0x5F, 0x06, F, 0, 0, F, F, F, F, 0], Access::Own),
    action(Op::PersistentReserveOut, &[0x5F, 0x07, F, 0, 0, F, F, F, F, 0], Access::Own),
    medium(row(Op::Read, &[0x88, DF, F, F, F, F, F, F, F, F, F, F, F, F, G, 0], Access::Read)),
    writing(Op::CompareAndWrite, &[0x89, DF, F, F, F, F, F, F, F, F, 0, 0, 0, F, G, 0]),
    writing(Op::Write, &[0x8A, DF, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    writing(Op::WriteAndVerify, &[0x8E, DB, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    medium(row(Op::Verify, &[0x8F, DB, F, F, F, F, F, F, F, F, F, F, F, F, G, 0], Access::Read)),
    medium(row(Op::SynchronizeCache, &[0x91, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, G, 0], Access::Write)),
    writing(Op::WriteSame, &[0x93, 0x09, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    writing(Op::WriteAtomic, &[0x9C, DF, F, F, F, F, F, F, F, F, F, F, F, F, G, 0]),
    medium(action(
        Op::ReadCapacity16,
        &[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0],
        Access::Query,
    )),
    medium(action(Op::GetLbaStatus, &[0x9E, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0], Access::Read)),
    row(Op::ReportLuns, &[0xA0, 0, F, 0, 0, 0, F, F, F, F, 0, 0], Access::Always),
    action(Op::ReportSupportedOperationCodes, &[0xA3, 0x0C, 0x87, F, F, F, F, F, F, F, 0, 0], Access::Read),
    action(
        Op::ReportSupportedTaskManagementFunctions,
        &[0xA3, 0x0D, 0x80, 0, 0, 0, F, F, F, F, 0, 0],
        Access::Read,
    ),
    medium(row(Op::Read, &[0xA8, DF, F, F, F, F, F, F, F, F, G, 0], Access::Read)),
    writing(Op::Write, &[0xAA, DF, F, F, F, F, F, F, F, F, G, 0]),
    writing(Op::WriteAndVerify, &[0xAE, DB, F, F, F, F, F, F, F, F, G, 0]),
    medium(row(Op::Verify, &[0xAF, DB, F, F, F, F, F, F, F, F, G, 0], Access::Read)),
];

/// Where the rows of each operation code begin, for finding one without a search; `NONE` where there are none.
const FIRST: [u8; 256] = {
    let mut first = [NONE; 256];
    let mut index = OPCODES.len();
    while index > 0 {
        index -= 1;
        first[OPCODES[index].code as usize] = index as u8;
    }
    first
};
const NONE: u8 = u8::MAX;

/// The rows of one operation code: several where it has service actions, none where it is not supported.
pub fn rows(code: u8) -> &'static [Opcode] {
    let first = FIRST[usize::from(code)];
    let Some(from) = OPCODES.get(usize::from(first)..) else { return &[] };
    let len = from.iter().take_while(|row| row.code == code).count();
    &from[..len]
}

/// A command descriptor block in private memory, padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cdb([u8; CDB_LEN_MAX]);

impl Cdb {
    /// The first [`CDB_LEN_MAX`] bytes of `bytes`; what is missing reads as zeros.
    pub fn new(bytes: &[u8]) -> Self {
        let mut cdb = [0; CDB_LEN_MAX];
        for (place, byte) in cdb.iter_mut().zip(bytes) {
            *place = *byte;
        }
        Self(cdb)
    }

    /// The row that this CDB asks for.
    ///
    /// # Errors
    /// INVALID COMMAND OPERATION CODE, or INVALID FIELD IN CDB that names the service action, or the most significant bit that
    /// is set where nothing is looked at: reserved, obsolete or of a feature that there is not (SPC-4 §4.3.1 allows to
    /// refuse them).
    pub fn decode(&self) -> Result<&'static Opcode, Sense> {
        let Self(bytes) = self;
        let rows = rows(bytes[0]);
        let opcode = match rows {
            [] => return Err(Sense::illegal(Asc::INVALID_OPERATION_CODE)),
            [row, ..] if row.action.is_none() => row,
            rows => {
                let action = bytes[1] & 0x1F;
                rows.iter().find(|row| row.action == Some(action)).ok_or(Sense::cdb(1, 4))?
            }
        };
        for (at, (&byte, &mask)) in bytes.iter().zip(opcode.usage).enumerate().skip(1) {
            let mask = if at == 1 && opcode.action.is_some() { mask | 0x1F } else { mask };
            let foreign = byte & !mask;
            if foreign != 0 {
                return Err(Sense::cdb(at as u16, 7 - foreign.leading_zeros() as u8));
            }
        }
        Ok(opcode)
    }

    /// A byte.
    pub fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    /// Whether `mask` has a bit in common with a byte.
    pub fn has(&self, at: usize, mask: u8) -> bool {
        self.0[at] & mask != 0
    }

    /// Two bytes, big-endian.
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// Four bytes, big-endian.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    /// Eight bytes, big-endian.
    pub fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }

    /// LOGICAL BLOCK ADDRESS and TRANSFER LENGTH in blocks of a command of the READ family, by the length of its CDB
    /// (SBC-3 §5.11 to §5.15). In six bytes a length of zero means 256.
    pub fn blocks(&self, len: usize) -> (u64, u32) {
        match len {
            6 => {
                (u64::from(self.u32(0) & 0x1F_FFFF), if self.0[4] == 0 { 256 } else { u32::from(self.0[4]) })
            }
            10 => (u64::from(self.u32(2)), u32::from(self.u16(7))),
            12 => (u64::from(self.u32(2)), self.u32(6)),
            _ => (self.u64(2), self.u32(10)),
        }
    }

    /// The byte where TRANSFER LENGTH begins, for a field pointer.
    pub fn length_at(len: usize) -> u16 {
        match len {
            6 => 4,
            10 => 7,
            12 => 6,
            _ => 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_its_masks_are_whole() {
        for pair in OPCODES.windows(2) {
            assert!((pair[0].code, pair[0].action) < (pair[1].code, pair[1].action), "{:?}", pair[1]);
        }
        for row in OPCODES {
            // The group of the code fixes the length (SPC-4 §4.2.5.1).
            let len = [6, 10, 10, 0, 16, 12][usize::from(row.code >> 5)];
            assert_eq!((row.usage.len(), row.usage[len - 1]), (len, 0), "{row:?}");
            assert_eq!(rows(row.code).iter().filter(|other| other.action == row.action).count(), 1);
            assert!(!row.writes || row.access == Access::Write && row.needs_medium);
        }
        assert!(rows(0x7F).is_empty() && rows(0xFF).is_empty() && rows(0x01).is_empty());
    }

    #[test]
    fn what_is_not_in_the_table_is_refused_by_name() {
        assert_eq!(Cdb::new(&[0xC0]).decode(), Err(Sense::illegal(Asc::INVALID_OPERATION_CODE)));
        assert_eq!(Cdb::new(&[0x5E, 4]).decode(), Err(Sense::cdb(1, 4)));
        assert_eq!(Cdb::new(&[0x9E, 0x1F]).decode(), Err(Sense::cdb(1, 4)));
    }

    #[test]
    fn every_bit_outside_of_the_usage_mask_is_named() {
        for row in OPCODES {
            let mut sound = [0; CDB_LEN_MAX];
            (sound[0], sound[1]) = (row.code, row.action.unwrap_or(0));
            assert_eq!(Cdb::new(&sound).decode().unwrap(), row);
            for at in 1..row.usage.len() {
                for bit in 0..8 {
                    let in_action = at == 1 && row.action.is_some() && bit < 5;
                    let allowed = row.usage[at] >> bit & 1 == 1;
                    if in_action || allowed {
                        continue;
                    }
                    let mut bytes = sound;
                    bytes[at] |= 1 << bit;
                    assert_eq!(
                        Cdb::new(&bytes).decode(),
                        Err(Sense::cdb(at as u16, bit)),
                        "{row:?} {at}.{bit}"
                    );
                }
            }
        }
    }

    #[test]
    fn addresses_and_lengths() {
        assert_eq!(Cdb::new(&[8, 0x1F, 2, 3, 0]).blocks(6), (0x1F_0203, 256));
        assert_eq!(Cdb::new(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6]).blocks(10), (0x0102_0304, 0x0506));
        assert_eq!(Cdb::new(&[0xA8, 0, 1, 2, 3, 4, 5, 6, 7, 8]).blocks(12), (0x0102_0304, 0x0506_0708));
        let bytes = [0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        assert_eq!(Cdb::new(&bytes).blocks(16), (0x0102_0304_0506_0708, 0x090A_0B0C));
        assert_eq!(Cdb::length_at(12), 6);
    }
}
