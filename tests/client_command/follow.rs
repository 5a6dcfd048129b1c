//! Following: every way to begin and to end, servers that come, go and die, and what is told of losses.

use std::fs;
use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use rustix::io::ioctl_fionbio;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::stage::{Client, Stage};

/// What is said of a message: server, sequence and payload.
fn told(value: &Value) -> Value {
    json!([value["server"], value["sequence"], value["payload"]])
}

#[test]
fn stream_begins_where_it_is_told_to() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["a", "b", "c", "d"]);

    for (from, first) in [("oldest", "a"), ("latest:2", "c"), ("1", "b")] {
        for transport in ["auto", "shm", "socket"] {
            let options = format!("--follow --from {from} --transport {transport} -n 1 --format raw");

            assert_eq!(stage.run(&options).expect(0).output, [first], "{options}");
        }
    }
}

#[test]
fn new_means_what_is_published_after_the_client_attached() {
    let stage = Stage::new();
    let mut prices = stage.server_of("prices", &["old"]);
    let client = stage.client("--follow -n 1 --format json");
    client.json_of("attached");

    prices.publish(&["new"]);

    assert_eq!(told(&client.json()), json!(["prices", 1, "new"]));
    client.finish().expect(0);
}

#[test]
fn client_that_finds_no_server_says_that_it_waits_for_one() {
    let stage = Stage::new();
    fs::create_dir(stage.info()).unwrap();
    let client = stage.client("--follow --format raw -n 1 --from oldest");
    client.error_with("no server in");

    let _prices = stage.server_of("prices", &["a"]);

    assert_eq!(client.finish().expect(0).output, ["a"]);
}

#[test]
fn client_whose_filters_leave_out_all_servers_says_once_which_there_are() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["a"]);
    let _weather = stage.server_of("weather", &["b"]);

    for filter in ["--name typo*", "--category vm", "--name prices --category vm"] {
        let client = stage.client(&format!("--follow {filter}"));
        let told = client.error_with("no server matches");
        assert!(
            told.contains("all 2 (prices, weather); waiting for one"),
            "{filter}: {told}"
        );
        let third = stage.server_of("third", &["c"]);
        third.signal(Signal::TERM);
        assert_eq!(third.wait().code(), Some(0));
        client.signal(Signal::TERM);
        let rest = client.finish().expect(0).told();
        assert!(!rest.contains("no server matches"), "{filter}: {rest}");
    }

    let client = stage.client("--follow --name ty* --from oldest --format raw -n 1");
    client.error_with("no server matches");
    let _typo = stage.server_of("typo", &["d"]);
    assert_eq!(client.finish().expect(0).output, ["d"]);
}

#[test]
fn json_stream_has_the_documented_objects_in_order() {
    let stage = Stage::new();
    let mut prices = stage.server("prices", &["--exit-at-end"]);
    let client = stage.client("--follow --exit-at-end --format json");
    let attached = client.line();
    prices.publish(&["hello"]);
    prices.end_input();

    let finished = client.finish().expect(0);

    let value: Value = serde_json::from_str(&attached).unwrap();
    assert!(
        attached.starts_with("{\"type\":\"attached\",\"server\":\"prices\",\"incarnation\":\""),
        "{attached}"
    );
    assert_eq!(value["transport"], "shm");
    assert!(
        value["reason"].as_str().unwrap().contains("attached read-only"),
        "{value}"
    );
    assert!(
        finished.output[0].starts_with("{\"type\":\"message\",\"server\":\"prices\",\"sequence\":0,\"timestamp_ns\":")
    );
    assert!(
        finished.output[0].ends_with(",\"tag\":0,\"len\":5,\"payload\":\"hello\"}"),
        "{finished:#?}"
    );
    assert_eq!(finished.json()[1]["type"], "ended");
    assert_eq!(finished.output.len(), 2);
    assert_eq!(prices.wait().code(), Some(0));
}

#[test]
fn count_is_exact_over_all_servers() {
    let stage = Stage::new();
    let lines: Vec<String> = (0..200).map(|index| format!("line {index}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let _servers = ["one", "two", "three"].map(|name| stage.server_of(name, &lines));

    for count in [1, 7, 199, 450, 600] {
        let finished = stage
            .run(&format!("--follow --from oldest -n {count} --format raw"))
            .expect(0);

        assert_eq!(finished.output.len(), count);
        let total = finished.errors.last().unwrap();
        assert!(
            total.ends_with(&format!(
                " {count} message{}, missed 0",
                if count == 1 { "" } else { "s" }
            )),
            "{total}"
        );
    }
}

/// Lines that are empty, longer than what is read and written at once, and the last one without a newline.
#[test]
fn count_ends_in_the_middle_of_what_is_written_at_once() {
    let stage = Stage::new();
    let lines: Vec<String> = (0..3000)
        .map(|index| match index % 1000 {
            0 => String::new(),
            998 => "x".repeat(200_000),
            _ => format!("line {index}"),
        })
        .collect();
    let mut server = stage.server("prices", &["--ring-size", "4M"]);
    server.publish_bytes(lines.join("\n").as_bytes());
    server.end_input();
    server.wait_for(3000);

    for transport in ["shm", "socket"] {
        for count in [1, 998, 999, 2500, 3000] {
            let options = format!("--follow --from oldest --transport {transport} -n {count} --format raw");

            let finished = stage.run(&options).expect(0);

            assert!(finished.output == lines[..count], "{options}");
            let total = finished.errors.last().unwrap();
            assert!(total.contains(&format!(" {count} message")), "{total}");
        }
    }
}

#[test]
fn file_comes_out_byte_for_byte_over_either_transport() {
    let stage = Stage::new();
    let text: String = (0..20_000_u64)
        .map(|index| format!("{index} {:x}\n", index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    let input = stage.file("input");
    fs::write(&input, text.as_bytes()).unwrap();
    let options = ["--slots", "32768", "--file", input.to_str().unwrap()];
    let _prices = stage.server("prices", &options);

    for transport in ["shm", "socket"] {
        let path = stage.file(transport);
        let output = File::create(&path).unwrap();
        let options = format!("--follow --from 0 -n 20000 --format raw --transport {transport}");
        let finished = Client::start_into(&[stage.info()], &options, output.into())
            .finish()
            .expect(0);

        assert!(
            fs::read(&path).unwrap() == text.as_bytes(),
            "{transport}: {finished:#?}"
        );
        assert!(finished.told().contains("missed 0 in 0 gaps"), "{finished:#?}");
    }
}

#[test]
fn server_that_appears_later_is_found_even_in_a_directory_that_does_not_exist_yet() {
    let stage = Stage::new();
    let client = stage.client("--follow --from oldest --format json -n 2");
    client.error_with("waiting for it");
    let _late = stage.server_of("late", &["a"]);
    assert_eq!(told(&client.json_of("message")), json!(["late", 0, "a"]));

    let _later = stage.server_of("later", &["b"]);

    assert_eq!(told(&client.json_of("message")), json!(["later", 0, "b"]));
    client.finish().expect(0);
}

#[test]
fn only_the_servers_asked_for_are_followed() {
    let stage = Stage::new();
    let _host = stage.server_of("price-a", &["a"]);
    let _other = stage.server_of("weather", &["b"]);
    let mut container = stage.server("price-b", &["--no-socket"]);
    container.publish(&["c"]);
    container.wait_for(1);

    let by_name = stage
        .run("--follow --from oldest --name weather --format raw -n 1")
        .expect(0);
    let by_category = stage
        .run("--follow --from oldest --category container --format raw -n 1")
        .expect(0);
    let by_both = stage
        .run("--follow --from oldest --name price-* --category host --format raw -n 1")
        .expect(0);

    assert_eq!(by_name.output, ["b"]);
    assert_eq!(by_category.output, ["c"]);
    assert_eq!(by_both.output, ["a"]);
}

#[test]
fn follower_goes_on_with_a_server_that_was_killed_and_restarted() {
    let stage = Stage::new();
    let first = stage.server_of("prices", &["a", "b"]);
    let client = stage.client("--follow --from oldest --format json");
    let before = client.json();
    assert_eq!((&before["type"], &before["next"]), (&json!("attached"), &json!(0)));
    assert_eq!(
        [told(&client.json()), told(&client.json())],
        [json!(["prices", 0, "a"]), json!(["prices", 1, "b"])]
    );

    first.kill();
    assert_eq!(client.json()["type"], "detached");
    let _second = stage.server_of("prices", &["c", "d"]);

    let after = client.json();
    assert_eq!((&after["type"], &after["next"]), (&json!("attached"), &json!(0)));
    assert_ne!(before["incarnation"], after["incarnation"]);
    assert_eq!(
        [told(&client.json()), told(&client.json())],
        [json!(["prices", 0, "c"]), json!(["prices", 1, "d"])]
    );
    client.signal(Signal::INT);
    let finished = client.finish().expect(0);
    assert!(
        finished.told().contains("4 messages") && finished.told().contains("2 incarnations"),
        "{finished:#?}"
    );
}

#[test]
fn server_that_left_costs_nothing_and_is_followed_from_its_first_message_when_it_is_back() {
    let stage = Stage::new();
    let client = stage.client("--follow --format json");
    for name in ["one", "two", "three"] {
        let mut server = stage.server(name, &["--exit-at-end"]);
        client.json_of("attached");
        server.publish(&["a"]);
        client.json_of("message");
        server.end_input();
        assert_eq!(client.json_of("ended")["server"], name);
        assert_eq!(server.wait().code(), Some(0));
    }

    client.wait_until_it_follows_nobody();
    client.stop();
    let _back = stage.server_of("two", &["b", "c"]);
    client.signal(Signal::CONT);

    let attached = client.json();
    assert_eq!((&attached["type"], &attached["next"]), (&json!("attached"), &json!(0)));
    assert_eq!(
        [told(&client.json()), told(&client.json())],
        [json!(["two", 0, "b"]), json!(["two", 1, "c"])]
    );
    client.signal(Signal::INT);
    let finished = client.finish().expect(0);
    let told = finished.told();
    assert!(
        told.contains("client: two: 3 messages") && told.contains("2 incarnations"),
        "{told}"
    );
    assert!(
        told.ends_with("client: total: 3 servers, 5 messages, missed 0"),
        "{told}"
    );
}

#[test]
fn stopped_reader_learns_exactly_what_it_missed() {
    let stage = Stage::new();
    let mut prices = stage.server("prices", &["--slots", "64", "--exit-at-end"]);
    let client = stage.client("--follow --exit-at-end --format json");
    client.json_of("attached");
    client.stop();
    let lines: Vec<String> = (0..1000).map(|index| index.to_string()).collect();
    prices.publish(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    prices.end_input();
    // The server stays while a reader is left.
    let head = || stage.run("--format json").json_of("server")[0]["head"].as_u64();
    while head() != Some(1000) {}
    client.signal(Signal::CONT);

    let finished = client.finish().expect(0);

    let messages = finished.json_of("message");
    let gaps = finished.json_of("gap");
    let missed: u64 = gaps.iter().map(|gap| gap["missed"].as_u64().unwrap()).sum();
    assert!(missed > 0);
    assert_eq!(messages.len() as u64 + missed, 1000);
    assert_eq!(gaps[0]["first"], 0);
    let payloads: Vec<_> = messages
        .iter()
        .map(|message| message["payload"].as_str().unwrap().parse::<u64>().unwrap())
        .collect();
    let sequences: Vec<_> = messages
        .iter()
        .map(|message| message["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(payloads, sequences);
    assert_eq!(sequences.last(), Some(&999));
    assert!(
        finished.told().contains(&format!("missed {missed} in ")),
        "{finished:#?}"
    );
}

#[test]
fn gap_ends_with_its_own_exit_code_after_it_was_told() {
    let stage = Stage::new();
    let lines: Vec<String> = (0..300).map(|index| index.to_string()).collect();
    let mut prices = stage.server("prices", &["--slots", "64"]);
    prices.publish(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let wanted = stage.run("--follow --from 299 -n 1 --format raw").expect(0);
    assert_eq!(wanted.output, ["299"]);

    let json = stage.run("--follow --from 0 --fail-on-gap --format json").expect(4);
    let raw = stage.run("--follow --from 0 --fail-on-gap --format raw").expect(4);

    let gap = json.json().pop().unwrap();
    assert_eq!((&gap["type"], &gap["first"]), (&json!("gap"), &json!(0)));
    assert!(raw.output.is_empty());
    assert!(raw.told().contains("missed 2"), "{raw:#?}");
    assert!(raw.told().contains(" from 0 on"), "{raw:#?}");
}

#[test]
fn time_limit_ends_with_its_own_exit_code() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["a"]);

    let finished = stage
        .run("--follow --from oldest --timeout 300ms --format raw --stats 50ms")
        .expect(124);
    let nothing = Client::start(&[stage.file("nowhere")], "--follow --exit-at-end --timeout 100ms")
        .finish()
        .expect(124);

    assert_eq!(finished.output, ["a"]);
    assert!(
        finished
            .errors
            .iter()
            .filter(|line| line.contains("prices: 1 message, 1 B"))
            .count()
            > 1,
        "{finished:#?}"
    );
    assert!(nothing.told().contains("waiting for it"), "{nothing:#?}");
}

#[test]
fn signal_ends_with_a_summary() {
    let stage = Stage::new();
    let mut prices = stage.server("prices", &[]);
    for signal in [Signal::INT, Signal::TERM] {
        let client = stage.client("--follow --format json --block");
        client.json_of("attached");
        prices.publish(&["hello"]);
        client.json_of("message");

        client.signal(signal);

        let finished = client.finish().expect(0);
        let line = finished
            .errors
            .iter()
            .find(|line| line.starts_with("client: prices: 1 message, 5 B"))
            .unwrap();
        assert!(line.contains(" over shm, missed 0 in 0 gaps, latency p50 "), "{line}");
        assert_eq!(
            finished.errors.last().unwrap(),
            "client: total: 1 server, 1 message, missed 0"
        );
    }
}

#[test]
fn reader_of_the_output_that_goes_away_ends_it_quietly_even_while_nothing_comes() {
    let stage = Stage::new();
    let _prices = stage.server_of("prices", &["a"]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let client = Client::start_into(&[stage.info()], "--follow --from oldest --format raw", writer.into());
    let mut line = [0; 2];
    reader.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"a\n");

    drop(reader);

    let finished = client.finish().expect(0);
    assert!(!finished.told().contains("pipe"), "{finished:#?}");
}

#[test]
fn info_file_of_a_dead_server_does_not_keep_a_client_from_its_end() {
    let stage = Stage::new();
    stage.server_of("dead", &["a"]).kill();
    let mut prices = stage.server("prices", &["--exit-at-end"]);
    let client = stage.client("--follow --exit-at-end --format json");
    client.json_of("attached");
    prices.publish(&["b"]);
    prices.end_input();

    let finished = client.finish().expect(0);

    assert_eq!(finished.json_of("message").len(), 1);
    assert!(finished.told().contains("dead: never attached"), "{finished:#?}");
}

#[test]
fn segment_of_a_dead_server_that_somebody_has_attached_does_not_keep_a_client_from_its_end() {
    let stage = Stage::new();
    let dead = stage.server_of("dead", &["a"]);
    let _holder = stage.attach("dead");
    dead.kill();
    let mut prices = stage.server("prices", &["--exit-at-end"]);
    let client = stage.client("--follow --exit-at-end --from oldest --format json");
    client.json_of("detached");
    prices.publish(&["b"]);
    prices.end_input();

    let finished = client.finish().expect(0);

    assert!(finished.told().contains("dead: 1 message"), "{finished:#?}");
}

#[test]
fn server_that_dies_while_it_is_followed_is_waited_for() {
    let stage = Stage::new();
    let dies = stage.server("dies", &[]);
    let mut prices = stage.server("prices", &["--exit-at-end"]);
    let client = stage.client("--follow --exit-at-end --format json");
    client.json_of("attached");
    client.json_of("attached");
    dies.kill();
    client.json_of("detached");
    prices.end_input();
    client.json_of("ended");

    let mut again = stage.server("dies", &["--exit-at-end"]);
    client.json_of("attached");
    again.end_input();
    client.finish().expect(0);
}

#[test]
fn server_elsewhere_that_was_lost_is_waited_for_though_nobody_here_has_its_file_locked() {
    let stage = Stage::new();
    let elsewhere = Stage::new();
    let lost = elsewhere.server("lost", &[]);
    fs::create_dir(stage.info()).unwrap();
    fs::copy(elsewhere.info().join("lost.toml"), stage.info().join("lost.toml")).unwrap();
    let mut prices = stage.server("prices", &["--exit-at-end"]);
    let client = stage.client("--follow --transport socket --exit-at-end --format json --timeout 4s");
    client.json_of("attached");
    client.json_of("attached");
    lost.kill();
    prices.end_input();

    client.finish().expect(124);
}

#[test]
fn strangers_bytes_are_escaped_for_people_and_untouched_in_raw() {
    let stage = Stage::new();
    let mut prices = stage.server("prices", &[]);
    let evil = b"\x1b[2J\xff\ttext\n";
    prices.publish_bytes(evil);
    prices.wait_for(1);
    let raw = stage.file("raw");
    let output = File::create(&raw).unwrap();

    let pretty = stage.run("--follow --from oldest -n 1").expect(0);
    Client::start_into(
        &[stage.info()],
        "--follow --from oldest -n 1 --format raw",
        output.into(),
    )
    .finish()
    .expect(0);

    assert!(pretty.output[0].ends_with("Z \\u{1b}[2J\\xff\\ttext"), "{pretty:#?}");
    assert_eq!(fs::read(raw).unwrap(), evil);
}

#[test]
fn killed_client_leaves_nothing_and_disturbs_nobody() {
    let stage = Stage::new();
    let mut prices = stage.server_of("prices", &["a"]);
    let doomed = stage.client("--follow --format json");
    doomed.json_of("attached");
    let bystander = stage.client("--follow --format json -n 1");
    bystander.json_of("attached");

    doomed.signal(Signal::KILL);
    doomed.finish();
    prices.publish(&["b"]);

    assert_eq!(told(&bystander.json()), json!(["prices", 1, "b"]));
    bystander.finish().expect(0);
    let report = stage.run("--format json").expect(0);
    assert_eq!(report.json_of("server")[0]["readers"], 0);
    assert_eq!(fs::read_dir(stage.info()).unwrap().count(), 1);
}

#[test]
fn reader_that_never_reads_cannot_hold_up_the_end() {
    let stage = Stage::new();
    let _prices = stage.server("prices", &["--generate", "--rate", "100000/s"]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let client = Client::start_into(&[stage.info()], "--follow --format raw", writer.into());
    // The first bytes are there: from now on nobody reads.
    reader.read_exact(&mut [0; 1]).unwrap();

    client.signal(Signal::INT);

    client.finish().expect(0);
}

#[test]
fn reader_that_never_reads_what_is_told_cannot_hold_up_the_end() {
    let stage = Stage::new();
    let _prices = stage.server("prices", &["--generate", "--rate", "100000/s"]);
    let (_reader, mut writer) = std::io::pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    ioctl_fionbio(&writer, false).unwrap();
    let errors = writer.try_clone().unwrap();
    let client = Client::start_telling(&[stage.info()], "--follow --format raw", writer.into(), errors.into());
    let readers = || stage.run("--format json").json_of("server")[0]["readers"].as_u64();
    while readers() != Some(1) {}

    client.signal(Signal::TERM);

    client.finish().expect(0);
}

#[test]
fn waiting_costs_no_cpu_worth_naming() {
    let stage = Stage::new();
    let _servers = ["one", "two", "three"].map(|name| stage.server_of(name, &["a"]));

    for options in ["--transport shm", "--transport socket", "--block"] {
        let idle = stage.run(&format!("--follow --timeout 2s {options}")).expect(124);

        assert!(
            idle.cpu < Duration::from_millis(100),
            "{options}: {:?} of 2 s",
            idle.cpu
        );
    }
}

#[test]
fn server_that_hangs_is_told_and_so_is_that_it_goes_on() {
    let stage = Stage::new();
    let server = stage.server_of("prices", &["a"]);
    let client = stage.client("--follow --format json");
    client.json_of("attached");

    server.signal(Signal::STOP);
    let hung = client.json_of("hung");
    server.signal(Signal::CONT);
    client.json_of("recovered");

    assert!(hung["reason"].as_str().unwrap().contains("stands still"), "{hung}");
}

#[test]
fn server_that_takes_the_place_of_one_that_hangs_is_followed() {
    let stage = Stage::new();
    let hung = stage.server_of("prices", &["a"]);
    let client = stage.client("--follow --format json");
    let old = client.json_of("attached");
    hung.signal(Signal::STOP);
    client.json_of("hung");

    // As an operator does who does not wait for it.
    fs::remove_file(stage.info().join("prices.toml")).unwrap();
    let _new = stage.server_of("prices", &["b"]);
    let new = client.json_of("attached");

    assert_ne!(old["incarnation"], new["incarnation"]);
    assert_eq!(client.json_of("message")["payload"], "b");
}
