//! The query of a URL: `verbose&exclude=a&exclude=b`.

/// The parameters of a URL, decoded.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what stands after the question mark.
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(key), percent_decode(value))
                })
                .collect(),
        )
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.iter().filter(move |(key, _)| key == wanted);
        pairs.map(|(_, value)| value.as_str())
    }

    /// The first value of a parameter.
    pub(super) fn first<'a>(&'a self, wanted: &'a str) -> Option<&'a str> {
        self.all(wanted).next()
    }
}

/// Decodes `%XX` and `+`; what is malformed stays as it is.
fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while position < bytes.len() {
        let hex = |offset: usize| {
            let digit = char::from(*bytes.get(position + offset)?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        match (bytes[position], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high * 16 + low);
                position += 2;
            }
            (b'+', _, _) => decoded.push(b' '),
            (byte, _, _) => decoded.push(byte),
        }
        position += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("verbose&exclude=a%2Fb&exclude=c+d&broken=%4&&");
        assert_eq!(query.first("verbose"), Some(""));
        assert_eq!(query.all("exclude").collect::<Vec<_>>(), ["a/b", "c d"]);
        assert_eq!(query.first("broken"), Some("%4"));
        assert_eq!(query.first("missing"), None);
    }
}
