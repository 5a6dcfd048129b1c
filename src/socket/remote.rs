//! A subscriber over TCP: the same stream, sequences and losses as through the shared memory.
//!
//! ```text
//!   connect -> HELLO (right incarnation?) -> SUBSCRIBE -> START -> poll, poll, poll ... -> END
//!
//!   socket --read, up to 256 KiB at once--> Decoder --payload in place--> the closure given to poll
//!   PROGRESS <--whenever a heartbeat is due, from inside poll and receive--
//! ```
//!
//! It has no thread: a program that does not poll for longer than the server's `silence_ms` is given up by the server,
//! and connects again with the sequence that it wants next.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::decoder::Decoder;
use super::error::RemoteError;
use super::frame::{ClientFrame, Hello, Kind, Offer, ServerFrame};
use super::greeting::{Agreed, Delivery, Request, agree_with_any};
use super::stream::{deadline_after, is_closed, read_into, wait_for};
use super::wire::Message;
use crate::ring::MAX_SEQUENCE;
use crate::{Incarnation, Join, Poll, Received};

/// Reads in one poll before it says `Empty`: a server that sends nothing but heartbeats cannot hold the caller.
const READS_PER_POLL: usize = 4;
/// Messages between two looks at the clock: it would cost a tenth of the time of a small message.
const MESSAGES_PER_LOOK: u32 = 8;
/// Shortest time between two acknowledgements while there is more to deliver: the publisher may be waiting for them, and
/// each costs both sides a system call.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_micros(50);

/// A subscriber over TCP.
///
/// After an error the connection is of no more use: drop it, and resume with [`cursor`](Self::cursor) and the
/// incarnation of [`hello`](Self::hello) on a new one.
#[derive(Debug)]
pub struct RemoteSubscriber {
    stream: TcpStream,
    address: SocketAddr,
    decoder: Decoder,
    hello: Hello,
    offer: Option<Offer>,
    /// The sequence up to which all was acknowledged, of a lossless subscriber that was not evicted.
    acknowledged: Option<u64>,
    /// The sequence wanted next.
    cursor: u64,
    /// The newest head that the server told.
    head: u64,
    /// Messages lost before the first one, which no poll has told yet.
    lost: Option<(u64, u64)>,
    ended: bool,
    /// The last look read all that had arrived.
    drained: bool,
    clock: Clock,
    /// What the socket did not take of the newest PROGRESS; empty nearly always.
    unsent: Vec<u8>,
}

/// When who was heard, and when the clock is looked at next.
#[derive(Debug)]
struct Clock {
    heartbeat: Duration,
    silence: Duration,
    heard: Instant,
    spoke: Instant,
    looked: Instant,
    /// Messages until the next look.
    countdown: u32,
}

/// Whether something that was received is still to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backlog {
    None,
    Some,
}

/// What is at the front of the stream.
enum Next {
    Message,
    Lost { first: u64, missed: u64 },
    Nothing,
    End,
}

impl RemoteSubscriber {
    /// Connects to the first of `addresses` on which the server `expected` answers ([`Incarnation::NIL`]: any), and
    /// subscribes. A `join` at a sequence means one of `expected`. Each address gets its share of the time that is left.
    ///
    /// # Errors
    /// From the address where it came furthest.
    pub fn connect(
        addresses: &[SocketAddr],
        expected: Incarnation,
        join: Join,
        timeout: Duration,
    ) -> Result<Self, RemoteError> {
        Self::open(addresses, Request::of(expected, join, Delivery::Lossy), timeout)
    }

    /// As [`connect`](Self::connect), for a stream without losses: the server overwrites nothing that this subscriber
    /// has not read. A message counts as read when the next one is asked for.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and if the server does not offer that.
    pub fn connect_lossless(
        addresses: &[SocketAddr],
        expected: Incarnation,
        join: Join,
        timeout: Duration,
    ) -> Result<Self, RemoteError> {
        Self::open(addresses, Request::of(expected, join, Delivery::Lossless), timeout)
    }

    /// Connects to whatever server answers on `addresses`, and goes on at `sequence` of `incarnation` if that is still
    /// its life, else at the oldest message that it retains.
    ///
    /// # Errors
    /// From the address where it came furthest.
    pub fn resume(
        addresses: &[SocketAddr],
        incarnation: Incarnation,
        sequence: u64,
        timeout: Duration,
    ) -> Result<Self, RemoteError> {
        let request = Request {
            expected: Incarnation::NIL,
            meant: incarnation,
            join: Join::Sequence(sequence),
            delivery: Delivery::Lossy,
        };
        Self::open(addresses, request, timeout)
    }

    fn open(addresses: &[SocketAddr], request: Request, timeout: Duration) -> Result<Self, RemoteError> {
        let (address, agreed) = agree_with_any(addresses, request, timeout)?;
        Ok(Self::new(address, request.delivery, agreed))
    }

    pub(super) fn new(address: SocketAddr, delivery: Delivery, agreed: Agreed) -> Self {
        let Agreed {
            stream,
            decoder,
            hello,
            offer,
            first,
            missed,
            lease: _,
        } = agreed;
        Self {
            stream,
            address,
            decoder,
            offer,
            acknowledged: (delivery == Delivery::Lossless).then_some(first),
            cursor: first,
            head: hello.head.min(MAX_SEQUENCE),
            lost: (missed > 0).then(|| (first - missed, missed)),
            ended: false,
            drained: false,
            clock: Clock::new(&hello),
            unsent: Vec::new(),
            hello,
        }
    }

    /// Looks at the next message, if one is there, without blocking. `f` sees its payload where it was received.
    ///
    /// Keeps the connection alive as well: call it, or [`receive`](Self::receive), more often than the hello's
    /// `silence_ms`.
    ///
    /// # Errors
    /// When the connection is lost, the server refuses to go on or breaks the protocol, or was silent for too long.
    #[inline]
    pub fn poll<R>(&mut self, f: impl FnOnce(&[u8]) -> R) -> Result<Poll<R>, RemoteError> {
        let next = self.advance()?;
        self.deliver(&next, f)
    }

    /// As [`poll`](Self::poll), but waits up to `timeout` for something to deliver; `Empty` if nothing came.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn receive<R>(&mut self, timeout: Duration, f: impl FnOnce(&[u8]) -> R) -> Result<Poll<R>, RemoteError> {
        let mut next = self.advance()?;
        if matches!(next, Next::Nothing) {
            let deadline = deadline_after(timeout);
            while matches!(next, Next::Nothing) && Instant::now() < deadline {
                let (events, duty) = if self.unsent.is_empty() {
                    (PollFlags::IN, self.clock.next_duty())
                } else {
                    (PollFlags::IN | PollFlags::OUT, self.clock.end_of_silence())
                };
                wait_for(&self.stream, events, deadline.min(duty))?;
                next = self.advance()?;
            }
        }
        self.deliver(&next, f)
    }

    /// Whether the server told that its stream has ended, and all of it was delivered.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the last poll that said `Empty` read all that had arrived. If not, who waits for edges must poll again.
    #[must_use]
    pub const fn is_drained(&self) -> bool {
        self.drained
    }

    /// When the next poll is due although nothing arrives: a heartbeat must be sent, or the server counts as silent.
    #[must_use]
    pub fn poll_by(&self) -> Instant {
        self.clock.next_duty()
    }

    #[inline]
    fn deliver<R>(&mut self, next: &Next, f: impl FnOnce(&[u8]) -> R) -> Result<Poll<R>, RemoteError> {
        match *next {
            Next::Message => self.take_message(f).map(Poll::Message),
            Next::Lost { first, missed } => Ok(Poll::Lapped { first, missed }),
            Next::Nothing => Ok(Poll::Empty),
            Next::End => Ok(Poll::Ended),
        }
    }

    #[inline]
    fn take_message<R>(&mut self, f: impl FnOnce(&[u8]) -> R) -> Result<Received<R>, RemoteError> {
        let Some(message) = self.decoder.message()? else {
            return Err(RemoteError::Protocol("a message that is none"));
        };
        let Message {
            sequence,
            timestamp_ns,
            tag,
            payload,
        } = message;
        if sequence != self.cursor || sequence >= MAX_SEQUENCE {
            return Err(RemoteError::Protocol("a message out of order"));
        }
        self.cursor = sequence + 1;
        Ok(Received {
            sequence,
            timestamp_ns,
            tag,
            len: payload.len(),
            value: f(payload),
        })
    }

    /// Goes on to the next thing to deliver: reads what has arrived and takes all frames that are not messages.
    #[inline]
    fn advance(&mut self) -> Result<Next, RemoteError> {
        if self.clock.message_is_due_for_a_look() {
            self.speak(Instant::now(), Backlog::Some)?;
        }
        if self.ended {
            return Ok(Next::End);
        }
        if let Some((first, missed)) = self.lost.take() {
            return Ok(Next::Lost { first, missed });
        }
        let mut reads = 0;
        loop {
            match self.decoder.front()? {
                Some(Kind::Message) => return Ok(Next::Message),
                Some(_) => {
                    if let Some(next) = self.take_control()? {
                        return Ok(next);
                    }
                }
                None if reads < READS_PER_POLL && self.fill()? => reads += 1,
                None => {
                    self.drained = reads < READS_PER_POLL;
                    return Ok(Next::Nothing);
                }
            }
        }
    }

    /// Takes a frame that is not a message.
    #[cold]
    fn take_control(&mut self) -> Result<Option<Next>, RemoteError> {
        match self.decoder.server_frame()? {
            Some(ServerFrame::Heartbeat { head }) => {
                self.head = self.head.max(head.min(MAX_SEQUENCE));
                Ok(None)
            }
            Some(ServerFrame::Gap { first, missed }) => {
                if first != self.cursor || missed > MAX_SEQUENCE - self.cursor {
                    return Err(RemoteError::Protocol("a gap out of order"));
                }
                self.cursor += missed;
                Ok(Some(Next::Lost { first, missed }))
            }
            Some(ServerFrame::End { head }) => {
                if head > self.cursor {
                    return Err(RemoteError::Protocol("the end before the last message"));
                }
                self.ended = true;
                // Tells the server that nothing is left to send; it may be gone already.
                let _ = self.stream.shutdown(Shutdown::Write);
                Ok(Some(Next::End))
            }
            Some(ServerFrame::Evicted { .. }) if self.acknowledged.is_some() => {
                self.acknowledged = None;
                Ok(None)
            }
            Some(ServerFrame::Reject { code, reason }) => Err(RemoteError::Rejected { code, reason }),
            _ => Err(RemoteError::Protocol("a frame out of place")),
        }
    }

    /// Reads what has arrived; whether that was anything.
    fn fill(&mut self) -> Result<bool, RemoteError> {
        let filled = read_into(&self.stream, &mut self.decoder)?;
        let now = Instant::now();
        if filled {
            self.clock.heard = now;
        } else if now.duration_since(self.clock.heard) > self.clock.silence {
            return Err(RemoteError::Silent {
                silence: self.clock.silence,
            });
        }
        // Nothing that was received is left: who waits for that must know.
        self.speak(now, if filled { Backlog::Some } else { Backlog::None })?;
        Ok(filled)
    }

    /// Tells the server that this subscriber lives, if that is due: for those who cannot poll for longer than the hello's
    /// `silence_ms`. Never blocks. All messages delivered so far count as read.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn keep_alive(&mut self) -> Result<(), RemoteError> {
        self.speak(Instant::now(), Backlog::None)
    }

    /// Sends a PROGRESS when one is due. A full socket is no error: the server is told when it takes something again.
    fn speak(&mut self, now: Instant, backlog: Backlog) -> Result<(), RemoteError> {
        self.clock.look(now);
        let silent = now.duration_since(self.clock.spoke);
        let is_due = silent >= self.clock.heartbeat
            || self.acknowledged.is_some_and(|acknowledged| {
                acknowledged < self.cursor && (backlog == Backlog::None || silent >= ACKNOWLEDGE_INTERVAL)
            });
        if self.unsent.is_empty() && !self.ended && is_due {
            let next = self.cursor;
            ClientFrame::Progress { next }.append_to(&mut self.unsent);
            self.clock.spoke = now;
            self.acknowledged = self.acknowledged.map(|_| next);
        }
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The server has closed: what it sent before, perhaps why, is still there to be read.
                Err(error) if is_closed(&error) => self.unsent.clear(),
                Err(error) => return Err(RemoteError::Io(error)),
            }
        }
        Ok(())
    }

    /// What the server said of itself.
    #[must_use]
    pub const fn hello(&self) -> &Hello {
        &self.hello
    }

    /// What the server promises to lossless subscribers; `None` if nothing.
    #[must_use]
    pub const fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref()
    }

    /// Whether the server overwrites nothing that was not read. Turns false when it evicts this subscriber.
    #[must_use]
    pub const fn is_lossless(&self) -> bool {
        self.acknowledged.is_some()
    }

    /// The address that answered.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sequence wanted next. With the incarnation of [`hello`](Self::hello) it is the position to resume at.
    #[must_use]
    pub const fn cursor(&self) -> u64 {
        match self.lost {
            // Lost, and not told yet.
            Some((first, _)) => first,
            None => self.cursor,
        }
    }

    /// The newest sequence known to come next at the server: as old as its last heartbeat, or newer.
    #[must_use]
    pub const fn head(&self) -> u64 {
        if self.head > self.cursor {
            self.head
        } else {
            self.cursor
        }
    }
}

impl AsFd for RemoteSubscriber {
    /// The socket, to wait for with others: poll until `Empty` before each wait, and by [`poll_by`](Self::poll_by) again.
    /// Who waits for edges (mio, `EPOLLET`) also polls until [`is_drained`](Self::is_drained).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for RemoteSubscriber {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl Clock {
    fn new(hello: &Hello) -> Self {
        let now = Instant::now();
        Self {
            heartbeat: Duration::from_millis(hello.heartbeat_ms.into()),
            silence: Duration::from_millis(hello.silence_ms.into()),
            heard: now,
            spoke: now,
            looked: now,
            countdown: MESSAGES_PER_LOOK,
        }
    }

    /// Counts one message; whether the clock is to be looked at.
    #[inline]
    const fn message_is_due_for_a_look(&mut self) -> bool {
        self.countdown -= 1;
        if self.countdown == 0 {
            self.countdown = 1;
            return true;
        }
        false
    }

    /// Notes a look. Someone who takes long over each message gets one for each, so that no heartbeat is late.
    fn look(&mut self, now: Instant) {
        let slow = now.duration_since(self.looked) > self.heartbeat / MESSAGES_PER_LOOK;
        self.countdown = if slow { 1 } else { MESSAGES_PER_LOOK };
        self.looked = now;
    }

    /// When a heartbeat has to be sent or the server has been silent for too long, whichever comes first.
    fn next_duty(&self) -> Instant {
        (self.spoke + self.heartbeat).min(self.end_of_silence())
    }

    /// When the server has been silent for too long.
    fn end_of_silence(&self) -> Instant {
        self.heard + self.silence
    }
}
