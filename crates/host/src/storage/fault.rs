//! Faults on purpose: what a disk does wrong, and to which request, so that tests see what becomes of it.

use devices::storage::IoFault;
use std::collections::BTreeMap;
use std::time::Duration;

/// What happens to one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It fails and does nothing.
    Fail(IoFault),
    /// So many bytes of its data are read or written, then it fails: a torn write.
    Tear {
        /// Bytes.
        len: u64,
        /// How it fails.
        fault: IoFault,
    },
    /// It begins so much later.
    Delay(Duration),
    /// It hangs until it is aborted.
    Hang,
    /// It hangs, and cannot be aborted.
    Stick,
}

/// Faults of one engine, by the number of the request that they happen to; the first request is number 0.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    next: u64,
    faults: BTreeMap<u64, Fault>,
    rest: Option<Fault>,
}

impl FaultPlan {
    /// No faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// `fault` happens to request `number`.
    pub fn at(mut self, number: u64, fault: Fault) -> Self {
        self.faults.insert(number, fault);
        self
    }

    /// `fault` happens to every request that has none of its own.
    pub fn others(mut self, fault: Fault) -> Self {
        self.rest = Some(fault);
        self
    }

    /// What happens to the next request.
    pub(super) fn next(&mut self) -> Option<Fault> {
        let number = self.next;
        self.next += 1;
        self.faults.remove(&number).or(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_request() {
        let mut plan = FaultPlan::new().at(1, Fault::Hang).at(2, Fault::Fail(IoFault::NoSpace));
        let found: Vec<_> = (0..4).map(|_| plan.next()).collect();
        assert_eq!(found, [None, Some(Fault::Hang), Some(Fault::Fail(IoFault::NoSpace)), None]);
        let mut plan = FaultPlan::new().at(0, Fault::Hang).others(Fault::Stick);
        assert_eq!((plan.next(), plan.next()), (Some(Fault::Hang), Some(Fault::Stick)));
    }
}
