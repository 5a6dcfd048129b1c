//! cargo run --example mio
//!
//! One event loop for a stream in shared memory, the same stream over TCP, and a timer. Nothing spins: the loop sleeps.

use std::error::Error;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use lapwing::discovery::{self, Trust};
use lapwing::{Incarnation, Join, Notified, Poll, RemoteSubscriber, Server, ServerOptions, Subscriber};
use mio::{Events, Interest, Token, unix::SourceFd};

const TICK: Duration = Duration::from_millis(20);

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut options = ServerOptions::new("prices".parse()?);
    options.info_dir = directory.path().join("info");
    let mut server = Server::start(options)?;

    let found = discovery::read(server.info_path(), &Trust::default())?;
    let mut near = Notified::new(Subscriber::open(&found, Join::Oldest)?)?;
    let mut far = RemoteSubscriber::connect(server.addresses(), Incarnation::NIL, Join::Oldest, TICK * 100)?;
    let mut poll = mio::Poll::new()?;
    for (token, fd) in [near.as_fd(), far.as_fd()].into_iter().enumerate() {
        poll.registry()
            .register(&mut SourceFd(&fd.as_raw_fd()), Token(token), Interest::READABLE)?;
    }

    let (mut published, mut seen) = (0_u64, [0; 2]);
    let mut tick = Instant::now();
    while seen[0].min(seen[1]) < 5 {
        // Each is polled until it is empty before the loop sleeps; the one over TCP once a heartbeat at least.
        while let Poll::Message(message) = near.poll(|view| view.read::<u64>(0)) {
            println!("near: {:?}", message.value);
            seen[0] += 1;
        }
        while let Poll::Message(message) = far.poll(<[u8]>::len)? {
            println!("far: {} bytes", message.value);
            seen[1] += 1;
        }
        if Instant::now() >= tick {
            server.publisher().publish_typed(&published)?;
            published += 1;
            tick += TICK;
        }
        let until = if far.is_drained() {
            tick.min(far.poll_by())
        } else {
            Instant::now()
        };
        poll.poll(
            &mut Events::with_capacity(2),
            Some(until.saturating_duration_since(Instant::now())),
        )?;
    }
    Ok(())
}
