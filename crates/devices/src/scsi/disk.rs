//! What a logical unit is made of: its disk as SCSI sees it, and the limits it tells its initiators.

use super::identity::Identity;
use super::task::SCRATCH_LEN;
use crate::storage::{EXTENTS_MAX, Limits, Shape};
use thiserror::Error;

/// Bytes that one READ or WRITE moves at most.
pub const TRANSFER_LEN_MAX: u32 = 64 << 20;
/// Bytes that one WRITE SAME with a pattern writes at most. One without, or with a block of zeros, is bounded by the disk.
pub const PATTERN_LEN_MAX: u64 = 256 << 20;
/// Bytes that one COMPARE AND WRITE compares at most.
pub const COMPARE_LEN_MAX: u32 = 128 << 10;

/// One logical unit, as the operator made it. A change of it is a new value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disk {
    /// Sizes and limits. `logical_block` is at most [`SCRATCH_LEN`].
    pub shape: Shape,
    /// What it is called.
    pub identity: Identity,
    /// Whether the write cache is on after a reset.
    pub write_cache: bool,
    /// It turns: seeks cost time.
    pub is_rotating: bool,
    /// Bytes that the disk writes as a whole or not at all, also through a loss of power; 0: it promises nothing.
    pub atomic_len_max: u32,
}

/// A shape that SCSI cannot show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[allow(missing_docs, reason = "the fields are named after what the message prints")]
pub enum ShapeFault {
    #[error("logical block of {0} bytes; accepted are powers of two from 512 to {SCRATCH_LEN}")]
    LogicalBlock(u32),
    #[error(
        "physical block of {0} bytes; accepted are powers of two from the logical block to 32768 times that"
    )]
    PhysicalBlock(u32),
    #[error("capacity of {0} bytes; accepted is at least one logical block")]
    Capacity(u64),
}

impl Disk {
    /// Whether its shape can be shown to initiators.
    ///
    /// # Errors
    /// Names the field and what is accepted.
    pub fn check(&self) -> Result<(), ShapeFault> {
        let Shape { logical_block, physical_block, capacity, .. } = self.shape;
        if !logical_block.is_power_of_two() || !(512..=SCRATCH_LEN as u32).contains(&logical_block) {
            return Err(ShapeFault::LogicalBlock(logical_block));
        }
        let most = logical_block.saturating_mul(1 << 15);
        if !physical_block.is_power_of_two() || !(logical_block..=most).contains(&physical_block) {
            return Err(ShapeFault::PhysicalBlock(physical_block));
        }
        if self.blocks() == 0 {
            return Err(ShapeFault::Capacity(capacity));
        }
        Ok(())
    }

    /// Bytes of a logical block.
    pub fn block(&self) -> u32 {
        self.shape.logical_block
    }

    /// Logical blocks.
    pub fn blocks(&self) -> u64 {
        self.shape.capacity / u64::from(self.block())
    }

    /// Logical blocks of a physical block, as a power of two.
    pub(super) fn physical_exponent(&self) -> u8 {
        (self.shape.physical_block / self.block()).trailing_zeros() as u8
    }

    /// The first logical block that begins a physical one (LOWEST ALIGNED LOGICAL BLOCK ADDRESS, 14 bits).
    pub(super) fn lowest_aligned(&self) -> u16 {
        (self.shape.alignment_offset % self.shape.physical_block / self.block()) as u16 & 0x3FFF
    }

    /// Blocks of one READ or WRITE at most.
    pub(super) fn transfer_max(&self) -> u32 {
        TRANSFER_LEN_MAX / self.block()
    }

    /// Blocks of one COMPARE AND WRITE at most.
    pub(super) fn compare_max(&self) -> u8 {
        (COMPARE_LEN_MAX / self.block()).min(255) as u8
    }

    /// Blocks of one WRITE ATOMIC at most; none where the disk promises nothing.
    pub(super) fn atomic_max(&self) -> u32 {
        (self.atomic_len_max / self.block()).min(self.transfer_max())
    }

    /// Bytes that a request with zeros takes from the disk at once, in whole blocks; `None`: zeros have to be written.
    pub(super) fn zero_len_max(&self) -> Option<u64> {
        let block = u64::from(self.block());
        let most = self.shape.zero?.len_max / block * block;
        (most > 0).then_some(most)
    }

    /// Whether what is unmapped reads as zeros: then UNMAP zeroes. Else it is only a hint.
    pub(super) fn unmap_zeroes(&self) -> bool {
        self.shape.zero_unmaps && self.zero_len_max().is_some()
    }

    /// What UNMAP takes; `None`: the unit is fully provisioned.
    pub(super) fn unmap(&self) -> Option<Limits> {
        let limits = if self.unmap_zeroes() { self.shape.zero } else { self.shape.discard }?;
        let extents_max = limits.extents_max.min(EXTENTS_MAX as u16);
        (limits.len_max >= u64::from(self.block()) && extents_max > 0)
            .then_some(Limits { extents_max, ..limits })
    }

    /// Blocks of all extents of one UNMAP at most.
    pub(super) fn unmap_max(&self) -> u32 {
        let blocks = |limits: Limits| limits.len_max / u64::from(self.block());
        u32::try_from(self.unmap().map_or(0, blocks)).unwrap_or(u32::MAX)
    }

    /// Blocks of one WRITE SAME at most.
    pub(super) fn write_same_max(&self) -> u64 {
        PATTERN_LEN_MAX / u64::from(self.block())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A disk of 512-byte blocks that can do everything.
    pub(crate) fn full(blocks: u64) -> Disk {
        let limits = Limits { len_max: 64 << 10, extents_max: 4, alignment: 4096 };
        let shape = Shape {
            physical_block: 4096,
            alignment_offset: 512,
            optimal_io: 65536,
            minimum_io: 4096,
            discard: Some(limits),
            zero: Some(limits),
            zero_unmaps: true,
            ..Shape::plain(blocks * 512)
        };
        let identity = Identity::new("store/0", "");
        Disk { shape, identity, write_cache: true, is_rotating: false, atomic_len_max: 8192 }
    }

    #[test]
    fn shapes_that_scsi_cannot_show_are_refused() {
        let with = |change: fn(&mut Shape)| {
            let mut disk = full(8);
            change(&mut disk.shape);
            disk.check()
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|shape| shape.logical_block = 0), Err(ShapeFault::LogicalBlock(0)));
        assert_eq!(with(|shape| shape.logical_block = 520), Err(ShapeFault::LogicalBlock(520)));
        assert_eq!(with(|shape| shape.logical_block = 1 << 17), Err(ShapeFault::LogicalBlock(1 << 17)));
        assert_eq!(with(|shape| shape.physical_block = 256), Err(ShapeFault::PhysicalBlock(256)));
        assert_eq!(with(|shape| shape.capacity = 511), Err(ShapeFault::Capacity(511)));
    }

    #[test]
    fn limits_follow_the_disk() {
        let mut disk = full(8);
        assert_eq!((disk.transfer_max(), disk.compare_max(), disk.atomic_max()), (131_072, 255, 16));
        assert_eq!((disk.unmap_max(), disk.lowest_aligned(), disk.physical_exponent()), (128, 1, 3));
        disk.shape.logical_block = 65536;
        disk.shape.physical_block = 65536;
        assert_eq!((disk.compare_max(), disk.unmap_max(), disk.atomic_max()), (2, 1, 0));
        disk.shape.zero = None;
        assert!(!disk.unmap_zeroes() && disk.unmap().is_some());
        disk.shape.discard = None;
        assert!(disk.unmap().is_none() && disk.unmap_max() == 0);
    }
}
