//! cargo run --example typed
//!
//! Sends a struct and reads it in place: no serialisation, and of a large message only the fields that are wanted.

use std::error::Error;
use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};
use lapwing::discovery::{self, Trust};
use lapwing::{Join, Poll, Server, ServerOptions, Subscriber};

/// One level of an order book.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
struct Quote {
    price: f64,
    quantity: u64,
    instrument: [u8; 16],
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut options = ServerOptions::new("quotes".parse()?);
    options.info_dir = directory.path().join("info");
    let mut server = Server::start(options)?;
    let found = discovery::read(server.info_path(), &Trust::default())?;
    let mut subscriber = Subscriber::open(&found, Join::New)?;

    let quote = |i: u32| Quote {
        price: f64::from(i) + 0.25,
        quantity: u64::from(i) * 100,
        instrument: *b"LAPWING-EUR-SPOT",
    };
    server.publisher().publish_typed(&quote(1))?;
    // Many at once: one look at the clock, and each goes from registers to the ring.
    let mut batch = server.publisher().batch();
    for i in 2..=1000 {
        batch.push_typed(0, &quote(i))?;
    }
    drop(batch);

    let Poll::Message(whole) = subscriber.poll_typed::<Quote>() else {
        return Err("the first quote is gone".into());
    };
    assert_eq!(whole.value, Some(quote(1)));
    let mut total = 0;
    // One load for each message; what the publisher overwrote meanwhile would not be counted in.
    while let Poll::Message(message) = subscriber.poll(|view| view.read::<u64>(offset_of!(Quote, quantity))) {
        total += message.value.ok_or("a message of another type")?;
    }
    println!("first {:?}\nquantity of the other 999: {total}", whole.value);
    assert_eq!(total, (2..=1000).sum::<u64>() * 100);
    Ok(())
}
