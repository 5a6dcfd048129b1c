//! Less memory than the ring takes: memory cgroups, address space, the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::confined::{brief_server, is_possible, skip, wait_until, world};
use super::refused::{refused, run_behind, starts};

/// Bytes of the segment of a ring of 64 MiB, with its slots.
const SEGMENT_BYTES: u64 = 75_501_568;
const RING: &str = "--ring-size 64M";
/// Bytes that a server takes besides, as `src/limits.rs` counts them: page tables of the ring, and all else.
const BESIDES_BYTES: u64 = SEGMENT_BYTES / 512 + (2 << 20);

/// A memory cgroup of this test, removed with it.
struct Cgroup {
    path: PathBuf,
    limit: &'static str,
}

impl Cgroup {
    /// A new one, of version 1 or 2, whichever has the memory controller here.
    fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "lapwing-test-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let has_v1 = v1.join("memory.limit_in_bytes").exists();
        let (root, limit) = if has_v1 {
            (v1, "memory.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let path = root.join(name);
        if let Err(error) = fs::create_dir(&path) {
            skip(format_args!("cannot make the cgroup {path:?}: {error}"));
            return None;
        }
        let cgroup = Self { path, limit };
        if !cgroup.path.join(limit).exists() {
            skip(format_args!("no memory controller in {:?}", cgroup.path));
            return None;
        }
        Some(cgroup)
    }

    fn set_limit(&self, bytes: u64) {
        fs::write(self.path.join(self.limit), bytes.to_string()).unwrap();
    }

    /// The script that brings a shell and what it starts into this cgroup.
    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.path.display())
    }

    fn limit_file(&self) -> String {
        self.path.join(self.limit).display().to_string()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel needs a moment to bury the last process in it.
        wait_until("removing the cgroup", || {
            fs::remove_dir(&self.path).is_ok() || !self.path.exists()
        });
    }
}

fn cgroup() -> Option<Cgroup> {
    is_possible(&world("unshare --ipc")).then(Cgroup::new)?
}

#[test]
fn memory_cgroup_smaller_than_the_ring_is_named_before_it_kills() {
    let Some(cgroup) = cgroup() else { return };
    let directory = tempfile::tempdir().unwrap();
    cgroup.set_limit(8 << 20);
    for options in [RING, "--ring-size 64M --no-shm"] {
        let said = refused("", &cgroup.enter(), directory.path(), options);

        assert!(said.contains(&cgroup.limit_file()), "{said}");
        assert!(said.contains("raise it or ask for a smaller ring"), "{said}");
    }
    // What fits is not refused.
    starts("", &cgroup.enter(), directory.path(), "");
}

/// A page less than what a server with this ring takes, were the cgroup empty: nobody is to start in there.
#[test]
fn memory_cgroup_with_room_for_the_ring_and_not_for_its_server_is_named() {
    let Some(cgroup) = cgroup() else { return };
    let directory = tempfile::tempdir().unwrap();
    cgroup.set_limit(SEGMENT_BYTES + BESIDES_BYTES - 4096);

    let said = refused("", &cgroup.enter(), directory.path(), RING);

    assert!(said.contains(&cgroup.limit_file()), "{said}");
    // With what the shell takes, there is room for both.
    cgroup.set_limit(SEGMENT_BYTES + 4 * BESIDES_BYTES);
    starts("", &cgroup.enter(), directory.path(), RING);
}

/// From what the ring takes to a little more: the server starts or says why not, and is killed never.
#[test]
fn memory_cgroup_about_as_large_as_the_ring_never_kills() {
    let Some(cgroup) = cgroup() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (mut refused, mut started) = (0, 0);
    for step in 0..32 {
        cgroup.set_limit(SEGMENT_BYTES + step * (150 << 10));
        let command = brief_server(directory.path(), RING);

        let ran = run_behind("", &cgroup.enter(), directory.path(), command);

        assert!(ran.left.is_empty(), "{step}: {ran:#?}");
        match ran.ended.code {
            Some(0) => started += 1,
            Some(1) if ran.ended.told().contains(&cgroup.limit_file()) => refused += 1,
            _ => panic!("{step}: {ran:#?}"),
        }
    }
    assert!(refused > 1 && started > 1, "{refused} refused, {started} started");
}

/// Negative control: here the kernel does kill who takes more than the cgroup has.
#[test]
fn memory_cgroup_kills_who_does_not_ask() {
    let Some(cgroup) = cgroup() else { return };
    let directory = tempfile::tempdir().unwrap();
    cgroup.set_limit(8 << 20);
    let greedy = ["sh", "-c", "head -c 64M /dev/zero | tail -c 64M >/dev/null; exit $?"].map(str::to_owned);

    let ran = run_behind("", &cgroup.enter(), directory.path(), greedy.to_vec());

    assert!(matches!(ran.ended.code, Some(137) | None), "{ran:#?}");
}

#[test]
fn ring_larger_than_the_machine_is_refused_with_both_sizes() {
    if !is_possible(&world("unshare --ipc")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for options in ["--ring-size 1T", "--ring-size 1T --no-shm"] {
        let said = refused("", "", directory.path(), options);

        assert!(said.contains("the machine's free memory leaves"), "{said}");
        assert!(said.contains("raise it or ask for a smaller ring"), "{said}");
    }
}

#[test]
fn address_space_smaller_than_the_ring_is_told_with_what_to_raise() {
    if !is_possible(&world("unshare --ipc")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();

    let said = refused("", "ulimit -v 60000", directory.path(), RING);

    assert!(said.contains("cannot attach a new segment of 75501568 bytes"), "{said}");
    assert!(said.contains("`ulimit -v`"), "{said}");
    starts("", "ulimit -v 600000", directory.path(), RING);
}

#[test]
fn private_ring_that_the_address_space_does_not_hold_is_told() {
    if !is_possible(&world("unshare --ipc")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();

    let said = refused("", "ulimit -v 60000", directory.path(), "--ring-size 64M --no-shm");

    assert!(said.contains("`ulimit -v`"), "{said}");
}

#[test]
fn no_process_left_for_the_service_thread_is_told_with_what_to_raise() {
    let as_nobody = "setpriv --reuid=61234 --regid=61234 --clear-groups";
    if !is_possible(&world("unshare --ipc")) || !is_possible(&world(as_nobody)) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    fs::set_permissions(directory.path(), open).unwrap();
    let program = directory.path().join("filler");
    fs::copy(env!("CARGO_BIN_EXE_server"), &program).unwrap();
    let command = |limit: &str| {
        let mut command = brief_server(directory.path(), "");
        command[0] = program.display().to_string();
        let mut words = world(&format!("prlimit --nproc={limit} {as_nobody}"));
        words.extend(command);
        words
    };

    let ran = run_behind("", "", directory.path(), command("1"));

    assert_eq!(ran.ended.code, Some(1), "{ran:#?}");
    assert!(ran.ended.told().contains("`ulimit -u`"), "{ran:#?}");
    assert!(ran.left.is_empty(), "{ran:#?}");
    assert_eq!(run_behind("", "", directory.path(), command("9")).ended.code, Some(0));
}
