//! A member that rots just when it is needed: most of the others lack what it has, and those that do not
//! cannot be reached when it starts again.
//!
//! One idea: what a member loses of its log is made good by the others before anybody sees that it was
//! lost, unless it is one of just the quorum that was told of it, and next makes a quorum with who was
//! not. So who is behind is cut off first, then a file of the log rots, then the rest is cut off, and
//! those two sorts of members have each other. Who refuses its log leaves them without a quorum, which
//! is right; who goes on without what it has lost agrees with them on something else.
//!
//! Random clients seldom ask a member in trouble, so it is also asked for everything that it has
//! ([`Step::Read`]).

use varve_api::etcdserverpb::RangeRequest;

use crate::history::Request;
use crate::lone::PROBER;
use crate::plan::{MILLISECOND, SECOND};
use crate::world::{Event, World};

/// What follows.
pub enum Step {
    /// The first of these rots, the others are cut off, and so is the leader.
    Rot { leader: u64, knowing: Vec<u64>, behind: Vec<u64> },
    /// All hear each other.
    Heal,
    /// Somebody reads everything of a member, and so often again.
    Read { member: u64, left: u64 },
}

impl World<'_> {
    /// See the head of the file.
    pub fn rot_when_needed(&mut self) {
        let Some(leader) = self.any_leader() else { return };
        let mut knowing = self.everybody_but(leader);
        let first = self.random.below(knowing.len().max(1) as u64) as usize;
        knowing.rotate_left(first);
        let behind = knowing.split_off(knowing.len() / 2);
        if knowing.is_empty() || self.plan.change > 0 || !self.may_rot(knowing[0]) {
            return;
        }
        self.part_from(&behind, &[&[leader], &knowing[..]].concat());
        let delay = 5 * SECOND + self.random.below(20 * SECOND);
        self.after(delay, Event::Needed(Step::Rot { leader, knowing, behind }));
    }

    /// Goes on with it.
    pub fn needed_step(&mut self, step: Step) {
        if self.is_ending {
            return;
        }
        match step {
            Step::Rot { leader, mut knowing, behind } => {
                let rotten = knowing[0];
                if !self.may_rot(rotten) {
                    return;
                }
                for _ in 0..1 + self.random.below(8) {
                    self.rot(rotten, Some("rot of the log"));
                }
                knowing[0] = leader;
                let rest = [&[rotten], &behind[..]].concat();
                self.part_from(&knowing, &rest);
                behind.iter().for_each(|id| self.mend(*id, rotten));
                let runtime = self.runtime;
                self.nodes.get_mut(&rotten).expect("a member").kill(runtime);
                let downtime = self.random.below(SECOND);
                self.after(downtime, Event::Start(rotten));
                let apart = 4 * SECOND + self.random.below(8 * SECOND);
                self.after(apart, Event::Needed(Step::Heal));
            }
            Step::Heal => self.heal(),
            Step::Read { member, left } => self.read_everything(member, left),
        }
    }

    /// Asks a member for all that it has, now or at a revision of the past, and so often again.
    pub fn read_everything(&mut self, member: u64, left: u64) {
        let latest = self.known.revision.unsigned_abs();
        let revision = if self.random.one_in(2) { 0 } else { self.random.below(latest + 1) };
        let everything = RangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            revision: revision.cast_signed(),
            serializable: true,
            ..RangeRequest::default()
        };
        self.send_request(PROBER, member, Request::Range(everything));
        if left > 1 {
            let pause = 100 * MILLISECOND + self.random.below(3 * SECOND);
            self.after(pause, Event::Needed(Step::Read { member, left: left - 1 }));
        }
    }

    fn part_from(&mut self, some: &[u64], others: &[u64]) {
        for one in some {
            others.iter().for_each(|other| self.cut_off(*one, *other));
        }
    }
}
