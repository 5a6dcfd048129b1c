//! One text, published again and again: `--message`.

use std::time::{Duration, Instant};

use lapwing::cli::Failure;

use super::pace::Pace;
use crate::feed::{Feed, Interrupt};

/// Messages that are published between two looks for signals.
const BURST: u64 = 1024;

/// A text and how often it is published.
#[derive(Debug)]
pub struct Repeat {
    /// The text.
    pub text: String,
    /// Time from one message to the next; zero for as fast as can be.
    pub interval: Duration,
    /// How many messages; no end if `None`.
    pub count: Option<u64>,
}

impl Repeat {
    /// Publishes all of them, the first at once.
    pub fn run(&self, feed: &mut Feed) -> Result<(), Interrupt> {
        let (len, max) = (self.text.len(), feed.max_message_bytes());
        if len > max {
            return Err(Failure::new(format!(
                "the --message has {len} bytes and this ring takes up to {max}; give a larger --ring-size or --max-message"
            ))
            .into());
        }
        let mut pace = (!self.interval.is_zero()).then(|| Pace::every(self.interval, Instant::now()));
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let limit = left.min(BURST);
            let now = Instant::now();
            let count = pace.as_mut().map_or(limit, |pace| pace.take(now, limit));
            feed.publish(|burst| (0..count).for_each(|_| burst.push(0, self.text.as_bytes())))?;
            left -= count;
            if left > 0 {
                let until = pace.as_ref().map_or(Some(now), Pace::next);
                feed.wait(None, until)?;
            }
        }
        Ok(())
    }
}
