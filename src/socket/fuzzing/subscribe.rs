//! A subscriber over TCP whose server says anything, and a model of what it must make of that.

use std::io::Read;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{OTHERS, OURS, pair, write_some};
use crate::gate::LosslessPolicy;
use crate::ring::MAX_SEQUENCE;
use crate::ring::fuzzing::Orders;
use crate::socket::frame::{ClientFrame, HEADER_BYTES, Hello, Offer, RejectCode, ServerFrame};
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
    /// What follows may have gaps.
    Evicted,
    /// The greeting of who reads through shared memory.
    Leased {
        first: u64,
        missed: u64,
        live: u64,
        control: String,
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
        let hello = hello(orders);
        // Nearly always where the HELLO says so.
        let offers = hello.offers != (shape & 0xc0 == 0xc0);
        ServerFrame::Hello(hello).append_to(&mut bytes);
        if offers {
            ServerFrame::Offer(offer(orders)).append_to(&mut bytes);
        }
    }
    match shape & 0xe0 {
        0x20 | 0x60 | 0xa0 => {}
        0x40 => lease(cursor, missed, orders).append_to(&mut bytes),
        _ => ServerFrame::Start { first: cursor, missed }.append_to(&mut bytes),
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
        9 => (ServerFrame::Heartbeat { head: orders.u64() }, 0),
        10 => (ServerFrame::Evicted { next: at }, 0),
        11 => (ServerFrame::End { head: at }, 0),
        12 if order & 0x10 == 0 => (ServerFrame::Offer(offer(orders)), 0),
        12 => {
            let reject = ServerFrame::Reject {
                code: RejectCode::Silent,
                reason: "\u{1b}[2J".to_owned(),
            };
            (reject, 0)
        }
        13 if order & 0x10 == 0 => (lease(at, 0, orders), 0),
        13 => (ServerFrame::Start { first: at, missed: 0 }, 0),
        _ => (ServerFrame::Hello(hello(orders)), 0),
    };
    frame.append_to(bytes);
    moves
}

fn offer(orders: &mut Orders<'_>) -> Offer {
    let shape = orders.byte();
    Offer {
        policy: match shape & 1 {
            0 => LosslessPolicy::Block,
            _ => LosslessPolicy::Evict(Duration::from_millis(1)),
        },
        max_subscribers: u32::from(shape >> 1 & 3),
        subscribers: shape.into(),
        evicted: shape.into(),
        holder: (shape & 8 != 0).then(|| (7, orders.u64(), "127.0.0.1:1".to_owned())),
    }
}

fn lease(first: u64, missed: u64, orders: &mut Orders<'_>) -> ServerFrame<'static> {
    ServerFrame::Lease {
        first,
        missed,
        live: orders.u64(),
        control: "/lapwing-0".to_owned(),
    }
}

fn hello(orders: &mut Orders<'_>) -> Hello {
    let (oldest, shape, offers) = (u64::from(orders.byte()), orders.byte(), orders.byte() & 1 != 0);
    Hello {
        incarnation: if shape & 3 == 3 { OTHERS } else { OURS },
        head: oldest.wrapping_add(u64::from(shape >> 2 & 7)).wrapping_sub(1),
        oldest,
        max_message_bytes: 1 << (shape >> 5 << 1),
        heartbeat_ms: 60_000,
        silence_ms: 600_000,
        connections: shape.into(),
        closed: shape & 4 != 0,
        offers,
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
    if hello.offers && !matches!(decoder.server_frame(), Ok(Some(ServerFrame::Offer(_)))) {
        return Some(vec![Told::Failed]);
    }
    decoder.allow_messages(hello.max_message_bytes);
    let is_expected = request.expected == Incarnation::NIL || request.expected == hello.incarnation;
    let is_offered = request.delivery == Delivery::Lossy || hello.offers;
    let (mut cursor, missed, lease) = match (decoder.server_frame(), request.delivery == Delivery::Leased) {
        (Ok(Some(ServerFrame::Start { first, missed })), false) => (first, missed, None),
        (
            Ok(Some(ServerFrame::Lease {
                first,
                missed,
                live,
                control,
            })),
            true,
        ) => (first, missed, Some((live, control))),
        _ => return Some(vec![Told::Failed]),
    };
    let is_elsewhere = matches!(request.join, Join::Sequence(wanted)
        if request.meant == hello.incarnation && cursor - missed != wanted.min(MAX_SEQUENCE));
    if !is_expected || !is_offered || cursor > MAX_SEQUENCE || is_elsewhere {
        return Some(vec![Told::Failed]);
    }
    if let Some((live, control)) = lease {
        return Some(vec![Told::Leased {
            first: cursor,
            missed,
            live,
            control,
        }]);
    }
    if missed > 0 {
        told.push(Told::Lost {
            first: cursor - missed,
            missed,
        });
    }
    let mut is_lossless = request.delivery == Delivery::Lossless;
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
            Ok(Some(ServerFrame::Evicted { .. })) if is_lossless => {
                is_lossless = false;
                Told::Evicted
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

/// The bytes of the frames up to the START, as far as there are so many.
fn greeting_bytes(bytes: &[u8]) -> Option<usize> {
    let mut end = 0_usize;
    // The flags of a HELLO say whether an OFFER follows.
    let offers = bytes.get(HEADER_BYTES + 2)? & 2 != 0;
    for _ in 0..2 + u8::from(offers) {
        let header = bytes.get(end..)?.first_chunk::<HEADER_BYTES>()?;
        let body = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        end = end.checked_add(HEADER_BYTES)?.checked_add(body as usize)?;
    }
    (end <= bytes.len()).then_some(end)
}

/// What a subscriber says to its server.
struct Ear {
    stream: TcpStream,
    decoder: Decoder,
    request: Request,
    /// The sequence up to which all was acknowledged; none before it has subscribed.
    acknowledged: Option<u64>,
}

impl Ear {
    /// Hears what has been said: a request, then never more than that all before `wanted` were delivered.
    fn hear(&mut self, wanted: u64) {
        let mut bytes = [0; 256];
        while let Ok(count @ 1..) = self.stream.read(&mut bytes) {
            self.decoder.push(&bytes[..count]);
        }
        while let Some(frame) = self.decoder.client_frame().expect("a subscriber sends frames") {
            let Request {
                meant: incarnation,
                join,
                delivery,
                ..
            } = self.request;
            let claim = |memory, pid| ClientFrame::Claim {
                incarnation,
                join,
                memory,
                pid,
            };
            let next = match (self.acknowledged, delivery, frame) {
                (None, Delivery::Lossy, frame) if frame == (ClientFrame::Subscribe { incarnation, join }) => 0,
                (None, Delivery::Lossless, frame) if frame == claim(false, std::process::id()) => 0,
                (None, Delivery::Leased, frame) if frame == claim(true, std::process::id()) => 0,
                (Some(_), _, ClientFrame::Progress { next }) => next,
                _ => panic!("{frame:?} is not to be said here"),
            };
            assert!(next <= wanted && next >= self.acknowledged.unwrap_or(0));
            self.acknowledged = Some(next);
        }
    }
}

/// Polls once and notes what was told. Whether there may be more.
fn poll_once(subscriber: &mut RemoteSubscriber, waits: bool, ear: &mut Ear, told: &mut Vec<Told>) -> bool {
    let (wanted, head, was_lossless) = (subscriber.cursor(), subscriber.head(), subscriber.is_lossless());
    assert!(subscriber.offer().is_some() || !was_lossless);
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
    // Nothing that this poll delivered is acknowledged by it, and all that others did if nothing is left.
    ear.hear(wanted);
    if next.is_none() && subscriber.is_lossless() && told.iter().any(|told| matches!(told, Told::Message { .. })) {
        assert_eq!(ear.acknowledged, Some(wanted));
    }
    if was_lossless && !subscriber.is_lossless() {
        told.push(Told::Evicted);
    }
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
    let mut ear = Ear {
        stream: far.try_clone().expect("a descriptor is left"),
        decoder: Decoder::of_client(),
        request,
        acknowledged: None,
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut subscriber = match Greeting::on(near, address, deadline).agree(request) {
        Ok(agreed) => {
            if let Some((live, control)) = agreed.lease {
                let (first, missed) = (agreed.first, agreed.missed);
                ear.hear(0);
                return vec![Told::Leased {
                    first,
                    missed,
                    live,
                    control,
                }];
            }
            RemoteSubscriber::new(address, request.delivery, agreed)
        }
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
            poll_once(&mut subscriber, cut & 1 == 1, &mut ear, &mut told);
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
        delivery: match wish >> 5 & 3 {
            0 => Delivery::Lossy,
            1 | 2 => Delivery::Lossless,
            _ => Delivery::Leased,
        },
    };
    let bytes = script(&mut orders);
    let Some(expected) = expected(&bytes, request) else {
        return;
    };
    for cuts in [cuts, &[]] {
        assert_eq!(follow(&bytes, request, &mut Orders::new(cuts)), expected);
    }
}
