//! A server that a limit keeps from starting, and what it leaves behind: nothing.

use std::path::Path;

use super::confined::{Finished, Words, brief_server, run, world};

/// A server that did not start.
#[derive(Debug)]
pub struct Refused {
    pub ended: Finished,
    /// Segments of its IPC namespace and files of its directory that were there when it had ended.
    pub left: Vec<String>,
}

/// The name of a file that fills the directory and does not count.
pub const FILLER: &str = "filler";

/// Runs `command` behind `script` in a world of `unshare` with an IPC namespace of its own, then looks what is left in
/// there and in `directory`.
pub fn run_behind(flags: &str, script: &str, directory: &Path, command: Words) -> Refused {
    let script = format!(
        "{script}\n\"$@\"\ncode=$?\n\
         tail -n +2 /proc/sysvipc/shm | sed 's/^/left: segment /'\n\
         ls -A {} 2>/dev/null | grep -vx {FILLER} | sed 's/^/left: file /'\n\
         exit $code",
        directory.display()
    );
    let mut words = world(&format!("unshare --ipc {flags}"));
    words.extend(["sh", "-c", &script, "sh"].map(str::to_owned));
    words.extend(command);
    let mut ended = run(&words);
    let (left, output) = std::mem::take(&mut ended.output)
        .into_iter()
        .partition(|line| line.starts_with("left: "));
    ended.output = output;
    Refused { ended, left }
}

/// Runs a server behind `script`, expects it to be refused with exit code 1 and nothing left, and gives what it said.
#[track_caller]
pub fn refused(flags: &str, script: &str, directory: &Path, options: &str) -> String {
    let refused = run_behind(flags, script, directory, brief_server(directory, options));
    assert_eq!(refused.ended.code, Some(1), "{refused:#?}");
    assert!(
        refused.left.is_empty() && refused.ended.output.is_empty(),
        "{refused:#?}"
    );
    assert_eq!(refused.ended.errors.len(), 1, "{refused:#?}");
    refused.ended.told()
}

/// Runs the same server behind another `script`, under which it must start, and leave nothing either.
#[track_caller]
pub fn starts(flags: &str, script: &str, directory: &Path, options: &str) {
    let ran = run_behind(flags, script, directory, brief_server(directory, options));
    assert_eq!(ran.ended.code, Some(0), "{ran:#?}");
    assert!(ran.left.is_empty() && ran.ended.output.is_empty(), "{ran:#?}");
    assert!(ran.ended.told().contains("is announced"), "{ran:#?}");
}

/// Negative control: what a careless server leaves is noticed.
#[test]
fn what_a_server_leaves_behind_is_noticed() {
    if !super::confined::is_possible(&world("unshare --ipc")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = "ipcmk -M 4096 >/dev/null; touch \"$0/.a.new\" \"$0/filler\"; exit 1";
    let careless = ["sh", "-c", script, &directory.path().display().to_string()].map(str::to_owned);

    let refused = run_behind("", "", directory.path(), careless.to_vec());

    assert_eq!(refused.ended.code, Some(1), "{refused:#?}");
    let [segment, file] = &refused.left[..] else {
        panic!("{refused:#?}")
    };
    assert!(segment.starts_with("left: segment "), "{refused:#?}");
    assert_eq!(file, "left: file .a.new");
}
