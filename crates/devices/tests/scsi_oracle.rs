//! Random sequences of block commands against an array and a plain reading of the standard.

mod scsi_rig;

use devices::scsi::{Asc, Reply, Sense, SenseKey, Status};
use proptest::prelude::*;
use scsi_rig::{LIMIT, Rig, cdb10, cdb16};

const BLOCKS: u64 = 300;
const BLOCK: usize = 512;

/// A block command as a test means it.
#[derive(Clone, Debug)]
enum Command {
    Read { form: u8, lba: u64, count: u32 },
    Write { form: u8, lba: u64, count: u32, seed: u8 },
    Verify { lba: u64, count: u32, check: u8, damage: Option<usize> },
    WriteAndVerify { lba: u64, count: u32, check: bool, seed: u8 },
    WriteSame { lba: u64, count: u32, unmap: bool, ndob: bool, seed: u8 },
    CompareAndWrite { lba: u64, count: u8, seed: u8, damage: Option<usize> },
    Unmap { extents: Vec<(u64, u32)> },
    WriteAtomic { lba: u64, count: u16, seed: u8 },
    Flush { lba: u64, count: u32 },
}

fn lba() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..BLOCKS, 2 => BLOCKS - 3..BLOCKS + 2, 1 => any::<u64>()]
}

fn count() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0u32..20, 4 => 100u32..BLOCKS as u32]
}

fn damage() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![Just(None), any::<usize>().prop_map(Some)]
}

fn command() -> impl Strategy<Value = Command> {
    use Command::*;
    prop_oneof![
        3 => (0u8..4, lba(), count()).prop_map(|(form, lba, count)| Read { form, lba, count }),
        4 => (0u8..4, lba(), count(), any::<u8>())
            .prop_map(|(form, lba, count, seed)| Write { form, lba, count, seed }),
        2 => (lba(), count(), 0u8..4, damage())
            .prop_map(|(lba, count, check, damage)| Verify { lba, count, check, damage }),
        1 => (lba(), count(), any::<bool>(), any::<u8>())
            .prop_map(|(lba, count, check, seed)| WriteAndVerify { lba, count, check, seed }),
        2 => (lba(), count(), any::<bool>(), any::<bool>(), 0u8..3)
            .prop_map(|(lba, count, unmap, ndob, seed)| WriteSame { lba, count, unmap, ndob, seed }),
        2 => (lba(), 0u8..200, any::<u8>(), damage())
            .prop_map(|(lba, count, seed, damage)| CompareAndWrite { lba, count, seed, damage }),
        1 => prop::collection::vec((lba(), 0u32..20), 0..6).prop_map(|extents| Unmap { extents }),
        1 => (lba(), 0u16..20, any::<u8>()).prop_map(|(lba, count, seed)| WriteAtomic { lba, count, seed }),
        1 => (lba(), count()).prop_map(|(lba, count)| Flush { lba, count }),
    ]
}

/// What is expected: bytes read and sent, or sense data.
type Expected = Result<(Vec<u8>, usize), Sense>;

fn noise(seed: u8, len: usize) -> Vec<u8> {
    // Seed zero is zeros, so that these come up too.
    (0..len).map(|at| seed.wrapping_mul((at as u8 | 1) ^ (at >> 8) as u8)).collect()
}

/// The bytes on the array, or that they are not on it.
fn bytes(lba: u64, count: u64) -> Result<std::ops::Range<usize>, Sense> {
    match lba.checked_add(count).filter(|end| *end <= BLOCKS) {
        Some(end) => Ok(lba as usize * BLOCK..end as usize * BLOCK),
        None => Err(Sense::illegal(Asc::LBA_OUT_OF_RANGE)),
    }
}

fn differs(at: usize) -> Sense {
    Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY).at(at as u64)
}

/// The same command as bytes, with its data and its room; and what it does to `array`.
fn expect(command: &Command, array: &mut [u8]) -> (Vec<u8>, Vec<u8>, usize, Expected) {
    match *command {
        Command::Read { form, lba, count } => {
            let (cdb, lba, count) = addressed(form, [0x08, 0x28, 0xA8, 0x88], lba, count);
            let room = count as usize * BLOCK;
            let expected = bytes(lba, count.into()).map(|range| (array[range].to_vec(), 0));
            (cdb, vec![], room, expected)
        }
        Command::Write { form, lba, count, seed } => {
            let (cdb, lba, count) = addressed(form, [0x0A, 0x2A, 0xAA, 0x8A], lba, count);
            let data = noise(seed, count as usize * BLOCK);
            let expected = write(array, lba, count.into(), &data);
            (cdb, data, 0, expected)
        }
        Command::Verify { lba, count, check, damage } => {
            let range = bytes(lba, count.into());
            let on_disk =
                range.clone().map_or(vec![0; count as usize * BLOCK], |range| array[range].to_vec());
            let mut data = match check {
                0 => vec![],
                3 => on_disk.get(..BLOCK).unwrap_or(&[]).to_vec(),
                _ => on_disk.clone(),
            };
            if let Some(at) = damage.filter(|_| !data.is_empty()) {
                let at = at % data.len();
                data[at] ^= 0x55;
            }
            let sent = data.len();
            let expected = match (check, range) {
                (2, _) => Err(Sense::cdb(1, 2)),
                (_, Err(sense)) => Err(sense),
                (0, Ok(_)) => Ok((vec![], 0)),
                (_, Ok(_)) => {
                    let place = on_disk.iter().zip(data.iter().cycle()).position(|(a, b)| a != b);
                    place.map_or(Ok((vec![], sent)), |at| Err(differs(at)))
                }
            };
            (cdb16(0x8F, check << 1, lba, count).to_vec(), data, 0, expected)
        }
        Command::WriteAndVerify { lba, count, check, seed } => {
            let data = noise(seed, count as usize * BLOCK);
            let expected = write(array, lba, count.into(), &data);
            (cdb16(0x8E, if check { 2 } else { 0 }, lba, count).to_vec(), data, 0, expected)
        }
        Command::WriteSame { lba, count, unmap, ndob, seed } => {
            let data = if ndob { vec![] } else { noise(seed, BLOCK) };
            let flags = if unmap { 8 } else { 0 } | u8::from(ndob);
            let all = if ndob { vec![0; BLOCK] } else { data.clone() }.repeat(count as usize);
            let expected = match (bytes(lba, count.into()), count) {
                (Err(sense), _) => Err(sense),
                (_, 0) => Err(Sense::cdb(10, 7)),
                _ => write(array, lba, count.into(), &all).map(|_| (vec![], data.len())),
            };
            (cdb16(0x93, flags, lba, count).to_vec(), data, 0, expected)
        }
        Command::CompareAndWrite { lba, count, seed, damage } => {
            let len = usize::from(count) * BLOCK;
            let range = bytes(lba, count.into());
            let on_disk = range.clone().map_or(vec![0; len], |range| array[range].to_vec());
            let mut data = [on_disk.clone(), noise(seed, len)].concat();
            if let Some(at) = damage.filter(|_| len > 0) {
                data[at % len] ^= 0x55;
            }
            let place = on_disk.iter().zip(&data).position(|(a, b)| a != b);
            let expected = match (range, place) {
                (Err(sense), _) => Err(sense),
                (Ok(_), Some(at)) => Err(differs(at)),
                (Ok(_), None) => write(array, lba, count.into(), &data[len..]).map(|_| (vec![], data.len())),
            };
            let mut cdb = cdb16(0x89, 0, lba, 0);
            cdb[13] = count;
            (cdb.to_vec(), data, 0, expected)
        }
        Command::Unmap { ref extents } => {
            let mut list = vec![0; 8];
            list[2..4].copy_from_slice(&(extents.len() as u16 * 16).to_be_bytes());
            for (lba, count) in extents {
                list.extend_from_slice(&lba.to_be_bytes());
                list.extend_from_slice(&count.to_be_bytes());
                list.extend_from_slice(&[0; 4]);
            }
            let expected = unmap(array, extents).map(|()| (vec![], list.len()));
            (cdb10(0x42, 0, 0, list.len() as u16).to_vec(), list, 0, expected)
        }
        Command::WriteAtomic { lba, count, seed } => {
            let data = noise(seed, usize::from(count) * BLOCK);
            let mut cdb = cdb16(0x9C, 0, lba, 0);
            cdb[12..14].copy_from_slice(&count.to_be_bytes());
            let expected = match count {
                17.. => Err(Sense::cdb(12, 7)),
                _ => write(array, lba, count.into(), &data),
            };
            (cdb.to_vec(), data, 0, expected)
        }
        Command::Flush { lba, count } => {
            let expected = bytes(lba, count.into()).map(|_| (vec![], 0));
            (cdb16(0x91, 0, lba, count).to_vec(), vec![], 0, expected)
        }
    }
}

/// A CDB of one of four lengths; address and count as much of them as its fields hold.
fn addressed(form: u8, codes: [u8; 4], lba: u64, count: u32) -> (Vec<u8>, u64, u32) {
    let code = codes[usize::from(form)];
    match form {
        0 => {
            let lba = lba & 0x1F_FFFF;
            let [_, a, b, c] = (lba as u32).to_be_bytes();
            let count = count & 0xFF;
            (vec![code, a, b, c, count as u8, 0], lba, if count == 0 { 256 } else { count })
        }
        1 => (cdb10(code, 0, lba as u32, count as u16).to_vec(), lba & 0xFFFF_FFFF, count),
        2 => {
            let mut cdb = vec![code, 0];
            cdb.extend_from_slice(&(lba as u32).to_be_bytes());
            cdb.extend_from_slice(&count.to_be_bytes());
            cdb.extend_from_slice(&[0, 0]);
            (cdb, lba & 0xFFFF_FFFF, count)
        }
        _ => (cdb16(code, 0, lba, count).to_vec(), lba, count),
    }
}

fn write(array: &mut [u8], lba: u64, count: u64, data: &[u8]) -> Expected {
    let range = bytes(lba, count)?;
    array[range].copy_from_slice(data);
    Ok((vec![], data.len()))
}

/// Descriptors are refused in the order of the list, and nothing is unmapped then.
fn unmap(array: &mut [u8], extents: &[(u64, u32)]) -> Result<(), Sense> {
    if extents.len() > 4 {
        return Err(Sense::parameter(2));
    }
    let (mut sum, mut ranges) = (0, Vec::new());
    for (index, &(lba, count)) in extents.iter().enumerate() {
        ranges.push(bytes(lba, count.into())?);
        sum += u64::from(count);
        if sum > LIMIT / BLOCK as u64 {
            return Err(Sense::parameter(16 + 16 * index as u16));
        }
    }
    ranges.into_iter().for_each(|range| array[range].fill(0));
    Ok(())
}

fn came_to(reply: &Reply, received: Vec<u8>) -> Expected {
    match (reply.status, reply.sense) {
        (Some(Status::Good), None) => Ok((received, reply.data_out as usize)),
        (Some(Status::CheckCondition), Some(sense)) => Err(sense),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn commands_do_what_the_standard_says(commands in prop::collection::vec(command(), 1..40)) {
        let mut rig = Rig::new(BLOCKS);
        let mut array = vec![0; BLOCKS as usize * BLOCK];
        for command in &commands {
            let (cdb, data, room, expected) = expect(command, &mut array);
            let (reply, received) = rig.run(&cdb, &data, room);
            prop_assert!(came_to(&reply, received) == expected, "{:?}: {:?}", command, reply);
            prop_assert!(rig.bytes == array, "{:?}", command);
        }
    }
}
