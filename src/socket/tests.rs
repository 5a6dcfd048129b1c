//! The service and its clients over real loopback sockets, in one process. Nobody sleeps to synchronise: every wait is
//! for an event, and bounded.

use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frame::{ClientFrame, FrameError, HEADER_BYTES, Hello, Kind, RejectCode, ServerFrame};
use super::service::Service;
use super::{Decoder, RemoteError, RemoteSubscriber, ServiceHandle, ServiceOptions, ServiceStats};
use crate::bell::Bell;
use crate::gate::Gate;
use crate::layout::{Geometry, Header};
use crate::segment::Owned;
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
        let incarnation = Incarnation::random().unwrap();
        let header = Header::new(&geometry, incarnation, "prices", 0, 100_000_000);
        let segment = Owned::private(header, geometry).unwrap();
        let bell = Arc::new(Bell::new());
        let gate = Arc::new(Gate::new(&geometry, None));
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
        loop {
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

#[test]
fn each_join_starts_where_it_says() {
    let mut host = Host::new(|_| {});
    for i in 0..10_u8 {
        host.publish(&[i]);
    }

    let mut oldest = host.join(Join::Oldest);
    let mut latest = host.join(Join::Latest(3));
    let mut sequence = host.join(Join::Sequence(5));
    let mut new = host.join(Join::New);
    let mut future = host.join(Join::Sequence(12));
    for i in 10..13_u8 {
        host.publish(&[i]);
    }

    expect(&mut oldest, 0, &[0]);
    expect(&mut latest, 7, &[7]);
    expect(&mut sequence, 5, &[5]);
    expect(&mut new, 10, &[10]);
    expect(&mut future, 12, &[12]);
    let hello = oldest.hello();
    assert_eq!(
        (hello.incarnation, hello.oldest, hello.name.as_str()),
        (host.incarnation, 0, "prices")
    );
}

#[test]
fn sequence_that_is_gone_is_told_as_missed_before_the_first_message() {
    let mut host = Host::with_ring(8, 4096, None, |_| {});
    for i in 0..20_u8 {
        host.publish(&[i]);
    }

    let mut subscriber = host.join(Join::Sequence(5));

    assert_eq!(receive(&mut subscriber), Poll::Lapped { first: 5, missed: 7 });
    expect(&mut subscriber, 12, &[12]);
}

#[test]
fn resumed_subscriber_goes_on_at_the_next_sequence() {
    let mut host = Host::new(|_| {});
    for i in 0..10_u8 {
        host.publish(&[i]);
    }
    let mut first = host.join(Join::Oldest);
    for i in 0..4_u8 {
        expect(&mut first, i.into(), &[i]);
    }
    let (incarnation, cursor) = (first.hello().incarnation, first.cursor());
    drop(first);

    let mut second = RemoteSubscriber::resume(&[host.address], incarnation, cursor, PATIENCE).unwrap();

    expect(&mut second, 4, &[4]);
}

#[test]
fn resume_at_a_server_started_anew_begins_at_its_oldest() {
    let mut host = Host::new(|_| {});
    host.publish(b"first of this life");
    let former = Incarnation::random().unwrap();

    let mut subscriber = RemoteSubscriber::resume(&[host.address], former, 4711, PATIENCE).unwrap();

    assert_ne!(subscriber.hello().incarnation, former);
    expect(&mut subscriber, 0, b"first of this life");
}

#[test]
fn another_incarnation_than_the_expected_is_an_error_that_names_both() {
    let host = Host::new(|_| {});
    let wanted = Incarnation::random().unwrap();

    let error = RemoteSubscriber::connect(&[host.address], wanted, Join::New, PATIENCE).unwrap_err();

    let RemoteError::Incarnation { expected, found } = error else {
        panic!("{error:?}")
    };
    assert_eq!((expected, found), (wanted, host.incarnation));
}

#[test]
fn refused_address_is_passed_over_for_one_that_answers() {
    let host = Host::new(|_| {});
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    let alone = RemoteSubscriber::connect(&[unused], Incarnation::NIL, Join::New, PATIENCE).unwrap_err();
    let subscriber = RemoteSubscriber::connect(&[unused, host.address], Incarnation::NIL, Join::New, PATIENCE).unwrap();

    assert!(
        matches!(alone, RemoteError::Refused { address } if address == unused),
        "{alone:?}"
    );
    assert_eq!(subscriber.address(), host.address);
}

#[test]
fn listener_that_never_greets_is_given_up_at_the_deadline() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap();
    let start = Instant::now();

    let error =
        RemoteSubscriber::connect(&[address], Incarnation::NIL, Join::New, Duration::from_millis(80)).unwrap_err();

    assert!(matches!(error, RemoteError::TimedOut { .. }), "{error:?}");
    assert!(start.elapsed() >= Duration::from_millis(80) && start.elapsed() < PATIENCE);
}

#[test]
fn server_that_speaks_something_else_is_told_from_a_lost_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 mail.example.org ESMTP ready\r\n").unwrap();
        stream.read(&mut [0]).unwrap()
    });

    let error = RemoteSubscriber::connect(&[address], Incarnation::NIL, Join::New, PATIENCE).unwrap_err();

    assert!(matches!(error, RemoteError::Frame(_)), "{error:?}");
    other.join().unwrap();
}

#[test]
fn hundred_thousand_messages_of_all_lengths_arrive_byte_for_byte() {
    const COUNT: u64 = 100_000;
    const LONGEST: u64 = 4096;
    let mut host = Host::with_ring(1024, 1 << 20, Some(LONGEST), |_| {});
    let mut subscriber = host.join(Join::Oldest);

    // The ring waits for nobody, so the publisher keeps less than half of it ahead of the subscriber.
    let mut published = 0;
    while subscriber.cursor() < COUNT {
        while published < COUNT && published < subscriber.cursor() + 128 {
            host.publish(&payload(published, LONGEST));
            published += 1;
        }
        let sequence = subscriber.cursor();
        expect(&mut subscriber, sequence, &payload(sequence, LONGEST));
    }
    host.close();

    assert_eq!(receive(&mut subscriber), Poll::Ended);
    assert_eq!(receive(&mut subscriber), Poll::Ended);
    assert!(host.service.finish(PATIENCE));
    assert_eq!(host.service.stats().messages, COUNT);
}

#[test]
fn message_of_the_greatest_length_arrives() {
    const LONGEST: usize = 3 << 20;
    let mut host = Host::with_ring(16, 4 << 20, Some(LONGEST as u64), |_| {});
    let mut subscriber = host.join(Join::New);
    let message: Vec<u8> = (0..LONGEST).map(|i| (i / 7) as u8).collect();

    host.publish(&message);

    expect(&mut subscriber, 0, &message);
}

#[test]
fn end_of_the_stream_reaches_a_subscriber_that_is_behind_and_finish_waits_for_it() {
    let mut host = Host::new(|_| {});
    let mut subscriber = host.join(Join::Oldest);
    for i in 0..100_u8 {
        host.publish(&[i]);
    }
    host.close();

    assert!(!host.service.finish(Duration::from_millis(1)));
    for i in 0..100_u8 {
        expect(&mut subscriber, i.into(), &[i]);
    }
    assert_eq!(receive(&mut subscriber), Poll::Ended);

    assert!(host.service.finish(PATIENCE));
    assert_eq!(host.service.stats().finished, 1);
}

#[test]
fn subscriber_of_a_closed_stream_gets_what_is_retained_and_the_end() {
    let mut host = Host::new(|_| {});
    host.publish(b"last");
    host.close();

    let mut subscriber = host.join(Join::Oldest);
    let mut beyond = host.join(Join::Sequence(5));

    expect(&mut subscriber, 0, b"last");
    assert_eq!(receive(&mut subscriber), Poll::Ended);
    assert_eq!(receive(&mut beyond), Poll::Ended);
}

#[test]
fn peer_that_does_not_read_is_lapped_and_costs_a_healthy_one_nothing() {
    const COUNT: u64 = 60_000;
    const LEN: usize = 1000;
    let mut host = Host::with_ring(1024, 2 << 20, None, |options| {
        options.send_buffer_bytes = Some(64 << 10)
    });
    let mut slow = host.join(Join::New);
    let mut healthy = host.join(Join::New);
    let mut published = 0_u64;

    // 60 MB: far more than all buffers between the slow one and the ring.
    while healthy.cursor() < COUNT {
        while published < COUNT && published < healthy.cursor() + 128 {
            host.publish(&vec![published as u8; LEN]);
            published += 1;
        }
        let sequence = healthy.cursor();
        expect(&mut healthy, sequence, &vec![sequence as u8; LEN]);
    }
    host.close();
    assert_eq!(receive(&mut healthy), Poll::Ended);
    let (mut read, mut missed, mut gaps) = (0, 0, 0);
    loop {
        let cursor = slow.cursor();
        match receive(&mut slow) {
            Poll::Message(received) => {
                assert_eq!(received.sequence, cursor);
                assert_eq!(received.value, vec![cursor as u8; LEN]);
                read += 1;
            }
            Poll::Lapped { first, missed: lost } => {
                assert_eq!(first, cursor);
                gaps += 1;
                missed += lost;
            }
            Poll::Ended => break,
            other => panic!("{other:?}"),
        }
    }

    assert_eq!(read + missed, COUNT);
    assert!(gaps > 0 && read > 0);
    assert!(host.service.finish(PATIENCE));
    let stats = host.service.stats();
    assert_eq!((stats.gaps, stats.missed, stats.finished), (gaps, missed, 2));
}

#[test]
fn peer_that_takes_nothing_for_too_long_is_dropped() {
    let mut host = Host::with_ring(1024, 2 << 20, None, |options| {
        options.send_buffer_bytes = Some(4096);
        options.heartbeat = Duration::from_millis(40);
        options.stall_deadline = Duration::from_millis(200);
        options.silence_deadline = Duration::from_secs(100);
    });
    let mut stranger = Stranger::connect(&host);
    stranger.hello();
    stranger.subscribe(Join::New);
    assert_eq!(stranger.hear(), Some(Kind::Start));

    let deadline = Instant::now() + PATIENCE;
    while host.service.stats().dropped_stalled == 0 {
        host.publish(&[7; 16_000]);
        assert!(Instant::now() < deadline, "{:?}", host.service.stats());
    }

    assert_eq!(host.wait_for(|stats| stats.connections == 0).dropped_stalled, 1);
}

#[test]
fn client_that_does_not_subscribe_in_time_is_told_so_and_dropped() {
    let host = Host::new(|options| {
        options.subscribe_deadline = Duration::from_millis(50);
        options.heartbeat = Duration::from_millis(20);
    });
    let mut stranger = Stranger::connect(&host);

    // A slow loris: a good frame, but never all of it.
    let mut bytes = Vec::new();
    ClientFrame::Subscribe {
        incarnation: Incarnation::NIL,
        join: Join::New,
    }
    .append_to(&mut bytes);
    stranger.stream.write_all(&bytes[..HEADER_BYTES + 3]).unwrap();

    assert_eq!(stranger.rejection().0, RejectCode::SubscribeDeadline);
    drop(stranger);
    assert_eq!(host.wait_for(|stats| stats.connections == 0).rejected_late, 1);
}

#[test]
fn client_without_heartbeats_is_told_so_and_dropped() {
    let host = Host::new(|options| {
        options.heartbeat = Duration::from_millis(20);
        options.silence_deadline = Duration::from_millis(100);
    });
    let mut stranger = Stranger::connect(&host);
    stranger.hello();
    stranger.subscribe(Join::New);

    assert_eq!(stranger.rejection().0, RejectCode::Silent);
    drop(stranger);
    assert_eq!(host.wait_for(|stats| stats.connections == 0).rejected_silent, 1);
}

#[test]
fn idle_subscriber_lives_on_heartbeats_alone() {
    let mut host = Host::new(|options| {
        options.heartbeat = Duration::from_millis(20);
        options.silence_deadline = Duration::from_millis(600);
    });
    let mut subscriber = host.join(Join::New);

    let waited = subscriber.receive(Duration::from_millis(1000), <[u8]>::len).unwrap();
    host.publish(b"at last");

    assert_eq!(waited, Poll::Empty);
    expect(&mut subscriber, 0, b"at last");
}

#[test]
fn server_that_falls_silent_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        let hello = Hello {
            incarnation: Incarnation::NIL,
            head: 0,
            oldest: 0,
            max_message_bytes: 100,
            heartbeat_ms: 10,
            silence_ms: 60,
            connections: 1,
            closed: false,
            offers: false,
            name: String::new(),
        };
        ServerFrame::Hello(hello).append_to(&mut bytes);
        ServerFrame::Start { first: 0, missed: 0 }.append_to(&mut bytes);
        stream.write_all(&bytes).unwrap();
        // Until the client gives up.
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard);
        heard.len()
    });
    let mut subscriber = RemoteSubscriber::connect(&[address], Incarnation::NIL, Join::New, PATIENCE).unwrap();

    let error = subscriber.receive(PATIENCE, <[u8]>::len).unwrap_err();
    drop(subscriber);

    assert!(matches!(error, RemoteError::Silent { .. }), "{error:?}");
    assert!(server.join().unwrap() > 44, "not one PROGRESS was sent");
}

#[test]
fn garbage_is_answered_with_the_reason_and_counted() {
    let host = Host::new(|_| {});
    let mut stranger = Stranger::connect(&host);

    stranger.stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();

    let (code, reason) = stranger.rejection();
    assert_eq!(
        (code, reason),
        (RejectCode::Protocol, FrameError::UnknownKind(b'T').to_string())
    );
    drop(stranger);
    assert_eq!(host.wait_for(|stats| stats.connections == 0).rejected_protocol, 1);
}

#[test]
fn frame_longer_than_a_client_may_send_is_refused_by_its_header() {
    let host = Host::new(|_| {});
    let mut stranger = Stranger::connect(&host);
    let mut header = [0; HEADER_BYTES];
    header[4..8].copy_from_slice(&65_u32.to_le_bytes());
    header[8] = Kind::Subscribe as u8;

    stranger.stream.write_all(&header).unwrap();

    assert_eq!(stranger.rejection().0, RejectCode::Protocol);
}

#[test]
fn frames_out_of_order_are_refused() {
    let host = Host::new(|_| {});
    let mut early = Stranger::connect(&host);
    early.say(ClientFrame::Progress { next: 0 });
    let mut twice = Stranger::connect(&host);
    twice.subscribe(Join::New);
    twice.subscribe(Join::New);
    let mut ahead = Stranger::connect(&host);
    ahead.subscribe(Join::New);
    ahead.say(ClientFrame::Progress { next: 1 });

    for mut stranger in [early, twice, ahead] {
        stranger.hello();
        assert_eq!(stranger.rejection().0, RejectCode::Protocol);
    }
    assert_eq!(host.wait_for(|stats| stats.connections == 0).rejected_protocol, 3);
}

#[test]
fn client_of_another_version_is_told_which_one_is_spoken() {
    let host = Host::new(|_| {});
    let mut stranger = Stranger::connect(&host);
    let mut bytes = Vec::new();
    ClientFrame::Subscribe {
        incarnation: Incarnation::NIL,
        join: Join::New,
    }
    .append_to(&mut bytes);
    bytes[HEADER_BYTES] = 9;
    super::wire::finish(&mut bytes, 0);

    stranger.stream.write_all(&bytes).unwrap();

    assert_eq!(
        stranger.rejection(),
        (
            RejectCode::UnsupportedVersion,
            "this server speaks version 1".to_owned()
        )
    );
    assert_eq!(host.service.stats().rejected_version, 1);
}

#[test]
fn one_connection_too_many_is_turned_away_until_there_is_room() {
    let host = Host::new(|options| options.max_connections = 2);
    let first = host.join(Join::New);
    let _second = host.join(Join::New);

    let third = RemoteSubscriber::connect(&[host.address], Incarnation::NIL, Join::New, PATIENCE).unwrap_err();
    drop(first);
    host.wait_for(|stats| stats.connections == 1);
    let fourth = host.join(Join::New);

    assert!(
        matches!(
            third,
            RemoteError::Rejected {
                code: RejectCode::TooManyConnections,
                ..
            }
        ),
        "{third:?}"
    );
    assert_eq!(fourth.hello().connections, 2);
    assert_eq!(host.service.stats().rejected_full, 1);
}

#[test]
fn client_that_closes_its_sending_half_has_left() {
    let host = Host::new(|_| {});
    let mut stranger = Stranger::connect(&host);
    stranger.hello();
    stranger.subscribe(Join::New);
    assert_eq!(stranger.hear(), Some(Kind::Start));
    stranger.decoder.server_frame().unwrap();

    stranger.stream.shutdown(Shutdown::Write).unwrap();

    assert_eq!(stranger.hear(), None);
    assert_eq!(host.wait_for(|stats| stats.connections == 0).left, 1);
}

#[test]
fn two_hundred_subscribers_all_get_everything() {
    const MESSAGES: u64 = 2000;
    let mut host = Host::with_ring(4096, 64 << 10, None, |_| {});
    let mut subscribers: Vec<_> = (0..200).map(|_| host.join(Join::Oldest)).collect();

    for sequence in 0..MESSAGES {
        host.publish(&sequence.to_le_bytes());
    }
    host.close();

    for subscriber in &mut subscribers {
        for sequence in 0..MESSAGES {
            expect(subscriber, sequence, &sequence.to_le_bytes());
        }
        assert_eq!(receive(subscriber), Poll::Ended);
    }
    assert!(host.service.finish(PATIENCE));
    let stats = host.service.stats();
    assert_eq!((stats.finished, stats.messages, stats.missed), (200, 200 * MESSAGES, 0));
}

#[test]
fn service_listens_on_every_address_it_is_given() {
    let second = TcpListener::bind("[::1]:0")
        .or_else(|_| TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = second.local_addr().unwrap();
    let mut host = Host::new(|options| options.listeners.push(second));
    let mut there = RemoteSubscriber::connect(&[address], Incarnation::NIL, Join::New, PATIENCE).unwrap();
    let mut here = host.join(Join::New);

    host.publish(b"both");

    expect(&mut there, 0, b"both");
    expect(&mut here, 0, b"both");
}

#[test]
fn dropped_service_closes_its_connections_and_is_no_longer_running() {
    let host = Host::new(|_| {});
    let mut subscriber = host.join(Join::New);
    assert!(host.service.is_running());

    let Host {
        service,
        publisher: _publisher,
        ..
    } = host;
    drop(service);

    let error = subscriber.receive(PATIENCE, <[u8]>::len).unwrap_err();
    assert!(matches!(error, RemoteError::Closed), "{error:?}");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let geometry = Geometry::new(8, 128, 4096, None).unwrap();
    let header = Header::new(&geometry, Incarnation::random().unwrap(), "x", 0, 100_000_000);
    let segment = Owned::private(header, geometry).unwrap();
    let mut options = ServiceOptions::new(Vec::new());
    options.silence_deadline = options.heartbeat;

    let error = Service::spawn(
        segment.share(),
        Arc::new(Bell::new()),
        Arc::new(Gate::new(segment.share().geometry(), None)),
        options,
    )
    .unwrap_err();

    assert!(
        error.to_string().contains("must be longer than the heartbeat"),
        "{error}"
    );
}

#[test]
fn ring_that_somebody_scribbles_in_ends_connections_and_not_the_service() {
    const CONNECTIONS: u64 = 300;
    let mut host = Host::with_ring(16, 4096, None, |_| {});
    let service_is_running = || host.service.is_running();
    let (address, over) = (host.address, std::sync::atomic::AtomicBool::new(false));
    let publisher = host.publisher.as_mut().unwrap();

    let (messages, errors) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let outcome = std::panic::catch_unwind(|| read_what_comes(address, CONNECTIONS));
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            outcome.expect("no frame is wrong")
        });
        scribble(publisher, || over.load(std::sync::atomic::Ordering::Relaxed));
        reader.join().unwrap()
    });

    assert!(service_is_running(), "the service thread died");
    assert!(
        messages > 0 && errors > 0,
        "{messages} messages, {errors} connections lost"
    );
}

/// Publishes, and writes what no publisher would into the ring, until it `is_over`.
fn scribble(publisher: &mut Publisher, is_over: impl Fn() -> bool) {
    let slots = publisher.geometry().slot_count();
    let mut random = 1_u64;
    let mut draw = |end: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    while !is_over() {
        publisher.publish(&vec![3; draw(1000) as usize]).unwrap();
        if draw(4) > 0 {
            std::thread::yield_now();
            continue;
        }
        let next = publisher.next_sequence();
        let slot = publisher.geometry().slot_at(next.wrapping_sub(draw(4)));
        let at = match draw(8) {
            word @ 0..=4 => slot + word as usize,
            5 => crate::layout::FLOOR_WORD,
            _ => crate::layout::HEAD_WORD,
        };
        let value = match draw(5) {
            0 => (next + draw(3) * slots) << 2 | draw(4),
            1 => 1 << draw(64),
            2 => u64::MAX - draw(4),
            3 => 1 << 63 | draw(5000),
            _ => draw(5000),
        };
        publisher.memory()[at].store(value, crate::sync::Ordering::Relaxed);
    }
}

/// Connects again and again and reads until the connection is lost. What does come must be in order.
fn read_what_comes(address: SocketAddr, connections: u64) -> (u64, u64) {
    let (mut messages, mut errors) = (0, 0);
    for i in 0..connections {
        let join = [Join::New, Join::Oldest, Join::Latest(3), Join::Sequence(i)][i as usize % 4];
        let error = match RemoteSubscriber::connect(&[address], Incarnation::NIL, join, PATIENCE) {
            Ok(mut subscriber) => (0..100).find_map(|_| {
                let outcome = subscriber.receive(Duration::from_millis(1), <[u8]>::len);
                messages += u64::from(matches!(outcome, Ok(Poll::Message(_))));
                outcome.err()
            }),
            Err(error) => Some(error),
        };
        errors += u64::from(error.is_some());
        assert!(matches!(error, None | Some(RemoteError::Closed)), "{error:?}");
    }
    (messages, errors)
}

/// Says to the copy of this test that it is the server with few descriptors.
const FEW_DESCRIPTORS: &str = "LAPWING_TEST_FEW_DESCRIPTORS";

/// The copy, which is not left behind.
struct Copy(std::process::Child);

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn clients_are_turned_away_while_descriptors_are_short_and_served_again_afterwards() {
    if std::env::var_os(FEW_DESCRIPTORS).is_some() {
        return serve_with_few_descriptors();
    }
    let name = "clients_are_turned_away_while_descriptors_are_short_and_served_again_afterwards";
    let copy = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            &format!("socket::tests::{name}"),
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(FEW_DESCRIPTORS, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut copy = Copy(copy.unwrap());
    let mut lines = std::io::BufReader::new(copy.0.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| Some(line.unwrap().split_once("address=")?.1.parse().unwrap()));
    let connect = || RemoteSubscriber::connect(&[address.unwrap()], Incarnation::NIL, Join::Oldest, PATIENCE);

    let mut joined = Vec::new();
    let refused = loop {
        match connect() {
            Ok(subscriber) => joined.push(subscriber),
            Err(error) => break error,
        }
        assert!(joined.len() < 64, "descriptors do not run out");
    };
    let refused_again = connect().unwrap_err();
    joined.truncate(joined.len() / 2);
    let deadline = Instant::now() + PATIENCE;
    let mut late = loop {
        match connect() {
            Ok(subscriber) => break subscriber,
            Err(_) => assert!(Instant::now() < deadline, "nobody is served any more"),
        }
    };

    for error in [refused, refused_again] {
        assert!(
            matches!(
                error,
                RemoteError::Rejected {
                    code: RejectCode::TooManyConnections,
                    ..
                }
            ),
            "{error:?}"
        );
    }
    expect(&mut late, 0, b"still served");
    for subscriber in &mut joined {
        expect(subscriber, 0, b"still served");
    }
}

/// A server in a process of its own, since the limit holds for all of it. Serves until its input ends.
fn serve_with_few_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let mut host = Host::new(|_| {});
    host.publish(b"still served");
    let limit = Rlimit {
        current: Some(32),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();

    println!("address={}", host.address);

    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
