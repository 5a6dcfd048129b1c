//! What arrives: all of it, byte for byte, to its end.

use super::*;

#[test]
fn hundred_thousand_messages_of_all_lengths_arrive_byte_for_byte() {
    const COUNT: u64 = 100_000;
    const LONGEST: u64 = 4096;
    let mut host = Host::with_ring(1024, 1 << 20, Some(LONGEST), |_| {});
    let mut subscriber = host.join(Join::Oldest);

    // The ring waits for nobody, so the publisher keeps less than half of it ahead of the subscriber.
    let mut published = 0;
    while subscriber.cursor() < COUNT {
        while published < COUNT && published < subscriber.cursor() + 128 {
            host.publish(&payload(published, LONGEST));
            published += 1;
        }
        let sequence = subscriber.cursor();
        expect(&mut subscriber, sequence, &payload(sequence, LONGEST));
    }
    host.close();

    assert_eq!(receive(&mut subscriber), Poll::Ended);
    assert_eq!(receive(&mut subscriber), Poll::Ended);
    assert!(host.service.finish(PATIENCE));
    assert_eq!(host.service.stats().messages, COUNT);
}

#[test]
fn message_of_the_greatest_length_arrives() {
    const LONGEST: usize = 3 << 20;
    let mut host = Host::with_ring(16, 4 << 20, Some(LONGEST as u64), |_| {});
    let mut subscriber = host.join(Join::New);
    let message: Vec<u8> = (0..LONGEST).map(|i| (i / 7) as u8).collect();

    host.publish(&message);

    expect(&mut subscriber, 0, &message);
}

#[test]
fn end_of_the_stream_reaches_a_subscriber_that_is_behind_and_finish_waits_for_it() {
    let mut host = Host::new(|_| {});
    let mut subscriber = host.join(Join::Oldest);
    for i in 0..100_u8 {
        host.publish(&[i]);
    }
    host.close();

    assert!(!host.service.finish(Duration::from_millis(1)));
    for i in 0..100_u8 {
        expect(&mut subscriber, i.into(), &[i]);
    }
    assert_eq!(receive(&mut subscriber), Poll::Ended);

    assert!(host.service.finish(PATIENCE));
    assert_eq!(host.service.stats().finished, 1);
}

#[test]
fn subscriber_of_a_closed_stream_gets_what_is_retained_and_the_end() {
    let mut host = Host::new(|_| {});
    host.publish(b"last");
    host.close();

    let mut subscriber = host.join(Join::Oldest);
    let mut beyond = host.join(Join::Sequence(5));

    expect(&mut subscriber, 0, b"last");
    assert_eq!(receive(&mut subscriber), Poll::Ended);
    assert_eq!(receive(&mut beyond), Poll::Ended);
}

#[test]
fn peer_that_does_not_read_is_lapped_and_costs_a_healthy_one_nothing() {
    const COUNT: u64 = 60_000;
    const LEN: usize = 1000;
    let mut host = Host::with_ring(1024, 2 << 20, None, |options| {
        options.send_buffer_bytes = Some(64 << 10);
        // The slow one says nothing for as long as the healthy one takes.
        options.silence_deadline = Duration::from_secs(100);
    });
    let mut slow = host.join(Join::New);
    let mut healthy = host.join(Join::New);
    let mut published = 0_u64;

    // 60 MB: far more than all buffers between the slow one and the ring.
    while healthy.cursor() < COUNT {
        while published < COUNT && published < healthy.cursor() + 128 {
            host.publish(&vec![published as u8; LEN]);
            published += 1;
        }
        let sequence = healthy.cursor();
        expect(&mut healthy, sequence, &vec![sequence as u8; LEN]);
    }
    host.close();
    assert_eq!(receive(&mut healthy), Poll::Ended);
    let (mut read, mut missed, mut gaps) = (0, 0, 0);
    loop {
        let cursor = slow.cursor();
        match receive(&mut slow) {
            Poll::Message(received) => {
                assert_eq!(received.sequence, cursor);
                assert_eq!(received.value, vec![cursor as u8; LEN]);
                read += 1;
            }
            Poll::Lapped { first, missed: lost } => {
                assert_eq!(first, cursor);
                gaps += 1;
                missed += lost;
            }
            Poll::Ended => break,
            other => panic!("{other:?}"),
        }
    }

    assert_eq!(read + missed, COUNT);
    assert!(gaps > 0 && read > 0);
    assert!(host.service.finish(PATIENCE));
    let stats = host.service.stats();
    assert_eq!((stats.gaps, stats.missed, stats.finished), (gaps, missed, 2));
}

#[test]
fn two_hundred_subscribers_all_get_everything() {
    const MESSAGES: u64 = 2000;
    let mut host = Host::with_ring(4096, 64 << 10, None, |_| {});
    let mut subscribers: Vec<_> = (0..200).map(|_| host.join(Join::Oldest)).collect();

    for sequence in 0..MESSAGES {
        host.publish(&sequence.to_le_bytes());
    }
    host.close();

    for subscriber in &mut subscribers {
        for sequence in 0..MESSAGES {
            expect(subscriber, sequence, &sequence.to_le_bytes());
        }
        assert_eq!(receive(subscriber), Poll::Ended);
    }
    assert!(host.service.finish(PATIENCE));
    let stats = host.service.stats();
    assert_eq!((stats.finished, stats.messages, stats.missed), (200, 200 * MESSAGES, 0));
}

#[test]
fn peer_that_does_not_read_holds_little_of_the_kernels_memory() {
    const LEN: usize = 4000;
    /// Far more than the kernel would hold for it: `net.ipv4.tcp_wmem` and `net.ipv4.tcp_rmem` together.
    const COUNT: u64 = 20_000;
    let mut host = Host::with_ring(1024, 8 << 20, None, |options| {
        options.silence_deadline = Duration::from_secs(100);
        options.stall_deadline = Duration::from_secs(100);
    });
    let mut deaf = Stranger::connect(&host);
    deaf.subscribe(Join::New);
    assert_eq!(deaf.hear(), Some(Kind::Hello));
    host.wait_for(|stats| stats.bytes > 0);
    let mut healthy = host.join(Join::New);

    for sequence in 0..COUNT {
        host.publish(&[7; LEN]);
        expect(&mut healthy, sequence, &[7; LEN]);
    }

    let taken_by_healthy = COUNT * LEN as u64;
    let held = host.service.stats().bytes - taken_by_healthy;
    // The frames of the healthy one have headers of 36 bytes. The rest lies in the kernel.
    assert!(
        held - COUNT * 36 < 1 << 20,
        "the kernel holds {held} bytes for a peer that does not read"
    );
}
