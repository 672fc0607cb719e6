//! A driver's hands, and a host that notes what it is asked.

use transport::pci::features::{F_EVENT_IDX, F_RING_PACKED, F_VERSION_1};
use transport::pci::{Description, Effect, Function, Interface, NotifyKind, Space};
use virtqueue::{Endian, QueueSize};

/// Offsets in the common configuration, by the specification's names.
pub(crate) mod common {
    pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(crate) const DEVICE_FEATURE: u64 = 0x04;
    pub(crate) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(crate) const DRIVER_FEATURE: u64 = 0x0c;
    pub(crate) const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub(crate) const NUM_QUEUES: u64 = 0x12;
    pub(crate) const DEVICE_STATUS: u64 = 0x14;
    pub(crate) const CONFIG_GENERATION: u64 = 0x15;
    pub(crate) const QUEUE_SELECT: u64 = 0x16;
    pub(crate) const QUEUE_SIZE: u64 = 0x18;
    pub(crate) const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub(crate) const QUEUE_ENABLE: u64 = 0x1c;
    pub(crate) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(crate) const QUEUE_DESC: u64 = 0x20;
    pub(crate) const QUEUE_DRIVER: u64 = 0x28;
    pub(crate) const QUEUE_DEVICE: u64 = 0x30;
    pub(crate) const QUEUE_NOTIF_CONFIG_DATA: u64 = 0x38;
    pub(crate) const QUEUE_RESET: u64 = 0x3a;
    pub(crate) const ADMIN_QUEUE_INDEX: u64 = 0x3c;
    pub(crate) const ADMIN_QUEUE_NUM: u64 = 0x3e;
}

pub(crate) const ACKNOWLEDGE: u32 = 1;
pub(crate) const DRIVER: u32 = 2;
pub(crate) const DRIVER_OK: u32 = 4;
pub(crate) const FEATURES_OK: u32 = 8;
pub(crate) const NEEDS_RESET: u32 = 64;
pub(crate) const NO_VECTOR: u32 = 0xffff;
pub(crate) const MSIX_ENABLE: u32 = 1 << 15;

/// Device bits of the descriptions below: two low ones, and one beyond 64.
pub(crate) const DEVICE_FEATURES: u128 = 1 | 1 << 5 | 1 << 65;

/// A network device of three queues and ten bytes of configuration.
pub(crate) fn net(interface: Interface) -> Description {
    Description {
        device_type: 1,
        class: 0x02_0000,
        interface,
        notify: vec![NotifyKind::Pio, NotifyKind::Mmio],
        mapped: false,
        notification_data: false,
        msix: true,
        features: DEVICE_FEATURES | F_EVENT_IDX | F_RING_PACKED,
        queue_size_max: [256, 512, 64].map(|size| QueueSize::try_from(size).unwrap()).to_vec(),
        admin_queue: None,
        config: (1..=10).collect(),
        endian: Endian::Little,
        shared_memory: vec![],
        vendor: None,
        sr_iov: None,
    }
}

/// Where a structure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Structure {
    /// Of its capability, in configuration space.
    pub(crate) at: u64,
    pub(crate) cfg_type: u32,
    pub(crate) bar: u8,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

pub(crate) struct Rig {
    pub(crate) function: Function,
    structures: Vec<Structure>,
}

impl Rig {
    pub(crate) fn new(description: Description) -> Self {
        let mut rig = Self { function: Function::new(description).unwrap(), structures: vec![] };
        rig.structures = rig.walk();
        rig
    }

    pub(crate) fn read(&mut self, space: Space, offset: u64, width: usize) -> u32 {
        let mut bytes = [0; 4];
        self.function.read(space, offset, &mut bytes[..width]);
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn write(&mut self, space: Space, offset: u64, width: usize, value: u32) {
        self.function.write(space, offset, &value.to_le_bytes()[..width]);
    }

    pub(crate) fn config(&mut self, offset: u64, width: usize) -> u32 {
        self.read(Space::Config, offset, width)
    }

    pub(crate) fn set_config(&mut self, offset: u64, width: usize, value: u32) {
        self.write(Space::Config, offset, width, value);
    }

    /// Capabilities as (id, place), in the list's order.
    pub(crate) fn capabilities(&mut self) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        let mut at = u64::from(self.config(0x34, 1));
        while at != 0 {
            assert!(at.is_multiple_of(4) && (0x40..0x100).contains(&at) && found.len() < 48);
            found.push((self.config(at, 1), at));
            at = u64::from(self.config(at + 1, 1));
        }
        found
    }

    pub(crate) fn capability(&mut self, id: u32) -> u64 {
        self.capabilities().into_iter().find(|(found, _)| *found == id).expect("the capability").1
    }

    fn walk(&mut self) -> Vec<Structure> {
        let places = self.capabilities().into_iter().filter(|(id, _)| *id == 9);
        let places: Vec<u64> = places.map(|(_, at)| at).collect();
        let structure = |rig: &mut Self, at| Structure {
            at,
            cfg_type: rig.config(at + 3, 1),
            bar: rig.config(at + 4, 1) as u8,
            offset: u64::from(rig.config(at + 8, 4)),
            len: u64::from(rig.config(at + 12, 4)),
        };
        places.into_iter().map(|at| structure(self, at)).collect()
    }

    pub(crate) fn structures(&self, cfg_type: u32) -> Vec<Structure> {
        self.structures.iter().copied().filter(|structure| structure.cfg_type == cfg_type).collect()
    }

    /// The first structure of a type.
    pub(crate) fn structure(&self, cfg_type: u32) -> Structure {
        self.structures(cfg_type)[0]
    }

    pub(crate) fn read_in(&mut self, cfg_type: u32, offset: u64, width: usize) -> u32 {
        let place = self.structure(cfg_type);
        self.read(Space::Bar(place.bar), place.offset + offset, width)
    }

    pub(crate) fn write_in(&mut self, cfg_type: u32, offset: u64, width: usize, value: u32) {
        let place = self.structure(cfg_type);
        self.write(Space::Bar(place.bar), place.offset + offset, width, value);
    }

    pub(crate) fn common(&mut self, offset: u64, width: usize) -> u32 {
        self.read_in(1, offset, width)
    }

    pub(crate) fn set_common(&mut self, offset: u64, width: usize, value: u32) {
        self.write_in(1, offset, width, value);
    }

    pub(crate) fn status(&mut self) -> u32 {
        self.common(common::DEVICE_STATUS, 1)
    }

    pub(crate) fn set_status(&mut self, value: u32) {
        self.set_common(common::DEVICE_STATUS, 1, value);
    }

    /// The ISR status, which is cleared thereby.
    pub(crate) fn isr(&mut self) -> u32 {
        self.read_in(3, 0, 1)
    }

    pub(crate) fn offered(&mut self) -> u128 {
        let word = |rig: &mut Self, select: u32| {
            rig.set_common(common::DEVICE_FEATURE_SELECT, 4, select);
            u128::from(rig.common(common::DEVICE_FEATURE, 4)) << (32 * select)
        };
        (0..4).map(|select| word(self, select)).sum()
    }

    pub(crate) fn accept(&mut self, features: u128) {
        for select in 0..4 {
            self.set_common(common::DRIVER_FEATURE_SELECT, 4, select);
            self.set_common(common::DRIVER_FEATURE, 4, (features >> (32 * select)) as u32);
        }
    }

    /// From a reset to `FEATURES_OK`, or an unset bit.
    pub(crate) fn negotiate(&mut self, features: u128) -> bool {
        self.set_status(0);
        self.drain();
        assert_eq!(self.status(), 0);
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        self.accept(features);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.drain();
        self.status() & FEATURES_OK != 0
    }

    /// Places the areas of queue `index` at `address` and enables it.
    pub(crate) fn enable(&mut self, index: u32, address: u32) {
        self.set_common(common::QUEUE_SELECT, 2, index);
        self.set_common(common::QUEUE_DESC, 4, address);
        self.set_common(common::QUEUE_DRIVER, 4, address + 0x1000);
        self.set_common(common::QUEUE_DEVICE, 4, address + 0x2000);
        self.set_common(common::QUEUE_ENABLE, 2, 1);
    }

    /// A modern driver's way to a device that works, with queue 0 and 1.
    pub(crate) fn bring_up(&mut self, features: u128) {
        assert!(self.negotiate(features | F_VERSION_1));
        self.enable(0, 0x10_0000);
        self.enable(1, 0x20_0000);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        self.drain();
    }

    pub(crate) fn set_msix(&mut self, enabled: bool) {
        let at = self.capability(0x11);
        self.set_config(at + 2, 2, if enabled { MSIX_ENABLE } else { 0 });
    }

    /// Carries out all effects, and says which they were.
    pub(crate) fn drain(&mut self) -> Vec<String> {
        self.answer(|_| true)
    }

    /// As [`Rig::drain`], answered by `accept`.
    pub(crate) fn answer(&mut self, mut accept: impl FnMut(&Effect) -> bool) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(effect) = self.function.next_effect() {
            told.push(say(&effect));
            assert!(self.function.next_effect().is_none(), "one effect at a time");
            let accepted = accept(&effect);
            self.function.finish(accepted);
            assert!(told.len() < 10_000);
        }
        told
    }

    /// The next effect, left in hand.
    pub(crate) fn take(&mut self) -> String {
        say(&self.function.next_effect().expect("an effect"))
    }
}

pub(crate) fn say(effect: &Effect) -> String {
    match effect {
        Effect::Features { acknowledged } => format!("features {acknowledged:#x}"),
        Effect::QueueStart(start) => {
            let setup = &start.setup;
            let legacy = if start.legacy { " legacy" } else { "" };
            let (index, size) = (start.index, setup.size.get());
            format!("start {index}: {size} {} {} {}{legacy}", setup.desc, setup.driver, setup.device)
        }
        Effect::QueueStop { index } => format!("stop {index}"),
        Effect::DriverOk => "driver ok".into(),
        Effect::Reset => "reset".into(),
        Effect::ConfigWrite { offset, bytes } => format!("config {offset}: {bytes:?}"),
        Effect::Notify { index, position: None } => format!("notify {index}"),
        Effect::Notify { index, position: Some(position) } => format!("notify {index} at {position:#x}"),
        Effect::CallsChanged => "calls".into(),
        Effect::Interrupt(cause) => format!("interrupt {cause:?}"),
        Effect::DeviceMode { stopped } => format!("stopped: {stopped}"),
    }
}
