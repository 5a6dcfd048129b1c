//! The ring under loom: every interleaving of a publisher and a reader, every value that the memory model lets a load
//! see. Payloads are words that all hold the message's sequence, so that a torn message shows.
//!
//! Run by `.ci/loom`. Each ordering and each step of the protocol is needed: `.ci/mutants` takes them away one by one
//! and expects one of these models to fail.

use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::futex_model::Futex;
use crate::sync::AtomicU64;
use crate::words::WORD_BYTES;

struct Ring {
    memory: Vec<AtomicU64>,
    geometry: Geometry,
}

impl Ring {
    fn new(slot_count: u64, arena_bytes: u64) -> Arc<Self> {
        let geometry = Geometry::new(slot_count, 64, arena_bytes, Some(arena_bytes)).unwrap();
        let memory = (0..geometry.segment_bytes() / WORD_BYTES)
            .map(|_| AtomicU64::new(0))
            .collect();
        Arc::new(Self { memory, geometry })
    }

    fn words(&self) -> Words<'_> {
        Words::new(&self.memory)
    }
}

/// Publishes the next message: `words` words that all hold its sequence, which also is its timestamp and tag.
fn publish(ring: &Ring, writer: &mut Writer, words: usize) {
    let sequence = writer.next();
    let payload: Vec<u8> = std::iter::repeat_n(sequence.to_ne_bytes(), words).flatten().collect();
    writer.publish(&ring.memory, &payload, || sequence, sequence);
}

/// Polls once; checks that what came is whole and that the account is exact.
fn poll(ring: &Ring, reader: &mut Reader, words: usize) -> Poll<Vec<u64>> {
    let wanted = reader.cursor();
    let outcome = reader.poll(ring.words(), |view| view.words().iter().collect::<Vec<_>>());
    match &outcome {
        Poll::Message(received) => {
            assert_eq!(received.sequence, wanted);
            assert_eq!(
                (received.timestamp_ns, received.tag, received.len),
                (wanted, wanted, words * 8)
            );
            assert!(
                received.value.len() == words && received.value.iter().all(|&word| word == wanted),
                "torn"
            );
            assert_eq!(reader.cursor(), wanted + 1);
        }
        Poll::Lapped { first, missed } => {
            assert_eq!((*first, wanted + missed), (wanted, reader.cursor()));
            assert!(*missed > 0);
        }
        Poll::Empty | Poll::Ended => assert_eq!(reader.cursor(), wanted),
        Poll::Dead | Poll::Corrupt { .. } => panic!("{outcome:?}"),
    }
    outcome
}

/// A publisher and a reader, and how far they go.
struct Race {
    slot_count: u64,
    arena_bytes: u64,
    /// Of every message.
    words: usize,
    /// Messages that are there already.
    before: u64,
    /// Where the reader begins.
    from: u64,
    /// Messages that are written meanwhile.
    during: u64,
    polls: usize,
    /// All interleavings, or those with so many preemptions at most.
    preemptions: Option<usize>,
}

/// A reader that begins at message 0.
const fn race(slot_count: u64, arena_bytes: u64, words: usize, before: u64, during: u64, polls: usize) -> Race {
    Race {
        slot_count,
        arena_bytes,
        words,
        before,
        from: 0,
        during,
        polls,
        preemptions: None,
    }
}

impl Race {
    fn run(self) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = self.preemptions;
        model.check(move || self.once());
    }

    fn once(&self) {
        let Self { words, during, .. } = *self;
        let ring = Ring::new(self.slot_count, self.arena_bytes);
        let mut writer = Writer::new(ring.geometry);
        (0..self.before).for_each(|_| publish(&ring, &mut writer, words));
        let publisher = thread::spawn({
            let ring = ring.clone();
            move || (0..during).for_each(|_| publish(&ring, &mut writer, words))
        });

        let mut reader = Reader::new(ring.geometry, self.from);
        for _ in 0..self.polls {
            let _ = poll(&ring, &mut reader, words);
        }
        publisher.join().unwrap();

        // All is visible now: the rest is there or missed, and the account closes.
        while !matches!(poll(&ring, &mut reader, words), Poll::Empty) {}
        assert_eq!(reader.cursor(), self.before + during);
    }
}

#[test]
fn first_message_is_seen_whole_or_not_at_all() {
    race(2, 64, 2, 0, 1, 2).run();
}

#[test]
fn reused_slot_never_gives_a_torn_message() {
    race(2, 64, 2, 2, 1, 1).run();
}

#[test]
fn slot_reused_twice_never_gives_a_torn_message() {
    race(2, 64, 1, 1, 2, 2).run();
}

#[test]
fn reused_arena_never_gives_a_torn_message() {
    // Two payloads of 5 words fill the arena; four slots, so that the slot of a buried message stands.
    race(4, 128, 5, 2, 1, 1).run();
}

#[test]
fn arena_that_was_given_up_before_never_gives_a_torn_message() {
    // The floor that message 3 needs was stored for message 2 already. Message 3 overwrites the words of message 1.
    Race {
        from: 1,
        ..race(4, 128, 5, 2, 2, 1)
    }
    .run();
}

#[test]
fn reused_slot_of_a_large_message_never_gives_a_torn_one() {
    // Two slots, and room for more than three payloads of 5 words: the stamp alone tells that the slot was reused. All
    // interleavings take more than a minute.
    Race {
        preemptions: Some(3),
        ..race(2, 256, 5, 2, 1, 1)
    }
    .run();
}

#[test]
fn arena_that_wraps_never_gives_a_torn_message() {
    race(4, 128, 5, 1, 2, 2).run();
}

#[test]
fn end_is_seen_only_after_every_message() {
    loom::model(|| {
        let ring = Ring::new(4, 64);
        let mut writer = Writer::new(ring.geometry);
        let publisher = thread::spawn({
            let ring = ring.clone();
            move || {
                publish(&ring, &mut writer, 1);
                publish(&ring, &mut writer, 1);
                writer.close(&ring.memory);
            }
        });

        let mut reader = Reader::new(ring.geometry, 0);
        for _ in 0..3 {
            if poll(&ring, &mut reader, 1) == Poll::Ended {
                assert_eq!(reader.cursor(), 2);
            }
        }
        publisher.join().unwrap();
        assert_eq!(head(ring.words()), Head { next: 2, closed: true });
    });
}

#[test]
fn oldest_is_readable_or_was_overwritten_meanwhile() {
    loom::model(|| {
        let ring = Ring::new(2, 64);
        let mut writer = Writer::new(ring.geometry);
        (0..2).for_each(|_| publish(&ring, &mut writer, 1));
        let publisher = thread::spawn({
            let ring = ring.clone();
            move || publish(&ring, &mut writer, 1)
        });

        let start = oldest(&ring.geometry, ring.words(), 0);
        let mut reader = Reader::new(ring.geometry, start);
        let outcome = poll(&ring, &mut reader, 1);
        publisher.join().unwrap();

        assert!(start <= 2);
        if outcome == Poll::Empty {
            assert_eq!(start, 2);
        }
    });
}

#[test]
fn message_behind_a_head_that_was_seen_is_not_taken_for_gone() {
    loom::model(|| {
        let ring = Ring::new(2, 64);
        let mut writer = Writer::new(ring.geometry);
        let publisher = thread::spawn({
            let ring = ring.clone();
            move || publish(&ring, &mut writer, 1)
        });

        // Nothing is ever overwritten here: whichever head it sees, the oldest message is the first.
        assert_eq!(oldest(&ring.geometry, ring.words(), 0), 0);
        publisher.join().unwrap();
    });
}

#[test]
fn message_that_is_there_is_seen_whole() {
    loom::model(|| {
        let ring = Ring::new(2, 64);
        let mut writer = Writer::new(ring.geometry);
        let publisher = thread::spawn({
            let ring = ring.clone();
            move || writer.publish(&ring.memory, &1_u64.to_ne_bytes(), || 0, 0)
        });

        if Reader::new(ring.geometry, 0).is_there(ring.words(), 0) {
            assert_eq!(ring.words().load(ring.geometry.slot_at(0) + BODY), 1);
        }
        publisher.join().unwrap();
    });
}

/// A reader sleeps until the publisher has done its `last` thing and wakes it once. A wake that is lost is a deadlock,
/// which loom notices.
fn sleep_through(last: impl Fn(&Ring, &mut Writer) + Send + Sync + Copy + 'static) -> impl Fn() + Send + Sync {
    move || {
        let ring = Ring::new(2, 64);
        let futex = Arc::new(Futex::default());
        let mut writer = Writer::new(ring.geometry);
        let publisher = thread::spawn({
            let (ring, futex) = (ring.clone(), futex.clone());
            move || {
                last(&ring, &mut writer);
                futex.wake();
            }
        });

        let reader = Reader::new(ring.geometry, 0);
        while let Some(seen) = reader.sleep_word(ring.words()) {
            futex.wait(&ring.memory[HEAD_WORD], seen);
        }
        publisher.join().unwrap();
    }
}

#[test]
fn sleeper_is_woken_by_a_message() {
    loom::model(sleep_through(|ring, writer| publish(ring, writer, 1)));
}

#[test]
fn sleeper_is_woken_by_the_end() {
    loom::model(sleep_through(|ring, writer| writer.close(&ring.memory)));
}

#[test]
fn sleeper_gets_all_of_a_batch_that_makes_one_wake() {
    loom::model(|| {
        let ring = Ring::new(2, 64);
        let futex = Arc::new(Futex::default());
        let mut writer = Writer::new(ring.geometry);
        let publisher = thread::spawn({
            let (ring, futex) = (ring.clone(), futex.clone());
            move || {
                publish(&ring, &mut writer, 1);
                publish(&ring, &mut writer, 1);
                futex.wake();
            }
        });

        let mut reader = Reader::new(ring.geometry, 0);
        while reader.cursor() < 2 {
            if let Some(seen) = reader.sleep_word(ring.words()) {
                futex.wait(&ring.memory[HEAD_WORD], seen);
            } else {
                assert!(matches!(poll(&ring, &mut reader, 1), Poll::Message(_)));
            }
        }
        publisher.join().unwrap();
    });
}

#[test]
fn newer_length_with_an_older_position_is_a_lap() {
    loom::model(|| {
        let ring = Ring::new(2, 128);
        let mut writer = Writer::new(ring.geometry);
        // As a position, this leaves no room for 5 words before the arena's end.
        writer.publish(&ring.memory, &15_u64.to_ne_bytes(), || 0, 0);
        publish(&ring, &mut writer, 1);
        let publisher = thread::spawn({
            let ring = ring.clone();
            move || publish(&ring, &mut writer, 5)
        });

        let outcome = Reader::new(ring.geometry, 0).poll(ring.words(), |view| view.words().iter().collect::<Vec<_>>());
        publisher.join().unwrap();

        match outcome {
            Poll::Message(received) => assert_eq!(received.value, [15]),
            outcome => assert!(matches!(outcome, Poll::Lapped { first: 0, .. }), "{outcome:?}"),
        }
    });
}
