//! The publisher: the one writer of a stream.
//!
//! Publishing copies the payload into the ring, a word at a time, and stores its stamp: no system call and no locked
//! instruction while nobody sleeps, and nothing that depends on how many read. A [`Loan`] lends room in the ring to be
//! filled in place; a [`Batch`] reads the clock once and wakes sleepers once for many messages, pushed or lent: small
//! values of a type in a batch ([`Batch::push_typed`]) are the quickest messages there are.
//!
//! Lossless subscribers hold the publisher up when they are a whole ring behind (see [`LosslessPolicy`](crate::LosslessPolicy)): publishing then
//! waits for them, and `try_publish` says [`PublishError::Full`] instead. Nobody else can.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytemuck::NoUninit;

use crate::bell::{Bell, ROOM_REST, Ringer, RoomWait, rest};
use crate::clock::{Clock, Machine};
use crate::gate::{Claim, Gate, Gatekeeper, LosslessStatus, Room, Wanted};
use crate::incarnation::Incarnation;
use crate::layout::Geometry;
use crate::ring::Writer;
use crate::segment::Owned;

mod batch;
mod loan;

pub use batch::Batch;
pub use loan::Loan;

/// Why a message was not published. Nothing of it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// It is longer than the ring takes.
    TooLong {
        /// Bytes of the message.
        len: usize,
        /// Bytes that a message may have.
        max: usize,
    },
    /// The stream was ended.
    Ended,
    /// It would overwrite what a lossless subscriber has not read. Only what promises not to wait says this.
    Full,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, max } => write!(
                f,
                "a message of {len} bytes is longer than the {max} bytes that this ring takes: give the server a larger ring size or longest message"
            ),
            Self::Ended => f.write_str("the stream was ended: nothing can be published any more"),
            Self::Full => f.write_str("a lossless subscriber has not read what this message would overwrite"),
        }
    }
}

impl std::error::Error for PublishError {}

/// Publishes messages into a ring. There is one for each server; dropping it ends the stream.
#[derive(Debug)]
pub struct Publisher {
    segment: Owned,
    writer: Writer,
    ringer: Ringer,
    gatekeeper: Gatekeeper,
    clock: Clock,
    /// Longest payload that may be published and lies in its slot.
    short_bytes: usize,
    /// Payload bytes published so far.
    bytes: u64,
    has_ended: bool,
}

/// Copies of up to this many bytes take about a microsecond: the time before one is as good as the time after it.
const QUICK_COPY_BYTES: usize = 16 << 10;

/// The time now, in nanoseconds since 1970 (CLOCK_REALTIME).
pub(crate) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64)
}

impl Publisher {
    pub(crate) fn new(segment: Owned, bell: Arc<Bell>, gate: Arc<Gate>) -> Self {
        let writer = Writer::new(*segment.share().geometry());
        let ringer = Ringer::new(bell, segment.share());
        let geometry = writer.geometry();
        let short_bytes = geometry.inline_bytes().min(geometry.max_message_bytes());
        Self {
            segment,
            writer,
            ringer,
            gatekeeper: Gatekeeper::new(gate),
            clock: Clock::new(Machine::new()),
            short_bytes,
            bytes: 0,
            has_ended: false,
        }
    }

    /// Publishes `payload` with tag 0. Returns its sequence. Costs one copy and one look at the clock. Waits for lossless
    /// subscribers that are a whole ring behind; nobody else can make it wait.
    ///
    /// # Errors
    /// If it is longer than [`Publisher::max_message_bytes`], or the stream was ended.
    #[inline]
    pub fn publish(&mut self, payload: &[u8]) -> Result<u64, PublishError> {
        self.publish_tagged(0, payload)
    }

    /// Publishes `payload` with a tag, 64 bits that subscribers see beside it.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    #[inline]
    pub fn publish_tagged(&mut self, tag: u64, payload: &[u8]) -> Result<u64, PublishError> {
        self.admit(payload.len())?;
        Ok(self.put_and_ring(tag, payload))
    }

    /// Publishes `payload` with a tag and a time of its own, in nanoseconds since 1970: that of an exchange or a sensor, or
    /// of a recording that is played again. The clock is looked at for nothing but a wake, and behind the message.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    #[inline]
    pub fn publish_at(&mut self, timestamp_ns: u64, tag: u64, payload: &[u8]) -> Result<u64, PublishError> {
        self.admit(payload.len())?;
        let sequence = self.put(tag, payload, |_| timestamp_ns);
        self.ringer.ring(|| self.clock.now_ns());
        Ok(sequence)
    }

    /// As [`Publisher::publish_tagged`], but never waits.
    ///
    /// # Errors
    /// As [`Publisher::publish`], and [`PublishError::Full`] if it would have to wait.
    #[inline]
    pub fn try_publish_tagged(&mut self, tag: u64, payload: &[u8]) -> Result<u64, PublishError> {
        self.try_admit(payload.len())?;
        Ok(self.put_and_ring(tag, payload))
    }

    #[inline]
    fn put_and_ring(&mut self, tag: u64, payload: &[u8]) -> u64 {
        let mut now_ns = 0;
        let sequence = self.put(tag, payload, |clock| {
            now_ns = clock.now_ns();
            now_ns
        });
        self.ringer.ring(|| {
            if payload.len() > QUICK_COPY_BYTES {
                self.clock.now_ns()
            } else {
                now_ns
            }
        });
        sequence
    }

    /// Publishes a message that was admitted.
    #[inline]
    fn put(&mut self, tag: u64, payload: &[u8], now_ns: impl FnOnce(&mut Clock) -> u64) -> u64 {
        self.bytes += payload.len() as u64;
        let now_ns = || now_ns(&mut self.clock);
        self.writer.publish(self.segment.memory(), payload, now_ns, tag)
    }

    /// Publishes the bytes of `value`, for [`crate::Subscriber::poll_typed`] of the same type.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    #[inline]
    pub fn publish_typed<T: NoUninit>(&mut self, value: &T) -> Result<u64, PublishError> {
        self.publish(bytemuck::bytes_of(value))
    }

    /// Waits until a message of `len` bytes may be published.
    #[inline]
    fn admit(&mut self, len: usize) -> Result<(), PublishError> {
        if self.passes(len) {
            return Ok(());
        }
        self.wait_for_room(len, Duration::MAX)
    }

    /// Whether a message of `len` bytes may be published now.
    #[inline]
    fn try_admit(&mut self, len: usize) -> Result<(), PublishError> {
        if self.passes(len) {
            return Ok(());
        }
        self.ask(len).map(drop).map_err(|refusal| refusal.error())
    }

    /// Whether a message of `len` bytes may be published without a closer look: nobody claims anything, or the last look
    /// found room for it in the slots, and it takes nothing else.
    #[inline]
    fn passes(&self, len: usize) -> bool {
        self.gatekeeper.gate().lets_pass(len)
            || (len <= self.short_bytes && self.gatekeeper.knows_room(self.writer.next()))
    }

    /// Takes the closer look that the gate asks for.
    fn ask(&mut self, len: usize) -> Result<Room, Refusal> {
        if self.has_ended {
            return Err(Refusal::Never(PublishError::Ended));
        }
        let max = self.max_message_bytes();
        if len > max {
            return Err(Refusal::Never(PublishError::TooLong { len, max }));
        }
        let wanted = Wanted {
            sequence: self.writer.next(),
            floor: self.writer.floor_for(len),
        };
        let (writer, memory) = (&self.writer, self.segment.memory());
        self.gatekeeper
            .admit(wanted, |since| writer.first_large(memory, since), Instant::now)
            .map_err(|(claim, seen)| Refusal::HeldBy(claim, seen))
    }

    /// Waits for up to `timeout` until a message of `len` bytes can be published without waiting. Returns at once while
    /// no lossless subscriber is a whole ring behind; right behind one it takes 2 us, for room for some messages.
    ///
    /// # Errors
    /// As [`Publisher::publish`], and [`PublishError::Full`] if there is no room yet.
    pub fn wait_for_room(&mut self, len: usize, timeout: Duration) -> Result<(), PublishError> {
        self.find_room(len, timeout).map(drop)
    }

    /// As [`Publisher::wait_for_room`]. Returns whether it waited.
    fn find_room(&mut self, len: usize, timeout: Duration) -> Result<bool, PublishError> {
        match self.ask(len) {
            Ok(Room::Ample) => Ok(false),
            seen => self.make_room(len, timeout, seen),
        }
    }

    /// Makes of `first`, what the last look saw, that there is room.
    #[cold]
    fn make_room(&mut self, len: usize, timeout: Duration, first: Result<Room, Refusal>) -> Result<bool, PublishError> {
        let mut wait = None;
        let mut outcome = first;
        loop {
            let (claim, seen) = match outcome {
                // The room that was seen stays. The next look finds more.
                Ok(Room::Scarce) if timeout >= ROOM_REST => {
                    rest();
                    return Ok(true);
                }
                Ok(_) => return Ok(wait.is_some()),
                Err(Refusal::Never(error)) => return Err(error),
                Err(Refusal::HeldBy(claim, seen)) => (claim, seen),
            };
            let wait = wait.get_or_insert_with(|| {
                // Those who are to make room must know what there is to read.
                self.ringer.ring_again(|| self.clock.now_ns());
                RoomWait::new(timeout)
            });
            if !wait.turn(&claim, seen) {
                return Err(PublishError::Full);
            }
            outcome = self.ask(len);
        }
    }

    /// Borrows room for a payload of up to `len` bytes in the ring. What is written to the loan becomes the next
    /// message when it is committed; dropping it publishes nothing. Waits as [`Publisher::publish`] does.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    #[inline(always)]
    pub fn loan(&mut self, len: usize) -> Result<Loan<'_>, PublishError> {
        self.admit(len)?;
        Ok(Loan::new(self, len, None))
    }

    /// As [`Publisher::loan`], but never waits.
    ///
    /// # Errors
    /// As [`Publisher::publish`], and [`PublishError::Full`] if it would have to wait.
    #[inline(always)]
    pub fn try_loan(&mut self, len: usize) -> Result<Loan<'_>, PublishError> {
        self.try_admit(len)?;
        Ok(Loan::new(self, len, None))
    }

    /// Begins a batch: messages that share one timestamp and one wake. Each can be read as soon as it is pushed.
    #[inline]
    pub fn batch(&mut self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Longest payload that this ring takes, in bytes.
    #[must_use]
    pub fn max_message_bytes(&self) -> usize {
        self.writer.geometry().max_message_bytes()
    }

    /// The sequence that the next message gets: how many were published.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.writer.next()
    }

    /// Payload bytes published so far.
    #[must_use]
    pub const fn bytes_published(&self) -> u64 {
        self.bytes
    }

    /// The ring's slots and sizes.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        self.writer.geometry()
    }

    /// This life of the server.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.segment.share().header().incarnation()
    }

    /// Ends the stream: subscribers that have read it all are told so. The ring stays readable while it is attached.
    pub fn close(mut self) {
        self.end();
    }

    pub(crate) fn end(&mut self) {
        if !self.has_ended {
            self.has_ended = true;
            self.gatekeeper.gate().shut();
            // The gate keeps a slot for this: it overwrites nothing that is claimed.
            self.writer.close(self.segment.memory());
            self.ringer.ring_all();
        }
    }

    /// The segment's words, for tests that break the protocol.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> &[crate::sync::AtomicU64] {
        self.segment.memory()
    }

    /// Goes on as if so much had been published before, for tests.
    #[cfg(test)]
    pub(crate) fn go_on_from(&mut self, sequence: u64, position: u64) {
        self.writer.go_on_from(self.segment.memory(), sequence, position);
    }

    pub(crate) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Who the lossless subscribers are, and whether one of them holds up this publisher.
    #[must_use]
    pub fn lossless_status(&self) -> LosslessStatus {
        self.gatekeeper.gate().status(Instant::now())
    }

    /// The same, or `None` if there can be no lossless subscribers.
    #[must_use]
    pub fn lossless(&self) -> Option<LosslessStatus> {
        self.gatekeeper.gate().offer().map(|_| self.lossless_status())
    }

    /// How many messages each lossless subscriber still has to read, those left out that have read everything.
    #[must_use]
    pub fn lossless_unread(&self) -> Vec<u64> {
        let head = self.next_sequence();
        let unread = |cursor| head.saturating_sub(cursor);
        let cursors = self.gatekeeper.gate().cursors();
        cursors.into_iter().map(unread).filter(|&unread| unread > 0).collect()
    }
}

/// Why a message may not be published now.
enum Refusal {
    Never(PublishError),
    /// A lossless subscriber still wants what it would overwrite, and its cursor as it was seen.
    HeldBy(Arc<Claim>, u64),
}

impl Refusal {
    fn error(self) -> PublishError {
        match self {
            Self::Never(error) => error,
            Self::HeldBy(..) => PublishError::Full,
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.end();
    }
}
