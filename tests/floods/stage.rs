//! A real server whose stream healthy followers take all of, whatever else is done to it; and what must be as before
//! when that is over.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Instant;

use lapwing::discovery::{Trust, read};
use lapwing::{Incarnation, Join, Poll};
use rustix::process::{Pid, Resource, Signal, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::healthy::{Healthy, join};
use crate::running::{Running, WATCHDOG, assert_freed, command, segment_of};

/// What a server's memory may have grown by, behind an attack.
const GROWTH_KIB: u64 = 8 << 10;

/// The counters of one line of statistics.
pub type Stats = HashMap<String, u64>;

/// A server under attack.
pub struct Stage {
    server: Running,
    healthy: Healthy,
    addresses: Vec<SocketAddr>,
    segment: (i32, Incarnation),
    before: Footprint,
    _directory: TempDir,
}

/// What a process has of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Footprint {
    descriptors: usize,
    resident_kib: u64,
}

impl Footprint {
    fn of(pid: Pid) -> Self {
        let proc = format!("/proc/{}", pid.as_raw_nonzero());
        let status = fs::read_to_string(format!("{proc}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            descriptors: fs::read_dir(format!("{proc}/fd")).unwrap().count(),
            resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}

impl Stage {
    /// A server that both followers follow.
    pub fn new() -> Self {
        Self::on(&["127.0.0.1:0"])
    }

    /// The same, with a server that listens on these addresses.
    pub fn on(addresses: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = command(directory.path());
        command.args(addresses.iter().flat_map(|address| ["--listen", address]));
        Self::with(command, directory)
    }

    /// The same, with a server that may have no more than these descriptors, whatever it asks for.
    pub fn with_descriptors(most: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("ulimit -n {most} && exec \"$@\""), "sh"])
            .args([env!("CARGO_BIN_EXE_server"), "--info-dir"])
            .arg(directory.path());
        Self::with(command, directory)
    }

    fn with(mut command: Command, directory: TempDir) -> Self {
        command
            .args(["--name", "flood", "--framed", "--stats", "100ms"])
            .args(["--ring-size", "16M", "--slots", "4096"])
            .stdin(Stdio::piped());
        let mut server = Running::announced(command);
        let input = server.take_input();
        let found = read(&server.info_path(), &Trust::default()).unwrap();
        let addresses = found.info.socket.as_ref().unwrap().addresses.clone();
        let healthy = Healthy::start(&found, input);
        // The ring and the buffers are warm.
        healthy.go_on(5_000);
        let before = Footprint::of(server.pid());
        Self {
            addresses,
            segment: segment_of(&server),
            before,
            server,
            healthy,
            _directory: directory,
        }
    }

    /// The first address to connect to.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The last one.
    pub fn last_address(&self) -> SocketAddr {
        self.addresses[self.addresses.len() - 1]
    }

    /// Waits until the followers have taken `count` more messages.
    pub fn go_on(&self, count: u64) {
        self.healthy.go_on(count);
    }

    /// Waits for statistics of which `are_so`.
    pub fn wait_for(&mut self, are_so: impl Fn(&Stats) -> bool) -> Stats {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            let stats = parse(&self.server.wait_to_hear("server: stats: "));
            if are_so(&stats) {
                return stats;
            }
            assert!(
                Instant::now() < deadline,
                "the statistics stay at {stats:?}, with {:?}",
                Footprint::of(self.server.pid())
            );
        }
    }

    /// Checks that everything is as it was before the attack, that strangers are served, and that the server stops as
    /// if nothing had been. Returns its last statistics.
    pub fn finish(mut self) -> Stats {
        let (pid, before) = (self.server.pid(), self.before);
        // What it said before the attack began may not have been heard yet: its descriptors are counted now.
        self.wait_for(|stats| stats["connections"] == 1 && Footprint::of(pid).descriptors == before.descriptors);
        self.go_on(1_000);
        let after = Footprint::of(pid);
        assert!(
            after.resident_kib <= before.resident_kib + GROWTH_KIB,
            "memory leaks: {before:?} became {after:?}"
        );
        self.serves_a_newcomer();

        let finishing = self.healthy.pause();
        let gone = self.server.end_by(Signal::TERM);
        finishing.finish();

        assert_eq!(gone.status.code(), Some(0), "{}", gone.said);
        assert_freed(self.segment);
        let total = gone.said.lines().rfind(|line| line.contains("server: total: "));
        parse(total.unwrap())
    }

    /// Checks that one who comes now is served.
    pub fn serves_a_newcomer(&self) {
        let mut newcomer = join(&[self.address()], Incarnation::NIL, Join::Latest(1));
        let found = newcomer.receive(WATCHDOG, <[u8]>::len).unwrap();
        assert!(matches!(found, Poll::Message(_)), "{found:?}");
    }
}

/// Lets this process have as many descriptors as the system allows. Its servers do the same for themselves.
pub fn allow_descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}

/// The numbers of a line of statistics. Those that are not told are 0.
fn parse(line: &str) -> Stats {
    let mut stats = Stats::from_iter(REASONS.map(|reason| (reason.to_owned(), 0)));
    stats.extend(line.split_whitespace().filter_map(|word| {
        let (key, value) = word.split_once('=')?;
        Some((key.to_owned(), value.parse().ok()?))
    }));
    stats
}

/// What is told only if it happened.
const REASONS: [&str; 8] = [
    "dropped_full",
    "dropped_version",
    "dropped_protocol",
    "dropped_late",
    "dropped_silent",
    "dropped_stalled",
    "dropped_corrupt",
    "dropped_accept",
];
