//! Who belongs to the cluster by the agreed log: etcd's rules of membership once more, as naively as
//! can be, and what must hold of every change.
//!
//! One idea: entries are judged as they are agreed, so that a member that counts others than the log
//! says is caught the moment it does.
//!
//! Invariants, each checked: any quorum of a configuration and any of the next share a member; who
//! was removed never comes back; with the strict check, a quorum of voters that have started is left.

use std::collections::BTreeSet;

use bytes::Bytes;
use varve_store::{CommandKind, MemberChange, MemberPublish, decode_batch};

/// Who votes and who learns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
}

impl Configuration {
    pub fn has(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Voters that make a quorum.
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Whether every quorum of this one shares a member with every quorum of another.
    fn meets(&self, other: &Self) -> bool {
        let all = self.voters.union(&other.voters).count();
        self.quorum() + other.quorum() > all
    }
}

/// See the head of the file.
pub struct Roster {
    /// All configurations, with the index from which each holds; never empty.
    past: Vec<(u64, Configuration)>,
    removed: BTreeSet<u64>,
    /// Who has told its name.
    started: BTreeSet<u64>,
    is_strict: bool,
}

/// What an entry did.
#[derive(Debug)]
pub enum Step {
    /// The change took effect.
    Accepted(MemberChange),
    /// It was agreed, and refused by the state machine.
    Refused,
}

impl Roster {
    pub fn founded(members: u64, is_strict: bool) -> Self {
        let founders: BTreeSet<u64> = (1..=members).collect();
        let first = Configuration { voters: founders.clone(), learners: BTreeSet::new() };
        Self { past: vec![(0, first)], removed: BTreeSet::new(), started: founders, is_strict }
    }

    /// Who belongs to the cluster now.
    pub fn now(&self) -> &Configuration {
        &self.past.last().expect("never empty").1
    }

    pub fn removed(&self) -> &BTreeSet<u64> {
        &self.removed
    }

    /// The configurations from the one that held at an index to the latest.
    pub fn since(&self, index: u64) -> impl Iterator<Item = &Configuration> {
        let held = self.past.partition_point(|(from, _)| *from <= index) - 1;
        self.past[held..].iter().map(|(_, configuration)| configuration)
    }

    /// The index of the latest change.
    pub fn changed_at(&self) -> u64 {
        self.past.last().expect("never empty").0
    }

    /// Whether these were ever the members.
    pub fn knows(&self, configuration: &Configuration) -> bool {
        self.past.iter().any(|(_, known)| known == configuration)
    }

    /// Takes the next agreed entry; what it changed.
    ///
    /// # Errors
    /// What must not be.
    pub fn take(&mut self, index: u64, payload: &Bytes) -> Result<Option<Step>, String> {
        if payload.is_empty() {
            return Ok(None);
        }
        for command in decode_batch(payload).map_err(|error| error.to_string())? {
            match command.kind {
                CommandKind::MemberPublish => {
                    let publish =
                        MemberPublish::decode(&command.body).map_err(|e| e.to_string())?;
                    if self.now().has(publish.member_id) {
                        self.started.insert(publish.member_id);
                    }
                }
                CommandKind::MemberChange => {
                    let change = MemberChange::decode(&command.body).map_err(|e| e.to_string())?;
                    return self.change(index, change).map(Some);
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn change(&mut self, index: u64, change: MemberChange) -> Result<Step, String> {
        let Some(next) = self.outcome(&change) else { return Ok(Step::Refused) };
        let now = self.now();
        if !now.meets(&next) {
            return Err(format!(
                "{change:?} at {index}: quorums of {now:?} and {next:?} are apart"
            ));
        }
        if self.is_strict {
            self.judge_strictly(&change).map_err(|why| format!("{change:?} at {index}: {why}"))?;
        }
        if let MemberChange::Remove { id } = change {
            self.removed.insert(id);
        }
        if let Some(back) = self.removed.iter().find(|id| next.has(**id)) {
            return Err(format!("{change:?} at {index}: {back} was removed and is back"));
        }
        self.past.push((index, next));
        Ok(Step::Accepted(change))
    }

    /// The members after a change; none if it is to be refused.
    fn outcome(&self, change: &MemberChange) -> Option<Configuration> {
        let mut next = self.now().clone();
        let is_done = match change {
            MemberChange::Add { id, is_learner, learners_max, .. } => {
                let has_room = !is_learner || (next.learners.len() as u64) < *learners_max;
                let is_new = !self.removed.contains(id) && !next.has(*id);
                let list = if *is_learner { &mut next.learners } else { &mut next.voters };
                has_room && is_new && list.insert(*id)
            }
            MemberChange::Remove { id } => {
                let is_last = next.voters.contains(id) && next.voters.len() == 1;
                !is_last && (next.voters.remove(id) || next.learners.remove(id))
            }
            MemberChange::Promote { id } => next.learners.remove(id) && next.voters.insert(*id),
            MemberChange::Update { .. } => false,
        };
        is_done.then_some(next)
    }

    /// What `--strict-reconfig-check` promises of those that have started. Who is connected is for
    /// the leader alone to know.
    fn judge_strictly(&self, change: &MemberChange) -> Result<(), String> {
        let voters = &self.now().voters;
        let started = voters.intersection(&self.started).count();
        let (left, all) = match change {
            MemberChange::Add { is_learner: true, .. } | MemberChange::Update { .. } => {
                return Ok(());
            }
            MemberChange::Add { .. } if voters.len() == 1 => return Ok(()),
            MemberChange::Add { .. } => (started, voters.len() + 1),
            MemberChange::Promote { .. } => (started + 1, voters.len() + 1),
            MemberChange::Remove { id } if !voters.contains(id) => return Ok(()),
            MemberChange::Remove { id } => {
                let went = usize::from(self.started.contains(id));
                (started - went, voters.len() - 1)
            }
        };
        if left < all / 2 + 1 {
            return Err(format!("{left} of {all} voters have started, the check is strict"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use varve_store::{Command, RequestId, encode_batch};

    use super::*;

    fn entry(change: &MemberChange) -> Bytes {
        let (id, kind) = (RequestId(1), CommandKind::MemberChange);
        encode_batch(&[Command { id, kind, author: None, body: change.encode() }])
    }

    fn add(id: u64, is_learner: bool) -> MemberChange {
        MemberChange::Add { id, peer_urls: Vec::new(), is_learner, learners_max: 1 }
    }

    #[test]
    fn changes_take_effect_by_etcds_rules() {
        let mut roster = Roster::founded(1, false);
        let steps = [
            (MemberChange::Remove { id: 1 }, false),
            (add(2, true), true),
            (add(3, true), false),
            (MemberChange::Promote { id: 1 }, false),
            (MemberChange::Promote { id: 2 }, true),
            (add(2, false), false),
            (MemberChange::Remove { id: 1 }, true),
            (add(1, false), false),
        ];
        for (index, (change, is_accepted)) in (2..).zip(steps) {
            let step = roster.take(index, &entry(&change)).unwrap();
            assert_eq!(matches!(step, Some(Step::Accepted(_))), is_accepted, "{change:?}");
        }
        assert_eq!(roster.now().voters, BTreeSet::from([2]));
        assert_eq!(roster.since(5).count(), 3);
    }

    #[test]
    fn with_the_strict_check_a_second_voter_that_never_started_is_one_too_many() {
        let mut roster = Roster::founded(3, true);
        roster.take(2, &entry(&add(4, false))).unwrap();
        roster.take(3, &entry(&add(5, false))).unwrap();
        assert!(roster.take(4, &entry(&add(6, false))).is_err());
    }

    #[test]
    fn configurations_two_changes_apart_are_noticed() {
        let of = |ids: &[u64]| Configuration {
            voters: ids.iter().copied().collect(),
            learners: BTreeSet::new(),
        };
        assert!(of(&[1, 2, 3]).meets(&of(&[1, 2, 3, 4])));
        assert!(of(&[1, 2]).meets(&of(&[1])));
        assert!(!of(&[1, 2, 3]).meets(&of(&[1, 2, 3, 4, 5])));
        assert!(!of(&[1]).meets(&of(&[2])));
    }
}
