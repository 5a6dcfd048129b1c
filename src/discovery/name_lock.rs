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
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

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

    /// Takes the right to announce `name`; waits up to `patience` for another process of the user to give it back.
    pub(super) fn take(
        directory: &'directory Directory,
        name: &ServerName,
        patience: Duration,
    ) -> Result<Self, AnnounceError> {
        let deadline = Instant::now() + patience;
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
        Self::lock(directory, name, open(directory, &Self::file_name(name))?)
    }

    /// Locks `file`, which was opened as the lock file of `name`, and makes sure that it still is.
    fn lock(directory: &'directory Directory, name: &ServerName, file: OwnedFd) -> Result<Option<Self>, AnnounceError> {
        let file_name = Self::file_name(name);
        let failed = |error: io::Error| Step::LockName.failed(&directory.path_of(&file_name), error);
        if !sys::try_write_lock(&file).map_err(failed)? {
            return Ok(None);
        }
        let locked = fstat(&file).map_err(|errno| failed(errno.into()))?;
        match statat(&directory.descriptor, &file_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino) => Ok(Some(Self {
                directory,
                name: name.clone(),
                _file: file,
            })),
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

fn open(directory: &Directory, file_name: &str) -> Result<OwnedFd, AnnounceError> {
    let path = directory.path_of(file_name);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let occupied = |by| AnnounceError::Occupied { path: path.clone(), by };
    let file = match openat(&directory.descriptor, file_name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => file,
        Err(Errno::LOOP) => return Err(occupied(Occupant::Symlink)),
        Err(Errno::ISDIR) => return Err(occupied(Occupant::NotRegular("a directory"))),
        Err(Errno::NXIO) => return Err(occupied(Occupant::NotRegular("a socket or a device"))),
        Err(errno) => return Err(Step::Create.failed(&path, errno)),
    };
    let stat = fstat(&file).map_err(|errno| Step::LockName.failed(&path, errno))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_right_at_a_time_and_leaves_no_file() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open_or_create(temporary.path()).unwrap();
        let name: ServerName = "a".parse().unwrap();

        let first = NameLock::try_take(&directory, &name).unwrap();
        assert!(first.is_some());
        assert!(NameLock::try_take(&directory, &name).unwrap().is_none());
        assert!(NameLock::try_take(&directory, &"b".parse().unwrap()).unwrap().is_some());

        drop(first);
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    fn lock_on_a_file_that_its_holder_has_removed_gives_no_right() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::open_or_create(temporary.path()).unwrap();
        let name: ServerName = "a".parse().unwrap();
        let open = || open(&directory, &NameLock::file_name(&name)).unwrap();

        let first = NameLock::try_take(&directory, &name).unwrap();
        let (late, later) = (open(), open());
        drop(first);

        assert!(NameLock::lock(&directory, &name, late).unwrap().is_none());
        let second = NameLock::try_take(&directory, &name).unwrap();
        assert!(second.is_some());
        assert!(NameLock::lock(&directory, &name, later).unwrap().is_none());
    }
}
