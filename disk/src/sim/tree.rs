//! The names and nodes of a simulated disk.
//!
//! One idea: a node is known by a number, and each directory maps names to numbers twice, as they
//! are now and as they are on the medium. A file that lost its name lives on while it is open, or
//! while a crash may bring the name back.
//!
//! What it does not do: faults, counting, capacity (`calls.rs`); which names a crash keeps
//! (`names.rs`, `crash.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::content::FileState;
use super::names::{Edit, NameChanges, NodeId};
use crate::SECTOR_BYTES;

const ROOT: NodeId = NodeId(0);

type Entries = BTreeMap<String, NodeId>;

#[derive(Clone, Debug, Default)]
struct DirState {
    current: Entries,
    durable: Entries,
}

#[derive(Clone, Debug)]
enum Node {
    File {
        state: FileState,
        /// Open handles.
        handles: u64,
        /// Whether it has a name now, and so takes space.
        is_named: bool,
    },
    Dir(DirState),
}

/// The directory tree.
///
/// Invariants: the root is a directory and always there; every entry, current, durable or in
/// between, leads to a node; a node has at most one current and at most one durable name.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    next_id: u64,
    pub(super) changes: NameChanges,
}

impl Tree {
    /// Only a root, which is durable.
    pub(super) fn new() -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::Dir(DirState::default()))]);
        Self { nodes, next_id: ROOT.0 + 1, changes: NameChanges::default() }
    }

    /// What is at `path` now.
    pub(super) fn lookup(&self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in names(path)? {
            node = self.child(node, &name)?.ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    pub(super) fn lookup_file(&self, path: &Path) -> io::Result<NodeId> {
        let id = self.lookup(path)?;
        if self.is_dir(id) { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(id) }
    }

    pub(super) fn lookup_dir(&self, path: &Path) -> io::Result<NodeId> {
        let id = self.lookup(path)?;
        if self.is_dir(id) { Ok(id) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    pub(super) fn list(&self, dir: NodeId) -> Vec<String> {
        self.dir(dir).current.keys().cloned().collect()
    }

    pub(super) fn create_file(&mut self, operation: u64, path: &Path) -> io::Result<NodeId> {
        let (dir, name) = self.parent(path)?;
        if self.child(dir, &name)?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id =
            self.add_node(Node::File { state: FileState::default(), handles: 0, is_named: false });
        self.change(operation, vec![Edit { dir, name, target: Some(id) }]);
        Ok(id)
    }

    pub(super) fn create_dir_all(&mut self, operation: u64, path: &Path) -> io::Result<()> {
        let mut dir = ROOT;
        for name in names(path)? {
            dir = match self.child(dir, &name)? {
                Some(id) => id,
                None => {
                    let id = self.add_node(Node::Dir(DirState::default()));
                    self.change(operation, vec![Edit { dir, name, target: Some(id) }]);
                    id
                }
            };
        }
        if self.is_dir(dir) { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
    }

    pub(super) fn rename(&mut self, operation: u64, from: &Path, to: &Path) -> io::Result<()> {
        let (from_names, to_names) = (names(from)?, names(to)?);
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let moved = self.child(from_dir, &from_name)?.ok_or(io::ErrorKind::NotFound)?;
        if to_names.len() > from_names.len() && to_names.starts_with(&from_names) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if from_names.len() > to_names.len() && from_names.starts_with(&to_names) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        match self.child(to_dir, &to_name)? {
            // POSIX: two names of one file, nothing to do.
            Some(replaced) if replaced == moved => return Ok(()),
            Some(replaced) => match (self.is_dir(moved), self.is_dir(replaced)) {
                (true, false) => return Err(io::ErrorKind::NotADirectory.into()),
                (false, true) => return Err(io::ErrorKind::IsADirectory.into()),
                (true, true) if !self.dir(replaced).current.is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                _ => {}
            },
            None => {}
        }
        let old = Edit { dir: from_dir, name: from_name, target: None };
        let new = Edit { dir: to_dir, name: to_name, target: Some(moved) };
        self.change(operation, vec![old, new]);
        Ok(())
    }

    pub(super) fn remove_file(&mut self, operation: u64, path: &Path) -> io::Result<()> {
        self.lookup_file(path)?;
        let (dir, name) = self.parent(path)?;
        self.change(operation, vec![Edit { dir, name, target: None }]);
        Ok(())
    }

    /// Each name below `path` is removed by a change of its own, so a crash may keep some.
    pub(super) fn remove_dir_all(&mut self, operation: u64, path: &Path) -> io::Result<()> {
        let id = self.lookup_dir(path)?;
        let (parent, name) = self.parent(path)?;
        // Parents before children in the list; removed from its end.
        let mut doomed = vec![(parent, name, id)];
        let mut next = 0;
        while next < doomed.len() {
            let dir = doomed[next].2;
            if let Some(Node::Dir(state)) = self.nodes.get(&dir) {
                let below = state.current.iter().map(|(name, &id)| (dir, name.clone(), id));
                doomed.extend(below.collect::<Vec<_>>());
            }
            next += 1;
        }
        for (dir, name, _) in doomed.into_iter().rev() {
            self.change(operation, vec![Edit { dir, name, target: None }]);
        }
        Ok(())
    }

    /// Makes the names in `dir` durable.
    pub(super) fn sync_dir(&mut self, dir: NodeId) {
        for Edit { dir, name, target } in self.changes.sync(dir) {
            set(&mut self.dir_mut(dir).durable, name, target);
        }
        self.sweep();
    }

    pub(super) fn file(&self, id: NodeId) -> &FileState {
        match self.nodes.get(&id) {
            Some(Node::File { state, .. }) => state,
            other => panic!("node {id:?} is not a file but {other:?}"),
        }
    }

    pub(super) fn file_mut(&mut self, id: NodeId) -> &mut FileState {
        match self.nodes.get_mut(&id) {
            Some(Node::File { state, .. }) => state,
            other => panic!("node {id:?} is not a file but {other:?}"),
        }
    }

    pub(super) fn is_dir(&self, id: NodeId) -> bool {
        matches!(self.nodes.get(&id), Some(Node::Dir(_)))
    }

    /// A handle on a file was opened (+1) or closed (-1).
    pub(super) fn count_handle(&mut self, id: NodeId, change: i64) {
        if let Some(Node::File { handles, .. }) = self.nodes.get_mut(&id) {
            let now = handles.checked_add_signed(change);
            *handles = now.expect("a handle is closed once, after it was opened");
        }
    }

    /// What the named files take: their lengths, each rounded up to whole sectors.
    pub(super) fn occupied_bytes(&self) -> u64 {
        let files = self.nodes.values().map(|node| match node {
            Node::File { state, is_named: true, .. } => occupied_bytes(state.current().len()),
            _ => 0,
        });
        files.sum()
    }

    /// The files below the root by their absolute paths, as named now.
    pub(super) fn current_files(&self) -> BTreeMap<PathBuf, NodeId> {
        self.files(|dir| &dir.current)
    }

    /// The files below the root by their absolute paths, as named on the medium.
    pub(super) fn durable_files(&self) -> BTreeMap<PathBuf, NodeId> {
        self.files(|dir| &dir.durable)
    }

    /// The tree that a crash leaves, when it keeps `kept` of the changes of names and `file` says
    /// what it leaves of a file. All of it is durable.
    pub(super) fn after_crash(
        &self,
        kept: Vec<Edit>,
        mut file: impl FnMut(&FileState) -> FileState,
    ) -> Self {
        let mut found = self.clone();
        found.changes = NameChanges::default();
        for Edit { dir, name, target } in kept {
            set(&mut found.dir_mut(dir).durable, name, target);
        }
        for node in found.nodes.values_mut() {
            match node {
                Node::File { handles, .. } => *handles = 0,
                Node::Dir(dir) => dir.current = dir.durable.clone(),
            }
        }
        found.sweep();
        // Only for what is still there, in order of the numbers: the same seed, the same crash.
        for node in found.nodes.values_mut() {
            if let Node::File { state, is_named, .. } = node {
                *state = file(state);
                // Without handles and changes, nothing else kept it from being swept.
                *is_named = true;
            }
        }
        found
    }

    /// Adds a durable file and the directories above it.
    pub(super) fn add_durable_file(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        self.create_dir_all(0, parent)?;
        let file = self.create_file(0, path)?;
        *self.file_mut(file) = FileState::durable(bytes);
        for dir in parent.ancestors() {
            let dir = self.lookup_dir(dir)?;
            self.sync_dir(dir);
        }
        Ok(())
    }

    /// Drops nodes that have no name, are not open, and cannot get a name back by a crash.
    fn sweep(&mut self) {
        let mut reachable = BTreeSet::from([ROOT]);
        let mut unvisited = vec![ROOT];
        while let Some(id) = unvisited.pop() {
            if let Some(Node::Dir(dir)) = self.nodes.get(&id) {
                let named = dir.current.values().chain(dir.durable.values()).copied();
                for target in named.chain(self.changes.targets_in(id)) {
                    if reachable.insert(target) {
                        unvisited.push(target);
                    }
                }
            }
        }
        for dir in self.changes.dirs() {
            assert!(reachable.contains(&dir), "directory {dir:?} is gone but has changes");
        }
        self.nodes.retain(|id, node| {
            reachable.contains(id) || matches!(node, Node::File { handles, .. } if *handles > 0)
        });
    }

    fn files(&self, entries: impl Fn(&DirState) -> &Entries) -> BTreeMap<PathBuf, NodeId> {
        let mut files = BTreeMap::new();
        let mut unvisited = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, id)) = unvisited.pop() {
            match self.nodes.get(&id) {
                Some(Node::Dir(dir)) => unvisited
                    .extend(entries(dir).iter().map(|(name, &child)| (path.join(name), child))),
                Some(Node::File { .. }) => {
                    files.insert(path, id);
                }
                None => panic!("the entry {} leads to no node", path.display()),
            }
        }
        files
    }

    fn add_node(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.next_id);
        self.next_id += 1;
        self.nodes.insert(id, node);
        id
    }

    fn change(&mut self, operation: u64, edits: Vec<Edit>) {
        let mut removed_dirs = Vec::new();
        for Edit { dir, name, target } in &edits {
            let replaced = set(&mut self.dir_mut(*dir).current, name.clone(), *target);
            self.set_named(replaced, false);
            self.set_named(*target, true);
            let is_moved = edits.iter().any(|edit| edit.target == replaced);
            removed_dirs.extend(replaced.filter(|&id| self.is_dir(id) && !is_moved));
        }
        self.changes.push(operation, edits, removed_dirs);
    }

    fn set_named(&mut self, id: Option<NodeId>, now: bool) {
        let node = id.and_then(|id| self.nodes.get_mut(&id));
        if let Some(Node::File { is_named, .. }) = node {
            *is_named = now;
        }
    }

    fn parent(&self, path: &Path) -> io::Result<(NodeId, String)> {
        let mut names = names(path)?;
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let mut dir = ROOT;
        for name in names {
            dir = self.child(dir, &name)?.ok_or(io::ErrorKind::NotFound)?;
        }
        if self.is_dir(dir) { Ok((dir, name)) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    fn child(&self, dir: NodeId, name: &str) -> io::Result<Option<NodeId>> {
        match self.nodes.get(&dir) {
            Some(Node::Dir(state)) => Ok(state.current.get(name).copied()),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn dir(&self, id: NodeId) -> &DirState {
        match self.nodes.get(&id) {
            Some(Node::Dir(dir)) => dir,
            other => panic!("node {id:?} is not a directory but {other:?}"),
        }
    }

    fn dir_mut(&mut self, id: NodeId) -> &mut DirState {
        match self.nodes.get_mut(&id) {
            Some(Node::Dir(dir)) => dir,
            other => panic!("node {id:?} is not a directory but {other:?}"),
        }
    }
}

/// Makes an entry lead to `target`; what it led to before.
fn set(entries: &mut Entries, name: String, target: Option<NodeId>) -> Option<NodeId> {
    match target {
        Some(id) => entries.insert(name, id),
        None => entries.remove(&name),
    }
}

/// What a file of this length takes on the disk.
pub(super) fn occupied_bytes(length_bytes: u64) -> u64 {
    length_bytes.div_ceil(SECTOR_BYTES).saturating_mul(SECTOR_BYTES)
}

/// The components of a path; absolute or not, it begins at the root.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                names.push(name.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned());
            }
            Component::Prefix(_) | Component::ParentDir => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
    }
    Ok(names)
}
