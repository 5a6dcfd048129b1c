//! The two ways to a stream, and what is the same on both.

use std::fmt;

use crate::ring::View;

/// A way to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// The server's segment, attached read-only.
    SharedMemory,
    /// The server's socket.
    Socket,
}

impl Transport {
    /// The word for it: `shm` or `socket`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SharedMemory => "shm",
            Self::Socket => "socket",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which ways may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TransportChoice {
    /// Shared memory if it works, else the socket.
    #[default]
    Auto,
    /// Shared memory only.
    SharedMemory,
    /// The socket only.
    Socket,
}

impl TransportChoice {
    /// Whether `transport` may be tried.
    #[must_use]
    pub const fn allows(self, transport: Transport) -> bool {
        matches!(
            (self, transport),
            (Self::Auto, _) | (Self::SharedMemory, Transport::SharedMemory) | (Self::Socket, Transport::Socket)
        )
    }
}

/// The payload of a message where it lies: in the ring, or in the buffer that it was received into.
///
/// In the ring it may be overwritten while it is looked at, as [`View`] says; what was made of it then is thrown away.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// In the ring.
    View(View<'a>),
    /// In a buffer of this process.
    Bytes(&'a [u8]),
}

impl Payload<'_> {
    /// How many bytes it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::View(view) => view.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// It, copied.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        match self {
            Self::View(view) => view.to_vec(),
            Self::Bytes(bytes) => bytes.to_vec(),
        }
    }

    /// Appends it to `out`.
    #[inline]
    pub fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::View(view) => view.append_to(out),
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
        }
    }

    /// Copies its first `out.len()` bytes.
    ///
    /// # Panics
    /// If it is shorter.
    #[inline]
    pub fn copy_to(&self, out: &mut [u8]) {
        match self {
            Self::View(view) => view.copy_to(out),
            Self::Bytes(bytes) => out.copy_from_slice(&bytes[..out.len()]),
        }
    }
}
