//! The pipelines: what somebody types who has lines in one place and wants them in another.

use std::env;

use anyhow::{Context, Result};

use crate::peer::version_of;
use crate::pipeline::Pipeline;
use crate::version::version_said;

/// What all of them do.
pub const WORK: &str = "Lines through command lines";
/// The one that the others are compared with.
pub const REFERENCE: &str = "server --lossless block, client --lossless";

const REDIS: &str = "redis-cli --pipe, redis-cli SUBSCRIBE";
const MOSQUITTO_CONFIG: &str = "listener 0 {d}/mosquitto
allow_anonymous true
user root
max_queued_messages 0
log_dest none
";

/// All of them, in the order in which they take turns.
pub fn all() -> Result<Vec<Pipeline>> {
    Ok(vec![
        cat(),
        lapwing(REFERENCE, "shm", true)?,
        lapwing("server, client", "shm", false)?,
        lapwing("server --lossless block, client --lossless over TCP", "socket", true)?,
        redis(),
        mosquitto(),
    ])
}

/// The words of a command line.
fn words(line: &str) -> Vec<String> {
    line.split_ascii_whitespace().map(str::to_owned).collect()
}

fn cat() -> Pipeline {
    Pipeline {
        name: "cat, cat",
        settings: "Two pipes and nobody who looks at lines: a limit.".into(),
        is_lossless: true,
        broker: None,
        file: None,
        writers: vec![words("cat")],
        reader: words("cat"),
        is_joined: true,
        greeting: 0,
        part: 1,
    }
}

/// Lapwing's own commands, from where this program is.
fn lapwing(name: &'static str, transport: &str, is_lossless: bool) -> Result<Pipeline> {
    let program = env::current_exe().context("cannot find this program")?;
    let command = |name: &str, arguments: &str| {
        let mut command = vec![program.with_file_name(name).display().to_string()];
        command.extend(words(arguments));
        command
    };
    let (offer, ask) = if is_lossless {
        (" --lossless block", " --lossless")
    } else {
        ("", "")
    };
    Ok(Pipeline {
        name,
        settings: format!(
            "Version {}, `server` as it is by default{}, `client {{d}} --follow --format raw --transport {transport}{ask}`.",
            version_of("lapwing"),
            if is_lossless { " but for `--lossless block`" } else { "" },
        ),
        is_lossless,
        broker: None,
        file: None,
        writers: vec![command(
            "server",
            &format!("--name lines --info-dir {{d}} --exit-at-end{offer}"),
        )],
        reader: command(
            "client",
            &format!("{{d}} --follow --format raw --exit-at-end --transport {transport}{ask}"),
        ),
        is_joined: false,
        greeting: 0,
        part: 1,
    })
}

fn redis() -> Pipeline {
    let settings = format!(
        "Version {}, over a Unix socket; `sed` makes a PUBLISH of each line. Whoever is 1 GiB behind is cut off (by default: 32 MiB).",
        version_said("redis-server", "--version"),
    );
    let mut broker = words("redis-server --port 0 --appendonly no --dir {d} --unixsocket {d}/redis --save");
    broker.push(String::new());
    broker.push("--client-output-buffer-limit".into());
    broker.push("pubsub 1gb 0 0".into());
    Pipeline {
        name: REDIS,
        settings,
        is_lossless: false,
        broker: Some((broker, words("redis-cli -e -s {d}/redis ping"))),
        file: None,
        writers: vec![
            vec!["sed".into(), "s/^/PUBLISH lines /".into()],
            words("redis-cli -s {d}/redis --pipe"),
        ],
        reader: words("redis-cli -s {d}/redis SUBSCRIBE lines"),
        is_joined: false,
        // "subscribe", the channel, a count.
        greeting: 3,
        part: 10,
    }
}

fn mosquitto() -> Pipeline {
    Pipeline {
        name: "mosquitto_pub -l, mosquitto_sub",
        settings: format!(
            "Version {}, quality of service 0, over a Unix socket, `max_queued_messages 0`: without a limit (by default 1,000).",
            version_said("mosquitto", "-h"),
        ),
        is_lossless: false,
        broker: Some((
            words("mosquitto -c {d}/mosquitto.conf"),
            words("mosquitto_pub --unix {d}/mosquitto -t check -n"),
        )),
        file: Some(("mosquitto.conf", MOSQUITTO_CONFIG)),
        writers: vec![words("mosquitto_pub --unix {d}/mosquitto -t lines -l")],
        reader: words("mosquitto_sub --unix {d}/mosquitto -t lines"),
        is_joined: false,
        greeting: 0,
        part: 20,
    }
}
