//! Frames out of blocks: how programs hand binary messages to a server.
//!
//! ```text
//!   0        4                 12
//!   | length | tag             | payload
//!   | u32 LE | u64 LE          | length bytes
//! ```
//!
//! A frame that lies within one block is handed on where it lies; only one that goes on in the next block is copied. The
//! length is a stranger's claim: memory is taken for bytes that came, not for bytes that were promised, and a frame that
//! is longer than a message may be is skipped as it comes.

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 12;

/// What a stream of frames holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message.
    Whole {
        /// The sender's tag for it.
        tag: u64,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// A message of this many bytes, more than one may hold. It is skipped.
    TooLong(u64),
}

/// Splits a stream of bytes into frames.
#[derive(Debug)]
pub struct FrameSplitter {
    max: usize,
    /// The start of a frame whose end is yet to come.
    partial: Vec<u8>,
    /// Bytes yet to come of a frame that is too long.
    skip: u64,
}

/// The length and the tag at the start of `bytes`, if they are all there.
fn header(bytes: &[u8]) -> Option<(u32, u64)> {
    let (length, rest) = bytes.split_first_chunk()?;
    let tag = rest.first_chunk()?;
    Some((u32::from_le_bytes(*length), u64::from_le_bytes(*tag)))
}

impl FrameSplitter {
    /// Begins a stream whose payloads may have `max` bytes.
    pub const fn new(max: usize) -> Self {
        Self {
            max,
            partial: Vec::new(),
            skip: 0,
        }
    }

    /// Hands every frame that ends in `block`, and every one whose length is seen there to be too much, to `each`.
    pub fn split(&mut self, mut block: &[u8], mut each: impl FnMut(Frame<'_>)) {
        while !block.is_empty() {
            if self.skip > 0 {
                block = self.skip_some(block);
            } else if self.partial.is_empty() {
                block = self.split_in_place(block, &mut each);
                if self.skip == 0 {
                    self.partial.extend_from_slice(block);
                    return;
                }
            } else {
                self.complete(&mut block, &mut each);
            }
        }
    }

    /// How many bytes are missing if the stream ends here, at the least: a frame has begun. `None` if it may.
    pub fn missing(&self) -> Option<u64> {
        if self.skip > 0 {
            return Some(self.skip);
        }
        let whole = HEADER_BYTES as u64 + header(&self.partial).map_or(0, |(length, _)| length.into());
        (!self.partial.is_empty()).then(|| whole - self.partial.len() as u64)
    }

    fn skip_some<'b>(&mut self, block: &'b [u8]) -> &'b [u8] {
        let skipped = usize::try_from(self.skip).map_or(block.len(), |skip| skip.min(block.len()));
        self.skip -= skipped as u64;
        &block[skipped..]
    }

    /// Hands on the frames that lie in `block` whole. Returns what is behind them: the start of another, or, once
    /// `skip` is set, the payload of one that is too long.
    fn split_in_place<'b>(&mut self, mut block: &'b [u8], each: &mut impl FnMut(Frame<'_>)) -> &'b [u8] {
        while let Some((length, tag)) = header(block) {
            let rest = &block[HEADER_BYTES..];
            if self.begin_skip(length) {
                each(Frame::TooLong(length.into()));
                return rest;
            }
            let Some((payload, rest)) = rest.split_at_checked(length as usize) else {
                break;
            };
            each(Frame::Whole { tag, payload });
            block = rest;
        }
        block
    }

    /// Goes on with the frame that an earlier block began, to its end or that of the block.
    fn complete(&mut self, block: &mut &[u8], each: &mut impl FnMut(Frame<'_>)) {
        self.take(block, HEADER_BYTES);
        let Some((length, tag)) = header(&self.partial) else {
            return;
        };
        if self.begin_skip(length) {
            each(Frame::TooLong(length.into()));
            self.partial.clear();
            return;
        }
        self.take(block, HEADER_BYTES + length as usize);
        let Some(payload) = self.partial.get(HEADER_BYTES..HEADER_BYTES + length as usize) else {
            return;
        };
        each(Frame::Whole { tag, payload });
        self.partial.clear();
    }

    /// Moves bytes from `block` until the partial frame has `bytes` of them.
    fn take(&mut self, block: &mut &[u8], bytes: usize) {
        let missing = bytes.saturating_sub(self.partial.len());
        let (taken, rest) = block.split_at(missing.min(block.len()));
        self.partial.extend_from_slice(taken);
        *block = rest;
    }

    fn begin_skip(&mut self, length: u32) -> bool {
        let is_too_long = length as usize > self.max;
        if is_too_long {
            self.skip = length.into();
        }
        is_too_long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
        bytes.extend(tag.to_le_bytes());
        bytes.extend(payload);
        bytes
    }

    type Frames = Vec<Result<(u64, Vec<u8>), u64>>;

    fn split_in_blocks(stream: &[u8], block_bytes: usize, max: usize) -> (Frames, FrameSplitter) {
        let mut frames = Vec::new();
        let mut splitter = FrameSplitter::new(max);
        for block in stream.chunks(block_bytes) {
            splitter.split(block, |frame| {
                frames.push(match frame {
                    Frame::Whole { tag, payload } => Ok((tag, payload.to_vec())),
                    Frame::TooLong(bytes) => Err(bytes),
                });
            });
            assert!(splitter.partial.len() <= HEADER_BYTES + max);
        }
        (frames, splitter)
    }

    #[test]
    fn frames_are_the_same_wherever_the_blocks_end() {
        let stream = [
            frame(1, b"one"),
            frame(u64::MAX, b""),
            frame(3, b"0123456789"),
            frame(4, b"01234567890"),
            frame(5, &[0; 100]),
            frame(6, b"\0\n\xff"),
        ]
        .concat();
        let expected: Frames = vec![
            Ok((1, b"one".to_vec())),
            Ok((u64::MAX, b"".to_vec())),
            Ok((3, b"0123456789".to_vec())),
            Err(11),
            Err(100),
            Ok((6, b"\0\n\xff".to_vec())),
        ];
        for block_bytes in 1..=stream.len() {
            let (frames, splitter) = split_in_blocks(&stream, block_bytes, 10);

            assert_eq!(frames, expected, "blocks of {block_bytes}");
            assert_eq!(splitter.missing(), None);
        }
    }

    #[test]
    fn a_stream_that_ends_within_a_frame_is_noticed() {
        let stream = frame(7, b"payload");
        for cut in 1..stream.len() {
            let (frames, splitter) = split_in_blocks(&stream[..cut], 5, 10);

            assert!(frames.is_empty());
            let end = if cut < HEADER_BYTES { HEADER_BYTES } else { stream.len() };
            assert_eq!(splitter.missing(), Some((end - cut) as u64), "cut behind {cut} bytes");
        }
        assert_eq!(split_in_blocks(&stream[..15], 20, 5).1.missing(), Some(4));
    }

    #[test]
    fn a_promise_of_four_gigabytes_takes_no_memory() {
        let (frames, splitter) = split_in_blocks(&[0xff; HEADER_BYTES + 5], 4, 1000);

        assert_eq!(frames, [Err(u32::MAX.into())]);
        assert_eq!(splitter.skip, u64::from(u32::MAX) - 5);
        assert!(splitter.partial.capacity() < 100);
    }
}
