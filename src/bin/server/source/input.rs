//! Blocks of bytes from standard input or a file, each what one read(2) returned.
//!
//! Every read is preceded by a wait on the input and the signals together, so a signal ends the server also while a
//! terminal or a pipe has nothing to say. A block is handed on at once: what a person types is published when they press
//! enter, what a file holds comes in blocks large enough for one clock look and one wake to cost nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Stdin};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use lapwing::cli::{self, Failure};
use rustix::fs::OFlags;
use rustix::io::{Errno, read};

use crate::feed::{Feed, Interrupt};

/// Bytes of a block: large enough that what is done once for each costs nothing, small enough to stay in the cache
/// between the read and the copy into the ring.
pub const BLOCK_BYTES: usize = 64 << 10;

/// Where blocks come from.
#[derive(Debug)]
enum Origin {
    Stdin(Stdin),
    File(File),
}

/// An input that is read in blocks.
#[derive(Debug)]
pub struct Input {
    origin: Origin,
    /// What people call it.
    name: String,
    block: Box<[u8]>,
}

impl Input {
    /// Standard input.
    pub fn stdin() -> Self {
        Self::new(Origin::Stdin(io::stdin()), "standard input".to_owned())
    }

    /// The file at `path`; a FIFO or a device will do.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let file = open(path)?;
        let is_directory = file.metadata().is_ok_and(|metadata| metadata.is_dir());
        if is_directory {
            return Err(Failure::new(format!("{path:?} is a directory; give a file in it")));
        }
        Ok(Self::new(Origin::File(file), format!("{path:?}")))
    }

    fn new(origin: Origin, name: String) -> Self {
        cli::widen_pipe(origin.as_fd());
        Self {
            origin,
            name,
            block: vec![0; BLOCK_BYTES].into(),
        }
    }

    /// Closes it. Where standard input was, there is nothing to be read then.
    pub fn close(self) {
        if matches!(self.origin, Origin::Stdin(_)) {
            // If this fails, it stays open until the server has ended.
            let _ = File::open("/dev/null").map(rustix::stdio::dup2_stdin);
        }
    }

    /// The next block, or `None` at the end of the input. Waits as long as there is neither.
    pub fn next(&mut self, feed: &mut Feed) -> Result<Option<&[u8]>, Interrupt> {
        loop {
            feed.wait(Some(self.origin.as_fd()), None)?;
            match read(self.origin.as_fd(), &mut *self.block) {
                Ok(0) => return Ok(None),
                Ok(count) => return Ok(Some(&self.block[..count])),
                // Somebody else took it, or a signal came: the next wait tells.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(Failure::caused(format!("cannot read {}", self.name), error).into()),
            }
        }
    }
}

impl Origin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdin(stdin) => stdin.as_fd(),
            Self::File(file) => file.as_fd(),
        }
    }
}

/// Opens without waiting for the other end of a FIFO, and without making a terminal the controlling one.
pub fn open(path: &Path) -> Result<File, Failure> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(|error| Failure::caused(format!("cannot open {path:?}"), error))
}
