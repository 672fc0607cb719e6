//! A receive filter against a simulated kernel that looks, after each single change, whether a frame is lost that both
//! the old and the new filter take. It refuses addresses beyond its places.

use crate::plane::link::filter::{InterfaceFilter, Kernel, Wanted};
use crate::plane::link::interface::Interface;
use crate::sys::{Address, Membership};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

#[derive(Default)]
struct State {
    memberships: Vec<Membership>,
    /// Addresses that it has places for.
    places: usize,
    /// What may not be refused at any moment of the change that is going on.
    guarded: Vec<Membership>,
    changes: u64,
}

impl State {
    fn takes(&self, address: Membership) -> bool {
        let group = matches!(address, Membership::Multicast(_) | Membership::AllGroups);
        let held = |membership: &Membership| self.memberships.contains(membership);
        held(&address) || held(&Membership::Promiscuous) || (group && held(&Membership::AllGroups))
    }
}

#[derive(Clone)]
struct Simulated(Rc<RefCell<State>>);

impl Kernel for Simulated {
    fn read(&self, _: &str) -> io::Result<Interface> {
        let promiscuous = self.0.borrow().memberships.contains(&Membership::Promiscuous);
        Ok(Interface {
            transmit_queues: 1,
            index: 7,
            ethernet: true,
            up: true,
            running: true,
            mtu: 1500,
            address: None,
            promiscuity: promiscuous.into(),
            own_address_only: false,
            below: None,
        })
    }

    fn change(&self, add: bool, index: u32, membership: Membership) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        assert_eq!(index, 7);
        state.changes += 1;
        let held = state.memberships.contains(&membership);
        assert_ne!(held, add, "{membership:?} is changed for nothing");
        if add {
            let counts = |m: &Membership| matches!(m, Membership::Unicast(_) | Membership::Multicast(_));
            if counts(&membership) && state.memberships.iter().filter(|m| counts(m)).count() >= state.places {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            state.memberships.push(membership);
        } else {
            state.memberships.retain(|other| *other != membership);
        }
        for address in &state.guarded {
            assert!(state.takes(*address), "{address:?} is refused for a moment by {add} {membership:?}");
        }
        Ok(())
    }
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn addresses(&mut self, first: u8) -> BTreeSet<Address> {
        (0..self.below(8)).map(|_| [first, 0, 0x5e, 0, 0, self.below(12) as u8]).collect()
    }

    fn wanted(&mut self) -> Wanted {
        Wanted {
            promiscuous: (self.below(4) == 0).then(|| "by chance".into()),
            unicast: self.addresses(2),
            multicast: (self.below(4) != 0).then(|| self.addresses(1)),
        }
    }
}

fn memberships(wanted: &Wanted) -> Vec<Membership> {
    let unicast = wanted.unicast.iter().map(|address| Membership::Unicast(*address));
    let multicast = match &wanted.multicast {
        Some(groups) => groups.iter().map(|group| Membership::Multicast(*group)).collect(),
        None => vec![Membership::AllGroups],
    };
    unicast.chain(multicast).collect()
}

#[test]
fn no_change_refuses_what_is_wanted_before_and_after() {
    let mut dice = Dice(1);
    for places in [3, 8, 1000] {
        let state = Rc::new(RefCell::new(State { places, ..State::default() }));
        let mut filter = InterfaceFilter::with("nic", Simulated(Rc::clone(&state))).unwrap();
        let mut before = Wanted::default();
        filter.apply(&before);
        let (mut exact, mut refused) = (0, 0);
        for _ in 0..5000 {
            let wanted = dice.wanted();
            let (old, new) = (memberships(&before), memberships(&wanted));
            let mut guarded: Vec<Membership> = old.iter().filter(|m| new.contains(m)).copied().collect();
            if before.promiscuous.is_some() && wanted.promiscuous.is_some() {
                guarded.push(Membership::Promiscuous);
            }
            // Groups that were wanted one by one and now with all others.
            if wanted.multicast.is_none() {
                guarded.extend(old.iter().filter(|m| matches!(m, Membership::Multicast(_))));
            }
            let changes = {
                let mut state = state.borrow_mut();
                guarded.retain(|membership| state.takes(*membership));
                state.guarded = guarded;
                state.changes
            };
            let applied = filter.apply(&wanted);
            let state = state.borrow();
            assert!(
                state.changes - changes <= (old.len() + new.len() + 5) as u64,
                "more than the difference"
            );
            assert_eq!(applied.operations, state.changes);
            for membership in &new {
                assert!(state.takes(*membership), "{membership:?} is wanted");
            }
            let promiscuous = state.memberships.contains(&Membership::Promiscuous);
            assert_eq!(applied.exact, !promiscuous);
            match (&wanted.promiscuous, promiscuous) {
                (Some(reason), _) => assert_eq!((&applied.reason, promiscuous), (reason, true)),
                (None, true) => {
                    refused += 1;
                    assert!(new.len() > places, "{} places are enough for {new:?}", places);
                    assert!(applied.reason.starts_with("nic refused 0"), "{}", applied.reason);
                }
                (None, false) => {
                    exact += 1;
                    assert_eq!(applied.unicast, wanted.unicast.len());
                    assert_eq!(applied.multicast, wanted.multicast.as_ref().map(BTreeSet::len));
                }
            }
            assert!(state.memberships.iter().all(|m| new.contains(m) || *m == Membership::Promiscuous));
            before = wanted;
        }
        assert!(
            exact > 500 && (refused > 300 || places > 8),
            "{places} places: {exact} exact, {refused} refused"
        );
    }
}
