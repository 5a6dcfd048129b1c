use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempPath;

use super::*;
use crate::discovery::{self, Trust};
use crate::gate::{LosslessOffer, LosslessPolicy};
use crate::{PublishError, RemoteSubscriber, Server, ServerOptions, sys};

mod draining;

/// Nothing takes this long, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

struct Stage {
    server: Server,
    _directory: tempfile::TempDir,
}

impl Stage {
    /// A server with a ring of 8 slots, and a page of arena.
    fn new(policy: Option<LosslessPolicy>) -> Self {
        Self::adjusted(policy, |_| {})
    }

    fn adjusted(policy: Option<LosslessPolicy>, adjust: impl FnOnce(&mut ServerOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = ServerOptions::new("orders".parse().unwrap());
        options.info_dir = directory.path().to_owned();
        options.ring_bytes = 4096;
        options.max_message_bytes = Some(4096);
        options.slots = Some(8);
        options.lossless = policy.map(|policy| LosslessOffer {
            policy,
            max_subscribers: 2,
        });
        adjust(&mut options);
        Self {
            server: Server::start(options).unwrap(),
            _directory: directory,
        }
    }

    fn found(&self) -> Found {
        discovery::read(self.server.info_path(), &Trust::default()).unwrap()
    }

    fn publish(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            assert_eq!(self.server.publisher().publish(&number.to_le_bytes()), Ok(number));
        }
    }

    fn lossless(&self, join: Join) -> LosslessSubscriber {
        LosslessSubscriber::open(&self.found(), join, PATIENCE).unwrap()
    }

    fn blocking(&self, join: Join) -> BlockingSubscriber {
        BlockingSubscriber::open(&self.found(), join, PATIENCE).unwrap()
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// What messages there were, and nothing else.
fn values<T: fmt::Debug>(outcomes: Vec<Poll<T>>) -> impl Iterator<Item = T> {
    outcomes.into_iter().map(|outcome| match outcome {
        Poll::Message(received) => received.value,
        other => panic!("{other:?}"),
    })
}

fn next(subscriber: &mut LosslessSubscriber) -> u64 {
    match subscriber.receive(PATIENCE, |view| number(&view.to_vec())) {
        Poll::Message(received) => {
            assert_eq!(received.value, received.sequence);
            received.value
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn publisher_is_full_when_the_slowest_is_a_ring_behind_and_not_before() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let mut subscriber = stage.lossless(Join::New);

    // One slot is kept for the end of the stream.
    stage.publish(0..7);

    let publisher = stage.server.publisher();
    assert_eq!(publisher.try_publish_tagged(0, b"x"), Err(PublishError::Full));
    assert_eq!(publisher.batch().try_push(0, b"x"), Err(PublishError::Full));
    assert_eq!(publisher.try_loan(1).map(drop), Err(PublishError::Full));
    assert_eq!(publisher.batch().try_loan(1).map(drop), Err(PublishError::Full));
    assert_eq!(publisher.wait_for_room(1, Duration::ZERO), Err(PublishError::Full));
    let holder = stage.server.lossless_status().holder.unwrap();
    assert_eq!(holder.cursor, 0);
    assert!(holder.who.contains(&std::process::id().to_string()), "{}", holder.who);
    assert_eq!(next(&mut subscriber), 0);
    stage.publish(7..8);
    assert_eq!(stage.server.lossless_status().holder, None);
    for expected in 1..8 {
        assert_eq!(next(&mut subscriber), expected);
    }
}

#[test]
fn message_that_is_too_long_is_refused_though_it_would_fit_in_a_slot() {
    let mut stage = Stage::adjusted(Some(LosslessPolicy::Block), |options| {
        options.slot_bytes = 1024;
        options.max_message_bytes = Some(100);
    });
    let _subscriber = stage.lossless(Join::New);
    stage.publish(0..1);

    let too_long = PublishError::TooLong { len: 101, max: 100 };
    let publisher = stage.server.publisher();
    assert_eq!(publisher.publish(&[1; 101]), Err(too_long));
    assert_eq!(publisher.batch().try_loan(101).map(drop), Err(too_long));
    assert_eq!(publisher.publish(&[1; 100]), Ok(1));
}

#[test]
fn nothing_is_published_behind_the_end_though_the_last_look_found_room() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let mut subscriber = stage.lossless(Join::New);
    stage.publish(0..1);

    stage.server.end_stream();

    let publisher = stage.server.publisher();
    assert_eq!(publisher.publish(b"x"), Err(PublishError::Ended));
    assert_eq!(publisher.try_publish_tagged(0, b"x"), Err(PublishError::Ended));
    assert_eq!(next(&mut subscriber), 0);
    assert!(matches!(subscriber.receive(PATIENCE, |_| ()), Poll::Ended));
}

#[test]
fn publisher_waits_for_room_and_loses_nothing() {
    const COUNT: u64 = 20_000;
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let mut slow = stage.lossless(Join::New);
    let mut quick = stage.lossless(Join::New);
    let mut remote_stage = Stage::new(Some(LosslessPolicy::Block));
    let addresses = remote_stage.server.addresses().to_vec();
    let mut remote =
        RemoteSubscriber::connect_lossless(&addresses, crate::Incarnation::NIL, Join::New, PATIENCE).unwrap();

    std::thread::scope(|scope| {
        scope.spawn(|| stage.publish(0..COUNT));
        scope.spawn(|| remote_stage.publish(0..COUNT));
        scope.spawn(|| (0..COUNT).for_each(|expected| assert_eq!(next(&mut quick), expected)));
        scope.spawn(|| {
            for expected in 0..COUNT {
                assert_eq!(next(&mut slow), expected);
                if expected % 64 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        for expected in 0..COUNT {
            let Poll::Message(received) = remote.receive(PATIENCE, number).unwrap() else {
                panic!("message {expected}")
            };
            assert_eq!((received.sequence, received.value), (expected, expected));
        }
    });
}

#[test]
fn end_of_the_stream_takes_nothing_from_who_joined_at_the_oldest_message_of_a_full_ring() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    stage.publish(0..8);
    let mut subscriber = stage.lossless(Join::Oldest);

    stage.server.end_stream();

    // Room for one message that may be under way when somebody joins, and for the end.
    for expected in 2..8 {
        assert_eq!(next(&mut subscriber), expected);
    }
    assert!(matches!(subscriber.poll(|_| ()), Poll::Ended));
}

#[test]
fn arena_is_not_reused_before_it_was_read() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let mut subscriber = stage.lossless(Join::New);
    let publisher = stage.server.publisher();
    publisher.publish(&[1; 3000]).unwrap();
    publisher.publish(&[2; 8]).unwrap();

    assert_eq!(publisher.try_publish_tagged(0, &[3; 2000]), Err(PublishError::Full));
    assert_eq!(publisher.try_publish_tagged(0, &[3; 1000]), Ok(2));

    let mut bytes = Vec::new();
    for expected in [vec![1; 3000], vec![2; 8], vec![3; 1000]] {
        assert!(matches!(subscriber.poll_into(&mut bytes), Poll::Message(_)));
        assert_eq!(bytes, expected);
    }
    // With all of it read even the longest goes.
    let publisher = stage.server.publisher();
    assert_eq!(publisher.try_publish_tagged(0, &[4; 4096]), Ok(3));
    assert_eq!(publisher.try_publish_tagged(0, &[5; 4096]), Err(PublishError::Full));
}

#[test]
fn held_messages_stay_as_they_are_until_they_are_dropped() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let subscriber = stage.blocking(Join::New);
    stage.publish(0..7);

    let mut held: Vec<_> = (0..7)
        .map(|_| match subscriber.poll() {
            Poll::Message(received) => received.value,
            other => panic!("{other:?}"),
        })
        .collect();

    assert!(held.iter().all(Held::is_in_place));
    assert_eq!(subscriber.held(), 7);
    // Later ones first: the oldest still holds the ring.
    drop(held.drain(1..3));
    let publisher = stage.server.publisher();
    assert_eq!(publisher.try_publish_tagged(0, b"x"), Err(PublishError::Full));
    assert_eq!(
        held.iter().map(|held| number(held)).collect::<Vec<_>>(),
        [0, 3, 4, 5, 6]
    );
    drop(held.remove(0));
    stage.publish(7..10);
    assert_eq!(
        stage.server.publisher().try_publish_tagged(0, b"x"),
        Err(PublishError::Full)
    );
    assert_eq!(held.iter().map(|held| number(held)).collect::<Vec<_>>(), [3, 4, 5, 6]);
}

#[test]
fn messages_from_before_the_claim_are_copied_until_the_next_is_there() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    stage.publish(0..5);
    let subscriber = stage.blocking(Join::Oldest);
    let poll = || match subscriber.poll() {
        Poll::Message(received) => received.value,
        other => panic!("{other:?}"),
    };

    let first = poll();
    assert_eq!((number(&first), first.is_in_place()), (0, false));
    drop(first);
    stage.publish(5..6);

    let second = poll();
    assert_eq!((number(&second), second.is_in_place()), (1, true));
}

#[test]
fn claim_on_older_messages_counts_at_once() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    stage.publish(0..3);
    let newer = stage.lossless(Join::New);
    stage.publish(3..4);

    let older = stage.lossless(Join::Oldest);

    stage.publish(4..7);
    assert_eq!(
        stage.server.publisher().try_publish_tagged(0, b"x"),
        Err(PublishError::Full)
    );
    drop((newer, older));
}

#[test]
fn who_joins_late_is_told_what_is_gone_and_nothing_after_that() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    stage.publish(0..20);

    let mut subscriber = stage.lossless(Join::Sequence(3));

    assert_eq!(
        subscriber.poll(|_| ()),
        Poll::Lapped { first: 3, missed: 9 },
        "the ring has 12 to 19"
    );
    assert_eq!(next(&mut subscriber), 12);
    assert_eq!(
        stage.server.publisher().try_publish_tagged(0, b"x"),
        Err(PublishError::Full)
    );
    (13..20).for_each(|expected| assert_eq!(next(&mut subscriber), expected));
    stage.publish(20..27);
}

#[test]
fn who_claims_what_there_is_gets_it_without_a_gap_behind_what_was_buried() {
    let mut stage = Stage::adjusted(Some(LosslessPolicy::Block), |options| options.slots = Some(64));
    // Of the long ones the arena has the last four; the short one is still there.
    stage.publish(0..1);
    for _ in 1..21 {
        stage.server.publisher().publish(&[1; 1000]).unwrap();
    }
    stage.publish(21..22);
    let addresses = stage.server.addresses().to_vec();

    for join in [Join::Oldest, Join::Latest(21), Join::Latest(22)] {
        let mut local = stage.lossless(join);
        let mut remote =
            RemoteSubscriber::connect_lossless(&addresses, crate::Incarnation::NIL, join, PATIENCE).unwrap();

        for expected in 17..22 {
            assert!(matches!(local.poll(|_| ()), Poll::Message(message) if message.sequence == expected));
            let received = remote.receive(PATIENCE, |_| ()).unwrap();
            assert!(matches!(received, Poll::Message(message) if message.sequence == expected));
        }
        drop((local, remote));
        let deadline = Instant::now() + PATIENCE;
        while stage.server.lossless_status().subscribers > 0 {
            assert!(Instant::now() < deadline, "both have left");
            std::thread::yield_now();
        }
    }
    // Who names a sequence is given all that is there from it on.
    let mut resumed = stage.lossless(Join::Sequence(0));
    assert_eq!(next(&mut resumed), 0);
    assert_eq!(resumed.poll(|_| ()), Poll::Lapped { first: 1, missed: 16 });
    assert!(matches!(resumed.poll(|_| ()), Poll::Message(message) if message.sequence == 17));
}

#[test]
fn slow_subscriber_is_evicted_in_time_and_reads_on() {
    let mut stage = Stage::new(Some(LosslessPolicy::Evict(Duration::from_millis(50))));
    let mut subscriber = stage.lossless(Join::New);
    let error = BlockingSubscriber::open(&stage.found(), Join::New, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("evict:50ms"), "{error}");
    stage.publish(0..7);
    assert!(!subscriber.is_evicted());

    // Waits for the subscriber, and then no longer.
    stage.publish(7..16);

    assert!(subscriber.is_evicted());
    let status = stage.server.lossless_status();
    assert_eq!((status.subscribers, status.evicted, status.holder), (0, 1, None));
    assert!(matches!(subscriber.poll(|_| ()), Poll::Lapped { first: 0, .. }));
    assert!(next(&mut subscriber) > 7);
}

#[test]
fn evicted_remote_subscriber_is_told_and_reads_on() {
    let mut stage = Stage::new(Some(LosslessPolicy::Evict(Duration::from_millis(50))));
    let addresses = stage.server.addresses().to_vec();
    let mut remote =
        RemoteSubscriber::connect_lossless(&addresses, crate::Incarnation::NIL, Join::New, PATIENCE).unwrap();
    assert_eq!(remote.offer().unwrap().max_subscribers, 2);

    stage.publish(0..16);

    assert!(remote.is_lossless());
    let mut told = 0;
    while told < 16 {
        match remote.receive(PATIENCE, |_| ()).unwrap() {
            Poll::Message(_) => told += 1,
            Poll::Lapped { missed, .. } => told += missed,
            other => panic!("{other:?}"),
        }
    }
    assert!(!remote.is_lossless());
}

#[test]
fn subscriber_that_leaves_lets_the_publisher_go_on() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let subscriber = stage.lossless(Join::New);
    stage.publish(0..7);
    let (sender, receiver) = mpsc::channel();

    std::thread::scope(|scope| {
        scope.spawn(|| {
            stage.publish(7..8);
            sender.send(()).unwrap();
        });
        drop(subscriber);
        receiver.recv_timeout(PATIENCE).unwrap();
    });

    assert_eq!(stage.server.lossless_status().subscribers, 0);
}

#[test]
fn forged_cursor_costs_the_claim_and_nothing_else() {
    for forged in [8, 1 << 62, u64::MAX - 1, u64::MAX] {
        let mut stage = Stage::new(Some(LosslessPolicy::Block));
        let honest = stage.lossless(Join::New);
        let hostile = stage.lossless(Join::New);
        stage.publish(0..7);

        hostile.lease.control.claim().advance(forged, true, || {});

        let publisher = stage.server.publisher();
        assert_eq!(publisher.try_publish_tagged(0, b"x"), Err(PublishError::Full));
        assert!(hostile.is_evicted() && !honest.is_evicted());
        assert_eq!(stage.server.lossless_status().subscribers, 1);
    }
}

#[test]
fn cursor_that_goes_back_frees_nothing_and_takes_nothing() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let mut subscriber = stage.lossless(Join::New);
    stage.publish(0..7);
    (0..4).for_each(|expected| assert_eq!(next(&mut subscriber), expected));
    // The publisher looks at the cursor, and again once somebody else joins.
    stage.publish(7..9);
    subscriber.lease.control.claim().advance(1, true, || {});
    let _another = stage.lossless(Join::New);

    assert!(stage.server.publisher().wait_for_room(8, Duration::ZERO).is_ok());
    assert_eq!(next(&mut subscriber), 4);
    stage.publish(9..12);
}

#[test]
fn cursor_that_goes_back_keeps_the_publisher_no_longer_than_it_wants_to_wait() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let mut subscriber = stage.lossless(Join::New);
    stage.publish(0..7);
    (0..4).for_each(|expected| assert_eq!(next(&mut subscriber), expected));
    // The publisher looks at the cursor; then some is read again, and the ring becomes full.
    stage.publish(7..8);
    subscriber.subscriber().rejoin(Join::Sequence(1));
    assert_eq!(next(&mut subscriber), 1);
    stage.publish(8..11);
    let (done, outcome) = mpsc::channel();

    let publisher = std::thread::spawn(move || {
        let publisher = stage.server.publisher();
        let _ = done.send(publisher.wait_for_room(8, Duration::from_millis(20)));
        let _ = done.send(publisher.wait_for_room(8, PATIENCE));
    });

    assert_eq!(outcome.recv_timeout(PATIENCE), Ok(Err(PublishError::Full)));
    while !matches!(subscriber.poll(|_| ()), Poll::Message(received) if received.sequence == 4) {}
    assert_eq!(outcome.recv_timeout(PATIENCE), Ok(Ok(())));
    publisher.join().unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let stage = Stage::new(None);
    let error = LosslessSubscriber::open(&stage.found(), Join::New, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("--lossless"), "{error}");

    let stage = Stage::new(Some(LosslessPolicy::Block));
    let _others = [stage.lossless(Join::New), stage.lossless(Join::New)];
    let error = LosslessSubscriber::open(&stage.found(), Join::New, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("--max-lossless"), "{error}");
    let error = LosslessSubscriber::open(&stage.found(), Join::Sequence(1), PATIENCE).unwrap_err();
    assert!(error.to_string().contains("no message 1 yet"), "{error}");

    let mut found = stage.found();
    found.info.socket.as_mut().unwrap().addresses = vec!["127.0.0.1:1".parse().unwrap()];
    let error = LosslessSubscriber::open(&found, Join::New, PATIENCE).unwrap_err();
    assert!(
        error.to_string().contains("agreed on over the socket: 127.0.0.1:1"),
        "{error}"
    );
}

#[test]
fn publisher_right_behind_its_reader_rests_unless_it_must_not_wait() {
    let mut stage = Stage::adjusted(Some(LosslessPolicy::Block), |options| options.slots = Some(64));
    let mut subscriber = stage.lossless(Join::New);
    let mut batch = stage.server.publisher().batch();
    let mut next_time = || match subscriber.receive(PATIENCE, |_| ()) {
        Poll::Message(received) => received.timestamp_ns,
        other => panic!("{other:?}"),
    };

    // All but the last have ample room. The reader makes room for one message at a time.
    for _ in 0..63 {
        batch.push(0, b"x").unwrap();
    }
    let mut times = vec![next_time()];
    batch.push(0, b"rested, so it has a time of its own").unwrap();
    times.push(next_time());
    batch.try_push(0, b"not rested").unwrap();
    drop(batch);
    times.extend((2..65).map(|_| next_time()));

    assert!(times[..63].iter().all(|&time| time == times[0]));
    assert!(times[63] > times[62]);
    assert_eq!(times[64], times[63]);
}

#[test]
fn end_of_the_stream_overwrites_nothing_that_is_claimed() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let mut subscriber = stage.lossless(Join::New);
    stage.publish(0..7);
    assert!(
        stage.server.publisher().wait_for_room(8, Duration::ZERO).is_err(),
        "the last slot is the end's"
    );

    stage.server.end_stream();

    (0..7).for_each(|expected| assert_eq!(next(&mut subscriber), expected));
    assert_eq!(subscriber.receive(PATIENCE, |_| ()), Poll::Ended);
}

/// A lease that was agreed on and not begun, and where its control segment has its name.
fn agreed(stage: &Stage) -> (Agreed, String, PathBuf) {
    let info = stage.found().info;
    let request = Request::of(info.incarnation, Join::New, Delivery::Leased);
    let (_, agreed) = agree_with_any(&info.socket.unwrap().addresses, request, PATIENCE).unwrap();
    let (_, name) = agreed.lease.clone().unwrap();
    let path = PathBuf::from(format!("/dev/shm{name}"));
    (agreed, name, path)
}

/// Ends a connection. Returns when the server has ended it too, and done what it does then.
fn cut(mut stream: &TcpStream) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[track_caller]
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}

#[test]
fn claim_lasts_as_long_as_the_lock_on_its_control_segment_and_not_as_the_connection() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let (agreed, name, path) = agreed(&stage);
    let control = Control::open(&name, stage.server.info().incarnation).unwrap();

    cut(&agreed.stream);

    // Nobody has said that it is mapped, and nobody will.
    assert!(!path.exists());
    stage.publish(0..7);
    let publisher = stage.server.publisher();
    assert_eq!(publisher.try_publish_tagged(0, b"x"), Err(PublishError::Full));
    assert_eq!(stage.server.lossless_status().subscribers, 1);
    // Without a word, as when a process is killed.
    drop(control);
    assert_eq!(stage.server.publisher().wait_for_room(1, PATIENCE), Ok(()));
    assert_eq!(stage.server.lossless_status().subscribers, 0);
}

#[test]
fn claim_that_the_server_has_taken_back_is_not_believed() {
    let stage = Stage::new(Some(LosslessPolicy::Block));
    let mut subscriber = Subscriber::open(&stage.found(), Join::New).unwrap();
    let (mut agreed, name, path) = agreed(&stage);
    // Another name, for it to be there when this process comes, as if it had opened the first in time.
    let late = format!("{name}-late");
    let kept = TempPath::try_from_path(format!("/dev/shm{late}")).unwrap();
    std::fs::hard_link(path, &kept).unwrap();
    agreed.lease = Some((0, late));

    cut(&agreed.stream);
    // The server's lock is gone, but for a process that another test is just starting; with this one no other server takes
    // the name away.
    let file = File::options().write(true).open(&kept).unwrap();
    wait_until(|| sys::try_write_lock(&file).unwrap());

    let outcome = Lease::begin(&mut subscriber, agreed);
    assert!(matches!(outcome, Err(LosslessError::TooLate)), "{outcome:?}");
}

#[test]
fn what_was_never_claimed_is_copied_although_the_next_message_is_there() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    stage.publish(0..5);
    let found = stage.found();
    let mut subscriber = Subscriber::open(&found, Join::New).unwrap();
    let request = Request::of(found.info.incarnation, Join::New, Delivery::Leased);
    let addresses = found.info.socket.unwrap().addresses;
    let (_, mut agreed) = agree_with_any(&addresses, request, PATIENCE).unwrap();
    // As if messages 3 and 4 had seemed to be gone.
    assert_eq!((agreed.first, agreed.missed), (5, 0));
    agreed.missed = 2;
    let lease = Lease::begin(&mut subscriber, agreed).unwrap();
    let subscriber = BlockingSubscriber::with_lease(subscriber, lease).unwrap();
    stage.publish(5..6);

    let held: Vec<_> = values((0..3).map(|_| subscriber.poll()).collect()).collect();

    // The last of these takes the slot of message 3.
    stage.publish(6..12);
    assert_eq!(held.iter().map(|held| number(held)).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(
        held.iter().map(Held::is_in_place).collect::<Vec<_>>(),
        [false, false, true]
    );
}

#[test]
fn control_segments_are_gone_once_they_are_mapped() {
    let stage = Stage::new(Some(LosslessPolicy::Block));
    let _subscriber = stage.lossless(Join::New);
    let incarnation = stage.server.info().incarnation.to_string();

    // The server hears a moment later that it is mapped.
    let is_there = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().contains(&incarnation);
    wait_until(|| !std::fs::read_dir("/dev/shm").unwrap().flatten().any(is_there));
}

#[test]
fn iterator_of_a_lossless_subscriber_loses_nothing() {
    let mut stage = Stage::new(Some(LosslessPolicy::Block));
    let mut subscriber = stage.lossless(Join::New);

    let reader = std::thread::spawn(move || {
        let items = subscriber.messages(PATIENCE).map(|item| match item {
            Poll::Message(received) => number(&received.value),
            other => panic!("{other:?}"),
        });
        items.collect::<Vec<_>>()
    });
    stage.publish(0..1000);
    stage.server.end_stream();

    assert!(reader.join().unwrap().into_iter().eq(0..1000));
}
