//! Servers of one name in two directories: whoever reads what the client writes can tell them apart.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::stage::{Client, Finished, Stage};

fn run(stages: &[Stage; 2], options: &str) -> Finished {
    let paths = stages.each_ref().map(Stage::info);
    Client::start(&paths, options).finish().expect(0)
}

/// What each message of these lines says of its server, with its payload.
fn owners(lines: &[Value]) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    lines
        .iter()
        .filter(|value| value["type"] == "message")
        .map(|value| (text(&value["server"]), text(&value["payload"])))
        .collect()
}

#[test]
fn servers_of_one_name_are_told_apart_and_others_keep_their_short_names() {
    let stages = [Stage::new(), Stage::new()];
    let _servers = [
        stages[0].server_of("prices", &["one"]),
        stages[1].server_of("prices", &["two"]),
        stages[1].server_of("orders", &["three"]),
    ];
    let [first, second] = stages
        .each_ref()
        .map(|stage| format!("{}/prices", stage.info().display()));
    let pair = |server: &str, payload: &str| (server.to_owned(), payload.to_owned());

    let looked = run(&stages, "--format json");
    assert_eq!(
        owners(&looked.json()),
        BTreeSet::from([pair(&first, "one"), pair(&second, "two"), pair("orders", "three")])
    );
    let names: BTreeSet<_> = looked
        .json_of("server")
        .iter()
        .map(|server| server["name"].to_string())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");

    let table = run(&stages, "").output.join("\n");
    assert!(table.contains(&first) && table.contains(&second), "{table}");

    // The first was there before there was another.
    let followed = run(&stages, "--follow --from oldest -n 3 --format json");
    assert_eq!(
        owners(&followed.json()),
        BTreeSet::from([pair("prices", "one"), pair(&second, "two"), pair("orders", "three")])
    );
    let paths: BTreeSet<_> = followed
        .json_of("attached")
        .iter()
        .map(|object| object["path"].to_string())
        .collect();
    assert_eq!(paths.len(), 3, "{paths:?}");
}
