//! An info file before it has its name.
//!
//! ```text
//!     .NAME.new     created 0600, written, locked, and only then given its mode: before the lock was taken nobody but
//!         |         its user could open it, so no reader can keep the server from the lock
//!         v rename  never over anything but a dead server's info file of the same user
//!     NAME.toml     complete and locked from the first moment it can be seen
//! ```

use super::announce_error::{AnnounceError, Occupant, Step};
use super::announcement::Directory;
use super::candidate::{Candidate, Refusal};
use super::name_lock::NameLock;
use super::{Info, InfoError, ServerName};
use crate::sys;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, fchmod, openat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The name of the draft of the info file of `name`.
pub(super) fn file_name(name: &ServerName) -> String {
    format!(".{name}.new")
}

/// Makes the info file of the name that `right` is about, and gives it open and locked. Leaves no draft on failure.
pub(super) fn create_and_rename(right: &NameLock<'_>, text: &str, mode: u32) -> Result<File, AnnounceError> {
    let mut file = create(right)?;
    let renamed = fill(right, &mut file, text, mode).and_then(|()| rename(right));
    if renamed.is_err() {
        let _ = unlinkat(&right.directory.descriptor, file_name(&right.name), AtFlags::empty());
    }
    renamed.map(|()| file)
}

/// Who has the right to the name knows that an older draft is a leftover.
fn create(right: &NameLock<'_>) -> Result<File, AnnounceError> {
    let file_name = file_name(&right.name);
    let path = right.directory.path_of(&file_name);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create = || openat(&right.directory.descriptor, &file_name, flags, Mode::RUSR | Mode::WUSR);
    let mut created = create();
    if matches!(created, Err(Errno::EXIST)) {
        created = match unlinkat(&right.directory.descriptor, &file_name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => create(),
            Err(Errno::ISDIR) => {
                return Err(AnnounceError::Occupied {
                    path,
                    by: Occupant::NotRegular("a directory"),
                });
            }
            Err(errno) => Err(errno),
        };
    }
    created
        .map(File::from)
        .map_err(|errno| Step::Create.failed(&path, errno))
}

fn fill(right: &NameLock<'_>, file: &mut File, text: &str, mode: u32) -> Result<(), AnnounceError> {
    let path = right.directory.path_of(&file_name(&right.name));
    file.write_all(text.as_bytes())
        .map_err(|error| Step::Write.failed(&path, error))?;
    match sys::try_write_lock(&*file) {
        Ok(true) => {}
        // Only this user's programs can have opened it, and none of ours does.
        Ok(false) => return Err(AnnounceError::Busy { path }),
        Err(error) => return Err(Step::Lock.failed(&path, error)),
    }
    fchmod(&*file, Mode::from_raw_mode(mode)).map_err(|errno| Step::Write.failed(&path, errno))
}

/// Gives the draft its name, unless a live server or something that no server wrote has it.
fn rename(right: &NameLock<'_>) -> Result<(), AnnounceError> {
    let directory = &right.directory.descriptor;
    let (from, to) = (file_name(&right.name), right.name.file_name());
    let renamed = if old_is_dead(right.directory, &right.name)? {
        renameat(directory, &from, directory, &to)
    } else {
        match renameat_with(directory, &from, directory, &to, RenameFlags::NOREPLACE) {
            // A file system without the flag. The name was free a moment ago, and only another user's server, who
            // takes no part in our locking, could have taken it since.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(directory, &from, directory, &to),
            renamed => renamed,
        }
    };
    renamed.map_err(|errno| match errno {
        Errno::EXIST => AnnounceError::NameInUse {
            name: right.name.clone(),
            pid: None,
        },
        errno => Step::Rename.failed(&right.directory.path_of(&to), errno),
    })
}

/// Says whether the name's file is there and may be replaced. A live server, or what no dead server left, is an error.
fn old_is_dead(directory: &Directory, name: &ServerName) -> Result<bool, AnnounceError> {
    let file_name = name.file_name();
    let path = directory.path_of(&file_name);
    let occupied = |by| AnnounceError::Occupied { path: path.clone(), by };
    let old = match Candidate::open(&directory.descriptor, Path::new(&file_name)) {
        Ok(old) => old,
        Err(Refusal::Missing) => return Ok(false),
        Err(Refusal::Symlink) => return Err(occupied(Occupant::Symlink)),
        Err(Refusal::NotRegular(kind)) => return Err(occupied(Occupant::NotRegular(kind))),
        Err(Refusal::Denied) => return Err(Step::ReadOld.failed(&path, Errno::ACCESS)),
        Err(Refusal::TooManyOpenFiles) => return Err(Step::ReadOld.failed(&path, Errno::MFILE)),
        Err(Refusal::Io(error)) => return Err(Step::ReadOld.failed(&path, error)),
    };
    let bytes = old.read().map_err(|error| Step::ReadOld.failed(&path, error))?;
    let contents = str::from_utf8(&bytes).ok().map(Info::parse);
    if sys::write_lock_is_held(&old.file).map_err(|error| Step::Lock.failed(&path, error))? {
        let pid = contents.and_then(Result::ok).map(|info| info.pid);
        return Err(AnnounceError::NameInUse {
            name: name.clone(),
            pid,
        });
    }
    if old.metadata.uid() != directory.user {
        return Err(occupied(Occupant::Stranger(old.metadata.uid())));
    }
    let left_by_a_server = match contents {
        Some(Ok(_) | Err(InfoError::Format { .. })) => true,
        // Empty or zeroed is what a power cut makes of a file that was just written.
        _ => bytes.starts_with(Info::FIRST_WORDS.as_bytes()) || bytes.iter().all(|&byte| byte == 0),
    };
    if left_by_a_server {
        Ok(true)
    } else {
        Err(occupied(Occupant::NotAnInfoFile))
    }
}
