//! What happens to a cluster while clients work: a plan drawn from a seed, and its execution.
//!
//! One idea: a plan is a list of phases; in each, the network has one fault and the processes have
//! one, for some time, and then all is whole again. So a plan is readable, each phase stands for
//! itself, and two faults at once are the rule. Victims are roles (the leader, another), looked up
//! when the phase begins, for no plan can know who will lead.
//!
//! The same seed gives the same plan; what comes of it is up to the machine.

use std::time::Duration;

use varve_disk::sim::Random;

use crate::group::Group;
use crate::network::{Link, address};

/// A member, by what it is when something befalls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Who leads; the first, if nobody does.
    Leader,
    /// The n-th of the others, counted behind the leader.
    Other(usize),
}

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Nothing.
    Whole,
    /// One member and all others do not hear each other. Clients reach all.
    Isolated(Victim),
    /// So, and clients do not reach it, either.
    Unplugged(Victim),
    /// It hears the others and they do not hear it.
    Mute(Victim),
    /// They hear it and it does not hear them.
    Deaf(Victim),
    /// Leader and one other do not hear each other; a third hears both.
    Between(Victim),
    /// Members hear only their neighbours in a row.
    Chain,
    /// Every packet between members is late, by up to so many milliseconds more, and some are lost.
    Slow {
        /// Milliseconds.
        delay: u64,
        /// Milliseconds.
        jitter: u64,
        /// Of a thousand.
        lost_per_mille: u64,
    },
}

/// What befalls processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// Nothing.
    None,
    /// SIGKILL; started again when the phase ends.
    Kill(Victim),
    /// SIGKILL, and started again at once.
    Restart(Victim),
    /// SIGTERM; started again when the phase ends.
    Terminate(Victim),
    /// SIGSTOP; SIGCONT when the phase ends.
    Pause(Victim),
    /// All are killed and started again, as when the power fails.
    PowerLoss,
    /// One after the other is ended and started, and serves before the next one goes.
    Rolling,
    /// It is removed, and a new one is added in its place.
    Replace(Victim),
}

/// Some time of trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Of the network.
    pub wire: Wire,
    /// Of processes.
    pub blow: Blow,
    /// How long.
    pub lasts: Duration,
    /// And how long all is whole after it.
    pub rest: Duration,
}

/// A run, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Members.
    pub members: usize,
    /// Flags of all members.
    pub flags: Vec<String>,
    /// What happens.
    pub phases: Vec<Phase>,
}

impl Plan {
    /// The plan of a seed; `pause_seconds_max` bounds how long a leader is frozen.
    pub fn draw(seed: u64, phases: usize, pause_seconds_max: u64) -> Plan {
        let mut random = Random::new(seed);
        let members = if random.one_in(3) { 5 } else { 3 };
        let (heartbeat, election) = [(100, 1_000), (50, 500), (30, 300)][random.below(3) as usize];
        let mut flags = vec![
            format!("--heartbeat-interval={heartbeat}"),
            format!("--election-timeout={election}"),
        ];
        // Small numbers make snapshots common; etcd keeps 5000 entries behind one anyway.
        flags.push(format!("--snapshot-count={}", [60, 500, 10_000][random.below(3) as usize]));
        if seed % 2 == 1 {
            flags.push("--experimental-varve-lease-reads".to_owned());
        }
        let phase = |_| Phase::draw(&mut random, members, pause_seconds_max);
        let phases = (0..phases).map(phase).collect();
        Plan { members, flags, phases }
    }
}

impl Phase {
    fn draw(random: &mut Random, members: usize, pause_seconds_max: u64) -> Phase {
        let mut victim = || match random.below(members as u64) {
            0 | 1 => Victim::Leader,
            other => Victim::Other(other as usize - 2),
        };
        let (first, second) = (victim(), victim());
        let mut wire = match random.below(11) {
            0..=2 => Wire::Whole,
            3 => Wire::Isolated(first),
            4 => Wire::Unplugged(first),
            5 => Wire::Mute(first),
            6 => Wire::Deaf(first),
            7 => Wire::Between(first),
            8 => Wire::Chain,
            kind => Wire::Slow {
                delay: random.below(40),
                jitter: random.below(40),
                lost_per_mille: if kind == 9 { 0 } else { random.below(150) },
            },
        };
        let blow = match random.below(11) {
            0..=2 if wire != Wire::Whole => Blow::None,
            0 | 3 => Blow::Kill(second),
            1 | 4 => Blow::Restart(second),
            2 | 5 => Blow::Terminate(second),
            6 | 7 => Blow::Pause(second),
            8 => Blow::PowerLoss,
            9 => Blow::Rolling,
            _ => Blow::Replace(second),
        };
        // What needs a working cluster at every step gets one, if a slow one.
        if matches!(blow, Blow::Rolling | Blow::Replace(_)) && !matches!(wire, Wire::Slow { .. }) {
            wire = Wire::Whole;
        }
        let mut lasts = Duration::from_millis(300 + random.below(2_700));
        if matches!(blow, Blow::Pause(_)) && random.one_in(4) {
            lasts = lasts.max(Duration::from_secs(random.below(pause_seconds_max + 1)));
        }
        Phase { wire, blow, lasts, rest: Duration::from_millis(random.below(1_500)) }
    }

    /// Makes it happen, and everything whole again. Gives a line that says what was done to whom.
    ///
    /// # Panics
    /// If the cluster does not do what it must be able to.
    pub fn carry_out(&self, group: &mut Group<'_>) -> String {
        let leader = group.leader();
        let find = |victim: Victim| match victim {
            Victim::Leader => leader.unwrap_or(0),
            Victim::Other(nth) => (leader.unwrap_or(0) + 1 + nth) % group.places.len(),
        };
        let (wire_victim, blow_victim) =
            (self.wire.victim().map(find), self.blow.victim().map(find));
        self.wire.set(group, wire_victim.unwrap_or(0));
        let done = format!("{self:?}: leader {leader:?}, {wire_victim:?}, {blow_victim:?}");
        let victim = blow_victim.unwrap_or(0);
        match self.blow {
            Blow::None => {}
            Blow::Kill(_) => group.kill(victim),
            Blow::Restart(_) => {
                group.kill(victim);
                group.revive(victim);
            }
            Blow::Terminate(_) => group.terminate(victim),
            Blow::Pause(_) => group.pause(victim),
            Blow::PowerLoss => {
                (0..group.places.len()).for_each(|number| group.kill(number));
                (0..group.places.len()).for_each(|number| group.revive(number));
            }
            Blow::Rolling => {
                for number in 0..group.places.len() {
                    group.terminate(number);
                    group.revive(number);
                    group.places[number].server.wait_ready();
                }
            }
            Blow::Replace(_) => {
                group.replace(victim);
                group.places[victim].server.wait_ready();
            }
        }
        std::thread::sleep(self.lasts);
        group.revive_all();
        std::thread::sleep(self.rest);
        done
    }
}

impl Blow {
    fn victim(self) -> Option<Victim> {
        match self {
            Blow::Kill(victim)
            | Blow::Restart(victim)
            | Blow::Terminate(victim)
            | Blow::Pause(victim)
            | Blow::Replace(victim) => Some(victim),
            Blow::None | Blow::PowerLoss | Blow::Rolling => None,
        }
    }
}

impl Wire {
    fn victim(self) -> Option<Victim> {
        match self {
            Wire::Isolated(victim)
            | Wire::Unplugged(victim)
            | Wire::Mute(victim)
            | Wire::Deaf(victim)
            | Wire::Between(victim) => Some(victim),
            Wire::Whole | Wire::Chain | Wire::Slow { .. } => None,
        }
    }

    /// Sets the links; `victim` is a member.
    pub fn set(self, group: &Group<'_>, victim: usize) {
        let (network, members) = (group.network, group.places.len());
        let cut = Link { is_cut: true, ..Link::default() };
        // Node 0 is the clients'.
        let victim_node = victim + 1;
        for from in 0..=members {
            for to in (0..=members).filter(|to| *to != from) {
                let is_peer = from != 0 && to != 0;
                let touches = from == victim_node || to == victim_node;
                let link = match self {
                    Wire::Isolated(_) if touches && is_peer => cut,
                    Wire::Unplugged(_) if touches => cut,
                    Wire::Mute(_) if from == victim_node && is_peer => cut,
                    Wire::Deaf(_) if to == victim_node && is_peer => cut,
                    Wire::Between(_) => {
                        let next = victim_node % members + 1;
                        let pair = [victim_node, next];
                        if pair.contains(&from) && pair.contains(&to) {
                            cut
                        } else {
                            Link::default()
                        }
                    }
                    Wire::Chain if is_peer && from.abs_diff(to) > 1 => cut,
                    Wire::Slow { delay, jitter, lost_per_mille } if is_peer => Link {
                        is_cut: false,
                        delay: Duration::from_millis(delay),
                        jitter: Duration::from_millis(jitter),
                        lost_per_mille,
                    },
                    _ => Link::default(),
                };
                network.set(from, to, link);
            }
        }
    }
}

/// The addresses of a plan's nodes, for who reads logs.
pub fn who_is_where(members: usize) -> String {
    let place = |number: usize| format!("m{number} is {}", address(number + 1));
    (0..members).map(place).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan_and_seeds_reach_every_kind() {
        assert_eq!(Plan::draw(7, 5, 30), Plan::draw(7, 5, 30));
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..100 {
            for phase in Plan::draw(seed, 5, 30).phases {
                for text in [format!("{:?}", phase.wire), format!("{:?}", phase.blow)] {
                    kinds.insert(text.split(['(', ' ']).next().expect("a word").to_owned());
                }
            }
        }
        assert_eq!(kinds.len(), 16, "{kinds:?}");
    }
}
