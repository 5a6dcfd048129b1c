//! A second process: this bench again, told by its environment what to be instead of a bench.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use lapwing::discovery::{self, Trust};
use lapwing::{Join, Server, Subscriber, WaitStrategy};

const DIRECTORY: &str = "LAPWING_BENCH_DIRECTORY";
const KIND: &str = "LAPWING_BENCH_KIND";

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What this process is told to be, if it is a peer: whose, and of which kind.
pub fn role() -> Option<(PathBuf, String)> {
    let directory = env::var_os(DIRECTORY)?;
    Some((directory.into(), env::var(KIND).expect("a peer is told its kind")))
}

/// Attaches the server `name` of `directory`, to follow what it publishes from now on, and waits as `kind` says.
pub fn attach(directory: &Path, name: &str, kind: &str) -> Subscriber {
    let strategy = match kind {
        "spin" => WaitStrategy::Spin,
        "block" => WaitStrategy::Block,
        _ => WaitStrategy::Adaptive,
    };
    let found = discovery::read(&directory.join(name).with_extension("toml"), &Trust::default()).expect("an info file");
    let id = found.info.shared_memory.expect("a segment").id;
    Subscriber::attach(id, found.info.incarnation, Some(found.owner_uid), Join::New)
        .expect("its segment")
        .with_strategy(strategy)
        .with_lock(found.lock)
}

/// A running peer; killed if it is not waited for.
pub struct Peer {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts this program again as a peer of `server`, and waits for it to say that it is ready.
    pub fn start(server: &Server, kind: &str) -> Self {
        let directory = server.info_path().parent().expect("an info file lies in a directory");
        let mut child = Command::new(env::current_exe().expect("a program knows itself"))
            .env(DIRECTORY, directory)
            .env(KIND, kind)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts once more");
        let output = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
        let mut peer = Self { child, output };
        assert_eq!(peer.hear(), "ready");
        peer
    }

    /// The next line that it says.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a pipe can be read");
        line.trim_end().to_owned()
    }

    /// Waits for its end, and checks that it was a good one.
    pub fn finish(mut self) {
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
