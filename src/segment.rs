//! The memory that a ring lies in: a SysV shared-memory segment, or private memory for a server that shares none.
//!
//! The creator marks the segment for removal as soon as it is attached. Linux goes on to let others attach by id while
//! anybody is attached, and frees the segment at the last detach, whatever killed its users (shmctl(2), IPC_RMID).
//! Until that mark a new segment has a key, which the mark takes away: who finds a segment of such a key whose creator
//! is gone knows that it was killed in between, and removes it.
//! Readers attach with SHM_RDONLY, a barrier that not even root's `mprotect` undoes.
//!
//! All mapping and its `unsafe` is in this file. What is lent out are words: `&[AtomicU64]` to the one publisher,
//! [`Words`] that can only load to everybody else.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ptr::NonNull;
use std::sync::Arc;
use std::{io, ptr, slice};

use rustix::io::Errno;
use rustix::mm::{Advice, madvise};

use self::pages::SizedPages;
use crate::causes::with_causes;
use crate::copy;
use crate::layout::{Geometry, HEAD_WORD, HEADER_BYTES, HEARTBEAT_WORD, Header};
use crate::limits;
use crate::sync::{AtomicU64, Ordering};
use crate::words::{WORD_BYTES, Words};

mod error;
mod pages;

pub use error::{AttachError, CreateError};
pub use pages::{HugePages, Pages};

/// Bytes of the largest segment that a reader attaches unless it is told otherwise: room for a ring of 1 GiB, whose
/// longest message a reader can be made to copy anyway.
pub const USUAL_ATTACH_LIMIT: u64 = 2 << 30;

/// What a segment may be rounded up to: a whole number of huge pages of the usual size.
const ROUNDED_TO: u64 = 2 << 20;

/// Words of a page, the unit in which memory is touched.
const PAGE_WORDS: usize = 4096 / WORD_BYTES;

/// Who may attach a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Permission bits as for a file. Only the read bits count: nobody but the creator ever writes.
    pub mode: u32,
    /// The group that the segment is given to; the creator's if `None`.
    pub group: Option<u32>,
}

impl Default for Access {
    /// Readable by everybody on the machine.
    fn default() -> Self {
        Self {
            mode: 0o644,
            group: None,
        }
    }
}

/// What the kernel says of a segment (shmctl(2), IPC_STAT). Nobody can forge this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Bytes of the segment.
    pub bytes: usize,
    /// The user that created it: the one that is called its owner can be set to anybody.
    pub owner_uid: u32,
    /// How many mappings of it there are, the server's own included.
    pub attached: u64,
}

/// A ring's memory, attached by this process, with its header checked.
#[derive(Debug)]
pub struct Segment {
    memory: Memory,
    header: Header,
    /// What the header said when it was checked: private, so that nobody can change it afterwards.
    geometry: Geometry,
}

#[derive(Debug)]
enum Memory {
    Shared { id: i32, mapping: Mapping },
    Private(Box<[AtomicU64]>),
}

/// A segment that this process created: the right to write it, which is never lent twice.
#[derive(Debug)]
pub(crate) struct Owned {
    segment: Arc<Segment>,
    huge_page_bytes: Option<u64>,
}

impl Owned {
    /// Creates a SysV segment for the ring that `header` describes, marks it for removal, touches every page so that a
    /// lack of memory shows now, and opens it to readers.
    pub(crate) fn create(
        header: Header,
        geometry: Geometry,
        access: Access,
        pages: Pages,
    ) -> Result<Self, CreateError> {
        if pages.huge != HugePages::Try {
            return Self::create_of(header, geometry, access, pages);
        }
        let with = |huge| Self::create_of(header, geometry, access, Pages { huge, ..pages });
        with(HugePages::Require).or_else(|error| {
            // Whatever it is: a limit may leave room for the ring, and none for what it is rounded up to.
            log::warn!("{}; going on with pages of the usual size", with_causes(&error));
            with(HugePages::Off)
        })
    }

    fn create_of(header: Header, geometry: Geometry, access: Access, pages: Pages) -> Result<Self, CreateError> {
        let sized = pages.sized()?;
        let bytes = sized.round_up(geometry.segment_bytes());
        sized.check_limits(bytes).map_err(CreateError::Limit)?;
        let id = shm_create(bytes, sized.flags()).map_err(|source| sized.explain(bytes, source))?;
        let mapping = Mapping::attach(id, 0).map_err(|source| CreateError::Attach { bytes, source });
        // From here on the kernel frees the segment with its last user, however that ends.
        shm_remove(id).map_err(|source| CreateError::Remove { id, source })?;
        let mapping = mapping?;
        mapping.prepare(sized).map_err(|source| sized.explain(bytes, source))?;
        let segment = Segment {
            memory: Memory::Shared { id, mapping },
            header,
            geometry,
        };
        segment.lay();
        if pages.locked {
            shm_lock(id).map_err(|source| CreateError::Lock { bytes, source })?;
        }
        shm_open_to_readers(id, access).map_err(|source| CreateError::Access { access, source })?;
        Ok(Self {
            segment: Arc::new(segment),
            huge_page_bytes: sized.huge_page_bytes(),
        })
    }

    /// Lays a ring in memory of this process alone, for a server that is followed over its socket only.
    pub(crate) fn private(header: Header, geometry: Geometry) -> Result<Self, CreateError> {
        limits::check_memory(geometry.segment_bytes() as u64).map_err(CreateError::Limit)?;
        let bytes = geometry.segment_bytes();
        let words = bytes / WORD_BYTES;
        let mut memory = Vec::new();
        memory
            .try_reserve_exact(words)
            .map_err(|_| CreateError::Allocate { bytes })?;
        memory.resize_with(words, || AtomicU64::new(0));
        let segment = Segment {
            memory: Memory::Private(memory.into_boxed_slice()),
            header,
            geometry,
        };
        segment.lay();
        Ok(Self {
            segment: Arc::new(segment),
            huge_page_bytes: None,
        })
    }

    /// The words, to store to.
    #[inline]
    pub(crate) fn memory(&self) -> &[AtomicU64] {
        self.segment.memory.words()
    }

    /// The same segment for readers of this process.
    pub(crate) fn share(&self) -> Arc<Segment> {
        self.segment.clone()
    }

    /// Bytes of the huge pages that were asked for and had; `None` if they are of the usual size.
    pub(crate) const fn huge_page_bytes(&self) -> Option<u64> {
        self.huge_page_bytes
    }
}

impl Segment {
    /// Attaches segment `id` of this IPC namespace, read-only, and checks its header. Takes segments of up to
    /// [`USUAL_ATTACH_LIMIT`].
    ///
    /// An id is no identity: compare [`Segment::header`]'s incarnation with the one expected before anything else is
    /// believed. Costs a few system calls; where memory is locked, or kernels are older than 5.4, a look at the list of this
    /// process's mappings as well, 40 us and more.
    ///
    /// # Errors
    /// What the kernel refused, or what is wrong with the header.
    pub fn attach(id: i32) -> Result<Self, AttachError> {
        Self::attach_up_to(id, USUAL_ATTACH_LIMIT)
    }

    /// As [`Segment::attach`], for a ring of up to `limit` bytes. A segment may be larger than the memory that was ever
    /// put behind it, and then it is the reader who pays for each page that it looks at: for all of it, in the end. One
    /// that is larger by 2 MiB or more, as a small ring in a huge page of 1 GiB is, is not even mapped.
    ///
    /// # Errors
    /// As [`Segment::attach`].
    pub fn attach_up_to(id: i32, limit: u64) -> Result<Self, AttachError> {
        // Before it is mapped: after mlockall(2) the kernel gets all of the pages then.
        let bytes = status(id).map_err(|source| AttachError::of_shmctl(id, source))?.bytes as u64;
        if bytes > limit.saturating_add(ROUNDED_TO - 1) {
            return Err(AttachError::TooLarge { bytes, limit });
        }
        let mapping = Mapping::attach(id, libc::SHM_RDONLY).map_err(|source| AttachError::of_shmat(id, source))?;
        let mapped = mapping.words * WORD_BYTES;
        if mapped < HEADER_BYTES {
            return Err(AttachError::Truncated {
                needed: HEADER_BYTES as u64,
                mapped: mapped as u64,
            });
        }
        let unbacked = |source| AttachError::Unbacked { id, source };
        mapping.populate(HEADER_BYTES).map_err(unbacked)?;
        let mut bytes = [0; HEADER_BYTES];
        Words::new(mapping.words()).copy_to(&mut bytes);
        let header = Header::read(&bytes).map_err(AttachError::Header)?;
        let geometry = Header::parse(&bytes).map_err(AttachError::Header)?;
        if geometry.segment_bytes() > mapped {
            return Err(AttachError::Truncated {
                needed: geometry.segment_bytes() as u64,
                mapped: mapped as u64,
            });
        }
        if geometry.segment_bytes() as u64 > limit {
            return Err(AttachError::TooLarge {
                bytes: geometry.segment_bytes() as u64,
                limit,
            });
        }
        // Where too few of these are set aside a load ends in a signal. For usual pages there is the memory of the machine.
        if mapping.may_be_huge() {
            mapping.populate(mapped).map_err(unbacked)?;
        }
        Ok(Self {
            memory: Memory::Shared { id, mapping },
            header,
            geometry,
        })
    }

    /// Touches every page, then writes the header.
    fn lay(&self) {
        let words = self.memory.words();
        words
            .iter()
            .step_by(PAGE_WORDS)
            .for_each(|word| word.store(0, Ordering::Relaxed));
        copy::store(words, bytemuck::bytes_of(&self.header));
    }

    /// Looks at every page of the ring once, so that no message costs its reader a page fault later. Takes 1 to 4 us a
    /// page; a ring of huge pages needs none of it. Memory that a server never put behind its segment is then paid for by
    /// this process, all of it at once (see [`Segment::attach_up_to`]).
    pub fn prefault(&self) {
        let words = &self.memory.words()[..self.geometry.segment_bytes() / WORD_BYTES];
        if let Memory::Shared { mapping, .. } = &self.memory {
            // What it refuses, or did before Linux 5.14, is left to the faults.
            let populated = mapping.populate(words.len() * WORD_BYTES);
            log::trace!("mapping {} words in advance: {populated:?}", words.len());
        }
        for word in words.iter().step_by(PAGE_WORDS) {
            std::hint::black_box(word.load(Ordering::Relaxed));
        }
    }

    /// The words, to load from.
    #[inline]
    #[must_use]
    pub fn words(&self) -> Words<'_> {
        Words::new(self.memory.words())
    }

    /// The header as it was when it was checked.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The ring's slots and sizes.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The id by which others attach it; `None` for private memory.
    #[must_use]
    pub const fn id(&self) -> Option<i32> {
        match &self.memory {
            Memory::Shared { id, .. } => Some(*id),
            Memory::Private(_) => None,
        }
    }

    /// The heartbeat counter. Costs one load of a line that the server writes a few times a second.
    #[must_use]
    pub fn heartbeat(&self) -> u64 {
        self.words().load(HEARTBEAT_WORD)
    }

    /// Moves the heartbeat. Called by the server's own service thread and nobody else.
    pub(crate) fn beat(&self, count: u64) {
        self.memory.words()[HEARTBEAT_WORD].store(count, Ordering::Relaxed);
    }

    /// What the kernel says of this segment now; `None` for private memory. Costs about 0.6 us.
    ///
    /// # Errors
    /// Whatever shmctl(2) fails with.
    pub fn status(&self) -> io::Result<Option<Status>> {
        self.id().map(status).transpose()
    }

    /// The head, to sleep on.
    pub(crate) fn head_word(&self) -> &AtomicU64 {
        &self.memory.words()[HEAD_WORD]
    }
}

impl Memory {
    #[inline]
    fn words(&self) -> &[AtomicU64] {
        match self {
            Self::Shared { mapping, .. } => mapping.words(),
            Self::Private(words) => words,
        }
    }
}

/// A SysV segment in this process's address space, until it is dropped.
#[derive(Debug)]
struct Mapping {
    base: NonNull<AtomicU64>,
    /// How many whole words were mapped.
    words: usize,
}

// SAFETY: the memory is accessed by atomics only and stays mapped for as long as the Mapping lives, whichever thread
// holds it.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` lends nothing but `&[AtomicU64]`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Attaches segment `id`, all of it.
    fn attach(id: i32, flags: i32) -> io::Result<Self> {
        // SAFETY: shmat with a null address lets the kernel choose unused addresses; it touches no memory of ours.
        let base = unsafe { libc::shmat(id, ptr::null(), flags) };
        if base.addr() == usize::MAX {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("shmat returned a null address"))?;
        let mut mapping = Self { base, words: 0 };
        // Asked only now: while it is attached the segment stays, and its id cannot come to mean another one.
        mapping.words = status(id)?.bytes / WORD_BYTES;
        Ok(mapping)
    }

    /// Gets the huge pages of a new segment, or advises the kernel to take such.
    ///
    /// What a cgroup or a memory node does not have is an error here, and would be a signal at the first touch.
    fn prepare(&self, sized: SizedPages) -> io::Result<()> {
        let Some(advice) = sized.advice() else { return Ok(()) };
        // SAFETY: these are the addresses of this mapping, and neither advice changes what they hold.
        let advised = unsafe { madvise(self.base.as_ptr().cast(), self.words * WORD_BYTES, advice) };
        match advised {
            // Before Linux 5.14 nothing is got in advance: the first touch does.
            Err(Errno::INVAL) if advice == Advice::LinuxPopulateWrite => Ok(()),
            advised => advised.map_err(io::Error::from),
        }
    }

    /// Lets the kernel map the first `bytes` bytes at once, in half the time that a fault for each page takes. A page that
    /// cannot be had is an error here, and would be a signal at the first load. Before Linux 5.14 nothing is done.
    fn populate(&self, bytes: usize) -> io::Result<()> {
        // SAFETY: these are addresses of this mapping, and the advice changes nothing that they hold.
        let advised = unsafe { madvise(self.base.as_ptr().cast(), bytes, Advice::LinuxPopulateRead) };
        match advised {
            Err(Errno::INVAL) => Ok(()),
            advised => advised.map_err(io::Error::from),
        }
    }

    /// Says whether it consists of huge pages that are set aside. Also if that cannot be found out.
    fn may_be_huge(&self) -> bool {
        // SAFETY: this is the first page of this mapping, and the advice changes nothing that it holds.
        let advised = unsafe { madvise(self.base.as_ptr().cast(), HEADER_BYTES, Advice::LinuxCold) };
        // Only usual pages that are not locked can be cold (madvise(2)). The list of pages is long in a large process.
        advised.is_err() && self.page_bytes().is_none_or(|bytes| bytes > usual_page_bytes())
    }

    /// Bytes of one of its pages, from /proc/self/smaps (proc_pid_smaps(5)). Transparent huge pages count as usual ones.
    fn page_bytes(&self) -> Option<usize> {
        let start = format!("{:08x}-", self.base.addr());
        let lines = BufReader::new(File::open("/proc/self/smaps").ok()?).split(b'\n');
        let mut lines = lines
            .map_while(Result::ok)
            .skip_while(|line| !line.starts_with(start.as_bytes()));
        let kib = lines.find_map(|line| {
            let text = str::from_utf8(&line).ok()?;
            text.strip_prefix("KernelPageSize:")?
                .strip_suffix("kB")?
                .trim()
                .parse::<usize>()
                .ok()
        });
        Some(kib? << 10)
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        // SAFETY:
        // - shmat mapped `base`, page aligned, for the whole segment, whose size the kernel never changes and told for
        //   `words` while it was attached; it stays mapped until drop, and the result lives as long as `&self`;
        // - any bit pattern is a valid AtomicU64, and every party accesses these words as 64-bit atomics, so concurrent
        //   stores are not data races;
        // - a read-only mapping is only ever loaded from: stores go through `Owned` and `Segment::beat`, whose segments
        //   were attached for writing.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }
}

/// Bytes of a page that is not huge. Not by `rustix`, which dies under valgrind(1) when it is asked.
fn usual_page_bytes() -> usize {
    // SAFETY: it takes a number and gives one.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: shmat returned this address, and no reference into the mapping outlives `self`.
        let outcome = unsafe { libc::shmdt(self.base.as_ptr().cast()) };
        debug_assert_eq!(outcome, 0, "shmdt of an attached address");
    }
}

/// Makes a new segment of `bytes` bytes that only its creator may attach, and clears away those of servers of this user
/// that were killed before they could mark theirs for removal.
fn shm_create(bytes: usize, flags: i32) -> io::Result<i32> {
    birth_keys().for_each(clear);
    birth_keys()
        .map(|key| shm_get(key, bytes, NEW | flags))
        .find(|made| !matches!(made, Err(error) if error.raw_os_error() == Some(libc::EEXIST)))
        .unwrap_or_else(|| shm_get(libc::IPC_PRIVATE, bytes, NEW | flags))
}

const NEW: i32 = libc::IPC_CREAT | libc::IPC_EXCL | 0o600;
/// How many servers of a user can be between making and marking a segment at one moment. More go without a key.
const BIRTH_KEYS: u32 = 8;

/// The keys that new segments of this user have until they are marked for removal.
fn birth_keys() -> impl Iterator<Item = libc::key_t> {
    let user = rustix::process::geteuid().as_raw();
    let hash = move |number: u32| {
        crc32c::crc32c_append(
            crc32c::crc32c(b"lapwing"),
            &[user, number].map(u32::to_ne_bytes).concat(),
        )
    };
    (0..BIRTH_KEYS)
        .map(move |number| hash(number) as libc::key_t)
        .filter(|&key| key != libc::IPC_PRIVATE)
}

/// Removes the segment of `key` if its creator was killed. One that cannot be removed harms nobody and is let be.
fn clear(key: libc::key_t) {
    let Ok(id) = shm_get(key, 0, 0) else { return };
    let is_left = |status: libc::shmid_ds| {
        let creator = rustix::process::Pid::from_raw(status.shm_cpid);
        let is_gone = creator.map(rustix::process::test_kill_process) == Some(Err(rustix::io::Errno::SRCH));
        status.shm_nattch == 0 && is_gone
    };
    if raw_status(id).is_ok_and(is_left) {
        let removed = shm_remove(id);
        log::debug!("segment {id} was left by a server that was killed: {removed:?}");
    }
}

fn shm_get(key: libc::key_t, bytes: usize, flags: i32) -> io::Result<i32> {
    // SAFETY: shmget takes and returns plain numbers.
    let id = unsafe { libc::shmget(key, bytes, flags) };
    if id < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(id)
    }
}

/// Keeps the pages of a segment in memory: none of it is swapped out.
fn shm_lock(id: i32) -> io::Result<()> {
    // SAFETY: SHM_LOCK ignores the pointer.
    let outcome = unsafe { libc::shmctl(id, libc::SHM_LOCK, ptr::null_mut()) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Marks a segment for removal at its last detach.
fn shm_remove(id: i32) -> io::Result<()> {
    // SAFETY: IPC_RMID ignores the pointer.
    let outcome = unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Lets those attach whom `access` names, for reading. The creator's own mapping stays writable.
fn shm_open_to_readers(id: i32, access: Access) -> io::Result<()> {
    let mut status = raw_status(id)?;
    // Its owner may always read it: without that the server itself could not ask how many have it attached.
    status.shm_perm.mode = (access.mode & 0o444 | 0o400) as _;
    if let Some(group) = access.group {
        status.shm_perm.gid = group;
    }
    // SAFETY: IPC_SET reads one shmid_ds, which `status` is.
    let outcome = unsafe { libc::shmctl(id, libc::IPC_SET, &raw mut status) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Asks the kernel for the state of segment `id`. Needs permission to read it.
///
/// # Errors
/// Whatever shmctl(2) fails with.
pub fn status(id: i32) -> io::Result<Status> {
    let status = raw_status(id)?;
    Ok(Status {
        bytes: status.shm_segsz,
        owner_uid: status.shm_perm.cuid,
        attached: status.shm_nattch,
    })
}

fn raw_status(id: i32) -> io::Result<libc::shmid_ds> {
    // SAFETY: shmid_ds is a C struct of numbers, for which all zeros is a value.
    let mut status: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: IPC_STAT fills one shmid_ds, which `status` is.
    let outcome = unsafe { libc::shmctl(id, libc::IPC_STAT, &raw mut status) };
    #[cfg(test)]
    tests::meanwhile();
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(status)
    }
}

#[cfg(test)]
mod tests;
