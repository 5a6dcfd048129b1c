//! The stream of one server, on a thread of its own: from a follower, formatted, into the outlet.
//!
//! A burst is formatted into a batch until nothing more waits or the batch is full, and then written at once. So a
//! lone message is seen at once, and in a torrent a message costs an append: no lock, no system call, no clock, but
//! for every 64th, whose latency is taken.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lapwing::cli::Escaped;
use lapwing::discovery::Found;
use lapwing::probe::{Category, ProbeOptions, probe};
use lapwing::{Event, FollowOptions, Follower, Incarnation, ServerState, Transport};

use super::outlet::{BATCH_BYTES, Batch, Outcome, Outlet};
use super::tally::{Count, Tally, plural};
use crate::clock::unix_ns;
use crate::output::json::Object;
use crate::output::{Format, Message, Style, raw};

/// Messages between two looks at the clock, for the latency.
const SAMPLE: u32 = 64;
/// How long to wait at a time for a server that is attached, until it is looked at whether it hangs.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is told of a server that hangs.
const HUNG: &str = "its heartbeat stands still: it is stopped, debugged or starved of CPU";
/// How long to wait at a time for one that is not, until the reason is told.
const SEARCH: Duration = Duration::from_millis(500);
/// Shortest time between two notices about gaps: a reader too slow for a server has many.
const BETWEEN_NOTICES: Duration = Duration::from_secs(1);
/// How long the look that finds out the category may take.
const LOOK: Duration = Duration::from_secs(2);

/// What all streams have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) outlet: Outlet,
    pub(super) style: Style,
    pub(super) category: Option<Category>,
    pub(super) fail_on_gap: bool,
    pub(super) options: FollowOptions,
    /// Of the longest name so far.
    pub(super) name_width: AtomicUsize,
}

/// How far a stream has come, for the main thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It was never attached.
    New,
    /// It is attached.
    Following,
    /// It was lost, and is looked for.
    Lost,
    /// The server ended it.
    Ended,
    /// The server is of another category than is wanted.
    Unwanted,
    /// The server does not offer what was asked for.
    Refused,
}

/// Whether a stream has a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attendance {
    /// It has one.
    Wanted,
    /// It has one, which ends unless the server is attached first.
    Dismissed,
    /// It has none any more.
    Left,
}

/// What the main thread and that of the stream tell one another.
#[derive(Debug)]
struct State {
    phase: Phase,
    attendance: Attendance,
    /// Where the next thread goes on.
    position: Option<(Incarnation, u64)>,
}

/// One followed server, as the main thread sees it.
#[derive(Debug)]
pub(super) struct Followed {
    /// Its name, or its full name if another of that name was there before.
    pub(super) name: String,
    /// What is counted, of what was written.
    pub(super) tally: Mutex<Tally>,
    state: Mutex<State>,
    /// It was attached over its socket, so it lived then, whoever has its info file locked.
    has_answered: AtomicBool,
}

impl Followed {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            tally: Mutex::new(Tally::new()),
            state: Mutex::new(State {
                phase: Phase::New,
                attendance: Attendance::Wanted,
                position: None,
            }),
            has_answered: AtomicBool::new(false),
        }
    }

    pub(super) fn has_answered(&self) -> bool {
        // Relaxed: the lock of the state orders it.
        self.has_answered.load(Ordering::Relaxed)
    }

    pub(super) fn phase(&self) -> Phase {
        self.state().phase
    }

    /// Whether its thread has ended.
    pub(super) fn has_left(&self) -> bool {
        self.state().attendance == Attendance::Left
    }

    /// Its info file is gone: has its thread end, unless that follows the server.
    pub(super) fn dismiss(&self) {
        let mut state = self.state();
        if state.attendance == Attendance::Wanted && state.phase != Phase::Following {
            state.attendance = Attendance::Dismissed;
        }
    }

    /// Its info file is there: its thread stays, if it has one.
    pub(super) fn keep(&self) {
        let mut state = self.state();
        if state.attendance == Attendance::Dismissed {
            state.attendance = Attendance::Wanted;
        }
    }

    /// It is to have a thread again.
    pub(super) fn call_back(&self) {
        let mut state = self.state();
        state.attendance = Attendance::Wanted;
        if state.phase == Phase::Unwanted {
            state.phase = Phase::New;
        }
    }

    /// Its thread ends, or could not be started.
    pub(super) fn leave(&self) {
        self.state().attendance = Attendance::Left;
    }

    /// Ends its thread if that was dismissed and follows nothing. Returns whether it does.
    fn leaves(&self, position: Option<(Incarnation, u64)>) -> bool {
        let mut state = self.state();
        let leaves = state.attendance == Attendance::Dismissed && state.phase != Phase::Following;
        if leaves {
            state.attendance = Attendance::Left;
            state.position = position;
        }
        leaves
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        self.state().phase = phase;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The work on one server.
#[derive(Debug)]
pub(super) struct Stream {
    common: Arc<Common>,
    followed: Arc<Followed>,
    follower: Follower,
    batch: Batch,
    /// The newest payload, where the format does not take it into the batch as it is.
    payload: Vec<u8>,
    latency: Latency,
    incarnation: Option<Incarnation>,
    /// Gaps and messages missed that no notice has told.
    untold: (u64, u64),
    told_at: Option<Instant>,
    /// Why the server is not attached, as told last.
    told_why: Option<String>,
    /// Whether the server was last told to hang.
    is_hung: bool,
}

/// Of which messages the latency is taken.
#[derive(Debug, Default)]
struct Latency {
    /// Messages until the next whose latency is taken.
    until_sample: u32,
    /// When the server was attached, on the wall clock: what is older has waited in the ring, which says nothing.
    attached_ns: u64,
}

impl Latency {
    /// Takes that of a message that was published at `timestamp_ns`, if it is its turn.
    #[inline]
    fn sample(&mut self, timestamp_ns: u64, count: &mut Count) {
        if self.until_sample == 0 {
            self.until_sample = SAMPLE;
            if timestamp_ns >= self.attached_ns {
                count.latencies_ns.push(unix_ns().saturating_sub(timestamp_ns));
            }
        }
        self.until_sample -= 1;
    }
}

/// Whether a batch of these bytes is to be written before more is put into it.
#[inline]
fn until_full(bytes: &[u8]) -> ControlFlow<()> {
    if bytes.len() < BATCH_BYTES {
        ControlFlow::Continue(())
    } else {
        ControlFlow::Break(())
    }
}

impl Stream {
    pub(super) fn new(common: Arc<Common>, followed: Arc<Followed>, path: PathBuf) -> Self {
        let position = followed.state().position;
        let mut follower = Follower::new(path, common.options.clone());
        if let Some(position) = position {
            follower = follower.resume(position);
        }
        Self {
            common,
            followed,
            follower,
            batch: Batch::default(),
            payload: Vec::new(),
            latency: Latency::default(),
            incarnation: position.map(|(incarnation, _)| incarnation),
            untold: (0, 0),
            told_at: None,
            told_why: None,
            is_hung: false,
        }
    }

    /// Follows the server until the outlet is closed, or the server is gone.
    pub(super) fn run(mut self, found: &Found) {
        if self.is_wanted(found) {
            while self.step() && !self.followed.leaves(self.follower.position()) {}
        } else {
            self.followed.enter(Phase::Unwanted);
            self.followed.leave();
        }
        self.common.outlet.wake();
    }

    fn is_wanted(&self, found: &Found) -> bool {
        self.common.category.is_none_or(|wanted| {
            let options = ProbeOptions {
                deadline: Instant::now() + LOOK,
                last: 0,
            };
            probe(found, &options).category == wanted
        })
    }

    /// Takes the messages that are there, and what there is to tell behind them. Returns whether there is any point in
    /// going on.
    fn step(&mut self) -> bool {
        let timeout = if !self.batch.is_empty() {
            Duration::ZERO
        } else if self.follower.transport().is_some() {
            PATIENCE
        } else {
            SEARCH
        };
        let (event, has_tickets) = if self.common.style.format == Format::Raw {
            self.take_raw(timeout)
        } else {
            self.take_formatted(timeout)
        };
        if !has_tickets {
            // The others write what they have.
            self.submit(None);
            return false;
        }
        self.news(event)
    }

    /// Takes messages as they are. Returns what came behind them, and whether there may be more.
    fn take_raw(&mut self, timeout: Duration) -> (Event<()>, bool) {
        let (outlet, truncate) = (&self.common.outlet, self.common.style.truncate);
        let Batch { bytes, count, .. } = &mut self.batch;
        let (latency, mut has_tickets) = (&mut self.latency, true);
        let event = self.follower.burst(timeout, bytes, |bytes, received| {
            if !outlet.ticket() {
                bytes.truncate(received.value);
                has_tickets = false;
                return ControlFlow::Break(());
            }
            count.add(received.len);
            raw::finish(bytes, received.value, truncate);
            latency.sample(received.timestamp_ns, count);
            until_full(bytes)
        });
        (event, has_tickets)
    }

    /// Takes messages and formats them. Returns what came behind them, and whether there may be more.
    fn take_formatted(&mut self, timeout: Duration) -> (Event<()>, bool) {
        let (outlet, style, server) = (&self.common.outlet, &self.common.style, &self.followed.name);
        // Relaxed: a column that moves a line later harms nobody.
        let name_width = self.common.name_width.load(Ordering::Relaxed);
        let Batch { bytes, count, .. } = &mut self.batch;
        let (latency, mut has_tickets) = (&mut self.latency, true);
        let event = self.follower.burst(timeout, &mut self.payload, |payload, received| {
            if !outlet.ticket() {
                has_tickets = false;
                return ControlFlow::Break(());
            }
            count.add(received.len);
            let message = Message {
                server,
                sequence: received.sequence,
                timestamp_ns: received.timestamp_ns,
                tag: received.tag,
                payload,
            };
            style.write(bytes, &message, name_width);
            payload.clear();
            latency.sample(received.timestamp_ns, count);
            until_full(bytes)
        });
        (event, has_tickets)
    }

    /// Writes what there is.
    fn submit(&mut self, then: Option<Outcome>) -> bool {
        self.latency.until_sample = 0;
        self.payload.shrink_to(4 * BATCH_BYTES);
        let follower = &mut self.follower;
        // Over the socket the server takes silence for death, and a reader who does not read may take long.
        let must_speak = follower.is_lossless() && follower.transport() == Some(Transport::Socket);
        let mut speak = || follower.keep_alive();
        let meanwhile: Option<&mut dyn FnMut()> = if must_speak { Some(&mut speak) } else { None };
        self.common
            .outlet
            .submit(&mut self.batch, &self.followed.tally, then, meanwhile)
    }

    /// Tells of anything but a message, behind the messages before it.
    #[cold]
    fn news(&mut self, event: Event<()>) -> bool {
        match event {
            Event::Gap { first, missed } => return self.gap(first, missed),
            Event::Attached {
                incarnation,
                transport,
                reason,
                cursor,
            } => self.attached(incarnation, transport, &reason, cursor),
            Event::Detached { reason, .. } => {
                self.tell("detached", &reason, &format!("detached: {reason}; looking for it"));
                self.followed.enter(Phase::Lost);
            }
            Event::Ended => {
                self.tell("ended", "the server ended its stream", "the server ended its stream");
                let is_open = self.submit(None);
                // Only now: the main thread ends the program when all have ended.
                self.followed.enter(Phase::Ended);
                self.common.outlet.wake();
                return is_open;
            }
            Event::Evicted { cursor } => {
                let reason = format!(
                    "it was too slow, and the server went on without it at sequence {cursor}: messages may be missed now"
                );
                self.tell("evicted", &reason, &format!("evicted: {reason}"));
            }
            Event::Refused { reason, .. } => {
                self.tell(
                    "refused",
                    &reason,
                    &format!("cannot be followed without losses: {reason}"),
                );
                let is_open = self.submit(None);
                // Only now: the main thread ends the program when all have refused.
                self.followed.enter(Phase::Refused);
                self.common.outlet.wake();
                return is_open;
            }
            _ => {
                self.tell_why();
                // In a torrent it plainly lives.
                if self.is_hung || self.batch.is_empty() {
                    self.tell_hung();
                }
            }
        }
        if self.batch.is_empty() {
            !self.common.outlet.is_closed()
        } else {
            self.submit(None)
        }
    }

    fn gap(&mut self, first: u64, missed: u64) -> bool {
        self.batch.count.gaps += 1;
        self.batch.count.missed += missed;
        self.untold.0 += 1;
        self.untold.1 += missed;
        if self.common.style.format == Format::Json {
            Object::begin(&mut self.batch.bytes, "gap")
                .text("server", &self.followed.name)
                .number("first", first)
                .number("missed", missed)
                .end();
        } else if self.told_at.is_none_or(|told_at| told_at.elapsed() >= BETWEEN_NOTICES) {
            let (gaps, missed) = std::mem::take(&mut self.untold);
            self.told_at = Some(Instant::now());
            let what = match gaps {
                1 => format!("missed {} from {first} on", plural(missed, "message")),
                _ => format!(
                    "missed {} in {gaps} gaps, the last at {first}",
                    plural(missed, "message")
                ),
            };
            self.notice(&what);
        }
        self.submit(self.common.fail_on_gap.then_some(Outcome::Gap))
    }

    fn attached(&mut self, incarnation: Incarnation, transport: Transport, reason: &str, cursor: u64) {
        self.latency.attached_ns = unix_ns();
        self.told_why = None;
        self.is_hung = false;
        let is_new = self.incarnation.replace(incarnation) != Some(incarnation);
        self.followed.tally().attached(transport, is_new);
        if transport == Transport::Socket {
            self.followed.has_answered.store(true, Ordering::Relaxed);
        }
        self.followed.enter(Phase::Following);
        if self.common.style.format == Format::Json {
            Object::begin(&mut self.batch.bytes, "attached")
                .text("server", &self.followed.name)
                .text("incarnation", &incarnation.to_string())
                .text("transport", transport.as_str())
                .text("reason", reason)
                .number("next", cursor)
                .text("path", &self.follower.path().to_string_lossy())
                .end();
        } else {
            self.notice(&format!(
                "attached over {transport} at sequence {cursor}: {reason} (incarnation {incarnation})"
            ));
        }
    }

    /// Tells once why a server is not attached.
    fn tell_why(&mut self) {
        let why = self.follower.why_searching().map(str::to_owned);
        let is_over = matches!(self.followed.phase(), Phase::Ended | Phase::Refused);
        if self.follower.transport().is_none() && !is_over && self.told_why != why {
            if let Some(why) = &why {
                self.notice(&format!("not attached: {why}"));
            }
            self.told_why = why;
        }
    }

    /// Tells once that the server hangs, and once that it does no more.
    fn tell_hung(&mut self) {
        let Some(state) = self.follower.server_state() else {
            return;
        };
        let is_hung = state == ServerState::Hung;
        if is_hung && !self.is_hung {
            self.tell("hung", HUNG, &format!("hung: {HUNG}; waiting for it"));
        } else if self.is_hung && state == ServerState::Live {
            let reason = "its heartbeat moves again";
            self.tell("recovered", reason, &format!("recovered: {reason}"));
        }
        self.is_hung = is_hung;
    }

    fn tell(&mut self, kind: &str, reason: &str, notice: &str) {
        if self.common.style.format == Format::Json {
            Object::begin(&mut self.batch.bytes, kind)
                .text("server", &self.followed.name)
                .text("reason", reason)
                .end();
        } else {
            self.notice(notice);
        }
    }

    fn notice(&mut self, what: &str) {
        let line = format!("client: {}: {}", self.followed.name, Escaped(what));
        self.batch.notices.push(line);
    }
}
