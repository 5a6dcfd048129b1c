//! The plot: a panel for each work, a bar for each peer, on a logarithmic scale.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Findings, Row, Table};
use crate::message::Reading;
use crate::peer::{About, By};
use crate::probe::Class;
use crate::work::Work;

type Area<'p> = DrawingArea<SVGBackend<'p>, Shift>;

const WIDTH: i32 = 1000;
/// Where bars begin and end.
const LEFT: i32 = 240;
const RIGHT: i32 = 820;
const ROW: i32 = 20;
const HEADING: i32 = 46;
const LEGEND: i32 = 40;
const FONT: &str = "sans-serif";

/// Works that have a panel; the others are told in the tables alone.
const fn has_panel(work: Work) -> bool {
    match work {
        Work::Large { len, reading } => len == 1 << 20 && matches!(reading, Reading::Whole),
        Work::RoundTrip { .. } | Work::Stream { .. } => true,
    }
}

/// The rows of the class that most runs were of.
fn panel<'t, 'r>(table: &'t Table<'r>) -> Option<(Class, Vec<&'t Row<'r>>)> {
    let rows_of = |class| table.rows.iter().filter(move |row| row.class == class);
    let runs_of = |class| rows_of(class).map(|row| row.kept.len()).sum::<usize>();
    let class = [Class::S, Class::C, Class::X]
        .into_iter()
        .max_by_key(|&class| runs_of(class))?;
    let rows: Vec<_> = rows_of(class).collect();
    (!rows.is_empty()).then_some((class, rows))
}

/// Kinds of rows, and their colours.
const KINDS: [(&str, RGBColor); 6] = [
    ("Lapwing", RGBColor(0xc8, 0x32, 0x2d)),
    ("limit", RGBColor(0xa0, 0xa0, 0xa0)),
    ("shared memory", RGBColor(0x2f, 0x6f, 0xb5)),
    ("kernel", RGBColor(0x3c, 0x8c, 0x5a)),
    ("TCP, brokers", RGBColor(0xd0, 0x8a, 0x2e)),
    ("threads of one process", RGBColor(0x8a, 0x5a, 0xa8)),
];

fn color(about: &About) -> RGBColor {
    let kind = match about.by {
        _ if about.name.starts_with("Lapwing") => 0,
        By::Limit => 1,
        By::Memory => 2,
        By::Kernel => 3,
        By::Network => 4,
        By::Threads => 5,
    };
    KINDS[kind].1
}

/// Draws it into a file.
pub fn draw(findings: &Findings<'_>, path: &Path) -> Result<()> {
    let tables = findings.tables.iter().filter(|table| has_panel(table.work));
    let panels: Vec<_> = tables
        .filter_map(|table| panel(table).map(|(class, rows)| (table.work, class, rows)))
        .collect();
    let rows: usize = panels.iter().map(|(_, _, rows)| rows.len()).sum();
    let height = LEGEND + HEADING * panels.len() as i32 + ROW * rows as i32 + ROW;
    let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut x = 20;
    for (kind, color) in KINDS {
        area.draw(&Rectangle::new([(x, 12), (x + 12, 24)], color.filled()))?;
        write(&area, kind, (x + 18, 18), HPos::Left, 13.0)?;
        x += 40 + 8 * kind.len() as i32;
    }
    write(&area, "logarithmic scale", (WIDTH - 20, 18), HPos::Right, 13.0)?;
    let mut y = LEGEND;
    for (work, class, rows) in panels {
        draw_panel(&area, y, work, class, &rows)?;
        y += HEADING + ROW * rows.len() as i32;
    }
    area.present().context("cannot write the plot")?;
    Ok(())
}

fn write(area: &Area<'_>, text: &str, at: (i32, i32), side: HPos, size: f64) -> Result<()> {
    let style = (FONT, size).into_font().color(&BLACK).pos(Pos::new(side, VPos::Center));
    Ok(area.draw(&Text::new(text.to_owned(), at, style))?)
}

fn draw_panel(area: &Area<'_>, top: i32, work: Work, class: Class, rows: &[&Row<'_>]) -> Result<()> {
    let (unit, scale) = work.unit();
    let better = if work.is_stream() { "more" } else { "less" };
    let title = format!("{work}: {unit}, class {class}, {better} is better");
    write(area, &title, (20, top + HEADING / 2), HPos::Left, 16.0)?;

    let ranges = rows.iter().map(|row| row.range());
    let (least, most) = ranges.fold((f64::MAX, 0.0_f64), |all, row| (all.0.min(row.0), all.1.max(row.1)));
    // Half a decade of room, so that the shortest bar can be seen.
    let (low, high) = ((least / 3.0).ln(), (most * 1.05).ln());
    let at = |value: f64| LEFT + ((value.ln() - low) / (high - low) * f64::from(RIGHT - LEFT)) as i32;
    let mut y = top + HEADING;
    for row in rows {
        let middle = y + ROW / 2;
        let (least, most) = row.range();
        let bar = [(LEFT, y + 3), (at(row.median()), y + ROW - 3)];
        area.draw(&Rectangle::new(bar, color(row.about).filled()))?;
        area.draw(&PathElement::new(
            [(at(least), middle), (at(most), middle)],
            BLACK.stroke_width(1),
        ))?;
        write(area, &row.about.name, (LEFT - 8, middle), HPos::Right, 13.0)?;
        let value = super::page::short(row.median() / scale);
        write(area, &value, (RIGHT + 12, middle), HPos::Left, 13.0)?;
        y += ROW;
    }
    Ok(())
}
