//! What a disk holds after any work is what a `Vec` holds after the same.

use super::*;
use devices::storage::Extents;
use proptest::prelude::*;

/// Sectors of the disks here.
const SECTORS: usize = 512;

/// One piece of work: what, where, how much, and how its data lies in the guest's memory.
#[derive(Clone, Debug)]
struct Act {
    what: u8,
    sector: usize,
    sectors: usize,
    at: usize,
    cuts: Vec<usize>,
    through: bool,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let one = (
        0u8..6,
        0..SECTORS,
        1usize..200,
        0usize..9000,
        prop::collection::vec(0usize..200_000, 0..4),
        any::<bool>(),
    );
    let act = one.prop_map(|(what, sector, sectors, at, cuts, through)| {
        let sectors = sectors.min(SECTORS - sector);
        // Half of the data as drivers have it: runs of whole sectors from the beginning of one.
        let (at, cuts) = match through {
            true => (at / 512 * 512, cuts.iter().map(|cut| cut / 512 * 512).collect()),
            false => (at, cuts),
        };
        Act { what, sector, sectors, at, cuts, through }
    });
    prop::collection::vec(act, 1..24)
}

/// Does `acts` on a disk of zeros and on a model, and compares all that is read; returns the model.
fn compare(image: &Arc<Image>, kind: EngineKind, acts: &[Act]) -> Vec<u8> {
    let (guest, mut engine) = (Guest::new(), engine(image, kind));
    let mut model = vec![0u8; SECTORS * 512];
    for (index, act) in acts.iter().enumerate() {
        let range = act.sector * 512..(act.sector + act.sectors) * 512;
        let place = extent(range.start as u64, range.len() as u64);
        let data = guest.data(act.at, range.len(), &act.cuts);
        match act.what {
            0 | 1 => {
                let bytes: Vec<u8> =
                    (0..range.len()).map(|byte| (byte / 512 + byte + index * 7) as u8 | 1).collect();
                guest.put(act.at, &bytes);
                let work = Work::Write { extent: place, through: act.through && index % 4 == 0 };
                assert_eq!(run(&mut engine, work, &data), Ok(()));
                model[range].copy_from_slice(&bytes);
            }
            2 => {
                let work =
                    Work::Zero { extents: Extents::from(place), unmap: act.through, through: index % 4 == 0 };
                assert_eq!(run_bare(&mut engine, work), Ok(()));
                model[range].fill(0);
            }
            3 => assert_eq!(run_bare(&mut engine, Work::Flush), Ok(())),
            _ => {
                guest.put(act.at, &vec![0xee; range.len()]);
                assert_eq!(run(&mut engine, Work::Read(place), &data), Ok(()));
                assert!(guest.get(act.at, range.len()) == model[range], "{act:?}");
            }
        }
    }
    model
}

fn on_a_file(options: &Options, kind: EngineKind, acts: &[Act]) {
    let (_place, path) = file(&vec![0; SECTORS * 512]);
    let image = open(&path, options);
    let model = compare(&image, kind, acts);
    assert!(std::fs::read(&path).unwrap() == model, "{options:?} {kind:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn through_the_page_cache(acts in acts()) {
        let options = Options { direct: false, ..Options::default() };
        KINDS.iter().for_each(|kind| on_a_file(&options, *kind, &acts));
    }

    #[test]
    fn directly_with_blocks_of_any_size(acts in acts(), block_log2 in 9u32..17) {
        let options = Options { block_min: 1 << block_log2, ..Options::default() };
        KINDS.iter().for_each(|kind| on_a_file(&options, *kind, &acts));
    }

    #[test]
    fn memory(acts in acts()) {
        let image = Arc::new(Image::ram(SECTORS as u64 * 512, devices::storage::Serial::NONE).unwrap());
        compare(&image, EngineKind::Auto, &acts);
    }

    #[test]
    fn an_image_in_qcow2(acts in acts()) {
        let place = tempfile::tempdir().unwrap();
        let path = qcow2::create(place.path(), "disk", SECTORS as u64 * 512, None);
        let options = Options { format: super::super::Format::Qcow2, ..Options::default() };
        let image = open(&path, &options);
        let model = compare(&image, EngineKind::Auto, &acts);
        let mut engine = engine(&image, EngineKind::Auto);
        assert_eq!(run_bare(&mut engine, Work::Flush), Ok(()));
        drop((engine, image));
        // What a new opener finds is the same.
        let image = open(&path, &options);
        let guest = Guest::new();
        let mut engine = super::engine(&image, EngineKind::Auto);
        let data = guest.data(0, model.len(), &[]);
        assert_eq!(run(&mut engine, Work::Read(extent(0, model.len() as u64)), &data), Ok(()));
        assert!(guest.get(0, model.len()) == model);
    }
}

/// Writers of single sectors of the same blocks, through two queues at once, lose nothing.
#[test]
fn writes_to_parts_of_a_block_do_not_undo_each_other() {
    for kind in KINDS {
        let (_place, path) = file(&vec![0; 64 << 10]);
        let image = open(&path, &Options { block_min: 4096, ..Options::default() });
        assert!(image.is_direct(), "the directory for temporary files lies where direct I/O works");
        let guest = Guest::new();
        let mut engines = [engine(&image, kind), engine(&image, kind)];
        for round in 1..=40u8 {
            for sector in 0..32usize {
                let at = 4096 + sector * 512;
                guest.put(at, &[round.wrapping_mul(3) ^ sector as u8; 512]);
                let data = guest.data(at, 512, &[]);
                let engine = &mut engines[sector % 2];
                engine
                    .submit(sector as u64, write_to(extent(sector as u64 * 512, 512)), &data.0, data.1)
                    .unwrap();
            }
            // A write of whole blocks beside them, and over some.
            guest.put(0x10000, &[round; 4096]);
            let data = guest.data(0x10000, 4096, &[]);
            engines[0].submit(50, write_to(extent(16 << 10, 4096)), &data.0, data.1).unwrap();
            let mut counts = [17, 16];
            let end = Instant::now() + PATIENCE;
            while counts != [0, 0] {
                for (engine, count) in engines.iter_mut().zip(&mut counts) {
                    *count -= engine.reap(|_, outcome| assert_eq!(outcome, Ok(())));
                }
                assert!(Instant::now() < end, "{counts:?} are stuck");
            }
            let bytes = std::fs::read(&path).unwrap();
            for sector in 0..32usize {
                let expected = round.wrapping_mul(3) ^ sector as u8;
                let found = &bytes[sector * 512..][..512];
                assert!(
                    found.iter().all(|byte| *byte == expected),
                    "{kind:?} round {round}, sector {sector}"
                );
            }
            assert!(bytes[16 << 10..][..4096].iter().all(|byte| *byte == round));
        }
    }
}

/// Where the file system can make neither holes nor zeros, zeros are written.
#[test]
fn zeros_are_written_where_they_cannot_be_made() {
    use super::super::image::Kind;
    use std::sync::atomic::Ordering;
    for kind in KINDS {
        let (_place, path) = file(&vec![7; 1 << 20]);
        let image = open(&path, &Options { block_min: 4096, ..Options::default() });
        let Kind::File(raw) = &image.kind else { unreachable!() };
        raw.holes.store(false, Ordering::Relaxed);
        raw.zeros.store(false, Ordering::Relaxed);
        let mut engine = engine(&image, kind);
        let mut extents = Extents::from(extent(512, 600 << 10));
        assert!(extents.push(extent((1 << 20) - 512, 512)));
        let work = Work::Zero { extents: extents.clone(), unmap: true, through: true };
        assert_eq!(run_bare(&mut engine, work), Ok(()));
        assert_eq!(run_bare(&mut engine, Work::Discard(extents.clone())), Ok(()));
        assert_eq!(
            run_bare(&mut engine, Work::SecureErase(extents)).unwrap_err().fault,
            devices::storage::IoFault::Unsupported
        );
        let bytes = std::fs::read(&path).unwrap();
        let is_zero = |sector: usize| (1..1201).contains(&sector) || sector == 2047;
        for (sector, bytes) in bytes.chunks(512).enumerate() {
            assert!(bytes.iter().all(|byte| *byte == if is_zero(sector) { 0 } else { 7 }), "sector {sector}");
        }
    }
}
