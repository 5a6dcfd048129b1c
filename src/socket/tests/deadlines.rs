//! Peers that are late, silent or stalled, and those that are only idle.

use super::*;

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
fn client_that_was_refused_and_does_not_close_is_dropped() {
    let host = Host::new(|options| {
        options.linger = Duration::from_millis(50);
        options.heartbeat = Duration::from_millis(20);
    });
    let mut stranger = Stranger::connect(&host);
    stranger.stream.write_all(&[0xff; HEADER_BYTES]).unwrap();

    let (code, _) = stranger.rejection();
    let stats = host.wait_for(|stats| stats.connections == 0);

    assert_eq!((code, stats.rejected_protocol), (RejectCode::Protocol, 1));
    drop(stranger);
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
