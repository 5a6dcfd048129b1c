//! Streams as iterators, for who wants each message as a value of its own and waits for nothing else.
//!
//! They copy every payload. What was lost is an item like a message: it cannot be overlooked.

use std::iter;
use std::time::Duration;

use crate::follower::{Event, Follower};
use crate::lossless::LosslessSubscriber;
use crate::ring::Poll;
use crate::subscriber::Subscriber;

impl Subscriber {
    /// The messages as they come, copied, and the laps between them. There is no next one once none came for `timeout`;
    /// asked again, it waits again. After the end of the stream there is none for good, and a server that died or breaks
    /// the protocol is told as the last item. Never yields [`Poll::Empty`] or [`Poll::Ended`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lapwing::{Join, Poll, Server, ServerOptions, Subscriber, discovery};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let mut options = ServerOptions::new("prices".parse()?);
    /// # options.info_dir = directory.path().to_owned();
    /// # let mut server = Server::start(options)?;
    /// # let found = discovery::read(server.info_path(), &Default::default())?;
    /// # server.publisher().publish(b"EURUSD 1.0842")?;
    /// let mut subscriber = Subscriber::open(&found, Join::Oldest)?;
    /// # server.end_stream();
    /// # let mut lines = 0;
    /// for item in subscriber.messages(Duration::from_secs(1)) {
    ///     match item {
    ///         Poll::Message(message) => println!("{}", String::from_utf8_lossy(&message.value)),
    ///         Poll::Lapped { missed, .. } => println!("{missed} messages lost"),
    ///         other => println!("{other:?}"),
    ///     }
    /// #   lines += 1;
    /// }
    /// # assert_eq!(lines, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn messages(&mut self, timeout: Duration) -> impl Iterator<Item = Poll<Vec<u8>>> {
        items(move || self.receive(timeout, |view| view.to_vec()))
    }
}

impl LosslessSubscriber {
    /// As [`Subscriber::messages`]. Each message is given back once it was copied. What is told as lost was gone before this
    /// subscriber came, or behind its eviction.
    pub fn messages(&mut self, timeout: Duration) -> impl Iterator<Item = Poll<Vec<u8>>> {
        items(move || self.receive(timeout, |view| view.to_vec()))
    }
}

/// What `receive` returns, until it finds nothing or the stream is over.
fn items(mut receive: impl FnMut() -> Poll<Vec<u8>>) -> impl Iterator<Item = Poll<Vec<u8>>> {
    let mut is_over = false;
    iter::from_fn(move || {
        if is_over {
            return None;
        }
        let item = receive();
        is_over = matches!(item, Poll::Ended | Poll::Dead | Poll::Corrupt { .. });
        (!matches!(item, Poll::Empty | Poll::Ended)).then_some(item)
    })
}

impl Follower {
    /// What there is to tell as it comes, messages copied. There is no next item once there was none for `timeout`; asked
    /// again, it waits again. The end of a stream is an item: a follower goes on with the next life of its server.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lapwing::{Event, FollowOptions, Follower, Join, Server, ServerOptions};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let mut options = ServerOptions::new("prices".parse()?);
    /// # options.info_dir = directory.path().to_owned();
    /// # let mut server = Server::start(options)?;
    /// # server.publisher().publish(b"EURUSD 1.0842")?;
    /// let mut options = FollowOptions::default();
    /// options.from = Join::Oldest;
    /// let mut follower = Follower::new(server.info_path(), options);
    /// # let mut lines = 0;
    /// for event in follower.events(Duration::from_millis(100)) {
    ///     match event {
    ///         Event::Message(message) => println!("{}", String::from_utf8_lossy(&message.value)),
    ///         other => println!("{other:?}"),
    ///     }
    /// #   lines += 1;
    /// }
    /// # assert_eq!(lines, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&mut self, timeout: Duration) -> impl Iterator<Item = Event<Vec<u8>>> {
        iter::from_fn(move || {
            let event = self.next(timeout, |payload| payload.to_vec());
            (event != Event::Idle).then_some(event)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{self, Trust};
    use crate::follower::FollowOptions;
    use crate::server::{Server, ServerOptions};
    use crate::subscriber::Join;

    /// Longer than anything here takes.
    const WATCHDOG: Duration = Duration::from_secs(30);

    fn server(dir: &tempfile::TempDir) -> Server {
        let mut options = ServerOptions::new("stream".parse().unwrap());
        options.info_dir = dir.path().to_owned();
        options.listen = Vec::new();
        options.slots = Some(16);
        Server::start(options).unwrap()
    }

    fn publish(server: &mut Server, payloads: std::ops::Range<u8>) {
        for payload in payloads {
            server.publisher().publish(&[payload]).unwrap();
        }
    }

    #[test]
    fn iterator_yields_laps_and_messages_and_ends_with_the_stream() {
        let dir = tempfile::tempdir().unwrap();
        let mut server = server(&dir);
        let found = discovery::read(server.info_path(), &Trust::default()).unwrap();
        let mut subscriber = Subscriber::open(&found, Join::New).unwrap();
        publish(&mut server, 0..40);
        server.end_stream();

        let (mut messages, mut missed) = (Vec::new(), 0);
        let mut items = subscriber.messages(WATCHDOG);
        for item in items.by_ref() {
            match item {
                Poll::Message(message) => messages.extend(message.value),
                Poll::Lapped { missed: count, .. } => missed += count as u8,
                other => panic!("{other:?}"),
            }
        }

        assert!(
            missed >= 24 && messages.iter().copied().eq(missed..40),
            "{missed} {messages:?}"
        );
        assert_eq!(items.next(), None, "for good");
    }

    #[test]
    fn iterator_that_ran_out_of_time_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut server = server(&dir);
        let options = FollowOptions {
            from: Join::Oldest,
            ..FollowOptions::default()
        };
        let mut follower = Follower::new(server.info_path(), options);
        let found = discovery::read(server.info_path(), &Trust::default()).unwrap();
        let mut subscriber = Subscriber::open(&found, Join::New).unwrap();
        let mut items = subscriber.messages(Duration::from_millis(1));
        let mut events = follower.events(Duration::from_millis(1));
        while events.next().is_some() {}
        assert_eq!(items.next(), None);

        publish(&mut server, 7..8);

        assert!(matches!(items.next(), Some(Poll::Message(message)) if message.value == [7]));
        assert!(matches!(events.next(), Some(Event::Message(message)) if message.value == [7]));
    }
}
