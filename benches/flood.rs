//! What an attack on the socket costs: the publisher, a healthy follower over TCP, and the heartbeat.
//! `cargo bench --bench flood` compares windows with and without the whole attack in turns; with `--test` each but once
//! and small, to see that it works.
//!
//! The attack is another process of the lowest priority: on a machine with few processors its own work would be counted
//! as the server's loss otherwise. What it makes the server do is counted.

#[path = "../tests/floods/attack.rs"]
#[allow(dead_code, reason = "the tests want to know what became of the peers")]
mod attack;
#[path = "stand/cpu_time.rs"]
mod cpu_time;
#[path = "stand/extent.rs"]
mod extent;
#[path = "stand/peer.rs"]
mod peer;
#[path = "stand/placement.rs"]
#[allow(dead_code, reason = "it is the server that is compared, wherever it runs")]
mod placement;
mod stand;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use attack::{Churn, Crowd, Kind, Wrong};
use lapwing::{Incarnation, Join, Poll, RemoteSubscriber, Segment, Server, Subscriber};
use peer::{PATIENCE, Peer, this_program};
use rustix::process::{Resource, getrlimit, setrlimit};
use stand::Stand;

const SERVER: &str = "flood";
/// Fewer than the ring retains.
const BURST: u64 = 500;
const PAYLOAD: [u8; 64] = [0x5a; 64];

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Extent {
    window: Duration,
    /// Peers of the whole attack are divided by this.
    divisor: usize,
    /// How many connections a burst goes to.
    crowds: [usize; 2],
}

const WHOLE: Extent = Extent {
    window: Duration::from_secs(1),
    divisor: 1,
    crowds: [1_000, 5_000],
};
const ONCE: Extent = Extent {
    window: Duration::from_millis(50),
    divisor: 50,
    crowds: [20, 100],
};

/// Starts an attack on the server of `stand`, and waits until all of its peers are connected. It ends when it is dropped.
fn attacked(stand: &Stand, peers: &str) -> Peer {
    let mut command = Command::new("nice");
    let program = this_program();
    command
        .args(["-n", "19"])
        .arg(program.get_program())
        .stdin(Stdio::piped());
    Peer::of(command, stand.directory(), peers)
}

/// Ends it, and waits until `server` has only `connections` left.
fn end(attack: Peer, server: &Server, connections: u64) {
    drop(attack);
    wait_for(server, connections);
}

fn wait_for(server: &Server, connections: u64) {
    let deadline = Instant::now() + PATIENCE;
    while server.stats().service.connections != connections {
        assert!(Instant::now() < deadline, "{:?}", server.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The attackers' process: connects all, says so, and goes on until it is killed or forgotten.
fn attack(directory: &Path, peers: &str) {
    let address = peer::find(directory, SERVER).info.socket.expect("a socket").addresses[0];
    let mut kinds = Vec::new();
    let mut churns = false;
    for (name, count) in peers.split(',').filter_map(|pair| pair.split_once('=')) {
        let count = count.parse().expect("a number");
        match name {
            "churn" => churns = true,
            "idle" => kinds.push((Kind::Idle, count)),
            "followers" => kinds.push((Kind::Reader, count)),
            "loris" => kinds.extend([(Kind::SlowLoris, count), (Kind::Mute, count), (Kind::Silent, count)]),
            "deaf" => kinds.extend([(Kind::Deaf, count), (Kind::Vandal, count), (Kind::HalfClosed, count)]),
            "loud" => kinds.extend([(Kind::Chatterer, count), (Kind::Torrent, count)]),
            "wrong" => kinds.extend(Wrong::ALL.map(|wrong| (Kind::Wrong(wrong), count))),
            _ => panic!("no such peers: {name}"),
        }
    }
    let crowd = Crowd::gather(address, &kinds).expect("the server listens");
    let churn = churns.then(|| Churn::start(address, usize::MAX, 1_000.0));
    println!("ready");
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("a pipe can be read");
    drop((crowd, churn));
}

/// What was seen in one window.
#[derive(Debug, Clone, Copy)]
struct Seen {
    per_second: f64,
    cpu_ns: f64,
}

/// Does `work`, which tells how many messages it was, until the window is over.
fn watch(window: Duration, mut work: impl FnMut() -> u64) -> Seen {
    let (start, cpu, mut messages) = (Instant::now(), cpu_time::of_thread(), 0);
    while start.elapsed() < window {
        messages += work();
    }
    let cpu = cpu_time::of_thread().saturating_sub(cpu);
    Seen {
        per_second: messages as f64 / start.elapsed().as_secs_f64(),
        cpu_ns: cpu.as_nanos() as f64 / messages as f64,
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Prints what each pair of windows gave, without and with the attack.
fn tell(what: &str, pairs: &[[Seen; 2]]) {
    let of = |number: fn(&Seen) -> f64| {
        let ratio = median(
            pairs
                .iter()
                .map(|[without, with]| number(with) / number(without))
                .collect(),
        );
        let [without, with] = [0, 1].map(|at| median(pairs.iter().map(|pair| number(&pair[at])).collect()));
        (ratio, without, with)
    };
    let (ratio, without, with) = of(|seen| seen.per_second);
    println!(
        "{what}: {ratio:.3} of the rate ({:.3} of {:.3} million/s)",
        with / 1e6,
        without / 1e6
    );
    let (ratio, without, with) = of(|seen| seen.cpu_ns);
    println!("{what}: {ratio:.3} of the CPU time a message ({with:.1} and {without:.1} ns)");
}

/// Compares `window` without and with the whole attack on `stand`, which has these `connections` of its own in between.
fn compare(what: &str, extent: Extent, connections: u64, stand: &mut Stand, window: impl Fn(&mut Stand) -> Seen) {
    let share = |count: usize| (count / extent.divisor).max(1);
    let (some, few) = (share(500), share(100));
    let peers = format!(
        "idle={},loris={some},deaf={few},loud=4,wrong={few},churn=1",
        share(5_000)
    );
    let mut pairs = Vec::new();
    for _ in 0..extent::rounds(8) {
        let without = window(stand);
        let attack = attacked(stand, &peers);
        let with = window(stand);
        end(attack, &stand.server, connections);
        pairs.push([without, with]);
    }
    tell(what, &pairs);
}

fn join(server: &Server) -> RemoteSubscriber {
    RemoteSubscriber::connect(server.addresses(), Incarnation::NIL, Join::New, PATIENCE)
        .expect("our own server answers")
}

fn new_stand() -> Stand {
    Stand::new(SERVER, |options| options.ring_bytes = 16 << 20)
}

/// The publisher as fast as it can, with a follower over each transport.
fn publisher(extent: Extent) {
    let mut stand = new_stand();
    let found = lapwing::discovery::read(stand.server.info_path(), &Default::default()).expect("an info file");
    let mut local = Subscriber::open(&found, Join::New).expect("its segment");
    let mut remote = join(&stand.server);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = local.receive(Duration::from_millis(100), |_| ());
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = remote
                    .receive(Duration::from_millis(100), |_| ())
                    .expect("the server goes on");
            }
        });
        compare("publisher", extent, 1, &mut stand, |stand| {
            watch(extent.window, || {
                for _ in 0..BURST {
                    stand.server.publisher().publish(&PAYLOAD).expect("short enough");
                }
                BURST
            })
        });
        stop.store(true, Ordering::Relaxed);
    });
}

/// A follower over TCP that is given bursts, and takes each before the next.
fn follower(extent: Extent) {
    let mut stand = new_stand();
    compare("follower over TCP", extent, 0, &mut stand, |stand| {
        let mut remote = join(&stand.server);
        watch(extent.window, || burst(&mut stand.server, &mut remote))
    });
}

/// Publishes a burst, and takes all of it.
fn burst(server: &mut Server, remote: &mut RemoteSubscriber) -> u64 {
    let first = server.publisher().next_sequence();
    let mut batch = server.publisher().batch();
    for tag in 0..BURST {
        batch.push(tag, &PAYLOAD).expect("short enough");
    }
    drop(batch);
    for sequence in first..first + BURST {
        match remote.receive(PATIENCE, |_| ()) {
            Ok(Poll::Message(message)) => assert_eq!(message.sequence, sequence),
            other => panic!("{other:?}"),
        }
    }
    BURST
}

/// How long the heartbeat stands still at most while a burst of a megabyte goes to `count` followers.
fn standstill(count: usize, window: Duration) {
    let mut stand = new_stand();
    let id = stand.server.info().shared_memory.as_ref().expect("a segment").id;
    let segment = Segment::attach(id).expect("our own segment");
    let attack = attacked(&stand, &format!("followers={count}"));
    wait_for(&stand.server, count as u64);
    let (start, mut longest) = (Instant::now(), Duration::ZERO);
    let (mut heartbeat, mut since) = (segment.heartbeat(), start);
    let mut batch = stand.server.publisher().batch();
    for tag in 0..1000 {
        batch.push(tag, &[0x5a; 1024]).expect("short enough");
    }
    drop(batch);
    while start.elapsed() < window {
        std::thread::sleep(Duration::from_millis(1));
        longest = longest.max(since.elapsed());
        if segment.heartbeat() != heartbeat {
            (heartbeat, since) = (segment.heartbeat(), Instant::now());
        }
    }
    println!("a megabyte for {count} followers: the heartbeat stands still for {longest:.0?} at most");
    end(attack, &stand.server, 0);
}

fn main() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
    if let Some((directory, peers)) = peer::role() {
        return attack(&directory, &peers);
    }
    let extent = if extent::is_whole() { WHOLE } else { ONCE };
    publisher(extent);
    follower(extent);
    for crowd in extent.crowds {
        standstill(crowd, 3 * extent.window);
    }
}
