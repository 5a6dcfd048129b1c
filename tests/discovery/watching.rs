//! Changes are seen as they happen, whatever happens to the directory.

use super::child::Role;
use super::{Watchdog, publish};
use lapwing::discovery::Watch;
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// A watch of `path` that has nothing to report.
fn quiet(path: &Path) -> Watch {
    let mut watch = Watch::new(path);
    assert!(watch.degraded().is_none(), "{:?}", watch.degraded());
    while watch.wait(Duration::ZERO).unwrap() {}
    watch
}

#[test]
fn every_change_of_an_info_file_is_seen() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let mut watch = quiet(temporary.path());

    let announcement = publish(temporary.path(), "a");
    assert!(watch.wait(LONG).unwrap());
    assert!(!watch.wait(Duration::ZERO).unwrap());

    fs::set_permissions(announcement.path(), Permissions::from_mode(0o600)).unwrap();
    assert!(watch.wait(LONG).unwrap());

    announcement.remove().unwrap();
    assert!(watch.wait(LONG).unwrap());

    fs::write(temporary.path().join("b.toml"), "").unwrap();
    assert!(watch.wait(LONG).unwrap());

    fs::rename(temporary.path().join("b.toml"), temporary.path().join("b")).unwrap();
    assert!(watch.wait(LONG).unwrap());
    assert!(!watch.wait(Duration::ZERO).unwrap());
}

#[test]
fn other_files_do_not_disturb() {
    let temporary = tempfile::tempdir().unwrap();
    let mut watch = quiet(temporary.path());

    for other in [".a.toml", "notes", ".a.new", ".a.lock"] {
        fs::write(temporary.path().join(other), "").unwrap();
    }

    assert!(!watch.wait(Duration::ZERO).unwrap());
}

#[test]
fn wait_ends_at_its_time_limit() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let mut watch = quiet(temporary.path());

    assert!(!watch.wait(Duration::from_millis(20)).unwrap());
}

#[test]
fn one_file_is_watched_through_its_whole_life_and_alone() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let mut watch = quiet(&temporary.path().join("a.toml"));

    let other = publish(temporary.path(), "b");
    assert!(!watch.wait(Duration::ZERO).unwrap());

    for _ in 0..2 {
        let announcement = publish(temporary.path(), "a");
        assert!(watch.wait(LONG).unwrap());
        announcement.remove().unwrap();
        assert!(watch.wait(LONG).unwrap());
        assert!(!watch.wait(Duration::ZERO).unwrap());
    }
    other.remove().unwrap();
    assert!(!watch.wait(Duration::ZERO).unwrap());
}

#[test]
fn directory_is_noticed_when_it_appears_goes_and_comes_back() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("info");
    let mut watch = quiet(&directory);

    for _ in 0..3 {
        fs::create_dir(&directory).unwrap();
        assert!(watch.wait(LONG).unwrap());
        let announcement = publish(&directory, "a");
        assert!(watch.wait(LONG).unwrap());
        announcement.remove().unwrap();
        fs::remove_dir(&directory).unwrap();
        assert!(watch.wait(LONG).unwrap());
        while watch.wait(Duration::ZERO).unwrap() {}
    }
}

#[test]
fn another_directory_moved_to_the_path_is_watched_instead() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let [path, away, other] = ["info", "away", "other"].map(|name| temporary.path().join(name));
    fs::create_dir(&path).unwrap();
    fs::create_dir(&other).unwrap();
    let mut watch = quiet(&path);

    fs::rename(&path, &away).unwrap();
    fs::rename(&other, &path).unwrap();
    while watch.wait(Duration::ZERO).unwrap() {}

    let _unseen = publish(&away, "a");
    assert!(!watch.wait(Duration::ZERO).unwrap());
    let _seen = publish(&path, "a");
    assert!(watch.wait(LONG).unwrap());
}

#[test]
fn more_changes_than_the_kernel_queues_still_count_as_one() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let mut watch = quiet(temporary.path());
    let (a, b) = (temporary.path().join(".a"), temporary.path().join(".b"));
    fs::write(&a, "").unwrap();

    // Hidden files do not matter, but an overflow may have hidden one that does.
    for _ in 0..20_000 {
        fs::rename(&a, &b).unwrap();
        fs::rename(&b, &a).unwrap();
    }

    assert!(watch.wait(Duration::ZERO).unwrap());
    assert!(!watch.wait(Duration::ZERO).unwrap());
}

#[test]
fn descriptor_becomes_readable_with_a_change_and_quiet_after_the_wait() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let mut watch = quiet(temporary.path());
    let readable = |watch: &Watch| {
        let descriptor = watch.descriptor().unwrap();
        poll(
            &mut [PollFd::new(&descriptor, PollFlags::IN)],
            Some(&Default::default()),
        )
        .unwrap()
            == 1
    };
    assert!(!readable(&watch));

    let _announcement = publish(temporary.path(), "a");
    assert!(readable(&watch));

    assert!(watch.wait(Duration::ZERO).unwrap());
    assert!(!readable(&watch));
}

#[test]
fn without_inotify_it_waits_out_its_time_and_says_why() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();

    let said = Role::start("watch without descriptors", temporary.path())
        .hear()
        .unwrap();

    assert_eq!(said, format!("false Some({})", rustix::io::Errno::MFILE.raw_os_error()));
}
