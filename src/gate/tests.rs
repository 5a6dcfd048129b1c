//! The gate with claims of strangers: a cursor may hold any value at any time. Gates that are wrong on purpose show that
//! what is checked here would notice.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;
use crate::ring::{MAX_SEQUENCE, Poll, Reader, Writer};
use crate::words::{WORD_BYTES, Words};

const ARENA_BYTES: u64 = 4096;
/// Bytes of a payload in its slot.
const SMALL: usize = 8;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Publish {
        len: usize,
    },
    /// A message is begun and given up.
    GiveUp {
        len: usize,
    },
    Join {
        back: u64,
    },
    /// Somebody joins at a place that may not be there.
    JoinAnywhere {
        first: u64,
    },
    Read {
        who: usize,
        count: u64,
    },
    Lie {
        who: usize,
        cursor: u64,
    },
    /// As a lie, but close to the truth.
    NearLie {
        who: usize,
        off: i64,
    },
    Leave {
        who: usize,
    },
    Pass {
        time: Duration,
    },
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(SMALL), 2 => 33..=ARENA_BYTES as usize / 4, 1 => 33..=ARENA_BYTES as usize]
}

fn cursor() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..20_u64).prop_map(|below| u64::MAX - below),
        (0..40_u64).prop_map(|above| MAX_SEQUENCE - 20 + above),
        0..40_u64,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => len().prop_map(|len| Step::Publish { len }),
        1 => len().prop_map(|len| Step::GiveUp { len }),
        2 => (0..16_u64).prop_map(|back| Step::Join { back }),
        1 => cursor().prop_map(|first| Step::JoinAnywhere { first }),
        8 => (0..8_usize, 1..6_u64).prop_map(|(who, count)| Step::Read { who, count }),
        1 => (0..8_usize, cursor()).prop_map(|(who, cursor)| Step::Lie { who, cursor }),
        1 => (0..8_usize, -6..6_i64).prop_map(|(who, off)| Step::NearLie { who, off }),
        1 => (0..8_usize).prop_map(|who| Step::Leave { who }),
        1 => (1..9_u64).prop_map(|ms| Step::Pass { time: Duration::from_millis(ms) }),
    ]
}

#[derive(Debug, Clone)]
struct Course {
    slots: u64,
    policy: LosslessPolicy,
    /// How many messages there were before.
    before: u64,
    steps: Vec<Step>,
}

fn course() -> impl Strategy<Value = Course> {
    let policy = prop_oneof![
        3 => Just(LosslessPolicy::Block),
        1 => Just(LosslessPolicy::Evict(Duration::ZERO)),
        2 => Just(LosslessPolicy::Evict(Duration::from_millis(10))),
    ];
    let before = prop_oneof![Just(0), Just(1 << 40), Just(MAX_SEQUENCE - 2000)];
    let steps = proptest::collection::vec(step(), 1..120);
    (1..5_u32, policy, before, steps).prop_map(|(slots, policy, before, steps)| Course {
        slots: 1 << slots,
        policy,
        before,
        steps,
    })
}

/// What a gate gets wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// It is never asked.
    Open,
    /// It reckons with one slot more than there is.
    RoomForOneMore,
    /// It reckons with one slot less.
    RoomForOneLess,
    /// It does not know that messages share the arena.
    NoArena,
    /// It believes that nothing large is claimed.
    NothingLarge,
    /// It believes cursors that are a little beyond the head.
    TooFarAhead,
    /// It waits although it promised not to.
    Patient,
    /// It does not wait although it promised to.
    Impatient,
    /// It forgets those who join later.
    DoorLeftOpen,
    /// It goes on holding a place for who has left.
    GhostStays,
}

const FAULTS: [Fault; 10] = [
    Fault::Open,
    Fault::RoomForOneMore,
    Fault::RoomForOneLess,
    Fault::NoArena,
    Fault::NothingLarge,
    Fault::TooFarAhead,
    Fault::Patient,
    Fault::Impatient,
    Fault::DoorLeftOpen,
    Fault::GhostStays,
];

struct Client {
    claim: Arc<Claim>,
    /// The oldest message that it still needs, as long as it told nothing else.
    needs: Option<u64>,
    /// Since when the publisher was held up and it read nothing, at most.
    read: Instant,
}

struct World {
    fault: Fault,
    memory: Vec<AtomicU64>,
    geometry: Geometry,
    policy: LosslessPolicy,
    writer: Writer,
    gate: Arc<Gate>,
    keeper: Gatekeeper,
    clients: Vec<Client>,
    now: Instant,
}

/// The word that message `sequence` consists of.
const fn word(sequence: u64) -> u64 {
    sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl World {
    fn new(course: &Course, fault: Fault) -> Self {
        let of = |slots| Geometry::new(slots, 64, ARENA_BYTES, Some(ARENA_BYTES)).unwrap();
        let geometry = of(course.slots);
        let offered = match fault {
            Fault::Patient => LosslessPolicy::Block,
            Fault::Impatient => LosslessPolicy::Evict(Duration::ZERO),
            _ => course.policy,
        };
        let offer = LosslessOffer {
            policy: offered,
            max_subscribers: 8,
        };
        let mut gate = Gate::new(&geometry, Some(offer));
        match fault {
            Fault::RoomForOneMore => gate.room += 1,
            Fault::RoomForOneLess => gate.room -= 1,
            _ => {}
        }
        let gate = Arc::new(gate);
        let memory: Vec<_> = (0..geometry.segment_bytes() / WORD_BYTES)
            .map(|_| AtomicU64::new(0))
            .collect();
        let mut writer = Writer::new(geometry);
        writer.go_on_from(&memory, course.before, course.before & !7);
        Self {
            fault,
            memory,
            geometry,
            policy: course.policy,
            writer,
            keeper: Gatekeeper::new(gate.clone()),
            gate,
            clients: Vec::new(),
            now: Instant::now(),
        }
    }

    /// Whether a message lies in the ring, whole.
    fn retains(&self, sequence: u64) -> bool {
        let mut reader = Reader::new(self.geometry, sequence);
        let is_whole = |view: crate::ring::View<'_>| {
            (0..view.len() / WORD_BYTES).all(|at| view.words().load(at) == word(sequence))
        };
        matches!(reader.poll(Words::new(&self.memory), is_whole), Poll::Message(received) if received.value)
    }

    fn first_large(&self, since: u64) -> Option<(u64, u64)> {
        self.writer.first_large(&self.memory, since)
    }

    /// Whether a message would overwrite something from `since` on, or leave no slot for the end.
    fn is_in_the_way(&self, since: u64, len: usize) -> bool {
        let next = self.writer.next();
        let is_buried = |(_, position)| position < self.writer.floor_for(len);
        next - since >= self.geometry.slot_count() - 1 || self.first_large(since).is_some_and(is_buried)
    }

    /// Asks the gate, as the publisher does, and judges the answer.
    fn ask(&mut self, len: usize) -> Result<bool, TestCaseError> {
        let next = self.writer.next();
        if self.fault == Fault::Open || self.gate.lets_pass(len) {
            return Ok(true);
        }
        let (writer, memory, now, fault) = (&self.writer, &self.memory, self.now, self.fault);
        let wanted = Wanted {
            sequence: next + if fault == Fault::TooFarAhead { 3 } else { 0 },
            floor: if fault == Fault::NoArena {
                0
            } else {
                writer.floor_for(len)
            },
        };
        let first_large = |since| {
            writer
                .first_large(memory, since)
                .filter(|_| fault != Fault::NothingLarge)
        };
        let answer = self.keeper.admit(wanted, first_large, || now);
        self.forget_evicted()?;
        let Err((claim, seen)) = answer else {
            return Ok(true);
        };
        prop_assert_ne!(self.policy, LosslessPolicy::Evict(Duration::ZERO));
        prop_assert!(seen <= next, "held up by a claim of {} at {}", seen, next);
        prop_assert!(self.is_in_the_way(seen, len), "held up by {} for nothing", seen);
        let holder = self.clients.iter().find(|client| Arc::ptr_eq(&client.claim, &claim));
        let Some(holder) = holder else {
            return Err(TestCaseError::fail("held up by nobody"));
        };
        prop_assert!(holder.needs.is_none_or(|needs| needs == seen));
        let slowest = self.clients.iter().filter_map(|client| client.needs).min();
        prop_assert!(slowest.is_none_or(|slowest| seen <= slowest));
        prop_assert!(self.gate.status(now).holder.is_some());
        Ok(false)
    }

    /// Forgets the clients that lost their claim, and judges that.
    fn forget_evicted(&mut self) -> Result<(), TestCaseError> {
        for client in &self.clients {
            let is_ahead = client.claim.words().cursor() > self.writer.next();
            if client.claim.is_evicted() {
                let is_late = match self.policy {
                    LosslessPolicy::Block => false,
                    // A lie may take back what was read before the gate saw it.
                    LosslessPolicy::Evict(patience) => client.needs.is_none() || self.now - client.read >= patience,
                };
                prop_assert!(is_ahead || is_late, "evicted without a reason");
            } else {
                prop_assert!(!is_ahead || client.needs.is_none());
            }
        }
        self.clients.retain(|client| !client.claim.is_evicted());
        Ok(())
    }

    fn publish(&mut self, len: usize, commits: bool) -> Result<(), TestCaseError> {
        if !self.ask(len)? {
            return Ok(());
        }
        let place = self.writer.begin(&self.memory, len);
        let sequence = self.writer.next();
        let words = &self.memory[place.start..][..len.div_ceil(WORD_BYTES)];
        words.iter().for_each(|at| at.store(word(sequence), Ordering::Relaxed));
        if commits {
            self.writer.commit(&self.memory, place, len, 0, 0);
        }
        Ok(())
    }

    fn join(&mut self, first: u64, needs: Option<u64>) {
        let claim = Arc::new(Claim::private(String::new()));
        let was_open = self.gate.door.refused_from.load(Ordering::Relaxed);
        if self.gate.join(&claim, || (), || first).is_ok() {
            let read = self.now;
            self.clients.push(Client { claim, needs, read });
        }
        if self.fault == Fault::DoorLeftOpen {
            self.gate.door.refused_from.store(was_open, Ordering::Relaxed);
        }
    }

    fn carry_out(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let (head, count) = (self.writer.next(), self.clients.len().max(1));
        let now = self.now;
        match *step {
            Step::Publish { len } => self.publish(len, true)?,
            Step::GiveUp { len } => self.publish(len, false)?,
            Step::Join { back } => {
                let oldest = (head.saturating_sub(back)..head)
                    .rev()
                    .take_while(|&sequence| self.retains(sequence));
                let first = oldest.last().unwrap_or(head).max(self.gate.earliest(head));
                self.join(first, Some(first));
            }
            Step::JoinAnywhere { first } => self.join(first, None),
            Step::Read { who, count: read } => {
                if let Some(client) = self.clients.get_mut(who % count)
                    && let Some(needs) = &mut client.needs
                    && *needs < head
                {
                    *needs = head.min(*needs + read);
                    client.read = now;
                    client.claim.words().advance(*needs, false, || ());
                }
            }
            Step::Lie { who, cursor } => self.lie(who % count, cursor),
            Step::NearLie { who, off } => self.lie(who % count, head.wrapping_add_signed(off)),
            Step::Leave { who } => {
                if who % count < self.clients.len() {
                    let client = self.clients.remove(who % count);
                    if self.fault != Fault::GhostStays {
                        self.gate.leave(&client.claim, || ());
                    }
                }
            }
            Step::Pass { time } => self.now += time,
        }
        Ok(())
    }

    fn lie(&mut self, who: usize, cursor: u64) {
        if let Some(client) = self.clients.get_mut(who) {
            client.needs = None;
            client.claim.words().word().store(cursor, Ordering::Relaxed);
        }
    }

    /// What must hold at any time.
    fn check(&self) -> Result<(), TestCaseError> {
        for needs in self.clients.iter().filter_map(|client| client.needs) {
            for sequence in needs..self.writer.next() {
                prop_assert!(self.retains(sequence), "{} is claimed and gone", sequence);
            }
        }
        prop_assert_eq!(self.gate.status(self.now).subscribers, self.clients.len());
        Ok(())
    }
}

fn follow(course: &Course, fault: Fault) -> Result<(), TestCaseError> {
    let mut world = World::new(course, fault);
    for step in &course.steps {
        world.carry_out(step)?;
        world.check()?;
    }
    // The end finds its slot.
    world.writer.close(&world.memory);
    world.check()?;
    Ok(())
}

fn cases(count: u32) -> Config {
    Config {
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Config::with_cases(if cfg!(miri) { 8 } else { count })
    }
}

#[test]
fn nothing_claimed_is_overwritten_and_nobody_is_held_up_by_what_cannot_be() {
    let mut config = cases(500);
    config.max_shrink_iters = 4096;
    let judged = TestRunner::new(config).run(&course(), |course| follow(&course, Fault::None));

    judged.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
#[cfg_attr(miri, ignore = "takes more cases than Miri has time for")]
fn each_wrong_gate_is_noticed() {
    for fault in FAULTS {
        let judged = TestRunner::new_with_rng(
            cases(2000),
            proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
        )
        .run(&course(), |course| follow(&course, fault));

        assert!(judged.is_err(), "nobody notices {fault:?}");
    }
}

/// How much room the gate finds for message `next` behind a subscriber that wants message 0, in so many slots.
fn room_for(next: u64, slots: u64) -> Option<Room> {
    let geometry = Geometry::new(slots, 64, 4096, None).unwrap();
    let offer = LosslessOffer {
        policy: LosslessPolicy::Block,
        max_subscribers: 1,
    };
    let gate = Arc::new(Gate::new(&geometry, Some(offer)));
    let claim = Arc::new(Claim::private(String::new()));
    gate.join(&claim, || (), || 0).unwrap();
    let wanted = Wanted {
        sequence: next,
        floor: 0,
    };
    Gatekeeper::new(gate).admit(wanted, |_| None, Instant::now).ok()
}

#[test]
fn room_is_scarce_right_behind_the_slowest() {
    for (slots, few) in [(4096, 64), (64, 7)] {
        let last = slots - 2;

        assert_eq!(room_for(0, slots), Some(Room::Ample));
        assert_eq!(room_for(last - few + 1, slots), Some(Room::Ample));
        assert_eq!(room_for(last - few + 2, slots), Some(Room::Scarce));
        assert_eq!(room_for(last, slots), Some(Room::Scarce));
        assert_eq!(room_for(last + 1, slots), None);
    }
    assert_eq!(
        room_for(6, 8),
        Some(Room::Ample),
        "too few slots to wait for some of them"
    );
}

/// How many messages a publisher of one each millisecond gets past a subscriber that reads one each `pause`, given
/// `patience` and a second in all. The publisher waits whenever there is no room.
fn published_past_one_that_trickles(patience: Duration, pause: Duration) -> (u64, bool) {
    let geometry = Geometry::new(64, 64, 4096, None).unwrap();
    let offer = LosslessOffer {
        policy: LosslessPolicy::Evict(patience),
        max_subscribers: 1,
    };
    let gate = Arc::new(Gate::new(&geometry, Some(offer)));
    let claim = Arc::new(Claim::private(String::new()));
    gate.join(&claim, || (), || 0).unwrap();
    let mut gatekeeper = Gatekeeper::new(gate);
    let start = Instant::now();
    let (mut next, mut read) = (0, 0);
    for now in (0..1000).map(Duration::from_millis) {
        if now >= pause * (read + 1) && u64::from(read) < next {
            read += 1;
            claim.words().advance(read.into(), true, || ());
        }
        let wanted = Wanted {
            sequence: next,
            floor: 0,
        };
        if gatekeeper.admit(wanted, |_| None, || start + now).is_ok() {
            next += 1;
        }
    }
    (next, claim.is_evicted())
}

#[test]
fn subscriber_that_reads_now_and_then_does_not_hold_up_the_stream_for_longer_either() {
    let patience = Duration::from_millis(100);

    let (published, is_evicted) = published_past_one_that_trickles(patience, Duration::from_millis(50));

    // It was held up for its patience once.
    assert!(is_evicted && published >= 890, "{published} messages, {is_evicted}");
}

#[test]
fn subscriber_that_is_slow_and_gets_ahead_in_time_is_not_evicted() {
    // An eighth of the ring takes it 16 ms.
    let (published, is_evicted) =
        published_past_one_that_trickles(Duration::from_millis(100), Duration::from_millis(2));

    assert!(!is_evicted && published > 500, "{published} messages, {is_evicted}");
}
