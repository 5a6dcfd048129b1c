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
//!       large: floor = end - arena     Relaxed    R1  fence                               Acquire
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
//! Stamps only grow and sequences are dense from 0, so a stamp tells a reader what it missed, exactly. The publisher
//! keeps its cursors in private memory and never reads the segment; readers treat everything in it as a claim.
//! A payload lies in one piece: one that would cross the arena's end begins at its start instead. The floor is one
//! store however many messages a large one buries.
//!
//! `head` holds the next sequence twice over plus one bit, closed. It is a hint for those who join or were lapped, and
//! its low half is the futex word on which readers sleep; polling readers leave its cache line alone. A killed
//! publisher may leave it one behind, so readers drain by stamp.

use crate::copy;
use crate::layout::{FLOOR_WORD, Geometry, HEAD_WORD, SLOT_HEADER_WORDS};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::words::{WORD_BYTES, WordArray, Words, words_for};

mod values;

mod view;

pub use values::Values;
pub use view::View;

const STAMP: usize = 0;
const LENGTH: usize = 1;
const TIMESTAMP: usize = 2;
const TAG: usize = 3;
const BODY: usize = SLOT_HEADER_WORDS;
/// Set in the length word of a message whose payload lies in the arena.
const LARGE: u64 = 1 << 63;
/// The words of a slot with names: no slot has fewer.
const FIRST_WORDS: usize = BODY + 1;

/// Words of a cache line.
const LINE_WORDS: usize = 8;
/// Large payloads begin on a boundary of this many words, a cache line, so that no two share one.
const ARENA_ALIGN_WORDS: u64 = LINE_WORDS as u64;

/// How far ahead of a small message the publisher asks for lines: for 16 of the default size.
const AHEAD_WORDS: usize = 2 * copy::STORE_AHEAD_BYTES / WORD_BYTES;

/// Sequences end here: a stamp has two bits for its state. At 100 million messages a second it takes 1,461 years.
pub(crate) const MAX_SEQUENCE: u64 = (1 << 62) - 1;

const fn writing(sequence: u64) -> u64 {
    sequence << 2 | 1
}

const fn ready(sequence: u64) -> u64 {
    sequence << 2 | 2
}

const fn ended(sequence: u64) -> u64 {
    sequence << 2 | 3
}

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
    /// First word.
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

    /// One that has come far already: for tests.
    #[cfg(all(test, not(loom)))]
    pub(crate) const fn far_along(geometry: Geometry, next: u64, position: u64) -> Self {
        Self {
            geometry,
            next,
            position,
            floor: 0,
        }
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
        memory[slot..][STAMP].store(writing(self.next), Ordering::Relaxed);
        let place = if len <= self.geometry.inline_bytes() {
            Place {
                start: slot + BODY,
                position: None,
            }
        } else {
            self.bury(memory, words_for(len) as u64)
        };
        // W1, pairs with R2: no word of this message may become visible before the stamp and the floor above.
        fence(Ordering::Release);
        place
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

    /// The floor that a message of `len` bytes asks for: every large payload below it is overwritten. 0 if it lies in
    /// its slot.
    pub(crate) fn floor_for(&self, len: usize) -> u64 {
        if len <= self.geometry.inline_bytes() {
            return 0;
        }
        let words = words_for(len) as u64;
        (self.next_position(words) + words).saturating_sub(self.geometry.arena_words())
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
    fn bury(&mut self, memory: &[AtomicU64], words: u64) -> Place {
        let arena = self.geometry.arena_words();
        let position = self.next_position(words);
        // Kept also if the message is given up: the next must not begin below the floor that is raised here.
        self.position = position;
        let floor = (position + words).saturating_sub(arena);
        // A message that was given up may have moved the floor further already.
        if floor > self.floor {
            self.floor = floor;
            memory[FLOOR_WORD].store(floor, Ordering::Relaxed);
        }
        let start = self.geometry.arena_at() + (position & (arena - 1)) as usize;
        Place {
            start,
            position: Some(position),
        }
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
        let rest = &memory[self.geometry.slot_at(self.next)..];
        let slot: &[_; FIRST_WORDS] = rest.first_chunk().expect("a slot has more words");
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
        expect_ahead(rest);
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
        let rest = &memory[at..];
        let slot = &rest[..self.geometry.slot_words()];
        let (first, body) = slot.split_first_chunk::<BODY>().expect("a slot has more words");
        first[STAMP].store(writing(sequence), Ordering::Relaxed);
        // W1, pairs with R2: no word of this message may become visible before the stamp above.
        fence(Ordering::Release);
        if let Some(next_line) = body.get(LINE_WORDS - BODY) {
            copy::prefetch_to_store(next_line);
        }
        first[LENGTH].store(payload.len() as u64, Ordering::Relaxed);
        first[TAG].store(tag, Ordering::Relaxed);
        store(body, payload);
        first[TIMESTAMP].store(now_ns(), Ordering::Relaxed);
        self.show(head, &first[STAMP]);
        expect_ahead(rest);
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

/// Asks for the lines of a slot that is soon to be stored to. `rest` is the memory from the present slot on. To be called
/// behind the stamp, which somebody may be waiting for.
#[inline]
fn expect_ahead(rest: &[AtomicU64]) {
    if let Some([line, .., next_line]) = rest.get(AHEAD_WORDS..=AHEAD_WORDS + LINE_WORDS) {
        copy::prefetch_to_store(line);
        copy::prefetch_to_store(next_line);
    }
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
const MOST_LOOKS: usize = 1 << 17;

/// The sequence of the oldest message from `since` on that can be read now, or the head if there is none. Looks at
/// 131,072 slots at most, and at each at most once.
pub(crate) fn oldest(geometry: &Geometry, words: Words<'_>, since: u64) -> u64 {
    let next = head(words).next;
    let first = next.saturating_sub(geometry.slot_count()).max(since);
    (first..next)
        .take(MOST_LOOKS)
        .find(|&sequence| is_retained(geometry, words, sequence, 0))
        .unwrap_or(next)
}

/// Whether message `sequence` still stands, and if it is large, at least `slack` words above what is buried. A guess:
/// only reading it tells.
fn is_retained(geometry: &Geometry, words: Words<'_>, sequence: u64, slack: u64) -> bool {
    let slot = words.slice(geometry.slot_at(sequence), geometry.slot_words());
    let floor = words.load(FLOOR_WORD);
    let lowest = if floor == 0 { 0 } else { floor.saturating_add(slack) };
    slot.load(STAMP) == ready(sequence) && (slot.load(LENGTH) & LARGE == 0 || slot.load(BODY) >= lowest)
}

/// A message that was read: where it stood, and what was made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<T> {
    /// Its place in the stream, from 0.
    pub sequence: u64,
    /// When it was published, in nanoseconds since 1970 on the server's clock.
    pub timestamp_ns: u64,
    /// The publisher's 64 bits to sort messages by.
    pub tag: u64,
    /// Bytes of its payload.
    pub len: usize,
    /// What the reading closure made of it.
    pub value: T,
}

/// What one poll found. Losing messages is news, not an error: the stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a poll that is not looked at may hide lost messages"]
#[non_exhaustive]
pub enum Poll<T> {
    /// The next message.
    Message(Received<T>),
    /// The next message is not there yet.
    Empty,
    /// The publisher overwrote messages before they were read: `first..first + missed` are lost. The next poll goes on
    /// behind them.
    Lapped {
        /// The first sequence that was lost.
        first: u64,
        /// How many were lost, exactly.
        missed: u64,
    },
    /// The publisher ended the stream and all of it has been read.
    Ended,
    /// The publisher died without ending the stream, and all that it published has been read. Only a blocking receive
    /// finds this out.
    Dead,
    /// The segment breaks the protocol at this sequence: whoever writes it cannot be believed. Nothing more will come.
    Corrupt {
        /// Where it was noticed.
        sequence: u64,
    },
}

impl<T> Poll<T> {
    /// The same, with what `f` makes of a message's value.
    #[inline]
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Poll<U> {
        match self {
            Self::Message(Received {
                sequence,
                timestamp_ns,
                tag,
                len,
                value,
            }) => Poll::Message(Received {
                sequence,
                timestamp_ns,
                tag,
                len,
                value: f(value),
            }),
            Self::Empty => Poll::Empty,
            Self::Lapped { first, missed } => Poll::Lapped { first, missed },
            Self::Ended => Poll::Ended,
            Self::Dead => Poll::Dead,
            Self::Corrupt { sequence } => Poll::Corrupt { sequence },
        }
    }
}

/// Where a lapped reader goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLap {
    /// At the oldest message that it has a fair chance to read before the publisher is there again: a quarter of the
    /// ring ahead of it.
    #[default]
    Retained,
    /// At the newest message.
    Newest,
}

/// The first words of a slot, as a reader sees them.
type Slot<'a> = WordArray<'a, FIRST_WORDS>;

/// A reader's end: a cursor. The segment's words are passed in and only loaded from.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    geometry: Geometry,
    /// The sequence wanted next.
    cursor: u64,
    on_lap: OnLap,
    /// Where it was placed: what it misses there was gone before it came.
    placed: u64,
    /// It is given a head start where it was overtaken.
    is_chased: bool,
    /// Words of the last payload that it read in the arena.
    large_words: u64,
}

impl Reader {
    pub(crate) fn new(geometry: Geometry, cursor: u64) -> Self {
        Self {
            geometry,
            cursor: cursor.min(MAX_SEQUENCE),
            on_lap: OnLap::Retained,
            placed: cursor.min(MAX_SEQUENCE),
            is_chased: true,
            large_words: 0,
        }
    }

    pub(crate) const fn on_lap(mut self, on_lap: OnLap) -> Self {
        self.on_lap = on_lap;
        self
    }

    /// Whether the publisher may overtake it. One with a claim may miss what was overwritten before that, and then goes on
    /// at the very next message that is there.
    pub(crate) const fn set_chased(&mut self, is_chased: bool) {
        self.is_chased = is_chased;
    }

    pub(crate) const fn cursor(&self) -> u64 {
        self.cursor
    }

    pub(crate) fn seek(&mut self, cursor: u64) {
        self.cursor = cursor.min(MAX_SEQUENCE);
        self.placed = self.cursor;
    }

    /// Whether a poll would find anything but `Empty`. Loads one word.
    #[inline]
    pub(crate) fn is_ready(&self, words: Words<'_>) -> bool {
        let at = self.geometry.slot_at(self.cursor);
        let stamp = words.load(at + STAMP);
        expect(&self.geometry, words, at, self.cursor, stamp);
        stamp >= ready(self.cursor)
    }

    /// Whether message `sequence`, or a newer one in its slot, is wholly there, or the stream ended before it. What its
    /// publisher stored for it, and before it, is seen by the loads that follow.
    pub(crate) fn is_there(&self, words: Words<'_>, sequence: u64) -> bool {
        let stamp = words.load(self.geometry.slot_at(sequence) + STAMP);
        // R1, pairs with W2.
        fence(Ordering::Acquire);
        stamp >= ready(sequence)
    }

    /// How many messages are an eighth of what the ring retains, if they go on as they were.
    pub(crate) fn eighth(&self) -> u64 {
        let slots = self.geometry.slot_count();
        let messages = self.geometry.arena_words().checked_div(self.large_words);
        messages.map_or(slots, |messages| messages.min(slots)) / 8
    }

    /// The head word, to sleep for as long as it stays the same; `None` if a poll would find something.
    pub(crate) fn sleep_word(&self, words: Words<'_>) -> Option<u64> {
        let seen = words.load(HEAD_WORD);
        // S2, pairs with S1: a message whose head was seen above is seen below.
        fence(Ordering::Acquire);
        (!self.is_ready(words)).then_some(seen)
    }

    /// Looks once at the slot that the cursor points at. `read` makes what it wants of the message in place; its
    /// result counts only if the message was not overwritten meanwhile.
    #[inline(always)]
    pub(crate) fn poll<'w, R>(&mut self, words: Words<'w>, read: impl FnOnce(View<'w>) -> R) -> Poll<R> {
        self.course().poll(words, read)
    }

    /// Sets out to look at many slots in a row.
    #[inline(always)]
    pub(crate) const fn course(&mut self) -> Course<'_> {
        Course {
            geometry: self.geometry,
            cursor: self.cursor,
            reader: self,
        }
    }

    /// What keeps the message at the cursor from being read.
    #[cold]
    fn obstacle(&mut self, words: Words<'_>, odd: Odd) -> Obstacle {
        match odd {
            Odd::NotReady(stamp) => self.not_ready(words, stamp),
            Odd::Implausible => self.implausible(words),
            Odd::Overtaken => self.lapped(words),
        }
    }

    /// Length and position made no sense: they are of a newer message, or the publisher breaks the protocol.
    fn implausible(&mut self, words: Words<'_>) -> Obstacle {
        // R2, pairs with W1: had a newer message been begun, its stamp is seen now.
        fence(Ordering::Acquire);
        if words.load(self.geometry.slot_at(self.cursor) + STAMP) == ready(self.cursor) {
            return Obstacle::Corrupt { sequence: self.cursor };
        }
        self.lapped(words)
    }

    fn not_ready(&mut self, words: Words<'_>, stamp: u64) -> Obstacle {
        if stamp == ended(self.cursor) {
            return Obstacle::Ended;
        }
        let ahead = (stamp >> 2) - self.cursor;
        if !ahead.is_multiple_of(self.geometry.slot_count()) {
            return Obstacle::Corrupt { sequence: self.cursor };
        }
        self.lapped(words)
    }

    /// Moves the cursor past what was overwritten. Looks at 131,072 slots at most.
    fn lapped(&mut self, words: Words<'_>) -> Obstacle {
        let first = self.cursor;
        if first >= MAX_SEQUENCE {
            return Obstacle::Corrupt { sequence: first };
        }
        let head = head(words).next;
        // A reader that comes late is given the oldest there is; one that was overtaken, a head start.
        let share = u64::from(self.is_chased && first != self.placed);
        let slots = self.geometry.slot_count();
        self.cursor = match self.on_lap {
            OnLap::Newest => (first + 1).max(head.saturating_sub(1)),
            OnLap::Retained => {
                let start = (first + 1).max(head.saturating_sub(slots - slots / 4 * share));
                let is_retained = |next, slack| is_retained(&self.geometry, words, next, slack);
                let slack = self.geometry.arena_words() / 4 * share;
                // A message may be so large that only the newest of its kind is there at all.
                let newest = || (start..head).next_back().filter(|&next| is_retained(next, 0));
                (start..head)
                    .take(MOST_LOOKS)
                    .find(|&next| is_retained(next, slack))
                    .or_else(newest)
                    .unwrap_or(start.max(head))
            }
        };
        Obstacle::Lapped {
            first,
            missed: self.cursor - first,
        }
    }
}

/// A reader under way: its cursor and the sizes of the ring in registers, where a poll of its own would load and store them
/// each time. The reader goes on where this one was when it is dropped.
#[derive(Debug)]
pub(crate) struct Course<'a> {
    geometry: Geometry,
    cursor: u64,
    reader: &'a mut Reader,
}

impl Course<'_> {
    pub(crate) const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// As [`Reader::set_chased`].
    pub(crate) const fn set_chased(&mut self, is_chased: bool) {
        self.reader.set_chased(is_chased);
    }

    /// As [`Reader::poll`].
    #[inline(always)]
    pub(crate) fn poll<'w, R>(&mut self, words: Words<'w>, read: impl FnOnce(View<'w>) -> R) -> Poll<R> {
        match look_at(&self.geometry, words, self.cursor, read) {
            Ok((message, position)) => {
                if position.is_some() {
                    self.reader.large_words = words_for(message.len) as u64;
                }
                self.cursor += 1;
                Poll::Message(message)
            }
            Err(Odd::NotReady(stamp)) if stamp < ready(self.cursor) => {
                let at = self.geometry.slot_at(self.cursor);
                expect(&self.geometry, words, at, self.cursor, stamp);
                Poll::Empty
            }
            Err(odd) => {
                self.reader.cursor = self.cursor;
                let obstacle = self.reader.obstacle(words, odd);
                self.cursor = self.reader.cursor;
                obstacle.told()
            }
        }
    }
}

impl Drop for Course<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.reader.cursor = self.cursor;
    }
}

/// Asks for the second line of the slot at word `at`, where message `sequence` is waited for, so that it comes together with
/// the stamp and not after it. Not once the message is being written: that would take the line away from its publisher.
#[inline]
fn expect(geometry: &Geometry, words: Words<'_>, at: usize, sequence: u64, stamp: u64) {
    if stamp < writing(sequence) {
        words.prefetch(at + LINE_WORDS.min(geometry.slot_words() - 1));
    }
}

/// Looks at the slot of message `sequence`: the message and its position, if it is large.
#[inline(always)]
fn look_at<'w, R>(
    geometry: &Geometry,
    words: Words<'w>,
    sequence: u64,
    read: impl FnOnce(View<'w>) -> R,
) -> Result<(Received<R>, Option<u64>), Odd> {
    let at = geometry.slot_at(sequence);
    let slot = words.array::<FIRST_WORDS>(at);
    let before = slot.load(STAMP);
    if before != ready(sequence) {
        return Err(Odd::NotReady(before));
    }
    // R1, pairs with W2: the loads below see this message or a newer one.
    fence(Ordering::Acquire);
    if sequence >= MAX_SEQUENCE {
        return Err(Odd::Implausible);
    }
    let (len, timestamp_ns, tag) = (slot.load(LENGTH), slot.load(TIMESTAMP), slot.load(TAG));
    let (position, payload) = locate(geometry, words, at, slot, len).ok_or(Odd::Implausible)?;
    let len = (len & !LARGE) as usize;
    let value = read(View {
        sequence,
        timestamp_ns,
        tag,
        len,
        words: payload,
    });
    // R2, pairs with W1: if any load above saw a newer message, one of the loads below sees its stamp or floor.
    fence(Ordering::Acquire);
    if position.is_some_and(|position| position < words.load(FLOOR_WORD)) || slot.load(STAMP) != before {
        return Err(Odd::Overtaken);
    }
    let message = Received {
        sequence,
        timestamp_ns,
        tag,
        len,
        value,
    };
    Ok((message, position))
}

/// The payload that the length word speaks of, and its position if it is large; `None` if no publisher of this
/// geometry can have written that.
#[inline]
fn locate<'a>(
    geometry: &Geometry,
    words: Words<'a>,
    at: usize,
    slot: Slot<'a>,
    length: u64,
) -> Option<(Option<u64>, Words<'a>)> {
    let len = length & !LARGE;
    if length & LARGE == 0 {
        let fits = len <= geometry.inline_bytes() as u64;
        return fits.then(|| (None, words.slice(at + BODY, words_for(len as usize))));
    }
    if len > geometry.max_message_bytes() as u64 {
        return None;
    }
    let position = slot.load(BODY);
    let offset = position & (geometry.arena_words() - 1);
    let count = words_for(len as usize);
    if offset + count as u64 > geometry.arena_words() {
        return None;
    }
    Some((
        Some(position),
        words.slice(geometry.arena_at() + offset as usize, count),
    ))
}

/// Why a slot has no message to be read.
enum Odd {
    /// It has another stamp, this one.
    NotReady(u64),
    /// No publisher of this geometry can have written this, unless it is of two messages.
    Implausible,
    /// It was overwritten meanwhile.
    Overtaken,
}

/// Why the next message is not to be read. Not a [`Poll`] itself: that would be built in memory, where the compiler then
/// leaves what is read of every message, too.
enum Obstacle {
    Ended,
    Lapped { first: u64, missed: u64 },
    Corrupt { sequence: u64 },
}

impl Obstacle {
    #[inline]
    fn told<T>(self) -> Poll<T> {
        match self {
            Self::Ended => Poll::Ended,
            Self::Lapped { first, missed } => Poll::Lapped { first, missed },
            Self::Corrupt { sequence } => Poll::Corrupt { sequence },
        }
    }
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
