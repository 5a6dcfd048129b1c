//! The right to make or replace the socket at one path: one process of a user at a time.
//!
//! A socket that is bound and does not listen yet refuses connections, as one does whose server was killed. So whoever
//! binds, or takes a socket for a dead one and removes it, holds the lock of a file beside it meanwhile:
//!
//! ```text
//!     open or create .NAME.listen    O_NOFOLLOW, 0600
//!     lock it                        held by another? wait a little, then give up
//!     is it still .NAME.listen?      no: its holder has just removed it; from the top
//!     ... the holder alone looks whether somebody listens, removes, binds and listens ...
//!     remove it, then close it       in this order, so that who waited for it sees it gone
//! ```
//!
//! A holder that is killed leaves the file behind unlocked, and the next one goes on with it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// How long to wait for another process of the user. One that runs needs less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

/// The right to make or replace a socket, given back on drop.
#[derive(Debug)]
pub struct PathLock {
    /// The lock file.
    path: PathBuf,
    /// Holds the lock by being open.
    _file: File,
}

impl PathLock {
    /// Takes the right to the socket at `path`; waits up to [`PATIENCE`] for it.
    pub fn take(path: &Path) -> io::Result<Self> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "that path names no file"))?;
        let lock_name = [".".as_ref(), name, ".listen".as_ref()]
            .into_iter()
            .collect::<OsString>();
        let path = path.with_file_name(lock_name);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(lock) = Self::try_take(&path)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                let reason = format!("another process is at it and holds the lock on {path:?}");
                return Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
            }
            sleep(BETWEEN_TRIES);
        }
    }

    /// Locks the file at `path`, unless another process has it at this moment.
    fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags.bits() as i32)
            .open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let locked = file.metadata()?;
        let is_still_there =
            fs::symlink_metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino()));
        Ok(is_still_there.then(|| Self {
            path: path.to_owned(),
            _file: file,
        }))
    }
}

impl Drop for PathLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
