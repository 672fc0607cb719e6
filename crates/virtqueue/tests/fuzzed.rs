//! The fuzz targets' entry, over every input that once broke something and over random ones.

mod rig;
mod ring_run;

use rig::Random;

/// Replays the files of `tests/regressions/<form>`.
fn replay(form: &str, packed: bool) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions").join(form);
    for file in std::fs::read_dir(folder).into_iter().flatten() {
        ring_run::run(&std::fs::read(file.unwrap().path()).unwrap(), packed);
    }
}

fn random(packed: bool) {
    let runs = if cfg!(miri) { 6 } else { 6000 };
    for seed in 0..runs {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..random.below(1500)).map(|_| random.next() as u8).collect();
        ring_run::run(&bytes, packed);
    }
}

#[test]
#[cfg(not(miri))]
fn inputs_that_once_broke_something() {
    replay("split", false);
    replay("packed", true);
}

#[test]
fn random_split_rings() {
    random(false);
}

#[test]
fn random_packed_rings() {
    random(true);
}
