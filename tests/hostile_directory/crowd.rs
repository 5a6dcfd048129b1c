//! Ten thousand entries, and one good server whose name comes last.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use super::confined::{Process, client, run, server};
use super::info_of;

const EACH: usize = 5_000;
/// More than a client looks at at once.
const MUTE: usize = 300;

fn last_server(directory: &Path) -> Process {
    let command = server(directory, "zz-last", "--message hello --interval 2ms --slots 65536");
    Process::announced(&command)
}

/// Puts what dead servers left and as much that is no info file into `directory`, then starts a server that comes behind
/// all of that.
fn crowded(directory: &Path) -> Process {
    for number in 0..EACH {
        let dead = format!("dead-{number}");
        fs::write(directory.join(format!("{dead}.toml")), info_of(&dead, "127.0.0.1:1")).unwrap();
        fs::write(
            directory.join(format!("garbage-{number}.toml")),
            format!("number {number}"),
        )
        .unwrap();
    }
    last_server(directory)
}

#[test]
fn client_that_looks_reports_ten_thousand_entries_and_serves_the_last() {
    let temporary = tempfile::tempdir().unwrap();
    let _last = crowded(temporary.path());

    let ended = run(&client(temporary.path(), "--format json")).expect(0);

    let servers = ended.json_of("server");
    assert_eq!(servers.len(), EACH + 1);
    let last = servers.last().unwrap();
    assert_eq!(
        (&last["name"], &last["state"]),
        (&"zz-last".into(), &"live".into()),
        "{last}"
    );
    assert!(servers[..EACH].iter().all(|server| server["state"] == "dead"));
    assert_eq!(ended.json_of("message").len(), 1);
    let mut told: Vec<_> = ended
        .json_of("problem")
        .iter()
        .map(|problem| problem["path"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told.len(), EACH);
    told.dedup();
    assert_eq!(told.len(), EACH, "each is told once");
    let summary = &ended.json_of("summary")[0];
    assert_eq!(
        (&summary["servers"], &summary["problems"]),
        (&(EACH + 1).into(), &EACH.into())
    );
}

#[test]
fn dead_servers_whose_addresses_never_answer_take_no_time_from_one_that_lives() {
    let temporary = tempfile::tempdir().unwrap();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap().to_string();
    for number in 0..MUTE {
        let dead = format!("dead-{number}");
        fs::write(temporary.path().join(format!("{dead}.toml")), info_of(&dead, &address)).unwrap();
    }
    let _last = last_server(temporary.path());

    // It lasts as long, as nobody else answers; a loaded machine is given as much again to start and to end in.
    let start = Instant::now();
    let ended = run(&client(temporary.path(), "--format json --timeout 15s")).expect(0);
    let took = start.elapsed();

    assert!(took < 2 * Duration::from_secs(15), "it took {took:?}");
    let servers = ended.json_of("server");
    assert_eq!(servers.len(), MUTE + 1);
    let last = servers.last().unwrap();
    assert_eq!(
        (&last["name"], &last["state"]),
        (&"zz-last".into(), &"live".into()),
        "{last}"
    );
    assert_eq!(ended.json_of("message").len(), 1);
}

#[test]
fn look_that_has_no_time_to_read_all_says_so_and_is_no_success() {
    let temporary = tempfile::tempdir().unwrap();
    let _last = crowded(temporary.path());

    let ended = run(&client(temporary.path(), "--timeout 1ms")).expect(1);

    assert!(ended.told().contains("give --timeout more time"), "{ended:#?}");
}

#[test]
fn follower_reports_ten_thousand_entries_and_follows_the_last() {
    let temporary = tempfile::tempdir().unwrap();
    let last = crowded(temporary.path());
    let follower = Process::start(&client(temporary.path(), "--follow --name zz* --format json"));
    let everybody = Process::start(&client(temporary.path(), "--follow --format json"));
    for follower in [&follower, &everybody] {
        assert_eq!(follower.json_of("attached")["server"], "zz-last");
        for _ in 0..100 {
            assert_eq!(follower.json()["server"], "zz-last");
        }
    }
    // One more entry makes both look again.
    fs::write(temporary.path().join("the-end.toml"), "").unwrap();
    for follower in [&follower, &everybody] {
        let mut lines = told_up_to_the_end(follower);
        lines.retain(|line| line.contains("garbage-"));
        assert_eq!(lines.len(), EACH);
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), EACH, "each is told once");
    }
    // Those that were there first leave room for one that comes.
    let later = server(temporary.path(), "zz-later", "--message hello --interval 2ms");
    let _later = Process::announced(&later);
    for follower in [&follower, &everybody] {
        while follower.json_of("attached")["server"] != "zz-later" {}
    }
    last.kill();
    for follower in [follower, everybody] {
        while follower.json_of("detached")["server"] != "zz-last" {}
        follower.stop().expect(0);
    }
}

/// What a follower tells up to the last problem. Who has no room for the rest says so, and would be waited for in vain.
fn told_up_to_the_end(follower: &Process) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = follower.errors_up_to("").remove(0);
        assert!(
            !line.contains("further ones are not") && !line.contains("choose by --name"),
            "{line}"
        );
        let is_last = line.contains("the-end.toml");
        lines.push(line);
        if is_last {
            return lines;
        }
    }
}
