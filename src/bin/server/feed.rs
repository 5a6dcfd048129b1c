//! A running server as its source sees it: where messages go, and the one place where waiting is done.
//!
//! ```text
//!   source --burst--> publisher          wait: input, signals, time ----> readable | time is up | stopped
//!            |
//!            +--no room: a lossless subscriber is behind--> wait | leave the message out
//! ```
//!
//! A source waits in no other way than [`Feed::wait`] and a burst without room, so that a signal ends it at any moment,
//! the statistics come in time, and a server whose service thread died does not go on as if nothing had happened.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use lapwing::cli::{Failure, Signals};
use lapwing::{Batch, Monitor, PublishError, Publisher, Server};
use log::{info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::hold_up::HoldUp;
use crate::refused::Refused;
use crate::stats::Stats;

/// How often to see whether the server is well although nothing happens.
const BETWEEN_TURNS: Duration = Duration::from_millis(500);
/// How often a message that waits for room lets other things be looked at.
const BETWEEN_LOOKS_FOR_SIGNALS: Duration = Duration::from_millis(50);
/// How often to see whether the last subscriber has come, or left.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// How long lossless subscribers may read on behind a signal in any case.
const FAREWELL: Duration = Duration::from_millis(200);

/// Why a source stops before its input has ended.
#[derive(Debug)]
pub enum Interrupt {
    /// A signal asked for it.
    Signal,
    /// It cannot go on.
    Failed(Failure),
}

impl From<Failure> for Interrupt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What to do with a message while a lossless subscriber has not read what it would overwrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnFull {
    /// Wait, and read no more input meanwhile
    #[default]
    Wait,
    /// Leave the message out, and count it
    Drop,
}

/// A running server, and what is to be done beside publishing.
#[derive(Debug)]
pub struct Feed {
    server: Server,
    duties: Duties,
    /// It has waited, or does, for clients to read the end.
    has_lingered: bool,
    /// What was wrong with the input, which was published as far as it could be.
    flaw: Option<Failure>,
}

/// What a server does while its source waits.
#[derive(Debug)]
struct Duties {
    signals: Signals,
    on_full: OnFull,
    refused: Refused,
    hold_up: HoldUp,
    stats: Option<Stats>,
    next_turn: Instant,
}

impl Feed {
    /// Takes over `server`; tells statistics every `stats_interval` if there is one.
    pub fn new(mut server: Server, signals: Signals, on_full: OnFull, stats_interval: Option<Duration>) -> Self {
        let now = Instant::now();
        let max = server.publisher().max_message_bytes();
        let stats = stats_interval.map(|interval| Stats::new(interval, server.stats(), now));
        Self {
            server,
            duties: Duties {
                signals,
                on_full,
                refused: Refused::new(max),
                hold_up: HoldUp::default(),
                stats,
                next_turn: now,
            },
            has_lingered: false,
            flaw: None,
        }
    }

    /// Longest message, in bytes.
    pub const fn max_message_bytes(&self) -> usize {
        self.duties.refused.max()
    }

    /// Warns of what is wrong with the input. What came before it is served as usual, and [`Feed::flaw`] tells it once
    /// more in the end.
    pub fn blame(&mut self, flaw: Failure) {
        warn!("{flaw}");
        self.flaw = Some(flaw);
    }

    /// What was wrong with the input, if anything was.
    pub fn flaw(&mut self) -> Option<Failure> {
        self.flaw.take()
    }

    /// Lets `push` publish messages that share one timestamp and one wake.
    ///
    /// # Errors
    /// If a signal arrived while a message waited for room, or the server is of no more use. What was pushed from that
    /// message on is not published.
    pub fn publish(&mut self, push: impl FnOnce(&mut Burst<'_>)) -> Result<(), Interrupt> {
        self.publish_meanwhile(&mut || {}, push)
    }

    /// As [`Feed::publish`], and does `meanwhile` again and again while a message waits for room.
    ///
    /// # Errors
    /// As [`Feed::publish`].
    pub fn publish_meanwhile(
        &mut self,
        meanwhile: &mut dyn FnMut(),
        push: impl FnOnce(&mut Burst<'_>),
    ) -> Result<(), Interrupt> {
        let (publisher, monitor) = self.server.split();
        let mut burst = Burst {
            batch: publisher.batch(),
            monitor,
            duties: &mut self.duties,
            meanwhile,
            interrupt: None,
        };
        push(&mut burst);
        burst.interrupt.map_or(Ok(()), Err)
    }

    /// Waits until `input` can be read or has ended, or it is `until`. Returns whether the input is what ended the wait.
    ///
    /// # Errors
    /// If a signal arrived, or the server is of no more use.
    pub fn wait(&mut self, input: Option<BorrowedFd<'_>>, until: Option<Instant>) -> Result<bool, Interrupt> {
        loop {
            let now = Instant::now();
            let (publisher, monitor) = self.server.split();
            let next_turn = self.duties.turn(publisher, monitor, now)?;
            let end = until.map_or(next_turn, |until| until.min(next_turn));
            let left = end.saturating_duration_since(now);
            let (signalled, readable) = look(self.duties.signals.as_fd(), input, left)?;
            if signalled && self.duties.signals.take() {
                return Err(Interrupt::Signal);
            }
            if readable {
                return Ok(true);
            }
            if until.is_some_and(|until| now >= until) {
                return Ok(false);
            }
        }
    }

    /// Waits until `count` lossless subscribers are there.
    ///
    /// # Errors
    /// As [`Feed::wait`].
    pub fn wait_for_lossless(&mut self, count: usize) -> Result<(), Interrupt> {
        while self.server.lossless_status().subscribers < count {
            self.wait(None, Some(Instant::now() + BETWEEN_LOOKS))?;
        }
        Ok(())
    }

    /// Serves what the ring retains until a signal arrives.
    pub fn serve(&mut self) -> Interrupt {
        loop {
            if let Err(interrupt) = self.wait(None, None) {
                return interrupt;
            }
        }
    }

    /// Ends the stream and waits until every subscriber has read it and left, for up to `patience`. Tells if not all have.
    ///
    /// # Errors
    /// As [`Feed::wait`].
    pub fn finish(&mut self, patience: Duration) -> Result<(), Interrupt> {
        self.finish_since(Instant::now(), patience)
    }

    /// As [`Feed::finish`], with `patience` counted from `start`.
    fn finish_since(&mut self, start: Instant, patience: Duration) -> Result<(), Interrupt> {
        self.has_lingered = true;
        self.server.end_stream();
        let deadline = start.checked_add(patience);
        while !self.server.is_drained() {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                if !self.server.is_alone() {
                    warn!("left with clients that had not read everything within {patience:?}; --linger waits longer");
                }
                return Ok(());
            }
            self.wait(None, Some(now + BETWEEN_LOOKS))?;
        }
        Ok(())
    }

    /// Ends the stream behind a signal, waits for those who are there for up to `linger` if there is one, and for lossless
    /// subscribers a moment in any case. Tells of those who lose the rest. Another signal ends the wait, whatever it is.
    pub fn part(&mut self, linger: Option<Duration>) {
        self.server.end_stream();
        // A signal that ends such a wait begins no other.
        let linger = linger.filter(|_| !self.has_lingered);
        let start = Instant::now();
        let outcome = self
            .bid_farewell(start, linger.unwrap_or_default())
            .and_then(|()| match linger {
                Some(patience) => {
                    info!("a signal asked to stop: waiting for clients to read what is there");
                    self.finish_since(start, patience)
                }
                None => Ok(()),
            });
        if let Err(Interrupt::Failed(failure)) = outcome {
            self.blame(failure);
        }
        let unread = self.server.publisher().lossless_unread();
        if let Some(most) = unread.iter().max() {
            let (count, clients) = (unread.len(), if unread.len() == 1 { "client" } else { "clients" });
            warn!(
                "left with {count} lossless {clients} that had not received everything, the slowest {most} messages behind; \
                 --linger waits for them"
            );
        }
    }

    /// Lets lossless subscribers read on for a moment from `start` on, and all others for no longer than `patience`. Signals
    /// that come meanwhile are one with the first: timeout(1) sends two, as do some shells and terminals when they are closed.
    fn bid_farewell(&mut self, start: Instant, patience: Duration) -> Result<(), Interrupt> {
        let is_done = |server: &mut Server| match start.elapsed() < patience {
            true => server.is_drained(),
            false => server.publisher().lossless_unread().is_empty(),
        };
        while start.elapsed() < FAREWELL && !is_done(&mut self.server) {
            match self.wait(None, Some(Instant::now() + BETWEEN_LOOKS)) {
                Ok(_) | Err(Interrupt::Signal) => {}
                Err(failed) => return Err(failed),
            }
        }
        Ok(())
    }

    /// Tells what is still to be told: the last thing that a feed does.
    pub fn conclude(&mut self) {
        let Duties { refused, stats, .. } = &mut self.duties;
        refused.tell_the_rest();
        if let Some(stats) = stats {
            let lossless = self.server.publisher().lossless();
            stats.tell_total(&self.server.stats(), lossless.as_ref(), refused, Instant::now());
        }
    }
}

impl Duties {
    /// Does what is due. Returns when there is something to do again.
    fn turn(&mut self, publisher: &Publisher, monitor: Monitor<'_>, now: Instant) -> Result<Instant, Interrupt> {
        monitor
            .check()
            .map_err(|error| Failure::caused("cannot go on", error))?;
        if now < self.next_turn {
            return Ok(self.next_turn);
        }
        self.next_turn = now + BETWEEN_TURNS;
        self.refused.tell(now);
        let lossless = publisher.lossless();
        if let Some(status) = &lossless {
            self.hold_up.tell(status, self.on_full == OnFull::Wait, now);
        }
        if let Some(stats) = &mut self.stats {
            if now >= stats.due() {
                stats.tell(monitor.stats(publisher), lossless.as_ref(), &self.refused, now);
            }
            self.next_turn = self.next_turn.min(stats.due());
        }
        Ok(self.next_turn)
    }
}

/// Looks for up to `timeout` whether there is something to read from the signals or the input.
fn look(signals: BorrowedFd<'_>, input: Option<BorrowedFd<'_>>, timeout: Duration) -> Result<(bool, bool), Failure> {
    let timeout = Timespec::try_from(timeout).ok();
    let signals = PollFd::from_borrowed_fd(signals, PollFlags::IN);
    let polled = |fds: &mut [PollFd<'_>]| match poll(fds, timeout.as_ref()) {
        // Interrupted: by a signal, which the next look finds.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Failure::caused("cannot wait for input", error)),
    };
    let has_news = |fd: &PollFd<'_>| !fd.revents().is_empty();
    match input {
        None => {
            let mut fds = [signals];
            polled(&mut fds)?;
            Ok((has_news(&fds[0]), false))
        }
        Some(input) => {
            let mut fds = [signals, PollFd::from_borrowed_fd(input, PollFlags::IN)];
            polled(&mut fds)?;
            Ok((has_news(&fds[0]), has_news(&fds[1])))
        }
    }
}

/// Messages that are published together.
pub struct Burst<'a> {
    batch: Batch<'a>,
    monitor: Monitor<'a>,
    duties: &'a mut Duties,
    /// To be done while a message waits for room.
    meanwhile: &'a mut dyn FnMut(),
    /// Once it is there, nothing more is published: no message overtakes one that was given up.
    interrupt: Option<Interrupt>,
}

impl Burst<'_> {
    /// Publishes a message, or counts it if it is not to be published.
    #[inline]
    pub fn push(&mut self, tag: u64, payload: &[u8]) {
        if self.interrupt.is_some() {
            return;
        }
        loop {
            match self.batch.try_push(tag, payload) {
                Err(PublishError::Full) if self.has_made_room(payload.len()) => {}
                Err(PublishError::TooLong { len, .. }) => return self.refuse(len as u64),
                // There is no other error: a stream is not ended while its source runs.
                _ => return,
            }
        }
    }

    /// Does what is to be done when a message of `len` bytes has no room. Returns whether it has now.
    #[cold]
    fn has_made_room(&mut self, len: usize) -> bool {
        match self.duties.on_full {
            OnFull::Wait => self
                .wait_for_room(len)
                .map_err(|interrupt| self.interrupt = Some(interrupt))
                .is_ok(),
            // Also this wakes those who are to make room.
            OnFull::Drop if self.batch.wait_for_room(len, Duration::ZERO).is_ok() => true,
            OnFull::Drop => {
                let holder = self.batch.publisher().lossless_status().holder;
                self.duties.refused.count_full(holder.as_ref());
                false
            }
        }
    }

    /// Waits as [`Feed::wait`] does, until a message of `len` bytes has room.
    fn wait_for_room(&mut self, len: usize) -> Result<(), Interrupt> {
        while self.batch.wait_for_room(len, BETWEEN_LOOKS_FOR_SIGNALS) == Err(PublishError::Full) {
            (self.meanwhile)();
            self.duties.turn(self.batch.publisher(), self.monitor, Instant::now())?;
            if self.duties.signals.take() {
                return Err(Interrupt::Signal);
            }
        }
        Ok(())
    }

    /// Counts a message that is not published because it has `bytes` bytes.
    #[cold]
    pub fn refuse(&mut self, bytes: u64) {
        self.duties.refused.count_too_long(bytes);
    }

    /// The sequence that the next message gets.
    #[inline]
    pub fn next_sequence(&self) -> u64 {
        self.batch.publisher().next_sequence()
    }
}
