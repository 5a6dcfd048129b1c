//! The control segment: the one page that a lossless subscriber and its server both write.
//!
//! ```text
//!      0  magic        incarnation at 8..24
//!     64  ready        the subscriber has mapped it       latches: two bytes each, set once and never cleared
//!     66  closing      the subscriber is leaving
//!     68  evicted      the server took the claim away
//!    128  cursor       the sequence wanted next           words of the claim, see `gate.rs`
//!    256  waiting      the publisher sleeps
//! ```
//!
//! Each subscriber has one of its own, so that none can move another's cursor. It is a POSIX shared-memory object of the
//! crate `shared_memory`, readable and writable by the server's user alone, with a name that nobody can guess. The name
//! is gone as soon as the subscriber has mapped it; until then the server holds a lock on it, so that what a killed
//! server leaves can be told from what a live one needs ([`sweep`]). The latches are `BusyEvent`s of `raw_sync`, the
//! one primitive of that crate which a `kill -9` cannot leave held.
//!
//! Whether the subscriber lives, another lock tells, which it has from before it maps the segment until it leaves. It
//! belongs to the open file (`sys.rs`): the kernel frees it when the process is gone, however that happens, and the end of
//! a connection does not.
//!
//! ```text
//!       subscriber                                server, to take a claim back
//!       lock byte 1, or give up                   lock byte 1, or leave the claim alone
//!       ready = 1                                 evicted = 1; overwrite
//!       evicted? give up                          unlock
//! ```
//!
//! Only one of them can have the lock, and a subscriber that has it behind the server sees that it is evicted.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io, slice};

use raw_sync::Timeout;
use raw_sync::events::{BusyEvent, EventImpl, EventInit, EventState};
use rustix::fs::{self, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::shm;
use shared_memory::{Shmem, ShmemConf, ShmemError};

use crate::gate::ClaimWords;
use crate::incarnation::Incarnation;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::sys;
use crate::words::WORD_BYTES;

/// One page.
const BYTES: usize = 4096;
const MAGIC: u64 = u64::from_ne_bytes(*b"LAPCTRL\x01");
const LATCHES_AT: usize = 64;
const CLAIM_AT: usize = 128;
/// The byte that the subscriber has locked. The server has locked the one before it.
const SUBSCRIBERS_LOCK: libc::off_t = 1;
/// Where the names of POSIX shared memory are (shm_overview(7)).
const DIRECTORY: &str = "/dev/shm";
/// Longest time from an object's appearance to its lock, on a machine that has much else to do.
const MAKING: Duration = Duration::from_millis(100);
/// What every name begins with.
const PREFIX: &str = "lapwing-";
/// Longest name, with its slash.
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// Why there is no control segment.
#[derive(Debug)]
#[non_exhaustive]
pub enum ControlError {
    /// /dev/shm has no room for one page.
    NoSpace,
    /// It belongs to another user than this process runs as.
    OtherUser,
    /// It is not where the server made it.
    Elsewhere,
    /// The server that is connected gave a name that none has.
    Name(String),
    /// It is not of this server.
    Foreign,
    /// Another process is its subscriber, or the server is taking it back.
    Taken,
    /// The system refused it.
    Os(io::Error),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace => write!(
                f,
                "no room for a control segment in {DIRECTORY}: free some of it, or mount it with a larger size"
            ),
            Self::OtherUser => f.write_str(
                "the server runs as another user, and shares its control segments with its own user only: run as that \
                 user, or follow losslessly over the socket",
            ),
            Self::Elsewhere => write!(
                f,
                "the server's control segments are not in this {DIRECTORY}: share its {DIRECTORY} (containers do with \
                 `--ipc`), or follow losslessly over the socket"
            ),
            Self::Name(name) => write!(f, "the server named a control segment {name:?}, which is no such name"),
            Self::Foreign => f.write_str("the control segment is not of this server"),
            Self::Taken => f.write_str("the control segment is locked by another process, or taken back: ask again"),
            Self::Os(_) => f.write_str("cannot map a control segment"),
        }
    }
}

impl std::error::Error for ControlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os(source) => Some(source),
            _ => None,
        }
    }
}

impl From<Errno> for ControlError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOSPC => Self::NoSpace,
            // A user who may not open it is told the same as one who may (root) but should not.
            Errno::ACCESS => Self::OtherUser,
            error => Self::Os(error.into()),
        }
    }
}

impl From<ShmemError> for ControlError {
    fn from(error: ShmemError) -> Self {
        match error {
            ShmemError::MapCreateFailed(code) | ShmemError::MapOpenFailed(code) | ShmemError::UnknownOsError(code) => {
                Errno::from_raw_os_error(code as i32).into()
            }
            error => Self::Os(io::Error::other(error)),
        }
    }
}

/// A mapped control segment.
pub(crate) struct Control {
    /// Mapped until this is dropped. Not the owner of the name: that is removed by [`Control::unlink`].
    memory: Shmem,
    latches: Mutex<Latches>,
    /// In the server until it is unlinked. Before `file`, so that no name is left without its lock.
    name: Mutex<Option<Name>>,
    /// What the lock of this side belongs to; closed on exec.
    file: OwnedFd,
}

struct Latches {
    ready: Box<dyn EventImpl>,
    closing: Box<dyn EventImpl>,
    evicted: Box<dyn EventImpl>,
}

/// The name of an object, removed when this is dropped.
#[derive(Debug)]
struct Name(String);

// SAFETY: `Shmem` and `BusyEvent` are kept from it by the raw pointers in them alone. The memory stays mapped until drop,
// on whichever thread; its words are accessed by atomics only, and the latches through the mutex.
unsafe impl Send for Control {}
// SAFETY: as above.
unsafe impl Sync for Control {}

impl Control {
    /// Makes one, for a server. Costs a dozen system calls.
    pub(crate) fn create(incarnation: Incarnation) -> Result<Self, ControlError> {
        let [random, _]: [u64; 2] = incarnation_words(Incarnation::random().map_err(ControlError::Os)?);
        let name = format!("/{PREFIX}{incarnation}-{random:016x}");
        let mut memory = ShmemConf::new().os_id(&name).size(BYTES).create()?;
        let file = shm::open(&name, shm::OFlags::RDWR, Mode::empty())?;
        // A page that is not there yet would be asked for at the first touch, and a full file system answer with SIGBUS.
        fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES as u64)?;
        sys::try_write_lock(&file).map_err(ControlError::Os)?;
        // From here on `Name` removes it.
        memory.set_owner(false);
        let name = Name(name);
        let latches = Latches::new(&memory, |memory| {
            // SAFETY: `memory` points at two bytes for a latch in a mapping of our own, as `Latches::new` says.
            unsafe { BusyEvent::new(memory, false) }
        })?;
        let control = Self {
            memory,
            latches: Mutex::new(latches),
            name: Mutex::new(Some(name)),
            file,
        };
        let words = control.words();
        for (word, value) in words[1..].iter().zip(incarnation_words(incarnation)) {
            word.store(value, Ordering::Relaxed);
        }
        words[0].store(MAGIC, Ordering::Relaxed);
        Ok(control)
    }

    /// Maps the one that the server `incarnation` named, for its subscriber. As long as this lives the server sees that the
    /// subscriber does, unless it has taken the claim back before: that [`Control::is_evicted`] tells from now on.
    pub(crate) fn open(name: &str, incarnation: Incarnation) -> Result<Self, ControlError> {
        let is_name = name.len() <= MAX_NAME_BYTES
            && name
                .strip_prefix('/')
                .and_then(|name| name.strip_prefix(PREFIX))
                .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        if !is_name {
            return Err(ControlError::Name(name.chars().take(MAX_NAME_BYTES).collect()));
        }
        // Also for root, which may open anything: whoever owns an object can take its memory away under us.
        let file = shm::open(name, shm::OFlags::RDWR, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => ControlError::Elsewhere,
            error => error.into(),
        })?;
        if fs::fstat(&file)?.st_uid != rustix::process::geteuid().as_raw() {
            return Err(ControlError::OtherUser);
        }
        if !sys::try_write_lock_at(&file, SUBSCRIBERS_LOCK).map_err(ControlError::Os)? {
            return Err(ControlError::Taken);
        }
        let memory = ShmemConf::new().os_id(name).open()?;
        if memory.len() != BYTES {
            return Err(ControlError::Foreign);
        }
        let latches = Latches::new(&memory, |memory| {
            // SAFETY: as in `create`.
            unsafe { BusyEvent::from_existing(memory) }
        })?;
        let control = Self {
            memory,
            latches: Mutex::new(latches),
            name: Mutex::new(None),
            file,
        };
        let words = control.words();
        let is_ours = words[0].load(Ordering::Relaxed) == MAGIC
            && incarnation_words(incarnation)
                .iter()
                .zip(&words[1..])
                .all(|(&expected, word)| word.load(Ordering::Relaxed) == expected);
        if is_ours {
            Ok(control)
        } else {
            Err(ControlError::Foreign)
        }
    }

    /// The name by which the subscriber maps it, until it is unlinked.
    pub(crate) fn name(&self) -> Option<String> {
        self.locked_name().as_ref().map(|name| name.0.clone())
    }

    /// Removes the name: nobody can map it any more.
    pub(crate) fn unlink(&self) {
        self.locked_name().take();
    }

    /// In the server: takes the lock of a subscriber that is gone, or has not come. Returns whether it did; not as long as
    /// the subscriber lives. Costs a system call.
    pub(crate) fn take_back(&self) -> bool {
        // Where there are no such locks there are no control segments. If the kernel has no memory it is asked again.
        sys::try_write_lock_at(&self.file, SUBSCRIBERS_LOCK).unwrap_or(false)
    }

    pub(crate) fn claim(&self) -> ClaimWords<'_> {
        ClaimWords::new(&self.words()[CLAIM_AT / WORD_BYTES..])
    }

    /// The subscriber has mapped it.
    pub(crate) fn set_ready(&self) {
        set(&*self.latches().ready);
    }

    pub(crate) fn is_ready(&self) -> bool {
        is_set(&*self.latches().ready)
    }

    /// The subscriber is leaving.
    pub(crate) fn set_closing(&self) {
        set(&*self.latches().closing);
    }

    pub(crate) fn is_closing(&self) -> bool {
        is_set(&*self.latches().closing)
    }

    /// The server takes the claim away.
    pub(crate) fn evict(&self) {
        set(&*self.latches().evicted);
    }

    pub(crate) fn is_evicted(&self) -> bool {
        is_set(&*self.latches().evicted)
    }

    fn latches(&self) -> std::sync::MutexGuard<'_, Latches> {
        self.latches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked_name(&self) -> std::sync::MutexGuard<'_, Option<Name>> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All words. Those of the latches are not to be touched.
    fn words(&self) -> &[AtomicU64] {
        // SAFETY:
        // - it was mapped for `BYTES` bytes, page aligned, and stays so until `memory` is dropped;
        // - any bit pattern is a valid AtomicU64, and both sides access all words but that of the latches by 64-bit
        //   atomics only; that one is in the slice and never accessed through it.
        unsafe { slice::from_raw_parts(self.memory.as_ptr().cast(), BYTES / WORD_BYTES) }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("claim", &self.claim())
            .finish_non_exhaustive()
    }
}

impl Latches {
    /// Gives `make` the address of each latch: two bytes in the mapping of `memory`, which outlives them, and which
    /// nothing else accesses.
    fn new(
        memory: &Shmem,
        make: impl Fn(*mut u8) -> Result<(Box<dyn EventImpl>, usize), Box<dyn std::error::Error>>,
    ) -> Result<Self, ControlError> {
        let latch = |index: usize| {
            let address = memory.as_ptr().wrapping_add(LATCHES_AT + 2 * index);
            make(address).map(|(latch, _)| latch).map_err(|_| ControlError::Foreign)
        };
        Ok(Self {
            ready: latch(0)?,
            closing: latch(1)?,
            evicted: latch(2)?,
        })
    }
}

fn set(latch: &dyn EventImpl) {
    // A BusyEvent orders nothing itself.
    fence(Ordering::Release);
    // It stores a byte, and cannot fail.
    let _ = latch.set(EventState::Signaled);
}

fn is_set(latch: &dyn EventImpl) -> bool {
    let is_set = latch.wait(Timeout::Val(Duration::ZERO)).is_ok();
    fence(Ordering::Acquire);
    is_set
}

fn incarnation_words(incarnation: Incarnation) -> [u64; 2] {
    bytemuck::cast(incarnation.to_bytes())
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Err(error) = shm::unlink(&self.0)
            && error != Errno::NOENT
        {
            log::warn!("cannot remove {DIRECTORY}{}: {error}", self.0);
        }
    }
}

/// Removes what killed servers of this user left in /dev/shm: objects with names like ours that nobody has locked. Takes a
/// moment if there are any: one that is just being made is locked within microseconds.
pub(crate) fn sweep() {
    let Ok(directory) = std::fs::read_dir(DIRECTORY) else {
        return;
    };
    let names = directory.flatten().map(|entry| entry.file_name());
    let is_abandoned = |name: &str| is_abandoned(name).unwrap_or(false);
    let mut abandoned: Vec<_> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| is_given(name) && is_abandoned(name))
        .collect();
    if abandoned.is_empty() {
        return;
    }
    std::thread::sleep(MAKING);
    abandoned.retain(|name| is_abandoned(name));
    for name in abandoned {
        let _ = shm::unlink(format!("/{name}"));
    }
}

/// Whether it is a name like those that [`Control::create`] gives: a user's own files may begin like one.
fn is_given(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(incarnation, random)| incarnation.len() == 32 && random.len() == 16)
}

fn is_abandoned(name: &str) -> io::Result<bool> {
    let file = fs::open(
        format!("{DIRECTORY}/{name}"),
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let is_ours = fs::fstat(&file)?.st_uid == rustix::process::geteuid().as_raw();
    Ok(is_ours && !sys::write_lock_is_held(&file)?)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn everything_lies_where_the_page_on_the_layout_says() {
        let incarnation = Incarnation::from_bytes(*b"0123456789abcdef");
        let server = Control::create(incarnation).unwrap();
        let subscriber = Control::open(&server.name().unwrap(), incarnation).unwrap();
        let bytes = || -> Vec<u8> {
            // The latches too: nobody writes meanwhile.
            let words = server.words().iter();
            words
                .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
                .collect()
        };
        assert_eq!(bytes()[..24], *b"LAPCTRL\x010123456789abcdef");
        assert_eq!(bytes()[64..70], [0; 6]);

        subscriber.set_ready();
        assert_eq!(bytes()[64..70], [1, 0, 0, 0, 0, 0]);
        subscriber.set_closing();
        server.evict();
        assert_eq!(bytes()[64..70], [1, 0, 1, 0, 1, 0]);
        subscriber.claim().advance(0x0102, true, || ());
        server.claim().prepare_to_wait(|| ());

        assert_eq!(bytes()[128..136], 0x0102_u64.to_ne_bytes());
        assert_eq!(bytes()[256..264], 1_u64.to_ne_bytes());
        assert!(server.is_ready() && server.is_closing() && subscriber.is_evicted());
    }

    #[test]
    fn subscriber_has_the_say_while_it_lives_and_none_comes_behind_the_server() {
        let incarnation = Incarnation::from_bytes(*b"0123456789abcdef");
        let server = Control::create(incarnation).unwrap();
        let name = server.name().unwrap();
        let open = || Control::open(&name, incarnation).map(drop);
        let subscriber = Control::open(&name, incarnation).unwrap();

        assert!(!server.take_back());
        assert!(matches!(open(), Err(ControlError::Taken)));
        drop(subscriber);

        // Another test that starts a process at this moment may have a copy of the descriptor until its `exec`.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !server.take_back() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(matches!(open(), Err(ControlError::Taken)));
    }

    #[test]
    fn names_like_those_of_control_segments_are_swept_and_no_others() {
        let control = Control::create(Incarnation::from_bytes([7; 16])).unwrap();

        assert!(is_given(&control.name().unwrap()[1..]));
        for name in ["lapwing-notes", "lapwing-my-notes", "lapwing-", "notes"] {
            assert!(!is_given(name), "{name}");
        }
    }
}
