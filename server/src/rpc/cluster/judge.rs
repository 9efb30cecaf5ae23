//! The checks of a membership change that only the leader can make, with etcd's answers: that a
//! quorum of members that have started and are connected is left, and that a learner has caught up.
//!
//! One idea: a function of what the leader knows ([`Standing`]), so that every rule is a row of a
//! table below. The rules that all members must judge alike are `varve_store::MemberChange`'s.

use std::time::Duration;

use varve_api::{Status, error};
use varve_raftnode::Progress;
use varve_store::{Member, MemberChange};

use crate::limits;

/// A learner is promoted when it has nine tenths of the leader's log, as in etcd.
const READY_TENTHS: u64 = 9;

/// What a leader knows about its cluster.
pub(super) struct Standing<'a> {
    /// The leader.
    pub(super) own: u64,
    /// `--strict-reconfig-check`.
    pub(super) is_strict: bool,
    pub(super) members: &'a [Member],
    /// How far each has the log.
    pub(super) progress: &'a [Progress],
    /// For how long it has been connected to another that is heard of; none if one is not so.
    pub(super) connected_for: &'a dyn Fn(u64) -> Option<Duration>,
}

impl Standing<'_> {
    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_learner)
    }

    fn find(&self, id: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Voters to which the leader has been connected for a while, itself included.
    fn connected_voters(&self) -> usize {
        let is_connected = |member: &&Member| {
            let lasting = || (self.connected_for)(member.id);
            member.id == self.own || lasting().is_some_and(|time| time > limits::PEER_HEALTHY_AFTER)
        };
        self.voters().filter(is_connected).count()
    }

    fn matched(&self, id: u64) -> Option<u64> {
        self.progress.iter().find(|one| one.id.0 == id).map(|one| one.matched.0)
    }
}

/// Whether the leader may propose the change.
///
/// # Errors
/// etcd's, why not.
pub(super) fn judge(change: &MemberChange, standing: &Standing<'_>) -> Result<(), Status> {
    match change {
        MemberChange::Add { is_learner, .. } => judge_addition(*is_learner, standing),
        MemberChange::Remove { id } => judge_removal(*id, standing),
        MemberChange::Promote { id } => judge_promotion(*id, standing),
        MemberChange::Update { .. } => Ok(()),
    }
}

fn judge_addition(is_learner: bool, standing: &Standing<'_>) -> Result<(), Status> {
    if !standing.is_strict {
        return Ok(());
    }
    let voters = standing.voters().count();
    let started = standing.voters().filter(has_started).count();
    // To a sole member, so that a lost cluster can be built up again from it.
    let is_sole = voters == 1;
    let takes_no_quorum = is_learner || is_sole && started == 1;
    if !takes_no_quorum && started < quorum(voters + 1) {
        return Err(error::MEMBER_NOT_ENOUGH_STARTED.into());
    }
    if !is_sole && standing.connected_voters() < quorum(voters + 1) {
        return Err(error::UNHEALTHY.into());
    }
    Ok(())
}

fn judge_removal(id: u64, standing: &Standing<'_>) -> Result<(), Status> {
    // A change of nobody is not worth an entry.
    let member = standing.find(id).ok_or(error::MEMBER_NOT_FOUND)?;
    if !standing.is_strict || member.is_learner {
        return Ok(());
    }
    let rest = || standing.voters().filter(|member| member.id != id);
    if rest().filter(has_started).count() < quorum(rest().count()) {
        return Err(error::MEMBER_NOT_ENOUGH_STARTED.into());
    }
    // One that is down takes nothing away from those that are connected.
    if id != standing.own && (standing.connected_for)(id).is_none() {
        return Ok(());
    }
    // etcd asks for one more than the quorum of the rest.
    if standing.connected_voters().saturating_sub(1) < 1 + rest().count() / 2 {
        return Err(error::UNHEALTHY.into());
    }
    Ok(())
}

fn judge_promotion(id: u64, standing: &Standing<'_>) -> Result<(), Status> {
    standing.find(id).ok_or(error::MEMBER_NOT_FOUND)?;
    let theirs = standing.matched(id).ok_or(error::MEMBER_NOT_FOUND)?;
    let own = standing.matched(standing.own).unwrap_or(0);
    if theirs * 10 < own * READY_TENTHS {
        return Err(error::LEARNER_NOT_READY.into());
    }
    // The learner has started, or it would not be ready.
    let voters = standing.voters().count() + 1;
    let started = standing.voters().filter(has_started).count() + 1;
    if standing.is_strict && started < quorum(voters) {
        return Err(error::MEMBER_NOT_ENOUGH_STARTED.into());
    }
    Ok(())
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// A member publishes its name when it starts.
fn has_started(member: &&Member) -> bool {
    !member.name.is_empty()
}

#[cfg(test)]
mod tests {
    use varve_raftnode::{Index, NodeId};

    use super::*;

    const NOT_STARTED: &str =
        "etcdserver: re-configuration failed due to not enough started members";
    const UNHEALTHY: &str = "etcdserver: unhealthy cluster";
    const NOT_FOUND: &str = "etcdserver: member not found";
    const NOT_READY: &str =
        "etcdserver: can only promote a learner member which is in sync with leader";

    /// A cluster of members 1 (the leader), 2, ...: one letter each.
    ///
    /// | letter | the member |
    /// | --- | --- |
    /// | `v` | votes, is started and connected |
    /// | `n` | votes, is connected only since now |
    /// | `d` | votes, is down |
    /// | `u` | votes, has never started |
    /// | `l` | a learner with all of the log |
    /// | `b` | a learner with less than nine tenths of it |
    fn answer(letters: &str, change: &MemberChange, is_strict: bool) -> String {
        let letter = |id: u64| letters.as_bytes()[id as usize - 1];
        let ids = || 1..=letters.len() as u64;
        let members: Vec<Member> = ids()
            .map(|id| Member {
                id,
                name: if letter(id) == b'u' { String::new() } else { format!("m{id}") },
                peer_urls: Vec::new(),
                client_urls: Vec::new(),
                is_learner: b"lb".contains(&letter(id)),
            })
            .collect();
        let progress: Vec<Progress> = ids()
            .map(|id| Progress {
                id: NodeId(id),
                matched: Index(if letter(id) == b'b' { 899 } else { 1000 }),
                is_voter: !b"lb".contains(&letter(id)),
                is_active: true,
            })
            .collect();
        let connected_for = |id: u64| match letter(id) {
            b'd' | b'u' => None,
            b'n' => Some(Duration::ZERO),
            _ => Some(Duration::from_secs(60)),
        };
        let standing = Standing {
            own: 1,
            is_strict,
            members: &members,
            progress: &progress,
            connected_for: &connected_for,
        };
        match judge(change, &standing) {
            Ok(()) => "ok".to_owned(),
            Err(status) => status.message.to_string(),
        }
    }

    fn add(is_learner: bool) -> MemberChange {
        MemberChange::Add { id: 9, peer_urls: Vec::new(), is_learner, learners_max: 1 }
    }

    fn check(rows: &[(&str, MemberChange, &str)]) {
        for (letters, change, expected) in rows {
            assert_eq!(answer(letters, change, true), *expected, "{letters} {change:?}");
        }
    }

    #[test]
    fn a_voter_is_added_where_a_quorum_is_left_without_it() {
        check(&[
            ("v", add(false), "ok"),
            ("vv", add(false), "ok"),
            ("vd", add(false), UNHEALTHY),
            ("vn", add(false), UNHEALTHY),
            // The first addition to a sole member is not started yet: no second one.
            ("vu", add(false), NOT_STARTED),
            ("vvv", add(false), "ok"),
            ("vvd", add(false), UNHEALTHY),
            ("vvu", add(false), NOT_STARTED),
            ("vuu", add(false), NOT_STARTED),
            ("vvvu", add(false), "ok"),
        ]);
    }

    #[test]
    fn a_learner_is_added_to_members_that_are_connected() {
        check(&[
            ("v", add(true), "ok"),
            ("vv", add(true), "ok"),
            ("vu", add(true), UNHEALTHY),
            ("vvd", add(true), UNHEALTHY),
            ("vvvd", add(true), "ok"),
        ]);
    }

    #[test]
    fn a_voter_is_removed_where_the_rest_can_go_on() {
        let remove = |id| MemberChange::Remove { id };
        check(&[
            ("vvv", remove(2), "ok"),
            ("vvv", remove(1), "ok"),
            ("vvv", remove(9), NOT_FOUND),
            // One that is down may go, one that is needed may not.
            ("vvd", remove(3), "ok"),
            ("vvd", remove(2), UNHEALTHY),
            ("vnv", remove(3), UNHEALTHY),
            ("vvu", remove(3), "ok"),
            ("vvu", remove(2), NOT_STARTED),
            ("vu", remove(2), "ok"),
            ("vu", remove(1), NOT_STARTED),
            ("vdl", remove(3), "ok"),
        ]);
    }

    #[test]
    fn a_learner_is_promoted_when_it_has_the_log() {
        let promote = |id| MemberChange::Promote { id };
        check(&[
            ("vl", promote(2), "ok"),
            ("vb", promote(2), NOT_READY),
            ("vl", promote(3), NOT_FOUND),
            ("vul", promote(3), "ok"),
            ("vuuul", promote(5), NOT_STARTED),
        ]);
    }

    #[test]
    fn without_the_strict_check_only_what_makes_no_sense_is_refused() {
        for (letters, change, expected) in [
            ("vuu", add(false), "ok"),
            ("vdd", add(true), "ok"),
            ("vvu", MemberChange::Remove { id: 2 }, "ok"),
            ("vvu", MemberChange::Remove { id: 9 }, NOT_FOUND),
            ("vuuul", MemberChange::Promote { id: 5 }, "ok"),
            ("vuuub", MemberChange::Promote { id: 5 }, NOT_READY),
        ] {
            assert_eq!(answer(letters, &change, false), expected, "{letters} {change:?}");
        }
    }
}
