//! What servers are called, who may take a name, and arguments that make no sense.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::running::{Running, assert_freed, command, run, segment_of, start};

#[test]
fn servers_without_a_name_get_one_each() {
    let directory = tempfile::tempdir().unwrap();
    let servers = [(); 3].map(|()| start(directory.path(), &[]));

    assert_eq!(
        servers.each_ref().map(|server| server.name()),
        ["server", "server-2", "server-3"]
    );
    for server in servers {
        server.end_by(Signal::TERM);
    }
}

#[test]
fn a_name_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = start(directory.path(), &["--name", "prices"]);
    let mut second = command(directory.path());
    second.args(["--name", "prices"]);

    let refused = run(second);

    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.said.contains("in use"), "{}", refused.said);
    assert!(server.info_path().exists());
    server.end_by(Signal::TERM);
}

#[test]
fn the_name_of_a_killed_server_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let killed = start(directory.path(), &["--name", "prices"]);
    let (path, segment) = (killed.info_path(), segment_of(&killed));

    let gone = killed.end_by(Signal::KILL);

    assert!(!gone.status.success());
    assert!(path.exists());
    assert_freed(segment);
    let heir = start(directory.path(), &["--name", "prices"]);
    assert_ne!(segment_of(&heir).1, segment.1);
    heir.end_by(Signal::TERM);
    assert!(!path.exists());

    let killed = start(directory.path(), &[]);
    killed.end_by(Signal::KILL);
    let heir = start(directory.path(), &[]);
    assert_eq!(heir.name(), "server");
    heir.end_by(Signal::TERM);
}

#[test]
fn arguments_that_make_no_sense_start_nothing_and_say_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let info_dir = directory.path().join("info");
    for (arguments, advice) in [
        (&["--no-socket", "--no-shm"][..], "cannot be used with"),
        (&["--file", "a", "--generate"], "cannot be used with"),
        (&["--slots", "1000"], "1024 is"),
        (&["--publish-listen", "0.0.0.0:0"], "--publish-remote"),
        (&["--ring-size", "much"], "64K"),
    ] {
        let mut command = command(&info_dir);
        command.args(arguments);

        let gone = run(command);

        assert_eq!(gone.status.code(), Some(2), "{arguments:?}");
        assert!(gone.said.contains(advice), "{}", gone.said);
    }
    assert!(!info_dir.exists());
}

#[test]
fn server_that_has_no_address_says_so_and_does_not_start_without_shared_memory() {
    let in_empty_network = |program: &Path| {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(program).stdin(Stdio::null());
        command
    };
    if !in_empty_network("true".as_ref())
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("SKIPPED: there is no right to make a network namespace");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = || {
        let mut server = in_empty_network(env!("CARGO_BIN_EXE_server").as_ref());
        server.arg("--info-dir").arg(directory.path());
        server.args(["--listen", "0.0.0.0:0", "--message", "hi"]);
        server
    };

    let mut unreachable = server();
    unreachable.arg("--no-shm");
    let refused = run(unreachable);

    assert_eq!(refused.status.code(), Some(1), "{}", refused.said);
    assert!(refused.said.contains("--listen or --advertise"), "{}", refused.said);
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);

    let mut server = Running::announced(server());
    server.wait_to_hear("no network interface has an address");
    let mut client = Command::new(env!("CARGO_BIN_EXE_client"));
    let explained = client.arg(directory.path()).arg("--explain").output().unwrap();
    let explained = String::from_utf8(explained.stdout).unwrap();
    assert!(explained.contains("or with --advertise"), "{explained}");
    assert!(server.end_by(Signal::TERM).status.success());
}

#[test]
fn mode_that_keeps_others_out_says_that_the_socket_does_not() {
    const WARNING: &str = "--no-socket keeps them out";
    for (arguments, is_open) in [
        (&["--mode", "0640"][..], true),
        (&["--mode", "0640", "--no-socket"], false),
        (&["--mode", "0644"], false),
        (&[], false),
    ] {
        let directory = tempfile::tempdir().unwrap();

        let gone = start(directory.path(), arguments).end_by(Signal::TERM);

        assert_eq!(gone.said.contains(WARNING), is_open, "{arguments:?}: {}", gone.said);
    }
}
