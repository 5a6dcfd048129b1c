//! A stranger's segment, laid by what docs/memory-layout.md says and by nothing of the library.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{ptr, slice};

use lapwing::Incarnation;

pub const HEAD: usize = 1024 / 8;
pub const FLOOR: usize = 1152 / 8;
pub const HEARTBEAT: usize = 1280 / 8;
pub const LARGE: u64 = 1 << 63;

pub const SLOTS: u64 = 64;
pub const SLOT_BYTES: usize = 128;
pub const ARENA_BYTES: usize = 16 << 10;
pub const LONGEST: usize = 5000;
pub const BYTES: usize = 4096 + SLOTS as usize * SLOT_BYTES + ARENA_BYTES;
pub const ARENA: usize = (4096 + SLOTS as usize * SLOT_BYTES) / 8;

/// The words of a segment that this process may write.
pub struct StrangersSegment {
    pub id: i32,
    pub incarnation: Incarnation,
    base: NonNull<AtomicU64>,
    header: [u64; 32],
}

// SAFETY: the memory is accessed by atomics only and stays mapped until drop.
unsafe impl Send for StrangersSegment {}
// SAFETY: as above.
unsafe impl Sync for StrangersSegment {}

impl StrangersSegment {
    pub fn lay() -> Self {
        // SAFETY: shmget takes and returns plain numbers.
        let id = unsafe { libc::shmget(libc::IPC_PRIVATE, BYTES, libc::IPC_CREAT | 0o600) };
        assert!(id >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: with a null address the kernel chooses unused addresses.
        let base = unsafe { libc::shmat(id, ptr::null(), 0) };
        // SAFETY: IPC_RMID ignores the pointer.
        unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
        assert_ne!(base.addr(), usize::MAX, "{}", std::io::Error::last_os_error());
        let incarnation = Incarnation::random().unwrap();
        let segment = Self {
            id,
            incarnation,
            base: NonNull::new(base.cast()).unwrap(),
            header: header(incarnation),
        };
        segment.write_header();
        segment
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: shmat mapped so many bytes at `base`, page aligned, until drop; any bits are a valid AtomicU64.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), BYTES / 8) }
    }

    /// Writes a header that is right, in place of what is there.
    pub fn write_header(&self) {
        for (word, value) in self.words().iter().zip(self.header) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The first word of the slot of message `sequence`.
    pub const fn slot(sequence: u64) -> usize {
        (4096 + (sequence % SLOTS) as usize * SLOT_BYTES) / 8
    }

    /// Publishes message `sequence`, of `len` bytes, as a server does.
    pub fn publish(&self, sequence: u64, len: usize) {
        let words = self.words();
        let slot = Self::slot(sequence);
        let is_large = len > SLOT_BYTES - 32;
        words[slot].store(sequence << 2 | 1, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::Release);
        words[slot + 1].store(len as u64 | if is_large { LARGE } else { 0 }, Ordering::Relaxed);
        words[slot + 4].store(if is_large { 0 } else { sequence }, Ordering::Relaxed);
        words[slot].store(sequence << 2 | 2, Ordering::Release);
        words[HEAD].store((sequence + 1) << 1, Ordering::Release);
    }
}

impl Drop for StrangersSegment {
    fn drop(&mut self) {
        // SAFETY: shmat returned this address, and nothing refers to the mapping any more.
        unsafe { libc::shmdt(self.base.as_ptr().cast()) };
    }
}

fn header(incarnation: Incarnation) -> [u64; 32] {
    let mut bytes = Vec::from(*b"LAPWING\0");
    bytes.extend_from_slice(&1_u32.to_ne_bytes());
    bytes.extend_from_slice(&0x0102_0304_u32.to_ne_bytes());
    for number in [
        SLOT_BYTES as u64,
        SLOTS,
        ARENA_BYTES as u64,
        LONGEST as u64,
        BYTES as u64,
        0,
        50_000_000,
        0,
    ] {
        bytes.extend_from_slice(&number.to_ne_bytes());
    }
    bytes.extend_from_slice(&incarnation.to_bytes());
    // No name, of no bytes.
    bytes.resize(252, 0);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_ne_bytes());
    std::array::from_fn(|word| u64::from_ne_bytes(bytes[8 * word..][..8].try_into().unwrap()))
}
