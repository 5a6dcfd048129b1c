//! Bursts of frames, encoded once and sent to every connection that is at the same place in the stream.
//!
//! ```text
//!   ring:    ... 40 41 42 43 | 44 45 46 47 48 | 49 ...
//!   chunks:      [40 .. 44)    [44 .. 49)                kept: the newest few, found by their first sequence
//!                  ^    ^          ^
//!                  |    |          connection 3
//!                  |    connection 2                     each holds the one chunk that it is sending
//!                  connection 1
//! ```
//!
//! Connections at one place stay together, since all take the same chunks from there on. One that is slower holds its
//! chunk and asks for the next when it has sent it; if the ring has gone past by then, the chunk that it gets begins
//! with a gap.

use std::sync::Arc;

use super::frame::ServerFrame;
use super::wire::{begin_message, finish};
use crate::ring::{self, Poll, Reader};
use crate::segment::Segment;

/// A chunk takes no further message once it is this long. One message may overhang it.
pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that can be found again, and buffers kept for new ones.
const KEPT: usize = 8;

/// Frames of the stream from one sequence to another, or a few frames of one connection alone.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// The sequence of the first message or gap.
    first: u64,
    /// Where to go on behind it.
    pub(super) next: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) messages: u64,
    pub(super) gaps: u64,
    /// Messages that the gaps speak of.
    pub(super) missed: u64,
    pub(super) end: End,
    /// For those whom the publisher may overtake; makes a difference if there are gaps.
    is_chased: bool,
}

/// What follows a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum End {
    /// More of the stream.
    #[default]
    Open,
    /// Nothing: its last frame says that the stream was closed.
    Closed,
    /// Nothing: the ring cannot be read any further.
    Corrupt,
}

/// Makes chunks and finds them again.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// Newest last; at most `KEPT`.
    recent: Vec<Arc<Chunk>>,
    /// Buffers of chunks that nobody holds any more; at most `KEPT`.
    spare: Vec<Vec<u8>>,
}

impl Chunks {
    /// The frames from `cursor` on; none if nothing is there yet. `is_chased` as in [`Reader::set_chased`].
    pub(super) fn from(&mut self, cursor: u64, is_chased: bool, segment: &Segment) -> Option<Arc<Chunk>> {
        let serves = |chunk: &&Arc<Chunk>| chunk.first == cursor && (chunk.gaps == 0 || chunk.is_chased == is_chased);
        if let Some(chunk) = self.recent.iter().rev().find(serves) {
            return Some(chunk.clone());
        }
        let mut chunk = self.blank();
        chunk.is_chased = is_chased;
        chunk.encode(cursor, segment);
        if chunk.bytes.is_empty() && chunk.end == End::Open {
            self.spare.push(chunk.bytes);
            return None;
        }
        let chunk = Arc::new(chunk);
        if self.recent.len() == KEPT {
            let oldest = self.recent.remove(0);
            self.release(oldest);
        }
        self.recent.push(chunk.clone());
        Some(chunk)
    }

    /// One frame for one connection.
    pub(super) fn of_frame(&mut self, frame: &ServerFrame<'_>) -> Arc<Chunk> {
        self.of_frames(std::slice::from_ref(frame))
    }

    /// Frames for one connection.
    pub(super) fn of_frames(&mut self, frames: &[ServerFrame<'_>]) -> Arc<Chunk> {
        let mut chunk = self.blank();
        frames.iter().for_each(|frame| frame.append_to(&mut chunk.bytes));
        Arc::new(chunk)
    }

    /// Takes a chunk back, so that its buffer serves again once nobody else holds it.
    pub(super) fn release(&mut self, chunk: Arc<Chunk>) {
        if let Some(mut chunk) = Arc::into_inner(chunk)
            && self.spare.len() < KEPT
            && chunk.bytes.capacity() <= 2 * CHUNK_BYTES
        {
            chunk.bytes.clear();
            self.spare.push(chunk.bytes);
        }
    }

    /// Forgets all chunks that nobody is sending: they would only occupy memory while the stream pauses.
    pub(super) fn forget(&mut self) {
        while let Some(chunk) = self.recent.pop() {
            self.release(chunk);
        }
    }

    fn blank(&mut self) -> Chunk {
        Chunk {
            bytes: self.spare.pop().unwrap_or_default(),
            ..Chunk::default()
        }
    }
}

impl Chunk {
    /// Fills an empty chunk with what the ring holds from `cursor` on.
    fn encode(&mut self, cursor: u64, segment: &Segment) {
        let words = segment.words();
        let mut reader = Reader::new(*segment.geometry(), cursor);
        reader.set_chased(self.is_chased);
        self.first = cursor;
        while self.bytes.len() < CHUNK_BYTES {
            let start = self.bytes.len();
            let found = reader.poll(words, |view| {
                begin_message(&mut self.bytes, view.sequence(), view.timestamp_ns(), view.tag());
                view.append_to(&mut self.bytes);
            });
            if matches!(found, Poll::Message(_)) {
                finish(&mut self.bytes, start);
                self.messages += 1;
                continue;
            }
            // What was appended is of a message that was overwritten meanwhile.
            self.bytes.truncate(start);
            match found {
                Poll::Lapped { first, missed } => {
                    ServerFrame::Gap { first, missed }.append_to(&mut self.bytes);
                    self.gaps += 1;
                    self.missed += missed;
                }
                Poll::Ended => self.close(cursor.max(reader.cursor())),
                Poll::Corrupt { .. } => self.end = End::Corrupt,
                // Somebody may wait for a sequence that the stream did not live to see.
                _ => {
                    let head = ring::head(words);
                    if head.closed && head.next < reader.cursor() {
                        self.close(head.next);
                    }
                    break;
                }
            }
            if self.end != End::Open {
                break;
            }
        }
        self.next = reader.cursor();
    }

    fn close(&mut self, head: u64) {
        ServerFrame::End { head }.append_to(&mut self.bytes);
        self.end = End::Closed;
    }
}
