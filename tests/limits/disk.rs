//! An info directory that cannot be written: full, out of inodes, read-only, somebody else's.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::confined::{Finished, Process};
use super::confined::{brief_server, client, is_possible, is_root, run, server, set_up, within, world};
use super::refused::{FILLER, refused, starts};

fn possible() -> bool {
    is_possible(&world("unshare --ipc --mount"))
}

#[test]
fn full_disk_is_told_and_nothing_is_left_on_it() {
    if !possible() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let mounted = |options: &str| format!("mount -t tmpfs -o {options} none {0}\ncd {0}", directory.display());
    for (full, enough) in [
        // A page for the file's text; two inodes for the draft and the lock beside it. The root has one.
        (
            format!("{}\nhead -c 4096 /dev/zero > {FILLER}", mounted("size=4k")),
            mounted("size=4k"),
        ),
        (
            format!("{}\ntouch {FILLER}", mounted("nr_inodes=2")),
            mounted("nr_inodes=3"),
        ),
        (
            format!("{}\ntouch {FILLER}", mounted("nr_inodes=3")),
            mounted("nr_inodes=3"),
        ),
    ] {
        let said = refused("--mount", &full, directory, "");

        assert!(
            said.contains("no space left to write") && said.contains("free some"),
            "{said}"
        );
        starts("--mount", &enough, directory, "");
    }
}

#[test]
fn file_size_limit_is_told_and_nothing_is_left() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // In blocks of 512 bytes; an info file has about 400.
    let said = refused("", "ulimit -f 0", directory.path(), "");

    assert!(said.contains("cannot write") && said.contains("`ulimit -f`"), "{said}");
    starts("", "ulimit -f 1", directory.path(), "");
}

#[test]
fn client_whose_output_may_not_grow_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let info = directory.path().join("info");
    let _server = Process::announced(&server(&info, "a", "--message x --interval 1ms"));
    let output = directory.path().join("output");
    for options in ["--explain", "--follow"] {
        let world = set_up("", &format!("ulimit -f 1; exec > {}", output.display()));

        let ended: Finished = run(&within(&world, client(&info, &format!("{options} --format json")))).expect(1);

        let told = ended.told();
        assert!(
            told.contains("cannot write to standard output") && told.contains("`ulimit -f`"),
            "{told}"
        );
    }
}

#[test]
fn read_only_directory_is_told_by_the_server_and_enough_for_clients() {
    if !possible() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let read_only = format!(
        "mount --bind {0} {0}\nmount -o remount,bind,ro {0}",
        directory.display()
    );

    let said = refused("--mount", &read_only, directory, "");

    assert!(said.contains("read-only file system; use another directory"), "{said}");
    let _server = Process::announced(&server(directory, "good", "--message x"));
    let ended = run(&within(
        &set_up("unshare --mount", &read_only),
        client(directory, "--format json"),
    ))
    .expect(0);
    assert_eq!(ended.json_of("server")[0]["state"], "live", "{ended:#?}");
    assert_eq!(ended.json_of("summary")[0]["problems"], 0, "{ended:#?}");
}

#[test]
fn directory_of_another_user_is_told() {
    let as_nobody = world("setpriv --reuid=65534 --regid=65534 --clear-groups");
    if !is_root() || !is_possible(&as_nobody) {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    fs::set_permissions(temporary.path(), Permissions::from_mode(0o755)).unwrap();
    let program = temporary.path().join("server");
    fs::copy(env!("CARGO_BIN_EXE_server"), &program).unwrap();
    for (name, step) in [("not-there", "create the directory"), ("there", "create")] {
        let directory = temporary.path().join(name);
        if name == "there" {
            fs::create_dir(&directory).unwrap();
        }
        let mut command = brief_server(&directory, "");
        command[0] = program.display().to_string();

        let ended = run(&within(&as_nobody, command)).expect(1);

        let told = ended.told();
        assert!(told.contains(&format!("no permission to {step}")), "{told}");
        assert!(told.contains("give this user write access"), "{told}");
        assert_eq!(fs::read_dir(&directory).map_or(0, Iterator::count), 0);
    }
}
