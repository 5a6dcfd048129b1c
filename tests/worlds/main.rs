//! The four categories made real: the commands in other network, IPC, PID and mount namespaces, as other users, and
//! beside a stranger's segment of the same id. Where the system forbids namespaces, a test says so and is skipped.

mod command;

use command::{Running, client, in_world, json, world_is_possible};

/// The one server that a client reported, and what it said of it.
fn only_server(lines: &[serde_json::Value]) -> &serde_json::Value {
    let mut servers = lines.iter().filter(|line| line["type"] == "server");
    let server = servers.next().unwrap_or_else(|| panic!("no server in {lines:?}"));
    assert!(servers.next().is_none(), "more than one server in {lines:?}");
    server
}

fn payloads(lines: &[serde_json::Value]) -> Vec<&str> {
    lines
        .iter()
        .filter(|line| line["type"] == "message")
        .filter_map(|line| line["payload"].as_str())
        .collect()
}

/// Looks at a server from inside `world` and checks the category, what works, and the newest message.
fn expect(world: &[&str], category: &str, shm_works: bool, socket_works: bool) {
    if !world_is_possible(world) {
        return;
    }
    let server = Running::server(&["--message", "hello", "--count", "3", "--interval", "1ms"]);
    server.wait_for_messages(3);

    let lines = json(&in_world(world, &client(&server, &["--format", "json"])));

    let found = only_server(&lines);
    assert_eq!(found["category"], category, "{found}");
    assert_eq!(found["shm"] == "ok", shm_works, "{found}");
    assert_eq!(found["socket"] == "ok", socket_works, "{found}");
    if shm_works || socket_works {
        assert_eq!(found["state"], "live", "{found}");
        assert_eq!(payloads(&lines), ["hello"]);
    } else {
        assert!(payloads(&lines).is_empty());
    }
    let summary = lines.last().unwrap();
    assert_eq!((&summary["type"], &summary["servers"]), (&"summary".into(), &1.into()));
    assert_eq!(summary[category], 1, "{summary}");
}

#[test]
fn same_machine_is_a_host() {
    expect(&[], "host", true, true);
}

#[test]
fn other_network_namespace_is_a_container() {
    expect(&["unshare", "--net"], "container", true, false);
}

#[test]
fn other_ipc_namespace_is_remote() {
    expect(&["unshare", "--ipc"], "remote", false, true);
}

#[test]
fn other_namespaces_of_all_kinds_are_a_vm() {
    let world = [
        "unshare",
        "--ipc",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
    ];
    expect(&world, "vm", false, false);
}

#[test]
fn segment_of_a_stranger_with_the_same_id_is_told_apart() {
    if !world_is_possible(&["unshare", "--ipc"]) {
        return;
    }
    let server = Running::server(&["--message", "mine", "--count", "1"]);
    server.wait_for_messages(1);
    let script = format!(
        "echo {} > /proc/sys/kernel/shm_next_id && ipcmk -M 8192 >/dev/null && exec \"$@\"",
        server.segment_id()
    );

    let output = in_world(
        &["unshare", "--ipc", "sh", "-c", &script, "sh"],
        &client(&server, &["--format", "json"]),
    );

    let lines = json(&output);
    let found = only_server(&lines);
    assert_eq!(found["category"], "remote", "{found}");
    assert!(
        found["shm"].as_str().unwrap().contains("not a lapwing segment"),
        "{found}"
    );
    assert_eq!(payloads(&lines), ["mine"]);
}

#[test]
fn segment_of_another_server_with_the_same_id_is_told_apart() {
    if !world_is_possible(&["unshare", "--ipc"]) {
        return;
    }
    let server = Running::server(&["--message", "mine", "--count", "1"]);
    server.wait_for_messages(1);
    let other = tempfile::tempdir().unwrap();
    let script = format!(
        "echo {id} > /proc/sys/kernel/shm_next_id && {{ {server} --name other --info-dir {dir} --no-socket --message theirs & }} && \
         while [ ! -e {dir}/other.toml ]; do sleep 0.01; done; \"$@\"; status=$?; kill $!; wait; exit $status",
        id = server.segment_id(),
        server = command::SERVER,
        dir = other.path().display(),
    );

    let output = in_world(
        &["unshare", "--ipc", "sh", "-c", &script, "sh"],
        &client(&server, &["--format", "json"]),
    );

    let lines = json(&output);
    let found = only_server(&lines);
    assert_eq!(found["category"], "remote", "{found}");
    assert!(found["shm"].as_str().unwrap().contains("another server's"), "{found}");
    assert_eq!(payloads(&lines), ["mine"]);
}

#[test]
fn another_user_may_read_mode_0644_and_is_refused_0600_with_the_reason() {
    for (mode, category) in [("0644", "host"), ("0600", "remote")] {
        let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        if !world_is_possible(&as_nobody) {
            return;
        }
        let server = Running::server(&["--mode", mode, "--message", "hello", "--count", "1"]);
        server.wait_for_messages(1);
        let mut command = client(&server, &["--format", "json"]);
        command[0] = server.copy_of_client();

        let lines = json(&in_world(&as_nobody, &command));

        let found = only_server(&lines);
        assert_eq!(found["category"], category, "{found}");
        assert_eq!(payloads(&lines), ["hello"]);
        if mode == "0600" {
            assert!(found["shm"].as_str().unwrap().contains("--mode 0644"), "{found}");
        }
    }
}

#[test]
fn follower_in_another_ipc_namespace_gets_every_message_over_the_socket() {
    if !world_is_possible(&["unshare", "--ipc"]) {
        return;
    }
    let server = Running::server(&["--message", "tick", "--interval", "1ms"]);
    let follow = client(&server, &["--follow", "--from", "0", "-n", "50", "--format", "json"]);

    let lines = json(&in_world(&["unshare", "--ipc"], &follow));

    assert_eq!(lines[0]["type"], "attached");
    assert_eq!(lines[0]["transport"], "socket");
    assert!(
        lines[0]["reason"].as_str().unwrap().contains("shared memory: "),
        "{}",
        lines[0]
    );
    let sequences: Vec<_> = lines[1..].iter().filter_map(|line| line["sequence"].as_u64()).collect();
    assert_eq!(sequences, (0..50).collect::<Vec<_>>());
}

#[test]
fn follower_in_another_network_namespace_sleeps_and_wakes_on_shared_memory() {
    if !world_is_possible(&["unshare", "--net"]) {
        return;
    }
    let server = Running::server(&["--message", "tick", "--interval", "5ms"]);
    let follow = client(
        &server,
        &["--follow", "--block", "--from", "0", "-n", "50", "--format", "json"],
    );

    let lines = json(&in_world(&["unshare", "--net"], &follow));

    assert_eq!(lines[0]["transport"], "shm");
    let sequences: Vec<_> = lines[1..].iter().filter_map(|line| line["sequence"].as_u64()).collect();
    assert_eq!(sequences, (0..50).collect::<Vec<_>>());
}

#[test]
fn four_servers_of_four_categories_are_counted_in_one_look() {
    let host = Running::server(&["--message", "a"]);
    let _shm_only = Running::beside(&host, &["--no-socket", "--message", "b"]);
    let _socket_only = Running::beside(&host, &["--no-shm", "--message", "c"]);
    Running::beside(&host, &["--message", "d"]).kill();

    let lines = json(&in_world(&[], &client(&host, &["--format", "json", "--no-messages"])));

    let summary = lines.last().unwrap();
    for (key, count) in [("servers", 4), ("host", 1), ("container", 1), ("remote", 1), ("vm", 1)] {
        assert_eq!(summary[key], count, "{key} in {summary}");
    }
    let dead: Vec<_> = lines.iter().filter(|line| line["state"] == "dead").collect();
    assert_eq!(dead.len(), 1, "{lines:?}");
    assert_eq!(dead[0]["category"], "vm");
}
