//! The service and its clients over real loopback sockets, in one process. Nobody sleeps to synchronise: every wait is
//! for an event, and bounded.

mod crowds;
mod deadlines;
mod descriptors;
mod joining;
mod lossless;
mod service;
mod strangers;
mod streaming;
mod turns;
mod vandal;

use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frame::{ClientFrame, FrameError, HEADER_BYTES, Hello, Kind, RejectCode, ServerFrame};
use super::service::Service;
use super::{Decoder, RemoteError, RemoteSubscriber, ServiceHandle, ServiceOptions, ServiceStats};
use crate::bell::Bell;
use crate::gate::{Gate, LosslessOffer};
use crate::layout::{Geometry, Header};
use crate::segment::{CreateError, Owned};
use crate::{Incarnation, Join, Poll, Publisher};

/// No wait in these tests is longer. Reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server without its segment: a ring in private memory, a publisher and the service.
struct Host {
    publisher: Option<Publisher>,
    service: ServiceHandle,
    address: SocketAddr,
    incarnation: Incarnation,
}

impl Host {
    fn new(adjust: impl FnOnce(&mut ServiceOptions)) -> Self {
        Self::with_ring(1024, 64 << 10, None, adjust)
    }

    fn with_ring(slots: u64, arena: u64, longest: Option<u64>, adjust: impl FnOnce(&mut ServiceOptions)) -> Self {
        let geometry = Geometry::new(slots, 128, arena, longest).unwrap();
        Self::of(geometry, Owned::private, None, adjust)
    }

    fn of(
        geometry: Geometry,
        lay: impl FnOnce(Header, Geometry) -> Result<Owned, CreateError>,
        offer: Option<LosslessOffer>,
        adjust: impl FnOnce(&mut ServiceOptions),
    ) -> Self {
        let incarnation = Incarnation::random().unwrap();
        let header = Header::new(&geometry, incarnation, "prices", 0, 100_000_000);
        let segment = lay(header, geometry).unwrap();
        let bell = Arc::new(Bell::new());
        let gate = Arc::new(Gate::new(&geometry, offer));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut options = ServiceOptions::new(vec![listener]);
        adjust(&mut options);
        let service = Service::spawn(segment.share(), bell.clone(), gate.clone(), options).unwrap();
        Self {
            publisher: Some(Publisher::new(segment, bell, gate)),
            service,
            address,
            incarnation,
        }
    }

    fn publish(&mut self, payload: &[u8]) -> u64 {
        self.publisher.as_mut().unwrap().publish(payload).unwrap()
    }

    fn close(&mut self) {
        self.publisher.take().unwrap().close();
    }

    fn join(&self, join: Join) -> RemoteSubscriber {
        RemoteSubscriber::connect(&[self.address], self.incarnation, join, PATIENCE).unwrap()
    }

    /// Waits until the counters are as wanted.
    fn wait_for(&self, what: impl Fn(&ServiceStats) -> bool) -> ServiceStats {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = self.service.stats();
            if what(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "the counters stay at {stats:?}");
            std::thread::yield_now();
        }
    }
}

/// A client that says what it is told to, for conversations that no subscriber would lead.
struct Stranger {
    stream: TcpStream,
    decoder: Decoder,
}

impl Stranger {
    fn connect(host: &Host) -> Self {
        let stream = TcpStream::connect(host.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            decoder: Decoder::of_server(1 << 20),
        }
    }

    fn say(&mut self, frame: ClientFrame) {
        let mut bytes = Vec::new();
        frame.append_to(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    fn subscribe(&mut self, join: Join) {
        self.say(ClientFrame::Subscribe {
            incarnation: Incarnation::NIL,
            join,
        });
    }

    /// The next frame's kind, with the frame still to be taken; `None` when the server has closed.
    fn hear(&mut self) -> Option<Kind> {
        loop {
            if let Some(kind) = self.decoder.front().unwrap() {
                return Some(kind);
            }
            match self.stream.read(self.decoder.space()) {
                Ok(0) => return None,
                Ok(count) => self.decoder.received(count),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn hello(&mut self) -> Hello {
        assert_eq!(self.hear(), Some(Kind::Hello));
        let Ok(Some(ServerFrame::Hello(hello))) = self.decoder.server_frame() else {
            panic!("no hello")
        };
        self.decoder.allow_messages(hello.max_message_bytes);
        hello
    }

    /// Reads on to the REJECT and the close behind it.
    fn rejection(&mut self) -> (RejectCode, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no REJECT comes");
            let kind = self.hear().expect("a REJECT before the close");
            let frame = self.decoder.server_frame().unwrap().unwrap();
            if kind == Kind::Reject {
                let ServerFrame::Reject { code, reason } = frame else {
                    panic!("{frame:?}")
                };
                assert_eq!(self.hear(), None, "something follows the REJECT");
                return (code, reason);
            }
        }
    }
}

fn receive(subscriber: &mut RemoteSubscriber) -> Poll<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match subscriber.receive(PATIENCE, <[u8]>::to_vec).unwrap() {
            Poll::Empty => assert!(Instant::now() < deadline, "nothing came"),
            found => return found,
        }
    }
}

/// Takes the next message, and checks that it is `sequence`.
fn expect(subscriber: &mut RemoteSubscriber, sequence: u64, payload: &[u8]) {
    match receive(subscriber) {
        Poll::Message(received) => {
            assert_eq!((received.sequence, received.len), (sequence, payload.len()));
            assert_eq!(received.value, payload);
        }
        other => panic!("{other:?} instead of message {sequence}"),
    }
}

/// Payloads of all lengths up to `longest`, different for every sequence.
fn payload(sequence: u64, longest: u64) -> Vec<u8> {
    let random = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Short ones are the common case, and each length comes.
    let len = if sequence.is_multiple_of(4) {
        (random >> 40) % (longest + 1)
    } else {
        (random >> 40) % 200
    };
    (0..len).map(|i| (sequence.wrapping_mul(31) + i * 7) as u8).collect()
}
