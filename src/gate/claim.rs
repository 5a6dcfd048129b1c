//! What a lossless subscriber claims: the words that it shares with the server, and who it is.

use crate::sync::{AtomicBool, AtomicU64, Ordering, fence, light_barrier};

/// The sequence wanted next. Written by the subscriber.
const CURSOR: usize = 0;
/// Not 0 while the publisher sleeps until the cursor moves. Written by the publisher; two cache lines further on.
const WAITING: usize = if cfg!(loom) { 1 } else { 16 };
/// Words of a claim.
pub(crate) const CLAIM_WORDS: usize = WAITING + 1;

/// The words of a claim, wherever they lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClaimWords<'a>(&'a [AtomicU64]);

impl<'a> ClaimWords<'a> {
    /// # Panics
    /// If there are fewer than [`CLAIM_WORDS`].
    pub(crate) fn new(words: &'a [AtomicU64]) -> Self {
        Self(&words[..CLAIM_WORDS])
    }

    /// Moves the cursor before the claim is used.
    pub(crate) fn begin(self, first: u64) {
        self.0[CURSOR].store(first, Ordering::Relaxed);
    }

    /// The sequence that is claimed to be wanted next.
    #[inline]
    pub(crate) fn cursor(self) -> u64 {
        // C2, pairs with C1: the messages before it were read before this.
        self.0[CURSOR].load(Ordering::Acquire)
    }

    /// Claims nothing before `next` any more. `wake` is called if the publisher sleeps until then. `light` says that the
    /// publisher makes the heavy half of the barrier; else both are made here.
    #[inline]
    pub(crate) fn advance(self, next: u64, light: bool, wake: impl FnOnce()) {
        // C1, pairs with C2: who sees this cursor overwrites only what was read before it.
        self.0[CURSOR].store(next, Ordering::Release);
        // H1, pairs with H2: either the publisher sees this cursor, or the flag is seen here.
        if light {
            light_barrier();
        } else {
            fence(Ordering::SeqCst);
        }
        if self.0[WAITING].load(Ordering::Relaxed) != 0 {
            wake();
        }
    }

    /// Makes every sleep on this cursor end.
    pub(crate) fn release(self, wake: impl FnOnce()) {
        self.0[CURSOR].store(u64::MAX, Ordering::Relaxed);
        wake();
    }

    /// Asks to be woken when the cursor moves. `barrier` is the heavy half (H2). The sleep that follows must look at the
    /// cursor once more, as futex(2) does.
    pub(crate) fn prepare_to_wait(self, barrier: impl FnOnce()) {
        self.0[WAITING].store(1, Ordering::Relaxed);
        barrier();
    }

    /// Takes that back.
    pub(crate) fn waited(self) {
        self.0[WAITING].store(0, Ordering::Relaxed);
    }

    /// The word to sleep on.
    pub(crate) const fn word(self) -> &'a AtomicU64 {
        &self.0[CURSOR]
    }
}

/// Tells whether the message that a lossless subscriber wants next can be overwritten while it looks at it.
///
/// Nothing before `first` is claimed: it can be overwritten at any time. When the claim was made one message could be under
/// way that had passed the gate before: `live`. It may overwrite claimed messages before it, until it is there. Those behind
/// it waited at the gate.
#[derive(Debug)]
pub(crate) struct Settling {
    first: u64,
    live: u64,
    is_over: bool,
}

impl Settling {
    pub(crate) const fn new(first: u64, live: u64) -> Self {
        Self {
            first,
            live,
            is_over: false,
        }
    }

    /// Whether the message at `cursor`, which never goes back, stays as it is until it is given back, provided that a poll
    /// after this finds it. `is_there` tells whether a message is.
    #[inline]
    pub(crate) fn is_safe(&mut self, cursor: u64, is_there: impl FnOnce(u64) -> bool) -> bool {
        self.is_over = self.is_over || cursor >= self.first && (cursor >= self.live || is_there(self.live));
        self.is_over
    }
}

/// One lossless subscriber, as the server sees it.
#[derive(Debug)]
pub(crate) struct Claim {
    home: Home,
    who: String,
    evicted: AtomicBool,
}

/// Where the words of a claim lie.
#[derive(Debug)]
enum Home {
    /// The server keeps them itself, for a subscriber over TCP.
    Private([AtomicU64; CLAIM_WORDS]),
    /// In the control segment that it shares with the subscriber.
    #[cfg(not(loom))]
    Control(crate::control::Control),
}

impl Claim {
    /// A claim that the server keeps itself. `who` is for people.
    pub(crate) fn private(who: String) -> Self {
        Self::of(Home::Private(std::array::from_fn(|_| AtomicU64::new(0))), who)
    }

    /// A claim in a control segment.
    #[cfg(not(loom))]
    pub(crate) fn shared(control: crate::control::Control, who: String) -> Self {
        Self::of(Home::Control(control), who)
    }

    fn of(home: Home, who: String) -> Self {
        Self {
            home,
            who,
            evicted: AtomicBool::new(false),
        }
    }

    pub(crate) fn words(&self) -> ClaimWords<'_> {
        match &self.home {
            Home::Private(words) => ClaimWords::new(words),
            #[cfg(not(loom))]
            Home::Control(control) => control.claim(),
        }
    }

    #[cfg(not(loom))]
    pub(crate) const fn control(&self) -> Option<&crate::control::Control> {
        match &self.home {
            Home::Private(_) => None,
            Home::Control(control) => Some(control),
        }
    }

    pub(crate) fn who(&self) -> &str {
        &self.who
    }

    /// Tells the subscriber that its claim is void. Called before anything of it is overwritten.
    pub(crate) fn evict(&self) {
        self.evicted.store(true, Ordering::Relaxed);
        #[cfg(not(loom))]
        if let Home::Control(control) = &self.home {
            control.evict();
        }
        // E1, pairs with the fence of a reader that was lapped: it sees that it was evicted.
        fence(Ordering::Release);
    }

    /// Whether the subscriber said that it is leaving.
    pub(crate) fn is_leaving(&self) -> bool {
        match &self.home {
            Home::Private(_) => false,
            #[cfg(not(loom))]
            Home::Control(control) => control.is_closing(),
        }
    }

    /// Takes it back, once its connection is over, unless a subscriber that lives goes on without: one that is not leaving,
    /// and has mapped its control segment. Who maps it later finds that it was evicted. Returns whether it is void.
    #[cfg(not(loom))]
    pub(crate) fn take_back(&self) -> bool {
        let is_over = match &self.home {
            Home::Private(_) => true,
            Home::Control(control) => self.is_evicted() || control.is_closing() || control.take_back(),
        };
        if is_over {
            self.evict();
        }
        is_over
    }

    pub(crate) fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Relaxed)
    }
}
