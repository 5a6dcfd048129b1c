//! What brokers with a protocol of lines and payloads have in common, so that it can be spoken to them directly: no client
//! library is quicker than one write of what they want to read, and a look at what they wrote.

use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::message::{Draft, Reading, Seen, look_at_bytes};
use crate::peer::{Receiver, Sender};

/// Bytes that are asked for at a time, and that fit beside the largest message.
const BUFFER: usize = 1 << 20;
/// Longer than a broker takes to start, and to answer.
const PATIENCE: Duration = Duration::from_secs(10);
const END_OF_LINE: &[u8] = b"\r\n";
/// How long a read takes at most before the work looks whether it is over.
pub const WAIT: Duration = Duration::from_millis(10);

/// Tries until it works: a broker has just been started.
pub fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(_) if start.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(1)),
            outcome => return outcome,
        }
    }
}

/// A connection whose bytes are looked at where they were read to.
pub struct Spoken<S> {
    stream: S,
    buffer: Vec<u8>,
    /// What of the buffer was read and not looked at yet.
    pending: Range<usize>,
}

impl<S: Read + Write> Spoken<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: vec![0; 2 * BUFFER],
            pending: 0..0,
        }
    }

    pub fn say(&mut self, words: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(words)?)
    }

    /// What was read and not looked at yet.
    #[inline]
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.pending.clone()]
    }

    /// Leaves `count` bytes behind.
    #[inline]
    pub fn pass(&mut self, count: usize) {
        self.pending.start += count;
    }

    /// Reads more, or finds that there is nothing yet.
    pub fn listen(&mut self) -> Result<()> {
        if self.buffer.len() - self.pending.end < BUFFER {
            self.buffer.copy_within(self.pending.clone(), 0);
            self.pending = 0..self.pending.len();
        }
        match self.stream.read(&mut self.buffer[self.pending.end..]) {
            Ok(0) => bail!("the broker has ended the connection"),
            Ok(count) => self.pending.end += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Waits until it has said `wanted`, and passes that.
    pub fn expect(&mut self, wanted: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let said = self.pending();
            if let Some(at) = said.windows(wanted.len()).position(|words| words == wanted.as_bytes()) {
                self.pass(at + wanted.len());
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!("said {:?} instead of {wanted:?}", String::from_utf8_lossy(said));
            }
            self.listen()?;
        }
    }
}

/// Publishes messages of one length, which all begin with the same words.
pub struct Publisher<S> {
    connection: Spoken<S>,
    head: Vec<u8>,
    draft: Draft,
    /// What is written next.
    batch: Vec<u8>,
}

impl<S: Read + Write> Publisher<S> {
    pub fn new(connection: Spoken<S>, head: String, len: usize) -> Self {
        Self {
            connection,
            head: head.into_bytes(),
            draft: Draft::new(len),
            batch: Vec::new(),
        }
    }

    fn add(&mut self, sequence: u64, len: usize) {
        self.batch.extend_from_slice(&self.head);
        self.batch.extend_from_slice(self.draft.make(sequence, len));
        self.batch.extend_from_slice(END_OF_LINE);
    }

    fn hand_over(&mut self) {
        self.connection.say(&self.batch).expect("a broker that goes on");
        self.batch.clear();
    }
}

impl<S: Read + Write> Sender for Publisher<S> {
    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce()) {
        self.add(sequence, len);
        made();
        self.hand_over();
    }

    fn send_many(&mut self, sequences: Range<u64>, len: usize) {
        for sequence in sequences {
            self.add(sequence, len);
        }
        self.hand_over();
    }
}

/// Receives messages of one length, which all begin with the same words.
pub struct Subscriber<S> {
    connection: Spoken<S>,
    head: Vec<u8>,
    len: usize,
}

impl<S: Read + Write> Subscriber<S> {
    pub fn new(connection: Spoken<S>, head: String, len: usize) -> Self {
        Self {
            connection,
            head: head.into_bytes(),
            len,
        }
    }
}

impl<S: Read + Write> Receiver for Subscriber<S> {
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        self.connection.listen().expect("a broker that goes on");
        let (start, end) = (self.head.len(), self.head.len() + self.len);
        while let Some(message) = self.connection.pending().get(..end + END_OF_LINE.len()) {
            assert!(
                message.starts_with(&self.head) && message.ends_with(END_OF_LINE),
                "no message: {:?}",
                String::from_utf8_lossy(message)
            );
            each(look_at_bytes(&message[start..end], reading));
            self.connection.pass(end + END_OF_LINE.len());
        }
    }
}
