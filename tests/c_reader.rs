//! The reader in C of docs/memory-layout.md: compiled as it stands there, run against a live server, and compared byte
//! for byte. If the page is wrong about the layout, this fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use lapwing::{Server, ServerOptions};

/// Ends the whole run if a test does not end.
struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn start() -> Self {
        let (alive, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(120)) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("a test of the reader in C hangs");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// Compiles the page's program into `directory`; `None`, visibly, where there is no C compiler.
fn compile(directory: &Path) -> Option<PathBuf> {
    let page = include_str!("../docs/memory-layout.md");
    let (_, rest) = page.split_once("```c\n").expect("the page has a program in C");
    let (source, _) = rest.split_once("```").expect("and it ends");
    let (source_path, program) = (directory.join("reader.c"), directory.join("reader"));
    fs::write(&source_path, source).unwrap();
    let compiler = Command::new("cc")
        .args(["-O2", "-Wall", "-Werror", "-o"])
        .args([&program, &source_path])
        .status();
    match compiler {
        Ok(status) => {
            assert!(status.success(), "the page's program does not compile");
            Some(program)
        }
        Err(error) => {
            eprintln!("SKIPPED: no C compiler: cc: {error}");
            None
        }
    }
}

fn server(directory: &Path, slots: u64, slot_bytes: u64) -> Server {
    let mut options = ServerOptions::new("c-reader".parse().unwrap());
    options.info_dir = directory.to_owned();
    options.slots = Some(slots);
    options.slot_bytes = slot_bytes;
    options.listen.clear();
    Server::start(options).unwrap()
}

fn read_with(program: &Path, id: i32) -> Output {
    let output = Command::new(program)
        .arg(id.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn segment_of(server: &Server) -> i32 {
    server.info().shared_memory.unwrap().id
}

/// A payload without line feeds, which part the messages in the program's output.
fn payload(sequence: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| b'!' + ((sequence * 7 + i) % 90) as u8)
        .collect()
}

#[test]
fn program_of_the_page_prints_every_message_small_and_large() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let Some(program) = compile(temporary.path()) else {
        return;
    };
    let mut server = server(temporary.path(), 1024, 128);
    let mut expected = Vec::new();

    // Inline up to 96 bytes, in the arena from there; every length about a word's end. The rest of the word that a
    // payload ends in is not part of it.
    for (sequence, len) in (0..200).chain([1000, 4096, 9999, 16384]).enumerate() {
        let payload = payload(sequence as u64, len);
        server.publisher().publish(&payload).unwrap();
        expected.extend_from_slice(&payload);
        expected.push(b'\n');
    }
    server.end_stream();
    let output = read_with(&program, segment_of(&server));

    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.stdout == expected, "other bytes than were published");
}

#[test]
fn program_of_the_page_says_what_it_missed_and_reads_on() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let Some(program) = compile(temporary.path()) else {
        return;
    };
    let mut server = server(temporary.path(), 64, 96);

    // Every other message is so large that the arena holds four of them: the slots of those before stand, but what they
    // lead to is buried.
    let len_of = |sequence| if sequence % 2 == 0 { 16384 } else { 5 };
    let is_buried = |sequence| sequence % 2 == 0 && sequence < 64 - 2 * 4;
    for sequence in 0..64 {
        server
            .publisher()
            .publish(&payload(sequence, len_of(sequence)))
            .unwrap();
    }
    let output = read_with(&program, segment_of(&server));

    // Lapped at 0, it goes on a quarter of the ring ahead of the publisher, and from there on misses one by one.
    let (mut stdout, mut stderr, mut next) = (Vec::new(), String::new(), 0);
    while next < 64 {
        let sequence = next;
        next += 1;
        if is_buried(sequence) {
            next = next.max(64 / 4);
            stderr += &format!("missed {}\n", next - sequence);
        } else {
            stdout.extend_from_slice(&payload(sequence, len_of(sequence)));
            stdout.push(b'\n');
        }
    }
    assert!(output.stdout == stdout, "other messages than are retained");
    assert_eq!(String::from_utf8_lossy(&output.stderr), stderr);
}

#[test]
fn program_of_the_page_refuses_what_is_no_segment_of_this_kind() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let Some(program) = compile(temporary.path()) else {
        return;
    };

    let output = Command::new(program).arg("-1").output().unwrap();

    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("shmat"));
}
