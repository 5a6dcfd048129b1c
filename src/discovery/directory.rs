//! A directory of info files, read as a whole: every server in it, and every entry that is not believed.

use super::entry::{Entry, EntryError, open_directory, parent, read, read_at};
use super::{ServerName, Trust};
use crate::incarnation::Incarnation;
use rustix::fs::{Dir, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
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
/// [`Entry::Problem`] and stops nothing; nor does a directory in which others may rename files, which is the first
/// problem then. Never blocks on an entry. Each live server costs one open descriptor for as long as its
/// [`LockProbe`](super::LockProbe) lives.
///
/// # Errors
/// If there is no such path, or the directory itself cannot be read. See [`ListError`].
pub fn list(path: &Path, trust: &Trust) -> Result<Vec<Entry>, ListError> {
    let (directory, stat) = match open_directory(path) {
        Ok(opened) => opened,
        Err(Errno::NOTDIR) => return one_file(path, trust),
        Err(errno) => return Err(ListError::new(path, errno)),
    };
    let mut names = info_file_names(&directory).map_err(|errno| match errno {
        Errno::OVERFLOW => ListError::TooMany { path: path.to_owned() },
        errno => ListError::new(path, errno),
    })?;
    names.sort_unstable_by(|a, b| stem(a).cmp(stem(b)));
    let mut entries: Vec<Entry> = open_to_others(path, &stat, trust).into_iter().collect();
    entries.extend(names.into_iter().filter_map(|name| {
        let path = path.join(&name);
        match read_at(&directory, stat.st_uid, &name, path.clone(), trust) {
            Ok(found) => Some(Entry::Server(found)),
            // Removed since its name was read, as a server does that ends.
            Err(EntryError::Missing) => None,
            Err(reason) => Some(Entry::Problem { path, reason }),
        }
    }));
    tell_copies(&mut entries);
    Ok(entries)
}

fn one_file(path: &Path, trust: &Trust) -> Result<Vec<Entry>, ListError> {
    let directory = parent(path);
    let (_, stat) = open_directory(directory).map_err(|errno| ListError::new(path, errno))?;
    let entry = match read(path, trust) {
        Ok(found) => Entry::Server(found),
        Err(EntryError::Missing) => return Err(ListError::Missing { path: path.to_owned() }),
        Err(reason) => Entry::Problem {
            path: path.to_owned(),
            reason,
        },
    };
    Ok(open_to_others(directory, &stat, trust)
        .into_iter()
        .chain([entry])
        .collect())
}

/// The problem of a directory in which others than its owner may rename and remove files, unless that is accepted. With
/// the sticky bit they may not touch what is not theirs.
fn open_to_others(path: &Path, stat: &Stat, trust: &Trust) -> Option<Entry> {
    let mode = stat.st_mode & 0o7777;
    (mode & 0o022 != 0 && mode & 0o1000 == 0 && !trust.believes_writable()).then(|| Entry::Problem {
        path: path.to_owned(),
        reason: EntryError::WritableDirectory { mode },
    })
}

/// A life of a server has one info file: the one that is locked, or the first if none is. Others that name it are copies.
fn tell_copies(entries: &mut [Entry]) {
    let mut originals: HashMap<Incarnation, (ServerName, bool)> = HashMap::new();
    let mut copies = false;
    for found in entries.iter().filter_map(Entry::server) {
        let is_locked = || found.lock.is_held().unwrap_or(false);
        match originals.entry(found.info.incarnation) {
            Slot::Vacant(slot) => drop(slot.insert((found.info.name.clone(), is_locked()))),
            Slot::Occupied(mut slot) => {
                copies = true;
                if !slot.get().1 && is_locked() {
                    slot.insert((found.info.name.clone(), true));
                }
            }
        }
    }
    if !copies {
        return;
    }
    for entry in entries {
        let Some(found) = entry.server() else { continue };
        let (of, _) = &originals[&found.info.incarnation];
        if *of != found.info.name {
            let (path, of) = (found.path.clone(), of.clone());
            let reason = EntryError::Copy { of };
            *entry = Entry::Problem { path, reason };
        }
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
            Self::Io { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                write!(f, "cannot read {path:?}; check its permissions")
            }
            Self::Io { path, .. } => write!(f, "cannot read {path:?}"),
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
