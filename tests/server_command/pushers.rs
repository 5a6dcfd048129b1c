//! Programs that push messages to a server.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use rustix::process::Signal;

use crate::running::{Running, WATCHDOG, command, run, start};

fn frame(tag: u64, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes()[..], &tag.to_le_bytes(), payload].concat()
}

fn start_at(directory: &Path, address: &str, more: &[&str]) -> (Running, String) {
    let mut server = start(directory, &[&["--publish-listen", address], more].concat());
    let line = server.wait_to_hear("push messages to");
    let address = line.split("push messages to ").nth(1).unwrap().to_owned();
    (server, address)
}

#[test]
fn messages_of_many_pushers_all_arrive_each_pushers_in_order() {
    const PUSHERS: u64 = 8;
    const EACH: u64 = 500;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("push");
    let address = format!("unix:{}", socket.display());
    let (server, _) = start_at(directory.path(), &address, &["--ring-size", "1M"]);
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    thread::scope(|scope| {
        for pusher in 0..PUSHERS {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.set_read_timeout(Some(WATCHDOG)).unwrap();
            scope.spawn(move || {
                for number in 0..EACH {
                    stream.write_all(&frame(pusher, &number.to_le_bytes())).unwrap();
                }
                stream.shutdown(Shutdown::Write).unwrap();
                // The end of the stream says that all was published.
                assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            });
        }
    });

    let mut reader = server.reader();
    let mut next = [0; PUSHERS as usize];
    for _ in 0..PUSHERS * EACH {
        let (pusher, payload) = reader.next().unwrap();
        let next = &mut next[pusher as usize];
        assert_eq!(payload, u64::to_le_bytes(*next));
        *next += 1;
    }
    assert_eq!(next, [EACH; PUSHERS as usize]);
    assert!(server.end_by(Signal::TERM).status.success());
    assert!(!socket.exists());
}

#[test]
fn a_message_goes_in_when_its_last_byte_has_come() {
    let directory = tempfile::tempdir().unwrap();
    let (server, address) = start_at(directory.path(), "127.0.0.1:0", &[]);
    let mut reader = server.reader();
    let mut slow = TcpStream::connect(&address).unwrap();
    let mut quick = TcpStream::connect(&address).unwrap();
    let bytes = frame(1, b"slow");

    slow.write_all(&bytes[..bytes.len() - 1]).unwrap();
    quick.write_all(&frame(2, b"quick")).unwrap();
    assert_eq!(reader.next(), Some((2, b"quick".to_vec())));
    slow.write_all(&bytes[bytes.len() - 1..]).unwrap();

    assert_eq!(reader.next(), Some((1, b"slow".to_vec())));
    server.end_by(Signal::TERM);
}

#[test]
fn a_pusher_that_breaks_off_or_sends_too_much_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let (mut server, address) = start_at(directory.path(), "127.0.0.1:0", &["--max-message", "100"]);
    let mut reader = server.reader();
    let mut good = TcpStream::connect(&address).unwrap();

    let mut broken = TcpStream::connect(&address).unwrap();
    broken.write_all(&frame(1, b"never whole")[..15]).unwrap();
    drop(broken);
    server.wait_to_hear("in the middle of a frame");
    let mut greedy = TcpStream::connect(&address).unwrap();
    greedy.write_all(&[0xff; 5000]).unwrap();
    server.wait_to_hear("a message of 4294967295 bytes is not published");

    good.write_all(&frame(2, b"good")).unwrap();
    assert_eq!(reader.next(), Some((2, b"good".to_vec())));
    server.end_by(Signal::TERM);
}

#[test]
fn a_socket_that_a_killed_server_left_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("push");
    let address = format!("unix:{}", socket.display());
    let (killed, _) = start_at(directory.path(), &address, &["--name", "first"]);
    killed.end_by(Signal::KILL);
    assert!(socket.exists());

    let (server, _) = start_at(directory.path(), &address, &["--name", "second"]);
    let mut reader = server.reader();
    UnixStream::connect(&socket)
        .unwrap()
        .write_all(&frame(0, b"hello"))
        .unwrap();

    assert_eq!(reader.next_text(), "hello");
    let mut third = command(directory.path());
    third.args(["--name", "third", "--publish-listen", &address]);
    let refused = run(third);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.said.contains("another program listens there"),
        "{}",
        refused.said
    );
    server.end_by(Signal::TERM);
    assert!(!socket.exists());
}

#[test]
fn of_servers_that_start_at_once_at_one_path_one_listens_and_the_others_leave() {
    const ROUNDS: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("push");
    let address = format!("unix:{}", socket.display());

    for round in 0..ROUNDS {
        // As a kill leaves it: every other round begins with a socket where nobody listens.
        if round % 2 == 1 {
            drop(UnixListener::bind(&socket).unwrap());
        }
        let mut servers = ["first", "second", "third", "fourth"].map(|name| {
            let name = if round % 4 < 2 { name } else { "one-name" };
            let mut server = command(&directory.path().join("info"));
            server.args(["--name", name, "--publish-listen", &address]);
            server.stdin(Stdio::null());
            Running::spawn(server)
        });

        let listening = servers.each_mut().map(|server| server.says("push messages to"));

        assert_eq!(listening.iter().filter(|listens| **listens).count(), 1, "round {round}");
        for (server, listens) in servers.into_iter().zip(listening) {
            if listens {
                let mut pusher = UnixStream::connect(&socket).unwrap();
                pusher.write_all(&frame(0, b"hello")).unwrap();
                assert_eq!(server.reader().next_text(), "hello");
                assert!(server.end_by(Signal::TERM).status.success());
            } else {
                let gone = server.wait();
                assert_eq!(gone.status.code(), Some(1), "{}", gone.said);
                assert!(gone.said.contains("another program listens there"), "{}", gone.said);
            }
        }
        let left: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["info"], "round {round}");
    }
}
