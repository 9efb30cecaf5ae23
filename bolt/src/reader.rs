//! Reads a file that may be anything: damaged, cut, or made to hurt.
//!
//! One idea: nothing is believed that was not checked, and everything that is walked is counted. A
//! page must say that it is the page it was asked for, its elements must lie in it, keys must grow
//! along a whole bucket, and no more pages are read than the file has; so a walk ends, whatever the
//! pages point to.
//!
//! What it does not do: look for pages that nobody points to, or read the list of free ones.

use std::cmp::Reverse;

use crate::page::{
    BRANCH, BUCKET_BYTES, ELEMENT_BYTES, HEADER_BYTES, Header, IS_BUCKET, LEAF, META_BYTES, Meta,
    u32_at, u64_at,
};

/// Levels of a tree at most; 4 hold a billion rows.
const LEVELS_MAX: usize = 32;
/// Bytes of a page with what overflows; etcd's requests are far shorter.
const PAGE_BYTES_MAX: u64 = 1 << 30;
/// Where the second meta may be: behind one page, of whatever size.
const PAGE_BYTES_LOG2: std::ops::RangeInclusive<u32> = 9..=16;

/// Where the bytes come from.
pub trait Source {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `offset`, which is within the length.
    ///
    /// # Errors
    /// Those of the medium.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()>;
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no bbolt database, or a damaged or truncated one.
    #[error("{place}: expected {expected}, found {found}")]
    Malformed {
        /// Where in the file.
        place: String,
        /// What a sound file has there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The medium failed.
    #[error("cannot read: {0}")]
    Source(#[from] std::io::Error),
}

type Result<T> = std::result::Result<T, Error>;

#[cold]
fn malformed(
    place: impl Into<String>,
    expected: impl Into<String>,
    found: impl std::fmt::Display,
) -> Error {
    Error::Malformed { place: place.into(), expected: expected.into(), found: found.to_string() }
}

/// An open file.
pub struct Reader<S> {
    source: S,
    meta: Meta,
}

/// A bucket of the root.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Its name.
    pub name: Vec<u8>,
    tree: Tree,
}

#[derive(Clone, Debug)]
enum Tree {
    Root(u64),
    /// A small bucket is a page within its own row.
    Inline(Vec<u8>),
}

impl<S: Source> Reader<S> {
    /// Finds the newer sound meta page.
    ///
    /// # Errors
    /// Neither is sound, or the file is shorter than it says.
    pub fn open(source: S) -> Result<Self> {
        let mut metas = vec![read_meta(&source, 0)];
        for bits in PAGE_BYTES_LOG2 {
            let meta = read_meta(&source, 1 << bits);
            metas.extend(meta.ok().filter(|meta| meta.page_bytes == 1 << bits).map(Ok));
        }
        metas.sort_by_key(|meta| Reverse(meta.as_ref().map(|meta| meta.transaction).ok()));
        let meta = metas.swap_remove(0).map_err(|found| {
            malformed("meta pages", "a bbolt database", format!("none ({found})"))
        })?;
        let bytes = meta.pages.checked_mul(meta.page_bytes.into());
        if bytes.is_none_or(|bytes| bytes > source.len()) {
            let expected = format!("{} pages of {} bytes", meta.pages, meta.page_bytes);
            let found = format!("{} bytes: the file is truncated", source.len());
            return Err(malformed("length", expected, found));
        }
        Ok(Self { source, meta })
    }

    /// Bytes of the database; the file may be longer.
    pub fn bytes(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_bytes)
    }

    /// All buckets, by name.
    ///
    /// # Errors
    /// Damage, or rows beside the buckets.
    pub fn buckets(&self) -> Result<Vec<Bucket>> {
        let root = Bucket { name: Vec::new(), tree: Tree::Root(self.meta.root) };
        let mut buckets = Vec::new();
        let mut cursor = Cursor::new(self, &root, IS_BUCKET)?;
        while let Some((name, value)) = cursor.next_row()? {
            if value.len() < BUCKET_BYTES {
                let expected = format!("a bucket's header of {BUCKET_BYTES} bytes");
                return Err(malformed(label(name), expected, value.len()));
            }
            let tree = match u64_at(value, 0) {
                0 => Tree::Inline(value[BUCKET_BYTES..].to_vec()),
                root => Tree::Root(root),
            };
            buckets.push(Bucket { name: name.to_vec(), tree });
        }
        Ok(buckets)
    }

    /// Walks the rows of a bucket, by key.
    ///
    /// # Errors
    /// Damage of its root.
    pub fn rows<'a>(&'a self, bucket: &Bucket) -> Result<Cursor<'a, S>> {
        Cursor::new(self, bucket, 0)
    }

    /// The page `id` with what overflows.
    fn page(&self, id: u64) -> Result<Page> {
        let place = || format!("page {id}");
        let page_bytes = u64::from(self.meta.page_bytes);
        if !(2..self.meta.pages).contains(&id) {
            let expected = format!("a page from 2 to {}", self.meta.pages.saturating_sub(1));
            return Err(malformed("a link to a page", expected, id));
        }
        let mut bytes = vec![0; self.meta.page_bytes as usize];
        self.source.read_at(id * page_bytes, &mut bytes)?;
        let header = Header::decode(&bytes);
        if header.id != id {
            return Err(malformed(place(), format!("number {id}"), header.id));
        }
        let pages = u64::from(header.overflow) + 1;
        if pages > self.meta.pages - id || pages * page_bytes > PAGE_BYTES_MAX {
            let expected = format!("an end within the file and {PAGE_BYTES_MAX} bytes");
            return Err(malformed(place(), expected, format!("{pages} pages")));
        }
        if pages > 1 {
            // `PAGE_BYTES_MAX` fits any usize.
            bytes.resize((pages * page_bytes) as usize, 0);
            let (_, rest) = bytes.split_at_mut(page_bytes as usize);
            self.source.read_at((id + 1) * page_bytes, rest)?;
        }
        Page::new(place(), header, bytes)
    }
}

fn read_meta(source: &impl Source, offset: u64) -> std::result::Result<Meta, String> {
    let mut bytes = [0; HEADER_BYTES + META_BYTES];
    if source.len() < offset + bytes.len() as u64 {
        return Err(format!("the file ends after {} bytes", source.len()));
    }
    source.read_at(offset, &mut bytes).map_err(|error| error.to_string())?;
    Meta::decode(&bytes[HEADER_BYTES..])
}

fn label(key: &[u8]) -> String {
    format!("row {}", key[..key.len().min(64)].escape_ascii())
}

/// A branch or a leaf whose elements lie in it.
struct Page {
    place: String,
    kind: u16,
    count: usize,
    /// The next element.
    next: usize,
    bytes: Vec<u8>,
}

impl Page {
    fn new(place: String, header: Header, bytes: Vec<u8>) -> Result<Self> {
        if header.kind != BRANCH && header.kind != LEAF {
            return Err(malformed(place, "a branch or a leaf", format!("kind {:#x}", header.kind)));
        }
        let count = usize::from(header.count);
        let elements = (bytes.len() - HEADER_BYTES) / ELEMENT_BYTES;
        if count > elements {
            return Err(malformed(place, format!("at most {elements} elements"), count));
        }
        if header.kind == BRANCH && count == 0 {
            return Err(malformed(place, "a branch with elements", "none"));
        }
        Ok(Self { place, kind: header.kind, count, next: 0, bytes })
    }

    /// The bytes at a position that counts from the element `number`.
    fn slice(&self, number: usize, position: u32, length: u64) -> Result<&[u8]> {
        let start = HEADER_BYTES as u64 + (number * ELEMENT_BYTES) as u64 + u64::from(position);
        let end = start + length;
        // Both fit if the end does.
        let bytes = usize::try_from(end).ok().and_then(|end| self.bytes.get(start as usize..end));
        bytes.ok_or_else(|| {
            let expected = format!("element {number} within {} bytes", self.bytes.len());
            malformed(self.place.clone(), expected, format!("bytes {start} to {end}"))
        })
    }

    fn element(&self, number: usize) -> &[u8] {
        &self.bytes[HEADER_BYTES + number * ELEMENT_BYTES..][..ELEMENT_BYTES]
    }

    /// The child of element `number` of a branch.
    fn child(&self, number: usize) -> u64 {
        u64_at(self.element(number), 8)
    }

    /// Flags, key and value of element `number` of a leaf.
    fn row(&self, number: usize) -> Result<(u32, &[u8], &[u8])> {
        let element = self.element(number);
        let (flags, position) = (u32_at(element, 0), u32_at(element, 4));
        let (key, value) = (u64::from(u32_at(element, 8)), u64::from(u32_at(element, 12)));
        let bytes = self.slice(number, position, key + value)?;
        // Less than the page.
        let (key, value) = bytes.split_at(key as usize);
        Ok((flags, key, value))
    }
}

/// The rows of one bucket, by key. Memory: one page a level, and a key.
pub struct Cursor<'a, S> {
    reader: &'a Reader<S>,
    /// From the root to a leaf.
    path: Vec<Page>,
    /// Flags that each row must have.
    flags: u32,
    pages_left: u64,
    last_key: Option<Vec<u8>>,
}

impl<'a, S: Source> Cursor<'a, S> {
    fn new(reader: &'a Reader<S>, bucket: &Bucket, flags: u32) -> Result<Self> {
        let (path, pages_left) = (Vec::new(), reader.meta.pages);
        let mut cursor = Self { reader, path, flags, pages_left, last_key: None };
        match &bucket.tree {
            Tree::Root(id) => cursor.descend(*id)?,
            Tree::Inline(bytes) => {
                let place = format!("bucket {}", bucket.name.escape_ascii());
                if bytes.len() < HEADER_BYTES {
                    return Err(malformed(place, "a page within its row", bytes.len()));
                }
                let header = Header::decode(bytes);
                if header.kind != LEAF {
                    return Err(malformed(place, "a leaf", format!("kind {:#x}", header.kind)));
                }
                cursor.path.push(Page::new(place, header, bytes.clone())?);
            }
        }
        Ok(cursor)
    }

    /// Adds a page and its first children to the path.
    fn descend(&mut self, mut id: u64) -> Result<()> {
        loop {
            let page = self.reader.page(id)?;
            let pages = page.bytes.len() as u64 / u64::from(self.reader.meta.page_bytes);
            let Some(left) = self.pages_left.checked_sub(pages) else {
                return Err(malformed(page.place, "each page once", "a page that was read before"));
            };
            self.pages_left = left;
            if self.path.len() == LEVELS_MAX {
                return Err(malformed(page.place, format!("{LEVELS_MAX} levels"), "more"));
            }
            let is_leaf = page.kind == LEAF;
            self.path.push(page);
            if is_leaf {
                return Ok(());
            }
            let branch = self.path.last_mut().expect("it was pushed");
            id = branch.child(0);
            branch.next = 1;
        }
    }

    /// The next row; `None` behind the last.
    ///
    /// # Errors
    /// Damage, or keys that do not grow. Nothing must be read after it.
    pub fn next_row(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        loop {
            let Some(page) = self.path.last_mut() else { return Ok(None) };
            if page.next == page.count {
                self.path.pop();
                continue;
            }
            let number = page.next;
            page.next += 1;
            if page.kind == LEAF {
                break;
            }
            let child = page.child(number);
            self.descend(child)?;
        }
        let page = self.path.last().expect("the loop ended at a leaf");
        let (flags, key, value) = page.row(page.next - 1)?;
        if flags != self.flags {
            let expected = if self.flags == IS_BUCKET { "a bucket" } else { "a row, no bucket" };
            return Err(malformed(page.place.clone(), expected, format!("flags {flags:#x}")));
        }
        if self.last_key.as_deref().is_some_and(|last| last >= key) {
            return Err(malformed(page.place.clone(), "keys that grow", label(key)));
        }
        let last = self.last_key.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        Ok(Some((key, value)))
    }
}
