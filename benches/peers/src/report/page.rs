//! The page: a template, and the tables that go into it.

use std::fmt::Write;

use super::{Findings, Line, Row, Table, median};
use crate::part::Figures;
use crate::peer::{About, By};
use crate::record::Piped;

const TEMPLATE: &str = include_str!("page.md");

/// All of it, for a plot of this name.
pub fn page(findings: &Findings<'_>, name: &str) -> String {
    let machine = findings.machine;
    let (runs, dropped, failed) = findings.runs;
    let cpus: Vec<String> = machine.cpus.iter().map(ToString::to_string).collect();
    let facts = format!(
        "{}, {} processors, kernel {}, {}; {}. Pinned to processors {}; {} rounds of {} s; load {:.1} when it began. {runs} runs, \
         of which {dropped} were dropped and {failed} failed.",
        machine.processor,
        machine.processors,
        machine.kernel,
        machine.rustc,
        machine.date,
        cpus.join(", "),
        machine.rounds,
        machine.seconds,
        machine.load,
    );
    TEMPLATE
        .replace("{{page}}", name)
        .replace("{{machine}}", &facts)
        .replace("{{tables}}", &tables(findings))
        .replace("{{lines}}", &lines(findings))
        .replace("{{settings}}", &settings(findings))
        .replace("{{left out}}", &left_out(findings))
}

/// The tables of all works.
pub fn tables(findings: &Findings<'_>) -> String {
    let tables: Vec<String> = findings.tables.iter().map(table).collect();
    tables.join("\n")
}

fn table(table: &Table<'_>) -> String {
    let (unit, _) = table.work.unit();
    let columns = if table.work.is_stream() {
        "lost | torn"
    } else {
        "p99 | p99.9"
    };
    let mut text = format!(
        "### {}\n\n| | class, probe | median, {unit} | min-max | {columns} | Lapwing ahead | runs |\n",
        table.work
    );
    text.push_str("|---|---|---:|---:|---:|---:|---:|---:|\n");
    for row in &table.rows {
        text.push_str(&line(table, row));
    }
    for (peer, reason) in &table.failed {
        // A string takes all that is written to it.
        let _ = writeln!(text, "| {peer} | | failed: {reason} | | | | | |");
    }
    text
}

/// Three figures, as far as they go.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn line(table: &Table<'_>, row: &Row<'_>) -> String {
    let (_, scale) = table.work.unit();
    let (least, most) = row.range();
    let probe = median(row.kept.iter().map(|kept| kept.probes.mean_ns())).unwrap_or(f64::NAN);
    let name = if row.about.name.starts_with("Lapwing") {
        format!("**{}**", row.about.name)
    } else {
        row.about.name.to_string()
    };
    format!(
        "| {name} | {} {probe:.0} | {} | {}-{} | {} | {} | {} |\n",
        row.class,
        short(row.median() / scale),
        short(least / scale),
        short(most / scale),
        details(row, scale),
        median(row.ratios.iter().copied()).map_or_else(|| "-".into(), short),
        row.kept.len(),
    )
}

/// The two columns that streams and single messages do not have in common.
fn details(row: &Row<'_>, scale: f64) -> String {
    let (mut p99s, mut p999s) = (Vec::new(), Vec::new());
    let (mut arrived, mut gone, mut broken) = (0, 0, 0);
    for kept in &row.kept {
        match kept.figures {
            Figures::Times { p99, p999, .. } => {
                p99s.push(p99 / scale);
                p999s.push(p999 / scale);
            }
            Figures::Rate {
                received, lost, torn, ..
            } => {
                arrived += received;
                gone += lost;
                broken += torn;
            }
        }
    }
    match (median(p99s), median(p999s)) {
        (Some(p99), Some(p999)) => format!("{} | {}", short(p99), short(p999)),
        _ if gone == 0 => format!("none | {}", torn(broken)),
        _ => {
            let share = 100.0 * gone as f64 / (gone + arrived) as f64;
            format!("{share:.1} % | {}", torn(broken))
        }
    }
}

fn torn(count: u64) -> String {
    if count == 0 { "none".into() } else { count.to_string() }
}

/// The table of pipelines, and what was set.
fn lines(findings: &Findings<'_>) -> String {
    let mut text = String::from(
        "| | lines sent | median, million/s | min-max | lost | Lapwing ahead | runs | loses | what was set |\n\
         |---|---:|---:|---:|---:|---:|---:|---|---|\n",
    );
    for line in &findings.lines {
        let Piped {
            pipeline,
            settings,
            is_lossless,
            ..
        } = line.about;
        let name = if pipeline.starts_with("server") {
            format!("**{pipeline}**")
        } else {
            pipeline.clone()
        };
        let loses = if *is_lossless { NOTHING } else { THE_REST };
        let figures = passed(line).unwrap_or_else(|| {
            let failure = line.failure.as_deref().unwrap_or_default();
            format!("failed: {failure} | | | | | ")
        });
        // A string takes all that is written to it.
        let _ = writeln!(text, "| {name} | {figures} | {loses} | {settings} |");
    }
    text
}

/// The figures of a pipeline, if a run counts.
fn passed(line: &Line<'_>) -> Option<String> {
    let rates = || line.kept.iter().map(|run| run.per_second() / 1e6);
    let seconds = median(line.kept.iter().map(|run| run.seconds))?;
    let (sent, arrived) = line
        .kept
        .iter()
        .fold((0, 0), |(sent, arrived), run| (sent + run.sent, arrived + run.arrived));
    let lost = if sent == arrived {
        "none".into()
    } else {
        format!("{:.1} %", 100.0 * (sent - arrived) as f64 / sent as f64)
    };
    Some(format!(
        "{} in {} s | {} | {}-{} | {lost} | {} | {}",
        sent / line.kept.len() as u64,
        short(seconds),
        short(median(rates())?),
        short(rates().fold(f64::MAX, f64::min)),
        short(rates().fold(0.0, f64::max)),
        median(line.ratios.iter().copied()).map_or_else(|| "-".into(), short),
        line.kept.len(),
    ))
}

const NOTHING: &str = "nothing";
const THE_REST: &str = "what is not kept up with";

/// What each peer is, and what was set.
fn settings(findings: &Findings<'_>) -> String {
    let mut text =
        String::from("| | version | between | loses | what it is, and what was set |\n|---|---|---|---|---|\n");
    for About {
        name,
        version,
        by,
        is_lossless,
        settings,
    } in &findings.peers
    {
        let between = match by {
            By::Limit => "processes, no protocol",
            By::Memory => "processes, shared memory",
            By::Kernel => "processes, kernel",
            By::Network => "processes, TCP or a broker",
            By::Threads => "**threads of one process**",
        };
        let loses = if *is_lossless { NOTHING } else { THE_REST };
        let version = if version.is_empty() { "-" } else { version };
        // A string takes all that is written to it.
        let _ = writeln!(text, "| {name} | {version} | {between} | {loses} | {settings} |");
    }
    text
}

fn left_out(findings: &Findings<'_>) -> String {
    if findings.left_out.is_empty() {
        return "Of those that the tool knows, none.\n".into();
    }
    let lines = findings.left_out.iter();
    lines
        .map(|left| format!("- {}: {}\n", left.peer, left.reason))
        .collect()
}
