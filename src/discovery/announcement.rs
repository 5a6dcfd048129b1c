//! A server's info file, from its first byte until the server ends.
//!
//! It appears complete and locked (`draft.rs` makes it), stays locked for as long as the server lives, and is removed
//! when the server ends. If somebody removes it before, it is made again (`presence.rs` sees to that). Killed at any
//! point, a server leaves at worst a dead `NAME.toml`, `.NAME.new` and `.NAME.lock`. The first is taken over by the next
//! server of that name, the others are removed by the next server of that user that announces itself in the directory.

use super::announce_error::{AnnounceError, Step};
use super::name_lock::NameLock;
use super::{Info, ServerName, draft};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatxFlags, fstat, mkdirat, openat, statat, statx, unlinkat,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait for another process of the user that is announcing the same name. One that runs needs less than a
/// millisecond.
const PATIENCE: Duration = Duration::from_secs(2);

/// A server's info file. While it exists, clients find the server and see that it lives; drop removes it.
///
/// The lock on it belongs to its open file. A child that this process *forks* without `exec` shares it, and keeps the
/// server looking alive for as long as the child runs; programs started in the ordinary way do not get it.
#[derive(Debug)]
pub struct Announcement {
    directory: Directory,
    name: ServerName,
    text: String,
    mode: u32,
    /// Holds the lock by being open.
    file: File,
    /// Where the directory is to be found, also after a change of the working directory; `None` where that is unknown.
    place: Option<PathBuf>,
    /// Files that were removed, the newest last. Who has one open sees by its lock that the server lives.
    lost: Vec<File>,
    removed: bool,
}

/// How many removed files stay locked: not so many that who removes them uses up this server's descriptors.
const MOST_LOST: usize = 8;

/// An info directory, open.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) descriptor: OwnedFd,
    path: PathBuf,
    /// The effective user, who owns what is created here.
    pub(super) user: u32,
}

impl Announcement {
    /// Announces the server that `info` describes in `directory`, which is created (mode 0755) if its parent exists.
    ///
    /// `mode` is that of the info file, at most `0755`: who may read it may find the server. A name left by a dead
    /// server of the same user is taken over; of several servers that want one name, exactly one gets it.
    /// Waits up to 2 s for another process that is announcing the same name at this moment.
    ///
    /// # Errors
    /// See [`AnnounceError`].
    pub fn publish(directory: &Path, info: &Info, mode: u32) -> Result<Self, AnnounceError> {
        let text = info.to_toml();
        Info::parse(&text).map_err(AnnounceError::Info)?;
        if mode & !0o755 != 0 {
            return Err(AnnounceError::Mode { mode });
        }
        let place = std::path::absolute(directory).ok();
        let directory = Directory::open_or_create(directory)?;
        directory.sweep(&info.name);
        let right = NameLock::take(&directory, &info.name, PATIENCE)?;
        let file = draft::create_and_rename(&right, &text, mode)?;
        drop(right);
        Ok(Self {
            directory,
            name: info.name.clone(),
            text,
            mode,
            file,
            place,
            lost: Vec::new(),
            removed: false,
        })
    }

    /// Whether the info file has no name any more: somebody removed it, or put another in its place. Takes the word of this
    /// machine for it, and asks no file server, which may not answer.
    pub(super) fn is_lost(&self) -> bool {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        statx(&self.file, "", flags, StatxFlags::NLINK).is_ok_and(|stat| stat.stx_nlink == 0)
    }

    /// Announces the same server once more, in the directory that is now where the first one was. That is not created:
    /// whoever removed it may have meant it. Waits for nobody.
    pub(super) fn renew(&mut self) -> Result<(), AnnounceError> {
        let given = &self.directory.path;
        let directory = Directory::open(self.place.as_ref().unwrap_or(given), given)?;
        let right = NameLock::take(&directory, &self.name, Duration::ZERO)?;
        let file = draft::create_and_rename(&right, &self.text, self.mode)?;
        drop(right);
        if self.lost.len() == MOST_LOST {
            self.lost.remove(0);
        }
        self.lost.push(std::mem::replace(&mut self.file, file));
        self.directory = directory;
        Ok(())
    }

    /// The path of the info file, under the directory as it was given.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path_of(&self.name.file_name())
    }

    /// Removes the info file, and says if that failed. A file that is gone or that another has replaced is none of
    /// ours and counts as removed.
    ///
    /// # Errors
    /// Those of `unlink`.
    pub fn remove(mut self) -> io::Result<()> {
        self.removed = true;
        self.remove_if_ours()
    }

    /// Between the check and the removal nobody replaces the file: we hold its lock.
    fn remove_if_ours(&self) -> io::Result<()> {
        let file_name = self.name.file_name();
        match statat(&self.directory.descriptor, &file_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if is_same_file(&named, &fstat(&self.file)?) => {
                Ok(unlinkat(&self.directory.descriptor, &file_name, AtFlags::empty())?)
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        if let Err(error) = self.remove_if_ours() {
            log::warn!("cannot remove the info file {:?}: {error}", self.path());
        }
    }
}

fn is_same_file(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

impl Directory {
    pub(super) fn open_or_create(path: &Path) -> Result<Self, AnnounceError> {
        match Self::open(path, path) {
            Err(AnnounceError::MissingDirectory { .. }) => {}
            opened => return opened,
        }
        match mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Self::open(path, path),
            Err(Errno::NOENT) => Err(AnnounceError::MissingParent { path: path.to_owned() }),
            Err(Errno::NOTDIR) => Err(AnnounceError::NotADirectory { path: path.to_owned() }),
            Err(errno) => Err(Step::CreateDirectory.failed(path, errno)),
        }
    }

    /// Opens the directory at `place`, which is called `path`.
    fn open(place: &Path, path: &Path) -> Result<Self, AnnounceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, place, flags, Mode::empty());
        let descriptor = opened.map_err(|errno| match errno {
            Errno::NOENT => AnnounceError::MissingDirectory { path: path.to_owned() },
            Errno::NOTDIR => AnnounceError::NotADirectory { path: path.to_owned() },
            errno => Step::OpenDirectory.failed(path, errno),
        })?;
        Ok(Self {
            descriptor,
            path: path.to_owned(),
            user: rustix::process::geteuid().as_raw(),
        })
    }

    pub(super) fn path_of(&self, file_name: &str) -> PathBuf {
        self.path.join(file_name)
    }

    /// Removes what killed servers of this user left behind while they announced themselves, but for `own`, whose
    /// leftovers `draft.rs` deals with. A leftover that cannot be removed harms nobody and is let be.
    fn sweep(&self, own: &ServerName) {
        let leftovers = self.unfinished().unwrap_or_default();
        for name in leftovers.iter().filter(|&name| name != own) {
            // Who holds the right to a name knows that nobody else is working on its files.
            if let Ok(Some(right)) = NameLock::try_take(self, name) {
                let removed = unlinkat(&self.descriptor, draft::file_name(name), AtFlags::empty());
                drop(right);
                log::debug!("found leftovers of the server {name} in {:?}: {removed:?}", self.path);
            }
        }
    }

    /// The names that somebody of this user is announcing, or was killed while announcing.
    fn unfinished(&self) -> Result<BTreeSet<ServerName>, Errno> {
        let mut names = BTreeSet::new();
        for entry in Dir::read_from(&self.descriptor)?.take(super::MAX_ENTRIES) {
            let entry = entry?;
            let Ok(file_name) = entry.file_name().to_str() else {
                continue;
            };
            let Some(name) = name_of_unfinished(file_name) else {
                continue;
            };
            let stat = statat(&self.descriptor, file_name, AtFlags::SYMLINK_NOFOLLOW);
            if stat.is_ok_and(|stat| {
                stat.st_uid == self.user && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            }) {
                names.insert(name);
            }
        }
        Ok(names)
    }
}

fn name_of_unfinished(file_name: &str) -> Option<ServerName> {
    let hidden = file_name.strip_prefix('.')?;
    let name = hidden.strip_suffix(".new").or_else(|| hidden.strip_suffix(".lock"))?;
    name.parse().ok()
}
