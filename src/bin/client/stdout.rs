//! Standard output, written as a whole also where whoever shares it has made it non-blocking.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How often somebody who waits can do something else.
pub(crate) const MEANWHILE: Duration = Duration::from_secs(1);
/// What can be written to a pipe that has room, without waiting: PIPE_BUF.
const PART_BYTES: usize = 4096;

/// Standard output. Not `io::stdout`, which would look for line ends in what is written.
///
/// # Errors
/// If it is closed, or no descriptor is left.
pub(crate) fn open() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Writes all of `bytes`, however long that takes. `meanwhile`, if there is one, is called every second that it has to
/// wait.
///
/// # Errors
/// Those of writing. Some of the bytes may have been written.
pub(crate) fn write(output: &File, mut bytes: &[u8], meanwhile: &mut Option<&mut dyn FnMut()>) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut part = bytes;
        if let Some(meanwhile) = meanwhile {
            wait_for_room(output, meanwhile)?;
            part = &bytes[..bytes.len().min(PART_BYTES)];
        }
        let mut output = output;
        match output.write(part) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(&output, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until a part can be written without waiting.
fn wait_for_room(output: &File, meanwhile: &mut dyn FnMut()) -> io::Result<()> {
    let limit = Timespec::try_from(MEANWHILE).ok();
    loop {
        match poll(&mut [PollFd::new(output, PollFlags::OUT)], limit.as_ref()) {
            Ok(0) => meanwhile(),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
