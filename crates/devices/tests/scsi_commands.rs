//! Each command, as it should be and as it should not, on a disk in memory.

mod scsi_rig;

use devices::scsi::{Asc, InitiatorId, Sense, SenseKey, Status};
use devices::storage::{Extent, Failure, IoFault, Shape, Work};
use scsi_rig::{Rig, cdb10, cdb16, disk, nexus, pattern};

const BLOCKS: u64 = 1024;

fn illegal(asc: Asc) -> Sense {
    Sense::illegal(asc)
}

fn written(rig: &Rig) -> Vec<(u64, u64, bool)> {
    let mut all = Vec::new();
    for work in &rig.works {
        if let Work::Write { extent, through } = work {
            all.push((extent.offset / 512, extent.len / 512, *through));
        }
    }
    all
}

#[test]
fn test_unit_ready_and_start_stop() {
    let mut rig = Rig::new(BLOCKS);
    rig.good(&[0; 6], &[], 0);
    rig.good(&[0x1B, 0, 0, 0, 0, 0], &[], 0);
    assert_eq!(rig.works, [Work::Flush]);
    let stopped = Sense::new(SenseKey::NotReady, Asc::INITIALIZING_COMMAND_REQUIRED);
    for cdb in [&[0; 6][..], &cdb10(0x28, 0, 0, 0), &cdb10(0x2A, 0, 0, 0), &cdb10(0x35, 0, 0, 0), &[0x25; 1]]
    {
        rig.refused(cdb, &[], 8, stopped);
    }
    let sense = rig.good(&[3, 0, 0, 0, 252, 0], &[], 252);
    assert_eq!((sense[2], sense[12], sense[13]), (2, 4, 2));
    rig.good(&[0x12, 0, 0, 0, 36, 0], &[], 36);
    rig.good(&[0x1B, 1, 0, 0, 1, 0], &[], 0);
    rig.good(&[0; 6], &[], 0);
    // NO_FLUSH, and what there is no power condition or tray for.
    rig.good(&[0x1B, 0, 0, 0, 4, 0], &[], 0);
    assert_eq!(rig.works, [Work::Flush]);
    rig.refused(&[0x1B, 0, 0, 0, 0x11, 0], &[], 0, Sense::cdb(4, 4));
    rig.refused(&[0x1B, 0, 0, 0, 0x02, 0], &[], 0, Sense::cdb(4, 1));
}

#[test]
fn unit_attentions_come_before_everything_but_three_commands() {
    let mut rig = Rig::new(BLOCKS);
    let power_on = Sense::attention(Asc::POWER_ON);
    rig.unit.attach(nexus(0), InitiatorId(1));
    rig.good(&[0x12, 0, 0, 0, 36, 0], &[], 36);
    rig.good(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[], 16);
    // An unknown command is not looked at before.
    rig.refused(&[0xFF], &[], 0, power_on);
    rig.refused(&[0xFF], &[], 0, illegal(Asc::INVALID_OPERATION_CODE));
    // REQUEST SENSE has it as data, and takes it only if it can be told.
    rig.unit.attend(Asc::CAPACITY_CHANGED, None);
    rig.overrun(&[3, 0, 0, 0, 18, 0], &[], 17);
    let sense = rig.good(&[3, 1, 0, 0, 252, 0], &[], 252);
    assert_eq!(sense, [0x72, 6, 0x2A, 9, 0, 0, 0, 0]);
    assert_eq!(rig.good(&[3, 0, 0, 0, 8, 0], &[], 8), [0x70, 0, 0, 0, 0, 0, 0, 10]);
    // REPORT LUNS tells of new units by itself.
    rig.unit.attend(Asc::LUNS_CHANGED, None);
    rig.good(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[], 16);
    rig.good(&[0; 6], &[], 0);
    // A nexus that was never attached, or is gone.
    rig.unit.detach(nexus(0));
    rig.refused(&[0; 6], &[], 0, Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE));
}

#[test]
fn inquiry_and_report_luns() {
    let mut rig = Rig::new(BLOCKS);
    rig.luns = vec![0, 2, 300];
    assert_eq!(rig.good(&[0x12, 1, 0, 0, 6, 0], &[], 64), [0, 0, 0, 7, 0, 0x80]);
    rig.overrun(&[0x12, 0, 0, 1, 0, 0], &[], 255);
    rig.refused(&[0x12, 0, 1, 0, 36, 0], &[], 36, Sense::cdb(2, 7));
    rig.refused(&[0x12, 2, 0, 0, 36, 0], &[], 36, Sense::cdb(1, 1));
    let report = |select| [0xA0, 0, select, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let all = rig.good(&report(2), &[], 256);
    assert_eq!((all.len(), &all[..4]), (40, &[0, 0, 0, 32][..]));
    let starts: Vec<[u8; 2]> = all[8..].chunks(8).map(|lun| [lun[0], lun[1]]).collect();
    assert_eq!(starts, [[0, 0], [0, 2], [0x41, 0x2C], [0xC1, 1]]);
    assert_eq!(rig.good(&report(0), &[], 256).len(), 32);
    assert_eq!(rig.good(&report(1), &[], 256).len(), 16);
    assert_eq!(rig.good(&report(0x10), &[], 256).len(), 8);
    rig.refused(&report(3), &[], 256, Sense::cdb(2, 7));
}

#[test]
fn capacities() {
    let mut rig = Rig::new(BLOCKS);
    assert_eq!(rig.good(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8), [0, 0, 3, 0xFF, 0, 0, 2, 0]);
    rig.overrun(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 7);
    rig.refused(&[0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0], &[], 8, Sense::cdb(5, 0));
    let long = rig.good(&cdb16(0x9E, 0x10, 0, 32), &[], 32);
    assert_eq!(long[..16], [0, 0, 0, 0, 0, 0, 3, 0xFF, 0, 0, 2, 0, 0, 3, 0xC0, 0]);
    assert_eq!(rig.good(&cdb16(0x9E, 0x10, 0, 12), &[], 32).len(), 12);
    let mut large = disk(1 << 33);
    large.shape.discard = None;
    large.shape.zero = None;
    let mut rig = Rig { bytes: Vec::new(), ..Rig::new(1) };
    assert_eq!(rig.unit.reshape(large).unwrap(), Some(Asc::CAPACITY_CHANGED));
    rig.refused(&[0; 6], &[], 0, Sense::attention(Asc::CAPACITY_CHANGED));
    assert_eq!(rig.good(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 8)[..4], [0xFF; 4]);
    let long = rig.good(&cdb16(0x9E, 0x10, 0, 32), &[], 32);
    assert_eq!((&long[..8], long[14]), (&[0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF][..], 0));
    // What the unit cannot do is no command of it.
    rig.refused(&cdb10(0x42, 0, 0, 8), &[0; 8], 0, illegal(Asc::INVALID_OPERATION_CODE));
}

#[test]
fn every_form_of_read_and_write() {
    let mut rig = Rig::new(BLOCKS);
    let forms = |write: bool| {
        let code = |read: u8, other: u8| if write { other } else { read };
        [
            vec![code(0x08, 0x0A), 0, 0, 7, 3, 0],
            cdb10(code(0x28, 0x2A), 0, 7, 3).to_vec(),
            vec![code(0xA8, 0xAA), 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0],
            cdb16(code(0x88, 0x8A), 0x10, 7, 3).to_vec(),
        ]
    };
    for (seed, (write, read)) in forms(true).iter().zip(forms(false)).enumerate() {
        let data = pattern(seed as u8, 3 * 512);
        let (reply, _) = rig.run(write, &data, 0);
        assert_eq!((reply.status, reply.data_out), (Some(Status::Good), 3 * 512));
        assert_eq!(rig.good(&read, &[], 3 * 512), data);
        assert_eq!(rig.bytes[7 * 512..10 * 512], data);
        rig.overrun(&read, &[], 3 * 512 - 1);
        rig.overrun(write, &data[1..], 0);
    }
    // Zero blocks: nothing, but for six bytes, where it means 256.
    let works = rig.works.len();
    rig.good(&cdb10(0x28, 0, 0, 0), &[], 0);
    rig.good(&cdb16(0x8A, 0, BLOCKS, 0), &[], 0);
    assert_eq!(rig.works.len(), works);
    assert_eq!(rig.good(&[0x08, 0, 0, 0, 0, 0], &[], 256 * 512).len(), 256 * 512);
}

#[test]
fn addresses_outside_of_the_disk() {
    let mut rig = Rig::new(BLOCKS);
    let out_of_range = illegal(Asc::LBA_OUT_OF_RANGE);
    let data = vec![0; 1 << 20];
    for code in [0x88, 0x8A, 0x8E, 0x8F, 0x91, 0x93] {
        for (lba, count) in
            [(BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS + 1, 0), (u64::MAX, 2), (u64::MAX, u32::MAX)]
        {
            rig.refused(&cdb16(code, 0, lba, count), &data, 1 << 20, out_of_range);
        }
    }
    rig.refused(&cdb10(0x28, 0, u32::MAX, 1), &[], 512, out_of_range);
    rig.refused(&[0x08, 0x1F, 0xFF, 0xFF, 1, 0], &[], 512, out_of_range);
    let mut large = Rig { bytes: Vec::new(), ..Rig::new(1) };
    large.unit.reshape(disk(1 << 40)).unwrap();
    large.good(&[3, 0, 0, 0, 18, 0], &[], 18);
    large.refused(&cdb16(0x88, 0, 0, 131_073), &[], 0, Sense::cdb(10, 7));
    large.refused(&[0xA8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0], &[], 0, Sense::cdb(6, 7));
}

#[test]
fn the_write_cache_decides_when_a_write_is_through() {
    let mut rig = Rig::new(BLOCKS);
    let data = pattern(1, 512);
    rig.good(&cdb10(0x2A, 0, 1, 1), &data, 0);
    rig.good(&cdb10(0x2A, 0x08, 2, 1), &data, 0);
    rig.good(&cdb10(0x35, 0x02, 0, 0), &[], 0);
    assert_eq!((written(&rig), rig.works[2].clone()), (vec![(1, 1, false), (2, 1, true)], Work::Flush));
    // FUA of a read: what is read is what a loss of power would leave.
    rig.works.clear();
    rig.good(&cdb10(0x28, 0x08, 1, 1), &[], 512);
    assert_eq!(rig.works, [Work::Flush, Work::Read(Extent { offset: 512, len: 512 })]);
    // Off: flushed before the command is done; the other initiator learns of it.
    rig.works.clear();
    let page = [0, 0, 0, 0, 8, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (reply, _) = rig.run(&[0x15, 0x10, 0, 0, 24, 0], &page, 0);
    assert_eq!((reply.status, reply.data_out, &rig.works[..]), (Some(Status::Good), 24, &[Work::Flush][..]));
    assert_eq!((rig.unit.mode().write_cache, reply.changed), (false, Some(Asc::MODE_PARAMETERS_CHANGED)));
    let told = rig.run_from(1, &[0; 6], &[], 0).0.sense;
    assert_eq!(told, Some(Sense::attention(Asc::MODE_PARAMETERS_CHANGED)));
    rig.works.clear();
    rig.good(&[0x0A, 0, 0, 3, 1, 0], &data, 0);
    rig.good(&cdb10(0x28, 0x08, 1, 1), &[], 512);
    assert_eq!((written(&rig), rig.works.len()), (vec![(3, 1, true)], 2));
    // A reset brings the operator's setting back.
    assert!(!rig.unit.reset() && rig.unit.mode().write_cache);
}

#[test]
fn what_must_not_be_written_is_not() {
    let page = |swp| [0, 0, 0, 0, 0x0A, 10, 2, 0x10, swp, 0, 0, 0, 0xFF, 0xFF, 0, 0];
    let mut rig = Rig::new(BLOCKS);
    rig.good(&[0x15, 0x10, 0, 0, 16, 0], &page(8), 0);
    let mut read_only = disk(BLOCKS);
    read_only.shape.read_only = true;
    let hard = Rig::of(read_only);
    for (mut rig, asc) in [(rig, Asc::SOFTWARE_WRITE_PROTECTED), (hard, Asc::WRITE_PROTECTED)] {
        let protected = Sense::new(SenseKey::DataProtect, asc);
        for code in [0x2A, 0x2E, 0x41, 0x42, 0x8A, 0x89, 0x8E, 0x93, 0x9C] {
            rig.refused(&[code; 1], &[0; 1024], 0, protected);
        }
        rig.refused(&[0x0A, 0, 0, 0, 1, 0], &[0; 512], 0, protected);
        rig.good(&cdb10(0x28, 0, 0, 1), &[], 512);
        assert_eq!(rig.good(&[0x1A, 8, 0x0A, 0, 255, 0], &[], 255)[2] & 0x80, 0x80);
    }
}

#[test]
fn what_a_disk_fails_at_is_said_exactly() {
    let medium = |asc| Sense::new(SenseKey::MediumError, asc);
    let protect = |asc| Sense::new(SenseKey::DataProtect, asc);
    for (fault, on_read, on_write) in [
        (IoFault::Medium, medium(Asc::UNRECOVERED_READ_ERROR).at(9), medium(Asc::WRITE_ERROR).at(9)),
        (
            IoFault::NoSpace,
            protect(Asc::SPACE_ALLOCATION_FAILED).at(9),
            protect(Asc::SPACE_ALLOCATION_FAILED).at(9),
        ),
        (IoFault::ReadOnly, protect(Asc::WRITE_PROTECTED), protect(Asc::WRITE_PROTECTED)),
        (IoFault::OutOfRange, illegal(Asc::LBA_OUT_OF_RANGE).at(9), illegal(Asc::LBA_OUT_OF_RANGE).at(9)),
    ] {
        let mut rig = Rig::new(BLOCKS);
        // Two blocks and a bit were done.
        rig.fails = Some((0, Failure { fault, done: 1100 }));
        let (reply, received) = rig.run(&cdb10(0x28, 0, 7, 8), &[], 4096);
        assert_eq!((reply.sense, reply.data_in, received.len()), (Some(on_read), 1100, 1100));
        rig.fails = Some((1, Failure { fault, done: 1100 }));
        let (reply, _) = rig.run(&cdb10(0x2A, 0, 7, 8), &[0; 4096], 0);
        assert_eq!((reply.sense, reply.data_out), (Some(on_write), 1100));
    }
    let mut rig = Rig::new(BLOCKS);
    for (fault, sense) in [
        (IoFault::Unsupported, Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE)),
        (IoFault::Aborted, Sense::new(SenseKey::AbortedCommand, Asc::NONE)),
        (IoFault::Medium, medium(Asc::WRITE_ERROR)),
    ] {
        rig.fails = Some((rig.works.len(), fault.into()));
        assert_eq!(rig.run(&cdb10(0x35, 0, 0, 0), &[], 0).0.sense, Some(sense));
    }
    let counted = rig.good(&[0x4D, 0, 0x42, 0, 0, 0, 0, 0, 64, 0], &[], 64);
    assert_eq!(counted[15], 1);
}

#[test]
fn sense_data_in_the_format_that_the_initiator_wants() {
    let mut rig = Rig::new(BLOCKS);
    let reply = rig.run(&cdb10(0x28, 0, 5000, 1), &[], 512).0;
    assert_eq!((reply.sense_bytes().0[0], reply.sense_bytes().1), (0x70, 18));
    let page = [0, 0, 0, 0, 0, 0, 0, 0, 0x0A, 10, 6, 0x10, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0];
    rig.good(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, 20, 0], &page, 0);
    let reply = rig.run(&cdb10(0x28, 0, 5000, 1), &[], 512).0;
    assert_eq!((reply.sense_bytes().0[0], reply.sense_bytes().1), (0x72, 8));
    assert_eq!(rig.run(&[0; 6], &[], 0).0.sense_bytes().1, 0);
}

#[test]
fn parameter_lists_of_the_wrong_length() {
    let mut rig = Rig::new(BLOCKS);
    let too_long = illegal(Asc::PARAMETER_LIST_LENGTH_ERROR);
    rig.overrun(&[0x15, 0x10, 0, 0, 24, 0], &[0; 23], 0);
    rig.refused(&[0x55, 0x10, 0, 0, 0, 0, 0, 1, 1, 0], &[0; 257], 0, too_long);
    rig.good(&[0x15, 0x10, 0, 0, 0, 0], &[], 0);
    rig.refused(&[0x15, 0, 0, 0, 0, 0], &[], 0, Sense::cdb(1, 4));
    rig.refused(&[0x15, 0x11, 0, 0, 0, 0], &[], 0, Sense::cdb(1, 0));
    rig.overrun(&[0x1A, 0, 0x3F, 0, 255, 0], &[], 254);
    rig.overrun(&[0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0], &[0; 23], 0);
    rig.refused(&[0x5F, 0, 0, 0, 0, 0, 0, 0, 23, 0], &[0; 24], 0, too_long);
    rig.overrun(&[0x5F, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0], &[0; 24], 0);
    rig.refused(&[0x5F, 0, 0, 0, 0, 0, 0, 0x10, 0, 0], &[0; 4096], 0, too_long);
}

#[test]
fn removal_is_prevented_by_each_initiator_for_itself() {
    let mut rig = Rig::new(BLOCKS);
    for from in 0..2 {
        rig.run_from(from, &[0x1E, 0, 0, 0, 1, 0], &[], 0);
    }
    rig.run_from(0, &[0x1E, 0, 0, 0, 0, 0], &[], 0);
    assert!(rig.unit.is_removal_prevented());
    rig.unit.reset_nexus(nexus(1));
    assert!(!rig.unit.is_removal_prevented());
    rig.refused(&[0x1E, 0, 0, 0, 2, 0], &[], 0, Sense::cdb(4, 1));
    rig.good(&[0x1E, 0, 0, 0, 1, 0], &[], 0);
    rig.unit.detach(nexus(0));
    assert!(!rig.unit.is_removal_prevented());
}

#[test]
fn every_supported_command_is_reported_and_no_other() {
    let mut rig = Rig::new(BLOCKS);
    let ask = |options: u8, code: u8, action: u16| {
        let [high, low] = action.to_be_bytes();
        [0xA3, 0x0C, options, code, high, low, 0, 0, 0x40, 0, 0, 0]
    };
    let all = rig.good(&ask(0, 0, 0), &[], 0x4000);
    assert_eq!(u32::from_be_bytes(*all.first_chunk().unwrap()) as usize, all.len() - 4);
    let mut reported = Vec::new();
    for descriptor in all[4..].chunks(8) {
        let [code, _, high, low, _, flags, _, len] = *descriptor else { panic!("{descriptor:?}") };
        let action = u16::from_be_bytes([high, low]);
        let one = rig.good(&ask(3, code, action), &[], 0x4000);
        assert_eq!((one[1], usize::from(one[3]), one[4]), (3, one.len() - 4, code));
        assert_eq!(one[3], len);
        let by_kind = if flags & 1 == 0 { ask(1, code, 0) } else { ask(2, code, action) };
        assert_eq!(rig.good(&by_kind, &[], 0x4000), one);
        reported.push(code);
        // The command knows its own usage: a CDB with every bit that it does not look at is refused.
        if let Some(at) = (1..usize::from(len)).find(|at| one[4 + at] != 0xFF && (*at != 1 || flags & 1 == 0))
        {
            let mut cdb = vec![0; usize::from(len)];
            (cdb[0], cdb[1]) = (code, low & 0x1F);
            cdb[at] |= !one[4 + at];
            let sense = rig.run(&cdb, &[0; 4096], 4096).0.sense.unwrap();
            assert_eq!(
                (sense.asc, sense.field.unwrap().byte),
                (Asc::INVALID_FIELD_IN_CDB, at as u16),
                "{cdb:02x?}"
            );
        }
    }
    for code in 0..=255 {
        let answer = rig.good(&ask(3, code, 0), &[], 0x4000);
        assert!(answer[1] == 3 || answer == [0, 1, 0, 0]);
        let is_unknown =
            rig.run(&[code], &[0; 4096], 4096).0.sense == Some(illegal(Asc::INVALID_OPERATION_CODE));
        assert_eq!(is_unknown, !reported.contains(&code), "{code:#x}");
        rig.unit.reset();
        rig.unit.take_attention(nexus(0));
    }
    let with_timeouts = rig.good(&ask(0x80, 0, 0), &[], 0x4000);
    assert_eq!(with_timeouts.len(), 4 + (all.len() - 4) / 8 * 20);
    assert_eq!(rig.good(&ask(0x83, 0x12, 0), &[], 0x4000)[10..], [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    rig.refused(&ask(1, 0x5E, 0), &[], 0x4000, Sense::cdb(3, 7));
    rig.refused(&ask(2, 0x12, 0), &[], 0x4000, Sense::cdb(4, 7));
    rig.refused(&ask(4, 0x12, 0), &[], 0x4000, Sense::cdb(2, 2));
    assert_eq!(rig.good(&ask(3, 0x12, 1), &[], 0x4000), [0, 1, 0, 0]);
    // A disk that cannot unmap or write atomically has no commands for it.
    let mut rig = Rig::of(devices::scsi::Disk { shape: Shape::plain(512), atomic_len_max: 0, ..disk(1) });
    for code in [0x42, 0x9C] {
        assert_eq!(rig.good(&ask(3, code, 0), &[], 0x4000), [0, 1, 0, 0]);
        rig.refused(&[code], &[], 0, illegal(Asc::INVALID_OPERATION_CODE));
    }
    let functions = |options| [0xA3, 0x0D, options, 0, 0, 0, 0, 0, 0, 16, 0, 0];
    assert_eq!(rig.good(&functions(0), &[], 16), [0xFC, 3, 0, 0]);
    assert_eq!(rig.good(&functions(0x80), &[], 16).len(), 16);
}
