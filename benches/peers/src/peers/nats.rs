//! NATS core: a broker over TCP.
//!
//! ```text
//!   to the broker:    PUB s 64 \r\n payload \r\n        SUB s 1 \r\n
//!   from it:          MSG s 1 64 \r\n payload \r\n
//! ```

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::boxed;
use super::spoken::{Publisher, Spoken, Subscriber, WAIT, patiently};
use crate::peer::{About, By, Entry, Link, Peer};
use crate::version::version_said;
use crate::work::Work;

struct Nats;

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![boxed(Nats)]
}

const SERVER: &str = "nats-server";
/// A port that is free; whoever is 1 GiB behind is cut off.
const CONFIG: &str = "listen: \"127.0.0.1:-1\"\nmax_pending: 1073741824\n";

impl Peer for Nats {
    type Sender = Publisher<TcpStream>;
    type Receiver = Subscriber<TcpStream>;

    fn about(&self) -> About {
        About {
            name: "NATS core".into(),
            version: version_said(SERVER, "--version").into(),
            by: By::Network,
            is_lossless: false,
            settings: "A broker over TCP on loopback. Its protocol without a client library between, streams in one write per 64 KiB \
                       or 256 messages, blocking reads. It cuts off who is behind by 1 GiB (its default: 64 MiB)."
                .into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        !matches!(work, Work::Large { .. })
    }

    fn broker(&self, directory: &Path) -> Option<Command> {
        let config = directory.join("nats.conf");
        // If it cannot be written, the server says that it is not there.
        let _ = fs::write(&config, CONFIG);
        let mut server = Command::new(SERVER);
        server.arg("-c").arg(config).arg("--ports_file_dir").arg(directory);
        Some(server)
    }

    fn sender(&self, link: &Link) -> Result<Publisher<TcpStream>> {
        let len = link.work.len();
        let head = format!("PUB {} {len}\r\n", subject(link));
        Ok(Publisher::new(connect(link)?, head, len))
    }

    fn receiver(&self, link: &Link) -> Result<Subscriber<TcpStream>> {
        let (mut connection, subject, len) = (connect(link)?, subject(link), link.work.len());
        connection.say(format!("SUB {subject} 1\r\nPING\r\n").as_bytes())?;
        connection.expect("PONG\r\n")?;
        Ok(Subscriber::new(connection, format!("MSG {subject} 1 {len}\r\n"), len))
    }
}

/// One for each way: the name of its directory.
fn subject(link: &Link) -> String {
    let name = link.directory.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn connect(link: &Link) -> Result<Spoken<TcpStream>> {
    let stream = patiently(|| Ok(TcpStream::connect(address(link)?)?)).context("no NATS server answers")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(WAIT))?;
    let mut connection = Spoken::new(stream);
    connection.say(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n")?;
    connection.expect("PONG\r\n")?;
    Ok(connection)
}

/// Where the server listens: the first address of the file that it writes.
fn address(link: &Link) -> Result<String> {
    let directory = link.path_of_broker("");
    let mut files = fs::read_dir(directory)?.flatten().map(|file| file.path());
    let ports = files.find(|path| path.extension().is_some_and(|extension| extension == "ports"));
    let text = fs::read_to_string(ports.context("it does not listen yet")?)?;
    let address = text.split("nats://").nth(1).and_then(|rest| rest.split('"').next());
    Ok(address.context("it says no address")?.to_owned())
}
