//! A lossless subscriber that holds up the stream: told once it has lasted, and when it is over.

use std::time::{Duration, Instant};

use lapwing::{LosslessPolicy, LosslessStatus};
use log::warn;

/// What is shorter is told by the statistics alone.
const LASTING: Duration = Duration::from_secs(1);
/// Shortest time between two times that one is told of: a reader that takes seconds for each message is behind always.
const BETWEEN_TALES: Duration = Duration::from_secs(10);
/// One that is found behind at each look for so long, though it reads, slows the stream.
const SLOWING: Duration = Duration::from_secs(10);

/// Who holds up the stream, for how long, and the sequence that it wants next.
type Holder<'a> = (&'a str, Duration, u64);

/// Tells who holds up the stream.
#[derive(Debug, Default)]
pub struct HoldUp {
    /// The one that was told last, and when.
    told: Option<(String, Instant)>,
    /// It still holds up the stream, and has for so long.
    lasts: Option<Duration>,
    /// The one that was behind at each look, since when, and whether that was told.
    behind: Option<(String, Instant, bool)>,
    policy: Option<LosslessPolicy>,
    evicted: u64,
    evicted_told_at: Option<Instant>,
}

impl HoldUp {
    /// Tells what is new; nothing of a holder if it is not waited for. To be called once or twice a second.
    pub fn tell(&mut self, status: &LosslessStatus, waits: bool, now: Instant) {
        self.policy = status.policy;
        let holder = status.holder.as_ref().filter(|_| waits);
        let holder = holder.map(|holder| (&*holder.who, holder.held, holder.cursor));
        let news = [
            self.over(holder),
            self.evictions(status.evicted, status.last_evicted.as_deref(), now),
            self.lasting(holder, now),
            self.slowing(holder, now),
        ];
        news.iter().flatten().for_each(|news| warn!("{news}"));
    }

    /// What there is to say when the one that was told of holds up nothing any more.
    fn over(&mut self, holder: Option<Holder<'_>>) -> Option<String> {
        let (told, _) = self.told.as_ref()?;
        if holder.is_some_and(|(who, held, _)| who == told && held >= LASTING) {
            return None;
        }
        let held = self.lasts.take()?;
        Some(format!(
            "{told} does not hold up the stream any more: it did for {held:.1?}"
        ))
    }

    /// What there is to say of one that has begun to hold up the stream.
    fn lasting(&mut self, holder: Option<Holder<'_>>, now: Instant) -> Option<String> {
        let (who, held, cursor) = holder.filter(|(_, held, _)| *held >= LASTING)?;
        let told_lately = |(told, at): &(String, Instant)| told == who && now < *at + BETWEEN_TALES;
        if self.lasts.is_some() || self.told.as_ref().is_some_and(told_lately) {
            self.lasts = self.lasts.map(|_| held);
            return None;
        }
        self.told = Some((who.to_owned(), now));
        self.lasts = Some(held);
        let advice = self.advice();
        Some(format!(
            "{who} has held up the stream for {held:.1?}: it does not read message {cursor}; {advice}"
        ))
    }

    /// What there is to say of one that reads, but so slowly that it is always found a whole ring behind.
    fn slowing(&mut self, holder: Option<Holder<'_>>, now: Instant) -> Option<String> {
        let Some((who, _, cursor)) = holder else {
            self.behind = None;
            return None;
        };
        if self.behind.as_ref().is_none_or(|(known, ..)| known != who) {
            self.behind = Some((who.to_owned(), now, false));
        }
        let (_, since, is_told) = self.behind.as_mut()?;
        // One that does not read at all is told of otherwise.
        if *is_told || now < *since + SLOWING || self.lasts.is_some() {
            return None;
        }
        *is_told = true;
        let advice = self.advice();
        Some(format!(
            "{who} slows the stream: it has been a whole ring behind for {SLOWING:?}, and is at message {cursor} now; \
             {advice}"
        ))
    }

    fn advice(&self) -> String {
        match self.policy {
            Some(LosslessPolicy::Evict(patience)) => format!(
                "it is evicted once it has held it up for {patience:?} while it read next to nothing; stop it, or \
                 start this server with --on-full drop"
            ),
            _ => "stop it, or start this server with --lossless evict:5s or --on-full drop".to_owned(),
        }
    }

    /// What there is to say of those that were evicted.
    fn evictions(&mut self, evicted: u64, last: Option<&str>, now: Instant) -> Option<String> {
        let is_due = self.evicted_told_at.is_none_or(|at| now >= at + BETWEEN_TALES);
        if evicted == self.evicted || !is_due {
            return None;
        }
        let count = evicted - self.evicted;
        self.evicted = evicted;
        self.evicted_told_at = Some(now);
        let clients = if count == 1 { "client was" } else { "clients were" };
        let last = last.map_or_else(String::new, |last| format!(", the last one {last}"));
        Some(format!(
            "{count} lossless {clients} evicted for holding up the stream for too long, {evicted} in all{last}; for more \
             patience give --lossless evict: a longer time, or block"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn holder_is_told_once_it_lasts_and_when_it_is_over() {
        let mut hold_up = HoldUp::default();
        let now = Instant::now();
        let mut look = |holder, seconds| (hold_up.over(holder), hold_up.lasting(holder, now + seconds * SECOND));

        assert_eq!(look(Some(("one", SECOND / 2, 7)), 0), (None, None));
        let (over, lasting) = look(Some(("one", SECOND, 7)), 1);
        assert_eq!(over, None);
        assert!(
            lasting
                .unwrap()
                .starts_with("one has held up the stream for 1.0s: it does not read message 7; ")
        );
        assert_eq!(look(Some(("one", 30 * SECOND, 7)), 30), (None, None));
        let (over, lasting) = look(None, 31);
        assert_eq!(
            over.unwrap(),
            "one does not hold up the stream any more: it did for 30.0s"
        );
        assert_eq!((lasting, look(None, 32)), (None, (None, None)));
    }

    #[test]
    fn reader_that_is_behind_again_and_again_is_told_now_and_then() {
        let mut hold_up = HoldUp::default();
        let now = Instant::now();
        let mut told = 0;

        for turn in 0..60 {
            let holder = (turn % 2 == 1).then_some(("one", SECOND, u64::from(turn)));
            told += u32::from(hold_up.over(holder).is_some());
            told += u32::from(hold_up.lasting(holder, now + turn * SECOND).is_some());
        }

        assert_eq!(told, 2 * 6);
    }

    #[test]
    fn reader_that_is_always_behind_is_told_once_and_with_what_becomes_of_it() {
        let mut hold_up = HoldUp {
            policy: Some(LosslessPolicy::Evict(2 * SECOND)),
            ..HoldUp::default()
        };
        let now = Instant::now();
        let mut look = |holder, seconds| hold_up.slowing(holder, now + seconds * SECOND);

        let told: Vec<_> = (0..60)
            .filter_map(|turn| look(Some(("one", SECOND / 5, turn.into())), turn))
            .collect();
        let [told] = &told[..] else { panic!("{told:?}") };
        assert!(
            told.starts_with("one slows the stream: ") && told.contains("is at message 10 now; it is evicted once"),
            "{told}"
        );
        assert!((60..90).all(|turn| look((turn % 5 > 0).then_some(("one", SECOND / 5, 1)), turn).is_none()));
        assert!((99..200).all(|turn| look(Some((["one", "two"][turn as usize / 9 % 2], SECOND, 1)), turn).is_none()));
    }

    #[test]
    fn another_holder_is_told_at_once() {
        let mut hold_up = HoldUp::default();
        let now = Instant::now();
        hold_up.lasting(Some(("one", SECOND, 7)), now);

        let other = Some(("other", SECOND, 7));

        assert!(hold_up.over(other).unwrap().starts_with("one does not"));
        assert!(hold_up.lasting(other, now).unwrap().starts_with("other has"));
    }

    #[test]
    fn evictions_are_told_now_and_then_and_all() {
        let mut hold_up = HoldUp::default();
        let now = Instant::now();

        assert_eq!(hold_up.evictions(0, None, now), None);
        assert!(
            hold_up
                .evictions(1, Some("one"), now)
                .unwrap()
                .starts_with("1 lossless client was evicted")
        );
        assert_eq!(hold_up.evictions(5, Some("other"), now + SECOND), None);
        let later = hold_up.evictions(5, Some("other"), now + BETWEEN_TALES).unwrap();
        assert!(
            later.starts_with("4 lossless clients were evicted") && later.contains(", 5 in all, the last one other; "),
            "{later}"
        );
    }
}
