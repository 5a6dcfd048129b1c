//! cargo run --example async_tokio --features tokio
//!
//! A task that waits for a stream in shared memory, for the same stream over TCP, and for time to pass, on one thread.

use std::error::Error;
use std::time::Duration;

use lapwing::discovery::{self, Trust};
use lapwing::{AsyncRemoteSubscriber, AsyncSubscriber, Incarnation, Join, Poll};
use lapwing::{RemoteSubscriber, Server, ServerOptions, Subscriber};

const PATIENCE: Duration = Duration::from_secs(5);

async fn follow(server: &mut Server) -> Result<(), Box<dyn Error>> {
    let found = discovery::read(server.info_path(), &Trust::default())?;
    let far = RemoteSubscriber::connect(server.addresses(), Incarnation::NIL, Join::Oldest, PATIENCE)?;
    let mut near = AsyncSubscriber::new(Subscriber::open(&found, Join::Oldest)?)?;
    let mut far = AsyncRemoteSubscriber::new(far)?;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));

    let (mut published, mut seen) = (0_u64, [0; 2]);
    while seen != [5; 2] {
        tokio::select! {
            _ = ticks.tick(), if published < 5 => {
                server.publisher().publish_typed(&published)?;
                published += 1;
            }
            polled = near.receive(|view| view.read::<u64>(0)) => match polled? {
                Poll::Message(message) => {
                    println!("near: {:?}", message.value);
                    seen[0] += 1;
                }
                other => return Err(format!("{other:?}").into()),
            },
            polled = far.receive(<[u8]>::len) => match polled? {
                Poll::Message(message) => {
                    println!("far: {} bytes", message.value);
                    seen[1] += 1;
                }
                other => return Err(format!("{other:?}").into()),
            },
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut options = ServerOptions::new("prices".parse()?);
    options.info_dir = directory.path().join("info");
    let mut server = Server::start(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(&mut server))
}
