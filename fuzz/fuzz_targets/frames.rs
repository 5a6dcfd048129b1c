//! The frames on TCP, both directions: however the bytes are split and whenever frames are asked for, the same frames
//! come out, and what comes out has the bytes that went in.
//!
//! Input: one byte of flags (1: sent by a client, 2: give the frames checksums that fit, 4: make frames of the rest), one
//! with the number of cuts, the cuts (6 bits: the length of a piece; 128: frames are asked for behind it), then the stream,
//! or what its frames are to be.
#![no_main]

use std::time::Duration;

use lapwing::ring::fuzzing::Orders;
use lapwing::socket::Decoder;
use lapwing::socket::frame::{
    ClientFrame, FrameError, HEADER_BYTES, Hello, MAX_DEADLINE_MS, MAX_MESSAGE_BYTES, Offer, RejectCode, ServerFrame,
};
use lapwing::{Incarnation, Join, LosslessPolicy};
use libfuzzer_sys::fuzz_target;

/// The bytes of all frames that were decoded, and the error that ended it.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    bytes: Vec<u8>,
    error: Option<FrameError>,
}

/// Takes the frame at the front and appends its bytes to `bytes`. Whether there was one.
fn take(decoder: &mut Decoder, from_client: bool, bytes: &mut Vec<u8>) -> Result<bool, FrameError> {
    let at_front = decoder.front();
    let mut longest = None;
    let taken = if from_client {
        decoder
            .client_frame()
            .map(|frame| frame.map(|frame| frame.append_to(bytes)))
    } else {
        decoder.server_frame().map(|frame| {
            frame.map(|frame| {
                if let ServerFrame::Hello(hello) = &frame {
                    longest = Some(hello.max_message_bytes);
                }
                frame.append_to(bytes);
            })
        })
    };
    longest.inspect(|&longest| decoder.allow_messages(longest));
    match at_front {
        Ok(kind) => assert!(kind.is_some() || taken == Ok(None)),
        Err(error) => assert_eq!(taken, Err(error)),
    }
    taken.map(|frame| frame.is_some())
}

fn decode(mut stream: &[u8], from_client: bool, cuts: &[u8]) -> Decoded {
    let mut decoder = if from_client {
        Decoder::of_client()
    } else {
        Decoder::of_server(0)
    };
    let mut bytes = Vec::new();
    let mut cuts = cuts.iter();
    while !stream.is_empty() {
        // Without a cut, the rest at once.
        let (len, asks) = cuts
            .next()
            .map_or((usize::MAX, true), |&cut| (usize::from(cut & 63) + 1, cut & 128 != 0));
        let (piece, rest) = stream.split_at(len.min(stream.len()));
        decoder.push(piece);
        stream = rest;
        while asks || stream.is_empty() {
            match take(&mut decoder, from_client, &mut bytes) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    // Nothing is read behind an error, whatever comes.
                    decoder.push(rest);
                    for _ in 0..2 {
                        assert_eq!(take(&mut decoder, from_client, &mut bytes), Err(error));
                    }
                    return Decoded {
                        bytes,
                        error: Some(error),
                    };
                }
            }
        }
        // What was only announced takes no room.
        let room = decoder.space().len();
        assert!(room > 0 && room <= 2 * (piece.len() + cuts.len() * 64) + 2 * bytes.len() + 4096);
    }
    Decoded { bytes, error: None }
}

/// Gives every frame the checksum that fits.
fn mend(mut stream: &mut [u8]) {
    while let Some(&[_, _, _, _, a, b, c, d]) = stream.first_chunk::<8>() {
        let len = HEADER_BYTES.saturating_add(u32::from_le_bytes([a, b, c, d]) as usize);
        let Some((frame, rest)) = stream.split_at_mut_checked(len) else {
            return;
        };
        let checksum = crc32c::crc32c(&frame[4..]);
        frame[..4].copy_from_slice(&checksum.to_le_bytes());
        stream = rest;
    }
}

/// Some text, short enough for every field.
fn text(orders: &mut Orders<'_>) -> String {
    let count = usize::from(orders.byte() & 63);
    String::from_utf8_lossy(orders.bytes(count)).into_owned()
}

fn incarnation(orders: &mut Orders<'_>) -> Incarnation {
    Incarnation::from_bytes(std::array::from_fn(|_| orders.byte()))
}

/// A number of any size.
fn number(orders: &mut Orders<'_>) -> u64 {
    let shift = orders.byte();
    match shift >> 6 {
        0 => u64::from(orders.byte()),
        1 => u64::MAX - u64::from(orders.byte()),
        _ => orders.u64() >> (shift & 63),
    }
}

fn small_number(orders: &mut Orders<'_>) -> u32 {
    (number(orders) >> 32) as u32
}

/// Two numbers, the second not above the first.
fn span(orders: &mut Orders<'_>) -> (u64, u64) {
    let (one, other) = (number(orders), number(orders));
    (one.max(other), one.min(other))
}

/// Any frame that a server may send.
fn server_frame<'a>(orders: &mut Orders<'a>) -> ServerFrame<'a> {
    match orders.byte() % 10 {
        0 => {
            let (shape, (head, oldest)) = (orders.byte(), span(orders));
            let silence_ms = (small_number(orders) % MAX_DEADLINE_MS).max(1) + 1;
            ServerFrame::Hello(Hello {
                incarnation: incarnation(orders),
                head,
                oldest,
                max_message_bytes: small_number(orders) % (MAX_MESSAGE_BYTES as u32 + 1),
                heartbeat_ms: small_number(orders) % (silence_ms - 1) + 1,
                silence_ms: silence_ms.min(MAX_DEADLINE_MS),
                connections: small_number(orders),
                closed: shape & 1 != 0,
                offers: shape & 2 != 0,
                name: text(orders),
            })
        }
        1 => {
            let (first, missed) = span(orders);
            ServerFrame::Start { first, missed }
        }
        2 => {
            let count = orders.byte().into();
            ServerFrame::Message {
                sequence: number(orders),
                timestamp_ns: number(orders),
                tag: number(orders),
                payload: orders.bytes(count),
            }
        }
        3 => {
            let (end, first) = span(orders);
            ServerFrame::Gap {
                first: first.min(u64::MAX - 1),
                missed: (end - first).max(1),
            }
        }
        4 => ServerFrame::Heartbeat { head: number(orders) },
        5 => ServerFrame::End { head: number(orders) },
        6 => ServerFrame::Reject {
            // Of a code that has a name, that is what comes back.
            code: [
                RejectCode::NotOffered,
                RejectCode::TooManyClaims,
                RejectCode::NoControl,
                RejectCode::Other(orders.u16() | 16),
            ][usize::from(orders.byte() & 3)],
            reason: text(orders),
        },
        7 => {
            let who = text(orders);
            ServerFrame::Offer(Offer {
                policy: match small_number(orders) {
                    0 => LosslessPolicy::Block,
                    patience_ms => LosslessPolicy::Evict(Duration::from_millis(patience_ms.into())),
                },
                max_subscribers: small_number(orders),
                subscribers: small_number(orders),
                evicted: number(orders),
                holder: (!who.is_empty()).then(|| (small_number(orders), number(orders), who)),
            })
        }
        8 => {
            let (first, missed) = span(orders);
            ServerFrame::Lease {
                first,
                missed,
                live: number(orders),
                control: text(orders),
            }
        }
        _ => ServerFrame::Evicted { next: number(orders) },
    }
}

/// Any frame that a client may send.
fn client_frame(orders: &mut Orders<'_>) -> ClientFrame {
    let shape = orders.byte();
    let join = match shape >> 2 & 3 {
        0 => Join::New,
        1 => Join::Latest(number(orders)),
        2 => Join::Oldest,
        _ => Join::Sequence(number(orders)),
    };
    match shape & 3 {
        0 => ClientFrame::Subscribe {
            incarnation: incarnation(orders),
            join,
        },
        1 => ClientFrame::Progress { next: number(orders) },
        _ => ClientFrame::Claim {
            incarnation: incarnation(orders),
            join,
            memory: shape & 0x10 != 0,
            pid: small_number(orders),
        },
    }
}

/// The bytes of some frames, each of which was read back as it was.
fn frames(bytes: &[u8], from_client: bool) -> Vec<u8> {
    let mut orders = Orders::new(bytes);
    let mut stream = Vec::new();
    while !orders.is_empty() {
        let start = stream.len();
        if from_client {
            let frame = client_frame(&mut orders);
            frame.append_to(&mut stream);
            let mut decoder = Decoder::of_client();
            decoder.push(&stream[start..]);
            assert_eq!(decoder.client_frame(), Ok(Some(frame)));
        } else {
            let frame = server_frame(&mut orders);
            frame.append_to(&mut stream);
            let mut decoder = Decoder::of_server(0);
            decoder.push(&stream[start..]);
            assert_eq!(decoder.server_frame(), Ok(Some(frame)));
        }
    }
    stream
}

fuzz_target!(|input: &[u8]| {
    let Some((&[flags, count], rest)) = input.split_first_chunk() else {
        return;
    };
    let (cuts, stream) = rest.split_at(usize::from(count).min(rest.len()));
    let from_client = flags & 1 != 0;
    let mut stream = if flags & 4 != 0 {
        frames(stream, from_client)
    } else {
        stream.to_vec()
    };
    if flags & 2 != 0 {
        mend(&mut stream);
    }

    let whole = decode(&stream, from_client, &[]);
    let split = decode(&stream, from_client, cuts);

    assert!(stream.starts_with(&whole.bytes), "re-encoded to other bytes");
    assert_eq!(whole, split);
});
