//! Programs of this machine that push messages to be published, over TCP or a unix socket: `--publish-listen`.
//!
//! ```text
//!   pusher 1 ---frames---+
//!   pusher 2 ---frames---+--> one at a time, as their frames become complete --> ring
//!   pusher 3 ---frames---+
//! ```
//!
//! The messages of one pusher keep their order; among pushers a message goes in when its last byte has been read. Pushers
//! take turns of one block, so that none waits for a busy one. Nothing is ever sent to a pusher: one that has shut down
//! its sending side and then reads the end of the stream knows that all it sent was published, unless the server was asked
//! to stop.
//!
//! A pusher costs its socket and the frame that it has begun, as far as that has arrived.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use lapwing::cli::Failure;
use log::{info, warn};
use mio::{Events, Interest, Poll, Token};

use super::frames::FrameSplitter;
use super::publish_frames;
use super::push_listener::{Connection, PushListener};
use crate::feed::{Feed, Interrupt};

/// Most pushers at a time. More wait until one leaves: the kernel queues them.
const MOST_PUSHERS: usize = 256;
/// Bytes read of one pusher before the next has its turn.
const BLOCK_BYTES: usize = 64 << 10;
/// How long not to accept when there are no descriptors left.
const RETRY: Duration = Duration::from_millis(100);
const LISTENER: Token = Token(usize::MAX - 1);

/// A program that pushes messages.
#[derive(Debug)]
struct Pusher {
    connection: Connection,
    frames: FrameSplitter,
}

/// How often things went wrong. Each is told when that is a power of two: no pusher can flood the log.
#[derive(Debug, Default)]
struct Troubles {
    accepts: u64,
    full: u64,
    broken: u64,
}

fn worth_telling(count: &mut u64) -> bool {
    *count += 1;
    count.is_power_of_two()
}

/// All pushers of a server and the listener that they come to.
#[derive(Debug)]
pub struct Push {
    listener: PushListener,
    poll: Poll,
    pushers: HashMap<Token, Pusher>,
    /// Pushers that may have more to read: the kernel tells of each arrival once.
    ready: VecDeque<Token>,
    /// Pushers may be waiting to be accepted.
    may_accept: bool,
    /// Not to accept before this.
    retry_at: Option<Instant>,
    /// How many were accepted. Each is known by how many came before it.
    accepted: usize,
    troubles: Troubles,
    block: Box<[u8]>,
}

impl Push {
    /// Takes pushers from `listener`.
    pub fn new(mut listener: PushListener) -> Result<Self, Failure> {
        let poll = Poll::new().and_then(|poll| {
            poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
            Ok(poll)
        });
        Ok(Self {
            listener,
            poll: poll.map_err(|error| Failure::caused("cannot wait for pushers", error))?,
            pushers: HashMap::new(),
            ready: VecDeque::new(),
            may_accept: true,
            retry_at: None,
            accepted: 0,
            troubles: Troubles::default(),
            block: vec![0; BLOCK_BYTES].into(),
        })
    }

    /// Where pushers are to connect.
    pub fn address(&self) -> String {
        self.listener.address()
    }

    /// Publishes what is pushed. Ends with a signal only.
    pub fn run(&mut self, feed: &mut Feed) -> Result<(), Interrupt> {
        let mut events = Events::with_capacity(MOST_PUSHERS + 1);
        loop {
            let can_accept = self.may_accept && self.retry_at.is_none() && self.pushers.len() < MOST_PUSHERS;
            let has_work = can_accept || !self.ready.is_empty();
            let until = if has_work { Some(Instant::now()) } else { self.retry_at };
            // What mio waits on is a descriptor itself: readable while there are events.
            feed.wait(Some(self.poll.registry().as_fd()), until)?;
            match self.poll.poll(&mut events, Some(Duration::ZERO)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(Failure::caused("cannot wait for pushers", error).into());
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.may_accept = true,
                    token => self.make_ready(token),
                }
            }
            self.accept(feed.max_message_bytes());
            for _ in 0..self.ready.len() {
                self.serve_next(feed)?;
            }
        }
    }

    fn make_ready(&mut self, token: Token) {
        if !self.ready.contains(&token) {
            self.ready.push_back(token);
        }
    }

    /// Accepts those who wait, as many as there may be.
    fn accept(&mut self, max_message_bytes: usize) {
        if self.retry_at.is_some_and(|at| Instant::now() >= at) {
            self.retry_at = None;
        }
        while self.may_accept && self.retry_at.is_none() && self.pushers.len() < MOST_PUSHERS {
            match self.listener.accept() {
                Ok(connection) => self.add(connection, max_message_bytes),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.may_accept = false,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        if worth_telling(&mut self.troubles.accepts) {
                            let count = self.troubles.accepts;
                            warn!("cannot accept a pusher, it has to wait: {error} ({count} so far)");
                        }
                        self.retry_at = Some(Instant::now() + RETRY);
                    }
                },
            }
        }
    }

    fn add(&mut self, mut connection: Connection, max_message_bytes: usize) {
        let token = Token(self.accepted);
        self.accepted += 1;
        if let Err(error) = self
            .poll
            .registry()
            .register(&mut connection, token, Interest::READABLE)
        {
            warn!("cannot serve a pusher: {error}");
            return;
        }
        let frames = FrameSplitter::new(max_message_bytes);
        self.pushers.insert(token, Pusher { connection, frames });
        self.make_ready(token);
        info!("pusher {} came, there are {}", token.0, self.pushers.len());
        if self.pushers.len() == MOST_PUSHERS && worth_telling(&mut self.troubles.full) {
            let count = self.troubles.full;
            warn!("there are {MOST_PUSHERS} pushers, more have to wait until one leaves ({count} so far)");
        }
    }

    /// Reads one block of the pusher whose turn it is.
    fn serve_next(&mut self, feed: &mut Feed) -> Result<(), Interrupt> {
        let Some(token) = self.ready.pop_front() else {
            return Ok(());
        };
        let Some(pusher) = self.pushers.get_mut(&token) else {
            return Ok(());
        };
        match pusher.connection.read(&mut self.block) {
            Ok(0) => self.remove(token, None),
            Ok(count) => {
                publish_frames(feed, &mut pusher.frames, &self.block[..count])?;
                self.ready.push_back(token);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {}
                io::ErrorKind::Interrupted => self.ready.push_back(token),
                _ => self.remove(token, Some(error)),
            },
        }
        Ok(())
    }

    fn remove(&mut self, token: Token, error: Option<io::Error>) {
        let Some(mut pusher) = self.pushers.remove(&token) else {
            return;
        };
        // Closing it is what takes it out of the poll for certain.
        let _ = self.poll.registry().deregister(&mut pusher.connection);
        let how = error.map_or_else(|| "left".to_owned(), |error| format!("was lost: {error}"));
        if pusher.frames.missing().is_some() && worth_telling(&mut self.troubles.broken) {
            let count = self.troubles.broken;
            warn!(
                "pusher {} {how}, in the middle of a frame, which is not published ({count} so far)",
                token.0
            );
        } else {
            info!("pusher {} {how}", token.0);
        }
    }
}
