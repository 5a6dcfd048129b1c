//! Claims of subscribers that live on without their connection.
//!
//! ```text
//!   the connection is over --> has its subscriber left, died or never come? --yes--> given back: the publisher goes on
//!                                                  |
//!                                                 no: it reads in place what it claims
//!                                                  +--> asked again every 50 ms
//! ```
//!
//! A connection ends for other reasons than a process does: a proxy in between is started anew or tires of a connection on
//! which nobody says a word, or somebody cuts it. The subscriber does not look at it, and must not, while it has borrowed
//! what it claims. So the end of a connection is only when the server asks here (while one stands, it asks at its ticks), and
//! the lock on the control segment is what answers.

use std::sync::Arc;
use std::time::Instant;

use crate::bell::{CENSUS_INTERVAL, wake_publisher};
use crate::gate::{Claim, Gate};

/// There are no more of them than there are places for lossless subscribers: who was evicted is none.
#[derive(Debug, Default)]
pub(super) struct Survivors {
    claims: Vec<Arc<Claim>>,
    /// When they are asked again; `None` until there was one.
    next_look: Option<Instant>,
}

impl Survivors {
    /// Gives back a claim whose connection is over, or keeps it for as long as its subscriber lives.
    pub(super) fn judge(&mut self, claim: Arc<Claim>, gate: &Gate, now: Instant) {
        if give_back(&claim, gate) {
            return;
        }
        // It was mapped, which nobody can say any more.
        if let Some(control) = claim.control() {
            control.unlink();
        }
        // No later for those who are there.
        self.next_look = self.due().or(Some(now + CENSUS_INTERVAL));
        self.claims.push(claim);
    }

    /// When to look again, if there are any.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next_look.filter(|_| !self.claims.is_empty())
    }

    /// Asks all of them, if it is time, and gives back the claims of those that are gone. Costs a system call each.
    pub(super) fn look(&mut self, gate: &Gate, now: Instant) {
        if self.due().is_some_and(|due| now >= due) {
            self.claims.retain(|claim| !give_back(claim, gate));
            self.next_look = Some(now + CENSUS_INTERVAL);
        }
    }
}

/// Gives a claim back if nobody has it any more. Returns whether that is so.
fn give_back(claim: &Arc<Claim>, gate: &Gate) -> bool {
    let is_over = claim.take_back();
    if is_over {
        gate.leave(claim, || wake_publisher(claim.words()));
    }
    is_over
}
