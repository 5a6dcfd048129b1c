//! The negative controls: what a soak that is worth its time must notice.

use clap::ValueEnum;

/// One thing that goes wrong, deliberately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// The publisher flips a bit of one payload in a thousand.
    Corrupt,
    /// The publisher claims one message more than it published.
    Claim,
    /// The publisher does not wait for those who claim what they have not read.
    Evict,
    /// A reader takes one message in a thousand and does not count it.
    Uncounted,
    /// A reader overlooks one message in a thousand.
    Overlook,
    /// A reader ends on its own.
    Quit,
    /// A reader stays behind a stream that has ended.
    Stall,
    /// A reader keeps a segment attached that is no longer needed.
    Segment,
    /// A reader opens a descriptor with every server, and does not close it.
    Descriptor,
    /// A reader keeps a little more memory with every server.
    Memory,
}

impl Sabotage {
    /// The name that the argument has.
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no variant is hidden");
        value.get_name().to_owned()
    }
}
