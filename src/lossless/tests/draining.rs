//! What is read many at a time, and when it is given back.

use std::panic::{self, AssertUnwindSafe};

use super::*;

#[test]
fn drained_messages_are_all_there_and_make_room_together() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let mut subscriber = stage.lossless(Join::New);
    stage.publish(0..7);

    let mut numbers = Vec::new();
    let first = subscriber.drain(3, |view| number(&view.to_vec()), |outcome| numbers.push(outcome));

    assert_eq!(first, 3);
    stage.publish(7..10);
    assert_eq!(
        stage.server.publisher().try_publish_tagged(0, b"x"),
        Err(PublishError::Full)
    );
    let rest = subscriber.drain(
        usize::MAX,
        |view| number(&view.to_vec()),
        |outcome| numbers.push(outcome),
    );
    assert_eq!(rest, 7);
    assert!(values(numbers).eq(0..10));
}

#[test]
fn draining_subscriber_makes_room_some_messages_at_a_time_and_for_all_in_the_end() {
    let mut stage = Stage::adjusted(Some(LosslessPolicy::Block), |options| options.slots = Some(64));
    let mut subscriber = stage.lossless(Join::New);
    stage.publish(0..63);

    let mut room = Vec::new();
    let publisher = stage.server.publisher();
    let drained = subscriber.drain(
        10,
        |view| number(&view.to_vec()),
        |_| room.push(publisher.wait_for_room(8, Duration::ZERO).is_ok()),
    );

    // An eighth of the slots is given back together, when all of it was looked at.
    assert_eq!(drained, 10);
    assert_eq!(room, [[false; 8].as_slice(), &[true; 2]].concat());
    for number in 63..73 {
        assert_eq!(publisher.try_publish_tagged(0, b"x"), Ok(number));
    }
    assert_eq!(publisher.try_publish_tagged(0, b"x"), Err(PublishError::Full));
}

#[test]
fn subscriber_that_reads_in_advance_makes_room_some_messages_at_a_time_and_for_all_in_the_end() {
    let mut stage = Stage::adjusted(Some(LosslessPolicy::Block), |options| options.slots = Some(64));
    let mut subscriber = stage.lossless(Join::New);
    stage.publish(0..63);

    let mut room = Vec::new();
    let publisher = stage.server.publisher();
    subscriber.in_advance(|subscriber| {
        for expected in 0..10 {
            let outcome = subscriber.poll(|view| number(&view.to_vec()));
            assert!(values(vec![outcome]).eq([expected]));
            room.push(publisher.wait_for_room(8, Duration::ZERO).is_ok());
        }
    });

    // An eighth of the slots is given back together.
    assert_eq!(room, [[false; 7].as_slice(), &[true; 3]].concat());
    for number in 63..73 {
        assert_eq!(publisher.try_publish_tagged(0, b"x"), Ok(number));
    }
    assert_eq!(publisher.try_publish_tagged(0, b"x"), Err(PublishError::Full));
}

#[test]
fn message_that_is_drained_in_place_is_held_until_it_was_looked_at() {
    let mut stage = Stage::adjusted(Some(LosslessPolicy::Block), |options| options.slots = Some(64));
    let mut subscriber = stage.blocking(Join::New);
    stage.publish(0..63);

    let (mut numbers, mut room) = (Vec::new(), Vec::new());
    let publisher = stage.server.publisher();
    let drained = subscriber.drain(10, |outcome| {
        room.push(publisher.wait_for_room(8, Duration::ZERO).is_ok());
        numbers.push(outcome.map(number));
    });

    // An eighth of the slots is given back together, when all of it was looked at.
    assert_eq!(drained, 10);
    assert_eq!(room, [[false; 8].as_slice(), &[true; 2]].concat());
    assert!(values(numbers).eq(0..10));
    for number in 63..73 {
        assert_eq!(publisher.try_publish_tagged(0, b"x"), Ok(number));
    }
    assert_eq!(publisher.try_publish_tagged(0, b"x"), Err(PublishError::Full));
}

#[test]
fn messages_from_before_the_claim_are_copied_when_they_are_drained_too() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    stage.publish(0..5);
    let mut subscriber = stage.blocking(Join::Oldest);
    let segment = subscriber.subscriber.borrow().segment().clone();
    let start = segment.words().as_ptr().addr();
    let in_segment = start..start + size_of::<u64>() * segment.words().len();
    let mut drain = |limit| {
        let mut seen = Vec::new();
        subscriber.drain(limit, |outcome| {
            seen.push(outcome.map(|bytes| (number(bytes), in_segment.contains(&bytes.as_ptr().addr()))));
        });
        values(seen).collect::<Vec<_>>()
    };

    assert_eq!(drain(2), [(0, false), (1, false)]);
    stage.publish(5..6);
    assert_eq!(drain(usize::MAX), [(2, true), (3, true), (4, true), (5, true)]);
}

#[test]
fn drain_tells_of_laps_and_the_end_and_gives_back_what_was_forgotten() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    stage.publish(0..20);
    let mut subscriber = stage.blocking(Join::Sequence(0));
    let mut outcomes = Vec::new();
    let mut drain = |subscriber: &mut BlockingSubscriber| {
        let messages = subscriber.drain(usize::MAX, |outcome| outcomes.push(outcome.map(number)));
        (messages, std::mem::take(&mut outcomes))
    };

    let (messages, mut told) = drain(&mut subscriber);

    let Poll::Lapped { first: 0, missed } = told.remove(0) else {
        panic!("{told:?}");
    };
    assert_eq!(messages as u64, 20 - missed);
    assert!(values(told).eq(missed..20));

    stage.publish(20..27);
    std::mem::forget(subscriber.poll());
    let publisher = stage.server.publisher();
    assert_eq!(publisher.try_publish_tagged(0, b"x"), Err(PublishError::Full));
    assert_eq!(subscriber.drain(0, |_| ()), 0);
    assert_eq!(subscriber.held(), 0);
    stage.publish(27..28);
    let publisher = stage.server.publisher();
    assert_eq!(publisher.try_publish_tagged(0, b"x"), Err(PublishError::Full));
    assert!(values(drain(&mut subscriber).1).eq(21..28));
    stage.publish(28..35);
    stage.server.end_stream();
    let (messages, told) = drain(&mut subscriber);
    assert_eq!((messages, told.last()), (7, Some(&Poll::Ended)));
}

#[test]
fn drain_gives_back_what_it_has_read_though_its_closure_panics() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let mut blocking = stage.blocking(Join::New);
    let mut lossless = stage.lossless(Join::New);
    let full = |stage: &mut Stage| stage.server.publisher().try_publish_tagged(0, b"x") == Err(PublishError::Full);
    stage.publish(0..7);
    assert!(full(&mut stage));

    let panics = [
        panic::catch_unwind(AssertUnwindSafe(|| {
            blocking.drain(usize::MAX, |_| panic!("meant to be"))
        })),
        panic::catch_unwind(AssertUnwindSafe(|| {
            lossless.drain(usize::MAX, |_| (), |_| panic!("meant to be"))
        })),
    ];

    assert!(panics.iter().all(Result::is_err));
    // The one that was looked at, and no other.
    stage.publish(7..8);
    assert!(full(&mut stage));
}

#[test]
fn evicted_subscriber_that_drains_is_told_what_it_lost_and_drains_on_as_others_do() {
    let mut stage = Stage::new(Some(LosslessPolicy::Evict(Duration::from_millis(50))));
    let mut subscriber = stage.lossless(Join::New);
    // Still where it was placed it goes on at the oldest message; overtaken on its way, with a head start of a quarter.
    for (publish, lost) in [(0..16, 0..8), (16..32, 16..26)] {
        let end = publish.end;
        stage.publish(publish);

        let mut outcomes = Vec::new();
        subscriber.drain(
            usize::MAX,
            |view| number(&view.to_vec()),
            |outcome| outcomes.push(outcome),
        );

        let (first, missed) = (lost.start, lost.end - lost.start);
        assert_eq!(outcomes.remove(0), Poll::Lapped { first, missed });
        assert!(values(outcomes).eq(lost.end..end));
    }
    assert!(subscriber.is_evicted());
}
