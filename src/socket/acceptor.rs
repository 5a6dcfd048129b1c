//! New connections, also when descriptors run out.
//!
//! The kernel tells of new connections once, as an edge. An acceptor that fails for want of descriptors would never
//! hear of those again, so it tries again by the clock; and it keeps a spare descriptor to turn clients away with, who
//! would otherwise wait for a greeting until their deadline.

use std::fs::File;
use std::io::{self, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use rustix::io::Errno;

use super::frame::{RejectCode, ServerFrame};

/// When to try again after a failure.
const RETRY: Duration = Duration::from_millis(100);
/// Connections taken from one listener before those that there are get their turn.
const BUDGET: usize = 64;

/// What one look at the listeners gave.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A new connection.
    Client(TcpStream),
    /// One that was turned away, for want of a descriptor.
    TurnedAway,
    /// One that could not be taken at all.
    Failure,
}

/// Every listener of a server.
#[derive(Debug)]
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    /// Open, so that closing it frees a descriptor.
    spare: Option<File>,
    /// When to look although no event came.
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Listener {
    listener: TcpListener,
    /// There may be clients waiting although no event will say so.
    waiting: bool,
}

impl Acceptor {
    /// Registers `listeners` under the tokens from `first_token` on.
    pub(super) fn new(
        listeners: Vec<std::net::TcpListener>,
        first_token: usize,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut registered = Vec::with_capacity(listeners.len());
        for (index, listener) in listeners.into_iter().enumerate() {
            listener.set_nonblocking(true)?;
            let mut listener = TcpListener::from_std(listener);
            registry.register(&mut listener, Token(first_token + index), Interest::READABLE)?;
            registered.push(Listener {
                listener,
                waiting: true,
            });
        }
        Ok(Self {
            listeners: registered,
            spare: open_spare(),
            retry_at: None,
        })
    }

    /// Notes that the kernel told of clients at listener `index`; whether there is one.
    pub(super) fn notify(&mut self, index: usize) -> bool {
        let listener = self.listeners.get_mut(index);
        listener.map(|listener| listener.waiting = true).is_some()
    }

    /// When it wants to look again although no event may come.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let waiting = self.listeners.iter().any(|listener| listener.waiting);
        self.retry_at.or(waiting.then_some(now))
    }

    /// Takes those who wait, and hands each to `admit`.
    pub(super) fn accept(&mut self, now: Instant, mut admit: impl FnMut(Arrival)) {
        if self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        self.retry_at = None;
        if self.spare.is_none() && self.listeners.iter().any(|listener| listener.waiting) {
            // Somebody else in this process was quicker when it was to be taken back.
            self.spare = open_spare();
        }
        for listener in &mut self.listeners {
            for _ in 0..BUDGET {
                if !listener.waiting {
                    break;
                }
                match take(&listener.listener, &mut self.spare) {
                    Ok(arrival) => admit(arrival),
                    Err(error) => match Errno::from_io_error(&error) {
                        Some(Errno::AGAIN) => listener.waiting = false,
                        // That client has gone already, or a signal came: the next one.
                        Some(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
                        _ => {
                            admit(Arrival::Failure);
                            self.retry_at = Some(now + RETRY);
                            break;
                        }
                    },
                }
            }
        }
    }
}

/// Takes one client, or spends the spare descriptor on telling it that there is none.
fn take(listener: &TcpListener, spare: &mut Option<File>) -> io::Result<Arrival> {
    let error = match listener.accept() {
        Ok((stream, _)) => return Ok(Arrival::Client(stream)),
        Err(error) => error,
    };
    let short = matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE));
    let Some(held) = spare.take_if(|_| short) else {
        return Err(error);
    };
    drop(held);
    // Nobody may be waiting: the kernel looks for a descriptor before it looks for a client.
    let taken = listener.accept().map(|(stream, _)| turn_away(stream));
    *spare = open_spare();
    taken.map(|()| Arrival::TurnedAway)
}

/// Tells a client that there is no room, and closes. A client that is greeted so has sent nothing yet: what it is told
/// is not undone by the close.
pub(super) fn turn_away(mut stream: TcpStream) {
    let reason = "this server has as many connections as it may have".to_owned();
    let mut bytes = Vec::new();
    ServerFrame::Reject {
        code: RejectCode::TooManyConnections,
        reason,
    }
    .append_to(&mut bytes);
    // A new socket has room for it; and if not, the close alone says enough.
    let _ = stream.write(&bytes);
    let _ = stream.shutdown(Shutdown::Write);
}

fn open_spare() -> Option<File> {
    File::open("/dev/null").ok()
}
