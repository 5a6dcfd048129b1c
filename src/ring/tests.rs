//! The ring on plain memory, one thread: lengths, laps, joins, ends, and what a hostile publisher may write.

use super::*;
use crate::copy;
use crate::sync::AtomicU64;
use crate::words::WORD_BYTES;

pub(super) struct Ring {
    pub(super) memory: Vec<AtomicU64>,
    pub(super) writer: Writer,
}

impl Ring {
    pub(super) fn new(slot_count: u64, slot_bytes: u64, arena_bytes: u64) -> Self {
        let geometry = Geometry::new(slot_count, slot_bytes, arena_bytes, Some(arena_bytes)).unwrap();
        // In blocks: word by word it was most of what Miri did for these tests.
        let words = geometry.segment_bytes() / WORD_BYTES;
        let blocks = (0..words.div_ceil(64)).map(|_| [const { AtomicU64::new(0) }; 64]);
        let mut memory = blocks.collect::<Vec<_>>().into_flattened();
        memory.truncate(words);
        Self {
            memory,
            writer: Writer::new(geometry),
        }
    }

    pub(super) fn publish(&mut self, payload: &[u8]) -> u64 {
        self.writer.publish(&self.memory, payload, || 7, 9)
    }

    pub(super) fn words(&self) -> Words<'_> {
        Words::new(&self.memory)
    }

    pub(super) fn reader(&self, cursor: u64) -> Reader {
        Reader::new(*self.writer.geometry(), cursor)
    }

    pub(super) fn slot_word(&self, sequence: u64, word: usize) -> &AtomicU64 {
        &self.memory[self.writer.geometry().slot_at(sequence) + word]
    }
}

pub(super) fn poll(ring: &Ring, reader: &mut Reader) -> Poll<Vec<u8>> {
    reader.poll(ring.words(), |view| {
        let mut bytes = Vec::new();
        view.append_to(&mut bytes);
        bytes
    })
}

pub(super) fn message(sequence: u64, payload: &[u8]) -> Poll<Vec<u8>> {
    Poll::Message(Received {
        sequence,
        timestamp_ns: 7,
        tag: 9,
        len: payload.len(),
        value: payload.to_vec(),
    })
}

#[test]
fn every_length_up_to_the_arena_comes_back_whole() {
    let mut ring = Ring::new(4, 64, 4096);
    let mut reader = ring.reader(0);
    let bytes: Vec<u8> = (0..4096_u32).map(|i| (i % 251) as u8).collect();

    // Every one takes Miri minutes.
    let step = if cfg!(miri) { 1365 } else { 1 };
    for (sequence, len) in (0..=4096).step_by(step).enumerate() {
        ring.publish(&bytes[..len]);
        assert_eq!(poll(&ring, &mut reader), message(sequence as u64, &bytes[..len]));
    }

    assert_eq!(poll(&ring, &mut reader), Poll::Empty);
}

/// The values of `N` bytes from byte `start` on, as `fold` goes through them.
fn folded<const N: usize>(view: View<'_>, start: usize) -> Vec<[u8; N]>
where
    [u8; N]: bytemuck::AnyBitPattern,
{
    view.values(start).fold(Vec::new(), |mut values, value| {
        values.push(value);
        values
    })
}

#[test]
fn every_range_and_every_row_of_values_is_that_of_the_bytes() {
    let bytes: Vec<u8> = (0..41).collect();
    // Every range takes Miri a minute. These still begin and end at every place in a word.
    let (step, lengths) = if cfg!(miri) {
        (5, &[41, 8][..])
    } else {
        (1, &[41, 40, 8, 3, 0][..])
    };
    for &len in lengths {
        let mut ring = Ring::new(4, 64, 4096);
        ring.publish(&bytes[..len]);

        let polled = ring.reader(0).poll(ring.words(), |view| {
            for start in (0..=len).step_by(step) {
                for end in (start..=len).step_by(step) {
                    let mut range = vec![0; end - start];
                    view.copy_range_to(start, &mut range);
                    assert_eq!(range, bytes[start..end]);
                }
                let words: Vec<[u8; 8]> = view.values(start).collect();
                assert_eq!(words, bytes[start..len].as_chunks().0, "{start}");
                let halves: Vec<[u8; 4]> = view.values(start).collect();
                assert_eq!(halves, bytes[start..len].as_chunks().0, "{start}");
                let triples: Vec<[u8; 3]> = view.values(start).collect();
                assert_eq!(triples, bytes[start..len].as_chunks().0, "{start}");
                let pairs: Vec<[u8; 2]> = view.values(start).step_by(3).collect();
                let expected: Vec<[u8; 2]> = bytes[start..len].as_chunks().0.iter().copied().step_by(3).collect();
                assert_eq!(pairs, expected, "{start}");
                assert_eq!(folded::<1>(view, start), bytes[start..len].as_chunks().0, "{start}");
                assert_eq!(folded::<2>(view, start), bytes[start..len].as_chunks().0, "{start}");
                assert_eq!(folded::<3>(view, start), bytes[start..len].as_chunks().0, "{start}");
                assert_eq!(folded::<4>(view, start), bytes[start..len].as_chunks().0, "{start}");
                assert_eq!(folded::<8>(view, start), bytes[start..len].as_chunks().0, "{start}");
                assert_eq!(view.values::<u16>(start).len(), (len - start) / 2);
                assert_eq!(view.values::<u16>(start).nth((len - start) / 2), None);
            }
            let starts = [len + 1, usize::MAX - 7, usize::MAX];
            starts
                .map(|start| view.values::<u64>(start).map(|_| 1).sum::<u64>())
                .iter()
                .sum::<u64>()
        });

        assert!(matches!(polled, Poll::Message(message) if message.value == 0));
    }
}

#[test]
#[should_panic(expected = "a payload of 9 bytes was asked for 2 from 8 on")]
fn range_beyond_the_payload_is_refused_although_the_words_are_there() {
    let mut ring = Ring::new(4, 64, 4096);
    ring.publish(&[1; 9]);

    let _ = ring
        .reader(0)
        .poll(ring.words(), |view| view.copy_range_to(8, &mut [0; 2]));
}

#[test]
fn late_reader_is_given_the_oldest_and_an_overtaken_one_a_head_start() {
    let mut ring = Ring::new(8, 64, 4096);
    let mut reader = ring.reader(0);
    for i in 0..20_u8 {
        ring.publish(&[i]);
    }
    assert_eq!(poll(&ring, &mut reader), Poll::Lapped { first: 0, missed: 12 });
    assert_eq!(poll(&ring, &mut reader), message(12, &[12]));

    for i in 20..40_u8 {
        ring.publish(&[i]);
    }

    assert_eq!(poll(&ring, &mut reader), Poll::Lapped { first: 13, missed: 21 });
    assert_eq!(poll(&ring, &mut reader), message(34, &[34]));
}

#[test]
fn lapped_reader_may_choose_to_go_on_at_the_newest() {
    let mut ring = Ring::new(8, 64, 4096);
    let mut reader = ring.reader(0).on_lap(OnLap::Newest);
    for i in 0..20_u8 {
        ring.publish(&[i]);
    }

    assert_eq!(poll(&ring, &mut reader), Poll::Lapped { first: 0, missed: 19 });
    assert_eq!(poll(&ring, &mut reader), message(19, &[19]));
}

#[test]
fn message_overwritten_while_it_is_read_is_not_handed_out() {
    let mut ring = Ring::new(2, 64, 4096);
    ring.publish(b"old");
    let Ring { memory, writer } = &mut ring;
    let mut reader = Reader::new(*writer.geometry(), 0);

    let outcome = reader.poll(Words::new(memory), |_| {
        writer.publish(memory, b"1", || 0, 0);
        writer.publish(memory, b"2", || 0, 0);
    });

    assert_eq!(outcome, Poll::Lapped { first: 0, missed: 1 });
}

#[test]
fn large_message_buried_in_the_arena_is_missed_although_its_slot_stands() {
    let mut ring = Ring::new(64, 64, 4096);
    let mut reader = ring.reader(0);
    ring.publish(&[1; 2048]);
    ring.publish(b"small");
    ring.publish(&[2; 4096]);

    assert_eq!(poll(&ring, &mut reader), Poll::Lapped { first: 0, missed: 1 });
    assert_eq!(poll(&ring, &mut reader), message(1, b"small"));
    assert_eq!(poll(&ring, &mut reader), message(2, &[2; 4096]));
}

#[test]
fn large_message_buried_while_it_is_read_is_not_handed_out() {
    let mut ring = Ring::new(64, 64, 4096);
    ring.publish(&[1; 2048]);
    let Ring { memory, writer } = &mut ring;
    let mut reader = Reader::new(*writer.geometry(), 0);

    let outcome = reader.poll(Words::new(memory), |_| writer.publish(memory, &[2; 4096], || 0, 0));

    assert_eq!(outcome, Poll::Lapped { first: 0, missed: 1 });
}

#[test]
fn message_that_was_begun_and_given_up_costs_no_sequence() {
    let mut ring = Ring::new(4, 64, 4096);
    let mut reader = ring.reader(0);

    ring.writer.begin(&ring.memory, 4000);
    assert_eq!(poll(&ring, &mut reader), Poll::Empty);
    ring.publish(b"next");

    assert_eq!(poll(&ring, &mut reader), message(0, b"next"));
}

#[test]
fn message_buried_by_one_that_was_given_up_stays_buried() {
    let mut ring = Ring::new(64, 64, 4096);
    ring.publish(&[1; 2048]);
    ring.publish(&[2; 2048]);

    let place = ring.writer.begin(&ring.memory, 4096);
    copy::store(&ring.memory[place.start..], &[3; 4096]);
    ring.publish(&[4; 100]);

    let mut reader = ring.reader(1);
    assert_eq!(poll(&ring, &mut reader), Poll::Lapped { first: 1, missed: 1 });
    assert_eq!(poll(&ring, &mut reader), message(2, &[4; 100]));
}

#[test]
fn message_is_not_buried_by_one_before_it_that_was_given_up() {
    let mut ring = Ring::new(64, 64, 4096);
    let mut reader = ring.reader(0);
    ring.publish(&[1; 1024]);
    assert_eq!(poll(&ring, &mut reader), message(0, &[1; 1024]));

    // Does not fit behind the first: begins anew at the arena's start, and buries what lies there.
    ring.writer.begin(&ring.memory, 3500);
    ring.publish(&[2; 100]);

    assert_eq!(poll(&ring, &mut reader), message(1, &[2; 100]));
}

#[test]
fn eighth_of_the_ring_is_one_of_the_slots_or_of_the_arena_whichever_are_fewer() {
    let mut ring = Ring::new(64, 64, 4096);
    let mut reader = ring.reader(0);

    for (len, eighth) in [(32, 8), (64, 8), (65, 7), (256, 2), (4096, 0)] {
        ring.publish(&vec![1; len]);
        assert!(matches!(poll(&ring, &mut reader), Poll::Message(_)));

        assert_eq!(reader.eighth(), eighth, "{len} bytes");
    }
}

#[test]
fn end_is_seen_after_the_last_message_and_not_before() {
    let mut ring = Ring::new(4, 64, 4096);
    let mut reader = ring.reader(0);
    ring.publish(b"last");
    ring.writer.close(&ring.memory);

    assert_eq!(poll(&ring, &mut reader), message(0, b"last"));
    assert_eq!(poll(&ring, &mut reader), Poll::Ended);
    assert_eq!(poll(&ring, &mut reader), Poll::Ended);
    assert_eq!(head(ring.words()), Head { next: 1, closed: true });
}

#[test]
fn oldest_is_the_first_that_can_be_read() {
    let mut ring = Ring::new(8, 64, 4096);
    assert_eq!(oldest(ring.writer.geometry(), ring.words(), 0), 0);
    for i in 0..20_u8 {
        ring.publish(&[i]);
    }
    assert_eq!(oldest(ring.writer.geometry(), ring.words(), 0), 12);

    // Begun and not committed: the slot of message 12 is gone.
    ring.writer.begin(&ring.memory, 1);
    assert_eq!(oldest(ring.writer.geometry(), ring.words(), 0), 13);
}

#[test]
fn what_is_unbroken_begins_behind_the_last_message_that_is_gone() {
    // Every pattern of short messages and long ones, of which the arena holds four.
    for pattern in (0..1_u64 << 9).step_by(if cfg!(miri) { 73 } else { 1 }) {
        let mut ring = Ring::new(8, 64, 4096);
        for number in 0..9 {
            ring.publish(if pattern >> number & 1 == 0 {
                b"short"
            } else {
                &[1; 1000]
            });
        }
        let (geometry, words) = (ring.writer.geometry(), ring.words());
        let is_gone = |&sequence: &u64| !is_retained(geometry, words, sequence, 0);
        let last_gone = (0..9).rev().find(is_gone).unwrap();

        assert_eq!(unbroken(geometry, words, 0), last_gone + 1, "{pattern:09b}");
        assert_eq!(unbroken(geometry, words, 7), 7.max(last_gone + 1), "{pattern:09b}");
    }
}

#[test]
fn length_from_a_hostile_publisher_never_reaches_past_its_place() {
    for length in [33, 64, u64::MAX >> 1, u64::MAX, LARGE | 4097, LARGE | 4096] {
        let mut ring = Ring::new(4, 64, 4096);
        ring.publish(b"0123456789abcdef");
        ring.slot_word(0, LENGTH).store(length, Ordering::Relaxed);
        ring.slot_word(0, BODY).store(8, Ordering::Relaxed);

        assert_eq!(
            poll(&ring, &mut ring.reader(0)),
            Poll::Corrupt { sequence: 0 },
            "{length:x}"
        );
    }
}

#[test]
fn large_message_beyond_the_longest_is_corrupt_although_the_arena_has_room() {
    let mut ring = Ring::new(4, 64, 4096);
    ring.publish(&[1; 1024]);
    let geometry = Geometry::new(4, 64, 4096, Some(1023)).unwrap();

    let outcome = Reader::new(geometry, 0).poll(ring.words(), |_| ());

    assert_eq!(outcome, Poll::Corrupt { sequence: 0 });
}

#[test]
fn stamp_that_cannot_stand_in_its_slot_is_corrupt() {
    let mut ring = Ring::new(4, 64, 4096);
    ring.publish(b"x");
    ring.slot_word(0, STAMP).store(ready(1), Ordering::Relaxed);

    assert_eq!(poll(&ring, &mut ring.reader(0)), Poll::Corrupt { sequence: 0 });
}

#[test]
fn hostile_head_cannot_make_a_reader_overflow_or_stall() {
    for word in [0, 1, u64::MAX, u64::MAX - 1, 1 << 63] {
        let mut ring = Ring::new(4, 64, 4096);
        for i in 0..20_u8 {
            ring.publish(&[i]);
        }
        ring.memory[HEAD_WORD].store(word, Ordering::Relaxed);
        let mut reader = ring.reader(0);

        assert!(matches!(
            poll(&ring, &mut reader),
            Poll::Lapped { first: 0, missed: 1.. }
        ));
        assert!(oldest(ring.writer.geometry(), ring.words(), 0) <= MAX_SEQUENCE);
    }
}

#[test]
fn typed_reads_stay_inside_the_payload_at_any_offset() {
    let mut ring = Ring::new(4, 64, 4096);
    let bytes: Vec<u8> = (0..20).collect();
    ring.publish(&bytes);

    let reads = ring.reader(0).poll(ring.words(), |view| {
        let at = |offset| view.read::<u32>(offset);
        [at(0), at(3), at(16), at(17), at(usize::MAX)]
    });

    let Poll::Message(received) = reads else {
        panic!("{reads:?}")
    };
    let at = |offset: usize| Some(u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap()));
    assert_eq!(received.value, [at(0), at(3), at(16), None, None]);
}

#[test]
fn sequences_near_the_upper_end_are_as_good_as_any() {
    let mut ring = Ring::new(4, 64, 4096);
    ring.writer.go_on_from(&ring.memory, MAX_SEQUENCE - 10, 0);
    let mut reader = ring.reader(MAX_SEQUENCE - 10);
    for i in 0..9_u8 {
        let sequence = ring.publish(&[i; 40]);
        assert_eq!(poll(&ring, &mut reader), message(sequence, &[i; 40]));
    }

    let mut late = ring.reader(MAX_SEQUENCE - 10);
    assert_eq!(
        poll(&ring, &mut late),
        Poll::Lapped {
            first: MAX_SEQUENCE - 10,
            missed: 5
        }
    );
}

#[test]
fn reader_under_way_goes_on_at_the_first_slot_behind_the_last() {
    let mut ring = Ring::new(4, 64, 4096);
    for i in 0..6_u8 {
        ring.publish(&[i]);
    }
    let mut reader = ring.reader(2);

    let mut course = reader.course(ring.words());
    let seen: Vec<_> = (0..5).map(|_| course.poll(|view| view.to_vec())).collect();

    drop(course);
    let there = (2..6_u8).map(|i| message(u64::from(i), &[i]));
    assert!(there.chain([Poll::Empty]).eq(seen));
    assert_eq!(reader.cursor(), 6);
}

#[test]
fn reader_that_kept_up_and_is_overtaken_for_the_first_time_gets_a_head_start() {
    let mut ring = Ring::new(8, 64, 4096);
    let mut reader = ring.reader(0);
    ring.publish(b"kept up");
    assert_eq!(poll(&ring, &mut reader), message(0, b"kept up"));
    for i in 1..20_u8 {
        ring.publish(&[i]);
    }

    assert_eq!(poll(&ring, &mut reader), Poll::Lapped { first: 1, missed: 13 });
}

#[test]
fn last_messages_are_read_one_by_one_and_in_a_row_and_nothing_comes_behind_them() {
    for (slots, slot_bytes) in [(2, 64), (4, 64), (64, 96)] {
        let mut ring = Ring::new(slots, slot_bytes, 4096);
        ring.writer.go_on_from(&ring.memory, MAX_SEQUENCE - 2, 0);
        let last = [1, 2].map(|i| message(ring.publish(&[i]), &[i]));
        let [mut reader, mut other] = [(); 2].map(|()| ring.reader(MAX_SEQUENCE - 2));

        let mut course = other.course(ring.words());
        let in_a_row: Vec<_> = (0..4).map(|_| course.poll(|view| view.to_vec())).collect();
        drop(course);
        let one_by_one: Vec<_> = (0..4).map(|_| poll(&ring, &mut reader)).collect();

        let expected = last.into_iter().chain([Poll::Empty, Poll::Empty]);
        assert!(expected.clone().eq(in_a_row) && expected.eq(one_by_one));
        for stamp in [
            writing(MAX_SEQUENCE),
            ended(MAX_SEQUENCE),
            ready(MAX_SEQUENCE),
            ready(MAX_SEQUENCE + slots),
            u64::MAX,
        ] {
            ring.slot_word(MAX_SEQUENCE, STAMP).store(stamp, Ordering::Relaxed);
            let sequence = MAX_SEQUENCE;
            let expected = match stamp {
                stamp if stamp == writing(sequence) => Poll::Empty,
                stamp if stamp == ended(sequence) => Poll::Ended,
                _ => Poll::Corrupt { sequence },
            };
            assert_eq!(poll(&ring, &mut reader), expected, "{stamp:x}");
            assert_eq!(
                other.course(ring.words()).poll(|view| view.to_vec()),
                expected,
                "{stamp:x}"
            );
            assert_eq!((reader.cursor(), other.cursor()), (sequence, sequence));
        }
    }
}

/// The one test with threads: what Miri and the sanitizers look at.
#[test]
fn threads_on_one_mapping_see_whole_messages_and_account_for_all() {
    const MESSAGES: u64 = if cfg!(miri) { 8 } else { 20_000 };
    let Ring { memory, mut writer } = Ring::new(4, 64, 4096);
    let geometry = *writer.geometry();
    // Inline up to 32 bytes; the arena takes one or two of the longest.
    let payload = |sequence: u64| vec![sequence as u8; (sequence % 3 * 1500 + sequence % 40) as usize];
    let read = |words: Words<'_>| {
        let mut reader = Reader::new(geometry, 0);
        let (mut received, mut missed) = (0, 0);
        loop {
            match reader.poll(words, |view| view.to_vec()) {
                Poll::Message(message) => {
                    assert_eq!(message.value, payload(message.sequence));
                    received += 1;
                }
                Poll::Lapped { missed: lost, .. } => missed += lost,
                Poll::Empty => std::thread::yield_now(),
                Poll::Ended => return received + missed,
                other => panic!("{other:?}"),
            }
        }
    };

    let accounts = std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| scope.spawn(|| read(Words::new(&memory))));
        for sequence in 0..MESSAGES {
            writer.publish(&memory, &payload(sequence), || 7, 9);
        }
        writer.close(&memory);
        readers.map(|reader| reader.join().unwrap())
    });

    assert_eq!(accounts, [MESSAGES; 2]);
}

#[test]
fn reader_with_a_claim_goes_on_at_the_very_next_message_that_is_there() {
    let mut ring = Ring::new(16, 64, 4096);
    let large = vec![1; 1500];
    // 0 and 2 lie in the arena, 1 and 3 to 11 in their slots.
    for payload in [&large[..], b"small", &large] {
        ring.publish(payload);
    }
    for _ in 3..12 {
        ring.publish(b"small");
    }
    let mut reader = ring.reader(1);
    reader.set_chased(false);
    assert!(matches!(poll(&ring, &mut reader), Poll::Message(_)));

    // These two take the arena from message 2, and from nothing else that is wanted.
    ring.publish(&large);
    ring.publish(&large);
    for _ in 14..17 {
        ring.publish(b"small");
    }

    assert_eq!(poll(&ring, &mut reader), Poll::Lapped { first: 2, missed: 1 });
}
