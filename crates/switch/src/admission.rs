//! Whether a port may send a frame: rules 1 to 5 of a decision, as [`crate::view`] lists them.

use std::sync::atomic::Ordering;

use crate::entry::EntryKind;
use crate::fdb::{Hit, Station};
use crate::frame::{Head, Tagging};
use crate::ledger::Learned;
use crate::table::{Flags, PortEntry};
use crate::trace::Witness;
use crate::types::{DropReason, Vlan};
use crate::view::{Admitted, Decision, Ingress, View};

/// Ethertype of MAC control: pause and priority pause (IEEE 802.3 annex 31A), to whatever address.
const MAC_CONTROL: u16 = 0x8808;

impl View<'_> {
    /// Rules 1 to 5.
    #[inline]
    pub(crate) fn admit<W: Witness, const PLAIN: bool>(
        &self,
        ingress: &Ingress<'_, PLAIN>,
        head: &Head<'_>,
        witness: &mut W,
    ) -> Result<Admitted, Decision> {
        // 1
        let port = ingress.port;
        let refusal = if !ingress.has(Flags::MEMBER) {
            Some(DropReason::IngressRemoved)
        } else if !ingress.has(Flags::OPEN) || self.was_shut(ingress) {
            Some(DropReason::PortShut)
        } else {
            None
        };
        if let Some(reason) = refusal {
            witness.note("port", false, || {
                let state =
                    if reason == DropReason::PortShut { "disabled or shut" } else { "not on the switch" };
                format!("port {port} is {state}")
            });
            return Err(Decision::drop(reason));
        }
        witness.note("port", true, || format!("port {port} is open"));
        let Some(src) = head.ethernet.src.unicast() else {
            witness.note("source", false, || format!("{} is no station's address", head.ethernet.src));
            return Err(Decision::drop(DropReason::InvalidSource));
        };

        // 2
        if head.ethernet.ethertype == MAC_CONTROL {
            witness.note("link-local", false, || "MAC control (pause) is kept to its link".into());
            return Err(Decision::drop(DropReason::LinkLocal));
        }
        let is_link_local = match head.ethernet.dst.link_local_group() {
            None => false,
            Some(group) => {
                self.forward_link_local(&ingress.general(), group, witness).map_err(Decision::drop)?
            }
        };

        // 3
        let vlan = match self.tagging {
            Some(tagging) if !PLAIN => {
                Some(classify(&ingress.general(), head, tagging, witness).map_err(Decision::drop)?)
            }
            _ => None,
        };

        // 4 and 5
        let refused = |reason| Decision::drop_in(vlan, reason);
        if ingress.has(Flags::SOURCES)
            && let Some(entry) = ingress.entry()
        {
            if let Err(reason) = entry.settings.sources.check(&head.ethernet, head.bytes) {
                witness.note("allowed-sources", false, || format!("{reason}: not an address of port {port}"));
                return Err(refused(reason));
            }
            witness.note("allowed-sources", true, || "all addresses that it claims are allowed".into());
        }
        let is_known_here = self.accept(ingress, Station::new(src, vlan), witness).map_err(refused)?;
        Ok(Admitted { vlan, is_known_here, is_link_local })
    }

    /// The guard shut the port after this view was taken.
    #[inline]
    fn was_shut<const PLAIN: bool>(&self, ingress: &Ingress<'_, PLAIN>) -> bool {
        ingress.has(Flags::GUARD)
            && ingress.entry().is_some_and(|entry| entry.state.shut.load(Ordering::Relaxed))
    }

    /// Rule 2, for 01:80:c2:00:00:0X: true if it goes on.
    #[cold]
    fn forward_link_local<W: Witness>(
        &self,
        ingress: &Ingress<'_, false>,
        group: u8,
        witness: &mut W,
    ) -> Result<bool, DropReason> {
        const SPANNING_TREE: u8 = 0;
        const PAUSE: u8 = 1;
        if group == SPANNING_TREE && ingress.has(Flags::GUARD) {
            if W::ACTS {
                // A port that left meanwhile needs no guard.
                let _ = self.bridge.set_shut(ingress.port, true);
            }
            witness.note("link-local", false, || "a spanning-tree frame: the guard shuts the port".into());
            return Err(DropReason::Guard);
        }
        let forwards = group != PAUSE && ingress.slot.link_local >> group & 1 != 0;
        witness.note("link-local", forwards, || {
            format!("group {group:x} is {}", if forwards { "forwarded" } else { "kept to its link" })
        });
        if forwards { Ok(true) } else { Err(DropReason::LinkLocal) }
    }

    /// Rules 4 and 5 for what the FDB knows of the source: true if a lookup would find it at the ingress port now.
    #[inline]
    fn accept<W: Witness, const PLAIN: bool>(
        &self,
        ingress: &Ingress<'_, PLAIN>,
        source: Station,
        witness: &mut W,
    ) -> Result<bool, DropReason> {
        let learns = ingress.has(Flags::LEARNING) && self.ageing_ms != 0;
        let locked = ingress.has(Flags::LOCKED);
        let hit = self.bridge.fdb.find(source);
        if let Some(hit) = &hit
            && hit.port() == ingress.port
        {
            let alive = hit.is_alive(ingress.now, self.ageing_ms);
            if locked && !alive {
                witness.note("locked", false, || "its entry here has aged".into());
                return Err(DropReason::Locked);
            }
            if learns && W::ACTS {
                hit.refresh(ingress.now, self.refresh_ms);
            }
            witness.note("source", true, || format!("a {} entry is at this port", hit.word.kind().name()));
            return Ok(alive || learns);
        }
        let kind = hit.as_ref().map(|hit| hit.word.kind());
        if let Some(hit) = &hit
            && kind == Some(EntryKind::Static)
        {
            witness.note("source", false, || format!("a static entry keeps it at port {}", hit.port()));
            return Err(DropReason::SourceTaken);
        }
        if locked {
            witness.note("locked", false, || "no entry says that it is at this port".into());
            return Err(DropReason::Locked);
        }
        if kind == Some(EntryKind::Sticky) || !learns {
            witness.note("source", true, || match kind {
                Some(EntryKind::Sticky) => "a sticky entry keeps it at another port: not learned".into(),
                _ => "the port does not learn it".into(),
            });
            return Ok(false);
        }
        self.learn(&ingress.general(), source, hit, witness)
    }

    /// Rule 5 for a source that is new here.
    #[cold]
    #[inline(never)]
    fn learn<W: Witness>(
        &self,
        ingress: &Ingress<'_, false>,
        source: Station,
        elsewhere: Option<Hit<'_>>,
        witness: &mut W,
    ) -> Result<bool, DropReason> {
        let at_limit = |entry: &PortEntry| entry.state.learned.load(Ordering::Relaxed) >= entry.mac_limit();
        // Without the mutex: a guest that invents addresses comes here with each frame.
        let learned = if ingress.has(Flags::LIMITED) && ingress.entry().is_some_and(at_limit) {
            Learned::Limit
        } else if W::ACTS {
            self.bridge.learn(source, ingress.port, ingress.now)
        } else if elsewhere.is_some() || self.bridge.has_room(source) {
            Learned::Yes
        } else {
            Learned::NoRoom
        };
        witness.note("learn", learned != Learned::Limit, || match (learned, &elsewhere) {
            (Learned::Yes, Some(hit)) => format!("it moves here from port {}", hit.port()),
            (Learned::Yes, None) => "it is new here and learned".into(),
            (Learned::Limit, _) => "the port has as many learned addresses as it may have".into(),
            (_, _) => "the table has no room for it".into(),
        });
        match learned {
            Learned::Yes => Ok(true),
            Learned::Sticky | Learned::NoRoom => Ok(false),
            Learned::Static => Err(DropReason::SourceTaken),
            Learned::Limit => Err(DropReason::MacLimit),
        }
    }
}

/// Rule 3.
#[inline]
fn classify<W: Witness>(
    ingress: &Ingress<'_, false>,
    head: &Head<'_>,
    tagging: Tagging,
    witness: &mut W,
) -> Result<Vlan, DropReason> {
    let slot = ingress.slot;
    let vlan = match head.ethernet.tag.filter(|tag| tag.tagging == tagging) {
        // Two tags of this switch's kind: where the outer one is taken off, the inner one would name a VLAN that nobody
        // has checked.
        Some(_) if head.ethernet.ethertype == tagging.tpid() => None,
        Some(tag) if tag.vid() != 0 => Vlan::new(tag.vid()).filter(|vlan| slot.carries(Some(*vlan))),
        // The frame ends within its tag.
        None if head.ethernet.tag.is_none() && head.ethernet.ethertype == tagging.tpid() => None,
        _ => slot.native(),
    };
    witness.note("vlan", vlan.is_some(), || match vlan {
        Some(vlan) => format!("it is in VLAN {}", vlan.get()),
        None => format!("its tag ({:?}) names no VLAN of the port", head.ethernet.tag.map(|tag| tag.vid())),
    });
    vlan.ok_or(DropReason::Vlan)
}
