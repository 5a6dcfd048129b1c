//! Whether a server lives, judged by what cannot lie.
//!
//! The heartbeat is a counter: that it moves, on the reader's own clock, proves life in any namespace, where pids and
//! timestamps lie. The lock on the info file is held by a live process and freed by the kernel when it dies. Together:
//!
//! | lock | heartbeat           | state |
//! |------|---------------------|-------|
//! | any  | moves               | live  |
//! | held | still               | hung  |
//! | free | still, 3 intervals  | dead  |
//! | not to be had | still      | hung  |

use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// How often a heartbeat may move: what a server may announce, and what a reader takes its word for.
pub(crate) const HEARTBEAT_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);

/// Intervals without a beat after which a server counts as silent.
const SILENT_INTERVALS: u32 = 3;

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerState {
    /// Its heartbeat moves.
    Live,
    /// Its heartbeat stands still, but nothing says that it died: it is stopped, debugged or starved.
    Hung,
    /// It died without ending its stream.
    Dead,
    /// It ended its stream.
    Ended,
    /// Something holds the lock on its info file, but nothing reaches it from here: its heartbeat cannot be seen.
    Unknown,
}

impl ServerState {
    /// The word for it: `live`, `hung`, `dead`, `ended` or `unknown`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Hung => "hung",
            Self::Dead => "dead",
            Self::Ended => "ended",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A heartbeat as one reader sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulse {
    interval: Duration,
    count: u64,
    /// When the counter was last seen to move.
    moved_at: Instant,
}

impl Pulse {
    pub(crate) fn new(interval: Duration, count: u64, now: Instant) -> Self {
        // The interval is the server's word: keep it to what a reader can wait for.
        Self {
            interval: interval.clamp(*HEARTBEAT_INTERVALS.start(), *HEARTBEAT_INTERVALS.end()),
            count,
            moved_at: now,
        }
    }

    /// Looks at the counter. Returns how long it has stood still.
    pub(crate) fn observe(&mut self, count: u64, now: Instant) -> Duration {
        if count != self.count {
            self.count = count;
            self.moved_at = now;
        }
        now.saturating_duration_since(self.moved_at)
    }

    /// Whether the counter has moved since it was last looked at.
    pub(crate) const fn has_moved(&self, count: u64) -> bool {
        count != self.count
    }

    /// How long the counter may stand still before the server counts as silent.
    pub(crate) fn patience(&self) -> Duration {
        self.interval * SILENT_INTERVALS
    }

    /// When the server counts as silent if the counter goes on standing still.
    pub(crate) fn silent_at(&self) -> Instant {
        self.moved_at + self.patience()
    }

    /// The state of a server whose counter reads `count`; `lock_is_held` is asked only if the counter stands still.
    pub(crate) fn state(
        &mut self,
        count: u64,
        now: Instant,
        lock_is_held: impl FnOnce() -> Option<bool>,
    ) -> ServerState {
        if self.observe(count, now) < self.patience() {
            return ServerState::Live;
        }
        if lock_is_held() == Some(false) {
            ServerState::Dead
        } else {
            ServerState::Hung
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);

    #[test]
    fn still_heartbeat_is_hung_while_the_lock_is_held_and_dead_once_it_is_free() {
        let start = Instant::now();
        let mut pulse = Pulse::new(INTERVAL, 5, start);
        let later = start + 3 * INTERVAL;

        assert_eq!(pulse.state(5, start + 2 * INTERVAL, || Some(false)), ServerState::Live);
        assert_eq!(pulse.state(5, later, || Some(true)), ServerState::Hung);
        assert_eq!(pulse.state(5, later, || None), ServerState::Hung);
        assert_eq!(pulse.state(5, later, || Some(false)), ServerState::Dead);
        assert_eq!(pulse.state(6, later, || Some(false)), ServerState::Live);
    }

    #[test]
    fn absurd_interval_of_a_hostile_server_is_bounded() {
        let pulse = Pulse::new(Duration::MAX, 0, Instant::now());

        assert_eq!(pulse.patience(), Duration::from_secs(30));
    }
}
