//! Runs the scenarios of `tests/scripts`: commands, then `----`, then the trace they must leave.
//!
//! A command a line, `#` for comments; nothing happens without a command.
//!
//! | command | effect |
//! | --- | --- |
//! | `members 1 2 3 [learners 4]` | makes the group, first line |
//! | `tick 1 5` | ticks |
//! | `campaign 1` | ticks 1 alone until it asks for votes, then runs |
//! | `elect 1` | campaigns until it leads |
//! | `cycle 1`, `begin 1`, `persist 1` | all cycles, or half a one |
//! | `deliver [1->2]`, `drop [1->2]`, `repeat [1->2]` | messages that wait, once |
//! | `hold 1->2`, `release` | takes waiting messages aside; brings them back |
//! | `run` | cycles and deliveries until nothing happens |
//! | `change 1 voter 4`, `change 1 learner 4`, `change 1 remove 4` | the membership |
//! | `join 4` | starts a node that has nothing |
//! | `confirms by hand`, `changed 1` | when a change takes effect on a node |
//! | `propose 1 text`, `read 1 7`, `transfer 1 2` | requests |
//! | `leases 7` | all start again, with leases for reads of 7 seconds |
//! | `seconds 3`, `leased 1` | time passes, a tick is a second; what 1 may answer without a round |
//! | `fill 1 1000 3` | three proposals of 1000 bytes |
//! | `unreachable 1 2` | 1 is told that 2 cannot be reached |
//! | `wipe 1` | a crash after which nothing is left of 1's disk |
//! | `partition 1 \| 2 3`, `heal` | the network |
//! | `crash 1`, `restart 1`, `flush 1 [keep]` | the machine; `keep` entries stay in the log |
//! | `lends 2` | 2 sends snapshots instead of the leader, if its own will do |
//! | `installs by hand`, `install 1`, `confirm 1` | snapshots |
//! | `inject 2->1 heartbeat term=3 commit=9` | a message that no correct node sends |
//! | `show` | every node's standing |
//! | `quietly ...` | a command, of which only the trace of leaders is kept |
//!
//! `VARVE_BLESS=1` writes the traces anew.

mod cluster;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use varve_raftnode::{MemberChange, Message, MessageClass, NodeId};

use cluster::frames::make;
use cluster::{Cluster, ELECTION_TICKS, Envelope};

struct Script {
    cluster: Cluster,
    held: Vec<Envelope>,
}

impl Script {
    fn new(words: &[&str]) -> Self {
        let mut parts = words.split(|word| *word == "learners");
        let mut ids =
            || -> Vec<u64> { parts.next().unwrap_or(&[]).iter().map(|w| id(w)).collect() };
        let (voters, learners) = (ids(), ids());
        Self { cluster: Cluster::new(1, &voters, &learners), held: Vec::new() }
    }

    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let cluster = &mut self.cluster;
        match words[..] {
            ["tick", node, count] => (0..id(count)).for_each(|_| cluster.tick(id(node))),
            ["campaign", node] => self.campaign(id(node)),
            ["elect", node] => self.elect(id(node)),
            ["cycle", node] => cluster.cycle(id(node)),
            ["begin", node] => cluster.begin(id(node)),
            ["persist", node] => cluster.persist(id(node)),
            ["run"] => cluster.run(),
            ["propose", node, text] => {
                if let Err(error) = cluster.propose(id(node), text) {
                    cluster.trace.push(format!("not proposed: {error:?}"));
                }
            }
            ["fill", node, bytes, count] => {
                for _ in 0..id(count) {
                    let payload = "x".repeat(id(bytes) as usize);
                    if let Err(error) = cluster.propose(id(node), &payload) {
                        cluster.trace.push(format!("not proposed: {error:?}"));
                    }
                }
            }
            ["unreachable", node, other] => cluster.node(id(node)).unreachable(NodeId(id(other))),
            ["wipe", node] => cluster.wipe(id(node)),
            ["change", node, how, other] => {
                let other = NodeId(id(other));
                let change = match how {
                    "voter" => MemberChange::AddVoter(other),
                    "learner" => MemberChange::AddLearner(other),
                    "remove" => MemberChange::Remove(other),
                    _ => panic!("no such change: {line}"),
                };
                if let Err(error) = cluster.change(id(node), change) {
                    cluster.trace.push(format!("not proposed: {error:?}"));
                }
            }
            ["join", node] => cluster.join(id(node)),
            ["confirms", "by", "hand"] => cluster.confirms_at_once = false,
            ["changed", node] => cluster.confirm_changes(id(node)),
            ["read", node, token] => cluster.read(id(node), id(token)),
            ["leases", seconds] => {
                cluster.read_lease = Some(Duration::from_secs(id(seconds)));
                let ids: Vec<u64> = cluster.members.keys().copied().collect();
                for id in ids {
                    cluster.crash(id);
                    cluster.restart(id).expect("a fresh node starts");
                }
            }
            ["seconds", count] => cluster.now += Duration::from_secs(id(count)),
            ["leased", node] => {
                let now = cluster.now;
                let point = cluster.node(id(node)).leased_read().filter(|(_, until)| now < *until);
                let text = match point {
                    Some((index, until)) => format!("reads at {} for {:?}", index.0, until - now),
                    None => "has no lease".to_owned(),
                };
                cluster.trace.push(format!("{node} {text}"));
            }
            ["transfer", node, to] => cluster.node(id(node)).transfer_leadership(NodeId(id(to))),
            ["heal"] => cluster.cut.clear(),
            ["crash", node] => cluster.crash(id(node)),
            ["restart", node] => {
                if let Err(error) = cluster.restart(id(node)) {
                    cluster.trace.push(format!("does not start: {error}"));
                }
            }
            ["flush", node] => cluster.flush(id(node), 0),
            ["flush", node, keep] => cluster.flush(id(node), id(keep)),
            ["lends", node] => cluster.lender = Some(id(node)),
            ["installs", "by", "hand"] => cluster.installs_at_once = false,
            ["install", node] => cluster.install(id(node)),
            ["confirm", node] => cluster.confirm(id(node)),
            ["show"] => self.show(),
            ["release"] => self.cluster.queue.append(&mut self.held),
            ["partition", ref groups @ ..] => self.partition(groups),
            ["inject", link, kind, ref fields @ ..] => self.inject(link, kind, fields),
            [verb @ ("deliver" | "drop" | "repeat" | "hold"), ref links @ ..] => {
                self.messages(verb, links);
            }
            _ => panic!("no such command: {line}"),
        }
    }

    /// Ticks one node until it asks for votes.
    fn campaign(&mut self, node: u64) {
        for _ in 0..4 * ELECTION_TICKS {
            if self.cluster.node(node).has_ready() {
                break;
            }
            self.cluster.tick(node);
        }
        self.cluster.run();
    }

    /// Makes a node lead. Voters that hear from a leader refuse for an election timeout, so that
    /// it passes for them first; should they ask for votes themselves, nobody hears it.
    fn elect(&mut self, node: u64) {
        let ids: Vec<u64> = self.cluster.members.keys().copied().collect();
        for other in ids.into_iter().filter(|other| *other != node) {
            let cluster = &mut self.cluster;
            if cluster.is_up(other)
                && !cluster.status(other).is_leader
                && cluster.status(other).leader.is_some()
            {
                (0..ELECTION_TICKS).for_each(|_| cluster.tick(other));
                cluster.cycle(other);
            }
        }
        self.cluster.queue.clear();
        for _ in 0..3 {
            if !self.cluster.status(node).is_leader {
                self.campaign(node);
            }
        }
        assert!(
            self.cluster.status(node).is_leader,
            "{node} does not lead:\n{}",
            self.cluster.trace.join("\n")
        );
    }

    fn partition(&mut self, groups: &[&str]) {
        let groups: Vec<Vec<u64>> = groups
            .split(|word| *word == "|")
            .map(|group| group.iter().map(|word| id(word)).collect())
            .collect();
        for group in &groups {
            for from in group {
                for to in groups.iter().filter(|other| *other != group).flatten() {
                    self.cluster.cut.insert((*from, *to));
                }
            }
        }
    }

    /// Does something with the messages that wait now, of one direction or of all.
    fn messages(&mut self, verb: &str, links: &[&str]) {
        let links: Vec<(u64, u64)> = links.iter().map(|text| link(text)).collect();
        let fits = |one: &Envelope| links.is_empty() || links.contains(&(one.from, one.to));
        let count = self.cluster.queue.iter().filter(|one| fits(one)).count();
        for _ in 0..count {
            let position = self.cluster.queue.iter().position(fits).expect("they were counted");
            match verb {
                "deliver" => self.cluster.deliver(position),
                "drop" => self.cluster.lose(position),
                "hold" => self.held.push(self.cluster.queue.remove(position)),
                _ => {
                    let one = self.cluster.queue.remove(position);
                    self.held.push(one.clone());
                    self.held.push(one);
                }
            }
        }
        if verb == "repeat" {
            self.cluster.queue.append(&mut self.held);
        }
    }

    fn inject(&mut self, text: &str, kind: &str, fields: &[&str]) {
        let (from, to) = link(text);
        let mut values = vec![("from", from), ("to", to)];
        for field in fields {
            let (name, value) = field.split_once('=').expect("field=value");
            values.push((name, value.parse().expect("a number")));
        }
        let bytes: Bytes = make(kind, &values);
        let message = Message { to: NodeId(to), class: MessageClass::Small, bytes };
        self.cluster.queue.push(Envelope { from, to, message, content: None });
        self.cluster.deliver(self.cluster.queue.len() - 1);
    }

    fn show(&mut self) {
        let mut lines = Vec::new();
        for (number, member) in &self.cluster.members {
            let commands = member.machine.commands().join(" ");
            let flushed = member.machine.flushed.index.0;
            let mut line = format!("{number}: [{commands}] durable to {flushed}");
            match &member.node {
                None => line.push_str(", down"),
                Some(node) => {
                    let status = node.status();
                    let leader = status.leader.map_or("-".to_string(), |node| node.0.to_string());
                    let (commit, last) = (status.commit.0, status.last.0);
                    let term = status.term.0;
                    let _ = write!(line, ", term {term} leader {leader} commit {commit}/{last}");
                    line.push_str(if status.is_sole_leader { ", alone" } else { "" });
                }
            }
            let (voters, learners) = &member.machine.members;
            let ids = |ids: &[NodeId]| ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>();
            if (voters, learners)
                != (&self.cluster.founders.voters, &self.cluster.founders.learners)
            {
                let (voters, learners) = (ids(voters).join(" "), ids(learners).join(" "));
                let _ = write!(line, ", voters [{voters}] learners [{learners}]");
            }
            lines.push(line);
        }
        self.cluster.trace.append(&mut lines);
    }
}

fn id(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn link(text: &str) -> (u64, u64) {
    let (from, to) = text.split_once("->").unwrap_or_else(|| panic!("not a link: {text}"));
    (id(from), id(to))
}

/// The commands' part of a script with what happened under each command.
fn play(commands: &str) -> String {
    let mut script: Option<Script> = None;
    let mut trace = String::new();
    for line in commands.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let _ = writeln!(trace, "{line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "members" {
            script = Some(Script::new(&words[1..]));
            continue;
        }
        let script = script.as_mut().expect("a script begins with its members");
        let quietly = line.strip_prefix("quietly ");
        script.command(quietly.unwrap_or(line));
        let happened = script.cluster.trace.drain(..);
        for happened in happened.filter(|text| quietly.is_none() || text.contains("lead")) {
            let _ = writeln!(trace, "    {}", happened.trim_end());
        }
    }
    trace
}

fn scripts() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let entries = std::fs::read_dir(&dir).expect("the scripts are there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    paths.sort();
    paths
}

#[test]
fn every_script_leaves_its_trace() {
    let blesses = std::env::var_os("VARVE_BLESS").is_some();
    let mut wrong = Vec::new();
    for path in scripts() {
        let text = std::fs::read_to_string(&path).expect("a script can be read");
        let (commands, expected) = text.split_once("----\n").unwrap_or((&text, ""));
        let trace = play(commands);
        if blesses {
            let commands = commands.trim_end();
            std::fs::write(&path, format!("{commands}\n----\n{trace}")).expect("it is written");
        } else if trace != expected {
            let at = trace.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
            wrong.push(format!(
                "{}: line {} of the trace\n  expected {:?}\n  found    {:?}",
                path.display(),
                at + 1,
                expected.lines().nth(at),
                trace.lines().nth(at),
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_script_leaves_the_same_trace_twice() {
    for path in scripts() {
        let text = std::fs::read_to_string(&path).expect("a script can be read");
        let commands = text.split("----\n").next().unwrap_or("");
        assert_eq!(play(commands), play(commands), "{}", path.display());
    }
}
