//! Any text is an info file or an error that can be shown to a person.

use super::*;
use proptest::prelude::*;

fn full() -> Info {
    let incarnation = Incarnation::from_bytes(*b"0123456789abcdef");
    let addresses = ["127.0.0.1:40123", "[::1]:40123", "[fe80::1%3]:9"].map(|text| text.parse().unwrap());
    Info {
        name: "prices".parse().unwrap(),
        incarnation,
        pid: 4711,
        started_unix_ns: 1_790_000_000_123_456_789,
        uid: 1000,
        gid: 100,
        boot_id: Some("01234567-89ab-cdef-0123-456789abcdef".parse().unwrap()),
        ipc_namespace: Some(4_026_531_839),
        shared_memory: Some(SharedMemory {
            id: 7,
            bytes: 131_072,
            layout: 1,
        }),
        socket: Some(Socket {
            protocol: 1,
            addresses: addresses.to_vec(),
        }),
    }
}

/// All of `cases`, or the first under Miri, which takes seconds for each.
fn each<T>(cases: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    cases.into_iter().take(if cfg!(miri) { 1 } else { usize::MAX })
}

/// `full()` as text, with one line replaced. A replacement may be empty.
fn with_line(key: &str, replacement: &str) -> String {
    let text = full().to_toml();
    let lines: Vec<&str> = text
        .lines()
        .map(|line| if line.starts_with(key) { replacement } else { line })
        .collect();
    assert_ne!(lines.join("\n"), text.trim_end(), "no line starts with {key}");
    lines.join("\n")
}

#[test]
fn written_info_parses_to_itself() {
    let mut info = full();
    assert_eq!(Info::parse(&info.to_toml()), Ok(info.clone()));

    (info.boot_id, info.ipc_namespace, info.shared_memory, info.socket) = (None, None, None, None);
    assert_eq!(Info::parse(&info.to_toml()), Ok(info));
}

#[test]
fn file_begins_by_saying_what_it_is() {
    assert!(full().to_toml().starts_with(Info::FIRST_WORDS));
}

#[test]
#[cfg_attr(miri, ignore = "asks the kernel")]
fn info_of_this_process_shares_its_ipc_namespace() {
    let info = Info::of_this_process("prices".parse().unwrap(), Incarnation::NIL);
    assert_eq!(info.shares_ipc_namespace(), Some(true));

    let mut elsewhere = info;
    elsewhere.boot_id = Some("00000000-0000-0000-0000-000000000000".parse().unwrap());
    assert_eq!(elsewhere.shares_ipc_namespace(), Some(false));

    elsewhere.boot_id = None;
    assert_eq!(elsewhere.shares_ipc_namespace(), None);
}

#[test]
#[cfg_attr(
    miri,
    ignore = "takes Miri long, and what is passed over is the business of the toml crate"
)]
fn keys_of_a_later_version_are_passed_over() {
    let text = format!("colour = \"blue\"\n{}\n[later]\nx = [1, 2]\n", full().to_toml());

    assert_eq!(Info::parse(&text), Ok(full_like(&text)));
}

/// `full()` with the start time that `text` has.
fn full_like(text: &str) -> Info {
    let mut info = full();
    info.started_unix_ns = Info::parse(text).unwrap().started_unix_ns;
    info
}

#[test]
fn newer_format_is_told_apart_even_if_nothing_else_fits() {
    let error = Info::parse("format = 2\nname = 17\n").unwrap_err();

    assert_eq!(error, InfoError::Format { format: 2 });
    assert!(error.to_string().contains("newer"), "{error}");
}

#[test]
fn every_bound_is_kept() {
    let many = vec!["\"127.0.0.1:1\""; 65].join(",");
    for (key, line, error) in each([
        ("format", "format = 0", InfoError::Format { format: 0 }),
        (
            "name",
            "name = \"../x\"",
            InfoError::Name(ParseServerNameError::Start('.')),
        ),
        (
            "incarnation",
            "incarnation = \"12\"",
            InfoError::Incarnation(ParseIncarnationError),
        ),
        (
            "incarnation",
            "incarnation = \"00000000000000000000000000000000\"",
            InfoError::NilIncarnation,
        ),
        ("boot_id", "boot_id = \"x\"", InfoError::BootId(ParseBootIdError)),
        ("id", "id = -1", InfoError::SegmentId { id: -1 }),
        (
            "addresses",
            &format!("addresses = [{many}]"),
            InfoError::TooManyAddresses { addresses: 65 },
        ),
        (
            "addresses",
            "addresses = [\"localhost:1\"]",
            InfoError::Address {
                text: "localhost:1".into(),
            },
        ),
        (
            "addresses",
            "addresses = [\"1.2.3.4:0\"]",
            InfoError::Address {
                text: "1.2.3.4:0".into(),
            },
        ),
    ]) {
        assert_eq!(Info::parse(&with_line(key, line)), Err(error), "{line}");
    }
    let large = format!("{}\n#{}", full().to_toml(), " ".repeat(Info::MAX_BYTES));
    assert!(matches!(Info::parse(&large), Err(InfoError::TooLarge { .. })));
}

#[test]
fn wrong_or_missing_values_name_line_and_key() {
    for (key, line, expected) in each([
        ("pid", "pid = -1", "line 5: "),
        ("pid", "pid = 4294967296", "line 5: "),
        ("pid", "pid = \"12\"", "line 5: "),
        ("pid", "", "pid"),
        ("id", "id = 99999999999", "line "),
        ("name", "name = prices", "line 3: "),
    ]) {
        let error = Info::parse(&with_line(key, line)).unwrap_err();
        assert!(error.to_string().contains(expected), "{line}: {error}");
    }
}

#[test]
fn file_cut_anywhere_before_its_last_table_is_complete_or_refused() {
    let text = full().to_toml();
    let step = if cfg!(miri) { text.len() / 3 + 1 } else { 1 };
    for end in (0..text.len()).step_by(step) {
        if let Ok(info) = Info::parse(&text[..end]) {
            // What is missing is then a whole table, and never half an address list.
            assert!(info.socket.is_none() || info == full_like(&text), "cut at {end}");
        }
    }
}

#[test]
fn errors_never_repeat_control_characters() {
    for line in each([
        "addresses = [\"\\u001b[2J\"]",
        "protocol = \"\\u001b[2J\"",
        "\u{1b}[2J = 3",
        "\"\\u001b\" = 1\n\"\\u001b\" = 1",
    ]) {
        if let Err(error) = Info::parse(&with_line("protocol", line)) {
            assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "a million characters")]
fn deep_and_wide_texts_are_refused_quickly_and_without_overflowing_the_stack() {
    let fill = |text: &str| text.repeat((Info::MAX_BYTES - 16) / text.len());
    for text in [
        format!("format = 1\na = {}", fill("[")),
        format!("format = 1\na = {}", fill("{a=")),
        format!("format = 1\n{}a = 1", fill("a.")),
        format!("[{}a]", fill("a.")),
        format!("format = 1\n{}", fill("[[a]]\n")),
        format!("format = 1\na = [{}]", fill("1,")),
        format!("format = 1\n{}", fill("\"\"\"")),
        (0..6000).map(|n| format!("k{n} = 1\n")).collect(),
        (0..400)
            .map(|n| format!("[{}]\n", vec!["a"; n % 79 + 1].join(".") + &n.to_string()))
            .collect(),
    ] {
        let started = std::time::Instant::now();
        assert!(Info::parse(&text).is_err());
        assert!(started.elapsed().as_secs() < 5, "{}", &text[..40]);
    }
}

/// Patterns of any text. Miri would take half a minute to compile those with Unicode.
const ANY: &str = if cfg!(miri) { "[ -~]{0,40}" } else { ".{0,400}" };
const LITTLE: &str = if cfg!(miri) {
    "[\\x00-~]{0,4}"
} else {
    "\\PC{0,4}|[\\x00-\\x20]{1,3}"
};

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in ANY) {
        let _ = Info::parse(&text);
    }

    #[test]
    fn any_damage_is_parsed_or_refused_with_a_printable_error(at in 0usize..500, insert in LITTLE) {
        let mut text = full().to_toml();
        let at = at.min(text.len());
        text.insert_str(at, &insert);
        if let Err(error) = Info::parse(&text) {
            prop_assert!(!error.to_string().chars().any(char::is_control));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes Miri long, and parses what written_info_parses_to_itself does")]
    fn any_info_within_bounds_survives_the_text(
        pid: u32, started in 0u64..=i64::MAX as u64, uid: u32, gid: u32, id in 0..=i32::MAX, bytes in 0u64..=i64::MAX as u64,
        layout: u32, protocol: u32, ports in proptest::collection::vec(1u16.., 0..=64), name in "[A-Za-z0-9_][A-Za-z0-9._-]{0,63}",
    ) {
        let mut info = full();
        info.name = name.parse().unwrap();
        (info.pid, info.started_unix_ns, info.uid, info.gid) = (pid, started, uid, gid);
        info.shared_memory = Some(SharedMemory { id, bytes, layout });
        let addresses = ports.into_iter().map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        info.socket = Some(Socket { protocol, addresses });

        prop_assert_eq!(Info::parse(&info.to_toml()), Ok(info));
    }
}
