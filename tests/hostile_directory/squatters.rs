//! Who may only read an info file locks it in every way that a reader can: it neither fakes a live server, nor hides
//! one, nor keeps the next one from starting.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use serde_json::Value;

use super::confined::{Process, client, run};
use super::good_server;

/// A reader's locks on an info file: all of it with flock(2), and a read lock as far as the server leaves room for one.
fn squat(path: &Path) -> [File; 2] {
    let files = [(); 2].map(|()| File::open(path).unwrap());
    flock(&files[0], FlockOperation::NonBlockingLockExclusive).unwrap();
    // While a server lives, its write lock is in the way.
    let _ = fcntl_lock(&files[1], FlockOperation::NonBlockingLockShared);
    files
}

fn state_of_the_only_server(directory: &Path) -> Value {
    let servers = run(&client(directory, "--format json")).expect(0).json_of("server");
    assert_eq!(servers.len(), 1, "{servers:?}");
    servers[0]["state"].clone()
}

#[test]
fn locks_of_readers_change_nothing_before_while_and_after_a_server_lives() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let path = directory.join("good.toml");
    let first = good_server(directory);
    let follower = Process::start(&client(directory, "--follow --format json"));
    let one = follower.json_of("attached")["incarnation"].clone();

    let _while_it_lives = squat(&path);
    assert_eq!(state_of_the_only_server(directory), "live");

    first.kill();
    let _after_it_died = squat_anew(&path);
    // Who looks once comes to an end whatever he believes.
    assert_eq!(state_of_the_only_server(directory), "dead");
    follower.json_of("detached");

    let second = good_server(directory);
    let _on_the_next = squat(&path);
    let two = follower.json_of("attached")["incarnation"].clone();
    assert_ne!(one, two);
    assert_eq!(state_of_the_only_server(directory), "live");
    second.stop().expect(0);
    assert!(!path.exists());
    follower.stop().expect(0);
}

/// A read lock alone, which nobody's write lock is in the way of any more. That it is taken shows that it could hinder.
fn squat_anew(path: &Path) -> File {
    let file = File::open(path).unwrap();
    fcntl_lock(&file, FlockOperation::NonBlockingLockShared).unwrap();
    file
}
