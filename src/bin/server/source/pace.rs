//! When the messages of a steady stream are due.
//!
//! The schedule is absolute, so that late wake-ups do not add up. A stream that falls behind catches up at once, but by
//! no more than [`LONGEST_LAG`]: after a machine's sleep nobody wants the hours between.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::{Duration, Instant};

const LONGEST_LAG: Duration = Duration::from_secs(1);
/// Messages that are due within this time are published together: waking up for each would cost more than they do.
const BURST: Duration = Duration::from_millis(1);
const NS_PER_S: u128 = 1_000_000_000;

/// How many messages there are to be in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// This many.
    PerSecond(NonZeroU64),
    /// As many as can be.
    Max,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerSecond(count) => write!(f, "{count}/s"),
            Self::Max => f.write_str("max"),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "max" {
            return Ok(Self::Max);
        }
        text.strip_suffix("/s")
            .and_then(|count| count.parse().ok())
            .map(Self::PerSecond)
            .ok_or_else(|| "write a rate from 1 on like 1000/s, or max for as fast as can be".to_owned())
    }
}

/// A schedule on which message number n is due n times `period / count` after its start.
#[derive(Debug)]
pub struct Pace {
    count: u128,
    period_ns: u128,
    start: Instant,
    /// Messages since the start that were let go.
    done: u64,
    /// When the last of them were.
    last: Instant,
    lags: u64,
}

impl Pace {
    /// So many messages a second, the first of them now.
    pub fn per_second(count: NonZeroU64, now: Instant) -> Self {
        Self::new(count.get().into(), NS_PER_S, now)
    }

    /// A message every `interval`, the first of them now. An interval of zero is taken for a nanosecond.
    pub fn every(interval: Duration, now: Instant) -> Self {
        Self::new(1, interval.as_nanos().max(1), now)
    }

    const fn new(count: u128, period_ns: u128, now: Instant) -> Self {
        Self {
            count,
            period_ns,
            start: now,
            done: 0,
            last: now,
            lags: 0,
        }
    }

    /// Lets go what is due at `now`, up to `limit` messages. Returns how many.
    pub fn take(&mut self, now: Instant, limit: u64) -> u64 {
        let elapsed = now.saturating_duration_since(self.start);
        if elapsed > self.due_after(self.done).saturating_add(LONGEST_LAG) {
            self.lags += 1;
            self.start = now;
            self.done = 0;
            return self.take(now, limit);
        }
        // The first is due when the schedule begins. Counted in u128: nanoseconds times a rate exceed 64 bits soon.
        let due = elapsed.as_nanos().saturating_mul(self.count) / self.period_ns + 1;
        let due = u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.done);
        let count = due.min(limit);
        self.done += count;
        self.last = now;
        count
    }

    /// When to call [`Pace::take`] again, if that can be told.
    pub fn next(&self) -> Option<Instant> {
        let due = self.start.checked_add(self.due_after(self.done))?;
        let interval = self.due_after(1);
        // A stream of few messages has each at its time, one of many has them in bursts.
        Some(if interval < BURST {
            due.max(self.last + BURST)
        } else {
            due
        })
    }

    /// How often the stream fell so far behind that messages were left out.
    pub const fn lags(&self) -> u64 {
        self.lags
    }

    /// How long after the start message `number` is due, rounded up.
    fn due_after(&self, number: u64) -> Duration {
        let ns = u128::from(number).saturating_mul(self.period_ns).div_ceil(self.count);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(count: u64) -> NonZeroU64 {
        NonZeroU64::new(count).unwrap()
    }

    #[test]
    fn rates_are_a_count_per_second_or_max() {
        assert_eq!("1000000/s".parse(), Ok(Rate::PerSecond(rate(1_000_000))));
        assert_eq!("max".parse(), Ok(Rate::Max));
        for wrong in ["", "0/s", "-1/s", "100", "1.5/s", "/s", "99999999999999999999/s"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn late_wakes_do_not_add_up() {
        for per_second in [1, 3, 999, 1000, 1001, 1_000_000, 999_999_937] {
            let start = Instant::now();
            let mut pace = Pace::per_second(rate(per_second), start);
            let mut now = start;
            let mut total = 0;
            while now < start + Duration::from_secs(10) {
                total += pace.take(now, u64::MAX);
                now = pace.next().unwrap().max(now) + Duration::from_micros(137);
            }
            total += pace.take(start + Duration::from_secs(10), u64::MAX);

            assert_eq!(total, 10 * per_second + 1, "at {per_second}/s");
            assert_eq!(pace.lags(), 0);
        }
    }

    #[test]
    fn a_slow_stream_has_each_message_at_its_time() {
        let start = Instant::now();
        let mut pace = Pace::every(Duration::from_secs(5), start);

        assert_eq!(pace.take(start, u64::MAX), 1);
        assert_eq!(pace.next(), Some(start + Duration::from_secs(5)));
        assert_eq!(pace.take(start + Duration::from_millis(4999), u64::MAX), 0);
        assert_eq!(pace.take(start + Duration::from_millis(5001), u64::MAX), 1);
        assert_eq!(pace.next(), Some(start + Duration::from_secs(10)));
    }

    #[test]
    fn a_long_pause_is_not_caught_up() {
        let start = Instant::now();
        let mut pace = Pace::per_second(rate(1000), start);
        assert_eq!(pace.take(start, u64::MAX), 1);

        let later = start + Duration::from_secs(3600);

        assert_eq!(pace.take(later, u64::MAX), 1);
        assert_eq!(pace.take(later + Duration::from_millis(10), u64::MAX), 10);
        assert_eq!(pace.lags(), 1);
    }

    #[test]
    fn a_limit_leaves_the_rest_due() {
        let start = Instant::now();
        let mut pace = Pace::per_second(rate(1_000_000), start);
        let now = start + Duration::from_millis(1);

        assert_eq!(pace.take(now, 600), 600);
        assert_eq!(pace.take(now, 600), 401);
        assert_eq!(pace.take(now, 600), 0);
    }

    #[test]
    fn no_schedule_overflows() {
        let now = Instant::now();
        let mut never = Pace::every(Duration::MAX, now);
        assert_eq!(never.take(now, u64::MAX), 1);
        let _ = never.next();

        let mut fast = Pace::per_second(rate(u64::MAX), now);
        fast.take(now + Duration::from_secs(1), u64::MAX);
        let _ = fast.next();
    }
}
