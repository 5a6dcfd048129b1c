//! The same stream over TCP, on the loopback interface, to 1, 100 and 1,000 connections: how long a message takes to each
//! of them, how many arrive when they come flat out, and what a connection costs in memory.
//!
//! ```text
//!   this process: server --- TCP, loopback --->  the peer: all remote subscribers, one thread
//! ```
//!
//! The server is pinned to one processor, its service thread too, and the peer to another. Each connection accounts for
//! every message. What connections cost is told by a process of its own, whose memory nothing else has grown:
//! `cargo bench --bench socket -- --idle 10000`, or `--followers 1000`.

#[path = "stand/account.rs"]
mod account;
#[path = "stand/cpu_time.rs"]
mod cpu_time;
#[path = "stand/distribution.rs"]
mod distribution;
#[path = "stand/extent.rs"]
mod extent;
#[path = "stand/payload.rs"]
mod payload;
#[path = "stand/peer.rs"]
mod peer;
#[path = "stand/placement.rs"]
mod placement;
#[path = "stand/plot.rs"]
mod plot;
mod stand;

use std::env;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use account::Account;
use criterion::{BenchmarkId, Throughput};
use distribution::{Distribution, TITLE, Times};
use lapwing::{Incarnation, Join, Poll, RemoteSubscriber};
use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use payload::{Payload, claimed_in};
use peer::{PATIENCE, Peer, this_program};
use placement::{Windows, pin};
use plot::{Pace, Pieces, draw, plot};
use rustix::process::{Resource, getrlimit, setrlimit};
use stand::Stand;

const SERVER: &str = "socket";
/// Sizes of messages that come flat out.
const SIZES: [usize; 2] = [64, 1024];
const BATCH: u64 = 64;
/// Messages that the connections may be behind on average, flat out: far fewer than the ring retains.
const BACKLOG: u64 = 2048;
/// How often a connection is looked at on which nothing arrives, so that it stays alive.
const ROUND: Duration = Duration::from_millis(500);

/// The peer's connections, and what came over them.
struct Crowd {
    subscribers: Vec<RemoteSubscriber>,
    account: Account,
    latencies: Times,
    pace: Pace,
    /// Connections whose stream has ended.
    ended: usize,
}

impl Crowd {
    /// Takes what has arrived on connection `index`.
    fn drain(&mut self, index: usize) {
        let subscriber = &mut self.subscribers[index];
        while !subscriber.has_ended() {
            let outcome = subscriber.poll(claimed_in).expect("a stream");
            match &outcome {
                Poll::Empty if subscriber.is_drained() => break,
                Poll::Message(message) => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
                    let took = now.saturating_sub(Duration::from_nanos(message.timestamp_ns));
                    self.latencies.note(took);
                    self.pace.note(self.account.received);
                }
                _ => {}
            }
            if !self.account.note(&outcome) {
                self.ended += 1;
            }
        }
    }
}

/// The peer: as many subscribers as `kind` says; what they saw, and how long it took to them.
fn follow(directory: &Path, kind: &str) {
    let _pinned = pin(1);
    let addresses = peer::find(directory, SERVER).info.socket.expect("a socket").addresses;
    let connect = |_| RemoteSubscriber::connect(&addresses, Incarnation::NIL, Join::New, PATIENCE).expect("a place");
    let mut crowd = Crowd {
        subscribers: (0..kind.parse().expect("a number")).map(connect).collect(),
        account: Account::default(),
        latencies: Times::new(),
        pace: Pace::new(BATCH),
        ended: 0,
    };
    let mut poll = mio::Poll::new().expect("an epoll");
    for (index, subscriber) in crowd.subscribers.iter().enumerate() {
        let descriptor = subscriber.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&descriptor), Token(index), Interest::READABLE)
            .expect("room in the epoll");
    }
    println!("ready");
    let mut events = Events::with_capacity(1024);
    let mut looked = Instant::now() - ROUND;
    while crowd.ended < crowd.subscribers.len() {
        if looked.elapsed() >= ROUND {
            (0..crowd.subscribers.len()).for_each(|index| crowd.drain(index));
            looked = Instant::now();
        }
        poll.poll(&mut events, Some(ROUND)).expect("an epoll");
        events.iter().for_each(|event| crowd.drain(event.token().0));
    }
    println!("{}", crowd.account);
    println!("{}", crowd.latencies.distribution());
    println!("{}", crowd.pace.pieces());
}

/// A server and its crowd.
struct Meeting {
    stand: Stand,
    peer: Peer,
    connections: u64,
}

impl Meeting {
    fn begin(connections: u64) -> Self {
        let pinned = pin(0);
        let stand = new_stand();
        drop(pinned);
        let peer = Peer::start(stand.directory(), &connections.to_string());
        Self {
            stand,
            peer,
            connections,
        }
    }

    /// Ends the stream, and has the crowd tell what it saw: how long messages took, and how many came.
    fn end(mut self) -> (Account, Distribution, Pieces) {
        self.stand.server.end_stream();
        let published = self.stand.server.publisher().next_sequence();
        let account = Account::check(&self.peer.hear(), published * self.connections);
        let latencies = Distribution::parse(&self.peer.hear());
        let pieces = Pieces::parse(&self.peer.hear());
        self.peer.finish();
        (account, latencies, pieces)
    }

    /// Messages handed to the system that were not yet, on average over the connections.
    fn backlog(&mut self) -> u64 {
        let sent = self.stand.server.stats().service.messages / self.connections;
        self.stand.server.publisher().next_sequence().saturating_sub(sent)
    }
}

fn new_stand() -> Stand {
    Stand::new(SERVER, |options| {
        options.ring_bytes = 64 << 20;
        options.shared_memory = false;
    })
}

/// How long a message takes to each connection, one at a time.
fn latency(connections: u64, messages: u64) -> Distribution {
    let mut meeting = Meeting::begin(connections);
    let pinned = pin(0);
    let mut payload = Payload::new(64);
    for sequence in 0..messages {
        let publisher = meeting.stand.server.publisher();
        publisher.publish(payload.of(sequence)).expect("short enough");
        thread::sleep(Duration::from_micros(200 + 30 * connections));
    }
    drop(pinned);
    let (account, latencies, _) = meeting.end();
    assert_eq!(account.missed, 0, "lost at this pace");
    latencies
}

/// What was seen of a stream in one window.
struct Stream {
    /// Messages that arrive a second on all connections together.
    rate: f64,
    /// The share of all in % that is missed.
    missed: f64,
    /// How they arrived.
    pieces: Pieces,
}

fn throughput(connections: u64, size: usize, time: Duration) -> Stream {
    let mut meeting = Meeting::begin(connections);
    let pinned = pin(0);
    let mut payload = Payload::new(size);
    let start = Instant::now();
    while start.elapsed() < time {
        if meeting.backlog() > BACKLOG {
            thread::yield_now();
            continue;
        }
        let publisher = meeting.stand.server.publisher();
        let first = publisher.next_sequence();
        let mut batch = publisher.batch();
        for sequence in first..first + BATCH {
            batch.push(0, payload.of(sequence)).expect("short enough");
        }
    }
    drop(pinned);
    let (account, _, pieces) = meeting.end();
    let took = start.elapsed().as_secs_f64();
    let [received, missed] = [account.received, account.missed].map(|count| count as f64);
    Stream {
        rate: received / took,
        missed: 100.0 * missed / (received + missed),
        pieces,
    }
}

/// The number behind `name` in a file of the kernel.
fn reading(file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(file).expect("the kernel tells");
    let mut words = text.split_whitespace().skip_while(|&word| word != name);
    words.nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// KiB of this process, of TCP's buffers and of the kernel's own objects, the last two of the whole machine.
fn memory() -> [f64; 3] {
    [
        reading("/proc/self/status", "VmRSS:"),
        4.0 * tcp_pages(),
        reading("/proc/meminfo", "Slab:"),
    ]
}

/// Pages of TCP's buffers.
fn tcp_pages() -> f64 {
    let text = fs::read_to_string("/proc/net/sockstat").expect("the kernel tells");
    let line = text.lines().find(|line| line.starts_with("TCP:")).expect("TCP");
    let number = line.rsplit(' ').next().and_then(|number| number.parse().ok());
    number.expect("a number")
}

/// What so many connections cost in memory and, while nothing or a hundred messages of 1 KiB a second come, in CPU time.
fn cost(connections: u64, publishes: bool, time: Duration) {
    // All pages that one connection needs, too, are there before.
    let first = Meeting::begin(1);
    let before = memory();
    first.end();
    let mut meeting = Meeting::begin(connections);
    let mut payload = Payload::new(1024);
    let (start, ran, mut most) = (Instant::now(), cpu_time::of_process(), [0.0_f64; 3]);
    while start.elapsed() < time {
        if publishes {
            let publisher = meeting.stand.server.publisher();
            let sequence = publisher.next_sequence();
            publisher.publish(payload.of(sequence)).expect("short enough");
        }
        thread::sleep(Duration::from_millis(10));
        let now = memory();
        (0..3).for_each(|at| most[at] = most[at].max(now[at]));
    }
    let ran = (cpu_time::of_process() - ran).as_secs_f64() / start.elapsed().as_secs_f64();
    assert_eq!(meeting.stand.server.stats().service.connections, connections);
    meeting.end();
    let [user, buffers, objects] = [0, 1, 2].map(|at| (most[at] - before[at]) / connections as f64);
    println!(
        "{connections} {}: {user:.2} KiB of the server's process each; the kernel's, both ends, whole machine: {buffers:.1} KiB of \
         buffers, {objects:.1} KiB of objects; {:.2} % of a CPU",
        if publishes { "followers" } else { "idle" },
        100.0 * ran
    );
}

fn tables(is_whole: bool) {
    let crowds: &[u64] = if is_whole { &[1, 100, 1000] } else { &[1, 20] };
    let time = Duration::from_millis(if is_whole { 500 } else { 20 });
    let mut latencies: Vec<_> = crowds.iter().map(|_| Windows::new()).collect();
    let mut rates: Vec<_> = crowds.iter().map(|_| SIZES.map(|_| Windows::new())).collect();
    for _ in 0..extent::rounds(3) {
        for ((&connections, latencies), rates) in crowds.iter().zip(&mut latencies).zip(&mut rates) {
            let messages = if is_whole { 40 + 2000 / connections } else { 5 };
            latencies.take(|_| latency(connections, messages));
            for (size, rates) in SIZES.iter().zip(rates) {
                rates.take(|_| throughput(connections, *size, time));
            }
        }
    }
    println!("publish to receive over TCP, 64 B, us, each connection a sample");
    println!("connections {TITLE}   a line's round trip, windows that count");
    for (connections, latencies) in crowds.iter().zip(&mut latencies) {
        latencies.tell(&format!("{connections:11}"), Distribution::median, |seen, _| {
            seen.describe()
        });
    }
    println!("flat out over TCP: million messages a second on all connections together, and missed of them");
    for (connections, rates) in crowds.iter().zip(&mut rates) {
        for (size, rates) in SIZES.iter().zip(rates) {
            rates.tell(
                &format!("{connections:11} {size:5} B"),
                |seen| seen.rate,
                |seen, windows| {
                    let [lowest, rate, highest] = windows.spread(|seen| seen.rate).map(|rate| rate / 1e6);
                    format!("{rate:8.3} ({lowest:.3} to {highest:.3}) {:6.2} %", seen.missed)
                },
            );
        }
    }
    plots(crowds, &latencies, &rates);
}

fn plots(crowds: &[u64], latencies: &[Windows<Distribution>], rates: &[[Windows<Stream>; SIZES.len()]]) {
    draw(|criterion| {
        let mut group = criterion.benchmark_group("socket/publish to receive, by connections");
        for (connections, windows) in crowds.iter().zip(latencies) {
            let id = BenchmarkId::from_parameter(connections);
            plot(&mut group, id, windows, |seen| &seen.pieces);
        }
        drop(group);
        let mut group = criterion.benchmark_group("socket/stream, by connections");
        group.throughput(Throughput::Elements(1));
        for (connections, rates) in crowds.iter().zip(rates) {
            for (size, windows) in SIZES.iter().zip(rates) {
                let id = BenchmarkId::new(format!("{size} B"), connections);
                plot(&mut group, id, windows, |seen| &seen.pieces);
            }
        }
    });
}

fn main() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
    if let Some((directory, kind)) = peer::role() {
        return follow(&directory, &kind);
    }
    let is_whole = extent::is_whole();
    let time = Duration::from_millis(if is_whole { 5000 } else { 50 });
    for (flag, publishes) in [("--idle", false), ("--followers", true)] {
        if let Some(connections) = extent::number(flag) {
            return cost(connections as u64, publishes, time);
        }
    }
    tables(is_whole);
    let costs = if is_whole {
        [("--idle", "5000"), ("--followers", "1000")]
    } else {
        [("--idle", "50"), ("--followers", "20")]
    };
    for (flag, connections) in costs {
        let mut alone = this_program();
        alone.args(env::args().skip(1)).args([flag, connections]);
        assert!(alone.status().expect("this program starts once more").success());
    }
}
