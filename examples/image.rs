//! cargo run --example image
//!
//! Images of 8 MB, rendered into shared memory and looked at where they lie by two processes. Nothing copies them.

use std::env;
use std::error::Error;
use std::process::Command;
use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use lapwing::discovery::{self, Trust};
use lapwing::{Join, Poll, Publisher, Server, ServerOptions, Subscriber, View};

/// Stands before the pixels, which are four bytes each, row by row.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Header {
    width: u32,
    height: u32,
}

/// Draws an image in the ring itself, two pixels a word: the first `red` rows are red.
fn draw(publisher: &mut Publisher, header: Header, red: u32) -> Result<(), Box<dyn Error>> {
    let pixels = (header.width * header.height) as usize;
    let mut loan = publisher.loan(size_of::<Header>() + pixels * 4)?;
    loan.push_typed(&header)?;
    for row in 0..header.height {
        let pixel: [u8; 4] = if row < red { [255, 0, 0, 255] } else { [1, 2, 3, 255] };
        loan.push_words((0..header.width / 2).map(|_| bytemuck::cast([pixel; 2])))?;
    }
    loan.commit();
    Ok(())
}

/// Looks at every pixel or at one column, in place. How many bytes it looked at, and how many pixels were red.
fn look(view: View<'_>, what: &str) -> (usize, usize) {
    let width = view.read(0).map_or(0, |header: Header| header.width as usize);
    let every = if what == "column" { width } else { 1 };
    let pixels = view.values(size_of::<Header>()).step_by(every.max(1));
    (
        pixels.len() * 4,
        pixels.filter(|pixel: &[u8; 4]| pixel[0] == 255).count(),
    )
}

fn read(info: &str, what: &str) -> Result<(), Box<dyn Error>> {
    let found = discovery::read(info.as_ref(), &Trust::default())?;
    let mut subscriber = Subscriber::open(&found, Join::Oldest)?;
    loop {
        match subscriber.receive(Duration::from_secs(20), |view| look(view, what)) {
            Poll::Message(image) => {
                let (bytes, red) = image.value;
                println!(
                    "{what} {}: {bytes} of {} bytes seen, {red} red",
                    image.sequence, image.len
                );
            }
            Poll::Ended => return Ok(()),
            other => return Err(format!("{other:?}").into()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, info, what] = &env::args().collect::<Vec<_>>()[..] {
        return read(info, what);
    }
    let directory = tempfile::tempdir()?;
    let mut options = ServerOptions::new("camera".parse()?);
    options.info_dir = directory.path().join("info");
    options.ring_bytes = 64 << 20;
    let mut server = Server::start(options)?;
    let reader = |what| {
        Command::new(env::current_exe()?)
            .arg(server.info_path())
            .arg(what)
            .spawn()
    };
    let readers = [reader("all")?, reader("column")?];
    let (width, height) = (1920, 1080);
    (0..3).try_for_each(|red| draw(server.publisher(), Header { width, height }, red))?;
    server.end_stream();
    for mut reader in readers {
        assert!(reader.wait()?.success());
    }
    Ok(())
}
