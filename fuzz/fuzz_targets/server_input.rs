//! What a server publishes of its input: frames that programs push, and lines. However the input is split into blocks, the
//! messages are those that docs/sources.md speaks of.
//!
//! Input: one byte for the longest message, one with the number of cuts, the cuts, then the input.
#![no_main]

#[path = "../../src/bin/server/source/frames.rs"]
mod frames;
#[path = "../../src/bin/server/source/lines.rs"]
mod lines;

use frames::{Frame, FrameSplitter, HEADER_BYTES};
use libfuzzer_sys::fuzz_target;
use lines::{Line, LineSplitter};

/// A message that was found, by its bytes, or one that is too long, by its length. Lines have tag 0.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Whole(u64, Vec<u8>),
    TooLong(u64),
}

/// The frames of `input`, and whether it ends within one.
fn frames_of(mut input: &[u8], max: usize) -> (Vec<Found>, bool) {
    let mut found = Vec::new();
    while let Some((header, rest)) = input.split_first_chunk::<HEADER_BYTES>() {
        let (length, tag) = header.split_first_chunk().expect("a header has a length");
        let length = u32::from_le_bytes(*length) as usize;
        let tag = u64::from_le_bytes(tag.try_into().expect("a header ends with a tag"));
        if length > max {
            found.push(Found::TooLong(length as u64));
        }
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            return (found, length > 0);
        };
        if length <= max {
            found.push(Found::Whole(tag, payload.to_vec()));
        }
        input = rest;
    }
    (found, !input.is_empty())
}

/// The lines of `input`.
fn lines_of(input: &[u8], max: usize) -> Vec<Found> {
    let mut lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
    // Behind the last newline there is only a line if there is anything.
    if lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    let found = lines.into_iter().map(|line| match line.len() {
        len if len > max => Found::TooLong(len as u64),
        _ => Found::Whole(0, line.to_vec()),
    });
    found.collect()
}

/// The pieces of `input` whose lengths `cuts` tells; without a cut, the rest at once.
fn pieces<'a>(mut input: &'a [u8], cuts: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut cuts = cuts.iter();
    std::iter::from_fn(move || {
        let len = cuts.next().map_or(usize::MAX, |&cut| cut.into());
        let (piece, rest) = input.split_at(len.min(input.len()));
        input = rest;
        (len < usize::MAX || !piece.is_empty()).then_some(piece)
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((&[max, count], rest)) = input.split_first_chunk() else {
        return;
    };
    let max = usize::from(max);
    let (cuts, input) = rest.split_at(usize::from(count).min(rest.len()));

    let (mut splitter, mut found) = (FrameSplitter::new(max), Vec::new());
    for piece in pieces(input, cuts) {
        splitter.split(piece, |frame| match frame {
            Frame::Whole { tag, payload } => found.push(Found::Whole(tag, payload.to_vec())),
            Frame::TooLong(bytes) => found.push(Found::TooLong(bytes)),
        });
    }
    assert_eq!((found, splitter.missing().is_some()), frames_of(input, max));

    let (mut splitter, mut found) = (LineSplitter::new(max), Vec::new());
    let mut each = |line: Line<'_>| match line {
        Line::Whole(bytes) => found.push(Found::Whole(0, bytes.to_vec())),
        Line::TooLong(bytes) => found.push(Found::TooLong(bytes)),
    };
    pieces(input, cuts).for_each(|piece| splitter.split(piece, &mut each));
    splitter.end(&mut each);
    assert_eq!(found, lines_of(input, max));
});
