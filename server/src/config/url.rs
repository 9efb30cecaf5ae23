//! URLs of flags: `http://host:port`, `https://...`, `unix://path`.
//!
//! One idea: checked and printed as etcd's `types.URLs` does it, because their texts go into
//! member ids and are compared between members.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::listener::ListenAddress;

/// How to talk to a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// A Unix socket.
    Unix,
    /// TLS over a Unix socket.
    Unixs,
}

/// One URL.
///
/// Invariants: `host` and `port` are set for http and https (the host may be empty), not for unix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    port: String,
}

impl Url {
    /// Parses one URL.
    ///
    /// # Errors
    /// Etcd's text for what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let scheme_error = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        if text.chars().any(|character| character.is_ascii_control() || character == ' ') {
            return Err(format!("parse {text:?}: net/url: invalid character in URL"));
        }
        let (scheme, rest) = text.split_once(':').ok_or_else(scheme_error)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(scheme_error()),
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (mut host, mut port) = (String::new(), String::new());
        if matches!(scheme, Scheme::Http | Scheme::Https) {
            let authority_length = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(authority_length);
            let authority = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
            (host, port) = split_host_port(authority).ok_or_else(|| {
                format!("URL address does not have the form \"host:port\": {text}")
            })?;
            if !path.is_empty() {
                return Err(format!("URL must not contain a path: {text}"));
            }
            if port.bytes().any(|byte| !byte.is_ascii_digit()) {
                let port = format!(":{port}");
                return Err(format!("parse {text:?}: invalid port {port:?} after host"));
            }
        }
        Ok(Self { text: text.to_owned(), scheme, host, port })
    }

    /// Whether it is talked to with TLS.
    pub fn is_secure(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// How to talk to it.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The text, as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Host without brackets; empty for Unix sockets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port; `None` for Unix sockets or if it is no number of 16 bits.
    pub fn port(&self) -> Option<u16> {
        self.port.parse().ok()
    }

    /// `host:port`, with brackets around IPv6 addresses; for Unix sockets the path.
    pub fn authority(&self) -> String {
        match self.scheme {
            Scheme::Unix | Scheme::Unixs => {
                let path = self.text.split_once(':').map_or("", |(_, rest)| rest);
                path.strip_prefix("//").unwrap_or(path).to_owned()
            }
            _ if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// Where to listen.
    ///
    /// # Errors
    /// The port does not fit.
    pub fn listen_address(&self) -> Result<ListenAddress, String> {
        match self.scheme {
            Scheme::Unix | Scheme::Unixs => {
                Ok(ListenAddress::Unix(PathBuf::from(self.authority())))
            }
            Scheme::Http | Scheme::Https => {
                let port = self.port().ok_or_else(|| format!("invalid port in {}", self.text))?;
                Ok(ListenAddress::Tcp { host: self.host.clone(), port })
            }
        }
    }

    /// Checks that one can bind to it: a Unix socket, `localhost` or an IP address.
    ///
    /// # Errors
    /// Etcd's text.
    pub fn check_bind(&self) -> Result<(), String> {
        let is_unix = matches!(self.scheme, Scheme::Unix | Scheme::Unixs);
        if is_unix || self.host == "localhost" || self.host.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        Err(format!("expected IP in URL for binding ({})", self.text))
    }

    /// Checks that others can reach it: it names a host.
    ///
    /// # Errors
    /// Etcd's text.
    pub fn check_host(&self) -> Result<(), String> {
        let is_unix = matches!(self.scheme, Scheme::Unix | Scheme::Unixs);
        if is_unix || !self.host.is_empty() {
            return Ok(());
        }
        Err(format!("unexpected empty host ({})", self.text))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Parses URLs separated by commas; sorted, as etcd keeps them.
///
/// # Errors
/// Etcd's text for the first that is wrong.
pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// The texts of `urls` with commas between.
pub fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

/// Go's `net.SplitHostPort`: `host:port`, `[v6]:port`.
fn split_host_port(authority: &str) -> Option<(String, String)> {
    let (host, port) = authority.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    Some((host.to_owned(), port.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::parse(" http://[::1]:2379 ").unwrap();
        assert_eq!(
            (url.host(), url.port(), url.as_str()),
            ("::1", Some(2379), "http://[::1]:2379")
        );
        let unix = Url::parse("unix:///tmp/varve.sock").unwrap();
        let path = ListenAddress::Unix(PathBuf::from("/tmp/varve.sock"));
        assert_eq!(unix.listen_address(), Ok(path));
        let relative = Url::parse("unix://localhost:m0").unwrap();
        let path = ListenAddress::Unix(PathBuf::from("localhost:m0"));
        assert_eq!(relative.listen_address(), Ok(path));
        let tls = Url::parse("https://127.0.0.1:2379").unwrap();
        let address = ListenAddress::Tcp { host: "127.0.0.1".to_owned(), port: 2379 };
        assert_eq!(tls.listen_address(), Ok(address));
        assert!(tls.is_secure() && !url.is_secure() && !unix.is_secure());
    }

    #[test]
    fn bad_urls_are_refused_in_etcds_words() {
        for (text, error) in [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            (
                "ftp://127.0.0.1:1",
                "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1",
            ),
            (
                "http://127.0.0.1",
                "URL address does not have the form \"host:port\": http://127.0.0.1",
            ),
            ("http://h:1/path", "URL must not contain a path: http://h:1/path"),
        ] {
            assert_eq!(parse_list(text).unwrap_err(), error);
        }
        let name = Url::parse("http://foo.bar:5000").unwrap();
        assert_eq!(
            name.check_bind().unwrap_err(),
            "expected IP in URL for binding (http://foo.bar:5000)"
        );
    }

    #[test]
    fn lists_are_sorted_and_unique() {
        let urls = parse_list("http://b:1,http://a:1,http://b:1").unwrap();
        assert_eq!(join(&urls), "http://a:1,http://b:1");
    }
}
