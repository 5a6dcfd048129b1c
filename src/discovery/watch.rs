//! Waits until something may have changed among the info files.
//!
//! The kernel (inotify) tells of changes in the directory, also when it was renamed or mounted elsewhere, but not on
//! overlay and network file systems where the other side made the change. So a `true` means "read again", and a
//! caller reads again now and then anyway, say every 2 s. Where inotify is not to be had, only that is left.
//!
//! The directory need not exist yet, and may go and come back: until it is there, it is looked for ten times a second.
//! One that is there is checked once a second for still being what the path means.

use super::directory::may_be_info_file;
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often to look for a directory that does not exist.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// How often to check that the directory being watched is still the one at the path.
const BETWEEN_CHECKS: Duration = Duration::from_secs(1);
/// Room for many events; one takes 16 bytes and its name, at most 272.
const BUFFER_BYTES: usize = 16 * 1024;
/// How many buffers to take at once: more than the kernel queues, so a storm of changes cannot hold us for ever.
const MOST_BUFFERS: usize = 512;

/// Watches one directory of info files, or one info file.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    /// `None` where inotify is not to be had.
    inotify: Option<Inotify>,
    armed: Option<Armed>,
    degraded: Option<io::Error>,
}

/// The directory that the kernel is watching for us.
#[derive(Debug)]
struct Armed {
    descriptor: WatchDescriptor,
    identity: (u64, u64),
    target: Target,
}

/// What to look at, worked out from what is at the path now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    directory: PathBuf,
    /// The one file that matters; `None` for every info file.
    file: Option<PathBuf>,
}

impl Watch {
    /// Starts watching `path`: a directory, one info file, or what does not exist yet and may become either.
    ///
    /// Make the watch first and [`list`](super::list) afterwards, so that no change falls between the two. Never
    /// fails: without inotify it degrades to time limits, see [`Watch::degraded`].
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let mut watch = Self {
            path: path.to_owned(),
            inotify: None,
            armed: None,
            degraded: None,
        };
        match Inotify::init() {
            Ok(inotify) => watch.inotify = Some(inotify),
            Err(error) => watch.degraded = Some(error),
        }
        watch.arm();
        watch
    }

    /// Why changes are not seen as they happen, if they are not: then [`Watch::wait`] only waits out its time, and the
    /// caller should read the directory again after each. `EMFILE` and `ENOSPC` say that the user has too many
    /// inotify instances or watches (`fs.inotify.max_user_instances`, `max_user_watches`).
    #[must_use]
    pub fn degraded(&self) -> Option<&io::Error> {
        self.degraded.as_ref()
    }

    /// A descriptor that becomes readable when [`Watch::wait`] should be called, for use with `poll` or `mio`.
    /// It stays the same for the life of the watch.
    ///
    /// It says nothing while the directory does not exist, so call `wait(Duration::ZERO)` now and then anyway. `None`
    /// where inotify is not to be had.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Waits until an info file may have appeared, changed or gone, for `timeout` at most. With `Duration::ZERO` it
    /// only looks. Says `false` after `timeout`, or earlier if a signal arrived.
    ///
    /// Any number of changes before the call make one `true`, and there may be one without a change.
    ///
    /// # Errors
    /// Those of `poll` and of reading from inotify; the watch stays usable.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if self.arm() | self.take_changes()? {
                return Ok(true);
            }
            let remaining = deadline.map_or(Duration::MAX, |deadline| deadline - Instant::now().min(deadline));
            if remaining.is_zero() {
                return Ok(false);
            }
            let missing = self.armed.is_none() && self.degraded.is_none();
            let slice = if missing { BETWEEN_LOOKS } else { BETWEEN_CHECKS };
            if !self.sleep(remaining.min(slice))? {
                return Ok(false);
            }
        }
    }

    /// Sleeps until the descriptor is readable or the time is over; `false` if a signal arrived.
    fn sleep(&self, time: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(time).ok();
        let descriptor = self.descriptor();
        let mut sources: Vec<PollFd<'_>> = descriptor
            .iter()
            .map(|source| PollFd::new(source, PollFlags::IN))
            .collect();
        match poll(&mut sources, limit.as_ref()) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes the kernel watch what is at the path now. `true` if that is something else than before.
    fn arm(&mut self) -> bool {
        let Some(inotify) = &mut self.inotify else { return false };
        let now = target(&self.path);
        if let (Some(armed), Some((target, identity))) = (&self.armed, &now)
            && armed.target == *target
            && armed.identity == *identity
        {
            return false;
        }
        let was_armed = self
            .armed
            .take()
            .map(|armed| inotify.watches().remove(armed.descriptor))
            .is_some();
        let Some((target, identity)) = now else {
            return was_armed;
        };
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        match inotify.watches().add(&target.directory, mask) {
            Ok(descriptor) => {
                self.degraded = None;
                self.armed = Some(Armed {
                    descriptor,
                    identity,
                    target,
                });
                true
            }
            // Gone between the two calls: it is looked for again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => was_armed,
            Err(error) => {
                self.degraded = Some(error);
                was_armed
            }
        }
    }

    /// Takes all that the kernel has reported. `true` if something among it matters.
    fn take_changes(&mut self) -> io::Result<bool> {
        let Some(inotify) = &mut self.inotify else {
            return Ok(false);
        };
        let mut buffer = [0; BUFFER_BYTES];
        let mut matters = false;
        for _ in 0..MOST_BUFFERS {
            let events = match inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(matters),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for event in events {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    matters = true;
                    continue;
                }
                let Some(armed) = &self.armed else { continue };
                if event.wd != armed.descriptor {
                    continue; // of a watch given up meanwhile
                }
                matters |= event.name.is_none_or(|name| armed.target.concerns(name));
                if event.mask.contains(EventMask::IGNORED) {
                    self.armed = None; // the kernel watches it no longer
                }
            }
        }
        Ok(matters)
    }
}

impl Target {
    /// Says whether a change of the directory's entry `name` matters.
    fn concerns(&self, name: &OsStr) -> bool {
        match &self.file {
            Some(file) => file == Path::new(name),
            None => may_be_info_file(name.as_bytes()),
        }
    }
}

/// The directory to watch for `path`, and its identity; `None` while there is none.
fn target(path: &Path) -> Option<(Target, (u64, u64))> {
    let name = path.file_name();
    let is_file = match path.metadata() {
        Ok(found) => !found.is_dir(),
        // One info file that is not there now.
        Err(_) => name.is_some_and(|name| may_be_info_file(name.as_bytes())),
    };
    let (directory, file) = if is_file {
        let parent = path
            .parent()
            .filter(|parent| *parent != Path::new(""))
            .unwrap_or(Path::new("."));
        (parent, Some(PathBuf::from(name?)))
    } else {
        (path, None)
    };
    let found = directory.metadata().ok().filter(std::fs::Metadata::is_dir)?;
    Some((
        Target {
            directory: directory.to_owned(),
            file,
        },
        (found.dev(), found.ino()),
    ))
}
