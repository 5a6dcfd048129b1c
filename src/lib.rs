//! Lapwing: a zero-copy, lock-free shared-memory message bus for Linux, with the same stream over TCP.
//!
//! A [`Server`] publishes a stream of messages into a ring in shared memory and announces itself with an info file in a
//! directory. A [`Follower`] follows the server that an info file names: through shared memory, which it maps read-only,
//! or over TCP where it cannot, and across restarts. [`discovery`] lists and watches the directory, [`probe`] says what
//! works between this process and a server.
//!
//! ```
//! use std::time::Duration;
//!
//! use lapwing::{Event, FollowOptions, Follower, Join, Server, ServerOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let mut options = ServerOptions::new("prices".parse()?);
//! # options.info_dir = directory.path().to_owned();
//! let mut server = Server::start(options)?;
//! server.publisher().publish(b"EURUSD 1.0842")?;
//!
//! let mut options = FollowOptions::default();
//! options.from = Join::Oldest;
//! let mut follower = Follower::new(server.info_path(), options);
//! loop {
//!     match follower.next(Duration::from_secs(1), |payload| payload.to_vec()) {
//!         Event::Attached { transport, reason, .. } => println!("over {transport}: {reason}"),
//!         Event::Message(message) => {
//!             assert_eq!((message.sequence, &message.value[..]), (0, &b"EURUSD 1.0842"[..]));
//!             break;
//!         }
//!         Event::Gap { first, missed } => println!("{missed} messages lost from {first} on"),
//!         other => println!("{other:?}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Those who want shared memory alone take a [`Subscriber`]: it polls in place, copies, reads typed messages, drains and
//! waits. A [`RemoteSubscriber`] does the same over TCP alone. Where a server was told to wait for its readers
//! ([`ServerOptions::lossless`]), a [`LosslessSubscriber`] loses nothing, a [`BlockingSubscriber`] is lent messages as plain
//! bytes, and [`FollowOptions::lossless`] makes a follower lossless over either transport.
//!
//! # Costs
//!
//! Publishing copies the payload once and looks at the clock; a [`Batch`] shares one look. Reading in place costs two
//! loads of the slot's stamp, two fences that are free on x86-64, and what is read of the payload. Neither makes a
//! system call while nobody sleeps. No reader can hold up the publisher or another reader, unless the server offers lossless
//! subscriptions; one that falls a whole ring behind is overtaken and told which sequences it lost.
//!
//! # Features
//!
//! `cli`, on by default, builds the two commands and what they share. Programs turn it off. `tokio` adds subscribers
//! whose receiving is a future; other event loops take the descriptor of a [`Notified`] subscriber.
#![cfg_attr(
    loom,
    allow(dead_code, reason = "the models need a part of what is left in a loom build")
)]

mod sync;

#[cfg(all(test, loom))]
mod futex_model;

#[expect(
    unsafe_code,
    reason = "copies into memory that is not initialized yet, and assembly blocks"
)]
mod copy;

pub mod words;

mod incarnation;

pub mod layout;

pub mod ring;

// A loom build has what is modelled, and no more.
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "a few system calls have no safe wrapper")]
mod sys;

#[cfg(not(loom))]
mod cpus;

#[cfg(not(loom))]
pub mod discovery;

#[cfg(not(loom))]
pub mod limits;

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "SysV shared memory has no safe wrapper")]
pub mod segment;

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "a control segment is memory that two processes write")]
mod control;

mod gate;

mod wakes;

#[cfg(not(loom))]
mod bell;

#[cfg(not(loom))]
#[cfg_attr(
    not(portable),
    expect(unsafe_code, reason = "the processor's counter has no safe wrapper")
)]
mod clock;

#[cfg(not(loom))]
mod publisher;

#[cfg(not(loom))]
mod liveness;

#[cfg(not(loom))]
mod subscriber;

mod errand;

#[cfg(not(loom))]
mod notified;

#[cfg(all(feature = "cli", not(loom)))]
pub mod cli;

#[cfg(not(loom))]
pub mod socket;

#[cfg(all(feature = "tokio", not(loom)))]
mod async_subscriber;

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "a message that cannot be overwritten is lent as bytes")]
mod lossless;

#[cfg(not(loom))]
mod server;

#[cfg(not(loom))]
mod transport;

#[cfg(not(loom))]
mod causes;

#[cfg(not(loom))]
mod follower;

#[cfg(not(loom))]
mod messages;

#[cfg(all(test, not(loom)))]
mod crashes;

#[cfg(not(loom))]
pub mod probe;

#[cfg(all(feature = "tokio", not(loom)))]
pub use self::async_subscriber::{AsyncRemoteSubscriber, AsyncSubscriber};
#[cfg(not(loom))]
pub use self::{
    control::ControlError,
    cpus::{Cpus, ParseCpusError, PinError},
    follower::{Event, FollowOptions, Follower},
    gate::{Holder, LosslessOffer, LosslessPolicy, LosslessStatus},
    liveness::ServerState,
    lossless::{BlockingSubscriber, Held, LosslessError, LosslessSubscriber},
    notified::Notified,
    publisher::{Batch, Loan, PublishError, Publisher},
    ring::{Head, OnLap, Poll, Received, Values, View},
    segment::{Access, HugePages, Pages, Segment},
    server::{Monitor, Server, ServerOptions, ServerStats, ServiceDied, StartError},
    socket::{RemoteError, RemoteSubscriber},
    subscriber::{Join, Subscriber, WaitStrategy, Waited},
    transport::{Payload, Transport, TransportChoice},
};
pub use incarnation::{Incarnation, ParseIncarnationError};

// Handles go to whichever thread uses them.
#[cfg(not(loom))]
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Server>();
    is_send::<Publisher>();
    is_send::<Subscriber>();
    is_send::<Notified>();
    is_send::<RemoteSubscriber>();
    is_send::<Follower>();
};

/// The README's program must compile.
#[cfg(all(doctest, not(loom)))]
#[doc = include_str!("../README.md")]
struct Readme;
