//! What the requests of one driver are judged by.

use super::config::SECTOR;
use super::features::{Acknowledged, Features, Offered};
use super::request::{Lifetime, RequestType};
use crate::storage::{Limits, Serial, Shape};
use virtqueue::Endian;

/// What [`begin`](super::begin) has to know of the device and of what its driver acknowledged. A plain value, made anew when something of
/// it changes: a resize, another cache mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    acknowledged: Acknowledged,
    pub(super) endian: Endian,
    /// Bytes, whole sectors.
    pub(super) capacity: u64,
    pub(super) read_only: bool,
    can_flush: bool,
    pub(super) through: bool,
    pub(super) discard: Option<Limits>,
    pub(super) zero: Option<Limits>,
    pub(super) secure_erase: Option<Limits>,
    pub(super) serial: Serial,
    pub(super) lifetime: Lifetime,
}

impl Rules {
    /// For a driver that acknowledged `acknowledged` of `offered`. `endian` is the byte order of a legacy driver; one with VERSION_1 is
    /// little-endian whatever it says. `through`: see [`WriteCache::through`](super::WriteCache::through).
    pub fn new(
        offered: Offered,
        acknowledged: Acknowledged,
        endian: Endian,
        shape: &Shape,
        through: bool,
    ) -> Self {
        let modern = acknowledged.has(Features::VERSION_1);
        Self {
            acknowledged,
            endian: if modern { Endian::Little } else { endian },
            capacity: shape.capacity / SECTOR * SECTOR,
            read_only: shape.read_only || offered.has(Features::RO),
            can_flush: offered.has(Features::FLUSH),
            through,
            discard: shape.discard,
            zero: shape.zero,
            secure_erase: shape.secure_erase,
            serial: shape.serial,
            lifetime: Lifetime::default(),
        }
    }

    /// The same, with what [`RequestType::GetLifetime`] answers.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Lifetime) -> Self {
        Self { lifetime, ..self }
    }

    /// Whether a request of this type is one that the driver negotiated. A flush is taken whenever it was offered: legacy drivers send
    /// one without having acknowledged it (virtio 1.3 §5.2.6.3).
    pub(super) fn takes(&self, kind: RequestType) -> bool {
        match kind {
            RequestType::In | RequestType::Out | RequestType::GetId => true,
            RequestType::Flush => self.can_flush,
            RequestType::GetLifetime => self.acknowledged.has(Features::LIFETIME),
            RequestType::Discard => self.acknowledged.has(Features::DISCARD),
            RequestType::WriteZeroes => self.acknowledged.has(Features::WRITE_ZEROES),
            RequestType::SecureErase => self.acknowledged.has(Features::SECURE_ERASE),
            RequestType::ZoneAppend
            | RequestType::ZoneReport
            | RequestType::ZoneOpen
            | RequestType::ZoneClose
            | RequestType::ZoneFinish
            | RequestType::ZoneReset
            | RequestType::ZoneResetAll => self.acknowledged.has(Features::ZONED),
        }
    }

    /// Whether the disk may be asked for this: a read-only one is asked for nothing that changes it.
    pub(super) fn permits(&self, kind: RequestType) -> bool {
        let only_reads = matches!(
            kind,
            RequestType::In
                | RequestType::Flush
                | RequestType::GetId
                | RequestType::GetLifetime
                | RequestType::ZoneReport
        );
        only_reads || !self.read_only
    }
}
