//! Subscribers for programs on tokio (feature `tokio`): receiving is a future, and nothing spins or blocks meanwhile.
//!
//! A future that is dropped before it is done loses nothing: a message is taken only when it is returned, so both are
//! safe in `select!`. A stream that always has the next message there still lets other tasks run now and then.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use tokio::io::unix::AsyncFd;
use tokio::task::coop::consume_budget;

use crate::notified::Notified;
use crate::ring::{Poll, View};
use crate::socket::{RemoteError, RemoteSubscriber};
use crate::subscriber::Subscriber;

/// Takes a descriptor into the runtime of this task.
#[allow(
    deprecated,
    reason = "its successor is unsafe, for types that may change their descriptor; those here keep one for life"
)]
fn register<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(inner)
}

/// A subscriber over shared memory whose receiving is a future.
///
/// ```
/// # use lapwing::{AsyncSubscriber, Join, Poll, Server, ServerOptions, Subscriber, discovery};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let mut options = ServerOptions::new("prices".parse()?);
/// # options.info_dir = directory.path().to_owned();
/// # let mut server = Server::start(options)?;
/// # server.publisher().publish(b"EURUSD 1.0842")?;
/// # let found = discovery::read(server.info_path(), &Default::default())?;
/// # server.end_stream();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let mut stream = AsyncSubscriber::new(Subscriber::open(&found, Join::Oldest)?)?;
/// loop {
///     match stream.receive(|view| view.to_vec()).await? {
///         Poll::Message(message) => println!("{}: {} bytes", message.sequence, message.value.len()),
///         Poll::Lapped { missed, .. } => println!("{missed} lost"),
///         _ => break,
///     }
/// }
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncSubscriber(AsyncFd<Notified>);

impl AsyncSubscriber {
    /// Takes `subscriber` into the runtime of this task.
    ///
    /// # Errors
    /// When there is no descriptor or no thread left for it.
    ///
    /// # Panics
    /// Outside of a tokio runtime whose I/O driver is enabled.
    pub fn new(subscriber: Subscriber) -> io::Result<Self> {
        register(Notified::new(subscriber)?).map(Self)
    }

    /// Waits for the next message, or what else there is to tell; never [`Poll::Empty`]. Reads as [`Subscriber::poll`]
    /// does; `read` may be called again if the publisher was faster.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn receive<R>(&mut self, mut read: impl FnMut(View<'_>) -> R) -> io::Result<Poll<R>> {
        consume_budget().await;
        match self.0.get_mut().poll(&mut read) {
            Poll::Empty => {}
            outcome => return Ok(outcome),
        }
        loop {
            let mut ready = self.0.readable_mut().await?;
            match ready.get_inner_mut().poll(&mut read) {
                Poll::Empty => ready.clear_ready(),
                outcome => return Ok(outcome),
            }
        }
    }

    /// The subscriber.
    #[must_use]
    pub fn subscriber(&self) -> &Subscriber {
        self.0.get_ref().subscriber()
    }

    /// Gives the subscriber back, as it stands.
    #[must_use]
    pub fn into_inner(self) -> Subscriber {
        self.0.into_inner().into_inner()
    }
}

/// A subscriber over TCP whose receiving is a future.
///
/// It keeps its connection alive while it receives, and only then.
#[derive(Debug)]
pub struct AsyncRemoteSubscriber(AsyncFd<RemoteSubscriber>);

impl AsyncRemoteSubscriber {
    /// Takes `subscriber` into the runtime of this task.
    ///
    /// # Errors
    /// When its socket cannot be watched.
    ///
    /// # Panics
    /// Outside of a tokio runtime whose I/O driver is enabled.
    pub fn new(subscriber: RemoteSubscriber) -> io::Result<Self> {
        register(subscriber).map(Self)
    }

    /// Waits for the next message, or what else there is to tell; never [`Poll::Empty`].
    ///
    /// # Errors
    /// As [`RemoteSubscriber::poll`], and when the runtime is shutting down.
    ///
    /// # Panics
    /// In a tokio runtime whose timers are not enabled.
    pub async fn receive<R>(&mut self, mut read: impl FnMut(&[u8]) -> R) -> Result<Poll<R>, RemoteError> {
        loop {
            consume_budget().await;
            // Its heartbeats are sent from inside the poll.
            match self.0.get_mut().poll(&mut read)? {
                // A large message comes in several reads, and the socket tells only of new bytes.
                Poll::Empty if !self.0.get_ref().is_drained() => continue,
                Poll::Empty => {}
                outcome => return Ok(outcome),
            }
            let due = self.0.get_ref().poll_by().max(Instant::now());
            let Ok(ready) = tokio::time::timeout_at(due.into(), self.0.readable_mut()).await else {
                continue;
            };
            let mut ready = ready.map_err(RemoteError::Io)?;
            match ready.get_inner_mut().poll(&mut read)? {
                Poll::Empty if ready.get_inner().is_drained() => ready.clear_ready(),
                Poll::Empty => {}
                outcome => return Ok(outcome),
            }
        }
    }

    /// The subscriber.
    #[must_use]
    pub fn subscriber(&self) -> &RemoteSubscriber {
        self.0.get_ref()
    }

    /// Gives the subscriber back, as it stands.
    #[must_use]
    pub fn into_inner(self) -> RemoteSubscriber {
        self.0.into_inner()
    }
}
