//! Users outside a user namespace, who all have one uid in there: none of them is taken for another.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::confined::{Finished, Process, client, is_possible, is_root, run, server, within, world};

const SERVER_UID: u32 = 62_000;
const OTHER_UID: u32 = 61_000;

/// The one reason why a look found no server.
#[track_caller]
fn reason(look: Finished) -> String {
    let look = look.expect(3);
    let problems = look.json_of("problem");
    assert!(
        problems.len() == 1 && look.json_of("server").is_empty(),
        "believed, or more than one problem: {look:#?}"
    );
    problems[0]["reason"].as_str().unwrap().to_owned()
}

#[track_caller]
fn category(look: Finished) -> String {
    let look = look.expect(0);
    let servers = look.json_of("server");
    assert_eq!(servers.len(), 1, "{look:#?}");
    servers[0]["category"].as_str().unwrap().to_owned()
}

/// A server of [`SERVER_UID`] in a directory in which everybody may announce one and touch no other's.
fn server_of_another_user(temporary: &Path) -> Process {
    fs::set_permissions(temporary, Permissions::from_mode(0o755)).unwrap();
    let directory = temporary.join("info");
    fs::create_dir(&directory).unwrap();
    chown(&directory, Some(OTHER_UID), None).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o1777)).unwrap();
    let program = temporary.join("server");
    fs::copy(env!("CARGO_BIN_EXE_server"), &program).unwrap();
    let mut command = server(&directory, "good", "--message hello --interval 2ms");
    command[0] = program.display().to_string();
    let user = format!("setpriv --reuid={SERVER_UID} --regid={SERVER_UID} --clear-groups");
    Process::announced(&within(&world(&user), command))
}

#[test]
fn users_outside_a_user_namespace_are_believed_on_request_alone() {
    let inside = world("unshare --user --map-root-user");
    if !is_root() || !is_possible(&inside) || !is_possible(&world("setpriv --reuid=62000 --clear-groups")) {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("info");
    let _server = server_of_another_user(temporary.path());
    let look =
        |world: &[String], options: &str| run(&within(world, client(&directory, &format!("{options} --format json"))));

    let outside = reason(look(&[], ""));
    assert!(
        outside.contains("belongs to user 62000, who is not trusted"),
        "{outside}"
    );
    // Whether the directory belongs to another of them or to the same one.
    for owner in [OTHER_UID, SERVER_UID] {
        chown(&directory, Some(owner), None).unwrap();
        let refused = reason(look(&inside, ""));
        assert!(
            refused.contains("cannot be told apart; --trust-uid 65534 trusts all of them"),
            "{refused}"
        );
    }
    assert_eq!(category(look(&inside, "--trust-uid 65534")), "host");
    assert_eq!(category(look(&[], "")), "host", "in its owner's directory");
}
