//! Commands that compare, repeat, unmap or write as a whole: on a disk in memory, and against plain arrays.

mod scsi_rig;

use devices::scsi::{Asc, Disk, SCRATCH_LEN, Sense, SenseKey, Status};
use devices::storage::{Extent, Extents, Failure, IoFault, Shape, Work};
use scsi_rig::{LIMIT, Rig, cdb10, cdb16, disk, pattern};

const BLOCKS: u64 = 1024;

fn miscompare(at: u64) -> Sense {
    Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY).at(at)
}

fn filled() -> Rig {
    let mut rig = Rig::new(BLOCKS);
    rig.bytes = pattern(3, rig.bytes.len());
    rig
}

#[track_caller]
fn differs(rig: &mut Rig, cdb: &[u8], data: &[u8], at: u64) {
    let (reply, _) = rig.run(cdb, data, 0);
    assert_eq!((reply.status, reply.sense), (Some(Status::CheckCondition), Some(miscompare(at))));
    assert_eq!((reply.data_out, reply.data_in), (0, 0));
}

#[test]
fn verify_in_all_its_ways() {
    let mut rig = filled();
    let (lba, count) = (5u64, 300u32);
    let range = 5 * 512..305 * 512;
    let data = rig.bytes[range].to_vec();
    // Without data: only that it can be read.
    rig.good(&cdb16(0x8F, 0x10, lba, count), &[], 0);
    let reads: u64 =
        rig.works.iter().map(|work| if let Work::Read(extent) = work { extent.len } else { 0 }).sum();
    assert_eq!(reads, u64::from(count) * 512);
    assert!(
        rig.works.iter().all(|work| matches!(work, Work::Read(extent) if extent.len <= SCRATCH_LEN as u64))
    );
    for cdb in [cdb10(0x2F, 0x02, 5, 300).to_vec(), cdb16(0x8F, 2, lba, count).to_vec()] {
        assert_eq!(rig.run(&cdb, &data, 0).0.data_out, data.len() as u64);
        for at in [0, 511, 512, SCRATCH_LEN - 1, SCRATCH_LEN, SCRATCH_LEN + 5000, data.len() - 1] {
            let mut other = data.clone();
            other[at] ^= 1;
            differs(&mut rig, &cdb, &other, at as u64);
        }
        rig.overrun(&cdb, &data[1..], 0);
    }
    // One block for all.
    rig.bytes[5 * 512..305 * 512].chunks_mut(512).for_each(|block| block.fill(7));
    rig.good(&cdb16(0x8F, 6, lba, count), &[7; 512], 0);
    rig.bytes[305 * 512 - 2] = 8;
    differs(&mut rig, &cdb16(0x8F, 6, lba, count), &[7; 512], 300 * 512 - 2);
    rig.overrun(&cdb16(0x8F, 6, lba, count), &[7; 511], 0);
    rig.refused(&cdb16(0x8F, 4, lba, count), &data, 0, Sense::cdb(1, 2));
    rig.good(&cdb16(0x8F, 6, lba, 0), &[], 0);
    // The medium fails on the second piece.
    rig.fails = Some((rig.works.len() + 1, Failure { fault: IoFault::Medium, done: 700 }));
    let sense = Sense::new(SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR).at(5 + 128 + 1);
    assert_eq!(rig.run(&cdb16(0x8F, 0, lba, count), &[], 0).0.sense, Some(sense));
}

#[test]
fn write_and_verify_writes_through_and_looks() {
    for (flags, cdb) in [(0, cdb10(0x2E, 0, 9, 2).to_vec()), (2, cdb16(0x8E, 2, 9, 2).to_vec())] {
        let mut rig = filled();
        let data = pattern(9, 1024);
        assert_eq!(rig.run(&cdb, &data, 0).0.data_out, 1024);
        assert_eq!(rig.bytes[9 * 512..11 * 512], data);
        let extent = Extent { offset: 9 * 512, len: 1024 };
        assert_eq!(rig.works, [Work::Write { extent, through: true }, Work::Read(extent)], "{flags}");
    }
    let mut rig = filled();
    rig.refused(&cdb10(0x2E, 6, 9, 2), &[0; 1024], 0, Sense::cdb(1, 2));
    rig.overrun(&cdb10(0x2E, 2, 9, 2), &[0; 1023], 0);
    rig.good(&[0xAE, 2, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0], &[1; 1024], 0);
}

fn compare_and_write(lba: u64, count: u8) -> [u8; 16] {
    let mut cdb = cdb16(0x89, 0, lba, 0);
    cdb[13] = count;
    cdb
}

#[test]
fn compare_and_write_writes_only_what_compared() {
    let mut rig = filled();
    let before = rig.bytes.clone();
    let after = pattern(77, 200 * 512);
    let both = [&before[3 * 512..203 * 512], &after].concat();
    for at in [0, 511, SCRATCH_LEN, 200 * 512 - 1] {
        let mut other = both.clone();
        other[at] ^= 0x80;
        differs(&mut rig, &compare_and_write(3, 200), &other, at as u64);
        assert!(rig.bytes == before);
    }
    let (reply, _) = rig.run(&compare_and_write(3, 200), &both, 0);
    assert_eq!((reply.status, reply.data_out), (Some(Status::Good), 400 * 512));
    assert_eq!(rig.bytes[3 * 512..203 * 512], after);
    rig.overrun(&compare_and_write(3, 200), &both[1..], 0);
    rig.good(&compare_and_write(3, 0), &[], 0);
    rig.refused(&compare_and_write(BLOCKS - 1, 2), &[0; 2048], 0, Sense::illegal(Asc::LBA_OUT_OF_RANGE));
    let mut flagged = compare_and_write(0, 1);
    flagged[12] = 1;
    rig.refused(&flagged, &[0; 1024], 0, Sense::cdb(12, 0));
    // Large blocks: as many as compare at once.
    let mut large = disk(1024);
    (large.shape.logical_block, large.shape.physical_block) = (4096, 4096);
    let mut rig = Rig::of(large);
    rig.good(&compare_and_write(0, 32), &vec![0; 64 * 4096], 0);
    rig.refused(&compare_and_write(0, 33), &vec![0; 66 * 4096], 0, Sense::cdb(13, 7));
}

#[test]
fn write_same_with_a_pattern() {
    let mut rig = filled();
    let block = pattern(50, 512);
    for cdb in [cdb10(0x41, 0, 4, 300).to_vec(), cdb16(0x93, 8, 4, 300).to_vec()] {
        rig.works.clear();
        rig.bytes.fill(0xCC);
        let (reply, _) = rig.run(&cdb, &block, 0);
        assert_eq!((reply.status, reply.data_out), (Some(Status::Good), 512));
        assert!(rig.bytes[4 * 512..304 * 512].chunks(512).all(|chunk| chunk == block));
        assert!(rig.bytes[..2048].iter().chain(&rig.bytes[304 * 512..]).all(|&byte| byte == 0xCC));
        assert_eq!(rig.works.len(), 3);
        rig.overrun(&cdb, &block[1..], 0);
    }
    rig.refused(&cdb10(0x41, 0, 4, 0), &block, 0, Sense::cdb(7, 7));
    rig.refused(&cdb16(0x93, 0, 4, 0), &block, 0, Sense::cdb(10, 7));
    rig.refused(&cdb10(0x41, 1, 4, 1), &block, 0, Sense::cdb(1, 0));
    rig.refused(&cdb16(0x93, 0x10, 4, 1), &block, 0, Sense::cdb(1, 4));
}

#[test]
fn write_same_with_zeros_leaves_them_to_the_disk() {
    for (cdb, data, unmap) in [
        (cdb16(0x93, 0, 2, 100).to_vec(), vec![0; 512], false),
        (cdb16(0x93, 8, 2, 100).to_vec(), vec![0; 512], true),
        (cdb16(0x93, 9, 2, 100).to_vec(), vec![], true),
        (cdb16(0x93, 1, 2, 100).to_vec(), vec![], false),
        (cdb10(0x41, 8, 2, 100).to_vec(), vec![0; 512], true),
    ] {
        let mut rig = filled();
        rig.mapped.fill(true);
        let (reply, _) = rig.run(&cdb, &data, 0);
        assert_eq!((reply.status, reply.data_out as usize), (Some(Status::Good), data.len()));
        assert!(rig.bytes[1024..102 * 512].iter().all(|&byte| byte == 0));
        assert_eq!(rig.bytes[..1024], pattern(3, rig.bytes.len())[..1024]);
        assert_eq!(rig.mapped[2..102], [!unmap; 100]);
        // In extents that the disk takes at once.
        assert_eq!(rig.works.len() as u64, (100 * 512u64).div_ceil(LIMIT));
    }
    // A disk that takes no zeros gets them written, and cannot be asked to unmap.
    let mut rig = Rig::of(Disk { shape: Shape::plain(BLOCKS * 512), ..disk(1) });
    rig.bytes.fill(1);
    rig.good(&cdb16(0x93, 1, 2, 100), &[], 0);
    assert!(rig.bytes[1024..102 * 512].iter().all(|&byte| byte == 0));
    assert!(rig.works.iter().all(|work| matches!(work, Work::Write { .. })));
    rig.refused(&cdb16(0x93, 8, 2, 100), &[0; 512], 0, Sense::cdb(1, 3));
}

/// An UNMAP parameter list, and the CDB for it.
fn unmap(extents: &[(u64, u32)]) -> ([u8; 10], Vec<u8>) {
    let len = extents.len() as u16 * 16;
    let mut list = Vec::new();
    list.extend_from_slice(&(len + 6).to_be_bytes());
    list.extend_from_slice(&len.to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    for (lba, count) in extents {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&count.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    (cdb10(0x42, 0, 0, list.len() as u16), list)
}

#[test]
fn unmap_is_all_or_nothing() {
    let mut rig = filled();
    rig.mapped.fill(true);
    let (cdb, list) = unmap(&[(10, 5), (20, 0), (BLOCKS - 1, 1)]);
    assert_eq!(rig.run(&cdb, &list, 0).0.data_out, list.len() as u64);
    assert!(rig.bytes[10 * 512..15 * 512].iter().all(|&byte| byte == 0));
    assert_eq!(rig.mapped.iter().filter(|mapped| !**mapped).count(), 6);
    let mut extents = Extents::from(Extent { offset: 5120, len: 2560 });
    assert!(extents.push(Extent { offset: (BLOCKS - 1) * 512, len: 512 }));
    assert_eq!(rig.works, [Work::Zero { extents, unmap: true, through: false }]);

    let (cdb, list) = unmap(&[(10, 5), (BLOCKS, 1)]);
    rig.refused(&cdb, &list, 0, Sense::illegal(Asc::LBA_OUT_OF_RANGE));
    let (cdb, list) = unmap(&[(u64::MAX, u32::MAX)]);
    rig.refused(&cdb, &list, 0, Sense::illegal(Asc::LBA_OUT_OF_RANGE));
    // More blocks, or more descriptors, than the unit says that it takes.
    let most = (LIMIT / 512) as u32;
    let (cdb, list) = unmap(&[(0, most - 1), (100, 1)]);
    rig.good(&cdb, &list, 0);
    let (cdb, list) = unmap(&[(0, most), (100, 1)]);
    rig.refused(&cdb, &list, 0, Sense::parameter(32));
    let (cdb, list) = unmap(&[(0, 1); 5]);
    rig.refused(&cdb, &list, 0, Sense::parameter(2));
    // Nothing to do.
    let works = rig.works.len();
    rig.good(&cdb10(0x42, 0, 0, 0), &[], 0);
    rig.good(&cdb10(0x42, 0, 0, 8), &[0; 8], 0);
    let (_, list) = unmap(&[(0, 1)]);
    rig.good(&cdb10(0x42, 0, 0, 23), &list, 0);
    assert_eq!(rig.works.len(), works);
    rig.refused(&cdb10(0x42, 0, 0, 7), &list, 0, Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR));
    rig.overrun(&cdb10(0x42, 0, 0, 25), &list, 0);
    rig.refused(&[0x42, 1, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0, Sense::cdb(1, 0));
    // Where what is unmapped need not read as zeros it is only a hint.
    let mut hints = disk(BLOCKS);
    hints.shape.zero_unmaps = false;
    let mut rig = Rig::of(hints);
    let (cdb, list) = unmap(&[(10, 5)]);
    rig.good(&cdb, &list, 0);
    assert_eq!(rig.works, [Work::Discard(Extent { offset: 5120, len: 2560 }.into())]);
}

#[test]
fn get_lba_status_tells_runs() {
    let mut rig = Rig::new(BLOCKS);
    rig.mapped[10..20].fill(true);
    rig.mapped[BLOCKS as usize - 1] = true;
    let ask = |lba, allocation: u32| cdb16(0x9E, 0x12, lba, allocation);
    let runs = |answer: &[u8]| -> Vec<(u64, u32, u8)> {
        let word = |at: usize, part: &[u8]| u32::from_be_bytes(*part[at..].first_chunk().unwrap());
        assert_eq!(word(0, answer) as usize, answer.len() - 4);
        answer[8..].chunks(16).map(|one| (word(4, one).into(), word(8, one), one[12])).collect()
    };
    let all = rig.good(&ask(0, 4096), &[], 4096);
    assert_eq!(runs(&all), [(0, 10, 1), (10, 10, 0), (20, 1003, 1), (1023, 1, 0)]);
    assert_eq!(runs(&rig.good(&ask(15, 4096), &[], 4096))[0], (15, 5, 0));
    // As many descriptors as there is room for.
    assert_eq!(runs(&rig.good(&ask(0, 40), &[], 4096)), [(0, 10, 1), (10, 10, 0)]);
    assert_eq!(rig.good(&ask(0, 12), &[], 4096).len(), 12);
    rig.overrun(&ask(0, 4096), &[], 4095);
    rig.refused(&ask(BLOCKS, 4096), &[], 4096, Sense::illegal(Asc::LBA_OUT_OF_RANGE));
    assert!(rig.works.is_empty());
    // Very many runs: bounded.
    let mut rig = Rig::new(BLOCKS);
    rig.mapped.iter_mut().step_by(2).for_each(|mapped| *mapped = true);
    assert_eq!(runs(&rig.good(&ask(0, 1 << 20), &[], 1 << 20)).len(), 256);
}

#[test]
fn write_atomic_is_one_write_of_a_bounded_length() {
    let atomic = |lba: u64, boundary: u16, count: u16| {
        let mut cdb = cdb16(0x9C, 0x08, lba, 0);
        cdb[10..12].copy_from_slice(&boundary.to_be_bytes());
        cdb[12..14].copy_from_slice(&count.to_be_bytes());
        cdb
    };
    let mut rig = Rig::new(BLOCKS);
    let data = pattern(5, 16 * 512);
    rig.good(&atomic(3, 0, 16), &data, 0);
    let extent = Extent { offset: 1536, len: 8192 };
    assert_eq!(rig.works, [Work::Write { extent, through: true }]);
    assert_eq!(rig.bytes[1536..1536 + 8192], data);
    rig.refused(&atomic(3, 0, 17), &[0; 17 * 512], 0, Sense::cdb(12, 7));
    rig.refused(&atomic(3, 1, 16), &data, 0, Sense::cdb(10, 7));
    rig.refused(&atomic(BLOCKS - 1, 0, 2), &data, 0, Sense::illegal(Asc::LBA_OUT_OF_RANGE));
    rig.overrun(&atomic(3, 0, 16), &data[1..], 0);
}
