//! What a reader has seen of a stream. Every message is accounted for, or the bench fails.

use std::fmt;

use lapwing::Poll;

/// What one reader has seen, or several together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub received: u64,
    pub missed: u64,
    pub wrong: u64,
}

impl Account {
    /// Notes what a poll found, of messages that say which one they are. Returns whether the stream goes on.
    pub fn note(&mut self, outcome: &Poll<Option<u64>>) -> bool {
        match outcome {
            Poll::Message(message) => {
                self.received += 1;
                self.wrong += u64::from(message.value != Some(message.sequence));
            }
            Poll::Lapped { missed, .. } => self.missed += missed,
            Poll::Empty => {}
            Poll::Ended => return false,
            other => panic!("{other:?}"),
        }
        true
    }

    /// Understands what a reader said of itself. It is to account for `published` messages, and have none wrong.
    pub fn check(line: &str, published: u64) -> Self {
        let numbers: Vec<u64> = line
            .split(' ')
            .map(|number| number.parse().expect("a number"))
            .collect();
        let &[received, missed, wrong] = &*numbers else {
            panic!("no account: {line}")
        };
        assert_eq!(
            (received + missed, wrong),
            (published, 0),
            "not all accounted for, or wrong"
        );
        Self {
            received,
            missed,
            wrong,
        }
    }
}

impl fmt::Display for Account {
    /// Says it in a line that can be checked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.received, self.missed, self.wrong)
    }
}
