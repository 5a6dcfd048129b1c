//! The command line: what each option means, and which go together.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args as Group, CommandFactory, Parser};
use glob::Pattern;
use lapwing::cli::{self, LogLevel};
use lapwing::discovery::Trust;
use lapwing::probe::Category;
use lapwing::{Cpus, Join, TransportChoice, WaitStrategy};

use crate::output::Format;

const EXIT_CODES: &str = "\
Exit codes:
  0    fine; also after SIGINT, SIGTERM or SIGHUP with --follow, and when the reader of the output went away
  1    something failed; standard error says what
  2    the arguments make no sense
  3    no server found
  4    messages were missed, with --fail-on-gap
  124  the time limit of --timeout passed, with --follow";

/// Finds servers, tells how each can be reached, and shows their messages
///
/// Looks once and reports, or with --follow streams the messages of every server, those that appear later too.
#[derive(Debug, Parser)]
#[command(name = "client", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directories that servers write their info files to, or single info files
    #[arg(required = true, value_name = "INFO-DIR or FILE")]
    pub(crate) paths: Vec<PathBuf>,

    /// Stream messages until a signal, -n, --timeout or --exit-at-end ends it
    #[arg(long)]
    pub(crate) follow: bool,

    /// Only servers whose name matches this pattern of `*`, `?` and `[abc]`
    #[arg(long, value_name = "GLOB")]
    pub(crate) name: Option<Pattern>,

    /// Only servers of this category: by which of shared memory and socket works here
    #[arg(long, value_parser = categories(), ignore_case = true)]
    pub(crate) category: Option<Category>,

    /// Time limit: for looking once [default: 2s], or for the whole of --follow [default: none]
    #[arg(long, value_name = "TIME", value_parser = cli::duration)]
    pub(crate) timeout: Option<Duration>,

    /// How to write messages and reports to standard output
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,

    /// Show at most this many bytes of each payload
    #[arg(long, value_name = "BYTES", value_parser = cli::size)]
    pub(crate) truncate: Option<u64>,

    /// Believe info files of this user too, or of anyone. Those of root, of yourself and of the directory's owner always
    /// are. In a user namespace all users outside it have one id, commonly 65534
    #[arg(long, value_name = "UID|any", value_parser = trusted)]
    pub(crate) trust_uid: Vec<Trusted>,

    /// Believe info files that others than their owner may write, and pass over directories in which others may rename
    /// and remove files
    #[arg(long)]
    pub(crate) trust_writable: bool,

    /// Attach no segment larger than this: a server can make its readers pay for all of it [default: 2G]
    #[arg(long, value_name = "BYTES", value_parser = cli::size)]
    pub(crate) max_segment: Option<u64>,

    /// How much of what happens inside to log on standard error
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    pub(crate) log_level: LogLevel,

    #[command(flatten)]
    pub(crate) once: Once,

    #[command(flatten)]
    pub(crate) stream: Stream,
}

/// What only looking once understands.
#[derive(Debug, Group)]
#[command(next_help_heading = "Without --follow")]
pub(crate) struct Once {
    /// Show this many of the newest messages of each server [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) last: Option<u64>,

    /// Show no messages
    #[arg(long, conflicts_with = "last")]
    pub(crate) no_messages: bool,

    /// Tell what was tried, what each step returned, and what would fix it
    #[arg(long)]
    pub(crate) explain: bool,
}

/// What only following understands.
#[derive(Debug, Group)]
#[command(next_help_heading = "With --follow")]
pub(crate) struct Stream {
    /// Where to begin: new, latest:N, oldest, or a sequence [default: new]
    #[arg(long, value_name = "WHERE", value_parser = join)]
    pub(crate) from: Option<Join>,

    /// How to reach servers: auto takes shared memory where it works, else the socket [default: auto]
    #[arg(long, value_parser = transports())]
    pub(crate) transport: Option<TransportChoice>,

    /// Lose nothing: servers wait for this client before they overwrite a message. Only with those that offer it
    #[arg(long)]
    pub(crate) lossless: bool,

    /// End after this many messages, over all servers
    #[arg(short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// End when the streams of all servers have ended, and there was at least one
    #[arg(long)]
    pub(crate) exit_at_end: bool,

    /// Wait without ever sleeping: the shortest latency, for one core per server
    #[arg(long)]
    pub(crate) spin: bool,

    /// Sleep as soon as may be, after 24 us without a message: the least work, for a wake-up with every message
    #[arg(long)]
    pub(crate) block: bool,

    /// Keep the thread of each server to one of these CPUs, in turn: numbers like 3, 0,2 or 4-7
    #[arg(long, value_name = "LIST")]
    pub(crate) cpu: Option<Cpus>,

    /// Look at every page of a ring when it is attached, so that no message waits for a page fault
    #[arg(long)]
    pub(crate) prefault: bool,

    /// End with exit code 4 when messages were missed
    #[arg(long)]
    pub(crate) fail_on_gap: bool,

    /// Tell how it goes on standard error, this often
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub(crate) stats: Option<Duration>,
}

/// Whose info files are believed besides the usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trusted {
    Anyone,
    User(u32),
}

impl Args {
    /// Reads the command line; ends the process if it makes no sense, or only asked for help.
    pub(crate) fn read() -> Self {
        Self::of(std::env::args_os()).unwrap_or_else(|error| cli::leave_with("client", &error))
    }

    /// Understands a command line, the name of the program first.
    pub(crate) fn of(line: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let args = Self::try_parse_from(line)?;
        match args.check() {
            Ok(()) => Ok(args),
            Err(advice) => Err(Self::command().error(ErrorKind::ArgumentConflict, advice)),
        }
    }

    /// Refuses what contradicts itself, and says what to do instead.
    fn check(&self) -> Result<(), String> {
        let Self { once, stream, .. } = self;
        if self.follow {
            if once.last.is_some() {
                return Err("--last is for looking once; with --follow use --from latest:N".to_owned());
            }
            if once.no_messages || once.explain {
                return Err("--no-messages and --explain are for looking once; leave out --follow".to_owned());
            }
            if stream.spin && stream.block {
                return Err("--spin never sleeps and --block as soon as may be; choose one, or neither".to_owned());
            }
            return Ok(());
        }
        let only_follow = [
            ("--from", stream.from.is_some()),
            ("-n", stream.count.is_some()),
            ("--lossless", stream.lossless),
            ("--transport", stream.transport.is_some()),
            ("--exit-at-end", stream.exit_at_end),
            ("--spin", stream.spin),
            ("--block", stream.block),
            ("--cpu", stream.cpu.is_some()),
            ("--prefault", stream.prefault),
            ("--fail-on-gap", stream.fail_on_gap),
            ("--stats", stream.stats.is_some()),
        ];
        match only_follow.iter().find(|(_, given)| *given) {
            Some(("--from" | "-n", _)) => {
                Err("--from and -n need --follow; to see the newest messages once use --last N".to_owned())
            }
            Some(("--transport", _)) => {
                Err("--transport needs --follow; looking once tries both, and tells which work".to_owned())
            }
            Some(("--lossless", _)) => Err(
                "--lossless needs --follow; looking once tells which servers offer it, and who holds them up"
                    .to_owned(),
            ),
            Some((option, _)) => Err(format!("{option} needs --follow")),
            None => Ok(()),
        }
    }

    /// How to wait for messages.
    pub(crate) fn strategy(&self) -> WaitStrategy {
        match (self.stream.spin, self.stream.block) {
            (true, _) => WaitStrategy::Spin,
            (_, true) => WaitStrategy::Block,
            _ => WaitStrategy::Adaptive,
        }
    }

    /// Whose info files are believed, and how far.
    pub(crate) fn trust(&self) -> Trust {
        let trust = self.trust_uid.iter().fold(Trust::default(), |trust, who| match who {
            Trusted::Anyone => Trust::anyone(),
            Trusted::User(uid) => trust.also(*uid),
        });
        let trust = if self.trust_writable { trust.writable() } else { trust };
        match self.max_segment {
            Some(bytes) => trust.with_rings_up_to(bytes),
            None => trust,
        }
    }

    /// Bytes of a payload to show at most.
    pub(crate) fn truncate(&self) -> Option<usize> {
        self.truncate.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Whether a server of this name is wanted.
    pub(crate) fn wants_name(&self, name: &str) -> bool {
        self.name.as_ref().is_none_or(|pattern| pattern.matches(name))
    }
}

fn categories() -> impl TypedValueParser<Value = Category> {
    PossibleValuesParser::new(["host", "container", "vm", "remote"]).map(|word| match word.to_lowercase().as_str() {
        "host" => Category::Host,
        "container" => Category::Container,
        "remote" => Category::Remote,
        _ => Category::Vm,
    })
}

fn transports() -> impl TypedValueParser<Value = TransportChoice> {
    PossibleValuesParser::new(["auto", "shm", "socket"]).map(|word| match word.as_str() {
        "shm" => TransportChoice::SharedMemory,
        "socket" => TransportChoice::Socket,
        _ => TransportChoice::Auto,
    })
}

/// How often to tell something: no busy loop.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = cli::duration(text)?;
    if interval < Duration::from_millis(10) {
        return Err("that is too often; use 10ms or more".to_owned());
    }
    Ok(interval)
}

fn trusted(text: &str) -> Result<Trusted, String> {
    match text {
        "any" => Ok(Trusted::Anyone),
        uid => uid
            .parse()
            .map(Trusted::User)
            .map_err(|_| "write a user id (see `id -u NAME`), or any".to_owned()),
    }
}

fn join(text: &str) -> Result<Join, String> {
    let advice = |_| "write new, latest:N, oldest, or the sequence to begin at".to_owned();
    match (text, text.strip_prefix("latest:")) {
        ("new", _) => Ok(Join::New),
        ("oldest", _) => Ok(Join::Oldest),
        (_, Some(count)) => count.parse().map(Join::Latest).map_err(advice),
        (sequence, None) => sequence.parse().map(Join::Sequence).map_err(advice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::of(line.split(' ')).map_err(|error| error.to_string())
    }

    #[test]
    fn command_line_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_place_to_begin_is_understood() {
        for (text, place) in [
            ("new", Join::New),
            ("oldest", Join::Oldest),
            ("latest:10", Join::Latest(10)),
            ("0", Join::Sequence(0)),
            ("18446744073709551615", Join::Sequence(u64::MAX)),
        ] {
            assert_eq!(join(text), Ok(place));
        }
        for wrong in ["", "latest", "latest:", "latest:x", "-1", "newest"] {
            assert!(join(wrong).unwrap_err().contains("latest:N"), "{wrong:?}");
        }
    }

    #[test]
    fn options_that_contradict_are_refused_with_what_to_do() {
        for (line, advice) in [
            ("client i --follow --last 3", "--from latest:N"),
            ("client i --follow --explain", "leave out --follow"),
            ("client i --follow --spin --block", "choose one"),
            ("client i --from oldest", "--last N"),
            ("client i -n 3", "--last N"),
            ("client i --exit-at-end", "--exit-at-end needs --follow"),
            ("client i --cpu 0", "--cpu needs --follow"),
            ("client i --follow --cpu all", "0-14:2"),
            ("client i --prefault", "--prefault needs --follow"),
            ("client i --stats 1s", "--stats needs --follow"),
            ("client i --no-messages --last 1", "--last"),
            ("client", "INFO-DIR"),
            ("client i --follow -n 0", "0"),
            ("client i --follow --transport carrier-pigeon", "socket"),
            ("client i --transport shm", "tries both"),
            ("client i --lossless", "--lossless needs --follow"),
            ("client i --follow --stats 1ms", "10ms"),
            ("client i --category mars", "remote"),
            ("client i --trust-uid root", "id -u"),
            ("client i --name [", "name"),
            ("client i --timeout 2", "2"),
        ] {
            let error = parse(line).unwrap_err();

            assert!(error.contains(advice), "{line}: {error}");
        }
    }

    #[test]
    fn everything_that_goes_together_is_taken() {
        let args = parse(
            "client a b --follow --from latest:2 --name p* --category Host --transport shm -n 5 --timeout 1s \
             --exit-at-end --spin --fail-on-gap --format raw --truncate 1K --stats 500ms --trust-uid 7 --trust-uid any \
             --max-segment 8G --cpu 0-1 --prefault",
        )
        .unwrap();

        assert_eq!(args.paths.len(), 2);
        assert_eq!(args.category, Some(Category::Host));
        assert_eq!(args.stream.transport, Some(TransportChoice::SharedMemory));
        assert_eq!(args.truncate(), Some(1024));
        assert_eq!(args.strategy(), WaitStrategy::Spin);
        assert_eq!(args.trust_uid, [Trusted::User(7), Trusted::Anyone]);
        assert_eq!(args.max_segment, Some(8 << 30));
        assert_eq!(args.stream.cpu, "0,1".parse().ok());
        assert!(args.stream.prefault);
        assert!(args.wants_name("prices") && !args.wants_name("weather"));
        assert!(parse("client i --no-messages --explain --format json").is_ok());
    }
}
