//! A server on a socket that says everything that it must not say, to each of those who may listen.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lapwing::discovery::{self, Info, Socket, Trust};
use lapwing::probe::{ProbeOptions, probe};
use lapwing::{Event, FollowOptions, Follower, Join, Poll, RemoteError, RemoteSubscriber};

use crate::lies::{self, Lie, MAX_SEQUENCE, ME, Verdict, WANTED};
use crate::{METER, Watchdog, write_info};

/// How long a client waits for what will come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits for what will not.
const SHORT_PATIENCE: Duration = Duration::from_millis(150);
/// Bytes of a client's first frame.
const SUBSCRIBE_BYTES: usize = 44;

impl Verdict {
    /// How long a client waits for the greeting, and for what comes then.
    fn patience(self) -> (Duration, Duration) {
        match self {
            Self::TooLate => (SHORT_PATIENCE, SHORT_PATIENCE),
            Self::Endless => (PATIENCE, SHORT_PATIENCE),
            _ => (PATIENCE, PATIENCE),
        }
    }
}

/// The stranger's end of one lie, for whoever calls.
struct Liar {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Liar {
    fn new(lie: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                // Whoever leaves early is right to do so.
                let _ = tell(&lie, stream.unwrap(), &told);
            }
        });
        Self {
            address,
            is_over,
            thread: Some(thread),
        }
    }

    fn info(&self) -> Info {
        let mut info = Info::of_this_process("liar".parse().unwrap(), ME);
        info.socket = Some(Socket {
            protocol: 1,
            addresses: vec![self.address],
        });
        info
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn tell(lie: &Lie, mut stream: TcpStream, is_over: &AtomicBool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    for byte in &lie.trickle {
        stream.write_all(&[*byte])?;
        // His pace; nobody waits for it.
        std::thread::sleep(Duration::from_millis(2));
    }
    stream.write_all(&lie.greeting)?;
    if !lie.answer.is_empty() {
        // What is not read would make the close a reset, and take what was said with it.
        stream.read_exact(&mut [0; SUBSCRIBE_BYTES])?;
        stream.write_all(&lie.answer)?;
    }
    while !lie.refrain.is_empty() && !is_over.load(Ordering::Relaxed) {
        stream.write_all(&lie.refrain)?;
    }
    if !lie.lingers {
        stream.shutdown(Shutdown::Write)?;
    }
    // Until the other end closes.
    std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
}

/// Listens to a lie to its end, but not for ever.
fn listen(address: SocketAddr, (greeting, stream): (Duration, Duration)) -> Verdict {
    let error = match RemoteSubscriber::connect(&[address], ME, Join::Sequence(WANTED), greeting) {
        Ok(mut subscriber) => loop {
            let cursor = subscriber.cursor();
            match subscriber.receive(stream, <[u8]>::to_vec) {
                Ok(Poll::Message(received)) => assert_eq!((received.sequence, received.len), (cursor, 9)),
                Ok(Poll::Lapped { first, missed }) => assert!(first == cursor && missed > 0),
                Ok(Poll::Ended) => return Verdict::Ended,
                Ok(Poll::Empty) => return Verdict::Endless,
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
            assert!(subscriber.cursor() > cursor && subscriber.cursor() <= MAX_SEQUENCE);
        },
        Err(error) => error,
    };
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\x1b'), "{text:?}");
    match error {
        RemoteError::Frame(_) => Verdict::NoFrame,
        RemoteError::Protocol(_) => Verdict::Protocol,
        RemoteError::Incarnation { .. } => Verdict::Incarnation,
        RemoteError::Rejected { .. } => Verdict::Refused,
        RemoteError::Closed => Verdict::Closed,
        RemoteError::TimedOut { .. } => Verdict::TooLate,
        other => panic!("{other:?}"),
    }
}

/// A follower says why it cannot go on, and does not take a lie for a message.
fn follow(liar: &Liar, verdict: Verdict) {
    let directory = tempfile::tempdir().unwrap();
    let path = write_info(&directory, &liar.info());
    let mut options = FollowOptions::default();
    options.from = Join::Sequence(WANTED);
    options.connect_timeout = verdict.patience().0;
    let mut follower = Follower::new(path, options);
    for _ in 0..20 {
        match follower.next(Duration::from_millis(1), |payload| payload.to_vec()) {
            Event::Detached { reason, died } => {
                assert!(!reason.is_empty() && !reason.contains('\x1b') && !died);
                return;
            }
            Event::Idle if follower.why_searching().is_some() => return,
            Event::Ended => return,
            _ => {}
        }
    }
}

/// A look ends, and says why the socket does not work, or shows no more than was asked for.
fn look(liar: &Liar, verdict: Verdict) {
    let directory = tempfile::tempdir().unwrap();
    let path = write_info(&directory, &liar.info());
    let found = discovery::read(&path, &Trust::default()).unwrap();
    let options = ProbeOptions {
        deadline: Instant::now() + verdict.patience().1,
        last: 3,
    };
    let report = probe(&found, &options);
    assert!(report.messages.len() <= 3 && !report.reason.is_empty() && !report.reason.contains('\x1b'));
}

#[test]
fn every_lie_on_the_socket_is_told_for_what_it_is() {
    let _watchdog = Watchdog::start();
    for (lie, verdict) in lies::all() {
        let what = lie.what.clone();
        let liar = Liar::new(lie);

        assert_eq!(listen(liar.address, verdict.patience()), verdict, "{what}");
        follow(&liar, verdict);
        look(&liar, verdict);
    }
    METER.check();
}

#[test]
fn stream_that_is_cut_off_anywhere_is_not_taken_for_one_that_ended() {
    let _watchdog = Watchdog::start();
    for (lie, verdict) in lies::cuts() {
        let what = lie.what.clone();
        let liar = Liar::new(lie);

        assert_eq!(listen(liar.address, verdict.patience()), verdict, "{what}");
    }
}

#[test]
fn truth_is_believed_when_it_is_told_the_same_way() {
    let _watchdog = Watchdog::start();
    let (truth, verdict) = lies::truth();
    let liar = Liar::new(truth);

    assert_eq!(listen(liar.address, verdict.patience()), verdict);
}
