//! A subscriber over shared memory: a cursor into a ring that it can read and not write.
//!
//! It can slow, block or corrupt nobody. [`Subscriber::poll`] looks once and never blocks; [`Subscriber::receive`]
//! waits: it spins, yields, and sleeps on the futex word, each sleep bounded because a killed server wakes nobody.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::AnyBitPattern;
use crossbeam_utils::Backoff;

use crate::bell::{self, CENSUS_INTERVAL, WAKE_INTERVAL};
use crate::discovery::{Found, LockProbe};
use crate::incarnation::Incarnation;
use crate::liveness::{Pulse, ServerState};
use crate::ring::{self, Head, OnLap, Poll, Reader, View};
use crate::segment::{AttachError, Segment};
use crate::words::Words;

/// Where in the stream a subscriber joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Join {
    /// Behind the newest message: only what is published from now on.
    #[default]
    New,
    /// The newest messages, at most this many.
    Latest(u64),
    /// The oldest message that is retained.
    Oldest,
    /// This sequence. What of it is gone already is told as missed; a sequence not yet reached is waited for.
    Sequence(u64),
}

impl Join {
    /// The sequence that this means for a stream now.
    pub(crate) fn resolve(self, segment: &Segment) -> u64 {
        let head = || ring::head(segment.words()).next;
        let oldest = |since| ring::oldest(segment.geometry(), segment.words(), since);
        match self {
            Self::New => head(),
            Self::Latest(count) => oldest(head().saturating_sub(count)),
            Self::Oldest => oldest(0),
            Self::Sequence(sequence) => sequence,
        }
    }
}

/// How a subscriber waits for the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitStrategy {
    /// Spins for up to 100 us, yielding, then sleeps; spins less once a wait was longer than that. Quick while messages
    /// flow, hardly any work while they trickle.
    #[default]
    Adaptive,
    /// Never sleeps: the shortest latency, for a whole core.
    Spin,
    /// Sleeps after some 25 us: the least work, for a wake-up with every message.
    Block,
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    /// A poll will find something.
    Ready,
    /// The time is over.
    TimedOut,
    /// The stream ended before the sequence that is waited for.
    Ended,
    /// The server died and everything that it published was read.
    Dead,
}

/// How long an adaptive wait spins before it sleeps, if the last wait took no longer than that.
const SPIN_TIME: Duration = Duration::from_micros(100);
/// How long a wait spins that is likely to end asleep anyway.
pub(crate) const BRIEF_SPIN_TIME: Duration = Duration::from_micros(24);
/// A wake may be withheld from those who spin, so nobody may spin for less.
const _: () = assert!(BRIEF_SPIN_TIME.as_nanos() > WAKE_INTERVAL.as_nanos());
/// Polls between two looks at the clock.
const POLLS_PER_CLOCK: u32 = 64;
/// Pauses between two looks of a reader that has caught up with a stream. One that follows the publisher line by line
/// takes each away from it while it is written, which costs both of them most of their speed: so it falls back by an
/// eighth of the ring, for as long as messages come with every look, but no more than so many looks.
const STREAM_PAUSES: u32 = 100;
const STREAM_LOOKS: u32 = 16;
/// Messages without a pause that make a stream. An exchange of questions and answers has a few, now and then.
const STREAM_MESSAGES: u64 = 16;
/// Pauses between two looks at the slot that a reader wants to be behind: nobody stores to that just now.
const FAR_PAUSES: u32 = 10;
/// Waits in a row that soon come to an end, until a reader finds out whether they are part of a stream: at first, and
/// after they were not.
const FIRST_TRIAL: u32 = 16;
const LAST_TRIAL: u32 = 1 << 14;
/// Longest sleep, so that a server's death is noticed.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// Longest sleep while the server may not know yet that somebody is attached.
const FIRST_SLEEP: Duration = Duration::from_millis(1);

/// Reads a stream through shared memory.
#[derive(Debug)]
pub struct Subscriber {
    segment: Arc<Segment>,
    reader: Reader,
    strategy: WaitStrategy,
    pulse: Pulse,
    lock: Option<LockProbe>,
    attached_at: Instant,
    /// The cursor when this subscriber last waited, or was placed.
    waited_at: u64,
    /// Waits in a row that the first look ended.
    brief_waits: u32,
    /// How many of them it takes to find out whether a stream comes in.
    trial_after: u32,
    /// The last wait ended while an adaptive reader would still have been spinning.
    is_brisk: bool,
    /// The head that stood still for as long as others spin.
    stood: Option<u64>,
}

impl Subscriber {
    /// Attaches the segment of a server that was found, read-only, and joins its stream. Believes the segment only if it
    /// is of the same life of the server and the same owner as the info file, and tells a dead server from a hung one by
    /// the lock on that file.
    ///
    /// # Errors
    /// Why the segment cannot be attached or is not believed.
    pub fn open(found: &Found, join: Join) -> Result<Self, AttachError> {
        let memory = found.info.shared_memory.ok_or(AttachError::NotOffered)?;
        let lock = found
            .lock
            .try_clone()
            .map_err(|source| AttachError::Os { id: memory.id, source })?;
        let segment = Segment::attach_up_to(memory.id, found.attach_limit)?;
        let subscriber = Self::believe(segment, memory.id, found.info.incarnation, Some(found.owner_uid), join)?;
        Ok(subscriber.with_lock(lock))
    }

    /// Attaches segment `id`, read-only, and joins its stream. `expected` is the incarnation that the info file names;
    /// [`Incarnation::NIL`] takes any. `owner` is the owner of that file, which must own the segment, too; users outside
    /// this user namespace are not told apart (see [`Trust`](crate::discovery::Trust)).
    ///
    /// # Errors
    /// Why the segment cannot be attached or is not believed.
    pub fn attach(id: i32, expected: Incarnation, owner: Option<u32>, join: Join) -> Result<Self, AttachError> {
        Self::believe(Segment::attach(id)?, id, expected, owner, join)
    }

    fn believe(
        segment: Segment,
        id: i32,
        expected: Incarnation,
        owner: Option<u32>,
        join: Join,
    ) -> Result<Self, AttachError> {
        let found = segment.header().incarnation();
        if expected != Incarnation::NIL && expected != found {
            return Err(AttachError::Foreign { id, expected, found });
        }
        let status = segment.status().map_err(|source| AttachError::Os { id, source })?;
        if let (Some(expected), Some(status)) = (owner, status)
            && expected != status.owner_uid
        {
            return Err(AttachError::Owner {
                expected,
                found: status.owner_uid,
            });
        }
        Ok(Self::on(Arc::new(segment), join))
    }

    /// Joins a stream of this process, or one whose segment is attached already.
    #[must_use]
    pub fn on(segment: Arc<Segment>, join: Join) -> Self {
        let now = Instant::now();
        let reader = Reader::new(*segment.geometry(), join.resolve(&segment));
        let waited_at = reader.cursor();
        let pulse = Pulse::new(segment.header().heartbeat_interval(), segment.heartbeat(), now);
        Self {
            segment,
            reader,
            strategy: WaitStrategy::default(),
            pulse,
            lock: None,
            attached_at: now,
            waited_at,
            brief_waits: 0,
            trial_after: FIRST_TRIAL,
            is_brisk: true,
            stood: None,
        }
    }

    /// Sets how this subscriber waits.
    #[must_use]
    pub const fn with_strategy(mut self, strategy: WaitStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Sets where this subscriber goes on when it was lapped.
    #[must_use]
    pub fn with_on_lap(mut self, on_lap: OnLap) -> Self {
        self.reader = self.reader.on_lap(on_lap);
        self
    }

    /// Lets this subscriber tell a dead server from a hung one by the lock on its info file.
    #[must_use]
    pub fn with_lock(mut self, lock: LockProbe) -> Self {
        self.lock = Some(lock);
        self
    }

    /// Looks once, and lets `read` make what it wants of the next message, in place. Its result counts only if the
    /// message was not overwritten meanwhile; until then it may have seen parts of two. Never blocks; costs two loads
    /// of one cache line if there is nothing.
    #[inline(always)]
    pub fn poll<R>(&mut self, read: impl FnOnce(View<'_>) -> R) -> Poll<R> {
        self.reader.poll(self.segment.words(), read)
    }

    /// Looks once, and copies the next message into `out`, which then holds it and nothing else.
    #[inline]
    pub fn poll_into(&mut self, out: &mut Vec<u8>) -> Poll<()> {
        self.poll(|view| {
            out.clear();
            view.append_to(out);
        })
    }

    /// Looks once, and reads the next message as a `T`; the value is `None` if the message has another length.
    #[inline]
    pub fn poll_typed<T: AnyBitPattern>(&mut self) -> Poll<Option<T>> {
        self.poll(|view| {
            if view.len() == size_of::<T>() {
                view.read(0)
            } else {
                None
            }
        })
    }

    /// Polls up to `limit` times, for messages that are there already. `read` sees each in place as in
    /// [`Subscriber::poll`]; `each` is given every outcome in order, laps and the end included, `Empty` not. Returns how
    /// many messages there were.
    #[inline]
    pub fn drain<R>(
        &mut self,
        limit: usize,
        mut read: impl FnMut(View<'_>) -> R,
        mut each: impl FnMut(Poll<R>),
    ) -> usize {
        let mut course = self.reader.course(self.segment.words());
        drain(limit, || course.poll(&mut read), &mut each).messages
    }

    /// Waits for the next message, or what else there is to tell, for up to `timeout`; `Empty` if that passed. Reads
    /// as [`Subscriber::poll`] does. Returns `Dead` once the server has died and everything was read, if it can tell
    /// (see [`Subscriber::with_lock`]).
    #[inline]
    pub fn receive<R>(&mut self, timeout: Duration, read: impl FnOnce(View<'_>) -> R) -> Poll<R> {
        if !self.is_ready() {
            match self.wait(timeout) {
                Waited::Ready => {}
                Waited::TimedOut => return Poll::Empty,
                Waited::Ended => return Poll::Ended,
                Waited::Dead => return Poll::Dead,
            }
        }
        // `Empty` still, if a publisher took a stamp back, which only a hostile one does.
        self.poll(read)
    }

    /// Waits until a poll will find something, for up to `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Waited {
        if !self.is_ready() {
            self.reader.set_caught_up();
        }
        if timeout.is_zero() {
            self.waited_at = self.cursor();
            let now = Instant::now();
            return self.look(now, Some(now));
        }
        if self.is_stream() {
            self.fall_back();
        }
        // Clocks cost as much as a message takes from one processor to another: the first look goes without.
        if self.spin() {
            self.is_brisk = true;
            self.brief_waits += 1;
            return Waited::Ready;
        }
        self.brief_waits = 0;
        let start = Instant::now();
        let deadline = start.checked_add(timeout);
        let spin_until = match self.strategy {
            WaitStrategy::Spin => None,
            WaitStrategy::Adaptive if self.is_brisk => Some(start + SPIN_TIME),
            WaitStrategy::Adaptive | WaitStrategy::Block => Some(start + BRIEF_SPIN_TIME),
        };
        let spin_until = spin_until.map(|end| deadline.map_or(end, |deadline| end.min(deadline)));
        let (waited, now) = match self.spin_until(start, spin_until, deadline) {
            (Some(waited), now) => (waited, now),
            (None, _) => (self.sleep(deadline), Instant::now()),
        };
        self.is_brisk = now < start + SPIN_TIME;
        waited
    }

    /// Looks once. The time is over.
    fn look(&mut self, now: Instant, deadline: Option<Instant>) -> Waited {
        if self.is_ready() {
            return Waited::Ready;
        }
        self.ends(now, deadline).unwrap_or(Waited::TimedOut)
    }

    /// Looks again and again, from `now` until there is something or `end`. Returns what ended it, and when that was at
    /// the earliest.
    fn spin_until(
        &mut self,
        mut now: Instant,
        end: Option<Instant>,
        deadline: Option<Instant>,
    ) -> (Option<Waited>, Instant) {
        let backoff = Backoff::new();
        loop {
            if self.spin() {
                return (Some(Waited::Ready), now);
            }
            now = Instant::now();
            match end {
                Some(end) if now >= end => return (None, now),
                Some(_) => backoff.snooze(),
                None => {
                    if let Some(waited) = self.ends(now, deadline) {
                        return (Some(waited), now);
                    }
                }
            }
        }
    }

    /// Whether a stream comes in, which it is better to fall back from. Many messages without a wait are one. So are many
    /// waits for one message each that soon come to an end, if messages come although nobody answers: to find that out
    /// takes a look's time, and is done the less often the more often it was an exchange of questions and answers.
    fn is_stream(&mut self) -> bool {
        let messages = self.cursor().saturating_sub(self.waited_at);
        self.waited_at = self.cursor();
        if messages >= STREAM_MESSAGES {
            self.brief_waits = 0;
            return true;
        }
        if self.brief_waits < self.trial_after {
            return false;
        }
        self.brief_waits = 0;
        pause(STREAM_PAUSES);
        let is_stream = self.is_ahead(STREAM_MESSAGES.min(self.reader.eighth()));
        self.trial_after = if is_stream {
            FIRST_TRIAL
        } else {
            (self.trial_after * 4).min(LAST_TRIAL)
        };
        is_stream
    }

    /// Whether the publisher is `messages` ahead.
    fn is_ahead(&self, messages: u64) -> bool {
        self.reader
            .is_there(self.segment.words(), self.cursor().saturating_add(messages))
    }

    /// Lets the publisher of a stream get ahead.
    fn fall_back(&self) {
        let far = self.reader.eighth();
        for _ in 0..STREAM_LOOKS {
            for _ in 0..STREAM_PAUSES / FAR_PAUSES {
                if self.is_ahead(far) {
                    return;
                }
                pause(FAR_PAUSES);
            }
            if !self.is_ready() {
                return;
            }
        }
    }

    /// Looks a few times in a row. Returns whether there is something.
    #[inline]
    fn spin(&self) -> bool {
        (0..POLLS_PER_CLOCK).any(|_| {
            std::hint::spin_loop();
            self.is_ready()
        })
    }

    #[inline]
    fn is_ready(&self) -> bool {
        self.reader.is_ready(self.segment.words())
    }

    /// Whether waiting is over although there is nothing.
    fn ends(&mut self, now: Instant, deadline: Option<Instant>) -> Option<Waited> {
        let head = self.head();
        if head.closed && head.next < self.cursor() {
            return Some(Waited::Ended);
        }
        if self.state_at(now) == ServerState::Dead {
            // It published before it died: look once more after having seen it dead.
            return Some(if self.is_ready() { Waited::Ready } else { Waited::Dead });
        }
        deadline
            .is_some_and(|deadline| now >= deadline)
            .then_some(Waited::TimedOut)
    }

    fn sleep(&mut self, deadline: Option<Instant>) -> Waited {
        loop {
            if let Some(waited) = self.nap(deadline) {
                return waited;
            }
        }
    }

    /// Sleeps once: until the head moves, somebody wakes the readers, or a while has passed. Says what ended the wait, if
    /// anything had before it began.
    pub(crate) fn nap(&mut self, deadline: Option<Instant>) -> Option<Waited> {
        // A message that comes after this look changes the head, and the sleep does not begin.
        let Some(seen) = self.reader.sleep_word(self.segment.words()) else {
            return Some(Waited::Ready);
        };
        let now = Instant::now();
        if let Some(end) = self.ends(now, deadline) {
            return Some(end);
        }
        let longest = self.longest_sleep(now, seen);
        let left = deadline.map_or(longest, |deadline| deadline.saturating_duration_since(now));
        bell::sleep_while_head_is(&self.segment, seen, left.min(longest));
        let head = self.reader.sleep_word(self.segment.words());
        self.stood = head.filter(|&head| head == seen);
        if head.is_some_and(|head| head != seen) {
            // The head moves, but not yet to what is waited for, and would end every sleep at once.
            std::thread::sleep(left.min(FIRST_SLEEP));
        }
        None
    }

    /// How long it may sleep while the head is `seen`.
    fn longest_sleep(&self, now: Instant, seen: u64) -> Duration {
        if now < self.attached_at + 3 * CENSUS_INTERVAL {
            FIRST_SLEEP
        } else if self.reader.is_ahead_of(seen) && self.stood != Some(seen) {
            // Who waits for a message and spins sees that none comes. This one is ahead of the stream: one that is not for it
            // may have come just now, and the wake of the next may be withheld.
            BRIEF_SPIN_TIME
        } else {
            LONGEST_SLEEP
        }
    }

    /// A second subscriber at the same place in the same stream, which tells a server's death as this one does.
    pub(crate) fn twin(&self) -> io::Result<Self> {
        let twin = Self::on(self.segment.clone(), Join::Sequence(self.cursor()));
        Ok(match &self.lock {
            Some(lock) => twin.with_lock(lock.try_clone()?),
            None => twin,
        })
    }

    /// Goes on at another place in the same stream.
    pub fn rejoin(&mut self, join: Join) {
        self.seek(join.resolve(&self.segment));
    }

    /// Goes on at `cursor`.
    pub(crate) fn seek(&mut self, cursor: u64) {
        self.reader.seek(cursor);
        self.waited_at = self.cursor();
    }

    /// The cursor, and the words that it moves over.
    pub(crate) fn parts(&mut self) -> (&mut Reader, Words<'_>) {
        (&mut self.reader, self.segment.words())
    }

    /// The heartbeat as it was when this subscriber last looked.
    pub(crate) const fn pulse(&self) -> Pulse {
        self.pulse
    }

    /// How the server is, as far as this subscriber has seen since its last look. Costs two loads, and a system call
    /// once the server is silent.
    pub fn server_state(&mut self) -> ServerState {
        if self.head().closed {
            ServerState::Ended
        } else {
            self.state_at(Instant::now())
        }
    }

    fn state_at(&mut self, now: Instant) -> ServerState {
        let lock = self.lock.as_ref();
        self.pulse.state(self.segment.heartbeat(), now, || lock?.is_held().ok())
    }

    /// The sequence wanted next.
    #[must_use]
    pub const fn cursor(&self) -> u64 {
        self.reader.cursor()
    }

    /// How far the stream has come.
    #[must_use]
    pub fn head(&self) -> Head {
        ring::head(self.segment.words())
    }

    /// The oldest sequence that is retained now. Looks at every slot at most once. Behind 131,072 messages that are all gone it
    /// may pass over short ones that stand between long ones that are gone as well.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        ring::oldest(self.segment.geometry(), self.segment.words(), 0)
    }

    /// The life of the server that this subscriber reads.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.segment.header().incarnation()
    }

    /// The segment that it reads.
    #[must_use]
    pub const fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }
}

/// What a drain came to.
pub(crate) struct Drained {
    /// How many messages there were.
    pub(crate) messages: usize,
    /// All polls found something, and there may be more.
    pub(crate) goes_on: bool,
}

/// Calls `poll` up to `limit` times, until there is nothing, and gives `each` what it finds.
#[inline(always)]
pub(crate) fn drain<R>(limit: usize, mut poll: impl FnMut() -> Poll<R>, each: &mut impl FnMut(Poll<R>)) -> Drained {
    let mut messages = 0;
    // A hostile publisher can make laps without end: they count, too.
    for _ in 0..limit {
        let outcome = poll();
        let goes_on = match outcome {
            Poll::Empty => {
                return Drained {
                    messages,
                    goes_on: false,
                };
            }
            Poll::Message(_) => {
                messages += 1;
                true
            }
            Poll::Lapped { .. } => true,
            _ => false,
        };
        // Called in one place and by no reference that would be a function itself: so it is inlined however long it is. For a
        // call each message would be built in memory.
        each(outcome);
        if !goes_on {
            return Drained { messages, goes_on };
        }
    }
    Drained {
        messages,
        goes_on: true,
    }
}

/// Waits for some nanoseconds and leaves memory alone.
fn pause(turns: u32) {
    (0..turns).for_each(|_| std::hint::spin_loop());
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
