//! The servers and what their disks lie in.

use crate::process::{Peer, tail, threads_ns};
use crate::ringway::{Config, Ringway};
use crate::switch_bench::SWITCH_CPU;
use crate::sysroot::{Sysroot, temporary_directory};
use anyhow::Context;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where files are memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// Who serves a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum System {
    Ringway,
    StorageDaemon,
}

impl System {
    /// Ringway first.
    pub(super) const ALL: [Self; 2] = [Self::Ringway, Self::StorageDaemon];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ringway => "Ringway",
            Self::StorageDaemon => "qemu-storage-daemon",
        }
    }
}

/// What a disk lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    /// Nothing: the path alone. `null`, next to `null-co` that leaves the guest's memory as it is.
    Null,
    /// Memory: `ram`, next to a file in tmpfs, since the peer has no such disk.
    Ram,
    /// A file in tmpfs, for both.
    Tmpfs,
    /// A file on a disk past the page cache, for both.
    File,
}

impl Medium {
    pub(super) const ALL: [Self; 4] = [Self::Null, Self::Ram, Self::Tmpfs, Self::File];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Ram => "RAM",
            Self::Tmpfs => "tmpfs",
            Self::File => "file",
        }
    }

    /// Whether what was written can be read.
    pub(super) fn keeps(self) -> bool {
        self != Self::Null
    }
}

/// The files of all runs, and who serves them.
pub(super) struct Media<'s> {
    sysroot: &'s Sysroot,
    len: u64,
    directories: [TempDir; 2],
}

impl<'s> Media<'s> {
    /// Makes a file of `len` bytes in tmpfs and one on the disk that temporary files lie on, neither with holes.
    ///
    /// Errors: no room.
    pub(super) fn make(sysroot: &'s Sysroot, len: u64) -> anyhow::Result<Self> {
        let directory = |place: &Path| tempfile::Builder::new().prefix("rw-bench-").tempdir_in(place);
        let directories = [directory(Path::new(SHARED_MEMORY))?, directory(&temporary_directory())?];
        let media = Self { sysroot, len, directories };
        for medium in [Medium::Tmpfs, Medium::File] {
            let path = media.file(medium);
            fill(&path, len).with_context(|| path.display().to_string())?;
        }
        Ok(media)
    }

    fn file(&self, medium: Medium) -> PathBuf {
        self.directories[usize::from(medium == Medium::File)].path().join("disk.img")
    }
}

fn fill(path: &Path, len: u64) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![0x5a; 1 << 20];
    for _ in 0..len / piece.len() as u64 {
        file.write_all(&piece)?;
    }
    Ok(file.sync_all()?)
}

/// The peer's version.
pub(super) fn version(sysroot: &Sysroot) -> anyhow::Result<String> {
    let text = sysroot.output("qemu-storage-daemon", &["--version"])?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

enum Running {
    Ringway(Ringway),
    StorageDaemon(Peer),
}

/// A server with one disk of one queue, all of its threads on [`SWITCH_CPU`].
pub(super) struct Server {
    running: Running,
    socket: PathBuf,
    _directory: TempDir,
}

impl Server {
    /// Starts a server. Ringway has one pool worker that polls as it always does; the peer an I/O thread, which polls too.
    ///
    /// Errors: it does not start.
    pub(super) fn start(media: &Media<'_>, system: System, medium: Medium) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("rw-bench-").tempdir_in(temporary_directory())?;
        let socket = directory.path().join("disk.sock");
        let running = match system {
            System::Ringway => Running::Ringway(ringway(media, medium, directory.path(), &socket)?),
            System::StorageDaemon => {
                Running::StorageDaemon(storage_daemon(media, medium, directory.path(), &socket)?)
            }
        };
        Ok(Self { running, socket, _directory: directory })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Nanoseconds that all of its threads have run, those of the kernel that work for it included.
    pub(super) fn processor_ns(&self) -> anyhow::Result<u64> {
        let pid = match &self.running {
            Running::Ringway(ringway) => ringway.pid(),
            Running::StorageDaemon(peer) => peer.pid(),
        };
        Ok(threads_ns(pid, "")?.into_iter().sum())
    }

    /// The last lines that it printed.
    pub(super) fn log_tail(&self) -> String {
        match &self.running {
            Running::Ringway(ringway) => ringway.log_tail(),
            Running::StorageDaemon(peer) => tail(&peer.log(), 15),
        }
    }
}

fn ringway(media: &Media<'_>, medium: Medium, directory: &Path, socket: &Path) -> anyhow::Result<Ringway> {
    let image = match medium {
        Medium::Null => format!("null = \"{}\"", media.len),
        Medium::Ram => format!("ram = \"{}\"", media.len),
        Medium::Tmpfs | Medium::File => format!("file = {:?}", media.file(medium)),
    };
    let workers = format!("mode = \"pool\"\nthreads = 1\ncpus = [{SWITCH_CPU}]");
    let section = format!("\n[disk.bench]\nvhost-user = {{ socket = {socket:?} }}\n{image}\n");
    let enter = ["taskset", "--cpu-list", &SWITCH_CPU.to_string()].map(str::to_owned);
    Ringway::start_in(Config::new(directory, &workers).section(&section), &enter)
}

/// It takes no locks: those of a server that has just been killed are held until the kernel has ended its I/O.
fn storage_daemon(
    media: &Media<'_>,
    medium: Medium,
    directory: &Path,
    socket: &Path,
) -> anyhow::Result<Peer> {
    let file = |medium, how: &str| {
        let path = media.file(medium);
        format!("driver=file,node-name=disk,filename={},discard=unmap,locking=off,{how}", path.display())
    };
    let image = match medium {
        Medium::Null => format!("driver=null-co,node-name=disk,size={},read-zeroes=off", media.len),
        Medium::Ram | Medium::Tmpfs => file(Medium::Tmpfs, TMPFS_IO),
        Medium::File => file(Medium::File, FILE_IO),
    };
    let export = "type=vhost-user-blk,id=export,node-name=disk,writable=on,iothread=thread,addr.type=unix";
    let mut command = media.sysroot.command("taskset");
    command.args(["--cpu-list", &SWITCH_CPU.to_string(), "qemu-storage-daemon"]);
    command.args(["--object", "iothread,id=thread", "--blockdev", &image]);
    command.arg("--export").arg(format!("{export},addr.path={}", socket.display()));
    Peer::start("qemu-storage-daemon", directory, &mut command)
}

/// How the peer does its I/O: on the machine of docs/performance.md it needed less processor time so than with `native`.
const TMPFS_IO: &str = "aio=io_uring";
const FILE_IO: &str = "aio=io_uring,cache.direct=on";
