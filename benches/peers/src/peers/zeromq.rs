//! ZeroMQ: publish and subscribe over Unix sockets or TCP, by threads that each process has for that.

use std::ffi::c_int;
use std::fs;

use anyhow::{Result, anyhow, ensure};
use zmq::{Context, Message, Socket};

use super::boxed;
use crate::message::{Draft, Reading, Seen, look_at_bytes};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender, version_of};
use crate::work::Work;

struct ZeroMq {
    name: &'static str,
    settings: &'static str,
    /// Where a publisher binds, before what is unique.
    is_tcp: bool,
    /// Waits for room for a slow reader. Else drops what is not taken in time, as it does by default.
    is_lossless: bool,
}

pub fn peers() -> Vec<Box<dyn Entry>> {
    let all = [
        ZeroMq {
            name: "ZeroMQ ipc",
            settings: "`ipc://`, XPUB and SUB, one I/O thread a process, 65,536 messages (64 MiB at most) of room on each side, \
                       ZMQ_XPUB_NODROP: waits for room. Blocking `recv`, so that the I/O threads have the processors.",
            is_tcp: false,
            is_lossless: true,
        },
        ZeroMq {
            name: "ZeroMQ ipc, default",
            settings: "The same as it is by default: room for 1,000 messages, what is too much is dropped.",
            is_tcp: false,
            is_lossless: false,
        },
        ZeroMq {
            name: "ZeroMQ TCP",
            settings: "As `ZeroMQ ipc`, over `tcp://` on loopback.",
            is_tcp: true,
            is_lossless: true,
        },
        ZeroMq {
            name: "ZeroMQ TCP, default",
            settings: "As `ZeroMQ ipc, default`, over `tcp://` on loopback.",
            is_tcp: true,
            is_lossless: false,
        },
    ];
    all.map(boxed).into()
}

/// Messages of room on a side, and their bytes at most.
const ROOM: usize = 65_536;
const ROOM_BYTES: usize = 64 << 20;
/// Milliseconds that a `recv` takes at most before the work looks whether it is over.
const WAIT: i32 = 10;
/// Milliseconds in which every reader has subscribed.
const PATIENCE: i32 = 10_000;

/// Messages of room, where it is not as by default.
fn room(link: &Link) -> Result<i32> {
    Ok(ROOM.min(ROOM_BYTES / link.work.len()).try_into()?)
}

impl Peer for ZeroMq {
    type Sender = Tx;
    type Receiver = Rx;

    fn about(&self) -> About {
        let (major, minor, patch) = zmq::version();
        About {
            name: self.name.into(),
            version: format!("{major}.{minor}.{patch}, zmq {}", version_of("zmq")).into(),
            by: if self.is_tcp { By::Network } else { By::Kernel },
            is_lossless: self.is_lossless,
            settings: self.settings.into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        match work {
            Work::Stream { .. } => true,
            // Nothing is lost of one message at a time.
            Work::RoundTrip { .. } => self.is_lossless,
            Work::Large { .. } => self.is_lossless && !self.is_tcp,
        }
    }

    fn sender(&self, link: &Link) -> Result<Tx> {
        let mut socket = Context::new().socket(zmq::XPUB)?;
        socket.set_linger(0)?;
        socket.set_xpub_verbose(true)?;
        if self.is_lossless {
            socket.set_sndhwm(room(link)?)?;
            wait_for_room(&mut socket)?;
        }
        if self.is_tcp {
            socket.bind("tcp://127.0.0.1:*")?;
        } else {
            socket.bind(&format!("ipc://{}", link.path("zeromq").display()))?;
        }
        let endpoint = socket.get_last_endpoint()?;
        fs::write(
            link.path("endpoint"),
            endpoint.map_err(|_| anyhow!("an endpoint that is no text"))?,
        )?;
        Ok(Tx {
            socket,
            readers: link.work.readers(),
            draft: Draft::new(link.work.len()),
        })
    }

    fn receiver(&self, link: &Link) -> Result<Rx> {
        let socket = Context::new().socket(zmq::SUB)?;
        if self.is_lossless {
            socket.set_rcvhwm(room(link)?)?;
        }
        socket.set_linger(0)?;
        socket.set_rcvtimeo(WAIT)?;
        socket.set_subscribe(b"")?;
        socket.connect(&fs::read_to_string(link.path("endpoint"))?)?;
        Ok(Rx {
            socket,
            message: Message::new(),
        })
    }
}

/// Has a publisher wait for the slowest reader: an option that the crate has no function for.
fn wait_for_room(socket: &mut Socket) -> Result<()> {
    let on: c_int = 1;
    // SAFETY: `socket` is open, and the option is an int that is read during the call.
    let code = unsafe {
        zmq_sys::zmq_setsockopt(
            socket.as_mut_ptr(),
            zmq_sys::ZMQ_XPUB_NODROP as c_int,
            (&raw const on).cast(),
            size_of::<c_int>(),
        )
    };
    ensure!(code == 0, "ZMQ_XPUB_NODROP is not known");
    Ok(())
}

pub struct Tx {
    socket: Socket,
    readers: usize,
    draft: Draft,
}

impl Sender for Tx {
    fn start(&mut self) -> Result<()> {
        // An XPUB receives who subscribes: what is sent before is sent to nobody.
        self.socket.set_rcvtimeo(PATIENCE)?;
        for _ in 0..self.readers {
            let subscription = self.socket.recv_bytes(0)?;
            ensure!(subscription == [1], "no subscription: {subscription:?}");
        }
        Ok(())
    }

    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce()) {
        let message = self.draft.make(sequence, len);
        made();
        self.socket.send(message, 0).expect("a socket that is open");
    }
}

pub struct Rx {
    socket: Socket,
    message: Message,
}

impl Receiver for Rx {
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        match self.socket.recv(&mut self.message, 0) {
            Ok(()) => each(look_at_bytes(&self.message, reading)),
            Err(zmq::Error::EAGAIN) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
