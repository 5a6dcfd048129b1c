//! Peers of bad faith, and a few that are only many. Each knows what it does, hears what it is told, and leaves when
//! the server closes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lapwing::socket::Decoder;
use lapwing::socket::frame::{ClientFrame, HEADER_BYTES, RejectCode, ServerFrame};
use lapwing::{Incarnation, Join};

/// A sequence that no stream gets to.
const NEVER: Join = Join::Sequence(1 << 60);
/// What a peer writes at once that writes as much as it can.
const TORRENT_BYTES: usize = 64 << 10;

/// What a peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keeps to the protocol, and waits for a message that never comes.
    Idle,
    /// Keeps to the protocol, and takes all that comes.
    Reader,
    /// Says nothing.
    Mute,
    /// Says a SUBSCRIBE, a byte at a time, and never comes to its end.
    SlowLoris,
    /// Subscribes, and is never heard again.
    Silent,
    /// Keeps to the protocol, and never reads.
    Deaf,
    /// Never reads, and after a while breaks the connection in the middle of a frame.
    Vandal,
    /// Closes its sending half behind its SUBSCRIBE.
    HalfClosed,
    /// Breaks the protocol.
    Wrong(Wrong),
    /// Says PROGRESS as fast as the server takes it.
    Chatterer,
    /// Breaks the protocol, does not read, and goes on sending as fast as the server takes it.
    Torrent,
}

/// Ways to break the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Another one altogether.
    Http,
    /// A frame of 4 GiB.
    Oversize,
    /// A frame with a wrong checksum.
    Checksum,
    /// PROGRESS in front of SUBSCRIBE.
    Early,
    /// Two SUBSCRIBEs.
    Twice,
    /// PROGRESS beyond what was sent.
    Ahead,
    /// SUBSCRIBE of another version.
    Version,
}

impl Wrong {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Http,
        Self::Oversize,
        Self::Checksum,
        Self::Early,
        Self::Twice,
        Self::Ahead,
        Self::Version,
    ];

    /// What is said.
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Http => b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec(),
            Self::Oversize => {
                let mut bytes = subscribe(NEVER);
                bytes[4..8].fill(0xff);
                bytes
            }
            Self::Checksum => {
                let mut bytes = subscribe(NEVER);
                bytes[0] ^= 1;
                bytes
            }
            Self::Early => progress(0),
            Self::Twice => [subscribe(NEVER), subscribe(NEVER)].concat(),
            Self::Ahead => [subscribe(Join::Oldest), progress(u64::MAX)].concat(),
            Self::Version => {
                let mut bytes = subscribe(NEVER);
                bytes[HEADER_BYTES] = 9;
                let checksum = crc32c::crc32c(&bytes[4..]);
                bytes[..4].copy_from_slice(&checksum.to_le_bytes());
                bytes
            }
        }
    }
}

impl Kind {
    /// What the server is to say to it at last; `None` if it closes without a word, or lets it be.
    pub const fn answer(self) -> Option<RejectCode> {
        match self {
            Self::Mute | Self::SlowLoris => Some(RejectCode::SubscribeDeadline),
            Self::Silent => Some(RejectCode::Silent),
            Self::Wrong(Wrong::Version) => Some(RejectCode::UnsupportedVersion),
            Self::Wrong(_) => Some(RejectCode::Protocol),
            _ => None,
        }
    }

    /// Whether it leaves when it is told to.
    const fn stays(self) -> bool {
        matches!(self, Self::Idle | Self::Reader | Self::Deaf | Self::Chatterer)
    }

    /// What it says first.
    fn opening(self) -> Vec<u8> {
        match self {
            Self::Mute => Vec::new(),
            Self::Idle | Self::Silent | Self::Chatterer => subscribe(NEVER),
            Self::Reader | Self::HalfClosed | Self::SlowLoris => subscribe(Join::New),
            Self::Deaf | Self::Vandal => subscribe(Join::Oldest),
            Self::Wrong(wrong) => wrong.bytes(),
            Self::Torrent => vec![0xa5; HEADER_BYTES],
        }
    }

    /// Time between two steps.
    const fn pace(self) -> Duration {
        Duration::from_millis(match self {
            Self::SlowLoris => 200,
            Self::Chatterer | Self::Torrent => 1,
            Self::Reader | Self::Wrong(_) | Self::HalfClosed => 20,
            _ => 500,
        })
    }
}

fn bytes_of(frame: &ClientFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.append_to(&mut bytes);
    bytes
}

fn subscribe(join: Join) -> Vec<u8> {
    let incarnation = Incarnation::NIL;
    bytes_of(&ClientFrame::Subscribe { incarnation, join })
}

fn progress(next: u64) -> Vec<u8> {
    bytes_of(&ClientFrame::Progress { next })
}

/// One such peer.
#[derive(Debug)]
struct Peer {
    kind: Kind,
    stream: TcpStream,
    heard: Decoder,
    refusal: Option<RejectCode>,
    due: Instant,
    steps: usize,
    /// Bytes of the last frame that the socket has not taken yet.
    unsaid: Vec<u8>,
}

impl Peer {
    /// Connects, and says what its kind says first.
    fn connect(address: SocketAddr, kind: Kind) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        match (kind, kind.opening()) {
            // The rest is never said.
            (Kind::SlowLoris, _) => {}
            (_, opening) => stream.write_all(&opening)?,
        }
        if kind == Kind::HalfClosed {
            stream.shutdown(Shutdown::Write)?;
        }
        stream.set_nonblocking(true)?;
        Ok(Self {
            kind,
            stream,
            heard: Decoder::of_server(0),
            refusal: None,
            due: Instant::now(),
            steps: 0,
            unsaid: Vec::new(),
        })
    }

    /// Does what is due at `now`. Whether it is still connected.
    fn step(&mut self, now: Instant) -> bool {
        if now < self.due {
            return true;
        }
        self.due = now + self.kind.pace();
        self.steps += 1;
        let spoken = self.speak();
        let listens = !matches!(self.kind, Kind::Deaf | Kind::Vandal | Kind::Torrent);
        // What was said to it before the close is still there to be read.
        let open = if listens { self.hear() } else { spoken.is_ok() };
        open && !(self.kind == Kind::Vandal && self.steps > 4)
    }

    fn speak(&mut self) -> io::Result<()> {
        match self.kind {
            Kind::Idle | Kind::Deaf if self.steps.is_multiple_of(2) => self.say(&progress(0)),
            Kind::Reader if self.steps.is_multiple_of(50) => self.say(&progress(0)),
            Kind::SlowLoris => {
                let opening = self.kind.opening();
                let at = (self.steps - 1).min(opening.len() - 2);
                self.say(&opening[at..=at])
            }
            Kind::Chatterer => self.say(&progress(0).repeat(TORRENT_BYTES / 20)),
            Kind::Torrent => self.say(&[0xa5; TORRENT_BYTES]),
            _ => Ok(()),
        }
    }

    /// Says `bytes` if what was said before has been taken.
    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.unsaid.is_empty() {
            self.unsaid.extend_from_slice(bytes);
        }
        match self.stream.write(&self.unsaid) {
            Ok(count) => drop(self.unsaid.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads what has come. Whether there may be more.
    fn hear(&mut self) -> bool {
        loop {
            match self.stream.read(self.heard.space()) {
                Ok(0) => return false,
                Ok(count) => {
                    self.heard.received(count);
                    self.take_frames();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }

    const fn fate(&self) -> Fate {
        Fate {
            kind: self.kind,
            refusal: self.refusal,
        }
    }

    fn take_frames(&mut self) {
        while let Some(frame) = self.heard.server_frame().expect("the server keeps to the protocol") {
            match frame {
                ServerFrame::Hello(hello) => self.heard.allow_messages(hello.max_message_bytes),
                ServerFrame::Reject { code, .. } => self.refusal = Some(code),
                _ => {}
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.kind == Kind::Vandal {
            break_off(&self.stream);
        }
    }
}

/// Makes the close of `stream` a reset.
fn break_off(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).expect("a socket can linger");
}

/// What became of a peer.
#[derive(Debug, Clone, Copy)]
pub struct Fate {
    pub kind: Kind,
    /// What the server refused it with.
    pub refusal: Option<RejectCode>,
}

/// Peers at work, on a thread of their own.
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Fate>>,
}

impl Crowd {
    /// Connects these many of these kinds to `address`, and lets them begin.
    ///
    /// # Errors
    /// When one cannot connect.
    pub fn gather(address: SocketAddr, kinds: &[(Kind, usize)]) -> io::Result<Self> {
        let kinds = kinds.iter().flat_map(|&(kind, count)| std::iter::repeat_n(kind, count));
        let peers = kinds
            .map(|kind| Peer::connect(address, kind))
            .collect::<Result<Vec<_>, _>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || run(peers, &stopped));
        Ok(Self { stop, thread })
    }

    /// Waits until the server has closed on all whom it does not let be, lets the others leave, and tells what became of
    /// each. Those who are deaf leave, too: the server lets them be for half a minute.
    pub fn disperse(self) -> Vec<Fate> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("peers do not panic")
    }
}

/// Lets `peers` do what they do until none is left.
fn run(mut peers: Vec<Peer>, stop: &AtomicBool) -> Vec<Fate> {
    let mut fates = Vec::with_capacity(peers.len());
    while !peers.is_empty() {
        let now = Instant::now();
        let leave = stop.load(Ordering::Relaxed) && peers.iter().all(|peer| peer.kind.stays());
        let gone = peers.extract_if(.., |peer| leave || !peer.step(now));
        fates.extend(gone.map(|peer| peer.fate()));
        std::thread::sleep(Duration::from_millis(1));
    }
    fates
}

/// Connects so many times, so often in a second, and leaves at once: by a close or a reset, in front of a SUBSCRIBE, in
/// the middle of one or behind it.
#[derive(Debug)]
pub struct Churn(JoinHandle<()>);

impl Churn {
    /// Begins to.
    pub fn start(address: SocketAddr, count: usize, per_second: f64) -> Self {
        Self(std::thread::spawn(move || churn(address, count, per_second)))
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits until it is over, and checks that the server took every connection.
    pub fn finish(self) {
        self.0.join().expect("every connection is taken");
    }
}

fn churn(address: SocketAddr, count: usize, per_second: f64) {
    let start = Instant::now();
    let opening = subscribe(Join::Oldest);
    for turn in 0..count {
        while start.elapsed().as_secs_f64() * per_second < turn as f64 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut stream = TcpStream::connect(address).expect("the server listens");
        let said = [0, opening.len() / 2, opening.len()][turn % 3];
        stream.write_all(&opening[..said]).expect("a new socket has room");
        if turn.is_multiple_of(2) {
            break_off(&stream);
        }
    }
}
