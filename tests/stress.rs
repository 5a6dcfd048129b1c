//! Every way to read at once, in one process, while one thread publishes: what the sanitizers look at (`.ci/sanitizers`).

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use lapwing::discovery::{self, Trust};
use lapwing::{
    Event, FollowOptions, Follower, Join, OnLap, Poll, RemoteSubscriber, Server, ServerOptions, Subscriber,
    TransportChoice, WaitStrategy,
};

const MESSAGES: u64 = 20_000;
/// Longer than a slot takes, and than the arena holds a hundred of.
const LONGEST: u64 = 1500;
/// Long enough for anything here, sanitized and on a busy machine; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(300);

/// Ends the whole run if a test does not end.
struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn start() -> Self {
        let (alive, ended) = mpsc::channel();
        thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("a stress test hangs");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// What a reader counts, and looks at.
#[derive(Debug, Default)]
struct Account {
    received: u64,
    missed: u64,
}

/// Whether this can be message `sequence`: all its bytes and its length follow from that.
fn is_message(sequence: u64, payload: &[u8]) -> bool {
    payload.len() as u64 == sequence % LONGEST && payload.iter().all(|&byte| byte == sequence as u8)
}

impl Account {
    /// Takes the next thing that was found. Returns whether there will be more.
    fn take<T>(&mut self, found: Poll<T>, is_whole: impl FnOnce(u64, T) -> bool) -> bool {
        match found {
            Poll::Message(message) => {
                assert_eq!(message.sequence, self.received + self.missed, "out of order");
                assert!(
                    is_whole(message.sequence, message.value),
                    "message {} is torn",
                    message.sequence
                );
                self.received += 1;
            }
            Poll::Lapped { first, missed } => {
                assert_eq!(first, self.received + self.missed, "a gap out of order");
                self.missed += missed;
            }
            Poll::Empty => {}
            Poll::Ended => return false,
            _ => panic!("the server is fine"),
        }
        true
    }
}

/// Reads to the end, through a subscriber that waits in its own way.
fn receive(mut subscriber: Subscriber) -> Account {
    let mut account = Account::default();
    while account.take(
        subscriber.receive(PATIENCE, |view| view.to_vec()),
        |sequence, payload| is_message(sequence, &payload),
    ) {}
    account
}

/// Reads to the end in bursts, in place.
fn drain(mut subscriber: Subscriber) -> Account {
    let mut account = Account::default();
    let mut goes_on = true;
    while goes_on {
        let _ = subscriber.wait(PATIENCE);
        subscriber.drain(
            100,
            |view| is_message(view.sequence(), &view.to_vec()),
            |found| goes_on = account.take(found, |_, is_whole| is_whole),
        );
    }
    account
}

fn receive_over_tcp(mut subscriber: RemoteSubscriber) -> Account {
    let mut account = Account::default();
    while account.take(
        subscriber
            .receive(PATIENCE, <[u8]>::to_vec)
            .expect("the connection holds"),
        |sequence, payload| is_message(sequence, &payload),
    ) {}
    account
}

fn follow(mut follower: Follower) -> Account {
    let mut account = Account::default();
    loop {
        match follower.next(PATIENCE, |payload| payload.to_vec()) {
            Event::Message(message) => {
                account.take(Poll::Message(message), |sequence, payload| {
                    is_message(sequence, &payload)
                });
            }
            Event::Gap { first, missed } => {
                account.take(Poll::<()>::Lapped { first, missed }, |_, ()| false);
            }
            Event::Attached { cursor, .. } => assert_eq!(cursor, account.received + account.missed),
            Event::Ended => return account,
            other => panic!("{other:?}"),
        }
    }
}

/// Publishes in every way there is, with pauses in which everybody falls asleep.
fn publish(server: &mut Server) {
    let mut sequence = 0;
    while sequence < MESSAGES {
        let burst = 1 + sequence % 300;
        let payload = |sequence: u64| vec![sequence as u8; (sequence % LONGEST) as usize];
        let all = sequence..MESSAGES.min(sequence + burst);
        sequence = all.end;
        let publisher = server.publisher();
        match sequence % 3 {
            0 => {
                let mut batch = publisher.batch();
                for sequence in all {
                    batch.push(0, &payload(sequence)).unwrap();
                }
            }
            1 => {
                for sequence in all {
                    publisher.publish(&payload(sequence)).unwrap();
                }
            }
            _ => {
                for sequence in all {
                    let payload = payload(sequence);
                    let mut loan = publisher.loan(payload.len()).unwrap();
                    loan.push(&payload).unwrap();
                    loan.commit();
                }
            }
        }
        thread::sleep(Duration::from_micros(500));
        assert_eq!(server.check(), Ok(()));
    }
}

#[test]
fn every_way_to_read_accounts_for_every_message() {
    let _watchdog = Watchdog::start();
    let directory = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new("stress".parse().unwrap());
    options.info_dir = directory.path().to_owned();
    options.slots = Some(64);
    let mut server = Server::start(options).unwrap();
    let found = || discovery::read(server.info_path(), &Trust::default()).unwrap();
    let open = |strategy| {
        Subscriber::open(&found(), Join::Oldest)
            .unwrap()
            .with_strategy(strategy)
    };
    let shared = open(WaitStrategy::Block);
    let on_the_same = |strategy| Subscriber::on(Arc::clone(shared.segment()), Join::Oldest).with_strategy(strategy);
    let following = |transport| {
        let mut options = FollowOptions::default();
        // It may begin when a part of the stream is gone already, which it is to be told.
        options.from = Join::Sequence(0);
        options.transport = transport;
        Follower::new(server.info_path(), options)
    };

    let mut readers = Vec::new();
    for strategy in [WaitStrategy::Adaptive, WaitStrategy::Block, WaitStrategy::Spin] {
        let subscriber = open(strategy);
        readers.push(thread::spawn(move || receive(subscriber)));
        let subscriber = on_the_same(strategy).with_on_lap(OnLap::Newest);
        readers.push(thread::spawn(move || drain(subscriber)));
    }
    for transport in [TransportChoice::Auto, TransportChoice::Socket] {
        let follower = following(transport);
        readers.push(thread::spawn(move || follow(follower)));
    }
    let incarnation = server.info().incarnation;
    let remote = RemoteSubscriber::connect(server.addresses(), incarnation, Join::Sequence(0), PATIENCE).unwrap();
    readers.push(thread::spawn(move || receive_over_tcp(remote)));
    readers.push(thread::spawn(move || receive(shared)));

    publish(&mut server);
    server.end_stream();

    for reader in readers {
        let account = reader.join().expect("a reader finds nothing wrong");
        assert_eq!(account.received + account.missed, MESSAGES, "{account:?}");
    }
    assert!(server.finish(PATIENCE));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
