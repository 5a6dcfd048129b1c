//! The lines of a file that grows, across rotation.
//!
//! ```text
//!   the path names           then
//!   the same file, longer    read on
//!   the same file, shorter   it was cut (copytruncate): start again at its first byte
//!   another file             it was rotated: read the old one to its end, then the new one from its first byte
//!   nothing                  it is being rotated: read on in the old one until something is there
//! ```
//!
//! The kernel (inotify) says when to look; what is there decides. Where it says nothing, as on network file systems, the
//! clock does. What an unfinished last line holds is published when its file is cut or replaced, not before.

use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inotify::{Inotify, WatchMask};
use lapwing::cli::{Failure, one_line};
use log::{info, warn};
use rustix::io::{Errno, read};

use super::input::{BLOCK_BYTES, open};
use super::lines::LineSplitter;
use super::trouble::Trouble;
use super::{end_lines, publish_lines};
use crate::feed::{Feed, Interrupt};

/// How often to look although the kernel says nothing.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// The same where the kernel cannot be asked.
const BETWEEN_LOOKS_UNWATCHED: Duration = Duration::from_millis(100);

/// A file that is read as it grows.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    file: File,
    block: Box<[u8]>,
    watch: Option<Watch>,
    trouble: Trouble,
}

/// What the look at a file's end found.
#[derive(Debug)]
enum Found {
    Same,
    Cut,
    Another(File),
}

impl Follow {
    /// Opens the file at `path`, which must be a regular one.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let file = open_regular(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            block: vec![0; BLOCK_BYTES].into(),
            watch: Watch::new(path),
            trouble: Trouble::default(),
        })
    }

    /// Publishes what is there and what comes. Ends with a signal only.
    pub fn run(&mut self, feed: &mut Feed) -> Result<(), Interrupt> {
        let mut lines = LineSplitter::new(feed.max_message_bytes());
        loop {
            self.read_to_end(feed, &mut lines)?;
            match self.look()? {
                Found::Same => self.wait(feed)?,
                Found::Cut => {
                    info!("{:?} was cut: starting again at its beginning", self.path);
                    end_lines(feed, &mut lines)?;
                    self.file
                        .seek(SeekFrom::Start(0))
                        .map_err(|error| self.failed("read", error))?;
                }
                Found::Another(file) => {
                    info!("{:?} was replaced: going on with the new file", self.path);
                    // What was written to the old file until it was replaced.
                    self.read_to_end(feed, &mut lines)?;
                    end_lines(feed, &mut lines)?;
                    self.file = file;
                    if let Some(watch) = &mut self.watch {
                        watch.add_file(&self.path);
                    }
                }
            }
        }
    }

    fn read_to_end(&mut self, feed: &mut Feed, lines: &mut LineSplitter) -> Result<(), Interrupt> {
        loop {
            // A file can always be read: this looks for signals.
            feed.wait(Some(self.file.as_fd()), None)?;
            match read(&self.file, &mut *self.block) {
                Ok(0) => return Ok(()),
                Ok(count) => publish_lines(feed, lines, &self.block[..count])?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("read", error).into()),
            }
        }
    }

    /// Looks, at the end of the file, at what its path names now.
    fn look(&mut self) -> Result<Found, Failure> {
        let open = self.file.metadata().map_err(|error| self.failed("look at", error))?;
        let position = self
            .file
            .stream_position()
            .map_err(|error| self.failed("look at", error))?;
        let found = match self.path.metadata() {
            Ok(named) if identity(&named) != identity(&open) => open_regular(&self.path).map(Found::Another),
            Ok(_) if open.len() < position => Ok(Found::Cut),
            Ok(_) => Ok(Found::Same),
            Err(error) => Err(self.failed("look at", error)),
        };
        // Being replaced, or out of reach for now: the next look may find it.
        let reason = found.as_ref().err().map(|failure| one_line(failure));
        self.trouble.tell(&self.path, reason, Instant::now());
        Ok(found.unwrap_or(Found::Same))
    }

    fn wait(&mut self, feed: &mut Feed) -> Result<(), Interrupt> {
        let Some(watch) = &mut self.watch else {
            feed.wait(None, Some(Instant::now() + BETWEEN_LOOKS_UNWATCHED))?;
            return Ok(());
        };
        feed.wait(Some(watch.inotify.as_fd()), Some(Instant::now() + BETWEEN_LOOKS))?;
        watch.take();
        Ok(())
    }

    fn failed(&self, what: &str, error: impl Into<std::io::Error>) -> Failure {
        Failure::caused(format!("cannot {what} {:?}", self.path), error.into())
    }
}

/// The device and the inode: two names with the same are one file.
fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn open_regular(path: &Path) -> Result<File, Failure> {
    let file = open(path)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        Ok(file)
    } else {
        Err(Failure::new(format!(
            "{path:?} is not a regular file; only those can be followed as they grow"
        )))
    }
}

/// The kernel's word that something may have happened to a file.
#[derive(Debug)]
struct Watch {
    inotify: Inotify,
}

impl Watch {
    /// Watches the file at `path`, and its directory for another file of that name. `None` where that cannot be.
    fn new(path: &Path) -> Option<Self> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let watched = Inotify::init().and_then(|inotify| {
            inotify
                .watches()
                .add(directory, WatchMask::CREATE | WatchMask::MOVED_TO)?;
            Ok(inotify)
        });
        match watched {
            Ok(inotify) => {
                let mut watch = Self { inotify };
                watch.add_file(path);
                Some(watch)
            }
            Err(error) => {
                warn!("the kernel does not tell when {path:?} grows, so it is looked at ten times a second: {error}");
                None
            }
        }
    }

    /// Watches the file that `path` names now. The kernel forgets the one before when it is gone.
    fn add_file(&mut self, path: &Path) {
        let events = WatchMask::MODIFY | WatchMask::ATTRIB | WatchMask::MOVE_SELF;
        if let Err(error) = self.inotify.watches().add(path, events) {
            // It may be gone already: the directory tells of the next one, the clock of the rest.
            info!("cannot watch {path:?}: {error}");
        }
    }

    /// Takes the events that there are. What they say does not matter: what is there is looked at in any case.
    fn take(&mut self) {
        let mut events = [0; 4096];
        while self
            .inotify
            .read_events(&mut events)
            .is_ok_and(|events| events.count() > 0)
        {}
    }
}
