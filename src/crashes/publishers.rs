//! Publishers killed, and what their readers find.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::compiler_fence;
use std::time::{Duration, Instant};

use super::autopsy::{Account, DONE, Finding, State, Stream, ensure, look};
use super::crew::Order;
use super::scribe::{Fault, Scribe};
use super::stream::{Arena, INLINE_BYTES, Message, SLOTS, geometry, mix};
use super::tally::Tally;
use super::victim::{Pace, Victim, be_killed_in, stand_still, stepping_works};
use crate::bell::Bell;
use crate::discovery::{Announcement, Found, Info, SharedMemory, Trust, read};
use crate::gate::Gate;
use crate::incarnation::Incarnation;
use crate::layout::{FLOOR_WORD, HEAD_WORD, HEARTBEAT_WORD, Header, LAYOUT_VERSION};
use crate::liveness::ServerState;
use crate::publisher::{Publisher, now_ns};
use crate::ring::{MAX_SEQUENCE, Poll};
use crate::segment::{Access, AttachError, Owned, Pages, Segment};
use crate::subscriber::{Join, Subscriber};
use crate::sync::Ordering;

/// Deaths are noticed three of these later.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(1);
/// Kills of one plan's victims, spread evenly over its instructions. Unoptimised code has too many to go there often.
const KILLS_A_PLAN: u64 = if cfg!(debug_assertions) { 2 } else { 8 };
/// Kills at random moments for each plan.
const RANDOM_KILLS_A_PLAN: u64 = if cfg!(debug_assertions) { 24 } else { 152 };
/// The last thing that a plan's victim does is watched closely; before that it publishes up to this many messages.
const LONGEST_PAST: u64 = 5 * SLOTS;
/// Longest message that is watched: each instruction takes its time, and unoptimised code has many for each byte.
const LONGEST_WATCHED: usize = if cfg!(debug_assertions) { 200 } else { 4096 };
/// How long a victim publishes at full speed at the most: long enough to use slots and arena again and again, and for
/// few enough messages that the oracle can tell quickly what they left.
const LONGEST_LIFE: Duration = Duration::from_micros(100);
/// More messages than anybody publishes in that time.
const LONGEST_RUN: u64 = 1 << 40;

/// What a victim is to do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub stream: Stream,
    /// The first sequence that is watched.
    pub watched: u64,
}

/// Kinds of plans. Crews go through them in turn, each from another one on.
const KINDS: u64 = 4;
const LARGE_IS_WATCHED: u64 = 1;
const END_IS_WATCHED: u64 = 3;

impl Plan {
    fn of(kind: u64, random: u64, longest: u64) -> Self {
        let mut past = mix(random) % LONGEST_PAST;
        let mut start = match random % 4 {
            0 => 0,
            // The low half of the head, on which readers sleep, begins anew.
            1 => (1 << 31) - past / 2,
            // The last sequences that there are.
            2 => MAX_SEQUENCE - past - 1 - (random >> 32) % 8 - longest,
            _ => mix(!random) % (MAX_SEQUENCE / 2),
        };
        let position = match random / 4 % 4 {
            0 | 1 if kind != LARGE_IS_WATCHED => 0,
            0..=2 => (1 << 63) - (random >> 40) % 4096 / 8 * 8,
            _ => u64::MAX / 2048 * 2047 / 8 * 8,
        };
        // A large one that moves the floor: not all of them do.
        let moves_floor = |start: u64, message: &Message| {
            let mut arena = Arena::new(position);
            for sequence in start..message.sequence {
                arena.publish(&Message::of(sequence));
            }
            let (_, floors) = arena.place(message);
            floors[2] > floors[0]
        };
        let is_fit = |start, past| {
            let message = Message::of(start + past);
            message.len <= LONGEST_WATCHED
                && (kind != LARGE_IS_WATCHED || message.len > INLINE_BYTES && moves_floor(start, &message))
        };
        while !is_fit(start, past) {
            if start == 0 {
                past += 1;
            } else {
                start -= 1;
            }
        }
        let watched = start + past;
        Self {
            stream: Stream {
                start,
                position,
                ends_at: (kind == END_IS_WATCHED).then_some(watched),
            },
            watched,
        }
    }
}

/// A server without a service thread: its heartbeat counts what publish has returned for.
struct Life {
    publisher: Publisher,
    /// Writes instead of the publisher.
    scribe: Option<Scribe>,
    segment: Arc<Segment>,
    _announcement: Announcement,
}

impl Life {
    fn begin(directory: &Path, stream: &Stream, fault: Option<Fault>) -> Self {
        let geometry = geometry();
        let incarnation = Incarnation::random().unwrap();
        let interval_ns = HEARTBEAT_INTERVAL.as_nanos() as u64;
        let header = Header::new(&geometry, incarnation, "victim", now_ns(), interval_ns);
        let owned = Owned::create(header, geometry, Access::default(), Pages::default()).unwrap();
        let segment = owned.share();
        let gate = Arc::new(Gate::new(&geometry, None));
        let mut publisher = Publisher::new(owned, Arc::new(Bell::new()), gate);
        publisher.go_on_from(stream.start, stream.position);
        segment.beat(stream.start);
        let mut info = Info::of_this_process("victim".parse().unwrap(), incarnation);
        info.shared_memory = segment.id().map(|id| SharedMemory {
            id,
            bytes: geometry.segment_bytes() as u64,
            layout: LAYOUT_VERSION,
        });
        let announcement = Announcement::publish(directory, &info, 0o644).expect("the name of a dead server is free");
        Self {
            publisher,
            scribe: fault.map(|fault| Scribe::new(fault, stream.position)),
            segment,
            _announcement: announcement,
        }
    }

    fn publish(&mut self, message: &Message, payload: &[u8], done: u64) {
        if let Some(scribe) = &mut self.scribe {
            scribe.publish(self.publisher.memory(), self.segment.geometry(), message, payload);
        } else {
            message.publish(&mut self.publisher, payload);
        }
        self.beat((message.sequence + 1) | done);
    }

    fn publish_all(&mut self, sequences: Range<u64>) {
        for message in sequences.map(Message::of) {
            self.publish(&message, &message.payload(), 0);
        }
    }

    fn beat(&self, count: u64) {
        // Not before publish has returned.
        compiler_fence(Ordering::SeqCst);
        self.segment.beat(count);
    }
}

/// Starts a victim that stands still before what is watched.
fn start_stepped(directory: &Path, plan: &Plan, fault: Option<Fault>) -> Victim {
    Victim::start(Pace::Stepped, || {
        let Plan { stream, watched } = *plan;
        let mut life = Life::begin(directory, &stream, fault);
        life.publish_all(stream.start..watched);
        let message = Message::of(watched);
        let payload = message.payload();
        stand_still();
        if stream.ends_at == Some(watched) {
            life.publisher.end();
            life.beat(watched | DONE);
        } else {
            life.publish(&message, &payload, DONE);
        }
        stand_still();
        life
    })
}

/// Starts a victim that, once it goes on, publishes until it is killed, so much later.
fn start_free(directory: &Path, plan: &Plan, lifespan: Duration) -> Victim {
    Victim::start(Pace::Free, || {
        let mut life = Life::begin(directory, &plan.stream, None);
        stand_still();
        be_killed_in(lifespan);
        life.publish_all(plan.stream.start..MAX_SEQUENCE);
        life
    })
}

/// The one server of a directory.
fn find(directory: &Path) -> Found {
    read(&directory.join("victim.toml"), &Trust::default()).unwrap()
}

/// A crew that kills publishers.
pub struct Killer<'a> {
    order: &'a Order,
    /// How long anything may take.
    patience: Duration,
    tally: &'a mut Tally,
}

impl<'a> Killer<'a> {
    pub fn new(order: &'a Order, tally: &'a mut Tally) -> Self {
        Self {
            order,
            patience: Duration::from_secs(60),
            tally,
        }
    }

    fn can_step(&mut self) -> bool {
        let can_step = stepping_works();
        self.tally.count("crews that cannot step", u64::from(!can_step));
        can_step
    }

    pub fn work(mut self) -> Result<(), String> {
        let can_step = self.can_step();
        let mut left = self.order.kills;
        for number in 0.. {
            let random = mix(self.order.seed ^ mix(number));
            let stepped = if can_step { KILLS_A_PLAN.min(left) } else { 0 };
            if stepped > 0 {
                self.kill_stepped((self.order.crew + number) % KINDS, random, stepped)?;
            }
            left -= stepped;
            let random_kills = RANDOM_KILLS_A_PLAN.min(left);
            (0..random_kills).try_for_each(|turn| self.kill_free(mix(random ^ turn)))?;
            left -= random_kills;
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Shows that the checks notice what they are there for, and nothing else.
    pub fn control(mut self) -> Result<(), String> {
        if !self.can_step() {
            return Ok(());
        }
        for fault in Fault::ALL {
            let noticed = (0..100).find_map(|number| self.look_for(fault, number).err());
            let noticed = noticed.ok_or_else(|| format!("nobody noticed: {fault:?}"))?;
            self.tally.count(format_args!("noticed: {fault:?}"), 1);
            println!("{fault:?}: {noticed}");
        }
        (0..4).try_for_each(|number| self.look_for(Fault::None, number))?;
        self.control_leavings()
    }

    fn look_for(&mut self, fault: Fault, number: u64) -> Result<(), String> {
        let plan = Plan::of(LARGE_IS_WATCHED, mix(self.order.seed ^ mix(number)), 0);
        self.look_at_every_instruction(&plan, Some(fault)).map(drop)
    }

    /// A publisher that lives, a segment that others have, a file that is left: each is noticed.
    fn control_leavings(&mut self) -> Result<(), String> {
        let plan = Plan::of(0, 0, 0);
        let directory = &self.order.directory;
        let victim = start_stepped(directory, &plan, None);
        let (mut reader, found) = attach(directory, plan.stream.start)?;
        let (mut other, _) = attach(directory, plan.stream.start)?;
        Account::from(plan.stream.start).drain(&mut reader)?;

        let patience = std::mem::replace(&mut self.patience, 10 * HEARTBEAT_INTERVAL);
        let alive = self.expect_death(&mut reader, State::Idle, Instant::now());
        self.patience = patience;
        let locked = self.check_leavings(other, &found);
        victim.kill();
        (other, _) = attach(directory, plan.stream.start)?;
        let attached = self.check_leavings(reader, &found);
        let leftover = directory.join(".victim.new");
        std::fs::write(&leftover, "").unwrap();
        let file = self.check_leavings(other, &found);
        std::fs::remove_file(leftover).unwrap();
        std::fs::remove_file(directory.join("victim.toml")).unwrap();

        for (noticed, what) in [
            (alive, "Empty"),
            (locked, "attached"),
            (attached, "attached"),
            (file, ".victim.new"),
        ] {
            let noticed = noticed.expect_err(what);
            ensure!(noticed.contains(what), "{noticed} and not {what}");
            self.tally.count("noticed: what is left", 1);
        }
        Ok(())
    }

    /// Looks at what is there before each instruction of one victim, then kills others at some of them.
    fn kill_stepped(&mut self, kind: u64, random: u64, many: u64) -> Result<(), String> {
        let plan = Plan::of(kind, random, 0);
        let end = self
            .look_at_every_instruction(&plan, None)
            .map_err(|error| format!("{plan:?}: {error}"))?;
        for turn in 0..many {
            let steps = end * turn / many + random % (end / many).max(1);
            self.kill_after(&plan, steps)
                .map_err(|error| format!("{plan:?}, {steps} of {end}: {error}"))?;
            self.tally.count("publishers killed before a chosen instruction", 1);
        }
        Ok(())
    }

    /// Returns how many instructions there are.
    fn look_at_every_instruction(&mut self, plan: &Plan, fault: Option<Fault>) -> Result<u64, String> {
        let directory = &self.order.directory;
        let mut victim = start_stepped(directory, plan, fault);
        let segment = Arc::new(Segment::attach(find(directory).info.shared_memory.unwrap().id).unwrap());
        let slots = segment.geometry().slot_at(0);
        let body = segment.words().slice(slots, segment.words().len() - slots);
        let (mut seen, mut seen_live) = (Vec::new(), [0; 3]);
        let mut steps = 0;
        while segment.heartbeat() & DONE == 0 {
            // What no instruction has changed need not be looked at again.
            let live = [HEAD_WORD, FLOOR_WORD, HEARTBEAT_WORD].map(|word| segment.words().load(word));
            if live != seen_live || !body.iter().eq(seen.iter().copied()) {
                (seen_live, seen) = (live, body.iter().collect());
                let found = look(&segment, &plan.stream).map_err(|error| format!("instruction {steps}: {error}"))?;
                self.tally.count(format_args!("states: {:?}", found.state), 1);
            }
            victim.step();
            steps += 1;
        }
        look(&segment, &plan.stream)?;
        self.tally.count("instructions looked before", steps);
        victim.kill();
        Ok(steps)
    }

    fn kill_after(&mut self, plan: &Plan, steps: u64) -> Result<(), String> {
        let directory = &self.order.directory;
        let mut victim = start_stepped(directory, plan, None);
        let (reader, found) = attach(directory, plan.stream.start)?;
        (0..steps).all(|_| victim.step());
        victim.kill();
        let state = self.examine(reader, Account::from(plan.stream.start), found, &plan.stream)?;
        self.tally.count(format_args!("killed when {state:?}"), 1);
        Ok(())
    }

    fn kill_free(&mut self, random: u64) -> Result<(), String> {
        let plan = Plan::of(0, random, LONGEST_RUN);
        let directory = &self.order.directory;
        let lifespan = Duration::from_nanos(1 + mix(random) % LONGEST_LIFE.as_nanos() as u64);
        let mut victim = start_free(directory, &plan, lifespan);
        let (mut reader, found) = attach(directory, plan.stream.start)?;
        let mut account = Account::from(plan.stream.start);
        victim.go_on();
        // Beside half of them somebody reads.
        let end = Instant::now() + lifespan;
        while random % 32 < 16 && Instant::now() < end {
            account.poll(&mut reader)?;
        }
        victim.outlive();
        let state = self
            .examine(reader, account, found, &plan.stream)
            .map_err(|error| format!("{plan:?}: {error}"))?;
        self.tally.count("publishers killed at a random moment", 1);
        self.tally.count(format_args!("killed at random when {state:?}"), 1);
        Ok(())
    }

    /// Checks all that is left of a victim that was killed just now.
    fn examine(
        &mut self,
        mut reader: Subscriber,
        mut account: Account,
        found: Found,
        stream: &Stream,
    ) -> Result<State, String> {
        let died = Instant::now();
        let Finding { published, state } = look(reader.segment(), stream)?;
        account.drain(&mut reader)?;
        account.check_at(published, state)?;
        self.tally.count("messages received whole", account.received);
        self.tally.count("messages counted as missed", account.missed);
        self.expect_death(&mut reader, state, died)?;
        self.check_leavings(reader, &found)?;
        Ok(state)
    }

    /// A reader that waits is told that the publisher died, or that the stream ended if it has.
    fn expect_death(&mut self, reader: &mut Subscriber, state: State, died: Instant) -> Result<(), String> {
        let outcome = reader.receive(self.patience, |_| ());
        let expected = if state.is_end() { Poll::Ended } else { Poll::Dead };
        ensure!(
            outcome == expected,
            "{outcome:?} of a publisher that was killed when {state:?}"
        );
        if state != State::Closed {
            // Told by the heartbeat and the lock alone: the head is not closed.
            let outcome = reader.server_state();
            ensure!(outcome == ServerState::Dead || state.is_end(), "{outcome} and not dead");
        }
        if !state.is_end() {
            self.tally.took("until a death was noticed", died.elapsed());
        }
        Ok(())
    }

    /// Nobody but the reader has the segment, nobody has the lock, and the info file is all that is there. Once the
    /// reader is gone, so is the segment. That the name is free is shown by the next victim, which takes it.
    fn check_leavings(&self, reader: Subscriber, found: &Found) -> Result<(), String> {
        let attached = reader.segment().status().unwrap().unwrap().attached;
        ensure!(attached == 1, "{attached} have the segment attached");
        ensure!(!found.lock.is_held().unwrap(), "the lock of a dead server is held");
        let entries = std::fs::read_dir(&self.order.directory).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        ensure!(names == ["victim.toml"], "left behind: {names:?}");
        drop(reader);
        let id = found.info.shared_memory.unwrap().id;
        match Segment::attach(id) {
            Err(AttachError::Missing { .. }) => Ok(()),
            other => Err(format!("segment {id} is left behind: {other:?}")),
        }
    }
}

/// A reader of all that a victim publishes, with the lock by which to tell its death.
fn attach(directory: &Path, start: u64) -> Result<(Subscriber, Found), String> {
    let found = find(directory);
    let reader = Subscriber::open(&found, Join::Sequence(start)).map_err(|error| error.to_string())?;
    Ok((reader, found))
}
