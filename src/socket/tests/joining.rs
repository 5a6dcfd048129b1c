//! Where delivery starts, and with whom.

use super::*;

#[test]
fn each_join_starts_where_it_says() {
    let mut host = Host::new(|_| {});
    for i in 0..10_u8 {
        host.publish(&[i]);
    }

    let mut oldest = host.join(Join::Oldest);
    let mut latest = host.join(Join::Latest(3));
    let mut sequence = host.join(Join::Sequence(5));
    let mut new = host.join(Join::New);
    let mut future = host.join(Join::Sequence(12));
    for i in 10..13_u8 {
        host.publish(&[i]);
    }

    expect(&mut oldest, 0, &[0]);
    expect(&mut latest, 7, &[7]);
    expect(&mut sequence, 5, &[5]);
    expect(&mut new, 10, &[10]);
    expect(&mut future, 12, &[12]);
    let hello = oldest.hello();
    assert_eq!(
        (hello.incarnation, hello.oldest, hello.name.as_str()),
        (host.incarnation, 0, "prices")
    );
}

#[test]
fn sequence_that_is_gone_is_told_as_missed_before_the_first_message() {
    let mut host = Host::with_ring(8, 4096, None, |_| {});
    for i in 0..20_u8 {
        host.publish(&[i]);
    }

    let mut subscriber = host.join(Join::Sequence(5));

    assert_eq!(receive(&mut subscriber), Poll::Lapped { first: 5, missed: 7 });
    expect(&mut subscriber, 12, &[12]);
}

#[test]
fn who_joins_a_vast_ring_gets_what_it_still_has() {
    let long = [7; 64];
    // The arena holds 64 of them at most.
    let geometry = Geometry::new(1 << 18, 64, 4096, None).unwrap();
    let mut host = Host::of(geometry, Owned::private, None, |_| {});
    for _ in 0..140_000 {
        host.publish(&long);
    }

    let mut resumed = host.join(Join::Sequence(139_980));
    let mut late = host.join(Join::Sequence(139_800));
    let mut oldest = host.join(Join::Oldest);

    expect(&mut resumed, 139_980, &long);
    let first = oldest.hello().oldest;
    assert!((139_930..139_950).contains(&first), "{first}");
    let missed = first - 139_800;
    assert_eq!(receive(&mut late), Poll::Lapped { first: 139_800, missed });
    expect(&mut late, first, &long);
    expect(&mut oldest, first, &long);
}

#[test]
fn resumed_subscriber_goes_on_at_the_next_sequence() {
    let mut host = Host::new(|_| {});
    for i in 0..10_u8 {
        host.publish(&[i]);
    }
    let mut first = host.join(Join::Oldest);
    for i in 0..4_u8 {
        expect(&mut first, i.into(), &[i]);
    }
    let (incarnation, cursor) = (first.hello().incarnation, first.cursor());
    drop(first);

    let mut second = RemoteSubscriber::resume(&[host.address], incarnation, cursor, PATIENCE).unwrap();

    expect(&mut second, 4, &[4]);
}

#[test]
fn resume_at_a_server_started_anew_begins_at_its_oldest() {
    let mut host = Host::new(|_| {});
    host.publish(b"first of this life");
    let former = Incarnation::random().unwrap();

    let mut subscriber = RemoteSubscriber::resume(&[host.address], former, 4711, PATIENCE).unwrap();

    assert_ne!(subscriber.hello().incarnation, former);
    expect(&mut subscriber, 0, b"first of this life");
}

#[test]
fn another_incarnation_than_the_expected_is_an_error_that_names_both() {
    let host = Host::new(|_| {});
    let wanted = Incarnation::random().unwrap();

    let error = RemoteSubscriber::connect(&[host.address], wanted, Join::New, PATIENCE).unwrap_err();

    let RemoteError::Incarnation { expected, found } = error else {
        panic!("{error:?}")
    };
    assert_eq!((expected, found), (wanted, host.incarnation));
}

#[test]
fn refused_address_is_passed_over_for_one_that_answers() {
    let host = Host::new(|_| {});
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    let alone = RemoteSubscriber::connect(&[unused], Incarnation::NIL, Join::New, PATIENCE).unwrap_err();
    let subscriber = RemoteSubscriber::connect(&[unused, host.address], Incarnation::NIL, Join::New, PATIENCE).unwrap();

    assert!(
        matches!(alone, RemoteError::Refused { address } if address == unused),
        "{alone:?}"
    );
    assert_eq!(subscriber.address(), host.address);
}

#[test]
fn listener_that_never_greets_is_given_up_at_the_deadline() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap();
    let start = Instant::now();

    let error =
        RemoteSubscriber::connect(&[address], Incarnation::NIL, Join::New, Duration::from_millis(80)).unwrap_err();

    assert!(matches!(error, RemoteError::TimedOut { .. }), "{error:?}");
    assert!(start.elapsed() >= Duration::from_millis(80) && start.elapsed() < PATIENCE);
}

#[test]
fn server_that_speaks_something_else_is_told_from_a_lost_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 mail.example.org ESMTP ready\r\n").unwrap();
        stream.read(&mut [0]).unwrap()
    });

    let error = RemoteSubscriber::connect(&[address], Incarnation::NIL, Join::New, PATIENCE).unwrap_err();

    assert!(matches!(error, RemoteError::Frame(_)), "{error:?}");
    other.join().unwrap();
}

#[test]
fn service_listens_on_every_address_it_is_given() {
    let second = TcpListener::bind("[::1]:0")
        .or_else(|_| TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = second.local_addr().unwrap();
    let mut host = Host::new(|options| options.listeners.push(second));
    let mut there = RemoteSubscriber::connect(&[address], Incarnation::NIL, Join::New, PATIENCE).unwrap();
    let mut here = host.join(Join::New);

    host.publish(b"both");

    expect(&mut there, 0, b"both");
    expect(&mut here, 0, b"both");
}
