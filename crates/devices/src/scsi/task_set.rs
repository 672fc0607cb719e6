//! The task set of a logical unit: which commands are in flight, which of them a task management function ends, and
//! which of them cannot go on at the same time (SAM-5 §7, §8).
//!
//! All initiators share one set, and all tasks count as SIMPLE. The host starts a task here before it gives the first step to
//! the disk, and ends it when it has completed the request. A function answers at once *which* tasks it ends; it is complete only
//! when the host has cancelled and completed them (virtio 1.3 §5.6.6.2).

use super::nexus::{Nexus, NexusSet};
use super::sense::Asc;
use super::unit::LogicalUnit;
use crate::storage::Extent;

/// Tasks of one unit at most.
pub const TASKS_MAX: usize = 4096;

/// A task in flight, as its set knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TaskId {
    place: u32,
    generation: u32,
}

/// What is known of a task in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// From whom.
    pub nexus: Nexus,
    /// The initiator's name for it.
    pub tag: u64,
    /// The bytes of the disk that it is about.
    pub extent: Extent,
    /// Nobody else may touch these meanwhile.
    pub is_exclusive: bool,
}

/// A task management function (SAM-5 §7.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "each is the standard's name of the function")]
pub enum Function {
    AbortTask { tag: u64 },
    AbortTaskSet,
    ClearAca,
    ClearTaskSet,
    NexusReset,
    UnitReset,
    QueryTask { tag: u64 },
    QueryTaskSet,
}

/// The service response of a function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Response {
    /// FUNCTION COMPLETE.
    Complete,
    /// FUNCTION SUCCEEDED: what was asked for is in the set.
    Succeeded,
}

/// How a task that a function ends is completed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ending {
    /// It was aborted by its own initiator, or by another one that leaves no trace (TAS zero).
    Aborted,
    /// It was aborted by another initiator: status TASK ABORTED (TAS one).
    TaskAborted,
    /// A reset has ended it.
    Reset,
}

/// What a function came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Managed {
    /// The response, due when everything in `ended` is completed.
    pub response: Response,
    /// The tasks that it ends.
    pub ended: Vec<(TaskId, Ending)>,
    /// A reset has switched the write cache off: a flush has to be done before the function is complete.
    pub flush: bool,
}

/// The tasks of one unit.
#[derive(Clone, Debug, Default)]
pub struct TaskSet {
    places: Vec<Place>,
    free: Vec<u32>,
    /// Exclusive tasks in the set.
    exclusive: usize,
    /// Tasks taken in so far.
    started: u64,
}

/// Where a task is kept. The generation tells it from those that were there before.
#[derive(Clone, Debug)]
struct Place {
    generation: u32,
    sequence: u64,
    entry: Option<Entry>,
}

impl TaskSet {
    /// Takes a task in. `None`: there are [`TASKS_MAX`], and the command is to end with TASK SET FULL.
    pub fn start(&mut self, entry: Entry) -> Option<TaskId> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() < TASKS_MAX => {
                self.places.push(Place { generation: 0, sequence: 0, entry: None });
                self.places.len() as u32 - 1
            }
            None => return None,
        };
        let slot = &mut self.places[place as usize];
        (slot.sequence, slot.entry) = (self.started, Some(entry));
        self.started += 1;
        self.exclusive += usize::from(entry.is_exclusive);
        Some(TaskId { place, generation: slot.generation })
    }

    /// Takes a task out. One that is not in the set any more stays so.
    pub fn end(&mut self, id: TaskId) -> Option<Entry> {
        let slot = self.places.get_mut(id.place as usize)?;
        let entry = slot.entry.take_if(|_| slot.generation == id.generation)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.place);
        self.exclusive -= usize::from(entry.is_exclusive);
        Some(entry)
    }

    fn place(&self, id: TaskId) -> Option<&Place> {
        self.places.get(id.place as usize).filter(|place| place.generation == id.generation)
    }

    /// A task of this set.
    pub fn get(&self, id: TaskId) -> Option<&Entry> {
        self.place(id)?.entry.as_ref()
    }

    /// Tasks in the set.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a task has to wait for one that came before it, because one of the two needs its bytes for itself. To be asked again
    /// when a task ended. While no task of that kind is about, no other task is looked at.
    pub fn must_wait(&self, id: TaskId) -> bool {
        let Some(Place { sequence, entry: Some(task), .. }) = self.place(id) else { return false };
        let conflicts = |other: &Entry| {
            let (a, b) = (task.extent, other.extent);
            let overlap = a.len > 0 && b.len > 0 && a.offset < b.end() && b.offset < a.end();
            overlap && (task.is_exclusive || other.is_exclusive)
        };
        let is_earlier = |place: &&Place| place.sequence < *sequence;
        self.exclusive > 0
            && self.places.iter().filter(is_earlier).filter_map(|place| place.entry.as_ref()).any(conflicts)
    }

    fn entries(&self) -> impl Iterator<Item = (TaskId, &Entry)> {
        self.places.iter().enumerate().filter_map(|(place, slot)| {
            let id = TaskId { place: place as u32, generation: slot.generation };
            Some((id, slot.entry.as_ref()?))
        })
    }

    fn ended(&self, ending: impl Fn(&Entry) -> Option<Ending>) -> Vec<(TaskId, Ending)> {
        self.entries().filter_map(|(id, entry)| Some((id, ending(entry)?))).collect()
    }

    /// The tasks of `nexuses`, to be ended because another initiator preempted them (PREEMPT AND ABORT).
    pub fn preempted(&self, nexuses: NexusSet, unit: &LogicalUnit) -> Vec<(TaskId, Ending)> {
        let ending = by_another(unit);
        self.ended(|entry| nexuses.contains(entry.nexus).then_some(ending))
    }

    /// Carries out a function of `nexus` on this unit. I_T NEXUS RESET is about every unit of the target: the host calls this for
    /// each.
    pub fn manage(&self, function: Function, nexus: Nexus, unit: &mut LogicalUnit) -> Managed {
        let is_own = |entry: &Entry| entry.nexus == nexus;
        let has = |found: bool| if found { Response::Succeeded } else { Response::Complete };
        let (mut response, mut flush) = (Response::Complete, false);
        let ended = match function {
            Function::AbortTask { tag } => {
                self.ended(|entry| (is_own(entry) && entry.tag == tag).then_some(Ending::Aborted))
            }
            Function::AbortTaskSet => self.ended(|entry| is_own(entry).then_some(Ending::Aborted)),
            // NACA is refused in every CDB, so there never is an ACA condition to clear.
            Function::ClearAca => Vec::new(),
            Function::ClearTaskSet => {
                let ending = by_another(unit);
                self.tell_cleared(nexus, unit);
                self.ended(|entry| Some(if is_own(entry) { Ending::Aborted } else { ending }))
            }
            Function::NexusReset => {
                unit.reset_nexus(nexus);
                self.ended(|entry| is_own(entry).then_some(Ending::Reset))
            }
            Function::UnitReset => {
                flush = unit.reset();
                self.ended(|_| Some(Ending::Reset))
            }
            Function::QueryTask { tag } => {
                response = has(self.entries().any(|(_, entry)| is_own(entry) && entry.tag == tag));
                Vec::new()
            }
            Function::QueryTaskSet => {
                response = has(self.entries().any(|(_, entry)| is_own(entry)));
                Vec::new()
            }
        };
        Managed { response, ended, flush }
    }

    /// CLEAR TASK SET: initiators that lose a task learn of it, unless the task itself says so (SAM-5 §5.14.5).
    fn tell_cleared(&self, nexus: Nexus, unit: &mut LogicalUnit) {
        if by_another(unit) == Ending::TaskAborted {
            return;
        }
        let mut told = NexusSet::EMPTY;
        for (_, entry) in self.entries().filter(|(_, entry)| entry.nexus != nexus) {
            if !told.contains(entry.nexus) {
                told.insert(entry.nexus);
                unit.attend_one(entry.nexus, Asc::COMMANDS_CLEARED);
            }
        }
    }
}

/// How tasks of other initiators end, by TAS of the control mode page.
fn by_another(unit: &LogicalUnit) -> Ending {
    if unit.mode().task_aborted_status { Ending::TaskAborted } else { Ending::Aborted }
}

#[cfg(test)]
mod tests {
    use super::super::disk::tests::full;
    use super::super::nexus::InitiatorId;
    use super::super::reservation::Reservations;
    use super::*;

    fn nexus(index: usize) -> Nexus {
        Nexus::new(index).unwrap()
    }

    fn entry(from: usize, tag: u64, offset: u64, is_exclusive: bool) -> Entry {
        Entry { nexus: nexus(from), tag, extent: Extent { offset, len: 1024 }, is_exclusive }
    }

    /// Two initiators, each with a task of tag 7; the first with one of tag 8 besides.
    fn set() -> (TaskSet, LogicalUnit, [TaskId; 3]) {
        let mut unit = LogicalUnit::new(full(64), &Reservations::default()).unwrap();
        for index in 0..2 {
            unit.attach(nexus(index), InitiatorId(index as u64));
            unit.attend_one(nexus(index), Asc::DEVICE_RESET);
            assert_eq!(unit.take_attention(nexus(index)), Some(Asc::DEVICE_RESET));
        }
        let mut set = TaskSet::default();
        let ids = [entry(0, 7, 0, false), entry(0, 8, 0, false), entry(1, 7, 0, false)];
        let ids = ids.map(|entry| set.start(entry).unwrap());
        (set, unit, ids)
    }

    #[test]
    fn each_function_ends_what_it_is_about() {
        use Ending::{Aborted, Reset};
        let (set, mut unit, [a, b, c]) = set();
        let mut manage = |function| {
            let managed = set.manage(function, nexus(0), &mut unit);
            (managed.response, managed.ended)
        };
        let complete = Response::Complete;
        assert_eq!(manage(Function::AbortTask { tag: 7 }), (complete, vec![(a, Aborted)]));
        assert_eq!(manage(Function::AbortTask { tag: 9 }), (complete, vec![]));
        assert_eq!(manage(Function::AbortTaskSet), (complete, vec![(a, Aborted), (b, Aborted)]));
        assert_eq!(manage(Function::ClearAca), (complete, vec![]));
        assert_eq!(
            manage(Function::ClearTaskSet),
            (complete, vec![(a, Aborted), (b, Aborted), (c, Aborted)])
        );
        assert_eq!(manage(Function::NexusReset), (complete, vec![(a, Reset), (b, Reset)]));
        assert_eq!(manage(Function::QueryTask { tag: 8 }), (Response::Succeeded, vec![]));
        assert_eq!(manage(Function::QueryTask { tag: 9 }), (complete, vec![]));
        assert_eq!(manage(Function::QueryTaskSet), (Response::Succeeded, vec![]));
        assert_eq!(manage(Function::UnitReset), (complete, vec![(a, Reset), (b, Reset), (c, Reset)]));
        // The second initiator was told of the cleared task, then of the reset, which takes the place of that.
        assert_eq!(unit.take_attention(nexus(1)), Some(Asc::DEVICE_RESET));
        assert_eq!(unit.take_attention(nexus(1)), None);
    }

    #[test]
    fn an_initiator_that_loses_tasks_is_told_once() {
        let (set, mut unit, [_, _, c]) = set();
        set.manage(Function::ClearTaskSet, nexus(0), &mut unit);
        assert_eq!(unit.take_attention(nexus(0)), None);
        assert_eq!(unit.take_attention(nexus(1)), Some(Asc::COMMANDS_CLEARED));
        unit.mode.task_aborted_status = true;
        let managed = set.manage(Function::ClearTaskSet, nexus(0), &mut unit);
        assert!(managed.ended.contains(&(c, Ending::TaskAborted)));
        assert_eq!(unit.take_attention(nexus(1)), None);
        let mut others = NexusSet::EMPTY;
        others.insert(nexus(1));
        assert_eq!(set.preempted(others, &unit), [(c, Ending::TaskAborted)]);
    }

    #[test]
    fn a_reset_to_write_through_needs_a_flush() {
        let (set, mut unit, _) = set();
        assert!(!set.manage(Function::UnitReset, nexus(0), &mut unit).flush);
        unit.disk.write_cache = false;
        assert!(set.manage(Function::UnitReset, nexus(0), &mut unit).flush);
        assert!(!set.manage(Function::UnitReset, nexus(0), &mut unit).flush);
    }

    #[test]
    fn tasks_are_ended_once() {
        let (mut set, _, [a, ..]) = set();
        assert_eq!(set.get(a).unwrap().tag, 7);
        assert!(set.end(a).is_some() && set.end(a).is_none() && set.get(a).is_none());
        let again = set.start(entry(1, 1, 0, false)).unwrap();
        assert!(again != a && set.end(a).is_none() && set.len() == 3);
        for tag in 3..TASKS_MAX as u64 {
            assert!(set.start(entry(0, tag, 0, false)).is_some());
        }
        assert!(set.start(entry(0, 0, 0, false)).is_none());
    }

    #[test]
    fn exclusive_tasks_are_alone_on_their_bytes_in_the_order_of_coming() {
        let mut set = TaskSet::default();
        let mut start = |offset, is_exclusive| set.start(entry(0, 1, offset, is_exclusive)).unwrap();
        let (plain, alone) = (start(1024, false), start(1536, true));
        let (behind, elsewhere, beside) = (start(2048, false), start(4096, false), start(512, false));
        let waits = |set: &TaskSet| [plain, alone, behind, elsewhere, beside].map(|id| set.must_wait(id));
        assert_eq!(waits(&set), [false, true, true, false, false]);
        set.end(plain);
        assert_eq!(waits(&set), [false, false, true, false, false]);
        set.end(alone);
        assert_eq!(waits(&set), [false; 5]);
    }

    #[test]
    fn a_task_about_nothing_waits_for_nothing() {
        let mut set = TaskSet::default();
        set.start(entry(0, 1, 0, true)).unwrap();
        let flush = Entry { extent: Extent::default(), ..entry(0, 2, 0, false) };
        let flush = set.start(flush).unwrap();
        assert!(!set.must_wait(flush) && set.len() == 2 && !set.is_empty());
    }
}
