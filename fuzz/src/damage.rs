//! Damage to the files of a directory, as a tape describes it.
//!
//! One idea: a fuzzer cannot guess checksums, so it starts from good files and does what disks,
//! crashes and people do to them: overwritten, zeroed and misdirected bytes, files that are cut,
//! removed or swapped.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::input::Input;

/// Files by path.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Most changes to one set of files.
const CHANGES_MAX: usize = 32;

/// Damages `files` as the tape says.
pub fn damage(files: &mut Files, input: &mut Input) {
    let paths: Vec<PathBuf> = files.keys().cloned().collect();
    for _ in 0..CHANGES_MAX {
        if input.is_over() || paths.is_empty() {
            return;
        }
        let kind = input.below(7);
        let path = &paths[input.below(paths.len().min(256))];
        let Some(content) = files.get_mut(path) else { continue };
        let at = place(input, content.len());
        match kind {
            0 => overwrite(content, at, &[input.byte()]),
            1 => {
                let length = input.below(64);
                overwrite(content, at, input.take(length));
            }
            2 => content.truncate(at),
            3 => {
                let length = usize::from(input.u16());
                overwrite(content, at, &vec![0; length]);
            }
            4 => {
                let to = place(input, content.len());
                let length = usize::from(input.u16()).min(content.len() - at);
                let copied = content[at..at + length].to_vec();
                overwrite(content, to, &copied);
            }
            5 => drop(files.remove(path)),
            _ => {
                let other = &paths[input.below(paths.len().min(256))];
                if let Some(content) = files.get(other).cloned() {
                    files.insert(path.clone(), content);
                }
            }
        }
    }
}

/// A place in a file of this length, in steps that let two bytes reach all of it, and fine steps.
fn place(input: &mut Input, length: usize) -> usize {
    let coarse = usize::from(input.u16()) * length / usize::from(u16::MAX);
    (coarse / 8 * 8 + usize::from(input.byte() % 8)).min(length)
}

/// Replaces what is there; never makes a file longer.
fn overwrite(content: &mut [u8], at: usize, with: &[u8]) {
    let length = with.len().min(content.len() - at);
    content[at..at + length].copy_from_slice(&with[..length]);
}
