//! The directory itself: open to others, a link, no directory, unreadable.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::confined::{Finished, Process, client, is_possible, is_root, run, within, world};
use super::good_server;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What a look says of a directory with one good server: the paths and reasons of its problems.
fn problems(path: &Path, options: &str) -> Vec<[String; 2]> {
    let ended = run(&client(path, &format!("{options} --format json"))).expect(0);
    let servers = ended.json_of("server");
    assert_eq!((servers.len(), &servers[0]["state"]), (1, &"live".into()), "{ended:#?}");
    assert_eq!(ended.json_of("message").len(), 1, "{ended:#?}");
    let text = |problem: &serde_json::Value, key: &str| problem[key].as_str().unwrap().to_owned();
    let problems = ended.json_of("problem");
    problems
        .iter()
        .map(|problem| [text(problem, "path"), text(problem, "reason")])
        .collect()
}

#[test]
fn directory_in_which_others_may_rename_is_reported_and_its_servers_are_served() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("info");
    let _server = good_server(&directory);
    let file = directory.join("good.toml");
    for mode in [0o777, 0o775, 0o757] {
        set_mode(&directory, mode);
        // Whether it is the directory that is named, or the file in it.
        for path in [&directory, &file] {
            let told = problems(path, "");
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!(Path::new(&told[0][0]), directory);
            assert!(told[0][1].contains(&format!("mode {mode:04o}")), "{told:?}");
            assert!(told[0][1].contains("--trust-writable"), "{told:?}");
            assert!(problems(path, "--trust-writable").is_empty());
        }
    }
    // In these nobody may touch what is not his.
    for mode in [0o755, 0o1777, 0o700, 0o1775] {
        set_mode(&directory, mode);
        assert!(problems(&directory, "").is_empty(), "{mode:o}");
    }
}

#[test]
fn follower_reports_a_directory_in_which_others_may_rename_once() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("info");
    let _server = good_server(&directory);
    set_mode(&directory, 0o777);
    let follower = Process::start(&client(&directory, "--follow --format json"));
    follower.json_of("message");
    fs::write(directory.join("bad.toml"), "").unwrap();
    let mut told = follower.errors_up_to("bad.toml");
    told.extend(follower.stop().expect(0).errors);

    assert_eq!(
        told.iter().filter(|line| line.contains("mode 0777")).count(),
        1,
        "{told:#?}"
    );
}

#[test]
fn file_that_others_may_write_is_believed_on_request_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("info");
    let _server = good_server(&directory);
    set_mode(&directory.join("good.toml"), 0o666);

    let refused = run(&client(&directory, "--format json")).expect(3);

    assert_eq!(refused.json_of("problem").len(), 1, "{refused:#?}");
    assert!(problems(&directory, "--trust-writable").is_empty());
}

#[test]
fn link_to_a_directory_is_as_good_as_the_directory() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("info");
    let _server = good_server(&directory);
    let link = temporary.path().join("link");
    symlink("info", &link).unwrap();

    assert!(problems(&link, "").is_empty());
    assert!(problems(&link.join("good.toml"), "").is_empty());
}

#[test]
fn what_is_no_directory_or_not_there_is_told_with_its_exit_code() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    fs::write(at("file"), "").unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("endless", at("endless")).unwrap();
    for (name, code, reason) in [
        ("file", 3, "called NAME.toml"),
        ("file/below", 1, "Not a directory"),
        ("missing", 3, "there is no"),
        ("dangling", 3, "there is no"),
        ("endless", 1, "cannot read"),
    ] {
        let ended: Finished = run(&client(&at(name), ""));

        let all = [ended.output.join("\n"), ended.told()].concat();
        assert!(ended.code == Some(code) && all.contains(reason), "{name}: {ended:#?}");
    }
}

#[test]
fn unreadable_directory_is_an_error_with_what_to_do() {
    let as_nobody = world("setpriv --reuid=65534 --regid=65534 --clear-groups");
    if !is_root() || !is_possible(&as_nobody) {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    set_mode(temporary.path(), 0o755);
    let directory = temporary.path().join("info");
    let _server = good_server(&directory);
    let program = temporary.path().join("client");
    fs::copy(env!("CARGO_BIN_EXE_client"), &program).unwrap();
    let look = |path: &Path| {
        let mut command = client(path, "");
        command[0] = program.display().to_string();
        run(&within(&as_nobody, command))
    };
    look(&directory).expect(0);

    set_mode(&directory, 0o700);
    let told = look(&directory).expect(1).told();
    assert!(told.contains("check its permissions"), "{told}");

    // A file that may not be read is a problem like any other.
    set_mode(&directory, 0o755);
    set_mode(&directory.join("good.toml"), 0o600);
    let ended = look(&directory).expect(3);
    assert!(
        ended.output.join("\n").contains("no permission to read it"),
        "{ended:#?}"
    );
}
