//! A stranger who writes between any two loads of a reader: any word of the ring, any value, at any moment.
//!
//! He acts inside of the loads, in the reader's own thread: whatever is loaded twice may differ, and a seed repeats a
//! run. Nothing that he does may make a reader panic, look outside of the ring, look for long or go back.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::*;
use crate::sync::AtomicU64;
use crate::words::watch;
use crate::words::{WORD_BYTES, words_for};

/// Reads of one run of the test; more with LAPWING_HOSTILE_READS.
const READS: u64 = 600_000;
/// Reads of one ring before the next is laid.
const READS_PER_RING: u64 = 500;

/// Numbers that look random (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number near `middle`.
    fn near(&mut self, middle: u64) -> u64 {
        middle.wrapping_add(self.below(7)).wrapping_sub(3)
    }
}

/// The stranger, and what he has seen of the reader.
struct Stranger {
    memory: Rc<[AtomicU64]>,
    geometry: Geometry,
    random: Random,
    /// The sequence that the reader wants.
    wanted: Rc<Cell<u64>>,
    /// One load in so many is spoilt.
    patience: u64,
    loads: u64,
    writes: u64,
}

impl Stranger {
    /// To be called before every load.
    fn tempt(&mut self) {
        self.loads += 1;
        if self.random.below(self.patience) == 0 {
            self.write();
        }
    }

    fn write(&mut self) {
        self.writes += 1;
        let word = self.word();
        let value = self.value(word);
        self.memory[word].store(value, Ordering::Relaxed);
    }

    /// A word that means something, most often one of the slot that the reader looks at.
    fn word(&mut self) -> usize {
        let wanted = self.wanted.get();
        let mine = self.geometry.slot_at(wanted);
        let other = self.geometry.slot_at(self.random.next());
        match self.random.below(16) {
            pick @ 0..=4 => mine + pick as usize,
            5 | 6 => mine + STAMP,
            pick @ 7..=11 => other + pick as usize - 7,
            12 => HEAD_WORD,
            13 => FLOOR_WORD,
            _ => self.random.below(self.memory.len() as u64) as usize,
        }
    }

    /// What a publisher might have written there, or nearly so.
    fn value(&mut self, word: usize) -> u64 {
        let (wanted, slots) = (self.wanted.get(), self.geometry.slot_count());
        let laps = self.random.below(3) * slots;
        let longest = self.geometry.max_message_bytes() as u64;
        if self.random.below(3) == 0 {
            return self.rubbish();
        }
        match word.wrapping_sub(self.geometry.slot_at(wanted)) {
            STAMP if self.random.below(4) > 0 => ready(wanted),
            STAMP => ready(wanted.wrapping_add(laps)),
            LENGTH if self.random.below(2) == 0 => {
                self.random.below(longest.min(self.geometry.inline_bytes() as u64) + 1)
            }
            LENGTH => LARGE | self.random.below(longest + 1),
            BODY => self.random.below(self.geometry.arena_words()),
            _ if word == HEAD_WORD => self.random.near(wanted.wrapping_add(laps)) << 1 | self.random.below(2),
            _ if word == FLOOR_WORD => self.random.below(2) * self.random.below(self.geometry.arena_words()),
            _ => self.rubbish(),
        }
    }

    fn rubbish(&mut self) -> u64 {
        let (wanted, shift) = (self.wanted.get(), self.random.below(64));
        let (inline, longest) = (self.geometry.inline_bytes(), self.geometry.max_message_bytes());
        let elsewhere = self.random.below(self.memory.len() as u64) as usize;
        let old = self.memory[elsewhere].load(Ordering::Relaxed);
        match self.random.below(12) {
            0 => self.random.next(),
            1 => self.random.near(1 << shift),
            2 => self.random.near(0),
            3 => self.random.near(wanted) << 2 | self.random.below(4),
            4 => self.random.near(MAX_SEQUENCE) << 2 | self.random.below(4),
            5 => self.random.near(inline as u64),
            6 => LARGE | self.random.near(longest as u64),
            7 => LARGE | self.random.near(self.geometry.arena_bytes() as u64),
            8 => self.random.near(self.geometry.arena_words() << (shift % 50)),
            9 => old ^ 1 << shift,
            // Slots that are swapped, or what was good a while ago.
            _ => old,
        }
    }
}

/// A ring of some shape, and the stranger at it.
struct Stage {
    geometry: Geometry,
    memory: Rc<[AtomicU64]>,
    stranger: Rc<RefCell<Stranger>>,
    wanted: Rc<Cell<u64>>,
    random: Random,
}

impl Stage {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let arena = 4096 << random.below(3);
        let longest = [None, Some(1), Some(arena), Some(arena / 2 + 1)][random.below(4) as usize];
        let geometry = Geometry::new(2 << random.below(6), 32 * (2 + random.below(9)), arena, longest).unwrap();
        let memory: Rc<[AtomicU64]> = (0..geometry.segment_bytes() / WORD_BYTES)
            .map(|_| AtomicU64::new(0))
            .collect();
        let mut writer = Writer::new(geometry);
        writer.go_on_from(&memory, [0, 1 << 32, MAX_SEQUENCE - 300][random.below(3) as usize], 0);
        for _ in 0..random.below(200) {
            let len = random.below(geometry.max_message_bytes() as u64 + 1);
            writer.publish(&memory, &vec![7; len as usize], || 0, 0);
        }
        let wanted = Rc::new(Cell::new(writer.next()));
        let stranger = Stranger {
            memory: memory.clone(),
            geometry,
            random: Random(random.next()),
            wanted: wanted.clone(),
            patience: 1 << random.below(6),
            loads: 0,
            writes: 0,
        };
        Self {
            geometry,
            memory,
            stranger: Rc::new(RefCell::new(stranger)),
            wanted,
            random,
        }
    }

    /// Does `work` with the stranger at hand. Returns how many loads that took as well.
    fn watched<R>(&self, work: impl FnOnce(Words<'_>) -> R) -> (R, u64) {
        let (stranger, before) = (self.stranger.clone(), self.stranger.borrow().loads);
        let result = watch::during(
            move |_| stranger.borrow_mut().tempt(),
            || work(Words::new(&self.memory)),
        );
        (result, self.stranger.borrow().loads - before)
    }

    /// Loads that a scan may take: a look at a slot costs four, and no slot is looked at twice.
    fn most_loads_of_a_scan(&self) -> u64 {
        4 * self.geometry.slot_count().min(MOST_LOOKS) + 8
    }

    /// Polls once. Returns whether there was a message.
    fn poll(&mut self, course: &mut Course<'_, '_>) -> bool {
        let wanted = course.cursor();
        self.wanted.set(wanted);
        let offset = self.random.below(80) as usize;
        let (outcome, loads) = self.watched(|_| {
            course.poll(|view| {
                assert_eq!(view.words().len(), words_for(view.len()));
                assert_eq!(view.read::<[u8; 11]>(offset).is_some(), offset + 11 <= view.len());
                view.to_vec()
            })
        });
        let longest = self.geometry.max_message_bytes().max(self.geometry.inline_bytes());
        let (moved_to, most_words) = match &outcome {
            Poll::Message(received) => {
                assert_eq!((received.sequence, received.len), (wanted, received.value.len()));
                assert!(received.len <= longest);
                (wanted + 1, words_for(received.len))
            }
            Poll::Lapped { first, missed } => {
                assert!(*first == wanted && *missed > 0);
                (wanted + missed, words_for(longest))
            }
            _ => (wanted, words_for(longest)),
        };
        assert!(course.cursor() == moved_to && moved_to <= MAX_SEQUENCE);
        assert!(
            loads <= 16 + most_words as u64 + self.most_loads_of_a_scan(),
            "{loads} loads"
        );
        matches!(outcome, Poll::Message(_))
    }

    /// Whatever else a reader asks of a ring.
    fn ask(&mut self, reader: &mut Reader) {
        let mut most_loads = self.most_loads_of_a_scan();
        let (answer, loads) = match self.random.below(5) {
            0 => self.watched(|words| oldest(&self.geometry, words, 0)),
            4 => {
                // And a second look at what halves the ring, and at what it leaves.
                most_loads = 2 * most_loads + 4 * u64::from(self.geometry.slot_count().ilog2() + 1);
                self.watched(|words| unbroken(&self.geometry, words, 0))
            }
            1 => self.watched(|words| oldest(&self.geometry, words, reader.cursor().saturating_sub(5))),
            2 => self.watched(|words| head(words).next),
            _ => self.watched(|words| u64::from(reader.is_ready(words) || reader.sleep_word(words).is_some())),
        };
        assert!(answer <= MAX_SEQUENCE);
        assert!(loads <= most_loads, "{loads} loads");
        match self.random.below(4) {
            0 => reader.seek(answer),
            1 => reader.seek(self.random.next() >> self.random.below(64)),
            2 => reader.seek(self.random.near(MAX_SEQUENCE)),
            _ => {
                let on_lap = [OnLap::Retained, OnLap::Newest][self.random.below(2) as usize];
                *reader = reader.clone().on_lap(on_lap);
            }
        }
    }
}

#[test]
fn whatever_is_written_between_any_two_loads_no_reader_panics_goes_back_or_looks_for_long() {
    let reads = std::env::var("LAPWING_HOSTILE_READS").map_or(READS, |reads| reads.parse().expect("a number of reads"));
    let start = std::time::Instant::now();
    let (mut loads, mut writes, mut messages) = (0, 0, 0);
    for seed in 0..reads.div_ceil(READS_PER_RING) {
        let mut stage = Stage::new(seed);
        let mut reader = Reader::new(
            stage.geometry,
            stage.wanted.get().saturating_sub(stage.random.below(100)),
        );
        if seed % 2 == 1 {
            reader.set_flushing();
        }
        let memory = stage.memory.clone();
        let words = Words::new(&memory);
        let mut left = READS_PER_RING;
        while left > 0 {
            left -= 1;
            stage.wanted.set(reader.cursor());
            match stage.random.below(8) {
                0 => stage.ask(&mut reader),
                1..4 => messages += u64::from(stage.poll(&mut reader.glance(words))),
                _ => {
                    let mut course = reader.course(words);
                    for _ in 0..stage.random.below(left.min(40) + 1) {
                        left -= 1;
                        messages += u64::from(stage.poll(&mut course));
                    }
                }
            }
        }
        loads += stage.stranger.borrow().loads;
        writes += stage.stranger.borrow().writes;
    }
    let per_second = |count: u64| count as f64 / start.elapsed().as_secs_f64();
    println!(
        "hostile ring: {reads} reads, {messages} messages; {:.0} reads/s, {:.0} loads/s, {:.0} mutations/s",
        per_second(reads),
        per_second(loads),
        per_second(writes)
    );
    // A stranger whom nobody believes proves nothing.
    assert!(
        messages > reads / 100 && writes > reads / 10,
        "only {messages} messages and {writes} mutations in {reads} reads"
    );
}

/// Memory of a ring of twice as many slots as are looked at one by one.
fn vast_ring() -> (Geometry, Vec<AtomicU64>) {
    let geometry = Geometry::new(2 * MOST_LOOKS, 64, 4096, None).unwrap();
    let words = geometry.segment_bytes() / WORD_BYTES;
    (geometry, (0..words).map(|_| AtomicU64::new(0)).collect())
}

#[test]
fn scan_of_a_vast_ring_ends_after_the_looks_that_a_reader_can_afford() {
    let (geometry, memory) = vast_ring();
    // Nothing can be read, and the head is far away.
    let head = 1 << 40;
    memory[HEAD_WORD].store(head << 1, Ordering::Relaxed);
    memory[geometry.slot_at(0)].store(ready(geometry.slot_count()), Ordering::Relaxed);
    let mut reader = Reader::new(geometry, 0);
    let loads = Rc::new(Cell::new(0_u64));
    let count = || {
        let loads = loads.clone();
        loads.set(0);
        move |_: &AtomicU64| loads.set(loads.get() + 1)
    };

    let start = watch::during(count(), || oldest(&geometry, Words::new(&memory), 0));
    let loads_of_a_join = loads.get();
    let claimed = watch::during(count(), || unbroken(&geometry, Words::new(&memory), 0));
    assert!(claimed == head && loads.get() <= 4 * 20, "{} loads", loads.get());
    let outcome = watch::during(count(), || reader.poll(Words::new(&memory), |_| ()));
    let loads_of_a_lap = loads.get();

    assert_eq!((start, outcome), (head, Poll::Lapped { first: 0, missed: head }));
    // A look at a slot that is not ready takes two. The other half of the ring is bisected.
    for loads in [loads_of_a_join, loads_of_a_lap] {
        assert!(
            (MOST_LOOKS..=2 * (MOST_LOOKS + 18) + 16).contains(&loads),
            "{loads} loads for {MOST_LOOKS} looks"
        );
    }
}

#[test]
fn search_of_a_vast_ring_of_short_messages_ends_after_as_many_looks() {
    let (geometry, memory) = vast_ring();
    let mut writer = Writer::new(geometry);
    for _ in 0..geometry.slot_count() {
        writer.publish(&memory, b"short", || 0, 0);
    }
    let loads = Rc::new(Cell::new(0));
    let counted = loads.clone();

    let start = watch::during(
        move |_| counted.set(counted.get() + 1),
        || unbroken(&geometry, Words::new(&memory), 0),
    );

    // A look at a short message takes three.
    assert!(
        start == 0 && loads.get() <= 3 * MOST_LOOKS + 16,
        "{} loads",
        loads.get()
    );
}

#[test]
fn search_of_a_vast_ring_ends_whatever_is_written_while_the_rest_is_bisected() {
    let (geometry, memory) = vast_ring();
    memory[HEAD_WORD].store((3 * MOST_LOOKS) << 1, Ordering::Relaxed);
    for seed in 0..4 {
        for sequence in 2 * MOST_LOOKS..3 * MOST_LOOKS {
            memory[geometry.slot_at(sequence)].store(ready(sequence), Ordering::Relaxed);
        }
        let (loads, mut random) = (Rc::new(Cell::new(0)), Random(seed));
        let counted = loads.clone();
        // What is looked at first was gone before; of the rest he takes what he likes as it is looked at.
        let tempt = move |word: &AtomicU64| {
            counted.set(counted.get() + 1);
            if counted.get() > 2 * MOST_LOOKS && random.below(2) == 0 {
                word.store(0, Ordering::Relaxed);
            }
        };

        let start = watch::during(tempt, || oldest(&geometry, Words::new(&memory), 0));

        assert!((2 * MOST_LOOKS..=3 * MOST_LOOKS).contains(&start), "{start}");
        assert!(loads.get() <= 2 * MOST_LOOKS + 4 * 18 + 8, "{} loads", loads.get());
    }
}
