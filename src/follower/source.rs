//! What a stream is read from: one of the two transports, with or without a claim.

use std::ops::ControlFlow;
use std::time::Duration;

use super::FollowOptions;
use super::burst::{Burst, append};
use crate::causes::with_causes;
use crate::discovery::Found;
use crate::incarnation::Incarnation;
use crate::liveness::ServerState;
use crate::lossless::{LosslessError, LosslessSubscriber};
use crate::ring::{Poll, Received, View};
use crate::socket::{RemoteError, RemoteSubscriber};
use crate::subscriber::{Join, Subscriber};
use crate::transport::{Payload, Transport};

#[derive(Debug)]
pub(super) enum Source {
    SharedMemory(Box<Subscriber>),
    Lossless(Box<LosslessSubscriber>),
    Socket(Box<RemoteSubscriber>),
}

/// A source, and what there is to tell about it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) source: Source,
    /// The sequence wanted next.
    pub(super) cursor: u64,
    /// Why it could be had.
    pub(super) reason: String,
}

/// Why a transport cannot be had.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// This life of the server offers nothing of what was asked for.
    pub(super) is_final: bool,
}

impl From<LosslessError> for Failure {
    fn from(error: LosslessError) -> Self {
        Self {
            reason: with_causes(&error),
            is_final: matches!(
                error,
                LosslessError::NoSocket | LosslessError::Socket(RemoteError::NotLossless)
            ),
        }
    }
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        Self {
            reason: with_causes(&error),
            is_final: matches!(error, RemoteError::NotLossless),
        }
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            is_final: false,
        }
    }
}

impl Source {
    pub(super) fn open(
        transport: Transport,
        found: &Found,
        join: Join,
        options: &FollowOptions,
    ) -> Result<Opened, Failure> {
        match transport {
            Transport::SharedMemory if options.lossless => claim(found, join, options),
            Transport::SharedMemory => attach(found, join, options),
            Transport::Socket => connect(found, join, options),
        }
    }

    pub(super) const fn transport(&self) -> Transport {
        match self {
            Self::SharedMemory(_) | Self::Lossless(_) => Transport::SharedMemory,
            Self::Socket(_) => Transport::Socket,
        }
    }

    pub(super) fn incarnation(&mut self) -> Incarnation {
        match self {
            Self::SharedMemory(subscriber) => subscriber.incarnation(),
            Self::Lossless(subscriber) => subscriber.subscriber().incarnation(),
            Self::Socket(subscriber) => subscriber.hello().incarnation,
        }
    }

    /// Waits for up to `timeout` for the next message, or what else there is to tell.
    pub(super) fn receive<R>(
        &mut self,
        timeout: Duration,
        mut read: impl FnMut(Payload<'_>) -> R,
    ) -> Result<Poll<R>, RemoteError> {
        match self {
            Self::SharedMemory(subscriber) => Ok(subscriber.receive(timeout, |view| read(Payload::View(view)))),
            Self::Lossless(subscriber) => Ok(subscriber.receive(timeout, |view| read(Payload::View(view)))),
            Self::Socket(subscriber) => subscriber.receive(timeout, |bytes| read(Payload::Bytes(bytes))),
        }
    }

    /// As [`super::Follower::burst`]: the messages, and what is wrong with the connection behind them.
    pub(super) fn burst(
        &mut self,
        timeout: Duration,
        out: &mut Vec<u8>,
        each: impl FnMut(&mut Vec<u8>, Received<usize>) -> ControlFlow<()>,
    ) -> (Burst, Option<RemoteError>) {
        let mut lost = None;
        let burst = match self {
            Self::SharedMemory(subscriber) => Burst::take(timeout, out, each, |wait, out, start| {
                let read = |view: View<'_>| append(Payload::View(view), out, start);
                match wait {
                    None => subscriber.poll(read),
                    Some(timeout) => subscriber.receive(timeout, read),
                }
            }),
            Self::Lossless(subscriber) => subscriber.in_advance(|subscriber| {
                Burst::take(timeout, out, each, |wait, out, start| {
                    let read = |view: View<'_>| append(Payload::View(view), out, start);
                    match wait {
                        None => subscriber.poll(read),
                        Some(timeout) => subscriber.receive(timeout, read),
                    }
                })
            }),
            Self::Socket(subscriber) => Burst::take(timeout, out, each, |wait, out, start| {
                let read = |bytes: &[u8]| append(Payload::Bytes(bytes), out, start);
                let polled = match wait {
                    None => subscriber.poll(read),
                    Some(timeout) => subscriber.receive(timeout, read),
                };
                polled.unwrap_or_else(|error| {
                    lost = Some(error);
                    Poll::Empty
                })
            }),
        };
        (burst, lost)
    }

    /// Of one that has a claim: whether the server waits for it no more.
    pub(super) fn is_evicted(&self) -> bool {
        match self {
            Self::SharedMemory(_) => false,
            Self::Lossless(subscriber) => subscriber.is_evicted(),
            Self::Socket(subscriber) => !subscriber.is_lossless(),
        }
    }

    pub(super) fn keep_alive(&mut self) {
        if let Self::Socket(subscriber) = self {
            // What is wrong with the connection the next message tells.
            let _ = subscriber.keep_alive();
        }
    }

    /// How the server is, as far as its segment tells.
    pub(super) fn server_state(&mut self) -> Option<ServerState> {
        match self {
            Self::SharedMemory(subscriber) => Some(subscriber.server_state()),
            Self::Lossless(subscriber) => Some(subscriber.subscriber().server_state()),
            Self::Socket(_) => None,
        }
    }
}

fn attach(found: &Found, join: Join, options: &FollowOptions) -> Result<Opened, Failure> {
    let mut subscriber = Subscriber::open(found, join)
        .map_err(|error| Failure::from(LosslessError::Attach(error)))?
        .with_strategy(options.strategy);
    if options.prefault {
        subscriber.segment().prefault();
        // The stream went on meanwhile.
        subscriber.rejoin(join);
    }
    Ok(Opened {
        cursor: subscriber.cursor(),
        reason: attached(&subscriber),
        source: Source::SharedMemory(Box::new(subscriber)),
    })
}

fn claim(found: &Found, join: Join, options: &FollowOptions) -> Result<Opened, Failure> {
    let mut subscriber =
        LosslessSubscriber::open(found, join, options.connect_timeout)?.with_strategy(options.strategy);
    let policy = subscriber.policy();
    if options.prefault {
        subscriber.subscriber().segment().prefault();
    }
    Ok(Opened {
        cursor: subscriber.subscriber().cursor(),
        reason: format!("{}, lossless ({policy})", attached(subscriber.subscriber())),
        source: Source::Lossless(Box::new(subscriber)),
    })
}

fn connect(found: &Found, join: Join, options: &FollowOptions) -> Result<Opened, Failure> {
    let Some(socket) = &found.info.socket else {
        return Err(if options.lossless {
            LosslessError::NoSocket.into()
        } else {
            "the server offers none".into()
        });
    };
    let (expected, timeout) = (found.info.incarnation, options.connect_timeout);
    let subscriber = if options.lossless {
        RemoteSubscriber::connect_lossless(&socket.addresses, expected, join, timeout)
    } else {
        RemoteSubscriber::connect(&socket.addresses, expected, join, timeout)
    }?;
    let mut reason = format!("connected to {}", subscriber.address());
    if let Some(offer) = subscriber.offer().filter(|_| options.lossless) {
        reason = format!("{reason}, lossless ({})", offer.policy);
    }
    Ok(Opened {
        cursor: subscriber.cursor(),
        reason,
        source: Source::Socket(Box::new(subscriber)),
    })
}

fn attached(subscriber: &Subscriber) -> String {
    subscriber
        .segment()
        .id()
        .map_or_else(String::new, |id| format!("segment {id} attached read-only"))
}
