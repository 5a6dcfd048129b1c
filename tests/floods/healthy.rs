//! Followers of good faith over both transports, and the stream that they follow: each checks every sequence and every
//! byte, and the publisher keeps less than half of the ring ahead of the slower one, so that nothing may be missing.
//!
//! ```text
//!   publisher --frames--> standard input of the server --> ring --> follower over shared memory --+
//!       ^                                                     \---> follower over TCP ------------+
//!       +------------------------ both have taken message n --------------------------------------+
//! ```

use std::io::Write;
use std::net::SocketAddr;
use std::process::ChildStdin;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lapwing::discovery::Found;
use lapwing::{Incarnation, Join, Poll, RemoteSubscriber, Subscriber};

use crate::running::WATCHDOG;

/// Messages that the publisher may be ahead of the slower follower.
const LEAD: u64 = 500;
/// Longest message of the stream.
const LONGEST: u64 = 4096;

/// What message `sequence` is to be: short ones, and now and then a long one.
fn payload(sequence: u64, into: &mut Vec<u8>) {
    let random = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let longest = if sequence.is_multiple_of(8) { LONGEST } else { 128 };
    let len = (random >> 40) % (longest + 1);
    into.clear();
    into.extend((0..len).map(|i| (random ^ (i * 7)) as u8));
}

/// How far each follower has come.
#[derive(Debug, Default)]
struct Progress {
    /// Of shared memory and of TCP: the sequence wanted next.
    cursors: Mutex<Cursors>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Cursors {
    followers: [u64; 2],
    /// Nothing more is to be published.
    stop: bool,
}

impl Cursors {
    /// The sequence that somebody still wants.
    fn least(&self) -> u64 {
        self.followers[0].min(self.followers[1])
    }
}

impl Progress {
    fn advance(&self, follower: usize, cursor: u64) {
        self.cursors.lock().unwrap().followers[follower] = cursor;
        self.moved.notify_all();
    }

    /// Waits until `done`.
    fn wait(&self, done: impl Fn(&Cursors) -> bool) -> bool {
        let cursors = self.cursors.lock().unwrap();
        let (cursors, waited) = self
            .moved
            .wait_timeout_while(cursors, WATCHDOG, |cursors| !done(cursors))
            .unwrap();
        assert!(!waited.timed_out(), "the followers stay at {cursors:?}");
        cursors.stop
    }
}

/// The stream, and those who follow it.
#[derive(Debug)]
pub struct Healthy {
    progress: Arc<Progress>,
    publisher: JoinHandle<(u64, ChildStdin)>,
    followers: [JoinHandle<u64>; 2],
}

impl Healthy {
    /// Follows the server that `found` tells of, and publishes through `input`.
    pub fn start(found: &Found, input: ChildStdin) -> Self {
        let progress = Arc::new(Progress::default());
        let local = Subscriber::open(found, Join::Oldest).unwrap();
        let socket = found.info.socket.as_ref().unwrap();
        let remote = join(&socket.addresses, found.info.incarnation, Join::Oldest);
        let follow = [
            std::thread::spawn({
                let progress = progress.clone();
                move || follow_memory(local, &progress)
            }),
            std::thread::spawn({
                let progress = progress.clone();
                move || follow_socket(remote, &progress)
            }),
        ];
        let publisher = std::thread::spawn({
            let progress = progress.clone();
            move || publish(input, &progress)
        });
        Self {
            progress,
            publisher,
            followers: follow,
        }
    }

    /// Waits until both followers have taken `count` more messages.
    pub fn go_on(&self, count: u64) {
        let start = self.progress.cursors.lock().unwrap().least();
        self.progress.wait(|cursors| cursors.least() >= start + count);
    }

    /// Ends publishing, and waits until all was taken. The followers are left to see the end of the stream.
    pub fn pause(self) -> Finishing {
        self.progress.cursors.lock().unwrap().stop = true;
        self.progress.moved.notify_all();
        let (published, input) = self.publisher.join().expect("the server takes all that is published");
        self.progress.wait(|cursors| cursors.least() >= published);
        Finishing {
            published,
            _input: input,
            followers: self.followers,
        }
    }
}

/// All was published and taken; only the end is to come.
#[derive(Debug)]
pub struct Finishing {
    pub published: u64,
    _input: ChildStdin,
    followers: [JoinHandle<u64>; 2],
}

impl Finishing {
    /// Waits until both followers have seen the end, and checks that they saw all before it.
    pub fn finish(self) {
        for follower in self.followers {
            assert_eq!(follower.join().expect("a follower sees all"), self.published);
        }
    }
}

/// A subscriber over TCP.
pub fn join(addresses: &[SocketAddr], incarnation: Incarnation, join: Join) -> RemoteSubscriber {
    RemoteSubscriber::connect(addresses, incarnation, join, WATCHDOG).unwrap()
}

fn publish(mut input: ChildStdin, progress: &Progress) -> (u64, ChildStdin) {
    let (mut published, mut message, mut frames) = (0, Vec::new(), Vec::new());
    while !progress.wait(|cursors| cursors.stop || published < cursors.least() + LEAD) {
        frames.clear();
        for sequence in published..published + LEAD / 10 {
            payload(sequence, &mut message);
            frames.extend_from_slice(&(message.len() as u32).to_le_bytes());
            frames.extend_from_slice(&sequence.to_le_bytes());
            frames.extend_from_slice(&message);
        }
        input.write_all(&frames).unwrap();
        published += LEAD / 10;
    }
    (published, input)
}

/// Checks one message, and says how far its follower has come.
fn check(follower: usize, cursor: u64, sequence: u64, tag: u64, found: &[u8], progress: &Progress) -> u64 {
    let mut expected = Vec::new();
    payload(cursor, &mut expected);
    assert_eq!((sequence, tag), (cursor, cursor), "follower {follower}");
    assert_eq!(found, expected, "follower {follower}, message {sequence}");
    progress.advance(follower, cursor + 1);
    cursor + 1
}

fn follow_memory(mut subscriber: Subscriber, progress: &Progress) -> u64 {
    let (mut cursor, mut bytes) = (0, Vec::new());
    let mut deadline = Instant::now() + WATCHDOG;
    loop {
        let found = subscriber.receive(Duration::from_secs(1), |view| {
            bytes.clear();
            view.append_to(&mut bytes);
        });
        match found {
            Poll::Message(message) => {
                cursor = check(0, cursor, message.sequence, message.tag, &bytes, progress);
                deadline = Instant::now() + WATCHDOG;
            }
            Poll::Empty if Instant::now() < deadline => {}
            Poll::Ended => return cursor,
            other => panic!("{other:?} at {cursor} of the shared memory"),
        }
    }
}

fn follow_socket(mut subscriber: RemoteSubscriber, progress: &Progress) -> u64 {
    let mut cursor = 0;
    let mut deadline = Instant::now() + WATCHDOG;
    loop {
        match subscriber.receive(Duration::from_secs(1), <[u8]>::to_vec) {
            Ok(Poll::Message(message)) => {
                cursor = check(1, cursor, message.sequence, message.tag, &message.value, progress);
                deadline = Instant::now() + WATCHDOG;
            }
            Ok(Poll::Empty) if Instant::now() < deadline => {}
            Ok(Poll::Ended) => return cursor,
            other => panic!("{other:?} at {cursor} of the socket"),
        }
    }
}

/// A message of the stream, given to the check after `spoil` was done to it.
fn check_spoiled(spoil: impl FnOnce(&mut u64, &mut Vec<u8>)) {
    let (mut sequence, mut bytes) = (8, Vec::new());
    payload(sequence, &mut bytes);
    spoil(&mut sequence, &mut bytes);
    check(0, 8, sequence, sequence, &bytes, &Progress::default());
}

#[test]
fn message_as_it_was_published_passes_the_check() {
    check_spoiled(|_, _| ());
}

#[test]
#[should_panic(expected = "follower 0")]
fn missing_message_is_noticed() {
    check_spoiled(|sequence, _| *sequence += 1);
}

#[test]
#[should_panic(expected = "message 8")]
fn changed_byte_is_noticed() {
    check_spoiled(|_, bytes| *bytes.last_mut().unwrap() ^= 1);
}

#[test]
#[should_panic(expected = "message 8")]
fn lost_byte_is_noticed() {
    check_spoiled(|_, bytes| bytes.truncate(bytes.len() - 1));
}
