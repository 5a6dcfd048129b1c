//! What all readers reported, added up and judged.

use std::collections::HashMap;
use std::fmt;

use crate::account::Account;
use crate::class::{CLASSES, Class};

/// The newest account of every process of every life of the server.
#[derive(Debug, Default)]
pub struct Score {
    /// Of the life that is under way, by process.
    open: HashMap<u32, (Class, Account)>,
    /// Of lives that are over, by place in `CLASSES`.
    totals: [Total; CLASSES.len()],
    /// Of all lives that are over.
    published: u64,
    published_bytes: u64,
    lives: u64,
}

/// What the readers of a class came to.
#[derive(Debug, Clone, Copy, Default)]
struct Total {
    accounts: u64,
    received: u64,
    bytes: u64,
    torn: u64,
    missed: u64,
    gaps: u64,
    resumed: u64,
}

impl Score {
    /// Takes note of how far a reader is.
    pub fn note(&mut self, process: u32, class: Class, account: Account) -> Result<(), String> {
        if !account.adds_up() {
            return Err(format!("account: does not add up: {account:?}"));
        }
        self.open.insert(process, (class, account));
        Ok(())
    }

    /// The account of `process` for the life `incarnation`, if there is one.
    pub fn account(&self, process: u32, incarnation: &str) -> Option<&Account> {
        let (_, account) = self.open.get(&process)?;
        (account.incarnation == incarnation).then_some(account)
    }

    /// Closes the books of a life that published so much. Whoever read to its end must have come to the same number.
    pub fn close(&mut self, incarnation: &str, published: u64, bytes: u64) -> Result<(), String> {
        for (_, (class, account)) in self.open.drain() {
            // Who was killed earlier or was not there has nothing to say about this one.
            if account.incarnation != incarnation {
                continue;
            }
            if account.next > published || account.has_ended && account.next != published {
                return Err(format!(
                    "account: of {published} messages that were published: {account:?}"
                ));
            }
            let place = CLASSES
                .iter()
                .position(|&other| other == class)
                .expect("a class of these");
            let total = &mut self.totals[place];
            total.accounts += 1;
            total.received += account.received;
            total.bytes += account.bytes;
            total.torn += account.torn;
            total.missed += account.missed;
            total.gaps += account.gaps;
            total.resumed += account.attached - 1;
        }
        self.published += published;
        self.published_bytes += bytes;
        self.lives += 1;
        Ok(())
    }

    /// Messages that were received and were not what was published.
    pub fn torn(&self) -> u64 {
        self.totals.iter().map(|total| total.torn).sum()
    }

    pub const fn lives(&self) -> u64 {
        self.lives
    }

    /// Messages that were received by anybody.
    pub fn received(&self) -> u64 {
        self.totals.iter().map(|total| total.received).sum()
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<19} {:>8} {:>13} {:>5} {:>16} {:>13} {:>9} {:>7}",
            "class", "accounts", "received", "torn", "bytes", "missed", "gaps", "resumed"
        )?;
        for (class, total) in CLASSES.iter().zip(&self.totals) {
            writeln!(
                f,
                "{:<19} {:>8} {:>13} {:>5} {:>16} {:>13} {:>9} {:>7}",
                format!("{:?} {:?}", class.way, class.habit).to_lowercase(),
                total.accounts,
                total.received,
                total.torn,
                total.bytes,
                total.missed,
                total.gaps,
                total.resumed
            )?;
        }
        write!(
            f,
            "published {} messages, {} bytes, in {} lives of the server; every account adds up",
            self.published, self.published_bytes, self.lives
        )
    }
}
