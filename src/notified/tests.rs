//! The descriptor in one process. `tests/waiting.rs` has it between processes, one of them killed.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::discovery::{self, Trust};
use crate::server::{Server, ServerOptions};

/// Longer than anything here takes.
const WATCHDOG: Duration = Duration::from_secs(30);

fn server(dir: &tempfile::TempDir) -> Server {
    let mut options = ServerOptions::new("stream".parse().unwrap());
    options.info_dir = dir.path().to_owned();
    options.listen = Vec::new();
    Server::start(options).unwrap()
}

fn notified(server: &Server, join: Join) -> Notified {
    let found = discovery::read(server.info_path(), &Trust::default()).unwrap();
    Notified::new(Subscriber::open(&found, join).unwrap()).unwrap()
}

fn is_readable(stream: &Notified, timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).unwrap();
    poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

/// Waits for the descriptor as a program does, until a poll finds something.
fn next(stream: &mut Notified) -> Poll<Vec<u8>> {
    loop {
        match stream.poll(|view| view.to_vec()) {
            Poll::Empty => assert!(is_readable(stream, WATCHDOG), "nothing came"),
            outcome => return outcome,
        }
    }
}

#[test]
fn descriptor_is_readable_before_the_first_poll_and_not_while_there_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir);
    let mut stream = notified(&server, Join::New);
    assert!(is_readable(&stream, Duration::ZERO));

    assert_eq!(stream.poll(|_| ()), Poll::Empty);

    assert!(!is_readable(&stream, Duration::ZERO));
}

#[test]
fn every_message_and_the_end_make_the_descriptor_readable() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir);
    let mut stream = notified(&server, Join::New);

    for i in 0..200_u64 {
        // Each is published when the thread sleeps, is about to, or has not begun: all of them happen.
        assert_eq!(stream.poll(|_| ()), Poll::Empty);
        std::thread::sleep(Duration::from_micros(i % 100));
        server.publisher().publish(&i.to_le_bytes()).unwrap();
        assert!(matches!(next(&mut stream), Poll::Message(message) if message.value == i.to_le_bytes()));
    }
    server.end_stream();

    assert_eq!(next(&mut stream), Poll::Ended);
}

#[test]
fn sequence_that_never_comes_is_told_as_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir);
    let mut stream = notified(&server, Join::Sequence(3));
    assert_eq!(stream.poll(|_| ()), Poll::Empty);

    server.publisher().publish(b"too early").unwrap();
    server.end_stream();

    assert_eq!(next(&mut stream), Poll::Ended);
    assert_eq!(next(&mut stream), Poll::Ended, "and again");
}

#[test]
fn subscriber_comes_back_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir);
    let mut stream = notified(&server, Join::New);
    server.publisher().publish(b"first").unwrap();
    assert!(matches!(next(&mut stream), Poll::Message(_)));
    // The thread sleeps for message 1 now.
    assert_eq!(stream.poll(|_| ()), Poll::Empty);

    let subscriber = stream.into_inner();

    assert_eq!(subscriber.cursor(), 1);
}
