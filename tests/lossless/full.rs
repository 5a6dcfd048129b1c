//! What becomes of a server's input while a lossless subscriber is behind.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lapwing::{Join, LosslessSubscriber, Poll};
use rustix::process::Signal;

use crate::stage::{PATIENCE, Server, directory};

/// Messages of one feeding.
const COUNT: u64 = 5000;
/// Time between two lines of statistics.
const BETWEEN_COUNTS: Duration = Duration::from_millis(100);
/// One slot of 64 is kept for the end of the stream.
const ROOM: u64 = 63;

/// Where messages come from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    Lines,
    Frames,
    File,
    Push,
    Repeat,
    Generate,
}

/// Those that publish what they are given, and no more.
const FED: [Source; 4] = [Source::Lines, Source::Frames, Source::File, Source::Push];
const ALL: [Source; 6] = [
    Source::Lines,
    Source::Frames,
    Source::File,
    Source::Push,
    Source::Repeat,
    Source::Generate,
];

struct Stage {
    source: Source,
    server: Server,
    pusher: Option<UnixStream>,
    /// No wait lasts longer.
    until: Instant,
    /// What was counted last, and by how many lines of statistics.
    counted: ((u64, u64), u32),
}

impl Stage {
    fn new(source: Source, on_full: &str) -> Self {
        let directory = directory();
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(path("file"), "").unwrap();
        let options = match source {
            Source::Lines => String::new(),
            Source::Frames => "--framed".to_owned(),
            Source::File => format!("--file {} --follow-file", path("file")),
            Source::Push => format!("--publish-listen unix:{}", path("push")),
            Source::Repeat => "--message m --interval 0s".to_owned(),
            Source::Generate => "--generate --size 16 --rate max".to_owned(),
        };
        let options = format!(
            "{options} --slots 64 --lossless block --on-full {on_full} --stats {}ms",
            BETWEEN_COUNTS.as_millis()
        );
        let mut server = Server::start_in(&[], &directory, &options);
        let pusher = (source == Source::Push).then(|| {
            server.process.hear(&["push messages to"]);
            UnixStream::connect(path("push")).unwrap()
        });
        Self {
            source,
            server,
            pusher,
            until: Instant::now() + PATIENCE,
            counted: ((0, 0), 0),
        }
    }

    /// Gives the server `COUNT` messages as fast as it takes them, if it takes any.
    fn feed(&mut self) -> JoinHandle<()> {
        let lines = "m\n".repeat(COUNT as usize).into_bytes();
        let frame = [&1_u32.to_le_bytes()[..], &[0; 8], b"m"].concat();
        let frames = frame.repeat(COUNT as usize);
        let file: PathBuf = self.server.directory().join("file");
        let (mut sink, bytes): (Box<dyn Write + Send>, _) = match self.source {
            Source::Lines => (Box::new(self.input()), lines),
            Source::Frames => (Box::new(self.input()), frames),
            Source::File => (Box::new(OpenOptions::new().append(true).open(file).unwrap()), lines),
            Source::Push => (Box::new(self.pusher.as_ref().unwrap().try_clone().unwrap()), frames),
            Source::Repeat | Source::Generate => (Box::new(std::io::sink()), Vec::new()),
        };
        // A server that is told to stop takes no more.
        std::thread::spawn(move || drop(sink.write_all(&bytes)))
    }

    /// Its standard input, which stays open.
    fn input(&self) -> std::fs::File {
        let input = std::os::fd::AsFd::as_fd(self.server.input.as_ref().unwrap());
        input.try_clone_to_owned().unwrap().into()
    }

    /// Two numbers of the next line of statistics: published, and not published for want of room. The thread that tells
    /// them takes the input as well, so that what has not changed for so many lines does not change any more.
    fn counts(&mut self) -> (u64, u64) {
        const MOST_ALIKE: u32 = 100;
        self.server.process.catch_up();
        let line = self.server.process.hear(&["server: stats: "]);
        assert!(Instant::now() < self.until, "still {line}");
        let number = |key: &str| {
            let value = line.split(' ').find_map(|pair| pair.strip_prefix(key));
            value.unwrap_or_else(|| panic!("no {key} in {line}")).parse().unwrap()
        };
        let counts = (number("messages="), number("unpublished="));
        let (last, alike) = self.counted;
        self.counted = (counts, if counts == last { alike + 1 } else { 0 });
        assert!(alike < MOST_ALIKE, "{alike} times {line}");
        counts
    }

    /// Reads `count` messages, none of which may be missing.
    fn read(&mut self, subscriber: &mut LosslessSubscriber, count: u64) {
        let end = subscriber.subscriber().cursor() + count;
        while subscriber.subscriber().cursor() < end {
            let expected = subscriber.subscriber().cursor();
            match subscriber.receive(BETWEEN_COUNTS, |view| view.to_vec()) {
                Poll::Message(received) => {
                    assert_eq!(received.sequence, expected);
                    // Made by --generate: what is left out has no number.
                    if received.len == 16 {
                        assert_eq!(received.value[..8], expected.to_le_bytes());
                    }
                }
                Poll::Empty => _ = self.counts(),
                other => panic!("{other:?} at {expected}"),
            }
        }
    }
}

#[test]
fn waiting_server_takes_no_more_input_and_loses_none_of_it() {
    for source in ALL {
        let mut stage = Stage::new(source, "wait");
        let mut subscriber = stage.server.lossless(Join::New);
        let start = subscriber.subscriber().cursor();
        let feeding = stage.feed();

        let head = stage.server.wait_until_held_by(&std::process::id().to_string());

        assert_eq!(head, start + ROOM, "{source:?}");
        stage.read(&mut subscriber, COUNT);
        feeding.join().unwrap();
        if FED.contains(&source) {
            while stage.counts() != (COUNT, 0) {}
            assert!(matches!(subscriber.poll(|_| ()), Poll::Empty));
        }
        drop(subscriber);
        assert!(stage.server.process.end_by(Signal::TERM).success());
    }
}

#[test]
fn dropping_server_counts_every_message_that_it_leaves_out() {
    for source in FED {
        let mut stage = Stage::new(source, "drop");
        let mut subscriber = stage.server.lossless(Join::New);

        stage.feed().join().unwrap();
        let left_out = COUNT - ROOM;
        while stage.counts() != (ROOM, left_out) {}
        stage
            .server
            .process
            .said
            .iter()
            .find(|line| line.contains("a message is not published: process "))
            .expect("the first are told one by one");

        // From here on some go and some do not.
        stage.read(&mut subscriber, ROOM);
        let feeding = stage.feed();
        let (mut published, mut refused) = (ROOM, left_out);
        let mut taken = ROOM;
        while published + refused < 2 * COUNT || taken < published {
            stage.read(&mut subscriber, published - taken);
            taken = published;
            (published, refused) = stage.counts();
        }
        feeding.join().unwrap();
        assert_eq!(published + refused, 2 * COUNT, "{source:?}");
        assert!(matches!(subscriber.poll(|_| ()), Poll::Empty));
        drop(subscriber);
        assert!(stage.server.process.end_by(Signal::TERM).success());
    }
}

#[test]
fn generated_messages_are_numbered_without_those_that_are_left_out() {
    let mut stage = Stage::new(Source::Generate, "drop");
    let mut subscriber = stage.server.lossless(Join::New);
    while stage.counts().1 == 0 {}

    stage.read(&mut subscriber, COUNT);

    assert!(stage.server.process.end_by(Signal::TERM).success());
}

#[test]
fn server_that_is_held_up_tells_its_statistics_and_obeys_at_once() {
    for source in ALL {
        let mut stage = Stage::new(source, "wait");
        let subscriber = stage.server.lossless(Join::New);
        let feeding = stage.feed();
        stage.server.wait_until_held_by(&std::process::id().to_string());
        let info_file = stage.server.found().path;

        for _ in 0..3 {
            stage.server.process.hear(&["server: stats: ", " held_by=\"process "]);
        }
        let status = stage.server.process.end_by(Signal::INT);

        assert!(status.success(), "{source:?}");
        assert!(!info_file.exists());
        feeding.join().unwrap();
        drop(subscriber);
    }
}
