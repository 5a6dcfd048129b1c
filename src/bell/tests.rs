//! Wakes and their intervals, with times of the tests' choice and threads that really sleep.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use mio::{Poll, Token, Waker};

use super::*;
use crate::gate::Gate;
use crate::incarnation::Incarnation;
use crate::layout::{Geometry, HEAD_WORD, Header};
use crate::publisher::Publisher;
use crate::segment::{Access, Owned, Pages};
use crate::wakes::OWED;

const PATIENCE: Duration = Duration::from_secs(60);

/// A service thread's duties, carried out at times of the test's choice.
struct Stage {
    owned: Owned,
    bell: Arc<Bell>,
    attendant: Attendant,
    now: Instant,
    messages: u64,
    _poll: Poll,
}

impl Stage {
    fn new() -> Self {
        let geometry = Geometry::new(64, 128, 4096, None).unwrap();
        // No heartbeat is due in the meantime.
        let header = Header::new(&geometry, Incarnation::random().unwrap(), "test", 1, 3_600_000_000_000);
        let owned = Owned::create(header, geometry, Access::default(), Pages::default()).unwrap();
        let poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), Token(0)).unwrap();
        let (bell, now) = (Arc::new(Bell::new()), Instant::now());
        let mut attendant = Attendant::new(bell.clone(), owned.share(), waker, now);
        // The first census and the first heartbeat.
        attendant.turn(now);
        attendant.next_census = now + Duration::from_secs(3600);
        Self {
            owned,
            bell,
            attendant,
            now,
            messages: 0,
            _poll: poll,
        }
    }

    /// Publishes a message and leaves its wake to the service thread.
    fn publish(&mut self) {
        self.messages += 1;
        self.owned.memory()[HEAD_WORD].store(self.messages << 1, Ordering::Release);
        self.bell.wakes.withhold(READERS);
    }

    /// Takes a turn when one is due. Returns how many milliseconds later the next one is.
    fn turn(&mut self) -> u128 {
        let next = self.attendant.turn(self.now);
        let pause = next - self.now;
        self.now = next;
        pause.as_millis()
    }

    /// Streams for five turns.
    fn stream(&mut self) -> [u128; 5] {
        [(); 5].map(|()| {
            self.publish();
            self.turn()
        })
    }
}

/// A thread that sleeps until the head moves or somebody wakes it. It returns how long it slept.
fn sleeper(stage: &Stage) -> JoinHandle<Duration> {
    let segment = stage.owned.share();
    let word = sys::futex_word(segment.head_word()).as_ptr();
    let sleep = format!("{} {word:p} ", libc::SYS_futex);
    let (tell, told) = mpsc::channel();
    let sleeper = thread::spawn(move || {
        tell.send(rustix::thread::gettid()).unwrap();
        let seen = segment.words().load(HEAD_WORD);
        let started = Instant::now();
        sleep_while_head_is(&segment, seen, PATIENCE);
        started.elapsed()
    });
    let in_kernel = format!("/proc/self/task/{}/syscall", told.recv().unwrap().as_raw_nonzero());
    let is_asleep = || std::fs::read_to_string(&in_kernel).is_ok_and(|call| call.starts_with(&sleep));
    while !is_asleep() && !sleeper.is_finished() {
        thread::yield_now();
    }
    sleeper
}

#[test]
fn trailing_wakes_become_rare_while_a_stream_goes_on_and_nobody_sleeps() {
    let mut stage = Stage::new();

    assert_eq!(stage.stream(), [1, 2, 4, 8, 8]);
    // The stream pauses: nothing more is due.
    assert!(stage.turn() > 1000);
    assert_eq!(stage.bell.wakes.asked() & OWED, 0);
    assert_eq!(stage.stream(), [1, 2, 4, 8, 8]);
}

#[test]
fn trailing_wake_that_found_a_sleeper_is_soon_followed_by_the_next() {
    let mut stage = Stage::new();
    assert_eq!(stage.stream().last(), Some(&8));
    stage.publish();
    let sleeper = sleeper(&stage);

    let pause = stage.turn();

    assert!(sleeper.join().unwrap() < PATIENCE, "woken");
    assert_eq!(pause, 1);
    stage.publish();
    assert_eq!(stage.turn(), 2);
}

#[test]
fn sleeper_whom_the_publisher_found_makes_the_service_thread_look_soon_again() {
    let mut stage = Stage::new();
    let mut ringer = Ringer::new(stage.bell.clone(), stage.owned.share());
    stage.bell.wakes.ask(READERS, || ());
    assert_eq!(stage.stream().last(), Some(&8));
    stage.publish();
    let sleeper = sleeper(&stage);

    ringer.ring(|| 1_000_000);

    assert!(sleeper.join().unwrap() < PATIENCE, "woken");
    assert_eq!(stage.turn(), 1);
    stage.publish();
    assert_eq!(stage.turn(), 2);
}

#[test]
fn publisher_wakes_ever_less_often_while_a_stream_goes_on_and_nobody_sleeps() {
    let stage = Stage::new();
    let mut ringer = Ringer::new(stage.bell.clone(), stage.owned.share());
    stage.bell.wakes.ask(READERS, || ());
    let mut wakes = Vec::new();

    for now in (1_000_000..40_000_000).step_by(10_000) {
        ringer.ring(|| now);
        if wakes.last() != Some(&ringer.last_wake_ns) {
            wakes.push(ringer.last_wake_ns);
        }
    }

    let pauses: Vec<u64> = wakes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..4], [40_000, 70_000, 130_000, 260_000]);
    assert_eq!(pauses.last(), Some(&8_000_000));
}

#[test]
fn publisher_that_waits_for_room_has_published_nothing_by_that() {
    let stage = Stage::new();
    let mut ringer = Ringer::new(stage.bell.clone(), stage.owned.share());
    stage.bell.wakes.ask(READERS, || ());
    let [message, again, next] = [1_000_000, 1_100_000, 1_105_000];

    ringer.ring(|| message);
    ringer.ring_again(|| again);
    ringer.ring(|| next);

    // Who saw the first one had long enough to fall asleep.
    assert_eq!(ringer.last_wake_ns, next);
}

#[test]
fn batch_without_a_message_rings_for_nobody() {
    let Stage { owned, bell, .. } = Stage::new();
    let gate = Arc::new(Gate::new(owned.share().geometry(), None));
    let mut publisher = Publisher::new(owned, bell.clone(), gate);
    bell.wakes.ask(SERVICE, || ());

    drop(publisher.batch());
    assert_eq!(bell.wakes.asked() & SERVICE, SERVICE);

    publisher.batch().push(0, b"x").unwrap();
    assert_eq!(bell.wakes.asked() & SERVICE, 0);
}
