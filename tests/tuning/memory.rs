//! What a ring's memory is made of: huge pages, locked pages, pages that are there before they are needed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::confined::{
    Process, brief_server, client, is_possible, is_root, run, server, set_up, skip, wait_until, within, world,
};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// Whoever looks at or changes the settings of the machine does so alone, also among the processes that run tests.
pub fn alone() -> Option<File> {
    let settings = File::open("/sys/kernel/mm").ok()?;
    flock(&settings, FlockOperation::LockExclusive).unwrap();
    Some(settings)
}

/// A setting of the kernel that is changed for as long as this lives.
pub struct Changed {
    path: PathBuf,
    before: String,
}

impl Changed {
    /// Changes it. Says so if that is not possible.
    fn to(path: impl Into<PathBuf>, before: &str, value: &str) -> Option<Self> {
        let path = path.into();
        if let Err(error) = fs::write(&path, value) {
            skip(format_args!("cannot set {path:?} to {value}: {error}"));
            return None;
        }
        let before = before.to_owned();
        Some(Self { path, before })
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        fs::write(&self.path, &self.before).expect("what could be changed can be changed back");
    }
}

pub fn count(name: &str) -> Option<u64> {
    fs::read_to_string(Path::new(POOL).join(name)).ok()?.trim().parse().ok()
}

/// Sets more huge pages of 2 MiB aside, so that so many are free.
pub fn reserve(pages: u64) -> Option<Changed> {
    let (Some(total), Some(free)) = (count("nr_hugepages"), count("free_hugepages")) else {
        skip("the kernel has no huge pages of 2 MiB");
        return None;
    };
    let path = Path::new(POOL).join("nr_hugepages");
    let changed = Changed::to(path, &total.to_string(), &(total + pages).to_string())?;
    if count("free_hugepages") < Some(free + pages) {
        skip("the kernel finds no memory for huge pages");
        return None;
    }
    Some(changed)
}

/// A field of the mapping of a process's one segment, in KiB.
fn mapped(process: u32, field: &str) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let segment = maps.split_once("/SYSV").expect("a segment is attached").1;
    let line = segment
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = line.unwrap_or_else(|| panic!("no {field}: {segment}"));
    value.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Runs a server with `options` and a client that follows it, and lets `look` see both once a message arrived.
fn follow(options: &str, follow: &str, look: impl FnOnce(u32, u32)) {
    let directory = tempfile::tempdir().unwrap();
    let options = format!("--generate --rate 200/s {options}");
    let running = Process::announced(&server(directory.path(), "tuned", &options));
    let follow = format!("--follow --from oldest --transport shm --format json {follow}");
    let follower = Process::start(&client(directory.path(), &follow));
    for expected in 0..3 {
        assert_eq!(follower.json_of("message")["sequence"], expected);
    }
    look(running.id(), follower.id());
    follower.stop().expect(0);
    running.stop().expect(0);
}

#[test]
fn ring_of_huge_pages_is_one_for_the_kernel_and_for_readers_and_goes_back_to_the_pool() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    let Some(_reserved) = reserve(3) else { return };
    let free = count("free_hugepages");

    // 5 MiB of slots, arena and header take three pages.
    for how in [
        "--huge-pages require --huge-page-size 2M",
        "--huge-pages try --huge-page-size 2M",
    ] {
        follow(&format!("--ring-size 1M --slots 32K {how}"), "", |server, client| {
            for process in [server, client] {
                assert_eq!(mapped(process, "KernelPageSize"), 2048);
                assert_eq!(mapped(process, "Size"), 6 << 10);
            }
            assert_eq!(count("free_hugepages"), free.map(|free| free - 3));
        });
        wait_until("giving them back", || count("free_hugepages") == free);
    }
}

#[test]
fn too_few_huge_pages_are_an_error_with_the_command_that_reserves_more() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    let (Some(total), Some(0)) = (count("nr_hugepages"), count("free_hugepages")) else {
        return skip("there are free huge pages of 2 MiB, or none at all");
    };
    let directory = tempfile::tempdir().unwrap();
    let options = "--ring-size 1M --huge-page-size 2M --slots 32K --huge-pages";

    let told = run(&brief_server(directory.path(), &format!("{options} require")))
        .expect(1)
        .told();

    assert!(told.contains("cannot have 3 huge pages of 2M"), "{told}");
    assert!(
        told.contains(&format!("`echo {} > {POOL}/nr_hugepages`", total + 3)),
        "{told}"
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);

    let told = run(&brief_server(directory.path(), &format!("{options} try")))
        .expect(0)
        .told();

    assert!(told.contains("warn: cannot have 3 huge pages of 2M"), "{told}");
    assert!(told.contains("going on with pages of the usual size"), "{told}");
    assert!(!told.contains("server: huge pages of"), "{told}");
}

#[test]
fn size_of_page_that_the_kernel_does_not_have_is_answered_with_those_that_it_has() {
    let directory = tempfile::tempdir().unwrap();

    let options = "--huge-pages require --huge-page-size 8K";
    let told = run(&brief_server(directory.path(), options)).expect(1).told();

    assert!(told.contains("this kernel has"), "{told}");
}

/// A cgroup that may have no huge pages of 2 MiB, removed with this.
struct Poor {
    path: PathBuf,
    _allowed: Option<Changed>,
}

impl Poor {
    fn new() -> Option<Self> {
        let both = Path::new("/sys/fs/cgroup/unified");
        let root = if both.is_dir() {
            both
        } else {
            Path::new("/sys/fs/cgroup")
        };
        let has = |file: &str| {
            let controllers = fs::read_to_string(root.join(file)).unwrap_or_default();
            controllers.split_whitespace().any(|name| name == "hugetlb")
        };
        if !has("cgroup.controllers") {
            skip("no cgroup of version 2 limits huge pages here");
            return None;
        }
        let control = "cgroup.subtree_control";
        let allowed = (!has(control)).then(|| Changed::to(root.join(control), "-hugetlb", "+hugetlb"));
        let poor = Self {
            path: root.join(format!("lapwing-test-huge-{}", std::process::id())),
            _allowed: allowed.map_or(Some(None), |changed| changed.map(Some))?,
        };
        let made = fs::create_dir(&poor.path).and_then(|()| fs::write(poor.path.join("hugetlb.2MB.max"), "0"));
        if let Err(error) = made {
            skip(format_args!("cannot make the cgroup {:?}: {error}", poor.path));
            return None;
        }
        Some(poor)
    }
}

impl Drop for Poor {
    fn drop(&mut self) {
        wait_until("removing the cgroup", || {
            fs::remove_dir(&self.path).is_ok() || !self.path.exists()
        });
    }
}

/// The kernel sets pages aside without asking the cgroup, and the first touch would end in SIGBUS.
#[test]
fn cgroup_that_may_have_no_huge_pages_is_an_error_and_no_signal() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    let Some(poor) = Poor::new() else { return };
    let Some(_reserved) = reserve(1) else { return };
    let directory = tempfile::tempdir().unwrap();
    let world = set_up("", &format!("echo $$ > {}/cgroup.procs", poor.path.display()));
    let words = |how| {
        brief_server(
            directory.path(),
            &format!("--slots 4096 --huge-page-size 2M --huge-pages {how}"),
        )
    };

    let told = run(&within(&world, words("require"))).expect(1).told();

    assert!(
        told.contains("cannot have 1 huge page of 2M") && told.contains("hugetlb.2MB.max"),
        "{told}"
    );
    let told = run(&within(&world, words("try"))).expect(0).told();
    assert!(told.contains("going on with pages of the usual size"), "{told}");
}

/// A world of a user who may do nothing special.
const NOBODY: &str = "setpriv --reuid=61234 --regid=61234 --clear-groups --bounding-set=-all --inh-caps=-all";

/// The command line of a brief server that everybody may start.
fn for_everybody(directory: &Path, options: &str) -> Vec<String> {
    let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    fs::set_permissions(directory, open).unwrap();
    let program = directory.join("filler");
    fs::copy(env!("CARGO_BIN_EXE_server"), &program).unwrap();
    let mut words = brief_server(&directory.join("info"), options);
    words[0] = program.display().to_string();
    words
}

#[test]
fn user_who_may_have_no_huge_pages_is_told_what_would_let_them() {
    if count("nr_hugepages").is_none() || !is_root() || !is_possible(&world(NOBODY)) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let words = for_everybody(directory.path(), "--huge-pages require --huge-page-size 2M");

    let told = run(&within(&world(NOBODY), words)).expect(1).told();

    assert!(
        told.contains("CAP_IPC_LOCK") && told.contains("vm.hugetlb_shm_group"),
        "{told}"
    );
}

#[test]
fn transparent_huge_pages_are_had_if_the_kernel_makes_them_and_else_an_error() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    let setting = fs::read_to_string(TRANSPARENT).unwrap_or_default();
    let Some(before) = setting.split_once('[').and_then(|(_, rest)| rest.split_once(']')) else {
        return skip("the kernel makes no transparent huge pages");
    };
    {
        let Some(_never) = Changed::to(TRANSPARENT, before.0, "never") else {
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let told = run(&brief_server(directory.path(), "--huge-pages transparent"))
            .expect(1)
            .told();
        assert!(
            told.contains(&format!("(never): allow them with `echo advise > {TRANSPARENT}`")),
            "{told}"
        );
    }
    let Some(_advise) = Changed::to(TRANSPARENT, before.0, "advise") else {
        return;
    };
    follow("--ring-size 4M --huge-pages transparent", "", |server, _| {
        // As many as the kernel finds in one piece, which may be none.
        if mapped(server, "ShmemPmdMapped") == 0 {
            skip("the kernel found no memory for transparent huge pages");
        }
    });
}

#[test]
fn locked_ring_is_locked_and_who_may_lock_nothing_is_told_what_to_raise() {
    if !is_root() || !is_possible(&set_up("unshare --ipc", "true")) || !is_possible(&world(NOBODY)) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let locked = |options: &str| {
        let mut words = server(directory.path(), "locked", &format!("--message x {options}"));
        words.splice(0..0, world("unshare --ipc"));
        let running = Process::announced(&words);
        let mode = mode_of_the_segment(running.id());
        running.stop().expect(0);
        mode & 0o2000 != 0
    };
    assert!(!locked(""));
    assert!(locked("--lock-memory"));

    let other = tempfile::tempdir().unwrap();
    let words = for_everybody(other.path(), "--lock-memory");
    for limit in ["0", "4096"] {
        let world = world(&format!("prlimit --memlock={limit} {NOBODY}"));
        let told = run(&within(&world, words.clone())).expect(1).told();
        assert!(
            told.contains("in memory: raise the limit of locked memory (`ulimit -l`"),
            "{limit}: {told}"
        );
    }
    run(&within(&world(&format!("prlimit --memlock=4194304 {NOBODY}")), words)).expect(0);
}

/// The mode of the one segment in the IPC namespace of a process.
fn mode_of_the_segment(process: u32) -> u32 {
    let script = "tail -n +2 /proc/sysvipc/shm";
    let target = process.to_string();
    let words = ["nsenter", "--ipc", "--target", &target, "sh", "-c", script].map(str::to_owned);
    let ended = run(&words).expect(0);
    // A line is key, id, mode.
    let [line] = &ended.output[..] else {
        panic!("{ended:#?}")
    };
    u32::from_str_radix(line.split_whitespace().nth(2).unwrap(), 8).unwrap()
}

#[test]
fn client_that_prefaults_has_all_of_the_ring_mapped_before_it_needs_it() {
    let segment_kib = 73_732;

    follow("--ring-size 64M", "--prefault", |_, client| {
        assert_eq!(mapped(client, "Size"), segment_kib);
        assert_eq!(mapped(client, "Rss"), segment_kib);
    });
    // Negative control: nobody else does.
    follow("--ring-size 64M", "", |_, client| {
        assert!(mapped(client, "Rss") < segment_kib / 10, "{}", mapped(client, "Rss"));
    });
    follow(
        "--ring-size 64M --lossless block",
        "--prefault --lossless",
        |_, client| {
            assert_eq!(mapped(client, "Rss"), segment_kib);
        },
    );
}
