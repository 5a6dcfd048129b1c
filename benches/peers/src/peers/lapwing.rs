//! Lapwing itself, in several settings.

use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

use ::lapwing::discovery::{self, Found, Trust};
use ::lapwing::{
    BlockingSubscriber, Join, Loan, LosslessOffer, LosslessPolicy, LosslessSubscriber, Poll, PublishError,
    RemoteSubscriber, Server, ServerOptions, Subscriber, View, WaitStrategy,
};
use anyhow::{Context, Result};

use super::boxed;
use crate::message::{Draft, Reading, Seen, Small, look, look_at_bytes};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender, version_of};
use crate::work::Work;

/// How messages are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Publish {
    /// `publish`, from the program's own memory.
    Copy,
    /// `batch().push`, from the program's own memory.
    Batch,
    /// `loan` and `push_words`, in streams in batches.
    InPlace,
    /// The same, [`PACKED`] values in each message of the ring.
    Packed,
}

/// How they are received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receive {
    /// A `Subscriber`.
    Lossy,
    /// A `LosslessSubscriber`.
    Lossless,
    /// The same, of messages with [`PACKED`] values each.
    Packed,
    /// A `BlockingSubscriber`, which is lent the bytes.
    Held,
    /// A `RemoteSubscriber`.
    Remote { is_lossless: bool },
}

/// What a receiver does that found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Polls again at once.
    Not,
    /// `wait`, as `receive` does.
    By(WaitStrategy),
}

impl Wait {
    const fn strategy(self) -> WaitStrategy {
        match self {
            Self::Not => WaitStrategy::Spin,
            Self::By(strategy) => strategy,
        }
    }
}

/// Slots of a ring for streams, and its arena. Messages that are sent one at a time need no more slots than there are by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ring {
    /// As the server has it if it is not told.
    Default,
    /// An arena that stays in a cache that processors share, but not in those that one has alone.
    Cached,
    /// Larger than all caches.
    Vast,
}

impl Ring {
    const fn slots(self) -> Option<u64> {
        match self {
            Self::Default => None,
            Self::Cached => Some(65_536),
            Self::Vast => Some(1_048_576),
        }
    }

    /// Bytes of a slot for messages of `len` bytes.
    fn slot_bytes(self, len: usize) -> Option<u64> {
        (self != Self::Default && len == size_of::<Small>()).then_some(96)
    }

    /// Least bytes of the arena.
    const fn arena(self) -> u64 {
        match self {
            Self::Default => 64 << 10,
            Self::Cached => 4 << 20,
            Self::Vast => 64 << 20,
        }
    }
}

/// One way to use it.
struct Way {
    name: &'static str,
    settings: &'static str,
    publish: Publish,
    receive: Receive,
    wait: Wait,
    ring: Ring,
    fits: fn(Work) -> bool,
}

/// Values of 64 B that share a message of the ring, with one stamp, one time and one tag.
const PACKED: usize = 16;
/// Bytes of such a message.
const PACK_BYTES: usize = PACKED * size_of::<Small>();

/// Messages of a stream that are looked at in one go.
const DRAINED: usize = 256;
/// Longer than any message takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a wait lasts at most before the work looks whether it is over.
const WAIT: Duration = Duration::from_millis(10);

const fn is_awake(work: Work) -> bool {
    !work.is_asleep()
}

const fn is_round_trip_awake(work: Work) -> bool {
    matches!(work, Work::RoundTrip { asleep: false })
}

const fn is_asleep(work: Work) -> bool {
    work.is_asleep()
}

const fn is_stream(work: Work) -> bool {
    work.is_stream()
}

/// Remote ones copy large messages again and again: that is no use of them.
const fn is_for_network(work: Work) -> bool {
    matches!(
        work,
        Work::Stream { readers: 1, .. } | Work::RoundTrip { asleep: false }
    )
}

const fn is_small_stream(work: Work) -> bool {
    matches!(work, Work::Stream { len: 64, readers: 1 })
}

const ADAPTIVE: Wait = Wait::By(WaitStrategy::Adaptive);
const SPIN: Wait = Wait::By(WaitStrategy::Spin);

const WAYS: [Way; 11] = [
    Way {
        name: "Lapwing",
        settings: "A server as it is by default (16,384 slots, 64 KiB of arena or four messages), `publish` and `drain`.",
        publish: Publish::Copy,
        receive: Receive::Lossy,
        wait: ADAPTIVE,
        ring: Ring::Default,
        fits: is_awake,
    },
    Way {
        name: "Lapwing, polled",
        settings: "The same, but the reader calls `poll` again and again.",
        publish: Publish::Copy,
        receive: Receive::Lossy,
        wait: Wait::Not,
        ring: Ring::Default,
        fits: is_round_trip_awake,
    },
    Way {
        name: "Lapwing, in place",
        settings: "`loan` and `push_words`, for 64 B `push_typed`: made where it is read, in streams in batches of 64 KiB, with 65,536 slots, for \
                   64 B of 96 bytes; an arena of 4 MiB or four messages, `WaitStrategy::Spin` (several readers: `Adaptive`), `drain`.",
        publish: Publish::InPlace,
        receive: Receive::Lossy,
        wait: SPIN,
        ring: Ring::Cached,
        fits: is_awake,
    },
    Way {
        name: "Lapwing, in place, vast ring",
        settings: "The same with 1,048,576 slots and an arena of 64 MiB, which no cache holds: for processors that share none.",
        publish: Publish::InPlace,
        receive: Receive::Lossy,
        wait: SPIN,
        ring: Ring::Vast,
        fits: |work| matches!(work, Work::Stream { readers: 1, .. } | Work::Large { .. }),
    },
    Way {
        name: "Lapwing, batches",
        settings: "`batch().push` of 64 KiB at a time, 65,536 slots, for 64 B of 96 bytes, an arena of 4 MiB or four messages, `drain`.",
        publish: Publish::Batch,
        receive: Receive::Lossy,
        wait: ADAPTIVE,
        ring: Ring::Cached,
        fits: is_stream,
    },
    Way {
        name: "Lapwing, lossless",
        settings: "`--lossless block` and a `LosslessSubscriber`, `batch().loan` of 64 KiB at a time, 65,536 slots, for 64 B of 96 bytes, an \
                   arena of 4 MiB or four messages, `drain`.",
        publish: Publish::InPlace,
        receive: Receive::Lossless,
        wait: ADAPTIVE,
        ring: Ring::Cached,
        fits: is_stream,
    },
    Way {
        name: "Lapwing, held",
        settings: "`--lossless block` and the same publisher, read by a `BlockingSubscriber`, whose `drain` lends `&[u8]`, `WaitStrategy::Spin` (several readers: `Adaptive`).",
        publish: Publish::InPlace,
        receive: Receive::Held,
        wait: SPIN,
        ring: Ring::Cached,
        fits: |work| matches!(work, Work::Stream { .. } | Work::Large { .. }),
    },
    Way {
        name: "Lapwing, lossless, sixteen in one",
        settings: "As lossless, with sixteen values by `push_typed` in each `loan` of 1 KiB, read by `View::values`. Each value is checked, \
                   but they share a sequence, a time and a tag.",
        publish: Publish::Packed,
        receive: Receive::Packed,
        wait: ADAPTIVE,
        ring: Ring::Cached,
        fits: is_small_stream,
    },
    Way {
        name: "Lapwing, asleep",
        settings: "A server as it is by default, `WaitStrategy::Block`.",
        publish: Publish::Copy,
        receive: Receive::Lossy,
        wait: Wait::By(WaitStrategy::Block),
        ring: Ring::Default,
        fits: is_asleep,
    },
    Way {
        name: "Lapwing over TCP",
        settings: "A server without shared memory, 65,536 slots, batches in streams, a `RemoteSubscriber`, a yield after each poll that found nothing.",
        publish: Publish::Batch,
        receive: Receive::Remote { is_lossless: false },
        wait: Wait::Not,
        ring: Ring::Cached,
        fits: is_for_network,
    },
    Way {
        name: "Lapwing over TCP, lossless",
        settings: "The same with `--lossless block`.",
        publish: Publish::Batch,
        receive: Receive::Remote { is_lossless: true },
        wait: Wait::Not,
        ring: Ring::Cached,
        fits: |work| matches!(work, Work::Stream { readers: 1, .. }),
    },
];

pub fn peers() -> Vec<Box<dyn Entry>> {
    WAYS.map(|way| match way.receive {
        Receive::Lossy => boxed(Lapwing::<Lossy>::new(way)),
        Receive::Lossless => boxed(Lapwing::<Lossless>::new(way)),
        Receive::Packed => boxed(Lapwing::<Packed>::new(way)),
        Receive::Held => boxed(Lapwing::<Held>::new(way)),
        Receive::Remote { is_lossless: false } => boxed(Lapwing::<Remote<false>>::new(way)),
        Receive::Remote { is_lossless: true } => boxed(Lapwing::<Remote<true>>::new(way)),
    })
    .into()
}

/// One of the ways, read by an `S`.
struct Lapwing<S> {
    way: Way,
    subscriber: PhantomData<fn() -> S>,
}

impl<S> Lapwing<S> {
    const fn new(way: Way) -> Self {
        Self {
            way,
            subscriber: PhantomData,
        }
    }
}

impl Way {
    const fn is_lossless(&self) -> bool {
        matches!(
            self.receive,
            Receive::Lossless | Receive::Packed | Receive::Held | Receive::Remote { is_lossless: true }
        )
    }

    const fn is_remote(&self) -> bool {
        matches!(self.receive, Receive::Remote { .. })
    }

    /// What a reader does that found nothing: one of several does not keep the others from the processor that they share.
    fn wait_in(&self, work: Work) -> Wait {
        if self.wait == SPIN && work.readers() > 1 {
            ADAPTIVE
        } else {
            self.wait
        }
    }

    /// Bytes of the longest message.
    fn longest(&self, work: Work) -> usize {
        if self.publish == Publish::Packed {
            PACK_BYTES
        } else {
            work.len()
        }
    }

    /// Bytes of the arena: room for four messages at least.
    fn arena(&self, len: usize) -> u64 {
        self.ring.arena().max(4 * len as u64).next_power_of_two()
    }
}

impl<S: Subscribe> Peer for Lapwing<S> {
    type Sender = LapwingSender;
    type Receiver = S;

    fn about(&self) -> About {
        let way = &self.way;
        About {
            name: way.name.into(),
            version: version_of("lapwing"),
            by: if way.is_remote() { By::Network } else { By::Memory },
            is_lossless: way.is_lossless(),
            settings: way.settings.into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        (self.way.fits)(work)
    }

    fn sender(&self, link: &Link) -> Result<LapwingSender> {
        let Self { way, .. } = self;
        let mut options = ServerOptions::new("peer".parse()?);
        options.info_dir = link.directory.clone();
        if link.work.is_stream() {
            options.slots = way.ring.slots();
            options.slot_bytes = way.ring.slot_bytes(link.work.len()).unwrap_or(options.slot_bytes);
        }
        options.ring_bytes = way.arena(link.work.len());
        options.max_message_bytes = Some(way.longest(link.work) as u64);
        options.shared_memory = !way.is_remote();
        options.lossless = way.is_lossless().then_some(LosslessOffer {
            policy: LosslessPolicy::Block,
            max_subscribers: 16,
        });
        Ok(LapwingSender {
            server: Server::start(options)?,
            publish: way.publish,
            draft: Draft::new(link.work.len()),
        })
    }

    fn receiver(&self, link: &Link) -> Result<S> {
        let found = discovery::read(&link.path("peer.toml"), &Trust::default())?;
        S::open(&found, self.way.wait_in(link.work), link.work)
    }
}

pub struct LapwingSender {
    server: Server,
    publish: Publish,
    draft: Draft,
}

impl Sender for LapwingSender {
    #[inline]
    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce()) {
        let publisher = self.server.publisher();
        if matches!(self.publish, Publish::InPlace | Publish::Packed) {
            make(publisher.loan(len), sequence, len, made);
        } else {
            let message = self.draft.make(sequence, len);
            made();
            publisher.publish(message).expect("a ring with room for it");
        }
    }

    #[inline]
    fn send_many(&mut self, sequences: Range<u64>, len: usize) {
        if self.publish == Publish::Copy {
            return sequences.for_each(|sequence| self.send(sequence, len, || ()));
        }
        let mut batch = self.server.publisher().batch();
        if self.publish == Publish::Packed {
            for first in sequences.step_by(PACKED) {
                let mut loan = batch.loan(PACK_BYTES).expect("a ring with room for it");
                for sequence in first..first + PACKED as u64 {
                    loan.push_typed::<Small>(&[sequence; 8]).expect("a loan of as many");
                }
                loan.commit();
            }
            return;
        }
        if self.publish == Publish::InPlace {
            return sequences.for_each(|sequence| make(batch.loan(len), sequence, len, || ()));
        }
        for sequence in sequences {
            let message = self.draft.make(sequence, len);
            batch.push(0, message).expect("a ring with room for it");
        }
    }
}

/// Makes a message where it is to lie.
#[inline(always)]
fn make(loan: Result<Loan<'_>, PublishError>, sequence: u64, len: usize, made: impl FnOnce()) {
    let mut loan = loan.expect("a ring with room for it");
    if len == size_of::<Small>() {
        loan.push_typed::<Small>(&[sequence; 8]).expect("a loan of as many");
    } else {
        let words = (0..len / size_of::<u64>()).map(|_| sequence);
        loan.push_words(words).expect("a loan of as many");
    }
    made();
    loan.commit();
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

/// One kind of subscriber. Each is a type of its own, so that the loop around it is compiled for it alone, as in a program.
trait Subscribe: Receiver + Sized + 'static {
    fn open(found: &Found, wait: Wait, work: Work) -> Result<Self>;
}

struct Lossy {
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

struct Lossless(LosslessSubscriber);

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
struct Packed(Lossless);

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

struct Held {
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
struct Remote<const IS_LOSSLESS: bool>(RemoteSubscriber);

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
