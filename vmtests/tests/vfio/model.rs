//! What registers read after what was written to them, from the specification's words and nothing else: small models that the
//! function is compared with.

use crate::card::{NO_VECTOR, common, status};

/// Features of a network device and what each needs one of (virtio 1.4 §5.1.3.1), as bit numbers.
pub(crate) const NEEDS: &[(u32, &[u32])] = &[
    (7, &[1]),
    (8, &[1]),
    (9, &[7, 8]),
    (10, &[1]),
    (54, &[1]),
    (55, &[1]),
    (11, &[0]),
    (12, &[0]),
    (13, &[11, 12]),
    (14, &[0]),
    (56, &[0]),
];

pub(crate) const VERSION_1: u128 = 1 << 32;
pub(crate) const RING_PACKED: u128 = 1 << 34;
pub(crate) const RING_RESET: u128 = 1 << 40;
pub(crate) const NOTIFICATION_DATA: u128 = 1 << 38;
pub(crate) const NOTIF_CONFIG_DATA: u128 = 1 << 39;
pub(crate) const ADMIN_VQ: u128 = 1 << 41;
/// Features of the transport, apart from what rings look like.
pub(crate) const TRANSPORT: u128 = VERSION_1 | RING_RESET | NOTIFICATION_DATA | NOTIF_CONFIG_DATA | ADMIN_VQ;

/// Addresses below this one are memory.
const MEMORY_END: u64 = vmtests::qtest::MEMORY_MB << 20;

/// Whether a set of features is one that a device that offers `offered` accepts.
pub(crate) fn is_legal(features: u128, offered: u128) -> bool {
    let met = |(bit, needs): &(u32, &[u32])| {
        features >> bit & 1 == 0 || needs.iter().any(|needed| features >> needed & 1 == 1)
    };
    features & !offered == 0 && NEEDS.iter().all(met)
}

/// What a device is, as far as its registers show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) offered: u128,
    /// Without the administration queue, which comes behind them.
    pub(crate) queues: u16,
    pub(crate) size_max: u16,
    pub(crate) admin_size: u16,
    pub(crate) vectors: u16,
    pub(crate) generation: u8,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    size: u16,
    vector: u16,
    enabled: bool,
    areas: [u64; 3],
}

impl Facts {
    fn size_of(&self, index: u16) -> u16 {
        if index < self.queues { self.size_max } else { self.admin_size }
    }
}

impl Queue {
    fn new(size: u16) -> Self {
        Self { size, vector: NO_VECTOR, enabled: false, areas: [0; 3] }
    }
}

/// `struct virtio_pci_common_cfg` (virtio 1.4 §4.1.4.3).
#[derive(Clone, Debug)]
pub(crate) struct Modern {
    facts: Facts,
    status: u8,
    device_select: u32,
    driver_select: u32,
    features: u128,
    config_vector: u16,
    queue_select: u16,
    queues: Vec<Queue>,
}

impl Modern {
    pub(crate) fn new(facts: Facts) -> Self {
        let queue = |index| Queue::new(facts.size_of(index));
        Self {
            facts,
            status: 0,
            device_select: 0,
            driver_select: 0,
            features: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queues: (0..=facts.queues).map(queue).collect(),
        }
    }

    /// The queue that is selected, if it is there: the administration queue only for a driver that took it.
    fn selected(&self) -> Option<usize> {
        let most = self.facts.queues + u16::from(self.has(ADMIN_VQ));
        (self.queue_select < most).then_some(self.queue_select.into())
    }

    fn has(&self, feature: u128) -> bool {
        self.status & status::FEATURES_OK != 0 && self.features & feature != 0
    }

    /// The driver writes the lower `width` bytes of `value`.
    pub(crate) fn write(&mut self, offset: u64, width: usize, value: u64) {
        let (packed, ring_reset) = (self.has(RING_PACKED), self.has(RING_RESET));
        let granted = self.status & status::FEATURES_OK != 0;
        let Facts { vectors, .. } = self.facts;
        let vector = if value < vectors.into() { value as u16 } else { NO_VECTOR };
        match (offset, width) {
            (0x00, 4) => self.device_select = value as u32,
            (0x08, 4) => self.driver_select = value as u32,
            (0x0c, 4) if !granted && self.driver_select < 4 => {
                let shift = 32 * self.driver_select;
                self.features = self.features & !(0xffff_ffff << shift) | u128::from(value as u32) << shift;
            }
            (0x10, 2) => self.config_vector = vector,
            (0x14, 1) => self.write_status(value as u8),
            (0x16, 2) => self.queue_select = value as u16,
            _ => {}
        }
        let Some(selected) = self.selected() else { return };
        let size_max = self.facts.size_of(self.queue_select);
        let queue = &mut self.queues[selected];
        match (offset, width) {
            (0x18, 2) if !queue.enabled => {
                let size = value as u16;
                if size != 0 && size <= size_max && (packed || size.is_power_of_two()) {
                    queue.size = size;
                }
            }
            (0x1a, 2) => queue.vector = vector,
            (0x1c, 2) if value == 1 && granted && !queue.enabled => {
                // A ring that is not in memory cannot start, and the device says that it is lost.
                queue.enabled = queue.areas.iter().all(|area| *area < MEMORY_END);
                self.status |= if queue.enabled { 0 } else { status::NEEDS_RESET };
            }
            (0x20..=0x34, 4) if !queue.enabled => {
                let (area, shift) = ((offset as usize - 0x20) / 8, 8 * (offset % 8));
                let kept = queue.areas[area] & !(0xffff_ffff << shift);
                queue.areas[area] = kept | u64::from(value as u32) << shift;
            }
            (0x3a, 2) if value == 1 && ring_reset && queue.enabled => {
                *queue = Queue::new(size_max);
            }
            _ => {}
        }
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            *self = Self::new(self.facts);
            return;
        }
        self.status |= value & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
        let legal = is_legal(self.features, self.facts.offered) && self.features & VERSION_1 != 0;
        // A driver reads FEATURES_OK back before it goes on (virtio 1.4 §3.1.1), so both in one write are not both taken.
        if value & status::DRIVER_OK != 0 && self.status & status::FEATURES_OK != 0 {
            self.status |= status::DRIVER_OK;
        }
        if value & status::FEATURES_OK != 0 && legal {
            self.status |= status::FEATURES_OK;
        }
    }

    /// All registers as they read now.
    pub(crate) fn image(&self) -> Vec<u8> {
        let word = |features: u128, select: u32| match select {
            0..4 => (features >> (32 * select)) as u32,
            _ => 0,
        };
        let mut image = vec![0; common::LEN as usize];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &self.device_select.to_le_bytes());
        put(0x04, &word(self.facts.offered, self.device_select).to_le_bytes());
        put(0x08, &self.driver_select.to_le_bytes());
        put(0x0c, &word(self.features, self.driver_select).to_le_bytes());
        put(0x10, &self.config_vector.to_le_bytes());
        put(0x12, &self.facts.queues.to_le_bytes());
        put(0x14, &[self.status, self.facts.generation]);
        put(0x16, &self.queue_select.to_le_bytes());
        if let Some(queue) = self.selected().map(|selected| self.queues[selected]) {
            put(0x18, &queue.size.to_le_bytes());
            put(0x1a, &queue.vector.to_le_bytes());
            put(0x1c, &u16::from(queue.enabled).to_le_bytes());
            put(0x1e, &self.queue_select.to_le_bytes());
            for (at, area) in queue.areas.iter().enumerate() {
                put(0x20 + 8 * at, &area.to_le_bytes());
            }
            // The number that a doorbell is told: any that the device likes, and this one is never 0.
            let named = if self.has(NOTIF_CONFIG_DATA) { self.queue_select + 1 } else { 0 };
            put(0x38, &named.to_le_bytes());
        }
        if self.has(ADMIN_VQ) {
            put(0x3c, &self.facts.queues.to_le_bytes());
            put(0x3e, &1u16.to_le_bytes());
        }
        image
    }
}

/// The header of the legacy interface (virtio 1.4 §4.1.4.10) with its MSI-X part, the ISR status left out.
#[derive(Clone, Debug)]
pub(crate) struct Legacy {
    facts: Facts,
    status: u8,
    features: u32,
    /// Features are the driver's last word, and whether they can be.
    settled: Option<bool>,
    config_vector: u16,
    queue_select: u16,
    /// Page and vector.
    queues: Vec<(u32, u16)>,
}

impl Legacy {
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            facts,
            status: 0,
            features: 0,
            settled: None,
            config_vector: NO_VECTOR,
            queue_select: 0,
            queues: vec![(0, NO_VECTOR); facts.queues.into()],
        }
    }

    /// The driver writes the lower `width` bytes of `value`; `msix` is switched on.
    pub(crate) fn write(&mut self, offset: u64, width: usize, value: u64) {
        let vector = if value < self.facts.vectors.into() { value as u16 } else { NO_VECTOR };
        let select = usize::from(self.queue_select);
        match (offset, width) {
            (0x04, 4) if self.settled.is_none() => {
                self.features = value as u32 & self.facts.offered as u32;
            }
            (0x08, 4) if select < self.queues.len() => {
                self.queues[select].0 = value as u32;
                if self.settled.is_some() {
                    self.start();
                }
            }
            (0x0e, 2) => self.queue_select = value as u16,
            (0x10, 2) if self.queues.get(value as usize).is_some_and(|(page, _)| *page != 0) => self.settle(),
            (0x12, 1) if value as u8 == 0 => *self = Self::new(self.facts),
            (0x12, 1) => {
                let kept = status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK | status::FAILED;
                self.status |= value as u8 & kept;
                if value as u8 & status::DRIVER_OK != 0 {
                    self.settle();
                }
            }
            (0x14, 2) => self.config_vector = vector,
            (0x16, 2) if select < self.queues.len() => self.queues[select].1 = vector,
            _ => {}
        }
    }

    /// Features are fixed and rings start, at `DRIVER_OK` or at the first doorbell.
    fn settle(&mut self) {
        if self.settled.is_none() {
            let legal = is_legal(self.features.into(), self.facts.offered);
            self.settled = Some(legal);
            self.status |= if legal { 0 } else { status::NEEDS_RESET };
            self.start();
        }
    }

    /// A ring that is not in memory cannot start.
    fn start(&mut self) {
        for (page, _) in &mut self.queues {
            if self.settled == Some(true) && u64::from(*page) << 12 >= MEMORY_END {
                *page = 0;
                self.status |= status::NEEDS_RESET;
            }
        }
    }

    /// All registers as they read now.
    pub(crate) fn image(&self) -> Vec<u8> {
        let mut image = vec![0; 24];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &(self.facts.offered as u32).to_le_bytes());
        put(0x04, &self.features.to_le_bytes());
        let queue = self.queues.get(usize::from(self.queue_select));
        if let Some((page, _)) = queue {
            put(0x08, &page.to_le_bytes());
            put(0x0c, &self.facts.size_max.to_le_bytes());
        }
        put(0x0e, &self.queue_select.to_le_bytes());
        put(0x12, &[self.status]);
        put(0x14, &self.config_vector.to_le_bytes());
        put(0x16, &queue.map_or(NO_VECTOR, |(_, vector)| *vector).to_le_bytes());
        image
    }
}
