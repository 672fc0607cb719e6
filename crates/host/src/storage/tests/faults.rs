//! Faults on purpose, requests that hang, queues that are full, and who is woken when.

use super::super::{Abort, Fault, FaultPlan, Full};
use super::*;
use devices::storage::{Failure, IoFault};

fn null() -> Arc<Image> {
    Arc::new(Image::null(1 << 30))
}

#[test]
fn each_fault_is_one_request_s() {
    let guest = Guest::new();
    let data = guest.data(0, 4096, &[]);
    for kind in KINDS {
        let (_place, path) = file(&[0; 64 << 10]);
        let image = open(&path, &Options::default());
        let torn = Fault::Tear { len: 1024, fault: IoFault::NoSpace };
        let plan = FaultPlan::new().at(1, Fault::Fail(IoFault::Medium)).at(2, torn).at(4, torn);
        let mut engine = engine(&image, kind).with_faults(plan);
        guest.put(0, &[8; 4096]);
        let mut write = |offset| run(&mut engine, write_to(extent(offset, 4096)), &data);
        assert_eq!(write(0), Ok(()));
        assert_eq!(write(4096), Err(IoFault::Medium.into()));
        assert_eq!(write(8192), Err(Failure { fault: IoFault::NoSpace, done: 1024 }));
        assert_eq!(write(12288), Ok(()));
        assert_eq!(run_bare(&mut engine, Work::Flush), Err(IoFault::NoSpace.into()));
        assert_eq!(run_bare(&mut engine, Work::Flush), Ok(()));
        let bytes = std::fs::read(&path).unwrap();
        let written = [(0..4096, 8), (4096..8192, 0), (8192..9216, 8), (9216..12288, 0), (12288..16384, 8)];
        for (range, byte) in written {
            assert!(bytes[range.clone()].iter().all(|found| *found == byte), "{range:?}");
        }
    }
}

#[test]
fn what_hangs_is_named_and_given_up() {
    let guest = Guest::new();
    let data = guest.data(0, 512, &[]);
    let later = Duration::from_secs(30);
    let plan = FaultPlan::new().at(0, Fault::Hang).at(1, Fault::Stick).at(2, Fault::Delay(later));
    let mut engine = engine(&null(), EngineKind::Auto).with_faults(plan);
    let start = Instant::now();
    engine.tick(start);
    for tag in 0..4 {
        engine.submit(tag, Work::Read(extent(0, 512)), &data.0, data.1).unwrap();
    }
    let stuck = |engine: &Engine, after| {
        let mut tags = Vec::new();
        engine.stuck(start + after, Duration::from_secs(10), |tag| tags.push(tag));
        tags.sort_unstable();
        tags
    };
    assert!(stuck(&engine, Duration::from_secs(9)).is_empty());
    let mut told = Vec::new();
    engine.reap(|tag, outcome| told.push((tag, outcome)));
    assert_eq!(told, [(3, Ok(()))]);
    assert_eq!(stuck(&engine, Duration::from_secs(10)), [0, 1, 2]);
    assert_eq!(
        (engine.abort(0), engine.abort(1), engine.abort(3)),
        (Abort::Ended, Abort::Asked, Abort::Unknown)
    );
    engine.tick(start + later);
    told.clear();
    engine.reap(|tag, outcome| told.push((tag, outcome)));
    told.sort_unstable_by_key(|(tag, _)| *tag);
    assert_eq!(told, [(0, Err(IoFault::Aborted.into())), (2, Ok(()))]);
    assert!(engine.abandon(1) && !engine.abandon(1));
    assert_eq!(wait(&mut engine, 1), [(1, Err(IoFault::Aborted.into()))]);
    assert_eq!(engine.in_flight(), 0);
}

/// The memory of requests that hang stays mapped as long as they do.
#[test]
fn an_engine_keeps_the_memory_of_what_is_in_flight() {
    let guest = Guest::new();
    let mut data = guest.data(0, 512, &[]);
    let gone = Arc::downgrade(&guest.0);
    let mut engine = engine(&null(), EngineKind::Auto).with_faults(FaultPlan::new().at(0, Fault::Hang));
    engine.submit(1, Work::Read(extent(0, 512)), &data.0, data.1).unwrap();
    data.0.clear();
    drop((data, guest));
    assert!(gone.upgrade().is_some());
    assert_eq!(engine.abort(1), Abort::Ended);
    assert_eq!(wait(&mut engine, 1), [(1, Err(IoFault::Aborted.into()))]);
    assert!(gone.upgrade().is_none());
}

#[test]
fn a_full_engine_says_so() {
    let guest = Guest::new();
    let data = guest.data(0, 512, &[]);
    let (_place, path) = file(&[0; 4096]);
    let image = open(&path, &Options::default());
    for kind in KINDS {
        let mut engine = Engine::new(Arc::clone(&image), kind, 2).unwrap();
        let submit =
            |engine: &mut Engine, tag| engine.submit(tag, Work::Read(extent(0, 512)), &data.0, data.1);
        assert_eq!((submit(&mut engine, 1), submit(&mut engine, 2)), (Ok(()), Ok(())));
        assert_eq!((submit(&mut engine, 3), engine.in_flight()), (Err(Full), 2));
        let mut tags: Vec<_> = wait(&mut engine, 2).iter().map(|(tag, _)| *tag).collect();
        tags.sort_unstable();
        assert_eq!((tags, engine.in_flight(), submit(&mut engine, 3)), (vec![1, 2], 0, Ok(())));
        assert_eq!(wait(&mut engine, 1), [(3, Ok(()))]);
    }
    let mut engine = Engine::new(null(), EngineKind::Auto, 2).unwrap();
    for tag in 0..2 {
        engine.submit(tag, Work::Flush, &data.0, data.1).unwrap();
    }
    assert_eq!(engine.submit(2, Work::Flush, &data.0, data.1), Err(Full));
}

/// Nothing is signalled to who looks by itself, and everything to who sleeps.
#[test]
fn only_who_rests_is_woken() {
    let guest = Guest::new();
    let data = guest.data(0, 4096, &[]);
    let (_place, path) = file(&[0; 4096]);
    let image = open(&path, &Options::default());
    for kind in KINDS {
        let mut engine = engine(&image, kind);
        for round in 0..20 {
            engine.active();
            quiet(&engine);
            engine.submit(round, Work::Read(extent(0, 4096)), &data.0, data.1).unwrap();
            let end = Instant::now() + PATIENCE;
            while engine.reap(|_, outcome| assert_eq!(outcome, Ok(()))) == 0 {
                assert!(Instant::now() < end);
            }
            assert!(!signalled(&engine, Duration::ZERO), "{kind:?}");
            engine.submit(round, Work::Read(extent(0, 4096)), &data.0, data.1).unwrap();
            // Either it says that there is something already, or it wakes us.
            assert!(!engine.rest() || signalled(&engine, PATIENCE), "{kind:?}");
            assert_eq!(wait(&mut engine, 1), [(round, Ok(()))]);
        }
        assert!(engine.rest());
    }
}

/// An abort of work in flight ends it one way or the other, and nothing waits for ever.
#[test]
fn an_abort_races_with_the_disk() {
    let guest = Guest::new();
    let data = guest.data(0, 512, &[]);
    let (_place, path) = file(&[0; 1 << 20]);
    let image = open(&path, &Options { block_min: 4096, ..Options::default() });
    for kind in KINDS {
        let mut engine = engine(&image, kind);
        for round in 0..50 {
            // All to parts of one block, so that some wait for others.
            for tag in 0..8 {
                engine.submit(tag, write_to(extent(tag * 512, 512)), &data.0, data.1).unwrap();
            }
            if round % 2 == 0 {
                engine.send();
            }
            let aborted: Vec<_> = (0..8).map(|tag| engine.abort(tag)).collect();
            assert!(!aborted.contains(&Abort::Unknown));
            let mut outcomes = wait(&mut engine, 8);
            outcomes.sort_unstable_by_key(|(tag, _)| *tag);
            for (index, (tag, outcome)) in outcomes.iter().enumerate() {
                let is_right = matches!(outcome, Ok(()) | Err(Failure { fault: IoFault::Aborted, .. }));
                assert!(is_right && *tag == index as u64, "{kind:?} {tag} {outcome:?}");
            }
            assert_eq!((engine.in_flight(), engine.abort(3)), (0, Abort::Unknown));
        }
        // Nothing was left behind that others would wait for.
        let data = guest.data(0, 4096, &[]);
        assert_eq!(run(&mut engine, write_to(extent(0, 4096)), &data), Ok(()));
    }
}

/// An engine that goes with requests in flight lets go of their memory when the disk has given it back.
#[test]
fn an_engine_may_end_with_requests_in_flight() {
    let (_place, path) = file(&vec![0; 4 << 20]);
    let image = open(&path, &Options::default());
    for kind in KINDS {
        let guest = Guest::new();
        let gone = Arc::downgrade(&guest.0);
        let mut engine = engine(&image, kind);
        for tag in 0..32 {
            let data = guest.data(tag * 65536, 65536, &[]);
            engine
                .submit(tag as u64, Work::Read(extent(tag as u64 * 65536, 65536)), &data.0, data.1)
                .unwrap();
        }
        engine.send();
        drop((engine, guest));
        let end = Instant::now() + PATIENCE;
        while gone.upgrade().is_some() {
            assert!(Instant::now() < end, "{kind:?}");
            std::thread::yield_now();
        }
    }
}
