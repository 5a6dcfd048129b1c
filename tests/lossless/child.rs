//! The test program run again as another process, which reads losslessly until it is killed by its test.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lapwing::discovery::{Trust, read};
use lapwing::{BlockingSubscriber, Join, LosslessSubscriber, Poll, RemoteSubscriber};
use nix::sys::signal::Signal::SIGKILL;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use rustix::process::{Signal, getpid, kill_process, set_parent_process_death_signal};

use crate::cut::Hop;
use crate::stage::{PATIENCE, Server};

const ROLE: &str = "LAPWING_TEST_ROLE";
const PATH: &str = "LAPWING_TEST_PATH";
/// Before everything that a child says, to tell it from what the test harness says.
const MARK: &str = "child says: ";

/// A reader in another process, killed at the latest when it is dropped.
pub struct Reader {
    child: Child,
    /// The sequence of the message that it has in its hands, or wants next.
    pub sequence: u64,
}

impl Reader {
    /// Starts one and waits until it is where `role` says.
    pub fn start(role: &str, server: &Server) -> Self {
        Self::start_with(role, &server.found().path)
    }

    /// The same, with an info file of the test's choice.
    pub fn start_with(role: &str, path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::play", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(PATH, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let said = output
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split_once(MARK).map(|(_, said)| said.parse().unwrap()));
        let sequence = said.expect("the child tells where it is");
        Self { child, sequence }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(text: impl std::fmt::Display) {
    println!("\n{MARK}{text}");
    std::io::stdout().flush().unwrap();
}

/// Waits for the end of the test.
fn listen() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Forks a process that drops its copy of `value`, and waits for its end.
#[expect(unsafe_code, reason = "fork")]
fn dropped_by_a_fork<T>(value: T) -> T {
    // SAFETY: the only other thread, the harness's, waits for this one, so all is as usual in the fork.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(value);
            // Nothing of the harness, which is there twice now.
            let _ = kill_process(getpid(), Signal::KILL);
            unreachable!("it was killed")
        }
        ForkResult::Parent { child } => {
            let ended = waitpid(child, None).unwrap();
            assert!(matches!(ended, WaitStatus::Signaled(_, SIGKILL, _)), "{ended:?}");
            value
        }
    }
}

/// Not a test of its own: what the other process runs.
#[test]
fn play() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = std::env::var_os(PATH).unwrap();
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let found = read(Path::new(&path), &Trust::default()).unwrap();
    match role.as_str() {
        "holds a message" => {
            let subscriber = BlockingSubscriber::open(&found, Join::New, PATIENCE).unwrap();
            let Poll::Message(held) = subscriber.receive(PATIENCE) else {
                panic!("no message")
            };
            say(held.sequence);
            listen();
        }
        "holds none" => {
            let mut subscriber = LosslessSubscriber::open(&found, Join::New, PATIENCE).unwrap();
            assert!(matches!(subscriber.receive(PATIENCE, |_| ()), Poll::Message(_)));
            say(subscriber.subscriber().cursor());
            listen();
        }
        "is cut off" => {
            let (hop, found) = Hop::before(found);
            let subscriber = BlockingSubscriber::open(&found, Join::New, PATIENCE).unwrap();
            let Poll::Message(held) = subscriber.receive(PATIENCE) else {
                panic!("no message")
            };
            hop.cut();
            say(held.sequence);
            listen();
        }
        "has forked" => {
            let mut subscriber = LosslessSubscriber::open(&found, Join::New, PATIENCE).unwrap();
            assert!(matches!(subscriber.receive(PATIENCE, |_| ()), Poll::Message(_)));
            let cursor = subscriber.subscriber().cursor();
            let subscriber = dropped_by_a_fork(subscriber);
            say(cursor);
            listen();
            drop(subscriber);
        }
        "reads a socket" => {
            let addresses = &found.info.socket.as_ref().unwrap().addresses;
            let subscriber =
                RemoteSubscriber::connect_lossless(addresses, found.info.incarnation, Join::New, PATIENCE).unwrap();
            say(subscriber.cursor());
            listen();
        }
        other => panic!("no role {other}"),
    }
}
