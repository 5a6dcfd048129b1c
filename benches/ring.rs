//! The ring in one process: what publishing costs and what receiving costs, each without the other.
//!
//! The messages that are received lie in the cache of the processor that reads them, as far as they fit. What it costs
//! to bring them to another one is in `latency` and `throughput`.

mod stand;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use lapwing::layout::Header;
use lapwing::{Join, Loan, Poll, Publisher, Subscriber, View};
use stand::Stand;

const SIZES: [usize; 6] = [8, 64, 1 << 10, 64 << 10, 1 << 20, 4 << 20];
/// Messages of a burst: the ring holds as many of any size here.
const BURST: u64 = 16;
/// Bytes and messages of a batch, at most.
const BATCH_BYTES: usize = 1 << 20;
const BATCH: usize = 1000;

/// A ring that takes two bursts of messages of `size` bytes.
fn new_stand(size: usize) -> Stand {
    Stand::new("ring", |options| {
        options.listen.clear();
        options.ring_bytes = (2 * BURST * size as u64).max(1 << 20);
    })
}

fn subscribe(stand: &Stand) -> Subscriber {
    let memory = stand.server.info().shared_memory.expect("shared memory is on");
    let incarnation = stand.server.info().incarnation;
    Subscriber::attach(memory.id, incarnation, None, Join::New).expect("our own segment")
}

/// A way to publish messages with that payload.
type Publish = fn(&mut Publisher, &[u8]);

fn single(publisher: &mut Publisher, payload: &[u8]) {
    publisher.publish(payload).expect("short enough");
}

/// As who makes the message up while it is written.
fn loan(publisher: &mut Publisher, payload: &[u8]) {
    let mut loan = publisher.loan(payload.len()).expect("short enough");
    fill(&mut loan, payload);
    loan.commit();
}

fn fill(loan: &mut Loan<'_>, payload: &[u8]) {
    let words = payload.chunks_exact(8);
    let words = words.map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")));
    loan.push_words(words).expect("there is room");
}

/// Messages of `size` bytes in a batch.
fn batch_len(size: usize) -> u64 {
    (BATCH_BYTES / size).clamp(BURST as usize, BATCH) as u64
}

fn batch(publisher: &mut Publisher, payload: &[u8]) {
    let mut batch = publisher.batch();
    for tag in 0..batch_len(payload.len()) {
        batch.push(tag, payload).expect("short enough");
    }
}

/// The same, each made in place.
fn batch_of_loans(publisher: &mut Publisher, payload: &[u8]) {
    let mut batch = publisher.batch();
    for tag in 0..batch_len(payload.len()) {
        let mut loan = batch.loan(payload.len()).expect("short enough");
        fill(&mut loan, payload);
        loan.commit_tagged(tag);
    }
}

/// A value that fits in a slot.
type Value = [u64; 8];

/// The same, each of a type.
fn batch_typed(publisher: &mut Publisher, payload: &[u8]) {
    let value: Value = bytemuck::pod_read_unaligned(payload);
    let mut batch = publisher.batch();
    for tag in 0..batch_len(payload.len()) {
        batch.push_typed(tag, &value).expect("short enough");
    }
}

/// Checks that `publish` publishes `count` messages, and that they arrive.
fn check(stand: &mut Stand, payload: &[u8], count: u64, publish: Publish) {
    let mut subscriber = subscribe(stand);
    let before = stand.server.publisher().next_sequence();
    publish(stand.server.publisher(), payload);
    assert_eq!(stand.server.publisher().next_sequence() - before, count);
    subscriber.rejoin(Join::Latest(1));
    let mut received = Vec::new();
    assert!(matches!(subscriber.poll_into(&mut received), Poll::Message(_)) && received == payload);
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    for size in SIZES {
        let mut stand = new_stand(size);
        let payload: Vec<u8> = (0..size).map(|at| at as u8).collect();
        let mut ways: Vec<(_, _, Publish)> = vec![
            ("single", 1, single),
            ("loan", 1, loan),
            ("batch", batch_len(size), batch),
            ("batch of loans", batch_len(size), batch_of_loans),
        ];
        if size == size_of::<Value>() {
            ways.push(("batch, typed", batch_len(size), batch_typed));
        }
        for (name, count, publish) in ways {
            check(&mut stand, &payload, count, publish);
            group.throughput(Throughput::ElementsAndBytes {
                elements: count,
                bytes: count * size as u64,
            });
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| publish(stand.server.publisher(), black_box(&payload)));
            });
        }
    }
    group.finish();
}

/// Times `receive` alone, on the messages that are there, again and again, since publishing takes longer. It returns the
/// sum of all words, each of them 3, as far as it looks, which proves that it has looked.
fn receiving(
    bencher: &mut criterion::Bencher<'_>,
    subscriber: &mut Subscriber,
    size: usize,
    mut receive: impl FnMut(&mut Subscriber) -> u64,
) {
    bencher.iter_custom(|iterations| {
        let mut took = Duration::ZERO;
        let mut left = iterations;
        while left > 0 {
            let burst = left.min(BURST);
            subscriber.rejoin(Join::Sequence(0));
            let start = Instant::now();
            let sum: u64 = (0..burst).map(|_| receive(subscriber)).sum();
            took += start.elapsed();
            assert_eq!(sum, 3 * burst * (size as u64 / 8), "lost or misread");
            left -= burst;
        }
        took
    });
}

/// The sum of all words.
fn sum(view: View<'_>) -> u64 {
    view.words().iter().sum()
}

/// The same by the first word alone.
fn sum_by_first(view: View<'_>) -> u64 {
    view.words().load(0) * view.words().len() as u64
}

fn in_place(read: impl Fn(View<'_>) -> u64) -> impl Fn(&mut Subscriber) -> u64 {
    move |subscriber| match subscriber.poll(&read) {
        Poll::Message(message) => message.value,
        _ => 0,
    }
}

fn receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("receive");
    for size in SIZES {
        let mut stand = new_stand(size);
        let mut subscriber = subscribe(&stand);
        for _ in 0..BURST {
            let payload = 3_u64.to_ne_bytes().repeat(size / 8);
            stand.server.publisher().publish(&payload).expect("short enough");
        }
        let id = |what| BenchmarkId::new(what, size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(id("every byte"), |bencher| {
            receiving(bencher, &mut subscriber, size, in_place(sum));
        });
        let mut copy = Vec::with_capacity(size);
        group.bench_function(id("copy"), |bencher| {
            receiving(bencher, &mut subscriber, size, |subscriber| {
                match subscriber.poll_into(&mut copy) {
                    // All words are the same: the last one stands for them.
                    Poll::Message(_) => u64::from(copy[size - 8]) * (size as u64 / 8),
                    _ => 0,
                }
            });
        });
        // No bytes a second: what is not looked at is not read.
        group.throughput(Throughput::Elements(1));
        group.bench_function(id("first word"), |bencher| {
            receiving(bencher, &mut subscriber, size, in_place(sum_by_first));
        });
    }
    group.finish();
}

fn poll_nothing(criterion: &mut Criterion) {
    let stand = new_stand(8);
    let mut subscriber = subscribe(&stand);
    criterion.bench_function("poll/empty", |bencher| {
        bencher.iter(|| assert!(matches!(subscriber.poll(|_| ()), Poll::Empty)));
    });
}

fn parse_header(criterion: &mut Criterion) {
    let stand = new_stand(8);
    let subscriber = subscribe(&stand);
    let mut bytes = [0; size_of::<Header>()];
    subscriber.segment().words().copy_to(&mut bytes);
    criterion.bench_function("header/parse", |bencher| {
        bencher.iter(|| {
            let geometry = Header::parse(black_box(&bytes)).expect("a server's header");
            assert_eq!(geometry.arena_bytes(), 1 << 20);
        });
    });
}

fn main() {
    // Short, because they are many.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(50)
        .nresamples(10_000)
        .configure_from_args();
    publish(&mut criterion);
    receive(&mut criterion);
    poll_nothing(&mut criterion);
    parse_header(&mut criterion);
    criterion.final_summary();
}
