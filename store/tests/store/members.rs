//! Who belongs to the cluster: etcd's answers, and that rows, marks and caches say the same.

use varve_lsm::Options;
use varve_store::{
    Command, CommandKind, Configuration, Member, MemberChange, MemberPublish, Reply, RequestId,
    VoteChange, encode_batch,
};

use crate::machine::Machine;

fn command(change: &MemberChange) -> Command {
    Command {
        id: RequestId(1),
        kind: CommandKind::MemberChange,
        author: None,
        body: change.encode(),
    }
}

/// The members after a change, or the answer why there was none.
fn change(machine: &mut Machine, change: &MemberChange) -> Result<Vec<Member>, String> {
    let mut applied = machine.apply(&[command(change)]);
    let (_, reply) = applied.replies.pop().unwrap();
    machine.check();
    match reply {
        Ok(Reply::Members(members)) => {
            assert_eq!(applied.members.as_ref(), Some(&members));
            assert_eq!(members, machine.store.members());
            Ok(members)
        }
        Ok(other) => panic!("{other:?}"),
        Err(status) => {
            assert_eq!(applied.members, None, "refused and changed");
            Err(status.message.to_string())
        }
    }
}

fn add(id: u64, url: &str, is_learner: bool) -> MemberChange {
    MemberChange::Add { id, peer_urls: vec![url.to_owned()], is_learner, learners_max: 1 }
}

fn configuration(machine: &mut Machine) -> Configuration {
    machine.flush();
    Configuration::decode(&machine.db.flushed_mark().unwrap()).unwrap().unwrap()
}

#[test]
fn a_learner_is_added_and_promoted() {
    let mut machine = Machine::new(1, Options::default());
    change(&mut machine, &add(3, "http://three:2380", true)).unwrap();
    let expected = Configuration { voters: vec![1, 2], learners: vec![3] };
    assert_eq!(configuration(&mut machine), expected);
    let members = change(&mut machine, &MemberChange::Promote { id: 3 }).unwrap();
    assert!(members.iter().all(|member| !member.is_learner));
    machine.restart();
    let expected = Configuration { voters: vec![1, 2, 3], learners: vec![] };
    assert_eq!(configuration(&mut machine), expected);
}

#[test]
fn what_etcd_refuses_is_refused_with_its_words() {
    let mut machine = Machine::new(2, Options::default());
    for (wanted, words) in [
        (add(2, "http://x:1", false), "etcdserver: member ID already exist"),
        (add(3, "http://two:2380", false), "etcdserver: Peer URLs already exists"),
        (MemberChange::Remove { id: 9 }, "etcdserver: member not found"),
        (MemberChange::Promote { id: 9 }, "etcdserver: member not found"),
        (MemberChange::Promote { id: 2 }, "etcdserver: can only promote a learner member"),
        (
            MemberChange::Update { id: 9, peer_urls: vec!["http://x:1".into()] },
            "etcdserver: member not found",
        ),
        (
            MemberChange::Update { id: 2, peer_urls: vec!["http://one:2380".into()] },
            "etcdserver: Peer URLs already exists",
        ),
    ] {
        assert_eq!(change(&mut machine, &wanted).unwrap_err(), words, "{wanted:?}");
    }
    change(&mut machine, &add(3, "http://three:2380", true)).unwrap();
    let second = change(&mut machine, &add(4, "http://four:2380", true)).unwrap_err();
    assert_eq!(second, "etcdserver: too many learner members in cluster");
    machine.restart();
}

#[test]
fn a_removed_id_never_comes_back() {
    let mut machine = Machine::new(3, Options::default());
    change(&mut machine, &MemberChange::Remove { id: 2 }).unwrap();
    assert!(machine.view().is_removed_member(2).unwrap());
    machine.flush();
    machine.restart();
    let again = change(&mut machine, &add(2, "http://two:2380", false)).unwrap_err();
    assert_eq!(again, "etcdserver: member not found");
    change(&mut machine, &add(5, "http://two:2380", false)).unwrap();
    assert!(!machine.view().is_removed_member(5).unwrap());
}

#[test]
fn the_last_voter_stays() {
    let mut machine = Machine::new(4, Options::default());
    change(&mut machine, &add(3, "http://three:2380", true)).unwrap();
    change(&mut machine, &MemberChange::Remove { id: 1 }).unwrap();
    let last = change(&mut machine, &MemberChange::Remove { id: 2 }).unwrap_err();
    assert_eq!(last, "etcdserver: re-configuration failed due to not enough started members");
    change(&mut machine, &MemberChange::Remove { id: 3 }).unwrap();
}

#[test]
fn an_update_moves_a_member() {
    let mut machine = Machine::new(5, Options::default());
    let moved = MemberChange::Update { id: 2, peer_urls: vec!["http://elsewhere:1".into()] };
    let members = change(&mut machine, &moved).unwrap();
    assert_eq!(members[1].peer_urls, ["http://elsewhere:1"]);
    machine.restart();
    assert_eq!(machine.store.members(), members);
}

#[test]
fn who_votes_is_changed_as_raft_is_told_or_not_at_all() {
    // A leader with a bug could write entries in which Raft's part and the command differ. Raft
    // would follow to where the rows are not, and in the end to a group without voters.
    let mut machine = Machine::new(7, Options::default());
    let before = machine.store.members();
    let publish = MemberPublish { member_id: 1, name: "new".into(), client_urls: Vec::new() };
    let publish = Command {
        id: RequestId(2),
        kind: CommandKind::MemberPublish,
        author: None,
        body: publish.encode(),
    };
    for (voted, wanted) in [
        (VoteChange::Remove(1), command(&MemberChange::Remove { id: 2 })),
        (VoteChange::AddVoter(3), command(&add(3, "http://three:2380", true))),
        (VoteChange::AddLearner(4), command(&add(3, "http://three:2380", true))),
        (VoteChange::Remove(2), publish),
    ] {
        let index = machine.store.applied().index + 1;
        let payload = encode_batch(&[wanted]);
        let applied = machine.store.apply_change(index, 1, &payload, voted).unwrap();
        assert!(!applied.is_vote_changed, "{voted:?}: {applied:?}");
        let ids = |members: &[Member]| members.iter().map(|member| member.id).collect::<Vec<_>>();
        assert_eq!(ids(&machine.store.members()), ids(&before), "{voted:?}");
    }
    let payload = encode_batch(&[command(&MemberChange::Remove { id: 2 })]);
    let index = machine.store.applied().index + 1;
    let voted = VoteChange::Remove(2);
    assert!(machine.store.apply_change(index, 1, &payload, voted).unwrap().is_vote_changed);
}

#[test]
fn who_votes_is_not_changed_by_an_ordinary_entry() {
    let mut machine = Machine::new(6, Options::default());
    let before = machine.store.members();
    // A peer might forward it as one of its proposals.
    let put = Command {
        id: RequestId(2),
        kind: CommandKind::MemberPublish,
        author: None,
        body: "".into(),
    };
    let smuggled = encode_batch(&[command(&MemberChange::Remove { id: 1 }), put]);
    let applied = machine.apply_payload(smuggled);
    assert!(applied.replies.iter().all(|(_, reply)| reply.is_err()), "{applied:?}");
    assert_eq!(machine.store.members(), before);
    machine.check();
}
