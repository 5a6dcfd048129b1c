//! One server's stream, over whichever transport works, across its restarts.
//!
//! ```text
//!             info file names an incarnation, not followed to its end yet
//!   searching ----------------------------------------------------------> following over shm, else over the socket
//!       ^                                                                      |
//!       +---- the stream ended, the server died, the transport was lost -------+
//! ```
//!
//! A position is an incarnation and a sequence. The same incarnation is resumed at the next sequence, over either
//! transport, so nothing is lost or doubled that the ring still has. A new incarnation is followed from its first
//! sequence, so that what was missed of it is told as a gap.
//!
//! A lossless follower claims its place anew wherever it attaches. Losses are then possible between two attachments, and
//! after an eviction; they are told like all others.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::causes::with_causes;
use crate::discovery::{self, Found, Trust, Watch};
use crate::incarnation::Incarnation;
use crate::liveness::ServerState;
use crate::ring::{Poll, Received};
use crate::socket::RemoteError;
use crate::subscriber::{Join, Subscriber, WaitStrategy};
use crate::transport::{Payload, Transport, TransportChoice};

mod burst;
mod source;

use source::{Failure, Opened, Source};

/// How a server is followed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FollowOptions {
    /// Where to join the first incarnation that is met.
    pub from: Join,
    /// Which transports may be used.
    pub transport: TransportChoice,
    /// How to wait on shared memory.
    pub strategy: WaitStrategy,
    /// Whose info files are believed.
    pub trust: Trust,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// Whether the server is to wait for this follower, as far as it offers that.
    pub lossless: bool,
    /// Whether every page of a segment is looked at when it is attached, as
    /// [`Segment::prefault`](crate::Segment::prefault) does.
    pub prefault: bool,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            from: Join::default(),
            transport: TransportChoice::default(),
            strategy: WaitStrategy::default(),
            trust: Trust::default(),
            connect_timeout: Duration::from_secs(2),
            lossless: false,
            prefault: false,
        }
    }
}

/// What there is to tell about a followed server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<R> {
    /// The next message.
    Message(Received<R>),
    /// `first..first + missed` are lost: they were overwritten before they could be read.
    Gap {
        /// The first sequence that was lost.
        first: u64,
        /// How many were lost, exactly.
        missed: u64,
    },
    /// The stream is followed from here on: for the first time, of a new incarnation, or again.
    Attached {
        /// Which life of the server.
        incarnation: Incarnation,
        /// Over what.
        transport: Transport,
        /// Why over that.
        reason: String,
        /// The sequence wanted next.
        cursor: u64,
    },
    /// The stream can no longer be followed as it was. It is looked for again, over either transport.
    Detached {
        /// Why.
        reason: String,
        /// Whether the server died: all that it published and that was retained has been told.
        died: bool,
    },
    /// The server does not wait for this follower any more, which was too slow: from here on there may be gaps.
    Evicted {
        /// The sequence wanted next.
        cursor: u64,
    },
    /// This life of the server offers no lossless subscriptions, which were asked for. The next is looked for.
    Refused {
        /// Which life.
        incarnation: Incarnation,
        /// What it says.
        reason: String,
    },
    /// The server ended its stream and all of it has been told. The next incarnation is looked for.
    Ended,
    /// The time is over, and there was nothing to tell.
    Idle,
}

/// Time between two looks for a server that is not there; a change of its info file is noticed at once.
const SEARCH_INTERVAL: Duration = Duration::from_millis(250);
/// Shortest time between two looks.
const SHORTEST_SEARCH_INTERVAL: Duration = Duration::from_millis(10);

/// Follows the server that an info file names.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    options: FollowOptions,
    source: Option<Source>,
    attached_at: Option<Instant>,
    /// The incarnation that was followed last, and the sequence wanted next.
    position: Option<(Incarnation, u64)>,
    /// The incarnation that has nothing more to tell.
    finished: Option<Incarnation>,
    /// The incarnation that was seen dead, and its heartbeat then.
    dead: Option<(Incarnation, u64)>,
    /// The incarnation whose segment cannot be believed.
    corrupt: Option<Incarnation>,
    /// The server waits for this follower, or it was not told yet that it does not any more.
    is_claimed: bool,
    /// Messages lost behind an eviction, which is told first.
    untold: Option<(u64, u64)>,
    search: Search,
}

/// Looking for a server that is not there.
#[derive(Debug, Default)]
struct Search {
    /// Not before this time.
    due: Option<Instant>,
    /// On the info file, while it is waited for: watches are scarce, and a follower that follows needs none.
    watch: Option<Watch>,
    /// Why the last look was in vain.
    reason: Option<String>,
}

impl Follower {
    /// A follower of the server with the info file `path`, which need not exist yet. Touches nothing so far.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, options: FollowOptions) -> Self {
        Self {
            path: path.into(),
            options,
            source: None,
            attached_at: None,
            position: None,
            finished: None,
            dead: None,
            corrupt: None,
            is_claimed: false,
            untold: None,
            search: Search::default(),
        }
    }

    /// Goes on from the [`position`](Self::position) of an earlier follower of this server: that incarnation from that
    /// sequence on, any other from its first. Where none was attached yet, [`FollowOptions::from`] says where to begin.
    #[must_use]
    pub fn resume(mut self, position: (Incarnation, u64)) -> Self {
        self.position = Some(position);
        self
    }

    /// Waits for up to `timeout` for the next thing to tell. `read` makes what it wants of a message where it lies; it
    /// may be called for a message that is overwritten meanwhile and then again, and what it returned then is dropped.
    ///
    /// May take longer than `timeout` by [`FollowOptions::connect_timeout`] while a server does not answer.
    pub fn next<R>(&mut self, timeout: Duration, read: impl FnMut(Payload<'_>) -> R) -> Event<R> {
        if let Some((first, missed)) = self.untold.take() {
            return self.lapped(first, missed);
        }
        let Some(source) = &mut self.source else {
            return self.find(timeout);
        };
        let incarnation = source.incarnation();
        let polled = source.receive(timeout, read);
        match polled {
            Ok(Poll::Message(received)) => {
                self.position = Some((incarnation, received.sequence + 1));
                Event::Message(received)
            }
            other => self.conclude(incarnation, other),
        }
    }

    /// Waits as [`Follower::next`] does, but for no single message: takes all that are there then, without a pause. The
    /// payload of each is appended to `out` and `each` called at once, with where in `out` it begins as its value; `each`
    /// may do with `out` what it likes, and breaks to be given no more for now. Returns what there is to tell behind the
    /// messages, [`Event::Idle`] if nothing, and never [`Event::Message`].
    ///
    /// For who wants all of a stream: a message costs a poll and its copy, where [`Follower::next`] makes an event of each.
    /// A lossless follower gives messages back to the server up to 64 at a time, and all of them when this returns: over
    /// shared memory a publisher that waits for room may wait for what `each` does with so many.
    pub fn burst(
        &mut self,
        timeout: Duration,
        out: &mut Vec<u8>,
        each: impl FnMut(&mut Vec<u8>, Received<usize>) -> ControlFlow<()>,
    ) -> Event<()> {
        if let Some((first, missed)) = self.untold.take() {
            return self.lapped(first, missed);
        }
        let Some(source) = &mut self.source else {
            return self.find(timeout);
        };
        let incarnation = source.incarnation();
        let (burst, lost) = source.burst(timeout, out, each);
        if let Some(cursor) = burst.cursor {
            self.position = Some((incarnation, cursor));
        }
        match (lost, burst.end) {
            (Some(error), _) => self.conclude(incarnation, Err(error)),
            (None, Some(end)) => self.conclude(incarnation, Ok(end)),
            (None, None) => Event::Idle,
        }
    }

    /// What it means that there was no message.
    fn conclude<R>(&mut self, incarnation: Incarnation, polled: Result<Poll<R>, RemoteError>) -> Event<R> {
        match polled {
            Ok(Poll::Empty) if self.was_evicted() => self.evicted(),
            Ok(Poll::Empty) => self.idle(incarnation),
            Ok(Poll::Lapped { first, missed }) if self.was_evicted() => {
                self.untold = Some((first, missed));
                self.evicted()
            }
            Ok(Poll::Lapped { first, missed }) => self.lapped(first, missed),
            Ok(other) => self.leave(incarnation, &other),
            Err(error) => self.detach(format!("socket: {}", with_causes(&error)), false),
        }
    }

    #[cold]
    fn lapped<R>(&mut self, first: u64, missed: u64) -> Event<R> {
        // Whoever was attached has a position.
        self.position = self.position.map(|(incarnation, _)| (incarnation, first + missed));
        Event::Gap { first, missed }
    }

    /// Whether the server was found to wait no more. True once. Costs a moment: asked when nothing came, or too much.
    fn was_evicted(&mut self) -> bool {
        let was_evicted = self.is_claimed && self.source.as_ref().is_some_and(Source::is_evicted);
        self.is_claimed &= !was_evicted;
        was_evicted
    }

    #[cold]
    fn evicted<R>(&self) -> Event<R> {
        let cursor = self.position.map_or(0, |(_, cursor)| cursor);
        Event::Evicted { cursor }
    }

    /// Nothing came. A server that hangs may have been replaced by one that does not.
    fn idle<R>(&mut self, incarnation: Incarnation) -> Event<R> {
        let now = Instant::now();
        let is_due = self.search.due.is_none_or(|due| now >= due);
        if is_due && self.server_state() == Some(ServerState::Hung) {
            self.search.due = Some(now + SEARCH_INTERVAL);
            // A file that no server holds is what one left that died: nobody took the place of this one.
            let found = discovery::read(&self.path, &self.options.trust);
            if found.is_ok_and(|found| found.info.incarnation != incarnation && found.lock.is_held().unwrap_or(true)) {
                return self.detach(
                    "another server took the place of this one, which hangs".to_owned(),
                    false,
                );
            }
        }
        Event::Idle
    }

    /// The transport has nothing more to tell.
    #[cold]
    fn leave<R>(&mut self, incarnation: Incarnation, last: &Poll<R>) -> Event<R> {
        match last {
            Poll::Ended => {
                self.finished = Some(incarnation);
                self.source = None;
                Event::Ended
            }
            Poll::Corrupt { sequence } => {
                self.corrupt = Some(incarnation);
                self.detach(format!("the segment breaks the protocol at sequence {sequence}"), false)
            }
            _ => {
                if let Some(Source::SharedMemory(subscriber)) = &self.source {
                    self.dead = Some((incarnation, subscriber.segment().heartbeat()));
                }
                self.detach("the server died".to_owned(), true)
            }
        }
    }

    #[cold]
    fn detach<R>(&mut self, reason: String, died: bool) -> Event<R> {
        self.source = None;
        // A source that fails as soon as it is there is not tried again at once.
        let now = Instant::now();
        if self.attached_at.is_some_and(|at| now < at + SEARCH_INTERVAL) {
            self.search.due = Some(now + SEARCH_INTERVAL);
        }
        Event::Detached { reason, died }
    }

    /// Looks for the server until it is there or `timeout` has passed.
    #[cold]
    fn find<R>(&mut self, timeout: Duration) -> Event<R> {
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(86_400));
        let mut looked = None;
        loop {
            let now = Instant::now();
            if self.search.due.is_none_or(|due| now >= due) {
                // The watch first: what changes after the look is noticed.
                if self.search.watch.is_none() {
                    self.search.watch = Some(Watch::new(&self.path));
                }
                looked = Some(now);
                match self.attach() {
                    Ok(event) => {
                        self.search = Search::default();
                        self.attached_at = Some(Instant::now());
                        return event;
                    }
                    Err(reason) => self.search.reason = Some(reason),
                }
                self.search.due = Some(Instant::now() + SEARCH_INTERVAL);
            }
            let now = Instant::now();
            if now >= deadline {
                return Event::Idle;
            }
            let pause = deadline
                .min(self.search.due.unwrap_or(deadline))
                .saturating_duration_since(now);
            let changed = match &mut self.search.watch {
                Some(watch) => watch.wait(pause).unwrap_or_else(|_| {
                    std::thread::sleep(pause);
                    true
                }),
                None => {
                    std::thread::sleep(pause);
                    false
                }
            };
            if changed {
                // Soon, but an info file that changes all the time is not looked at all the time.
                self.search.due = Some(looked.unwrap_or(now) + SHORTEST_SEARCH_INTERVAL);
            }
        }
    }

    /// Looks once: reads the info file and tries the transports in turn.
    fn attach<R>(&mut self) -> Result<Event<R>, String> {
        let found = discovery::read(&self.path, &self.options.trust).map_err(|error| with_causes(&error))?;
        let incarnation = found.info.incarnation;
        if self.finished == Some(incarnation) {
            return Err("waiting for it to be restarted".to_owned());
        }
        if self.is_still_dead(&found) {
            return Err("it died; waiting for it to be restarted".to_owned());
        }
        let join = match self.position {
            None => self.options.from,
            Some((known, next)) if known == incarnation => Join::Sequence(next),
            Some(_) => Join::Sequence(0),
        };
        let mut why_not = Vec::new();
        for transport in [Transport::SharedMemory, Transport::Socket] {
            if !self.options.transport.allows(transport) {
                continue;
            }
            let attempt = if transport == Transport::SharedMemory && self.corrupt == Some(incarnation) {
                Err("the segment breaks the protocol".into())
            } else {
                Source::open(transport, &found, join, &self.options)
            };
            match attempt {
                Ok(Opened {
                    source,
                    cursor,
                    mut reason,
                }) => {
                    if let Some(why_not) = why_not.pop() {
                        reason = format!("{reason}; {why_not}");
                    }
                    self.source = Some(source);
                    self.is_claimed = self.options.lossless;
                    self.position = Some((incarnation, cursor));
                    return Ok(Event::Attached {
                        incarnation,
                        transport,
                        reason,
                        cursor,
                    });
                }
                Err(Failure { reason, is_final: true }) => {
                    self.finished = Some(incarnation);
                    return Ok(Event::Refused { incarnation, reason });
                }
                Err(Failure { reason, .. }) => why_not.push(format!("{}: {reason}", describe(transport))),
            }
        }
        if matches!(found.lock.is_held(), Ok(false)) {
            return Err("it died without removing its info file; waiting for it to be restarted".to_owned());
        }
        Err(why_not.join("; "))
    }

    /// Whether it was seen dead and has shown no life since. A lock that cannot be seen from here looks free: a server
    /// that was stopped for a while is then taken for dead, until its heartbeat moves again.
    fn is_still_dead(&self, found: &Found) -> bool {
        self.dead.is_some_and(|(dead, beat)| {
            let heartbeat = || Subscriber::open(found, Join::New).map(|subscriber| subscriber.segment().heartbeat());
            dead == found.info.incarnation && heartbeat().map_or(true, |now| now == beat)
        })
    }

    /// Tells the server that this follower lives, while its caller is busy with what it was given: over the socket a
    /// follower that is not called for the server's `silence_ms` is given up, and loses its claim. Never blocks.
    pub fn keep_alive(&mut self) {
        if let Some(source) = &mut self.source {
            source.keep_alive();
        }
    }

    /// Whether the server waits for this follower before it overwrites anything.
    #[must_use]
    pub const fn is_lossless(&self) -> bool {
        self.source.is_some() && self.is_claimed
    }

    /// The incarnation that is or was followed last, and the sequence wanted next.
    #[must_use]
    pub const fn position(&self) -> Option<(Incarnation, u64)> {
        self.position
    }

    /// Over what the stream is followed now.
    #[must_use]
    pub const fn transport(&self) -> Option<Transport> {
        match &self.source {
            None => None,
            Some(source) => Some(source.transport()),
        }
    }

    /// How the server is, while it is followed over shared memory. Over the socket a server that hangs is silent, and
    /// detached when that has lasted.
    pub fn server_state(&mut self) -> Option<ServerState> {
        self.source.as_mut().and_then(Source::server_state)
    }

    /// Why the server is not followed, if the last look for it was in vain.
    #[must_use]
    pub fn why_searching(&self) -> Option<&str> {
        self.search.reason.as_deref()
    }

    /// The info file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name that the info file's name gives the server.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }
}

const fn describe(transport: Transport) -> &'static str {
    match transport {
        Transport::SharedMemory => "shared memory",
        Transport::Socket => "socket",
    }
}

#[cfg(test)]
mod tests;
