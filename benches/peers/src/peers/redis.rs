//! Redis: a broker, over a Unix socket.
//!
//! ```text
//!   to the broker:    *3 \r\n $7 \r\n PUBLISH \r\n $1 \r\n s \r\n $64 \r\n payload \r\n
//!   from it:          *3 \r\n $7 \r\n message \r\n $1 \r\n s \r\n $64 \r\n payload \r\n
//! ```

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::boxed;
use super::spoken::{Publisher, Spoken, Subscriber, WAIT, patiently};
use crate::peer::{About, By, Entry, Link, Peer};
use crate::version::version_said;
use crate::work::Work;

struct Redis;

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![boxed(Redis)]
}

const SERVER: &str = "redis-server";
const SOCKET: &str = "redis";

impl Peer for Redis {
    type Sender = Publisher<UnixStream>;
    type Receiver = Subscriber<UnixStream>;

    fn about(&self) -> About {
        About {
            name: "Redis".into(),
            version: version_said(SERVER, "--version").into(),
            by: By::Network,
            is_lossless: false,
            settings: "A broker, PUBLISH and SUBSCRIBE over a Unix socket, nothing written to a disk. Its protocol without a client \
                       library between, pipelined in one write per 64 KiB or 256 messages, CLIENT REPLY OFF, blocking reads. It cuts \
                       off who is behind by 1 GiB (its default: 32 MiB)."
                .into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        !matches!(work, Work::Large { .. })
    }

    fn broker(&self, directory: &Path) -> Option<Command> {
        let mut server = Command::new(SERVER);
        server.args(["--port", "0", "--save", "", "--appendonly", "no"]);
        server.args(["--client-output-buffer-limit", "pubsub 1gb 0 0"]);
        server.arg("--dir").arg(directory);
        server.arg("--unixsocket").arg(directory.join(SOCKET));
        Some(server)
    }

    fn sender(&self, link: &Link) -> Result<Publisher<UnixStream>> {
        let mut connection = connect(link)?;
        connection.say(b"CLIENT REPLY OFF\r\n")?;
        Ok(Publisher::new(connection, head(link, "PUBLISH"), link.work.len()))
    }

    fn receiver(&self, link: &Link) -> Result<Subscriber<UnixStream>> {
        let mut connection = connect(link)?;
        let channel = channel(link);
        connection.say(format!("SUBSCRIBE {channel}\r\n").as_bytes())?;
        connection.expect(&format!("{channel}\r\n:1\r\n"))?;
        Ok(Subscriber::new(connection, head(link, "message"), link.work.len()))
    }
}

/// One for each way: the name of its directory.
fn channel(link: &Link) -> String {
    let name = link.directory.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// With what a message begins.
fn head(link: &Link, verb: &str) -> String {
    let (channel, len) = (channel(link), link.work.len());
    format!("*3\r\n$7\r\n{verb}\r\n${}\r\n{channel}\r\n${len}\r\n", channel.len())
}

fn connect(link: &Link) -> Result<Spoken<UnixStream>> {
    let path = link.path_of_broker(SOCKET);
    let stream = patiently(|| Ok(UnixStream::connect(&path)?)).context("no Redis server answers")?;
    stream.set_read_timeout(Some(WAIT))?;
    Ok(Spoken::new(stream))
}
