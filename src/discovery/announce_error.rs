//! Why a server could not be announced, and what to do about it.

use super::{InfoError, ServerName};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a server could not be announced.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnnounceError {
    /// A live server has that name in that directory.
    NameInUse {
        /// The name.
        name: ServerName,
        /// What its info file gives as its process id.
        pid: Option<u32>,
    },
    /// Another process has been announcing that name for seconds now. It may be stopped.
    Busy {
        /// The lock file that it holds.
        path: PathBuf,
    },
    /// Something else than a dead server's info file is in the way.
    Occupied {
        /// Where.
        path: PathBuf,
        /// What it is.
        by: Occupant,
    },
    /// No client could use the info.
    Info(InfoError),
    /// The mode has more bits than `0755`, so no client would believe the file.
    Mode {
        /// The mode.
        mode: u32,
    },
    /// The directory does not exist, and neither does the one it would be created in.
    MissingParent {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is gone.
    MissingDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is something else.
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Permission is missing.
    Denied {
        /// What could not be done.
        step: Step,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file system is read-only.
    ReadOnly {
        /// Where.
        path: PathBuf,
    },
    /// The file system, or the quota on it, is full.
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file system or the kernel has no OFD locks, so no client could tell a live server from a dead one.
    NoLocks {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A step failed in another way.
    Io {
        /// What could not be done.
        step: Step,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What lies where a server's files belong, and is not removed by the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Occupant {
    /// A symbolic link.
    Symlink,
    /// A directory, a FIFO, a socket or a device.
    NotRegular(&'static str),
    /// A file of this other user.
    Stranger(u32),
    /// A file that no server wrote.
    NotAnInfoFile,
}

/// The steps of announcing a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Creating the directory.
    CreateDirectory,
    /// Opening the directory.
    OpenDirectory,
    /// Locking the name, so that one process at a time announces it.
    LockName,
    /// Looking at the file that has the name already.
    ReadOld,
    /// Creating the new file.
    Create,
    /// Writing the new file.
    Write,
    /// Locking the new file.
    Lock,
    /// Giving the new file its name.
    Rename,
}

impl Step {
    /// The error for this step having failed at `path`.
    pub(super) fn failed(self, path: &Path, error: impl Into<io::Error>) -> AnnounceError {
        let (step, path, source) = (self, path.to_owned(), error.into());
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOLCK | Errno::OPNOTSUPP | Errno::INVAL) if matches!(step, Self::Lock | Self::LockName) => {
                AnnounceError::NoLocks { path, source }
            }
            Some(Errno::ACCESS | Errno::PERM) => AnnounceError::Denied { step, path, source },
            Some(Errno::ROFS) => AnnounceError::ReadOnly { path },
            Some(Errno::NOSPC | Errno::DQUOT) => AnnounceError::NoSpace { path, source },
            _ => AnnounceError::Io { step, path, source },
        }
    }
}

impl fmt::Display for AnnounceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameInUse { name, pid } => {
                write!(f, "the name \"{name}\" is in use by a live server")?;
                if let Some(pid) = pid {
                    write!(f, " (pid {pid})")?;
                }
                f.write_str("; stop it or take another name")
            }
            Self::Busy { path } => {
                write!(
                    f,
                    "another process is announcing the same name and does not get on; end the one holding {path:?}"
                )
            }
            Self::Occupied { path, by } => {
                write!(f, "{path:?} {by}; move it away, or take another name or directory")
            }
            Self::Info(_) => f.write_str("no client could use this info"),
            Self::Mode { mode } => {
                write!(
                    f,
                    "mode {mode:04o} is not possible for an info file; only its owner may write it, so use 0644 or less"
                )
            }
            Self::MissingParent { path } => write!(f, "cannot create {path:?}; create its parent directory first"),
            Self::MissingDirectory { path } => write!(f, "the directory {path:?} is gone; make it again"),
            Self::NotADirectory { path } => write!(f, "{path:?} is not a directory; remove it or give another path"),
            Self::Denied { step, path, .. } => {
                write!(
                    f,
                    "no permission to {step} {path:?}; give this user write access, or use another directory"
                )
            }
            Self::ReadOnly { path } => write!(f, "{path:?} is on a read-only file system; use another directory"),
            Self::NoSpace { path, .. } => {
                write!(
                    f,
                    "no space left to write {path:?}; free some, or use another directory"
                )
            }
            Self::NoLocks { path, .. } => write!(
                f,
                "cannot lock {path:?}, so nobody could tell a live server from a dead one; \
                 use a directory on a local file system, like /run or /tmp"
            ),
            Self::Io { step, path, .. } => write!(f, "cannot {step} {path:?}"),
        }
    }
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symlink => f.write_str("is a symbolic link"),
            Self::NotRegular(kind) => write!(f, "is {kind}"),
            Self::Stranger(uid) => write!(f, "belongs to user {uid}"),
            Self::NotAnInfoFile => f.write_str("is not an info file"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateDirectory => "create the directory",
            Self::OpenDirectory => "open the directory",
            Self::LockName | Self::Lock => "lock",
            Self::ReadOld => "read",
            Self::Create => "create",
            Self::Write => "write",
            Self::Rename => "rename a file to",
        })
    }
}

impl std::error::Error for AnnounceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Info(error) => Some(error),
            Self::Denied { source, .. }
            | Self::NoSpace { source, .. }
            | Self::NoLocks { source, .. }
            | Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
