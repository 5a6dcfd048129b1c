//! Why a stream over TCP cannot be had, or cannot go on.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::frame::{FrameError, RejectCode};
use crate::Incarnation;

/// Why a [`RemoteSubscriber`](super::RemoteSubscriber) cannot connect or go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum RemoteError {
    /// There was no address to try.
    NoAddress,
    /// Nobody listens there.
    Refused {
        /// Where.
        address: SocketAddr,
    },
    /// Nobody answered in time, or not with all of a greeting.
    TimedOut {
        /// Where.
        address: SocketAddr,
    },
    /// The address cannot be reached.
    Connect {
        /// Which one.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Another server answered, or another life of it.
    Incarnation {
        /// Who was looked for.
        expected: Incarnation,
        /// Who answered.
        found: Incarnation,
    },
    /// The server refuses to serve.
    Rejected {
        /// Why, for programs.
        code: RejectCode,
        /// Why, in the server's words.
        reason: String,
    },
    /// The server offers no lossless subscriptions.
    NotLossless,
    /// The server closed the connection, or it broke, before the end of the stream.
    Closed,
    /// The server sent nothing, not even a heartbeat.
    Silent {
        /// For longer than this.
        silence: Duration,
    },
    /// The server sent bytes that are no frame.
    Frame(FrameError),
    /// The server sent a frame that may not stand where it did.
    Protocol(&'static str),
    /// The system refuses something on the connection.
    Io(io::Error),
}

impl RemoteError {
    /// How far a connection came that failed with this: the reason worth telling is that of the furthest.
    pub(super) const fn progress(&self) -> u8 {
        match self {
            Self::NoAddress => 0,
            Self::Connect { .. } => 1,
            Self::TimedOut { .. } => 2,
            Self::Refused { .. } => 3,
            Self::Io(_) | Self::Closed | Self::Silent { .. } => 4,
            Self::Frame(_) | Self::Protocol(_) => 5,
            Self::Incarnation { .. } => 6,
            Self::Rejected { .. } | Self::NotLossless => 7,
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("the server names no socket address"),
            Self::Refused { address } => write!(f, "{address} refuses connections: nobody listens there"),
            Self::TimedOut { address } => write!(f, "{address} did not answer in time"),
            Self::Connect { address, .. } => write!(f, "cannot connect to {address}"),
            Self::Incarnation { expected, found } => {
                write!(
                    f,
                    "incarnation {found} answered instead of {expected}: another server, or started anew"
                )
            }
            // A stranger's words may hold what a terminal would obey.
            Self::Rejected { code, reason } => write!(f, "server refuses: {code} ({})", reason.escape_debug()),
            Self::NotLossless => {
                f.write_str("the server offers no lossless subscriptions: start it with --lossless, or follow without")
            }
            Self::Closed => f.write_str("server closed the connection before the end of the stream"),
            Self::Silent { silence } => write!(f, "server was silent for more than {silence:?}"),
            Self::Frame(_) => f.write_str("what the server sends is not the lapwing protocol"),
            Self::Protocol(what) => write!(f, "server sent {what}"),
            Self::Io(_) => f.write_str("connection failed"),
        }
    }
}

impl std::error::Error for RemoteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect { source, .. } | Self::Io(source) => Some(source),
            Self::Frame(error) => Some(error),
            _ => None,
        }
    }
}

impl From<FrameError> for RemoteError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}
