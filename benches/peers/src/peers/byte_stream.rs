//! What the kernel carries as a stream of bytes: a pipe, a Unix socket, TCP. Messages of one length need no frame.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::Result;
use rustix::fs::{CWD, Mode, OFlags, fcntl_getfl, fcntl_setfl, mkfifoat};
use rustix::pipe::fcntl_setpipe_size;

use super::boxed;
use crate::message::{Draft, Reading, Seen, look_at_bytes};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender};
use crate::work::Work;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Pipe,
    Unix,
    Tcp,
}

struct ByteStream {
    name: &'static str,
    settings: &'static str,
    carrier: Carrier,
    /// Many messages a write.
    is_batching: bool,
}

pub fn peers() -> Vec<Box<dyn Entry>> {
    let all = [
        ByteStream {
            name: "pipe",
            settings: "One write a message, a pipe of 1 MiB. Both ends try again and again, in streams and asleep they block.",
            carrier: Carrier::Pipe,
            is_batching: false,
        },
        ByteStream {
            name: "pipe, batches",
            settings: "The same, 64 KiB a write.",
            carrier: Carrier::Pipe,
            is_batching: true,
        },
        ByteStream {
            name: "Unix socket",
            settings: "SOCK_STREAM, one write a message, buffers as they are by default. Both ends as those of the pipe.",
            carrier: Carrier::Unix,
            is_batching: false,
        },
        ByteStream {
            name: "Unix socket, batches",
            settings: "The same, 64 KiB a write.",
            carrier: Carrier::Unix,
            is_batching: true,
        },
        ByteStream {
            name: "TCP",
            settings: "Loopback, TCP_NODELAY, one write a message. Both ends as those of the pipe.",
            carrier: Carrier::Tcp,
            is_batching: false,
        },
        ByteStream {
            name: "TCP, batches",
            settings: "The same, 64 KiB a write.",
            carrier: Carrier::Tcp,
            is_batching: true,
        },
    ];
    all.map(boxed).into()
}

/// Bytes of a pipe, and that a reader asks for at a time.
const BUFFER: usize = 1 << 20;

impl Peer for ByteStream {
    type Sender = Writer;
    type Receiver = Reader;

    fn about(&self) -> About {
        About {
            name: self.name.into(),
            version: "".into(),
            by: if self.carrier == Carrier::Tcp {
                By::Network
            } else {
                By::Kernel
            },
            is_lossless: true,
            settings: self.settings.into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        match work {
            Work::Stream { len, readers } => readers == 1 && (!self.is_batching || len < 64 << 10),
            Work::RoundTrip { .. } => !self.is_batching,
            Work::Large { .. } => !self.is_batching && self.carrier != Carrier::Tcp,
        }
    }

    fn sender(&self, link: &Link) -> Result<Writer> {
        let path = link.path("end");
        let end = match self.carrier {
            Carrier::Pipe => {
                mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
                // For reading as well: it would wait for a reader otherwise.
                let pipe = OpenOptions::new().read(true).write(true).open(&path)?;
                // An unprivileged user's pipes may not be as large.
                let _ = fcntl_setpipe_size(&pipe, BUFFER);
                End::Open(pipe)
            }
            Carrier::Unix => End::Unix(UnixListener::bind(&path)?),
            Carrier::Tcp => {
                let listener = TcpListener::bind(("127.0.0.1", 0))?;
                fs::write(&path, listener.local_addr()?.to_string())?;
                End::Tcp(listener)
            }
        };
        Ok(Writer {
            end,
            work: link.work,
            is_batching: self.is_batching,
            draft: Draft::new(link.work.len()),
            batch: Vec::new(),
        })
    }

    fn receiver(&self, link: &Link) -> Result<Reader> {
        let path = link.path("end");
        let file = match self.carrier {
            Carrier::Pipe => File::open(path)?,
            Carrier::Unix => file(UnixStream::connect(path)?),
            Carrier::Tcp => file(TcpStream::connect(fs::read_to_string(path)?)?),
        };
        set_waiting(&file, link.work)?;
        let len = link.work.len();
        Ok(Reader {
            file,
            buffer: vec![0; BUFFER.max(len).next_multiple_of(len)],
            filled: 0,
            len,
        })
    }
}

fn file(end: impl Into<OwnedFd>) -> File {
    File::from(end.into())
}

/// Lets calls block in streams and in round trips asleep, and nowhere else.
fn set_waiting(file: &File, work: Work) -> Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::NONBLOCK, !work.is_stream() && !work.is_asleep());
    Ok(fcntl_setfl(file, flags)?)
}

/// The sender's end, before and after there is a reader.
enum End {
    Unix(UnixListener),
    Tcp(TcpListener),
    Open(File),
}

pub struct Writer {
    end: End,
    work: Work,
    is_batching: bool,
    draft: Draft,
    /// Messages that are not written yet.
    batch: Vec<u8>,
}

impl Writer {
    fn write(end: &mut End, mut bytes: &[u8]) {
        let End::Open(file) = end else {
            unreachable!("opened before anything is sent")
        };
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Sender for Writer {
    fn start(&mut self) -> Result<()> {
        let file = match &self.end {
            End::Unix(listener) => file(listener.accept()?.0),
            End::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                file(stream)
            }
            End::Open(pipe) => pipe.try_clone()?,
        };
        set_waiting(&file, self.work)?;
        self.end = End::Open(file);
        Ok(())
    }

    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce()) {
        let message = self.draft.make(sequence, len);
        made();
        Self::write(&mut self.end, message);
    }

    fn send_many(&mut self, sequences: Range<u64>, len: usize) {
        if !self.is_batching {
            return sequences.for_each(|sequence| self.send(sequence, len, || ()));
        }
        self.batch.clear();
        for sequence in sequences {
            self.batch.extend_from_slice(self.draft.make(sequence, len));
        }
        Self::write(&mut self.end, &self.batch);
    }
}

pub struct Reader {
    file: File,
    /// Always room for whole messages.
    buffer: Vec<u8>,
    /// Bytes of it that were read: the beginning of a message.
    filled: usize,
    len: usize,
}

impl Receiver for Reader {
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        match self.file.read(&mut self.buffer[self.filled..]) {
            Ok(0) => panic!("the writer is gone"),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
        let whole = self.filled - self.filled % self.len;
        for message in self.buffer[..whole].chunks_exact(self.len) {
            each(look_at_bytes(message, reading));
        }
        self.buffer.copy_within(whole..self.filled, 0);
        self.filled -= whole;
    }
}
