//! Every combination of the flags of two ports, every class of destination and every standing of the source, against
//! the rules written down as one table.

use crate::model::Sketch;
use crate::tests::mac;
use crate::*;

const IN: PortId = PortId(0);
const OUT: PortId = PortId(1);
const NOW: Now = Now::from_millis(1000);

/// Where the destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Unknown,
    Everyone,
    Group,
    KnownOut,
    KnownIn,
}

/// What the FDB says of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Nothing,
    Here,
    Elsewhere,
    StaticElsewhere,
    StickyElsewhere,
}

#[derive(Clone, Copy, Debug)]
struct Flags {
    learning: bool,
    flood: bool,
    locked: bool,
    isolated: bool,
    hairpin: bool,
}

impl Flags {
    fn new(bits: u32) -> Self {
        let [learning, flood, locked, isolated, hairpin] = [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
        Self { learning, flood, locked, isolated, hairpin }
    }

    /// `flood` stands for all three classes.
    fn settings(self) -> PortSettings {
        PortSettings {
            learning: self.learning,
            flood: self.flood,
            broadcast_flood: self.flood,
            multicast_flood: self.flood,
            locked: self.locked,
            isolated: self.isolated,
            hairpin: self.hairpin,
            ..PortSettings::default()
        }
    }
}

/// The verdict, and the port where the source is known afterwards.
fn expected(ingress: Flags, out: Flags, from: From, to: To) -> (Verdict, Option<PortId>) {
    let was_at = match from {
        From::Nothing => None,
        From::Here => Some(IN),
        From::Elsewhere | From::StaticElsewhere | From::StickyElsewhere => Some(OUT),
    };
    if from == From::StaticElsewhere {
        return (Verdict::Drop(DropReason::SourceTaken), was_at);
    }
    if ingress.locked && from != From::Here {
        return (Verdict::Drop(DropReason::Locked), was_at);
    }
    let is_at = if ingress.learning && from != From::StickyElsewhere { Some(IN) } else { was_at };
    let (pair_isolated, self_isolated) = (ingress.isolated && out.isolated, ingress.isolated);
    let verdict = match to {
        To::KnownOut if pair_isolated => Verdict::Drop(DropReason::Isolated),
        To::KnownOut => Verdict::Unicast(OUT),
        To::KnownIn if !ingress.hairpin => Verdict::Drop(DropReason::SamePort),
        To::KnownIn if self_isolated => Verdict::Drop(DropReason::Isolated),
        To::KnownIn => Verdict::Unicast(IN),
        To::Unknown | To::Everyone | To::Group => {
            let out_takes = out.flood && !pair_isolated;
            let in_takes = ingress.flood && ingress.hairpin && !self_isolated;
            if out_takes || in_takes { Verdict::Flood } else { Verdict::Drop(DropReason::NoReceiver) }
        }
    };
    (verdict, is_at)
}

#[test]
fn every_combination_is_as_the_table_says() {
    let bridge = Bridge::new(BridgeConfig { max_entries: 16, ..BridgeConfig::new(5) });
    bridge.add_port(IN, PortSettings::default()).unwrap();
    bridge.add_port(OUT, PortSettings::default()).unwrap();
    let (src, dst) = (mac(1), mac(2));
    let place = |mac, port, kind| bridge.add_entry(mac, None, port, kind, Origin::Operator, NOW).unwrap();
    let froms = [From::Nothing, From::Here, From::Elsewhere, From::StaticElsewhere, From::StickyElsewhere];
    for combination in 0..1024 {
        let (ingress, out) = (Flags::new(combination & 31), Flags::new(combination >> 5));
        bridge.set_port(IN, ingress.settings()).unwrap();
        bridge.set_port(OUT, out.settings()).unwrap();
        for from in froms {
            for to in [To::Unknown, To::Everyone, To::Group, To::KnownOut, To::KnownIn] {
                bridge.flush(&Flush { kinds: EntryKinds::ALL, ..Flush::default() });
                match from {
                    From::Nothing => {}
                    From::Here => place(src, IN, EntryKind::Dynamic),
                    From::Elsewhere => place(src, OUT, EntryKind::Dynamic),
                    From::StaticElsewhere => place(src, OUT, EntryKind::Static),
                    From::StickyElsewhere => place(src, OUT, EntryKind::Sticky),
                }
                let address = match to {
                    To::Everyone => MacAddr::BROADCAST,
                    To::Group => MacAddr([0x33, 0x33, 0, 0, 0, 7]),
                    To::Unknown | To::KnownOut | To::KnownIn => dst.into(),
                };
                match to {
                    To::KnownOut => place(dst, OUT, EntryKind::Static),
                    To::KnownIn => place(dst, IN, EntryKind::Static),
                    _ => {}
                }
                let bytes = Sketch { src: src.into(), dst: address, vid: None }.bytes();
                let (view, head) = (bridge.view(), Head::parse(&bytes).unwrap());
                let explained = view.explain(IN, &bytes, NOW);
                let decision = view.decide(IN, &head, NOW);
                let (verdict, is_at) = expected(ingress, out, from, to);
                let case = format!("in {ingress:?}, out {out:?}, source {from:?}, destination {to:?}");
                assert_eq!(decision.verdict, verdict, "{case}");
                assert_eq!(explained.decision, decision, "{case}");
                assert_eq!(bridge.entry(src, None, NOW).map(|entry| entry.port), is_at, "{case}");
                if verdict == Verdict::Flood {
                    let reach = view.reach(IN, &head, &decision, NOW);
                    let in_takes = ingress.flood && ingress.hairpin && !ingress.isolated;
                    let out_takes = out.flood && !(ingress.isolated && out.isolated);
                    assert_eq!((reach.takes(IN), reach.takes(OUT)), (in_takes, out_takes), "{case}");
                }
            }
        }
    }
    bridge.check();
}
