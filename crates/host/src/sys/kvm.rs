//! A virtual machine of some pages and one processor, to look at what its doorbells cost (Linux,
//! `Documentation/virt/kvm/api.rst`).
//!
//! The processor is in 32-bit protected mode without paging, all segments flat from 0 on, and runs one of our own programs
//! until `hlt`. `kvm-ioctls` has safe wrappers for everything but the memory and an ioeventfd of four bytes with any value.

use kvm_bindings::{
    KVMIO, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_pio, kvm_regs, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::arch::x86_64::_rdtsc;
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes of memory, from address 0 on.
const MEMORY_LEN: usize = 64 << 10;
/// Where the program begins. Not zero, so that a forgotten address is caught.
const PROGRAM: usize = 0x1000;
/// Where Intel's processors get three pages that they need while a guest has no paging; no memory of the guest's.
const TSS: usize = 0xfffb_d000;
/// `KVM_IOEVENTFD`: `_IOW(KVMIO, 0x79, struct kvm_ioeventfd)`.
const IOEVENTFD: u64 = 1 << 30 | (size_of::<kvm_ioeventfd>() as u64) << 16 | (KVMIO as u64) << 8 | 0x79;
/// A flag of `rflags` that is always set.
const RFLAGS: u64 = 2;

/// Where a guest's write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DoorbellPlace {
    /// A port.
    Port(u16),
    /// An address outside memory.
    Memory(u32),
}

/// Which writes to a place signal an eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Four bytes of any value.
    Any,
    /// Four bytes of this value.
    Data(u32),
    /// Any length, which KVM need not know: `KVM_CAP_IOEVENTFD_NO_LENGTH`.
    NoLength,
}

/// What a program starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    /// Offset of its first instruction.
    pub(crate) entry: usize,
    pub(crate) eax: u32,
    pub(crate) ebx: u32,
    pub(crate) ecx: u32,
    pub(crate) edx: u32,
}

/// One run of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ran {
    /// Cycles of the time stamp counter from the first entry to the exit by `hlt`.
    pub(crate) cycles: u64,
    /// Writes that came here instead of to an eventfd.
    pub(crate) exits: u64,
}

/// The time stamp counter of this processor.
pub(crate) fn cycles() -> u64 {
    // SAFETY: every processor of this architecture has the counter, and reading it changes nothing.
    unsafe { _rdtsc() }
}

/// Anonymous memory, unmapped when dropped.
struct Pages(*mut c_void);

// SAFETY: only the kernel and the guest touch the memory after it was made; this is but its address.
unsafe impl Send for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `TinyVm::new` with this length; the machine that used it is gone, as fields drop in order.
        let _ = unsafe { munmap(self.0, MEMORY_LEN) };
    }
}

/// A machine.
pub(crate) struct TinyVm {
    processor: VcpuFd,
    machine: VmFd,
    _memory: Pages,
}

impl TinyVm {
    /// A machine with this program.
    ///
    /// # Errors
    /// The kernel's: no `/dev/kvm`, or no right to it, or a KVM that lacks something. `InvalidInput`: a program too long.
    pub(crate) fn new(program: &[u8]) -> io::Result<Self> {
        if program.len() > MEMORY_LEN - PROGRAM {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a program too long for the machine"));
        }
        let machine = Kvm::new().map_err(from_errno)?.create_vm().map_err(from_errno)?;
        // Only Intel's processors need it; others may not know it.
        let _ = machine.set_tss_address(TSS);
        let memory = map(program)?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY_LEN as u64,
            userspace_addr: memory.0 as u64,
        };
        // SAFETY: the range is mapped as long as the machine lives, and nobody else has it.
        unsafe { machine.set_user_memory_region(region) }.map_err(from_errno)?;
        let processor = machine.create_vcpu(0).map_err(from_errno)?;
        let mut state = processor.get_sregs().map_err(from_errno)?;
        let flat = |selector, type_| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..kvm_segment::default()
        };
        state.cs = flat(8, 11);
        let data = flat(16, 3);
        (state.ds, state.es, state.fs, state.gs, state.ss) = (data, data, data, data, data);
        // Protection enable.
        state.cr0 |= 1;
        processor.set_sregs(&state).map_err(from_errno)?;
        Ok(Self { processor, machine, _memory: memory })
    }

    /// From now on writes to `place` that match signal `eventfd` and do not come here.
    ///
    /// # Errors
    /// The kernel's: something is there already, or it cannot match so.
    pub(crate) fn signal_by(
        &self,
        place: DoorbellPlace,
        matching: Match,
        eventfd: impl AsFd,
    ) -> io::Result<()> {
        let (addr, pio) = match place {
            DoorbellPlace::Port(port) => (u64::from(port), 1 << kvm_ioeventfd_flag_nr_pio),
            DoorbellPlace::Memory(addr) => (u64::from(addr), 0),
        };
        let (len, datamatch, by_data) = match matching {
            Match::Any => (4, 0, 0),
            Match::Data(data) => (4, u64::from(data), 1 << kvm_ioeventfd_flag_nr_datamatch),
            Match::NoLength => (0, 0, 0),
        };
        let fd = eventfd.as_fd().as_raw_fd();
        let event =
            kvm_ioeventfd { datamatch, addr, len, fd, flags: pio | by_data, ..kvm_ioeventfd::default() };
        // SAFETY: the structure is the one that the call reads, and it keeps the eventfd by itself.
        super::check(unsafe { libc::ioctl(self.machine.as_raw_fd(), IOEVENTFD as _, &event) })
    }

    /// Runs the program from `registers` on until it halts, and counts what it wrote to `place` that came here.
    ///
    /// # Errors
    /// The kernel's. `InvalidData`: the program did something else, or more than `writes_max` writes.
    pub(crate) fn run(
        &mut self,
        registers: Registers,
        place: DoorbellPlace,
        writes_max: u64,
    ) -> io::Result<Ran> {
        let Registers { entry, eax, ebx, ecx, edx } = registers;
        let state = kvm_regs {
            rip: (PROGRAM + entry) as u64,
            rax: eax.into(),
            rbx: ebx.into(),
            rcx: ecx.into(),
            rdx: edx.into(),
            rflags: RFLAGS,
            ..kvm_regs::default()
        };
        self.processor.set_regs(&state).map_err(from_errno)?;
        let mut exits = 0;
        let start = cycles();
        loop {
            match self.processor.run() {
                Ok(VcpuExit::IoOut(port, _)) if place == DoorbellPlace::Port(port) => exits += 1,
                Ok(VcpuExit::MmioWrite(addr, _)) if is_at(place, addr) => exits += 1,
                Ok(VcpuExit::Hlt) => return Ok(Ran { cycles: cycles().wrapping_sub(start), exits }),
                Ok(other) => return Err(unexpected(format!("the guest ended with {other:?}"))),
                // A signal came first.
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(from_errno(error)),
            }
            if exits > writes_max {
                return Err(unexpected(format!("the guest wrote more than {writes_max} times")));
            }
        }
    }
}

fn is_at(place: DoorbellPlace, addr: u64) -> bool {
    matches!(place, DoorbellPlace::Memory(there) if u64::from(there) == addr)
}

fn unexpected(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn from_errno(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// Memory with the program in it.
fn map(program: &[u8]) -> io::Result<Pages> {
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
    let start = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            MEMORY_LEN,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )?
    };
    // SAFETY: the program's place is inside the mapping, as `TinyVm::new` has checked, which nobody else knows yet.
    unsafe {
        start.cast::<u8>().add(PROGRAM).copy_from_nonoverlapping(program.as_ptr(), program.len());
    }
    Ok(Pages(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without `/dev/kvm` there is a reason, and with it the guest's three writes come here.
    #[test]
    fn a_guest_writes_to_a_port_and_halts() {
        // out dx,eax; dec ecx; jnz; hlt
        let program = [0xef, 0x49, 0x75, 0xfc, 0xf4];
        let registers = Registers { entry: 0, eax: 7, ebx: 0, ecx: 3, edx: 0x5000 };
        match TinyVm::new(&program) {
            Ok(mut machine) => {
                let ran = machine.run(registers, DoorbellPlace::Port(0x5000), 3).unwrap();
                assert_eq!(ran.exits, 3);
                assert!(ran.cycles > 0);
                let more = machine.run(registers, DoorbellPlace::Port(0x5000), 2).unwrap_err();
                assert_eq!(more.kind(), io::ErrorKind::InvalidData);
                let elsewhere = machine.run(registers, DoorbellPlace::Port(0x5004), 3).unwrap_err();
                assert_eq!(elsewhere.kind(), io::ErrorKind::InvalidData);
            }
            Err(error) => assert!(error.raw_os_error().is_some(), "{error}"),
        }
        assert_eq!(TinyVm::new(&[0; MEMORY_LEN]).err().unwrap().kind(), io::ErrorKind::InvalidInput);
    }
}
