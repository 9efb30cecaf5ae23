//! `grpc-status`, `grpc-message` and `grpc-timeout` on the wire.
//!
//! One idea: the status type is the one of `varve_api::error`, whose texts are etcd's; here it
//! only becomes headers. Success costs one static header.
//!
//! Source: gRPC over HTTP/2, sections `Responses` and `Timeout`; percent-encoding as grpc-go's
//! `encodeGrpcMessage`.

use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

pub use varve_api::error::{Code, Status};

/// Name of the header with the numeric status code.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Name of the header with the percent-encoded message.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The content type of every gRPC response.
pub const GRPC_CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Longest `grpc-timeout` value: eight digits and a unit.
const TIMEOUT_LENGTH_MAX: usize = 9;

/// What a call that outlived its `grpc-timeout` ends with.
pub fn deadline_exceeded() -> Status {
    Status::new(Code::DeadlineExceeded, "context deadline exceeded")
}

/// The trailers that end a call.
pub fn trailers(outcome: &Result<(), Status>) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(2);
    match outcome {
        Ok(()) => {
            map.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        }
        Err(status) => append(&mut map, status),
    }
    map
}

/// Adds the two headers of an error.
pub fn append(map: &mut HeaderMap, status: &Status) {
    map.insert(GRPC_STATUS, HeaderValue::from(u16::from(status.code.number())));
    if !status.message.is_empty() {
        let message = percent_encode(&status.message);
        let value = HeaderValue::try_from(message)
            .expect("percent-encoded text has only visible ASCII characters");
        map.insert(GRPC_MESSAGE, value);
    }
}

/// What a call came to, if `map` is the trailers (or the headers without a body) that end it.
pub fn read(map: &HeaderMap) -> Option<Result<(), Status>> {
    let code = Code::from_number(map.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()?)?;
    if code == Code::Ok {
        return Some(Ok(()));
    }
    let message = map.get(GRPC_MESSAGE).map_or(&b""[..], HeaderValue::as_bytes);
    Some(Err(Status::new(code, percent_decode(message))))
}

/// Keeps printable ASCII except `%`; everything else becomes `%XX`, byte by byte.
fn percent_encode(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    encoded
}

/// The inverse of [`percent_encode`].
fn percent_decode(encoded: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let [byte, after @ ..] = rest {
        let hex = match rest {
            [b'%', high, low, ..] => {
                char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16))
            }
            _ => None,
        };
        match hex {
            Some((high, low)) => {
                decoded.push((high * 16 + low) as u8);
                rest = &rest[3..];
            }
            None => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Parses `grpc-timeout`: at most eight digits and a unit of H, M, S, m, u, n.
///
/// # Errors
/// Internal with grpc-go's text if it is malformed.
pub fn parse_timeout(value: &[u8]) -> Result<Duration, Status> {
    let malformed = |what: &str| {
        let shown = String::from_utf8_lossy(value);
        Status::new(Code::Internal, format!("malformed grpc-timeout: transport: {what}: {shown:?}"))
    };
    if value.len() < 2 {
        return Err(malformed("timeout string is too short"));
    }
    if value.len() > TIMEOUT_LENGTH_MAX {
        return Err(malformed("timeout string is too long"));
    }
    let (digits, unit) = value.split_at(value.len() - 1);
    let unit_nanos: u64 = match unit[0] {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return Err(malformed("timeout unit is not recognized")),
    };
    let mut amount: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(malformed("timeout is not a number"));
        }
        amount = amount * 10 + u64::from(digit - b'0');
    }
    // Go's durations end at 292 years; a longer timeout is clamped there.
    let nanos = amount.saturating_mul(unit_nanos).min(i64::MAX.unsigned_abs());
    Ok(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded_as_grpc_go_does() {
        for (plain, encoded) in [
            ("etcdserver: key not found", "etcdserver: key not found"),
            ("100%", "100%25"),
            ("two\nlines", "two%0Alines"),
            ("\u{f6}", "%C3%B6"),
        ] {
            assert_eq!(percent_encode(plain), encoded);
            let outcome = Err(Status::new(Code::NotFound, plain));
            assert_eq!(read(&trailers(&outcome)), Some(outcome));
        }
        assert_eq!(read(&trailers(&Ok(()))), Some(Ok(())));
        assert_eq!(read(&HeaderMap::new()), None);
    }

    #[test]
    fn timeouts_of_every_unit_are_read() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()).unwrap(), expected, "{text}");
        }
        assert_eq!(
            parse_timeout(b"99999999H").unwrap(),
            Duration::from_nanos(i64::MAX.unsigned_abs())
        );
        for malformed in ["", "S", "1x", "-1S", "123456789S", "S1"] {
            let status = parse_timeout(malformed.as_bytes()).unwrap_err();
            assert_eq!(status.code, Code::Internal, "{malformed}");
        }
    }

    #[test]
    fn success_has_a_status_and_no_message() {
        let map = trailers(&Ok(()));
        assert_eq!(map.get("grpc-status").unwrap(), "0");
        assert!(map.get("grpc-message").is_none());
    }
}
