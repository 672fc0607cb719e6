//! The client's memory: maps, what they are refused for, and rings whose memory goes.

use crate::wire::*;
use guestmem::GuestAddr;
use std::os::fd::OwnedFd;
use transport::pci::Interface;
use transport::vfio_user::{Event, Refusal};

fn modern() -> Wire {
    Wire::greeted(description(Interface::Modern))
}

fn regions(wire: &Wire) -> Vec<(u64, u64)> {
    wire.session.memory().regions().iter().map(|region| (region.guest().0, region.len())).collect()
}

#[test]
fn maps_are_the_files_that_they_came_with() {
    let mut wire = modern();
    wire.pipelines = true;
    let (low, high) = (memfd(MIB), memfd(MIB));
    rustix::io::pwrite(&low, b"l", 0x5000).unwrap();
    rustix::io::pwrite(&high, b"h", 0x5000).unwrap();
    // The kernel glues what has no descriptor in front of what has one.
    let maps = [dma_map(3, 0x4000, 0x10_0000, 0x2000), dma_map(3, 0, 0x20_0000, MIB)];
    let [first, second] = maps.map(|map| message(1, DMA_MAP, 0, &map));
    let question = message(2, GET_INFO, 0, &u32s(&[16, 0, 0, 0]));
    wire.session.receive(&[question.clone(), first].concat(), vec![low.try_clone().unwrap()]).unwrap();
    wire.session.receive(&[question, second].concat(), vec![high]).unwrap();
    wire.run().unwrap();
    assert_eq!(wire.names(), ["Memory", "Memory"]);
    assert_eq!(regions(&wire), [(0x10_0000, 0x2000), (0x20_0000, MIB)]);
    assert_eq!((wire.guest(0x10_1000), wire.guest(0x20_5000)), (Some(b'l'), Some(b'h')));
    // What the session writes is the client's.
    wire.session.memory().slice(GuestAddr(0x10_1000), 1).unwrap().write(b"x");
    let mut byte = [0];
    rustix::io::pread(&low, &mut byte, 0x5000).unwrap();
    assert_eq!(&byte, b"x");
}

#[test]
fn maps_that_cannot_be_are_refused() {
    let mut wire = modern();
    let file = memfd(MIB);
    wire.map(&file, 0, 0x10_0000, 0x4000);
    wire.ask(DMA_MAP, &dma_map(3, 0, 0x20_0000, 0x4000));
    wire.told.clear();
    let mut refused = |map: &[u8], fd: &OwnedFd| {
        let errno = wire.ask_with(DMA_MAP, map, vec![fd.try_clone().unwrap()]).unwrap_err();
        (errno, wire.session.take_refusal().unwrap())
    };
    // Over another map: its whole, its ends, inside it, around it; also over one without a descriptor.
    for (address, size) in [
        (0x10_0000, 0x4000),
        (0xf_f000, 0x1001),
        (0x10_3fff, 1),
        (0x10_1000, 1),
        (0, MIB + 1),
        (0x20_0000, 1),
        (0, 1 << 40),
    ] {
        let (errno, refusal) = refused(&dma_map(3, 0, address, size), &file);
        assert_eq!((errno, refusal), (EEXIST, Refusal::DmaOverlap { address, size }));
    }
    for (map, name) in [
        (dma_map(3, 0, 0x40_0000, 0), "DmaRange"),
        (dma_map(3, 0, u64::MAX - 4095, 4096), "DmaRange"),
        (dma_map(3, 0, u64::MAX, 2), "DmaRange"),
        (dma_map(0, 0, 0x40_0000, 4096), "Flags"),
        (dma_map(7, 0, 0x40_0000, 4096), "Flags"),
        (dma_map(3, u64::MAX, 0x40_0000, 4096), "MapLength"),
        (dma_map(3, MIB, 0x40_0000, 1), "MapFileTooSmall"),
        (dma_map(3, 0, 0x40_0000, MIB + 1), "MapFileTooSmall"),
        (dma_map(3, 0, 0x40_0000, 1 << 43), "SessionMemory"),
    ] {
        let (errno, refusal) = refused(&map, &file);
        assert!(format!("{refusal:?}").starts_with(name), "{refusal:?}");
        assert_eq!(errno, if name == "SessionMemory" { 12 } else { EINVAL });
    }
    // An eventfd is no memory, nor is a file of a file system on which a page fault may wait for anybody.
    let (_, refusal) = refused(&dma_map(3, 0, 0x40_0000, 4096), &eventfd());
    assert_eq!(refusal, Refusal::MapFileKind);
    let foreign = std::fs::File::open("/proc/self/cmdline").unwrap().into();
    let (_, refusal) = refused(&dma_map(3, 0, 0x40_0000, 4096), &foreign);
    assert!(matches!(refusal, Refusal::MapFileSystem { .. } | Refusal::MapFileTooSmall { .. }), "{refusal}");
    assert!(wire.told.is_empty());
    assert_eq!(regions(&wire), [(0x10_0000, 0x4000)]);
}

#[test]
fn maps_go_whole_in_part_or_all_at_once() {
    let (mut wire, file) = Wire::mapped(description(Interface::Modern));
    rustix::io::pwrite(&file, b"z", (3 * MIB + 5) as usize as u64).unwrap();
    let unmap = dma_unmap(0, MIB, MIB);
    assert_eq!(wire.ask(DMA_UNMAP, &unmap), unmap, "clients read as many bytes as they sent");
    wire.ask(DMA_UNMAP, &dma_unmap(0, 0, 4096));
    wire.ask(DMA_UNMAP, &dma_unmap(0, 15 * MIB, 5 * MIB));
    assert_eq!(regions(&wire), [(4096, MIB - 4096), (2 * MIB, 13 * MIB)]);
    assert_eq!((wire.guest(3 * MIB + 5), wire.guest(MIB + 5)), (Some(b'z'), None));
    assert_eq!(wire.names(), ["Memory"; 3]);
    // What is not there can go as well; nothing changes.
    wire.ask(DMA_UNMAP, &dma_unmap(0, 1 << 40, 1 << 30));
    assert!(wire.told.is_empty());
    for refused in
        [dma_unmap(0, 0, 0), dma_unmap(0, u64::MAX, 2), dma_unmap(4, 0, 4096), dma_unmap(2, 0, 4096)]
    {
        assert_eq!(wire.refused(DMA_UNMAP, &refused), EINVAL);
    }
    assert_eq!(wire.refused(DMA_UNMAP, &[dma_unmap(1, 0, 4096), vec![0; 24]].concat()), ENOTSUP);
    // The upper half of all addresses, and everything.
    wire.ask(DMA_UNMAP, &dma_unmap(0, 1 << 63, 1 << 63));
    wire.ask(DMA_UNMAP, &dma_unmap(2, 0, 0));
    assert_eq!((regions(&wire), wire.names()), (vec![], vec!["Memory".to_string()]));
    wire.map(&file, 0, 0, 16 * MIB);
    assert_eq!(wire.guest(3 * MIB + 5), Some(b'z'));
}

#[test]
fn memory_for_reading_only_is_read_and_never_written() {
    let mut wire = modern();
    let file = memfd(MIB);
    rustix::io::pwrite(&file, b"bios", 0).unwrap();
    wire.map(&file, 0x1000, 0, 0x1000);
    let rom = dma_map(1, 0, 0xf_0000, 0x1000);
    wire.ask_with(DMA_MAP, &rom, vec![file.try_clone().unwrap()]).unwrap();
    assert_eq!(wire.guest(0xf_0000), Some(b'b'));
    assert!(wire.session.memory().slice(GuestAddr(0xf_0000), 1).is_none(), "no way to write");
    assert!(wire.session.memory().slice(GuestAddr(0), 1).is_some());
    // Also of a file that cannot be written at all.
    let path = std::env::temp_dir().join(format!("vfio-user-rom-{}", std::process::id()));
    std::fs::write(&path, vec![7; 8192]).unwrap();
    let opened = std::fs::File::open(&path);
    std::fs::remove_file(&path).unwrap();
    let readable = OwnedFd::from(opened.unwrap());
    let result =
        wire.ask_with(DMA_MAP, &dma_map(1, 0, 0x20_0000, 0x1000), vec![readable.try_clone().unwrap()]);
    let refusal = wire.session.take_refusal();
    // The file system of the temporary folder need not be one that is taken.
    match result {
        Ok(_) => assert_eq!(wire.guest(0x20_0000), Some(7)),
        Err(_) => assert!(matches!(refusal, Some(Refusal::MapFileSystem { .. })), "{refusal:?}"),
    }
    let result = wire.ask_with(DMA_MAP, &dma_map(3, 0, 0x30_0000, 0x1000), vec![readable]);
    assert!(result.is_err(), "the device could not write there");
}

/// A driver behind a virtual IOMMU maps its buffers page by page.
#[test]
fn thousands_of_pages_of_one_file_are_one_mapping() {
    let mut wire = modern();
    let file = memfd(64 * MIB);
    let mappings = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let inode = rustix::fs::fstat(&file).unwrap().st_ino.to_string();
        maps.lines().filter(|line| line.split_ascii_whitespace().nth(4) == Some(&inode)).count()
    };
    let pages = 4000u64;
    for page in 0..pages {
        // Every other one for reading only, scattered in both address spaces.
        let flags = if page % 2 == 0 { 3 } else { 1 };
        let map = dma_map(flags, page * 7919 % 16384 * 4096, page * 104_729 % 65536 * 4096, 4096);
        wire.ask_with(DMA_MAP, &map, vec![file.try_clone().unwrap()]).unwrap();
    }
    wire.told.clear();
    assert_eq!(mappings(), 1);
    rustix::io::pwrite(&file, b"p", 1234 * 7919 % 16384 * 4096).unwrap();
    assert_eq!(wire.guest(1234 * 104_729 % 65536 * 4096), Some(b'p'));
    wire.ask(DMA_UNMAP, &dma_unmap(2, 0, 0));
    wire.told.clear();
    assert_eq!(mappings(), 0, "nothing is left when nobody holds it");
}

/// A ring of several pages that a virtual IOMMU maps one by one.
#[test]
fn pages_that_follow_each_other_hold_a_ring() {
    let mut wire = modern();
    let file = memfd(16 * MIB);
    for page in [3, 0, 1, 4, 2, 5u64] {
        wire.map(&file, 0x40_0000 + page * 4096, 0xffff_0000 + page * 4096, 4096);
    }
    assert_eq!(regions(&wire), [(0xffff_0000, 6 * 4096)]);
    assert_eq!(wire.negotiate(VERSION_1), 11);
    wire.told.clear();
    wire.set_queue(0, 0xffff, [0xffff_0c00, 0xffff_2f80, 0xffff_4e00]);
    assert_eq!(wire.names(), ["QueueStart 0"]);
    // One page in the middle of the used ring goes.
    wire.ask(DMA_UNMAP, &dma_unmap(0, 0xffff_5000, 4096));
    let Some(Event::Memory { restart, .. }) = wire.told.pop() else { panic!() };
    assert!(matches!(&restart[..], [ring] if ring.index == 0 && ring.setup.is_none()));
    assert_eq!(regions(&wire), [(0xffff_0000, 5 * 4096)]);
    wire.ask(DMA_UNMAP, &dma_unmap(0, 0xffff_1000, 4096));
    assert_eq!(regions(&wire), [(0xffff_0000, 4096), (0xffff_2000, 3 * 4096)]);
}

#[test]
fn a_file_that_grew_is_mapped_anew() {
    let mut wire = modern();
    let file = memfd(MIB);
    wire.map(&file, 0, 0, MIB);
    rustix::fs::ftruncate(&file, 2 * MIB).unwrap();
    rustix::io::pwrite(&file, b"n", MIB).unwrap();
    wire.map(&file, MIB, MIB, MIB);
    assert_eq!(wire.guest(MIB), Some(b'n'));
}

#[test]
fn maps_and_files_have_bounds() {
    let mut wire = modern();
    // Files of 1 TiB cost a client nothing; five of them are too much.
    for index in 0..5u64 {
        let huge = memfd(1 << 40);
        let result = wire.ask_with(DMA_MAP, &dma_map(3, 0, index << 40, 4096), vec![huge]);
        assert_eq!(result.is_ok(), index < 4 || wire.session.take_refusal().is_none(), "{index}");
    }
    // Of the fifth only what was asked for.
    assert_eq!(regions(&wire).len(), 4);
    let mut wire = modern();
    let count = (0..2000u64)
        .take_while(|index| {
            wire.ask_with(DMA_MAP, &dma_map(3, 0, index << 12, 4096), vec![memfd(4096)]).is_ok()
        })
        .count();
    assert_eq!((count, wire.session.take_refusal()), (1024, Some(Refusal::SessionMappings)));
}

#[test]
fn a_ring_whose_memory_goes_waits_until_it_is_back() {
    let (mut wire, _, file) = Wire::running(true);
    wire.told.clear();
    // Memory that no ring is in: all go on.
    wire.ask(DMA_UNMAP, &dma_unmap(0, 8 * MIB, 8 * MIB));
    let rings = |event: &Event| match event {
        Event::Memory { restart, .. } => {
            restart.iter().map(|ring| (ring.index, ring.setup.is_some())).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(rings(&wire.told.remove(0)), [(0, true), (1, true), (2, true)]);
    // Queue 1's used ring.
    wire.ask(DMA_UNMAP, &dma_unmap(0, ring_at(1)[2], 0x2000));
    assert_eq!(rings(&wire.told.remove(0)), [(0, true), (1, false), (2, true)]);
    assert!(wire.guest(ring_at(1)[2]).is_none());
    // It stays away, and is not told of again; a doorbell meanwhile is passed on for the host to drop.
    wire.ask(DMA_UNMAP, &dma_unmap(0, 7 * MIB, 4096));
    assert_eq!(rings(&wire.told.remove(0)), [(0, true), (2, true)]);
    // Without a descriptor it is not back.
    wire.ask(DMA_MAP, &dma_map(3, 0, ring_at(1)[2], 0x2000));
    wire.ask(DMA_UNMAP, &dma_unmap(0, ring_at(1)[2], 0x2000));
    assert!(wire.told.is_empty());
    // For reading only it is not, either.
    let [_, _, used] = ring_at(1);
    wire.ask_with(DMA_MAP, &dma_map(1, used, used, 0x2000), vec![file.try_clone().unwrap()]).unwrap();
    assert_eq!(rings(&wire.told.remove(0)), [(0, true), (2, true)]);
    wire.ask(DMA_UNMAP, &dma_unmap(0, used, 0x2000));
    wire.told.clear();
    // In pieces: rings lie inside one region, so a ring that is cut stays where it is.
    wire.map(&file, used, used, 0x2000);
    assert_eq!(rings(&wire.told.remove(0)), [(0, true), (1, true), (2, true)]);
    // All of it, and a stop while it is away.
    wire.ask(DMA_UNMAP, &dma_unmap(2, 0, 0));
    assert_eq!(rings(&wire.told.remove(0)), [(0, false), (1, false), (2, false)]);
    wire.post_write(common::BAR, common::STATUS, &[0]);
    assert_eq!(wire.names(), ["QueueStop 0", "QueueStop 1", "QueueStop 2", "ResetDevice"]);
    wire.map(&file, 0, 0, 16 * MIB);
    assert_eq!(rings(&wire.told.remove(0)), []);
}
