//! Threads that are kept to CPUs.

use std::fs;
use std::path::{Path, PathBuf};

use lapwing::Cpus;

use super::confined::{Process, brief_server, client, is_root, run, server, set_up, skip, wait_until, within};
use super::threads;

/// The CPUs of each thread of a process, by its name.
fn cpus(process: u32) -> Vec<(String, Cpus)> {
    let allowed = |task: PathBuf| {
        let status = fs::read_to_string(task.join("status")).expect("a live thread");
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.expect("proc(5) has it").trim().parse().expect("a list of CPUs")
    };
    let threads = threads(process).into_iter();
    threads.map(|(name, task)| (name, allowed(task))).collect()
}

fn of(cpus: &[(String, Cpus)], name: &str) -> Cpus {
    cpus.iter()
        .find(|(thread, _)| thread == name)
        .unwrap_or_else(|| panic!("no thread {name}: {cpus:?}"))
        .1
}

/// The CPUs that there are for this test: the first, the last, all.
fn there_are() -> (Cpus, Cpus, Cpus) {
    let all = Cpus::of_this_thread().unwrap();
    (all.in_turn(0), all.in_turn(all.iter().count() - 1), all)
}

#[test]
fn threads_of_a_server_run_where_they_were_told() {
    let directory = tempfile::tempdir().unwrap();
    let (first, last, all) = there_are();
    for (options, publishes, serves) in [
        (format!("--cpu {first} --service-cpu {last}"), first, last),
        // A thread that was told nothing does not share the CPU of the other.
        (format!("--cpu {first}"), first, all),
        (format!("--service-cpu {last}"), all, last),
        (String::new(), all, all),
    ] {
        let options = format!("--generate {options}");
        let running = Process::announced(&server(directory.path(), "pinned", &options));

        let cpus = cpus(running.id());

        assert_eq!(of(&cpus, "server"), publishes, "{options}");
        assert_eq!(of(&cpus, "lapwing-service"), serves, "{options}");
        running.stop().expect(0);
    }
}

#[test]
fn threads_of_a_client_take_the_cpus_in_turn() {
    let directory = tempfile::tempdir().unwrap();
    let (first, last, all) = there_are();
    let servers = ["one", "two", "three"].map(|name| {
        let words = server(directory.path(), name, "--generate --rate 50/s");
        Process::announced(&words)
    });
    let options = format!("--follow --format json --cpu {first},{last}");
    let follower = Process::start(&client(directory.path(), &options));
    let names = ["one", "two", "three"];
    wait_until("following all three", || {
        names
            .iter()
            .all(|name| threads(follower.id()).iter().any(|(thread, _)| thread == name))
    });
    follower.json_of("message");
    // Each pins itself first of all.
    wait_until("pinning", || {
        let cpus = cpus(follower.id());
        names.iter().all(|name| of(&cpus, name).iter().count() == 1)
    });

    let cpus = cpus(follower.id());

    assert_eq!(of(&cpus, "client"), all);
    let mut turns: Vec<_> = names.iter().map(|name| of(&cpus, name).to_string()).collect();
    turns.sort();
    let mut expected: Vec<_> = [first, last, first].iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(turns, expected);
    follower.stop().expect(0);
    for server in servers {
        server.stop().expect(0);
    }
}

#[test]
fn cpu_that_is_not_there_is_an_error_that_names_it_and_those_that_are() {
    let directory = tempfile::tempdir().unwrap();
    let first = there_are().0;
    for words in [
        brief_server(directory.path(), "--cpu 1023"),
        // The kernel would take the rest, and say nothing.
        brief_server(directory.path(), &format!("--cpu {first},1023")),
        brief_server(directory.path(), "--service-cpu 1023"),
        client(directory.path(), "--follow --cpu 1023"),
    ] {
        let told = run(&words).expect(1).told();

        assert!(told.contains("CPU 1023 cannot be used"), "{told}");
        assert!(told.contains(&format!("choose from {first}")), "{told}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "{words:?}");
    }
}

/// A cpuset of CPU 0 alone, removed with this.
struct Cpuset(PathBuf);

impl Cpuset {
    fn new() -> Option<Self> {
        let v1 = Path::new("/sys/fs/cgroup/cpuset");
        let root = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let path = root.join(format!("lapwing-test-cpus-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&path) {
            skip(format_args!("cannot make the cgroup {path:?}: {error}"));
            return None;
        }
        let cpuset = Self(path);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Err(error) = fs::write(cpuset.0.join(file), "0") {
                skip(format_args!("cannot set {file} of {:?}: {error}", cpuset.0));
                return None;
            }
        }
        Some(cpuset)
    }
}

impl Drop for Cpuset {
    fn drop(&mut self) {
        wait_until("removing the cgroup", || {
            fs::remove_dir(&self.0).is_ok() || !self.0.exists()
        });
    }
}

#[test]
fn cpu_that_a_cpuset_does_not_allow_is_an_error_that_names_those_that_it_does() {
    let all = there_are().2;
    if all.in_turn(0).to_string() != "0" || all.iter().count() < 2 {
        return skip("needs CPU 0 and another");
    }
    if !is_root() {
        return;
    }
    let Some(cpuset) = Cpuset::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let world = set_up("", &format!("echo $$ > {}/cgroup.procs", cpuset.0.display()));
    let other = all.in_turn(1);

    let told = run(&within(
        &world,
        brief_server(directory.path(), &format!("--cpu {other}")),
    ))
    .expect(1)
    .told();

    assert!(
        told.contains(&format!("cannot publish on --cpu {other}: CPU {other} cannot be used")),
        "{told}"
    );
    assert!(told.ends_with("choose from 0"), "{told}");
    run(&within(&world, brief_server(directory.path(), "--cpu 0"))).expect(0);
}
