//! Lossless readers killed, whatever they claim at that moment, beside a publisher that waits for no dead one and a
//! lossless reader that loses nothing.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use super::autopsy::{check, ensure};
use super::crew::Order;
use super::readers::start_server;
use super::stream::{SLOTS, geometry, mix};
use super::tally::Tally;
use super::victim::{Pace, Victim, stand_still, stepping_works, wait_to_be_killed};
use crate::discovery::{Found, Trust, read};
use crate::gate::{LosslessOffer, LosslessPolicy};
use crate::lossless::{BlockingSubscriber, Held, LosslessSubscriber};
use crate::ring::Poll;
use crate::socket::frame::Offer;
use crate::socket::{Delivery, RemoteSubscriber, Request, agree_with_any};
use crate::subscriber::{Join, WaitStrategy};
use crate::sys;

/// Long enough for anything here; a crew that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// To join, to read and to leave takes fewer entries to and exits from system calls.
const MOST_CALLS: u64 = 192;
/// A publisher that has gone so much further has overwritten all that a dead reader claimed.
const FURTHER: u64 = 3 * SLOTS;
/// Where control segments have their names.
const CONTROL_SEGMENTS: &str = "/dev/shm";

/// What a lossless reader does until it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Joins, reads a little and leaves, from system call to system call.
    Visits,
    /// Reads as fast as it can.
    Reads,
    /// Sleeps until there is a message.
    Sleeps,
    /// Looks at one message for ever: the publisher waits, as it does for all that follow.
    Views,
    /// Holds one message.
    Holds,
    /// Holds several, and has given back those between them.
    HoldsSome,
    /// Has given back all that it read, and reads no more.
    Idles,
    /// Was sent messages over the socket, and asks for no more.
    IdlesRemotely,
}

impl Habit {
    pub const ALL: [Self; 8] = [
        Self::Visits,
        Self::Reads,
        Self::Sleeps,
        Self::Views,
        Self::Holds,
        Self::HoldsSome,
        Self::Idles,
        Self::IdlesRemotely,
    ];

    /// Whether the publisher comes to wait for it.
    const fn holds_up(self) -> bool {
        !matches!(self, Self::Visits | Self::Reads | Self::Sleeps)
    }

    fn live(self, found: &Found) {
        let open = || LosslessSubscriber::open(found, Join::Oldest, PATIENCE).unwrap();
        let open_blocking = || BlockingSubscriber::open(found, Join::Oldest, PATIENCE).unwrap();
        match self {
            Self::Visits => {
                let mut reader = open();
                (0..SLOTS).for_each(|_| drop(reader.poll(check)));
            }
            Self::Reads => {
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
            Self::Views => {
                let mut reader = open();
                loop {
                    let _ = reader.receive(PATIENCE, |_| wait_to_be_killed());
                }
            }
            Self::Holds => {
                let reader = open_blocking();
                let _held = next(&reader);
                wait_to_be_killed();
            }
            Self::HoldsSome => {
                let reader = open_blocking();
                let mut held: Vec<_> = (0..SLOTS / 2).map(|_| next(&reader)).collect();
                held.retain(|held| held.sequence() % 2 == 0);
                wait_to_be_killed();
            }
            Self::Idles => {
                let reader = open_blocking();
                (0..SLOTS).for_each(|_| drop(next(&reader)));
                wait_to_be_killed();
            }
            Self::IdlesRemotely => {
                let addresses = &found.info.socket.as_ref().unwrap().addresses;
                let incarnation = found.info.incarnation;
                let mut reader =
                    RemoteSubscriber::connect_lossless(addresses, incarnation, Join::New, PATIENCE).unwrap();
                let _ = reader.receive(PATIENCE, |_| ()).unwrap();
                wait_to_be_killed();
            }
        }
    }
}

fn next(reader: &BlockingSubscriber) -> Held<'_> {
    loop {
        if let Poll::Message(received) = reader.receive(PATIENCE) {
            return received.value;
        }
    }
}

/// A server that waits for its lossless readers, and one of those, which must not mind what becomes of the others.
struct Spared {
    directory: std::path::PathBuf,
    server: Victim,
    found: Found,
    reader: LosslessSubscriber,
    /// The sequence that it must be given next.
    next: u64,
}

impl Spared {
    fn start(directory: &Path) -> Self {
        let mut server = start_server(directory, |options| {
            let geometry = geometry();
            options.listen = vec![([127, 0, 0, 1], 0).into()];
            options.slots = Some(geometry.slot_count());
            options.ring_bytes = geometry.arena_words() * 8;
            options.max_message_bytes = Some(geometry.max_message_bytes() as u64);
            options.lossless = Some(LosslessOffer {
                policy: LosslessPolicy::Block,
                max_subscribers: 4,
            });
        });
        let found = read(&directory.join("spared.toml"), &Trust::default()).unwrap();
        server.go_on();
        let mut reader = LosslessSubscriber::open(&found, Join::New, PATIENCE).unwrap();
        // What was lost before it came is none of its losses.
        let next = loop {
            if let Poll::Message(received) = reader.receive(PATIENCE, |_| ()) {
                break received.sequence + 1;
            }
        };
        Self {
            directory: directory.to_owned(),
            server,
            found,
            reader,
            next,
        }
    }

    /// Reads what there is. Each message is the next one, and whole.
    fn read(&mut self) -> Result<(), String> {
        loop {
            match self.reader.poll(check) {
                Poll::Message(received) => {
                    let (sequence, next) = (received.sequence, self.next);
                    ensure!(sequence == next, "{sequence} in place of {next}");
                    received.value?;
                    self.next += 1;
                }
                Poll::Empty => return Ok(()),
                other => return Err(format!("{other:?} in place of {}", self.next)),
            }
        }
    }

    /// Reads on until something is so.
    fn read_until(
        &mut self,
        patience: Duration,
        mut is_so: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            self.read()?;
            match is_so(self) {
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::yield_now(),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// What the server tells those who ask.
    fn offer(&self) -> Offer {
        let incarnation = self.found.info.incarnation;
        let request = Request {
            expected: incarnation,
            meant: incarnation,
            join: Join::New,
            delivery: Delivery::Lossy,
        };
        let addresses = &self.found.info.socket.as_ref().unwrap().addresses;
        agree_with_any(addresses, request, PATIENCE).unwrap().1.offer.unwrap()
    }

    /// How many lossless readers there are beside its own.
    fn others(&self) -> u32 {
        self.offer().subscribers - 1
    }

    /// Somebody else holds up the publisher.
    fn is_held_up(&self) -> Result<(), String> {
        let own = format!("process {} ", std::process::id());
        let holder = self.offer().holder;
        ensure!(
            holder.as_ref().is_some_and(|(_, _, who)| !who.starts_with(&own)),
            "{holder:?} holds up the publisher"
        );
        Ok(())
    }

    fn goes_on(&mut self, patience: Duration) -> Result<(), String> {
        let end = self.next + FURTHER;
        self.read_until(patience, |spared| {
            ensure!(spared.next >= end, "the publisher stands still at {}", spared.next);
            Ok(())
        })
    }

    /// The server has forgotten all others, and nothing of theirs is left.
    fn is_alone(&mut self, patience: Duration) -> Result<(), String> {
        self.read_until(patience, |spared| {
            let names = spared.control_segments();
            ensure!(names.is_empty(), "{names:?} are left in {CONTROL_SEGMENTS}");
            let others = spared.others();
            ensure!(others == 0, "{others} others are lossless subscribers");
            let segment = spared.reader.subscriber().segment();
            let attached = segment.status().unwrap().unwrap().attached;
            ensure!(attached == 2, "{attached} have the segment attached");
            Ok(())
        })?;
        let evicted = self.offer().evicted;
        ensure!(evicted == 0, "{evicted} were evicted");
        Ok(())
    }

    /// The names of control segments of this server.
    fn control_segments(&self) -> Vec<String> {
        let incarnation = self.found.info.incarnation.to_string();
        let entries = std::fs::read_dir(CONTROL_SEGMENTS).unwrap();
        entries
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter(|name| name.contains(&incarnation))
            .collect()
    }

    /// Lets the server end, and checks that nothing is left.
    fn end(mut self) -> Result<(), String> {
        std::fs::write(self.directory.join("end"), "").unwrap();
        let deadline = Instant::now() + PATIENCE;
        while self.read() != Err(format!("{:?} in place of {}", Poll::<()>::Ended, self.next)) {
            ensure!(Instant::now() < deadline, "the stream does not end");
        }
        self.server.expect_stop();
        let names = self.control_segments();
        self.server.kill();
        std::fs::remove_file(self.directory.join("end")).unwrap();
        let left = std::fs::read_dir(&self.directory).unwrap().count();
        ensure!(
            left == 0 && names.is_empty(),
            "{left} files and {names:?} are left behind"
        );
        Ok(())
    }
}

/// Kills lossless readers.
pub fn work(order: &Order, tally: &mut Tally) -> Result<(), String> {
    let mut spared = Spared::start(&order.directory);
    let can_trace = stepping_works();
    for number in 0..order.kills {
        let random = mix(order.seed ^ mix(number));
        let habit = Habit::ALL[((order.crew + number) % Habit::ALL.len() as u64) as usize];
        if habit == Habit::Visits && !can_trace {
            continue;
        }
        let victim = start(habit, &mut spared, random, can_trace)?;
        let with = match (habit, spared.others(), spared.control_segments().len()) {
            (Habit::Visits, 0, _) => "before its claim or behind it",
            (Habit::Visits, _, 1..) => "with a claim, its control segment not yet mapped",
            _ => "with a claim",
        };
        victim.kill();
        let died = Instant::now();
        let context = |error| format!("{habit:?}, {random:#x}: {error}");
        spared.goes_on(PATIENCE).map_err(context)?;
        tally.took(
            format_args!("until the publisher was {FURTHER} messages further"),
            died.elapsed(),
        );
        spared.is_alone(PATIENCE).map_err(context)?;
        tally.count(format_args!("lossless readers killed: {habit:?}"), 1);
        tally.count(format_args!("lossless readers killed {with}"), 1);
    }
    tally.count("messages received beside them, none lost", spared.next);
    spared.end()
}

/// Starts a reader and lets it come to the moment at which it is to be killed.
fn start(habit: Habit, spared: &mut Spared, random: u64, can_trace: bool) -> Result<Victim, String> {
    let found = &spared.found;
    let pace = if habit == Habit::Visits {
        Pace::Stepped
    } else {
        Pace::Free
    };
    let mut victim = Victim::start(pace, || {
        stand_still();
        habit.live(found);
        stand_still();
    });
    if habit == Habit::Visits {
        let _ = (0..random % MOST_CALLS).all(|_| victim.run_to_call());
        return Ok(victim);
    }
    victim.go_on();
    if habit.holds_up() {
        spared.read_until(PATIENCE, |spared| spared.is_held_up())?;
    } else {
        spared.read_until(PATIENCE, |spared| {
            let is_there =
                spared.others() == 1 && (habit != Habit::Sleeps || !can_trace || victim.is_in_call(libc::SYS_futex));
            ensure!(is_there, "a reader that does not come, or does not sleep");
            Ok(())
        })?;
    }
    std::thread::sleep(Duration::from_nanos(random % 300_000));
    Ok(victim)
}

/// A reader that lives, one that the publisher waits for, a control segment that is left and a lost message are noticed.
pub fn control(order: &Order, tally: &mut Tally) -> Result<(), String> {
    let short = Duration::from_millis(100);
    let mut spared = Spared::start(&order.directory);
    let alive = LosslessSubscriber::open(&spared.found, Join::New, PATIENCE).unwrap();
    let claimed = spared.is_alone(short);
    let still = spared.goes_on(short);
    drop(alive);
    spared.goes_on(PATIENCE)?;
    spared.is_alone(PATIENCE)?;

    let leftover = Path::new(CONTROL_SEGMENTS).join(format!("lapwing-{}-left", spared.found.info.incarnation));
    let file = File::create(&leftover).unwrap();
    // No other server that starts takes it away.
    assert!(sys::try_write_lock(&file).unwrap());
    let named = spared.is_alone(short);
    std::fs::remove_file(leftover).unwrap();
    spared.is_alone(PATIENCE)?;

    spared.next -= 1;
    let lost = spared.goes_on(PATIENCE);
    spared.next += 1;
    // The message that was in the wrong place was read.
    spared.next += 1;
    for (noticed, what) in [
        (claimed, "1 others are"),
        (still, "stands still"),
        (named, "are left in"),
        (lost, "in place of"),
    ] {
        let noticed = noticed.expect_err(what);
        ensure!(noticed.contains(what), "{noticed} and not {what}");
        tally.count("noticed: lossless readers", 1);
    }
    spared.end()
}
