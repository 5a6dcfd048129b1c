//! Whether a reader flushes what it has read out of the caches, and which slots when.
//!
//! A publisher that comes round again takes each line back from the caches of its readers. Between processors that share a
//! cache that takes a few nanoseconds, less than a line from memory. Between those that share none it takes ten times as long
//! as one from memory, and a stream is as slow as that. So a reader of a stream tries it out: it reads a few laps of the ring
//! as it did, a few the other way and a few as before, goes on in the quicker one, and tries again later, since virtual
//! processors move.
//!
//! A payload in the arena is flushed whole, and that touches what the reader skipped. So before a trial one of them is timed: who
//! takes less than it takes to look at all of it does not try.
//!
//! ```text
//!   rest  ->  time laps  ->  change, settle, time laps  ->  change back, settle, time laps  ->  keep one of them, rest
//! ```

use std::time::{Duration, Instant};

use super::LINE_BYTES;
#[cfg(not(loom))]
use crate::clock::counter;
use crate::layout::{Geometry, SLOT_STEP_BYTES};
use crate::words::Words;

/// How many messages behind the one that it reads a reader flushes slots, if it does, and how many at a time: they begin and end
/// with a cache line, and a line that is flushed twice takes longer than two.
const BEHIND: u64 = 32;
const TOGETHER: u64 = 8;
const _: () =
    assert!((TOGETHER * SLOT_STEP_BYTES).is_multiple_of(LINE_BYTES as u64) && BEHIND.is_multiple_of(TOGETHER));
/// The fewest slots of a ring in which it is worth a thought.
pub(super) const LEAST_SLOTS: u64 = 8 * BEHIND;

/// Messages after which it is known how long they are, and so how many are a lap.
const FIRST_MESSAGES: u64 = 16;
/// Laps and time before the first look: memory that is touched for the first time tells nothing, nor does a publisher that has
/// lines of its own alone.
const FIRST_LAPS: u64 = 4;
const FIRST_REST: Duration = Duration::from_millis(20);
/// Laps that are timed each time. The quickest counts: a stream may pause.
const LAPS: u32 = 2;
/// Nanoseconds. A stream of which a cache line takes less comes from near, or its reader takes all the time, and would lose
/// messages if it had more to do. (Between processors that share no cache the quickest that was seen takes 6.)
const QUICK_NS: f64 = 5.0;
/// Flushing is worth it if a message takes less than this share of the time.
const WORTH: f64 = 0.9;
/// Cache lines that nobody looks at in one tick of the processor's counter, a quarter or half of a nanosecond: who takes less
/// for a payload skips most of it.
const LINES_A_TICK: u64 = 2;
/// Longer payloads are not flushed: no cache keeps them.
pub(super) const LONGEST_BYTES: usize = 16 << 20;
/// How long it is from one trial to the next at least, and in times of the last trial.
const REST: Duration = Duration::from_millis(500);
const REST_IN_TRIALS: u32 = 50;

#[cfg(loom)]
const fn counter() -> u64 {
    0
}

/// What a reader has found out.
#[derive(Debug, Clone)]
pub(super) struct Flushing {
    is_on: bool,
    /// The cursor at which there may be something to do.
    due: u64,
    /// Whether laps were made since the reader was placed.
    is_warm: bool,
    /// When the next trial may begin.
    rests_until: Option<Instant>,
    reading: Reading,
    trial: Option<Trial>,
}

/// What is known of how payloads in the arena are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Unknown,
    /// The next one is timed: the cursor and the processor's counter when the reader set out to look for it.
    Timed {
        cursor: u64,
        began: u64,
    },
    /// One took so many ticks.
    Took(u64),
}

#[derive(Debug, Clone)]
struct Trial {
    began: Instant,
    /// Nanoseconds for a message as it was, and the other way, as far as they are known.
    before: [Option<f64>; 2],
    is_settling: bool,
    /// When the lap began, and how many messages had been read.
    lap_began: Instant,
    lap_read: u64,
    /// Laps that were timed since it began or the last change, and the least nanoseconds that a message took in one.
    laps: u32,
    least_ns: f64,
}

impl Trial {
    const fn begin(now: Instant, read: u64) -> Self {
        Self {
            began: now,
            before: [None; 2],
            is_settling: false,
            lap_began: now,
            lap_read: read,
            laps: 0,
            least_ns: f64::INFINITY,
        }
    }

    /// A lap was made: what a message takes, if enough laps were.
    fn lap(&mut self, now: Instant, read: u64) -> Option<f64> {
        if !self.is_settling {
            let passed = now.duration_since(self.lap_began).as_nanos() as f64;
            self.least_ns = self.least_ns.min(passed / read.saturating_sub(self.lap_read) as f64);
            self.laps += 1;
        }
        self.is_settling = false;
        self.lap_began = now;
        self.lap_read = read;
        (self.laps == LAPS).then_some(self.least_ns)
    }

    /// The way changes.
    const fn change(&mut self) {
        self.is_settling = true;
        self.laps = 0;
        self.least_ns = f64::INFINITY;
    }
}

impl Flushing {
    /// For a reader at `cursor`.
    pub(super) const fn new(cursor: u64) -> Self {
        Self {
            is_on: false,
            due: cursor.saturating_add(FIRST_MESSAGES),
            is_warm: false,
            rests_until: None,
            reading: Reading::Unknown,
            trial: None,
        }
    }

    #[inline]
    pub(super) const fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether it is to be told how far the reader is, now that it is at `cursor`.
    #[inline]
    pub(super) const fn is_due(&self, cursor: u64) -> bool {
        cursor >= self.due
    }

    /// The reader was placed at `cursor`.
    pub(super) fn replace(&mut self, cursor: u64) {
        *self = Self::new(cursor);
    }

    /// As if it had found out that flushing is worth it.
    #[cfg(all(test, not(loom)))]
    pub(super) const fn set_on(&mut self) {
        self.is_on = true;
    }

    /// Whether it must be known first how long a payload of so many `lines` takes to be read, or that was far too short a time,
    /// now that the reader is at `cursor`. It comes round the ring in `lap` messages.
    pub(super) fn times_reading(&mut self, cursor: u64, lines: u64, lap: u64, now: Instant) -> bool {
        if !self.is_warm || self.trial.is_some() || self.rests_until.is_some_and(|end| now < end) {
            return false;
        }
        match self.reading {
            Reading::Took(ticks) if ticks < lines / LINES_A_TICK => {
                self.is_on = false;
                self.rest(cursor, lap, now.checked_add(REST));
                true
            }
            Reading::Took(_) => false,
            // If none came meanwhile, none need be flushed.
            Reading::Timed { cursor: since, .. } if since != cursor => false,
            Reading::Timed { .. } | Reading::Unknown => {
                let began = counter();
                self.reading = Reading::Timed { cursor, began };
                true
            }
        }
    }

    /// A payload in the arena was read.
    #[inline(always)]
    pub(super) fn note_read(&mut self) {
        if let Reading::Timed { began, .. } = self.reading {
            self.reading = Reading::Took(counter().wrapping_sub(began));
        }
    }

    /// Asks for nothing until the end of the rest, and then when the reader comes round.
    const fn rest(&mut self, cursor: u64, lap: u64, until: Option<Instant>) {
        self.due = cursor.saturating_add(lap);
        self.rests_until = until;
        self.reading = Reading::Unknown;
        self.trial = None;
    }

    /// Never again: this machine cannot.
    pub(super) const fn give_up(&mut self) {
        self.due = u64::MAX;
    }

    /// The reader is at `cursor` and has read `read` messages so far, of so many `lines` each. It comes round the ring in `lap`
    /// messages.
    pub(super) fn go_on(&mut self, cursor: u64, read: u64, lap: u64, lines: u64, now: Instant) {
        if !self.is_warm {
            self.is_warm = true;
            self.due = cursor.saturating_add(FIRST_LAPS * lap);
            self.rests_until = now.checked_add(FIRST_REST);
            return;
        }
        self.due = cursor.saturating_add(lap);
        let Some(trial) = &mut self.trial else {
            if self.rests_until.is_none_or(|end| now >= end) {
                self.trial = Some(Trial::begin(now, read));
            }
            return;
        };
        let Some(ns) = trial.lap(now, read) else { return };
        match trial.before {
            [None, _] if !self.is_on && ns < QUICK_NS * lines as f64 => {
                self.reading = Reading::Unknown;
                self.trial = None;
            }
            [None, _] => {
                trial.before = [Some(ns), None];
                trial.change();
                self.is_on = !self.is_on;
            }
            [first, None] => {
                trial.before = [first, Some(ns)];
                trial.change();
                self.is_on = !self.is_on;
            }
            [Some(first), Some(other)] => {
                let now_ns = ns.min(first);
                let (with, without) = if self.is_on { (now_ns, other) } else { (other, now_ns) };
                self.is_on = with < WORTH * without;
                let trial = now.duration_since(trial.began);
                self.rest(cursor, lap, now.checked_add(REST.max(trial * REST_IN_TRIALS)));
            }
        }
    }
}

/// Flushes some slots that were read a while ago, when it is their turn. Calls nothing, for which registers would have to be kept
/// while there is nothing to flush.
#[inline(always)]
pub(super) fn flush_behind(geometry: &Geometry, words: Words<'_>, sequence: u64) {
    if !sequence.is_multiple_of(TOGETHER) {
        return;
    }
    let slot = geometry.slot_at(sequence.wrapping_sub(BEHIND));
    if let Some(spent) = words.get(slot, TOGETHER as usize * geometry.slot_words()) {
        spent.flush();
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
