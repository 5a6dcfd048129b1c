//! The protocol of the ring: a seqlock for every slot, a floor for the arena.
//!
//! One publisher writes, any number of readers read, and no reader ever writes: it polls the stamp of the slot that
//! its cursor points at, reads the message in place, and believes what it read only if the stamp still stands.
//!
//! ```text
//!       slot: stamp | length | timestamp_ns | tag | body: the payload, or its absolute word position in the arena if
//!       bit 63 of the length is set (a large message)
//!       stamp: n<<2 | 1 while message n is being written, | 2 when it is ready, | 3 if the stream ended before n
//!
//!       publisher                                     reader
//!       stamp = writing n              Relaxed        before = stamp                      Relaxed
//!       large: floor >= end - arena    Relaxed    R1  fence                               Acquire
//!   W1  fence                          Release        length, position: bounded, then used
//!       length, words, position        Relaxed        words                               Relaxed
//!   W2  stamp = ready n                Release    R2  fence                               Acquire
//!   S1  head = n + 1                   Release        large: position < floor? lapped     Relaxed
//!       wake                                          stamp != before? lapped             Relaxed
//!
//!                                                 a reader that found nothing
//!                                                     seen = head                         Relaxed
//!                                                 S2  fence                               Acquire
//!                                                     stamp >= ready n? poll again        Relaxed
//!                                                     sleep while head == seen
//!
//!   W2 with R1: who sees ready n sees the whole of message n, or parts of a newer one.
//!   W1 with R2: who saw a word of a newer message sees that the stamp or the floor has moved.
//!   S1 with S2: who saw the head behind message n sees its stamp, and does not sleep on that head.
//! ```
//!
//! The publisher's side is in `writer.rs`, a reader's in `reader.rs`.
//!
//! Stamps only grow and sequences are dense from 0, so a stamp tells a reader what it missed, exactly. The publisher
//! keeps its cursors in private memory and never reads the segment; readers treat everything in it as a claim.
//! A payload lies in one piece: one that would cross the arena's end begins at its start instead. The floor is one
//! store however many messages a large one buries, and none for the short ones that it is high enough for: it moves by a
//! sixteenth of the arena at a time for those, so that readers, who look at it after each, keep its line.
//!
//! `head` holds the next sequence twice over plus one bit, closed. It is a hint for those who join or were lapped, and
//! its low half is the futex word on which readers sleep; polling readers leave its cache line alone. A killed
//! publisher may leave it one behind, so readers drain by stamp.

use std::ops::Range;

use crate::layout::{FLOOR_WORD, Geometry, HEAD_WORD, MAX_SLOT_COUNT, SLOT_HEADER_WORDS};
use crate::sync::{Ordering, fence};
use crate::words::{LINE_WORDS, WORD_BYTES, Words};

mod flush;
mod reader;
mod values;
mod view;
mod writer;

pub(crate) use reader::{Course, Reader};
pub use reader::{OnLap, Poll, Received};
pub use values::Values;
pub use view::View;
pub(crate) use writer::{Place, Writer};

const STAMP: usize = 0;
const LENGTH: usize = 1;
const TIMESTAMP: usize = 2;
const TAG: usize = 3;
const BODY: usize = SLOT_HEADER_WORDS;
/// Set in the length word of a message whose payload lies in the arena.
const LARGE: u64 = 1 << 63;
/// The words of a slot with names: no slot has fewer.
const FIRST_WORDS: usize = BODY + 1;

const LINE_BYTES: usize = LINE_WORDS * WORD_BYTES;
/// Large payloads begin on a boundary of this many words, a cache line, so that no two share one.
const ARENA_ALIGN_WORDS: u64 = LINE_WORDS as u64;

/// The first sequence that there is not: a stamp has two bits for its state. A multiple of every slot count, so that a reader
/// under way needs to look for it only where a lap ends. At 100 million messages a second it takes 1,461 years.
pub(crate) const MAX_SEQUENCE: u64 = (1 << 62) - MAX_SLOT_COUNT;
const _: () = assert!(MAX_SEQUENCE.is_multiple_of(MAX_SLOT_COUNT));

const fn writing(sequence: u64) -> u64 {
    sequence << 2 | 1
}

const fn ready(sequence: u64) -> u64 {
    sequence << 2 | 2
}

const fn ended(sequence: u64) -> u64 {
    sequence << 2 | 3
}

/// How far the stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The sequence that the next message will have; how many there were.
    pub next: u64,
    /// Whether the publisher ended the stream: no message `next` will come.
    pub closed: bool,
}

/// Loads the head: a hint that may be one message behind, and a claim like all in the segment.
pub(crate) fn head(words: Words<'_>) -> Head {
    let word = words.load(HEAD_WORD);
    // S2, pairs with S1: the stamps that are looked at next are those of this head, or newer.
    fence(Ordering::Acquire);
    Head {
        next: (word >> 1).min(MAX_SEQUENCE),
        closed: word & 1 == 1,
    }
}

/// Slots that are looked at in one go: more than a ring has by default, and no more pages than a reader can afford to
/// touch in a segment that only seems to be there.
const MOST_LOOKS: u64 = 1 << 17;

/// The sequence of the oldest message from `since` on that can be read now. If there is none, that of the next to come, and
/// not before `since`. Looks as [`first_retained`] does.
pub(crate) fn oldest(geometry: &Geometry, words: Words<'_>, since: u64) -> u64 {
    let next = head(words).next;
    let first = next.saturating_sub(geometry.slot_count()).max(since);
    first_retained(geometry, words, first..next, 0).unwrap_or(next.max(first))
}

/// As [`oldest`], but behind the last message that is gone: short messages may outlive long ones that were before and behind
/// them.
///
/// Long ones are buried in order. So this halves what is in question by the first one behind its middle, until nothing is
/// left. Looks so at 131,072 slots at most, then as [`oldest`] does: only with that many short ones, in a ring of more, may
/// something be gone behind what it finds.
pub(crate) fn unbroken(geometry: &Geometry, words: Words<'_>, since: u64) -> u64 {
    let next = head(words).next;
    let first = next.saturating_sub(geometry.slot_count()).max(since);
    // No long one is so far above what is buried.
    let is_short = |&sequence: &u64| is_retained(geometry, words, sequence, u64::MAX);
    // Something before `low` is gone, or it is the first; from `high` on nothing is.
    let (mut low, mut high, mut looks) = (first, next, MOST_LOOKS);
    while low < high && looks > 0 {
        let middle = low + (high - low) / 2;
        let end = high.min(middle + looks);
        let telling = (middle..end).find(|sequence| !is_short(sequence));
        looks -= telling.unwrap_or(end) - middle;
        match telling {
            Some(sequence) if !is_retained(geometry, words, sequence, 0) => low = sequence + 1,
            _ => high = middle,
        }
    }
    first_retained(geometry, words, low..next, 0).unwrap_or(next.max(first))
}

/// The first of these messages that still stands, as far as [`is_retained`] tells.
///
/// Looks at 131,072 slots one by one, which are all of them in most rings. If those are gone, and the ring has more, it is
/// the arena that is short: then the rest is bisected, because its positions only grow. It is never sent past a message
/// behind which nothing is gone; it may be past a short one that stands between long ones that are buried.
fn first_retained(geometry: &Geometry, words: Words<'_>, sequences: Range<u64>, slack: u64) -> Option<u64> {
    let Range { start, end } = sequences;
    let is_retained = |sequence| is_retained(geometry, words, sequence, slack);
    let near = start.saturating_add(MOST_LOOKS).min(end);
    if let Some(first) = (start..near).find(|&sequence| is_retained(sequence)) {
        return Some(first);
    }
    // What is right before `low` is gone, and what is at `high` is not, unless it is the end.
    let (mut low, mut high) = (near, end);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_retained(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    (high < end).then_some(high)
}

/// Whether message `sequence` still stands, and if it is large, at least `slack` words above what is buried. A guess:
/// only reading it tells.
fn is_retained(geometry: &Geometry, words: Words<'_>, sequence: u64, slack: u64) -> bool {
    let slot = words.slice(geometry.slot_at(sequence), geometry.slot_words());
    let floor = words.load(FLOOR_WORD);
    let lowest = if floor == 0 { 0 } else { floor.saturating_add(slack) };
    slot.load(STAMP) == ready(sequence) && (slot.load(LENGTH) & LARGE == 0 || slot.load(BODY) >= lowest)
}

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(all(test, not(loom)))]
mod hostile;
#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(all(test, not(loom)))]
mod vast;
