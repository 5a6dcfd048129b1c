//! A server: a ring in a segment, its publisher, the service thread that carries it over TCP, and the announcement.
//!
//! The announcement comes last, when everything that it names is ready. Dropping a server undoes all of it: subscribers
//! are told the end, the info file is removed, connections close, the segment is freed by the kernel with its last
//! reader.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use crate::bell::{self, Bell};
use crate::control;
use crate::cpus::Cpus;
use crate::discovery::{AnnounceError, Announcement, Info, Presence, ServerName, SharedMemory, Socket};
use crate::gate::{Gate, LosslessOffer, LosslessStatus};
use crate::incarnation::Incarnation;
use crate::layout::{Geometry, GeometryError, Header, LAYOUT_VERSION};
use crate::liveness::HEARTBEAT_INTERVALS;
use crate::publisher::{Publisher, now_ns};
use crate::segment::{Access, CreateError, Owned, Pages, Segment};
use crate::socket::frame::VERSION;
use crate::socket::{Service, ServiceHandle, ServiceOptions, ServiceStats};

/// What a server offers and where.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Its name: that of its info file and the one that subscribers know it by.
    pub name: ServerName,
    /// The directory that it announces itself in; made if it does not exist.
    pub info_dir: PathBuf,
    /// Bytes of the arena, where payloads lie that are too long for a slot; a power of two.
    pub ring_bytes: u64,
    /// How many messages the ring retains at most, a power of two; chosen by the ring's size if `None`.
    pub slots: Option<u64>,
    /// Bytes of a slot, a multiple of 32 from 64. 32 of them are taken; a payload that fits in the rest lies in its slot.
    pub slot_bytes: u64,
    /// Longest payload in bytes: at most the arena's, a quarter of them if `None`; what fits in a slot if that is more.
    pub max_message_bytes: Option<u64>,
    /// Where to listen; port 0 lets the kernel choose. Empty: no socket.
    pub listen: Vec<SocketAddr>,
    /// Addresses to announce instead of those listened on, for servers behind address translation.
    pub advertise: Vec<SocketAddr>,
    /// Whether the ring lies in shared memory. If not, it is reached over the socket alone.
    pub shared_memory: bool,
    /// Who may attach the segment. The info file is readable by everybody, and the socket open to whoever reaches it.
    pub access: Access,
    /// Most connections at a time; more are refused.
    pub max_connections: usize,
    /// What is promised to subscribers that must lose nothing. `None`: nobody can hold up the publisher.
    pub lossless: Option<LosslessOffer>,
    /// How often the heartbeat moves, from 1 ms to 10 s. A server is silent for subscribers after three intervals
    /// without it.
    pub heartbeat_interval: Duration,
    /// Which pages the segment is made of. Not for a ring that lies in private memory.
    pub pages: Pages,
    /// The CPUs that the service thread is kept to; those of the thread that starts the server if `None`.
    pub service_cpus: Option<Cpus>,
    /// Whether the service thread looks at the ring without a pause while a connection waits for a message: the
    /// shortest latency over TCP, and nothing that the publisher does to wake it, for a whole core.
    pub service_spin: bool,
}

/// How many slots there are by default: one for every 16 bytes of arena, within these bounds.
const SLOTS_RANGE: std::ops::RangeInclusive<u64> = 1024..=65_536;
/// More slots than that, up to the same bound, if they take no more bytes than this. A ring that is larger than what a
/// processor core caches for itself carries a stream up to twice as fast: its lines are no longer in the cache of the
/// other side when their turn comes again.
const SLOTS_BYTES: u64 = 2 << 20;
/// Everybody may know that a server is there; who may read its segment is another matter.
const INFO_MODE: u32 = 0o644;
/// How long those who wait for a server to appear are given to come to it.
const WELCOME: Duration = Duration::from_millis(200);
/// Clients that may wait to be accepted; the system cuts it to `net.core.somaxconn`, commonly 4096.
const QUEUE: i32 = 65_535;
/// How long a dropped server lets its connections read the end of the stream.
const FAREWELL: Duration = Duration::from_millis(200);

impl ServerOptions {
    /// The defaults: `./info`, 64 KiB of arena, slots of 128 bytes, a loopback port, shared memory for everybody.
    #[must_use]
    pub fn new(name: ServerName) -> Self {
        Self {
            name,
            info_dir: PathBuf::from("./info"),
            ring_bytes: 64 << 10,
            slots: None,
            slot_bytes: 128,
            max_message_bytes: None,
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            advertise: Vec::new(),
            shared_memory: true,
            access: Access::default(),
            max_connections: 10_000,
            lossless: None,
            heartbeat_interval: Duration::from_millis(100),
            pages: Pages::default(),
            service_cpus: None,
            service_spin: false,
        }
    }

    fn service(&self, listeners: Vec<TcpListener>) -> ServiceOptions {
        let mut service = ServiceOptions::new(listeners);
        service.max_connections = self.max_connections;
        service.cpus = self.service_cpus;
        service.spin = self.service_spin;
        service
    }

    fn geometry(&self) -> Result<Geometry, GeometryError> {
        let slots = self.slots.unwrap_or_else(|| {
            let fitting = (SLOTS_BYTES / self.slot_bytes.max(1)).max(1);
            let wanted = (self.ring_bytes / 16).max(1 << fitting.ilog2());
            wanted.clamp(*SLOTS_RANGE.start(), *SLOTS_RANGE.end())
        });
        Geometry::new(slots, self.slot_bytes, self.ring_bytes, self.max_message_bytes)
    }
}

/// Why a server could not start. Nothing is left behind.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// Neither shared memory nor a socket was asked for.
    NoTransport,
    /// Lossless subscribers ask for it over a socket, and there is none.
    LosslessWithoutSocket,
    /// The kernel lacks membarrier(2), which lossless subscriptions need.
    LosslessWithoutBarrier,
    /// Sizes that no ring can have.
    Geometry(GeometryError),
    /// A heartbeat that subscribers would not wait for, or that cannot be kept.
    HeartbeatInterval(Duration),
    /// An address cannot be listened on.
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What it failed with.
        source: io::Error,
    },
    /// The ring could not be laid.
    Create(CreateError),
    /// The service thread could not start.
    Service(io::Error),
    /// No random bits for an incarnation.
    Random(io::Error),
    /// Nobody could connect: no interface has an address, and there is no shared memory.
    NoAddress,
    /// The info file could not be written, or the name is in use.
    Announce(AnnounceError),
}

/// Makes sure that lossless subscribers can be served.
fn prepare_lossless(options: &ServerOptions) -> Result<(), StartError> {
    if options.listen.is_empty() {
        return Err(StartError::LosslessWithoutSocket);
    }
    if !bell::has_process_barrier() {
        return Err(StartError::LosslessWithoutBarrier);
    }
    Ok(())
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTransport => f.write_str("neither shared memory nor a socket: allow one of them"),
            Self::LosslessWithoutSocket => {
                f.write_str("lossless subscribers ask for their place over a socket: allow one, or offer none of that")
            }
            Self::LosslessWithoutBarrier => f.write_str(
                "lossless subscriptions need the system call membarrier, which this kernel or its seccomp filter refuses",
            ),
            Self::Geometry(error) => error.fmt(f),
            Self::HeartbeatInterval(interval) => write!(
                f,
                "a heartbeat every {interval:?} is not from every {:?} to every {:?}: choose one that subscribers wait for",
                HEARTBEAT_INTERVALS.start(),
                HEARTBEAT_INTERVALS.end()
            ),
            Self::Listen { address, source } if source.raw_os_error() == Some(libc::EMFILE) => {
                write!(f, "cannot listen on {address}")
            }
            Self::Listen { address, .. } => write!(f, "cannot listen on {address}: choose another with --listen"),
            Self::NoAddress => f.write_str(
                "no network interface has an address to announce: give one with --listen or --advertise, or allow shared \
                 memory",
            ),
            Self::Create(error) => error.fmt(f),
            Self::Service(source) if source.raw_os_error() == Some(libc::EAGAIN) => f.write_str(
                "cannot start the service thread: raise the limit of processes (`ulimit -u`) or of address space (`ulimit -v`)",
            ),
            Self::Service(_) => f.write_str("cannot start the service thread"),
            Self::Random(_) => f.write_str("the kernel gives no random bits"),
            Self::Announce(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoTransport
            | Self::LosslessWithoutSocket
            | Self::LosslessWithoutBarrier
            | Self::Geometry(_)
            | Self::HeartbeatInterval(_)
            | Self::NoAddress => None,
            Self::Listen { source, .. } | Self::Service(source) | Self::Random(source) => Some(source),
            Self::Create(error) => error.source(),
            Self::Announce(error) => error.source(),
        }
    }
}

/// The service thread has ended although the server has not: the heartbeat stands still and no connection is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceDied;

impl fmt::Display for ServiceDied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the service thread died; restart the server")
    }
}

impl std::error::Error for ServiceDied {}

/// What a server has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Messages published.
    pub messages: u64,
    /// Payload bytes published.
    pub bytes: u64,
    /// Processes that have the segment attached, this one excepted.
    pub readers: u64,
    /// What went over the socket.
    pub service: ServiceStats,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    presence: Arc<Presence>,
    publisher: Publisher,
    service: ServiceHandle,
    segment: Arc<Segment>,
    info: Info,
    info_path: PathBuf,
    announced_at: Instant,
    huge_page_bytes: Option<u64>,
}

impl Server {
    /// Starts a server and announces it.
    ///
    /// # Errors
    /// What stands in the way, and what to do about it. Nothing is left behind then.
    pub fn start(options: ServerOptions) -> Result<Self, StartError> {
        if options.listen.is_empty() && !options.shared_memory {
            return Err(StartError::NoTransport);
        }
        if options.lossless.is_some() {
            prepare_lossless(&options)?;
        }
        if !HEARTBEAT_INTERVALS.contains(&options.heartbeat_interval) {
            return Err(StartError::HeartbeatInterval(options.heartbeat_interval));
        }
        let geometry = options.geometry().map_err(StartError::Geometry)?;
        control::sweep();
        let incarnation = Incarnation::random().map_err(StartError::Random)?;
        let listeners = options
            .listen
            .iter()
            .map(|&address| listen(address))
            .collect::<Result<Vec<_>, _>>()?;
        let addresses = announced(&options, &listeners)?;

        let interval_ns = u64::try_from(options.heartbeat_interval.as_nanos()).unwrap_or(u64::MAX);
        let header = Header::new(&geometry, incarnation, options.name.as_str(), now_ns(), interval_ns);
        let owned = if options.shared_memory {
            Owned::create(header, geometry, options.access, options.pages)
        } else {
            Owned::private(header, geometry)
        };
        let owned = owned.map_err(StartError::Create)?;
        let segment = owned.share();
        let huge_page_bytes = owned.huge_page_bytes();

        let mut info = Info::of_this_process(options.name.clone(), incarnation);
        info.shared_memory = segment.id().map(|id| SharedMemory {
            id,
            bytes: geometry.segment_bytes() as u64,
            layout: LAYOUT_VERSION,
        });
        info.socket = (!listeners.is_empty()).then_some(Socket {
            protocol: VERSION.into(),
            addresses,
        });

        let bell = Arc::new(Bell::new());
        let gate = Arc::new(Gate::new(&geometry, options.lossless));
        let presence = Arc::new(Presence::default());
        let mut service_options = options.service(listeners);
        service_options.presence = Some(presence.clone());
        let service = Service::spawn(segment.clone(), bell.clone(), gate.clone(), service_options)
            .map_err(StartError::Service)?;
        let publisher = Publisher::new(owned, bell, gate);
        let announcement = Announcement::publish(&options.info_dir, &info, INFO_MODE).map_err(StartError::Announce)?;
        let info_path = announcement.path();
        presence.begin(announcement);
        Ok(Self {
            presence,
            publisher,
            service,
            segment,
            info,
            info_path,
            announced_at: Instant::now(),
            huge_page_bytes,
        })
    }

    /// The one that publishes this server's messages.
    pub const fn publisher(&mut self) -> &mut Publisher {
        &mut self.publisher
    }

    /// What the info file says.
    #[must_use]
    pub const fn info(&self) -> &Info {
        &self.info
    }

    /// The info file.
    #[must_use]
    pub fn info_path(&self) -> &Path {
        &self.info_path
    }

    /// The addresses that are announced; empty without a socket.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.info.socket.as_ref().map_or(&[], |socket| &socket.addresses)
    }

    /// Bytes of the huge pages that the segment is made of, or was asked to be made of with
    /// [`HugePages::Transparent`](crate::HugePages::Transparent); `None` if they are of the usual size.
    #[must_use]
    pub const fn huge_page_bytes(&self) -> Option<u64> {
        self.huge_page_bytes
    }

    /// The publisher, and beside it what can be asked while it is at work.
    pub fn split(&mut self) -> (&mut Publisher, Monitor<'_>) {
        let monitor = Monitor {
            service: &self.service,
            segment: &self.segment,
        };
        (&mut self.publisher, monitor)
    }

    fn monitor(&self) -> Monitor<'_> {
        Monitor {
            service: &self.service,
            segment: &self.segment,
        }
    }

    /// What was done so far. Costs a system call.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.monitor().stats(&self.publisher)
    }

    /// Who the lossless subscribers are, and whether one of them holds up the publisher.
    #[must_use]
    pub fn lossless_status(&self) -> LosslessStatus {
        self.publisher.lossless_status()
    }

    /// Checks that the service thread runs. Costs one load.
    ///
    /// # Errors
    /// If it does not: the server is of no more use.
    pub fn check(&self) -> Result<(), ServiceDied> {
        self.monitor().check()
    }

    /// Ends the stream: subscribers that have read it all are told so, and nothing more can be published.
    /// The server goes on serving what the ring retains.
    pub fn end_stream(&mut self) {
        self.publisher.end();
    }

    /// Whether the stream has ended and nobody reads it any more. Never within 200 ms of the start: followers that
    /// waited for the server need a moment to come to it.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.publisher.has_ended() && self.announced_at.elapsed() >= WELCOME && self.is_alone()
    }

    /// Whether nobody is attached or connected now. Costs a system call.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.monitor().readers() == 0 && self.service.stats().connections == 0
    }

    /// Ends the stream, and stops once all subscribers have read the rest or `patience` is over. Returns whether they
    /// all have. Those on the socket get up to 200 ms more to read the end.
    pub fn finish(mut self, patience: Duration) -> bool {
        self.end_stream();
        let start = Instant::now();
        while !self.is_drained() && start.elapsed() < patience && self.check().is_ok() {
            // Subscribers leave no message when they do: the kernel is asked how many are left.
            std::thread::sleep(Duration::from_millis(2));
        }
        self.is_alone()
    }
}

/// A server without its publisher: what whoever publishes may have to ask in between.
#[derive(Debug, Clone, Copy)]
pub struct Monitor<'a> {
    service: &'a ServiceHandle,
    segment: &'a Segment,
}

impl Monitor<'_> {
    /// As [`Server::stats`]; `publisher` is that of the same server.
    #[must_use]
    pub fn stats(&self, publisher: &Publisher) -> ServerStats {
        ServerStats {
            messages: publisher.next_sequence(),
            bytes: publisher.bytes_published(),
            readers: self.readers(),
            service: self.service.stats(),
        }
    }

    /// As [`Server::check`].
    ///
    /// # Errors
    /// As [`Server::check`].
    pub fn check(&self) -> Result<(), ServiceDied> {
        if self.service.is_running() {
            Ok(())
        } else {
            Err(ServiceDied)
        }
    }

    /// Processes that have the segment attached, this one excepted.
    fn readers(&self) -> u64 {
        let status = self.segment.status().ok().flatten();
        status.map_or(0, |status| status.attached.saturating_sub(1))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end before the lock on the info file: a reader that finds the lock gone takes a silent server for dead.
        self.end_stream();
        self.presence.end();
        if self.service.is_running() {
            // Who has not read the end by then learns it from the closed connection.
            let _ = self.service.finish(FAREWELL);
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        // The standard library lets 128 wait to be accepted; of more at once, the rest would hear nothing for a second.
        rustix::net::listen(&listener, QUEUE)?;
        Ok(listener)
    });
    bound.map_err(|source| StartError::Listen { address, source })
}

/// The addresses to announce. Without any there must be shared memory.
fn announced(options: &ServerOptions, listeners: &[TcpListener]) -> Result<Vec<SocketAddr>, StartError> {
    let addresses = if options.advertise.is_empty() {
        addresses(listeners)
    } else {
        options.advertise.clone()
    };
    if addresses.is_empty() && !options.shared_memory {
        return Err(StartError::NoAddress);
    }
    Ok(addresses)
}

/// The addresses at which the listeners can be reached. One that listens on all addresses of a family is reached at
/// each of them, the loopback address first.
fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for address in listeners.iter().filter_map(|listener| listener.local_addr().ok()) {
        if !address.ip().is_unspecified() {
            all.push(address);
            continue;
        }
        let mut ips: Vec<IpAddr> = if_addrs::get_if_addrs()
            .unwrap_or_default()
            .into_iter()
            .filter(|interface| !interface.is_link_local())
            .map(|interface| interface.ip())
            .filter(|ip| ip.is_ipv4() == address.is_ipv4())
            .collect();
        ips.sort_by_key(|ip| !ip.is_loopback());
        all.extend(ips.into_iter().map(|ip| SocketAddr::new(ip, address.port())));
    }
    all.dedup();
    all.truncate(Info::MAX_ADDRESSES);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeat_that_subscribers_would_not_wait_for_is_refused_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        for interval in [
            Duration::ZERO,
            Duration::from_micros(999),
            Duration::from_millis(10_001),
            Duration::MAX,
        ] {
            let mut options = ServerOptions::new("slow".parse().unwrap());
            options.info_dir = dir.path().to_owned();
            options.heartbeat_interval = interval;

            let error = Server::start(options).unwrap_err();

            assert!(matches!(error, StartError::HeartbeatInterval(told) if told == interval));
            assert!(error.to_string().contains("from every 1ms to every 10s"), "{error}");
        }
    }

    #[test]
    fn patience_without_end_is_as_good_as_any() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = ServerOptions::new("patient".parse().unwrap());
        options.info_dir = dir.path().to_owned();
        options.listen = Vec::new();
        let server = Server::start(options).unwrap();

        assert!(server.finish(Duration::MAX), "nobody reads");
    }

    #[test]
    fn slots_are_as_many_as_the_largest_power_of_two_that_two_mebibytes_hold() {
        let mut options = ServerOptions::new("slots".parse().unwrap());
        for (slot_bytes, slots) in [(64, 32_768), (96, 16_384), (128, 16_384), (160, 8192), (65_536, 4096)] {
            options.slot_bytes = slot_bytes;

            assert_eq!(options.geometry().unwrap().slot_count(), slots, "of {slot_bytes} bytes");
        }
    }

    #[test]
    fn longest_heartbeat_that_is_allowed_is_the_longest_that_a_subscriber_believes() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = ServerOptions::new("slow".parse().unwrap());
        options.info_dir = dir.path().to_owned();
        options.listen = Vec::new();
        options.heartbeat_interval = Duration::from_secs(10);
        let server = Server::start(options).unwrap();

        let subscriber = crate::Subscriber::on(server.segment.clone(), crate::Join::New);

        assert_eq!(subscriber.pulse().patience(), Duration::from_secs(30));
    }
}
