//! Clients that break the protocol, or leave in the middle of it.

use super::*;
use crate::socket::chunk::Chunks;
use crate::socket::connection::{Connection, Deadlines, Hub};
use crate::socket::survivors::Survivors;

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
    crate::socket::wire::finish(&mut bytes, 0);

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
fn client_that_never_stops_talking_leaves_the_others_their_turn() {
    let mut hub = hub();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut connection = Connection::new(mio::net::TcpStream::from_std(stream), 1, &mut hub);
    let mut said = Vec::new();
    ClientFrame::Subscribe {
        incarnation: Incarnation::NIL,
        join: Join::New,
    }
    .append_to(&mut said);
    (0..2000).for_each(|_| ClientFrame::Progress { next: 0 }.append_to(&mut said));
    client.write_all(&said).unwrap();

    let deadline = Instant::now() + PATIENCE;
    while rustix::io::ioctl_fionread(&connection.stream).unwrap() < said.len() as u64 {
        assert!(Instant::now() < deadline, "what was said does not arrive");
    }

    let mut turns = 1;
    connection.receive(&mut hub).unwrap();
    while connection.unread {
        connection.receive(&mut hub).unwrap();
        turns += 1;
    }

    // A turn takes 32 reads of at most 152 bytes.
    let least = said.len() / (32 * 152);
    assert!(
        turns > least,
        "{} bytes in {turns} turns, not in more than {least}",
        said.len()
    );
}

/// What a service has for its connections.
fn hub() -> Hub {
    let geometry = Geometry::new(8, 128, 4096, None).unwrap();
    let header = Header::new(&geometry, Incarnation::random().unwrap(), "x", 0, 100_000_000);
    Hub {
        segment: Owned::private(header, geometry).unwrap().share(),
        gate: Arc::new(Gate::new(&geometry, None)),
        leased: 0,
        survivors: Survivors::default(),
        deadlines: Deadlines {
            subscribe: PATIENCE,
            heartbeat: PATIENCE,
            silence: PATIENCE,
            stall: PATIENCE,
            linger: PATIENCE,
        },
        chunks: Chunks::default(),
        counters: Arc::default(),
        now: Instant::now(),
    }
}
