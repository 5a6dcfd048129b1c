//! No inotify left to be told of changes by: the client looks by itself, and says so once.

use std::fs;

use super::confined::{Process, client, is_possible, server, set_up, within};

/// A world whose users have none of what `limit` counts.
fn without(limit: &str) -> Vec<String> {
    set_up(
        "unshare --user --map-root-user",
        &format!("echo 0 > /proc/sys/user/{limit}"),
    )
}

const NOTICE: &str = "the kernel does not tell of changes";

#[test]
fn follower_without_inotify_finds_what_changes_and_says_once_that_it_looks_by_itself() {
    for limit in ["max_inotify_instances", "max_inotify_watches"] {
        let world = without(limit);
        if !is_possible(&world) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let follower = Process::start(&within(&world, client(directory.path(), "--follow --format json")));
        // Each of these but the first it can only find by another look.
        let mut told = Vec::new();
        for number in 0..4 {
            let name = format!("bad-{number}.toml");
            fs::write(directory.path().join(&name), "").unwrap();
            told.extend(follower.errors_up_to(&name));
        }
        let notice = told.iter().find(|line| line.contains(NOTICE));
        let notice = notice.expect("it said that it looks by itself before it had looked again and again");
        assert!(
            notice.contains("max_user_instances or max_user_watches with sysctl"),
            "{notice}"
        );
        let command = server(directory.path(), "good", "--message x --interval 1ms");
        let first = Process::announced(&command);
        assert_eq!(follower.json_of("attached")["transport"], "shm");
        follower.json_of("message");
        first.kill();
        follower.json_of("detached");
        let _second = Process::announced(&command);
        follower.json_of("attached");
        follower.json_of("message");

        told.extend(follower.stop().expect(0).errors);
        let notices = told.iter().filter(|line| line.contains(NOTICE)).count();
        assert_eq!(notices, 1, "{limit}: {told:#?}");
    }
}

/// Negative control: where inotify is to be had, nothing of it is said.
#[test]
fn follower_with_inotify_says_nothing_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let follower = Process::start(&client(directory.path(), "--follow --format json"));
    fs::write(directory.path().join("bad.toml"), "").unwrap();
    let mut told = follower.errors_up_to("bad.toml");

    told.extend(follower.stop().expect(0).errors);

    assert!(!told.iter().any(|line| line.contains(NOTICE)), "{told:#?}");
}
