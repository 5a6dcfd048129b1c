//! A service thread that never sleeps.

use std::fs;

use super::confined::{Process, client, server, wait_until};
use super::threads;

/// Nanoseconds that the service thread of a server has run.
fn served_ns(process: u32) -> u64 {
    let threads = threads(process);
    let (_, task) = threads.iter().find(|(name, _)| name == "lapwing-service").unwrap();
    let text = fs::read_to_string(task.join("schedstat")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn spinning_server_looks_all_the_time_while_somebody_waits_and_serves_everything_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let running = Process::announced(&server(directory.path(), "spins", "--spin --message x --interval 1s"));
    let options = "--follow --transport socket --format json";
    let follower = Process::start(&client(directory.path(), options));
    let first = follower.json_of("message")["sequence"].as_u64().unwrap();
    let before = served_ns(running.id());

    // A thread that sleeps until it is needed takes a quarter of an hour for it.
    wait_until("running for a second", || {
        served_ns(running.id()) - before > 1_000_000_000
    });

    for expected in first + 1..first + 3 {
        assert_eq!(follower.json_of("message")["sequence"], expected);
    }
    follower.stop().expect(0);
    running.stop().expect(0);
}

#[test]
fn spinning_server_sends_a_torrent_whole() {
    let directory = tempfile::tempdir().unwrap();
    let options = "--spin --generate --rate max --count 200000 --slots 256K --exit-at-end --linger 100s";
    let running = Process::announced(&server(directory.path(), "spins", options));
    // The ring retains all of them.
    let options = "--follow --transport socket --from oldest --exit-at-end --format raw";

    let ended = Process::start(&client(directory.path(), options)).finish().expect(0);

    assert!(
        ended.told().contains("1 server, 200000 messages, missed 0"),
        "{}",
        ended.told()
    );
    running.finish().expect(0);
}
