//! Standard output, shared by the streams of all servers.
//!
//! ```text
//!   stream of prices  --Batch--+
//!   stream of weather --Batch--+--> one at a time --> write(2) --> counted in its server's Tally
//!   stream of news    --Batch--+
//! ```
//!
//! A stream formats a burst of messages into a batch of its own, without any lock, and then has it written as a whole.
//! The first that finds a reason to end (`-n` reached, a gap, the reader gone) closes the outlet; what comes later is
//! neither written nor counted. The lock is not held while writing, so that a reader who never reads can hold up the
//! streams, but not the end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapwing::cli;
use rustix::event::{EventfdFlags, eventfd};

use super::tally::{Count, Tally};
use crate::stdout::{self, MEANWHILE};

/// Bytes after which a batch is written even if more messages wait.
pub(super) const BATCH_BYTES: usize = 64 << 10;
/// The most room that a batch keeps after a long message.
const KEPT_BYTES: usize = 4 * BATCH_BYTES;

/// What a stream has formatted and not written yet.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// For standard output.
    pub(super) bytes: Vec<u8>,
    /// Lines for standard error, behind the bytes.
    pub(super) notices: Vec<String>,
    pub(super) count: Count,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        // An empty payload in raw format is a newline: no message takes no bytes.
        self.bytes.is_empty() && self.notices.is_empty() && self.count.gaps == 0
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.notices.clear();
        self.count.clear();
    }
}

/// Why following is over.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A signal, or the end of all streams.
    Stopped,
    /// `--timeout` passed.
    TimeLimit,
    /// `-n` messages were written.
    Count,
    /// Messages were missed, and `--fail-on-gap` was given.
    Gap,
    /// No server offers what was asked for.
    Refused,
    /// Nobody reads standard output any more.
    ReaderGone,
    /// Standard output cannot be written.
    Failed(io::Error),
}

/// Standard output, and when to stop writing to it.
#[derive(Debug)]
pub(super) struct Outlet {
    output: File,
    state: Mutex<State>,
    /// Told when nobody writes any more, or the outlet was closed.
    free: Condvar,
    /// With `-n`: messages that may still be received.
    tickets: Option<AtomicU64>,
    /// Becomes readable when the main thread should look at something.
    wake: OwnedFd,
}

#[derive(Debug)]
struct State {
    /// Whether a stream is writing.
    busy: bool,
    outcome: Option<Outcome>,
    /// With `-n`: messages that are still to be written.
    left: Option<u64>,
}

impl Outlet {
    /// An outlet to `output` that closes itself after `limit` messages.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(super) fn new(output: File, limit: Option<u64>) -> io::Result<Self> {
        Ok(Self {
            output,
            state: Mutex::new(State {
                busy: false,
                outcome: None,
                left: limit,
            }),
            free: Condvar::new(),
            tickets: limit.map(AtomicU64::new),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Whether one more message may be received. Who gets a yes must submit the message.
    #[inline]
    pub(super) fn ticket(&self) -> bool {
        self.tickets.as_ref().is_none_or(|tickets| {
            // Relaxed: the number alone decides.
            tickets
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
        })
    }

    /// Writes a batch as a whole, counts it in `tally`, and empties it; closes the outlet with `then`. Returns whether
    /// there is any point in going on. `meanwhile`, if there is one, is called every second that it has to wait.
    pub(super) fn submit(
        &self,
        batch: &mut Batch,
        tally: &Mutex<Tally>,
        then: Option<Outcome>,
        mut meanwhile: Option<&mut dyn FnMut()>,
    ) -> bool {
        if !self.begin(&mut meanwhile) {
            batch.clear();
            return false;
        }
        let written = stdout::write(&self.output, &batch.bytes, &mut meanwhile);
        batch.notices.iter().for_each(|notice| cli::say_patiently(notice));
        let mut state = self.lock();
        state.busy = false;
        match written {
            Ok(()) => {
                tally.lock().unwrap_or_else(PoisonError::into_inner).add(&batch.count);
                state.wrote(batch.count.messages);
                if let Some(outcome) = then {
                    state.close(outcome);
                }
            }
            Err(error) if cli::is_broken_pipe(&error) => state.close(Outcome::ReaderGone),
            Err(error) => state.close(Outcome::Failed(error)),
        }
        let is_open = state.outcome.is_none();
        drop(state);
        self.free.notify_all();
        if !is_open {
            self.wake();
        }
        batch.clear();
        is_open
    }

    /// Waits for its turn to write. Returns whether it came: not once the outlet is closed.
    fn begin(&self, meanwhile: &mut Option<&mut dyn FnMut()>) -> bool {
        let waits = |state: &mut State| state.busy && state.outcome.is_none();
        let mut state = self.lock();
        while waits(&mut state) {
            let waited = self.free.wait_timeout_while(state, MEANWHILE, waits);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if let Some(meanwhile) = meanwhile {
                meanwhile();
            }
        }
        state.busy = state.busy || state.outcome.is_none();
        state.outcome.is_none()
    }

    /// Makes the main thread look.
    pub(super) fn wake(&self) {
        // It fails only when the counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Takes back all wakes so far.
    pub(super) fn take_wake(&self) {
        // Nothing to read: nobody woke.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// Becomes readable with [`Outlet::wake`].
    pub(super) fn waker(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Standard output, to see by `poll` whether its reader is gone.
    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().outcome.is_some()
    }

    /// Closes the outlet with `outcome`, unless it is closed already, and waits up to `patience` for what is being
    /// written. Returns why it was closed.
    pub(super) fn close(&self, outcome: Outcome, patience: Duration) -> Outcome {
        self.lock().close(outcome);
        self.free.notify_all();
        let (mut state, _) = self
            .free
            .wait_timeout_while(self.lock(), patience, |state| state.busy)
            .unwrap_or_else(PoisonError::into_inner);
        // What is left behind keeps it closed.
        state.outcome.replace(Outcome::Stopped).unwrap_or(Outcome::Stopped)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The first reason counts.
    fn close(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
    }

    fn wrote(&mut self, messages: u64) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(messages);
            if *left == 0 {
                self.close(Outcome::Count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{Read, Write};
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn file() -> (tempfile::NamedTempFile, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let output = OpenOptions::new().append(true).open(file.path()).unwrap();
        (file, output)
    }

    fn batch(line: &str) -> Batch {
        let mut batch = Batch::default();
        batch.bytes.extend_from_slice(line.as_bytes());
        batch.count.messages = 1;
        batch
    }

    /// A pipe whose reader never reads, full.
    fn stuck() -> (std::io::PipeReader, File) {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut output = File::from(OwnedFd::from(writer));
        while output.write(&[0; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&output, false).unwrap();
        (reader, output)
    }

    #[test]
    fn count_is_reached_exactly_by_many_streams() {
        const LIMIT: usize = 1000;
        let (file, output) = file();
        let outlet = Outlet::new(output, Some(LIMIT as u64)).unwrap();
        let tallies: Vec<_> = (0..4).map(|_| Mutex::new(Tally::new())).collect();

        thread::scope(|scope| {
            for tally in &tallies {
                scope.spawn(|| {
                    let mut waiting = Batch::default();
                    while outlet.ticket() {
                        waiting.bytes.extend_from_slice(b"x\n");
                        waiting.count.messages += 1;
                        if waiting.count.messages == 7 {
                            outlet.submit(&mut waiting, tally, None, None);
                        }
                    }
                    outlet.submit(&mut waiting, tally, None, None);
                });
            }
        });

        assert!(matches!(outlet.close(Outcome::Stopped, SOON), Outcome::Count));
        assert_eq!(std::fs::read(file.path()).unwrap().len(), 2 * LIMIT);
        let counted: u64 = tallies.iter().map(|tally| tally.lock().unwrap().messages()).sum();
        assert_eq!(counted, LIMIT as u64);
    }

    #[test]
    fn nothing_is_written_or_counted_once_it_is_closed() {
        let (file, output) = file();
        let outlet = Outlet::new(output, None).unwrap();
        let tally = Mutex::new(Tally::new());

        assert!(outlet.submit(&mut batch("one\n"), &tally, None, None));
        assert!(!outlet.submit(&mut batch("two\n"), &tally, Some(Outcome::Gap), None));
        assert!(!outlet.submit(&mut batch("three\n"), &tally, None, None));

        assert!(matches!(outlet.close(Outcome::Stopped, SOON), Outcome::Gap));
        assert_eq!(std::fs::read(file.path()).unwrap(), b"one\ntwo\n");
        assert_eq!(tally.lock().unwrap().messages(), 2);
    }

    #[test]
    fn reader_that_went_away_is_an_outcome() {
        let (reader, writer) = std::io::pipe().unwrap();
        let outlet = Outlet::new(File::from(OwnedFd::from(writer)), None).unwrap();
        drop(reader);

        assert!(!outlet.submit(&mut batch("one\n"), &Mutex::new(Tally::new()), None, None));

        assert!(matches!(outlet.close(Outcome::Stopped, SOON), Outcome::ReaderGone));
    }

    #[test]
    fn reader_that_never_reads_cannot_hold_up_the_end() {
        let (mut reader, output) = stuck();
        let outlet = Outlet::new(output, None).unwrap();
        let tally = Mutex::new(Tally::new());

        thread::scope(|scope| {
            let writer = scope.spawn(|| outlet.submit(&mut batch("one\n"), &tally, None, None));
            let busy = |outlet: &Outlet| outlet.lock().busy;
            while !busy(&outlet) {
                thread::yield_now();
            }

            let outcome = outlet.close(Outcome::TimeLimit, Duration::from_millis(1));

            assert!(matches!(outcome, Outcome::TimeLimit));
            assert!(busy(&outlet));
            reader.read_exact(&mut [0; 4096]).unwrap();
            assert!(!writer.join().unwrap());
        });
    }

    #[test]
    fn output_that_others_made_non_blocking_takes_everything() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let outlet = Outlet::new(File::from(OwnedFd::from(writer)), None).unwrap();
        let line = "x".repeat(1 << 20);

        thread::scope(|scope| {
            scope.spawn(|| outlet.submit(&mut batch(&line), &Mutex::new(Tally::new()), None, None));
            let mut read = vec![0; line.len()];
            reader.read_exact(&mut read).unwrap();
            assert_eq!(read, line.as_bytes());
        });
    }

    #[test]
    fn whoever_waits_for_a_reader_that_never_reads_can_do_something_else() {
        let (reader, output) = stuck();
        let outlet = Outlet::new(output, None).unwrap();
        let tally = Mutex::new(Tally::new());
        let mut reader = Some(reader);
        let mut times = 0;

        let mut meanwhile = || {
            times += 1;
            if times == 2 {
                reader = None;
            }
        };
        assert!(!outlet.submit(&mut batch("one\n"), &tally, None, Some(&mut meanwhile)));

        assert_eq!(times, 2);
        assert!(matches!(outlet.close(Outcome::Stopped, SOON), Outcome::ReaderGone));
    }
}
