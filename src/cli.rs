//! What the commands `server` and `client` share: reading arguments, exit codes, telling errors, the log, signals.
//!
//! Programs that link the library have no use for it and leave the feature `cli` off.

use std::error::Error;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use env_logger::Target;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::low_level::{pipe, unregister};

use crate::causes::with_causes;
use crate::gate::LosslessPolicy;

/// What the commands exit with.
pub mod exit {
    /// All went well.
    pub const FINE: u8 = 0;
    /// Something failed; standard error says what.
    pub const ERROR: u8 = 1;
    /// The arguments make no sense. Nothing was started.
    pub const USAGE: u8 = 2;
    /// The client found no server.
    pub const NO_SERVER: u8 = 3;
    /// Messages were missed, and `--fail-on-gap` asked to be told.
    pub const GAP: u8 = 4;
    /// The time limit passed.
    pub const TIME_LIMIT: u8 = 124;
}

/// Reads a size in bytes: `4096`, `64K`, `1.5MiB`. All units are powers of 1024. For clap's `value_parser`.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn size(text: &str) -> Result<u64, String> {
    whole(text).map_err(|error| format!("{error}; write bytes or a size like 64K, 1M, 2G"))
}

/// Reads how many, in the units of [`size`]: `1000`, `64K`, `1M`. For clap's `value_parser`.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn count(text: &str) -> Result<u64, String> {
    whole(text).map_err(|error| format!("{error}; write a number like 1000, 64K or 1M"))
}

/// Reads a whole number, be it written as a fraction of a unit.
fn whole(text: &str) -> Result<u64, String> {
    let parse = |text: &str| {
        let config = parse_size::Config::new().with_binary();
        config.parse_size(text).map_err(|error| error.to_string())
    };
    let rounded = parse(text)?;
    let Some((before, behind)) = text.split_once('.') else {
        return Ok(rounded);
    };
    let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
    let scale = 10_u64.checked_pow(digits as u32);
    // Without the point it is so many times as much.
    match (parse(&[before, behind].concat()), scale) {
        (Ok(scaled), Some(scale)) if scaled % scale == 0 => Ok(scaled / scale),
        _ => Err("that is no whole number".to_owned()),
    }
}

/// Reads a time: `1s`, `500ms`, `1m 30s`. For clap's `value_parser`.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write a time like 500ms, 1s, 2m"))
}

/// Reads what a server does about slow lossless subscribers: `block`, or `evict:5s`. For clap's `value_parser`.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn lossless_policy(text: &str) -> Result<LosslessPolicy, String> {
    const ADVICE: &str = "write block, or evict: and a time like evict:5s";
    /// A server tells the time to its clients as 32 bits of milliseconds.
    const LONGEST: Duration = Duration::from_secs(40 * 86_400);
    match text.strip_prefix("evict:") {
        None if text == "block" => Ok(LosslessPolicy::Block),
        None => Err(ADVICE.to_owned()),
        Some(patience) => match humantime::parse_duration(patience) {
            Err(error) => Err(format!("{error}; {ADVICE}")),
            Ok(patience) if patience.subsec_nanos() % 1_000_000 != 0 || patience.is_zero() || patience > LONGEST => {
                Err("give a time of whole milliseconds, from 1ms to 40days".to_owned())
            }
            Ok(patience) => Ok(LosslessPolicy::Evict(patience)),
        },
    }
}

/// How much the log tells on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What went wrong.
    Error,
    /// And what may go wrong.
    #[default]
    Warn,
    /// And what happens.
    Info,
    /// And why.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::Off,
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

/// Sends the log to standard error, as lines `COMMAND: LEVEL: MESSAGE` without colour. To be called once.
pub fn start_log(command: &'static str, level: LogLevel) {
    let written = env_logger::Builder::new()
        .filter_level(level.into())
        .target(Target::Pipe(Box::new(Log)))
        .format(move |out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "{command}: {level}: {}", Escaped(&record.args().to_string()))
        })
        .try_init();
    // A second call changes nothing; the first log stays.
    drop(written);
}

/// Where the log goes: like all that is said it waits for nobody.
struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        say(String::from_utf8_lossy(line).trim_end_matches('\n'));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes as many descriptors as the system grants: a server needs one for each connection, a client a few for each
/// server.
pub fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::debug!("cannot raise the limit of open files: {error}");
    }
}

/// Gives a pipe as much room as everybody may have: the commands at its two ends wait for one another less often. What is
/// no pipe, or may not grow, stays as it is.
pub fn widen_pipe(pipe: impl AsFd) {
    /// `/proc/sys/fs/pipe-max-size`, unless it was changed.
    const MOST_BYTES: usize = 1 << 20;
    if let Err(error) = fcntl_setpipe_size(pipe, MOST_BYTES) {
        log::debug!("no wider pipe: {error}");
    }
}

/// Whether a character changes how a terminal shows others: besides the C0 and C1 controls, those that turn the direction
/// of text around or break its line.
#[must_use]
pub const fn steers_terminal(character: char) -> bool {
    matches!(
        character,
        '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

/// Shows a text on one line of a terminal, whatever a stranger put into it: control characters become escapes.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(steers_terminal) {
            match part.chars().next_back() {
                Some(last) if steers_terminal(last) => {
                    f.write_str(&part[..part.len() - last.len_utf8()])?;
                    last.escape_default().fmt(f)?;
                }
                _ => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// An error in a command's own words, with what caused it.
#[derive(Debug)]
pub struct Failure {
    message: String,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// An error that nothing else caused.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            cause: None,
        }
    }

    /// An error and its cause.
    #[must_use]
    pub fn caused(message: impl Into<String>, cause: impl Error + Send + Sync + 'static) -> Self {
        Self {
            message: message.into(),
            cause: Some(Box::new(cause)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_ref().map(|cause| &**cause as _)
    }
}

/// An error and its causes on one line: `message: cause: cause of that`, and what to do if a limit of this process stood
/// in the way.
#[must_use]
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    Escaped(&with_causes(error)).to_string()
}

/// Tells an error and its causes on one line of standard error: `COMMAND: message: cause`.
pub fn print_error(command: &str, error: &(dyn Error + 'static)) {
    say_patiently(&format!("{command}: {}", one_line(error)));
}

/// Writes a line, which begins with `COMMAND:`, to standard error. Unlike `eprintln!` it does not panic if nobody is there
/// to read it, and waits for nobody: a line for which there is no room is dropped, and once there is room again it is told
/// how many were. Only who takes the same room at the same moment can make it wait.
pub fn say(line: &str) {
    say_within(Duration::ZERO, line);
}

/// The same for those who can wait: a line for which there is no room is dropped after half a second, and those behind
/// it at once until there is room again.
pub fn say_patiently(line: &str) {
    say_within(Duration::from_millis(500), line);
}

fn say_within(patience: Duration, line: &str) {
    static UNSAID: Mutex<Unsaid> = Mutex::new(Unsaid {
        lines: 0,
        is_within_line: false,
    });
    let mut unsaid = UNSAID.lock().unwrap_or_else(PoisonError::into_inner);
    unsaid.say(io::stderr().lock(), patience, line);
}

/// What found no room on standard error and was not told yet.
#[derive(Debug, Default)]
struct Unsaid {
    lines: u64,
    /// Of the last line that was written the end is missing.
    is_within_line: bool,
}

impl Unsaid {
    fn say(&mut self, mut output: impl Write + AsFd, patience: Duration, line: &str) {
        /// What can be written to a pipe that has room, without waiting: PIPE_BUF.
        const PART_BYTES: usize = 4096;
        let mut text = String::new();
        if self.is_within_line {
            text.push('\n');
        }
        if self.lines > 0 {
            let command = line.split(':').next().unwrap_or_default();
            let lines = self.lines;
            text += &format!("{command}: nobody read standard error in time; lines that are missing here: {lines}\n");
        }
        text += line;
        text.push('\n');
        for (number, part) in text.as_bytes().chunks(PART_BYTES).enumerate() {
            let patience = if self.lines == 0 { patience } else { Duration::ZERO };
            if !has_room(&output, patience) {
                self.lines = if number == 0 { self.lines + 1 } else { 1 };
                self.is_within_line |= number > 0;
                return;
            }
            // If standard error is gone there is nobody to tell.
            let _ = output.write_all(part);
        }
        *self = Self::default();
    }
}

/// Waits until a part of a line can be written without waiting. Returns whether it can: not if `patience` is over.
fn has_room(output: impl AsFd, patience: Duration) -> bool {
    let limit = Timespec::try_from(patience).ok();
    let mut room = [PollFd::new(&output, PollFlags::OUT)];
    loop {
        match poll(&mut room, limit.as_ref()) {
            Err(Errno::INTR) => {}
            found => return found != Ok(0),
        }
    }
}

/// Leaves with what there is to say instead of running: what is wrong with the arguments, or what `--help` and `--version` asked
/// for.
pub fn leave_with(command: &str, said: &clap::Error) -> ! {
    let code = match said.print() {
        Err(error) if !said.use_stderr() && !is_broken_pipe(&error) => {
            say_patiently(&format!("{command}: cannot write to standard output: {error}"));
            exit::ERROR.into()
        }
        _ => said.exit_code(),
    };
    std::process::exit(code)
}

/// Makes a write beyond the limit of file sizes (`ulimit -f`) an error, which is told and leaves nothing behind. By
/// default it kills, and a server would leave its unfinished info file.
///
/// # Errors
/// If the kernel refuses.
pub fn survive_file_size_limit() -> io::Result<()> {
    // Caught, not ignored: what a program ignores, those that it starts ignore, too.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop)
}

/// Whether an error means that the reader of our output went away, as `head` does. That is success.
#[must_use]
pub fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// SIGINT, SIGTERM and SIGHUP as something to read: a descriptor that becomes readable when one arrives, for `poll` or
/// an event loop. SIGHUP stays ignored if it was when the program began, as `nohup` wants it.
///
/// Without it those signals end the process at once; with it they do nothing until somebody looks here.
#[derive(Debug)]
pub struct Signals {
    arrived: UnixStream,
    registered: Vec<SigId>,
}

impl Signals {
    /// Begins to catch the signals.
    ///
    /// # Errors
    /// If there are no descriptors left, or the kernel refuses.
    pub fn catch() -> io::Result<Self> {
        let (arrived, raised) = UnixStream::pair()?;
        arrived.set_nonblocking(true)?;
        let mut signals = Self {
            arrived,
            registered: Vec::new(),
        };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal != SIGHUP || !is_ignored(SIGHUP) {
                signals.registered.push(pipe::register(signal, raised.try_clone()?)?);
            }
        }
        Ok(signals)
    }

    /// Takes the signals that have arrived since the last look. Returns whether there were any. Never blocks.
    #[must_use]
    pub fn take(&self) -> bool {
        let mut any = false;
        while matches!((&self.arrived).read(&mut [0; 64]), Ok(1..)) {
            any = true;
        }
        any
    }

    /// Waits until a signal arrives or `timeout` has passed. Returns whether one did; it is taken.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        let timeout = timeout.try_into().ok();
        let mut fds = [PollFd::new(&self.arrived, PollFlags::IN)];
        // Interrupted by a signal or not: the look tells.
        let _ = poll(&mut fds, timeout.as_ref());
        self.take()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arrived.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            unregister(id);
        }
    }
}

/// Whether this process was started with `signal` ignored (proc(5), `SigIgn`).
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_and_never_wrap() {
        assert_eq!(size("64K"), Ok(65536));
        assert_eq!(size("64kB"), Ok(65536));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("1.5K"), Ok(1536));
        assert_eq!(count("1M"), Ok(1 << 20));
        for wrong in ["", "K", "64X", "-1", "99999999999G", "1.9", "1.3K", "0.1"] {
            assert!(size(wrong).is_err() && count(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "1", "1 parsec", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn policies_are_read_as_they_are_shown() {
        for (text, millis) in [
            ("evict:5s", 5000),
            ("evict:50ms", 50),
            ("evict:1500ms", 1500),
            ("evict:90s", 90_000),
        ] {
            let policy = lossless_policy(text).unwrap();

            assert_eq!(policy, LosslessPolicy::Evict(Duration::from_millis(millis)));
            assert_eq!(policy.to_string(), text);
        }
        assert_eq!(lossless_policy("block").unwrap().to_string(), "block");
        assert_eq!(lossless_policy("evict:1m 30s"), lossless_policy("evict:90s"));
        for wrong in [
            "",
            "evict",
            "evict:",
            "evict:5",
            "evict:0s",
            "evict:1us",
            "evict:1year",
            "Block",
            "drop",
            "evict:-1s",
        ] {
            let advice = lossless_policy(wrong).unwrap_err();

            assert!(
                advice.contains("evict:5s") || advice.contains("1ms"),
                "{wrong:?}: {advice}"
            );
        }
    }

    #[test]
    fn a_strangers_text_cannot_steer_the_terminal() {
        let text = "pr\u{eb}ces\u{1b}[2J\n\u{9b}x\u{202e}";

        assert_eq!(Escaped(text).to_string(), "pr\u{eb}ces\\u{1b}[2J\\n\\u{9b}x\\u{202e}");
    }

    #[test]
    fn everything_that_turns_the_direction_of_text_around_is_escaped() {
        // What Unicode calls Bidi_Control.
        let controls =
            "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
        for control in controls.chars() {
            let escaped = Escaped(&format!("a{control}b")).to_string();

            assert_eq!(escaped, format!("a\\u{{{:x}}}b", u32::from(control)));
        }
    }

    #[test]
    fn an_error_is_told_with_its_causes_on_one_line_and_none_twice() {
        let inner = Failure::caused("cannot read \"a\nb\"", io::Error::other("disk on fire"));
        let outer = Failure::caused("cannot start: disk on fire", io::Error::other("disk on fire"));

        assert_eq!(one_line(&inner), "cannot read \"a\\nb\": disk on fire");
        assert_eq!(one_line(&outer), "cannot start: disk on fire");
    }

    /// What is in a pipe that has something in it.
    fn read_some(pipe: &mut io::PipeReader, most: usize) -> String {
        let mut bytes = vec![0; most];
        let read = pipe.read(&mut bytes).unwrap();
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    }

    #[test]
    fn lines_that_find_no_room_are_dropped_and_counted_when_there_is_room_again() {
        let (mut reader, writer) = io::pipe().unwrap();
        fcntl_setpipe_size(&writer, 4096).unwrap();
        let mut unsaid = Unsaid::default();
        let mut say = |line: &str| unsaid.say(&writer, Duration::ZERO, line);

        say("client: one");
        assert_eq!(read_some(&mut reader, 4096), "client: one\n");
        say(&format!("client: {}", "x".repeat(4087)));
        say("client: two");
        say("client: three");
        assert_eq!(read_some(&mut reader, 8192).len(), 4096);
        say("client: four");

        assert_eq!(
            read_some(&mut reader, 8192),
            "client: nobody read standard error in time; lines that are missing here: 2\nclient: four\n"
        );
    }

    #[test]
    fn line_that_finds_room_for_its_beginning_does_not_run_into_the_next() {
        let (mut reader, writer) = io::pipe().unwrap();
        fcntl_setpipe_size(&writer, 4096).unwrap();
        let mut unsaid = Unsaid::default();
        let mut say = |line: &str| unsaid.say(&writer, Duration::ZERO, line);

        say(&"x".repeat(5000));
        assert_eq!(read_some(&mut reader, 8192), "x".repeat(4096));
        say("client: one");

        assert_eq!(
            read_some(&mut reader, 8192),
            "\nclient: nobody read standard error in time; lines that are missing here: 1\nclient: one\n"
        );
    }

    #[test]
    fn signals_become_readable_and_are_taken_once() {
        let signals = Signals::catch().unwrap();
        assert!(!signals.take());

        signal_hook::low_level::raise(SIGTERM).unwrap();

        assert!(signals.wait(Duration::from_secs(10)));
        assert!(!signals.take());
    }
}
