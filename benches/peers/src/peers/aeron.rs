//! Aeron IPC: logs of three terms in shared memory, by Aeron's C client and media driver.

use std::env;
use std::ffi::CString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rusteron_client::{
    AERON_IPC_STREAM, Aeron as Client, AeronContext, AeronExclusivePublication, AeronFragmentClosureAssembler,
    AeronHeader, AeronOfferError, AeronSubscription, Handlers,
};
use rusteron_media_driver::bindings::aeron_threading_mode_enum::AERON_THREADING_MODE_SHARED;
use rusteron_media_driver::{AeronDriver, AeronDriverContext};

use super::boxed;
use crate::message::{Draft, Reading, Seen, look_at_bytes};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender, version_of};
use crate::work::Work;

struct Aeron {
    name: &'static str,
    settings: &'static str,
    /// Made where it is read.
    is_claiming: bool,
}

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![
        boxed(Aeron {
            name: "Aeron IPC, offer",
            settings: "Aeron's C client, an exclusive publication, `offer`: waits for room. A media driver of its own process, with one \
                       thread that backs off; terms of 64 MiB whose memory is there from the beginning, an MTU of 65,504 bytes, up to 10 \
                       fragments a poll, larger messages put together again.",
            is_claiming: false,
        }),
        boxed(Aeron {
            name: "Aeron IPC, try_claim",
            settings: "The same, made in place.",
            is_claiming: true,
        }),
    ]
}

const TERM_BYTES: usize = 64 << 20;
/// The most that there can be, and the header of each frame.
const MTU: usize = 65_504;
const HEADER: usize = 32;
const FRAGMENTS: usize = 10;
/// Longer than the media driver takes for anything: it makes the files of a log.
const PATIENCE: Duration = Duration::from_secs(15);
const DIRECTORY: &str = "aeron";

/// Runs a media driver.
pub fn drive(directory: &Path) -> Result<()> {
    let context = AeronDriverContext::new()?;
    context.set_dir(&path(directory)?)?;
    context.set_threading_mode(AERON_THREADING_MODE_SHARED)?;
    context.set_ipc_term_buffer_length(TERM_BYTES)?;
    context.set_term_buffer_sparse_file(false)?;
    context.set_ipc_mtu_length(MTU)?;
    let driver = AeronDriver::new(&context)?;
    driver.start(true)?;
    loop {
        driver.main_idle_strategy(driver.main_do_work()?);
    }
}

fn path(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_encoded_bytes())?)
}

impl Peer for Aeron {
    type Sender = Tx;
    type Receiver = Rx;

    fn about(&self) -> About {
        About {
            name: self.name.into(),
            version: format!("rusteron {}", version_of("rusteron-client")).into(),
            by: By::Memory,
            is_lossless: true,
            settings: self.settings.into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        !work.is_asleep() && (!self.is_claiming || work.len() <= MTU - HEADER)
    }

    fn broker(&self, directory: &Path) -> Option<Command> {
        let mut driver = Command::new(env::current_exe().ok()?);
        driver.arg("aeron-driver").arg(directory.join(DIRECTORY));
        Some(driver)
    }

    fn sender(&self, link: &Link) -> Result<Tx> {
        let client = client(link)?;
        let publication = client
            .async_add_exclusive_publication(AERON_IPC_STREAM, stream(link))?
            .poll_blocking(PATIENCE)?;
        Ok(Tx {
            publication,
            draft: (!self.is_claiming).then(|| Draft::new(link.work.len())),
            _client: client,
        })
    }

    fn receiver(&self, link: &Link) -> Result<Rx> {
        let client = client(link)?;
        let subscription = client
            .async_add_subscription(AERON_IPC_STREAM, stream(link), Handlers::NONE, Handlers::NONE)?
            .poll_blocking(PATIENCE)?;
        wait_until(|| subscription.is_connected())?;
        let is_whole = link.work.len() <= MTU - HEADER;
        Ok(Rx {
            subscription,
            assembler: (!is_whole).then(AeronFragmentClosureAssembler::new).transpose()?,
            _client: client,
        })
    }
}

/// Connects to the media driver of the run, once that is there.
fn client(link: &Link) -> Result<Client> {
    let context = AeronContext::new()?;
    context.set_dir(&path(&link.path_of_broker(DIRECTORY))?)?;
    context.set_pre_touch_mapped_memory(true)?;
    let client = Client::new(&context)?;
    client.start()?;
    Ok(client)
}

/// One for each way.
fn stream(link: &Link) -> i32 {
    if link.directory.ends_with("pong") { 2 } else { 1 }
}

fn wait_until(is_so: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_so() {
        ensure!(start.elapsed() < PATIENCE, "the other side was not connected");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

pub struct Tx {
    publication: AeronExclusivePublication,
    /// What is offered; without it messages are made in place.
    draft: Option<Draft>,
    _client: Client,
}

/// Tries until there is room.
#[inline]
fn insist<T>(mut attempt: impl FnMut() -> Result<T, AeronOfferError>) -> T {
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) if error.is_retryable() => std::hint::spin_loop(),
            Err(error) => panic!("{error}"),
        }
    }
}

impl Sender for Tx {
    fn start(&mut self) -> Result<()> {
        wait_until(|| self.publication.is_connected())
    }

    #[inline]
    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce()) {
        if let Some(draft) = &mut self.draft {
            let message = draft.make(sequence, len);
            made();
            insist(|| self.publication.offer(message));
        } else {
            let mut claim = insist(|| self.publication.try_claim_owned(len));
            bytemuck::cast_slice_mut::<u8, u64>(claim.data()).fill(sequence);
            made();
            claim.commit().expect("a claim that is ours");
        }
    }
}

pub struct Rx {
    subscription: AeronSubscription,
    /// For messages of several fragments.
    assembler: Option<AeronFragmentClosureAssembler>,
    _client: Client,
}

impl Receiver for Rx {
    #[inline]
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        let mut told = |message: &[u8], _: AeronHeader| each(look_at_bytes(message, reading));
        let outcome = match &mut self.assembler {
            None => self.subscription.poll_fn(told, FRAGMENTS),
            Some(assembler) => assembler.poll(
                &self.subscription,
                &mut told,
                |told, message, header| told(message, header),
                FRAGMENTS,
            ),
        };
        outcome.expect("a media driver that goes on");
    }
}
