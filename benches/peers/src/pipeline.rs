//! Lines that go through command lines: from `seq` into whatever writes, and out of whatever reads.
//!
//! ```text
//!   zeros until one comes out    |
//!   then seq 1 N           ---> writer | writer ---> broker ---> reader ---> counted here
//! ```

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{env, mem, thread};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::driver::{Guarded, Room, last_words, myself};

/// A way of lines through command lines. `{d}` in an argument is the directory of the run.
pub struct Pipeline {
    /// Its row: what somebody would type.
    pub name: &'static str,
    /// What was set, and in which version.
    pub settings: String,
    pub is_lossless: bool,
    /// A program that must run meanwhile, and a command that succeeds once it answers.
    pub broker: Option<(Vec<String>, Vec<String>)>,
    /// A file of the directory that some of them read.
    pub file: Option<(&'static str, &'static str)>,
    /// Each reads what the one before wrote.
    pub writers: Vec<Vec<String>>,
    pub reader: Vec<String>,
    /// The reader reads what the last writer wrote; else it finds the lines itself.
    pub is_joined: bool,
    /// Lines that the reader writes once it is there. If there are none, lines of a zero are sent until one comes out.
    pub greeting: usize,
    /// Of so many lines it gets one: all of them would take minutes.
    pub part: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Passed {
    /// From the start of `seq` to the last line.
    pub seconds: f64,
    pub sent: u64,
    pub arrived: u64,
}

impl Passed {
    /// Lines a second that arrived.
    pub fn per_second(&self) -> f64 {
        self.arrived as f64 / self.seconds
    }
}

/// Between two zeros.
const BEAT: Duration = Duration::from_millis(10);
/// How long nothing comes before it is over: once all lines were sent, and before.
const SILENCE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are read at a time.
const BUFFER: usize = 1 << 20;

impl Pipeline {
    /// The first of its programs that is not there.
    pub fn lacks(&self) -> Option<&str> {
        let brokers = self.broker.iter().flat_map(|(broker, check)| [broker, check]);
        let mut all = brokers.chain(&self.writers).chain([&self.reader]);
        all.find_map(|command| (!is_there(&command[0])).then_some(&*command[0]))
    }

    /// Sends its part of `lines` through it.
    ///
    /// # Errors
    /// If a program fails, or lines come out that were not sent, twice or out of order.
    pub fn run(&self, lines: u64) -> Result<Passed> {
        let room = Room::new()?;
        let (outcome, directory) = (self.run_in(room.path(), lines.div_ceil(self.part)), room.path());
        let programs = ["broker", "reader", "writer-0", "writer-1"].iter();
        outcome.map_err(
            |error| match programs.filter_map(|name| last_words(directory, name)).next() {
                Some(words) => error.context(words),
                None => error,
            },
        )
    }

    fn run_in(&self, directory: &Path, lines: u64) -> Result<Passed> {
        if let Some((name, text)) = self.file {
            fs::write(directory.join(name), placed(text, directory))?;
        }
        let mut broker = None;
        if let Some((program, check)) = &self.broker {
            broker = Some(start(program, directory, "broker", Stdio::null(), None)?);
            wait_for(check, directory)?;
        }
        let (mut input, feed) = io::pipe()?;
        let mut writers = Vec::new();
        for (index, writer) in self.writers.iter().enumerate() {
            let is_piped = index + 1 < self.writers.len() || self.is_joined;
            let (next, output) = io::pipe()?;
            let output = is_piped.then(|| output.into());
            writers.push(start(
                writer,
                directory,
                &format!("writer-{index}"),
                input.into(),
                output,
            )?);
            input = next;
        }
        let (arriving, output) = io::pipe()?;
        let stdin = if self.is_joined { input.into() } else { Stdio::null() };
        let reader = start(&self.reader, directory, "reader", stdin, Some(output.into()))?;
        let mut arrivals = Arrivals::new(arriving, self.greeting);
        self.prepare(&mut arrivals, &feed)?;
        let outcome = send(lines, directory, feed, &mut arrivals);
        // Whoever wrote last ends last.
        drop((reader, writers, broker));
        outcome
    }

    /// Waits until lines come out.
    fn prepare(&self, arrivals: &mut Arrivals, mut feed: &PipeWriter) -> Result<()> {
        let start = Instant::now();
        while arrivals.greeting > 0 || (self.greeting == 0 && !arrivals.has_begun) {
            ensure!(start.elapsed() < PATIENCE && !arrivals.has_ended, "no line comes out");
            if self.greeting == 0 {
                feed.write_all(b"0\n").context("the writer has ended")?;
            }
            arrivals.listen()?;
        }
        Ok(())
    }
}

/// Sends all lines and waits for them.
fn send(lines: u64, directory: &Path, feed: PipeWriter, arrivals: &mut Arrivals) -> Result<Passed> {
    let start_at = Instant::now();
    let seq = ["seq", "1", &lines.to_string()].map(str::to_owned);
    let mut seq = start(&seq, directory, "seq", Stdio::null(), Some(feed.into()))?;
    let mut last_at = start_at;
    while arrivals.last < lines && !arrivals.has_ended {
        let before = arrivals.count;
        arrivals.listen()?;
        if arrivals.count != before {
            last_at = Instant::now();
        }
        if last_at.elapsed() > if seq.has_ended()? { SILENCE } else { PATIENCE } {
            break;
        }
    }
    ensure!(arrivals.count > 0, "no line arrived");
    ensure!(
        arrivals.last >= lines || seq.has_ended()?,
        "after line {} nothing came, and not all lines were taken",
        arrivals.last
    );
    ensure!(
        arrivals.last <= lines,
        "line {} came out, and {lines} were sent",
        arrivals.last
    );
    Ok(Passed {
        seconds: (last_at - start_at).as_secs_f64(),
        sent: lines,
        arrived: arrivals.count,
    })
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    Path::new(program).is_file()
        || (!program.contains('/') && env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

/// With the directory in its place.
fn placed(text: &str, directory: &Path) -> String {
    text.replace("{d}", &directory.display().to_string())
}

/// Starts a program that dies with this one. Its errors go to a file of the directory, as does its output if it has no other.
fn start(program: &[String], directory: &Path, name: &str, input: Stdio, output: Option<Stdio>) -> Result<Guarded> {
    let errors = File::create(directory.join(format!("errors-{name}")))?;
    let output = output.map_or_else(|| errors.try_clone().map(Stdio::from), Ok)?;
    let mut command = myself()?;
    command.arg("become");
    command.args(program.iter().map(|argument| placed(argument, directory)));
    Guarded::start(command.stdin(input).stdout(output).stderr(errors))
}

/// Waits until a command succeeds.
fn wait_for(check: &[String], directory: &Path) -> Result<()> {
    let start_at = Instant::now();
    while !start(check, directory, "check", Stdio::null(), None)?.succeeds()? {
        ensure!(start_at.elapsed() < PATIENCE, "the broker does not answer");
        thread::sleep(BEAT);
    }
    Ok(())
}

/// What comes out of a reader: numbers in lines, and other lines, which are passed over.
struct Arrivals {
    output: PipeReader,
    buffer: Vec<u8>,
    /// Lines that are still to come before it begins.
    greeting: usize,
    /// A line has come, be it of a zero.
    has_begun: bool,
    /// The end of its output has.
    has_ended: bool,
    /// The number so far of the line that is being read, and whether it is one.
    number: u64,
    is_number: bool,
    /// The highest number.
    last: u64,
    /// How many numbers.
    count: u64,
}

impl Arrivals {
    fn new(output: PipeReader, greeting: usize) -> Self {
        Self {
            output,
            buffer: vec![0; BUFFER],
            greeting,
            has_begun: false,
            has_ended: false,
            number: 0,
            is_number: true,
            last: 0,
            count: 0,
        }
    }

    /// Takes what has come, waits for a moment if nothing has.
    fn listen(&mut self) -> Result<()> {
        let beat = Timespec::try_from(BEAT)?;
        if poll(&mut [PollFd::new(&self.output, PollFlags::IN)], Some(&beat))? == 0 {
            return Ok(());
        }
        let mut buffer = mem::take(&mut self.buffer);
        let count = self.output.read(&mut buffer)?;
        self.has_ended = count == 0;
        let outcome = buffer[..count].iter().try_for_each(|&byte| self.take(byte));
        self.buffer = buffer;
        outcome
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Result<()> {
        match byte {
            b'0'..=b'9' => self.number = 10 * self.number + u64::from(byte - b'0'),
            b'\n' => {
                self.take_line()?;
                (self.number, self.is_number) = (0, true);
            }
            _ => self.is_number = false,
        }
        Ok(())
    }

    fn take_line(&mut self) -> Result<()> {
        self.has_begun = true;
        if self.greeting > 0 {
            self.greeting -= 1;
        } else if self.is_number && self.number > 0 {
            ensure!(
                self.number > self.last,
                "line {} came after line {}",
                self.number,
                self.last
            );
            self.last = self.number;
            self.count += 1;
        }
        Ok(())
    }
}
