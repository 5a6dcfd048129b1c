//! Readers that are killed, stopped or not read themselves, and what becomes of the stream.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::child::Reader;
use crate::stage::{Json, Server};

pub const SLOTS: u64 = 256;
/// One slot is kept for the end of the stream.
pub const ROOM: u64 = SLOTS - 1;
pub const BLOCK: &str = "--generate --rate max --slots 256 --lossless block";

#[test]
fn killed_readers_free_the_publisher_and_living_ones_do_not() {
    let server = Server::start(BLOCK);
    for role in [
        "holds a message",
        "holds none",
        "is cut off",
        "has forked",
        "reads a socket",
    ] {
        let mut reader = Reader::start(role, &server);

        let who = format!("process {} at ", reader.pid());
        let report = server.wait_for("held up", |_, offer| {
            assert_eq!(offer.subscribers, 1, "{role}: it lost its claim");
            matches!(&offer.holder, Some((_, _, holder)) if holder.contains(&who))
        });
        let head = report.head;

        // It lives, so not one message more is published than what it has not read leaves room for.
        assert_eq!(head, reader.sequence + ROOM, "{role}");
        server.wait_for("held for longer", |report, offer| {
            assert_eq!(report.head, head, "{role}");
            matches!(offer.holder, Some((held_ms, ..)) if held_ms > 300)
        });
        reader.kill();
        server.wait_until_left_by(&who);
        server.wait_until_beyond(head + 10 * SLOTS);
    }
    server.wait_for("all are gone", |_, offer| offer.subscribers == 0);
}

/// Follows `messages` and `gap` objects: none may be missing between them. Returns the first object of another type.
fn follow(json: &Json, next: &mut Option<u64>, mut until: impl FnMut(u64) -> bool) -> Option<Value> {
    loop {
        let value = json.next()?;
        let (first, count) = match value["type"].as_str().unwrap() {
            "message" => (value["sequence"].as_u64().unwrap(), 1),
            _ => return Some(value),
        };
        assert_eq!(*next.get_or_insert(first), first, "{value}");
        *next = Some(first + count);
        if until(first) {
            return None;
        }
    }
}

/// Whether a line of statistics says that somebody has held up the stream for two seconds or more.
fn has_been_held(line: &str) -> bool {
    let held = line
        .split(' ')
        .find_map(|part| part.strip_prefix("held=")?.strip_suffix('s'));
    held.is_some_and(|held| held.parse::<f64>().unwrap() >= 2.0)
}

#[test]
fn stopped_client_holds_up_the_stream_and_everybody_is_told_who_it_is() {
    let mut server = Server::start(&format!("{BLOCK} --stats 100ms"));
    let mut client = server.client(&[], "--follow --lossless --format json");
    let json = client.json();
    let attached = json.expect("attached");
    assert_eq!(attached["transport"], "shm");
    assert!(
        attached["reason"].as_str().unwrap().contains("lossless (block)"),
        "{attached}"
    );
    let mut next = None;
    assert_eq!(follow(&json, &mut next, |sequence| sequence > 1000), None);

    client.process.stop();

    let who = client.process.who();
    let head = server.wait_until_held_by(&who);
    // The statistics know nothing that was not told just before, if it has lasted long enough.
    server
        .process
        .hear_before(&["server: warn: ", &who, "has held up the stream for"], has_been_held);
    server
        .process
        .hear(&["server: stats: ", "lossless=1", "held_by=\"process ", "rate=0/s"]);
    let mut look = Command::new(env!("CARGO_BIN_EXE_client"));
    let table = look.arg(server.info()).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("LOSSLESS") && table.contains("block 1/64, held "),
        "{table}"
    );
    let objects = look.args(["--format", "json"]).output().unwrap();
    let object: Value = serde_json::from_slice(objects.stdout.split(|&byte| byte == b'\n').next().unwrap()).unwrap();
    assert!(object["held_by"].as_str().unwrap().contains(&who), "{object}");
    assert!(object["held_ms"].as_u64().unwrap() >= 1000, "{object}");
    assert_eq!(object["readers"], 1, "a mapping and a connection are one reader");
    assert_eq!((&object["lossless"], &object["head"]), (&"block".into(), &head.into()));

    client.process.signal(Signal::CONT);
    server.process.hear(&[&who, "does not hold up the stream any more"]);
    assert_eq!(follow(&json, &mut next, |sequence| sequence > head + 10 * SLOTS), None);
    client.process.signal(Signal::TERM);
    assert_eq!(follow(&json, &mut next, |_| false), None);
    assert!(client.process.wait().success());
    assert!(
        client
            .process
            .said
            .iter()
            .any(|line| line.contains("missed 0 in 0 gaps"))
    );
}

#[test]
fn stopped_client_is_evicted_in_time_told_and_reads_on() {
    for transport in ["shm", "socket"] {
        let mut server = Server::start(
            "--generate --rate max --size 1K --ring-size 1M --slots 256 --slot-size 2K --lossless evict:2s",
        );
        let mut client = server.client(
            &[],
            &format!("--follow --lossless --format json --transport {transport}"),
        );
        let json = client.json();
        assert_eq!(json.expect("attached")["transport"], transport);
        let mut next = None;
        assert_eq!(follow(&json, &mut next, |_| true), None);

        client.process.stop();

        let report = server.wait_for("evicted", |_, offer| offer.evicted == 1);
        // Far enough that no socket holds it all.
        server.wait_until_beyond(report.head + 50_000);
        server
            .process
            .hear(&["1 lossless client was evicted", &client.process.who()]);
        client.process.signal(Signal::CONT);
        let evicted = follow(&json, &mut next, |_| false).unwrap();
        assert_eq!(evicted["type"], "evicted", "{evicted}");
        // What is lost is told exactly, once or more often, and it reads on behind that.
        let mut missed = 0;
        while let Some(gap) = follow(&json, &mut next, |_| missed > 0) {
            assert_eq!((&gap["type"], gap["first"].as_u64()), (&"gap".into(), next), "{gap}");
            let count = gap["missed"].as_u64().unwrap();
            next = next.map(|next| next + count);
            missed += count;
        }
        assert!(missed > 0, "the output ended");
        let report = server.look();
        assert_eq!(report.offer.unwrap().subscribers, 0);
    }
}

#[test]
fn reader_that_does_not_read_the_client_holds_up_the_stream_over_either_transport() {
    // Both at a time: they wait for long.
    std::thread::scope(|scope| {
        for transport in ["shm", "socket"] {
            scope.spawn(move || hold_up_by_a_client_that_nobody_reads(transport));
        }
    });
}

fn hold_up_by_a_client_that_nobody_reads(transport: &str) {
    let server = Server::start(BLOCK);
    let mut client = server.client(
        &[],
        &format!("--follow --lossless --format json --transport {transport}"),
    );

    // Longer than a server believes that a silent connection lives.
    let held = Duration::from_secs(13);
    let mut has_claimed = false;
    let report = server.wait_for("held up", |_, offer| {
        assert!(offer.subscribers == 1 || !has_claimed, "{transport}: it was given up");
        has_claimed = offer.subscribers == 1;
        matches!(offer.holder, Some((held_ms, ..)) if u128::from(held_ms) > held.as_millis())
    });

    let json = client.json();
    assert_eq!(json.expect("attached")["transport"], transport);
    let mut next = None;
    assert_eq!(
        follow(&json, &mut next, |sequence| sequence > report.head + 10 * SLOTS),
        None
    );
    assert_eq!(server.look().offer.unwrap().subscribers, 1);
}
