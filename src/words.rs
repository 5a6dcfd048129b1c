//! Shared memory as a row of 64-bit words.
//!
//! A peer may write to shared memory at any time, so it is never seen as bytes: both sides access it as `AtomicU64`,
//! one size everywhere, and no access is a data race. Readers hold [`Words`], which can load and nothing else; their
//! pages are mapped read-only, where Rust promises no more than Relaxed loads. Bytes keep their order in memory: byte
//! `i` of a message is byte `i % 8` of word `i / 8`, as the machine lays words out.

use crate::sync::{AtomicU64, Ordering};

/// Bytes in a word.
pub(crate) const WORD_BYTES: usize = 8;

/// How many words hold `bytes` bytes.
pub(crate) const fn words_for(bytes: usize) -> usize {
    bytes.div_ceil(WORD_BYTES)
}

/// A view of shared words that can be loaded and not stored.
#[derive(Clone, Copy)]
pub struct Words<'a>(&'a [AtomicU64]);

impl<'a> Words<'a> {
    pub(crate) const fn new(words: &'a [AtomicU64]) -> Self {
        Self(words)
    }

    /// How many words there are.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.len()
    }

    /// Where the first of them lies.
    #[cfg(not(loom))]
    pub(crate) const fn as_ptr(self) -> *const AtomicU64 {
        self.0.as_ptr()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Loads the word at `index`, Relaxed: one plain load.
    ///
    /// # Panics
    /// If `index` is out of range.
    #[inline]
    #[must_use]
    pub fn load(self, index: usize) -> u64 {
        look(&self.0[index])
    }

    /// The `len` words from `start`.
    ///
    /// # Panics
    /// If they do not all lie in this view.
    #[inline]
    #[must_use]
    pub fn slice(self, start: usize, len: usize) -> Self {
        Self(&self.0[start..start + len])
    }

    /// Every word in turn, each loaded once.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u64> + 'a {
        self.0.iter().map(look)
    }

    /// Copies the first `out.len()` bytes out, a word at a time.
    ///
    /// # Panics
    /// If there are fewer bytes than that.
    #[inline]
    pub fn copy_to(self, out: &mut [u8]) {
        let words = &self.0[..words_for(out.len())];
        let mut chunks = out.chunks_exact_mut(WORD_BYTES);
        for (chunk, word) in chunks.by_ref().zip(words) {
            chunk.copy_from_slice(&look(word).to_ne_bytes());
        }
        let tail = chunks.into_remainder();
        if let (Some(word), false) = (words.last(), tail.is_empty()) {
            tail.copy_from_slice(&look(word).to_ne_bytes()[..tail.len()]);
        }
    }
}

/// The one way in which a reader looks at shared memory.
#[inline]
fn look(word: &AtomicU64) -> u64 {
    #[cfg(all(test, not(loom)))]
    watch::tell(word);
    word.load(Ordering::Relaxed)
}

/// What a test does before each load of its thread: count it, or write what a stranger may write at that moment.
#[cfg(all(test, not(loom)))]
pub(crate) mod watch {
    use std::cell::RefCell;

    use crate::sync::AtomicU64;

    type Watcher = Box<dyn FnMut(&AtomicU64)>;

    thread_local! {
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    pub(super) fn tell(word: &AtomicU64) {
        WATCHER.with_borrow_mut(|watcher| {
            if let Some(watcher) = watcher {
                watcher(word);
            }
        });
    }

    /// Does `work` with `watcher` told of every load. The watcher must not look at shared memory as a reader does.
    pub(crate) fn during<R>(watcher: impl FnMut(&AtomicU64) + 'static, work: impl FnOnce() -> R) -> R {
        WATCHER.replace(Some(Box::new(watcher)));
        let result = work();
        WATCHER.take();
        result
    }
}

impl std::fmt::Debug for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Words({})", self.len())
    }
}

/// Stores `bytes` into `words` from the first on; the rest of the last word becomes zero.
///
/// # Panics
/// If the words are too few.
#[inline]
pub(crate) fn store_bytes(words: &[AtomicU64], bytes: &[u8]) {
    let words = &words[..words_for(bytes.len())];
    let (chunks, tail) = bytes.as_chunks::<WORD_BYTES>();
    // Four words a turn: the compiler does not unroll loops over atomics.
    let (turns, rest) = chunks.as_chunks::<4>();
    let (word_turns, rest_words) = words.split_at(turns.len() * 4);
    for (turn, words) in turns.iter().zip(word_turns.as_chunks::<4>().0) {
        for (chunk, word) in turn.iter().zip(words) {
            word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
        }
    }
    for (chunk, word) in rest.iter().zip(rest_words) {
        word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
    }
    if let (Some(word), false) = (words.last(), tail.is_empty()) {
        // The last eight bytes, shifted: one load, where copying a few bytes to a buffer and loading that as a word
        // stalls for longer than all the rest takes.
        let value = bytes.last_chunk().map_or_else(
            || word_of(tail),
            |last| (u64::from_le_bytes(*last) >> (8 * (WORD_BYTES - tail.len()))).to_le(),
        );
        word.store(value, Ordering::Relaxed);
    }
}

/// The word whose first bytes are `bytes` (at most 8), the others zero.
#[inline]
pub(crate) fn word_of(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    // Two loads that may overlap: no loop, and no copy through a buffer.
    let value = if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << (8 * (len - 4))
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        u64::from(u16::from_le_bytes(*first)) | u64::from(u16::from_le_bytes(*last)) << (8 * (len - 2))
    } else {
        bytes.first().map_or(0, |&byte| byte.into())
    };
    value.to_le()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn stored_bytes_come_back_at_every_length() {
        let bytes: Vec<u8> = (1..=64).collect();
        for len in 0..=bytes.len() {
            let words: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(u64::MAX)).collect();
            let mut out = vec![0; len];

            store_bytes(&words, &bytes[..len]);
            Words::new(&words).copy_to(&mut out);

            assert_eq!(out, &bytes[..len]);
        }
    }

    #[test]
    fn rest_of_the_last_word_is_zero() {
        for len in 1..=24_usize {
            let words: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(u64::MAX)).collect();
            let mut expected = [0; 24];
            expected[..len].copy_from_slice(&b"abcdefghijklmnopqrstuvwx"[..len]);

            store_bytes(&words, &expected[..len]);

            let mut stored = [0; 24];
            let count = words_for(len) * WORD_BYTES;
            Words::new(&words).copy_to(&mut stored[..count]);
            assert_eq!(stored, expected, "{len}");
        }
    }
}
