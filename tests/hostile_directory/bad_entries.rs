//! One good server among one entry of each bad kind.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use lapwing::discovery::{Entry, Trust, list};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::geteuid;

use super::confined::{Process, client, run};
use super::{good_server, info_of, replace};

/// What must be told of a directory: a part of the path as it is shown, and a part of the reason.
type Expected = Vec<(&'static str, &'static str)>;

/// Puts one entry of each bad kind beside the info file of the server `good`, and a server that is not there.
fn spoil(directory: &Path) -> Expected {
    let good = fs::read_to_string(directory.join("good.toml")).unwrap();
    // Neither of these is told, nor counts.
    fs::write(directory.join(".hidden.toml"), "").unwrap();
    fs::write(directory.join("other.tom"), "").unwrap();
    // Names another life of the good server.
    let stale = good.replace("\"good\"", "\"stale\"");
    let incarnation = stale.lines().find(|line| line.starts_with("incarnation")).unwrap();
    let other = incarnation.replace(|digit: char| digit.is_ascii_digit(), "7");
    replace(&directory.join("stale.toml"), &stale.replace(incarnation, &other));
    [
        no_files(directory),
        bad_texts(directory, &good),
        bad_names(directory, &good),
        bad_owners(directory),
    ]
    .concat()
}

/// Entries that are no files, or more than one.
fn no_files(directory: &Path) -> Expected {
    let at = |name: &str| directory.join(name);
    mknodat(CWD, at("fifo.toml"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    drop(UnixListener::bind(at("socket.toml")).unwrap());
    fs::create_dir(at("folder.toml")).unwrap();
    for (name, target) in [
        ("link", "good.toml"),
        ("dangling", "nowhere"),
        ("endless", "endless.toml"),
        ("zero", "/dev/zero"),
        ("magic", "/proc/self/fd/0"),
    ] {
        symlink(target, at(&format!("{name}.toml"))).unwrap();
    }
    fs::write(at("linked.toml"), info_of("linked", "127.0.0.1:1")).unwrap();
    fs::hard_link(at("linked.toml"), at("linked.second")).unwrap();
    vec![
        ("fifo.toml", "a FIFO"),
        ("socket.toml", "a socket"),
        ("folder.toml", "a directory"),
        ("link.toml", "a symbolic link"),
        ("dangling.toml", "a symbolic link"),
        ("endless.toml", "a symbolic link"),
        ("zero.toml", "a symbolic link"),
        ("magic.toml", "a symbolic link"),
        ("linked.toml", "2 names (hard links)"),
    ]
}

/// Files whose text is none, or of no server.
fn bad_texts(directory: &Path, good: &str) -> Expected {
    let put = |name: &str, bytes: &[u8]| fs::write(directory.join(name), bytes).unwrap();
    let huge = File::create(directory.join("huge.toml")).unwrap();
    huge.set_len(1 << 40).unwrap();
    put("empty.toml", b"");
    put("truncated.toml", &good.as_bytes()[..good.len() / 2]);
    put("binary.toml", b"format = 1\nname = \"\xff\"");
    put("zeros.toml", &[0; 512]);
    put("newer.toml", b"format = 9\n");
    put(
        "steering.toml",
        "format = 1\n\u{1b}[2J\u{9b}31m = \"\u{202e}\"\n".as_bytes(),
    );
    put(
        "escapes.toml",
        good.replace("\"good\"", "\"\\u001b[2Jgood\"").as_bytes(),
    );
    vec![
        ("huge.toml", "1099511627776 bytes"),
        ("empty.toml", "not a usable info file"),
        ("truncated.toml", "not a usable info file"),
        ("binary.toml", "not text from byte 19"),
        ("zeros.toml", "not a usable info file"),
        ("newer.toml", "made by a newer lapwing"),
        ("steering.toml", "not a usable info file"),
        ("escapes.toml", "not a usable info file"),
    ]
}

/// Files under names that are not theirs, or nobody's.
fn bad_names(directory: &Path, good: &str) -> Expected {
    replace(&directory.join("renamed.toml"), good);
    for copy in ["copy", "zcopy"] {
        let text = good.replace("\"good\"", &format!("\"{copy}\""));
        replace(&directory.join(format!("{copy}.toml")), &text);
    }
    for name in [
        &b"\xff\xfe.toml"[..],
        b"\x1b[2J\x07.toml",
        b"new\nline.toml",
        "\u{202e}\u{9b}.toml".as_bytes(),
    ] {
        fs::write(directory.join(OsStr::from_bytes(name)), good).unwrap();
    }
    vec![
        ("renamed.toml", "names the server \"good\""),
        ("/copy.toml", "a copy of good.toml"),
        ("/zcopy.toml", "a copy of good.toml"),
        // Each is shown in its own way.
        ("[2J", "called NAME.toml"),
        ("line.toml", "called NAME.toml"),
    ]
}

/// Files that others may write or own, and what only root can make.
fn bad_owners(directory: &Path) -> Expected {
    let info = |name: &str| {
        let path = directory.join(format!("{name}.toml"));
        fs::write(&path, info_of(name, "127.0.0.1:1")).unwrap();
        path
    };
    fs::set_permissions(info("writable"), Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(info("group"), Permissions::from_mode(0o664)).unwrap();
    let mut expected = vec![("writable.toml", "mode 0666"), ("group.toml", "mode 0664")];
    if geteuid().is_root() {
        chown(info("foreign"), Some(54_321), None).unwrap();
        expected.push(("foreign.toml", "belongs to user 54321"));
        let device = directory.join("device.toml");
        mknodat(CWD, &device, FileType::CharacterDevice, Mode::RUSR, makedev(1, 5)).unwrap();
        // Not every file system opens devices.
        let is_opened = File::open(&device).is_ok();
        expected.push(("device.toml", if is_opened { "a device" } else { "no permission" }));
    }
    expected
}

/// How many entries `spoil` makes besides those that it tells apart: two names that are shown as escapes only.
const NAMELESS: usize = 2;

/// Checks that each of `expected` is told exactly once, and nothing else is.
fn each_once(expected: &Expected, told: &[(String, String)]) -> Result<(), String> {
    for (path, reason) in expected {
        let of_it: Vec<_> = told.iter().filter(|(shown, _)| shown.contains(path)).collect();
        match of_it[..] {
            [(_, why)] if why.contains(reason) => {}
            _ => return Err(format!("{path:?}, {reason:?}: told was {of_it:#?}")),
        }
    }
    let more = told.len() - expected.len();
    if more == NAMELESS {
        Ok(())
    } else {
        Err(format!("{more} more than expected: {told:#?}"))
    }
}

/// Nothing that a terminal would act on is in what was written.
fn steers_a_terminal(lines: &[String]) -> bool {
    let steers = |character: char| character.is_control() || character == '\u{202e}';
    lines.iter().any(|line| line.chars().any(steers))
}

/// The path and the reason in a line `problem: "PATH": REASON`, behind its first words.
fn split(line: &str) -> (String, String) {
    let (path, reason) = line.rsplit_once("\": ").map_or((line, ""), |parts| parts);
    // Some reasons have quotes of their own.
    let (path, reason) = match path.split_once(".toml\": ") {
        Some((path, start)) => (format!("{path}.toml"), format!("{start}\": {reason}")),
        None => (path.to_owned(), reason.to_owned()),
    };
    (path, reason)
}

#[test]
fn client_that_looks_reports_each_once_and_serves_the_good_one() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let _server = good_server(directory);
    let expected = spoil(directory);

    let ended = run(&client(directory, "--format json --timeout 30s")).expect(0);

    let told: Vec<_> = ended
        .json_of("problem")
        .iter()
        .map(|problem| {
            ["path", "reason"]
                .map(|key| problem[key].as_str().unwrap().to_owned())
                .into()
        })
        .collect();
    each_once(&expected, &told).unwrap();
    let servers = ended.json_of("server");
    let states: Vec<_> = servers
        .iter()
        .map(|server| (server["name"].as_str().unwrap(), server["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("good", "live"), ("stale", "dead")]);
    assert_eq!(servers[0]["category"], "host");
    let messages = ended.json_of("message");
    assert_eq!((messages.len(), &messages[0]["payload"]), (1, &"hello".into()));
    assert!(
        !steers_a_terminal(&ended.output) && !steers_a_terminal(&ended.errors),
        "{ended:#?}"
    );
    assert_eq!(ended.told(), "");
}

#[test]
fn tables_and_raw_output_report_each_once_and_steer_no_terminal() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let _server = good_server(directory);
    let expected = spoil(directory);
    for (options, on_errors) in [("", false), ("--explain", false), ("--format raw", true)] {
        let ended = run(&client(directory, options)).expect(0);

        let lines = if on_errors { &ended.errors } else { &ended.output };
        let told: Vec<_> = lines
            .iter()
            .filter_map(|line| line.split_once("problem: "))
            .map(|(_, problem)| split(problem))
            .collect();
        each_once(&expected, &told).unwrap();
        assert!(ended.output.iter().any(|line| line.contains("hello")), "{ended:#?}");
        assert!(
            !steers_a_terminal(&ended.output) && !steers_a_terminal(&ended.errors),
            "{ended:#?}"
        );
    }
}

#[test]
fn follower_reports_each_once_however_often_it_looks_and_streams_the_good_one() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let _server = good_server(directory);
    let mut expected = spoil(directory);
    let follower = Process::start(&client(directory, "--follow --format json"));
    follower.json_of("message");
    let mut lines = Vec::new();
    // Each of these makes it look again.
    for late in ["late-1.toml", "late-2.toml", "late-3.toml"] {
        fs::write(directory.join(late), "").unwrap();
        lines.extend(follower.errors_up_to(late));
        expected.push((late, "not a usable info file"));
    }
    let mut sequence = follower.json_of("message")["sequence"].as_u64().unwrap();
    for _ in 0..100 {
        let message = follower.json_but_for_pauses();
        sequence += 1;
        assert_eq!(message["sequence"], sequence, "{message}");
    }

    lines.extend(follower.stop().expect(0).errors);

    assert!(!steers_a_terminal(&lines), "{lines:#?}");
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line.contains(".toml\": "))
        .map(|line| split(line))
        .collect();
    each_once(&expected, &told).unwrap();
}

#[test]
fn library_reports_each_once_and_finds_the_good_one() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let _server = good_server(directory);
    let expected = spoil(directory);

    let mut told = Vec::new();
    let mut found = Vec::new();
    for entry in list(directory, &Trust::default()).unwrap() {
        match entry {
            Entry::Server(server) => found.push((server.info.name.to_string(), server.lock.is_held().unwrap())),
            Entry::Problem { path, reason } => {
                let cause = std::error::Error::source(&reason).map(ToString::to_string);
                told.push((format!("{path:?}"), format!("{reason}: {}", cause.unwrap_or_default())));
            }
        }
    }

    each_once(&expected, &told).unwrap();
    assert_eq!(found, [("good".to_owned(), true), ("stale".to_owned(), false)]);
}

/// Negative control: what is not told, told twice, told with another reason or too much is noticed.
#[test]
fn checker_notices_what_is_missing_doubled_wrong_or_too_much() {
    let pair = |path: &str, reason: &str| (path.to_owned(), reason.to_owned());
    let expected = vec![("a.toml", "a FIFO"), ("b.toml", "a symbolic link")];
    let nameless = [pair("\\xff", ""), pair("\\u{202e}", "")];
    let check = |told: &[(String, String)]| each_once(&expected, &[told, &nameless].concat());
    let (a, b) = (
        pair("d/a.toml", "a FIFO, not a file"),
        pair("d/b.toml", "a symbolic link"),
    );

    assert_eq!(check(&[a.clone(), b.clone()]), Ok(()));
    assert!(check(&[a.clone(), pair("c.toml", "")]).is_err());
    assert!(check(&[a.clone(), b.clone(), b.clone()]).is_err());
    assert!(check(&[a.clone(), pair("d/b.toml", "a FIFO")]).is_err());
    assert!(check(&[a, b, pair("c.toml", "")]).is_err());
    for steering in ["\u{1b}[2J", "a\rb", "\u{9b}31m", "\u{202e}"] {
        assert!(steers_a_terminal(&[steering.to_owned()]), "{steering:?}");
    }
    assert!(!steers_a_terminal(&["plain \\u{1b} \u{e9}".to_owned()]));
}
