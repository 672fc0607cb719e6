//! The operator's TOML file: read, checked as a whole, and turned into plain values.
//!
//! Theory of operation. [`load`] reads a file in three steps. `raw` (with `lists`) parses the text and keeps the place of
//! every value. `resolve` walks the tables by hand, notes each mistake and goes on, so that one run shows all of them.
//! `resolved` holds what is left when there were none. What depends on the machine rather than on the text (directories,
//! permissions, interfaces) is a second stage, [`environment_check`], which also reports everything at once.
//!
//! While the program runs, the configuration changes in one of two ways: the file is loaded again, or the control API
//! edits a [`Document`], which is checked by the very same steps. [`Config::diff`] says what a new one changes, and which
//! of it can be done while frames flow.

pub mod diff;
mod disks;
pub mod document;
mod environment;
pub mod keys;
mod lists;
mod mistake;
mod profile;
mod raw;
mod resolve;
pub mod resolved;
mod token;
mod values;

use std::io::Read as _;
use std::path::{Path, PathBuf};

pub use environment::environment_check;
pub use mistake::{ConfigError, Mistake};
pub use resolved::Config;
pub use token::{TOKEN_ACCEPTED, read_token};
pub(crate) use values::{BYTES_ACCEPTED, bytes};
pub use values::{mac_text, name as check_name};

/// Largest configuration file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// A configuration and the places its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the file says.
    pub config: Config,
    /// The file, as the operator named it.
    pub file: PathBuf,
    lines: raw::Lines,
}

impl Loaded {
    /// Line on which `field` (such as `port.web.mac`) is written; 0 if it is a default.
    pub fn line(&self, field: &str) -> usize {
        self.lines.get(field).copied().unwrap_or(0)
    }
}

/// Reads and checks a configuration file. Relative paths in it start from its own directory.
pub fn load(file: &Path) -> Result<Loaded, ConfigError> {
    parse(&read(file)?, file)
}

/// The text of a configuration file, if it is no longer than [`FILE_BYTES_MAX`] and UTF-8.
fn read(file: &Path) -> Result<String, ConfigError> {
    let unreadable = |error: std::io::Error| {
        ConfigError::whole_file(file, format!("cannot be read: {error}"), "a readable TOML file")
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = format!("is larger than {FILE_BYTES_MAX} bytes");
        return Err(ConfigError::whole_file(file, what, "a smaller file"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|c| **c == b'\n').count();
        let mistake = Mistake {
            line,
            field: "syntax".into(),
            what: "bytes that are no UTF-8".into(),
            accepted: "TOML 1.1 in UTF-8".into(),
        };
        ConfigError::new(file, vec![mistake])
    })
}

/// Checks a configuration given as text; `file` is named in mistakes and its directory is where relative paths start.
pub fn parse(text: &str, file: &Path) -> Result<Loaded, ConfigError> {
    check(text, file, raw::Positions::Shown)
}

fn check(text: &str, file: &Path, positions: raw::Positions) -> Result<Loaded, ConfigError> {
    let base = std::path::absolute(file).ok();
    let around = resolve::Surroundings {
        base: base.as_deref().and_then(Path::parent).unwrap_or(Path::new("/")),
        control_socket: default_control_socket(),
        cpu_count: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let (config, lines, mistakes) =
        raw::Reader::read(text, positions, |reader, root| resolve::config(reader, root, &around));
    if mistakes.is_empty() {
        Ok(Loaded { config, file: file.to_path_buf(), lines })
    } else {
        Err(ConfigError::new(file, mistakes))
    }
}

/// The control socket of a file that names none, and of a command line without `--socket`:
/// `/run/ringway/control.sock` for root, else `$XDG_RUNTIME_DIR/ringway/control.sock`.
pub fn default_control_socket() -> PathBuf {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute());
    match runtime_dir {
        Some(dir) if !rustix::process::geteuid().is_root() => Path::new(&dir).join("ringway/control.sock"),
        _ => PathBuf::from("/run/ringway/control.sock"),
    }
}
