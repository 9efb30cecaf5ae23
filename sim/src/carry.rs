//! The network: frames between members, late, lost, twice, out of order, or cut off; and snapshots,
//! which travel as the engine's files.
//!
//! What it does not do: repeat proposals and questions, which a stream of bytes never does (Raft's
//! other messages may come twice, if an old connection still delivers).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;
use varve_lsm::Checkpoint;
use varve_raftnode::{Message, Node as RaftNode, NodeId};
use varve_server::background::applied_at;
use varve_server::peer::Carried;
use varve_server::peer::frame::{FrameKind, StreamKind};
use varve_server::peer::lend::{Lent, SnapshotJob};
use varve_server::peer::snapshot::send::announce;
use varve_server::peer::snapshot::{Staged, check_sound};
use varve_server::raft::RaftInput;

use crate::plan::{MILLISECOND, Micros};
use crate::plant::Plant;
use crate::world::{Event, World};

/// What is cut, and when the last message of each stream arrives.
#[derive(Default)]
pub struct Network {
    /// Directions that lose everything.
    pub cut: BTreeSet<(u64, u64)>,
    last: BTreeMap<(u64, u64, u8), Micros>,
    stagings: u64,
    pub late: Option<Late>,
}

/// A leader to whom everything comes late, and ever later; from some time on nobody hears it.
pub struct Late {
    pub leader: u64,
    pub since: Micros,
    pub mute_from: Micros,
    pub until: Micros,
}

impl Network {
    /// By how much what is sent now travels longer; `None` if it is lost.
    fn lag(&self, from: u64, to: u64, now: Micros) -> Option<Micros> {
        match &self.late {
            _ if self.cut.contains(&(from, to)) => None,
            Some(late) if now >= late.until => Some(0),
            Some(late) if from == late.leader && now >= late.mute_from => None,
            Some(late) if to == late.leader => Some(now - late.since),
            _ => Some(0),
        }
    }
}

/// Something on its way to a member.
pub struct Packet {
    from: u64,
    to: u64,
    content: Content,
}

enum Content {
    Frame(FrameKind, Bytes),
    /// A snapshot is offered.
    Offer(Box<Transfer>),
    /// Its files arrive.
    Files(Box<Transfer>),
}

struct Transfer {
    announcement: Message,
    /// Who asked the sender for it, if it is not its own Raft.
    asker: Option<u64>,
    checkpoint: Checkpoint,
    /// Positions of the files that the receiver lacks.
    wanted: Vec<usize>,
    receiver_boot: u64,
}

impl World<'_> {
    /// Takes what a member sends.
    pub fn carry(&mut self, id: u64) {
        let Some(up) = self.nodes.get_mut(&id).and_then(|node| node.up.as_mut()) else { return };
        for (to, carried) in up.outgoing() {
            match carried {
                Carried::Frame(stream, kind, payload) => self.send(id, to, stream, kind, payload),
                Carried::Snapshot(job) => self.offer(id, to, &job),
            }
        }
    }

    fn send(&mut self, from: u64, to: u64, stream: StreamKind, kind: FrameKind, payload: Bytes) {
        let Some(lag) = self.network.lag(from, to, self.now) else { return };
        if self.plan.loss > 0 && !self.is_ending && self.random.one_in(self.plan.loss) {
            return self.count("message lost");
        }
        let is_proposal = kind == FrameKind::Raft && !RaftNode::proposed(&payload).is_empty();
        let may_repeat = (kind == FrameKind::Raft && !is_proposal)
            || (is_proposal && self.plan.plant == Some(Plant::ProposalTwice));
        let repeats = may_repeat && self.plan.repeat > 0 && self.random.one_in(self.plan.repeat);
        for _ in 0..1 + u64::from(repeats) {
            let mut delay = 20 + lag + self.about(self.plan.delay);
            if !self.plan.reorders {
                let last = self.network.last.entry((from, to, stream as u8)).or_default();
                let at = (self.now + delay).max(*last + 1);
                *last = at;
                delay = at - self.now;
            }
            let content = Content::Frame(kind, payload.clone());
            self.after(delay, Event::Arrive(Packet { from, to, content }));
        }
        if repeats {
            self.count("message repeated");
        }
    }

    fn offer(&mut self, from: u64, to: u64, job: &SnapshotJob) {
        let up = self.nodes.get(&from).and_then(|node| node.up.as_ref()).expect("it sends");
        let checkpoint = up.context.db.checkpoint();
        let mark = applied_at(&checkpoint.mark, &up.context.view).expect("an own mark");
        let asker = job.asker;
        let announcement = match announce(&job.message, &mark) {
            Ok(announcement) => announcement,
            Err(error) => {
                assert!(asker.is_some(), "an own snapshot does not go back: {error}");
                self.count("snapshot declined by another member");
                return self.report(from, to, asker, false);
            }
        };
        self.count("snapshot offered");
        let (wanted, receiver_boot) = (Vec::new(), 0);
        let transfer = Transfer { announcement, asker, checkpoint, wanted, receiver_boot };
        if self.network.cut.contains(&(from, to)) {
            return self.report(from, to, asker, false);
        }
        let delay = self.about(self.plan.delay);
        let content = Content::Offer(Box::new(transfer));
        self.after(delay, Event::Arrive(Packet { from, to, content }));
    }

    /// Tells a sender what became of its snapshot, and by it who asked for it.
    fn report(&mut self, from: u64, to: u64, asker: Option<u64>, delivered: bool) {
        if let Some(up) = self.nodes.get(&from).and_then(|node| node.up.as_ref()) {
            match asker {
                None => {
                    // A full inbox would lose it, and is far larger than what one seed sends.
                    let report = RaftInput::SnapshotSent { to: NodeId(to), delivered };
                    let _ = up.context.raft.try_send(report);
                }
                Some(asker) => {
                    let lent = if delivered { Lent::Delivered } else { Lent::Failed };
                    up.peers.tell_snapshot(asker, to, lent);
                    self.carry(from);
                }
            }
        }
        self.schedule(from);
    }

    /// Something arrives.
    pub fn arrive(&mut self, packet: Packet) {
        let Packet { from, to, content } = packet;
        let is_cut = self.network.cut.contains(&(from, to));
        let there = self.nodes.get(&to).and_then(|node| node.up.as_ref());
        let is_there = there.is_some();
        let is_known = there.is_some_and(|up| up.peers.is_known(from));
        match content {
            Content::Frame(..) if is_cut || !is_there => {}
            Content::Frame(kind, payload) => {
                self.tell(
                    || format!("{from} -> {to} {kind:?}, {} bytes", payload.len()),
                    [6, from * 100 + to, payload.len() as u64],
                );
                let up = self.nodes.get_mut(&to).and_then(|node| node.up.as_mut());
                let up = up.expect("it is there");
                let outcome = up.receive(from, (kind, payload));
                self.taken(from, to, outcome);
                self.carry(to);
                self.schedule(to);
            }
            Content::Offer(transfer) | Content::Files(transfer) if is_cut || !is_known => {
                self.report(from, to, transfer.asker, false);
            }
            Content::Offer(mut transfer) => {
                let up = self.nodes.get(&to).and_then(|node| node.up.as_ref());
                let up = up.expect("it is there");
                let files = transfer.checkpoint.files.iter().enumerate();
                let lacking =
                    files.filter(|(_, file)| !up.context.db.has_file(&file.name, file.digest));
                transfer.wanted = lacking.map(|(at, _)| at).collect();
                transfer.receiver_boot = up.boot;
                let delay = self.about(self.plan.delay + 50 * MILLISECOND);
                let content = Content::Files(transfer);
                self.after(delay, Event::Arrive(Packet { from, to, content }));
            }
            Content::Files(transfer) => self.take_files(from, to, &transfer),
        }
    }

    fn take_files(&mut self, from: u64, to: u64, transfer: &Transfer) {
        let cut = self.plan.snapshot_cut;
        let is_cut = cut > 0 && !self.is_ending && self.random.one_in(cut);
        self.network.stagings += 1;
        let number = self.network.stagings;
        let up = self.nodes.get(&to).and_then(|node| node.up.as_ref()).expect("it is there");
        if up.boot != transfer.receiver_boot {
            return self.report(from, to, transfer.asker, false);
        }
        let is_new = up.context.cluster.applied() == 0;
        let disk = Arc::clone(&up.context.disk);
        let dir = up.incoming.join(number.to_string());
        let manifest = transfer.checkpoint.manifest.clone();
        let staged = Staged::carried(manifest, dir.clone(), Arc::clone(&disk));
        let received = receive(disk.as_ref(), &dir, transfer, is_cut);
        let announced = RaftNode::snapshot_mark(&transfer.announcement.bytes).expect("it has one");
        let outcome = match received {
            Ok(()) if !is_cut => {
                check_sound(&up.context.db, &staged, &announced).map_err(|error| error.to_string())
            }
            Ok(()) => Err("it was cut off".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if outcome.is_ok() {
            let message = transfer.announcement.bytes.clone();
            let leader = RaftNode::sender(&message).expect("it has one");
            let input = RaftInput::Snapshot { from: leader, message, staged };
            let _ = up.context.raft.try_send(input);
        }
        let is_ok = outcome.is_ok();
        self.tell(|| format!("{from} -> {to} snapshot: {outcome:?}"), [7, from, to]);
        self.count(if is_ok { "snapshot delivered" } else { "snapshot cut" });
        if is_new {
            let joins = ["snapshot to a joining member cut", "snapshot to a joining member"];
            self.count(joins[usize::from(is_ok)]);
        }
        if is_ok && transfer.asker.is_some() {
            self.count("snapshot delivered by another member");
        }
        self.report(from, to, transfer.asker, is_ok);
        self.schedule(to);
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: u64, to: u64) {
        if from != to {
            self.network.cut.insert((from, to));
        }
    }

    /// Ends the cuts between two.
    pub fn mend(&mut self, one: u64, other: u64) {
        self.network.cut.remove(&(one, other));
        self.network.cut.remove(&(other, one));
    }

    /// Ends all cuts.
    pub fn heal(&mut self) {
        self.network.cut.clear();
        if self.network.late.take().is_some() {
            // Connections are new: nothing waits behind what is still under way.
            self.network.last.clear();
        }
    }
}

/// Writes what is wanted; of a transfer that is cut off, only the first half.
fn receive(
    disk: &dyn Disk,
    dir: &std::path::Path,
    transfer: &Transfer,
    is_cut: bool,
) -> varve_disk::Result<()> {
    disk.create_dir_all(dir)?;
    let wanted = if is_cut { transfer.wanted.len() / 2 } else { transfer.wanted.len() };
    for at in &transfer.wanted[..wanted] {
        let offered = &transfer.checkpoint.files[*at];
        let path: PathBuf = dir.join(&offered.name);
        let file = disk.create(&path)?;
        file.write_at(0, &offered.content)?;
        // The content is durable before anybody counts on it, the names below.
        file.sync()?;
    }
    disk.sync_dir(dir)
}
