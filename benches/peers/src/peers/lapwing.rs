//! Lapwing itself, in several settings.

use std::marker::PhantomData;
use std::ops::Range;

use ::lapwing::discovery::{self, Trust};
use ::lapwing::{Loan, LosslessOffer, LosslessPolicy, PublishError, Server, ServerOptions, WaitStrategy};
use anyhow::Result;

use super::boxed;
use crate::message::{Draft, Small};
use crate::peer::{About, By, Entry, Link, Peer, Sender, version_of};
use crate::work::Work;

mod subscribers;

use subscribers::{Held, Lossless, Lossy, Packed, Remote, Subscribe};

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
        settings: "A server as it is by default (16,384 slots, 64 KiB of arena or four messages), `publish`; `drain` in streams, else `poll`.",
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
                   64 B of 96 bytes; an arena of 4 MiB or four messages, `WaitStrategy::Spin` (several readers: `Adaptive`), `drain` or `poll` likewise.",
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
