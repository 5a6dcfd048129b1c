//! Lines for people: `NAME SEQUENCE TIME PAYLOAD`, in columns, with colours where a terminal shows them.
//!
//! ```text
//!     prices        41 2026-01-31T12:00:00.000123Z hello
//!     weather-2      7 2026-01-31T12:00:00.000456Z \xff\xfe\t...
//! ```
//!
//! The time is the server's, in UTC. Control characters and bytes that are no text are escaped. It is not meant to be
//! read back: a backslash of the payload stays as it is.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use lapwing::cli::Escaped;

use super::{Message, Style, shown};

const DIM: &str = "\x1b[2m";
const NAME: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Appends a message as one line.
pub(crate) fn message(out: &mut Vec<u8>, message: &Message<'_>, style: &Style, name_width: usize) {
    heading(out, message, style, name_width);
    out.push(b' ');
    let shown = shown(message.payload, style.truncate);
    text(out, shown);
    if shown.len() < message.payload.len() {
        put(out, format_args!("... ({} bytes)", message.payload.len()));
    }
    out.push(b'\n');
}

/// Appends what stands before the payload.
pub(super) fn heading(out: &mut Vec<u8>, message: &Message<'_>, style: &Style, name_width: usize) {
    let (name, dim, plain) = if style.colour { (NAME, DIM, PLAIN) } else { ("", "", "") };
    // A server's name holds nothing that needs an escape.
    put(out, format_args!("{name}{:name_width$}{plain} {dim}", message.server));
    put(
        out,
        format_args!("{:>8} {}{plain}", message.sequence, time(message.timestamp_ns)),
    );
}

/// A time in UTC, to the microsecond.
fn time(timestamp_ns: u64) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_nanos(timestamp_ns))
}

/// Appends a stranger's bytes: text as it is, but nothing that a terminal would obey.
pub(crate) fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        put(out, format_args!("{}", Escaped(chunk.valid())));
        for byte in chunk.invalid() {
            put(out, format_args!("\\x{byte:02x}"));
        }
    }
}

fn put(out: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a Vec takes every write");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn line(payload: &[u8], truncate: Option<usize>, colour: bool) -> String {
        let mut out = Vec::new();
        let told = Message {
            server: "prices",
            sequence: 41,
            timestamp_ns: 1_790_000_000_123_456_789,
            tag: 0,
            payload,
        };
        let style = Style {
            format: Format::Pretty,
            truncate,
            colour,
        };
        message(&mut out, &told, &style, 9);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up_behind_the_longest_name() {
        assert_eq!(
            line(b"hello", None, false),
            "prices          41 2026-09-21T14:13:20.123456Z hello\n"
        );
    }

    #[test]
    fn colours_only_when_asked_for() {
        assert_eq!(
            line(b"hello", None, true),
            "\x1b[36mprices   \x1b[0m \x1b[2m      41 2026-09-21T14:13:20.123456Z\x1b[0m hello\n"
        );
        assert!(!line(b"hello", None, false).contains('\x1b'));
    }

    #[test]
    fn payload_cannot_steer_the_terminal() {
        let line = line(b"\x1b[31mred\n\xc2\x9b2J\xff\x00\t\xe2\x80\xaeevil", None, false);

        assert!(
            line.ends_with("Z \\u{1b}[31mred\\n\\u{9b}2J\\xff\\u{0}\\t\\u{202e}evil\n"),
            "{line}"
        );
    }

    #[test]
    fn truncated_payload_tells_its_length() {
        assert!(line(b"hello world", Some(5), false).ends_with(" hello... (11 bytes)\n"));
    }

    #[test]
    fn every_timestamp_can_be_shown() {
        assert_eq!(time(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time(u64::MAX).to_string(), "2554-07-21T23:34:33.709551Z");
    }
}
