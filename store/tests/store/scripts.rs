//! Runs the scenarios of `tests/scripts`: commands, then `----`, then the trace they must leave.
//!
//! A command a line, `#` for comments. A line that is indented belongs to the one above it.
//! Requests are written as in `notation`; further:
//!
//! | command | effect |
//! | --- | --- |
//! | `put`, `del`, `txn`, `compact REV`, `grant ID TTL`, `revoke ID` | validated, then an entry of its own |
//! | `& put ...` | the same, in one entry with the command above |
//! | `force put ...` | an entry without validation |
//! | `auth ...`, `user ...`, `role ...` | as an entry; see `notation::auth` |
//! | `as USER[@AUTH_REVISION] ...` | a command or a read of this author |
//! | `users`, `roles`, `auth` | what there is |
//! | `publish MEMBER NAME URL`, `alarm get\|raise\|disarm KIND MEMBER`, `downgrade RELEASE\|cancel` | as an entry |
//! | `empty` | an entry without commands |
//! | `get`, `read txn ...` | reads of the view |
//! | `stream BYTES KEYS [...]` | chunks |
//! | `history KEYS FROM TO`, `previous KEY REV` | what watchers read |
//! | `may user USER`, `may role ROLE` | whether the author may ask about it |
//! | `leases`, `lease ID`, `members`, `status`, `hash REV`, `downgrading` | |
//! | `restart`, `flush` | power loss and replay; all made durable |
//!
//! After every command the state is checked. `VARVE_BLESS=1` writes the traces anew.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use varve_api::Status;
use varve_api::etcdserverpb::alarm_request::AlarmAction;
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, LeaseCheckpoint, LeaseCheckpointRequest,
    LeaseGrantRequest, LeaseRevokeRequest,
};
use varve_lsm::Options;
use varve_store::{
    Auth, Author, Command, CommandKind, Downgrade, LeaseId, MemberPublish, Release, RequestId,
    validate,
};

use crate::machine::Machine;
use crate::notation::parse::{self, Words};
use crate::notation::{auth, print};

/// etcd's `--max-txn-ops`, lowered to be reached in a line.
const TXN_OPS_MAX: usize = 4;

struct Script {
    machine: Machine,
    trace: Vec<String>,
    /// Commands that wait for the end of their entry.
    entry: Vec<Command>,
}

impl Script {
    fn run(commands: &str) -> String {
        let machine = Machine::new(1, Options::default());
        let mut script = Self { machine, trace: Vec::new(), entry: Vec::new() };
        let joined = commands.replace("\n    ", " ");
        let mut lines = joined.lines().filter(|line| !line.starts_with('#')).peekable();
        while let Some(line) = lines.next() {
            script.trace.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
            let is_joined = lines.peek().is_some_and(|next| next.starts_with('&'));
            script.command(line.trim_start_matches('&').trim(), is_joined);
            script.machine.check();
        }
        script.trace.join("\n") + "\n"
    }

    fn say(&mut self, line: impl Into<String>) {
        self.trace.push(format!("    {}", line.into()));
    }

    fn command(&mut self, line: &str, is_joined: bool) {
        if line.is_empty() {
            return;
        }
        let is_forced = line.starts_with("force ");
        let line = line.trim_start_matches("force ");
        let auth_revision = self.machine.view().auth().revision();
        let (author, line) = match line.strip_prefix("as ").and_then(|line| line.split_once(' ')) {
            Some((author, line)) => (Some(auth::author(author, auth_revision)), line),
            None => (None, line),
        };
        let write = write(line).map(|write| match write {
            Ok(command) => Ok(Command { author: author.clone(), ..command }),
            refused => refused,
        });
        match write {
            Some(Ok(command)) => self.entry.push(command),
            Some(Err((command, _))) if is_forced => self.entry.push(command),
            Some(Err((_, status))) => {
                self.say(format!("refused at once, {}", print::status(&status)))
            }
            None if line == "empty" => self.apply(Bytes::new()),
            None => {
                let said = self
                    .read(author.as_ref(), line)
                    .unwrap_or_else(|error| vec![print::status(&error)]);
                said.into_iter().for_each(|line| self.say(line));
            }
        }
        if !self.entry.is_empty() && !is_joined {
            let payload = varve_store::encode_batch(&std::mem::take(&mut self.entry));
            self.apply(payload);
        }
    }

    fn apply(&mut self, payload: Bytes) {
        let applied = self.machine.apply_payload(payload);
        print::applied(&applied).into_iter().for_each(|line| self.say(line));
    }

    fn read(&mut self, author: Option<&Author>, line: &str) -> Result<Vec<String>, Status> {
        let view = self.machine.view();
        let mut words = Words::new(line);
        let verb = words.next();
        let verb = if verb == "read" { words.next() } else { verb };
        if let Some(operation) = parse::operation(&verb, &mut words) {
            return match operation {
                Some(Request::RequestRange(request)) => {
                    validate::range(&request)?;
                    let may = |auth: &Auth| auth.may_range(author, &request);
                    let response = view.judged(may, || view.range(&request))?;
                    Ok(vec![print::range(&response)])
                }
                Some(Request::RequestTxn(request)) => {
                    validate::txn(&request, TXN_OPS_MAX)?;
                    let may = |auth: &Auth| auth.may_read_txn(author, &request);
                    let response = view.judged(may, || view.txn(&request))?;
                    Ok(vec![print::txn(&response)])
                }
                other => panic!("not a read: {other:?}"),
            };
        }
        if let Some(said) = auth::read(&verb, &mut words, author, &view) {
            return said;
        }
        Ok(match verb.as_str() {
            "stream" => {
                let chunk_bytes_max = words.number() as usize;
                let chunks = view.range_stream(parse::range(&mut words), chunk_bytes_max)?;
                chunks
                    .map(|chunk| {
                        chunk.map_or_else(|error| print::status(&error), |c| print::range(&c))
                    })
                    .collect()
            }
            "history" => {
                let (key, end) = words.keys();
                let events = view.history(&key, &end, words.number(), words.number())?;
                events.map(|event| Ok(print::event(&event?))).collect::<Result<_, Status>>()?
            }
            "previous" => {
                let (key, revision) = (words.text(), words.number());
                let previous = view.previous(&key, revision)?;
                vec![previous.map_or("none".into(), |kv| print::key_value(&kv))]
            }
            "leases" => {
                let leases = view.leases()?.into_iter();
                leases.map(|(id, ttl)| format!("lease {} of {ttl} s", id.0)).collect()
            }
            "lease" => vec![match view.lease(LeaseId(words.number()))? {
                None => "none".into(),
                Some(lease) => {
                    let keys: Vec<String> = lease.keys.iter().map(|key| print::text(key)).collect();
                    format!("{} s, keys {}", lease.ttl_seconds, keys.join(" "))
                }
            }],
            "members" => {
                assert_eq!(view.members()?, self.machine.store.members());
                view.members()?.iter().map(|member| format!("{member:?}")).collect()
            }
            "status" => {
                let (applied, size) = (self.machine.store.applied(), view.db_sizes());
                assert!(size.disk_bytes > 0 || size.memtable_bytes > 0);
                vec![format!(
                    "revision {}, compacted {}, applied {}",
                    view.revision(),
                    view.compacted(),
                    applied.index
                )]
            }
            "checkpoints" => {
                let list = view.lease_checkpoints()?;
                list.iter().map(|(id, left)| format!("lease {} has {left} s left", id.0)).collect()
            }
            "downgrading" => {
                vec![view.downgrade()?.map_or("none".into(), |release| format!("to {release}"))]
            }
            "hash" => {
                let hash = view.hash_kv(words.number())?;
                vec![format!("{hash:?}")]
            }
            "restart" => {
                self.machine.restart();
                Vec::new()
            }
            "flush" => {
                self.machine.flush();
                Vec::new()
            }
            other => panic!("a command, not {other}"),
        })
    }
}

/// The line as a command, with the reason if it would not be proposed; `None` if it does not write.
fn write(line: &str) -> Option<Result<Command, (Command, Status)>> {
    let mut words = Words::new(line);
    let verb = words.next();
    let (kind, body, validity) = match verb.as_str() {
        "compact" => {
            let request = CompactionRequest { revision: words.number(), physical: false };
            (CommandKind::Compact, request.encode_to_vec(), Ok(()))
        }
        "grant" => {
            let request = LeaseGrantRequest { id: words.number(), ttl: words.number() };
            (CommandKind::LeaseGrant, request.encode_to_vec(), Ok(()))
        }
        "checkpoint" => {
            let mut checkpoints = Vec::new();
            while let Some(id) = words.option() {
                let (id, remaining_ttl) = (parse::number(&id), words.number());
                checkpoints.push(LeaseCheckpoint { id, remaining_ttl });
            }
            let request = LeaseCheckpointRequest { checkpoints };
            (CommandKind::LeaseCheckpoint, request.encode_to_vec(), Ok(()))
        }
        "revoke" => {
            let request = LeaseRevokeRequest { id: words.number() };
            (CommandKind::LeaseRevoke, request.encode_to_vec(), Ok(()))
        }
        "publish" => {
            let publish = MemberPublish {
                member_id: words.number().cast_unsigned(),
                name: words.next(),
                client_urls: vec![words.next()],
            };
            (CommandKind::MemberPublish, publish.encode().to_vec(), Ok(()))
        }
        "downgrade" => {
            let downgrade = match words.next().as_str() {
                "cancel" => Downgrade::Cancel,
                release => Downgrade::Enable(Release::parse(release).expect("a release")),
            };
            (CommandKind::Downgrade, downgrade.encode().to_vec(), Ok(()))
        }
        "alarm" => {
            let action = match words.next().as_str() {
                "get" => AlarmAction::Get,
                "raise" => AlarmAction::Activate,
                "disarm" => AlarmAction::Deactivate,
                other => panic!("an action, not {other}"),
            };
            let alarm = AlarmType::from_str_name(&words.next()).expect("an alarm");
            let member_id = words.number().cast_unsigned();
            let request = AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 };
            (CommandKind::Alarm, request.encode_to_vec(), Ok(()))
        }
        "auth" | "user" | "role" => {
            let command = auth::command(&verb, &mut words)?;
            (CommandKind::Auth, command.encode().to_vec(), Ok(()))
        }
        "garbage" => (CommandKind::Put, vec![0xff], Ok(())),
        verb => match parse::operation(verb, &mut words)?? {
            Request::RequestPut(put) => {
                (CommandKind::Put, put.encode_to_vec(), validate::put(&put))
            }
            Request::RequestDeleteRange(delete) => {
                let validity = validate::delete_range(&delete);
                (CommandKind::DeleteRange, delete.encode_to_vec(), validity)
            }
            Request::RequestTxn(txn) => {
                (CommandKind::Txn, txn.encode_to_vec(), validate::txn(&txn, TXN_OPS_MAX))
            }
            Request::RequestRange(_) => return None,
        },
    };
    let command = Command { id: RequestId(7), kind, author: None, body: body.into() };
    Some(match validity {
        Ok(()) => Ok(command),
        Err(status) => Err((command, status)),
    })
}

#[test]
fn scripts_leave_their_traces() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut differing = Vec::new();
    for path in paths {
        println!("{}", path.display());
        let content = std::fs::read_to_string(&path).unwrap();
        let (commands, expected) = content.split_once("----\n").unwrap_or((&content, ""));
        let trace = Script::run(commands);
        if trace == expected {
            continue;
        }
        if std::env::var_os("VARVE_BLESS").is_some() {
            std::fs::write(&path, format!("{commands}----\n{trace}")).unwrap();
        } else {
            println!("--- found\n{trace}--- expected\n{expected}");
            differing.push(path);
        }
    }
    assert!(differing.is_empty(), "{differing:?}");
}
