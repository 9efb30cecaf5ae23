//! Members compare their data: `--corrupt-check-time`, the feature gates `CompactHashCheck` and
//! `InitialCorruptCheck`.
//!
//! One idea: hashes are comparable when revision and compaction are equal, and then they must be
//! equal. The leader asks and judges; the verdicts are functions of what was heard. The rules are
//! etcd's:
//! - after a compaction, members are grouped by their hash; the majority is right and the others get
//!   a `CORRUPT` alarm each, or the whole cluster one (member 0) if there is no majority;
//! - at intervals, a follower must neither be ahead of the leader nor differ from it;
//! - a member that starts compares itself with the others, and does not serve if it differs.
//!
//! A member that does not answer, or is at another compaction, proves nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};
use varve_api::Status;
use varve_api::etcdserverpb::alarm_request::AlarmAction;
use varve_api::etcdserverpb::{AlarmRequest, AlarmType};
use varve_store::{CommandKind, KvHash};

use crate::limits;
use crate::peer::hash::{HashAnswer, HashQuestion, NoHash};
use crate::services::{Answer, Services};

/// When members compare their data.
#[derive(Clone, Copy, Debug)]
pub struct CorruptionChecks {
    /// Before this member serves.
    pub at_start: bool,
    /// So often, if at all.
    pub period: Option<Duration>,
    /// So often whether there is a new compaction, if at all.
    pub compactions: Option<Duration>,
}

/// Why a member does not serve; in etcd's words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotServing(String);

/// What was heard of one member; `None` is silence.
type Heard = (u64, Option<Result<KvHash, NoHash>>);

/// What the hashes of a compaction say.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All members have the same.
    Equal,
    /// Those that could be compared have the same.
    Incomplete,
    /// These differ from the majority; 0 is the cluster.
    Corrupt(Vec<u64>),
}

/// Judges the hashes of one compaction.
fn judge_compaction(own_id: u64, own: &KvHash, heard: &[Heard]) -> Verdict {
    let mut members_of = BTreeMap::from([(own.hash, vec![own_id])]);
    let mut compared = 0;
    for (member, answer) in heard {
        match answer {
            Some(Ok(hash)) if hash.compact_revision == own.compact_revision => {
                compared += 1;
                members_of.entry(hash.hash).or_default().push(*member);
            }
            _ => tracing::warn!(peer_id = %hex(*member), ?answer, "Skipped peer's hash"),
        }
    }
    if members_of.len() == 1 {
        return if compared == heard.len() { Verdict::Equal } else { Verdict::Incomplete };
    }
    let members = heard.len() + 1;
    let quorum = members / 2 + 1;
    let majority = members_of.iter().find(|(_, members)| members.len() >= quorum);
    let Some(majority) = majority.map(|(hash, _)| *hash) else {
        return Verdict::Corrupt(vec![0]);
    };
    members_of.remove(&majority);
    Verdict::Corrupt(members_of.into_values().flatten().collect())
}

/// Judges a periodic check: the leader's hash before (`first`) and after (`second`) the others were
/// asked at the revision of the first. The member that is corrupt, and why.
fn judge_period(
    own_id: u64,
    first: &KvHash,
    second: &KvHash,
    heard: &[Heard],
) -> Option<(u64, &'static str)> {
    let is_same_state = second.hash_revision == first.hash_revision
        && second.compact_revision == first.compact_revision;
    if is_same_state && second.hash != first.hash {
        return Some((own_id, "found hash mismatch"));
    }
    heard.iter().find_map(|(member, answer)| {
        let Some(Ok(hash)) = answer else { return None };
        let is_same_compaction = hash.compact_revision == first.compact_revision;
        let reason = if hash.current_revision > second.current_revision {
            "revision from follower must be less than or equal to leader's"
        } else if hash.compact_revision > second.compact_revision {
            "compact revision from follower must be less than or equal to leader's"
        } else if is_same_compaction && hash.hash != first.hash {
            "same compact revision then hashes must match"
        } else {
            return None;
        };
        Some((*member, reason))
    })
}

/// The members whose data differs from this one's.
fn judge_start(own: &KvHash, heard: &[Heard]) -> Vec<u64> {
    let differs = |(member, answer): &Heard| match answer {
        Some(Ok(hash)) => {
            let is_comparable = hash.compact_revision == own.compact_revision;
            (is_comparable && hash.hash != own.hash).then_some(*member)
        }
        _ => None,
    };
    heard.iter().filter_map(differs).collect()
}

/// Compares members every `interval` while this one leads, for the life of the thread.
pub async fn check_periodically(services: Services, interval: Duration) {
    tracing::info!(?interval, "enabled corruption checking");
    loop {
        sleep(interval).await;
        if !services.cluster.is_leader() {
            continue;
        }
        if let Err(error) = check_period(&services).await {
            tracing::warn!(%error, "failed to check hash KV");
        }
    }
}

async fn check_period(services: &Services) -> Result<(), Status> {
    let first = own_hash(services, 0).await?;
    let heard = ask_all(services, first.hash_revision, &BTreeMap::new()).await?;
    services.read_barrier().await?;
    let second = own_hash(services, 0).await?;
    let own_id = services.cluster.member_id;
    if let Some((member, reason)) = judge_period(own_id, &first, &second, &heard) {
        tracing::warn!(member = %hex(member), ?first, ?second, ?heard, "{reason}");
        raise(services, member).await;
    }
    let checked = heard.iter().filter(|(_, answer)| matches!(answer, Some(Ok(_)))).count();
    warn_if_nothing_was_compared(&heard);
    tracing::info!(number_of_peers_checked = checked, "finished peer corruption check");
    Ok(())
}

/// The hashes of one compaction, by member. Each is asked for until it is there, and not again: it
/// costs reading everything.
#[derive(Default)]
struct Compaction {
    revision: i64,
    hashes: BTreeMap<u64, KvHash>,
}

/// Compares the hashes of the newest compaction every `interval` while this member leads, each
/// compaction until all members had the same, for the life of the thread.
pub async fn check_compactions(services: Services, interval: Duration) {
    let mut checked = 0;
    let mut known = Compaction::default();
    loop {
        sleep(interval).await;
        let compacted = services.view.compacted();
        if !services.cluster.is_leader() || compacted <= checked {
            continue;
        }
        if known.revision != compacted {
            known = Compaction { revision: compacted, hashes: BTreeMap::new() };
        }
        match check_compaction(&services, &mut known).await {
            Ok(true) => checked = compacted,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "failed to check the hash of a compaction"),
        }
    }
}

async fn check_compaction(services: &Services, known: &mut Compaction) -> Result<bool, Status> {
    let compacted = known.revision;
    tracing::info!(revision = compacted, "starting compact hash check");
    let own_id = services.cluster.member_id;
    let own = match known.hashes.get(&own_id) {
        Some(own) => *own,
        None => own_hash(services, compacted).await?,
    };
    known.hashes.insert(own_id, own);
    let heard = ask_all(services, compacted, &known.hashes).await?;
    remember(known, own.compact_revision, &heard);
    warn_if_nothing_was_compared(&heard);
    let verdict = judge_compaction(own_id, &own, &heard);
    let is_done = match &verdict {
        Verdict::Equal => true,
        Verdict::Incomplete => false,
        Verdict::Corrupt(members) => {
            tracing::error!(?own, ?heard, ?members, "Detected compaction hash mismatch");
            for member in members {
                raise(services, *member).await;
            }
            true
        }
    };
    tracing::info!(revision = compacted, ?verdict, "finished compaction hash check");
    Ok(is_done)
}

/// Compares this member, which does not serve yet, with the others.
///
/// # Errors
/// It differs, or cannot read its own data.
pub async fn check_at_start(services: &Services) -> Result<(), NotServing> {
    let own_id = hex(services.cluster.member_id);
    tracing::info!(local_member_id = %own_id, "starting initial corruption check");
    let failed =
        |status: Status| NotServing(format!("{own_id} failed to fetch hash ({})", status.message));
    let own = own_hash(services, 0).await.map_err(failed)?;
    let heard = ask_all(services, own.hash_revision, &BTreeMap::new()).await.map_err(failed)?;
    warn_if_nothing_was_compared(&heard);
    let differing = judge_start(&own, &heard);
    if !differing.is_empty() {
        tracing::warn!(?own, ?heard, "found different hash values from remote peer");
        return Err(NotServing(format!("{own_id} found data inconsistency with peers")));
    }
    tracing::info!(local_member_id = %own_id, "initial corruption checking passed; no corruption");
    Ok(())
}

async fn own_hash(services: &Services, revision: i64) -> Result<KvHash, Status> {
    let view = services.view.clone();
    services.read_pool.run(move || view.hash_kv(revision)).await?
}

/// Who is at the same compaction needs not be asked again.
fn remember(known: &mut Compaction, compact_revision: i64, heard: &[Heard]) {
    for (member, answer) in heard {
        if let Some(Ok(hash)) = answer
            && hash.compact_revision == compact_revision
        {
            known.hashes.insert(*member, *hash);
        }
    }
}

/// A check that compared nothing has shown nothing.
fn warn_if_nothing_was_compared(heard: &[Heard]) {
    let is_hash = |(_, answer): &Heard| matches!(answer, Some(Ok(_)));
    if !heard.is_empty() && !heard.iter().any(is_hash) {
        tracing::warn!(?heard, "no member has said its hash: nothing was compared");
    }
}

/// Asks all other members at once that are not `known` yet.
async fn ask_all(
    services: &Services,
    revision: i64,
    known: &BTreeMap<u64, KvHash>,
) -> Result<Vec<Heard>, Status> {
    let own_id = services.cluster.member_id;
    let others = services.view.members()?.into_iter().filter(|member| member.id != own_id);
    let asked: Vec<_> = others
        .map(|member| {
            let (services, known) = (services.clone(), known.get(&member.id).copied());
            let task = async move {
                match known {
                    Some(hash) => Some(Ok(hash)),
                    None => ask(&services, member.id, revision).await,
                }
            };
            (member.id, tokio::task::spawn_local(task))
        })
        .collect();
    let mut heard = Vec::new();
    for (member, task) in asked {
        heard.push((member, task.await.unwrap_or(None)));
    }
    Ok(heard)
}

/// Asks a member, and waits as long as it may need to read everything, unless it has gone. Asks again
/// now and then: a question is lost with its connection, and perhaps the member is back on another.
/// While it computes an answer it does not listen to further questions.
async fn ask(services: &Services, member: u64, revision: i64) -> Option<Result<KvHash, NoHash>> {
    let mut ticket = services.waiting.take()?;
    let question = HashQuestion { request: ticket.id, revision };
    let gone = async {
        loop {
            services.peers.ask_for_hash(member, &question);
            sleep(services.limits.request_timeout).await;
            if !services.peers.is_connected(member) {
                return;
            }
        }
    };
    let deadline = Instant::now() + limits::HASH_ANSWER_TIMEOUT;
    let answer = tokio::select! {
        biased;
        answer = timeout_at(deadline, ticket.answer()) => answer,
        () = gone => return None,
    };
    match answer {
        Ok(Some(Answer::Hash(HashAnswer { outcome, .. }))) => Some(outcome),
        _ => None,
    }
}

async fn raise(services: &Services, member_id: u64) {
    let request = AlarmRequest {
        action: AlarmAction::Activate as i32,
        member_id,
        alarm: AlarmType::Corrupt as i32,
    };
    let body = request.encode_to_vec().into();
    if let Err(error) = services.propose(CommandKind::Alarm, body).await {
        tracing::error!(%error, member = %hex(member_id), "failed to raise a CORRUPT alarm");
    }
}

fn hex(id: u64) -> String {
    format!("{id:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(hash: u32, compact_revision: i64) -> KvHash {
        KvHash { hash, hash_revision: 9, compact_revision, current_revision: 9 }
    }

    fn heard(member: u64, hash: KvHash) -> Heard {
        (member, Some(Ok(hash)))
    }

    #[test]
    fn who_has_answered_at_the_same_compaction_is_not_asked_again() {
        let own = hash(1, 5);
        let mut known = Compaction { revision: 5, hashes: BTreeMap::from([(1, own)]) };
        let not_yet = (4, Some(Ok(hash(7, 4))));
        let all = [heard(2, own), (3, None), not_yet, (5, Some(Err(NoHash::Future)))];
        remember(&mut known, own.compact_revision, &all);
        assert_eq!(known.hashes.keys().copied().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn members_that_agree_are_sound() {
        let own = hash(1, 5);
        let all = [heard(2, own), heard(3, own)];
        assert_eq!(judge_compaction(1, &own, &all), Verdict::Equal);
        assert_eq!(judge_compaction(1, &own, &[]), Verdict::Equal);
        for missing in [None, Some(Err(NoHash::Future)), Some(Ok(hash(7, 4)))] {
            let some = [heard(2, own), (3, missing)];
            assert_eq!(judge_compaction(1, &own, &some), Verdict::Incomplete, "{missing:?}");
        }
    }

    #[test]
    fn the_majority_is_right_even_against_the_leader() {
        let own = hash(1, 5);
        let follower = [heard(2, hash(2, 5)), heard(3, own)];
        assert_eq!(judge_compaction(1, &own, &follower), Verdict::Corrupt(vec![2]));
        let leader = [heard(2, hash(2, 5)), heard(3, hash(2, 5))];
        assert_eq!(judge_compaction(1, &own, &leader), Verdict::Corrupt(vec![1]));
        let two = [heard(2, hash(2, 5)), heard(3, hash(3, 5)), heard(4, own), heard(5, own)];
        assert_eq!(judge_compaction(1, &own, &two), Verdict::Corrupt(vec![2, 3]));
    }

    #[test]
    fn without_a_majority_the_cluster_is_corrupt() {
        let own = hash(1, 5);
        for others in [
            vec![heard(2, hash(2, 5))],
            vec![heard(2, hash(2, 5)), heard(3, hash(3, 5))],
            // Silence counts as a member: two of four are no majority.
            vec![heard(2, hash(2, 5)), heard(3, own), (4, None)],
        ] {
            assert_eq!(judge_compaction(1, &own, &others), Verdict::Corrupt(vec![0]), "{others:?}");
        }
    }

    #[test]
    fn a_follower_is_neither_ahead_nor_different() {
        let (first, second) = (hash(1, 5), hash(1, 5));
        let judge = |answer: KvHash| {
            judge_period(1, &first, &second, &[heard(2, answer)]).map(|(member, _)| member)
        };
        assert_eq!(judge(first), None);
        assert_eq!(judge(hash(7, 4)), None, "another compaction proves nothing");
        assert_eq!(judge(hash(7, 5)), Some(2));
        assert_eq!(judge(hash(1, 6)), Some(2));
        assert_eq!(judge(KvHash { current_revision: 10, ..first }), Some(2));
        let later = KvHash { current_revision: 12, hash_revision: 12, hash: 8, ..first };
        let ahead = heard(2, KvHash { current_revision: 10, ..first });
        assert_eq!(judge_period(1, &first, &later, &[ahead, (3, None)]), None);
    }

    #[test]
    fn a_leader_that_reads_two_things_at_one_revision_is_corrupt_itself() {
        let verdict = judge_period(1, &hash(1, 5), &hash(2, 5), &[]);
        assert_eq!(verdict.map(|(member, _)| member), Some(1));
        assert_eq!(judge_period(1, &hash(1, 5), &hash(2, 6), &[]), None);
    }

    #[test]
    fn a_member_that_starts_compares_what_can_be_compared() {
        let own = hash(1, 5);
        let others = [
            heard(2, own),
            heard(3, hash(2, 5)),
            heard(4, hash(2, 6)),
            (5, Some(Err(NoHash::Future))),
        ];
        assert_eq!(judge_start(&own, &others), [3]);
    }
}
