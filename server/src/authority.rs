//! Lets old etcd clients in whose `:authority` is a whole URL.
//!
//! etcdctl 3.4 with `--endpoints=http://host:port`, or with `--cluster`, sends the URL where HTTP/2
//! wants "host:port"; grpc-go does not look at it, the h2 crate resets the stream. So the bytes of
//! a connection are looked at on their way in until its first HEADERS frame, and there "http://"
//! becomes "httpB--": valid, and as long, both as plain text and in HPACK's Huffman code, so that
//! no length and no table size changes. Later requests of such a connection refer to the table.
//!
//! Invariants: the number of bytes never changes; nothing but that prefix of that field is touched;
//! after the first HEADERS frame (or anything that is not HTTP/2) nothing is looked at any more.
//!
//! What it does not do: find a first HEADERS frame that arrives in two reads. Such a connection is
//! served as h2 would serve it without this.

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 1;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;
/// Index of `:authority` in HPACK's static table (RFC 7541, appendix A).
const AUTHORITY_INDEX: usize = 1;

/// Follows one connection up to its first HEADERS frame.
#[derive(Debug)]
pub struct AuthorityFilter(State);

#[derive(Debug)]
enum State {
    /// So many bytes of the preface were seen.
    Preface(usize),
    /// So many bytes of a frame header were seen.
    Header([u8; FRAME_HEADER_BYTES], usize),
    /// So many bytes of a frame's payload are still to come.
    Payload(usize),
    /// Nothing more to do.
    Done,
}

impl Default for AuthorityFilter {
    fn default() -> Self {
        Self(State::Preface(0))
    }
}

impl AuthorityFilter {
    /// Looks at the next bytes of the connection, and mends them.
    pub fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() && !matches!(self.0, State::Done) {
            let (next, used) = match self.0 {
                State::Preface(seen) => preface(seen, bytes),
                State::Header(header, filled) => frame_header(header, filled, bytes),
                State::Payload(left) => {
                    let used = left.min(bytes.len());
                    (after_payload(left - used), used)
                }
                State::Done => return,
            };
            self.0 = next;
            bytes = &mut bytes[used..];
        }
    }
}

fn preface(seen: usize, bytes: &[u8]) -> (State, usize) {
    let expected = &PREFACE[seen..];
    let used = expected.len().min(bytes.len());
    if bytes[..used] != expected[..used] {
        return (State::Done, used);
    }
    if used == expected.len() {
        (after_payload(0), used)
    } else {
        (State::Preface(seen + used), used)
    }
}

fn after_payload(left: usize) -> State {
    if left == 0 { State::Header([0; FRAME_HEADER_BYTES], 0) } else { State::Payload(left) }
}

fn frame_header(
    mut header: [u8; FRAME_HEADER_BYTES],
    filled: usize,
    bytes: &mut [u8],
) -> (State, usize) {
    let used = (FRAME_HEADER_BYTES - filled).min(bytes.len());
    header[filled..filled + used].copy_from_slice(&bytes[..used]);
    if filled + used < FRAME_HEADER_BYTES {
        return (State::Header(header, filled + used), used);
    }
    let length =
        usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
    if header[3] != HEADERS {
        return (after_payload(length), used);
    }
    if let Some(payload) = bytes.get_mut(used..used + length) {
        // A block that cannot be followed is h2's to refuse.
        let _followed = mend_block(payload, header[4]);
    }
    (State::Done, used)
}

/// Walks the representations of a header block (RFC 7541, section 6) to `:authority`.
fn mend_block(payload: &mut [u8], flags: u8) -> Option<()> {
    let mut at = if flags & FLAG_PADDED != 0 { 1 } else { 0 };
    at += if flags & FLAG_PRIORITY != 0 { 5 } else { 0 };
    while at < payload.len() {
        let first = payload[at];
        let index_bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = integer(payload, &mut at, index_bits)?;
        if matches!(first, 0x80.. | 0x20..0x40) {
            // A reference to the table, or a change of its size.
            continue;
        }
        let mut is_authority = index == AUTHORITY_INDEX;
        if index == 0 {
            let name = string(payload, &mut at)?;
            is_authority = payload.get(name.range)? == b":authority";
        }
        let value = string(payload, &mut at)?;
        if is_authority {
            mend_value(payload.get_mut(value.range)?, value.is_huffman);
            return Some(());
        }
    }
    None
}

struct Text {
    range: std::ops::Range<usize>,
    is_huffman: bool,
}

fn string(payload: &[u8], at: &mut usize) -> Option<Text> {
    let is_huffman = payload.get(*at)? & 0x80 != 0;
    let length = integer(payload, at, 7)?;
    let range = *at..at.checked_add(length)?;
    *at = range.end;
    Some(Text { range, is_huffman })
}

/// An integer with a prefix of `bits` (RFC 7541, section 5.1); nothing here needs more than three
/// further bytes.
fn integer(payload: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let mask = (1_usize << bits) - 1;
    let mut value = usize::from(*payload.get(*at)?) & mask;
    *at += 1;
    if value < mask {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(*payload.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn mend_value(value: &mut [u8], is_huffman: bool) {
    for (found, instead) in
        [(b"http://".as_slice(), b"httpB--".as_slice()), (b"https://", b"httpsB--")]
    {
        if !is_huffman {
            if value.starts_with(found) {
                value[..instead.len()].copy_from_slice(instead);
            }
            continue;
        }
        let (found, bits) = huffman(found);
        let (instead, _) = huffman(instead);
        let mask = u64::MAX << (64 - bits);
        let mut head = [0; 8];
        let length = value.len().min(8);
        head[..length].copy_from_slice(&value[..length]);
        let word = u64::from_be_bytes(head);
        if length * 8 >= bits as usize && word & mask == found {
            let mended = (word & !mask | instead).to_be_bytes();
            value[..length].copy_from_slice(&mended[..length]);
        }
    }
}

/// The Huffman code of a text of these few characters (RFC 7541, appendix B), left-aligned, and its
/// length in bits.
fn huffman(text: &[u8]) -> (u64, u32) {
    let mut word = 0;
    let mut bits = 0;
    for character in text {
        let (code, length) = match character {
            b'h' => (0x27, 6),
            b't' => (0x9, 5),
            b'p' => (0x2b, 6),
            b's' => (0x8, 5),
            b':' => (0x5c, 7),
            b'B' => (0x5d, 7),
            b'/' => (0x18, 6),
            b'-' => (0x16, 6),
            other => unreachable!("{other} is in neither form of a scheme"),
        };
        bits += length;
        word |= code << (64 - bits);
    }
    (word, bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(block: &[u8]) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes.extend([0, 0, block.len() as u8, HEADERS, 4, 0, 0, 0, 1]);
        bytes.extend(block);
        bytes
    }

    fn passed(mut bytes: Vec<u8>) -> Vec<u8> {
        AuthorityFilter::default().pass(&mut bytes);
        bytes
    }

    #[test]
    fn a_plain_url_becomes_an_authority_of_the_same_length() {
        let block = |authority: &str| {
            // POST, http, then the literal.
            let mut block = vec![0x83, 0x86, 0x41, authority.len() as u8];
            block.extend(authority.bytes());
            block
        };
        assert_eq!(
            passed(connection(&block("http://127.0.0.1:2379"))),
            connection(&block("httpB--127.0.0.1:2379"))
        );
        let sound = connection(&block("127.0.0.1:2379"));
        assert_eq!(passed(sound.clone()), sound);
    }

    #[test]
    fn the_same_in_huffman_code() {
        // "http://a" and "httpB--a": 'a' is 0x3 in five bits, the rest is padded with ones.
        let code = |prefix: &[u8]| {
            let (word, bits) = huffman(prefix);
            let word = word | 0x3 << (64 - bits - 5) | u64::MAX >> (bits + 5);
            word.to_be_bytes()[..6].to_vec()
        };
        let block = |value: Vec<u8>| {
            let mut block = vec![0x41, 0x80 | value.len() as u8];
            block.extend(value);
            block
        };
        assert_eq!(
            passed(connection(&block(code(b"http://")))),
            connection(&block(code(b"httpB--")))
        );
    }

    #[test]
    fn nothing_else_is_touched_and_nothing_panics() {
        let http1 = b"GET /health HTTP/1.1\r\nHost: http://x\r\n\r\n".to_vec();
        assert_eq!(passed(http1.clone()), http1);
        let mut sound = vec![0x83, 0x41, 21];
        sound.extend(b"http://127.0.0.1:2379");
        let whole = connection(&sound);
        for length in 0..whole.len() {
            let cut = whole[..length].to_vec();
            let after = passed(cut.clone());
            assert_eq!(after, cut, "cut to {length}");
        }
        // In two pieces, each cut: the frame is not found whole, and that is all.
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut noise = whole.clone();
            for _ in 0..3 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let at = PREFACE.len() + (random % (noise.len() - PREFACE.len()) as u64) as usize;
                noise[at] = (random >> 32) as u8;
            }
            let length = noise.len();
            assert_eq!(passed(noise).len(), length);
        }
    }
}
