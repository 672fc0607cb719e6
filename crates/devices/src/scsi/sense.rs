//! Sense data: why a command ended as it did (SPC-4 §4.5).

/// Bytes of the longest sense data made here: descriptor format with INFORMATION and sense key specific data.
pub const SENSE_LEN_MAX: usize = 28;

/// What kind of condition it is (SPC-4 §4.5.6, table 43).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to say.
    NoSense = 0x0,
    /// The unit cannot be reached.
    NotReady = 0x2,
    /// The medium failed.
    MediumError = 0x3,
    /// The device failed.
    HardwareError = 0x4,
    /// A field of the CDB or of the parameter list is not accepted.
    IllegalRequest = 0x5,
    /// Something changed behind the initiator's back.
    UnitAttention = 0x6,
    /// The medium must not be written.
    DataProtect = 0x7,
    /// The device gave the command up.
    AbortedCommand = 0xB,
    /// Data of the initiator and of the medium differ.
    Miscompare = 0xE,
}

/// Additional sense code and its qualifier, `ASC << 8 | ASCQ` (SPC-4 annex F).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Asc(pub u16);

impl Asc {
    /// No additional sense information.
    pub const NONE: Self = Self(0x0000);
    /// Logical unit not ready, initializing command required.
    pub const INITIALIZING_COMMAND_REQUIRED: Self = Self(0x0402);
    /// Write error.
    pub const WRITE_ERROR: Self = Self(0x0C00);
    /// Unrecovered read error.
    pub const UNRECOVERED_READ_ERROR: Self = Self(0x1100);
    /// Parameter list length error.
    pub const PARAMETER_LIST_LENGTH_ERROR: Self = Self(0x1A00);
    /// Miscompare during verify operation.
    pub const MISCOMPARE_DURING_VERIFY: Self = Self(0x1D00);
    /// Invalid command operation code.
    pub const INVALID_OPERATION_CODE: Self = Self(0x2000);
    /// Logical block address out of range.
    pub const LBA_OUT_OF_RANGE: Self = Self(0x2100);
    /// Invalid field in CDB.
    pub const INVALID_FIELD_IN_CDB: Self = Self(0x2400);
    /// Logical unit not supported.
    pub const LOGICAL_UNIT_NOT_SUPPORTED: Self = Self(0x2500);
    /// Invalid field in parameter list.
    pub const INVALID_FIELD_IN_PARAMETER_LIST: Self = Self(0x2600);
    /// Invalid release of persistent reservation.
    pub const INVALID_RELEASE: Self = Self(0x2604);
    /// Write protected.
    pub const WRITE_PROTECTED: Self = Self(0x2700);
    /// Logical unit software write protected.
    pub const SOFTWARE_WRITE_PROTECTED: Self = Self(0x2702);
    /// Space allocation failed write protect.
    pub const SPACE_ALLOCATION_FAILED: Self = Self(0x2707);
    /// Power on, reset, or bus device reset occurred.
    pub const RESET_OCCURRED: Self = Self(0x2900);
    /// Power on occurred.
    pub const POWER_ON: Self = Self(0x2901);
    /// Bus device reset function occurred.
    pub const DEVICE_RESET: Self = Self(0x2903);
    /// I_T nexus loss occurred.
    pub const NEXUS_LOSS: Self = Self(0x2907);
    /// Mode parameters changed.
    pub const MODE_PARAMETERS_CHANGED: Self = Self(0x2A01);
    /// Reservations preempted.
    pub const RESERVATIONS_PREEMPTED: Self = Self(0x2A03);
    /// Reservations released.
    pub const RESERVATIONS_RELEASED: Self = Self(0x2A04);
    /// Registrations preempted.
    pub const REGISTRATIONS_PREEMPTED: Self = Self(0x2A05);
    /// Capacity data has changed.
    pub const CAPACITY_CHANGED: Self = Self(0x2A09);
    /// Commands cleared by another initiator.
    pub const COMMANDS_CLEARED: Self = Self(0x2F00);
    /// Saving parameters not supported.
    pub const SAVING_NOT_SUPPORTED: Self = Self(0x3900);
    /// Inquiry data has changed.
    pub const INQUIRY_CHANGED: Self = Self(0x3F03);
    /// Reported LUNs data has changed.
    pub const LUNS_CHANGED: Self = Self(0x3F0E);
    /// Internal target failure.
    pub const INTERNAL_TARGET_FAILURE: Self = Self(0x4400);
    /// Insufficient registration resources.
    pub const INSUFFICIENT_REGISTRATIONS: Self = Self(0x5504);

    /// The code.
    pub const fn code(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The qualifier.
    pub const fn qualifier(self) -> u8 {
        self.0 as u8
    }
}

/// Which field was not accepted (SPC-4 §4.5.2.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FieldPointer {
    /// In the CDB, else in the parameter list.
    pub in_cdb: bool,
    /// Its first byte.
    pub byte: u16,
    /// Its most significant bit in that byte; `None` when the whole byte is meant.
    pub bit: Option<u8>,
}

/// Sense data as values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sense {
    /// Sense key.
    pub key: SenseKey,
    /// Additional sense code and qualifier.
    pub asc: Asc,
    /// INFORMATION: the logical block in question, or the first differing byte of a compare.
    pub information: Option<u64>,
    /// The field at fault, with ILLEGAL REQUEST.
    pub field: Option<FieldPointer>,
}

impl Sense {
    /// Nothing to report.
    pub const NONE: Self = Self::new(SenseKey::NoSense, Asc::NONE);

    /// Sense without details.
    pub const fn new(key: SenseKey, asc: Asc) -> Self {
        Self { key, asc, information: None, field: None }
    }

    /// ILLEGAL REQUEST without a field.
    pub const fn illegal(asc: Asc) -> Self {
        Self::new(SenseKey::IllegalRequest, asc)
    }

    /// A byte of the CDB, from its `bit` down, is not accepted.
    pub const fn cdb(byte: u16, bit: u8) -> Self {
        Self::illegal(Asc::INVALID_FIELD_IN_CDB).pointing(true, byte, Some(bit))
    }

    /// A field of the parameter list that begins at `byte` is not accepted.
    pub const fn parameter(byte: u16) -> Self {
        Self::illegal(Asc::INVALID_FIELD_IN_PARAMETER_LIST).pointing(false, byte, None)
    }

    /// A byte of the parameter list, from its `bit` down, is not accepted.
    pub const fn parameter_bit(byte: u16, bit: u8) -> Self {
        Self::illegal(Asc::INVALID_FIELD_IN_PARAMETER_LIST).pointing(false, byte, Some(bit))
    }

    /// UNIT ATTENTION.
    pub const fn attention(asc: Asc) -> Self {
        Self::new(SenseKey::UnitAttention, asc)
    }

    /// The same with INFORMATION.
    pub const fn at(self, information: u64) -> Self {
        Self { information: Some(information), ..self }
    }

    /// The same with a field pointer.
    pub const fn pointing(self, in_cdb: bool, byte: u16, bit: Option<u8>) -> Self {
        Self { field: Some(FieldPointer { in_cdb, byte, bit }), ..self }
    }

    /// The bytes and how many of them are meant: 18 in fixed format, 8 to 28 in descriptor format.
    ///
    /// In fixed format INFORMATION has 32 bits; what does not fit is left out with VALID zero (SPC-4 §4.5.3).
    pub fn bytes(&self, descriptor_format: bool) -> ([u8; SENSE_LEN_MAX], usize) {
        let mut bytes = [0; SENSE_LEN_MAX];
        let len =
            if descriptor_format { self.put_descriptors(&mut bytes) } else { self.put_fixed(&mut bytes) };
        (bytes, len)
    }

    fn put_fixed(&self, bytes: &mut [u8; SENSE_LEN_MAX]) -> usize {
        bytes[0] = 0x70;
        bytes[2] = self.key as u8;
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[7] = 10;
        bytes[12..14].copy_from_slice(&self.asc.0.to_be_bytes());
        if let Some(field) = self.field {
            bytes[15..18].copy_from_slice(&field.bytes());
        }
        18
    }

    fn put_descriptors(&self, bytes: &mut [u8; SENSE_LEN_MAX]) -> usize {
        bytes[0] = 0x72;
        bytes[1] = self.key as u8;
        bytes[2..4].copy_from_slice(&self.asc.0.to_be_bytes());
        let mut len = 8;
        if let Some(information) = self.information {
            bytes[len..len + 3].copy_from_slice(&[0, 10, 0x80]);
            bytes[len + 4..len + 12].copy_from_slice(&information.to_be_bytes());
            len += 12;
        }
        if let Some(field) = self.field {
            bytes[len..len + 2].copy_from_slice(&[2, 6]);
            bytes[len + 4..len + 7].copy_from_slice(&field.bytes());
            len += 8;
        }
        bytes[7] = (len - 8) as u8;
        len
    }
}

impl FieldPointer {
    fn bytes(&self) -> [u8; 3] {
        let bit = self.bit.map_or(0, |bit| 0x08 | bit & 7);
        let [high, low] = self.byte.to_be_bytes();
        [0x80 | if self.in_cdb { 0x40 } else { 0 } | bit, high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_format() {
        let (bytes, len) = Sense::cdb(2, 7).bytes(false);
        assert_eq!(len, 18);
        let expected = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xCF, 0, 2];
        assert_eq!(bytes[..18], expected);
        let (bytes, _) =
            Sense::new(SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR).at(0x0102_0304).bytes(false);
        assert_eq!(bytes[..8], [0xF0, 0, 3, 1, 2, 3, 4, 10]);
    }

    #[test]
    fn information_beyond_32_bits_needs_descriptors() {
        let sense = Sense::new(SenseKey::MediumError, Asc::WRITE_ERROR).at(1 << 32);
        assert_eq!(sense.bytes(false).0[..7], [0x70, 0, 3, 0, 0, 0, 0]);
        let (bytes, len) = sense.bytes(true);
        assert_eq!(bytes[..len], [0x72, 3, 0x0C, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn descriptors_of_all_kinds_fit() {
        let (bytes, len) = Sense::parameter(0x0102).at(7).bytes(true);
        assert_eq!((len, bytes[7]), (SENSE_LEN_MAX, 20));
        assert_eq!(bytes[20..28], [2, 6, 0, 0, 0x80, 1, 2, 0]);
        assert_eq!(Sense::parameter_bit(1, 3).bytes(true).0[12], 0x8B);
        assert_eq!(Sense::NONE.bytes(true).1, 8);
    }
}
