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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
        let file: File = open_beneath(directory.as_fd(), name)
            .map_err(Refusal::from_errno)?
            .into();
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

const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

fn open_beneath(directory: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        let opened = match openat2(directory, name, FLAGS, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM) => open_without_openat2(directory, name),
            opened => opened,
        };
        if opened.as_ref().err() != Some(&Errno::INTR) {
            return opened;
        }
    }
}

/// For an old kernel, or a sandbox that does not know the call. As `name` is one component, this is as strict.
fn open_without_openat2(directory: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
    openat(directory, name, FLAGS | OFlags::NOFOLLOW, Mode::empty())
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, mknodat};
    use std::os::unix::fs::symlink;

    #[test]
    fn both_ways_of_opening_refuse_links_and_are_not_held_up() {
        let temporary = tempfile::tempdir().unwrap();
        let [file, link, fifo] = ["file", "link", "fifo"].map(|name| temporary.path().join(name));
        std::fs::write(&file, "text").unwrap();
        symlink("file", &link).unwrap();
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let directory = File::open(temporary.path()).unwrap();

        for open in [open_beneath, open_without_openat2] {
            assert!(open(directory.as_fd(), Path::new("file")).is_ok());
            assert!(open(directory.as_fd(), Path::new("fifo")).is_ok());
            assert_eq!(open(directory.as_fd(), Path::new("link")).err(), Some(Errno::LOOP));
            assert_eq!(open(directory.as_fd(), Path::new("none")).err(), Some(Errno::NOENT));
        }
    }

    #[test]
    fn no_more_is_read_than_tells_that_it_is_too_much() {
        let temporary = tempfile::tempdir().unwrap();
        File::create(temporary.path().join("huge"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        let directory = File::open(temporary.path()).unwrap();

        let candidate = Candidate::open(directory.as_fd(), Path::new("huge")).unwrap();

        assert_eq!(candidate.read().unwrap().len(), Info::MAX_BYTES + 1);
    }
}
