//! What goes wrong: drawn by weight, at random times, while clients work.

use varve_disk::sim::{Fault, FaultRule, OperationKind};
use varve_raftnode::NodeId;
use varve_server::raft::RaftInput;

use crate::plan::{MILLISECOND, Micros, SECOND, TROUBLES, choose};
use crate::world::{Event, World};

impl World<'_> {
    /// One trouble, and when the next comes.
    pub fn trouble(&mut self) {
        if self.is_ending || self.plan.trouble == 0 {
            return;
        }
        let delay = self.about(self.plan.trouble);
        self.after(delay, Event::Trouble);
        let weights = self.plan.weights;
        let Some(kind) = choose(&mut self.random, &weights) else { return };
        let id = self.any_machine();
        let number = self.troubles;
        self.troubles += 1;
        if self.plan.left_out.troubles.contains(&number) {
            return;
        }
        self.tell(|| format!("trouble: {} of {id}", TROUBLES[kind]), [13, kind as u64, id]);
        self.count(TROUBLES[kind]);
        match TROUBLES[kind] {
            "kill" => self.kill(id),
            "power loss" => self.lose_power(id),
            "power loss at a disk call" => {
                // Within the next calls, whatever they are.
                let calls = self.random.below(40);
                let disk = &self.nodes[&id].disk;
                disk.stop_at_operation(disk.operations() + calls);
            }
            "power loss of all" => self.machines().into_iter().for_each(|id| self.lose_power(id)),
            "pause" => {
                let time = 100 * MILLISECOND + self.random.below(20 * SECOND);
                let node = self.nodes.get_mut(&id).expect("a member");
                node.paused_until = self.now + time;
                self.after(time, Event::Resume(id));
            }
            "failed sync" => self.fail(id, OperationKind::Sync, Fault::Io),
            "failed write" => self.fail(id, OperationKind::Write, Fault::Io),
            "disk full" => self.fail(id, OperationKind::Write, Fault::StorageFull),
            "slow disk" => {
                let time = self.random.below(10 * SECOND);
                self.nodes.get_mut(&id).expect("a member").slow_until = self.now + time;
            }
            "symmetric partition" => self.part(),
            "one-way cut" => {
                let other = self.any_machine();
                self.cut(id, other);
            }
            "heal" => self.heal(),
            "leader transfer" => self.move_leader(id),
            "bit flip" => self.rot_somewhere(id),
            "sleeping leader" => self.sleep_as_leader(),
            "late leader" => self.hear_late(),
            "restarted voters" => self.restart_voters(),
            "needed member rots" => self.rot_when_needed(),
            other => panic!("{other} is listed and nobody does it"),
        }
    }

    pub fn kill(&mut self, id: u64) {
        let runtime = self.runtime;
        self.nodes.get_mut(&id).expect("a member").kill(runtime);
        let delay = self.downtime();
        self.after(delay, Event::Start(id));
    }

    fn lose_power(&mut self, id: u64) {
        let runtime = self.runtime;
        self.nodes.get_mut(&id).expect("a member").lose_power(runtime);
        let delay = self.downtime();
        self.after(delay, Event::Start(id));
    }

    /// Whoever was first to apply a change of the members has no power any more at one of its next calls
    /// of the disk: before its state machine's files have the change.
    pub fn stop_behind_a_change(&mut self, id: u64) {
        if self.is_ending || self.plan.trouble == 0 || !self.random.one_in(3) {
            return;
        }
        let calls = self.random.below(8);
        let disk = &self.nodes[&id].disk;
        disk.stop_at_operation(disk.operations() + calls);
        self.count("power loss behind a change");
    }

    /// Sometimes so short that nobody notices.
    fn downtime(&mut self) -> Micros {
        if self.random.one_in(3) {
            self.count("restart at once");
            return self.random.below(20 * MILLISECOND);
        }
        self.about(2 * SECOND)
    }

    /// One of the next calls of a kind fails.
    fn fail(&mut self, id: u64, kind: OperationKind, fault: Fault) {
        let calls = self.random.below(30);
        let node = self.nodes.get_mut(&id).expect("a member");
        node.is_disk_faulty = true;
        node.disk.inject(FaultRule::new(fault).on(kind).after(calls));
    }

    /// Two groups that do not hear each other.
    fn part(&mut self) {
        let side = self.random.next_u64();
        for from in self.machines() {
            for to in self.machines() {
                if (side >> from & 1) != (side >> to & 1) {
                    self.cut(from, to);
                }
            }
        }
    }

    fn move_leader(&mut self, to: u64) {
        let leading = self.nodes.values().find_map(|node| {
            let up = node.up.as_ref()?;
            (up.context.cluster.is_leader() && node.id != to).then_some((node.id, up))
        });
        let Some((id, up)) = leading else { return };
        let _ = up.context.raft.try_send(RaftInput::TransferTo(NodeId(to)));
        self.schedule(id);
    }
}
