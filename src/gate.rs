//! The gate: what keeps the publisher from overwriting what a lossless subscriber still needs.
//!
//! Each lossless subscriber has a [`Claim`], two words of memory that it shares with the server: `cursor`, the sequence
//! that it wants next, and `waiting`, set while the publisher sleeps until that cursor moves. The publisher looks at the
//! cursors only when it has used up the room that its last look found.
//!
//! ```text
//!       publisher, for message n                     subscriber, done with message m
//!       len < refused_from? go on      Relaxed           loads of m
//!       n < until? go on               Relaxed       C1  cursor = m + 1                Release
//!   C2  cursors of all claims          Acquire
//!       until = slowest + room; overwrite
//!
//!       publisher without room                       subscriber
//!       waiting = 1                    Relaxed           cursor = m + 1                Release
//!   H2  heavy barrier                                H1  light barrier
//!       sleep while cursor is the same                   waiting? wake                 Relaxed
//!
//!       publisher, from message to message           service thread, when somebody joins
//!       message n                                        push the claim; until = 0; refused_from = 0
//!   J1  light barrier                                J2  heavy barrier
//!       refused_from, until            Relaxed           head = h
//!
//!   C1 with C2: who overwrites m does so after m was read.
//!   H1 with H2: either futex(2) sees the cursor moved, or the subscriber sees that it is to be woken.
//!   E1, a fence behind an eviction, with the one of a reader that was lapped (S2 in `ring.rs`): who lost something sees why.
//!   J1 with J2: only one message can be under way that passed without a look at the new claim, and it is message h.
//! ```
//!
//! While nobody claims anything, `refused_from` is one more than the longest message: the publisher's check of the
//! length is all there is, so the gate costs nothing. A cursor is a stranger's claim. It never counts backward, and one
//! beyond the head costs its owner the claim. One slot is kept for the end of the stream, so that ending never waits.

use std::fmt;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::layout::Geometry;
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, light_barrier};

mod claim;

#[cfg(not(loom))]
pub(crate) use claim::ClaimWords;
pub(crate) use claim::{Claim, Settling};

/// What a server does about a lossless subscriber that keeps it from publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LosslessPolicy {
    /// Waits for it, however long that takes. Only its death or its leaving ends that.
    Block,
    /// Waits for so long in all until it has read an eighth of what it was behind, 1,024 messages at the most, then goes on
    /// without it. It is told, and reads on as lossy subscribers do.
    Evict(Duration),
}

impl fmt::Display for LosslessPolicy {
    /// As `--lossless` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block => f.write_str("block"),
            Self::Evict(patience) if patience.subsec_millis() == 0 => write!(f, "evict:{}s", patience.as_secs()),
            Self::Evict(patience) => write!(f, "evict:{}ms", patience.as_millis()),
        }
    }
}

/// What a server promises to those who ask for a lossless subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LosslessOffer {
    /// What it does about those who are too slow.
    pub policy: LosslessPolicy,
    /// Most lossless subscribers at a time.
    pub max_subscribers: usize,
}

/// Who the lossless subscribers are, and whether one of them holds up the publisher.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LosslessStatus {
    /// What the server does about those who are too slow, if it offers anything.
    pub policy: Option<LosslessPolicy>,
    /// How many there are.
    pub subscribers: usize,
    /// How many lost their claim because they held up the stream for too long, or claimed what cannot be.
    pub evicted: u64,
    /// The last of them.
    pub last_evicted: Option<String>,
    /// The slowest one, while it keeps the publisher from publishing.
    pub holder: Option<Holder>,
}

/// A lossless subscriber that keeps the publisher from publishing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who it is: its address, and its process as far as it told.
    pub who: String,
    /// For how long.
    pub held: Duration,
    /// The sequence that it wants next.
    pub cursor: u64,
}

/// Why nobody can join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JoinError {
    NotOffered,
    Full(usize),
}

/// Shared by a server's publisher and its service thread.
#[derive(Debug)]
pub(crate) struct Gate {
    door: CachePadded<Door>,
    claims: Mutex<Claims>,
    /// The value of `refused_from` while nobody claims anything.
    too_long: usize,
    /// How many messages may be retained for the slowest: all slots but the one for the end of the stream.
    room: u64,
    offer: Option<LosslessOffer>,
}

/// What the publisher loads for every message: alone on its cache line, and written rarely.
#[derive(Debug)]
struct Door {
    /// The shortest length that needs a closer look: 0 for all of them, while there are claims.
    refused_from: AtomicUsize,
    /// The first sequence for which the cursors must be looked at again.
    until: AtomicU64,
}

#[derive(Debug, Default)]
struct Claims {
    entries: Vec<Entry>,
    evicted: u64,
    last_evicted: Option<String>,
    /// The slowest one, since when it has held up the publisher.
    holder: Option<(Arc<Claim>, Instant)>,
}

/// How many messages somebody who holds up the publisher must read in time at the most.
const FAR_ENOUGH: u64 = 1024;

#[derive(Debug)]
struct Entry {
    claim: Arc<Claim>,
    /// The newest cursor that was believed.
    seen: u64,
    /// Since when it holds up the publisher without having read anything.
    stuck: Option<Instant>,
    /// For how long it has held up the publisher before that, on its way to the goal.
    held: Duration,
    /// Where it is forgiven: an eighth of what it was behind when it first held up the publisher, or [`FAR_ENOUGH`] if that
    /// is less. Who reads one message now and then does not get there in time.
    goal: u64,
}

impl Entry {
    fn new(claim: Arc<Claim>, first: u64) -> Self {
        Self {
            claim,
            seen: first,
            stuck: None,
            held: Duration::ZERO,
            goal: first,
        }
    }

    /// Believes a newer cursor.
    fn advance(&mut self, cursor: u64) {
        self.seen = cursor;
        if cursor >= self.goal {
            self.stuck = None;
            self.held = Duration::ZERO;
        }
    }

    /// It holds up the publisher, which wants to publish message `next`. Returns for how long it has in all.
    fn hold(&mut self, next: u64, now: Instant) -> Duration {
        if self.stuck.is_none() && self.held.is_zero() {
            self.goal = self.seen + (next.saturating_sub(self.seen) / 8).clamp(1, FAR_ENOUGH);
        }
        let since = *self.stuck.get_or_insert(now);
        self.held + now.saturating_duration_since(since)
    }

    /// It does not hold up the publisher any more.
    fn let_go(&mut self, now: Instant) {
        if let Some(since) = self.stuck.take() {
            self.held += now.saturating_duration_since(since);
        }
    }
}

impl Gate {
    /// A gate for a ring of this geometry.
    pub(crate) fn new(geometry: &Geometry, offer: Option<LosslessOffer>) -> Self {
        let too_long = geometry.max_message_bytes() + 1;
        Self {
            door: CachePadded::new(Door {
                refused_from: AtomicUsize::new(too_long),
                until: AtomicU64::new(0),
            }),
            claims: Mutex::new(Claims::default()),
            too_long,
            room: geometry.slot_count() - 1,
            offer,
        }
    }

    pub(crate) const fn offer(&self) -> Option<LosslessOffer> {
        self.offer
    }

    /// Whether a message of `len` bytes may be published without a closer look. Costs one load.
    #[inline]
    pub(crate) fn lets_pass(&self, len: usize) -> bool {
        // J1, pairs with J2: the last message's stores come before this load.
        light_barrier();
        len < self.door.refused_from.load(Ordering::Relaxed)
    }

    /// Closes the door for good: every message needs a closer look, which finds that the stream has ended.
    pub(crate) fn shut(&self) {
        self.door.until.store(0, Ordering::Relaxed);
        self.door.refused_from.store(0, Ordering::Relaxed);
    }

    /// Takes a claim from the message that `resolve` names on. It is called twice: for a first place to hold, and again
    /// behind `barrier`, which must make the publisher see the claim before its next message (J2). Returns where the
    /// claim begins.
    pub(crate) fn join(
        &self,
        claim: &Arc<Claim>,
        barrier: impl FnOnce(),
        resolve: impl Fn() -> u64,
    ) -> Result<u64, JoinError> {
        let first = resolve();
        claim.words().begin(first);
        {
            let mut claims = self.claims();
            self.check_room(&claims)?;
            claims.entries.push(Entry::new(claim.clone(), first));
            self.door.until.store(0, Ordering::Relaxed);
            self.door.refused_from.store(0, Ordering::Relaxed);
        }
        barrier();
        // Not before `first`: what was there when it was resolved may be gone, and nothing can have come back.
        let first = resolve().max(first);
        claim.words().begin(first);
        Ok(first)
    }

    /// The oldest message that can be claimed, with `head` as the one that is next: it may be under way already, and the
    /// end of the stream may come right behind it.
    pub(crate) const fn earliest(&self, head: u64) -> u64 {
        (head + 1).saturating_sub(self.room)
    }

    /// Whether one more may join.
    pub(crate) fn check(&self) -> Result<(), JoinError> {
        self.check_room(&self.claims())
    }

    fn check_room(&self, claims: &Claims) -> Result<(), JoinError> {
        let offer = self.offer.ok_or(JoinError::NotOffered)?;
        if claims.entries.len() < offer.max_subscribers {
            Ok(())
        } else {
            Err(JoinError::Full(offer.max_subscribers))
        }
    }

    /// Gives a claim back, and lets a publisher that waits for it look again.
    pub(crate) fn leave(&self, claim: &Arc<Claim>, wake: impl FnOnce()) {
        self.claims().remove(claim);
        self.door.until.store(0, Ordering::Relaxed);
        claim.words().release(wake);
    }

    /// Who there is, and who holds up the publisher.
    pub(crate) fn status(&self, now: Instant) -> LosslessStatus {
        let claims = self.claims();
        let holder = claims.holder.as_ref().and_then(|(claim, since)| {
            let entry = claims.entries.iter().find(|entry| Arc::ptr_eq(&entry.claim, claim))?;
            let cursor = claim.words().cursor();
            // One that has read on since the last look may hold up nobody any more.
            (cursor <= entry.seen).then(|| Holder {
                who: claim.who().to_owned(),
                held: now.saturating_duration_since(*since),
                cursor: entry.seen,
            })
        });
        LosslessStatus {
            policy: self.offer.map(|offer| offer.policy),
            subscribers: claims.entries.len(),
            evicted: claims.evicted,
            last_evicted: claims.last_evicted.clone(),
            holder,
        }
    }

    /// The sequences that the lossless subscribers want next.
    pub(crate) fn cursors(&self) -> Vec<u64> {
        let claims = self.claims();
        claims
            .entries
            .iter()
            .map(|entry| entry.claim.words().cursor())
            .collect()
    }

    /// The lock is held for moments, by the server's own two threads: no other process can take it.
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().expect("nobody panics with this lock")
    }
}

impl Claims {
    fn remove(&mut self, claim: &Arc<Claim>) {
        self.entries.retain(|entry| !Arc::ptr_eq(&entry.claim, claim));
        if self
            .holder
            .as_ref()
            .is_some_and(|(holder, _)| Arc::ptr_eq(holder, claim))
        {
            self.holder = None;
        }
    }

    /// Reads every cursor, and drops the claims of those that left or claim what cannot be.
    fn refresh(&mut self, next: u64) {
        let (evicted, last_evicted) = (&mut self.evicted, &mut self.last_evicted);
        self.entries.retain_mut(|entry| {
            // C2, in `cursor`.
            let cursor = entry.claim.words().cursor();
            if cursor > next {
                *evicted += 1;
                entry.claim.evict();
                *last_evicted = Some(entry.claim.who().to_owned());
                return false;
            }
            if cursor > entry.seen {
                entry.advance(cursor);
            }
            true
        });
    }

    fn slowest(&self) -> Option<&Entry> {
        self.entries.iter().min_by_key(|entry| entry.seen)
    }

    /// Drops the claims of those who said that they are leaving. Returns whether there were any.
    fn drop_those_leaving(&mut self) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| !entry.claim.is_leaving());
        self.entries.len() < before
    }

    /// Drops the claims of those who have held up the publisher, which wants to publish message `next`, for `patience`, as
    /// nobody may who still wants a message up to `needed`. Returns whether there were any.
    fn evict(&mut self, next: u64, needed: u64, patience: Duration, now: Instant) -> bool {
        let (before, last_evicted) = (self.entries.len(), &mut self.last_evicted);
        self.entries.retain_mut(|entry| {
            if entry.seen > needed {
                entry.let_go(now);
                return true;
            }
            let is_late = entry.hold(next, now) >= patience;
            if is_late {
                entry.claim.evict();
                *last_evicted = Some(entry.claim.who().to_owned());
            }
            !is_late
        });
        let evicted = before - self.entries.len();
        self.evicted += evicted as u64;
        evicted > 0
    }

    /// Nobody holds up the publisher.
    fn let_all_go(&mut self, now: impl Fn() -> Instant) {
        self.holder = None;
        if self.entries.iter().any(|entry| entry.stuck.is_some()) {
            let now = now();
            self.entries.iter_mut().for_each(|entry| entry.let_go(now));
        }
    }
}

/// The publisher's side of the gate.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    gate: Arc<Gate>,
    /// How far the arena's floor may rise before the cursors must be looked at again.
    highest_floor: u64,
}

/// How much room there is for messages that may be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Ample,
    /// For fewer than [`FEW`] more, or an eighth of the slots if that is less: the publisher is right behind the slowest.
    Scarce,
}

/// Messages that a publisher right behind the slowest had better publish for each look at the cursors.
const FEW: u64 = 64;

/// A message that the publisher wants to publish, as far as the gate is concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) sequence: u64,
    /// What the arena's floor becomes with it; 0 if it takes none of it.
    pub(crate) floor: u64,
}

impl Gatekeeper {
    pub(crate) const fn new(gate: Arc<Gate>) -> Self {
        Self { gate, highest_floor: 0 }
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether the last look found room for a message of this sequence that takes none of the arena. Costs one load.
    #[inline]
    pub(crate) fn knows_room(&self, sequence: u64) -> bool {
        sequence < self.gate.door.until.load(Ordering::Relaxed)
    }

    /// Whether nothing that is claimed is overwritten by the message that is wanted, and how much room this look found in the
    /// slots; else who claims it, and the cursor that was seen. `first_large` is [`crate::ring::Writer::first_large`]. Costs
    /// one load while the room lasts that the last look found, which is ample then.
    pub(crate) fn admit(
        &mut self,
        wanted: Wanted,
        first_large: impl Fn(u64) -> Option<(u64, u64)>,
        now: impl Fn() -> Instant,
    ) -> Result<Room, (Arc<Claim>, u64)> {
        if self.knows_room(wanted.sequence) && wanted.floor <= self.highest_floor {
            return Ok(Room::Ample);
        }
        self.look(wanted, first_large, now)
    }

    fn look(
        &mut self,
        wanted: Wanted,
        first_large: impl Fn(u64) -> Option<(u64, u64)>,
        now: impl Fn() -> Instant,
    ) -> Result<Room, (Arc<Claim>, u64)> {
        let gate = &*self.gate;
        let mut claims = gate.claims();
        loop {
            claims.refresh(wanted.sequence);
            let Some(slowest) = claims.slowest() else {
                claims.holder = None;
                gate.door.refused_from.store(gate.too_long, Ordering::Relaxed);
                gate.door.until.store(0, Ordering::Relaxed);
                self.highest_floor = 0;
                return Ok(Room::Ample);
            };
            let (seen, until) = (slowest.seen, slowest.seen.saturating_add(gate.room));
            gate.door.until.store(until, Ordering::Relaxed);
            // The sequence up to which all must have been read.
            let mut needed = None;
            if wanted.sequence >= until {
                needed = Some(wanted.sequence - gate.room);
            }
            self.highest_floor = 0;
            if wanted.floor > 0 {
                // With none there, this one becomes the first.
                let first = first_large(seen);
                self.highest_floor = first.map_or(wanted.floor, |(_, position)| position);
                if wanted.floor > self.highest_floor {
                    needed = needed.max(first.map(|(sequence, _)| sequence));
                }
            }
            let Some(needed) = needed else {
                claims.let_all_go(now);
                let is_scarce = until - wanted.sequence < FEW.min(gate.room / 8);
                return Ok(if is_scarce { Room::Scarce } else { Room::Ample });
            };
            let (claim, now) = (slowest.claim.clone(), now());
            let is_known = claims
                .holder
                .as_ref()
                .is_some_and(|(holder, _)| Arc::ptr_eq(holder, &claim));
            if !is_known {
                claims.holder = Some((claim.clone(), now));
            }
            let evicts = match gate.offer.map(|offer| offer.policy) {
                Some(LosslessPolicy::Evict(patience)) => claims.evict(wanted.sequence, needed, patience, now),
                _ => false,
            };
            if !evicts && !claims.drop_those_leaving() {
                return Err((claim, seen));
            }
        }
    }
}

#[cfg(all(test, loom))]
#[expect(unsafe_code, reason = "loom's cells stand for bytes that are lent")]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;
