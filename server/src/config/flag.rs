//! What a flag is: its name, the kind of its value, its default, and what we do about it.
//!
//! One idea: the table in `flags.rs` is data; the command line, the environment and the
//! configuration file all go through [`Kind::check`], so a bad value has one text everywhere, and
//! it is the text of Go's `flag` package, which etcd uses.

use super::duration;
use super::features;
use super::url;

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// The kind of its value.
    pub kind: Kind,
    /// Its value if it is not given.
    pub default: &'static str,
    /// What we do about it.
    pub support: Support,
    /// For `--help`.
    pub help: &'static str,
}

/// What we do about a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It does what it does in etcd.
    Works,
    /// It will do what it does in etcd; for now it is checked and accepted, with a warning.
    Later,
    /// It has no meaning here, and ignoring it harms nobody: accepted, with a warning.
    Ignored,
}

/// The kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`; on the command line the value may be left out.
    Bool,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint,
    /// Signed, 64 bits.
    Int,
    /// Go's durations, such as `1h30m`.
    Duration,
    /// Any text.
    Text,
    /// Texts separated by commas.
    List,
    /// URLs separated by commas; may be empty.
    Urls,
    /// As `Urls`, or `*`.
    Origins,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// One of these; the reason for refusing another names it once more, as etcd's does.
    Phase(&'static [&'static str]),
    /// `Gate=true,Other=false`.
    FeatureGates,
}

impl Kind {
    /// Checks a value as Go's `flag` package and etcd's value types do.
    ///
    /// # Errors
    /// The part of the message after `invalid value "x" for flag -y: `.
    pub fn check(self, value: &str) -> Result<(), String> {
        match self {
            Self::Bool => parse_bool(value).map(drop).ok_or_else(|| "parse error".to_owned()),
            Self::Uint32 => parse_unsigned(value, u64::from(u32::MAX)).map(drop),
            Self::Uint => parse_unsigned(value, u64::MAX).map(drop),
            Self::Int => parse_signed(value).map(drop),
            Self::Duration => {
                duration::parse(value).map(drop).ok_or_else(|| "parse error".to_owned())
            }
            Self::Text | Self::List => Ok(()),
            Self::Urls if value.is_empty() => Ok(()),
            Self::Origins if value.is_empty() || value == "*" => Ok(()),
            Self::Urls | Self::Origins => url::parse_list(value).map(drop),
            Self::OneOf(valid) | Self::Phase(valid) if valid.contains(&value) => Ok(()),
            Self::Phase(_) => Err(format!("invalid value {value:?}")),
            Self::OneOf(_) => Err("invalid value".to_owned()),
            Self::FeatureGates => features::Gates::parse(value).map(drop),
        }
    }
}

/// Go's `strconv.ParseBool`.
pub fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `strconv.ParseUint(value, 0, ..)`: decimal, or with prefix `0x`, `0o`, `0b`.
///
/// # Errors
/// `parse error` or `value out of range`.
pub fn parse_unsigned(value: &str, max: u64) -> Result<u64, String> {
    let (digits, radix) = split_radix(value);
    let well_formed = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    if !well_formed {
        return Err("parse error".to_owned());
    }
    u64::from_str_radix(digits, radix)
        .ok()
        .filter(|number| *number <= max)
        .ok_or_else(|| "value out of range".to_owned())
}

/// Go's `strconv.ParseInt(value, 0, 64)`.
///
/// # Errors
/// `parse error` or `value out of range`.
pub fn parse_signed(value: &str) -> Result<i64, String> {
    let (negative, magnitude) = match value.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, value.strip_prefix('+').unwrap_or(value)),
    };
    let magnitude = i128::from(parse_unsigned(magnitude, u64::MAX)?);
    let number = if negative { -magnitude } else { magnitude };
    i64::try_from(number).map_err(|_| "value out of range".to_owned())
}

fn split_radix(value: &str) -> (&str, u32) {
    let lower = value.get(..2).map(str::to_ascii_lowercase);
    match lower.as_deref() {
        Some("0x") => (&value[2..], 16),
        Some("0o") => (&value[2..], 8),
        Some("0b") => (&value[2..], 2),
        _ => (value, 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::flags;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        assert_eq!(parse_unsigned("10", u64::MAX), Ok(10));
        assert_eq!(parse_unsigned("0x10", u64::MAX), Ok(16));
        assert_eq!(
            parse_unsigned("4294967296", u64::from(u32::MAX)),
            Err("value out of range".into())
        );
        for malformed in ["", "-1", "1k", "0x", " 1", "+1"] {
            assert_eq!(
                parse_unsigned(malformed, u64::MAX),
                Err("parse error".into()),
                "{malformed}"
            );
        }
        assert_eq!(parse_signed("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_signed("9223372036854775808"), Err("value out of range".into()));
        assert_eq!(parse_bool("T"), Some(true));
        assert_eq!(parse_bool("yes"), None);
    }

    #[test]
    fn a_choice_that_is_none_is_refused_in_the_words_of_its_flag() {
        let refused = |name: &str| flags::find(name).unwrap().kind.check("not-yet");
        assert_eq!(refused("initial-cluster-state"), Err("invalid value".to_owned()));
        assert_eq!(refused("v2-deprecation"), Err("invalid value \"not-yet\"".to_owned()));
    }
}
