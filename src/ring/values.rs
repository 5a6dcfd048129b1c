//! A row of values in a payload, read in place: what a slice would be if the memory were not shared.

use std::iter::FusedIterator;
use std::marker::PhantomData;

use bytemuck::AnyBitPattern;

use super::{LINE_BYTES, View};
use crate::words::WORD_BYTES;

/// The `T`s that lie one behind the other in a payload, each loaded when it is asked for. Skipping costs nothing: `nth`
/// and `step_by` touch only what they return. `fold`, and what is made of it (`sum`, `max`, `for_each`), loads many at a time, if
/// `T` divides a word. Made by [`View::values`].
#[derive(Debug, Clone)]
pub struct Values<'a, T> {
    view: View<'a>,
    /// The byte that the next one begins at.
    at: usize,
    left: usize,
    of: PhantomData<T>,
}

impl<'a, T: AnyBitPattern> Values<'a, T> {
    #[inline]
    pub(super) fn new(view: View<'a>, offset: usize) -> Self {
        Self {
            view,
            at: offset,
            left: view.len().saturating_sub(offset) / size_of::<T>(),
            of: PhantomData,
        }
    }

    /// The next one, and nothing else is touched.
    #[inline]
    fn take_next(&mut self) -> Option<T> {
        self.left = self.left.checked_sub(1)?;
        let (at, size) = (self.at, size_of::<T>());
        self.at += size;
        if WORD_BYTES.is_multiple_of(size) && at.is_multiple_of(size) {
            let word = self.view.words().load(at / WORD_BYTES).to_ne_bytes();
            return Some(bytemuck::pod_read_unaligned(&word[at % WORD_BYTES..][..size]));
        }
        self.view.read(at)
    }
}

impl<T: AnyBitPattern> Iterator for Values<'_, T> {
    type Item = T;

    /// Asks for lines ahead as well, as who looks at each word in turn does: the first of a line asks for another. Not for parts
    /// of words, for which it would cost more than they do.
    #[inline]
    fn next(&mut self) -> Option<T> {
        let is_long = size_of::<T>() >= WORD_BYTES;
        if is_long && self.left > 0 && self.at >= LINE_BYTES && self.at % LINE_BYTES < size_of::<T>() {
            self.view.words().prefetch_ahead(self.at / WORD_BYTES);
        }
        self.take_next()
    }

    #[inline]
    fn nth(&mut self, n: usize) -> Option<T> {
        let skipped = n.min(self.left);
        self.left -= skipped;
        self.at += skipped * size_of::<T>();
        self.take_next()
    }

    #[inline]
    fn fold<B, F: FnMut(B, T) -> B>(mut self, init: B, mut f: F) -> B {
        let size = size_of::<T>();
        let mut value = init;
        if WORD_BYTES.is_multiple_of(size) && self.at.is_multiple_of(size) {
            while !self.at.is_multiple_of(WORD_BYTES) {
                match self.next() {
                    Some(next) => value = f(value, next),
                    None => return value,
                }
            }
            let in_word = WORD_BYTES / size;
            // None at all may begin far behind the payload.
            if let whole @ 1.. = self.left / in_word {
                let words = self.view.words().slice(self.at / WORD_BYTES, whole);
                value = words.iter().fold(value, |value, word| {
                    let bytes = word.to_ne_bytes();
                    let values = bytes.chunks_exact(size).map(bytemuck::pod_read_unaligned);
                    values.fold(value, &mut f)
                });
                self.at += whole * WORD_BYTES;
                self.left %= in_word;
            }
        }
        for next in self {
            value = f(value, next);
        }
        value
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T: AnyBitPattern> ExactSizeIterator for Values<'_, T> {}

impl<T: AnyBitPattern> FusedIterator for Values<'_, T> {}
