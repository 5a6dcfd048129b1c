//! The ends of lossless streams: a server that leaves, is killed, or offers nothing.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Instant;

use lapwing::socket::frame::ClientFrame;
use lapwing::{Incarnation, Join, Poll, ServerState};
use rustix::process::Signal;

use crate::stage::{PATIENCE, Server};

/// What of this incarnation lies in /dev/shm.
fn control_segments(incarnation: Incarnation) -> Vec<PathBuf> {
    let prefix = format!("lapwing-{incarnation}");
    let entries = std::fs::read_dir("/dev/shm").unwrap().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

#[test]
fn what_a_killed_server_leaves_in_dev_shm_the_next_removes() {
    let mut server = Server::start("--lossless block");
    let info = server.found().info;
    // Asks for a control segment, and never maps it.
    let mut stranger = TcpStream::connect(info.socket.as_ref().unwrap().addresses[0]).unwrap();
    let mut claim = Vec::new();
    let frame = ClientFrame::Claim {
        incarnation: Incarnation::NIL,
        join: Join::New,
        memory: true,
        pid: 0,
    };
    frame.append_to(&mut claim);
    stranger.write_all(&claim).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while control_segments(info.incarnation).is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }

    server.process.end_by(Signal::KILL);

    assert_eq!(
        control_segments(info.incarnation).len(),
        1,
        "nothing was left to remove"
    );
    // Whatever it offers itself.
    let next = server.start_again("");
    assert_eq!(control_segments(info.incarnation), [] as [PathBuf; 0]);
    assert_ne!(next.found().info.incarnation, info.incarnation);
}

#[test]
fn server_killed_while_many_join_leaves_nothing_that_the_next_does_not_remove() {
    let mut server = Server::start("--lossless block --max-lossless 200");
    let (found, incarnation) = (server.found(), server.found().info.incarnation);
    let found = &found;

    std::thread::scope(|scope| {
        let joining = |_| {
            // Until the server is gone.
            while lapwing::LosslessSubscriber::open(found, Join::New, PATIENCE).is_ok() {}
        };
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || joining(number))).collect();
        // They are at it.
        server.wait_for("joined", |_, offer| offer.subscribers > 0);
        server.process.end_by(Signal::KILL);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });

    let _next = server.start_again("--lossless block");
    assert_eq!(control_segments(incarnation), [] as [PathBuf; 0]);
}

#[test]
fn server_leaves_at_the_end_when_a_slow_lossless_reader_has_read_all() {
    const LINES: u64 = 1000;
    let mut server = Server::start("--slots 64 --lossless block --exit-at-end --linger 90s");
    let mut subscriber = server.lossless(Join::New);
    let mut input = server.input.take().unwrap();
    let writer = std::thread::spawn(move || (0..LINES).for_each(|line| writeln!(input, "{line}").unwrap()));
    assert_eq!(server.wait_until_held_by(&std::process::id().to_string()), 63);
    let mut read = |lines: std::ops::Range<u64>| {
        for line in lines {
            let Poll::Message(received) = subscriber.receive(PATIENCE, |view| view.to_vec()) else {
                panic!("no line {line}")
            };
            assert_eq!(received.value, line.to_string().into_bytes());
        }
        subscriber.receive(PATIENCE, |_| ())
    };

    // The end is there, and what is before it is not read.
    assert!(matches!(read(0..LINES - 33), Poll::Message(_)));
    writer.join().unwrap();
    server.wait_for("the end", |report, _| report.state == ServerState::Ended);
    assert!(server.process.is_running());
    assert_eq!(read(LINES - 32..LINES), Poll::Ended);
    drop(subscriber);

    assert!(server.process.wait().success());
    assert!(
        !server
            .process
            .said
            .iter()
            .any(|line| line.contains("left with clients"))
    );
}

#[test]
fn client_leaves_when_nobody_offers_what_it_wants_and_follows_those_who_do() {
    let lossy = Server::start("--message tick");
    let mut client = lossy.client(&[], "--follow --lossless");

    let status = client.process.wait();

    assert_eq!(status.code(), Some(1));
    let said = client.process.said.join("\n");
    assert!(
        said.contains("start it with --lossless") && said.contains("no server is left"),
        "{said}"
    );

    let other = Server::start("--message tick --lossless block");
    let both = format!("{} --follow --lossless --format json -n 3", other.info().display());
    let mut client = lossy.client(&[], &both);
    let json = client.json();
    let kinds: Vec<_> = std::iter::from_fn(|| json.next())
        .map(|value| value["type"].to_string())
        .collect();
    assert!(client.process.wait().success());
    assert!(kinds.contains(&"\"refused\"".to_owned()), "{kinds:?}");
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "\"message\"").count(),
        3,
        "{kinds:?}"
    );
}
