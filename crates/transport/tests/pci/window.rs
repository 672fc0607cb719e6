//! The `PCI_CFG` window shows what its structures show.

use crate::rig::{Rig, net};
use proptest::prelude::*;
use transport::pci::features::F_RING_RESET;
use transport::pci::{Cause, Interface, Space};

const BAR: u64 = 4;
const OFFSET: u64 = 8;
const LENGTH: u64 = 12;
const DATA: u64 = 16;

fn aim(rig: &mut Rig, bar: u8, offset: u32, len: u32) -> u64 {
    let at = rig.structure(5).at;
    rig.set_config(at + BAR, 1, u32::from(bar));
    rig.set_config(at + OFFSET, 4, offset);
    rig.set_config(at + LENGTH, 4, len);
    at + DATA
}

#[test]
fn reads_have_their_side_effects() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.bring_up(0);
    let isr = rig.structure(3);
    let data = aim(&mut rig, isr.bar, isr.offset as u32, 1);
    rig.function.interrupt(Cause::Queue(0));
    let mut all = vec![0; 4096];
    rig.function.read(Space::Config, 0, &mut all);
    rig.config(data - 4, 4);
    rig.function.read(Space::Config, data - 1, &mut all[..2]);
    assert!(rig.function.intx_pending(), "only an access to the data itself");
    assert_eq!(rig.config(data, 1), 1);
    assert!(!rig.function.intx_pending());
    assert_eq!(rig.config(data, 4), 0);
}

#[test]
fn the_length_is_the_capabilitys() {
    let mut rig = Rig::new(net(Interface::Modern));
    let data = aim(&mut rig, 4, 0x00, 4);
    rig.set_config(data, 4, 0x0102_0304);
    assert_eq!(rig.common(0x00, 4), 0x0102_0304, "device_feature_select");
    rig.set_config(data + 1, 1, 0xff);
    assert_eq!(rig.common(0x00, 4), 0x0102_ff04, "all four bytes, the others as they were");
    aim(&mut rig, 4, 0x16, 2);
    rig.set_config(data, 4, 0xffff_0002);
    assert_eq!(rig.common(0x16, 2), 2);
}

#[test]
fn nothing_else_can_be_reached() {
    let mut rig = Rig::new(net(Interface::Transitional));
    // Structures without a virtio capability, lengths that are none, places outside.
    for (bar, offset, len) in [
        (1, 0, 4),
        (0, 0, 4),
        (4, 0, 0),
        (4, 0, 3),
        (4, 0, 8),
        (4, 0x40, 4),
        (4, 0x3e, 4),
        (4, 0xffff_fffe, 4),
        (3, 0, 4),
        (5, 0, 4),
        (6, 0, 4),
        (255, 0, 1),
    ] {
        let data = aim(&mut rig, bar, offset, len);
        rig.set_config(data, 4, 0xffff_ffff);
        assert_eq!(rig.config(data, 4), 0xffff_ffff, "as written: {bar} {offset:#x} {len}");
        rig.set_config(data, 4, 0);
    }
    assert!(rig.drain().is_empty());
    assert_eq!((rig.read(Space::Bar(1), 0, 4), rig.common(0, 4)), (0, 0));
}

#[test]
fn a_driver_that_has_only_the_window() {
    let mut rig = Rig::new(net(Interface::Modern));
    rig.bring_up(0);
    let place = rig.structures(2)[1];
    let data = aim(&mut rig, place.bar, place.offset as u32 + 4, 2);
    rig.set_config(data, 2, 1);
    assert_eq!(rig.drain(), ["notify 1"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any accesses, made directly on one function and through the window on another, tell the same.
    #[test]
    fn is_a_direct_access(
        accesses in prop::collection::vec(
            (0usize..6, 0u32..0x48, 0usize..3, any::<bool>(), prop_oneof![0u32..16, any::<u32>()]),
            1..60,
        ),
    ) {
        let mut direct = Rig::new(net(Interface::Modern));
        let mut windowed = Rig::new(net(Interface::Modern));
        direct.bring_up(F_RING_RESET);
        windowed.bring_up(F_RING_RESET);
        let places: Vec<_> = [1, 2, 3, 4].into_iter().flat_map(|cfg_type| direct.structures(cfg_type)).collect();
        for (place, offset, width, write, value) in accesses {
            let place = places[place % places.len()];
            let (width, offset) = (1usize << width, place.offset as u32 + offset);
            if u64::from(offset) + width as u64 > place.offset + place.len {
                continue;
            }
            let data = aim(&mut windowed, place.bar, offset, width as u32);
            if write {
                direct.write(Space::Bar(place.bar), u64::from(offset), width, value);
                windowed.set_config(data, width, value);
            } else {
                let one = direct.read(Space::Bar(place.bar), u64::from(offset), width);
                prop_assert_eq!(one, windowed.config(data, width));
            }
            prop_assert_eq!(direct.drain(), windowed.drain());
            prop_assert_eq!(direct.function.intx_pending(), windowed.function.intx_pending());
            direct.function.interrupt(Cause::Config);
            windowed.function.interrupt(Cause::Config);
        }
    }
}
