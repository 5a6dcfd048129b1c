//! A directory that is never at rest: while somebody creates, renames and removes files as fast as possible, a follower
//! misses nothing of the good server, and a client that looks finds it each time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use super::confined::{Process, client, run, server, wait_until};
use super::{good_server, info_of, replace};

/// Events that a storm has at least: five seconds' worth at 1 kHz.
const EVENTS: u64 = 5_000;
/// Names that the storm uses.
const NAMES: u64 = 40;

/// Makes changes in `directory` until it is told to stop, and counts them.
fn rage(directory: &Path, stop: &AtomicBool, events: &AtomicU64) {
    let at = |number: u64| directory.join(format!("storm-{}.toml", number % NAMES));
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // What one change finds another may have removed: all of them may fail.
        let _ = match round % 8 {
            0 => fs::write(at(round), "garbage"),
            1 => fs::rename(at(round - 1), at(round)),
            2 => fs::write(
                directory.join("draft"),
                info_of(&format!("storm-{}", (round + 1) % NAMES), "127.0.0.1:1"),
            ),
            3 => fs::rename(directory.join("draft"), at(round)),
            4 => symlink("good.toml", at(round)),
            5 => fs::rename(at(round - 1), at(round + 7)),
            6 => fs::remove_file(at(round - 3)),
            _ => fs::remove_file(at(round / 3)),
        };
        events.fetch_add(1, Ordering::Relaxed);
        if round % 8 == 0 {
            // About 1 kHz on an idle machine, so that the others get to run on a busy one.
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn storm_of_changes_loses_no_message_and_hides_no_server() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let _server = good_server(directory);
    let (stop, events) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| rage(directory, &stop, &events));
        // Also if an assertion fails.
        let _calm = Calm(&stop);
        wait_until("the storm begins", || events.load(Ordering::Relaxed) > 100);
        let follower = Process::start(&client(directory, "--follow --from 0 --format json --name good"));
        assert_eq!(follower.json_of("attached")["server"], "good");
        let mut sequence = 0;
        let mut looks = 0;
        while events.load(Ordering::Relaxed) < EVENTS || looks < 5 {
            let ended = run(&client(directory, "--name good --format json")).expect(0);
            let servers = ended.json_of("server");
            assert_eq!((servers.len(), &servers[0]["state"]), (1, &"live".into()), "{ended:#?}");
            looks += 1;
            for _ in 0..20 {
                let message = follower.json_but_for_pauses();
                assert_eq!(
                    (&message["type"], &message["sequence"]),
                    (&"message".into(), &sequence.into()),
                    "{message}"
                );
                sequence += 1;
            }
        }
        // It still notices what comes.
        fs::write(directory.join("calm.toml"), "").unwrap();
        let told = follower.errors_up_to("calm.toml");
        assert!(told.len() < 2_000, "{} lines, each told once", told.len());
        let told = [told, follower.stop().expect(0).errors].concat();
        let mut once = told.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), told.len(), "{told:#?}");
    });
}

/// Ends the storm.
struct Calm<'a>(&'a AtomicBool);

impl Drop for Calm<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads messages from `sequence` on, and nothing else, up to one that is younger than this.
fn read_on(follower: &Process, sequence: &mut u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    loop {
        let message = follower.json_but_for_pauses();
        assert_eq!(
            (&message["type"], &message["sequence"]),
            (&"message".into(), &(*sequence).into()),
            "{message}"
        );
        *sequence += 1;
        if u128::from(message["timestamp_ns"].as_u64().unwrap()) > now {
            break;
        }
    }
}

#[test]
fn follower_reads_one_stream_of_a_server_that_is_announced_again() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let server = good_server(directory);
    let path = directory.join("good.toml");
    let follower = Process::start(&client(directory, "--follow --from 0 --format json"));
    follower.json_of("attached");
    let mut sequence = 0;

    // Who comes later finds the server in the new file, and the follower goes on.
    for _ in 0..2 {
        fs::remove_file(&path).unwrap();
        server.error_with("the server is announced again");
        let late = Process::start(&client(directory, "--follow --from 0 --format json -n 1"));
        late.json_of("message");
        late.finish().expect(0);
        read_on(&follower, &mut sequence);
    }

    server.stop().expect(0);
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    follower.stop().expect(0);
}

#[test]
fn info_file_that_is_replaced_or_removed_takes_nobody_from_a_server_that_lives() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let server = good_server(directory);
    let path = directory.join("good.toml");
    let original = directory.join("kept");
    let follower = Process::start(&client(directory, "--follow --from 0 --format json"));
    follower.json_of("attached");
    let mut sequence = 0;
    let mut more = || read_on(&follower, &mut sequence);
    more();
    // Hidden, replaced by garbage, by a link, by the file of a life that is over, and back again.
    fs::rename(&path, &original).unwrap();
    more();
    replace(&path, "garbage");
    follower.error_with("not a usable info file");
    more();
    fs::remove_file(&path).unwrap();
    symlink("kept", &path).unwrap();
    follower.error_with("a symbolic link");
    more();
    fs::remove_file(&path).unwrap();
    replace(&path, &info_of("good", "127.0.0.1:1"));
    more();
    fs::rename(&original, &path).unwrap();
    more();

    // And the server still takes its own file with it.
    server.stop().expect(0);
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    loop {
        let last = follower.json_but_for_pauses();
        if last["type"] != "message" {
            assert_eq!(last["type"], "ended", "{last}");
            break;
        }
    }
    follower.stop().expect(0);
}

#[test]
fn dead_info_file_takes_nobody_from_a_server_that_hangs() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let server = good_server(directory);
    let follower = Process::start(&client(directory, "--follow --from 0 --format json"));
    follower.json_of("attached");
    server.signal(Signal::STOP);
    waitid(
        WaitId::Pid(Pid::from_raw(server.id() as i32).unwrap()),
        WaitIdOptions::STOPPED,
    )
    .unwrap();
    // It would announce itself again if it did not hang.
    replace(&directory.join("good.toml"), &info_of("good", "127.0.0.1:1"));
    let next_news = || loop {
        let news = follower.json();
        if news["type"] != "message" {
            return news["type"].as_str().unwrap().to_owned();
        }
    };
    // The file was looked at when it was found to hang.
    assert_eq!(next_news(), "hung");

    server.signal(Signal::CONT);

    assert_eq!(next_news(), "recovered");
    assert_eq!(follower.json()["type"], "message");
}

#[test]
fn directory_that_is_deleted_while_it_is_followed_is_waited_for() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("info");
    let first = good_server(&directory);
    let follower = Process::start(&client(&directory, "--follow --format json"));
    follower.json_of("attached");

    // At once, so that the server writes no file into what is only half removed.
    let aside = temporary.path().join("aside");
    fs::rename(&directory, &aside).unwrap();
    fs::remove_dir_all(aside).unwrap();

    // What is attached needs no directory.
    follower.error_with("waiting for it");
    for _ in 0..10 {
        assert_eq!(follower.json_but_for_pauses()["type"], "message");
    }
    assert!(first.stop().expect(0).told().contains("is announced") || !directory.exists());
    follower.json_of("ended");
    let _second = Process::announced(&server(&directory, "good", "--message back --interval 2ms"));
    follower.json_of("attached");
    assert_eq!(follower.json_of("message")["payload"], "back");
    let _third = Process::announced(&server(&directory, "other", "--message too --interval 2ms"));
    while follower.json_of("attached")["server"] != "other" {}
    follower.stop().expect(0);
}
