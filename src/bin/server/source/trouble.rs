//! Why a path that is followed leads to no file: told once it has lasted, and when it is over.

use std::path::Path;
use std::time::{Duration, Instant};

use log::warn;

/// What is shorter is a rotation.
const LASTING: Duration = Duration::from_secs(1);

/// Tells what is wrong with a path.
#[derive(Debug, Default)]
pub struct Trouble {
    /// What is wrong, and since when.
    lasting: Option<(String, Instant)>,
    /// What was told last, until all is well.
    told: Option<String>,
}

impl Trouble {
    /// Tells what is new: `reason` is what is wrong with `path` now, if anything is.
    pub fn tell(&mut self, path: &Path, reason: Option<String>, now: Instant) {
        let is_over = reason.is_none() && self.told.is_some();
        if let Some(news) = self.news(reason, now) {
            warn!("{news}; until that is mended, only what is still written to the file before is published");
        } else if is_over {
            warn!("{path:?} can be followed again");
        }
    }

    /// A reason that has lasted and was not told yet.
    fn news(&mut self, reason: Option<String>, now: Instant) -> Option<&str> {
        let Some(reason) = reason else {
            *self = Self::default();
            return None;
        };
        let (lasting, since) = self
            .lasting
            .take_if(|(known, _)| *known == reason)
            .unwrap_or((reason, now));
        let is_due = now >= since + LASTING && self.told.as_ref() != Some(&lasting);
        if is_due {
            self.told = Some(lasting.clone());
        }
        self.lasting = Some((lasting, since));
        self.told.as_deref().filter(|_| is_due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_that_lasts_is_told_once() {
        let mut trouble = Trouble::default();
        let start = Instant::now();
        let mut look = |reason: &str, tenths| {
            let reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
            let news = trouble.news(reason, start + tenths * LASTING / 10);
            news.map(str::to_owned)
        };

        assert_eq!(look("gone", 0), None);
        assert_eq!(look("gone", 9), None);
        assert_eq!(look("gone", 10).as_deref(), Some("gone"));
        assert_eq!(look("gone", 99), None);
        assert_eq!(look("locked", 100), None);
        assert_eq!(look("gone", 105), None);
        assert_eq!(look("locked", 110), None);
        assert_eq!(look("locked", 120).as_deref(), Some("locked"));
        assert_eq!(look("", 121), None);
        assert_eq!(look("locked", 130), None);
        assert_eq!(look("", 131), None);
        assert_eq!(look("locked", 141), None);
    }
}
