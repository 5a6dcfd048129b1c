//! One client's connection: a cursor into the ring, and whatever it is sending right now.
//!
//! ```text
//!   Greeted --SUBSCRIBE--> Streaming --END loaded--> Leaving --all sent, shutdown--> Lingering --peer closed--> gone
//!      |                       |                        ^
//!      +--- REJECT ------------+------------------------+          any stage: peer closed, broken, stalled --> gone
//! ```
//!
//! It holds one chunk at most and nothing is queued behind it, so a slow peer costs no more than a fast one. A socket
//! that is full is left alone until the kernel says that it has room.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::chunk::{CHUNK_BYTES, Chunk, Chunks, End};
use super::claiming::{Claimed, Refusal, make_claim, offer};
use super::counters::Counters;
use super::decoder::Decoder;
use super::frame::{ClientFrame, FrameError, Hello, RejectCode, ServerFrame, VERSION};
use super::survivors::Survivors;
use crate::bell::wake_publisher;
use crate::control::Control;
use crate::gate::{Claim, Gate};
use crate::segment::Segment;
use crate::{Incarnation, Join, ring};

/// What one connection may send before the others get their turn.
const SEND_BUDGET_BYTES: usize = 4 * CHUNK_BYTES;
/// Reads from one connection before the others get their turn. A client of good faith needs one.
const READ_BUDGET: usize = 32;

/// How long the service waits for its peers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    pub(super) subscribe: Duration,
    pub(super) heartbeat: Duration,
    pub(super) silence: Duration,
    pub(super) stall: Duration,
    pub(super) linger: Duration,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) segment: Arc<Segment>,
    pub(super) gate: Arc<Gate>,
    pub(super) deadlines: Deadlines,
    pub(super) chunks: Chunks,
    pub(super) counters: Arc<Counters>,
    /// Connections whose clients read through shared memory: nobody else needs to count them.
    pub(super) leased: u32,
    pub(super) survivors: Survivors,
    /// The time at the beginning of this turn of the loop.
    pub(super) now: Instant,
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// It got the end of the stream.
    Finished,
    /// It was turned away, and that was counted.
    Rejected,
    /// The peer closed or broke it.
    Left,
    /// The peer took nothing for too long.
    Stalled,
    /// The ring could not be read.
    Corrupt,
}

/// How far sending got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// There is nothing more to send now.
    All,
    /// There is more, but others come first.
    Budget,
    /// The socket is full.
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeted,
    Streaming,
    /// The client reads through shared memory, and nothing more is said on the connection. Its end is a hint that the client
    /// may be gone (`survivors.rs`); while it stands, the lock is looked at now and then.
    Leased,
    /// The last frames are being sent.
    Leaving(Farewell),
    /// All is sent; the peer is to close.
    Lingering(Farewell),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    End,
    Reject,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    decoder: Decoder,
    stage: Stage,
    /// The sequence that is to be sent next; means something from `Streaming` on.
    cursor: u64,
    /// What is being sent, and how much of it was.
    sending: Option<Arc<Chunk>>,
    sent: usize,
    /// The one frame of this connection's own that follows: a START, a LEASE, an EVICTED or a REJECT.
    queued: Option<Arc<Chunk>>,
    /// What of the ring must not be overwritten, for a lossless subscriber.
    claim: Option<Arc<Claim>>,
    /// The socket was full and the kernel did not say yet that it has room.
    full: bool,
    /// There may be more to read although no event will say so.
    pub(super) unread: bool,
    /// When this stage began.
    since: Instant,
    /// When the peer was heard.
    heard: Instant,
    /// When something was sent, or began to be.
    moved: Instant,
}

impl Connection {
    /// Greets a new client.
    pub(super) fn new(stream: TcpStream, connections: u32, hub: &mut Hub) -> Self {
        let greeting = greeting(connections, hub);
        Self {
            stream,
            decoder: Decoder::of_client(),
            stage: Stage::Greeted,
            cursor: 0,
            sending: Some(greeting),
            sent: 0,
            queued: None,
            claim: None,
            full: false,
            unread: false,
            since: hub.now,
            heard: hub.now,
            moved: hub.now,
        }
    }

    /// Whether a client that reads through shared memory has mapped its control segment.
    fn has_mapped(&self) -> bool {
        let control = self.claim.as_ref().and_then(|claim| claim.control());
        control.is_none_or(Control::is_ready)
    }

    /// Whether a client that had mapped its control segment is gone although this connection stands: what ended it on that
    /// side may have been lost on the way. Takes the claim from it then. Costs a system call.
    fn outlives_client(&self) -> bool {
        let control = self.claim.as_ref().and_then(|claim| claim.control());
        control.is_some_and(|control| control.is_ready() && control.take_back())
    }

    /// The sequence that this connection waits for, if it is the ring that it waits for.
    pub(super) fn waits_for(&self) -> Option<u64> {
        (self.stage == Stage::Streaming && !self.full).then_some(self.cursor)
    }

    /// Whether it could go on sending at once.
    pub(super) fn wants_a_turn(&self) -> bool {
        !self.full && (self.sending.is_some() || self.queued.is_some())
    }

    /// The kernel says that there is room in the socket again.
    pub(super) fn has_room(&mut self) {
        self.full = false;
    }

    /// Sends what there is to send, within the budget of one turn.
    pub(super) fn send(&mut self, hub: &mut Hub) -> Result<Sent, Gone> {
        let mut budget = SEND_BUDGET_BYTES;
        while !self.full {
            let Some(chunk) = self.load(hub)? else {
                return Ok(Sent::All);
            };
            match self.stream.write(&chunk.bytes[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    self.moved = hub.now;
                    hub.counters.bytes.add(count as u64);
                    let whole = self.sent == chunk.bytes.len();
                    drop(chunk);
                    if whole {
                        self.account(hub);
                    }
                    budget = budget.saturating_sub(count);
                    if budget == 0 {
                        return Ok(Sent::Budget);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.full = true,
                Err(_) => return Err(self.closed_by_peer()),
            }
        }
        Ok(Sent::Full)
    }

    /// What is to be sent next, if anything.
    fn load(&mut self, hub: &mut Hub) -> Result<Option<Arc<Chunk>>, Gone> {
        if self.sending.is_none() {
            if let Some(frame) = self.queued.take() {
                self.begin(frame, hub.now);
            } else if self.stage == Stage::Streaming {
                self.load_stream(hub)?;
            } else if let Stage::Leaving(farewell) = self.stage {
                // A peer that is gone already shows in the next read.
                let _ = self.stream.shutdown(Shutdown::Write);
                self.enter(Stage::Lingering(farewell), hub.now);
            }
        }
        Ok(self.sending.clone())
    }

    fn load_stream(&mut self, hub: &mut Hub) -> Result<(), Gone> {
        let chunk = hub.chunks.from(self.cursor, self.claim.is_none(), &hub.segment);
        // Behind the look at the ring: who loses something is told first why (E1). The chunk is found again.
        if self.claim.as_ref().is_some_and(|claim| claim.is_evicted())
            && let Some(claim) = self.claim.take()
        {
            let next = claim.words().cursor().min(self.cursor);
            let evicted = hub.chunks.of_frame(&ServerFrame::Evicted { next });
            self.begin(evicted, hub.now);
            return Ok(());
        }
        let Some(chunk) = chunk else {
            return Ok(());
        };
        self.cursor = chunk.next;
        match chunk.end {
            End::Open => {}
            End::Closed => self.enter(Stage::Leaving(Farewell::End), hub.now),
            End::Corrupt => return Err(Gone::Corrupt),
        }
        self.begin(chunk, hub.now);
        Ok(())
    }

    fn begin(&mut self, chunk: Arc<Chunk>, now: Instant) {
        self.sending = Some(chunk);
        self.sent = 0;
        self.moved = now;
    }

    /// Puts a chunk that was sent whole on the account.
    fn account(&mut self, hub: &mut Hub) {
        if let Some(chunk) = self.sending.take() {
            hub.counters.messages.add(chunk.messages);
            hub.counters.gaps.add(chunk.gaps);
            hub.counters.missed.add(chunk.missed);
            hub.chunks.release(chunk);
        }
    }

    fn enter(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.since = now;
    }

    /// Reads what the client said, within the budget of one turn.
    pub(super) fn receive(&mut self, hub: &mut Hub) -> Result<(), Gone> {
        for _ in 0..READ_BUDGET {
            match self.stream.read(self.decoder.space()) {
                Ok(0) => return Err(self.closed_by_peer()),
                Ok(count) => {
                    self.heard = hub.now;
                    // What is said after the farewell does not matter any more, but unread it would undo the farewell.
                    if matches!(self.stage, Stage::Greeted | Stage::Streaming | Stage::Leased) {
                        self.decoder.received(count);
                        self.obey(hub);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.unread = false;
                    return Ok(());
                }
                Err(_) => return Err(self.closed_by_peer()),
            }
        }
        self.unread = true;
        Ok(())
    }

    /// What the end of the connection means now.
    fn closed_by_peer(&self) -> Gone {
        match self.stage {
            Stage::Lingering(Farewell::End) => Gone::Finished,
            Stage::Leaving(Farewell::End) if self.sending.is_none() => Gone::Finished,
            Stage::Lingering(Farewell::Reject) | Stage::Leaving(Farewell::Reject) => Gone::Rejected,
            Stage::Greeted | Stage::Streaming | Stage::Leased | Stage::Leaving(Farewell::End) => Gone::Left,
        }
    }

    /// Does what the frames that have arrived say.
    fn obey(&mut self, hub: &mut Hub) {
        while matches!(self.stage, Stage::Greeted | Stage::Streaming | Stage::Leased) {
            match (self.decoder.client_frame(), self.stage) {
                (Ok(None), _) => return,
                (Ok(Some(ClientFrame::Subscribe { incarnation, join })), Stage::Greeted) => {
                    self.subscribe(incarnation, join, hub);
                }
                (
                    Ok(Some(ClientFrame::Claim {
                        incarnation,
                        join,
                        memory,
                        pid,
                    })),
                    Stage::Greeted,
                ) => self.claim(incarnation, join, (memory, pid), hub),
                (Ok(Some(ClientFrame::Progress { next })), Stage::Streaming) if next <= self.cursor => {
                    if let Some(claim) = &self.claim {
                        let words = claim.words();
                        // Never backward, whatever it says.
                        let next = next.max(words.cursor());
                        words.advance(next, false, || wake_publisher(words));
                    }
                }
                // The control segment is mapped: nobody needs its name any more.
                (Ok(Some(ClientFrame::Progress { .. })), Stage::Leased) => {
                    if let Some(control) = self.claim.as_ref().and_then(|claim| claim.control()) {
                        control.unlink();
                    }
                }
                (Ok(Some(frame)), _) => self.reject(RejectCode::Protocol, &format!("unexpected {frame:?}"), hub),
                (Err(FrameError::Version(_)), _) => {
                    let reason = format!("this server speaks version {VERSION}");
                    self.reject(RejectCode::UnsupportedVersion, &reason, hub);
                }
                (Err(error), _) => self.reject(RejectCode::Protocol, &error.to_string(), hub),
            }
        }
    }

    fn subscribe(&mut self, incarnation: Incarnation, join: Join, hub: &mut Hub) {
        let (first, missed) = starting_place(incarnation, join, &hub.segment);
        self.cursor = first;
        self.queued = Some(hub.chunks.of_frame(&ServerFrame::Start { first, missed }));
        self.enter(Stage::Streaming, hub.now);
    }

    /// Begins a lossless subscription: over this socket, or through shared memory if `way` says so, beside the process.
    fn claim(&mut self, incarnation: Incarnation, join: Join, way: (bool, u32), hub: &mut Hub) {
        match make_claim(&self.stream, incarnation, join, way, hub) {
            Err(Refusal { code, reason }) => self.reject(code, &reason, hub),
            Ok(Claimed { claim, first, reply }) => {
                self.cursor = first;
                self.queued = Some(hub.chunks.of_frame(&reply));
                let stage = if claim.control().is_some() {
                    hub.leased += 1;
                    Stage::Leased
                } else {
                    Stage::Streaming
                };
                self.claim = Some(claim);
                // Not from before the client asked, however long this turn took.
                self.enter(stage, hub.now.max(Instant::now()));
            }
        }
    }

    /// Gives back what is claimed, unless who claims it lives on. To be called before the connection is dropped.
    pub(super) fn release(&mut self, hub: &mut Hub) {
        if let Some(claim) = self.claim.take() {
            hub.leased -= u32::from(claim.control().is_some());
            hub.survivors.judge(claim, &hub.gate, hub.now);
        }
    }

    /// Refuses to go on, and says why behind the frame that is being sent.
    pub(super) fn reject(&mut self, code: RejectCode, reason: &str, hub: &mut Hub) {
        let counters = &hub.counters;
        match code {
            RejectCode::UnsupportedVersion => &counters.rejected_version,
            RejectCode::SubscribeDeadline => &counters.rejected_late,
            RejectCode::Silent => &counters.rejected_silent,
            RejectCode::TooManyConnections => &counters.rejected_full,
            RejectCode::NotOffered | RejectCode::TooManyClaims | RejectCode::NoControl => &counters.rejected_lossless,
            RejectCode::Protocol | RejectCode::Other(_) => &counters.rejected_protocol,
        }
        .add(1);
        if self.sent == 0 && self.stage == Stage::Streaming {
            self.sending = None;
        }
        self.queued = Some(hub.chunks.of_frame(&ServerFrame::Reject {
            code,
            reason: reason.to_owned(),
        }));
        self.release(hub);
        self.enter(Stage::Leaving(Farewell::Reject), hub.now);
    }

    /// Judges the peer by the clock, and keeps the connection alive. Called a few times in a heartbeat.
    pub(super) fn tick(&mut self, hub: &mut Hub) -> Result<(), Gone> {
        let deadlines = hub.deadlines;
        let age = hub.now.duration_since(self.since);
        let quiet = hub.now.duration_since(self.heard);
        // Who must lose nothing may take its time, as long as it says that it lives.
        let is_stalled =
            self.sending.is_some() && self.claim.is_none() && hub.now.duration_since(self.moved) > deadlines.stall;
        if is_stalled {
            return Err(if self.closed_by_peer() == Gone::Rejected {
                Gone::Rejected
            } else {
                Gone::Stalled
            });
        }
        match self.stage {
            Stage::Greeted if age > deadlines.subscribe => {
                self.reject(RejectCode::SubscribeDeadline, "no SUBSCRIBE in time", hub);
            }
            Stage::Leased if age > deadlines.subscribe && !self.has_mapped() => {
                self.reject(
                    RejectCode::SubscribeDeadline,
                    "the control segment was not mapped in time",
                    hub,
                );
            }
            Stage::Leased if self.outlives_client() => return Err(Gone::Left),
            Stage::Streaming if quiet > deadlines.silence => {
                // This thread may have been stopped itself, with the heartbeats waiting in the socket.
                self.receive(hub)?;
                if hub.now.duration_since(self.heard) > deadlines.silence {
                    self.reject(RejectCode::Silent, "no PROGRESS in time", hub);
                }
            }
            // Not before the START that is queued.
            Stage::Streaming
                if self.sending.is_none()
                    && self.queued.is_none()
                    && hub.now.duration_since(self.moved) >= deadlines.heartbeat =>
            {
                let head = ring::head(hub.segment.words()).next;
                let heartbeat = hub.chunks.of_frame(&ServerFrame::Heartbeat { head });
                self.begin(heartbeat, hub.now);
            }
            // Behind the end a slow peer may still be busy with what it has received: it says so by heartbeats.
            Stage::Lingering(Farewell::End) if quiet > deadlines.silence => return Err(Gone::Left),
            Stage::Leaving(Farewell::Reject) | Stage::Lingering(Farewell::Reject) if age > deadlines.linger => {
                return Err(Gone::Rejected);
            }
            _ => {}
        }
        if self.sending.is_some() || self.queued.is_some() {
            self.send(hub).map(drop)
        } else {
            Ok(())
        }
    }
}

/// The first frames to a new client.
fn greeting(connections: u32, hub: &mut Hub) -> Arc<Chunk> {
    let hello = ServerFrame::Hello(hello(connections, hub));
    match offer(hub) {
        None => hub.chunks.of_frames(&[hello]),
        Some(offer) => hub.chunks.of_frames(&[hello, ServerFrame::Offer(offer)]),
    }
}

/// What this server says of itself to a new client.
fn hello(connections: u32, hub: &Hub) -> Hello {
    let segment = &hub.segment;
    let ring::Head { next: head, closed } = ring::head(segment.words());
    Hello {
        incarnation: segment.header().incarnation(),
        head,
        oldest: ring::oldest(segment.geometry(), segment.words(), 0).min(head),
        max_message_bytes: u32::try_from(segment.geometry().max_message_bytes()).unwrap_or(u32::MAX),
        heartbeat_ms: millis(hub.deadlines.heartbeat),
        silence_ms: millis(hub.deadlines.silence),
        connections: connections.saturating_sub(hub.leased),
        closed,
        offers: hub.gate.offer().is_some(),
        name: segment.header().name().to_owned(),
    }
}

pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Where delivery starts, and how many of the messages asked for are gone.
pub(super) fn starting_place(meant: Incarnation, join: Join, segment: &Segment) -> (u64, u64) {
    match join {
        Join::Sequence(_) if meant != Incarnation::NIL && meant != segment.header().incarnation() => {
            (Join::Oldest.resolve(segment), 0)
        }
        Join::Sequence(sequence) => {
            let first = ring::oldest(segment.geometry(), segment.words(), sequence.min(ring::MAX_SEQUENCE));
            (first, first.saturating_sub(sequence))
        }
        Join::New | Join::Latest(_) | Join::Oldest => (join.resolve(segment), 0),
    }
}
