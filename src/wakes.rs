//! Who asked to be woken, and who owes a wake: the flags between the publisher and the service thread, without any
//! system call, so that loom can go through all that may happen between them.
//!
//! ```text
//!       publisher                              service thread, before it sleeps
//!       head = n + 1                           asked |= SERVICE
//!   B1  barrier                            B2  barrier
//!       asked & SERVICE? wake it               head moved? stay up
//!
//!       publisher that withholds a wake        service thread, when the stream seems to have paused
//!       head = n + 1                           asked &= !OWED        (T2, AcqRel)
//!   B1  barrier                            O2  barrier
//!       asked & OWED? go on                    head moved? wake the readers once more
//!       asked |= OWED          (T1, AcqRel)
//!       was it not? wake the service thread
//!
//!       publisher whose wake met many sleepers     service thread, when it is up
//!       head = n + 1; wake a few                   crowd = false             (K2, Acquire)
//!       crowd = true           (K1, Release)       was true? wake all readers
//!       was false? wake the service thread
//!
//!   B1 with B2: one of the two sees what the other stored. B1 is for the compiler alone: membarrier(2) in B2 makes the
//!   publisher's processor keep the order, so that the publisher does not pay for a fence with every message.
//!   B1 with O2: the same for a wake that is owed already. Where membarrier(2) is not to be had T1 is taken every time:
//!   T1 with T2: a publisher that finds the wake owed already stored its head before T2, which then sees it.
//!   K1 with K2: who takes the crowd over wakes it behind the head that it was left with.
//! ```

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicBool, AtomicU32, Ordering, light_barrier};

/// The service thread wants to be woken for the next message.
pub(crate) const SERVICE: u32 = 1;
/// Processes are attached and may sleep on the futex word.
pub(crate) const READERS: u32 = 2;
/// The publisher withheld a wake, and the service thread makes it.
pub(crate) const OWED: u32 = 4;
/// The service thread cannot make the heavy half of the barriers. Raised from the start or never: here, it costs who looks
/// at the flags nothing.
const UNAIDED: u32 = 8;

/// The flags of one server.
#[derive(Debug)]
pub(crate) struct Wakes {
    /// Alone on its cache line: the publisher loads it with every message, and it changes rarely.
    asked: CachePadded<AtomicU32>,
    /// The publisher woke a few readers and left the others to the service thread.
    crowd: AtomicBool,
}

impl Wakes {
    /// `has_barrier` is whether the service thread makes the heavy half of the barriers.
    pub(crate) fn new(has_barrier: bool) -> Self {
        let asked = if has_barrier { 0 } else { UNAIDED };
        Self {
            asked: CachePadded::new(AtomicU32::new(asked)),
            crowd: AtomicBool::new(false),
        }
    }

    /// Who asked, and whether a wake is owed, for a publisher that has just stored its head. Costs a load.
    #[inline]
    pub(crate) fn asked(&self) -> u32 {
        // B1, pairs with B2 and O2: the head is stored before the flags are loaded.
        light_barrier();
        self.asked.load(Ordering::Relaxed)
    }

    /// Raises a flag. `barrier` must make every publisher that did not see it store its head before this returns (B2).
    pub(crate) fn ask<R>(&self, flag: u32, barrier: impl FnOnce() -> R) -> R {
        self.asked.fetch_or(flag, Ordering::Relaxed);
        barrier()
    }

    /// Lowers a flag: the publisher when it is about to wake who asked, or who asked when that is no longer wanted.
    pub(crate) fn settle(&self, flag: u32) {
        if self.asked.load(Ordering::Relaxed) & flag != 0 {
            self.asked.fetch_and(!flag, Ordering::Relaxed);
        }
    }

    /// Whether anybody asked, as far as `asked` tells.
    #[inline]
    pub(crate) const fn is_anybody_there(asked: u32) -> bool {
        asked & (SERVICE | READERS) != 0
    }

    /// Whether the service thread makes all wakes that are due, as far as `asked` tells: nobody asks but readers, for whom it
    /// makes them already.
    #[inline]
    pub(crate) const fn is_left_alone(asked: u32) -> bool {
        asked == READERS | OWED
    }

    /// Leaves a wake to the service thread. `asked` is who asked, for the same message. Returns whether the thread must be
    /// told. Costs nothing while it is known.
    pub(crate) fn withhold(&self, asked: u32) -> bool {
        if asked & (OWED | UNAIDED) == OWED {
            return false;
        }
        // T1, pairs with T2.
        self.asked.fetch_or(OWED, Ordering::AcqRel) & OWED == 0
    }

    /// Leaves the readers that sleep still to the service thread. Returns whether that must be told so.
    pub(crate) fn leave_crowd(&self) -> bool {
        // K1, pairs with K2: who sees this sees the head.
        !self.crowd.swap(true, Ordering::Release)
    }

    /// Whether there are readers that were left to the service thread, which must wake them all after this.
    pub(crate) fn take_crowd(&self) -> bool {
        // K2, pairs with K1.
        self.crowd.swap(false, Ordering::Acquire)
    }
}

/// The service thread's side of withheld wakes: it makes them now and then, until the stream pauses.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    /// The head when the readers were last woken, while there are wakes to make.
    last: Option<u64>,
}

impl Trail {
    /// Whether another turn is due a while after the last one.
    pub(crate) const fn is_on(&self) -> bool {
        self.last.is_some()
    }

    /// Begins or goes on, if there is anything to do. `barrier` must make a publisher that saw a wake owed store its head
    /// before this returns (O2).
    pub(crate) fn turn(&mut self, wakes: &Wakes, barrier: impl Fn(), head: impl Fn() -> u64, wake_readers: impl Fn()) {
        let Some(last) = self.last else {
            if wakes.asked.load(Ordering::Relaxed) & OWED != 0 {
                self.last = Some(head());
                wake_readers();
            }
            return;
        };
        let current = head();
        if current != last {
            self.last = Some(current);
            wake_readers();
            return;
        }
        // The stream paused.
        self.last = None;
        // T2, pairs with T1: what was published before the duty ends here is seen below.
        let asked = wakes.asked.fetch_and(!OWED, Ordering::AcqRel);
        if asked & UNAIDED == 0 {
            barrier();
        }
        if head() != last {
            wake_readers();
        }
    }
}

#[cfg(all(test, loom))]
mod models;
