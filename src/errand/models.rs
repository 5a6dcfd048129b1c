//! An errand under loom: a publisher, a subscriber that sleeps on its event alone, and the thread that waits on the head
//! in its place. A wake that is lost is a deadlock, which loom notices.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::*;
use crate::futex_model::Futex;

/// An eventfd: remembers that it was written to until that is read.
#[derive(Default)]
struct Event {
    is_set: Mutex<bool>,
    set: Condvar,
}

impl Event {
    fn set(&self) {
        *self.is_set.lock().unwrap() = true;
        self.set.notify_one();
    }

    fn clear(&self) {
        *self.is_set.lock().unwrap() = false;
    }

    /// What poll(2) does: waits, and leaves the event set.
    fn wait(&self) {
        let mut is_set = self.is_set.lock().unwrap();
        while !*is_set {
            is_set = self.set.wait(is_set).unwrap();
        }
    }
}

struct Shared {
    /// The ring is no more than its head here.
    head: AtomicU64,
    futex: Futex,
    errand: Errand,
    event: Event,
    /// Stands for thread::park: the subscriber's wake.
    asked: Event,
}

impl Shared {
    /// Waits in the subscriber's place until it has everything.
    fn serve(&self, messages: u64) {
        loop {
            let Some(cursor) = self.errand.wanted() else {
                self.asked.wait();
                self.asked.clear();
                continue;
            };
            if cursor > messages {
                return;
            }
            loop {
                let seen = self.head.load(Ordering::Relaxed);
                if seen > cursor {
                    break;
                }
                self.futex.wait(&self.head, seen);
            }
            self.errand.finish(Found::Ready, || self.event.set());
        }
    }
}

#[test]
fn subscriber_that_sleeps_on_its_event_gets_every_message() {
    const MESSAGES: u64 = 2;
    let mut model = loom::model::Builder::new();
    // Three threads: all interleavings with up to two preemptions. A lost event takes one.
    model.preemption_bound = Some(2);
    model.check(|| {
        let shared = Arc::new(Shared {
            head: AtomicU64::new(0),
            futex: Futex::default(),
            errand: Errand::new(),
            event: Event::default(),
            asked: Event::default(),
        });
        let publisher = thread::spawn({
            let shared = shared.clone();
            move || {
                for next in 1..=MESSAGES {
                    shared.head.store(next, Ordering::Release);
                    shared.futex.wake();
                }
            }
        });
        let server = thread::spawn({
            let shared = shared.clone();
            move || shared.serve(MESSAGES)
        });

        let mut cursor = 0;
        // Something else wakes the subscriber once, as in any program that waits for more than this.
        let mut is_woken_by_another = true;
        while cursor < MESSAGES {
            if shared.head.load(Ordering::Relaxed) > cursor {
                cursor += 1;
                continue;
            }
            let found = shared
                .errand
                .run(cursor, || shared.event.clear(), || shared.asked.set());
            assert_eq!(found, None);
            if !std::mem::take(&mut is_woken_by_another) {
                shared.event.wait();
            }
        }
        // Sends the thread home, as soon as it takes an errand again.
        while shared.errand.wanted() != Some(MESSAGES + 1) {
            shared.errand.run(MESSAGES + 1, || (), || shared.asked.set());
            thread::yield_now();
        }
        publisher.join().unwrap();
        server.join().unwrap();
    });
}
