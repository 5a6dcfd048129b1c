//! What a server on a socket must not say, and what a client must make of each.

use lapwing::Incarnation;
use lapwing::socket::frame::{Hello, RejectCode, ServerFrame};

/// The life that clients here look for.
pub const ME: Incarnation = Incarnation::from_bytes([7; 16]);
pub const MAX_SEQUENCE: u64 = (1 << 62) - (1 << 32);
/// The sequence that clients here ask for.
pub const WANTED: u64 = 5;

/// What a stranger says.
#[derive(Clone, Default)]
pub struct Lie {
    pub what: String,
    /// As soon as somebody is there.
    pub greeting: Vec<u8>,
    /// When he has subscribed.
    pub answer: Vec<u8>,
    /// Over and over, until he leaves.
    pub refrain: Vec<u8>,
    /// Before anything else, a byte at a time.
    pub trickle: Vec<u8>,
    /// Then says nothing more, and does not hang up.
    pub lingers: bool,
}

/// What a client makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Bytes that are no frame.
    NoFrame,
    /// A frame where it must not be, or of what it cannot be about.
    Protocol,
    Incarnation,
    Refused,
    Closed,
    TooLate,
    /// It was all right.
    Ended,
    /// It goes on for as long as one listens.
    Endless,
}

type Judged = (Lie, Verdict);

fn bytes(frames: &[ServerFrame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.append_to(&mut bytes));
    bytes
}

/// A frame of any kind and length, with a checksum that fits.
fn raw(kind: u8, claimed: u32, body: &[u8]) -> Vec<u8> {
    let mut covered = claimed.to_le_bytes().to_vec();
    covered.extend_from_slice(&[kind, 0, 0, 0]);
    covered.extend_from_slice(body);
    let mut frame = crc32c::crc32c(&covered).to_le_bytes().to_vec();
    frame.extend_from_slice(&covered);
    frame
}

fn hello(change: impl FnOnce(&mut Hello)) -> Vec<u8> {
    let mut hello = Hello {
        incarnation: ME,
        head: 1000,
        oldest: 0,
        max_message_bytes: 1 << 30,
        heartbeat_ms: 20,
        silence_ms: 60_000,
        connections: 1,
        closed: false,
        offers: false,
        name: "liar".to_owned(),
    };
    change(&mut hello);
    bytes(&[ServerFrame::Hello(hello)])
}

fn right_hello() -> Vec<u8> {
    hello(|_| {})
}

/// A HELLO with some bytes of its body changed.
fn patched_hello(at: usize, with: &[u8]) -> Vec<u8> {
    let mut body = right_hello()[12..].to_vec();
    body[at..at + with.len()].copy_from_slice(with);
    raw(1, body.len() as u32, &body)
}

const START: ServerFrame<'_> = start(WANTED, 0);

const fn start(first: u64, missed: u64) -> ServerFrame<'static> {
    ServerFrame::Start { first, missed }
}

const fn message(sequence: u64) -> ServerFrame<'static> {
    ServerFrame::Message {
        sequence,
        timestamp_ns: 1,
        tag: 2,
        payload: b"a payload",
    }
}

const fn gap(first: u64, missed: u64) -> ServerFrame<'static> {
    ServerFrame::Gap { first, missed }
}

const fn end(head: u64) -> ServerFrame<'static> {
    ServerFrame::End { head }
}

const fn heartbeat(head: u64) -> ServerFrame<'static> {
    ServerFrame::Heartbeat { head }
}

fn reject() -> ServerFrame<'static> {
    ServerFrame::Reject {
        code: RejectCode::Other(9),
        reason: "\x1b[2J go away".to_owned(),
    }
}

/// A lie that begins at once.
fn greeting(what: &str, greeting: Vec<u8>, verdict: Verdict) -> Judged {
    let lie = Lie {
        what: what.to_owned(),
        greeting,
        ..Lie::default()
    };
    (lie, verdict)
}

/// A lie behind a greeting that is right.
fn answer(what: &str, answer: Vec<u8>, verdict: Verdict) -> Judged {
    let lie = Lie {
        what: what.to_owned(),
        greeting: right_hello(),
        answer,
        ..Lie::default()
    };
    (lie, verdict)
}

/// A lie behind a START that is right.
fn stream(what: &str, frames: &[ServerFrame<'_>], verdict: Verdict) -> Judged {
    answer(what, [bytes(&[START]), bytes(frames)].concat(), verdict)
}

fn raw_stream(what: &str, frame: Vec<u8>, verdict: Verdict) -> Judged {
    answer(what, [bytes(&[START]), frame].concat(), verdict)
}

/// What a client takes.
pub fn truth() -> Judged {
    stream(
        "the truth",
        &[message(WANTED), heartbeat(9), gap(WANTED + 1, 2), end(WANTED + 3)],
        Verdict::Ended,
    )
}

pub fn all() -> Vec<Judged> {
    [
        greetings_that_are_none(),
        greetings_out_of_place(),
        starts(),
        streams_that_are_no_frames(),
        streams_out_of_order(),
        streams_that_end(),
        endless(),
    ]
    .concat()
}

fn greetings_that_are_none() -> Vec<Judged> {
    let none = |what, bytes| greeting(what, bytes, Verdict::NoFrame);
    vec![
        none("a version that nobody speaks", patched_hello(0, &[9, 0])),
        none("flags that there are not", patched_hello(2, &[4, 0])),
        none(
            "an oldest beyond the head",
            hello(|hello| hello.oldest = hello.head + 1),
        ),
        none("messages of 4 GiB", hello(|hello| hello.max_message_bytes = u32::MAX)),
        none("a heartbeat of nothing", hello(|hello| hello.heartbeat_ms = 0)),
        none(
            "a silence within a heartbeat",
            hello(|hello| hello.silence_ms = hello.heartbeat_ms),
        ),
        none("a silence of weeks", hello(|hello| hello.silence_ms = u32::MAX)),
        none("a name that is no text", patched_hello(52, &[0xff])),
        none("a HELLO of 51 bytes", raw(1, 51, &right_hello()[12..63])),
        none("a HELLO longer than any", raw(1, 308, &[0; 308])),
        none("a HELLO of 4 GiB", raw(1, u32::MAX, &[0; 100])),
        none("a message of 1 GiB in place of a HELLO", raw(3, 1 << 30, &[0; 100])),
        none("what a client says", raw(0x81, 32, &[0; 32])),
        none("a kind that there is not", raw(0x55, 8, &[0; 8])),
        none("another protocol", b"220 mail.example.org ESMTP ready\r\n".to_vec()),
        none("zeros", vec![0; 4096]),
        none("ones", vec![0xff; 4096]),
    ]
}

fn greetings_out_of_place() -> Vec<Judged> {
    let early = |what, frame| greeting(what, bytes(&[frame]), Verdict::Protocol);
    vec![
        early("START first", START),
        early("END first", end(0)),
        early("GAP first", gap(WANTED, 1)),
        early("HEARTBEAT first", heartbeat(3)),
        early("a message first", message(WANTED)),
        greeting(
            "another life",
            hello(|hello| hello.incarnation = Incarnation::NIL),
            Verdict::Incarnation,
        ),
        greeting("a refusal at once", bytes(&[reject()]), Verdict::Refused),
        greeting("nothing", Vec::new(), Verdict::Closed),
    ]
}

fn starts() -> Vec<Judged> {
    let wrong = |what, frame| answer(what, bytes(&[frame]), Verdict::Protocol);
    vec![
        answer("HELLO again", right_hello(), Verdict::Protocol),
        wrong("a message before START", message(WANTED)),
        wrong("a gap before START", gap(WANTED, 1)),
        wrong("END before START", end(WANTED)),
        wrong("a START behind what was asked for", start(WANTED - 1, 0)),
        wrong("a START ahead of what was asked for", start(WANTED + 1, 0)),
        wrong("a START that misses too many", start(WANTED + 1, 2)),
        wrong(
            "a START beyond all sequences",
            start(MAX_SEQUENCE + 1, MAX_SEQUENCE + 1 - WANTED),
        ),
        wrong("a START at the end of all numbers", start(u64::MAX, u64::MAX - WANTED)),
        answer(
            "a START that misses more than there was",
            bytes(&[start(1, 9)]),
            Verdict::NoFrame,
        ),
        answer("a START of 15 bytes", raw(2, 15, &[0; 15]), Verdict::NoFrame),
        answer("a refusal", bytes(&[reject()]), Verdict::Refused),
    ]
}

fn streams_that_are_no_frames() -> Vec<Judged> {
    let none = |what, frame| raw_stream(what, frame, Verdict::NoFrame);
    let spoilt = |at: usize| {
        let mut frame = bytes(&[message(WANTED)]);
        frame[at] ^= 1;
        frame
    };
    vec![
        none("a gap of nothing", bytes(&[gap(WANTED, 0)])),
        none("a gap beyond all numbers", bytes(&[gap(WANTED, u64::MAX)])),
        none("a message of 23 bytes", raw(3, 23, &[0; 23])),
        none("a message of more than was said", raw(3, (1 << 30) + 25, &[0; 100])),
        none("a message of 4 GiB", raw(3, u32::MAX, &[0; 100])),
        none("a wrong checksum", spoilt(0)),
        none("a bit that must be zero", spoilt(9)),
        none("another payload than was summed up", spoilt(40)),
        none("a kind that there is not", raw(0x7f, 8, &[0; 8])),
        none("what a client says", raw(0x82, 8, &[0; 8])),
    ]
}

fn streams_out_of_order() -> Vec<Judged> {
    let wrong = |what, frames: &[ServerFrame<'_>]| stream(what, frames, Verdict::Protocol);
    vec![
        wrong("START twice", &[START]),
        raw_stream("HELLO behind START", right_hello(), Verdict::Protocol),
        wrong("a message that skips one", &[message(WANTED + 1)]),
        wrong("a message that goes back", &[message(WANTED - 1)]),
        wrong("a message twice", &[message(WANTED), message(WANTED)]),
        wrong("a message at the end of all numbers", &[message(u64::MAX)]),
        wrong("a gap that goes back", &[gap(WANTED - 1, 3)]),
        wrong("a gap that skips one", &[gap(WANTED + 1, 3)]),
        wrong("a gap beyond all sequences", &[gap(WANTED, MAX_SEQUENCE)]),
        wrong(
            "a message behind the last sequence",
            &[gap(WANTED, MAX_SEQUENCE - WANTED), message(MAX_SEQUENCE)],
        ),
        wrong("an end before the last message", &[end(WANTED + 1)]),
    ]
}

fn streams_that_end() -> Vec<Judged> {
    vec![
        stream(
            "a refusal in the stream",
            &[message(WANTED), reject()],
            Verdict::Refused,
        ),
        stream("nothing behind START", &[], Verdict::Closed),
        raw_stream("less than was claimed", raw(3, 1 << 30, &[0; 1000]), Verdict::Closed),
        stream("an end, and more", &[end(WANTED), message(WANTED)], Verdict::Ended),
        stream("an end long ago", &[end(0)], Verdict::Ended),
    ]
}

/// What has no end, or no beginning.
fn endless() -> Vec<Judged> {
    let lingering = |(mut lie, verdict): Judged| {
        lie.lingers = true;
        (lie, verdict)
    };
    let (mut heartbeats, endless) = lingering(stream("heartbeats for ever", &[], Verdict::Endless));
    heartbeats.refrain = bytes(&vec![heartbeat(u64::MAX); 100]);
    let (mut trickle, too_late) = lingering(greeting("a HELLO that trickles", Vec::new(), Verdict::TooLate));
    trickle.trickle = raw(1, 307, &[0; 307]);
    vec![
        (heartbeats, endless),
        (trickle, too_late),
        lingering(greeting("silence", Vec::new(), Verdict::TooLate)),
        lingering(greeting(
            "half of a HELLO",
            right_hello()[..40].to_vec(),
            Verdict::TooLate,
        )),
        lingering(answer("no START", Vec::new(), Verdict::TooLate)),
        lingering(raw_stream(
            "a message that never comes",
            raw(3, 1 << 30, &[0; 100]),
            Verdict::Endless,
        )),
    ]
}

/// The truth, cut off behind each of its bytes.
pub fn cuts() -> Vec<Judged> {
    let (truth, _) = truth();
    let (greeted, whole) = (truth.greeting.len(), truth.greeting.len() + truth.answer.len());
    let cut = |at: usize| {
        let lie = Lie {
            what: format!("cut off behind {at} bytes"),
            greeting: truth.greeting[..at.min(greeted)].to_vec(),
            answer: truth.answer[..at.saturating_sub(greeted)].to_vec(),
            ..Lie::default()
        };
        let verdict = if at == whole { Verdict::Ended } else { Verdict::Closed };
        (lie, verdict)
    };
    (0..=whole).map(cut).collect()
}
