//! Bytes in, frames out: puts frames together from whatever pieces the network delivers.
//!
//! ```text
//!   bytes:  | taken | front frame (checked once) | next frames ... | part of a frame |  space  |
//!                   start                                                            end       bytes.len()
//! ```
//!
//! A message's payload is lent from where it was received. The buffer grows to the longest frame that may come,
//! and only as its bytes really arrive: a claimed length alone allocates nothing.

use std::ops::Range;

use super::frame::{ClientFrame, FrameError, HEADER_BYTES, Kind, MAX_CLIENT_BODY_BYTES};
use super::frame::{MAX_GREETING_BODY_BYTES, MESSAGE_FIELD_BYTES, ServerFrame};
use super::wire::{Header, Message, verify};

/// Which peer's frames a [`Decoder`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Server,
    Client,
}

/// The receiving end of one direction of a connection, without the connection.
#[derive(Debug)]
pub struct Decoder {
    sender: Sender,
    /// The longest body that may come, from here on.
    max_body_bytes: usize,
    bytes: Vec<u8>,
    /// Where the first frame that was not taken begins; never more than `end`.
    start: usize,
    /// Where the bytes that were received end; never more than `bytes.len()`.
    end: usize,
    /// The header of the frame at `start`, once all of it is there and its checksum was found right.
    front: Option<Header>,
}

impl Decoder {
    /// A decoder of what a server sends, with `buffer_bytes` to receive into. Until
    /// [`allow_messages`](Self::allow_messages), which follows the HELLO, it takes only short frames.
    #[must_use]
    pub fn of_server(buffer_bytes: usize) -> Self {
        Self::new(Sender::Server, MAX_GREETING_BODY_BYTES, buffer_bytes)
    }

    /// A decoder of what a client sends. It holds 152 bytes and never grows.
    #[must_use]
    pub fn of_client() -> Self {
        Self::new(Sender::Client, MAX_CLIENT_BODY_BYTES, 0)
    }

    fn new(sender: Sender, max_body_bytes: usize, buffer_bytes: usize) -> Self {
        let least = 2 * (HEADER_BYTES + max_body_bytes);
        Self {
            sender,
            max_body_bytes,
            bytes: vec![0; buffer_bytes.max(least)],
            start: 0,
            end: 0,
            front: None,
        }
    }

    /// Takes messages with payloads of up to `max_message_bytes` from here on.
    pub fn allow_messages(&mut self, max_message_bytes: u32) {
        let body_bytes = (max_message_bytes as usize).saturating_add(MESSAGE_FIELD_BYTES);
        self.max_body_bytes = body_bytes.max(MAX_GREETING_BODY_BYTES);
    }

    /// Where the next bytes are to be received; never empty. Follow it with [`received`](Self::received).
    ///
    /// It may move the part of a frame that is left to the front of the buffer, so take all frames first.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.bytes.len() {
            let longest = (HEADER_BYTES + self.max_body_bytes).max(self.bytes.len() + 1);
            self.bytes.resize((2 * self.bytes.len()).min(longest), 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Says that `count` bytes were put at the beginning of [`space`](Self::space).
    ///
    /// # Panics
    /// When there was no space for so many.
    pub fn received(&mut self, count: usize) {
        assert!(
            count <= self.bytes.len() - self.end,
            "no more bytes can be received than there was space for"
        );
        self.end += count;
    }

    /// Appends `bytes` as if they had been received: for callers that have them already.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.received(count);
            bytes = &bytes[count..];
        }
    }

    /// The kind of the frame at the front, once all of it was received and its checksum is right.
    ///
    /// # Errors
    /// What is wrong with it, as early as that can be told. It stays at the front: the connection is to be given up.
    #[inline]
    pub fn front(&mut self) -> Result<Option<Kind>, FrameError> {
        if let Some(header) = self.front {
            return Ok(Some(header.kind));
        }
        let pending = &self.bytes[self.start..self.end];
        let Some(bytes) = pending.first_chunk() else {
            return Ok(None);
        };
        let header = Header::parse(bytes, self.sender == Sender::Client, self.max_body_bytes)?;
        let Some(frame) = pending.get(..HEADER_BYTES + header.body_bytes) else {
            return Ok(None);
        };
        verify(frame)?;
        self.front = Some(header);
        Ok(Some(header.kind))
    }

    /// Takes the frame at the front of what a server sent, or nothing if it is not complete.
    ///
    /// # Errors
    /// As [`front`](Self::front), and when a field has an impossible value.
    #[inline]
    pub fn server_frame(&mut self) -> Result<Option<ServerFrame<'_>>, FrameError> {
        let Some(Taken { kind, at, body }) = self.take()? else {
            return Ok(None);
        };
        let frame = ServerFrame::parse(kind, &self.bytes[body]).map(Some);
        frame.inspect_err(|_| self.start = at)
    }

    /// Takes the frame at the front of what a client sent, or nothing if it is not complete.
    ///
    /// # Errors
    /// As [`front`](Self::front), and when a field has an impossible value.
    pub fn client_frame(&mut self) -> Result<Option<ClientFrame>, FrameError> {
        let Some(Taken { kind, at, body }) = self.take()? else {
            return Ok(None);
        };
        let frame = ClientFrame::parse(kind, &self.bytes[body]).map(Some);
        frame.inspect_err(|_| self.start = at)
    }

    /// Takes the message at the front, or nothing if no whole frame is there. To be called when that is a message.
    #[inline]
    pub(super) fn message(&mut self) -> Result<Option<Message<'_>>, FrameError> {
        match self.take()? {
            Some(Taken {
                kind: Kind::Message,
                body,
                ..
            }) => Message::parse(&self.bytes[body]).map(Some),
            Some(Taken { kind, .. }) => Err(FrameError::UnknownKind(kind as u8)),
            None => Ok(None),
        }
    }

    /// Takes the frame at the front. One whose fields turn out to be impossible is to be put back, by its `at`.
    #[inline]
    fn take(&mut self) -> Result<Option<Taken>, FrameError> {
        self.front()?;
        let Some(header) = self.front.take() else {
            return Ok(None);
        };
        let at = self.start;
        let body = at + HEADER_BYTES..at + HEADER_BYTES + header.body_bytes;
        self.start = body.end;
        Ok(Some(Taken {
            kind: header.kind,
            at,
            body,
        }))
    }
}

/// A frame that was taken: where it begins in the buffer, and where its body lies.
struct Taken {
    kind: Kind,
    at: usize,
    body: Range<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::frame::{Hello, MAX_MESSAGE_BYTES, RejectCode};
    use crate::{Incarnation, Join};
    use proptest::prelude::*;

    /// Any text without control characters; Miri would take half a minute to compile the pattern.
    const TEXT: &str = if cfg!(miri) { "[a-z\u{e4}]{0,60}" } else { "\\PC{0,60}" };

    /// The longest message that decoders of servers take here. Bytes that are filled in cost Miri a lot.
    const LONGEST: usize = if cfg!(miri) { 600 } else { 4096 };

    fn bytes_of(frames: &[ServerFrame<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.append_to(&mut bytes));
        bytes
    }

    fn server_decoder() -> Decoder {
        let mut decoder = Decoder::of_server(0);
        decoder.allow_messages(LONGEST as u32);
        decoder
    }

    /// A frame that owns its payload, since strategies cannot lend.
    #[derive(Debug, Clone)]
    enum Sent {
        Frame(ServerFrame<'static>),
        Message(u64, u64, u64, Vec<u8>),
    }

    impl Sent {
        fn frame(&self) -> ServerFrame<'_> {
            match self {
                Self::Frame(frame) => frame.clone(),
                Self::Message(sequence, timestamp_ns, tag, payload) => ServerFrame::Message {
                    sequence: *sequence,
                    timestamp_ns: *timestamp_ns,
                    tag: *tag,
                    payload,
                },
            }
        }
    }

    prop_compose! {
        fn hello()(
            incarnation in any::<[u8; 16]>(), oldest in any::<u32>(), more in any::<u32>(), connections in any::<u32>(),
            max_message_bytes in 0..=u32::try_from(MAX_MESSAGE_BYTES).unwrap(),
            heartbeat_ms in 1..60_000_u32, longer in 1..60_000_u32, closed in any::<bool>(), offers in any::<bool>(), name in TEXT,
        ) -> Hello {
            Hello {
                incarnation: Incarnation::from_bytes(incarnation),
                head: u64::from(oldest) + u64::from(more),
                oldest: u64::from(oldest),
                max_message_bytes, heartbeat_ms, silence_ms: heartbeat_ms + longer, connections, closed, offers, name,
            }
        }
    }

    fn sent() -> impl Strategy<Value = Sent> {
        prop_oneof![
            hello().prop_map(|hello| Sent::Frame(ServerFrame::Hello(hello))),
            (
                any::<u64>(),
                any::<u64>(),
                any::<u64>(),
                prop::collection::vec(any::<u8>(), 0..600)
            )
                .prop_map(|(sequence, time, tag, payload)| Sent::Message(sequence, time, tag, payload)),
            (any::<u32>(), any::<u32>()).prop_map(|(first, missed)| Sent::Frame(ServerFrame::Start {
                first: u64::from(first) + u64::from(missed),
                missed: u64::from(missed)
            })),
            (any::<u32>(), 1..u64::MAX >> 1).prop_map(|(first, missed)| Sent::Frame(ServerFrame::Gap {
                first: u64::from(first),
                missed
            })),
            any::<u64>().prop_map(|head| Sent::Frame(ServerFrame::Heartbeat { head })),
            any::<u64>().prop_map(|head| Sent::Frame(ServerFrame::End { head })),
            TEXT.prop_map(|reason| Sent::Frame(ServerFrame::Reject {
                code: RejectCode::Other(99),
                reason
            })),
        ]
    }

    fn join() -> impl Strategy<Value = Join> {
        prop_oneof![
            Just(Join::New),
            any::<u64>().prop_map(Join::Latest),
            Just(Join::Oldest),
            any::<u64>().prop_map(Join::Sequence),
        ]
    }

    proptest! {
        #[test]
        fn frames_arrive_as_they_were_sent_however_they_are_split(
            sent in prop::collection::vec(sent(), 1..if cfg!(miri) { 4 } else { 12 }),
            pieces in prop::collection::vec(1..700_usize, 1..40),
        ) {
            let frames: Vec<_> = sent.iter().map(Sent::frame).collect();
            let bytes = bytes_of(&frames);
            let mut decoder = server_decoder();
            let mut expected = frames.iter();

            let mut rest = &bytes[..];
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                decoder.push(now);
                while let Some(frame) = decoder.server_frame().unwrap() {
                    prop_assert_eq!(Some(&frame), expected.next());
                }
                rest = later;
                if rest.is_empty() { break; }
            }

            prop_assert!(expected.next().is_none());
        }

        #[test]
        fn client_frames_arrive_as_they_were_sent(incarnation in any::<[u8; 16]>(), join in join(), next in any::<u64>()) {
            let subscribe = ClientFrame::Subscribe { incarnation: Incarnation::from_bytes(incarnation), join };
            let progress = ClientFrame::Progress { next };
            let mut bytes = Vec::new();
            subscribe.append_to(&mut bytes);
            progress.append_to(&mut bytes);
            let mut decoder = Decoder::of_client();
            let mut seen = Vec::new();

            for byte in bytes {
                decoder.push(&[byte]);
                seen.extend(decoder.client_frame().unwrap());
            }

            prop_assert_eq!(seen, [subscribe, progress]);
        }

        #[test]
        fn one_wrong_byte_never_passes(sent in sent(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let mut bytes = bytes_of(&[sent.frame()]);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            // A length that grew waits for more; more must not make it whole.
            bytes.resize(bytes.len() + 2 * LONGEST, 0);
            let mut decoder = server_decoder();

            decoder.push(&bytes);

            prop_assert!(decoder.server_frame().is_err());
        }

        #[test]
        fn garbage_ends_in_an_error_or_waits_and_the_buffer_stays_bounded(
            garbage in prop::collection::vec(any::<u8>(), 0..400), zero_header in any::<bool>(), kind in 0..9_u8,
        ) {
            let mut garbage = garbage;
            if zero_header && garbage.len() >= HEADER_BYTES {
                garbage[6..HEADER_BYTES].copy_from_slice(&[0, 0, kind, 0, 0, 0]);
            }
            for mut decoder in [Decoder::of_client(), server_decoder()] {
                decoder.push(&garbage);
                let outcome = if decoder.sender == Sender::Client {
                    decoder.client_frame().map(|frame| frame.is_some())
                } else {
                    decoder.server_frame().map(|frame| frame.is_some())
                };

                prop_assert!(!matches!(outcome, Ok(true)), "garbage became a frame");
            }
        }

        #[test]
        fn any_body_with_a_right_checksum_is_decoded_or_refused(
            body in prop::collection::vec(any::<u8>(), 0..80), kind in prop::sample::select(
                &[0x01_u8, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x81, 0x82][..]),
        ) {
            let mut frame = vec![0; HEADER_BYTES];
            frame[8] = kind;
            frame.extend_from_slice(&body);
            crate::socket::wire::finish(&mut frame, 0);

            let mut of_server = server_decoder();
            of_server.push(&frame);
            let mut of_client = Decoder::of_client();
            of_client.push(&frame);

            // Reaching here without a panic is the claim; a refusal must come without waiting for more.
            prop_assert!(!matches!(of_server.server_frame(), Ok(None)));
            prop_assert!(!matches!(of_client.client_frame(), Ok(None)));
        }
    }

    #[test]
    fn length_beyond_what_the_hello_allowed_is_refused_by_the_header_alone() {
        let mut bytes = Vec::new();
        ServerFrame::Message {
            sequence: 0,
            timestamp_ns: 0,
            tag: 0,
            payload: &[7; LONGEST + 1],
        }
        .append_to(&mut bytes);
        let mut decoder = server_decoder();

        decoder.push(&bytes[..HEADER_BYTES]);

        let refused = FrameError::BodyLength {
            kind: Kind::Message,
            body_bytes: LONGEST as u32 + 1 + 24,
        };
        assert_eq!(decoder.server_frame(), Err(refused));
    }

    #[test]
    fn claimed_length_allocates_nothing_before_its_bytes_arrive() {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..8].copy_from_slice(&(1_u32 << 29).to_le_bytes());
        bytes[8] = Kind::Message as u8;
        let mut decoder = Decoder::of_server(0);
        decoder.allow_messages(1 << 30);

        decoder.push(&bytes);

        assert_eq!(decoder.server_frame(), Ok(None));
        assert!(decoder.space().len() < 4096);
    }

    #[test]
    fn nothing_is_read_behind_a_frame_with_an_impossible_field() {
        let impossible = ServerFrame::Gap { first: 7, missed: 0 };
        let mut of_server = server_decoder();
        of_server.push(&bytes_of(&[impossible, ServerFrame::Heartbeat { head: 8 }]));
        // The code of a place to join that there is not.
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[8] = Kind::Subscribe as u8;
        bytes.extend_from_slice(&[1, 0, 9]);
        bytes.resize(HEADER_BYTES + 32, 0);
        crate::socket::wire::finish(&mut bytes, 0);
        ClientFrame::Progress { next: 8 }.append_to(&mut bytes);
        let mut of_client = Decoder::of_client();
        of_client.push(&bytes);

        for _ in 0..3 {
            let refused = FrameError::Field("number of missed messages");
            assert_eq!(of_server.server_frame(), Err(refused));
            assert_eq!(of_client.client_frame(), Err(FrameError::Field("place to join")));
        }
    }

    #[test]
    fn frame_of_the_other_direction_is_refused() {
        let mut bytes = Vec::new();
        ClientFrame::Progress { next: 3 }.append_to(&mut bytes);
        let mut decoder = server_decoder();

        decoder.push(&bytes);

        assert_eq!(decoder.server_frame(), Err(FrameError::UnknownKind(0x82)));
    }

    #[test]
    fn another_version_is_told_apart_from_garbage() {
        let mut subscribe = vec![0; HEADER_BYTES];
        subscribe[8] = Kind::Subscribe as u8;
        subscribe.extend_from_slice(&[2, 0, 9, 9, 9]);
        crate::socket::wire::finish(&mut subscribe, 0);
        let mut decoder = Decoder::of_client();

        decoder.push(&subscribe);

        assert_eq!(decoder.client_frame(), Err(FrameError::Version(2)));
    }
}
