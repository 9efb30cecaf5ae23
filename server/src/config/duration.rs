//! Durations as Go writes them: `1h30m`, `300ms`, `-1.5s`, `0`.

use std::time::Duration;

/// Units with their length in nanoseconds. Longer names first where one begins another.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 6e10),
    ("h", 3.6e12),
];

/// Nanoseconds of a duration; `None` if it is malformed or does not fit 63 bits.
pub fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() {
        let number_length =
            rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let number: f64 = rest[..number_length].parse().ok()?;
        rest = &rest[number_length..];
        let unit_length = rest
            .find(|character: char| character.is_ascii_digit() || character == '.')
            .unwrap_or(rest.len());
        let (_, length) = UNITS.iter().find(|(unit, _)| *unit == &rest[..unit_length])?;
        nanos += number * length;
        rest = &rest[unit_length..];
    }
    if nanos >= i64::MAX as f64 {
        return None;
    }
    let nanos = nanos.round() as i64;
    Some(if negative { -nanos } else { nanos })
}

/// A duration that cannot be negative; negative ones become zero.
pub fn at_least_zero(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// As Go's `Duration.String`: `1m30s`, `100ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (unit, length) in [("ns", 1_000u128), ("us", 1_000_000), ("ms", 1_000_000_000)] {
        if nanos < length {
            return format!("{}{unit}", decimal(nanos, length / 1_000));
        }
    }
    let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
    let minutes = nanos / 60_000_000_000;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn decimal(value: u128, unit: u128) -> String {
    let fraction = value % unit;
    if fraction == 0 {
        return (value / unit).to_string();
    }
    let digits = unit.ilog10() as usize;
    let fraction = format!("{fraction:0digits$}");
    format!("{}.{}", value / unit, fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("-2ms", Some(-2_000_000)),
            ("3\u{b5}s", Some(3_000)),
            ("7ns", Some(7)),
            (".5s", Some(500_000_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("5 s", None),
            ("5d", None),
            ("1h-1m", None),
            ("99999999999h", None),
        ] {
            assert_eq!(parse(text), nanos, "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for text in ["0s", "1ns", "1.5us", "100ms", "1s", "1.25s", "1m0s", "2h0m0s", "1h2m3.5s"] {
            let duration = Duration::from_nanos(parse(text).unwrap() as u64);
            assert_eq!(format(duration), text);
        }
    }
}
