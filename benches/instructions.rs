//! How many instructions the hot paths take. A second process carries them out one at a time, and this one counts.
//!
//! ```text
//!       the process that is counted                 this process
//!   A   stands still                                lets it take an instruction, and another, ...
//!   B   stands still                                that many for nothing: getting there and away
//!       the operation
//!   C   stands still                                that many more for the operation
//! ```
//!
//! No other load and no cache changes the count. Time does in one place: a process that is carried out step by step finds
//! that what it last read off the clock is out of date, so publishing looks at the system's clock each time here. What a
//! system call does in the kernel is not counted, nor what the kernel's code in user space does, and the rest of a look at
//! the clock is taken off.
//! `.ci/instructions` compares with `benches/instructions.tsv`.

mod stand;
#[path = "../src/crashes/stepper.rs"]
mod stepper;

use std::env;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use lapwing::discovery::{self, Found, Trust};
use lapwing::{
    Batch, BlockingSubscriber, Join, LosslessOffer, LosslessPolicy, LosslessSubscriber, Poll, Publisher, Subscriber,
    View,
};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use stand::Stand;
use stepper::Stepper;

const ROLE: &str = "LAPWING_INSTRUCTIONS_ROUNDS";
const SIZES: [usize; 4] = [8, 64, 1024, 65_536];
/// Of what goes on in the same way for longer messages.
const SHORT_SIZES: [usize; 3] = [8, 64, 1024];
/// A value that fits in a slot.
type Value = [u64; 8];
/// Values in a message of some.
const VALUES: usize = 16;
/// The lowest of so many is taken: now and then the arena begins again.
const ROUNDS: usize = 5;
const READERS: usize = 64;
/// Messages that are drained in one go; the ring of the bench holds as many of any size.
const DRAINED: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

fn stand_still() {
    raise(Signal::SIGSTOP).expect("a signal to this process");
}

/// The process that is counted.
struct Counted {
    rounds: usize,
}

impl Counted {
    /// Has `operation` counted, which is tidied up after outside of the count.
    fn count<S>(&self, name: &str, size: usize, state: &mut S, operation: impl Fn(&mut S), tidy: impl Fn(&mut S)) {
        // The first ones find pages that were never touched.
        for _ in 0..2 {
            operation(state);
            tidy(state);
        }
        println!("{name}\t{size}");
        std::io::stdout().flush().expect("a pipe");
        for _ in 0..self.rounds {
            stand_still();
            stand_still();
            operation(state);
            stand_still();
            tidy(state);
        }
    }

    fn clock(&self) {
        let look = |_: &mut ()| {
            black_box(SystemTime::now());
        };
        self.count("clock", 0, &mut (), look, |_| ());
    }

    /// What publishing takes with `company`, which reads when it is asked to.
    fn publishing<C>(&self, name: &str, stand: &mut Stand, company: &mut C, read: impl Fn(&mut C)) {
        for size in SIZES {
            let payload = vec![0x5a; size];
            let mut state = (stand.server.publisher(), &mut *company);
            let publish = |state: &mut (&mut Publisher, &mut C)| {
                black_box(state.0.publish(black_box(&payload)).expect("short enough"));
            };
            self.count(&format!("publish, {name}"), size, &mut state, publish, |state| {
                read(state.1)
            });
            let mut state = (state.0.batch(), state.1);
            self.count(
                &format!("push, {name}"),
                size,
                &mut state,
                |(batch, _)| {
                    black_box(batch.push(7, black_box(&payload)).expect("short enough"));
                },
                |(_, company)| read(company),
            );
            if SHORT_SIZES.contains(&size) {
                self.lending(name, size, &mut state, &read);
            }
        }
    }

    /// What a message takes that is made in place in a batch.
    fn lending<C>(&self, name: &str, size: usize, state: &mut (Batch<'_>, &mut C), read: impl Fn(&mut C)) {
        self.count(
            &format!("lend, {name}"),
            size,
            state,
            |(batch, _)| {
                let key = black_box(7);
                let mut loan = batch.loan(size).expect("short enough");
                loan.push_words((0..size / 8).map(|word| word as u64 ^ key))
                    .expect("as many");
                black_box(loan.commit());
            },
            |(_, company)| read(company),
        );
        if size == VALUES * size_of::<Value>() {
            self.count(
                &format!("lend {VALUES} values, {name}"),
                size,
                state,
                |(batch, _)| {
                    let mut loan = batch.loan(size).expect("short enough");
                    for key in 0..VALUES as u64 {
                        let value: Value = [black_box(key); 8];
                        loan.push_typed(&value).expect("as many");
                    }
                    black_box(loan.commit());
                },
                |(_, company)| read(company),
            );
        }
        if size == size_of::<Value>() {
            self.count(
                &format!("push typed, {name}"),
                size,
                state,
                |(batch, _)| {
                    let value: Value = [black_box(7); 8];
                    black_box(batch.push_typed(7, &value).expect("short enough"));
                },
                |(_, company)| read(company),
            );
        }
    }

    /// What receiving takes: `receive` returns whether it was a message.
    fn receiving<S>(
        &self,
        name: &str,
        stand: &mut Stand,
        open: impl FnOnce(&Stand) -> S,
        receive: impl Fn(&mut S) -> bool,
    ) {
        let subscriber = open(stand);
        let mut state = (stand.server.publisher(), subscriber);
        for size in SIZES {
            let payload = vec![0x5a; size];
            state.0.publish(&payload).expect("short enough");
            self.count(
                name,
                size,
                &mut state,
                |(_, subscriber)| assert!(receive(black_box(subscriber))),
                |(publisher, _)| {
                    publisher.publish(&payload).expect("short enough");
                },
            );
            assert!(receive(&mut state.1));
        }
    }

    /// What it takes to drain several messages.
    fn draining<S>(&self, how: &str, stand: &mut Stand, open: impl Fn(&Stand) -> S, drain: impl Fn(&mut S) -> usize) {
        for size in SHORT_SIZES {
            let payload = vec![0x5a; size];
            let mut state = (open(stand), stand.server.publisher());
            let publish = |publisher: &mut Publisher| {
                for _ in 0..DRAINED {
                    publisher.publish(&payload).expect("short enough");
                }
            };
            publish(state.1);
            self.count(
                &format!("drain {DRAINED} {how}"),
                size,
                &mut state,
                |(subscriber, _)| assert_eq!(drain(black_box(subscriber)), DRAINED),
                |(_, publisher)| publish(publisher),
            );
        }
    }

    /// What it takes to read a value of a type, and to look at two of its words.
    fn typed(&self, stand: &mut Stand) {
        let mut state = (attach(stand), stand.server.publisher());
        let publish = |publisher: &mut Publisher| {
            publisher.publish_typed::<Value>(&[7; 8]).expect("short enough");
        };
        publish(state.1);
        self.count(
            "poll typed",
            size_of::<Value>(),
            &mut state,
            |(subscriber, _)| match subscriber.poll_typed::<Value>() {
                Poll::Message(message) => assert!(message.value.is_some_and(|value| value[0] == value[7])),
                other => panic!("{other:?}"),
            },
            |(_, publisher)| publish(publisher),
        );
    }

    fn lossy(&self) {
        let mut stand = Stand::new("lossy", |options| options.listen.clear());
        self.publishing("nobody there", &mut stand, &mut (), |()| ());
        self.receiving(
            "poll in place",
            &mut stand,
            attach,
            |subscriber| matches!(subscriber.poll(sum), Poll::Message(message) if message.value != 0),
        );
        let copy = Vec::with_capacity(SIZES[3]);
        let copying = |stand: &Stand| (attach(stand), copy);
        self.receiving("poll by copy", &mut stand, copying, |(subscriber, copy)| {
            matches!(subscriber.poll_into(copy), Poll::Message(_))
        });
        self.draining("in place", &mut stand, attach, |subscriber| {
            subscriber.drain(DRAINED, sum, |seen| {
                assert!(matches!(seen, Poll::Message(message) if message.value != 0));
            })
        });
        self.typed(&mut stand);
        let mut subscriber = attach(&stand);
        let nothing = |subscriber: &mut Subscriber| assert!(matches!(subscriber.poll(sum), Poll::Empty));
        self.count("poll of nothing", 0, &mut subscriber, nothing, |_| ());
        drop(subscriber);
        let _readers: Vec<Subscriber> = (0..READERS).map(|_| attach(&stand)).collect();
        wait_for_census(&stand, READERS as u64);
        self.publishing("64 readers", &mut stand, &mut (), |()| ());
    }

    fn lossless(&self) {
        let mut stand = Stand::new("lossless", |options| {
            options.lossless = Some(LosslessOffer {
                policy: LosslessPolicy::Block,
                max_subscribers: 2,
            });
        });
        let open = |stand: &Stand| LosslessSubscriber::open(&found(stand), Join::New, PATIENCE).expect("a lease");
        let mut subscriber = open(&stand);
        wait_for_census(&stand, 1);
        self.publishing("a lossless one", &mut stand, &mut subscriber, |subscriber| {
            assert!(matches!(subscriber.poll(sum), Poll::Message(_)));
        });
        drop(subscriber);
        self.receiving(
            "lossless poll in place",
            &mut stand,
            open,
            |subscriber| matches!(subscriber.poll(sum), Poll::Message(message) if message.value != 0),
        );
        self.draining("lossless", &mut stand, open, |subscriber| {
            subscriber.drain(DRAINED, sum, |seen| {
                assert!(matches!(seen, Poll::Message(message) if message.value != 0));
            })
        });
        let open = |stand: &Stand| BlockingSubscriber::open(&found(stand), Join::New, PATIENCE).expect("a lease");
        self.receiving("held message", &mut stand, open, |subscriber| match subscriber.poll() {
            Poll::Message(held) => black_box(&*held.value)[0] == 0x5a,
            _ => false,
        });
        self.draining("held", &mut stand, open, |subscriber| {
            subscriber.drain(DRAINED, |seen| {
                assert!(matches!(seen, Poll::Message(message) if black_box(message.value)[0] == 0x5a));
            })
        });
    }
}

/// Waits until the publisher knows that somebody is attached, whom it wakes from then on.
fn wait_for_census(stand: &Stand, readers: u64) {
    while stand.server.stats().readers < readers {
        thread::sleep(Duration::from_millis(1));
    }
    // The service thread counts them, too, now and then.
    thread::sleep(Duration::from_millis(300));
}

fn attach(stand: &Stand) -> Subscriber {
    Subscriber::open(&found(stand), Join::New).expect("our own segment")
}

fn found(stand: &Stand) -> Found {
    discovery::read(stand.server.info_path(), &Trust::default()).expect("an info file")
}

fn sum(view: View<'_>) -> u64 {
    view.words().iter().fold(0, u64::wrapping_add)
}

/// The process that counts.
struct Counter {
    pid: Pid,
    stepper: Stepper,
    lines: BufReader<ChildStdout>,
}

impl Counter {
    /// Lets the other process go on until it stands still. Returns whether it does; else it has ended well.
    fn go_on(&mut self) -> bool {
        ptrace::cont(self.pid, None).expect("a process that stands still");
        match self.stepper.look() {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => true,
            WaitStatus::Exited(_, 0) => false,
            other => panic!("the process that is counted: {other:?}"),
        }
    }

    /// How many instructions it takes until it stands still again.
    fn steps(&mut self) -> u64 {
        for count in 0.. {
            match self.stepper.step() {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
                WaitStatus::Stopped(_, Signal::SIGSTOP) => return count,
                other => panic!("the process that is counted: {other:?}"),
            }
        }
        unreachable!("it is counted for ever")
    }

    /// What comes next: its name, and how many instructions it takes.
    fn next(&mut self, rounds: usize) -> (String, u64) {
        let mut name = String::new();
        self.lines.read_line(&mut name).expect("a line");
        let counts = (0..rounds).map(|round| {
            assert!(round == 0 || self.go_on(), "it ends too soon");
            let nothing = self.steps();
            self.steps() - nothing
        });
        (name.trim_end().to_owned(), counts.min().expect("a round"))
    }
}

fn count(rounds: usize) {
    let mut child = Command::new(env::current_exe().expect("a program knows itself"))
        .env(ROLE, rounds.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts once more");
    let pid = Pid::from_raw(child.id().try_into().expect("a process id"));
    let lines = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
    if !matches!(waitpid(pid, None), Ok(WaitStatus::Stopped(..))) {
        eprintln!("SKIPPED: processes cannot be traced here");
        // It has ended, and was waited for.
        let _ = child.wait();
        return;
    }
    // Whatever happens here, it does not stay behind.
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL).expect("a process that stands still");
    let stepper = Stepper::of(pid);
    let mut counter = Counter { pid, stepper, lines };
    let mut clock = 0;
    while counter.go_on() {
        let (name, count) = counter.next(rounds);
        if name.starts_with("clock") {
            clock = count;
        } else if name.starts_with("publish") {
            println!("{name}\t{}", count - clock);
        } else {
            println!("{name}\t{count}");
        }
    }
    // As above.
    let _ = child.wait();
}

fn main() {
    if let Ok(rounds) = env::var(ROLE) {
        if ptrace::traceme().is_err() {
            return;
        }
        stand_still();
        let counted = Counted {
            rounds: rounds.parse().expect("a number"),
        };
        counted.clock();
        counted.lossy();
        counted.lossless();
        return;
    }
    let is_test = env::args().any(|argument| argument == "--test");
    count(if is_test { 1 } else { ROUNDS });
}
