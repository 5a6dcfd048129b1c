//! A reader's end of the ring: a cursor, and what is to be believed of the slot that it points at.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::time::Instant;

use super::flush::{Flushing, LEAST_SLOTS, LONGEST_BYTES, flush_behind};
use super::view::View;
use super::{
    BODY, LARGE, LENGTH, LINE_BYTES, LINE_WORDS, MAX_SEQUENCE, STAMP, TAG, TIMESTAMP, ended, first_retained, head,
    is_retained, ready, writing,
};
use crate::copy;
use crate::layout::{FLOOR_WORD, Geometry, HEAD_WORD};
use crate::sync::{Ordering, fence};
use crate::words::{WordArray, Words, words_for};

/// The fewest messages that are timed together, and the fewest cache lines.
const TIMED_MESSAGES: u64 = 16;
const TIMED_LINES: u64 = 512;

/// Lines of a slot of the default size.
const SLOT_LINES: u64 = 2;

/// How far ahead of the slot that it is at a reader of many messages asks for lines: for 32 of the default size.
const AHEAD_BYTES: usize = 2 * copy::LOAD_AHEAD_BYTES;

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
// Its own tag, not one hidden in `T`: from that the compiler would work out anew what each message was, after it was read.
#[repr(u8)]
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
    /// Messages are lent, to be read later.
    lends: bool,
    /// The last payload that it read in the arena: its position and its bytes.
    large: (u64, usize),
    /// Messages that were overwritten before it read them, since it was placed.
    missed: u64,
    flushing: Flushing,
    /// Where it last found nothing, or was placed: that message is waited for, any other may well be there.
    caught_up_at: u64,
}

impl Reader {
    pub(crate) fn new(geometry: Geometry, cursor: u64) -> Self {
        Self {
            geometry,
            cursor: cursor.min(MAX_SEQUENCE),
            on_lap: OnLap::Retained,
            placed: cursor.min(MAX_SEQUENCE),
            is_chased: true,
            lends: false,
            large: (0, 0),
            missed: 0,
            flushing: Flushing::new(cursor.min(MAX_SEQUENCE)),
            caught_up_at: cursor.min(MAX_SEQUENCE),
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

    /// Says that messages are lent, so that it cannot be seen how much of one is read.
    pub(crate) const fn set_lending(&mut self) {
        self.lends = true;
    }

    pub(crate) const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Says that there is nothing, as a poll that finds nothing does.
    pub(crate) const fn set_caught_up(&mut self) {
        self.caught_up_at = self.cursor;
    }

    pub(crate) fn seek(&mut self, cursor: u64) {
        self.cursor = cursor.min(MAX_SEQUENCE);
        self.placed = self.cursor;
        self.caught_up_at = self.cursor;
        self.missed = 0;
        self.large = (0, 0);
        self.flushing.replace(self.cursor);
    }

    /// Whether a poll would find anything but `Empty`. Loads one word.
    #[inline]
    pub(crate) fn is_ready(&self, words: Words<'_>) -> bool {
        let slot = words.slice(self.geometry.slot_at(self.cursor), self.geometry.slot_words());
        let stamp = slot.load(STAMP);
        expect(slot, self.cursor, stamp);
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
        let messages = self.geometry.arena_words().checked_div(words_for(self.large.1) as u64);
        messages.map_or(slots, |messages| messages.min(slots)) / 8
    }

    /// The head word, to sleep for as long as it stays the same; `None` if a poll would find something.
    pub(crate) fn sleep_word(&self, words: Words<'_>) -> Option<u64> {
        let seen = words.load(HEAD_WORD);
        // S2, pairs with S1: a message whose head was seen above is seen below.
        fence(Ordering::Acquire);
        (!self.is_ready(words)).then_some(seen)
    }

    /// Whether the message that it wants is not the next one behind `head`, a head word, but a later one.
    pub(crate) const fn is_ahead_of(&self, head: u64) -> bool {
        self.cursor > head >> 1
    }

    /// Looks once at the slot that the cursor points at. `read` makes what it wants of the message in place; its
    /// result counts only if the message was not overwritten meanwhile.
    #[inline(always)]
    pub(crate) fn poll<'w, R>(&mut self, words: Words<'w>, read: impl FnOnce(View<'w>) -> R) -> Poll<R> {
        self.glance(words).poll(read)
    }

    /// Sets out to look once: then it need not be known where the ring ends.
    #[inline(always)]
    pub(super) fn glance<'a, 'w>(&'a mut self, words: Words<'w>) -> Course<'a, 'w> {
        let ahead = from_slot(&self.geometry, words, self.cursor);
        self.set_out(words, ahead)
    }

    /// Sets out to look at many slots in a row.
    #[inline(always)]
    pub(crate) fn course<'a, 'w>(&'a mut self, words: Words<'w>) -> Course<'a, 'w> {
        let ahead = slots_from(&self.geometry, words, self.cursor);
        self.set_out(words, ahead)
    }

    /// As if it had found out that flushing is worth it.
    #[cfg(all(test, not(loom)))]
    pub(super) const fn set_flushing(&mut self) {
        self.flushing.set_on();
    }

    /// What it has found out.
    #[cfg(all(test, not(loom)))]
    pub(super) const fn flushing(&self) -> &Flushing {
        &self.flushing
    }

    /// Whether at `cursor` it would look whether flushing is worth it.
    #[cfg(all(test, not(loom)))]
    pub(super) const fn is_flushing_due(&self, cursor: u64) -> bool {
        self.flushing.is_due(cursor)
    }

    /// Goes on finding out whether flushing is worth it.
    #[cold]
    fn weigh_flushing(&mut self) {
        if self.geometry.slot_count() < LEAST_SLOTS || !copy::can_flush() {
            self.flushing.give_up();
            return;
        }
        let payload_lines = (words_for(self.large.1) / LINE_WORDS) as u64;
        let lines = SLOT_LINES + payload_lines;
        let lap = (8 * self.eighth()).max(TIMED_LINES / lines).max(TIMED_MESSAGES);
        let now = Instant::now();
        let is_seen = payload_lines > 0 && !self.lends;
        if is_seen && self.flushing.times_reading(self.cursor, payload_lines, lap, now) {
            return;
        }
        let read = self.cursor - self.missed;
        self.flushing.go_on(self.cursor, read, lap, lines, now);
    }

    #[inline(always)]
    fn set_out<'a, 'w>(&'a mut self, words: Words<'w>, ahead: Words<'w>) -> Course<'a, 'w> {
        if self.flushing.is_due(self.cursor) {
            self.weigh_flushing();
        }
        Course {
            words,
            ahead,
            slot_words: self.geometry.slot_words(),
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

    /// Moves the cursor past what was overwritten. Looks as [`first_retained`] does.
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
                let slack = self.geometry.arena_words() / 4 * share;
                // A message may be so large that only the newest of its kind is there at all.
                let is_there = |&next: &u64| is_retained(&self.geometry, words, next, 0);
                let newest = || (start..head).next_back().filter(is_there);
                first_retained(&self.geometry, words, start..head, slack)
                    .or_else(newest)
                    .unwrap_or(start.max(head))
            }
        };
        let missed = self.cursor - first;
        self.missed += missed;
        Obstacle::Lapped { first, missed }
    }
}

/// A reader under way: its cursor and the slots ahead in registers, where a poll of its own would load and store them
/// each time. The reader goes on where this one was when it is dropped.
#[derive(Debug)]
pub(crate) struct Course<'a, 'w> {
    words: Words<'w>,
    /// The slots from that at the cursor to the ring's last one; none if they are still to be found.
    ahead: Words<'w>,
    slot_words: usize,
    cursor: u64,
    reader: &'a mut Reader,
}

impl<'w> Course<'_, 'w> {
    #[inline(always)]
    pub(crate) const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Whether the next message may well be there, see [`Reader`].
    #[inline(always)]
    pub(crate) const fn is_behind(&self) -> bool {
        self.cursor != self.reader.caught_up_at
    }

    /// As [`Reader::set_chased`].
    #[inline(always)]
    pub(crate) const fn set_chased(&mut self, is_chased: bool) {
        self.reader.set_chased(is_chased);
    }

    /// As [`Reader::is_there`].
    #[inline(always)]
    pub(crate) fn is_there(&self, sequence: u64) -> bool {
        self.reader.is_there(self.words, sequence)
    }

    /// As [`Reader::poll`].
    #[inline(always)]
    pub(crate) fn poll<R>(&mut self, read: impl FnOnce(View<'w>) -> R) -> Poll<R> {
        match self.look(read) {
            Ok(message) => Poll::Message(message),
            Err(None) => Poll::Empty,
            Err(Some(obstacle)) => obstacle.told(),
        }
    }

    /// Looks once. `Err(None)` if the message is not there yet. Apart from `poll`: a lone one takes 0.9 of the time if its
    /// outcome is put together behind all this.
    #[inline(always)]
    fn look<R>(&mut self, read: impl FnOnce(View<'w>) -> R) -> Result<Received<R>, Option<Obstacle>> {
        #[cfg(all(debug_assertions, not(loom)))]
        self.check_place();
        if self.ahead.len() < self.slot_words {
            self.ahead = next_lap(&self.reader.geometry, self.words, self.cursor);
        }
        let odd = match self.ahead.split_at_checked(self.slot_words) {
            None => at_the_end(&self.reader.geometry, self.words).ok_or(None)?,
            Some((slot, ahead)) => match look_at(&self.reader.geometry, self.words, slot, self.cursor, read) {
                Ok((message, slot, position)) => {
                    if let Some(position) = position {
                        self.reader.flushing.note_read();
                        if self.reader.flushing.is_on() {
                            flush_large(&self.reader.geometry, self.words, self.reader.large);
                        }
                        self.reader.large = (position, message.len);
                    }
                    // Not for who waits for each message: the publisher is about to store there.
                    if self.is_behind() {
                        slot.prefetch::<AHEAD_BYTES>(STAMP);
                        slot.prefetch::<{ AHEAD_BYTES + LINE_BYTES }>(STAMP);
                        if self.reader.flushing.is_on() {
                            flush_behind(&self.reader.geometry, self.words, self.cursor);
                        }
                    }
                    self.ahead = ahead;
                    self.cursor += 1;
                    return Ok(message);
                }
                Err(Odd::NotReady(stamp)) if stamp < ready(self.cursor) => {
                    expect(slot, self.cursor, stamp);
                    self.reader.caught_up_at = self.cursor;
                    return Err(None);
                }
                Err(odd) => odd,
            },
        };
        // Not by a function of `self`: its address would keep it in memory.
        self.reader.cursor = self.cursor;
        let obstacle = self.reader.obstacle(self.words, odd);
        self.cursor = self.reader.cursor;
        self.ahead = self.ahead.slice(0, 0);
        Err(Some(obstacle))
    }
}

#[cfg(all(debug_assertions, not(loom)))]
impl Course<'_, '_> {
    /// What lies ahead begins with the slot at the cursor, if there is any.
    fn check_place(&self) {
        let slot = self.words.from(self.reader.geometry.slot_at(self.cursor));
        assert!(self.ahead.len() < self.slot_words || self.ahead.as_ptr() == slot.as_ptr());
    }
}

impl Drop for Course<'_, '_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.reader.cursor = self.cursor;
    }
}

/// The slot of message `sequence` and all that lies behind it; nothing where sequences end.
#[inline]
fn from_slot<'w>(geometry: &Geometry, words: Words<'w>, sequence: u64) -> Words<'w> {
    if sequence >= MAX_SEQUENCE {
        return words.from(words.len());
    }
    words.from(geometry.slot_at(sequence))
}

/// The slots from that of message `sequence` to the ring's last one; none where sequences end.
#[inline]
fn slots_from<'w>(geometry: &Geometry, words: Words<'w>, sequence: u64) -> Words<'w> {
    from_slot(geometry, words.slice(0, geometry.slots_end()), sequence)
}

/// As [`slots_from`], once a lap.
#[cold]
fn next_lap<'w>(geometry: &Geometry, words: Words<'w>, sequence: u64) -> Words<'w> {
    slots_from(geometry, words, sequence)
}

/// Why there is no message where sequences end; `None` if it is as if it were not there yet.
#[cold]
fn at_the_end(geometry: &Geometry, words: Words<'_>) -> Option<Odd> {
    let stamp = words.load(geometry.slot_at(MAX_SEQUENCE) + STAMP);
    match stamp.cmp(&ready(MAX_SEQUENCE)) {
        Less => None,
        Equal => Some(Odd::Implausible),
        Greater => Some(Odd::NotReady(stamp)),
    }
}

/// Asks for the second line of a slot where message `sequence` is waited for, so that it comes together with
/// the stamp and not after it. Not once the message is being written: that would take the line away from its publisher.
#[inline]
fn expect(slot: Words<'_>, sequence: u64, stamp: u64) {
    if stamp < writing(sequence) {
        slot.prefetch::<0>(LINE_WORDS);
    }
}

/// Flushes a payload in the arena, its position and how many bytes it has, unless it is too long.
#[inline(always)]
fn flush_large(geometry: &Geometry, words: Words<'_>, (position, len): (u64, usize)) {
    if len <= LONGEST_BYTES
        && let Some(spent) = in_arena(geometry, words, position, len)
    {
        spent.flush();
    }
}

/// Looks at the slot of message `sequence`: the message, the slot's first words, and the position of its payload if that lies in
/// the arena.
#[inline(always)]
fn look_at<'w, R>(
    geometry: &Geometry,
    words: Words<'w>,
    slot: Words<'w>,
    sequence: u64,
    read: impl FnOnce(View<'w>) -> R,
) -> Result<(Received<R>, WordArray<'w, BODY>, Option<u64>), Odd> {
    let Some((first, body)) = slot.split_first_chunk::<BODY>() else {
        return Err(Odd::Implausible);
    };
    let before = first.load(STAMP);
    if before != ready(sequence) {
        return Err(Odd::NotReady(before));
    }
    // R1, pairs with W2: the loads below see this message or a newer one.
    fence(Ordering::Acquire);
    let (length, timestamp_ns, tag) = (first.load(LENGTH), first.load(TIMESTAMP), first.load(TAG));
    let is_large = length & LARGE != 0;
    let (len, payload, position) = if is_large {
        let (len, position) = ((length & !LARGE) as usize, body.load(0));
        let payload = in_arena(geometry, words, position, len).ok_or(Odd::Implausible)?;
        (len, payload, position)
    } else {
        let len = length as usize;
        (len, body.get(0, words_for(len)).ok_or(Odd::Implausible)?, 0)
    };
    let value = read(View {
        sequence,
        timestamp_ns,
        tag,
        len,
        words: payload,
    });
    // R2, pairs with W1: if any load above saw a newer message, one of the loads below sees its stamp or floor.
    fence(Ordering::Acquire);
    if is_large && position < words.load(FLOOR_WORD) || first.load(STAMP) != before {
        return Err(Odd::Overtaken);
    }
    let message = Received {
        sequence,
        timestamp_ns,
        tag,
        len,
        value,
    };
    Ok((message, first, is_large.then_some(position)))
}

/// The payload of `len` bytes at `position` of the arena; `None` if no publisher of this geometry can have put it there.
#[inline]
fn in_arena<'a>(geometry: &Geometry, words: Words<'a>, position: u64, len: usize) -> Option<Words<'a>> {
    let offset = position & (geometry.arena_words() - 1);
    let count = words_for(len);
    let fits = len <= geometry.max_message_bytes() && offset + count as u64 <= geometry.arena_words();
    fits.then(|| words.slice(geometry.arena_at() + offset as usize, count))
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
