//! What a unit is called: INQUIRY data and the names that stay the same for ever.

/// Bytes of the longest unit serial number.
pub const UNIT_SERIAL_LEN_MAX: usize = 36;

/// The names of one logical unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    vendor: [u8; 8],
    product: [u8; 16],
    revision: [u8; 4],
    serial: Vec<u8>,
    naa: u64,
}

impl Identity {
    /// Names made from `serial`, which the operator gave, or from the unit's `name` where that is empty: the same as long as
    /// these stay the same, and different where they differ. Characters that are not printable ASCII become `_`; of the serial number
    /// the first [`UNIT_SERIAL_LEN_MAX`] are shown, and all of them count for the rest.
    pub fn new(name: &str, serial: &str) -> Self {
        let base = if serial.is_empty() { name } else { serial };
        let printable = |byte: u8| if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'_' };
        Self {
            vendor: *b"RINGWAY ",
            product: *b"VIRTUAL DISK    ",
            revision: *b"0001",
            serial: base.bytes().take(UNIT_SERIAL_LEN_MAX).map(printable).collect(),
            naa: locally_assigned(base.as_bytes()),
        }
    }

    /// T10 VENDOR IDENTIFICATION.
    pub fn vendor(&self) -> &[u8; 8] {
        &self.vendor
    }

    /// PRODUCT IDENTIFICATION.
    pub fn product(&self) -> &[u8; 16] {
        &self.product
    }

    /// PRODUCT REVISION LEVEL.
    pub fn revision(&self) -> &[u8; 4] {
        &self.revision
    }

    /// PRODUCT SERIAL NUMBER.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The NAA name, locally assigned.
    pub fn naa(&self) -> u64 {
        self.naa
    }
}

/// An NAA locally assigned name (NAA 3h and 60 bits, SPC-4 §7.8.6.6.4) for some bytes: FNV-1a, and a last mix so that short
/// inputs that differ in one byte differ in many bits.
pub fn locally_assigned(bytes: &[u8]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    hash = (hash ^ hash >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    3 << 60 | (hash ^ hash >> 29) >> 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable() {
        let unit = Identity::new("store/0", "");
        assert_eq!((unit.serial(), unit.naa()), (&b"store/0"[..], Identity::new("other", "store/0").naa()));
        // These must never change: guests find their disks by them.
        assert_eq!(unit.naa(), KNOWN);
        assert_ne!(unit.naa(), Identity::new("store/1", "").naa());
        assert_eq!(unit.naa() >> 60, 3);
        let long = "ä".repeat(30);
        assert_eq!(Identity::new("", &long).serial(), [b'_'; UNIT_SERIAL_LEN_MAX]);
    }

    const KNOWN: u64 = 0x36A1_F7A4_F68C_0733;
}
