//! The service's side of two connections, and clients that believe nothing of what they are told.

use std::cell::OnceCell;
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::{OTHERS, OURS, pair, write_some};
use crate::gate::Gate;
use crate::layout::{Geometry, HEAD_WORD, Header};
use crate::ring::fuzzing::{Orders, payload};
use crate::ring::{MAX_SEQUENCE, Writer};
use crate::segment::Owned;
use crate::socket::Decoder;
use crate::socket::chunk::Chunks;
use crate::socket::connection::{Connection, Deadlines, Gone, Hub, Sent};
use crate::socket::counters::Counters;
use crate::socket::frame::{ClientFrame, ServerFrame};
use crate::{Incarnation, Join};

thread_local! {
    /// A ring of each shape. A new one costs a look at all that limits memory: more than all else that is done here.
    static RINGS: [OnceCell<Rc<Owned>>; 16] = const { [const { OnceCell::new() }; 16] };
}

/// A ring of this shape as if it had just been laid.
fn empty_ring(shape: usize) -> Rc<Owned> {
    let ring = RINGS.with(|rings| {
        let lay = || {
            let (slots, arena) = (2 << (shape & 3), 4096 << (shape >> 2));
            let geometry = Geometry::new(slots, 64, arena, Some(4096)).expect("sizes that a ring may have");
            let header = Header::new(&geometry, OURS, "prices", 0, 1);
            Rc::new(Owned::private(header, geometry).expect("memory for a few pages"))
        };
        rings[shape].get_or_init(lay).clone()
    });
    let words = &ring.memory()[HEAD_WORD..];
    words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    ring
}

/// A publisher and the service's side of two connections.
struct Host {
    ring: Rc<Owned>,
    writer: Writer,
    /// The length of every message, by sequence.
    lens: Vec<usize>,
    has_ended: bool,
    hub: Hub,
    /// How much later it is than at the beginning.
    passed: Duration,
}

impl Host {
    fn new(shape: u8) -> Self {
        let ring = empty_ring(usize::from(shape & 15));
        let geometry = *ring.share().geometry();
        let hub = Hub {
            segment: ring.share(),
            gate: Arc::new(Gate::new(&geometry, None)),
            leased: 0,
            deadlines: Deadlines {
                subscribe: Duration::from_secs(5),
                heartbeat: Duration::from_secs(1),
                silence: Duration::from_secs(10),
                stall: Duration::from_secs(30),
                linger: Duration::from_secs(5),
            },
            chunks: Chunks::default(),
            counters: Arc::new(Counters::default()),
            now: Instant::now(),
        };
        Self {
            ring,
            writer: Writer::new(geometry),
            lens: Vec::new(),
            has_ended: false,
            hub,
            passed: Duration::ZERO,
        }
    }

    fn publish(&mut self, len: usize) {
        if !self.has_ended {
            let sequence = self.writer.next();
            self.lens.push(len);
            self.writer
                .publish(self.ring.memory(), &payload(sequence, len), sequence, !sequence);
        }
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.writer.close(self.ring.memory());
        }
    }

    fn pass(&mut self, time: Duration) {
        self.hub.now += time;
        self.passed += time;
    }

    /// Whether so little time has passed that nobody can be late.
    fn is_early(&self) -> bool {
        self.passed < self.hub.deadlines.subscribe
    }
}

/// What the client may be told next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Hello,
    Start,
    Stream,
    Nothing,
}

/// The service's side of a connection, and a client that believes nothing.
struct Peer {
    connection: Option<Connection>,
    stream: TcpStream,
    /// What the client says and the socket did not take yet.
    outbox: Vec<u8>,
    /// What it asked for.
    join: Option<(Incarnation, Join)>,
    /// It said nothing that the protocol does not allow.
    is_honest: bool,
    decoder: Decoder,
    awaits: Awaits,
    first: u64,
    cursor: u64,
    messages: u64,
    missed: u64,
    rejected: bool,
}

impl Peer {
    fn new(host: &mut Host) -> Self {
        let (near, far) = pair();
        // As little as the kernel allows: what is sent has to wait for the client.
        sockopt::set_socket_send_buffer_size(&near, 1).expect("any size is taken");
        let mut connection = Connection::new(mio::net::TcpStream::from_std(near), 1, &mut host.hub);
        // As the service does with who has just come.
        assert_eq!(connection.send(&mut host.hub), Ok(Sent::All));
        Self {
            connection: Some(connection),
            stream: far,
            outbox: Vec::new(),
            join: None,
            is_honest: true,
            decoder: Decoder::of_server(0),
            awaits: Awaits::Hello,
            first: 0,
            cursor: 0,
            messages: 0,
            missed: 0,
            rejected: false,
        }
    }

    /// The client has something to say: mostly what the protocol allows.
    fn speak(&mut self, orders: &mut Orders<'_>) {
        let order = orders.byte();
        let frame = match order % 8 {
            0..=2 if self.join.is_none() => {
                let join = match order >> 3 & 3 {
                    0 => Join::New,
                    1 => Join::Latest(orders.byte().into()),
                    2 => Join::Oldest,
                    _ => Join::Sequence(orders.u64() >> (orders.byte() & 63)),
                };
                let incarnation = [Incarnation::NIL, OURS, OURS, OTHERS][usize::from(order >> 5 & 3)];
                self.join = Some((incarnation, join));
                ClientFrame::Subscribe { incarnation, join }
            }
            0..=4 if self.awaits == Awaits::Stream => ClientFrame::Progress { next: self.cursor },
            5 => {
                self.is_honest = false;
                let next = self.cursor.wrapping_add(orders.byte().into()).wrapping_sub(4);
                ClientFrame::Progress { next }
            }
            6 => {
                self.is_honest = false;
                self.outbox.extend_from_slice(orders.bytes(usize::from(order >> 3)));
                return;
            }
            _ => return,
        };
        frame.append_to(&mut self.outbox);
    }

    /// Up to `count` bytes of what the client said get to the service's socket.
    fn deliver(&mut self, count: usize) {
        let count = write_some(&self.stream, &self.outbox[..count.min(self.outbox.len())]);
        self.outbox.drain(..count);
    }

    /// The service's side has a turn. Whether something may be left to do.
    fn turn(&mut self, host: &mut Host, duty: impl FnOnce(&mut Connection, &mut Hub) -> Result<bool, Gone>) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        match duty(connection, &mut host.hub) {
            Ok(more) => more,
            Err(gone) => {
                match gone {
                    Gone::Finished => assert!(host.has_ended),
                    Gone::Corrupt => panic!("an honest publisher's ring is corrupt"),
                    Gone::Rejected => assert!(!self.is_honest || !host.is_early()),
                    Gone::Stalled => assert!(!host.is_early()),
                    Gone::Left => {}
                }
                self.connection = None;
                false
            }
        }
    }

    /// The client reads up to `count` bytes; whether there were any.
    fn listen(&mut self, count: usize, host: &Host) -> bool {
        let mut bytes = [0; 4096];
        let count = count.clamp(1, bytes.len());
        let Ok(count @ 1..) = self.stream.read(&mut bytes[..count]) else {
            return false;
        };
        self.decoder.push(&bytes[..count]);
        loop {
            let Some(frame) = self.decoder.server_frame().expect("the service sends frames") else {
                return true;
            };
            let (messages, missed) = (
                u64::from(matches!(frame, ServerFrame::Message { .. })),
                missed_of(&frame),
            );
            let is_rejection = matches!(frame, ServerFrame::Reject { .. });
            let (awaits, cursor) = check(&frame, self.awaits, self.cursor, self.join, host);
            if self.awaits == Awaits::Start {
                self.first = cursor;
            }
            if self.awaits == Awaits::Hello && !is_rejection {
                self.decoder.allow_messages(4096);
            }
            (self.awaits, self.cursor) = (awaits, cursor);
            self.messages += messages;
            self.missed += missed;
            self.rejected |= is_rejection;
            assert!(!self.rejected || !self.is_honest || !host.is_early());
        }
    }

    /// Everybody does what is left to do; then an honest client has been told of everything.
    fn settle(&mut self, host: &mut Host) {
        loop {
            self.deliver(usize::MAX);
            let sent = self.turn(host, |connection, hub| {
                connection.has_room();
                connection.receive(hub)?;
                connection.send(hub).map(|sent| sent != Sent::All)
            });
            if !self.listen(usize::MAX, host) && !sent {
                break;
            }
        }
        assert_eq!(self.messages + self.missed, self.cursor - self.first);
        if self.is_honest && host.is_early() && self.join.is_some() && self.connection.is_some() {
            assert_ne!(self.awaits, Awaits::Start);
            assert!(self.cursor >= host.writer.next(), "behind at {}", self.cursor);
            assert_eq!(self.awaits == Awaits::Nothing, host.has_ended);
        }
    }
}

const fn missed_of(frame: &ServerFrame<'_>) -> u64 {
    match frame {
        ServerFrame::Gap { missed, .. } => *missed,
        _ => 0,
    }
}

/// Checks a frame that the service sent. Returns what the client may be told next, and the sequence that it wants next.
fn check(
    frame: &ServerFrame<'_>,
    awaits: Awaits,
    cursor: u64,
    join: Option<(Incarnation, Join)>,
    host: &Host,
) -> (Awaits, u64) {
    let head = host.writer.next();
    match (frame, awaits) {
        (ServerFrame::Hello(hello), Awaits::Hello) => {
            assert_eq!((hello.incarnation, hello.name.as_str()), (OURS, "prices"));
            assert!(hello.oldest <= hello.head && hello.head <= head);
            (Awaits::Start, cursor)
        }
        (ServerFrame::Start { first, missed }, Awaits::Start) => {
            let (meant, join) = join.expect("no START before the SUBSCRIBE");
            if let Join::Sequence(sequence) = join
                && meant != OTHERS
            {
                assert_eq!(first - missed, sequence.min(MAX_SEQUENCE));
            } else {
                assert!(*first <= head && *missed == 0);
            }
            (Awaits::Stream, *first)
        }
        (
            ServerFrame::Message {
                sequence,
                timestamp_ns,
                tag,
                payload: bytes,
            },
            Awaits::Stream,
        ) => {
            assert!(*sequence == cursor && cursor < head);
            assert_eq!((*timestamp_ns, *tag), (cursor, !cursor));
            assert_eq!(*bytes, payload(cursor, host.lens[cursor as usize]));
            (Awaits::Stream, cursor + 1)
        }
        (ServerFrame::Gap { first, missed }, Awaits::Stream) => {
            assert!(*first == cursor && *missed > 0 && first + missed <= head);
            (Awaits::Stream, cursor + missed)
        }
        (ServerFrame::Heartbeat { head: told }, Awaits::Stream) => {
            assert!(*told <= head);
            (Awaits::Stream, cursor)
        }
        (ServerFrame::End { head: told }, Awaits::Stream) => {
            assert!(host.has_ended && *told == head && head <= cursor);
            (Awaits::Nothing, cursor)
        }
        (ServerFrame::Reject { .. }, Awaits::Start | Awaits::Stream) => (Awaits::Nothing, cursor),
        _ => panic!("{frame:?} where the client awaits {awaits:?}"),
    }
}

/// Lets a service and its clients carry `orders` out, and panics if a client is told what the protocol does not allow, or
/// less than all.
pub fn serve(orders: &[u8]) {
    let mut orders = Orders::new(orders);
    let mut host = Host::new(orders.byte());
    let mut peers = [Peer::new(&mut host), Peer::new(&mut host)];
    while !orders.is_empty() {
        let order = orders.byte();
        let peer = &mut peers[usize::from(order >> 7)];
        match order & 15 {
            0 | 1 => host.publish(usize::from(orders.byte())),
            2 => host.publish(usize::from(orders.u16()) % 4097),
            3 => (0..order >> 2 & 31).for_each(|_| host.publish(32)),
            4..=6 => peer.speak(&mut orders),
            7 => peer.deliver(orders.byte().into()),
            8 => {
                peer.turn(&mut host, |connection, hub| connection.receive(hub).map(|()| false));
            }
            9 | 10 => {
                peer.turn(&mut host, |connection, hub| {
                    connection.has_room();
                    connection.send(hub).map(|_| false)
                });
            }
            11 => {
                host.pass(Duration::from_millis(u64::from(orders.byte()) << (order >> 4 & 7)));
                peer.turn(&mut host, |connection, hub| connection.tick(hub).map(|()| false));
            }
            12 | 13 => {
                peer.listen(usize::from(orders.byte()) * 16, &host);
            }
            14 if order & 0x70 == 0 => host.end(),
            15 if order & 0x70 == 0 => {
                // The client closes its side, in the middle of whatever it was saying.
                peer.is_honest = false;
                let _ = peer.stream.shutdown(Shutdown::Write);
            }
            _ => host.hub.chunks.forget(),
        }
    }
    for peer in &mut peers {
        peer.settle(&mut host);
    }
}
