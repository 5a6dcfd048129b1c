//! The service's side of two connections, and clients that believe nothing of what they are told. The publisher asks the
//! gate, and publishes nothing while somebody lossless is in the way.

use std::cell::OnceCell;
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::{OTHERS, OURS, pair, write_some};
use crate::copy;
use crate::gate::{Gate, Gatekeeper, LosslessOffer, LosslessPolicy, Wanted};
use crate::layout::{Geometry, HEAD_WORD, Header};
use crate::ring::fuzzing::{Orders, payload};
use crate::ring::{MAX_SEQUENCE, Place, Poll, Reader, Writer};
use crate::segment::Owned;
use crate::socket::Decoder;
use crate::socket::chunk::Chunks;
use crate::socket::connection::{Connection, Deadlines, Gone, Hub, Sent};
use crate::socket::counters::Counters;
use crate::socket::frame::{ClientFrame, RejectCode, ServerFrame};
use crate::socket::survivors::Survivors;
use crate::words::words_for;
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

/// A publisher and what the service's side of its connections shares.
struct Host {
    ring: Rc<Owned>,
    writer: Writer,
    keeper: Gatekeeper,
    /// A message that was begun and is not there yet.
    begun: Option<(Place, usize)>,
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
        let policy = match shape >> 4 & 3 {
            0 => None,
            1 => Some(LosslessPolicy::Block),
            2 => Some(LosslessPolicy::Evict(Duration::ZERO)),
            _ => Some(LosslessPolicy::Evict(Duration::from_secs(1))),
        };
        let max_subscribers = 1 + usize::from(shape >> 6 & 1);
        let gate = Arc::new(Gate::new(
            &geometry,
            policy.map(|policy| LosslessOffer {
                policy,
                max_subscribers,
            }),
        ));
        let hub = Hub {
            segment: ring.share(),
            gate: gate.clone(),
            leased: 0,
            survivors: Survivors::default(),
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
            keeper: Gatekeeper::new(gate),
            begun: None,
            lens: Vec::new(),
            has_ended: false,
            hub,
            passed: Duration::ZERO,
        }
    }

    fn offer(&self) -> Option<LosslessOffer> {
        self.hub.gate.offer()
    }

    /// Asks the gate as `Publisher::try_publish` does.
    fn may_publish(&mut self, len: usize) -> bool {
        if self.hub.gate.lets_pass(len) {
            return true;
        }
        let (sequence, floor) = (self.writer.next(), self.writer.floor_for(len));
        let (writer, memory, now) = (&self.writer, self.ring.memory(), self.hub.now);
        let asked = self.keeper.admit(
            Wanted { sequence, floor },
            |since| writer.first_large(memory, since),
            || now,
        );
        if let Err((claim, seen)) = &asked {
            assert!(*seen <= sequence && !claim.is_evicted());
            assert!(self.hub.gate.status(now).holder.is_some());
            let policy = self.offer().map(|offer| offer.policy);
            assert_ne!(policy, Some(LosslessPolicy::Evict(Duration::ZERO)));
        }
        asked.is_ok()
    }

    /// Begins a message, if the gate lets it pass. It is published with the next.
    fn begin(&mut self, len: usize) -> bool {
        self.commit();
        let begins = !self.has_ended && self.may_publish(len);
        if begins {
            let (memory, bytes) = (self.ring.memory(), payload(self.writer.next(), len));
            let place = self.writer.begin(memory, len);
            copy::store(&memory[place.start..place.start + words_for(len)], &bytes);
            self.begun = Some((place, len));
        }
        begins
    }

    fn commit(&mut self) {
        if let Some((place, len)) = self.begun.take() {
            let sequence = self.writer.next();
            self.lens.push(len);
            self.writer.commit(self.ring.memory(), place, len, sequence, !sequence);
        }
    }

    /// Publishes a message, if the gate lets it pass. Whether it did.
    fn publish(&mut self, len: usize) -> bool {
        let begins = self.begin(len);
        self.commit();
        begins
    }

    fn end(&mut self) {
        self.commit();
        if !std::mem::replace(&mut self.has_ended, true) {
            self.hub.gate.shut();
            self.writer.close(self.ring.memory());
        }
    }

    /// Whether a message lies in the ring as it was published.
    fn retains(&self, sequence: u64) -> bool {
        let segment = &self.hub.segment;
        let mut reader = Reader::new(*segment.geometry(), sequence);
        match reader.poll(segment.words(), |view| view.to_vec()) {
            Poll::Message(received) => {
                assert_eq!(received.value, payload(sequence, self.lens[sequence as usize]));
                true
            }
            _ => false,
        }
    }

    /// The messages that the ring holds.
    fn retained(&self) -> Vec<u64> {
        let head = self.writer.next();
        let first = head.saturating_sub(self.writer.geometry().slot_count());
        (first..head).filter(|&sequence| self.retains(sequence)).collect()
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
    Offer,
    Start,
    Stream,
    Nothing,
}

/// What a client asked for.
#[derive(Debug, Clone, Copy)]
struct Wish {
    meant: Incarnation,
    join: Join,
    /// Without losses; through shared memory, which this server has none of.
    lossless: Option<bool>,
}

/// The messages of a lossless subscriber: none of them may be missing unless it was evicted.
#[derive(Debug)]
struct Claimed {
    /// Those that the ring held when the claim was made.
    retained: Vec<u64>,
    /// The message that was next, or under way.
    live: u64,
}

/// The service's side of a connection, and a client that believes nothing.
struct Peer {
    connection: Option<Connection>,
    stream: TcpStream,
    /// What the client says and the socket did not take yet.
    outbox: Vec<u8>,
    /// It said nothing that the protocol does not allow.
    is_honest: bool,
    /// It said what may be no frame, or swallow those behind it.
    is_garbled: bool,
    /// It acknowledged what cannot be there, and not in vain.
    is_in_breach: bool,
    /// The sequence up to which it acknowledged at most.
    acknowledged: u64,
    decoder: Decoder,
    listener: Listener,
}

/// What a client was told, and may be told.
struct Listener {
    awaits: Awaits,
    wish: Option<Wish>,
    /// Since the service made the claim, until the client is told that it has none.
    claimed: Option<Claimed>,
    first: u64,
    /// The highest acknowledgement that the service heard of before anybody was evicted.
    heard: u64,
    cursor: u64,
    messages: u64,
    missed: u64,
    rejected: Option<RejectCode>,
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
            is_honest: true,
            is_garbled: false,
            is_in_breach: false,
            acknowledged: 0,
            decoder: Decoder::of_server(0),
            listener: Listener {
                awaits: Awaits::Hello,
                wish: None,
                claimed: None,
                first: 0,
                heard: 0,
                cursor: 0,
                messages: 0,
                missed: 0,
                rejected: None,
            },
        }
    }

    /// The client has something to say: mostly what the protocol allows.
    fn speak(&mut self, orders: &mut Orders<'_>) {
        let order = orders.byte();
        let cursor = self.listener.cursor;
        match order % 8 {
            0..=2 if self.listener.wish.is_none() => {
                let join = match order >> 3 & 3 {
                    0 => Join::New,
                    1 => Join::Latest(orders.byte().into()),
                    2 => Join::Oldest,
                    _ => Join::Sequence(orders.u64() >> (orders.byte() & 63)),
                };
                let incarnation = [Incarnation::NIL, OURS, OURS, OTHERS][usize::from(order >> 5 & 3)];
                let shape = orders.byte();
                let lossless = (shape & 3 != 0).then_some(shape & 0x1c == 0x1c);
                self.listener.wish = Some(Wish {
                    meant: incarnation,
                    join,
                    lossless,
                });
                let frame = match lossless {
                    None => ClientFrame::Subscribe { incarnation, join },
                    Some(memory) => ClientFrame::Claim {
                        incarnation,
                        join,
                        memory,
                        pid: order.into(),
                    },
                };
                frame.append_to(&mut self.outbox);
            }
            // Also less than it has said already, which changes nothing.
            0..=4 if self.listener.awaits == Awaits::Stream => {
                self.progress(cursor - cursor.min(u64::from(order >> 3 & 3)));
            }
            5 => {
                self.is_honest = false;
                if order & 8 == 0 {
                    self.progress(cursor.wrapping_add(orders.byte().into()).wrapping_sub(4));
                } else {
                    self.is_in_breach |= !self.is_garbled;
                    self.progress(u64::MAX - orders.u64() % MAX_SEQUENCE);
                }
            }
            6 => {
                (self.is_honest, self.is_garbled) = (false, true);
                self.outbox.extend_from_slice(orders.bytes(usize::from(order >> 3)));
            }
            _ => {}
        }
    }

    fn progress(&mut self, next: u64) {
        self.acknowledged = self.acknowledged.max(next);
        ClientFrame::Progress { next }.append_to(&mut self.outbox);
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
        let before = host.hub.gate.status(host.hub.now).subscribers;
        let outcome = duty(connection, &mut host.hub);
        if host.hub.gate.status(host.hub.now).subscribers > before {
            self.listener.claimed = Some(Claimed {
                retained: host.retained(),
                live: host.writer.next(),
            });
        }
        match outcome {
            Ok(more) => more,
            Err(gone) => {
                // As the service does.
                connection.release(&mut host.hub);
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

    /// The service hears what the client said.
    fn heed(&mut self, host: &mut Host) {
        self.turn(host, |connection, hub| connection.receive(hub).map(|()| false));
        let is_heard = self.outbox.is_empty() && self.connection.as_ref().is_some_and(|connection| !connection.unread);
        if is_heard && self.is_honest && host.hub.gate.status(host.hub.now).evicted == 0 {
            self.listener.heard = self.acknowledged;
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
        while let Some(frame) = self.decoder.server_frame().expect("the service sends frames") {
            let is_hello = matches!(frame, ServerFrame::Hello(_));
            self.listener.hear(&frame, host);
            if is_hello {
                self.decoder.allow_messages(4096);
            }
        }
        assert!(!self.was_wronged(host), "{:?}", self.listener.rejected);
        true
    }

    /// Whether it was rejected without a reason.
    fn was_wronged(&self, host: &Host) -> bool {
        let is_refused = matches!(
            self.listener.rejected,
            None | Some(RejectCode::NotOffered | RejectCode::TooManyClaims)
        );
        !is_refused && self.is_honest && host.is_early()
    }

    /// Checks that the ring holds all that this client claims.
    fn check_claim(&self, host: &Host) {
        if let Some(Claimed { retained, live }) = &self.listener.claimed
            && self.connection.is_some()
            && self.listener.rejected.is_none()
            && self.is_honest
            && host.is_early()
            && host.hub.gate.status(host.hub.now).evicted == 0
        {
            let since = retained.iter().copied().filter(|sequence| sequence < live);
            let claimed = since.chain(*live..host.writer.next());
            for sequence in claimed.filter(|&sequence| sequence >= self.acknowledged.max(self.wanted())) {
                assert!(host.retains(sequence), "message {sequence} is claimed and gone");
            }
        }
    }

    /// The sequence that the claim begins at.
    fn wanted(&self) -> u64 {
        match (self.listener.awaits, &self.listener.claimed) {
            // Where that is the START will tell: from here on surely.
            (Awaits::Hello | Awaits::Offer | Awaits::Start, Some(claimed)) => claimed.live,
            _ => self.listener.first,
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
        let listener = &self.listener;
        assert_eq!(listener.messages + listener.missed, listener.cursor - listener.first);
        if self.connection.is_none() || !host.is_early() {
            return;
        }
        assert!(!self.is_in_breach || listener.awaits == Awaits::Nothing);
        if self.is_honest && listener.wish.is_some() && listener.rejected.is_none() {
            assert_ne!(listener.awaits, Awaits::Start);
            assert!(listener.cursor >= host.writer.next(), "behind at {}", listener.cursor);
            assert_eq!(listener.awaits == Awaits::Nothing, host.has_ended);
        }
    }

    /// Acknowledges all that there is, if it follows the protocol; then it is in nobody's way. Whether that is so.
    fn make_way(&mut self, host: &mut Host) -> bool {
        if self.is_honest && self.listener.awaits == Awaits::Stream {
            self.progress(self.listener.cursor);
            self.settle(host);
        }
        self.is_honest && host.is_early()
    }
}

impl Listener {
    /// Takes a frame that the service sent, and panics if that is not the time for it.
    fn hear(&mut self, frame: &ServerFrame<'_>, host: &Host) {
        let (head, cursor) = (host.writer.next(), self.cursor);
        self.awaits = match (frame, self.awaits) {
            (ServerFrame::Hello(hello), Awaits::Hello) => {
                assert_eq!((hello.incarnation, hello.name.as_str()), (OURS, "prices"));
                assert!(hello.oldest <= hello.head && hello.head <= head);
                assert_eq!(hello.offers, host.offer().is_some());
                if hello.offers { Awaits::Offer } else { Awaits::Start }
            }
            (ServerFrame::Offer(told), Awaits::Offer) => {
                let offer = host.offer().expect("told of an offer");
                assert_eq!(
                    told.policy == LosslessPolicy::Block,
                    offer.policy == LosslessPolicy::Block
                );
                assert_eq!(told.max_subscribers as usize, offer.max_subscribers);
                assert!(told.subscribers <= told.max_subscribers);
                Awaits::Start
            }
            (ServerFrame::Start { first, missed }, Awaits::Start) => {
                let wish = self.wish.expect("no START before it was asked for");
                assert_eq!(self.claimed.is_some(), wish.lossless == Some(false));
                if let Join::Sequence(sequence) = wish.join
                    && wish.meant != OTHERS
                {
                    assert_eq!(first - missed, sequence.min(MAX_SEQUENCE));
                } else {
                    assert!(*first <= head && *missed == 0);
                }
                (self.first, self.cursor) = (*first, *first);
                Awaits::Stream
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
                self.messages += 1;
                self.cursor += 1;
                Awaits::Stream
            }
            (ServerFrame::Gap { first, missed }, Awaits::Stream) => {
                assert!(*first == cursor && *missed > 0 && first + missed <= head);
                if let Some(Claimed { retained, live }) = &self.claimed {
                    assert!(
                        first + missed <= *live,
                        "lost {missed} from {first} on in spite of a claim"
                    );
                    // Behind one that was gone, a reader that was lapped may skip some that nearly were.
                    assert!(!retained.contains(first));
                }
                self.missed += missed;
                self.cursor += missed;
                Awaits::Stream
            }
            (ServerFrame::Evicted { next }, Awaits::Stream) => {
                let policy = host.offer().map(|offer| offer.policy);
                assert!(matches!(policy, Some(LosslessPolicy::Evict(_))));
                assert!(self.claimed.take().is_some() && self.first.max(self.heard) <= *next && *next <= cursor);
                Awaits::Stream
            }
            (ServerFrame::Heartbeat { head: told }, Awaits::Stream) => {
                assert!(*told <= head);
                Awaits::Stream
            }
            (ServerFrame::End { head: told }, Awaits::Stream) => {
                assert!(host.has_ended && *told == head && head <= cursor);
                Awaits::Nothing
            }
            (ServerFrame::Reject { code, .. }, Awaits::Start | Awaits::Stream) => {
                if matches!(code, RejectCode::NotOffered | RejectCode::TooManyClaims) {
                    let wish = self.wish.expect("nothing was asked for yet");
                    self.check_refusal(*code, wish, host);
                }
                self.rejected = Some(*code);
                Awaits::Nothing
            }
            _ => panic!("{frame:?} where the client awaits {:?}", self.awaits),
        };
    }

    fn check_refusal(&self, code: RejectCode, wish: Wish, host: &Host) {
        assert!(self.awaits == Awaits::Start && self.claimed.is_none() && wish.lossless.is_some());
        if code == RejectCode::TooManyClaims {
            assert_eq!(host.offer().map(|offer| offer.max_subscribers), Some(1));
        } else {
            let is_ahead = matches!(wish.join, Join::Sequence(_)) && wish.meant != OTHERS;
            assert!(host.offer().is_none() || wish.lossless == Some(true) || is_ahead);
        }
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
            0 | 1 => {
                host.publish(usize::from(orders.byte()));
            }
            2 => {
                host.begin(usize::from(orders.u16()) % 4097);
                if order & 0x10 == 0 {
                    host.commit();
                }
            }
            3 => {
                for _ in 0..order >> 2 & 31 {
                    host.publish(32);
                }
            }
            4..=6 => peer.speak(&mut orders),
            7 => peer.deliver(orders.byte().into()),
            8 => peer.heed(&mut host),
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
        peers.iter().for_each(|peer| peer.check_claim(&host));
    }
    host.commit();
    for peer in &mut peers {
        peer.settle(&mut host);
        peer.check_claim(&host);
    }
    let is_free = peers
        .iter_mut()
        .fold(true, |is_free, peer| peer.make_way(&mut host) && is_free);
    assert!(!is_free || host.has_ended || host.publish(4096), "held up by nobody");
}
