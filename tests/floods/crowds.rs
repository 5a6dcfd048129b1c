//! Peers that do nothing wrong, and are only many.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use lapwing::{Incarnation, Join};
use rustix::process::Signal;

use crate::attack::{Churn, Crowd, Kind};
use crate::healthy::join;
use crate::running::{Running, WATCHDOG, start};
use crate::stage::{Stage, allow_descriptors};
use crate::{assert_answered, scaled};

#[test]
fn idle_connections_are_kept_and_cost_the_others_nothing() {
    let idle = scaled(5_000);
    allow_descriptors();
    let mut stage = Stage::new();

    let crowd = Crowd::gather(stage.address(), &[(Kind::Idle, idle)]).unwrap();
    stage.wait_for(|stats| stats["connections"] == 1 + idle as u64);
    stage.go_on(20_000);
    stage.serves_a_newcomer();
    stage.wait_for(|stats| stats["connections"] == 1 + idle as u64);
    let fates = crowd.disperse();

    assert_eq!(fates.len(), idle);
    assert_answered(&fates);
    let total = stage.finish();
    let dropped = total.iter().filter(|(key, _)| key.starts_with("dropped_"));
    assert_eq!(dropped.map(|(_, count)| count).sum::<u64>(), 0, "{total:?}");
}

#[test]
fn connections_that_come_and_go_are_all_taken() {
    let stage = Stage::new();

    let churn = Churn::start(stage.address(), scaled(10_000), 1_000.0);
    while !churn.is_over() {
        stage.go_on(1_000);
    }
    churn.finish();

    let total = stage.finish();
    assert_eq!((total["dropped_full"], total["dropped_accept"]), (0, 0), "{total:?}");
}

/// A server that is stopped, and goes on when this is dropped.
struct Stopped<'a>(&'a Running);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

/// Clients that come at once.
const MANY: usize = 512;

/// Connects to a listener that accepts nobody. One for whom there is no place in the line waits in vain.
fn wait_in_line(address: SocketAddr, count: usize, patience: Duration) -> io::Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| TcpStream::connect_timeout(&address, patience))
        .collect()
}

#[test]
fn line_of_the_standard_library_is_too_short_for_many() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();

    let waited = wait_in_line(listener.local_addr().unwrap(), MANY, Duration::from_millis(300));

    assert!(waited.is_err(), "then the server need not ask for a longer one");
}

#[test]
fn clients_that_come_while_the_server_is_busy_wait_in_line() {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let count = most.trim().parse().unwrap_or(0).min(MANY);
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &[]);
    let address = server.info().socket.unwrap().addresses[0];

    let stopped = Stopped(&server);
    server.signal(Signal::STOP);
    let waiting = wait_in_line(address, count, WATCHDOG / 6).unwrap();
    drop(stopped);

    let newcomer = join(&[address], Incarnation::NIL, Join::New);
    assert_eq!(newcomer.hello().connections as usize, count + 1);
    drop(waiting);
    assert_eq!(server.end_by(Signal::TERM).status.code(), Some(0));
}

#[test]
fn server_takes_as_many_descriptors_as_it_may_have() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -S -n 32 && exec \"$@\"", "sh"])
        .args([env!("CARGO_BIN_EXE_server"), "--info-dir"])
        .arg(directory.path())
        .stdin(std::process::Stdio::null());
    let server = Running::announced(command);
    let address = server.info().socket.unwrap().addresses[0];

    let joined: Vec<_> = (0..64).map(|_| join(&[address], Incarnation::NIL, Join::New)).collect();

    assert_eq!(joined[63].hello().connections, 64);
    drop(joined);
    assert_eq!(server.end_by(Signal::TERM).status.code(), Some(0));
}
