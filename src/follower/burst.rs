//! Messages taken one behind the other into one buffer, whatever they come from.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::ring::{Poll, Received};
use crate::transport::Payload;

/// Messages that were taken one behind the other.
pub(super) struct Burst {
    /// Behind the last one, if there was any.
    pub(super) cursor: Option<u64>,
    /// What came instead of one more; `None` if no more was wanted.
    pub(super) end: Option<Poll<()>>,
}

impl Burst {
    /// Waits for the first message, then takes those that are there. `poll` is told how long to wait, if at all, and
    /// appends the payload to what the buffer holds up to where it is told.
    #[inline]
    pub(super) fn take(
        timeout: Duration,
        out: &mut Vec<u8>,
        mut each: impl FnMut(&mut Vec<u8>, Received<usize>) -> ControlFlow<()>,
        mut poll: impl FnMut(Option<Duration>, &mut Vec<u8>, usize) -> Poll<()>,
    ) -> Self {
        let (mut cursor, mut wait) = (None, Some(timeout));
        loop {
            let start = out.len();
            let polled = poll(wait.take(), out, start).map(|()| start);
            if let Poll::Message(received) = polled {
                cursor = Some(received.sequence + 1);
                if each(out, received).is_break() {
                    return Self { cursor, end: None };
                }
            } else {
                // What was appended is of a message that was overwritten meanwhile.
                out.truncate(start);
                let end = Some(polled.map(drop));
                return Self { cursor, end };
            }
        }
    }
}

/// Appends `payload` to the first `start` bytes of `out`, in the place of one that was overwritten while it was read.
#[inline]
pub(super) fn append(payload: Payload<'_>, out: &mut Vec<u8>, start: usize) {
    out.truncate(start);
    payload.append_to(out);
}
