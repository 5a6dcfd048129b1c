//! Lapwing: a zero-copy, lock-free shared-memory message bus for Linux, with the same stream over TCP.

mod sync;

pub mod words;

mod incarnation;

pub mod layout;

pub mod ring;

#[cfg(not(loom))]
pub mod limits;

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "SysV shared memory has no safe wrapper")]
pub mod segment;

pub use incarnation::{Incarnation, ParseIncarnationError};
