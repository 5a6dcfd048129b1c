//! cargo run --manifest-path fuzz/Cargo.toml --example seeds
//!
//! Writes the corpora that fuzzing starts from: a few small valid inputs for each target.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use lapwing::discovery::{Info, SharedMemory, Socket};
use lapwing::layout::{Header, LAYOUT_VERSION, MAGIC};
use lapwing::socket::frame::{ClientFrame, Hello, RejectCode, ServerFrame, VERSION};
use lapwing::{Incarnation, Join};

fn write(target: &str, name: &str, bytes: &[u8]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&directory).expect("the corpus is writable");
    fs::write(directory.join(name), bytes).expect("the corpus is writable");
}

/// A header laid by hand, as docs/memory-layout.md says.
fn header(slots: u64, slot_bytes: u64, arena_bytes: u64) -> Vec<u8> {
    let mut bytes = vec![0; 256];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &MAGIC);
    put(8, &LAYOUT_VERSION.to_ne_bytes());
    put(12, &0x0102_0304_u32.to_ne_bytes());
    let segment_bytes = 4096 + (slots * slot_bytes).next_multiple_of(4096) + arena_bytes;
    for (i, number) in [slot_bytes, slots, arena_bytes, arena_bytes / 4, segment_bytes]
        .iter()
        .enumerate()
    {
        put(16 + 8 * i, &number.to_ne_bytes());
    }
    put(80, &[0xab; 16]);
    put(96, b"prices");
    put(248, &6_u32.to_ne_bytes());
    let checksum = crc32c::crc32c(&bytes[..252]);
    bytes[252..].copy_from_slice(&checksum.to_ne_bytes());
    Header::parse(&bytes).expect("a header as the documentation lays it");
    bytes
}

fn info() -> Info {
    let incarnation = Incarnation::from_bytes([0xab; 16]);
    let mut info = Info::of_this_process("prices".parse().expect("a name"), incarnation);
    // The same on every machine.
    (info.pid, info.started_unix_ns, info.uid, info.gid) = (4242, 1_790_000_000_000_000_000, 1000, 1000);
    info.boot_id = "9a1ce1bd-0f52-4ac8-a7a0-1b2f0e3d4c5b".parse().ok();
    info.ipc_namespace = Some(4_026_531_839);
    info
}

fn frames() -> (Vec<u8>, Vec<u8>) {
    let incarnation = Incarnation::from_bytes(*b"0123456789abcdef");
    let hello = Hello {
        incarnation,
        head: 42,
        oldest: 10,
        max_message_bytes: 16384,
        heartbeat_ms: 1000,
        silence_ms: 10_000,
        connections: 1,
        closed: false,
        offers: false,
        name: "prices".to_owned(),
    };
    let server = [
        ServerFrame::Hello(hello),
        ServerFrame::Start { first: 41, missed: 0 },
        ServerFrame::Message {
            sequence: 41,
            timestamp_ns: 1_700_000_000_000_000_000,
            tag: 7,
            payload: b"hello",
        },
        ServerFrame::Heartbeat { head: 42 },
        ServerFrame::Gap { first: 42, missed: 3 },
        ServerFrame::End { head: 45 },
        ServerFrame::Reject {
            code: RejectCode::TooManyConnections,
            reason: "full".to_owned(),
        },
    ];
    let client = [
        ClientFrame::Subscribe {
            incarnation,
            join: Join::Latest(1),
        },
        ClientFrame::Progress { next: 42 },
    ];
    let (mut server_bytes, mut client_bytes) = (vec![2, 6], vec![3, 0]);
    server.iter().for_each(|frame| frame.append_to(&mut server_bytes));
    client.iter().for_each(|frame| frame.append_to(&mut client_bytes));
    (server_bytes, client_bytes)
}

fn main() {
    write("header", "default", &header(4096, 128, 64 << 10));
    write("header", "smallest", &header(2, 64, 4096));

    let mut info = info();
    write("info", "neither", info.to_toml().as_bytes());
    info.shared_memory = Some(SharedMemory {
        id: 7,
        bytes: 131_072,
        layout: LAYOUT_VERSION,
    });
    info.socket = Some(Socket {
        protocol: VERSION.into(),
        addresses: ["127.0.0.1:40123", "[::1]:40123"]
            .map(|text| text.parse::<SocketAddr>().expect("an address"))
            .to_vec(),
    });
    write("info", "both", info.to_toml().as_bytes());

    let (server, client) = frames();
    write("frames", "server", &server);
    write("frames", "client", &client);

    // Shape of the ring, then orders: see src/ring/fuzzing.rs.
    write(
        "slot",
        "publish-and-poll",
        &[1, 0, 20, 1, 0, 255, 0, 200, 2, 0, 255, 1, 0, 255],
    );
    write("slot", "overtaken", &[0, 12, 31, 1, 0, 3, 16, 1, 0, 255, 1, 0, 255, 3]);
    write(
        "slot",
        "overtaken-while-read",
        &[0, 0, 8, 1, 0, 3, 31, 1, 0, 255, 1, 0, 255],
    );
    write(
        "slot",
        "large",
        &[9, 8, 0, 12, 1, 5, 2, 255, 15, 1, 0, 255, 8, 0, 4, 1, 0, 255],
    );
    write(
        "slot",
        "vandal",
        &[2, 0, 8, 20, 0, 1, 9, 2, 1, 0, 20, 0, 0, 3, 1, 3, 0, 255],
    );
}
