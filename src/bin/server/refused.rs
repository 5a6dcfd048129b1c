//! Messages that were too long to be published: counted all, told one by one only while they are few.

use std::time::{Duration, Instant};

use log::warn;

/// How many are told one by one.
const TOLD_EACH: u64 = 3;
/// How often the others are told together.
const BETWEEN_COUNTS: Duration = Duration::from_secs(10);

/// Counts the messages that were too long.
#[derive(Debug)]
pub struct Refused {
    max: usize,
    count: u64,
    told: u64,
    told_at: Option<Instant>,
}

impl Refused {
    /// Begins to count messages of more than `max` bytes.
    pub const fn new(max: usize) -> Self {
        Self {
            max,
            count: 0,
            told: 0,
            told_at: None,
        }
    }

    /// Bytes that a message may have.
    pub const fn max(&self) -> usize {
        self.max
    }

    /// How many there were.
    pub const fn total(&self) -> u64 {
        self.count
    }

    /// Counts one of `bytes` bytes.
    pub fn count(&mut self, bytes: u64) {
        self.count += 1;
        if self.count <= TOLD_EACH {
            self.told = self.count;
            warn!(
                "a message of {bytes} bytes is not published: this ring takes up to {}; for longer ones give a larger \
                 --ring-size or --max-message",
                self.max
            );
        }
    }

    /// Tells how many there were that were not told one by one, if that was not done lately.
    pub fn tell(&mut self, now: Instant) {
        if self.told_at.is_none_or(|told_at| now >= told_at + BETWEEN_COUNTS) {
            self.tell_the_rest();
            self.told_at = Some(now);
        }
    }

    /// Tells how many there were that were not told yet.
    pub fn tell_the_rest(&mut self) {
        if self.count > self.told {
            warn!(
                "{} more messages of more than {} bytes were not published, {} in all",
                self.count - self.told,
                self.max,
                self.count
            );
            self.told = self.count;
        }
    }
}
