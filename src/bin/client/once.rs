//! Looks once at every server and reports: the servers, how each is reached and why, their newest messages, the sums.

use lapwing::Transport;
use lapwing::cli::{self, Escaped, Failure, exit};
use lapwing::probe::{Attempt, Category};

use crate::args::Args;
use crate::look::{Findings, Seen, look};
use crate::output::json::Object;
use crate::output::{Format, Message, Style, table};
use crate::stdout;

/// What the last line of a report says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Servers: the sum of the four categories.
    pub(crate) servers: u64,
    pub(crate) host: u64,
    pub(crate) container: u64,
    pub(crate) vm: u64,
    pub(crate) remote: u64,
    /// Messages that the servers published.
    pub(crate) messages: u64,
    /// Messages that were overwritten while they were retrieved.
    pub(crate) missed: u64,
    /// Info files that are not believed, which are no servers.
    pub(crate) problems: u64,
}

impl Sums {
    fn of(findings: &Findings) -> Self {
        let mut sums = Self {
            problems: findings.problems.len() as u64,
            ..Self::default()
        };
        for seen in &findings.servers {
            sums.servers += 1;
            sums.messages = sums.messages.saturating_add(seen.messages());
            sums.missed = sums.missed.saturating_add(seen.missed());
            match seen.category() {
                Category::Host => sums.host += 1,
                Category::Container => sums.container += 1,
                Category::Vm => sums.vm += 1,
                Category::Remote => sums.remote += 1,
            }
        }
        sums
    }
}

/// Looks, and reports on standard output. Returns the exit code.
pub(crate) fn run(args: &Args, style: &Style) -> Result<u8, Failure> {
    let findings = look(args)?;
    let mut out = Vec::new();
    match style.format {
        Format::Pretty | Format::Hex => for_people(&mut out, args, style, &findings),
        Format::Json => for_programs(&mut out, args, style, &findings),
        Format::Raw => {
            messages(&mut out, style, &findings);
            let mut problems = Vec::new();
            table::problems(&mut problems, &findings);
            for problem in String::from_utf8_lossy(&problems).lines() {
                cli::say_patiently(&format!("client: {problem}"));
            }
        }
    }
    match stdout::open().and_then(|output| stdout::write(&output, &out, &mut None)) {
        Err(error) if cli::is_broken_pipe(&error) => {}
        Err(error) => return Err(Failure::caused("cannot write to standard output", error)),
        Ok(()) => {}
    }
    for failure in &findings.failures {
        cli::say_patiently(&format!("client: {failure}"));
    }
    if findings.servers.is_empty()
        && let Some(hint) = hint(args, &findings)
    {
        cli::say_patiently(&format!("client: {hint}"));
    }
    // Without a server, a path that is merely missing is no error: the server may be yet to start.
    Ok(match (findings.servers.is_empty(), findings.failures.is_empty()) {
        _ if findings.has_unreadable => exit::ERROR,
        (true, _) => exit::NO_SERVER,
        (false, true) => exit::FINE,
        (false, false) => exit::ERROR,
    })
}

/// What to do when there is no server, unless the failures say it.
fn hint(args: &Args, findings: &Findings) -> Option<String> {
    let paths: Vec<String> = args.paths.iter().map(|path| format!("{path:?}")).collect();
    let paths = Escaped(&paths.join(", ")).to_string();
    match (findings.left_out, findings.problems.len(), findings.failures.len()) {
        (0, 0, 0) => Some(format!(
            "no server found in {paths}; start one with `server --info-dir DIR`, or check the path"
        )),
        (0, 0, _) => None,
        (0, bad, _) => Some(format!(
            "no server found in {paths}: none of the info files ({bad}) can be believed"
        )),
        (left_out, ..) => Some(format!(
            "no server matches: --name or --category leave out all {left_out} in {paths}"
        )),
    }
}

fn for_people(out: &mut Vec<u8>, args: &Args, style: &Style, findings: &Findings) {
    if !findings.servers.is_empty() {
        table::servers(out, findings);
    }
    table::problems(out, findings);
    if args.once.explain {
        table::steps(out, findings);
    }
    let start = out.len();
    messages(out, style, findings);
    if out.len() > start {
        out.insert(start, b'\n');
    }
    if !out.is_empty() {
        out.push(b'\n');
    }
    table::summary(out, &Sums::of(findings));
}

fn messages(out: &mut Vec<u8>, style: &Style, findings: &Findings) {
    let name_width = findings.servers.iter().map(|seen| seen.name.len()).max().unwrap_or(0);
    for seen in &findings.servers {
        for message in seen.report.iter().flat_map(|report| &report.messages) {
            let message = Message {
                server: &seen.name,
                sequence: message.sequence,
                timestamp_ns: message.timestamp_ns,
                tag: message.tag,
                payload: &message.payload,
            };
            style.write(out, &message, name_width);
        }
    }
}

fn for_programs(out: &mut Vec<u8>, args: &Args, style: &Style, findings: &Findings) {
    for seen in &findings.servers {
        server(out, seen);
        if let Some(report) = seen.report.as_ref().filter(|_| args.once.explain) {
            steps(out, &seen.name, Transport::SharedMemory, &report.shared_memory);
            steps(out, &seen.name, Transport::Socket, &report.socket);
        }
    }
    for problem in &findings.problems {
        Object::begin(out, "problem")
            .text("path", &problem.path.to_string_lossy())
            .text("reason", &problem.reason)
            .end();
    }
    messages(out, style, findings);
    let sums = Sums::of(findings);
    Object::begin(out, "summary")
        .number("servers", sums.servers)
        .number("host", sums.host)
        .number("container", sums.container)
        .number("vm", sums.vm)
        .number("remote", sums.remote)
        .number("messages", sums.messages)
        .number("missed", sums.missed)
        .number("problems", sums.problems)
        .end();
}

fn server(out: &mut Vec<u8>, seen: &Seen) {
    let outcome = |attempt: &Attempt| match &attempt.outcome {
        Ok(()) => "ok".to_owned(),
        Err(reason) => reason.clone(),
    };
    let report = seen.report.as_ref();
    let reached = report.filter(|report| report.transport.is_some());
    let tried = |attempt: Option<&Attempt>| attempt.map_or_else(|| "no answer in time".to_owned(), outcome);
    let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let offer = report.and_then(|report| report.offer.as_ref());
    let policy = offer.map(|offer| offer.policy.to_string());
    let holder = offer.and_then(|offer| offer.holder.as_ref());
    Object::begin(out, "server")
        .text("name", &seen.name)
        .text("category", seen.category().as_str())
        .text("state", seen.state())
        .text_or_null("transport", seen.transport().map(Transport::as_str))
        .text("shm", &tried(report.map(|report| &report.shared_memory)))
        .text("socket", &tried(report.map(|report| &report.socket)))
        .text("incarnation", &seen.incarnation.to_string())
        .number("messages", seen.messages())
        .number("missed", seen.missed())
        .text("reason", seen.reason())
        .number_or_null("readers", report.and_then(|report| report.readers))
        .number_or_null("oldest", reached.map(|report| report.oldest))
        .number_or_null("head", reached.map(|report| report.head))
        .number_or_null("newest_timestamp_ns", seen.newest_ns)
        .number_or_null("latency_ns", seen.latency().map(nanoseconds))
        .number_or_null("pid", report.map(|report| u64::from(report.pid)))
        .number_or_null("started_unix_ns", report.map(|report| report.started_unix_ns))
        .text("path", &seen.path.to_string_lossy())
        .text_or_null("lossless", policy.as_deref())
        .number_or_null("lossless_subscribers", offer.map(|offer| offer.subscribers.into()))
        .number_or_null("lossless_max", offer.map(|offer| offer.max_subscribers.into()))
        .number_or_null("evicted", offer.map(|offer| offer.evicted))
        .text_or_null("held_by", holder.map(|(_, _, who)| who.as_str()))
        .number_or_null("held_ms", holder.map(|(held_ms, ..)| u64::from(*held_ms)))
        .number_or_null("held_at", holder.map(|(_, cursor, _)| *cursor))
        .end();
}

fn steps(out: &mut Vec<u8>, server: &str, transport: Transport, attempt: &Attempt) {
    for step in &attempt.steps {
        Object::begin(out, "step")
            .text("server", server)
            .text("transport", transport.as_str())
            .text("what", &step.what)
            .text("result", &step.result)
            .text_or_null("fix", step.fix.as_deref())
            .end();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::Parser;
    use lapwing::Incarnation;

    use super::*;
    use crate::look::Problem;

    fn silent(name: &str) -> Seen {
        Seen {
            name: name.to_owned(),
            path: PathBuf::from(format!("info/{name}.toml")),
            incarnation: Incarnation::from_bytes([7; 16]),
            report: None,
            newest_ns: None,
        }
    }

    fn args(line: &str) -> Args {
        Args::try_parse_from(line.split(' ')).unwrap()
    }

    #[test]
    fn silent_servers_and_bad_info_files_are_told_apart_with_their_reasons() {
        let findings = Findings {
            servers: vec![silent("mute"), silent("prices")],
            problems: vec![Problem {
                path: PathBuf::from("info/a\u{1b}.toml"),
                reason: "garbage".to_owned(),
            }],
            ..Findings::default()
        };
        let style = Style {
            format: Format::Pretty,
            truncate: None,
            colour: false,
        };
        let mut out = Vec::new();

        for_people(&mut out, &args("client info"), &style, &findings);

        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
NAME    CATEGORY  STATE    TRANSPORT  READERS  SEQUENCES  MESSAGES  MISSED  RATE/AGE  LATENCY  WHY
mute    VM        unknown  -                -          -         -       -         -        -  did not answer in time; try a longer --timeout
prices  VM        unknown  -                -          -         -       -         -        -  did not answer in time; try a longer --timeout
problem: \"info/a\\u{1b}.toml\": garbage

2 servers: 0 Host, 0 Container, 2 VM, 0 Remote; 0 messages, 0 missed; 1 problem
"
        );
    }

    #[test]
    fn objects_keep_their_keys_and_order() {
        let findings = Findings {
            servers: vec![silent("mute")],
            ..Findings::default()
        };
        let style = Style {
            format: Format::Json,
            truncate: None,
            colour: false,
        };
        let mut out = Vec::new();

        for_programs(&mut out, &args("client info --explain"), &style, &findings);

        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"type\":\"server\",\"name\":\"mute\",\"category\":\"vm\",\"state\":\"unknown\",\"transport\":null,\
             \"shm\":\"no answer in time\",\"socket\":\"no answer in time\",\
             \"incarnation\":\"07070707070707070707070707070707\",\"messages\":0,\"missed\":0,\
             \"reason\":\"did not answer in time; try a longer --timeout\",\"readers\":null,\"oldest\":null,\
             \"head\":null,\"newest_timestamp_ns\":null,\"latency_ns\":null,\"pid\":null,\"started_unix_ns\":null,\
             \"path\":\"info/mute.toml\",\"lossless\":null,\"lossless_subscribers\":null,\"lossless_max\":null,\
             \"evicted\":null,\"held_by\":null,\"held_ms\":null,\"held_at\":null}\n\
             {\"type\":\"summary\",\"servers\":1,\"host\":0,\"container\":0,\"vm\":1,\"remote\":0,\"messages\":0,\
             \"missed\":0,\"problems\":0}\n"
        );
    }

    #[test]
    fn hint_says_why_there_is_no_server() {
        let args = args("client info");
        let failed = Findings {
            failures: vec!["there is no info".to_owned()],
            ..Findings::default()
        };
        let left_out = Findings {
            left_out: 3,
            ..Findings::default()
        };

        assert!(hint(&args, &Findings::default()).unwrap().contains("start one"));
        assert!(hint(&args, &left_out).unwrap().contains("all 3"));
        assert_eq!(hint(&args, &failed), None);
    }
}
