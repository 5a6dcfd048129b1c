//! Every way out leaves no segment behind, and every way but SIGKILL removes the info file.

use std::fs;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lapwing::discovery::{Trust, Watch, read};
use lapwing::{Join, LosslessSubscriber, Poll, Subscriber};
use rustix::io::ioctl_fionbio;
use rustix::process::Signal;

use crate::running::{Reader, Running, WATCHDOG, assert_freed, command, segment_of, start, start_with_input, type_in};

/// What a server says that lingers behind a signal.
const WAITS: &str = "a signal asked to stop: waiting for clients";

/// A pipe that is full.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

#[test]
fn standard_error_that_nobody_reads_holds_up_neither_the_stream_nor_the_end() {
    for is_read_later in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let info_path = directory.path().join("deaf.toml");
        let (pipe, writer) = full_pipe();
        let mut watch = Watch::new(&info_path);
        let mut command = command(directory.path());
        command.args(["--name", "deaf", "--stats", "10ms"]);
        command.stdin(Stdio::piped()).stderr(writer);
        let mut server = Running::unheard(command);
        let mut input = server.take_input();
        let start = Instant::now();
        while !info_path.exists() {
            assert!(start.elapsed() < WATCHDOG);
            watch.wait(Duration::from_secs(1)).unwrap();
        }

        let mut reader = Reader::of(&info_path);
        let start = Instant::now();
        // Several of the lines are due.
        while start.elapsed() < Duration::from_millis(100) {
            type_in(&mut input, b"hello\n");
            assert_eq!(reader.next_text(), "hello");
        }
        if is_read_later {
            server.listen(pipe);
            server.wait_to_hear("server: nobody read standard error in time");
            server.wait_to_hear("server: stats: ");
        }

        assert_eq!(server.end_by(Signal::TERM).status.code(), Some(0));
        assert!(!info_path.exists());
    }
}

/// What a stopped server must have undone.
fn assert_undone(server: Running, signal: Signal) {
    let (path, segment) = (server.info_path(), segment_of(&server));
    let gone = server.end_by(signal);
    assert_eq!(gone.status.code(), Some(0), "{signal:?}: {}", gone.said);
    assert!(!path.exists(), "{signal:?}");
    assert_freed(segment);
}

/// A server that catches SIGHUP also where the tests were started with it ignored.
fn start_minding_hangups(directory: &Path, arguments: &[&str]) -> Running {
    let mut server = Command::new("env");
    server.arg("--default-signal=HUP").arg(env!("CARGO_BIN_EXE_server"));
    server
        .arg("--info-dir")
        .arg(directory)
        .args(arguments)
        .stdin(Stdio::null());
    Running::announced(server)
}

#[test]
fn every_signal_stops_a_server_that_serves_its_ring() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let directory = tempfile::tempdir().unwrap();
        assert_undone(start_minding_hangups(directory.path(), &[]), signal);
    }
}

#[test]
fn every_signal_stops_a_server_that_publishes() {
    let sources: [&[&str]; 3] = [
        &["--generate", "--rate", "max"],
        &["--generate", "--rate", "1/s"],
        &["--message", "hello", "--interval", "1h"],
    ];
    for source in sources {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let directory = tempfile::tempdir().unwrap();
            let server = start_minding_hangups(directory.path(), source);
            let mut reader = server.reader();
            // It is at work.
            if !source.contains(&"max") {
                reader.next().unwrap();
            }
            drop(reader);
            assert_undone(server, signal);
        }
    }
}

#[test]
fn a_signal_stops_a_server_whose_input_is_silent() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut input) = start_with_input(directory.path(), &[]);
    let mut reader = server.reader();
    type_in(&mut input, b"then silence\nand half a li");
    reader.next().unwrap();
    drop(reader);

    assert_undone(server, Signal::INT);
}

#[test]
fn lossless_client_that_a_signal_cuts_off_is_told_with_what_it_loses() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut input) = start_with_input(directory.path(), &["--lossless", "block"]);
    let found = read(&server.info_path(), &Trust::default()).unwrap();
    let mut slow = LosslessSubscriber::open(&found, Join::New, WATCHDOG).unwrap();
    let mut reader = server.reader();
    type_in(&mut input, b"one\ntwo\nthree\n");
    assert_eq!(reader.next_texts(3), ["one", "two", "three"]);

    let gone = server.end_by(Signal::TERM);

    assert_eq!(gone.status.code(), Some(0));
    let warning = "left with 1 lossless client that had not received everything, the slowest 3 messages behind";
    assert!(gone.said.contains(warning), "{}", gone.said);
    assert!(matches!(slow.poll(|_| ()), Poll::Message(_)));
}

#[test]
fn lossless_client_that_reads_its_rest_behind_a_signal_loses_nothing_and_is_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut input) = start_with_input(directory.path(), &["--lossless", "block"]);
    let found = read(&server.info_path(), &Trust::default()).unwrap();
    let mut subscriber = LosslessSubscriber::open(&found, Join::New, WATCHDOG).unwrap();
    type_in(&mut input, b"one\n");
    assert!(matches!(subscriber.receive(WATCHDOG, |_| ()), Poll::Message(_)));

    server.signal(Signal::TERM);
    assert!(matches!(subscriber.receive(WATCHDOG, |_| ()), Poll::Ended));
    drop(subscriber);

    let gone = server.wait();
    assert_eq!(gone.status.code(), Some(0));
    assert!(!gone.said.contains("warn: "), "{}", gone.said);
}

/// A server that lingers, and a lossless subscriber that has not read its three messages.
fn with_something_unread(directory: &Path) -> (Running, LosslessSubscriber, Reader) {
    let arguments = ["--lossless", "block", "--linger", "1h", "--log-level", "info"];
    let (server, mut input) = start_with_input(directory, &arguments);
    let found = read(&server.info_path(), &Trust::default()).unwrap();
    let subscriber = LosslessSubscriber::open(&found, Join::New, WATCHDOG).unwrap();
    let mut reader = server.reader();
    type_in(&mut input, b"one\ntwo\nthree\n");
    assert_eq!(reader.next_texts(3), ["one", "two", "three"]);
    (server, subscriber, reader)
}

/// The same, asked to stop.
fn lingering(directory: &Path) -> (Running, LosslessSubscriber) {
    let (mut server, subscriber, _) = with_something_unread(directory);
    server.signal(Signal::TERM);
    server.wait_to_hear(WAITS);
    (server, subscriber)
}

#[test]
fn signals_that_come_together_are_one() {
    // Now and then this process is held up for so long that they do not come together.
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let (mut server, mut subscriber, mut reader) = with_something_unread(directory.path());
        let first = Instant::now();
        server.signal(Signal::TERM);
        assert_eq!(reader.next(), None);
        server.signal(Signal::TERM);
        if first.elapsed() < Duration::from_millis(150) {
            server.wait_to_hear(WAITS);
            assert!(
                first.elapsed() >= Duration::from_millis(200),
                "it says so when the next signal counts"
            );
            drop(reader);
            for _ in 0..3 {
                assert!(matches!(subscriber.receive(WATCHDOG, |_| ()), Poll::Message(_)));
            }
            assert!(matches!(subscriber.receive(WATCHDOG, |_| ()), Poll::Ended));
            drop(subscriber);
            let gone = server.wait();
            assert!(!gone.said.contains("had not"), "{}", gone.said);
            return;
        }
        drop((reader, subscriber));
        server.wait();
    }
    panic!("this machine is too slow to send two signals within 150 ms");
}

#[test]
fn behind_a_signal_a_server_that_is_to_linger_waits_until_all_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut subscriber) = lingering(directory.path());

    for _ in 0..3 {
        assert!(matches!(subscriber.receive(WATCHDOG, |_| ()), Poll::Message(_)));
    }
    assert!(matches!(subscriber.receive(WATCHDOG, |_| ()), Poll::Ended));
    assert!(server.info_path().exists(), "it waits for its reader to leave");
    drop(subscriber);

    let gone = server.wait();
    assert_eq!(gone.status.code(), Some(0));
    assert!(!gone.said.contains("had not"), "{}", gone.said);
}

#[test]
fn another_signal_ends_the_wait_of_a_server_that_lingers() {
    let directory = tempfile::tempdir().unwrap();
    let (server, subscriber) = lingering(directory.path());

    let gone = server.end_by(Signal::TERM);

    assert_eq!(gone.status.code(), Some(0));
    let warning = "left with 1 lossless client that had not received everything, the slowest 3 messages behind";
    assert!(gone.said.contains(warning), "{}", gone.said);
    drop(subscriber);
}

#[test]
fn who_writes_to_a_server_that_lingers_is_told_that_nobody_reads() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("push");
    let listen = format!("unix:{}", socket.display());
    let lines = ["--name", "lines", "--linger", "1h", "--log-level", "info"];
    let pushed = [
        "--name",
        "pushed",
        "--linger",
        "1h",
        "--log-level",
        "info",
        "--publish-listen",
        &listen,
    ];
    let (server, mut input) = start_with_input(directory.path(), &lines);
    let push_server = start(directory.path(), &pushed);
    let mut pusher = UnixStream::connect(&socket).unwrap();
    let [one, other] = [&server, &push_server].map(|server| {
        let found = read(&server.info_path(), &Trust::default()).unwrap();
        Subscriber::open(&found, Join::New).unwrap()
    });

    for server in [&server, &push_server] {
        server.signal(Signal::TERM);
    }

    wait_for_an_error(|| input.write_all(b"late\n"), io::ErrorKind::BrokenPipe);
    wait_for_an_error(|| pusher.write_all(b"\x04\0\0\0late"), io::ErrorKind::BrokenPipe);
    assert!(!socket.exists());
    drop((one, other));
    for server in [server, push_server] {
        assert_eq!(server.wait().status.code(), Some(0));
    }
}

/// Tries until it fails.
fn wait_for_an_error(mut attempt: impl FnMut() -> io::Result<()>, kind: io::ErrorKind) {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        match attempt() {
            Ok(()) => assert!(Instant::now() < deadline, "it goes on taking what it is given"),
            Err(error) => return assert_eq!(error.kind(), kind),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_ignored_hangup_stays_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    nohup
        .arg(env!("CARGO_BIN_EXE_server"))
        .arg("--info-dir")
        .arg(directory.path());
    nohup.stdin(Stdio::piped());
    let mut server = Running::announced(nohup);
    let mut input = server.take_input();
    let mut reader = server.reader();

    server.signal(Signal::HUP);
    type_in(&mut input, b"still here\n");

    assert_eq!(reader.next_text(), "still here");
    drop(reader);
    assert_undone(server, Signal::TERM);
}

#[test]
fn a_killed_server_leaves_no_segment() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &["--generate", "--rate", "max"]);
    let (path, segment) = (server.info_path(), segment_of(&server));

    server.end_by(Signal::KILL);

    assert_freed(segment);
    assert!(path.exists());
}

#[test]
fn at_the_end_the_server_leaves_when_all_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut input) = start_with_input(directory.path(), &["--exit-at-end", "--linger", "1h"]);
    let (path, segment) = (server.info_path(), segment_of(&server));
    let mut reader = server.reader();
    type_in(&mut input, b"one\ntwo");
    drop(input);

    assert_eq!(reader.next_texts(2), ["one", "two"]);
    assert_eq!(reader.next(), None);
    assert!(path.exists(), "the server waits for its reader");
    drop(reader);

    let gone = server.wait();
    assert_eq!(gone.status.code(), Some(0), "{}", gone.said);
    assert!(!path.exists());
    assert_freed(segment);
}

#[test]
fn at_the_end_a_reader_that_does_not_leave_is_waited_for_only_so_long() {
    let directory = tempfile::tempdir().unwrap();
    let (server, input) = start_with_input(directory.path(), &["--exit-at-end", "--linger", "100ms"]);
    let reader = server.reader();
    drop(input);

    let gone = server.wait();

    assert_eq!(gone.status.code(), Some(0));
    assert!(gone.said.contains("had not read everything"), "{}", gone.said);
    drop(reader);
}

#[test]
fn at_the_end_nobody_is_said_to_have_missed_anything_if_nobody_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut input) = start_with_input(directory.path(), &["--exit-at-end", "--linger", "0s"]);
    type_in(&mut input, b"one\n");
    drop(input);

    let gone = server.wait();

    assert_eq!(gone.status.code(), Some(0));
    assert!(!gone.said.contains("had not read everything"), "{}", gone.said);
}

#[test]
fn a_signal_ends_the_wait_at_the_end_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--exit-at-end", "--linger", "1h", "--log-level", "info"];
    let (mut server, input) = start_with_input(directory.path(), &arguments);
    let path = server.info_path();
    let reader = server.reader();
    drop(input);
    server.wait_to_hear("waiting for clients");
    let begin = Instant::now();

    let gone = server.end_by(Signal::TERM);

    assert_eq!(gone.status.code(), Some(0), "{}", gone.said);
    assert!(begin.elapsed() < WATCHDOG);
    assert!(!path.exists());
    drop(reader);
}

#[test]
fn a_file_without_readers_is_over_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lines");
    fs::write(&file, "one\ntwo\n").unwrap();

    let gone = start(directory.path(), &["--file", file.to_str().unwrap(), "--exit-at-end"]).wait();

    assert_eq!(gone.status.code(), Some(0), "{}", gone.said);
    assert_eq!(fs::read_dir(directory.path()).unwrap().filter(is_info).count(), 0);
}

fn is_info(entry: &std::io::Result<fs::DirEntry>) -> bool {
    entry
        .as_ref()
        .unwrap()
        .path()
        .extension()
        .is_some_and(|end| end == "toml")
}

#[test]
fn statistics_come_in_time_and_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path(), &["--generate", "--rate", "1000/s", "--stats", "50ms"]);
    let reader = server.reader();

    let first = server.wait_to_hear("server: stats: messages=");
    server.wait_to_hear("readers=1 ");
    assert!(first.contains("too_long=0 "), "{first}");
    drop(reader);

    let gone = server.end_by(Signal::TERM);
    assert!(
        gone.said
            .lines()
            .last()
            .unwrap()
            .starts_with("server: total: messages="),
        "{}",
        gone.said
    );
}

#[test]
fn nothing_is_written_to_standard_output_and_nobody_need_read_standard_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = command(directory.path());
    server.args(["--message", "hello", "--count", "1", "--exit-at-end", "--stats", "10ms"]);
    let mut child = server
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Nobody is left to read what it says.
    drop(child.stderr.take());

    let output = child.wait_with_output().unwrap();

    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty());
    assert_eq!(fs::read_dir(directory.path()).unwrap().filter(is_info).count(), 0);
}

#[test]
fn a_rate_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--generate", "--rate", "10000/s", "--count", "3000", "--exit-at-end"];
    let begin = Instant::now();

    let gone = start(directory.path(), &arguments).wait();

    assert_eq!(gone.status.code(), Some(0));
    // The last of 3000 is due behind 299.9 ms. It may come later on a busy machine, never sooner.
    assert!(begin.elapsed() >= Duration::from_millis(299), "{:?}", begin.elapsed());
}
