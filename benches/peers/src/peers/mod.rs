//! The peers, one file each.

use crate::peer::Entry;

#[cfg(feature = "aeron")]
pub mod aeron;
mod bare;
mod byte_stream;
mod crossbeam;
mod disruptor;
#[cfg(feature = "iceoryx2")]
mod iceoryx2;
#[cfg(feature = "ipc-channel")]
mod ipc_channel;
mod lapwing;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "nng")]
mod nng;
mod one_stamp;
#[cfg(feature = "redis")]
mod redis;
mod rtrb;
#[cfg(any(feature = "nats", feature = "redis"))]
mod spoken;
#[cfg(feature = "zenoh")]
mod zenoh;
#[cfg(feature = "zeromq")]
mod zeromq;

/// All that were built in, in the order in which they take turns.
pub fn all() -> Vec<Box<dyn Entry>> {
    let mut all = Vec::new();
    all.extend(bare::peers());
    all.extend(lapwing::peers());
    all.extend(one_stamp::peers());
    #[cfg(feature = "iceoryx2")]
    all.extend(iceoryx2::peers());
    #[cfg(feature = "aeron")]
    all.extend(aeron::peers());
    all.extend(byte_stream::peers());
    #[cfg(feature = "ipc-channel")]
    all.extend(ipc_channel::peers());
    #[cfg(feature = "zeromq")]
    all.extend(zeromq::peers());
    #[cfg(feature = "nng")]
    all.extend(nng::peers());
    #[cfg(feature = "zenoh")]
    all.extend(zenoh::peers());
    all.extend(crossbeam::peers());
    all.extend(disruptor::peers());
    all.extend(rtrb::peers());
    #[cfg(feature = "nats")]
    all.extend(nats::peers());
    #[cfg(feature = "redis")]
    all.extend(redis::peers());
    all
}

/// As a list of any entries.
fn boxed(peer: impl Entry + 'static) -> Box<dyn Entry> {
    Box::new(peer)
}
