//! Numbers for people: times, rates and sizes in three digits or so.

use std::time::Duration;

/// A time: `850 ns`, `7.2 us`, `31 ms`, `1.5 s`, `12 m`, `3 h`, `4 d`.
pub(crate) fn time(time: Duration) -> String {
    const STEPS: [(&str, f64); 6] = [
        ("ns", 1e3),
        ("us", 1e3),
        ("ms", 1e3),
        ("s", 60.0),
        ("m", 60.0),
        ("h", 24.0),
    ];
    let mut value = time.as_nanos() as f64;
    for (unit, limit) in STEPS {
        if value < limit {
            return format!("{} {unit}", three_digits(value));
        }
        value /= limit;
    }
    format!("{} d", three_digits(value))
}

/// Something per second: `0.5/s`, `12/s`, `1.2k/s`, `3.4M/s`.
pub(crate) fn rate(count: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds <= 0.0 {
        return "-".to_owned();
    }
    format!("{}/s", thousands(count as f64 / seconds))
}

/// A number of bytes: `512 B`, `1.2 kB`, `3.4 MB`.
pub(crate) fn bytes(count: u64) -> String {
    let text = thousands(count as f64);
    match text.strip_suffix(|unit: char| unit.is_ascii_alphabetic()) {
        Some(number) => format!("{number} {}B", &text[number.len()..]),
        None => format!("{text} B"),
    }
}

fn thousands(mut value: f64) -> String {
    for unit in ["", "k", "M", "G", "T"] {
        if value < 999.5 {
            return format!("{}{unit}", three_digits(value));
        }
        value /= 1000.0;
    }
    format!("{}P", three_digits(value))
}

fn three_digits(value: f64) -> String {
    if value >= 9.95 {
        return format!("{value:.0}");
    }
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_fits() {
        let shown: Vec<String> = [0, 850, 7_200, 31_000_000, 1_500_000_000, 720_000_000_000]
            .map(|ns| time(Duration::from_nanos(ns)))
            .to_vec();

        assert_eq!(shown, ["0 ns", "850 ns", "7.2 us", "31 ms", "1.5 s", "12 m"]);
        assert_eq!(time(Duration::from_secs(4 * 24 * 3600)), "4 d");
        assert_eq!(time(Duration::MAX).split(' ').nth(1), Some("d"));
    }

    #[test]
    fn rates_and_sizes_have_three_digits_or_so() {
        assert_eq!(rate(1, Duration::from_secs(2)), "0.5/s");
        assert_eq!(rate(2_400, Duration::from_secs(2)), "1.2k/s");
        assert_eq!(rate(12_000_000, Duration::from_secs(1)), "12M/s");
        assert_eq!(rate(1, Duration::ZERO), "-");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(999_999), "1 MB");
        assert_eq!(bytes(1_234), "1.2 kB");
        assert_eq!(bytes(u64::MAX), "18447 PB");
    }
}
