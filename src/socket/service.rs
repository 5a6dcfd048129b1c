//! The one thread of a server beside its publisher: it serves every connection, moves the heartbeat of the segment, wakes
//! readers for the publisher and sees to it that the server can be found.
//!
//! ```text
//!   listeners -> Acceptor --+
//!   publisher -> Bell ------+--> epoll --> turn: accept, receive, send to all who are behind --> tick --> sleep
//!   clients --> Connections +
//! ```
//!
//! It sleeps in epoll until a client, the bell or the clock has something for it. The bell rings for it only while a
//! connection waits for the ring.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use super::acceptor::{Acceptor, Arrival, turn_away};
use super::chunk::Chunks;
use super::connection::{Connection, Deadlines, Gone, Hub};
use super::handle::{ServiceHandle, Shared};
use super::options::ServiceOptions;
use super::survivors::Survivors;
use crate::bell::{Attendant, Bell};
use crate::discovery::{Presence, Watchman};
use crate::gate::Gate;
use crate::ring::Reader;
use crate::segment::Segment;
use crate::sys::limit_unsent;

const WAKER: Token = Token(0);
const FIRST_LISTENER: usize = 1;
/// Events fetched at once; the rest comes with the next turn.
const EVENTS: usize = 1024;
/// What the kernel holds for a connection beyond what its peer takes: what a connection sends in one turn.
const UNSENT_BYTES: u32 = 256 << 10;
/// Connections that are served between two looks at the segment's heartbeat. A burst for thousands takes seconds.
const SERVED_PER_BEAT: usize = 16;
/// How often a thread that never sleeps looks at the ring until it asks for other events: some microseconds.
const LOOKS_PER_TURN: u32 = 128;
/// How often in a heartbeat all connections are judged by the clock.
const TICKS_PER_HEARTBEAT: u32 = 4;

/// What the thread has.
#[derive(Debug)]
pub(crate) struct Service {
    poll: Poll,
    acceptor: Acceptor,
    /// Tokens of connections begin here.
    first_connection: usize,
    /// By token; `None` where a connection was.
    connections: Vec<Option<Connection>>,
    /// Where `connections` holds `None`.
    vacant: Vec<usize>,
    max_connections: usize,
    send_buffer_bytes: Option<usize>,
    hub: Hub,
    attendant: Attendant,
    /// The sequence from which on somebody waits for the ring; nobody does if `None`.
    awaited: Option<u64>,
    /// Somebody could go on sending at once.
    busy: bool,
    /// The thread does not sleep while somebody waits for the ring.
    spin: bool,
    next_tick: Instant,
    presence: Option<Arc<Presence>>,
    watchman: Watchman,
    /// Connections served since the segment was last attended to.
    served: usize,
    shared: Arc<Shared>,
}

impl Service {
    /// Starts the thread that serves `segment`.
    ///
    /// # Errors
    /// When the options contradict each other or the segment, or the system refuses what the thread needs.
    pub(crate) fn spawn(
        segment: Arc<Segment>,
        bell: Arc<Bell>,
        gate: Arc<Gate>,
        options: ServiceOptions,
    ) -> io::Result<ServiceHandle> {
        options.check(&segment)?;
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let now = Instant::now();
        let shared = Arc::new(Shared::default());
        let first_connection = FIRST_LISTENER + options.listeners.len();
        let service = Self {
            acceptor: Acceptor::new(options.listeners, FIRST_LISTENER, poll.registry())?,
            poll,
            first_connection,
            connections: Vec::new(),
            vacant: Vec::new(),
            max_connections: options.max_connections,
            send_buffer_bytes: options.send_buffer_bytes,
            attendant: Attendant::new(bell.clone(), segment.clone(), waker, now),
            hub: Hub {
                segment,
                gate,
                deadlines: Deadlines {
                    subscribe: options.subscribe_deadline,
                    heartbeat: options.heartbeat,
                    silence: options.silence_deadline,
                    stall: options.stall_deadline,
                    linger: options.linger,
                },
                chunks: Chunks::default(),
                counters: shared.counters.clone(),
                leased: 0,
                survivors: Survivors::default(),
                now,
            },
            awaited: None,
            busy: false,
            spin: options.spin,
            next_tick: now,
            presence: options.presence,
            watchman: Watchman::new(now),
            served: 0,
            shared: shared.clone(),
        };
        let (tell, told) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("lapwing-service".to_owned())
            .spawn(move || {
                let pinned = options.cpus.map_or(Ok(()), |cpus| cpus.pin_this_thread());
                let is_in_place = pinned.is_ok();
                // Whoever starts it waits for this.
                let _ = tell.send(pinned);
                if is_in_place {
                    service.run();
                }
            })?;
        let handle = ServiceHandle::new(shared, bell, thread);
        // A thread that tells nothing has died, which its handle tells.
        told.recv().unwrap_or(Ok(())).map_err(io::Error::other)?;
        Ok(handle)
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.shared.stop.load(Ordering::Acquire) {
            if self.busy || self.is_news() {
                self.serve_all();
            }
            let timeout = self.time_to_sleep();
            let polled = self.poll.poll(&mut events, Some(timeout));
            self.attendant.woken();
            self.hub.now = Instant::now();
            match polled {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing that a peer does can cause this, and without events there is no service.
                Err(error) => panic!("epoll failed: {error}"),
            }
            for event in &events {
                self.handle(event);
            }
            self.accept();
            if self.hub.now >= self.next_tick {
                self.tick_all();
            }
            self.hub.survivors.look(&self.hub.gate, self.hub.now);
            // As often as the heartbeat wakes this thread, which is often enough.
            if let Some(presence) = &self.presence {
                self.watchman.look(presence, self.hub.now);
            }
        }
    }

    /// Whether the ring has something for a connection that waits for it.
    fn is_news(&self) -> bool {
        let segment = &self.hub.segment;
        self.awaited
            .is_some_and(|awaited| Reader::new(*segment.geometry(), awaited).is_ready(segment.words()))
    }

    /// Looks at the ring a few times in a row, until there is something.
    fn spin(&self) {
        let _ = (0..LOOKS_PER_TURN).any(|_| {
            std::hint::spin_loop();
            self.is_news()
        });
    }

    /// How long to sleep. Whoever calls this sleeps next.
    fn time_to_sleep(&mut self) -> Duration {
        let mut until = self.attendant.turn(self.hub.now).min(self.next_tick);
        let dues = [self.acceptor.due(self.hub.now), self.hub.survivors.due()];
        if let Some(due) = dues.into_iter().flatten().min() {
            until = until.min(due);
        }
        if self.busy {
            return Duration::ZERO;
        }
        let mut longest = Duration::MAX;
        if self.awaited.is_some() {
            if self.spin {
                self.spin();
                return Duration::ZERO;
            }
            longest = self.attendant.prepare_to_sleep().unwrap_or(longest);
            if self.is_news() {
                return Duration::ZERO;
            }
        }
        self.hub.chunks.forget();
        until.saturating_duration_since(Instant::now()).min(longest)
    }

    /// Gives every connection that can send a turn.
    fn serve_all(&mut self) {
        self.busy = false;
        self.awaited = None;
        for index in 0..self.connections.len() {
            self.with(index, |connection, hub| connection.send(hub).map(drop));
        }
    }

    fn tick_all(&mut self) {
        self.next_tick = self.hub.now + self.hub.deadlines.heartbeat / TICKS_PER_HEARTBEAT;
        for index in 0..self.connections.len() {
            self.with(index, Connection::tick);
        }
    }

    fn handle(&mut self, event: &Event) {
        let Token(token) = event.token();
        let Some(index) = token.checked_sub(self.first_connection) else {
            if let Some(index) = token.checked_sub(FIRST_LISTENER) {
                self.acceptor.notify(index);
            }
            return;
        };
        let (readable, writable) = (event.is_readable() || event.is_error(), event.is_writable());
        self.with(index, |connection, hub| {
            if writable {
                connection.has_room();
            }
            if readable {
                connection.receive(hub)?;
            }
            connection.send(hub).map(drop)
        });
    }

    /// Lets `work` be done on the connection at `index`, if there is one, and draws the conclusions.
    fn with(&mut self, index: usize, work: impl FnOnce(&mut Connection, &mut Hub) -> Result<(), Gone>) {
        let Some(Some(connection)) = self.connections.get_mut(index) else {
            return;
        };
        let outcome = if connection.unread {
            connection.receive(&mut self.hub)
        } else {
            Ok(())
        };
        match outcome.and_then(|()| work(connection, &mut self.hub)) {
            Ok(()) => {
                self.busy |= connection.wants_a_turn() || connection.unread;
                if let Some(cursor) = connection.waits_for() {
                    self.awaited = Some(self.awaited.map_or(cursor, |awaited| awaited.min(cursor)));
                }
            }
            Err(gone) => self.remove(index, gone),
        }
        self.served += 1;
        if self.served == SERVED_PER_BEAT {
            self.served = 0;
            self.attendant.turn(Instant::now());
        }
    }

    fn remove(&mut self, index: usize, gone: Gone) {
        // Closing the socket takes it out of epoll as well.
        let Some(mut connection) = self.connections[index].take() else {
            return;
        };
        connection.release(&mut self.hub);
        drop(connection);
        self.vacant.push(index);
        let counters = &self.hub.counters;
        match gone {
            Gone::Finished => counters.finished.add(1),
            Gone::Left => counters.left.add(1),
            Gone::Stalled => counters.dropped_stalled.add(1),
            Gone::Corrupt => {
                log::error!(
                    "the ring of {} cannot be read any more",
                    self.hub.segment.header().name()
                );
                counters.dropped_corrupt.add(1);
            }
            Gone::Rejected => {}
        }
        self.report_connections();
    }

    fn report_connections(&self) {
        let connections = self.connections.len() - self.vacant.len();
        self.hub.counters.connections.set(connections as u64);
        self.shared.state().connections = connections;
        self.shared.changed.notify_all();
    }

    fn accept(&mut self) {
        let mut clients = Vec::new();
        let counters = self.hub.counters.clone();
        self.acceptor.accept(self.hub.now, |arrival| match arrival {
            Arrival::Client(stream) => clients.push(stream),
            Arrival::TurnedAway => {
                counters.accept_failures.add(1);
                counters.rejected_full.add(1);
            }
            Arrival::Failure => counters.accept_failures.add(1),
        });
        for stream in clients {
            self.admit(stream);
        }
    }

    fn admit(&mut self, stream: TcpStream) {
        let connections = self.connections.len() - self.vacant.len();
        if connections >= self.max_connections {
            self.hub.counters.rejected_full.add(1);
            return turn_away(stream);
        }
        let index = self.vacant.last().copied().unwrap_or(self.connections.len());
        let connection = match self.greet(stream, index) {
            Ok(connection) => connection,
            Err(error) => {
                log::warn!("cannot serve a new connection: {error}");
                return self.hub.counters.accept_failures.add(1);
            }
        };
        if self.vacant.pop().is_some() {
            self.connections[index] = Some(connection);
        } else {
            self.connections.push(Some(connection));
        }
        self.hub.counters.accepted.add(1);
        self.report_connections();
        self.with(index, |connection, hub| connection.send(hub).map(drop));
    }

    fn greet(&mut self, mut stream: TcpStream, index: usize) -> io::Result<Connection> {
        // The peer may have gone already: then the next read tells.
        let _ = stream.set_nodelay(true);
        // Without this bound a peer that does not read costs more, and nothing else.
        let _ = limit_unsent(&stream, UNSENT_BYTES);
        if let Some(bytes) = self.send_buffer_bytes {
            rustix::net::sockopt::set_socket_send_buffer_size(&stream, bytes)?;
        }
        let token = Token(self.first_connection + index);
        self.poll
            .registry()
            .register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let connections = self.connections.len() - self.vacant.len() + 1;
        Ok(Connection::new(
            stream,
            u32::try_from(connections).unwrap_or(u32::MAX),
            &mut self.hub,
        ))
    }
}

impl Drop for Service {
    /// Also when the thread panics: whoever waits for it must not wait for ever.
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_all();
    }
}
