//! Where the two processors are that a run has: one cache line bounced between them tells.
//!
//! Virtual processors move over the real ones while they run, and that changes every figure by more than the design of any
//! peer does. So each run is bracketed with this probe.

use std::fmt;
use std::hint;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::clock::{Scale, ticks};

/// Round trips that are timed as one.
const BATCH: u64 = 32;
/// What ends the probe.
const OVER: u64 = u64::MAX;
/// How long it is bounced.
const TIME_NS: f64 = 20e6;

/// The first side: bounces the line for 20 ms. Returns the median round trip in nanoseconds.
pub fn serve(ball: &AtomicU64, scale: &Scale) -> f64 {
    let mut trips = Vec::with_capacity(1 << 15);
    let start = ticks();
    let length = (TIME_NS / scale.ns_per_tick()) as u64;
    let mut next = ball.load(Ordering::Relaxed) + 1;
    let mut before = start;
    while before - start < length {
        for _ in 0..BATCH {
            ball.store(next, Ordering::Release);
            while ball.load(Ordering::Acquire) == next {
                hint::spin_loop();
            }
            next += 2;
        }
        let now = ticks();
        trips.push(now - before);
        before = now;
    }
    ball.store(OVER, Ordering::Release);
    trips.sort_unstable();
    trips[trips.len() / 2] as f64 / BATCH as f64 * scale.ns_per_tick()
}

/// The other side: sends it back until it is over, and leaves it ready for the next time.
pub fn return_it(ball: &AtomicU64) {
    let mut seen = ball.load(Ordering::Acquire);
    while seen != OVER {
        if seen % 2 == 1 {
            ball.store(seen + 1, Ordering::Release);
        }
        hint::spin_loop();
        seen = ball.load(Ordering::Acquire);
    }
    ball.store(0, Ordering::Release);
}

/// No line takes so long: something else ran on one of the processors most of the time.
const TAKEN_AWAY_NS: f64 = 2000.0;

/// How near to each other two processors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Two threads of one core.
    S,
    /// Two cores that share a cache.
    C,
    /// Two that share none.
    X,
}

impl Class {
    /// That of a probe of so many nanoseconds. They lie near 28, 60 and 300 on the AMD EPYC that we have seen, near 32 and from
    /// 105 to 170 on an Intel Xeon.
    pub const fn of(round_trip_ns: f64) -> Self {
        match round_trip_ns {
            ns if ns < 42.0 => Self::S,
            ns if ns < 200.0 => Self::C,
            _ => Self::X,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The probe before a run and after it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Probes {
    pub before_ns: f64,
    pub after_ns: f64,
}

impl Probes {
    /// Whether they differ by no more than a quarter, and are such as a line can have: the processors stayed where they
    /// were, and nobody else took them away.
    pub fn agree(&self) -> bool {
        let (least, most) = (self.before_ns.min(self.after_ns), self.before_ns.max(self.after_ns));
        most <= 1.25 * least && most < TAKEN_AWAY_NS
    }

    pub const fn mean_ns(&self) -> f64 {
        f64::midpoint(self.before_ns, self.after_ns)
    }

    pub const fn class(&self) -> Class {
        Class::of(self.mean_ns())
    }
}
