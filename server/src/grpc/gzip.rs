//! gzip, the compression that etcd's servers know: a client may compress its messages, and is then
//! answered in the same way.
//!
//! One idea: whole messages only, with the bound of a message applied to what comes out, so that a
//! small message cannot become a large one. What a client accepts is not asked (grpc-go's rule): who
//! sends compressed messages gets compressed ones, nobody else does.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::status::{Code, Status};

/// The name in `grpc-encoding`.
pub const NAME: &str = "gzip";

/// The message in `compressed`, if it has at most `message_bytes_max`.
///
/// # Errors
/// grpc-go's: it is longer, or no gzip.
pub fn decompress(compressed: &[u8], message_bytes_max: usize) -> Result<Vec<u8>, Status> {
    let mut message = Vec::new();
    MultiGzDecoder::new(compressed)
        .take(message_bytes_max as u64 + 1)
        .read_to_end(&mut message)
        .map_err(|error| {
            let text = format!("grpc: failed to read decompressed data: {error}");
            Status::new(Code::Internal, text)
        })?;
    if message.len() > message_bytes_max {
        let text = format!(
            "grpc: received message after decompression larger than max {message_bytes_max}"
        );
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    Ok(message)
}

/// Compresses the parts of a message.
pub fn compress<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    for part in parts {
        encoder.write_all(part).expect("a Vec takes all that is written");
    }
    encoder.finish().expect("a Vec takes all that is written")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let compressed = compress([b"one ".as_slice(), b"two"].into_iter());
        assert_eq!(decompress(&compressed, 7).unwrap(), b"one two");
    }

    #[test]
    fn a_message_that_grows_beyond_the_bound_is_refused() {
        let compressed = compress([vec![0; 1 << 20].as_slice()].into_iter());
        assert!(compressed.len() < 4096);
        let status = decompress(&compressed, 1000).unwrap_err();
        assert_eq!(status.code, Code::ResourceExhausted);
        assert_eq!(
            status.message,
            "grpc: received message after decompression larger than max 1000"
        );
    }

    #[test]
    fn what_is_no_gzip_is_refused() {
        let whole = compress([b"message".as_slice()].into_iter());
        for bytes in [&b""[..], b"no gzip at all", &whole[..whole.len() - 1]] {
            assert_eq!(decompress(bytes, 100).unwrap_err().code, Code::Internal, "{bytes:?}");
        }
    }
}
