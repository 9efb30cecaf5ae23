//! A client of HTTP/1.1 that hides nothing: what it sends and gets is text.
//!
//! One idea: tests of HTTP compare what is on the wire, so the answer is handed over as it came, but
//! for chunks, which are put together. A stream is read up to a number of lines; then the client
//! hangs up.
//!
//! What it does not do: connections for more than one request, TLS, compression.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long an answer may pause.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header lines as they came.
    pub headers: Vec<String>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The first value of a header, whatever the case of its name; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let lines = self.headers.iter().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map_or("", |(_, value)| value.trim())
    }
}

/// Sends one request and reads the whole answer, or `lines_max` lines of its body.
///
/// A server that hangs up gives the status 0.
///
/// # Panics
/// If there is no answer in time, or it is no HTTP.
pub fn ask(
    address: &str,
    verb: &str,
    path: &str,
    headers: &[String],
    body: &str,
    lines_max: Option<usize>,
) -> Answer {
    let mut socket = TcpStream::connect(address).expect("the server listens");
    socket.set_read_timeout(Some(READ_TIMEOUT)).expect("a timeout can be set");
    let mut request = format!("{verb} {path} HTTP/1.1\r\nHost: {address}\r\n");
    for header in headers {
        request += &format!("{header}\r\n");
    }
    request += &format!("Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    socket.write_all(request.as_bytes()).expect("the request is sent");
    let mut reader = BufReader::new(socket);
    let mut answer = read_head(&mut reader);
    if answer.header("transfer-encoding") == "chunked" {
        read_chunks(&mut reader, &mut answer.body, lines_max);
    } else if verb != "HEAD" {
        let mut bytes = Vec::new();
        let length: u64 = answer.header("content-length").parse().unwrap_or(u64::MAX);
        reader.take(length).read_to_end(&mut bytes).expect("the body comes in time");
        answer.body = String::from_utf8(bytes).expect("the body is text");
    }
    answer
}

/// Reads status and headers; the status is 0 if the server hangs up.
///
/// # Panics
/// If they do not come in time, or are no HTTP.
pub fn read_head(reader: &mut impl BufRead) -> Answer {
    let mut answer = Answer::default();
    let mut line = String::new();
    while reader.read_line(&mut line).expect("the head comes in time") > 0 {
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if answer.status == 0 {
            let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
            answer.status = code.unwrap_or_else(|| panic!("no status: {text}"));
        } else {
            answer.headers.push(text.to_owned());
        }
        line.clear();
    }
    answer
}

fn read_chunks(reader: &mut impl BufRead, body: &mut String, lines_max: Option<usize>) {
    let mut line = String::new();
    while lines_max.is_none_or(|max| body.lines().count() < max || !body.ends_with('\n')) {
        line.clear();
        reader.read_line(&mut line).expect("a chunk comes in time");
        let length = usize::from_str_radix(line.trim(), 16).expect("a chunk has a length");
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk).expect("a chunk is whole");
        if length == 0 {
            return;
        }
        body.push_str(std::str::from_utf8(&chunk[..length]).expect("a chunk is text"));
    }
}
