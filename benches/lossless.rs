//! What losing nothing costs: streams to one reader that may be lapped and to one that may not, rings that are full or
//! not, a reader that is slow, and publishing while 0, 1 and 8 keep up.
//!
//! ```text
//!   this process                         the peers
//!   server    --- shared memory --->     subscriber, lossless subscriber, blocking subscriber
//!             --- TCP, loopback --->     remote subscriber, remote lossless subscriber
//! ```
//!
//! All take turns, so that what else the machine does meets all of them. Each reader accounts for every message, and a
//! lossless one that missed any fails the bench. `cargo bench --bench lossless -- --rounds 5`.

#[path = "stand/peer.rs"]
mod peer;
mod stand;

use std::env;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytemuck::cast_slice;
use lapwing::discovery::{self, Trust};
use lapwing::{
    BlockingSubscriber, Join, LosslessOffer, LosslessPolicy, LosslessSubscriber, Poll, RemoteSubscriber, View,
};
use peer::{PATIENCE, Peer};
use rustix::time::{ClockId, clock_gettime};
use stand::Stand;

const SERVER: &str = "lossless";
/// Messages of a batch.
const BATCH: u64 = 64;
const SMALL_RING: u64 = 4096;
const LARGE_RING: u64 = 65_536;
/// What the slow reader sleeps after every 64 messages.
const SLOWNESS: Duration = Duration::from_millis(1);

/// What a reader has seen of the stream.
#[derive(Default)]
struct Account {
    received: u64,
    missed: u64,
    wrong: u64,
}

impl Account {
    /// Notes what a poll found. Returns whether the stream goes on.
    fn note(&mut self, outcome: Poll<Option<u64>>) -> bool {
        match outcome {
            Poll::Message(message) => {
                self.received += 1;
                self.wrong += u64::from(message.value != Some(message.sequence));
            }
            Poll::Lapped { missed, .. } => self.missed += missed,
            Poll::Empty => {}
            Poll::Ended => return false,
            other => panic!("{other:?}"),
        }
        true
    }
}

/// The word at both ends of a message, which is its sequence.
fn word(bytes: &[u8]) -> Option<u64> {
    let (first, last) = (bytes.first_chunk()?, bytes.last_chunk()?);
    (first == last).then(|| u64::from_ne_bytes(*first))
}

fn word_of(view: View<'_>) -> Option<u64> {
    let mut words = view.words().iter();
    let first = words.next();
    first.filter(|_| words.last() == first)
}

/// A peer: reads to the end of the stream as `kind` says, and tells what it saw.
fn read(directory: &Path, kind: &str) {
    let mut account = Account::default();
    let found =
        discovery::read(&directory.join(SERVER).with_extension("toml"), &Trust::default()).expect("an info file");
    match kind {
        "lossy" => {
            let mut subscriber = peer::attach(directory, SERVER, kind);
            println!("ready");
            while account.note(subscriber.receive(PATIENCE, word_of)) {}
        }
        "lossless" | "slow" => {
            let mut subscriber = LosslessSubscriber::open(&found, Join::New, PATIENCE).expect("a lease");
            println!("ready");
            while account.note(subscriber.receive(PATIENCE, word_of)) {
                if kind == "slow" && account.received.is_multiple_of(BATCH) {
                    thread::sleep(SLOWNESS);
                }
            }
        }
        "blocking" => {
            let subscriber = BlockingSubscriber::open(&found, Join::New, PATIENCE).expect("a lease");
            println!("ready");
            while account.note(subscriber.receive(PATIENCE).map(|held| word(&held))) {}
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
            while account.note(subscriber.receive(PATIENCE, word).expect("a stream")) {}
        }
    }
    println!("{} {} {}", account.received, account.missed, account.wrong);
}

fn new_stand(slots: u64, size: usize) -> Stand {
    Stand::new(SERVER, |options| {
        options.slots = Some(slots);
        // Twice what the slots can refer to: the slots are what runs out.
        options.ring_bytes = (2 * slots * size as u64).max(1 << 20);
        options.lossless = Some(LosslessOffer {
            policy: LosslessPolicy::Block,
            max_subscribers: 8,
        });
    })
}

/// Publishes `count` messages of `size` bytes in batches.
fn publish(stand: &mut Stand, count: u64, size: usize) {
    let mut words = vec![0_u64; size / 8];
    let publisher = stand.server.publisher();
    let end = publisher.next_sequence() + count;
    while publisher.next_sequence() < end {
        let first = publisher.next_sequence();
        let mut batch = publisher.batch();
        for sequence in first..(first + BATCH).min(end) {
            words.fill(sequence);
            batch.push(0, cast_slice(&words)).expect("short enough");
        }
    }
}

/// Time that this thread has run.
fn ran() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Ends the stream, and checks what the readers saw of it. Returns the share that they missed.
fn finish(mut stand: Stand, peers: Vec<Peer>, is_lossless: bool) -> f64 {
    stand.server.end_stream();
    let published = stand.server.publisher().next_sequence();
    let mut worst = 0;
    for mut peer in peers {
        let line = peer.hear();
        let numbers: Vec<u64> = line
            .split(' ')
            .map(|number| number.parse().expect("a number"))
            .collect();
        let &[received, missed, wrong] = &*numbers else {
            panic!("{line}")
        };
        assert_eq!(
            (received + missed, wrong),
            (published, 0),
            "not all accounted for, or wrong"
        );
        assert!(!is_lossless || missed == 0, "{missed} of {published} lost");
        worst = worst.max(missed);
        peer.finish();
    }
    worst as f64 / published as f64
}

/// Samples of one figure, in the order they were taken.
type Samples = Vec<f64>;

fn describe(samples: &mut Samples) -> String {
    samples.sort_unstable_by(f64::total_cmp);
    let last = samples.len() - 1;
    format!("{:8.2} ({:.2} to {:.2})", samples[last / 2], samples[0], samples[last])
}

/// A stream flat out to one reader.
struct Stream {
    kind: &'static str,
    slots: u64,
    size: usize,
    /// Million messages a second, until the reader has read the last.
    rates: Samples,
    /// Nanoseconds that the publisher's thread ran for each message.
    costs: Samples,
    missed: Samples,
}

impl Stream {
    fn run(&mut self, count: u64) {
        let mut stand = new_stand(self.slots, self.size);
        let peers = vec![Peer::start(&stand.server, self.kind)];
        let (start, ran_before) = (Instant::now(), ran());
        publish(&mut stand, count, self.size);
        let ran = ran() - ran_before;
        let is_lossless = !matches!(self.kind, "lossy" | "TCP");
        let missed = finish(stand, peers, is_lossless);
        self.rates.push(count as f64 / start.elapsed().as_secs_f64() / 1e6);
        self.costs.push(ran.as_nanos() as f64 / count as f64);
        self.missed.push(100.0 * missed);
    }
}

fn streams(rounds: usize, count: u64) {
    let mut streams = Vec::new();
    for size in [64, 1024] {
        for slots in [SMALL_RING, LARGE_RING] {
            for kind in ["lossy", "lossless", "blocking", "TCP", "lossless TCP"] {
                streams.push(Stream {
                    kind,
                    slots,
                    size,
                    rates: Samples::new(),
                    costs: Samples::new(),
                    missed: Samples::new(),
                });
            }
        }
    }
    for _ in 0..rounds {
        for stream in &mut streams {
            let is_remote = stream.kind.ends_with("TCP");
            stream.run(if is_remote { count / 4 } else { count } * 64 / stream.size.min(256) as u64);
        }
    }
    println!("one reader, flat out: million messages/s | ns of the publisher's CPU a message | missed, %");
    for stream in &mut streams {
        println!(
            "{:5} B {:6} slots {:13} {:28} | {:28} | {}",
            stream.size,
            stream.slots,
            stream.kind,
            describe(&mut stream.rates),
            describe(&mut stream.costs),
            describe(&mut stream.missed),
        );
    }
}

/// What publishing costs while readers keep up: bursts of a quarter of the ring, with pauses to read them in.
fn keeping_up(rounds: usize, bursts: u64) {
    const BURST: u64 = SMALL_RING / 4;
    let mut ways: Vec<(&str, usize, Samples)> = vec![
        ("lossy", 0, Samples::new()),
        ("lossy", 1, Samples::new()),
        ("lossless", 1, Samples::new()),
        ("lossy", 8, Samples::new()),
        ("lossless", 8, Samples::new()),
    ];
    for _ in 0..rounds {
        for (kind, readers, costs) in &mut ways {
            let mut stand = new_stand(SMALL_RING, 64);
            let peers = (0..*readers).map(|_| Peer::start(&stand.server, kind)).collect();
            let mut took = Duration::ZERO;
            for _ in 0..bursts {
                let before = ran();
                publish(&mut stand, BURST, 64);
                took += ran() - before;
                thread::sleep(Duration::from_millis(5));
            }
            costs.push(took.as_nanos() as f64 / (bursts * BURST) as f64);
            finish(stand, peers, *kind == "lossless");
        }
    }
    println!("readers that keep up: ns of the publisher's CPU a message, 64 B, bursts of {BURST}");
    for (kind, readers, costs) in &mut ways {
        println!("{readers} {kind:10} {}", describe(costs));
    }
}

/// What a publisher does that waits for a slow reader.
fn waiting(rounds: usize, count: u64) {
    let mut shares = Samples::new();
    for _ in 0..rounds {
        let mut stand = new_stand(SMALL_RING, 64);
        let peers = vec![Peer::start(&stand.server, "slow")];
        // Until the ring is full.
        publish(&mut stand, SMALL_RING, 64);
        let (start, ran_before) = (Instant::now(), ran());
        publish(&mut stand, count, 64);
        shares.push(100.0 * (ran() - ran_before).as_secs_f64() / start.elapsed().as_secs_f64());
        finish(stand, peers, true);
    }
    println!("a reader that sleeps 1 ms after every {BATCH}, a full ring: the publisher's thread runs");
    println!("% of the time {}", describe(&mut shares));
}

fn main() {
    if let Some((directory, kind)) = peer::role() {
        return read(&directory, &kind);
    }
    let arguments: Vec<String> = env::args().collect();
    if arguments.iter().any(|argument| argument == "--test") {
        streams(1, 10_000);
        keeping_up(1, 2);
        return waiting(1, 1_000);
    }
    let rounds = arguments
        .iter()
        .skip_while(|argument| *argument != "--rounds")
        .nth(1)
        .map_or(5, |rounds| rounds.parse().expect("--rounds takes a number"));
    streams(rounds, 2_000_000);
    keeping_up(rounds, 100);
    waiting(rounds, 20_000);
}
