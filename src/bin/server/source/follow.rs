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
//! The path is also looked at while the file is read and while a lossless client holds up the stream, so that a file
//! which has that name only for a while is not lost (see `succession.rs`).
//!
//! The kernel (inotify) says when to look; what is there decides. Where it says nothing, as on network file systems, the
//! clock does. What an unfinished last line holds is published when its file is cut or replaced, not before.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use inotify::{Inotify, WatchMask};
use lapwing::cli::Failure;
use log::{info, warn};
use rustix::io::{Errno, read};

use super::input::BLOCK_BYTES;
use super::lines::LineSplitter;
use super::publish_line;
use super::succession::Succession;
use crate::feed::{Feed, Interrupt};

/// How often to look although the kernel says nothing.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// The same where the kernel cannot be asked.
const BETWEEN_LOOKS_UNWATCHED: Duration = Duration::from_millis(100);

/// A file that is read as it grows.
#[derive(Debug)]
pub struct Follow {
    succession: Succession,
    file: File,
    block: Box<[u8]>,
    watch: Option<Watch>,
}

impl Follow {
    /// Opens the file at `path`, which must be a regular one.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let (succession, file) = Succession::begin(path)?;
        Ok(Self {
            succession,
            file,
            block: vec![0; BLOCK_BYTES].into(),
            watch: Watch::new(path),
        })
    }

    /// Publishes what is there and what comes. Ends with a signal only.
    pub fn run(&mut self, feed: &mut Feed) -> Result<(), Interrupt> {
        let mut lines = LineSplitter::new(feed.max_message_bytes());
        loop {
            self.read_to_end(feed, &mut lines)?;
            self.succession.look();
            if let Some(next) = self.succession.next() {
                // What was written to the old file until it was replaced.
                self.read_to_end(feed, &mut lines)?;
                self.end_lines(feed, &mut lines)?;
                self.file = next;
                if let Some(watch) = &mut self.watch {
                    watch.add_file(self.succession.path());
                }
            } else if self.is_cut()? {
                info!("{:?} was cut: starting again at its beginning", self.succession.path());
                self.end_lines(feed, &mut lines)?;
                self.file
                    .seek(SeekFrom::Start(0))
                    .map_err(|error| self.failed("read", error))?;
            } else {
                self.wait(feed)?;
            }
        }
    }

    fn read_to_end(&mut self, feed: &mut Feed, lines: &mut LineSplitter) -> Result<(), Interrupt> {
        loop {
            // A file can always be read: this looks for signals.
            feed.wait(Some(self.file.as_fd()), None)?;
            match read(&self.file, &mut *self.block) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.succession.look();
                    let block = &self.block[..count];
                    feed.publish_meanwhile(&mut || self.succession.look(), |burst| {
                        lines.split(block, |line| publish_line(burst, &line));
                    })?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed("read", error).into()),
            }
        }
    }

    /// Publishes the last line, if it had no newline.
    fn end_lines(&mut self, feed: &mut Feed, lines: &mut LineSplitter) -> Result<(), Interrupt> {
        feed.publish_meanwhile(&mut || self.succession.look(), |burst| {
            lines.end(|line| publish_line(burst, &line));
        })
    }

    /// Whether the file is shorter than what was read of it.
    fn is_cut(&mut self) -> Result<bool, Failure> {
        let length = self.file.metadata().map(|metadata| metadata.len());
        let position = self.file.stream_position();
        let shorter = length.and_then(|length| Ok(length < position?));
        shorter.map_err(|error| self.failed("look at", error))
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
        Failure::caused(format!("cannot {what} {:?}", self.succession.path()), error.into())
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
