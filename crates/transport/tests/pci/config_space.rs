//! PCI configuration space, as a driver walks it.

use crate::rig::{Rig, Structure, net};
use transport::pci::{Interface, NotifyKind, SharedMemory, Space, SrIov, Vendor};
use virtqueue::QueueSize;

const INTERFACES: [Interface; 3] = [Interface::Modern, Interface::Transitional, Interface::Legacy];

#[test]
fn identity() {
    let cases = [
        (Interface::Modern, 0x1041_1af4u32, 1u32, 0x0041_1af4u32),
        (Interface::Transitional, 0x1000_1af4, 0, 0x0001_1af4),
        (Interface::Legacy, 0x1000_1af4, 0, 0x0001_1af4),
    ];
    for (interface, ids, revision, subsystem) in cases {
        let mut rig = Rig::new(net(interface));
        assert_eq!(rig.config(0x00, 4), ids);
        assert_eq!(rig.config(0x08, 4), 0x0200_0000 | revision);
        assert_eq!(rig.config(0x2c, 4), subsystem);
        assert_eq!(rig.config(0x0e, 1), 0, "header type");
        assert_eq!(rig.config(0x30, 4), 0, "no ROM");
        assert_eq!(rig.config(0x3d, 1), 1, "INTA");
        assert_eq!(rig.config(0x06, 2), 0x10, "a capability list");
        assert_eq!(rig.function.config_len(), 4096);
    }
    for (device_type, id) in
        [(1, 0x1000), (2, 0x1001), (3, 0x1003), (4, 0x1005), (5, 0x1002), (8, 0x1004), (9, 0x1009)]
    {
        let mut description = net(Interface::Transitional);
        description.device_type = device_type;
        let mut rig = Rig::new(description);
        assert_eq!((rig.config(2, 2), rig.config(0x2e, 2)), (id, u32::from(device_type)));
    }
}

#[test]
fn capabilities_in_order_of_preference() {
    for (interface, types) in [(Interface::Modern, &[1, 2, 2, 3, 4, 5][..]), (Interface::Legacy, &[])] {
        let mut rig = Rig::new(net(interface));
        let ids: Vec<u32> = rig.capabilities().into_iter().map(|(id, _)| id).filter(|id| *id != 9).collect();
        assert_eq!(ids, [0x11, 0x01, 0x10]);
        let found: Vec<u32> =
            (1..=9).flat_map(|cfg_type| rig.structures(cfg_type)).map(|s| s.cfg_type).collect();
        assert_eq!(found, types);
    }
    let mut description = net(Interface::Transitional);
    for (order, bars) in
        [([NotifyKind::Pio, NotifyKind::Mmio], [2, 4]), ([NotifyKind::Mmio, NotifyKind::Pio], [4, 2])]
    {
        description.notify = order.to_vec();
        let mut rig = Rig::new(description.clone());
        let notify = rig.structures(2);
        assert_eq!([notify[0].bar, notify[1].bar], bars);
        for place in notify {
            let multiplier = rig.config(place.at + 16, 4);
            let (len, wanted) = if place.bar == 4 { (12, 4) } else { (4, 0) };
            assert_eq!((place.len, multiplier), (len, wanted));
            assert_eq!(rig.config(place.at + 2, 1), 20);
        }
    }
}

#[test]
fn structures_lie_apart_and_in_their_windows() {
    let mut description = net(Interface::Modern);
    description.notify = vec![NotifyKind::Mmio];
    description.shared_memory = vec![SharedMemory { id: 7, len: 5 << 32 }];
    let mut rig = Rig::new(description);
    let all: Vec<Structure> =
        [1, 2, 3, 4].into_iter().flat_map(|cfg_type| rig.structures(cfg_type)).collect();
    for (index, one) in all.iter().enumerate() {
        let bar = rig.function.bar(one.bar).unwrap();
        assert!(one.len > 0 && one.offset.is_multiple_of(4) && one.offset + one.len <= bar.len);
        for other in &all[index + 1..] {
            let apart = one.offset + one.len <= other.offset || other.offset + other.len <= one.offset;
            assert!(one.bar != other.bar || apart);
        }
    }
    assert_eq!(rig.structure(1).len, 0x40);
    assert_eq!(rig.structure(4).len, 12);
    let shared = rig.structure(8);
    let len = u64::from(rig.config(shared.at + 20, 4)) << 32 | shared.len;
    assert_eq!((shared.bar, rig.config(shared.at + 5, 1), shared.offset, len), (2, 7, 0, 5 << 32));
    assert_eq!(rig.function.bar(2).unwrap().len, 8 << 32);
}

#[test]
fn a_vendor_capability() {
    let mut description = net(Interface::Modern);
    description.notify = vec![NotifyKind::Mmio];
    description.vendor = Some(Vendor { id: 0x1b36, data: vec![1, 2, 3] });
    let mut rig = Rig::new(description);
    let at = rig.structure(9).at;
    let mut bytes = [0; 12];
    rig.function.read(Space::Config, at + 2, &mut bytes[..10]);
    assert_eq!(bytes[..10], [12, 9, 0x36, 0x1b, 1, 2, 3, 0, 0, 0]);
}

#[test]
fn base_addresses_tell_their_size() {
    for interface in INTERFACES {
        let mut rig = Rig::new(net(interface));
        for index in 0..6u8 {
            let at = 0x10 + 4 * u64::from(index);
            let before = rig.config(at, 4);
            rig.set_config(at, 4, u32::MAX);
            let (sized, bar) = (rig.config(at, 4), rig.function.bar(index));
            let upper = index > 0
                && rig.function.bar(index - 1).is_some_and(|b| b.kind == transport::pci::BarKind::Memory64);
            match bar {
                Some(bar) => {
                    let flags = if sized & 1 == 1 { 3 } else { 15 };
                    assert_eq!(u64::from(!(sized & !flags)) + 1, bar.len, "{interface:?} {index}");
                    assert_eq!(sized & flags, before);
                }
                None if upper => assert_eq!(sized, u32::MAX),
                None => assert_eq!(sized, 0),
            }
            rig.set_config(at, 4, 0);
            assert_eq!(rig.config(at, 4), before);
        }
    }
    let mut rig = Rig::new(net(Interface::Modern));
    rig.set_config(0x20, 4, 0xfebf_4000);
    rig.set_config(0x24, 4, 0x12);
    assert_eq!((rig.config(0x20, 4), rig.config(0x24, 4)), (0xfebf_4004, 0x12));
    rig.set_config(0x21, 1, 0x80);
    assert_eq!(rig.config(0x20, 4), 0xfebf_8004, "a byte of it");
}

/// Every byte, written with ones and zeros: only what the specifications allow changes.
#[test]
fn masks_of_all_bits() {
    for interface in INTERFACES {
        let mut description = net(interface);
        if interface != Interface::Legacy {
            description.sr_iov = Some(SrIov { total_vfs: 8 });
        }
        let mut rig = Rig::new(description);
        let (msix, power, express) = (rig.capability(0x11), rig.capability(0x01), rig.capability(0x10));
        let window = rig.structures(5).first().map_or(0x2000, |place| place.at);
        for at in 0..0x300 {
            let before = rig.config(at, 1);
            rig.set_config(at, 1, 0);
            let zeros = rig.config(at, 1);
            // All ones but for a function level reset.
            rig.set_config(at, 1, if at == express + 9 { 0x7f } else { 0xff });
            let ones = rig.config(at, 1);
            rig.drain();
            let writable = ones & !zeros;
            let wanted = match at {
                0x04 if interface == Interface::Legacy => 0x47,
                0x04 => 0x47,
                0x05 => 0x05,
                0x0c | 0x3c => 0xff,
                0x10..=0x27 => writable, // above
                _ if at == msix + 3 => 0xc0,
                _ if at == power + 4 => 0x03,
                _ if at == express + 8 => 0x1f,
                _ if at == express + 9 => 0x78,
                _ if at == express + 0x10 => 0xcb,
                _ if at == window + 4 || (window + 8..window + 20).contains(&at) => 0xff,
                0x100..=0x147 => writable & aer_mask(at),
                0x148.. if interface != Interface::Legacy => writable & sr_iov_mask(at - 0x148),
                _ => 0,
            };
            assert_eq!(writable, wanted, "{interface:?} {at:#x}");
            assert_eq!(before & !writable, ones & !writable, "{interface:?} {at:#x}");
            rig.set_config(at, 1, before);
        }
    }
}

fn aer_mask(at: u64) -> u32 {
    match at {
        0x108 | 0x10c => 0x10,
        0x109 | 0x10d => 0xf0,
        0x10a | 0x10e => 0x57,
        0x114 => 0xc1,
        0x115 => 0x31,
        _ => 0,
    }
}

fn sr_iov_mask(at: u64) -> u32 {
    match at {
        0x08 => 0x09,
        0x20 => 0x53,
        0x21 => 0x05,
        // `NumVFs` takes at most 8, so no whole byte of ones.
        _ => 0,
    }
}

#[test]
fn extended_capabilities() {
    let mut description = net(Interface::Modern);
    description.sr_iov = Some(SrIov { total_vfs: 8 });
    let mut rig = Rig::new(description);
    assert_eq!(rig.config(0x100, 4), 0x1482_0001);
    assert_eq!(rig.config(0x148, 4), 0x0001_0010);
    assert_eq!(rig.config(0x148 + 0x0c, 4), 0x0008_0008);
    assert_eq!(rig.config(0x148 + 0x1a, 2), 0x1041);
    let num_vfs = 0x148 + 0x10;
    rig.set_config(num_vfs, 2, 9);
    assert_eq!(rig.config(num_vfs, 2), 0);
    rig.set_config(num_vfs, 2, 8);
    assert_eq!(rig.config(num_vfs, 2), 8);
    rig.set_config(0x148 + 8, 2, 1);
    rig.set_config(num_vfs, 2, 2);
    assert_eq!(rig.config(num_vfs, 2), 8, "fixed while VF Enable is set");
    assert_eq!(Rig::new(net(Interface::Modern)).config(0x100, 4), 0x0002_0001);
}

#[test]
fn power_states() {
    let mut rig = Rig::new(net(Interface::Modern));
    let at = rig.capability(1) + 4;
    for (written, read) in [(3, 3), (1, 3), (2, 3), (0, 0), (1, 0)] {
        rig.set_config(at, 2, written);
        assert_eq!(rig.config(at, 2), 8 | read);
    }
}

#[test]
fn accesses_of_any_length_and_place_are_harmless() {
    let mut rig = Rig::new(net(Interface::Modern));
    let mut all = vec![0xaa; 4096];
    rig.function.read(Space::Config, 0, &mut all);
    assert_eq!(all[..2], [0xf4, 0x1a]);
    let mut beyond = [0xaa; 8];
    rig.function.read(Space::Config, 4092, &mut beyond);
    assert_eq!(beyond, [0; 8]);
    for offset in [4096, u64::MAX - 3, u64::MAX] {
        let mut out = [0xaa; 4];
        rig.function.read(Space::Config, offset, &mut out);
        assert_eq!(out, [0; 4]);
        rig.function.write(Space::Config, offset, &[0xff; 9]);
    }
    rig.function.read(Space::Config, 7, &mut []);
    rig.function.write(Space::Config, 7, &[]);
    rig.function.write(Space::Config, 4000, &[0xff; 5000]);
    for bar in [0, 2, 3, 5, 6, 255] {
        let mut out = [0xaa; 4];
        rig.function.read(Space::Bar(bar), u64::MAX, &mut out);
        assert_eq!(out, [0; 4]);
        rig.function.write(Space::Bar(bar), u64::MAX - 1, &[1, 2, 3, 4]);
    }
    assert!(rig.drain().is_empty());
}

#[test]
fn the_msix_table_is_kept() {
    let mut rig = Rig::new(net(Interface::Modern));
    let at = rig.capability(0x11);
    assert_eq!(rig.function.msix_vectors(), 4);
    assert_eq!((rig.config(at + 2, 2), rig.config(at + 4, 4), rig.config(at + 8, 4)), (3, 1, 0x801));
    let table = Space::Bar(1);
    for vector in 0..4 {
        assert_eq!(rig.read(table, 16 * vector + 12, 4), 1, "masked");
        rig.write(table, 16 * vector, 4, 0xfee0_1003);
        rig.function.write(table, 16 * vector + 8, &[0xff; 8]);
        assert_eq!(rig.read(table, 16 * vector, 4), 0xfee0_1000);
        let mut control = [0; 8];
        rig.function.read(table, 16 * vector + 8, &mut control);
        assert_eq!(control, [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    }
    rig.write(table, 2, 2, 0xffff);
    rig.write(table, 2, 4, 0xffff_ffff);
    rig.write(table, 64, 4, 0xffff_ffff);
    rig.write(table, 0x800, 4, 0xffff_ffff);
    assert_eq!(
        (rig.read(table, 0, 4), rig.read(table, 64, 4), rig.read(table, 0x800, 4)),
        (0xfee0_1000, 0, 0)
    );
    rig.function.reset();
    assert_eq!((rig.read(table, 0, 4), rig.read(table, 12, 4)), (0, 1));
}

#[test]
fn the_largest_device() {
    let mut description = net(Interface::Modern);
    description.queue_size_max = vec![QueueSize::MAX; 1023];
    description.admin_queue = Some(QueueSize::MAX);
    let mut rig = Rig::new(description);
    assert_eq!(rig.function.msix_vectors(), 1025);
    let notify = rig.structures(2)[1];
    assert_eq!(notify.offset + notify.len, 0x4000);
    let at = rig.capability(0x11);
    assert_eq!((rig.config(at + 2, 2), rig.config(at + 8, 4)), (1024, 0x8001));
    assert_eq!(rig.function.bar(1).unwrap().len, 0x1_0000);
}
