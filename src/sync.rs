//! What the ring, the wakes and the gate are written against: the standard atomics and mutex, or loom's when a model
//! is checked (`--cfg loom`).

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};

/// The half of a barrier that costs nothing: keeps the compiler from moving a load above a store before it. The other
/// half, membarrier(2) on the other side, makes the processor keep that order, too.
#[inline]
pub(crate) fn light_barrier() {
    #[cfg(not(loom))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    // Loom has no membarrier: both halves are whole fences there.
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}
