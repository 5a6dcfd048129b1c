//! cargo run --example lossless
//!
//! Two readers that lose nothing of 10,000 messages in a ring of 64: the publisher waits for them. One reads each message
//! where it lies, the other is lent plain bytes and holds 16 messages at a time.

use std::error::Error;
use std::thread;
use std::time::Duration;

use lapwing::discovery::{self, Trust};
use lapwing::{BlockingSubscriber, Join, LosslessOffer, LosslessPolicy, LosslessSubscriber};
use lapwing::{Poll, Server, ServerOptions};

const PATIENCE: Duration = Duration::from_secs(5);

/// The sum of all messages. Each is given back as soon as it was looked at.
fn sum(mut orders: LosslessSubscriber) -> u64 {
    let mut sum = 0;
    while let Poll::Message(message) = orders.receive(PATIENCE, |view| view.read::<u64>(0)) {
        sum += message.value.expect("eight bytes");
    }
    sum
}

/// How many messages were held, and how many of them in the ring itself. They are given back when they are dropped.
fn hold(orders: &BlockingSubscriber) -> (usize, usize) {
    let (mut batch, mut held, mut in_place) = (Vec::new(), 0, 0);
    while let Poll::Message(message) = orders.receive(PATIENCE) {
        in_place += usize::from(message.value.is_in_place());
        batch.push(message.value);
        held += 1;
        if batch.len() == 16 {
            assert!(batch.iter().all(|order| order.len() == 8));
            batch.clear();
        }
    }
    (held, in_place)
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut options = ServerOptions::new("orders".parse()?);
    options.info_dir = directory.path().join("info");
    options.slots = Some(64);
    options.lossless = Some(LosslessOffer {
        policy: LosslessPolicy::Block,
        max_subscribers: 2,
    });
    let mut server = Server::start(options)?;
    let found = discovery::read(server.info_path(), &Trust::default())?;
    let looks = LosslessSubscriber::open(&found, Join::New, PATIENCE)?;
    let holds = BlockingSubscriber::open(&found, Join::New, PATIENCE)?;
    let readers = (thread::spawn(|| sum(looks)), thread::spawn(move || hold(&holds)));

    for order in 0..10_000_u64 {
        // Waits while one of them is a ring behind; `try_publish_tagged` would say so instead.
        server.publisher().publish_typed(&order)?;
    }
    server.end_stream();

    println!("sum of all orders: {}", readers.0.join().expect("a reader"));
    let (held, in_place) = readers.1.join().expect("a reader");
    println!("{held} orders held, {in_place} of them in place");
    Ok(())
}
