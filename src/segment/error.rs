//! Why a segment could not be created or attached, with the limit or the permission that stood in the way.

use std::{fmt, io};

use super::Access;
use super::pages::binary_size;
use crate::layout::HeaderError;
use crate::limits::LimitError;

/// Why a server could not lay its ring in memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum CreateError {
    /// A limit of the system is lower than what the ring needs. Nothing was created.
    Limit(LimitError),
    /// shmget(2) refused.
    Get {
        /// Bytes that were asked for.
        bytes: usize,
        /// Which limit, as far as the error tells, and what to do.
        hint: &'static str,
        /// What it failed with.
        source: io::Error,
    },
    /// The huge pages that were required are not to be had.
    HugePages {
        /// Bytes of one.
        page_bytes: u64,
        /// How many the ring needs; 0 if the kernel makes none of this size.
        pages: u64,
        /// What stands in the way, and what to do.
        hint: String,
        /// What the kernel failed with, if it was asked.
        source: Option<io::Error>,
    },
    /// The segment cannot be kept in memory.
    Lock {
        /// Bytes that it has.
        bytes: usize,
        /// What it failed with.
        source: io::Error,
    },
    /// shmat(2) refused.
    Attach {
        /// Bytes that were asked for.
        bytes: usize,
        /// What it failed with.
        source: io::Error,
    },
    /// There is no room for a ring of this process alone.
    Allocate {
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// The segment could not be marked for removal: it stays when the process ends, until somebody removes it.
    Remove {
        /// Its id.
        id: i32,
        /// What it failed with.
        source: io::Error,
    },
    /// The segment could not be opened to its readers.
    Access {
        /// Whom it should have been opened to.
        access: Access,
        /// What it failed with.
        source: io::Error,
    },
}

impl CreateError {
    pub(super) fn of_shmget(bytes: usize, source: io::Error) -> Self {
        let hint = match source.raw_os_error() {
            Some(libc::ENOSPC) => {
                "all segment ids or pages are in use: raise kernel.shmmni or kernel.shmall, or look with `ipcs -m` for what to remove"
            }
            Some(libc::EINVAL) => "larger than kernel.shmmax allows: raise it with sysctl or ask for a smaller ring",
            Some(libc::ENOMEM) => {
                "the kernel will not promise that much memory: ask for a smaller ring or look at vm.overcommit_memory"
            }
            Some(libc::EACCES | libc::EPERM) => "this user may not create shared memory here",
            _ => "shared memory is not available here",
        };
        Self::Get { bytes, hint, source }
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(error) => error.fmt(f),
            Self::Get { bytes, hint, .. } => write!(f, "cannot create a segment of {bytes} bytes: {hint}"),
            // Of a size that nobody has, none can be counted.
            Self::HugePages { pages: 0, hint, .. } => write!(f, "cannot have huge pages: {hint}"),
            Self::HugePages {
                page_bytes,
                pages,
                hint,
                ..
            } => write!(
                f,
                "cannot have {pages} huge {} of {}: {hint}",
                if *pages == 1 { "page" } else { "pages" },
                binary_size(*page_bytes)
            ),
            Self::Lock { bytes, .. } => write!(
                f,
                "cannot keep a segment of {bytes} bytes in memory: raise the limit of locked memory (`ulimit -l`, \
                 LimitMEMLOCK= of a unit), give the process CAP_IPC_LOCK, or do without locking"
            ),
            Self::Attach { bytes, .. } => write!(
                f,
                "cannot attach a new segment of {bytes} bytes: ask for a smaller ring or raise the address-space limit (`ulimit -v`)"
            ),
            Self::Allocate { bytes } => write!(
                f,
                "cannot allocate a ring of {bytes} bytes: ask for a smaller ring or raise the address-space limit (`ulimit -v`)"
            ),
            Self::Remove { id, .. } => write!(
                f,
                "cannot mark the new segment {id} for removal; remove it with `ipcrm -m {id}`"
            ),
            Self::Access { access, .. } => match access.group {
                Some(group) => write!(f, "cannot give the segment mode {:o} and group {group}", access.mode),
                None => write!(f, "cannot give the segment mode {:o}", access.mode),
            },
        }
    }
}

impl std::error::Error for CreateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Limit(error) => std::error::Error::source(error),
            Self::HugePages { source, .. } => source.as_ref().map(|source| source as _),
            Self::Allocate { .. } => None,
            Self::Get { source, .. }
            | Self::Lock { source, .. }
            | Self::Attach { source, .. }
            | Self::Remove { source, .. }
            | Self::Access { source, .. } => Some(source),
        }
    }
}

/// Why a reader could not attach a segment, or did not believe it.
#[derive(Debug)]
#[non_exhaustive]
pub enum AttachError {
    /// The server shares no memory.
    NotOffered,
    /// There is no such segment in this IPC namespace.
    Missing {
        /// The id that was tried.
        id: i32,
    },
    /// The segment's mode does not let this user read it.
    Denied {
        /// The id that was tried.
        id: i32,
    },
    /// The kernel refused for another reason.
    Os {
        /// The id that was tried.
        id: i32,
        /// What it failed with.
        source: io::Error,
    },
    /// The segment is shorter than its header says.
    Truncated {
        /// Bytes that it should have.
        needed: u64,
        /// Bytes that it has.
        mapped: u64,
    },
    /// It has pages that there is no memory for.
    Unbacked {
        /// The id that was tried.
        id: i32,
        /// What it failed with.
        source: io::Error,
    },
    /// The ring, or its segment, is larger than this reader takes.
    TooLarge {
        /// Bytes that it has.
        bytes: u64,
        /// Bytes that it may have.
        limit: u64,
    },
    /// What is there is not a segment that this program can read.
    Header(HeaderError),
    /// A segment with this id is there, and it is another server's.
    Foreign {
        /// The id that was tried.
        id: i32,
        /// The incarnation that was wanted.
        expected: crate::Incarnation,
        /// The one that was found.
        found: crate::Incarnation,
    },
    /// The segment belongs to another user than the info file that named it.
    Owner {
        /// The owner of the info file.
        expected: u32,
        /// The owner of the segment.
        found: u32,
    },
}

impl AttachError {
    pub(super) fn of_shmctl(id: i32, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EINVAL | libc::EIDRM) => Self::Missing { id },
            Some(libc::EACCES) => Self::Denied { id },
            _ => Self::Os { id, source },
        }
    }

    pub(super) fn of_shmat(id: i32, source: io::Error) -> Self {
        Self::of_shmctl(id, source)
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered => f.write_str("the server offers none; start it without --no-shm"),
            Self::Missing { id } => write!(
                f,
                "no segment {id} in this IPC namespace: the server is gone, or runs in another one (containers share it with `--ipc=host`)"
            ),
            Self::Denied { id } => write!(
                f,
                "segment {id} may not be read by this user: start the server with --mode 0644, or with --group and a group of this user"
            ),
            Self::Os { id, .. } => write!(f, "segment {id} cannot be attached"),
            Self::Truncated { needed, mapped } => {
                write!(f, "segment header asks for {needed} bytes but only {mapped} are mapped")
            }
            Self::Unbacked { id, .. } => write!(
                f,
                "segment {id} has pages that its server put no memory behind, and the kernel has none for them: restart the \
                 server"
            ),
            Self::TooLarge { bytes, limit } => write!(
                f,
                "the ring takes {bytes} bytes, and this reader attaches up to {limit}: allow it more (`client \
                 --max-segment`) if it may pay for that much memory"
            ),
            Self::Header(error) => error.fmt(f),
            Self::Foreign { id, expected, found } => write!(
                f,
                "segment {id} is another server's: incarnation {found}, not {expected}; the server restarted, or runs in another IPC namespace"
            ),
            Self::Owner { expected, found } => {
                write!(
                    f,
                    "segment belongs to uid {found} but the info file that names it to uid {expected}"
                )
            }
        }
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os { source, .. } | Self::Unbacked { source, .. } => Some(source),
            Self::Header(error) => std::error::Error::source(error),
            _ => None,
        }
    }
}
