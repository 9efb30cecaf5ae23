//! The world of one seed: members, network, clients and troubles, and the one list of what happens
//! when.
//!
//! One idea: everything that could happen by itself is an event with a time; the loop takes the
//! earliest. A member's threads are events that were drawn to come a little after there is work for
//! them, so that they interleave as they like.
//!
//! Invariants: all is a function of the plan; nothing here reads a clock, iterates over a hash map,
//! or has a thread.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::runtime::Runtime;
use varve_api::Status;
use varve_disk::sim::Random;
use varve_server::apply::ApplyInput;

use crate::carry::{Network, Packet};
use crate::client::Knowledge;
use crate::history::{Agreed, History};
use crate::lone::Step;
use crate::needed;
use crate::node::{Node, Running, Shared};
use crate::operator::Operator;
use crate::plan::{MILLISECOND, Micros, Plan, SECOND};
use crate::roster::Roster;
use crate::serve::{Call, Watcher};

/// The threads of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    Raft,
    Apply,
    Sockets,
    Background,
}

const THREADS: [Thread; 4] = [Thread::Raft, Thread::Apply, Thread::Sockets, Thread::Background];

/// What happens.
pub enum Event {
    /// A thread of a member runs; of this start only.
    Run(u64, u64, Thread),
    /// The second half of a cycle: the log's sync is over.
    Sync(u64, u64),
    /// A tick of a member.
    Tick(u64, u64),
    /// A member starts again.
    Start(u64),
    /// A message arrives.
    Arrive(Packet),
    /// A client asks next.
    Ask(usize),
    /// A client's request reaches its member.
    Reach(usize),
    /// An answer reaches its client.
    Answer(usize),
    /// A client gives up.
    GiveUp(usize),
    /// A watcher reads, or opens its stream.
    Watch(usize),
    /// Something goes wrong.
    Trouble,
    /// The operator changes the members.
    Change,
    /// What it asks reaches its member.
    ReachChange(u64, u64),
    /// It is answered, or gives up.
    Changed(u64, Option<Result<(), Status>>),
    /// A new member's process starts.
    Join(u64),
    /// A member is told by another that it was removed.
    Refused(u64),
    /// A member that was removed stops.
    Leave(u64, u64),
    /// A trouble of a leader goes on.
    Lone(Step),
    /// A trouble of a member that is needed goes on.
    Needed(needed::Step),
    /// A member that was paused or slow goes on.
    Resume(u64),
}

/// How often things happened.
pub type Counts = BTreeMap<&'static str, u64>;

/// See the head of the file.
pub struct World<'a> {
    pub plan: Plan,
    pub random: Random,
    pub now: Micros,
    /// What the members' clocks show.
    advanced: Micros,
    sequence: u64,
    events: BTreeMap<(Micros, u64), Event>,
    pub nodes: BTreeMap<u64, Node>,
    pub network: Network,
    pub calls: BTreeMap<usize, Call>,
    pub watchers: Vec<Watcher>,
    pub known: Knowledge,
    pub operator: Operator,
    /// Who the members are by what is agreed.
    pub roster: Roster,
    /// Who has led in each term.
    pub leaders: BTreeMap<u64, u64>,
    pub history: History,
    pub counts: Counts,
    pub violations: Vec<String>,
    /// Troubles drawn so far.
    pub troubles: u64,
    /// Operations drawn so far.
    pub asked: u64,
    /// No more troubles and no more new requests.
    pub is_ending: bool,
    pub trace: Trace,
    pub runtime: &'a Runtime,
    pub shared: &'a Shared,
}

/// What happened, as text if anybody wants to read it, and as a number in any case.
pub struct Trace {
    pub digest: u64,
    pub prints: bool,
}

impl Trace {
    fn add(&mut self, now: Micros, text: impl FnOnce() -> String, numbers: [u64; 3]) {
        for number in [now].into_iter().chain(numbers) {
            self.digest = (self.digest.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        if self.prints {
            println!("{:>12} {}", format!("{:.6}", now as f64 / SECOND as f64), text());
        }
    }
}

impl<'a> World<'a> {
    pub fn new(plan: Plan, runtime: &'a Runtime, shared: &'a Shared, prints: bool) -> Self {
        let mut random = Random::new(plan.seed);
        let nodes = (1..=plan.members).map(|id| (id, Node::new(&plan, id, &mut random))).collect();
        let history =
            History { drift: 2 * plan.drift, clock_step: MILLISECOND, ..History::default() };
        Self {
            random,
            now: 0,
            advanced: 0,
            sequence: 0,
            events: BTreeMap::new(),
            nodes,
            network: Network::default(),
            calls: BTreeMap::new(),
            watchers: Vec::new(),
            known: Knowledge::default(),
            operator: Operator::new(plan.members),
            roster: Roster::founded(plan.members, plan.is_strict),
            leaders: BTreeMap::new(),
            history,
            counts: Counts::new(),
            violations: Vec::new(),
            troubles: 0,
            asked: 0,
            is_ending: false,
            trace: Trace { digest: plan.seed, prints },
            plan,
            runtime,
            shared,
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Writes a line of the trace; the numbers count for its digest.
    pub fn tell(&mut self, text: impl FnOnce() -> String, numbers: [u64; 3]) {
        self.trace.add(self.now, text, numbers);
    }

    /// Lets something happen after a time.
    pub fn after(&mut self, delay: Micros, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    /// Up to twice the mean, seldom much more.
    pub fn about(&mut self, mean: Micros) -> Micros {
        let usual = self.random.below(2 * mean + 1);
        if self.random.one_in(50) { usual * 10 } else { usual }
    }

    /// Runs until a time, or until something is wrong.
    pub fn run_until(&mut self, end: Micros) {
        while self.violations.is_empty() {
            let Some((&(at, sequence), _)) = self.events.first_key_value() else { break };
            if at > end {
                break;
            }
            self.advance(at);
            if let Some(event) = self.events.remove(&(at, sequence)) {
                self.happen(event);
            }
        }
        if self.violations.is_empty() {
            self.advance(end);
        }
    }

    /// Moves all clocks, and lets what waited for them go on.
    fn advance(&mut self, at: Micros) {
        if at <= self.now {
            return;
        }
        self.now = at;
        // Timers have no finer grain, and this is what costs most.
        if at / MILLISECOND == self.advanced / MILLISECOND {
            return;
        }
        let delay = std::time::Duration::from_micros(at - self.advanced);
        self.advanced = at;
        self.runtime.block_on(tokio::time::advance(delay));
        for node in self.nodes.values() {
            node.set_clock(at);
        }
        let woken =
            self.nodes.values().filter(|node| node.up.as_ref().is_some_and(Running::is_woken));
        let woken: Vec<u64> = woken.map(|node| node.id).collect();
        woken.into_iter().for_each(|id| self.schedule(id));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Run(id, boot, thread) => self.run(id, boot, thread),
            Event::Sync(id, boot) => self.sync(id, boot),
            Event::Tick(id, boot) => self.tick(id, boot),
            Event::Start(id) => self.start(id),
            Event::Arrive(packet) => self.arrive(packet),
            Event::Ask(client) => self.ask(client),
            Event::Reach(number) => self.reach(number),
            Event::Answer(number) => self.answer(number),
            Event::GiveUp(number) => self.give_up(number),
            Event::Watch(watcher) => self.watch(watcher),
            Event::Trouble => self.trouble(),
            Event::Change => self.change(),
            Event::ReachChange(number, member) => self.reach_change(number, member),
            Event::Changed(number, outcome) => self.changed(number, outcome),
            Event::Join(id) => self.join(id),
            Event::Refused(id) => self.refused(id),
            Event::Leave(id, boot) => self.leave(id, boot),
            Event::Lone(step) => self.lone_step(step),
            Event::Needed(step) => self.needed_step(step),
            Event::Resume(id) => self.schedule(id),
        }
    }

    /// Whether this start of a member is there and not paused.
    fn is_awake(&self, id: u64, boot: u64) -> bool {
        let node = &self.nodes[&id];
        node.paused_until <= self.now && node.up.as_ref().is_some_and(|up| up.boot == boot)
    }

    /// Starts a process.
    pub fn start(&mut self, id: u64) {
        let (runtime, shared, now) = (self.runtime, self.shared, self.now);
        let node = self.nodes.get_mut(&id).expect("a member");
        if node.up.is_some() || !node.can_run || node.is_out {
            return;
        }
        node.set_clock(now);
        match node.start(runtime, shared) {
            Ok(()) => {
                let boot = node.boots;
                self.tell(|| format!("{id} starts"), [1, id, boot]);
                self.check_remembers(id);
                self.after(0, Event::Tick(id, boot));
                self.schedule(id);
            }
            Err(error) => {
                let is_expected = node.is_disk_faulty || node.disk.is_stopped();
                self.tell(|| format!("{id} does not start: {error}"), [2, id, 0]);
                if self.stops_for_rot(id, &error.to_string(), "start refused for rot") {
                    return;
                }
                if !is_expected {
                    self.violations.push(format!("{id} does not start: {error}"));
                    return;
                }
                // What a failed directory sync leaves needs another mount.
                let runtime = self.runtime;
                self.nodes.get_mut(&id).expect("a member").lose_power(runtime);
                self.count("start refused by a faulty disk");
                self.after(SECOND, Event::Start(id));
            }
        }
    }

    /// A process ends by an error of its own: its disk must be the reason.
    pub fn stopped_by(&mut self, id: u64, what: &str, error: &str) {
        self.tell(|| format!("{id} stops, {what}: {error}"), [3, id, 0]);
        if self.stops_for_rot(id, error, "stopped by rot") {
            return;
        }
        let runtime = self.runtime;
        let node = self.nodes.get_mut(&id).expect("a member");
        if !node.is_disk_faulty && !node.disk.is_stopped() {
            self.violations.push(format!("{id} stops, {what}: {error}"));
            return;
        }
        node.disk.clear_faults();
        node.disk.set_capacity(1 << 50);
        let loses_power = node.disk.is_stopped() || self.random.one_in(2);
        let node = self.nodes.get_mut(&id).expect("a member");
        match loses_power {
            true => node.lose_power(runtime),
            false => node.kill(runtime),
        }
        self.count("stopped by its disk");
        let delay = self.about(2 * SECOND);
        self.after(delay, Event::Start(id));
    }

    fn tick(&mut self, id: u64, boot: u64) {
        if self.nodes[&id].up.as_ref().is_none_or(|up| up.boot != boot) {
            return;
        }
        let node = &self.nodes[&id];
        let (tick, drift) = (self.plan.tick.as_micros() as i64, node.drift);
        let period = (tick - tick * drift / 1_000_000).unsigned_abs();
        self.after(period, Event::Tick(id, boot));
        let leads =
            |node: &&Node| node.up.as_ref().is_some_and(|up| up.context.cluster.is_leader());
        if self.nodes.values().filter(leads).count() > 1 {
            self.count("two members lead at once");
        }
        // While it is paused or waits for the log, ticks are not made up for.
        let up = self.nodes.get_mut(&id).and_then(|node| node.up.as_mut()).expect("it runs");
        up.is_tick_due = true;
        // The background thread looks for work that often.
        up.services.background.wake();
        self.connect(id);
        self.check_counted(id);
        self.check_ends(id);
        self.schedule(id);
    }

    /// Draws when each thread that has something to do does it.
    pub fn schedule(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("a member");
        if node.paused_until > self.now {
            return;
        }
        let Some(up) = &mut node.up else { return };
        let boot = up.boot;
        if up.is_removed() && !up.is_leaving {
            up.is_leaving = true;
            return self.begin_to_leave(id, boot);
        }
        let has_work = [
            !up.is_syncing && (up.is_tick_due || !up.raft.inbox.is_empty()),
            !up.apply.queue.is_empty(),
            up.has_socket_work(),
            !up.context.workers.is_empty() && !up.services.background.is_idle(),
        ];
        let mut due = Vec::new();
        for (at, thread) in THREADS.into_iter().enumerate() {
            if has_work[at] && !up.due[at] {
                up.due[at] = true;
                due.push(thread);
            }
        }
        for thread in due {
            let mean = match thread {
                Thread::Background => MILLISECOND,
                Thread::Apply => self.plan.apply,
                Thread::Raft | Thread::Sockets => 20,
            };
            let mut delay = self.random.below(2 * mean);
            if self.random.one_in(100) {
                delay += self.random.below(5 * MILLISECOND);
            }
            self.after(delay, Event::Run(id, boot, thread));
        }
    }

    fn run(&mut self, id: u64, boot: u64, thread: Thread) {
        let is_awake = self.is_awake(id, boot);
        let runtime = self.runtime;
        let node = self.nodes.get_mut(&id).expect("a member");
        let Some(up) = node.up.as_mut().filter(|up| up.boot == boot) else { return };
        up.due[thread as usize] = false;
        if !is_awake {
            return;
        }
        match thread {
            Thread::Raft if up.is_syncing => {}
            Thread::Raft => self.take_inputs(id),
            Thread::Apply => self.apply(id),
            Thread::Sockets => {
                up.run_sockets(runtime);
                self.collect_answers(id);
            }
            Thread::Background => self.work(id),
        }
        self.carry(id);
        self.schedule(id);
    }

    fn take_inputs(&mut self, id: u64) {
        let up = self.nodes.get_mut(&id).and_then(|node| node.up.as_mut()).expect("awake");
        let is_tick_due = std::mem::take(&mut up.is_tick_due);
        up.spoil_inbox();
        if let Err(error) = up.raft.take_inputs(&mut up.turn, None, is_tick_due) {
            return self.stopped_by(id, "raft", &error.to_string());
        }
        self.cycle(id);
    }

    /// The first half of a cycle; the second comes when the log is synced.
    fn cycle(&mut self, id: u64) {
        let up = self.nodes.get_mut(&id).and_then(|node| node.up.as_mut()).expect("awake");
        if !up.raft.begin_cycle(&mut up.turn) {
            let ends = up.raft.end_turn(&mut up.turn);
            up.spoil_status();
            return if ends { self.left(id) } else { self.check_counted(id) };
        }
        up.is_syncing = true;
        let boot = up.boot;
        let mut delay = 50 + self.random.below(self.plan.sync);
        if self.nodes[&id].slow_until > self.now {
            delay += self.random.below(SECOND);
        }
        self.after(delay, Event::Sync(id, boot));
    }

    fn sync(&mut self, id: u64, boot: u64) {
        if self.nodes[&id].up.as_ref().is_none_or(|up| up.boot != boot) {
            return;
        }
        if !self.is_awake(id, boot) {
            let wait = self.nodes[&id].paused_until - self.now;
            return self.after(wait, Event::Sync(id, boot));
        }
        let up = self.nodes.get_mut(&id).and_then(|node| node.up.as_mut()).expect("awake");
        up.is_syncing = false;
        if let Err(error) = up.raft.end_cycle(&mut up.turn) {
            return self.stopped_by(id, "log", &error.to_string());
        }
        self.cycle(id);
        self.carry(id);
        self.schedule(id);
    }

    fn apply(&mut self, id: u64) {
        let up = self.nodes.get_mut(&id).and_then(|node| node.up.as_mut()).expect("awake");
        let Some(input) = up.next_to_apply() else { return };
        if let ApplyInput::Committed(entries) = &input {
            for entry in entries {
                let (index, term) = (entry.index.0, entry.term.0);
                if entry.change.is_some() {
                    let node = self.nodes.get_mut(&id).expect("a member");
                    node.changed_ever = node.changed_ever.max(index);
                }
                self.agree(id, index, term, entry.payload.clone());
            }
        }
        if let ApplyInput::Install { applied, .. } = &input {
            let node = self.nodes.get_mut(&id).expect("a member");
            node.applied_ever = node.applied_ever.max(applied.index.0);
            self.count("snapshot installed");
            self.tell(|| format!("{id} installs a snapshot"), [4, id, 0]);
        }
        let up = self.nodes.get_mut(&id).and_then(|node| node.up.as_mut()).expect("awake");
        let input = up.spoil(id, input);
        match up.apply(input) {
            Ok(()) => self.check_ends(id),
            Err(error) => self.stopped_by(id, "apply", &error.to_string()),
        }
    }

    /// All members agree on every entry.
    fn agree(&mut self, id: u64, index: u64, term: u64, payload: Bytes) {
        self.tell(|| format!("{id} applies {index}/{term}"), [5, index, term]);
        let node = self.nodes.get_mut(&id).expect("a member");
        node.applied_ever = node.applied_ever.max(index);
        let agreed = Agreed { term, payload, at: self.now };
        match self.history.log.get(&index) {
            None => {
                let payload = agreed.payload.clone();
                self.history.log.insert(index, agreed);
                match self.roster.take(index, &payload) {
                    Ok(None) => {}
                    Ok(Some(step)) => self.agreed_change(id, index, term, &step),
                    Err(wrong) => self.violations.push(format!("members: {wrong}")),
                }
            }
            Some(known) if (known.term, &known.payload) == (term, &agreed.payload) => {}
            Some(known) => self
                .violations
                .push(format!("{id} applies {agreed:?} at {index}, where {known:?} was agreed")),
        }
    }

    fn work(&mut self, id: u64) {
        let up = self.nodes.get_mut(&id).and_then(|node| node.up.as_mut()).expect("awake");
        match up.work() {
            Ok(varve_lsm::Work::Idle) => up.services.background.rest(),
            Ok(work) => {
                let name = match work {
                    varve_lsm::Work::Flushed => "memtable flushed",
                    varve_lsm::Work::Merged => "tables merged",
                    _ => "files removed",
                };
                self.count(name);
            }
            Err(error) => self.stopped_by(id, "background", &error.to_string()),
        }
    }
}
