//! How clients find servers: one small text file per server in a directory that both can see.
//!
//! A server keeps an [`Announcement`] while it runs; a client [`list`]s the directory, or [`read`]s one file, and
//! [`Watch`]es it for changes. `docs/info-file.md` has the format and the rules for programs in other languages.
//!
//! ```
//! use lapwing::Incarnation;
//! use lapwing::discovery::{Announcement, Entry, Info, Trust, list};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temporary = tempfile::tempdir()?;
//! # let directory = temporary.path();
//! let info = Info::of_this_process("prices".parse()?, Incarnation::random()?);
//! let announcement = Announcement::publish(directory, &info, 0o644)?;
//!
//! for entry in list(directory, &Trust::default())? {
//!     match entry {
//!         Entry::Server(found) => println!("{} lives: {}", found.info.name, found.lock.is_held()?),
//!         Entry::Problem { path, reason } => eprintln!("{path:?}: {reason}"),
//!     }
//! }
//! announcement.remove()?;
//! # Ok(())
//! # }
//! ```

mod boot_id;
mod name;

mod info;

mod candidate;
mod trust;
mod users;

mod announce_error;
mod announcement;
mod draft;
mod name_lock;
mod presence;

mod directory;
mod entry;

mod watch;

pub use announce_error::{AnnounceError, Occupant, Step};
pub use announcement::Announcement;
pub use boot_id::{BootId, ParseBootIdError, current_ipc_namespace};
pub use directory::{ListError, MAX_ENTRIES, list};
pub use entry::{Entry, EntryError, Found, LockProbe, read};
pub use info::{Info, InfoError, SharedMemory, Socket};
pub use name::{ParseServerNameError, ServerName};
pub(crate) use presence::{Presence, Watchman};
pub use trust::Trust;
pub use watch::Watch;
