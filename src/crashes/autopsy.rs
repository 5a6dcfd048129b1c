//! What a dead publisher left: looked at word by word, then through the eyes of readers, and compared with what must be
//! there.

use std::sync::Arc;

use super::stream::{Arena, Message, SLOTS};
use crate::layout::{FLOOR_WORD, HEAD_WORD, SLOT_HEADER_WORDS};
use crate::ring::{Poll, View};
use crate::segment::Segment;
use crate::subscriber::{Join, Subscriber};
use crate::words::WORD_BYTES;

/// Fails with a text unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}
pub(super) use ensure;

/// Set in the heartbeat by a victim that has done all that it was to do.
pub const DONE: u64 = 1 << 63;

/// Where a victim's stream begins, and where it ends.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    pub start: u64,
    /// Where the arena's first payload lies, in words.
    pub position: u64,
    /// The sequence at which it is closed.
    pub ends_at: Option<u64>,
}

/// How far a publisher was with its next message, as the words in the segment tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Between two messages.
    Idle,
    /// The slot is marked as being written.
    Opened,
    /// And the floor was moved over what the payload will bury.
    FloorMoved,
    /// A part of the payload lies in its place.
    HalfWritten,
    /// All of it does.
    Written,
    /// The message can be read, the head is one behind.
    Ready,
    /// The head was moved, and publish has not returned.
    HeadMoved,
    /// The stamp of the end is there, the head is not closed.
    EndStamped,
    /// Both are there.
    Closed,
}

impl State {
    pub const ALL: [Self; 9] = [
        Self::Idle,
        Self::Opened,
        Self::FloorMoved,
        Self::HalfWritten,
        Self::Written,
        Self::Ready,
        Self::HeadMoved,
        Self::EndStamped,
        Self::Closed,
    ];

    /// Whether readers are told that the stream ended.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::EndStamped | Self::Closed)
    }
}

/// What was found.
#[derive(Debug, Clone, Copy)]
pub struct Finding {
    /// The sequence behind the last message that can be read.
    pub published: u64,
    pub state: State,
}

/// Looks at all that `stream` left in `segment`, or is leaving there if its publisher stands still.
///
/// The heartbeat counts what publish has returned for: nobody else moves it here.
pub fn look(segment: &Arc<Segment>, stream: &Stream) -> Result<Finding, String> {
    let returned = segment.heartbeat() & !DONE;
    let body = Body { segment, stream };
    let published = returned + u64::from(body.stamp(returned) == ready(returned));
    let mut arena = Arena::new(stream.position);
    let mut places = [None; SLOTS as usize];
    for sequence in stream.start..published {
        places[(sequence % SLOTS) as usize] = arena.publish(&Message::of(sequence));
    }
    let state = body.state(returned, published, arena)?;
    body.check_retained(published, state, &places)?;
    body.check_late_reader(published, state)?;
    Ok(Finding { published, state })
}

const fn writing(sequence: u64) -> u64 {
    sequence * 4 + 1
}

const fn ready(sequence: u64) -> u64 {
    sequence * 4 + 2
}

const fn ended(sequence: u64) -> u64 {
    sequence * 4 + 3
}

struct Body<'a> {
    segment: &'a Arc<Segment>,
    stream: &'a Stream,
}

impl Body<'_> {
    fn word(&self, index: usize) -> u64 {
        self.segment.words().load(index)
    }

    fn stamp(&self, sequence: u64) -> u64 {
        self.word(self.segment.geometry().slot_at(sequence))
    }

    /// What the stamp of the next message was before anything of that was there.
    const fn stamp_before(&self, sequence: u64) -> u64 {
        if sequence >= self.stream.start + SLOTS {
            ready(sequence - SLOTS)
        } else {
            0
        }
    }

    /// Tells the state, and fails if that is none that a publisher may be in.
    fn state(&self, returned: u64, published: u64, arena: Arena) -> Result<State, String> {
        let (head, stamp) = (self.word(HEAD_WORD), self.stamp(published));
        let (next, is_closed) = (head >> 1, head & 1 == 1);
        let floor = self.word(FLOOR_WORD);
        let is_old = stamp == self.stamp_before(published);
        if Some(published) == self.stream.ends_at {
            ensure!(floor == arena.floor, "the floor is {floor} and not {}", arena.floor);
            let state = match (stamp == ended(published), is_closed) {
                (true, true) => State::Closed,
                (true, false) => State::EndStamped,
                (false, false) if is_old => State::Idle,
                _ => return Err(format!("stamp {stamp:#x} with head {head:#x} at the end {published}")),
            };
            if state.is_end() {
                self.check_head(published, published)?;
                return Ok(state);
            }
        }
        ensure!(!is_closed, "the head {head:#x} says that the stream ended");
        if is_old {
            ensure!(floor == arena.floor, "the floor is {floor} and not {}", arena.floor);
            return match next {
                _ if published == returned => self.check_head(published, published).map(|()| State::Idle),
                next if next == published => Ok(State::HeadMoved),
                _ => self.check_head(returned, published).map(|()| State::Ready),
            };
        }
        ensure!(
            stamp == writing(published) && published == returned,
            "stamp {stamp:#x} in the slot of {published}, with {returned} returned for"
        );
        self.check_head(published, published)?;
        self.state_of_written(&Message::of(published), arena)
    }

    fn check_head(&self, expected: u64, published: u64) -> Result<(), String> {
        let next = self.word(HEAD_WORD) >> 1;
        ensure!(
            next == expected,
            "the head is at {next} and not {expected}, with {published} published"
        );
        Ok(())
    }

    /// How far the message is that is being written.
    fn state_of_written(&self, message: &Message, mut arena: Arena) -> Result<State, String> {
        let (position, floors) = arena.place(message);
        let floor = self.word(FLOOR_WORD);
        ensure!(floors.contains(&floor), "the floor is {floor} and none of {floors:?}");
        let geometry = self.segment.geometry();
        let start = position.map_or_else(
            || geometry.slot_at(message.sequence) + SLOT_HEADER_WORDS,
            |position| geometry.arena_at() + (position % geometry.arena_words()) as usize,
        );
        let words = message.words();
        let is_there = |index: usize| self.word(start + index) == words[index];
        let whole = message.len / WORD_BYTES;
        let mut there = (0..whole).filter(|&index| is_there(index)).count();
        // It comes last, and may be what was there before: a zero byte and the zeros behind it.
        if there == whole && whole < words.len() && is_there(whole) {
            there += 1;
        }
        if there > 0 {
            ensure!(
                floor == arena.floor,
                "payload with the floor at {floor} and not {}",
                arena.floor
            );
        }
        Ok(if there > 0 && there == words.len() {
            State::Written
        } else if there > 0 {
            State::HalfWritten
        } else if floor > floors[0] {
            State::FloorMoved
        } else {
            State::Opened
        })
    }

    /// Every message that is to be there can be read, whole; every other is told as lost.
    fn check_retained(
        &self,
        published: u64,
        state: State,
        places: &[Option<u64>; SLOTS as usize],
    ) -> Result<(), String> {
        let floor = self.word(FLOOR_WORD);
        let first = published.saturating_sub(SLOTS).max(self.stream.start);
        let is_next_begun = self.stamp(published) != self.stamp_before(published);
        for sequence in first..published {
            let is_reused = sequence + SLOTS == published && is_next_begun;
            let is_buried = places[(sequence % SLOTS) as usize].is_some_and(|position| position < floor);
            let outcome = self.reader(Join::Sequence(sequence)).poll(check);
            match outcome {
                Poll::Message(received) if !is_reused && !is_buried => received.value?,
                Poll::Lapped { first, .. } if (is_reused || is_buried) && first == sequence => {}
                other => {
                    return Err(format!(
                        "{other:?} in place of {sequence}, with {published} published: {state:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Who joins now is given all from the oldest on, and no more.
    fn check_late_reader(&self, published: u64, state: State) -> Result<(), String> {
        // Nothing was ever published: there is no oldest.
        if published == self.stream.start {
            return Ok(());
        }
        let mut reader = self.reader(Join::Oldest);
        let mut account = Account::from(reader.cursor());
        account.drain(&mut reader)?;
        account.check_at(published, state)?;
        // The end of the stream is behind the last message and nowhere else.
        let last = self.reader(Join::Sequence(published)).poll(|_| ());
        let expected = if state.is_end() { Poll::Ended } else { Poll::Empty };
        ensure!(last == expected, "{last:?} behind the last message: {state:?}");
        Ok(())
    }

    fn reader(&self, join: Join) -> Subscriber {
        Subscriber::on(self.segment.clone(), join)
    }
}

/// Compares a message with what it must be.
pub fn check(view: View<'_>) -> Result<(), String> {
    let message = Message::of(view.sequence());
    ensure!(
        view.tag() == message.tag() && view.len() == message.len && view.timestamp_ns() > 0,
        "torn: {view:?} in place of {message:?}"
    );
    ensure!(view.to_vec() == message.payload(), "torn: the payload of {message:?}");
    Ok(())
}

/// What one reader was given and told.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    start: u64,
    pub received: u64,
    pub missed: u64,
}

impl Account {
    /// The account of a reader that begins at this sequence.
    pub const fn from(start: u64) -> Self {
        Self {
            start,
            received: 0,
            missed: 0,
        }
    }

    /// The sequence that is next.
    pub const fn cursor(&self) -> u64 {
        self.start + self.received + self.missed
    }

    /// Reads all that there is, from a publisher that does not publish more.
    pub fn drain(&mut self, reader: &mut Subscriber) -> Result<(), String> {
        while self.poll(reader)? {}
        Ok(())
    }

    /// Polls once. Returns whether there was anything.
    pub fn poll(&mut self, reader: &mut Subscriber) -> Result<bool, String> {
        let expected = self.cursor();
        match reader.poll(check) {
            Poll::Message(received) => {
                ensure!(
                    received.sequence == expected,
                    "{} in place of {expected}",
                    received.sequence
                );
                received.value?;
                self.received += 1;
            }
            Poll::Lapped { first, missed } => {
                ensure!(
                    first == expected && missed > 0,
                    "{missed} missed from {first}, not {expected}"
                );
                self.missed += missed;
            }
            Poll::Empty | Poll::Ended => return Ok(false),
            other => return Err(format!("{other:?} in place of {expected}")),
        }
        Ok(true)
    }

    /// A reader that is through has received or missed each message once.
    pub fn check_at(&self, published: u64, state: State) -> Result<(), String> {
        let Self {
            start,
            received,
            missed,
        } = self;
        ensure!(
            self.cursor() == published,
            "{received} received and {missed} missed from {start} on are not the {published} published: {state:?}"
        );
        Ok(())
    }
}
