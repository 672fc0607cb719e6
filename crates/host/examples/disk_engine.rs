//! What a request costs in the engines of disks: random reads of 4 KiB, 64 at a time, on each kind of image.
//!
//! `cargo run --release -p ringway --example disk_engine [DIRECTORY]`: files are made in DIRECTORY, or where temporary files go.

use devices::storage::{Extent, Serial, Work};
use guestmem::{GuestAddr, GuestMemory, KeptRuns};
use ringway::storage::{Engine, EngineKind, Image, Options};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEPTH: u32 = 64;
const BLOCK: u64 = 4096;
const DISK: u64 = 256 << 20;
const TIME: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let place = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let path = place.join(format!("ringway-disk-engine-{}", std::process::id()));
    let result = make(&path).and_then(|()| measure_all(&path));
    std::fs::remove_file(&path)?;
    result
}

fn make(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut file = std::fs::File::create_new(path)?;
    let block: Vec<u8> = (0..1u32 << 20).map(|byte| (byte * 7) as u8).collect();
    for _ in 0..DISK >> 20 {
        file.write_all(&block)?;
    }
    Ok(file.sync_all()?)
}

fn measure_all(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!("{:<26} {:>12} {:>12} {:>12}", "image", "requests/s", "ns/request", "cpu ns/req");
    measure("null", Image::null(DISK), EngineKind::Auto)?;
    measure("memory", Image::ram(DISK, Serial::NONE)?, EngineKind::Auto)?;
    for direct in [true, false] {
        for kind in [EngineKind::Uring, EngineKind::Threads] {
            let image = Image::open(path, &Options { direct, read_only: true, ..Options::default() })?;
            let cache = if image.is_direct() { "direct" } else { "page cache" };
            measure(&format!("file, {cache}, {kind:?}"), image, kind)?;
        }
    }
    Ok(())
}

fn measure(name: &str, image: Image, kind: EngineKind) -> Result<(), Box<dyn std::error::Error>> {
    let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), (BLOCK * u64::from(DEPTH)) as usize)?);
    let mut kept = KeptRuns::new();
    let mut parts = Vec::new();
    for tag in 0..u64::from(DEPTH) {
        let slice = memory.slice(GuestAddr(tag * BLOCK), BLOCK as usize).ok_or("no memory")?;
        parts.push(kept.keep(&memory, &[slice], 0, BLOCK as usize).ok_or("no memory")?);
    }
    let mut engine = Engine::new(Arc::new(image), kind, DEPTH)?;
    engine.active();
    let mut free: Vec<u64> = (0..u64::from(DEPTH)).collect();
    let (mut count, mut random, mut failed) = (0u64, 1u64, 0u64);
    let (start, cpu) = (Instant::now(), cpu_time());
    while start.elapsed() < TIME {
        for _ in 0..16 {
            for tag in free.drain(..) {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let offset = (random >> 20) % (DISK / BLOCK) * BLOCK;
                let work = Work::Read(Extent { offset, len: BLOCK });
                engine.submit(tag, work, &kept, parts[tag as usize])?;
            }
            count += engine.reap(|tag, outcome| {
                failed += u64::from(outcome.is_err());
                free.push(tag);
            }) as u64;
        }
    }
    let (time, cpu) = (start.elapsed(), cpu_time() - cpu);
    let per = |time: Duration| time.as_nanos() as f64 / count.max(1) as f64;
    let rate = count as f64 / time.as_secs_f64();
    println!("{name:<26} {rate:>12.0} {:>12.1} {:>12.1}", per(time), per(cpu));
    if failed > 0 { Err(format!("{failed} requests failed").into()) } else { Ok(()) }
}

/// CPU time of the whole process, io_uring's threads among it.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
