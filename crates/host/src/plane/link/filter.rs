//! The receive filter of an uplink's interface: which stations and groups it takes from the wire.
//!
//! The filter is held by memberships of a packet socket that itself receives nothing (protocol 0). The kernel takes them
//! out when the socket closes, also when the program is killed, so nothing is ever left behind.
//!
//! **Order.** A change first programs what is new, then leaves promiscuous mode, then removes what is old; promiscuous
//! mode is entered before anything is removed. So at no moment a frame is refused that both the old and the new
//! filter take. Only the difference is programmed, at most [`ADDRESSES_MAX`] addresses are held, and the first refusal
//! ends a change (after one more attempt, when what is old is out of the way), so one change has bounded work.
//!
//! **What cannot be trusted.** A driver without a unicast filter (tap, veth) makes its interface promiscuous with the
//! first address; one that has run out of places may do so too. Both show in the interface's promiscuity, which is read
//! after each change. A NIC that overflows silently cannot be told from one that filters. A macvlan or macvtap takes
//! frames to its own address only unless its mode is passthru, whatever is programmed, and in that mode the interface
//! below it counts too. [`Applied`] says all this.

use super::interface::{Below, Interface, Reader};
use super::packet;
use crate::sys::{self, Address, Membership};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

/// Unicast addresses, and groups, that are programmed at most; more than any NIC has places for.
pub(in crate::plane) const ADDRESSES_MAX: usize = 4096;

/// What the interface should take. Its own address and broadcasts it takes in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::plane) struct Wanted {
    /// Why every frame is wanted; `None`: only those to the addresses below.
    pub(in crate::plane) promiscuous: Option<String>,
    /// Stations behind the switch.
    pub(in crate::plane) unicast: BTreeSet<Address>,
    /// Groups that someone behind the switch has joined; `None`: all groups.
    pub(in crate::plane) multicast: Option<BTreeSet<Address>>,
}

impl Wanted {
    /// Every frame, for this reason.
    pub(in crate::plane) fn everything(reason: &str) -> Self {
        Self { promiscuous: Some(reason.into()), ..Self::default() }
    }
}

/// What the interface takes now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plane) struct Applied {
    /// Whether the interface takes frames to the wanted stations and to no others. Else it is promiscuous, gone, or a macvtap
    /// that cannot take them.
    pub(in crate::plane) exact: bool,
    /// A word for it: `exact`, `promiscuous`, `own-address` (a macvtap that cannot take others) or `gone`.
    pub(in crate::plane) mode: &'static str,
    /// Why it is not exact, or what it takes: a phrase for people.
    pub(in crate::plane) reason: String,
    /// Stations programmed.
    pub(in crate::plane) unicast: usize,
    /// Groups programmed; `None`: all.
    pub(in crate::plane) multicast: Option<usize>,
    /// System calls that changed the filter, since it was opened.
    pub(in crate::plane) operations: u64,
}

/// The kernel's side of a filter, as far as it is used here.
pub(in crate::plane) trait Kernel {
    /// The interface of this name now.
    fn read(&self, name: &str) -> io::Result<Interface>;
    /// Adds a membership in the filter of the interface `index`, or takes it out.
    fn change(&self, add: bool, index: u32, membership: Membership) -> io::Result<()>;
}

/// The real one.
pub(in crate::plane) struct Memberships {
    socket: OwnedFd,
    reader: Reader,
}

impl Kernel for Memberships {
    fn read(&self, name: &str) -> io::Result<Interface> {
        self.reader.read(name)
    }

    fn change(&self, add: bool, index: u32, membership: Membership) -> io::Result<()> {
        sys::change_membership(&self.socket, add, index, membership)
    }
}

/// The filter of one interface.
pub(in crate::plane) struct InterfaceFilter<K = Memberships> {
    name: String,
    kernel: K,
    /// The interface that the memberships are in; `None`: there is none of that name.
    index: Option<u32>,
    wanted: Wanted,
    /// The interface's own address when something was wanted last.
    address: Option<Address>,
    promiscuous: bool,
    /// Why.
    refused: String,
    all_groups: bool,
    unicast: BTreeSet<Address>,
    multicast: BTreeSet<Address>,
    /// The interface became promiscuous by our first address.
    cannot_filter: bool,
    operations: u64,
}

impl InterfaceFilter {
    /// A filter for the interface `name` that takes nothing yet beyond what the interface does by itself.
    ///
    /// # Errors
    /// `NotFound`: no such interface. `PermissionDenied`: packet sockets need CAP_NET_RAW.
    pub(in crate::plane) fn open(name: &str) -> io::Result<Self> {
        Self::with(name, Memberships { socket: packet::socket()?, reader: Reader::open()? })
    }
}

impl<K: Kernel> InterfaceFilter<K> {
    pub(super) fn with(name: &str, kernel: K) -> io::Result<Self> {
        let index = Some(kernel.read(name)?.index);
        Ok(Self {
            name: name.into(),
            kernel,
            index,
            wanted: Wanted::default(),
            address: None,
            promiscuous: false,
            refused: String::new(),
            all_groups: false,
            unicast: BTreeSet::new(),
            multicast: BTreeSet::new(),
            cannot_filter: false,
            operations: 0,
        })
    }

    /// Makes the interface take what is wanted, or more where it must; what was refused before is tried again.
    pub(in crate::plane) fn apply(&mut self, wanted: &Wanted) -> Applied {
        self.wanted.clone_from(wanted);
        let Some(before) = self.find() else { return self.gone() };
        self.address = before.address;
        let unicast: BTreeSet<Address> =
            wanted.unicast.iter().copied().filter(|address| Some(*address) != before.address).collect();
        let groups = wanted.multicast.as_ref();
        let refused = match &wanted.promiscuous {
            Some(reason) => Some(reason.clone()),
            None => self.program(&unicast, groups, &before).err(),
        };
        if let Some(reason) = refused {
            if let Err(error) = self.set_promiscuous(true) {
                // Nothing is removed then: what was programmed is all that comes.
                let reason = format!("{reason}; but {} cannot be promiscuous: {error}", self.name);
                return self.report(false, reason);
            }
            let removed = self.remove(&unicast, groups);
            self.refused = reason;
            if wanted.promiscuous.is_some() || !removed {
                return self.observe();
            }
            // What is old may have stood in the way of what is new.
            if let Err(reason) = self.program(&unicast, groups, &before) {
                self.refused = reason;
                return self.observe();
            }
        }
        let left = self.set_promiscuous(false);
        self.remove(&unicast, groups);
        match left {
            Ok(()) => self.observe(),
            Err(error) => {
                self.report(false, format!("{} does not leave promiscuous mode: {error}", self.name))
            }
        }
    }

    /// What the interface takes now, by the kernel's word; changes nothing.
    pub(in crate::plane) fn observe(&self) -> Applied {
        let Ok(interface) = self.kernel.read(&self.name) else { return self.gone() };
        let name = &self.name;
        if interface.own_address_only && !self.unicast.is_empty() {
            let reason =
                format!("{name} takes frames to its own address only: its mode would have to be passthru");
            return Applied { mode: "own-address", ..self.report(false, reason) };
        }
        if self.promiscuous {
            return self.report(false, self.refused.clone());
        }
        match (interface.promiscuity, &interface.below) {
            (0, Some(Below { name: below, promiscuity: 1.. })) if !interface.own_address_only => {
                self.report(false, format!("{below}, below {name}, is promiscuous"))
            }
            (0, _) => self.report(true, "only known addresses are taken".into()),
            _ if self.cannot_filter => self.report(false, format!("{name} cannot filter")),
            _ => {
                let reason =
                    format!("{name} is promiscuous: it cannot filter, or another program wants it so");
                self.report(false, reason)
            }
        }
    }

    /// Programs the filter again if the interface was removed and made anew, or got another address. To be called now and
    /// then.
    pub(in crate::plane) fn tend(&mut self) {
        let found = self.kernel.read(&self.name).ok();
        let (index, address) =
            (found.as_ref().map(|found| found.index), found.and_then(|found| found.address));
        if (index, address) != (self.index, self.address) {
            self.apply(&self.wanted.clone());
        }
    }

    /// The interface of that name; forgets what was programmed into another one.
    fn find(&mut self) -> Option<Interface> {
        let found = self.kernel.read(&self.name).ok();
        let index = found.as_ref().map(|interface| interface.index);
        if self.index != index {
            // It is gone, and the kernel has forgotten our memberships; or it has another name now.
            self.clear();
            (self.index, self.address) = (index, None);
        }
        found
    }

    fn clear(&mut self) {
        let none = BTreeSet::new();
        self.remove(&none, Some(&none));
        let _ = self.set_promiscuous(false);
        self.unicast.clear();
        self.multicast.clear();
        (self.promiscuous, self.all_groups, self.cannot_filter) = (false, false, false);
    }

    /// Adds what is missing; the reason if not all of it could be.
    fn program(
        &mut self,
        unicast: &BTreeSet<Address>,
        multicast: Option<&BTreeSet<Address>>,
        before: &Interface,
    ) -> Result<(), String> {
        let groups = multicast.map_or(0, BTreeSet::len);
        if unicast.len() > ADDRESSES_MAX || groups > ADDRESSES_MAX {
            return Err(format!("more than {ADDRESSES_MAX} addresses are behind the switch"));
        }
        match multicast {
            None => self.set_all_groups(true)?,
            Some(groups) => {
                for group in groups.difference(&self.multicast.clone()) {
                    self.change(true, Membership::Multicast(*group))
                        .map_err(|error| self.refusal(*group, &error))?;
                    self.multicast.insert(*group);
                }
            }
        }
        let first = self.unicast.is_empty();
        for address in unicast.difference(&self.unicast.clone()) {
            self.change(true, Membership::Unicast(*address))
                .map_err(|error| self.refusal(*address, &error))?;
            self.unicast.insert(*address);
        }
        if first && !self.unicast.is_empty() {
            // Promiscuous mode of our own counts the same in both.
            let after = self.kernel.read(&self.name).map_or(0, |interface| interface.promiscuity);
            self.cannot_filter = after > before.promiscuity;
        }
        Ok(())
    }

    /// Removes what is not wanted; whether there was any.
    fn remove(&mut self, unicast: &BTreeSet<Address>, multicast: Option<&BTreeSet<Address>>) -> bool {
        let before = self.unicast.len() + self.multicast.len();
        for address in self.unicast.clone().difference(unicast) {
            if self.change(false, Membership::Unicast(*address)).is_ok() {
                self.unicast.remove(address);
            }
        }
        self.cannot_filter &= !self.unicast.is_empty();
        let none = BTreeSet::new();
        for group in self.multicast.clone().difference(multicast.unwrap_or(&none)) {
            if self.change(false, Membership::Multicast(*group)).is_ok() {
                self.multicast.remove(group);
            }
        }
        if multicast.is_some() && self.all_groups && self.change(false, Membership::AllGroups).is_ok() {
            self.all_groups = false;
        }
        self.unicast.len() + self.multicast.len() < before
    }

    fn set_all_groups(&mut self, on: bool) -> Result<(), String> {
        if self.all_groups != on {
            self.change(on, Membership::AllGroups)
                .map_err(|error| format!("{} refused all groups: {error}", self.name))?;
            self.all_groups = on;
        }
        Ok(())
    }

    fn set_promiscuous(&mut self, on: bool) -> io::Result<()> {
        if self.promiscuous != on {
            self.change(on, Membership::Promiscuous)?;
            self.promiscuous = on;
        }
        Ok(())
    }

    fn change(&mut self, add: bool, membership: Membership) -> io::Result<()> {
        let Some(index) = self.index else { return Err(io::ErrorKind::NotFound.into()) };
        self.operations += 1;
        self.kernel.change(add, index, membership)
    }

    fn refusal(&self, address: Address, error: &io::Error) -> String {
        format!("{} refused {}: {error}", self.name, switch::MacAddr(address))
    }

    fn gone(&self) -> Applied {
        Applied { mode: "gone", ..self.report(false, format!("there is no interface {}", self.name)) }
    }

    fn report(&self, exact: bool, reason: String) -> Applied {
        Applied {
            exact,
            mode: if exact { "exact" } else { "promiscuous" },
            reason,
            unicast: self.unicast.len(),
            multicast: (!self.all_groups && !self.promiscuous).then_some(self.multicast.len()),
            operations: self.operations,
        }
    }
}
