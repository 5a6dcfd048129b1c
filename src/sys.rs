//! What a few system calls need that has no safe wrapper: locks that belong to an open file (OFD locks), a bound on what
//! the kernel holds for a peer that does not read, and the half of a word that futex(2) looks at.
//!
//! A server holds an OFD *write* lock on byte 0 of its info file for as long as it lives:
//!
//! - the kernel drops it when the last descriptor of that open file is gone, so also after `kill -9`;
//! - it needs a descriptor open for writing, so a reader of the file cannot fake it (a `flock` it could fake);
//! - it is on the inode, so it survives a rename and is seen through bind mounts and from other namespaces.
//!
//! A reader can take a *read* lock on the same byte ("squatting"), which makes every later attempt at a write lock
//! fail. Two rules make that harmless. The question "is it held?" asks for a conflicting *write* lock only, which no
//! reader can have. And nobody ever takes a write lock on a file that a stranger may already have opened: a new
//! server locks its own new file while its mode is still 0600, and decides about an old file by that question alone.
//!
//! A control segment stays 0600, so that no stranger comes to it. The server has a lock on its byte 0, the subscriber one on
//! the byte behind it (`control.rs`).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The low half of a shared word, for the futex system call and nothing else.
pub(crate) fn futex_word(word: &AtomicU64) -> &AtomicU32 {
    let low_half = std::ptr::from_ref(word)
        .cast::<AtomicU32>()
        .wrapping_add(usize::from(cfg!(target_endian = "big")));
    // SAFETY:
    // - it points at four aligned bytes of a word that lives as long as `word`;
    // - any bit pattern is a valid AtomicU32;
    // - this crate passes its address to the kernel and never loads or stores through it, so no access of another size
    //   meets those to the AtomicU64.
    unsafe { &*low_half }
}

/// Takes the write lock on byte 0 of the open file `file` if nobody else has a lock there. Never blocks.
///
/// # Errors
/// As [`try_write_lock_at`].
pub(crate) fn try_write_lock(file: impl AsFd) -> io::Result<bool> {
    try_write_lock_at(file, 0)
}

/// Takes the write lock on one byte of the open file `file` if nobody else has a lock there. Never blocks.
///
/// `Ok(false)` says that another open file has a lock on it, be it a read lock.
///
/// # Errors
/// `EBADF` unless `file` is open for writing; `ENOLCK`, `EOPNOTSUPP` or `EINVAL` where the file system or the kernel
/// has no such locks.
pub(crate) fn try_write_lock_at(file: impl AsFd, byte: libc::off_t) -> io::Result<bool> {
    let mut lock = of_byte(byte, libc::F_WRLCK);
    match fcntl_lock(file, libc::F_OFD_SETLK, &mut lock) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says whether another open file has the write lock on byte 0 of `file`. Takes nothing and disturbs nobody.
///
/// Any descriptor will do, also one open for reading only; read locks of others do not count. A lock held through
/// `file` itself, or a duplicate of it, does not count either. Costs one system call, below 1 us.
///
/// # Errors
/// `ENOLCK`, `EOPNOTSUPP` or `EINVAL` where the file system or the kernel has no such locks.
pub(crate) fn write_lock_is_held(file: impl AsFd) -> io::Result<bool> {
    // What would keep us from a read lock? Only somebody's write lock.
    let mut lock = of_byte(0, libc::F_RDLCK);
    fcntl_lock(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) == libc::F_WRLCK)
}

/// The lock request for one byte. `l_pid` is 0, as OFD locks demand.
fn of_byte(byte: libc::off_t, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

fn fcntl_lock(file: impl AsFd, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    let descriptor = file.as_fd().as_raw_fd();
    // SAFETY:
    // - `descriptor` is open for the whole call: `file` is borrowed until the end of this function;
    // - both callers pass a lock command, whose third argument is a pointer to a `struct flock`; `lock` is one,
    //   initialised, exclusively borrowed, and the kernel keeps no pointer to it.
    let result = unsafe { libc::fcntl(descriptor, command, std::ptr::from_mut(lock)) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Bounds what the kernel takes of a TCP socket's stream before it can send it (`TCP_NOTSENT_LOWAT`). Without it a peer
/// that does not read holds as much as the last figure of `net.ipv4.tcp_wmem`, and some hundred such peers hold all that
/// the system gives to TCP. What is under way to the peer does not count, so the bound costs no throughput.
///
/// # Errors
/// `ENOPROTOOPT` where the kernel has no such bound.
pub(crate) fn limit_unsent(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY:
    // - `descriptor` is open for the whole call: `socket` is borrowed until the end of this function;
    // - the option is a number of 32 bits: `bytes` is one, alive for the whole call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            std::ptr::from_ref(&bytes).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, Instant};

    /// A file of its own and a second, read-only opening of it.
    fn file_opened_twice() -> (tempfile::NamedTempFile, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = File::open(file.path()).unwrap();
        (file, reader)
    }

    #[test]
    fn write_lock_is_seen_by_others_and_freed_by_the_last_close() {
        let (file, reader) = file_opened_twice();
        assert!(!write_lock_is_held(&reader).unwrap());

        assert!(try_write_lock(&file).unwrap());
        assert!(write_lock_is_held(&reader).unwrap());

        drop(file);
        // Another test that starts a process at this moment may have a copy of the descriptor until its `exec`.
        let deadline = Instant::now() + Duration::from_secs(10);
        while write_lock_is_held(&reader).unwrap() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn second_opening_cannot_take_the_write_lock() {
        let (file, _reader) = file_opened_twice();
        let second = File::options().write(true).open(file.path()).unwrap();

        assert!(try_write_lock(&file).unwrap());

        assert!(!try_write_lock(&second).unwrap());
    }

    #[test]
    fn reader_cannot_take_the_write_lock() {
        let (_file, reader) = file_opened_twice();

        let error = try_write_lock(&reader).unwrap_err();

        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn read_lock_of_a_squatter_never_looks_like_a_live_server() {
        let (file, squatter) = file_opened_twice();
        rustix::fs::fcntl_lock(&squatter, rustix::fs::FlockOperation::NonBlockingLockShared).unwrap();

        // It does block a write lock, which is why no server takes one on a file that others can open.
        assert!(!try_write_lock(&file).unwrap());
        assert!(!write_lock_is_held(&file).unwrap());
    }
}
