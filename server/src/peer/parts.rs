//! Files of a snapshot as they arrive, each under its digest; what a transfer that broke off has
//! left is found by the next one, which brings only the rest.
//!
//! A file gets its final name when it is whole, has the digest that was announced, and is durable;
//! before, it is a draft that nobody looks at. When all have arrived they move into the staging
//! directory as they are named there.
//!
//! Invariants: used by one transfer at a time (its `Turn`); holds no file that the transfer under
//! way, or else the last one, does not lack.
//!
//! What it does not do: it does not look again at what lies here. The engine does, with the whole
//! snapshot; what fails there is not kept, so that rot costs one transfer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;
use varve_disk::{Disk, File};
use xxhash_rust::xxh3::Xxh3;

use super::frame::{self, Fields, FrameError, FrameKind};
use super::snapshot::offer::OfferedFile;
use super::snapshot::{blocking, own_disk};
use super::stream::PeerStream;
use crate::limits;

/// The directory, beside the staging directories, which need not exist.
#[derive(Clone)]
pub(super) struct Parts {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Parts {
    /// Those among incoming snapshots.
    pub(super) fn new(disk: &Arc<dyn Disk>, incoming: &Path) -> Self {
        Self { disk: Arc::clone(disk), dir: incoming.join("parts") }
    }

    /// Removes everything but the whole ones of `lacking`; which of these are still to come. May
    /// take long, like the next two: not for the thread of the peers.
    pub(super) fn missing(
        &self,
        lacking: &[(u32, OfferedFile)],
    ) -> varve_disk::Result<Vec<(u32, OfferedFile)>> {
        self.disk.create_dir_all(&self.dir)?;
        let found: BTreeSet<String> = self.disk.list(&self.dir)?.into_iter().collect();
        let names: BTreeSet<String> = lacking.iter().map(|(_, file)| part_name(file)).collect();
        for name in found.difference(&names) {
            self.disk.remove(&self.dir.join(name))?;
        }
        let is_missing = |(_, file): &&(u32, OfferedFile)| !found.contains(&part_name(file));
        Ok(lacking.iter().filter(is_missing).cloned().collect())
    }

    /// Writes the files that are missing; returns the Raft message that ends the transfer.
    pub(super) async fn receive(
        &self,
        stream: &mut PeerStream,
        missing: &[(u32, OfferedFile)],
    ) -> Result<Bytes, FrameError> {
        // Of a file without content no piece comes.
        for (index, file) in missing.iter().filter(|(_, file)| file.bytes == 0) {
            let empty = Part::create(&*self.disk, *index, file, self.dir.join("draft"))?;
            self.finish(Some(empty)).await?;
        }
        let mut missing = missing.iter().filter(|(_, file)| file.bytes > 0);
        let mut open: Option<Part> = None;
        loop {
            let (kind, payload) = timeout(limits::SNAPSHOT_STEP_TIMEOUT, frame::read(stream))
                .await
                .map_err(|_| FrameError::malformed("a piece of a snapshot", "silence"))??;
            match kind {
                FrameKind::SnapshotChunk => {
                    let mut fields = Fields::new("a piece of a file", &payload);
                    let (index, offset) = (fields.u32()?, fields.u64()?);
                    let bytes = payload.slice(payload.len() - fields.rest().len()..);
                    let part = match open.take() {
                        Some(part) if part.index == index => part,
                        before => {
                            self.finish(before).await?;
                            let next = missing.next().filter(|(next, _)| *next == index);
                            let (index, file) = next.ok_or_else(|| {
                                let found = format!("file {index}");
                                FrameError::malformed("the wanted files in order", found)
                            })?;
                            Part::create(&*self.disk, *index, file, self.dir.join("draft"))?
                        }
                    };
                    open = Some(part.append(offset, bytes).await?);
                }
                FrameKind::SnapshotEnd => {
                    self.finish(open.take()).await?;
                    return match missing.next() {
                        Some((index, _)) => {
                            Err(FrameError::malformed(format!("file {index}"), "the end"))
                        }
                        None => Ok(payload),
                    };
                }
                other => {
                    let found = format!("{other:?}");
                    return Err(FrameError::malformed("a piece of a snapshot", found));
                }
            }
        }
    }

    /// A file has ended: it must be what was announced, and is durable after this.
    async fn finish(&self, part: Option<Part>) -> Result<(), FrameError> {
        let Some(Part { written, announced, digest, file, draft, .. }) = part else {
            return Ok(());
        };
        let OfferedFile { name, digest: expected, bytes } = &announced;
        if written != *bytes {
            let expected = format!("{bytes} bytes of {name}");
            return Err(FrameError::malformed(expected, format!("{written} bytes")));
        }
        let found = digest.digest128();
        if found != *expected {
            let expected = format!("digest {expected:032x} of {name}");
            return Err(FrameError::malformed(expected, format!("{found:032x}")));
        }
        blocking(move || file.sync()).await?.map_err(own_disk)?;
        self.disk.rename(&draft, &self.dir.join(part_name(&announced))).map_err(own_disk)
    }

    /// Everything has arrived: moves it to `staged`, where its names are durable after this.
    pub(super) fn hand_over(
        &self,
        lacking: &[(u32, OfferedFile)],
        staged: &Path,
    ) -> varve_disk::Result<()> {
        for (_, file) in lacking {
            self.disk.rename(&self.dir.join(part_name(file)), &staged.join(&file.name))?;
        }
        self.disk.sync_dir(staged)?;
        self.clear()
    }

    /// Removes all that is here.
    pub(super) fn clear(&self) -> varve_disk::Result<()> {
        self.disk.remove_dir_all(&self.dir)
    }
}

/// What a whole file is called here.
fn part_name(file: &OfferedFile) -> String {
    format!("{}.{:032x}.{}", file.name, file.digest, file.bytes)
}

/// A file of which the beginning is here.
struct Part {
    index: u32,
    announced: OfferedFile,
    written: u64,
    digest: Box<Xxh3>,
    file: Arc<dyn File>,
    draft: PathBuf,
}

impl Part {
    fn create(
        disk: &dyn Disk,
        index: u32,
        announced: &OfferedFile,
        draft: PathBuf,
    ) -> Result<Self, FrameError> {
        let file = disk.create(&draft).map_err(own_disk)?;
        let (announced, digest) = (announced.clone(), Box::new(Xxh3::new()));
        Ok(Self { index, announced, written: 0, digest, file, draft })
    }

    /// The next bytes of it.
    async fn append(mut self, offset: u64, bytes: Bytes) -> Result<Self, FrameError> {
        let announced = self.announced.bytes;
        let end = offset.saturating_add(bytes.len() as u64);
        if offset != self.written || end > announced {
            return Err(FrameError::malformed(
                format!("offset {} of {announced} bytes", self.written),
                format!("bytes {offset} to {end}"),
            ));
        }
        let write = move || {
            self.digest.update(&bytes);
            self.written = end;
            self.file.write_at(offset, &bytes)?;
            // On its way at once: what waits for a sync of this file is small, and so is what the
            // log's syncs beside it have to wait for.
            self.file.begin_write_out(offset, bytes.len() as u64);
            Ok(self)
        };
        blocking(write).await?.map_err(own_disk)
    }
}
