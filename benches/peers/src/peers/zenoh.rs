//! zenoh: two peers without a router, over TCP, with and without its shared memory.

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use ::zenoh::bytes::ZBytes;
use ::zenoh::handlers::{FifoChannel, FifoChannelHandler};
use ::zenoh::pubsub::{Publisher, Subscriber};
use ::zenoh::qos::CongestionControl;
use ::zenoh::sample::Sample;
use ::zenoh::shm::{
    BlockOn, GarbageCollect, PosixShmProviderBackend, ShmProvider, ShmProviderBuilder, cleanup_orphaned_shm_segments,
};
use ::zenoh::{Config, Session, Wait};
use anyhow::{Result, anyhow, ensure};

use super::boxed;
use crate::message::{Draft, Reading, Seen, look_at_bytes};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender, version_of};
use crate::work::Work;

struct Zenoh {
    name: &'static str,
    settings: &'static str,
    is_shared: bool,
}

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![
        boxed(Zenoh {
            name: "zenoh TCP",
            settings: "Two peers on loopback, no scouting, no router, no shared memory, `CongestionControl::Block`; `express` but in \
                       streams, where it makes batches; a FIFO of 65,536 messages (64 MiB at most), blocking `recv`.",
            is_shared: false,
        }),
        boxed(Zenoh {
            name: "zenoh shared memory",
            settings: "The same, but each message is made in 64 MiB of POSIX shared memory, and TCP carries where it is.",
            is_shared: true,
        }),
    ]
}

const KEY: &str = "stream";
const ROOM: usize = 65_536;
const ROOM_BYTES: usize = 64 << 20;
/// How long a `recv` takes at most before the work looks whether it is over.
const WAIT: Duration = Duration::from_millis(10);
/// Longer than it takes to connect.
const PATIENCE: Duration = Duration::from_secs(10);

impl Peer for Zenoh {
    type Sender = Tx;
    type Receiver = Rx;

    fn about(&self) -> About {
        About {
            name: self.name.into(),
            version: version_of("zenoh"),
            by: if self.is_shared { By::Memory } else { By::Network },
            is_lossless: true,
            settings: self.settings.into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        // Only of one reader can a publisher know that it is there.
        match work {
            Work::Stream { readers, .. } => readers == 1,
            Work::RoundTrip { .. } => true,
            Work::Large { .. } => self.is_shared,
        }
    }

    fn clear(&self) {
        // Its segments have names of their own, and outlive who made them.
        if self.is_shared {
            cleanup_orphaned_shm_segments();
        }
    }

    fn sender(&self, link: &Link) -> Result<Tx> {
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let endpoint = format!("tcp/{address}");
        fs::write(link.path("endpoint"), &endpoint)?;
        let session = self.open("listen", &endpoint)?;
        let publisher = session
            .declare_publisher(KEY)
            .congestion_control(CongestionControl::Block)
            .express(!link.work.is_stream())
            .wait();
        let provider = self.is_shared.then(|| {
            let provider = ShmProviderBuilder::default_backend(ROOM_BYTES).wait();
            provider.map_err(|error| anyhow!("no shared memory: {error}"))
        });
        Ok(Tx {
            publisher: publisher.map_err(failed)?,
            provider: provider.transpose()?,
            draft: Draft::new(link.work.len()),
            _session: session,
        })
    }

    fn receiver(&self, link: &Link) -> Result<Rx> {
        let session = self.open("connect", &fs::read_to_string(link.path("endpoint"))?)?;
        let room = ROOM.min(ROOM_BYTES / link.work.len());
        let subscriber = session.declare_subscriber(KEY).with(FifoChannel::new(room)).wait();
        Ok(Rx {
            subscriber: subscriber.map_err(failed)?,
            _session: session,
        })
    }
}

/// Its errors are of a type of its own.
fn failed(error: ::zenoh::Error) -> anyhow::Error {
    anyhow!("{error}")
}

impl Zenoh {
    fn open(&self, way: &str, endpoint: &str) -> Result<Session> {
        let mut config = Config::default();
        let settings = [
            ("mode", "\"peer\"".to_owned()),
            ("listen/endpoints", "[]".to_owned()),
            ("scouting/multicast/enabled", "false".to_owned()),
            ("scouting/gossip/enabled", "false".to_owned()),
            ("transport/shared_memory/enabled", self.is_shared.to_string()),
            (&format!("{way}/endpoints"), format!("[\"{endpoint}\"]")),
        ];
        for (key, value) in settings {
            config.insert_json5(key, &value).map_err(failed)?;
        }
        ::zenoh::open(config).wait().map_err(failed)
    }
}

pub struct Tx {
    publisher: Publisher<'static>,
    provider: Option<ShmProvider<PosixShmProviderBackend>>,
    draft: Draft,
    _session: Session,
}

impl Sender for Tx {
    fn start(&mut self) -> Result<()> {
        let start = Instant::now();
        while !self.publisher.matching_status().wait().map_err(failed)?.matching() {
            ensure!(start.elapsed() < PATIENCE, "the other side was not connected");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce()) {
        let payload = if let Some(provider) = &self.provider {
            let place = provider.alloc(len).with_policy::<BlockOn<GarbageCollect>>().wait();
            let mut place = place.expect("memory that becomes free");
            let (words, _) = place.as_chunks_mut();
            words.fill(sequence.to_ne_bytes());
            made();
            ZBytes::from(place)
        } else {
            let message = self.draft.make(sequence, len);
            made();
            ZBytes::from(message)
        };
        self.publisher.put(payload).wait().expect("a session that is open");
    }
}

pub struct Rx {
    subscriber: Subscriber<FifoChannelHandler<Sample>>,
    _session: Session,
}

impl Receiver for Rx {
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        if let Some(sample) = self.subscriber.recv_timeout(WAIT).expect("a session that is open") {
            each(look_at_bytes(&sample.payload().to_bytes(), reading));
        }
    }
}
