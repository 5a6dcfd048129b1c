//! From one process to another through shared memory, 64 bytes: a round trip, and one way by the clock that both share,
//! as distributions.
//!
//! ```text
//!   this process                       the peer
//!   server ping --- shared memory ---> subscriber
//!   subscriber <--- shared memory ---- server pong
//! ```
//!
//! Both are pinned, to a processor each. The ways take turns, a window each with a peer of its own, and the window whose
//! median is in the middle is printed. `cargo bench --bench latency -- --rounds 9`.

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

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use criterion::BenchmarkId;
use distribution::{Distribution, TITLE, Times};
use lapwing::{Join, Poll, Server, ServerOptions, Subscriber, WaitStrategy};
use peer::{PATIENCE, Peer};
use placement::{Windows, pin};
use plot::{draw, plot};
use stand::Stand;

type Message = [u64; 8];

/// A way to wait on both sides, and the pause before each round trip.
struct Way {
    name: &'static str,
    strategy: WaitStrategy,
    pause: Duration,
}

/// Long enough for everybody to be asleep again, however they wait.
const APART: Duration = Duration::from_micros(500);
const WAYS: [Way; 4] = [
    Way {
        name: "spin",
        strategy: WaitStrategy::Spin,
        pause: Duration::ZERO,
    },
    Way {
        name: "adaptive",
        strategy: WaitStrategy::Adaptive,
        pause: Duration::ZERO,
    },
    Way {
        name: "adaptive, 0.5 ms apart",
        strategy: WaitStrategy::Adaptive,
        pause: APART,
    },
    Way {
        name: "block, 0.5 ms apart",
        strategy: WaitStrategy::Block,
        pause: APART,
    },
];

/// What was seen in one window.
struct Seen {
    round_trip: Distribution,
    one_way: Distribution,
}

fn attach(directory: &Path, name: &str, strategy: WaitStrategy) -> Subscriber {
    Subscriber::open(&peer::find(directory, name), Join::New)
        .expect("its segment")
        .with_strategy(strategy)
}

/// The peer: sends back whatever comes, its last word replaced by how long it took to come, until it ends.
fn echo(directory: &Path, way: &Way) {
    let mut ping = attach(directory, "ping", way.strategy);
    let mut options = ServerOptions::new("pong".parse().expect("a server's name"));
    options.info_dir = directory.to_owned();
    options.listen.clear();
    let mut pong = Server::start(options).expect("a server starts");
    let _pinned = pin(1);
    println!("ready");
    loop {
        match ping.receive(PATIENCE, |view| view.read::<Message>(0)) {
            Poll::Message(message) => {
                let took = since(message.timestamp_ns);
                let mut answer = message.value.expect("64 bytes");
                *answer.last_mut().expect("the time") = took.as_nanos() as u64;
                pong.publisher().publish_typed(&answer).expect("short enough");
            }
            Poll::Ended => break,
            other => panic!("{other:?}"),
        }
    }
}

/// Time since `ns` on the clock of messages. A clock that was set back meanwhile makes it none.
fn since(ns: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.saturating_sub(Duration::from_nanos(ns))
}

/// Sends `round` there and back. Returns how long that took, and the way there alone as the peer saw it.
fn bounce(server: &mut Server, pong: &mut Subscriber, round: u64) -> [Duration; 2] {
    let start = Instant::now();
    server.publisher().publish_typed(&[round; 8]).expect("short enough");
    match pong.receive(PATIENCE, |view| view.read::<Message>(0)) {
        Poll::Message(message) => {
            let round_trip = start.elapsed();
            let [echo @ .., one_way_ns] = message.value.expect("64 bytes");
            assert_eq!((message.sequence, echo), (round, [round; 7]));
            [round_trip, Duration::from_nanos(one_way_ns)]
        }
        other => panic!("{other:?}"),
    }
}

fn measure(index: usize, time: Duration) -> Seen {
    let way = &WAYS[index];
    let mut stand = Stand::new("ping", |options| options.listen.clear());
    let peer = Peer::start(stand.directory(), &index.to_string());
    let mut pong = attach(stand.directory(), "pong", way.strategy);
    let pinned = pin(0);
    let [mut round_trips, mut one_ways] = [Times::new(), Times::new()];
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < time {
        if !way.pause.is_zero() {
            thread::sleep(way.pause);
        }
        let [round_trip, one_way] = bounce(&mut stand.server, &mut pong, round);
        round_trips.note(round_trip);
        one_ways.note(one_way);
        round += 1;
    }
    drop(pinned);
    stand.server.end_stream();
    peer.finish();
    assert_eq!(round, stand.server.publisher().next_sequence());
    Seen {
        round_trip: round_trips.distribution(),
        one_way: one_ways.distribution(),
    }
}

fn main() {
    if let Some((directory, kind)) = peer::role() {
        return echo(&directory, &WAYS[kind.parse::<usize>().expect("a way")]);
    }
    let time = Duration::from_millis(if extent::is_whole() { 500 } else { 20 });
    let mut windows = WAYS.each_ref().map(|_| Windows::new());
    for _ in 0..extent::rounds(5) {
        for (index, windows) in windows.iter_mut().enumerate() {
            windows.take(|_| measure(index, time));
        }
    }
    println!("64 B between two processes, us         {TITLE}   a line's round trip, windows that count");
    for (way, windows) in WAYS.iter().zip(&mut windows) {
        let name = |what| format!("{:25} {what:12}", way.name);
        let key = |seen: &Seen| seen.round_trip.median();
        windows.tell(&name("round trip"), key, |seen, _| seen.round_trip.describe());
        windows.tell(&name("one way"), key, |seen, _| seen.one_way.describe());
    }
    draw(|criterion| {
        let mut group = criterion.benchmark_group("latency");
        for (way, windows) in WAYS.iter().zip(&windows) {
            let id = |what| BenchmarkId::new(what, way.name);
            plot(&mut group, id("round trip"), windows, |seen| &seen.round_trip.pieces);
            plot(&mut group, id("one way"), windows, |seen| &seen.one_way.pieces);
        }
    });
}
