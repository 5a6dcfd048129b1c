//! How a client and a server begin: connect, HELLO, SUBSCRIBE, START.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use rustix::event::PollFlags;

use super::decoder::Decoder;
use super::error::RemoteError;
use super::frame::{ClientFrame, Hello, ServerFrame};
use super::stream::{read_into, wait_for};
use crate::ring::MAX_SEQUENCE;
use crate::{Incarnation, Join};

/// What one read may fetch. It holds some thousand small messages; a longer message makes the buffer grow.
const BUFFER_BYTES: usize = 256 << 10;

/// A connection on which the server is not believed yet.
#[derive(Debug)]
struct Greeting {
    stream: TcpStream,
    address: SocketAddr,
    decoder: Decoder,
    deadline: Instant,
}

/// A connection on which delivery has been agreed on.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) stream: TcpStream,
    pub(super) decoder: Decoder,
    pub(super) hello: Hello,
    /// The first sequence that will be delivered; never more than `MAX_SEQUENCE`.
    pub(super) first: u64,
    /// How many of those asked for are gone; never more than `first`.
    pub(super) missed: u64,
}

/// What a client asks a server for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// Who must answer; `NIL` for anybody.
    pub(super) expected: Incarnation,
    /// The life in which `join` is meant; `NIL` for any.
    pub(super) meant: Incarnation,
    pub(super) join: Join,
}

/// Connects to `address` and agrees with the server there on where delivery starts, all before `deadline`.
pub(super) fn agree(address: SocketAddr, request: Request, deadline: Instant) -> Result<Agreed, RemoteError> {
    let Request { expected, meant, join } = request;
    let mut greeting = Greeting::connect(address, deadline)?;
    let hello = match greeting.next_frame()? {
        ServerFrame::Hello(hello) => hello,
        other => return Err(refusal(other)),
    };
    let found = hello.incarnation;
    if expected != Incarnation::NIL && expected != found {
        return Err(RemoteError::Incarnation { expected, found });
    }
    let mut subscribe = Vec::new();
    ClientFrame::Subscribe {
        incarnation: meant,
        join,
    }
    .append_to(&mut subscribe);
    // A socket that has sent nothing yet has room for it.
    greeting.stream.write_all(&subscribe).map_err(RemoteError::Io)?;
    greeting.decoder.allow_messages(hello.max_message_bytes);
    let (first, missed) = match greeting.next_frame()? {
        ServerFrame::Start { first, missed } if first <= MAX_SEQUENCE => (first, missed),
        other => return Err(refusal(other)),
    };
    if let Join::Sequence(wanted) = join
        && meant == found
        && first.saturating_sub(missed) != wanted.min(MAX_SEQUENCE)
    {
        return Err(RemoteError::Protocol("a start elsewhere than was asked for"));
    }
    Ok(Agreed {
        stream: greeting.stream,
        decoder: greeting.decoder,
        hello,
        first,
        missed,
    })
}

impl Greeting {
    fn connect(address: SocketAddr, deadline: Instant) -> Result<Self, RemoteError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(RemoteError::TimedOut { address });
        }
        let stream = TcpStream::connect_timeout(&address, left).map_err(|source| match source.kind() {
            ErrorKind::ConnectionRefused => RemoteError::Refused { address },
            ErrorKind::TimedOut => RemoteError::TimedOut { address },
            _ => RemoteError::Connect { address, source },
        })?;
        stream.set_nodelay(true).map_err(RemoteError::Io)?;
        stream.set_nonblocking(true).map_err(RemoteError::Io)?;
        Ok(Self {
            stream,
            address,
            decoder: Decoder::of_server(BUFFER_BYTES),
            deadline,
        })
    }

    /// Waits for the next frame, until the deadline.
    fn next_frame(&mut self) -> Result<ServerFrame<'_>, RemoteError> {
        while self.decoder.front()?.is_none() {
            // Also while bytes come: a server that trickles them must not hold the caller.
            if Instant::now() >= self.deadline {
                return Err(RemoteError::TimedOut { address: self.address });
            }
            if !read_into(&self.stream, &mut self.decoder)? {
                wait_for(&self.stream, PollFlags::IN, self.deadline)?;
            }
        }
        self.decoder.server_frame()?.ok_or(RemoteError::Protocol("no frame"))
    }
}

/// What a frame in place of the awaited one means.
fn refusal(frame: ServerFrame<'_>) -> RemoteError {
    match frame {
        ServerFrame::Reject { code, reason } => RemoteError::Rejected { code, reason },
        _ => RemoteError::Protocol("a frame out of place"),
    }
}
