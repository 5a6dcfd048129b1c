//! Looks at servers of this process, in each of the four categories that one machine can show without namespaces.

use super::*;
use crate::discovery::{ServerName, Trust, read};
use crate::server::{Server, ServerOptions};

fn options(dir: &tempfile::TempDir) -> ServerOptions {
    let mut options = ServerOptions::new("probed".parse::<ServerName>().unwrap());
    options.info_dir = dir.path().to_owned();
    options
}

fn look(found: &Found) -> Report {
    probe(
        found,
        &ProbeOptions {
            deadline: Instant::now() + Duration::from_secs(20),
            last: 2,
        },
    )
}

fn found(server: &Server) -> Found {
    read(server.info_path(), &Trust::default()).unwrap()
}

#[test]
fn category_follows_from_what_works_and_the_newest_messages_come_over_it() {
    let all = [
        (true, true, Category::Host),
        (true, false, Category::Container),
        (false, true, Category::Remote),
    ];
    for (shared_memory, socket, category) in all {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&dir);
        options.shared_memory = shared_memory;
        if !socket {
            options.listen.clear();
        }
        let mut server = Server::start(options).unwrap();
        for payload in [b"a", b"b", b"c"] {
            server.publisher().publish(payload).unwrap();
        }

        let report = look(&found(&server));

        assert_eq!((report.category, report.state), (category, ServerState::Live));
        assert_eq!(
            (report.oldest, report.head, report.missed, report.readers),
            (0, 3, 0, Some(0))
        );
        let messages: Vec<_> = report.messages.iter().map(|m| (m.sequence, &m.payload[..])).collect();
        assert_eq!(messages, [(1, &b"b"[..]), (2, b"c")]);
    }
}

#[test]
fn server_that_nothing_reaches_is_called_neither_hung_nor_dead_while_its_lock_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(options(&dir)).unwrap();
    let mut found = found(&server);
    found.info.shared_memory = None;
    found.info.socket = None;

    let report = look(&found);

    assert_eq!((report.category, report.state), (Category::Vm, ServerState::Unknown));
}

#[test]
fn server_that_has_just_left_is_not_called_dead() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(options(&dir)).unwrap();
    let found = found(&server);
    drop(server);

    let report = look(&found);

    assert_eq!((report.category, report.state), (Category::Vm, ServerState::Ended));
    assert!(report.reason.contains("has just left"), "{}", report.reason);
}

#[test]
fn stream_that_has_ended_is_told_over_either_transport() {
    for shared_memory in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&dir);
        options.shared_memory = shared_memory;
        let mut server = Server::start(options).unwrap();
        server.publisher().publish(b"last").unwrap();
        server.end_stream();

        let report = look(&found(&server));

        assert_eq!(report.messages.len(), 1);
        assert_eq!(report.state, ServerState::Ended, "shared memory: {shared_memory}");
    }
}
