//! The commands as processes in worlds of their own: namespaces, limits, other users. Each wait has a limit, and what was
//! started is killed with its whole process group when the test is over, however it ends.

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use serde_json::Value;

/// Longest wait for anything, on a machine that has much else to do. A test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A command line.
pub type Words = Vec<String>;

/// The command line of a server in `directory`.
pub fn server(directory: &Path, name: &str, options: &str) -> Words {
    let directory = directory.display().to_string();
    let words = [env!("CARGO_BIN_EXE_server"), "--name", name, "--info-dir", &directory];
    join(&words, options)
}

/// The command line of a server that publishes one message and leaves at once.
pub fn brief_server(directory: &Path, options: &str) -> Words {
    server(
        directory,
        "brief",
        &format!("--message x --count 1 --exit-at-end --linger 0s {options}"),
    )
}

/// The command line of a client that looks at `path`. A look that ends when all have answered may take its time, unless
/// `options` say how long.
pub fn client(path: &Path, options: &str) -> Words {
    let command = [env!("CARGO_BIN_EXE_client"), &path.display().to_string()];
    if options.contains("--follow") || options.contains("--timeout") {
        join(&command, options)
    } else {
        join(&command, &format!("{options} --timeout 100s"))
    }
}

fn join(words: &[&str], options: &str) -> Words {
    let words = words.iter().copied().chain(options.split_whitespace());
    words.map(str::to_owned).collect()
}

/// The words of a world, behind which a command runs in it: a program and its arguments, none for this world.
pub fn world(words: &str) -> Words {
    join(&[], words)
}

/// A world in which `script` runs before the command. What the script refuses, no command is started behind.
pub fn set_up(words: &str, script: &str) -> Words {
    let mut world = world(words);
    world.extend(["sh", "-c", &format!("set -e; {script}\nexec \"$@\""), "sh"].map(str::to_owned));
    world
}

/// `command` behind the words of `world`.
pub fn within(world: &[String], command: Words) -> Words {
    world.iter().cloned().chain(command).collect()
}

/// Says why a test is skipped, past the capture of its output.
pub fn skip(why: impl Debug) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    writeln!(std::io::stderr().lock(), "SKIPPED {test}: {why:?}").unwrap();
}

/// Whether `world` can be had here. Says so if not.
pub fn is_possible(world: &[String]) -> bool {
    let ended = Process::start(&within(world, vec!["true".to_owned()])).finish();
    let possible = ended.code == Some(0);
    if !possible {
        skip((world, ended.errors));
    }
    possible
}

/// Whether this is root. Says so if not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// A running process; killed when dropped.
pub struct Process {
    child: Child,
    output: Receiver<String>,
    errors: Receiver<String>,
}

/// A process that has ended, and what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// `None` if a signal killed it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub output: Vec<String>,
    pub errors: Vec<String>,
}

impl Process {
    pub fn start(words: &[String]) -> Self {
        Self::start_with(words, &[])
    }

    /// Starts a process with more variables in its environment.
    pub fn start_with(words: &[String], variables: &[(&str, &Path)]) -> Self {
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        Self {
            output: lines_of(child.stdout.take().unwrap()),
            errors: lines_of(child.stderr.take().unwrap()),
            child,
        }
    }

    /// Starts a server and waits until it is announced.
    pub fn announced(words: &[String]) -> Self {
        Self::announced_with(words, &[])
    }

    pub fn announced_with(words: &[String], variables: &[(&str, &Path)]) -> Self {
        let server = Self::start_with(words, variables);
        server.error_with("is announced in");
        server
    }

    /// The next line on its standard output, as JSON.
    pub fn json(&self) -> Value {
        let line = self.output.recv_timeout(PATIENCE).expect("it writes another line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next line that does not tell whether the server hangs, which it may seem to on a busy machine, as JSON.
    pub fn json_but_for_pauses(&self) -> Value {
        loop {
            let value = self.json();
            if value["type"] != "hung" && value["type"] != "recovered" {
                return value;
            }
        }
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
        self.errors_up_to(part).pop().unwrap()
    }

    /// The lines on its standard error up to the next that contains `part`.
    pub fn errors_up_to(&self, part: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.errors.recv_timeout(PATIENCE) {
                Ok(line) => lines.push(line),
                Err(error) => panic!("nothing like {part:?}: {error} after {lines:#?}"),
            }
            if lines.last().is_some_and(|line| line.contains(part)) {
                return lines;
            }
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it by SIGTERM.
    pub fn stop(self) -> Finished {
        self.signal(Signal::TERM);
        self.finish()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Finished {
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).unwrap();
        let limit = Timespec::try_from(PATIENCE).unwrap();
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).unwrap();
        assert_ne!(ended, 0, "a process did not end within {PATIENCE:?}");
        let status = self.child.wait().unwrap();
        Finished {
            code: status.code(),
            signal: status.signal(),
            output: rest(&self.output),
            errors: rest(&self.errors),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
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
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
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

/// Runs a command to its end.
pub fn run(words: &[String]) -> Finished {
    Process::start(words).finish()
}

/// Waits until `is_so`.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what} takes too long");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The lines of a pipe, read by a thread so that its writer never waits.
fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line);
            // Once the test needs no more lines, the rest is read and dropped.
            let _ = sender.send(text.strip_suffix('\n').unwrap_or(&text).to_owned());
            line.clear();
        }
    });
    receiver
}

/// What is left in a pipe that ends.
fn rest(lines: &Receiver<String>) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => all.push(line),
            Err(RecvTimeoutError::Disconnected) => return all,
            Err(RecvTimeoutError::Timeout) => panic!("somebody keeps a pipe open; so far it has {all:#?}"),
        }
    }
}
