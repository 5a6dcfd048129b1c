//! Waiting for a descriptor instead of spinning, between processes: a message, the end, and the death of the server wake
//! who sleeps, and nothing is left of one that is dropped.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lapwing::discovery::{self, Trust};
use lapwing::{Incarnation, Join, Notified, Poll, RemoteSubscriber, Server, ServerOptions, Subscriber};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const DIRECTORY: &str = "LAPWING_TEST_DIRECTORY";

/// Ends the whole run if a test does not end.
struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn start() -> Self {
        let (alive, ended) = mpsc::channel();
        std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                if ended.recv_timeout(2 * PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    eprintln!("a test of waiting hangs");
                    std::process::abort();
                }
            })
            .unwrap();
        Self { _alive: alive }
    }
}

fn options(directory: &Path) -> ServerOptions {
    let mut options = ServerOptions::new("stream".parse().unwrap());
    options.info_dir = directory.to_owned();
    options.listen = vec!["127.0.0.1:0".parse().unwrap()];
    options.ring_bytes = 32 << 20;
    options
}

/// Not a test of its own: the server of the tests below, which publishes each line of its input and ends with it.
#[test]
fn publishing_process() {
    let Some(directory) = env::var_os(DIRECTORY) else {
        return;
    };
    let mut server = Server::start(options(directory.as_ref())).unwrap();
    println!("announced");
    for line in std::io::stdin().lines() {
        server.publisher().publish(line.unwrap().as_bytes()).unwrap();
    }
    server.end_stream();
}

/// A server in a process of its own; killed when dropped.
struct Publishing(Child);

impl Publishing {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "publishing_process", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        assert!(
            BufReader::new(output)
                .lines()
                .any(|line| line.unwrap().contains("announced"))
        );
        Self(child)
    }

    fn publish(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn end(&mut self) {
        self.0.stdin = None;
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        // Most often it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn notified(directory: &Path, join: Join) -> Notified {
    let found = discovery::read(&directory.join("stream.toml"), &Trust::default()).unwrap();
    Notified::new(Subscriber::open(&found, join).unwrap()).unwrap()
}

fn wait_for(fd: BorrowedFd<'_>) {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(ready, 1, "nobody woke it");
}

/// The next thing to tell. Sleeps on the descriptor alone: who is not woken fails.
fn next(stream: &mut Notified) -> Poll<String> {
    loop {
        match stream.poll(|view| String::from_utf8(view.to_vec()).unwrap()) {
            Poll::Empty => wait_for(stream.as_fd()),
            outcome => return outcome,
        }
    }
}

fn is_message<T: PartialEq<str>>(polled: &Poll<T>, text: &str) -> bool {
    matches!(polled, Poll::Message(message) if message.value == *text)
}

#[test]
fn message_and_end_from_another_process_wake_the_descriptor() {
    let _watchdog = Watchdog::start();
    let directory = tempfile::tempdir().unwrap();
    let mut server = Publishing::start(directory.path());
    let mut stream = notified(directory.path(), Join::New);

    for i in 0..300 {
        assert!(matches!(stream.poll(|_| ()), Poll::Empty));
        let text = i.to_string();
        server.publish(&text);
        assert!(is_message(&next(&mut stream), &text));
    }
    server.end();

    assert_eq!(next(&mut stream), Poll::Ended);
}

#[test]
fn killed_server_wakes_the_descriptor_once_all_was_read() {
    let _watchdog = Watchdog::start();
    let directory = tempfile::tempdir().unwrap();
    let mut server = Publishing::start(directory.path());
    let mut stream = notified(directory.path(), Join::New);
    server.publish("last words");
    assert!(is_message(&next(&mut stream), "last words"));
    assert!(matches!(stream.poll(|_| ()), Poll::Empty));

    server.kill();

    assert_eq!(next(&mut stream), Poll::Dead);
    assert_eq!(next(&mut stream), Poll::Dead, "and again");
}

/// How many threads, eventfds and openings of the info file this process has.
fn possessions() -> [usize; 3] {
    let descriptors: Vec<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            Some(
                fs::read_link(entry.unwrap().path())
                    .ok()?
                    .to_string_lossy()
                    .into_owned(),
            )
        })
        .collect();
    let count = |end: &str| descriptors.iter().filter(|target| target.ends_with(end)).count();
    [
        fs::read_dir("/proc/self/task").unwrap().count(),
        count("[eventfd]"),
        count("stream.toml"),
    ]
}

/// Waits until the process has what it should. The kernel buries a thread a moment after it was joined.
fn come_to(expected: [usize; 3]) {
    let deadline = Instant::now() + PATIENCE;
    while possessions() != expected {
        assert!(Instant::now() < deadline, "{:?} is not {expected:?}", possessions());
        std::thread::yield_now();
    }
}

const ALONE: &str = "LAPWING_TEST_ALONE";

#[test]
fn dropped_subscriber_leaves_no_thread_and_no_descriptor() {
    // Counts what the process has, so it must have it to itself.
    if env::var_os(ALONE).is_none() {
        let name = "dropped_subscriber_leaves_no_thread_and_no_descriptor";
        let status = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1"])
            .env(ALONE, "1")
            .status()
            .unwrap();
        return assert!(status.success());
    }
    let _watchdog = Watchdog::start();
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(options(directory.path())).unwrap();
    let [threads, events, openings] = possessions();

    // Dropped before the first errand, asleep on one, and after one.
    for turn in 0..30 {
        let mut stream = notified(directory.path(), Join::New);
        if turn % 3 > 0 {
            assert!(matches!(stream.poll(|_| ()), Poll::Empty));
        }
        if turn % 3 > 1 {
            server.publisher().publish(b"message").unwrap();
            assert!(is_message(&next(&mut stream), "message"));
        }
        // One opening for each side, to see the server's lock.
        come_to([threads + 1, events + 1, openings + 2]);
        drop(stream);
        come_to([threads, events, openings]);
    }
}

#[test]
fn large_message_over_tcp_is_there_once_the_subscriber_has_drained_its_socket() {
    let _watchdog = Watchdog::start();
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(options(directory.path())).unwrap();
    let mut far = RemoteSubscriber::connect(server.addresses(), Incarnation::NIL, Join::Oldest, PATIENCE).unwrap();
    server.publisher().publish(&vec![7; 8 << 20]).unwrap();

    let mut undrained = 0;
    let len = loop {
        match far.poll(<[u8]>::len).unwrap() {
            Poll::Message(message) => break message.value,
            Poll::Empty if !far.is_drained() => undrained += 1,
            Poll::Empty => wait_for(far.as_fd()),
            other => panic!("{other:?}"),
        }
    };

    assert_eq!(len, 8 << 20);
    assert!(far.as_raw_fd() == far.as_fd().as_raw_fd());
    eprintln!("{undrained} polls left something behind");
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use super::*;
    use lapwing::{AsyncRemoteSubscriber, AsyncSubscriber};

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("nobody woke it") })
    }

    fn text(polled: Poll<Vec<u8>>) -> Poll<String> {
        match polled {
            Poll::Message(message) => Poll::Message(lapwing::Received {
                sequence: message.sequence,
                timestamp_ns: message.timestamp_ns,
                tag: message.tag,
                len: message.len,
                value: String::from_utf8(message.value).unwrap(),
            }),
            Poll::Ended => Poll::Ended,
            Poll::Dead => Poll::Dead,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn message_end_and_death_complete_a_future_over_shared_memory() {
        let _watchdog = Watchdog::start();
        for is_killed in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let mut server = Publishing::start(directory.path());
            block_on(async {
                let mut stream = AsyncSubscriber::new(notified(directory.path(), Join::New).into_inner()).unwrap();
                for i in 0..100 {
                    // Pending first: the task really sleeps.
                    let nothing = tokio::time::timeout(Duration::ZERO, stream.receive(|_| ())).await;
                    assert!(nothing.is_err(), "{nothing:?}");
                    server.publish(&i.to_string());
                    let polled = stream.receive(|view| view.to_vec()).await.unwrap();
                    assert!(is_message(&text(polled), &i.to_string()));
                }
                if is_killed {
                    server.kill();
                } else {
                    server.end();
                }
                let last = text(stream.receive(|view| view.to_vec()).await.unwrap());
                assert_eq!(last, if is_killed { Poll::Dead } else { Poll::Ended });
                assert_eq!(stream.into_inner().cursor(), 100);
            });
        }
    }

    #[test]
    fn messages_of_any_size_and_the_end_complete_a_future_over_tcp() {
        let _watchdog = Watchdog::start();
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::start(options(directory.path())).unwrap();
        let far = RemoteSubscriber::connect(server.addresses(), Incarnation::NIL, Join::Oldest, PATIENCE).unwrap();
        block_on(async {
            let mut stream = AsyncRemoteSubscriber::new(far).unwrap();
            for bytes in [1, 8 << 20, 100, 3 << 20] {
                let nothing = tokio::time::timeout(Duration::ZERO, stream.receive(|_| ())).await;
                assert!(nothing.is_err(), "{nothing:?}");
                server.publisher().publish(&vec![7; bytes]).unwrap();
                let polled = stream
                    .receive(|payload| payload.iter().all(|&byte| byte == 7))
                    .await
                    .unwrap();
                assert!(matches!(polled, Poll::Message(message) if message.value && message.len == bytes));
            }
            server.end_stream();
            assert_eq!(stream.receive(<[u8]>::len).await.unwrap(), Poll::Ended);
        });
    }

    #[test]
    fn task_that_always_has_a_message_lets_others_run() {
        let _watchdog = Watchdog::start();
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::start(options(directory.path())).unwrap();
        let mut stream = notified(directory.path(), Join::New).into_inner();
        for _ in 0..1000 {
            server.publisher().publish(b"message").unwrap();
        }
        block_on(async {
            let (others, count) = (std::rc::Rc::new(std::cell::Cell::new(0)), 1000);
            let tasks = tokio::task::LocalSet::new();
            let seen = others.clone();
            tasks.spawn_local(async move {
                loop {
                    seen.set(seen.get() + 1);
                    tokio::task::yield_now().await;
                }
            });
            tasks
                .run_until(async {
                    stream.rejoin(Join::Latest(count));
                    let mut stream = AsyncSubscriber::new(stream).unwrap();
                    for _ in 0..count {
                        assert!(matches!(stream.receive(|_| ()).await.unwrap(), Poll::Message(_)));
                    }
                })
                .await;
            assert!(others.get() > 1, "{}", others.get());
        });
    }
}
