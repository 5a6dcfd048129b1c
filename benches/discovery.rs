//! What it takes to find out who is there: reading a directory of 1, 100 and 1,000 servers, probing each over both
//! transports, and `client ./info`, which probes many at once.
//!
//! The servers are those of a second process, each with a segment, a socket, and one message. Their heartbeats are a second
//! apart, so that a thousand of them leave processors to look with.

#[path = "stand/extent.rs"]
#[allow(dead_code, reason = "criterion has its own rounds")]
mod extent;
#[path = "stand/peer.rs"]
mod peer;
#[path = "stand/placement.rs"]
#[allow(dead_code, reason = "a thousand service threads go where there is room")]
mod placement;

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use lapwing::discovery::{self, Entry, Trust};
use lapwing::probe::{Category, ProbeOptions, probe};
use lapwing::{Server, ServerOptions};
use peer::{PATIENCE, Peer};
use rustix::process::{Resource, getrlimit, setrlimit};

const MESSAGE: &[u8] = b"here";

/// The peer: as many servers as `count` says, until its input ends.
fn serve(directory: &Path, count: usize) {
    let servers: Vec<Server> = (0..count)
        .map(|index| {
            let mut options = ServerOptions::new(format!("server-{index:04}").parse().expect("a server's name"));
            options.info_dir = directory.to_owned();
            options.heartbeat_interval = Duration::from_secs(1);
            let mut server = Server::start(options).expect("a server starts");
            server.publisher().publish(MESSAGE).expect("short enough");
            server
        })
        .collect();
    println!("ready");
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("a pipe can be read");
    drop(servers);
}

fn list(directory: &Path) -> Vec<Entry> {
    discovery::list(directory, &Trust::default()).expect("a directory")
}

/// Lists, and probes one after the other. Returns how many were found to be all right.
fn probe_all(directory: &Path) -> usize {
    let options = ProbeOptions {
        deadline: Instant::now() + PATIENCE,
        last: 1,
    };
    let is_right = |entry: &Entry| match entry {
        Entry::Server(found) => {
            let report = probe(found, &options);
            let [message] = &*report.messages else { return false };
            report.category == Category::Host && message.payload == MESSAGE
        }
        _ => false,
    };
    list(directory).iter().filter(|entry| is_right(entry)).count()
}

/// Has the client look, and counts the servers that it tells of as of the category Host.
fn look(directory: &Path) -> usize {
    let output = Command::new(env!("CARGO_BIN_EXE_client"))
        .arg(directory)
        .args(["--format", "json"])
        .output()
        .expect("a command of this project");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.matches("\"category\":\"host\"").count()
}

fn discover(criterion: &mut Criterion, counts: &[usize]) {
    let mut group = criterion.benchmark_group("discovery");
    group.sampling_mode(SamplingMode::Flat);
    for &count in counts {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let peer = Peer::start(directory.path(), &count.to_string());
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("list", count), |bencher| {
            bencher.iter(|| assert_eq!(list(directory.path()).len(), count));
        });
        group.bench_function(BenchmarkId::new("probe", count), |bencher| {
            bencher.iter(|| assert_eq!(probe_all(directory.path()), count));
        });
        group.bench_function(BenchmarkId::new("client", count), |bencher| {
            bencher.iter(|| assert_eq!(look(directory.path()), count));
        });
        peer.finish();
    }
    group.finish();
}

fn main() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
    if let Some((directory, count)) = peer::role() {
        return serve(&directory, count.parse().expect("a number"));
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(10)
        .nresamples(10_000)
        .configure_from_args();
    discover(
        &mut criterion,
        if extent::is_whole() { &[1, 100, 1000] } else { &[1, 20] },
    );
    criterion.final_summary();
}
