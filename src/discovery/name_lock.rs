//! The right to announce one name in one directory: one process of a user at a time.
//!
//! Replacing a dead server's file is "look, then rename", and two servers may start at once. The kernel has no rename
//! on condition, and a lock on the old file will not do, because any reader of it could squat on it (see `sys.rs`).
//! So both lock a file that only their user can open: `.NAME.lock`, mode 0600, which exists only meanwhile.
//!
//! ```text
//!     open or create .NAME.lock      O_NOFOLLOW, 0600
//!     write-lock it                  held by another? wait a little, then give up
//!     is it still .NAME.lock?        no: its holder has just removed it; from the top
//!     ... the holder alone touches .NAME.new, and alone replaces a dead NAME.toml ...
//!     remove it, then close it       in this order, so that who waited for it sees it gone
//! ```
//!
//! A holder that is killed leaves the file behind unlocked, and the next one simply goes on with it. Another user's
//! processes take no part: a file of another user is never replaced.

use super::announce_error::{AnnounceError, Occupant, Step};
use super::candidate::kind;
use super::{ServerName, announcement::Directory};
use crate::sys;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, statat, unlinkat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for another process of the user. One that runs needs less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

/// The right to announce a name, given back on drop.
#[derive(Debug)]
pub(super) struct NameLock<'directory> {
    pub(super) directory: &'directory Directory,
    pub(super) name: ServerName,
    /// Holds the lock by being open.
    _file: OwnedFd,
}

impl<'directory> NameLock<'directory> {
    /// The name of the lock file.
    fn file_name(name: &ServerName) -> String {
        format!(".{name}.lock")
    }

    /// Takes the right to announce `name`; waits up to [`PATIENCE`] for it.
    pub(super) fn take(directory: &'directory Directory, name: &ServerName) -> Result<Self, AnnounceError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(lock) = Self::try_take(directory, name)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(AnnounceError::Busy {
                    path: directory.path_of(&Self::file_name(name)),
                });
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
    }

    /// Takes the right to announce `name` unless another process has it at this moment.
    pub(super) fn try_take(directory: &'directory Directory, name: &ServerName) -> Result<Option<Self>, AnnounceError> {
        let file_name = Self::file_name(name);
        let path = directory.path_of(&file_name);
        let file = open(directory, &file_name, &path)?;
        if !sys::try_write_lock(&file).map_err(|error| Step::LockName.failed(&path, error))? {
            return Ok(None);
        }
        let locked = fstat(&file).map_err(|errno| Step::LockName.failed(&path, errno))?;
        match statat(&directory.descriptor, &file_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino) => Ok(Some(Self {
                directory,
                name: name.clone(),
                _file: file,
            })),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Step::LockName.failed(&path, errno)),
        }
    }
}

fn open(directory: &Directory, file_name: &str, path: &Path) -> Result<OwnedFd, AnnounceError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let occupied = |by| AnnounceError::Occupied {
        path: path.to_owned(),
        by,
    };
    let file = match openat(&directory.descriptor, file_name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file,
        Err(Errno::LOOP) => return Err(occupied(Occupant::Symlink)),
        Err(Errno::ISDIR) => return Err(occupied(Occupant::NotRegular("a directory"))),
        Err(Errno::NXIO) => return Err(occupied(Occupant::NotRegular("a socket or a device"))),
        Err(errno) => return Err(Step::Create.failed(path, errno)),
    };
    let stat = fstat(&file).map_err(|errno| Step::LockName.failed(path, errno))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_uid == directory.user => Ok(file),
        FileType::RegularFile => Err(occupied(Occupant::Stranger(stat.st_uid))),
        other => Err(occupied(Occupant::NotRegular(kind(other)))),
    }
}

impl Drop for NameLock<'_> {
    fn drop(&mut self) {
        let _ = unlinkat(
            &self.directory.descriptor,
            Self::file_name(&self.name),
            AtFlags::empty(),
        );
    }
}
