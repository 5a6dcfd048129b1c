//! A directory entry that may be an info file: opened without following, blocking on or believing anything.
//!
//! A stranger may have put a symbolic link, a FIFO, a device or a 1 TiB file under any name. So the open follows no
//! link and never leaves the directory, `O_NONBLOCK` keeps a FIFO or a lease from holding us up, the kind is asked of
//! the open file and not of the name, and no more than one info file's worth of bytes is ever read.

use super::Info;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A regular file, open for reading.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) file: File,
    pub(super) metadata: Metadata,
}

/// Why an entry is not a regular file that can be read.
#[derive(Debug)]
pub(super) enum Refusal {
    Missing,
    Symlink,
    NotRegular(&'static str),
    Denied,
    TooManyOpenFiles,
    Io(io::Error),
}

impl Candidate {
    /// Opens the entry `name` (one component) of `directory`. Never blocks.
    pub(super) fn open(directory: impl AsFd, name: &Path) -> Result<Self, Refusal> {
        let file: File = open_beneath(directory, name).map_err(Refusal::from_errno)?.into();
        let metadata = file.metadata().map_err(Refusal::Io)?;
        match FileType::from_raw_mode(metadata.mode()) {
            FileType::RegularFile => Ok(Self { file, metadata }),
            other => Err(Refusal::NotRegular(kind(other))),
        }
    }

    /// Reads it from its start, but no more than one byte beyond [`Info::MAX_BYTES`].
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&self.file).take(Info::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Refusal {
    pub(super) fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Missing,
            Errno::LOOP => Self::Symlink,
            // What opening a Unix socket, or a device without a driver, fails with.
            Errno::NXIO => Self::NotRegular("a socket or a device"),
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::MFILE | Errno::NFILE => Self::TooManyOpenFiles,
            other => Self::Io(other.into()),
        }
    }
}

fn open_beneath(directory: impl AsFd, name: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        let opened = match openat2(&directory, name, flags, Mode::empty(), resolve) {
            // An old kernel, or a sandbox that does not know the call: `name` is one component, so this is as strict.
            Err(Errno::NOSYS | Errno::PERM) => openat(&directory, name, flags | OFlags::NOFOLLOW, Mode::empty()),
            opened => opened,
        };
        if opened.as_ref().err() != Some(&Errno::INTR) {
            return opened;
        }
    }
}

/// What a file that is not regular is called in an error.
pub(super) fn kind(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::Symlink => "a symbolic link",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "no regular file",
    }
}
