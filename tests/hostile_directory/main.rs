//! An info directory with everything in it that is no info file, full of what dead servers left, or never at rest: the
//! real client reports each bad entry once, with its reason, and serves the good server all the same, in its time.

#[path = "../confined/mod.rs"]
#[allow(dead_code, reason = "shared with other tests, which need other parts")]
mod confined;

mod bad_entries;
mod crowd;
mod directories;
mod outsiders;
mod squatters;
mod storm;

use std::fs;
use std::path::Path;

use confined::{Process, server};

/// The good server, which publishes all the time.
fn good_server(directory: &Path) -> Process {
    Process::announced(&server(
        directory,
        "good",
        "--message hello --interval 2ms --ring-size 1M --slots 65536",
    ))
}

/// The text of an info file of a server that nobody runs, of a life of its own, with a socket at `address`.
fn info_of(name: &str, address: &str) -> String {
    let incarnation = name.bytes().fold(1, |hash: u128, byte| hash * 257 + u128::from(byte));
    format!(
        "format = 1\nname = \"{name}\"\nincarnation = \"{incarnation:032x}\"\npid = 1\nstarted_unix_ns = 1\n\
         uid = 0\ngid = 0\n[socket]\nprotocol = 1\naddresses = [\"{address}\"]\n"
    )
}

/// Gives a file its text at once, as an editor does that writes another file first.
fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, path).unwrap();
}
