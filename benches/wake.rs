//! Waking who sleeps: what it costs the publisher, how long the sleeper takes, and what idling costs.
//!
//! ```text
//!   this process, in turn      the peer, a thread each, asleep
//!   publish    --- shared memory ---> receive
//!   publish    --- shared memory ---> poll(2) on the descriptor of a Notified subscriber
//!   write      --- eventfd ---------> read
//!   write      --- pipe ------------> read
//!   publish    (nobody is attached)
//! ```
//!
//! All take turns, so that what else the machine does meets all of them. `cargo bench --bench wake -- --idle 60` measures
//! what a server and a follower cost that have nothing to do for so many seconds.

mod stand;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lapwing::discovery::{self, Trust};
use lapwing::{Join, Notified, Poll, Subscriber, WaitStrategy};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::time::{ClockId, clock_gettime};
use stand::Stand;

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for everybody to be asleep again.
const PAUSE: Duration = Duration::from_micros(500);
const NAMES: [&str; 5] = [
    "lapwing",
    "lapwing, descriptor",
    "eventfd",
    "pipe",
    "lapwing, nobody there",
];
const DIRECTORY: &str = "LAPWING_WAKE_DIRECTORY";
const ROUNDS: &str = "LAPWING_WAKE_ROUNDS";

/// Nanoseconds on the clock that both processes share.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The value below which `share` of the sorted ones lie, in microseconds.
fn quantile(sorted: &[u64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize] as f64 / 1000.0
}

fn describe(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    format!("{:8.2} {:8.2}", quantile(&times, 0.5), quantile(&times, 0.99))
}

fn open(directory: &Path, name: &str) -> Subscriber {
    let found = discovery::read(&directory.join(name).with_extension("toml"), &Trust::default()).expect("an info file");
    Subscriber::open(&found, Join::Oldest)
        .expect("its segment")
        .with_strategy(WaitStrategy::Block)
}

fn receive(directory: &Path, rounds: usize) -> Vec<u64> {
    let mut subscriber = open(directory, "plain");
    let next = |_| match subscriber.receive(PATIENCE, |_| ()) {
        Poll::Message(_) => now_ns(),
        other => panic!("{other:?}"),
    };
    (0..rounds).map(next).collect()
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
    let pipe = File::open(directory.join("pipe")).expect("a pipe");
    let event = File::from(std::io::stdin().as_fd().try_clone_to_owned().expect("an eventfd"));
    let results = thread::scope(|scope| {
        let readers = [
            scope.spawn(|| receive(directory, rounds)),
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

/// A process that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Most often it has not ended, and either way there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The peer with an eventfd as its input, and our end of the pipe.
fn start(directory: &Path, event: &OwnedFd, rounds: usize) -> (Running, File) {
    let pipe = directory.join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let child = Command::new(std::env::current_exe().expect("a program knows itself"))
        .env(DIRECTORY, directory)
        .env(ROUNDS, rounds.to_string())
        .stdin(event.try_clone().expect("a descriptor"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts once more");
    (
        Running(child),
        File::options().write(true).open(pipe).expect("the peer opens it"),
    )
}

fn wake(rounds: usize) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let stands = ["plain", "notified", "nobody"].map(|name| {
        Stand::new(name, |options| {
            options.info_dir = home.path().to_owned();
            options.listen.clear();
        })
    });
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE).expect("an eventfd");
    let (peer, mut pipe) = start(home.path(), &event, rounds);
    let [mut plain, mut notified, mut nobody] = stands;
    for stand in [&plain, &notified] {
        while stand.server.stats().readers == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    // The servers count their readers now and then.
    thread::sleep(Duration::from_millis(300));

    let (mut sent, mut costs): ([Vec<u64>; 5], [Vec<u64>; 5]) = Default::default();
    for _ in 0..rounds {
        for way in 0..NAMES.len() {
            thread::sleep(PAUSE);
            let start = now_ns();
            match way {
                0 => drop(plain.server.publisher().publish(&[0; 8]).expect("short enough")),
                1 => drop(notified.server.publisher().publish(&[0; 8]).expect("short enough")),
                2 => drop(rustix::io::write(&event, &1_u64.to_ne_bytes()).expect("room")),
                3 => drop(pipe.write(&[0; 8]).expect("room")),
                _ => drop(nobody.server.publisher().publish(&[0; 8]).expect("short enough")),
            }
            costs[way].push(now_ns() - start);
            sent[way].push(start);
        }
    }
    let output = finish(peer);
    let mut arrived = output.lines();
    println!("us, {rounds} rounds            sender p50      p99   sleeper p50      p99");
    for ((name, costs), sent) in NAMES.iter().zip(costs).zip(sent) {
        let woken = arrived.next().map_or(String::new(), |line| {
            let arrived: Vec<u64> = line.split(' ').map(|time| time.parse().expect("a time")).collect();
            assert_eq!(arrived.len(), rounds, "{name}: not everything arrived");
            assert!(
                arrived.iter().zip(&sent).all(|(at, sent)| at > sent),
                "{name}: there before it was sent"
            );
            describe(arrived.iter().zip(sent).map(|(at, sent)| at - sent).collect())
        });
        println!("{name:24} {}    {woken}", describe(costs));
    }
}

/// All that the peer said, once it has ended well.
fn finish(mut peer: Running) -> String {
    let mut text = String::new();
    let mut output = peer.0.stdout.take().expect("a pipe was asked for");
    output.read_to_string(&mut text).expect("text");
    assert!(peer.0.wait().expect("a child").success(), "the peer failed");
    text
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
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let rounds = std::env::var(ROUNDS).ok().and_then(|rounds| rounds.parse().ok());
        return sleep_and_wake(directory.as_ref(), rounds.expect("a number of rounds"));
    }
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--idle") {
        let seconds = arguments.get(at + 1).and_then(|seconds| seconds.parse().ok());
        return idle(Duration::from_secs(seconds.expect("--idle takes a number of seconds")));
    }
    let is_test = arguments.iter().any(|argument| argument == "--test");
    wake(if is_test { 5 } else { 2000 });
}
