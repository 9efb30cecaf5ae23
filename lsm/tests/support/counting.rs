//! A disk that counts what is written, by the kind of file, and what it is asked to read soon.
//!
//! Amplification is a matter of bytes, not of time: what passes here is what a device would get.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use varve_disk::durable::{Backend, DurableWriter};
use varve_disk::{Access, DirLock, Disk, File, Result};

/// Passes all calls on, and adds up the bytes of `write_at` by the suffix of the file's name.
#[derive(Clone)]
pub struct CountingDisk {
    inner: Arc<dyn Disk>,
    written: Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>,
    unmappings: Arc<AtomicU64>,
    asked: Arc<Mutex<Vec<usize>>>,
    residency: Arc<Residency>,
}

type Residency = dyn Fn(&[u8]) -> bool + Send + Sync;

struct CountingFile {
    inner: Arc<dyn File>,
    written: Arc<AtomicU64>,
}

impl CountingDisk {
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        let passed_on = Arc::clone(&inner);
        let residency = Arc::new(move |bytes: &[u8]| passed_on.is_resident(bytes));
        let (written, unmappings, asked) = (Arc::default(), Arc::default(), Arc::default());
        Self { inner, written, unmappings, asked, residency }
    }

    /// Answers what is resident in place of the disk.
    pub fn with_residency(
        mut self,
        residency: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.residency = Arc::new(residency);
        self
    }

    /// How often it was asked to unmap what was let go.
    pub fn unmappings(&self) -> u64 {
        self.unmappings.load(Ordering::Relaxed)
    }

    /// The lengths of what it was asked to read soon since this was last called.
    pub fn take_asked(&self) -> Vec<usize> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn counter(&self, path: &Path) -> Arc<AtomicU64> {
        let suffix = path.extension().map_or(String::new(), |end| end.to_string_lossy().into());
        Arc::clone(self.written.lock().unwrap().entry(suffix).or_default())
    }

    /// Bytes written to files of this suffix so far.
    pub fn written(&self, suffix: &str) -> u64 {
        self.counter(&PathBuf::from(format!("x.{suffix}"))).load(Ordering::Relaxed)
    }

    fn counted(&self, path: &Path, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(CountingFile { inner, written: self.counter(path) })
    }
}

impl Disk for CountingDisk {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        Ok(self.counted(path, self.inner.create(path)?))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        Ok(self.counted(path, self.inner.open(path)?))
    }

    fn open_durable(&self, path: &Path, backend: Backend) -> Result<Box<dyn DurableWriter>> {
        self.inner.open_durable(path, backend)
    }

    fn backends(&self) -> &'static [Backend] {
        self.inner.backends()
    }

    fn map(&self, path: &Path) -> Result<Bytes> {
        self.inner.map(path)
    }

    fn unmap_let_go(&self, files_max: usize) -> usize {
        self.unmappings.fetch_add(1, Ordering::Relaxed);
        self.inner.unmap_let_go(files_max)
    }

    fn is_resident(&self, bytes: &[u8]) -> bool {
        (self.residency)(bytes)
    }

    fn advise(&self, bytes: &[u8], access: Access) {
        if access == Access::Soon {
            self.asked.lock().unwrap().push(bytes.len());
        }
        self.inner.advise(bytes, access);
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.inner.remove(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> Result<()> {
        self.inner.remove_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.inner.exists(path)
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.inner.create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.inner.sync_dir(dir)
    }

    fn space_left(&self, dir: &Path) -> Result<u64> {
        self.inner.space_left(dir)
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn DirLock>> {
        self.inner.lock(dir)
    }
}

impl File for CountingFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.inner.write_at(offset, data)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, length_bytes: u64) -> Result<()> {
        self.inner.set_len(length_bytes)
    }

    fn preallocate(&self, length_bytes: u64) -> Result<()> {
        self.inner.preallocate(length_bytes)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_exact_at(offset, buffer)
    }
}
