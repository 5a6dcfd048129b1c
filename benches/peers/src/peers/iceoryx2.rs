//! iceoryx2: publish and subscribe through shared memory, without a copy.

use std::convert;

use ::iceoryx2::config::Config;
use ::iceoryx2::node::{Node, NodeBuilder};
use ::iceoryx2::port::backpressure_strategy::BackpressureStrategy;
use ::iceoryx2::port::publisher::Publisher;
use ::iceoryx2::port::subscriber::Subscriber;
use ::iceoryx2::port::update_connections::UpdateConnections;
use ::iceoryx2::prelude::{FileName, LogLevel, Path, SemanticString, set_log_level};
use ::iceoryx2::service::ipc::Service;
use ::iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use anyhow::{Result, anyhow};

use super::boxed;
use crate::message::{Reading, Seen, look_in, make_in};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender, version_of};
use crate::work::Work;

struct Iceoryx2 {
    name: &'static str,
    settings: &'static str,
    is_lossless: bool,
}

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![
        boxed(Iceoryx2 {
            name: "iceoryx2",
            settings: "Slices, `loan_slice_uninit`: made and read in place. A buffer of 4,096 messages (64 MiB at most), waits for \
                       room (`RetryUntilDelivered`, no overflow).",
            is_lossless: true,
        }),
        boxed(Iceoryx2 {
            name: "iceoryx2, overflow",
            settings: "The same, but the oldest message makes room for a new one (safe overflow).",
            is_lossless: false,
        }),
    ]
}

type Stream = PortFactory<Service, [u64], ()>;

/// Messages that a subscriber may be behind.
const BUFFER: usize = 4096;
const BUFFER_BYTES: usize = 64 << 20;

impl Peer for Iceoryx2 {
    type Sender = Tx;
    type Receiver = Rx;

    fn about(&self) -> About {
        About {
            name: self.name.into(),
            version: version_of("iceoryx2"),
            by: By::Memory,
            is_lossless: self.is_lossless,
            settings: self.settings.into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        work.is_stream() || (self.is_lossless && !work.is_asleep())
    }

    fn sender(&self, link: &Link) -> Result<Tx> {
        let (node, service) = self.service(link)?;
        let publisher = service
            .publisher_builder()
            .initial_max_slice_len(link.work.len() / size_of::<u64>())
            .max_loaned_samples(1)
            .backpressure_strategy(if self.is_lossless {
                BackpressureStrategy::RetryUntilDelivered
            } else {
                BackpressureStrategy::DiscardData
            })
            .create()?;
        Ok(Tx { publisher, _node: node })
    }

    fn receiver(&self, link: &Link) -> Result<Rx> {
        let (node, service) = self.service(link)?;
        let subscriber = service.subscriber_builder().create()?;
        Ok(Rx {
            subscriber,
            _node: node,
        })
    }
}

impl Iceoryx2 {
    fn service(&self, link: &Link) -> Result<(Node<Service>, Stream)> {
        set_log_level(LogLevel::Error);
        let mut config = Config::default();
        let root = link.path("iceoryx2").display().to_string();
        let failed = |what| move |error| anyhow!("{what}: {error:?}");
        config
            .global
            .set_root_path(&Path::new(root.as_bytes()).map_err(failed("root path"))?);
        config.global.prefix = FileName::new(link.unique().as_bytes()).map_err(failed("prefix"))?;
        let node = NodeBuilder::new().config(&config).create::<Service>()?;
        let service = node
            .service_builder(&"stream".try_into()?)
            .publish_subscribe::<[u64]>()
            .enable_safe_overflow(!self.is_lossless)
            .history_size(0)
            .subscriber_max_buffer_size(BUFFER.min(BUFFER_BYTES / link.work.len()))
            .subscriber_max_borrowed_samples(2)
            .max_publishers(1)
            .max_subscribers(link.work.readers())
            .open_or_create()?;
        Ok((node, service))
    }
}

pub struct Tx {
    publisher: Publisher<Service, [u64], ()>,
    _node: Node<Service>,
}

impl Sender for Tx {
    fn start(&mut self) -> Result<()> {
        Ok(self.publisher.update_connections()?)
    }

    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce()) {
        let loan = self.publisher.loan_slice_uninit(len / size_of::<u64>());
        let mut sample = loan.expect("a chunk that is free");
        make_in(sample.payload_mut(), sequence);
        made();
        // SAFETY: every word was stored just now.
        let sample = unsafe { sample.assume_init() };
        sample.send().expect("subscribers");
    }
}

pub struct Rx {
    subscriber: Subscriber<Service, [u64], ()>,
    _node: Node<Service>,
}

impl Receiver for Rx {
    fn start(&mut self) -> Result<()> {
        Ok(self.subscriber.update_connections()?)
    }

    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        if let Some(sample) = self.subscriber.receive().expect("a publisher") {
            each(look_in(sample.payload(), convert::identity, reading));
        }
    }
}
