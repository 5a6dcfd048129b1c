//! A subscriber for programs that wait for many things at once: a descriptor that is readable when a poll would find
//! something.
//!
//! There is no descriptor to a futex word. So a thread of its own waits in the subscriber's place and sets an eventfd.
//! It is asked to only when a poll found nothing, it sleeps between errands, and it never spins:
//!
//! ```text
//!   publisher --futex--> thread --eventfd--> epoll, mio, tokio --> Notified::poll until Empty --errand--> thread
//! ```
//!
//! io_uring can wait on a futex without a thread, but only from Linux 6.7 on, and many containers forbid it. `errand.rs`
//! has the word between the two sides, and why no event is lost.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};

use crate::bell;
use crate::errand::{Errand, Found};
use crate::ring::{Poll, View};
use crate::segment::Segment;
use crate::subscriber::{BRIEF_SPIN_TIME, Join, Subscriber, Waited};

/// A subscriber with a descriptor that is readable when [`Notified::poll`] would find something: a message, a lap, the
/// end, the death of the server.
///
/// Poll until `Empty` before each wait for the descriptor, which suits edge-triggered and level-triggered waits alike.
/// Now and then the descriptor is readable although there is nothing. Costs a thread that sleeps, a message that is
/// waited for one more wake than [`Subscriber::receive`] takes, and the publisher nothing more than any reader.
///
/// ```
/// # use lapwing::{Join, Notified, Poll, Server, ServerOptions, Subscriber, discovery};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let mut options = ServerOptions::new("prices".parse()?);
/// # options.info_dir = directory.path().to_owned();
/// # let mut server = Server::start(options)?;
/// # let found = discovery::read(server.info_path(), &Default::default())?;
/// use rustix::event::{PollFd, PollFlags, poll};
///
/// let mut stream = Notified::new(Subscriber::open(&found, Join::New)?)?;
/// # server.publisher().publish(b"EURUSD 1.0842")?;
/// # server.end_stream();
/// loop {
///     match stream.poll(|view| view.to_vec()) {
///         Poll::Message(message) => println!("{}: {} bytes", message.sequence, message.value.len()),
///         Poll::Lapped { missed, .. } => println!("{missed} lost"),
///         // Here a program waits for its other descriptors as well.
///         Poll::Empty => drop(poll(&mut [PollFd::new(&stream, PollFlags::IN)], None)?),
///         _ => break,
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Notified {
    subscriber: Subscriber,
    stand_in: StandIn,
}

impl Notified {
    /// Gives `subscriber` a descriptor. Its [`WaitStrategy`](crate::WaitStrategy) no longer matters.
    ///
    /// # Errors
    /// When there is no descriptor or no thread left for it.
    pub fn new(subscriber: Subscriber) -> io::Result<Self> {
        let stand_in = StandIn::start(subscriber.twin()?)?;
        Ok(Self { subscriber, stand_in })
    }

    /// Looks once, as [`Subscriber::poll`] does; tells the death of the server as well. `Empty` is a promise: from then
    /// on the descriptor becomes readable as soon as there is something.
    #[inline]
    pub fn poll<R>(&mut self, read: impl FnOnce(View<'_>) -> R) -> Poll<R> {
        match self.subscriber.poll(read) {
            Poll::Empty => self.stand_in.send(self.subscriber.cursor()),
            outcome => outcome,
        }
    }

    /// The subscriber.
    #[must_use]
    pub const fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }

    /// Gives the subscriber back, as it stands; the descriptor and the thread are gone then.
    #[must_use]
    pub fn into_inner(self) -> Subscriber {
        self.subscriber
    }
}

impl AsFd for Notified {
    /// The eventfd, to wait for and not to read: poll until `Empty` before each wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stand_in.shared.event.as_fd()
    }
}

impl AsRawFd for Notified {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// The thread that waits in the subscriber's place. It ends when this is dropped.
#[derive(Debug)]
struct StandIn {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    /// `None` once it is being dropped.
    thread: Option<JoinHandle<()>>,
}

/// What the two threads share.
#[derive(Debug)]
struct Shared {
    errand: Errand,
    event: OwnedFd,
    is_over: AtomicBool,
}

impl StandIn {
    fn start(twin: Subscriber) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            errand: Errand::new(),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_over: AtomicBool::new(false),
        });
        // Nobody has looked yet.
        shared.set_event();
        let (theirs, segment) = (shared.clone(), twin.segment().clone());
        let thread = thread::Builder::new()
            .name("lapwing-notify".to_owned())
            .spawn(move || theirs.serve(twin))?;
        Ok(Self {
            shared,
            segment,
            thread: Some(thread),
        })
    }

    /// Nothing is there at `cursor`: sends the thread to wait for it.
    fn send<R>(&self, cursor: u64) -> Poll<R> {
        let wake = || {
            if let Some(thread) = &self.thread {
                thread.thread().unpark();
            }
        };
        match self.shared.errand.run(cursor, || self.shared.clear_event(), wake) {
            Some(Found::Ended) => Poll::Ended,
            Some(Found::Dead) => Poll::Dead,
            Some(Found::Ready) | None => Poll::Empty,
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A wake cannot be addressed: other sleepers look, and sleep on. If the thread was just about to fall asleep
            // it misses this, and sleeps for a tenth of a second at most.
            bell::wake_readers(&self.segment);
            // One that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The thread: one errand after the other.
    fn serve(&self, mut twin: Subscriber) {
        while !self.is_over.load(Ordering::Acquire) {
            match self.errand.wanted() {
                None => thread::park(),
                Some(cursor) => {
                    twin.rejoin(Join::Sequence(cursor));
                    if let Some(found) = self.wait(&mut twin) {
                        self.errand.finish(found, || self.set_event());
                    }
                }
            }
        }
    }

    /// Sleeps until the twin has something; `None` if all is over.
    fn wait(&self, twin: &mut Subscriber) -> Option<Found> {
        // A wake may be withheld from who was awake at the last one. Others spin for as long as that; here the first
        // sleep is that short.
        let mut deadline = Some(Instant::now() + BRIEF_SPIN_TIME);
        while !self.is_over.load(Ordering::Acquire) {
            match twin.nap(deadline) {
                Some(Waited::Ready) => return Some(Found::Ready),
                Some(Waited::Ended) => return Some(Found::Ended),
                Some(Waited::Dead) => return Some(Found::Dead),
                Some(Waited::TimedOut) => deadline = None,
                None => {}
            }
        }
        None
    }

    fn set_event(&self) {
        // It fails only when it is full, and then it is set.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    fn clear_event(&self) {
        // It fails only when it is clear.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }
}

#[cfg(test)]
mod tests;
