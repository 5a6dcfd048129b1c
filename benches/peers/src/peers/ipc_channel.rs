//! ipc-channel: channels between processes over Unix sockets, with large messages in shared memory.

use std::fs;

use ::ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};
use anyhow::Result;

use super::boxed;
use crate::message::{Draft, Reading, Seen, look_at_bytes};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender, version_of};
use crate::work::Work;

struct IpcChannel;

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![boxed(IpcChannel)]
}

impl Peer for IpcChannel {
    type Sender = Tx;
    type Receiver = Rx;

    fn about(&self) -> About {
        About {
            name: "ipc-channel".into(),
            version: version_of("ipc-channel"),
            by: By::Kernel,
            is_lossless: true,
            settings: "`bytes_channel`, which has no serialisation. `try_recv`; in streams and asleep `recv`.".into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        work.readers() == 1
    }

    fn sender(&self, link: &Link) -> Result<Tx> {
        let (server, name) = IpcOneShotServer::new()?;
        fs::write(link.path("name"), name)?;
        Ok(Tx {
            server: Some(server),
            sender: None,
            draft: Draft::new(link.work.len()),
        })
    }

    fn receiver(&self, link: &Link) -> Result<Rx> {
        let (sender, receiver) = ipc::bytes_channel()?;
        let hello: IpcSender<IpcBytesSender> = IpcSender::connect(fs::read_to_string(link.path("name"))?)?;
        hello.send(sender)?;
        Ok(Rx {
            receiver,
            may_block: link.work.is_stream() || link.work.is_asleep(),
        })
    }
}

pub struct Tx {
    /// Where the receiver says how it is reached, until it has.
    server: Option<IpcOneShotServer<IpcBytesSender>>,
    sender: Option<IpcBytesSender>,
    draft: Draft,
}

impl Sender for Tx {
    fn start(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            self.sender = Some(server.accept()?.1);
        }
        Ok(())
    }

    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce()) {
        let message = self.draft.make(sequence, len);
        made();
        let sender = self.sender.as_ref().expect("opened before anything is sent");
        sender.send(message).expect("a receiver");
    }
}

pub struct Rx {
    receiver: IpcBytesReceiver,
    may_block: bool,
}

impl Receiver for Rx {
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        let found = if self.may_block {
            Some(self.receiver.recv().expect("a sender"))
        } else {
            self.receiver.try_recv().ok()
        };
        if let Some(message) = found {
            each(look_at_bytes(&message, reading));
        }
    }
}
