//! A failing seed with less in it: troubles, changes of the
//! members and operations are left out as long as it still fails.
//!
//! One idea (delta debugging, Zeller and Hildebrandt, 2002): leave out half of what is left, then
//! quarters, and so on to single ones, and keep every leaving out after which the same promise is
//! still broken. Leaving something out changes everything that is drawn later, so this is a search, and
//! what it finds is a seed's relative, not a part of it.

use std::collections::BTreeSet;

use crate::plan::{Micros, Plan};
use crate::seed::Player;

/// What is not played of a plan, by number from 0.
#[derive(Clone, Debug, Default)]
pub struct LeftOut {
    /// Troubles.
    pub troubles: BTreeSet<u64>,
    /// Operations.
    pub operations: BTreeSet<u64>,
    /// Changes of the members.
    pub changes: BTreeSet<u64>,
}

/// The plan with as much left out as so many plays find; `None` if nothing is wrong with it.
pub fn shorten(player: &Player, plan: &Plan, plays_max: usize) -> Option<Plan> {
    let promise = broken(player, plan)?;
    let mut search = Search { player, plan: plan.clone(), promise, plays_left: plays_max };
    // Without troubles most operations are not worth trying.
    search.halve(happened_max(plan.trouble), |left_out| &mut left_out.troubles);
    search.halve(happened_max(plan.change), |left_out| &mut left_out.changes);
    search.halve(plan.operations as u64, |left_out| &mut left_out.operations);
    Some(search.plan)
}

/// More than a seed has of what happens so often.
fn happened_max(mean: Micros) -> u64 {
    (2 * crate::seed::WORK_SECONDS * crate::plan::SECOND).checked_div(mean).unwrap_or(0)
}

struct Search<'a> {
    player: &'a Player,
    plan: Plan,
    promise: String,
    plays_left: usize,
}

impl Search<'_> {
    fn halve(&mut self, count: u64, kind: impl Fn(&mut LeftOut) -> &mut BTreeSet<u64>) {
        let mut size = count;
        while size > 0 {
            for from in (0..count).step_by(size as usize) {
                let mut shorter = self.plan.clone();
                let before = kind(&mut shorter.left_out).len();
                kind(&mut shorter.left_out).extend(from..count.min(from + size));
                let is_shorter = kind(&mut shorter.left_out).len() > before;
                if !is_shorter || self.plays_left == 0 {
                    continue;
                }
                self.plays_left -= 1;
                if broken(self.player, &shorter).is_some_and(|promise| promise == self.promise) {
                    self.plan = shorter;
                }
            }
            size /= 2;
        }
    }
}

/// The first word about what is wrong: a checker, mostly.
fn broken(player: &Player, plan: &Plan) -> Option<String> {
    let report = player.play(plan, false);
    let first = report.violations.first()?;
    Some(first.split([':', ' ']).find(|word| word.parse::<u64>().is_err())?.to_owned())
}
