//! One transport of one server, tried: whether it works, how that was found out, and what would mend it.

use std::time::{Duration, Instant};

use super::ProbeOptions;
use crate::causes::with_causes;
use crate::discovery::{Found, SharedMemory};
use crate::socket::{RemoteError, RemoteSubscriber};
use crate::subscriber::{Join, Subscriber};

/// Something that was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was tried.
    pub what: String,
    /// What it returned.
    pub result: String,
    /// What would mend it, if it failed.
    pub fix: Option<String>,
}

/// One transport, tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Whether it works, or why not.
    pub outcome: Result<(), String>,
    /// How that was found out.
    pub steps: Vec<Step>,
    /// How long it took until it worked or failed.
    pub took: Duration,
}

pub(super) fn try_shared_memory(found: &Found, start: Instant) -> (Option<Subscriber>, Attempt) {
    let info = &found.info;
    let mut steps = Vec::new();
    let outcome = match info.shared_memory {
        None => {
            let fix = "start the server without --no-shm".to_owned();
            steps.push(Step {
                what: "info file".to_owned(),
                result: "names no segment".to_owned(),
                fix: Some(fix),
            });
            Err("the server offers none".to_owned())
        }
        Some(SharedMemory { id, .. }) => {
            steps.push(namespace_step(found));
            let outcome = Subscriber::open(found, Join::Oldest);
            let result = match &outcome {
                Ok(subscriber) => format!(
                    "attached, {} bytes, incarnation {}",
                    subscriber.segment().geometry().segment_bytes(),
                    info.incarnation
                ),
                Err(error) => with_causes(error),
            };
            let fix = outcome.is_err().then(|| segment_fix(found));
            steps.push(Step {
                what: format!("attach segment {id} read-only"),
                result,
                fix,
            });
            outcome.map_err(|error| with_causes(&error))
        }
    };
    conclude(outcome, steps, start)
}

fn namespace_step(found: &Found) -> Step {
    let (result, fix) = match found.info.shares_ipc_namespace() {
        Some(true) => ("the same as here", None),
        Some(false) => (
            "another one: a segment id means nothing here",
            Some("run both in one IPC namespace: `--ipc=host` or `--ipc=container:NAME` for containers".to_owned()),
        ),
        None => ("not known", None),
    };
    Step {
        what: "the server's kernel and IPC namespace".to_owned(),
        result: result.to_owned(),
        fix,
    }
}

fn segment_fix(found: &Found) -> String {
    match (found.info.shares_ipc_namespace(), found.lock.is_held()) {
        (_, Ok(false)) => "start the server again: it is not running".to_owned(),
        (Some(false), _) => "run both in one IPC namespace, or let this client use the socket".to_owned(),
        _ => "see the reason; the socket does not need shared memory".to_owned(),
    }
}

pub(super) fn try_socket(found: &Found, options: &ProbeOptions, start: Instant) -> (Option<RemoteSubscriber>, Attempt) {
    let mut steps = Vec::new();
    let outcome = match &found.info.socket {
        None => {
            let fix = "start the server without --no-socket".to_owned();
            steps.push(Step {
                what: "info file".to_owned(),
                result: "names no address".to_owned(),
                fix: Some(fix),
            });
            Err("the server offers none".to_owned())
        }
        Some(socket) => {
            let timeout = options.deadline.saturating_duration_since(start);
            let join = Join::Latest(options.last);
            let outcome = RemoteSubscriber::connect(&socket.addresses, found.info.incarnation, join, timeout);
            let addresses: Vec<_> = socket.addresses.iter().map(ToString::to_string).collect();
            let result = match &outcome {
                Ok(remote) => format!(
                    "{} answered, incarnation {}",
                    remote.address(),
                    remote.hello().incarnation
                ),
                Err(error) => with_causes(error),
            };
            let fix = outcome.as_ref().err().map(|error| socket_fix(found, error));
            steps.push(Step {
                what: match &addresses[..] {
                    [] => "find an address".to_owned(),
                    addresses => format!("connect to {}", addresses.join(" or ")),
                },
                result,
                fix,
            });
            outcome.map_err(|error| with_causes(&error))
        }
    };
    conclude(outcome, steps, start)
}

fn conclude<T>(outcome: Result<T, String>, steps: Vec<Step>, start: Instant) -> (Option<T>, Attempt) {
    let took = start.elapsed();
    let (works, outcome) = match outcome {
        Ok(works) => (Some(works), Ok(())),
        Err(reason) => (None, Err(reason)),
    };
    (works, Attempt { outcome, steps, took })
}

fn socket_fix(found: &Found, error: &RemoteError) -> String {
    let addresses = found.info.socket.as_ref().map_or(&[][..], |socket| &socket.addresses);
    let only_loopback = !addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback());
    match (error, found.lock.is_held()) {
        (_, Ok(false)) => "start the server again: it is not running".to_owned(),
        (RemoteError::NoAddress, _) => {
            "start the server with --listen and an address of an interface that is up, or with --advertise".to_owned()
        }
        (RemoteError::Refused { .. } | RemoteError::Connect { .. }, _) if only_loopback => {
            "the server listens on loopback only: start it with --listen and an address that this network reaches"
                .to_owned()
        }
        (RemoteError::TimedOut { .. }, _) => {
            let pid = found.info.pid;
            let firewall = if only_loopback { "" } else { "look for a firewall, " };
            format!(
                "{firewall}see whether the server's process {pid} is stopped, debugged or starved of CPU, \
                 or give --timeout more time"
            )
        }
        _ => "see the reason".to_owned(),
    }
}
