//! A subscriber that is lent messages as plain bytes, several at once if it likes, because the publisher waits for it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use super::{Lease, LosslessError};
use crate::discovery::Found;
use crate::gate::{LosslessPolicy, Settling};
use crate::ring::{Course, Poll};
use crate::subscriber::{Join, Subscriber, WaitStrategy, Waited};

/// Reads a stream through shared memory and loses nothing of it; messages are lent as `&[u8]`, in place, until they are
/// dropped.
///
/// The publisher overwrites nothing from the oldest message on that is held, so holding one for long stops the stream once
/// the ring is full. That is what makes the bytes sound to lend: unlike a view they cannot change while they are looked
/// at, as long as the server keeps to the protocol. It runs as the same user, or there were no control segment.
///
/// A fork of this process may drop its copy of the subscriber, but must not drop what is held: that is given back for both.
#[derive(Debug)]
pub struct BlockingSubscriber {
    pub(super) subscriber: RefCell<Subscriber>,
    lease: Lease,
    /// Messages that were lent, in order, from the oldest on that is held: its sequence, and whether it was given back.
    lent: RefCell<VecDeque<(u64, bool)>>,
    settling: RefCell<Settling>,
}

/// The payload of a message, held until it is dropped: it dereferences to its bytes.
#[must_use = "a payload that is dropped at once was not looked at"]
pub struct Held<'s> {
    sequence: u64,
    bytes: Cow<'s, [u8]>,
    owner: &'s BlockingSubscriber,
}

impl BlockingSubscriber {
    /// Attaches the segment of a server that was found, and claims the messages from `join` on. Asks over the server's
    /// socket, for up to `timeout`. Where it begins, and what may be missing there, is as for
    /// [`LosslessSubscriber::open`](crate::LosslessSubscriber::open); no other message is lost.
    ///
    /// # Errors
    /// Why there is no such subscription, [`LosslessError::Evicts`] among them.
    pub fn open(found: &Found, join: Join, timeout: Duration) -> Result<Self, LosslessError> {
        let mut subscriber = Subscriber::open(found, Join::New).map_err(LosslessError::Attach)?;
        let lease = Lease::take(&mut subscriber, found, join, timeout)?;
        Self::with_lease(subscriber, lease)
    }

    pub(super) fn with_lease(mut subscriber: Subscriber, lease: Lease) -> Result<Self, LosslessError> {
        subscriber.parts().0.set_lending();
        match lease.policy {
            LosslessPolicy::Block => Ok(Self {
                subscriber: RefCell::new(subscriber),
                settling: RefCell::new(Settling::new(lease.first, lease.live)),
                lease,
                lent: RefCell::default(),
            }),
            policy @ LosslessPolicy::Evict(_) => Err(LosslessError::Evicts(policy)),
        }
    }

    /// Sets how this subscriber waits.
    #[must_use]
    pub fn with_strategy(self, strategy: WaitStrategy) -> Self {
        Self {
            subscriber: RefCell::new(self.subscriber.into_inner().with_strategy(strategy)),
            ..self
        }
    }

    /// Looks once for the next message, and lends it. Never blocks. Copies nothing, but for messages that were there
    /// before this subscriber was and might still be overwritten: those that it could not claim, and until the next message
    /// is published all of them.
    pub fn poll(&self) -> Poll<Held<'_>> {
        let mut subscriber = self.subscriber.borrow_mut();
        let (reader, words) = subscriber.parts();
        // SAFETY: the mapping is that of `self`, which what is lent borrows. It is claimed until `give_back`, which the `Held`
        // calls when it is dropped: the lease is that of `self` as well.
        let outcome = unsafe { look(&mut reader.course(words), &mut self.settling.borrow_mut()) };
        let next = reader.cursor();
        match &outcome {
            Poll::Message(received) => self.lent.borrow_mut().push_back((received.sequence, false)),
            Poll::Lapped { .. } if self.lent.borrow().is_empty() => self.lease.advance(next),
            _ => {}
        }
        outcome.map(|bytes| Held {
            sequence: next - 1,
            bytes,
            owner: self,
        })
    }

    /// Polls up to `limit` times, for messages that are there already, and lends each to `each` until that returns. `each` is
    /// given every outcome in order, laps and the end included, `Empty` not. Returns how many messages there were.
    ///
    /// Messages are given back some at a time, and all of them when this returns, which costs the publisher and this
    /// subscriber far less than one by one. Copies what [`BlockingSubscriber::poll`] copies.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lapwing::{BlockingSubscriber, Join, LosslessOffer, LosslessPolicy, Poll, Server, ServerOptions, discovery};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let mut options = ServerOptions::new("prices".parse()?);
    /// # options.info_dir = directory.path().to_owned();
    /// # options.lossless = Some(LosslessOffer { policy: LosslessPolicy::Block, max_subscribers: 1 });
    /// # let mut server = Server::start(options)?;
    /// # let found = discovery::read(server.info_path(), &Default::default())?;
    /// let mut subscriber = BlockingSubscriber::open(&found, Join::New, Duration::from_secs(1))?;
    /// # server.publisher().publish(b"EURUSD 1.0842")?;
    /// subscriber.drain(256, |outcome| match outcome {
    ///     Poll::Message(message) => println!("{}", String::from_utf8_lossy(message.value)),
    ///     other => println!("{other:?}"),
    /// });
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn drain(&mut self, limit: usize, mut each: impl FnMut(Poll<&[u8]>)) -> usize {
        // Nothing that was lent can be in use: it borrowed this subscriber.
        self.lent.get_mut().clear();
        let settling = self.settling.get_mut();
        let poll = |course: &mut Course<'_, '_>| {
            // SAFETY: the mapping is that of `self`, which is borrowed. It is claimed until `each`, which keeps it no longer,
            // has returned or has panicked: `Lease::drain` gives nothing back before that.
            unsafe { look(course, settling) }
        };
        self.lease.drain(self.subscriber.get_mut(), limit, poll, |outcome| {
            let mut bytes = Cow::default();
            each(outcome.map(|value| {
                bytes = value;
                &*bytes
            }));
        })
    }

    /// Waits for the next message, or what else there is to tell, for up to `timeout`; `Empty` if that passed.
    pub fn receive(&self, timeout: Duration) -> Poll<Held<'_>> {
        let outcome = self.poll();
        if !matches!(outcome, Poll::Empty) {
            return outcome;
        }
        match self.wait(timeout) {
            Waited::Ready => self.poll(),
            Waited::TimedOut => Poll::Empty,
            Waited::Ended => Poll::Ended,
            Waited::Dead => Poll::Dead,
        }
    }

    /// Waits until a poll will find something, for up to `timeout`.
    pub fn wait(&self, timeout: Duration) -> Waited {
        self.subscriber.borrow_mut().wait(timeout)
    }

    /// The sequence wanted next.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.subscriber.borrow().cursor()
    }

    /// How many messages are held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lent.borrow().iter().filter(|(_, is_back)| !is_back).count()
    }

    /// Claims a message no more, nor those before it if all were given back.
    fn give_back(&self, sequence: u64) {
        let mut lent = self.lent.borrow_mut();
        let index = lent.partition_point(|&(held, _)| held < sequence);
        if let Some((_, is_back)) = lent.get_mut(index) {
            *is_back = true;
        }
        if index > 0 {
            return;
        }
        while lent.front().is_some_and(|&(_, is_back)| is_back) {
            lent.pop_front();
        }
        let next = lent.front().map_or_else(|| self.cursor(), |&(held, _)| held);
        self.lease.advance(next);
    }
}

/// Looks once for the next message: in place, or as a copy while it might still be overwritten.
///
/// # Safety
/// `course` is over the words of a mapping that lives for `'s`. If a message is found, it must be claimed until `'s` ends, by
/// a claim that `settling` is about.
#[inline(always)]
unsafe fn look<'s>(course: &mut Course<'_, '_>, settling: &mut Settling) -> Poll<Cow<'s, [u8]>> {
    if !settling.is_safe(course.cursor(), |live| course.is_there(live)) {
        return course.poll(|view| Cow::Owned(view.to_vec()));
    }
    let is_behind = course.is_behind();
    course.poll(|view| {
        // As the ring does for slots.
        if is_behind {
            view.words().prefetch_behind();
        }
        let bytes = view.words().as_ptr().cast::<u8>();
        // SAFETY:
        // - the words of a view hold its `len` bytes, initialised, in the mapping;
        // - nobody stores to them for as long: this message is claimed, the publisher overwrites nothing from the oldest claimed
        //   one on (gate.rs, C1 with C2), and no message is under way that passed the gate before the claim did. The ring
        //   checks this one after this, and nobody looks at the bytes before that;
        // - the claim lasts as long as the lease: a server that waits whatever happens takes none back whose lock it cannot
        //   have (control.rs), and the lease has that, whatever becomes of its connection;
        // - a server that breaks the protocol could store to them. It runs as this user, or the control segment would not
        //   have been opened, and so could write all memory of this process.
        Cow::Borrowed(unsafe { std::slice::from_raw_parts(bytes, view.len()) })
    })
}

impl Held<'_> {
    /// The message's place in the stream.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether it lies in the ring. If not, it was copied, see [`BlockingSubscriber::poll`].
    #[must_use]
    pub const fn is_in_place(&self) -> bool {
        matches!(self.bytes, Cow::Borrowed(_))
    }
}

impl Deref for Held<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Held<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("sequence", &self.sequence)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.owner.give_back(self.sequence);
    }
}
