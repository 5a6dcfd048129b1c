//! One part of a run: a process, or a thread of one, that opens its ends and does its share of the work.
//!
//! ```text
//!   first part                               other parts
//!   opens what sends    ---- meet ----       opens what sends (a round trip's way back)
//!   opens what receives ---- meet ----       opens what receives
//!   runs on the first processor              each on one of the others
//!   probe               ---- meet ----       probe (one of them)
//!   sends, or times round trips              echoes, or times what comes
//!   probe               ---- meet ----       probe
//! ```

use std::fs;
use std::path::PathBuf;
use std::slice;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::{Scale, ticks};
use crate::cpus;
use crate::message::{END, Reading, Seen};
use crate::peer::{Entry, Link, Peer, Receiver, Sender};
use crate::probe::{self, Probes};
use crate::stage::Stage;
use crate::work::Work;

/// What all parts of a run know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The row.
    pub peer: String,
    pub work: Work,
    /// The processor of the first part, then those of the others.
    pub cpus: Vec<usize>,
    pub seconds: f64,
    /// Empty, in memory, and this run's alone.
    pub directory: PathBuf,
}

/// Which part: 0 sends first.
pub type Part = usize;

/// What a part has measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    pub probes: Option<Probes>,
    pub figures: Option<Figures>,
}

/// What was measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Figures {
    /// Times of single messages, in nanoseconds.
    Times { p50: f64, p99: f64, p999: f64, count: u64 },
    /// A stream: messages a second that arrived, how many did and did not, how many were of two messages at once.
    Rate {
        per_second: f64,
        received: u64,
        lost: u64,
        torn: u64,
    },
}

impl Figures {
    /// One for several readers of one stream: the mean rate, and what all of them got, lost and found torn.
    pub fn of_each(all: &[Self]) -> Option<Self> {
        let (first, rest) = all.split_first()?;
        if rest.is_empty() {
            return Some(*first);
        }
        let mut sum = (0.0, 0, 0, 0);
        for figures in all {
            let Self::Rate {
                per_second,
                received,
                lost,
                torn,
            } = figures
            else {
                return None;
            };
            sum = (sum.0 + per_second, sum.1 + received, sum.2 + lost, sum.3 + torn);
        }
        Some(Self::Rate {
            per_second: sum.0 / all.len() as f64,
            received: sum.1,
            lost: sum.2,
            torn: sum.3,
        })
    }
}

/// The share of the time that is not counted.
const WARM_UP: f64 = 0.1;
/// The least that is not counted where everybody falls asleep: some peers find out only then who has to be woken.
const WARM_UP_ASLEEP_NS: f64 = 100e6;
/// Before a round trip that is to find everybody asleep.
const NAP: Duration = Duration::from_micros(200);
/// How long nothing comes before a reader gives up that has not seen the end although the sender has sent it.
const SILENCE_NS: f64 = 200e6;
/// Bytes that are sent between two looks at the clock, and messages.
const BURST_BYTES: usize = 64 << 10;
const BURST: std::ops::RangeInclusive<usize> = 1..=256;

impl Run {
    pub const fn parts(&self) -> usize {
        1 + self.work.readers()
    }

    fn link(&self, name: &str) -> Result<Link> {
        let directory = self.directory.join(name);
        fs::create_dir_all(&directory)?;
        Ok(Link {
            directory,
            work: self.work,
        })
    }

    /// The processor of a part. Where there are too few, readers share.
    fn cpu(&self, part: Part) -> &[usize] {
        let place = match part {
            0 => 0,
            part => 1 + (part - 1) % (self.cpus.len() - 1),
        };
        slice::from_ref(&self.cpus[place])
    }

    /// The processors of the threads that a peer starts in a part: all, so that they work beside what is timed. In a round
    /// trip there is nothing to do beside it, and a thread that is woken on another processor costs some 20 us more. Left to
    /// the scheduler, that is a toss of a coin for each run.
    fn cpus_for_threads(&self, part: Part) -> &[usize] {
        match self.work {
            Work::RoundTrip { .. } => self.cpu(part),
            Work::Stream { .. } | Work::Large { .. } => &self.cpus,
        }
    }

    /// Where a part leaves its report.
    pub fn report_path(&self, part: Part) -> PathBuf {
        self.directory.join(format!("report-{part}.json"))
    }

    /// Plays a part and leaves its report.
    pub fn play(&self, part: Part, peer: &dyn Entry) -> Result<()> {
        let report = peer.play(part, self)?;
        Ok(fs::write(self.report_path(part), serde_json::to_vec(&report)?)?)
    }

    /// Plays all parts, each in a thread of its own.
    pub fn play_all(&self, peer: &dyn Entry) -> Result<()> {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.parts())
                .map(|part| scope.spawn(move || self.play(part, peer)))
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(outcome) => outcome,
                Err(_) => bail!("one of its threads panicked"),
            })
        })
    }
}

/// Everything that a part needs while it works.
struct Scene<'r> {
    run: &'r Run,
    part: Part,
    stage: Stage,
    scale: Scale,
}

/// Plays a part of a run with a peer.
pub fn play<P: Peer>(peer: &P, part: Part, run: &Run) -> Result<Report> {
    // For the threads that the peer starts. What is timed gets a processor of its own in any case.
    cpus::keep_to(run.cpus_for_threads(part))?;
    let mut scene = Scene {
        run,
        part,
        stage: Stage::open(&run.directory, run.parts())?,
        scale: Scale::start(),
    };
    match run.work {
        Work::RoundTrip { .. } => {
            let (to, from) = if part == 0 { ("ping", "pong") } else { ("pong", "ping") };
            let mut sender = peer.sender(&run.link(to)?)?;
            scene.stage.meet()?;
            let mut receiver = peer.receiver(&run.link(from)?)?;
            scene.stage.meet()?;
            sender.start()?;
            receiver.start()?;
            scene.perform(|scene| {
                if part == 0 {
                    scene.bounce(&mut sender, &mut receiver).map(Some)
                } else {
                    echo(&mut sender, &mut receiver);
                    Ok(None)
                }
            })
        }
        Work::Stream { .. } | Work::Large { .. } if part == 0 => {
            let mut sender = peer.sender(&run.link("stream")?)?;
            scene.stage.meet()?;
            scene.stage.meet()?;
            sender.start()?;
            scene.perform(|scene| {
                if run.work.is_stream() {
                    scene.send_stream(&mut sender);
                } else {
                    scene.send_large(&mut sender);
                }
                Ok(None)
            })
        }
        Work::Stream { .. } | Work::Large { .. } => {
            scene.stage.meet()?;
            let mut receiver = peer.receiver(&run.link("stream")?)?;
            scene.stage.meet()?;
            receiver.start()?;
            scene.perform(|scene| {
                if run.work.is_stream() {
                    scene.receive_stream(&mut receiver).map(Some)
                } else {
                    scene.receive_large(&mut receiver).map(Some)
                }
            })
        }
    }
}

/// Sends back whatever comes, until the end.
fn echo(sender: &mut impl Sender, receiver: &mut impl Receiver) {
    loop {
        let seen = next(receiver, Reading::Whole);
        if seen.sequence == END {
            return;
        }
        // What is torn goes back as something that was not sent.
        let sequence = if seen.is_whole { seen.sequence } else { END };
        sender.send(sequence, 64, || ());
    }
}

/// Waits for a message.
#[inline]
fn next(receiver: &mut impl Receiver, reading: Reading) -> Seen {
    loop {
        let mut found = None;
        receiver.poll(reading, |seen| found = Some(seen));
        match found {
            Some(seen) => return seen,
            None => receiver.idle(),
        }
    }
}

impl Scene<'_> {
    /// Does the work between two probes.
    fn perform(mut self, work: impl FnOnce(&Self) -> Result<Option<Figures>>) -> Result<Report> {
        self.stage.meet()?;
        cpus::keep_to(self.run.cpu(self.part))?;
        let before = self.probe()?;
        let figures = work(&self)?;
        self.stage.meet()?;
        let after = self.probe()?;
        let probes = before.zip(after);
        Ok(Report {
            probes: probes.map(|(before_ns, after_ns)| Probes { before_ns, after_ns }),
            figures,
        })
    }

    fn probe(&mut self) -> Result<Option<f64>> {
        let ball = self.stage.ball();
        let round_trip = match self.part {
            0 => Some(probe::serve(ball, &self.scale)),
            1 => {
                probe::return_it(ball);
                None
            }
            _ => None,
        };
        self.stage.meet()?;
        Ok(round_trip)
    }

    /// The time of the run in ticks.
    fn length(&self) -> u64 {
        (self.run.seconds * 1e9 / self.scale.ns_per_tick()) as u64
    }

    fn warm_up(&self) -> u64 {
        let least_ns = if self.run.work.is_asleep() {
            WARM_UP_ASLEEP_NS
        } else {
            0.0
        };
        (self.length() as f64 * WARM_UP).max(least_ns / self.scale.ns_per_tick()) as u64
    }

    /// Several readers share a processor: who finds nothing lets another one look.
    fn is_crowded(&self) -> bool {
        self.run.parts() > self.run.cpus.len()
    }

    /// Times round trips until the time is over.
    fn bounce(&self, sender: &mut impl Sender, receiver: &mut impl Receiver) -> Result<Figures> {
        let mut trips = Trips::new();
        let (start, length, warm_up) = (ticks(), self.length(), self.warm_up());
        for sequence in 0.. {
            if self.run.work.is_asleep() {
                thread::sleep(NAP);
            }
            let before = ticks();
            sender.send(sequence, 64, || ());
            let seen = next(receiver, Reading::Whole);
            let now = ticks();
            ensure!(
                seen.is_whole && seen.sequence == sequence,
                "message {sequence} came back as {seen:?}"
            );
            if now - start > warm_up {
                trips.record(now - before);
            }
            if now - start > warm_up + length {
                break;
            }
        }
        sender.send(END, 64, || ());
        trips.figures(&self.scale)
    }

    /// Sends until the time is over, then the end.
    fn send_stream(&self, sender: &mut impl Sender) {
        let len = self.run.work.len();
        let burst = (BURST_BYTES / len).clamp(*BURST.start(), *BURST.end()) as u64;
        let (start, length) = (ticks(), self.length());
        let mut sequence = 0;
        while ticks() - start < length {
            sender.send_many(sequence..sequence + burst, len);
            sequence += burst;
        }
        sender.send(END, len, || ());
        self.stage.sent().store(sequence + 1, Ordering::Release);
    }

    /// Counts what comes, from the first message after the warm-up to the last before the end.
    fn receive_stream(&self, receiver: &mut impl Receiver) -> Result<Figures> {
        let mut tally = Tally::new(self.run.work.len(), self.warm_up());
        let silence = (SILENCE_NS / self.scale.ns_per_tick()) as u64;
        let is_crowded = self.is_crowded();
        let mut silent_since = None;
        while !tally.has_ended {
            let before = tally.seen;
            receiver.poll(Reading::Whole, |seen| tally.take(seen));
            if tally.seen != before {
                silent_since = None;
                continue;
            }
            if self.stage.sent().load(Ordering::Relaxed) > 0 {
                let now = ticks();
                if now - *silent_since.get_or_insert(now) > silence {
                    break;
                }
            }
            receiver.idle();
            if is_crowded {
                thread::yield_now();
            }
        }
        // The end may come before the sender says how many there were.
        let sent = loop {
            match self.stage.sent().load(Ordering::Acquire) {
                0 => thread::yield_now(),
                sent => break sent - 1,
            }
        };
        tally.figures(sent, &self.scale)
    }

    /// Sends one message at a time, each when the one before was read.
    fn send_large(&self, sender: &mut impl Sender) {
        let Work::Large { len, reading } = self.run.work else {
            unreachable!("asked for with large messages only")
        };
        let (start, length) = (ticks(), self.length());
        let note = || self.stage.sent_at().store(ticks(), Ordering::Release);
        let mut sequence = 0;
        while ticks() - start < length {
            if reading == Reading::Whole {
                note();
            }
            sender.send(sequence, len, || {
                if reading == Reading::First {
                    note();
                }
            });
            sequence += 1;
            while self.stage.read().load(Ordering::Acquire) < sequence {
                std::hint::spin_loop();
            }
        }
        sender.send(END, len, || ());
    }

    /// Times each message on its way.
    fn receive_large(&self, receiver: &mut impl Receiver) -> Result<Figures> {
        let mut trips = Trips::new();
        let (start, warm_up) = (ticks(), self.warm_up());
        for sequence in 0.. {
            let seen = next(receiver, self.run.work.reading());
            let now = ticks();
            if seen.sequence == END {
                break;
            }
            ensure!(
                seen.is_whole && seen.sequence == sequence,
                "message {sequence} arrived as {seen:?}"
            );
            let sent_at = self.stage.sent_at().load(Ordering::Acquire);
            if now - start > warm_up {
                trips.record(now.saturating_sub(sent_at));
            }
            self.stage.read().store(sequence + 1, Ordering::Release);
        }
        trips.figures(&self.scale)
    }
}

/// Times in ticks.
struct Trips(Histogram<u64>);

impl Trips {
    fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 1 << 40, 3).expect("bounds that a histogram can have"))
    }

    #[inline]
    fn record(&mut self, trip: u64) {
        self.0.saturating_record(trip.max(1));
    }

    fn figures(&self, scale: &Scale) -> Result<Figures> {
        ensure!(!self.0.is_empty(), "no message arrived after the warm-up");
        let ns = |quantile| self.0.value_at_quantile(quantile) as f64 * scale.ns_per_tick();
        Ok(Figures::Times {
            p50: ns(0.5),
            p99: ns(0.99),
            p999: ns(0.999),
            count: self.0.len(),
        })
    }
}

/// What came of a stream.
struct Tally {
    /// Messages between two looks at the clock: a power of two.
    stride: u64,
    warm_up: u64,
    /// Messages so far, the torn ones included.
    seen: u64,
    /// When the first came.
    first_at: u64,
    /// What had been seen when counting began: how much, up to which sequence, torn ones, and when that was.
    start: Option<(u64, u64, u64, u64)>,
    /// The highest sequence wanted next.
    next: u64,
    torn: u64,
    /// Messages that came a second time, or late.
    stale: u64,
    has_ended: bool,
    last_at: u64,
}

impl Tally {
    fn new(len: usize, warm_up: u64) -> Self {
        Self {
            stride: ((64 << 10) / len as u64).clamp(4, 64).next_power_of_two(),
            warm_up,
            seen: 0,
            first_at: 0,
            start: None,
            next: 0,
            torn: 0,
            stale: 0,
            has_ended: false,
            last_at: 0,
        }
    }

    #[inline]
    fn take(&mut self, seen: Seen) {
        if !seen.is_whole {
            self.torn += 1;
        } else if seen.sequence == END {
            self.last_at = ticks();
            self.has_ended = true;
            return;
        } else if seen.sequence >= self.next {
            self.next = seen.sequence + 1;
        } else {
            self.stale += 1;
        }
        self.seen += 1;
        // A mask, not a remainder: dividing takes as long as reading a small message.
        if self.seen & (self.stride - 1) == 1 {
            self.look_at_clock();
        }
    }

    fn look_at_clock(&mut self) {
        let now = ticks();
        if self.seen == 1 {
            self.first_at = now;
        }
        self.last_at = now;
        if self.start.is_none() && now - self.first_at >= self.warm_up {
            self.start = Some((self.seen, self.next, self.torn, now));
        }
    }

    fn figures(&self, sent: u64, scale: &Scale) -> Result<Figures> {
        ensure!(self.stale == 0, "{} messages came twice or out of order", self.stale);
        ensure!(
            self.next <= sent,
            "message {} arrived, and {sent} were sent",
            self.next - 1
        );
        let (seen, next, torn, at) = self.start.context("too few messages arrived after the warm-up")?;
        let torn = self.torn - torn;
        let received = self.seen - seen - torn;
        let seconds = (self.last_at - at) as f64 * scale.ns_per_tick() / 1e9;
        ensure!(
            received > 0 && seconds > 0.0,
            "too few messages arrived after the warm-up"
        );
        Ok(Figures::Rate {
            per_second: received as f64 / seconds,
            received,
            lost: (sent - next).saturating_sub(received),
            torn,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sequence: u64) -> Seen {
        Seen {
            sequence,
            is_whole: true,
        }
    }

    #[test]
    fn what_does_not_arrive_is_lost_and_what_is_torn_is_not_received() {
        let mut tally = Tally::new(64, 0);
        let arriving = (0..1000).filter(|sequence| !(500..600).contains(sequence));
        arriving.for_each(|sequence| tally.take(seen(sequence)));
        tally.take(Seen {
            sequence: 7,
            is_whole: false,
        });
        tally.take(seen(END));

        let figures = tally.figures(1010, &Scale::start()).expect("enough arrived");

        // Counting begins behind the first message; ten never came after the last.
        let Figures::Rate {
            received, lost, torn, ..
        } = figures
        else {
            panic!("{figures:?}")
        };
        assert_eq!((received, lost, torn), (899, 110, 1));
    }

    #[test]
    fn messages_that_come_twice_fail_the_run() {
        let mut tally = Tally::new(64, 0);
        [0, 1, 1].into_iter().for_each(|sequence| tally.take(seen(sequence)));
        tally.take(seen(END));

        assert!(tally.figures(2, &Scale::start()).is_err());
    }
}
