//! Messages that are published together.

use std::time::Duration;

use bytemuck::NoUninit;

use super::{Loan, PublishError, Publisher};

/// Messages that are published together: one look at the clock, and one wake when the batch is dropped. Drop it right behind
/// its last message: who fell asleep meanwhile sleeps on until then, and that moment counts as the time of that message.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let mut options = lapwing::ServerOptions::new("prices".parse()?);
/// # options.info_dir = directory.path().to_owned();
/// # let mut server = lapwing::Server::start(options)?;
/// let mut batch = server.publisher().batch();
/// batch.push(0, b"made already")?;
/// let mut loan = batch.loan(16)?;
/// loan.push_words([1, 2].into_iter())?;
/// loan.commit();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Batch<'p> {
    publisher: &'p mut Publisher,
    now_ns: u64,
    /// The sequence of its first message.
    first: u64,
}

impl<'p> Batch<'p> {
    #[inline]
    pub(super) fn new(publisher: &'p mut Publisher) -> Self {
        Self {
            now_ns: publisher.clock.now_ns(),
            first: publisher.writer.next(),
            publisher,
        }
    }
}

impl Batch<'_> {
    /// Publishes `payload`. Returns its sequence.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    #[inline]
    pub fn push(&mut self, tag: u64, payload: &[u8]) -> Result<u64, PublishError> {
        if !self.publisher.passes(payload.len()) {
            self.now_ns = admit_late(self.publisher, payload.len(), self.now_ns)?;
        }
        Ok(self.publisher.put(tag, payload, |_| self.now_ns))
    }

    /// Publishes the bytes of `value`, for [`crate::Subscriber::poll_typed`] of the same type. Returns its sequence.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    #[inline(always)]
    pub fn push_typed<T: NoUninit>(&mut self, tag: u64, value: &T) -> Result<u64, PublishError> {
        let mut loan = self.loan(size_of::<T>())?;
        loan.push_typed(value)?;
        Ok(loan.commit_tagged(tag))
    }

    /// As [`Batch::push`], but never waits.
    ///
    /// # Errors
    /// As [`Publisher::publish`], and [`PublishError::Full`] if it would have to wait.
    #[inline]
    pub fn try_push(&mut self, tag: u64, payload: &[u8]) -> Result<u64, PublishError> {
        self.publisher.try_admit(payload.len())?;
        Ok(self.publisher.put(tag, payload, |_| self.now_ns))
    }

    /// Borrows room for a payload of up to `len` bytes, as [`Publisher::loan`] does, for one more message of this batch.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    #[inline(always)]
    pub fn loan(&mut self, len: usize) -> Result<Loan<'_>, PublishError> {
        if !self.publisher.passes(len) {
            self.now_ns = admit_late(self.publisher, len, self.now_ns)?;
        }
        Ok(Loan::new(self.publisher, len, Some(self.now_ns)))
    }

    /// As [`Batch::loan`], but never waits.
    ///
    /// # Errors
    /// As [`Publisher::publish`], and [`PublishError::Full`] if it would have to wait.
    #[inline(always)]
    pub fn try_loan(&mut self, len: usize) -> Result<Loan<'_>, PublishError> {
        self.publisher.try_admit(len)?;
        Ok(Loan::new(self.publisher, len, Some(self.now_ns)))
    }

    /// As [`Publisher::wait_for_room`]. Sleepers are woken first, and what is pushed later has a later timestamp.
    ///
    /// # Errors
    /// As [`Publisher::wait_for_room`].
    pub fn wait_for_room(&mut self, len: usize, timeout: Duration) -> Result<(), PublishError> {
        let outcome = self.publisher.wait_for_room(len, timeout);
        self.now_ns = self.publisher.clock.now_ns();
        outcome
    }

    /// The one whose batch this is.
    #[must_use]
    pub const fn publisher(&self) -> &Publisher {
        self.publisher
    }
}

/// Takes a closer look whether a message of `len` bytes may be published, and waits if need be. Returns the batch's time
/// from then on: not by way of the batch, which is in registers for as long as nobody is given its address.
#[cold]
fn admit_late(publisher: &mut Publisher, len: usize, now_ns: u64) -> Result<u64, PublishError> {
    let has_waited = publisher.find_room(len, Duration::MAX)?;
    Ok(if has_waited { publisher.clock.now_ns() } else { now_ns })
}

impl Drop for Batch<'_> {
    #[inline]
    fn drop(&mut self) {
        let Publisher {
            ringer, clock, writer, ..
        } = &mut *self.publisher;
        if writer.next() != self.first {
            ringer.ring(|| clock.now_ns());
        }
    }
}
