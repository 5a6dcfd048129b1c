//! How what was found is written: one file for each format, all of them appending to a buffer of bytes.
//!
//! Whatever a stranger wrote (payloads, reasons) is escaped, except in [`raw`], whose point is that it is not.

pub(crate) mod hex;
pub(crate) mod json;
pub(crate) mod pretty;
pub(crate) mod quantity;
pub(crate) mod raw;
pub(crate) mod table;

/// How messages are written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Lines for people, with control characters escaped.
    #[default]
    Pretty,
    /// Payloads, a newline after each, and nothing else.
    Raw,
    /// One JSON object per line.
    Json,
    /// A line about each message, and its bytes in hexadecimal below.
    Hex,
}

/// One message, as every format gets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) server: &'a str,
    pub(crate) sequence: u64,
    pub(crate) timestamp_ns: u64,
    pub(crate) tag: u64,
    pub(crate) payload: &'a [u8],
}

/// How a message is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) format: Format,
    /// Bytes of a payload to show at most.
    pub(crate) truncate: Option<usize>,
    /// Whether a terminal that understands colours is on the other side.
    pub(crate) colour: bool,
}

impl Style {
    /// Appends `message`. `name_width` is that of the longest server name, so that the columns line up.
    pub(crate) fn write(&self, out: &mut Vec<u8>, message: &Message<'_>, name_width: usize) {
        match self.format {
            Format::Pretty => pretty::message(out, message, self, name_width),
            Format::Raw => raw::message(out, message.payload, self.truncate),
            Format::Json => json::message(out, message, self.truncate),
            Format::Hex => hex::message(out, message, self, name_width),
        }
    }
}

/// The first bytes of `payload` to show: as many as there may be, but no character of text is cut.
pub(crate) fn shown(payload: &[u8], truncate: Option<usize>) -> &[u8] {
    let Some(limit) = truncate.filter(|&limit| limit < payload.len()) else {
        return payload;
    };
    // A character has at most 4 bytes, so its first is at most 3 before the cut.
    let is_start = |at: &usize| payload[*at] & 0xc0 != 0x80;
    let start = (limit.saturating_sub(3)..limit).rev().find(is_start).unwrap_or(limit);
    let chunk = payload[start..payload.len().min(start + 4)].utf8_chunks().next();
    let character = chunk.and_then(|chunk| chunk.valid().chars().next());
    match character {
        Some(character) if start + character.len_utf8() > limit => &payload[..start],
        _ => &payload[..limit],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_cut_inside_a_character() {
        let text = "a\u{20ac}\u{1f600}z".as_bytes();

        let lengths: Vec<usize> = (0..=text.len() + 1)
            .map(|limit| shown(text, Some(limit)).len())
            .collect();

        assert_eq!(lengths, [0, 1, 1, 1, 4, 4, 4, 4, 8, 9, 9]);
        assert_eq!(shown(text, None), text);
    }

    #[test]
    fn bytes_that_are_no_text_are_cut_where_asked() {
        assert_eq!(shown(&[0xff; 10], Some(4)).len(), 4);
        assert_eq!(shown(&[0x80; 10], Some(4)).len(), 4);
        assert_eq!(shown(b"a\x80b\xff", Some(1)), b"a");
        assert_eq!(shown(b"\xffabc", Some(2)), b"\xffa");
    }
}
