//! Connections that are cut while the reader behind them lives, and such that outlive it: they began its claim, and have no
//! say in its end.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{JoinHandle, spawn};

use lapwing::discovery::Found;
use lapwing::{BlockingSubscriber, Join, Poll};

use crate::child::Reader;
use crate::slow::{BLOCK, ROOM, SLOTS};
use crate::stage::{PATIENCE, Server};

/// A hop between a server and one client, as a proxy is or a tunnel.
pub struct Hop {
    /// Its sockets, that of the client first, once the client has come.
    ends: Receiver<[TcpStream; 2]>,
    forth: JoinHandle<io::Result<u64>>,
    back: JoinHandle<io::Result<u64>>,
}

impl Hop {
    /// A hop on the way to a server, which is found there.
    pub fn before(mut found: Found) -> (Self, Found) {
        let addresses = &mut found.info.socket.as_mut().unwrap().addresses;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = std::mem::replace(addresses, vec![listener.local_addr().unwrap()])[0];
        (Self::between(listener, server), found)
    }

    fn between(listener: TcpListener, server: SocketAddr) -> Self {
        let (sender, ends) = channel();
        let (meet, met) = channel();
        let forth = spawn(move || {
            let (mut client, _) = listener.accept()?;
            let mut server = TcpStream::connect(server)?;
            server.set_read_timeout(Some(PATIENCE))?;
            for to in [&sender, &meet] {
                // Whoever gets none does without.
                let _ = to.send([client.try_clone()?, server.try_clone()?]);
            }
            io::copy(&mut client, &mut server)
        });
        let back = spawn(move || {
            let [mut client, mut server] = met.recv().map_err(io::Error::other)?;
            io::copy(&mut server, &mut client)
        });
        Self { ends, forth, back }
    }

    /// Ends the connection on both sides. Returns when the server has closed its own, and done what it does then.
    pub fn cut(self) {
        let [client, server] = self.ends.recv_timeout(PATIENCE).unwrap();
        client.shutdown(Shutdown::Both).unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        self.back.join().unwrap().unwrap();
        // It may have had something left for the server.
        let _ = self.forth.join().unwrap();
    }
}

#[test]
fn reader_that_is_cut_off_keeps_what_it_holds_and_loses_nothing() {
    let server = Server::start(BLOCK);
    let (hop, found) = Hop::before(server.found());
    let subscriber = BlockingSubscriber::open(&found, Join::New, PATIENCE).unwrap();
    let held = loop {
        match subscriber.receive(PATIENCE) {
            Poll::Message(received) if received.value.is_in_place() => break received.value,
            // It was there before the claim.
            Poll::Message(_) => {}
            other => panic!("{other:?}"),
        }
    };
    let (first, bytes) = (held.sequence(), held.to_vec());

    hop.cut();

    let who = format!("process {} at ", std::process::id());
    let report = server.wait_for("held up", |_, offer| {
        assert_eq!(offer.subscribers, 1, "it lost its claim");
        matches!(&offer.holder, Some((held_ms, _, holder)) if *held_ms > 300 && holder.contains(&who))
    });
    assert_eq!(report.head, first + ROOM);
    assert_eq!(*held, *bytes);
    drop(held);
    for next in first + 1..first + 10 * SLOTS {
        match subscriber.receive(PATIENCE) {
            Poll::Message(received) => assert_eq!(received.sequence, next),
            other => panic!("{other:?} in place of {next}"),
        }
    }
    drop(subscriber);
    server.wait_for("it has left", |_, offer| offer.subscribers == 0);
}

#[test]
fn reader_that_is_killed_behind_a_connection_that_stands_frees_the_publisher() {
    let server = Server::start(BLOCK);
    // Nobody tells the server when the client closes its side.
    let (hop, found) = Hop::before(server.found());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(found.path.file_name().unwrap());
    std::fs::write(&path, found.info.to_toml()).unwrap();
    let mut reader = Reader::start_with("holds a message", &path);
    assert_eq!(
        server.wait_until_held_by(&reader.pid().to_string()),
        reader.sequence + ROOM
    );

    reader.kill();

    server.wait_until_beyond(reader.sequence + ROOM + SLOTS);
    server.wait_for("its place is free", |_, offer| offer.subscribers == 0);
    drop(hop);
}
