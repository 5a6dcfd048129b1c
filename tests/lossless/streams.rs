//! Many lossless subscribers that join and leave while a server publishes as fast as they let it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lapwing::discovery::Found;
use lapwing::socket::frame::Offer;
use lapwing::{BlockingSubscriber, Join, LosslessSubscriber, Poll, RemoteSubscriber, Subscriber, Waited};
use rustix::process::Signal;

use crate::stage::{PATIENCE, Server};

/// Checks that a stream has every message of `--generate`, in order, from the first that is seen on.
#[derive(Default)]
struct Checker {
    next: Option<u64>,
    count: u64,
}

impl Checker {
    /// Takes what a poll found: the sequence that the payload holds.
    fn take(&mut self, polled: Poll<u64>) -> ControlFlow<String> {
        match polled {
            Poll::Message(received) => {
                if received.value != received.sequence {
                    return ControlFlow::Break(format!("{} in message {}", received.value, received.sequence));
                }
                let next = *self.next.get_or_insert(received.sequence);
                if received.sequence != next {
                    return ControlFlow::Break(format!("message {} instead of {next}", received.sequence));
                }
                self.next = Some(next + 1);
                self.count += 1;
            }
            Poll::Empty => {}
            // What is gone at the beginning was never claimed.
            Poll::Lapped { .. } if self.next.is_none() => {}
            other => return ControlFlow::Break(format!("{other:?} behind {:?}", self.next)),
        }
        ControlFlow::Continue(())
    }

    /// Takes `count` messages from `poll`.
    fn run(count: u64, mut poll: impl FnMut() -> Poll<u64>) -> Result<(), String> {
        let (mut checker, deadline) = (Self::default(), Instant::now() + PATIENCE);
        while checker.count < count {
            if let ControlFlow::Break(fault) = checker.take(poll()) {
                return Err(fault);
            }
            if Instant::now() > deadline {
                return Err(format!("only {} messages came", checker.count));
            }
        }
        Ok(())
    }
}

fn number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload[..8].try_into().unwrap())
}

/// What became of one that read through memory or a socket: what was missing, if anything was, and whether it was evicted.
type Outcome = (Result<(), String>, bool);

fn read_memory(found: &Found, join: Join, count: u64) -> Outcome {
    let mut subscriber = LosslessSubscriber::open(found, join, PATIENCE).unwrap();
    let outcome = Checker::run(count, || subscriber.receive(PATIENCE, |view| number(&view.to_vec())));
    (outcome, subscriber.is_evicted())
}

fn read_socket(found: &Found, join: Join, count: u64) -> Outcome {
    let info = &found.info;
    let addresses = &info.socket.as_ref().unwrap().addresses;
    let mut subscriber = RemoteSubscriber::connect_lossless(addresses, info.incarnation, join, PATIENCE).unwrap();
    let outcome = Checker::run(count, || subscriber.receive(PATIENCE, number).unwrap());
    (outcome, !subscriber.is_lossless())
}

/// Is lent the messages, some at a time.
fn read_lent(found: &Found, join: Join, count: u64) -> Outcome {
    let mut subscriber = BlockingSubscriber::open(found, join, PATIENCE).unwrap();
    let (mut checker, mut fault) = (Checker::default(), None);
    while fault.is_none() && checker.count < count {
        if subscriber.wait(PATIENCE) != Waited::Ready {
            fault = Some(format!("only {} messages came", checker.count));
        }
        subscriber.drain(64, |outcome| {
            if let (None, ControlFlow::Break(first)) = (&fault, checker.take(outcome.map(number))) {
                fault = Some(first);
            }
        });
    }
    (fault.map_or(Ok(()), Err), false)
}

/// Reads nothing until it is evicted.
fn sleep(found: &Found) {
    let subscriber = LosslessSubscriber::open(found, Join::New, PATIENCE).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !subscriber.is_evicted() {
        assert!(Instant::now() < deadline, "never evicted");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How one subscriber takes so many messages.
type Way = fn(&Found, Join, u64) -> Outcome;

/// 64 subscribers that join and leave at once, each in one of the ways. Returns how many of their subscriptions were evicted.
fn join_and_leave(found: &Found, ways: &[Way]) -> usize {
    const ROUNDS: u64 = 4;
    let evicted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (thread, read) in (0..64).zip(ways.iter().cycle()) {
            let evicted = &evicted;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let join = if round % 2 == 0 { Join::New } else { Join::Oldest };
                    let count = 300 + thread * 31 % 1700;
                    let (outcome, is_evicted) = read(found, join, count);
                    if is_evicted {
                        evicted.fetch_add(1, Ordering::Relaxed);
                    } else {
                        assert_eq!(outcome, Ok(()), "thread {thread}, round {round}");
                    }
                }
            });
        }
    });
    evicted.into_inner()
}

#[test]
fn sixty_four_that_join_and_leave_at_speed_lose_nothing() {
    // One that has left makes room a moment later.
    let mut server = Server::start("--generate --rate max --slots 1024 --lossless block --max-lossless 200");

    let evicted = join_and_leave(&server.found(), &[read_memory, read_socket, read_lent]);

    assert_eq!(evicted, 0);
    server.wait_for("all have left", |_, offer| (offer.subscribers, offer.evicted) == (0, 0));
    assert!(server.process.end_by(Signal::TERM).success());
}

#[test]
fn evicting_some_costs_the_others_nothing() {
    let server = Server::start("--generate --rate max --slots 1024 --lossless evict:300ms --max-lossless 200");
    let found = &server.found();

    let evicted = std::thread::scope(|scope| {
        let sleepers: Vec<_> = (0..3).map(|_| scope.spawn(|| sleep(found))).collect();
        let evicted = join_and_leave(found, &[read_memory, read_socket]);
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
        evicted
    });

    let is_over = |offer: &Offer| offer.subscribers == 0 && offer.evicted >= 3 + evicted as u64;
    server.wait_for("all have left", |_, offer| is_over(offer));
}

#[test]
fn input_begins_once_all_who_are_waited_for_are_there_and_they_get_all_of_it() {
    const COUNT: u64 = 5000;
    let options = "--rate max --slots 64 --lossless block --wait-for 2 --exit-at-end --linger 90s";
    let mut server = Server::start(&format!("--generate --count {COUNT} {options}"));
    let mut first = server.lossless(Join::New);
    server.wait_for("one is there", |_, offer| offer.subscribers == 1);
    assert_eq!(first.subscriber().head().next, 0);

    let second = server.lossless(Join::New);

    std::thread::scope(|scope| {
        for mut subscriber in [first, second] {
            scope.spawn(move || {
                for sequence in 0..COUNT {
                    let Poll::Message(received) = subscriber.receive(PATIENCE, |view| number(&view.to_vec())) else {
                        panic!("no message {sequence}")
                    };
                    assert_eq!((received.sequence, received.value), (sequence, sequence));
                }
                assert_eq!(subscriber.receive(PATIENCE, |_| ()), Poll::Ended);
            });
        }
    });
    assert!(server.process.wait().success());
}

#[test]
fn checker_notices_what_a_lossy_subscriber_loses() {
    let server = Server::start("--generate --rate max --slots 1024 --lossless block");
    let mut subscriber = Subscriber::open(&server.found(), Join::New).unwrap();
    let mut is_first = true;

    let outcome = Checker::run(2000, || {
        let polled = subscriber.receive(PATIENCE, |view| number(&view.to_vec()));
        // What it is overtaken by before its first message is no loss to it.
        if is_first && matches!(polled, Poll::Message(_)) {
            is_first = false;
            server.wait_until_beyond(subscriber.cursor() + 2048);
        }
        polled
    });

    assert!(outcome.unwrap_err().contains("Lapped"));
}
