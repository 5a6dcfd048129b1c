//! How a client and a server begin: connect, HELLO, SUBSCRIBE, START.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::decoder::Decoder;
use super::error::RemoteError;
use super::frame::{ClientFrame, Hello, Offer, ServerFrame};
use super::stream::{deadline_after, read_into, wait_for};
use crate::ring::MAX_SEQUENCE;
use crate::{Incarnation, Join};

/// What one read may fetch. It holds some thousand small messages; a longer message makes the buffer grow.
const BUFFER_BYTES: usize = 256 << 10;

/// A connection on which the server is not believed yet.
#[derive(Debug)]
pub(super) struct Greeting {
    stream: TcpStream,
    address: SocketAddr,
    decoder: Decoder,
    deadline: Instant,
}

/// A connection on which delivery has been agreed on.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) stream: TcpStream,
    pub(crate) decoder: Decoder,
    pub(crate) hello: Hello,
    pub(crate) offer: Option<Offer>,
    /// The first sequence that will be delivered; never more than `MAX_SEQUENCE`.
    pub(crate) first: u64,
    /// How many of those asked for are gone; never more than `first`.
    pub(crate) missed: u64,
    /// For a lossless subscriber through shared memory: LEASE's `live`, and the name of the control segment.
    pub(crate) lease: Option<(u64, String)>,
}

/// How messages are to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Those that the ring still has.
    Lossy,
    /// All of them, over the socket.
    Lossless,
    /// All of them, through shared memory.
    Leased,
}

/// What a client asks a server for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    /// Who must answer; `NIL` for anybody.
    pub(crate) expected: Incarnation,
    /// The life in which `join` is meant; `NIL` for any.
    pub(crate) meant: Incarnation,
    pub(crate) join: Join,
    pub(crate) delivery: Delivery,
}

/// Connects to `address` and agrees with the server there on where delivery starts, all before `deadline`.
fn agree(address: SocketAddr, request: Request, deadline: Instant) -> Result<Agreed, RemoteError> {
    Greeting::connect(address, deadline)?.agree(request)
}

/// Agrees with the first of `addresses` that it can be done with. Each gets its share of the time that is left.
///
/// # Errors
/// From the address where it came furthest.
pub(crate) fn agree_with_any(
    addresses: &[SocketAddr],
    request: Request,
    timeout: Duration,
) -> Result<(SocketAddr, Agreed), RemoteError> {
    let deadline = deadline_after(timeout);
    let mut furthest = RemoteError::NoAddress;
    for (tried, &address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match agree(address, request, deadline_after(share)) {
            Ok(agreed) => return Ok((address, agreed)),
            Err(error) if error.progress() >= furthest.progress() => furthest = error,
            Err(_) => {}
        }
    }
    Err(furthest)
}

impl Request {
    /// Asks the server `expected` for a place in its own stream.
    pub(crate) const fn of(expected: Incarnation, join: Join, delivery: Delivery) -> Self {
        Self {
            expected,
            meant: expected,
            join,
            delivery,
        }
    }

    fn first_frame(&self) -> ClientFrame {
        let (incarnation, join) = (self.meant, self.join);
        let claim = |memory| ClientFrame::Claim {
            incarnation,
            join,
            memory,
            pid: std::process::id(),
        };
        match self.delivery {
            Delivery::Lossy => ClientFrame::Subscribe { incarnation, join },
            Delivery::Lossless => claim(false),
            Delivery::Leased => claim(true),
        }
    }
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
        Ok(Self::on(stream, address, deadline))
    }

    /// Begins on a connection that does not block.
    pub(super) fn on(stream: TcpStream, address: SocketAddr, deadline: Instant) -> Self {
        Self {
            stream,
            address,
            decoder: Decoder::of_server(BUFFER_BYTES),
            deadline,
        }
    }

    /// Agrees with the server on where delivery starts.
    pub(super) fn agree(mut self, request: Request) -> Result<Agreed, RemoteError> {
        let Request {
            expected,
            meant,
            join,
            delivery,
        } = request;
        let hello = match self.next_frame()? {
            ServerFrame::Hello(hello) => hello,
            other => return Err(refusal(other)),
        };
        let found = hello.incarnation;
        if expected != Incarnation::NIL && expected != found {
            return Err(RemoteError::Incarnation { expected, found });
        }
        let offer = match hello.offers {
            false => None,
            true => match self.next_frame()? {
                ServerFrame::Offer(offer) => Some(offer),
                other => return Err(refusal(other)),
            },
        };
        if delivery != Delivery::Lossy && offer.is_none() {
            return Err(RemoteError::NotLossless);
        }
        let mut subscribe = Vec::new();
        request.first_frame().append_to(&mut subscribe);
        // A socket that has sent nothing yet has room for it.
        self.stream.write_all(&subscribe).map_err(RemoteError::Io)?;
        self.decoder.allow_messages(hello.max_message_bytes);
        let (first, missed, lease) = match (self.next_frame()?, delivery) {
            (ServerFrame::Start { first, missed }, Delivery::Lossy | Delivery::Lossless) if first <= MAX_SEQUENCE => {
                (first, missed, None)
            }
            (
                ServerFrame::Lease {
                    first,
                    missed,
                    live,
                    control,
                },
                Delivery::Leased,
            ) if first <= MAX_SEQUENCE => (first, missed, Some((live, control))),
            (other, _) => return Err(refusal(other)),
        };
        if let Join::Sequence(wanted) = join
            && meant == found
            && first.saturating_sub(missed) != wanted.min(MAX_SEQUENCE)
        {
            return Err(RemoteError::Protocol("a start elsewhere than was asked for"));
        }
        Ok(Agreed {
            stream: self.stream,
            decoder: self.decoder,
            hello,
            offer,
            first,
            missed,
            lease,
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
