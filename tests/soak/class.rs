//! The classes of readers: over what they read, and what happens to them.
//!
//! A new way to read is a row of `CLASSES`; whether it may miss messages is asked in `Class::may_miss`.

use lapwing::{Join, TransportChoice, WaitStrategy};

/// Over what a reader reads, and how it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Shared memory, spinning a while before it sleeps.
    Adaptive,
    /// Shared memory, sleeping soon.
    Block,
    /// TCP.
    Socket,
    /// Shared memory, and the server overwrites nothing that was not read; sleeping soon.
    Lossless,
    /// TCP, and the server overwrites nothing that was not acknowledged.
    Acknowledged,
}

/// What a reader does, or what is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Reads as fast as it can.
    Eager,
    /// Pauses so often that it cannot keep up.
    Slow,
    /// Is stopped and continued, again and again.
    Frozen,
    /// Is killed and started anew, again and again.
    Mortal,
}

/// What sort of reader one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    pub way: Way,
    pub habit: Habit,
}

const fn class(way: Way, habit: Habit) -> Class {
    Class { way, habit }
}

/// Readers are of each in turn.
pub const CLASSES: [Class; 14] = [
    class(Way::Adaptive, Habit::Eager),
    class(Way::Lossless, Habit::Eager),
    class(Way::Acknowledged, Habit::Eager),
    class(Way::Socket, Habit::Eager),
    class(Way::Block, Habit::Slow),
    class(Way::Adaptive, Habit::Frozen),
    class(Way::Block, Habit::Mortal),
    class(Way::Socket, Habit::Slow),
    class(Way::Socket, Habit::Frozen),
    class(Way::Socket, Habit::Mortal),
    class(Way::Block, Habit::Eager),
    class(Way::Block, Habit::Frozen),
    class(Way::Lossless, Habit::Mortal),
    class(Way::Acknowledged, Habit::Frozen),
];

impl Class {
    /// The class of reader `index`.
    pub const fn of(index: usize) -> Self {
        CLASSES[index % CLASSES.len()]
    }

    pub const fn transport(self) -> TransportChoice {
        match self.way {
            Way::Adaptive | Way::Block | Way::Lossless => TransportChoice::SharedMemory,
            Way::Socket | Way::Acknowledged => TransportChoice::Socket,
        }
    }

    pub const fn strategy(self) -> WaitStrategy {
        match self.way {
            Way::Adaptive | Way::Socket | Way::Acknowledged => WaitStrategy::Adaptive,
            Way::Block | Way::Lossless => WaitStrategy::Block,
        }
    }

    /// Whether a reader of this class may be overtaken. One that may not has failed when it tells of a gap, unless all of
    /// that was published before it had attached.
    pub const fn may_miss(self) -> bool {
        match self.way {
            Way::Adaptive | Way::Block | Way::Socket => true,
            Way::Lossless | Way::Acknowledged => false,
        }
    }
}

/// Where in the stream reader `index` joins: one after the other in every way there is.
pub const fn join(index: usize) -> Join {
    match index / CLASSES.len() % 4 {
        0 => Join::Oldest,
        1 => Join::New,
        2 => Join::Latest(100),
        _ => Join::Sequence(0),
    }
}
