//! What a file is, who may open it, and what happens to it from outside.

use super::super::ImageError;
use super::*;
use devices::storage::{Extents, Failure, IoFault};
use std::os::unix::fs::MetadataExt;

#[test]
fn a_writer_is_alone_and_readers_are_not() {
    let (place, path) = file(&[0; 4096]);
    let read_only = Options { read_only: true, ..Options::default() };
    let writer = open(&path, &Options::default());
    for options in [Options::default(), read_only] {
        let error = Image::open(&path, &options).unwrap_err();
        assert!(matches!(&error, ImageError::InUse { path: named } if *named == path), "{error}");
        assert!(error.to_string().starts_with(&format!("{}: in use", path.display())));
    }
    drop(writer);
    let readers = [open(&path, &read_only), open(&path, &read_only)];
    assert!(matches!(Image::open(&path, &Options::default()), Err(ImageError::InUse { .. })));
    assert!(readers.iter().all(|image| image.shape().read_only));
    let error = Image::open(place.path(), &read_only).unwrap_err();
    assert!(matches!(error, ImageError::Kind { .. }), "{error}");
    let error = Image::open(&path, &Options { block_min: 1000, ..read_only }).unwrap_err();
    assert!(matches!(error, ImageError::BlockMin { .. }), "{error}");
}

/// Whoever takes a disk over finds it free, and what was written is there.
#[test]
fn a_disk_can_be_opened_again_as_soon_as_its_engines_are_gone() {
    let guest = Guest::new();
    let (_place, path) = file(&vec![0; 1 << 20]);
    for round in 1..=20u8 {
        for kind in KINDS {
            let image = open(&path, &Options::default());
            let mut engines = [engine(&image, kind), engine(&image, kind)];
            drop(image);
            guest.put(0, &[round; 4096]);
            let data = guest.data(0, 4096, &[]);
            assert_eq!(run(&mut engines[0], write_to(extent(0, 4096)), &data), Ok(()));
            // And some that are not waited for.
            for tag in 0..8 {
                let work = Work::Read(extent(tag * 4096, 4096));
                engines[1].submit(tag, work, &data.0, data.1).unwrap();
            }
            engines[1].send();
            drop(engines);
            assert_eq!(std::fs::read(&path).unwrap()[4095], round);
        }
    }
}

#[test]
fn a_pipe_in_the_place_of_a_file_keeps_nobody_waiting() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let error = Image::open(&path, &Options { read_only: true, ..Options::default() }).unwrap_err();
    assert!(matches!(error, ImageError::Kind { .. }), "{error}");
}

#[test]
fn the_shape_tells_what_the_file_takes() {
    let (_place, path) = file(&vec![0; (1 << 20) + 100]);
    let image = open(&path, &Options::default());
    // It ends within a sector: directly its last bytes could not be written.
    assert!(!image.is_direct() && image.capacity() == 1 << 20);
    drop(image);
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let image = open(&path, &Options { block_min: 16384, ..Options::default() });
    let shape = image.shape();
    assert!(image.is_direct());
    assert_eq!((shape.capacity, shape.logical_block, shape.physical_block), (1 << 20, 512, 16384));
    assert!(
        shape.discard.is_some() && shape.zero.is_some() && shape.zero_unmaps && shape.secure_erase.is_none()
    );
    drop(image);
    let shape = open(&path, &Options { read_only: true, ..Options::default() }).shape();
    assert!(shape.read_only && shape.discard.is_none() && shape.zero.is_none());
}

#[test]
fn what_is_read_only_is_not_written() {
    let guest = Guest::new();
    let (_place, path) = file(&[5; 8192]);
    let image = open(&path, &Options { read_only: true, ..Options::default() });
    for kind in KINDS {
        let mut engine = engine(&image, kind);
        let data = guest.data(0, 4096, &[]);
        let place = extent(0, 4096);
        let zero = Work::Zero { extents: Extents::from(place), unmap: false, through: false };
        for work in [write_to(place), zero, Work::Discard(Extents::from(place))] {
            assert_eq!(run(&mut engine, work, &data), Err(IoFault::ReadOnly.into()));
        }
        assert_eq!(run(&mut engine, Work::Read(place), &data), Ok(()));
        assert_eq!(run_bare(&mut engine, Work::Flush), Ok(()));
    }
    assert_eq!(image.resize(4096), Err(IoFault::ReadOnly));
    assert!(std::fs::read(&path).unwrap() == [5; 8192]);
}

/// Someone makes the file shorter: requests behind its end fail, and nothing else does.
#[test]
fn a_file_that_is_truncated_behind_our_back() {
    let guest = Guest::new();
    for kind in KINDS {
        for options in [Options::default(), Options { direct: false, ..Options::default() }] {
            let (_place, path) = file(&[9; 64 << 10]);
            let image = open(&path, &options);
            let mut engine = engine(&image, kind);
            std::fs::File::options().write(true).open(&path).unwrap().set_len(16 << 10).unwrap();
            let data = guest.data(0, 32 << 10, &[]);
            let failure = Failure { fault: IoFault::OutOfRange, done: 8 << 10 };
            assert_eq!(run(&mut engine, Work::Read(extent(8 << 10, 32 << 10)), &data), Err(failure));
            let odd = guest.data(3, 4096, &[1]);
            let outcome = run(&mut engine, Work::Read(extent(32 << 10, 4096)), &odd);
            assert_eq!(outcome, Err(IoFault::OutOfRange.into()));
            let data = guest.data(0, 16 << 10, &[]);
            assert_eq!(run(&mut engine, Work::Read(extent(0, 16 << 10)), &data), Ok(()));
            assert_eq!(image.capacity(), 64 << 10);
            assert_eq!(image.refresh().unwrap(), Some(16 << 10));
            assert_eq!(image.refresh().unwrap(), None);
            let outcome = run(&mut engine, Work::Read(extent(16 << 10, 512)), &data);
            assert_eq!(outcome, Err(IoFault::OutOfRange.into()), "known before the disk is asked");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 16 << 10);
        }
    }
}

#[test]
fn a_disk_changes_its_size() {
    let guest = Guest::new();
    let (_place, path) = file(&[1; 8192]);
    let image = open(&path, &Options { block_min: 4096, ..Options::default() });
    let mut engine = engine(&image, EngineKind::Auto);
    let data = guest.data(0, 4096, &[]);
    let behind = Work::Read(extent(8192, 4096));
    assert_eq!(run(&mut engine, behind.clone(), &data), Err(IoFault::OutOfRange.into()));
    assert_eq!(image.resize(12288 + 512), Err(IoFault::OutOfRange), "no whole blocks");
    assert_eq!((image.resize(12288), image.capacity()), (Ok(()), 12288));
    assert_eq!(run(&mut engine, behind, &data), Ok(()));
    assert!(guest.get(0, 4096) == [0; 4096]);
    assert_eq!((image.resize(4096), image.shape().capacity), (Ok(()), 4096));
    // The operator does it by other means, and not to whole blocks.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(20000).unwrap();
    assert_eq!(image.refresh().unwrap(), Some(16384));

    let ram = Image::ram(8192, devices::storage::Serial::NONE).unwrap();
    assert_eq!(
        (ram.resize(4096), ram.capacity(), ram.resize(9216)),
        (Ok(()), 4096, Err(IoFault::OutOfRange))
    );
    let null = Image::null(1 << 40);
    assert_eq!((null.resize(1 << 41), null.capacity()), (Ok(()), 1 << 41));
    assert!(Image::ram(0, devices::storage::Serial::NONE).is_err());
    assert!(Image::ram(u64::MAX, devices::storage::Serial::NONE).is_err());
}

/// A discard gives the file's place up, zeros that may unmap do, and zeros that may not keep it.
#[test]
fn discarded_bytes_take_no_place() {
    for kind in KINDS {
        let (_place, path) = file(&vec![3; 4 << 20]);
        let image = open(&path, &Options::default());
        let mut engine = engine(&image, kind);
        let blocks = || std::fs::metadata(&path).unwrap().blocks() * 512;
        assert_eq!(run_bare(&mut engine, Work::Flush), Ok(()));
        let full = blocks();
        let zero = |unmap, offset| Work::Zero {
            extents: Extents::from(extent(offset, 1 << 20)),
            unmap,
            through: true,
        };
        assert_eq!(run_bare(&mut engine, zero(false, 0)), Ok(()));
        assert_eq!(blocks(), full);
        assert_eq!(run_bare(&mut engine, zero(true, 1 << 20)), Ok(()));
        assert!(blocks() <= full - (1 << 20), "{} of {full}", blocks());
        assert_eq!(run_bare(&mut engine, Work::Discard(Extents::from(extent(2 << 20, 1 << 20)))), Ok(()));
        assert!(blocks() <= full - (2 << 20), "{} of {full}", blocks());
        let bytes = std::fs::read(&path).unwrap();
        assert!(
            bytes[..2 << 20].iter().all(|byte| *byte == 0) && bytes[3 << 20..].iter().all(|byte| *byte == 3)
        );
    }
}

/// The guest's memory has gone (its VMM truncated it): the request fails, the next one does not.
#[test]
fn guest_memory_that_is_gone_fails_one_request() {
    use guestmem::{FrontendAddr, Mapping, Region};
    let (_place, path) = file(&[4; 8192]);
    let image = open(&path, &Options { direct: false, ..Options::default() });
    for kind in KINDS {
        let memfd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memfd, 8192).unwrap();
        let mapping = Arc::new(Mapping::file(&memfd, 0, 8192).unwrap());
        let region = Region::new(GuestAddr(0), FrontendAddr(0), 8192, mapping).unwrap();
        let gone = Guest(Arc::new(GuestMemory::new(vec![region]).unwrap()));
        let data = gone.data(4096, 4096, &[]);
        rustix::fs::ftruncate(&memfd, 0).unwrap();
        let mut engine = engine(&image, kind);
        let outcome = run(&mut engine, Work::Read(extent(0, 4096)), &data);
        assert_eq!(outcome.unwrap_err().fault, IoFault::Medium);
        let guest = Guest::new();
        assert_eq!(run(&mut engine, Work::Read(extent(0, 4096)), &guest.data(0, 4096, &[])), Ok(()));
        assert!(guest.get(0, 4096) == [4; 4096]);
    }
}
