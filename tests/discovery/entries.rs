//! Whatever lies in the directory, it is named and stops nothing.

use super::{Watchdog, info, is_root, names, problem, publish, servers};
use lapwing::discovery::{Entry, EntryError, Info, InfoError, ListError, MAX_ENTRIES, Trust, list, read};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Makes a directory with one live server in it, lets `attack` add something under the path that it is given, and
/// gives the reason why that is not believed. The live server must be found all the same.
fn attacked(file_name: &str, attack: impl FnOnce(&Path)) -> EntryError {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let _announcement = publish(temporary.path(), "m");

    attack(&temporary.path().join(file_name));

    let entries = list(temporary.path(), &Trust::default()).unwrap();
    assert!(
        entries
            .iter()
            .any(|entry| matches!(entry, Entry::Server(found) if found.info.name.as_str() == "m"))
    );
    problem(temporary.path())
}

fn write_info(path: &Path) {
    fs::write(path, info("x").to_toml()).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
}

#[test]
fn fifo_is_reported_and_does_not_block() {
    let reason = attacked("x.toml", |path| {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap()
    });

    assert!(
        matches!(reason, EntryError::NotRegular { kind: "a FIFO" }),
        "{reason:?}"
    );
}

#[test]
fn directory_and_socket_are_reported() {
    let reason = attacked("x.toml", |path| fs::create_dir(path).unwrap());
    assert!(
        matches!(reason, EntryError::NotRegular { kind: "a directory" }),
        "{reason:?}"
    );

    let reason = attacked("x.toml", |path| drop(UnixListener::bind(path).unwrap()));
    assert!(matches!(reason, EntryError::NotRegular { .. }), "{reason:?}");
}

#[test]
fn symbolic_links_are_never_followed() {
    for target in ["m.toml", "nowhere", "/dev/zero", "/proc/self/fd/0", "../x", "x.toml"] {
        let reason = attacked("x.toml", |path| symlink(target, path).unwrap());

        assert!(matches!(reason, EntryError::Symlink), "{target}: {reason:?}");
    }
}

#[test]
fn device_is_reported() {
    if !is_root() {
        return;
    }
    let zero = rustix::fs::makedev(1, 5);

    let reason = attacked("x.toml", |path| {
        mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR, zero).unwrap();
    });

    assert!(
        matches!(reason, EntryError::NotRegular { kind: "a device" } | EntryError::Denied),
        "{reason:?}"
    );
}

#[test]
fn huge_file_is_reported_unread() {
    let reason = attacked("x.toml", |path| {
        fs::File::create(path).unwrap().set_len(1 << 40).unwrap()
    });

    assert!(
        matches!(reason, EntryError::TooLarge { bytes } if bytes == 1 << 40),
        "{reason:?}"
    );
}

#[test]
fn empty_truncated_and_binary_files_are_reported() {
    let reason = attacked("x.toml", |path| fs::write(path, "").unwrap());
    assert!(
        matches!(reason, EntryError::Info(InfoError::Syntax { .. })),
        "{reason:?}"
    );

    let text = info("x").to_toml();
    let reason = attacked("x.toml", |path| fs::write(path, &text[..text.len() / 3]).unwrap());
    assert!(
        matches!(reason, EntryError::Info(InfoError::Syntax { .. })),
        "{reason:?}"
    );

    let reason = attacked("x.toml", |path| {
        fs::write(path, b"format = 1\nname = \"\xff\"").unwrap()
    });
    assert!(matches!(reason, EntryError::NotUtf8 { offset: 19 }), "{reason:?}");
}

#[test]
fn names_that_no_server_has_are_reported() {
    for bytes in [b"\xff\xfe.toml".as_slice(), b"-x.toml", b"a b.toml", b"\x1b[2J.toml"] {
        let name = OsStr::from_bytes(bytes);

        let reason = attacked("", |directory| write_info(&directory.join(name)));

        assert!(matches!(reason, EntryError::FileName), "{name:?}: {reason:?}");
    }
}

#[test]
fn file_under_the_name_of_another_server_is_reported() {
    let reason = attacked("y.toml", write_info);

    assert!(
        matches!(&reason, EntryError::OtherName { name } if name.as_str() == "x"),
        "{reason:?}"
    );
    assert!(reason.to_string().contains("x.toml"), "{reason}");
}

#[test]
fn hard_link_is_reported() {
    let reason = attacked("x.toml", |path| {
        write_info(path);
        fs::hard_link(path, path.with_extension("second")).unwrap();
    });
    assert!(matches!(reason, EntryError::HardLinked { links: 2 }), "{reason:?}");
}

#[test]
fn file_that_others_may_write_is_reported() {
    for mode in [0o666, 0o664, 0o646] {
        let reason = attacked("x.toml", |path| {
            write_info(path);
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        });

        assert!(
            matches!(reason, EntryError::Writable { mode: found } if found == mode),
            "{reason:?}"
        );
    }
}

#[test]
fn file_of_a_stranger_is_believed_only_on_request() {
    if !is_root() {
        return;
    }
    const STRANGER: u32 = 54_321;
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("x.toml");
    write_info(&path);
    chown(&path, Some(STRANGER), None).unwrap();

    let reason = problem(temporary.path());
    assert!(matches!(reason, EntryError::Stranger { uid: STRANGER }), "{reason:?}");

    for trust in [Trust::default().also(STRANGER), Trust::anyone()] {
        assert_eq!(read(&path, &trust).unwrap().owner_uid, STRANGER);
    }

    // In the stranger's own directory, which the caller has chosen to read, it is the stranger's word that counts.
    chown(temporary.path(), Some(STRANGER), None).unwrap();
    assert_eq!(servers(temporary.path()).len(), 1);
}

#[test]
fn file_from_a_newer_lapwing_says_so() {
    let reason = attacked("x.toml", |path| fs::write(path, "format = 9\n").unwrap());

    assert!(
        matches!(reason, EntryError::Info(InfoError::Format { format: 9 })),
        "{reason:?}"
    );
}

#[test]
fn entries_come_in_the_order_of_their_names_and_others_do_not_count() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let _announcements = ["b", "a", "C", "a-1"].map(|name| publish(directory, name));
    for other in [".x.toml", "x.tom", "toml", "x.toml~", ".x.new"] {
        fs::create_dir(directory.join(other)).unwrap();
    }

    let found: Vec<String> = servers(directory)
        .iter()
        .map(|found| found.info.name.to_string())
        .collect();

    assert_eq!(found, ["C", "a", "a-1", "b"].map(String::from));
}

#[test]
fn what_is_published_is_what_is_found() {
    let temporary = tempfile::tempdir().unwrap();
    let published = info("prices");
    let announcement = lapwing::discovery::Announcement::publish(temporary.path(), &published, 0o600).unwrap();

    let found = read(&announcement.path(), &Trust::default()).unwrap();

    assert_eq!(found.info, published);
    assert_eq!(found.path, announcement.path());
    assert_eq!(found.owner_uid, rustix::process::geteuid().as_raw());
    assert!(found.lock.is_held().unwrap());
    assert_eq!(found.info.shares_ipc_namespace(), Some(true));
}

#[test]
fn one_file_is_listed_like_a_directory_of_one() {
    let temporary = tempfile::tempdir().unwrap();
    let announcement = publish(temporary.path(), "a");
    let _other = publish(temporary.path(), "b");

    let entries = list(&announcement.path(), &Trust::default()).unwrap();

    assert!(
        matches!(entries.as_slice(), [Entry::Server(found)] if found.info.name.as_str() == "a"),
        "{entries:?}"
    );
}

#[test]
fn path_may_lead_through_links_but_the_file_may_not_be_one() {
    let temporary = tempfile::tempdir().unwrap();
    let (real, link) = (temporary.path().join("real"), temporary.path().join("link"));
    let _announcement = publish(&real, "a");
    symlink("real", &link).unwrap();

    assert!(read(&link.join("a.toml"), &Trust::default()).is_ok());
    assert_eq!(servers(&link).len(), 1);

    symlink("a.toml", real.join("b.toml")).unwrap();
    let reason = read(&link.join("b.toml"), &Trust::default()).unwrap_err();
    assert!(matches!(reason, EntryError::Symlink), "{reason:?}");
}

#[test]
fn missing_paths_say_so() {
    let temporary = tempfile::tempdir().unwrap();
    for path in ["none", "none/below", "none.toml"] {
        let error = list(&temporary.path().join(path), &Trust::default()).unwrap_err();
        assert!(matches!(error, ListError::Missing { .. }), "{path}: {error:?}");
    }
    let error = read(&temporary.path().join("none.toml"), &Trust::default()).unwrap_err();
    assert!(matches!(error, EntryError::Missing), "{error:?}");
    assert!(matches!(
        read(Path::new("/"), &Trust::default()),
        Err(EntryError::FileName)
    ));
}

#[test]
fn empty_directory_has_no_servers() {
    let temporary = tempfile::tempdir().unwrap();

    assert!(servers(temporary.path()).is_empty());
}

#[test]
fn ten_thousand_dead_files_need_no_descriptor_each() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    for number in 0..10_000 {
        let name = format!("dead-{number}");
        fs::write(temporary.path().join(format!("{name}.toml")), info(&name).to_toml()).unwrap();
    }
    let open = || names(Path::new("/proc/self/fd")).len();
    let before = open();

    let found = servers(temporary.path());

    assert_eq!(found.len(), 10_000);
    assert!(!found[0].lock.is_held().unwrap());
    // Other tests of this program open a few meanwhile.
    assert!(
        open() < before + 1000,
        "{} were open before, {} are now",
        before,
        open()
    );
}

#[test]
fn file_may_be_as_large_as_is_documented_and_no_larger() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("x.toml");
    let mut text = info("x").to_toml();
    text += &"#".repeat(Info::MAX_BYTES - text.len());

    fs::write(&path, &text).unwrap();
    assert!(read(&path, &Trust::default()).is_ok());

    fs::write(&path, text + "#").unwrap();
    assert!(matches!(
        read(&path, &Trust::default()),
        Err(EntryError::TooLarge { .. })
    ));
}

#[test]
fn directory_with_too_many_entries_is_refused_as_a_whole() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    for number in 0..MAX_ENTRIES {
        fs::File::create(temporary.path().join(number.to_string())).unwrap();
    }

    let error = list(temporary.path(), &Trust::default()).unwrap_err();

    assert!(matches!(error, ListError::TooMany { .. }), "{error:?}");
}

#[test]
fn copy_with_an_edited_name_is_reported_and_the_locked_original_is_found() {
    // Whether it comes before the original or behind it.
    for copy in ["a.toml", "z.toml"] {
        let reason = attacked(copy, |path| {
            let original = fs::read_to_string(path.with_file_name("m.toml")).unwrap();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            fs::write(path, original.replace("\"m\"", &format!("\"{stem}\""))).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        });

        assert!(
            matches!(&reason, EntryError::Copy { of } if of.as_str() == "m"),
            "{reason:?}"
        );
    }
}

#[test]
fn of_copies_that_nobody_has_locked_the_first_by_name_is_found() {
    let temporary = tempfile::tempdir().unwrap();
    let text = info("x").to_toml();
    for name in ["b", "a", "c"] {
        let path = temporary.path().join(format!("{name}.toml"));
        fs::write(path, text.replace("\"x\"", &format!("\"{name}\""))).unwrap();
    }

    let entries = list(temporary.path(), &Trust::default()).unwrap();

    let [Entry::Server(found), Entry::Problem { .. }, Entry::Problem { .. }] = &entries[..] else {
        panic!("{entries:?}")
    };
    assert_eq!(found.info.name.as_str(), "a");
}
