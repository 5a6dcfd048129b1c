//! The commands as processes: started in a directory of their own, watched, and ended with the test.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lapwing::discovery::{Found, Trust, read};
use lapwing::{Incarnation, Join, Subscriber};
use tempfile::TempDir;

pub const SERVER: &str = env!("CARGO_BIN_EXE_server");
const CLIENT: &str = env!("CARGO_BIN_EXE_client");
/// Long enough for anything here; a test that needs it has failed.
const WATCHDOG: Duration = Duration::from_secs(60);

static NAMES: AtomicU32 = AtomicU32::new(0);

/// A server that runs until it is dropped.
pub struct Running {
    child: Child,
    dir: Arc<TempDir>,
    name: String,
}

impl Running {
    /// Starts a server in a directory of its own and waits until it is announced.
    pub fn server(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Another user must be able to look.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self::start(Arc::new(dir), args)
    }

    /// Starts a server in the directory of another.
    pub fn beside(other: &Self, args: &[&str]) -> Self {
        Self::start(other.dir.clone(), args)
    }

    fn start(dir: Arc<TempDir>, args: &[&str]) -> Self {
        let name = format!("server{}", NAMES.fetch_add(1, Ordering::Relaxed));
        let mut child = Command::new(SERVER)
            .args(["--name", &name, "--info-dir"])
            .arg(dir.path().join("info"))
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It is announced when it says so: the first line that names the info file.
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        while !told.contains(".toml") {
            assert!(
                stderr.read_line(&mut told).unwrap() > 0,
                "the server did not start: {told}"
            );
        }
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, dir, name }
    }

    pub fn info_dir(&self) -> PathBuf {
        self.dir.path().join("info")
    }

    fn found(&self) -> Found {
        read(&self.info_dir().join(format!("{}.toml", self.name)), &Trust::default()).unwrap()
    }

    pub fn segment_id(&self) -> i32 {
        self.found().info.shared_memory.unwrap().id
    }

    /// Waits until it has published `count` messages.
    pub fn wait_for_messages(&self, count: u64) {
        let mut subscriber =
            Subscriber::attach(self.segment_id(), Incarnation::NIL, None, Join::Sequence(count - 1)).unwrap();
        let outcome = subscriber.receive(WATCHDOG, |_| ());
        assert!(matches!(outcome, lapwing::Poll::Message(_)), "{outcome:?}");
    }

    /// A copy of the client where every user can run it.
    pub fn copy_of_client(&self) -> String {
        let copy = self.dir.path().join("client");
        std::fs::copy(CLIENT, &copy).unwrap();
        copy.display().to_string()
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command line of a client that looks at the directory of `server`.
pub fn client(server: &Running, args: &[&str]) -> Vec<String> {
    let dir = server.info_dir().display().to_string();
    [CLIENT, &dir].iter().chain(args).map(|&arg| arg.to_owned()).collect()
}

/// Runs `command` behind the words of `world`, and waits for it.
pub fn in_world(world: &[&str], command: &[String]) -> Output {
    let words: Vec<&str> = world
        .iter()
        .copied()
        .chain(command.iter().map(String::as_str))
        .collect();
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let (done, waits) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if waits.recv_timeout(WATCHDOG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || std::io::read_to_string(stdout).unwrap());
    let stderr = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    let stdout = reader.join().unwrap();
    let status = child.wait().unwrap();
    drop(done);
    watchdog.join().unwrap();
    assert!(status.success(), "{words:?}: {status}\n{stdout}\n{stderr}");
    Output {
        status,
        stdout: stdout.into_bytes(),
        stderr: stderr.into_bytes(),
    }
}

/// What a client printed, line by line.
pub fn json(output: &Output) -> Vec<serde_json::Value> {
    let text = str::from_utf8(&output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Whether the words of `world` work here. Says so if they do not.
pub fn world_is_possible(world: &[&str]) -> bool {
    let Some((program, args)) = world.split_first() else {
        return true;
    };
    let tried = Command::new(program)
        .args(args)
        .arg("true")
        .stdin(Stdio::null())
        .output();
    let possible = tried.as_ref().is_ok_and(|output| output.status.success());
    if !possible {
        eprintln!("SKIPPED: `{}` is not possible here: {tried:?}", world.join(" "));
    }
    possible
}
