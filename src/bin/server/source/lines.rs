//! Lines out of blocks: every `\n` ends a message, which does not hold it.
//!
//! A line that lies within one block is handed on where it lies. Only one that goes on in the next block is copied, and
//! no more of it than a message may hold: of a longer one nothing but its length is kept.

use memchr::memchr;

/// What lies between two newlines.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line that fits into a message.
    Whole(&'a [u8]),
    /// A line of this many bytes, more than a message may hold.
    TooLong(u64),
}

/// Splits a stream of bytes into lines.
#[derive(Debug)]
pub struct LineSplitter {
    max: usize,
    /// The start of a line whose end is yet to come; empty if it is too long already.
    partial: Vec<u8>,
    /// How long that line is so far.
    partial_bytes: u64,
}

impl LineSplitter {
    /// Begins a stream whose lines may have `max` bytes.
    pub const fn new(max: usize) -> Self {
        Self {
            max,
            partial: Vec::new(),
            partial_bytes: 0,
        }
    }

    /// Hands every line that ends in `block` to `each`.
    pub fn split(&mut self, block: &[u8], mut each: impl FnMut(Line<'_>)) {
        let mut block = block;
        if self.partial_bytes > 0 {
            let Some(end) = memchr(b'\n', block) else {
                self.keep(block);
                return;
            };
            self.keep(&block[..end]);
            self.end(&mut each);
            block = &block[end + 1..];
        }
        while let Some(end) = line_end(block) {
            let line = &block[..end];
            block = &block[end + 1..];
            if line.len() <= self.max {
                each(Line::Whole(line));
            } else {
                each(Line::TooLong(line.len() as u64));
            }
        }
        self.keep(block);
    }

    /// Ends the stream, or the file: hands on the last line if it had no newline.
    pub fn end(&mut self, mut each: impl FnMut(Line<'_>)) {
        if self.partial_bytes > self.max as u64 {
            each(Line::TooLong(self.partial_bytes));
        } else if self.partial_bytes > 0 {
            each(Line::Whole(&self.partial));
        }
        self.partial.clear();
        self.partial_bytes = 0;
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.partial_bytes += bytes.len() as u64;
        if self.partial_bytes <= self.max as u64 {
            self.partial.extend_from_slice(bytes);
        } else {
            self.partial.clear();
        }
    }
}

/// Where the first newline of `bytes` is. The search for one in a long line takes some time to begin, more than a short
/// line takes to publish: the first words are looked at without it.
#[inline]
fn line_end(bytes: &[u8]) -> Option<usize> {
    let (words, _) = bytes.as_chunks::<WORD_BYTES>();
    for (index, word) in words.iter().take(WORDS).enumerate() {
        if let Some(at) = newline_in(*word) {
            return Some(index * WORD_BYTES + at);
        }
    }
    let searched = words.len().min(WORDS) * WORD_BYTES;
    memchr(b'\n', &bytes[searched..]).map(|at| searched + at)
}

/// Bytes that are looked at together, and how often.
const WORD_BYTES: usize = 8;
const WORDS: usize = 2;

/// Where the first newline of eight bytes is.
#[inline]
const fn newline_in(bytes: [u8; WORD_BYTES]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; WORD_BYTES]);
    const HIGHS: u64 = ONES << 7;
    // Zero where the newlines are. A byte that borrows is zero: so the lowest high bit that is set is right.
    let zero = u64::from_le_bytes(bytes) ^ (ONES * b'\n' as u64);
    let found = zero.wrapping_sub(ONES) & !zero & HIGHS;
    if found == 0 {
        None
    } else {
        Some(found.trailing_zeros() as usize / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_in_blocks(stream: &[u8], block_bytes: usize, max: usize) -> Vec<Result<Vec<u8>, u64>> {
        let mut lines = Vec::new();
        let mut each = |line: Line<'_>| {
            lines.push(match line {
                Line::Whole(line) => Ok(line.to_vec()),
                Line::TooLong(bytes) => Err(bytes),
            });
        };
        let mut splitter = LineSplitter::new(max);
        for block in stream.chunks(block_bytes) {
            splitter.split(block, &mut each);
            assert!(splitter.partial.len() <= max);
        }
        splitter.end(each);
        lines
    }

    #[test]
    fn lines_are_the_same_wherever_the_blocks_end() {
        let stream = b"one\n\ntwo\r\n  three \n0123456789\n01234567890\n\nlast";
        let expected: Vec<Result<Vec<u8>, u64>> = vec![
            Ok(b"one".to_vec()),
            Ok(b"".to_vec()),
            Ok(b"two\r".to_vec()),
            Ok(b"  three ".to_vec()),
            Ok(b"0123456789".to_vec()),
            Err(11),
            Ok(b"".to_vec()),
            Ok(b"last".to_vec()),
        ];
        for block_bytes in 1..=stream.len() {
            assert_eq!(
                split_in_blocks(stream, block_bytes, 10),
                expected,
                "blocks of {block_bytes}"
            );
        }
    }

    #[test]
    fn first_newline_is_found_wherever_it_is_and_whatever_is_around_it() {
        for around in [0, 1, b'\n' - 1, b'\n' + 1, b'\n' | 0x80, 0x7f, 0xff] {
            for len in 0..=100 {
                let mut bytes = vec![around; len];
                assert_eq!(line_end(&bytes), None);
                for at in (0..len).rev() {
                    bytes[at] = b'\n';
                    assert_eq!(line_end(&bytes), Some(at), "of {len} beside {around:#x}");
                }
            }
        }
    }

    #[test]
    fn a_newline_at_the_end_begins_no_line() {
        assert_eq!(split_in_blocks(b"one\n", 2, 10), [Ok(b"one".to_vec())]);
        assert_eq!(split_in_blocks(b"\n", 1, 10), [Ok(b"".to_vec())]);
        assert!(split_in_blocks(b"", 1, 10).is_empty());
    }

    #[test]
    fn a_line_without_end_is_counted_and_not_kept() {
        let stream = vec![b'x'; 1 << 20];

        assert_eq!(split_in_blocks(&stream, 4096, 100), [Err(1 << 20)]);
    }
}
