//! Readers against strangers: a segment that somebody scribbles in while it is read, and a server on a socket that says
//! everything that it must not say. No panic, no hang, no more memory than is said; an error that tells what was wrong.
#![expect(
    unsafe_code,
    reason = "a stranger's segment has no safe wrapper, nor has an allocator that is measured"
)]

mod lies;
mod meter;
mod segment;
mod socket;
mod vandal;

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use lapwing::discovery::Info;

/// Everything that this program allocates is measured.
#[global_allocator]
static METER: meter::Meter = meter::Meter::new();

/// Ends the whole run if a test does not end.
struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn start() -> Self {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let (alive, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(300)) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// Writes an info file as a server does, but for its lock.
fn write_info(directory: &tempfile::TempDir, info: &Info) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.path().join(info.name.file_name());
    std::fs::write(&path, info.to_toml()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    path
}
