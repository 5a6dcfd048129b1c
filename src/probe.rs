//! One look at one server: both transports really tried, the category, and the newest messages.
//!
//! | shared memory | socket | category |
//! |---------------|--------|----------|
//! | works | works | Host: the same machine, nothing in between |
//! | works | fails | Container: the same IPC namespace, another network |
//! | fails | works | Remote: another machine, or another IPC namespace or user |
//! | fails | fails | VM: nothing reaches it; the reason says why |
//!
//! Shared memory works if the segment can be attached read-only and carries the incarnation that the info file names.
//! The socket works if the server that answers says that incarnation in its hello.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::discovery::Found;
use crate::incarnation::Incarnation;
use crate::liveness::ServerState;
use crate::publisher::now_ns;
use crate::ring::{Poll, Received};
use crate::socket::RemoteSubscriber;
use crate::socket::frame::{Hello, MAX_MESSAGE_BYTES, Offer};
use crate::subscriber::{Join, Subscriber};
use crate::transport::Transport;

mod attempt;

use attempt::{try_shared_memory, try_socket};

pub use attempt::{Attempt, Step};

/// What works between this process and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// Shared memory and socket.
    Host,
    /// Shared memory only.
    Container,
    /// Neither.
    Vm,
    /// Socket only.
    Remote,
}

impl Category {
    const fn of(shared_memory: bool, socket: bool) -> Self {
        match (shared_memory, socket) {
            (true, true) => Self::Host,
            (true, false) => Self::Container,
            (false, false) => Self::Vm,
            (false, true) => Self::Remote,
        }
    }

    /// The word for it, for programs: `host`, `container`, `vm` or `remote`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Container => "container",
            Self::Vm => "vm",
            Self::Remote => "remote",
        }
    }

    /// The word for it, for people: `Host`, `Container`, `VM` or `Remote`.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Host => "Host",
            Self::Container => "Container",
            Self::Vm => "VM",
            Self::Remote => "Remote",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}

/// How to look.
#[derive(Debug, Clone, Copy)]
pub struct ProbeOptions {
    /// When the look must be over. Shared memory takes microseconds; it is the socket that may take long.
    pub deadline: Instant,
    /// How many of the newest messages to retrieve: fewer, if they have more than 1 GiB together.
    pub last: u64,
}

impl ProbeOptions {
    fn is_in_time(&self) -> bool {
        Instant::now() < self.deadline
    }
}

/// A message that was retrieved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its place in the stream.
    pub sequence: u64,
    /// When it was published, in nanoseconds since 1970 on the server's clock.
    pub timestamp_ns: u64,
    /// The publisher's 64 bits to sort messages by.
    pub tag: u64,
    /// Its bytes.
    pub payload: Vec<u8>,
}

impl From<Received<Vec<u8>>> for Message {
    fn from(received: Received<Vec<u8>>) -> Self {
        let Received {
            sequence,
            timestamp_ns,
            tag,
            value: payload,
            ..
        } = received;
        Self {
            sequence,
            timestamp_ns,
            tag,
            payload,
        }
    }
}

/// What one look at a server found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The server's name.
    pub name: String,
    /// Its info file.
    pub path: PathBuf,
    /// The life of it that the info file names.
    pub incarnation: Incarnation,
    /// Its process, in its own PID namespace.
    pub pid: u32,
    /// When it started, in nanoseconds since 1970 on its own clock.
    pub started_unix_ns: u64,
    /// What works.
    pub category: Category,
    /// How it is.
    pub state: ServerState,
    /// Over what the messages were retrieved.
    pub transport: Option<Transport>,
    /// Why over that, or why over nothing, in one line.
    pub reason: String,
    /// Shared memory, tried.
    pub shared_memory: Attempt,
    /// The socket, tried.
    pub socket: Attempt,
    /// Subscribers other than this look, as far as it could be told: mappings and connections.
    pub readers: Option<u64>,
    /// What the server offers to lossless subscribers and how it fares with them, as it said on its socket.
    pub offer: Option<Offer>,
    /// When the following were so, in nanoseconds since 1970 on this machine's clock: a socket may take long after that.
    pub looked_unix_ns: u64,
    /// The oldest sequence that is retained.
    pub oldest: u64,
    /// The sequence that comes next: how many messages there were.
    pub head: u64,
    /// Messages that were overwritten while they were retrieved.
    pub missed: u64,
    /// The newest messages, oldest first.
    pub messages: Vec<Message>,
}

/// Looks at a server: tries both transports, and retrieves its newest messages over one that works.
///
/// Returns by the deadline, give or take a scheduling delay.
#[must_use]
pub fn probe(found: &Found, options: &ProbeOptions) -> Report {
    let info = &found.info;
    let (mut subscriber, shared_memory) = try_shared_memory(found, Instant::now());
    let mut retrieved = Retrieved::nothing();
    if let Some(subscriber) = &mut subscriber {
        // Before the socket is tried, which takes all of the time if it does not answer.
        retrieved.take_from_segment(subscriber, options);
    }
    let (mut remote, socket) = try_socket(found, options, Instant::now());
    let state = state(found, subscriber.as_ref(), remote.as_ref(), options.deadline);
    match (&mut subscriber, &mut remote) {
        // What came meanwhile: of a stream that has ended all, and nothing older than what was said on the socket.
        (Some(subscriber), _) if options.is_in_time() => retrieved.take_from_segment(subscriber, options),
        (None, Some(remote)) => retrieved.take_from_socket(remote, options),
        _ => {}
    }

    let mut report = Report {
        name: info.name.to_string(),
        path: found.path.clone(),
        incarnation: info.incarnation,
        pid: info.pid,
        started_unix_ns: info.started_unix_ns,
        category: Category::of(subscriber.is_some(), remote.is_some()),
        state,
        transport: match (&subscriber, &remote) {
            (Some(_), _) => Some(Transport::SharedMemory),
            (None, Some(_)) => Some(Transport::Socket),
            (None, None) => None,
        },
        reason: String::new(),
        shared_memory,
        socket,
        readers: count_readers(subscriber.as_ref(), remote.as_ref().map(RemoteSubscriber::hello)),
        offer: remote.as_ref().and_then(RemoteSubscriber::offer).cloned(),
        looked_unix_ns: retrieved.looked_unix_ns,
        oldest: retrieved.oldest,
        head: retrieved.head,
        missed: retrieved.missed,
        messages: retrieved.messages,
    };
    report.reason = report.why();
    report
}

/// Subscribers besides the server and this process. A mapping more than one's own is a subscriber.
fn count_readers(subscriber: Option<&Subscriber>, hello: Option<&Hello>) -> Option<u64> {
    let attached = subscriber
        .and_then(|subscriber| subscriber.segment().status().ok()?)
        .map(|status| status.attached);
    let connected = hello.map(|hello| u64::from(hello.connections).saturating_sub(1));
    match (attached, connected) {
        (None, None) => None,
        (attached, connected) => {
            Some(attached.map_or(0, |attached| attached.saturating_sub(2)) + connected.unwrap_or(0))
        }
    }
}

/// A server that answers on its socket lives; without one its heartbeat has to be seen to move.
fn state(
    found: &Found,
    subscriber: Option<&Subscriber>,
    remote: Option<&RemoteSubscriber>,
    deadline: Instant,
) -> ServerState {
    let Some(subscriber) = subscriber else {
        return match (remote, found.lock.is_held()) {
            (Some(remote), _) if remote.hello().closed => ServerState::Ended,
            (Some(_), _) => ServerState::Live,
            // Somebody lives, and no heartbeat can be seen from here.
            (None, Ok(true) | Err(_)) => ServerState::Unknown,
            // A server that leaves takes its info file with it, which was there a moment ago.
            (None, Ok(false)) if !found.path.exists() => ServerState::Ended,
            (None, Ok(false)) => ServerState::Dead,
        };
    };
    if subscriber.head().closed {
        return ServerState::Ended;
    }
    if remote.is_some() {
        return ServerState::Live;
    }
    let pulse = subscriber.pulse();
    let lock = || found.lock.is_held().ok();
    // Counted from when it was attached: a server that is stopped lets the socket take all of the time.
    let silent_at = pulse.silent_at() + Duration::from_millis(1);
    let deadline = deadline.min(silent_at);
    loop {
        let now = Instant::now();
        let count = subscriber.segment().heartbeat();
        if pulse.has_moved(count) {
            return ServerState::Live;
        }
        if now >= deadline {
            return match lock() {
                _ if now < silent_at => ServerState::Unknown,
                Some(false) => ServerState::Dead,
                _ => ServerState::Hung,
            };
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What was retrieved of a stream, over either transport.
#[derive(Debug)]
struct Retrieved {
    looked_unix_ns: u64,
    oldest: u64,
    head: u64,
    missed: u64,
    messages: Vec<Message>,
    /// Bytes that further messages may have: a server can make each as long as the longest.
    room: usize,
}

impl Retrieved {
    fn nothing() -> Self {
        Self {
            looked_unix_ns: now_ns(),
            oldest: 0,
            head: 0,
            missed: 0,
            messages: Vec::new(),
            room: MAX_MESSAGE_BYTES,
        }
    }

    /// Takes the newest messages. Those that were taken before stay if these follow on them.
    fn take_from_segment(&mut self, subscriber: &mut Subscriber, options: &ProbeOptions) {
        let taken = subscriber.cursor();
        let oldest = subscriber.oldest();
        // Where they begin before where they end: a stream in full flow is beyond that by then.
        subscriber.rejoin(Join::Latest(options.last));
        if subscriber.cursor() > taken {
            *self = Self::nothing();
        } else {
            subscriber.rejoin(Join::Sequence(taken));
        }
        self.looked_unix_ns = now_ns();
        self.oldest = oldest;
        self.head = subscriber.head().next;
        let most = (self.messages.len() as u64).saturating_add(options.last);
        while subscriber.cursor() < self.head && (self.messages.len() as u64) < most && options.is_in_time() {
            let outcome = subscriber.poll(|view| view.to_vec());
            if !self.take(outcome) {
                break;
            }
        }
        let excess = (self.messages.len() as u64).saturating_sub(options.last);
        self.messages.drain(..excess as usize);
    }

    fn take_from_socket(&mut self, remote: &mut RemoteSubscriber, options: &ProbeOptions) {
        self.looked_unix_ns = now_ns();
        self.oldest = remote.hello().oldest;
        self.head = remote.hello().head;
        while remote.cursor() < self.head && (self.messages.len() as u64) < options.last {
            let left = options.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let Ok(outcome) = remote.receive(left, <[u8]>::to_vec) else {
                break;
            };
            if !self.take(outcome) {
                break;
            }
        }
    }

    /// Takes what a poll found; whether there may be more, and room for it.
    fn take(&mut self, outcome: Poll<Vec<u8>>) -> bool {
        match outcome {
            Poll::Message(received) => {
                self.room = self.room.saturating_sub(received.len);
                self.messages.push(received.into());
                self.room > 0
            }
            Poll::Lapped { missed, .. } => {
                self.missed += missed;
                true
            }
            _ => false,
        }
    }
}

impl Report {
    fn why(&self) -> String {
        let reason = |attempt: &Attempt| attempt.outcome.clone().err().unwrap_or_default();
        match self.category {
            Category::Host => "shared memory and socket work".to_owned(),
            Category::Container if self.state == ServerState::Hung => format!(
                "shared memory works, but the heartbeat stands still; socket: {}",
                reason(&self.socket)
            ),
            Category::Container if self.state == ServerState::Dead => {
                "the server died; somebody has its shared memory attached still, so that what it published last can be read".to_owned()
            }
            Category::Container => format!("shared memory works; socket: {}", reason(&self.socket)),
            Category::Remote => format!("socket works; shared memory: {}", reason(&self.shared_memory)),
            Category::Vm if self.state == ServerState::Dead => {
                "the server died without removing its info file; the next server of that name replaces it".to_owned()
            }
            Category::Vm if self.state == ServerState::Ended => {
                "the server has just left and removed its info file".to_owned()
            }
            Category::Vm => {
                format!(
                    "shared memory: {}; socket: {}",
                    reason(&self.shared_memory),
                    reason(&self.socket)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
