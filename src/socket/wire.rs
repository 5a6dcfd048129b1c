//! The bytes of every frame: how they are made, and how they are read and doubted.

use std::time::Duration;

use super::frame::{ClientFrame, FrameError, HEADER_BYTES, Hello, Kind, Offer, RejectCode, ServerFrame};
use super::frame::{
    MAX_DEADLINE_MS, MAX_MESSAGE_BYTES, MAX_NAME_BYTES, MAX_REASON_BYTES, MAX_WHO_BYTES, MESSAGE_FIELD_BYTES, VERSION,
};
use crate::gate::LosslessPolicy;
use crate::{Incarnation, Join};

/// A header that was found well-formed: what follows it, and how long that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) body_bytes: usize,
}

impl Header {
    /// Reads a header, and refuses it as early as that can be: before its body arrived.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES], from_client: bool, max_body: usize) -> Result<Self, FrameError> {
        let kind = Kind::from_byte(bytes[8]).filter(|kind| kind.is_from_client() == from_client);
        let kind = kind.ok_or(FrameError::UnknownKind(bytes[8]))?;
        if bytes[9..] != [0; 3] {
            return Err(FrameError::NotZero);
        }
        let body_bytes = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let (least, most) = kind.body_bounds();
        let fits = usize::try_from(body_bytes)
            .ok()
            .filter(|&len| least <= len && len <= most && len <= max_body);
        let body_len = fits.ok_or(FrameError::BodyLength { kind, body_bytes })?;
        Ok(Self {
            kind,
            body_bytes: body_len,
        })
    }
}

/// Compares the checksum of one whole frame with its bytes.
pub(super) fn verify(frame: &[u8]) -> Result<(), FrameError> {
    let (claimed, covered) = frame.split_first_chunk().expect("a whole frame has a header");
    let claimed = u32::from_le_bytes(*claimed);
    let computed = crc32c::crc32c(covered);
    if claimed == computed {
        Ok(())
    } else {
        Err(FrameError::Checksum { claimed, computed })
    }
}

/// Begins a frame at the end of `out`; the body is to be appended next, then [`finish`] completes the header.
fn begin(out: &mut Vec<u8>, kind: Kind) {
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, kind as u8, 0, 0, 0]);
}

/// Begins a message at the end of `out`; its payload is to be appended next, then [`finish`] completes it.
#[inline]
pub(super) fn begin_message(out: &mut Vec<u8>, sequence: u64, timestamp_ns: u64, tag: u64) {
    let mut front = [0; HEADER_BYTES + MESSAGE_FIELD_BYTES];
    front[8] = Kind::Message as u8;
    front[12..20].copy_from_slice(&sequence.to_le_bytes());
    front[20..28].copy_from_slice(&timestamp_ns.to_le_bytes());
    front[28..36].copy_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&front);
}

/// Completes the frame that began at `start`: its length and its checksum, in one pass over its bytes.
#[inline]
pub(super) fn finish(out: &mut [u8], start: usize) {
    let frame = &mut out[start..];
    let body_bytes = u32::try_from(frame.len() - HEADER_BYTES).expect("no body is longer than MAX_MESSAGE_BYTES");
    frame[4..8].copy_from_slice(&body_bytes.to_le_bytes());
    let crc = crc32c::crc32c(&frame[4..]);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
}

/// A message's fields, read without a detour over all that a frame may be: it is what nearly all frames are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) sequence: u64,
    pub(super) timestamp_ns: u64,
    pub(super) tag: u64,
    pub(super) payload: &'a [u8],
}

impl<'a> Message<'a> {
    #[inline]
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, FrameError> {
        let mut fields = Fields(body);
        let (sequence, timestamp_ns, tag) = (fields.u64()?, fields.u64()?, fields.u64()?);
        Ok(Self {
            sequence,
            timestamp_ns,
            tag,
            payload: fields.0,
        })
    }
}

impl ServerFrame<'_> {
    /// Appends the bytes of this frame to `out`. A name or a reason that is too long is cut.
    ///
    /// # Panics
    /// When a payload is longer than 4 GiB.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        match self {
            Self::Hello(hello) => {
                begin(out, Kind::Hello);
                hello.append_body(out);
            }
            Self::Start { first, missed } => append_numbers(out, Kind::Start, &[*first, *missed]),
            Self::Message {
                sequence,
                timestamp_ns,
                tag,
                payload,
            } => {
                begin_message(out, *sequence, *timestamp_ns, *tag);
                out.extend_from_slice(payload);
            }
            Self::Gap { first, missed } => append_numbers(out, Kind::Gap, &[*first, *missed]),
            Self::Heartbeat { head } => append_numbers(out, Kind::Heartbeat, &[*head]),
            Self::End { head } => append_numbers(out, Kind::End, &[*head]),
            Self::Reject { code, reason } => {
                begin(out, Kind::Reject);
                out.extend_from_slice(&code.to_wire().to_le_bytes());
                out.extend_from_slice(cut(reason, MAX_REASON_BYTES).as_bytes());
            }
            Self::Offer(offer) => {
                begin(out, Kind::Offer);
                offer.append_body(out);
            }
            Self::Lease {
                first,
                missed,
                live,
                control,
            } => {
                append_numbers(out, Kind::Lease, &[*first, *missed, *live]);
                out.extend_from_slice(cut(control, MAX_NAME_BYTES).as_bytes());
            }
            Self::Evicted { next } => append_numbers(out, Kind::Evicted, &[*next]),
        }
        finish(out, start);
    }

    /// Reads the body of a frame that a server sent.
    pub(super) fn parse(kind: Kind, body: &[u8]) -> Result<ServerFrame<'_>, FrameError> {
        let mut fields = Fields(body);
        Ok(match kind {
            Kind::Message => {
                let Message {
                    sequence,
                    timestamp_ns,
                    tag,
                    payload,
                } = Message::parse(body)?;
                ServerFrame::Message {
                    sequence,
                    timestamp_ns,
                    tag,
                    payload,
                }
            }
            Kind::Hello => ServerFrame::Hello(Hello::parse(fields)?),
            Kind::Start => ServerFrame::Start {
                first: fields.u64()?,
                missed: fields.u64()?,
            }
            .check_span()?,
            Kind::Gap => ServerFrame::Gap {
                first: fields.u64()?,
                missed: fields.u64()?,
            }
            .check_span()?,
            Kind::Heartbeat => ServerFrame::Heartbeat { head: fields.u64()? },
            Kind::End => ServerFrame::End { head: fields.u64()? },
            Kind::Reject => ServerFrame::Reject {
                code: RejectCode::from_wire(u16::from_le_bytes(fields.array()?)),
                reason: fields.text("reason")?,
            },
            Kind::Offer => ServerFrame::Offer(Offer::parse(fields)?),
            Kind::Lease => ServerFrame::Lease {
                first: fields.u64()?,
                missed: fields.u64()?,
                live: fields.u64()?,
                control: fields.text("name of a control segment")?,
            }
            .check_span()?,
            Kind::Evicted => ServerFrame::Evicted { next: fields.u64()? },
            Kind::Subscribe | Kind::Progress | Kind::Claim => return Err(FrameError::UnknownKind(kind as u8)),
        })
    }

    /// Refuses spans of sequences that no stream has.
    fn check_span(self) -> Result<Self, FrameError> {
        let possible = match self {
            Self::Start { first, missed } | Self::Lease { first, missed, .. } => missed <= first,
            Self::Gap { first, missed } => missed > 0 && first.checked_add(missed).is_some(),
            _ => true,
        };
        if possible {
            Ok(self)
        } else {
            Err(FrameError::Field("number of missed messages"))
        }
    }
}

impl Hello {
    fn append_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&VERSION.to_le_bytes());
        let flags = u16::from(self.closed) | u16::from(self.offers) << 1;
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.connections.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_bytes());
        out.extend_from_slice(&self.head.to_le_bytes());
        out.extend_from_slice(&self.oldest.to_le_bytes());
        out.extend_from_slice(&self.max_message_bytes.to_le_bytes());
        out.extend_from_slice(&self.heartbeat_ms.to_le_bytes());
        out.extend_from_slice(&self.silence_ms.to_le_bytes());
        out.extend_from_slice(cut(&self.name, MAX_NAME_BYTES).as_bytes());
    }

    fn parse(mut fields: Fields<'_>) -> Result<Self, FrameError> {
        fields.version()?;
        let flags = fields.u16()?;
        if flags > 0b11 {
            return Err(FrameError::Field("flags"));
        }
        let connections = fields.u32()?;
        let incarnation = Incarnation::from_bytes(fields.array()?);
        let head = fields.u64()?;
        let oldest = fields.u64()?;
        let max_message_bytes = fields.u32()?;
        let heartbeat_ms = fields.u32()?;
        let silence_ms = fields.u32()?;
        let name = fields.text("name")?;
        if oldest > head {
            return Err(FrameError::Field("oldest sequence"));
        }
        if max_message_bytes as usize > MAX_MESSAGE_BYTES {
            return Err(FrameError::Field("longest message"));
        }
        if heartbeat_ms == 0 || heartbeat_ms >= silence_ms || silence_ms > MAX_DEADLINE_MS {
            return Err(FrameError::Field("heartbeat interval or silence deadline"));
        }
        Ok(Self {
            incarnation,
            head,
            oldest,
            max_message_bytes,
            heartbeat_ms,
            silence_ms,
            connections,
            closed: flags & 0b01 != 0,
            offers: flags & 0b10 != 0,
            name,
        })
    }
}

impl Offer {
    fn append_body(&self, out: &mut Vec<u8>) {
        let patience_ms = match self.policy {
            LosslessPolicy::Block => 0,
            // Zero means for ever, so an instant is a millisecond.
            LosslessPolicy::Evict(patience) => u32::try_from(patience.as_millis()).unwrap_or(u32::MAX).max(1),
        };
        // Without a name there is no holder, and nothing is said of it.
        let named = self.holder.as_ref().filter(|(_, _, who)| !who.is_empty());
        let (held_ms, cursor, who) = named.map_or((0, 0, ""), |(held_ms, cursor, who)| {
            (*held_ms, *cursor, cut(who, MAX_WHO_BYTES))
        });
        out.extend_from_slice(&patience_ms.to_le_bytes());
        out.extend_from_slice(&self.max_subscribers.to_le_bytes());
        out.extend_from_slice(&self.subscribers.to_le_bytes());
        out.extend_from_slice(&held_ms.to_le_bytes());
        out.extend_from_slice(&self.evicted.to_le_bytes());
        out.extend_from_slice(&cursor.to_le_bytes());
        out.extend_from_slice(who.as_bytes());
    }

    fn parse(mut fields: Fields<'_>) -> Result<Self, FrameError> {
        let policy = match fields.u32()? {
            0 => LosslessPolicy::Block,
            patience_ms => LosslessPolicy::Evict(Duration::from_millis(patience_ms.into())),
        };
        let (max_subscribers, subscribers, held_ms) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (evicted, cursor) = (fields.u64()?, fields.u64()?);
        let who = fields.text("name of a subscriber")?;
        if who.is_empty() && (held_ms, cursor) != (0, 0) {
            return Err(FrameError::Field("holder without a name"));
        }
        Ok(Self {
            policy,
            max_subscribers,
            subscribers,
            evicted,
            holder: (!who.is_empty()).then_some((held_ms, cursor, who)),
        })
    }
}

impl ClientFrame {
    /// Appends the bytes of this frame to `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        match self {
            Self::Subscribe { incarnation, join } => {
                begin(out, Kind::Subscribe);
                append_place(out, *incarnation, *join, 0, 0);
            }
            Self::Claim {
                incarnation,
                join,
                memory,
                pid,
            } => {
                begin(out, Kind::Claim);
                append_place(out, *incarnation, *join, u8::from(*memory), *pid);
            }
            Self::Progress { next } => append_numbers(out, Kind::Progress, &[*next]),
        }
        finish(out, start);
    }

    /// Reads the body of a frame that a client sent.
    pub(super) fn parse(kind: Kind, body: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields(body);
        match kind {
            Kind::Subscribe => {
                let (incarnation, join, memory, pid) = fields.place()?;
                if (memory, pid) != (false, 0) {
                    return Err(FrameError::NotZero);
                }
                Ok(Self::Subscribe { incarnation, join })
            }
            Kind::Claim => {
                let (incarnation, join, memory, pid) = fields.place()?;
                Ok(Self::Claim {
                    incarnation,
                    join,
                    memory,
                    pid,
                })
            }
            Kind::Progress => Ok(Self::Progress { next: fields.u64()? }),
            _ => Err(FrameError::UnknownKind(kind as u8)),
        }
    }
}

/// Appends the body that SUBSCRIBE and CLAIM have in common.
fn append_place(out: &mut Vec<u8>, incarnation: Incarnation, join: Join, memory: u8, pid: u32) {
    let (code, value): (u8, u64) = match join {
        Join::New => (0, 0),
        Join::Latest(count) => (1, count),
        Join::Oldest => (2, 0),
        Join::Sequence(sequence) => (3, sequence),
    };
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[code, memory]);
    out.extend_from_slice(&pid.to_le_bytes());
    out.extend_from_slice(&incarnation.to_bytes());
    out.extend_from_slice(&value.to_le_bytes());
}

fn append_numbers(out: &mut Vec<u8>, kind: Kind, numbers: &[u64]) {
    begin(out, kind);
    numbers
        .iter()
        .for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

/// The longest front of `text` that is at most `max_bytes` long and ends where a character does.
fn cut(text: &str, max_bytes: usize) -> &str {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What of a body was not read yet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (front, rest) = self.0.split_first_chunk().ok_or(FrameError::Field("length"))?;
        self.0 = rest;
        Ok(*front)
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    fn version(&mut self) -> Result<(), FrameError> {
        match u16::from_le_bytes(self.array()?) {
            VERSION => Ok(()),
            other => Err(FrameError::Version(other)),
        }
    }

    /// The body of SUBSCRIBE and CLAIM: incarnation, place to join, whether through shared memory, process.
    fn place(&mut self) -> Result<(Incarnation, Join, bool, u32), FrameError> {
        self.version()?;
        let [code, memory] = self.array()?;
        if memory > 1 {
            return Err(FrameError::NotZero);
        }
        let pid = self.u32()?;
        let incarnation = Incarnation::from_bytes(self.array()?);
        let join = match (code, self.u64()?) {
            (0, 0) => Join::New,
            (1, count) => Join::Latest(count),
            (2, 0) => Join::Oldest,
            (3, sequence) => Join::Sequence(sequence),
            _ => return Err(FrameError::Field("place to join")),
        };
        self.end()?;
        Ok((incarnation, join, memory == 1, pid))
    }

    /// Refuses a body that is longer than its fields.
    fn end(&self) -> Result<(), FrameError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(FrameError::Field("length"))
        }
    }

    /// All that is left, as text.
    fn text(&mut self, what: &'static str) -> Result<String, FrameError> {
        std::str::from_utf8(self.0)
            .map(str::to_owned)
            .map_err(|_| FrameError::Field(what))
    }
}

#[cfg(test)]
mod tests;
