//! Makes the file of a `Snapshot` call and hands it out in pieces.
//!
//! One idea: the pinned state is written twice, see `varve_bolt`: once to nowhere, which gives the
//! file's length, told to the client with every piece, and its first pages; then to the client. The
//! channel is short, so a slow client slows its own thread and nothing else.
//!
//! Behind the database come 32 bytes, the SHA-256 of it, as etcd sends them.
//!
//! Cost: everything is read twice, on a thread of low priority; files that the pinned state needs
//! stay until the client has it or goes away.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use varve_api::{Code, Status};
use varve_bolt::{Builder, Layout};
use varve_store::{Export, RowSink};

use crate::limits;
use crate::read_pool::lower_priority;

/// A piece of the file.
#[derive(Debug)]
pub struct Piece {
    /// Bytes of the database behind this one.
    pub remaining_bytes: u64,
    /// Its bytes.
    pub blob: Bytes,
}

/// Why the thread ended early.
enum Stop {
    /// The state cannot be read.
    State(varve_store::Error),
    /// The client has gone away.
    Gone,
}

impl From<varve_store::Error> for Stop {
    fn from(error: varve_store::Error) -> Self {
        Self::State(error)
    }
}

/// Starts a thread that makes the file of `export`. It ends with the file, or when the receiver is
/// dropped.
///
/// # Errors
/// If no thread can be started.
pub fn start(export: Export) -> std::io::Result<mpsc::Receiver<Result<Piece, Status>>> {
    let (sender, receiver) = mpsc::channel(limits::SNAPSHOT_PIECES_QUEUED_MAX);
    std::thread::Builder::new().name("snapshot".into()).spawn(move || {
        lower_priority();
        if let Err(Stop::State(error)) = make(&export, &sender) {
            tracing::warn!(error = %error, "cannot make a snapshot");
            let status = Status::new(Code::Internal, error.to_string());
            let _gone = sender.blocking_send(Err(status));
        }
    })?;
    Ok(receiver)
}

fn make(export: &Export, sender: &mpsc::Sender<Result<Piece, Status>>) -> Result<(), Stop> {
    let layout = write(export, |_| if sender.is_closed() { Err(Stop::Gone) } else { Ok(()) })?;
    tracing::info!(
        total_bytes = layout.bytes(),
        revision = export.revision(),
        storage_version = %export.storage_version(),
        "sending database snapshot to client"
    );
    let mut pieces = Pieces {
        sender,
        open: BytesMut::new(),
        hash: Context::new(&SHA256),
        remaining_bytes: layout.bytes(),
    };
    pieces.add(&layout.head())?;
    let again = write(export, |page| pieces.add(page))?;
    assert_eq!(again, layout, "a pinned state is written the same every time");
    pieces.send()?;
    assert_eq!(pieces.remaining_bytes, 0, "the layout has the length");
    let hash = Bytes::copy_from_slice(pieces.hash.finish().as_ref());
    send(sender, Piece { remaining_bytes: 0, blob: hash })?;
    tracing::info!(total_bytes = layout.bytes(), "sent database snapshot to client");
    Ok(())
}

/// One pass over the state.
fn write(export: &Export, sink: impl FnMut(&[u8]) -> Result<(), Stop>) -> Result<Layout, Stop> {
    let mut rows = Rows(Builder::new(sink));
    export.write(&mut rows)?;
    rows.0.finish()
}

struct Rows<S>(Builder<S>);

impl<S: FnMut(&[u8]) -> Result<(), Stop>> RowSink for Rows<S> {
    type Error = Stop;

    fn bucket(&mut self, name: &str) -> Result<(), Stop> {
        self.0.bucket(name.as_bytes())
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Stop> {
        self.0.row(key, value)
    }
}

/// Pages on their way into pieces.
struct Pieces<'a> {
    sender: &'a mpsc::Sender<Result<Piece, Status>>,
    open: BytesMut,
    hash: Context,
    remaining_bytes: u64,
}

impl Pieces<'_> {
    fn add(&mut self, page: &[u8]) -> Result<(), Stop> {
        for part in page.chunks(limits::SNAPSHOT_PIECE_BYTES) {
            self.open.extend_from_slice(part);
            if self.open.len() >= limits::SNAPSHOT_PIECE_BYTES {
                self.send()?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Stop> {
        if self.open.is_empty() {
            return Ok(());
        }
        let blob = self.open.split().freeze();
        self.hash.update(&blob);
        self.remaining_bytes -= blob.len() as u64;
        send(self.sender, Piece { remaining_bytes: self.remaining_bytes, blob })
    }
}

fn send(sender: &mpsc::Sender<Result<Piece, Status>>, piece: Piece) -> Result<(), Stop> {
    sender.blocking_send(Ok(piece)).map_err(|_| Stop::Gone)
}
