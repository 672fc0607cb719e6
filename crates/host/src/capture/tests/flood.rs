//! The queue under more than it can hold, and under many workers at once.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

#[test]
fn a_flood_is_bounded_and_counted() {
    let captures = Captures::default();
    let point = captures.point("web", "");
    let stream = captures.start(&request(&[])).expect("started");
    for (len, frames) in [(60, 20_000), (1514, 20_000), (65_000, 1000)] {
        let (frame, before) = (vec![0; len], stream.missed());
        for _ in 0..frames {
            offer(&point, &frame, None);
            let (bytes, records) = stream.load();
            assert!(
                bytes <= QUEUE_BYTES_MAX && records <= QUEUE_RECORDS_MAX,
                "{bytes} bytes, {records} records"
            );
        }
        let got = taken(&stream);
        assert_eq!(got.len() as u64 + stream.missed() - before, frames);
        assert!(stream.missed() > before, "{len} bytes: it was no flood");
        // It is full by one of its two bounds.
        let weight = if len > 256 { len.max(2048) } else { len } + size_of::<Record>();
        let full = got.len() == QUEUE_RECORDS_MAX || (got.len() + 1) * weight > QUEUE_BYTES_MAX;
        assert!(full, "{} records of {len} bytes", got.len());
        assert_eq!(stream.load(), (0, 0));
        // Half of the buffers come back, half are dropped.
        got.into_iter().step_by(2).for_each(|record| stream.recycle(record.data));
    }
}

/// Workers offer as fast as they can while one reader takes: nothing is lost without being counted, each worker's frames
/// keep their order, and the reader is always woken (else this does not end).
#[test]
fn many_workers_and_one_reader_agree() {
    const WORKERS: u32 = 3;
    const FRAMES: u32 = 30_000;
    let captures = Captures::default();
    let points: Vec<_> = (0..WORKERS).map(|index| captures.point(&format!("p{index}"), "")).collect();
    let stream = Arc::new(captures.start(&request(&[])).expect("started"));
    let done = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (stream, done) = (Arc::clone(&stream), Arc::clone(&done));
        move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let mut got: Vec<Vec<u32>> = vec![Vec::new(); WORKERS as usize];
            runtime.block_on(async {
                loop {
                    // The last wait would never end: nobody offers any more.
                    let waited = tokio::time::timeout(Duration::from_millis(300), stream.ready()).await;
                    for record in taken(&stream) {
                        let mark = record.data[14..18].try_into().expect("four bytes");
                        got[record.interface as usize].push(u32::from_be_bytes(mark));
                    }
                    if waited.is_err() && done.load(Relaxed) {
                        return got;
                    }
                }
            })
        }
    });
    let workers: Vec<_> = points
        .into_iter()
        .map(|point| {
            std::thread::spawn(move || {
                for mark in 0..FRAMES {
                    offer(&point, &marked(mark), None);
                    if mark % 1000 == 0 {
                        // Lets the reader fall asleep now and then.
                        std::thread::sleep(Duration::from_millis(u64::from(mark % 3)));
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("no panic");
    }
    done.store(true, Relaxed);
    let got = reader.join().expect("no panic");
    let count: usize = got.iter().map(Vec::len).sum();
    assert_eq!(count as u64 + stream.missed(), u64::from(WORKERS * FRAMES));
    for marks in got {
        assert!(!marks.is_empty());
        assert!(marks.windows(2).all(|pair| pair[0] < pair[1]), "out of order");
    }
    assert_eq!(stream.load(), (0, 0));
}

#[test]
fn a_reader_that_sleeps_is_woken_soon() {
    let captures = Captures::default();
    let point = captures.point("web", "");
    let stream = captures.start(&request(&[])).expect("started");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    for round in 0..20 {
        let offering = std::thread::spawn({
            let point = Arc::clone(&point);
            move || offer(&point, &marked(round), None)
        });
        let begun = std::time::Instant::now();
        runtime.block_on(stream.ready());
        offering.join().expect("no panic");
        assert_eq!(taken(&stream).len(), 1);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
