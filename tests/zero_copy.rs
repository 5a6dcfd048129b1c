//! Reading in place copies nothing, however large the message: a reader that looks at one pixel of an image executes as
//! many instructions, allocates as much (nothing), and touches as much memory for 16 MiB as for 64 KiB.
//!
//! Each of the three has its negative control: the same measurement of a reader that copies the image must notice.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::env;
use std::fs;
use std::process::Command;

use lapwing::discovery::{self, Trust};
use lapwing::{Join, Poll, Server, ServerOptions, Subscriber, View};

const SIZES: [usize; 3] = [64 << 10, 1 << 20, 16 << 20];
const PAGE_BYTES: usize = 4096;

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: all of it is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above, and `pointer` came from the same allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How an image is read.
#[derive(Clone, Copy)]
enum Reading {
    InPlace,
    Copying,
}

/// The pixel in the middle of the image.
fn middle(view: View<'_>) -> u32 {
    let mut pixels = view.values(0);
    pixels.nth(pixels.len() / 2).expect("it lies inside")
}

/// What is measured: receives the next message and looks at one pixel of it. Not inlined, so that callgrind finds it.
#[inline(never)]
fn look(subscriber: &mut Subscriber, reading: Reading) -> u32 {
    let polled = match reading {
        Reading::InPlace => subscriber.poll(middle),
        Reading::Copying => subscriber.poll(|view| {
            let copy = view.to_vec();
            let at = (copy.len() / 2) & !3;
            u32::from_ne_bytes(copy[at..at + 4].try_into().expect("four bytes"))
        }),
    };
    match polled {
        Poll::Message(message) => message.value,
        other => panic!("{other:?}"),
    }
}

/// A server that has published one image of `bytes` bytes, filled in place.
fn server(directory: &tempfile::TempDir, bytes: usize) -> Server {
    let mut options = ServerOptions::new("camera".parse().unwrap());
    options.info_dir = directory.path().to_owned();
    options.listen = Vec::new();
    options.ring_bytes = 32 << 20;
    options.max_message_bytes = Some(16 << 20);
    let mut server = Server::start(options).unwrap();
    let mut loan = server.publisher().loan(bytes).unwrap();
    loan.push_words((0..bytes / 8).map(|word| word as u64 | (word as u64) << 32))
        .unwrap();
    loan.commit();
    server
}

fn subscribe(directory: &std::path::Path) -> Subscriber {
    let found = discovery::read(&directory.join("camera.toml"), &Trust::default()).unwrap();
    Subscriber::open(&found, Join::Oldest).unwrap()
}

/// What the pixel in the middle of an image of `bytes` bytes is.
fn expected(bytes: usize) -> u32 {
    (bytes / 2 / 8) as u32
}

fn allocated(bytes: usize, reading: Reading) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let _server = server(&directory, bytes);
    let mut subscriber = subscribe(directory.path());

    let before = ALLOCATED.get();
    let pixel = look(&mut subscriber, reading);
    let allocated = ALLOCATED.get() - before;

    assert_eq!(pixel, expected(bytes));
    allocated
}

#[test]
fn reader_in_place_allocates_nothing_and_one_that_copies_is_noticed() {
    for bytes in SIZES {
        assert_eq!(allocated(bytes, Reading::InPlace), 0, "{bytes}");
        assert!(allocated(bytes, Reading::Copying) >= bytes);
    }
}

const DIRECTORY: &str = "LAPWING_TEST_DIRECTORY";
const READING: &str = "LAPWING_TEST_READING";

/// Kibibytes of shared memory that this process has touched.
fn resident_shared_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// Not a test of its own: the reading process of the tests below, which start it with an environment.
#[test]
fn reading_process() {
    let Some(directory) = env::var_os(DIRECTORY) else {
        return;
    };
    let reading = if env::var(READING).unwrap() == "copying" {
        Reading::Copying
    } else {
        Reading::InPlace
    };
    let mut subscriber = subscribe(directory.as_ref());
    let before = resident_shared_kib();
    let pixel = look(&mut subscriber, reading);
    let after = resident_shared_kib();
    println!("pixel {pixel} touched {}", after - before);
}

/// Runs the reading process on an image of `bytes` bytes, under `tool` if there is one. Returns its output.
fn read_elsewhere(bytes: usize, reading: &str, tool: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let _server = server(&directory, bytes);
    let program = env::current_exe().unwrap();
    let arguments = ["--exact", "reading_process", "--nocapture", "--test-threads=1"];
    let mut command = match tool {
        [] => Command::new(&program),
        [tool, options @ ..] => {
            let mut command = Command::new(tool);
            command.args(options).arg(&program);
            command
        }
    };
    let output = command
        .args(arguments)
        .env(DIRECTORY, directory.path())
        .env(READING, reading)
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(number_behind(&text, "pixel "), Some(expected(bytes) as usize), "{text}");
    text
}

fn number_behind(text: &str, label: &str) -> Option<usize> {
    let (_, rest) = text.split_once(label)?;
    rest.split_whitespace().next()?.replace(',', "").parse().ok()
}

#[test]
fn reader_in_place_touches_a_few_pages_and_one_that_copies_is_noticed() {
    // The kernel maps what lies around a page along with it.
    const FEW_KIB: usize = 64 * PAGE_BYTES / 1024;
    for bytes in SIZES {
        let touched = |reading| number_behind(&read_elsewhere(bytes, reading, &[]), "touched ").unwrap();
        let (in_place, copying) = (touched("in place"), touched("copying"));
        eprintln!("{bytes} bytes: in place {in_place} KiB touched, copying {copying}");
        assert!(in_place <= FEW_KIB, "{in_place} KiB of {bytes} bytes");
        // Some of a small image is mapped with the header already.
        assert!(copying >= (bytes >> 10) - FEW_KIB.min(bytes >> 10), "{copying} KiB");
    }
}

#[test]
fn reader_in_place_executes_as_many_instructions_for_any_size() {
    let callgrind = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--collect-atstart=no",
        "--toggle-collect=zero_copy::look",
    ];
    if let Err(error) = Command::new(callgrind[0]).arg("--version").output() {
        eprintln!("SKIPPED: no valgrind: {error}");
        return;
    }
    let instructions = |bytes, reading| {
        let output = read_elsewhere(bytes, reading, &callgrind);
        number_behind(&output, "Collected :").unwrap_or_else(|| panic!("{output}"))
    };
    let in_place = SIZES.map(|bytes| instructions(bytes, "in place"));
    eprintln!("instructions in place: {in_place:?}");
    assert!(in_place[0] > 0, "nothing was counted");
    assert_eq!(in_place, [in_place[0]; 3]);
    // A copy takes at least one instruction for each word.
    let copying = instructions(SIZES[0], "copying");
    eprintln!("instructions copying {} bytes: {copying}", SIZES[0]);
    assert!(copying > in_place[0] + SIZES[0] / 8);
}
