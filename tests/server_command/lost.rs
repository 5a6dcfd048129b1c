//! Info files that somebody removes although their server lives.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use lapwing::Incarnation;
use lapwing::discovery::{Trust, Watch, read};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::{Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, prlimit, waitid};

use crate::running::{WATCHDOG, start, start_with_input, type_in};

const AGAIN: &str = "was removed: the server is announced again";

/// Waits until the info file is that of a server of this life, which holds its lock.
fn wait_for(info_path: &Path, incarnation: Incarnation) {
    let mut watch = Watch::new(info_path);
    let is_there = || {
        read(info_path, &Trust::default())
            .is_ok_and(|found| found.info.incarnation == incarnation && found.lock.is_held().unwrap())
    };
    let start = Instant::now();
    while !is_there() {
        assert!(start.elapsed() < WATCHDOG, "{info_path:?} does not come back");
        watch.wait(Duration::from_secs(1)).unwrap();
    }
}

/// Removes a directory of a live server, which writes no file into what is only half removed.
fn remove_at_once(directory: &Path) {
    let aside = directory.with_extension("aside");
    fs::rename(directory, &aside).unwrap();
    fs::remove_dir_all(aside).unwrap();
}

#[test]
fn server_whose_info_file_is_removed_is_announced_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut server, mut input) = start_with_input(directory.path(), &[]);
    let (path, info) = (server.info_path(), server.info());
    let earlier = read(&path, &Trust::default()).unwrap();
    let mut reader = server.reader();

    for _ in 0..2 {
        fs::remove_file(&path).unwrap();
        wait_for(&path, info.incarnation);
        server.wait_to_hear(AGAIN);
    }

    assert_eq!(server.info(), info);
    assert!(
        earlier.lock.is_held().unwrap(),
        "who found it before sees that it lives"
    );
    type_in(&mut input, b"still here\n");
    assert_eq!(reader.next_text(), "still here");
    drop(reader);
    assert_eq!(server.end_by(Signal::TERM).status.code(), Some(0));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn who_removes_an_info_file_again_and_again_does_not_fill_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &[]);
    let (path, incarnation) = (server.info_path(), server.info().incarnation);

    for _ in 0..3 {
        fs::remove_file(&path).unwrap();
        wait_for(&path, incarnation);
    }

    let gone = server.end_by(Signal::TERM);
    assert_eq!(gone.said.matches(AGAIN).count(), 2, "{}", gone.said);
}

#[test]
fn directory_that_is_removed_is_not_made_again_by_a_server_that_waits_for_it() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("info");
    let mut server = start(&directory, &[]);
    let (path, incarnation) = (server.info_path(), server.info().incarnation);

    remove_at_once(&directory);
    let said = server.wait_to_hear("was removed");
    assert!(said.contains("nobody finds this server any more"), "{said}");
    assert!(said.contains("make it again"), "{said}");
    assert!(!directory.exists());
    fs::create_dir(&directory).unwrap();
    wait_for(&path, incarnation);
    server.wait_to_hear(AGAIN);
    let gone = server.end_by(Signal::TERM);

    assert_eq!(gone.said.matches("so that nobody finds").count(), 1, "{}", gone.said);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn name_that_another_server_took_meanwhile_stays_with_it_until_it_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = start(directory.path(), &["--name", "prices"]);
    let (path, incarnation) = (first.info_path(), first.info().incarnation);
    first.signal(Signal::STOP);
    waitid(WaitId::Pid(first.pid()), WaitIdOptions::STOPPED).unwrap();
    fs::remove_file(&path).unwrap();
    let second = start(directory.path(), &["--name", "prices"]);

    first.signal(Signal::CONT);
    let said = first.wait_to_hear("is in use by a live server");

    assert!(said.contains(&format!("(pid {})", second.pid())), "{said}");
    assert_ne!(second.info().incarnation, incarnation);
    assert_eq!(second.end_by(Signal::TERM).status.code(), Some(0));
    wait_for(&path, incarnation);
    first.wait_to_hear(AGAIN);
    first.end_by(Signal::TERM);
    assert!(!path.exists());
}

#[test]
fn name_that_another_process_goes_on_announcing_is_told_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path(), &["--name", "prices"]);
    let (path, incarnation) = (server.info_path(), server.info().incarnation);
    let lock = File::create(directory.path().join(".prices.lock")).unwrap();
    fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();

    fs::remove_file(&path).unwrap();

    let said = server.wait_to_hear("was removed");
    assert!(said.contains("end the one holding"), "{said}");
    assert!(said.contains(".prices.lock"), "{said}");
    drop(lock);
    wait_for(&path, incarnation);
    server.wait_to_hear(AGAIN);
    server.end_by(Signal::TERM);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn limit_that_keeps_a_server_from_being_announced_again_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = start(directory.path(), &[]);
    let (path, incarnation) = (server.info_path(), server.info().incarnation);
    // What it has open stays open. A limit of 0 would keep it from polling as well.
    let limit = Rlimit {
        current: Some(3),
        ..getrlimit(Resource::Nofile)
    };
    let before = prlimit(Some(server.pid()), Resource::Nofile, limit).unwrap();

    fs::remove_file(&path).unwrap();

    let said = server.wait_to_hear("was removed");
    assert!(said.contains("ulimit -n"), "{said}");
    prlimit(Some(server.pid()), Resource::Nofile, before).unwrap();
    wait_for(&path, incarnation);
    server.wait_to_hear(AGAIN);
    server.end_by(Signal::TERM);
}
