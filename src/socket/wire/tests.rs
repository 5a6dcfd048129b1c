use super::*;
use crate::socket::Decoder;

/// What the worked example of `docs/protocol.md` says, as frames.
fn example() -> (Vec<ServerFrame<'static>>, Vec<ClientFrame>) {
    let incarnation = Incarnation::from_bytes(*b"0123456789abcdef");
    let server = vec![
        ServerFrame::Hello(Hello {
            incarnation,
            head: 42,
            oldest: 10,
            max_message_bytes: 16384,
            heartbeat_ms: 1000,
            silence_ms: 10_000,
            connections: 1,
            closed: false,
            offers: true,
            name: "prices".into(),
        }),
        ServerFrame::Offer(Offer {
            policy: LosslessPolicy::Evict(Duration::from_secs(5)),
            max_subscribers: 64,
            subscribers: 1,
            evicted: 2,
            holder: Some((1200, 30, "process 7 at [::1]:9".into())),
        }),
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
            reason: "full".into(),
        },
        ServerFrame::Lease {
            first: 42,
            missed: 0,
            live: 42,
            control: "/lapwing-0".into(),
        },
        ServerFrame::Evicted { next: 40 },
    ];
    let client = vec![
        ClientFrame::Subscribe {
            incarnation: Incarnation::NIL,
            join: Join::Latest(1),
        },
        ClientFrame::Progress { next: 42 },
        ClientFrame::Claim {
            incarnation: Incarnation::NIL,
            join: Join::New,
            memory: true,
            pid: 4711,
        },
    ];
    (server, client)
}

/// The bytes of every frame in the document: lines of hexadecimal digits inside blocks marked `hex`, in which
/// an empty line ends a frame and `|` begins a remark.
fn documented_frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut inside = false;
    for line in include_str!("../../../docs/protocol.md").lines() {
        if line.starts_with("```") {
            inside = line == "```hex";
            frames.push(Vec::new());
        } else if line.is_empty() {
            frames.push(Vec::new());
        } else if inside {
            let digits = line.split('|').next().unwrap().split_whitespace();
            let bytes = digits.map(|byte| u8::from_str_radix(byte, 16).unwrap());
            frames.last_mut().unwrap().extend(bytes);
        }
    }
    frames.retain(|frame| !frame.is_empty());
    frames
}

#[test]
fn worked_example_of_the_document_is_what_the_codec_speaks() {
    let (server, client) = example();
    let mut expected = Vec::new();
    for frame in &server {
        let mut bytes = Vec::new();
        frame.append_to(&mut bytes);
        expected.push(bytes);
    }
    for frame in &client {
        let mut bytes = Vec::new();
        frame.append_to(&mut bytes);
        expected.push(bytes);
    }

    let documented = documented_frames();

    for (documented, expected) in documented.iter().zip(&expected) {
        assert_eq!(documented, expected, "the codec says {expected:02x?}");
    }
    assert_eq!(documented.len(), expected.len());
    let mut decoder = Decoder::of_server(0);
    documented[..server.len()].iter().for_each(|bytes| decoder.push(bytes));
    server
        .iter()
        .for_each(|frame| assert_eq!(decoder.server_frame().unwrap().as_ref(), Some(frame)));
    let mut decoder = Decoder::of_client();
    documented[server.len()..].iter().for_each(|bytes| decoder.push(bytes));
    client
        .iter()
        .for_each(|frame| assert_eq!(decoder.client_frame().unwrap(), Some(*frame)));
}

#[test]
fn name_that_is_too_long_is_cut_where_a_character_ends() {
    let (server, _) = example();
    let ServerFrame::Hello(mut hello) = server[0].clone() else {
        unreachable!()
    };
    hello.name = "\u{e4}".repeat(200);
    let mut bytes = Vec::new();

    ServerFrame::Hello(hello).append_to(&mut bytes);

    let mut decoder = Decoder::of_server(0);
    decoder.push(&bytes);
    let Some(ServerFrame::Hello(hello)) = decoder.server_frame().unwrap() else {
        panic!("no hello")
    };
    assert_eq!(hello.name, "\u{e4}".repeat(127));
}

#[test]
fn nothing_is_said_of_a_holder_without_a_name() {
    let mut bytes = Vec::new();
    ServerFrame::Offer(Offer {
        policy: LosslessPolicy::Block,
        max_subscribers: 1,
        subscribers: 1,
        evicted: 0,
        holder: Some((5, 7, String::new())),
    })
    .append_to(&mut bytes);

    let mut decoder = Decoder::of_server(0);
    decoder.push(&bytes);
    let Some(ServerFrame::Offer(offer)) = decoder.server_frame().unwrap() else {
        panic!("no offer")
    };
    assert_eq!(offer.holder, None);

    // A server that says something of it all the same.
    bytes[HEADER_BYTES + 12] = 5;
    finish(&mut bytes, 0);
    let mut decoder = Decoder::of_server(0);
    decoder.push(&bytes);
    assert_eq!(decoder.server_frame(), Err(FrameError::Field("holder without a name")));
}

#[test]
fn hello_with_impossible_fields_is_refused() {
    let (server, _) = example();
    let ServerFrame::Hello(hello) = server[0].clone() else {
        unreachable!()
    };
    for (wrong, field) in [
        (
            Hello {
                oldest: 43,
                ..hello.clone()
            },
            "oldest sequence",
        ),
        (
            Hello {
                max_message_bytes: (1 << 30) + 1,
                ..hello.clone()
            },
            "longest message",
        ),
        (
            Hello {
                heartbeat_ms: 0,
                ..hello.clone()
            },
            "heartbeat interval or silence deadline",
        ),
        (
            Hello {
                silence_ms: 600_001,
                ..hello.clone()
            },
            "heartbeat interval or silence deadline",
        ),
        (
            Hello {
                silence_ms: 1000,
                ..hello
            },
            "heartbeat interval or silence deadline",
        ),
    ] {
        let mut bytes = Vec::new();
        ServerFrame::Hello(wrong).append_to(&mut bytes);
        let mut decoder = Decoder::of_server(0);

        decoder.push(&bytes);

        assert_eq!(decoder.server_frame(), Err(FrameError::Field(field)));
    }
}
