//! Random requests of random users against a naive judge.
//!
//! One idea: the judge merges nothing. All ends of all ranges are known, so between two neighbours
//! among them either all keys are permitted or none; it asks about the first key of each such piece
//! and holds it against each permission of each role of the user, one by one.
//!
//! Requests: ranges and watches, puts and deletions with and without the value before, keys attached
//! to leases, revocations, guards, nested transactions, ranges without an end; by known, unknown and
//! no users, at old and present auth revisions. `VARVE_RBAC_PAIRS` is how many (20,000 by default).
//!
//! The machine under test keeps all history in memory, so the world ends every
//! [`PAIRS_OF_A_WORLD`] pairs and another one begins, from another seed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use varve_api::authpb::Permission;
use varve_api::error as api;
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, Compare, DeleteRangeRequest,
    LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use varve_api::{ApiError, Status};
use varve_lsm::Options;
use varve_store::{Auth, AuthCommand, Author, Command, CommandKind, LeaseId, RequestId, validate};

use crate::machine::Machine;
use crate::random::Random;

const PAIRS_DEFAULT: u64 = 20_000;
const PAIRS_OF_A_WORLD: u64 = 50_000;
const SEED: u64 = 11;
const USERS: [&str; 5] = ["root", "alice", "bob", "carol", "dave"];
const ROLES: [&str; 4] = ["one", "two", "three", "root"];
const KEYS: [&str; 10] = ["\0", "a", "a\0", "ab", "b", "b\0", "c", "ca", "d", "\u{7f}"];
const LEASES: u64 = 3;
const TXN_OPS_MAX: usize = 128;

/// What there is, as it was told to the state machine.
#[derive(Default)]
struct Judge {
    roles: BTreeMap<String, Vec<Permission>>,
    users: BTreeMap<String, BTreeSet<String>>,
    /// The keys of each lease.
    leases: BTreeMap<i64, Vec<Bytes>>,
    revision: u64,
}

type Verdict = Result<(), ApiError>;

impl Judge {
    fn keys(&self, author: Option<&Author>, key: &[u8], end: &[u8], kind: i32) -> Verdict {
        let Some(author) = author.filter(|author| author.auth_revision > 0) else {
            return Err(api::USER_EMPTY);
        };
        if author.auth_revision < self.revision {
            return Err(api::AUTH_OLD_REVISION);
        }
        let Some(roles) = self.users.get(&author.user) else { return Err(api::PERMISSION_DENIED) };
        if roles.contains("root") {
            return Ok(());
        }
        let permissions = || roles.iter().filter_map(|role| self.roles.get(role)).flatten();
        let mut pieces: Vec<Vec<u8>> = vec![key.to_vec()];
        for known in KEYS {
            pieces.push(known.as_bytes().to_vec());
            pieces.push([known.as_bytes(), b"\0"].concat());
        }
        // A range that ends before it begins counts as its first key.
        let wanted = pieces.iter().filter(|piece| *piece == key || lies_in(piece, key, end));
        let may = |piece: &Vec<u8>| {
            permissions().any(|permission| {
                (permission.perm_type == kind || permission.perm_type == 2)
                    && lies_in(piece, &permission.key, &permission.range_end)
            })
        };
        if wanted.into_iter().all(may) { Ok(()) } else { Err(api::PERMISSION_DENIED) }
    }

    fn read(&self, author: Option<&Author>, key: &[u8], end: &[u8]) -> Verdict {
        self.keys(author, key, end, 0)
    }

    fn write(&self, author: Option<&Author>, key: &[u8], end: &[u8]) -> Verdict {
        self.keys(author, key, end, 1)
    }

    fn is_root(&self, author: Option<&Author>) -> bool {
        let roles = author.and_then(|author| self.users.get(&author.user));
        roles.is_some_and(|roles| roles.contains("root"))
    }

    fn lease(&self, author: Option<&Author>, id: i64) -> Verdict {
        let keys = self.leases.get(&id).filter(|_| !self.is_root(author));
        keys.into_iter().flatten().try_for_each(|key| self.write(author, key, b""))
    }

    fn op(&self, author: Option<&Author>, op: &Request) -> Verdict {
        match op {
            Request::RequestRange(range) => self.read(author, &range.key, &range.range_end),
            Request::RequestPut(put) => {
                self.write(author, &put.key, b"")?;
                self.lease(author, put.lease)?;
                if put.prev_kv { self.read(author, &put.key, b"") } else { Ok(()) }
            }
            Request::RequestDeleteRange(delete) => {
                self.write(author, &delete.key, &delete.range_end)?;
                match delete.prev_kv {
                    true => self.read(author, &delete.key, &delete.range_end),
                    false => Ok(()),
                }
            }
            Request::RequestTxn(txn) => {
                for guard in &txn.compare {
                    self.read(author, &guard.key, &guard.range_end)?;
                }
                let ops = txn.success.iter().chain(&txn.failure);
                ops.filter_map(|op| op.request.as_ref()).try_for_each(|op| self.op(author, op))
            }
        }
    }
}

fn lies_in(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        b"" => key == start,
        b"\0" => key >= start,
        end => key >= start && key < end,
    }
}

fn key(random: &mut Random) -> Bytes {
    Bytes::from_static(KEYS[random.below(KEYS.len() as u64) as usize].as_bytes())
}

/// One key, a range, or one without an end.
fn end(random: &mut Random) -> Bytes {
    match random.below(4) {
        0 | 1 => Bytes::new(),
        2 if random.below(3) == 0 => Bytes::from_static(b"\0"),
        _ => key(random),
    }
}

fn op(random: &mut Random, depth: u32) -> Request {
    match random.below(if depth == 0 { 3 } else { 4 }) {
        0 => Request::RequestRange(RangeRequest {
            key: key(random),
            range_end: end(random),
            ..RangeRequest::default()
        }),
        1 => Request::RequestPut(PutRequest {
            key: key(random),
            lease: random.below(2 * LEASES) as i64 % (LEASES as i64 + 1),
            prev_kv: random.below(3) == 0,
            ..PutRequest::default()
        }),
        2 => Request::RequestDeleteRange(DeleteRangeRequest {
            key: key(random),
            range_end: end(random),
            prev_kv: random.below(3) == 0,
        }),
        _ => Request::RequestTxn(txn(random, depth - 1)),
    }
}

fn txn(random: &mut Random, depth: u32) -> TxnRequest {
    let compare = (0..random.below(2)).map(|_| Compare {
        key: key(random),
        range_end: end(random),
        ..Compare::default()
    });
    let compare = compare.collect();
    let mut ops = || {
        let count = random.below(3);
        (0..count).map(|_| RequestOp { request: Some(op(random, depth)) }).collect::<Vec<_>>()
    };
    TxnRequest { compare, success: ops(), failure: ops() }
}

struct World {
    machine: Machine,
    judge: Judge,
    random: Random,
}

impl World {
    fn new(seed: u64) -> Self {
        let options = Options { memtable_bytes: 256 << 10, ..Options::default() };
        let machine = Machine::new(seed, options);
        let mut world = Self { machine, judge: Judge::default(), random: Random::new(seed) };
        for user in USERS {
            world.change(AuthCommand::UserAdd {
                user: user.into(),
                password_hash: Bytes::new(),
                has_no_password: true,
            });
            world.judge.users.insert(user.into(), BTreeSet::new());
        }
        for role in ROLES {
            world.change(AuthCommand::RoleAdd { role: role.into() });
            world.judge.roles.insert(role.into(), Vec::new());
        }
        let (user, role) = ("root".to_owned(), "root".to_owned());
        world.judge.users.get_mut("root").unwrap().insert(role.clone());
        world.change(AuthCommand::UserGrantRole { user, role });
        world.change(AuthCommand::Enable);
        world.sync();
        world
    }

    fn apply(
        &mut self,
        author: Option<Author>,
        kind: CommandKind,
        body: Bytes,
    ) -> Result<(), Status> {
        let command = Command { id: RequestId(1), kind, author, body };
        let mut applied = self.machine.apply(&[command]);
        applied.replies.pop().unwrap().1.map(drop)
    }

    fn root(&self) -> Option<Author> {
        Some(Author { user: "root".into(), auth_revision: self.machine.view().auth().revision() })
    }

    fn change(&mut self, command: AuthCommand) {
        let root = self.root();
        self.apply(root, CommandKind::Auth, command.encode()).unwrap();
    }

    /// What does not concern permissions is taken over from the state machine.
    fn sync(&mut self) {
        let view = self.machine.view();
        self.judge.revision = view.auth().revision();
        let ids = 1..=LEASES as i64;
        let keys = ids.filter_map(|id| Some((id, view.lease(LeaseId(id)).unwrap()?.keys)));
        self.judge.leases = keys.collect();
    }

    /// Grants or revokes something, in the world and in the judge's books.
    fn change_something(&mut self) {
        let role = ROLES[self.random.below(3) as usize].to_owned();
        let user = USERS[1 + self.random.below(4) as usize].to_owned();
        let permissions = self.judge.roles.get_mut(&role).unwrap();
        let roles = self.judge.users.get_mut(&user).unwrap();
        let command = match self.random.below(6) {
            0 if roles.contains(&role) => {
                roles.remove(&role);
                AuthCommand::UserRevokeRole { user, role }
            }
            0 | 1 => {
                roles.insert(role.clone());
                AuthCommand::UserGrantRole { user, role }
            }
            2 if !permissions.is_empty() => {
                let position = self.random.below(permissions.len() as u64) as usize;
                let Permission { key, range_end, .. } = permissions.remove(position);
                AuthCommand::RoleRevokePermission(AuthRoleRevokePermissionRequest {
                    role,
                    key,
                    range_end,
                })
            }
            _ => {
                let (key, range_end) = (key(&mut self.random), end(&mut self.random));
                let is_empty = !range_end.is_empty() && range_end != "\0" && range_end <= key;
                let range_end = if is_empty { Bytes::new() } else { range_end };
                let perm_type = self.random.below(3) as i32;
                let permission = Permission { perm_type, key, range_end };
                permissions.retain(|known| {
                    (&known.key, &known.range_end) != (&permission.key, &permission.range_end)
                });
                permissions.push(permission.clone());
                AuthCommand::RoleGrantPermission(AuthRoleGrantPermissionRequest {
                    name: role,
                    perm: Some(permission),
                })
            }
        };
        self.change(command);
        self.sync();
    }

    fn author(&mut self) -> Option<Author> {
        let auth_revision = match self.random.below(20) {
            0 => return None,
            1 => self.judge.revision - 1,
            _ => self.judge.revision,
        };
        let user = match self.random.below(25) {
            0 => "mallory",
            1 => USERS[0],
            _ => USERS[1 + self.random.below(4) as usize],
        };
        Some(Author { user: user.into(), auth_revision })
    }

    /// One request of one user: what was said, and what should be.
    fn pair(&mut self) -> (Result<(), Status>, Verdict, String) {
        let author = self.author();
        let who = author.as_ref();
        if self.random.below(20) == 0 {
            let id = 1 + self.random.below(LEASES) as i64;
            let should = match who {
                None => Err(api::USER_EMPTY),
                who => self.judge.lease(who, id),
            };
            let shown = format!("{author:?} revokes {id}");
            let revoke = LeaseRevokeRequest { id }.encode_to_vec().into();
            let said = self.apply(author, CommandKind::LeaseRevoke, revoke);
            let root = self.root();
            let grant = LeaseGrantRequest { id, ttl: 60 }.encode_to_vec().into();
            let _ = self.apply(root, CommandKind::LeaseGrant, grant);
            return (said, should, shown);
        }
        let op = op(&mut self.random, 3);
        if let Request::RequestTxn(txn) = &op
            && validate::txn(txn, TXN_OPS_MAX).is_err()
        {
            // A server would not propose it.
            return self.pair();
        }
        let should = self.judge.op(who, &op);
        let shown = format!("{author:?}: {op:?}");
        let view = self.machine.view();
        let said = match op {
            Request::RequestRange(request) if self.random.below(2) == 0 => {
                let may = |auth: &Auth| auth.may_range(who, &request);
                view.judged(may, || view.range(&request)).map(drop)
            }
            // A watch.
            Request::RequestRange(request) => {
                view.auth().may_read(who, &request.key, &request.range_end).map_err(Status::from)
            }
            Request::RequestPut(put) => {
                self.apply(author, CommandKind::Put, put.encode_to_vec().into())
            }
            Request::RequestDeleteRange(delete) => {
                self.apply(author, CommandKind::DeleteRange, delete.encode_to_vec().into())
            }
            Request::RequestTxn(txn) => {
                self.apply(author, CommandKind::Txn, txn.encode_to_vec().into())
            }
        };
        (said, should, shown)
    }
}

#[test]
fn random_requests_are_judged_as_the_naive_judge_does() {
    let pairs = std::env::var("VARVE_RBAC_PAIRS").ok();
    let pairs = pairs.map_or(PAIRS_DEFAULT, |pairs| pairs.parse().unwrap());
    let mut world = World::new(SEED);
    let (mut permitted, mut refused, mut mismatches) = (0_u64, 0_u64, Vec::new());
    for number in 0..pairs {
        if number > 0 && number % PAIRS_OF_A_WORLD == 0 {
            println!("{number} of {pairs}: {permitted} permitted, {refused} refused");
            world = World::new(SEED + number / PAIRS_OF_A_WORLD);
        }
        if number % 25 == 0 {
            world.change_something();
        }
        let (said, should, shown) = world.pair();
        world.sync();
        let refusals = [api::USER_EMPTY, api::AUTH_OLD_REVISION, api::PERMISSION_DENIED];
        let said = said.err().filter(|error| refusals.iter().any(|refusal| *error == *refusal));
        let should = should.err().map(Status::from);
        if should.is_some() {
            refused += 1
        } else {
            permitted += 1
        }
        if said != should {
            mismatches.push(format!("{shown}\n    said {said:?}, should {should:?}"));
        }
    }
    println!("{permitted} permitted, {refused} refused, {} mismatches", mismatches.len());
    assert!(mismatches.is_empty(), "{}", mismatches[..mismatches.len().min(5)].join("\n"));
    assert!(permitted > pairs / 10 && refused > pairs / 10, "{permitted} and {refused}");
}

#[test]
fn who_reads_while_authentication_is_turned_on_gets_nothing_that_was_written_under_it() {
    let mut world = World::new(SEED);
    world.change(AuthCommand::Disable);
    let view = world.machine.view();
    let request = RangeRequest { key: "k".into(), ..RangeRequest::default() };
    let may = |auth: &Auth| auth.may_range(None, &request);
    let read = view.judged(may, || {
        world.change(AuthCommand::Enable);
        let put = PutRequest { key: "k".into(), ..PutRequest::default() };
        let root = world.root();
        world.apply(root, CommandKind::Put, put.encode_to_vec().into())?;
        view.range(&request)
    });
    assert_eq!(read, Err(api::AUTH_OLD_REVISION.into()));
}
