//! The wakes under loom. The ring is no more than its head here, and a wake that is lost is a deadlock, which loom
//! notices.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::*;
use crate::futex_model::Futex;
use crate::sync::{AtomicU64, fence};

/// An eventfd: remembers that it was written to.
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

    fn wait(&self) {
        let mut is_set = self.is_set.lock().unwrap();
        while !*is_set {
            is_set = self.set.wait(is_set).unwrap();
        }
        *is_set = false;
    }
}

#[test]
fn service_thread_never_sleeps_through_a_message() {
    loom::model(|| {
        let shared = Arc::new((Wakes::new(true), AtomicU64::new(0), Event::default()));
        let publisher = thread::spawn({
            let shared = shared.clone();
            move || {
                let (wakes, head, event) = &*shared;
                for next in 1..=2 {
                    head.store(next, Ordering::Release);
                    if wakes.asked() & SERVICE != 0 {
                        wakes.settle(SERVICE);
                        event.set();
                    }
                }
            }
        });

        let (wakes, head, event) = &*shared;
        loop {
            wakes.ask(SERVICE, || fence(Ordering::SeqCst));
            if head.load(Ordering::Relaxed) == 2 {
                break;
            }
            event.wait();
            wakes.settle(SERVICE);
        }
        publisher.join().unwrap();
    });
}

#[test]
fn withheld_wake_is_made_by_the_service_thread() {
    withheld_wake_is_made(true);
}

#[test]
fn withheld_wake_is_made_where_there_is_no_barrier() {
    withheld_wake_is_made(false);
}

fn withheld_wake_is_made(has_barrier: bool) {
    let mut model = loom::model::Builder::new();
    // Three threads: all interleavings with up to three preemptions, which is more than the two that a lost wake takes.
    model.preemption_bound = Some(3);
    model.check(move || {
        let wakes = Wakes::new(has_barrier);
        wakes.ask(READERS, || ());
        let shared = Arc::new((wakes, AtomicU64::new(0), Event::default(), Futex::default()));
        let is_done = Arc::new(AtomicBool::new(false));
        let publisher = thread::spawn({
            let shared = shared.clone();
            move || {
                let (wakes, head, event, _) = &*shared;
                for next in 1..=2 {
                    head.store(next, Ordering::Release);
                    // Where the other half of the barrier is not to be had, this one is worth nothing.
                    let asked = if has_barrier {
                        wakes.asked()
                    } else {
                        wakes.asked.load(Ordering::Relaxed)
                    };
                    if !Wakes::is_left_alone(asked) && wakes.withhold(asked) {
                        event.set();
                    }
                }
            }
        });
        let reader = thread::spawn({
            let (shared, is_done) = (shared.clone(), is_done.clone());
            move || {
                let (_, head, event, futex) = &*shared;
                loop {
                    let seen = head.load(Ordering::Relaxed);
                    if seen == 2 {
                        break;
                    }
                    futex.wait(head, seen);
                }
                is_done.store(true, Ordering::Relaxed);
                event.set();
            }
        });

        let (wakes, head, event, futex) = &*shared;
        let mut trail = Trail::default();
        let barrier = || fence(Ordering::SeqCst);
        while !is_done.load(Ordering::Relaxed) {
            event.wait();
            trail.turn(wakes, barrier, || head.load(Ordering::Relaxed), || futex.wake());
            while trail.is_on() {
                trail.turn(wakes, barrier, || head.load(Ordering::Relaxed), || futex.wake());
            }
        }
        publisher.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn crowd_is_woken_by_the_service_thread() {
    let mut model = loom::model::Builder::new();
    // Three threads, as above.
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Arc::new((Wakes::new(true), AtomicU64::new(0), Event::default(), Futex::default()));
        let is_done = Arc::new(AtomicBool::new(false));
        let publisher = thread::spawn({
            let shared = shared.clone();
            move || {
                let (wakes, head, event, _) = &*shared;
                for next in 1..=2 {
                    head.store(next, Ordering::Release);
                    // The few that it wakes itself are others.
                    if wakes.leave_crowd() {
                        event.set();
                    }
                }
            }
        });
        let reader = thread::spawn({
            let (shared, is_done) = (shared.clone(), is_done.clone());
            move || {
                let (_, head, event, futex) = &*shared;
                loop {
                    let seen = head.load(Ordering::Relaxed);
                    if seen == 2 {
                        break;
                    }
                    futex.wait(head, seen);
                }
                is_done.store(true, Ordering::Relaxed);
                event.set();
            }
        });

        let (wakes, _, event, futex) = &*shared;
        while !is_done.load(Ordering::Relaxed) {
            event.wait();
            if wakes.take_crowd() {
                futex.wake();
            }
        }
        publisher.join().unwrap();
        reader.join().unwrap();
    });
}
