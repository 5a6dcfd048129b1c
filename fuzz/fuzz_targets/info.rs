//! Info files: any text gives an info that survives being written and read again, or an error fit for a terminal; and what
//! is too long is refused, whatever it says.
#![no_main]

use lapwing::discovery::{Info, InfoError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parsed = Info::parse(text);
    match &parsed {
        Ok(info) => {
            let written = info.to_toml();
            assert!(written.len() <= Info::MAX_BYTES);
            let again = Info::parse(&written);
            assert_eq!(again.as_ref(), Ok(info));
            assert_eq!(again.map(|info| info.to_toml()), Ok(written));
            assert_ne!(info.incarnation, lapwing::Incarnation::NIL);
            assert!(info.shared_memory.is_none_or(|memory| memory.id >= 0));
            let addresses = info.socket.iter().flat_map(|socket| &socket.addresses);
            assert!(addresses.clone().count() <= Info::MAX_ADDRESSES && addresses.clone().all(|a| a.port() != 0));
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
    }
    // Blank lines up to the limit change nothing, one byte more does.
    if parsed.is_ok() {
        let mut padded = format!("{text}\n");
        padded.extend(std::iter::repeat_n('\n', Info::MAX_BYTES.saturating_sub(padded.len())));
        assert_eq!(Info::parse(&padded), parsed);
        padded.push('\n');
        assert_eq!(Info::parse(&padded), Err(InfoError::TooLarge { bytes: padded.len() }));
    }
});
