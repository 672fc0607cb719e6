//! Real mappings: files with offsets, many regions, and files that shrink under us.
#![cfg(not(miri))]
#![allow(unsafe_code)]

use guestmem::{
    FileId, FrontendAddr, GuestAddr, GuestMemory, MapError, Mapping, MemSlice, MemoryFault, Region,
    RegionHint, Window, copy_segments, sigbus, vectored,
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const MIB: u64 = 1 << 20;

fn memfd(len: u64) -> std::os::fd::OwnedFd {
    let file = memfd_create("guestmem-test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

fn region(file: &std::os::fd::OwnedFd, guest: u64, offset: u64, len: u64) -> Region {
    let mapping = Arc::new(Mapping::file(file, offset, len).unwrap());
    Region::new(GuestAddr(guest), FrontendAddr(0x7000_0000_0000 + guest), len, mapping).unwrap()
}

#[test]
fn five_hundred_and_nine_unaligned_regions_of_one_file() {
    let file = memfd(16 * MIB);
    // Neither offsets nor lengths are multiples of anything.
    let regions: Vec<_> =
        (0..509u64).map(|i| region(&file, i * 0x10_0000 + 0x300, i * 0x5010 + 0x10, 0x4ff8)).collect();
    let memory = GuestMemory::new(regions).unwrap();
    for i in 0..509u64 {
        let run = memory.slice(GuestAddr(i * 0x10_0000 + 0x300), 8).unwrap();
        run.write(&i.to_le_bytes());
    }
    for i in 0..509u64 {
        let mut bytes = [0; 8];
        rustix::io::pread(&file, &mut bytes, i * 0x5010 + 0x10).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), i);
        assert_eq!(
            memory.guest_of_frontend(FrontendAddr(0x7000_0000_0000 + i * 0x10_0000 + 0x301)),
            Some(GuestAddr(i * 0x10_0000 + 0x301))
        );
    }
    assert!(memory.slice(GuestAddr(0x300 + 0x4ff8), 1).is_none());
    assert!(memory.slice(GuestAddr(0x300 + 0x4ff7), 2).is_none());
    assert!(memory.slice(GuestAddr(0), 1).is_none());
}

#[test]
fn absurd_maps_are_refused_by_name() {
    let file = memfd(MIB);
    assert!(matches!(Mapping::file(&file, 0, MIB + 1), Err(MapError::FileTooSmall { .. })));
    assert!(matches!(Mapping::file(&file, u64::MAX, 1), Err(MapError::Length { .. })));
    assert!(matches!(Mapping::file(&file, 0, 0), Err(MapError::Length { .. })));
    let mapping = Arc::new(Mapping::file(&file, 0, MIB).unwrap());
    let new = |guest, len| Region::new(GuestAddr(guest), FrontendAddr(0), len, Arc::clone(&mapping));
    assert!(matches!(new(u64::MAX - 10, 100), Err(MemoryFault::Range { .. })));
    assert!(matches!(new(0, 8 * MIB), Err(MemoryFault::ShortMapping { .. })));
    let overlapping = vec![new(0, MIB).unwrap(), new(MIB - 1, MIB).unwrap()];
    assert!(matches!(GuestMemory::new(overlapping), Err(MemoryFault::Overlap { .. })));
}

#[test]
fn only_regular_files_of_known_file_systems_are_mapped() {
    use rustix::fs::{Mode, OFlags, fstatfs, open};
    let device = open("/dev/zero", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    let directory = open("/", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for file in [&device, &reader, &directory] {
        let error = Mapping::file(file, 0, 4096).unwrap_err();
        assert!(matches!(error, MapError::FileKind), "{error}");
        assert!(error.to_string().contains("accepted are files of tmpfs"), "{error}");
    }
    // A regular file of procfs: on a file system that is not listed.
    let foreign = open("/proc/self/maps", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let error = Mapping::file(&foreign, 0, 4096).unwrap_err();
    assert!(matches!(error, MapError::FileSystem { magic: 0x9fa0 }), "{error}");
    assert!(error.to_string().contains("0x9fa0: accepted are files of tmpfs"), "{error}");
    // A named tmpfs is as good as a memfd, but the kernel refuses what may only be read.
    let shm =
        open("/dev/shm", OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR).unwrap();
    ftruncate(&shm, MIB).unwrap();
    assert_eq!(fstatfs(&shm).unwrap().f_type, 0x0102_1994);
    assert!(Mapping::file(&shm, 0, MIB).is_ok());
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&shm));
    let readable = open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert!(matches!(Mapping::file(&readable, 0, MIB), Err(MapError::Kernel(rustix::io::Errno::ACCESS))));
}

#[test]
fn slots_are_reused_while_others_die() {
    let alive = memfd(MIB);
    std::thread::scope(|scope| {
        let dying = scope.spawn(|| {
            for _ in 0..200 {
                let file = memfd(2 * 4096);
                let memory = GuestMemory::new(vec![region(&file, 0, 0, 2 * 4096)]).unwrap();
                ftruncate(&file, 4096).unwrap();
                let mut bytes = [1; 4];
                memory.slice(GuestAddr(4096), 4).unwrap().read(&mut bytes);
                assert_eq!((bytes, memory.is_dead()), ([0; 4], true));
            }
        });
        // Places in the table change hands between short and long ranges meanwhile.
        while !dying.is_finished() {
            for len in [4096, MIB, 2 * 4096] {
                let memory = GuestMemory::new(vec![region(&alive, 0, 0, len)]).unwrap();
                memory.slice(GuestAddr(len - 4), 4).unwrap().write(b"here");
                assert!(!memory.is_dead());
            }
        }
    });
    let mut bytes = [0; 4];
    rustix::io::pread(&alive, &mut bytes, MIB - 4).unwrap();
    assert_eq!(&bytes, b"here");
}

#[test]
fn a_truncated_file_dies_alone() {
    let (victim, other) = (memfd(4 * MIB), memfd(4 * MIB));
    let dying = Arc::new(GuestMemory::new(vec![region(&victim, 0, 0, 4 * MIB)]).unwrap());
    let living = Arc::new(GuestMemory::new(vec![region(&other, 0, 0, 4 * MIB)]).unwrap());
    dying.slice(GuestAddr(2 * MIB), 4).unwrap().write(b"here");
    let before = sigbus::deaths();
    ftruncate(&victim, 4096).unwrap();
    assert!(!dying.is_dead(), "nothing touched yet");
    // A copy from the truncated guest into a living one, from several threads at once.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let source = [dying.slice(GuestAddr(2 * MIB), 100_000).unwrap()];
                let target = [living.slice(GuestAddr(MIB), 100_000).unwrap()];
                assert_eq!(copy_segments(&source, 0, &target, 0, 100_000), 100_000);
            });
        }
    });
    let word = dying.area(GuestAddr(3 * MIB), 8).unwrap();
    assert_eq!(word.load_u64(0, Ordering::Acquire), 0);
    word.store_u64(0, 7, Ordering::Release);
    assert!(dying.is_dead() && !living.is_dead());
    assert!(sigbus::deaths() > before);
    living.slice(GuestAddr(0), 4).unwrap().write(b"fine");
    let mut bytes = [0; 4];
    rustix::io::pread(&other, &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"fine");
}

#[test]
fn a_fault_of_our_own_still_ends_the_process() {
    // A mapping nobody watches: made by hand, truncated, touched in a child process.
    let file = memfd(4096);
    let _armed = Mapping::file(&file, 0, 4096).unwrap();
    // SAFETY: fork in a test; the child only touches memory and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: a private mapping of an empty memfd; touching it raises SIGBUS, which is the point.
        unsafe {
            let empty = libc::memfd_create(c"empty".as_ptr(), 0);
            let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, empty, 0);
            std::ptr::read_volatile(page.cast::<u8>());
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS, "status {status:#x}");
}

#[test]
fn vectored_writes_gather_and_a_dead_file_is_an_error() {
    let file = memfd(MIB);
    let memory = GuestMemory::new(vec![region(&file, 0, 0, MIB)]).unwrap();
    memory.slice(GuestAddr(0), 3).unwrap().write(b"abc");
    memory.slice(GuestAddr(0x1000), 2).unwrap().write(b"de");
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let runs = [memory.slice(GuestAddr(0), 3).unwrap(), memory.slice(GuestAddr(0x1000), 2).unwrap()];
    assert_eq!(vectored::write(&writer, b">", &runs).unwrap(), 6);
    let mut head = [0; 2];
    let mut rest = [0u8; 8];
    assert_eq!(vectored::read(&reader, &mut head, &[MemSlice::from_mut(&mut rest)]).unwrap(), 6);
    assert_eq!((&head, &rest[..4]), (b">a", b"bcde".as_slice()));
    ftruncate(&file, 0).unwrap();
    assert_eq!(vectored::write(&writer, b"", &runs).unwrap_err().raw_os_error(), Some(libc::EFAULT));
}

/// Huge pages reserved for one test; the count before comes back at its end.
struct HugePages(u64);

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    fn reserve(count: u64) -> Self {
        let before: u64 = std::fs::read_to_string(HUGE_PAGES).unwrap().trim().parse().unwrap();
        std::fs::write(HUGE_PAGES, (before + count).to_string()).expect("reserving huge pages needs root");
        Self(before)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(HUGE_PAGES, self.0.to_string());
    }
}

#[test]
fn huge_pages_at_an_offset_that_is_no_multiple_of_them() {
    let _pages = HugePages::reserve(3);
    let file =
        memfd_create("huge", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB).unwrap();
    ftruncate(&file, 6 * MIB).unwrap();
    // From the middle of the first huge page to the middle of the third, and nothing of it aligned.
    let memory = GuestMemory::new(vec![region(&file, 0x7000, MIB + 0x3000, 4 * MIB)]).unwrap();
    memory.slice(GuestAddr(0x7000), 5).unwrap().write(b"begin");
    memory.slice(GuestAddr(0x7000 + 4 * MIB - 3), 3).unwrap().write(b"end");
    let whole = GuestMemory::new(vec![region(&file, 0, 0, 6 * MIB)]).unwrap();
    let mut bytes = [0; 5];
    whole.slice(GuestAddr(MIB + 0x3000), 5).unwrap().read(&mut bytes);
    assert_eq!(&bytes, b"begin");
    whole.slice(GuestAddr(5 * MIB + 0x3000 - 3), 3).unwrap().read(&mut bytes[..3]);
    assert_eq!(&bytes[..3], b"end");
    assert!(matches!(Mapping::file(&file, 4 * MIB, 2 * MIB + 1), Err(MapError::FileTooSmall { .. })));
}

/// What stands in a window `offset` bytes from its beginning, as someone sees it who is told addresses.
fn seen(window: &Window, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // SAFETY: the range lies in the window, and nobody writes meanwhile.
    unsafe {
        std::ptr::copy_nonoverlapping(window.own().as_ptr().add(offset), bytes.as_mut_ptr(), len);
    }
    bytes
}

#[test]
fn a_window_shows_the_guests_pages_behind_our_own() {
    let (low, high) = (memfd(MIB), memfd(4 * MIB));
    let memory = vec![region(&high, 0x4000_0000, 0x1010, MIB), region(&low, 0, 0, MIB)];
    let memory = Arc::new(GuestMemory::new(memory).unwrap());
    let window = Window::new(&memory, 5000).unwrap();
    assert_eq!(window.own_len(), 8192);
    assert_eq!(seen(&window, 0, 8192), [0; 8192]);
    for (guest, in_page, text) in [(0x4000_0123, 0x133, b"high"), (0, 0, b"low0"), (0xf_fffc, 0xffc, b"last")]
    {
        let slice = memory.slice(GuestAddr(guest), 4).unwrap();
        slice.write(text);
        let offset = window.offset_of(&slice).unwrap();
        assert!(offset >= window.own_len() && offset + 4 <= window.len());
        assert_eq!(offset % 4096, in_page);
        assert_eq!(seen(&window, offset, 4), text);
        slice.write(b"new!");
        assert_eq!(seen(&window, offset, 4), b"new!", "the same page");
    }
    let stranger = GuestMemory::anonymous(GuestAddr(0), 4096).unwrap();
    assert_eq!(window.offset_of(&stranger.slice(GuestAddr(0), 4).unwrap()), None);
    assert_eq!(window.offset_of(&MemSlice::empty()), None);
    drop(window);
    assert_eq!(memory.slice(GuestAddr(0), 4).unwrap().len(), 4);
    memory.slice(GuestAddr(0), 4).unwrap().write(b"here");
}

#[test]
fn private_memory_has_no_second_place() {
    let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), MIB as usize).unwrap());
    let error = Window::new(&memory, 4096).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::INVAL.raw_os_error()));
}

#[test]
fn a_file_that_shrinks_is_no_matter_to_its_window() {
    let file = memfd(MIB);
    let memory = Arc::new(GuestMemory::new(vec![region(&file, 0, 0, MIB)]).unwrap());
    let window = Window::new(&memory, 4096).unwrap();
    ftruncate(&file, 0).unwrap();
    let slice = memory.slice(GuestAddr(0x8000), 4).unwrap();
    let mut bytes = [1; 4];
    slice.read(&mut bytes);
    assert!(memory.is_dead() && bytes == [0; 4]);
    assert!(window.offset_of(&slice).is_some());
    // A mapping that died is private: it has no window any more.
    assert!(Window::new(&memory, 4096).is_err());
}

#[test]
fn many_regions_share_the_one_mapping_of_their_file() {
    let file = memfd(4 * MIB);
    let (id, size) = FileId::of(&file).unwrap();
    assert_eq!((id, size), FileId::of(file.try_clone().unwrap()).unwrap());
    assert_ne!(id, FileId::of(memfd(4 * MIB)).unwrap().0);
    let mapping = Arc::new(Mapping::file(&file, 0, size).unwrap());
    // Every other page of the file, in backward order.
    let part = |page: u64| {
        Region::part(
            GuestAddr(0x10_0000 + page * 0x3000),
            0x1000,
            mapping.clone(),
            4 * MIB - (page + 1) * 0x2000,
        )
    };
    let memory = GuestMemory::new((0..512).map(|page| part(page).unwrap()).collect()).unwrap();
    memory.slice(GuestAddr(0x10_0000 + 7 * 0x3000 + 5), 4).unwrap().write(b"page");
    let mut bytes = [0; 4];
    rustix::io::pread(&file, &mut bytes, 4 * MIB - 8 * 0x2000 + 5).unwrap();
    assert_eq!(&bytes, b"page");
    assert!(memory.slice(GuestAddr(0x10_1000), 1).is_none());

    let cut = part(7).unwrap().cut(5, 4).unwrap();
    assert_eq!((cut.guest(), cut.len()), (GuestAddr(0x10_0000 + 7 * 0x3000 + 5), 4));
    GuestMemory::new(vec![cut.clone()]).unwrap().slice(cut.guest(), 4).unwrap().read(&mut bytes);
    assert_eq!(&bytes, b"page");
    assert!(cut.cut(0, 5).is_none() && cut.cut(4, 0).is_none() && cut.cut(u64::MAX, 2).is_none());
    let refused = |len, offset| Region::part(GuestAddr(9), len, mapping.clone(), offset).unwrap_err();
    assert!(matches!(refused(2, 4 * MIB - 1), MemoryFault::ShortMapping { .. }));
    assert!(matches!(refused(1, u64::MAX), MemoryFault::ShortMapping { .. }));
    assert!(matches!(refused(0, 0), MemoryFault::Range { .. }));
}

#[test]
fn memory_that_may_only_be_read_keeps_what_is_written_to_itself() {
    let (file, ram) = (memfd(MIB), memfd(MIB));
    rustix::io::pwrite(&file, b"firmware", 0x1000).unwrap();
    let mapping = Arc::new(Mapping::file_read_only(&file, 0x1000, 0x1000).unwrap());
    let rom = Region::part(GuestAddr(0xf_0000), 0x1000, mapping, 0).unwrap();
    let memory = Arc::new(GuestMemory::new(vec![rom, region(&ram, 0x10_0000, 0, MIB)]).unwrap());
    let slice = memory.slice(GuestAddr(0xf_0000), 8).unwrap();
    let (mut seen, mut theirs) = ([0; 8], [0; 8]);
    slice.read(&mut seen);
    assert_eq!(&seen, b"firmware");
    slice.write(b"evildoer");
    rustix::io::pread(&file, &mut theirs, 0x1000).unwrap();
    assert_eq!(&theirs, b"firmware");
    // It has no place in a window, and keeps nobody else from having one.
    let window = Window::new(&memory, 4096).unwrap();
    assert_eq!(window.offset_of(&slice), None);
    assert!(window.offset_of(&memory.slice(GuestAddr(0x10_0000), 8).unwrap()).is_some());
}

#[test]
fn regions_for_reading_only_are_found_by_readers_only() {
    let file = memfd(MIB);
    rustix::io::pwrite(&file, b"rom", 0x2ff0).unwrap();
    let mapping = Arc::new(Mapping::file(file, 0, MIB).unwrap());
    let part = |page: u64| Region::part(GuestAddr(page << 12), 0x1000, mapping.clone(), page << 12).unwrap();
    let memory = vec![part(1), part(2).read_only(), part(3), part(9), part(8).read_only()];
    let memory = Arc::new(GuestMemory::new(memory).unwrap());
    let len = |run: Option<MemSlice<'_>>| run.map(|run| run.len());
    let run = |addr, len| memory.run(GuestAddr(addr), len, &mut RegionHint::default());
    let read_only = |addr, len| memory.run_read_only(GuestAddr(addr), len);
    for (addr, writable, readable) in [
        (0xfff, None, None),
        (0x1ff0, Some(0x10), None),
        (0x2000, None, Some(0x20)),
        (0x2ff0, None, Some(0x10)),
        (0x3000, Some(0x20), None),
        (0x4000, None, None),
        (0x8ff0, None, Some(0x10)),
        (0x9000, Some(0x20), None),
        (u64::MAX, None, None),
    ] {
        assert_eq!((len(run(addr, 0x20)), len(read_only(addr, 0x20))), (writable, readable), "{addr:#x}");
    }
    let mut bytes = [0; 3];
    read_only(0x2ff0, 3).unwrap().read(&mut bytes);
    assert_eq!(&bytes, b"rom");
    assert!(memory.slice(GuestAddr(0x2000), 8).is_none() && memory.area(GuestAddr(0x2000), 8).is_none());
    assert_eq!(memory.regions().len(), 5);
    // They overlap with others like any.
    assert!(GuestMemory::new(vec![part(2), part(2).read_only()]).is_err());
    let cut = GuestMemory::new(vec![part(2).read_only().cut(0x10, 0x10).unwrap()]).unwrap();
    assert_eq!(len(cut.run_read_only(GuestAddr(0x2018), 16)), Some(8));
}

#[test]
fn regions_that_go_on_where_another_ends_are_one_with_it() {
    let map = || Arc::new(Mapping::file(memfd(MIB), 0, MIB).unwrap());
    let (mapping, other) = (map(), map());
    let part = |guest, mapping: &Arc<Mapping>, offset| {
        Region::part(GuestAddr(guest), 0x1000, Arc::clone(mapping), offset).unwrap()
    };
    let first = part(0x1000, &mapping, 0x4000);
    let joined = first.join(&part(0x2000, &mapping, 0x5000)).unwrap();
    assert_eq!((joined.guest(), joined.len()), (GuestAddr(0x1000), 0x2000));
    let memory = GuestMemory::new(vec![joined.join(&part(0x3000, &mapping, 0x6000)).unwrap()]).unwrap();
    assert_eq!(memory.slice(GuestAddr(0x1800), 0x2800).unwrap().len(), 0x2800);
    for next in [
        part(0x2001, &mapping, 0x5000),
        part(0x2000, &mapping, 0x5001),
        part(0x2000, &mapping, 0x3000),
        part(0x2000, &other, 0x5000),
        part(0x2000, &mapping, 0x5000).read_only(),
        part(0x0000, &mapping, 0x3000),
    ] {
        assert!(first.join(&next).is_none(), "{next:?}");
    }
}

/// Pages of two files that follow each other for the guest, in an order of their own.
fn scattered(file: &std::os::fd::OwnedFd, other: &std::os::fd::OwnedFd) -> Vec<Region> {
    let whole = Arc::new(Mapping::file(file, 0, MIB).unwrap());
    let part = |guest, offset| Region::part(GuestAddr(guest), 4096, Arc::clone(&whole), offset).unwrap();
    let one = Arc::new(Mapping::file(other, 0x3000, 4096).unwrap());
    let another = Region::part(GuestAddr(0x12000), 4096, one, 0).unwrap();
    vec![part(0x10000, 0x9000), part(0x11000, 0x2000), another, part(0x13000, 0x2000)]
}

#[test]
fn an_area_crosses_regions() {
    let (file, other) = (memfd(MIB), memfd(MIB));
    let memory = Arc::new(GuestMemory::new(scattered(&file, &other)).unwrap());
    let area = memory.area(GuestAddr(0x10800), 0x3000).unwrap();
    assert_eq!(area.len(), 0x3000);
    assert!(area.is_aligned(2048) && !area.is_aligned(4096));
    for at in (0..0x3000).step_by(8) {
        area.store_u64(at, 1 + at as u64, Ordering::Relaxed);
    }
    // The last 2 KiB are the same page as another's, which was written last.
    let word = |fd: &std::os::fd::OwnedFd, at: u64| {
        let mut bytes = [0; 8];
        rustix::io::pread(fd, &mut bytes, at).unwrap();
        u64::from_ne_bytes(bytes)
    };
    assert_eq!((word(&file, 0x9800), word(&file, 0x9ff8)), (1, 0x7f9));
    assert_eq!((word(&other, 0x3000), word(&other, 0x3ff8)), (0x1801, 0x27f9));
    assert_eq!((word(&file, 0x2000), word(&file, 0x27f8)), (0x2801, 0x2ff9), "written last");
    assert_eq!(word(&file, 0x2800), 0x1001);
    // What the guest writes is seen.
    rustix::io::pwrite(&file, &7u64.to_ne_bytes(), 0x9800).unwrap();
    assert_eq!(area.load_u64(0, Ordering::Relaxed), 7);
    // The area outlives the memory's other users.
    drop(memory);
    assert_eq!(area.load_u64(8, Ordering::Relaxed), 9);
}

#[test]
fn areas_that_cannot_be_in_one_piece_are_none() {
    let (file, other) = (memfd(MIB), memfd(MIB));
    let memory = Arc::new(GuestMemory::new(scattered(&file, &other)).unwrap());
    assert!(memory.area(GuestAddr(0x10000), 0x4000).is_some());
    assert!(memory.area(GuestAddr(0x10000), 0x4001).is_none(), "no memory behind");
    assert!(memory.area(GuestAddr(0xf800), 0x1800).is_none(), "no memory before");
    assert!(memory.area(GuestAddr(0x10000), usize::MAX).is_none());
    let mapping = Arc::new(Mapping::file(&file, 0, MIB).unwrap());
    let part =
        |guest, len, offset| Region::part(GuestAddr(guest), len, Arc::clone(&mapping), offset).unwrap();
    let area = |regions| Arc::new(GuestMemory::new(regions).unwrap()).area(GuestAddr(0x1000), 0x2000);
    assert!(area(vec![part(0x1000, 0x1000, 0x5000), part(0x2000, 0x1000, 0)]).is_some());
    assert!(area(vec![part(0x1000, 0x1000, 0x5000), part(0x2000, 0x1000, 0x10)]).is_none(), "no page");
    assert!(area(vec![part(0x1000, 0x800, 0x5000), part(0x1800, 0x1800, 0)]).is_none(), "in mid-page");
    let read_only = part(0x2000, 0x1000, 0).read_only();
    assert!(area(vec![part(0x1000, 0x1000, 0x5000), read_only]).is_none(), "for reading only");
    let private = Arc::new(Mapping::anonymous(0x4000).unwrap());
    let part = |guest, offset| Region::part(GuestAddr(guest), 0x1000, Arc::clone(&private), offset).unwrap();
    assert!(area(vec![part(0x1000, 0x3000), part(0x2000, 0)]).is_none(), "private pages exist once");
}

/// Memory that changes elsewhere leaves an area where it is; one whose pages change is made anew.
#[test]
fn areas_across_regions_stay_when_other_memory_changes() {
    let (file, other) = (memfd(MIB), memfd(MIB));
    let mut regions = scattered(&file, &other);
    let before = Arc::new(GuestMemory::new(regions.clone()).unwrap());
    let area = before.area(GuestAddr(0x10000), 0x4000).unwrap();
    regions.push(region(&file, 0x10_0000, 0, 0x1000));
    let after = Arc::new(GuestMemory::after(&before, regions.clone()).unwrap());
    let same = after.area(GuestAddr(0x10000), 0x4000).unwrap();
    assert_eq!(format!("{:?}", same.as_slice()), format!("{:?}", area.as_slice()));
    regions[1] = region(&file, 0x11000, 0x8000, 0x1000);
    let moved = Arc::new(GuestMemory::after(&after, regions).unwrap());
    let new = moved.area(GuestAddr(0x10000), 0x4000).unwrap();
    new.store_u64(0x1000, 5, Ordering::Relaxed);
    assert_ne!(area.load_u64(0x1000, Ordering::Relaxed), 5);
}

#[test]
fn a_file_that_shrinks_under_an_area_across_regions_costs_its_memory_only() {
    let (file, other) = (memfd(MIB), memfd(MIB));
    let memory = Arc::new(GuestMemory::new(scattered(&file, &other)).unwrap());
    let area = memory.area(GuestAddr(0x10000), 0x4000).unwrap();
    area.store_u64(0x2000, 5, Ordering::Relaxed);
    assert!(!memory.is_dead());
    ftruncate(&other, 0).unwrap();
    assert_eq!(area.load_u64(0x2000, Ordering::Relaxed), 0);
    assert!(memory.is_dead());
}
