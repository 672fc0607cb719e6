//! Random lives of the groups, compared step by step with slow and obvious ones.

use super::*;

/// What the model keeps of one listener.
#[derive(Clone, Debug)]
struct Kept {
    until: u64,
    first: &'static str,
    aliased: bool,
}

/// The rules written down slowly, for one VLAN and IPv4.
#[derive(Default)]
struct Model {
    listeners: BTreeMap<(MacAddr, u16), Kept>,
    routers: BTreeMap<u16, u64>,
    queriers: BTreeMap<u16, u64>,
    since: u64,
    until: u64,
    /// Whether it has an address, its port, until when it is known.
    elected: Option<(bool, u16, u64)>,
}

#[derive(Clone, Debug)]
enum Step {
    Join(u16, &'static str),
    Leave(u16, &'static str, bool),
    Query(u16, bool),
    Pim(u16),
    Forget(u16),
    Pass(u64),
    Age,
}

const POOL: [&str; 5] = [GROUP, ALIAS, "239.7.0.1", "239.7.0.2", "239.7.0.3"];
const LIMIT: usize = 3;

impl Model {
    fn take(&mut self, step: &Step, now: u64) {
        match *step {
            Step::Join(port, group) => {
                let has = self.listeners.keys().filter(|(_, other)| *other == port).count();
                let fresh = Kept { until: 0, first: group, aliased: false };
                let key = (mac(group), port);
                if !self.listeners.contains_key(&key) && has >= LIMIT {
                    return;
                }
                let kept = self.listeners.entry(key).or_insert(fresh);
                kept.until = now + MEMBERSHIP_MS;
                kept.aliased |= kept.first != group;
            }
            Step::Leave(port, group, fast) => {
                if let Some(kept) = self.listeners.get_mut(&(mac(group), port))
                    && kept.first == group
                    && !kept.aliased
                {
                    kept.until = kept.until.min(now + if fast { 0 } else { LAST_MEMBER_MS });
                }
            }
            Step::Query(port, has_address) => {
                self.since = if self.until > now { self.since.min(now + 10_000) } else { now + 10_000 };
                self.until = now + QUERIER_MS;
                // All that have an address have the same.
                self.elected = match self.elected {
                    Some((other, elected, until))
                        if until > now && elected != port && (other || !has_address) =>
                    {
                        self.elected
                    }
                    _ => Some((has_address, port, now + QUERIER_MS)),
                };
                self.queriers.insert(port, now + QUERIER_MS);
                if has_address {
                    self.routers.insert(port, now + QUERIER_MS);
                }
            }
            Step::Pim(port) => drop(self.routers.insert(port, now + QUERIER_MS)),
            Step::Forget(port) => {
                self.listeners.retain(|(_, other), _| *other != port);
                self.routers.remove(&port);
                self.queriers.remove(&port);
                if self.elected.is_some_and(|(_, elected, _)| elected == port) {
                    (self.elected, self.until) = (None, 0);
                }
            }
            Step::Pass(_) => (),
            Step::Age => self.listeners.retain(|_, kept| kept.until > now),
        }
    }

    fn who(&self, group: &str, now: u64) -> Who {
        if self.until <= now || self.since > now {
            return None;
        }
        let listens = |port| self.listeners.get(&(mac(group), port)).is_some_and(|kept| kept.until > now);
        let routes = |port| self.routers.get(&port).is_some_and(|until| *until > now);
        Some(PORTS.filter(|port| listens(*port) || routes(*port)).collect())
    }

    fn reported_to(&self, now: u64) -> Who {
        let is_ahead = |map: &BTreeMap<u16, u64>, port| map.get(&port).is_some_and(|until| *until > now);
        let ports: Vec<u16> =
            PORTS.filter(|port| is_ahead(&self.routers, *port) || is_ahead(&self.queriers, *port)).collect();
        (!ports.is_empty()).then_some(ports)
    }
}

fn step() -> impl Strategy<Value = Step> {
    let port = PORTS;
    let group = || prop::sample::select(&POOL[..]);
    prop_oneof![
        6 => (port.clone(), group()).prop_map(|(port, group)| Step::Join(port, group)),
        4 => (port.clone(), group(), any::<bool>()).prop_map(|(port, group, fast)| Step::Leave(port, group, fast)),
        2 => (port.clone(), any::<bool>()).prop_map(|(port, has_address)| Step::Query(port, has_address)),
        1 => port.clone().prop_map(Step::Pim),
        1 => port.prop_map(Step::Forget),
        // Steps between which a deadline is either not moved at all or far enough.
        4 => prop::sample::select(vec![1_500, 2_000, 10_000, 60_000, 130_000]).prop_map(Step::Pass),
        2 => Just(Step::Age),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_table_does_what_the_model_does(steps in prop::collection::vec(step(), 1..120)) {
        let (mut bench, mut model) = (Bench::new(), Model::default());
        for step in &steps {
            model.take(step, bench.now.as_millis());
            let trust = |fast_leave| Trust { fast_leave, groups_max: LIMIT as u32, ..TRUST };
            match *step {
                Step::Join(port, group) => drop(bench.sees_as(port, &join(group), trust(false))),
                Step::Leave(port, group, fast) => drop(bench.sees_as(port, &leave(group), trust(fast))),
                Step::Query(port, true) => drop(bench.sees(port, &query(HOST))),
                Step::Query(port, false) => drop(bench.sees(port, &query("0.0.0.0"))),
                Step::Pim(port) => drop(bench.sees(port, &pim())),
                Step::Forget(port) => bench.groups.forget_port(PortId(port)),
                Step::Pass(millis) => bench.pass(millis),
                Step::Age => bench.groups.age(bench.now),
            }
            let now = bench.now.as_millis();
            for group in POOL {
                prop_assert_eq!(bench.who(group), model.who(group, now), "{} after {:?}", group, step);
            }
            prop_assert_eq!(bench.reported_to(GROUP), model.reported_to(now), "after {:?}", step);
            let alive = model.listeners.values().filter(|kept| kept.until > now).count();
            let listed: usize = bench.groups.entries(bench.now).iter().map(|entry| entry.ports.len()).sum();
            prop_assert_eq!(listed, alive);
        }
    }
}
