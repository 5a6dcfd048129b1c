//! The owner's hold on the service's thread: what it counts, whether it runs, and its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::counters::{Counters, ServiceStats};
use crate::bell::Bell;

/// The owner's end of a running service. Dropping it stops the thread and closes every connection.
#[derive(Debug)]
pub struct ServiceHandle {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    /// Taken by drop alone.
    thread: Option<JoinHandle<()>>,
}

/// What the service's thread and its owner both see.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) counters: Arc<Counters>,
    /// Connections that there are, and whether the thread has ended.
    state: Mutex<State>,
    pub(super) changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) connections: usize,
    pub(super) ended: bool,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServiceHandle {
    pub(super) const fn new(shared: Arc<Shared>, bell: Arc<Bell>, thread: JoinHandle<()>) -> Self {
        Self {
            shared,
            bell,
            thread: Some(thread),
        }
    }

    /// What the service has done so far. Costs a load for each number.
    #[must_use]
    pub fn stats(&self) -> ServiceStats {
        self.shared.counters.snapshot()
    }

    /// Whether the thread is at work. Once it is not, the server has no heartbeat any more and must not go on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits, after the publisher closed the stream, until every connection got all of it and closed. Returns whether
    /// that happened before `timeout` had passed.
    #[must_use]
    pub fn finish(&self, timeout: Duration) -> bool {
        let waiting = |state: &mut State| state.connections > 0 && !state.ended;
        let waited = self
            .shared
            .changed
            .wait_timeout_while(self.shared.state(), timeout, waiting);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.connections == 0 && !state.ended
    }
}

impl Drop for ServiceHandle {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.bell.wake_service();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the service thread panicked");
        }
    }
}
