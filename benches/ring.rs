//! The ring in one process: what publishing costs and what receiving costs, each without the other.
//!
//! The messages that are received lie in the cache of the processor that published them. What it costs to bring them to
//! another one is in `latency` and `fan_out`.

mod stand;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use lapwing::layout::Header;
use lapwing::{Join, Poll, Subscriber, View};
use stand::Stand;

const SIZES: [usize; 4] = [8, 64, 1024, 65_536];
/// Messages of a burst: the ring holds as many of any size here.
const BURST: u64 = 8;

fn new_stand() -> Stand {
    Stand::new("ring", |options| options.listen.clear())
}

fn subscribe(stand: &Stand) -> Subscriber {
    let memory = stand.server.info().shared_memory.expect("shared memory is on");
    let incarnation = stand.server.info().incarnation;
    Subscriber::attach(memory.id, incarnation, None, Join::New).expect("our own segment")
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    for size in SIZES {
        let mut stand = new_stand();
        let payload = vec![0x5a; size];
        let mut subscriber = subscribe(&stand);
        let mut received = Vec::new();
        stand.server.publisher().publish(&payload).expect("short enough");
        assert!(matches!(subscriber.poll_into(&mut received), Poll::Message(_)) && received == payload);
        drop(subscriber);

        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                stand
                    .server
                    .publisher()
                    .publish(black_box(&payload))
                    .expect("short enough")
            });
            assert!(stand.server.publisher().next_sequence() >= 2);
        });
    }
    group.finish();
}

fn publish_in_batches(criterion: &mut Criterion) {
    const BATCH: u64 = 1000;
    let mut stand = new_stand();
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("64", |bencher| {
        let before = stand.server.publisher().next_sequence();
        let payload = [0x5a; 64];
        bencher.iter(|| {
            let mut batch = stand.server.publisher().batch();
            for tag in 0..BATCH {
                batch.push(tag, black_box(&payload)).expect("short enough");
            }
        });
        let published = stand.server.publisher().next_sequence() - before;
        assert!(published > 0 && published.is_multiple_of(BATCH));
    });
    group.finish();
}

/// Times `receive` alone, on bursts of messages of `size` bytes. It returns a number that proves that it has looked.
fn receiving(bencher: &mut criterion::Bencher<'_>, size: usize, mut receive: impl FnMut(&mut Subscriber) -> u64) {
    let mut stand = new_stand();
    let mut subscriber = subscribe(&stand);
    let payload = 3_u64.to_ne_bytes().repeat(size / 8);
    bencher.iter_custom(|iterations| {
        let mut took = Duration::ZERO;
        let mut left = iterations;
        while left > 0 {
            let burst = left.min(BURST);
            for _ in 0..burst {
                stand.server.publisher().publish(&payload).expect("short enough");
            }
            let start = Instant::now();
            let sum: u64 = (0..burst).map(|_| receive(&mut subscriber)).sum();
            took += start.elapsed();
            assert_eq!(sum, 3 * burst * (size as u64 / 8), "lost or misread");
            left -= burst;
        }
        took
    });
}

fn sum(view: View<'_>) -> u64 {
    view.words().iter().sum()
}

fn receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("receive");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("in place", size), |bencher| {
            receiving(bencher, size, |subscriber| match subscriber.poll(sum) {
                Poll::Message(message) => message.value,
                _ => 0,
            });
        });
        group.bench_function(BenchmarkId::new("copy", size), |bencher| {
            let mut copy = Vec::with_capacity(size);
            receiving(bencher, size, |subscriber| match subscriber.poll_into(&mut copy) {
                // All words are the same: the last one stands for them.
                Poll::Message(_) => u64::from(copy[size - 8]) * (size as u64 / 8),
                _ => 0,
            });
        });
    }
    group.finish();
}

fn poll_nothing(criterion: &mut Criterion) {
    let stand = new_stand();
    let mut subscriber = subscribe(&stand);
    criterion.bench_function("poll/empty", |bencher| {
        bencher.iter(|| assert!(matches!(subscriber.poll(|_| ()), Poll::Empty)));
    });
}

fn parse_header(criterion: &mut Criterion) {
    let stand = new_stand();
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
    let mut criterion = Criterion::default().configure_from_args();
    publish(&mut criterion);
    publish_in_batches(&mut criterion);
    receive(&mut criterion);
    poll_nothing(&mut criterion);
    parse_header(&mut criterion);
    criterion.final_summary();
}
