//! A subscriber over TCP whose server says anything, and a model of what it must make of that.

use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use super::{OTHERS, OURS, pair, write_some};
use crate::ring::MAX_SEQUENCE;
use crate::ring::fuzzing::Orders;
use crate::socket::frame::{HEADER_BYTES, Hello, RejectCode, ServerFrame};
use crate::socket::greeting::{Greeting, Request};
use crate::socket::{Decoder, Delivery, RemoteError, RemoteSubscriber};
use crate::{Incarnation, Join, Poll};

/// What a subscriber told, without its reading closure.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Message {
        sequence: u64,
        timestamp_ns: u64,
        tag: u64,
        payload: Vec<u8>,
    },
    Lost {
        first: u64,
        missed: u64,
    },
    Ended,
    Failed,
}

/// What a server says, right or wrong.
fn script(orders: &mut Orders<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let shape = orders.byte();
    let mut cursor = match shape & 3 {
        0 => 0,
        1 => u64::from(orders.u16()),
        2 => MAX_SEQUENCE - u64::from(orders.byte()),
        _ => orders.u64(),
    };
    let missed = u64::from(shape >> 2 & 3);
    if shape & 0x10 == 0 {
        ServerFrame::Hello(hello(orders)).append_to(&mut bytes);
    }
    if shape & 0x20 == 0 {
        ServerFrame::Start { first: cursor, missed }.append_to(&mut bytes);
    }
    while !orders.is_empty() && bytes.len() < 48 << 10 {
        let order = orders.byte();
        match order & 15 {
            15 if order & 0x10 == 0 => bytes.extend_from_slice(orders.bytes(usize::from(order >> 5))),
            15 => {
                let index = usize::from(orders.u16()) % bytes.len().max(1);
                let spoilt = bytes.iter_mut().skip(index).take(1);
                spoilt.for_each(|byte| *byte ^= 1 << (order >> 5));
            }
            _ => cursor = cursor.wrapping_add(append_frame(order, cursor, orders, &mut bytes)),
        }
    }
    bytes
}

/// Appends the frame that `order` asks for, mostly where it belongs. Returns how far it moves the cursor.
fn append_frame(order: u8, cursor: u64, orders: &mut Orders<'_>, bytes: &mut Vec<u8>) -> u64 {
    let at = cursor.wrapping_add(if order & 0xc0 == 0xc0 { orders.byte().into() } else { 0 });
    let (frame, moves) = match order & 15 {
        kind @ 0..=6 => {
            let payload = if kind == 6 {
                &[7; 3000]
            } else {
                orders.bytes(usize::from(order >> 4 & 3) * 9)
            };
            let message = ServerFrame::Message {
                sequence: at,
                timestamp_ns: at ^ 7,
                tag: !at,
                payload,
            };
            (message, 1)
        }
        7 | 8 => {
            let missed = u64::from(orders.byte()) << (order >> 4 & 3);
            (ServerFrame::Gap { first: at, missed }, missed)
        }
        9 | 10 => (ServerFrame::Heartbeat { head: orders.u64() }, 0),
        11 => (ServerFrame::End { head: at }, 0),
        12 => {
            let reject = ServerFrame::Reject {
                code: RejectCode::Silent,
                reason: "\u{1b}[2J".to_owned(),
            };
            (reject, 0)
        }
        13 => (ServerFrame::Start { first: at, missed: 0 }, 0),
        _ => (ServerFrame::Hello(hello(orders)), 0),
    };
    frame.append_to(bytes);
    moves
}

fn hello(orders: &mut Orders<'_>) -> Hello {
    let (oldest, shape) = (u64::from(orders.byte()), orders.byte());
    Hello {
        incarnation: if shape & 3 == 3 { OTHERS } else { OURS },
        head: oldest.wrapping_add(u64::from(shape >> 2 & 7)).wrapping_sub(1),
        oldest,
        max_message_bytes: 1 << (shape >> 5 << 1),
        heartbeat_ms: 60_000,
        silence_ms: 600_000,
        connections: shape.into(),
        closed: shape & 4 != 0,
        offers: false,
        name: "prices".to_owned(),
    }
}

/// What a subscriber must make of `bytes`; `None` if it may be so impatient that the clock has a say.
fn expected(bytes: &[u8], request: Request) -> Option<Vec<Told>> {
    let mut told = Vec::new();
    let mut decoder = Decoder::of_server(bytes.len() + HEADER_BYTES);
    decoder.push(bytes);
    let Ok(Some(ServerFrame::Hello(hello))) = decoder.server_frame() else {
        return Some(vec![Told::Failed]);
    };
    if hello.heartbeat_ms < 30_000 {
        return None;
    }
    decoder.allow_messages(hello.max_message_bytes);
    let is_expected = request.expected == Incarnation::NIL || request.expected == hello.incarnation;
    let mut cursor = match decoder.server_frame() {
        Ok(Some(ServerFrame::Start { first, missed })) if is_expected && first <= MAX_SEQUENCE => {
            if let Join::Sequence(wanted) = request.join
                && request.meant == hello.incarnation
                && first - missed != wanted.min(MAX_SEQUENCE)
            {
                return Some(vec![Told::Failed]);
            }
            if missed > 0 {
                told.push(Told::Lost {
                    first: first - missed,
                    missed,
                });
            }
            first
        }
        _ => return Some(vec![Told::Failed]),
    };
    loop {
        let next = match decoder.server_frame() {
            Ok(Some(ServerFrame::Heartbeat { .. })) => continue,
            Ok(Some(ServerFrame::Message {
                sequence,
                timestamp_ns,
                tag,
                payload,
            })) if sequence == cursor && sequence < MAX_SEQUENCE => {
                cursor += 1;
                Told::Message {
                    sequence,
                    timestamp_ns,
                    tag,
                    payload: payload.to_vec(),
                }
            }
            Ok(Some(ServerFrame::Gap { first, missed })) if first == cursor && missed <= MAX_SEQUENCE - cursor => {
                cursor += missed;
                Told::Lost { first, missed }
            }
            Ok(Some(ServerFrame::End { head })) if head <= cursor => Told::Ended,
            _ => Told::Failed,
        };
        let is_over = matches!(next, Told::Ended | Told::Failed);
        told.push(next);
        if is_over {
            return Some(told);
        }
    }
}

/// The bytes of the first two frames, as far as there are so many.
fn greeting_bytes(bytes: &[u8]) -> Option<usize> {
    let mut end = 0_usize;
    for _ in 0..2 {
        let header = bytes.get(end..)?.first_chunk::<HEADER_BYTES>()?;
        let body = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        end = end.checked_add(HEADER_BYTES)?.checked_add(body as usize)?;
    }
    (end <= bytes.len()).then_some(end)
}

/// Polls once and notes what was told. Whether there may be more.
fn poll_once(subscriber: &mut RemoteSubscriber, waits: bool, told: &mut Vec<Told>) -> bool {
    let (wanted, head) = (subscriber.cursor(), subscriber.head());
    let outcome = if waits {
        subscriber.receive(Duration::ZERO, <[u8]>::to_vec)
    } else {
        subscriber.poll(<[u8]>::to_vec)
    };
    let (next, moved_to) = match outcome {
        Ok(Poll::Message(message)) => {
            assert_eq!((message.sequence, message.len), (wanted, message.value.len()));
            let next = Told::Message {
                sequence: wanted,
                timestamp_ns: message.timestamp_ns,
                tag: message.tag,
                payload: message.value,
            };
            (Some(next), wanted + 1)
        }
        Ok(Poll::Lapped { first, missed }) => {
            assert!(first == wanted && missed > 0);
            (Some(Told::Lost { first, missed }), wanted + missed)
        }
        Ok(Poll::Empty) => (None, wanted),
        Ok(Poll::Ended) => (Some(Told::Ended), wanted),
        Ok(other) => panic!("{other:?} over a socket"),
        Err(error) => {
            assert!(
                !matches!(error, RemoteError::Io(_) | RemoteError::Silent { .. }),
                "{error:?}"
            );
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
            (Some(Told::Failed), wanted)
        }
    };
    assert_eq!(subscriber.cursor(), moved_to);
    assert!(subscriber.head() >= head && subscriber.head() >= moved_to && moved_to <= MAX_SEQUENCE);
    let may_go_on = matches!(next, Some(Told::Message { .. } | Told::Lost { .. }));
    told.extend(next);
    may_go_on
}

/// What a subscriber makes of `bytes` that come in pieces of the lengths that `cuts` says, and the rest at once.
fn follow(mut bytes: &[u8], request: Request, cuts: &mut Orders<'_>) -> Vec<Told> {
    let (near, far) = pair();
    // Nobody sends anything while the greeting waits, so it has to find all that there will be.
    let greeting = greeting_bytes(bytes).unwrap_or(bytes.len());
    let mut send = |count: usize| {
        let (piece, rest) = bytes.split_at(count.min(bytes.len()));
        assert_eq!(write_some(&far, piece), piece.len(), "the socket takes all of a script");
        bytes = rest;
        if rest.is_empty() {
            let _ = far.shutdown(Shutdown::Write);
        }
        rest.is_empty()
    };
    let mut is_sent = send(greeting + usize::from(cuts.byte()));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut subscriber = match Greeting::on(near, address, deadline).agree(request) {
        Ok(agreed) => RemoteSubscriber::new(address, Delivery::Lossy, agreed),
        Err(error) => {
            assert!(
                !matches!(error, RemoteError::Io(_) | RemoteError::TimedOut { .. }),
                "{error:?}"
            );
            return vec![Told::Failed];
        }
    };
    let mut told = Vec::new();
    loop {
        let cut = cuts.byte();
        for _ in 0..if is_sent { 64 } else { cut >> 6 } {
            poll_once(&mut subscriber, cut & 1 == 1, &mut told);
            match told.last() {
                Some(Told::Ended) => {
                    assert!(subscriber.has_ended() && matches!(subscriber.poll(|_| ()), Ok(Poll::Ended)));
                    return told;
                }
                Some(Told::Failed) => return told,
                _ => {}
            }
        }
        let piece = usize::from(cut & 31) * if cut & 32 == 0 { 1 } else { 100 } + 1;
        is_sent = is_sent || send(if cuts.is_empty() { usize::MAX } else { piece });
    }
}

/// Lets a subscriber follow a server that says what `orders` tell, and panics if it tells anything but what it must, or
/// if that depends on the pieces in which it arrived.
pub fn subscribe(orders: &[u8]) {
    let mut orders = Orders::new(orders);
    let wish = orders.byte();
    let count = usize::from(orders.byte() & 31);
    let cuts = orders.bytes(count);
    let request = Request {
        expected: if wish & 3 == 3 { OURS } else { Incarnation::NIL },
        meant: if wish & 4 == 0 { Incarnation::NIL } else { OURS },
        join: match wish >> 3 & 3 {
            0 => Join::New,
            1 => Join::Oldest,
            2 => Join::Sequence(u64::from(orders.byte())),
            _ => Join::Sequence(orders.u64()),
        },
        delivery: Delivery::Lossy,
    };
    let bytes = script(&mut orders);
    let Some(expected) = expected(&bytes, request) else {
        return;
    };
    for cuts in [cuts, &[]] {
        assert_eq!(follow(&bytes, request, &mut Orders::new(cuts)), expected);
    }
}
