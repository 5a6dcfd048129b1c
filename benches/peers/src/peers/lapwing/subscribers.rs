//! What receives: a type for each kind of subscriber, so that the loop around it is compiled for it alone, as in a program.

use std::time::Duration;

use ::lapwing::discovery::Found;
use ::lapwing::{BlockingSubscriber, Join, LosslessSubscriber, Poll, RemoteSubscriber, Subscriber, View};
use anyhow::{Context, Result};

use super::{PACKED, Wait};
use crate::message::{Reading, Seen, Small, look, look_at_bytes};
use crate::peer::Receiver;
use crate::work::Work;

/// Messages of a stream that are looked at in one go.
const DRAINED: usize = 256;
/// Longer than any message takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a wait lasts at most before the work looks whether it is over.
const WAIT: Duration = Duration::from_millis(10);

/// One kind of subscriber.
pub(super) trait Subscribe: Receiver + Sized + 'static {
    fn open(found: &Found, wait: Wait, work: Work) -> Result<Self>;
}

pub struct Lossy {
    subscriber: Subscriber,
    waits: bool,
    /// Many messages are looked at in one go.
    drains: bool,
}

impl Subscribe for Lossy {
    fn open(found: &Found, wait: Wait, work: Work) -> Result<Self> {
        Ok(Self {
            subscriber: Subscriber::open(found, Join::New)?.with_strategy(wait.strategy()),
            waits: wait != Wait::Not,
            drains: work.is_stream(),
        })
    }
}

impl Receiver for Lossy {
    #[inline]
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        if self.drains {
            self.subscriber.drain(
                DRAINED,
                |view| look_at(view, reading),
                |outcome| tell(outcome, &mut each),
            );
        } else {
            tell(self.subscriber.poll(|view| look_at(view, reading)), &mut each);
        }
    }

    #[inline]
    fn idle(&mut self) {
        if self.waits {
            let _ = self.subscriber.wait(WAIT);
        } else {
            std::hint::spin_loop();
        }
    }
}

pub struct Lossless(LosslessSubscriber);

impl Subscribe for Lossless {
    fn open(found: &Found, wait: Wait, _: Work) -> Result<Self> {
        let subscriber = LosslessSubscriber::open(found, Join::New, PATIENCE)?;
        Ok(Self(subscriber.with_strategy(wait.strategy())))
    }
}

impl Receiver for Lossless {
    #[inline]
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        self.0.drain(
            DRAINED,
            |view| look_at(view, reading),
            |outcome| tell(outcome, &mut each),
        );
    }

    #[inline]
    fn idle(&mut self) {
        let _ = self.0.wait(WAIT);
    }
}

/// Lossless, of messages with [`PACKED`] values each.
pub struct Packed(Lossless);

impl Subscribe for Packed {
    fn open(found: &Found, wait: Wait, work: Work) -> Result<Self> {
        Lossless::open(found, wait, work).map(Self)
    }
}

impl Receiver for Packed {
    #[inline]
    fn poll(&mut self, _: Reading, mut each: impl FnMut(Seen)) {
        let Self(Lossless(subscriber)) = self;
        subscriber.drain(DRAINED / PACKED, look_at_pack, |outcome| {
            let Poll::Message(message) = outcome else {
                panic!("nothing is lost, and the stream goes on");
            };
            let Pack { first, count, is_whole } = message.value;
            (0..count).for_each(|at| {
                each(Seen {
                    sequence: first + at,
                    is_whole,
                });
            });
        });
    }

    #[inline]
    fn idle(&mut self) {
        self.0.idle();
    }
}

pub struct Held {
    subscriber: BlockingSubscriber,
    /// Messages that are looked at in one go.
    limit: usize,
}

impl Subscribe for Held {
    fn open(found: &Found, wait: Wait, work: Work) -> Result<Self> {
        let subscriber = BlockingSubscriber::open(found, Join::New, PATIENCE)?;
        Ok(Self {
            subscriber: subscriber.with_strategy(wait.strategy()),
            limit: if work.is_stream() { DRAINED } else { 1 },
        })
    }
}

impl Receiver for Held {
    #[inline]
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        self.subscriber.drain(self.limit, |outcome| {
            tell(outcome.map(|bytes| look_at_bytes(bytes, reading)), &mut each);
        });
    }

    #[inline]
    fn idle(&mut self) {
        let _ = self.subscriber.wait(WAIT);
    }
}

/// `IS_LOSSLESS`: whether the server waits for it.
pub struct Remote<const IS_LOSSLESS: bool>(RemoteSubscriber);

impl<const IS_LOSSLESS: bool> Subscribe for Remote<IS_LOSSLESS> {
    fn open(found: &Found, _: Wait, _: Work) -> Result<Self> {
        let addresses = &found.info.socket.as_ref().context("a server with a socket")?.addresses;
        let connect = if IS_LOSSLESS {
            RemoteSubscriber::connect_lossless
        } else {
            RemoteSubscriber::connect
        };
        Ok(Self(connect(addresses, found.info.incarnation, Join::New, PATIENCE)?))
    }
}

impl<const IS_LOSSLESS: bool> Receiver for Remote<IS_LOSSLESS> {
    #[inline]
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        let outcome = self.0.poll(|payload| look_at_bytes(payload, reading));
        tell(outcome.expect("a server that goes on"), &mut each);
    }

    fn idle(&mut self) {
        // The thread that sends shares the processor.
        std::thread::yield_now();
    }
}

/// What was seen of the values of one message.
struct Pack {
    /// The sequence of the first one.
    first: u64,
    count: u64,
    /// They were all whole, and in order.
    is_whole: bool,
}

/// Whether all words of a message are its sequence: all of them compared at once, as vectors.
#[inline(always)]
fn is_all(sequence: u64, small: Small) -> bool {
    small.into_iter().fold(0, |odd, word| odd | (word ^ sequence)) == 0
}

/// Looks at the values of a message in the ring.
#[inline(always)]
fn look_at_pack(view: View<'_>) -> Pack {
    let first = view.words().load(0);
    let (mut next, mut is_whole) = (first, true);
    for value in view.values::<Small>(0) {
        is_whole &= is_all(next, value);
        next = next.wrapping_add(1);
    }
    let count = next.wrapping_sub(first);
    Pack { first, count, is_whole }
}

/// Tells `each` of a message. What was lost shows in the sequences.
#[inline(always)]
fn tell(outcome: Poll<Seen>, each: &mut impl FnMut(Seen)) {
    match outcome {
        Poll::Message(message) => each(message.value),
        Poll::Empty | Poll::Lapped { .. } => {}
        // Not shown whole: for that, all of every message would be kept in memory.
        Poll::Corrupt { sequence } => panic!("corrupt at {sequence}"),
        _ => panic!("the stream ended"),
    }
}

/// Looks at a message in the ring.
#[inline(always)]
fn look_at(view: View<'_>, reading: Reading) -> Seen {
    if view.len() == size_of::<Small>() {
        // By itself, not as one of those eight, or the compiler compares the other seven one by one.
        let sequence = view.words().load(0);
        let is_whole = reading == Reading::First || is_all(sequence, view.read(0).expect("as many bytes"));
        return Seen { sequence, is_whole };
    }
    look(view.words().iter(), reading)
}
