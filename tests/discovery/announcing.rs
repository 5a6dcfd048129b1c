//! What announcing a server leaves in the directory, and what may be in the way.

use super::child::Role;
use super::{Watchdog, info, is_root, names, publish, servers};
use lapwing::Incarnation;
use lapwing::discovery::{AnnounceError, Announcement, InfoError, Occupant};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn try_publish(directory: &Path, name: &str) -> Result<Announcement, AnnounceError> {
    Announcement::publish(directory, &info(name), 0o644)
}

#[test]
fn server_is_found_while_it_is_announced_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();

    let announcement = publish(temporary.path(), "a");
    assert_eq!(names(temporary.path()), ["a.toml"]);
    assert!(servers(temporary.path())[0].lock.is_held().unwrap());

    announcement.remove().unwrap();
    assert!(names(temporary.path()).is_empty());

    drop(publish(temporary.path(), "a"));
    assert!(names(temporary.path()).is_empty());
}

#[test]
fn file_has_the_mode_that_was_asked_for() {
    let temporary = tempfile::tempdir().unwrap();
    for mode in [0o600, 0o640, 0o644, 0o400] {
        let announcement = Announcement::publish(temporary.path(), &info("a"), mode).unwrap();
        assert_eq!(
            fs::metadata(announcement.path()).unwrap().permissions().mode() & 0o7777,
            mode
        );
    }
    for mode in [0o666, 0o660, 0o602, 0o4644] {
        let error = Announcement::publish(temporary.path(), &info("a"), mode).unwrap_err();
        assert!(
            matches!(error, AnnounceError::Mode { mode: refused } if refused == mode),
            "{error:?}"
        );
    }
}

#[test]
fn name_of_a_live_server_is_refused_with_its_pid() {
    let temporary = tempfile::tempdir().unwrap();
    let _first = publish(temporary.path(), "a");

    let error = try_publish(temporary.path(), "a").unwrap_err();

    let own = std::process::id();
    assert!(matches!(&error, AnnounceError::NameInUse { name, pid } if name.as_str() == "a" && *pid == Some(own)));
    assert_eq!(names(temporary.path()), ["a.toml"]);
    assert!(servers(temporary.path())[0].lock.is_held().unwrap());
}

#[test]
fn info_that_no_client_could_use_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let mut nil = info("a");
    nil.incarnation = Incarnation::NIL;

    let error = Announcement::publish(temporary.path(), &nil, 0o644).unwrap_err();

    assert!(
        matches!(error, AnnounceError::Info(InfoError::NilIncarnation)),
        "{error:?}"
    );
    assert!(names(temporary.path()).is_empty());
}

#[test]
fn directory_is_created_if_its_parent_exists() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("info");

    let _announcement = publish(&directory, "a");
    assert_eq!(servers(&directory).len(), 1);

    let error = try_publish(&temporary.path().join("none/info"), "a").unwrap_err();
    assert!(matches!(error, AnnounceError::MissingParent { .. }), "{error:?}");

    let error = try_publish(&directory.join("a.toml"), "a").unwrap_err();
    assert!(matches!(error, AnnounceError::NotADirectory { .. }), "{error:?}");

    let error = try_publish(&directory.join("a.toml/info"), "a").unwrap_err();
    assert!(matches!(error, AnnounceError::NotADirectory { .. }), "{error:?}");
}

#[test]
fn file_that_replaced_ours_is_not_removed() {
    let temporary = tempfile::tempdir().unwrap();
    let announcement = publish(temporary.path(), "a");
    let other = temporary.path().join("other");
    fs::write(&other, "kept").unwrap();
    fs::rename(&other, announcement.path()).unwrap();

    let path = announcement.path();
    announcement.remove().unwrap();

    assert_eq!(fs::read_to_string(path).unwrap(), "kept");
}

#[test]
fn file_in_a_directory_that_was_renamed_is_still_removed() {
    let temporary = tempfile::tempdir().unwrap();
    let announcement = publish(&temporary.path().join("before"), "a");
    fs::rename(temporary.path().join("before"), temporary.path().join("after")).unwrap();

    drop(announcement);

    assert!(names(&temporary.path().join("after")).is_empty());
}

/// Puts something at `file_name`, and gives what publishing the server `a` there says is in the way.
fn occupant(file_name: &str, occupy: impl FnOnce(&Path)) -> Occupant {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    occupy(&temporary.path().join(file_name));

    let error = try_publish(temporary.path(), "a").unwrap_err();

    assert_eq!(names(temporary.path()), [file_name], "something was added or removed");
    match error {
        AnnounceError::Occupied { by, .. } => by,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_no_server_wrote_is_never_replaced() {
    let directory = |path: &Path| fs::create_dir(path).unwrap();
    let fifo = |path: &Path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();

    assert_eq!(occupant("a.toml", directory), Occupant::NotRegular("a directory"));
    assert_eq!(occupant("a.toml", fifo), Occupant::NotRegular("a FIFO"));
    assert_eq!(
        occupant("a.toml", |path| symlink("elsewhere", path).unwrap()),
        Occupant::Symlink
    );
    assert_eq!(
        occupant("a.toml", |path| symlink("/dev/null", path).unwrap()),
        Occupant::Symlink
    );
    assert_eq!(
        occupant("a.toml", |path| fs::write(path, "[package]\n").unwrap()),
        Occupant::NotAnInfoFile
    );
    assert_eq!(
        occupant("a.toml", |path| fs::write(path, b"\xff").unwrap()),
        Occupant::NotAnInfoFile
    );
    assert_eq!(occupant(".a.lock", directory), Occupant::NotRegular("a directory"));
    assert_eq!(occupant(".a.lock", fifo), Occupant::NotRegular("a FIFO"));
    assert_eq!(
        occupant(".a.lock", |path| symlink("elsewhere", path).unwrap()),
        Occupant::Symlink
    );
    assert_eq!(occupant(".a.new", directory), Occupant::NotRegular("a directory"));
}

#[test]
fn dead_file_of_another_user_is_never_replaced() {
    if !is_root() {
        return;
    }
    const STRANGER: u32 = 54_321;

    let by = occupant("a.toml", |path| {
        fs::write(path, info("a").to_toml()).unwrap();
        chown(path, Some(STRANGER), None).unwrap();
    });

    assert_eq!(by, Occupant::Stranger(STRANGER));
}

#[test]
fn dead_files_of_every_format_are_replaced() {
    for text in [
        info("a").to_toml().as_str(),
        "format = 7\n",
        "",
        "\0\0\0\0",
        "# lapwing info file: cut he",
    ] {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join("a.toml"), text).unwrap();

        let _announcement = publish(temporary.path(), "a");

        assert_eq!(names(temporary.path()), ["a.toml"]);
        assert!(servers(temporary.path())[0].lock.is_held().unwrap());
    }
}

#[test]
fn leftovers_of_killed_servers_are_removed_by_the_next_one() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    for leftover in [".a.new", ".a.lock", ".b.new", ".c.lock", ".d.new", ".d.lock"] {
        fs::write(directory.join(leftover), "half a fi").unwrap();
    }
    let kept = [".new", ".lock", ".-.new", ".note", "e.new", "keep.toml"];
    for file in kept {
        fs::write(directory.join(file), "").unwrap();
    }
    fs::create_dir(directory.join(".f.new")).unwrap();
    symlink("keep.toml", directory.join(".g.new")).unwrap();

    let _announcement = publish(directory, "a");

    assert_eq!(
        names(directory),
        [
            ".-.new",
            ".f.new",
            ".g.new",
            ".lock",
            ".new",
            ".note",
            "a.toml",
            "e.new",
            "keep.toml"
        ]
    );
}

#[test]
fn draft_of_a_server_that_is_just_announcing_itself_is_left_alone() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    fs::write(directory.join(".busy.lock"), "").unwrap();
    fs::write(directory.join(".busy.new"), "").unwrap();
    let mut other = Role::start("lock", &directory.join(".busy.lock"));
    assert_eq!(other.hear().unwrap(), "locked");

    let _announcement = publish(directory, "a");
    assert_eq!(names(directory), [".busy.lock", ".busy.new", "a.toml"]);

    let error = try_publish(directory, "busy").unwrap_err();
    assert!(matches!(error, AnnounceError::Busy { .. }), "{error:?}");

    other.kill();
    let _busy = publish(directory, "busy");
    assert_eq!(names(directory), ["a.toml", "busy.toml"]);
}

/// Has another process announce a server in `directory` after `mount` was run in a mount namespace of its own, and
/// gives what it said.
fn announced_after(mount: &str, directory: &Path) -> String {
    let mut command = Command::new("unshare");
    let script = format!("{mount} && exec \"$0\" \"$@\"");
    command
        .args(["--mount", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap());
    command.env("D", directory);
    Role::start_with(command, "hold", directory)
        .hear()
        .expect("unshare and mount work for root")
}

#[test]
fn full_disk_and_read_only_file_system_are_told_apart() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    if !is_root() {
        return;
    }

    // Three inodes: the root, the lock, the draft. Then none of the two blocks is left for the text.
    let full = "mount -t tmpfs -o size=4k,nr_inodes=8 none $D && head -c 4096 /dev/zero > $D/filler";
    let said = announced_after(full, temporary.path());
    assert!(said.starts_with("NoSpace"), "{said}");

    let no_inodes = "mount -t tmpfs -o size=1m,nr_inodes=1 none $D";
    let said = announced_after(no_inodes, temporary.path());
    assert!(said.starts_with("NoSpace"), "{said}");

    let said = announced_after("mount -t tmpfs -o ro none $D", temporary.path());
    assert!(said.starts_with("ReadOnly"), "{said}");

    assert!(names(temporary.path()).is_empty());
}

#[test]
fn missing_permission_is_named() {
    let _watchdog = Watchdog::start();
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Through a descriptor, because that user may have no way to the program's path.
    let program = File::open(std::env::current_exe().unwrap()).unwrap();
    let mut command = Command::new("/proc/self/fd/0");
    command.stdin(Stdio::from(program)).uid(54_321);
    command.args(["--exact", "announcing::announces_in_the_given_directory", "--nocapture"]);
    command.env("LAPWING_TEST_PATH", temporary.path());

    let output = command.output().unwrap();

    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("no permission to create"), "{said}");
    assert!(names(temporary.path()).is_empty());
}

/// Not a test of its own: what the other user runs.
#[test]
fn announces_in_the_given_directory() {
    if let Some(path) = std::env::var_os("LAPWING_TEST_PATH") {
        println!("{}", try_publish(Path::new(&path), "a").unwrap_err());
    }
}
