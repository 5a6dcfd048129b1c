//! The conducting process: starts the others, gives them a hard time, and judges what they say.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Args;
use crate::account::Report;
use crate::audit::{self, Holdings};
use crate::class::{Class, Habit};
use crate::score::Score;

/// Time between two things that are done to readers.
const TURN: Duration = Duration::from_millis(250);
/// Turns between two kills.
const KILL_TURNS: usize = 4;

pub fn run(args: &Args) -> ExitCode {
    match Conductor::new(args).and_then(Conductor::conduct) {
        Ok(score) => {
            println!("{score}");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("soak: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// A process that is conducted. It does not outlive this.
struct Member {
    child: Child,
    /// Open for as long as it shall go on.
    stdin: Option<ChildStdin>,
    is_stopped: bool,
}

/// What is heard of a process: a report, or `None` at its end.
type Line = (u32, Option<Report>);

impl Member {
    fn start(command: &mut Command, lines: Sender<Line>) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("a process cannot be started: {error}"))?;
        let process = child.id();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // A line that was cut short by a kill says nothing.
                if let Ok(report) = serde_json::from_str(&line) {
                    let _ = lines.send((process, Some(report)));
                }
            }
            let _ = lines.send((process, None));
        });
        Ok(Self {
            stdin: child.stdin.take(),
            child,
            is_stopped: false,
        })
    }

    fn is(&self, process: u32) -> bool {
        self.child.id() == process
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child that was not waited for can be signalled");
    }

    fn stop_or_continue(&mut self) {
        self.is_stopped = !self.is_stopped;
        self.signal(if self.is_stopped { Signal::STOP } else { Signal::CONT });
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Conductor<'a> {
    args: &'a Args,
    directory: TempDir,
    speak: Sender<Line>,
    hear: Receiver<Line>,
    readers: Vec<Member>,
    publisher: Option<Member>,
    announced: Option<String>,
    published: Option<Report>,
    /// Why readers have not found the server, where they said so.
    searching: HashMap<u32, String>,
    score: Score,
    holdings: Holdings,
    turns: usize,
}

impl<'a> Conductor<'a> {
    fn new(args: &'a Args) -> Result<Self, String> {
        let (speak, hear) = mpsc::channel();
        let mut conductor = Self {
            args,
            directory: tempfile::tempdir().map_err(|error| format!("no directory for the info file: {error}"))?,
            speak,
            hear,
            readers: Vec::new(),
            publisher: None,
            announced: None,
            published: None,
            searching: HashMap::new(),
            score: Score::default(),
            holdings: Holdings::new(args.ring_size.len()),
            turns: 0,
        };
        for index in 0..args.readers {
            let reader = conductor.start_reader(index)?;
            conductor.readers.push(reader);
        }
        Ok(conductor)
    }

    fn start(&self, role: &str, arguments: &[String]) -> Result<Member, String> {
        let mut command = Command::new(env::current_exe().map_err(|error| format!("who am I? {error}"))?);
        command.arg(role).arg(self.directory.path()).args(arguments);
        if let Some(sabotage) = self.args.sabotage {
            command.args(["--sabotage", &sabotage.name()]);
        }
        Member::start(&mut command, self.speak.clone())
    }

    fn start_reader(&self, index: usize) -> Result<Member, String> {
        self.start("read", &[index.to_string(), self.args.rate.to_string()])
    }

    fn conduct(mut self) -> Result<Score, String> {
        let end = Instant::now() + self.args.time;
        let rings = self.args.ring_size.clone();
        for &ring_bytes in rings.iter().cycle() {
            self.life(ring_bytes, end)?;
            if Instant::now() >= end {
                break;
            }
        }
        for reader in &mut self.readers {
            reader.stdin = None;
        }
        let deadline = Instant::now() + self.args.patience;
        for index in 0..self.readers.len() {
            while !self.has_left(index)? {
                self.listen(Instant::now() + TURN)?;
                if Instant::now() >= deadline {
                    return Err(self.stuck(index, "does not end"));
                }
            }
        }
        audit::is_empty(self.directory.path())?;
        Ok(self.score)
    }

    /// One life of the server, on a ring of this size.
    fn life(&mut self, ring_bytes: u64, end: Instant) -> Result<(), String> {
        let start = Instant::now();
        (self.announced, self.published) = (None, None);
        let patience = format!("{} ms", self.args.patience.as_millis());
        let publisher = self.start(
            "publish",
            &[ring_bytes.to_string(), self.args.rate.to_string(), patience],
        )?;
        let publisher = self.publisher.insert(publisher);
        let process = publisher.child.id();
        let round_end = (start + self.args.round).min(end);
        while Instant::now() < round_end {
            self.disturb()?;
            self.listen((Instant::now() + TURN).min(round_end))?;
        }
        self.end_life()?;
        let (
            Some(incarnation),
            Some(Report::Published {
                messages: published,
                bytes,
                drained,
            }),
        ) = (self.announced.take(), self.published.take())
        else {
            return Err("stuck: the publisher ended without a word".to_owned());
        };
        let before = self.score.received();
        self.score.close(&incarnation, published, bytes)?;
        if self.score.torn() > 0 {
            return Err(format!(
                "torn: {} messages, in this score:\n{}",
                self.score.torn(),
                self.score
            ));
        }
        let deadline = Instant::now() + self.args.patience;
        while audit::segments_of(process) > 0 {
            if Instant::now() >= deadline {
                return Err(format!("leak: the segment of process {process} is still there"));
            }
            self.listen(Instant::now() + TURN)?;
        }
        if !drained {
            return Err("leak: a connection is still open".to_owned());
        }
        eprintln!(
            "life {}: ring of {ring_bytes} bytes, {published} messages of {bytes} bytes published, {} received, {} s",
            self.score.lives(),
            self.score.received() - before,
            start.elapsed().as_secs()
        );
        Ok(())
    }

    /// Lets the publisher end the stream, and waits until everybody has read it to the end.
    fn end_life(&mut self) -> Result<(), String> {
        for reader in &mut self.readers {
            if reader.is_stopped {
                reader.stop_or_continue();
            }
        }
        // Who comes only now may find the server gone: everybody must have begun.
        self.wait_for_readers("has not begun", |_| true)?;
        if let Some(publisher) = &mut self.publisher {
            publisher.stdin = None;
        }
        self.wait_for_readers("has not read to the end", |account| account.has_ended)?;
        // It waits for everybody to leave, for so long itself.
        let deadline = Instant::now() + 2 * self.args.patience;
        loop {
            let publisher = self.publisher.as_mut().expect("it was started");
            let status = publisher
                .child
                .try_wait()
                .map_err(|error| format!("publisher: {error}"))?;
            match status {
                Some(status) if !status.success() => return Err(format!("the publisher ended with {status}")),
                Some(_) if self.published.is_some() => return Ok(()),
                _ if Instant::now() >= deadline => return Err("stuck: the publisher does not end".to_owned()),
                _ => self.listen(Instant::now() + TURN)?,
            }
        }
    }

    /// Waits until each reader has an account of this life that is as it should be.
    fn wait_for_readers(&mut self, what: &str, is_so: impl Fn(&crate::account::Account) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + self.args.patience;
        for index in 0..self.readers.len() {
            loop {
                let account = self.announced.as_deref().and_then(|incarnation| {
                    let process = self.readers[index].child.id();
                    self.score.account(process, incarnation)
                });
                if account.is_some_and(&is_so) {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(self.stuck(index, what));
                }
                self.listen(Instant::now() + TURN)?;
            }
        }
        Ok(())
    }

    fn stuck(&self, index: usize, what: &str) -> String {
        let process = self.readers[index].child.id();
        let account = self
            .announced
            .as_deref()
            .and_then(|life| self.score.account(process, life));
        format!(
            "stuck: reader {index} ({:?}) {what}; {account:?}; it searched last because: {:?}",
            Class::of(index),
            self.searching.get(&process)
        )
    }

    /// Does something to one of the readers that this is done to, and now and then to one of those that are killed.
    fn disturb(&mut self) -> Result<(), String> {
        let of = |habit| (0..self.args.readers).filter(move |&index| Class::of(index).habit == habit);
        let (frozen, mortal): (Vec<_>, Vec<_>) = (of(Habit::Frozen).collect(), of(Habit::Mortal).collect());
        self.turns += 1;
        if !frozen.is_empty() {
            self.readers[frozen[self.turns % frozen.len()]].stop_or_continue();
        }
        if !mortal.is_empty() && self.turns.is_multiple_of(KILL_TURNS) {
            let index = mortal[self.turns / KILL_TURNS % mortal.len()];
            // The old one is killed as it is replaced.
            self.readers[index] = self.start_reader(index)?;
        }
        Ok(())
    }

    /// Hears what is said until then, and fails at the first fault.
    fn listen(&mut self, until: Instant) -> Result<(), String> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.hear.recv_timeout(left) {
                Ok((process, report)) => self.heed(process, report)?,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => unreachable!("this process may speak itself"),
            }
        }
    }

    fn heed(&mut self, process: u32, report: Option<Report>) -> Result<(), String> {
        let reader = self.readers.iter().position(|reader| reader.is(process));
        match (report, reader) {
            (Some(Report::Announced(incarnation)), _) => self.announced = Some(incarnation),
            (Some(published @ Report::Published { .. }), _) => self.published = Some(published),
            (Some(Report::Searching(reason)), _) => drop(self.searching.insert(process, reason)),
            (Some(Report::Account(account)), Some(index)) => self.score.note(process, Class::of(index), account)?,
            (Some(Report::Holds { descriptors, memory }), Some(index)) => self
                .holdings
                .note(process, descriptors, memory)
                .map_err(|fault| format!("{fault} (reader {index})"))?,
            (Some(Report::Fault(fault)), index) => {
                return Err(format!("{fault} (reader {index:?}, process {process})"));
            }
            (None, Some(index)) if self.readers[index].stdin.is_some() => {
                return Err(format!("gone: reader {index} ended on its own"));
            }
            (None, None)
                if self
                    .publisher
                    .as_ref()
                    .is_some_and(|member| member.is(process) && member.stdin.is_some()) =>
            {
                return Err("gone: the publisher ended on its own".to_owned());
            }
            // The last words of one that was killed, or an end that was asked for.
            _ => {}
        }
        Ok(())
    }

    fn has_left(&mut self, index: usize) -> Result<bool, String> {
        match self.readers[index].child.try_wait() {
            Ok(None) => Ok(false),
            Ok(Some(status)) if status.success() => Ok(true),
            other => Err(format!("reader {index} ended with {other:?}")),
        }
    }
}
