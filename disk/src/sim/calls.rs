//! The traits over the simulated disk.
//!
//! One idea: each call asks to be admitted (power, count, faults), then changes the tree or a
//! file's content under the operation's number. What a failed call leaves behind is decided here.
//!
//! What it does not do: durability is in `content.rs` and `names.rs`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::fault::{Admitted, OperationKind, power_is_out};
use super::names::NodeId;
use super::tree::occupied_bytes;
use super::{SimDisk, State};
use crate::durable::{Backend, DurableWriter};
use crate::{DirLock, Disk, Error, File, LOCK_FILE_NAME, Result, SECTOR_BYTES};

impl State {
    /// Admits a call that changes nothing when it fails; its operation number.
    fn begin(&mut self, kind: OperationKind, verb: &'static str, path: &Path) -> Result<u64> {
        let Admitted { operation, fault } = self.faults.admit(kind, verb, path)?;
        match fault {
            None => Ok(operation),
            Some(fault) => Err(Error::new(verb, path, fault.to_io_error())),
        }
    }

    /// Fails a call that is neither counted nor subject to rules.
    fn check_power(&self, verb: &'static str, path: &Path) -> Result<()> {
        if self.faults.power_is_out() { Err(power_is_out(verb, path)) } else { Ok(()) }
    }

    fn space_left_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.tree.occupied_bytes())
    }

    /// Whether a file can be made `length_bytes` long.
    fn check_space(&self, file: NodeId, length_bytes: u64) -> io::Result<()> {
        let occupied = occupied_bytes(self.tree.file(file).current().len());
        let wanted = occupied_bytes(length_bytes).saturating_sub(occupied);
        if wanted > 0 && wanted > self.space_left_bytes() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl SimDisk {
    fn handle(&self, state: &mut State, node: NodeId, path: &Path) -> SimFile {
        state.tree.count_handle(node, 1);
        SimFile { disk: self.clone(), node, path: path.to_path_buf() }
    }

    fn open_file(&self, path: &Path) -> Result<SimFile> {
        let mut state = self.lock_state();
        state.begin(OperationKind::Open, "open", path)?;
        let found = state.tree.lookup_file(path);
        let node = found.map_err(|error| Error::new("open", path, error))?;
        Ok(self.handle(&mut state, node, path))
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        let mut state = self.lock_state();
        let operation = state.begin(OperationKind::Create, "create", path)?;
        let created = state.tree.create_file(operation, path);
        let node = created.map_err(|error| Error::new("create", path, error))?;
        Ok(Arc::new(self.handle(&mut state, node, path)))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        Ok(Arc::new(self.open_file(path)?))
    }

    /// Every backend does the same here: a write, then a sync of what it wrote.
    fn open_durable(&self, path: &Path, _backend: Backend) -> Result<Box<dyn DurableWriter>> {
        Ok(Box::new(self.open_file(path)?))
    }

    fn backends(&self) -> &'static [Backend] {
        &[Backend::Fdatasync]
    }

    fn map(&self, path: &Path) -> Result<Bytes> {
        let mut state = self.lock_state();
        state.begin(OperationKind::Read, "map", path)?;
        let found = state.tree.lookup_file(path);
        let node = found.map_err(|error| Error::new("map", path, error))?;
        Ok(Bytes::from(state.tree.file(node).current().to_vec()))
    }

    /// A copy: of files that nobody changes it cannot be told from a link, but for the space.
    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        let fail = |error| Error::new("link", from, error);
        let mut state = self.lock_state();
        let operation = state.begin(OperationKind::Create, "link", to)?;
        let source = state.tree.lookup_file(from).map_err(fail)?;
        let node = state.tree.create_file(operation, to).map_err(fail)?;
        let content = state.tree.file(source).clone();
        *state.tree.file_mut(node) = content;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut state = self.lock_state();
        let operation = state.begin(OperationKind::Rename, "rename", from)?;
        let renamed = state.tree.rename(operation, from, to);
        renamed.map_err(|error| Error::new("rename", from, error))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut state = self.lock_state();
        let operation = state.begin(OperationKind::Remove, "remove", path)?;
        let removed = state.tree.remove_file(operation, path);
        removed.map_err(|error| Error::new("remove", path, error))
    }

    fn remove_dir_all(&self, dir: &Path) -> Result<()> {
        let mut state = self.lock_state();
        state.check_power("remove", dir)?;
        match state.tree.lookup(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            _ => {}
        }
        let operation = state.begin(OperationKind::Remove, "remove", dir)?;
        let removed = state.tree.remove_dir_all(operation, dir);
        removed.map_err(|error| Error::new("remove", dir, error))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let mut state = self.lock_state();
        state.begin(OperationKind::List, "list", dir)?;
        let found = state.tree.lookup_dir(dir);
        let node = found.map_err(|error| Error::new("list", dir, error))?;
        Ok(state.tree.list(node))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        let state = self.lock_state();
        state.check_power("look up", path)?;
        match state.tree.lookup(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::new("look up", path, error)),
        }
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        let mut state = self.lock_state();
        state.check_power("create directory", dir)?;
        if state.tree.lookup_dir(dir).is_ok() {
            return Ok(());
        }
        let operation = state.begin(OperationKind::CreateDir, "create directory", dir)?;
        let created = state.tree.create_dir_all(operation, dir);
        created.map_err(|error| Error::new("create directory", dir, error))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let fail = |error| Error::new("sync directory", dir, error);
        let mut state = self.lock_state();
        let Admitted { fault, .. } =
            state.faults.admit(OperationKind::SyncDir, "sync directory", dir)?;
        let node = state.tree.lookup_dir(dir).map_err(fail)?;
        if let Some(fault) = fault {
            state.tree.changes.abandon(node);
            return Err(fail(fault.to_io_error()));
        }
        if state.tree.changes.is_abandoned(node) {
            return Err(fail(io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        state.tree.sync_dir(node);
        Ok(())
    }

    fn space_left(&self, dir: &Path) -> Result<u64> {
        let state = self.lock_state();
        state.check_power("measure the space of", dir)?;
        let found = state.tree.lookup(dir);
        found.map_err(|error| Error::new("measure the space of", dir, error))?;
        Ok(state.space_left_bytes())
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn DirLock>> {
        let path = dir.join(LOCK_FILE_NAME);
        let fail = |error| Error::new("lock", &path, error);
        let mut state = self.lock_state();
        state.check_power("lock", &path)?;
        let node = state.tree.lookup_dir(dir).map_err(fail)?;
        if state.tree.lookup(&path).is_err() {
            let operation = state.begin(OperationKind::Create, "lock", &path)?;
            state.tree.create_file(operation, &path).map_err(fail)?;
        }
        if !state.locks.insert(node) {
            return Err(fail(io::ErrorKind::WouldBlock.into()));
        }
        Ok(Box::new(SimDirLock { disk: self.clone(), node }))
    }
}

/// An open file of the simulated disk; lives on when its name is removed.
struct SimFile {
    disk: SimDisk,
    node: NodeId,
    /// The path that it was opened by, for errors and fault rules.
    path: PathBuf,
}

impl SimFile {
    fn fail(&self, verb: &'static str, error: io::Error) -> Error {
        Error::new(verb, &self.path, error)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.lock_state().tree.count_handle(self.node, -1);
    }
}

impl File for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut state = self.disk.lock_state();
        state.begin(OperationKind::Read, "read", &self.path)?;
        Ok(state.tree.file(self.node).current().read(offset, buffer))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut state = self.disk.lock_state();
        let Admitted { operation, fault } =
            state.faults.admit(OperationKind::Write, "write", &self.path)?;
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or_else(|| self.fail("write", io::ErrorKind::InvalidInput.into()))?;
        if let Some(fault) = fault {
            // It failed at some sector: those before it were written.
            let sectors = data.len() as u64 / SECTOR_BYTES;
            let written_bytes = state.random.below(sectors + 1) * SECTOR_BYTES;
            let written_end = offset + written_bytes;
            if written_bytes > 0 && state.check_space(self.node, written_end).is_ok() {
                let written = &data[..written_bytes as usize];
                state.tree.file_mut(self.node).write(operation, offset, written);
            }
            return Err(self.fail("write", fault.to_io_error()));
        }
        if !data.is_empty() {
            state.check_space(self.node, end).map_err(|error| self.fail("write", error))?;
        }
        state.tree.file_mut(self.node).write(operation, offset, data);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.disk.lock_state();
        let admitted = state.faults.admit(OperationKind::Sync, "sync", &self.path)?;
        let file = state.tree.file_mut(self.node);
        if let Some(fault) = admitted.fault {
            file.abandon();
            return Err(self.fail("sync", fault.to_io_error()));
        }
        file.sync();
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        let state = self.disk.lock_state();
        state.check_power("measure", &self.path)?;
        Ok(state.tree.file(self.node).current().len())
    }

    fn set_len(&self, length_bytes: u64) -> Result<()> {
        let verb = "set the length of";
        let mut state = self.disk.lock_state();
        let operation = state.begin(OperationKind::SetLen, verb, &self.path)?;
        state.check_space(self.node, length_bytes).map_err(|error| self.fail(verb, error))?;
        state.tree.file_mut(self.node).set_length(operation, length_bytes);
        Ok(())
    }

    fn preallocate(&self, length_bytes: u64) -> Result<()> {
        let mut state = self.disk.lock_state();
        let operation = state.begin(OperationKind::Preallocate, "preallocate", &self.path)?;
        if length_bytes > state.tree.file(self.node).current().len() {
            let enough = state.check_space(self.node, length_bytes);
            enough.map_err(|error| self.fail("preallocate", error))?;
            state.tree.file_mut(self.node).set_length(operation, length_bytes);
        }
        Ok(())
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if self.read_at(offset, buffer)? < buffer.len() {
            return Err(self.fail("read", io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }
}

impl DurableWriter for SimFile {
    /// Two operations, so that a crash or a fault can come between them.
    fn write_durable_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.write_at(offset, data)?;
        let mut state = self.disk.lock_state();
        let admitted = state.faults.admit(OperationKind::Sync, "sync", &self.path)?;
        let file = state.tree.file_mut(self.node);
        if let Some(fault) = admitted.fault {
            file.abandon();
            return Err(self.fail("sync", fault.to_io_error()));
        }
        // Other unsynced writes stay unsynced: a caller that relies on more is found out.
        file.sync_range(offset, data.len() as u64);
        Ok(())
    }
}

/// Releases the lock when dropped; void after a crash, as the new disk knows no locks.
struct SimDirLock {
    disk: SimDisk,
    node: NodeId,
}

impl DirLock for SimDirLock {}

impl Drop for SimDirLock {
    fn drop(&mut self) {
        self.disk.lock_state().locks.remove(&self.node);
    }
}
