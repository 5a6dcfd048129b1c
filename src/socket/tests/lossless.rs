//! Lossless subscribers over TCP: what their acknowledgements do, and what becomes of those who break the rules.

use super::super::frame::Offer;
use super::*;
use crate::PublishError;
use crate::gate::{LosslessPolicy, LosslessStatus};
use crate::segment::{Access, Pages};

/// One slot is kept for the end of the stream.
const ROOM: u64 = 7;

/// A server with a ring of 8 messages, which has two places for lossless subscribers.
fn host(policy: LosslessPolicy, adjust: impl FnOnce(&mut ServiceOptions)) -> Host {
    host_of(Owned::private, policy, adjust)
}

fn host_of(
    lay: impl FnOnce(Header, Geometry) -> Result<Owned, CreateError>,
    policy: LosslessPolicy,
    adjust: impl FnOnce(&mut ServiceOptions),
) -> Host {
    let geometry = Geometry::new(8, 128, 1 << 20, None).unwrap();
    let offer = LosslessOffer {
        policy,
        max_subscribers: 2,
    };
    Host::of(geometry, lay, Some(offer), adjust)
}

impl Host {
    fn status(&self) -> LosslessStatus {
        self.publisher.as_ref().unwrap().lossless_status()
    }

    /// Publishes as much as there is room for. Returns the sequence that comes next.
    fn fill(&mut self) -> u64 {
        let publisher = self.publisher.as_mut().unwrap();
        while publisher.try_publish_tagged(0, b"x") != Err(PublishError::Full) {}
        publisher.next_sequence()
    }

    /// Publishes as there is room, until `sequence` comes next.
    fn fill_up_to(&mut self, sequence: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.fill() < sequence {
            assert!(Instant::now() < deadline, "no room for {sequence}");
            std::thread::yield_now();
        }
        assert_eq!(self.fill(), sequence);
    }

    fn wait_until_free(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.status().subscribers > 0 {
            assert!(Instant::now() < deadline, "{:?}", self.status());
            std::thread::yield_now();
        }
    }
}

fn claim(memory: bool) -> ClientFrame {
    ClientFrame::Claim {
        incarnation: Incarnation::NIL,
        join: Join::New,
        memory,
        pid: 4711,
    }
}

/// A stranger that has asked for a claim, and the kind of the answer.
fn claimant(host: &Host, memory: bool) -> (Stranger, Option<Kind>) {
    let mut stranger = Stranger::connect(host);
    assert!(stranger.hello().offers);
    assert_eq!(stranger.hear(), Some(Kind::Offer));
    stranger.decoder.server_frame().unwrap();
    stranger.say(claim(memory));
    let kind = stranger.hear();
    (stranger, kind)
}

#[test]
fn acknowledgement_makes_room_for_what_it_says_and_never_takes_any_back() {
    let mut host = host(LosslessPolicy::Block, |_| {});
    let (mut stranger, kind) = claimant(&host, false);
    assert_eq!(kind, Some(Kind::Start));
    stranger.decoder.server_frame().unwrap();
    assert_eq!(host.fill(), ROOM);
    for _ in 0..ROOM {
        assert_eq!(stranger.hear(), Some(Kind::Message));
        stranger.decoder.message().unwrap();
    }
    assert_eq!(host.fill(), ROOM, "messages that were sent are not acknowledged");

    stranger.say(ClientFrame::Progress { next: 3 });
    host.fill_up_to(ROOM + 3);
    stranger.say(ClientFrame::Progress { next: 1 });
    stranger.say(ClientFrame::Progress { next: 5 });
    host.fill_up_to(ROOM + 5);

    let holder = host.status().holder.unwrap();
    assert_eq!(holder.cursor, 5);
    assert!(holder.who.starts_with("process 4711 at 127.0.0.1:"), "{}", holder.who);
    drop(stranger);
    host.wait_until_free();
    host.publish(b"free");
}

#[test]
fn what_a_lossless_client_may_not_say_ends_its_claim() {
    let subscribe = ClientFrame::Subscribe {
        incarnation: Incarnation::NIL,
        join: Join::New,
    };
    let wrong = [
        ClientFrame::Progress { next: ROOM + 1 },
        ClientFrame::Progress { next: u64::MAX },
        claim(false),
        claim(true),
        subscribe,
    ];
    for frame in wrong {
        let mut host = host(LosslessPolicy::Block, |_| {});
        let (mut stranger, _) = claimant(&host, false);
        assert_eq!(host.fill(), ROOM);

        stranger.say(frame);

        assert_eq!(stranger.rejection().0, RejectCode::Protocol, "{frame:?}");
        host.wait_until_free();
        host.publish(b"free");
        assert_eq!(host.service.stats().rejected_protocol, 1);
    }
}

#[test]
fn slow_client_that_says_that_it_lives_is_waited_for_longer_than_a_lossy_one() {
    let mut host = host(LosslessPolicy::Block, |options| {
        options.send_buffer_bytes = Some(8 << 10);
        options.heartbeat = Duration::from_millis(20);
        options.stall_deadline = Duration::from_millis(100);
    });
    let (mut stranger, _) = claimant(&host, false);
    stranger.decoder.server_frame().unwrap();
    // More than the buffers between them hold, so that there is always something to send.
    let mut publisher = host.publisher.take().unwrap();
    let message = vec![7; 200_000];
    let publishing = std::thread::spawn(move || {
        (0..30).for_each(|sequence| assert_eq!(publisher.publish(&message), Ok(sequence)));
        publisher
    });

    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        stranger.say(ClientFrame::Progress { next: 0 });
        std::thread::sleep(Duration::from_millis(10));
    }

    assert_eq!(host.service.stats().dropped_stalled, 0);
    let mut next = 0;
    while next < 30 {
        match stranger.hear() {
            Some(Kind::Message) => {
                assert_eq!(stranger.decoder.message().unwrap().unwrap().sequence, next);
                next += 1;
                stranger.say(ClientFrame::Progress { next });
            }
            Some(Kind::Heartbeat) => drop(stranger.decoder.server_frame().unwrap()),
            other => panic!("{other:?}"),
        }
    }
    host.publisher = Some(publishing.join().unwrap());
    assert_eq!(host.service.stats().gaps, 0);
}

#[test]
fn silent_lossless_client_counts_as_gone() {
    let mut host = host(LosslessPolicy::Block, |options| {
        options.heartbeat = Duration::from_millis(20);
        options.silence_deadline = Duration::from_millis(200);
    });
    let (mut stranger, _) = claimant(&host, false);
    assert_eq!(host.fill(), ROOM);

    host.wait_until_free();
    host.publish(b"free");

    assert_eq!(stranger.rejection().0, RejectCode::Silent);
}

#[test]
fn evicted_client_is_told_where_before_the_first_gap() {
    let mut host = host(LosslessPolicy::Evict(Duration::from_millis(100)), |options| {
        options.send_buffer_bytes = Some(8 << 10);
    });
    let (mut stranger, _) = claimant(&host, false);
    stranger.decoder.server_frame().unwrap();
    stranger.say(ClientFrame::Progress { next: 0 });

    for _ in 0..100 {
        host.publish(&[7; 200_000]);
    }

    assert_eq!((host.status().subscribers, host.status().evicted), (0, 1));
    let (mut next, mut evicted_at) = (0, None);
    while next < 100 {
        match stranger.hear().unwrap() {
            Kind::Message => {
                let message = stranger.decoder.message().unwrap().unwrap();
                assert_eq!(message.sequence, next);
                next += 1;
            }
            Kind::Gap => {
                let Ok(Some(ServerFrame::Gap { first, missed })) = stranger.decoder.server_frame() else {
                    panic!("no gap")
                };
                assert_eq!((first, evicted_at), (next, Some(0)), "a gap before EVICTED");
                next += missed;
            }
            Kind::Evicted => {
                let Ok(Some(ServerFrame::Evicted { next })) = stranger.decoder.server_frame() else {
                    panic!("no EVICTED")
                };
                assert_eq!(evicted_at.replace(next), None, "told twice");
            }
            _ => drop(stranger.decoder.server_frame().unwrap()),
        }
    }
    assert_eq!(evicted_at, Some(0));
}

#[test]
fn control_segment_that_nobody_maps_is_taken_back() {
    let lay = |header, geometry| Owned::create(header, geometry, Access::default(), Pages::default());
    let mut host = host_of(lay, LosslessPolicy::Block, |options| {
        options.subscribe_deadline = Duration::from_millis(200);
        options.heartbeat = Duration::from_millis(20);
    });
    let (mut stranger, kind) = claimant(&host, true);
    assert_eq!(kind, Some(Kind::Lease));
    let Ok(Some(ServerFrame::Lease {
        first, live, control, ..
    })) = stranger.decoder.server_frame()
    else {
        panic!("no LEASE")
    };
    assert_eq!((first, live), (0, 0));
    let path = format!("/dev/shm{control}");
    assert_eq!(host.fill(), ROOM);

    host.wait_until_free();
    host.publish(b"free");

    assert_eq!(stranger.rejection().0, RejectCode::SubscribeDeadline);
    assert!(!std::path::Path::new(&path).exists());
}

#[test]
fn claims_that_cannot_be_had_are_refused_with_the_reason_and_counted() {
    let without = Host::new(|_| {});
    let mut stranger = Stranger::connect(&without);
    assert!(!stranger.hello().offers);
    stranger.say(claim(false));
    let (code, reason) = stranger.rejection();
    assert_eq!(code, RejectCode::NotOffered);
    assert!(reason.contains("--lossless"), "{reason}");
    assert_eq!(without.service.stats().rejected_lossless, 1);

    let host = host(LosslessPolicy::Block, |_| {});
    let (mut stranger, kind) = claimant(&host, true);
    assert_eq!(kind, Some(Kind::Reject));
    assert!(stranger.rejection().1.contains("no shared memory"));
    let _places = [claimant(&host, false), claimant(&host, false)];
    let (mut stranger, _) = claimant(&host, false);
    let (code, reason) = stranger.rejection();
    assert_eq!(code, RejectCode::TooManyClaims);
    assert!(reason.contains("--max-lossless"), "{reason}");
    assert_eq!(host.service.stats().rejected_lossless, 2);
}

/// What a server says that has so many messages at hand.
fn everything(messages: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let hello = Hello {
        incarnation: Incarnation::NIL,
        head: messages,
        oldest: 0,
        max_message_bytes: 4096,
        heartbeat_ms: 100_000,
        silence_ms: 200_000,
        connections: 1,
        closed: false,
        offers: true,
        name: "x".to_owned(),
    };
    let offer = Offer {
        policy: LosslessPolicy::Block,
        max_subscribers: 1,
        subscribers: 0,
        evicted: 0,
        holder: None,
    };
    ServerFrame::Hello(hello).append_to(&mut bytes);
    ServerFrame::Offer(offer).append_to(&mut bytes);
    ServerFrame::Start { first: 0, missed: 0 }.append_to(&mut bytes);
    for sequence in 0..messages {
        let message = ServerFrame::Message {
            sequence,
            timestamp_ns: 0,
            tag: 0,
            payload: b"x",
        };
        message.append_to(&mut bytes);
    }
    bytes
}

/// The last acknowledgement in what a client said, and how many there are.
fn acknowledgements(said: &[u8]) -> (u64, u128) {
    let (mut acknowledged, mut times) = (0, 0);
    let mut decoder = Decoder::of_client();
    for byte in said {
        decoder.push(&[*byte]);
        while let Some(frame) = decoder.client_frame().unwrap() {
            if let ClientFrame::Progress { next } = frame {
                assert!(next > acknowledged, "{next} behind {acknowledged}");
                (acknowledged, times) = (next, times + 1);
            }
        }
    }
    (acknowledged, times)
}

/// A server that has everything at hand: what a subscriber says while it is busy with that is little.
#[test]
fn subscriber_with_more_at_hand_acknowledges_now_and_then_and_in_the_end_all() {
    const MESSAGES: u64 = 4000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&everything(MESSAGES)).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        heard
    });
    let mut subscriber =
        RemoteSubscriber::connect_lossless(&[address], Incarnation::NIL, Join::Oldest, PATIENCE).unwrap();

    let started = Instant::now();
    let (mut messages, mut pauses) = (0, 0);
    while messages < MESSAGES || pauses == 0 {
        match subscriber.poll(|_| ()).unwrap() {
            Poll::Message(_) => messages += 1,
            Poll::Empty => pauses += u128::from(messages > 0),
            other => panic!("{other:?}"),
        }
        assert!(started.elapsed() < PATIENCE);
    }
    while !matches!(subscriber.poll(|_| ()).unwrap(), Poll::Empty) {}
    let elapsed = started.elapsed();
    drop(subscriber);

    let (acknowledged, times) = acknowledgements(&server.join().unwrap());
    assert_eq!(acknowledged, MESSAGES);
    let most = elapsed.as_micros() / 50 + pauses + 2;
    assert!(times <= most, "{times} times in {elapsed:?} with {pauses} pauses");
}
