//! Floods of HTTP/2 and connections that say little: what an enemy without a password can send.
//!
//! One idea: a flood ends its own connection or is absorbed, within a bound of memory, and a client
//! that was there before goes on writing all the while without one error.
//!
//! What became of each flood is printed (`--nocapture`). `VARVE_BIN` names another server; etcd 3.7.1
//! keeps silent connections for more than a minute, and takes 2.6 GB for the calls of one connection.
//!
//! What it does not do: measure how much processor time a flood costs; bound answers that a client
//! asks for and does not read, which are held as in etcd (1000 of 1 MB: 740 MB, in etcd 1.2 GB).

mod wire;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use varve_api::etcdserverpb::PutRequest;
use varve_tests::grpc_client::Client;
use varve_tests::process::{Program, Server};

use wire::{
    CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, Ending, FIRST_REMEMBERED, HEADERS,
    Heard, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS, UNKNOWN, WINDOW_UPDATE, call, frame,
    literal, remembered, stream,
};

/// How long one put of the client that is in nobody's way may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// What the server may need more at the worst moment of one flood,
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// and if as many calls are open as one connection may have.
const OPEN_CALLS_BYTES_MAX: u64 = 512 << 20;
const OPEN_CALLS: &str = "open calls";
/// Connections of each kind that say little.
const SILENT_OF_EACH_KIND: usize = 25;
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// What must become of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    /// The connection is closed.
    Close,
    /// It is closed, absorbed, or not read any more.
    DoNoHarm,
}

struct Flood {
    what: &'static str,
    must: Must,
    run: fn(&str) -> (Ending, Heard),
}

/// Opens a stream without ending it.
fn open_call(number: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream(number), &call(path))
}

/// Many of one frame in a chunk, so that the sender is not what is slow.
fn many(frame: &[u8]) -> Vec<u8> {
    frame.repeat(1_000)
}

/// A connection on which the stream 1 is open.
fn with_open_call(address: &str, path: &str) -> Connection {
    let mut connection = Connection::open(address);
    assert!(connection.send(&open_call(0, path)), "a first call is taken");
    connection
}

fn rapid_reset(address: &str) -> (Ending, Heard) {
    Connection::open(address).flood(500_000, |number| {
        let reset = frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes());
        [open_call(number, PUT), reset].concat()
    })
}

/// Never as many at once as the server minds.
fn rapid_reset_in_turns(address: &str) -> (Ending, Heard) {
    Connection::open(address).flood_in_turns(100, |turn| {
        let calls = (turn * 500..(turn + 1) * 500).map(|number| {
            let reset = frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes());
            [open_call(number, PUT), reset].concat()
        });
        calls.flatten().collect()
    })
}

/// Whole calls, given up as soon as they are made.
fn calls_given_up(address: &str) -> (Ending, Heard) {
    let put =
        PutRequest { key: "flood".into(), value: vec![b'v'; 400].into(), ..PutRequest::default() };
    let message = [&[0, 0, 0][..], &(put.encoded_len() as u16).to_be_bytes(), &put.encode_to_vec()];
    let message = message.concat();
    Connection::open(address).flood_in_turns(100, move |turn| {
        let calls = (turn * 100..(turn + 1) * 100).map(|number| {
            let body = frame(DATA, END_STREAM, stream(number), &message);
            let reset = frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes());
            [open_call(number, PUT), body, reset].concat()
        });
        calls.flatten().collect()
    })
}

/// More than the server lets one client have; its announced limit is not heeded.
fn open_calls(address: &str) -> (Ending, Heard) {
    Connection::open(address).flood(100_000, |number| open_call(number, WATCH))
}

/// The client breaks a rule of the protocol on each stream, so that the server resets it.
fn made_to_reset(address: &str) -> (Ending, Heard) {
    Connection::open(address).flood(100_000, |number| {
        let overflow = frame(WINDOW_UPDATE, 0, stream(number), &i32::MAX.to_be_bytes());
        [open_call(number, WATCH), overflow].concat()
    })
}

fn continuations(address: &str) -> (Ending, Heard) {
    let mut connection = Connection::open(address);
    connection.send(&frame(HEADERS, 0, 1, &call(PUT)));
    let more = many(&frame(CONTINUATION, 0, 1, &literal("x-more", b"and more")));
    connection.flood(400, |_| more.clone())
}

fn empty_continuations(address: &str) -> (Ending, Heard) {
    let mut connection = Connection::open(address);
    connection.send(&frame(HEADERS, 0, 1, &call(PUT)));
    let more = many(&frame(CONTINUATION, 0, 1, &[]));
    connection.flood(400, |_| more.clone())
}

/// One header of 64 MiB.
fn huge_header(address: &str) -> (Ending, Heard) {
    let mut connection = Connection::open(address);
    let (length, piece) = (64 << 20, vec![b'x'; 16_384]);
    let value = vec![b'x'; length];
    let block = [call(PUT), literal("x-huge", &value)].concat();
    connection.send(&frame(HEADERS, 0, 1, &block[..16_384]));
    connection.flood(length as u32 / 16_384, move |_| frame(CONTINUATION, 0, 1, &piece))
}

/// Headers that are small on the wire, and not when they are unpacked: each call means 48 MB.
fn packed_headers(address: &str) -> (Ending, Heard) {
    let mut connection = Connection::open(address);
    let first = [call(PUT), remembered("x-long", &[b'x'; 4_000])].concat();
    connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &first));
    let block = [call(PUT), vec![FIRST_REMEMBERED; 12_000]].concat();
    connection.flood(1_000, move |number| {
        frame(HEADERS, END_HEADERS | END_STREAM, stream(number + 1), &block)
    })
}

fn settings(address: &str) -> (Ending, Heard) {
    let more = many(&frame(SETTINGS, 0, 0, &[]));
    Connection::open(address).flood(400, |_| more.clone())
}

/// With windows of many streams that grow and shrink.
fn settings_of_windows(address: &str) -> (Ending, Heard) {
    let mut connection = Connection::open(address);
    for number in 0..100 {
        connection.send(&open_call(number, WATCH));
    }
    let window = |bytes: u32| [&[0, 4][..], &bytes.to_be_bytes()].concat();
    let pair =
        [frame(SETTINGS, 0, 0, &window(1 << 30)), frame(SETTINGS, 0, 0, &window(0))].concat();
    let more = many(&pair);
    connection.flood(40, |_| more.clone())
}

fn deaf_settings(address: &str) -> (Ending, Heard) {
    let more = many(&frame(SETTINGS, 0, 0, &[]));
    Connection::open_deaf(address).flood(4_000, |_| more.clone())
}

fn pings(address: &str) -> (Ending, Heard) {
    let more = many(&frame(PING, 0, 0, b"are you "));
    Connection::open(address).flood(400, |_| more.clone())
}

fn deaf_pings(address: &str) -> (Ending, Heard) {
    let more = many(&frame(PING, 0, 0, b"are you "));
    Connection::open_deaf(address).flood(4_000, |_| more.clone())
}

fn empty_data(address: &str) -> (Ending, Heard) {
    let more = many(&frame(DATA, 0, 1, &[]));
    with_open_call(address, PUT).flood(2_000, |_| more.clone())
}

fn empty_data_of_a_stream(address: &str) -> (Ending, Heard) {
    let more = many(&frame(DATA, 0, 1, &[]));
    with_open_call(address, WATCH).flood(2_000, |_| more.clone())
}

fn single_bytes(address: &str) -> (Ending, Heard) {
    let more = many(&frame(DATA, 0, 1, &[0]));
    with_open_call(address, PUT).flood(2_000, |_| more.clone())
}

fn windows(address: &str) -> (Ending, Heard) {
    let more = many(&frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()));
    Connection::open(address).flood(400, |_| more.clone())
}

fn priorities(address: &str) -> (Ending, Heard) {
    Connection::open(address)
        .flood(1_000_000, |number| frame(PRIORITY, 0, stream(number), &[0, 0, 0, 0, 16]))
}

fn unknown_frames(address: &str) -> (Ending, Heard) {
    let more = many(&frame(UNKNOWN, 0xff, 0, b"what nobody knows"));
    Connection::open(address).flood(400, |_| more.clone())
}

const FLOODS: [Flood; 20] = [
    Flood { what: "rapid reset", must: Must::DoNoHarm, run: rapid_reset },
    Flood { what: "rapid reset in turns", must: Must::DoNoHarm, run: rapid_reset_in_turns },
    Flood { what: "calls given up", must: Must::DoNoHarm, run: calls_given_up },
    Flood { what: "made to reset", must: Must::Close, run: made_to_reset },
    Flood { what: "continuations", must: Must::Close, run: continuations },
    Flood { what: "empty continuations", must: Must::Close, run: empty_continuations },
    Flood { what: "a huge header", must: Must::Close, run: huge_header },
    Flood { what: "packed headers", must: Must::DoNoHarm, run: packed_headers },
    Flood { what: "settings", must: Must::DoNoHarm, run: settings },
    Flood { what: "settings of windows", must: Must::DoNoHarm, run: settings_of_windows },
    Flood { what: "settings, deaf", must: Must::DoNoHarm, run: deaf_settings },
    Flood { what: "pings", must: Must::DoNoHarm, run: pings },
    Flood { what: "pings, deaf", must: Must::DoNoHarm, run: deaf_pings },
    Flood { what: "empty data", must: Must::DoNoHarm, run: empty_data },
    Flood { what: "empty data, stream", must: Must::DoNoHarm, run: empty_data_of_a_stream },
    Flood { what: "single bytes", must: Must::DoNoHarm, run: single_bytes },
    Flood { what: "windows", must: Must::DoNoHarm, run: windows },
    Flood { what: "priorities", must: Must::DoNoHarm, run: priorities },
    Flood { what: "unknown frames", must: Must::DoNoHarm, run: unknown_frames },
    // The last: what it held is given back to the system only by and by.
    Flood { what: OPEN_CALLS, must: Must::DoNoHarm, run: open_calls },
];

/// A client that writes without a pause.
struct Bystander {
    stop: Arc<AtomicBool>,
    puts: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Bystander {
    fn start(server: &Server) -> Bystander {
        let address = server.client_address();
        let (stop, puts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, counted) = (Arc::clone(&stop), Arc::clone(&puts));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let client = Client::new(&address, CALL_TIMEOUT);
                while !stopping.load(Ordering::Relaxed) {
                    let request = PutRequest { key: "k".into(), ..PutRequest::default() };
                    client.put(request).await.expect("a client in nobody's way is served");
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        let bystander = Bystander { stop, puts, thread };
        bystander.wait_for_puts(10);
        bystander
    }

    fn puts(&self) -> u64 {
        self.puts.load(Ordering::Relaxed)
    }

    /// Waits until it has written so often again. Its own calls have a limit.
    fn wait_for_puts(&self, count: u64) {
        let wanted = self.puts() + count;
        while self.puts() < wanted && !self.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!self.thread.is_finished(), "a put failed");
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no put failed");
    }
}

/// A line of the server's `/proc/PID/status`, in bytes.
fn memory(server: &Server, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("the server runs, on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.expect("a number of kB") << 10
}

/// Lets the peak of the server's memory begin anew; `false` where the kernel does not.
fn forget_peak(server: &Server) -> bool {
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").is_ok()
}

#[test]
fn a_flood_ends_its_own_connection_or_is_absorbed() {
    let server = Server::start(&Program::varve(), &[]);
    let address = server.client_address();
    let bystander = Bystander::start(&server);
    let is_varve = Program::varve().is_varve();
    let mut wrong = Vec::new();
    for Flood { what, must, run } in FLOODS {
        let peak = if forget_peak(&server) { "VmHWM" } else { "VmRSS" };
        let (before, puts) = (memory(&server, "VmRSS"), bystander.puts());
        let (ending, heard) = run(&address);
        let puts = bystander.puts() - puts;
        bystander.wait_for_puts(10);
        let growth = memory(&server, peak).saturating_sub(before);
        println!("{what}: {ending:?}, {growth} bytes, {puts} puts meanwhile, {heard:?}");
        let is_ended = must == Must::DoNoHarm || matches!(ending, Ending::Closed(_));
        let bound = if what == OPEN_CALLS { OPEN_CALLS_BYTES_MAX } else { GROWTH_BYTES_MAX };
        if !is_ended || (is_varve && growth > bound) {
            wrong.push(format!("{what}: {ending:?}, {growth} bytes"));
        }
    }
    bystander.finish();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(!server.log().contains("panicked at"), "{}", server.log());
}

/// What somebody says who never says enough, and how long the pauses are between two bytes of it.
fn little() -> [(&'static [u8], Duration); 4] {
    let preface = &PREFACE[..PREFACE.len() - 1];
    [
        (b"", Duration::ZERO),
        (preface, Duration::ZERO),
        (preface, Duration::from_millis(500)),
        (b"GET /he", Duration::from_millis(500)),
    ]
}

/// Says a little and waits until the server closes.
fn wait_for_the_end(mut socket: TcpStream, bytes: &[u8], pause: Duration) {
    let mut byte = [0];
    let is_end = |read: std::io::Result<usize>| match read {
        Ok(0) => true,
        Ok(_) => panic!("an answer to nothing"),
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    };
    for part in bytes.chunks(if pause.is_zero() { bytes.len().max(1) } else { 1 }) {
        if socket.write_all(part).is_err() {
            return;
        }
        if !pause.is_zero() {
            socket.set_read_timeout(Some(pause)).expect("a positive time");
            if is_end(socket.read(&mut byte)) {
                return;
            }
        }
    }
    socket.set_read_timeout(Some(CALL_TIMEOUT)).expect("a positive time");
    assert!(is_end(socket.read(&mut byte)), "it is kept open");
}

#[test]
fn who_never_says_enough_is_not_waited_for() {
    let server = Server::start(&Program::varve(), &[]);
    let address = server.client_address();
    let bystander = Bystander::start(&server);
    std::thread::scope(|scope| {
        for _ in 0..SILENT_OF_EACH_KIND {
            for (bytes, pause) in little() {
                let socket = TcpStream::connect(&address).expect("the server listens");
                scope.spawn(move || wait_for_the_end(socket, bytes, pause));
            }
        }
    });
    bystander.finish();
}
