//! Segments of huge pages that nothing was set aside for, as a stranger may lay them: the first load from such a page is a
//! SIGBUS. A client is told, and lives.

use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, ptr, slice};

use lapwing::discovery::{self, Announcement, Info, Trust};
use lapwing::{Incarnation, Segment};

use super::confined::{Process, client, is_root, run, server, skip};
use super::memory::{alone, count, reserve};

const PAGE_BYTES: usize = 2 << 20;

/// A segment that is there, and none of its pages.
struct Unbacked {
    id: i32,
    base: NonNull<AtomicU64>,
}

impl Unbacked {
    /// Lays one of so many pages, for as long as it lives. Says so if that is not possible.
    fn lay(pages: usize) -> Option<Self> {
        let flags = libc::IPC_CREAT | libc::SHM_HUGETLB | libc::MAP_HUGE_2MB | libc::SHM_NORESERVE | 0o600;
        // SAFETY: shmget takes and returns plain numbers.
        let id = unsafe { libc::shmget(libc::IPC_PRIVATE, pages * PAGE_BYTES, flags) };
        if id < 0 {
            skip(io::Error::last_os_error());
            return None;
        }
        // SAFETY: with a null address the kernel chooses unused addresses.
        let base = unsafe { libc::shmat(id, ptr::null(), 0) };
        // SAFETY: IPC_RMID ignores the pointer.
        unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
        assert_ne!(base.addr(), usize::MAX, "{}", io::Error::last_os_error());
        let base = NonNull::new(base.cast()).unwrap();
        Some(Self { id, base })
    }

    /// The words of its first page, of which there must be memory for the first to be touched.
    fn first_page(&self) -> &[AtomicU64] {
        // SAFETY: shmat mapped at least one page at `base`, aligned to it, until drop; any bits are a valid AtomicU64.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), PAGE_BYTES / 8) }
    }

    /// Announces it in `directory` as the segment of the server that `info` describes.
    fn announce(&self, directory: &Path, mut info: Info) -> Announcement {
        info.shared_memory = Some(discovery::SharedMemory {
            id: self.id,
            bytes: PAGE_BYTES as u64,
            layout: 1,
        });
        Announcement::publish(directory, &info, 0o644).unwrap()
    }
}

impl Drop for Unbacked {
    fn drop(&mut self) {
        // SAFETY: shmat returned this address, and nothing refers to the mapping any more.
        unsafe { libc::shmdt(self.base.as_ptr().cast()) };
    }
}

/// Looks at the one server in `directory`, and expects to be told that its segment has no memory.
#[track_caller]
fn expect_told(directory: &Path) {
    let look = run(&client(directory, "--format json")).expect(0);
    let servers = look.json_of("server");
    let reason = servers[0]["shm"].as_str().unwrap();
    assert!(reason.contains("put no memory behind"), "{look:#?}");
}

#[test]
fn segment_without_a_page_that_can_be_had_is_told_and_kills_no_client() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    if count("free_hugepages") != Some(0) {
        return skip("there are free huge pages of 2 MiB, or none at all");
    }
    let Some(segment) = Unbacked::lay(1) else { return };
    let directory = tempfile::tempdir().unwrap();
    let info = Info::of_this_process("bad".parse().unwrap(), Incarnation::random().unwrap());
    let _announcement = segment.announce(directory.path(), info);

    expect_told(directory.path());
}

#[test]
fn ring_whose_first_page_alone_can_be_had_is_told_and_kills_no_client() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    if count("free_hugepages") != Some(0) {
        return skip("there are free huge pages of 2 MiB, or none at all");
    }
    let Some(_reserved) = reserve(1) else { return };
    let Some(segment) = Unbacked::lay(2) else { return };
    // Of 2.1 MiB, with the payloads at its end.
    let genuine = tempfile::tempdir().unwrap();
    let message = "x".repeat(200);
    let options = format!("--message {message} --interval 2ms");
    let _server = Process::announced(&server(genuine.path(), "bad", &options));
    let found = discovery::read(&genuine.path().join("bad.toml"), &Trust::default()).unwrap();
    let theirs = Segment::attach(found.info.shared_memory.unwrap().id).unwrap();
    for (index, word) in segment.first_page().iter().enumerate() {
        word.store(theirs.words().load(index), Ordering::Relaxed);
    }
    let directory = tempfile::tempdir().unwrap();
    let _announcement = segment.announce(directory.path(), found.info);

    expect_told(directory.path());
}
