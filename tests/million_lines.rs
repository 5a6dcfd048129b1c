//! A file of a million lines from one end to the other: through shared memory, through the socket, and through both at
//! once, byte for byte what went in.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use lapwing::discovery::{Trust, read};
use lapwing::segment::status;
use lapwing::{Join, RemoteSubscriber};

const LINES: u64 = 1_000_000;
/// Long enough for anything here; a test that needs it has failed.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Writes lines of many lengths, empty ones and ones longer than a slot among them.
fn write_input(path: &Path) {
    let mut out = BufWriter::new(File::create(path).unwrap());
    for line in 0..LINES {
        let len = match line % 1000 {
            0 => 0,
            1 => 3000,
            other => other % 90,
        };
        let text = format!("{line:0width$}\n", width = usize::try_from(len).unwrap());
        let text = if len == 0 { "\n" } else { &text };
        out.write_all(text.as_bytes()).unwrap();
    }
    out.flush().unwrap();
}

/// A child that does not outlive the test.
struct Running {
    child: Child,
    what: &'static str,
}

impl Running {
    fn start(what: &'static str, command: &mut Command) -> Self {
        Self {
            child: command.spawn().unwrap(),
            what,
        }
    }

    /// Waits until it is done, and kills it when it takes too long.
    fn finish(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let (done, watched) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if watched.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        });
        let status = self.child.wait().unwrap();
        drop(done);
        watchdog.join().unwrap();
        assert!(status.success(), "{}: {status}", self.what);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It is gone already if the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a mapping and a connection besides one's own lead to the server.
fn wait_for_followers(path: &Path) {
    let deadline = Instant::now() + WATCHDOG;
    let is_followed = || -> Option<bool> {
        let info = read(path, &Trust::default()).ok()?.info;
        let mappings = status(info.shared_memory?.id).ok()?.attached;
        let addresses = info.socket?.addresses;
        let look = RemoteSubscriber::connect(&addresses, info.incarnation, Join::New, WATCHDOG).ok()?;
        Some(mappings > 1 && look.hello().connections > 1)
    };
    while is_followed() != Some(true) {
        assert!(Instant::now() < deadline, "nobody follows");
        thread::yield_now();
    }
}

/// Whether two files hold the same bytes; read in pieces, since a diff of a million lines helps nobody.
fn assert_same(expected: &Path, found: &Path) {
    let (mut expected, mut found) = (File::open(expected).unwrap(), File::open(found).unwrap());
    assert_eq!(
        expected.metadata().unwrap().len(),
        found.metadata().unwrap().len(),
        "lengths differ"
    );
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = expected.read(&mut a).unwrap();
        if count == 0 {
            return;
        }
        found.read_exact(&mut b[..count]).unwrap();
        assert!(a[..count] == b[..count], "the bytes differ");
    }
}

#[test]
fn a_million_lines_arrive_byte_for_byte_over_either_transport() {
    let dir = tempfile::tempdir().unwrap();
    let (input, info) = (dir.path().join("input"), dir.path().join("info"));
    write_input(&input);

    let follow = |transport: &'static str| {
        let output = dir.path().join(transport);
        let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
        command
            .arg(&info)
            .args([
                "--follow",
                "--from",
                "oldest",
                "--exit-at-end",
                "--fail-on-gap",
                "--format",
                "raw",
            ])
            .args(["--transport", transport])
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap());
        (Running::start(transport, &mut command), output)
    };
    // The ring takes the whole file, so that nobody has to be fast.
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command
        .args([
            "--name",
            "million",
            "--ring-size",
            "128M",
            "--slots",
            "2M",
            "--exit-at-end",
            "--linger",
            "100s",
        ])
        .arg("--info-dir")
        .arg(&info)
        .stdin(Stdio::piped());
    let mut server = Running::start("server", &mut command);
    let followers = ["shm", "socket"].map(follow);

    wait_for_followers(&info.join("million.toml"));
    let mut stdin = server.child.stdin.take().unwrap();
    std::io::copy(&mut File::open(&input).unwrap(), &mut stdin).unwrap();
    drop(stdin);

    for (follower, output) in followers {
        follower.finish();
        assert_same(&input, &output);
    }
    server.finish();
    assert_eq!(
        std::fs::read_dir(&info).unwrap().count(),
        0,
        "something was left in the info directory"
    );
}
