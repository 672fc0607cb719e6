//! The bearer token of the TCP listener: a file of its own, so that the configuration can be shown to everyone.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Shortest and longest token, in bytes.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=4096;
/// Permission bits of the file's group and of others.
const OTHERS: u32 = 0o077;

/// What is accepted as a token file.
pub const TOKEN_ACCEPTED: &str =
    "a file that only its owner may read (mode 0600), with one line of 16 to 4096 visible ASCII characters";

/// Reads a token file. What is checked is the file that is read, even if its name moves meanwhile. The error says what
/// is wrong, without the path and without a part of the token.
pub fn read_token(path: &Path) -> Result<String, String> {
    // Without O_NONBLOCK, a named pipe in this place would hold the program up.
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err("is no regular file".into());
    }
    if found.mode() & OTHERS != 0 {
        return Err(format!("has mode {:04o}: others than its owner may use it", found.mode() & 0o7777));
    }
    let mut bytes = Vec::new();
    // Two more than the longest: a line end, and one that shows that there is too much.
    let most = TOKEN_BYTES.end() + 2;
    file.take(most as u64).read_to_end(&mut bytes).map_err(unreadable)?;
    let token = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    if !TOKEN_BYTES.contains(&token.len()) {
        let (least, most) = TOKEN_BYTES.into_inner();
        return Err(format!("has a token that is not {least} to {most} bytes long"));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err("has a token with bytes that are no visible ASCII".into());
    }
    String::from_utf8(token.to_vec()).map_err(|_| "has a token that is no ASCII".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_token_is_read_only_from_a_private_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        let attempt = |content: &[u8], mode: u32| {
            std::fs::write(&path, content).expect("written");
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("permitted");
            read_token(&path)
        };
        assert_eq!(attempt(b"0123456789abcdef\n", 0o600).as_deref(), Ok("0123456789abcdef"));
        assert_eq!(attempt(&[b'x'; 4096], 0o400).map(|token| token.len()), Ok(4096));
        let wrong: [(&[u8], u32, &str); 7] = [
            (b"0123456789abcdef", 0o640, "mode 0640"),
            (b"0123456789abcdef", 0o604, "mode 0604"),
            (b"0123456789abcde\n", 0o600, "16 to 4096"),
            (&[b'x'; 4097], 0o600, "16 to 4096"),
            (b"0123456789 abcdef", 0o600, "visible ASCII"),
            (b"0123456789\nabcdef", 0o600, "visible ASCII"),
            ("0123456789abcdéf".as_bytes(), 0o600, "visible ASCII"),
        ];
        for (content, mode, says) in wrong {
            let what = attempt(content, mode).expect_err(says);
            assert!(what.contains(says), "{what}");
            assert!(!what.contains("0123456789"), "the token is told: {what}");
        }
        assert_eq!(read_token(directory.path()), Err("is no regular file".into()));
        assert!(read_token(&directory.path().join("absent")).expect_err("absent").contains("cannot be read"));
    }
}
