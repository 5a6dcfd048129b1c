//! A row of values in a payload, read in place: what a slice would be if the memory were not shared.

use std::iter::FusedIterator;
use std::marker::PhantomData;

use bytemuck::AnyBitPattern;

use super::View;
use crate::words::WORD_BYTES;

/// The `T`s that lie one behind the other in a payload, each loaded when it is asked for. Skipping costs nothing: `nth`
/// and `step_by` touch only what they return. Made by [`View::values`].
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
}

impl<T: AnyBitPattern> Iterator for Values<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.left = self.left.checked_sub(1)?;
        let (at, size) = (self.at, size_of::<T>());
        self.at += size;
        if WORD_BYTES.is_multiple_of(size) && at.is_multiple_of(size) {
            let word = self.view.words().load(at / WORD_BYTES).to_ne_bytes();
            return Some(bytemuck::pod_read_unaligned(&word[at % WORD_BYTES..][..size]));
        }
        self.view.read(at)
    }

    #[inline]
    fn nth(&mut self, n: usize) -> Option<T> {
        let skipped = n.min(self.left);
        self.left -= skipped;
        self.at += skipped * size_of::<T>();
        self.next()
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T: AnyBitPattern> ExactSizeIterator for Values<'_, T> {}

impl<T: AnyBitPattern> FusedIterator for Values<'_, T> {}
