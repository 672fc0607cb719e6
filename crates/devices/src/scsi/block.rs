//! Commands on logical blocks: which bytes, under which conditions, in which stages (SBC-3 §5).

use super::opcode::{Cdb, Op};
use super::sense::{Asc, Sense};
use super::status::Refusal;
use super::task::{Against, Stage, Task};
use super::unit::{Begun, Call, LogicalUnit, PARAMETERS_LEN_MAX};
use crate::storage::{Extent, Extents, Work};

const FUA: u8 = 0x08;
const UNMAP: u8 = 0x08;
const NDOB: u8 = 0x01;

/// Begins a command that is about blocks.
pub(super) fn begin(unit: &mut LogicalUnit, call: &Call<'_>, answer: &mut Vec<u8>) -> Result<Begun, Refusal> {
    let (lba, count) = call.cdb().blocks(call.opcode.usage.len());
    let task = match call.opcode.op {
        Op::Read => read(unit, call, lba, count)?,
        Op::Write => write(unit, call, lba, count)?,
        Op::WriteAtomic => return write_atomic(unit, call, lba).map(Begun::Task),
        Op::WriteAndVerify => write_and_verify(unit, call, lba, count)?,
        Op::Verify => verify(unit, call, lba, count)?,
        Op::SynchronizeCache => {
            extent(unit, lba, count.into())?;
            unit.flush(call.good())
        }
        Op::WriteSame => write_same(unit, call, lba, count)?,
        Op::CompareAndWrite => compare_and_write(unit, call, lba)?,
        Op::Unmap => return unmap(unit, call),
        _ => get_lba_status(unit, call, lba, answer)?,
    };
    Ok(Begun::Task(task))
}

/// The bytes of `count` blocks from `lba` on.
fn extent(unit: &LogicalUnit, lba: u64, count: u64) -> Result<Extent, Sense> {
    let block = u64::from(unit.disk.block());
    match lba.checked_add(count) {
        Some(end) if end <= unit.disk.blocks() => Ok(Extent { offset: lba * block, len: count * block }),
        _ => Err(Sense::illegal(Asc::LBA_OUT_OF_RANGE)),
    }
}

/// As [`extent`], of a command that moves data: not longer than one command may.
fn data_extent(unit: &LogicalUnit, call: &Call<'_>, lba: u64, count: u32) -> Result<Extent, Sense> {
    let extent = extent(unit, lba, count.into())?;
    if count > unit.disk.transfer_max() {
        return Err(Sense::cdb(Cdb::length_at(call.opcode.usage.len()), 7));
    }
    Ok(extent)
}

/// The request has to bring as many bytes.
fn need_out(call: &Call<'_>, len: u64) -> Result<(), Refusal> {
    if call.command.data_out.len() < len { Err(Refusal::Overrun) } else { Ok(()) }
}

fn read(unit: &mut LogicalUnit, call: &Call<'_>, lba: u64, count: u32) -> Result<Task, Refusal> {
    let extent = data_extent(unit, call, lba, count)?;
    if call.command.data_in_len < extent.len {
        return Err(Refusal::Overrun);
    }
    unit.counters.count_read(count);
    // FUA: what is read is what a loss of power would leave.
    let is_fua = call.opcode.usage.len() > 6 && call.cdb().has(1, FUA);
    let flush = (is_fua && unit.mode.write_cache).then_some(Stage::Once(Some(Work::Flush)));
    let stages = match flush {
        Some(flush) => [Some(flush), Some(Stage::Read)],
        None => [Some(Stage::Read), None],
    };
    Ok(Task::new(extent, unit.disk.block(), call.received(extent.len), stages))
}

/// Whether a write has to be on the disk when it is done: FUA, or no write cache.
fn through(unit: &LogicalUnit, call: &Call<'_>) -> bool {
    !unit.mode.write_cache || call.opcode.usage.len() > 6 && call.cdb().has(1, FUA)
}

fn write(unit: &mut LogicalUnit, call: &Call<'_>, lba: u64, count: u32) -> Result<Task, Refusal> {
    let extent = data_extent(unit, call, lba, count)?;
    need_out(call, extent.len)?;
    unit.counters.count_write(count);
    let stage = Stage::Write { from: 0, through: through(unit, call) };
    Ok(Task::new(extent, unit.disk.block(), call.sent(extent.len), [Some(stage), None]))
}

/// WRITE ATOMIC (16): 16 bits of length at byte 12, a boundary at byte 10 that must be zero (SBC-4 §5.48).
fn write_atomic(unit: &mut LogicalUnit, call: &Call<'_>, lba: u64) -> Result<Task, Refusal> {
    let count = u32::from(call.cdb().u16(12));
    if call.cdb().u16(10) != 0 {
        return Err(Sense::cdb(10, 7).into());
    }
    if count > unit.disk.atomic_max() {
        return Err(Sense::cdb(12, 7).into());
    }
    let mut task = write(unit, call, lba, count)?;
    (task.is_atomic, task.is_exclusive) = (true, true);
    Ok(task)
}

/// BYTCHK (SBC-3 table 108): what the medium is compared with. `with_one`: the one block for all is possible.
fn against(call: &Call<'_>, with_one: bool) -> Result<Against, Sense> {
    match call.cdb().u8(1) >> 1 & 3 {
        0 => Ok(Against::Nothing),
        1 => Ok(Against::Data),
        3 if with_one => Ok(Against::OneBlock),
        _ => Err(Sense::cdb(1, 2)),
    }
}

fn verify(unit: &mut LogicalUnit, call: &Call<'_>, lba: u64, count: u32) -> Result<Task, Refusal> {
    let against = against(call, true)?;
    let extent = data_extent(unit, call, lba, count)?;
    let sent = match against {
        Against::Nothing => 0,
        Against::Data => extent.len,
        Against::OneBlock => u64::from(unit.disk.block()).min(extent.len),
    };
    need_out(call, sent)?;
    Ok(Task::new(extent, unit.disk.block(), call.sent(sent), [Some(Stage::Compare(against)), None]))
}

fn write_and_verify(unit: &mut LogicalUnit, call: &Call<'_>, lba: u64, count: u32) -> Result<Task, Refusal> {
    let against = against(call, false)?;
    let mut task = write(unit, call, lba, count)?;
    // What is verified has to be on the medium.
    task.stages = [Some(Stage::Write { from: 0, through: true }), Some(Stage::Compare(against))];
    Ok(task)
}

/// COMPARE AND WRITE: the blocks to compare with, then as many to write (SBC-3 §5.2).
fn compare_and_write(unit: &mut LogicalUnit, call: &Call<'_>, lba: u64) -> Result<Task, Refusal> {
    let count = call.cdb().u8(13);
    let extent = extent(unit, lba, count.into())?;
    if count > unit.disk.compare_max() {
        return Err(Sense::cdb(13, 7).into());
    }
    need_out(call, 2 * extent.len)?;
    unit.counters.count_write(count.into());
    let write = Stage::Write { from: extent.len, through: through(unit, call) };
    let stages = [Some(Stage::Compare(Against::Data)), Some(write)];
    let mut task = Task::new(extent, unit.disk.block(), call.sent(2 * extent.len), stages);
    task.is_exclusive = true;
    Ok(task)
}

/// WRITE SAME: zeros become [`Work::Zero`] where the disk takes it, anything else is written piece by piece (SBC-3 §5.43).
fn write_same(unit: &mut LogicalUnit, call: &Call<'_>, lba: u64, count: u32) -> Result<Task, Refusal> {
    let unmap = call.cdb().has(1, UNMAP);
    let without_data = call.cdb().has(1, NDOB);
    let length_at = Cdb::length_at(call.opcode.usage.len());
    if unmap && !unit.disk.unmap_zeroes() {
        return Err(Sense::cdb(1, 3).into());
    }
    let extent = extent(unit, lba, count.into())?;
    if count == 0 || u64::from(count) > unit.disk.write_same_max() {
        return Err(Sense::cdb(length_at, 7).into());
    }
    let block = unit.disk.block();
    let sent = if without_data { 0 } else { u64::from(block) };
    need_out(call, sent)?;
    unit.counters.count_write(count);
    let zeros = without_data || is_zero(call, block as usize);
    let through = !unit.mode.write_cache;
    let stage = match unit.disk.zero_len_max() {
        Some(len_max) if zeros => Stage::Zero { unmap, through, len_max },
        _ => Stage::Fill { zeros, through },
    };
    Ok(Task::new(extent, block, call.sent(sent), [Some(stage), None]))
}

/// Whether the first `len` bytes of the data-out buffer are zeros.
fn is_zero(call: &Call<'_>, len: usize) -> bool {
    let mut piece = [0; 512];
    (0..len).step_by(piece.len()).all(|at| {
        call.command.data_out.read(at as u64, &mut piece);
        piece.iter().all(|&byte| byte == 0)
    })
}

/// UNMAP (SBC-3 §5.35): all descriptors are checked before anything is done.
fn unmap(unit: &mut LogicalUnit, call: &Call<'_>) -> Result<Begun, Refusal> {
    let len = usize::from(call.cdb().u16(7));
    let mut room = [0; PARAMETERS_LEN_MAX];
    let list = call.parameters(len, &mut room)?;
    if list.is_empty() {
        return Ok(Begun::Done(call.good()));
    }
    let Some((header, descriptors)) = list.split_first_chunk::<8>() else {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR).into());
    };
    let said = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let descriptors = &descriptors[..said.min(descriptors.len())];
    let limits = unit.disk.unmap().ok_or(Sense::illegal(Asc::INVALID_OPERATION_CODE))?;
    // An incomplete descriptor at the end is ignored.
    if descriptors.len() / 16 > usize::from(limits.extents_max) {
        return Err(Sense::parameter(2).into());
    }
    let (mut extents, mut sum) = (Extents::new(), 0u64);
    for (index, descriptor) in descriptors.chunks_exact(16).enumerate() {
        let word = |at: usize| descriptor[at..at + 4].iter().fold(0, |all, &byte| all << 8 | u64::from(byte));
        let (lba, count) = (word(0) << 32 | word(4), word(8));
        let extent = extent(unit, lba, count)?;
        sum += count;
        if sum > u64::from(unit.disk.unmap_max()) || !extents.push(extent) {
            return Err(Sense::parameter(8 + 16 * index as u16 + 8).into());
        }
    }
    let good = call.sent(len as u64);
    if extents.is_empty() {
        return Ok(Begun::Done(good));
    }
    let work = if unit.disk.unmap_zeroes() {
        Work::Zero { extents, unmap: true, through: !unit.mode.write_cache }
    } else {
        Work::Discard(extents)
    };
    let stages = [Some(Stage::Once(Some(work))), None];
    Ok(Begun::Task(Task::new(Extent::default(), unit.disk.block(), good, stages)))
}

/// GET LBA STATUS (SBC-3 §5.5): descriptors as many as there is room for, from this block to the end of the disk.
fn get_lba_status(
    unit: &LogicalUnit,
    call: &Call<'_>,
    lba: u64,
    answer: &mut Vec<u8>,
) -> Result<Task, Refusal> {
    let allocation = u64::from(call.cdb().u32(10));
    let blocks = unit.disk.blocks();
    if lba >= blocks {
        return Err(Sense::illegal(Asc::LBA_OUT_OF_RANGE).into());
    }
    if allocation > call.command.data_in_len {
        return Err(Refusal::Overrun);
    }
    let extent = extent(unit, lba, blocks - lba)?;
    answer.extend_from_slice(&[0; 8]);
    // One descriptor at least is made, even if less of it is asked for.
    let descriptors = (allocation.saturating_sub(8) / 16).clamp(1, u64::from(u16::MAX)) as usize;
    let stages = [Some(Stage::Provisioning), None];
    let mut task = Task::new(extent, unit.disk.block(), call.received(allocation), stages);
    task.descriptors = descriptors;
    Ok(task)
}
