//! Leaders on their own: troubles that let a member believe that it leads while others have another
//! leader, or could soon have one.
//!
//! One idea: such a member is found out only by who asks it in the few seconds in which it does not
//! know, and random clients seldom meet random troubles there. So each of these troubles brings its
//! own ([`Step::Probe`]): somebody writes elsewhere, then asks it what only a leader may answer.

use varve_api::etcdserverpb::{LeaseGrantRequest, PutRequest, RangeRequest};

use crate::carry::Late;
use crate::history::Request;
use crate::plan::{MILLISECOND, Micros, SECOND};
use crate::world::{Event, World};

/// The client of these questions: none of the plan's, so that it asks nothing else.
pub const PROBER: usize = usize::MAX - 1;
/// Questions of one trouble.
const PROBES: u64 = 16;

/// What follows in a trouble that has begun.
pub enum Step {
    /// Somebody writes elsewhere and asks this member, and again after a pause.
    Probe { leader: u64, left: u64, pause: Micros },
    /// Somebody asks this member.
    Ask { leader: u64 },
    /// These voters start again, and do not hear the leader any more.
    Restart { leader: u64, voters: Vec<u64> },
}

impl World<'_> {
    /// A leader sleeps, and mostly hears nobody when it awakes.
    pub fn sleep_as_leader(&mut self) {
        let Some(leader) = self.any_leader() else { return };
        if !self.random.one_in(3) {
            self.everybody_but(leader).into_iter().for_each(|id| self.cut_off(leader, id));
        }
        let asleep = 3 * SECOND / 2 + self.random.below(8 * SECOND);
        self.nodes.get_mut(&leader).expect("a member").paused_until = self.now + asleep;
        self.after(asleep, Event::Resume(leader));
        self.probe(leader, asleep.saturating_sub(3 * SECOND / 2), 3 * SECOND);
    }

    /// What is sent to a leader takes longer and longer; then nobody hears it any more, while words
    /// of before still come in.
    pub fn hear_late(&mut self) {
        let Some(leader) = self.any_leader() else { return };
        let heard = SECOND + self.random.below(9 * SECOND);
        let (since, mute_from) = (self.now, self.now + heard);
        self.network.late = Some(Late { leader, since, mute_from, until: mute_from + heard });
        self.probe(leader, heard / 2, 2 * heard);
    }

    /// As many voters as a leader needs go on hearing it until they start again all at once; the
    /// others would have another leader soon.
    pub fn restart_voters(&mut self) {
        let Some(leader) = self.any_leader() else { return };
        let mut voters = self.everybody_but(leader);
        let first = self.random.below(voters.len().max(1) as u64) as usize;
        voters.rotate_left(first);
        let others = voters.split_off(voters.len() / 2);
        others.into_iter().for_each(|id| self.cut_off(leader, id));
        // When the others are about to campaign, with logs that lack nothing yet.
        let delay = SECOND + self.random.below(SECOND);
        self.after(delay - 100 * MILLISECOND, Event::Lone(Step::Ask { leader }));
        self.after(delay, Event::Lone(Step::Restart { leader, voters }));
        self.probe(leader, delay, SECOND);
    }

    /// Goes on with a trouble.
    pub fn lone_step(&mut self, step: Step) {
        if self.is_ending {
            return;
        }
        match step {
            Step::Probe { leader, left, pause } => {
                self.ask_both(leader, left);
                if left > 1 {
                    let next = Step::Probe { leader, left: left - 1, pause };
                    self.after(pause, Event::Lone(next));
                }
            }
            Step::Ask { leader } => _ = self.send_request(PROBER, leader, read()),
            Step::Restart { leader, voters } => {
                let runtime = self.runtime;
                for id in voters {
                    self.cut_off(leader, id);
                    self.nodes.get_mut(&id).expect("a member").kill(runtime);
                    let delay = self.random.below(20 * MILLISECOND);
                    self.after(delay, Event::Start(id));
                }
            }
        }
    }

    /// Who leads and is awake, if anybody.
    pub fn any_leader(&self) -> Option<u64> {
        let leads = self.nodes.values().find(|node| {
            let up = node.up.as_ref();
            node.paused_until <= self.now && up.is_some_and(|up| up.context.cluster.is_leader())
        });
        leads.map(|node| node.id)
    }

    pub fn everybody_but(&self, id: u64) -> Vec<u64> {
        self.nodes.keys().copied().filter(|other| *other != id).collect()
    }

    /// Cuts both directions.
    pub fn cut_off(&mut self, leader: u64, other: u64) {
        self.cut(leader, other);
        self.cut(other, leader);
    }

    fn probe(&mut self, leader: u64, delay: Micros, time: Micros) {
        let step = Step::Probe { leader, left: PROBES, pause: time / PROBES };
        self.after(delay, Event::Lone(step));
    }

    fn ask_both(&mut self, leader: u64, left: u64) {
        let others = self.everybody_but(leader);
        let Some(any) = others.len().checked_sub(1) else { return };
        let other = others[self.random.below(any as u64 + 1) as usize];
        let number = self.history.operations.len();
        let lease = self.known.leases.last().copied();
        let write = match left.is_multiple_of(8) || lease.is_none() {
            true => {
                let grant = LeaseGrantRequest { id: 1_000 + number as i64, ttl: self.plan.ttl };
                Request::Grant(grant)
            }
            false => Request::Put(PutRequest {
                key: crate::client::key(0),
                value: format!("p{number}").into(),
                ..PutRequest::default()
            }),
        };
        self.send_request(PROBER, other, write);
        let question = match lease.filter(|_| left.is_multiple_of(2)) {
            Some(lease) => Request::KeepAlive(lease),
            None => read(),
        };
        self.send_request(PROBER, leader, question);
    }
}

fn read() -> Request {
    Request::Range(RangeRequest { key: crate::client::key(0), ..RangeRequest::default() })
}
