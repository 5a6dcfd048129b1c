//! A server process, what it says on standard error, and a reader of its stream.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use lapwing::discovery::{Info, Trust, read};
use lapwing::segment::AttachError;
use lapwing::{Incarnation, Join, Poll, Segment, Subscriber};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// How long anything may take before a test fails.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// A server that was started, and is killed if it still runs when this is dropped.
pub struct Running {
    child: Child,
    stderr: Receiver<String>,
    /// What it said so far.
    pub said: Vec<String>,
}

/// What was left of a server.
pub struct Gone {
    pub status: ExitStatus,
    /// All that it said on standard error.
    pub said: String,
}

/// A server's command line, to be added to.
pub fn command(info_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.arg("--info-dir").arg(info_dir);
    command
}

/// Runs `command` and waits until it has ended by itself.
pub fn run(mut command: Command) -> Gone {
    command.stdin(Stdio::null());
    Running::spawn(command).wait()
}

/// A server with these arguments whose standard input is at its end, once it is announced.
pub fn start(info_dir: &Path, arguments: &[&str]) -> Running {
    let mut command = command(info_dir);
    command.args(arguments).stdin(Stdio::null());
    Running::announced(command)
}

/// The same, with its standard input to write to.
pub fn start_with_input(info_dir: &Path, arguments: &[&str]) -> (Running, ChildStdin) {
    let mut command = command(info_dir);
    command.args(arguments).stdin(Stdio::piped());
    let mut server = Running::announced(command);
    let input = server.take_input();
    (server, input)
}

impl Running {
    pub fn spawn(mut command: Command) -> Self {
        command.stderr(Stdio::piped());
        let mut server = Self::unheard(command);
        let pipe = server.child.stderr.take().unwrap();
        server.listen(pipe);
        server
    }

    /// Starts `command`, to which nobody listens yet.
    pub fn unheard(mut command: Command) -> Self {
        Self {
            child: command.stdout(Stdio::null()).spawn().unwrap(),
            stderr: channel().1,
            said: Vec::new(),
        }
    }

    /// Listens from now on to what it says into `pipe`.
    pub fn listen(&mut self, pipe: impl Read + Send + 'static) {
        let lines = BufReader::new(pipe).lines();
        let (sender, stderr) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        self.stderr = stderr;
    }

    /// Starts `command` and waits until it says that it is announced.
    pub fn announced(command: Command) -> Self {
        let mut server = Self::spawn(command);
        server.wait_to_hear("is announced in");
        server.wait_to_hear("slots of");
        server
    }

    /// Waits until a line that holds `text` is said. Returns it.
    pub fn wait_to_hear(&mut self, text: &str) -> String {
        loop {
            let line = self.stderr.recv_timeout(WATCHDOG);
            let line = line.unwrap_or_else(|_| panic!("never said {text:?}, only {:?}", self.said));
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits until a line that holds `text` is said, or it says nothing any more. Returns whether it was said.
    pub fn says(&mut self, text: &str) -> bool {
        loop {
            match self.stderr.recv_timeout(WATCHDOG) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => panic!("it neither said {text:?} nor ended: {:?}", self.said),
            }
            if self.said.last().is_some_and(|line| line.contains(text)) {
                return true;
            }
        }
    }

    /// Its standard input.
    pub fn take_input(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Where it said that its info file is.
    pub fn info_path(&self) -> PathBuf {
        let line = self.said.iter().find(|line| line.contains("is announced in")).unwrap();
        let path = line.split("is announced in ").nth(1).unwrap();
        path.split(": ").next().unwrap().into()
    }

    pub fn info(&self) -> Info {
        read(&self.info_path(), &Trust::default()).unwrap().info
    }

    pub fn name(&self) -> String {
        self.info().name.to_string()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Sends `signal` and waits for the end.
    pub fn end_by(self, signal: Signal) -> Gone {
        self.signal(signal);
        self.wait()
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Gone {
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty()).unwrap();
        let timeout = Timespec::try_from(WATCHDOG).unwrap();
        let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        assert_eq!(
            poll(&mut fds, Some(&timeout)),
            Ok(1),
            "it does not end: {:?}",
            self.said
        );
        let status = self.child.wait().unwrap();
        while let Ok(line) = self.stderr.recv_timeout(WATCHDOG) {
            self.said.push(line);
        }
        Gone {
            status,
            said: self.said.join("\n"),
        }
    }

    /// A reader of all that is retained.
    pub fn reader(&self) -> Reader {
        Reader::of(&self.info_path())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a server's stream, from which nothing may be missing.
pub struct Reader(Subscriber);

/// The tag and the bytes of a message.
pub type Message = (u64, Vec<u8>);

impl Reader {
    /// A reader of all that the server with that info file retains.
    pub fn of(info_path: &Path) -> Self {
        let found = read(info_path, &Trust::default()).unwrap();
        let id = found.info.shared_memory.as_ref().unwrap().id;
        let subscriber = Subscriber::attach(id, found.info.incarnation, Some(found.owner_uid), Join::Oldest);
        Self(subscriber.unwrap())
    }

    /// The next message, or `None` at the end of the stream.
    pub fn next(&mut self) -> Option<Message> {
        let deadline = Instant::now() + WATCHDOG;
        let mut payload = Vec::new();
        while Instant::now() < deadline {
            let outcome = self.0.receive(Duration::from_secs(1), |view| {
                payload.clear();
                view.append_to(&mut payload);
            });
            match outcome {
                Poll::Message(message) => return Some((message.tag, payload)),
                Poll::Empty => {}
                Poll::Ended => return None,
                other => panic!("{other:?}"),
            }
        }
        panic!("no message came")
    }

    /// The next message as text.
    pub fn next_text(&mut self) -> String {
        let (_, payload) = self.next().expect("the stream goes on");
        String::from_utf8(payload).unwrap()
    }

    /// The next `count` messages as texts.
    pub fn next_texts(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.next_text()).collect()
    }

    /// The sequence that is read next.
    pub fn cursor(&self) -> u64 {
        self.0.cursor()
    }
}

/// The segment of a server that runs.
pub fn segment_of(server: &Running) -> (i32, Incarnation) {
    let info = server.info();
    (info.shared_memory.unwrap().id, info.incarnation)
}

/// Checks that the kernel has freed the segment.
pub fn assert_freed((id, incarnation): (i32, Incarnation)) {
    match Segment::attach(id) {
        Err(AttachError::Missing { .. }) => {}
        // The id may be another's by now.
        Ok(segment) => assert_ne!(
            segment.header().incarnation(),
            incarnation,
            "the segment is still there"
        ),
        Err(error) => panic!("{error}"),
    }
}

/// Writes `text` to `input` at once.
pub fn type_in(input: &mut ChildStdin, text: &[u8]) {
    input.write_all(text).unwrap();
    input.flush().unwrap();
}
