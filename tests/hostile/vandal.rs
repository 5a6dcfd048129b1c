//! Every kind of reader on a segment that a stranger scribbles in at full speed, header and all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lapwing::discovery::{self, Info, SharedMemory, Trust};
use lapwing::probe::{ProbeOptions, probe};
use lapwing::{
    Event, FollowOptions, Follower, Join, OnLap, Segment, Subscriber, TransportChoice, WaitStrategy, words::Words,
};

use crate::lies::MAX_SEQUENCE;
use crate::segment::{ARENA, ARENA_BYTES, FLOOR, HEAD, HEARTBEAT, LARGE, LONGEST, SLOT_BYTES, SLOTS, StrangersSegment};
use crate::{METER, Watchdog, write_info};

/// Reads of one run, by all readers; more with LAPWING_HOSTILE_READS.
const READS: u64 = 150_000;
/// What a reader waits at most: long enough to fall asleep.
const A_MOMENT: Duration = Duration::from_micros(200);

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

    fn near(&mut self, middle: u64) -> u64 {
        middle.wrapping_add(self.below(5)).wrapping_sub(2)
    }

    fn near_a_power(&mut self) -> u64 {
        let power = 1 << self.below(64);
        self.near(power)
    }

    fn join(&mut self) -> Join {
        match self.below(5) {
            0 => Join::New,
            1 => Join::Latest(self.below(100)),
            2 => Join::Oldest,
            3 => Join::Sequence(self.below(1000)),
            _ => Join::Sequence(self.near_a_power()),
        }
    }
}

/// Publishes, and spoils what was published, until `is_over`. Returns how many words were spoilt.
fn vandalise(segment: &StrangersSegment, is_over: &AtomicBool) -> u64 {
    let words = segment.words();
    let mut random = Random(1);
    let (mut sequence, mut mutations) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..random.below(12) {
            segment.publish(sequence, random.below(LONGEST as u64 + 1) as usize);
            sequence += 1;
        }
        if random.below(64) == 0 {
            // Far ahead, or back in time.
            sequence = [0, 1 << 40, MAX_SEQUENCE - 200][random.below(3) as usize];
        }
        for _ in 0..random.below(8) {
            let slot = StrangersSegment::slot(sequence.wrapping_sub(random.below(8)));
            let any = random.below(words.len() as u64) as usize;
            let at = match random.below(12) {
                word @ 0..=4 => slot + word as usize,
                5 => HEAD,
                6 => FLOOR,
                7 => HEARTBEAT,
                8 => random.below(32) as usize,
                9 => ARENA + random.below(ARENA_BYTES as u64 / 8) as usize,
                _ => any,
            };
            let old = words[at].load(Ordering::Relaxed);
            let value = match random.below(12) {
                0 => random.next(),
                1 => random.near_a_power(),
                2 => random.near(sequence) << 2 | random.below(4),
                3 => random.near(MAX_SEQUENCE) << 2 | random.below(4),
                4 => random.near(sequence + SLOTS) << 1 | random.below(2),
                5 => LARGE | random.near(LONGEST as u64),
                6 => random.near(SLOT_BYTES as u64 - 32),
                7 => random.near(ARENA_BYTES as u64 / 8),
                8 => old ^ 1 << random.below(64),
                9 => old.wrapping_add(1),
                10 => old.wrapping_sub(1),
                _ => words[any].load(Ordering::Relaxed),
            };
            words[at].store(value, Ordering::Relaxed);
            mutations += 1;
        }
        // Or nobody would get in any more.
        if random.below(4) > 0 {
            segment.write_header();
        }
    }
    mutations
}

/// The stage: a segment, its info file, and how much was read.
struct Stage {
    segment: StrangersSegment,
    directory: tempfile::TempDir,
    reads: AtomicU64,
    goal: u64,
    messages: AtomicU64,
    attached: AtomicU64,
}

impl Stage {
    fn count(&self, reads: u64) -> bool {
        self.reads.fetch_add(reads, Ordering::Relaxed) < self.goal
    }

    fn info(&self) -> Info {
        let mut info = Info::of_this_process("hostile".parse().unwrap(), self.segment.incarnation);
        info.shared_memory = Some(SharedMemory {
            id: self.segment.id,
            bytes: crate::segment::BYTES as u64,
            layout: 1,
        });
        info
    }

    /// Everything that a subscriber can do, in any order.
    fn subscribe(&self, strategy: WaitStrategy, seed: u64) {
        let mut random = Random(seed);
        let mut bytes = Vec::new();
        while self.count(1) {
            let Ok(subscriber) = Subscriber::attach(self.segment.id, self.segment.incarnation, None, random.join())
            else {
                continue;
            };
            self.attached.fetch_add(1, Ordering::Relaxed);
            let on_lap = [OnLap::Retained, OnLap::Newest][random.below(2) as usize];
            let mut subscriber = subscriber.with_strategy(strategy).with_on_lap(on_lap);
            for _ in 0..100 {
                let cursor = subscriber.cursor();
                match random.below(16) {
                    0..=5 => drop(subscriber.poll_into(&mut bytes)),
                    6 => drop(subscriber.poll_typed::<[u64; 5]>()),
                    7 => drop(subscriber.poll(|view| (view.read::<u64>(3), view.tag(), view.to_vec()))),
                    8 => {
                        let drained = subscriber.drain(50, |view| view.len(), drop);
                        assert!(drained <= 50);
                    }
                    9 => drop(subscriber.receive(A_MOMENT, |view| view.to_vec())),
                    10 => drop(subscriber.wait(A_MOMENT)),
                    11 => drop(subscriber.server_state()),
                    12 => assert!(subscriber.oldest().max(subscriber.head().next) <= MAX_SEQUENCE),
                    _ => subscriber.rejoin(random.join()),
                }
                if subscriber.cursor() == cursor + 1 {
                    self.messages.fetch_add(1, Ordering::Relaxed);
                }
                assert!(bytes.len() <= LONGEST && subscriber.cursor() <= MAX_SEQUENCE);
            }
            self.count(100);
        }
    }

    fn follow(&self) {
        let path = write_info(&self.directory, &self.info());
        let mut random = Random(99);
        while self.count(1) {
            let mut options = FollowOptions::default();
            options.from = random.join();
            options.transport = TransportChoice::Auto;
            let mut follower = Follower::new(&path, options);
            for _ in 0..100 {
                self.count(1);
                match follower.next(A_MOMENT, |payload| payload.to_vec()) {
                    Event::Message(received) => assert!(received.value.len() <= LONGEST),
                    Event::Detached { reason, .. } => {
                        assert!(!reason.is_empty());
                        break;
                    }
                    Event::Ended => break,
                    Event::Idle if follower.transport().is_none() => break,
                    _ => {}
                }
            }
        }
    }

    fn look(&self) {
        let path = write_info(&self.directory, &self.info());
        while self.count(1) {
            let found = discovery::read(&path, &Trust::default()).unwrap();
            let options = ProbeOptions {
                deadline: Instant::now() + Duration::from_millis(5),
                last: 8,
            };
            let report = probe(&found, &options);
            assert!(report.messages.len() <= 8 && !report.reason.is_empty());
        }
    }
}

#[test]
fn whatever_is_written_into_a_segment_no_reader_of_it_panics_hangs_or_takes_much_memory() {
    let _watchdog = Watchdog::start();
    let goal = std::env::var("LAPWING_HOSTILE_READS").map_or(READS, |reads| reads.parse().expect("a number of reads"));
    let stage = Stage {
        segment: StrangersSegment::lay(),
        directory: tempfile::tempdir().unwrap(),
        reads: AtomicU64::new(0),
        goal,
        messages: AtomicU64::new(0),
        attached: AtomicU64::new(0),
    };
    let is_over = AtomicBool::new(false);
    let start = Instant::now();

    let mutations = std::thread::scope(|scope| {
        let vandal = scope.spawn(|| vandalise(&stage.segment, &is_over));
        let strategies = [WaitStrategy::Adaptive, WaitStrategy::Spin, WaitStrategy::Block];
        let subscribers = strategies.map(|strategy| {
            scope.spawn({
                let stage = &stage;
                move || stage.subscribe(strategy, strategy as u64)
            })
        });
        let others = [scope.spawn(|| stage.follow()), scope.spawn(|| stage.look())];
        let outcomes: Vec<_> = subscribers
            .into_iter()
            .chain(others)
            .map(|reader| reader.join())
            .collect();
        is_over.store(true, Ordering::Relaxed);
        for outcome in outcomes {
            outcome.expect("a reader panicked");
        }
        vandal.join().unwrap()
    });

    let per_second = |count: u64| count as f64 / start.elapsed().as_secs_f64();
    let (messages, attached) = (stage.messages.into_inner(), stage.attached.into_inner());
    println!(
        "hostile segment: {goal} reads, {messages} messages, {attached} attached; {:.0} reads/s, {:.0} mutations/s",
        per_second(stage.reads.into_inner()),
        per_second(mutations)
    );
    assert!(
        messages > goal / 1000 && mutations > goal / 100 && attached > 10,
        "nothing of note was read"
    );
    METER.check();
}

/// A reader that believes what it finds.
fn read_carelessly(words: Words<'_>, sequence: u64) -> u64 {
    let slot = StrangersSegment::slot(sequence);
    let length = words.load(slot + 1);
    let count = (length & !LARGE).div_ceil(8) as usize;
    let start = if length & LARGE == 0 {
        slot + 4
    } else {
        ARENA + words.load(slot + 4) as usize % (ARENA_BYTES / 8)
    };
    words.slice(start, count).iter().fold(0, u64::wrapping_add)
}

#[test]
fn reader_that_checks_no_bounds_does_not_survive_the_same() {
    let _watchdog = Watchdog::start();
    let segment = StrangersSegment::lay();
    let reader = Segment::attach(segment.id).unwrap();
    let is_over = AtomicBool::new(false);

    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| vandalise(&segment, &is_over));
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            (0..1 << 30).fold(0, |sum, sequence| read_carelessly(reader.words(), sequence) ^ sum)
        }));
        is_over.store(true, Ordering::Relaxed);
        outcome
    });

    assert!(outcome.is_err(), "the vandal is harmless");
}
