//! Servers and clients as processes in a directory of their own, ended by their handles whatever becomes of the test.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lapwing::discovery::{Found, Trust, read};
use lapwing::probe::{ProbeOptions, Report, probe};
use lapwing::socket::frame::Offer;
use lapwing::{Join, LosslessSubscriber};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for anything that should happen, on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A process, killed when it is dropped, and what it says on standard error.
pub struct Running {
    child: Child,
    errors: Receiver<String>,
    pub said: Vec<String>,
}

impl Running {
    /// Starts `words`.
    pub fn start(words: &[String], stdin: Stdio, stdout: Stdio) -> Self {
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, errors) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self {
            child,
            errors,
            said: Vec::new(),
        }
    }

    /// Takes note of what it has said so far, so that what is heard next is new.
    pub fn catch_up(&mut self) {
        self.said.extend(self.errors.try_iter());
    }

    /// Waits for a line on standard error with all these parts.
    #[track_caller]
    pub fn hear(&mut self, parts: &[&str]) -> String {
        self.hear_before(parts, |_| false)
    }

    /// The same, in vain once a line comes that `is_late`: what is waited for would have been said before.
    #[track_caller]
    pub fn hear_before(&mut self, parts: &[&str], is_late: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.errors.recv_timeout(left) else {
                panic!("never said {parts:?}, but {:#?}", self.said)
            };
            // A line that is there is given also when no time is left.
            assert!(Instant::now() < deadline, "never said {parts:?}, but {:#?}", self.said);
            self.said.push(line.clone());
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
            assert!(!is_late(&line), "not said {parts:?} before {line}");
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// How the server names it.
    pub fn who(&self) -> String {
        format!("process {} at ", self.child.id())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stops it until SIGCONT. A signal takes its time to reach all threads: waits until it has.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let stopped = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap();
        assert!(stopped.unwrap().1.stopped());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let process = pidfd_open(self.pid(), PidfdFlags::empty()).unwrap();
        let limit = Timespec::try_from(PATIENCE).unwrap();
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ended, 1, "it does not end, and says {:#?}", self.said);
        let status = self.child.wait().unwrap();
        self.said.extend(self.errors.iter());
        status
    }

    pub fn end_by(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless the test failed, or has no more use for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `server`, announced as `orders`.
pub struct Server {
    pub process: Running,
    pub input: Option<ChildStdin>,
    directory: Arc<TempDir>,
}

impl Server {
    pub fn start(options: &str) -> Self {
        Self::start_in(&[], &directory(), options)
    }

    /// Starts the next server of the same name and directory.
    pub fn start_again(&self, options: &str) -> Self {
        Self::start_in(&[], &self.directory, options)
    }

    /// Starts one behind the words of `world`.
    pub fn start_in(world: &[&str], directory: &Arc<TempDir>, options: &str) -> Self {
        let info = directory.path().join("info").display().to_string();
        let command = [env!("CARGO_BIN_EXE_server"), "--name", "orders", "--info-dir", &info];
        let words = words(world, &command, options);
        let mut process = Running::start(&words, Stdio::piped(), Stdio::null());
        let input = process.child.stdin.take();
        process.hear(&["is announced in"]);
        Self {
            process,
            input,
            directory: directory.clone(),
        }
    }

    pub fn info(&self) -> PathBuf {
        self.directory.path().join("info")
    }

    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub fn found(&self) -> Found {
        read(&self.info().join("orders.toml"), &Trust::default()).unwrap()
    }

    /// A `client` of it, behind the words of `world`.
    pub fn client(&self, world: &[&str], options: &str) -> Client {
        self.client_from(world, env!("CARGO_BIN_EXE_client"), options)
    }

    pub fn client_from(&self, world: &[&str], program: &str, options: &str) -> Client {
        let info = self.info().display().to_string();
        let words = words(world, &[program, &info], options);
        let mut process = Running::start(&words, Stdio::null(), Stdio::piped());
        let output = process.child.stdout.take();
        Client { process, output }
    }

    pub fn look(&self) -> Report {
        let options = ProbeOptions {
            deadline: Instant::now() + PATIENCE,
            last: 1,
        };
        probe(&self.found(), &options)
    }

    /// Looks until it is as wanted.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut wanted: impl FnMut(&Report, &Offer) -> bool) -> Report {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.look();
            if report.offer.as_ref().is_some_and(|offer| wanted(&report, offer)) {
                return report;
            }
            assert!(Instant::now() < deadline, "{what}: {report:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until somebody called `who` holds it up. Returns how many messages there are then.
    #[track_caller]
    pub fn wait_until_held_by(&self, who: &str) -> u64 {
        let is_held = |_: &Report, offer: &Offer| matches!(&offer.holder, Some((_, _, holder)) if holder.contains(who));
        self.wait_for("held up", is_held).head
    }

    /// Waits until nobody called `who`, whose process is gone, holds it up. The service has heard that a connection is
    /// over when it answers one that was made later, or nearly so: it must have found out after so many answers.
    #[track_caller]
    pub fn wait_until_left_by(&self, who: &str) {
        const MOST_ANSWERS: u32 = 200;
        let mut answers = 0;
        self.wait_for("left", |report, offer| {
            answers += 1;
            assert!(answers < MOST_ANSWERS, "{who} is gone and holds it up: {report:#?}");
            !matches!(&offer.holder, Some((_, _, holder)) if holder.contains(who))
        });
    }

    /// Waits until it has published more than `head` messages.
    #[track_caller]
    pub fn wait_until_beyond(&self, head: u64) {
        self.wait_for("goes on", |report, _| report.head > head);
    }

    /// A subscriber of this process.
    pub fn lossless(&self, join: Join) -> LosslessSubscriber {
        LosslessSubscriber::open(&self.found(), join, PATIENCE).unwrap()
    }
}

/// A directory that others may look into, too.
pub fn directory() -> Arc<TempDir> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    Arc::new(directory)
}

fn words(world: &[&str], command: &[&str], options: &str) -> Vec<String> {
    let options = options.split_whitespace();
    let words = world.iter().chain(command).copied().chain(options);
    words.map(str::to_owned).collect()
}

/// A `client`.
pub struct Client {
    pub process: Running,
    output: Option<ChildStdout>,
}

impl Client {
    /// Its standard output, which nobody has read so far.
    pub fn output(&mut self) -> ChildStdout {
        self.output.take().unwrap()
    }

    /// What it writes as JSON from now on, read as it comes.
    pub fn json(&mut self) -> Json {
        Json::of(self.output())
    }
}

/// JSON objects, a line each, read by a thread so that their writer never waits.
pub struct Json(Receiver<Value>);

impl Json {
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                // Once the test needs no more, the rest is read and dropped.
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self(receiver)
    }

    /// The next object, which nobody waits for any longer once `server` has ended.
    #[track_caller]
    pub fn expect_while_lives(&self, kind: &str, server: &mut Running) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_running = server.is_running();
            match self.0.recv_timeout(Duration::from_millis(100)) {
                Ok(value) => {
                    assert_eq!(value["type"], kind, "{value}");
                    return value;
                }
                Err(error) => assert!(is_running && Instant::now() < deadline, "no {kind}: {error}"),
            }
        }
    }

    /// The next object, or `None` at the end.
    pub fn next(&self) -> Option<Value> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(value) => Some(value),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[track_caller]
    pub fn expect(&self, kind: &str) -> Value {
        let value = self.next().unwrap_or_else(|| panic!("no {kind}"));
        assert_eq!(value["type"], kind, "{value}");
        value
    }
}

/// Whether the words of `world` work here. Says so if they do not.
pub fn world_is_possible(world: &[&str]) -> bool {
    let tried = Command::new(world[0])
        .args(&world[1..])
        .arg("true")
        .stdin(Stdio::null())
        .output();
    let possible = tried.as_ref().is_ok_and(|output| output.status.success());
    if !possible {
        eprintln!("SKIPPED: `{}` is not possible here: {tried:?}", world.join(" "));
    }
    possible
}
