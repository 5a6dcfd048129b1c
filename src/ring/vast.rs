//! Rings of more slots than are looked at one by one, of which the arena holds only the newest messages.

use super::tests::{Ring, message, poll};
use super::*;

/// Twice as many as are looked at one by one.
const SLOTS: u64 = 2 * MOST_LOOKS;
/// Payloads in the arena: 64 of them fill it.
const LONG: [u8; 64] = [7; 64];

/// A ring with room in the arena for some of the messages that `publish` adds. Of a lap before them nothing is left.
fn ring(publish: impl FnOnce(&mut Ring)) -> Ring {
    let mut ring = Ring::new(SLOTS, 64, 4096);
    ring.publish(b"first of all");
    ring.writer.go_on_from(&ring.memory, SLOTS, 0);
    publish(&mut ring);
    ring
}

/// The first that stands at least `slack` words above what is buried, found by looking at each.
fn first_of_all(ring: &Ring, slack: u64) -> u64 {
    (0..ring.writer.next())
        .find(|&sequence| is_retained(ring.writer.geometry(), ring.words(), sequence, slack))
        .unwrap()
}

#[test]
fn oldest_of_a_vast_ring_is_found_behind_more_buried_messages_than_are_looked_at() {
    let mut ring = ring(|ring| (0..200).for_each(|_| _ = ring.publish(&LONG)));
    let mut first = 0;

    // The rest is halved at other places each time.
    for _ in 0..16 {
        ring.publish(&LONG);
        first = first_of_all(&ring, 0);
        assert!(first > SLOTS && first < ring.writer.next() - 50);
        assert_eq!(oldest(ring.writer.geometry(), ring.words(), 0), first);
    }
    assert_eq!(oldest(ring.writer.geometry(), ring.words(), first + 3), first + 3);
}

#[test]
fn reader_that_comes_late_to_a_vast_ring_misses_what_is_gone_and_nothing_else() {
    let ring = ring(|ring| (0..200).for_each(|_| _ = ring.publish(&LONG)));
    let first = first_of_all(&ring, 0);
    let mut reader = ring.reader(0);

    let missed = Poll::Lapped {
        first: 0,
        missed: first,
    };
    assert_eq!(poll(&ring, &mut reader), missed);
    for sequence in first..ring.writer.next() {
        assert_eq!(poll(&ring, &mut reader), message(sequence, &LONG));
    }
    assert_eq!(poll(&ring, &mut reader), Poll::Empty);
}

#[test]
fn reader_that_was_overtaken_in_a_vast_ring_is_given_the_head_start_that_others_have() {
    let mut reader = None;
    let ring = ring(|ring| {
        let mut early = ring.reader(0);
        assert_eq!(poll(ring, &mut early), message(0, b"first of all"));
        reader = Some(early);
        (0..200).for_each(|_| _ = ring.publish(&LONG));
    });
    let first = first_of_all(&ring, ring.writer.geometry().arena_words() / 4);
    let mut reader = reader.unwrap();

    let missed = first - 1;
    assert_eq!(poll(&ring, &mut reader), Poll::Lapped { first: 1, missed });
    assert_eq!(poll(&ring, &mut reader), message(first, &LONG));
}

#[test]
fn what_is_unbroken_in_a_vast_ring_is_found_behind_all_that_is_gone() {
    for shorts in [0, 1, 3, 70] {
        let ring = ring(|ring| {
            for number in 0..500 {
                ring.publish(if number % (shorts + 1) == 0 { &LONG } else { b"short" });
            }
        });
        let (geometry, words) = (ring.writer.geometry(), ring.words());
        let is_gone = |&sequence: &u64| !is_retained(geometry, words, sequence, 0);
        let last_gone = (0..ring.writer.next()).rev().find(is_gone).unwrap();

        assert_eq!(
            unbroken(geometry, words, 0),
            last_gone + 1,
            "{shorts} short ones to a long one"
        );
    }
}

#[test]
fn short_messages_send_nobody_past_a_message_behind_which_nothing_is_gone() {
    for shorts in [1, 3, 70] {
        let ring = ring(|ring| {
            for number in 0..500 {
                ring.publish(if number % (shorts + 1) == 0 { &LONG } else { b"short" });
            }
        });
        let next = ring.writer.next();
        let is_there = |sequence: u64| is_retained(ring.writer.geometry(), ring.words(), sequence, 0);
        let last_gone = (0..next).rev().find(|&sequence| !is_there(sequence)).unwrap();

        let first = oldest(ring.writer.geometry(), ring.words(), 0);

        assert!(is_there(first) && first <= last_gone + 1, "{first}");
    }
}
