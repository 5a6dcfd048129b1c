//! What a server does when descriptors run out. The limit holds for a whole process, so each test plays the server in a
//! copy of itself.

use std::fs::File;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use mio::Poll as Epoll;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::socket::acceptor::Acceptor;

/// Says to the copy of a test what it is.
const COPY: &str = "LAPWING_TEST_FEW_DESCRIPTORS";
/// Enough for the server and some clients.
const FEW: u64 = 32;

/// The copy, which is not left behind.
struct Copy {
    child: Child,
    input: Option<ChildStdin>,
    said: std::io::Lines<std::io::BufReader<ChildStdout>>,
}

impl Copy {
    /// Starts this test program again, for the test `name` of this file alone.
    fn of(name: &str) -> Self {
        let test = format!("socket::tests::descriptors::{name}");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([&test, "--exact", "--nocapture", "--test-threads=1"])
            .env(COPY, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take(),
            said: std::io::BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    /// What it says next behind `key` and an equals sign.
    fn hear(&mut self, key: &str) -> String {
        let mut lines = self.said.by_ref().map(Result::unwrap);
        let said = lines.find_map(|line| Some(line.split_once(&format!("{key}="))?.1.to_owned()));
        said.unwrap_or_else(|| panic!("the copy ends without saying {key}"))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_copy() -> bool {
    std::env::var_os(COPY).is_some()
}

fn allow_descriptors(most: u64) {
    let limit = Rlimit {
        current: Some(most),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[test]
fn clients_are_turned_away_while_descriptors_are_short_and_served_again_afterwards() {
    if is_copy() {
        return serve_with_few_descriptors();
    }
    let mut copy = Copy::of("clients_are_turned_away_while_descriptors_are_short_and_served_again_afterwards");
    let address = copy.hear("address").parse().unwrap();
    let connect = || RemoteSubscriber::connect(&[address], Incarnation::NIL, Join::Oldest, PATIENCE);

    let (mut joined, mut refused) = (Vec::new(), Vec::new());
    while refused.len() < 3 {
        match connect() {
            Ok(subscriber) => joined.push(subscriber),
            Err(error) => refused.push(error),
        }
        assert!(joined.len() < FEW as usize, "descriptors do not run out");
    }
    joined.truncate(joined.len() / 2);
    let deadline = Instant::now() + PATIENCE;
    let mut late = loop {
        match connect() {
            Ok(subscriber) => break subscriber,
            Err(error) => refused.push(error),
        }
        assert!(Instant::now() < deadline, "nobody is served any more");
    };

    for error in &refused {
        let RemoteError::Rejected { code, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(*code, RejectCode::TooManyConnections);
    }
    expect(&mut late, 0, b"still served");
    for subscriber in &mut joined {
        expect(subscriber, 0, b"still served");
    }
    drop(copy.input.take());
    let refused = refused.len().to_string();
    assert_eq!(
        (copy.hear("refused"), copy.hear("failures")),
        (refused.clone(), refused)
    );
}

/// A server in a process of its own. Serves until its input ends, then says whom it did not.
fn serve_with_few_descriptors() {
    let mut host = Host::new(|_| {});
    host.publish(b"still served");
    allow_descriptors(FEW);

    println!("address={}", host.address);

    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let stats = host.service.stats();
    println!("refused={}", stats.rejected_full);
    println!("failures={}", stats.accept_failures);
}

#[test]
fn spare_descriptor_that_was_lost_is_taken_again_as_soon_as_there_is_one() {
    if is_copy() {
        return accept_after_losing_the_spare();
    }
    let mut copy = Copy::of("spare_descriptor_that_was_lost_is_taken_again_as_soon_as_there_is_one");

    assert_eq!(copy.hear("without a descriptor"), "Failure");
    assert_eq!(copy.hear("with one"), "TurnedAway");
}

/// An acceptor that finds no descriptor to spare at first, and one later.
fn accept_after_losing_the_spare() {
    let epoll = Epoll::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    allow_descriptors(FEW);
    let mut taken = take_all_descriptors();
    let mut acceptor = Acceptor::new(vec![listener], 0, epoll.registry()).unwrap();
    let start = Instant::now();

    acceptor.accept(start, |arrival| println!("without a descriptor={arrival:?}"));
    taken.pop();
    // Later than it wants to try again.
    acceptor.accept(start + PATIENCE, |arrival| println!("with one={arrival:?}"));
}

/// Opens files until no more can be opened.
fn take_all_descriptors() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}
