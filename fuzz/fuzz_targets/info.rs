//! Info files: any text gives an info that survives being written and read again, or an error fit for a terminal.
#![no_main]

use lapwing::discovery::Info;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Info::parse(text) {
        Ok(info) => assert_eq!(Info::parse(&info.to_toml()), Ok(info)),
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
    }
});
