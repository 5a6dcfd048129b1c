//! A ring in which somebody writes what no publisher would.

use super::*;

#[test]
fn ring_that_somebody_scribbles_in_ends_connections_and_not_the_service() {
    const CONNECTIONS: u64 = 300;
    let mut host = Host::with_ring(16, 4096, None, |_| {});
    let service_is_running = || host.service.is_running();
    let (address, over) = (host.address, std::sync::atomic::AtomicBool::new(false));
    let publisher = host.publisher.as_mut().unwrap();

    let (messages, errors) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let outcome = std::panic::catch_unwind(|| read_what_comes(address, CONNECTIONS));
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            outcome.expect("no frame is wrong")
        });
        scribble(publisher, || over.load(std::sync::atomic::Ordering::Relaxed));
        reader.join().unwrap()
    });

    assert!(service_is_running(), "the service thread died");
    assert!(
        messages > 0 && errors > 0,
        "{messages} messages, {errors} connections lost"
    );
}

/// Publishes, and writes what no publisher would into the ring, until it `is_over`.
fn scribble(publisher: &mut Publisher, is_over: impl Fn() -> bool) {
    let slots = publisher.geometry().slot_count();
    let mut random = 1_u64;
    let mut draw = |end: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    while !is_over() {
        publisher.publish(&vec![3; draw(1000) as usize]).unwrap();
        if draw(4) > 0 {
            std::thread::yield_now();
            continue;
        }
        let next = publisher.next_sequence();
        let slot = publisher.geometry().slot_at(next.wrapping_sub(draw(4)));
        let at = match draw(8) {
            word @ 0..=4 => slot + word as usize,
            5 => crate::layout::FLOOR_WORD,
            _ => crate::layout::HEAD_WORD,
        };
        let value = match draw(5) {
            0 => (next + draw(3) * slots) << 2 | draw(4),
            1 => 1 << draw(64),
            2 => u64::MAX - draw(4),
            3 => 1 << 63 | draw(5000),
            _ => draw(5000),
        };
        publisher.memory()[at].store(value, crate::sync::Ordering::Relaxed);
    }
}

/// Connects again and again and reads until the connection is lost. What does come must be in order.
fn read_what_comes(address: SocketAddr, connections: u64) -> (u64, u64) {
    let (mut messages, mut errors) = (0, 0);
    for i in 0..connections {
        let join = [Join::New, Join::Oldest, Join::Latest(3), Join::Sequence(i)][i as usize % 4];
        let error = match RemoteSubscriber::connect(&[address], Incarnation::NIL, join, PATIENCE) {
            Ok(mut subscriber) => (0..100).find_map(|_| {
                let outcome = subscriber.receive(Duration::from_millis(1), <[u8]>::len);
                messages += u64::from(matches!(outcome, Ok(Poll::Message(_))));
                outcome.err()
            }),
            Err(error) => Some(error),
        };
        errors += u64::from(error.is_some());
        assert!(matches!(error, None | Some(RemoteError::Closed)), "{error:?}");
    }
    (messages, errors)
}
