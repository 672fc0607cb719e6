//! What a loss of power leaves: every write that was flushed or written through, whole sectors, nothing that was never written.

use super::super::image::Kind;
use super::super::powercut::PowerCut;
use super::super::{Fault, FaultPlan};
use super::*;
use devices::storage::IoFault;
use proptest::prelude::*;

const SECTORS: u64 = 24;

fn disk(image: &Image) -> &PowerCut {
    let Kind::PowerCut(disk) = &image.kind else { unreachable!() };
    disk
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_was_promised_is_there(
        seed: u64,
        acts in prop::collection::vec((0u8..10, 0..SECTORS, 1u64..8), 1..60),
        delays in prop::collection::vec(0u64..60, 0..4),
    ) {
        let image = Arc::new(Image::power_cut(PowerCut::new(SECTORS as usize, seed)));
        // Of the acts alone: what comes after the cut is answered.
        let delays = delays.iter().filter(|at| **at < acts.len() as u64);
        let plan = delays.fold(FaultPlan::new(), |plan, at| plan.at(*at, Fault::Delay(PATIENCE)));
        let mut engine = engine(&image, EngineKind::Auto).with_faults(plan);
        let guest = Guest::new();
        // What each sector may hold after a cut: its last promised contents, and all that was written since.
        let mut allowed: Vec<Vec<u8>> = vec![vec![0]; SECTORS as usize];
        for (index, (what, sector, count)) in acts.iter().enumerate() {
            let count = (*count).min(SECTORS - sector);
            let place = extent(sector * 512, count * 512);
            let byte = index as u8 + 1;
            let through = *what == 0;
            let work = if *what == 1 { Work::Flush } else { Work::Write { extent: place, through } };
            guest.put(0, &vec![byte; count as usize * 512]);
            let data = guest.data(0, count as usize * 512, &[]);
            engine.submit(index as u64, work.clone(), &data.0, data.1).unwrap();
            let mut done = false;
            engine.reap(|_, outcome| done = outcome == Ok(()));
            match work {
                Work::Flush if done => {
                    for versions in &mut allowed {
                        versions.drain(..versions.len() - 1);
                    }
                }
                Work::Write { .. } if done => {
                    for versions in &mut allowed[*sector as usize..(sector + count) as usize] {
                        if through {
                            versions.clear();
                        }
                        versions.push(byte);
                    }
                }
                _ => {}
            }
        }
        disk(&image).cut();
        assert_eq!(run_bare(&mut engine, Work::Flush), Err(IoFault::Medium.into()));
        disk(&image).restore();
        for (sector, versions) in allowed.iter().enumerate() {
            let found = disk(&image).sector(sector as u64);
            prop_assert!(found.iter().all(|byte| *byte == found[0]), "sector {} is torn", sector);
            prop_assert!(versions.contains(&found[0]), "sector {}: {} of {:?}", sector, found[0], versions);
        }
    }
}

/// The model does lose what was not promised: otherwise it would show nothing.
#[test]
fn what_was_not_promised_may_be_lost_and_may_be_there() {
    let guest = Guest::new();
    let (mut lost, mut kept, mut mixed) = (0, 0, 0);
    for seed in 0..200 {
        let image = Arc::new(Image::power_cut(PowerCut::new(2, seed)));
        let mut engine = engine(&image, EngineKind::Auto);
        guest.put(0, &[1; 1024]);
        assert_eq!(run(&mut engine, write_to(extent(0, 1024)), &guest.data(0, 1024, &[])), Ok(()));
        assert_eq!((disk(&image).sector(0)[0], disk(&image).sector(1)[0]), (1, 1));
        disk(&image).cut();
        match (disk(&image).sector(0)[0], disk(&image).sector(1)[0]) {
            (0, 0) => lost += 1,
            (1, 1) => kept += 1,
            _ => mixed += 1,
        }
    }
    assert!(lost > 20 && kept > 20 && mixed > 50, "{lost} {kept} {mixed}");
}
