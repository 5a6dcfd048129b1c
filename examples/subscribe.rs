//! cargo run --example subscribe
//!
//! Follows a server from its first message to its end, and on into its next life.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use lapwing::{Event, FollowOptions, Follower, Join, Server, ServerOptions, StartError};

/// One life of a server that publishes three messages.
fn serve(info_dir: &Path, life: &str) -> Result<Server, StartError> {
    let mut options = ServerOptions::new("prices".parse().expect("a name of letters"));
    options.info_dir = info_dir.to_owned();
    let mut server = Server::start(options)?;
    for i in 0..3 {
        let text = format!("price {i} of the {life} life");
        server.publisher().publish(text.as_bytes()).expect("short enough");
    }
    server.end_stream();
    Ok(server)
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut options = FollowOptions::default();
    options.from = Join::Oldest;
    let mut follower = Follower::new(directory.path().join("prices.toml"), options);

    let mut messages = 0;
    for life in ["first", "second"] {
        let server = serve(directory.path(), life)?;
        loop {
            // Looks at the payload where it lies; what it makes of it counts if nobody overwrote it meanwhile.
            match follower.next(Duration::from_secs(5), |payload| payload.len()) {
                Event::Message(message) => {
                    println!("message {} has {} bytes", message.sequence, message.value);
                    messages += 1;
                }
                Event::Attached { transport, reason, .. } => println!("attached over {transport}: {reason}"),
                Event::Gap { first, missed } => println!("{missed} messages lost from {first} on"),
                Event::Ended => break,
                other => return Err(format!("{other:?}").into()),
            }
        }
        drop(server);
    }
    assert_eq!(messages, 6);
    Ok(())
}
