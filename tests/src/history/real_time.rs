//! What ended before something began has a place before it: an acknowledged write is seen by every
//! read that begins afterwards, no read goes back behind another, no write is numbered before what
//! was answered already.
//!
//! Serializable reads may be old. But what one has shown, later operations know.

use super::{Asked, Operation, Told};

/// Holds places against real time; `placed` are the revisions of writes that took effect.
pub fn check(operations: &[Operation], placed: &[Option<i64>], violations: &mut Vec<String>) {
    let mut by_begin: Vec<usize> = (0..operations.len()).collect();
    by_begin.sort_by_key(|number| operations[*number].began);
    let mut by_end: Vec<usize> = by_begin.clone();
    by_end.retain(|number| operations[*number].told != Told::Nothing);
    by_end.sort_by_key(|number| operations[*number].ended);
    let mut ended = by_end.into_iter().peekable();
    // The newest revision that anybody knows, and from whom.
    let mut known: Option<(i64, usize)> = None;
    for number in by_begin {
        let operation = &operations[number];
        while let Some(other) = ended.next_if(|other| operations[*other].ended < operation.began) {
            let revision = operations[other].revision().expect("those told nothing are left out");
            if known.is_none_or(|(newest, _)| newest < revision) {
                known = Some((revision, other));
            }
        }
        let Some((newest, other)) = known else { continue };
        let is_late = match (&operation.asked, placed[number]) {
            (Asked::Read { is_serializable: true, .. }, _) => false,
            (_, Some(revision)) => revision <= newest,
            (_, None) => operation.revision().is_some_and(|revision| revision < newest),
        };
        if is_late {
            let other = &operations[other];
            violations.push(format!("{operation:?} began after the end of {other:?}"));
        }
    }
}
