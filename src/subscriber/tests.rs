//! Subscribers of real segments in this process: joining, waiting, draining, and the account at full speed.

use std::sync::mpsc;
use std::thread;

use super::*;
use crate::discovery::ServerName;
use crate::layout::{Geometry, Header};
use crate::segment::Owned;
use crate::server::{Server, ServerOptions};
use crate::sync::Ordering;

/// Long enough for anything here; a test that needs it has failed.
const WATCHDOG: Duration = Duration::from_secs(30);

fn server(dir: &tempfile::TempDir, slots: u64) -> Server {
    let mut options = ServerOptions::new("stream".parse::<ServerName>().unwrap());
    options.info_dir = dir.path().to_owned();
    options.listen = Vec::new();
    options.slots = Some(slots);
    Server::start(options).unwrap()
}

fn subscribe(server: &Server, join: Join) -> Subscriber {
    let found = crate::discovery::read(server.info_path(), &crate::discovery::Trust::default()).unwrap();
    Subscriber::open(&found, join).unwrap()
}

fn sequence<T>(outcome: &Poll<T>) -> Option<u64> {
    match outcome {
        Poll::Message(received) => Some(received.sequence),
        _ => None,
    }
}

#[test]
fn every_join_starts_where_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 16);
    for i in 0..20_u8 {
        server.publisher().publish(&[i]).unwrap();
    }

    for (join, cursor) in [
        (Join::New, 20),
        (Join::Latest(3), 17),
        (Join::Latest(1000), 4),
        (Join::Oldest, 4),
        (Join::Sequence(18), 18),
        (Join::Sequence(25), 25),
    ] {
        assert_eq!(subscribe(&server, join).cursor(), cursor, "{join:?}");
    }
    assert_eq!(
        subscribe(&server, Join::Sequence(1)).poll(|_| ()),
        Poll::Lapped { first: 1, missed: 3 }
    );
}

#[test]
fn segment_of_another_incarnation_or_owner_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir, 16);
    let id = server.info().shared_memory.unwrap().id;

    let foreign = Subscriber::attach(id, Incarnation::random().unwrap(), None, Join::New);
    let stranger = Subscriber::attach(id, server.info().incarnation, Some(4_000_000_001), Join::New);

    assert!(matches!(foreign, Err(AttachError::Foreign { .. })), "{foreign:?}");
    assert!(
        matches!(
            stranger,
            Err(AttachError::Owner {
                expected: 4_000_000_001,
                ..
            })
        ),
        "{stranger:?}"
    );
}

#[test]
fn typed_messages_come_back_and_other_lengths_are_none() {
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
    struct Quote {
        bid: f64,
        ask: f64,
        size: u64,
    }
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 16);
    let mut subscriber = subscribe(&server, Join::New);
    let quote = Quote {
        bid: 1.25,
        ask: 1.5,
        size: 7,
    };
    server.publisher().publish_typed(&quote).unwrap();
    server.publisher().publish(b"other").unwrap();

    let first = subscriber.poll_typed::<Quote>();
    let second = subscriber.poll_typed::<Quote>();

    assert!(matches!(first, Poll::Message(received) if received.value == Some(quote)));
    assert!(matches!(second, Poll::Message(received) if received.value.is_none()));
}

/// Says that it has another number of words than it has.
struct Liar {
    says: usize,
    has: std::ops::Range<u64>,
}

impl Iterator for Liar {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.has.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.says, Some(self.says))
    }
}

impl ExactSizeIterator for Liar {}

#[test]
fn words_pushed_to_a_loan_lie_behind_what_was_pushed_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 16);
    let mut subscriber = subscribe(&server, Join::New);
    let bytes = |words: std::ops::Range<u64>| words.flat_map(u64::to_ne_bytes).collect::<Vec<u8>>();
    for before in 0..=17 {
        let mut loan = server.publisher().loan(before + 83).unwrap();
        loan.push(&vec![0xff; before]).unwrap();
        loan.push_words((0..10_u32).map(|word| u64::from(word) << 40)).unwrap();
        assert_eq!(loan.remaining(), 3);
        let error = loan.push_words([7].into_iter()).unwrap_err();
        assert_eq!(
            error,
            crate::PublishError::TooLong {
                len: before + 88,
                max: before + 83
            }
        );
        loan.push(b"end").unwrap();
        loan.commit();

        let expected = [
            vec![0xff; before],
            (0..10_u64).flat_map(|word| (word << 40).to_ne_bytes()).collect(),
            b"end".to_vec(),
        ];
        let polled = subscriber.poll(|view| view.to_vec());
        assert!(
            matches!(polled, Poll::Message(message) if message.value == expected.concat()),
            "{before}"
        );
    }
    for (before, says, has, fits) in [(0, 1, 10, 3), (3, 1, 10, 3), (0, 3, 1, 1), (3, 3, 1, 1)] {
        let mut loan = server.publisher().loan(before + 30).unwrap();
        loan.push(&vec![0xff; before]).unwrap();
        loan.push_words(Liar { says, has: 0..has }).unwrap();
        loan.commit();

        let expected = [vec![0xff; before], bytes(0..fits)].concat();
        let polled = subscriber.poll(|view| view.to_vec());
        assert!(matches!(polled, Poll::Message(message) if message.value == expected));
    }
}

#[test]
fn messages_of_a_batch_have_one_time_and_a_loan_that_is_given_up_is_none_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 16);
    let mut subscriber = subscribe(&server, Join::New);

    let mut batch = server.publisher().batch();
    batch.push(1, b"pushed").unwrap();
    // Until the clock has moved on.
    let pushed_at = std::time::Instant::now();
    while pushed_at.elapsed() < Duration::from_micros(10) {}
    let mut loan = batch.loan(100).unwrap();
    loan.push(b"lent").unwrap();
    loan.commit_tagged(2);
    drop(batch.loan(6));
    let error = batch.loan(1 << 20).map(drop).unwrap_err();
    drop(batch);

    assert!(matches!(error, crate::PublishError::TooLong { .. }));
    let mut next = || match subscriber.poll(|view| view.to_vec()) {
        Poll::Message(message) => message,
        other => panic!("{other:?}"),
    };
    let (pushed, lent) = (next(), next());
    assert_eq!((pushed.value, pushed.tag), (b"pushed".to_vec(), 1));
    assert_eq!((lent.value, lent.tag), (b"lent".to_vec(), 2));
    assert_eq!(pushed.timestamp_ns, lent.timestamp_ns);
    assert_eq!(subscriber.poll(|_| ()), Poll::Empty);
}

#[test]
fn loan_publishes_what_was_written_to_it_and_nothing_if_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 16);
    let mut subscriber = subscribe(&server, Join::New);
    let pieces: Vec<&[u8]> = vec![b"a", b"bcdefgh", b"", b"ijklmnopqrstu", b"vw", b"xyz0123456789"];
    let whole = pieces.concat();
    for room in [whole.len(), 1000] {
        let mut loan = server.publisher().loan(room).unwrap();
        pieces.iter().for_each(|piece| loan.push(piece).unwrap());
        assert_eq!(loan.remaining(), room - whole.len());
        if room == whole.len() {
            assert_eq!(
                loan.push(b"!"),
                Err(crate::PublishError::TooLong {
                    len: room + 1,
                    max: room
                })
            );
        }
        loan.commit_tagged(9);
        drop(server.publisher().loan(room).unwrap());
    }

    let mut bytes = Vec::new();
    for sequence in 0..2 {
        let outcome = subscriber.poll_into(&mut bytes);
        assert!(
            matches!(outcome, Poll::Message(m) if (m.sequence, m.tag) == (sequence, 9)),
            "{outcome:?}"
        );
        assert_eq!(bytes, whole);
    }
    assert_eq!(subscriber.poll_into(&mut bytes), Poll::Empty);
}

#[test]
fn drain_gives_every_outcome_in_order_up_to_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 8);
    let mut subscriber = subscribe(&server, Join::New);
    for i in 0..10_u8 {
        server.publisher().publish(&[i]).unwrap();
    }
    server.end_stream();

    let mut outcomes = Vec::new();
    let few = subscriber.drain(3, |view| view.len(), |outcome| outcomes.push(outcome));
    let rest = subscriber.drain(100, |view| view.len(), |outcome| outcomes.push(outcome));

    // The lap counts towards the limit. The end takes a slot as well: of eight, seven hold messages.
    assert_eq!((few, rest), (2, 5));
    assert_eq!(outcomes[0], Poll::Lapped { first: 0, missed: 3 });
    assert!(
        outcomes[1..8]
            .iter()
            .zip(3..)
            .all(|(outcome, expected)| sequence(outcome) == Some(expected))
    );
    assert_eq!(outcomes[8..], [Poll::Ended]);
}

#[test]
fn drain_of_a_segment_that_laps_without_end_ends_at_the_limit() {
    let geometry = Geometry::new(8, 64, 4096, None).unwrap();
    let header = Header::new(&geometry, Incarnation::from_bytes([1; 16]), "hostile", 0, 1);
    let segment = Owned::private(header, geometry).unwrap();
    for slot in 0..8 {
        // Ready, and far ahead of the head that is told.
        let stamp = ((8 << 40) + slot) << 2 | 2;
        segment.memory()[geometry.slot_at(slot)].store(stamp, Ordering::Relaxed);
    }
    let mut subscriber = Subscriber::on(segment.share(), Join::Sequence(0));
    let mut laps = 0;

    let messages = subscriber.drain(
        100,
        |_| (),
        |outcome| laps += u64::from(matches!(outcome, Poll::Lapped { .. })),
    );

    assert_eq!((messages, laps), (0, 100));
}

#[test]
fn nothing_can_be_published_after_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 8);
    server.end_stream();

    assert_eq!(server.publisher().publish(b""), Err(crate::PublishError::Ended));
    assert!(server.publisher().loan(0).is_err());
}

#[test]
fn every_strategy_waits_for_a_message_for_the_end_and_for_the_time() {
    for strategy in [WaitStrategy::Adaptive, WaitStrategy::Spin, WaitStrategy::Block] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = server(&dir, 64);
        let mut subscriber = subscribe(&server, Join::New).with_strategy(strategy);
        assert_eq!(subscriber.receive(Duration::from_millis(1), |_| ()), Poll::Empty);
        let (told, waits) = mpsc::channel();
        let reader = thread::spawn(move || {
            loop {
                told.send(()).unwrap();
                match subscriber.receive(WATCHDOG, |view| view.len()) {
                    Poll::Message(_) => {}
                    other => return (other, subscriber.server_state()),
                }
            }
        });

        for _ in 0..100 {
            waits.recv_timeout(WATCHDOG).unwrap();
            server.publisher().publish(b"wake").unwrap();
        }
        waits.recv_timeout(WATCHDOG).unwrap();
        server.end_stream();

        assert_eq!(
            reader.join().unwrap(),
            (Poll::Ended, ServerState::Ended),
            "{strategy:?}"
        );
    }
}

/// Has `subscriber` wait for one message after the other, as many times as it takes it to ask whether they are a stream.
fn wait_for_one_at_a_time(server: &mut Server, subscriber: &mut Subscriber) {
    while subscriber.brief_waits < subscriber.trial_after {
        server.publisher().publish(b"question").unwrap();
        assert_eq!(subscriber.wait(WATCHDOG), Waited::Ready);
        assert!(sequence(&subscriber.poll(|_| ())).is_some());
    }
}

#[test]
fn messages_that_come_although_nobody_answers_are_a_stream_and_answers_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 64);
    let mut subscriber = subscribe(&server, Join::New);

    wait_for_one_at_a_time(&mut server, &mut subscriber);
    assert_eq!(subscriber.wait(Duration::ZERO), Waited::TimedOut);
    assert_eq!(subscriber.trial_after, FIRST_TRIAL, "not asked where there is no time");
    assert!(!subscriber.is_stream());
    assert_eq!(subscriber.trial_after, 4 * FIRST_TRIAL, "asked less often");
    assert!(!subscriber.is_stream(), "not asked again at once");

    wait_for_one_at_a_time(&mut server, &mut subscriber);
    for _ in 0..=subscriber.reader.eighth() {
        server.publisher().publish(b"stream").unwrap();
    }
    assert!(subscriber.is_stream());
    assert_eq!(subscriber.trial_after, FIRST_TRIAL);
}

#[test]
fn many_messages_without_a_wait_are_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 64);
    let mut subscriber = subscribe(&server, Join::New);
    for (messages, is_stream) in [(STREAM_MESSAGES - 1, false), (STREAM_MESSAGES, true), (1, false)] {
        for _ in 0..messages {
            server.publisher().publish(b"message").unwrap();
        }
        assert_eq!(subscriber.drain(64, |_| (), |_| ()) as u64, messages);

        assert_eq!(subscriber.is_stream(), is_stream, "{messages}");
    }
}

#[test]
fn sequence_beyond_the_end_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 8);
    let mut subscriber = subscribe(&server, Join::Sequence(1000));
    server.end_stream();

    assert_eq!(subscriber.receive(WATCHDOG, |_| ()), Poll::Ended);
}

#[test]
fn who_is_ahead_of_the_stream_sleeps_only_once_the_head_stood_still_for_as_long_as_others_spin() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 8);
    let mut ahead = subscribe(&server, Join::Sequence(2));
    let next = subscribe(&server, Join::Sequence(0));
    let later = |subscriber: &Subscriber| subscriber.attached_at + Duration::from_secs(1);
    let head = |subscriber: &Subscriber| subscriber.segment.words().load(crate::layout::HEAD_WORD);

    assert_eq!(next.longest_sleep(later(&next), head(&next)), LONGEST_SLEEP);
    assert_eq!(ahead.longest_sleep(later(&ahead), head(&ahead)), BRIEF_SPIN_TIME);
    assert_eq!(ahead.nap(None), None);
    assert_eq!(ahead.longest_sleep(later(&ahead), head(&ahead)), LONGEST_SLEEP);
    server.publisher().publish(b"not for it").unwrap();
    assert_eq!(ahead.longest_sleep(later(&ahead), head(&ahead)), BRIEF_SPIN_TIME);
    server.publisher().publish(b"nor this").unwrap();
    // The next one is.
    assert_eq!(ahead.longest_sleep(later(&ahead), head(&ahead)), LONGEST_SLEEP);
}

/// What message `sequence` holds: a length and bytes that follow from the sequence.
fn payload(sequence: u64, out: &mut Vec<u8>) {
    let len = (sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % 700;
    out.clear();
    out.resize(len, sequence as u8);
    out.extend_from_slice(&sequence.to_ne_bytes());
}

#[test]
fn message_with_a_time_of_its_own_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = server(&directory, 1024);
    let mut subscriber = subscribe(&server, Join::New);

    server.publisher().publish_at(1234, 7, b"recorded").unwrap();

    match subscriber.poll(|view| view.to_vec()) {
        Poll::Message(message) => assert_eq!(
            (message.timestamp_ns, message.tag, &*message.value),
            (1234, 7, &b"recorded"[..])
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn at_full_speed_nothing_is_torn_and_the_account_is_exact() {
    const MESSAGES: u64 = 300_000;
    let dir = tempfile::tempdir().unwrap();
    let mut server = server(&dir, 256);
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let mut subscriber = subscribe(&server, Join::Oldest);
            thread::spawn(move || {
                let (mut bytes, mut expected) = (Vec::new(), Vec::new());
                let (mut received, mut missed) = (0, 0);
                loop {
                    let outcome = subscriber.receive(WATCHDOG, |view| {
                        bytes.clear();
                        view.append_to(&mut bytes);
                    });
                    match outcome {
                        Poll::Message(message) => {
                            payload(message.sequence, &mut expected);
                            assert!(bytes == expected && message.tag == message.sequence, "torn {message:?}");
                            received += 1;
                        }
                        Poll::Lapped { missed: more, .. } => missed += more,
                        Poll::Ended => return (received, missed),
                        other => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();

    let mut bytes = Vec::new();
    for sequence in 0..MESSAGES {
        payload(sequence, &mut bytes);
        server.publisher().publish_tagged(sequence, &bytes).unwrap();
    }
    server.end_stream();

    for reader in readers {
        let (received, missed) = reader.join().unwrap();
        assert!(received > 0);
        assert_eq!(received + missed, MESSAGES);
    }
}
