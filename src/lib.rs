//! Lapwing: a zero-copy, lock-free shared-memory message bus for Linux, with the same stream over TCP.

mod incarnation;

pub use incarnation::{Incarnation, ParseIncarnationError};
