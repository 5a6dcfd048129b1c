//! What readers cost the publisher: the time to publish 64 bytes while 0, 1, 2 or 4 processes follow.
//!
//! On a machine with fewer processors than readers they take turns with the publisher, and the figures tell little.

#[path = "stand/peer.rs"]
mod peer;
mod stand;

use std::path::Path;

use bytemuck::bytes_of;
use criterion::{BenchmarkId, Criterion, Throughput};
use lapwing::Poll;
use peer::{PATIENCE, Peer};
use stand::Stand;

const BATCH: u64 = 1000;

/// The peer: follows to the end, and says how many messages it received, missed, and found wrong.
fn follow(directory: &Path, kind: &str) {
    let mut subscriber = peer::attach(directory, "fan", kind);
    println!("ready");
    let (mut received, mut missed, mut wrong) = (0_u64, 0, 0_u64);
    loop {
        match subscriber.receive(PATIENCE, |view| view.words().iter().all(|word| word == view.tag())) {
            Poll::Message(message) => {
                received += 1;
                wrong += u64::from(!message.value);
            }
            Poll::Lapped { missed: count, .. } => missed += count,
            Poll::Empty => {}
            Poll::Ended => break,
            other => panic!("{other:?}"),
        }
    }
    println!("{} {wrong}", received + missed);
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan out");
    group.throughput(Throughput::Elements(BATCH));
    for readers in [0, 1, 2, 4] {
        let mut stand = Stand::new("fan", |options| options.listen.clear());
        let peers: Vec<Peer> = (0..readers).map(|_| Peer::start(&stand.server, "adaptive")).collect();

        group.bench_function(BenchmarkId::from_parameter(readers), |bencher| {
            bencher.iter(|| {
                let mut batch = stand.server.publisher().batch();
                for tag in 0..BATCH {
                    batch.push(tag, bytes_of(&[tag; 8])).expect("short enough");
                }
            });
        });

        stand.server.end_stream();
        let published = stand.server.publisher().next_sequence();
        for mut peer in peers {
            assert_eq!(peer.hear(), format!("{published} 0"), "accounted for, and wrong");
            peer.finish();
        }
    }
    group.finish();
}

fn main() {
    if let Some((directory, kind)) = peer::role() {
        return follow(&directory, &kind);
    }
    let mut criterion = Criterion::default().configure_from_args();
    publish(&mut criterion);
    criterion.final_summary();
}
