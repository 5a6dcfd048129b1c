//! Lapwing: a zero-copy, lock-free shared-memory message bus for Linux, with the same stream over TCP.
#![cfg_attr(
    loom,
    allow(dead_code, reason = "the models need a part of what is left in a loom build")
)]

mod sync;

pub mod words;

mod incarnation;

pub mod layout;

pub mod ring;

// A loom build has what is modelled, and no more.
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "a few system calls have no safe wrapper")]
mod sys;

#[cfg(not(loom))]
pub mod discovery;

#[cfg(not(loom))]
pub mod limits;

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "SysV shared memory has no safe wrapper")]
pub mod segment;

mod wakes;

#[cfg(not(loom))]
mod bell;

#[cfg(not(loom))]
mod publisher;

#[cfg(not(loom))]
mod liveness;

#[cfg(not(loom))]
mod subscriber;

#[cfg(all(feature = "cli", not(loom)))]
pub mod cli;

#[cfg(not(loom))]
pub mod socket;

#[cfg(not(loom))]
mod server;

#[cfg(not(loom))]
mod transport;

#[cfg(not(loom))]
mod causes;

#[cfg(not(loom))]
mod follower;

#[cfg(not(loom))]
pub mod probe;

#[cfg(not(loom))]
pub use self::{
    follower::{Event, FollowOptions, Follower},
    liveness::ServerState,
    publisher::{Batch, Loan, PublishError, Publisher},
    ring::{Head, OnLap, Poll, Received, View},
    segment::{Access, Segment},
    server::{Server, ServerOptions, ServerStats, ServiceDied, StartError},
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
    is_send::<RemoteSubscriber>();
    is_send::<Follower>();
};

/// The README's program must compile.
#[cfg(all(doctest, not(loom)))]
#[doc = include_str!("../README.md")]
struct Readme;
