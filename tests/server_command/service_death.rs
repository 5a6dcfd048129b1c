//! A server whose service thread dies. Nothing that a peer does kills it: the one thing that it cannot go on without is
//! epoll, which is broken here from below, by a library that is loaded in front of the system's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lapwing::socket::RemoteError;
use lapwing::{Incarnation, Join, Poll, RemoteSubscriber};

use crate::running::{Running, WATCHDOG, assert_freed, command, segment_of};

/// `epoll_wait`, which fails from the moment on at which a file is there.
const BROKEN_EPOLL: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
    if (access(getenv("LAPWING_TEST_BREAK"), F_OK) == 0) {
        errno = EBADF;
        return -1;
    }
    return epoll_pwait(epoll, events, most, timeout, NULL);
}
"#;

/// Compiles it into `directory`; `None`, visibly, where there is no C compiler.
fn broken_epoll(directory: &Path) -> Option<PathBuf> {
    let (source, library) = (directory.join("epoll.c"), directory.join("epoll.so"));
    fs::write(&source, BROKEN_EPOLL).unwrap();
    let compiler = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    match compiler {
        Ok(status) => {
            assert!(status.success());
            Some(library)
        }
        Err(error) => {
            eprintln!("SKIPPED: no C compiler: cc: {error}");
            None
        }
    }
}

#[test]
fn server_whose_service_thread_dies_says_so_undoes_everything_and_ends_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let Some(library) = broken_epoll(directory.path()) else {
        return;
    };
    let switch = directory.path().join("break");
    let mut command = command(&directory.path().join("info"));
    command
        .args(["--message", "tick", "--interval", "1ms"])
        .env("LD_PRELOAD", library)
        .env("LAPWING_TEST_BREAK", &switch)
        .stdin(Stdio::null());
    let server = Running::announced(command);
    let (path, segment, addresses) = (
        server.info_path(),
        segment_of(&server),
        server.info().socket.unwrap().addresses,
    );
    let mut follower = RemoteSubscriber::connect(&addresses, Incarnation::NIL, Join::New, WATCHDOG).unwrap();
    let first = follower.receive(WATCHDOG, <[u8]>::len).unwrap();
    assert!(matches!(first, Poll::Message(_)), "{first:?}");

    fs::write(switch, "").unwrap();
    let gone = server.wait();

    assert_eq!(gone.status.code(), Some(1), "{}", gone.said);
    assert!(gone.said.contains("epoll failed"), "{}", gone.said);
    assert!(
        gone.said.contains("the service thread died; restart the server"),
        "{}",
        gone.said
    );
    assert!(!path.exists());
    assert_freed(segment);
    // Its connections ended with it.
    let end = loop {
        match follower.receive(WATCHDOG, <[u8]>::len) {
            Ok(Poll::Message(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(end, Err(RemoteError::Closed)), "{end:?}");
}
