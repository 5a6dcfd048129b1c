//! Streams flat out from one process to another: to a reader that may be lapped, and to those that lose nothing, over both
//! transports, of every size, through the default ring and a large one.
//!
//! ```text
//!   this process                         the peer
//!   server    --- shared memory --->     subscriber, lossless subscriber, blocking subscriber
//!             --- TCP, loopback --->     remote subscriber, remote lossless subscriber
//! ```
//!
//! Publisher and reader are pinned, to a processor each; the service thread, which serves TCP, goes where there is room.
//! Each message has its sequence at both ends, and the reader looks at every word. All take turns, a window each with a
//! server and a peer of its own; a reader accounts for every message, and a lossless one that missed any fails the bench.
//! `cargo bench --bench throughput -- --rounds 9`.

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
use std::time::{Duration, Instant};

use account::Account;
use criterion::{BenchmarkId, Throughput};
use lapwing::{
    BlockingSubscriber, Join, LosslessOffer, LosslessPolicy, LosslessSubscriber, Poll, RemoteSubscriber, Subscriber,
    View,
};
use payload::{Payload, claimed, claimed_in};
use peer::{PATIENCE, Peer};
use placement::{Windows, pin};
use plot::{Pace, Pieces, draw, plot};
use stand::Stand;

const SERVER: &str = "throughput";
const SIZES: [usize; 4] = [64, 1 << 10, 64 << 10, 1 << 20];
const KINDS: [&str; 5] = ["lossy", "lossless", "blocking", "TCP", "TCP lossless"];
/// Bytes of the arena by default; more only where a message needs it.
const DEFAULT_RING: u64 = 64 << 10;
/// And 65,536 slots.
const LARGE_RING: u64 = 64 << 20;
/// Bytes and messages of a batch, at most.
const BATCH_BYTES: usize = 64 << 10;
const BATCH: usize = 64;

fn claim(view: View<'_>) -> Option<u64> {
    claimed(view.words().iter())
}

/// The peer: reads to the end of the stream as `kind` says, which ends with how many messages are timed together, and tells
/// what it saw.
fn read(directory: &Path, kind: &str) {
    let (kind, step) = kind.split_once(':').expect("a kind and a number");
    let mut account = Account::default();
    let mut pace = Pace::new(step.parse().expect("a number"));
    let mut note = |outcome: &Poll<Option<u64>>| {
        let goes_on = account.note(outcome);
        pace.note(account.received);
        goes_on
    };
    let found = peer::find(directory, SERVER);
    let _pinned = pin(1);
    match kind {
        "lossy" => {
            let mut subscriber = Subscriber::open(&found, Join::New).expect("its segment");
            println!("ready");
            while note(&subscriber.receive(PATIENCE, claim)) {}
        }
        "lossless" => {
            let mut subscriber = LosslessSubscriber::open(&found, Join::New, PATIENCE).expect("a lease");
            println!("ready");
            while note(&subscriber.receive(PATIENCE, claim)) {}
        }
        "blocking" => {
            let subscriber = BlockingSubscriber::open(&found, Join::New, PATIENCE).expect("a lease");
            println!("ready");
            while note(&subscriber.receive(PATIENCE).map(|held| claimed_in(&held))) {}
        }
        kind => {
            let socket = found.info.socket.expect("a socket");
            let connect = match kind {
                "TCP" => RemoteSubscriber::connect,
                _ => RemoteSubscriber::connect_lossless,
            };
            let mut subscriber =
                connect(&socket.addresses, found.info.incarnation, Join::New, PATIENCE).expect("a connection");
            println!("ready");
            while note(&subscriber.receive(PATIENCE, claimed_in).expect("a stream")) {}
        }
    }
    println!("{account}");
    println!("{}", pace.pieces());
}

/// Publishes `count` messages like `payload` as a batch.
fn publish(stand: &mut Stand, payload: &mut Payload, count: u64) {
    let publisher = stand.server.publisher();
    let first = publisher.next_sequence();
    let mut batch = publisher.batch();
    for sequence in first..first + count {
        batch.push(0, payload.of(sequence)).expect("short enough");
    }
}

/// A kind of stream.
struct Case {
    kind: &'static str,
    size: usize,
    ring_bytes: u64,
}

/// What was seen in one window.
struct Seen {
    /// Messages a second, from the first until the reader has read the last.
    received: f64,
    published: f64,
    /// Nanoseconds that the publisher's thread ran for each message.
    cost: f64,
    /// How the reader got them.
    pieces: Pieces,
}

impl Case {
    /// Every kind of stream.
    fn all() -> impl Iterator<Item = Self> {
        let rings = |size| [DEFAULT_RING.max(4 * size as u64), LARGE_RING];
        SIZES
            .into_iter()
            .flat_map(move |size| rings(size).map(|ring_bytes| (size, ring_bytes)))
            .flat_map(|(size, ring_bytes)| KINDS.map(|kind| Self { kind, size, ring_bytes }))
    }

    fn name(&self) -> String {
        let size = |bytes: usize| match bytes {
            0..1024 => format!("{bytes} B"),
            1024..0x10_0000 => format!("{} KiB", bytes >> 10),
            _ => format!("{} MiB", bytes >> 20),
        };
        let [message, ring] = [self.size, self.ring_bytes as usize].map(size);
        format!("{message:>7} {ring:>8} {:12}", self.kind)
    }

    /// A server whose ring was gone around once: no page of it is touched for the first time.
    fn stand(&self) -> Stand {
        let mut stand = Stand::new(SERVER, |options| {
            options.ring_bytes = self.ring_bytes;
            options.lossless = Some(LosslessOffer {
                policy: LosslessPolicy::Block,
                max_subscribers: 1,
            });
        });
        let slots = stand.server.publisher().geometry().slot_count();
        publish(&mut stand, &mut Payload::new(16), slots);
        publish(
            &mut stand,
            &mut Payload::new(self.size),
            self.ring_bytes / self.size as u64,
        );
        stand
    }

    fn measure(&self, time: Duration) -> Seen {
        let mut stand = self.stand();
        let first = stand.server.publisher().next_sequence();
        let batch = (BATCH_BYTES / self.size).clamp(1, BATCH) as u64;
        let mut peer = Peer::start(stand.directory(), &format!("{}:{batch}", self.kind));
        let mut payload = Payload::new(self.size);
        let pinned = pin(0);
        let (start, ran_before) = (Instant::now(), cpu_time::of_thread());
        while start.elapsed() < time {
            publish(&mut stand, &mut payload, batch);
        }
        let (published_for, ran) = (start.elapsed(), cpu_time::of_thread() - ran_before);
        stand.server.end_stream();
        let published = stand.server.publisher().next_sequence() - first;
        let account = Account::check(&peer.hear(), published);
        let received_for = start.elapsed();
        let pieces = Pieces::parse(&peer.hear());
        drop(pinned);
        peer.finish();
        let is_lossless = !matches!(self.kind, "lossy" | "TCP");
        assert!(
            !is_lossless || account.missed == 0,
            "{} of {published} lost",
            account.missed
        );
        Seen {
            received: account.received as f64 / received_for.as_secs_f64(),
            published: published as f64 / published_for.as_secs_f64(),
            cost: ran.as_nanos() as f64 / published as f64,
            pieces,
        }
    }

    fn describe(&self, seen: &Seen, windows: &Windows<Seen>) -> String {
        let [lowest, _, highest] = windows.spread(|seen| seen.received).map(|rate| rate / 1e3);
        format!(
            "{:9.1} ({lowest:8.1} to {highest:8.1}) {:7.2} {:9.1} {:10.1}",
            seen.received / 1e3,
            seen.received * self.size as f64 / (1 << 30) as f64,
            seen.published / 1e3,
            seen.cost,
        )
    }
}

/// Rates by size of message, for each ring.
fn plots(cases: &[(Case, Windows<Seen>)]) {
    draw(|criterion| {
        for (name, is_large) in [("throughput/default ring", false), ("throughput/large ring", true)] {
            let mut group = criterion.benchmark_group(name);
            for (case, windows) in cases
                .iter()
                .filter(|(case, _)| (case.ring_bytes == LARGE_RING) == is_large)
            {
                let id = BenchmarkId::new(case.kind, case.size);
                group.throughput(Throughput::Bytes(case.size as u64));
                plot(&mut group, id, windows, |seen| &seen.pieces);
            }
        }
    });
}

fn main() {
    if let Some((directory, kind)) = peer::role() {
        return read(&directory, &kind);
    }
    let time = Duration::from_millis(if extent::is_whole() { 250 } else { 10 });
    let mut cases: Vec<(Case, Windows<Seen>)> = Case::all().map(|case| (case, Windows::new())).collect();
    for _ in 0..extent::rounds(3) {
        for (case, windows) in &mut cases {
            windows.take(|_| case.measure(time));
        }
    }
    println!("one reader, flat out; rates in thousand messages a second, the publisher's CPU time in ns a message");
    println!(
        "message     ring               received (lowest to highest)   GiB/s published        CPU   a line's round trip, \
         windows that count"
    );
    for (case, windows) in &mut cases {
        windows.tell(
            &case.name(),
            |seen| seen.received,
            |seen, windows| case.describe(seen, windows),
        );
    }
    plots(&cases);
}
