//! How a client becomes a lossless subscriber: what it is offered, and the claim that it gets.

use std::sync::Arc;

use mio::net::TcpStream;

use super::connection::{Hub, millis, starting_place};
use super::frame::{Offer, RejectCode, ServerFrame};
use crate::bell::process_barrier;
use crate::causes::with_causes;
use crate::control::Control;
use crate::gate::{Claim, JoinError};
use crate::{Incarnation, Join, ring};

/// What the server promises to lossless subscribers, and how it fares with them.
pub(super) fn offer(hub: &Hub) -> Option<Offer> {
    let offer = hub.gate.offer()?;
    let status = hub.gate.status(hub.now);
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Some(Offer {
        policy: offer.policy,
        max_subscribers: count(offer.max_subscribers),
        subscribers: count(status.subscribers),
        evicted: status.evicted,
        holder: status
            .holder
            .map(|holder| (millis(holder.held), holder.cursor, holder.who)),
    })
}

/// A claim that was made.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) claim: Arc<Claim>,
    /// The first message that is delivered.
    pub(super) first: u64,
    pub(super) reply: ServerFrame<'static>,
}

/// Why none was.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: RejectCode,
    pub(super) reason: String,
}

impl Refusal {
    fn new(code: RejectCode, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { code, reason }
    }
}

impl From<JoinError> for Refusal {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::NotOffered => Self::new(
                RejectCode::NotOffered,
                "this server offers no lossless subscriptions: start it with --lossless",
            ),
            JoinError::Full(max) => Self::new(
                RejectCode::TooManyClaims,
                format!("this server takes {max} at a time: start it with a larger --max-lossless"),
            ),
        }
    }
}

/// Makes a claim for the client on `stream`, which says that it is process `pid`: over that socket, or through `memory`.
pub(super) fn make_claim(
    stream: &TcpStream,
    meant: Incarnation,
    join: Join,
    (memory, pid): (bool, u32),
    hub: &Hub,
) -> Result<Claimed, Refusal> {
    let segment = &*hub.segment;
    let incarnation = segment.header().incarnation();
    // The sequence that was asked for, if it is one of this life.
    let wanted = match join {
        Join::Sequence(sequence) if meant == Incarnation::NIL || meant == incarnation => Some(sequence),
        _ => None,
    };
    if let Some(wanted) = wanted
        && wanted > ring::head(segment.words()).next
    {
        let reason = format!("there is no message {wanted} yet, and none can be claimed before it is there");
        return Err(Refusal::new(RejectCode::NotOffered, reason));
    }
    let who = stream
        .peer_addr()
        .map_or_else(|_| "a client that left".to_owned(), |peer| peer.to_string());
    let who = match pid {
        0 => who,
        pid => format!("process {pid} at {who}"),
    };
    let claim = Arc::new(if !memory {
        Claim::private(who)
    } else if segment.id().is_none() {
        return Err(Refusal::new(RejectCode::NotOffered, "this server has no shared memory"));
    } else {
        hub.gate.check()?;
        let control =
            Control::create(incarnation).map_err(|error| Refusal::new(RejectCode::NoControl, with_causes(&error)))?;
        Claim::shared(control, who)
    });
    let barrier = || {
        // It is to be had where lossless subscriptions are offered: `Server::start` has seen to that.
        let _ = process_barrier();
    };
    let first = hub.gate.join(&claim, barrier, || {
        let earliest = hub.gate.earliest(ring::head(segment.words()).next);
        let first = starting_place(meant, join, segment).0;
        match wanted {
            // Who resumes in the ring itself finds there what is gone, and is not sent past what is not.
            Some(_) if memory => first,
            Some(_) => first.max(earliest),
            // Who wants what there is gets it without a gap.
            None => ring::unbroken(segment.geometry(), segment.words(), first.max(earliest)),
        }
    })?;
    let missed = wanted.map_or(0, |wanted| first.saturating_sub(wanted));
    let reply = match claim.control().and_then(Control::name) {
        None => ServerFrame::Start { first, missed },
        Some(control) => ServerFrame::Lease {
            first,
            missed,
            // Behind the barrier: no later message can be under way that passed without a look at the claim.
            live: ring::head(segment.words()).next,
            control,
        },
    };
    Ok(Claimed { claim, first, reply })
}
