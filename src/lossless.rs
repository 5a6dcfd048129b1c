//! Subscribers through shared memory that lose nothing.
//!
//! ```text
//!       subscriber                                server
//!       CLAIM over the socket         ------>     makes a control segment, takes the claim
//!       locks it, latch `ready`       <------     LEASE: where to start, its name
//!       PROGRESS                      ------>     removes the name
//!       reads in place; cursor = next             overwrites nothing from there on
//!       (the lock: the kernel frees it when this process is gone, and the server asks when the connection ends)
//! ```
//!
//! The claim lasts as long as the lock, whatever becomes of the connection: nobody here looks at that any more.
//!
//! There are two kinds. A [`LosslessSubscriber`] reads as a [`Subscriber`] does, through a view that is checked
//! afterwards, so it may be evicted at any time. A [`BlockingSubscriber`] is lent `&[u8]` for as long as it likes and may
//! hold several messages at once; it needs a server that waits for it whatever happens (`--lossless block`).

use std::fmt;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use bytemuck::AnyBitPattern;

use crate::bell;
use crate::control::{Control, ControlError};
use crate::discovery::Found;
use crate::gate::LosslessPolicy;
use crate::ring::{Course, Poll, Reader, View};
use crate::segment::AttachError;
use crate::socket::frame::ClientFrame;
use crate::socket::{Agreed, Delivery, RemoteError, Request, agree_with_any};
use crate::subscriber::{self, Join, Subscriber, WaitStrategy, Waited};

mod blocking;

pub use blocking::{BlockingSubscriber, Held};

/// Why a lossless subscription through shared memory cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum LosslessError {
    /// The segment cannot be attached.
    Attach(AttachError),
    /// The server has no socket, over which such a subscription is agreed on.
    NoSocket,
    /// No agreement over the socket: the server offers none, has no place left, or cannot be reached.
    Socket(RemoteError),
    /// The control segment cannot be mapped.
    Control(ControlError),
    /// The server evicts those who are too slow, so that what it lends cannot be held.
    Evicts(LosslessPolicy),
    /// The server had taken the claim back before this process had mapped the control segment.
    TooLate,
}

impl fmt::Display for LosslessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attach(error) => error.fmt(f),
            Self::NoSocket => {
                f.write_str("lossless subscriptions are agreed on over a socket, and the server has none")
            }
            Self::Socket(error @ (RemoteError::NotLossless | RemoteError::Rejected { .. })) => error.fmt(f),
            Self::Socket(error) => write!(f, "lossless subscriptions are agreed on over the socket: {error}"),
            Self::Control(error) => error.fmt(f),
            Self::Evicts(policy) => write!(
                f,
                "the server may take messages back from slow subscribers (--lossless {policy}), so none can be held: use \
                 a LosslessSubscriber, or start it with --lossless block"
            ),
            Self::TooLate => {
                f.write_str("this process was held up until the server had taken its claim back: ask again")
            }
        }
    }
}

impl std::error::Error for LosslessError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Attach(error) => error.source(),
            Self::Socket(error) => error.source(),
            Self::Control(error) => error.source(),
            Self::NoSocket | Self::Evicts(_) | Self::TooLate => None,
        }
    }
}

/// The right to have nothing overwritten that was not read. Dropping it gives it back.
#[derive(Debug)]
struct Lease {
    /// The lock in it says that this process lives.
    control: Control,
    /// Its end makes the server ask at once whether that is so.
    _connection: TcpStream,
    /// This process. A fork of it has a copy of the lease, which is not the fork's to give back.
    process: u32,
    policy: LosslessPolicy,
    /// Messages before this one were never claimed.
    first: u64,
    /// Messages before this one may still be overwritten by one that was under way when the claim was made, until this
    /// one is there.
    live: u64,
    /// The server makes the heavy half of barriers.
    light: bool,
}

impl Lease {
    /// Takes a lease for `subscriber`, and puts it where the lease begins.
    fn take(subscriber: &mut Subscriber, found: &Found, join: Join, timeout: Duration) -> Result<Self, LosslessError> {
        let incarnation = subscriber.incarnation();
        let socket = found.info.socket.as_ref().ok_or(LosslessError::NoSocket)?;
        let request = Request::of(incarnation, join, Delivery::Leased);
        let (_, agreed) = agree_with_any(&socket.addresses, request, timeout).map_err(LosslessError::Socket)?;
        Self::begin(subscriber, agreed)
    }

    /// Takes the lease that was agreed on.
    fn begin(subscriber: &mut Subscriber, agreed: Agreed) -> Result<Self, LosslessError> {
        let (Some((live, name)), Some(offer)) = (agreed.lease, agreed.offer) else {
            return Err(LosslessError::Socket(RemoteError::NotLossless));
        };
        let control = Control::open(&name, subscriber.incarnation()).map_err(LosslessError::Control)?;
        control.set_ready();
        // The server may have held its lock before.
        if control.is_evicted() {
            return Err(LosslessError::TooLate);
        }
        let mut mapped = Vec::new();
        ClientFrame::Progress { next: agreed.first }.append_to(&mut mapped);
        let mut connection = agreed.stream;
        // A socket that has sent nothing but a claim has room for it.
        connection
            .write_all(&mapped)
            .map_err(|error| LosslessError::Socket(RemoteError::Io(error)))?;
        // From what is gone on, so that the first poll tells how much that is.
        subscriber.seek(agreed.first - agreed.missed);
        subscriber.parts().0.set_chased(false);
        Ok(Self {
            control,
            _connection: connection,
            process: std::process::id(),
            policy: offer.policy,
            first: agreed.first,
            live,
            light: bell::join_barriers(),
        })
    }

    fn is_evicted(&self) -> bool {
        self.control.is_evicted()
    }

    /// Claims nothing before `next` any more. Costs two accesses of a line that the publisher looks at now and then.
    #[inline]
    fn advance(&self, next: u64) {
        let claim = self.control.claim();
        claim.advance(next, self.light, || bell::wake_publisher(claim));
    }

    /// Polls up to `limit` times, as [`subscriber::drain`] does, in turns: what was read is given back at the end of each and not
    /// before, when the last `each` has returned or panicked. What is lent relies on that. A course of its own for each turn,
    /// and no count of what to give back in between: that leaves registers to who looks at the messages.
    #[inline(always)]
    fn drain<R>(
        &self,
        subscriber: &mut Subscriber,
        limit: usize,
        mut poll: impl FnMut(&mut Course<'_, '_>) -> Poll<R>,
        mut each: impl FnMut(Poll<R>),
    ) -> usize {
        let most = together(subscriber);
        let (reader, words) = subscriber.parts();
        let mut messages = 0;
        let mut left = limit;
        loop {
            let turn = left.min(most);
            left -= turn;
            let leased = Leased { reader, lease: self };
            // Beside it, not in it: what is dropped when somebody panics stays in memory.
            let mut course = leased.reader.course(words);
            let drained = subscriber::drain(turn, || poll(&mut course), &mut each);
            messages += drained.messages;
            if !drained.goes_on || left == 0 {
                return messages;
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            self.control.set_closing();
            bell::wake_publisher(self.control.claim());
        }
    }
}

/// Reads a stream through shared memory and loses nothing of it, unless it is evicted for being too slow: then it reads
/// on as a [`Subscriber`] does.
///
/// The server keeps what this subscriber has not read, so it must go on reading, or be dropped: nothing else lets the
/// publisher go on once the ring is full, unless the server evicts.
#[derive(Debug)]
pub struct LosslessSubscriber {
    subscriber: Subscriber,
    lease: Lease,
}

/// How many messages are given back together where that is not done one by one: far fewer than there are slots.
fn together(subscriber: &Subscriber) -> usize {
    const MOST: u64 = 64;
    let slots = subscriber.segment().geometry().slot_count();
    (slots / 8).clamp(1, MOST) as usize
}

/// A reader that gives back all that it has read when this is dropped, be it that who looked at a message panicked.
#[derive(Debug)]
struct Leased<'a> {
    reader: &'a mut Reader,
    lease: &'a Lease,
}

impl Drop for Leased<'_> {
    #[inline]
    fn drop(&mut self) {
        self.lease.advance(self.reader.cursor());
    }
}

/// A lossless subscriber that gives back messages some at a time: each time costs a line of memory that goes from one
/// processor to the other and back, and a publisher that waits for room is better off with room for some.
#[derive(Debug)]
pub(crate) struct InAdvance<'a> {
    subscriber: &'a mut LosslessSubscriber,
    together: usize,
    /// The sequence up to which all were given back.
    returned: u64,
}

impl InAdvance<'_> {
    /// As [`LosslessSubscriber::poll`], but the message is given back with one of the next.
    #[inline(always)]
    pub(crate) fn poll<R>(&mut self, read: impl FnOnce(View<'_>) -> R) -> Poll<R> {
        let outcome = self.subscriber.subscriber.poll(read);
        self.note(&outcome);
        outcome
    }

    /// As [`InAdvance::poll`], but waits as [`LosslessSubscriber::receive`] does.
    pub(crate) fn receive<R>(&mut self, timeout: Duration, read: impl FnMut(View<'_>) -> R) -> Poll<R> {
        let outcome = self.subscriber.subscriber.receive(timeout, read);
        self.note(&outcome);
        outcome
    }

    #[inline(always)]
    fn note<R>(&mut self, outcome: &Poll<R>) {
        if matches!(outcome, Poll::Message(_)) {
            let LosslessSubscriber { subscriber, lease } = &*self.subscriber;
            let cursor = subscriber.cursor();
            if cursor - self.returned >= self.together as u64 {
                lease.advance(cursor);
                self.returned = cursor;
            }
        } else {
            self.subscriber.note(outcome);
        }
    }
}

impl LosslessSubscriber {
    /// Attaches the segment of a server that was found, and claims the messages from `join` on. Asks over the server's
    /// socket, for up to `timeout`.
    ///
    /// [`Join::Oldest`] and [`Join::Latest`] begin behind the last message that is gone, so that none is missing from there on.
    /// What of a [`Join::Sequence`] is gone already is told as [`Poll::Lapped`] where it is missing: short messages may outlive
    /// long ones. So is what the one message overwrites that is just being published. No other is lost, unless
    /// [`LosslessSubscriber::is_evicted`].
    ///
    /// # Errors
    /// Why there is no such subscription.
    pub fn open(found: &Found, join: Join, timeout: Duration) -> Result<Self, LosslessError> {
        let mut subscriber = Subscriber::open(found, Join::New).map_err(LosslessError::Attach)?;
        let lease = Lease::take(&mut subscriber, found, join, timeout)?;
        Ok(Self { subscriber, lease })
    }

    /// Sets how this subscriber waits.
    #[must_use]
    pub fn with_strategy(mut self, strategy: WaitStrategy) -> Self {
        self.subscriber = self.subscriber.with_strategy(strategy);
        self
    }

    /// As [`Subscriber::poll`]. The message is given back when this returns.
    #[inline(always)]
    pub fn poll<R>(&mut self, read: impl FnOnce(View<'_>) -> R) -> Poll<R> {
        let outcome = self.subscriber.poll(read);
        self.note(&outcome);
        outcome
    }

    /// As [`Subscriber::poll_into`].
    #[inline]
    pub fn poll_into(&mut self, out: &mut Vec<u8>) -> Poll<()> {
        let outcome = self.subscriber.poll_into(out);
        self.note(&outcome);
        outcome
    }

    /// As [`Subscriber::poll_typed`].
    #[inline]
    pub fn poll_typed<T: AnyBitPattern>(&mut self) -> Poll<Option<T>> {
        let outcome = self.subscriber.poll_typed();
        self.note(&outcome);
        outcome
    }

    /// As [`Subscriber::receive`].
    #[inline]
    pub fn receive<R>(&mut self, timeout: Duration, read: impl FnOnce(View<'_>) -> R) -> Poll<R> {
        let outcome = self.subscriber.receive(timeout, read);
        self.note(&outcome);
        outcome
    }

    /// As [`Subscriber::drain`]. Messages are given back some at a time, and all of them when this returns, which costs the
    /// publisher and this subscriber less than one by one.
    #[inline]
    pub fn drain<R>(&mut self, limit: usize, mut read: impl FnMut(View<'_>) -> R, each: impl FnMut(Poll<R>)) -> usize {
        let Self { subscriber, lease } = self;
        let poll = |course: &mut Course<'_, '_>| {
            let outcome = course.poll(&mut read);
            if let Poll::Lapped { .. } = outcome {
                course.set_chased(lease.is_evicted());
            }
            outcome
        };
        lease.drain(subscriber, limit, poll, each)
    }

    /// As [`Subscriber::wait`].
    pub fn wait(&mut self, timeout: Duration) -> Waited {
        self.subscriber.wait(timeout)
    }

    #[inline(always)]
    fn note<R>(&mut self, outcome: &Poll<R>) {
        match outcome {
            Poll::Message(_) => self.lease.advance(self.subscriber.cursor()),
            Poll::Lapped { .. } => {
                self.lease.advance(self.subscriber.cursor());
                let is_evicted = self.is_evicted();
                self.subscriber.parts().0.set_chased(is_evicted);
            }
            _ => {}
        }
    }

    /// Lets `take` poll without giving back each message at once. All are given back when this returns.
    pub(crate) fn in_advance<R>(&mut self, take: impl FnOnce(&mut InAdvance<'_>) -> R) -> R {
        let taken = take(&mut InAdvance {
            together: together(&self.subscriber),
            returned: self.subscriber.cursor(),
            subscriber: self,
        });
        self.lease.advance(self.subscriber.cursor());
        taken
    }

    /// What the server does about subscribers that are too slow.
    #[must_use]
    pub const fn policy(&self) -> LosslessPolicy {
        self.lease.policy
    }

    /// Whether the server has taken the claim back because this subscriber was too slow. Then messages may be lost, and
    /// are told as [`Poll::Lapped`]. Costs about 0.1 us: ask when something was lost.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.lease.is_evicted()
    }

    /// What it reads with: where it is, how the server is.
    #[must_use]
    pub const fn subscriber(&mut self) -> &mut Subscriber {
        &mut self.subscriber
    }
}

#[cfg(test)]
mod tests;
