//! What one followed server has brought so far: counted by its stream in a [`Count`], and added to the server's
//! [`Tally`] once it is written, so that the summary tells of what was really written.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lapwing::Transport;

use crate::output::quantity;

/// The longest latency that is told apart: an hour.
const LONGEST_LATENCY_NS: u64 = 3_600_000_000_000;
/// Digits of a latency that can be relied on.
const DIGITS: u8 = 2;

/// What is in a batch that is not written yet.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// Times that messages were missed.
    pub(crate) gaps: u64,
    /// How many messages were missed.
    pub(crate) missed: u64,
    /// From publishing to receiving, of some of the messages.
    pub(crate) latencies_ns: Vec<u64>,
}

impl Count {
    /// Counts a message of `bytes` bytes.
    #[inline]
    pub(crate) const fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }

    /// Forgets what it counted, and keeps the room.
    pub(crate) fn clear(&mut self) {
        let mut latencies_ns = std::mem::take(&mut self.latencies_ns);
        latencies_ns.clear();
        *self = Self {
            latencies_ns,
            ..Self::default()
        };
    }
}

/// What one server has brought.
#[derive(Debug)]
pub(crate) struct Tally {
    messages: u64,
    bytes: u64,
    gaps: u64,
    missed: u64,
    latency: Histogram<u64>,
    /// When it was first attached.
    since: Option<Instant>,
    transport: Option<Transport>,
    transport_changes: u64,
    /// Lives of the server that were attached.
    incarnations: u64,
}

/// What several servers have brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) servers: u64,
    pub(crate) messages: u64,
    pub(crate) missed: u64,
}

impl Sums {
    pub(crate) const fn add(&mut self, tally: &Tally) {
        self.servers += 1;
        self.messages += tally.messages();
        self.missed += tally.missed;
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (servers, messages) = (plural(self.servers, "server"), plural(self.messages, "message"));
        write!(f, "{servers}, {messages}, missed {}", self.missed)
    }
}

/// A moment of a tally, to tell a rate from two of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    messages: u64,
    at: Instant,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            messages: 0,
            bytes: 0,
            gaps: 0,
            missed: 0,
            latency: Histogram::new_with_bounds(1, LONGEST_LATENCY_NS, DIGITS).expect("the bounds are in order"),
            since: None,
            transport: None,
            transport_changes: 0,
            incarnations: 0,
        }
    }

    /// Adds what was written.
    pub(crate) fn add(&mut self, count: &Count) {
        self.messages += count.messages;
        self.bytes += count.bytes;
        self.gaps += count.gaps;
        self.missed += count.missed;
        for &latency_ns in &count.latencies_ns {
            self.latency.saturating_record(latency_ns);
        }
    }

    /// Notes that the server was attached over `transport`, in another life than before or not.
    pub(crate) fn attached(&mut self, transport: Transport, is_new: bool) {
        self.since.get_or_insert_with(Instant::now);
        self.incarnations += u64::from(is_new);
        if self
            .transport
            .replace(transport)
            .is_some_and(|before| before != transport)
        {
            self.transport_changes += 1;
        }
    }

    pub(crate) const fn messages(&self) -> u64 {
        self.messages
    }

    pub(crate) const fn was_attached(&self) -> bool {
        self.since.is_some()
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            messages: self.messages,
            at: Instant::now(),
        }
    }

    /// One line about all of it; the rate is that since `mark`, else since the server was attached.
    pub(crate) fn line(&self, mark: Option<Mark>) -> String {
        let Some(since) = self.since else {
            return "never attached".to_owned();
        };
        let (messages, time) = match mark {
            Some(mark) => (self.messages - mark.messages, mark.at.elapsed()),
            None => (self.messages, since.elapsed()),
        };
        let transport = self.transport.map_or("", Transport::as_str);
        let mut line = format!(
            "{}, {}, {} over {transport}, missed {} in {}, latency {}",
            plural(self.messages, "message"),
            quantity::bytes(self.bytes),
            quantity::rate(messages, time),
            self.missed,
            plural(self.gaps, "gap"),
            self.latencies(),
        );
        if self.transport_changes > 0 {
            line += &format!(", {}", plural(self.transport_changes, "transport change"));
        }
        if self.incarnations > 1 {
            line += &format!(", {} incarnations", self.incarnations);
        }
        line
    }

    fn latencies(&self) -> String {
        if self.latency.is_empty() {
            return "unknown".to_owned();
        }
        let at = |quantile| quantity::time(Duration::from_nanos(self.latency.value_at_quantile(quantile)));
        format!("p50 {} p99 {} max {}", at(0.5), at(0.99), at(1.0))
    }
}

/// A number and its noun.
pub(crate) fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_tells_everything_that_was_added() {
        let mut tally = Tally::new();
        assert_eq!(tally.line(None), "never attached");

        tally.attached(Transport::SharedMemory, true);
        tally.add(&Count {
            messages: 2,
            bytes: 11,
            gaps: 1,
            missed: 7,
            latencies_ns: vec![1_000, u64::MAX],
        });
        tally.attached(Transport::Socket, false);
        tally.attached(Transport::Socket, true);

        let line = tally.line(None);
        assert!(line.starts_with("2 messages, 11 B, "), "{line}");
        assert!(
            line.contains("/s over socket, missed 7 in 1 gap, latency p50 1 us p99 1 h max 1 h"),
            "{line}"
        );
        assert!(line.ends_with(", 1 transport change, 2 incarnations"), "{line}");
    }

    #[test]
    fn rate_between_two_looks_counts_only_what_came_between() {
        let mut tally = Tally::new();
        tally.attached(Transport::Socket, true);
        tally.add(&Count {
            messages: 1_000,
            ..Count::default()
        });
        let mark = tally.mark();

        assert!(
            tally.line(Some(mark)).contains(", 0/s over socket"),
            "{}",
            tally.line(Some(mark))
        );
    }

    #[test]
    fn cleared_count_is_empty() {
        let mut count = Count {
            messages: 1,
            bytes: 1,
            gaps: 1,
            missed: 1,
            latencies_ns: vec![1],
        };

        count.clear();

        assert_eq!((count.messages, count.bytes, count.gaps, count.missed), (0, 0, 0, 0));
        assert!(count.latencies_ns.is_empty());
    }
}
