//! Shared memory as a row of 64-bit words.
//!
//! A peer may write to shared memory at any time, so it is never seen as bytes: both sides access it as `AtomicU64`,
//! one size everywhere, and no access is a data race. Readers hold [`Words`], which can load and nothing else; their
//! pages are mapped read-only, where Rust promises no more than Relaxed loads. Bytes keep their order in memory: byte
//! `i` of a message is byte `i % 8` of word `i / 8`, as the machine lays words out.

use std::iter::FusedIterator;
use std::slice;

use bytemuck::AnyBitPattern;

use crate::copy;
use crate::sync::{AtomicU64, Ordering};

/// Bytes in a word.
pub(crate) const WORD_BYTES: usize = 8;
/// Words in a cache line.
pub(crate) const LINE_WORDS: usize = 8;

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

    /// Asks for the cache line `AHEAD` bytes behind the word at `index`, if there is such a word. It is not looked at.
    #[inline]
    pub(crate) fn prefetch<const AHEAD: usize>(self, index: usize) {
        if let Some(word) = self.0.get(index) {
            copy::prefetch_to_load::<AHEAD>(word);
        }
    }

    /// Asks for the cache line that lies [`copy::LOAD_AHEAD_BYTES`] behind the word at `index`, if there is such a word.
    #[inline]
    pub(crate) fn prefetch_ahead(self, index: usize) {
        self.prefetch::<{ copy::LOAD_AHEAD_BYTES }>(index);
    }

    /// Asks for the cache lines that lie [`copy::LOAD_AHEAD_BYTES`] behind these, as `fold` does on its way: for who looks at
    /// them in other ways. For no more of them than that, and for none behind a single block, which mostly is in its slot.
    #[inline]
    pub(crate) fn prefetch_behind(self) {
        const MOST: usize = copy::LOAD_AHEAD_BYTES / size_of::<Line>();
        type Line = [AtomicU64; LINE_WORDS];
        let lines: &[Line] = self.0.as_chunks().0;
        if lines.len() > 1 {
            for line in &lines[..lines.len().min(MOST)] {
                copy::prefetch_to_load::<{ copy::LOAD_AHEAD_BYTES }>(&line[0]);
            }
        }
    }

    /// Takes the cache lines in which these lie out of all caches, see [`copy::flush`].
    #[inline]
    pub(crate) fn flush(self) {
        #[cfg(all(test, not(loom)))]
        watch::note_flushed(self.0);
        copy::flush(self.0);
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

    /// The words from `start` on.
    ///
    /// # Panics
    /// If `start` is out of range.
    #[inline]
    pub(crate) fn from(self, start: usize) -> Self {
        Self(&self.0[start..])
    }

    /// The `len` words from `start`, if they all lie in this view.
    #[inline]
    pub(crate) fn get(self, start: usize, len: usize) -> Option<Self> {
        self.0.get(start..start + len).map(Self)
    }

    /// The first `len` words and the others, if there are as many.
    #[inline]
    pub(crate) fn split_at_checked(self, len: usize) -> Option<(Self, Self)> {
        let (first, others) = self.0.split_at_checked(len)?;
        Some((Self(first), Self(others)))
    }

    /// The first `N` words, as many as the compiler can count, so that each is loaded without a look at the length, and the
    /// others; if there are as many.
    #[inline]
    pub(crate) fn split_first_chunk<const N: usize>(self) -> Option<(WordArray<'a, N>, Self)> {
        let (first, others) = self.0.split_first_chunk()?;
        Some((WordArray(first), Self(others)))
    }

    /// Every word in turn, each loaded once. `fold`, and what is made of it (`sum`, `max`, `for_each`), loads eight at a time
    /// where the machine can, and takes half as long as a loop.
    #[inline]
    #[must_use]
    pub fn iter(self) -> Iter<'a> {
        Iter(self.0.iter())
    }

    /// Copies the first `out.len()` bytes out.
    ///
    /// # Panics
    /// If there are fewer bytes than that.
    #[inline]
    pub fn copy_to(self, out: &mut [u8]) {
        self.copy_range_to(0, out);
    }

    /// Copies `out.len()` bytes out, from byte `offset` on.
    #[inline]
    pub(crate) fn copy_range_to(self, offset: usize, out: &mut [u8]) {
        copy::load(self.0, offset, out);
    }

    /// Appends the first `len` bytes to `out`.
    #[inline]
    pub(crate) fn append_to(self, len: usize, out: &mut Vec<u8>) {
        copy::append(self.0, len, out);
    }

    /// Reads a `T` from byte `offset` on.
    #[inline]
    pub(crate) fn read<T: AnyBitPattern>(self, offset: usize) -> T {
        copy::read(self.0, offset)
    }
}

/// Words in turn. Made by [`Words::iter`].
#[derive(Debug, Clone)]
pub struct Iter<'a>(slice::Iter<'a, AtomicU64>);

impl Iterator for Iter<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        self.0.next().map(look)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }

    #[inline]
    fn nth(&mut self, n: usize) -> Option<u64> {
        self.0.nth(n).map(look)
    }

    #[inline(always)]
    fn fold<B, F: FnMut(B, u64) -> B>(self, init: B, mut f: F) -> B {
        let (blocks, rest) = self.0.as_slice().as_chunks();
        let mut folded = init;
        for (index, block) in blocks.iter().enumerate() {
            // Not for a single one, which is in its slot: who goes from slot to slot asks for those.
            if index > 0 {
                copy::prefetch_to_load::<{ copy::LOAD_AHEAD_BYTES }>(&block[0]);
            }
            folded = copy::look_at_block(block).into_iter().fold(folded, &mut f);
        }
        rest.iter().map(look).fold(folded, f)
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl FusedIterator for Iter<'_> {}

/// A few words that can be loaded and not stored.
#[derive(Clone, Copy)]
pub(crate) struct WordArray<'a, const N: usize>(&'a [AtomicU64; N]);

impl<const N: usize> WordArray<'_, N> {
    /// Loads the word at `index`, Relaxed: one plain load.
    #[inline]
    pub(crate) fn load(self, index: usize) -> u64 {
        look(&self.0[index])
    }

    /// As [`Words::prefetch`].
    #[inline]
    pub(crate) fn prefetch<const AHEAD: usize>(self, index: usize) {
        copy::prefetch_to_load::<AHEAD>(&self.0[index]);
    }
}

/// The one way in which a reader looks at shared memory.
#[inline]
pub(crate) fn look(word: &AtomicU64) -> u64 {
    #[cfg(all(test, not(loom)))]
    watch::tell(word);
    word.load(Ordering::Relaxed)
}

/// What a test does before each load of its thread: count it, or write what a stranger may write at that moment. And what was
/// flushed.
#[cfg(all(test, not(loom)))]
pub(crate) mod watch {
    use std::cell::{Cell, RefCell};
    use std::ops::Range;

    use crate::sync::AtomicU64;

    type Watcher = Box<dyn FnMut(&AtomicU64)>;

    thread_local! {
        /// Whether there is a watcher: to ask for this takes Miri a tenth of the time.
        static WATCHED: Cell<bool> = const { Cell::new(false) };
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
        static FLUSHED: RefCell<Vec<Range<*const AtomicU64>>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn tell(word: &AtomicU64) {
        if WATCHED.get() {
            WATCHER.with_borrow_mut(|watcher| {
                if let Some(watcher) = watcher {
                    watcher(word);
                }
            });
        }
    }

    /// Does `work` with `watcher` told of every load. The watcher must not look at shared memory as a reader does.
    pub(crate) fn during<R>(watcher: impl FnMut(&AtomicU64) + 'static, work: impl FnOnce() -> R) -> R {
        WATCHER.replace(Some(Box::new(watcher)));
        WATCHED.set(true);
        let result = work();
        WATCHED.set(false);
        WATCHER.take();
        result
    }

    pub(super) fn note_flushed(words: &[AtomicU64]) {
        FLUSHED.with_borrow_mut(|flushed| flushed.push(words.as_ptr_range()));
    }

    /// What this thread flushed since this was asked last.
    pub(crate) fn take_flushed() -> Vec<Range<*const AtomicU64>> {
        FLUSHED.take()
    }
}

impl std::fmt::Debug for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Words({})", self.len())
    }
}
