//! One seed from its beginning to its verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::Runtime;

use crate::check;
use crate::history::History;
use crate::node::Shared;
use crate::plan::{Micros, Plan, SECOND};
use crate::world::{Counts, Event, World};

/// How long clients work, at most.
pub const WORK_SECONDS: u64 = 180;

/// What came of a seed.
pub struct Report {
    pub seed: u64,
    /// What was wrong; empty if nothing.
    pub violations: Vec<String>,
    pub counts: Counts,
    pub operations: usize,
    /// Simulated time.
    pub time: Micros,
    /// Equal for equal runs.
    pub digest: u64,
    pub history: History,
}

/// What seeds of one thread share.
pub struct Player {
    shared: Shared,
}

impl Player {
    pub fn new() -> Self {
        Self { shared: Shared::new() }
    }

    /// Plays a seed. A panic is a violation too.
    pub fn play(&self, plan: &Plan, prints: bool) -> Report {
        let played = catch_unwind(AssertUnwindSafe(|| self.play_to_end(plan, prints)));
        played.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Report {
                seed: plan.seed,
                violations: vec![format!("panic: {}", text.unwrap_or_default())],
                counts: Counts::new(),
                operations: 0,
                time: 0,
                digest: 0,
                history: History::default(),
            }
        })
    }

    fn play_to_end(&self, plan: &Plan, prints: bool) -> Report {
        crate::marks::begin(plan.plant.and_then(crate::plant::bug_within));
        let runtime = runtime();
        let mut world = World::new(plan.clone(), &runtime, &self.shared, prints);
        (1..=plan.members).for_each(|id| world.after(0, Event::Start(id)));
        for client in 0..plan.clients {
            let delay = 3 * SECOND + world.random.below(SECOND);
            world.after(delay, Event::Ask(client));
        }
        world.make_watchers();
        world.after(5 * SECOND, Event::Trouble);
        world.after(6 * SECOND, Event::Change);
        world.run_until(WORK_SECONDS * SECOND);
        if world.violations.is_empty() {
            world.end();
        }
        let World { mut violations, history, mut counts, now, trace, nodes, watchers, .. } = world;
        // Their tasks end within the runtime that they were made in.
        let inside = runtime.enter();
        drop((nodes, watchers));
        drop(inside);
        if violations.is_empty() {
            violations = check::violations(&history);
        }
        crate::marks::collect(&history, &mut counts);
        let operations = history.operations.len();
        let digest = trace.digest;
        Report { seed: plan.seed, violations, counts, operations, time: now, digest, history }
    }
}

/// Where members' tasks run: its time stands still until it is moved.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets needs nothing")
}
