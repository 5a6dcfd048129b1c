//! What a server may say about how its socket is served.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use super::frame::{MAX_DEADLINE_MS, MAX_MESSAGE_BYTES};
use crate::cpus::Cpus;
use crate::discovery::Presence;
use crate::segment::Segment;

/// How a server serves its socket.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServiceOptions {
    /// Where clients connect; bound already. None: no client ever does.
    pub listeners: Vec<TcpListener>,
    /// More than so many connections are turned away.
    pub max_connections: usize,
    /// How long a client may take to subscribe.
    pub subscribe_deadline: Duration,
    /// Both sides send something at least this often; from 1 ms.
    pub heartbeat: Duration,
    /// Either side gives the other up after so long without a byte; more than `heartbeat`, at most 10 minutes.
    pub silence_deadline: Duration,
    /// How long a client may take nothing of what is to be sent.
    pub stall_deadline: Duration,
    /// How long a client that was turned away may take to close.
    pub linger: Duration,
    /// What the kernel may hold for each connection (`SO_SNDBUF`); `None` leaves it to the kernel, which goes up to the
    /// last figure of `net.ipv4.tcp_wmem`, commonly 4 MiB.
    pub send_buffer_bytes: Option<usize>,
    /// The CPUs that the thread is kept to; where whoever starts it may run if `None`.
    pub cpus: Option<Cpus>,
    /// Whether the thread looks at the ring without a pause while a connection waits for it, and is never woken.
    pub spin: bool,
    /// What the thread looks after besides, if anything: that the server can be found.
    pub(crate) presence: Option<Arc<Presence>>,
}

impl ServiceOptions {
    /// The usual deadlines, and up to 1024 connections.
    #[must_use]
    pub const fn new(listeners: Vec<TcpListener>) -> Self {
        Self {
            listeners,
            max_connections: 1024,
            subscribe_deadline: Duration::from_secs(5),
            heartbeat: Duration::from_secs(1),
            silence_deadline: Duration::from_secs(10),
            stall_deadline: Duration::from_secs(30),
            linger: Duration::from_secs(5),
            send_buffer_bytes: None,
            cpus: None,
            spin: false,
            presence: None,
        }
    }

    pub(super) fn check(&self, segment: &Segment) -> io::Result<()> {
        let refuse = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        let longest = segment.geometry().max_message_bytes();
        if !self.listeners.is_empty() && longest > MAX_MESSAGE_BYTES {
            return refuse(format!(
                "messages of up to {longest} bytes cannot be sent over a socket, which takes up to {MAX_MESSAGE_BYTES}: \
                 allow shorter ones only, or serve no socket"
            ));
        }
        let longest = Duration::from_millis(MAX_DEADLINE_MS.into());
        let (heartbeat, silence) = (self.heartbeat, self.silence_deadline);
        if heartbeat.as_millis() == 0 || heartbeat.as_millis() >= silence.as_millis() || silence > longest {
            return refuse(format!(
                "a heartbeat of {heartbeat:?} and a silence deadline of {silence:?} cannot be: the deadline must be \
                 longer than the heartbeat, and at most {longest:?}"
            ));
        }
        Ok(())
    }
}
