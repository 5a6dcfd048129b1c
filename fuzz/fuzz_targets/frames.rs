//! The frames on TCP, both directions: however the bytes are split and whenever frames are asked for, the same frames
//! come out, and what comes out has the bytes that went in.
//!
//! Input: one byte of flags (1: sent by a client, 2: give the frames checksums that fit), one with the number of cuts, the
//! cuts (6 bits: the length of a piece; 128: frames are asked for behind it), then the stream.
#![no_main]

use lapwing::socket::Decoder;
use lapwing::socket::frame::{FrameError, HEADER_BYTES, ServerFrame};
use libfuzzer_sys::fuzz_target;

/// The bytes of all frames that were decoded, and the error that ended it.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    bytes: Vec<u8>,
    error: Option<FrameError>,
}

/// Takes the frame at the front and appends its bytes to `bytes`. Whether there was one.
fn take(decoder: &mut Decoder, from_client: bool, bytes: &mut Vec<u8>) -> Result<bool, FrameError> {
    let at_front = decoder.front();
    let mut longest = None;
    let taken = if from_client {
        decoder
            .client_frame()
            .map(|frame| frame.map(|frame| frame.append_to(bytes)))
    } else {
        decoder.server_frame().map(|frame| {
            frame.map(|frame| {
                if let ServerFrame::Hello(hello) = &frame {
                    longest = Some(hello.max_message_bytes);
                }
                frame.append_to(bytes);
            })
        })
    };
    longest.inspect(|&longest| decoder.allow_messages(longest));
    match at_front {
        Ok(kind) => assert!(kind.is_some() || taken == Ok(None)),
        Err(error) => assert_eq!(taken, Err(error)),
    }
    taken.map(|frame| frame.is_some())
}

fn decode(mut stream: &[u8], from_client: bool, cuts: &[u8]) -> Decoded {
    let mut decoder = if from_client {
        Decoder::of_client()
    } else {
        Decoder::of_server(0)
    };
    let mut bytes = Vec::new();
    let mut cuts = cuts.iter();
    while !stream.is_empty() {
        // Without a cut, the rest at once.
        let (len, asks) = cuts
            .next()
            .map_or((usize::MAX, true), |&cut| (usize::from(cut & 63) + 1, cut & 128 != 0));
        let (piece, rest) = stream.split_at(len.min(stream.len()));
        decoder.push(piece);
        stream = rest;
        while asks || stream.is_empty() {
            match take(&mut decoder, from_client, &mut bytes) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    // Nothing is read behind an error, whatever comes.
                    decoder.push(rest);
                    for _ in 0..2 {
                        assert_eq!(take(&mut decoder, from_client, &mut bytes), Err(error));
                    }
                    return Decoded {
                        bytes,
                        error: Some(error),
                    };
                }
            }
        }
        // What was only announced takes no room.
        let room = decoder.space().len();
        assert!(room > 0 && room <= 2 * (piece.len() + cuts.len() * 64) + 2 * bytes.len() + 4096);
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
    let Some((&[flags, count], rest)) = input.split_first_chunk() else {
        return;
    };
    let (cuts, stream) = rest.split_at(usize::from(count).min(rest.len()));
    let mut stream = stream.to_vec();
    if flags & 2 != 0 {
        mend(&mut stream);
    }
    let from_client = flags & 1 != 0;

    let whole = decode(&stream, from_client, &[]);
    let split = decode(&stream, from_client, cuts);

    assert!(stream.starts_with(&whole.bytes), "re-encoded to other bytes");
    assert_eq!(whole, split);
});
