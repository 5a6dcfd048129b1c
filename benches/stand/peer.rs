//! A second process: this bench again, told by its environment what to be instead of a bench.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use lapwing::discovery::{self, Found, Trust};

use crate::placement::{PROCESSORS, processors};

const DIRECTORY: &str = "LAPWING_BENCH_DIRECTORY";
const KIND: &str = "LAPWING_BENCH_KIND";

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What this process is told to be, if it is a peer: in which directory of info files, and of which kind.
pub fn role() -> Option<(PathBuf, String)> {
    let directory = env::var_os(DIRECTORY)?;
    Some((directory.into(), env::var(KIND).expect("a peer is told its kind")))
}

/// The server `name` of `directory`.
#[allow(dead_code, reason = "some peers are servers")]
pub fn find(directory: &Path, name: &str) -> Found {
    discovery::read(&directory.join(name).with_extension("toml"), &Trust::default()).expect("an info file")
}

/// This program, to be started once more.
pub fn this_program() -> Command {
    let mut command = Command::new(env::current_exe().expect("a program knows itself"));
    command.stdin(Stdio::piped());
    command
}

/// A running peer; killed if it is not waited for.
pub struct Peer {
    child: Child,
    output: BufReader<ChildStdout>,
}

#[allow(dead_code, reason = "not every peer is told, heard or waited for")]
impl Peer {
    /// Starts this program again as a peer in `directory`, and waits for it to say that it is ready. What it reads is
    /// empty, and ends when it is to end.
    pub fn start(directory: &Path, kind: &str) -> Self {
        Self::of(this_program(), directory, kind)
    }

    /// As [`Peer::start`], in another way.
    pub fn of(mut command: Command, directory: &Path, kind: &str) -> Self {
        let list: Vec<String> = processors().iter().map(usize::to_string).collect();
        let mut child = command
            .env(DIRECTORY, directory)
            .env(KIND, kind)
            .env(PROCESSORS, list.join(" "))
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts once more");
        let output = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
        let mut peer = Self { child, output };
        assert_eq!(peer.hear(), "ready");
        peer
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a pipe can be read");
        line.trim_end().to_owned()
    }

    /// Waits for its end, and checks that it was a good one.
    pub fn finish(mut self) {
        drop(self.child.stdin.take());
        for _ in 0..PATIENCE.as_millis() {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return assert!(status.success(), "the peer failed");
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("the peer does not end");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Most often it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
