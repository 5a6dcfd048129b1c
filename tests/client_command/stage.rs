//! Real servers and clients for the tests: started in a directory of their own, waited for by what they do, each wait
//! with a limit, and killed by their handles when the test is over, however it ends.

use std::fs::{self, DirEntry};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lapwing::discovery::{self, Trust};
use lapwing::{Join, Subscriber};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for anything that should happen at once, on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory for info files.
pub struct Stage(TempDir);

impl Stage {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn info(&self) -> PathBuf {
        self.0.path().join("info")
    }

    /// A file beside the info files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Starts a server that publishes what it is given, and waits until it is announced.
    pub fn server(&self, name: &str, options: &[&str]) -> Server {
        Server::start(&self.info(), name, options)
    }

    /// Starts a server that has published `lines` and serves on.
    pub fn server_of(&self, name: &str, lines: &[&str]) -> Server {
        let mut server = self.server(name, &[]);
        server.publish(lines);
        server.wait_for(lines.len() as u64);
        server
    }

    /// Attaches the segment of a server, which then lasts as long as what is returned.
    pub fn attach(&self, name: &str) -> Subscriber {
        let path = self.info().join(format!("{name}.toml"));
        let found = discovery::read(&path, &Trust::default()).unwrap();
        Subscriber::open(&found, Join::New).unwrap()
    }

    /// Starts a client on the directory.
    pub fn client(&self, options: &str) -> Client {
        Client::start(&[self.info()], options)
    }

    /// Runs a client on the directory to its end.
    pub fn run(&self, options: &str) -> Finished {
        self.client(options).finish()
    }
}

/// A running `server`; killed when dropped.
pub struct Server {
    child: Child,
    input: Option<ChildStdin>,
    info: PathBuf,
    name: String,
}

impl Server {
    fn start(info: &Path, name: &str, options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_server"))
            .args(["--name", name, "--info-dir"])
            .arg(info)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let errors = lines_of(child.stderr.take().unwrap());
        let server = Self {
            child,
            input,
            info: info.to_owned(),
            name: name.to_owned(),
        };
        let first = errors
            .recv_timeout(PATIENCE)
            .expect("the server tells that it is announced");
        assert!(first.contains("is announced"), "{first}");
        server
    }

    /// Publishes lines.
    pub fn publish(&mut self, lines: &[&str]) {
        let input = self.input.as_mut().expect("the input was not ended");
        for line in lines {
            writeln!(input, "{line}").unwrap();
        }
        input.flush().unwrap();
    }

    /// Publishes bytes that may hold anything.
    pub fn publish_bytes(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("the input was not ended");
        input.write_all(bytes).unwrap();
        input.flush().unwrap();
    }

    /// Waits until it has published `count` messages.
    pub fn wait_for(&self, count: u64) {
        let wanted = format!("--follow --from oldest -n {count} --format raw --name {}", self.name);
        Client::start(std::slice::from_ref(&self.info), &wanted)
            .finish()
            .expect(0);
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitStatus {
        wait_for_end(&mut self.child);
        self.child.wait().unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills it as nothing can be prepared for.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A running `client`; killed when dropped.
pub struct Client {
    child: Child,
    output: Option<Receiver<String>>,
    errors: Receiver<String>,
}

/// A client that has ended, and what it wrote.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub output: Vec<String>,
    pub errors: Vec<String>,
    /// The time that it spent on a CPU, all threads together.
    pub cpu: Duration,
}

impl Client {
    pub fn start(paths: &[PathBuf], options: &str) -> Self {
        let mut client = Self::start_into(paths, options, Stdio::piped());
        let output = client.child.stdout.take().unwrap();
        client.output = Some(lines_of(output));
        client
    }

    /// Starts a client that writes to `output`.
    pub fn start_into(paths: &[PathBuf], options: &str, output: Stdio) -> Self {
        Self::start_telling(paths, options, output, Stdio::piped())
    }

    /// Starts a client that writes to `output`, and what else there is to tell to `errors`.
    pub fn start_telling(paths: &[PathBuf], options: &str, output: Stdio, errors: Stdio) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_client"))
            .args(paths)
            .args(options.split_whitespace())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap();
        let errors = child.stderr.take().map_or_else(|| channel().1, lines_of);
        Self {
            child,
            output: None,
            errors,
        }
    }

    /// The next line that it writes.
    pub fn line(&self) -> String {
        let output = self.output.as_ref().expect("the output is a pipe");
        output.recv_timeout(PATIENCE).expect("the client writes another line")
    }

    /// The next line that it writes, as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    /// Reads JSON lines up to the next of type `kind`.
    pub fn json_of(&self, kind: &str) -> Value {
        loop {
            let value = self.json();
            if value["type"] == kind {
                return value;
            }
        }
    }

    /// Waits for a line on its standard error that contains `part`.
    pub fn error_with(&self, part: &str) -> String {
        loop {
            let line = self.errors.recv_timeout(PATIENCE).expect("the client tells of it");
            if line.contains(part) {
                return line;
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops it until SIGCONT. A signal takes its time to reach all threads: waits until it has.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let stopped = waitpid(Some(Pid::from_child(&self.child)), WaitOptions::UNTRACED).unwrap();
        assert!(stopped.unwrap().1.stopped());
    }

    /// Waits until it follows nobody any more: only its main thread is left, and the watch on the directory.
    pub fn wait_until_it_follows_nobody(&self) {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let entries = |part: &str| fs::read_dir(process.join(part)).unwrap();
        let is_watch = |entry: io::Result<DirEntry>| {
            let target = entry.and_then(|entry| fs::read_link(entry.path()));
            target.is_ok_and(|target| target == Path::new("anon_inode:inotify"))
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (threads, watches) = (
                entries("task").count(),
                entries("fd").map(is_watch).filter(|is| *is).count(),
            );
            if (threads, watches) == (1, 1) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{threads} threads and {watches} watches are left"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Finished {
        let output = self.output.take();
        wait_for_end(&mut self.child);
        let cpu = cpu_time(&self.child);
        Finished {
            code: self.child.wait().unwrap().code(),
            cpu,
            output: output.iter().flat_map(|output| output.iter()).collect(),
            errors: self.errors.iter().collect(),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Finished {
    /// Takes it if it ended with that code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// What it wrote, as JSON.
    pub fn json(&self) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str(line).unwrap();
        self.output.iter().map(parse).collect()
    }

    /// Its JSON lines of type `kind`.
    pub fn json_of(&self, kind: &str) -> Vec<Value> {
        self.json().into_iter().filter(|value| value["type"] == kind).collect()
    }

    /// Its standard error as one text.
    pub fn told(&self) -> String {
        self.errors.join("\n")
    }
}

/// Kills a process that may have ended already.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits for the end of a process that should end by itself, and leaves it for `wait` to take away.
fn wait_for_end(child: &mut Child) {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let limit = Timespec::try_from(PATIENCE).unwrap();
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).unwrap();
    if ended == 0 {
        end(child);
        panic!("a process did not end within {PATIENCE:?}");
    }
}

/// The time that an ended process spent on a CPU (proc(5), `stat`).
fn cpu_time(child: &Child) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap());
    Duration::from_secs(ticks.sum()) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap()
}

/// The lines of a pipe, read by a thread so that its writer never waits.
fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    let _: JoinHandle<()> = thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line);
            // Once the test needs no more lines, the rest is read and dropped.
            let _ = sender.send(text.trim_end_matches('\n').to_owned());
            line.clear();
        }
    });
    receiver
}
