//! What a reader finds out about streams that take so long, and so long when it flushes; and what it flushes.

use std::ops::Range;

use super::*;
use crate::copy;
use crate::ring::tests::{Ring, message, poll};
use crate::ring::{MAX_SEQUENCE, Poll, Reader, View};
use crate::sync::AtomicU64;
use crate::words::watch;

const LAP: u64 = 8192;
const LINES: u64 = 2;
const SOON: Duration = Duration::from_millis(50);

/// A reader of a stream, and what time it is there.
struct Stream {
    flushing: Flushing,
    cursor: u64,
    read: u64,
    now: Instant,
}

impl Stream {
    fn new() -> Self {
        Self {
            flushing: Flushing::new(7),
            cursor: 7,
            read: 0,
            now: Instant::now(),
        }
    }

    /// Makes a lap in which a message takes `without_ns`, or `with_ns` if the reader flushes.
    fn lap(&mut self, without_ns: u64, with_ns: u64) {
        let ns = if self.flushing.is_on() { with_ns } else { without_ns };
        self.now += Duration::from_nanos(ns * LAP);
        self.cursor += LAP;
        self.read += LAP;
        if self.flushing.is_due(self.cursor) {
            self.flushing.go_on(self.cursor, self.read, LAP, LINES, self.now);
        }
    }

    /// Makes laps until a trial is over. Returns how long that takes.
    fn try_out(&mut self, without_ns: u64, with_ns: u64) -> Duration {
        let begins = self.run(without_ns, with_ns, |stream| stream.flushing.trial.is_some());
        begins + self.run(without_ns, with_ns, |stream| stream.flushing.trial.is_none())
    }

    fn run(&mut self, without_ns: u64, with_ns: u64, until: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        let has_come = (1..1_000_000).any(|_| {
            self.lap(without_ns, with_ns);
            until(self)
        });
        assert!(has_come, "it never comes to that");
        self.now - start
    }
}

#[test]
fn a_reader_far_from_its_publisher_flushes_soon_and_goes_on_with_it() {
    let mut stream = Stream::new();
    assert!(stream.try_out(110, 30) < SOON);
    for _ in 0..3 {
        assert!(stream.flushing.is_on());
        stream.try_out(110, 30);
    }
    assert!(stream.flushing.is_on());
}

#[test]
fn a_stream_of_six_nanoseconds_a_line_is_tried_and_a_sixth_less_is_kept() {
    let mut stream = Stream::new();
    stream.try_out(6 * LINES, 5 * LINES);
    assert!(stream.flushing.is_on());
}

#[test]
fn a_reader_near_its_publisher_never_tries_it() {
    let mut stream = Stream::new();
    for _ in 0..1_000 {
        stream.lap(9, 3);
        assert!(!stream.flushing.is_on());
    }
}

#[test]
fn first_laps_of_memory_that_is_touched_for_the_first_time_tell_nothing() {
    let mut stream = Stream::new();
    let start = stream.now;
    for _ in 0..1_000 {
        let ns = if stream.now < start + Duration::from_millis(15) {
            200
        } else {
            8
        };
        stream.lap(ns, ns);
        assert!(!stream.flushing.is_on());
    }
}

#[test]
fn what_gains_little_is_not_kept() {
    for with_ns in [46, 50, 60] {
        let mut stream = Stream::new();
        stream.try_out(50, with_ns);
        assert!(!stream.flushing.is_on(), "{with_ns}");
    }
}

#[test]
fn trials_take_a_small_share_of_the_time() {
    // Quick ones, and slow ones.
    for ns in [30, 100_000] {
        let mut stream = Stream::new();
        stream.try_out(ns, ns);
        let rested = stream.run(ns, ns, |stream| stream.flushing.trial.is_some());
        let tried = stream.run(ns, ns, |stream| stream.flushing.trial.is_none());
        assert!(rested >= Duration::from_millis(500), "{ns} ns: {rested:?}");
        assert!(rested >= 50 * tried, "{ns} ns: {tried:?}, then {rested:?}");
    }
}

#[test]
fn a_reader_that_comes_near_stops_and_one_that_goes_far_begins() {
    let mut stream = Stream::new();
    stream.try_out(110, 30);
    assert!(stream.flushing.is_on());
    stream.try_out(8, 13);
    assert!(!stream.flushing.is_on());
    stream.try_out(110, 30);
    assert!(stream.flushing.is_on());
}

#[test]
fn a_stream_that_pauses_is_not_taken_for_a_slow_one() {
    // While it is timed for the first time, the other way, or once more.
    for pause in [0..2, 3..6, 6..9] {
        let mut stream = Stream::new();
        stream.run(30, 30, |stream| stream.flushing.trial.is_some());
        for lap in 0..9 {
            let ns = if pause.contains(&lap) { 100_000 } else { 30 };
            stream.lap(ns, ns);
        }
        assert!(!stream.flushing.is_on(), "{pause:?}");
        assert!(stream.flushing.trial.is_none(), "{pause:?}");
    }
}

#[test]
fn a_reader_that_was_placed_anew_knows_nothing() {
    let mut stream = Stream::new();
    stream.try_out(110, 30);
    stream.cursor = 3;
    stream.read = 0;
    stream.flushing.replace(3);
    assert!(!stream.flushing.is_on());
    assert!(stream.try_out(110, 30) < SOON);
    assert!(stream.flushing.is_on());
}

#[test]
fn a_lap_of_which_nothing_was_read_tells_nothing() {
    let mut stream = Stream::new();
    for _ in 0..50 {
        stream.cursor += LAP;
        stream.now += Duration::from_millis(1);
        if stream.flushing.is_due(stream.cursor) {
            stream
                .flushing
                .go_on(stream.cursor, stream.read, LAP, LINES, stream.now);
        }
    }
    stream.run(30, 30, |stream| stream.flushing.trial.is_none());
    assert!(!stream.flushing.is_on());
}

#[test]
fn who_cannot_flush_is_never_asked_again() {
    let mut stream = Stream::new();
    stream.flushing.give_up();
    assert!(!stream.flushing.is_due(MAX_SEQUENCE));
}

/// Reads all that there is in turns of 50, and says where each payload was.
fn read_in_turns(ring: &Ring, reader: &mut Reader) -> Vec<Range<*const AtomicU64>> {
    let mut payloads = Vec::new();
    loop {
        let mut course = reader.course(ring.words());
        for _ in 0..50 {
            match course.poll(|view| view.words()) {
                Poll::Message(message) => {
                    let start = message.value.as_ptr();
                    payloads.push(start..start.wrapping_add(message.value.len()));
                }
                Poll::Empty => return payloads,
                other => panic!("{:?}", other.map(Words::len)),
            }
        }
    }
}

#[test]
fn slots_are_flushed_by_eights_a_while_after_they_were_read_and_those_that_are_waited_for_are_not() {
    watch::take_flushed();
    for slot_bytes in [64, 96, 512] {
        let mut ring = Ring::new(64, slot_bytes, 4096);
        for i in 0..60 {
            ring.publish(&[i; 24]);
        }
        let mut reader = ring.reader(50);
        reader.set_flushing();
        read_in_turns(&ring, &mut reader);
        for i in 60..70 {
            ring.publish(&[i; 24]);
            assert_eq!(read_in_turns(&ring, &mut reader).len(), 1);
        }
        for i in 70..90 {
            ring.publish(&[i; 24]);
        }
        assert_eq!(read_in_turns(&ring, &mut reader).len(), 20);

        let flushed = watch::take_flushed();

        let slots = [56, 72, 80, 88].map(|sequence| {
            let start = ring.slot_word(sequence - 32, 0) as *const AtomicU64;
            start..start.wrapping_add(8 * ring.writer.geometry().slot_words())
        });
        assert_eq!(flushed, slots, "slots of {slot_bytes} bytes");
        assert_eq!(poll(&ring, &mut ring.reader(89)), message(89, &[89; 24]));
    }
}

#[test]
fn large_payloads_are_flushed_once_the_next_one_was_read() {
    watch::take_flushed();
    let mut ring = Ring::new(16, 64, 4096);
    let mut reader = ring.reader(0);
    reader.set_flushing();
    let mut payloads = Vec::new();
    for i in 0..12_usize {
        ring.publish(&vec![i as u8; 100 + 77 * i]);
        payloads.extend(read_in_turns(&ring, &mut reader));
    }

    let flushed = watch::take_flushed();

    payloads.pop();
    assert_eq!(payloads, flushed[1..], "the first time there is nothing to flush");
    assert!(flushed[0].is_empty());
}

#[test]
fn reader_that_has_found_out_nothing_flushes_nothing() {
    watch::take_flushed();
    // In a small ring it never will.
    for (slots, looks_again) in [(128, false), (256, copy::can_flush())] {
        let mut ring = Ring::new(slots, 64, 4096);
        let [mut reader, mut other] = [(); 2].map(|()| ring.reader(0));
        for i in 0..20 {
            ring.publish(&[i; 24]);
            read_in_turns(&ring, &mut reader);
            while poll(&ring, &mut other) != Poll::Empty {}
        }
        assert_eq!(watch::take_flushed(), []);
        for reader in [reader, other] {
            assert_eq!(reader.is_flushing_due(MAX_SEQUENCE), looks_again, "{slots} slots");
        }
    }
}

#[test]
fn who_skips_most_of_a_payload_does_not_try_it_and_stops() {
    const PAYLOAD_LINES: u64 = 1 << 14;
    let mut stream = Stream::new();
    let times_reading = |stream: &mut Stream, ahead| {
        let cursor = stream.cursor + ahead;
        stream.flushing.times_reading(cursor, PAYLOAD_LINES, LAP, stream.now)
    };
    stream.try_out(110, 30);
    for (ticks, goes_on) in [(PAYLOAD_LINES, true), (PAYLOAD_LINES / 4, false)] {
        assert!(stream.flushing.is_on());
        assert!(!times_reading(&mut stream, 0), "it rests");
        stream.now += REST * REST_IN_TRIALS;
        assert!(times_reading(&mut stream, 0));
        assert!(times_reading(&mut stream, 0), "it is still to come");
        stream.flushing.note_read();
        assert!(matches!(stream.flushing.reading, Reading::Took(_)));
        stream.flushing.reading = Reading::Took(ticks);
        assert_eq!(times_reading(&mut stream, 1), !goes_on);
        assert_eq!(stream.flushing.is_on(), goes_on);
        if goes_on {
            stream.try_out(110, 30);
        }
    }
    assert!(!stream.flushing.is_due(stream.cursor + LAP));
}

#[test]
fn payloads_that_have_become_short_are_not_timed() {
    let mut stream = Stream::new();
    stream.lap(50, 50);
    let now = stream.now + FIRST_REST;
    assert!(stream.flushing.times_reading(stream.cursor, 1000, LAP, now));
    assert!(!stream.flushing.times_reading(stream.cursor + 1, 1000, LAP, now));
}

/// Whether a reader that does this with each large payload tries whether flushing is worth it.
fn tries(read: impl Fn(View<'_>) -> u64, set_up: impl Fn(&mut Reader)) -> bool {
    let mut ring = Ring::new(256, 64, 16 << 20);
    let mut reader = ring.reader(0);
    set_up(&mut reader);
    let payload = vec![1; 4 << 20];
    let mut rests_until = None;
    loop {
        ring.publish(&payload);
        assert!(matches!(reader.poll(ring.words(), &read), Poll::Message(_)));
        let flushing = reader.flushing();
        if flushing.trial.is_some() {
            return true;
        }
        if let Some(end) = flushing.rests_until
            && end > *rests_until.get_or_insert(end)
        {
            return false;
        }
    }
}

#[test]
fn reader_that_looks_at_a_word_of_large_payloads_tries_nothing_unless_it_is_lent_them() {
    if !copy::can_flush() {
        return;
    }
    let word = |view: View<'_>| view.read::<u64>(0).unwrap();
    let all = |view: View<'_>| view.words().iter().fold(0, u64::wrapping_add);
    assert!(tries(all, |_| ()));
    // It may be held up while it looks, but not each time.
    assert!((0..20).any(|_| !tries(word, |_| ())));
    assert!((0..5).all(|_| tries(word, Reader::set_lending)));
}
