//! The same stream over TCP, for subscribers that cannot reach the shared memory.
//!
//! ```text
//!   Segment --Reader--> [ service thread: one cursor for each connection ] --frames--> RemoteSubscriber
//!                         connection 1: cursor 4711 ---+
//!                         connection 2: cursor 4711 ---+--> one chunk, encoded once
//!                         connection 3: cursor  120 -------> lapped: GAP, then goes on
//! ```
//!
//! `docs/protocol.md` has the frames byte by byte, so that a stranger can write a client in any language.

pub mod frame;

mod wire;

mod decoder;

mod error;

mod stream;

mod greeting;

mod remote;

mod counters;

mod chunk;

mod claiming;

mod survivors;

mod connection;

mod acceptor;

mod options;

mod handle;

mod service;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod tests;

pub use counters::ServiceStats;
pub use decoder::Decoder;
pub use error::RemoteError;
pub(crate) use greeting::{Agreed, Delivery, Request, agree_with_any};
pub(crate) use handle::ServiceHandle;
pub(crate) use options::ServiceOptions;
pub use remote::RemoteSubscriber;
pub(crate) use service::Service;
