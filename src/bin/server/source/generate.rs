//! Messages that anybody can check, for demonstrations and load: `--generate`.
//!
//! ```text
//!   0                8                16
//!   | sequence       | timestamp_ns   | word 0 | word 1 | ...  up to --size, the last word cut off
//!   | u64 LE         | u64 LE         | u64 LE each: (sequence + k) * 0x9e3779b97f4a7c15, modulo 2^64
//! ```
//!
//! The sequence is that of the message in the stream; the timestamp is CLOCK_REALTIME when it was made, the same for the
//! few messages that are made together.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use lapwing::cli::Failure;
use log::warn;

use super::pace::{Pace, Rate};
use crate::feed::{Feed, Interrupt};

/// Bytes of the shortest message: sequence and timestamp.
pub const MIN_BYTES: usize = 16;
/// Messages that share one timestamp: at most some microseconds' worth.
const BURST: u64 = 64;
/// Messages that are published between two looks for signals.
const BETWEEN_WAITS: u64 = 4096;
/// Bytes of the same, for large messages.
const BYTES_BETWEEN_WAITS: u64 = 16 << 20;
/// Odd, so that no two sequences have the same words; 2^64 divided by the golden ratio, so that their bits differ.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// How many messages of what size, how fast.
#[derive(Debug)]
pub struct Generate {
    /// Bytes of a message, from [`MIN_BYTES`] on.
    pub size: usize,
    /// How many a second.
    pub rate: Rate,
    /// How many in all; no end if `None`.
    pub count: Option<u64>,
}

impl Generate {
    /// Publishes all of them.
    pub fn run(&self, feed: &mut Feed) -> Result<(), Interrupt> {
        let (size, max) = (self.size, feed.max_message_bytes());
        if size > max {
            return Err(Failure::new(format!(
                "messages of --size {size} are longer than the {max} bytes that this ring takes; give a larger \
                 --ring-size or --max-message"
            ))
            .into());
        }
        let between_waits = BETWEEN_WAITS.min(BYTES_BETWEEN_WAITS / size as u64).max(1);
        let mut pace = match self.rate {
            Rate::PerSecond(count) => Some(Pace::per_second(count, Instant::now())),
            Rate::Max => None,
        };
        let mut message = vec![0; size];
        let mut lags = 0;
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let limit = left.min(between_waits);
            let now = Instant::now();
            let count = pace.as_mut().map_or(limit, |pace| pace.take(now, limit));
            publish(feed, count, &mut message)?;
            left -= count;
            if let Some(pace) = &pace
                && pace.lags() > lags
            {
                lags = pace.lags();
                tell_lag(self.rate, lags);
            }
            if left > 0 {
                let until = pace.as_ref().map_or(Some(now), Pace::next);
                feed.wait(None, until)?;
            }
        }
        Ok(())
    }
}

/// Told when it happens first, then ever more rarely.
fn tell_lag(rate: Rate, lags: u64) {
    if lags.is_power_of_two() {
        let times = if lags == 1 { "" } else { &format!(" {lags} times") };
        warn!("fell more than a second behind --rate {rate}{times}: what was due then is left out");
    }
}

fn publish(feed: &mut Feed, count: u64, message: &mut [u8]) -> Result<(), Interrupt> {
    let mut left = count;
    while left > 0 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp_ns = now.as_nanos() as u64;
        let together = left.min(BURST);
        feed.publish(|burst| {
            for _ in 0..together {
                fill(message, burst.next_sequence(), timestamp_ns);
                burst.push(0, message);
            }
        })?;
        left -= together;
    }
    Ok(())
}

/// Makes the message with this sequence.
#[inline]
fn fill(message: &mut [u8], sequence: u64, timestamp_ns: u64) {
    let (head, rest) = message.split_at_mut(MIN_BYTES);
    head[..8].copy_from_slice(&sequence.to_le_bytes());
    head[8..].copy_from_slice(&timestamp_ns.to_le_bytes());
    for (k, part) in rest.chunks_mut(8).enumerate() {
        let word = sequence.wrapping_add(k as u64).wrapping_mul(FACTOR);
        part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_made_as_the_page_on_sources_says() {
        let mut message = [0xff; 29];

        fill(&mut message, 3, 0x0102_0304);

        assert_eq!(message[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[8..16], [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(message[16..24], 3u64.wrapping_mul(FACTOR).to_le_bytes());
        assert_eq!(message[24..], 4u64.wrapping_mul(FACTOR).to_le_bytes()[..5]);
    }
}
