//! From one process to another through shared memory, 64 bytes: a round trip, and one way by the clock that both share.
//!
//! ```text
//!   this process                       the peer
//!   server ping --- shared memory ---> subscriber
//!   subscriber <--- shared memory ---- server pong
//! ```

#[path = "stand/peer.rs"]
mod peer;
mod stand;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use criterion::Criterion;
use lapwing::{Poll, Received, Server, ServerOptions, Subscriber};
use peer::{PATIENCE, Peer};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use stand::Stand;

type Payload = [u64; 8];

/// Keeps this thread on the `index`-th of the processors that it may use, if there are two or more.
fn pin(index: usize) {
    let allowed = sched_getaffinity(None).expect("every thread has an affinity");
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    if usable.len() >= 2 {
        let mut set = CpuSet::new();
        set.set(usable[index % usable.len()]);
        sched_setaffinity(None, &set).expect("one of the processors that it may use");
    }
}

/// The peer: sends back whatever comes, until it ends.
fn echo(directory: &Path, kind: &str) {
    let mut ping = peer::attach(directory, "ping", kind);
    let mut options = ServerOptions::new("pong".parse().expect("a server's name"));
    options.info_dir = directory.to_owned();
    options.listen.clear();
    let mut pong = Server::start(options).expect("a server starts");
    pin(1);
    println!("ready");
    loop {
        match ping.receive(PATIENCE, |view| view.read::<Payload>(0)) {
            Poll::Message(message) => {
                let payload = message.value.expect("64 bytes");
                pong.publisher().publish_typed(&payload).expect("short enough");
            }
            Poll::Ended => break,
            other => panic!("{other:?}"),
        }
    }
}

fn bounce(stand: &mut Stand, pong: &mut Subscriber, round: u64) -> Received<Option<Payload>> {
    let payload = [round; 8];
    stand.server.publisher().publish_typed(&payload).expect("short enough");
    match pong.receive(PATIENCE, |view| view.read::<Payload>(0)) {
        Poll::Message(message) => {
            assert_eq!(message.value, Some(payload));
            message
        }
        other => panic!("{other:?}"),
    }
}

fn between_processes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("latency");
    for name in ["spin", "block"] {
        let mut stand = Stand::new("ping", |options| options.listen.clear());
        let peer = Peer::start(&stand.server, name);
        let directory = stand
            .server
            .info_path()
            .parent()
            .expect("an info file lies in a directory");
        let mut pong = peer::attach(directory, "pong", name);
        pin(0);

        group.bench_function(format!("round trip/{name}"), |bencher| {
            let mut round = 0;
            bencher.iter(|| {
                round += 1;
                bounce(&mut stand, &mut pong, round)
            });
        });
        group.bench_function(format!("one way/{name}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let trip = |round| {
                    let sent_ns = bounce(&mut stand, &mut pong, round).timestamp_ns;
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
                    // A clock that was set meanwhile makes one trip free.
                    now.saturating_sub(Duration::from_nanos(sent_ns))
                };
                let start = Instant::now();
                let sum: Duration = (0..iterations).map(trip).sum();
                assert!(sum <= start.elapsed() + Duration::from_secs(1), "longer than both ways");
                sum
            });
        });
        stand.server.end_stream();
        peer.finish();
    }
    group.finish();
}

fn main() {
    if let Some((directory, kind)) = peer::role() {
        return echo(&directory, &kind);
    }
    let mut criterion = Criterion::default().configure_from_args();
    between_processes(&mut criterion);
    criterion.final_summary();
}
