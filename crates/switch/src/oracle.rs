//! Random lives of a bridge, compared step by step with a slow and obvious one ([`crate::model`]).

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use crate::model::{Key, Known, Model, Sketch};
use crate::tests::mac;
use crate::*;

const AGEING_MS: u64 = 20_000;
const PORTS: u16 = 4;
const MACS: u64 = 24;

/// Stations 0 to 23, then what is no station: zero, a group, broadcast, three link-local groups.
fn address(number: u64) -> MacAddr {
    match number - number.min(MACS - 1) {
        0 => mac(number).into(),
        1 => MacAddr([0; 6]),
        2 => MacAddr([0x33, 0x33, 0, 0, 0, 1]),
        3 => MacAddr::BROADCAST,
        4 => MacAddr([1, 0x80, 0xc2, 0, 0, 0]),
        5 => MacAddr([1, 0x80, 0xc2, 0, 0, 1]),
        _ => MacAddr([1, 0x80, 0xc2, 0, 0, 0xe]),
    }
}

fn vlan(id: u16) -> Vlan {
    Vlan::new(id).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    /// Several in one view; stations as [`address`] numbers them.
    Burst {
        in_port: u16,
        frames: Vec<(u64, u64, Option<u16>)>,
    },
    Frame {
        in_port: u16,
        src: u64,
        dst: u64,
        vid: Option<u16>,
    },
    Wait {
        millis: u64,
    },
    Age,
    AddPort {
        port: u16,
    },
    RemovePort {
        port: u16,
    },
    SetPort {
        port: u16,
        settings: PortSettings,
    },
    Reopen {
        port: u16,
    },
    Place {
        mac: u64,
        vlan: u16,
        port: u16,
        kind: EntryKind,
    },
    Remove {
        mac: u64,
        vlan: u16,
    },
    Flush {
        port: Option<u16>,
        vlan: Option<u16>,
        mac: Option<u64>,
        kinds: EntryKinds,
    },
}

fn vids() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![5 => Just(None), 3 => (1..4u16).prop_map(Some), 1 => Just(Some(0)), 1 => Just(Some(4095))]
}

/// Few addresses and tags in each burst, so that there are runs.
fn bursts() -> impl Strategy<Value = Vec<(u64, u64, Option<u16>)>> {
    let pool = proptest::collection::vec((0..MACS + 7, vids()), 1..4);
    let choice = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    (pool, proptest::collection::vec(choice, 1..16)).prop_map(|(pool, picks)| {
        let frame = |(src, dst): &(prop::sample::Index, prop::sample::Index)| {
            let (src, vid) = *src.get(&pool);
            (src, dst.get(&pool).0, vid)
        };
        picks.iter().map(frame).collect()
    })
}

fn settings() -> impl Strategy<Value = PortSettings> {
    let vlans = prop_oneof![
        2 => Just(PortVlans::default()),
        1 => Just(PortVlans::access(vlan(2))),
        1 => Just(PortVlans::trunk([vlan(1), vlan(2), vlan(3)], None)),
        1 => Just(PortVlans::trunk([vlan(1), vlan(3)], Some(vlan(2)))),
    ];
    let limit = prop_oneof![3 => Just(None), 1 => (0..4u32).prop_map(Some)];
    (any::<u16>(), any::<u16>(), vlans, limit, any::<u16>()).prop_map(
        |(bits, rare, vlans, mac_limit, link_local)| {
            let on = |bit: u16| bits >> bit & 1 != 0;
            let seldom = |bit: u16| rare >> (bit * 3) & 7 == 0;
            PortSettings {
                learning: on(0) || on(1),
                flood: on(2),
                broadcast_flood: on(3) || on(4),
                multicast_flood: on(5),
                isolated: on(6),
                hairpin: on(7) && on(8),
                locked: on(9) && on(10),
                enabled: !seldom(0),
                guard: seldom(1),
                mac_limit,
                link_local,
                vlans,
                ..PortSettings::default()
            }
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (port, mac, vlan) = (0..PORTS, 0..MACS, 1..4u16);
    let kind = proptest::sample::select(vec![EntryKind::Dynamic, EntryKind::Static, EntryKind::Sticky]);
    let kinds = proptest::collection::vec(proptest::sample::select(EntryKind::ALL.to_vec()), 0..4);
    let step = prop_oneof![
        20 => (port.clone(), mac.clone(), 0..MACS + 7, vids())
            .prop_map(|(in_port, src, dst, vid)| Step::Frame { in_port, src, dst, vid }),
        10 => (port.clone(), bursts()).prop_map(|(in_port, frames)| Step::Burst { in_port, frames }),
        4 => (0..AGEING_MS / 3).prop_map(|millis| Step::Wait { millis }),
        2 => Just(Step::Age),
        1 => port.clone().prop_map(|port| Step::AddPort { port }),
        1 => port.clone().prop_map(|port| Step::RemovePort { port }),
        4 => (port.clone(), settings()).prop_map(|(port, settings)| Step::SetPort { port, settings }),
        1 => port.clone().prop_map(|port| Step::Reopen { port }),
        3 => (mac.clone(), vlan.clone(), port.clone(), kind)
            .prop_map(|(mac, vlan, port, kind)| Step::Place { mac, vlan, port, kind }),
        1 => (mac.clone(), vlan.clone()).prop_map(|(mac, vlan)| Step::Remove { mac, vlan }),
        1 => (
            proptest::option::of(port),
            proptest::option::of(vlan),
            proptest::option::weighted(0.2, mac),
            kinds
        )
            .prop_map(|(port, vlan, mac, kinds)| {
                Step::Flush { port, vlan, mac, kinds: kinds.into_iter().collect() }
            }),
    ];
    proptest::collection::vec(step, 1..300)
}

/// Both at once.
struct Pair {
    bridge: Bridge,
    model: Model,
}

impl Pair {
    fn new(max_entries: u32, seed: u64, vlans: bool) -> Self {
        let config = BridgeConfig {
            ageing_ms: AGEING_MS as u32,
            max_entries,
            tagging: vlans.then_some(Tagging::Customer),
            ..BridgeConfig::new(seed)
        };
        let model = Model {
            ageing_ms: AGEING_MS,
            vlans,
            known: HashMap::new(),
            ports: BTreeMap::new(),
            // Near the point where the low half of the clock wraps.
            now: (1 << 32) - AGEING_MS,
        };
        let mut pair = Self { bridge: Bridge::new(config), model };
        (0..PORTS - 1).for_each(|port| pair.add_port(port));
        pair
    }

    fn now(&self) -> Now {
        Now::from_millis(self.model.now)
    }

    fn add_port(&mut self, port: u16) {
        let known = self.model.ports.contains_key(&port);
        self.model.ports.entry(port).or_default();
        assert_eq!(self.bridge.add_port(PortId(port), PortSettings::default()).is_err(), known);
    }

    /// The model's name for a station.
    fn key(&self, number: u64, vlan: u16) -> Key {
        (mac(number), if self.model.vlans { vlan } else { 0 })
    }

    /// Explanation, decision, decision within a burst, reach and form must all be the model's.
    fn frames(&mut self, in_port: u16, frames: &[Sketch]) {
        let (now, port) = (self.now(), PortId(in_port));
        let bytes: Vec<_> = frames.iter().map(Sketch::bytes).collect();
        let heads: Vec<_> = bytes.iter().map(|bytes| Head::parse(bytes).unwrap()).collect();
        let view = self.bridge.view();
        // What is explained before the burst holds for its first frame.
        let explanation = view.explain(port, &bytes[0], now);
        let mut decisions = vec![Decision::drop(DropReason::Runt); heads.len()];
        view.decide_burst(port, &heads, now, &mut decisions);
        assert_eq!(explanation.decision, decisions[0], "{explanation:?}");
        assert_eq!(
            explanation.steps.last().unwrap().passed,
            !matches!(decisions[0].verdict, Verdict::Drop(_)),
            "{explanation:?}"
        );
        // Floods go where this view says, as they are delivered: what the guard did on the way shows in the next one.
        for (index, (decision, head)) in decisions.iter().zip(&heads).enumerate() {
            let (verdict, vlan, takers) = self.model.frame(in_port, &frames[index]);
            assert_eq!(decision.verdict, verdict, "{:?}", frames[index]);
            assert_eq!(decision.vlan.map_or(0, Vlan::get), vlan);
            let reached: Vec<u16> = match verdict {
                Verdict::Flood => {
                    let reach = view.reach(port, head, decision, now);
                    (0..PORTS + 1).filter(|out| reach.takes(PortId(*out))).collect()
                }
                _ => Vec::new(),
            };
            assert_eq!(reached, takers);
            if index == 0 {
                let outputs: Vec<u16> = explanation.outputs.iter().map(|(out, _)| out.0).collect();
                let expected = if let Verdict::Unicast(out) = verdict { vec![out.0] } else { takers };
                assert_eq!(outputs, expected);
                let ports = self.model.ports.len();
                assert!(verdict != Verdict::Flood || explanation.refused.len() == ports - outputs.len());
            }
            for (out, (settings, _)) in &self.model.ports {
                let form = match decision.vlan {
                    None => continue,
                    Some(vlan) if settings.vlans.native() == Some(vlan) => Form::Untagged,
                    Some(_) => Form::Tagged,
                };
                assert_eq!(view.form(PortId(*out), decision), form);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let now = self.now();
        match *step {
            Step::Frame { in_port, src, dst, vid } => {
                self.frames(in_port, &[Sketch { src: address(src), dst: address(dst), vid }]);
            }
            Step::Burst { in_port, ref frames } => {
                let sketch = |&(src, dst, vid): &_| Sketch { src: address(src), dst: address(dst), vid };
                let frames: Vec<Sketch> = frames.iter().map(sketch).collect();
                self.frames(in_port, &frames);
            }
            Step::Wait { millis } => self.model.now += millis,
            Step::Age => {
                let before = self.model.known.len();
                let limit = self.model.now - AGEING_MS;
                self.model.known.retain(|_, known| !known.kind.ages() || known.seen > limit);
                assert_eq!(self.bridge.age(now) as usize, before - self.model.known.len());
            }
            Step::AddPort { port } => self.add_port(port),
            Step::RemovePort { port } => {
                let was_there = self.model.ports.remove(&port).is_some();
                self.model.known.retain(|_, known| known.port != port);
                assert_eq!(self.bridge.remove_port(PortId(port)).is_ok(), was_there);
            }
            Step::SetPort { port, ref settings } => {
                let stored = self.model.ports.get_mut(&port);
                let is_there = stored.map(|stored| stored.0 = settings.clone()).is_some();
                if is_there && self.model.vlans {
                    let stays = |vid: u16| settings.vlans.contains(vlan(vid));
                    self.model.known.retain(|(_, vid), known| known.port != port || stays(*vid));
                }
                assert_eq!(self.bridge.set_port(PortId(port), settings.clone()).is_ok(), is_there);
            }
            Step::Reopen { port } => {
                let is_there = self.model.ports.get_mut(&port).map(|stored| stored.1 = false).is_some();
                assert_eq!(self.bridge.reopen(PortId(port)).is_ok(), is_there);
            }
            Step::Place { mac: number, vlan: vid, port, kind } => self.place(number, vid, port, kind),
            Step::Remove { mac: number, vlan: vid } => {
                let key = self.key(number, vid);
                let known = self.model.known.remove(&key).map(|known| (known.port, known.kind));
                let removed = self.bridge.remove_entry(key.0, Vlan::new(key.1));
                assert_eq!(removed.map(|entry| (entry.port.0, entry.kind)), known);
            }
            Step::Flush { port, vlan: vid, mac: number, kinds } => {
                let flush = Flush {
                    port: port.map(PortId),
                    vlan: vid.map(vlan),
                    mac: number.map(mac),
                    kinds,
                    owned: true,
                };
                let before = self.model.known.len();
                self.model.known.retain(|(mac, vid), known| {
                    let unwanted = kinds.contains(known.kind)
                        && flush.port.is_none_or(|port| port.0 == known.port)
                        && flush.vlan.is_none_or(|vlan| vlan.get() == *vid)
                        && flush.mac.is_none_or(|wanted| wanted == *mac);
                    !unwanted
                });
                assert_eq!(self.bridge.flush(&flush) as usize, before - self.model.known.len());
            }
        }
    }

    fn place(&mut self, number: u64, vid: u16, port: u16, kind: EntryKind) {
        let key = self.key(number, vid);
        let model = &mut self.model;
        let held = model.known.get(&key).filter(|known| !known.kind.ages() && known.port != port);
        let expected = match model.ports.get(&port) {
            None => Err(BridgeError::NoSuchPort),
            Some((settings, _)) if model.vlans && !settings.vlans.contains(vlan(vid)) => {
                Err(BridgeError::VlanNotOnPort(vlan(vid)))
            }
            Some(_) => held.map_or(Ok(()), |known| Err(BridgeError::AddressTaken(PortId(known.port)))),
        };
        if expected.is_ok() {
            model.known.insert(key, Known { port, seen: model.now, kind });
        }
        let now = self.now();
        let placed =
            self.bridge.add_entry(key.0, Vlan::new(key.1), PortId(port), kind, Origin::Operator, now);
        assert_eq!(placed, expected);
    }

    /// A frame at a table that may be full: finds what the bridge evicted for it, and checks that it was fair to.
    fn frame_at_small_table(&mut self, in_port: u16, src: u64, max_entries: usize) {
        let before: Vec<u32> = (0..PORTS).map(|port| self.model.learned(port)).collect();
        self.frames(in_port, &[Sketch { src: address(src), dst: MacAddr::BROADCAST, vid: None }]);
        if self.model.known.len() <= max_entries {
            return;
        }
        let gone = |key: &&Key| !self.bridge.holds(key.0, None);
        let gone: Vec<Key> = self.model.known.keys().filter(gone).copied().collect();
        assert_eq!(gone.len(), 1, "one frame evicts one entry");
        let lost = self.model.known.remove(&gone[0]).unwrap();
        let largest = *before.iter().max().unwrap();
        assert_eq!(lost.kind, EntryKind::Learned);
        assert_eq!(before[usize::from(lost.port)], largest);
        assert!(lost.port == in_port || before[usize::from(in_port)] < largest);
    }

    fn compare(&self) {
        let entries = self.bridge.entries(self.now());
        let vid = |entry: &FdbEntry| entry.vlan.map_or(0, Vlan::get);
        let entries: Vec<_> =
            entries.iter().map(|entry| (entry.mac, vid(entry), entry.port.0, entry.kind)).collect();
        assert_eq!(entries, self.model.entries());
        for (port, (_, shut)) in &self.model.ports {
            let status = self.bridge.port_status(PortId(*port)).unwrap();
            assert_eq!((status.learned, status.shut.is_some()), (self.model.learned(*port), *shut));
        }
        self.bridge.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_bridge_with_room_does_as_a_map_would(steps in steps(), seed in any::<u64>(), vlans in any::<bool>()) {
        let mut pair = Pair::new(64, seed, vlans);
        for step in &steps {
            pair.step(step);
            pair.compare();
        }
    }

    #[test]
    fn a_full_bridge_evicts_one_entry_of_a_largest_port(steps in steps(), seed in any::<u64>()) {
        const MAX: u32 = 8;
        let mut pair = Pair::new(MAX, seed, false);
        for step in &steps {
            match *step {
                Step::Frame { in_port, src, .. } => pair.frame_at_small_table(in_port, src, MAX as usize),
                // Pinned entries that fill the table are the ledger's own test.
                Step::Burst { .. } => {}
                Step::Place { mac, .. } if mac > 3 || pair.model.known.len() >= MAX as usize => {}
                _ => pair.step(step),
            }
            pair.compare();
        }
    }

    #[test]
    fn any_bytes_are_decided_as_explained(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        settings in settings(),
        service in any::<bool>(),
        snooping in any::<bool>(),
        kind in 0..4usize,
    ) {
        let tagging = if service { Tagging::Service } else { Tagging::Customer };
        let bridge = Bridge::new(BridgeConfig {
            max_entries: 4, tagging: Some(tagging), snooping, ..BridgeConfig::new(1)
        });
        let sources = AllowedSources { ipv4: vec!["10.0.0.0/8".parse().unwrap()], ..AllowedSources::default() };
        bridge.add_port(PortId(0), PortSettings { sources, ..settings.clone() }).unwrap();
        bridge.add_port(PortId(1), settings).unwrap();
        // Random bytes are seldom a frame of interest: give some of them a type, or a group.
        let mut bytes = bytes;
        let types: [&[u8]; 4] = [&[8, 0, 0x46], &[0x86, 0xdd, 0x60], &[0x81, 0, 0, 2], &[8, 6]];
        if let Some(part) = bytes.get_mut(12..12 + types[kind].len()) {
            part.copy_from_slice(types[kind]);
            bytes[6] &= 0xfe;
        }
        let now = Now::from_millis(5);
        let view = bridge.view();
        let explained = view.explain(PortId(0), &bytes, now);
        let decided = match Head::parse(&bytes) {
            Ok(head) => view.decide(PortId(0), &head, now),
            Err(reason) => Decision::drop(reason),
        };
        prop_assert_eq!(explained.decision, decided);
    }
}
