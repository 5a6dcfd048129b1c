//! Each source publishes what it was given, all of it and nothing else.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Stdio;

use lapwing::discovery::{Trust, read};
use lapwing::{Join, LosslessSubscriber, Poll};
use rustix::process::Signal;

use crate::running::{Running, WATCHDOG, command, run, start, start_with_input, type_in};

const TERM: Signal = Signal::TERM;

#[test]
fn lines_are_published_as_they_are_typed() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut input) = start_with_input(directory.path(), &[]);
    let mut reader = server.reader();

    for line in ["one", "", "two\r", " three  ", "na\u{ef}ve"] {
        type_in(&mut input, format!("{line}\n").as_bytes());
        assert_eq!(reader.next_text(), line);
    }
    type_in(&mut input, b"half");
    type_in(&mut input, b" and half\nlast");
    assert_eq!(reader.next_text(), "half and half");
    drop(input);

    assert_eq!(reader.next_text(), "last");
    assert!(server.end_by(TERM).status.success());
}

#[test]
fn binary_lines_survive() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bytes");
    let line: Vec<u8> = (0..=255).filter(|&byte| byte != b'\n').collect();
    fs::write(&file, [&line[..], b"\n"].concat()).unwrap();
    let server = start(directory.path(), &["--file", file.to_str().unwrap()]);

    assert_eq!(server.reader().next(), Some((0, line)));
    server.end_by(TERM);
}

#[test]
fn a_file_is_published_line_by_line_and_names_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prices.csv");
    let lines: Vec<String> = (0..2000).map(|number| "x".repeat(number % 300)).collect();
    fs::write(&file, lines.join("\n")).unwrap();
    let server = start(
        directory.path(),
        &["--file", file.to_str().unwrap(), "--ring-size", "1M"],
    );

    assert_eq!(server.name(), "prices");
    assert_eq!(server.reader().next_texts(lines.len()), lines);
    server.end_by(TERM);
}

#[test]
fn a_fifo_without_a_writer_keeps_nobody_from_stopping_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let server = start(directory.path(), &["--file", fifo.to_str().unwrap()]);
    let mut reader = server.reader();

    let mut writer = OpenOptions::new().write(true).open(&fifo).unwrap();
    writer.write_all(b"hello\n").unwrap();

    assert_eq!(reader.next_text(), "hello");
    assert!(server.end_by(TERM).status.success());

    let server = start(directory.path(), &["--file", fifo.to_str().unwrap(), "--name", "waits"]);
    assert!(server.end_by(TERM).status.success());
}

#[test]
fn a_growing_file_is_followed_across_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("app.log");
    fs::write(&log, "first\n").unwrap();
    let server = start(directory.path(), &["--file", log.to_str().unwrap(), "--follow-file"]);
    let mut reader = server.reader();
    let mut writer = OpenOptions::new().append(true).open(&log).unwrap();
    assert_eq!(reader.next_text(), "first");

    writer.write_all(b"second\nthi").unwrap();
    assert_eq!(reader.next_text(), "second");
    writer.write_all(b"rd\n").unwrap();
    assert_eq!(reader.next_text(), "third");

    // Renamed, written to once more, then another in its place.
    let old = directory.path().join("app.log.1");
    fs::rename(&log, &old).unwrap();
    writer.write_all(b"late\nunfinished").unwrap();
    let mut writer = fs::File::create(&log).unwrap();
    writer.write_all(b"new file\n").unwrap();
    assert_eq!(reader.next_texts(3), ["late", "unfinished", "new file"]);

    // Another renamed over it.
    let other = directory.path().join("other");
    fs::write(&other, "renamed over\n").unwrap();
    fs::rename(&other, &log).unwrap();
    assert_eq!(reader.next_text(), "renamed over");

    // Removed, and made again later.
    fs::remove_file(&log).unwrap();
    fs::write(&log, "made again\n").unwrap();
    assert_eq!(reader.next_text(), "made again");
    assert!(server.end_by(TERM).status.success());
}

#[test]
fn path_that_cannot_be_followed_any_more_is_told_once_for_each_reason_and_when_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("app.log");
    fs::write(&log, "first\n").unwrap();
    let mut server = start(directory.path(), &["--file", log.to_str().unwrap(), "--follow-file"]);
    let mut reader = server.reader();
    assert_eq!(reader.next_text(), "first");

    fs::remove_file(&log).unwrap();
    server.wait_to_hear("No such file or directory");
    fs::create_dir(&log).unwrap();
    server.wait_to_hear("is not a regular file");
    fs::remove_dir(&log).unwrap();
    server.wait_to_hear("No such file or directory");
    rustix::fs::mkfifoat(rustix::fs::CWD, &log, rustix::fs::Mode::RUSR).unwrap();
    server.wait_to_hear("is not a regular file");
    let new = directory.path().join("new");
    fs::write(&new, "second\n").unwrap();
    fs::rename(&new, &log).unwrap();

    assert_eq!(reader.next_text(), "second");
    server.wait_to_hear("can be followed again");
    let gone = server.end_by(TERM);
    assert_eq!(gone.said.matches("warn: ").count(), 5, "{}", gone.said);
}

#[test]
fn file_that_was_replaced_twice_while_a_client_held_up_the_stream_is_not_lost() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("app.log");
    fs::write(&log, "").unwrap();
    let arguments = [
        "--follow-file",
        "--lossless",
        "block",
        "--slots",
        "64",
        "--log-level",
        "info",
    ];
    let mut server = start(
        directory.path(),
        &[&["--file", log.to_str().unwrap()], &arguments[..]].concat(),
    );
    let found = read(&server.info_path(), &Trust::default()).unwrap();
    let mut subscriber = LosslessSubscriber::open(&found, Join::New, WATCHDOG).unwrap();
    let mut lines: Vec<String> = (0..1000).map(|number| number.to_string()).collect();

    let mut writer = OpenOptions::new().append(true).open(&log).unwrap();
    writer.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    server.wait_to_hear("has held up the stream");
    for line in ["second", "third"] {
        let new = directory.path().join("new");
        fs::write(&new, format!("{line}\n")).unwrap();
        fs::rename(&new, &log).unwrap();
        server.wait_to_hear("was replaced");
        lines.push(line.to_owned());
    }

    for line in lines {
        let outcome = subscriber.receive(WATCHDOG, |view| {
            let mut payload = Vec::new();
            view.append_to(&mut payload);
            payload
        });
        let Poll::Message(message) = outcome else {
            panic!("{outcome:?} instead of {line}")
        };
        assert_eq!(String::from_utf8(message.value).unwrap(), line);
    }
    drop(subscriber);
    assert!(server.end_by(TERM).status.success());
}

#[test]
fn a_file_that_is_cut_is_read_again_from_its_beginning() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("app.log");
    fs::write(&log, "a long line before the cut\n").unwrap();
    let server = start(directory.path(), &["--file", log.to_str().unwrap(), "--follow-file"]);
    let mut reader = server.reader();
    assert_eq!(reader.next_text(), "a long line before the cut");

    let mut writer = OpenOptions::new().append(true).open(&log).unwrap();
    writer.set_len(0).unwrap();
    writer.write_all(b"after\n").unwrap();

    assert_eq!(reader.next_text(), "after");
    server.end_by(TERM);
}

#[test]
fn a_text_is_published_as_often_as_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (server, _input) = start_with_input(
        directory.path(),
        &[
            "--message",
            "hello",
            "--interval",
            "1ms",
            "--count",
            "5",
            "--stats",
            "100ms",
        ],
    );
    let mut reader = server.reader();

    assert_eq!(reader.next_texts(5), ["hello"; 5]);
    let gone = server.end_by(TERM);
    assert!(gone.said.contains("total: messages=5 "), "{}", gone.said);
}

#[test]
fn generated_messages_can_be_checked() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--generate", "--size", "29", "--rate", "100000/s", "--count", "1000"];
    let server = start(directory.path(), &arguments);
    let mut reader = server.reader();

    for sequence in 0..1000_u64 {
        let (tag, payload) = reader.next().unwrap();

        let word = |k: u64| {
            sequence
                .wrapping_add(k)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_le_bytes()
        };
        assert_eq!((tag, payload.len()), (0, 29));
        assert_eq!(payload[..8], sequence.to_le_bytes());
        assert_ne!(payload[8..16], [0; 8]);
        assert_eq!(payload[16..24], word(0));
        assert_eq!(payload[24..], word(1)[..5]);
    }
    server.end_by(TERM);
}

#[test]
fn frames_keep_their_tags_and_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let (mut server, mut input) = start_with_input(directory.path(), &["--framed", "--max-message", "100"]);
    let mut reader = server.reader();
    let frame = |tag: u64, payload: &[u8]| {
        let length = (payload.len() as u32).to_le_bytes();
        [&length[..], &tag.to_le_bytes(), payload].concat()
    };

    type_in(&mut input, &frame(7, b"seven\n"));
    assert_eq!(reader.next(), Some((7, b"seven\n".to_vec())));
    type_in(&mut input, &frame(8, &[0; 101]));
    type_in(&mut input, &frame(u64::MAX, b""));
    assert_eq!(reader.next(), Some((u64::MAX, Vec::new())));
    type_in(&mut input, &frame(9, b"cut off")[..14]);
    drop(input);

    server.wait_to_hear("a message of 101 bytes is not published");
    server.wait_to_hear("in the middle of a frame, 5 bytes or more before its end");
    assert_eq!(reader.cursor(), 2);
    let gone = server.end_by(TERM);
    assert_eq!(gone.status.code(), Some(1), "{}", gone.said);
}

#[test]
fn file_called_dash_is_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let (server, mut input) = start_with_input(directory.path(), &["--file", "-"]);

    type_in(&mut input, b"typed\n");

    assert_eq!(server.name(), "server");
    assert_eq!(server.reader().next_text(), "typed");
    server.end_by(TERM);
    let mut command = command(directory.path());
    command.args(["--file", "-", "--follow-file"]);
    let refused = run(command);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.said);
}

#[test]
fn lines_that_are_too_long_are_told_and_counted_but_do_not_flood_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lines");
    let long = format!("{}\n", "x".repeat(101)).repeat(1000);
    fs::write(&file, format!("before\n{long}behind\n")).unwrap();
    let server = start(
        directory.path(),
        &[
            "--file",
            file.to_str().unwrap(),
            "--max-message",
            "100",
            "--stats",
            "1h",
        ],
    );

    assert_eq!(server.reader().next_texts(2), ["before", "behind"]);
    let gone = server.end_by(TERM);
    assert!(
        gone.said.contains("a message of 101 bytes is not published"),
        "{}",
        gone.said
    );
    assert!(gone.said.contains("1000 in all"), "{}", gone.said);
    assert!(gone.said.contains("messages=2 "), "{}", gone.said);
    assert!(gone.said.contains("too_long=1000 "), "{}", gone.said);
    assert!(gone.said.lines().count() < 10, "{}", gone.said);
}

#[test]
fn option_that_would_be_ignored_starts_nothing() {
    for arguments in [
        "--file f --rate 1/s",
        "--file f --interval 1s",
        "--message x --size 100",
        "--message x --rate 1/s",
        "--message x --follow-file",
        "--message x --publish-mode 0600",
        "--generate --interval 1s",
        "--generate --follow-file",
        "--framed --rate max",
        "--framed --publish-remote",
        "--publish-listen unix:p --publish-remote",
        "--no-shm --huge-page-size 2M",
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("f"), "line\n").unwrap();
        let mut command = command(&directory.path().join("info"));
        command.current_dir(&directory).args(arguments.split(' '));

        let gone = run(command);

        assert_eq!(gone.status.code(), Some(2), "{arguments}: {}", gone.said);
        assert!(
            gone.said.contains(" needs --") || gone.said.contains(" needs a TCP address"),
            "{}",
            gone.said
        );
        assert!(!directory.path().join("info").exists());
    }
}

#[test]
fn a_source_that_cannot_be_opened_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().join("missing"), directory.path().to_owned()] {
        let mut command = command(&directory.path().join("info"));
        command.arg("--file").arg(&path);

        let gone = run(command);

        assert_eq!(gone.status.code(), Some(1));
        assert!(gone.said.starts_with("server: "), "{}", gone.said);
        assert!(gone.said.contains(path.to_str().unwrap()), "{}", gone.said);
        assert_eq!(gone.said.lines().count(), 1);
    }
    assert!(!directory.path().join("info").exists());
}

#[test]
fn own_messages_longer_than_the_ring_takes_are_refused_before_anything_is_announced() {
    let long = "x".repeat(20_000);
    for source in [["--generate", "--size", "64K"].as_slice(), &["--message", &long]] {
        let directory = tempfile::tempdir().unwrap();
        let mut command = command(directory.path());
        command.args(source);

        let gone = run(command);

        assert_eq!(gone.status.code(), Some(2));
        assert!(gone.said.contains("--max-message"), "{}", gone.said);
        assert!(!directory.path().join("info").exists());
    }
}

#[test]
fn a_terminal_is_read_like_any_input() {
    // script(1) runs a command on a terminal of its own and hands on what is typed.
    if !std::path::Path::new("/usr/bin/script").exists() {
        eprintln!("skipped: there is no /usr/bin/script to make a terminal with");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut typed = std::process::Command::new("/usr/bin/script");
    let server = format!(
        "{} --info-dir {}",
        env!("CARGO_BIN_EXE_server"),
        directory.path().display()
    );
    // The terminal's output, the server's standard error included, goes where we listen.
    typed.args(["-qfec", &format!("exec {server} 2>&3"), "/dev/null"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec 3>&2 2>/dev/null; exec \"$0\" \"$@\""]);
    shell
        .arg(typed.get_program())
        .args(typed.get_args())
        .stdin(Stdio::piped());
    let mut server = Running::announced(shell);
    let mut input = server.take_input();
    let mut reader = server.reader();

    type_in(&mut input, b"typed\n");

    assert_eq!(reader.next_text(), "typed");
    // Control-C, as the terminal sends it.
    type_in(&mut input, b"\x03");
    assert!(server.wait().status.success());
}
