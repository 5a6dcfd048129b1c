//! What losing nothing costs a publisher: while 0, 1 and 8 readers keep up, and while it waits for a slow one. What such a
//! stream carries flat out is in `throughput`.
//!
//! The publisher is pinned to one processor and the readers to another. All cases take turns; each reader accounts for
//! every message, and a lossless one that missed any fails the bench. `cargo bench --bench lossless -- --rounds 9`.

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
mod stand;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use account::Account;
use lapwing::{Join, LosslessOffer, LosslessPolicy, LosslessSubscriber, Subscriber, View};
use payload::{Payload, claimed};
use peer::{PATIENCE, Peer};
use placement::{Windows, pin};
use stand::Stand;

const SERVER: &str = "lossless";
const SIZE: usize = 64;
/// Messages of a batch.
const BATCH: u64 = 64;
const SLOTS: u64 = 4096;
/// A burst of those that are to be kept up with, and the pause to read it in.
const BURST: u64 = SLOTS / 4;
const PAUSE: Duration = Duration::from_millis(5);
/// What the slow reader sleeps after every batch.
const SLOWNESS: Duration = Duration::from_millis(1);
/// The server offers no lossless subscriptions.
const NOT_OFFERED: &str = "not offered";
/// Readers that keep up, and of which kind.
const WAYS: [(&str, usize); 6] = [
    (NOT_OFFERED, 0),
    ("lossy", 0),
    ("lossy", 1),
    ("lossless", 1),
    ("lossy", 8),
    ("lossless", 8),
];

/// A peer: reads to the end of the stream as `kind` says, and tells what it saw.
fn read(directory: &Path, kind: &str) {
    let mut account = Account::default();
    let found = peer::find(directory, SERVER);
    let claim = |view: View<'_>| claimed(view.words().iter());
    let _pinned = pin(1);
    if kind == "lossy" {
        let mut subscriber = Subscriber::open(&found, Join::New).expect("its segment");
        println!("ready");
        while account.note(&subscriber.receive(PATIENCE, claim)) {}
    } else {
        let mut subscriber = LosslessSubscriber::open(&found, Join::New, PATIENCE).expect("a lease");
        println!("ready");
        while account.note(&subscriber.receive(PATIENCE, claim)) {
            if kind == "slow" && account.received.is_multiple_of(BATCH) {
                thread::sleep(SLOWNESS);
            }
        }
    }
    println!("{account}");
}

fn new_stand(kind: &str) -> Stand {
    Stand::new(SERVER, |options| {
        options.slots = Some(SLOTS);
        options.lossless = (kind != NOT_OFFERED).then_some(LosslessOffer {
            policy: LosslessPolicy::Block,
            max_subscribers: 8,
        });
    })
}

/// Publishes `count` messages in batches.
fn publish(stand: &mut Stand, count: u64) {
    let mut payload = Payload::new(SIZE);
    let publisher = stand.server.publisher();
    let end = publisher.next_sequence() + count;
    while publisher.next_sequence() < end {
        let first = publisher.next_sequence();
        let mut batch = publisher.batch();
        for sequence in first..(first + BATCH).min(end) {
            batch.push(0, payload.of(sequence)).expect("short enough");
        }
    }
}

/// Ends the stream, and checks what the readers saw of it.
fn finish(mut stand: Stand, peers: Vec<Peer>, is_lossless: bool) {
    stand.server.end_stream();
    let published = stand.server.publisher().next_sequence();
    for mut peer in peers {
        let account = Account::check(&peer.hear(), published);
        assert!(
            !is_lossless || account.missed == 0,
            "{} of {published} lost",
            account.missed
        );
        peer.finish();
    }
}

/// Nanoseconds that publishing takes the publisher's thread a message, while readers keep up with bursts of it.
fn keep_up(kind: &str, readers: usize, bursts: u64) -> f64 {
    let mut stand = new_stand(kind);
    let peers = (0..readers).map(|_| Peer::start(stand.directory(), kind)).collect();
    let pinned = pin(0);
    let mut ran = Duration::ZERO;
    for _ in 0..bursts {
        let before = cpu_time::of_thread();
        publish(&mut stand, BURST);
        ran += cpu_time::of_thread() - before;
        thread::sleep(PAUSE);
    }
    drop(pinned);
    finish(stand, peers, kind == "lossless");
    ran.as_nanos() as f64 / (bursts * BURST) as f64
}

/// The share of the time, in %, that the thread of a publisher runs that waits for a slow reader.
fn wait(count: u64) -> f64 {
    let mut stand = new_stand("slow");
    let peers = vec![Peer::start(stand.directory(), "slow")];
    let pinned = pin(0);
    // Until the ring is full.
    publish(&mut stand, SLOTS);
    let (start, before) = (Instant::now(), cpu_time::of_thread());
    publish(&mut stand, count);
    let ran = cpu_time::of_thread() - before;
    let share = 100.0 * ran.as_secs_f64() / start.elapsed().as_secs_f64();
    drop(pinned);
    finish(stand, peers, true);
    share
}

fn tell(name: &str, windows: &mut Windows<f64>) {
    windows.tell(
        name,
        |&figure| figure,
        |figure, windows| {
            let [lowest, _, highest] = windows.spread(|&figure| figure);
            format!("{figure:8.2} ({lowest:.2} to {highest:.2})")
        },
    );
}

fn main() {
    if let Some((directory, kind)) = peer::role() {
        return read(&directory, &kind);
    }
    let (bursts, count) = if extent::is_whole() { (100, 20_000) } else { (2, 1_000) };
    let mut costs = WAYS.map(|_| Windows::new());
    let mut shares = Windows::new();
    for _ in 0..extent::rounds(5) {
        for ((kind, readers), costs) in WAYS.iter().zip(&mut costs) {
            costs.take(|_| keep_up(kind, *readers, bursts));
        }
        shares.take(|_| wait(count));
    }
    println!("readers that keep up with bursts of {BURST} x {SIZE} B: ns of the publisher's CPU a message");
    for ((kind, readers), costs) in WAYS.iter().zip(&mut costs) {
        tell(&format!("{readers} {kind:11}"), costs);
    }
    println!("a reader that sleeps 1 ms after every {BATCH}, a full ring: the publisher's thread runs, % of the time");
    tell("             ", &mut shares);
}
