//! The report for people: the table of servers, what was tried, the bad info files, and the last line with the sums.

use std::io::Write;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, ColumnConstraint, Row, Table, presets};
use lapwing::Transport;
use lapwing::cli::Escaped;
use lapwing::probe::Attempt;
use lapwing::socket::frame::Offer;

use super::quantity;
use crate::look::{Findings, Seen};
use crate::once::Sums;

/// A server whose newest message is older than this is told by its age, any other by its rate.
const YOUNG: Duration = Duration::from_secs(10);

const COLUMNS: [&str; 12] = [
    "NAME",
    "CATEGORY",
    "STATE",
    "TRANSPORT",
    "READERS",
    "SEQUENCES",
    "MESSAGES",
    "MISSED",
    "RATE/AGE",
    "LATENCY",
    "LOSSLESS",
    "WHY",
];
/// The column that is left out while no server has anything to say in it.
const LOSSLESS: usize = 10;
/// The columns of numbers, which are aligned at their end.
const NUMBERS: std::ops::RangeInclusive<usize> = 4..=9;

/// Appends the table of servers.
pub(crate) fn servers(out: &mut Vec<u8>, findings: &Findings) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(COLUMNS);
    for seen in &findings.servers {
        table.add_row(row(seen));
    }
    let offers = |seen: &Seen| seen.report.as_ref().is_some_and(|report| report.offer.is_some());
    if !findings.servers.iter().any(offers)
        && let Some(column) = table.column_mut(LOSSLESS)
    {
        column.set_constraint(ColumnConstraint::Hidden);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index + 1 == COLUMNS.len() { 0 } else { 2 }));
        if NUMBERS.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        put(out, format_args!("{}\n", line.trim_end()));
    }
}

fn row(seen: &Seen) -> Row {
    let dash = || "-".to_owned();
    let report = seen.report.as_ref();
    let reached = report.filter(|report| report.transport.is_some());
    let number = |number: Option<u64>| number.map_or_else(dash, |number| number.to_string());
    let range = |oldest: u64, head: u64| (oldest < head).then(|| format!("{oldest}-{}", head - 1));
    Row::from(
        [
            Escaped(&seen.name).to_string(),
            seen.category().title().to_owned(),
            seen.state().to_owned(),
            seen.transport().map_or_else(dash, |transport| transport.to_string()),
            number(report.and_then(|report| report.readers)),
            reached
                .and_then(|report| range(report.oldest, report.head))
                .unwrap_or_else(dash),
            number(reached.map(|report| report.head)),
            number(reached.map(|report| report.missed)),
            pace(seen).unwrap_or_else(dash),
            seen.latency().map_or_else(dash, quantity::time),
            report
                .and_then(|report| report.offer.as_ref())
                .map_or_else(dash, lossless),
            Escaped(seen.reason()).to_string(),
        ]
        .map(Cell::new),
    )
}

/// What is offered to how many, and who holds up the stream.
fn lossless(offer: &Offer) -> String {
    let mut text = format!("{} {}/{}", offer.policy, offer.subscribers, offer.max_subscribers);
    if let Some((held_ms, _, who)) = &offer.holder {
        let held = quantity::time(Duration::from_millis((*held_ms).into()));
        text += &format!(", held {held} by {}", Escaped(who));
    }
    text
}

/// How many messages a second since the server started; or how long ago the newest was, if that is long.
fn pace(seen: &Seen) -> Option<String> {
    let (report, newest_ns) = (seen.report.as_ref()?, seen.newest_ns?);
    // Not up to the newest message: one message, published at the very start, would be thousands a second.
    let until_ns = report.looked_unix_ns.max(newest_ns);
    let age = Duration::from_nanos(report.looked_unix_ns.saturating_sub(newest_ns));
    Some(if age > YOUNG {
        format!("{} ago", quantity::time(age))
    } else {
        let lived = Duration::from_nanos(until_ns.saturating_sub(report.started_unix_ns));
        quantity::rate(report.head, lived)
    })
}

/// Appends the info files that are not believed, a line for each.
pub(crate) fn problems(out: &mut Vec<u8>, findings: &Findings) {
    for problem in &findings.problems {
        let path = format!("{:?}", problem.path);
        put(
            out,
            format_args!("problem: {}: {}\n", Escaped(&path), Escaped(&problem.reason)),
        );
    }
}

/// Appends what was tried to reach each server, what it returned, and what would mend it.
pub(crate) fn steps(out: &mut Vec<u8>, findings: &Findings) {
    for seen in &findings.servers {
        let path = format!("{:?}", seen.path);
        let (name, title) = (Escaped(&seen.name), seen.category().title());
        put(
            out,
            format_args!("\n{name} ({}): {title}: {}\n", Escaped(&path), Escaped(seen.reason())),
        );
        if let Some(report) = &seen.report {
            attempt(out, Transport::SharedMemory, &report.shared_memory);
            attempt(out, Transport::Socket, &report.socket);
        }
    }
}

fn attempt(out: &mut Vec<u8>, transport: Transport, attempt: &Attempt) {
    let outcome = match &attempt.outcome {
        Ok(()) => "works",
        Err(reason) => reason,
    };
    put(
        out,
        format_args!(
            "  {transport}: {} (took {})\n",
            Escaped(outcome),
            quantity::time(attempt.took)
        ),
    );
    for step in &attempt.steps {
        put(
            out,
            format_args!("    {}: {}\n", Escaped(&step.what), Escaped(&step.result)),
        );
        if let Some(fix) = &step.fix {
            put(out, format_args!("      to mend it: {}\n", Escaped(fix)));
        }
    }
}

/// Appends the last line.
pub(crate) fn summary(out: &mut Vec<u8>, sums: &Sums) {
    put(
        out,
        format_args!(
            "{} {}: {} Host, {} Container, {} VM, {} Remote; {} {}, {} missed",
            sums.servers,
            if sums.servers == 1 { "server" } else { "servers" },
            sums.host,
            sums.container,
            sums.vm,
            sums.remote,
            sums.messages,
            if sums.messages == 1 { "message" } else { "messages" },
            sums.missed
        ),
    );
    if sums.problems > 0 {
        let problems = if sums.problems == 1 { "problem" } else { "problems" };
        put(out, format_args!("; {} {problems}", sums.problems));
    }
    out.push(b'\n');
}

fn put(out: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a Vec takes every write");
}
