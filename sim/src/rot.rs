//! Rot: a bit turns over in a file that is durable and that nobody writes, on fewer members than a
//! quorum can do without.
//!
//! One idea: what must hold is little and firm. The member answers nothing wrong, which the checkers
//! of all answers see. If it stops, or does not start, it says which file it was. The others go on.
//! As docs/OPERATIONS.md has it, such a member is not started again: its data is given up, and where the
//! members change, the operator removes it and adds another. One that noticed nothing is taken out
//! when the seed ends, and looked at when all others are quiet: then it must refuse, or catch up and
//! hold what they hold.
//!
//! What it leaves alone: the newest frame of the log and the newer half of the manifest. Rot of what
//! was written last looks like a write that a crash cut short, and is taken for one.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use varve_api::{Code, Status};
use varve_disk::sim::SimDisk;
use varve_wal::Item;

use crate::plan::SECOND;
use crate::world::World;

/// How long a member with rot may take to refuse or to catch up, when all others are quiet.
const LOOK_SECONDS: u64 = 60;
/// How often a member is asked for everything after a bit has flipped.
const READINGS: u64 = 8;

/// A file that may rot: where, from its beginning, and the mark for it.
struct Cold {
    path: PathBuf,
    bytes: u64,
    mark: &'static str,
}

impl World<'_> {
    /// Flips a bit on a member, if so many may rot.
    pub fn rot_somewhere(&mut self, id: u64) {
        if !self.may_rot(id) || !self.rot(id, None) {
            return;
        }
        // Much is read at a start only.
        if !self.random.one_in(3) {
            self.kill(id);
        }
        self.read_everything(id, READINGS);
    }

    /// Whether the others are enough without this one, and without those that have rotted already.
    pub fn may_rot(&self, id: u64) -> bool {
        let rotten = self.rotten();
        if self.is_out(id) || !self.nodes[&id].can_run {
            return false;
        }
        if self.plan.change > 0 {
            // One at a time, or with what the operator takes away it could be more.
            return rotten.iter().all(|other| *other == id) && self.can_do_without(id);
        }
        let is_one_more = u64::from(!rotten.contains(&id));
        2 * (rotten.len() as u64 + is_one_more) < self.plan.members
    }

    /// Flips a bit in a cold file, of this kind if one is named; false if there is none.
    pub fn rot(&mut self, id: u64, wanted: Option<&str>) -> bool {
        let mut cold = cold_files(&self.nodes[&id].disk);
        cold.retain(|file| wanted.is_none_or(|wanted| wanted == file.mark));
        // Each kind as likely as the others, however many files it has.
        let marks: BTreeSet<&str> = cold.iter().map(|file| file.mark).collect();
        let Some(any) = marks.len().checked_sub(1) else { return false };
        let mark =
            *marks.iter().nth(self.random.below(any as u64 + 1) as usize).expect("one of them");
        cold.retain(|file| file.mark == mark);
        let Cold { path, bytes, mark } =
            cold.swap_remove(self.random.below(cold.len() as u64) as usize);
        let (byte, bit) = (self.random.below(bytes), self.random.below(8) as u32);
        let node = self.nodes.get_mut(&id).expect("a member");
        node.disk.flip_bit(&path, byte, bit).expect("the file is there and that long");
        self.tell(
            || format!("{id}: bit {bit} of byte {byte} of {path:?} flips"),
            [14, byte, bit.into()],
        );
        self.nodes.get_mut(&id).expect("a member").rot.push(path);
        self.count(mark);
        true
    }

    /// Whether an error of a member names a file of its that has rotted; then it is out.
    pub fn stops_for_rot(&mut self, id: u64, error: &str, mark: &'static str) -> bool {
        let is_named = self.names_rot(id, error);
        if is_named {
            self.take_out(id);
            self.count(mark);
            if self.plan.change > 0 {
                self.give_up_disk(id);
                self.count("rotten member given up");
            }
        }
        is_named
    }

    /// A client is told that a member cannot read what it has: a file that has rotted is the reason and
    /// named, or its disk is at fault.
    pub fn check_damage_told(&mut self, id: u64, status: &Status) {
        let node = &self.nodes[&id];
        if status.code != Code::DataLoss {
            return;
        }
        if self.names_rot(id, &status.message) {
            self.count("rot found by a read");
        } else if !node.is_disk_faulty && !node.disk.is_stopped() {
            self.violations.push(format!("{id} cannot read what it has: {status:?}"));
        }
    }

    fn names_rot(&self, id: u64, error: &str) -> bool {
        let names = self.nodes[&id].rot.iter().filter_map(|path| path.file_name()?.to_str());
        names.into_iter().any(|name| error.contains(name))
    }

    /// Whether it was given up.
    pub fn is_out(&self, id: u64) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.is_out)
    }

    fn take_out(&mut self, id: u64) {
        let runtime = self.runtime;
        let node = self.nodes.get_mut(&id).expect("a member");
        node.is_out = true;
        node.kill(runtime);
    }

    /// Members that have rotted are out, whether they have noticed or not.
    pub fn take_out_rotten(&mut self) {
        self.rotten().into_iter().for_each(|id| self.take_out(id));
    }

    /// Members with rot whose disks are not given up.
    pub fn rotten(&self) -> Vec<u64> {
        let rotten = self.nodes.values().filter(|node| !node.rot.is_empty());
        rotten.map(|node| node.id).filter(|id| !self.operator.has_lost(*id)).collect()
    }

    /// What members with rot do when they are started once more: see the head of the file.
    pub fn look_at_rotten(&mut self) {
        let last = self.history.log.keys().next_back().copied().unwrap_or(1);
        for id in self.rotten() {
            self.nodes.get_mut(&id).expect("a member").is_out = false;
            self.repair(id);
            let deadline = self.now + LOOK_SECONDS * SECOND;
            let has_come = |world: &Self| {
                let up = world.nodes[&id].up.as_ref();
                up.is_none_or(|up| up.context.cluster.applied() >= last)
            };
            while !has_come(self) && self.now < deadline && self.violations.is_empty() {
                self.run_until(self.now + SECOND);
            }
            if !has_come(self) && self.violations.is_empty() {
                self.violations.push(format!(
                    "liveness: {id} has rotted, and neither stops nor comes to {last}"
                ));
            }
            if self.violations.is_empty() && self.nodes[&id].up.is_some() {
                match self.replica(id) {
                    Ok(replica) => {
                        self.history.replicas.push(replica);
                        self.count("rot did no harm");
                    }
                    Err(status) => self.check_damage_told(id, &status),
                }
            }
            self.take_out(id);
        }
    }
}

/// What is durable as it reads, and old enough.
fn cold_files(disk: &SimDisk) -> Vec<Cold> {
    let durable = disk.durable_files();
    let current = disk.current_files();
    // Without any frame nothing is proven.
    let (segment, offset) = newest_frame(&current).unwrap_or_default();
    let mut cold = Vec::new();
    for (path, content) in &current {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let length = content.len() as u64;
        let (bytes, mark) = match extension {
            _ if durable.get(path) != Some(content) => continue,
            _ if is_in(path, "log") && is_segment(path) => {
                let proven = match path.cmp(&segment) {
                    Ordering::Less => length,
                    Ordering::Equal => offset,
                    Ordering::Greater => 0,
                };
                (proven, "rot of the log")
            }
            Some("kt") if is_in(path, "engine") => (length, "rot of a key table"),
            Some("vs") if is_in(path, "engine") => (length, "rot of a value segment"),
            _ if name.starts_with("MANIFEST") => (length / 2, "rot of the manifest"),
            _ => continue,
        };
        if bytes > 0 {
            cold.push(Cold { path: path.clone(), bytes, mark });
        }
    }
    cold
}

/// Segments of the log have numbers; what waits to become one has a name.
fn is_segment(path: &Path) -> bool {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The segment with the newest frame that verifies, and where in it that begins: this one proves that
/// all before it was durable. Behind it may lie whatever a recycled file held.
fn newest_frame(files: &BTreeMap<PathBuf, Vec<u8>>) -> Option<(PathBuf, u64)> {
    let in_log = files.iter().filter(|(path, _)| is_in(path, "log"));
    let log: BTreeMap<_, _> =
        in_log.map(|(path, content)| (path.clone(), content.clone())).collect();
    let dir = log.keys().next()?.parent()?;
    let disk = SimDisk::from_files(0, &log).expect("what was on a disk fits on another one");
    let (mut segment, mut newest) = (PathBuf::new(), None);
    let mut see = |item: Item<'_>| match item {
        Item::Segment { path, .. } => segment = path.to_path_buf(),
        Item::Frame { offset, .. } => newest = Some((segment.clone(), offset)),
        _ => {}
    };
    varve_wal::inspect(&disk, dir, None, &mut see).expect("a disk that does not fail");
    newest
}

fn is_in(path: &Path, dir: &str) -> bool {
    path.parent().is_some_and(|parent| parent.ends_with(dir))
}
