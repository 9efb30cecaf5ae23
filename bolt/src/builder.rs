//! Builds a file from rows that come sorted, one page after another.
//!
//! One idea: see the crate. A page is finished when the next row does not fit, or its tree ends; it
//! gets the next number, goes out, and its first key and number become a row of the page above.
//!
//! Invariants (asserted): names of buckets and keys within one grow strictly; a page goes out once,
//! behind all its children, in the order of numbers.

use crate::page::{
    BRANCH, BUCKET_BYTES, ELEMENT_BYTES, FREELIST, HEADER_BYTES, Header, IS_BUCKET, LEAF, META,
    Meta, PAGE_BYTES,
};

/// The page of free pages.
const FREELIST_PAGE: u64 = 2;
/// The first page of a tree.
const FIRST_PAGE: u64 = 3;
/// Longest key, as in bbolt.
const KEY_BYTES_MAX: usize = 32768;

/// Where things are in a finished file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    root: u64,
    pages: u64,
}

impl Layout {
    /// Length of the whole file; a multiple of the page.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }

    /// The pages in front of what a [`Builder`] writes.
    pub fn head(&self) -> Vec<u8> {
        let mut head = vec![0; FIRST_PAGE as usize * PAGE_BYTES];
        for transaction in 0..FREELIST_PAGE {
            let page = &mut head[transaction as usize * PAGE_BYTES..];
            let header = Header { id: transaction, kind: META, count: 0, overflow: 0 };
            let meta = Meta {
                page_bytes: PAGE_BYTES as u32,
                root: self.root,
                freelist: FREELIST_PAGE,
                pages: self.pages,
                transaction,
            };
            page[..HEADER_BYTES].copy_from_slice(&header.encode());
            page[HEADER_BYTES..HEADER_BYTES + 64].copy_from_slice(&meta.encode());
        }
        let header = Header { id: FREELIST_PAGE, kind: FREELIST, count: 0, overflow: 0 };
        let start = FREELIST_PAGE as usize * PAGE_BYTES;
        head[start..start + HEADER_BYTES].copy_from_slice(&header.encode());
        head
    }
}

/// Takes rows and gives pages to `sink`. Memory: one page a level of the tree.
pub struct Builder<S> {
    sink: S,
    next_page: u64,
    root: PageBuilder,
    /// The bucket being filled.
    bucket: Option<Vec<u8>>,
    leaf: PageBuilder,
    /// The open branches, lowest first.
    branches: Vec<PageBuilder>,
    last_name: Option<Vec<u8>>,
    last_key: Option<Vec<u8>>,
}

impl<S, E> Builder<S>
where
    S: FnMut(&[u8]) -> Result<(), E>,
{
    /// A file without buckets, whose pages behind [`Layout::head`] go to `sink`, in order.
    pub fn new(sink: S) -> Self {
        Self {
            sink,
            next_page: FIRST_PAGE,
            root: PageBuilder::new(LEAF),
            bucket: None,
            leaf: PageBuilder::new(LEAF),
            branches: Vec::new(),
            last_name: None,
            last_key: None,
        }
    }

    /// Ends the bucket before, and begins one. Names must grow.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), E> {
        self.end_bucket()?;
        assert!(
            self.last_name.as_deref().is_none_or(|last| last < name),
            "bucket {} after {:?}",
            name.escape_ascii(),
            self.last_name
        );
        self.last_name = Some(name.to_vec());
        self.bucket = Some(name.to_vec());
        self.last_key = None;
        Ok(())
    }

    /// Adds a row to the bucket. Keys must grow.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), E> {
        assert!(self.bucket.is_some(), "a row without a bucket");
        assert!((1..=KEY_BYTES_MAX).contains(&key.len()), "a key of {} bytes", key.len());
        assert!(
            self.last_key.as_deref().is_none_or(|last| last < key),
            "key {} after {:?}",
            key.escape_ascii(),
            self.last_key
        );
        match &mut self.last_key {
            Some(last) => {
                last.clear();
                last.extend_from_slice(key);
            }
            None => self.last_key = Some(key.to_vec()),
        }
        if !self.leaf.fits(key, value) {
            let child = self.write_leaf()?;
            self.add_child(0, child)?;
        }
        self.leaf.add(0, key, value);
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn finish(mut self) -> Result<Layout, E> {
        self.end_bucket()?;
        let (_, root) = write(&mut self.root, &mut self.next_page, &mut self.sink)?;
        Ok(Layout { root, pages: self.next_page })
    }

    fn end_bucket(&mut self) -> Result<(), E> {
        let Some(name) = self.bucket.take() else { return Ok(()) };
        let value = if self.leaf.is_empty() {
            // An empty bucket is a page within its own row.
            let mut value = vec![0; BUCKET_BYTES];
            let page = Header { id: 0, kind: LEAF, count: 0, overflow: 0 };
            value.extend_from_slice(&page.encode());
            value
        } else {
            let root = self.end_tree()?;
            let mut value = root.to_le_bytes().to_vec();
            value.resize(BUCKET_BYTES, 0);
            value
        };
        self.root.add(IS_BUCKET, &name, &value);
        Ok(())
    }

    /// Writes all open pages, lowest first; the last one is the root.
    fn end_tree(&mut self) -> Result<u64, E> {
        let mut child = self.write_leaf()?;
        let mut level = 0;
        while level < self.branches.len() {
            self.add_child(level, child)?;
            let branch = &mut self.branches[level];
            child = write(branch, &mut self.next_page, &mut self.sink)?;
            level += 1;
        }
        self.branches.clear();
        Ok(child.1)
    }

    fn write_leaf(&mut self) -> Result<(Vec<u8>, u64), E> {
        write(&mut self.leaf, &mut self.next_page, &mut self.sink)
    }

    /// Adds a page to the branch above it, which may have to be written first.
    fn add_child(&mut self, level: usize, (key, page): (Vec<u8>, u64)) -> Result<(), E> {
        if self.branches.len() == level {
            self.branches.push(PageBuilder::new(BRANCH));
        }
        let branch = &mut self.branches[level];
        if !branch.fits(&key, b"") {
            let full = write(branch, &mut self.next_page, &mut self.sink)?;
            self.add_child(level + 1, full)?;
        }
        self.branches[level].add_child(&key, page);
        Ok(())
    }
}

/// Gives a page its number and writes it; returns its first key and its number.
fn write<E>(
    page: &mut PageBuilder,
    next_page: &mut u64,
    sink: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(Vec<u8>, u64), E> {
    let id = *next_page;
    let bytes = page.take(id);
    *next_page += (bytes.1.len() / PAGE_BYTES) as u64;
    sink(&bytes.1)?;
    Ok((bytes.0, id))
}

/// A page being filled.
struct PageBuilder {
    kind: u16,
    elements: Vec<Element>,
    /// Keys and values.
    data: Vec<u8>,
}

struct Element {
    /// Flags in a leaf, the child in a branch.
    link: u64,
    key_bytes: u32,
    value_bytes: u32,
}

impl PageBuilder {
    fn new(kind: u16) -> Self {
        Self { kind, elements: Vec::new(), data: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Whether there is room; an empty page takes anything, and goes on in the next ones.
    fn fits(&self, key: &[u8], value: &[u8]) -> bool {
        let elements = (self.elements.len() + 1) * ELEMENT_BYTES;
        let data = self.data.len() + key.len() + value.len();
        self.is_empty() || HEADER_BYTES + elements + data <= PAGE_BYTES
    }

    fn add(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("less than 2 GiB");
        let (key_bytes, value_bytes) = (length(key), length(value));
        self.elements.push(Element { link: flags.into(), key_bytes, value_bytes });
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    fn add_child(&mut self, key: &[u8], page: u64) {
        let key_bytes = u32::try_from(key.len()).expect("at most 32 KiB");
        self.elements.push(Element { link: page, key_bytes, value_bytes: 0 });
        self.data.extend_from_slice(key);
    }

    /// The first key and the bytes of the page; begins the next one.
    fn take(&mut self, id: u64) -> (Vec<u8>, Vec<u8>) {
        let first = self.elements.first().map_or(0, |element| element.key_bytes as usize);
        let first_key = self.data[..first].to_vec();
        let length = HEADER_BYTES + self.elements.len() * ELEMENT_BYTES + self.data.len();
        let pages = length.div_ceil(PAGE_BYTES);
        let header = Header {
            id,
            kind: self.kind,
            count: u16::try_from(self.elements.len()).expect("elements have 16 bytes"),
            overflow: u32::try_from(pages - 1).expect("a value is less than 2 GiB"),
        };
        let mut bytes = Vec::with_capacity(pages * PAGE_BYTES);
        bytes.extend_from_slice(&header.encode());
        // Positions count from the element's own first byte.
        let mut position = self.elements.len() * ELEMENT_BYTES;
        for element in &self.elements {
            let from_here = u32::try_from(position).expect("the page of one element is 2 GiB");
            if self.kind == BRANCH {
                bytes.extend_from_slice(&from_here.to_le_bytes());
                bytes.extend_from_slice(&element.key_bytes.to_le_bytes());
                bytes.extend_from_slice(&element.link.to_le_bytes());
            } else {
                bytes.extend_from_slice(&(element.link as u32).to_le_bytes());
                bytes.extend_from_slice(&from_here.to_le_bytes());
                bytes.extend_from_slice(&element.key_bytes.to_le_bytes());
                bytes.extend_from_slice(&element.value_bytes.to_le_bytes());
            }
            position += (element.key_bytes + element.value_bytes) as usize;
            position -= ELEMENT_BYTES;
        }
        bytes.extend_from_slice(&self.data);
        bytes.resize(pages * PAGE_BYTES, 0);
        self.elements.clear();
        self.data.clear();
        (first_key, bytes)
    }
}
