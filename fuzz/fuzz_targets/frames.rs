//! The frames on TCP, both directions: however the bytes are split, the same frames come out, and what comes out has
//! the bytes that went in.
//!
//! Input: one byte of flags (1: sent by a client, 2: give the frames checksums that fit), one for the length of the
//! pieces, then the stream.
#![no_main]

use lapwing::socket::Decoder;
use lapwing::socket::frame::{HEADER_BYTES, ServerFrame};
use libfuzzer_sys::fuzz_target;

/// The bytes of all frames that were decoded, and the error that ended it.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    bytes: Vec<u8>,
    error: Option<String>,
}

fn decode(stream: &[u8], from_client: bool, piece: usize) -> Decoded {
    let mut decoder = if from_client {
        Decoder::of_client()
    } else {
        Decoder::of_server(0)
    };
    let mut bytes = Vec::new();
    for (count, piece) in stream.chunks(piece).enumerate() {
        decoder.push(piece);
        loop {
            let outcome = if from_client {
                decoder
                    .client_frame()
                    .map(|frame| frame.map(|frame| frame.append_to(&mut bytes)))
            } else {
                let mut longest = None;
                let outcome = decoder.server_frame().map(|frame| {
                    frame.map(|frame| {
                        if let ServerFrame::Hello(hello) = &frame {
                            longest = Some(hello.max_message_bytes);
                        }
                        frame.append_to(&mut bytes);
                    })
                });
                longest.inspect(|&longest| decoder.allow_messages(longest));
                outcome
            };
            match outcome {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(error) => {
                    return Decoded {
                        bytes,
                        error: Some(error.to_string()),
                    };
                }
            }
        }
        // What was only announced takes no room.
        assert!(decoder.space().len() <= 2 * (count + 1) * piece.len() + 4096);
    }
    Decoded { bytes, error: None }
}

/// Gives every frame the checksum that fits.
fn mend(mut stream: &mut [u8]) {
    while let Some(&[_, _, _, _, a, b, c, d]) = stream.first_chunk::<8>() {
        let len = HEADER_BYTES.saturating_add(u32::from_le_bytes([a, b, c, d]) as usize);
        let Some((frame, rest)) = stream.split_at_mut_checked(len) else {
            return;
        };
        let checksum = crc32c::crc32c(&frame[4..]);
        frame[..4].copy_from_slice(&checksum.to_le_bytes());
        stream = rest;
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&[flags, piece], stream)) = input.split_first_chunk() else {
        return;
    };
    let mut stream = stream.to_vec();
    if flags & 2 != 0 {
        mend(&mut stream);
    }
    let from_client = flags & 1 != 0;

    let whole = decode(&stream, from_client, stream.len().max(1));
    let split = decode(&stream, from_client, usize::from(piece) + 1);

    assert!(stream.starts_with(&whole.bytes), "re-encoded to other bytes");
    assert_eq!(whole, split);
});
