//! Followers of real servers in this process: resuming, switching transports, restarts.

use super::*;
use crate::discovery::ServerName;
use crate::server::{Server, ServerOptions};
use crate::sync::Ordering;

/// Long enough for anything here; a test that needs it has failed.
const WATCHDOG: Duration = Duration::from_secs(20);

fn options(dir: &tempfile::TempDir, name: &str) -> ServerOptions {
    let mut options = ServerOptions::new(name.parse::<ServerName>().unwrap());
    options.info_dir = dir.path().to_owned();
    options
}

fn follow(server: &Server, from: Join, transport: TransportChoice) -> Follower {
    let options = FollowOptions {
        from,
        transport,
        ..FollowOptions::default()
    };
    Follower::new(server.info_path(), options)
}

fn next(follower: &mut Follower) -> Event<Vec<u8>> {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        let event = follower.next(Duration::from_millis(100), |payload| payload.to_vec());
        if event != Event::Idle {
            return event;
        }
        assert!(
            Instant::now() < deadline,
            "nothing came; {:?}",
            follower.why_searching()
        );
    }
}

fn expect_attached(follower: &mut Follower, over: Transport) -> (Incarnation, u64) {
    match next(follower) {
        Event::Attached {
            incarnation,
            transport,
            cursor,
            ..
        } if transport == over => (incarnation, cursor),
        other => panic!("attached over {over} expected, not {other:?}"),
    }
}

fn expect_message(follower: &mut Follower, sequence: u64, payload: &[u8]) {
    match next(follower) {
        Event::Message(received) => assert_eq!((received.sequence, &received.value[..]), (sequence, payload)),
        other => panic!("message {sequence} expected, not {other:?}"),
    }
}

#[test]
fn both_transports_tell_the_same_stream_and_its_end() {
    for (choice, transport) in [
        (TransportChoice::SharedMemory, Transport::SharedMemory),
        (TransportChoice::Socket, Transport::Socket),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::start(options(&dir, "same")).unwrap();
        server.publisher().publish(b"zero").unwrap();
        server.publisher().publish(&[1; 5000]).unwrap();
        let mut follower = follow(&server, Join::Oldest, choice);

        assert_eq!(
            expect_attached(&mut follower, transport),
            (server.info().incarnation, 0)
        );
        expect_message(&mut follower, 0, b"zero");
        expect_message(&mut follower, 1, &[1; 5000]);
        server.publisher().publish(b"two").unwrap();
        expect_message(&mut follower, 2, b"two");
        server.end_stream();
        assert_eq!(next(&mut follower), Event::Ended);
    }
}

#[test]
fn restarted_server_is_followed_from_its_first_message_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Server::start(options(&dir, "again")).unwrap();
    let mut follower = follow(&first, Join::New, TransportChoice::Auto);
    let (old, _) = expect_attached(&mut follower, Transport::SharedMemory);
    first.publisher().publish(b"old").unwrap();
    expect_message(&mut follower, 0, b"old");
    drop(first);
    assert_eq!(next(&mut follower), Event::Ended);

    let mut second = Server::start(options(&dir, "again")).unwrap();
    second.publisher().publish(b"new").unwrap();

    let (new, cursor) = expect_attached(&mut follower, Transport::SharedMemory);
    assert_ne!(old, new);
    assert_eq!(cursor, 0);
    expect_message(&mut follower, 0, b"new");
}

#[test]
fn what_a_new_incarnation_has_overwritten_already_is_told_as_missed() {
    let dir = tempfile::tempdir().unwrap();
    let first = Server::start(options(&dir, "gap")).unwrap();
    let mut follower = follow(&first, Join::New, TransportChoice::Auto);
    expect_attached(&mut follower, Transport::SharedMemory);
    drop(first);
    assert_eq!(next(&mut follower), Event::Ended);

    let mut again = options(&dir, "gap");
    again.slots = Some(16);
    let mut second = Server::start(again).unwrap();
    for i in 0..100_u8 {
        second.publisher().publish(&[i]).unwrap();
    }

    expect_attached(&mut follower, Transport::SharedMemory);
    assert_eq!(next(&mut follower), Event::Gap { first: 0, missed: 84 });
    expect_message(&mut follower, 84, &[84]);
}

#[test]
fn follower_goes_on_over_the_socket_at_the_next_sequence_when_the_segment_cannot_be_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(options(&dir, "switch")).unwrap();
    let mut follower = follow(&server, Join::New, TransportChoice::Auto);
    expect_attached(&mut follower, Transport::SharedMemory);
    server.publisher().publish(b"zero").unwrap();
    expect_message(&mut follower, 0, b"zero");

    // A stamp that cannot stand in this slot, for as long as the follower looks.
    let at = server.publisher().geometry().slot_at(1);
    server.publisher().memory()[at].store(2 << 2 | 2, Ordering::Relaxed);
    let detached = next(&mut follower);
    server.publisher().memory()[at].store(0, Ordering::Relaxed);
    server.publisher().publish(b"one").unwrap();

    assert!(matches!(detached, Event::Detached { died: false, .. }), "{detached:?}");
    assert_eq!(expect_attached(&mut follower, Transport::Socket).1, 1);
    expect_message(&mut follower, 1, b"one");
}

#[test]
fn follower_of_a_server_without_shared_memory_uses_the_socket_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut only_socket = options(&dir, "tcp");
    only_socket.shared_memory = false;
    let mut server = Server::start(only_socket).unwrap();
    let mut follower = follow(&server, Join::New, TransportChoice::Auto);

    let Event::Attached { transport, reason, .. } = next(&mut follower) else {
        panic!("not attached")
    };
    server.publisher().publish(b"zero").unwrap();

    assert_eq!(transport, Transport::Socket);
    assert!(reason.contains("shared memory: the server offers none"), "{reason}");
    expect_message(&mut follower, 0, b"zero");
}

#[test]
fn follower_may_be_there_before_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later.toml");
    let mut follower = Follower::new(
        &path,
        FollowOptions {
            from: Join::Oldest,
            ..FollowOptions::default()
        },
    );
    assert_eq!(follower.next(Duration::ZERO, |_| ()), Event::Idle);
    assert!(follower.why_searching().is_some());

    let mut server = Server::start(options(&dir, "later")).unwrap();
    server.publisher().publish(b"zero").unwrap();

    expect_attached(&mut follower, Transport::SharedMemory);
    expect_message(&mut follower, 0, b"zero");
}
