//! How long the commands take to start and to end: a server until it is announced, and until it is gone again after an
//! empty input; the client for one look at one server, and both for their help.
//!
//! A server whose input has ended stays for 200 ms at least, for followers that waited for it: that is in the figure.

mod stand;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use lapwing::discovery::{self, Trust};
use rustix::process::{Pid, Signal, kill_process};
use stand::Stand;

const SERVER: &str = env!("CARGO_BIN_EXE_server");
const CLIENT: &str = env!("CARGO_BIN_EXE_client");
const NAME: &str = "start-up";
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server; killed if it is not waited for.
struct Running(Child);

impl Running {
    /// Starts one that announces itself in `directory`, and ends with its input if it has none.
    fn start(directory: &Path, input: Stdio) -> Self {
        let mut command = Command::new(SERVER);
        command
            .args(["--name", NAME, "--exit-at-end", "--info-dir"])
            .arg(directory);
        let child = command.stdin(input).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("a command of this project"))
    }

    /// Waits for its end, and checks that it was a good one and leaves nothing.
    fn finish(mut self, directory: &Path) {
        assert!(self.0.wait().expect("a child").success(), "the server failed");
        assert!(!info_file(directory).exists(), "its info file is left");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Most often it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn info_file(directory: &Path) -> std::path::PathBuf {
    directory.join(NAME).with_extension("toml")
}

/// Looks until the server is announced.
fn wait_until_announced(directory: &Path) {
    let start = Instant::now();
    while discovery::read(&info_file(directory), &Trust::default()).is_err() {
        assert!(start.elapsed() < PATIENCE, "no server is announced");
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn server(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    let mut group = criterion.benchmark_group("start up/server");
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function("announced", |bencher| {
        bencher.iter_custom(|iterations| {
            let time = |_| {
                let start = Instant::now();
                let running = Running::start(directory, Stdio::piped());
                wait_until_announced(directory);
                let took = start.elapsed();
                let pid = Pid::from_raw(running.0.id().cast_signed()).expect("a process");
                kill_process(pid, Signal::TERM).expect("a child");
                running.finish(directory);
                took
            };
            (0..iterations).map(time).sum()
        });
    });
    group.bench_function("announced and gone, no input", |bencher| {
        bencher.iter(|| {
            let running = Running::start(directory, Stdio::null());
            wait_until_announced(directory);
            running.finish(directory);
        });
    });
    group.finish();
}

/// Runs a command to its end, which is to be a good one.
fn run(command: &mut Command) -> Output {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("a command of this project");
    assert!(output.status.success(), "{output:?}");
    output
}

fn client(criterion: &mut Criterion) {
    let mut stand = Stand::new(NAME, |_| {});
    stand.server.publisher().publish(b"here").expect("short enough");
    let mut group = criterion.benchmark_group("start up/client");
    group.bench_function("one look", |bencher| {
        bencher.iter(|| {
            let output = run(Command::new(CLIENT).arg(stand.directory()));
            let text = String::from_utf8(output.stdout).expect("text");
            assert!(text.contains(NAME) && text.contains("Host"), "{text}");
        });
    });
    group.finish();
}

fn help(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start up/help");
    for (name, program) in [("server", SERVER), ("client", CLIENT)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert!(!run(Command::new(program).arg("--help")).stdout.is_empty()));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(10)
        .nresamples(10_000)
        .configure_from_args();
    server(&mut criterion);
    client(&mut criterion);
    help(&mut criterion);
    criterion.final_summary();
}
