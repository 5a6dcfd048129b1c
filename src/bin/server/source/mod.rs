//! Where a server's messages come from. Each source publishes what it is given until its input ends or a signal comes.

mod lines;

mod frames;

pub mod pace;

mod input;

mod trouble;

mod succession;

mod follow;

mod repeat;

pub mod generate;

mod path_lock;

pub mod push_listener;

mod push;

use lapwing::cli::Failure;

pub use follow::Follow;
pub use generate::Generate;
pub use input::Input;
pub use push::Push;
pub use repeat::Repeat;

use crate::feed::{Burst, Feed, Interrupt};
use frames::{Frame, FrameSplitter};
use lines::{Line, LineSplitter};

/// A source, its input open.
#[derive(Debug)]
pub enum Source {
    /// The lines of an input.
    Lines(Input),
    /// The frames of an input.
    Frames(Input),
    /// The lines of a file that grows.
    Follow(Follow),
    /// One text, again and again.
    Repeat(Repeat),
    /// Messages that can be checked.
    Generate(Generate),
    /// What other programs push.
    Push(Push),
}

impl Source {
    /// Publishes until the input has ended.
    ///
    /// # Errors
    /// If a signal came first, or the input cannot be read, or the server is of no more use.
    pub fn run(&mut self, feed: &mut Feed) -> Result<(), Interrupt> {
        match self {
            Self::Lines(input) => run_lines(input, feed),
            Self::Frames(input) => run_frames(input, feed),
            Self::Follow(follow) => follow.run(feed),
            Self::Repeat(repeat) => repeat.run(feed),
            Self::Generate(generate) => generate.run(feed),
            Self::Push(push) => push.run(feed),
        }
    }

    /// Closes the input, so that those who write to it are told.
    pub fn close(self) {
        if let Self::Lines(input) | Self::Frames(input) = self {
            input.close();
        }
    }

    /// Where others are to push messages, if that is the source.
    pub fn push_address(&self) -> Option<String> {
        match self {
            Self::Push(push) => Some(push.address()),
            _ => None,
        }
    }
}

fn run_lines(input: &mut Input, feed: &mut Feed) -> Result<(), Interrupt> {
    let mut lines = LineSplitter::new(feed.max_message_bytes());
    while let Some(block) = input.next(feed)? {
        publish_lines(feed, &mut lines, block)?;
    }
    end_lines(feed, &mut lines)
}

fn run_frames(input: &mut Input, feed: &mut Feed) -> Result<(), Interrupt> {
    let mut frames = FrameSplitter::new(feed.max_message_bytes());
    while let Some(block) = input.next(feed)? {
        publish_frames(feed, &mut frames, block)?;
    }
    if let Some(bytes) = frames.missing() {
        feed.blame(Failure::new(format!(
            "the input ended in the middle of a frame, {bytes} bytes or more before its end: it is not published"
        )));
    }
    Ok(())
}

/// Publishes the lines that end in `block`.
fn publish_lines(feed: &mut Feed, lines: &mut LineSplitter, block: &[u8]) -> Result<(), Interrupt> {
    feed.publish(|burst| lines.split(block, |line| publish_line(burst, &line)))
}

/// Publishes the last line, if it had no newline.
fn end_lines(feed: &mut Feed, lines: &mut LineSplitter) -> Result<(), Interrupt> {
    feed.publish(|burst| lines.end(|line| publish_line(burst, &line)))
}

fn publish_line(burst: &mut Burst<'_>, line: &Line<'_>) {
    match *line {
        Line::Whole(line) => burst.push(0, line),
        Line::TooLong(bytes) => burst.refuse(bytes),
    }
}

/// Publishes the frames that end in `block`.
fn publish_frames(feed: &mut Feed, frames: &mut FrameSplitter, block: &[u8]) -> Result<(), Interrupt> {
    feed.publish(|burst| {
        frames.split(block, |frame| match frame {
            Frame::Whole { tag, payload } => burst.push(tag, payload),
            Frame::TooLong(bytes) => burst.refuse(bytes),
        });
    })
}
