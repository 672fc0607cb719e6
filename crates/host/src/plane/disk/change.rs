//! Disks come, change and go while others go on.

use super::super::listen::Endpoint;
use super::super::{Plane, join, spawn};
use super::{Disk, session};
use crate::config::diff::{Difference, DiskChange};
use crate::config::resolved::{Config, DiskConfig, SocketRole};
use crate::inherited;
use anyhow::Context;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a change waits until workers let go of an image.
const RELEASE_WAIT: Duration = Duration::from_millis(500);

/// What a change has done to disks so far.
#[derive(Default)]
pub(in super::super) struct DisksDone {
    came: Vec<Arc<Disk>>,
    went: Vec<DiskConfig>,
    changed: Vec<(Arc<Disk>, Arc<DiskConfig>)>,
}

impl Plane {
    /// Goes over to the disks of another configuration. What was done is in `done`, for [`Self::undo_disks`].
    pub(in super::super) fn change_disks(
        &self,
        difference: &Difference,
        done: &mut DisksDone,
    ) -> anyhow::Result<()> {
        let replaced =
            difference.disks_changed.iter().filter(|changed| changed.change == DiskChange::Replace);
        let going = difference.disks_removed.iter().chain(replaced.clone().map(|changed| &changed.old));
        let going: Vec<Arc<Disk>> = going.filter_map(|config| self.named_disk(&config.name)).collect();
        let coming = difference.disks_added.iter().chain(replaced.map(|changed| &changed.new));
        // An image and a socket can be had once: those of a disk that goes are free only then.
        let clashes = |config: &&DiskConfig| {
            going.iter().any(|disk| {
                let old = disk.config.load();
                old.attach.socket == config.attach.socket
                    || old.image.path().is_some_and(|path| config.image.path() == Some(path))
            })
        };
        let (late, early): (Vec<_>, Vec<_>) = coming.partition(clashes);
        let mut built = Vec::new();
        for config in early {
            built.push(self.build_disk(config)?);
        }
        for disk in going {
            done.went.push(DiskConfig::clone(&disk.config.load()));
            self.take_out_disk(&disk);
        }
        for config in late {
            built.push(self.build_disk_late(config)?);
        }
        for disk in built {
            done.came.push(Arc::clone(&disk));
            self.put_in_disk(&disk).with_context(|| format!("disk.{}", disk.name))?;
        }
        let live = difference.disks_changed.iter().filter(|changed| changed.change == DiskChange::Live);
        for changed in live {
            let Some(disk) = self.named_disk(&changed.old.name) else { continue };
            done.changed.push((Arc::clone(&disk), disk.config.swap(Arc::new(changed.new.clone()))));
            self.update_disk(&disk)?;
        }
        Ok(())
    }

    /// Puts the old disks back, as far as that goes.
    pub(in super::super) fn undo_disks(&self, done: DisksDone) {
        for disk in done.came.iter().rev() {
            self.take_out_disk(disk);
        }
        for (disk, before) in done.changed.into_iter().rev() {
            disk.config.store(before);
            if let Err(error) = self.update_disk(&disk) {
                tracing::error!(disk = disk.name, "its old settings cannot be put back: {error:#}");
            }
        }
        for config in done.went {
            let built = self.build_disk_late(&config);
            let put =
                built.and_then(|disk| self.put_in_disk(&disk).inspect_err(|_| self.take_out_disk(&disk)));
            if let Err(error) = put {
                tracing::error!(disk = config.name, "it cannot be put back: {error:#}");
            }
        }
    }

    /// A disk by its name.
    pub(in super::super) fn named_disk(&self, name: &str) -> Option<Arc<Disk>> {
        self.disks.load().iter().find(|disk| disk.name == name).map(Arc::clone)
    }

    /// Disks are shown in the order of the configuration.
    pub(in super::super) fn sort_disks(&self, config: &Config) {
        let mut disks = Vec::clone(&self.disks.load());
        let place = |disk: &Arc<Disk>| config.disks.iter().position(|config| config.name == disk.name);
        disks.sort_by_cached_key(place);
        self.disks.store(Arc::new(disks));
    }

    /// Opens what a disk needs. It is not served yet.
    fn build_disk(&self, config: &DiskConfig) -> anyhow::Result<Arc<Disk>> {
        let open = || {
            let (socket, role) = (&config.attach.socket, config.attach.role);
            let passed = (role == SocketRole::Server)
                .then(|| inherited::take(&format!("disk.{}", config.name)))
                .flatten();
            let endpoint = match passed {
                Some(listener) => Endpoint::inherited(listener, socket)?,
                None => Endpoint::open(socket, role)?,
            };
            Disk::open(config, endpoint, self.group(config.workers.as_deref())?)
        };
        open().map(Arc::new).with_context(|| format!("disk.{}", config.name))
    }

    /// As [`Self::build_disk`], for an image that a disk had which has just gone: a worker may hold it for a moment.
    fn build_disk_late(&self, config: &DiskConfig) -> anyhow::Result<Arc<Disk>> {
        let began = Instant::now();
        loop {
            match self.build_disk(config) {
                Err(_) if began.elapsed() < RELEASE_WAIT => std::thread::sleep(Duration::from_millis(5)),
                result => return result,
            }
        }
    }

    /// Has a disk served.
    fn put_in_disk(&self, disk: &Arc<Disk>) -> anyhow::Result<()> {
        let mut disks = Vec::clone(&self.disks.load());
        disks.push(Arc::clone(disk));
        self.disks.store(Arc::new(disks));
        self.begin_service(&disk.service, disk.sources())?;
        let body = Arc::clone(disk);
        let thread = spawn(format!("rw-{}", disk.name), move || session::run(&body))?;
        disk.threads.lock().push(thread);
        Ok(())
    }

    /// Gives a disk that stays its new settings, which are in its `config` already.
    fn update_disk(&self, disk: &Arc<Disk>) -> anyhow::Result<()> {
        let config = disk.config.load();
        disk.set_rates(&config);
        self.change_service(&disk.service, disk.sources(), config.workers.as_deref())
            .with_context(|| format!("disk.{}", disk.name))
    }

    /// Ends a disk. What its image has of it is waited for. Does nothing to one that is not there.
    pub(in super::super) fn take_out_disk(&self, disk: &Arc<Disk>) {
        let disks = self.disks.load().iter().filter(|other| !Arc::ptr_eq(other, disk)).cloned().collect();
        self.disks.store(Arc::new(disks));
        disk.stopping.set();
        let threads: Vec<_> = disk.threads.lock().drain(..).collect();
        join(threads.into_iter());
        disk.service.end(disk.sources());
        // A worker may hold the disk for a moment; its socket goes now.
        disk.endpoint.unlink();
    }
}
