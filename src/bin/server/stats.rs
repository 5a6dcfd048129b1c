//! The line that `--stats` prints now and then: what a server did, and whom it lost.

use std::fmt::Write;
use std::time::{Duration, Instant};

use lapwing::cli::{Escaped, say};
use lapwing::{LosslessStatus, ServerStats};

use crate::refused::Refused;

/// Tells statistics on standard error, as `key=value` pairs.
#[derive(Debug)]
pub struct Stats {
    interval: Duration,
    started: Instant,
    due: Instant,
    /// What the last line told, and when.
    last: (ServerStats, Instant),
}

impl Stats {
    /// Begins to tell, every `interval`.
    pub fn new(interval: Duration, stats: ServerStats, now: Instant) -> Self {
        Self {
            interval,
            started: now,
            due: later(now, interval),
            last: (stats, now),
        }
    }

    /// When the next line is due.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Prints a line on what was done since the last.
    pub fn tell(&mut self, stats: ServerStats, lossless: Option<&LosslessStatus>, refused: &Refused, now: Instant) {
        let (last, last_at) = self.last;
        let rates = Rates::between(&last, &stats, now.saturating_duration_since(last_at));
        say(&format!("server: stats: {}", line(&stats, &rates, lossless, refused)));
        self.last = (stats, now);
        // From when it was due, so that late lines do not add up; from now if more than one was.
        self.due = later(self.due, self.interval).max(now);
    }

    /// Prints the last line, on all that was done.
    pub fn tell_total(&self, stats: &ServerStats, lossless: Option<&LosslessStatus>, refused: &Refused, now: Instant) {
        let elapsed = now.saturating_duration_since(self.started);
        let rates = Rates {
            messages: per_second(stats.messages, elapsed),
            bytes: per_second(stats.bytes, elapsed),
        };
        let seconds = elapsed.as_secs_f64();
        say(&format!(
            "server: total: {} seconds={seconds:.3}",
            line(stats, &rates, lossless, refused)
        ));
    }
}

fn later(at: Instant, interval: Duration) -> Instant {
    // Far beyond what anybody waits for, and far from where the sum would overflow.
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    at + interval.min(CENTURY)
}

/// Whole messages and bytes per second.
#[derive(Debug)]
struct Rates {
    messages: u64,
    bytes: u64,
}

impl Rates {
    fn between(before: &ServerStats, after: &ServerStats, elapsed: Duration) -> Self {
        Self {
            messages: per_second(after.messages.saturating_sub(before.messages), elapsed),
            bytes: per_second(after.bytes.saturating_sub(before.bytes), elapsed),
        }
    }
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    let ns = elapsed.as_nanos().max(1);
    u64::try_from(u128::from(count) * 1_000_000_000 / ns).unwrap_or(u64::MAX)
}

fn line(stats: &ServerStats, rates: &Rates, lossless: Option<&LosslessStatus>, refused: &Refused) -> String {
    let service = &stats.service;
    let mut line = format!(
        "messages={} rate={}/s bytes={} throughput={}B/s too_long={} readers={} connections={} socket_gaps={} \
         socket_missed={}",
        stats.messages,
        rates.messages,
        stats.bytes,
        rates.bytes,
        refused.too_long(),
        stats.readers,
        service.connections,
        service.gaps,
        service.missed,
    );
    if let Some(status) = lossless {
        line += &held(status, refused);
    }
    let reasons = [
        ("full", service.rejected_full),
        ("version", service.rejected_version),
        ("protocol", service.rejected_protocol),
        ("late", service.rejected_late),
        ("silent", service.rejected_silent),
        ("lossless", service.rejected_lossless),
        ("stalled", service.dropped_stalled),
        ("corrupt", service.dropped_corrupt),
        ("accept", service.accept_failures),
    ];
    for (reason, count) in reasons {
        if count > 0 {
            // Writing to a String cannot fail.
            let _ = write!(line, " dropped_{reason}={count}");
        }
    }
    line
}

/// How the lossless subscribers fare, and what they cost.
fn held(status: &LosslessStatus, refused: &Refused) -> String {
    let mut part = format!(
        " lossless={} evicted={} unpublished={}",
        status.subscribers,
        status.evicted,
        refused.full()
    );
    if let Some(holder) = &status.holder {
        // Writing to a String cannot fail.
        let _ = write!(
            part,
            " held={:.1}s held_by=\"{}\" held_at={}",
            holder.held.as_secs_f64(),
            Escaped(&holder.who),
            holder.cursor
        );
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_whole_and_never_overflow() {
        assert_eq!(per_second(1000, Duration::from_millis(500)), 2000);
        assert_eq!(per_second(0, Duration::ZERO), 0);
        assert_eq!(per_second(u64::MAX, Duration::ZERO), u64::MAX);
    }
}
