//! What travels on TCP: the frames, without any I/O. Their bytes are made and read in `wire.rs` and put together by
//! the [`Decoder`](super::Decoder).
//!
//! ```text
//!   0        4          8      9        12
//!   +--------+----------+------+--------+-----------------------+
//!   | crc32c | body len | kind | 0 0 0  | body ...              |    all numbers little-endian
//!   +--------+----------+------+--------+-----------------------+
//!            |<---------- covered by the crc32c --------------->|
//! ```
//!
//! The checksum comes first, so that all it covers lies in one piece and one pass computes it. Whatever a peer
//! sends, decoding ends in a frame or in a [`FrameError`]: no panic, and no allocation before the bytes are there.

use std::fmt;

use crate::gate::LosslessPolicy;
use crate::{Incarnation, Join};

/// The version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;
/// Bytes in front of every body.
pub const HEADER_BYTES: usize = 12;
/// Bytes of a message's body in front of its payload: sequence, timestamp and tag.
pub const MESSAGE_FIELD_BYTES: usize = 24;
/// No message on a socket is longer: it bounds what a client ever allocates for a server that it cannot trust.
pub const MAX_MESSAGE_BYTES: usize = 1 << 30;
/// No name of a server is longer.
pub const MAX_NAME_BYTES: usize = 255;
/// No reason of a rejection is longer.
pub const MAX_REASON_BYTES: usize = 255;
/// No body that a client may send is longer, in any version: what a server must hold for a stranger.
pub const MAX_CLIENT_BODY_BYTES: usize = 64;
/// The longest body that a server may send before its HELLO told the length of its longest message.
pub const MAX_GREETING_BODY_BYTES: usize = HELLO_FIELD_BYTES + MAX_NAME_BYTES;
/// The longest interval between heartbeats, and the longest silence, that a HELLO may announce.
pub const MAX_DEADLINE_MS: u32 = 600_000;

/// No description of a subscriber is longer.
pub const MAX_WHO_BYTES: usize = 255;

pub(super) const HELLO_FIELD_BYTES: usize = 52;
pub(super) const OFFER_FIELD_BYTES: usize = 32;
pub(super) const LEASE_FIELD_BYTES: usize = 24;

/// What a frame is, as its header says. Bit 7 tells the direction: set in all that a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The server's first frame: who it is and what it retains.
    Hello = 0x01,
    /// The answer to SUBSCRIBE: where delivery starts.
    Start = 0x02,
    /// One message of the stream.
    Message = 0x03,
    /// Messages that the ring had overwritten before they could be sent.
    Gap = 0x04,
    /// Proof of life of a server with nothing to send.
    Heartbeat = 0x05,
    /// The stream was closed by its publisher; nothing follows.
    End = 0x06,
    /// The server refuses to go on; nothing follows.
    Reject = 0x07,
    /// What the server promises to lossless subscribers, and who of them holds it up. Follows a HELLO that says so.
    Offer = 0x08,
    /// The answer to a CLAIM of shared memory: where delivery starts, and the control segment.
    Lease = 0x09,
    /// The server took the claim away: what follows may have gaps.
    Evicted = 0x0a,
    /// The client's first frame: what it wants.
    Subscribe = 0x81,
    /// Proof of life of a client, with the sequence that it wants next.
    Progress = 0x82,
    /// As SUBSCRIBE, for a stream without losses.
    Claim = 0x83,
}

impl Kind {
    /// The kind with this byte in the header.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Hello,
            0x02 => Self::Start,
            0x03 => Self::Message,
            0x04 => Self::Gap,
            0x05 => Self::Heartbeat,
            0x06 => Self::End,
            0x07 => Self::Reject,
            0x08 => Self::Offer,
            0x09 => Self::Lease,
            0x0a => Self::Evicted,
            0x81 => Self::Subscribe,
            0x82 => Self::Progress,
            0x83 => Self::Claim,
            _ => return None,
        })
    }

    /// Whether clients send it, and not servers.
    #[must_use]
    pub const fn is_from_client(self) -> bool {
        self as u8 & 0x80 != 0
    }

    /// The shortest and the longest body of this kind.
    pub(super) const fn body_bounds(self) -> (usize, usize) {
        match self {
            // Another version may say more or less here; this one must still be able to read which version it is.
            Self::Hello => (2, MAX_GREETING_BODY_BYTES),
            Self::Subscribe | Self::Claim => (2, MAX_CLIENT_BODY_BYTES),
            Self::Offer => (OFFER_FIELD_BYTES, OFFER_FIELD_BYTES + MAX_WHO_BYTES),
            Self::Lease => (LEASE_FIELD_BYTES, LEASE_FIELD_BYTES + MAX_NAME_BYTES),
            Self::Start | Self::Gap => (16, 16),
            Self::Message => (MESSAGE_FIELD_BYTES, MESSAGE_FIELD_BYTES + MAX_MESSAGE_BYTES),
            Self::Heartbeat | Self::End | Self::Evicted | Self::Progress => (8, 8),
            Self::Reject => (2, 2 + MAX_REASON_BYTES),
        }
    }
}

/// Who a server is and what its ring retains: the first thing it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The life of the server that this connection leads to.
    pub incarnation: Incarnation,
    /// The sequence that the publisher uses next.
    pub head: u64,
    /// The oldest sequence that is still retained.
    pub oldest: u64,
    /// The longest payload that will ever follow, at most [`MAX_MESSAGE_BYTES`].
    pub max_message_bytes: u32,
    /// Both sides send something at least this often, in milliseconds.
    pub heartbeat_ms: u32,
    /// Either side gives the other up after so many milliseconds without a byte; longer than `heartbeat_ms`.
    pub silence_ms: u32,
    /// Connections that the server has, with this one, without those of clients that read through shared memory.
    pub connections: u32,
    /// Whether the publisher has ended the stream: no message `head` will come.
    pub closed: bool,
    /// Whether an OFFER follows: lossless subscribers are served, too.
    pub offers: bool,
    /// The server's name, at most [`MAX_NAME_BYTES`].
    pub name: String,
}

/// What a server promises to lossless subscribers, and how it fares with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What it does about those who are too slow.
    pub policy: LosslessPolicy,
    /// Most lossless subscribers at a time.
    pub max_subscribers: u32,
    /// How many there are now.
    pub subscribers: u32,
    /// How many lost their claim so far.
    pub evicted: u64,
    /// The one that holds up the publisher, if one does: for how long, in milliseconds, the sequence that it wants next,
    /// and who it is, at most [`MAX_WHO_BYTES`].
    pub holder: Option<(u32, u64, String)>,
}

/// Why a server refuses to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectCode {
    /// It does not speak the version that the client asked for.
    UnsupportedVersion,
    /// It has as many connections as it may have; try later.
    TooManyConnections,
    /// The client sent something that the protocol does not allow.
    Protocol,
    /// The client did not subscribe in time.
    SubscribeDeadline,
    /// The client sent no heartbeat for too long.
    Silent,
    /// The server offers no lossless subscriptions, or none like that.
    NotOffered,
    /// It has as many lossless subscribers as it may have; try later.
    TooManyClaims,
    /// The server cannot make what a lossless subscriber needs.
    NoControl,
    /// A reason that this version does not know.
    Other(u16),
}

impl RejectCode {
    pub(super) const fn from_wire(code: u16) -> Self {
        match code {
            1 => Self::UnsupportedVersion,
            2 => Self::TooManyConnections,
            3 => Self::Protocol,
            4 => Self::SubscribeDeadline,
            5 => Self::Silent,
            6 => Self::NotOffered,
            7 => Self::TooManyClaims,
            8 => Self::NoControl,
            other => Self::Other(other),
        }
    }

    pub(super) const fn to_wire(self) -> u16 {
        match self {
            Self::UnsupportedVersion => 1,
            Self::TooManyConnections => 2,
            Self::Protocol => 3,
            Self::SubscribeDeadline => 4,
            Self::Silent => 5,
            Self::NotOffered => 6,
            Self::TooManyClaims => 7,
            Self::NoControl => 8,
            Self::Other(code) => code,
        }
    }
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnsupportedVersion => f.write_str("unsupported version"),
            Self::TooManyConnections => f.write_str("too many connections"),
            Self::Protocol => f.write_str("protocol error"),
            Self::SubscribeDeadline => f.write_str("no subscription in time"),
            Self::Silent => f.write_str("silent for too long"),
            Self::NotOffered => f.write_str("not offered"),
            Self::TooManyClaims => f.write_str("too many lossless subscribers"),
            Self::NoControl => f.write_str("no control segment"),
            Self::Other(code) => write!(f, "reason {code}"),
        }
    }
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// Who it is; the first frame.
    Hello(Hello),
    /// Where delivery starts; the answer to a subscription.
    Start {
        /// The sequence of the first message that will be delivered.
        first: u64,
        /// How many of the messages asked for, right before `first`, are gone.
        missed: u64,
    },
    /// One message.
    Message {
        /// Its position in the stream.
        sequence: u64,
        /// When it was published, by the publisher's realtime clock.
        timestamp_ns: u64,
        /// What the publisher tagged it with.
        tag: u64,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// The messages `first..first + missed` were overwritten before they could be sent.
    Gap {
        /// The first one that is gone.
        first: u64,
        /// How many are gone; never 0.
        missed: u64,
    },
    /// Nothing to send, still alive.
    Heartbeat {
        /// The sequence that the publisher uses next.
        head: u64,
    },
    /// The publisher closed the stream; nothing follows.
    End {
        /// One more than the last sequence there ever was.
        head: u64,
    },
    /// The server refuses to go on; nothing follows.
    Reject {
        /// Why, for programs.
        code: RejectCode,
        /// Why, for people; at most [`MAX_REASON_BYTES`].
        reason: String,
    },
    /// What it promises to lossless subscribers.
    Offer(Offer),
    /// Where delivery through shared memory starts, and with what.
    Lease {
        /// The sequence of the first message that will not be overwritten before it is read.
        first: u64,
        /// How many of the messages asked for, right before `first`, are gone.
        missed: u64,
        /// Of the messages before this one, any may still be overwritten, until this one is there.
        live: u64,
        /// The name of the control segment, at most [`MAX_NAME_BYTES`].
        control: String,
    },
    /// The claim is gone: what follows may have gaps.
    Evicted {
        /// The sequence up to which all was acknowledged.
        next: u64,
    },
}

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientFrame {
    /// What it wants; its first frame, and only that.
    Subscribe {
        /// The life of the server in which `join` was meant, or [`Incarnation::NIL`].
        incarnation: Incarnation,
        /// Where to start.
        join: Join,
    },
    /// What it wants, without losses; its first frame, and only that.
    Claim {
        /// The life of the server in which `join` was meant, or [`Incarnation::NIL`].
        incarnation: Incarnation,
        /// Where to start.
        join: Join,
        /// Whether it reads through shared memory, and wants a control segment.
        memory: bool,
        /// Its process, for people; 0 if it does not tell.
        pid: u32,
    },
    /// Still alive.
    Progress {
        /// The sequence that it wants next: all before have been taken.
        next: u64,
    },
}

/// Why bytes are not a frame. The stream cannot be read on after any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The header's kind is none of this direction.
    UnknownKind(u8),
    /// The header's zero bytes are not zero.
    NotZero,
    /// The body is longer or shorter than one of its kind may be here.
    BodyLength {
        /// The kind that the header names.
        kind: Kind,
        /// The length that the header claims.
        body_bytes: u32,
    },
    /// The bytes are not those that were sent.
    Checksum {
        /// What the header says.
        claimed: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// The peer speaks another version of the protocol.
    Version(u16),
    /// A field has a value that it cannot have.
    Field(&'static str),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKind(kind) => write!(f, "frame of unknown kind {kind:#04x}"),
            Self::NotZero => f.write_str("frame header with bits set that must be zero"),
            Self::BodyLength { kind, body_bytes } => {
                write!(
                    f,
                    "{kind:?} frame claims a body of {body_bytes} bytes, which it cannot have"
                )
            }
            Self::Checksum { claimed, computed } => {
                write!(
                    f,
                    "frame has checksum {claimed:#010x} but its bytes give {computed:#010x}"
                )
            }
            Self::Version(version) => write!(f, "peer speaks protocol version {version}, not {VERSION}"),
            Self::Field(what) => write!(f, "frame with an impossible {what}"),
        }
    }
}

impl std::error::Error for FrameError {}
