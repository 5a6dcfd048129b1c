//! A reading process: follows the server across its restarts, looks at every bit, and keeps an account of each life.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use lapwing::discovery::{self, Trust};
use lapwing::{Event, FollowOptions, Follower, Incarnation, Join, Subscriber};

use crate::SERVER;
use crate::account::{Account, Report};
use crate::class::{self, Class, Habit};
use crate::member::{self, Curtain, say};
use crate::payload::Stream;
use crate::sabotage::Sabotage;

/// How often a reader says how far it is.
const SAY_INTERVAL: Duration = Duration::from_secs(1);
/// How long it waits before it looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(200);
/// How long an attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// What a slow reader keeps up with, in percent of what is published.
const SLOW_PERCENT: u64 = 80;

pub fn run(directory: &Path, index: usize, rate: u64, sabotage: Option<Sabotage>) -> ExitCode {
    let curtain = Curtain::new();
    // One saboteur is enough: the first reader, which is eager and over shared memory.
    let mut reader = Reader::new(directory, Class::of(index), rate, sabotage.filter(|_| index == 0));
    member::leave(reader.read(&curtain, class::join(index)))
}

struct Reader {
    path: PathBuf,
    class: Class,
    /// A slow reader pauses after so many messages, for a second.
    messages_a_second: u64,
    sabotage: Option<Sabotage>,
    /// The life that is being read, and how its messages look.
    account: Option<(Incarnation, Account, Stream)>,
    /// What was published when it had attached: before that a lossless reader may find that something is gone already.
    attached_at: u64,
    payload: Vec<u8>,
    spare: Vec<u8>,
    /// What a saboteur does not give back.
    kept: (Vec<Subscriber>, Vec<File>, Vec<Vec<u8>>),
}

impl Reader {
    fn new(directory: &Path, class: Class, rate: u64, sabotage: Option<Sabotage>) -> Self {
        Self {
            path: directory.join(SERVER).with_extension("toml"),
            class,
            messages_a_second: rate * SLOW_PERCENT / 100,
            sabotage,
            account: None,
            attached_at: 0,
            payload: Vec::new(),
            spare: Vec::new(),
            kept: (Vec::new(), Vec::new(), Vec::new()),
        }
    }

    fn read(&mut self, curtain: &Curtain, join: Join) -> Result<(), String> {
        let mut options = FollowOptions::default();
        options.from = join;
        options.transport = self.class.transport();
        options.strategy = self.class.strategy();
        options.lossless = !self.class.may_miss();
        // Nobody is in a hurry: on a machine with other work a server may take long to answer.
        options.connect_timeout = CONNECT_TIMEOUT;
        let mut follower = Follower::new(&self.path, options);
        let mut next_say = Instant::now() + SAY_INTERVAL;
        let mut payload = std::mem::take(&mut self.payload);
        while !curtain.has_fallen() {
            let event = follower.next(TICK, |found| {
                payload.clear();
                found.append_to(&mut payload);
            });
            match event {
                Event::Message(message) => self.take(message.sequence, message.tag, &payload)?,
                Event::Gap { first, missed } => self.miss(first, missed)?,
                Event::Attached {
                    incarnation, cursor, ..
                } => self.attach(incarnation, cursor)?,
                Event::Ended => self.end()?,
                // Found again, over the same transport: the account goes on.
                Event::Detached { died: false, .. } => {}
                Event::Detached { reason, .. } => return Err(format!("server: {reason}")),
                Event::Evicted { cursor } => return Err(format!("lost: evicted at {cursor}")),
                Event::Refused { reason, .. } => return Err(format!("refused: {reason}")),
                _ => {}
            }
            if Instant::now() >= next_say {
                next_say += SAY_INTERVAL;
                match follower.why_searching() {
                    Some(reason) if follower.transport().is_none() => say(&Report::Searching(reason.to_owned())),
                    _ => self.say(),
                }
            }
        }
        self.say();
        Ok(())
    }

    fn say(&self) {
        if let Some((_, account, _)) = &self.account {
            say(&Report::Account(account.clone()));
        }
    }

    fn open_account(&mut self) -> Result<(&mut Account, Stream), String> {
        match &mut self.account {
            Some((_, account, stream)) => Ok((account, *stream)),
            None => Err("order: something came before a server was attached".to_owned()),
        }
    }

    fn attach(&mut self, incarnation: Incarnation, cursor: u64) -> Result<(), String> {
        let head = self.head();
        match &mut self.account {
            Some((known, account, _)) if *known == incarnation => {
                // A server that is about to leave may be nowhere to be found any more.
                self.attached_at = head.unwrap_or(u64::MAX);
                account.resume(cursor)
            }
            _ => {
                self.attached_at = head?;
                // What was left before its end must add up as well.
                self.say();
                let account = Account::open(incarnation, cursor);
                self.account = Some((incarnation, account, Stream::new(incarnation)));
                self.keep();
                Ok(())
            }
        }
    }

    /// The sequence that the server uses next.
    fn head(&self) -> Result<u64, String> {
        let found = discovery::read(&self.path, &Trust::default()).map_err(|error| format!("server: {error}"))?;
        let subscriber = Subscriber::open(&found, Join::New).map_err(|error| format!("server: {error}"))?;
        Ok(subscriber.cursor())
    }

    fn take(&mut self, sequence: u64, tag: u64, payload: &[u8]) -> Result<(), String> {
        let (class, rate, sabotage) = (self.class, self.messages_a_second, self.sabotage);
        let is_spoilt = |how| sabotage == Some(how) && sequence % 1000 == 999;
        if is_spoilt(Sabotage::Overlook) {
            return Ok(());
        }
        let mut spare = std::mem::take(&mut self.spare);
        let (account, stream) = self.open_account()?;
        account.step(sequence)?;
        if let Err(difference) = stream.check(sequence, tag, payload, &mut spare) {
            eprintln!("{class:?}: {difference}");
            account.torn += 1;
        }
        if !is_spoilt(Sabotage::Uncounted) {
            account.count(payload.len());
        }
        if class.habit == Habit::Slow && account.received.is_multiple_of(rate) {
            thread::sleep(Duration::from_secs(1));
        }
        self.spare = spare;
        match sabotage {
            Some(Sabotage::Quit) if sequence > 1000 => std::process::exit(0),
            Some(Sabotage::Stall) if sequence > 1000 => {
                self.say();
                loop {
                    thread::sleep(Duration::from_secs(1));
                }
            }
            _ => Ok(()),
        }
    }

    fn miss(&mut self, first: u64, missed: u64) -> Result<(), String> {
        if !self.class.may_miss() && first + missed > self.attached_at {
            return Err(format!("lost: {missed} messages from {first} on"));
        }
        let (account, _) = self.open_account()?;
        account.miss(first, missed)
    }

    fn end(&mut self) -> Result<(), String> {
        let (account, _) = self.open_account()?;
        account.has_ended = true;
        self.say();
        say(&Report::Holds {
            descriptors: member::descriptors(),
            memory: member::private_memory(),
        });
        Ok(())
    }

    /// Keeps what a reader should not, if this one is to.
    fn keep(&mut self) {
        match self.sabotage {
            Some(Sabotage::Segment) => {
                let found = discovery::read(&self.path, &Trust::default()).expect("it was attached just now");
                self.kept
                    .0
                    .push(Subscriber::open(&found, Join::New).expect("a second time"));
            }
            Some(Sabotage::Descriptor) => self.kept.1.push(File::open("/dev/null").expect("it is there")),
            Some(Sabotage::Memory) => self.kept.2.push(vec![1; 8 << 20]),
            _ => {}
        }
    }
}
