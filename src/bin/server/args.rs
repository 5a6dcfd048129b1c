//! The arguments of `server`. Their comments are the help text.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgGroup, CommandFactory, Parser};
use lapwing::cli::{self, Failure, LogLevel};
use lapwing::discovery::ServerName;
use lapwing::layout::{Geometry, GeometryError};
use lapwing::{Access, Cpus, HugePages, LosslessOffer, LosslessPolicy, Pages, ServerOptions};

use crate::feed::OnFull;
use crate::group;
use crate::source::generate::MIN_BYTES;
use crate::source::pace::Rate;
use crate::source::push_listener::{PushAccess, PushAddress, PushListener};
use crate::source::{Follow, Generate, Input, Push, Repeat, Source};

const EXAMPLES: &str = "\
Examples:
  server                                       publish what you type, a message per line
  tail -F app.log | server --name app          publish another program's output
  server --file prices.csv --exit-at-end       publish a file and leave once everybody has read it
  server --file app.log --follow-file          publish a log as it grows, across rotation
  server --generate --rate 1000000/s --stats 1s
  server --publish-listen unix:./push.sock     publish what other programs push

Exit codes:
  0  the input ended well, or SIGINT, SIGTERM or SIGHUP asked to stop
  1  an error, told on standard error
  2  arguments that make no sense";

const DEFAULT_MAX_LOSSLESS: u32 = 64;

/// Publishes a stream of messages for any number of clients, over shared memory and TCP.
///
/// After its input has ended it goes on serving what the ring retains until it is stopped by SIGINT, SIGTERM or SIGHUP,
/// unless --exit-at-end is given. Nothing is written to standard output.
#[derive(Debug, Parser)]
#[command(name = "server", version, after_help = EXAMPLES)]
#[command(group = ArgGroup::new("source").multiple(false))]
pub struct Args {
    /// What clients know this server by [default: after the source, and new in the directory]
    #[arg(long, help_heading = "Announcement", value_name = "NAME")]
    pub name: Option<ServerName>,

    /// Directory where clients find it; made if it does not exist
    #[arg(long, help_heading = "Announcement", value_name = "DIR", default_value = "./info")]
    info_dir: PathBuf,

    /// Room for messages that are too long for a slot: a power of two, like 64K or 1M
    #[arg(long, help_heading = "Ring", value_name = "SIZE", default_value = "64K", value_parser = cli::size)]
    ring_size: u64,

    /// How many messages are retained at most: a power of two [default: by the ring's size]
    #[arg(long, help_heading = "Ring", value_name = "N", value_parser = cli::count)]
    slots: Option<u64>,

    /// Bytes of a slot: a multiple of 32 from 64; a message that is 32 bytes shorter lies in its slot
    #[arg(long, help_heading = "Ring", value_name = "SIZE", default_value = "128", value_parser = cli::size)]
    slot_size: u64,

    /// Longest message, at most the ring's size [default: a quarter of it]; what fits in a slot if that is more
    #[arg(long, help_heading = "Ring", value_name = "SIZE", value_parser = cli::size)]
    max_message: Option<u64>,

    /// Address to serve clients on over TCP; port 0 lets the kernel choose; may be given more than once
    /// [default: 127.0.0.1:0]
    #[arg(
        long,
        help_heading = "Who can read",
        value_name = "ADDR:PORT",
        value_parser = address,
        conflicts_with = "no_socket"
    )]
    listen: Vec<SocketAddr>,

    /// Address to announce instead of those listened on; may be given more than once
    #[arg(
        long,
        help_heading = "Who can read",
        value_name = "ADDR:PORT",
        value_parser = address,
        conflicts_with = "no_socket"
    )]
    advertise: Vec<SocketAddr>,

    /// Serve through shared memory only
    #[arg(long, help_heading = "Who can read", conflicts_with_all = ["no_shm", "max_connections"])]
    no_socket: bool,

    /// Serve over TCP only
    #[arg(long, help_heading = "Who can read", conflicts_with = "mode")]
    no_shm: bool,

    /// Most TCP connections at a time [default: 10000]
    #[arg(long, help_heading = "Who can read", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_connections: Option<u64>,

    /// Who may read the shared memory, as the octal mode of a file [default: 0644]
    #[arg(long, help_heading = "Who can read", value_name = "MODE", value_parser = mode)]
    pub mode: Option<u32>,

    /// Group that the shared memory is given to: a name or a number
    #[arg(long, help_heading = "Who can read", value_name = "GROUP", value_parser = group::number_of)]
    group: Option<u32>,

    /// Let clients ask to lose nothing: what to do when one is a whole ring behind. block waits for it, evict:5s waits
    /// for that long in all until it has read on by an eighth of the ring (at most 1,024 messages), else goes on without it
    #[arg(long, help_heading = "Lossless clients", value_name = "block|evict:TIME", value_parser = cli::lossless_policy)]
    lossless: Option<LosslessPolicy>,

    /// Most lossless clients at a time [default: 64]
    #[arg(
        long,
        help_heading = "Lossless clients",
        value_name = "N",
        requires = "lossless",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    max_lossless: Option<u32>,

    /// Begin with the input once so many lossless clients are there: they get all of it
    #[arg(
        long,
        help_heading = "Lossless clients",
        value_name = "N",
        requires = "lossless",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    wait_for: Option<u32>,

    /// What to do with the input meanwhile [default: wait]
    #[arg(
        long,
        help_heading = "Lossless clients",
        value_enum,
        value_name = "WHAT",
        requires = "lossless"
    )]
    on_full: Option<OnFull>,

    /// Keep the thread that reads the input and publishes to these CPUs: numbers like 3, 0,2 or 4-7
    #[arg(long, help_heading = "Tuning", value_name = "LIST")]
    pub cpu: Option<Cpus>,

    /// Keep the thread that serves TCP and the heartbeat to these CPUs [default: where the command may run]
    #[arg(long, help_heading = "Tuning", value_name = "LIST")]
    pub service_cpu: Option<Cpus>,

    /// Never let that thread sleep while a TCP client waits for a message: lower latency there, for one core
    #[arg(long, help_heading = "Tuning", conflicts_with = "no_socket")]
    spin: bool,

    /// Lay the ring in huge pages, which pays for rings of many MiB: require starts with reserved ones or not at all, try
    /// goes on without, transparent takes what the kernel makes
    #[arg(
        long,
        help_heading = "Tuning",
        value_name = "HOW",
        value_parser = huge_pages(),
        conflicts_with = "no_shm"
    )]
    huge_pages: Option<HugePages>,

    /// Size of a reserved huge page, like 2M or 1G [default: the kernel's]
    #[arg(long, help_heading = "Tuning", value_name = "SIZE", value_parser = cli::size)]
    huge_page_size: Option<u64>,

    /// Keep the ring from being swapped out
    #[arg(long, help_heading = "Tuning", conflicts_with = "no_shm")]
    lock_memory: bool,

    /// Publish the lines of this file; `-` and the default: those of standard input
    #[arg(long, help_heading = "Source, one of", value_name = "PATH", group = "source")]
    file: Option<PathBuf>,

    /// Go on reading as the file grows, and when another takes its place
    #[arg(long, help_heading = "Source, one of")]
    follow_file: bool,

    /// Publish this text again and again
    #[arg(
        long,
        help_heading = "Source, one of",
        value_name = "TEXT",
        group = "source",
        allow_hyphen_values = true
    )]
    message: Option<String>,

    /// Time from one --message to the next; 0s for as fast as can be [default: 1s]
    #[arg(long, help_heading = "Source, one of", value_name = "TIME", value_parser = cli::duration)]
    interval: Option<Duration>,

    /// Publish messages that can be checked, made up as docs/sources.md says
    #[arg(long, help_heading = "Source, one of", group = "source")]
    generate: bool,

    /// Bytes of a generated message, from 16 [default: 64]
    #[arg(long, help_heading = "Source, one of", value_name = "SIZE", value_parser = cli::size)]
    size: Option<u64>,

    /// How many to generate: a number per second like 1000/s, or max [default: 1000/s]
    #[arg(long, help_heading = "Source, one of", value_name = "N/s")]
    rate: Option<Rate>,

    /// End after so many messages, like 1000 or 1M
    #[arg(long, help_heading = "Source, one of", value_name = "N", value_parser = cli::count)]
    count: Option<u64>,

    /// Publish binary messages from standard input, framed as docs/sources.md says
    #[arg(long, help_heading = "Source, one of", group = "source")]
    framed: bool,

    /// Publish what programs push to this address, framed in the same way: ADDR:PORT or unix:PATH
    #[arg(long, help_heading = "Source, one of", value_name = "ADDR", group = "source")]
    publish_listen: Option<PushAddress>,

    /// Let --publish-listen take an address that other machines reach: whoever reaches it can publish
    #[arg(long, help_heading = "Source, one of")]
    publish_remote: bool,

    /// Who may push to a unix socket, as the octal mode of a file; --group applies, too [default: 0600]
    #[arg(long, help_heading = "Source, one of", value_name = "MODE", value_parser = publish_mode)]
    publish_mode: Option<u32>,

    /// Leave when the input has ended and every client has read all of it
    #[arg(long, help_heading = "Running", conflicts_with_all = ["follow_file", "publish_listen"])]
    exit_at_end: bool,

    /// How long to wait for clients that are there, at the end or behind a signal; another signal ends it, if it comes
    /// 0.2s later [default: 10s with --exit-at-end, 0.2s for lossless clients behind a signal]
    #[arg(long, help_heading = "Running", value_name = "TIME", value_parser = cli::duration)]
    pub linger: Option<Duration>,

    /// Print statistics on standard error so often, 10ms or more, and at the end
    #[arg(long, help_heading = "Running", value_name = "TIME", value_parser = interval)]
    pub stats: Option<Duration>,

    /// What to tell on standard error
    #[arg(long, help_heading = "Running", value_name = "LEVEL", value_enum, default_value_t)]
    pub log_level: LogLevel,
}

/// Reads an address as the system takes it: names would have to be looked up, and may mean several.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write an IP address and a port, like 127.0.0.1:4000 or [::1]:0".to_owned())
}

fn huge_pages() -> impl TypedValueParser<Value = HugePages> {
    PossibleValuesParser::new(["require", "try", "transparent"]).map(|word| match word.as_str() {
        "require" => HugePages::Require,
        "try" => HugePages::Try,
        _ => HugePages::Transparent,
    })
}

/// Reads the mode of a file: the owner may read and write, others at most do the same.
fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| mode & !0o666 == 0 && mode & 0o400 != 0)
        .ok_or_else(|| "write an octal mode like 0644, 0640 or 0600, with which its owner can read".to_owned())
}

/// Reads the mode of a unix socket: to connect to it takes the right to write.
fn publish_mode(text: &str) -> Result<u32, String> {
    match mode(text) {
        Ok(mode) if mode & 0o222 != 0 => Ok(mode),
        _ => Err("write an octal mode like 0600 or 0660: to push takes the right to write".to_owned()),
    }
}

/// Reads how often to tell something: no busy loop.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = cli::duration(text)?;
    if interval < Duration::from_millis(10) {
        return Err("that is too often; use 10ms or more".to_owned());
    }
    Ok(interval)
}

impl Args {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// What makes no sense, and what would.
    pub fn check(self) -> Result<Self, clap::Error> {
        if let Some((option, needed)) = self.option_without_use() {
            return Err(wrong(&format!("{option} needs {needed}")));
        }
        // The number of slots that stands for a default is always possible.
        let slots = self.slots.unwrap_or(1024);
        let geometry = Geometry::new(slots, self.slot_size, self.ring_size, self.max_message)
            .map_err(|error| wrong(&with_advice(&error)))?;
        let own = self.size.or(self.message.as_ref().map(|text| text.len() as u64));
        if own.is_some_and(|bytes| bytes > geometry.max_message_bytes() as u64) {
            return Err(wrong(&format!(
                "messages of this ring have up to {} bytes; give shorter ones, a larger --ring-size or --max-message",
                geometry.max_message_bytes()
            )));
        }
        if self.lossless.is_some() && self.no_socket {
            return Err(wrong(
                "lossless clients ask for their place over a socket, also those that read shared memory; leave out \
                 --no-socket",
            ));
        }
        if self.wait_for.is_some_and(|count| count as usize > self.max_lossless()) {
            return Err(wrong(&format!(
                "--wait-for waits for more lossless clients than there may be, {}; give a larger --max-lossless",
                self.max_lossless()
            )));
        }
        let is_vague = |address: &&SocketAddr| address.port() == 0 || address.ip().is_unspecified();
        if let Some(vague) = self.advertise.iter().find(is_vague) {
            return Err(wrong(&format!(
                "--advertise needs the address and the port that clients are to connect to, not {vague}"
            )));
        }
        if self.huge_pages == Some(HugePages::Transparent) && self.huge_page_size.is_some() {
            return Err(wrong(
                "transparent huge pages have the size that the kernel gives them; leave out --huge-page-size",
            ));
        }
        if self.no_shm && self.group.is_some() && !matches!(self.publish_listen, Some(PushAddress::Unix(_))) {
            return Err(wrong(
                "--group is for shared memory and unix sockets, and there are none; leave it out",
            ));
        }
        self.check_source()?;
        Ok(self)
    }

    /// Checks what a source is told.
    fn check_source(&self) -> Result<(), clap::Error> {
        if self.size.is_some_and(|size| size < MIN_BYTES as u64) {
            return Err(wrong(
                "--size is from 16 on: a generated message holds a sequence and a time",
            ));
        }
        if self.follow_file && self.file_to_open().is_none() {
            return Err(wrong(
                "standard input is read as it comes, and nothing takes its place; leave out --follow-file",
            ));
        }
        if self.exit_at_end && (self.message.is_some() || self.generate) && self.count.is_none() {
            return Err(wrong("this source has no end to exit at; give a --count"));
        }
        match &self.publish_listen {
            Some(PushAddress::Tcp(address)) if !address.ip().is_loopback() && !self.publish_remote => {
                return Err(wrong(&format!(
                    "whoever reaches {address} could publish; listen on 127.0.0.1 or a unix socket, or give \
                     --publish-remote if that is what you want"
                )));
            }
            _ => {}
        }
        Ok(())
    }

    /// An option that would be ignored, and what it needs. clap cannot tell: it asks for nothing that conflicts with what
    /// is there, and every source conflicts with every other.
    fn option_without_use(&self) -> Option<(&'static str, &'static str)> {
        let (pushed_by_tcp, pushed_by_unix) = match self.publish_listen {
            Some(PushAddress::Tcp(_)) => (true, false),
            Some(PushAddress::Unix(_)) => (false, true),
            None => (false, false),
        };
        let counted = self.message.is_some() || self.generate;
        [
            (self.follow_file, "--follow-file", self.file.is_some(), "--file"),
            (
                self.interval.is_some(),
                "--interval",
                self.message.is_some(),
                "--message",
            ),
            (self.size.is_some(), "--size", self.generate, "--generate"),
            (self.rate.is_some(), "--rate", self.generate, "--generate"),
            (self.count.is_some(), "--count", counted, "--message or --generate"),
            (
                self.publish_remote,
                "--publish-remote",
                pushed_by_tcp,
                "a TCP address in --publish-listen",
            ),
            (
                self.publish_mode.is_some(),
                "--publish-mode",
                pushed_by_unix,
                "--publish-listen unix:PATH",
            ),
            (
                self.huge_page_size.is_some(),
                "--huge-page-size",
                self.huge_pages.is_some(),
                "--huge-pages",
            ),
        ]
        .into_iter()
        .find(|&(is_given, _, is_of_use, _)| is_given && !is_of_use)
        .map(|(_, option, _, needed)| (option, needed))
    }

    /// How to start a server of this name.
    pub fn options(&self, name: ServerName) -> ServerOptions {
        let mut options = ServerOptions::new(name);
        options.info_dir.clone_from(&self.info_dir);
        options.ring_bytes = self.ring_size;
        options.slots = self.slots;
        options.slot_bytes = self.slot_size;
        options.max_message_bytes = self.max_message;
        options.shared_memory = !self.no_shm;
        options.access = Access {
            mode: self.mode.unwrap_or(options.access.mode),
            group: self.group,
        };
        options.lossless = self.lossless.map(|policy| LosslessOffer {
            policy,
            max_subscribers: self.max_lossless(),
        });
        options.pages = Pages {
            huge: self.huge_pages.unwrap_or_default(),
            huge_bytes: self.huge_page_size,
            locked: self.lock_memory,
        };
        options.service_cpus = self.service_cpu;
        options.service_spin = self.spin;
        options.advertise.clone_from(&self.advertise);
        if self.no_socket {
            options.listen.clear();
        } else if !self.listen.is_empty() {
            options.listen.clone_from(&self.listen);
        }
        if let Some(most) = self.max_connections {
            options.max_connections = usize::try_from(most).unwrap_or(usize::MAX);
        }
        options
    }

    /// Most lossless clients at a time, where there may be any.
    fn max_lossless(&self) -> usize {
        self.max_lossless.unwrap_or(DEFAULT_MAX_LOSSLESS) as usize
    }

    /// How many lossless clients must be there before the input begins.
    pub fn wait_for(&self) -> Option<usize> {
        self.wait_for.map(|count| count as usize)
    }

    /// What to do with the input while a lossless client is behind.
    pub fn on_full(&self) -> OnFull {
        self.on_full.unwrap_or_default()
    }

    /// What the server is called after if it was given no name.
    pub fn namesake(&self) -> Option<&Path> {
        self.file_to_open()
    }

    /// The file whose lines are published; `None` if those of standard input are, which may be called `-`.
    fn file_to_open(&self) -> Option<&Path> {
        self.file.as_deref().filter(|path| *path != Path::new("-"))
    }

    /// How long to wait for clients once the input has ended; `None` to go on serving.
    pub fn patience(&self) -> Option<Duration> {
        const DEFAULT: Duration = Duration::from_secs(10);
        self.exit_at_end.then(|| self.linger.unwrap_or(DEFAULT))
    }

    /// Opens the source.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn source(&self) -> Result<Source, Failure> {
        const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
        const DEFAULT_SIZE: u64 = 64;
        const DEFAULT_RATE: Rate = Rate::PerSecond(NonZeroU64::new(1000).expect("1000 is not 0"));
        const DEFAULT_PUBLISH_MODE: u32 = 0o600;
        Ok(if let Some(path) = self.file_to_open() {
            if self.follow_file {
                Source::Follow(Follow::open(path)?)
            } else {
                Source::Lines(Input::open(path)?)
            }
        } else if let Some(text) = &self.message {
            Source::Repeat(Repeat {
                text: text.clone(),
                interval: self.interval.unwrap_or(DEFAULT_INTERVAL),
                count: self.count,
            })
        } else if self.generate {
            Source::Generate(Generate {
                size: usize::try_from(self.size.unwrap_or(DEFAULT_SIZE)).unwrap_or(usize::MAX),
                rate: self.rate.unwrap_or(DEFAULT_RATE),
                count: self.count,
            })
        } else if let Some(address) = &self.publish_listen {
            let access = PushAccess {
                mode: self.publish_mode.unwrap_or(DEFAULT_PUBLISH_MODE),
                group: self.group,
            };
            Source::Push(Push::new(PushListener::bind(address, access)?)?)
        } else if self.framed {
            Source::Frames(Input::stdin())
        } else {
            Source::Lines(Input::stdin())
        })
    }
}

fn wrong(message: &str) -> clap::Error {
    Args::command().error(ErrorKind::ValueValidation, message)
}

fn with_advice(error: &GeometryError) -> String {
    match *error {
        GeometryError::PowerOfTwo { value, min, max, .. } => {
            let above = value.clamp(min, max).checked_next_power_of_two().unwrap_or(max);
            format!("{error}; {above} is")
        }
        GeometryError::Slot { value, step, min, max } => {
            let above = value.clamp(min, max).next_multiple_of(step);
            format!("{error}; {above} is")
        }
        GeometryError::MaxMessage { .. } => format!("{error}; give another --max-message or a larger --ring-size"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
// Named, as a fuzz target takes this file by its path.
#[path = "args/tests.rs"]
mod tests;
