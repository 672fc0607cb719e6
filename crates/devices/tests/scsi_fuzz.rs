//! The fuzz targets' entries over kept inputs (among them all that ever crashed one), and over random and shaped inputs.

mod scsi_entry;

use devices::scsi::opcode::OPCODES;
use proptest::prelude::*;
use scsi_entry::{COMMAND_LEN, REQUEST_PREFIX_LEN, scsi_cdb, scsi_request};
use std::path::Path;

fn replay(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions").join(target);
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        entry(&std::fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn known_inputs() {
    replay("scsi_cdb", scsi_cdb);
    replay("scsi_request", scsi_request);
}

/// A command of the table, its fields small numbers, with data of any kind.
fn command() -> impl Strategy<Value = Vec<u8>> {
    let row = prop::sample::select(OPCODES);
    let fields = prop::collection::vec(prop_oneof![3 => Just(0u8), 2 => 0u8..40, 1 => any::<u8>()], 16);
    let data = prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..80);
    (row, fields, any::<u8>(), prop_oneof![3 => Just(0u8), 1 => any::<u8>()], data).prop_map(
        |(row, fields, how, fails, data)| {
            let mut bytes = vec![how];
            bytes.extend_from_slice(&(data.len() as u16).to_le_bytes());
            bytes.push(fails);
            let mut cdb = [0; 16];
            // Mostly bits that are looked at.
            for (at, place) in cdb.iter_mut().enumerate() {
                *place = fields[at] & row.usage.get(at).copied().unwrap_or(0);
            }
            cdb[0] = row.code;
            cdb[1] |= row.action.unwrap_or(0);
            cdb[15] = if row.usage.len() == 16 { 0 } else { cdb[15] };
            bytes.extend_from_slice(&cdb);
            bytes.extend_from_slice(&data);
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_commands(bytes in prop::collection::vec(any::<u8>(), 0..COMMAND_LEN * 4)) {
        scsi_cdb(&bytes);
    }

    #[test]
    fn shaped_commands(commands in prop::collection::vec(command(), 1..30)) {
        scsi_cdb(&commands.concat());
    }

    #[test]
    fn random_requests(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        scsi_request(&bytes);
    }

    #[test]
    fn shaped_requests(
        flags in 0u8..32,
        (sense_size, cdb_size, cut) in (prop_oneof![Just(96u8), any::<u8>()], prop_oneof![Just(32u8), 6u8..17], any::<u8>()),
        room in prop_oneof![Just(108u16), 0u16..400],
        (pi_out, pi_in) in (prop_oneof![3 => Just(0u8), 1 => 0u8..20], prop_oneof![3 => Just(0u8), 1 => 0u8..20]),
        cdb in command(),
        data in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = vec![flags, sense_size, cdb_size, cut];
        bytes.extend_from_slice(&room.to_le_bytes());
        assert_eq!(bytes.len(), REQUEST_PREFIX_LEN);
        bytes.extend_from_slice(&[1, 0, 0x40, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0]);
        if flags & 8 != 0 {
            bytes.extend_from_slice(&[pi_out, 0, 0, 0, pi_in, 0, 0, 0]);
        }
        let mut cdb = cdb[4..20].to_vec();
        cdb.resize(usize::from(cdb_size), 0);
        bytes.extend_from_slice(&cdb);
        bytes.extend_from_slice(&data);
        scsi_request(&bytes);
    }
}
