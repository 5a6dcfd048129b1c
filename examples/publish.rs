//! cargo run --example publish
//!
//! Publishes in each of the four ways, and looks at what the ring then holds.

use std::error::Error;
use std::io::Write;

use lapwing::discovery::{self, Trust};
use lapwing::{Join, Poll, Server, ServerOptions, Subscriber};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut options = ServerOptions::new("prices".parse()?);
    options.info_dir = directory.path().join("info");
    let mut server = Server::start(options)?;
    println!("announced as {:?}", server.info_path().file_name().unwrap_or_default());

    let publisher = server.publisher();
    // Copied into the ring.
    publisher.publish(b"copied")?;
    publisher.publish_tagged(7, b"tagged")?;
    // Written where it is read: no copy. Dropping the loan would publish nothing.
    let mut loan = publisher.loan(64)?;
    write!(loan, "in place, {} bytes left", loan.remaining())?;
    loan.commit();
    // Many messages, one look at the clock and one wake.
    let mut batch = publisher.batch();
    for line in ["first", "second"] {
        batch.push(0, line.as_bytes())?;
    }
    drop(batch);
    println!("too long: {}", publisher.publish(&[0; 1 << 20]).unwrap_err());

    let found = discovery::read(server.info_path(), &Trust::default())?;
    let mut subscriber = Subscriber::open(&found, Join::Oldest)?;
    let mut payload = Vec::new();
    while let Poll::Message(message) = subscriber.poll_into(&mut payload) {
        let (sequence, tag) = (message.sequence, message.tag);
        println!("{sequence} tag {tag}: {}", String::from_utf8_lossy(&payload));
    }
    assert_eq!(subscriber.cursor(), 5);
    Ok(())
}
