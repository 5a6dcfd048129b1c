//! The same stream over TCP, on the loopback interface: 64 bytes and 1 KiB, one at a time and in bursts.

mod stand;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use lapwing::{Incarnation, Join, Poll, RemoteSubscriber};
use stand::Stand;

const SIZES: [usize; 2] = [64, 1024];
/// Fewer than the ring retains of any size here: nothing may be lost.
const BURST: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(20);

fn new_stand() -> (Stand, RemoteSubscriber) {
    let stand = Stand::new("socket", |options| options.shared_memory = false);
    let addresses = stand.server.addresses();
    let subscriber =
        RemoteSubscriber::connect(addresses, Incarnation::NIL, Join::New, PATIENCE).expect("our own server answers");
    (stand, subscriber)
}

/// Receives the next message, and checks which one it is.
fn receive(subscriber: &mut RemoteSubscriber, sequence: u64, size: usize) {
    match subscriber.receive(PATIENCE, <[u8]>::len) {
        Ok(Poll::Message(message)) => assert_eq!((message.sequence, message.value), (sequence, size)),
        other => panic!("{other:?}"),
    }
}

fn one_at_a_time(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("socket/publish to receive");
    for size in SIZES {
        let (mut stand, mut subscriber) = new_stand();
        let payload = vec![0x5a; size];
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let sequence = stand.server.publisher().publish(&payload).expect("short enough");
                receive(&mut subscriber, sequence, size);
            });
        });
    }
    group.finish();
}

fn in_bursts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("socket/burst");
    for size in SIZES {
        let (mut stand, mut subscriber) = new_stand();
        let payload = vec![0x5a; size];
        group.throughput(Throughput::Elements(BURST));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let first = stand.server.publisher().next_sequence();
                let mut batch = stand.server.publisher().batch();
                for tag in 0..BURST {
                    batch.push(tag, &payload).expect("short enough");
                }
                drop(batch);
                (first..first + BURST).for_each(|sequence| receive(&mut subscriber, sequence, size));
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    one_at_a_time(&mut criterion);
    in_bursts(&mut criterion);
    criterion.final_summary();
}
