//! Walking over DER: elements of a tag, a length and a content.
//!
//! One idea: a reader knows what must come next and asks for it; anything else, and every length
//! that reaches too far, is `None`.
//!
//! What it does not do: indefinite lengths, tags of more than one byte; DER in certificates and keys
//! has neither.

/// A number.
pub const INTEGER: u8 = 0x02;
/// Bits, the number of unused ones in front.
pub const BIT_STRING: u8 = 0x03;
/// Bytes.
pub const OCTET_STRING: u8 = 0x04;
/// What a field is.
pub const OBJECT_ID: u8 = 0x06;
/// A time with two digits for the year.
pub const UTC_TIME: u8 = 0x17;
/// A time with four.
pub const GENERALIZED_TIME: u8 = 0x18;
/// Text of two bytes a character.
pub const BMP_STRING: u8 = 0x1e;
/// Elements in order.
pub const SEQUENCE: u8 = 0x30;
/// Elements in no order.
pub const SET: u8 = 0x31;
/// The version of a certificate.
pub const VERSION: u8 = 0xa0;
/// The extensions of a certificate.
pub const EXTENSIONS: u8 = 0xa3;
/// A host, among alternative names.
pub const DNS_NAME: u8 = 0x82;
/// An address, among alternative names.
pub const IP_ADDRESS: u8 = 0x87;

/// Content of the element in front, which must be a `tag`, and what follows it.
pub fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        // Four bytes of length are more than any file here has.
        long @ 0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    if *found == tag { rest.split_at_checked(length) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_taken_if_it_is_whole_and_what_was_asked_for() {
        assert_eq!(take(&[SEQUENCE, 1, 7, 8], SEQUENCE), Some((&[7][..], &[8][..])));
        assert_eq!(take(&[SEQUENCE, 0x82, 0, 1, 7], SEQUENCE), Some((&[7][..], &[][..])));
        for der in [&[][..], &[SEQUENCE], &[SET, 0], &[SEQUENCE, 2, 1], &[SEQUENCE, 0x80]] {
            assert_eq!(take(der, SEQUENCE), None);
        }
        for long in
            [&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff][..], &[SEQUENCE, 0x85, 0, 0, 0, 0, 0]]
        {
            assert_eq!(take(long, SEQUENCE), None);
        }
    }
}
