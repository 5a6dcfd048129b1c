//! Followers of real servers in this process: resuming, switching transports, restarts.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::discovery::ServerName;
use crate::gate::{LosslessOffer, LosslessPolicy};
use crate::publisher::PublishError;
use crate::server::{Server, ServerOptions};
use crate::sync::Ordering;
use crate::words::watch;

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

#[test]
fn follower_goes_on_where_another_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(options(&dir, "prices")).unwrap();
    let mut first = follow(&server, Join::Oldest, TransportChoice::SharedMemory);
    let (incarnation, _) = expect_attached(&mut first, Transport::SharedMemory);
    server.publisher().publish(b"a").unwrap();
    expect_message(&mut first, 0, b"a");
    let position = first.position().unwrap();
    drop(first);
    server.publisher().publish(b"b").unwrap();

    let mut second = follow(&server, Join::New, TransportChoice::SharedMemory).resume(position);
    let attached = expect_attached(&mut second, Transport::SharedMemory);
    assert_eq!(attached, (incarnation, 1));
    expect_message(&mut second, 1, b"b");

    // Another life is followed from its first message.
    drop(server);
    let mut server = Server::start(options(&dir, "prices")).unwrap();
    server.publisher().publish(b"c").unwrap();
    let mut third = follow(&server, Join::New, TransportChoice::SharedMemory).resume(position);
    let (next, cursor) = expect_attached(&mut third, Transport::SharedMemory);
    assert_eq!((next != incarnation, cursor), (true, 0));
    expect_message(&mut third, 0, b"c");
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

/// Takes bursts until something else than a message comes. Returns that, the sequences, and the payloads with a bar behind
/// each.
fn bursts(follower: &mut Follower) -> (Event<()>, Vec<u64>, Vec<u8>) {
    let deadline = Instant::now() + WATCHDOG;
    let (mut sequences, mut out) = (Vec::new(), Vec::new());
    loop {
        let event = follower.burst(Duration::from_millis(100), &mut out, |out, received| {
            assert_eq!(out.len(), received.value + received.len, "one behind the other");
            sequences.push(received.sequence);
            out.push(b'|');
            ControlFlow::Continue(())
        });
        if event != Event::Idle {
            return (event, sequences, out);
        }
        assert!(Instant::now() < deadline, "nothing came");
    }
}

#[test]
fn burst_takes_all_that_is_there_and_then_tells_what_is_behind_it() {
    for (choice, lossless) in [
        (TransportChoice::SharedMemory, false),
        (TransportChoice::SharedMemory, true),
        (TransportChoice::Socket, false),
        (TransportChoice::Socket, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&dir, "burst");
        options.lossless = Some(LosslessOffer {
            policy: LosslessPolicy::Block,
            max_subscribers: 1,
        });
        let mut server = Server::start(options).unwrap();
        let mut follower = follow(&server, Join::Oldest, choice);
        follower.options.lossless = lossless;
        let (attached, ..) = bursts(&mut follower);
        assert!(matches!(attached, Event::Attached { cursor: 0, .. }), "{attached:?}");
        let mut expected = Vec::new();
        for len in [0, 1, 7, 8, 9, 63, 64, 65, 96, 97, 0, 5000] {
            let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
            server.publisher().publish(&payload).unwrap();
            expected.extend(payload);
            expected.push(b'|');
        }
        server.end_stream();

        let (event, sequences, out) = bursts(&mut follower);

        assert_eq!(event, Event::Ended);
        assert!(sequences.into_iter().eq(0..12));
        assert!(out == expected, "{choice:?}, lossless: {lossless}");
    }
}

#[test]
fn burst_that_is_broken_off_goes_on_at_the_next_message() {
    for choice in [TransportChoice::SharedMemory, TransportChoice::Socket] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::start(options(&dir, "broken")).unwrap();
        let mut follower = follow(&server, Join::Oldest, choice);
        let (attached, ..) = bursts(&mut follower);
        assert!(matches!(attached, Event::Attached { .. }), "{attached:?}");
        for payload in 0..9 {
            server.publisher().publish(&[payload]).unwrap();
        }
        server.end_stream();

        let mut out = Vec::new();
        let event = follower.burst(WATCHDOG, &mut out, |out, _| {
            if out.len() < 4 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });

        // Over the socket there may have been fewer.
        let taken = out.len() as u64;
        assert!(event == Event::Idle && (1..=4).contains(&taken), "{event:?} {out:?}");
        assert_eq!(follower.position().map(|(_, cursor)| cursor), Some(taken));
        let (event, sequences, _) = bursts(&mut follower);
        assert_eq!(event, Event::Ended);
        assert!(sequences.into_iter().eq(taken..9));
    }
}

/// Nothing of a message that is overwritten in the middle of its copy is left in the buffer: between two that stand, and
/// as the first of a burst.
#[test]
fn burst_keeps_nothing_of_a_message_that_was_overwritten_while_it_was_copied() {
    for before in [0, 2] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&dir, "lapped");
        options.slots = Some(8);
        let mut server = Server::start(options).unwrap();
        let mut follower = follow(&server, Join::Oldest, TransportChoice::SharedMemory);
        let (attached, ..) = bursts(&mut follower);
        assert!(matches!(attached, Event::Attached { .. }), "{attached:?}");
        for payload in 0..=before {
            server.publisher().publish(&[payload; 40]).unwrap();
        }
        // The third word of the payload is loaded: the publisher comes around and overwrites the rest.
        let slot = server.publisher().geometry().slot_at(before.into());
        let third = std::ptr::from_ref(&server.publisher().memory()[slot + 4 + 2]).addr();
        let mapped = server.publisher().memory().as_ptr().addr();
        let seen = match &follower.source {
            Some(Source::SharedMemory(subscriber)) => subscriber.segment().words().as_ptr().addr(),
            other => panic!("{other:?}"),
        };
        let (server, mut laps) = (Rc::new(RefCell::new(server)), 0..20);
        let publisher = server.clone();
        let overwrite = move |word: &crate::sync::AtomicU64| {
            if std::ptr::from_ref(word).addr() - seen == third - mapped {
                let mut server = publisher.borrow_mut();
                for payload in laps.by_ref() {
                    server.publisher().publish(&[100 + payload; 40]).unwrap();
                }
                server.end_stream();
            }
        };

        let (lapped, sequences, out) = watch::during(overwrite, || bursts(&mut follower));

        let first = u64::from(before);
        assert!(
            matches!(lapped, Event::Gap { first: lost, missed } if lost == first && missed > 0),
            "{lapped:?}"
        );
        assert!(sequences.into_iter().eq(0..first));
        let expected: Vec<u8> = (0..before)
            .flat_map(|payload| [&[payload; 40][..], b"|"].concat())
            .collect();
        assert_eq!(out, expected);
        let (end, rest, out) = bursts(&mut follower);
        assert_eq!((end, rest.last()), (Event::Ended, Some(&(first + 20))));
        assert!(out.ends_with(&[&[119; 40][..], b"|"].concat()));
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

/// A server whose info file has no lock that could be seen, and whose heart beats when the test says so.
struct Faint {
    publisher: crate::publisher::Publisher,
    segment: std::sync::Arc<crate::segment::Segment>,
    path: PathBuf,
    beats: u64,
}

impl Faint {
    fn new(dir: &tempfile::TempDir) -> Self {
        let geometry = crate::layout::Geometry::new(16, 128, 4096, None).unwrap();
        let incarnation = Incarnation::random().unwrap();
        let header = crate::layout::Header::new(&geometry, incarnation, "faint", 0, 20_000_000);
        let owned = crate::segment::Owned::create(header, geometry, Default::default(), Default::default()).unwrap();
        let segment = owned.share();
        let mut info = discovery::Info::of_this_process("faint".parse().unwrap(), incarnation);
        info.shared_memory = segment.id().map(|id| discovery::SharedMemory {
            id,
            bytes: geometry.segment_bytes() as u64,
            layout: crate::layout::LAYOUT_VERSION,
        });
        let path = dir.path().join("faint.toml");
        std::fs::write(&path, info.to_toml()).unwrap();
        Self {
            publisher: crate::publisher::Publisher::new(
                owned,
                std::sync::Arc::new(crate::bell::Bell::new()),
                std::sync::Arc::new(crate::gate::Gate::new(&geometry, None)),
            ),
            segment,
            path,
            beats: 0,
        }
    }

    fn beat(&mut self) {
        self.beats += 1;
        self.segment.beat(self.beats);
    }
}

#[test]
fn server_that_was_taken_for_dead_is_followed_again_once_its_heart_beats() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Faint::new(&dir);
    let mut follower = Follower::new(&server.path, FollowOptions::default());
    expect_attached(&mut follower, Transport::SharedMemory);
    server.publisher.publish(b"zero").unwrap();
    expect_message(&mut follower, 0, b"zero");

    // It stands still for longer than three of its intervals.
    let detached = next(&mut follower);
    server.publisher.publish(b"one").unwrap();
    for _ in 0..2 {
        let still = follower.next(2 * SEARCH_INTERVAL, |payload| payload.to_vec());
        assert_eq!(still, Event::Idle, "followed before it shows life");
    }
    server.beat();

    assert!(matches!(detached, Event::Detached { died: true, .. }), "{detached:?}");
    assert_eq!(expect_attached(&mut follower, Transport::SharedMemory).1, 1);
    expect_message(&mut follower, 1, b"one");
}

/// A stranger who greets as `incarnation` as often as he is called, and hangs up each time. Ends when he is told to.
fn hang_up_on_everybody(incarnation: Incarnation) -> (std::net::SocketAddr, impl FnOnce()) {
    use crate::socket::frame::{Hello, ServerFrame};
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let is_over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = is_over.clone();
    let stranger = std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            if told.load(Ordering::Relaxed) {
                return;
            }
            let hello = Hello {
                incarnation,
                head: 0,
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
            stream.write_all(&bytes).unwrap();
            // What was not read would make the close a reset, and the greeting might be lost with it.
            let mut subscribe = [0; 44];
            stream.read_exact(&mut subscribe).unwrap();
        }
    });
    let end = move || {
        is_over.store(true, Ordering::Relaxed);
        std::net::TcpStream::connect(address).unwrap();
        stranger.join().unwrap();
    };
    (address, end)
}

#[test]
fn source_that_fails_as_soon_as_it_is_there_is_not_tried_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let incarnation = Incarnation::random().unwrap();
    let (address, end) = hang_up_on_everybody(incarnation);
    let mut info = discovery::Info::of_this_process("brief".parse().unwrap(), incarnation);
    info.socket = Some(discovery::Socket {
        protocol: crate::socket::frame::VERSION.into(),
        addresses: vec![address],
    });
    let announcement = discovery::Announcement::publish(dir.path(), &info, 0o644).unwrap();
    let mut follower = Follower::new(announcement.path(), FollowOptions::default());

    let attached: Vec<_> = (0..4)
        .map(|_| {
            expect_attached(&mut follower, Transport::Socket);
            let at = follower.attached_at.unwrap();
            let detached = next(&mut follower);
            assert!(matches!(detached, Event::Detached { died: false, .. }), "{detached:?}");
            at
        })
        .collect();

    end();
    for pair in attached.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause >= SEARCH_INTERVAL, "tried again after {pause:?}");
    }
}

#[test]
fn follower_takes_the_socket_of_a_server_whose_ring_is_larger_than_it_may_attach() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(options(&dir, "large")).unwrap();
    let trust = Trust::default().with_rings_up_to(server.publisher().geometry().segment_bytes() as u64 - 1);
    let options = FollowOptions {
        from: Join::Oldest,
        trust,
        ..FollowOptions::default()
    };
    let mut follower = Follower::new(server.info_path(), options);
    server.publisher().publish(b"zero").unwrap();

    let Event::Attached { transport, reason, .. } = next(&mut follower) else {
        panic!("not attached")
    };

    assert_eq!(transport, Transport::Socket);
    assert!(reason.contains("--max-segment"), "{reason}");
    expect_message(&mut follower, 0, b"zero");
}

/// Options of a server that waits as `policy` says, with a ring of 16 messages.
fn waiting(dir: &tempfile::TempDir, name: &str, policy: LosslessPolicy) -> ServerOptions {
    let mut options = options(dir, name);
    options.slots = Some(16);
    options.lossless = Some(LosslessOffer {
        policy,
        max_subscribers: 1,
    });
    options
}

fn follow_losslessly(path: &Path, transport: TransportChoice) -> Follower {
    let options = FollowOptions {
        from: Join::Oldest,
        transport,
        lossless: true,
        ..FollowOptions::default()
    };
    Follower::new(path, options)
}

#[test]
fn lossless_follower_holds_up_the_server_and_loses_nothing_over_either_transport() {
    for (choice, transport) in [
        (TransportChoice::Auto, Transport::SharedMemory),
        (TransportChoice::Socket, Transport::Socket),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::start(waiting(&dir, "orders", LosslessPolicy::Block)).unwrap();
        let mut follower = follow_losslessly(server.info_path(), choice);
        expect_attached(&mut follower, transport);
        assert!(follower.is_lossless());
        for i in 0..15_u8 {
            server.publisher().publish(&[i]).unwrap();
        }
        assert_eq!(
            server.publisher().try_publish_tagged(0, &[15]),
            Err(PublishError::Full),
            "{transport}"
        );

        let publishing = std::thread::spawn(move || {
            for i in 15..200_u8 {
                server.publisher().publish(&[i]).unwrap();
            }
            server.end_stream();
            server
        });
        for i in 0..200_u8 {
            expect_message(&mut follower, i.into(), &[i]);
        }
        assert_eq!(next(&mut follower), Event::Ended);
        drop(publishing.join().unwrap());

        let mut second = Server::start(waiting(&dir, "orders", LosslessPolicy::Block)).unwrap();
        for i in 0..20_u8 {
            second.publisher().publish(&[i]).unwrap();
        }
        expect_attached(&mut follower, transport);
        // A ring of 16. Over the socket one slot is kept for the end, one for a message that may be under way; who reads
        // the ring itself finds there what is gone.
        let oldest = if transport == Transport::SharedMemory { 4 } else { 6 };
        let missed = Event::Gap {
            first: 0,
            missed: oldest,
        };
        assert_eq!(next(&mut follower), missed);
        expect_message(&mut follower, oldest, &[oldest as u8]);
        assert_eq!(second.lossless_status().subscribers, 1);
    }
}

#[test]
fn eviction_is_told_once_before_what_it_cost() {
    for choice in [TransportChoice::SharedMemory, TransportChoice::Socket] {
        let dir = tempfile::tempdir().unwrap();
        let policy = LosslessPolicy::Evict(Duration::from_millis(50));
        let mut server = Server::start(waiting(&dir, "orders", policy)).unwrap();
        let mut follower = follow_losslessly(server.info_path(), choice);
        assert!(matches!(next(&mut follower), Event::Attached { .. }));

        // What a socket holds is not lost.
        for _ in 0..4096 {
            server.publisher().publish(&[7; 4096]).unwrap();
        }
        server.end_stream();

        let (mut evictions, mut gaps, mut told) = (0, 0, 0);
        loop {
            match next(&mut follower) {
                Event::Message(received) => {
                    assert_eq!(received.sequence, told);
                    told += 1;
                }
                Event::Evicted { cursor } => {
                    assert_eq!(cursor, told);
                    evictions += 1;
                }
                Event::Gap { first, missed } => {
                    assert_eq!((first, evictions), (told, 1), "a loss before the eviction was told");
                    told += missed;
                    gaps += 1;
                }
                Event::Ended => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((told, evictions), (4096, 1), "{choice:?}");
        assert!(gaps > 0 && !follower.is_lossless());
    }
}

#[test]
fn server_that_offers_nothing_is_told_once_and_the_next_that_does_is_followed() {
    for (shared_memory, socket) in [(true, true), (true, false), (false, true)] {
        let dir = tempfile::tempdir().unwrap();
        let mut lossy = options(&dir, "orders");
        lossy.shared_memory = shared_memory;
        if !socket {
            lossy.listen.clear();
        }
        let first = Server::start(lossy).unwrap();
        let mut follower = follow_losslessly(first.info_path(), TransportChoice::Auto);

        let Event::Refused { incarnation, reason } = next(&mut follower) else {
            panic!("not refused")
        };
        assert_eq!(incarnation, first.info().incarnation);
        assert!(reason.contains("lossless subscriptions"), "{reason}");
        assert_eq!(follower.next(Duration::ZERO, |_| ()), Event::Idle);
        drop(first);
        let _second = Server::start(waiting(&dir, "orders", LosslessPolicy::Block)).unwrap();

        expect_attached(&mut follower, Transport::SharedMemory);
    }
}

#[test]
fn lossless_follower_waits_for_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(waiting(&dir, "orders", LosslessPolicy::Block)).unwrap();
    let mut first = follow_losslessly(server.info_path(), TransportChoice::Auto);
    expect_attached(&mut first, Transport::SharedMemory);
    let mut second = follow_losslessly(server.info_path(), TransportChoice::Auto);

    assert_eq!(second.next(Duration::ZERO, |_| ()), Event::Idle);
    let why = second.why_searching().unwrap();
    assert!(why.contains("--max-lossless"), "{why}");
    drop(first);

    expect_attached(&mut second, Transport::SharedMemory);
}
