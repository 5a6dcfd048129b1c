//! The gate under loom. Beside each slot of a real ring lies a plain cell, which the publisher writes and a lossless
//! subscriber reads without any check: where the gate fails to keep the two apart, loom sees a data race or a wrong value.
//! A wake that is lost is a deadlock.

use loom::cell::UnsafeCell;
use loom::thread;

use super::*;
use crate::futex_model::Futex;
use crate::layout::Geometry;
use crate::ring::{self, Poll, Reader, Writer};
use crate::sync::fence;
use crate::words::{WORD_BYTES, Words};

/// Bytes of a payload in its slot.
const SMALL: usize = 8;
/// Bytes of a payload that takes all of the arena.
const LARGE: usize = 64;

struct Stage {
    memory: Vec<AtomicU64>,
    geometry: Geometry,
    /// Bytes of each payload.
    len: usize,
    /// What the messages say, as bytes that are lent would: one for each place that a payload can have.
    cells: Vec<UnsafeCell<u64>>,
    gate: Arc<Gate>,
    futex: Futex,
}

impl Stage {
    fn new(policy: LosslessPolicy, slots: u64, len: usize) -> Arc<Self> {
        let geometry = Geometry::new(slots, 64, LARGE as u64, Some(LARGE as u64)).unwrap();
        let memory = (0..geometry.segment_bytes() / WORD_BYTES)
            .map(|_| AtomicU64::new(0))
            .collect();
        let offer = LosslessOffer {
            policy,
            max_subscribers: 2,
        };
        Arc::new(Self {
            memory,
            geometry,
            len,
            cells: (0..slots).map(|_| UnsafeCell::new(0)).collect(),
            gate: Arc::new(Gate::new(&geometry, Some(offer))),
            futex: Futex::default(),
        })
    }

    fn words(&self) -> Words<'_> {
        Words::new(&self.memory)
    }

    fn cell(&self, sequence: u64) -> &UnsafeCell<u64> {
        let places = if self.len == LARGE {
            1
        } else {
            self.geometry.slot_count()
        };
        &self.cells[(sequence % places) as usize]
    }

    fn claim_at(&self, first: u64) -> Arc<Claim> {
        let claim = Arc::new(Claim::private(String::new()));
        let joined = self.gate.join(&claim, || fence(Ordering::SeqCst), || first);
        assert_eq!(joined, Ok(first));
        claim
    }

    /// Reads the cell of a message that must not be overwritten meanwhile.
    fn read_unchecked(&self, sequence: u64) {
        // SAFETY: loom checks that nobody writes it at the same time: that is what is modelled.
        let value = self.cell(sequence).with(|cell| unsafe { *cell });
        assert_eq!(value, sequence, "overwritten");
    }

    fn advance(&self, claim: &Claim, next: u64) {
        claim.words().advance(next, true, || self.futex.wake());
    }
}

/// Publishes as the publisher does, and sleeps for want of room.
fn publish(stage: &Stage, writer: &mut Writer, keeper: &mut Gatekeeper) {
    let sequence = writer.next();
    if !stage.gate.lets_pass(stage.len) {
        let floor = writer.floor_for(stage.len);
        let wanted = Wanted { sequence, floor };
        let first_large = |since| writer.first_large(&stage.memory, since);
        while let Err((claim, seen)) = keeper.admit(wanted, first_large, Instant::now) {
            claim.words().prepare_to_wait(|| fence(Ordering::SeqCst));
            stage.futex.wait(claim.words().word(), seen);
            claim.words().waited();
        }
    }
    let place = writer.begin(&stage.memory, stage.len);
    // SAFETY: as in `read_unchecked`.
    stage.cell(sequence).with_mut(|cell| unsafe { *cell = sequence });
    stage.memory[place.start].store(sequence, Ordering::Relaxed);
    writer.commit(&stage.memory, place, stage.len, sequence, sequence);
}

/// Lets a publisher publish `before` messages, then `during` more beside `subscriber`. Two slots; payloads lie in them.
fn race(
    policy: LosslessPolicy,
    (before, during): (u64, u64),
    claimed: Option<u64>,
    subscriber: fn(&Stage, Option<Arc<Claim>>),
) {
    race_on((policy, 2, SMALL), (before, during), claimed, subscriber);
}

fn race_on(
    (policy, slots, len): (LosslessPolicy, u64, usize),
    (before, during): (u64, u64),
    claimed: Option<u64>,
    subscriber: fn(&Stage, Option<Arc<Claim>>),
) {
    let mut model = loom::model::Builder::new();
    // All interleavings with up to five preemptions; a broken gate takes two of them to show.
    model.preemption_bound = Some(5);
    model.check(move || {
        let stage = Stage::new(policy, slots, len);
        let mut writer = Writer::new(stage.geometry);
        let mut keeper = Gatekeeper::new(stage.gate.clone());
        (0..before).for_each(|_| publish(&stage, &mut writer, &mut keeper));
        let claim = claimed.map(|first| stage.claim_at(first));
        let publisher = thread::spawn({
            let stage = stage.clone();
            move || (0..during).for_each(|_| publish(&stage, &mut writer, &mut keeper))
        });
        subscriber(&stage, claim);
        publisher.join().unwrap();
    });
}

#[test]
fn claimed_message_is_not_overwritten_before_it_was_read() {
    // Message 2 takes the slot of message 0, and may do so when both that there are were read.
    race(LosslessPolicy::Block, (2, 1), Some(0), |stage, claim| {
        let claim = claim.unwrap();
        let mut reader = Reader::new(stage.geometry, 0);
        for sequence in 0..2 {
            let outcome = reader.poll(stage.words(), |_| stage.read_unchecked(sequence));
            assert!(matches!(outcome, Poll::Message(_)), "a claimed message is gone");
            stage.advance(&claim, sequence + 1);
        }
    });
}

#[test]
fn claimed_messages_that_are_given_back_at_once_are_not_overwritten_before_they_were_read() {
    // As above, with one store to the cursor: no barrier stands between it and the last look at either message.
    race(LosslessPolicy::Block, (2, 1), Some(0), |stage, claim| {
        let mut reader = Reader::new(stage.geometry, 0);
        for sequence in 0..2 {
            let outcome = reader.poll(stage.words(), |_| stage.read_unchecked(sequence));
            assert!(matches!(outcome, Poll::Message(_)), "a claimed message is gone");
        }
        stage.advance(&claim.unwrap(), 2);
    });
}

#[test]
fn publisher_without_room_is_woken_by_a_cursor_that_moves() {
    race(LosslessPolicy::Block, (1, 1), Some(0), |stage, claim| {
        stage.advance(&claim.unwrap(), 1);
    });
}

#[test]
fn publisher_without_room_is_woken_by_a_cursor_that_moves_with_a_whole_barrier_of_its_own() {
    race(LosslessPolicy::Block, (1, 1), Some(0), |stage, claim| {
        claim.unwrap().words().advance(1, false, || stage.futex.wake());
    });
}

#[test]
fn publisher_without_room_is_woken_by_a_subscriber_that_leaves() {
    race(LosslessPolicy::Block, (1, 1), Some(0), |stage, claim| {
        stage.gate.leave(&claim.unwrap(), || stage.futex.wake());
    });
}

/// Joins as the service thread does for somebody who wants messages from `first` on. Returns the claim, where it begins,
/// and the message before which all may still be overwritten.
fn join(stage: &Stage, first: impl Fn() -> u64) -> (Arc<Claim>, u64, u64) {
    let claim = Arc::new(Claim::private(String::new()));
    let first = stage.gate.join(&claim, || fence(Ordering::SeqCst), first).unwrap();
    let live = ring::head(stage.words()).next;
    (claim, first, live)
}

#[test]
fn nothing_is_lost_from_the_message_on_that_was_next_when_the_claim_was_made() {
    race(LosslessPolicy::Block, (0, 3), None, |stage, _| {
        let (claim, first, live) = join(stage, || ring::head(stage.words()).next);
        let mut reader = Reader::new(stage.geometry, first.max(live));
        match reader.poll(stage.words(), |view| stage.read_unchecked(view.sequence())) {
            Poll::Message(_) | Poll::Empty => {}
            other => panic!("{other:?}"),
        }
        stage.gate.leave(&claim, || stage.futex.wake());
    });
}

#[test]
fn message_from_before_the_claim_is_not_overwritten_once_the_next_is_there() {
    // Message 2 takes the slot of message 0.
    race(LosslessPolicy::Block, (1, 2), None, read_from_before_the_claim);
}

#[test]
fn arena_from_before_the_claim_is_not_overwritten_once_the_next_is_there() {
    // Message 1 takes the arena from message 0, which keeps its slot.
    let policy = LosslessPolicy::Block;
    race_on((policy, 4, LARGE), (1, 1), None, read_from_before_the_claim);
}

#[test]
fn message_that_is_not_claimed_is_not_taken_for_safe_once_the_next_is_there() {
    // Message 4 takes the slot of message 0, for which there is room: the first that is claimed is 2.
    race_on((LosslessPolicy::Block, 4, SMALL), (2, 3), Some(2), |stage, claim| {
        read_one(stage, &claim.unwrap(), Reader::new(stage.geometry, 0), (2, 2));
    });
}

fn read_from_before_the_claim(stage: &Stage, _: Option<Arc<Claim>>) {
    let (claim, first, live) = join(stage, || ring::oldest(&stage.geometry, stage.words(), 0));
    let reader = Reader::new(stage.geometry, first);
    read_one(stage, &claim, reader, (first, live));
}

/// Reads the next message, as bytes that are lent if it is safe, and leaves.
fn read_one(stage: &Stage, claim: &Arc<Claim>, mut reader: Reader, (first, live): (u64, u64)) {
    let is_safe = Settling::new(first, live).is_safe(reader.cursor(), |live| reader.is_there(stage.words(), live));
    match reader.poll(stage.words(), |_| ()) {
        // Only now, as what is lent is looked at after the poll.
        Poll::Message(received) if is_safe => stage.read_unchecked(received.sequence),
        Poll::Message(_) | Poll::Empty => {}
        Poll::Lapped { first, .. } => assert!(first < live),
        other => panic!("{other:?}"),
    }
    stage.gate.leave(claim, || stage.futex.wake());
}

#[test]
fn who_is_lapped_knows_that_it_was_evicted() {
    let policy = LosslessPolicy::Evict(Duration::ZERO);
    let subscriber = |stage: &Stage, claim: Option<Arc<Claim>>| {
        let mut reader = Reader::new(stage.geometry, 0);
        if let Poll::Lapped { .. } = reader.poll(stage.words(), |_| ()) {
            assert!(claim.unwrap().is_evicted());
        }
    };
    // Message 1 evicts, and message 2 takes the slot of message 0.
    race_on((policy, 2, SMALL), (1, 2), Some(0), subscriber);
    // Message 1 evicts, and takes the arena from message 0: no other message is between the two.
    race_on((policy, 4, LARGE), (1, 1), Some(0), subscriber);
}
