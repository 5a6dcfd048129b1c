//! Fewer open files than are needed.

use super::confined::{Process, brief_server, client, is_possible, run, server, set_up, within, world};
use super::refused::run_behind;

/// With each number of descriptors, from too few for the system's own libraries to enough.
const NUMBERS: std::ops::Range<u32> = 4..40;

#[test]
fn server_with_any_number_of_descriptors_starts_or_says_what_to_raise() {
    if !is_possible(&world("unshare --ipc")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (mut refused, mut started) = (0, 0);
    for number in NUMBERS {
        let command = within(
            &set_up("", &format!("ulimit -n {number}")),
            brief_server(directory.path(), ""),
        );

        let ran = run_behind("", "", directory.path(), command);

        assert!(ran.left.is_empty() && ran.ended.output.is_empty(), "{number}: {ran:#?}");
        let told = ran.ended.told();
        match ran.ended.code {
            Some(0) => started += 1,
            Some(1) => {
                assert!(
                    told.ends_with("raise the limit of open files (`ulimit -n`)"),
                    "{number}: {told}"
                );
                assert!(!told.contains("--listen"), "{number}: {told}");
                refused += 1;
            }
            _ => panic!("{number}: {ran:#?}"),
        }
    }
    assert!(refused > 4 && started > 4, "{refused} refused, {started} started");
}

#[test]
fn client_with_any_number_of_descriptors_sees_the_server_or_says_what_to_raise() {
    let directory = tempfile::tempdir().unwrap();
    let _server = Process::announced(&server(directory.path(), "good", "--message x"));
    let (mut short, mut enough) = (0, 0);
    for number in NUMBERS {
        let world = set_up("", &format!("ulimit -n {number}"));

        let ended = run(&within(&world, client(directory.path(), "--format json")));

        let all = format!("{} {}", ended.output.join(" "), ended.told());
        let servers = ended.json_of("server");
        if ended.code == Some(0) && servers[0]["category"] == "host" {
            enough += 1;
            continue;
        }
        short += 1;
        assert!(all.contains("ulimit -n"), "{number}: {ended:#?}");
        match servers.first() {
            Some(server) => assert_eq!(
                (ended.code, &server["state"]),
                (Some(0), &"live".into()),
                "{number}: {ended:#?}"
            ),
            None => assert_eq!(ended.code, Some(1), "{number}: {ended:#?}"),
        }
    }
    assert!(short >= 1 && enough > 4, "{short} too short, {enough} enough");
}

#[test]
fn follower_with_any_number_of_descriptors_follows_or_says_what_to_raise() {
    let directory = tempfile::tempdir().unwrap();
    let _server = Process::announced(&server(directory.path(), "good", "--message x --interval 1ms"));
    let (mut short, mut enough) = (0, 0);
    for number in NUMBERS.step_by(2) {
        let world = set_up("", &format!("ulimit -n {number}"));
        let follower = Process::start(&within(&world, client(directory.path(), "--follow -n 3 --format json")));
        // The first that it says is what is missing, or how it went.
        let said = follower.error_with("");
        if said.contains("3 messages") {
            enough += 1;
        } else {
            assert!(said.contains("ulimit -n"), "{number}: {said}");
            short += 1;
        }
    }
    assert!(short >= 1 && enough > 4, "{short} too short, {enough} enough");
}
