//! HTTP/2 as bytes: frames that no library would send, and what comes back.
//!
//! One idea: a connection is a socket to write to and a thread that reads and remembers what matters.
//! A deaf one reads nothing, so that the server's answers have nowhere to go.
//!
//! What it does not do: decode headers, or keep any rule of the protocol.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long the server may take to answer, or to take what is sent.
const PATIENCE: Duration = Duration::from_secs(60);
/// A deaf client gives up when the server has taken nothing for so long.
const DEAF_PATIENCE: Duration = Duration::from_secs(1);
/// What every connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// A type that nobody has defined.
pub const UNKNOWN: u8 = 0xee;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// The ping that asks whether all before it is done.
const QUESTION: &[u8] = b"all done";
/// Of SETTINGS and PING.
const ACK: u8 = 1;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// The stream that a client opens as its `number`th, from 0.
pub fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// An integer of HPACK after the `flags` of its first byte, which leave `bits` for it.
fn integer(flags: u8, bits: u32, value: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if value < most {
        return vec![flags | value as u8];
    }
    let (mut bytes, mut rest) = (vec![flags | most as u8], value - most);
    while rest >= 128 {
        bytes.push(rest as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

fn text(text: &[u8]) -> Vec<u8> {
    [integer(0, 7, text.len()), text.to_vec()].concat()
}

/// A header that is not to be remembered.
pub fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    [vec![0], text(name.as_bytes()), text(value)].concat()
}

/// A header that is to be remembered; [`FIRST_REMEMBERED`] is then this one.
pub fn remembered(name: &str, value: &[u8]) -> Vec<u8> {
    [vec![0x40], text(name.as_bytes()), text(value)].concat()
}

/// The header that was remembered last, in one byte.
pub const FIRST_REMEMBERED: u8 = 0x80 | 62;

/// The headers of a gRPC call.
pub fn call(path: &str) -> Vec<u8> {
    // Of the table that everybody has: POST and http.
    let mut block = vec![0x83, 0x86];
    block.extend(literal(":path", path.as_bytes()));
    block.extend(literal(":authority", b"localhost"));
    block.extend(literal("content-type", b"application/grpc"));
    block.extend(literal("te", b"trailers"));
    block
}

/// What the server said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    /// The error of its GOAWAY.
    pub goaway: Option<u32>,
    /// Answers to [`Connection::ask`].
    answers: u32,
    /// Answers to other pings.
    pub pongs: u64,
    /// Settings that it took.
    pub settings_acknowledged: u64,
    /// Streams that it reset.
    pub resets: u64,
    /// Whether the connection is closed.
    pub is_closed: bool,
}

#[derive(Default)]
struct Ear {
    heard: Mutex<Heard>,
    changed: Condvar,
}

impl Ear {
    fn note(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.heard.lock().expect("no panic under this lock"));
        self.changed.notify_all();
    }

    fn listen(&self, mut socket: TcpStream) {
        let mut head = [0; 9];
        while socket.read_exact(&mut head).is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if socket.read_exact(&mut payload).is_err() {
                break;
            }
            let is_ack = head[4] & ACK != 0;
            self.note(|heard| match head[3] {
                GOAWAY => {
                    let code = payload.get(4..8).and_then(|code| code.try_into().ok());
                    heard.goaway = code.map(u32::from_be_bytes);
                }
                PING if is_ack && payload == QUESTION => heard.answers += 1,
                PING if is_ack => heard.pongs += 1,
                SETTINGS if is_ack => heard.settings_acknowledged += 1,
                RST_STREAM => heard.resets += 1,
                _ => {}
            });
        }
        self.note(|heard| heard.is_closed = true);
    }

    fn wait(&self, enough: impl Fn(&Heard) -> bool) -> Heard {
        let guard = self.heard.lock().expect("no panic under this lock");
        let waited = self.changed.wait_timeout_while(guard, PATIENCE, |heard| !enough(heard));
        *waited.expect("no panic under this lock").0
    }
}

/// How a flood ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server closed the connection; the error of its GOAWAY, if it came through.
    Closed(Option<u32>),
    /// It took everything, and answered a ping afterwards.
    Absorbed,
    /// It stopped to read a client that does not listen.
    Stopped,
}

/// A connection.
pub struct Connection {
    socket: TcpStream,
    /// `None` for a deaf one.
    ear: Option<Arc<Ear>>,
    asked: u32,
}

impl Connection {
    /// Connects, says the preface, sends empty settings and waits until it is served.
    pub fn open(address: &str) -> Connection {
        let mut connection = Connection::connect(address, PATIENCE);
        let (ear, socket) = (Arc::new(Ear::default()), connection.socket.try_clone());
        connection.ear = Some(Arc::clone(&ear));
        let socket = socket.expect("a socket can be shared");
        std::thread::spawn(move || ear.listen(socket));
        // Its windows are open from then on.
        connection.ask().expect("an empty connection is served");
        connection
    }

    /// Says the same, and never reads.
    pub fn open_deaf(address: &str) -> Connection {
        Connection::connect(address, DEAF_PATIENCE)
    }

    fn connect(address: &str, patience: Duration) -> Connection {
        let mut socket = TcpStream::connect(address).expect("the server listens");
        socket.set_write_timeout(Some(patience)).expect("a positive time");
        socket.write_all(PREFACE).expect("the server reads");
        socket.write_all(&frame(SETTINGS, 0, 0, &[])).expect("the server reads");
        Connection { socket, ear: None, asked: 0 }
    }

    /// Sends frames; `false` if the server takes no more.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.try_send(bytes).is_ok()
    }

    fn try_send(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        self.socket.write_all(bytes).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Ending::Stopped,
            _ => Ending::Closed(None),
        })
    }

    /// Sends what `chunk` makes of 0, 1, 2 and so on below `count`, and waits until the server is done
    /// with it.
    pub fn flood(mut self, count: u32, chunk: impl Fn(u32) -> Vec<u8>) -> (Ending, Heard) {
        let sent = (0..count).try_for_each(|number| self.try_send(&chunk(number)));
        self.end(sent)
    }

    /// As [`Connection::flood`], and waits after each chunk.
    pub fn flood_in_turns(mut self, count: u32, chunk: impl Fn(u32) -> Vec<u8>) -> (Ending, Heard) {
        let sent = (0..count).try_for_each(|number| {
            self.try_send(&chunk(number))?;
            self.ask()
        });
        self.end(sent)
    }

    /// Waits until the server has looked at everything that was sent, which is when it answers a ping.
    fn ask(&mut self) -> Result<(), Ending> {
        self.try_send(&frame(PING, 0, 0, QUESTION))?;
        self.asked += 1;
        let Some(ear) = &self.ear else { return Ok(()) };
        let heard = ear.wait(|heard| heard.is_closed || heard.answers == self.asked);
        assert!(heard.is_closed || heard.answers == self.asked, "no answer: {heard:?}");
        if heard.is_closed { Err(Ending::Closed(None)) } else { Ok(()) }
    }

    fn end(&mut self, sent: Result<(), Ending>) -> (Ending, Heard) {
        let outcome = sent.and_then(|()| self.ask());
        let Some(ear) = &self.ear else {
            return (outcome.err().unwrap_or(Ending::Absorbed), Heard::default());
        };
        match outcome {
            Ok(()) => (Ending::Absorbed, ear.wait(|_| true)),
            Err(Ending::Closed(_)) => {
                let heard = ear.wait(|heard| heard.is_closed);
                assert!(heard.is_closed, "it takes nothing and does not close: {heard:?}");
                (Ending::Closed(heard.goaway), heard)
            }
            Err(ending) => panic!("{ending:?}, though the answers were read"),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Ends the thread that reads.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
