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

/// In huge pages of 2 MiB or more the same ring takes 4 MiB or more.
#[test]
fn limit_that_is_too_low_for_huge_pages_alone_is_no_error_for_who_only_tries() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let run = |shmmax: u32| {
        let script = format!("echo {shmmax} > /proc/sys/kernel/shmmax");
        let command = brief_server(directory.path(), "--huge-pages try");
        run_behind("", &script, directory.path(), command)
    };

    let started = run(3 << 20);
    assert_eq!(started.ended.code, Some(0), "{started:#?}");
    assert!(started.left.is_empty(), "{started:#?}");
    let told = started.ended.told();
    assert!(told.contains("going on with pages of the usual size"), "{told}");

    // What is too low for both is told of pages of the usual size.
    let refused = run(2_166_783);
    assert_eq!(refused.ended.code, Some(1), "{refused:#?}");
    assert!(refused.left.is_empty(), "{refused:#?}");
    let told = refused.ended.errors.last().unwrap();
    assert!(
        told.contains("2166784 bytes but kernel.shmmax leaves 2166783"),
        "{told}"
    );
}

#[test]
fn server_without_shared_memory_minds_no_limit_of_it() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();

    starts("", "echo 0 > /proc/sys/kernel/shmmni", directory.path(), "--no-shm");
}
