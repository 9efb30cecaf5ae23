//! The JSON gateway: each request of the files in `gateway/` has the answer that etcd 3.7.1 gave.
//!
//! One idea: the files are held against varve, and against an etcd if there is one, so that what is
//! written there is what etcd says. Answers that an etcd before 3.7 gives otherwise are marked with
//! the reason, and must be otherwise there.
//!
//! A request in a file:
//!
//! ```text
//! > GET /v3/kv/range {"a":"body"}      POST if no verb is named
//! + Authorization: $token              a further header; $token is the last that was given
//! lines 2                              a stream: hang up after so many lines
//! older: why                           an etcd before 3.7 answers otherwise
//! older: dies                          an etcd before 3.7 is not asked: it ends, or never answers
//! < 200 application/json               status and content type (`-` for none)
//! < {"a":"line of the body"}           with * for what differs from server to server
//! ```
//!
//! Each file has a server of its own. `VARVE_BLESS=1` writes the answers of the peer
//! (`VARVE_PEER_ETCD`, at least 3.7) into them.
//!
//! What it does not do: what WebSockets and headers need more than lines for; see the other tests.

use std::fmt::Write as _;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use varve_tests::http_client::{self, Answer, ask};
use varve_tests::process::{Program, Server, skip_or_fail};

/// Values that differ from server to server, or from run to run.
const VARYING: [&str; 14] = [
    "cluster_id",
    "member_id",
    "raft_term",
    "leader",
    "raftIndex",
    "raftTerm",
    "raftAppliedIndex",
    "dbSize",
    "dbSizeInUse",
    "remaining_bytes",
    "blob",
    "token",
    "peerURLs",
    "clientURLs",
];

/// What the files ask together.
const REQUESTS_MIN: usize = 300;

/// A request and what is to come of it.
#[derive(Clone, Debug, Default)]
struct Case {
    /// Comments before it.
    notes: Vec<String>,
    request: String,
    headers: Vec<String>,
    lines_max: Option<usize>,
    older: Option<String>,
    expected: Vec<String>,
}

fn paths() -> Vec<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("gateway");
    let entries = std::fs::read_dir(directory).expect("the directory is readable");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

fn cases(path: &Path) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut notes = Vec::new();
    for line in std::fs::read_to_string(path).expect("the file is readable").lines() {
        if line.is_empty() || line.starts_with('#') {
            notes.push(line.to_owned());
            continue;
        }
        if let Some(request) = line.strip_prefix("> ") {
            let notes = std::mem::take(&mut notes);
            cases.push(Case { notes, request: request.to_owned(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("no request before: {line}"));
        match line.split_once(' ') {
            Some(("+", header)) => case.headers.push(header.to_owned()),
            Some(("lines", count)) => case.lines_max = Some(count.parse().expect("a number")),
            Some(("older:", why)) => case.older = Some(why.to_owned()),
            Some(("<", text)) => case.expected.push(text.to_owned()),
            _ => panic!("expected a line as the header explains, found: {line}"),
        }
    }
    cases
}

fn write(path: &Path, cases: &[Case]) {
    let mut text = String::new();
    for case in cases {
        let older = case.older.as_ref().map(|why| format!("older: {why}"));
        let lines = case.lines_max.map(|count| format!("lines {count}"));
        let notes = case.notes.iter().cloned();
        let request = std::iter::once(format!("> {}", case.request));
        let headers = case.headers.iter().map(|header| format!("+ {header}"));
        let expected = case.expected.iter().map(|line| format!("< {line}"));
        for line in notes.chain(request).chain(headers).chain(lines).chain(older).chain(expected) {
            writeln!(text, "{line}").expect("writing to a String cannot fail");
        }
    }
    std::fs::write(path, text).expect("the file can be written");
}

/// Etcd 3.4 does not survive these, or does not answer.
fn is_deadly(case: &Case) -> bool {
    case.older.as_deref() == Some("dies")
}

/// What `program` answers to all of them, in order.
fn run(program: &Program, cases: &[Case]) -> Vec<Vec<String>> {
    let server = Server::start(program, &["--initial-cluster-token=gateway"]);
    let mut token = String::new();
    let answers = cases.iter().map(|case| {
        let (verb, rest) = match case.request.split_once(' ') {
            Some((verb, rest)) if !verb.starts_with('/') => (verb, rest),
            _ => ("POST", case.request.as_str()),
        };
        let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
        let headers: Vec<String> =
            case.headers.iter().map(|header| header.replace("$token", &token)).collect();
        // Shown if it is the last one.
        println!("asking {}", case.request);
        let answer = ask(&server.client_address(), verb, path, &headers, body, case.lines_max);
        if let Some((_, rest)) = answer.body.split_once("\"token\":\"") {
            token = rest.split('"').next().unwrap_or_default().to_owned();
        }
        transcript(&answer)
    });
    answers.collect()
}

fn transcript(answer: &Answer) -> Vec<String> {
    let content_type = answer.header("content-type");
    let content_type = if content_type.is_empty() { "-" } else { content_type };
    let head = format!("{} {content_type}", answer.status);
    std::iter::once(head).chain(answer.body.lines().map(normalise)).collect()
}

fn normalise(line: &str) -> String {
    // etcd's word for the message up to 3.5; both are there.
    let mut line = match line.split_once("\",\"message\":\"") {
        Some((_, rest)) if line.starts_with("{\"error\":\"") => {
            let (message, code) = rest.split_once("\",\"code\":").unwrap_or((rest, "0}"));
            format!("{{\"code\":{},\"message\":\"{message}\"}}", code.trim_end_matches('}'))
        }
        _ => line.to_owned(),
    };
    for name in VARYING {
        for (open, close) in [("\"", "\""), ("[\"", "\"]")] {
            let begin = format!("\"{name}\":{open}");
            let mut from = 0;
            while let Some(found) = line[from..].find(&begin) {
                let start = from + found + begin.len();
                let end = line[start..].find(close).map_or(line.len(), |length| start + length);
                line.replace_range(start..end, "*");
                from = start;
            }
        }
    }
    line
}

fn report(case: &Case, side: &str, found: &[String]) -> String {
    let (request, expected) = (&case.request, case.expected.join("\n    "));
    format!("{request}\n  expected\n    {expected}\n  {side}\n    {}\n", found.join("\n    "))
}

#[test]
fn varve_answers_every_request_as_etcd_does() {
    let (mut count, mut wrong) = (0, Vec::new());
    for path in paths() {
        let cases = cases(&path);
        let answers = run(&Program::varve(), &cases);
        let differ = cases.iter().zip(&answers).filter(|(case, found)| case.expected != **found);
        wrong.extend(differ.map(|(case, found)| report(case, "varve", found)));
        count += cases.len();
    }
    println!("{count} requests");
    assert!(count >= REQUESTS_MIN, "{count}");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn etcd_answers_what_is_written_of_it() {
    let Some(etcd) = Program::etcd() else {
        skip_or_fail("Debian's etcd (package etcd-server)");
        return;
    };
    let is_current = etcd.version().is_none_or(|version| version >= (3, 7));
    let is_wrong = |case: &Case, found: &Vec<String>| {
        let is_otherwise = case.older.is_some() && !is_current;
        (case.expected == *found) == is_otherwise
    };
    let mut wrong = Vec::new();
    for path in paths() {
        let mut cases = cases(&path);
        cases.retain(|case| is_current || !is_deadly(case));
        let answers = run(&etcd, &cases);
        if std::env::var("VARVE_BLESS").as_deref() == Ok("1") {
            assert!(is_current, "answers are taken from an etcd of 3.7 or later");
            cases.iter_mut().zip(answers).for_each(|(case, answer)| case.expected = answer);
            write(&path, &cases);
            continue;
        }
        let differ = cases.iter().zip(&answers).filter(|(case, found)| is_wrong(case, found));
        wrong.extend(differ.map(|(case, found)| report(case, "etcd", found)));
    }
    assert!(wrong.is_empty(), "{} are not as written:\n{}", wrong.len(), wrong.join("\n"));
}

/// A frame of a client, masked with zeros.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("tests send little");
    assert!(length < 126, "longer frames have another length field");
    let mut frame = vec![0x80 | opcode, 0x80 | length, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// The opcode and the payload of the next frame of a server.
fn read_frame(reader: &mut impl Read) -> (u8, String) {
    let mut head = [0; 2];
    reader.read_exact(&mut head).expect("a frame comes in time");
    let mut length = usize::from(head[1]);
    if length == 126 {
        let mut long = [0; 2];
        reader.read_exact(&mut long).expect("a frame has its length");
        length = usize::from(u16::from_be_bytes(long));
    }
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).expect("a frame is whole");
    (head[0] & 0xf, String::from_utf8_lossy(&payload).into_owned())
}

fn open_websocket(address: &str, path: &str) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(address).expect("the server listens");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).expect("the request is sent");
    let mut reader = BufReader::new(socket);
    let answer = http_client::read_head(&mut reader);
    assert_eq!((answer.status, answer.header("upgrade")), (101, "websocket"), "{answer:?}");
    assert_eq!(answer.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    reader
}

fn watch_over_a_websocket(program: &Program) -> Vec<(u8, String)> {
    let server = Server::start(program, &[]);
    let address = server.client_address();
    let mut socket = open_websocket(&address, "/v3/watch");
    let send = |socket: &mut BufReader<TcpStream>, opcode, payload: &str| {
        socket.get_mut().write_all(&frame(opcode, payload.as_bytes())).expect("the frame is sent");
    };
    send(&mut socket, 1, r#"{"create_request":{"key":"Zm9v"}}"#);
    let mut seen = vec![read_frame(&mut socket)];
    ask(&address, "POST", "/v3/kv/put", &[], r#"{"key":"Zm9v","value":"YmFy"}"#, None);
    seen.push(read_frame(&mut socket));
    send(&mut socket, 9, "alive?");
    seen.push(read_frame(&mut socket));
    send(&mut socket, 1, r#"{"cancel_request":{"watch_id":"0"}}"#);
    seen.push(read_frame(&mut socket));
    // An answer that is not a stream ends the connection.
    let mut socket = open_websocket(&address, "/v3/kv/range");
    send(&mut socket, 1, r#"{"key":"Zm9v","keys_only":true}"#);
    seen.push(read_frame(&mut socket));
    seen.into_iter().map(|(opcode, payload)| (opcode, normalise(&payload))).collect()
}

#[test]
fn a_websocket_carries_requests_and_answers() {
    let ours = watch_over_a_websocket(&Program::varve());
    let opcodes: Vec<u8> = ours.iter().map(|(opcode, _)| *opcode).collect();
    assert_eq!(opcodes, [1, 1, 10, 1, 1], "{ours:?}");
    assert!(ours[1].1.contains(r#""events":[{"kv":{"key":"Zm9v""#), "{ours:?}");
    let Some(etcd) = Program::etcd() else {
        skip_or_fail("Debian's etcd (package etcd-server)");
        return;
    };
    assert_eq!(ours, watch_over_a_websocket(&etcd));
}

#[test]
fn origins_hosts_and_the_gateway_itself_are_for_whom_the_flags_say() {
    let flags = ["--cors=https://a.example:8443", "--host-whitelist=good.example"];
    let server = Server::start(&Program::varve(), &flags);
    let address = server.client_address();
    let get = |headers: &[&str]| {
        let headers: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
        let body = r#"{"key":"Zm9v"}"#;
        ask(&address, "POST", "/v3/kv/range", &headers, body, None)
    };
    // The client names the address as its host.
    assert_eq!(get(&[]).status, 421);
    drop(server);

    let server = Server::start(&Program::varve(), &["--cors=https://a.example:8443"]);
    let address = server.client_address();
    let ask = |verb: &str, origin: &str| {
        let headers = [format!("Origin: {origin}")];
        let answer = ask(&address, verb, "/v3/kv/range", &headers, r#"{"key":"Zm9v"}"#, None);
        (answer.status, answer.header("access-control-allow-origin").to_owned(), answer.body)
    };
    let (status, allowed, _) = ask("POST", "https://a.example:8443");
    assert_eq!((status, allowed.as_str()), (200, "https://a.example:8443"));
    assert_eq!(ask("POST", "https://b.example:8443").1, "");
    let (status, allowed, body) = ask("OPTIONS", "https://a.example:8443");
    assert_eq!((status, allowed.as_str(), body.as_str()), (200, "https://a.example:8443", ""));
    drop(server);

    let server = Server::start(&Program::varve(), &["--enable-grpc-gateway=false"]);
    let address = server.client_address();
    let answer = http_client::ask(&address, "POST", "/v3/kv/range", &[], "{}", None);
    assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"));
}

#[test]
fn a_request_as_large_as_in_grpc_passes_and_a_larger_one_is_refused() {
    let server = Server::start(&Program::varve(), &["--max-request-bytes=1048576"]);
    let address = server.client_address();
    // "AAAA" is three bytes.
    let put = |quads: usize| {
        let body = format!(r#"{{"key":"Zm9v","value":"{}"}}"#, "AAAA".repeat(quads));
        ask(&address, "POST", "/v3/kv/put", &[], &body, None)
    };
    assert_eq!(put(340_000).status, 200);
    let answer = put(400_000);
    let wanted = (400, r#"{"code":3,"message":"etcdserver: request is too large"}"#);
    assert_eq!((answer.status, answer.body.as_str()), wanted);
    let answer = put(600_000);
    assert_eq!(answer.status, 429, "{}", answer.body);
    assert!(answer.body.contains("received message larger than max"), "{}", answer.body);
}
