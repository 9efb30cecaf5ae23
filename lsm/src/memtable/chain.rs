//! The past of a chain, in logarithmic steps: versions of a key, and sums of a span.
//!
//! Both are chains of states, newest first, and long ones: a key that changes all the time has some
//! 300,000 versions in one memtable. Beside the state before, each has a *jump* (Myers, "An
//! applicative random-access stack", 1983), whose length depends on its position only. A jump of
//! level n leads 2^n - 1 states back: one of level 1 to the state before, a longer one over that
//! and then over two jumps of the level below. So a state that is `n` steps back is reached in
//! O(log n) of them.
//!
//! The writer finds the jump of a new state from the newest one, and writes it with the state;
//! nothing changes afterwards, and readers need no more than for `previous`.
//!
//! Invariant: ordinals and revisions fall along a chain.

/// When a state began.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub ordinal: u64,
    pub main: u64,
}

/// One of a chain; a pointer to it.
pub(super) trait State: Copy {
    /// When it began.
    fn moment(self) -> Moment;
    /// The state before.
    fn previous(self) -> Option<Self>;
    /// The target of the jump that [`jump_over`] gave.
    fn jump(self) -> Option<Self>;
    /// The level of the jump; 0 for the oldest state, which has none.
    fn jump_level(self) -> u8;
}

/// The state after the records below `ordinal` with `main <= at`; `newest` is the present one.
#[inline]
pub(super) fn state_at<S: State>(newest: Option<S>, at: u64, ordinal: u64) -> Option<S> {
    let newest = newest?;
    if is_covered(newest, at, ordinal) { Some(newest) } else { state_before(newest, at, ordinal) }
}

/// As [`state_at`], in the past of a state that is not covered.
fn state_before<S: State>(mut state: S, at: u64, ordinal: u64) -> Option<S> {
    loop {
        // What is not covered there is not covered on the way either.
        if let Some(jump) = state.jump()
            && !is_covered(jump, at, ordinal)
        {
            state = jump;
            continue;
        }
        let previous = state.previous()?;
        if is_covered(previous, at, ordinal) {
            return Some(previous);
        }
        state = previous;
    }
}

fn is_covered(state: impl State, at: u64, ordinal: u64) -> bool {
    #[cfg(all(test, not(varve_loom)))]
    super::tests::LOOKS.set(super::tests::LOOKS.get() + 1);
    let moment = state.moment();
    moment.ordinal < ordinal && moment.main <= at
}

/// The jump, and its level, of the state that follows `newest`: over the two jumps before it if
/// they are equally long, else to `newest` itself.
pub(super) fn jump_over<S: State>(newest: Option<S>) -> (Option<S>, u8) {
    let Some(newest) = newest else { return (None, 0) };
    match newest.jump() {
        Some(first) if first.jump_level() == newest.jump_level() => {
            (first.jump(), newest.jump_level() + 1)
        }
        _ => (Some(newest), 1),
    }
}
