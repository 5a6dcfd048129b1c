//! A running server as its source sees it: where messages go, and the one place where waiting is done.
//!
//! ```text
//!   source --burst--> publisher          wait: input, signals, time ----> readable | time is up | stopped
//! ```
//!
//! A source waits in no other way than [`Feed::wait`], so that a signal ends it at any moment, the statistics come in
//! time, and a server whose service thread died does not go on as if nothing had happened.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use lapwing::cli::{Failure, Signals};
use lapwing::{Batch, PublishError, Server};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::refused::Refused;
use crate::stats::Stats;

/// How often to see whether the server is well although nothing happens.
const BETWEEN_TURNS: Duration = Duration::from_millis(500);
/// How often to see whether the last subscriber has left.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

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

/// A running server, its signals and what is counted.
#[derive(Debug)]
pub struct Feed {
    server: Server,
    signals: Signals,
    refused: Refused,
    stats: Option<Stats>,
    next_turn: Instant,
}

impl Feed {
    /// Takes over `server`; tells statistics every `stats_interval` if there is one.
    pub fn new(mut server: Server, signals: Signals, stats_interval: Option<Duration>) -> Self {
        let now = Instant::now();
        let max = server.publisher().max_message_bytes();
        let stats = stats_interval.map(|interval| Stats::new(interval, server.stats(), now));
        Self {
            server,
            signals,
            refused: Refused::new(max),
            stats,
            next_turn: now,
        }
    }

    /// Longest message, in bytes.
    pub const fn max_message_bytes(&self) -> usize {
        self.refused.max()
    }

    /// The sequence that the next message gets.
    pub const fn next_sequence(&mut self) -> u64 {
        self.server.publisher().next_sequence()
    }

    /// Begins to publish messages that share one timestamp and one wake.
    pub fn burst(&mut self) -> Burst<'_> {
        Burst {
            batch: self.server.publisher().batch(),
            refused: &mut self.refused,
        }
    }

    /// Waits until `input` can be read or has ended, or it is `until`. Returns whether the input is what ended the wait.
    ///
    /// # Errors
    /// If a signal arrived, or the server is of no more use.
    pub fn wait(&mut self, input: Option<BorrowedFd<'_>>, until: Option<Instant>) -> Result<bool, Interrupt> {
        loop {
            let now = Instant::now();
            self.turn(now)?;
            let end = until.map_or(self.next_turn, |until| until.min(self.next_turn));
            let left = end.saturating_duration_since(now);
            let (signalled, readable) = look(self.signals.as_fd(), input, left)?;
            if signalled && self.signals.take() {
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

    /// Serves what the ring retains until a signal arrives.
    pub fn serve(&mut self) -> Interrupt {
        loop {
            if let Err(interrupt) = self.wait(None, None) {
                return interrupt;
            }
        }
    }

    /// Ends the stream and waits until every subscriber has read it and left, for up to `patience`. Returns whether they
    /// all have.
    pub fn finish(&mut self, patience: Duration) -> Result<bool, Interrupt> {
        self.server.end_stream();
        let deadline = Instant::now().checked_add(patience);
        while !self.server.is_drained() {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(false);
            }
            self.wait(None, Some(now + BETWEEN_LOOKS))?;
        }
        Ok(true)
    }

    /// Tells what is still to be told: the last thing that a feed does.
    pub fn conclude(&mut self) {
        self.refused.tell_the_rest();
        if let Some(stats) = &self.stats {
            stats.tell_total(&self.server.stats(), &self.refused, Instant::now());
        }
    }

    fn turn(&mut self, now: Instant) -> Result<(), Interrupt> {
        self.server
            .check()
            .map_err(|error| Failure::caused("cannot go on", error))?;
        if now < self.next_turn {
            return Ok(());
        }
        self.next_turn = now + BETWEEN_TURNS;
        self.refused.tell(now);
        if let Some(stats) = &mut self.stats {
            if now >= stats.due() {
                stats.tell(self.server.stats(), &self.refused, now);
            }
            self.next_turn = self.next_turn.min(stats.due());
        }
        Ok(())
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
#[derive(Debug)]
pub struct Burst<'a> {
    batch: Batch<'a>,
    refused: &'a mut Refused,
}

impl Burst<'_> {
    /// Publishes a message, or counts it if it is too long.
    #[inline]
    pub fn push(&mut self, tag: u64, payload: &[u8]) {
        // There is no other error: a stream is not ended while its source runs.
        if let Err(PublishError::TooLong { len, .. }) = self.batch.push(tag, payload) {
            self.refuse(len as u64);
        }
    }

    /// Counts a message that is not published because it has `bytes` bytes.
    #[cold]
    pub fn refuse(&mut self, bytes: u64) {
        self.refused.count(bytes);
    }
}
