//! Entries of the FDB as people see them: what kind, why, and which of them are meant.

use crate::types::{PortId, UnicastMac, Vlan};

/// What an entry does when its station sends from another port, and when it is silent.
///
/// | kind      | ages | a frame with its source from another port | evicted when the FDB is full | counts to the MAC limit |
/// |-----------|------|-------------------------------------------|------------------------------|-------------------------|
/// | `Learned` | yes  | moves it                                  | yes                          | yes                     |
/// | `Dynamic` | yes  | moves it; it is `Learned` then            | no                           | no                      |
/// | `Static`  | no   | is dropped ([`crate::DropReason::SourceTaken`]) | no                     | no                      |
/// | `Sticky`  | no   | is forwarded, and changes nothing         | no                           | no                      |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// From a frame's source.
    Learned = 0,
    /// Placed from outside, as if its station had just sent.
    Dynamic = 1,
    /// Placed from outside; nobody else may use the address.
    Static = 2,
    /// Placed from outside; others may use the address, but are not reached by it.
    Sticky = 3,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Learned, Self::Dynamic, Self::Static, Self::Sticky];

    /// True if such an entry is forgotten when its station is silent, and moves when it is seen elsewhere.
    #[inline]
    #[must_use]
    pub const fn ages(self) -> bool {
        matches!(self, Self::Learned | Self::Dynamic)
    }

    /// The name that users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Dynamic => "dynamic",
            Self::Static => "static",
            Self::Sticky => "sticky",
        }
    }

    /// The kind whose number the two lowest bits are.
    #[inline]
    pub(crate) const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Learned,
            1 => Self::Dynamic,
            2 => Self::Static,
            _ => Self::Sticky,
        }
    }
}

/// Why an entry is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Origin {
    /// Its station sent a frame.
    Frame = 0,
    /// The configuration names it.
    Configuration = 1,
    /// The operator asked for it while the switch ran.
    Operator = 2,
    /// The guest behind the port did: by its receive filter or its control queue.
    Guest = 3,
}

impl Origin {
    /// Every origin.
    pub const ALL: [Self; 4] = [Self::Frame, Self::Configuration, Self::Operator, Self::Guest];

    /// The name that users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Configuration => "configuration",
            Self::Operator => "operator",
            Self::Guest => "guest",
        }
    }

    /// The origin whose number the two lowest bits are.
    pub(crate) const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Frame,
            1 => Self::Configuration,
            2 => Self::Operator,
            _ => Self::Guest,
        }
    }
}

/// One entry of the FDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// The station.
    pub mac: UnicastMac,
    /// The VLAN that the entry is for; `None` where the switch knows no VLANs.
    pub vlan: Option<Vlan>,
    /// The port that the station is behind.
    pub port: PortId,
    /// Milliseconds since the station sent, a second more or less; zero for kinds that do not age.
    pub age_ms: u64,
    /// What it does.
    pub kind: EntryKind,
    /// Why it is there.
    pub origin: Origin,
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryKinds(u8);

impl EntryKinds {
    /// Learned and dynamic ones: those that ageing would take.
    pub const AGEING: Self = Self(1 << EntryKind::Learned as u8 | 1 << EntryKind::Dynamic as u8);
    /// All.
    pub const ALL: Self = Self(0xf);

    /// Whether the kind is among them.
    #[must_use]
    pub const fn contains(self, kind: EntryKind) -> bool {
        self.0 >> kind as u8 & 1 != 0
    }
}

impl FromIterator<EntryKind> for EntryKinds {
    fn from_iter<T: IntoIterator<Item = EntryKind>>(kinds: T) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | 1 << kind as u8))
    }
}

/// Which entries [`crate::Bridge::flush`] removes: those for which everything said here is true. Where it says
/// nothing, it means all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// Behind this port.
    pub port: Option<PortId>,
    /// In this VLAN.
    pub vlan: Option<Vlan>,
    /// For this address.
    pub mac: Option<UnicastMac>,
    /// Of one of these kinds.
    pub kinds: EntryKinds,
    /// Those of the configuration and of guests as well: whoever placed them may count on them.
    pub owned: bool,
}

impl Default for Flush {
    /// All entries that age.
    fn default() -> Self {
        Self { port: None, vlan: None, mac: None, kinds: EntryKinds::AGEING, owned: true }
    }
}

impl Flush {
    /// Whether an entry is meant.
    #[must_use]
    pub fn wants(&self, entry: &FdbEntry) -> bool {
        self.kinds.contains(entry.kind)
            && self.port.is_none_or(|wanted| wanted == entry.port)
            && self.vlan.is_none_or(|wanted| entry.vlan == Some(wanted))
            && self.mac.is_none_or(|wanted| wanted == entry.mac)
            && (self.owned || !matches!(entry.origin, Origin::Configuration | Origin::Guest))
    }
}
