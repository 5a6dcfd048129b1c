//! The kernel's limits of shared memory, which each IPC namespace has for itself.

use super::confined::{Words, brief_server, is_possible, world};
use super::refused::{refused, run_behind, starts};

fn possible() -> bool {
    let writable: Words = ["unshare", "--ipc", "sh", "-c", "echo 7 > /proc/sys/kernel/shmmni"]
        .map(str::to_owned)
        .to_vec();
    is_possible(&world("unshare --ipc")) && is_possible(&writable)
}

/// A ring of 64 KiB takes 2,116 KiB with its slots, which are 529 pages of 4 KiB.
#[test]
fn every_kernel_limit_is_named_with_what_is_wanted_and_what_is_left() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (name, too_low, enough, sizes, advice) in [
        (
            "shmmni",
            "0",
            "1",
            "1 more segment ids but kernel.shmmni leaves 0",
            "ipcs -m",
        ),
        (
            "shmall",
            "528",
            "529",
            "529 pages but kernel.shmall leaves 528",
            "raise it or ask for a smaller ring",
        ),
        (
            "shmmax",
            "2166783",
            "2166784",
            "2166784 bytes but kernel.shmmax leaves 2166783",
            "raise it or ask for a smaller ring",
        ),
    ] {
        let set = |value: &str| format!("echo {value} > /proc/sys/kernel/{name}");

        let said = refused("", &set(too_low), directory.path(), "");

        assert!(said.contains(sizes) && said.contains(advice), "{name}: {said}");
        starts("", &set(enough), directory.path(), "");
    }
}

#[test]
fn ids_and_pages_of_others_count() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let taken = |name: &str, value: u32| format!("echo {value} > /proc/sys/kernel/{name}\nipcmk -M 409600 >/dev/null");
    for (script, sizes) in [
        (taken("shmmni", 1), "kernel.shmmni leaves 0"),
        (taken("shmall", 628), "529 pages but kernel.shmall leaves 528"),
    ] {
        let refused = run_behind("", &script, directory.path(), brief_server(directory.path(), ""));

        assert_eq!(refused.ended.code, Some(1), "{refused:#?}");
        assert!(refused.ended.told().contains(sizes), "{refused:#?}");
        // The other's segment alone.
        assert_eq!(refused.left.len(), 1, "{refused:#?}");
    }
}

#[test]
fn server_without_shared_memory_minds_no_limit_of_it() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();

    starts("", "echo 0 > /proc/sys/kernel/shmmni", directory.path(), "--no-shm");
}
