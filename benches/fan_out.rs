//! What readers cost the publisher: those that read, and those that do not.
//!
//! ```text
//!   this process                          the peers, 0 to 16
//!   publisher    --- shared memory --->   subscribers that read all they can, or
//!                                         sleep, are stopped, or read a message a millisecond
//! ```
//!
//! The publisher has a processor to itself, pinned; the readers share the others. Messages have 64 bytes. All cases take
//! turns, a window each with a server and readers of its own, who account for every message in the end.
//! `cargo bench --bench fan_out -- --rounds 9`.

#[path = "stand/account.rs"]
mod account;
#[path = "stand/cpu_time.rs"]
mod cpu_time;
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

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use account::Account;
use criterion::{BenchmarkId, Throughput};
use lapwing::{Join, Subscriber};
use payload::{Payload, claimed};
use peer::{PATIENCE, Peer};
use placement::{Placement, Windows, pin};
use plot::{Pace, Pieces, draw, plot};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use stand::Stand;

const SERVER: &str = "fan";
const SIZE: usize = 64;
const BATCH: u64 = 64;
const READERS: [usize; 6] = [0, 1, 2, 4, 8, 16];
/// What the eight do that are to burden the publisher; the first are not there.
const BURDENS: [&str; 4] = ["nobody", "sleep", "are stopped", "are slow"];
const BURDEN: usize = 8;
/// How long the server takes at most to notice who is attached, and half of that again.
const CENSUS: Duration = Duration::from_millis(75);
/// What a slow reader sleeps after each message, and a sleeping one between two looks whether all is over.
const SLOWNESS: Duration = Duration::from_millis(1);

/// The peer: follows to the end as its kind says, which ends with the number of its processor, and tells what it saw.
fn follow(directory: &Path, kind: &str) {
    let (kind, index) = kind.split_once(':').expect("a kind and a number");
    let _pinned = pin(index.parse().expect("a number"));
    let mut subscriber = Subscriber::open(&peer::find(directory, SERVER), Join::New).expect("its segment");
    let mut account = Account::default();
    let mut pace = Pace::new(BATCH);
    let mut receive = |subscriber: &mut Subscriber| {
        let outcome = subscriber.receive(PATIENCE, |view| claimed(view.words().iter()));
        let goes_on = account.note(&outcome);
        pace.note(account.received);
        goes_on
    };
    println!("ready");
    while kind != "read" && !subscriber.head().closed {
        if kind == "are slow" {
            // The first of the stream may be the end.
            let _ = receive(&mut subscriber);
        }
        thread::sleep(SLOWNESS);
    }
    while receive(&mut subscriber) {}
    println!("{account}");
    println!("{}", pace.pieces());
}

/// What was seen in one window.
struct Seen {
    /// Messages published a second.
    rate: f64,
    /// Nanoseconds that the publisher's thread ran for each.
    cost: f64,
    /// What the readers received on average, the one that got least and the one that got most, a second.
    received: [f64; 3],
    /// How they were published, and how the readers received them.
    pieces: [Pieces; 2],
}

/// Publishes messages for `time`, in batches or each by itself. Returns how many, and how it went.
fn publish(stand: &mut Stand, time: Duration, is_batched: bool) -> (u64, Pieces) {
    let mut payload = Payload::new(SIZE);
    let publisher = stand.server.publisher();
    let first = publisher.next_sequence();
    let mut pace = Pace::new(16 * BATCH);
    let start = Instant::now();
    while start.elapsed() < time {
        let next = publisher.next_sequence();
        pace.note(next - first);
        if is_batched {
            let mut batch = publisher.batch();
            for sequence in next..next + BATCH {
                batch.push(0, payload.of(sequence)).expect("short enough");
            }
        } else {
            for sequence in next..next + BATCH {
                publisher.publish(payload.of(sequence)).expect("short enough");
            }
        }
    }
    (publisher.next_sequence() - first, pace.pieces())
}

fn start(stand: &Stand, count: usize, kind: &str) -> Vec<Peer> {
    let peers = (1..=count).map(|index| Peer::start(stand.directory(), &format!("{kind}:{index}")));
    let peers: Vec<Peer> = peers.collect();
    while stand.server.stats().readers != count as u64 {
        thread::yield_now();
    }
    thread::sleep(CENSUS);
    peers
}

/// Has all of `peers` stopped, or go on.
fn signal(peers: &[Peer], signal: Signal) {
    for peer in peers {
        let pid = Pid::from_raw(peer.id().cast_signed()).expect("a process");
        kill_process(pid, signal).expect("a child");
        if signal == Signal::STOP {
            waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).expect("it stops");
        }
    }
}

/// Publishes for `time` while `count` readers do as `kind` says.
fn measure(count: usize, kind: &str, time: Duration, is_batched: bool) -> Seen {
    let mut stand = Stand::new(SERVER, |options| options.listen.clear());
    // Once around the ring: no page of it is touched for the first time.
    while stand.server.publisher().next_sequence() < stand.server.publisher().geometry().slot_count() {
        publish(&mut stand, Duration::from_micros(100), true);
    }
    let peers = start(&stand, count, kind);
    if kind == "are stopped" {
        signal(&peers, Signal::STOP);
    }
    let pinned = pin(0);
    let (start, ran_before) = (Instant::now(), cpu_time::of_thread());
    let (published, publishing) = publish(&mut stand, time, is_batched);
    let (took, ran) = (start.elapsed().as_secs_f64(), cpu_time::of_thread() - ran_before);
    drop(pinned);
    if kind == "are stopped" {
        signal(&peers, Signal::CONT);
    }
    stand.server.end_stream();
    let mut received: Vec<f64> = Vec::new();
    let mut receiving = Pieces::default();
    for mut peer in peers {
        let account = Account::check(&peer.hear(), published);
        receiving.extend(Pieces::parse(&peer.hear()));
        peer.finish();
        received.push(account.received as f64 / took);
    }
    received.sort_unstable_by(f64::total_cmp);
    let mean = received.iter().sum::<f64>() / count as f64;
    let edge = |rate: Option<&f64>| rate.copied().unwrap_or(f64::NAN);
    Seen {
        rate: published as f64 / took,
        cost: ran.as_nanos() as f64 / published as f64,
        received: [mean, edge(received.first()), edge(received.last())],
        pieces: [publishing, receiving],
    }
}

/// What each reader costs, and what it gets.
fn fan_out(rounds: usize, time: Duration) {
    let mut cases: Vec<(usize, bool, Windows<Seen>)> = [false, true]
        .into_iter()
        .flat_map(|is_batched| READERS.map(|readers| (readers, is_batched, Windows::new())))
        .collect();
    for _ in 0..rounds {
        for (readers, is_batched, windows) in &mut cases {
            windows.take(|_| measure(*readers, "read", time, *is_batched));
        }
    }
    println!("readers of 64 B; the publisher's CPU time in ns a message, rates in million messages a second");
    println!(
        "             CPU (lowest to highest) published   each receives (least to most)   a line's round trip, windows that count"
    );
    for (readers, is_batched, windows) in &mut cases {
        let name = format!("{readers:2} {:7}", if *is_batched { "batch" } else { "publish" });
        windows.tell(
            &name,
            |seen| seen.cost,
            |seen, windows| {
                let [lowest, _, highest] = windows.spread(|seen| seen.cost);
                let [mean, least, most] = seen.received.map(|rate| rate / 1e6);
                let publisher = format!(
                    "{:6.1} ({lowest:6.1} to {highest:6.1}) {:9.2}",
                    seen.cost,
                    seen.rate / 1e6
                );
                if *readers == 0 {
                    return format!("{publisher} {:>31}", "");
                }
                format!("{publisher} {mean:9.3} ({least:7.3} to {most:7.3})")
            },
        );
    }
    plots(&cases);
}

/// What a message takes the publisher, and each of its readers, by their number.
fn plots(cases: &[(usize, bool, Windows<Seen>)]) {
    draw(|criterion| {
        for (at, name) in ["fan out/publisher", "fan out/each reader"].into_iter().enumerate() {
            let mut group = criterion.benchmark_group(name);
            group.throughput(Throughput::Elements(1));
            for (readers, is_batched, windows) in cases {
                let id = BenchmarkId::new(if *is_batched { "batch" } else { "publish" }, readers);
                plot(&mut group, id, windows, |seen| &seen.pieces[at]);
            }
        }
    });
}

/// One window of each burden, one after the other.
fn burden(placement: &mut Placement, time: Duration) -> [Seen; BURDENS.len()] {
    BURDENS.map(|kind| {
        let count = if kind == BURDENS[0] { 0 } else { BURDEN };
        let seen = measure(count, kind, time, false);
        placement.look();
        seen
    })
}

/// How much the publisher loses by readers that do not keep up.
fn burdens(rounds: usize, time: Duration) {
    let mut windows = Windows::new();
    for _ in 0..rounds {
        windows.take(|placement| burden(placement, time));
    }
    println!(
        "publishing 64 B flat out while 8 readers ...: its rate and its CPU time a message beside nobody's, medians of the rounds' ratios"
    );
    for (index, kind) in BURDENS.iter().enumerate().skip(1) {
        windows.tell(
            &format!("{kind:12}"),
            |seen| seen[index].rate / seen[0].rate,
            |_, windows| {
                let [lowest, rate, highest] = windows.spread(|seen| seen[index].rate / seen[0].rate);
                let [least, cost, most] = windows.spread(|seen| seen[index].cost / seen[0].cost);
                format!("rate {rate:5.3} ({lowest:5.3} to {highest:5.3})  CPU {cost:5.3} ({least:5.3} to {most:5.3})")
            },
        );
    }
}

fn main() {
    if let Some((directory, kind)) = peer::role() {
        return follow(&directory, &kind);
    }
    let time = Duration::from_millis(if extent::is_whole() { 100 } else { 10 });
    fan_out(extent::rounds(5), time);
    burdens(extent::rounds(10), time);
}
