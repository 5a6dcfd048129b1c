//! A directory of info files, read as a whole: every server in it, and every entry that is not believed.

use super::Trust;
use super::entry::{Entry, EntryError, read, read_at};
use rustix::fs::{CWD, Dir, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The most entries of a directory that are looked at, whatever their names.
pub const MAX_ENTRIES: usize = 65_536;
const SUFFIX: &[u8] = b".toml";

/// Reads a directory of info files, or one info file, and gives what it found in the order of the servers' names.
///
/// Only entries that end in `.toml` and do not start with `.` count. One that cannot be believed is an
/// [`Entry::Problem`] and stops nothing. Never blocks on an entry. Each live server costs one open descriptor for as
/// long as its [`LockProbe`](super::LockProbe) lives.
///
/// # Errors
/// If there is no such path, or the directory itself cannot be read. See [`ListError`].
pub fn list(path: &Path, trust: &Trust) -> Result<Vec<Entry>, ListError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match openat(CWD, path, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOTDIR) => return one_file(path, trust),
        Err(errno) => return Err(ListError::new(path, errno)),
    };
    let owner = fstat(&directory).map_err(|errno| ListError::new(path, errno))?.st_uid;
    let mut names = info_file_names(&directory).map_err(|errno| match errno {
        Errno::OVERFLOW => ListError::TooMany { path: path.to_owned() },
        errno => ListError::new(path, errno),
    })?;
    names.sort_unstable_by(|a, b| stem(a).cmp(stem(b)));
    let entries = names.into_iter().filter_map(|name| {
        let path = path.join(&name);
        match read_at(&directory, owner, &name, path.clone(), trust) {
            Ok(found) => Some(Entry::Server(found)),
            // Removed since its name was read, as a server does that ends.
            Err(EntryError::Missing) => None,
            Err(reason) => Some(Entry::Problem { path, reason }),
        }
    });
    Ok(entries.collect())
}

fn one_file(path: &Path, trust: &Trust) -> Result<Vec<Entry>, ListError> {
    match read(path, trust) {
        Ok(found) => Ok(vec![Entry::Server(found)]),
        Err(EntryError::Missing) => Err(ListError::Missing { path: path.to_owned() }),
        Err(reason) => Ok(vec![Entry::Problem {
            path: path.to_owned(),
            reason,
        }]),
    }
}

/// The names in `directory` that an info file may have. `OVERFLOW` says that it has more entries than are looked at.
fn info_file_names(directory: impl AsFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for (index, entry) in Dir::read_from(directory)?.enumerate() {
        if index == MAX_ENTRIES {
            return Err(Errno::OVERFLOW);
        }
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if may_be_info_file(name) {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// The part of such a name that is the server's.
fn stem(name: &OsStr) -> &[u8] {
    name.as_bytes().strip_suffix(SUFFIX).unwrap_or_default()
}

/// Says whether a file of this name is looked at: not hidden, and ending in `.toml`.
pub(super) fn may_be_info_file(name: &[u8]) -> bool {
    name.ends_with(SUFFIX) && !name.starts_with(b".")
}

/// Why a directory could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListError {
    /// There is nothing at that path.
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// It has more than [`MAX_ENTRIES`] entries.
    TooMany {
        /// The path.
        path: PathBuf,
    },
    /// It could not be opened or read.
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ListError {
    fn new(path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::NOENT => Self::Missing { path },
            errno => Self::Io {
                path,
                source: errno.into(),
            },
        }
    }
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } if path.extension().is_some_and(|extension| extension == "toml") => {
                write!(f, "there is no {path:?}; start its server, or check the path")
            }
            Self::Missing { path } => {
                write!(
                    f,
                    "there is no {path:?}; start a server with --info-dir {path:?}, or check the path"
                )
            }
            Self::TooMany { path } => {
                write!(
                    f,
                    "{path:?} has more than {MAX_ENTRIES} entries; give servers a directory of their own"
                )
            }
            Self::Io { path, .. } => write!(f, "cannot read {path:?}; check its permissions"),
        }
    }
}

impl std::error::Error for ListError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
