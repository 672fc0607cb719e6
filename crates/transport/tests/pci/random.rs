//! The fuzz target's entry over kept inputs, and over random and shaped ones.

use crate::fuzz_entry::{OPERATION_LEN, pci_registers};
use proptest::prelude::*;
use std::path::Path;

#[test]
fn known_inputs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions/pci_registers");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        pci_registers(&std::fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 3);
}

type Operation = [u8; OPERATION_LEN];

fn write(bar: u8, page: u8, offset: u8, width: usize, value: u32) -> Operation {
    let kind = [0, 0x00, 0x10, 0, 0x20][width];
    let [a, b, c, d] = value.to_le_bytes();
    [kind, bar, offset, page, a, b, c, d]
}

const DRAIN: Operation = [12, 0, 0, 0, 0, 0, 0, 0];

/// Registers that matter, with values that do.
fn sensible() -> impl Strategy<Value = Operation> {
    let small = || prop_oneof![0u32..5, Just(0xffff), any::<u32>()];
    prop_oneof![
        (0u8..0x10, small()).prop_map(|(word, value)| write(4, 0, 4 * word, 4, value)),
        (0u8..0x20, small()).prop_map(|(half, value)| write(4, 0, 2 * half, 2, value)),
        Just(write(4, 0, 0x1c, 2, 1)),
        Just(write(4, 0, 0x3a, 2, 1)),
        prop_oneof![Just(0u32), Just(3), Just(11), Just(15), any::<u32>()]
            .prop_map(|value| write(4, 0, 0x14, 1, value)),
        (0u8..5, small()).prop_map(|(index, value)| write(4, 3, 4 * index, 2, value)),
        (0u8..12, small()).prop_map(|(offset, value)| write(4, 2, offset, 1, value)),
        small().prop_map(|value| write(0, 0, 0, 4, value)),
        (0u8..6, small()).prop_map(|(word, value)| write(0, 0, 4 * word, 4, value)),
        (0u8..12, small()).prop_map(|(half, value)| write(0, 0, 2 * half, 2, value)),
        prop_oneof![Just(0u32), Just(7)].prop_map(|value| write(0, 0, 18, 1, value)),
        (any::<u8>(), small()).prop_map(|(offset, value)| {
            let [a, b, c, d] = value.to_le_bytes();
            [0x28, 0, offset, 0, a, b, c, d]
        }),
        Just([10, 0, 0, 0, 0, 0, 0, 0]),
        any::<bool>().prop_map(|accepted| [11, u8::from(!accepted), 0, 0, 0, 0, 0, 0]),
        Just(DRAIN),
        (0u8..4, 0u8..4).prop_map(|(what, value)| [13, what, 0, 0, value, 0, 0, 0]),
        (0u8..0x12, 0u8..4, 0u8..4).prop_map(|(opcode, id, value)| [13, 4, 0, 0, opcode, 0xfe, id, value]),
        prop_oneof![30 => Just(DRAIN), 1 => Just([14, 0, 0, 0, 0, 0, 0, 0])],
    ]
}

/// A driver's first steps; `features` are the upper ones beside `VERSION_1`.
fn modern_start(features: u32) -> Vec<Operation> {
    vec![
        write(4, 0, 0x14, 1, 0),
        DRAIN,
        write(4, 0, 0x14, 1, 3),
        write(4, 0, 0x08, 4, 1),
        write(4, 0, 0x0c, 4, 1 | features),
        write(4, 0, 0x14, 1, 11),
        DRAIN,
        write(4, 0, 0x1c, 2, 1),
        write(4, 0, 0x14, 1, 15),
    ]
}

fn legacy_start() -> Vec<Operation> {
    vec![write(0, 0, 18, 1, 3), write(0, 0, 4, 4, 1), write(0, 0, 8, 4, 0x100), write(0, 0, 18, 1, 7)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..800)) {
        pci_registers(&bytes);
    }

    #[test]
    fn sensible_accesses(
        kind in any::<u8>(),
        start in prop_oneof![
            Just(vec![]),
            prop_oneof![Just(0u32), Just(0x100), Just(0x300), Just(0x1c4), Just(0x3c4)].prop_map(modern_start),
            Just(legacy_start()),
        ],
        operations in prop::collection::vec(sensible(), 0..200),
    ) {
        let mut bytes = vec![kind];
        start.iter().chain(&operations).for_each(|operation| bytes.extend_from_slice(operation));
        pci_registers(&bytes);
    }
}
