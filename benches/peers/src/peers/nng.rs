//! nng: what nanomsg became, over Unix sockets, by threads that each process has for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ::nng::options::protocol::pubsub::Subscribe;
use ::nng::options::{Options, RecvBufferSize, RecvMaxSize, RecvTimeout, SendBufferSize};
use ::nng::{Error, Message, PipeEvent, Protocol, Socket};
use anyhow::{Result, ensure};

use super::boxed;
use crate::message::{Draft, Reading, Seen, look_at_bytes};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender, version_of};
use crate::work::Work;

struct Nng {
    name: &'static str,
    settings: &'static str,
    /// One reader that is waited for, not all who subscribe.
    is_pair: bool,
}

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![
        boxed(Nng {
            name: "nng, pair",
            settings: "`ipc://`, a pair: one reader, and the sender waits for room, which is for 8,192 messages (64 MiB at most) on each \
                       side. Blocking `recv`, so that its threads have the processors.",
            is_pair: true,
        }),
        boxed(Nng {
            name: "nng, publish",
            settings: "The same, published and subscribed: what is not taken in time is dropped.",
            is_pair: false,
        }),
    ]
}

/// Messages of room on a side, the most that it allows, and their bytes.
const ROOM: usize = 8192;
const ROOM_BYTES: usize = 64 << 20;
/// How long a `recv` takes at most before the work looks whether it is over.
const WAIT: Duration = Duration::from_millis(10);
/// Longer than it takes to connect.
const PATIENCE: Duration = Duration::from_secs(10);

impl Peer for Nng {
    type Sender = Tx;
    type Receiver = Rx;

    fn about(&self) -> About {
        About {
            name: self.name.into(),
            version: format!("nng crate {}", version_of("nng")).into(),
            by: By::Kernel,
            is_lossless: self.is_pair,
            settings: self.settings.into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        if self.is_pair {
            work.readers() == 1
        } else {
            work.is_stream()
        }
    }

    fn sender(&self, link: &Link) -> Result<Tx> {
        let socket = Socket::new(if self.is_pair { Protocol::Pair0 } else { Protocol::Pub0 })?;
        socket.set_opt::<SendBufferSize>(room(link)?)?;
        let readers = Arc::new(AtomicUsize::new(0));
        let count = readers.clone();
        socket.pipe_notify(move |_, event| {
            if event == PipeEvent::AddPost {
                count.fetch_add(1, Ordering::Release);
            }
        })?;
        socket.listen(&url(link))?;
        Ok(Tx {
            socket,
            readers,
            wanted: link.work.readers(),
            draft: Draft::new(link.work.len()),
        })
    }

    fn receiver(&self, link: &Link) -> Result<Rx> {
        let socket = Socket::new(if self.is_pair { Protocol::Pair0 } else { Protocol::Sub0 })?;
        socket.set_opt::<RecvBufferSize>(room(link)?)?;
        socket.set_opt::<RecvMaxSize>(0)?;
        socket.set_opt::<RecvTimeout>(Some(WAIT))?;
        if !self.is_pair {
            socket.set_opt::<Subscribe>(Vec::new())?;
        }
        socket.dial(&url(link))?;
        Ok(Rx { socket })
    }
}

fn room(link: &Link) -> Result<i32> {
    Ok(ROOM.min(ROOM_BYTES / link.work.len()).try_into()?)
}

fn url(link: &Link) -> String {
    format!("ipc://{}", link.path("nng").display())
}

pub struct Tx {
    socket: Socket,
    /// How many are connected, and how many are to be.
    readers: Arc<AtomicUsize>,
    wanted: usize,
    draft: Draft,
}

impl Sender for Tx {
    fn start(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.readers.load(Ordering::Acquire) < self.wanted {
            ensure!(start.elapsed() < PATIENCE, "the other side was not connected");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce()) {
        let message = self.draft.make(sequence, len);
        made();
        self.socket.send(Message::from(message)).expect("a socket that is open");
    }
}

pub struct Rx {
    socket: Socket,
}

impl Receiver for Rx {
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        match self.socket.recv() {
            Ok(message) => each(look_at_bytes(&message, reading)),
            Err(Error::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
