//! Lossless clients where no control segment is to be had: another user, a /dev/shm that is full.

use rustix::process::Signal;

use crate::stage::{Json, Server, directory, world_is_possible};

/// Reads `count` messages, none of which may be missing.
fn expect_messages(json: &Json, count: u64) {
    let mut next = None;
    for _ in 0..count {
        let sequence = json.expect("message")["sequence"].as_u64().unwrap();
        assert_eq!(*next.get_or_insert(sequence), sequence);
        next = Some(sequence + 1);
    }
}

#[test]
fn another_user_is_told_why_and_loses_nothing_over_the_socket() {
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    if !world_is_possible(&as_nobody) {
        return;
    }
    let server = Server::start("--generate --rate max --slots 256 --lossless block");
    let program = server.directory().join("client");
    std::fs::copy(env!("CARGO_BIN_EXE_client"), &program).unwrap();
    let program = program.display().to_string();

    let mut client = server.client_from(&as_nobody, &program, "--follow --lossless --format json -n 3000");

    let json = client.json();
    let attached = json.expect("attached");
    assert_eq!(attached["transport"], "socket", "{attached}");
    let reason = attached["reason"].as_str().unwrap();
    assert!(
        reason.contains("lossless (block)") && reason.contains("run as that user"),
        "{reason}"
    );
    expect_messages(&json, 3000);
    assert!(client.process.wait().success());

    let mut client = server.client_from(&as_nobody, &program, "--follow --lossless --transport shm");
    client
        .process
        .hear(&["not attached: ", "the server runs as another user"]);
}

#[test]
fn client_with_another_dev_shm_is_told_why_and_loses_nothing_over_the_socket() {
    let elsewhere = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /dev/shm && exec \"$@\"",
        "sh",
    ];
    if !world_is_possible(&elsewhere) {
        return;
    }
    let server = Server::start("--generate --rate max --slots 256 --lossless block");

    let mut client = server.client(&elsewhere, "--follow --lossless --format json -n 3000");

    let json = client.json();
    let attached = json.expect("attached");
    assert_eq!(attached["transport"], "socket", "{attached}");
    let reason = attached["reason"].as_str().unwrap();
    assert!(reason.contains("are not in this /dev/shm"), "{reason}");
    expect_messages(&json, 3000);
    assert!(client.process.wait().success());
}

/// A server in a mount namespace that `script` sets up, and its process; `None` where there is none to be had.
fn server_with_mounts(script: &str) -> Option<(Server, String)> {
    let world = ["unshare", "--mount", "sh", "-c", script, "sh"];
    if !world_is_possible(&world) {
        return None;
    }
    let server = Server::start_in(
        &world,
        &directory(),
        "--generate --rate max --slots 256 --lossless block",
    );
    let pid = server.process.pid().as_raw_nonzero().to_string();
    Some((server, pid))
}

#[test]
fn full_dev_shm_is_an_error_for_those_who_need_it_and_harms_nobody_else() {
    // Room for three control segments: of four pages the directory takes none, the file one.
    let script = "mount -t tmpfs -o size=16k none /dev/shm && head -c 4096 /dev/zero > /dev/shm/taken && exec \"$@\"";
    let Some((mut server, pid)) = server_with_mounts(script) else {
        return;
    };
    let inside = ["nsenter", "--mount", "--target", &pid];

    let mut transports = Vec::new();
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let mut client = server.client(&inside, "--follow --lossless --format json");
            let json = client.json();
            let attached = json.expect_while_lives("attached", &mut server.process);
            let reason = attached["reason"].as_str().unwrap();
            let is_refused = reason.contains("no room for a control segment in /dev/shm: free some of it");
            assert_eq!(is_refused, attached["transport"] == "socket", "{attached}");
            transports.push(attached["transport"].as_str().unwrap().to_owned());
            (client, json)
        })
        .collect();
    assert_eq!(transports, ["shm", "shm", "shm", "socket", "socket"]);
    for (_, json) in &clients {
        expect_messages(json, 3000);
    }
    let mut refused = server.client(&inside, "--follow --lossless --transport shm");
    refused
        .process
        .hear(&["not attached: ", "no room for a control segment"]);

    assert!(server.process.end_by(Signal::TERM).success());
    for (_, json) in clients {
        // Reads on to the end, from which nothing is missing either.
        while json.next().is_some_and(|value| value["type"] != "ended") {}
    }
}

/// A tmpfs without a limit says that it has no blocks, and none free.
#[test]
fn dev_shm_without_a_size_has_room() {
    let script = "mount -t tmpfs -o size=0 none /dev/shm && exec \"$@\"";
    let Some((mut server, pid)) = server_with_mounts(script) else {
        return;
    };
    let inside = ["nsenter", "--mount", "--target", &pid];
    let mut client = server.client(&inside, "--follow --lossless --format json");
    let json = client.json();

    let attached = json.expect_while_lives("attached", &mut server.process);

    assert_eq!(attached["transport"], "shm", "{attached}");
}
