//! Device parts: the state of the device as a list of typed values (virtio 1.4 §2.12, §2.13.4).
//!
//! Since a driver sets the parts of the device that it is driving, features and status are those that it
//! has negotiated already: such parts are compared. What is applied are vectors, and queues that are not
//! enabled yet; these start when the device is resumed.

use super::admin::{Data, Purpose, Refusal};
use super::features::{F_NOTIF_CONFIG_DATA, F_RING_PACKED};
use super::registers::Registers;
use std::collections::{BTreeMap, BTreeSet};
use virtqueue::QueueSize;

const DEV_FEATURES: u16 = 0x100;
const DRV_FEATURES: u16 = 0x101;
const PCI_COMMON_CFG: u16 = 0x102;
const DEVICE_STATUS: u16 = 0x103;
const VQ_CFG: u16 = 0x104;
const VQ_NOTIFY_CFG: u16 = 0x105;

/// `VIRTIO_DEV_PART_F_OPTIONAL`.
const OPTIONAL: u8 = 1;
/// `struct virtio_dev_part_hdr`.
const HEADER_LEN: usize = 16;
/// Fields of the common configuration that are parts: `config_msix_vector` and `num_queues`.
const CONFIG_MSIX_VECTOR: u32 = 0x10;
const NUM_QUEUES: u32 = 0x12;

/// Which part: its type, and the offset or queue that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    part_type: u16,
    selector: u32,
}

impl Key {
    fn new(part_type: u16, selector: u32) -> Self {
        Self { part_type, selector }
    }

    /// From a header: for queues the selector is 16 bits.
    fn parse(header: Data<'_>) -> Self {
        let part_type = header.u16(0);
        let selector = match part_type {
            PCI_COMMON_CFG => header.u32(4),
            VQ_CFG | VQ_NOTIFY_CFG => u32::from(header.u16(4)),
            _ => 0,
        };
        Self { part_type, selector }
    }

    fn flags(self) -> u8 {
        if self.part_type == DEV_FEATURES { OPTIONAL } else { 0 }
    }

    fn header(self, len: usize) -> Vec<u8> {
        let mut header = self.part_type.to_le_bytes().to_vec();
        header.extend_from_slice(&[self.flags(), 0]);
        header.extend_from_slice(&u64::from(self.selector).to_le_bytes());
        header.extend_from_slice(&(len as u32).to_le_bytes());
        header
    }
}

/// A part that is to change something.
enum Change {
    ConfigVector(u16),
    Queue { index: u16, config: QueueConfig },
}

/// `struct virtio_dev_part_vq_cfg`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct QueueConfig {
    size: u16,
    vector: u16,
    enabled: u16,
    areas: [u64; 3],
}

impl QueueConfig {
    fn parse(value: Data<'_>) -> Self {
        let areas = [value.u64(8), value.u64(16), value.u64(24)];
        Self { size: value.u16(0), vector: value.u16(2), enabled: value.u16(4), areas }
    }

    fn emit(self) -> Vec<u8> {
        let mut value = Vec::new();
        for word in [self.size, self.vector, self.enabled, 0] {
            value.extend_from_slice(&word.to_le_bytes());
        }
        for area in self.areas {
            value.extend_from_slice(&area.to_le_bytes());
        }
        value
    }
}

impl Registers {
    /// All parts. Their keys sort as the specification's table of the parts' order wants it.
    fn parts(&self) -> BTreeMap<Key, Vec<u8>> {
        let mut parts = BTreeMap::from([
            (Key::new(DEV_FEATURES, 0), self.offered.to_le_bytes().to_vec()),
            (Key::new(DRV_FEATURES, 0), self.driver_features.to_le_bytes().to_vec()),
            (Key::new(PCI_COMMON_CFG, CONFIG_MSIX_VECTOR), self.config_vector.to_le_bytes().to_vec()),
            (Key::new(PCI_COMMON_CFG, NUM_QUEUES), self.num_queues.to_le_bytes().to_vec()),
            (Key::new(DEVICE_STATUS, 0), vec![self.device_status()]),
        ]);
        for index in 0..self.queues.len() as u16 {
            let selector = u32::from(index);
            if let Some(config) = self.queue_config(index) {
                parts.insert(Key::new(VQ_CFG, selector), config.emit());
            }
            let data = if self.has(F_NOTIF_CONFIG_DATA) { index + 1 } else { 0 };
            let notify = [index.to_le_bytes(), data.to_le_bytes(), [0; 2], [0; 2]].concat();
            parts.insert(Key::new(VQ_NOTIFY_CFG, selector), notify);
        }
        parts
    }

    fn queue_config(&self, index: u16) -> Option<QueueConfig> {
        let queue = self.queues.get(usize::from(index))?;
        Some(QueueConfig {
            size: queue.size.get(),
            vector: queue.vector,
            enabled: u16::from(queue.enabled),
            areas: queue.areas,
        })
    }

    /// `VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET`; `room`: bytes for the result.
    pub(super) fn dev_parts_metadata_get(&self, data: Data<'_>, room: usize) -> Result<Vec<u8>, Refusal> {
        self.admin.object(data)?;
        let parts = self.parts();
        let size = parts.values().map(|value| HEADER_LEN + value.len()).sum::<usize>();
        let result = match data.u8(8) {
            0 => (size as u64).to_le_bytes().to_vec(),
            1 => (parts.len() as u64).to_le_bytes().to_vec(),
            2 => {
                let mut result = (parts.len() as u64).to_le_bytes().to_vec();
                result.extend(parts.iter().flat_map(|(key, value)| key.header(value.len())));
                result
            }
            _ => return Err(Refusal::InvalidField),
        };
        if result.len() <= room { Ok(result) } else { Err(Refusal::Enomem) }
    }

    /// `VIRTIO_ADMIN_CMD_DEV_PARTS_GET`: all parts, or those listed that exist.
    pub(super) fn dev_parts_get(&self, data: Data<'_>) -> Result<Vec<u8>, Refusal> {
        if self.admin.object(data)? != Purpose::Get {
            return Err(Refusal::InvalidCommand);
        }
        let wanted: Option<BTreeSet<Key>> = match data.u8(8) {
            0 => Some(
                data.after(16).0.chunks_exact(HEADER_LEN).map(|header| Key::parse(Data(header))).collect(),
            ),
            1 => None,
            _ => return Err(Refusal::InvalidField),
        };
        let mut result = Vec::new();
        for (key, value) in self.parts() {
            if wanted.as_ref().is_none_or(|wanted| wanted.contains(&key)) {
                result.extend(key.header(value.len()));
                result.extend(value);
            }
        }
        Ok(result)
    }

    /// `VIRTIO_ADMIN_CMD_DEV_PARTS_SET`: all of the parts, or none if one cannot be.
    pub(super) fn dev_parts_set(&mut self, data: Data<'_>) -> Result<(), Refusal> {
        if self.admin.object(data)? != Purpose::Set || !self.admin.stopped {
            return Err(Refusal::InvalidCommand);
        }
        let parts = self.parts();
        let mut changes = Vec::new();
        let mut rest = data.after(8);
        while rest.0.len() >= HEADER_LEN {
            let len = rest.u32(12) as usize;
            let value = rest.after(HEADER_LEN).0.get(..len).ok_or(Refusal::InvalidField)?;
            let optional = rest.u8(2) & OPTIONAL != 0;
            let key = Key::parse(rest);
            match parts.get(&key) {
                Some(own) => changes.extend(self.change(key, Data(value), own)?),
                None if optional => {}
                None => return Err(Refusal::InvalidField),
            }
            rest = rest.after(HEADER_LEN + len);
        }
        changes.into_iter().for_each(|change| self.apply(change));
        Ok(())
    }

    /// What a part would change, if it may; `own` is its present value.
    fn change(&self, key: Key, value: Data<'_>, own: &[u8]) -> Result<Option<Change>, Refusal> {
        if value.0.len() != own.len() {
            return Err(Refusal::InvalidField);
        }
        if value.0 == own {
            return Ok(None);
        }
        match key {
            Key { part_type: PCI_COMMON_CFG, selector: CONFIG_MSIX_VECTOR } => {
                Ok(Some(Change::ConfigVector(value.u16(0))))
            }
            Key { part_type: VQ_CFG, selector } => {
                let (index, config) = (selector as u16, QueueConfig::parse(value));
                if self.takes(index, config) {
                    Ok(Some(Change::Queue { index, config }))
                } else {
                    Err(Refusal::InvalidField)
                }
            }
            _ => Err(Refusal::InvalidField),
        }
    }

    /// Whether queue `index` can become that: anything legal if it is not enabled, otherwise only another
    /// vector.
    fn takes(&self, index: u16, config: QueueConfig) -> bool {
        let (Some(queue), Some(own)) = (self.queues.get(usize::from(index)), self.queue_config(index)) else {
            return false;
        };
        let size = QueueSize::try_from(config.size).is_ok_and(|size| size <= queue.size_max);
        let legal = size && (self.has(F_RING_PACKED) || config.size.is_power_of_two());
        let same = QueueConfig { vector: own.vector, ..config } == own;
        legal && config.enabled <= 1 && (queue.is_open() || same)
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::ConfigVector(vector) => self.set_config_vector(vector),
            Change::Queue { index, config } => {
                let Ok(size) = QueueSize::try_from(config.size) else { return };
                if let Some(queue) = self.queues.get_mut(usize::from(index)) {
                    queue.size = size;
                    queue.areas = config.areas;
                    queue.enabled = config.enabled == 1;
                }
                self.set_vector_of(index, config.vector);
            }
        }
    }
}
