//! Where a frame goes: the decision.
//!
//! # Theory of operation
//!
//! The rules and their order are those of the Linux bridge with STP off (`net/bridge/br_input.c`,
//! `br_handle_frame` and `br_handle_frame_finish`; IEEE 802.1Q-2022 §8.6), with those that Linux lacks placed where
//! they are cheap and safe. The first rule that refuses the frame names its [`DropReason`].
//!
//! 1. *Port.* The port is on the switch (`ingress-removed`), enabled and not shut (`port-shut`). The source must name
//!    one station (`invalid-source`).
//! 2. *Link-local groups* 01:80:c2:00:00:0X. 0 (spanning tree) shuts a port with a guard (`guard`). 1 (pause) is never
//!    forwarded, nor is MAC control to any address; others as the port's [`crate::PortSettings::link_local`] says
//!    (`link-local`).
//! 3. *VLAN.* The frame's tag, or else the port's native VLAN, must be one of the port's (`vlan`). A tag of the kind that
//!    the switch does not read is payload; two tags of the kind that it reads are refused.
//! 4. *Source.* The port's allowed sources (`source-mac`, `source-address`); a static entry for it at another port
//!    (`source-taken`); on a locked port, an entry that has not aged at this very port (`locked`). A link-local group
//!    that is forwarded is no exception, nor is it in Linux.
//! 5. *Learning*, where the port learns: a new or moved source counts to the port's limit (`mac-limit`). A locked port
//!    only renews the entries that it has.
//! 6. *Known station.* The frame goes to its port, if that is not the one it came from (`same-port`; but hairpin), is
//!    open (`port-shut`), in the VLAN (`vlan-egress`) and not isolated from it (`isolated`).
//! 7. *Many.* Everything else. A question for a station that the switch answers for is answered. What remains floods to
//!    the ports that take its class, unknown unicast, broadcast or multicast; with snooping, groups with listeners go
//!    to those, and reports to routers only. There must be one to take it (`no-receiver`), and the port must not
//!    have sent too many of its class (`unicast-rate`, `broadcast-rate`, `multicast-rate`).
//!
//! *Cost.* A [`View`] holds one port table for a burst. In a burst, a frame with the source and tag of the one before it
//! skips rules 1 to 5, with its destination too all of them; rules that look at more than that are never skipped.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::Guard;

use crate::bridge::Bridge;
use crate::fdb::Station;
use crate::frame::{Head, Tagging};
use crate::groups::{Arrival, GroupTable, Membership, Observed, Trust};
use crate::multicast::{self, Message};
use crate::neighbour::{self, ANSWER_MAX};
use crate::reach::Reach;
use crate::table::{Class, Flags, PortEntry, PortSlot, PortTable};
use crate::trace::{Nobody, Witness};
use crate::types::{DropReason, MacAddr, Now, PortId, Verdict, Vlan};

/// An entry's time is renewed at most this often, in milliseconds.
const REFRESH_MS_MAX: i32 = 1000;

/// Whom a frame to many is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Audience {
    /// Ports that take its class.
    Class,
    /// Listeners of its group, and routers.
    Listeners,
    /// Ports with a multicast router.
    Routers,
}

/// What to do with one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Decision {
    /// Where it goes.
    pub verdict: Verdict,
    /// The VLAN that it is in; `None` where the switch knows no VLANs, and for frames dropped before that was found.
    pub vlan: Option<Vlan>,
    audience: Audience,
}

impl Decision {
    /// A frame that is dropped before a VLAN is found.
    pub const fn drop(reason: DropReason) -> Self {
        Self { verdict: Verdict::Drop(reason), vlan: None, audience: Audience::Class }
    }

    /// A frame of a VLAN that is dropped.
    pub(crate) const fn drop_in(vlan: Option<Vlan>, reason: DropReason) -> Self {
        Self { vlan, ..Self::drop(reason) }
    }
}

/// How a frame leaves by a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Unchanged: the switch knows no VLANs.
    AsIs,
    /// Without a tag of the switch's kind.
    Untagged,
    /// With one that names [`Decision::vlan`].
    Tagged,
}

/// One state of a bridge, to decide a burst by.
pub struct View<'b> {
    pub(crate) bridge: &'b Bridge,
    pub(crate) table: Guard<Arc<PortTable>>,
    groups: Option<Guard<Arc<GroupTable>>>,
    pub(crate) tagging: Option<Tagging>,
    pub(crate) ageing_ms: i32,
    pub(crate) refresh_ms: i32,
}

/// Where and when frames come in. `PLAIN` says at compile time what most switches are: the switch knows no VLANs,
/// and the port is an open one that learns and has nothing else that a frame's source is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Ingress<'v, const PLAIN: bool> {
    pub(crate) port: PortId,
    pub(crate) slot: &'v PortSlot,
    pub(crate) now: Now,
}

impl<'v, const PLAIN: bool> Ingress<'v, PLAIN> {
    #[inline(always)]
    pub(crate) fn has(&self, flags: Flags) -> bool {
        if PLAIN { Flags::PLAIN.has(flags) } else { self.slot.flags.has(flags) }
    }

    /// The same, with nothing known beforehand: for rules that are seldom reached.
    pub(crate) fn general(self) -> Ingress<'v, false> {
        let Self { port, slot, now } = self;
        Ingress { port, slot, now }
    }

    pub(crate) fn entry(&self) -> Option<&'v PortEntry> {
        self.slot.entry.as_deref()
    }
}

/// What rules 1 to 5 found of a frame that they let pass.
#[derive(Clone, Copy)]
pub(crate) struct Admitted {
    pub(crate) vlan: Option<Vlan>,
    /// The source has an entry at the ingress port that a lookup finds.
    pub(crate) is_known_here: bool,
    /// To a link-local group.
    pub(crate) is_link_local: bool,
}

impl<'b> View<'b> {
    #[inline]
    pub(crate) fn new(bridge: &'b Bridge, tagging: Option<Tagging>) -> Self {
        let ageing_ms = bridge.ageing_ms.load(Ordering::Relaxed);
        Self {
            bridge,
            table: bridge.table.load(),
            groups: bridge.groups.as_ref().map(|groups| groups.snapshot()),
            tagging,
            ageing_ms,
            refresh_ms: (ageing_ms / 8).clamp(1, REFRESH_MS_MAX),
        }
    }

    /// Decides for one frame, with all that follows from it: its source is learned, its port charged.
    #[inline]
    pub fn decide(&self, in_port: PortId, head: &Head<'_>, now: Now) -> Decision {
        self.judge(&self.ingress(in_port, now), head, &mut Nobody)
    }

    /// Decides for a burst of frames from one port, in order, as [`Self::decide`] would one by one. Decisions go to the
    /// front of `out`; frames beyond its length are left undecided.
    pub fn decide_burst(&self, in_port: PortId, frames: &[Head<'_>], now: Now, out: &mut [Decision]) {
        debug_assert!(out.len() >= frames.len());
        let ingress = self.ingress(in_port, now);
        if self.bridge.fdb.is_large() {
            self.touch(&ingress, frames);
        }
        if self.tagging.is_none() && ingress.slot.flags.is_plain() {
            let Ingress { port, slot, now } = ingress;
            self.judge_burst(Ingress::<true> { port, slot, now }, frames, out);
        } else {
            self.judge_burst(ingress, frames, out);
        }
    }

    /// Where a frame with the verdict [`Verdict::Flood`] goes; made once for each such frame, with the view, the port
    /// and the time that it was decided with.
    #[inline]
    #[must_use]
    pub fn reach(&self, in_port: PortId, head: &Head<'_>, decision: &Decision, now: Now) -> Reach<'_> {
        let dst = head.ethernet.dst;
        let members = match (decision.audience, &self.groups) {
            (Audience::Listeners, Some(groups)) => groups.listeners(decision.vlan, dst, now),
            (Audience::Routers, Some(groups)) => {
                groups.routers(decision.vlan, dst, now, |port| self.can_receive(port, decision.vlan))
            }
            _ => Membership::Flood,
        };
        self.reach_of(&self.ingress(in_port, now), decision.vlan, class_of(dst), members)
    }

    /// How a frame leaves by a port of its VLAN.
    #[inline]
    #[must_use]
    pub fn form(&self, out_port: PortId, decision: &Decision) -> Form {
        match self.tagging {
            None => Form::AsIs,
            Some(_) if self.table.slot(out_port).native() == decision.vlan => Form::Untagged,
            Some(_) => Form::Tagged,
        }
    }

    /// Writes the frame that [`Verdict::Answer`] sends back, and says how long it is. It carries the tags of the
    /// question, whatever [`Self::form`] says. `None` if the frame is no question that the switch can answer.
    #[must_use]
    pub fn answer(&self, head: &Head<'_>, decision: &Decision, out: &mut [u8; ANSWER_MAX]) -> Option<usize> {
        let address = neighbour::question(&head.ethernet, head.bytes, self.tags(head))?;
        let (mac, _) = self.table.neighbour(decision.vlan, address)?;
        neighbour::answer(head.bytes, self.tags(head), mac, out)
    }

    #[inline]
    pub(crate) fn ingress(&self, port: PortId, now: Now) -> Ingress<'_, false> {
        Ingress { port, slot: self.table.slot(port), now }
    }

    /// Sets the reads of a burst's lookups going, all at once.
    fn touch(&self, ingress: &Ingress<'_, false>, frames: &[Head<'_>]) {
        let mut sum = 0;
        for Head { ethernet, .. } in frames {
            let vlan = match self.tagging {
                None => None,
                Some(tagging) if ethernet.is_tagged(tagging) => ethernet.vlan(),
                Some(_) => ingress.slot.native(),
            };
            for mac in [ethernet.src.unicast(), ethernet.dst.unicast()].into_iter().flatten() {
                sum ^= self.bridge.fdb.touch(Station::new(mac, vlan));
            }
        }
        std::hint::black_box(sum);
    }

    #[inline]
    pub(crate) fn judge<W: Witness>(
        &self,
        ingress: &Ingress<'_, false>,
        head: &Head<'_>,
        witness: &mut W,
    ) -> Decision {
        match self.admit(ingress, head, witness) {
            Ok(admitted) => self.route(ingress, head, admitted, witness),
            Err(decision) => decision,
        }
    }

    /// Rules 6 and 7.
    #[inline]
    pub(crate) fn route<W: Witness, const PLAIN: bool>(
        &self,
        ingress: &Ingress<'_, PLAIN>,
        head: &Head<'_>,
        admitted: Admitted,
        witness: &mut W,
    ) -> Decision {
        let vlan = if PLAIN { None } else { admitted.vlan };
        let ethernet = &head.ethernet;
        if let Some(dst) = ethernet.dst.unicast() {
            // A frame to its own source finds what was just learned; a witness that changes nothing has to be told.
            let port = if !W::ACTS && ethernet.dst == ethernet.src && admitted.is_known_here {
                Some(ingress.port)
            } else {
                let hit = self.bridge.fdb.find(Station::new(dst, vlan));
                hit.filter(|hit| hit.is_alive(ingress.now, self.ageing_ms)).map(|hit| hit.port())
            };
            if let Some(out_port) = port {
                let verdict = self.leave_by(ingress, out_port, vlan);
                witness.note("lookup", !matches!(verdict, Verdict::Drop(_)), || match verdict {
                    Verdict::Drop(reason) => format!("{dst} is at port {out_port}: {reason}"),
                    _ => format!("{dst} is at port {out_port}"),
                });
                return Decision { verdict, vlan, audience: Audience::Class };
            }
        }
        self.to_many(&ingress.general(), head, admitted, witness)
    }

    /// Rule 6: a known station is behind `out_port`.
    #[inline]
    fn leave_by<const PLAIN: bool>(
        &self,
        ingress: &Ingress<'_, PLAIN>,
        out_port: PortId,
        vlan: Option<Vlan>,
    ) -> Verdict {
        let out = self.table.slot(out_port);
        let reason = if out_port == ingress.port && !ingress.has(Flags::HAIRPIN) {
            DropReason::SamePort
        } else if !out.flags.has(Flags::MEMBER) {
            // It joined after this view was taken.
            DropReason::NoReceiver
        } else if !out.flags.has(Flags::OPEN) {
            DropReason::PortShut
        } else if !out.carries(vlan) {
            DropReason::VlanEgress
        } else if out.flags.has(Flags::ISOLATED) && ingress.has(Flags::ISOLATED) {
            DropReason::Isolated
        } else {
            return Verdict::Unicast(out_port);
        };
        Verdict::Drop(reason)
    }

    /// Rule 7.
    #[inline(never)]
    fn to_many<W: Witness>(
        &self,
        ingress: &Ingress<'_, false>,
        head: &Head<'_>,
        admitted: Admitted,
        witness: &mut W,
    ) -> Decision {
        let Admitted { vlan, is_link_local, .. } = admitted;
        let dst = head.ethernet.dst;
        let class = class_of(dst);
        let refused = |reason| Decision::drop_in(vlan, reason);
        if self.table.has_neighbours()
            && !is_link_local
            && let Some((address, port)) = self.question(ingress, head, vlan)
        {
            witness.note("neighbour", true, || format!("asks for {address} at port {port}: answered"));
            return Decision { verdict: Verdict::Answer, vlan, audience: Audience::Class };
        }
        let snoops = self.bridge.groups.is_some() && class == Class::Multicast && !is_link_local;
        // What a guest may make the groups do is bounded by its rate as well.
        if snoops && let Err(reason) = self.charge(ingress, head, class, witness) {
            return refused(reason);
        }
        let (audience, members) = match &self.groups {
            Some(table) if snoops => match self.snoop(ingress, head, vlan, table, witness) {
                Ok(found) => found,
                Err(reason) => return refused(reason),
            },
            _ => (Audience::Class, Membership::Flood),
        };
        let anyone = match members {
            Membership::Flood => self.table.any_takes(class, vlan, ingress.slot),
            Membership::Listeners(ports) => {
                let reach = self.reach_of(ingress, vlan, class, members);
                ports.iter().any(|port| reach.takes(port))
            }
        };
        witness.note("receivers", anyone, || {
            let what = match class {
                Class::Unicast => "frames to unknown stations",
                Class::Broadcast => "broadcasts",
                Class::Multicast => "this group",
            };
            format!("{} other port takes {what} from here", if anyone { "at least one" } else { "no" })
        });
        if !anyone {
            return refused(DropReason::NoReceiver);
        }
        if !snoops && let Err(reason) = self.charge(ingress, head, class, witness) {
            return refused(reason);
        }
        Decision { verdict: Verdict::Flood, vlan, audience }
    }

    /// Takes the frame's share of what the port may send to many.
    fn charge<W: Witness>(
        &self,
        ingress: &Ingress<'_, false>,
        head: &Head<'_>,
        class: Class,
        witness: &mut W,
    ) -> Result<(), DropReason> {
        if !ingress.has(Flags::METERED) {
            return Ok(());
        }
        let Some((rate, meter)) = ingress.entry().and_then(|entry| entry.meter(class)) else { return Ok(()) };
        let units = head.units;
        let within =
            if W::ACTS { rate.take(meter, ingress.now, units) } else { rate.has(meter, ingress.now, units) };
        witness.note("rate", within, || {
            format!("the port is {} its rate", if within { "within" } else { "above" })
        });
        match class {
            _ if within => Ok(()),
            Class::Unicast => Err(DropReason::UnicastRate),
            Class::Broadcast => Err(DropReason::BroadcastRate),
            Class::Multicast => Err(DropReason::MulticastRate),
        }
    }

    /// Tags of a frame that the switch reads: none or one. What is behind them is payload.
    fn tags(&self, head: &Head<'_>) -> usize {
        usize::from(self.tagging.is_some_and(|tagging| head.ethernet.is_tagged(tagging)))
    }

    /// Whether a port can receive frames of a VLAN at all.
    fn can_receive(&self, port: PortId, vlan: Option<Vlan>) -> bool {
        let slot = self.table.slot(port);
        slot.flags.has(Flags::MEMBER) && slot.flags.has(Flags::OPEN) && slot.carries(vlan)
    }

    /// The station that a frame asks for, if the switch answers in its place: the asking port could reach it, and is
    /// not its own.
    fn question(
        &self,
        ingress: &Ingress<'_, false>,
        head: &Head<'_>,
        vlan: Option<Vlan>,
    ) -> Option<(IpAddr, PortId)> {
        let address = neighbour::question(&head.ethernet, head.bytes, self.tags(head))?;
        let (_, port) = self.table.neighbour(vlan, address)?;
        let reachable = port != ingress.port && self.leave_by(ingress, port, vlan) == Verdict::Unicast(port);
        reachable.then_some((address, port))
    }

    /// Whom a frame to a group is for, as the groups know.
    fn snoop<'v, W: Witness>(
        &self,
        ingress: &Ingress<'_, false>,
        head: &Head<'_>,
        vlan: Option<Vlan>,
        table: &'v GroupTable,
        witness: &mut W,
    ) -> Result<(Audience, Membership<'v>), DropReason> {
        let (Some(groups), Some(entry)) = (&self.bridge.groups, ingress.entry()) else {
            return Ok((Audience::Class, Membership::Flood));
        };
        let (ethernet, settings, tags) = (&head.ethernet, &entry.settings, self.tags(head));
        let observed = if W::ACTS {
            let arrival = Arrival { port: ingress.port, vlan, tags, now: ingress.now };
            // The port may have left, or changed, since this view was taken.
            let current = || {
                let table = self.bridge.table.load();
                let slot = table.slot(ingress.port);
                let same = slot.entry.as_ref().filter(|now| Arc::ptr_eq(&now.state, &entry.state));
                same.filter(|_| slot.carries(vlan)).map(|now| Trust::of(&now.settings))
            };
            groups.observe(arrival, head, Trust::of(settings), current)
        } else {
            match multicast::parse(ethernet, head.bytes, tags) {
                None => Observed::NotControl,
                Some(Message::Query(_)) => Observed::Query,
                Some(Message::Report(_)) => Observed::Report,
                Some(Message::Leave(_)) => Observed::Leave,
                Some(Message::RouterSeen) => Observed::Other,
            }
        };
        if !settings.multicast_router && matches!(observed, Observed::Query | Observed::Other) {
            witness.note("snooping", false, || "a query or a router's hello: the port may not route".into());
            return Err(DropReason::MulticastRouter);
        }
        let (audience, members) = match observed {
            Observed::Query => (Audience::Class, Membership::Flood),
            Observed::Report | Observed::Leave => {
                let can_receive = |port| self.can_receive(port, vlan);
                (Audience::Routers, table.routers(vlan, ethernet.dst, ingress.now, can_receive))
            }
            Observed::NotControl | Observed::Other => {
                (Audience::Listeners, table.listeners(vlan, ethernet.dst, ingress.now))
            }
        };
        witness.note("snooping", true, || match members {
            Membership::Flood => "goes to all ports that take groups".into(),
            Membership::Listeners(_) => "goes to ports with listeners or routers only".into(),
        });
        Ok((audience, members))
    }

    #[inline]
    fn reach_of<'v>(
        &'v self,
        ingress: &Ingress<'_, false>,
        vlan: Option<Vlan>,
        class: Class,
        members: Membership<'v>,
    ) -> Reach<'v> {
        let open = Flags::MEMBER.and(Flags::OPEN);
        let (required, only) = match members {
            Membership::Flood => (open.and(Flags::takes(class)), None),
            Membership::Listeners(ports) => (open, Some(ports)),
        };
        let isolated = ingress.has(Flags::ISOLATED);
        Reach {
            table: &self.table,
            vlan,
            required,
            forbidden: if isolated { Flags::ISOLATED } else { Flags::NONE },
            except: (!ingress.has(Flags::HAIRPIN)).then_some(ingress.port),
            only,
        }
    }
}

fn class_of(dst: MacAddr) -> Class {
    match dst {
        MacAddr::BROADCAST => Class::Broadcast,
        _ if dst.is_multicast() => Class::Multicast,
        _ => Class::Unicast,
    }
}
