//! What a function can be made from, and what it offers.

use crate::rig::{DEVICE_FEATURES, Rig, net};
use transport::pci::features::*;
use transport::pci::{
    BarKind, Description, DescriptionFault, Function, Interface, LEGACY_CONFIG_SIZE_MAX, NotifyKind,
    SharedMemory, Space, SrIov, Vendor,
};
use virtqueue::QueueSize;

fn fault(interface: Interface, change: impl FnOnce(&mut Description)) -> Option<DescriptionFault> {
    let mut description = net(interface);
    change(&mut description);
    Function::new(description).err()
}

#[test]
fn faults_name_the_field() {
    use DescriptionFault as Fault;
    use Interface::{Legacy, Modern, Transitional};
    let three = QueueSize::try_from(3).unwrap();
    let page = |id| SharedMemory { id, len: 4096 };
    let cases = [
        (fault(Modern, |d| d.device_type = 0), Fault::DeviceType { device_type: 0 }),
        (fault(Modern, |d| d.device_type = 64), Fault::DeviceType { device_type: 64 }),
        (fault(Transitional, |d| d.device_type = 16), Fault::NoTransitionalId { device_type: 16 }),
        (fault(Legacy, |d| d.device_type = 6), Fault::NoTransitionalId { device_type: 6 }),
        (fault(Modern, |d| d.class = 1 << 24), Fault::Class { class: 1 << 24 }),
        (fault(Modern, |d| d.queue_size_max.clear()), Fault::Queues { count: 0 }),
        (fault(Modern, |d| d.queue_size_max = vec![QueueSize::MAX; 1025]), Fault::Queues { count: 1025 }),
        (fault(Modern, |d| d.queue_size_max[1] = three), Fault::QueueSize { index: 1, entries: 3 }),
        (fault(Modern, |d| d.admin_queue = Some(three)), Fault::QueueSize { index: 3, entries: 3 }),
        (fault(Modern, |d| d.notify.clear()), Fault::Notify),
        (fault(Modern, |d| d.notify.push(NotifyKind::Pio)), Fault::Notify),
        (fault(Modern, |d| d.notify = vec![NotifyKind::Mmio; 2]), Fault::Notify),
        (fault(Modern, |d| (d.notify, d.mapped) = (vec![NotifyKind::Pio], true)), Fault::MappedWithoutMmio),
        (fault(Legacy, |d| d.mapped = true), Fault::NeedsModern { field: "mapped" }),
        (fault(Legacy, |d| d.notification_data = true), Fault::NeedsModern { field: "notification_data" }),
        (
            fault(Legacy, |d| d.admin_queue = Some(QueueSize::MAX)),
            Fault::NeedsModern { field: "admin_queue" },
        ),
        (
            fault(Transitional, |d| d.config = vec![0; LEGACY_CONFIG_SIZE_MAX + 1]),
            Fault::ConfigSize { size: 233, most: 232 },
        ),
        (fault(Modern, |d| d.config = vec![0; 4097]), Fault::ConfigSize { size: 4097, most: 4096 }),
        (
            fault(Modern, |d| d.shared_memory = vec![page(1), page(1)]),
            Fault::SharedMemory { id: 1, len: 4096 },
        ),
        (
            fault(Modern, |d| d.shared_memory = vec![SharedMemory { id: 0, len: 100 }]),
            Fault::SharedMemory { id: 0, len: 100 },
        ),
        (
            fault(Modern, |d| d.shared_memory = vec![SharedMemory { id: 0, len: 1 << 63 | 4096 }]),
            Fault::SharedMemoryTotal,
        ),
        (fault(Transitional, |d| d.shared_memory = vec![page(1)]), Fault::BarsFull),
        (
            fault(Modern, |d| d.vendor = Some(Vendor { id: 0x1af4, data: vec![] })),
            Fault::VendorId { id: 0x1af4 },
        ),
        (
            fault(Modern, |d| d.vendor = Some(Vendor { id: 1, data: vec![0; 3] })),
            Fault::CapabilitiesFull { missing: 8 },
        ),
        (
            fault(Modern, |d| d.vendor = Some(Vendor { id: 1, data: vec![0; 100_000] })),
            Fault::CapabilitiesFull { missing: 100_004 },
        ),
        (fault(Modern, |d| d.sr_iov = Some(SrIov { total_vfs: 0 })), Fault::TotalVfs { total_vfs: 0 }),
    ];
    for (found, wanted) in cases {
        assert_eq!(found, Some(wanted));
        assert!(!wanted.to_string().is_empty());
    }
}

#[test]
fn what_is_on_offer() {
    let base = DEVICE_FEATURES | F_EVENT_IDX | F_RING_PACKED | F_VERSION_1 | F_RING_RESET;
    assert_eq!(Rig::new(net(Interface::Modern)).offered(), base);

    let mut description = net(Interface::Modern);
    description.notification_data = true;
    description.admin_queue = Some(QueueSize::MAX);
    description.sr_iov = Some(SrIov { total_vfs: 4 });
    let all = base | F_NOTIFICATION_DATA | F_NOTIF_CONFIG_DATA | F_ADMIN_VQ | F_SR_IOV;
    assert_eq!(Rig::new(description).offered(), all);

    // What is the transport's cannot be claimed for it, and legacy bits are for legacy drivers.
    let mut description = net(Interface::Transitional);
    description.features |= TRANSPORT_BITS | LEGACY_BITS;
    let mut rig = Rig::new(description);
    assert_eq!(rig.offered(), base);
    let legacy = rig.read(Space::Bar(0), 0, 4);
    assert_eq!(u128::from(legacy), 1 | 1 << 5 | F_EVENT_IDX | LEGACY_BITS);
}

#[test]
fn ring_features_follow_the_acknowledged_ones() {
    use virtqueue::{Endian, RingFeatures};
    let modern = ring_features(F_VERSION_1 | F_RING_PACKED | F_IN_ORDER, Endian::Big);
    let wanted = RingFeatures { packed: true, in_order: true, ..RingFeatures::default() };
    assert_eq!(modern, wanted);
    let legacy = ring_features(F_INDIRECT_DESC | F_EVENT_IDX, Endian::Big);
    let wanted =
        RingFeatures { indirect: true, event_idx: true, endian: Endian::Big, ..RingFeatures::default() };
    assert_eq!(legacy, wanted);
}

#[test]
fn windows_of_each_interface() {
    let kinds = |interface| {
        let function = Function::new(net(interface)).unwrap();
        (0..7).map(|index| function.bar(index).map(|bar| (bar.len, bar.kind))).collect::<Vec<_>>()
    };
    let msix = Some((4096, BarKind::Memory32));
    let memory = Some((0x4000, BarKind::Memory64));
    let header = Some((64, BarKind::Io));
    let port = Some((4, BarKind::Io));
    assert_eq!(kinds(Interface::Modern), [port, msix, None, None, memory, None, None]);
    assert_eq!(kinds(Interface::Transitional), [header, msix, port, None, memory, None, None]);
    assert_eq!(kinds(Interface::Legacy), [header, msix, None, None, None, None, None]);
}

#[test]
fn the_doorbells_can_be_mapped() {
    let mut description = net(Interface::Modern);
    let mappable = |description: &Description, index| {
        Function::new(description.clone()).unwrap().bar(index).unwrap().mappable
    };
    assert_eq!((mappable(&description, 1), mappable(&description, 4)), (None, None));
    description.mapped = true;
    description.notify = vec![NotifyKind::Mmio];
    // Room for the second region's capability.
    (description.msix, description.config) = (false, vec![]);
    description.shared_memory = [(3, 0x3000), (1, 0x1000)].map(|(id, len)| SharedMemory { id, len }).to_vec();
    assert_eq!(mappable(&description, 4), Some(0x3000..0x4000));
    assert_eq!(mappable(&description, 2), None);
    let rig = Rig::new(description);
    let notify = rig.structure(2);
    assert_eq!((notify.bar, notify.offset, notify.len), (4, 0x3000, 12));
    assert_eq!(rig.function.shared_memory(3), Some((2, 0..0x3000)));
    assert_eq!(rig.function.shared_memory(1), Some((2, 0x3000..0x4000)));
    assert_eq!(rig.function.shared_memory(2), None);
}

#[test]
fn a_device_without_configuration() {
    for interface in [Interface::Modern, Interface::Transitional, Interface::Legacy] {
        let mut description = net(interface);
        description.config.clear();
        let mut rig = Rig::new(description);
        assert_eq!(rig.structures(4), []);
        rig.write(Space::Bar(0), 20, 4, 1);
        rig.write(Space::Bar(4), 0x2000, 4, 1);
        rig.function.set_config(&[1, 2, 3]);
        assert_eq!((rig.read(Space::Bar(0), 20, 4), rig.read(Space::Bar(4), 0x2000, 4)), (0, 0));
        assert!(rig.drain().is_empty());
    }
}
