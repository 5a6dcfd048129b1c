//! Messages that were not published: counted all, told one by one only while they are few.

use std::time::{Duration, Instant};

use lapwing::Holder;
use log::warn;

/// How many are told one by one.
const TOLD_EACH: u64 = 3;
/// How often the others are told together.
const BETWEEN_COUNTS: Duration = Duration::from_secs(10);

/// Counts messages that were too long, and those for which there was no room.
#[derive(Debug)]
pub struct Refused {
    max: usize,
    too_long: Count,
    full: Count,
    told_at: Option<Instant>,
}

/// How many there were for one reason, and how many of them were told.
#[derive(Debug, Default)]
struct Count {
    total: u64,
    told: u64,
}

impl Count {
    /// Counts one. Returns whether it is to be told.
    const fn add(&mut self) -> bool {
        self.total += 1;
        if self.total <= TOLD_EACH {
            self.told = self.total;
        }
        self.total <= TOLD_EACH
    }

    /// How many were not told yet, if there are any. Now they are.
    fn take_untold(&mut self) -> Option<u64> {
        let untold = self.total - self.told;
        self.told = self.total;
        (untold > 0).then_some(untold)
    }
}

impl Refused {
    /// Begins to count, for messages of up to `max` bytes.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            too_long: Count::default(),
            full: Count::default(),
            told_at: None,
        }
    }

    /// Bytes that a message may have.
    pub const fn max(&self) -> usize {
        self.max
    }

    /// How many were too long.
    pub const fn too_long(&self) -> u64 {
        self.too_long.total
    }

    /// How many had no room.
    pub const fn full(&self) -> u64 {
        self.full.total
    }

    /// Counts one of `bytes` bytes, which are too many.
    pub fn count_too_long(&mut self, bytes: u64) {
        if self.too_long.add() {
            warn!(
                "a message of {bytes} bytes is not published: this ring takes up to {}; for longer ones give a larger \
                 --ring-size or --max-message",
                self.max
            );
        }
    }

    /// Counts one that would overwrite what `holder` has not read.
    pub fn count_full(&mut self, holder: Option<&Holder>) {
        if self.full.add() {
            let who = holder.map_or("a lossless subscriber", |holder| &holder.who);
            warn!(
                "a message is not published: {who} has not read what it would overwrite; for room give more --slots or a \
                 larger --ring-size, or wait with --on-full wait"
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
        if let Some(untold) = self.too_long.take_untold() {
            warn!(
                "{untold} more messages of more than {} bytes were not published, {} in all",
                self.max, self.too_long.total
            );
        }
        if let Some(untold) = self.full.take_untold() {
            warn!(
                "{untold} more messages were not published because lossless subscribers were behind, {} in all",
                self.full.total
            );
        }
    }
}
