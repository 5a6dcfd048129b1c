//! cargo run --example over_tcp
//!
//! The same stream over TCP: joins late, resumes where it was, and is told exactly what it lost.

use std::error::Error;
use std::time::Duration;

use lapwing::{Incarnation, Join, Poll, RemoteSubscriber, Server, ServerOptions};

const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut options = ServerOptions::new("prices".parse()?);
    options.info_dir = directory.path().join("info");
    options.shared_memory = false;
    options.slots = Some(64);
    let mut server = Server::start(options)?;
    let addresses = server.addresses().to_vec();
    server.publisher().publish(b"before anybody listens")?;

    let mut early = RemoteSubscriber::connect(&addresses, Incarnation::NIL, Join::Oldest, PATIENCE)?;
    let first = early.receive(PATIENCE, |payload| String::from_utf8_lossy(payload).into_owned())?;
    println!("{first:?}");
    assert!(matches!(first, Poll::Message(message) if message.value == "before anybody listens"));
    let (incarnation, next) = (early.hello().incarnation, early.cursor());
    drop(early);

    // Nobody is connected while more is published than the ring retains.
    for i in 0..1000_u64 {
        server.publisher().publish(&i.to_le_bytes())?;
    }
    server.end_stream();

    let mut late = RemoteSubscriber::resume(&addresses, incarnation, next, PATIENCE)?;
    let (mut received, mut lost) = (0, 0);
    loop {
        match late.receive(PATIENCE, <[u8]>::len)? {
            Poll::Message(_) => received += 1,
            Poll::Lapped { missed, .. } => lost += missed,
            Poll::Ended => break,
            other => return Err(format!("{other:?}").into()),
        }
    }
    println!("resumed at {next}: {received} received, {lost} lost");
    assert!(received >= 48 && received + lost == 1000);
    Ok(())
}
