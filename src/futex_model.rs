//! futex(2) as loom can go through it, for the models of everything that sleeps on the head.

use loom::sync::{Condvar, Mutex};

use crate::sync::{AtomicU64, Ordering};

/// What futex(2) does: it looks at the word once more under the lock under which it is woken.
#[derive(Debug, Default)]
pub(crate) struct Futex {
    queue: Mutex<()>,
    woken: Condvar,
}

impl Futex {
    pub(crate) fn wait(&self, word: &AtomicU64, seen: u64) {
        let queue = self.queue.lock().unwrap();
        if word.load(Ordering::Relaxed) == seen {
            drop(self.woken.wait(queue).unwrap());
        }
    }

    pub(crate) fn wake(&self) {
        drop(self.queue.lock().unwrap());
        self.woken.notify_all();
    }
}
