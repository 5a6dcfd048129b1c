//! Who is woken after a message became visible.
//!
//! The publisher's cost when nobody sleeps is one load of a private flag word. Two kinds of sleepers raise a flag:
//!
//! ```text
//!   SERVICE   the server's own service thread sleeps in epoll and has followers that wait for messages: it is woken
//!             through its eventfd, once, and clears nothing itself until it is up
//!   READERS   processes are attached (the service thread asks the kernel a few times a second): they may sleep on the
//!             futex word. A wake costs a system call, so while messages follow each other within WAKE_INTERVAL, and
//!             readers therefore spin, wakes are made ever less often, unless one finds a sleeper; the service thread is
//!             asked to make the trailing ones until the stream pauses. Of many sleepers the publisher wakes a few, and
//!             the service thread the others
//! ```
//!
//! `wakes.rs` has the flags and why no wake is lost; this file has the system calls.

use std::cell::Cell;
use std::hint;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use crossbeam_utils::Backoff;
use rustix::thread::{MembarrierCommand, futex, membarrier};

use crate::gate::{Claim, ClaimWords};
use crate::segment::Segment;
use crate::wakes::{READERS, SERVICE, Trail, Wakes};
use crate::{ring, sys};

/// A message that follows another within this time may do without a wake. Readers spin for longer than this before they
/// sleep: one that was awake at the last message, or was woken by it, is awake still. Only a publisher that is preempted
/// between a message and its wake, or keeps a batch for long behind its last message, can leave a reader asleep, or one that
/// sleeps without having spun, for as long as a trailing wake takes: the publisher's next one while the stream goes on, the
/// service thread's behind its last message.
pub(crate) const WAKE_INTERVAL: Duration = Duration::from_micros(16);
/// How long the publisher leaves it at its last decision whether a message makes a wake, while the service thread makes them:
/// less than WAKE_INTERVAL, so that no pause is overlooked.
const QUIET_NS: u64 = WAKE_INTERVAL.as_nanos() as u64 / 2;
/// How often the service thread makes the wakes that the publisher withheld, while it finds somebody asleep.
const TRAILING_INTERVAL: Duration = Duration::from_millis(1);
/// It makes them ever less often while the stream goes on and nobody is found asleep, up to this, as each time it takes a
/// processor from somebody. So does the publisher with its own, each of which holds up a message for half a microsecond.
const LONGEST_TRAILING_INTERVAL: Duration = Duration::from_millis(8);
/// Longest sleep of a publisher without room, so that it sees a subscriber that is leaving, or is to be evicted.
const LONGEST_ROOM_SLEEP: Duration = Duration::from_millis(100);
/// How often the kernel is asked whether anybody is attached.
pub(crate) const CENSUS_INTERVAL: Duration = Duration::from_millis(50);

/// Shared by a server's publisher and its service thread.
#[derive(Debug)]
pub(crate) struct Bell {
    wakes: Wakes,
    waker: OnceLock<mio::Waker>,
    /// A wake of the publisher found somebody asleep, and the service thread has not noticed yet.
    has_slept: AtomicBool,
}

impl Bell {
    pub(crate) fn new() -> Self {
        Self {
            wakes: Wakes::new(has_process_barrier()),
            waker: OnceLock::new(),
            has_slept: AtomicBool::new(false),
        }
    }

    /// Wakes the service thread, whatever for.
    pub(crate) fn wake_service(&self) {
        if let Some(waker) = self.waker.get() {
            // The eventfd is ours and never full: a write to it that fails has nothing to tell.
            let _ = waker.wake();
        }
    }
}

/// All who sleep on the segment's futex word.
const EVERYBODY: u32 = i32::MAX as u32;
/// How many of them the publisher wakes itself: each costs it up to 40 us.
const A_FEW: u32 = 2;

/// Wakes everybody who sleeps on the segment's futex word.
pub(crate) fn wake_readers(segment: &Segment) {
    wake_some_readers(segment, EVERYBODY);
}

/// Wakes up to `most` of those who sleep on the segment's futex word. Returns how many it woke.
fn wake_some_readers(segment: &Segment, most: u32) -> u32 {
    // Not private: the sleepers are other processes. It fails only for a bad address.
    let woken = futex::wake(sys::futex_word(segment.head_word()), futex::Flags::empty(), most);
    woken.map_or(0, |count| count as u32)
}

/// Sleeps until the head is no longer `seen`, somebody wakes the readers, or `timeout` has passed.
pub(crate) fn sleep_while_head_is(segment: &Segment, seen: u64, timeout: Duration) {
    futex_wait(segment.head_word(), seen, timeout);
}

/// Sleeps until the low half of `word` is no longer that of `seen`, somebody wakes who sleeps on it, or `timeout` has
/// passed.
fn futex_wait(word: &AtomicU64, seen: u64, timeout: Duration) {
    let timeout = rustix::time::Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // Woken, changed before the sleep began, interrupted, timed out: the caller looks again in any case.
    let _ = futex::wait(
        sys::futex_word(word),
        futex::Flags::empty(),
        seen as u32,
        Some(&timeout),
    );
}

/// The publisher's hand on the bell.
#[derive(Debug)]
pub(crate) struct Ringer {
    bell: Arc<Bell>,
    segment: Arc<Segment>,
    /// When the last message was published, when it was last decided whether one makes a wake, and when the readers were
    /// last woken, on the clock of the timestamps.
    last_message_ns: u64,
    decided_ns: u64,
    last_wake_ns: u64,
    /// How long after that a message makes a wake, however soon it follows another.
    wake_interval: Duration,
}

impl Ringer {
    pub(crate) const fn new(bell: Arc<Bell>, segment: Arc<Segment>) -> Self {
        Self {
            bell,
            segment,
            last_message_ns: 0,
            decided_ns: 0,
            last_wake_ns: 0,
            wake_interval: WAKE_INTERVAL,
        }
    }

    /// To be called after every message, or after the last of a batch, and never without one. Costs a load if nobody
    /// listens; `now_ns` is called only if somebody does, and must not be much older than the message.
    #[inline]
    pub(crate) fn ring(&mut self, now_ns: impl FnOnce() -> u64) {
        let asked = self.bell.wakes.asked();
        if !Wakes::is_anybody_there(asked) {
            return;
        }
        let now_ns = now_ns();
        // A clock that was set back counts as a long time.
        if Wakes::is_left_alone(asked) && now_ns.wrapping_sub(self.decided_ns) < QUIET_NS {
            self.last_message_ns = now_ns;
            return;
        }
        self.wake(asked, now_ns);
    }

    /// Rings for what was published before, for a publisher that is about to wait, at most every WAKE_INTERVAL. When that was
    /// published stays as it is: who watched the last message for long enough may be asleep.
    #[cold]
    pub(crate) fn ring_again(&mut self, now_ns: impl FnOnce() -> u64) {
        let asked = self.bell.wakes.asked();
        self.wake_service(asked);
        if asked & READERS != 0 {
            self.wake_readers(asked, now_ns(), WAKE_INTERVAL);
        }
    }

    #[cold]
    fn wake(&mut self, asked: u32, now_ns: u64) {
        self.wake_service(asked);
        if asked & READERS != 0 {
            // A clock that was set back counts as a long time.
            let pause = Duration::from_nanos(now_ns.wrapping_sub(self.last_message_ns));
            (self.last_message_ns, self.decided_ns) = (now_ns, now_ns);
            let may_sleep = pause >= WAKE_INTERVAL;
            let interval = if may_sleep { Duration::ZERO } else { self.wake_interval };
            self.wake_readers(asked, now_ns, interval);
        }
    }

    fn wake_service(&self, asked: u32) {
        if asked & SERVICE != 0 {
            self.bell.wakes.settle(SERVICE);
            self.bell.wake_service();
        }
    }

    /// Wakes the readers if the last wake was `interval` ago or more; else leaves that to the service thread.
    fn wake_readers(&mut self, asked: u32, now_ns: u64, interval: Duration) {
        // As above.
        let since_wake = Duration::from_nanos(now_ns.wrapping_sub(self.last_wake_ns));
        if since_wake >= interval {
            self.last_wake_ns = now_ns;
            let woken = wake_some_readers(&self.segment, A_FEW);
            if woken == A_FEW && self.bell.wakes.leave_crowd() {
                self.bell.wake_service();
            }
            self.wake_interval = if woken > 0 {
                // Relaxed: a hint, which may be noticed late.
                self.bell.has_slept.store(true, Ordering::Relaxed);
                WAKE_INTERVAL
            } else {
                (self.wake_interval * 2).min(LONGEST_TRAILING_INTERVAL)
            };
        } else if self.bell.wakes.withhold(asked) {
            self.bell.wake_service();
        }
    }

    /// Wakes everybody, flags or not: the stream has ended.
    pub(crate) fn ring_all(&self) {
        wake_readers(&self.segment);
        self.bell.wake_service();
    }
}

/// How long a publisher leaves a subscriber alone that it is right behind: the time in which one reads some dozens of
/// messages. A look at its cursor after each of them takes the cursor's line from it each time, and a subscriber that gives
/// back every message by itself then waits for it each time.
pub(crate) const ROOM_REST: Duration = Duration::from_micros(2);

/// Lets subscribers read on.
pub(crate) fn rest() {
    let start = Instant::now();
    while start.elapsed() < ROOM_REST {
        hint::spin_loop();
    }
}

/// A publisher's wait for one lossless subscriber after the other, until there is room.
#[derive(Debug)]
pub(crate) struct RoomWait {
    started: Instant,
    timeout: Duration,
    /// How long the next sleep may be: short at first, in case the barrier is not to be had.
    longest: Duration,
}

/// How long a publisher looks at a cursor before it sleeps until it moves.
const ROOM_SPIN: Duration = Duration::from_micros(50);

impl RoomWait {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            started: Instant::now(),
            timeout,
            longest: TRAILING_INTERVAL,
        }
    }

    /// Waits until the cursor of `claim` is beyond `seen`, or for a moment. Returns whether there is time left.
    pub(crate) fn turn(&mut self, claim: &Claim, seen: u64) -> bool {
        let words = claim.words();
        let spin_until = Instant::now() + ROOM_SPIN;
        let backoff = Backoff::new();
        loop {
            // One that went back has made no room.
            if words.cursor() > seen {
                return true;
            }
            let now = Instant::now();
            if now.saturating_duration_since(self.started) >= self.timeout {
                return false;
            }
            if now >= spin_until {
                break;
            }
            backoff.snooze();
        }
        let left = self.timeout.saturating_sub(self.started.elapsed());
        words.prepare_to_wait(heavy_barrier);
        // Whatever it says now, if not more: a change behind this is noticed.
        let cursor = words.cursor();
        if cursor <= seen {
            futex_wait(words.word(), cursor, self.longest.min(left));
        }
        words.waited();
        self.longest = (self.longest * 2).min(LONGEST_ROOM_SLEEP);
        true
    }
}

/// Wakes the publisher that sleeps on the cursor of `claim`.
pub(crate) fn wake_publisher(claim: ClaimWords<'_>) {
    // It fails only for a bad address.
    let _ = futex::wake(sys::futex_word(claim.word()), futex::Flags::empty(), 1);
}

/// Makes this process take part in the heavy barriers of others, so that its own may be light. Returns whether it does.
pub(crate) fn join_barriers() -> bool {
    membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok()
}

/// Whether the heavy half of a barrier between the threads of this process is to be had, from now on.
pub(crate) fn has_process_barrier() -> bool {
    membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
}

/// The heavy half of a barrier between the threads of this process. Returns whether it was to be had.
pub(crate) fn process_barrier() -> bool {
    membarrier(MembarrierCommand::PrivateExpedited).is_ok()
}

/// The heavy half of a barrier with every process that joined (membarrier(2)).
fn heavy_barrier() {
    // Where it is not to be had nobody has joined, and all make both halves themselves.
    let _ = membarrier(MembarrierCommand::GlobalExpedited);
    fence(Ordering::SeqCst);
}

/// The service thread's duties to the segment: the heartbeat, the census of readers, the trailing wakes.
#[derive(Debug)]
pub(crate) struct Attendant {
    bell: Arc<Bell>,
    segment: Arc<Segment>,
    heartbeat_interval: Duration,
    beats: u64,
    next_beat: Instant,
    next_census: Instant,
    /// The wakes that the publisher withheld, and when the next is due.
    trail: Trail,
    next_wake: Instant,
    /// How long behind the last one.
    trailing_interval: Duration,
    /// Whether membarrier(2) is to be had. If not, sleeps are kept short instead.
    has_barrier: bool,
}

impl Attendant {
    /// Takes the duty. `waker` is how the publisher wakes the thread that has it.
    pub(crate) fn new(bell: Arc<Bell>, segment: Arc<Segment>, waker: mio::Waker, now: Instant) -> Self {
        let has_barrier = has_process_barrier();
        let heartbeat_interval = segment.header().heartbeat_interval().max(Duration::from_millis(1));
        bell.waker.set(waker).expect("a bell has one attendant");
        Self {
            bell,
            segment,
            heartbeat_interval,
            beats: 0,
            next_beat: now,
            next_census: now,
            trail: Trail::default(),
            next_wake: now,
            trailing_interval: TRAILING_INTERVAL,
            has_barrier,
        }
    }

    /// Does what is due. Returns when it wants to be called again at the latest.
    pub(crate) fn turn(&mut self, now: Instant) -> Instant {
        if now >= self.next_beat {
            self.beats += 1;
            self.segment.beat(self.beats);
            self.next_beat = now + self.heartbeat_interval;
        }
        if now >= self.next_census {
            self.take_census();
            self.next_census = now + CENSUS_INTERVAL;
        }
        if self.bell.wakes.take_crowd() {
            wake_readers(&self.segment);
        }
        let mut next = self.next_beat;
        if self.segment.id().is_some() {
            next = next.min(self.next_census);
        }
        // The first is due at once: the publisher's last wake may be as old as WAKE_INTERVAL.
        if !self.trail.is_on() || now >= self.next_wake {
            self.make_withheld_wakes(now);
        }
        if self.trail.is_on() {
            next = next.min(self.next_wake);
        }
        next
    }

    fn make_withheld_wakes(&mut self, now: Instant) {
        let head = || ring::head(self.segment.words()).next;
        // It was to be had when the flags were made, or they do not ask for it.
        let barrier = || {
            process_barrier();
        };
        let woken = Cell::new(0);
        let wake = || woken.set(wake_some_readers(&self.segment, EVERYBODY));
        let was_on = self.trail.is_on();
        self.trail.turn(&self.bell.wakes, barrier, head, wake);
        let has_slept = self.bell.has_slept.swap(false, Ordering::Relaxed) || woken.get() > 0;
        self.trailing_interval = if was_on && self.trail.is_on() && !has_slept {
            (self.trailing_interval * 2).min(LONGEST_TRAILING_INTERVAL)
        } else {
            TRAILING_INTERVAL
        };
        self.next_wake = now + self.trailing_interval;
    }

    fn take_census(&self) {
        // One mapping is the server's own. If the kernel does not tell, assume that somebody is there.
        let attached = self
            .segment
            .status()
            .map_or(2, |status| status.map_or(1, |status| status.attached));
        if attached > 1 {
            // No barrier: readers sleep no longer than a moment until the census has counted them.
            self.bell.wakes.ask(READERS, || ());
        } else {
            self.bell.wakes.settle(READERS);
        }
    }

    /// Asks the publisher to wake this thread for the next message. After this the caller must look at the ring once
    /// more before it sleeps. Returns how long it may then sleep at most, if that is bounded.
    pub(crate) fn prepare_to_sleep(&self) -> Option<Duration> {
        let is_ordered = self.bell.wakes.ask(SERVICE, || {
            // B2, pairs with B1 in `Wakes::asked`.
            let is_ordered = self.has_barrier && process_barrier();
            if !is_ordered {
                fence(Ordering::SeqCst);
            }
            is_ordered
        });
        (!is_ordered).then_some(TRAILING_INTERVAL)
    }

    /// Takes the request back: the thread is up.
    pub(crate) fn woken(&self) {
        self.bell.wakes.settle(SERVICE);
    }
}

#[cfg(test)]
mod tests;
