//! Looking once: the table, the sums, the messages, and what is wrong.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::{ioctl_fionbio, ioctl_fionread};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::stage::{Client, PATIENCE, Stage};

/// The text of an info file of a server that nobody runs, with a socket at `address`.
fn info_of(name: &str, address: &str) -> String {
    // Each server has a life of its own.
    let incarnation = name.bytes().fold(1, |hash: u128, byte| hash * 257 + u128::from(byte));
    format!(
        "format = 1\nname = \"{name}\"\nincarnation = \"{incarnation:032x}\"\npid = 1\n\
         started_unix_ns = 1\nuid = 0\ngid = 0\n[socket]\nprotocol = 1\naddresses = [\"{address}\"]\n"
    )
}

#[test]
fn pipe_that_others_made_non_blocking_takes_the_whole_report() {
    let stage = Stage::new();
    let mut prices = stage.server("prices", &["--ring-size", "4M"]);
    let line = "x".repeat(300_000);
    prices.publish(&[&line]);
    prices.wait_for(1);
    let (mut reader, writer) = std::io::pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();

    let client = Client::start_into(&[stage.info()], "--format raw", writer.into());
    // More than the pipe has room for is to come.
    let start = Instant::now();
    while ioctl_fionread(&reader).unwrap() < 65_536 {
        assert!(start.elapsed() < PATIENCE, "the pipe is not filled");
        thread::sleep(Duration::from_millis(5));
    }
    let mut report = String::new();
    reader.read_to_string(&mut report).unwrap();

    client.finish().expect(0);
    assert!(report == line + "\n", "{} bytes", report.len());
}

#[test]
fn every_server_of_a_directory_is_in_the_table_and_in_the_sums() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["a", "b", "c"]);
    let _weather = stage.server_of("weather", &["rain"]);

    let report = stage.run("").expect(0);

    let columns = |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    assert_eq!(
        columns(&report.output[0])[..5],
        ["NAME", "CATEGORY", "STATE", "TRANSPORT", "READERS"]
    );
    assert_eq!(
        columns(&report.output[1])[..8],
        ["prices", "Host", "live", "shm", "0", "0-2", "3", "0"]
    );
    assert_eq!(
        columns(&report.output[2])[..8],
        ["weather", "Host", "live", "shm", "0", "0-0", "1", "0"]
    );
    assert!(
        report.output[1].ends_with("shared memory and socket work"),
        "{report:#?}"
    );
    assert!(
        report
            .output
            .iter()
            .any(|line| line.starts_with("prices ") && line.ends_with("Z c")),
        "{report:#?}"
    );
    assert!(!report.output.iter().any(|line| line.ends_with("Z b")), "{report:#?}");
    assert_eq!(
        report.output.last().unwrap(),
        "2 servers: 2 Host, 0 Container, 0 VM, 0 Remote; 4 messages, 0 missed"
    );
    assert_eq!(report.told(), "");
}

/// The values of some keys of an object.
fn part(value: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|key| value[key].clone()).collect()
}

#[test]
fn json_has_an_object_for_each_server() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["a", "b", "c"]);
    let _quiet = stage.server("quiet", &["--no-socket"]);

    let servers = stage.run("--format json").expect(0).json_of("server");

    let keys = [
        "name",
        "category",
        "state",
        "transport",
        "shm",
        "socket",
        "messages",
        "missed",
        "oldest",
        "head",
    ];
    assert_eq!(
        part(&servers[0], &keys),
        json!(["prices", "host", "live", "shm", "ok", "ok", 3, 0, 0, 3])
    );
    assert_eq!(
        part(&servers[1], &keys),
        json!([
            "quiet",
            "container",
            "live",
            "shm",
            "ok",
            "the server offers none",
            0,
            0,
            0,
            0
        ])
    );
    assert_eq!(servers[0]["incarnation"].as_str().unwrap().len(), 32);
    assert_eq!(servers.len(), 2);
}

#[test]
fn json_has_an_object_for_each_message_problem_and_the_sums() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["a", "b", "c"]);
    fs::write(stage.info().join("bad.toml"), "garbage").unwrap();

    let report = stage.run("--format json --last 2").expect(0);

    let keys = ["server", "sequence", "tag", "len", "payload"];
    let messages: Vec<Value> = report
        .json_of("message")
        .iter()
        .map(|message| part(message, &keys))
        .collect();
    assert_eq!(
        messages,
        [json!(["prices", 1, 0, 1, "b"]), json!(["prices", 2, 0, 1, "c"])]
    );
    let reason = &report.json_of("problem")[0]["reason"];
    assert!(reason.as_str().unwrap().contains("line 1"), "{reason}");
    assert_eq!(
        report.output.last().unwrap(),
        "{\"type\":\"summary\",\"servers\":1,\"host\":1,\"container\":0,\"vm\":0,\"remote\":0,\"messages\":3,\
         \"missed\":0,\"problems\":1}"
    );
}

#[test]
fn explanation_tells_what_was_tried_and_what_would_mend_it() {
    let stage = Stage::new();
    let _quiet = stage.server("quiet", &["--no-socket"]);

    let report = stage.run("--explain").expect(0);
    let steps = stage.run("--explain --format json").expect(0).json_of("step");

    let text = report.output.join("\n");
    assert!(text.contains("read-only: attached"), "{text}");
    assert!(
        text.contains("to mend it: start the server without --no-socket"),
        "{text}"
    );
    assert!(
        steps
            .iter()
            .any(|step| step["transport"] == "shm" && step["fix"].is_null()),
        "{steps:?}"
    );
    assert!(
        steps
            .iter()
            .any(|step| step["transport"] == "socket" && step["fix"].is_string()),
        "{steps:?}"
    );
}

#[test]
fn messages_come_as_raw_bytes_or_hexadecimal_or_not_at_all() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["first", "second"]);

    let raw = stage.run("--format raw --last 5").expect(0);
    let hex = stage.run("--format hex --truncate 3").expect(0);
    let none = stage.run("--no-messages").expect(0);

    assert_eq!(raw.output, ["first", "second"]);
    assert!(raw.errors.is_empty(), "{raw:?}");
    assert!(hex.output.iter().any(|line| line.ends_with("|sec|")), "{hex:#?}");
    assert!(!none.output.iter().any(|line| line.contains("second")), "{none:#?}");
    assert!(none.output.last().unwrap().contains("2 messages"));
}

#[test]
fn files_and_directories_can_be_named_together_and_a_server_counts_once() {
    let stage = Stage::new();
    let other = Stage::new();
    let _prices = stage.server_of("prices", &["a"]);
    let _weather = stage.server_of("weather", &["a"]);
    let _news = other.server_of("news", &["a"]);
    let paths = [
        stage.info().join("prices.toml"),
        stage.info().join("../info"),
        other.info(),
    ];

    let all = Client::start(&paths, "--format json").finish().expect(0);
    let chosen = Client::start(&paths, "--format json --name [pn]*s --category host")
        .finish()
        .expect(0);
    let none = Client::start(&paths, "--category remote").finish().expect(3);

    assert_eq!(all.json_of("summary")[0]["servers"], 3);
    let names: Vec<_> = chosen
        .json_of("server")
        .iter()
        .map(|server| server["name"].clone())
        .collect();
    assert_eq!(names, ["news", "prices"]);
    assert!(none.told().contains("leave out all 3"), "{none:#?}");
}

#[test]
fn no_server_is_an_exit_code_of_its_own_with_advice() {
    let stage = Stage::new();
    let missing = stage.run("").expect(3);
    fs::create_dir(stage.info()).unwrap();
    let empty = stage.run("--format json").expect(3);
    fs::write(stage.info().join("bad.toml"), "\u{1b}[2J").unwrap();
    let bad = stage.run("").expect(3);

    assert!(
        missing.told().contains("start a server with --info-dir"),
        "{missing:#?}"
    );
    assert!(empty.told().contains("start one with `server"), "{empty:#?}");
    assert_eq!(empty.json_of("summary")[0]["servers"], 0);
    assert!(
        bad.output[0].starts_with("problem: ") && bad.output[0].contains("bad.toml"),
        "{bad:#?}"
    );
    assert!(!bad.output.join("").contains('\u{1b}'), "{bad:#?}");
    assert!(bad.told().contains("none of the info files"), "{bad:#?}");
}

#[test]
fn path_that_cannot_be_read_is_an_error_even_if_others_have_servers() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["a"]);
    let paths = [stage.info(), stage.file("nowhere")];

    let report = Client::start(&paths, "").finish().expect(1);
    fs::write(stage.file("plain"), "").unwrap();
    // Neither missing nor to be read, by root either.
    std::os::unix::fs::symlink(stage.file("loop"), stage.file("loop")).unwrap();
    let alone = Client::start(&[stage.file("loop")], "").finish().expect(1);

    assert!(alone.told().contains("loop"), "{alone:#?}");
    assert!(report.told().contains("nowhere"), "{report:#?}");
    assert!(
        report.output.last().unwrap().starts_with("1 server: 1 Host"),
        "{report:#?}"
    );
}

#[test]
fn servers_that_never_answer_cost_the_time_limit_once_and_are_reported() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["a"]);
    // It takes connections and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for index in 0..20 {
        let name = format!("mute-{index:02}");
        fs::write(stage.info().join(format!("{name}.toml")), info_of(&name, &address)).unwrap();
    }

    let start = Instant::now();
    let report = stage.run("--timeout 1s --format json").expect(0);

    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let sums = &report.json_of("summary")[0];
    assert_eq!(
        (&sums["servers"], &sums["host"], &sums["vm"]),
        (&json!(21), &json!(1), &json!(20))
    );
    let mute = report
        .json_of("server")
        .into_iter()
        .find(|server| server["name"] == "mute-07")
        .unwrap();
    assert!(mute["reason"].as_str().unwrap().len() > 10, "{mute}");
}

#[test]
fn stopped_server_is_reported_as_hung_and_read_although_its_socket_takes_all_of_the_time() {
    let stage = Stage::new();
    let server = stage.server_of("prices", &["a", "b", "c"]);
    server.signal(Signal::STOP);

    let report = stage.run("--format json --timeout 5s --last 2").expect(0);

    let server = &report.json_of("server")[0];
    assert_eq!(part(server, &["category", "state"]), json!(["container", "hung"]));
    assert!(
        server["socket"].as_str().unwrap().contains("did not answer in time"),
        "{server}"
    );
    assert_eq!(part(server, &["transport", "messages", "missed"]), json!(["shm", 3, 0]));
    let payloads = report
        .json_of("message")
        .into_iter()
        .map(|message| message["payload"].clone());
    assert_eq!(payloads.collect::<Value>(), json!(["b", "c"]));
}

#[test]
fn killed_server_is_reported_as_dead_with_what_to_expect() {
    let stage = Stage::new();
    stage.server_of("prices", &["a"]).kill();

    let report = stage.run("--format json").expect(0);

    let server = &report.json_of("server")[0];
    assert_eq!(server["state"], "dead");
    assert_eq!(server["category"], "vm");
    assert!(server["transport"].is_null());
    assert!(server["reason"].as_str().unwrap().contains("died"), "{server}");
}

#[test]
fn killed_server_whose_segment_somebody_has_attached_is_reported_as_dead_and_read() {
    let stage = Stage::new();
    let prices = stage.server_of("prices", &["a"]);
    let _holder = stage.attach("prices");
    prices.kill();

    let report = stage.run("--format json").expect(0);

    let server = &report.json_of("server")[0];
    assert_eq!(part(server, &["category", "state"]), json!(["container", "dead"]));
    assert!(server["reason"].as_str().unwrap().contains("died"), "{server}");
    assert_eq!(report.json_of("message").len(), 1);
}

#[test]
fn arguments_that_make_no_sense_exit_with_2_and_help_lists_the_codes() {
    let stage = Stage::new();
    for options in [
        "--frobnicate",
        "--follow --spin --block",
        "--follow --last 3",
        "-n 5",
        "--timeout soon",
    ] {
        let refused = stage.run(options).expect(2);

        assert!(
            !refused.errors.is_empty() && refused.output.is_empty(),
            "{options}: {refused:#?}"
        );
    }
    let nothing: [PathBuf; 0] = [];
    Client::start(&nothing, "").finish().expect(2);
    let help = Client::start(&nothing, "--help").finish().expect(0).output.join("\n");
    for code in ["  0    ", "  1    ", "  2    ", "  3    ", "  4    ", "  124  "] {
        assert!(help.contains(code), "{help}");
    }
}

#[test]
fn closed_output_is_no_error() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["a"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);

    let finished = Client::start_into(&[stage.info()], "", writer.into())
        .finish()
        .expect(0);

    assert_eq!(finished.told(), "");
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["a"]);
    for options in ["", "--format json", "--follow --from oldest", "--help", "--version"] {
        let full = fs::File::create("/dev/full").unwrap();

        let finished = Client::start_into(&[stage.info()], options, full.into())
            .finish()
            .expect(1);

        assert!(
            finished
                .told()
                .contains("cannot write to standard output: No space left"),
            "{finished:#?}"
        );
    }
}

#[test]
fn more_servers_than_are_looked_at_at_once_are_all_reported() {
    let stage = Stage::new();
    fs::create_dir(stage.info()).unwrap();
    // Nobody listens there any more.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    for index in 0..700 {
        let name = format!("gone-{index:03}");
        fs::write(stage.info().join(format!("{name}.toml")), info_of(&name, &address)).unwrap();
    }

    let report = stage.run("--timeout 30s --format json").expect(0);

    let servers = report.json_of("server");
    assert_eq!(servers.len(), 700);
    assert!(servers.iter().all(|server| server["state"] == "dead"), "{servers:?}");
}
