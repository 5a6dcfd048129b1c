//! Waking who sleeps: what it costs the publisher, how long the sleeper takes, and what idling costs.
//!
//! ```text
//!   this process, in turn      the peer, a thread each, asleep
//!   publish    --- shared memory ---> receive
//!   publish    --- shared memory ---> poll(2) on the descriptor of a Notified subscriber
//!   write      --- eventfd ---------> read
//!   write      --- pipe ------------> read
//!   publish    (nobody is attached)
//!
//!   publish    --- shared memory ---> receive, 1 to 64 threads of the peer
//! ```
//!
//! Who wakes is pinned to one processor, and who sleeps to another, but for a crowd, which may be anywhere. All take turns, so that what else the machine does
//! meets all of them. `cargo bench --bench wake -- --idle 60` measures what a server and a follower cost that have nothing
//! to do for so many seconds.

#[path = "stand/distribution.rs"]
mod distribution;
#[path = "stand/extent.rs"]
mod extent;
#[path = "stand/peer.rs"]
mod peer;
#[path = "stand/placement.rs"]
mod placement;
#[path = "stand/plot.rs"]
mod plot;
mod stand;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use criterion::BenchmarkId;
use distribution::{Distribution, TITLE, Times};
use lapwing::{Join, Notified, Poll, Subscriber, WaitStrategy};
use peer::{PATIENCE, Peer, this_program};
use placement::{Windows, pin};
use plot::{draw, plot};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::time::{ClockId, clock_gettime};
use stand::Stand;

/// Long enough for everybody to be asleep again.
const PAUSE: Duration = Duration::from_micros(500);
/// The same for a crowd.
const CROWD_PAUSE: Duration = Duration::from_millis(4);
/// How many sleep on one stream.
const CROWDS: [usize; 4] = [1, 4, 16, 64];
const NAMES: [&str; 5] = [
    "lapwing",
    "lapwing, descriptor",
    "eventfd",
    "pipe",
    "lapwing, nobody there",
];

/// Nanoseconds on the clock that both processes share.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn open(directory: &Path, name: &str) -> Subscriber {
    Subscriber::open(&peer::find(directory, name), Join::Oldest)
        .expect("its segment")
        .with_strategy(WaitStrategy::Block)
}

fn receive_from(mut subscriber: Subscriber, rounds: usize) -> Vec<u64> {
    let next = |_| match subscriber.receive(PATIENCE, |_| ()) {
        Poll::Message(_) => now_ns(),
        other => panic!("{other:?}"),
    };
    (0..rounds).map(next).collect()
}

/// The peer of a crowd: so many threads that sleep, and when the last of them got each message.
fn sleep_in_a_crowd(directory: &Path, sleepers: usize, rounds: usize) {
    let subscribers: Vec<Subscriber> = (0..sleepers).map(|_| open(directory, "crowd")).collect();
    println!("ready");
    let times: Vec<Vec<u64>> = thread::scope(|scope| {
        let sleepers: Vec<_> = subscribers
            .into_iter()
            .map(|subscriber| scope.spawn(|| receive_from(subscriber, rounds)))
            .collect();
        let ended = sleepers.into_iter().map(|sleeper| sleeper.join());
        ended.map(|times| times.expect("a reader that ends")).collect()
    });
    let last = |round: usize| times.iter().map(|times| times[round]).max().expect("somebody sleeps");
    println!(
        "{}",
        (0..rounds)
            .map(|round| last(round).to_string())
            .collect::<Vec<_>>()
            .join(" ")
    );
}

fn wait_for_descriptor(directory: &Path, rounds: usize) -> Vec<u64> {
    let mut stream = Notified::new(open(directory, "notified")).expect("a thread");
    let mut times = Vec::new();
    while times.len() < rounds {
        match stream.poll(|_| ()) {
            Poll::Message(_) => times.push(now_ns()),
            Poll::Empty => drop(poll(&mut [PollFd::new(&stream, PollFlags::IN)], None).expect("poll(2)")),
            other => panic!("{other:?}"),
        }
    }
    times
}

/// Reads eight bytes at a time.
fn read(mut source: File, rounds: usize) -> Vec<u64> {
    let next = |_| {
        source.read_exact(&mut [0; 8]).expect("8 bytes");
        now_ns()
    };
    (0..rounds).map(next).collect()
}

/// The peer: a thread for each way, and when each of them got what.
fn sleep_and_wake(directory: &Path, rounds: usize) {
    let _pinned = pin(1);
    println!("ready");
    let pipe = File::open(directory.join("pipe")).expect("a pipe");
    let event = File::from(std::io::stdin().as_fd().try_clone_to_owned().expect("an eventfd"));
    let results = thread::scope(|scope| {
        let readers = [
            scope.spawn(|| receive_from(open(directory, "plain"), rounds)),
            scope.spawn(|| wait_for_descriptor(directory, rounds)),
            scope.spawn(|| read(event, rounds)),
            scope.spawn(|| read(pipe, rounds)),
        ];
        readers.map(|reader| reader.join().expect("a reader that ends"))
    });
    for times in results {
        println!("{}", times.iter().map(u64::to_string).collect::<Vec<_>>().join(" "));
    }
}

/// The peer with an eventfd as its input, and our end of the pipe.
fn start(directory: &Path, event: &OwnedFd, rounds: usize) -> (Peer, File) {
    let pipe = directory.join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let mut command = this_program();
    command.stdin(event.try_clone().expect("a descriptor"));
    let peer = Peer::of(command, directory, &rounds.to_string());
    let pipe = File::options().write(true).open(pipe).expect("the peer opens it");
    (peer, pipe)
}

/// What was seen of one way in one window: what the sender paid, and when the sleeper ran unless there is none.
struct Seen {
    sender: Distribution,
    sleeper: Option<Distribution>,
}

impl Seen {
    fn sleeper(&self) -> &Distribution {
        self.sleeper.as_ref().expect("somebody sleeps")
    }
}

fn distribution_of(ns: impl Iterator<Item = u64>) -> Distribution {
    let mut times = Times::new();
    times.extend(ns.map(Duration::from_nanos));
    times.distribution()
}

/// When each message was sent in each way, and how long that took.
type Sent = [Vec<[u64; 2]>; NAMES.len()];

fn send(home: &Path, rounds: usize) -> (Peer, Sent) {
    let stands = ["plain", "notified", "nobody"].map(|name| {
        Stand::new(name, |options| {
            options.info_dir = home.to_owned();
            options.listen.clear();
        })
    });
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE).expect("an eventfd");
    let (peer, mut pipe) = start(home, &event, rounds);
    let [mut plain, mut notified, mut nobody] = stands;
    for stand in [&plain, &notified] {
        while stand.server.stats().readers == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    // The servers count their readers now and then.
    thread::sleep(Duration::from_millis(100));
    let _pinned = pin(0);
    let mut sent = Sent::default();
    for _ in 0..rounds {
        for (way, sent) in sent.iter_mut().enumerate() {
            thread::sleep(PAUSE);
            let start = now_ns();
            match way {
                0 => drop(plain.server.publisher().publish(&[0; 8]).expect("short enough")),
                1 => drop(notified.server.publisher().publish(&[0; 8]).expect("short enough")),
                2 => drop(rustix::io::write(&event, &1_u64.to_ne_bytes()).expect("room")),
                3 => drop(pipe.write(&[0; 8]).expect("room")),
                _ => drop(nobody.server.publisher().publish(&[0; 8]).expect("short enough")),
            }
            sent.push([start, now_ns() - start]);
        }
    }
    (peer, sent)
}

/// One window of all ways, which take turns.
fn wake(rounds: usize) -> [Seen; NAMES.len()] {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (mut peer, sent) = send(home.path(), rounds);
    let seen = sent.map(|sent| see(&sent, &peer.hear()));
    peer.finish();
    seen
}

/// What `sent` cost, and how much later it `arrived`, if it was sent to anybody.
fn see(sent: &[[u64; 2]], arrived: &str) -> Seen {
    let starts = || sent.iter().map(|[start, _]| *start);
    let sender = distribution_of(sent.iter().map(|[_, cost]| *cost));
    if arrived.is_empty() {
        let sleeper = None;
        return Seen { sender, sleeper };
    }
    let arrived: Vec<u64> = arrived.split(' ').map(|time| time.parse().expect("a time")).collect();
    assert_eq!(arrived.len(), sent.len(), "not everything arrived");
    assert!(
        arrived.iter().zip(starts()).all(|(&at, start)| at > start),
        "there before it was sent"
    );
    let sleeper = Some(distribution_of(
        arrived.iter().zip(starts()).map(|(at, start)| at - start),
    ));
    Seen { sender, sleeper }
}

/// One window of a crowd.
fn wake_crowd(sleepers: usize, rounds: usize) -> Seen {
    let mut stand = Stand::new("crowd", |options| options.listen.clear());
    let mut peer = Peer::start(stand.directory(), &format!("{sleepers} {rounds}"));
    while stand.server.stats().readers != sleepers as u64 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(100));
    let pinned = pin(0);
    let sent: Vec<[u64; 2]> = (0..rounds)
        .map(|_| {
            thread::sleep(CROWD_PAUSE);
            let start = now_ns();
            stand.server.publisher().publish(&[0; 8]).expect("short enough");
            [start, now_ns() - start]
        })
        .collect();
    drop(pinned);
    let seen = see(&sent, &peer.hear());
    peer.finish();
    seen
}

fn tables(windows: &mut Windows<[Seen; NAMES.len()]>) {
    println!("waking who sleeps, us      {TITLE}   a line's round trip, windows that count");
    for (way, name) in NAMES.iter().enumerate() {
        windows.tell(
            &format!("{name:22} sender "),
            |seen| seen[way].sender.median(),
            |seen, _| seen[way].sender.describe(),
        );
        if way + 1 < NAMES.len() {
            windows.tell(
                &format!("{name:22} sleeper"),
                |seen| seen[way].sleeper().median(),
                |seen, _| seen[way].sleeper().describe(),
            );
        }
    }
}

fn crowd_tables(crowds: &mut [Windows<Seen>]) {
    for (sleepers, windows) in CROWDS.iter().zip(crowds) {
        let name = |who| format!("{:>3} sleepers, {who:8}", sleepers);
        windows.tell(
            &name("sender"),
            |seen| seen.sender.median(),
            |seen, _| seen.sender.describe(),
        );
        windows.tell(
            &name("the last"),
            |seen| seen.sleeper().median(),
            |seen, _| seen.sleeper().describe(),
        );
    }
}

fn plots(windows: &Windows<[Seen; NAMES.len()]>, crowds: &[Windows<Seen>]) {
    draw(|criterion| {
        let mut group = criterion.benchmark_group("wake/sender");
        for (way, name) in NAMES.iter().enumerate() {
            let id = BenchmarkId::from_parameter(name);
            plot(&mut group, id, windows, |seen| &seen[way].sender.pieces);
        }
        drop(group);
        let mut group = criterion.benchmark_group("wake/sleeper");
        for (way, name) in NAMES[..NAMES.len() - 1].iter().enumerate() {
            let id = BenchmarkId::from_parameter(name);
            plot(&mut group, id, windows, |seen| &seen[way].sleeper().pieces);
        }
        drop(group);
        let mut group = criterion.benchmark_group("wake/sleepers of one stream");
        for (sleepers, windows) in CROWDS.iter().zip(crowds) {
            let id = |who| BenchmarkId::new(who, sleepers);
            plot(&mut group, id("sender"), windows, |seen| &seen.sender.pieces);
            plot(&mut group, id("the last"), windows, |seen| &seen.sleeper().pieces);
        }
    });
}

/// A process that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Most often it has not ended, and either way there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nanoseconds that all threads of a process have run.
fn ran_ns(process: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("a live process");
    let ran = |path: PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).expect("a live thread");
        text.split(' ')
            .next()
            .expect("a number")
            .parse::<u64>()
            .expect("a number")
    };
    tasks.map(|task| ran(task.expect("a thread").path())).sum()
}

fn idle(time: Duration) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let start = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(home.path());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Running(command.spawn().expect("a command of this project"))
    };
    let server = start(env!("CARGO_BIN_EXE_server"), &["--name", "idle"]);
    while !home.path().join("info/idle.toml").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    let client = start(env!("CARGO_BIN_EXE_client"), &["./info", "--follow"]);
    // Not what starting costs.
    thread::sleep(Duration::from_secs(2));
    let before = [&server, &client].map(|running| ran_ns(running.0.id()));
    let start = Instant::now();
    thread::sleep(time);
    let elapsed = start.elapsed();
    for ((name, running), before) in [("server", &server), ("client --follow", &client)]
        .into_iter()
        .zip(before)
    {
        let ran = ran_ns(running.0.id()) - before;
        let share = ran as f64 / elapsed.as_nanos() as f64 * 100.0;
        println!("{name}: {share:.3} % of a core in {:.0} s", elapsed.as_secs_f64());
    }
}

fn main() {
    if let Some((directory, kind)) = peer::role() {
        let number = |text: &str| text.parse().expect("a number");
        return match kind.split_once(' ') {
            None => sleep_and_wake(&directory, number(&kind)),
            Some((sleepers, rounds)) => sleep_in_a_crowd(&directory, number(sleepers), number(rounds)),
        };
    }
    if let Some(seconds) = extent::number("--idle") {
        return idle(Duration::from_secs(seconds as u64));
    }
    let mut windows = Windows::new();
    let mut crowds = CROWDS.map(|_| Windows::new());
    for _ in 0..extent::rounds(5) {
        windows.take(|_| wake(if extent::is_whole() { 1000 } else { 5 }));
        for (sleepers, crowd) in CROWDS.iter().zip(&mut crowds) {
            crowd.take(|_| wake_crowd(*sleepers, if extent::is_whole() { 200 } else { 5 }));
        }
    }
    tables(&mut windows);
    crowd_tables(&mut crowds);
    plots(&windows, &crowds);
}
