//! Random lives of a bridge, compared step by step with a slow and obvious one.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use crate::tests::{head, mac};
use crate::*;

const AGEING_MS: u64 = 20_000;
const PORTS: u16 = 4;
const MACS: u64 = 24;

/// Stations 0 to 23, then what is no station: zero, a group, broadcast, a link-local group.
fn address(number: u64) -> MacAddr {
    match number - number.min(MACS - 1) {
        0 => mac(number).into(),
        1 => MacAddr([0; 6]),
        2 => MacAddr([0x33, 0x33, 0, 0, 0, 1]),
        3 => MacAddr::BROADCAST,
        _ => MacAddr([1, 0x80, 0xc2, 0, 0, 2]),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Frame {
        in_port: u16,
        src: u64,
        dst: u64,
    },
    Broadcast {
        in_port: u16,
        src: u64,
    },
    /// Stations as [`address`] numbers them.
    Burst {
        in_port: u16,
        frames: Vec<(u64, u64)>,
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
    SetFlags {
        port: u16,
        learning: bool,
        flood: bool,
    },
    AddStatic {
        mac: u64,
        port: u16,
    },
    Remove {
        mac: u64,
    },
    Flush {
        port: Option<u16>,
    },
}

/// Few addresses in each burst, so that there are runs.
fn bursts() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let pool = proptest::collection::vec(0..MACS + 4, 1..4);
    let choice = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    (pool, proptest::collection::vec(choice, 1..16))
        .prop_map(|(pool, picks)| picks.iter().map(|(src, dst)| (*src.get(&pool), *dst.get(&pool))).collect())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (port, mac) = (0..PORTS, 0..MACS);
    let step = prop_oneof![
        20 => (port.clone(), mac.clone(), mac.clone()).prop_map(|(in_port, src, dst)| Step::Frame { in_port, src, dst }),
        2 => (port.clone(), mac.clone()).prop_map(|(in_port, src)| Step::Broadcast { in_port, src }),
        6 => (port.clone(), bursts()).prop_map(|(in_port, frames)| Step::Burst { in_port, frames }),
        4 => (0..AGEING_MS / 3).prop_map(|millis| Step::Wait { millis }),
        2 => Just(Step::Age),
        1 => port.clone().prop_map(|port| Step::AddPort { port }),
        1 => port.clone().prop_map(|port| Step::RemovePort { port }),
        1 => (port.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(port, learning, flood)| Step::SetFlags { port, learning, flood }),
        2 => (mac.clone(), port.clone()).prop_map(|(mac, port)| Step::AddStatic { mac, port }),
        1 => mac.prop_map(|mac| Step::Remove { mac }),
        1 => proptest::option::of(port).prop_map(|port| Step::Flush { port }),
    ];
    proptest::collection::vec(step, 1..300)
}

#[derive(Clone, Copy, Debug)]
struct Known {
    port: u16,
    seen: u64,
    is_static: bool,
}

/// A bridge without limit.
#[derive(Default)]
struct Model {
    known: HashMap<u64, Known>,
    ports: BTreeMap<u16, PortFlags>,
    now: u64,
}

impl Model {
    fn alive(&self, mac: u64) -> Option<Known> {
        self.known.get(&mac).copied().filter(|known| known.is_static || self.now - known.seen < AGEING_MS)
    }

    /// A frame between addresses of any sort.
    fn any_frame(&mut self, in_port: u16, src: u64, dst: u64) -> Verdict {
        let (src_mac, dst_mac) = (address(src), address(dst));
        if !self.ports.contains_key(&in_port) {
            Verdict::Drop(DropReason::IngressRemoved)
        } else if src_mac.is_multicast() || src_mac == MacAddr([0; 6]) {
            Verdict::Drop(DropReason::InvalidSource)
        } else if dst_mac.link_local_group().is_some() {
            Verdict::Drop(DropReason::LinkLocal)
        } else {
            self.frame(in_port, src, (!dst_mac.is_multicast()).then_some(dst))
        }
    }

    fn frame(&mut self, in_port: u16, src: u64, dst: Option<u64>) -> Verdict {
        let Some(flags) = self.ports.get(&in_port).copied() else {
            return Verdict::Drop(DropReason::IngressRemoved);
        };
        match self.known.get_mut(&src) {
            Some(known) if known.is_static && known.port != in_port => {
                return Verdict::Drop(DropReason::SourceTaken);
            }
            Some(known) if known.is_static => {}
            // Times are renewed once a second.
            Some(known) if known.port == in_port && self.now - known.seen < 1000 => {}
            _ if flags.learning => {
                self.known.insert(src, Known { port: in_port, seen: self.now, is_static: false });
            }
            _ => {}
        }
        match dst.and_then(|dst| self.alive(dst)) {
            Some(known) if known.port == in_port => Verdict::Drop(DropReason::SamePort),
            Some(known) => Verdict::Unicast(PortId(known.port)),
            None if self
                .ports
                .iter()
                .any(|(port, flags)| *port != in_port && (dst.is_none() || flags.flood)) =>
            {
                Verdict::Flood
            }
            None => Verdict::Drop(DropReason::NoReceiver),
        }
    }

    fn entries(&self) -> Vec<(UnicastMac, u16, bool)> {
        let mut entries: Vec<_> = self
            .known
            .keys()
            .filter_map(|n| self.alive(*n).map(|k| (mac(*n), k.port, k.is_static)))
            .collect();
        entries.sort_unstable();
        entries
    }

    /// Learned entries by port, aged ones included.
    fn learned(&self) -> [usize; PORTS as usize] {
        let mut counts = [0; PORTS as usize];
        let learned = self.known.values().filter(|known| !known.is_static);
        learned.for_each(|known| counts[usize::from(known.port)] += 1);
        counts
    }
}

/// Both at once.
struct Pair {
    bridge: Bridge,
    model: Model,
}

impl Pair {
    fn new(max_entries: u32, seed: u64) -> Self {
        let config = BridgeConfig { ageing_ms: AGEING_MS as u32, max_entries, seed };
        let mut pair = Self { bridge: Bridge::new(config), model: Model::default() };
        // Near the point where the low half of the clock wraps.
        pair.model.now = (1 << 32) - AGEING_MS;
        (0..PORTS - 1).for_each(|port| pair.add_port(port));
        pair
    }

    fn now(&self) -> Now {
        Now::from_millis(self.model.now)
    }

    fn add_port(&mut self, port: u16) {
        let known = self.model.ports.contains_key(&port);
        self.model.ports.entry(port).or_default();
        assert_eq!(self.bridge.add_port(PortId(port)).is_err(), known);
    }

    fn step(&mut self, step: &Step) {
        let now = self.now();
        let Self { bridge, model } = self;
        match *step {
            Step::Frame { in_port, src, dst } => {
                let verdict = bridge.decide(PortId(in_port), &head(mac(src), mac(dst)), now);
                assert_eq!(verdict, model.frame(in_port, src, Some(dst)));
            }
            Step::Broadcast { in_port, src } => {
                let verdict = bridge.decide(PortId(in_port), &head(mac(src), MacAddr::BROADCAST), now);
                assert_eq!(verdict, model.frame(in_port, src, None));
            }
            Step::Burst { in_port, ref frames } => {
                let heads: Vec<_> =
                    frames.iter().map(|(src, dst)| head(address(*src), address(*dst))).collect();
                let mut verdicts = vec![Verdict::Flood; heads.len()];
                bridge.decide_burst(PortId(in_port), &heads, now, &mut verdicts);
                for ((src, dst), verdict) in frames.iter().zip(verdicts) {
                    assert_eq!(verdict, model.any_frame(in_port, *src, *dst), "{src} to {dst}");
                }
            }
            Step::Wait { millis } => model.now += millis,
            Step::Age => {
                bridge.age(now);
                let limit = model.now - AGEING_MS;
                model.known.retain(|_, known| known.is_static || known.seen > limit);
                assert_eq!(bridge.entry_count() as usize, model.known.len());
            }
            Step::AddPort { port } => self.add_port(port),
            Step::RemovePort { port } => {
                let was_there = model.ports.remove(&port).is_some();
                model.known.retain(|_, known| known.port != port);
                assert_eq!(bridge.remove_port(PortId(port)).is_ok(), was_there);
            }
            Step::SetFlags { port, learning, flood } => {
                let flags = PortFlags { learning, flood };
                let known = model.ports.get_mut(&port).map(|stored| *stored = flags);
                assert_eq!(bridge.set_port_flags(PortId(port), flags).is_ok(), known.is_some());
            }
            Step::AddStatic { mac: number, port } => {
                let taken =
                    model.known.get(&number).is_some_and(|known| known.is_static && known.port != port);
                let accepted = model.ports.contains_key(&port) && !taken;
                if accepted {
                    model.known.insert(number, Known { port, seen: model.now, is_static: true });
                }
                assert_eq!(bridge.add_static(mac(number), PortId(port), now).is_ok(), accepted);
            }
            Step::Remove { mac: number } => {
                assert_eq!(bridge.remove(mac(number)), model.known.remove(&number).is_some());
            }
            Step::Flush { port } => {
                bridge.flush(port.map(PortId));
                model.known.retain(|_, known| known.is_static || port.is_some_and(|port| port != known.port));
            }
        }
    }

    /// A frame at a table that may be full: finds what the bridge evicted for it, and checks that it was fair to.
    fn frame_at_small_table(&mut self, in_port: u16, src: u64, max_entries: usize) {
        let before = self.model.learned();
        self.step(&Step::Broadcast { in_port, src });
        if self.model.known.len() <= max_entries {
            return;
        }
        let gone = |number: &&u64| !self.bridge.holds(mac(**number));
        let gone: Vec<u64> = self.model.known.keys().filter(gone).copied().collect();
        assert_eq!(gone.len(), 1, "one frame evicts one entry");
        let lost = self.model.known.remove(&gone[0]).unwrap();
        let largest = *before.iter().max().unwrap();
        assert!(!lost.is_static);
        assert_eq!(before[usize::from(lost.port)], largest);
        assert!(lost.port == in_port || before[usize::from(in_port)] < largest);
    }

    fn compare(&self) {
        let entries = self.bridge.entries(self.now());
        let entries: Vec<_> =
            entries.iter().map(|e| (e.mac, e.port.0, e.kind == EntryKind::Static)).collect();
        assert_eq!(entries, self.model.entries());
        self.bridge.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_bridge_with_room_does_as_a_map_would(steps in steps(), seed in any::<u64>()) {
        let mut pair = Pair::new(64, seed);
        for step in &steps {
            pair.step(step);
            pair.compare();
        }
    }

    #[test]
    fn a_full_bridge_evicts_one_entry_of_a_largest_port(steps in steps(), seed in any::<u64>()) {
        const MAX: u32 = 8;
        let mut pair = Pair::new(MAX, seed);
        for step in &steps {
            match *step {
                Step::Frame { in_port, src, .. } | Step::Broadcast { in_port, src } => {
                    pair.frame_at_small_table(in_port, src, MAX as usize);
                }
                // Static entries that fill the table are the ledger's own test.
                Step::Burst { .. } => {}
                Step::AddStatic { mac, .. } if mac > 3 || pair.model.known.len() >= MAX as usize => {}
                _ => pair.step(step),
            }
            pair.compare();
        }
    }
}
