//! Whatever a client sends, it can only lose its session.

use crate::fuzz_entry::vfio_user_message;
use crate::wire::*;
use proptest::prelude::*;
use std::path::Path;
use transport::vfio_user::DATA_MAX;

#[test]
fn known_inputs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions/vfio_user_message");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    for path in files {
        vfio_user_message(&std::fs::read(path).unwrap());
    }
}

#[derive(Debug, Clone)]
struct Step {
    command: u16,
    flags: u32,
    payload: Vec<u8>,
    fds: usize,
    memory: bool,
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..40u64,
        2 => (0..64u32).prop_map(|bit| 1 << bit),
        3 => (0..64u64).prop_map(|page| page << 12),
        1 => any::<u64>(),
    ]
}

/// Register writes of a driver, and wild ones.
fn register() -> impl Strategy<Value = Vec<u8>> {
    let region = prop_oneof![6 => Just(4u32), 3 => Just(0), 3 => Just(7), 1 => 0..12u32];
    let offset =
        prop_oneof![6 => (0..0x20u64).prop_map(|word| 2 * word), 1 => number(), 1 => 0x3000..0x3010u64];
    let data = prop_oneof![3 => Just(vec![1, 0]), 2 => Just(vec![11]), 2 => Just(vec![15]), 2 => Just(vec![0; 4]),
        3 => prop::collection::vec(any::<u8>(), 1..9)];
    (region, offset, data)
        .prop_map(|(region, offset, data)| [access(region, offset, data.len() as u32), data].concat())
}

fn payload(command: u16) -> BoxedStrategy<Vec<u8>> {
    let small = || 0..6u32;
    let sound = match command {
        DMA_MAP => {
            (0..4u32, number(), number(), number()).prop_map(|(f, o, a, s)| dma_map(f, o, a, s)).boxed()
        }
        DMA_UNMAP => (0..3u32, number(), number()).prop_map(|(f, a, s)| dma_unmap(f, a, s)).boxed(),
        SET_IRQS => (any::<u8>(), small(), small(), small())
            .prop_map(|(flags, index, start, count)| set_irqs(u32::from(flags & 0x3f), index, start, count))
            .boxed(),
        REGION_READ => (small(), number(), 0..5000u32).prop_map(|(r, o, c)| access(r, o, c)).boxed(),
        REGION_WRITE => register().boxed(),
        WRITE_MULTI => prop::collection::vec(register(), 0..20)
            .prop_map(|writes| {
                let one = |write: Vec<u8>| {
                    let mut write = write;
                    write.resize(24, 0);
                    write
                };
                [u64s(&[writes.len() as u64]), writes.into_iter().flat_map(one).collect()].concat()
            })
            .boxed(),
        _ => (prop_oneof![Just(16u32), Just(32), Just(1000), any::<u32>()], small())
            .prop_map(|(argsz, index)| u32s(&[argsz, 0, index, 0, 0, 0, 0, 0]))
            .boxed(),
    };
    prop_oneof![20 => sound, 1 => prop::collection::vec(any::<u8>(), 0..300)].boxed()
}

fn step() -> impl Strategy<Value = Step> {
    let command =
        prop_oneof![20 => 2..16u16, 20 => Just(REGION_WRITE), 6 => Just(DMA_MAP), 1 => any::<u16>()];
    let flags = prop_oneof![20 => Just(0u32), 20 => Just(NO_REPLY), 1 => any::<u32>()];
    let fds = prop_oneof![10 => Just(0), 10 => Just(1), 2 => 2..6usize, 1 => 15..18usize];
    (command, flags, fds, prop::bool::weighted(0.8)).prop_flat_map(|(command, flags, fds, memory)| {
        payload(command).prop_map(move |payload| Step { command, flags, payload, fds, memory })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_messages_breaks_more_than_its_session(
        steps in prop::collection::vec(step(), 1..60),
        piece in 1..64usize,
        running in any::<bool>(),
        msix in any::<bool>(),
    ) {
        let file = memfd(2 * MIB);
        let mut wire = if running { Wire::running(msix).0 } else { Wire::greeted(description(transport::pci::Interface::Transitional)) };
        'session: for (id, step) in (0..).zip(steps) {
            let bytes = message(id, step.command, step.flags, &step.payload);
            let make = || if step.memory { file.try_clone().unwrap() } else { eventfd() };
            let mut fds: Vec<_> = (0..step.fds).map(|_| make()).collect();
            for part in bytes.chunks(piece) {
                let received = wire.session.receive(part, std::mem::take(&mut fds));
                if received.and_then(|()| wire.run()).is_err() {
                    break 'session;
                }
                let mut replies = 0;
                while let Some(outgoing) = wire.session.next_outgoing() {
                    replies += 1;
                    prop_assert!(step.flags & NO_REPLY == 0);
                    prop_assert!(outgoing.bytes.len() <= 16 + 16 + DATA_MAX);
                }
                prop_assert!(replies <= 1, "one reply for one command");
                prop_assert!(wire.session.wanted() <= 16 + 16 + DATA_MAX);
            }
            wire.told.clear();
        }
    }

    #[test]
    fn no_bytes_at_all_do(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        vfio_user_message(&bytes);
    }
}
