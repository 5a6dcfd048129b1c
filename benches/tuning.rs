//! What each option of docs/tuning.md does: the ratio of a time with it to the same time without it.
//!
//! With and without take turns, in an order that changes with each round, so that what else the machine does meets both.
//! A ratio is the median of the pairs'; beside it are the quartiles, and the median time without. Whatever is timed is
//! checked: each message is there, in order, with its content.
//!
//! `cargo bench --bench tuning -- [--rounds N] [PART OF A NAME]`. Huge pages are measured where they can be had, for
//! example after `sysctl vm.nr_hugepages=80` and `echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled`.

mod stand;

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use lapwing::{
    Cpus, HugePages, Join, Pages, Poll, Publisher, RemoteSubscriber, Segment, ServerOptions, StartError, Subscriber,
    WaitStrategy,
};
use rustix::time::{ClockId, clock_gettime};
use stand::Stand;

const PATIENCE: Duration = Duration::from_secs(20);
/// Messages of a batch.
const BATCH: u64 = 64;

/// What is measured, in the order of an option's figures.
type Figures = Vec<f64>;

/// What measures an option, and prints it.
type Measure = fn(Effort);

/// How much is done.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    /// A hundredth of everything, to see that it works.
    is_test: bool,
}

impl Effort {
    const fn of(self, count: u64) -> u64 {
        if self.is_test { count / 100 + 1 } else { count }
    }
}

fn nanos_each(time: Duration, count: u64) -> f64 {
    time.as_nanos() as f64 / count as f64
}

/// The value below which `share` of them lie.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

/// Lets `without` and `with` take turns, and prints a line for each of the figures that they give.
fn compare(
    effort: Effort,
    option: &str,
    figures: &[&str],
    mut without: impl FnMut() -> Figures,
    mut with: impl FnMut() -> Figures,
) {
    let mut pairs = Vec::new();
    for round in 0..effort.rounds {
        let first_with = (round % 2 == 1).then(&mut with);
        let base = without();
        pairs.push((base, first_with.unwrap_or_else(&mut with)));
    }
    for (index, figure) in figures.iter().enumerate() {
        let mut ratios: Vec<f64> = pairs.iter().map(|(base, tuned)| tuned[index] / base[index]).collect();
        let mut bases: Vec<f64> = pairs.iter().map(|(base, _)| base[index]).collect();
        println!(
            "{option:34} {figure:34} {:6.2}  {:5.2} - {:5.2}  {:12.1}",
            quantile(&mut ratios, 0.5),
            quantile(&mut ratios, 0.25),
            quantile(&mut ratios, 0.75),
            quantile(&mut bases, 0.5)
        );
    }
}

fn attach(stand: &Stand, join: Join) -> Subscriber {
    let id = stand.server.info().shared_memory.expect("a segment").id;
    let segment = Segment::attach(id).expect("its segment");
    Subscriber::on(segment.into(), join)
}

/// Publishes `count` messages that begin with their sequence. Returns the time for one.
fn publish(publisher: &mut Publisher, payload: &mut [u8], count: u64) -> f64 {
    let start = Instant::now();
    let end = publisher.next_sequence() + count;
    while publisher.next_sequence() < end {
        let mut batch = publisher.batch();
        for _ in 0..BATCH.min(end - batch.publisher().next_sequence()) {
            payload[..8].copy_from_slice(&batch.publisher().next_sequence().to_ne_bytes());
            batch.push(0, payload).expect("short enough");
        }
    }
    nanos_each(start.elapsed(), count)
}

/// Reads `count` messages that are there, every byte of them. Returns the time for one.
fn read(subscriber: &mut Subscriber, bytes: usize, count: u64) -> f64 {
    let mut copy = Vec::with_capacity(bytes);
    let first = subscriber.cursor();
    let start = Instant::now();
    for sequence in first..first + count {
        match subscriber.poll_into(&mut copy) {
            Poll::Message(_) => {}
            other => panic!("{other:?}"),
        }
        assert!(copy.len() == bytes && copy[..8] == sequence.to_ne_bytes());
    }
    let each = nanos_each(start.elapsed(), count);
    black_box(copy);
    each
}

/// Laps of a ring: published, then read by a subscriber that stays attached.
struct Laps {
    stand: Stand,
    subscriber: Subscriber,
    payload: Vec<u8>,
    count: u64,
}

impl Laps {
    fn new(bytes: usize, count: u64, change: impl FnOnce(&mut ServerOptions)) -> Result<Self, StartError> {
        let stand = Stand::try_new("laps", |options| {
            options.listen.clear();
            change(options);
        })?;
        let subscriber = attach(&stand, Join::New);
        let mut laps = Self {
            stand,
            subscriber,
            payload: vec![7; bytes],
            count,
        };
        // Nobody's first lap counts.
        let retained = laps.stand.server.publisher().geometry().slot_count() as u64;
        for _ in 0..retained.div_ceil(count) {
            laps.run();
        }
        Ok(laps)
    }

    fn run(&mut self) -> Figures {
        let published = publish(self.stand.server.publisher(), &mut self.payload, self.count);
        vec![published, read(&mut self.subscriber, self.payload.len(), self.count)]
    }

    /// The mean of many, for those that are short.
    fn repeat(&mut self, effort: Effort) -> Figures {
        let runs: Vec<Figures> = (0..effort.of(400)).map(|_| self.run()).collect();
        let mean = |index: usize| runs.iter().map(|run| run[index]).sum::<f64>() / runs.len() as f64;
        vec![mean(0), mean(1)]
    }
}

const LAP_FIGURES: [&str; 2] = ["publish, ns a message", "read, ns a message"];

/// 64 MiB of messages of 1 KiB, in a ring that holds them.
fn large_ring(effort: Effort, pages: Pages) -> Result<Laps, StartError> {
    Laps::new(1024, effort.of(60_000), |options| {
        options.ring_bytes = 64 << 20;
        options.pages = pages;
    })
}

fn compare_pages(effort: Effort, option: &str, pages: Pages) {
    match (large_ring(effort, Pages::default()), large_ring(effort, pages)) {
        (Ok(mut without), Ok(mut with)) => compare(effort, option, &LAP_FIGURES, || without.run(), || with.run()),
        (Err(error), _) | (_, Err(error)) => println!("{option:34} not to be had here: {error}"),
    }
}

fn huge_pages(effort: Effort) {
    let huge = |huge| Pages {
        huge,
        ..Pages::default()
    };
    compare_pages(effort, "--huge-pages require, 64 MiB", huge(HugePages::Require));
    compare_pages(effort, "--huge-pages transparent, 64 MiB", huge(HugePages::Transparent));
    let locked = Pages {
        locked: true,
        ..Pages::default()
    };
    compare_pages(effort, "--lock-memory, 64 MiB", locked);
}

/// The first way of a new subscriber through a full ring, the looking-ahead not counted.
fn prefault(effort: Effort) {
    let mut laps = large_ring(effort, Pages::default()).expect("a ring of 64 MiB");
    laps.run();
    let (stand, count) = (&laps.stand, laps.count);
    let first_pass = |prefault: bool| {
        let mut subscriber = attach(stand, Join::Latest(count));
        let start = Instant::now();
        if prefault {
            subscriber.segment().prefault();
        }
        let before = nanos_each(start.elapsed(), count);
        let each = read(&mut subscriber, 1024, count);
        vec![each, each + before]
    };
    let figures = ["first pass, ns a message", "the same, prefaulting included"];
    compare(
        effort,
        "client --prefault, 64 MiB",
        &figures,
        || first_pass(false),
        || first_pass(true),
    );
}

/// Sends a message to a thread that sends it back, again and again. Returns the median and the 99th percentile.
fn round_trips(effort: Effort, strategy: WaitStrategy, cpus: Option<[Cpus; 2]>) -> Figures {
    let count = effort.of(20_000);
    let server = |name| {
        Stand::new(name, |options| {
            options.listen.clear();
        })
    };
    let (mut ping, mut pong) = (server("ping"), server("pong"));
    let subscribe = |stand: &Stand| attach(stand, Join::New).with_strategy(strategy);
    let (mut there, mut back) = (subscribe(&ping), subscribe(&pong));
    let pin = move |index: usize| {
        if let Some(cpus) = cpus {
            cpus[index].pin_this_thread().expect("a CPU of this thread");
        }
    };
    let receive = |subscriber: &mut Subscriber| match subscriber.receive(PATIENCE, |view| view.read::<u64>(0)) {
        Poll::Message(message) => message.value.expect("eight bytes"),
        other => panic!("{other:?}"),
    };
    let mut times = thread::scope(|scope| {
        scope.spawn(move || {
            pin(0);
            for _ in 0..count {
                let number = receive(&mut there);
                pong.server
                    .publisher()
                    .publish(&number.to_ne_bytes())
                    .expect("eight bytes");
            }
            pong
        });
        let sender = scope.spawn(move || {
            pin(1);
            let trip = |number: u64| {
                let start = Instant::now();
                ping.server
                    .publisher()
                    .publish(&number.to_ne_bytes())
                    .expect("eight bytes");
                assert_eq!(receive(&mut back), number);
                start.elapsed().as_nanos() as f64
            };
            (0..count).map(trip).collect::<Vec<_>>()
        });
        sender.join().expect("all come back")
    });
    vec![quantile(&mut times, 0.5), quantile(&mut times, 0.99)]
}

fn pinning(effort: Effort) {
    let all = Cpus::of_this_thread().expect("its CPUs");
    if all.iter().count() < 2 {
        return println!("--cpu: needs two CPUs");
    }
    let two = Some([all.in_turn(0), all.in_turn(1)]);
    let figures = ["round trip p50, ns", "round trip p99, ns"];
    for (strategy, name) in [
        (WaitStrategy::Spin, "--cpu, both spin"),
        (WaitStrategy::Adaptive, "--cpu, both adaptive"),
    ] {
        let trips = |cpus| round_trips(effort, strategy, cpus);
        compare(effort, name, &figures, || trips(None), || trips(two));
    }
}

/// A message from time to time, to a subscriber that waits for it. Returns its median latency and the CPU time that the
/// subscriber took for one.
fn now_and_then(effort: Effort, strategy: WaitStrategy) -> Figures {
    const PAUSE: Duration = Duration::from_micros(300);
    let count = effort.of(1000);
    let mut stand = Stand::new("slow", |options| options.listen.clear());
    let mut subscriber = attach(&stand, Join::New).with_strategy(strategy);
    let now_ns = |clock| {
        let now = clock_gettime(clock);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    };
    // The server counts its readers now and then.
    thread::sleep(Duration::from_millis(150));
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let before = now_ns(ClockId::ThreadCPUTime);
            let receive = |_| match subscriber.receive(PATIENCE, |view| view.read::<u64>(0)) {
                Poll::Message(message) => (now_ns(ClockId::Monotonic) - message.value.expect("a time")) as f64,
                other => panic!("{other:?}"),
            };
            let mut times: Vec<f64> = (0..count).map(receive).collect();
            let ran = now_ns(ClockId::ThreadCPUTime) - before;
            vec![quantile(&mut times, 0.5), ran as f64 / count as f64]
        });
        for _ in 0..count {
            thread::sleep(PAUSE);
            let now = now_ns(ClockId::Monotonic);
            stand
                .server
                .publisher()
                .publish(&now.to_ne_bytes())
                .expect("eight bytes");
        }
        reader.join().expect("all arrive")
    })
}

fn waiting(effort: Effort) {
    let figures = ["latency p50, ns", "reader's CPU, ns a message"];
    for (strategy, name) in [
        (WaitStrategy::Spin, "client --spin, 3,000 messages/s"),
        (WaitStrategy::Block, "client --block, 3,000 messages/s"),
    ] {
        let adaptive = || now_and_then(effort, WaitStrategy::Adaptive);
        compare(effort, name, &figures, adaptive, || now_and_then(effort, strategy));
    }
}

/// A message at a time over TCP. Returns the median latency, and what publishing took.
fn over_tcp(effort: Effort, set: impl FnOnce(&mut ServerOptions)) -> Figures {
    let count = effort.of(2000);
    let mut stand = Stand::new("tcp", set);
    let addresses = stand.server.addresses().to_vec();
    let incarnation = stand.server.info().incarnation;
    let mut subscriber = RemoteSubscriber::connect(&addresses, incarnation, Join::New, PATIENCE).expect("it is there");
    let (mut latencies, mut costs) = (Vec::new(), Vec::new());
    for number in 0..count {
        let start = Instant::now();
        stand
            .server
            .publisher()
            .publish(&number.to_ne_bytes())
            .expect("eight bytes");
        costs.push(start.elapsed().as_nanos() as f64);
        match subscriber.receive(PATIENCE, |bytes| bytes == number.to_ne_bytes()) {
            Ok(Poll::Message(message)) => assert!(message.value, "another message"),
            other => panic!("{other:?}"),
        }
        latencies.push(start.elapsed().as_nanos() as f64);
    }
    vec![quantile(&mut latencies, 0.5), quantile(&mut costs, 0.5)]
}

fn spinning_server(effort: Effort) {
    let figures = ["publish to receive over TCP p50, ns", "publish p50, ns"];
    compare(
        effort,
        "server --spin",
        &figures,
        || over_tcp(effort, |_| ()),
        || over_tcp(effort, |options| options.service_spin = true),
    );
}

/// The service thread on the CPU of a publisher that sleeps between its messages, not on another.
fn service_cpu(effort: Effort) {
    let all = Cpus::of_this_thread().expect("its CPUs");
    if all.iter().count() < 2 {
        return println!("--service-cpu: needs two CPUs");
    }
    let (own, other) = (all.in_turn(0), all.in_turn(1));
    let served_on = |cpus: Cpus| {
        thread::scope(|scope| {
            let publisher = scope.spawn(move || {
                own.pin_this_thread().expect("a CPU of this thread");
                over_tcp(effort, |options| options.service_cpus = Some(cpus))
            });
            publisher.join().expect("all arrive")
        })
    };
    compare(
        effort,
        "--service-cpu as --cpu",
        &["publish to receive over TCP p50, ns", "publish p50, ns"],
        || served_on(other),
        || served_on(own),
    );
}

/// Messages that lie in the arena with small slots, and in their slot with larger ones.
fn slot_size(effort: Effort) {
    for (bytes, slot_bytes) in [(200, 256), (900, 1024)] {
        let laps = |slot_bytes| {
            Laps::new(bytes, 512, |options| {
                options.slots = Some(1024);
                options.slot_bytes = slot_bytes;
            })
            .expect("a ring")
        };
        let (mut without, mut with) = (laps(128), laps(slot_bytes));
        let name = format!("--slot-size {slot_bytes} for {bytes} B");
        compare(
            effort,
            &name,
            &LAP_FIGURES,
            || without.repeat(effort),
            || with.repeat(effort),
        );
    }
}

/// The same messages through rings of different sizes: what a small one holds stays in the caches.
fn ring_size(effort: Effort) {
    let laps = |slots| Laps::new(64, 512, |options| options.slots = Some(slots)).expect("a ring");
    for slots in [65_536, 1 << 20] {
        let (mut small, mut large) = (laps(1024), laps(slots));
        let name = format!("--slots {slots}, not 1024");
        compare(
            effort,
            &name,
            &LAP_FIGURES,
            || small.repeat(effort),
            || large.repeat(effort),
        );
    }
}

fn main() {
    let mut effort = Effort {
        rounds: 11,
        is_test: false,
    };
    let mut wanted = String::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--test" => {
                effort = Effort {
                    rounds: 1,
                    is_test: true,
                }
            }
            "--rounds" => {
                let rounds = arguments
                    .next()
                    .and_then(|rounds| rounds.parse().ok())
                    .filter(|&rounds| rounds > 0);
                effort.rounds = rounds.expect("--rounds takes a number");
            }
            other => other.clone_into(&mut wanted),
        }
    }
    println!(
        "{:34} {:34} {:>6}  {:>13}  {:>12}",
        "option", "figure", "ratio", "quartiles", "without"
    );
    let all: [(&str, Measure); 8] = [
        ("cpu", pinning),
        ("huge-pages", huge_pages),
        ("prefault", prefault),
        ("server-spin", spinning_server),
        ("service-cpu", service_cpu),
        ("client-wait", waiting),
        ("slot-size", slot_size),
        ("ring-size", ring_size),
    ];
    for (name, measure) in all {
        if name.contains(&wanted) {
            measure(effort);
        }
    }
}
