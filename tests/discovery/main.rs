//! Info files between real processes: announced, found, killed, taken over, attacked and watched.

mod announcing;
mod child;
mod entries;
mod life;
mod watching;

use lapwing::Incarnation;
use lapwing::discovery::{Announcement, Entry, EntryError, Found, Info, SharedMemory, Socket, Trust, list};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Ends the whole run if a test does not end.
struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn start() -> Self {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let (alive, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(120)) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// Says whether the test runs as root, and why it is skipped if not, past the capture of its output.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        writeln!(std::io::stderr().lock(), "SKIPPED {test}: needs root").unwrap();
    }
    root
}

fn info(name: &str) -> Info {
    let mut info = Info::of_this_process(name.parse().unwrap(), Incarnation::random().unwrap());
    info.shared_memory = Some(SharedMemory {
        id: 3,
        bytes: 1 << 17,
        layout: 1,
    });
    let addresses = vec!["127.0.0.1:4000".parse().unwrap(), "[::1]:4000".parse().unwrap()];
    info.socket = Some(Socket { protocol: 1, addresses });
    info
}

fn publish(directory: &Path, name: &str) -> Announcement {
    Announcement::publish(directory, &info(name), 0o644).unwrap()
}

/// The servers of `directory`, in which nothing else may be.
fn servers(directory: &Path) -> Vec<Found> {
    let found = list(directory, &Trust::default()).unwrap().into_iter();
    found
        .map(|entry| match entry {
            Entry::Server(found) => found,
            Entry::Problem { path, reason } => panic!("{path:?}: {reason}"),
        })
        .collect()
}

/// The one problem of `directory`, which may also hold servers.
fn problem(directory: &Path) -> EntryError {
    let mut problems = Vec::new();
    for entry in list(directory, &Trust::default()).unwrap() {
        if let Entry::Problem { reason, .. } = entry {
            problems.push(reason);
        }
    }
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

/// All names in `directory`, hidden ones too, sorted.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
