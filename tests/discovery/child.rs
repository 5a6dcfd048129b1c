//! The test program run again as another process, which plays one role and is killed by its test.

use super::info;
use lapwing::discovery::{Announcement, Watch};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const ROLE: &str = "LAPWING_TEST_ROLE";
const PATH: &str = "LAPWING_TEST_PATH";
/// Before everything that a child says, to tell it from what the test harness says.
const MARK: &str = "child says: ";

/// Another process, killed at the latest when it is dropped.
pub struct Role {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Role {
    pub fn start(role: &str, path: &Path) -> Self {
        Self::start_with(Command::new(std::env::current_exe().unwrap()), role, path)
    }

    /// Starts `command`, which is to run this program with the arguments that are added to it.
    pub fn start_with(mut command: Command, role: &str, path: &Path) -> Self {
        let mut child = command
            .args(["--exact", "child::play", "--nocapture", "--test-threads=1"])
            .envs([(ROLE, role.as_ref()), (PATH, path.as_os_str())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next thing that it says; `None` when it has ended.
    pub fn hear(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some((_, said)) = line.trim_end().split_once(MARK) {
                return Some(said.to_owned());
            }
        }
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(text: impl std::fmt::Display) {
    println!("\n{MARK}{text}");
    std::io::stdout().flush().unwrap();
}

/// Waits for a line, or the end of the test.
fn listen() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

/// Announces a server and says how that went.
fn announce(directory: &Path, name: &str) -> Option<Announcement> {
    match Announcement::publish(directory, &info(name), 0o644) {
        Ok(announcement) => {
            say("published");
            Some(announcement)
        }
        Err(error) => {
            say(format_args!("{error:?}"));
            None
        }
    }
}

/// Not a test of its own: what the other process runs.
#[test]
fn play() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = std::env::var_os(PATH).unwrap();
    let path = Path::new(&path);
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    match role.as_str() {
        "hold" => {
            let _announcement = announce(path, "held");
            listen();
        }
        "hold and run a program" => {
            let _announcement = announce(path, "held");
            let mut program = Command::new("sh");
            program
                .args(["-c", "echo up; exec cat >/dev/null"])
                .stdout(Stdio::piped());
            let mut program = program.spawn().unwrap();
            // Only what it says itself proves that it is past `exec`, where the kernel closes what is not its own.
            let mut up = String::new();
            BufReader::new(program.stdout.take().unwrap())
                .read_line(&mut up)
                .unwrap();
            assert_eq!(up, "up\n");
            say(program.id());
            program.wait().unwrap();
        }
        "race" => {
            say("ready");
            listen();
            let _announcement = announce(path, "wanted");
            listen();
        }
        "come and go" => loop {
            drop(announce(path, "restless"));
        },
        "squat" | "lock" => {
            let file = File::options().read(true).write(role == "lock").open(path).unwrap();
            let kind = if role == "lock" {
                FlockOperation::NonBlockingLockExclusive
            } else {
                FlockOperation::NonBlockingLockShared
            };
            rustix::fs::fcntl_lock(&file, kind).unwrap();
            say("locked");
            listen();
        }
        "watch without descriptors" => {
            let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            limit.current = Some(0);
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
            let mut watch = Watch::new(path);
            let changed = watch.wait(Duration::from_millis(10)).unwrap();
            say(format_args!(
                "{changed} {:?}",
                watch.degraded().and_then(std::io::Error::raw_os_error)
            ));
        }
        other => panic!("no role {other}"),
    }
}
