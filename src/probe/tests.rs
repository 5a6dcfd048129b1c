//! Looks at servers of this process, in each of the four categories that one machine can show without namespaces.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};

use super::*;
use crate::discovery::{Announcement, Info, ServerName, Socket, Trust, read};
use crate::layout::{Geometry, HEAD_WORD, Header};
use crate::segment::Owned;
use crate::server::{Server, ServerOptions};
use crate::socket::frame::{ServerFrame, VERSION};
use crate::sync::{AtomicU64, Ordering};
use crate::words::watch;

/// Long enough for anything here; a look that takes longer does not keep to its deadline.
const WATCHDOG: Duration = Duration::from_secs(20);

fn options(dir: &tempfile::TempDir) -> ServerOptions {
    let mut options = ServerOptions::new("probed".parse::<ServerName>().unwrap());
    options.info_dir = dir.path().to_owned();
    options
}

fn look(found: &Found) -> Report {
    probe(
        found,
        &ProbeOptions {
            deadline: Instant::now() + WATCHDOG,
            last: 2,
        },
    )
}

fn found(server: &Server) -> Found {
    read(server.info_path(), &Trust::default()).unwrap()
}

#[test]
fn category_follows_from_what_works_and_the_newest_messages_come_over_it() {
    let all = [
        (true, true, Category::Host),
        (true, false, Category::Container),
        (false, true, Category::Remote),
    ];
    for (shared_memory, socket, category) in all {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&dir);
        options.shared_memory = shared_memory;
        if !socket {
            options.listen.clear();
        }
        let mut server = Server::start(options).unwrap();
        for payload in [b"a", b"b", b"c"] {
            server.publisher().publish(payload).unwrap();
        }

        let report = look(&found(&server));

        assert_eq!((report.category, report.state), (category, ServerState::Live));
        assert_eq!(
            (report.oldest, report.head, report.missed, report.readers),
            (0, 3, 0, Some(0))
        );
        let messages: Vec<_> = report.messages.iter().map(|m| (m.sequence, &m.payload[..])).collect();
        assert_eq!(messages, [(1, &b"b"[..]), (2, b"c")]);
    }
}

/// A server that has published `a`, `b` and `c`, and the listener at the address that it announces.
fn server_with_a_socket_of_its_own(dir: &tempfile::TempDir) -> (Server, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = options(dir);
    options.advertise = vec![listener.local_addr().unwrap()];
    let mut server = Server::start(options).unwrap();
    for payload in [b"a", b"b", b"c"] {
        server.publisher().publish(payload).unwrap();
    }
    (server, listener)
}

fn sequences(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.sequence).collect()
}

#[test]
fn socket_that_never_answers_keeps_nobody_from_the_newest_messages_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _mute) = server_with_a_socket_of_its_own(&dir);
    let deadline = Instant::now() + Duration::from_secs(1);

    let report = probe(&found(&server), &ProbeOptions { deadline, last: 2 });

    assert_eq!((report.category, report.head), (Category::Container, 3));
    assert_eq!(sequences(&report.messages), [1, 2]);
    // The head is told as of then, before the socket took its time.
    let age = Duration::from_nanos(now_ns() - report.looked_unix_ns);
    assert!(age > report.socket.took / 2, "{age:?}: {report:?}");
}

#[test]
fn message_that_comes_while_the_socket_is_tried_is_among_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, listener) = server_with_a_socket_of_its_own(&dir);
    let found = found(&server);
    let publisher = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        server.publisher().publish(b"d").unwrap();
        drop(stream);
        server
    });

    let report = look(&found);

    let _server = publisher.join().unwrap();
    assert_eq!((report.category, report.head), (Category::Container, 4));
    assert_eq!(sequences(&report.messages), [2, 3]);
}

fn publish(server: &mut Server, count: usize) {
    for _ in 0..count {
        server.publisher().publish(b"x").unwrap();
    }
}

#[test]
fn looks_take_the_newest_messages_without_a_hole_and_no_more_than_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(&dir);
    options.slots = Some(8);
    let mut server = Server::start(options).unwrap();
    let mut subscriber = Subscriber::open(&found(&server), Join::Oldest).unwrap();
    let looks = [
        (3, vec![(2, 0..2), (2, 1..4), (0, 1..4), (3, 4..7), (9, 13..16)]),
        // More than the ring retains.
        (20, vec![(20, 28..36), (1, 28..37), (9, 38..46)]),
    ];
    for (last, looks) in looks {
        let mut retrieved = Retrieved::nothing();
        let options = ProbeOptions {
            deadline: Instant::now() + WATCHDOG,
            last,
        };
        for (count, newest) in looks {
            publish(&mut server, count);

            retrieved.take_from_segment(&mut subscriber, &options);

            assert_eq!(sequences(&retrieved.messages), Vec::from_iter(newest.clone()));
            assert_eq!((retrieved.head, retrieved.missed), (newest.end, 0));
        }
    }
}

#[test]
fn stream_in_full_flow_shows_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(options(&dir)).unwrap();
    let mut subscriber = Subscriber::open(&found(&server), Join::Oldest).unwrap();
    let mut retrieved = Retrieved::nothing();
    let options = ProbeOptions {
        deadline: Instant::now() + WATCHDOG,
        last: 1,
    };
    // One between any two loads.
    let flow = move |_: &AtomicU64| publish(&mut server, 1);

    watch::during(flow, || retrieved.take_from_segment(&mut subscriber, &options));

    assert_eq!((retrieved.messages.len(), retrieved.missed), (1, 0));
}

#[test]
fn server_that_nothing_reaches_is_called_neither_hung_nor_dead_while_its_lock_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(options(&dir)).unwrap();
    let mut found = found(&server);
    found.info.shared_memory = None;
    found.info.socket = None;

    let report = look(&found);

    assert_eq!((report.category, report.state), (Category::Vm, ServerState::Unknown));
}

#[test]
fn server_that_has_just_left_is_not_called_dead() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(options(&dir)).unwrap();
    let found = found(&server);
    drop(server);

    let report = look(&found);

    assert_eq!((report.category, report.state), (Category::Vm, ServerState::Ended));
    assert!(report.reason.contains("has just left"), "{}", report.reason);
}

#[test]
fn stream_that_has_ended_is_told_over_either_transport() {
    for shared_memory in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&dir);
        options.shared_memory = shared_memory;
        let mut server = Server::start(options).unwrap();
        server.publisher().publish(b"last").unwrap();
        server.end_stream();

        let report = look(&found(&server));

        assert_eq!(report.messages.len(), 1);
        assert_eq!(report.state, ServerState::Ended, "shared memory: {shared_memory}");
    }
}

#[test]
fn look_at_a_segment_that_laps_without_end_ends_at_its_deadline() {
    let geometry = Geometry::new(8, 64, 4096, None).unwrap();
    let header = Header::new(&geometry, Incarnation::from_bytes([1; 16]), "laps", 0, 1);
    let segment = Owned::private(header, geometry).unwrap();
    for slot in 0..geometry.slot_count() {
        let stamp = (geometry.slot_count() << 50 | slot) << 2 | 2;
        segment.memory()[geometry.slot_at(slot)].store(stamp, Ordering::Relaxed);
    }
    let mut subscriber = Subscriber::on(segment.share(), Join::Sequence(0));
    let deadline = Instant::now() + Duration::from_millis(50);
    // The head is far away when it is asked how far to go, and never again: one message after the other is told as lost.
    let (head, mut looks) = ((&raw const segment.memory()[HEAD_WORD]).addr(), 0);
    let stranger = move |word: &AtomicU64| {
        if std::ptr::from_ref(word).addr() == head {
            word.store(if looks == 3 { 1 << 50 } else { 0 }, Ordering::Relaxed);
            looks += 1;
        }
        assert!(Instant::now() < deadline + WATCHDOG, "it goes on behind its deadline");
    };

    let options = ProbeOptions { deadline, last: 2 };
    let mut retrieved = Retrieved::nothing();
    watch::during(stranger, || retrieved.take_from_segment(&mut subscriber, &options));

    assert!(retrieved.missed > 0 && retrieved.head == 1 << 49, "{retrieved:?}");
}

/// A stranger who greets the first who comes, and then tells him of one lost message after the other.
fn lose_messages_for_ever(incarnation: Incarnation) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let hello = Hello {
            incarnation,
            head: u64::MAX,
            oldest: 0,
            max_message_bytes: 100,
            heartbeat_ms: 1000,
            silence_ms: 10_000,
            connections: 1,
            closed: false,
            offers: false,
            name: String::new(),
        };
        let mut bytes = Vec::new();
        ServerFrame::Hello(hello).append_to(&mut bytes);
        ServerFrame::Start { first: 0, missed: 0 }.append_to(&mut bytes);
        let mut first = 0;
        while stream.write_all(&bytes).is_ok() {
            bytes.clear();
            for _ in 0..1000 {
                ServerFrame::Gap { first, missed: 1 }.append_to(&mut bytes);
                first += 1;
            }
        }
    });
    address
}

#[test]
fn look_at_a_server_that_loses_messages_without_end_ends_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let incarnation = Incarnation::random().unwrap();
    let mut info = Info::of_this_process("loser".parse().unwrap(), incarnation);
    info.socket = Some(Socket {
        protocol: VERSION.into(),
        addresses: vec![lose_messages_for_ever(incarnation)],
    });
    let announcement = Announcement::publish(dir.path(), &info, 0o644).unwrap();
    let found = read(&announcement.path(), &Trust::default()).unwrap();
    let (sender, looked) = std::sync::mpsc::channel();

    std::thread::spawn(move || {
        let options = ProbeOptions {
            deadline: Instant::now() + Duration::from_secs(1),
            last: 2,
        };
        // The test may have given up.
        let _ = sender.send(probe(&found, &options));
    });

    let report = looked
        .recv_timeout(WATCHDOG)
        .expect("a look that keeps to its deadline");
    assert_eq!(report.messages, []);
    assert!(report.missed > 0 || report.transport.is_none(), "{report:?}");
}

#[test]
fn look_retrieves_no_more_bytes_than_it_has_room_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(options(&dir)).unwrap();
    for _ in 0..5 {
        server.publisher().publish(&[7; 100]).unwrap();
    }
    let mut subscriber = Subscriber::open(&found(&server), Join::Oldest).unwrap();

    let mut retrieved = Retrieved {
        room: 250,
        ..Retrieved::nothing()
    };
    while retrieved.take(subscriber.poll(|view| view.to_vec())) {}

    // The third took more than was left; it was there already.
    assert_eq!((retrieved.messages.len(), retrieved.room), (3, 0));
}
