//! Who is woken after a message became visible.
//!
//! The publisher's cost when nobody sleeps is one load of a private flag word. Two kinds of sleepers raise a flag:
//!
//! ```text
//!   SERVICE   the server's own service thread sleeps in epoll and has followers that wait for messages: it is woken
//!             through its eventfd, once, and clears nothing itself until it is up
//!   READERS   processes are attached (the service thread asks the kernel a few times a second): they may sleep on the
//!             futex word. A wake costs a system call, so at most one is made per WAKE_INTERVAL; when messages follow
//!             faster, the service thread is asked to make the trailing wakes until the stream pauses
//! ```
//!
//! The service thread raises SERVICE, makes the barrier and looks at the ring once more before it sleeps; the publisher
//! stores the head and then looks at the flag. One of the two sees the other: membarrier(2) stands in for the fence
//! that the publisher would otherwise pay for with every message.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, compiler_fence};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use rustix::thread::{MembarrierCommand, futex, membarrier};

use crate::ring;
use crate::segment::Segment;

/// Shortest time between two wakes that the publisher makes itself. A reader that spins at least this long before it
/// sleeps is hardly ever asleep when a wake is withheld.
pub(crate) const WAKE_INTERVAL: Duration = Duration::from_micros(50);
/// How often the service thread makes the wakes that the publisher withheld.
const TRAILING_INTERVAL: Duration = Duration::from_millis(1);
/// How often the kernel is asked whether anybody is attached.
pub(crate) const CENSUS_INTERVAL: Duration = Duration::from_millis(50);

const SERVICE: u32 = 1;
const READERS: u32 = 2;

/// Shared by a server's publisher and its service thread.
#[derive(Debug)]
pub(crate) struct Bell {
    /// Alone on its cache line: the publisher loads it with every message, and it changes rarely.
    listening: CachePadded<AtomicU32>,
    /// The publisher withheld a wake, and the service thread makes it.
    trailing: AtomicBool,
    waker: OnceLock<mio::Waker>,
}

impl Bell {
    pub(crate) fn new() -> Self {
        Self {
            listening: CachePadded::new(AtomicU32::new(0)),
            trailing: AtomicBool::new(false),
            waker: OnceLock::new(),
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

/// Wakes everybody who sleeps on the segment's futex word.
fn wake_readers(segment: &Segment) {
    // Not private: the sleepers are other processes. It fails only for a bad address.
    let _ = futex::wake(segment.futex_word(), futex::Flags::empty(), i32::MAX as u32);
}

/// Sleeps until the head is no longer `seen`, somebody wakes the readers, or `timeout` has passed.
pub(crate) fn sleep_while_head_is(segment: &Segment, seen: u64, timeout: Duration) {
    let timeout = rustix::time::Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // Woken, changed before the sleep began, interrupted, timed out: the caller looks at the ring in any case.
    let _ = futex::wait(segment.futex_word(), futex::Flags::empty(), seen as u32, Some(&timeout));
}

/// The publisher's hand on the bell.
#[derive(Debug)]
pub(crate) struct Ringer {
    bell: Arc<Bell>,
    segment: Arc<Segment>,
    /// When the readers were last woken, on the clock of the timestamps.
    last_wake_ns: u64,
}

impl Ringer {
    pub(crate) const fn new(bell: Arc<Bell>, segment: Arc<Segment>) -> Self {
        Self {
            bell,
            segment,
            last_wake_ns: 0,
        }
    }

    /// To be called after every message, or after the last of a batch. Costs a load if nobody listens.
    #[inline]
    pub(crate) fn ring(&mut self, now_ns: u64) {
        // Pairs with the barrier in `Attendant::prepare_to_sleep`: the head is stored before the flag is loaded.
        compiler_fence(Ordering::SeqCst);
        let listening = self.bell.listening.load(Ordering::Relaxed);
        if listening != 0 {
            self.wake(listening, now_ns);
        }
    }

    #[cold]
    fn wake(&mut self, listening: u32, now_ns: u64) {
        if listening & SERVICE != 0 {
            self.bell.listening.fetch_and(!SERVICE, Ordering::Relaxed);
            self.bell.wake_service();
        }
        if listening & READERS != 0 {
            // A clock that was set back counts as a long time.
            if now_ns.wrapping_sub(self.last_wake_ns) >= WAKE_INTERVAL.as_nanos() as u64 {
                self.last_wake_ns = now_ns;
                wake_readers(&self.segment);
            } else if !self.bell.trailing.swap(true, Ordering::AcqRel) {
                // AcqRel, pairs with the swap in `Attendant::make_trailing_wake`: it sees the head stored before this.
                self.bell.wake_service();
            }
        }
    }

    /// Wakes everybody, flags or not: the stream has ended.
    pub(crate) fn ring_all(&self) {
        wake_readers(&self.segment);
        self.bell.wake_service();
    }
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
    /// While wakes are made for the publisher: when the next is due, and the head at the last.
    trailing: Option<(Instant, u64)>,
    /// Whether membarrier(2) is to be had. If not, sleeps are kept short instead.
    has_barrier: bool,
}

impl Attendant {
    /// Takes the duty. `waker` is how the publisher wakes the thread that has it.
    pub(crate) fn new(bell: Arc<Bell>, segment: Arc<Segment>, waker: mio::Waker, now: Instant) -> Self {
        let has_barrier = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
        let heartbeat_interval = segment.header().heartbeat_interval().max(Duration::from_millis(1));
        bell.waker.set(waker).expect("a bell has one attendant");
        Self {
            bell,
            segment,
            heartbeat_interval,
            beats: 0,
            next_beat: now,
            next_census: now,
            trailing: None,
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
        let mut next = self.next_beat;
        if self.segment.id().is_some() {
            next = next.min(self.next_census);
        }
        if let Some(due) = self.make_trailing_wake(now) {
            next = next.min(due);
        }
        next
    }

    fn take_census(&self) {
        // One mapping is the server's own. If the kernel does not tell, assume that somebody is there.
        let attached = self
            .segment
            .status()
            .map_or(2, |status| status.map_or(1, |status| status.attached));
        if attached > 1 {
            self.bell.listening.fetch_or(READERS, Ordering::Relaxed);
        } else {
            self.bell.listening.fetch_and(!READERS, Ordering::Relaxed);
        }
    }

    fn make_trailing_wake(&mut self, now: Instant) -> Option<Instant> {
        let head = || ring::head(self.segment.words()).next;
        let Some((due, last)) = self.trailing else {
            if self.bell.trailing.load(Ordering::Relaxed) {
                // The first is due at once: the publisher's last wake may be as old as WAKE_INTERVAL.
                self.trailing = Some((now + TRAILING_INTERVAL, head()));
                wake_readers(&self.segment);
            }
            return self.trailing.map(|(due, _)| due);
        };
        if now < due {
            return Some(due);
        }
        let current = head();
        if current != last {
            wake_readers(&self.segment);
            self.trailing = Some((now + TRAILING_INTERVAL, current));
            return self.trailing.map(|(due, _)| due);
        }
        // The stream paused. AcqRel, pairs with the swap in `Ringer::wake`: a publisher that found the duty taken stored
        // its head before, and it is seen below.
        self.trailing = None;
        self.bell.trailing.swap(false, Ordering::AcqRel);
        if head() != last {
            wake_readers(&self.segment);
        }
        None
    }

    /// Asks the publisher to wake this thread for the next message. After this the caller must look at the ring once
    /// more before it sleeps. Returns how long it may then sleep at most, if that is bounded.
    pub(crate) fn prepare_to_sleep(&self) -> Option<Duration> {
        self.bell.listening.fetch_or(SERVICE, Ordering::Relaxed);
        // Pairs with the compiler fence in `Ringer::ring`: every publisher that did not see the flag stored its head
        // before this returns.
        if self.has_barrier && membarrier(MembarrierCommand::PrivateExpedited).is_ok() {
            None
        } else {
            std::sync::atomic::fence(Ordering::SeqCst);
            Some(TRAILING_INTERVAL)
        }
    }

    /// Takes the request back: the thread is up.
    pub(crate) fn woken(&self) {
        if self.bell.listening.load(Ordering::Relaxed) & SERVICE != 0 {
            self.bell.listening.fetch_and(!SERVICE, Ordering::Relaxed);
        }
    }
}
