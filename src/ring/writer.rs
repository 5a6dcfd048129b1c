//! The publisher's end of the ring: where a message belongs, and the order in which its words become visible.

use super::{
    ARENA_ALIGN_WORDS, BODY, FIRST_WORDS, LARGE, LENGTH, LINE_BYTES, LINE_WORDS, STAMP, TAG, TIMESTAMP, ended, ready,
    writing,
};
use crate::copy;
use crate::layout::{FLOOR_WORD, Geometry, HEAD_WORD};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::words::words_for;

/// How far ahead of a small message the publisher asks for lines: for 16 of the default size.
const AHEAD_BYTES: usize = 2 * copy::STORE_AHEAD_BYTES;
/// For payloads of which at least `SHORT_IN_STEP` make a step, the floor moves by such a share of the arena at a time: a
/// reader looks at it after every large message, and finds its line in its own cache for as long as it stays. (In a model
/// a step is half of the arena.)
const FLOOR_STEPS: u64 = if cfg!(loom) { 2 } else { 16 };
const SHORT_IN_STEP: u64 = if cfg!(loom) { 1 } else { 4 };

/// The publisher's end. Its cursors are private; the segment's words are passed in and only stored to.
#[derive(Debug)]
pub(crate) struct Writer {
    geometry: Geometry,
    /// The sequence that the next message gets.
    next: u64,
    /// Absolute word position in the arena behind the newest large payload.
    position: u64,
    /// What the floor word holds; it only grows.
    floor: u64,
}

/// Where the payload of a message that was begun belongs: a range of the segment's words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// First word of the message's slot.
    slot: usize,
    /// First word of the payload.
    pub(crate) start: usize,
    /// The arena position of a large payload.
    position: Option<u64>,
}

impl Writer {
    pub(crate) const fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            next: 0,
            position: 0,
            floor: 0,
        }
    }

    /// Goes on as if so much had been published before.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn go_on_from(&mut self, memory: &[AtomicU64], sequence: u64, position: u64) {
        self.next = sequence;
        self.position = position;
        memory[HEAD_WORD].store(sequence << 1, Ordering::Relaxed);
    }

    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    pub(crate) const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Opens the next slot for a payload of `len` bytes, at most the geometry's maximum. May be called again for the
    /// same sequence, when a message that was begun is given up.
    #[inline]
    pub(crate) fn begin(&mut self, memory: &[AtomicU64], len: usize) -> Place {
        debug_assert!(len <= self.geometry.max_message_bytes());
        let slot = self.geometry.slot_at(self.next);
        first_words(memory, slot)[STAMP].store(writing(self.next), Ordering::Relaxed);
        let place = if len <= self.geometry.inline_bytes() {
            Place {
                slot,
                start: slot + BODY,
                position: None,
            }
        } else {
            let (start, position) = self.bury(memory, words_for(len) as u64);
            Place {
                slot,
                start,
                position: Some(position),
            }
        };
        // W1, pairs with R2: no word of this message may become visible before the stamp and the floor above.
        fence(Ordering::Release);
        place
    }

    /// Asks for the second line of the slot that was begun, which takes as long as the first to come: for a lone message. In a
    /// batch both were asked for sixteen messages before.
    #[inline]
    pub(crate) fn expect_next_line(&self, memory: &[AtomicU64], place: &Place) {
        if place.position.is_none() {
            expect_next_line(&memory[place.slot..place.slot + self.geometry.slot_words()]);
        }
    }

    /// Where the next large payload, of `words` words, begins: behind the last one, or at the arena's start if it would
    /// cross its end.
    #[inline]
    const fn next_position(&self, words: u64) -> u64 {
        let arena = self.geometry.arena_words();
        let offset = self.position & (arena - 1);
        if offset + words > arena {
            self.position + (arena - offset)
        } else {
            self.position
        }
    }

    /// The floor with which `words` may be stored at `position`: every large payload below it is lost. It only grows; if it must
    /// for a short payload, then by a step more than that needs, which those that follow use up.
    #[inline]
    const fn floor_under(&self, position: u64, words: u64) -> u64 {
        let arena = self.geometry.arena_words();
        let needed = (position + words).saturating_sub(arena);
        // A message that was given up may have moved the floor further already.
        if needed <= self.floor {
            return self.floor;
        }
        let step = arena / FLOOR_STEPS;
        if words <= step / SHORT_IN_STEP {
            needed + step
        } else {
            needed
        }
    }

    /// The floor that a message of `len` bytes asks for: every large payload below it is lost. 0 if it lies in its slot.
    pub(crate) fn floor_for(&self, len: usize) -> u64 {
        if len <= self.geometry.inline_bytes() {
            return 0;
        }
        let words = words_for(len) as u64;
        self.floor_under(self.next_position(words), words)
    }

    /// The oldest large message from `since` on: its sequence and its position in the arena. Looks at every slot up to
    /// it, once.
    pub(crate) fn first_large(&self, memory: &[AtomicU64], since: u64) -> Option<(u64, u64)> {
        // Relaxed: this publisher wrote these words itself, and nobody else can.
        let load = |sequence: u64, word: usize| memory[self.geometry.slot_at(sequence) + word].load(Ordering::Relaxed);
        let retained = self.next.saturating_sub(self.geometry.slot_count());
        (since.max(retained)..self.next)
            .find(|&sequence| load(sequence, LENGTH) & LARGE != 0)
            .map(|sequence| (sequence, load(sequence, BODY)))
    }

    /// Finds room for `words` in the arena and moves the floor over all that this buries.
    #[inline]
    fn bury(&mut self, memory: &[AtomicU64], words: u64) -> (usize, u64) {
        let arena = self.geometry.arena_words();
        let position = self.next_position(words);
        // Kept also if the message is given up: the next must not begin below the floor that is raised here.
        self.position = position;
        let floor = self.floor_under(position, words);
        if floor != self.floor {
            self.floor = floor;
            memory[FLOOR_WORD].store(floor, Ordering::Relaxed);
        }
        let start = self.geometry.arena_at() + (position & (arena - 1)) as usize;
        (start, position)
    }

    /// Makes the message in `place`, of `len` bytes, visible. Returns its sequence.
    #[inline]
    pub(crate) fn commit(
        &mut self,
        memory: &[AtomicU64],
        place: Place,
        len: usize,
        timestamp_ns: u64,
        tag: u64,
    ) -> u64 {
        let slot = first_words(memory, place.slot);
        let large = match place.position {
            None => 0,
            Some(position) => {
                slot[BODY].store(position, Ordering::Relaxed);
                self.position = (position + words_for(len) as u64).next_multiple_of(ARENA_ALIGN_WORDS);
                LARGE
            }
        };
        slot[LENGTH].store(len as u64 | large, Ordering::Relaxed);
        slot[TIMESTAMP].store(timestamp_ns, Ordering::Relaxed);
        slot[TAG].store(tag, Ordering::Relaxed);
        let sequence = self.show(&memory[HEAD_WORD], &slot[STAMP]);
        expect_ahead(&slot[STAMP]);
        sequence
    }

    /// Publishes `payload`, at most the geometry's maximum. Returns its sequence. `now_ns` is asked for the time behind a small
    /// payload, so that the clock is read while the slot's cache lines are on their way from its readers, and so that the
    /// other stores leave together: a reader that looks between two of them takes the line away.
    #[inline]
    pub(crate) fn publish(
        &mut self,
        memory: &[AtomicU64],
        payload: &[u8],
        now_ns: impl FnOnce() -> u64,
        tag: u64,
    ) -> u64 {
        if payload.len() <= self.geometry.inline_bytes() {
            self.publish_small(memory, payload, now_ns, tag)
        } else {
            self.publish_large(memory, payload, now_ns(), tag)
        }
    }

    /// Publishes a payload that lies in its slot.
    #[inline]
    fn publish_small(&mut self, memory: &[AtomicU64], payload: &[u8], now_ns: impl FnOnce() -> u64, tag: u64) -> u64 {
        if copy::is_whole(payload.len()) {
            self.publish_in_slot(memory, payload, now_ns, tag, copy::store_whole)
        } else {
            self.publish_in_slot(memory, payload, now_ns, tag, copy::store)
        }
    }

    /// Publishes a payload in its slot, where `store` puts it: compiled once for each, so that the usual one calls nothing.
    #[inline(always)]
    fn publish_in_slot(
        &mut self,
        memory: &[AtomicU64],
        payload: &[u8],
        now_ns: impl FnOnce() -> u64,
        tag: u64,
        store: impl FnOnce(&[AtomicU64], &[u8]),
    ) -> u64 {
        let sequence = self.next;
        let at = self.geometry.slot_at(sequence);
        let head = &memory[HEAD_WORD];
        let slot = &memory[at..at + self.geometry.slot_words()];
        let (first, body) = slot.split_first_chunk::<BODY>().expect("a slot has more words");
        first[STAMP].store(writing(sequence), Ordering::Relaxed);
        // W1, pairs with R2: no word of this message may become visible before the stamp above.
        fence(Ordering::Release);
        expect_next_line(slot);
        first[LENGTH].store(payload.len() as u64, Ordering::Relaxed);
        first[TAG].store(tag, Ordering::Relaxed);
        store(body, payload);
        first[TIMESTAMP].store(now_ns(), Ordering::Relaxed);
        self.show(head, &first[STAMP]);
        expect_ahead(&first[STAMP]);
        sequence
    }

    /// Publishes a payload that lies in the arena.
    #[inline(never)]
    fn publish_large(&mut self, memory: &[AtomicU64], payload: &[u8], timestamp_ns: u64, tag: u64) -> u64 {
        let place = self.begin(memory, payload.len());
        copy::store(&memory[place.start..], payload);
        self.commit(memory, place, payload.len(), timestamp_ns, tag)
    }

    /// Makes the message whose slot has this stamp visible. Returns its sequence.
    #[inline]
    fn show(&mut self, head: &AtomicU64, stamp: &AtomicU64) -> u64 {
        let sequence = self.next;
        // W2, pairs with R1: who sees this stamp sees the message.
        stamp.store(ready(sequence), Ordering::Release);
        self.next = sequence + 1;
        // S1, pairs with S2: who sees this head sees the stamp above.
        head.store(self.next << 1, Ordering::Release);
        sequence
    }

    /// Ends the stream. Nothing may be published after it.
    pub(crate) fn close(&mut self, memory: &[AtomicU64]) {
        let slot = self.geometry.slot_at(self.next);
        // Relaxed: no words belong to it, and since each slot is polled in turn, who sees the end has seen all before it.
        memory[slot + STAMP].store(ended(self.next), Ordering::Relaxed);
        // S1, pairs with S2: who sees this head sees the stamp above.
        memory[HEAD_WORD].store(self.next << 1 | 1, Ordering::Release);
    }
}

/// The words with names of the slot that begins at word `at`.
#[inline]
fn first_words(memory: &[AtomicU64], at: usize) -> &[AtomicU64; FIRST_WORDS] {
    memory[at..at + FIRST_WORDS]
        .try_into()
        .expect("as many as were cut out")
}

/// Asks for the second line of a slot whose first is being stored to.
#[inline]
fn expect_next_line(slot: &[AtomicU64]) {
    if let Some(next_line) = slot.get(LINE_WORDS) {
        copy::prefetch_to_store::<0>(next_line);
    }
}

/// Asks for the lines of a slot that is soon to be stored to. To be called behind the stamp, which somebody may be waiting
/// for.
#[inline]
fn expect_ahead(stamp: &AtomicU64) {
    copy::prefetch_to_store::<AHEAD_BYTES>(stamp);
    copy::prefetch_to_store::<{ AHEAD_BYTES + LINE_BYTES }>(stamp);
}
