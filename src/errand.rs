//! What a subscriber asks the thread that waits in its place, and what that thread found: one word, without any system
//! call, so that loom can go through all that may happen between the two.
//!
//! ```text
//!       subscriber that found nothing          thread that waits
//!       clear the event                   E1   sleep while nothing is wanted
//!   E2  nothing wanted? wanted = cursor        sleep while the ring has nothing at the cursor
//!       wake the thread                   E3   wanted = nothing, with what was found
//!                                         E4   set the event
//!
//!   Cleared before the look at the word, set after the store to it: a subscriber that finds its errand still open can
//!   count on an event that is still to come, and one that cleared an event sees what that event was about. In any other
//!   order the event of a finished errand can be cleared by a subscriber that takes the errand for open.
//! ```
//!
//! What goes from one to the other is the word alone, so Relaxed is enough: the ring has orderings of its own, and the
//! event and the wake are system calls.

use crate::sync::{AtomicU64, Ordering};

/// In the low bits of the word: the rest of it is a cursor that is waited for.
const WANTED: u64 = 1;
const READY: u64 = 0;
const ENDED: u64 = 2;
const DEAD: u64 = 3;

/// What ended an errand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A poll will find something.
    Ready,
    /// The stream ended before the sequence that was waited for.
    Ended,
    /// The server died, and nothing is left to read.
    Dead,
}

/// The word.
#[derive(Debug)]
pub(crate) struct Errand(AtomicU64);

impl Errand {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(READY))
    }

    /// For a subscriber that found nothing at `cursor`: has the event set once there is something. Returns what the last
    /// errand found, if a poll cannot find it.
    pub(crate) fn run(&self, cursor: u64, clear_event: impl FnOnce(), wake: impl FnOnce()) -> Option<Found> {
        clear_event();
        // E2.
        let word = self.0.load(Ordering::Relaxed);
        match word {
            ENDED | DEAD => {
                self.0.store(READY, Ordering::Relaxed);
                Some(if word == DEAD { Found::Dead } else { Found::Ended })
            }
            READY => {
                self.0.store(cursor << 2 | WANTED, Ordering::Relaxed);
                wake();
                None
            }
            // Still open. The cursor may have gone past what is waited for, which ends the errand at once.
            _ => None,
        }
    }

    /// For the thread: the cursor that is waited for, if there is one (E1).
    pub(crate) fn wanted(&self) -> Option<u64> {
        let word = self.0.load(Ordering::Relaxed);
        (word & 3 == WANTED).then_some(word >> 2)
    }

    /// For the thread: ends the errand.
    pub(crate) fn finish(&self, found: Found, set_event: impl FnOnce()) {
        let word = match found {
            Found::Ready => READY,
            Found::Ended => ENDED,
            Found::Dead => DEAD,
        };
        // E3.
        self.0.store(word, Ordering::Relaxed);
        // E4.
        set_event();
    }
}

#[cfg(all(test, loom))]
mod models;
