//! One entry of an info directory: a server that announced itself, or the reason why the entry is not believed.

use super::candidate::{Candidate, Refusal};
use super::users::uid_of_outsiders;
use super::{Info, InfoError, ServerName, Trust};
use crate::sys;
use rustix::fs::{CWD, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One entry of an info directory.
#[derive(Debug)]
pub enum Entry {
    /// An info file that can be believed. Its server may be dead.
    Server(Found),
    /// An entry that ends in `.toml` and cannot be believed.
    Problem {
        /// Where it is. May hold any byte that a file name may: print it with `{:?}`.
        path: PathBuf,
        /// Why it is not believed.
        reason: EntryError,
    },
}

impl Entry {
    /// The server, if it is one.
    pub(super) const fn server(&self) -> Option<&Found> {
        match self {
            Self::Server(found) => Some(found),
            Self::Problem { .. } => None,
        }
    }
}

/// An info file that can be believed, and the lock by which to tell whether its server lives.
#[derive(Debug)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub info: Info,
    /// The user who owns the file, as the kernel says in this user namespace. The creator of the segment must be the same.
    pub owner_uid: u32,
    /// Bytes of the largest ring that is attached for it, as [`Trust`] says.
    pub attach_limit: u64,
    /// The lock that the server holds while it lives.
    pub lock: LockProbe,
}

/// Tells whether the server that wrote an info file still holds its lock on it.
///
/// Keeps the file open while there is a lock to watch, so it goes on telling the truth about *that* server after the
/// file was removed or replaced. A lock that is free stays free: no server ever locks an old file.
///
/// On an overlay file system the lock of a server on the other side is not visible. So "not held" means suspect, and
/// a heartbeat that stands still confirms it; "held" cannot be faked by anyone who may not write the file.
#[derive(Debug)]
pub struct LockProbe {
    /// `None` once the lock was seen free.
    file: Option<File>,
}

impl LockProbe {
    fn new(file: File) -> Self {
        let free = matches!(sys::write_lock_is_held(&file), Ok(false));
        Self {
            file: (!free).then_some(file),
        }
    }

    /// Another probe of the same lock.
    ///
    /// # Errors
    /// When the caller has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let file = self.file.as_ref().map(File::try_clone).transpose()?;
        Ok(Self { file })
    }

    /// Says whether the lock is held now. One system call, below 1 us.
    ///
    /// # Errors
    /// `ENOLCK`, `EOPNOTSUPP` or `EINVAL` where the file system or the kernel has no such locks.
    pub fn is_held(&self) -> io::Result<bool> {
        match &self.file {
            Some(file) => sys::write_lock_is_held(file),
            None => Ok(false),
        }
    }
}

/// Reads one info file. Never blocks, and reads at most [`Info::MAX_BYTES`].
///
/// The path may lead through symbolic links, but the file itself must not be one.
///
/// # Errors
/// See [`EntryError`].
pub fn read(path: &Path, trust: &Trust) -> Result<Found, EntryError> {
    let name = path.file_name().ok_or(EntryError::FileName)?;
    let (directory, stat) =
        open_directory(parent(path)).map_err(|errno| EntryError::from(Refusal::from_errno(errno)))?;
    read_at(directory, stat.st_uid, name, path.to_owned(), trust)
}

/// The directory that `path` names something in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| *parent != Path::new(""))
        .unwrap_or(Path::new("."))
}

/// Opens a directory for reading, with what the kernel says of it.
pub(super) fn open_directory(path: &Path) -> Result<(OwnedFd, Stat), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty())?;
    let stat = fstat(&directory)?;
    Ok((directory, stat))
}

/// Reads the info file `name` (one component) of `directory`, which belongs to `directory_owner`.
pub(super) fn read_at(
    directory: impl AsFd,
    directory_owner: u32,
    name: &OsStr,
    path: PathBuf,
    trust: &Trust,
) -> Result<Found, EntryError> {
    let stem: ServerName = name
        .to_str()
        .and_then(|name| name.strip_suffix(".toml"))
        .and_then(|stem| stem.parse().ok())
        .ok_or(EntryError::FileName)?;
    let candidate = Candidate::open(directory, Path::new(name))?;
    let owner_uid = check(&candidate, directory_owner, trust)?;
    let bytes = candidate.read().map_err(EntryError::Io)?;
    if bytes.len() > Info::MAX_BYTES {
        return Err(EntryError::TooLarge {
            bytes: bytes.len() as u64,
        });
    }
    let text = str::from_utf8(&bytes).map_err(|error| EntryError::NotUtf8 {
        offset: error.valid_up_to(),
    })?;
    let info = Info::parse(text).map_err(EntryError::Info)?;
    if info.name != stem {
        return Err(EntryError::OtherName { name: info.name });
    }
    Ok(Found {
        path,
        info,
        owner_uid,
        attach_limit: trust.attach_limit(),
        lock: LockProbe::new(candidate.file),
    })
}

/// Decides by what the kernel says of the open file whether to read it at all; gives its owner.
fn check(candidate: &Candidate, directory_owner: u32, trust: &Trust) -> Result<u32, EntryError> {
    let Candidate { metadata, .. } = candidate;
    let uid = metadata.uid();
    let outsiders = uid_of_outsiders();
    if !trust.believes(uid, directory_owner, outsiders) {
        return Err(if outsiders == Some(uid) {
            EntryError::Outsider { uid }
        } else {
            EntryError::Stranger { uid }
        });
    }
    if metadata.mode() & 0o022 != 0 && !trust.believes_writable() {
        return Err(EntryError::Writable {
            mode: metadata.mode() & 0o7777,
        });
    }
    if metadata.nlink() > 1 {
        return Err(EntryError::HardLinked {
            links: metadata.nlink(),
        });
    }
    if metadata.len() > Info::MAX_BYTES as u64 {
        return Err(EntryError::TooLarge { bytes: metadata.len() });
    }
    Ok(uid)
}

/// Why an entry is not believed.
#[derive(Debug)]
#[non_exhaustive]
pub enum EntryError {
    /// The file is not called `NAME.toml` with a server's name.
    FileName,
    /// There is no such file, or no longer.
    Missing,
    /// It is a symbolic link.
    Symlink,
    /// It is a directory, a FIFO, a socket or a device.
    NotRegular {
        /// Which of them.
        kind: &'static str,
    },
    /// It has several names.
    HardLinked {
        /// How many.
        links: u64,
    },
    /// It has more bytes than an info file may have.
    TooLarge {
        /// How many.
        bytes: u64,
    },
    /// It belongs to a user who is not trusted.
    Stranger {
        /// That user.
        uid: u32,
    },
    /// It belongs to a user outside this user namespace. All of those have one id in here and cannot be told apart.
    Outsider {
        /// That id.
        uid: u32,
    },
    /// Others than its owner may write it.
    Writable {
        /// Its permissions.
        mode: u32,
    },
    /// It is the directory itself: others than its owner may rename and remove files in it. What it holds is believed
    /// all the same.
    WritableDirectory {
        /// Its permissions.
        mode: u32,
    },
    /// It names the same life of a server as another entry, which is the one that the server wrote.
    Copy {
        /// The name of that entry's server.
        of: ServerName,
    },
    /// The caller may not read it.
    Denied,
    /// The caller has no descriptor left.
    TooManyOpenFiles,
    /// It is not text.
    NotUtf8 {
        /// The first byte that is not.
        offset: usize,
    },
    /// Its text is no info file.
    Info(InfoError),
    /// It names another server than its file name does.
    OtherName {
        /// The server it names.
        name: ServerName,
    },
    /// Reading failed in another way.
    Io(io::Error),
}

impl From<Refusal> for EntryError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing => Self::Missing,
            Refusal::Symlink => Self::Symlink,
            Refusal::NotRegular(kind) => Self::NotRegular { kind },
            Refusal::Denied => Self::Denied,
            Refusal::TooManyOpenFiles => Self::TooManyOpenFiles,
            Refusal::Io(error) => Self::Io(error),
        }
    }
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileName => f.write_str(
                "not the info file of a server, which is called NAME.toml with a name of A-Z a-z 0-9 . _ - (at most 64)",
            ),
            Self::Missing => f.write_str("no such file; start its server, or check the path"),
            Self::Symlink => f.write_str("a symbolic link, which is never followed; name the file it points to"),
            Self::NotRegular { kind } => write!(f, "{kind}, not a file; remove it from the directory"),
            Self::HardLinked { links } => write!(f, "has {links} names (hard links), may have one; remove the others"),
            Self::TooLarge { bytes } => {
                write!(
                    f,
                    "has {bytes} bytes or more, an info file has {} at most; remove it",
                    Info::MAX_BYTES
                )
            }
            Self::Stranger { uid } => {
                write!(
                    f,
                    "belongs to user {uid}, who is not trusted; trust that user, or remove it"
                )
            }
            Self::Outsider { uid } => {
                write!(
                    f,
                    "belongs to a user outside this user namespace, in which they all are user {uid} and cannot be told \
                     apart; --trust-uid {uid} trusts all of them"
                )
            }
            Self::Writable { mode } => {
                write!(
                    f,
                    "others than its owner may write it (mode {mode:04o}); chmod go-w it once you trust what it says"
                )
            }
            Self::WritableDirectory { mode } => {
                write!(
                    f,
                    "others than its owner may rename and remove info files in this directory (mode {mode:04o}); \
                     chmod go-w or +t it, or accept that with --trust-writable"
                )
            }
            Self::Copy { of } => {
                write!(f, "a copy of {}, which its server wrote; remove it", of.file_name())
            }
            Self::Denied => {
                f.write_str("no permission to read it; run as its owner, or start its server with a wider mode")
            }
            Self::TooManyOpenFiles => f.write_str("too many open files; raise the limit (ulimit -n)"),
            Self::NotUtf8 { offset } => write!(f, "not text from byte {offset} on; remove it"),
            Self::Info(InfoError::Format { .. }) => f.write_str("an info file that this program cannot use"),
            Self::Info(_) => f.write_str("not a usable info file; remove it, or restart its server"),
            Self::OtherName { name } => {
                write!(
                    f,
                    "names the server \"{name}\"; rename it to {}, or remove it",
                    name.file_name()
                )
            }
            Self::Io(_) => f.write_str("cannot be read"),
        }
    }
}

impl std::error::Error for EntryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Info(error) => Some(error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}
