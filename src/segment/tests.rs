//! Segments of the real kernel.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::incarnation::Incarnation;

fn owned(access: Access) -> Owned {
    let geometry = Geometry::new(64, 128, 4096, None).unwrap();
    let header = Header::new(&geometry, Incarnation::random().unwrap(), "test", 1, 1);
    Owned::create(header, geometry, access, Pages::default()).unwrap()
}

#[test]
fn reader_sees_what_the_creator_stores_and_the_header() {
    let owned = owned(Access::default());
    owned.memory()[HEAD_WORD].store(42, Ordering::Relaxed);

    let segment = Segment::attach(owned.share().id().unwrap()).unwrap();

    assert_eq!(segment.words().load(HEAD_WORD), 42);
    assert_eq!(segment.header().incarnation(), owned.share().header().incarnation());
    assert_eq!(segment.geometry(), owned.share().geometry());
    assert_eq!(segment.status().unwrap().unwrap().attached, 2);
}

#[test]
fn segment_is_gone_with_its_last_user() {
    let owned = owned(Access::default());
    let id = owned.share().id().unwrap();
    let reader = Segment::attach(id).unwrap();

    drop(owned);
    assert!(Segment::attach(id).is_ok(), "a reader keeps it");
    drop(reader);

    assert!(matches!(Segment::attach(id), Err(AttachError::Missing { .. })));
}

#[test]
fn removal_by_somebody_else_takes_nothing_away() {
    // What `ipcrm`, or systemd's RemoveIPC at a logout, does.
    let owned = owned(Access::default());
    let id = owned.share().id().unwrap();

    shm_remove(id).unwrap();

    assert!(Segment::attach(id).is_ok());
}

#[test]
fn only_read_bits_of_the_mode_are_given() {
    let owned = owned(Access {
        mode: 0o666,
        group: None,
    });

    let mode = raw_status(owned.share().id().unwrap()).unwrap().shm_perm.mode;

    assert_eq!(u32::from(mode) & 0o777, 0o444);
}

#[test]
fn private_memory_has_no_id_and_holds_the_same_ring() {
    let geometry = Geometry::new(64, 128, 4096, None).unwrap();
    let header = Header::new(&geometry, Incarnation::random().unwrap(), "test", 1, 1);

    let owned = Owned::private(header, geometry).unwrap();

    assert_eq!(owned.share().id(), None);
    assert_eq!(owned.share().status().unwrap(), None);
    assert_eq!(owned.memory().len() * WORD_BYTES, geometry.segment_bytes());
}

#[test]
fn segment_that_is_no_ring_is_refused() {
    let id = shm_create(8192, 0).unwrap();
    let mapping = Mapping::attach(id, 0).unwrap();
    shm_remove(id).unwrap();

    let outcome = Segment::attach(id);

    assert!(
        matches!(outcome, Err(AttachError::Header(crate::layout::HeaderError::Magic))),
        "{outcome:?}"
    );
    drop(mapping);
}

#[test]
fn owner_is_who_created_it_whatever_was_set_since() {
    let owned = owned(Access::default());
    let id = owned.share().id().unwrap();
    let mut set = raw_status(id).unwrap();
    set.shm_perm.uid = 4_000_000_001;

    // SAFETY: IPC_SET reads one shmid_ds, which `set` is.
    let outcome = unsafe { libc::shmctl(id, libc::IPC_SET, &raw mut set) };

    assert_eq!(outcome, 0);
    assert_eq!(raw_status(id).unwrap().shm_perm.uid, 4_000_000_001);
    assert_eq!(status(id).unwrap().owner_uid, rustix::process::geteuid().as_raw());
}

/// Bytes of segment `id` that there is memory behind, in use or swapped out (proc(5), /proc/sysvipc/shm).
fn resident_bytes(id: i32) -> u64 {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let mut lines = table
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let columns = lines.next().unwrap();
    let at = |name| columns.iter().position(|&column| column == name).unwrap();
    let row = lines.find(|row| row[at("shmid")] == id.to_string()).unwrap();
    let number = |name| row[at(name)].parse::<u64>().unwrap();
    number("rss") + number("swap")
}

/// A segment for `geometry` with nothing but a header in it, and no memory behind the rest.
fn sparse(geometry: &Geometry) -> (i32, Mapping) {
    sparse_of(geometry.segment_bytes(), geometry)
}

/// As [`sparse`], of so many bytes.
fn sparse_of(bytes: usize, geometry: &Geometry) -> (i32, Mapping) {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | libc::SHM_NORESERVE | 0o600;
    // SAFETY: shmget takes and returns plain numbers.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, bytes, flags) };
    assert!(id >= 0, "{}", io::Error::last_os_error());
    let mapping = Mapping::attach(id, 0).unwrap();
    shm_remove(id).unwrap();
    let header = Header::new(geometry, Incarnation::random().unwrap(), "sparse", 1, 1);
    copy::store(mapping.words(), bytemuck::bytes_of(&header));
    (id, mapping)
}

#[test]
fn vast_ring_without_memory_behind_it_is_refused_and_costs_a_page() {
    let geometry = Geometry::new(1 << 20, 64 << 10, 1 << 30, None).unwrap();
    let (id, _mapping) = sparse(&geometry);

    let outcome = Segment::attach(id);

    let Err(error @ AttachError::TooLarge { bytes, limit }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((bytes, limit), (geometry.segment_bytes() as u64, USUAL_ATTACH_LIMIT));
    assert!(error.to_string().contains("--max-segment"), "{error}");
    assert!(resident_bytes(id) <= 8192, "{} bytes", resident_bytes(id));
    assert!(Segment::attach_up_to(id, bytes).is_ok(), "allowed, and refused");
}

#[test]
fn ring_of_a_gibibyte_is_attached_unless_less_is_allowed() {
    let geometry = Geometry::new(65_536, 128, 1 << 30, None).unwrap();
    let (id, _mapping) = sparse(&geometry);
    let bytes = geometry.segment_bytes() as u64;

    assert!(Segment::attach(id).is_ok());
    assert!(Segment::attach_up_to(id, bytes).is_ok());
    assert!(matches!(
        Segment::attach_up_to(id, bytes - 1),
        Err(AttachError::TooLarge { .. })
    ));
}

#[test]
fn segment_that_is_larger_than_allowed_is_not_even_mapped() {
    let id = shm_create(64 << 20, libc::SHM_NORESERVE).unwrap();

    let outcome = Segment::attach_up_to(id, 16 << 20);

    let last_mapped_by = raw_status(id).unwrap().shm_lpid;
    shm_remove(id).unwrap();
    let Err(AttachError::TooLarge { bytes, limit }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((bytes, limit), (64 << 20, 16 << 20));
    assert_eq!(last_mapped_by, 0, "a process has mapped it");
}

#[test]
fn ring_is_no_larger_for_what_its_segment_was_rounded_up_to() {
    let geometry = Geometry::new(64, 128, 4096, None).unwrap();
    let (id, _mapping) = sparse_of(2 << 20, &geometry);
    let bytes = geometry.segment_bytes() as u64;

    assert!(Segment::attach_up_to(id, bytes).is_ok());
    assert!(matches!(
        Segment::attach_up_to(id, bytes - 1),
        Err(AttachError::TooLarge { .. })
    ));
}

thread_local! {
    /// What somebody else does right after this thread has asked for the state of a segment.
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// To be called wherever others may act between two system calls.
pub(super) fn meanwhile() {
    if let Some(act) = MEANWHILE.take() {
        act();
    }
}

/// A segment with this id and a ring of this size.
fn lay_with_id(id: i32, arena_bytes: u64) -> (i32, Mapping) {
    std::fs::write("/proc/sys/kernel/shm_next_id", id.to_string()).unwrap();
    let geometry = Geometry::new(2, 64, arena_bytes, None).unwrap();
    let header = Header::new(&geometry, Incarnation::NIL, "reused", 0, 1);
    let made = shm_create(geometry.segment_bytes(), 0).unwrap();
    let mapping = Mapping::attach(made, 0).unwrap();
    copy::store(mapping.words(), bytemuck::bytes_of(&header));
    (made, mapping)
}

#[test]
fn id_that_comes_to_mean_a_smaller_segment_does_not_let_a_reader_look_behind_its_end() {
    const ID: i32 = 4711;
    // In an IPC namespace of its own: what is made there is in nobody's way, and the next id can be chosen.
    let outcome = std::thread::spawn(|| {
        // SAFETY: unshare takes and returns plain numbers, and CLONE_NEWIPC concerns this thread alone.
        if unsafe { libc::unshare(libc::CLONE_NEWIPC) } != 0 || !Path::new("/proc/sys/kernel/shm_next_id").exists() {
            return None;
        }
        let (id, large) = lay_with_id(ID, 256 << 10);
        shm_remove(id).unwrap();
        let small = Rc::new(RefCell::new(None));
        let kept = small.clone();
        MEANWHILE.set(Some(Box::new(move || {
            drop(large);
            *kept.borrow_mut() = Some(lay_with_id(ID, 4096));
        })));

        let segment = Segment::attach(ID).unwrap();

        let (id, _mapping) = small.take().expect("somebody acted");
        shm_remove(id).unwrap();
        Some((segment.words().len() * WORD_BYTES, segment.geometry().segment_bytes()))
    });

    match outcome.join().unwrap() {
        Some((looked_at, laid)) => assert_eq!(looked_at, laid),
        None => {
            let mut past_the_capture = io::stderr().lock();
            io::Write::write_all(
                &mut past_the_capture,
                b"SKIPPED reuse of ids: needs root and shm_next_id\n",
            )
            .unwrap();
        }
    }
}

#[test]
fn segment_that_cannot_be_marked_for_removal_is_named_with_what_removes_it() {
    let source = io::Error::from_raw_os_error(libc::EPERM);
    let error = CreateError::Remove { id: 42, source };

    assert!(error.to_string().contains("`ipcrm -m 42`"), "{error}");
}
