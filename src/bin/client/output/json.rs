//! One JSON object per line. `docs/client-output.md` lists every object and key; keys keep their order.
//!
//! Written by hand, so that a message costs an append to a buffer; the tests read it back with `serde_json`. Inside
//! strings all control characters are escaped, and what turns the direction of text around, so the lines are safe on a
//! terminal.

use std::io::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lapwing::cli::steers_terminal;

use super::{Message, shown};

/// Appends a message as one line.
pub(crate) fn message(out: &mut Vec<u8>, message: &Message<'_>, truncate: Option<usize>) {
    // What is text is decided by the whole payload, so that truncating never changes the key.
    let text = str::from_utf8(message.payload).ok();
    let shown = match text {
        Some(_) => shown(message.payload, truncate),
        None => &message.payload[..truncate.unwrap_or(usize::MAX).min(message.payload.len())],
    };
    let object = Object::begin(out, "message")
        .text("server", message.server)
        .number("sequence", message.sequence)
        .number("timestamp_ns", message.timestamp_ns)
        .number("tag", message.tag)
        .number("len", message.payload.len() as u64);
    let object = match text {
        Some(text) => object.text("payload", &text[..shown.len()]),
        None => object.text("payload_base64", &BASE64_STANDARD.encode(shown)),
    };
    if shown.len() < message.payload.len() {
        object.literal("truncated", "true").end();
    } else {
        object.end();
    }
}

/// An object being written into a buffer, key by key.
#[derive(Debug)]
pub(crate) struct Object<'a>(&'a mut Vec<u8>);

impl<'a> Object<'a> {
    /// Begins a line with `{"type":KIND`.
    pub(crate) fn begin(out: &'a mut Vec<u8>, kind: &str) -> Self {
        out.extend_from_slice(b"{\"type\":");
        string(out, kind);
        Self(out)
    }

    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    pub(crate) fn text(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        string(self.0, value);
        self
    }

    /// A text, or `null`.
    pub(crate) fn text_or_null(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(key, value),
            None => self.literal(key, "null"),
        }
    }

    pub(crate) fn number(mut self, key: &str, value: u64) -> Self {
        self.key(key);
        decimal(self.0, value);
        self
    }

    /// A number, or `null`.
    pub(crate) fn number_or_null(self, key: &str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.number(key, value),
            None => self.literal(key, "null"),
        }
    }

    /// A value that is JSON already: `true`, `null`.
    pub(crate) fn literal(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    /// Ends the object and its line.
    pub(crate) fn end(self) {
        self.0.extend_from_slice(b"}\n");
    }
}

fn decimal(out: &mut Vec<u8>, value: u64) {
    write!(out, "{value}").expect("a Vec takes every write");
}

/// Appends a JSON string.
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.find(needs_escape) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let character = rest[at..].chars().next().expect("a character was found here");
        escape(out, character);
        rest = &rest[at + character.len_utf8()..];
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

const fn needs_escape(character: char) -> bool {
    matches!(character, '"' | '\\') || steers_terminal(character)
}

#[cold]
fn escape(out: &mut Vec<u8>, character: char) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // All that is escaped lies below U+10000: one unit of UTF-16.
        other => write!(out, "\\u{:04x}", u32::from(other)).expect("a Vec takes every write"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn line(payload: &[u8], truncate: Option<usize>) -> String {
        let mut out = Vec::new();
        let told = Message {
            server: "prices",
            sequence: 41,
            timestamp_ns: 1,
            tag: 0,
            payload,
        };
        message(&mut out, &told, truncate);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn message_is_one_line_with_its_keys_in_order() {
        assert_eq!(
            line(b"hello", None),
            "{\"type\":\"message\",\"server\":\"prices\",\"sequence\":41,\"timestamp_ns\":1,\"tag\":0,\"len\":5,\
             \"payload\":\"hello\"}\n"
        );
    }

    #[test]
    fn payload_that_is_no_text_is_base64() {
        assert!(line(b"\xff\0", None).contains("\"len\":2,\"payload_base64\":\"/wA=\"}"));
    }

    #[test]
    fn truncated_message_says_so_and_keeps_its_key_and_length() {
        assert!(line("h\u{e4}llo".as_bytes(), Some(2)).ends_with("\"len\":6,\"payload\":\"h\",\"truncated\":true}\n"));
        assert!(line(b"hello\xff", Some(2)).ends_with("\"len\":6,\"payload_base64\":\"aGU=\",\"truncated\":true}\n"));
        assert!(!line(b"hello", Some(5)).contains("truncated"));
    }

    #[test]
    fn payload_that_is_no_text_is_cut_at_that_byte() {
        // The last three bytes are a character, which is no matter among bytes that are no text.
        let line = line(b"\xff\xe2\x82\xac", Some(3));

        assert!(
            line.ends_with("\"len\":4,\"payload_base64\":\"/+KC\",\"truncated\":true}\n"),
            "{line}"
        );
    }

    #[test]
    fn nothing_in_a_string_can_steer_a_terminal_or_break_the_line() {
        let line = line("\u{1b}[2J\u{9b}2J\u{7f}\n\u{2028}\u{202e}\"\\".as_bytes(), None);

        assert!(
            line.contains(r#""\u001b[2J\u009b2J\u007f\n\u2028\u202e\"\\""#),
            "{line}"
        );
    }

    proptest! {
        #[test]
        fn any_payload_and_name_read_back_as_they_were(
            payload in prop_oneof![
                any::<Vec<u8>>(),
                any::<String>().prop_map(String::into_bytes),
                proptest::collection::vec(0_u8..0x20, 0..40),
            ],
            server in any::<String>(),
            sequence in any::<u64>(),
            tag in any::<u64>(),
        ) {
            let mut out = Vec::new();
            message(&mut out, &Message { server: &server, sequence, timestamp_ns: u64::MAX, tag, payload: &payload }, None);

            prop_assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
            let value: Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(&value["server"], &Value::from(server));
            prop_assert_eq!(&value["sequence"], &Value::from(sequence));
            prop_assert_eq!(&value["timestamp_ns"], &Value::from(u64::MAX));
            prop_assert_eq!(&value["tag"], &Value::from(tag));
            prop_assert_eq!(&value["len"], &Value::from(payload.len()));
            let back = match value["payload"].as_str() {
                Some(text) => text.as_bytes().to_vec(),
                None => BASE64_STANDARD.decode(value["payload_base64"].as_str().unwrap()).unwrap(),
            };
            prop_assert_eq!(back, payload);
        }

        #[test]
        fn truncated_text_is_a_prefix_of_at_most_that_many_bytes(text in any::<String>(), limit in 0_usize..40) {
            let mut out = Vec::new();
            let told = Message { server: "s", sequence: 0, timestamp_ns: 0, tag: 0, payload: text.as_bytes() };
            message(&mut out, &told, Some(limit));

            let value: Value = serde_json::from_slice(&out).unwrap();
            let shown = value["payload"].as_str().unwrap();
            prop_assert!(text.starts_with(shown) && shown.len() <= limit);
            prop_assert_eq!(value["truncated"] == Value::Bool(true), shown.len() < text.len());
        }
    }
}
