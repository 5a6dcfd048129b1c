//! A lossless subscriber that holds up the stream: told once it has lasted, and when it is over.

use std::time::{Duration, Instant};

use lapwing::LosslessStatus;
use log::warn;

/// What is shorter is told by the statistics alone.
const LASTING: Duration = Duration::from_secs(1);
/// Shortest time between two times that one is told of: a reader that takes seconds for each message is behind always.
const BETWEEN_TALES: Duration = Duration::from_secs(10);

/// Tells who holds up the stream.
#[derive(Debug, Default)]
pub struct HoldUp {
    /// The one that was told last, and when.
    told: Option<(String, Instant)>,
    /// It still holds up the stream, and has for so long.
    lasts: Option<Duration>,
    evicted: u64,
    evicted_told_at: Option<Instant>,
}

impl HoldUp {
    /// Tells what is new. To be called once or twice a second.
    pub fn tell(&mut self, status: &LosslessStatus, now: Instant) {
        let holder = status.holder.as_ref().filter(|holder| holder.held >= LASTING);
        if let Some((who, _)) = &self.told
            && let Some(held) = self.lasts
            && holder.is_none_or(|holder| holder.who != *who)
        {
            warn!("{who} does not hold up the stream any more: it did for {held:.1?}");
            self.lasts = None;
        }
        self.tell_evicted(status.evicted, now);
        let Some(holder) = holder else { return };
        let is_known = self.lasts.is_some()
            || self
                .told
                .as_ref()
                .is_some_and(|(who, at)| *who == holder.who && now < *at + BETWEEN_TALES);
        if is_known {
            self.lasts = self.lasts.map(|_| holder.held);
            return;
        }
        warn!(
            "{} has held up the stream for {:.1?}: it does not read message {}; stop it, or start this server with \
             --lossless evict:5s or --on-full drop",
            holder.who, holder.held, holder.cursor
        );
        self.told = Some((holder.who.clone(), now));
        self.lasts = Some(holder.held);
    }

    fn tell_evicted(&mut self, evicted: u64, now: Instant) {
        let is_due = self.evicted_told_at.is_none_or(|at| now >= at + BETWEEN_TALES);
        if evicted > self.evicted && is_due {
            let count = evicted - self.evicted;
            warn!(
                "{count} lossless subscribers were evicted because they read nothing for too long, {evicted} in all; for \
                 more time give --lossless evict:TIME a longer one, or block"
            );
            self.evicted = evicted;
            self.evicted_told_at = Some(now);
        }
    }
}
