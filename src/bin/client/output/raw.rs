//! Payloads and newlines, for pipes: `client ./info --follow --format raw | grep ...`.

/// Ends a payload that begins at `start` of `out`: cuts it to `truncate` bytes and puts the newline behind it.
#[inline]
pub(crate) fn finish(out: &mut Vec<u8>, start: usize, truncate: Option<usize>) {
    if let Some(limit) = truncate {
        out.truncate(start.saturating_add(limit));
    }
    out.push(b'\n');
}

/// Appends a payload and a newline.
pub(crate) fn message(out: &mut Vec<u8>, payload: &[u8], truncate: Option<usize>) {
    let start = out.len();
    out.extend_from_slice(payload);
    finish(out, start, truncate);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_comes_out_byte_for_byte() {
        let mut out = Vec::new();

        message(&mut out, b"\x1b[31m\xff\0", None);
        message(&mut out, b"", None);
        message(&mut out, b"abcdef", Some(4));

        assert_eq!(out, b"\x1b[31m\xff\0\n\nabcd\n");
    }
}
