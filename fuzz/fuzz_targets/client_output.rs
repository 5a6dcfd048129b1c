//! What the client prints of a message: JSON gives back what was published, exactly; raw and hex give back the payload; no
//! format but raw lets a stranger steer a terminal or break the line.
//!
//! Input: sequence, timestamp, tag, the limit of --truncate (two bytes; 0: none), one byte with the length of the server's
//! name, the name, then the payload.
#![no_main]

#[path = "../../src/bin/client/args.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod args;
#[path = "../../src/bin/client/identity.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod identity;
#[path = "../../src/bin/client/live_first.rs"]
mod live_first;
#[path = "../../src/bin/client/look.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod look;
#[path = "../../src/bin/client/once.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod once;
#[path = "../../src/bin/client/output/mod.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod output;
#[path = "../../src/bin/client/stdout.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod stdout;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use libfuzzer_sys::fuzz_target;
use output::{Format, Message, Style};
use serde_json::Value;

fn printed(message: &Message<'_>, format: Format, truncate: Option<usize>) -> Vec<u8> {
    let style = Style {
        format,
        truncate,
        colour: false,
    };
    let mut out = b"before\n".to_vec();
    style.write(&mut out, message, 12);
    assert!(out.starts_with(b"before\n") && out.ends_with(b"\n"));
    out.split_off(7)
}

/// How much of `payload` is shown of which only `truncate` bytes may be: that many, or less if it would cut a character.
fn shown(payload: &[u8], truncate: Option<usize>) -> &[u8] {
    let most = truncate.map_or(payload.len(), |limit| limit.min(payload.len()));
    let is_character = |bytes: &[u8]| str::from_utf8(bytes).is_ok_and(|text| text.chars().count() == 1);
    let is_cut = |&start: &usize| {
        let ends = most + 1..=payload.len().min(start + 4);
        ends.into_iter().any(|end| is_character(&payload[start..end]))
    };
    let end = (most.saturating_sub(3)..most).find(is_cut).unwrap_or(most);
    &payload[..end]
}

fn check_json(message: &Message<'_>, truncate: Option<usize>) {
    let out = printed(message, Format::Json, truncate);
    let text = std::str::from_utf8(&out).expect("JSON is text");
    assert!(!text.trim_end_matches('\n').contains(char::is_control), "{text:?}");
    let Ok(Value::Object(mut object)) = serde_json::from_str(text) else {
        panic!("no JSON object: {text}");
    };
    let mut take = |key: &str| object.remove(key);
    assert_eq!(take("type"), Some("message".into()));
    assert_eq!(take("server"), Some(message.server.into()));
    assert_eq!(take("sequence"), Some(message.sequence.into()));
    assert_eq!(take("timestamp_ns"), Some(message.timestamp_ns.into()));
    assert_eq!(take("tag"), Some(message.tag.into()));
    assert_eq!(take("len"), Some(message.payload.len().into()));
    let is_text = str::from_utf8(message.payload).is_ok();
    let payload = match (take("payload"), take("payload_base64")) {
        (Some(Value::String(text)), None) if is_text => text.into_bytes(),
        (None, Some(Value::String(text))) if !is_text => BASE64_STANDARD.decode(text).expect("base64 with padding"),
        other => panic!("{other:?}"),
    };
    let most = truncate.map_or(message.payload.len(), |limit| limit.min(message.payload.len()));
    let expected = if is_text {
        shown(message.payload, truncate)
    } else {
        &message.payload[..most]
    };
    assert_eq!(payload, expected, "{text}");
    let is_whole = payload.len() == message.payload.len();
    assert_eq!(take("truncated"), (!is_whole).then_some(Value::Bool(true)));
    assert!(object.is_empty(), "{object:?}");
}

fn check_hex(message: &Message<'_>, truncate: Option<usize>) {
    let out = String::from_utf8(printed(message, Format::Hex, truncate)).expect("hex is text");
    let (heading, rows) = out.split_once('\n').expect("a line about the message");
    let most = truncate.map_or(message.payload.len(), |limit| limit.min(message.payload.len()));
    let cut = if most < message.payload.len() { " truncated" } else { "" };
    let about = format!(" tag {} len {}{cut}", message.tag, message.payload.len());
    assert!(heading.ends_with(&about), "{heading}");
    let mut payload = Vec::new();
    for row in rows.lines() {
        let (bytes, visible) = row.split_once('|').expect("the bytes as text");
        assert!(visible.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        let mut columns = bytes.split_whitespace();
        assert_eq!(columns.next(), Some(format!("{:08x}", payload.len()).as_str()));
        payload.extend(columns.map(|byte| u8::from_str_radix(byte, 16).expect("two digits")));
    }
    assert_eq!(payload, &message.payload[..most]);
}

fn check_pretty(message: &Message<'_>, truncate: Option<usize>) {
    let out = String::from_utf8(printed(message, Format::Pretty, truncate)).expect("lines are text");
    let line = out.strip_suffix('\n').expect("a line");
    let obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!line.contains(obeyed), "{line:?}");
    // The sequence and the time are between the name and the payload.
    let mut columns = line[message.server.len()..].split_whitespace();
    assert_eq!(columns.next(), Some(message.sequence.to_string().as_str()));
    assert!(columns.next().is_some_and(|time| time.ends_with('Z')), "{line}");
}

fuzz_target!(|input: &[u8]| {
    let Some((numbers, rest)) = input.split_first_chunk::<27>() else {
        return;
    };
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| numbers[at + i]));
    let truncate = match u16::from_le_bytes([numbers[24], numbers[25]]) {
        0 => None,
        limit => Some(usize::from(limit) - 1),
    };
    let (name, payload) = rest.split_at(usize::from(numbers[26]).min(rest.len()));
    let name = String::from_utf8_lossy(name);
    let mut message = Message {
        server: &name,
        sequence: number(0),
        timestamp_ns: number(8),
        tag: number(16),
        payload,
    };
    check_json(&message, truncate);

    let limit = truncate.unwrap_or(usize::MAX).min(payload.len());
    assert_eq!(
        printed(&message, Format::Raw, truncate),
        [&payload[..limit], b"\n"].concat()
    );

    // For people a name is one that a server may have.
    message.server = "prices";
    check_hex(&message, truncate);
    check_pretty(&message, truncate);
});
