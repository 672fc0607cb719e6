//! Disks: virtio-blk devices of guests, their queues and what is counted about them.
//!
//! Who touches what: a queue belongs to one worker, which pops, has the engine carry out, and completes ([`queue`]). It has a lock that
//! is taken once a burst; the session takes the same lock to start, stop or change the queue ([`session`]). The image is shared by all
//! queues, and so are the cache's mode and the rate, which are the disk's.

mod change;
pub(super) mod queue;
pub(super) mod session;
pub(super) mod stats;
mod view;

pub(super) use change::DisksDone;

use super::Stopping;
use super::group::Group;
use super::listen::Endpoint;
use super::notify::Wake;
use super::port::Facts;
use super::service::Service;
use super::source::Source;
use crate::config::resolved::{CacheMode, DiskConfig, ImageConfig, ImageFormat};
use crate::storage::{Bucket, Format, Image, ImageError, Limit, Options, Rate};
use anyhow::Context;
use arc_swap::ArcSwap;
use devices::blk::{self, Acknowledged, BlkConfig, Features, Offered, QueueLimits, Rules};
use devices::storage::{Serial, Shape};
use parking_lot::Mutex;
use queue::DiskQueue;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use virtqueue::Endian;

/// How long an image that somebody has is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// Time between two looks.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Segments of data that a request may have: what fits a chain beside header and status, and an iovec of the kernel's.
const SEGMENTS_MAX: u32 = 254;

/// One disk of a guest.
pub(super) struct Disk {
    pub(super) name: String,
    pub(super) config: ArcSwap<DiskConfig>,
    pub(super) image: Arc<Image>,
    /// What every front-end is offered.
    pub(super) offered: Offered,
    pub(super) queues: Box<[DiskQueue]>,
    /// What the image is at this moment, as the guest is told.
    shape: ArcSwap<Shape>,
    /// A write is done only when it would survive a loss of power.
    through: AtomicBool,
    /// How much may be asked for; the flag spares the lock where there is no limit.
    limit: Mutex<Limit>,
    is_limited: AtomicBool,
    /// When the disk was opened: the zero of the limit's time.
    opened: Instant,
    /// Where front-ends are met.
    pub(super) endpoint: Endpoint,
    /// Wakes the session: a queue was retired, memory died, or the size changed.
    pub(super) attention: Wake,
    /// The guest has not been told yet of another size.
    pub(super) resized: AtomicBool,
    /// What the session knows, for people. Never held together with a queue's lock.
    pub(super) facts: Mutex<Facts>,
    pub(super) stopping: Arc<Stopping>,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    /// Where its queues are served.
    pub(super) service: Service,
}

impl Disk {
    /// Opens the image. The disk is not served yet.
    pub(super) fn open(config: &DiskConfig, endpoint: Endpoint, group: Arc<Group>) -> anyhow::Result<Self> {
        let image = Arc::new(open_image(config)?);
        let shape = shape(config, &image);
        let limits = queue_limits(config);
        let ring = Features::VERSION_1
            | Features::INDIRECT_DESC
            | Features::EVENT_IDX
            | Features::RING_PACKED
            | Features::RING_RESET
            | Features::ANY_LAYOUT;
        let offered = Offered::of(&shape, &limits, false, false);
        let offered = Offered::new(offered.features() | ring);
        let disk = Self {
            name: config.name.clone(),
            config: ArcSwap::from_pointee(config.clone()),
            image,
            offered,
            queues: (0..config.attach.queues).map(|_| DiskQueue::default()).collect(),
            shape: ArcSwap::from_pointee(shape),
            through: AtomicBool::new(true),
            limit: Mutex::default(),
            is_limited: AtomicBool::new(false),
            opened: Instant::now(),
            endpoint,
            attention: Wake::new()?,
            resized: AtomicBool::new(false),
            facts: Mutex::default(),
            stopping: Arc::new(Stopping::new()?),
            threads: Mutex::default(),
            service: Service::new(config.attach.queues.into(), group),
        };
        disk.set_rates(config);
        Ok(disk)
    }

    /// The mode of the cache that a driver begins with.
    pub(super) fn operator_mode(&self) -> blk::CacheMode {
        match self.config.load().cache {
            CacheMode::WriteBack => blk::CacheMode::WriteBack,
            CacheMode::WriteThrough => blk::CacheMode::WriteThrough,
        }
    }

    /// Writes that begin from now on are done when they would survive a loss of power, or earlier.
    pub(super) fn set_through(&self, through: bool) {
        self.through.store(through, Relaxed);
    }

    /// Whether they are.
    pub(super) fn is_through(&self) -> bool {
        self.through.load(Relaxed)
    }

    /// What a driver's requests are judged by now.
    pub(super) fn rules(&self, acknowledged: Acknowledged) -> Rules {
        Rules::new(self.offered, acknowledged, Endian::Little, &self.shape.load(), self.is_through())
    }

    /// The configuration space, but for the mode of the cache.
    pub(super) fn blk_config(&self) -> BlkConfig {
        BlkConfig { shape: **self.shape.load(), queues: queue_limits(&self.config.load()), zones: None }
    }

    /// Takes what a request of so many bytes needs from the disk's rate.
    ///
    /// # Errors
    /// The time until there is enough. Nothing is taken then.
    #[inline]
    pub(super) fn admit(&self, bytes: u64, now: Instant) -> Result<(), Duration> {
        if !self.is_limited.load(Relaxed) {
            return Ok(());
        }
        self.limit.lock().admit(bytes, now.saturating_duration_since(self.opened))
    }

    /// Takes the rates of a new configuration.
    pub(super) fn set_rates(&self, config: &DiskConfig) {
        let rate = |rate: crate::config::resolved::Rate| {
            let one = NonZeroU64::MIN;
            Rate {
                per_second: NonZeroU64::new(rate.per_second).unwrap_or(one),
                burst: NonZeroU64::new(rate.burst).unwrap_or(one),
            }
        };
        let mut limit = self.limit.lock();
        set_rate(&mut limit.operations, config.rates.requests.map(rate));
        set_rate(&mut limit.bytes, config.rates.bytes.map(rate));
        self.is_limited.store(!limit.is_open(), Relaxed);
    }

    /// Uses the size that the image has now, or gives it another one first; returns the capacity. This can block.
    ///
    /// # Errors
    /// In words: the image cannot be made that long, or its size cannot be read.
    pub(super) fn resize(&self, bytes: Option<u64>) -> Result<u64, String> {
        match bytes {
            Some(bytes) => {
                self.image.resize(bytes).map_err(|fault| format!("{}: {fault}", self.image.name()))?
            }
            None => {
                self.image.refresh().map_err(|error| format!("{}: {error}", self.image.name()))?;
            }
        }
        let shape = shape(&self.config.load(), &self.image);
        let capacity = shape.capacity;
        if self.shape.swap(Arc::new(shape)).capacity != capacity {
            self.resized.store(true, Relaxed);
            self.attention.wake();
        }
        Ok(capacity)
    }

    /// Has the worker of a queue look at it.
    pub(super) fn poke(&self, index: u16) {
        self.service.poke(index);
    }

    /// What workers serve of it.
    pub(super) fn sources(self: &Arc<Self>) -> impl Iterator<Item = Source> {
        (0..self.queues.len() as u16).map(|index| Source::Disk(Arc::clone(self), index))
    }
}

fn set_rate(bucket: &mut Option<Bucket>, rate: Option<Rate>) {
    match (bucket.as_mut(), rate) {
        (Some(bucket), Some(rate)) => bucket.set_rate(rate),
        (_, rate) => *bucket = rate.map(Bucket::new),
    }
}

/// Opens the image. One that is locked is tried again for a while: a program that was killed a moment ago keeps its files until the
/// kernel has done what it was asked for.
fn open_image(config: &DiskConfig) -> anyhow::Result<Image> {
    let serial = Serial::new(&config.serial)?;
    let began = Instant::now();
    loop {
        let image = match &config.image {
            ImageConfig::File { path, format, direct } => {
                let (format, backing) = match format {
                    ImageFormat::Raw => (Format::Raw, false),
                    ImageFormat::Qcow2 { backing_file } => (Format::Qcow2, *backing_file),
                };
                let (direct, block_min) = (direct.unwrap_or(true), config.block_size.unwrap_or(512));
                let read_only = config.read_only;
                Image::open(path, &Options { format, read_only, direct, backing, block_min, serial })
            }
            ImageConfig::Ram { bytes } => Image::ram(*bytes, serial),
            ImageConfig::Null { bytes } => Ok(Image::null(*bytes)),
        };
        match image {
            Err(ImageError::InUse { .. }) if began.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_PAUSE),
            image => return image.context("its image"),
        }
    }
}

/// What the guest is told of the image, with the operator's word on it.
fn shape(config: &DiskConfig, image: &Image) -> Shape {
    let mut shape = image.shape();
    shape.read_only |= config.read_only;
    if let Ok(serial) = Serial::new(&config.serial) {
        shape.serial = serial;
    }
    if let Some(block) = config.block_size {
        shape.logical_block = block;
        shape.physical_block = shape.physical_block.max(block);
    }
    if !config.discard {
        shape.discard = None;
        shape.zero_unmaps = false;
    }
    shape
}

fn queue_limits(config: &DiskConfig) -> QueueLimits {
    QueueLimits { queues: config.attach.queues, seg_max: SEGMENTS_MAX, size_max: 0 }
}
