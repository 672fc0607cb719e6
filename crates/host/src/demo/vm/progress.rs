//! Bars and spinners on standard error; drawn on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(120);

fn styled(bar: ProgressBar, template: &str, message: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bar.with_style(style).with_message(message.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// Something of unknown length.
pub(super) fn spinner(message: &str) -> ProgressBar {
    styled(ProgressBar::new_spinner(), "           {spinner} {msg} {elapsed}", message)
}

/// A number of equal steps.
pub(super) fn steps(message: &str, count: usize) -> ProgressBar {
    styled(ProgressBar::new(count as u64), "           {msg:<12} {bar:30} {pos}/{len}", message)
}

/// A download that is seen by the size of the files in a directory.
pub(super) struct Download {
    bar: ProgressBar,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Begins to watch `dir` grow towards `total` bytes.
pub(super) fn bytes(message: &str, total: u64, dir: PathBuf) -> Download {
    let template = "           {msg:<12} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
    let bar = styled(ProgressBar::new(total), template, message);
    let stopping = Arc::new(AtomicBool::new(false));
    let (watched, stop) = (bar.clone(), Arc::clone(&stopping));
    let watch = move || {
        while !stop.load(Ordering::Relaxed) {
            watched.set_position((size_of_files(&dir) + size_of_files(&dir.join("partial"))).min(total));
            std::thread::sleep(TICK);
        }
    };
    // Without the thread the bar stands still, and the download goes on.
    let thread = std::thread::Builder::new().name("demo-progress".into()).spawn(watch).ok();
    Download { bar, stopping, thread }
}

impl Download {
    /// Takes the bar away.
    pub(super) fn finish(mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only draws; how it ended does not matter.
            let _ = thread.join();
        }
        self.bar.finish_and_clear();
    }
}

fn size_of_files(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(|meta| meta.is_file())
        .map(|meta| meta.len())
        .sum()
}
