//! What the service counts: written by its thread, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the service of a server has done since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServiceStats {
    /// Connections that there are now.
    pub connections: u64,
    /// Connections that were ever served.
    pub accepted: u64,
    /// Connections that got the end of the stream and closed behind it.
    pub finished: u64,
    /// Connections that the peer closed or broke before the end.
    pub left: u64,
    /// Turned away: there were as many connections as there may be, or no descriptor for one more.
    pub rejected_full: u64,
    /// Turned away: the client speaks another version.
    pub rejected_version: u64,
    /// Turned away: the client broke the protocol.
    pub rejected_protocol: u64,
    /// Turned away: the client did not subscribe in time.
    pub rejected_late: u64,
    /// Turned away: the client sent no heartbeat for too long.
    pub rejected_silent: u64,
    /// Turned away: the client asked for a lossless subscription that it cannot have.
    pub rejected_lossless: u64,
    /// Dropped: the peer took nothing of what was to be sent for too long.
    pub dropped_stalled: u64,
    /// Dropped: the ring could not be read.
    pub dropped_corrupt: u64,
    /// Failures to accept a connection, for want of descriptors or memory.
    pub accept_failures: u64,
    /// Messages handed to the system for sending, once for each connection.
    pub messages: u64,
    /// Bytes handed to the system for sending.
    pub bytes: u64,
    /// Gaps told to slow connections.
    pub gaps: u64,
    /// Messages that those gaps spoke of.
    pub missed: u64,
}

macro_rules! counters {
    ($($name:ident),*) => {
        /// The same as [`ServiceStats`], to count in.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter),*
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> ServiceStats {
                ServiceStats { $($name: self.$name.0.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters!(
    connections,
    accepted,
    finished,
    left,
    rejected_full,
    rejected_version,
    rejected_protocol,
    rejected_late,
    rejected_silent,
    rejected_lossless,
    dropped_stalled,
    dropped_corrupt,
    accept_failures,
    messages,
    bytes,
    gaps,
    missed
);

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        // One writer: no read-modify-write is needed.
        self.0
            .store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}
