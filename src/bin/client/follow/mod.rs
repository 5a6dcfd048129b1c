//! Streams the messages of every server that matches, those that appear later too.
//!
//! ```text
//!   Watch on each directory --> main thread --spawns--> a thread per server: Follower -> Batch --+
//!   signals, time limits    -->             <--wakes--                                  Outlet <-+--> standard output
//! ```
//!
//! The main thread sleeps in `poll` and never touches a message. At the end it closes the outlet, after which nothing is
//! written or counted any more, tells what each server brought, and leaves; the kernel detaches the segments.
//!
//! The thread of a server that is gone, and its info file with it, ends. What stays are its tally and its position, from
//! which another thread goes on if the server comes back.

mod outlet;
mod server;
mod stream;
mod tally;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lapwing::FollowOptions;
use lapwing::cli::{self, Escaped, Failure, Signals, exit};
use lapwing::discovery::{self, Entry, Found, ListError, Trust, Watch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::outlet::{Outcome, Outlet};
use self::server::{Server, forget, sorted};
use self::stream::{Common, Phase, Stream};
use self::tally::Sums;
use crate::args::Args;
use crate::identity::{full_name, identity};
use crate::live_first::{live_first, lives};
use crate::look::NO_THREAD;
use crate::output::Style;
use crate::stdout;

/// Servers that are followed at most: each has a thread.
const MOST_SERVERS: usize = 1024;
/// What a thread needs, generously.
const STACK_BYTES: usize = 512 << 10;
/// Of them, those that have not been attached and whose lock nobody holds: as a rule what killed servers left behind,
/// but where locks cannot be seen perhaps some that live. Each waits with a watch, of which a user has 128.
const MOST_SUSPECTS: usize = 64;
/// Of the servers that are gone, those that are remembered: as many as may come back at once.
const MOST_GONE: usize = MOST_SERVERS;
/// Time between two looks at the directories even if nothing seems to have changed.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);
/// The same where the kernel does not tell of changes.
const BETWEEN_LOOKS_UNTOLD: Duration = Duration::from_secs(1);
/// The same while a directory is missing, of which nobody can be told.
const BETWEEN_LOOKS_FOR_MISSING: Duration = Duration::from_millis(100);
/// Shortest time between two looks: where something changes all the time, not all the time is spent looking.
const SHORTEST_BETWEEN_LOOKS: Duration = Duration::from_millis(10);
/// How long the end waits for what is being written.
const LAST_WRITE: Duration = Duration::from_millis(500);
/// Names that are told of servers that do not match.
const MOST_NAMES: usize = 10;
/// Problems that are told: one for each entry that a directory may have.
const MOST_PROBLEMS: usize = discovery::MAX_ENTRIES;

/// Follows servers until something ends it. Returns the exit code.
pub(crate) fn run(args: &Args, style: Style) -> Result<u8, Failure> {
    let signals = Signals::catch().map_err(|error| Failure::caused("cannot catch signals", error))?;
    if let Some(cpus) = args.stream.cpu {
        let failed = |error| Failure::caused(format!("cannot follow on --cpu {cpus}"), error);
        cpus.check().map_err(failed)?;
    }
    let mut roster = Roster::new(args, style).map_err(|error| Failure::caused("cannot use standard output", error))?;
    let outcome = roster.watch(&signals);
    let outcome = roster.common.outlet.close(outcome, LAST_WRITE);
    roster.summarise();
    match outcome {
        Outcome::Gap => Ok(exit::GAP),
        Outcome::TimeLimit => Ok(exit::TIME_LIMIT),
        Outcome::Refused => Err(Failure::new(
            "no server is left that offers lossless subscriptions: start one with --lossless, or follow without",
        )),
        Outcome::Failed(error) => Err(Failure::caused("cannot write to standard output", error)),
        Outcome::Stopped | Outcome::Count | Outcome::ReaderGone => Ok(exit::FINE),
    }
}

/// Who is followed, and what the main thread keeps of it.
#[derive(Debug)]
struct Roster<'a> {
    args: &'a Args,
    trust: Trust,
    directories: Vec<Directory>,
    common: Arc<Common>,
    servers: HashMap<PathBuf, Server>,
    /// Looks at the directories so far.
    looks: u64,
    /// How many more servers are taken at this look.
    room: usize,
    /// Of them, how many that seem to be dead.
    room_for_suspects: usize,
    /// Threads that were started so far.
    threads: usize,
    /// What the servers brought that are gone and not remembered.
    forgotten: Sums,
    /// Names of the servers that `--name` left out at the last look, until it was told that no other is there.
    left_out: Option<BTreeSet<String>>,
    /// Problems that were told, so that each is told once.
    told: HashSet<String>,
    started: Instant,
    /// When the next interim lines are due, with `--stats`.
    stats_due: Option<Instant>,
    look_due: Instant,
    /// Until then no change of a directory is listened to.
    deaf_until: Instant,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    watch: Watch,
}

impl<'a> Roster<'a> {
    fn new(args: &'a Args, style: Style) -> io::Result<Self> {
        let mut options = FollowOptions::default();
        options.from = args.stream.from.unwrap_or_default();
        options.transport = args.stream.transport.unwrap_or_default();
        options.strategy = args.strategy();
        options.trust = args.trust();
        options.lossless = args.stream.lossless;
        options.prefault = args.stream.prefault;
        let directory = |path: &PathBuf| Directory {
            path: path.clone(),
            watch: Watch::new(path),
        };
        let now = Instant::now();
        Ok(Self {
            args,
            trust: args.trust(),
            directories: args.paths.iter().map(directory).collect(),
            common: Arc::new(Common {
                outlet: Outlet::new(stdout::open()?, args.stream.count)?,
                style,
                category: args.category,
                fail_on_gap: args.stream.fail_on_gap,
                options,
                name_width: AtomicUsize::new(0),
            }),
            servers: HashMap::new(),
            looks: 0,
            room: 0,
            room_for_suspects: 0,
            threads: 0,
            forgotten: Sums::default(),
            left_out: Some(BTreeSet::new()),
            told: HashSet::new(),
            started: now,
            stats_due: args.stream.stats.and_then(|interval| now.checked_add(interval)),
            look_due: now,
            deaf_until: now,
        })
    }

    /// Finds servers and starts their threads until there is a reason to end.
    fn watch(&mut self, signals: &Signals) -> Outcome {
        let deadline = self.args.timeout.and_then(|limit| self.started.checked_add(limit));
        loop {
            let now = Instant::now();
            if now >= self.look_due {
                let pause = self.look();
                self.look_due = now + pause;
                // No more time is spent looking than is not.
                let seen = Instant::now();
                self.deaf_until = seen + (seen - now).max(SHORTEST_BETWEEN_LOOKS);
            }
            self.tell_no_match();
            self.tell_stats(now);
            if self.common.outlet.is_closed() || self.is_done() {
                return Outcome::Stopped;
            }
            if self.have_all_refused() {
                return Outcome::Refused;
            }
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Outcome::TimeLimit;
            }
            let deaf_until = Some(self.deaf_until).filter(|until| now < *until);
            let due = [Some(self.look_due), deaf_until, self.stats_due, deadline];
            let next = due.into_iter().flatten().min().unwrap_or(now);
            if let Some(outcome) = self.sleep(signals, next.saturating_duration_since(now)) {
                return outcome;
            }
        }
    }

    /// Sleeps until something happens or `time` has passed.
    fn sleep(&mut self, signals: &Signals, time: Duration) -> Option<Outcome> {
        let outlet = &self.common.outlet;
        let output = outlet.output();
        let waker = outlet.waker();
        let watches: Vec<_> = self
            .directories
            .iter()
            .filter_map(|directory| directory.watch.descriptor())
            .filter(|_| Instant::now() >= self.deaf_until)
            .collect();
        let mut sources = vec![
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(&waker, PollFlags::IN),
            // No event is asked for: that its reader is gone is told anyway.
            PollFd::new(&output, PollFlags::empty()),
        ];
        sources.extend(watches.iter().map(|watch| PollFd::new(watch, PollFlags::IN)));
        let limit = Timespec::try_from(time).ok();
        if poll(&mut sources, limit.as_ref()).is_err() {
            // A signal: the next look tells which.
            return signals.take().then_some(Outcome::Stopped);
        }
        let gone = sources[2].revents().intersects(PollFlags::ERR | PollFlags::HUP);
        let changed = sources[3..].iter().any(|watch| !watch.revents().is_empty());
        drop(sources);
        outlet.take_wake();
        if changed {
            self.look_due = Instant::now();
        }
        if signals.take() {
            Some(Outcome::Stopped)
        } else {
            gone.then_some(Outcome::ReaderGone)
        }
    }

    /// Reads the directories and starts a thread for each new server. Returns when to do so again at the latest.
    fn look(&mut self) -> Duration {
        let mut pause = BETWEEN_LOOKS;
        let mut is_whole = true;
        self.make_room();
        self.left_out.iter_mut().for_each(BTreeSet::clear);
        self.looks += 1;
        self.servers.values_mut().for_each(|server| server.lives = false);
        for index in 0..self.directories.len() {
            let directory = &mut self.directories[index];
            // What it reports is looked at now anyway; this keeps it watching what the path means.
            if let Err(error) = directory.watch.wait(Duration::ZERO) {
                log::warn!("cannot watch {:?}: {error}", directory.path);
            }
            let path = directory.path.clone();
            if let Some(error) = directory.watch.degraded() {
                pause = pause.min(BETWEEN_LOOKS_UNTOLD);
                // Where a right is missing, the look below says so.
                if error.kind() != io::ErrorKind::PermissionDenied {
                    let untold = format!(
                        "the kernel does not tell of changes in {path:?}, which is looked at every second instead; raise \
                         fs.inotify.max_user_instances or max_user_watches with sysctl: {error}"
                    );
                    self.tell_problem(untold);
                }
            }
            match discovery::list(&path, &self.trust) {
                Ok(entries) => {
                    if entries.is_empty() && self.servers.is_empty() {
                        self.tell_problem(format!("no server in {path:?} yet; waiting for one"));
                    }
                    live_first(entries).into_iter().for_each(|entry| self.take(entry));
                }
                // The file of a server that has left.
                Err(ListError::Missing { .. }) if self.is_done() => {}
                Err(error) => {
                    if matches!(error, ListError::Missing { .. }) {
                        pause = pause.min(BETWEEN_LOOKS_FOR_MISSING);
                    } else {
                        is_whole = false;
                    }
                    self.tell_problem(format!("{}; waiting for it", cli::one_line(&error)));
                }
            }
        }
        if is_whole {
            self.dismiss_unseen();
        }
        pause
    }

    /// Forgets the servers that left first, and finds out for how many there is room.
    fn make_room(&mut self) {
        forget(&mut self.servers, self.looks, MOST_GONE, &mut self.forgotten);
        let here = || self.servers.values().filter(|server| !server.is_gone(self.looks));
        // Never attached, and dead as it seemed at the last look.
        let suspects = here().filter(|server| !server.lives && server.followed.phase() == Phase::New);
        self.room = MOST_SERVERS.saturating_sub(here().count());
        self.room_for_suspects = MOST_SUSPECTS.saturating_sub(suspects.count());
    }

    /// Has the threads end of those whose info files are gone.
    fn dismiss_unseen(&self) {
        let is_unseen = |server: &&Server| server.seen_at < self.looks;
        self.servers
            .values()
            .filter(is_unseen)
            .for_each(|server| server.followed.dismiss());
    }

    fn take(&mut self, entry: Entry) {
        let found = match entry {
            Entry::Server(found) => found,
            Entry::Problem { path, reason } => {
                return self.tell_problem(format!("{path:?}: {}", cli::one_line(&reason)));
            }
        };
        let name = found.info.name.as_str();
        if !self.args.wants_name(name) {
            if let Some(names) = &mut self.left_out {
                names.insert(name.to_owned());
            }
            return;
        }
        let key = identity(&found.path);
        let lives = lives(&found);
        // What is gone needs room as what is new does.
        let last_look = self.looks - 1;
        match self.servers.get_mut(&key).filter(|server| !server.is_gone(last_look)) {
            Some(server) => {
                server.seen_at = self.looks;
                server.lives |= lives;
                server.has_lived |= lives;
                server.followed.keep();
                if server.is_back(&found) {
                    self.follow(key, found, lives);
                }
            }
            None if self.room == 0 => self.tell_problem(format!(
                "more than {MOST_SERVERS} servers; choose by --name, or follow the rest with another client"
            )),
            None if !lives && self.room_for_suspects == 0 => self.tell_problem(format!(
                "more than {MOST_SUSPECTS} servers whose info files nobody has locked: the others are followed once they live"
            )),
            None => {
                self.room -= 1;
                self.room_for_suspects -= usize::from(!lives);
                self.follow(key, found, lives);
            }
        }
    }

    /// Starts a thread for a server that is new, or back.
    fn follow(&mut self, key: PathBuf, found: Found, lives: bool) {
        let mut name = found.info.name.as_str().to_owned();
        if self.servers.values().any(|server| server.followed.name == name) && !self.servers.contains_key(&key) {
            name = full_name(&name, &found.path);
        }
        // Relaxed: a column that moves a line later harms nobody.
        self.common.name_width.fetch_max(name.len(), Ordering::Relaxed);
        let incarnation = found.info.incarnation;
        let server = self
            .servers
            .entry(key)
            .or_insert_with(|| Server::new(name, incarnation));
        server.incarnation = incarnation;
        server.seen_at = self.looks;
        server.lives |= lives;
        server.has_lived |= lives;
        server.followed.call_back();
        let followed = server.followed.clone();
        let cpu = self.args.stream.cpu.map(|cpus| cpus.in_turn(self.threads));
        let stream = Stream::new(self.common.clone(), followed.clone(), found.path.clone());
        let spawned = thread::Builder::new()
            .name(followed.name.chars().take(15).collect())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // They could be had when this began.
                if let Some(Err(error)) = cpu.map(|cpu| cpu.pin_this_thread()) {
                    log::warn!("{error}");
                }
                stream.run(&found);
            });
        match spawned {
            Ok(_) => self.threads += 1,
            // The next look tries again.
            Err(error) => {
                followed.leave();
                self.tell_problem(format!("{}: {NO_THREAD}: {error}", followed.name));
            }
        }
    }

    /// Whether the end of all streams is reached and is to be the end of the program.
    fn is_done(&self) -> bool {
        self.args.stream.exit_at_end && self.have_all_ended()
    }

    /// Whether at least one stream was attached, and each that was or still may be has ended.
    fn have_all_ended(&self) -> bool {
        let mut any = false;
        let all = self.servers.values().all(|server| match server.followed.phase() {
            Phase::Ended => {
                any = true;
                true
            }
            // The info file of a dead server holds nobody up, nor does its segment, where somebody has that attached still.
            Phase::New => !server.lives,
            Phase::Lost => !server.has_lived && !server.followed.has_answered(),
            Phase::Unwanted | Phase::Refused => true,
            Phase::Following => false,
        });
        all && any
    }

    /// Whether at least one server refused, and there is no other.
    fn have_all_refused(&self) -> bool {
        let mut any = false;
        let all = self.servers.values().all(|server| match server.followed.phase() {
            Phase::Refused => {
                any = true;
                true
            }
            // The info file of a dead server promises nothing.
            Phase::New => !server.lives,
            Phase::Unwanted => true,
            Phase::Following | Phase::Lost | Phase::Ended => false,
        });
        all && any
    }

    /// Tells once, as soon as that is so, that there are servers and none of them matches.
    fn tell_no_match(&mut self) {
        if !self.servers.values().all(Server::is_unwanted) {
            return;
        }
        let here = self.servers.values().filter(|server| !server.is_gone(self.looks));
        let unwanted = here.map(|server| server.followed.name.clone());
        let Some(names) = self.left_out.take_if(|names| {
            names.extend(unwanted);
            !names.is_empty()
        }) else {
            return;
        };
        let mut shown: Vec<_> = names.into_iter().collect();
        let count = shown.len();
        shown.truncate(MOST_NAMES);
        let more = if count > MOST_NAMES { ", ..." } else { "" };
        let shown = shown.join(", ");
        self.tell_problem(format!(
            "no server matches: --name or --category leave out all {count} ({shown}{more}); waiting for one"
        ));
    }

    fn tell_problem(&mut self, problem: String) {
        if self.told.len() > MOST_PROBLEMS || self.told.contains(&problem) {
            return;
        }
        if self.told.len() == MOST_PROBLEMS {
            cli::say_patiently(&format!(
                "client: {MOST_PROBLEMS} problems were told; further ones are not"
            ));
        } else {
            cli::say_patiently(&format!("client: {}", Escaped(&problem)));
        }
        self.told.insert(problem);
    }

    fn tell_stats(&mut self, now: Instant) {
        let Some(interval) = self
            .args
            .stream
            .stats
            .filter(|_| self.stats_due.is_some_and(|due| now >= due))
        else {
            return;
        };
        self.stats_due = now.checked_add(interval);
        for server in sorted(&mut self.servers) {
            if server.is_gone(self.looks) {
                continue;
            }
            let tally = server.followed.tally();
            cli::say_patiently(&format!(
                "client: {}: {}",
                server.followed.name,
                tally.line(server.mark)
            ));
            let mark = tally.mark();
            drop(tally);
            server.mark = Some(mark);
        }
    }

    /// Tells what each server brought.
    fn summarise(&mut self) {
        let mut total = self.forgotten;
        for server in sorted(&mut self.servers) {
            let tally = server.followed.tally();
            total.add(&tally);
            cli::say_patiently(&format!("client: {}: {}", server.followed.name, tally.line(None)));
        }
        if self.forgotten.servers > 0 {
            cli::say_patiently(&format!("client: gone before these: {}", self.forgotten));
        }
        cli::say_patiently(&format!("client: total: {total}"));
    }
}
