//! The ring against a queue: whatever is published, given up, joined and polled in whatever order, in rings of all
//! shapes and at all ages, subscribers are told what a queue with the same rule of loss says.
//!
//! The queue keeps the newest messages, one fewer than there are slots while a slot is begun or holds the end, and of
//! the large ones those that lie in the newest arena's worth of words, less a sixteenth each time that one buries others which
//! takes no more than a 64th. It knows nothing of stamps or masks.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::*;
use crate::bell::Bell;
use crate::layout::{Geometry, Header};
use crate::publisher::Publisher;
use crate::ring::MAX_SEQUENCE;
use crate::segment::Owned;

/// Cases of one run; more with PROPTEST_CASES.
const CASES: u32 = 10_000;

/// What is wrong with the queue: to show that a wrong ring would be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    KeepsOneMessageMore,
    KeepsOneMessageFewer,
    BuriesOneWordTooMany,
    BuriesOneWordTooFew,
    BuriesNoMoreThanItMust,
    ForgetsThatOneWasBegun,
    GivesNoHeadStart,
}

#[derive(Debug)]
struct Letter {
    sequence: u64,
    payload: Vec<u8>,
    /// Where it begins among all the words that the arena ever held, if it is large.
    position: Option<u64>,
}

/// The simple model.
#[derive(Debug)]
struct Queue {
    flaw: Flaw,
    geometry: Geometry,
    letters: VecDeque<Letter>,
    next: u64,
    /// Words that the arena has held, and how many of them are buried.
    held: u64,
    buried: u64,
    closed: bool,
}

impl Queue {
    fn arena_words(&self) -> u64 {
        self.geometry.arena_bytes() as u64 / 8
    }

    /// Takes the slot of the next message, and forgets what lay in it.
    fn take_slot(&mut self) {
        let kept = match self.flaw {
            Flaw::KeepsOneMessageMore => self.geometry.slot_count(),
            Flaw::KeepsOneMessageFewer => self.geometry.slot_count() - 2,
            _ => self.geometry.slot_count() - 1,
        };
        let oldest = self.next.saturating_sub(kept);
        self.letters.retain(|letter| letter.sequence >= oldest);
    }

    /// Begins a message of up to `len` bytes. Returns its place in the arena, if it needs one.
    fn begin(&mut self, len: usize) -> Option<u64> {
        if self.flaw != Flaw::ForgetsThatOneWasBegun {
            self.take_slot();
        }
        if len <= self.geometry.inline_bytes() {
            return None;
        }
        let words = len.div_ceil(8) as u64;
        let left = self.arena_words() - self.held % self.arena_words();
        let position = self.held + if words > left { left } else { 0 };
        // Also if the message is given up: what was passed over stays so.
        self.held = position;
        let window = match self.flaw {
            Flaw::BuriesOneWordTooMany => self.arena_words() - 8,
            Flaw::BuriesOneWordTooFew => self.arena_words() + 8,
            _ => self.arena_words(),
        };
        let needed = (position + words).saturating_sub(window);
        if needed > self.buried {
            let is_short = words * 64 <= self.arena_words() && self.flaw != Flaw::BuriesNoMoreThanItMust;
            self.buried = needed + if is_short { self.arena_words() / 16 } else { 0 };
        }
        let buried = self.buried;
        self.letters
            .retain(|letter| letter.position.is_none_or(|position| position >= buried));
        Some(position)
    }

    fn commit(&mut self, position: Option<u64>, payload: Vec<u8>) {
        self.take_slot();
        if let Some(position) = position {
            self.held = (position + payload.len().div_ceil(8) as u64).div_ceil(8) * 8;
        }
        let sequence = self.next;
        self.letters.push_back(Letter {
            sequence,
            payload,
            position,
        });
        self.next += 1;
    }

    fn close(&mut self) {
        self.take_slot();
        self.closed = true;
    }

    /// The first that is kept from `since` on, or the next to come.
    fn oldest(&self, since: u64) -> u64 {
        let mut kept = self.letters.iter().map(|letter| letter.sequence);
        kept.find(|&sequence| sequence >= since).unwrap_or(self.next)
    }

    fn place_of(&self, join: Join) -> u64 {
        match join {
            Join::New => self.next,
            Join::Latest(count) => self.oldest(self.next.saturating_sub(count)),
            Join::Oldest => self.oldest(0),
            Join::Sequence(sequence) => sequence,
        }
    }

    /// Where a reader goes on that wanted `cursor`, which is lost.
    fn after_the_loss_of(&self, cursor: u64, seat: &Seat) -> u64 {
        if seat.on_lap == OnLap::Newest {
            return (self.next - 1).max(cursor + 1);
        }
        // Who was overtaken is given a quarter of the ring to get away; who came too late is not.
        let is_overtaken = cursor != seat.placed && self.flaw != Flaw::GivesNoHeadStart;
        let a_quarter_of = |all: u64| if is_overtaken { all / 4 } else { 0 };
        let slots = self.geometry.slot_count();
        let start = (cursor + 1).max(self.next.saturating_sub(slots - a_quarter_of(slots)));
        let safe = match self.buried {
            0 => 0,
            buried => buried + a_quarter_of(self.arena_words()),
        };
        let is_safe = |letter: &&Letter| letter.position.is_none_or(|position| position >= safe);
        let mut kept = self.letters.iter().filter(|letter| letter.sequence >= start);
        kept.clone()
            .find(is_safe)
            .or_else(|| kept.next_back().filter(|newest| newest.sequence + 1 == self.next))
            .map_or(start.max(self.next), |letter| letter.sequence)
    }

    /// What a poll must tell, and where it leaves the reader.
    fn poll(&self, cursor: u64, seat: &Seat) -> Poll<Vec<u8>> {
        if cursor >= self.next {
            let has_ended = self.closed && cursor == self.next;
            return if has_ended { Poll::Ended } else { Poll::Empty };
        }
        match self.letters.iter().find(|letter| letter.sequence == cursor) {
            Some(letter) => Poll::Message(crate::ring::Received {
                sequence: cursor,
                timestamp_ns: 0,
                tag: !cursor,
                len: letter.payload.len(),
                value: letter.payload.clone(),
            }),
            None => Poll::Lapped {
                first: cursor,
                missed: self.after_the_loss_of(cursor, seat) - cursor,
            },
        }
    }
}

/// What is known of a subscriber.
#[derive(Debug)]
struct Seat {
    on_lap: OnLap,
    placed: u64,
    received: u64,
    missed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    slots: u64,
    slot_bytes: u64,
    arena_bytes: u64,
    longest: Option<u64>,
    sequence: u64,
    position: u64,
}

/// A length, as a share of what there is.
#[derive(Debug, Clone, Copy)]
enum Length {
    Inline(u16),
    AtTheBorder(u8),
    Any(u16),
    Longest,
}

impl Length {
    fn of(self, geometry: &Geometry) -> usize {
        let share = |share: u16, all: usize| all * usize::from(share) / usize::from(u16::MAX);
        let len = match self {
            Self::Inline(part) => share(part, geometry.inline_bytes()),
            Self::AtTheBorder(more) => geometry.inline_bytes() + usize::from(more),
            Self::Any(part) => share(part, geometry.max_message_bytes()),
            Self::Longest => geometry.max_message_bytes(),
        };
        len.min(geometry.max_message_bytes())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish(Length),
    Loan { len: Length, written: u16, is_kept: bool },
    Batch(Vec<Length>),
    Close,
    Rejoin(usize, Place),
    Poll(usize),
    Receive(usize),
    Drain(usize, u8),
}

/// A join, as far from the head as that has come.
#[derive(Debug, Clone, Copy)]
enum Place {
    New,
    Latest(u8),
    Oldest,
    /// So many behind what comes next, or ahead of it.
    Behind(u8),
    Ahead(u8),
}

const READERS: usize = 3;

fn shape() -> impl Strategy<Value = Shape> {
    let sequence = prop_oneof![Just(0), 0..100_u64, Just(1 << 31), Just(MAX_SEQUENCE - 20_000)];
    let position = prop_oneof![
        Just(0),
        (0..2000_u64).prop_map(|line| line * 8),
        Just(1 << 40),
        Just((1 << 62) - 64)
    ];
    let longest = prop::option::of(1..=u64::from(u16::MAX));
    let arena = prop_oneof![6 => Just(0), 1 => Just(1), 1 => Just(2)];
    (0..6_u32, 0..4_usize, arena, longest, sequence, position).prop_map(
        |(slots, slot_bytes, arena, longest, sequence, position)| {
            let arena_bytes = 4096 << arena;
            Shape {
                slots: 2 << slots,
                slot_bytes: [64, 96, 128, 256][slot_bytes],
                arena_bytes,
                longest: longest.map(|share| 1 + (arena_bytes - 1) * share / u64::from(u16::MAX)),
                sequence,
                position,
            }
        },
    )
}

fn length() -> impl Strategy<Value = Length> {
    prop_oneof![
        4 => any::<u16>().prop_map(Length::Inline),
        1 => (0..10_u8).prop_map(Length::AtTheBorder),
        3 => any::<u16>().prop_map(Length::Any),
        1 => Just(Length::Longest),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let place = prop_oneof![
        Just(Place::New),
        any::<u8>().prop_map(Place::Latest),
        Just(Place::Oldest),
        any::<u8>().prop_map(Place::Behind),
        (0..4_u8).prop_map(Place::Ahead),
    ];
    prop_oneof![
        60 => length().prop_map(Step::Publish),
        20 => (length(), any::<u16>(), any::<bool>())
            .prop_map(|(len, written, is_kept)| Step::Loan { len, written, is_kept }),
        20 => prop::collection::vec(length(), 0..12).prop_map(Step::Batch),
        1 => Just(Step::Close),
        15 => (0..READERS, place).prop_map(|(reader, place)| Step::Rejoin(reader, place)),
        60 => (0..READERS).prop_map(Step::Poll),
        10 => (0..READERS).prop_map(Step::Receive),
        20 => (0..READERS, 0..20_u8).prop_map(|(reader, limit)| Step::Drain(reader, limit)),
    ]
}

/// A ring, its queue, and those who read.
struct Stage {
    publisher: Publisher,
    queue: Queue,
    subscribers: Vec<(Subscriber, Seat)>,
    first: u64,
}

impl Stage {
    fn new(shape: Shape, flaw: Flaw) -> Self {
        let geometry = Geometry::new(shape.slots, shape.slot_bytes, shape.arena_bytes, shape.longest).unwrap();
        let header = Header::new(&geometry, Incarnation::from_bytes([1; 16]), "queue", 0, 10_000_000_000);
        let owned = Owned::private(header, geometry).unwrap();
        let segment = owned.share();
        let gate = Arc::new(crate::gate::Gate::new(&geometry, None));
        let mut publisher = Publisher::new(owned, Arc::new(Bell::new()), gate);
        publisher.go_on_from(shape.sequence, shape.position);
        let seat = |on_lap| {
            let subscriber = Subscriber::on(segment.clone(), Join::New).with_on_lap(on_lap);
            let seat = Seat {
                on_lap,
                placed: shape.sequence,
                received: 0,
                missed: 0,
            };
            (subscriber, seat)
        };
        Self {
            publisher,
            queue: Queue {
                flaw,
                geometry,
                letters: VecDeque::new(),
                next: shape.sequence,
                held: shape.position,
                buried: 0,
                closed: false,
            },
            subscribers: vec![seat(OnLap::Retained), seat(OnLap::Newest), seat(OnLap::Retained)],
            first: shape.sequence,
        }
    }

    /// What the next message holds.
    fn payload(&self, len: usize) -> Vec<u8> {
        // What no other message holds, in its first bytes and its last.
        let mark = self.queue.next.to_ne_bytes();
        let mut bytes = vec![self.queue.next as u8; len];
        let marked = len.min(mark.len());
        bytes[..marked].copy_from_slice(&mark[..marked]);
        bytes[len - marked..].copy_from_slice(&mark[..marked]);
        bytes
    }

    fn publish(&mut self, len: Length) {
        let payload = self.payload(len.of(&self.queue.geometry));
        let sequence = self.publisher.publish_tagged(!self.queue.next, &payload).unwrap();
        assert_eq!(sequence, self.queue.next);
        let position = self.queue.begin(payload.len());
        self.queue.commit(position, payload);
    }

    fn lend(&mut self, len: Length, written: u16, is_kept: bool) {
        let room = len.of(&self.queue.geometry);
        let payload = self.payload(room * usize::from(written) / usize::from(u16::MAX));
        let tag = !self.queue.next;
        let mut loan = self.publisher.loan(room).unwrap();
        // In two pieces, which need not end where words do.
        let (front, back) = payload.split_at(payload.len() / 3);
        loan.push(front).unwrap();
        loan.push(back).unwrap();
        let position = self.queue.begin(room);
        if is_kept {
            loan.commit_tagged(tag);
            self.queue.commit(position, payload);
        }
    }

    fn publish_batch(&mut self, lens: &[Length]) {
        let lens: Vec<_> = lens.iter().map(|len| len.of(&self.queue.geometry)).collect();
        let mut payloads = Vec::new();
        for len in lens {
            let payload = self.payload(len);
            let position = self.queue.begin(len);
            self.queue.commit(position, payload.clone());
            payloads.push((self.queue.next - 1, payload));
        }
        let mut batch = self.publisher.batch();
        for (sequence, payload) in payloads {
            if sequence.is_multiple_of(2) {
                assert_eq!(batch.push(!sequence, &payload), Ok(sequence));
            } else {
                let mut loan = batch.loan(payload.len()).unwrap();
                loan.push(&payload).unwrap();
                assert_eq!(loan.commit_tagged(!sequence), sequence);
            }
        }
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let has_ended = self.queue.closed;
        match step {
            Step::Publish(_) | Step::Loan { .. } | Step::Batch(_) | Step::Close if has_ended => {}
            Step::Publish(len) => self.publish(*len),
            Step::Loan { len, written, is_kept } => self.lend(*len, *written, *is_kept),
            Step::Batch(lens) => self.publish_batch(lens),
            Step::Close => {
                self.publisher.end();
                self.queue.close();
            }
            Step::Rejoin(reader, place) => self.rejoin(*reader, *place)?,
            Step::Poll(reader) => drop(self.poll(*reader)?),
            Step::Receive(reader) => self.receive(*reader)?,
            Step::Drain(reader, limit) => self.drain(*reader, *limit)?,
        }
        let (subscriber, _) = &self.subscribers[0];
        let head = subscriber.head();
        prop_assert_eq!((head.next, head.closed), (self.queue.next, self.queue.closed));
        prop_assert_eq!(subscriber.oldest(), self.queue.oldest(0));
        Ok(())
    }

    fn rejoin(&mut self, reader: usize, place: Place) -> Result<(), TestCaseError> {
        let next = self.queue.next;
        let join = match place {
            Place::New => Join::New,
            Place::Latest(count) => Join::Latest(count.into()),
            Place::Oldest => Join::Oldest,
            Place::Behind(count) => Join::Sequence(next.saturating_sub(count.into()).max(self.first)),
            Place::Ahead(count) => Join::Sequence(next + u64::from(count)),
        };
        let (subscriber, seat) = &mut self.subscribers[reader];
        subscriber.rejoin(join);
        prop_assert_eq!(subscriber.cursor(), self.queue.place_of(join));
        *seat = Seat {
            on_lap: seat.on_lap,
            placed: subscriber.cursor(),
            received: 0,
            missed: 0,
        };
        Ok(())
    }

    /// Compares an outcome with what the queue says, and enters it in the account.
    fn check(queue: &Queue, seat: &mut Seat, cursor: u64, mut outcome: Poll<Vec<u8>>) -> Result<(), TestCaseError> {
        if let Poll::Message(received) = &mut outcome {
            received.timestamp_ns = 0;
        }
        prop_assert_eq!(&outcome, &queue.poll(cursor, seat));
        match outcome {
            Poll::Message(_) => seat.received += 1,
            Poll::Lapped { missed, .. } => seat.missed += missed,
            _ => {}
        }
        Ok(())
    }

    /// Polls once. Returns whether there may be more.
    fn poll(&mut self, reader: usize) -> Result<bool, TestCaseError> {
        let (subscriber, seat) = &mut self.subscribers[reader];
        let cursor = subscriber.cursor();
        let outcome = subscriber.poll(|view| view.to_vec());
        let is_over = matches!(outcome, Poll::Empty | Poll::Ended);
        Self::check(&self.queue, seat, cursor, outcome)?;
        prop_assert_eq!(subscriber.cursor(), seat.placed + seat.received + seat.missed);
        Ok(!is_over)
    }

    fn receive(&mut self, reader: usize) -> Result<(), TestCaseError> {
        let (subscriber, seat) = &mut self.subscribers[reader];
        let cursor = subscriber.cursor();
        let mut outcome = subscriber.receive(Duration::ZERO, |view| view.to_vec());
        // Only who waits is told that nothing will come so far ahead.
        if self.queue.closed && cursor > self.queue.next {
            prop_assert_eq!(&outcome, &Poll::Ended);
            outcome = Poll::Empty;
        }
        Self::check(&self.queue, seat, cursor, outcome)
    }

    fn drain(&mut self, reader: usize, limit: u8) -> Result<(), TestCaseError> {
        let (subscriber, seat) = &mut self.subscribers[reader];
        let mut outcomes = Vec::new();
        let mut cursor = subscriber.cursor();
        let messages = subscriber.drain(limit.into(), |view| view.to_vec(), |outcome| outcomes.push(outcome));
        let (told, received) = (outcomes.len(), seat.received);
        for outcome in outcomes {
            Self::check(&self.queue, seat, cursor, outcome)?;
            cursor = seat.placed + seat.received + seat.missed;
        }
        prop_assert_eq!(subscriber.cursor(), cursor);
        prop_assert_eq!(messages as u64, seat.received - received);
        // It stopped at its limit or because there was nothing more.
        prop_assert!(told == usize::from(limit) || cursor >= self.queue.next);
        Ok(())
    }

    /// Reads to the end with every subscriber: each message was received or told as missed.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for reader in 0..READERS {
            while self.poll(reader)? {}
            let (subscriber, seat) = &self.subscribers[reader];
            let published = self.queue.next.saturating_sub(seat.placed);
            prop_assert_eq!(seat.received + seat.missed, published);
            prop_assert_eq!(subscriber.cursor(), self.queue.next.max(seat.placed));
        }
        Ok(())
    }
}

fn run(shape: Shape, steps: &[Step], flaw: Flaw) -> Result<(), TestCaseError> {
    let mut stage = Stage::new(shape, flaw);
    for step in steps {
        stage.take(step)?;
    }
    stage.settle()
}

fn runner(cases: u32) -> TestRunner {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::XorShift))
}

fn cases() -> impl Strategy<Value = (Shape, Vec<Step>)> {
    (shape(), prop::collection::vec(step(), 1..60))
}

#[test]
fn ring_tells_what_a_queue_with_the_same_rule_of_loss_says() {
    let start = Instant::now();
    let config = ProptestConfig::default();
    let mut runner = match std::env::var_os("PROPTEST_CASES") {
        // Others each time.
        Some(_) => TestRunner::new(ProptestConfig {
            failure_persistence: None,
            rng_algorithm: RngAlgorithm::XorShift,
            ..config
        }),
        None => runner(CASES),
    };

    let outcome = runner.run(&cases(), |(shape, steps)| run(shape, &steps, Flaw::None));

    println!("{} cases in {:?}", runner.config().cases, start.elapsed());
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn queue_with_another_rule_of_loss_is_noticed() {
    for flaw in [
        Flaw::KeepsOneMessageMore,
        Flaw::KeepsOneMessageFewer,
        Flaw::BuriesOneWordTooMany,
        Flaw::BuriesOneWordTooFew,
        Flaw::BuriesNoMoreThanItMust,
        Flaw::ForgetsThatOneWasBegun,
        Flaw::GivesNoHeadStart,
    ] {
        let outcome = runner(1000).run(&cases(), |(shape, steps)| run(shape, &steps, flaw));

        assert!(matches!(outcome, Err(TestError::Fail(..))), "{flaw:?} goes unnoticed");
    }
}
