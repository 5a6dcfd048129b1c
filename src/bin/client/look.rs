//! One look at every server, all at once, within one time limit.
//!
//! ```text
//!   lister: reads the directories --Found--> queue --> up to 256 threads, each: probe --+
//!              |                                                                         |
//!              +----------------------------- News ------------------> main thread <-----+   until the time is over
//! ```
//!
//! No peer, file system or name can hold up the report: the main thread does nothing but wait for news, and at the
//! deadline reports whatever did not answer as just that.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lapwing::cli;
use lapwing::discovery::{self, Entry, Found, ListError, Trust};
use lapwing::probe::{Category, ProbeOptions, Report, probe};
use lapwing::{Incarnation, Transport};

use crate::args::Args;
use crate::identity::{full_name, identity};
use crate::live_first::live_first;

/// How long looking once may take, unless `--timeout` says.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// What is kept of the time for answers to arrive: at most this, and at most a tenth.
const RESERVE: Duration = Duration::from_millis(100);
/// Servers that are looked at at once.
const MOST_AT_ONCE: usize = 256;
/// What a thread needs, generously.
const STACK_BYTES: usize = 512 << 10;
/// What is told if there is none to be had.
pub(crate) const NO_THREAD: &str =
    "cannot start a thread; raise the limit of processes (`ulimit -u`) or of address space (`ulimit -v`)";

/// What a look found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Every server whose info file can be believed, in the order of their names.
    pub(crate) servers: Vec<Seen>,
    /// Every info file that cannot.
    pub(crate) problems: Vec<Problem>,
    /// Paths that could not be looked at at all, and why.
    pub(crate) failures: Vec<String>,
    /// One of them is there and cannot be read; the others are missing.
    pub(crate) has_unreadable: bool,
    /// Servers that `--name` or `--category` left out.
    pub(crate) left_out: usize,
}

/// An info file that is not believed.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) path: PathBuf,
    pub(crate) reason: String,
}

/// A server, and what the look at it found, unless that did not come in time.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Its name, or its full name if there is another of that name.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) incarnation: Incarnation,
    pub(crate) report: Option<Report>,
    /// When its newest message was published, on its clock.
    pub(crate) newest_ns: Option<u64>,
}

impl Seen {
    /// The category: who does not answer is out of reach.
    pub(crate) fn category(&self) -> Category {
        self.report.as_ref().map_or(Category::Vm, |report| report.category)
    }

    /// The word for how the server is.
    pub(crate) fn state(&self) -> &'static str {
        self.report.as_ref().map_or("unknown", |report| report.state.as_str())
    }

    pub(crate) fn transport(&self) -> Option<Transport> {
        self.report.as_ref().and_then(|report| report.transport)
    }

    /// How long it took to reach it over the transport that is used.
    pub(crate) fn latency(&self) -> Option<Duration> {
        let report = self.report.as_ref()?;
        Some(match report.transport? {
            Transport::SharedMemory => report.shared_memory.took,
            Transport::Socket => report.socket.took,
        })
    }

    /// Why it is reached as it is, or not at all.
    pub(crate) fn reason(&self) -> &str {
        self.report
            .as_ref()
            .map_or("did not answer in time; try a longer --timeout", |report| {
                &report.reason
            })
    }

    /// How many messages were published.
    pub(crate) fn messages(&self) -> u64 {
        self.report.as_ref().map_or(0, |report| report.head)
    }

    /// How many messages were overwritten while they were retrieved.
    pub(crate) fn missed(&self) -> u64 {
        self.report.as_ref().map_or(0, |report| report.missed)
    }
}

/// What reaches the main thread.
enum News {
    /// A server was found; the look at it begins.
    Found(Box<Seen>),
    /// The look at the server that was found as number `index` is over.
    Looked {
        index: usize,
        report: Box<Report>,
    },
    Problem(Problem),
    /// A path could not be listed.
    Failure {
        reason: String,
        is_missing: bool,
    },
    /// `--name` leaves a server out.
    LeftOut,
    /// All paths were read.
    Listed,
}

/// Looks at all servers that `args` names. Takes no longer than its time limit, give or take a scheduling delay.
pub(crate) fn look(args: &Args) -> Result<Findings, cli::Failure> {
    let start = Instant::now();
    let limit = args.timeout.unwrap_or(TIME_LIMIT);
    // A limit beyond what the clock can tell is none.
    let deadline = start.checked_add(limit).unwrap_or(start + Duration::from_secs(1 << 32));
    let last = match (args.once.no_messages, args.once.last) {
        (true, _) => 0,
        (false, last) => last.unwrap_or(1),
    };
    let (sender, receiver) = channel();
    let lister = Lister {
        paths: args.paths.clone(),
        name: args.name.clone(),
        trust: args.trust(),
        options: ProbeOptions {
            deadline: deadline - RESERVE.min(limit / 10),
            // The newest message tells rate and age, shown or not.
            last: last.max(1),
        },
        queue: Arc::default(),
        found: 0,
        sender,
    };
    thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || lister.run())
        .map_err(|error| cli::Failure::caused(NO_THREAD, error))?;
    let mut findings = collect(&receiver, deadline);
    findings.choose(args.category, last);
    Ok(findings)
}

/// Takes news until there is none to come, or the time is over.
fn collect(receiver: &Receiver<News>, deadline: Instant) -> Findings {
    let mut findings = Findings::default();
    let mut listed = false;
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(News::Found(seen)) => findings.servers.push(*seen),
            Ok(News::Looked { index, report }) => findings.servers[index].report = Some(*report),
            Ok(News::Problem(problem)) => findings.problems.push(problem),
            Ok(News::Failure { reason, is_missing }) => {
                findings.failures.push(reason);
                findings.has_unreadable |= !is_missing;
            }
            Ok(News::LeftOut) => findings.left_out += 1,
            Ok(News::Listed) => listed = true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    if !listed {
        let reason = "the time was over before all info files were read; give --timeout more time".to_owned();
        findings.failures.push(reason);
        findings.has_unreadable = true;
    }
    findings
}

impl Findings {
    /// Keeps the servers of `category` only, in order, and of their messages the `last`.
    fn choose(&mut self, category: Option<Category>, last: u64) {
        let found = self.servers.len();
        self.servers
            .retain(|seen| category.is_none_or(|wanted| seen.category() == wanted));
        self.left_out += found - self.servers.len();
        self.servers
            .sort_by(|one, other| (&one.name, &one.path).cmp(&(&other.name, &other.path)));
        for namesakes in self.servers.chunk_by_mut(|one, other| one.name == other.name) {
            if namesakes.len() > 1 {
                namesakes
                    .iter_mut()
                    .for_each(|seen| seen.name = full_name(&seen.name, &seen.path));
            }
        }
        self.problems.sort_by(|one, other| one.path.cmp(&other.path));
        let last = usize::try_from(last).unwrap_or(usize::MAX);
        for seen in &mut self.servers {
            let Some(report) = &mut seen.report else { continue };
            seen.newest_ns = report.messages.last().map(|message| message.timestamp_ns);
            let excess = report.messages.len().saturating_sub(last);
            report.messages.drain(..excess);
        }
    }
}

/// Reads the directories, and has looked at what it finds there.
struct Lister {
    paths: Vec<PathBuf>,
    name: Option<glob::Pattern>,
    trust: Trust,
    options: ProbeOptions,
    queue: Arc<Mutex<Queue>>,
    /// Servers that were found.
    found: usize,
    sender: Sender<News>,
}

impl Lister {
    fn run(mut self) {
        let mut seen = HashSet::new();
        for path in std::mem::take(&mut self.paths) {
            match discovery::list(&path, &self.trust) {
                Ok(entries) => live_first(entries)
                    .into_iter()
                    .for_each(|entry| self.take(entry, &mut seen)),
                Err(error) => self.tell(News::Failure {
                    reason: cli::one_line(&error),
                    is_missing: matches!(error, ListError::Missing { .. }),
                }),
            }
        }
        self.tell(News::Listed);
    }

    fn take(&mut self, entry: Entry, seen: &mut HashSet<PathBuf>) {
        let found = match entry {
            Entry::Server(found) => found,
            Entry::Problem { path, reason } => {
                let reason = cli::one_line(&reason);
                if seen.insert(identity(&path)) {
                    self.tell(News::Problem(Problem { path, reason }));
                }
                return;
            }
        };
        if !seen.insert(identity(&found.path)) {
            return;
        }
        let name = found.info.name.as_str();
        if self.name.as_ref().is_some_and(|pattern| !pattern.matches(name)) {
            return self.tell(News::LeftOut);
        }
        self.tell(News::Found(Box::new(Seen {
            name: name.to_owned(),
            path: found.path.clone(),
            incarnation: found.info.incarnation,
            report: None,
            newest_ns: None,
        })));
        let is_short_of_workers = {
            let mut queue = lock(&self.queue);
            queue.waiting.push_back((self.found, found));
            queue.workers < MOST_AT_ONCE
        };
        self.found += 1;
        if is_short_of_workers {
            self.start_worker();
        }
    }

    fn start_worker(&self) {
        let worker = Worker {
            queue: self.queue.clone(),
            options: self.options,
            sender: self.sender.clone(),
        };
        let mut queue = lock(&self.queue);
        let spawned = thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || worker.run());
        match spawned {
            Ok(_) => queue.workers += 1,
            // The others do its work.
            Err(error) if queue.workers > 0 => log::warn!("{NO_THREAD}: {error}"),
            Err(error) => self.tell(News::Failure {
                reason: format!("{NO_THREAD}: {error}"),
                is_missing: false,
            }),
        }
    }

    fn tell(&self, news: News) {
        // Nobody listens any more once the time is over.
        let _ = self.sender.send(news);
    }
}

/// The servers that nobody has looked at yet.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<(usize, Found)>,
    /// Threads that will come back for more.
    workers: usize,
}

/// Looks at one server after the other, as long as some are waiting.
struct Worker {
    queue: Arc<Mutex<Queue>>,
    options: ProbeOptions,
    sender: Sender<News>,
}

impl Worker {
    fn run(self) {
        while let Some((index, found)) = self.take() {
            let report = Box::new(probe(&found, &self.options));
            if self.sender.send(News::Looked { index, report }).is_err() {
                return;
            }
        }
    }

    /// The next server. Without one the thread counts as gone, under the same lock, so that none is left behind.
    fn take(&self) -> Option<(usize, Found)> {
        let mut queue = lock(&self.queue);
        let next = queue.waiting.pop_front();
        queue.workers -= usize::from(next.is_none());
        next
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // No code that holds the lock panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
