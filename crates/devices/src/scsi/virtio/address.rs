//! Whom a request addresses: the eight bytes of its `lun` field (virtio 1.3 §5.6.6.1).

/// A request's addressee.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Address {
    /// A logical unit, that there may be or not.
    Unit {
        /// Its target.
        target: u8,
        /// Its number, below 16384.
        lun: u16,
    },
    /// The REPORT LUNS well known logical unit of one target.
    TargetReportLuns {
        /// The target.
        target: u8,
    },
    /// The REPORT LUNS well known logical unit of the whole device.
    ReportLuns,
}

impl Address {
    /// The addressee; `None` for bytes that have no meaning.
    ///
    /// The single-level number in the third and fourth byte may be in peripheral device or in flat space addressing
    /// (SAM-5 §4.7.7): drivers send either.
    pub fn parse(bytes: &[u8; 8]) -> Option<Self> {
        match *bytes {
            [0xC1, 0x01, 0, 0, 0, 0, 0, 0] => Some(Self::ReportLuns),
            [1, target, 0xC1, 0x01, 0, 0, 0, 0] => Some(Self::TargetReportLuns { target }),
            [1, target, high, low, 0, 0, 0, 0] if high == 0 || high >> 6 == 1 => {
                Some(Self::Unit { target, lun: u16::from_be_bytes([high & 0x3F, low]) })
            }
            _ => None,
        }
    }

    /// The bytes, in flat space addressing: as events and the list of all units name a unit.
    pub fn bytes(self) -> [u8; 8] {
        match self {
            Self::Unit { target, lun } => {
                let [high, low] = lun.to_be_bytes();
                [1, target, 0x40 | high & 0x3F, low, 0, 0, 0, 0]
            }
            Self::TargetReportLuns { target } => [1, target, 0xC1, 0x01, 0, 0, 0, 0],
            Self::ReportLuns => [0xC1, 0x01, 0, 0, 0, 0, 0, 0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_number_are_understood() {
        let unit = |target, lun| Some(Address::Unit { target, lun });
        assert_eq!(Address::parse(&[1, 9, 0, 200, 0, 0, 0, 0]), unit(9, 200));
        assert_eq!(Address::parse(&[1, 9, 0x40, 200, 0, 0, 0, 0]), unit(9, 200));
        assert_eq!(Address::parse(&[1, 9, 0x7F, 0xFF, 0, 0, 0, 0]), unit(9, 16383));
        assert_eq!(Address::parse(&[0xC1, 1, 0, 0, 0, 0, 0, 0]), Some(Address::ReportLuns));
    }

    #[test]
    fn other_bytes_address_nobody() {
        for bytes in [
            [0, 9, 0x40, 0, 0, 0, 0, 0],
            [2, 9, 0x40, 0, 0, 0, 0, 0],
            [1, 9, 0x40, 0, 0, 0, 0, 1],
            [1, 9, 0x01, 0, 0, 0, 0, 0],
            [1, 9, 0x80, 0, 0, 0, 0, 0],
            [1, 9, 0xC1, 0x02, 0, 0, 0, 0],
            [0xC1, 0x02, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(Address::parse(&bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let target = 3;
        for address in [
            Address::Unit { target, lun: 0 },
            Address::Unit { target, lun: 255 },
            Address::Unit { target, lun: 16383 },
            Address::TargetReportLuns { target },
            Address::ReportLuns,
        ] {
            assert_eq!(Address::parse(&address.bytes()), Some(address));
        }
    }
}
