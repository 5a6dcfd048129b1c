//! Readers killed, beside a server that goes on as if nothing had been.

use std::path::Path;
use std::time::{Duration, Instant};

use super::autopsy::{Account, check, ensure};
use super::crew::Order;
use super::stream::{Message, SLOTS, mix};
use super::tally::Tally;
use super::victim::{Pace, Victim, stand_still, stepping_works};
use crate::discovery::{Found, Trust, read};
use crate::ring::Poll;
use crate::segment::{AttachError, Segment};
use crate::server::{Server, ServerOptions};
use crate::subscriber::{Join, Subscriber, WaitStrategy};

/// Long enough for anything here; a crew that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// A reader that is run in steps runs to one of its first so many entries to and exits from system calls: to attach and
/// to leave takes fewer.
const MOST_CALLS: u64 = 64;
/// And from there on an instruction at a time, to one of the next so many.
const MOST_STEPS: u64 = 256;
/// Messages without a pause: readers that have read them sleep.
const BURST: u64 = 3;

/// Crews and victims share few processors: who waits leaves them to others.
const BETWEEN_LOOKS: Duration = Duration::from_micros(50);

/// What a reader does until it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Attaches, reads a little and leaves, in steps.
    Stepped,
    /// Attaches, reads a little and leaves.
    ComesAndGoes,
    /// Polls.
    Polls,
    /// Sleeps until there is a message.
    Sleeps,
    /// Looks at every message for longer than it stands.
    Dwells,
}

impl Habit {
    pub const ALL: [Self; 5] = [
        Self::Stepped,
        Self::ComesAndGoes,
        Self::Polls,
        Self::Sleeps,
        Self::Dwells,
    ];

    fn live(self, found: &Found) {
        let open = || Subscriber::open(found, Join::Oldest).unwrap();
        match self {
            Self::Stepped => visit(open()),
            Self::ComesAndGoes => loop {
                visit(open());
            },
            Self::Polls => {
                let mut reader = open();
                loop {
                    let _ = reader.poll(check);
                }
            }
            Self::Sleeps => {
                let mut reader = open().with_strategy(WaitStrategy::Block);
                loop {
                    let _ = reader.receive(PATIENCE, check);
                }
            }
            Self::Dwells => {
                let mut reader = open();
                loop {
                    let _ = reader.receive(PATIENCE, |view| {
                        (0..SLOTS * 100).fold(0, |sum, _| sum ^ view.to_vec().len())
                    });
                }
            }
        }
    }
}

fn visit(mut reader: Subscriber) {
    for _ in 0..BURST {
        let _ = reader.poll(check);
    }
}

/// Publishes until a file asks it to end, ends, and stands still.
pub fn start_server(directory: &Path, adjust: impl FnOnce(&mut ServerOptions)) -> Victim {
    Victim::start(Pace::Free, || {
        let mut options = ServerOptions::new("spared".parse().unwrap());
        options.info_dir = directory.to_owned();
        options.listen = Vec::new();
        options.slots = Some(64);
        adjust(&mut options);
        let mut server = Server::start(options).unwrap();
        stand_still();
        let mut sequence = 0;
        while !directory.join("end").exists() {
            for message in (sequence..sequence + BURST).map(Message::of) {
                message.publish(server.publisher(), &message.payload());
            }
            sequence += BURST;
            std::thread::sleep(Duration::from_micros(300));
        }
        drop(server);
        stand_still();
    })
}

/// A server that must not mind, and a reader that must not either.
pub struct Spared {
    directory: std::path::PathBuf,
    server: Victim,
    found: Found,
    reader: Subscriber,
    account: Account,
}

impl Spared {
    fn start(directory: &Path) -> Self {
        let mut server = start_server(directory, |_| {});
        let found = read(&directory.join("spared.toml"), &Trust::default()).unwrap();
        let reader = Subscriber::open(&found, Join::Sequence(0)).unwrap();
        server.go_on();
        Self {
            directory: directory.to_owned(),
            server,
            found,
            reader,
            account: Account::from(0),
        }
    }

    /// How many have the segment attached beside the server and its own reader.
    fn others(&self) -> u64 {
        self.reader.segment().status().unwrap().unwrap().attached - 2
    }

    /// Nobody else is attached, and the server publishes whole messages.
    fn check(&mut self, patience: Duration) -> Result<(), String> {
        let others = self.others();
        ensure!(others == 0, "{others} have the segment attached");
        let deadline = Instant::now() + patience;
        let seen = self.reader.head().next;
        while self.reader.head().next == seen {
            ensure!(Instant::now() < deadline, "the publisher stands still");
            std::thread::sleep(BETWEEN_LOOKS);
        }
        while self.account.cursor() < seen {
            self.account.poll(&mut self.reader)?;
        }
        Ok(())
    }

    /// Lets the server end, and checks that nothing is left.
    fn end(mut self) -> Result<Account, String> {
        std::fs::write(self.directory.join("end"), "").unwrap();
        let outcome = loop {
            match self.reader.receive(PATIENCE, check) {
                Poll::Message(received) => {
                    received.value?;
                    self.account.received += 1;
                }
                Poll::Lapped { missed, .. } => self.account.missed += missed,
                other => break other,
            }
        };
        ensure!(outcome == Poll::Ended, "{outcome:?} and not the end");
        let (next, counted) = (self.reader.head().next, self.account.cursor());
        ensure!(counted == next, "{counted} of {next} messages are accounted for");
        // Readers learn of the end before the info file is gone.
        self.server.expect_stop();
        self.server.kill();
        std::fs::remove_file(self.directory.join("end")).unwrap();
        drop(self.reader);
        let left = Segment::attach(self.found.info.shared_memory.unwrap().id);
        ensure!(
            matches!(left, Err(AttachError::Missing { .. })),
            "left behind: {left:?}"
        );
        let left = std::fs::read_dir(&self.directory).unwrap().count();
        ensure!(left == 0, "{left} files are left behind");
        Ok(self.account)
    }
}

/// Kills readers.
pub fn work(order: &Order, tally: &mut Tally) -> Result<(), String> {
    let mut spared = Spared::start(&order.directory);
    let can_trace = stepping_works();
    for number in 0..order.kills {
        let random = mix(order.seed ^ mix(number));
        let habit = Habit::ALL[((order.crew + number) % Habit::ALL.len() as u64) as usize];
        if habit == Habit::Stepped && !can_trace {
            continue;
        }
        let victim = start(habit, &spared.found, random, can_trace);
        // A fork has what its parent has attached.
        let what = if spared.others() > 1 { "attached" } else { "detached" };
        tally.count(format_args!("readers killed {what}"), 1);
        victim.kill();
        spared
            .check(PATIENCE)
            .map_err(|error| format!("{habit:?}, {random:#x}: {error}"))?;
        tally.count(format_args!("readers killed: {habit:?}"), 1);
    }
    let account = spared.end()?;
    tally.count("messages received beside them", account.received);
    tally.count("messages missed beside them", account.missed);
    Ok(())
}

/// Starts a reader and lets it come to the moment at which it is to be killed.
fn start(habit: Habit, found: &Found, random: u64, can_trace: bool) -> Victim {
    let pace = if habit == Habit::Stepped {
        Pace::Stepped
    } else {
        Pace::Free
    };
    let mut victim = Victim::start(pace, || {
        stand_still();
        habit.live(found);
        stand_still();
    });
    if habit == Habit::Stepped {
        let is_under_way = (0..random % MOST_CALLS).all(|_| victim.run_to_call());
        let _ = is_under_way && (0..random / MOST_CALLS % MOST_STEPS).all(|_| victim.step());
        return victim;
    }
    victim.go_on();
    let deadline = Instant::now() + PATIENCE;
    while habit == Habit::Sleeps && can_trace && !victim.is_in_call(libc::SYS_futex) {
        assert!(Instant::now() < deadline, "a reader that does not sleep");
        std::thread::sleep(BETWEEN_LOOKS);
    }
    std::thread::sleep(Duration::from_nanos(random % 300_000));
    victim
}

/// A reader that lives and a publisher that stands still are noticed.
pub fn control(order: &Order, tally: &mut Tally) -> Result<(), String> {
    let mut spared = Spared::start(&order.directory);
    spared.check(PATIENCE)?;
    let alive = Subscriber::open(&spared.found, Join::New).unwrap();
    let attached = spared.check(PATIENCE);
    drop(alive);
    spared.server.pause();
    let still = spared.check(Duration::from_millis(50));
    spared.server.go_on();
    for (noticed, what) in [(attached, "1 have"), (still, "stands still")] {
        let noticed = noticed.expect_err(what);
        ensure!(noticed.contains(what), "{noticed} and not {what}");
        tally.count("noticed: readers", 1);
    }
    spared.end().map(drop)
}
