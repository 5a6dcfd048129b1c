//! Bytes for people: a line about each message, and below it its payload, 16 bytes a line, as `hexdump -C` shows it.
//!
//! ```text
//!     prices        41 2026-01-31T12:00:00.000123Z tag 0 len 5
//!     00000000  68 65 6c 6c 6f                                   |hello|
//! ```

use std::io::Write;

use super::{Message, Style, pretty};

/// Appends a message as one line and its bytes.
pub(crate) fn message(out: &mut Vec<u8>, message: &Message<'_>, style: &Style, name_width: usize) {
    pretty::heading(out, message, style, name_width);
    let len = message.payload.len();
    let shown = style.truncate.map_or(len, |limit| limit.min(len));
    let cut = if shown < len { " truncated" } else { "" };
    writeln!(out, " tag {} len {len}{cut}", message.tag).expect("a Vec takes every write");
    for (index, row) in message.payload[..shown].chunks(16).enumerate() {
        dump(out, index * 16, row);
    }
}

/// Appends one row of at most 16 bytes.
fn dump(out: &mut Vec<u8>, offset: usize, row: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    write!(out, "{offset:08x} ").expect("a Vec takes every write");
    for column in 0..16 {
        out.extend_from_slice(if column == 8 { b"  " } else { b" " });
        match row.get(column) {
            Some(&byte) => out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]),
            None => out.extend_from_slice(b"  "),
        }
    }
    out.extend_from_slice(b"  |");
    let visible = |&byte: &u8| if matches!(byte, b' '..=b'~') { byte } else { b'.' };
    out.extend(row.iter().map(visible));
    out.extend_from_slice(b"|\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn dumped(payload: &[u8], truncate: Option<usize>) -> String {
        let mut out = Vec::new();
        let told = Message {
            server: "prices",
            sequence: 41,
            timestamp_ns: 0,
            tag: 7,
            payload,
        };
        let style = Style {
            format: Format::Hex,
            truncate,
            colour: false,
        };
        message(&mut out, &told, &style, 6);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn payload_is_dumped_as_hexdump_does() {
        assert_eq!(
            dumped(b"hello, bytes\x00\x1b\xff!xy", None),
            "prices       41 1970-01-01T00:00:00.000000Z tag 7 len 18\n\
             00000000  68 65 6c 6c 6f 2c 20 62  79 74 65 73 00 1b ff 21  |hello, bytes...!|\n\
             00000010  78 79                                             |xy|\n"
        );
    }

    #[test]
    fn truncated_dump_says_so() {
        let dump = dumped(b"hello", Some(2));

        assert!(dump.contains(" len 5 truncated\n"), "{dump}");
        assert!(dump.ends_with("  |he|\n"), "{dump}");
        assert_eq!(dumped(b"hello", Some(0)).lines().count(), 1);
    }
}
