//! What one turn of a connection sends, and in which order.

use std::cell::Cell;
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags};

use super::*;
use crate::gate::LosslessPolicy;
use crate::socket::chunk::Chunks;
use crate::socket::connection::{Connection, Deadlines, Hub};
use crate::socket::survivors::Survivors;
use crate::words::watch;

const SECOND: Duration = Duration::from_secs(1);

/// A connection that this thread serves itself, and its client.
struct Turns {
    hub: Hub,
    connection: Connection,
    client: TcpStream,
    publisher: Publisher,
}

impl Turns {
    /// One that has greeted a client, and obeyed what this one says.
    fn of(geometry: Geometry, offer: Option<LosslessOffer>, frame: ClientFrame) -> Self {
        let header = Header::new(&geometry, Incarnation::random().unwrap(), "prices", 0, 1);
        let segment = Owned::private(header, geometry).unwrap();
        let gate = Arc::new(Gate::new(&geometry, offer));
        let mut hub = Hub {
            segment: segment.share(),
            gate: gate.clone(),
            leased: 0,
            survivors: Survivors::default(),
            deadlines: Deadlines {
                subscribe: 9 * SECOND,
                heartbeat: SECOND,
                silence: 9 * SECOND,
                stall: 9 * SECOND,
                linger: 9 * SECOND,
            },
            chunks: Chunks::default(),
            counters: Arc::default(),
            now: Instant::now(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let arrived = stream.try_clone().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut connection = Connection::new(mio::net::TcpStream::from_std(stream), 1, &mut hub);
        connection.send(&mut hub).unwrap();
        let mut bytes = Vec::new();
        frame.append_to(&mut bytes);
        client.write_all(&bytes).unwrap();
        let mut fds = [PollFd::new(&arrived, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&PATIENCE.try_into().unwrap())).unwrap();
        connection.receive(&mut hub).unwrap();
        Self {
            hub,
            connection,
            client,
            publisher: Publisher::new(segment, Arc::new(Bell::new()), gate),
        }
    }
}

/// The client's end: what it was told, one frame after the other.
struct Told {
    client: TcpStream,
    decoder: Decoder,
}

impl Told {
    fn next<R>(&mut self, read: impl FnOnce(ServerFrame<'_>) -> R) -> R {
        while self.decoder.front().unwrap().is_none() {
            let count = self.client.read(self.decoder.space()).unwrap();
            assert_ne!(count, 0, "the connection is closed");
            self.decoder.received(count);
        }
        read(self.decoder.server_frame().unwrap().unwrap())
    }
}

impl From<TcpStream> for Told {
    fn from(client: TcpStream) -> Self {
        let mut decoder = Decoder::of_server(0);
        decoder.allow_messages(64);
        Self { client, decoder }
    }
}

#[test]
fn heartbeat_that_is_due_does_not_overtake_the_start() {
    let geometry = Geometry::new(2, 64, 4096, None).unwrap();
    let subscribe = ClientFrame::Subscribe {
        incarnation: Incarnation::NIL,
        join: Join::New,
    };
    let mut turns = Turns::of(geometry, None, subscribe);

    turns.hub.now += 2 * SECOND;
    turns.connection.tick(&mut turns.hub).unwrap();

    let mut told = Told::from(turns.client);
    assert!(told.next(|frame| matches!(frame, ServerFrame::Hello(_))));
    assert!(told.next(|frame| matches!(frame, ServerFrame::Start { .. })));
}

/// The publisher evicts and overwrites in the very moment in which the service looks at the ring, between any two loads.
#[test]
fn eviction_in_the_middle_of_a_look_at_the_ring_is_told_before_what_it_costs() {
    const ROOM: u64 = 7;
    const MORE: u64 = 3;
    let mut gaps = 0;
    for moment in 0.. {
        let geometry = Geometry::new(ROOM + 1, 64, 4096, None).unwrap();
        let offer = LosslessOffer {
            policy: LosslessPolicy::Evict(Duration::ZERO),
            max_subscribers: 1,
        };
        let claim = ClientFrame::Claim {
            incarnation: Incarnation::NIL,
            join: Join::New,
            memory: false,
            pid: 0,
        };
        let mut turns = Turns::of(geometry, Some(offer), claim);
        let mut publisher = turns.publisher;
        (0..ROOM).for_each(|sequence| assert_eq!(publisher.try_publish_tagged(0, b"old"), Ok(sequence)));
        let loads = Rc::new(Cell::new(0));
        let seen = loads.clone();
        let watcher = move |_: &_| {
            if seen.replace(seen.get() + 1) == moment {
                (ROOM..ROOM + MORE)
                    .for_each(|sequence| assert_eq!(publisher.try_publish_tagged(0, b"new"), Ok(sequence)));
            }
        };

        watch::during(watcher, || turns.connection.send(&mut turns.hub)).unwrap();

        if loads.get() <= moment {
            break;
        }
        let (mut told, mut next, mut is_evicted) = (Told::from(turns.client), 0, false);
        while next < ROOM + MORE {
            told.next(|frame| match frame {
                ServerFrame::Message { sequence, .. } => {
                    assert_eq!(sequence, next);
                    next += 1;
                }
                ServerFrame::Gap { first, missed } => {
                    assert!(is_evicted && first == next, "a gap before EVICTED, at load {moment}");
                    next += missed;
                    gaps += 1;
                }
                ServerFrame::Evicted { next: 0 } => assert!(!std::mem::replace(&mut is_evicted, true)),
                ServerFrame::Hello(_) | ServerFrame::Offer(_) | ServerFrame::Start { .. } => {}
                other => panic!("{other:?}"),
            });
        }
        assert!(is_evicted);
    }
    assert!(gaps > 0, "nothing was lost, at whatever moment");
}
