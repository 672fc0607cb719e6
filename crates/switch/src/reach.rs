//! Which ports a frame to many goes to.

use crate::groups::Listeners;
use crate::table::{Flags, PortTable};
use crate::types::{PortId, Vlan};

/// The ports that get a frame with the verdict [`crate::Verdict::Flood`].
pub struct Reach<'v> {
    pub(crate) table: &'v PortTable,
    pub(crate) vlan: Option<Vlan>,
    /// What a port must have.
    pub(crate) required: Flags,
    /// What it must not have.
    pub(crate) forbidden: Flags,
    pub(crate) except: Option<PortId>,
    /// Nobody but these.
    pub(crate) only: Option<Listeners<'v>>,
}

impl Reach<'_> {
    /// Whether the frame goes to this port; false for the one it came from, unless that has hairpin on.
    #[inline]
    #[must_use]
    pub fn takes(&self, out_port: PortId) -> bool {
        let slot = self.table.slot(out_port);
        slot.flags.has(self.required)
            && slot.flags.lacks(self.forbidden)
            && self.except != Some(out_port)
            && slot.carries(self.vlan)
            && self.only.is_none_or(|ports| ports.takes(out_port))
    }

    /// Why [`Self::takes`] says no, if it does.
    pub(crate) fn refusal(&self, out_port: PortId) -> Option<&'static str> {
        let slot = self.table.slot(out_port);
        if self.takes(out_port) {
            None
        } else if self.except == Some(out_port) {
            Some("it came from there")
        } else if !slot.flags.has(Flags::OPEN) {
            Some("the port is disabled or shut")
        } else if !slot.carries(self.vlan) {
            Some("the port is not in the VLAN")
        } else if !slot.flags.lacks(self.forbidden) {
            Some("both ports are isolated")
        } else if !slot.flags.has(self.required) {
            Some("the port does not take such frames")
        } else {
            Some("no listener and no router is there")
        }
    }
}
